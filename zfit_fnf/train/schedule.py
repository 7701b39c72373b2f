"""How long and how fast to train, and what is left of a training that could not go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.checks import integer, number
from ..densities.history import History
from ..densities.model import Model

__all__ = ["Schedule", "TrainingStopped", "checked_schedule"]

_MOST = 2**31 - 1  # of what is counted in 32 bits


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: Number of minibatch steps.
        batch_size: Events per step; of smaller samples every event comes several times.
        learning_rate: Peak of the learning rate: linear warm-up, then cosine decay to zero.
        warmup: Steps of the warm-up.
        weight_decay: Decoupled weight decay, as in AdamW.
        rotate_every: Steps between updates of the eigenbasis in which Adam runs (SOAP, arXiv:2409.11321); zero is plain
            Adam (or AdamW).
        averaging: Decay per step of the exponential average of the weights; zero uses the last weights.
        validation: Share of the events set aside to choose the best weights, at most 50 000 of them.
        patience: Stop after this many of the 20 evenly spaced validations without improvement; ``None`` never stops.
    """

    steps: int = 8000
    batch_size: int = 3072
    learning_rate: float = 1e-2
    warmup: int = 200
    weight_decay: float = 0.0
    rotate_every: int = 10
    averaging: float = 0.998
    validation: float = 0.1
    patience: int | None = 8

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "steps": integer(self.steps, "steps", low=1, high=_MOST),
            "batch_size": integer(self.batch_size, "batch_size", low=1, high=_MOST),
            "learning_rate": number(self.learning_rate, "learning_rate", above=0.0),
            "warmup": integer(self.warmup, "warmup", low=0),
            "weight_decay": number(self.weight_decay, "weight_decay", low=0.0),
            "rotate_every": integer(self.rotate_every, "rotate_every", low=0),
            "averaging": number(self.averaging, "averaging", low=0.0, high=1.0),
            "validation": number(self.validation, "validation", above=0.0, high=1.0),
            "patience": None if self.patience is None else integer(self.patience, "patience", low=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def learning_rates(self, first: int, count: int) -> np.ndarray:
        """Learning rates of the steps ``first .. first + count - 1``."""
        step = np.arange(first, first + count)
        decay = 0.5 * (1.0 + np.cos(np.pi * np.minimum(step / self.steps, 1.0)))
        return self.learning_rate * np.minimum((step + 1) / max(self.warmup, 1), 1.0) * decay


class TrainingStopped(RuntimeError):
    """A training that could not go on: its loss is no longer finite, the user interrupted it, or a process died.

    Attributes:
        model: What was trained so far, with the best weights; ``None`` if that is no better than nothing.
        step: Step at which it stopped, if that is known.
        learning_rate: Learning rate at that step.
        history: Record of the training up to that step.
    """

    def __init__(self, message: str, step: int | None = None, learning_rate: float | None = None):
        # All arguments go to the base class, so that the exception survives the way back from another process.
        super().__init__(message, step, learning_rate)
        self.step, self.learning_rate = step, learning_rate
        self.model: Model | None = None
        self.history: History | None = None

    def carry(self, model: Model | None, advice: str) -> None:
        """Take what was trained so far along, with a sentence on what to do with it."""
        self.model, self.args = model, (f"{self.args[0]}. {advice}", *self.args[1:])

    def __str__(self) -> str:
        return str(self.args[0])


def checked_schedule(schedule: Schedule | None, default: Schedule) -> Schedule:
    """The schedule that a user gives, or the default one."""
    if schedule is None:
        return default
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule is a Schedule, e.g. Schedule(steps=2000), got {schedule!r}")
    return schedule

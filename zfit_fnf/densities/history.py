"""What a trained model knows of its training; apart from the loop that trains, so that a stored model comes without it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .claims import OFF_BETWEEN, Claim

__all__ = ["Histories", "History", "label_of", "problems_of"]

_FEW_EVENTS = 1000.0
_LOW_SHARE = 0.1
_MISSED = 0.05
_PARTS = {"map": ("map", "is more than a movement of events"), "ratio": ("log-ratio", "moves events, too")}
_LOST = 1e-4  # nats per event at one standard deviation
_FITTED = 10_000  # events of the fits of which it is told how far they may be off
_STILL_FALLING = 1e-3  # nats per event in the last quarter of the steps, where the learning rate is down to a seventh


@dataclass(frozen=True)
class History:
    """Record of one training.

    Attributes:
        name: What was trained.
        steps: Steps at which the losses below were recorded.
        training: Mean negative log-density per event since the previous record, in nats.
        validation: The same on the validation events, in standardised coordinates.
        best_step: Step whose weights were kept; zero for those of the start.
        n_events: Training events.
        effective_size: Their Kish effective number, smaller than ``n_events`` for weighted samples.
        seconds: Wall time.
        stopped_early: Whether ``patience`` ended the training.
        initial: Validation loss of the weights of the start.
        interrupted: Whether the training was stopped before its end.
        fingerprint: Recognises the events, see :func:`zfit_fnf.samples.pairing.fingerprint`.
        notes: What was found while it was trained, in sentences.
        claim: What a response claims, if it was compared with the nominal events.
        conditions: Lowest and highest value of each condition of a density in the events, beyond which it is an extrapolation.

    Raises:
        ValueError: If the lists differ in length, or ``best_step`` is not among the steps.
    """

    name: str
    steps: list[int] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_step: int = 0
    n_events: int = 0
    effective_size: float = 0.0
    seconds: float = 0.0
    stopped_early: bool = False
    initial: float | None = None
    interrupted: bool = False
    fingerprint: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    claim: Claim | None = None
    conditions: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.training) == len(self.validation):
            raise ValueError(f"the history of {self.name!r} has lists of different lengths")
        if self.best_step not in (0, *self.steps):
            raise ValueError(f"the history of {self.name!r} has no record of step {self.best_step}, the best one")

    @property
    def best_validation(self) -> float:
        """Validation loss of the weights that were kept, at ``best_step``, minus the mean log-density in nats per event."""
        if self.best_step:
            return self.validation[self.steps.index(self.best_step)]
        return math.nan if self.initial is None else self.initial

    @property
    def gain(self) -> float:
        """How much the validation log-density has risen since the start, in nats per event."""
        return math.nan if self.initial is None else self.initial - self.best_validation

    @property
    def problems(self) -> list[str]:
        """What went wrong, one sentence each."""
        found = []
        if self.interrupted:
            found.append(f"interrupted after step {max(self.steps, default=0)}")
        # Of a nuisance without effect there is nothing to learn for a map, nor where a log-ratio does it.
        of_map = self.claim is None or self.claim.kind in ("map", "both")
        if of_map and self.steps and not self.interrupted and not self.gain > 0.0 and self.initial is not None:
            found.append("never better than its start: nothing was learned, or the learning rate is too large")
        if self._late_gain() > _STILL_FALLING:
            found.append(
                f"still improving at its end, by {self._late_gain():.2g} in the last quarter: train for longer"
            )
        if self.claim and self.claim.missed > _MISSED:
            what, more = _PARTS.get(self.claim.kind, _PARTS["map"])
            found.append(
                f"its {what} follows {1.0 - self.claim.missed:.0%} of the effect only, which {more}: train with ratio=True"
            )
        if self.claim and self.claim.lost > _LOST:
            found.append(
                f"its log-ratio is too fine to be followed, and may lack up to {self.claim.lost:.1g} nats per event at one "
                "standard deviation: leave out observables or conditions in which it is narrow, or use a density of its own "
                "for what is"
            )
        if self.claim and (off := self.claim.off_by(_FITTED)) > OFF_BETWEEN:
            several = len(self.claim.between_at) > 1
            what, _ = _PARTS.get(self.claim.kind, _PARTS["ratio"])
            more = "and at the other signs" if several else "and at the other sign, with order=3, the highest"
            found.append(
                f"what its {what} is between the samples is not known: {self.claim.where_off}, a fit to {_FITTED} events may "
                f"be off by up to {off:.1f} of its errors. Add samples there {more}"
            )
        if 0.0 < self.effective_size < _FEW_EVENTS:
            found.append(f"only {self.effective_size:.0f} effective events")
        elif self.n_events and self.effective_size < _LOW_SHARE * self.n_events:
            found.append(
                f"weights vary so much, or so many are negative, that {self.n_events} events count like "
                f"{self.effective_size:.0f}"
            )
        return found

    def _late_gain(self) -> float:
        """By how much the validation loss has fallen in the last quarter of the steps, up to the best one."""
        if self.stopped_early or self.interrupted or len(self.steps) < 4 or self.best_step != self.steps[-1]:
            return 0.0
        late = [loss for step, loss in zip(self.steps, self.validation, strict=True) if step >= 0.75 * self.steps[-1]]
        return late[0] - self.best_validation

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        events = f"{self.n_events} events (effective {self.effective_size:.0f})"
        if not self.steps:
            return "; ".join([f"{self.name}: not trained", events, *self.problems, *self.notes])
        early = ", stopped early" if self.stopped_early else ""
        problems = "".join(f"; {problem}" for problem in [*self.problems, *self.notes])
        return (
            f"{self.name}: validation log-density {-self.best_validation:.5f} nats/event at step {self.best_step} of "
            f"{self.steps[-1]}{early}; {events}, {self.seconds:.0f} s{problems}"
        )


class Histories(dict[str, History]):
    """Records of several trainings by name; prints as a table with a row for each."""

    def __str__(self) -> str:
        rows = [("", "events", "effective", "log-density", "gain", "kept step", "seconds")]
        for name, history in self.items():
            figures = ("not trained", "", "")
            if history.steps:
                kept = f"{history.best_step}/{history.steps[-1]}"
                figures = (f"{-history.best_validation:.5f}", f"{history.gain:.2g}", kept)
            rows.append(
                (name, f"{history.n_events}", f"{history.effective_size:.0f}", *figures, f"{history.seconds:.0f}")
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        notes = [f"{name}: {note}" for name, history in self.items() for note in history.notes]
        return "\n".join([*(line.rstrip() for line in lines), *problems_of(self), *notes])

    __repr__ = __str__


def problems_of(histories: Mapping[str, History]) -> list[str]:
    """What went wrong in any of several trainings, one sentence each with its name."""
    return [f"{name}: {problem}" for name, history in histories.items() for problem in history.problems]


def label_of(nuisances: Sequence[str]) -> str:
    """What a response of these nuisances is called, in histories and messages."""
    return " x ".join(nuisances)

"""What a trained model knows of its training; apart from the loop that trains, so that a stored model comes without it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class History:
    """Record of one training.

    Attributes:
        name: What was trained.
        steps: Steps at which the losses below were recorded.
        training: Mean negative log-density per event since the previous record, in nats.
        validation: The same on the validation events, in standardised coordinates.
        best_step: Step whose weights were kept.
        n_events: Training events.
        effective_size: Their Kish effective number, smaller than ``n_events`` for weighted samples.
        seconds: Wall time.
        stopped_early: Whether ``patience`` ended the training.
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

    @property
    def best_validation(self) -> float:
        """Smallest validation loss: minus the mean validation log-density, in nats per event."""
        return min(self.validation)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return asdict(self)

    def plot(self, ax: Any = None) -> Any:
        """Training and validation loss against the step.

        Args:
            ax: Matplotlib axes; default the current ones.

        Returns:
            The axes.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError('plots need matplotlib: pip install "zfit_fnf[plot]"') from error
        ax = plt.gca() if ax is None else ax
        ax.plot(self.steps, self.training, label="training")
        ax.plot(self.steps, self.validation, label="validation (averaged weights)")
        ax.axvline(self.best_step, color="grey", linestyle=":", label="kept")
        ax.set(xlabel="step", ylabel="negative log-density [nats/event]", title=self.name)
        ax.legend()
        return ax

    def __str__(self) -> str:
        early = ", stopped early" if self.stopped_early else ""
        return (
            f"{self.name}: validation log-density {-self.best_validation:.5f} nats/event "
            f"at step {self.best_step}{early}; {self.n_events} events (effective {self.effective_size:.0f}), {self.seconds:.0f} s"
        )

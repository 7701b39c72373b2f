"""The densities of one process, with the simulation that they were learned from."""

from __future__ import annotations

from dataclasses import dataclass

from ..samples import Simulation
from .deformation import Deformation, YieldRatio
from .flows import Flow
from .history import Histories

__all__ = ["FittedProcess"]


@dataclass(frozen=True, eq=False)
class FittedProcess:
    """A process that was learned from its simulation; made by :func:`zfit_fnf.train.fit_process`.

    Takes the place of its deformation, or of its flow if it has no nuisances: in an `FNFPDF` or `FlowPDF`, in `validate` and
    in `save`.

    Attributes:
        flow: The nominal density.
        deformation: The density with its nuisances; `None` for a process without variations.
        simulation: What they were learned from.
        folds: Pairs of a density and simulation that it has not seen: together the folds are all of the simulation. Such pairs
            judge the training, and calibrate a likelihood, without further events.
        replicas: Densities that were learned from bootstrap replicas of the simulation; their spread is its statistical error.
    """

    flow: Flow
    deformation: Deformation | None
    simulation: Simulation
    folds: tuple[tuple[Flow | Deformation, Simulation], ...] = ()
    replicas: tuple[Flow | Deformation, ...] = ()

    @property
    def model(self) -> Flow | Deformation:
        """The deformation, or the flow if there are no nuisances."""
        return self.flow if self.deformation is None else self.deformation

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances."""
        return () if self.deformation is None else tuple(self.deformation.nuisances)

    @property
    def sum_weights(self) -> float:
        """Nominal yield."""
        return float(self.flow.sum_weights or 0.0)

    @property
    def yields(self) -> dict[str, YieldRatio]:
        """Change of the yield with each nuisance, ready for `zfit_fnf.normsys`."""
        return {} if self.deformation is None else self.deformation.yields

    @property
    def history(self) -> Histories:
        """Records of all trainings, the nominal density first."""
        nominal = {} if self.flow.history is None else {self.flow.history.name: self.flow.history}
        return Histories(nominal | ({} if self.deformation is None else self.deformation.history))

    def __str__(self) -> str:
        more = {"fold(s)": len(self.folds), "bootstrap replica(s)": len(self.replicas)}
        beside = "".join(f", {count} {name}" for name, count in more.items() if count)
        return f"{self.model!r}{beside}\n\n{self.simulation}\n\n{self.history}"

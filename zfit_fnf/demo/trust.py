"""What the result of the demonstration is worth: a verdict on its densities, the calibrated fit, and what to simulate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import plotting
from ..calibration import CalibrationReport, SimulationPlan, calibrate, simulation_plan
from ..diagnostics import ValidationReport, validate
from ..loss import LogSpaceNLL
from ..plotting.style import figure
from ..samples import Simulation, Variation
from ..state import preserved
from .model import POINTS, TOY, DemoSettings, Model

__all__ = ["Trust", "draw_trust", "judge", "simulate_again"]


@dataclass(frozen=True, eq=False)
class Trust:
    """What simulation that no training has seen says of the fit.

    Attributes:
        verdict: Whether the densities are those of the simulation.
        calibration: The errors of the calibrated fit by what they come from; `None` where it is refused.
        plan: What more simulation would bring; likewise.
        refusal: Why there is no calibrated fit.
    """

    verdict: ValidationReport
    calibration: CalibrationReport | None = None
    plan: SimulationPlan | None = None
    refusal: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        parts = {"calibration": self.calibration, "plan": self.plan}
        return {
            "verdict": self.verdict.to_dict(),
            **{name: None if part is None else part.to_dict() for name, part in parts.items()},
            "refusal": self.refusal,
        }

    def __str__(self) -> str:
        rest = [f"not calibrated: {self.refusal}"] if self.calibration is None else [self.calibration, self.plan]
        return "\n\n".join(map(str, [f"verdict on the densities: {self.verdict}", *rest]))


def simulate_again(settings: DemoSettings, seed: int) -> dict[str, Simulation]:
    """Simulation of both processes that nothing is trained with."""

    def events(process: str, number: int) -> Any:
        point = list(POINTS.values())[number]
        return TOY.simulate(process, settings.n_held_out, point, seed=1000 * seed + 500 + number).astype(np.float32)

    moved = [(number, point) for number, point in enumerate(POINTS.values()) if point]
    (nominal,) = (number for number, point in enumerate(POINTS.values()) if not point)
    return {
        process: Simulation(
            events(process, nominal), tuple(Variation(events(process, number), at=point) for number, point in moved)
        )
        for process in TOY.processes
    }


def judge(nll: LogSpaceNLL, model: Model, settings: DemoSettings, *, seed: int, progress: bool) -> Trust:
    """Validate the densities, calibrate the fit, and plan the simulation; parameters are left as they are."""
    held_out = simulate_again(settings, seed)
    verdict = validate(nll, held_out, seed=seed, progress=progress)
    with preserved(nll):
        try:
            trusted = calibrate(nll, held_out, seed=seed)
        except RuntimeError as error:  # densities that are hardly trained
            return Trust(verdict, refusal=str(error))
        return Trust(verdict, trusted.report, simulation_plan(trusted, {}, model.mu))


def draw_trust(folder: Path, trust: Trust) -> None:
    """Predicted biases, and what the errors come from."""
    n_rows = int((trust.verdict.table["test"] == "closure").sum())
    with figure(folder / "closure.png", (8, 1.5 + 0.2 * n_rows)) as fig:
        plotting.closure(trust.verdict, ax=fig.subplots())
    if trust.calibration is not None:
        with figure(folder / "uncertainty_split.png", (6, 3)) as fig:
            plotting.uncertainty_split(trust.calibration, ax=fig.subplots())

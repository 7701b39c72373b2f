"""Which simulated sample to enlarge by how much, for the error that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.optimize import brentq

from ..arguments import parameter_of, positive
from ..loss import LogSpaceNLL
from ..samples import Simulation
from .closure import DRAWS
from .fit import calibrate
from .loss import CalibratedNLL
from .moments import Moments

__all__ = ["SimulationPlan", "simulation_plan"]

_ROUNDS = 5  # the best weights of the scores change with the sizes of the samples
_MOST = 1e6  # how much larger a sample may become
_MATTERS = 0.1  # of the part of an error that is due to simulation, above which a sample is printed


@dataclass(frozen=True, eq=False)
class SimulationPlan:
    """What more simulation would do to the error of a parameter, made by `simulation_plan`.

    Prints the samples to enlarge, or without a target those that matter.

    Attributes:
        parameter: Name of the parameter.
        error: Its error now.
        floor: Its error with endless simulation.
        target: The error that is wanted, or `None`.
        predicted: The error that the plan leads to.
        uncertainty: One standard deviation of that: slopes of the closure, from which it is predicted, are measured with the
            events that there are.
        table: One row for each sample, by ``process`` and ``sample``: its ``events``, the part of the error that it
            causes (``contribution``), the error if it alone were ``doubled``, by what ``factor`` the plan enlarges it, and how
            many ``more`` events these are.
    """

    parameter: str
    error: float
    floor: float
    target: float | None
    predicted: float
    uncertainty: float
    table: pd.DataFrame

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        names = "parameter", "error", "floor", "target", "predicted", "uncertainty"
        return {
            **{name: getattr(self, name) for name in names},
            "samples": self.table.reset_index().to_dict(orient="records"),
        }

    def __str__(self) -> str:
        aim = f", wanted {self.target:.4g}, predicted {self.predicted:.4g} " if self.target is not None else " "
        aim += f"(+- {self.uncertainty:.2g}, as slopes are known from so few events)"
        head = f"error of {self.parameter}: now {self.error:.4g}, with endless simulation {self.floor:.4g}{aim}"
        if self.target is None:
            share = self.table["contribution"] / max(float(np.linalg.norm(self.table["contribution"])), 1e-300)
            rows = self.table.loc[share > _MATTERS, ["events", "contribution", "doubled"]]
            rest = f"each cause less than {_MATTERS:.0%} of the part of the error that is due to simulation"
        else:
            rows, rest = self.table[self.table["more"] > 0], "are large enough"
        text = [head] + ([rows.to_string(float_format=lambda number: f"{number:.4g}")] if len(rows) else [])
        if left := len(self.table) - len(rows):
            text.append(f"the {'other ' if len(rows) else ''}{left} of {len(self.table)} samples {rest}")
        return "\n".join(text)


def simulation_plan(
    nll: LogSpaceNLL,
    simulations: Mapping[str, Simulation],
    poi: zfit.Parameter | str,
    *,
    target: float | None = None,
) -> SimulationPlan:
    """Which simulated sample to enlarge by how much, so that the error of a parameter becomes what is wanted.

    With the fewest further events: each sample grows with the square root of what one of its events contributes. Where samples
    are as small as the data, predictions are uncertain, ``uncertainty``, as the errors themselves are: simulate in steps, and
    plan again.

    Args:
        nll: The likelihood; one that is calibrated already is taken as it is.
        simulations: As for `calibrate`.
        poi: The parameter, or its name.
        target: Its error that is wanted; by default only what there is.

    Raises:
        ValueError: If the parameter was not fitted, or no amount of simulation leads to the target; as for `calibrate`.

    Example:
        >>> print(simulation_plan(nll, {"signal": signal, "background": background}, mu, target=0.05))
    """
    trusted = nll if isinstance(nll, CalibratedNLL) else calibrate(nll, simulations)
    poi = parameter_of(trusted, poi, "what the plan is for")
    calibration = trusted.calibration
    if poi not in calibration.params:
        raise ValueError(
            f"{poi.name!r} is no parameter that was calibrated; there are {[p.name for p in calibration.params]}"
        )
    index, moments = calibration.params.index(poi), calibration.moments
    unit, sources = calibration.errors[index], trusted.report.sources
    events = sources["events"].to_numpy(float)
    simulated = np.array([sample != DRAWS for _, sample in moments.sources])

    def error(factors: np.ndarray) -> float:
        return float(unit * np.sqrt(moments.with_sources(factors.tolist()).covariance[index, index]))

    ones = np.ones(len(events))
    now, floor = error(ones), error(np.where(simulated, np.inf, 1.0))
    factors = ones
    if target is not None:
        target = positive(target, "target=")
        if not target > floor:
            raise ValueError(
                f"an error of {target:.4g} of {poi.name!r} cannot be reached: with endless simulation it is {floor:.4g}"
            )
        factors = _fewest(moments, index, events, simulated, lambda f: error(f) - target) if target < now else ones
    table = pd.DataFrame(
        {
            "events": events.astype(int),
            "contribution": sources[poi.name].to_numpy(),
            "doubled": [error(ones + row) for row in np.eye(len(ones))],
            "factor": factors,
            "more": np.ceil((factors - 1.0) * events).astype(int),
        },
        index=sources.index,
    )
    predicted = error(factors)
    uncertainty = predicted * float(moments.doubt(moments.with_sources(factors.tolist()))[index])
    return SimulationPlan(poi.name, now, floor, target, predicted, uncertainty, table[simulated])


def _fewest(moments: Moments, index: int, events: np.ndarray, simulated: np.ndarray, missing: Any) -> np.ndarray:
    """Factors that reach the target with the fewest events in all; ``missing`` is positive where they do not."""
    factors = np.ones(len(events))
    for _ in range(_ROUNDS):
        planned = moments.with_sources(factors.tolist())
        # What an event of each sample contributes, now.
        variances = [planned.share(matrix)[index, index] for matrix in moments.sources.values()]
        of_slopes = [
            planned.of_slopes[source][index] if source in planned.of_slopes else 0.0 for source in moments.sources
        ]
        variances = np.array(variances) + factors * np.array(of_slopes)
        ratio = np.where(simulated, np.sqrt(np.maximum(variances, 0.0) / events), 0.0)

        def larger(scale: float, ratio: np.ndarray = ratio) -> np.ndarray:
            return np.clip(scale * ratio, 1.0, _MOST)

        low, high = 1.0 / ratio.max(), _MOST / ratio[ratio > 0].min()
        factors = larger(np.exp(brentq(lambda power: missing(larger(np.exp(power))), np.log(low), np.log(high))))
    return factors

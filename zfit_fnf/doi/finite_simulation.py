r"""What finite simulation does to the parameters of a profile.

The profile likelihood has its minimum where the sum of the profile's scores is zero, of scores in which the map moves along with
the parameters. The densities know mean scores of simulation as well as a sample of it does,

.. math::
    V = \sum_c n_c^2 \sum_{k, l} a_k a_l \, \mathrm{Cov}(\bar s_{ck}, \bar s_{cl}),

with the mean score :math:`\bar s_{ck}` of the simulated events of process ``c`` at its point ``k``, taken to data by the map, and
the weights :math:`a_k(\hat\nu)` by which points are interpolated. With the covariance ``C`` of the fit, for weighted data
the inverse of its Hessian, this is :math:`C V C` of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from ..calibration.averages import SimulatedMeans
from ..calibration.closure import expected_numbers
from ..calibration.processes import Process, processes_of
from ..loss import scores
from ..minimum import inverse_of
from .profiled import ProfiledFit
from .variations import MapVariation, scenarios

__all__ = ["FiniteSimulation", "finite_simulation"]


@dataclass(frozen=True, eq=False)
class FiniteSimulation:
    """Uncertainty of the parameters of a profile from finite simulation, made by `finite_simulation`.

    Attributes:
        table: One row for each sample, by ``process`` and ``sample``: its ``events``, what they are worth (``effective``), and by
            the name of each parameter the standard deviation that it causes.
        covariance: Of all samples together ``(P, P)``, in the order of the names; add it to that of the fit.
        names: The parameters.
    """

    table: pd.DataFrame
    covariance: np.ndarray
    names: tuple[str, ...]

    @property
    def errors(self) -> dict[str, float]:
        """Standard deviations from all samples together, by name."""
        return dict(zip(self.names, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            "names": list(self.names),
            "errors": self.errors,
            "covariance": self.covariance.tolist(),
            "samples": self.table.reset_index().to_dict(orient="records"),
        }

    def __str__(self) -> str:
        total = ", ".join(f"{name} {error:.3g}" for name, error in self.errors.items())
        table = self.table.to_string(float_format=lambda number: f"{number:.3g}")
        return f"standard deviations from finite simulation: {total}\n{table}"


def finite_simulation(
    profiled: ProfiledFit, simulations: Mapping[str, Any], result: FitResult | None = None
) -> FiniteSimulation:
    """How much the parameters of a profile would scatter if other simulated events of the same number had trained the densities.

    Finite simulation is not in the profile likelihood, and not in its replicas. The map follows the data, whatever the
    densities are: what it absorbs counts in neither of them.

    Args:
        profiled: The profile.
        simulations: By name of the process its `Simulation`, the events that have trained its densities.
        result: A fit of the profile's loss with a covariance; by default it is made here.

    Raises:
        TypeError: If the arguments are none of these.
        ValueError: If a learned process has no simulation, a nuisance no samples, or a sample too few events.

    Example:
        >>> print(finite_simulation(profiled, {"signal": signal, "background": background}))
    """
    maps = scenarios(profiled, result)
    best, names = maps.best, maps.eigenvariations.names
    params = [profiled.parameters[name] for name in names]
    directions = maps.eigenvariations.directions * maps.eigenvariations.deviations
    covariance = directions @ directions.T
    model, rows, total = profiled.pdf, {}, np.zeros((len(params),) * 2)
    with zfit.param.set_values(params, [best.values[name] for name in names]):
        loss = profiled.loss()
        processes = processes_of(loss, simulations, unseen=False)
        if profiled.fit.data.weights is not None:
            # What the minimum moves by is for the likelihood to say; errors are corrected for weights.
            covariance = inverse_of(np.asarray(loss.hessian(params)))
        n_data = None if model.is_extended else float(profiled.fit.data.sum_weights)
        numbers, _ = expected_numbers(model, params, n_data)
        for process, number in zip(processes, numbers, strict=True):
            if not process.points:
                continue
            events = [_Mapped(best, process, point.x) for point in process.points]
            means = SimulatedMeans.of(process.points, events, params)
            weights = process.interpolation.weights([float(one.value()) for one in process.params])
            for label, group in means.groups:
                own = covariance @ (number**2 * means.covariance(weights, group)) @ covariance
                total += own
                first = process.points[group[0]]
                errors = dict(zip(names, np.sqrt(np.maximum(np.diag(own), 0.0)).tolist(), strict=True))
                rows[process.name, label] = {"events": len(first.x), "effective": first.effective_size, **errors}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["process", "sample"])
    return FiniteSimulation(table, total, names)


class _Mapped:
    """Simulated events of a process where the best map takes them; called as `ScoredEvents` are."""

    def __init__(self, best: MapVariation, process: Process, x: np.ndarray):
        maps = best.transfer.transfer
        moved = pd.DataFrame(x, columns=list(best.pdf.obs))
        own = best.to_data(moved[[*maps.obs, *maps.cond]], process=process.name if maps.processes else None)
        self._pdf, self._x = best.pdf, moved.assign(**{name: own[name] for name in maps.obs}).to_numpy()

    def __call__(self, params: Sequence[zfit.Parameter]) -> np.ndarray:
        """Scores ``(n, P)`` of the profile likelihood where the parameters are."""
        return scores(self._pdf, self._x, params)

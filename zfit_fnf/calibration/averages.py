"""Mean scores: of simulated events, with their covariances, and of events drawn from the densities."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from scipy.special import logsumexp

from ..loss import EventDensity, drawn_events, scores
from ..pdf import columns, sum_components
from ..state import seeded
from .processes import Process, SimulatedPoint

__all__ = ["Draws", "SimulatedMeans", "at_point"]


def at_point(process: Process, k: int | None) -> AbstractContextManager[Any]:
    """Context in which the nuisances of a process are at one of its simulated points; `None` is where they are."""
    if k is None or not process.params:
        return nullcontext()
    return zfit.param.set_values(list(process.params), process.interpolation.points[k].tolist())


@dataclass(frozen=True, eq=False)
class SimulatedMeans:
    """Mean scores of the simulated samples of a process.

    Attributes:
        values: Mean of each sample, ``(K, P)``.
        covariances: Covariance ``(P, P)`` of the means of two samples that share generated events, and of each with itself.
        groups: Samples that are independent of the others, each with its name: those that share events with the nominal
            sample are one.
    """

    values: np.ndarray
    covariances: dict[tuple[int, int], np.ndarray]
    groups: list[tuple[str, list[int]]]

    @classmethod
    def of(
        cls, model: zfit.pdf.BasePDF, points: Sequence[SimulatedPoint], params: Sequence[zfit.Parameter]
    ) -> SimulatedMeans:
        """Of samples ``points``, where the parameters are."""
        together = [k for k, point in enumerate(points) if k == 0 or point.paired]
        name = "nominal" if len(together) == 1 else f"nominal and {len(together) - 1} variations of its events"
        groups = [(name, together), *((points[k].name, [k]) for k in range(len(points)) if k not in together)]
        values, covariances = np.zeros((len(points), len(params))), {}
        for _, rows in groups:
            residuals = {}
            for k in rows:
                one = scores(model, points[k].x, params)
                values[k] = points[k].shares @ one
                residuals[k] = points[k].shares[:, None] * (one - values[k])
            for pair in itertools.product(rows, rows):
                covariances[pair] = residuals[pair[0]].T @ residuals[pair[1]]
        return cls(values, covariances, groups)

    def covariance(self, weights: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """Covariance ``(P, P)`` of the weighted sum of means, or of some of them."""
        pairs = self.covariances if rows is None else itertools.product(rows, rows)
        return np.sum([weights[k] * weights[other] * self.covariances[k, other] for k, other in pairs], axis=0)


class Draws:
    """Events drawn from all components of a model at all points, each with its weight for each of these densities.

    Component and point are ``(index, k)``; ``k`` is ``None`` where the parameters are.
    """

    def __init__(self, x: np.ndarray, shares: dict[tuple[int, int | None], np.ndarray], values: np.ndarray):
        self.n, self._shares, self._values = len(x), shares, values

    @classmethod
    def of(
        cls,
        model: zfit.pdf.BasePDF,
        processes: Sequence[Process],
        params: Sequence[zfit.Parameter],
        n_draws: int,
        seed: int,
    ) -> Draws:
        keys = [(one.index, k) for one in processes for k in (None, *range(len(one.points)))]
        n, components = -(-n_draws // len(keys)), sum_components(model)
        by_index = {one.index: one for one in processes}
        with seeded(seed) as seeds:
            events = []
            for index, k in keys:
                with at_point(by_index[index], k):
                    events.append(drawn_events(model, components[index], n, next(seeds)))
        x = np.concatenate(events)
        densities = [EventDensity(one, np.asarray(columns(x, model.obs, one.obs))) for one in components]
        log_p = {}
        for index, k in keys:
            with at_point(by_index[index], k):
                log_p[index, k] = densities[index]()
        log_q = logsumexp(list(log_p.values()), axis=0)
        ratios = {key: np.exp(one - log_q) for key, one in log_p.items()}
        shares = {key: ratio / ratio.sum() for key, ratio in ratios.items()}
        return cls(x, shares, scores(model, x, params))

    def mean(self, index: int, k: int | None) -> np.ndarray:
        """Mean score ``(P,)`` of a component at a point."""
        return self._shares[index, k] @ self._values

    def residuals(self, index: int, k: int | None) -> np.ndarray:
        """What each event contributes to the deviation of that mean from the true one, ``(n, P)``."""
        return self._shares[index, k][:, None] * (self._values - self.mean(index, k))

    def information(self, numbers: np.ndarray, *, centred: bool) -> np.ndarray:
        """Fisher information ``(P, P)`` where the parameters are, for so many events of each component."""
        shares = np.sum([number * self._shares[index, None] for index, number in enumerate(numbers)], axis=0)
        values = self._values - (shares @ self._values / shares.sum() if centred else 0.0)
        return values.T @ (shares[:, None] * values)

"""Mean scores: of simulated events, with their covariances, and of events drawn from the densities."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from ..acceleration.chunks import SMALL_CHUNK, ExpandedKernel, expanded_kernel
from ..loss import Compiled, EventChunks, EventDensity, Term, drawn_events, event_kernel, kept_by, scores
from ..pdf import columns, sum_components
from ..state import seeds_from
from .moments import cautiously
from .processes import Process, SimulatedPoint

__all__ = ["Draws", "ScoredEvents", "SimulatedMeans", "at_point", "independent_groups", "scored_samples"]


_MEMORY = 1e9  # bytes for precomputed events of all samples
_TOGETHER = 2e7  # scores of all samples together, up to which they are computed at once


def at_point(process: Process, k: int | None) -> AbstractContextManager[Any]:
    """Context in which the nuisances of a process are at one of its simulated points; `None` is where they are."""
    if k is None or not process.params:
        return nullcontext()
    return zfit.param.set_values(list(process.params), process.interpolation.points[k].tolist())


class ScoredEvents:
    """Events whose scores are asked for again and again: what depends on them alone is computed once.

    Args:
        model: The model.
        x: Events ``(n, n_obs)`` in the order of its observables.
        share: Of the memory for precomputed events.
        extended: Whether the number of events is a part of the likelihood.
    """

    def __init__(self, model: zfit.pdf.BasePDF, x: np.ndarray, share: float, *, extended: bool | None = None):
        self._model, self._x, self._extended = model, x, extended
        self._chunks = EventChunks(_score_kernel(model), x, max_memory=share * _MEMORY)

    def __call__(self, params: Sequence[zfit.Parameter]) -> np.ndarray:
        """Scores ``(n, P)`` where the parameters are."""
        term = _score_kernel(self._model), self._chunks
        return scores(self._model, self._x, params, term, extended=self._extended)


def scored_samples(
    model: zfit.pdf.BasePDF,
    samples: Sequence[np.ndarray],
    n_params: int,
    share: float,
    *,
    extended: bool | None = None,
) -> list[Callable[[Sequence[zfit.Parameter]], np.ndarray]]:
    """For each of several samples what gives its scores, as `ScoredEvents` do.

    Args:
        model: The model.
        samples: Events of each, as there.
        n_params: Number of parameters.
        share: Of the memory for precomputed events, for each of them.
        extended: Whether the number of events is a part of the likelihood.
    """
    if sum(map(len, samples)) * n_params > _TOGETHER:
        return [ScoredEvents(model, x, share, extended=extended) for x in samples]
    whole = _Together(model, samples, share * len(samples), extended)
    return [functools.partial(whole, k) for k in range(len(samples))]


class _Together:
    """Scores of samples that fill chunks together: each of them alone would leave its last one half empty."""

    def __init__(self, model: zfit.pdf.BasePDF, samples: Sequence[np.ndarray], share: float, extended: bool | None):
        self._edges = np.cumsum([len(x) for x in samples])[:-1]
        self._events = ScoredEvents(model, np.concatenate(samples), share, extended=extended)
        self._known: tuple[list[float], list[np.ndarray]] | None = None

    def __call__(self, k: int, params: Sequence[zfit.Parameter]) -> np.ndarray:
        """Scores ``(n, P)`` of one of the samples, where the parameters are."""
        at = [float(one.value()) for one in params]
        if self._known is None or self._known[0] != at:
            self._known = at, np.split(self._events(params), self._edges)
        return self._known[1][k]


def _score_kernel(model: zfit.pdf.BasePDF) -> Any:
    """What gives the scores of events of a model, one for its life."""
    expanded = expanded_kernel(model)  # follows changed limits of parameters
    return event_kernel(model) if expanded is None else kept_by(model, "scores", lambda: _LinearKernel(expanded))


class _LinearKernel(Term):
    """Exact scores along all parameters at once, from polynomials of first order; in place of an `EventKernel`.

    Args:
        expanded: That of an accelerated likelihood.
    """

    def __init__(self, expanded: ExpandedKernel):
        super().__init__(expanded.params)
        self._expanded = expanded
        # XLA would take ten seconds longer to compile, and two microseconds less for each event.
        self.precompute = Compiled(expanded.precompute, xla=False)
        self._expand = Compiled(functools.partial(expanded.expand, linear=True, whole=True, single=True), xla=False)
        self._score = Compiled(expanded.scores_of_batch, xla=False)

    def chunk_size(self, n_events: int) -> int:
        """Events per call: one size for samples of all sizes, since each is compiled anew."""
        del n_events
        return SMALL_CHUNK

    def scores(self, directions: tf.Tensor, precomputed: Any, weights: tf.Tensor) -> tf.Tensor:
        """Derivatives ``(D, n)`` of every log-density along directions ``(D, P)``."""
        return self._expanded.in_batches(self._score, directions, self._expand(precomputed), weights)[0]


@dataclass(frozen=True, eq=False)
class SimulatedMeans:
    """Mean scores of the simulated samples of a process.

    Attributes:
        values: Mean of each sample, ``(K, P)``.
        covariances: Covariance ``(P, P)`` of the means of two samples that share generated events, and of each with itself.
        groups: Samples that are independent of the others, each with its name: those that share events with the nominal
            sample are one.
        residuals: What each event contributes to the deviation of the mean of its sample ``(n, P)``, of the groups that
            other processes have, too.
    """

    values: np.ndarray
    covariances: dict[tuple[int, int], np.ndarray]
    groups: list[tuple[str, list[int]]]
    residuals: dict[int, np.ndarray]

    @classmethod
    def of(
        cls,
        points: Sequence[SimulatedPoint],
        events: Sequence[Callable[[Sequence[zfit.Parameter]], np.ndarray]],
        params: Sequence[zfit.Parameter],
        *,
        shared: Container[str] = (),
    ) -> SimulatedMeans:
        """Of samples ``points`` with the scores of their ``events``, where the parameters are; ``shared`` are groups by name."""
        groups = independent_groups(points)
        values, covariances, kept = np.zeros((len(points), len(params))), {}, dict[int, np.ndarray]()
        for label, rows in groups:
            residuals = {}
            for k in rows:
                one = events[k](params)
                values[k] = points[k].shares @ one
                residuals[k] = points[k].shares[:, None] * (one - values[k])
            for pair in itertools.product(rows, rows):
                covariances[pair] = residuals[pair[0]].T @ residuals[pair[1]]
            if label in shared:
                kept |= residuals
        return cls(values, covariances, groups, kept)

    def believed(self, points: Sequence[SimulatedPoint], draws: Draws, index: int) -> SimulatedMeans:
        """The same with covariances that are not too small by the chance that large scores are missing in a sample."""
        raised = [
            cautiously(self.covariances[k, k] * n, *draws.scores_at(index, k), n)
            for k, n in enumerate(point.effective_size for point in points)
        ]
        covariances = {(k, other): raised[k] @ one @ raised[other].T for (k, other), one in self.covariances.items()}
        residuals = {k: one @ raised[k].T for k, one in self.residuals.items()}
        return replace(self, covariances=covariances, residuals=residuals)

    def covariance(self, weights: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """Covariance ``(P, P)`` of the weighted sum of means, or of some of them."""
        pairs = self.covariances if rows is None else itertools.product(rows, rows)
        return np.sum([weights[k] * weights[other] * self.covariances[k, other] for k, other in pairs], axis=0)


def independent_groups(points: Sequence[SimulatedPoint]) -> list[tuple[str, list[int]]]:
    """Samples of a process that are independent of the others, as in `SimulatedMeans`."""
    together = [k for k, point in enumerate(points) if k == 0 or point.paired]
    name = "nominal" if len(together) == 1 else f"nominal and {len(together) - 1} variations of its events"
    alone = [k for k in range(len(points)) if k not in together]
    labels = _distinct([name, *(points[k].name for k in alone)])
    return list(zip(labels, [together, *([k] for k in alone)], strict=True))


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that are all different: two samples at one point have one name, and each its own events."""
    found: list[str] = []
    for name in names:
        others = (f"{name} ({number})" for number in itertools.count(2))
        found.append(name if name not in found else next(other for other in others if other not in [*found, *names]))
    return found


class Draws:
    """Events drawn from all components of a model at all points, each with its weight for each of these densities.

    Component and point are ``(index, k)``; ``k`` is ``None`` where the parameters are. Events are drawn once; `move` follows
    the parameters.

    Args:
        model: The model.
        processes: Its components, with their points.
        n_draws: Number of events, about.
        seed: Seed of them.
        share: Of the memory for precomputed events.
        extended: Whether the number of events is a part of the likelihood.
    """

    def __init__(
        self,
        model: zfit.pdf.BasePDF,
        processes: Sequence[Process],
        n_draws: int,
        seed: int,
        share: float,
        *,
        extended: bool,
    ):
        self._processes = {one.index: one for one in processes}
        keys = [(one.index, k) for one in processes for k in (None, *range(len(one.points)))]
        components, each = sum_components(model), -(-n_draws // len(keys))
        events, seeds = [], seeds_from(seed)
        for index, k in keys:
            with at_point(self._processes[index], k):
                events.append(drawn_events(model, components[index], each, next(seeds)))
        x = np.concatenate(events)
        self.n = len(x)
        self._scored = ScoredEvents(model, x, share, extended=extended)
        self._densities = [EventDensity(one, np.asarray(columns(x, model.obs, one.obs))) for one in components]
        self._log_p: dict[tuple[int, int | None], np.ndarray] = {key: self._at(*key) for key in keys}
        self._log_q = logsumexp(list(self._log_p.values()), axis=0)
        self._shares: dict[tuple[int, int | None], np.ndarray] = {}
        self._values = np.zeros((len(x), 0))

    def move(self, params: Sequence[zfit.Parameter]) -> None:
        """Weights and scores of the events where the parameters are now."""
        for index, k in self._log_p:
            process = self._processes[index]
            # Yields do not change a density.
            others = [one for one in process.pdf.get_params(is_yield=False) if one not in process.params]
            if k is None or others:  # a density at a point of all its nuisances stays what it was
                self._log_p[index, k] = self._at(index, k)
        ratios = {key: np.exp(one - self._log_q) for key, one in self._log_p.items()}
        self._shares = {key: ratio / ratio.sum() for key, ratio in ratios.items()}
        self._values = self._scored(params)

    def _at(self, index: int, k: int | None) -> np.ndarray:
        with at_point(self._processes[index], k):
            return self._densities[index]()

    def mean(self, index: int, k: int | None) -> np.ndarray:
        """Mean score ``(P,)`` of a component at a point."""
        return self._shares[index, k] @ self._values

    def residuals(self, index: int, k: int | None) -> np.ndarray:
        """What each event contributes to the deviation of that mean from the true one, ``(n, P)``."""
        return self._shares[index, k][:, None] * (self._values - self.mean(index, k))

    def scores(self, numbers: np.ndarray, *, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``(n, P)`` where the parameters are, and weights ``(n,)`` for so many events of each component."""
        shares = np.sum([number * self._shares[index, None] for index, number in enumerate(numbers)], axis=0)
        return self._values - (shares @ self._values / shares.sum() if centred else 0.0), shares

    def scores_at(self, index: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``(n, P)`` without their mean at a point, and weights ``(n,)`` that sum to one."""
        return self._values - self.mean(index, k), self._shares[index, k]

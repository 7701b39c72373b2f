"""Map, log-ratio or both: what the events of a response confirm against the nominal events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.chunks import EVENTS, slices
from ..common.warning import warn
from ..densities.deformation import Deformation
from ..densities.monomials import Monomials
from ..densities.ratio import LogRatio, bounded
from .contrast import Contrast, ContrastSample
from .ratio import Learned, learn
from .sources import EventSource

__all__ = ["Candidates", "Choice", "choose"]

MAP_SIGNIFICANT = 5.0
"""Standard deviations by which held-out events have to speak for a map."""

_JUDGED = 50_000  # events of each sample that a judgement is learned from
_NEARLY_ALL = 0.95


@dataclass(frozen=True)
class Candidates:
    """What there is to choose from.

    Attributes:
        without: The density without this response: by the responses of its nuisances alone, if it is an interaction.
        with_map: The density with the trained map, ``None`` if none was trained.
        ratio: A new log-ratio.
        nominal: The nominal events.
        sources: Those of the variations that the response is learned from.
        held_out: Rows of the nominal events, then of the variations, that neither flow nor map were trained on.
        idle: Points of the nuisances at which the response vanishes.
    """

    without: Deformation
    with_map: Deformation | None
    ratio: LogRatio
    nominal: EventSource
    sources: Sequence[EventSource]
    held_out: Sequence[np.ndarray]
    idle: Sequence[Mapping[str, float]]

    @property
    def monomials(self) -> tuple[np.ndarray, np.ndarray]:
        """Monomials at the points ``(J, m)``, of those combinations ``(M, m)`` that vanish where they have to."""
        windows = {name: self.without.windows[name] for name in self.ratio.nuisances}
        monomials = Monomials([self.ratio], windows)

        def at(points: Sequence[Mapping[str, float]]) -> np.ndarray:
            rows = [monomials(tf.constant([point.get(name, 0.0) for name in windows], tf.float64)) for point in points]
            return np.array(rows).reshape(-1, len(monomials))

        _, sizes, rows = np.linalg.svd(at(self.idle))
        combinations = rows[int(np.sum(sizes > 1e-9)) :].T
        return at([source.at for source in self.sources]) @ combinations, combinations

    def contrast(self, density: Deformation, most: int | None = None) -> Contrast:
        """The samples, with the log-ratios of a density as what is known of them; ``most`` events of each to learn from."""
        known = density if density.moves or density.ratios else None
        events = [self.nominal, *self.sources]
        samples = [
            _sample(source, held, [s.at for s in self.sources], known, most)
            for source, held in zip(events, self.held_out, strict=True)
        ]
        return Contrast(samples, self.monomials[0], self.ratio.n_dim, self.ratio.degree)


@dataclass(frozen=True)
class Choice:
    """What is kept.

    Attributes:
        keep_map: Whether the map is.
        learned: The log-ratio, if it is.
        notes: What was not, and why, in sentences.
    """

    keep_map: bool
    learned: Learned | None
    notes: list[str]


def choose(candidates: Candidates, *, use_map: bool | str, use_ratio: bool | str) -> Choice:
    """Keep what the events confirm.

    Args:
        candidates: What there is to choose from.
        use_map: Whether to keep the map; ``"auto"`` asks the held-out events.
        use_ratio: Whether to keep the log-ratio; ``"auto"`` asks its evidence.
    """
    notes: list[str] = []
    keep_map = candidates.with_map is not None
    untried = use_ratio == "auto" and keep_map and not _affordable(candidates)
    if untried:
        use_ratio = False
    if candidates.with_map is not None and use_map == "auto":
        keep_map, notes = _judge_map(candidates, candidates.with_map, use_ratio)
    if untried:
        notes = [*notes, "no log-ratio was tried, whose integral over several observables given conditions is slow"]
    elif use_ratio is True and keep_map and not _affordable(candidates):
        notes = [
            *notes,
            "behind a map, this log-ratio of several observables given conditions integrates to one within 2e-3",
        ]
        warn(notes[-1])
    if use_ratio is False:
        return Choice(keep_map, None, notes)
    kept = candidates.with_map if keep_map and candidates.with_map is not None else candidates.without
    learned = learn(candidates.contrast(kept))
    if use_ratio == "auto" and not learned.significant:
        return Choice(keep_map, None, [*notes, f"no log-ratio, for which the evidence is {learned.evidence:.1f} nats"])
    return Choice(keep_map, learned, notes)


def _judge_map(candidates: Candidates, density: Deformation, use_ratio: bool | str) -> tuple[bool, list[str]]:
    """Whether to keep a map, and what to say if not: the judges are events that it was not trained on.

    A map that does nearly all there is to do is kept, since it extrapolates. Otherwise a log-ratio has to need it.
    """
    without, with_map = (candidates.contrast(each, _JUDGED) for each in (candidates.without, density))
    none, map_alone = _held_out(without, ratio=False), _held_out(with_map, ratio=False)
    gain, error = _difference(map_alone, none)
    if gain < MAP_SIGNIFICANT * error:
        return False, [f"no map: held-out events speak for it by {gain:.1f} +- {error:.1f} nats only"]
    if use_ratio is False:
        return True, []
    ratio_alone = _held_out(without, ratio=True)
    if gain > _NEARLY_ALL * _difference(ratio_alone, none)[0]:
        return True, []
    gain, error = _difference(_held_out(with_map, ratio=True), ratio_alone)
    if gain > 2.0 * error:
        return True, []
    return False, [f"no map: beside a log-ratio it gains {gain:.1f} +- {error:.1f} nats of held-out events"]


def _held_out(contrast: Contrast, *, ratio: bool) -> np.ndarray:
    """Log-likelihoods of the held-out events."""
    return contrast.log_likelihoods(learn(contrast, held_out=True, ratio=ratio).coefficients)


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    difference = one - other
    return float(difference.sum()), float(np.sqrt(np.square(difference).sum()) + 1e-9)


def _affordable(candidates: Candidates) -> bool:
    """Whether the integral of a log-ratio takes few nodes, unlike that of several observables given conditions."""
    return candidates.ratio.n_dim == 1 or not candidates.ratio.n_context


def _sample(
    source: EventSource,
    held: np.ndarray,
    points: Sequence[Mapping[str, float]],
    density: Deformation | None,
    most: int | None,
) -> ContrastSample:
    sample, flow = source.sample, source.flow
    n, rng = sample.n_events, np.random.default_rng(0)
    folds = rng.integers(0, 2, n)
    folds[held] = 2
    kept = np.flatnonzero((folds == 2) | (rng.random(n) < (1.0 if most is None else most / n)))
    coordinates, offsets = [], []
    for part in slices(len(kept), EVENTS):
        u, c = source.standardised(kept[part])
        of_flow = flow.precompute(c)
        coordinates.append(bounded(flow, u, c, of_flow).numpy().astype(np.float32))
        offsets.append(_offsets(density, u, c, flow.log_density_at(u, of_flow), points))
    weights = sample.relative_weights(kept) * (sample.effective_size / n)
    return ContrastSample(np.concatenate(coordinates), np.concatenate(offsets), weights, folds[kept])


def _offsets(
    density: Deformation | None, u: tf.Tensor, c: tf.Tensor, log_nominal: Any, points: Sequence[Mapping[str, float]]
) -> np.ndarray:
    if density is None:
        return np.zeros((len(u), len(points)), np.float32)
    precomputed = density.precompute(u, c)
    at_points = [density.log_density_at(tf.constant(density.point(point)), precomputed) for point in points]
    return np.stack([values - log_nominal for values in at_points], axis=1).astype(np.float32)

"""What a response may be, and its events as log-ratios are learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.chunks import EVENTS, slices
from ..densities.deformation import Deformation
from ..densities.monomials import Monomials, Powers
from ..densities.ratio import bounded
from .claims import Points
from .contrast import Contrast, ContrastSample
from .sources import EventSource
from .terms import first_terms

__all__ = ["Candidates", "samples_of"]


@dataclass(frozen=True)
class Candidates:
    """What there is to choose from.

    Attributes:
        without: The density without this response: by the responses of its nuisances alone, if it is an interaction.
        with_map: The density with the trained map, ``None`` if none was trained.
        nuisances, powers: Of the response, as of a :class:`~zfit_fnf.densities.ratio.LogRatio`.
        nominal: The nominal events.
        sources: Those of the variations that the response is learned from.
        held_out: Rows of the nominal events, then of the variations, that neither flow nor map were trained on.
        idle: Points of the nuisances at which the response vanishes.
    """

    without: Deformation
    with_map: Deformation | None
    nuisances: tuple[str, ...]
    powers: Powers
    nominal: EventSource
    sources: Sequence[EventSource]
    held_out: Sequence[np.ndarray]
    idle: Sequence[Mapping[str, float]]

    @property
    def n_dim(self) -> int:
        """Number of observables."""
        return len(self.without.flow.obs)

    @property
    def n_context(self) -> int:
        """Number of conditions."""
        return len(self.without.flow.cond)

    @property
    def first_terms(self) -> np.ndarray:
        """Products that a log-ratio is first made of."""
        return first_terms(self.n_dim, self.n_context, len(self.powers))

    @cached_property
    def combinations(self) -> np.ndarray:
        """Combinations ``(M, m)`` of the monomials that vanish where the response has to."""
        _, sizes, rows = np.linalg.svd(self._monomials(self.idle))
        return rows[int(np.sum(sizes > 1e-9)) :].T

    @cached_property
    def points(self) -> Points:
        """Where the samples are."""
        at = [source.at for source in self.sources]
        monomials = self._monomials(at) @ self.combinations
        if len(self.nuisances) > 1:
            return Points(monomials, monomials, np.arange(1, len(at) + 1))
        (name,), powers = self.nuisances, np.array(self.powers)[:, 0]
        values = np.array([0.0, *(point[name] for point in at)])
        slopes = powers * values[:, None] ** (powers - 1.0)
        return Points(monomials, slopes @ self.combinations, np.arange(len(values)))

    def _monomials(self, points: Sequence[Mapping[str, float]]) -> np.ndarray:
        windows = {name: self.without.windows[name] for name in self.nuisances}
        monomials = Monomials([self], windows)
        rows = [monomials(tf.constant([point.get(name, 0.0) for name in windows], tf.float64)) for point in points]
        return np.array(rows).reshape(-1, len(monomials))

    def contrasts(self, most: int | None) -> tuple[Contrast, Contrast | None]:
        """The samples with what is known without the response and with the map; ``most`` events of each to learn from."""
        densities = [self.without if self.without.moves or self.without.ratios else None]
        densities += [] if self.with_map is None else [self.with_map]
        events, at = [self.nominal, *self.sources], [source.at for source in self.sources]
        read = [
            samples_of(source, held, at, densities, most) for source, held in zip(events, self.held_out, strict=True)
        ]
        contrasts = [
            Contrast(
                [samples[i] for samples in read],
                self.points.monomials,
                self.n_dim,
                self.first_terms,
                paired=self.paired,
                squares=self.powers == ((1,), (2,)) and not self.idle,
            )
            for i in range(len(densities))
        ]
        return contrasts[0], contrasts[1] if len(contrasts) > 1 else None

    @property
    def paired(self) -> bool:
        """Whether row ``i`` is the same generated event in all samples."""
        return all(source.paired for source in self.sources)

    def has_more(self, events: int) -> bool:
        """Whether a sample has more than this number of events."""
        return any(source.sample.n_events > events for source in (self.nominal, *self.sources))

    @property
    def affordable(self) -> bool:
        """Whether the integral of a log-ratio behind a map takes few nodes, as in one observable without conditions."""
        return self.n_dim + self.n_context == 1

    @property
    def accurate(self) -> bool:
        """Whether a log-ratio behind a map integrates to one well within what a fit could see."""
        return self.n_dim <= 2 and self.n_context <= 1


def samples_of(
    source: EventSource,
    held: np.ndarray,
    points: Sequence[Mapping[str, float]],
    densities: Sequence[Deformation | None],
    most: int | None,
) -> list[ContrastSample]:
    """The events of a sample, with what each density says of the ratio to the nominal one; the map is that of the last one."""
    sample, flow = source.sample, source.flow
    n, rng = sample.n_events, np.random.default_rng(0)
    folds = rng.integers(0, 2, n)
    folds[held] = 2
    kept = np.flatnonzero((folds == 2) | (rng.random(n) < (1.0 if most is None else most / n)))
    parts, offsets = [], []
    for part in slices(len(kept), EVENTS):
        u, c = (tf.cast(values, tf.float32) for values in source.standardised(kept[part]))
        of_flow = flow.precompute(c)
        parts.append(bounded(flow, u, c, of_flow).numpy())
        log_nominal = flow.log_density_at(u, of_flow) if any(densities) else 0.0
        offsets.append([_offsets(density, u, c, log_nominal, points) for density in densities])
    weights = sample.relative_weights(kept) * (sample.effective_size / n)
    coordinates, known = np.concatenate(parts), [np.concatenate(each) for each in zip(*offsets, strict=True)]
    return [ContrastSample(coordinates, own, weights, folds[kept], own - known[0]) for own in known]


def _offsets(
    density: Deformation | None, u: tf.Tensor, c: tf.Tensor, log_nominal: Any, points: Sequence[Mapping[str, float]]
) -> np.ndarray:
    if density is None:
        return np.zeros((len(u), len(points)), np.float32)
    precomputed = density.precompute(u, c)
    at_points = [density.log_density_at(tf.constant(density.point(point)), precomputed) for point in points]
    return np.stack([values - log_nominal for values in at_points], axis=1)

"""What a response may be, and its events as log-ratios are learned from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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

__all__ = ["Candidates"]

_MANY = 500_000  # events of all samples, of which graphs are worth their making


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
        without = self._offsets(False, most)
        moved = None if self.with_map is None else self._offsets(True, most)
        with_map = (
            None if moved is None else self._contrast(most, moved, [a - b for a, b in zip(moved, without, strict=True)])
        )
        return self._contrast(most, without, [np.zeros_like(offsets) for offsets in without]), with_map

    def contrast(self, use_map: bool) -> Contrast:
        """All events, with what is known of them by the map or without it."""
        return self._contrast(None, self._offsets(use_map, None))

    def nominal_events(self) -> ContrastSample:
        """The nominal events, with what is known of them without the response."""
        return self._events[0].sample(None, self._offsets(False, None, 1)[0], None)

    def forget_map(self) -> None:
        """Tell that the map has changed."""
        self._known.pop("map", None)
        for events in self._events:
            events.forget("map")

    def _contrast(
        self, most: int | None, offsets: Sequence[np.ndarray], moved: Sequence[np.ndarray] | None = None
    ) -> Contrast:
        samples = [
            events.sample(most, own, None if moved is None else moved[i])
            for i, (events, own) in enumerate(zip(self._events, offsets, strict=True))
        ]
        return Contrast(
            samples,
            self.points.monomials,
            self.n_dim,
            self.first_terms,
            paired=self.paired,
            squares=self.powers == ((1,), (2,)) and not self.idle,
        )

    def _offsets(self, use_map: bool, most: int | None, n_samples: int | None = None) -> list[np.ndarray]:
        """Of each sample ``(n, J)``, or of the first ones."""
        name = "map" if use_map else "without"
        if name not in self._known:
            density = self.with_map if use_map else self.without
            if density is not None and not use_map and not (density.moves or density.ratios):
                density = None
            events = sum(source.sample.n_events for source in (self.nominal, *self.sources))
            at = [source.at for source in self.sources]
            self._known[name] = OffsetsOf(density, at, compiled=events > _MANY)
        return [events.offsets(name, self._known[name], most) for events in self._events[:n_samples]]

    @cached_property
    def _known(self) -> dict[str, OffsetsOf]:
        return {}

    @cached_property
    def _events(self) -> list[Events]:
        sources = [self.nominal, *self.sources]
        return [Events(source, held) for source, held in zip(sources, self.held_out, strict=True)]

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


class Events:
    """The events of a sample, of which those that few are learned from are among the many: nothing is computed twice.

    Args:
        source: The sample.
        held_out: Its rows that neither flow nor map were trained on.
    """

    def __init__(self, source: EventSource, held_out: np.ndarray):
        self._source = source
        n, rng = source.sample.n_events, np.random.default_rng(0)
        self._folds = rng.integers(0, 2, n)
        self._folds[held_out] = 2
        self._turns = rng.random(n)
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def sample(self, most: int | None, offsets: np.ndarray, moved: np.ndarray | None) -> ContrastSample:
        """With what is known of it: :meth:`offsets`, and what of these is the map's."""
        rows, sample = self._rows(most), self._source.sample
        weights = sample.relative_weights(rows) * (sample.effective_size / sample.n_events)
        return ContrastSample(self._of("bounded", rows, self._bounded), offsets, weights, self._folds[rows], moved)

    def offsets(self, name: str, known: OffsetsOf, most: int | None) -> np.ndarray:
        """Log-ratios ``(n, J)`` of a density, kept by its name, to the nominal one."""
        return self._of(name, self._rows(most), lambda rows: known(self._source, rows))

    def forget(self, name: str) -> None:
        """The offsets of a density that has changed."""
        self._known.pop(name, None)

    def _rows(self, most: int | None) -> np.ndarray:
        """Those that are held out, and about ``most`` others."""
        n = len(self._folds)
        return np.flatnonzero((self._folds == 2) | (self._turns < (1.0 if most is None else most / n)))

    def _of(self, name: str, rows: np.ndarray, values_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        known, values = self._known.get(name, (rows[:0], None))
        new = np.setdiff1d(rows, known, assume_unique=True)
        if len(new) or values is None:
            found = [values_of(new[part]) for part in slices(len(new), EVENTS)]
            known, values = np.append(known, new), np.concatenate(found if values is None else [values, *found])
            order = np.argsort(known)
            known, values = known[order], values[order]
            self._known[name] = known, values
        return values if len(known) == len(rows) else values[np.searchsorted(known, rows)]

    def _bounded(self, rows: np.ndarray) -> np.ndarray:
        flow = self._source.flow
        u, c = _in_float32(self._source, rows)
        return bounded(flow, u, c, flow.precompute(c)).numpy()


class OffsetsOf:
    """Log-ratios of a density at some points to the nominal one; without a density they are zero.

    Args:
        density: The density.
        at: The points.
        compiled: Whether to make a graph of it first, which takes as long as a few 100k events without.
    """

    def __init__(self, density: Deformation | None, at: Sequence[Mapping[str, float]], *, compiled: bool):
        self._density, self._n_points = density, len(at)
        self._points = [] if density is None else [tf.constant(density.point(point)) for point in at]
        if density is not None:
            density.use_all_nodes()
        reweighting = None if density is None else density.reweighting
        # Integrals are the same for all events, but for what is between the anchors of the conditions.
        self._log_norms = [] if reweighting is None else [reweighting.log_norm_at_anchors(nu) for nu in self._points]
        self._evaluate = self._of
        if density is not None and compiled:
            sizes = len(density.flow.obs), len(density.flow.cond)
            signature = [tf.TensorSpec((None, size), tf.float32) for size in sizes]
            self._evaluate = tf.function(self._of, input_signature=signature, autograph=False)

    def __call__(self, source: EventSource, rows: np.ndarray) -> np.ndarray:
        """For some events ``(n, J)``."""
        if self._density is None:
            return np.zeros((len(rows), self._n_points), np.float32)
        found: np.ndarray = self._evaluate(*_in_float32(source, rows)).numpy()
        return found

    def _of(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        density = self._density
        assert density is not None
        of_conditions = density.precompute_conditions(c)
        precomputed = density.precompute(u, c, of_conditions)
        found = [density.log_shape(nu, precomputed) for nu in self._points]
        if density.reweighting is not None:
            between = [density.reweighting.between_anchors(values, precomputed[1][1]) for values in self._log_norms]
            found = [shape - tf.cast(norm, shape.dtype) for shape, norm in zip(found, between, strict=True)]
        return tf.stack(found, axis=1) - density.flow.log_density_at(u, of_conditions[1])[:, None]


def _in_float32(source: EventSource, rows: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    u, c = source.standardised(rows)
    return tf.cast(u, tf.float32), tf.cast(c, tf.float32)

r"""How the best map moves with the parameters, as a least-squares problem.

A displacement :math:`h` of the events behind the map changes the log-density of one of them, to first order, by

.. math::
    \delta\ell_i[h] = \sum_c r_{ic} \, \big[ \nabla \log p_c(v_i) \cdot h_c(v_i) + \nabla \cdot h_c(v_i) \big],
    \qquad r_{ic} = \frac{n_c \, p_c(v_i)}{\sum_{c'} n_{c'} p_{c'}(v_i)} .

With the scores :math:`s_i` of the parameters, the likelihood has the curvature :math:`\sum_i (s_i + \delta\ell_i[h])^2` when the
map moves by ``h`` with a parameter. The map that is best for each value moves by the ``h`` that makes it smallest, the
*least favourable direction*; what is left is the information of the profile likelihood. For fields that are linear in
their weights this is linear regression, with one factorisation for any number of parameters.

Of events with negative weights it has a floor (:mod:`zfit_fnf.doi.floor`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import GRAPH, slices
from ..densities.displacement import Displacement, log_slope
from ..densities.floor import SHARE, above
from ..densities.transfer import Transfer
from ..samples import Sample
from .floor import LOWEST, is_signed
from .frames import fit_frames, middle
from .pdf import MappedEvents
from .rows import mixture, parts_of, responsibilities

__all__ = ["LARGEST_RIDGE", "MOST", "DisplacedLikelihood", "EventsBehind", "Regression"]

MOST = 131_072
"""Events from which directions are found, at most."""

LARGEST_RIDGE = 0.1
"""Largest ridge, relative to the diagonal, where data move the map, since a larger one would hold it back from its maximum."""

_FOLDS = 4
_RIDGES = np.geomspace(1e-6, 1.0, 13)  # of the diagonal of the normal matrix


class EventsBehind(NamedTuple):
    """Events where ``T_phi`` takes them.

    Attributes:
        x: Their columns ``(n, n_obs)``.
        chunks: What is computed once.
        slope: Gradient ``(K,)`` of their log-likelihood by the weights of the fields, where the map is best.
    """

    x: np.ndarray
    chunks: Iterable[_Chunk]
    slope: np.ndarray


class DisplacedLikelihood:
    """What displacements of events behind ``T_phi`` do to their likelihood; compiled once.

    Args:
        pdf: The model of data behind the fixed map.
        transfer: That map, ``T_phi``.
        displacement: The fields; their weights are not used here, but given with each call.
    """

    def __init__(self, pdf: zfit.pdf.BasePDF, transfer: Transfer, displacement: Displacement):
        self._pdf, self._transfer, self._displacement = pdf, transfer, displacement
        self.obs = pdf.obs
        self._maps = [transfer.index(part.name if transfer.processes else None) for part in parts_of(pdf)]
        self._sizes = [len(displacement.degrees_of(j)) for j in range(displacement.n_dim)]
        self._prepared = tf.function(self._prepare, autograph=False, reduce_retracing=True)
        self._fields = tf.function(self._all_fields, autograph=False, reduce_retracing=True)
        self._floors = tf.function(self._log_floor, autograph=False, reduce_retracing=True)
        self._value = tf.function(self._log_likelihood, autograph=False, reduce_retracing=True)
        self._gradient = tf.function(self._gradient_of, autograph=False, reduce_retracing=True)
        self._rows = tf.function(self._first_variation, autograph=False, reduce_retracing=True)
        self._moved_rows = tf.function(self._first_variation_at, autograph=False, reduce_retracing=True)

    def events(self, sample: Sample, total: float, seed: int, *, frames: bool) -> EventsBehind:
        """The events of a sample in random order, at the current parameters.

        Of more than 131 072 a random part is taken, and counts for all: directions are properties of densities.

        Args:
            sample: The events.
            total: What their weights are scaled to sum to.
            seed: Of the order.
            frames: Whether to fit the frames of the displacement to them.
        """
        order = np.random.default_rng([seed, 2]).permutation(sample.n_events)[:MOST]
        x = sample.array(self._pdf.obs)[order]
        weights = np.ones(len(order)) if sample.weights is None else sample.weights[order]
        weights = weights * (total / weights.sum())
        prepared = [self._prepared(tf.constant(x[rows])) for rows in slices(len(order), GRAPH)]
        given = [tf.constant(weights[rows]) for rows in slices(len(order), GRAPH)]
        if frames:
            self._fit_frames(prepared, given)
        signed = is_signed(sample)
        chunks = [self._chunk_of(one, own, signed=signed) for one, own in zip(prepared, given, strict=True)]
        unmoved = EventsBehind(x, chunks, np.zeros(self._displacement.n_fields))
        return unmoved._replace(slope=self.gradient(unmoved, unmoved.slope))

    def of_all(self, sample: Sample) -> EventsBehind:
        """All events of a sample in their order, at the current parameters, without their slope.

        More than 131 072 are not kept in memory.
        """
        events = _Streamed(self, sample)
        kept = list(events) if sample.n_events <= MOST else events
        return EventsBehind(sample.array(self._pdf.obs), kept, np.zeros(self._displacement.n_fields))

    @staticmethod
    def reweighted(events: EventsBehind, weights: np.ndarray) -> EventsBehind:
        """The same events with other weights ``(n,)``; what is computed of them is kept."""
        return events._replace(chunks=_Reweighted(events.chunks, weights))

    def chunk(self, x: np.ndarray, weights: np.ndarray, *, signed: bool) -> _Chunk:
        """Some events ``(n, n_obs)`` behind ``T_phi``, of a sample in which some weights are negative or none."""
        return self._chunk_of(self._prepared(tf.constant(x)), tf.constant(weights), signed=signed)

    def _chunk_of(self, prepared: Any, weights: tf.Tensor, *, signed: bool) -> _Chunk:
        events, log_p, shares, gradients = prepared
        floor = self._floors(events) if signed else tf.fill(tf.shape(weights), tf.constant(LOWEST, tf.float64))
        shares, gradients = _kept(floor, log_p, (shares, gradients))
        return _Chunk(events, self._fields(events), shares, gradients, weights, floor)

    def value(self, events: EventsBehind, weights: np.ndarray) -> float:
        """Sum of the log-densities at the current parameters, events displaced by fields with these weights ``(K,)``."""
        given = tf.constant(weights)
        return float(sum(self._value(chunk, given).numpy() for chunk in events.chunks))

    def gradient(self, events: EventsBehind, weights: np.ndarray) -> np.ndarray:
        """Gradient ``(K,)`` of that sum by the weights."""
        given = tf.constant(weights)
        return np.sum([self._gradient(chunk, given).numpy() for chunk in events.chunks], axis=0)

    def slopes(self, events: EventsBehind) -> np.ndarray:
        """Gradients ``(folds, K)`` of the log-likelihood before any displacement, by fold of the events."""
        found = np.zeros((_FOLDS, self._displacement.n_fields))
        for rows, weights in self.rows(events):
            weighted = rows * weights[:, None]
            found += [weighted[fold::_FOLDS].sum(axis=0, dtype=float) for fold in range(_FOLDS)]
        return found

    def rows(self, events: EventsBehind, weights: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """First variations ``(n, K)`` with each field, and the weights of the events, chunk after chunk.

        Args:
            events: The events.
            weights: Of the fields ``(K,)``, where the variations are taken; by default at rest.
        """
        if weights is None:
            return ((self._rows(chunk).numpy(), chunk.weights.numpy()) for chunk in events.chunks)
        at = tf.constant(weights)
        return ((self._moved_rows(chunk, at).numpy(), chunk.weights.numpy()) for chunk in events.chunks)

    def _fit_frames(self, prepared: Sequence[Any], weights: Sequence[tf.Tensor]) -> None:
        for index in range(self._transfer.n_maps):
            mine = [number for number, own in enumerate(self._maps) if own == index]
            v, c, shares = (
                np.concatenate(parts)
                for parts in zip(
                    *(
                        (
                            events[mine[0]].u.numpy(),
                            self._conditions(events[mine[0]]).numpy(),
                            own.numpy() * np.sum([shares[number].numpy() for number in mine], axis=0),
                        )
                        for (events, _, shares, _), own in zip(prepared, weights, strict=True)
                    ),
                    strict=True,
                )
            )
            fit_frames(self._displacement, index, v, c, shares)

    # --- graphs ---------------------------------------------------------------------------------------------------

    def _prepare(self, x: tf.Tensor) -> tuple[list[MappedEvents], tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """The events, their log-densities, the shares of the components in them, and the gradients by their places."""
        parts = parts_of(self._pdf)
        events = tf.nest.map_structure(_single, [part.mapped(part.precompute_unmapped(x)) for part in parts])
        places = [of_part.u for of_part in events]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(places)
            log_p = [part.log_density_at(*pair) for part, *pair in zip(parts, events, places, strict=True)]
            value = mixture(self._pdf, log_p)
        shares = [_single(share) for share in responsibilities(self._pdf, log_p)]
        return events, value, shares, tape.gradient(value, places)

    def _log_floor(self, events: Sequence[MappedEvents]) -> tf.Tensor:
        """Logarithm ``(n,)`` of the floor of events."""
        log_p = []
        for part, index, own in zip(parts_of(self._pdf), self._maps, events, strict=True):
            there, falls = middle(self._displacement, own.u, self._conditions(own), index)
            log_p.append(part.log_density_at(own, there) - tf.cast(falls, tf.float64))
        return mixture(self._pdf, log_p) + SHARE

    def _conditions(self, events: MappedEvents) -> tf.Tensor:
        return events.context[:, : len(self._transfer.cond)]

    def _all_fields(self, events: Sequence[MappedEvents]) -> list[list[tuple[tf.Tensor, tf.Tensor]]]:
        """Fields and slopes of each map; all its components have their events at the same places."""
        first = [events[self._maps.index(index)] for index in range(self._transfer.n_maps)]
        return [self._displacement.functions(one.u, self._conditions(one), index) for index, one in enumerate(first)]

    def _log_likelihood(self, chunk: _Chunk, weights: tf.Tensor) -> tf.Tensor:
        places, slopes = zip(*self._moved(chunk, weights), strict=True)
        found = mixture(self._pdf, self._log_densities(chunk, places, slopes))
        return tf.reduce_sum(chunk.weights * above(found, chunk.floor))

    def _moved(self, chunk: _Chunk, weights: tf.Tensor) -> list[tuple[tf.Tensor, list[tf.Tensor]]]:
        """For each component, where fields with these weights take its events, and the slopes of the displacement."""
        by_map, d = tf.split(_single(weights), self._sizes * self._transfer.n_maps), len(self._sizes)
        moved = []
        for index, events in zip(self._maps, chunk.events, strict=True):
            own = list(zip(chunk.fields[index], by_map[index * d : (index + 1) * d], strict=True))
            place = events.u + tf.stack([tf.linalg.matvec(values, w) for (values, _), w in own], axis=1)
            moved.append((place, [tf.linalg.matvec(slopes, w) for (_, slopes), w in own]))
        return moved

    def _log_densities(
        self, chunk: _Chunk, places: Sequence[tf.Tensor], slopes: Sequence[list[tf.Tensor]]
    ) -> list[tf.Tensor]:
        return [
            part.log_density_at(events, place, tf.add_n(list(map(log_slope, own))))
            for part, events, place, own in zip(parts_of(self._pdf), chunk.events, places, slopes, strict=True)
        ]

    def _gradient_of(self, chunk: _Chunk, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            value = self._log_likelihood(chunk, weights)
        return tape.gradient(value, weights)

    def _first_variation(self, chunk: _Chunk) -> tf.Tensor:
        return self._variations(chunk, chunk.gradients, chunk.shares, None)

    def _first_variation_at(self, chunk: _Chunk, weights: tf.Tensor) -> tf.Tensor:
        places, slopes = map(list, zip(*self._moved(chunk, weights), strict=True))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(places)
            log_p = self._log_densities(chunk, places, slopes)
            value = mixture(self._pdf, log_p)
        shares = [_single(share) for share in responsibilities(self._pdf, log_p)]
        gradients, shares = _kept(chunk.floor, value, (tape.gradient(value, places), shares))
        return self._variations(chunk, gradients, shares, slopes)

    def _variations(self, chunk: _Chunk, gradients: Any, shares: Any, slopes: Any) -> tf.Tensor:
        columns = []
        for index, fields in enumerate(chunk.fields):
            mine = [number for number, own in enumerate(self._maps) if own == index]
            share = tf.add_n([shares[number] for number in mine])[:, None]
            gradient = tf.add_n([gradients[number] for number in mine])
            for j, (values, own) in enumerate(fields):
                stretched = own if slopes is None else own * _log_slope_derivative(slopes[mine[0]][j])[:, None]
                columns.append(gradient[:, j : j + 1] * values + share * stretched)
        return tf.concat(columns, axis=1)


class _Streamed:
    """Chunks of all events of a sample, computed anew whenever they are asked for."""

    def __init__(self, likelihood: DisplacedLikelihood, sample: Sample):
        self._likelihood, self._sample = likelihood, sample

    def __iter__(self) -> Iterator[_Chunk]:
        x, own = self._sample.array(self._likelihood.obs), self._sample.weights
        weights = np.ones(len(x)) if own is None else own
        signed = is_signed(self._sample)
        return (self._likelihood.chunk(x[rows], weights[rows], signed=signed) for rows in slices(len(x), GRAPH))


class _Reweighted:
    """Chunks of events with other weights."""

    def __init__(self, chunks: Iterable[_Chunk], weights: np.ndarray):
        self._chunks, self._weights = chunks, weights

    def __iter__(self) -> Iterator[_Chunk]:
        starts = itertools.count(0, GRAPH)
        return (
            chunk._replace(weights=tf.constant(self._weights[start : start + GRAPH]))
            for chunk, start in zip(self._chunks, starts, strict=False)
        )


class _Chunk(NamedTuple):
    """Events behind ``T_phi``.

    Attributes:
        events: For each component of the model.
        fields: Fields and slopes ``(n, functions)`` of each coordinate of each map.
        shares: Of each component in the events ``(n,)``, and
        gradients: of the mixture by the places of the events of each component ``(n, d)``, times what the floor leaves of them.
        weights: Of the events ``(n,)``.
        floor: Log-density ``(n,)`` below which they move nothing.
    """

    events: list[MappedEvents]
    fields: list[list[tuple[tf.Tensor, tf.Tensor]]]
    shares: list[tf.Tensor]
    gradients: list[tf.Tensor]
    weights: tf.Tensor
    floor: tf.Tensor


def _kept(floor: tf.Tensor, log_p: tf.Tensor, derivatives: Any) -> Any:
    """Derivatives ``(n,)`` and ``(n, d)`` of the logarithm of a density with a floor from those without."""
    kept = _single(tf.sigmoid(log_p - floor))
    return tf.nest.map_structure(lambda one: one * (kept if one.shape.rank == 1 else kept[:, None]), derivatives)


def _log_slope_derivative(slope: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(slope)
        value = log_slope(slope)
    return tape.gradient(value, slope)


def _single(tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype == tf.float64 else tensor


@dataclass(frozen=True, eq=False)
class Regression:
    """Normal equations of the least favourable directions, fold by fold of the events.

    Attributes:
        gram: Products of first variations ``(folds, K, K)``.
        cross: Of first variations and scores ``(folds, K, P)``.
        squares: Of scores ``(folds, P, P)``.
        prior: Information ``(P, P)`` of constraints, if parameters are to be measured.
        ridge: Relative strength of the penalty, the best one for events that are held out.
    """

    gram: np.ndarray
    cross: np.ndarray
    squares: np.ndarray
    prior: np.ndarray | None
    ridge: float

    @classmethod
    def of(
        cls, rows: Iterable[tuple[np.ndarray, np.ndarray]], scores: np.ndarray, prior: np.ndarray | None = None
    ) -> Regression:
        """Of chunks of first variations ``(n, K)`` and weights ``(n,)``, with the scores ``(n, P)`` of all events.

        Args:
            rows: The chunks.
            scores: Of the parameters.
            prior: Information ``(P, P)`` of constraints, as of events with these weights, if parameters are to be measured.
        """
        gram: Any = [0.0] * _FOLDS
        cross: Any = [0.0] * _FOLDS
        squares: Any = [0.0] * _FOLDS
        start = 0
        for chunk, weights in rows:
            stop = start + len(chunk)
            for fold in range(_FOLDS):
                mine = slice(fold, None, _FOLDS)
                weighted = chunk[mine] * weights[mine, None].astype(np.float32)
                own = scores[start:stop][mine]
                gram[fold] = gram[fold] + (chunk[mine].T @ weighted).astype(float)
                cross[fold] = cross[fold] + weighted.T.astype(float) @ own
                squares[fold] = squares[fold] + own.T @ (own * weights[mine, None])
            start = stop
        return cls(np.array(gram), np.array(cross), np.array(squares), prior, np.nan).regularised()

    def regularised(self) -> Regression:
        """With the best ridge for events that are held out.

        That is the one with which parameters are known least, by the determinant: where a map absorbs almost all that
        data say, the little that is left has to be right. Without a prior it is the one that predicts scores best.
        """
        squares = np.diagonal(self.squares.sum(axis=0))
        moves = np.flatnonzero(squares > 0.0)  # a parameter that moves nothing says nothing about a ridge
        left = np.array([self.held_out(ridge) for ridge in _RIDGES])
        if self.prior is None:
            totals = np.sum(np.diagonal(left, axis1=1, axis2=2)[:, moves] / squares[moves], axis=1)
        else:
            signs, logarithms = np.linalg.slogdet((left + self.prior)[:, moves][:, :, moves])
            totals = np.where(signs > 0.0, logarithms, np.inf)
        return replace(self, ridge=float(_RIDGES[int(np.argmin(totals))]))

    def restricted(self, fields: np.ndarray) -> Regression:
        """With some of the fields only; each number of fields has its own best ridge."""
        gram = self.gram[:, fields][:, :, fields]
        return replace(self, gram=gram, cross=self.cross[:, fields]).regularised()

    def directions(self) -> np.ndarray:
        """Weights ``(K, P)`` of the fields by which the best map moves with each parameter."""
        return self.solve(-self.cross.sum(axis=0))

    def solve(self, right: np.ndarray, *, least: float = 0.0) -> np.ndarray:
        """Solve the penalised normal equations of all events, with a ridge of at least so much."""
        return _solved(self.gram.sum(axis=0), right, max(self.ridge, least))

    def information(self) -> np.ndarray:
        """Information ``(P, P)`` of the events when the map moves along."""
        weights = self.directions()
        return _left(self.gram.sum(axis=0), self.cross.sum(axis=0), self.squares.sum(axis=0), weights)

    def polish(self, slopes: np.ndarray) -> float:
        """The ridge under which a step towards the maximum is best for events that are held out, `LARGEST_RIDGE` at most.

        Args:
            slopes: Gradients ``(folds, K)`` of the log-likelihood of the data, by fold of the events.
        """
        gram, total = self.gram.sum(axis=0) / len(slopes), slopes.sum(axis=0)
        gains = []
        for ridge in _RIDGES:
            found = [_solved((len(slopes) - 1) * gram, total - own, ridge) for own in slopes]
            gains.append(sum(own @ w - 0.5 * w @ gram @ w for own, w in zip(slopes, found, strict=True)))
        return min(float(_RIDGES[int(np.argmax(gains))]), LARGEST_RIDGE)

    def penalty(self) -> np.ndarray:
        """Diagonal ``(K,)`` that the ridge adds to the normal matrix."""
        return _penalty(self.gram.sum(axis=0), self.ridge)

    def held_out(self, ridge: float | None = None) -> np.ndarray:
        """The same, of each fold with directions from the others."""
        found = np.zeros_like(self.squares[0])
        gram, cross = self.gram.sum(axis=0), self.cross.sum(axis=0)
        for fold in range(len(self.gram)):
            weights = _solved(gram - self.gram[fold], self.cross[fold] - cross, self.ridge if ridge is None else ridge)
            found += _left(self.gram[fold], self.cross[fold], self.squares[fold], weights)
        return found


def _solved(matrix: np.ndarray, right: np.ndarray, ridge: float) -> np.ndarray:
    return np.linalg.solve(matrix + np.diag(_penalty(matrix, ridge)), right)


def _penalty(matrix: np.ndarray, ridge: float) -> np.ndarray:
    return ridge * np.diag(matrix) + 1e-10 * np.trace(matrix) / len(matrix)


def _left(gram: np.ndarray, cross: np.ndarray, squares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    both = weights.T @ cross
    return squares + both + both.T + weights.T @ gram @ weights

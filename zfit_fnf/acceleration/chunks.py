"""Events of a data set as polynomials, in chunks, and the compiled functions that are called on them.

They take the places of :class:`~zfit_fnf.loss.EventChunks` and :class:`~zfit_fnf.loss.EventKernel` in a likelihood.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import slices
from ..loss import Compiled, EventChunks, Term, kept_by, n_bytes, vector
from ..param import read_once
from ..pdf import components, is_compilable
from .polynomials import expansion_of

__all__ = ["CHUNK", "SMALL_CHUNK", "ExpandedEvents", "ExpandedKernel", "expanded_kernel"]

SMALL_CHUNK, CHUNK = 4096, 16384
"""Events per call of the compiled code, for small and for large data sets."""

_DIRECTIONS = 16  # along which second derivatives are computed at a time
_NUMBERS = 2e7  # in a table of moved nodes for all directions at a time: there are about twenty such tables, 3 GB
_PILOT_SHARE = 8  # one chunk of so many tells where to expand all of them
_ZERO = tf.UnconnectedGradients.ZERO


class ExpandedKernel(Term):
    """Minus the weighted sum of the log-densities of a chunk of expanded events, ``(expanded, weights)``, and its error.

    Args:
        model: Any PDF.

    Attributes:
        bounded_value: ``bounded_value(*chunk)``, the sum and how wrong it may be, ``(2,)`` float64.
        bounded_gradient: ``bounded_gradient(*chunk)``, the same and the gradient ``(P,)`` of the sum, in the order of
            ``params``.
    """

    def __init__(self, model: zfit.pdf.BasePDF):
        super().__init__(model.get_params(floating=None, is_yield=False))
        self._model, expansion = model, expansion_of(model)
        self.precompute, self.adapt, self.expand = expansion.precompute, expansion.adapt, expansion.expand
        self._log_density = read_once()(expansion.log_density)
        compiled = functools.partial(Compiled, xla=is_compilable(model))
        self.bounded_value = compiled(self._bounded_value)
        self.bounded_gradient = compiled(self._bounded_gradient)
        self._batch = compiled(self._second_derivatives_of_batch)

    def value(self, *chunk: Any) -> tf.Tensor:
        """The sum."""
        return self.bounded_value(*chunk)[0]

    def value_gradient(self, *chunk: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum and its gradient ``(P,)``."""
        bounded, gradient = self.bounded_gradient(*chunk)
        return bounded[0], gradient

    def hessian_vectors(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """Products of the Hessian with vectors ``(D, P)``."""
        return self.in_batches(self._batch, directions, *chunk)[0]

    def scores(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """Derivatives ``(D, n)`` of every log-density along directions ``(D, P)``."""
        return self.in_batches(self._batch, directions, *chunk)[1]

    def chunk_size(self, n_events: int) -> int:
        """Events per call for a data set of a size: calls are costly, and so are events that fill the last one."""
        return SMALL_CHUNK if n_events <= _PILOT_SHARE * SMALL_CHUNK else CHUNK

    def _bounded_value(self, expanded: Any, weights: tf.Tensor) -> tf.Tensor:
        value, error = self._log_density(expanded)
        # Errors of different events may have one sign: a shift moves all of them. Nobody asks for their derivatives.
        error = tf.stop_gradient(tf.reduce_sum(tf.abs(weights) * tf.cast(error, tf.float64)))
        return tf.stack([-tf.reduce_sum(weights * value), error])

    def _bounded_gradient(self, *chunk: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.params)
            bounded = self._bounded_value(*chunk)
            value = bounded[0]
        return bounded, vector(tape.gradient(value, self.params, unconnected_gradients=_ZERO))

    def in_batches(
        self, function: Callable[..., Sequence[tf.Tensor]], directions: tf.Tensor, *chunk: Any
    ) -> list[tf.Tensor]:
        """What a function gives for directions, in batches of one size: they read the coefficients once for all directions."""
        n, size = len(directions), min(_DIRECTIONS, len(self.params), self._most_directions)
        padded = tf.pad(directions, [[0, -n % size], [0, 0]])
        parts = [function(padded[rows], *chunk) for rows in slices(len(padded), size)]
        return [tf.concat(results, axis=0)[:n] for results in zip(*parts, strict=True)]

    @property
    def _most_directions(self) -> int:
        """How many there is memory for, since nodes of integrals that a map moves are differentiated along each of them."""
        deformations = (getattr(part, "deformation", None) for part in components(self._model))
        weighed = (getattr(one, "reweighting", None) for one in deformations)
        return int(max(_NUMBERS // max([1, *(one.size for one in weighed if one is not None)]), 1))

    def scores_of_batch(self, directions: tf.Tensor, expanded: Any, weights: tf.Tensor) -> tuple[tf.Tensor]:
        """Derivatives ``(D, n)`` of every log-density along directions, to be compiled where nothing else is asked for."""

        def score(direction: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                slope = tf.tensordot(direction, self._bounded_gradient(expanded, weights)[1], 1)
            return -tape.gradient(slope, weights, unconnected_gradients=_ZERO)

        return (tf.vectorized_map(score, directions),)

    def _second_derivatives_of_batch(self, directions: tf.Tensor, *chunk: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.vectorized_map(lambda direction: self._second_derivatives(direction, *chunk), directions)

    def _second_derivatives(
        self, direction: tf.Tensor, expanded: Any, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Of the sum, along a direction and with respect to the parameters, and to the weights: that is the score."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([self.params, weights])
            slope = tf.tensordot(direction, self._bounded_gradient(expanded, weights)[1], 1)
        *hessian, score = tape.gradient(slope, [*self.params, weights], unconnected_gradients=_ZERO)
        return vector(hessian), -score


def expanded_kernel(model: zfit.pdf.BasePDF) -> Any:
    """The `ExpandedKernel` of a model, one for its life; `None` if events of the model have no polynomials."""
    return kept_by(model, "expanded", lambda: ExpandedKernel(model) if expansion_of(model).order else None)


class ExpandedEvents(EventChunks):
    """A data set in chunks that are expanded around the parameters as they were when `move` was last called.

    Args:
        kernel: The kernel of the model.
        x: Events ``(n, n_obs)``, in the order of the model's observables, in random order: the first chunks stand for all.
        weights: Weights ``(n,)``.
        max_memory: Bytes for expanded chunks, of which there are ``n_expanded``. As many of them as have room beside
            those keep what was precomputed as well, to be expanded elsewhere.

    Attributes:
        n_events: Number of events in these chunks; those beyond have no room.
        n_pilot: Number of chunks that stand for all of them.
    """

    def __init__(self, kernel: ExpandedKernel, x: np.ndarray, weights: np.ndarray, *, max_memory: float):
        super().__init__(kernel, x, weights, max_memory=0.0)
        self._expand = kernel.expand
        self._expanded: list[Any] = []
        first = kernel.precompute(self._chunks[0])
        kernel.adapt(first, len(x))
        shared = {id(tensor) for tensor in tf.nest.flatten(first)}
        expanded = tf.nest.flatten(self._expand(first))
        taken = max(n_bytes(expanded), 1)
        more = n_bytes(first) - n_bytes([tensor for tensor in expanded if id(tensor) in shared])
        self.n_expanded = min(len(self._chunks), int(max_memory // taken))
        self.n_kept = min(self.n_expanded, int((max_memory - self.n_expanded * taken) // max(more, 1)))
        kept = [first, *map(kernel.precompute, self._chunks[1 : self.n_kept])]
        self._chunks[: self.n_kept] = kept[: self.n_kept]
        self.n_events = min(len(x), self.size * self.n_expanded)
        self.n_pilot = -(-self.n_expanded // _PILOT_SHARE)

    def __len__(self) -> int:
        return self.n_expanded

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """Expanded events and weights, chunk by chunk."""
        return zip(self._expanded, self._weights, strict=False)

    def exact(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """The same, with the exact value and gradient at the current parameters; one chunk is in memory at a time."""
        chunks = (self._expand(chunk, linear=True, whole=True) for chunk in self._precomputed())
        return zip(chunks, self._weights[: self.n_expanded], strict=True)

    def exact_of(self, x: np.ndarray) -> Iterator[tuple[Any, tf.Tensor]]:
        """The same of other events ``(n, n_obs)``, in chunks of the same size; the last one is filled up with copies."""
        for rows in slices(len(x), self.size):
            chunk = tf.constant(np.resize(x[rows], (self.size, x.shape[1])))
            yield self._expand(self._precompute(chunk), linear=True, whole=True), tf.ones(self.size, tf.float64)

    def move(self) -> None:
        """Expand around the current parameters."""
        self._expanded = []  # not two of them in memory
        self._expanded = [self._expand(chunk) for chunk in self._precomputed()]

    def move_pilot(self) -> None:
        """Expand the first chunks only, to first order."""
        pilot = itertools.islice(self._precomputed(), self.n_pilot)
        self._expanded = [self._expand(chunk, linear=True) for chunk in pilot]

    def _precomputed(self) -> Iterator[Any]:
        others = self._chunks[self.n_kept : self.n_expanded]
        return itertools.chain(self._chunks[: self.n_kept], map(self._precompute, others))

"""Kernels: the terms of a likelihood as compiled functions of zfit parameters, with their derivatives.

The kernel of the events belongs to the *model* and is called on chunks of one size, with the events as arguments: a new
loss of the same model, with other data, compiles nothing, and memory is bounded by the chunk.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common import chunks
from ..param import NuisanceConstraint, read_once
from ..pdf import is_compilable, log_density, precompute
from .zfit_hooks import fast_call, raw_limits

__all__ = [
    "MAX_MEMORY",
    "Compiled",
    "EventChunks",
    "EventKernel",
    "Kernel",
    "NuisanceTerm",
    "Parameters",
    "Term",
    "constraint_kernel",
    "directions_along",
    "event_kernel",
    "kept_by",
    "n_bytes",
    "outside_of_graphs",
    "rate_kernel",
    "select",
    "total",
    "total_hessian",
    "vector",
    "yield_gradient",
]

MAX_MEMORY = 4e9
"""Bytes of precomputed events that a loss keeps; beyond, events are precomputed anew in every evaluation."""

Parameters = Sequence[zfit.Parameter]

_KEPT = "_zfit_fnf_kept"
_ZERO = tf.UnconnectedGradients.ZERO
_making = threading.RLock()


class Compiled:
    """A tensor function, compiled when first called, once per shape of its arguments.

    Args:
        function: Takes nests of tensors.
        xla: Whether XLA compiles it.
    """

    def __init__(self, function: Callable[..., Any], *, xla: bool):
        self._function, self._xla = function, xla
        self.forget()

    def forget(self) -> None:
        """Compile anew when called next."""
        self._graph = tf.function(self._function, autograph=False)
        self._compiled = tf.function(self._graph, autograph=False, jit_compile=True) if self._xla else self._graph
        self._concrete: dict[tuple[Any, ...], Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Compiled, xla=self._xla), (self._function,)

    @property
    def n_traces(self) -> int:
        """How often it was traced so far."""
        return self._compiled.experimental_get_tracing_count()

    def __call__(self, *args: Any) -> Any:
        tensors = tf.nest.flatten(args)
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._concrete:
            # Under XLA, TensorFlow differentiates concatenations into an operation that has no derivative of its own.
            # A graph that exists before XLA sees it has all derivatives.
            self._graph.get_concrete_function(*args)
            concrete = self._compiled.get_concrete_function(*args)
            self._concrete[shapes] = concrete, fast_call(concrete)
        if not tf.executing_eagerly():
            return self._compiled(*args)
        return self._concrete[shapes][1](tensors, args)


class Term:
    """A term of a likelihood: what is compiled for some parameters.

    Limits of parameters are built into compiled code, by zfit too: `follow_limits` has it compiled anew where they
    were changed.

    Args:
        params: The independent parameters.
    """

    def __init__(self, params: Iterable[zfit.Parameter]):
        self.params = tuple(params)
        self._limits = self._read_limits()

    def follow_limits(self) -> None:
        """To be called before an evaluation."""
        # Almost always the same objects, of which the values are not looked at.
        if (limits := self._read_limits()) != self._limits:
            self._limits = limits
            for part in self._compiled():
                part.forget()

    def _read_limits(self) -> list[tuple[Any, Any]]:
        return list(map(raw_limits, self.params))

    def _compiled(self) -> list[Compiled]:
        return [part for part in vars(self).values() if isinstance(part, Compiled)]


class Kernel(Term):
    """A scalar function of zfit parameters with its derivatives, each compiled when first called, once per shape.

    Args:
        function: Takes tensors, reads parameters, returns a scalar.
        params: The independent parameters it may depend on; derivatives with respect to the others are zero.
        xla: Whether XLA compiles it.

    Attributes:
        value: ``value(*args)``, the function.
        value_gradient: ``value_gradient(*args)``, the function and its gradient ``(P,)`` in the order of ``params``.
    """

    def __init__(self, function: Callable[..., tf.Tensor], params: Iterable[zfit.Parameter], *, xla: bool):
        super().__init__(params)
        self._function = function
        self.value = Compiled(function, xla=xla)
        self.value_gradient = Compiled(self._value_gradient, xla=xla)
        # XLA would fold the many constant tangents of forward mode with its slow interpreter, for minutes.
        self._compiled_hessian_vector = Compiled(self._hessian_vector, xla=False)

    @property
    def n_traces(self) -> int:
        """How often anything was traced so far."""
        return sum(part.n_traces for part in self._compiled())

    def hessian_vectors(self, directions: tf.Tensor, *args: Any) -> tf.Tensor:
        """Products of the Hessian with vectors ``(D, P)``."""
        return tf.stack([self._compiled_hessian_vector(direction, *args) for direction in tf.unstack(directions)])

    def _value_gradient(self, *args: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.params)
            value = self._function(*args)
        return value, vector(tape.gradient(value, self.params, unconnected_gradients=_ZERO))

    def _hessian_vector(self, tangent: tf.Tensor, *args: Any) -> tf.Tensor:
        return self._along(tangent, lambda: self._value_gradient(*args)[1])

    def _along(self, tangent: tf.Tensor, function: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Derivative of a tensor along a direction in the space of the parameters."""
        tangents = tuple(tf.unstack(tangent, num=len(self.params)))
        with tf.autodiff.ForwardAccumulator(self.params, tangents) as accumulator:
            output = function()
        return accumulator.jvp(output, unconnected_gradients=_ZERO)


class EventKernel(Kernel):
    """Minus the weighted sum of the log-densities of a chunk of precomputed events, ``(precomputed, weights)``.

    Args:
        model: Any PDF.
        xla: Whether XLA compiles it where it can, which takes longer than a few evaluations without it.

    Attributes:
        precompute: ``precompute(x)``, the precomputed events ``(n, n_obs)``.
        score: ``score(tangent, precomputed, weights)``, the derivative ``(n,)`` of every log-density along a direction.
    """

    def __init__(self, model: zfit.pdf.BasePDF, *, xla: bool = True):
        self._log_density: Callable[[Any], tf.Tensor] = read_once()(functools.partial(log_density, model))
        self._chunk = chunks.GRAPH if xla else chunks.SMALL_GRAPH
        if xla := xla and is_compilable(model):
            self._chunk = chunks.XLA
        super().__init__(self._sum, model.get_params(floating=None, is_yield=False), xla=xla)
        self.precompute: Callable[[tf.Tensor], Any] = Compiled(functools.partial(precompute, model), xla=xla)
        self.score = Compiled(self._score, xla=xla)

    def chunk_size(self, n_events: int) -> int:
        """Events per call for a data set of a size."""
        del n_events
        return self._chunk

    def scores(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """As `score`, along directions ``(D, P)``: ``(D, n)``."""
        return tf.stack([self.score(direction, *chunk) for direction in tf.unstack(directions)])

    def _sum(self, precomputed: Any, weights: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(weights * self._log_density(precomputed))

    def _score(self, tangent: tf.Tensor, precomputed: Any, weights: tf.Tensor) -> tf.Tensor:
        del weights
        return self._along(tangent, lambda: self._log_density(precomputed))


class NuisanceTerm(Term):
    """Kernel of a :class:`NuisanceConstraint`, whose second derivatives are known."""

    def __init__(self, constraint: NuisanceConstraint):
        super().__init__(constraint.nuisances)
        # Without compilation, to read a hundred parameters takes as long as ten thousand events.
        self._gradient = Compiled(constraint.gradient, xla=True)

    def value(self) -> tf.Tensor:
        return self.value_gradient()[0]

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        gradient = self._gradient()
        return 0.5 * tf.reduce_sum(tf.square(gradient)), gradient

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        return directions


class EventChunks:
    """A data set in chunks of one size, precomputed for the kernel of its model.

    Args:
        kernel: An `EventKernel`, or what has a ``chunk_size`` and a ``precompute`` as it has.
        x: Events ``(n, n_obs)``, in the order of the model's observables.
        weights: Weights ``(n,)``, by default one.
        max_memory: Bytes for precomputed events. Chunks beyond are precomputed whenever they are asked for.

    Attributes:
        size: Events of a chunk; the last one is filled up with events of weight zero.
        n_kept: Number of chunks that are kept precomputed.
    """

    def __init__(
        self, kernel: Any, x: np.ndarray, weights: np.ndarray | None = None, *, max_memory: float = MAX_MEMORY
    ):
        self.size = size = kernel.chunk_size(len(x))
        weights = np.ones(len(x)) if weights is None else weights
        self._precompute = kernel.precompute
        starts = range(0, len(x), size)
        self._weights = [tf.constant(_padded(weights[start : start + size], size, 0.0)) for start in starts]
        self._chunks = [tf.constant(_padded(x[start : start + size], size, x[0])) for start in starts]
        self.n_kept = 0
        if max_memory:
            first = kernel.precompute(self._chunks[0])
            self.n_kept = min(len(self._chunks), int(max_memory // max(n_bytes(first), 1)))
            kept = [first, *map(kernel.precompute, self._chunks[1 : self.n_kept])]
            self._chunks[: self.n_kept] = kept[: self.n_kept]

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """Precomputed events and weights, chunk by chunk."""
        kept, others = self._chunks[: self.n_kept], self._chunks[self.n_kept :]
        return zip(itertools.chain(kept, map(self._precompute, others)), self._weights, strict=True)


class _Kept(dict[str, Any]):
    """What is kept by an object; it is not copied or stored with it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


def kept_by(owner: Any, kind: str, make: Callable[[], Any]) -> Any:
    """What is made once for an object, and lives as long as it does; copies make their own."""
    # An attribute, not a weak mapping: a kernel refers to its model, which a mapping would therefore never let go.
    kept = vars(owner).get(_KEPT, {})
    if kind not in kept:
        with _making, outside_of_graphs():
            kept = vars(owner).setdefault(_KEPT, _Kept())
            if kind not in kept:
                kept[kind] = make()
    made = kept[kind]
    if isinstance(made, Term):
        made.follow_limits()
    return made


def outside_of_graphs() -> AbstractContextManager[Any]:
    """Context in which tensors have values, also while a graph is traced."""
    # Gradient tapes record nothing in an init_scope: it is entered only where there is no other way.
    return nullcontext() if tf.executing_eagerly() else tf.init_scope()


def event_kernel(model: zfit.pdf.BasePDF) -> EventKernel:
    """The kernel of a model's events, one for the life of the model."""
    return kept_by(model, "event", lambda: EventKernel(model))


def rate_kernel(model: zfit.pdf.BasePDF) -> Kernel:
    """The kernel of an extended model's rate, ``n - W log n`` as a function of the sum of weights ``W``."""

    def rate(sum_weights: tf.Tensor) -> tf.Tensor:
        expected = tf.reshape(model.get_yield().value(), ())
        return expected - tf.math.xlogy(sum_weights, expected)  # without events a rate of zero is as good as any

    return kept_by(model, "rate", lambda: Kernel(rate, model.get_params(floating=None, is_yield=True), xla=False))


def yield_gradient(model: zfit.pdf.BasePDF, params: Parameters) -> tuple[float, np.ndarray]:
    """Expected number of events of an extended model, and its derivative ``(P,)``; zero without a yield."""
    if not model.is_extended:
        return 0.0, np.zeros(len(params))
    kernel = rate_kernel(model)
    expected, gradient = kernel.value_gradient(tf.constant(0.0, tf.float64))
    return float(expected), np.asarray(select(gradient, kernel.params, params))


def constraint_kernel(constraint: Any) -> Any:
    """The kernel of a constraint, one for the life of the constraint; its method ``as_term`` makes it, if it has one."""
    if hasattr(constraint, "as_term"):
        return kept_by(constraint, "constraint", constraint.as_term)
    if isinstance(constraint, NuisanceConstraint):
        return kept_by(constraint, "constraint", lambda: NuisanceTerm(constraint))

    def value() -> tf.Tensor:
        return tf.reshape(constraint.value(), ())

    return kept_by(constraint, "constraint", lambda: Kernel(value, constraint.get_params(floating=None), xla=False))


def total_hessian(kernel: Any, calls: Iterable[tuple[Any, ...]], params: Parameters) -> tf.Tensor:
    """Hessian ``(P, P)`` with respect to ``params`` of a sum of calls; one call is in memory at a time."""
    own = [parameter for parameter in params if parameter in kernel.params]
    if not own:
        return tf.zeros((len(params), len(params)), tf.float64)
    directions = directions_along(kernel.params, own)
    rows = tf.add_n([kernel.hessian_vectors(directions, *arguments) for arguments in calls])
    return select(tf.transpose(select(tf.transpose(rows), kernel.params, params)), own, params)


def directions_along(own: Parameters, params: Parameters) -> tf.Tensor:
    """Unit vectors in the space of ``own`` along each of ``params``; zero for a parameter that is not among them."""
    vectors = [[float(mine is parameter) for mine in own] for parameter in params]
    return tf.reshape(tf.constant(vectors, tf.float64), (len(params), len(own)))


def select(values: tf.Tensor, own: Parameters, params: Parameters) -> tf.Tensor:
    """Rows by parameter of ``own``, in the order of ``params``; zero for a parameter that is not among them."""
    position = {parameter: index for index, parameter in enumerate(own)}
    padded = tf.pad(values, [[0, 1]] + [[0, 0]] * (values.shape.rank - 1))
    return tf.gather(padded, np.array([position.get(parameter, len(own)) for parameter in params], int))


def n_bytes(nest: Any) -> int:
    """Bytes that a nest of tensors takes, such as a chunk of precomputed events."""
    return sum(tensor.dtype.size * tensor.shape.num_elements() for tensor in tf.nest.flatten(nest))


def vector(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Scalars as a vector, also if there are none."""
    return tf.stack(values) if values else tf.zeros((0,), tf.float64)


def total(tensors: Sequence[tf.Tensor], shape: tuple[int, ...] = ()) -> tf.Tensor:
    """Sum of tensors of one shape, also if there are none."""
    return tf.add_n(tensors) if tensors else tf.zeros(shape, tf.float64)


def _padded(values: np.ndarray, size: int, fill: Any) -> np.ndarray:
    padding = np.broadcast_to(fill, (size - len(values), *values.shape[1:]))
    return np.concatenate([values, padding]) if len(padding) else values

"""Densities that are polynomials in the shift of an event, around a centre in the space of their parameters.

What :mod:`zfit_fnf.densities.taylor` does for one nominal density is done here for the models of a likelihood, by
one function for each step and kind of PDF: events are `gathered` once, `expanded` wherever the centre moves to, and
`log_expanded` gives their log-densities. What has no polynomials goes through all three as it is. Kernel and chunks
take the places of those of :mod:`zfit_fnf.loss`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..densities.deformation import Deformation
from ..densities.flows import Density
from ..densities.networks import PerArchitecture
from ..densities.polynomial_map import PolynomialMap
from ..densities.taylor import expand, expansion_order, monomials, polynomial, remainder, steepness
from ..loss import XLA_CHUNK, Compiled, EventKernel, Events, kept_by, vector
from ..param import read_once
from ..pdf import FNFPDF, ConditionalProductPDF, SumPDF, columns, is_compilable, log_density, precompute
from .compression import compress, contract, left_out, principal_components

SMALL_CHUNK, CHUNK = 4096, 16384
"""Events per call of the compiled code, for small and for large data sets."""

_LEAST_FRACTION = 1e-3  # of a part of a sum, for errors: about as well as fractions are known
_OVERFLOW = 80.0  # logarithm of what float32 can hold, with room for a sum
_ZERO = tf.UnconnectedGradients.ZERO
_LEFT_OUT = 0.02  # of the shift of an event by the compression of coefficients, times the root of the number of events
_DIRECTIONS = 16  # along which second derivatives are computed at a time
_PILOT_SHARE = 8  # one chunk of so many tells where to expand all of them


@functools.singledispatch
def gathered(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What depends on the events ``(n, n_obs)`` alone: a nest of tensors. By default what the exact density needs."""
    return precompute(pdf, x)


@functools.singledispatch
def adapt(pdf: zfit.pdf.BasePDF, data: Any, n_events: int) -> None:
    """Choose the combinations of coefficients for ``n_events`` events, of which some have been gathered."""
    del pdf, data, n_events


@functools.singledispatch
def expanded(pdf: zfit.pdf.BasePDF, data: Any, *, linear: bool = False, whole: bool = False) -> Any:
    """Gathered events, expanded around the current parameters; by default they stay as they are.

    Without the terms beyond the first order (``linear``) the value and the gradient at the current parameters are as
    good, and cheaper to have. They are exact if the coefficients are not compressed (``whole``).
    """
    del pdf, linear, whole
    return data


@functools.singledispatch
def log_expanded(pdf: zfit.pdf.BasePDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` float64 of expanded events, and in float32 how wrong it may be."""
    value = log_density(pdf, nest)
    return value, tf.zeros_like(value, tf.float32)


@functools.singledispatch
def method(pdf: zfit.pdf.BasePDF) -> str:
    """How `log_expanded` evaluates a density, in words."""
    return "exact" if pdf.get_params(floating=None, is_yield=False) else "constant"


# A factorizable normalizing flow with one layer: the shift of an event is a contraction of its coefficients.


def order_of(pdf: zfit.pdf.BasePDF) -> int:
    """Order of the polynomials of a density; zero if it is evaluated as it is."""
    if not isinstance(pdf, FNFPDF) or not isinstance(pdf.deformation, Deformation) or pdf.deformation.n_layers > 1:
        return 0
    return expansion_order(pdf.deformation.flow.density)


@gathered.register
def _(pdf: FNFPDF, x: tf.Tensor) -> Any:
    if not order_of(pdf):
        return precompute(pdf, x)
    # Without the flow and the yields, which may differ where the responses are of one architecture.
    deformation = cast(Deformation, pdf.deformation)
    responses = PolynomialMap(deformation.responses, windows=deformation.windows)
    u, c, log_jacobian = pdf.encode(x)
    with _coefficients.of(responses) as function:
        (coefficients,) = _in_pieces(function, tf.cast(u, tf.float32), tf.cast(c, tf.float32))
    coefficients = tf.reshape(coefficients, (coefficients.shape[0], -1))
    return tf.transpose(u), tf.transpose(c), log_jacobian, coefficients, responses.calibration()


@PerArchitecture
def _coefficients(responses: PolynomialMap, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor]:
    """Coefficients ``(M, 2, d, n)``."""
    return (tf.transpose(responses.coefficients(u, c), (1, 3, 2, 0)),)


def _moved(pdf: FNFPDF, data: Any) -> tuple[tf.Tensor, ...]:
    """Basis ``(M,)`` at the current nuisances; there the log-scales, scaled coordinates and shifts, ``(d, n)`` each."""
    u, _, _, coefficients, calibration = data
    basis = tf.stop_gradient(_basis(pdf, calibration))  # a tape of the user may be watching
    contracted = basis[None, :] @ tf.cast(coefficients, tf.float64)
    log_scale, shift = tf.unstack(tf.reshape(contracted, (2, *u.shape)))
    return basis, log_scale, u * tf.exp(log_scale), shift


def _basis(pdf: FNFPDF, calibration: tf.Tensor) -> tf.Tensor:
    return cast(Deformation, pdf.deformation).basis(pdf.nu(), calibration)


def _projections(pdf: FNFPDF) -> list[tf.Tensor]:
    """Those that were chosen for the coefficients of a density; to begin with there are none."""
    return kept_by(pdf, "projections", list)


@adapt.register
def _(pdf: FNFPDF, data: Any, n_events: int) -> None:
    if not order_of(pdf):
        return
    coefficients, n_outputs = data[3], 2 * len(pdf.deformation.flow.obs)
    # What is left out may move no event by more than all events together can tell.
    tolerance, known = _LEFT_OUT / np.sqrt(n_events), _projections(pdf)
    if not known or left_out(coefficients, n_outputs, known) > 2.0 * tolerance:
        # Other data of the same density may be expanded again: what serves them stays.
        known[:] = principal_components(coefficients, n_outputs, tolerance, known)


@expanded.register
def _(pdf: FNFPDF, data: Any, *, linear: bool = False, whole: bool = False) -> Any:
    if not order_of(pdf):
        return data
    _, c, log_jacobian, coefficients, calibration = data
    centre, log_scale, scaled, shift = _moved(pdf, data)
    with (_linearise if linear else _expand).of(pdf.deformation.flow.density) as expansion:
        log_density, coefficients_of_shift = _in_pieces(expansion, tf.transpose(scaled + shift), tf.transpose(c))
    return {
        "centre": centre,
        "calibration": calibration,
        "blocks": compress(coefficients, [tf.eye(len(centre))] if whole else _projections(pdf)),
        "scaled": tf.cast(scaled, tf.float32),
        "polynomial": coefficients_of_shift,
        "steepness": steepness(coefficients_of_shift, len(scaled), order_of(pdf)),
        "log_density": log_density + log_jacobian + tf.reduce_sum(log_scale, axis=0),
    }


@log_expanded.register
def _(pdf: FNFPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    if not (order := order_of(pdf)):
        return log_expanded.dispatch(object)(pdf, nest)
    # Differences to the centre are small: float32 resolves them better than anybody asks for.
    basis = tf.cast(_basis(pdf, nest["calibration"]) - nest["centre"], tf.float32)
    log_scale, shift = tf.unstack(tf.reshape(contract(basis, nest["blocks"]), (2, *nest["scaled"].shape)))
    delta = tf.unstack(nest["scaled"] * tf.math.expm1(log_scale) + shift)
    rise = polynomial(nest["polynomial"], delta, order)
    error = remainder(tf.add_n([tf.abs(moved) for moved in delta]), rise, nest["steepness"], order)
    value = nest["log_density"] + tf.cast(rise + tf.reduce_sum(log_scale, axis=0), tf.float64)
    return value - pdf.log_integral(pdf.norm), error


@method.register
def _(pdf: FNFPDF) -> str:
    order = order_of(pdf)
    return f"polynomials of order {order} in the shift" if order else "exact"


@PerArchitecture
def _expand(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` in float64, whose rounding errors would add up, and the other coefficients in float32."""
    single = tf.cast(u, tf.float32), tf.cast(c, tf.float32)
    return density.log_density(u, c), expand(density, single[0], density.precompute(single[1]))[1:]


@PerArchitecture
def _linearise(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_expand`, with zeros beyond the first order, and that by automatic differentiation."""
    single = tf.cast(u, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(single)
        value = density.log_density(single, tf.cast(c, tf.float32))
    slopes = tf.transpose(tape.gradient(value, single))
    n_terms = len(monomials(density.n_dim, expansion_order(density))) - 1
    return density.log_density(u, c), tf.pad(slopes, [[0, n_terms - density.n_dim], [0, 0]])


def _in_pieces(function: Callable[..., Any], *args: tf.Tensor) -> list[tf.Tensor]:
    """Apply a function to as many events at once as the caches of a processor hold.

    Events are the first axis of the arguments and the last one of the results.
    """
    starts = range(0, args[0].shape[0], XLA_CHUNK)
    pieces = [function(*(values[start : start + XLA_CHUNK] for values in args)) for start in starts]
    return [tf.concat(parts, axis=-1) for parts in zip(*pieces, strict=True)]


# Sums and products of densities.


@gathered.register(SumPDF)
@gathered.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, x: tf.Tensor) -> Any:
    return [gathered(part, columns(x, pdf.obs, part.obs)) for part in pdf.pdfs]


@adapt.register(SumPDF)
@adapt.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, data: Any, n_events: int) -> None:
    for part, events in zip(pdf.pdfs, data, strict=True):
        adapt(part, events, n_events)


@expanded.register(SumPDF)
@expanded.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, data: Any, **options: bool) -> Any:
    return [expanded(part, events, **options) for part, events in zip(pdf.pdfs, data, strict=True)]


@log_expanded.register
def _(pdf: SumPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    values, errors = _of_parts(pdf, nest)
    total, weights = pdf.mix(values), pdf.weights()
    # A part without events adds nothing, but its density is the slope with which it would.
    fractions = tf.maximum(tf.abs(tf.cast(weights / tf.reduce_sum(weights), tf.float32)), _LEAST_FRACTION)
    shares = tf.math.log(fractions)[:, None] + tf.cast(tf.stack(values) - total, tf.float32)
    largest = tf.stack(errors)
    # What each part could add to the density: one that is tiny may have been thought so by mistake.
    return total, tf.reduce_sum(largest * tf.exp(tf.minimum(shares + largest, _OVERFLOW)), axis=0)


@log_expanded.register
def _(pdf: ConditionalProductPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    values, errors = _of_parts(pdf, nest)
    return tf.add_n(values), tf.add_n(errors)


def _of_parts(pdf: Any, nest: Any) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    results = [log_expanded(part, events) for part, events in zip(pdf.pdfs, nest, strict=True)]
    values, errors = zip(*results, strict=True)
    return values, errors


class ExpandedKernel(EventKernel):
    """As `EventKernel`, of expanded events. Its value is ``(2,)``: the sum, and how wrong it may be."""

    def __init__(self, model: zfit.pdf.BasePDF):
        super().__init__(model)
        self._log_expanded = read_once()(functools.partial(log_expanded, model))
        self._batch = Compiled(self._second_derivatives_of_batch, xla=is_compilable(model))
        self.adapt = functools.partial(adapt, model)
        self.expand = functools.partial(expanded, model)
        self.precompute = functools.partial(gathered, model)

    def hessian_vectors(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """Products of the Hessian with vectors ``(D, P)``."""
        return self._along_directions(directions, *chunk)[0]

    def scores(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """Derivatives ``(D, n)`` of every log-density along directions ``(D, P)``."""
        return self._along_directions(directions, *chunk)[1]

    def chunk_size(self, n_events: int) -> int:
        """Events per call for a data set of a size: calls are costly, and so are events that fill the last one."""
        return SMALL_CHUNK if n_events <= _PILOT_SHARE * SMALL_CHUNK else CHUNK

    def _sum(self, nest: Any, weights: tf.Tensor) -> tf.Tensor:
        value, error = self._log_expanded(nest)
        # Errors of different events may have one sign: a shift moves all of them. Nobody asks for their derivatives.
        error = tf.stop_gradient(tf.reduce_sum(tf.abs(weights) * tf.cast(error, tf.float64)))
        return tf.stack([-tf.reduce_sum(weights * value), error])

    def _value_gradient(self, *args: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.params)
            sums = self._sum(*args)
            value = sums[0]
        return sums, vector(tape.gradient(value, self.params, unconnected_gradients=_ZERO))

    def _along_directions(self, directions: tf.Tensor, *chunk: Any) -> list[tf.Tensor]:
        """What `_second_derivatives` gives, in batches of one size: they read the coefficients once for all directions."""
        n, size = len(directions), min(_DIRECTIONS, len(self.params))
        padded = tf.pad(directions, [[0, -n % size], [0, 0]])
        parts = [self._batch(padded[start : start + size], *chunk) for start in range(0, n, size)]
        return [tf.concat(results, axis=0)[:n] for results in zip(*parts, strict=True)]

    def _second_derivatives_of_batch(self, directions: tf.Tensor, *chunk: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.vectorized_map(lambda direction: self._second_derivatives(direction, *chunk), directions)

    def _second_derivatives(self, direction: tf.Tensor, nest: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of the sum, along a direction and with respect to the parameters, and to the weights: that is the score."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([self.params, weights])
            slope = tf.tensordot(direction, self._value_gradient(nest, weights)[1], 1)
        *hessian, score = tape.gradient(slope, [*self.params, weights], unconnected_gradients=_ZERO)
        return vector(hessian), -score


class ExpandedEvents(Events):
    """Chunks that are expanded around the parameters as they were when `move` was last called.

    Args:
        kernel: The kernel.
        x: As for `Events`.
        weights: As for `Events`.
        max_memory: Bytes for expanded chunks, of which there are ``n_expanded``. As many of them as have room beside
            those are kept precomputed as well, to be expanded elsewhere.

    Attributes:
        n_events: Number of events in these chunks.
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
        taken = max(kernel.size(expanded), 1)
        more = kernel.size(first) - kernel.size([tensor for tensor in expanded if id(tensor) in shared])
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
        chunks = (self._expand(chunk, linear=True, whole=True) for chunk in self._prepared())
        return zip(chunks, self._weights[: self.n_expanded], strict=True)

    def move(self) -> None:
        """Expand around the current parameters."""
        self._expanded = []  # not two of them in memory
        self._expanded = [self._expand(chunk) for chunk in self._prepared()]

    def move_pilot(self) -> None:
        """Expand the first chunks only, to first order."""
        self._expanded = [
            self._expand(chunk, linear=True) for chunk in itertools.islice(self._prepared(), self.n_pilot)
        ]

    def _prepared(self) -> Iterator[Any]:
        others = self._chunks[self.n_kept : self.n_expanded]
        return itertools.chain(self._chunks[: self.n_kept], map(self._precompute, others))

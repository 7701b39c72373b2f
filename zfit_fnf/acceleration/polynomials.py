"""Densities that are polynomials in the shift of an event, around a centre in the space of their parameters.

What :mod:`zfit_fnf.densities.taylor` does for one nominal density is done here for the models of a likelihood, by
one function for each step and kind of PDF: `precompute` is called once per event, `expanded` wherever the centre moves
to, and `log_expanded` gives the log-densities. What has no polynomials goes through all three as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import XLA, slices
from ..densities.deformation import Deformation
from ..densities.flows import Density
from ..densities.model import PerArchitecture
from ..densities.polynomial_map import PolynomialMap
from ..densities.taylor import expand, expansion_order, monomials, polynomial, remainder, steepness
from ..loss import kept_by
from ..pdf import FNFPDF, ConditionalProductPDF, SumPDF, columns, log_density
from ..pdf import precompute as precompute_exactly
from .compression import compress, contract, left_out, principal_components

__all__ = ["adapt", "expanded", "log_expanded", "method", "order_of", "precompute"]

_LEAST_FRACTION = 1e-3  # of a part of a sum, for errors: about as well as fractions are known
_OVERFLOW = 80.0  # logarithm of what float32 can hold, with room for a sum
_LEFT_OUT = 0.02  # of the shift of an event by the compression of coefficients, times the root of the number of events


@functools.singledispatch
def precompute(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What depends on the events ``(n, n_obs)`` alone: a nest of tensors. By default what the exact density needs."""
    return precompute_exactly(pdf, x)


@functools.singledispatch
def adapt(pdf: zfit.pdf.BasePDF, data: Any, n_events: int) -> None:
    """Choose the combinations of coefficients for ``n_events`` events, some of which have been precomputed."""
    del pdf, data, n_events


@functools.singledispatch
def expanded(pdf: zfit.pdf.BasePDF, data: Any, *, linear: bool = False, whole: bool = False) -> Any:
    """Precomputed events, expanded around the current parameters; by default they stay as they are.

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


@precompute.register
def _(pdf: FNFPDF, x: tf.Tensor) -> Any:
    if not order_of(pdf):
        return precompute_exactly(pdf, x)
    # Without the flow and the yields, which may differ where the responses are of one architecture.
    deformation = cast(Deformation, pdf.deformation)
    responses = PolynomialMap(deformation.responses, windows=deformation.windows)
    u, c, log_jacobian = pdf.encode(x)
    with _coefficients.of(responses) as function:
        (coefficients,) = _in_pieces(function, tf.cast(u, tf.float32), tf.cast(c, tf.float32))
    coefficients = tf.reshape(coefficients, (coefficients.shape[0], -1))
    return tf.transpose(u), tf.transpose(c), log_jacobian, coefficients, responses.correction()


@PerArchitecture
def _coefficients(responses: PolynomialMap, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor]:
    """Coefficients ``(M, 2, d, n)``."""
    return (tf.transpose(responses.coefficients(u, c), (1, 3, 2, 0)),)


def _moved(pdf: FNFPDF, data: Any) -> tuple[tf.Tensor, ...]:
    """Basis ``(M,)`` at the current nuisances; there the log-scales, scaled coordinates and shifts, ``(d, n)`` each."""
    u, _, _, coefficients, correction = data
    basis = tf.stop_gradient(_basis(pdf, correction))  # a tape of the user may be watching
    contracted = basis[None, :] @ tf.cast(coefficients, tf.float64)
    log_scale, shift = tf.unstack(tf.reshape(contracted, (2, *u.shape)))
    return basis, log_scale, u * tf.exp(log_scale), shift


def _basis(pdf: FNFPDF, correction: tf.Tensor) -> tf.Tensor:
    return cast(Deformation, pdf.deformation).basis(pdf.nu(), correction)


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
    _, c, log_jacobian, coefficients, correction = data
    centre, log_scale, scaled, shift = _moved(pdf, data)
    with (_linearise if linear else _expand).of(pdf.deformation.flow.density) as expansion:
        log_density, coefficients_of_shift = _in_pieces(expansion, tf.transpose(scaled + shift), tf.transpose(c))
    return {
        "centre": centre,
        "correction": correction,
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
    basis = tf.cast(_basis(pdf, nest["correction"]) - nest["centre"], tf.float32)
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
    pieces = [function(*(values[rows] for values in args)) for rows in slices(args[0].shape[0], XLA)]
    return [tf.concat(parts, axis=-1) for parts in zip(*pieces, strict=True)]


# Sums and products of densities.


@precompute.register(SumPDF)
@precompute.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, x: tf.Tensor) -> Any:
    return [precompute(part, columns(x, pdf.obs, part.obs)) for part in pdf.pdfs]


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

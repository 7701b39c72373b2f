"""Densities that are polynomials in the shift of an event, around a centre in the space of their parameters.

What :mod:`zfit_fnf.densities.taylor` does for one nominal density is done here for the models of a likelihood. An
`Expansion` of a PDF computes once what depends on the events alone, expands them wherever the centre moves to, and gives
their log-densities. There is one class for each kind of PDF, which :func:`expansion_of` chooses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import XLA, slices
from ..densities.flows import Density
from ..densities.model import PerArchitecture
from ..densities.polynomial_map import PolynomialMap
from ..densities.reweighting import Reweighting
from ..densities.taylor import expand, expansion_order, monomials, polynomial, remainder, steepness
from ..loss import kept_by
from ..pdf import FNFPDF, ConditionalProductPDF, SumPDF, columns, log_density, precompute
from .compression import compress, contract, left_out, principal_components

__all__ = ["Expansion", "expansion_of"]

_LEAST_FRACTION = 1e-3  # of a part of a sum, for errors: about as well as fractions are known
_OVERFLOW = 80.0  # logarithm of what float32 can hold, with room for a sum
_LEFT_OUT = 0.02  # of the shift of an event by the compression of coefficients, times the root of the number of events


class Expansion:
    """How the events of a PDF are expanded; of one without polynomials: they stay as they are.

    Recipe. Another kind of density that has polynomials is a class derived from this one, registered with
    :func:`expansion_of`.

    Args:
        pdf: The PDF.

    Attributes:
        order: Order of its polynomials; zero if it is evaluated as it is.
    """

    order = 0

    def __init__(self, pdf: zfit.pdf.BasePDF):
        self.pdf = pdf

    def methods(self) -> dict[str, str]:
        """How each density is evaluated, in words, by its name."""
        return {self.pdf.name: "exact" if self.pdf.get_params(floating=None, is_yield=False) else "constant"}

    def precompute(self, x: tf.Tensor) -> Any:
        """What depends on the events ``(n, n_obs)`` alone: a nest of tensors."""
        return precompute(self.pdf, x)

    def adapt(self, precomputed: Any, n_events: int) -> None:
        """Choose the combinations of coefficients for ``n_events`` events, some of which have been precomputed."""

    def expand(self, precomputed: Any, *, linear: bool = False, whole: bool = False, single: bool = False) -> Any:
        """Precomputed events, expanded around the current parameters: a nest of tensors.

        Without the terms beyond the first order (``linear``) the value and the gradient at the current parameters are as
        good, and cheaper to have. They are exact if the coefficients are not compressed (``whole``). Where only scores are
        asked for, the log-densities of linear events may have single precision (``single``), which costs half as much.
        """
        del linear, whole, single
        return precomputed

    def log_density(self, expanded: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-density ``(n,)`` float64 of expanded events, and in float32 how wrong it may be."""
        value = log_density(self.pdf, expanded)
        return value, tf.zeros_like(value, tf.float32)


@functools.singledispatch
def expansion_of(pdf: zfit.pdf.BasePDF) -> Expansion:
    """The expansion of a PDF, by its type."""
    return Expansion(pdf)


@expansion_of.register
def _(pdf: FNFPDF) -> Expansion:
    movement = pdf.deformation.movement
    if movement is None or pdf.has_moving_conditions or not expansion_order(pdf.deformation.flow.density):
        return Expansion(pdf)
    return DeformedExpansion(pdf, movement)


@expansion_of.register
def _(pdf: SumPDF) -> Expansion:
    return MixtureExpansion(pdf)


@expansion_of.register
def _(pdf: ConditionalProductPDF) -> Expansion:
    return ProductExpansion(pdf)


class DeformedExpansion(Expansion):
    """A response that moves and weighs events: the shift of an event is a contraction of its coefficients, like its weight."""

    def __init__(self, pdf: FNFPDF, movement: PolynomialMap):
        super().__init__(pdf)
        self.order = expansion_order(pdf.deformation.flow.density)
        # Without the flow and the yields, which may differ where the responses are of one architecture.
        self._map = movement
        self._weights = _Weights(pdf) if pdf.deformation.reweighting else None

    def methods(self) -> dict[str, str]:
        """How the density is evaluated, in words, by its name."""
        weighed = ", log-ratios as they are" if self._weights else ""
        return {self.pdf.name: f"polynomials of order {self.order} in the shift{weighed}"}

    @property
    def _projections(self) -> list[tf.Tensor]:
        """Those that were chosen for the coefficients of the density; to begin with there are none."""
        return kept_by(self.pdf, "projections", list)

    def precompute(self, x: tf.Tensor) -> Any:
        """Coordinates ``(d, n)``, conditions ``(m, n)``, log-Jacobian, coefficients ``(M, 2 d n)``, score correction, weights."""
        u, c, log_jacobian = self.pdf.encode(x)
        with _coefficients.of(self._map) as function:
            (coefficients,) = _in_pieces(function, tf.cast(u, tf.float32), tf.cast(c, tf.float32))
        coefficients = tf.reshape(coefficients, (coefficients.shape[0], -1))
        weights = self._weights.precompute(u, c) if self._weights else ()
        return tf.transpose(u), tf.transpose(c), log_jacobian, coefficients, self._map.correction(), weights

    def adapt(self, precomputed: Any, n_events: int) -> None:
        """Choose the combinations of coefficients for ``n_events`` events, some of which have been precomputed."""
        # What is left out may move no event by more than all events together can tell.
        tolerance = _LEFT_OUT / np.sqrt(n_events)
        _choose(self._projections, precomputed[3], 2 * len(self.pdf.deformation.obs), tolerance)
        if self._weights:
            self._weights.adapt(precomputed[5], tolerance)

    def expand(self, precomputed: Any, *, linear: bool = False, whole: bool = False, single: bool = False) -> Any:
        """Taylor coefficients of the nominal density where the deformation moves each event to, and what moves it on."""
        u, c, log_jacobian, coefficients, correction, weights = precomputed
        centre = tf.stop_gradient(self._basis(correction))  # a tape of the user may be watching
        contracted = centre[None, :] @ tf.cast(coefficients, tf.float64)
        log_scale, shift = tf.unstack(tf.reshape(contracted, (2, *u.shape)))
        scaled = u * tf.exp(log_scale)
        with (_linearise_in_single if linear and single else _linearise if linear else _expand).of(
            self.pdf.deformation.flow.density
        ) as expansion:
            log_density, coefficients_of_shift = _in_pieces(expansion, tf.transpose(scaled + shift), tf.transpose(c))
        log_density += log_jacobian + tf.reduce_sum(log_scale, axis=0)
        expanded = {
            "centre": centre,
            "correction": correction,
            "blocks": compress(coefficients, [tf.eye(centre.shape[0])] if whole else self._projections),
            "scaled": tf.cast(scaled, tf.float32),
            "polynomial": coefficients_of_shift,
            "steepness": steepness(coefficients_of_shift, scaled.shape[0], self.order),
        }
        if self._weights:
            log_weight, expanded["weights"] = self._weights.expand(weights, whole=whole)
            log_density += log_weight
        return {**expanded, "log_density": log_density}

    def log_density(self, expanded: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-density ``(n,)`` float64 of expanded events, and in float32 how wrong it may be."""
        # Differences to the centre are small: float32 resolves them better than anybody asks for.
        basis = tf.cast(self._basis(expanded["correction"]) - expanded["centre"], tf.float32)
        contracted = contract(basis, expanded["blocks"])
        log_scale, shift = tf.unstack(tf.reshape(contracted, (2, *expanded["scaled"].shape)))
        delta = tf.unstack(expanded["scaled"] * tf.math.expm1(log_scale) + shift)
        rise = polynomial(expanded["polynomial"], delta, self.order)
        error = remainder(tf.add_n([tf.abs(moved) for moved in delta]), rise, expanded["steepness"], self.order)
        rise += tf.reduce_sum(log_scale, axis=0)
        if self._weights:
            rise += self._weights.rise(expanded["weights"])
        value = expanded["log_density"] + tf.cast(rise, tf.float64)
        return value - self.pdf.log_integral(self.pdf.norm), error

    def _basis(self, correction: tf.Tensor) -> tf.Tensor:
        """Monomials ``(M,)`` of the nuisances at their current values."""
        return self._map.basis(self.pdf.nu(), correction)


class _Weights:
    """The log-weights of events by log-ratios: linear in their coefficients, so that nothing is neglected."""

    def __init__(self, pdf: FNFPDF):
        self._pdf = pdf

    @property
    def _reweighting(self) -> Reweighting:
        return cast(Reweighting, self._pdf.deformation.reweighting)

    @property
    def _projections(self) -> list[tf.Tensor]:
        """As those of the map."""
        return kept_by(self._pdf, "projections of weights", list)

    def precompute(self, u: tf.Tensor, c: tf.Tensor) -> Any:
        """Coefficients ``(M, n)``, and for a conditional density polynomials ``(n, B)`` of the conditions."""
        flow = self._pdf.deformation.flow
        coefficients, polynomials = self._reweighting.precompute(u, c, flow.precompute(c))
        return tf.cast(tf.transpose(coefficients), tf.float32), tf.cast(polynomials, tf.float32)

    def adapt(self, precomputed: Any, tolerance: float) -> None:
        """As for the map: what is left out may change no log-density by more than all events together can tell."""
        _choose(self._projections, precomputed[0], 1, tolerance)

    def expand(self, precomputed: Any, *, whole: bool) -> tuple[tf.Tensor, Any]:
        """Log-weights ``(n,)`` float64, normalised, and what tells how much they rise from here."""
        coefficients, polynomials = precomputed
        centre = tf.stop_gradient(self._reweighting.monomials(self._pdf.nu()))
        at_anchors = tf.stop_gradient(self._reweighting.log_norm_at_anchors(self._pdf.nu()))
        log_norm = self._reweighting.between_anchors(at_anchors, tf.cast(polynomials, tf.float64))
        log_weight = (centre[None, :] @ tf.cast(coefficients, tf.float64))[0] - log_norm
        blocks = compress(coefficients, [tf.eye(centre.shape[0])] if whole else self._projections)
        return log_weight, (centre, at_anchors, blocks, polynomials)

    def rise(self, expanded: Any) -> tf.Tensor:
        """How much the log-weights ``(n,)`` rise."""
        centre, at_anchors, blocks, polynomials = expanded
        nu = self._pdf.nu()
        log_weight = contract(tf.cast(self._reweighting.monomials(nu) - centre, tf.float32), blocks)
        log_norm = self._reweighting.log_norm_at_anchors(nu) - at_anchors
        return log_weight - self._reweighting.between_anchors(log_norm, polynomials)


def _choose(known: list[tf.Tensor], coefficients: tf.Tensor, n_outputs: int, tolerance: float) -> None:
    """Choose projections, unless those that are known serve."""
    if not known or left_out(coefficients, n_outputs, known) > 2.0 * tolerance:
        # Other data of the same density may be expanded again: what serves them stays.
        known[:] = principal_components(coefficients, n_outputs, tolerance, known)


class _Composite(Expansion):
    """A PDF that is made of others; its order is the highest of theirs."""

    def __init__(self, pdf: SumPDF | ConditionalProductPDF):
        super().__init__(pdf)
        self._parts = [expansion_of(part) for part in pdf.pdfs]
        self.order = max(part.order for part in self._parts)

    def methods(self) -> dict[str, str]:
        """Those of all parts."""
        return {name: method for part in self._parts for name, method in part.methods().items()}

    def precompute(self, x: tf.Tensor) -> Any:
        """That of every part."""
        return [part.precompute(columns(x, self.pdf.obs, part.pdf.obs)) for part in self._parts]

    def adapt(self, precomputed: Any, n_events: int) -> None:
        """That of every part."""
        for part, events in zip(self._parts, precomputed, strict=True):
            part.adapt(events, n_events)

    def expand(self, precomputed: Any, *, linear: bool = False, whole: bool = False, single: bool = False) -> Any:
        """That of every part."""
        pairs = zip(self._parts, precomputed, strict=True)
        return [part.expand(events, linear=linear, whole=whole, single=single) for part, events in pairs]

    def _log_densities(self, expanded: Any) -> tuple[Sequence[tf.Tensor], Sequence[tf.Tensor]]:
        """Log-densities and errors of every part."""
        results = [part.log_density(events) for part, events in zip(self._parts, expanded, strict=True)]
        values, errors = zip(*results, strict=True)
        return values, errors


class MixtureExpansion(_Composite):
    """A sum of densities."""

    def log_density(self, expanded: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-density ``(n,)`` float64 of expanded events, and in float32 how wrong it may be."""
        values, errors = self._log_densities(expanded)
        total, weights = self.pdf.mix(values), self.pdf.weights()
        # A part without events adds nothing, but its density is the slope with which it would.
        fractions = tf.maximum(tf.abs(tf.cast(weights / tf.reduce_sum(weights), tf.float32)), _LEAST_FRACTION)
        shares = tf.math.log(fractions)[:, None] + tf.cast(tf.stack(values) - total, tf.float32)
        largest = tf.stack(errors)
        # What each part could add to the density: one that is tiny may have been thought so by mistake.
        return total, tf.reduce_sum(largest * tf.exp(tf.minimum(shares + largest, _OVERFLOW)), axis=0)


class ProductExpansion(_Composite):
    """A product of densities, each conditional on what comes before."""

    def log_density(self, expanded: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-density ``(n,)`` float64 of expanded events, and in float32 how wrong it may be."""
        values, errors = self._log_densities(expanded)
        return tf.add_n(values), tf.add_n(errors)


# --- compiled once for each architecture ------------------------------------------------------------------------------


@PerArchitecture
def _coefficients(responses: PolynomialMap, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor]:
    """Coefficients ``(M, 2, d, n)``."""
    return (tf.transpose(responses.coefficients(u, c), (1, 3, 2, 0)),)


@PerArchitecture
def _expand(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` in float64, whose rounding errors would add up, and the other coefficients in float32."""
    single = tf.cast(u, tf.float32), tf.cast(c, tf.float32)
    return density.log_density(u, c), expand(density, single[0], density.precompute(single[1]))[1:]


@PerArchitecture
def _linearise(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_expand`, with zeros beyond the first order, and that by automatic differentiation."""
    return density.log_density(u, c), _linear(density, u, c)[1]


@PerArchitecture
def _linearise_in_single(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_linearise`, with all of it in single precision."""
    value, coefficients = _linear(density, u, c)
    return tf.cast(value, tf.float64), coefficients


def _linear(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` and coefficients in single precision, zero beyond the first order."""
    single = tf.cast(u, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(single)
        value = density.log_density(single, tf.cast(c, tf.float32))
    slopes = tf.transpose(tape.gradient(value, single))
    n_terms = len(monomials(density.n_dim, expansion_order(density))) - 1
    return value, tf.pad(slopes, [[0, n_terms - density.n_dim], [0, 0]])


def _in_pieces(function: Callable[..., Any], *args: tf.Tensor) -> list[tf.Tensor]:
    """Apply a function to as many events at once as the caches of a processor hold.

    Events are the first axis of the arguments and the last one of the results.
    """
    pieces = [function(*(values[rows] for values in args)) for rows in slices(args[0].shape[0], XLA)]
    return [tf.concat(parts, axis=-1) for parts in zip(*pieces, strict=True)]

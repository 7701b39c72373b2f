"""Logarithms of the densities of zfit, which itself knows the densities only.

A Gaussian density is zero beyond 38 standard deviations, and its logarithm has no derivative there: a fit that starts too
far away would not move. For common PDFs the logarithm is computed from its own formula, and divided by zfit's integral.
Of the others it is that of the density; where that is zero the result is minus infinity, where it is negative or has no
integral it is not a number. Neither makes a valid fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from zfit.models.dist_tfp import WrapDistribution

from ..param import scalar_of
from .spaces import finite

__all__ = ["log_density", "log_sum"]

Values = Mapping[str, tf.Tensor]


def log_density(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> tf.Tensor:
    """Log-density ``(n,)`` float64 of events ``(n, n_obs)``, normalised over ``pdf.norm``.

    Args:
        pdf: Any PDF; its log-density is asked for where it has one of its own.
        x: The events, in the order of the PDF's observables.
    """
    data = zfit.Data.from_tensor(obs=pdf.space, tensor=x, name="events", guarantee_limits=True)
    if type(pdf)._log_pdf is not zfit.pdf.BasePDF._log_pdf:
        return pdf.log_pdf(data)
    composite = _COMPOSITE.get(type(pdf))
    value = composite(pdf, x) if composite and _one_box(pdf.norm) else None
    if value is None and _one_box(pdf.norm) and (log_shape := _log_shape(pdf, x)) is not None:
        value = log_shape - _log_integral(pdf)
    return _log(pdf.pdf(data)) if value is None else value


def log_sum(log_p: Sequence[tf.Tensor], weights: tf.Tensor) -> tf.Tensor:
    """Logarithm ``(n,)`` of a weighted sum of densities; weights may be zero or negative as long as the sum is positive."""
    stacked, weights = tf.stack(log_p), weights[:, None]
    # A logarithm of the weights would have no derivative where one is zero.
    largest = tf.stop_gradient(tf.reduce_max(tf.where(weights > 0, stacked, -np.inf), axis=0))
    largest = tf.where(tf.math.is_finite(largest), largest, tf.zeros_like(largest))
    return largest + tf.math.log(tf.reduce_sum(weights * tf.exp(stacked - largest), axis=0))


def _log(density: tf.Tensor) -> tf.Tensor:
    """Logarithm of a density; where it is zero, derivatives are numbers only if nothing depends on them."""
    value = tf.math.log(tf.where(density > 0, density, tf.ones_like(density)))
    value = tf.where(tf.equal(density, 0), _nothing(density), value)
    return tf.where(density >= 0, value, tf.fill(tf.shape(density), np.float64(np.nan)))


def _nothing(like: tf.Tensor) -> tf.Tensor:
    """Minus infinity, with an infinite derivative: a fit must not come to rest here.

    Another component of a sum may describe the event; then the derivative is multiplied by zero and vanishes, which that of
    a logarithm would not do.
    """
    one = 1.0 + like - tf.stop_gradient(like)
    return tf.math.multiply_no_nan(tf.fill(tf.shape(like), np.float64(-np.inf)), one)


# --- densities with a formula -----------------------------------------------------------------------------------------


def _log_shape(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> tf.Tensor | None:
    """Logarithm ``(n,)`` of zfit's density before it is normalised."""
    if type(pdf) in _SHAPES:
        return _SHAPES[type(pdf)](_values(pdf), x[:, 0])
    cls = type(pdf)
    wrapped = isinstance(pdf, WrapDistribution) and pdf.n_obs == 1
    if wrapped and cls._unnormalized_pdf is WrapDistribution._unnormalized_pdf and cls._pdf is zfit.pdf.BasePDF._pdf:
        return tf.cast(pdf.distribution.log_prob(x[:, 0]), tf.float64)
    return None


def _log_integral(pdf: zfit.pdf.BasePDF) -> tf.Tensor:
    """Logarithm of the integral of `_log_shape` over the norm range."""
    if type(pdf) in _INTEGRALS:
        with tf.init_scope():
            edges = finite(*(float(np.asarray(edge).item()) for edge in pdf.norm.v1.limits))
            low, high = map(np.float64, edges)  # at infinity there are no derivatives
        return _INTEGRALS[type(pdf)](_values(pdf), low, high)
    integral = tf.reshape(pdf.normalization(pdf.norm), ())
    return _log(tf.where(integral > 0, integral, np.float64(np.nan)))


def _values(pdf: zfit.pdf.BasePDF) -> Values:
    return {name: tf.convert_to_tensor(parameter.value()) for name, parameter in pdf.params.items()}


def _one_box(norm: Any) -> bool:
    """Whether a PDF is normalised over one rectangle of limits."""
    return isinstance(norm, zfit.Space) and norm.has_limits and norm.has_rect_limits  # a MultiSpace is none


def _gauss_integral(p: Values, low: np.float64, high: np.float64) -> tf.Tensor:
    """To full precision also where the mean is far outside of the range, and zfit's is zero."""
    a, b = (low - p["mu"]) / p["sigma"], (high - p["mu"]) / p["sigma"]
    a, b = tf.where(a + b > 0, -b, a), tf.where(a + b > 0, -a, b)  # into the lower tail
    normal = tfp.distributions.Normal(np.float64(0.0), np.float64(1.0))
    above = normal.log_cdf(b)
    return above + tf.math.log(-tf.math.expm1(normal.log_cdf(a) - above))


def _exponential_integral(p: Values, low: np.float64, high: np.float64) -> tf.Tensor:
    """To full precision for any slope and range: from the middle where the density changes little, else from its larger end."""
    slope, width = p["lambda"], high - low
    size = tf.abs(slope) * width
    even, flat = size < 1.0, size < 1e-4
    half = tf.where(even & ~flat, 0.5 * size, tf.ones_like(size))
    log_sinhc = tf.where(flat, tf.square(size) / 24.0, half + tf.math.log(-tf.math.expm1(-2.0 * half) / (2.0 * half)))
    from_middle = tf.math.log(width) + 0.5 * slope * (high + low) + log_sinhc
    steep, some = tf.where(even, tf.ones_like(size), size), tf.where(even, tf.ones_like(slope), tf.abs(slope))
    from_end = slope * tf.where(slope > 0, high, low) + tf.math.log(-tf.math.expm1(-steep) / some)
    return tf.where(even, from_middle, from_end)


def _tailed(t: tf.Tensor, alpha: tf.Tensor, n: tf.Tensor | None) -> tf.Tensor:
    """A Gaussian with a tail from ``-|alpha|`` on: a power, or an exponential without ``n``."""
    t, alpha = t * tf.sign(alpha), tf.abs(alpha)
    tail = tf.minimum(t, -alpha)
    if n is None:
        log_tail = 0.5 * tf.square(alpha) + alpha * tail
    else:
        log_tail = -0.5 * tf.square(alpha) - n * tf.math.log1p(-(alpha + tail) * alpha / n)
    return tf.where(t < -alpha, log_tail, -0.5 * tf.square(tf.maximum(t, -alpha)))


def _two_sided(p: Values, x: tf.Tensor, sigmas: tuple[str, str], powers: tuple[str, str] | None) -> tf.Tensor:
    left, right = (
        _tailed((x - p["mu"]) / p[sigma], sign * p[alpha], p[n] if n else None)
        for sigma, sign, alpha, n in zip(sigmas, (1.0, -1.0), ("alphal", "alphar"), powers or (None, None), strict=True)
    )
    return tf.where(x < p["mu"], left, right)


_SHAPES: dict[type, Callable[[Values, tf.Tensor], tf.Tensor]] = {
    zfit.pdf.Exponential: lambda p, x: p["lambda"] * x,
    zfit.pdf.CrystalBall: lambda p, x: _tailed((x - p["mu"]) / p["sigma"], p["alpha"], p["n"]),
    zfit.pdf.GaussExpTail: lambda p, x: _tailed((x - p["mu"]) / p["sigma"], p["alpha"], None),
    zfit.pdf.DoubleCB: lambda p, x: _two_sided(p, x, ("sigma", "sigma"), ("nl", "nr")),
    zfit.pdf.GeneralizedCB: lambda p, x: _two_sided(p, x, ("sigmal", "sigmar"), ("nl", "nr")),
    zfit.pdf.GeneralizedGaussExpTail: lambda p, x: _two_sided(p, x, ("sigmal", "sigmar"), None),
}
"""By type, not by inheritance; a subclass may be another density."""

_INTEGRALS: dict[type, Callable[[Values, np.float64, np.float64], tf.Tensor]] = {
    zfit.pdf.Gauss: _gauss_integral,
    zfit.pdf.Exponential: _exponential_integral,
}
"""Where zfit's integral loses its digits before the density does."""


# --- densities made of others -----------------------------------------------------------------------------------------


def _of_sum(pdf: zfit.pdf.SumPDF, x: tf.Tensor) -> tf.Tensor | None:
    if any(component.norm != pdf.norm for component in pdf.pdfs):
        return None
    log_p = [log_density(component, _columns(x, pdf, component)) for component in pdf.pdfs]
    return log_sum(log_p, tf.stack(list(map(scalar_of, pdf.params.values()))))


def _of_product(pdf: zfit.pdf.ProductPDF, x: tf.Tensor) -> tf.Tensor | None:
    described = [name for factor in pdf.pdfs for name in factor.obs]
    if len(set(described)) < len(described) or any(f.norm != pdf.norm.with_obs(f.obs) for f in pdf.pdfs):
        return None
    return tf.add_n([log_density(factor, _columns(x, pdf, factor)) for factor in pdf.pdfs])


def _of_truncated(pdf: zfit.pdf.TruncatedPDF, x: tf.Tensor) -> tf.Tensor | None:
    (whole,) = pdf.pdfs
    if pdf.norm != pdf.space or not _one_box(whole.norm):
        return None
    data = zfit.Data.from_tensor(obs=pdf.space, tensor=x, name="events", guarantee_limits=True)
    inside = tf.reduce_any(tf.stack([limits.inside(data) for limits in pdf.limits]), axis=0)
    kept = tf.add_n([tf.reshape(whole.integrate(limits=limits, norm=whole.norm), ()) for limits in pdf.limits])
    value = log_density(whole, x) - _log(kept)
    return tf.where(inside, value, _nothing(kept + tf.zeros_like(value)))


def _columns(x: tf.Tensor, whole: zfit.pdf.BasePDF, part: zfit.pdf.BasePDF) -> tf.Tensor:
    return tf.gather(x, [whole.obs.index(name) for name in part.obs], axis=1)


_COMPOSITE: dict[type, Callable[[Any, tf.Tensor], tf.Tensor | None]] = {
    zfit.pdf.SumPDF: _of_sum,
    zfit.pdf.ProductPDF: _of_product,
    zfit.pdf.TruncatedPDF: _of_truncated,
}

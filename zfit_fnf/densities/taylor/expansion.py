r"""Taylor polynomials of nominal densities, event by event.

A deformation moves the standardised coordinates of an event a little, and the nominal density is needed at the moved
point only. Around a point ``u``,

.. math:: \log p(u + \delta | c) = \sum_{|\alpha| \le q} P_\alpha \, \delta^\alpha + O(\delta^{q + 1}),

with coefficients that are exact derivatives. For a single layer of mixtures of logistics in up to three coordinates they
come from the arithmetic of :mod:`.series`, at the cost of a few evaluations: to order four in one coordinate, and
three in two and three, where the fourth would double the cost and spare hardly any expansion. In more coordinates, and for
stacked layers, they come from automatic differentiation, to order two. Densities that are not smooth, like splines, have
no such polynomials.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import tensorflow as tf

from ..bijectors import LogisticMixture
from ..flows import AutoregressiveDensity, AutoregressiveLayer, Density
from . import series
from .series import Exponents, Series, monomials

__all__ = ["expand", "expansion_order", "polynomial", "remainder", "steepness"]

_ORDERS = {1: 4, 2: 3, 3: 3}  # by the number of coordinates, for a single layer of mixtures
_LOGISTIC = {3: 31.2, 4: 96.0}  # inverse of the largest Taylor coefficient of the logarithm of a logistic density


def expansion_order(density: Density) -> int:
    """Order of the polynomials that :func:`expand` makes of a density; zero if it is not known to be smooth."""
    if not _is_mixture(density):
        return 0
    return _ORDERS.get(density.n_dim, 2) if len(density.layers) == 1 else 2


def expand(density: Density, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
    """Taylor coefficients ``(T, n)`` of the log-density around each event.

    Args:
        density: The density, in the standardised coordinates.
        u: Where to expand, ``(n, d)``.
        precomputed: What ``density.precompute`` has made of the conditions.

    Returns:
        Coefficients in the order of ``monomials(d, expansion_order(density))``.
    """
    order = expansion_order(density)
    if order > 2:
        return _by_series(density.layers[0], u, precomputed[0], order)
    return _by_differentiation(density, u, precomputed)


def polynomial(coefficients: tf.Tensor, delta: Sequence[tf.Tensor], order: int) -> tf.Tensor:
    """Evaluate polynomials without their constant terms.

    Args:
        coefficients: ``(T - 1, n)``, from :func:`expand` without the constant terms.
        delta: Shift of every coordinate, ``(n,)`` each.
        order: Their order.

    Returns:
        How much the log-densities rise, ``(n,)``.
    """
    products: dict[Exponents, tf.Tensor] = {}
    total = tf.zeros_like(delta[0])
    for exponents, coefficient in zip(monomials(len(delta), order)[1:], tf.unstack(coefficients), strict=True):
        last = next(i for i, power in enumerate(exponents) if power)
        lower = tuple(power - (i == last) for i, power in enumerate(exponents))
        products[exponents] = products[lower] * delta[last] if any(lower) else delta[last]
        total += coefficient * products[exponents]
    return total


def steepness(coefficients: tf.Tensor, n_dim: int, order: int) -> tf.Tensor:
    r"""Inverse of the length over which each log-density varies, ``(n,)``: what limits the use of its polynomial.

    For a logistic density of width ``w`` it is ``1 / w`` at every point: there the first two derivatives obey
    :math:`f'^2 + 2 |f''| = 1 / w^2`, and the third and fourth Taylor coefficients are at most :math:`w^{-3} / 31.2` and
    :math:`w^{-4} / 96`. For other densities it is the largest value that any of these suggests, for the most unfavourable
    direction of a shift whose coordinates sum up to one.

    Args:
        coefficients: As for `polynomial`.
        n_dim: Number of coordinates.
        order: Order of the polynomials.
    """
    largest = [tf.zeros_like(coefficients[0])] * (order + 1)
    for exponents, coefficient in zip(monomials(n_dim, order)[1:], tf.unstack(coefficients), strict=True):
        degree = sum(exponents)
        permutations = math.factorial(degree) / math.prod(map(math.factorial, exponents))
        largest[degree] = tf.maximum(largest[degree], tf.abs(coefficient) / permutations)
    low = tf.sqrt(tf.square(largest[1]) + 4.0 * largest[2])
    high = [(_LOGISTIC[k] * largest[k]) ** (1.0 / k) for k in range(3, order + 1)]
    return functools.reduce(tf.maximum, high, low)


def remainder(shift: tf.Tensor, rise: tf.Tensor, steep: tf.Tensor, order: int) -> tf.Tensor:
    r"""How wrong polynomials may be after a shift.

    With :math:`\rho` the shift in units of twice the length over which a log-density varies, the neglected terms are
    taken for a quarter of a geometric series, :math:`\rho^{q + 1} / (1 - \rho)`: a logistic density of width ``w`` is
    singular :math:`\pi w` away, a mixture of them can be :math:`\pi w / 2` away. Beyond, the polynomials say nothing, and
    the error is bounded by their own rise and the steepest one possible. Summed over the events of any mixture this was
    at least five times the error that they had.

    Args:
        shift: Sum of the shifts of all coordinates, without signs ``(n,)``.
        rise: Values of the polynomials ``(n,)``.
        steep: Their `steepness` ``(n,)``.
        order: Their order.
    """
    path = shift * steep
    ratio = 0.5 * path
    powers = functools.reduce(operator.mul, [ratio] * (order + 1))
    return tf.minimum(0.25 * powers / tf.maximum(1.0 - ratio, 1e-6), tf.abs(rise) + path)


def _is_mixture(density: Density) -> bool:
    return isinstance(density, AutoregressiveDensity) and all(
        isinstance(layer.univariate, LogisticMixture) for layer in density.layers
    )


# --- by series --------------------------------------------------------------------------------------------------------


def _by_series(layer: AutoregressiveLayer, u: tf.Tensor, precomputed: Any, order: int) -> tf.Tensor:
    d = u.shape[1]
    coordinates = [Series.variable(u[:, j], j, d, order) for j in range(d)]
    mixtures = _mixtures(layer, coordinates, precomputed)
    parts = [_log_prob(coordinate, mixture) for coordinate, mixture in zip(coordinates, mixtures, strict=True)]
    total = functools.reduce(operator.add, parts)
    nothing = tf.zeros_like(u[:, 0])
    return tf.stack([total.terms.get(exponents, nothing) + nothing for exponents in monomials(d, order)])


def _mixtures(layer: AutoregressiveLayer, coordinates: Sequence[Series], precomputed: Any) -> list[Sequence[Series]]:
    """Log-weights, means and widths of every coordinate as functions of the coordinates before it."""
    first, contributions = precomputed
    d, order = len(coordinates), coordinates[0].order
    constant = [Series({(0,) * d: values[:, 0]}, order) for values in first]
    if d == 1:
        return [constant]
    raw, univariate = _outputs(layer, coordinates, contributions), cast(LogisticMixture, layer.univariate)
    return [
        constant,
        *(_unpacked(univariate, raw.map(operator.itemgetter((slice(None), j)))) for j in range(d - 1)),
    ]


def _outputs(layer: AutoregressiveLayer, coordinates: Sequence[Series], contributions: Sequence[tf.Tensor]) -> Series:
    """The network of a layer: linear maps act on every coefficient, activations on the series."""
    network = layer.network
    kernels = network.moving_kernels(coordinates[0].constant.dtype)
    units = Series({(0,) * len(coordinates): contributions[0]}, coordinates[0].order)
    for coordinate, row in zip(coordinates, tf.unstack(kernels[0]), strict=True):
        units = units + coordinate.map(functools.partial(_outer, row=row))
    for kernel, contribution in zip(kernels[1:], contributions[1:], strict=True):
        units = units.compose(series.silu).map(functools.partial(tf.matmul, b=kernel)) + contribution
    return units.map(lambda v: tf.reshape(v, (-1, network.n_inputs - 1, network.n_outputs)))


def _outer(column: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
    return column[:, None] * row


def _unpacked(univariate: LogisticMixture, raw: Series) -> Sequence[Series]:
    """As `LogisticMixture.unpack`."""
    common, logits, offset, width = raw.split([2, *[univariate.n_components] * 3])
    location, spread = common.map(lambda v: v[:, :1]), _positive(common.map(lambda v: v[:, 1:]))
    mean = location + spread * (offset + tf.constant(univariate.start, raw.constant.dtype))
    return logits - _log_sum_exp(logits).map(lambda v: v[:, None]), mean, spread * _positive(width + (-1.0))


def _log_prob(coordinate: Series, mixture: Sequence[Series]) -> Series:
    """As `LogisticMixture.log_prob`."""
    log_weights, mean, scale = mixture
    z = (coordinate.map(lambda v: v[:, None]) - mean) * scale.compose(series.reciprocal)
    return _log_sum_exp(log_weights - scale.compose(series.log) + z.compose(series.log_logistic))


def _positive(raw: Series) -> Series:
    return 0.5 * (raw + (raw * raw + 4.0).compose(series.sqrt)) + 1e-3


def _log_sum_exp(terms: Series) -> Series:
    largest = tf.reduce_max(terms.constant, axis=-1)
    small = (terms + (-largest[:, None])).compose(series.exp)
    return small.map(lambda v: tf.reduce_sum(v, axis=-1)).compose(series.log) + largest


# --- by automatic differentiation -------------------------------------------------------------------------------------


def _by_differentiation(density: Density, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(u)
        with tf.GradientTape() as inner:
            inner.watch(u)
            value = density.log_density_at(u, precomputed)
        gradient = inner.gradient(value, u)
        slopes = tf.unstack(gradient, axis=1)
    # Events do not know of each other: the gradient of a sum over events is that of every event.
    curvature = [outer.gradient(slope, u) for slope in slopes]
    coefficients = {(0,) * len(slopes): value}
    for exponents in monomials(len(slopes), 2)[1:]:
        moved = [j for j, power in enumerate(exponents) for _ in range(power)]
        derivative = slopes[moved[0]] if len(moved) == 1 else curvature[moved[0]][:, moved[1]]
        coefficients[exponents] = derivative / math.prod(math.factorial(power) for power in exponents)
    return tf.stack(list(coefficients.values()))

"""Bijectors: physical ranges, the univariate ones that a network parametrises, and the contract of conditional ones.

Directions follow TensorFlow Probability and are named alike everywhere: *forward generates*, from the base (logistic)
through the nominal to the data; *inverse* takes data towards the base, in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = [
    "Affine",
    "Bent",
    "ConditionalBijector",
    "LogisticMixture",
    "Mixture",
    "PhysicalRanges",
    "RationalQuadraticSpline",
    "Univariate",
    "logistic_log_prob",
]

_EDGE = 1e-12
_MOST_STEPS = 120

Mixture = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


# Bijectors of TFP remember their calls, and with them every graph that they were ever a part of, for good: only what they
# do behind that memory is called here.


class _Range:
    """Smooth map of the real line onto the open interval ``(low, high)``, either end possibly infinite."""

    def __init__(self, low: float, high: float):
        self.low, self.high = float(low), float(high)
        if not self.low < self.high:
            raise ValueError(f"a range needs low < high, got ({low}, {high})")
        self._bounded = np.isfinite(self.low), np.isfinite(self.high)

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        """The real number that a value belongs to."""
        below, above = self._bounded
        if below and above:
            return tf.math.log(y - self.low) - tf.math.log(self.high - y)
        if below or above:
            return tf.math.log(y - self.low if below else self.high - y)
        return y

    def forward(self, x: tf.Tensor) -> tf.Tensor:
        """The value of a real number."""
        below, above = self._bounded
        if below and above:
            width = self.high - self.low
            # Close to either edge, the distance to it is what is known precisely.
            return tf.where(x < 0, self.low + width * tf.sigmoid(x), self.high - width * tf.sigmoid(-x))
        if below or above:
            return self.low + tf.exp(x) if below else self.high - tf.exp(x)
        return x

    def log_slope(self, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the size of the derivative of the value by the real number."""
        below, above = self._bounded
        if below and above:
            return np.log(self.high - self.low) - tf.math.softplus(-x) - tf.math.softplus(x)
        return x if below or above else tf.zeros_like(x)


class PhysicalRanges:
    """Columnwise bijection from unbounded coordinates to the physical ranges of the observables.

    Args:
        ranges: ``(low, high)`` of each column, infinite where unbounded.
    """

    def __init__(self, ranges: Sequence[tuple[float, float]]):
        self._ranges = [(float(low), float(high)) for low, high in ranges]
        self._maps = [_Range(low, high) for low, high in self._ranges]

    def inverse(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Physical ``(n, d)`` float64 to unbounded ``(n, d)``, with ``log|d unbounded / d y|`` summed to ``(n,)``.

        Values on an edge are moved inside by 1e-12 of the width, where the map is still finite.
        """
        unbounded, log_det = [], tf.zeros_like(y[:, 0])
        for column, (mapped, limits) in enumerate(zip(self._maps, self._ranges, strict=True)):
            unbounded.append(mapped.inverse(_off_the_edges(y[:, column], *limits)))
            log_det -= mapped.log_slope(unbounded[-1])
        return tf.stack(unbounded, axis=-1), log_det

    def forward(self, unbounded: tf.Tensor) -> tf.Tensor:
        """Unbounded ``(n, d)`` to physical ``(n, d)``, strictly inside the ranges."""
        columns = [
            _off_the_edges(mapped.forward(unbounded[:, column]), *limits)
            for column, (mapped, limits) in enumerate(zip(self._maps, self._ranges, strict=True))
        ]
        return tf.stack(columns, axis=-1)

    def forward_log_det(self, unbounded: tf.Tensor) -> tf.Tensor:
        """``log|d y / d unbounded|`` summed to ``(n,)``, also where ``y`` is as good as on an edge."""
        return tf.add_n([mapped.log_slope(unbounded[:, column]) for column, mapped in enumerate(self._maps)])


def _off_the_edges(value: tf.Tensor, low: float, high: float) -> tf.Tensor:
    width = high - low if np.isfinite(high - low) else 1.0
    if np.isfinite(low):
        value = tf.maximum(value, np.nextafter(low + _EDGE * width, np.inf))
    if np.isfinite(high):
        value = tf.minimum(value, np.nextafter(high - _EDGE * width, -np.inf))
    return value


class Univariate:
    """An increasing bijector of one coordinate with parameters: what the network of a layer parametrises.

    Recipe. A subclass sets ``n_parameters`` and implements :meth:`inverse` and :meth:`forward`, elementwise in TensorFlow;
    it has to be smooth in its argument and its parameters if Hessians of likelihoods are to be right. If numbers of a
    network have to be constrained first, it implements :meth:`unpack`. To be chosen by ``family=``, it is listed in
    :data:`~zfit_fnf.densities.flows.FAMILIES`.

    Attributes:
        n_parameters: Numbers that it takes from the network for each coordinate.

    Example:
        >>> class Cubic(Univariate):
        ...     n_parameters = 1
        ...     def inverse(self, u, parameters):
        ...         slope = tf.nn.softplus(parameters[..., 0])
        ...         return u + slope * u**3, tf.math.log1p(3.0 * slope * u**2)
        >>> float(Cubic().inverse(tf.constant(2.0), tf.constant([-50.0]))[0])
        2.0
    """

    n_parameters: int

    def unpack(self, raw: tf.Tensor) -> Any:
        """Parameters from the numbers ``(..., n_parameters)`` of a network, by default as they are; may be a nest."""
        return raw

    def inverse(self, u: tf.Tensor, parameters: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base, and ``log dz/du``; both in the shape of ``u``, which the parameters have with one axis more."""
        raise NotImplementedError(f"{type(self).__name__} does not say where it takes data")

    def forward(self, z: tf.Tensor, parameters: Any) -> tf.Tensor:
        """Base to data."""
        raise NotImplementedError(f"{type(self).__name__} cannot be inverted")

    def log_prob(self, u: tf.Tensor, parameters: Any) -> tf.Tensor:
        """Log-density of ``u`` when the base is logistic."""
        z, log_slope = self.inverse(u, parameters)
        return logistic_log_prob(z) + log_slope

    def draw(self, uniform: tf.Tensor, parameters: Any) -> tf.Tensor:
        """Sample from two uniform numbers ``(..., 2)`` each, of which the second is enough here."""
        return self.forward(_logit(uniform[..., 1]), parameters)


class ConditionalBijector:
    """An invertible map of coordinates ``u (n, d)``, conditional on a context ``c (n, m)``.

    Recipe. A subclass implements the three methods below in TensorFlow. What depends on the context alone belongs into
    :meth:`precompute`: events stay while coordinates move.
    """

    def precompute(self, c: tf.Tensor) -> Any:
        """What depends on the context alone, for the other methods: a nest of tensors."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it needs to know about the context")

    def inverse(self, u: tf.Tensor, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Data towards the base ``(n, d)``, and the log-determinant ``(n,)``."""
        raise NotImplementedError(f"{type(self).__name__} does not say where it takes data")

    def forward(self, z: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """From the base towards the data ``(n, d)``, the inverse of :meth:`inverse`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be inverted")


class Affine(Univariate):
    """Affine bijector ``z = u exp(s) + t``, the identity where its parameters ``(s, t)`` are zero."""

    n_parameters = 2

    def inverse(self, u: tf.Tensor, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base, and ``log dz/du``; shape of ``u``."""
        log_scale = self._log_scale(parameters)
        return u * tf.exp(log_scale) + parameters[..., 1], log_scale

    def forward(self, z: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Base to data."""
        return (z - parameters[..., 1]) * tf.exp(-self._log_scale(parameters))

    @staticmethod
    def _log_scale(parameters: tf.Tensor) -> tf.Tensor:
        """Far beyond any learned effect, where a minimiser may still look, the exponential must not overflow."""
        return tf.clip_by_value(parameters[..., 0], -50.0, 50.0)


class Bent(Univariate):
    """Affine bijector whose slope changes smoothly between knots; ``Affine`` where its further parameters are zero.

    The slope is the mean of ``K + 1`` slopes ``exp(s + d_k)`` with the weights of a partition of unity, differences of
    logistic functions around the ``K`` knots. Its integral is a sum of softplus functions: infinitely differentiable, increasing
    whatever the parameters are, straight beyond the last knots.

    Args:
        n_knots: ``K``, at least two, evenly spaced over ``(-3, 3)``.
    """

    def __init__(self, n_knots: int):
        self.n_knots, self.n_parameters = n_knots, n_knots + 3
        self._knots = np.linspace(-3.0, 3.0, n_knots)
        self._width = 0.6 * (self._knots[1] - self._knots[0])

    def inverse(self, u: tf.Tensor, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base, and ``log dz/du``; shape of ``u``."""
        slopes, knots = self._slopes(parameters), tf.constant(self._knots, u.dtype)
        steps, x = slopes[..., 1:] - slopes[..., :-1], (u[..., None] - knots) / self._width
        bends = self._width * (tf.math.softplus(x) - tf.math.softplus(-knots / self._width))
        above = tf.sigmoid(x)
        pieces = tf.concat([1.0 - above[..., :1], above[..., :-1] - above[..., 1:], above[..., -1:]], axis=-1)
        z = slopes[..., 0] * u + tf.reduce_sum(steps * bends, axis=-1) + parameters[..., 1]
        return z, tf.math.log(tf.reduce_sum(slopes * pieces, axis=-1))

    def forward(self, z: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Base to data: between the lines of the smallest and of the largest slope."""
        slopes, left = self._slopes(parameters), z - parameters[..., 1]
        ends = left / tf.reduce_min(slopes, axis=-1), left / tf.reduce_max(slopes, axis=-1)
        return solve_increasing(lambda u: self.inverse(u, parameters), z, tf.minimum(*ends), tf.maximum(*ends))

    def _slopes(self, parameters: tf.Tensor) -> tf.Tensor:
        return tf.exp(tf.clip_by_value(parameters[..., :1] + parameters[..., 2:], -50.0, 50.0))


def solve_increasing(
    function: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], z: tf.Tensor, low: tf.Tensor, high: tf.Tensor
) -> tf.Tensor:
    """Where increasing functions take the values ``z``, elementwise: Newton steps inside a shrinking bracket.

    Args:
        function: Returns values and the logarithms of their slopes.
        z: The values.
        low: Below the solution, or there.
        high: Above it, or there.
    """
    tolerance = tf.constant(8.0 * np.finfo(z.dtype.as_numpy_dtype).eps, z.dtype)

    def unfinished(low: tf.Tensor, high: tf.Tensor, u: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
        del low, high, u
        return tf.reduce_any(change != 0.0)

    def step(low: tf.Tensor, high: tf.Tensor, u: tf.Tensor, change: tf.Tensor) -> tuple[tf.Tensor, ...]:
        value, log_slope = function(u)
        low, high = tf.where(value < z, u, low), tf.where(value < z, high, u)
        wanted = (z - value) * tf.exp(-log_slope)
        newton = u + wanted
        # Between two modes Newton steps may lead from one to the other and back, for ever: they have to become shorter.
        good = (newton > low) & (newton < high) & (tf.abs(wanted) < 0.5 * tf.abs(change))
        found = (tf.abs(wanted) <= tolerance * (1.0 + tf.abs(u))) | (tf.abs(z - value) <= tolerance * (1.0 + tf.abs(z)))
        following = tf.where(found, u, tf.where(good, newton, 0.5 * (low + high)))
        return low, high, following, following - u

    # A bisection gains one bit a step, Newton doubles the digits, and every second step at least is one that does.
    start = (low, high, 0.5 * (low + high), high - low + 1.0)
    return tf.while_loop(unfinished, step, start, maximum_iterations=_MOST_STEPS, parallel_iterations=1)[2]


def logistic_log_prob(z: tf.Tensor) -> tf.Tensor:
    """Log-density of the standard logistic distribution, the base of every flow."""
    return -z - 2.0 * tf.math.softplus(-z)


class LogisticMixture(Univariate):
    """Mixture of logistics: infinitely differentiable in its argument and in its parameters.

    The distribution function ``F`` of a mixture of ``K`` logistics maps the element to the logistic base by
    ``z = logit F(u)``. Besides its weight, mean and width for each component, the mixture has a common location and
    scale: a conditional density mostly moves and stretches as a whole, and two numbers are learned faster than ``2 K``.

    Args:
        n_components: ``K``.
    """

    def __init__(self, n_components: int = 8):
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1, got {n_components}")
        self.n_components = n_components
        self.n_parameters = 2 + 3 * n_components
        # Spread starting means cover the standardised sample, so that no component has to travel through the others.
        self.start = np.linspace(-2.0, 2.0, n_components) if n_components > 1 else np.zeros(1)

    def unpack(self, raw: tf.Tensor) -> Mixture:
        """Log-weights (of sum one), means and widths, ``(..., K)`` each, from the numbers ``(..., 2 + 3 K)`` of a network."""
        common, logits, offset, width = tf.split(raw, [2, *[self.n_components] * 3], axis=-1)
        location, spread = common[..., :1], _positive(common[..., 1:])
        offset += tf.constant(self.start, offset.dtype)
        return tf.nn.log_softmax(logits, axis=-1), location + spread * offset, spread * _positive(width - 1.0)

    def log_prob(self, u: tf.Tensor, mixture: Mixture) -> tf.Tensor:
        """Log-density of the mixture, shape of ``u``.

        The sum runs over components scaled by the largest; three exponentials a component, where the textbook formula has
        seven transcendental functions. This is the hot spot of training and of fitting.
        """
        log_weights, mean, scale = mixture
        fall = -tf.abs((u[..., None] - mean) / scale)
        largest = _largest(log_weights + fall)
        density = tf.exp(log_weights + fall - largest) / (scale * (1.0 + tf.exp(fall)) ** 2)
        return largest[..., 0] + tf.math.log(tf.reduce_sum(density, axis=-1))

    def inverse(self, u: tf.Tensor, mixture: Mixture) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base: ``z = logit F(u)`` and ``log dz/du``."""
        log_weights, mean, scale = mixture
        z = (u[..., None] - mean) / scale
        log_below = tf.reduce_logsumexp(log_weights - tf.math.softplus(-z), axis=-1)
        log_above = tf.reduce_logsumexp(log_weights - tf.math.softplus(z), axis=-1)
        log_density = tf.reduce_logsumexp(log_weights + logistic_log_prob(z) - tf.math.log(scale), axis=-1)
        return log_below - log_above, log_density - log_below - log_above

    def forward(self, z: tf.Tensor, mixture: Mixture) -> tf.Tensor:
        """Base to data: solves ``logit F(u) = z``.

        The quantile of a mixture lies between the smallest and the largest quantile of its components.
        """
        _, mean, scale = mixture
        quantiles = mean + scale * z[..., None]
        low, high = tf.reduce_min(quantiles, axis=-1), tf.reduce_max(quantiles, axis=-1)
        return solve_increasing(lambda u: self.inverse(u, mixture), z, low, high)

    def draw(self, uniform: tf.Tensor, mixture: Mixture) -> tf.Tensor:
        """Sample from two uniform numbers ``(..., 2)`` each: the first chooses a component, without any equation to solve."""
        log_weights, mean, scale = mixture
        below = tf.cumsum(tf.exp(log_weights), axis=-1, exclusive=True)
        chosen = tf.reduce_sum(tf.cast(below <= uniform[..., :1], tf.int32), axis=-1) - 1
        mean, scale = (tf.gather(values, chosen, batch_dims=chosen.shape.rank) for values in (mean, scale))
        return mean + scale * _logit(uniform[..., 1])


def _logit(uniform: tf.Tensor) -> tf.Tensor:
    return tf.math.log(uniform) - tf.math.log1p(-uniform)


def _positive(raw: tf.Tensor) -> tf.Tensor:
    """Smooth positive function, one at zero, linear where a network extrapolates (no overflow in the tails)."""
    return 0.5 * (raw + tf.sqrt(raw**2 + 4.0)) + 1e-3


def _largest(values: tf.Tensor) -> tf.Tensor:
    """Largest value along the last axis, a constant for derivatives: it cancels out of what it rescales."""
    return tf.stop_gradient(tf.reduce_max(values, axis=-1, keepdims=True))


class RationalQuadraticSpline(Univariate):
    """Monotone rational-quadratic spline with linear tails (arXiv:1906.04032), for models from elsewhere.

    Its second derivative jumps at the knots. A likelihood built on it therefore has kinks: errors from Hessians (HESSE,
    automatic differentiation) can be far off, and only profile methods (MINOS) are meaningful. Prefer
    :class:`LogisticMixture` for anything that is fitted.

    Args:
        n_bins: Number of bins between ``-bound`` and ``bound``.
        bound: Half-width of the box outside of which the map is the identity.
    """

    def __init__(self, n_bins: int = 16, bound: float = 6.0):
        if n_bins < 2:
            raise ValueError(f"n_bins must be at least 2, got {n_bins}")
        self.n_bins, self.bound = n_bins, bound
        self.n_parameters = 3 * n_bins - 1

    def inverse(self, u: tf.Tensor, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base, and ``log dz/du``; the spline itself runs in this direction."""
        spline = self._spline(parameters)
        return spline._forward(u), spline._forward_log_det_jacobian(u)

    def forward(self, z: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Base to data, in closed form."""
        return self._spline(parameters)._inverse(z)

    def _spline(self, parameters: tf.Tensor) -> tfp.bijectors.Bijector:
        widths, heights, slopes = tf.split(parameters, [self.n_bins, self.n_bins, self.n_bins - 1], axis=-1)
        smallest = 1e-3
        share = 2.0 * self.bound * (1.0 - smallest)
        floor = 2.0 * self.bound * smallest / self.n_bins
        return tfp.bijectors.RationalQuadraticSpline(
            bin_widths=share * tf.nn.softmax(widths, axis=-1) + floor,
            bin_heights=share * tf.nn.softmax(heights, axis=-1) + floor,
            knot_slopes=tf.math.softplus(slopes + np.log(np.expm1(1.0 - smallest))) + smallest,
            range_min=-self.bound,
        )

"""The density of a zuko flow: univariate bijectors whose parameters come from masked networks, in TensorFlow."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from ..densities.bijectors import RationalQuadraticSpline
from ..densities.flows import Density
from ..densities.networks import silu
from .zuko_architecture import NetworkShape, ZukoLayer

__all__ = ["ACTIVATIONS", "ZukoDensity", "ZukoNetwork"]

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "ELU": tf.nn.elu,
    "GELU": functools.partial(tf.nn.gelu, approximate=False),
    "LeakyReLU": functools.partial(tf.nn.leaky_relu, alpha=0.01),
    "ReLU": tf.nn.relu,
    "SELU": tf.nn.selu,
    "SiLU": silu,
    "Sigmoid": tf.nn.sigmoid,
    "Tanh": tf.nn.tanh,
}
"""Activations of networks that can be imported, by the name of the class in ``torch.nn``, with its default arguments."""


class ZukoDensity(Density):
    """Density of a zuko flow: a stack of transforms from the coordinates to a standard normal base.

    Args:
        n_dim: Number of features.
        n_context: Number of context features.
        layers: The transforms, from the data to the base.
        dtype: ``"float32"`` or ``"float64"``, in which the weights are kept.

    Raises:
        ValueError: If a layer does not fit these numbers.
    """

    def __init__(self, n_dim: int, n_context: int, layers: Sequence[ZukoLayer], *, dtype: str = "float32"):
        super().__init__()
        self.n_dim, self.n_context, self.dtype = n_dim, n_context, dtype
        self.layers = [_Transform(layer, n_dim, n_context, dtype) for layer in layers]

    def inverse(self, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base: latents ``(n, d)`` and log-determinant ``(n,)``."""
        log_det = tf.zeros_like(u[:, 0])
        for layer in self.layers:
            u, layer_log_det = layer.inverse(u, c)
            log_det += layer_log_det
        return u, log_det

    def forward(self, z: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Base to data ``(n, d)``."""
        for layer in reversed(self.layers):
            z = layer.forward(z, c)
        return z

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)``."""
        z, log_det = self.inverse(u, c)
        return log_det - 0.5 * tf.reduce_sum(z**2 + math.log(2.0 * math.pi), axis=-1)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``."""
        return self.forward(tf.random.stateless_normal((tf.shape(c)[0], self.n_dim), seed, dtype=c.dtype), c)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a density of the same architecture."""
        layers = [layer.architecture for layer in self.layers]
        return {"n_dim": self.n_dim, "n_context": self.n_context, "layers": layers, "dtype": self.dtype}

    def __str__(self) -> str:
        return f"zuko {self.layers[0].architecture.law}, {len(self.layers)} transform(s)"


class _Affine:
    """``f(u) = u exp(a) + b`` with ``a`` bent softly into ``(log slope, -log slope)``."""

    n_parameters = 2

    def __init__(self, slope: float):
        self._log_slope = math.log(slope)

    def inverse(self, u: tf.Tensor, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shift, raw = parameters[..., 0], parameters[..., 1]
        log_scale = raw / (1.0 + tf.abs(raw / self._log_slope))
        return u * tf.exp(log_scale) + shift, log_scale

    def forward(self, z: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        shift, raw = parameters[..., 0], parameters[..., 1]
        return (z - shift) * tf.exp(-raw / (1.0 + tf.abs(raw / self._log_slope)))


class _Spline(RationalQuadraticSpline):
    """The rational-quadratic spline with zuko's way to make widths, heights and slopes out of any numbers."""

    def __init__(self, n_bins: int, bound: float, slope: float):
        super().__init__(n_bins, bound)
        self._log_slope = math.log(slope)

    def _spline(self, parameters: tf.Tensor) -> tfp.bijectors.Bijector:
        widths, heights, slopes = tf.split(parameters, [self.n_bins, self.n_bins, self.n_bins - 1], axis=-1)
        return tfp.bijectors.RationalQuadraticSpline(
            bin_widths=2.0 * self.bound * tf.nn.softmax(self._softened(widths, 2.0), axis=-1),
            bin_heights=2.0 * self.bound * tf.nn.softmax(self._softened(heights, 2.0), axis=-1),
            knot_slopes=tf.exp(self._softened(slopes, 1.0)),
            range_min=-self.bound,
        )

    def _softened(self, raw: tf.Tensor, strength: float) -> tf.Tensor:
        return raw / (1.0 + tf.abs(strength * raw / self._log_slope))


class _Transform(tf.Module):
    def __init__(self, architecture: ZukoLayer, n_dim: int, n_context: int, dtype: str):
        super().__init__()
        self.architecture, self.n_dim = architecture, n_dim
        if not (0.0 < architecture.slope < 1.0 and architecture.bound > 0.0):
            raise ValueError(
                f"a transform needs 0 < slope < 1 and bound > 0, got {architecture.slope} and {architecture.bound}"
            )
        if architecture.law == "spline":
            self.law: Any = _Spline(architecture.bins, architecture.bound, architecture.slope)
        else:
            self.law = _Affine(architecture.slope)
        widths = architecture.network.widths
        ends = n_context + (n_dim if n_dim > 1 else 0), n_dim * self.law.n_parameters
        if (widths[0], widths[-1]) != ends or not 1 <= architecture.passes <= n_dim:
            raise ValueError(
                f"a transform of {n_dim} features and {n_context} context features needs a network from {ends[0]} to "
                f"{ends[1]} numbers and 1 to {n_dim} passes, got widths {widths} and {architecture.passes} passes"
            )
        self.network = ZukoNetwork(architecture.network, dtype)

    def inverse(self, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        z, log_slope = self.law.inverse(u, self._parameters(u, c))
        return z, tf.reduce_sum(log_slope, axis=-1)

    def forward(self, z: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        u = tf.zeros_like(z)
        for _ in range(self.architecture.passes):  # each makes the coordinates right that depend on right ones only
            u = self.law.forward(z, self._parameters(u, c))
        return u

    def _parameters(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Parameters of the law ``(n, d, p)``."""
        values = self.network(tf.concat([u, c], axis=-1) if self.n_dim > 1 else c)
        return tf.reshape(values, (-1, self.n_dim, self.law.n_parameters))


class ZukoNetwork(tf.Module):
    """A network that zuko has made, with its masks multiplied into the weights.

    Args:
        shape: Its architecture.
        dtype: In which the weights are kept; the arithmetic follows the inputs.
    """

    def __init__(self, shape: NetworkShape, dtype: str):
        super().__init__()
        self.shape = shape
        self._activation = ACTIVATIONS[shape.activation]
        self.weights = [tf.Variable(tf.zeros(linear, dtype)) for linear in shape.linears]
        self.biases = [tf.Variable(tf.zeros(linear[1], dtype)) for linear in shape.linears]

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """Outputs ``(n, last width)`` of inputs ``(n, first width)``."""
        linears = iter(range(len(self.weights)))
        if self.shape.residual:
            return self._with_residuals(values, linears)
        values = self._linear(next(linears), values)
        for layer in linears:
            values = self._activation(values)
            values = self._linear(layer, _normalised(values) if self.shape.normalize else values)
        return values

    def _with_residuals(self, values: tf.Tensor, linears: Iterator[int]) -> tf.Tensor:
        for place, (before, after) in enumerate(itertools.pairwise(self.shape.widths[:-1])):
            if place == 0 or before != after:
                values = self._linear(next(linears), values)
            inner = self._activation(self._linear(next(linears), values))
            values += self._linear(next(linears), inner)
        return self._linear(next(linears), values)

    def _linear(self, layer: int, values: tf.Tensor) -> tf.Tensor:
        return values @ tf.cast(self.weights[layer], values.dtype) + tf.cast(self.biases[layer], values.dtype)


def _normalised(values: tf.Tensor) -> tf.Tensor:
    centred = values - tf.reduce_mean(values, axis=-1, keepdims=True)
    variance = tf.reduce_sum(centred**2, axis=-1, keepdims=True) / (values.shape[-1] - 1)
    return centred / tf.sqrt(variance + 1e-5)

"""Shapes of the mass whose coefficients are functions of the conditions.

A shape need not be normalised: it is divided by its integral over the window of the mass, by quadrature. To add one, write a
class with the members of :class:`MassShape`. The mass comes as ``t``, from -1 to 1 over the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

from ..common.checks import integer, number
from ..densities.flows import Flow

__all__ = ["Bernstein", "ErfcExponential", "Exponential", "LearnedSignal", "MassShape", "Peak"]


_MARGIN = 0.2  # of half of the window, by which a learned signal has to reach further


@runtime_checkable
class MassShape(Protocol):
    """A shape of the mass.

    Attributes:
        start: Coefficients that a fit starts from; what they mean is for the shape to say. None of them is bounded.
    """

    start: tuple[float, ...]

    def log_shape(self, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the shape ``(n,)`` at ``t (n,)``, with coefficients ``a (n, p)`` and conditions ``x (n, m)``."""


class Exponential:
    """An exponential; its coefficient is minus the slope in ``t``."""

    start = (0.5,)

    def log_shape(self, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the shape."""
        del x
        return -a[:, 0] * t


class ErfcExponential:
    """The shape of a background with a turn-on, ``erfc((A - t) B) exp(-D t)``, with coefficients ``A``, ``log B`` and ``D``."""

    start = (-0.8, 0.5, 0.5)

    def log_shape(self, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the shape."""
        del x
        argument = (a[:, 0] - t) * tf.exp(a[:, 1])
        # Far below the turn-on there is nothing: the logarithm stays a number.
        return tf.math.log(tf.math.erfc(tf.clip_by_value(argument, -5.0, 5.0))) - a[:, 2] * t


class Bernstein:
    """A positive polynomial; coefficients are logarithms of those of Bernstein's polynomials, but for the first, which is 1.

    Args:
        degree: Degree, 1 to 6.
    """

    def __init__(self, degree: int = 3):
        self.degree = integer(degree, "degree", low=1, high=6)
        self.start = (0.0,) * self.degree

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"degree": self.degree}

    def log_shape(self, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the shape."""
        del x
        u = 0.5 * (1.0 + t)
        result = (1.0 - u) ** self.degree
        for k in range(1, self.degree + 1):
            result += tf.exp(a[:, k - 1]) * math.comb(self.degree, k) * u**k * (1.0 - u) ** (self.degree - k)
        return tf.math.log(result)


class Peak:
    """A Gaussian with an exponential tail on each side; its coefficients are mean and ``log`` of width and of where tails begin.

    Args:
        mean: Where a fit starts, in ``t``.
        width: The same of the width.
    """

    def __init__(self, mean: float = 0.0, width: float = 0.1):
        self.mean, self.width = number(mean, "mean"), number(width, "width", above=0.0)
        self.start = (self.mean, math.log(self.width), 0.0, 0.0)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"mean": self.mean, "width": self.width}

    def log_shape(self, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the shape."""
        del x
        z = (t - a[:, 0]) * tf.exp(-a[:, 1])
        k = tf.where(z < 0, tf.exp(a[:, 2]), tf.exp(a[:, 3]))
        size = tf.abs(z)
        return tf.where(size < k, -0.5 * z**2, 0.5 * k**2 - k * size)


class LearnedSignal:
    """A learned density of the mass given the conditions, with a scale and a resolution; the coefficients of the fit.

    Args:
        flow: Density of one observable, the mass, given conditions or none. It is moved and widened, so that it has to be learned
            over a range that reaches further than the window, or has no edges.
        window: Range of the mass.
        mass: Column of the mass.
        cond: Conditions of the fit, of which the flow knows some.

    Raises:
        TypeError: If it is no flow of one observable.
        ValueError: If it is of another column, of conditions that the fit does not have, or ends close to the window.
    """

    start = (0.0, 0.0)

    def __init__(self, flow: Any, window: tuple[float, float], mass: str, cond: Sequence[str]):
        if not isinstance(flow, Flow) or len(flow.obs) != 1:
            raise TypeError(f"a learned signal is a Flow of one observable, the mass; got {flow!r}")
        self.window, self.mass, self.cond = (float(window[0]), float(window[1])), mass, tuple(cond)
        low, high = self.window
        if flow.obs != (mass,) or not set(flow.cond) <= set(self.cond):
            raise ValueError(
                f"the learned signal is of {flow.obs[0]!r} given {list(flow.cond)}; the fit is of {mass!r} given {list(cond)}"
            )
        self.flow, self._centre, self._half = flow, 0.5 * (low + high), 0.5 * (high - low)
        self._columns = [self.cond.index(name) for name in flow.cond]
        least = low - _MARGIN * self._half, high + _MARGIN * self._half
        self._edges = flow.ranges[mass]
        if self._edges[0] > least[0] or self._edges[1] < least[1]:
            raise ValueError(
                f"the learned signal ends at {self._edges}, and a fit moves it over the window {self.window}: learn it from "
                f"{least[0]:g} to {least[1]:g} at least, or without ranges="
            )

    def log_shape(self, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Logarithm of the shape; the mean of the mass moves by ``a_0 / 10`` of half of the window, its width by ``exp(a_1)``."""
        moved = (t - 0.1 * a[:, 0]) * tf.exp(-a[:, 1])
        m = tf.cast(self._centre + self._half * moved, tf.float64)[:, None]
        low, high = self._edges
        margin = 1e-6 * self._half  # beyond its edges the density goes on as a constant
        m = tf.clip_by_value(m, tf.constant(low + margin, m.dtype), tf.constant(high - margin, m.dtype))
        given = tf.gather(tf.cast(x, tf.float64), self._columns, axis=1)
        u, c, log_jacobian = self.flow.encode(m, given)
        return tf.cast(self.flow.log_density(u, c) + log_jacobian, t.dtype)

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"flow": self.flow, "window": self.window, "mass": self.mass, "cond": self.cond}

r"""Truncated power series: the arithmetic that expands a density around a point, to any order and exactly.

A :class:`Series` stands for a function near a point of a few variables, :math:`f(x + \delta) = \sum_\alpha f_\alpha
\delta^\alpha`, by its coefficients up to a total degree. Sums and products of series are series; a smooth function of a
series follows from the function's own Taylor coefficients (:meth:`Series.compose`). Nothing is differentiated
numerically, and no graph of nested derivatives is built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

__all__ = [
    "Exponents",
    "Series",
    "Taylor",
    "exp",
    "log",
    "log_logistic",
    "monomials",
    "reciprocal",
    "sigmoid",
    "silu",
    "sqrt",
]

Exponents = tuple[int, ...]
Taylor = Callable[[tf.Tensor, int], Sequence[tf.Tensor]]
"""From a point and an order to the Taylor coefficients ``f^(k)(x) / k!`` of a function there, ``k = 0 .. order``."""


class Series:
    """A function of a few small variables, by its Taylor coefficients; those that are not given are zero.

    Args:
        terms: Coefficient tensors by the exponents of the variables; the constant term is always there.
        order: Highest total degree; higher ones are dropped.
    """

    def __init__(self, terms: Mapping[Exponents, tf.Tensor], order: int):
        self.terms, self.order = dict(terms), order

    @classmethod
    def variable(cls, value: tf.Tensor, index: int, n_variables: int, order: int) -> Series:
        """The variable itself: its value at the point, and one times the shift."""
        exponents = tuple(int(i == index) for i in range(n_variables))
        return cls({(0,) * n_variables: value, exponents: tf.ones_like(value)}, order)

    @property
    def constant(self) -> tf.Tensor:
        """The value at the point."""
        return next(value for exponents, value in self.terms.items() if not any(exponents))

    def map(self, linear: Callable[[tf.Tensor], tf.Tensor]) -> Series:
        """Apply a linear function to every coefficient."""
        return Series({exponents: linear(value) for exponents, value in self.terms.items()}, self.order)

    def split(self, sizes: Sequence[int]) -> list[Series]:
        """Split every coefficient along its last axis."""
        parts = {exponents: tf.split(value, sizes, axis=-1) for exponents, value in self.terms.items()}
        return [Series({e: values[i] for e, values in parts.items()}, self.order) for i in range(len(sizes))]

    def compose(self, taylor: Taylor) -> Series:
        """A smooth function of the series, by Horner's rule in its part without the constant term."""
        coefficients = taylor(self.constant, self.order)
        small = {exponents: value for exponents, value in self.terms.items() if any(exponents)}
        if not small:
            return Series({self._zero: coefficients[0]}, self.order)
        *lower, result = coefficients
        for coefficient in reversed(lower):
            result = Series(small, self.order) * result + coefficient
        return result

    def __add__(self, other: Series | tf.Tensor | float) -> Series:
        if not isinstance(other, Series):
            other = Series({self._zero: other}, self.order)
        terms = dict(self.terms)
        for exponents, value in other.terms.items():
            terms[exponents] = terms[exponents] + value if exponents in terms else value
        return Series(terms, self.order)

    def __sub__(self, other: Series | tf.Tensor | float) -> Series:
        return self + (-1.0) * other

    def __mul__(self, other: Series | tf.Tensor | float) -> Series:
        if not isinstance(other, Series):
            return self.map(lambda value: value * other)
        terms: dict[Exponents, tf.Tensor] = {}
        for (left, a), (right, b) in itertools.product(self.terms.items(), other.terms.items()):
            exponents = tuple(i + j for i, j in zip(left, right, strict=True))
            if sum(exponents) <= self.order:
                terms[exponents] = terms[exponents] + a * b if exponents in terms else a * b
        return Series(terms, self.order)

    __rmul__, __radd__ = __mul__, __add__

    @property
    def _zero(self) -> Exponents:
        return (0,) * len(next(iter(self.terms)))


def monomials(n_variables: int, order: int) -> list[Exponents]:
    """Exponents of all monomials up to a total degree, in ascending degree."""
    factors = (
        chosen
        for degree in range(order + 1)
        for chosen in itertools.combinations_with_replacement(range(n_variables), degree)
    )
    return [tuple(map(chosen.count, range(n_variables))) for chosen in factors]


# --- Taylor coefficients of the functions that densities are made of ---------------------------------------------------


def exp(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of the exponential."""
    value = tf.exp(x)
    return [value / math.factorial(k) for k in range(order + 1)]


def log(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of the logarithm."""
    inverse = 1.0 / x
    return [tf.math.log(x), *((-1.0) ** (k + 1) / k * _power(inverse, k) for k in range(1, order + 1))]


def reciprocal(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of ``1 / x``."""
    inverse = 1.0 / x
    return [(-1.0) ** k * _power(inverse, k + 1) for k in range(order + 1)]


def sqrt(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of the square root."""
    root, inverse = tf.sqrt(x), 1.0 / x
    binomials = [math.prod((0.5 - i) / (i + 1) for i in range(k)) for k in range(order + 1)]
    return [root * (binomial * _power(inverse, k)) for k, binomial in enumerate(binomials)]


def sigmoid(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of the logistic function ``s``: every derivative is a polynomial in ``s``, since ``s' = s - s^2``."""
    value = tf.sigmoid(x)
    polynomial, result = [0.0, 1.0], []
    for k in range(order + 1):
        result.append(_horner(polynomial, value) / math.factorial(k))
        slope = [i * c for i, c in enumerate(polynomial)]
        polynomial = [a - b for a, b in zip([*slope, 0.0], [0.0, *slope], strict=True)]
    return result


def silu(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of ``x`` times the logistic function of ``x``."""
    s = sigmoid(x, order)
    return [x * s[0], *(x * s[k] + s[k - 1] for k in range(1, order + 1))]


def log_logistic(x: tf.Tensor, order: int) -> list[tf.Tensor]:
    """Of the log-density of the standard logistic distribution, whose derivative is ``1 - 2 s(x)``."""
    s = sigmoid(x, order - 1)
    slopes = [1.0 - 2.0 * s[0], *(-2.0 * value for value in s[1:])]
    return [-x - 2.0 * tf.math.softplus(-x), *(slope / k for k, slope in enumerate(slopes, start=1))]


def _power(x: tf.Tensor, count: int) -> tf.Tensor:
    """``x**count`` by multiplication."""
    result = tf.ones_like(x)
    for _ in range(count):
        result *= x
    return result


def _horner(coefficients: Sequence[float], x: tf.Tensor) -> tf.Tensor:
    result = tf.zeros_like(x)
    for coefficient in reversed(coefficients):
        result = result * x + coefficient
    return result

r"""Displacements: a map next to the identity, linear in its weights, that follows parameters polynomially.

.. math::
    T_\delta(v)_j = v_j + \sum_m \phi_m(\delta) \, h_{mj}(v_{\le j}, x), \qquad
    h_{mj} = \sigma_j \sum_a W_{mja} f_a(x, z_1, \dots, z_j), \qquad z_j = \frac{v_j - \mu_j(x, v_{<j})}{\sigma_j(x, v_{<j})}

Each coordinate is moved by a function of itself, of those before it and of the conditions. That is enough to turn a density
into any other one close to it; the log-determinant is a sum over coordinates, and ``h`` and its slopes are functions of the
event alone, computed once for each data set. As a displacement is linear in ``W``, the best one is found by regression, see
:mod:`zfit_fnf.doi.regression`.

The functions ``f_a`` are products of Hermite polynomials, of the lowest degrees in all variables together. Their arguments
are bounded, ``t / sqrt(1 + t^2 / 16)``: inside of the data they are polynomials, and far out constants. The frame ``(mu,
sigma)``, a running mean and width of each coordinate, makes the same few functions serve whatever the scale is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ..common.checks import LARGEST, flag, integer
from .entries import FRAME, HIGHEST_SUM
from .model import Model
from .monomials import Monomials, Powers, checked_powers

__all__ = ["Displacement", "graded", "log_slope"]

_BOUND = 4.0  # of the arguments of the polynomials
_WINDOW = (-1.5, 1.5)  # of the shifts along the axes; beyond, their powers continue linearly
_SLOPE = 0.1  # below it the logarithm of a slope is continued as a parabola, so that a minimiser may look there
_STEPS = 60  # of Newton's method, which doubles the digits at each


class Displacement(Model):
    """The map ``T_delta`` of coordinates ``v (n, d)``, conditional on ``x (n, m)``.

    At ``delta = 0`` it is exactly the identity, unless it has a constant part.

    Args:
        powers: Exponents of each monomial of the shifts, a row for each.
        n_dim: Number ``d`` of coordinates.
        n_cond: Number ``m`` of conditions.
        n_maps: Number of maps, as of processes that have one each.
        n_functions: Number of functions of each coordinate and map.
        constant: Whether it has a part that does not depend on the shifts, after the monomials.
    """

    def __init__(
        self,
        powers: Powers,
        *,
        n_dim: int,
        n_cond: int,
        n_maps: int = 1,
        n_functions: int = 60,
        constant: bool = False,
    ):
        super().__init__()
        self.axes = tuple(f"axis {index}" for index in range(len(next(iter(powers), ()))))
        self.powers = checked_powers(powers, self.axes)
        self.n_dim, self.n_cond = integer(n_dim, "n_dim", low=1, high=LARGEST), integer(n_cond, "n_cond", low=0)
        self.n_maps = integer(n_maps, "n_maps", low=1, high=LARGEST)
        self.n_functions = integer(n_functions, "n_functions", low=1, high=LARGEST)
        flag(constant, "constant")
        self.constant = constant
        self.monomials = Monomials([_Named(self.axes, self.powers)], dict.fromkeys(self.axes, _WINDOW))
        self._degrees = [graded(self.n_cond + j + 1, self.n_functions) for j in range(self.n_dim)]
        self._frame_degrees = [graded(self.n_cond + j, FRAME) for j in range(self.n_dim)]
        n_weights = [(self.n_maps, len(self.powers) + constant, len(degrees)) for degrees in self._degrees]
        n_frame = [(self.n_maps, 2, len(degrees)) for degrees in self._frame_degrees]
        self.weights = [tf.Variable(tf.zeros(shape, tf.float64), trainable=False) for shape in n_weights]
        self.frames = [tf.Variable(tf.zeros(shape, tf.float64), trainable=False) for shape in n_frame]

    @property
    def n_fields(self) -> int:
        """Number of displacement fields, the functions of all coordinates and maps together."""
        return self.n_maps * sum(map(len, self._degrees))

    def set_fields(self, weights: np.ndarray) -> None:
        """Set all weights: a row ``(K,)`` for each monomial, and for the constant part if there is one."""
        start = 0
        for index in range(self.n_maps):
            for variable in self.weights:
                stop = start + variable.shape[2]
                values = variable.numpy()
                values[index] = weights[:, start:stop]
                variable.assign(values)
                start = stop

    def field_weights(self) -> np.ndarray:
        """All weights, as :meth:`set_fields` takes them."""
        return np.concatenate(
            [variable.numpy()[index] for index in range(self.n_maps) for variable in self.weights], axis=1
        )

    def lowest(self, share: float) -> np.ndarray:
        """The lowest functions of each coordinate and map, this share of them and one at least, as a mask ``(K,)``."""
        counts = [len(degrees) for degrees in self._degrees] * self.n_maps
        return np.concatenate([np.arange(count) < max(1, int(share * count)) for count in counts])

    def degrees_of(self, coordinate: int) -> np.ndarray:
        """Degree of each function of a coordinate in the conditions and coordinates, ``(functions, m + j + 1)``."""
        return self._degrees[coordinate]

    def frame_functions(self, v: tf.Tensor, c: tf.Tensor, coordinate: int) -> tf.Tensor:
        """The functions ``(n, functions)`` that mean and logarithm of the width of a coordinate are sums of."""
        degrees = self._frame_degrees[coordinate]
        tables = [_polynomials(values, degrees.max(initial=0)) for values in (*_columns(c), *_columns(v)[:coordinate])]
        return _product(tables, degrees, like=v)

    def functions(self, v: tf.Tensor, c: tf.Tensor, index: int = 0) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Fields of one map and their slopes, ``(n, functions)`` each, for every coordinate: those of unit weights."""
        tables, found = [_polynomials(values, self._highest) for values in _columns(c)], []
        for j, degrees in enumerate(self._degrees):
            z, width = self._in_frame(v, c, j, index)
            own = _polynomials(z, self._highest)
            others = _product(tables, degrees[:, :-1], like=v)
            last = degrees[:, -1]
            slopes = tf.gather(_derivatives(own, z), last, axis=1)
            found.append((width * others * tf.gather(own, last, axis=1), others * slopes))
            tables.append(own)
        return found

    def coefficients(self, v: tf.Tensor, c: tf.Tensor, index: int = 0) -> tf.Tensor:
        """What each monomial moves, ``(n, M, d, 2)``: displacements, and their slopes."""
        parts = []
        for (values, slopes), weights in zip(self.functions(v, c, index), self.weights, strict=True):
            own = tf.cast(weights[index], v.dtype)
            parts.append(tf.stack([tf.matmul(f, own, transpose_b=True) for f in (values, slopes)], axis=-1))
        return tf.stack(parts, axis=2)

    def basis(self, shift: tf.Tensor) -> tf.Tensor:
        """Monomials ``(M,)`` at a shift ``(P,)``, and a one for the constant part if there is one."""
        monomials = self.monomials(shift)
        return tf.concat([monomials, tf.ones(1, monomials.dtype)], axis=0) if self.constant else monomials

    @staticmethod
    def inverse(v: tf.Tensor, coefficients: tf.Tensor, basis: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Moved coordinates ``(n, d)`` and the log-determinant ``(n,)``."""
        moved = tf.einsum("nmjk,m->njk", coefficients, tf.cast(basis, v.dtype))
        return v + moved[..., 0], tf.reduce_sum(log_slope(moved[..., 1]), axis=-1)

    def forward(self, moved: tf.Tensor, c: tf.Tensor, basis: tf.Tensor, index: int = 0) -> tf.Tensor:
        """The inverse of :meth:`inverse`, by Newton steps in all coordinates together."""
        tolerance = tf.constant(8.0 * np.finfo(moved.dtype.as_numpy_dtype).eps, moved.dtype)
        contracted = tf.cast(basis, moved.dtype)

        def unfinished(v: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(tf.abs(change) > tolerance * (1.0 + tf.abs(v)))

        def step(v: tf.Tensor, change: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            del change
            at = tf.einsum("nmjk,m->njk", self.coefficients(v, c, index), contracted)
            change = (moved - v - at[..., 0]) / tf.maximum(1.0 + at[..., 1], tf.constant(_SLOPE, moved.dtype))
            return v + change, change

        return tf.while_loop(
            unfinished, step, (moved, tf.ones_like(moved)), maximum_iterations=_STEPS, parallel_iterations=1
        )[0]

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a displacement of the same architecture."""
        names = ("powers", "n_dim", "n_cond", "n_maps", "n_functions", "constant")
        return {name: getattr(self, name) for name in names}

    @property
    def _highest(self) -> int:
        return max(int(degrees.max()) for degrees in self._degrees)

    def _in_frame(self, v: tf.Tensor, c: tf.Tensor, j: int, index: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Coordinate ``j`` in its frame ``(n,)``, and the width ``(n, 1)``."""
        functions = self.frame_functions(v, c, j)
        frame = tf.matmul(functions, tf.cast(self.frames[j][index], v.dtype), transpose_b=True)
        width = tf.exp(frame[:, 1])
        return (v[:, j] - frame[:, 0]) / width, width[:, None]


class _Named(NamedTuple):
    """Monomials of the axes, as `Monomials` takes them."""

    nuisances: tuple[str, ...]
    powers: Powers


def graded(n_variables: int, size: int) -> np.ndarray:
    """Degrees ``(n, n_variables)`` of the products of polynomials with the lowest sum, at most ``size`` of them.

    Of equal sums, those with fewer variables come first.

    Example:
        >>> graded(2, 5).tolist()
        [[0, 0], [1, 0], [0, 1], [2, 0], [0, 2]]
    """
    rows: list[np.ndarray] = []
    for degree in range(HIGHEST_SUM + 1):
        chosen = sorted(
            itertools.combinations_with_replacement(range(n_variables), degree),
            key=lambda variables: (len(set(variables)), variables),
        )
        rows += [np.bincount(np.array(variables, int), minlength=n_variables) for variables in chosen]
        if len(rows) >= size:
            break
    return np.array(rows[:size], int).reshape(len(rows[:size]), n_variables)


def log_slope(slope: tf.Tensor) -> tf.Tensor:
    """Logarithm of one plus the slope of a displacement; continued as a parabola where the map is about to fold."""
    least = tf.constant(_SLOPE, slope.dtype)
    value = 1.0 + slope
    below = tf.minimum(value - least, 0.0) / least
    return tf.math.log(tf.maximum(value, least)) + below - 0.5 * below**2


def _columns(values: tf.Tensor) -> list[tf.Tensor]:
    return tf.unstack(values, axis=1)


def _polynomials(values: tf.Tensor, highest: int) -> tf.Tensor:
    """Normalised Hermite polynomials ``(n, highest + 1)`` of bounded values ``(n,)``."""
    t = values / tf.sqrt(1.0 + (values / _BOUND) ** 2)
    found = [tf.ones_like(t), t]
    for degree in range(2, highest + 1):
        found.append((t * found[-1] - np.sqrt(degree - 1.0) * found[-2]) / np.sqrt(degree))
    return tf.stack(found[: highest + 1], axis=1)


def _derivatives(polynomials: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Derivatives of :func:`_polynomials` by the values."""
    roots = tf.constant(np.sqrt(np.arange(polynomials.shape[1])), values.dtype)
    lower = tf.concat([tf.zeros_like(polynomials[:, :1]), polynomials[:, :-1]], axis=1)
    return roots * lower * (1.0 + (values[:, None] / _BOUND) ** 2) ** -1.5


def _product(tables: Sequence[tf.Tensor], degrees: np.ndarray, *, like: tf.Tensor) -> tf.Tensor:
    """Products ``(n, functions)`` of polynomials of the given degrees, one table for each variable."""
    product = tf.ones_like(like[:, :1]) * tf.ones(len(degrees), like.dtype)
    for table, column in zip(tables, degrees.T, strict=True):
        if column.any():
            product *= tf.gather(table, column, axis=1)
    return product

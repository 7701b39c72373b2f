r"""Probability that a learned density has in a part of its range, as a smooth function of the nuisances.

The density of a flow with one layer is a product of univariate conditional densities whose distribution functions are
known, and stays one behind a deformation with one layer. In a box :math:`[a, b]`

.. math::
    P(\nu) = \int \prod_{j<m} p_j(u_j | u_{<j}, \nu) \; \big[ F_m(b_m | u_{<m}, \nu) - F_m(a_m | u_{<m}, \nu) \big] \; du_{<m},

where ``m`` is the last coordinate that the box restricts: those after it integrate to one, and in one dimension no
integral is left. The others are integrated over fixed points inside of the box, a shifted lattice placed by the nominal
distribution functions (the separation of variables of Genz), so that nothing is noise and derivatives are exact. Where
no distribution functions are known, all coordinates are integrated that way, with points placed by logistic
distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.warning import warn
from ..densities.bijectors import logistic_log_prob
from ..densities.flows import AutoregressiveDensity, Flow
from ..densities.responses import ShapeResponse

__all__ = ["TOLERANCE", "Factor", "Region"]

TOLERANCE = 1e-4
"""Relative accuracy of probabilities; where it cannot be reached a warning says what was."""

_REFUSED = 1e-2  # estimated relative error of a probability that would be of no use
_SHIFTS = 8  # of the lattice: their spread is the estimate of the error
_SMALLEST, _LARGEST = 2**4, 2**13  # points of one shifted lattice
_EDGE = 1e-4  # of the unit cube that has no points: in the far tails networks extrapolate to what is not a number
_CANDIDATES = 64  # generators of a lattice that are tried
_WIDER = 1.5  # are the logistic distributions than the nominal density: it may be deformed, and its tails be heavier
_CORNERS = 6  # of the trained windows, at which the error is estimated too
_SEED = 2026
_TYPICAL = 4096  # events whose mean and width place the points where no distribution functions are known

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Factor:
    """One factor of a product of conditional densities.

    Attributes:
        flow: The nominal density.
        response: What makes it depend on nuisances, if anything.
        used: Observables that other factors are conditional on.
    """

    flow: Flow
    response: ShapeResponse | None = None
    used: frozenset[str] = frozenset()


class Region:
    """Probability of a product of conditional densities in a box.

    Args:
        factors: The densities, each after those that describe its conditions.
        ranges: ``(low, high)`` of the observables that are restricted, infinite on a side that is not.

    Attributes:
        n_points: Number of fixed points; one where the probability is known in closed form.
        error: Estimated relative error, the largest one at the nominal point and at edges of the trained windows.

    Raises:
        ValueError: If the box holds no probability that can be computed.
    """

    def __init__(self, factors: Sequence[Factor], ranges: Ranges):
        self._ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
        self._parts = [_part(factor, self._ranges) for factor in factors]
        self._n_sampled = sum(part.n_sampled for part in self._parts)
        probes = _probes(factors)
        size = _SMALLEST
        while True:
            self._place(size)
            self.error = max(self._relative_error(probe) for probe in probes)
            if self.error < TOLERANCE / 3 or size >= _LARGEST:
                break
            size *= 2
        if not self.error < _REFUSED:
            raise ValueError(
                f"the probability in {self._ranges} cannot be computed (estimated relative error {self.error:.1g}): it "
                "holds hardly anything, or there are too many observables for a density without distribution functions"
            )
        if self.error > TOLERANCE:
            warn(
                f"the probability in {self._ranges} is known to {self.error:.1g} (relative) only; of densities with one "
                "layer it is known better"
            )

    def log_probability(self, nuisances: Sequence[tf.Tensor | None]) -> tf.Tensor:
        """Logarithm of the probability, a scalar.

        Args:
            nuisances: Values ``(K,)`` for each factor, in the order of its response; ``None`` without one.
        """
        values = self._log_values(nuisances)
        return tf.reduce_logsumexp(values) - np.log(self.n_points)

    def _place(self, size: int) -> None:
        uniform = _points(size, self._n_sampled) if self._n_sampled else np.zeros((1, 0))
        self.n_points = len(uniform)
        smooth, log_density = _towards_the_middle(uniform)
        given: dict[str, tf.Tensor] = {}
        start, self._log_measure = 0, tf.constant(log_density)
        for part in self._parts:
            numbers = tf.constant(smooth[:, start : start + part.n_sampled])
            self._log_measure += part.place(numbers, given)
            start += part.n_sampled

    def _log_values(self, nuisances: Sequence[tf.Tensor | None]) -> tf.Tensor:
        values = [part.log_density(nu) for part, nu in zip(self._parts, nuisances, strict=True)]
        return self._log_measure + tf.add_n(values)

    def _relative_error(self, nuisances: Sequence[tf.Tensor | None]) -> float:
        values = self._log_values(nuisances).numpy()
        if not np.isfinite(np.max(values)):
            return float("nan") if len(values) == 1 else float("inf")
        means = np.exp(values - np.max(values)).reshape(-1, max(len(values) // _SHIFTS, 1)).mean(axis=1)
        return float(means.std(ddof=1) / means.mean() / np.sqrt(len(means))) if len(means) > 1 else 0.0


class _Conditional:
    """A factor whose coordinates have known conditional distribution functions, one after the other."""

    def __init__(self, factor: Factor, ranges: Ranges):
        self._factor, self._flow = factor, factor.flow
        self._low, self._high = _edges(factor.flow, ranges)
        names = factor.flow.obs
        needed = [j for j, name in enumerate(names) if name in ranges or name in factor.used]
        last = max(needed)
        self._exact = None if names[last] in factor.used else last  # the coordinate that is integrated in closed form
        self.n_sampled = last + (self._exact is None)

    def place(self, uniform: tf.Tensor, given: dict[str, tf.Tensor]) -> tf.Tensor:
        """Choose points; returns the logarithm of the volume that each stands for, over the nominal density there."""
        n, d = uniform.shape[0], len(self._flow.obs)
        self._c = _conditions(self._flow, given, n)
        self._given = self._flow.precompute(self._c)
        density, u, z = self._flow.density, tf.zeros((n, d), tf.float64), tf.zeros((n, d), tf.float64)
        log_volume = tf.zeros((n,), tf.float64)
        for j in range(self.n_sampled):
            low, high = (self._at_edge(u, edges, j) for edges in (self._low, self._high))
            low, high = (None if x is None else density.base(x, self._given)[0][:, j] for x in (low, high))
            log_inside = _log_difference(low, high, like=z[:, j])
            z = _with_column(z, j, _between(low, high, log_inside, uniform[:, j]))
            u = density.from_base(z, self._given)
            log_volume += log_inside
        z, log_slope = density.base(u, self._given)
        given.update(zip(self._flow.obs, tf.unstack(self._flow.decode(u), axis=1), strict=True))
        points = (
            [u] if self._exact is None else [self._at_edge(u, edge, self._exact) for edge in (self._low, self._high)]
        )
        self._precomputed = [None if point is None else self._precompute(point) for point in points]
        return log_volume - self._log_sampled(z, log_slope)

    def log_density(self, nu: tf.Tensor | None) -> tf.Tensor:
        """Logarithm ``(n,)`` of the density of what is sampled, times the probability of what is not."""
        bases = [None if point is None else self._base(nu, point) for point in self._precomputed]
        sampled = self._log_sampled(*next(base for base in bases if base is not None))
        if self._exact is None:
            return sampled
        low, high = (None if base is None else base[0][:, self._exact] for base in bases)
        return _log_difference(low, high, like=sampled) + sampled

    def _precompute(self, u: tf.Tensor) -> Any:
        response = self._factor.response
        return response.precompute(u, self._c) if response else self._flow.density.base(u, self._given)

    def _base(self, nu: tf.Tensor | None, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Coordinates ``(n, d)`` that are logistic, and the logarithms of their slopes."""
        return self._factor.response.base(nu, precomputed) if self._factor.response else precomputed

    def _log_sampled(self, z: tf.Tensor, log_slope: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum((logistic_log_prob(z) + log_slope)[:, : self.n_sampled], axis=1)

    @staticmethod
    def _at_edge(u: tf.Tensor, edges: np.ndarray, j: int) -> tf.Tensor | None:
        """The points with one coordinate at an edge; ``None`` if that is infinite."""
        return _with_column(u, j, tf.fill(tf.shape(u)[:1], edges[j])) if np.isfinite(edges[j]) else None


class _Sampled:
    """A factor of which only the density is known."""

    def __init__(self, factor: Factor, ranges: Ranges):
        self._factor, self._flow = factor, factor.flow
        self._low, self._high = _edges(factor.flow, ranges)
        self.n_sampled = len(factor.flow.obs)
        self._moments: tuple[tf.Tensor, tf.Tensor] | None = None

    def place(self, uniform: tf.Tensor, given: dict[str, tf.Tensor]) -> tf.Tensor:
        """As for `_Conditional`."""
        self._c = _conditions(self._flow, given, uniform.shape[0])
        if self._moments is None:
            typical = self._flow.draw(tf.repeat(self._c, _TYPICAL // len(self._c), axis=0), tf.constant([_SEED, 0]))
            width = tf.math.reduce_std(typical, axis=0) * (_WIDER * np.sqrt(3.0) / np.pi)
            self._moments = tf.reduce_mean(typical, axis=0), width
        mean, scale = self._moments
        low, high = (
            [(edge - mean[j]) / scale[j] if np.isfinite(edge) else None for j, edge in enumerate(edges)]
            for edges in (self._low, self._high)
        )
        inside = [_log_difference(a, b, like=mean[0]) for a, b in zip(low, high, strict=True)]
        z = tf.stack(
            [_between(*edges, uniform[:, j]) for j, edges in enumerate(zip(low, high, inside, strict=True))], 1
        )
        self._u = mean + scale * z
        if response := self._factor.response:
            self._precomputed = response.precompute(self._u, self._c)
        given.update(zip(self._flow.obs, tf.unstack(self._flow.decode(self._u), axis=1), strict=True))
        return tf.add_n(inside) + tf.reduce_sum(tf.math.log(scale)) - tf.reduce_sum(logistic_log_prob(z), axis=1)

    def log_density(self, nu: tf.Tensor | None) -> tf.Tensor:
        """As for `_Conditional`."""
        if response := self._factor.response:
            return response.log_density_at(nu, self._precomputed)
        return self._flow.log_density(self._u, self._c)


def _part(factor: Factor, ranges: Ranges) -> _Conditional | _Sampled:
    density, response = getattr(factor.flow, "density", None), factor.response
    known = isinstance(density, AutoregressiveDensity) and density.sequential
    return (_Conditional if known and (response is None or response.sequential) else _Sampled)(factor, ranges)


def _probes(factors: Sequence[Factor]) -> list[list[tf.Tensor | None]]:
    """The nominal point, the edges of the window of each nuisance, and corners of all windows."""
    windows: dict[str, tuple[float, float]] = {}
    for factor in factors:
        windows.update(factor.response.windows if factor.response else {})
    points: list[dict[str, float]] = [{}]
    points += [{name: edge} for name, edges in windows.items() for edge in edges]
    if len(windows) > 1:
        sides = np.random.default_rng(_SEED).integers(2, size=(_CORNERS, len(windows)))
        sides[:2] = [[0], [1]]
        distance = min(1.0, 2.0 / np.sqrt(len(windows)))  # at most that of four nuisances
        points += [
            {name: distance * edges[side] for (name, edges), side in zip(windows.items(), corner, strict=True)}
            for corner in sides
        ]
    return [[_values(factor.response, point) for factor in factors] for point in points]


def _values(response: ShapeResponse | None, point: Mapping[str, float]) -> tf.Tensor | None:
    if response is None:
        return None
    return tf.constant([float(point.get(name, 0.0)) for name in response.nuisances], tf.float64)


def _edges(flow: Flow, ranges: Ranges) -> tuple[np.ndarray, np.ndarray]:
    """The box in standardised coordinates: its lower and its upper edges ``(d,)``."""
    limits = np.array([ranges.get(name, (-np.inf, np.inf)) for name in flow.obs]).T
    middle, above = (flow.decode(tf.fill((1, len(flow.obs)), np.float64(u))).numpy()[0] for u in (0.0, 1.0))
    rows = np.where(np.isfinite(limits), limits, middle)
    conditions = tf.zeros((2, len(flow.cond)), tf.float64)
    edges = np.asarray(flow.encode(tf.constant(rows), conditions)[0])
    edges = np.where(np.isfinite(limits), edges, np.where(above > middle, 1.0, -1.0) * limits)
    return edges.min(axis=0), edges.max(axis=0)  # the coordinate of a range with an upper end alone falls


def _conditions(flow: Flow, given: Mapping[str, tf.Tensor], n: int) -> tf.Tensor:
    """Standardised conditions ``(n, m)``."""
    x = tf.stack([given[name] for name in flow.cond], axis=1) if flow.cond else tf.zeros((n, 0), tf.float64)
    return flow.encode(flow.decode(tf.zeros((n, len(flow.obs)), tf.float64)), x)[1]


def _with_column(x: tf.Tensor, j: int, column: tf.Tensor) -> tf.Tensor:
    return tf.concat([x[:, :j], column[:, None], x[:, j + 1 :]], axis=1)


def _log_difference(low: tf.Tensor | None, high: tf.Tensor | None, *, like: tf.Tensor) -> tf.Tensor:
    """Logarithm of the logistic probability between two points, to full precision also far out; ``None`` is infinite."""
    parts = [tf.zeros_like(like)]
    if high is not None:
        parts.append(-tf.math.softplus(-high))
    if low is not None:
        parts.append(-tf.math.softplus(low))
    if low is not None and high is not None:
        parts.append(tf.math.log(-tf.math.expm1(low - high)))
    return tf.add_n(parts)


def _between(low: tf.Tensor | None, high: tf.Tensor | None, log_inside: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Logistic quantiles of the probabilities ``uniform (n,)``, counted from one point to another."""
    log_below, log_above = tf.math.log(uniform) + log_inside, tf.math.log1p(-uniform) + log_inside
    if low is not None:
        log_below = _log_add(log_below, -tf.math.softplus(-low))
    if high is not None:
        log_above = _log_add(log_above, -tf.math.softplus(high))
    return log_below - log_above


def _log_add(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.maximum(a, b) + tf.math.softplus(-tf.abs(a - b))


# --- points in the unit cube ------------------------------------------------------------------------------------------


def _points(size: int, n_dim: int) -> np.ndarray:
    """Shifted copies of a lattice, one after the other: ``(_SHIFTS size, n_dim)`` numbers in (0, 1)."""
    lattice = np.outer(np.arange(size), _generator(size, n_dim)) / size
    shifts = np.random.default_rng(_SEED).uniform(size=(_SHIFTS, 1, n_dim))
    shifts[:, 0, 0] = (np.arange(_SHIFTS) + 0.5) / (_SHIFTS * size) if n_dim == 1 else shifts[:, 0, 0]
    points = (lattice + shifts) % 1.0
    return np.clip(points.reshape(-1, n_dim), _EDGE, 1.0 - _EDGE)


def _generator(size: int, n_dim: int) -> np.ndarray:
    """Of Korobov's lattice with the smallest worst error for smooth periodic functions, among some candidates."""
    candidates = np.unique(np.linspace(1, size - 1, _CANDIDATES).astype(int) | 1)
    rows = np.arange(size)
    best, smallest = np.ones(n_dim, int), np.inf
    for candidate in candidates:
        powers = np.array([pow(int(candidate), j, size) for j in range(n_dim)])
        x = np.outer(rows, powers) % size / size
        error = np.prod(1.0 + 2.0 * np.pi**2 * (x**2 - x + 1.0 / 6.0), axis=1).mean()
        if error < smallest:
            best, smallest = powers, error
    return best


def _towards_the_middle(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``6 t^5 - 15 t^4 + 10 t^3``, and the logarithm of its slope summed over coordinates.

    It makes the integrand a smooth periodic function, for which lattices are best, and takes away what the ratio of
    deformed to nominal density has in the tails.
    """
    smooth = np.clip(t**3 * (10.0 + t * (6.0 * t - 15.0)), 1e-300, 1.0 - 1e-16)
    return smooth, np.sum(np.log(30.0) + 2.0 * np.log(t) + 2.0 * np.log1p(-t), axis=1)

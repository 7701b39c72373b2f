"""Nominal conditional densities: normalizing flows whose parts are all exactly normalised.

A :class:`Flow` takes an event through two steps, and multiplies the Jacobians on the way:

1. *encode*: physical ranges to the real line (fixed bijections), then standardisation learned from the training sample;
2. the :class:`Density` of the standardised coordinates ``u``. Ours is autoregressive; others come from elsewhere, see
   :mod:`zfit_fnf.interop`.

Everything that varies (nuisances, see :mod:`zfit_fnf.deformation`) acts between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from .bijectors import LogisticMixture, PhysicalRanges, RationalQuadraticSpline
from .history import History
from .nets import MaskedMLP, Model, default_hidden
from .samples import Sample, as_sample, check_inside

_CHUNK = 65536


class AutoregressiveLayer(tf.Module):
    """One autoregressive bijection: a masked network parametrises a univariate law for every coordinate."""

    def __init__(
        self,
        law: LogisticMixture | RationalQuadraticSpline,
        n_dim: int,
        n_context: int,
        hidden: Sequence[int],
        seed: int,
    ):
        super().__init__()
        self.law = law
        self.network = MaskedMLP(n_dim, n_context, law.n_parameters, hidden=hidden, seed=seed)

    def log_prob(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` of ``u`` when this is the last layer."""
        return tf.reduce_sum(self.law.log_prob(u, self.network(u, c)), axis=-1)

    def inverse(self, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base ``(n, d)`` and its log-determinant ``(n,)``."""
        z, log_slope = self.law.inverse(u, self.network(u, c))
        return z, tf.reduce_sum(log_slope, axis=-1)

    def forward(self, z: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Base to data, one coordinate after the other."""
        return solve_autoregressive(
            lambda u, j: self.law.forward(z[:, j], self.network(u, c)[:, j]), n_dim=self.network.n_inputs, like=z
        )


def solve_autoregressive(
    coordinate: Callable[[tf.Tensor, int], tf.Tensor], *, n_dim: int, like: tf.Tensor, backwards: bool = False
) -> tf.Tensor:
    """Build ``(n, d)`` columnwise: ``coordinate(u, j)`` may depend on the columns of ``u`` solved before ``j`` only."""
    solved = tf.zeros_like(like)
    for j in reversed(range(n_dim)) if backwards else range(n_dim):
        column = coordinate(solved, j)[:, None]
        solved = tf.concat([solved[:, :j], column, solved[:, j + 1 :]], axis=-1)
    return solved


class Density(Model):
    """Conditional density of coordinates, the standardised ones of a :class:`Flow`.

    A subclass sets ``n_dim`` and ``n_context``, and implements :meth:`log_density`, :meth:`draw` and ``config``.

    Attributes:
        n_dim: Number ``d`` of coordinates.
        n_context: Number ``m`` of conditions.
    """

    n_dim: int
    n_context: int

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` of ``u (n, d)`` given ``c (n, m)``; dtype of the arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``; ``seed`` is the integer pair of ``tf.random.stateless_uniform``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be sampled")


class AutoregressiveDensity(Density):
    """Masked autoregressive layers from the coordinates towards a logistic base, in reversed order from one to the next.

    Args:
        n_dim: Number of coordinates.
        n_context: Number of conditions.
        family: ``"mixture"`` or ``"spline"``.
        n_layers: Number of layers.
        n_components: Components of the mixture, or bins of the spline.
        hidden: Widths of the hidden layers of each network; default two layers of ``max(64, 16 d)``.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        n_dim: int,
        n_context: int,
        *,
        family: str = "mixture",
        n_layers: int = 1,
        n_components: int = 8,
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.n_dim, self.n_context = n_dim, n_context
        self.family, self.n_components = family, n_components
        self.hidden = tuple(hidden) if hidden is not None else default_hidden(n_dim)
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        law = make_law(family, n_components)
        seeds = np.random.SeedSequence(seed).generate_state(n_layers)
        self.layers = [AutoregressiveLayer(law, n_dim, n_context, self.hidden, int(layer_seed)) for layer_seed in seeds]

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)``: the Jacobians of all layers but the last, and the density of that one."""
        log_det = tf.zeros_like(u[:, 0])
        for layer in self.layers[:-1]:
            u, layer_log_det = layer.inverse(u, c)
            u, log_det = tf.reverse(u, axis=[-1]), log_det + layer_log_det
        return log_det + self.layers[-1].log_prob(u, c)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``."""
        tiny = np.finfo(c.dtype.as_numpy_dtype).tiny
        uniform = tf.random.stateless_uniform((tf.shape(c)[0], self.n_dim), seed, minval=tiny, dtype=c.dtype)
        z = tf.math.log(uniform) - tf.math.log1p(-uniform)
        for layer in self.layers[:0:-1]:
            z = tf.reverse(layer.forward(z, c), axis=[-1])
        return self.layers[0].forward(z, c)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a density of the same architecture."""
        return {
            "n_dim": self.n_dim,
            "n_context": self.n_context,
            "family": self.family,
            "n_layers": len(self.layers),
            "n_components": self.n_components,
            "hidden": self.hidden,
        }

    def __str__(self) -> str:
        return f"{self.family}, {len(self.layers)} layer(s)"


class Flow(Model):
    """Conditional density ``p(y | x)`` of the observables ``y`` given the conditions ``x``, normalised exactly.

    Usually made by :func:`zfit_fnf.train.fit_flow`; a new one has random weights and a standardisation of one.

    Args:
        obs: Names of the observables, in autoregressive order; at least one.
        cond: Names of the conditioning observables; may be empty.
        ranges: Physical ``(low, high)`` of observables that have them; the others are unbounded.
        density: Density of the standardised coordinates; default a new :class:`AutoregressiveDensity`, which the
            arguments from ``family`` to ``seed`` describe.
        standardisation: ``(mean, width)`` of columns in unbounded coordinates; default ``(0, 1)``, until
            :meth:`standardise` learns it.
        sum_weights: Summed weights of the events it describes: the nominal yield that variations refer to.
        family: ``"mixture"`` (mixture of logistics, smooth, the default) or ``"spline"`` (rational-quadratic; read the
            warning of :class:`~zfit_fnf.bijectors.RationalQuadraticSpline` on Hessian errors).
        n_layers: Autoregressive layers; more than one lets couplings run in both directions of the order.
        n_components: Components of the mixture, or bins of the spline.
        hidden: Widths of the hidden layers of each network; default two layers of ``max(64, 16 d)``.
        seed: Seed of the initial weights.

    Raises:
        ValueError: For names that repeat, ranges of unknown observables, an unknown family, a density of other dimensions.

    Example:
        >>> flow = Flow(["mass"], ["pt"], ranges={"mass": (60.0, 120.0)})
        >>> flow.log_prob({"mass": [91.0], "pt": [30.0]}).shape
        (1,)
    """

    def __init__(
        self,
        obs: Sequence[str],
        cond: Sequence[str] = (),
        *,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        density: Density | None = None,
        standardisation: Mapping[str, tuple[float, float]] | None = None,
        sum_weights: float | None = None,
        family: str = "mixture",
        n_layers: int = 1,
        n_components: int = 8,
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.obs, self.cond = _checked_names(obs, cond)
        self.sum_weights = sum_weights
        self.history: History | None = None  # of the training, if it was trained here
        self.ranges = _checked_ranges(ranges or {}, self.obs)
        self.density = density or AutoregressiveDensity(
            len(self.obs),
            len(self.cond),
            family=family,
            n_layers=n_layers,
            n_components=n_components,
            hidden=hidden,
            seed=seed,
        )
        if (self.density.n_dim, self.density.n_context) != (len(self.obs), len(self.cond)):
            raise ValueError(
                f"a density of {self.density.n_dim} coordinates given {self.density.n_context} conditions cannot "
                f"describe obs={list(self.obs)} given cond={list(self.cond)}"
            )
        self._physical = PhysicalRanges(list(self.ranges.values()))
        centre, scale = _checked_standardisation(standardisation or {}, self.obs + self.cond)
        self._centre = tf.Variable(centre, trainable=False, dtype=tf.float64, name="centre")
        self._scale = tf.Variable(scale, trainable=False, dtype=tf.float64, name="scale")

    # --- for users: tables in, tables out -----------------------------------------------------------------------

    def log_prob(self, data: Any) -> np.ndarray:
        """Log-density per event, in physical coordinates.

        Args:
            data: DataFrame, mapping of arrays, zfit Data, :class:`~zfit_fnf.Sample` or file with the columns
                ``obs`` and ``cond``.

        Returns:
            ``(n,)`` float64.

        Raises:
            ValueError: For missing or non-finite columns and for events outside the ranges.
        """
        y, x = self.columns(data)
        return in_chunks(self._log_prob, y, x)

    def sample(self, n: int | None = None, *, cond: Any = None, seed: int | None = None) -> pd.DataFrame:
        """Draw events.

        Args:
            n: Number of events; default one for each row of ``cond``.
            cond: Table of the conditions, needed if the flow has any. With ``n`` given, rows are repeated in order.
            seed: Seed; default a random one.

        Returns:
            DataFrame with the columns ``obs`` and ``cond``.
        """
        return sample_table(self, self.draw, n, cond, seed)

    def columns(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        """Checked arrays ``y (n, d)`` and ``x (n, m)`` of a table with the flow's columns."""
        sample = as_sample(data, self.obs + self.cond)
        check_inside(sample, self.ranges)
        return sample.array(self.obs), sample.array(self.cond)

    def standardise(self, sample: Sample) -> None:
        """Learn the standardisation (mean and standard deviation in unbounded coordinates) from a sample."""
        rows = slice(None, None, max(1, sample.n_events // 1_000_000))
        unbounded, _ = self._physical.inverse(tf.constant(sample.array(self.obs, rows)))
        values = np.concatenate([unbounded.numpy(), sample.array(self.cond, rows)], axis=1)
        scale = values.std(axis=0)
        for name, width in zip(self.obs + self.cond, scale, strict=True):
            if not width > 0:
                raise ValueError(f"column {name!r} of {sample.name!r} is constant: leave it out")
        self._centre.assign(values.mean(axis=0))
        self._scale.assign(scale)

    # --- for densities, training and pdfs: tensors ---------------------------------------------------------------

    def encode(self, y: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Physical to standardised coordinates (float64).

        Args:
            y: Observables ``(n, d)``.
            x: Conditions ``(n, m)``.

        Returns:
            ``u (n, d)``, ``c (n, m)`` and ``log|du/dy| (n,)``.
        """
        d = len(self.obs)
        unbounded, log_det = self._physical.inverse(y)
        u = (unbounded - self._centre[:d]) / self._scale[:d]
        c = (x - self._centre[d:]) / self._scale[d:]
        return u, c, log_det - tf.reduce_sum(tf.math.log(self._scale[:d]))

    def decode(self, u: tf.Tensor) -> tf.Tensor:
        """Standardised to physical observables, ``(n, d)`` float64."""
        d = len(self.obs)
        return self._physical.forward(u * self._scale[:d] + self._centre[:d])

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` in the standardised coordinates; dtype of the arguments."""
        return self.density.log_density(u, c)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``; ``seed`` is the integer pair of ``tf.random.stateless_uniform``."""
        return self.density.draw(c, seed)

    def _log_prob(self, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        u, c, log_det = self.encode(y, x)
        return self.log_density(u, c) + log_det

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a flow of the same architecture."""
        return {
            "obs": self.obs,
            "cond": self.cond,
            "ranges": self.ranges,
            "density": self.density,
            "sum_weights": self.sum_weights,
        }

    def __repr__(self) -> str:
        given = f" | {', '.join(self.cond)}" if self.cond else ""
        return f"<Flow p({', '.join(self.obs)}{given}), {self.density}>"


def in_chunks(function: Callable[..., tf.Tensor], *arrays: np.ndarray) -> np.ndarray:
    """Apply a tensor function to rows of arrays, a bounded number at a time; returns the concatenated result."""
    n = len(arrays[0])
    parts = [
        function(*(tf.constant(array[start : start + _CHUNK]) for array in arrays)).numpy()
        for start in range(0, n, _CHUNK)
    ]
    return np.concatenate(parts)


def sample_table(
    flow: Flow, draw: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], n: int | None, cond: Any, seed: int | None
) -> pd.DataFrame:
    """Sample with ``draw(c, seed)`` and give the events, with their conditions, as a table."""
    x = _condition_rows(flow, n, cond)
    pairs = np.random.SeedSequence(seed).generate_state(2 * math.ceil(len(x) / _CHUNK)).astype(np.int32).reshape(-1, 2)
    seeds = iter(pairs)

    def physical(rows: tf.Tensor) -> tf.Tensor:
        c = (rows - flow._centre[len(flow.obs) :]) / flow._scale[len(flow.obs) :]
        return flow.decode(draw(c, tf.constant(next(seeds))))

    y = in_chunks(physical, x)
    return pd.DataFrame(np.concatenate([y, x], axis=1), columns=[*flow.obs, *flow.cond])


def _condition_rows(flow: Flow, n: int | None, cond: Any) -> np.ndarray:
    if not flow.cond:
        if n is None:
            raise ValueError("sample needs n, the number of events, for a flow without conditions")
        if n < 1:
            raise ValueError(f"sample needs n >= 1, got {n}")
        return np.zeros((n, 0))
    if cond is None:
        raise ValueError(f"this flow is conditional: give a table of {', '.join(flow.cond)} as cond=")
    x = as_sample(cond, flow.cond).array(flow.cond)
    return x if n is None else x[np.arange(n) % len(x)]


def make_law(family: str, n_components: int) -> LogisticMixture | RationalQuadraticSpline:
    """The univariate law of a family, with so many components or bins."""
    laws = {"mixture": LogisticMixture, "spline": RationalQuadraticSpline}
    if family not in laws:
        raise ValueError(f"unknown family {family!r}: choose from {', '.join(laws)}")
    return laws[family](n_components)


def _checked_names(obs: Sequence[str], cond: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(obs, str) or isinstance(cond, str):
        raise TypeError("obs and cond are lists of column names, not a single string")
    names = [*obs, *cond]
    if not list(obs):
        raise ValueError("a density needs at least one observable in obs=")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"columns {repeated} are named more than once in obs and cond")
    return tuple(obs), tuple(cond)


def _checked_standardisation(
    standardisation: Mapping[str, tuple[float, float]], columns: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    if unknown := sorted(set(standardisation) - set(columns)):
        raise ValueError(f"standardisation given for {unknown}, which are not among the columns {list(columns)}")
    pairs = np.array([standardisation.get(name, (0.0, 1.0)) for name in columns], float)
    for name, (mean, width) in zip(columns, pairs, strict=True):
        if not (np.isfinite(mean) and np.isfinite(width) and width > 0):
            raise ValueError(f"standardisation of {name!r} needs a mean and a positive width, got ({mean}, {width})")
    return pairs[:, 0], pairs[:, 1]


def _checked_ranges(ranges: Mapping[str, tuple[float, float]], obs: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    if unknown := sorted(set(ranges) - set(obs)):
        raise ValueError(f"ranges given for {unknown}, which are not among the observables {list(obs)}")
    full = {}
    for name in obs:
        low, high = ranges.get(name, (-math.inf, math.inf))
        full[name] = (float(low), float(high))
    for name, (low, high) in full.items():
        if not low < high:
            raise ValueError(f"range of {name!r} needs low < high, got ({low}, {high})")
    return full

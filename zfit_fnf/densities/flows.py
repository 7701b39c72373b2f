"""Nominal conditional densities: normalizing flows whose parts are all exactly normalised.

A :class:`Flow` takes an event through two steps, and multiplies the Jacobians on the way:

1. *encode*: physical ranges to the real line (fixed bijections), then standardisation learned from the training sample;
2. the :class:`Density` of the standardised coordinates ``u``. Ours is autoregressive; others come from elsewhere, see
   :mod:`zfit_fnf.interop`.

Everything that varies (nuisances, see :mod:`zfit_fnf.densities.deformation`) acts between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.checks import DEEPEST, MOST_COMPONENTS, integer
from ..common.chunks import EVENTS, concatenated
from ..samples import Sample, as_sample
from .bijectors import ConditionalBijector, LogisticMixture, RationalQuadraticSpline, Univariate
from .coordinates import Coordinates
from .history import History
from .model import Model
from .networks import MaskedMLP, hidden_widths

__all__ = [
    "FAMILIES",
    "AutoregressiveDensity",
    "AutoregressiveLayer",
    "Density",
    "Flow",
    "in_chunks",
    "sample_table",
    "solve_autoregressive",
]

FAMILIES: dict[str, Callable[[int], Univariate]] = {"mixture": LogisticMixture, "spline": RationalQuadraticSpline}
"""Constructors of the univariate bijectors of a layer, by number of components or bins."""


class AutoregressiveLayer(tf.Module, ConditionalBijector):
    """One autoregressive bijection: a masked network parametrises a univariate bijector for every coordinate.

    With ``zero_init`` it starts where all parameters of that bijector are zero.
    """

    def __init__(
        self,
        univariate: Univariate,
        n_dim: int,
        n_context: int,
        hidden: Sequence[int],
        seed: int,
        *,
        zero_init: bool = False,
    ):
        super().__init__()
        self.univariate = univariate
        self.network = MaskedMLP(
            n_dim, n_context, univariate.n_parameters, hidden=hidden, seed=seed, zero_init=zero_init
        )

    def precompute(self, c: tf.Tensor) -> Any:
        """What depends on the conditions alone, for the methods below."""
        first, contributions = self.network.precompute(c)
        return self.univariate.unpack(first), contributions

    def log_prob(self, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)`` of ``u`` when this is the last layer."""
        return tf.reduce_sum(self.univariate.log_prob(u, self.parameters(u, precomputed)), axis=-1)

    def inverse(self, u: tf.Tensor, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base ``(n, d)`` and its log-determinant ``(n,)``."""
        z, log_slope = self.base(u, precomputed)
        return z, tf.reduce_sum(log_slope, axis=-1)

    def base(self, u: tf.Tensor, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to base, and the logarithm of the slope of each coordinate, ``(n, d)``."""
        return self.univariate.inverse(u, self.parameters(u, precomputed))

    def forward(self, z: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Base to data, one coordinate after the other."""
        return self._solve(lambda parameters, j: self.univariate.forward(z[:, j], parameters), precomputed, like=z)

    def draw(self, uniform: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Sample ``(n, d)`` from uniform numbers ``(n, d, 2)`` when this is the last layer."""
        return self._solve(
            lambda parameters, j: self.univariate.draw(uniform[:, j], parameters), precomputed, like=uniform[..., 0]
        )

    def _solve(self, coordinate: Callable[[Any, int], tf.Tensor], precomputed: Any, *, like: tf.Tensor) -> tf.Tensor:
        def column(u: tf.Tensor, j: int) -> tf.Tensor:
            parameters = tf.nest.map_structure(lambda values: values[:, j], self.parameters(u, precomputed))
            return coordinate(parameters, j)

        return solve_autoregressive(column, n_dim=self.network.n_inputs, like=like)

    def parameters(self, u: tf.Tensor, precomputed: Any) -> Any:
        """Parameters of the univariate bijector for every coordinate: a nest of ``(n, d, ...)``."""
        first, contributions = precomputed
        first = tf.nest.map_structure(lambda a: tf.broadcast_to(a, (tf.shape(u)[0], *a.shape[1:])), first)
        if self.network.n_inputs == 1:
            return first
        others = self.univariate.unpack(self.network.outputs(u, contributions))
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=1), first, others)


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

    Recipe. A subclass sets ``n_dim`` and ``n_context``, has its weights as ``tf.Variable``, and implements
    :meth:`log_density`, :meth:`draw` and ``config``, the keyword arguments that construct another one like it; arithmetic
    follows the dtype of the arguments, float32 in training and float64 in fits. Where much of the work depends on the
    conditions alone, it also implements :meth:`precompute` and :meth:`log_density_at`. It is trained by
    ``fit_flow(..., density=...)``, deformed like any other, and stored once its entry is registered, see
    :class:`zfit_fnf.storage.Entry`, where there is a whole example.

    Attributes:
        n_dim: Number ``d`` of coordinates.
        n_context: Number ``m`` of conditions.
    """

    n_dim: int
    n_context: int

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` of ``u (n, d)`` given ``c (n, m)``; dtype of the arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def precompute(self, c: tf.Tensor) -> Any:
        """What depends on the conditions alone: a nest of tensors, by default the conditions themselves."""
        return c

    def log_density_at(self, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)`` of ``u (n, d)``, with what :meth:`precompute` has made of the conditions."""
        return self.log_density(u, precomputed)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``; ``seed`` is the integer pair of ``tf.random.stateless_uniform``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be sampled")

    def prior(self) -> Sequence[tuple[tf.Variable, np.ndarray]]:
        """Variables that have a Gaussian prior around zero, each with its inverse variances; by default none has."""
        return ()


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
        self.hidden = hidden_widths(hidden, n_dim)
        n_layers = integer(n_layers, "n_layers", low=1, high=DEEPEST)
        seed = integer(seed, "seed", low=0)
        univariate = _univariate(family, n_components)
        seeds = np.random.SeedSequence(seed).generate_state(n_layers)
        self.layers = [
            AutoregressiveLayer(univariate, n_dim, n_context, self.hidden, int(layer_seed)) for layer_seed in seeds
        ]

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)``: the Jacobians of all layers but the last, and the density of that one."""
        return self.log_density_at(u, self.precompute(c))

    def prior(self) -> Sequence[tuple[tf.Variable, np.ndarray]]:
        """Those of the networks."""
        return [pair for layer in self.layers for pair in layer.network.prior()]

    def precompute(self, c: tf.Tensor) -> Any:
        """What the layers make of the conditions."""
        return [layer.precompute(c) for layer in self.layers]

    def log_density_at(self, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)`` of ``u (n, d)``, with what :meth:`precompute` has made of the conditions."""
        log_det = tf.zeros_like(u[:, 0])
        for layer, of_layer in zip(self.layers[:-1], precomputed, strict=False):
            u, layer_log_det = layer.inverse(u, of_layer)
            u, log_det = tf.reverse(u, axis=[-1]), log_det + layer_log_det
        return log_det + self.layers[-1].log_prob(u, precomputed[-1])

    @property
    def sequential(self) -> bool:
        """Whether the distribution function of each coordinate, given those before it, is known; `base` gives it."""
        return len(self.layers) == 1 or self.n_dim == 1

    def base(self, u: tf.Tensor, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Independent logistic coordinates ``(n, d)`` of a `sequential` density, and the logarithms of their slopes."""
        log_slopes = tf.zeros_like(u)
        for layer, of_layer in zip(self.layers, precomputed, strict=True):
            u, log_slope = layer.base(u, of_layer)
            log_slopes += log_slope
        return u, log_slopes

    def from_base(self, z: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """The inverse of `base`."""
        for layer, of_layer in zip(self.layers[::-1], precomputed[::-1], strict=True):
            z = layer.forward(z, of_layer)
        return z

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``."""
        tiny = np.finfo(c.dtype.as_numpy_dtype).tiny
        uniform = tf.random.stateless_uniform((tf.shape(c)[0], self.n_dim, 2), seed, minval=tiny, dtype=c.dtype)
        precomputed = self.precompute(c)
        u = self.layers[-1].draw(uniform, precomputed[-1])
        for layer, of_layer in zip(self.layers[-2::-1], precomputed[-2::-1], strict=True):
            u = layer.forward(tf.reverse(u, axis=[-1]), of_layer)
        return u

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


class Flow(Coordinates):
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
            warning of :class:`~zfit_fnf.densities.bijectors.RationalQuadraticSpline` on Hessian errors).
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
        super().__init__(obs, cond, ranges=ranges, standardisation=standardisation)
        self.sum_weights = sum_weights
        self.history: History | None = None  # of the training, if it was trained here
        # The events it was trained on, and the rows that were held out: for responses that are learned in this session.
        self.events: tuple[Sample, np.ndarray] | None = None
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

    # --- for densities, training and pdfs: tensors ---------------------------------------------------------------

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` in the standardised coordinates; dtype of the arguments."""
        return self.density.log_density(u, c)

    def precompute(self, c: tf.Tensor) -> Any:
        """What the density makes of the standardised conditions ``c (n, m)``: a nest of tensors."""
        return self.density.precompute(c)

    def log_density_at(self, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)`` in the standardised coordinates, with what :meth:`precompute` has made of the conditions."""
        return self.density.log_density_at(u, precomputed)

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
    return concatenated(lambda *rows: function(*map(tf.constant, rows)), *arrays)


def sample_table(
    flow: Flow, draw: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], n: int | None, cond: Any, seed: int | None
) -> pd.DataFrame:
    """Sample with ``draw(c, seed)`` and give the events, with their conditions, as a table."""
    x = _condition_rows(flow, n, cond)
    n_chunks = max(1, math.ceil(len(x) / EVENTS))
    pairs = np.random.SeedSequence(seed).generate_state(2 * n_chunks).astype(np.int32).reshape(-1, 2)
    seeds = iter(pairs)

    def physical(rows: tf.Tensor) -> tf.Tensor:
        return flow.decode(draw(flow.encode_conditions(rows), tf.constant(next(seeds))))

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
    if n and not len(x):
        raise ValueError("cond= has no rows to draw events for")
    return x if n is None else x[np.arange(n) % len(x)]


def _univariate(family: Any, n_components: int) -> Univariate:
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: choose from {', '.join(FAMILIES)}")
    return FAMILIES[family](integer(n_components, "n_components", low=1, high=MOST_COMPONENTS))

"""Distributions and bijectors of TensorFlow Probability, as flows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from ..common.warning import warn
from ..densities.flows import Density
from .callable import FunctionDensity
from .physical import PhysicalFlow, check_arguments, make_flow

__all__ = ["STORABLE", "DistributionDensity", "construct", "describe", "tfb", "tfd", "wrap"]

tfd, tfb = tfp.distributions, tfp.bijectors

STORABLE: dict[str, type] = {
    f"{family}.{name}": getattr(getattr(tfp, family), name)
    for family, names in {
        "distributions": (
            "Beta Categorical Cauchy Exponential Gamma Gumbel HalfNormal Independent InverseGamma JohnsonSU Kumaraswamy "
            "Laplace LogNormal Logistic Mixture MixtureSameFamily Moyal MultivariateNormalDiag MultivariateNormalTriL "
            "Normal Pareto Sample SinhArcsinh StudentT TransformedDistribution Triangular TruncatedCauchy "
            "TruncatedNormal Uniform Weibull"
        ),
        "bijectors": (
            "Chain Exp Expm1 Identity Invert Log Log1p NormalCDF Permute Power RationalQuadraticSpline Reciprocal Scale "
            "ScaleMatvecDiag ScaleMatvecTriL Shift Sigmoid SinhArcsinh Softplus Softsign Square Tanh"
        ),
    }.items()
    for name in names.split()
}
"""Classes that a stored model may name; their instances are determined by numbers, and cost nothing to construct."""


def wrap(
    distribution: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    events: Any = None,
    sum_weights: float | None = None,
    name: str = "distribution",
) -> PhysicalFlow:
    """A flow of a distribution, or of a bijector that acts on standard normal variables.

    Args:
        distribution: A distribution over the observables, a bijector (forward generates), or, with conditions, a
            function of ``x (n, m)`` that returns one with the batch shape ``(n,)``.
        obs: Names of the observables, in the order of the distribution's event.
        cond: Names of the conditions, in the order of the columns of ``x``.
        ranges: Physical ``(low, high)`` of the observables: the support of the distribution, where that is bounded.
        events: Table of typical events, which set the scale of the coordinates for deformations; by default, events
            of the distribution if there are no conditions.
        sum_weights: Summed weights of the events it describes: the nominal yield that variations refer to.
        name: What a stored model calls a function. Distributions made of the classes in ``STORABLE`` are stored in
            full. Functions are not: hand the flow to :func:`zfit_fnf.load` as ``supplied={name: flow}``.

    Raises:
        TypeError: If it is none of these, conditions come without a function, or another argument is of another type.
        ValueError: If the shape of its events is not that of `obs`, or it is discrete.

    Example:
        >>> gauss = tfp.distributions.Normal(np.float64(91.0), np.float64(2.5))
        >>> wrap(gauss, obs=["mass"]).log_prob({"mass": [91.0]}).round(3)
        array([-1.835])
    """
    check_arguments(obs, cond, ranges, sum_weights, name)
    n_dim, n_context = len(obs), len(cond)
    if isinstance(distribution, (tfd.Distribution, tfb.Bijector)):
        if cond:
            raise TypeError(f"{distribution} has no conditions; with cond=, give a function of them that returns one")
        density: Density = DistributionDensity(distribution, n_dim)
    elif callable(distribution) and not isinstance(distribution, type):
        density = _conditional(distribution, name, n_dim, n_context)
    else:
        raise TypeError(
            f"expected a distribution or bijector of TensorFlow Probability or a function, got {distribution!r}"
        )
    return make_flow(density, obs, cond, ranges, events, sum_weights)


class DistributionDensity(Density):
    """Density of physical observables, given by a distribution or a bijector without conditions.

    Args:
        distribution: The distribution, or a bijector that acts on standard normal variables.
        n_dim: Number of observables.
    """

    n_context = 0

    def __init__(self, distribution: Any, n_dim: int):
        super().__init__()
        self.n_dim, self._given = n_dim, distribution
        self._distribution = _as_distribution(distribution, n_dim, batch_shape=())
        if self._distribution.dtype != tf.float64:
            warn(
                f"{distribution} computes in {self._distribution.dtype.name}: too coarse for the second derivatives of "
                "a likelihood. Give its parameters as float64, e.g. np.float64(1.0)"
            )

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density of the distribution, float64."""
        del c
        return _log_prob(self._distribution, u)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Events of the distribution, float64."""
        return _columns(self._distribution.sample(tf.shape(c)[0], seed=_seed(seed)), self.n_dim)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same density."""
        return {"distribution": self._given, "n_dim": self.n_dim}

    def __reduce__(self) -> tuple[Any, ...]:
        arrays: dict[str, np.ndarray] = {}  # distributions themselves cannot be pickled
        return _restored, (describe(self._given, arrays), arrays, self.n_dim)

    def __str__(self) -> str:
        return type(self._given).__name__


def _conditional(function: Callable[[tf.Tensor], Any], name: str, n_dim: int, n_context: int) -> FunctionDensity:
    def at(x: tf.Tensor) -> Any:
        return _as_distribution(function(x), n_dim, batch_shape=(x.shape[0],))

    return FunctionDensity(
        name,
        lambda y, x: _log_prob(at(x), y),
        lambda x, seed: _columns(at(x).sample(seed=_seed(seed)), n_dim),
        n_dim=n_dim,
        n_context=n_context,
    )


def _as_distribution(given: Any, n_dim: int, *, batch_shape: tuple[int | None, ...]) -> Any:
    if isinstance(given, tfb.Bijector):
        base = tfd.MultivariateNormalDiag(np.zeros(n_dim), np.ones(n_dim))
        given = tfd.TransformedDistribution(base, given)
    if not isinstance(given, tfd.Distribution):
        raise TypeError(f"the function gives {given!r:.100}, neither a distribution nor a bijector")
    event, batch = given.event_shape, given.batch_shape
    if event != (n_dim,) and not (n_dim == 1 and event == ()):
        hint = (
            "; tfp.distributions.Independent(...) makes an event of a batch" if batch == (*batch_shape, n_dim) else ""
        )
        raise ValueError(f"{given} has the event shape {tuple(event)}, but there are {n_dim} observables{hint}")
    if not batch.is_compatible_with(batch_shape):
        raise ValueError(f"{given} has the batch shape {tuple(batch)}; expected {batch_shape}")
    return given


def _log_prob(distribution: Any, y: tf.Tensor) -> tf.Tensor:
    event = tf.cast(y if distribution.event_shape.rank else y[:, 0], distribution.dtype)
    return tf.cast(distribution.log_prob(event), tf.float64)


def _seed(pair: tf.Tensor) -> tf.Tensor:
    """A seed as distributions take it; that of PDFs has 64 bits."""
    return tf.cast(pair, tf.int32)


def _columns(sample: tf.Tensor, n_dim: int) -> tf.Tensor:
    return tf.cast(tf.reshape(sample, (-1, n_dim)), tf.float64)


# --- as plain data ------------------------------------------------------------------------------------------------


def _restored(description: Any, arrays: Mapping[str, np.ndarray], n_dim: int) -> DistributionDensity:
    return DistributionDensity(construct(description, arrays), n_dim)


def describe(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Plain data that :func:`construct` makes the same distribution or bijector of.

    Args:
        value: The distribution or bijector, or one of its parameters.
        arrays: Gains the tensors among the parameters, under new names.

    Raises:
        TypeError: If it contains a class that is not ``STORABLE``, or a function.
    """
    if value is None or isinstance(value, (bool, int, str)) or type(value) is float:
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item, arrays) for item in value]
    if isinstance(value, (tfd.Distribution, tfb.Bijector)):
        names = [name for name, cls in STORABLE.items() if cls is type(value)]
        if not names:
            raise TypeError(f"{type(value).__name__} is not among the classes that can be stored: {sorted(STORABLE)}")
        defaults = inspect.signature(type(value).__init__).parameters
        given = {k: v for k, v in value.parameters.items() if v is not defaults[k].default}
        return {"class": names[0], "parameters": {k: describe(v, arrays) for k, v in given.items()}}
    if callable(value):
        raise TypeError(f"the function {value!r} cannot be stored")
    name = str(len(arrays))
    arrays[name] = np.asarray(tf.convert_to_tensor(value))
    return {"array": name}


def construct(description: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The distribution, bijector or parameter that :func:`describe` has described.

    Raises:
        ValueError: If the description is not of that form or names a class that is not ``STORABLE``.
    """
    if isinstance(description, list):
        return [construct(item, arrays) for item in description]
    if not isinstance(description, dict):
        return description
    if set(description) == {"array"} and description["array"] in arrays:
        return arrays[description["array"]]
    if set(description) != {"class", "parameters"} or description["class"] not in STORABLE:
        raise ValueError(f"{str(description)[:100]} does not describe a distribution or bijector that can be stored")
    for name in ("validate_args", "allow_nan_stats"):
        if not isinstance(dict(description["parameters"]).get(name, False), bool):
            raise ValueError(f"{name} of {description['class']} has to be true or false")
    parameters = {name: construct(value, arrays) for name, value in dict(description["parameters"]).items()}
    return STORABLE[description["class"]](**parameters)

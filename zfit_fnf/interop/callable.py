"""Any TensorFlow function with a sampler, as a flow.

The user vouches that the function is a normalised density and that the sampler belongs to it;
:func:`check_normalisation` looks at the former.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from ..densities.flows import Density, Flow, in_chunks
from .physical import PhysicalFlow, check_arguments, make_flow

__all__ = ["FunctionDensity", "LogProb", "Normalisation", "Sampler", "check_normalisation", "wrap"]

LogProb = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Sampler = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_FEWEST = 100  # points that an error can be estimated from
_TAILS, _WIDENING = 4.0, 1.5  # of the proposal, so that it covers what it is compared with


def wrap(
    log_prob: LogProb,
    sampler: Sampler,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    events: Any = None,
    sum_weights: float | None = None,
    name: str = "function",
) -> PhysicalFlow:
    """A flow of a log-density and a sampler that are TensorFlow functions.

    Both work on physical observables in float64, and have to be compilable by XLA. The likelihood is as smooth as the
    function is, and so are errors from its second derivatives.

    Args:
        log_prob: ``log_prob(x, context)``, the log-density ``(n,)`` of events ``x (n, d)`` given ``context (n, m)``,
            normalised over ``ranges``; the columns are in the order of ``obs`` and ``cond``.
        sampler: ``sampler(context, seed)``, one event for each row of ``context (n, m)``: ``(n, d)``; ``seed`` is an
            integer pair for functions such as ``tf.random.stateless_normal``.
        obs: Names of the observables.
        cond: Names of the conditions; may be empty, ``context`` is then ``(n, 0)``.
        ranges: Physical ``(low, high)`` of the observables that have them.
        events: Table of typical events, on which the functions are tried out, and which set the scale of the
            coordinates for deformations. By default, events of the sampler if there are no conditions.
        sum_weights: Summed weights of the events it describes: the nominal yield that variations refer to.
        name: What a stored model calls it. Functions are not stored: hand the flow to :func:`zfit_fnf.load` as
            ``supplied={name: flow}``.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a function fails, gives wrong shapes or values that are not finite, or is discrete.

    Example:
        >>> def log_prob(x, context):
        ...     return -x[:, 0]
        >>> def sampler(context, seed):
        ...     return -tf.math.log(tf.random.stateless_uniform((len(context), 1), seed, dtype=tf.float64))
        >>> flow = wrap(log_prob, sampler, obs=["t"], ranges={"t": (0.0, np.inf)})
        >>> flow.log_prob({"t": [2.0]})
        array([-2.])
    """
    check_arguments(obs, cond, ranges, sum_weights, name)
    for what, function in (("log_prob", log_prob), ("sampler", sampler)):
        if not callable(function):
            raise TypeError(f"{what} is a function of tensors; got {function!r:.100}")
    density = FunctionDensity(name, log_prob, sampler, n_dim=len(obs), n_context=len(cond))
    return make_flow(density, obs, cond, ranges, events, sum_weights)


class FunctionDensity(Density):
    """Density of physical observables, given by a log-density and a sampler.

    Args:
        name: What a stored model calls it.
        log_prob: The log-density, see :func:`wrap`.
        sampler: The sampler, see :func:`wrap`.
        n_dim: Number of observables.
        n_context: Number of conditions.
    """

    def __init__(self, name: str, log_prob: LogProb, sampler: Sampler, *, n_dim: int, n_context: int):
        super().__init__()
        self.label, self.n_dim, self.n_context = name, n_dim, n_context
        self._log_prob, self._sampler = log_prob, sampler

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """The function's value, float64."""
        return tf.cast(self._log_prob(u, c), tf.float64)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Events of the sampler, float64."""
        return tf.cast(self._sampler(c, seed), tf.float64)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same density."""
        return {
            "name": self.label,
            "log_prob": self._log_prob,
            "sampler": self._sampler,
            "n_dim": self.n_dim,
            "n_context": self.n_context,
        }

    def __str__(self) -> str:
        return f"function {self.label!r}"


@dataclass(frozen=True)
class Normalisation:
    """Monte-Carlo estimate of the integral of a density.

    Attributes:
        integral: The estimate, one for a normalised density.
        error: Its standard error.
    """

    integral: float
    error: float

    @property
    def consistent(self) -> bool:
        """Whether one is within four standard errors."""
        return abs(self.integral - 1.0) < 4.0 * self.error

    def __str__(self) -> str:
        return f"integral {self.integral:.5f} +- {self.error:.5f}: " + ("as one" if self.consistent else "NOT ONE")


def check_normalisation(
    flow: Flow, *, at: Mapping[str, float] | None = None, n: int = 100_000, seed: int = 0
) -> Normalisation:
    """Estimate the integral of a flow over its observables, by importance sampling.

    The proposal is a multivariate Student distribution with the mean and, widened, the covariance of a sample of the
    flow. What its sampler never reaches is not seen.

    Args:
        flow: Any flow.
        at: Value of each condition at which to integrate; needed if it has any.
        n: Number of points.
        seed: Seed of the points.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If a condition lacks a value, or an unknown one has one.

    Example:
        >>> check_normalisation(Flow(["mass"], ranges={"mass": (60.0, 120.0)})).consistent
        True
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"expected a flow, such as wrap gives; got {flow!r:.100}")
    if not isinstance(at, (Mapping, type(None))):
        raise TypeError(f"at= is a mapping from conditions to values; got {at!r:.100}")
    if n != int(n) or n < _FEWEST or seed != int(seed) or seed < 0:
        raise ValueError(f"n= is a number of points, at least {_FEWEST}, and seed= not negative; got {n} and {seed}")
    given = dict(at or {})
    if set(given) != set(flow.cond):
        raise ValueError(f"at= needs a value for each condition {list(flow.cond)}, got {list(given)}")
    x = np.array([[given[name] for name in flow.cond]], float)
    c = np.asarray(flow.encode(flow.decode(tf.zeros((1, len(flow.obs)), tf.float64)), tf.constant(x))[1])
    seeds = np.random.SeedSequence(seed).generate_state(4).astype(np.int32).reshape(2, 2)
    sample = flow.draw(tf.constant(np.repeat(c, 10_000, axis=0)), tf.constant(seeds[0])).numpy()
    scale = _WIDENING * np.linalg.cholesky(np.atleast_2d(np.cov(sample, rowvar=False)))
    proposal = tfp.distributions.MultivariateStudentTLinearOperator(
        df=np.float64(_TAILS), loc=sample.mean(axis=0), scale=tf.linalg.LinearOperatorLowerTriangular(scale)
    )
    n = int(n)
    points = proposal.sample(n, seed=tf.constant(seeds[1]))
    log_ratio = in_chunks(flow.log_density, points.numpy(), np.repeat(c, n, axis=0)) - proposal.log_prob(points).numpy()
    ratio = np.exp(log_ratio)
    return Normalisation(float(ratio.mean()), float(ratio.std() / np.sqrt(n)))

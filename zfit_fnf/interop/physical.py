"""Flows whose density is a function of the physical observables.

Deformations act on standardised coordinates, in which events of any process look alike. A :class:`PhysicalFlow` takes a
density there: its coordinates serve the deformations, and cancel out of the density itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..densities.flows import Density, Flow
from ..samples import Sample, as_sample, check_inside

__all__ = ["PhysicalFlow", "check_arguments", "make_flow"]

_TYPICAL = 10_000  # events from which the standardisation is learned
_DIFFERENT = 0.9  # share of different values in a sample; float32 leaves nearly all of them


class PhysicalFlow(Flow):
    """A flow whose density is a function of the physical observables.

    Args:
        obs: Names of the observables.
        cond: Names of the conditioning observables; may be empty.
        density: Density of the observables given the conditions, evaluated in float64.
        ranges: Physical ``(low, high)`` of observables that have them: where the density is normalised.
        standardisation: ``(mean, width)`` of columns in unbounded coordinates; default ``(0, 1)``, until
            :meth:`standardise` learns it.
        sum_weights: Summed weights of the events it describes: the nominal yield that variations refer to.
    """

    def __init__(
        self,
        obs: Sequence[str],
        cond: Sequence[str] = (),
        *,
        density: Density,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        standardisation: Mapping[str, tuple[float, float]] | None = None,
        sum_weights: float | None = None,
    ):
        super().__init__(
            obs, cond, ranges=ranges, density=density, standardisation=standardisation, sum_weights=sum_weights
        )

    def log_density(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` in the standardised coordinates; computed in float64, in the dtype of the arguments."""
        return self.log_density_at(u, self.precompute(c))

    def precompute(self, c: tf.Tensor) -> Any:
        """What the density makes of the standardised conditions ``c (n, m)``: a nest of tensors."""
        return self.density.precompute(self._conditions(c))

    def log_density_at(self, u: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """As :meth:`log_density`, with what :meth:`precompute` has made of the conditions."""
        y, log_det = self._physical_point(tf.cast(u, tf.float64))
        return tf.cast(self.density.log_density_at(y, precomputed) + log_det, u.dtype)

    def draw(self, c: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)``; ``seed`` is an integer pair."""
        x = self._conditions(c)
        return tf.cast(self.encode(self.density.draw(x, seed), x)[0], c.dtype)

    def _physical_point(self, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """``y`` and ``log|dy/du|``."""
        scale = self._scale[: len(self.obs)]
        log_det = self._physical.forward_log_det(u * scale + self._centre[: len(self.obs)])
        return self.decode(u), log_det + tf.reduce_sum(tf.math.log(scale))

    def _conditions(self, c: tf.Tensor) -> tf.Tensor:
        d = len(self.obs)
        return tf.cast(c, tf.float64) * self._scale[d:] + self._centre[d:]


def check_arguments(obs: Any, cond: Any, ranges: Any = None, sum_weights: Any = None, name: Any = "function") -> None:
    """Refuse names, ranges and yields that are none.

    Raises:
        TypeError: If one is of another type.
        ValueError: If there is no observable, or the yield is not positive.
    """
    for what, names in (("obs", obs), ("cond", cond), ("name", [name])):
        if (
            isinstance(names, str)
            or not isinstance(names, Sequence)
            or not all(one and isinstance(one, str) for one in names)
        ):
            expected = "a text" if what == "name" else 'a list of column names such as ["mass"]'
            raise TypeError(f"{what}= is {expected}; got {(name if what == 'name' else names)!r:.100}")
    if not obs:
        raise ValueError("obs= names no observable")
    if ranges is not None and not isinstance(ranges, Mapping):
        raise TypeError(f'ranges= is a mapping such as {{"mass": (60.0, 120.0)}}; got {ranges!r:.100}')
    for one, edges in (ranges or {}).items():
        if np.shape(edges) != (2,):
            raise TypeError(f"the range of {one!r} is a pair (low, high); got {edges!r:.100}")
    if sum_weights is not None:
        if isinstance(sum_weights, bool) or not isinstance(sum_weights, (int, float, np.integer, np.floating)):
            raise TypeError(f"sum_weights= is a number of events; got {sum_weights!r:.100}")
        if not 0.0 < sum_weights < np.inf:
            raise ValueError(f"sum_weights= has to be positive and finite; got {sum_weights}")


def make_flow(
    density: Density,
    obs: Sequence[str],
    cond: Sequence[str],
    ranges: Mapping[str, tuple[float, float]] | None,
    events: Any,
    sum_weights: float | None,
) -> PhysicalFlow:
    """A flow of a density of physical observables, tried out on typical events and standardised by them.

    Args:
        density: The density.
        obs: Names of the observables.
        cond: Names of the conditions.
        ranges: Physical ranges.
        events: Table with the columns ``obs`` and ``cond``. By default, a sample of a density without conditions; one
            with conditions is neither tried out nor standardised.
        sum_weights: Summed weights of the events it describes.

    Raises:
        ValueError: If the density does not give one finite number for each event, or its sampler not one event.
    """
    flow = PhysicalFlow(obs, cond, density=density, ranges=ranges, sum_weights=sum_weights)
    if events is None and flow.cond:
        return flow
    given = None if events is None else as_sample(events, flow.obs + flow.cond)
    x = np.zeros((_TYPICAL, 0)) if given is None else given.array(flow.cond, slice(_TYPICAL))
    drawn = _tried_out(flow, x)
    flow.standardise(given or drawn)
    return flow


def _tried_out(flow: PhysicalFlow, x: np.ndarray) -> Sample:
    """A sample of the density under the conditions ``x (n, m)``, in which nothing is wrong."""
    n, d = len(x), len(flow.obs)
    y = _computed(f"the sampler of {flow}", flow.density.draw, x, np.array([20, 26], np.int32))
    if y.shape != (n, d):
        raise ValueError(f"the sampler of {flow} gives the shape {y.shape} for {n} events; expected {(n, d)}")
    drawn = as_sample(dict(zip(flow.obs, y.T, strict=True)), flow.obs, name=f"the sampler of {flow}")
    check_inside(drawn, flow.ranges)
    for name, values in zip(flow.obs, y.T, strict=True):
        if len(np.unique(values)) < _DIFFERENT * n:
            raise ValueError(
                f"{flow} gives the same values of {name!r} again and again: it is discrete, and has no density to fit with"
            )
    # In a graph, as fits evaluate it: there fails what is not made of TensorFlow's operations.
    in_graph = tf.function(flow.density.log_density, autograph=False)
    log_prob = _computed(f"the log-density of {flow}", in_graph, y, x)
    if log_prob.shape != (n,):
        raise ValueError(f"{flow} gives log-densities of shape {log_prob.shape} for {n} events; expected {(n,)}")
    if bad := int(np.sum(~np.isfinite(log_prob))):
        raise ValueError(f"the log-density of {flow} is not finite for {bad} of {n} events of its own sampler")
    return drawn


def _computed(what: str, function: Callable[..., Any], *arguments: np.ndarray) -> np.ndarray:
    """Value of a function, or one error whatever goes wrong in it."""
    try:
        return np.asarray(function(*map(tf.constant, arguments)))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{what} fails as a TensorFlow function of {len(arguments[0])} events: {reason[0] if reason else error!r}"
        ) from error

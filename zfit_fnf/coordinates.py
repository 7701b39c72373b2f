"""Named observables and conditions, and the standardised coordinates that networks see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from .bijectors import PhysicalRanges
from .nets import Model
from .samples import Sample, as_sample, check_inside, check_trainable


class Coordinates(Model):
    """Observables ``y`` given conditions ``x``, bound by name, and their standardised coordinates ``u`` and ``c``.

    Observables go from their physical ranges to the real line by fixed bijections; then both have their mean
    subtracted and are divided by their standard deviation, as learned from a sample.

    Args:
        obs: Names of the observables, in autoregressive order; at least one.
        cond: Names of the conditioning observables; may be empty.
        ranges: Physical ``(low, high)`` of observables that have them; the others are unbounded.
        standardisation: ``(mean, width)`` of columns in unbounded coordinates; default ``(0, 1)``, until
            :meth:`standardise` learns it.

    Raises:
        ValueError: For names that repeat, ranges of unknown observables, and widths that are not positive.
    """

    def __init__(
        self,
        obs: Sequence[str],
        cond: Sequence[str] = (),
        *,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        standardisation: Mapping[str, tuple[float, float]] | None = None,
    ):
        super().__init__()
        self.obs, self.cond = _checked_names(obs, cond)
        self.ranges = _checked_ranges(ranges or {}, self.obs)
        self._physical = PhysicalRanges(list(self.ranges.values()))
        centre, scale = _checked_standardisation(standardisation or {}, self.obs + self.cond)
        self._centre = tf.Variable(centre, trainable=False, dtype=tf.float64, name="centre")
        self._scale = tf.Variable(scale, trainable=False, dtype=tf.float64, name="scale")

    def columns(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        """Checked arrays ``y (n, d)`` and ``x (n, m)`` of a table with the flow's columns."""
        sample = as_sample(data, self.obs + self.cond)
        check_inside(sample, self.ranges)
        return sample.array(self.obs), sample.array(self.cond)

    def standardise(self, sample: Sample) -> None:
        """Learn the standardisation (mean and standard deviation in unbounded coordinates) from a sample."""
        check_trainable(sample)
        rows = slice(None, None, max(1, sample.n_events // 1_000_000))
        unbounded, _ = self._physical.inverse(tf.constant(sample.array(self.obs, rows)))
        values = np.concatenate([unbounded.numpy(), sample.array(self.cond, rows)], axis=1)
        scale = values.std(axis=0)
        for name, width in zip(self.obs + self.cond, scale, strict=True):
            if not width > 0:
                raise ValueError(f"column {name!r} of {sample.name!r} is constant: leave it out")
        self._centre.assign(values.mean(axis=0))
        self._scale.assign(scale)

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
        return u, self.encode_conditions(x), log_det - tf.reduce_sum(tf.math.log(self._scale[:d]))

    def encode_conditions(self, x: tf.Tensor) -> tf.Tensor:
        """Conditions to standardised conditions, ``(n, m)`` float64."""
        d = len(self.obs)
        return (x - self._centre[d:]) / self._scale[d:]

    def decode(self, u: tf.Tensor) -> tf.Tensor:
        """Standardised to physical observables, ``(n, d)`` float64."""
        d = len(self.obs)
        return self._physical.forward(u * self._scale[:d] + self._centre[:d])


def _checked_names(obs: Sequence[str], cond: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(obs, str) or isinstance(cond, str):
        raise TypeError("obs and cond are lists of column names, not a single string")
    names = [*obs, *cond]
    if not list(obs):
        raise ValueError("a density needs at least one observable in obs=")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"columns {repeated} are named more than once in obs and cond")
    return tuple(obs), tuple(cond)


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

"""Named observables and conditions, and the standardised coordinates that networks see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common import checks
from ..common.chunks import ROWS
from ..common.warning import warn
from ..samples import Sample, as_sample, check_inside, check_trainable
from ..samples.columns import is_number, show
from ..samples.screening import bulk
from .bijectors import PhysicalRanges
from .model import Model

__all__ = ["Coordinates"]

_NARROWEST = 1e-10  # width of a column relative to its mean: six digits are left
_OUTLYING = 100.0  # widths
_SMALLEST_RANGE = 1e-12


class Coordinates(Model):
    """Observables ``y`` given conditions ``x``, bound by name, and their standardised coordinates ``u`` and ``c``.

    Observables go from their physical ranges to the real line by fixed bijections; then both have their mean
    subtracted and are divided by their standard deviation, as learned from the bulk of a sample.

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
        """Learn the standardisation from a sample: mean and width of the `bulk` of each column in unbounded coordinates.

        Raises:
            ValueError: For a sample of no use, and columns that are constant or too narrow for float64.
        """
        check_trainable(sample)
        rows = slice(None, None, max(1, sample.n_events // ROWS))
        unbounded, _ = self._physical.inverse(tf.constant(sample.array(self.obs, rows)))
        values = np.concatenate([unbounded.numpy(), sample.array(self.cond, rows)], axis=1)
        weights = None if sample.weights is None else sample.weights[rows]
        pairs = [bulk(column, weights) for column in values.T]
        for name, (centre, width) in zip(self.obs + self.cond, pairs, strict=True):
            if not width > 0:
                raise ValueError(f"column {name!r} of {sample.name!r} is constant: leave it out")
            if width < _NARROWEST * max(abs(centre), 1e-100):
                raise ValueError(
                    f"column {name!r} of {sample.name!r} is {centre:g} +- {width:g}, too narrow for float64: subtract a "
                    "constant from it, or use other units"
                )
        centres, widths = np.transpose(pairs)
        self._centre.assign(centres)
        self._scale.assign(widths)
        self.warn_of_outliers(sample)

    def warn_of_outliers(self, sample: Sample) -> None:
        """Warn of events so far from the bulk that a training can fail on them: names columns, events and values."""
        sides = [self.decode(tf.fill([1, len(self.obs)], np.float64(s * _OUTLYING))).numpy()[0] for s in (-1, 1)]
        centre, width = self._centre.numpy()[len(self.obs) :], self._scale.numpy()[len(self.obs) :]
        low, high = (np.append(side, centre + s * _OUTLYING * width) for side, s in zip(sides, (-1, 1), strict=True))
        for name, lowest, highest in zip(self.obs + self.cond, low, high, strict=True):
            values = sample.columns[name]
            rows = np.flatnonzero((values < lowest) | (values > highest))
            if rows.size:
                warn(
                    f"{rows.size} of {sample.n_events} events of {sample.name!r} are more than {_OUTLYING:g} widths from "
                    f"the bulk in {name!r} ({show(values, rows)}; almost all are within {lowest:.3g} and {highest:.3g}): "
                    "their gradients can spoil a training. Cut them, or use a transformed column such as its logarithm"
                )

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
    obs, cond = checks.names(obs, "obs"), checks.names(cond, "cond")
    if not obs:
        raise ValueError("a density needs at least one observable in obs=")
    if repeated := sorted({name for name in obs + cond if (obs + cond).count(name) > 1}):
        raise ValueError(f"columns {repeated} are named more than once in obs and cond")
    return obs, cond


def _checked_ranges(ranges: Mapping[str, tuple[float, float]], obs: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    if not isinstance(ranges, Mapping):
        raise TypeError(f'ranges maps observables to (low, high) such as {{"mass": (60, 120)}}, got {ranges!r}')
    if unknown := sorted(map(str, set(ranges) - set(obs))):
        raise ValueError(f"ranges given for {unknown}, which are not among the observables {list(obs)}")
    full = {}
    for name in obs:
        full[name] = _checked_range(name, ranges.get(name, (-math.inf, math.inf)))
    return full


def _checked_range(name: str, given: Any) -> tuple[float, float]:
    try:
        low, high = given
        if not all(is_number(side) for side in (low, high)):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(f"the range of {name!r} is a pair of numbers (low, high), got {given!r}") from None
    low, high = float(low), float(high)
    if not low < high:
        raise ValueError(f"range of {name!r} needs low < high, got ({low}, {high})")
    if math.isfinite(low) and math.isfinite(high):
        resolved = _SMALLEST_RANGE * max(abs(low), abs(high), 1e-138) < high - low < 1e150
        if not resolved:
            raise ValueError(
                f"the width of the range ({low}, {high}) of {name!r} is not one to compute with: use other units"
            )
    return low, high


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

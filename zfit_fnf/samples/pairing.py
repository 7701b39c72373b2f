"""Recognising samples that hold the same events: what differs between those is not noise, but nothing at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..common.chunks import ROWS, slices
from .sample import Sample

__all__ = ["fingerprint", "same_events"]

_COUNT = 4
_ROUNDING = 2e-7  # of single-precision weights, with a margin


def fingerprint(sample: Sample, columns: Sequence[str]) -> list[float]:
    """Four weighted means over the events of pseudo-random numbers in (-0.5, 0.5) that a row's values determine.

    Samples with the same rows have the same fingerprint, in whatever order, and with weights that differ by a constant
    factor only. One row that is another changes it by about ``1 / n``.

    Args:
        sample: The events.
        columns: The columns that count.
    """
    sums = np.zeros(_COUNT)
    for rows in slices(sample.n_events, ROWS):
        state = _hashed(sample.array(columns, rows))
        weights = np.ones(len(state)) if sample.weights is None else np.asarray(sample.weights[rows], np.float64)
        for index in range(_COUNT):
            state = _mixed(state + np.uint64(0x9E3779B97F4A7C15))
            sums[index] += np.sum(weights * (state * 2.0**-64 - 0.5))
    return (sums / sample.sum_weights).tolist()


def same_events(first: Sequence[float], second: Sequence[float], effective_size: float) -> bool:
    """Whether two fingerprints are those of the same events, of which there are so many."""
    if len(first) != _COUNT or len(second) != _COUNT:
        return False
    return bool(np.abs(np.subtract(first, second)).max() < _ROUNDING / np.sqrt(effective_size))


def _hashed(table: np.ndarray) -> np.ndarray:
    """A 64-bit number for each row."""
    state = np.zeros(len(table), np.uint64)
    for column in table.T:
        state = _mixed(state + (np.ascontiguousarray(column) + 0.0).view(np.uint64))  # minus zero is zero
    return state


def _mixed(state: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit depends on every other one."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))

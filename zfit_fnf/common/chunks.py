"""Rows in chunks: whatever is computed for each event takes a bounded amount of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["EVENTS", "GRAPH", "ROWS", "SMALL_GRAPH", "XLA", "concatenated", "slices"]

XLA = 1024
"""Events per call of what XLA compiles, which is as fast in small chunks; these suit toys."""

GRAPH = 16_384
"""Events per call of a TensorFlow graph, which is slow in small chunks."""

SMALL_GRAPH = 4096
"""The same where samples may be small, and the graph is called a few times."""

EVENTS = 65_536
"""Events per call of what runs once and keeps no intermediate results."""

ROWS = 1_000_000
"""Rows of a table that are looked at together."""


def slices(n: int, size: int = EVENTS) -> Iterator[slice]:
    """The rows ``0`` to ``n`` in slices of ``size``, the last of which may be shorter.

    Args:
        n: Number of rows; none give no slice.
        size: Rows of a slice.

    Example:
        >>> list(slices(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def concatenated(function: Callable[..., Any], *arrays: np.ndarray, size: int = EVENTS) -> np.ndarray:
    """The result of a function of rows that is called with ``size`` rows at a time.

    Args:
        function: Takes rows of each array; returns an array or a tensor with one entry for each row.
        *arrays: Arrays of the same length.
        size: Rows of a chunk.

    Example:
        >>> concatenated(np.square, np.arange(3), size=2)
        array([0, 1, 4])
    """
    chunks = list(slices(len(arrays[0]), size)) or [slice(0, 0)]  # no rows give an empty result of the right shape
    return np.concatenate([np.asarray(function(*(array[rows] for array in arrays))) for rows in chunks])

"""Events that were expanded once, and data sets that are drawn from them: no network is evaluated for those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zfit  # noqa: F401  before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import slices
from ..loss import Compiled
from .chunks import ExpandedEvents, ExpandedKernel

__all__ = ["DrawnEvents", "EventPool"]


class EventPool:
    """Expanded events with weights, from which data sets are drawn.

    Args:
        kernel: The kernel of their model.
        events: The events, all of them expanded.

    Attributes:
        weights: Weights ``(n,)`` of the events, in the order in which rows are counted.
    """

    def __init__(self, kernel: ExpandedKernel, events: ExpandedEvents):
        self._size, n = events.size, events.n_events
        expanded, weights = zip(*events, strict=True)
        self._nest = expanded[0]
        self.weights = np.concatenate(weights)[:n]
        self._drawn_size = kernel.chunk_size(int(self.weights.sum()))  # one for all: another one is compiled anew
        parts = list(zip(*map(tf.nest.flatten, expanded), strict=True))
        self._axes = [self._axis_of(chunks[0]) for chunks in parts]
        self._shared = [chunks[0] if axis is None else None for chunks, axis in zip(parts, self._axes, strict=True)]
        self._rows = {}
        for dtype in sorted({chunks[0].dtype for chunks in parts}, key=str):
            own = zip(parts, self._axes, strict=True)
            columns = [
                self._columns(chunks, axis) for chunks, axis in own if axis is not None and chunks[0].dtype == dtype
            ]
            if columns:  # one row for each event: a toy reads few events, but all of each
                self._rows[dtype] = tf.concat(columns, axis=1)
        self.chunk: Callable[[tf.Tensor], Any] = Compiled(self._chunk, xla=False)

    def draw(self, rows: np.ndarray, weights: np.ndarray | None = None) -> DrawnEvents:
        """Some of the events, each as often as its row is given, with weights ``(n,)``, by default of one."""
        return DrawnEvents(self, rows, np.ones(len(rows)) if weights is None else weights, self._drawn_size)

    def _chunk(self, rows: tf.Tensor) -> Any:
        """Expanded events of some rows, like a chunk of `ExpandedEvents`."""
        events = {dtype: tf.transpose(tf.gather(table, rows)) for dtype, table in self._rows.items()}
        starts, taken = dict.fromkeys(events, 0), []
        for tensor, axis, shared in zip(tf.nest.flatten(self._nest), self._axes, self._shared, strict=True):
            if shared is not None:
                taken.append(shared)
                continue
            width, dtype = tensor.shape.num_elements() // self._size, tensor.dtype
            own = events[dtype][starts[dtype] : starts[dtype] + width]
            starts[dtype] += width
            taken.append(tf.transpose(own) if axis == 0 else tf.reshape(own, (*tensor.shape[:-1], -1)))
        return tf.nest.pack_sequence_as(self._nest, taken)

    def _axis_of(self, tensor: tf.Tensor) -> int | None:
        """The axis of the events, which may come in several blocks in the last one; none if the tensor is of no event.

        Sizes of chunks are powers of two, of some thousand events: no other axis is a multiple of them.
        """
        shape = tensor.shape
        if shape.rank and shape[-1] and shape[-1] % self._size == 0:
            return -1
        return 0 if shape.rank == 2 and shape[0] == self._size else None

    def _columns(self, chunks: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
        """The chunks of one tensor together, a row for each event."""
        if axis == 0:
            return tf.concat(chunks, axis=0)
        return tf.concat([tf.transpose(tf.reshape(chunk, (-1, self._size))) for chunk in chunks], axis=0)


class DrawnEvents:
    """A data set that was drawn from a pool, in chunks of one size; the last one is filled up with weights of zero.

    Args:
        pool: The pool.
        rows: Rows of the pool ``(n,)``; reading them is faster if they are sorted.
        weights: Weights ``(n,)``.
        size: Events of a chunk.
    """

    def __init__(self, pool: EventPool, rows: np.ndarray, weights: np.ndarray, size: int):
        filling = -len(rows) % size
        rows, weights = np.pad(rows, (0, filling)), np.pad(weights, (0, filling))
        self._chunks = [
            (pool.chunk(tf.constant(rows[part])), tf.constant(weights[part])) for part in slices(len(rows), size)
        ]

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """Expanded events and weights, chunk by chunk."""
        return iter(self._chunks)

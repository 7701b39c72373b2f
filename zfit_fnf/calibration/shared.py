"""Simulated events that describe several processes: their fluctuation is the same in all of these."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from .averages import independent_groups
from .moments import SlopeNoise
from .processes import Process

__all__ = ["SharedEvents", "marks_of_shared", "together"]

_Source: TypeAlias = tuple[str, str]  # process and sample


@dataclass(frozen=True, eq=False)
class SharedEvents:
    """What a group of samples of one process contributes to a closure, event by event.

    Attributes:
        mark: Is the same for groups of the same events.
        process: Name of the process.
        sample: Name of the group.
        size: Number of its events, and what they are worth.
        weights: Of the mean score of each of its samples in the closure, ``(K,)``.
        factors: What multiplies them in the slopes of the scores, ``(K, P)``.
        unknown: The same for how well slopes are known.
        residuals: What each event contributes to the deviation of each mean, ``K`` times ``(n, P)``.
    """

    mark: str
    process: str
    sample: str
    size: tuple[int, float]
    weights: np.ndarray
    factors: np.ndarray
    unknown: np.ndarray
    residuals: list[np.ndarray]

    def times(self, share: float) -> SharedEvents:
        """That of scores which are a share of these."""
        return replace(self, weights=share * self.weights, factors=share * self.factors, unknown=share * self.unknown)


def marks_of_shared(processes: Sequence[Process]) -> list[dict[str, str]]:
    """For each process a mark of each of its groups of samples whose events another group has, too, row by row."""
    marks = []
    for process in processes:
        groups = independent_groups(process.points) if process.points else []
        marks.append({label: _mark(process.points[rows[0]].x) for label, rows in groups})
    known = [mark for one in marks for mark in one.values()]
    return [{label: mark for label, mark in one.items() if known.count(mark) > 1} for one in marks]


def _mark(x: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16).hexdigest()


def together(
    parts: Sequence[SharedEvents],
) -> tuple[dict[_Source, np.ndarray], dict[_Source, list[SlopeNoise]], dict[_Source, list[tuple[int, float]]]]:
    """Covariances of the closure, noise of the slopes and sizes of all of them, by the processes that share events."""
    sources: dict[_Source, np.ndarray] = {}
    noise: dict[_Source, list[SlopeNoise]] = {}
    sizes: dict[_Source, list[tuple[int, float]]] = {}
    for mark in dict.fromkeys(part.mark for part in parts):
        same = [part for part in parts if part.mark == mark]
        key = _joined([part.process for part in same]), _joined([part.sample for part in same])
        rows = [
            row for part in same for row in zip(part.weights, part.factors, part.unknown, part.residuals, strict=True)
        ]
        summed = np.sum([weight * residuals for weight, _, _, residuals in rows], axis=0)
        sources[key] = sources.get(key, 0.0) + summed.T @ summed
        noise.setdefault(key, []).extend(
            (np.outer(one[1], other[1]), np.outer(one[2], other[2]), one[3].T @ other[3])
            for one, other in itertools.product(rows, rows)
        )
        sizes.setdefault(key, []).append(same[0].size)
    return sources, noise, sizes


def _joined(names: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(names))

"""Integrals of densities over bins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..common.warning import warn

__all__ = ["bin_rule", "points_in"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_PRECISION = 1e-6
"""Of the integral over all bins."""


def bin_rule(
    density: Callable[[np.ndarray], np.ndarray], edges: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of an integral over each bin, from -1 to 1: as many as a density needs.

    Args:
        density: Its values at points ``(n,)``.
        edges: Edges of the bins.
        what: What messages call it.

    Warns:
        UserWarning: If it is too narrow for the finest rule, or has an edge within a bin.
    """
    half, before = 0.5 * np.diff(edges), np.full(len(edges) - 1, np.inf)
    for pieces in (1, 2, 4, 8, 16, 32, 64):
        centres = (2.0 * np.arange(pieces) + 1.0) / pieces - 1.0
        nodes, weights = (centres[:, None] + _NODES / pieces).ravel(), np.tile(_WEIGHTS / pieces, pieces)
        integrals = half * (density(points_in(edges, nodes)).reshape(len(half), -1) @ weights)
        if np.abs(integrals - before).sum() < _PRECISION * np.abs(integrals).sum():
            break
        before = integrals
    else:
        warn(
            f"the integrals of {what!r} over the bins are not precise to {_PRECISION:g}: it has edges, or is very narrow"
        )
    return nodes, weights


def points_in(edges: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """The nodes in all bins, one after the other."""
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    return (middle[:, None] + half[:, None] * nodes).ravel()

r"""Integrals over many nodes that few of them give: what is integrated depends on a few numbers, and smoothly.

A sum over nodes is wanted at every point of the nuisances. At some of these points, the *snapshots*, it is known, and there
are weights, none of them negative, with which few nodes give the same (at most as many as there are snapshots, by
Carathéodory and Tchakaloff). What is smooth between the snapshots is then as well approximated as combinations of the
snapshots approximate it: with positive weights errors do not grow. Likewise, functions of a place at many points are
interpolated between few places, those where they tell most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import tensorflow as tf

from .bijectors import logistic_log_prob

__all__ = ["few_nodes", "few_places", "latent_nodes", "lattice", "snapshots"]

_MOST_NODES = 400
_MIDDLE = 3.0  # up to which nodes are about evenly distributed
_SLIGHT = 25.0  # logarithm of the shares of the probability below which nodes do not count
_SINGLES = (0.3, 0.6, 1.0, 1.5, 2.2, 3.0)
_PAIRS = {2: (0.6, 1.0, 1.7, 2.5, 3.0), 3: (0.6, 1.7, 3.0)}  # by the number of nuisances
_MANY_PAIRS = (1.0, 3.0)


def snapshots(
    windows: Sequence[tuple[float, float]], *, acting: Sequence[bool], n_random: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points ``(S, K)`` in three times the windows: zero, each nuisance alone, pairs of them, and all together.

    Args:
        windows: Trained range of each nuisance.
        acting: Which of them do anything; the others stay at zero.
        n_random: Number of points at random, which come last.
        seed: Their seed.

    Returns:
        The points, and how much their errors matter ``(S,)``: a tenth beyond the windows.
    """
    edges = np.abs(np.array(windows)).max(axis=1)
    axes = np.eye(len(edges))[np.asarray(acting)]
    units = [np.zeros((1, len(edges)))]
    for axis in axes:
        units.append(np.outer([sign * size for size in _SINGLES for sign in (1.0, -1.0)], axis))
    sizes = np.outer([1.0, -1.0], _PAIRS.get(len(axes), _MANY_PAIRS)).ravel()
    for pair in itertools.combinations(axes, 2):
        units.append(np.array(list(itertools.product(sizes, sizes))) @ pair)
    drawn = np.random.default_rng(seed).uniform(-3.0, 3.0, size=(n_random, len(axes)))
    units.append(drawn * min(1.0, np.sqrt(2.0 / len(axes))) @ axes)
    unit = np.concatenate(units)
    return unit * edges, np.where(np.abs(unit).max(axis=1) <= 1.0, 1.0, 0.1)


def few_nodes(values: np.ndarray, importance: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Few of many nodes, with weights.

    Args:
        values: What each node adds to the sum over all at each snapshot, which is one: ``(S, Q)``, not negative.
        importance: By which errors are multiplied, ``(S,)``.
        tolerance: Largest error at a snapshot.

    Returns:
        Their places ``(q,)``, and the factors ``(q,)`` by which what they add is multiplied.
    """
    table, target = values * importance[:, None], importance
    active = np.zeros(0, int)
    factors = np.zeros(0)
    norms = np.linalg.norm(table, axis=0) + 1e-300
    for _ in range(_MOST_NODES):
        rest = target - table[:, active] @ factors
        if np.abs(rest).max() < tolerance:
            break
        gain = table.T @ rest / norms
        gain[active] = -np.inf
        active, factors = _not_negative(table, target, np.append(active, int(np.argmax(gain))), np.append(factors, 0.0))
    return active, factors


def _not_negative(
    table: np.ndarray, target: np.ndarray, active: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares on active nodes; those whose factors would be negative leave them (Lawson and Hanson)."""
    while True:
        scale = np.linalg.norm(table[:, active], axis=0)
        wanted = np.linalg.lstsq(table[:, active] / scale, target, rcond=1e-13)[0] / scale
        if np.all(wanted > 0.0):
            return active, wanted
        falling = wanted <= 0.0
        step = np.min(factors[falling] / (factors[falling] - wanted[falling] + 1e-300))
        factors = factors + step * (wanted - factors)
        kept = ~(falling & (factors <= 1e-14 * factors.max()))
        if kept.all():
            kept[np.flatnonzero(falling)[np.argmin(factors[falling])]] = False
        active, factors = active[kept], factors[kept]


def few_places(values: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Few of many places, between which functions of the place can be interpolated.

    Args:
        values: Functions ``(S, A)`` at all places.
        tolerance: Of what is neglected.

    Returns:
        Chosen places ``(R,)``, and the matrix ``(R, A)`` that gives the values at all places from those at the chosen.
    """
    triangle, order = scipy.linalg.qr(values, mode="r", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    n_chosen = max(1, int(np.sum(sizes > tolerance)))
    chosen = order[:n_chosen]
    return chosen, np.linalg.lstsq(values[:, chosen], values, rcond=1e-12)[0]


def latent_nodes(
    n_dim: int, n_anchors: int, steps: Sequence[float] | np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic coordinates ``(A, Q, d)`` and logarithms of their shares ``(A, Q)`` of the probability.

    A grid, whose sums err by ``exp(-2 pi s / step)`` for functions that are analytic up to ``s`` from the real axis (that is
    3 for the logistic density and the bounded coordinates), or a lattice of ``count`` points where a grid would be too large.
    The distance of the nodes is that of ``steps``, one for each coordinate, in the middle, and grows towards the tails, where
    bounded coordinates hardly change. Without ``steps`` it is the lattice.
    """
    if len(steps) and n_dim <= (3 if n_anchors == 1 else 2):
        axes, log_shares = zip(*[_axis(step, 20.0 if n_dim == 1 else 15.0) for step in steps], strict=True)
        z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, n_dim)
        log_weights = np.sum(np.meshgrid(*log_shares, indexing="ij"), axis=0).ravel()
        kept = log_weights > log_weights.max() - _SLIGHT
        return np.stack([z[kept]] * n_anchors), np.stack([log_weights[kept]] * n_anchors)
    # Each anchor has the lattice at another place, so that its errors average out in between.
    places = lattice(count, n_dim)[None] + lattice(n_anchors, n_dim)[:, None]
    tent = np.clip(1.0 - np.abs(2.0 * (places % 1.0) - 1.0), 1e-9, 1.0 - 1e-9)  # a periodic function of the place
    return np.log(tent) - np.log1p(-tent), np.full((n_anchors, count), -math.log(count))


def _axis(step: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of one coordinate up to an end, and logarithms of their shares."""
    width = step / _MIDDLE
    count = math.ceil(math.asinh(end / _MIDDLE) / width)
    scaled = width * np.arange(-count, count + 1)
    nodes = _MIDDLE * np.sinh(scaled)
    return nodes, logistic_log_prob(tf.constant(nodes)).numpy() + np.log(step * np.cosh(scaled))


def lattice(count: int, n_dim: int) -> np.ndarray:
    """Evenly distributed points ``(count, n_dim)`` of the unit cube: multiples of a generalised golden ratio."""
    golden = 2.0
    for _ in range(60):
        golden = (1.0 + golden) ** (1.0 / (n_dim + 1))
    return (0.5 + np.arange(1, count + 1)[:, None] * golden ** -np.arange(1.0, n_dim + 1)) % 1.0

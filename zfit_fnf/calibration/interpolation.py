"""Between the points at which a process was simulated: polynomials of the nuisances, as in its deformation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Interpolation"]

_THROUGH = 4  # powers of a nuisance with so many samples of its own: they go through all of them
_CERTAIN = 6.0  # times the expected squared noise, which is taken from what a coefficient is


@dataclass(frozen=True, eq=False)
class Interpolation:
    r"""What was measured at simulated points, anywhere: :math:`f(\nu) = \sum_k a_k(\nu) f_k`, weights that sum to one.

    A polynomial with a power of each nuisance for each of up to four samples of it alone, or as many as its deformation has if
    these are more, and the product of each two that were moved together, goes through all points, or fits them best if they
    are more than its terms. A density that lacks a power is wrong by just that: the closure has to have it.

    Args:
        nuisances: Names of the nuisances.
        points: The points ``(K, len(nuisances))``; the first one is the origin.
        orders: Highest power of each nuisance in the deformation, where it is known.

    Raises:
        ValueError: If there is no sample in which a nuisance is moved alone.
    """

    nuisances: tuple[str, ...]
    points: np.ndarray
    orders: Mapping[str, int]

    def __post_init__(self) -> None:
        if alone := [name for j, name in enumerate(self.nuisances) if not len(self._values(j))]:
            raise ValueError(f"{alone} were moved in joint samples only: what each of them does alone is not known")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Nuisances that were moved together in some sample."""
        return tuple((self.nuisances[i], self.nuisances[j]) for i, j in self._pairs)

    @cached_property
    def coefficients(self) -> np.ndarray:
        """From values at the points to coefficients of the monomials, the constant one first, ``(M, K)``."""
        return np.linalg.pinv(np.stack([np.prod(point**self._powers, axis=1) for point in self.points]))

    def weights(self, nu: Sequence[float], kept: np.ndarray | None = None) -> np.ndarray:
        """The weights ``(K,)`` of the points, at ``nu``; ``kept`` are factors ``(M,)`` on the monomials."""
        monomials = np.prod(np.asarray(nu, float) ** self._powers, axis=1)
        return (monomials if kept is None else kept * monomials) @ self.coefficients

    def slopes(self, nu: Sequence[float], kept: np.ndarray | None = None) -> np.ndarray:
        """Derivatives ``(K, len(nuisances))`` of the weights with respect to the nuisances."""
        values, powers = np.asarray(nu, float), self._powers
        result = np.zeros((len(self.points), len(values)))
        for j, unit in enumerate(np.eye(len(values), dtype=int)):
            lowered = np.prod(values ** np.maximum(powers - unit, 0), axis=1)
            monomials = powers[:, j] * lowered
            result[:, j] = (monomials if kept is None else kept * monomials) @ self.coefficients
        return result

    def beyond(self, nu: Sequence[float]) -> list[str]:
        """Nuisances that are outside of the range in which they were simulated."""
        low, high = self.points.min(axis=0, initial=0.0), self.points.max(axis=0, initial=0.0)
        return [name for name, value, a, b in zip(self.nuisances, nu, low, high, strict=True) if not a <= value <= b]

    def remainders(self, nu: Sequence[float], squares: np.ndarray, noise: np.ndarray) -> dict[tuple[str, ...], float]:
        r"""How far off the polynomial may be at ``nu``, by the nuisances of the monomials that it lacks.

        The next power of a nuisance is taken to be as much smaller than its highest one as this is than the one before, or
        likewise of every other power, if that is more; the product of two that were not moved together, to be what their
        second powers allow, :math:`2 \sqrt{f_i f_j}`. What noise may be is no reason for doubt.

        Args:
            nu: The point.
            squares: Squared length of each coefficient ``(M,)``.
            noise: What noise adds to these on average, ``(M,)``.
        """
        lengths, certain = np.sqrt(squares), np.sqrt(np.maximum(squares - _CERTAIN * noise, 0.0))
        second, found = np.zeros(len(self.nuisances)), dict[tuple[str, ...], float]()
        for j, name in enumerate(self.nuisances):
            rows = [0, *(row for row, powers in enumerate(self._powers) if powers[j] and powers[j] == powers.sum())]
            last, before = certain[rows[-1]], lengths[rows[-2]]
            values = self.points[:, j]
            ratio = min(last / before if before > 0 else np.inf, 1.0 / np.abs(values).max())
            missed = nu[j] ** len(rows) - self.weights(nu) @ values ** len(rows)
            following = last * ratio
            if len(rows) > 3:  # of an odd response every other power is zero, and tells nothing of the next one
                apart, first = certain[rows[-2]], lengths[rows[-4]]
                following = max(
                    following, apart * min(apart / first if first > 0 else np.inf, 1.0 / np.square(values).max())
                )
            found[name,] = float(following * abs(missed))
            second[j] = certain[rows[2]] if len(rows) > 2 else last * ratio
        for i, j in itertools.combinations(range(len(self.nuisances)), 2):
            if (i, j) not in self._pairs:
                size = 2.0 * np.sqrt(second[i] * second[j]) * abs(nu[i] * nu[j])
                found[self.nuisances[i], self.nuisances[j]] = float(size)
        return found

    def _values(self, j: int) -> np.ndarray:
        """Where the nuisance was simulated alone."""
        alone = (self.points != 0).sum(axis=1) == 1
        return np.unique(self.points[alone & (self.points[:, j] != 0), j])

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        moved = (np.flatnonzero(point) for point in self.points)
        return sorted({pair for indices in moved for pair in itertools.combinations(indices.tolist(), 2)})

    @cached_property
    def _powers(self) -> np.ndarray:
        """Exponents ``(M, len(nuisances))`` of the monomials, the constant one first."""
        unit = np.eye(len(self.nuisances), dtype=int)
        rows = [np.zeros(len(self.nuisances), int)]
        for j, name in enumerate(self.nuisances):
            highest = min(max(self.orders.get(name, 0), _THROUGH), len(self._values(j)))
            rows += [power * unit[j] for power in range(1, highest + 1)]
        return np.stack([*rows, *(unit[i] + unit[j] for i, j in self._pairs)])

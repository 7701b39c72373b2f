r"""Of which products a log-ratio is made, as far as their prior says.

The variance of the weight of a product falls from an amplitude :math:`A` by :math:`f_j` for each degree :math:`k_j` in a
variable. Products whose prior width is well below the noise that their weights would have are left out: what is left is
:math:`\sum_j f_j k_j \le C`, many degrees in the variable in which an effect is narrow, few in the others. Of what is
left out in spite of that, because it would be too much, the prior tells how much is lost. In conditions it would be
too much where integrals are polynomials between few of their values.
"""

from __future__ import annotations

import numpy as np

from ..densities.basis import Basis, default_degree
from ..densities.reweighting import most_in_conditions

__all__ = ["LOWEST", "chosen", "first_terms", "lost"]

LOWEST = 2.0
"""Degree that every variable may have by itself."""

_MOST_TERMS = 300  # with two monomials of the nuisances or fewer
_HIGHEST = 40.0  # degree in one variable,
_ON_LATTICES = 8.0  # and where integrals are sums over a lattice, which do not see more
_BELOW = 0.1  # variance of a weight in that of its noise, from which it is left out
_HALVINGS = 12  # of the range in which the largest set that is not too large is sought
_FULL = 1.05  # share of the degrees that are asked for, from which all are there
_FIRST_HIGHEST = 24  # degree in one variable that the first look has
_FIRST_TOTAL = {1: 24, 2: 10, 3: 5}  # and in all together, by the number of variables


def first_terms(n_dim: int, n_context: int, n_monomials: int) -> np.ndarray:
    """Products ``(terms, d + m)`` for a first look: high degrees in each variable, low ones in several together."""
    n_inputs = n_dim + n_context
    total = min(_FIRST_TOTAL.get(n_inputs, 4), default_degree(n_inputs, n_monomials))
    together = Basis((float(total),) * n_inputs, n_dim, tails=True).exponents
    highest = min(_FIRST_HIGHEST, max(total, _limit(n_monomials) // (3 * n_inputs)))
    higher = [row * degree for row in np.eye(n_inputs, dtype=int)[:n_dim] for degree in range(total + 1, highest + 1)]
    return np.concatenate([together, np.array(higher, int).reshape(-1, n_inputs)])


def chosen(amplitudes: np.ndarray, falls: np.ndarray, precisions: np.ndarray, n_dim: int, n_monomials: int) -> Basis:
    """The products whose weights are not known better by their prior than by the events.

    Args:
        amplitudes: Logarithms of the variances at degree zero, of the monomials that are not idle.
        falls: Their fall per degree in each variable ``(d + m,)``.
        precisions: Inverse variances of the noise of these.
        n_dim: Number of observables.
        n_monomials: Number of all monomials.
    """
    reach = _reach(amplitudes, precisions)
    most = _limit(n_monomials)
    of_one = _HIGHEST if n_dim <= (3 if len(falls) == n_dim else 2) else _ON_LATTICES
    highest = np.full(len(falls), of_one)
    highest[n_dim:] = np.clip(most_in_conditions(n_dim, len(falls) - n_dim), LOWEST, of_one)

    def with_reach(limit: float) -> Basis:
        degrees = np.clip(np.round(limit / falls, 1), LOWEST, highest)
        return Basis(tuple(degrees.tolist()), n_dim, tails=True)

    if (basis := with_reach(reach)).count(most) <= most:
        return basis
    low, high = 0.0, reach
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if with_reach(middle).count(most) > most else (middle, high)
    return with_reach(low)


def lost(basis: Basis, amplitudes: np.ndarray, falls: np.ndarray, precisions: np.ndarray) -> float:
    """Mean square that the prior expects of products which are left out because they are too many, in that of those there are.

    It is zero if there are all that :func:`chosen` asks for, and at most one: as much again as what is known.
    """
    if not len(amplitudes) or np.all(_reach(amplitudes, precisions) / falls <= _FULL * np.array(basis.degrees)):
        return 0.0
    kept = np.exp(-basis.exponents[(basis.exponents >= 0).all(axis=1)] @ falls).sum()
    of_conditions = np.prod(1.0 / -np.expm1(-falls[basis.n_dim :]))
    of_all = np.prod(1.0 / -np.expm1(-falls)) - of_conditions
    return float(np.clip(of_all / kept - 1.0, 0.0, 1.0))


def _reach(amplitudes: np.ndarray, precisions: np.ndarray) -> float:
    """Up to which sum of falls times degrees weights are known better by the events than by their prior."""
    return float(np.max(amplitudes + np.log(precisions / _BELOW)))


def _limit(n_monomials: int) -> int:
    return 2 * _MOST_TERMS // max(2, n_monomials)

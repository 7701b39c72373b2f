r"""Functions of an event that log-ratios are made of: products of one function of each bounded coordinate.

A *bounded coordinate* :math:`t \in (-1, 1)` of an observable is that of its conditional distribution function :math:`F`, seen
through a sigmoid. Functions of it are Legendre polynomials and two *tails*,

.. math::
    -\log(F + \epsilon) - 1, \qquad -\log(1 - F + \epsilon) - 1 .

Where a tail of a density changes, from one power to another, or from one slope of an exponential, or the width of a normal
distribution, the logarithm of the ratio goes on as a multiple of :math:`\log F`; polynomials of a bounded coordinate do not.
They end as a constant, too, but where there are hardly any events, so that integrals exist.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["TAIL_DEGREE", "Basis", "default_degree", "size_of"]

TAIL_DEGREE = 1
"""What a tail counts as among the degrees of a product."""

_MOST_TERMS = 130
_HIGHEST_DEGREE = 24
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Basis:
    r"""Products of degrees :math:`k_j` in each variable with :math:`0 < \sum_j k_j / d_j \le 1`.

    What depends on the conditions alone is no part of a conditional density, and left out.

    Attributes:
        degrees: Highest degree ``d_j`` of each variable by itself, of the observables first; below one it is left out.
        n_dim: Number of observables among them.
        tails: Whether observables have tails, too, each in place of a degree of one.
    """

    degrees: tuple[float, ...]
    n_dim: int
    tails: bool = False

    @cached_property
    def exponents(self) -> np.ndarray:
        """Degrees ``(p, d + m)``; -1 and -2 are the lower and the upper tail. Lower total degrees first."""
        products = [k for k in self._products() if any(k[: self.n_dim])]
        found = np.array(products, int).reshape(len(products), len(self.degrees))
        return found[np.lexsort([*-found.T[::-1], size_of(found).sum(axis=1)])]

    def count(self, most: int) -> int:
        """Number of products; more than ``most`` where there are as many, those of conditions alone included, unlisted."""
        first = list(itertools.islice(self._products(), most + 1))
        return most + 1 if len(first) > most else sum(any(k[: self.n_dim]) for k in first)

    def _products(self) -> Iterator[tuple[int, ...]]:
        return _products(self.degrees, self.n_dim if self.tails else 0, 1.0)


def _products(degrees: Sequence[float], n_tailed: int, budget: float) -> Iterator[tuple[int, ...]]:
    """Degrees in each variable whose sum, each divided by the highest one, is within a budget."""
    if not degrees:
        yield ()
        return
    highest = math.floor(degrees[0] * budget + _ROUNDING)
    tails = (-1, -2) if n_tailed > 0 and highest >= TAIL_DEGREE else ()
    for degree in (*range(highest + 1), *tails):
        left = budget - (TAIL_DEGREE if degree < 0 else degree) / max(degrees[0], 1.0)
        for rest in _products(degrees[1:], n_tailed - 1, left):
            yield (degree, *rest)


def size_of(exponents: np.ndarray) -> np.ndarray:
    """Degrees, with tails as :data:`TAIL_DEGREE`."""
    return np.where(exponents < 0, TAIL_DEGREE, exponents)


def default_degree(n_inputs: int, n_monomials: int = 2) -> int:
    """Total degree at which there are about a hundred polynomials, but 24 in one variable; 14 in two, 7 in three.

    With more than two monomials, those of an interaction, there are as many weights in all.
    """
    most, degree = 2 * _MOST_TERMS // max(2, n_monomials), 1
    while degree < _HIGHEST_DEGREE and math.comb(n_inputs + degree + 1, n_inputs) <= most:
        degree += 1
    return degree

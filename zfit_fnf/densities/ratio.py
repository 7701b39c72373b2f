r"""Log-ratios: responses that reweight events, for effects that move nothing.

.. math::
    p(y | x, \nu) = p_\mathrm{map}(y | x, \nu) \, \exp\Big(\sum_m \phi_m(\nu) \, r_m(y, x)\Big) \Big/ Z(\nu | x),

where :math:`p_\mathrm{map}` is the nominal density behind the map of a
:class:`~zfit_fnf.densities.deformation.Deformation`, and :math:`\phi_m` are monomials of the nuisances. The coefficients
:math:`r_m` are functions of the observed event alone, one number for each monomial, computed once per data set.

A coefficient is a polynomial in *bounded* coordinates :math:`t_j \in (-1, 1)`: of an observable, of its latent coordinate
in the nominal density (its conditional distribution function, seen through a sigmoid), so that there is detail where there
are events; of a condition, of its standardised value. It is therefore bounded: beyond the simulated events a ratio goes on
as a constant, and the integral :math:`Z` exists at every :math:`\nu`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import LARGEST, integer, names
from .flows import AutoregressiveDensity, Flow
from .model import Model
from .monomials import Powers, checked_powers

__all__ = ["LogRatio", "bounded", "default_degree"]

_STEEPNESS = 0.45  # of the sigmoid of a logistic coordinate; 0.5 gives its distribution function, tails want less
_MOST_TERMS = 130
_HIGHEST_DEGREE = 24


class LogRatio(Model):
    """Coefficients ``r_m`` of one nuisance, or of one interaction of two.

    A new one is zero. :mod:`zfit_fnf.train.ratio` learns ``weights``.

    Args:
        nuisances: The names whose monomials it multiplies.
        powers: Exponents of each monomial, one per nuisance.
        n_dim: Number ``d`` of observables.
        n_context: Number ``m`` of conditions.
        degree: Total degree of the polynomials; default :func:`default_degree`.
    """

    def __init__(
        self, nuisances: Sequence[str], powers: Powers, *, n_dim: int, n_context: int, degree: int | None = None
    ):
        super().__init__()
        self.nuisances = names(nuisances, "nuisances", '["pdf"]')
        self.powers = checked_powers(powers, self.nuisances)
        self.n_dim = integer(n_dim, "n_dim", low=1, high=LARGEST)
        self.n_context = integer(n_context, "n_context", low=0)
        n_inputs = self.n_dim + self.n_context
        default = default_degree(n_inputs, len(self.powers))
        self.degree = integer(default if degree is None else degree, "degree", low=1, high=64)
        of_conditions = exponents(n_inputs, self.degree)[:, : self.n_dim].sum(axis=1) == 0
        # What depends on the conditions alone is no part of a conditional density.
        self.exponents = exponents(n_inputs, self.degree)[~of_conditions]
        self.weights = tf.Variable(tf.zeros((len(self.powers), len(self.exponents)), tf.float64), trainable=False)

    def coefficients(self, t: tf.Tensor) -> tf.Tensor:
        """Coefficients ``(n, M)`` of the monomials at bounded coordinates ``t (n, d + m)``."""
        return tf.matmul(polynomials(t, self.exponents), tf.cast(self.weights, t.dtype), transpose_b=True)

    def in_last_observable(self, t: tf.Tensor) -> tf.Tensor:
        """Coefficients as polynomials of the bounded coordinate of the last observable, ``(n, M, degree + 1)``.

        Args:
            t: Bounded coordinates ``(n, d + m)``, of which that one does not matter.
        """
        last = self.n_dim - 1
        of_others = polynomials(
            tf.concat([t[:, :last], t[:, self.n_dim :]], axis=1), np.delete(self.exponents, last, axis=1)
        )
        by_degree = np.eye(self.degree + 1)[self.exponents[:, last]]
        return tf.einsum("np,mp,pk->nmk", of_others, self.weights, tf.constant(by_degree))

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a log-ratio of the same architecture."""
        return {
            "nuisances": self.nuisances,
            "powers": self.powers,
            "n_dim": self.n_dim,
            "n_context": self.n_context,
            "degree": self.degree,
        }


def default_degree(n_inputs: int, n_monomials: int = 2) -> int:
    """Total degree at which there are about a hundred polynomials, but 24 in one variable; 14 in two, 7 in three.

    With more than two monomials, those of an interaction, there are as many weights in all.
    """
    most, degree = 2 * _MOST_TERMS // max(2, n_monomials), 1
    while degree < _HIGHEST_DEGREE and math.comb(n_inputs + degree + 1, n_inputs) <= most:
        degree += 1
    return degree


def exponents(n_inputs: int, degree: int) -> np.ndarray:
    """Degrees ``(p, n_inputs)`` in each variable of all products of a total degree from one to ``degree``."""
    found = [
        np.bincount(chosen, minlength=n_inputs)
        for total in range(1, degree + 1)
        for chosen in itertools.combinations_with_replacement(range(n_inputs), total)
    ]
    return np.array(found)


def polynomials(t: tf.Tensor, degrees: np.ndarray) -> tf.Tensor:
    """Products ``(n, p)`` of Legendre polynomials of ``t (n, k)``, orthonormal where ``t`` is uniform."""
    previous, current = tf.ones_like(t), t
    values = [previous, current]
    for order in range(1, int(degrees.max())):
        previous, current = current, ((2 * order + 1) * t * current - order * previous) / (order + 1)
        values.append(current)
    table = tf.stack([math.sqrt(2 * order + 1) * value for order, value in enumerate(values)], axis=-1)
    result = tf.gather(table[:, 0], degrees[:, 0], axis=1)
    for variable in range(1, degrees.shape[1]):
        result *= tf.gather(table[:, variable], degrees[:, variable], axis=1)
    return result


def bounded(flow: Flow, u: tf.Tensor, c: tf.Tensor, of_flow: Any) -> tf.Tensor:
    """Bounded coordinates ``(n, d + m)`` of standardised events, with what the flow has made of their conditions.

    Of a density whose latent coordinates are not known, the standardised ones take their place.
    """
    z = flow.density.base(u, of_flow)[0] if has_latent(flow) else 1.8 * u  # the width of the logistic distribution
    return tf.concat([sigmoid(z), sigmoid(c)], axis=1)


def sigmoid(values: tf.Tensor) -> tf.Tensor:
    """Bounded coordinates of logistic ones, or of standardised conditions."""
    return tf.tanh(_STEEPNESS * values)


def has_latent(flow: Flow) -> bool:
    """Whether the latent coordinates of a flow are known, one conditional distribution function after the other."""
    density = getattr(flow, "density", None)
    return isinstance(density, AutoregressiveDensity) and density.sequential

r"""Log-ratios: responses that reweight events, for effects that move nothing.

.. math::
    p(y | x, \nu) = p_\mathrm{map}(y | x, \nu) \, \exp\Big(\sum_m \phi_m(\nu) \, r_m(y, x)\Big) \Big/ Z(\nu | x),

where :math:`p_\mathrm{map}` is the nominal density behind the map of a
:class:`~zfit_fnf.densities.deformation.Deformation`, and :math:`\phi_m` are monomials of the nuisances. The coefficients
:math:`r_m` are functions of the observed event alone, one number for each monomial, computed once per data set.

A coefficient is a sum of products of functions of *bounded* coordinates :math:`t_j \in (-1, 1)`, see :mod:`.basis`: of an
observable, of its latent coordinate in the nominal density (its conditional distribution function, seen through a sigmoid), so
that there is detail where there are events; of a condition, of its standardised value. It is therefore bounded: beyond the
simulated events a ratio goes on as a constant, and the integral :math:`Z` exists at every :math:`\nu`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import LARGEST, integer, names, number
from .basis import Basis, default_degree
from .flows import AutoregressiveDensity, Flow
from .model import Model
from .monomials import Powers, checked_powers

__all__ = ["LogRatio", "bounded", "has_latent", "polynomials", "sigmoid"]

_STEEPNESS = 0.45  # of the sigmoid of a logistic coordinate; 0.5 gives its distribution function, tails want less
_BEYOND = 3e-5  # epsilon, where tails end as a constant
_EDGE = 1e-7  # of bounded coordinates, at which powers have no second derivative


class LogRatio(Model):
    """Coefficients ``r_m`` of one nuisance, or of one interaction of two.

    A new one is zero. :mod:`zfit_fnf.train.ratio` learns ``weights``.

    Args:
        nuisances: The names whose monomials it multiplies.
        powers: Exponents of each monomial, one per nuisance.
        n_dim: Number ``d`` of observables.
        n_context: Number ``m`` of conditions.
        degrees: Highest degree of each variable by itself, of the observables first; products of several have
            ``sum_j k_j / d_j <= 1``. Default the same for all, about a hundred products.
        tails: Whether observables have tails, too.
    """

    def __init__(
        self,
        nuisances: Sequence[str],
        powers: Powers,
        *,
        n_dim: int,
        n_context: int,
        degrees: Sequence[float] | None = None,
        tails: bool = False,
    ):
        super().__init__()
        self.nuisances = names(nuisances, "nuisances", '["pdf"]')
        self.powers = checked_powers(powers, self.nuisances)
        self.n_dim = integer(n_dim, "n_dim", low=1, high=LARGEST)
        self.n_context = integer(n_context, "n_context", low=0)
        n_inputs = self.n_dim + self.n_context
        if degrees is None:
            degrees = [default_degree(n_inputs, len(self.powers))] * n_inputs
        self.basis = Basis(_checked_degrees(degrees, n_inputs), self.n_dim, bool(tails))
        if not len(self.exponents):
            raise ValueError(f"a log-ratio needs a degree of one or more in an observable, got {degrees}")
        self.weights = tf.Variable(tf.zeros((len(self.powers), len(self.exponents)), tf.float64), trainable=False)

    @property
    def exponents(self) -> np.ndarray:
        """Degrees ``(terms, d + m)`` of the products."""
        return self.basis.exponents

    def coefficients(self, t: tf.Tensor) -> tf.Tensor:
        """Coefficients ``(n, M)`` of the monomials at bounded coordinates ``t (n, d + m)``."""
        return tf.matmul(polynomials(t, self.exponents), tf.cast(self.weights, t.dtype), transpose_b=True)

    def in_last_observable(self, t: tf.Tensor) -> tuple[tf.Tensor, np.ndarray]:
        """Coefficients as functions of the bounded coordinate of the last observable, ``(n, M, q)``, and which ``(q, 1)``.

        Args:
            t: Bounded coordinates ``(n, d + m)``, of which that one does not matter.
        """
        last = self.n_dim - 1
        of_others = polynomials(
            tf.concat([t[:, :last], t[:, self.n_dim :]], axis=1), np.delete(self.exponents, last, axis=1)
        )
        own, places = np.unique(self.exponents[:, last], return_inverse=True)
        by_function = tf.constant(np.eye(len(own))[places])
        return tf.einsum("np,mp,pk->nmk", of_others, self.weights, by_function), own[:, None]

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a log-ratio of the same architecture."""
        return {
            "nuisances": self.nuisances,
            "powers": self.powers,
            "n_dim": self.n_dim,
            "n_context": self.n_context,
            "degrees": self.basis.degrees,
            "tails": self.basis.tails,
        }


def _checked_degrees(degrees: Sequence[float], n_inputs: int) -> tuple[float, ...]:
    checked = tuple(number(each, "each of degrees", low=0.0, high=64.0) for each in degrees)
    if len(checked) != n_inputs:
        raise ValueError(f"degrees has one entry for each of {n_inputs} variables, got {checked}")
    return checked


def polynomials(t: tf.Tensor, exponents: np.ndarray) -> tf.Tensor:
    """Products ``(n, p)`` of Legendre polynomials, orthonormal where ``t (n, k)`` is uniform, and of tails."""
    t = tf.transpose(t)  # events last: gathering rows is several times faster than columns
    previous, current = tf.ones_like(t), t
    values = [previous, current]
    for order in range(1, int(exponents.max())):
        previous, current = current, ((2 * order + 1) * t * current - order * previous) / (order + 1)
        values.append(current)
    values = [math.sqrt(2 * order + 1) * value for order, value in enumerate(values)]
    if np.any(exponents < 0):
        values += _tails(t)
    table, places = tf.stack(values), exponents % len(values)
    result = tf.gather(table[:, 0], places[:, 0])
    for variable in range(1, places.shape[1]):
        result *= tf.gather(table[:, variable], places[:, variable])
    return tf.transpose(result)


def _tails(t: tf.Tensor) -> list[tf.Tensor]:
    """The upper and the lower tail, with means of zero and widths of one for the events themselves."""
    power = 0.5 / _STEEPNESS
    below, above = tf.pow(1.0 + _EDGE + t, power), tf.pow(1.0 + _EDGE - t, power)
    both = tf.math.log(below + above) - 1.0
    return [both - tf.math.log(one + _BEYOND * (below + above)) for one in (above, below)]


def sigmoid(values: tf.Tensor) -> tf.Tensor:
    """Bounded coordinates of logistic ones, or of standardised conditions."""
    return tf.tanh(_STEEPNESS * values)


def bounded(flow: Flow, u: tf.Tensor, c: tf.Tensor, of_flow: Any) -> tf.Tensor:
    """Bounded coordinates ``(n, d + m)`` of standardised events, with what the flow has made of their conditions.

    Of a density whose latent coordinates are not known, the standardised ones take their place.
    """
    z = flow.density.base(u, of_flow)[0] if has_latent(flow) else 1.8 * u  # the width of the logistic distribution
    return tf.concat([sigmoid(z), sigmoid(c)], axis=1)


def has_latent(flow: Flow) -> bool:
    """Whether the latent coordinates of a flow are known, one conditional distribution function after the other."""
    density = getattr(flow, "density", None)
    return isinstance(density, AutoregressiveDensity) and density.sequential

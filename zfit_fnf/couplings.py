r"""Yields that are polynomials of couplings: interference, effective field theories, and morphing between simulated points.

A cross section is the square of a sum of amplitudes: with a coupling :math:`c` of new physics in one of them, the expected
density of events is quadratic in it,

.. math::
    n(c)\, p(x | c) = n_0 p_0(x) + c\, n_1 p_1(x) + c^2 n_2 p_2(x),

where :math:`p_1`, of the interference, is no density: it integrates to anything and may be negative. `morphed_yields`
writes the same sum with densities of events that can be simulated, those at some values :math:`c_i` of the coupling.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from .common.checks import integer, number
from .param import limits_of
from .yields import ModifiedYield, modified_yield

__all__ = ["Polynomial", "morphed_yields", "polynomial"]

_SINGULAR = 1e8  # condition number, beyond which weights lose half of their digits


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A factor on a yield that is a polynomial of parameters; made by `polynomial`.

    Attributes:
        params: The parameters.
        powers: Exponents ``(terms, params)``.
        coefficients: A number for each of the terms.
    """

    params: tuple[zfit.Parameter, ...]
    powers: tuple[tuple[float, ...], ...]
    coefficients: tuple[float, ...]

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        """The factor at values of the parameters; it may be negative."""
        result = tf.zeros((), tf.float64)
        for powers, coefficient in zip(self.powers, self.coefficients, strict=True):
            factors = [_power(value, power) for value, power in zip(values, powers, strict=True) if power]
            result += functools.reduce(operator.mul, factors, tf.constant(coefficient, tf.float64))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Its ``type``, the ``parameters`` by name, and ``terms``: exponents and coefficient of each."""
        terms = [[list(powers), number] for powers, number in zip(self.powers, self.coefficients, strict=True)]
        return {"type": "polynomial", "parameters": [one.name for one in self.params], "terms": terms}


def polynomial(params: zfit.Parameter | Sequence[zfit.Parameter], coefficients: Mapping[Any, float]) -> Polynomial:
    r"""A factor on a yield that is a polynomial of parameters, :math:`\sum_t a_t \prod_k c_k^{q_{tk}}`.

    Args:
        params: The parameters :math:`c_k`.
        coefficients: The coefficients :math:`a_t` by the exponents of each parameter: integers; or fractions, such as 0.5 for
            the interference of a signal of strength ``mu``, of a parameter with a lower limit above zero.

    Raises:
        TypeError: If ``params`` are no parameters, or the coefficients no mapping from tuples.
        ValueError: If a term has not one exponent for each parameter, one is negative or a coefficient is not finite; for
            fractions of a parameter that can be zero, where the derivative is infinite.

    Example:
        >>> c = zfit.Parameter("c", 0.5, -2, 2)
        >>> n_signal = modified_yield(1000.0, [polynomial(c, {(0,): 1.0, (1,): 0.2, (2,): 0.4})])
        >>> float(n_signal.value())
        1200.0
    """
    params = _checked(params)
    if not _by_tuples(coefficients):
        raise TypeError(
            "coefficients of a polynomial are numbers by the exponents of its parameters, e.g. {(0,): 1.0, (2,): 0.4}; got "
            f"{coefficients!r}"
        )
    names = [one.name for one in params]
    if not coefficients or any(len(powers) != len(params) for powers in coefficients):
        raise ValueError(
            f"each term of a polynomial of {names} needs {len(params)} exponents; got {list(coefficients)}"
        )
    powers = [tuple(number(power, f"an exponent of {names}", low=0.0) for power in one) for one in coefficients]
    for column, parameter in zip(zip(*powers, strict=True), params, strict=True):
        _check_fractions(parameter, column)
    numbers = [number(one, f"a coefficient of the polynomial of {names}") for one in coefficients.values()]
    return Polynomial(params, tuple(powers), tuple(numbers))


def morphed_yields(
    params: zfit.Parameter | Sequence[zfit.Parameter],
    yields: Mapping[Any, float],
    *,
    degree: int = 2,
) -> list[ModifiedYield]:
    r"""Yields with which densities at simulated values of couplings add up to that at any values.

    If :math:`n(c) p(x|c)` is a polynomial in the couplings, it is at any :math:`c` the sum
    :math:`\sum_i w_i(c)\, N_i\, p(x|c_i)` of those at enough values :math:`c_i`, with the polynomials
    :math:`w(c) = m(c) M^+`: :math:`m` are the monomials, and the rows of :math:`M` are theirs at :math:`c_i`. Some of the
    weights are negative, and what is not known of a density is multiplied by its own: choose points in the
    range that matters.

    Args:
        params: The couplings.
        yields: Yields :math:`N_i` of the simulated samples by the values of the couplings, at least as many as there are
            monomials: 3 for one coupling and ``degree=2``, 6 for two, 10 for three.
        degree: Highest total degree.

    Returns:
        A yield for each sample, in their order, to pass as ``extended=`` of its density; their PDFs are added by
        `zfit_fnf.pdf.SumPDF`.

    Raises:
        TypeError: If ``params`` are no parameters, or ``yields`` no mapping from tuples.
        ValueError: If there are too few points, or they do not tell the monomials apart.

    Example:
        >>> c = zfit.Parameter("kappa", 0.5, -2, 2)
        >>> n = morphed_yields(c, {(0.0,): 1000.0, (1.0,): 1600.0, (-1.0,): 1200.0})
        >>> round(sum(float(one.value()) for one in n), 6)
        1200.0
    """
    params = _checked(params)
    names = [one.name for one in params]
    if not _by_tuples(yields) or any(len(point) != len(params) for point in yields):
        raise TypeError(f"yields= are numbers by the values of {names}, e.g. {{(0.0,): 1000.0}}; got {yields!r}")
    points = np.array([[number(value, f"a value of {names}") for value in point] for point in yields])
    degree = integer(degree, "degree", low=1)
    powers = [one for one in itertools.product(range(degree + 1), repeat=len(params)) if sum(one) <= degree]
    if len(points) < len(powers):
        raise ValueError(
            f"a polynomial of degree {degree} in {names} has {len(powers)} monomials: simulate as many values, not {len(points)}"
        )
    monomials = np.prod(points[:, None, :] ** np.array(powers), axis=-1)
    # In units of their largest values: squares of couplings in 1 / GeV^2 are no rounding errors.
    sizes = np.abs(monomials).max(axis=0).clip(1e-300)
    if not np.linalg.cond(monomials / sizes) < _SINGULAR:
        raise ValueError(f"the values of {names} do not tell the {len(powers)} monomials apart: {points.tolist()}")
    weights = np.linalg.pinv(monomials / sizes) / sizes[:, None]
    return [
        modified_yield(events, [polynomial(params, dict(zip(powers, column.tolist(), strict=True)))])
        for events, column in zip(yields.values(), weights.T, strict=True)
    ]


def _power(value: tf.Tensor, power: float) -> tf.Tensor:
    """Of integers by products: derivatives of powers are not numbers at zero."""
    return functools.reduce(operator.mul, [value] * int(power)) if power.is_integer() else tf.pow(value, power)


def _by_tuples(given: Any) -> bool:
    return isinstance(given, Mapping) and all(isinstance(key, tuple) for key in given)


def _checked(params: Any) -> tuple[zfit.Parameter, ...]:
    params = (params,) if isinstance(params, BaseParameter) else params
    if not isinstance(params, Sequence) or not params or not all(isinstance(one, BaseParameter) for one in params):
        raise TypeError(f"a polynomial is one of parameters of zfit, e.g. [c1, c2]; got {params!r}")
    return tuple(params)


def _check_fractions(parameter: zfit.Parameter, powers: Sequence[float]) -> None:
    if all(power.is_integer() for power in powers):
        return
    low = limits_of(parameter)[0] if isinstance(parameter, zfit.Parameter) else -np.inf
    if not low > 0:
        raise ValueError(
            f"a fraction as exponent of {parameter.name!r}, whose lower limit is {low:g}: at zero the derivative is infinite. "
            "Give it a lower limit above zero, or make the coupling the parameter, of which the strength is the square"
        )

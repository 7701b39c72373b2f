"""Power series: functions by their Taylor coefficients, and arithmetic in several variables."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from zfit_fnf.densities.taylor import series
from zfit_fnf.densities.taylor.series import Series, monomials

FUNCTIONS = {
    "exp": np.exp,
    "log": np.log,
    "reciprocal": np.reciprocal,
    "sqrt": np.sqrt,
    "sigmoid": special.expit,
    "silu": lambda x: x * special.expit(x),
    "log_logistic": lambda x: np.log(special.expit(x)) + np.log(special.expit(-x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [1, 4, 6])
def test_taylor_coefficients(name, order):
    """The error of the polynomial falls with the power of the shift that follows its order."""
    x = np.linspace(1.0, 4.0, 9)
    coefficients = np.array([np.broadcast_to(c, x.shape) for c in getattr(series, name)(tf.constant(x), order)])
    errors = []
    for shift in (0.05, 0.025):
        value = sum(c * shift**k for k, c in enumerate(coefficients))
        errors.append(np.abs(value - FUNCTIONS[name](x + shift)).max())
    # Halving the shift divides the error by 2**(order + 1), up to the next order and to rounding.
    assert errors[1] < max(errors[0] / 2 ** (order + 0.5), 1e-14)
    assert errors[0] < 60 * 0.05 ** (order + 1)  # exp(4) is the largest of the derivatives


def value_at(result: Series, shift: np.ndarray) -> np.ndarray:
    """The polynomial at a shift."""
    return sum(np.asarray(value) * np.prod(shift ** np.array(e)) for e, value in result.terms.items())


def test_arithmetic_in_two_variables():
    x, y = np.array([0.4, -0.3]), np.array([1.1, 0.7])

    def function(a, b, *, exp, reciprocal):
        return exp(a * b) * reciprocal(b * b + 1.0) - 2.0 * a + 0.5

    order = 4
    a, b = (Series.variable(tf.constant(value), index, 2, order) for index, value in enumerate((x, y)))
    result = function(a, b, exp=lambda s: s.compose(series.exp), reciprocal=lambda s: s.compose(series.reciprocal))
    assert set(result.terms) <= set(monomials(2, order))
    errors = []
    for size in (0.04, 0.02):
        shift = size * np.array([1.0, -0.6])
        exact = function(x + shift[0], y + shift[1], exp=np.exp, reciprocal=np.reciprocal)
        errors.append(np.abs(value_at(result, shift) - exact).max())
    assert errors[1] < errors[0] / 2 ** (order + 0.5)
    assert errors[0] < 1e-6


def test_products_of_monomials_are_complete():
    """(1 + a + b)**3 has the binomial coefficients, and nothing beyond the order."""
    one = Series({(0, 0): tf.constant(1.0), (1, 0): tf.constant(1.0), (0, 1): tf.constant(1.0)}, 2)
    cube = one * one * one
    assert {e: float(v) for e, v in cube.terms.items()} == {
        (0, 0): 1,
        (1, 0): 3,
        (0, 1): 3,
        (2, 0): 3,
        (1, 1): 6,
        (0, 2): 3,
    }


def test_number_and_order_of_monomials():
    assert monomials(2, 2) == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    assert len(monomials(20, 2)) == 231  # of which there is no time to try all 3^20
    assert len(monomials(3, 4)) == 35


def test_constants_and_splits():
    constant = Series({(0,): tf.constant([[1.0, 2.0, 3.0]])}, 3)
    assert float(constant.compose(series.exp).constant[0, 0]) == pytest.approx(np.e, rel=1e-6)
    first, rest = constant.split([1, 2])
    assert first.constant.numpy().tolist() == [[1.0]]
    assert rest.constant.numpy().tolist() == [[2.0, 3.0]]

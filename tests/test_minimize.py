"""Minuit with the derivatives of the likelihood, against closed forms."""

from __future__ import annotations

import zfit
import numpy as np
import pytest

from zfit_fnf import minimize
from zfit_fnf.minimize import Minuit, vertical_distance

N = 500


@pytest.fixture
def gaussian():
    """A normal density with both parameters free, and events with mean 0.3 and width 1; the mean has limits."""
    mean, width = zfit.Parameter("mean", 2.0, -5, 5), zfit.Parameter("width", 2.0, 0.01)
    x = np.random.default_rng(1).normal(size=N)
    space = zfit.Space("x", -100, 100)
    data = zfit.Data((x - x.mean()) / x.std() + 0.3, obs=space)
    return zfit.loss.UnbinnedNLL(zfit.pdf.Gauss(mean, width, obs=space), data), mean, width


@pytest.mark.parametrize("mode", [0, 1])
def test_minimum_and_errors(gaussian, mode):
    nll, mean, width = gaussian
    result = Minuit(tol=1e-6, mode=mode).minimize(nll)
    result.hesse()
    assert result.valid
    # Estimates to a thousandth of an error, which is what the tolerance means; derivatives are exact.
    for parameter, value, error in ((mean, 0.3, 1 / np.sqrt(N)), (width, 1.0, 1 / np.sqrt(2 * N))):
        assert result.params[parameter]["value"] == pytest.approx(value, abs=2e-3 * error)
        assert result.params[parameter]["hesse"]["error"] == pytest.approx(error, rel=1e-2 if mode == 0 else 1e-3)


def test_minos(gaussian):
    nll, mean, _ = gaussian
    errors, _ = Minuit().minimize(nll).errors([mean], method="minuit_minos")
    # n log(1 + t^2) / 2 rises by a half: t = sqrt(exp(1 / n) - 1)
    assert errors[mean]["upper"] == pytest.approx(np.sqrt(np.expm1(1 / N)), rel=1e-2)  # the precision of MINOS


def test_minimum_at_a_limit(gaussian):
    nll, mean, _ = gaussian
    mean.set_value(0.5)
    mean.lower = 0.4
    result = Minuit().minimize(nll)
    assert result.params[mean]["value"] == pytest.approx(0.4, abs=1e-3)


@pytest.fixture
def lenient(monkeypatch):
    """Makes Minuit end too early, in as many rounds as the test says; the starting points of all rounds."""
    starts, make = [], Minuit._make_minuit

    def of_rounds(n_rounds):
        def lenient_make(self, loss, params, init):
            minuit, options, evaluator = make(self, loss, params, init)
            minuit.tol = 1e12 if len(starts) < n_rounds else minuit.tol
            starts.append(np.array(minuit.values))
            return minuit, options, evaluator

        monkeypatch.setattr(Minuit, "_make_minuit", lenient_make)
        return starts

    return of_rounds


def test_goes_on_until_the_distance_is_small(gaussian, lenient):
    nll, mean, _ = gaussian
    starts = lenient(1)
    result = Minuit(tol=1e-6).minimize(nll)
    assert len(starts) > 1
    assert result.valid
    assert result.edm <= 1e-6
    assert result.params[mean]["value"] == pytest.approx(0.3, abs=1e-4)


def test_ends_as_not_valid_where_the_distance_stays_large(gaussian, lenient, monkeypatch):
    nll, *params = gaussian
    zfit.param.set_values(params, [0.5, 1.3])
    lenient(1)
    monkeypatch.setattr(minimize, "_ROUNDS", 1)
    result = Minuit().minimize(nll, params)
    assert not result.valid
    assert "EDM exceeds 0.001" in result.message
    # The EDM is that of the values in the result: its closed form, from the derivatives of both parameters.
    m, w = result.values
    slope = N * np.array([(m - 0.3) / w**2, 1 / w - (1 + (m - 0.3) ** 2) / w**3])
    mixed = -2 * (m - 0.3) / w**3
    hessian = N * np.array([[1 / w**2, mixed], [mixed, 3 * (1 + (m - 0.3) ** 2) / w**4 - 1 / w**2]])
    assert result.edm == pytest.approx(0.5 * slope @ np.linalg.solve(hessian, slope), rel=1e-6)


def test_vertical_distance():
    first, second = zfit.Parameter("first", 0.0, 0.0, 1.0), zfit.Parameter("second", 0.0, -1.0, 1.0)
    slope, matrix = np.array([3.0, 2.0]), np.array([[1.0, 0.5], [0.5, 4.0]])
    assert vertical_distance(slope, matrix, [first, second]) == 0.5  # of the second alone: the first is at its limit
    first.set_value(0.5)
    assert vertical_distance(slope, matrix, [first, second]) == pytest.approx(
        0.5 * slope @ np.linalg.solve(matrix, slope)
    )
    assert vertical_distance(slope, -matrix, [first, second]) == np.inf
    assert vertical_distance(np.array([np.nan, 0.0]), matrix, [first, second]) == np.inf

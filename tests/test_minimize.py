"""Minuit with the derivatives of the likelihood, against closed forms."""

from __future__ import annotations

import zfit
import numpy as np
import pytest

from zfit_fnf.minimize import Minuit

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


def test_goes_on_until_the_distance_is_small(gaussian, monkeypatch):
    """A first round that ends too early, with a tolerance that Minuit is given but not asked for."""
    nll, mean, _ = gaussian
    minimizer, rounds = Minuit(tol=1e-6), []
    make = Minuit._make_minuit

    def lenient(self, *args):
        minuit, options, evaluator = make(self, *args)
        minuit.tol = 1e4 if not rounds else minuit.tol
        rounds.append(float(mean.value()))
        return minuit, options, evaluator

    monkeypatch.setattr(Minuit, "_make_minuit", lenient)
    result = minimizer.minimize(nll)
    assert len(rounds) > 1
    assert result.params[mean]["value"] == pytest.approx(0.3, abs=1e-4)

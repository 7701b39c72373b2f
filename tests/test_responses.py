"""What PDFs, likelihoods and integrals need of a response is in its contract: one of one's own is like any other."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from analytic import GaussianFlow
from scipy import stats

from zfit_fnf import accelerate, nuisance
from zfit_fnf.densities.responses import ShapeResponse
from zfit_fnf.loss import UnbinnedNLL
from zfit_fnf.pdf import FNFPDF


class Tilt(ShapeResponse):
    """A log-ratio that is linear in the coordinate, ``exp(0.5 nu u) / Z(nu)``: of a Gaussian it moves the mean.

    Args:
        flow: A Gaussian in one observable.
        conditional: Whether the normalisation is given for each event, as a conditional density needs it.
    """

    def __init__(self, flow, *, conditional: bool = False):
        self.flow, self.nuisances, self.windows, self.conditional = flow, ("tilt",), {"tilt": (-1.0, 1.0)}, conditional

    def precompute(self, u, c, of_conditions=None):
        return u, self.flow.log_density_at(u, self.flow.precompute(c))

    def log_shape(self, nu, precomputed):
        u, nominal = precomputed
        return nominal + tf.cast(0.5 * nu[0], u.dtype) * u[:, 0]

    def log_norm(self, nu, precomputed):
        value = 0.5 * (0.5 * nu[0]) ** 2
        return value * tf.ones_like(tf.cast(precomputed[1], tf.float64)) if self.conditional else value

    def draw(self, c, nu, seed):
        return self.flow.draw(c, seed) + 0.5 * nu[0]


@pytest.fixture(params=[False, True], ids=["one norm", "norm by event"])
def tilt(request):
    return Tilt(GaussianFlow([2.0], [1.5], obs=["y"]), conditional=request.param)


TRUTH = stats.norm(2.0 + 1.5 * 0.5 * 0.8, 1.5)  # at tilt = 0.8


def test_density_and_samples(tilt):
    y = np.linspace(-3.0, 8.0, 30)
    pdf = FNFPDF(tilt, {"tilt": nuisance("tilt")})
    pdf.params["tilt"].set_value(0.8)
    np.testing.assert_allclose(pdf.log_pdf(y), TRUTH.logpdf(y), atol=1e-12)
    drawn = tilt.draw(tf.zeros((5000, 0), tf.float64), tf.constant([0.8], tf.float64), tf.constant([1, 2]))
    assert stats.kstest(tilt.flow.decode(drawn).numpy()[:, 0], TRUTH.cdf).pvalue > 1e-4


def test_integrals(tilt):
    """To the accuracy that is promised of them, 1e-4."""
    pdf = FNFPDF(tilt, {"tilt": nuisance("tilt")})
    pdf.params["tilt"].set_value(0.8)
    assert float(pdf.integrate((0.0, 3.0))[0]) == pytest.approx(TRUTH.cdf(3.0) - TRUTH.cdf(0.0), rel=1e-4)


def test_likelihoods(tilt):
    """Value and gradient, exact and accelerated, against the closed form with a constraint of unit width."""
    y = np.random.default_rng(0).normal(2.3, 1.5, size=3000)
    tilted = nuisance("tilt")
    nll = UnbinnedNLL(FNFPDF(tilt, {"tilt": tilted}), {"y": y})
    tilted.set_value(0.8)
    u = (y - 2.0) / 1.5
    for likelihood in (nll, accelerate(nll)):
        value, gradient = likelihood.value_gradient([tilted])
        tilted.set_value(0.0)
        change = float(value) - float(likelihood.value())
        tilted.set_value(0.8)
        expected = np.sum(stats.norm.logpdf(u) - stats.norm.logpdf(u, 0.4)) + 0.5 * 0.8**2
        assert change == pytest.approx(expected, abs=1e-6)
        assert float(gradient[0]) == pytest.approx(np.sum(0.5 * (0.4 - u)) + 0.8, abs=1e-6)

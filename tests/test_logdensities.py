"""Log-densities of PDFs of zfit: equal to zfit's where that has digits, and right where it has none."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from scipy.integrate import trapezoid

import zfit_fnf.loss
import zfit_fnf.pdf
from zfit_fnf.minimize import Minuit
from zfit_fnf.pdf.logdensities import log_density

SPACE = zfit.Space("y", 0.5, 9.0)
GRID = np.linspace(0.6, 8.9, 60)[:, None]

PDFS = {
    "Gauss": lambda: zfit.pdf.Gauss(3.0, 0.9, obs=SPACE),
    "Uniform": lambda: zfit.pdf.Uniform(0.5, 9.0, obs=SPACE),
    "TruncatedGauss": lambda: zfit.pdf.TruncatedGauss(3.0, 0.9, 0.5, 9.0, obs=SPACE),
    "Cauchy": lambda: zfit.pdf.Cauchy(3.0, 0.5, obs=SPACE),
    "Poisson": lambda: zfit.pdf.Poisson(4.0, obs=SPACE),
    "LogNormal": lambda: zfit.pdf.LogNormal(1.0, 0.4, obs=SPACE),
    "ChiSquared": lambda: zfit.pdf.ChiSquared(3.0, obs=SPACE),
    "StudentT": lambda: zfit.pdf.StudentT(4.0, 3.0, 0.5, obs=SPACE),
    "QGauss": lambda: zfit.pdf.QGauss(1.5, 3.0, 0.5, obs=SPACE),
    "BifurGauss": lambda: zfit.pdf.BifurGauss(3.0, 0.5, 1.5, obs=SPACE),
    "Gamma": lambda: zfit.pdf.Gamma(gamma=2.0, beta=1.5, mu=0.1, obs=SPACE),
    "JohnsonSU": lambda: zfit.pdf.JohnsonSU(3.0, 1.0, 0.5, 1.2, obs=SPACE),
    "GeneralizedGauss": lambda: zfit.pdf.GeneralizedGauss(3.0, 1.0, 1.5, obs=SPACE),
    "Exponential": lambda: zfit.pdf.Exponential(-0.7, obs=SPACE),
    "rising Exponential": lambda: zfit.pdf.Exponential(0.3, obs=SPACE),
    "flat Exponential": lambda: zfit.pdf.Exponential(1e-6, obs=SPACE),
    "Voigt": lambda: zfit.pdf.Voigt(3.0, 0.5, 0.4, obs=SPACE),
    "CrystalBall": lambda: zfit.pdf.CrystalBall(4.0, 0.9, 1.2, 3.0, obs=SPACE),
    "CrystalBall to the right": lambda: zfit.pdf.CrystalBall(4.0, 0.9, -1.2, 3.0, obs=SPACE),
    "DoubleCB": lambda: zfit.pdf.DoubleCB(4.0, 0.9, 1.2, 3.0, 0.8, 2.5, obs=SPACE),
    "GeneralizedCB": lambda: zfit.pdf.GeneralizedCB(
        mu=4.0, sigmal=0.5, alphal=1.2, nl=3.0, sigmar=0.9, alphar=0.8, nr=2.5, obs=SPACE
    ),
    "GaussExpTail": lambda: zfit.pdf.GaussExpTail(4.0, 0.9, 1.2, obs=SPACE),
    "GeneralizedGaussExpTail": lambda: zfit.pdf.GeneralizedGaussExpTail(4.0, 0.5, 1.2, 0.9, 0.8, obs=SPACE),
    "Chebyshev": lambda: zfit.pdf.Chebyshev(SPACE, [0.2, 0.1]),
    "Bernstein": lambda: zfit.pdf.Bernstein(SPACE, [0.2, 0.5, 0.1]),
    "SumPDF": lambda: zfit.pdf.SumPDF([PDFS["Gauss"](), PDFS["Exponential"]()], fracs=[0.3]),
    "extended SumPDF": lambda: zfit.pdf.SumPDF(
        [PDFS["Gauss"]().create_extended(30.0), PDFS["Exponential"]().create_extended(10.0)]
    ),
    "TruncatedPDF": lambda: zfit.pdf.TruncatedPDF(PDFS["Gauss"](), limits=zfit.Space("y", 0.5, 8.95)),
}


@pytest.mark.parametrize("name", PDFS)
def test_equals_zfit(name):
    pdf = PDFS[name]()
    # zfit's integrals: analytic, or for some numerical to a few times 1e-6.
    np.testing.assert_allclose(log_density(pdf, tf.constant(GRID)), np.log(pdf.pdf(GRID[:, 0])), atol=2e-5)


def test_narrower_norm_and_two_limits():
    narrow = zfit.pdf.Gauss(3.0, 0.9, obs=SPACE, norm=zfit.Space("y", 2.0, 4.0))
    x = np.linspace(2.1, 3.9, 5)[:, None]
    np.testing.assert_allclose(log_density(narrow, tf.constant(x)), np.log(narrow.pdf(x[:, 0])), rtol=1e-8)
    sides = [zfit.Space("y", 0.5, 2.0), zfit.Space("y", 5.0, 9.0)]
    blinded = zfit.pdf.TruncatedPDF(PDFS["Exponential"](), limits=sides, obs=SPACE)
    law = stats.truncexpon(b=0.7 * 8.5, loc=0.5, scale=1 / 0.7)
    kept = law.cdf(2.0) + law.sf(5.0)
    expected = [law.logpdf(1.0) - np.log(kept), -np.inf, law.logpdf(6.0) - np.log(kept)]
    np.testing.assert_allclose(
        log_density(blinded, tf.constant([[1.0], [3.0], [6.0]], tf.float64)), expected, rtol=1e-6
    )


def test_product():
    other = zfit.pdf.Exponential(-0.2, obs=zfit.Space("t", 0.0, 5.0))
    product = zfit.pdf.ProductPDF([PDFS["Gauss"](), other])
    points = np.random.default_rng(0).uniform(0.6, 4.9, size=(20, 2))
    expected = np.log(PDFS["Gauss"]().pdf(points[:, 0])) + np.log(other.pdf(points[:, 1]))
    np.testing.assert_allclose(log_density(product, tf.constant(points)), expected, rtol=1e-8)


WIDE = zfit.Space("y", -300.0, 300.0)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda mu: zfit.pdf.Gauss(mu, 1.0, obs=WIDE), stats.norm.logpdf),
        (lambda mu: zfit.pdf.CrystalBall(mu, 1.0, 1.0, 3.0, obs=WIDE), None),
        (lambda mu: zfit.pdf.SumPDF([zfit.pdf.Gauss(mu, 1.0, obs=WIDE)] * 2, fracs=[0.4]), stats.norm.logpdf),
        (lambda mu: zfit.pdf.TruncatedPDF(zfit.pdf.Gauss(mu, 1.0, obs=WIDE), limits=WIDE), stats.norm.logpdf),
        (lambda mu: zfit.pdf.BifurGauss(mu, 1.0, 1.0, obs=WIDE), stats.norm.logpdf),
    ],
)
def test_far_away_there_is_a_slope(make, expected):
    mu = zfit.Parameter("mu", 0.0, -400, 400)
    with tf.GradientTape() as tape:
        value = log_density(make(mu), tf.constant([[100.0]], tf.float64))
    assert float(tape.gradient(value, mu)) == pytest.approx(100.0, rel=1e-6)
    if expected:
        assert float(value[0]) == pytest.approx(expected(100.0), rel=1e-9)


def test_gauss_whose_mean_is_far_outside_of_its_range():
    mu = zfit.Parameter("mu", -60.0)
    pdf = zfit.pdf.Gauss(mu, 1.0, obs=zfit.Space("y", 0.0, 2.0))
    x = np.array([0.01, 0.05])
    expected = stats.norm.logpdf(x, -60.0) - stats.norm.logsf(0.0, -60.0)  # what is above 2 is exp(-122) of it
    np.testing.assert_allclose(log_density(pdf, tf.constant(x[:, None])), expected, rtol=1e-7)


@pytest.mark.parametrize("end", [np.inf, 1e12])
def test_ranges_without_end(end):
    """Values and derivatives are those of the whole line, and of the half of it, to full precision."""
    mu, sigma, slope = zfit.Parameter("mu", 2.0), zfit.Parameter("sigma", 0.3), zfit.Parameter("slope", -0.7)
    gauss = zfit.pdf.Gauss(mu, sigma, obs=zfit.Space("y", -end, end))
    falling = zfit.pdf.Exponential(slope, obs=zfit.Space("y", 1.0, end))
    x, params = tf.constant([[2.3]], tf.float64), [mu, sigma, slope]
    with tf.GradientTape(persistent=True) as tape:
        values = [log_density(pdf, x)[0] for pdf in (gauss, falling)]
    expected = [stats.norm.logpdf(2.3, 2.0, 0.3), stats.expon.logpdf(2.3, 1.0, 1 / 0.7)]
    np.testing.assert_allclose([float(one) for one in values], expected, rtol=1e-12)
    none = tf.UnconnectedGradients.ZERO
    slopes = [[float(one) for one in tape.gradient(value, params, unconnected_gradients=none)] for value in values]
    # One width from the mean; a mean of 1 + 1 / 0.7, where the event is at 2.3.
    np.testing.assert_allclose(slopes, [[1 / 0.3, 0.0, 0.0], [0.0, 0.0, 2.3 - 1.0 - 1 / 0.7]], atol=1e-9)


@pytest.mark.parametrize("slope", [-30.0, -0.5, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.5, 30.0])
def test_the_integral_of_any_exponential(slope):
    """With its derivative, the mean of a truncated exponential density."""
    parameter = zfit.Parameter("slope", slope)
    with tf.GradientTape() as tape:
        value = log_density(
            zfit.pdf.Exponential(parameter, obs=zfit.Space("y", 1.0, 3.0)), tf.constant([[2.0]], tf.float64)
        )
    x = np.linspace(1.0, 3.0, 20_001)
    density = np.exp(slope * (x - 2.0))
    assert float(value[0]) == pytest.approx(-np.log(trapezoid(density, x)), abs=1e-6)
    mean = trapezoid(x * density, x) / trapezoid(density, x)
    assert float(tape.gradient(value, parameter)) == pytest.approx(2.0 - mean, abs=1e-6)


def test_nothing_is_drawn_by_rejection_in_a_range_without_end():
    endless = zfit.Space("y", 0.0, 1e12)
    falling = zfit.pdf.Exponential(-1.0, obs=endless, name="falling")
    with pytest.raises(
        ValueError, match=r"'falling' is drawn by trying values in the range of \['y'\], which has no end"
    ):
        zfit_fnf.loss.drawn_events(falling, falling, 10, np.array([1, 2], np.int32))
    peak = zfit.pdf.Gauss(2.0, 0.3, obs=endless)
    drawn = zfit_fnf.loss.drawn_events(peak, peak, 10_000, np.array([1, 2], np.int32))
    assert drawn.mean() == pytest.approx(2.0, abs=0.015)  # five errors


class Bump(zfit.pdf.ZPDF):
    _PARAMS = ("mu",)

    @zfit.supports()
    def _unnormalized_pdf(self, x, params):
        return tf.exp(-0.5 * tf.square(x[0] - params["mu"]))


def test_what_has_no_density_is_no_valid_fit():
    mu = zfit.Parameter("mu", 0.0, -150, 150)
    bump = Bump(mu=mu, obs=zfit.Space("y", -200, 200))
    assert float(log_density(bump, tf.constant([[100.0]], tf.float64))[0]) == -np.inf
    falling = zfit.pdf.Chebyshev(SPACE, [-3.0])
    assert np.isnan(log_density(falling, tf.constant([[8.5]], tf.float64))[0])
    nll = zfit_fnf.loss.UnbinnedNLL(bump, {"y": np.random.default_rng(0).normal(100.0, 1.0, 50)})
    with pytest.raises(ValueError, match=r"negative log-likelihood is (inf|nan) where the fit starts"):
        Minuit().minimize(nll)


def test_a_component_that_vanishes_leaves_the_others_their_derivatives():
    mu, shift = zfit.Parameter("mu", 0.0), zfit.Parameter("shift", 0.0)
    space = zfit.Space("y", -200, 200)
    total = zfit_fnf.pdf.SumPDF([Bump(mu=mu, obs=space), zfit.pdf.Gauss(shift, 1.0, obs=space)], fracs=[0.5])
    with tf.GradientTape() as tape:
        value = total.log_pdf([99.0])
    np.testing.assert_allclose(tape.gradient(value, [mu, shift]), [0.0, 99.0], rtol=1e-9)


def test_fits_that_start_far_away_arrive():
    mu = zfit.Parameter("mu", 0.0, -150, 150)
    x = np.random.default_rng(0).normal(50.0, 1.0, 200)
    nll = zfit_fnf.loss.UnbinnedNLL(zfit.pdf.Gauss(mu, 1.0, obs=zfit.Space("y", -200, 200)), {"y": x})
    result = Minuit().minimize(nll)
    assert result.valid
    assert result.params[mu]["value"] == pytest.approx(
        x.mean(), abs=0.07 * 0.05
    )  # MIGRAD stops within 5 % of the error

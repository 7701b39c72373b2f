"""Sums and products of PDFs, ours and zfit's, against Gaussians known in closed form."""

from __future__ import annotations

import zfit
import analytic
import numpy as np
import pytest
import tensorflow as tf
from analytic import (
    GRID,
    GaussianFlow,
    one_dimensional,
    shifted,
    space,
    truth,
)
from scipy import stats

from zfit_fnf.loss import ExtendedUnbinnedNLL
from zfit_fnf.pdf import (
    FNFPDF,
    ConditionalProductPDF,
    FlowPDF,
    SumPDF,
    expected_events,
    log_density,
    precompute,
    sum_shares,
)
from zfit_fnf.pdf.regions import TOLERANCE
from zfit_fnf.yields import modified_yield, normsys

nuisances, conditional = analytic.nuisances, analytic.conditional  # fixtures


@pytest.mark.parametrize("make", [SumPDF, zfit.pdf.SumPDF])
def test_yields_of_densities_in_sidebands(make):
    """TruncatedPDF of zfit takes its yield from the whole range, as a vector with one number."""
    whole, sides = zfit.Space("x", 0, 10), [zfit.Space("x", 0, 3), zfit.Space("x", 6, 10)]
    numbers = [zfit.Parameter(name, 700.0, 0, 1e5, stepsize=1.0) for name in ("n_flat", "n_peak")]
    flat = zfit.pdf.Uniform(0, 10, obs=whole, extended=numbers[0])
    peak = zfit.pdf.Gauss(7.0, 1.0, obs=whole, extended=numbers[1])
    parts = [zfit.pdf.TruncatedPDF(pdf, limits=sides, obs=whole) for pdf in (flat, peak)]
    x = np.r_[np.linspace(0.1, 2.9, 500), np.linspace(6.1, 9.0, 700)]
    nll = ExtendedUnbinnedNLL(make(parts), {"x": x})
    gauss, inside = stats.norm(7.0, 1.0), np.array([[0.0, 3.0], [6.0, 10.0]])
    shares = np.array([0.7, np.diff(gauss.cdf(inside)).sum() / np.diff(gauss.cdf([0, 10])).item()])
    densities = np.stack([np.full(len(x), 0.1), gauss.pdf(x) / np.diff(gauss.cdf([0, 10]))])
    for n in ([700.0, 700.0], [400.0, 900.0]):
        with zfit.param.set_values(numbers, n):
            assert float(nll.value()) == pytest.approx(shares @ n - np.log(n @ densities).sum(), rel=1e-9)
            np.testing.assert_allclose(sum_shares(nll.model[0]) * expected_events(nll.model[0]), shares * n)


def test_product_is_the_joint_density(conditional):
    joint = ConditionalProductPDF([FlowPDF(flow) for flow in conditional], extended=100.0)
    assert joint.obs == ("y1", "y2", "x")
    # In closed form: u = 1.5 x + noise for both observables.
    scale = np.array([0.5, 2.0])
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = np.outer(scale, scale) * (1.5**2 * 0.64 + np.eye(2))
    covariance[:2, 2] = covariance[2, :2] = scale * 1.5 * 0.64
    covariance[2, 2] = 0.64
    exact = stats.multivariate_normal([1 + 0.5 * 0.45, -2 + 2 * 0.45, 0.3], covariance)
    points = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(joint.log_pdf(points), exact.logpdf(points), rtol=1e-10)
    reordered = ConditionalProductPDF(joint.pdfs[::-1], obs=["x", "y2", "y1"])
    np.testing.assert_allclose(reordered.log_pdf(points[:, ::-1]), exact.logpdf(points), rtol=1e-10)
    assert np.array(joint.integrate(joint.space)) == [1.0]
    zfit.settings.set_seed(2)
    for pdf, order in ((joint, [0, 1, 2]), (reordered, [2, 1, 0])):
        sample = pdf.sample(20_000).value().numpy()[:, order]
        # Five standard errors: sigma / sqrt(n), and variances with relative error sqrt(2 / n).
        np.testing.assert_allclose(sample.mean(axis=0), exact.mean, atol=5 * 3.2 / np.sqrt(20_000))
        np.testing.assert_allclose(np.cov(sample.T), covariance, atol=5 * 10 * np.sqrt(2 / 20_000))


def test_product_takes_three_factors_and_pdfs_of_zfit():
    chain = [
        FlowPDF(GaussianFlow([0.0], [1.0], obs=["a"], cond=["b", "c"], slope=[1.0, -1.0])),
        FlowPDF(GaussianFlow([0.0], [1.0], obs=["b"], cond=["c"], slope=[2.0])),
        zfit.pdf.Gauss(0.0, 1.0, obs=space(-20, 20, "c")),
    ]
    joint = ConditionalProductPDF(chain)
    a, b, c = point = (0.3, -0.2, 0.9)
    expected = stats.norm(b - c).logpdf(a) + stats.norm(2 * c).logpdf(b) + stats.norm.logpdf(c)
    np.testing.assert_allclose(joint.log_pdf([point]), [expected], rtol=1e-8)
    sample = joint.sample(5000).value().numpy()
    np.testing.assert_allclose(np.corrcoef(sample[:, 1], sample[:, 2])[0, 1], 2 / np.sqrt(5), atol=0.015)


def test_product_refuses_factors_that_do_not_chain(conditional):
    y_given_x, x = (FlowPDF(flow) for flow in conditional)
    x_given_y = FlowPDF(GaussianFlow([0.0], [1.0], obs=["x"], cond=["y1"], slope=[1.0]))
    with pytest.raises(ValueError, match=r"describes \['x'\], on which 'FlowPDF' is conditional"):
        ConditionalProductPDF([y_given_x])
    with pytest.raises(ValueError, match=r"in a circle: p\(y1, y2 \| x\), p\(x \| y1\)"):
        ConditionalProductPDF([y_given_x, x_given_y])
    with pytest.raises(ValueError, match=r"\['x'\] are described by more than one"):
        ConditionalProductPDF([y_given_x, x, x])
    with pytest.raises(ValueError, match=r"\['FlowPDF_ext'\].* are extended"):
        ConditionalProductPDF([y_given_x, x.create_extended(10.0)])


# --- sums -------------------------------------------------------------------------------------------------------------


def test_sum_of_extended_components(nuisances):
    calls = []
    n_bkg = zfit.Parameter("n_bkg", 70.0)
    counted = zfit.ComposedParameter("counted", lambda n: calls.append(1) or 1.0 * n, params=[n_bkg])
    deformation = one_dimensional(mean=1.0)
    n_sig = modified_yield(30.0, [normsys(nuisances["jes"], up=1.2)])
    model = SumPDF([FNFPDF(deformation, nuisances, extended=n_sig, name="sig"), shifted(-1.0, extended=counted)])
    precomputed = precompute(model, tf.constant(GRID[:, None]))
    calls.clear()
    values = np.exp(log_density(model, precomputed))
    assert len(calls) == 1
    np.testing.assert_allclose(model.pdf(GRID), values, rtol=1e-12)
    np.testing.assert_allclose(n_sig.value(), 30 * 1.1345, rtol=0.01)  # the code 4 polynomial is near the exponential
    signal = float(n_sig.value())
    expected = (signal * truth(deformation).pdf(GRID) + 70 * stats.norm(-1).pdf(GRID)) / (signal + 70)
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert float(model.get_yield().value()) == pytest.approx(signal + 70)
    assert model.get_params() == {*nuisances.values(), n_bkg}
    part = model.integrate((-1.0, 0.0))[0]
    exact = (signal * np.diff(truth(deformation).cdf([-1, 0])) + 70 * np.diff(stats.norm(-1).cdf([-1, 0]))) / (
        signal + 70
    )
    np.testing.assert_allclose(part, exact[0], rtol=TOLERANCE)


def test_sum_is_finite_at_yield_zero():
    mu = zfit.Parameter("mu", 0.0, -1, 5)
    model = SumPDF([shifted(3.0, extended=mu), shifted(0.0, extended=zfit.Parameter("b", 10.0))])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model.log_pdf([0.0, 3.0, 60.0]))
    np.testing.assert_allclose(value, stats.norm.logpdf([0.0, 3.0, 60.0]).sum(), rtol=1e-12)
    # d log(mixture) / d mu = (p_sig / p_bkg - 1) / 10; at 60 the ratio is exp(175.5).
    ratio = np.exp(stats.norm.logpdf([0.0, 3.0, 60.0], 3.0) - stats.norm.logpdf([0.0, 3.0, 60.0]))
    np.testing.assert_allclose(tape.gradient(value, mu), np.sum(ratio - 1) / 10, rtol=1e-10)


@pytest.mark.parametrize("complete", [False, True])
def test_sum_with_fractions(complete):
    f = zfit.Parameter("f", 0.2, 0, 1)
    rest = zfit.ComposedParameter("rest", lambda f: 1.0 - f, params=[f])
    model = SumPDF([shifted(1.0), shifted(-1.0)], fracs=[f, rest] if complete else f)
    expected = np.log(0.2 * stats.norm(1).pdf(GRID) + 0.8 * stats.norm(-1).pdf(GRID))
    np.testing.assert_allclose(model.log_pdf(GRID), expected, rtol=1e-10)
    assert not model.is_extended
    zfit.settings.set_seed(3)
    sample = model.sample(5000).value()[:, 0].numpy()
    mixture = stats.kstest(sample, lambda y: 0.2 * stats.norm(1).cdf(y) + 0.8 * stats.norm(-1).cdf(y))
    assert mixture.pvalue > 1e-4
    assert model.create_extended(50.0).is_extended
    assert float(SumPDF([shifted(1.0), shifted(-1.0)], fracs=[f], extended=7.0).get_yield().value()) == 7.0


@pytest.mark.parametrize("conditional_sum", [False, True])
def test_sum_with_a_negative_share_is_drawn_as_it_is(conditional_sum):
    """F p_1 + (1 - f) p_2 with a negative f, positive everywhere."""
    cond, slope = (["x"], [1.0]) if conditional_sum else ([], [])
    narrow, broad = (GaussianFlow([0.0], [s], obs=["y"], cond=cond, slope=slope) for s in (0.5, 1.0))
    model = SumPDF([FlowPDF(narrow), FlowPDF(broad)], fracs=[-0.5, 1.5])
    if conditional_sum:
        model = ConditionalProductPDF([model, FlowPDF(GaussianFlow([0.0], [1e-9], obs=["x"]))])
    zfit.settings.set_seed(1)
    sample = model.sample(20_000).value()[:, 0].numpy()
    law = stats.kstest(sample, lambda y: 1.5 * stats.norm.cdf(y) - 0.5 * stats.norm.cdf(y, scale=0.5))
    assert law.pvalue > 1e-4


def test_negative_densities_are_not_drawn():
    deep = SumPDF([shifted(0.0), shifted(0.5)], fracs=[-3.0, 4.0])
    with pytest.raises(ValueError, match=r"^the density of 'SumPDF' is negative where its events are"):
        deep.sample(1000)
    nothing = SumPDF([shifted(0.0, extended=zfit.Parameter("a", -5.0)), shifted(0.5, extended=3.0)])
    with pytest.raises(ValueError, match=r"^'SumPDF' expects -2 events"):
        nothing.sample()
    with pytest.raises(ValueError, match="have no positive sum"):
        nothing.sample(10)
    for n in (-1, 2.5):
        with pytest.raises(ValueError, match="an integer that is not negative; got"):
            shifted(0.0).sample(n)


@pytest.mark.parametrize("expected", [-1.0, np.nan, np.inf, -3])
def test_yields_that_are_no_numbers_of_events(expected):
    with pytest.raises(ValueError, match="the yield extended= of 'FlowPDF'"):
        shifted(0.0, extended=expected)


def test_a_yield_of_which_nothing_is_said_is_not_one_event():
    with pytest.raises(ValueError, match="extended=True of 'FlowPDF' says no number of events"):
        shifted(0.0, extended=True)
    with pytest.raises(ValueError, match="extended=True of 'SumPDF' says no number of events"):
        SumPDF([shifted(0.0), shifted(1.0)], fracs=[0.5], extended=True)
    assert (
        float(SumPDF([shifted(0.0, extended=2.0), shifted(1.0, extended=3.0)], extended=True).get_yield().value())
        == 5.0
    )


@pytest.mark.parametrize("fracs", [[0.7, 0.6], [np.nan], [np.inf], [0.0, 0.0, 0.0], [0.5, -0.2, -0.3], [1.2]])
def test_fractions_that_leave_nothing(fracs):
    pdfs = [shifted(float(m)) for m in range(3 if len(fracs) > 1 else 2)]
    with pytest.raises(ValueError, match="fracs of 'SumPDF'"):
        SumPDF(pdfs, fracs=fracs)


def test_a_negative_total_density_is_no_number():
    model = SumPDF([shifted(0.0), shifted(0.5)], fracs=[-3.0, 4.0])
    assert np.isnan(model.log_pdf([-2.0])[0])


def test_sum_with_pdfs_of_zfit():
    obs = space(-8, 8)
    mu, lam = zfit.Parameter("mu", 0.5), zfit.Parameter("lam", -0.3)
    parts = [
        shifted(1.0, obs=obs, extended=10.0),
        zfit.pdf.Gauss(mu, 2.0, obs=obs, extended=20.0),
        zfit.pdf.Exponential(lam, obs=obs, extended=30.0),
        zfit.pdf.CrystalBall(0.0, 1.0, 1.5, 3.0, obs=obs, extended=40.0),
    ]
    ours, theirs = SumPDF(parts), zfit.pdf.SumPDF(parts)
    grid = np.linspace(-7.9, 7.9, 40)
    np.testing.assert_allclose(ours.pdf(grid), theirs.pdf(grid), rtol=1e-8)
    assert float(ours.get_yield().value()) == 100.0
    assert abs(len(ours.sample().value()) - 100) < 50
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(ours.log_pdf(grid))
    assert np.all(np.isfinite(tape.gradient(value, [mu, lam])))


def test_sum_with_an_underflowing_pdf_of_zfit_has_derivatives():
    obs, mu = space(-1e4, 1e4), zfit.Parameter("mu", 0.0)
    model = SumPDF([shifted(1000.0, obs=obs), zfit.pdf.Gauss(mu, 1.0, obs=obs)], fracs=[0.5])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model.log_pdf([1000.0, 0.3]))
    np.testing.assert_allclose(tape.gradient(value, mu), 0.3, rtol=1e-8)


def test_sum_of_conditional_densities_inside_a_product(conditional):
    flow, x = conditional
    other = GaussianFlow([-1.0, 0.0], [1.0, 1.0], obs=["y1", "y2"], cond=["x"], slope=[-1.0])
    mixture = SumPDF([FlowPDF(flow), FlowPDF(other, obs=["x", "y1", "y2"])], fracs=[0.3])
    assert mixture.cond == ("x",)
    joint = ConditionalProductPDF([mixture, FlowPDF(x)])
    y1, y2, context = point = (0.4, -0.5, 0.2)
    first = stats.norm(1 + 0.75 * context, 0.5).pdf(y1) * stats.norm(-2 + 3 * context, 2).pdf(y2)
    second = stats.norm(-1 - context).pdf(y1) * stats.norm(-context).pdf(y2)
    expected = np.log(0.3 * first + 0.7 * second) + stats.norm(0.3, 0.8).logpdf(context)
    np.testing.assert_allclose(joint.log_pdf([point]), [expected], rtol=1e-10)
    zfit.settings.set_seed(4)
    sample = joint.sample(20_000).value().numpy()
    mean = 0.3 * (1 + 0.75 * 0.3) + 0.7 * (-1 - 0.3)
    np.testing.assert_allclose(sample[:, 0].mean(), mean, atol=5 * 1.7 / np.sqrt(20_000))
    # Events and their conditions stay together: covariance of y1 and x is (0.3 * 0.75 - 0.7 * 1) * 0.64.
    np.testing.assert_allclose(np.cov(sample[:, [0, 2]].T)[0, 1], -0.475 * 0.64, atol=5 * 1.5 / np.sqrt(20_000))


def test_sum_refuses_components_that_do_not_fit(conditional):
    plain, extended = shifted(0.0, name="plain"), shifted(0.0, extended=5.0, name="extended")
    with pytest.raises(ValueError, match="at least two"):
        SumPDF([plain], fracs=[1.0])
    with pytest.raises(ValueError, match=r"\['plain'\] are not extended"):
        SumPDF([plain, extended])
    with pytest.raises(ValueError, match=r"components \['extended'\] are extended"):
        SumPDF([plain, extended], fracs=[0.5])
    with pytest.raises(ValueError, match="2 components and 3 fracs"):
        SumPDF([plain, plain], fracs=[0.5, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"'plain' describes p\(y\), 'FlowPDF' describes p\(y1, y2 \| x\)"):
        SumPDF([plain, FlowPDF(conditional[0])], fracs=[0.5])
    with pytest.raises(ValueError, match="normalised over different ranges"):
        SumPDF([plain, zfit.pdf.Gauss(0.0, 1.0, obs=space(-5, 5))], fracs=[0.5])
    with pytest.raises(ValueError, match="gets its yield from its components"):
        SumPDF([extended, extended.copy()], extended=100.0)
    with pytest.raises(ValueError, match="restrict each of them"):
        SumPDF([plain, plain], fracs=[0.5], obs=space(-1, 1))
    with pytest.raises(TypeError, match="expected PDFs"):
        SumPDF([plain, 3.0], fracs=[0.5])


def test_copies_of_sums():
    model = SumPDF([shifted(1.0, extended=3.0), shifted(0.0, extended=5.0)], name="model")
    copy = model.copy(name="copy")
    assert float(copy.get_yield().value()) == 8.0
    np.testing.assert_array_equal(copy.log_pdf(GRID), model.log_pdf(GRID))
    shares = SumPDF(model.pdfs, extended=False)
    assert not shares.is_extended
    np.testing.assert_array_equal(shares.log_pdf(GRID), model.log_pdf(GRID))


# --- inside functors of zfit ------------------------------------------------------------------------------------------


def test_inside_sums_and_products_of_zfit(nuisances):
    obs = space(-30, 30)
    ours = FNFPDF(one_dimensional(), nuisances, obs=obs)
    gauss, crystal_ball = zfit.pdf.Gauss(1.0, 1.0, obs=obs), zfit.pdf.CrystalBall(0.0, 1.0, 1.5, 3.0, obs=obs)
    total = zfit.pdf.SumPDF([ours, gauss, crystal_ball], fracs=[0.3, 0.3])
    expected = 0.3 * ours.pdf(GRID) + 0.3 * gauss.pdf(GRID) + 0.4 * crystal_ball.pdf(GRID)
    np.testing.assert_allclose(total.pdf(GRID), expected, rtol=1e-10)
    assert len(total.sample(100).value()) == 100

    lam = zfit.Parameter("lam", -0.5)
    product = zfit.pdf.ProductPDF([ours, zfit.pdf.Exponential(lam, obs=space(0, 5, "t"))])
    points = np.stack([GRID, np.linspace(0.1, 4.9, len(GRID))], axis=1)
    decay = stats.truncexpon(b=2.5, scale=2.0).pdf(points[:, 1])
    np.testing.assert_allclose(product.pdf(points), ours.pdf(GRID) * decay, rtol=1e-6)

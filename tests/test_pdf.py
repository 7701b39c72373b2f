"""Learned densities as PDFs of zfit, against Gaussians known in closed form."""

from __future__ import annotations

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from analytic import GaussianDeformation, GaussianFlow, one_dimensional
from scipy import stats

from zfit_fnf.densities.deformation import Deformation
from zfit_fnf.densities.flows import Flow
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import (
    FNFPDF,
    UNBOUNDED,
    ConditionalProductPDF,
    FlowPDF,
    SumPDF,
    log_density,
    precompute,
)
from zfit_fnf.pdf.regions import TOLERANCE
from zfit_fnf.yields import modified_yield, normsys

POINT = (0.7, -1.1)
GRID = np.linspace(-4.0, 5.0, 50)


@pytest.fixture
def nuisances():
    """The nuisances "jes" and "jer", away from zero."""
    made = {name: nuisance(name) for name in ("jes", "jer")}
    for nu, value in zip(made.values(), POINT, strict=True):
        nu.set_value(value)
    return made


@pytest.fixture
def conditional():
    """p(y1, y2 | x) and p(x), both Gaussian."""
    flow = GaussianFlow([1.0, -2.0], [0.5, 2.0], obs=["y1", "y2"], cond=["x"], slope=[1.5])
    return flow, GaussianFlow([0.3], [0.8], obs=["x"])


def shifted(mean: float, **kwargs) -> FlowPDF:
    return FlowPDF(GaussianFlow([mean], [1.0], obs=["y"]), **kwargs)


def space(low: float, high: float, name: str = "y") -> zfit.Space:
    return zfit.Space(name, low, high)


def truth(deformation: GaussianDeformation, point=POINT):
    mean, sigma = deformation.moments(point)
    return stats.norm(mean, sigma)


# --- one density ------------------------------------------------------------------------------------------------------


def test_fnf_density_is_exact_and_follows_its_parameters(nuisances):
    deformation = one_dimensional(mean=2.0, sigma=1.5)
    pdf = FNFPDF(deformation, nuisances)
    np.testing.assert_allclose(pdf.log_pdf(GRID), truth(deformation).logpdf(GRID), rtol=1e-10)
    np.testing.assert_allclose(pdf.pdf(GRID), truth(deformation).pdf(GRID), rtol=1e-10)
    nuisances["jes"].set_value(-0.4)
    np.testing.assert_allclose(pdf.log_pdf(GRID), truth(deformation, (-0.4, POINT[1])).logpdf(GRID), rtol=1e-10)
    assert pdf.obs == ("y",)
    assert pdf.get_params() == set(nuisances.values())


def test_log_density_does_not_underflow():
    assert float(shifted(0.0).log_pdf([100.0])[0]) == pytest.approx(stats.norm.logpdf(100.0), rel=1e-12)


def test_outside_of_the_range_there_is_nothing(nuisances):
    bounded = FlowPDF(Flow(["y"], ranges={"y": (0.0, 10.0)}, seed=1))
    narrow = FNFPDF(one_dimensional(), nuisances, obs=space(-0.5, 1.5))
    total = SumPDF([narrow, zfit.pdf.Gauss(0.0, 1.0, obs=space(-0.5, 1.5))], fracs=[0.5])
    for pdf, (low, high) in ((bounded, (0.0, 10.0)), (narrow, (-0.5, 1.5)), (total, (-0.5, 1.5))):
        points = [low - 0.1, high + 0.1, 0.5 * (low + high)]
        np.testing.assert_array_equal(np.isneginf(pdf.log_pdf(points)), [True, True, False])
        np.testing.assert_array_equal(pdf.pdf(points) == 0.0, [True, True, False])


def test_nuisances_are_bound_by_name(nuisances):
    deformation = one_dimensional()
    reordered = dict(reversed(nuisances.items()))
    np.testing.assert_allclose(
        FNFPDF(deformation, reordered).log_pdf(GRID), truth(deformation).logpdf(GRID), rtol=1e-10
    )


def test_nuisances_that_are_missing_or_unknown_are_named(nuisances):
    with pytest.raises(ValueError, match=r"lacks a parameter for \['jer'\].*\['jes', 'jer'\]"):
        FNFPDF(one_dimensional(), {"jes": nuisances["jes"]})
    with pytest.raises(ValueError, match=r"names \['lumi'\]"):
        FNFPDF(one_dimensional(), {**nuisances, "lumi": nuisance("lumi")})


def test_observables_are_bound_by_name(conditional):
    flow, _ = conditional
    table = pd.DataFrame({"x": [0.5, -1.0], "y2": [0.0, 3.0], "y1": [1.0, 2.0]})
    expected = stats.norm(1 + 0.5 * 1.5 * table.x, 0.5).logpdf(table.y1)
    expected += stats.norm(-2 + 2 * 1.5 * table.x, 2.0).logpdf(table.y2)
    for obs in (
        None,
        ["x", "y2", "y1"],
        zfit.Space(["y2", "x", "y1"], lower=[-50] * 3, upper=[50] * 3).with_limits(None),
    ):
        pdf = FlowPDF(flow, obs=obs)
        data = zfit.Data.from_pandas(table, obs=list(pdf.obs), name="table")
        np.testing.assert_allclose(pdf.log_pdf(data), expected, rtol=1e-12)
    assert FlowPDF(flow, obs=["x", "y2", "y1"]).obs == ("x", "y2", "y1")


def test_wrong_observables_and_wider_ranges_are_refused():
    with pytest.raises(ValueError, match=r"names \['z'\]; expected \['y'\]"):
        shifted(0.0, obs="z")
    bounded = Flow(["m"], ranges={"m": (0.0, 10.0)})
    with pytest.raises(ValueError, match=r"range \(-1, 5\) for 'm', but the density exists in \(0, 10\) only"):
        FlowPDF(bounded, obs=space(-1, 5, "m"))
    assert FlowPDF(bounded, obs=space(0, 10, "m")).ranges == {"m": (0.0, 10.0)}
    infinite = shifted(0.0, obs=space(-np.inf, np.inf))
    assert infinite.space == shifted(0.0).space
    assert shifted(0.0).ranges == {"y": (-UNBOUNDED, UNBOUNDED)}


def test_integral_over_the_full_range_is_one(nuisances):
    pdf = FNFPDF(one_dimensional(), nuisances)
    assert np.array(pdf.integrate(pdf.space)) == [1.0]
    assert np.array(pdf.normalization(pdf.space)) == [1.0]


def test_integral_over_a_part_and_its_derivative(nuisances):
    deformation = one_dimensional()
    pdf = FNFPDF(deformation, nuisances)

    def exact(jes):
        return np.diff(truth(deformation, (jes, POINT[1])).cdf([-0.5, 1.5])).item()

    with tf.GradientTape() as tape:
        integral = pdf.integrate((-0.5, 1.5))[0]
    slope = tape.gradient(integral, nuisances["jes"])
    tolerance = TOLERANCE
    np.testing.assert_allclose(integral, exact(POINT[0]), atol=tolerance)
    np.testing.assert_allclose(slope, (exact(POINT[0] + 1e-4) - exact(POINT[0] - 1e-4)) / 2e-4, atol=2 * tolerance)
    halves = pdf.integrate((-0.5, 0.5))[0] + pdf.integrate((0.5, 1.5))[0]
    np.testing.assert_allclose(halves, integral, rtol=2 * TOLERANCE)


@pytest.mark.parametrize("argument", ["obs", "norm"])
def test_a_narrower_range_is_normalised_and_sampled(nuisances, argument):
    deformation = one_dimensional()
    narrow = space(-0.5, 1.5)
    pdf = FNFPDF(deformation, nuisances, **{argument: narrow})
    inside = np.linspace(-0.49, 1.49, 30)
    expected = truth(deformation).logpdf(inside) - np.log(np.diff(truth(deformation).cdf([-0.5, 1.5])))
    np.testing.assert_allclose(pdf.log_pdf(inside), expected, atol=TOLERANCE)
    values = pdf.sample(2000, limits=narrow).value()[:, 0].numpy()
    assert len(values) == 2000
    assert values.min() >= -0.5
    assert values.max() <= 1.5
    cut = stats.truncnorm(*(np.array([-0.5, 1.5]) - truth(deformation).mean()) / truth(deformation).std())
    standard = (values - truth(deformation).mean()) / truth(deformation).std()
    assert stats.kstest(standard, cut.cdf).pvalue > 1e-4


def test_sampling_where_there_is_nothing_ends():
    with pytest.raises(ValueError, match="hardly any event"):
        shifted(0.0).sample(10, limits=space(1000.0, 1001.0))


def test_samples_follow_the_density_and_the_seed(nuisances):
    deformation = one_dimensional(mean=2.0, sigma=1.5)
    pdf = FNFPDF(deformation, nuisances, extended=1000.0)
    zfit.settings.set_seed(5)
    first = pdf.sample(3000).value()[:, 0].numpy()
    second = pdf.sample(3000).value()[:, 0].numpy()
    zfit.settings.set_seed(5)
    again = pdf.sample(3000).value()[:, 0].numpy()
    assert stats.kstest(first, truth(deformation).cdf).pvalue > 1e-4
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == second)
    assert abs(len(pdf.sample().value()) - 1000) < 5 * np.sqrt(1000)


def test_sampler_keeps_its_parameters_and_resamples(nuisances):
    deformation = one_dimensional()
    pdf = FNFPDF(deformation, nuisances)
    sampler = pdf.create_sampler(2000)
    first = sampler.value().numpy()
    nuisances["jes"].set_value(-4.0)
    sampler.resample()
    assert not np.any(first == sampler.value().numpy())
    assert stats.kstest(sampler.value()[:, 0].numpy(), truth(deformation).cdf).pvalue > 1e-4


def test_copies_keep_everything(nuisances):
    pdf = FNFPDF(one_dimensional(), nuisances, obs=space(-3, 3), extended=10.0, name="sig", label="signal")
    copy = pdf.copy(name="other")
    assert (copy.name, copy.label, copy.space) == ("other", "signal", pdf.space)
    assert copy.get_yield() is pdf.get_yield()
    np.testing.assert_array_equal(copy.log_pdf([0.5]), pdf.log_pdf([0.5]))
    extended = FNFPDF(one_dimensional(), nuisances, obs=space(-3, 3)).create_extended(12.0)
    assert float(extended.get_yield().value()) == 12.0
    assert extended.space == pdf.space


def test_truncated_by_zfit():
    pdf = shifted(0.0, obs=space(-5, 5)).to_truncated(limits=space(0, 5))
    np.testing.assert_allclose(pdf.pdf([1.0]), stats.halfnorm.pdf([1.0]), rtol=TOLERANCE)


# --- conditional densities --------------------------------------------------------------------------------------------


def test_conditional_density_refuses_what_it_cannot_know(conditional):
    pdf = FlowPDF(conditional[0])
    for forbidden in (lambda: pdf.integrate(pdf.space), lambda: pdf.sample(10)):
        with pytest.raises(ValueError, match=r"conditional on \['x'\].*ConditionalProductPDF"):
            forbidden()
    narrow = zfit.Space(["y1", "y2", "x"], lower=[0, -9, -9], upper=[9, 9, 9])
    with pytest.raises(ValueError, match="conditional"):
        FlowPDF(conditional[0], obs=narrow)


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


# --- real networks, untrained -----------------------------------------------------------------------------------------


def random_deformation(
    flow: Flow, names=("jes", "jer"), *, size: float = 0.2, seed: int = 0, n_layers: int = 1
) -> Deformation:
    """A deformation with random coefficients; fresh ones would be the identity."""
    rng = np.random.default_rng(seed)
    shape = {"n_dim": len(flow.obs), "n_context": len(flow.cond), "n_layers": n_layers}
    responses = [Response([n], ((1,), (2,)), **shape, seed=seed) for n in names]
    for response in responses:
        for variable in response.variables:
            variable.assign_add(size * rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    return Deformation(flow, responses, windows=dict.fromkeys(names, (-1.0, 1.0)))


def test_learned_densities_integrate_to_one_in_one_dimension(nuisances):
    bounded = Flow(["m"], ranges={"m": (0.0, 10.0)}, seed=3)
    half_bounded = Flow(["m"], ranges={"m": (0.0, np.inf)}, seed=4)
    free = Flow(["m"], seed=5, n_layers=2)
    grids = (np.linspace(1e-9, 10 - 1e-9, 200_001), np.geomspace(1e-12, 1e12, 200_001), np.linspace(-60, 60, 200_001))
    for flow, grid in zip((bounded, half_bounded, free), grids, strict=True):
        for pdf in (FlowPDF(flow), FNFPDF(random_deformation(flow), nuisances)):
            # A bounded density may rise towards its edges like a power: the trapezoidal rule is good to 1e-3 there.
            assert np.trapezoid(pdf.pdf(grid), grid) == pytest.approx(1.0, abs=1e-3)


def test_learned_densities_integrate_to_one_in_two_dimensions(nuisances):
    flow = Flow(["a", "b"], seed=6)
    pdf = FNFPDF(random_deformation(flow, n_layers=2), nuisances)
    axis = np.linspace(-40, 40, 801)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    assert np.sum(pdf.pdf(points)) * (axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_networks_of_float32(nuisances):
    flow = Flow(["a", "b"], cond=["x"], seed=9)
    exact = FNFPDF(random_deformation(flow), nuisances)
    single = exact.copy(precision="float32")
    points = np.random.default_rng(2).normal(size=(200, 3))
    log_p, expected = single.log_pdf(points), exact.log_pdf(points)
    assert log_p.dtype == tf.float64
    difference = np.abs(log_p - expected)
    # Rounding of logits and exponents: some units in the last place (6e-8) of numbers up to about a hundred.
    assert 0 < difference.max() < 1e-4
    with pytest.raises(ValueError, match=r"precision= is one of \['float64', 'float32'\]; got 'half'"):
        exact.copy(precision="half")


@pytest.mark.parametrize("n_layers", [1, 2])
def test_learned_density_agrees_with_its_model(nuisances, n_layers):
    flow = Flow(["a", "b"], cond=["x"], ranges={"b": (0.0, 1.0)}, seed=7)
    deformation = random_deformation(flow, n_layers=n_layers)
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"x": rng.normal(size=50), "b": rng.uniform(0.01, 0.99, size=50), "a": rng.normal(size=50)})
    pdf = FNFPDF(deformation, nuisances, obs=["x", "b", "a"])
    expected = deformation.log_prob(table, nu=dict(zip(("jes", "jer"), POINT, strict=True)))
    np.testing.assert_allclose(pdf.log_pdf(table[["x", "b", "a"]].to_numpy()), expected, rtol=1e-12)
    joint = ConditionalProductPDF([pdf, FlowPDF(Flow(["x"], seed=8))])
    sample = joint.sample(500).value().numpy()
    assert sample.shape == (500, 3)
    assert np.all((sample[:, joint.obs.index("b")] >= 0) & (sample[:, joint.obs.index("b")] <= 1))


# --- mistakes at the door ---------------------------------------------------------------------------------------------


def test_mistakes_are_named(nuisances, conditional):
    deformation, flow = one_dimensional(), Flow(["m"], seed=1)
    pdf, jer = FlowPDF(flow), nuisances["jer"]
    for make, error, message in (
        (lambda: FlowPDF("m"), TypeError, "takes a Flow"),
        (lambda: FlowPDF(None), TypeError, "takes a Flow"),
        (lambda: FlowPDF(pdf), TypeError, "takes a Flow"),
        (lambda: FlowPDF(random_deformation(flow)), TypeError, "belongs into an FNFPDF"),
        (lambda: FNFPDF(flow, nuisances), TypeError, "takes a Deformation"),
        (lambda: FNFPDF(nuisances, deformation), TypeError, "takes a Deformation"),
        (lambda: FNFPDF(deformation, None), TypeError, "maps the nuisances"),
        (lambda: FNFPDF(deformation, list(nuisances.values())), TypeError, "maps the nuisances"),
        (lambda: FNFPDF(deformation, {"jes": "jes", "jer": jer}), TypeError, r"params\['jes'\]"),
        (lambda: FNFPDF(deformation, {"jes": None, "jer": jer}), TypeError, r"params\['jes'\]"),
        (lambda: FNFPDF(deformation, {"jes": np.nan, "jer": jer}), ValueError, r"params\['jes'\]"),
        (lambda: FlowPDF(flow, extended="100"), TypeError, "the yield extended="),
        (lambda: FlowPDF(flow, extended=[1.0, 2.0]), TypeError, "the yield extended="),
        (lambda: FlowPDF(flow, extended=np.int64(-3)), ValueError, "the yield extended="),
        (lambda: FlowPDF(flow, extended=tf.constant(-3.0)), ValueError, "the yield extended="),
        (lambda: pdf.sample("10"), TypeError, "the number of events"),
        (lambda: pdf.sample([3]), TypeError, "the number of events"),
        (lambda: pdf.sample(True), TypeError, "the number of events"),
        (lambda: pdf.sample(), ValueError, "is not extended"),
        (lambda: pdf.sample(np.nan), ValueError, "the number of events"),
        (lambda: FlowPDF(conditional[0]).sample(3), ValueError, "is conditional on"),
        (lambda: SumPDF([pdf, pdf], fracs="0.5"), TypeError, "fracs of 'SumPDF'"),
    ):
        with pytest.raises(error, match=message):
            make()
    assert len(pdf.sample(0).value()) == 0
    assert np.isnan(pdf.log_pdf([np.nan])[0])

"""Learned densities as PDFs of zfit, against Gaussians known in closed form."""

from __future__ import annotations

import zfit
import analytic
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from analytic import (
    GRID,
    POINT,
    one_dimensional,
    shifted,
    space,
    truth,
)
from scipy import stats
from untrained import random_deformation

from zfit_fnf.densities.flows import Flow
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import (
    FNFPDF,
    UNBOUNDED,
    ConditionalProductPDF,
    FlowPDF,
    SumPDF,
)
from zfit_fnf.pdf.regions import TOLERANCE

nuisances, conditional = analytic.nuisances, analytic.conditional  # fixtures


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


# --- real networks, untrained -----------------------------------------------------------------------------------------


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


# --- mistakes in arguments ---------------------------------------------------------------------------------------------


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

"""Limits and significances against closed forms, pyhf and hepstats."""

from __future__ import annotations

import importlib
import sys
import warnings

import zfit
import numpy as np
import pytest
import tensorflow as tf
from analytic import GaussianFlow
from likelihoods import Measurement, counting, gaussian_mean, search, signal_strength
from scipy import stats
from scipy.interpolate import PchipInterpolator

import zfit_fnf.loss
from zfit_fnf.couplings import polynomial
from zfit_fnf.limits import DiscoveryResult, LimitResult, discovery, log_cls, log_expected_cls, upper_limit
from zfit_fnf.minimize import Minuit
from zfit_fnf.param import NuisanceConstraint
from zfit_fnf.pdf import FlowPDF, SumPDF
from zfit_fnf.profiles import ProfileLikelihood
from zfit_fnf.toys import asimov, toy
from zfit_fnf.yields import modified_yield

BANDS = np.arange(-2, 3)
N_ASIMOV = 2000


def limits_of(result: LimitResult) -> np.ndarray:
    return np.array([result.observed, *result.expected])


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.25, -0.1])
def test_limit_of_a_gaussian_measurement(mean):
    measurement, sigma = gaussian_mean(mean, 100, 0.1)
    result = upper_limit(measurement.nll, measurement.mu, n_asimov=500)
    observed = mean + sigma * stats.norm.isf(0.05 * stats.norm.cdf(mean / sigma))
    expected = sigma * (stats.norm.isf(0.05 * stats.norm.cdf(BANDS)) + BANDS)
    # The likelihood is exactly a parabola; what remains is the precision of the root finder.
    np.testing.assert_allclose(limits_of(result), [observed, *expected], rtol=1e-3)
    # An estimated distance to the minimum of 1e-4 in the likelihood, at which fits stop, is 1.4 % of the error.
    assert result.best_fit == pytest.approx(max(mean, 0.0), abs=0.02 * sigma)


def test_cls_of_the_asymptotic_formulae():
    """With q = (mu - mu_hat)^2 and q_A = mu^2, CLs = (1 - Phi(mu - mu_hat)) / Phi(mu_hat), also for mu_hat < 0."""
    for best_fit in (0.7, 0.0, -0.8):
        q = (2.0 - best_fit) ** 2 if best_fit >= 0 else 2.0**2 - 2 * 2.0 * best_fit
        expected = stats.norm.logsf(2.0 - best_fit) - stats.norm.logcdf(best_fit)
        assert log_cls(q, 2.0**2) == pytest.approx(expected, rel=1e-12)
    assert log_cls(0.0, 0.0) == 0.0
    assert np.isfinite(log_cls(1e4, 1e4))  # where the probabilities themselves vanish
    assert log_expected_cls(1.64485**2, 0.0) == pytest.approx(np.log(0.1), rel=1e-4)


def test_discovery_by_counting_events():
    s, b = 25.0, 100.0
    measurement = counting([125], s, b)
    result = discovery(measurement.nll, measurement.mu, expected_at=1.0, n_asimov=100)
    closed = np.sqrt(2 * ((s + b) * np.log(1 + s / b) - s))
    # The tolerance of the fit, 1e-4 in the likelihood.
    assert result.significance == pytest.approx(closed, abs=1e-4)
    assert result.expected_significance == pytest.approx(closed, abs=1e-4)
    assert result.p_value == pytest.approx(stats.norm.sf(closed), rel=1e-3)
    assert result.best_fit == pytest.approx(1.0, abs=1e-2)


@pytest.mark.filterwarnings("ignore:asymptotic formulae need more events:UserWarning")
def test_a_control_region_without_events():
    """The background is none at the best fit, and 20 of 80 with 12 events where there is no signal: 0.15 times as much."""
    mu, rate = signal_strength(), zfit.Parameter("rate", 1.0, 0.0, 20.0)
    flow = GaussianFlow([0.0], [1.0], obs=["x"])
    model = SumPDF(
        [FlowPDF(flow, extended=modified_yield(n, [one])) for n, one in ((5.0, mu), (20.0, rate))], name="region"
    )
    nll = zfit_fnf.loss.ExtendedUnbinnedNLL(model, {"x": np.linspace(-1, 1, 12)})
    nll += zfit_fnf.loss.counting(modified_yield(60.0, [rate]), 0)
    found = discovery(nll, mu, n_asimov=N_ASIMOV)
    assert found.significance == pytest.approx(np.sqrt(24 * np.log(4)), rel=1e-3)
    assert found.best_fit == pytest.approx(2.4, abs=0.01)
    assert np.all(np.diff(upper_limit(nll, mu, n_asimov=N_ASIMOV).expected) > 0)


def test_no_excess_is_no_discovery():
    measurement = counting([80], 25.0, 100.0, low=-20.0)
    result = discovery(measurement.nll, measurement.mu, expected_at=2.0, n_asimov=100)
    assert (result.significance, result.p_value, result.best_fit) == (0.0, 0.5, 0.0)
    assert result.expected_significance == pytest.approx(np.sqrt(2 * (150 * np.log(1.5) - 50)), abs=1e-4)


# --- against pyhf ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "low"), [([55], 0.0), ([22, 21], -10.0)], ids=["excess", "deficit in two channels"])
def test_counting_experiment_of_pyhf(counts, low):
    pyhf = pytest.importorskip("pyhf")
    measurement = counting(counts, 10.0, 50.0, change=(0.85, 1.2), low=low)
    result = upper_limit(measurement.nll, measurement.mu, n_asimov=100)

    # Asked for: 1 %. The same formulae for the same likelihood: what differs is the tolerance of the fits.
    np.testing.assert_allclose(limits_of(result), pyhf_limits(pyhf, counts, 10.0, 50.0, (0.85, 1.2)), rtol=1e-3)


def pyhf_limits(pyhf, counts, s, b, change) -> list[float]:
    """Observed and expected limits of `likelihoods.counting`."""
    rate = {"name": "rate", "type": "normsys", "data": dict(zip(("lo", "hi"), change, strict=True))}
    strength = {"name": "mu", "type": "normfactor", "data": None}
    samples = [
        {"name": "sig", "data": [s / len(counts)], "modifiers": [strength]},
        {"name": "bkg", "data": [b / len(counts)], "modifiers": [rate]},
    ]
    channels = [{"name": f"channel{index}", "samples": samples} for index in range(len(counts))]
    code4 = {"normsys": {"interpcode": "code4"}}
    model = pyhf.Model({"channels": channels}, poi_name="mu", modifier_settings=code4)
    data = [*counts, *model.config.auxdata]
    observed, expected = pyhf.infer.intervals.upper_limits.upper_limit(data, model, rtol=1e-5)
    return [float(observed), *map(float, expected)]


def test_yields_whose_number_is_not_fitted_tell_shares_alone():
    """The likelihood knows ratios of yields: toys and expected limits are those of the events that there are."""
    y = np.random.default_rng(1).normal(size=400)
    for scale in (1.0, 4.0):
        mu = signal_strength()
        peak = FlowPDF(GaussianFlow([1.0], [0.5], obs=["y"]), extended=modified_yield(100.0 * scale, [mu]))
        rest = FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), extended=modified_yield(300.0 * scale, []))
        nll = zfit_fnf.loss.UnbinnedNLL(SumPDF([peak, rest]), {"y": y})
        assert int(toy(nll, seed=1).data[0].n_events) == 400
        # By integration of 2 n log(p_0 / p_mu) p_0; 2000 events of each component tell it to a per cent.
        expected = [0.1294, 0.1774, 0.2542, 0.3701, 0.5246]
        np.testing.assert_allclose(limits_of(upper_limit(nll, mu, n_asimov=N_ASIMOV))[1:], expected, rtol=0.02)


# --- several dimensions, and hepstats --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 3], ids=["1-D", "3-D"])
def bump(request) -> tuple[Measurement, LimitResult]:
    measurement = search(request.param, 40.0, 400.0, seed=request.param)
    return measurement, upper_limit(measurement.nll, measurement.mu, n_asimov=N_ASIMOV)


def test_limits_do_not_depend_on_the_seed_of_the_asimov_set(bump):
    measurement, result = bump
    again = upper_limit(measurement.nll, measurement.mu, n_asimov=N_ASIMOV, seed=8)
    # The spread between seeds is about 0.8 %, and 0.2 % with the default number of events.
    np.testing.assert_allclose(limits_of(result), limits_of(again), rtol=0.04)
    assert list(result.expected) == sorted(result.expected)


def test_scan_crosses_at_the_limits(bump):
    _, result = bump
    assert result.scan.index.is_monotonic_increasing
    assert (result.scan.loc[0.0] == 1.0).all()
    for limit, column in zip(limits_of(result), result.scan, strict=True):
        curve = PchipInterpolator(result.scan.index, np.log(result.scan[column]))
        # The curve between a dozen points: the logarithm of CLs falls by about 3 where the limit doubles.
        assert curve(limit) == pytest.approx(np.log(0.05), abs=0.03)


def test_hepstats_with_the_asymptotic_calculator(bump):
    pytest.importorskip("hepstats")
    from hepstats.hypotests import ConfidenceInterval, Discovery
    from hepstats.hypotests.parameters import POI, POIarray

    from zfit_fnf.hepstats import AsymptoticCalculator, UpperLimit

    measurement, ours = bump
    nll, mu = measurement.nll, measurement.mu
    minimizer = Minuit()
    best = minimizer.minimize(nll)
    calculator = AsymptoticCalculator(best, minimizer, n_asimov=N_ASIMOV)
    values = POIarray(mu, np.linspace(0.02, 1.2 * max(limits_of(ours)), 12))
    limits = UpperLimit(calculator, values, POI(mu, 0), qtilde=True).upperlimit()
    names = ["observed", "expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2"]
    # Interpolation between 12 points against a root finder.
    np.testing.assert_allclose([limits[name] for name in names], limits_of(ours), rtol=0.02)

    p_value, significance = Discovery(AsymptoticCalculator(nll, minimizer), POI(mu, 0)).result(printlevel=0)
    discovered = discovery(nll, mu, n_asimov=N_ASIMOV)
    assert significance == pytest.approx(discovered.significance, rel=1e-3)
    assert p_value == pytest.approx(discovered.p_value, rel=1e-2)
    # The Asimov set of the best fit has, up to the curvature of the likelihood, the observed significance.
    assert discovered.expected_significance == pytest.approx(significance, rel=0.05)

    minos, _ = best.errors(params=mu, cl=0.68)
    scan = POIarray(mu, np.linspace(max(best.params[mu]["value"] - 0.5, 0.02), best.params[mu]["value"] + 0.8, 12))
    interval = ConfidenceInterval(calculator, scan).interval(printlevel=0)
    width = minos[mu]["upper"] - minos[mu]["lower"]
    assert interval["upper"] == pytest.approx(best.params[mu]["value"] + minos[mu]["upper"], abs=0.02 * width)


@pytest.mark.slow
def test_unbinned_asimov_against_the_binned_one_of_hepstats():
    """A likelihood of zfit's own, in one dimension, with which hepstats' calculator works."""
    pytest.importorskip("hepstats")
    from hepstats.hypotests import UpperLimit
    from hepstats.hypotests.calculators import AsymptoticCalculator
    from hepstats.hypotests.parameters import POI, POIarray

    obs = zfit.Space("x", limits=(0.0, 3.0))
    n_sig, n_bkg = zfit.Parameter("n_sig", 5.0, -20.0, 200.0), zfit.Parameter("n_bkg", 300.0, 0.0, 1000.0)
    slope = zfit.Parameter("slope", -1.0, -3.0, 0.0)
    sig = zfit.pdf.Gauss(mu=1.2, sigma=0.1, obs=obs, extended=n_sig)
    bkg = zfit.pdf.Exponential(slope, obs=obs, extended=n_bkg)
    zfit.settings.set_seed(4)
    data = zfit.pdf.SumPDF([sig, bkg]).sample(n=305)
    model = zfit.pdf.SumPDF([sig, bkg])
    ours = upper_limit(zfit_fnf.loss.ExtendedUnbinnedNLL(model, data), n_sig)
    calculator = AsymptoticCalculator(zfit.loss.ExtendedUnbinnedNLL(model, data), Minuit(), asimov_bins=200)
    test = UpperLimit(calculator, POIarray(n_sig, np.array(ours.expected)), POI(n_sig, 0))
    names = ["expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2"]
    pvalues = [test.pvalues()[name][index] for index, name in enumerate(names)]
    # CLs at the limits; a change of a limit by one per cent changes it by about three.
    np.testing.assert_allclose(pvalues, 0.05, rtol=0.05)


def test_hepstats_with_toys():
    pytest.importorskip("hepstats")
    from hepstats.hypotests.parameters import POI, POIarray

    from zfit_fnf.hepstats import FrequentistCalculator

    measurement = counting([480], 20.0, 400.0, change=(0.8, 1.2), low=-20.0)
    nll, mu = measurement.nll, measurement.mu
    minimizer = Minuit()
    best = minimizer.minimize(nll)
    before = measurement.state()
    calculator = FrequentistCalculator(best, minimizer, ntoysnull=15, ntoysalt=0, seed=5)
    (toys,) = calculator.get_toys_null(POIarray(mu, [6.0]), POIarray(mu, [6.0])).values()
    assert measurement.state() == before
    # Without the fluctuations of the constraint the ratio would be 0.26, below the interval (0.36, 1.8).
    spread = np.sqrt(480 + 80**2) / 20
    low, high = np.sqrt(np.array(stats.chi2(14).interval(1 - 1e-4)) / 14)
    assert low < toys.bestfit.std(ddof=1) / spread < high
    # Every fit sees the same outcome of the auxiliary measurement: none is below the best fit.
    q = 2 * (toys.nlls[POI(mu, 6.0)] - toys.nll_bestfit)
    assert (q > -1e-3).all()
    # A parabola, up to the change of the error with the outcome.
    np.testing.assert_allclose(np.sqrt(np.maximum(q, 0)), np.abs(toys.bestfit - 6.0) / spread, rtol=0.3, atol=0.1)


@pytest.mark.slow
def test_hepstats_limit_with_toys_agrees_with_the_asymptotic_one(tmp_path):
    pytest.importorskip("hepstats")
    from hepstats.hypotests.parameters import POI, POIarray

    from zfit_fnf.hepstats import AsymptoticCalculator, FrequentistCalculator, UpperLimit

    measurement = counting([430], 20.0, 400.0, change=(0.9, 1.1), low=-20.0)
    nll, mu = measurement.nll, measurement.mu
    minimizer = Minuit()
    best = minimizer.minimize(nll)
    limit = upper_limit(nll, mu).observed
    null, alternative = POIarray(mu, [limit]), POI(mu, 0)
    asymptotic = UpperLimit(AsymptoticCalculator(best, minimizer), null, alternative, qtilde=True).pvalues()
    calculator = FrequentistCalculator(best, minimizer, 120, 120, seed=1)
    toys = UpperLimit(calculator, null, alternative, qtilde=True).pvalues()
    for name in ("clsb", "clb"):
        p = asymptotic[name][0]
        # Binomial errors, at a probability of 1e-4, and 0.02 for the asymptotic formulae with 400 events.
        assert abs(toys[name][0] - p) < stats.norm.isf(0.5e-4) * np.sqrt(p * (1 - p) / 120) + 0.02
    calculator.to_yaml(str(tmp_path / "toys.yml"))
    read = FrequentistCalculator.from_yaml(str(tmp_path / "toys.yml"), best, minimizer, ntoysnull=120, ntoysalt=120)
    np.testing.assert_array_equal(UpperLimit(read, null, alternative, qtilde=True).pvalues()["cls"], toys["cls"])


def test_interpolated_limit_of_hepstats_and_its_range():
    pytest.importorskip("hepstats")
    from hepstats.hypotests.exceptions import POIRangeError
    from hepstats.hypotests.parameters import POI, POIarray

    from zfit_fnf.hepstats import AsymptoticCalculator, UpperLimit

    measurement = counting([55], 10.0, 50.0)
    minimizer = Minuit()
    calculator = AsymptoticCalculator(minimizer.minimize(measurement.nll), minimizer, n_asimov=100)
    with pytest.raises(POIRangeError, match="limit is above mu = 1"):
        UpperLimit(calculator, POIarray(measurement.mu, [0.5, 1.0]), POI(measurement.mu, 0)).upperlimit()
    with pytest.raises(POIRangeError, match=r"observed upper limit is below mu = 2\.2"):
        UpperLimit(calculator, POIarray(measurement.mu, [2.2, 3.0]), POI(measurement.mu, 0)).upperlimit()
    limits = UpperLimit(calculator, POIarray(measurement.mu, [1.0, 1.5, 2.0, 2.1]), POI(measurement.mu, 0)).upperlimit()
    assert limits["expected_p2"] is None
    assert limits["expected_m2"] is None  # it is below 1
    assert 1.5 < limits["observed"] < 2.1


def test_limit_of_a_coupling_whose_best_fit_has_the_other_sign():
    """With interference two couplings fit equally well; a fit that ends at the negative one must not stand for zero."""
    c = zfit.Parameter("c", -0.4, stepsize=0.1)  # without limits, which it has to get back
    flow = GaussianFlow([0.0], [1.0], obs=["x"])
    n_sig = modified_yield(10.0, [polynomial(c, {(1,): -1.0, (2,): 1.0})])
    model = SumPDF([FlowPDF(flow, extended=n_sig), FlowPDF(flow, extended=100.0)])
    nll = zfit_fnf.loss.ExtendedUnbinnedNLL(model, {"x": np.linspace(-1, 1, 108)})
    limit = upper_limit(nll, c, n_asimov=200)
    assert not c.has_limits
    # 100 + 10 (c^2 - c) = 108, and exactly where the formulae are fulfilled
    assert limit.best_fit == pytest.approx(0.5 + np.sqrt(0.25 + 0.8), abs=1e-3)
    assert limit.observed == pytest.approx(2.22899, rel=1e-3)
    assert limit.expected == pytest.approx((1.6571, 1.8150, 2.0297, 2.2974, 2.5891), rel=1e-3)


def test_a_second_minimum_may_be_narrow():
    c = zfit.Parameter("c", -1.0, -20.0, 20.0, stepsize=0.1)

    def value(params):
        x = params[0].value()
        return -tf.math.log(tf.exp(-0.5 * (x + 1.0) ** 2) + 0.9 * tf.exp(-2.0 * (x - 9.3) ** 2))

    profile = ProfileLikelihood(zfit.loss.SimpleLoss(value, [c], errordef=0.5), c, None, {})
    found = profile.best(0.0)
    assert found.values[c] == pytest.approx(9.3, abs=1e-3)
    assert profile.q(11.0) == pytest.approx(4.0 * 1.7**2, rel=1e-6)


# --- any likelihood of zfit's ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_likelihoods_of_zfit_have_the_same_limit():
    ours = counting([55], 10.0, 50.0, change=(0.85, 1.2))
    constraint = NuisanceConstraint(ours.nuisances)
    theirs = zfit.loss.ExtendedUnbinnedNLL(ours.nll.model[0], ours.nll.data[0], constraints=constraint)
    np.testing.assert_allclose(
        limits_of(upper_limit(theirs, ours.mu, n_asimov=100)),
        limits_of(upper_limit(ours.nll, ours.mu, n_asimov=100)),
        rtol=1e-3,
    )


# --- input, state and output -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counter() -> Measurement:
    return counting([55], 10.0, 50.0, change=(0.85, 1.2))


@pytest.mark.parametrize("infer", [upper_limit, discovery])
def test_everything_is_restored(counter, infer):
    counter.mu.set_value(1.7)
    before = counter.state()
    infer(counter.nll, counter.mu, n_asimov=100)
    assert counter.state() == before


def test_everything_is_restored_after_an_error(counter):
    class Hopeless(zfit.minimize.Minuit):
        def minimize(self, loss, *args, **kwargs):
            result = super().minimize(loss, *args, **kwargs)
            result._converged = False
            return result

    before = counter.state()
    with pytest.raises(RuntimeError, match=r"a fit of all parameters did not converge"):
        upper_limit(counter.nll, counter.mu, minimizer=Hopeless(gradient="zfit"))
    assert counter.state() == before


def test_a_limit_above_the_range_is_an_error():
    narrow = counting([55], 10.0, 50.0)
    narrow.mu.upper = 1.5
    with pytest.raises(ValueError, match=r"above mu = 1\.5, the upper limit .* make that larger"):
        upper_limit(narrow.nll, narrow.mu, n_asimov=100)


@pytest.mark.parametrize("infer", [upper_limit, discovery])
def test_parameters_that_are_not_of_interest(counter, infer):
    with pytest.raises(TypeError, match=r"must be a zfit\.Parameter, or the name of one; got 1"):
        infer(counter.nll, 1)
    with pytest.raises(
        ValueError, match=r"'other' is not a parameter of the likelihood; it depends on \['mu', 'rate'\]"
    ):
        infer(counter.nll, zfit.Parameter("other", 1.0))
    counter.mu.floating = False
    try:
        with pytest.raises(ValueError, match="does not float"):
            infer(counter.nll, counter.mu)
    finally:
        counter.mu.floating = True


def test_values_outside_of_the_range(counter):
    positive = counting([55], 10.0, 50.0, low=0.1)
    with pytest.raises(ValueError, match=r"'mu' cannot be 0: its limits are \(0\.1, 20\)"):
        upper_limit(positive.nll, positive.mu)
    with pytest.raises(ValueError, match="'mu' cannot be 30"):
        discovery(counter.nll, counter.mu, expected_at=30.0)
    with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
        upper_limit(counter.nll, counter.mu, cl=95)


@pytest.mark.parametrize(
    ("infer", "arguments", "error", "match"),
    [
        (upper_limit, {"poi": "rate"}, ValueError, "'rate' is a nuisance"),
        (upper_limit, {"poi": "x0"}, ValueError, "'x0' is not a parameter"),
        (upper_limit, {"cl": "0.95"}, TypeError, "cl= must be a number"),
        (upper_limit, {"cl": 0.05}, ValueError, r"between 0\.5 and 1"),
        (upper_limit, {"cl": np.nan}, ValueError, "cl= must be finite"),
        (upper_limit, {"n_asimov": 0}, ValueError, "n_asimov= must be at least 1"),
        (upper_limit, {"n_asimov": 1e4}, TypeError, "n_asimov= must be a whole number"),
        (upper_limit, {"minimizer": Minuit}, TypeError, "minimizer= is an object"),
        (upper_limit, {"expected": "pre-fit"}, ValueError, 'expected= is "postfit" or "prefit"'),
        (upper_limit, {"expected": True}, ValueError, 'expected= is "postfit" or "prefit"'),
        (discovery, {"null": None}, TypeError, "null= must be a number"),
        (discovery, {"null": -1.0}, ValueError, "'mu' cannot be -1"),
        (discovery, {"expected_at": "1"}, TypeError, "expected_at= must be a number"),
        (discovery, {"poi": "rate"}, ValueError, "'rate' is a nuisance"),
    ],
)
def test_mistakes(counter, infer, arguments, error, match):
    before = counter.state()
    with pytest.raises(error, match=match):
        infer(counter.nll, **{"poi": counter.mu, **arguments})
    assert counter.state() == before


def test_results_and_models_are_no_likelihoods(counter):
    with pytest.raises(TypeError, match="not its result"):
        upper_limit(Minuit().minimize(counter.nll), counter.mu)
    with pytest.raises(TypeError, match="the first argument is a likelihood"):
        upper_limit(counter.nll.model[0], counter.mu)
    with pytest.raises(TypeError, match="the first argument is a likelihood"):
        upper_limit(counter.mu, counter.nll)


@pytest.mark.parametrize("name", ["AsymptoticCalculator", "FrequentistCalculator"])
def test_mistakes_in_calculators(name, counter):
    pytest.importorskip("hepstats")
    from zfit_fnf import hepstats

    calculator = getattr(hepstats, name)
    number = "n_asimov" if name == "AsymptoticCalculator" else "ntoysnull"
    for given, options, error, message in (
        ((counter.nll.model[0], Minuit()), {}, TypeError, "the first argument is a likelihood"),
        ((counter.nll, Minuit), {}, TypeError, "minimizer= is an object that fits"),
        ((counter.nll, None), {}, TypeError, "a calculator needs a minimiser"),
        ((counter.nll, Minuit()), {"seed": 1.5}, TypeError, "seed= must be a whole number"),
        ((counter.nll, Minuit()), {"seed": -1}, ValueError, "seed= must be at least 0"),
        ((counter.nll, Minuit()), {number: 1e3}, TypeError, f"{number}= must be a whole number"),
        ((counter.nll, Minuit()), {number: -1}, ValueError, f"{number}= must be at least"),
    ):
        with pytest.raises(error, match=message):
            calculator(*given, **options)


# --- before unblinding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [10.0, 25.0])
def test_expected_limits_before_any_fit_are_those_of_pyhf(s):
    """For the data that pyhf's model expects without signal, with its nuisance where the auxiliary measurement is."""
    pyhf = pytest.importorskip("pyhf")
    measurement = counting([200], s, 50.0, change=(0.8, 1.3))  # data that would move the background by 4 errors
    result = upper_limit(measurement.nll, measurement.mu, n_asimov=100, expected="prefit")
    expected = pyhf_limits(pyhf, [50.0], s, 50.0, (0.8, 1.3))[1:]
    np.testing.assert_allclose(result.expected, expected, rtol=1e-3)
    assert np.isnan([result.observed, result.best_fit]).all()
    assert list(result.scan) == ["expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2"]
    assert str(result).splitlines()[:2] == [
        "95 % CLs upper limits on mu (before any fit)",
        "  observed          not looked at",
    ]


def test_no_event_is_looked_at_before_unblinding(counter):
    """Other data, none, and data with weights for which the observed limit is refused give the same expected limits."""
    (model,) = counter.nll.model
    (rate,) = counter.nuisances
    blind = upper_limit(counter.nll, counter.mu, n_asimov=100, expected="prefit").expected
    rate.set_value(1.5)  # where it happens to be does not matter, but where it was measured does
    for events, weights in ((np.zeros(0), None), (np.zeros(3), np.array([2.0, 2.0, 2.0]))):
        nll = zfit_fnf.loss.ExtendedUnbinnedNLL(model, {"x0": events}, weights=weights)
        assert upper_limit(nll, "mu", n_asimov=100, expected="prefit").expected == pytest.approx(blind, rel=1e-4)
    assert float(rate.value()) == 1.5
    with zfit.param.set_values([rate.observed], [1.0]):
        assert upper_limit(counter.nll, "mu", n_asimov=100, expected="prefit").expected[2] > 1.02 * blind[2]
    rate.set_value(0.0)


# --- few events -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "b", "counted"), [(0, 4.0, "4 expected and 0 observed"), (3, 30.0, "30 .* and 3 obs")]
)
def test_few_events_are_told(observed, b, counted):
    measurement = counting([observed], 3.0, b)
    with pytest.warns(UserWarning, match=f"more events than {counted}.*too strong, by up to 20 %.*Toys do not") as seen:
        upper_limit(measurement.nll, measurement.mu, n_asimov=100)
    assert [one.filename for one in seen if "asymptotic" in str(one.message)] == [__file__]


def test_few_events_under_a_peak_are_told():
    """Of 1000 background events 2 are in the peak; with a peak as wide as the background all of them count."""
    obs = zfit.Space("x", limits=(-1.0, 1.0))
    mu = zfit.Parameter("mu", 1.0, 0.0, 5000.0)
    x = np.linspace(-0.999, 0.999, 1000)
    for width, warns in ((0.0005, True), (0.2, False)):
        sig = zfit.pdf.Gauss(0.0, width, obs=obs, extended=zfit_fnf.modified_yield(1.0, [mu]))
        bkg = zfit.pdf.Uniform(-1.0, 1.0, obs=obs, extended=1000.0)
        nll = zfit_fnf.loss.ExtendedUnbinnedNLL(zfit_fnf.pdf.SumPDF([sig, bkg]), {"x": x})
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            upper_limit(nll, mu, n_asimov=1000, expected="prefit")
        assert bool([one for one in seen if "asymptotic" in str(one.message)]) == warns


def test_few_events_of_a_discovery_are_told():
    measurement = counting([3], 2.0, 0.5)
    with pytest.warns(UserWarning, match=r"more events than 3 expected that this result on mu rests on: significances"):
        discovery(measurement.nll, measurement.mu, n_asimov=100)


def test_weights_that_fluctuate_too_much(counter):
    (model,) = counter.nll.model
    for weight in (2.0, -1.0):
        weighted = zfit_fnf.loss.ExtendedUnbinnedNLL(
            model, {"x0": np.zeros(30)}, weights=np.r_[np.full(28, 2.0), weight, 2.0]
        )
        with pytest.raises(ValueError, match="fluctuate more than a Poisson number"):
            upper_limit(weighted, counter.mu)
    pytest.importorskip("hepstats")
    from zfit_fnf import hepstats

    for calculator in (hepstats.AsymptoticCalculator, hepstats.FrequentistCalculator):
        with pytest.raises(ValueError, match="fluctuate more than a Poisson number"):
            calculator(weighted, Minuit())


def test_limits_of_an_asimov_set_are_the_expected_ones(counter):
    """Weights that scale a sample down are welcome: that is how an analysis stays blind."""
    (rate,) = counter.nuisances
    experiment = asimov(counter.nll, params={counter.mu: 0.0, rate: 0.0}, n_events=100)
    with zfit.param.set_values(experiment.observed):
        result = upper_limit(experiment.loss(counter.nll), counter.mu, n_asimov=100)
    assert result.observed == pytest.approx(result.expected[2], rel=1e-3)


def test_results_print_as_tables():
    limit = LimitResult("mu", 0.9, 1.5, (0.5, 0.7, 1.0, 1.4, 2.0), 0.25, None, r"$\mu$")
    assert str(limit).splitlines()[0] == "90 % CLs upper limits on mu (best fit 0.25)"
    assert "expected -2 sigma 0.5" in str(limit)
    assert "observed          1.5" in str(limit)
    excess = DiscoveryResult("mu", 0.0, 1.2, 3.0, 0.00135, 1.0, 2.5, 0.00621)
    assert "3 sigma, p = 0.00135" in str(excess)
    assert "expected for mu = 1  2.5 sigma, p = 0.00621" in str(excess)


def test_only_the_calculators_need_hepstats(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "hepstats"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "hepstats", None)
    for module in ("zfit_fnf.limits", "zfit_fnf.hepstats"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.import_module("zfit_fnf.limits")
    with pytest.raises(ImportError, match=r'pip install "zfit_fnf\[limits\]"'):
        importlib.import_module("zfit_fnf.hepstats")


def test_crossing_between_values_that_are_alike():
    """Two values on a plateau, as a coarse Asimov set makes them, do not stop the search."""
    from zfit_fnf.limits.asymptotic import _interpolate

    assert 0.01 < _interpolate({0.0: -1.05, 0.01: -1.05}) < np.inf
    assert _interpolate({0.0: -1.05, 0.01: -1.05, 1.01: 0.95}) == pytest.approx(0.535)

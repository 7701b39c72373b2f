"""Pseudo-experiments: the Asimov set, toys, and fits to toys."""

from __future__ import annotations

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from analytic import GaussianDeformation, GaussianFlow
from executors import Here
from likelihoods import Measurement, counting, gaussian_mean, search
from scipy import integrate, stats

from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL, drawn_events, event_kernel
from zfit_fnf.minimize import Minuit
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF, SumPDF
from zfit_fnf.state import preserved
from zfit_fnf.toys import ToyFits, asimov, fit_toys, hesse_errors, refillable, toy

RARE = 1e-4  # probability of a false alarm of every statistical check


@pytest.fixture(scope="module")
def bump() -> Measurement:
    return search(3, 60.0, 600.0, seed=5)


@pytest.fixture(scope="module")
def counter() -> Measurement:
    return counting([500], s=20.0, b=400.0, change=(0.8, 1.2), low=-20.0)


# --- Asimov ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 1.3])
def test_refit_of_the_asimov_set_returns_where_it_was_made(bump, strength):
    truth = dict(zip(bump.parameters, (strength, 0.4, -0.7), strict=True))
    experiment = asimov(bump.nll, params=truth, n_events=2000)
    assert experiment.truth == pytest.approx(truth)
    loss = experiment.loss(bump.nll)
    with preserved(bump.nll), zfit.param.set_values({**experiment.observed, **truth}, clip=True):
        # Exactly stationary: the gradient is that of sums of 4000 rounded numbers.
        np.testing.assert_allclose(loss.gradient(list(truth)), 0.0, atol=1e-9)
        zfit.param.set_values(dict(zip(bump.parameters, (0.8, 0.1, 0.2), strict=True)))
        zfit.minimize.Minuit(gradient="zfit", mode=1, tol=1e-9).minimize(loss)
        fitted = [float(parameter.value()) for parameter in truth]
    # At its limit, mu = 0, Minuit cannot come closer than about a thousandth of an error (0.2).
    np.testing.assert_allclose(fitted, list(truth.values()), atol=1e-4 if strength else 1e-3)


def test_asimov_has_the_expected_number_of_events_and_moved_observables(counter):
    (rate,) = counter.nuisances
    experiment = asimov(counter.nll, params={counter.mu: 2.0, rate: 1.0}, n_events=100)
    assert float(experiment.data[0].samplesize) == pytest.approx(2 * 20 + 1.2 * 400, rel=1e-9)
    assert experiment.observed == {rate.observed: 1.0}
    assert float(rate.observed.value()) == 0.0


def test_asimov_errors_of_a_gaussian_are_the_exact_ones():
    """Shift by one sigma and scaling by ten per cent in three observables: information 3 n and 2 * 0.1^2 * 3 n."""
    shift, width = nuisance("shift"), nuisance("width")
    flow = GaussianFlow([0.0] * 3, [2.0] * 3, obs=["a", "b", "c"])
    response = {"shift": ((0.0, 1.0), (0.0, 0.0)), "width": ((0.1, 0.0), (0.0, 0.0))}
    model = FNFPDF(GaussianDeformation(flow, response), {"shift": shift, "width": width}, extended=400.0)
    nll = ExtendedUnbinnedNLL(model, {name: np.zeros(1) for name in flow.obs})
    experiment = asimov(nll, n_events=1000)
    with zfit.param.set_values(experiment.observed):
        errors = hesse_errors(experiment.loss(nll), [shift, width])
    # The calibration fixes the first two moments of all observables together; the correlation is left to chance.
    assert errors[shift] == pytest.approx((3 * 400 + 1) ** -0.5, rel=1e-3)
    assert errors[width] == pytest.approx((2 * 0.01 * 3 * 400 + 1) ** -0.5, rel=1e-3)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_asimov_errors_of_a_mixture_are_the_expected_ones(strength):
    """The information on the yield of a peak on a falling background, also where that yield is zero."""
    obs = zfit.Space("x", limits=(0.0, 10.0))
    n_sig, n_bkg = zfit.Parameter("n_sig", 50.0, 0.0, 500.0), zfit.Parameter("n_bkg", 1000.0, 0.0, 5000.0)
    sig = zfit.pdf.Gauss(mu=7.0, sigma=0.3, obs=obs, extended=n_sig)
    bkg = zfit.pdf.Exponential(-0.5, obs=obs, extended=n_bkg)
    nll = ExtendedUnbinnedNLL(SumPDF([sig, bkg]), {"x": [5.0]})
    experiment = asimov(nll, params={n_sig: 50.0 * strength})
    with zfit.param.set_values(experiment.truth, clip=True):
        errors = hesse_errors(experiment.loss(nll), [n_sig, n_bkg])

    def densities(x: float) -> np.ndarray:
        return np.array([stats.norm.pdf(x, 7.0, 0.3), 0.5 * np.exp(-0.5 * x) / -np.expm1(-5.0)])

    yields = np.array([50.0 * strength, 1000.0])
    information = [
        [
            integrate.quad(
                lambda x, i=i, j=j: densities(x)[i] * densities(x)[j] / (yields @ densities(x)), 0, 10, limit=200
            )[0]
            for j in range(2)
        ]
        for i in range(2)
    ]
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    # 40000 events give the information to about half a per cent.
    np.testing.assert_allclose([errors[n_sig], errors[n_bkg]], expected, rtol=0.01)


def test_no_expected_events_are_an_outcome_and_negative_ones_an_error():
    mu = zfit.Parameter("mu", 0.0, -1.0, 5.0)
    signal = zfit.pdf.Uniform(0.0, 1.0, obs=zfit.Space("x", limits=(0.0, 1.0)), extended=mu, name="signal")
    nll = ExtendedUnbinnedNLL(signal, {"x": [0.5]})
    for make in (toy, asimov):
        (data,) = make(nll).data
        assert int(data.num_entries) == 0
        with pytest.raises(ValueError, match="'signal' expects -1 events"):
            make(nll, params={mu: -1.0})


# --- toys ------------------------------------------------------------------------------------------------------------


def test_toys_fluctuate_counts_and_global_observables(counter):
    (rate,) = counter.nuisances
    before = counter.state()
    toys = [toy(counter.nll, params={counter.mu: 1.5, rate: 1.0}, seed=(3, i)) for i in range(60)]
    assert counter.state() == before
    counts = [int(t.data[0].n_events) for t in toys]
    observed = [t.observed[rate.observed] for t in toys]
    expected = 1.5 * 20 + 1.2 * 400
    for values, mean, variance in ((counts, expected, expected), (observed, 1.0, 1.0)):
        assert abs(np.mean(values) - mean) < stats.norm.isf(RARE / 2) * np.sqrt(variance / 60)
        low, high = stats.chi2(59).interval(1 - RARE)
        assert low < 59 * np.var(values, ddof=1) / variance < high


def test_a_toy_depends_on_its_seed_only(bump):
    first, again, other = (toy(bump.nll, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.data[0].value(), again.data[0].value())
    assert first.observed == again.observed
    assert first.observed != other.observed


@pytest.mark.parametrize("learned", [True, False])
def test_seeds_do_not_leak(counter, learned):
    """What is drawn after a toy depends on what was before, not on the toy's seed."""
    nll = counter.nll if learned else gaussian_mean(0.3, 50, 0.1)[0].nll

    def after(start: int) -> float:
        zfit.settings.set_seed(start)
        toy(nll, seed=1)
        return float(zfit.z.random.get_prng().uniform(()))

    assert after(1) != after(2)
    assert after(1) == after(1)


def test_densities_of_zfit_are_drawn_as_the_seed_says():
    """Those that draw with zfit's generator alone, and a sum of zfit, which also draws with TensorFlow's."""
    space = zfit.Space("x", -3, 3)
    gauss, exponential = zfit.pdf.Gauss(0.1, 1.0, space), zfit.pdf.Exponential(-0.5, space)
    for pdf in (
        gauss,
        exponential,
        zfit.pdf.CrystalBall(0.0, 1.0, 1.0, 3.0, space),
        zfit.pdf.SumPDF([gauss, exponential], 0.4),
    ):

        def events(before: int, second: int, pdf: zfit.pdf.BasePDF = pdf) -> np.ndarray:
            tf.random.set_seed(before)
            zfit.z.random.get_prng().uniform((before,))
            return drawn_events(pdf, pdf, 40, np.array([3, second], np.int32))

        np.testing.assert_array_equal(events(1, 4), events(2, 4))
        assert not np.array_equal(events(1, 4), events(1, 5))


def test_toys_without_a_yield_have_as_many_events_as_the_data():
    measurement, _ = gaussian_mean(0.3, 50, 0.1)
    assert int(toy(measurement.nll).data[0].n_events) == 50
    weighted = UnbinnedNLL(measurement.nll.model[0], {"x": np.zeros(5)}, weights=np.full(5, 0.5))
    with pytest.raises(ValueError, match="use an extended likelihood"):
        toy(weighted)


def test_constraints_that_cannot_move_are_refused():
    measurement, _ = gaussian_mean(0.3, 50, 0.1)
    fixed = zfit.constraint.GaussianConstraint(measurement.mu, observation=0.0, sigma=1.0)
    nll = UnbinnedNLL(measurement.nll.model[0], measurement.nll.data[0], constraints=fixed)
    for make in (toy, asimov):
        with pytest.raises(ValueError, match=r"GaussianConstraint on \['mu'\] is fixed.*floating=False"):
            make(nll)


def test_gaussian_constraints_of_zfit_move_if_their_observation_is_a_parameter():
    measurement, _ = gaussian_mean(0.3, 50, 0.1)
    outcome = zfit.Parameter("outcome", 0.1, floating=False)
    constraint = zfit.constraint.GaussianConstraint(measurement.mu, observation=outcome, sigma=0.2)
    nll = UnbinnedNLL(measurement.nll.model[0], measurement.nll.data[0], constraints=constraint)
    assert asimov(nll, params={measurement.mu: 0.7}, n_events=100).observed[outcome] == pytest.approx(0.7)
    drawn = np.array([toy(nll, params={measurement.mu: 0.7}, seed=i).observed[outcome] for i in range(60)])
    assert (
        stats.chi2(60).interval(1 - RARE)[0] < np.sum((drawn - 0.7) ** 2) / 0.04 < stats.chi2(60).interval(1 - RARE)[1]
    )
    assert float(outcome.value()) == pytest.approx(0.1)


# --- fits to toys ----------------------------------------------------------------------------------------------------


def test_spread_of_toy_fits_has_count_and_constraint(counter):
    (rate,) = counter.nuisances
    before = counter.state()
    fits = fit_toys(counter.nll, 20, params={counter.mu: 5.0, rate: 0.0}, seed=1, progress=False)
    assert counter.state() == before
    assert fits.valid.all()
    expected = np.sqrt((5 * 20 + 400) + (0.2 * 400) ** 2) / 20
    low, high = np.sqrt(np.array(stats.chi2(19).interval(1 - RARE)) / 19)
    # Without the fluctuations of the constraint the ratio would be 0.27, below the interval (0.44, 1.7).
    assert low < fits.values["mu"].std() / expected < high
    assert low < fits.values["rate"].std() < high


@pytest.mark.parametrize("measurement", [pytest.param("counter", marks=pytest.mark.slow), "bump"])
def test_toys_are_the_same_elsewhere(measurement, request):
    """Copies of the likelihood draw and fit them, also with nuisances that were not made in alphabetical order."""
    nll = request.getfixturevalue(measurement).nll
    executor = Here()
    shared = fit_toys(nll, 3, seed=2, executor=executor, progress=False)
    alone = fit_toys(nll, 3, seed=2, progress=False)
    assert executor.calls == 1  # one block
    # Minima are those of one likelihood, to the tolerance of fits: a thousandth of an error.
    np.testing.assert_allclose(shared.values, alone.values, atol=1e-3 * float(alone.errors.to_numpy().max()))
    np.testing.assert_allclose(shared.errors, alone.errors, rtol=1e-3)
    assert shared.truth == alone.truth
    with pytest.raises(ValueError, match="minimisers are not sent"):
        fit_toys(nll, 3, executor=executor, minimizer=Minuit())


def test_fits_of_toys_compile_nothing_and_depend_on_the_seed_only(counter):
    fit_toys(counter.nll, 1, progress=False)
    kernel = event_kernel(counter.nll.model[0])
    before = kernel.n_traces
    first, again = (fit_toys(counter.nll, 3, seed=2, progress=False) for _ in range(2))
    rest = fit_toys(counter.nll, 2, seed=2, first=1, progress=False)
    np.testing.assert_array_equal(rest.values, first.values.iloc[1:])
    assert kernel.n_traces == before
    np.testing.assert_array_equal(first.values, again.values)


def test_parameters_are_restored_after_an_exception(counter):
    class Broken(zfit.minimize.Minuit):
        def minimize(self, loss, *args, **kwargs):
            loss.get_params().pop().set_value(1.7)
            raise KeyboardInterrupt

    before = counter.state()
    with pytest.raises(KeyboardInterrupt):
        fit_toys(counter.nll, 2, minimizer=Broken(), progress=False)
    assert counter.state() == before


def test_pulls_are_those_of_valid_fits():
    values = pd.DataFrame({"mu": [1.0, 2.0, 3.0, 99.0]})
    fits = ToyFits({"mu": 2.0}, values, pd.DataFrame({"mu": [0.5] * 4}), np.array([True, True, True, False]))
    pulls = fits.pulls().loc["mu"]
    assert pulls.to_dict() == pytest.approx({"mean": 0, "width": 2, "mean_error": 2 / np.sqrt(3), "width_error": 1.0})
    assert "3 valid fits to 4 toys" in str(fits)
    with pytest.raises(ValueError, match="0 of 1 are valid"):
        ToyFits({"mu": 2.0}, values[:1], values[:1], np.array([False])).pulls()


def test_coverage_counts_valid_fits():
    """Pulls of 0.5, -0.9, 1.5 and, not valid, 0: two of three within one error, all within two."""
    values = pd.DataFrame({"mu": [2.25, 1.55, 2.75, 2.0]})
    fits = ToyFits({"mu": 2.0}, values, pd.DataFrame({"mu": [0.5] * 4}), np.array([True, True, True, False]))
    one = fits.coverage().loc["mu"]
    assert one["covered"] == pytest.approx(2 / 3)
    assert one["expected"] == pytest.approx(0.6827, abs=1e-4)
    assert one["error"] == pytest.approx(np.sqrt(0.6827 * 0.3173 / 3), rel=1e-3)
    # One of four is more than the error of the share, of a tenth.
    with pytest.warns(UserWarning, match="1 of 4 toys have no errors"):
        assert fits.coverage(2.0).loc["mu", "covered"] == 1.0
    with pytest.raises(ValueError, match="coverage needs valid fits"):
        ToyFits({"mu": 2.0}, values, values, np.zeros(4, bool)).coverage()


@pytest.mark.slow
def test_pulls_of_a_model_with_shape_and_rate_nuisances(bump):
    """The acceptance check: mean 0 +- 0.2, width 1 +- 0.15, for every parameter."""
    fits = fit_toys(bump.nll, 200, params=dict(zip(bump.parameters, (2.0, 0.3, -0.4), strict=True)), progress=False)
    assert fits.valid.mean() > 0.98
    pulls = fits.pulls()
    # 200 pulls: errors of 0.07 on the mean and 0.05 on the width, so that three of them fit.
    assert (pulls["mean"].abs() < 0.2).all()
    assert ((pulls["width"] - 1).abs() < 0.15).all()


@pytest.mark.slow
def test_refits_do_not_use_memory(counter):
    resource = pytest.importorskip("resource")
    loss = refillable(counter.nll)
    minimizer = Minuit()
    with preserved(counter.nll):
        for index in range(120):
            if index == 20:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            loss.data[0].update_data(toy(counter.nll, seed=index).data[0].value())
            minimizer.minimize(loss)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100e3  # kilobytes

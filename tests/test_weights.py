"""Weighted data: the errors of a fit correct for the weights (sandwich), against Gaussians known in closed form."""

from __future__ import annotations

import functools

import zfit
import numpy as np
import pytest
from analytic import GaussianFlow
from likelihoods import SIGMA, events, location, two_processes

from zfit_fnf import influence, limits, scans, toys
from zfit_fnf.limits.weights import check_weights
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.minimize import Minuit
from zfit_fnf.pdf import FlowPDF, SumPDF


@pytest.fixture(scope="module")
def mixture():
    return two_processes()


@functools.cache
def shared_location():
    return location()


def weighted_error(weights, *, n: int = 400, **hesse) -> float:
    jes, pdf = shared_location()
    jes.set_value(0.0)
    result = zfit.minimize.Minuit(gradient="zfit", mode=0).minimize(UnbinnedNLL(pdf, {"y": events(n)}, weights=weights))
    return float(result.hesse(method="hesse_np", **hesse)[jes]["error"])


def test_unit_weights_change_nothing():
    # The sample's variance is exact, and its mean is the fitted one up to the pull of the constraint, (0.15 / 401)^2.
    assert weighted_error(np.ones(400)) == pytest.approx(weighted_error(None), rel=1e-6)
    assert weighted_error(np.ones(400), weightcorr="sumw2") == pytest.approx(weighted_error(None), rel=1e-8)


@pytest.mark.parametrize("weightcorr", ["asymptotic", "sumw2"])
def test_sandwich_of_equal_weights(weightcorr):
    w, n = 2.0, 400
    # H = n w + 1; the scores' covariance is n w^2 of the data and 1 of the constraint.
    expected = np.sqrt(n * w**2 + 1) / (n * w + 1)
    assert weighted_error(np.full(n, w), weightcorr=weightcorr) == pytest.approx(expected, rel=1e-5)
    assert weighted_error(np.full(n, w), weightcorr=False) == pytest.approx(1 / np.sqrt(n * w + 1), rel=1e-5)


def test_sandwich_of_different_weights_and_a_tight_constraint():
    rng = np.random.default_rng(3)
    weights, y = rng.choice([-0.5, 1.0, 2.0], 50, p=[0.2, 0.4, 0.4]) / 20, events(50)
    jes, pdf = location()
    jes.observed.set_value(0.4)
    result = zfit.minimize.Minuit(gradient="zfit", mode=0, tol=1e-6).minimize(
        UnbinnedNLL(pdf, {"y": y}, weights=weights)
    )
    hessian = weights.sum() + 1
    best = (np.sum(weights * y / SIGMA) + 0.4) / hessian
    scores = weights * (y / SIGMA - best)
    expected = np.sqrt(np.sum(scores**2) + 1) / hessian
    assert float(jes.value()) == pytest.approx(best, abs=1e-3 * expected)  # where Minuit stops
    assert float(result.hesse()[jes]["error"]) == pytest.approx(expected, rel=1e-3)


def test_sandwich_of_an_extended_fit_counts():
    n = zfit.Parameter("n", 500.0, 0, 2000)
    weights = np.random.default_rng(4).uniform(0.5, 2.5, 400)
    nll = ExtendedUnbinnedNLL(
        FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), extended=n), {"y": events()}, weights=weights
    )
    result = zfit.minimize.Minuit(gradient="zfit", mode=0).minimize(nll)
    assert float(n.value()) == pytest.approx(weights.sum(), rel=1e-4)
    assert float(result.hesse(method="hesse_np")[n]["error"]) == pytest.approx(np.sqrt(np.sum(weights**2)), rel=1e-3)


@pytest.mark.slow
def test_sandwich_of_a_mixture_covers_toys(mixture):
    """The spread of the fitted strength over bootstrap-like toys with weights agrees with the quoted error."""
    model, (mu, *_) = mixture["model"], mixture["params"]
    rng, fitted, quoted = np.random.default_rng(6), [], []
    minimiser = zfit.minimize.Minuit(gradient="zfit", mode=0)
    try:
        for _ in range(60):
            y = np.concatenate([rng.normal(1.0, 0.7, rng.poisson(300)), rng.normal(-0.5, 1.5, rng.poisson(450))])
            weights = rng.choice([1.0, 3.0], len(y))  # mean 2: the yields of the model are 600 and 900
            zfit.param.set_values(mixture["params"], [1.0, 0.0, 0.0, 0.0])
            for nu in mixture["params"][1:]:
                nu.observed.set_value(rng.normal())
            result = minimiser.minimize(ExtendedUnbinnedNLL(model, {"y": y}, weights=weights))
            fitted.append(result.params[mu]["value"])
            quoted.append(result.hesse(mu, method="hesse_np")[mu]["error"])
    finally:
        for nu in mixture["params"][1:]:
            nu.observed.set_value(0.0)
    # The relative error of a standard deviation of 60 values is 9 %: four of them.
    assert np.std(fitted) / np.mean(quoted) == pytest.approx(1.0, abs=0.37)


def test_weighted_losses_of_zfit_are_left_to_zfit():
    obs, mu = zfit.Space("y", -20, 20), zfit.Parameter("mu", 0.0)
    data = zfit.Data.from_numpy(obs=obs, array=events()[:, None], weights=np.full(400, 2.0), name="data")
    result = zfit.minimize.Minuit().minimize(zfit.loss.UnbinnedNLL(zfit.pdf.Gauss(mu, SIGMA, obs=obs), data))
    assert float(result.hesse()[mu]["error"]) == pytest.approx(SIGMA / 20, rel=1e-3)


@pytest.mark.parametrize("weightcorr", ["asymptotic", "sumw2"])
def test_sandwich_beside_a_parameter_at_its_limit(weightcorr):
    """The width ends at its lower limit and has no error; the mean has that of a fixed width."""
    mean, width = zfit.Parameter("mean", 0.1), zfit.Parameter("width", 0.8, 0.7, 5.0)
    y, n, w = np.linspace(-1.0, 1.0, 200), 200, 2.0
    pdf = zfit.pdf.Gauss(mean, width, obs=zfit.Space("y", -100, 100))
    result = Minuit().minimize(UnbinnedNLL(pdf, {"y": y}, weights=np.full(n, w)))
    assert float(width.value()) == 0.7
    with pytest.warns(UserWarning, match=r"HESSE has no errors for \['width'\]"):
        errors = result.hesse(weightcorr=weightcorr)
    # H = n w / 0.7^2. The score's covariance is n w^2 / 0.7^2 by the weights, or by the scores, sum (w y)^2 / 0.7^4.
    covariance = {"sumw2": n * w**2 / 0.7**2, "asymptotic": np.sum((w * y) ** 2) / 0.7**4}[weightcorr]
    # Differences of gradients are right to 1e-4, and so is the mean, which ends within a thousandth of its error.
    assert errors[mean]["error"] == pytest.approx(np.sqrt(covariance) / (n * w / 0.7**2), rel=1e-3)
    assert np.isnan(errors[width]["error"])


def test_a_factor_on_all_weights_changes_nothing():
    """The likelihood is as flat as weights are small, and fits and derivatives go on until as much is left as without weights."""
    y = np.random.default_rng(4).normal(0.2, 1.2, 1000)
    found = {}
    for weight in (1.0, 1e-5):
        n, mean = zfit.Parameter("n", 900.0 * weight, 0.0, 5000.0 * weight), zfit.Parameter("mean", 0.0, -5.0, 5.0)
        width = zfit.Parameter("width", 1.0, 0.1, 10.0)
        model = zfit.pdf.Gauss(mean, width, obs=zfit.Space("y", -20.0, 20.0), extended=n)
        nll = ExtendedUnbinnedNLL(model, {"y": y}, weights=np.full(len(y), weight))
        result = Minuit().minimize(nll)
        result.hesse()
        assert result.valid
        units = np.array([weight, 1.0, 1.0])
        numbers = [(one["value"], one["hesse"]["error"]) for one in map(result.params.get, (n, mean, width))]
        found[weight] = np.transpose(numbers) / units
        moved = influence.of_events(nll, result, n=1)
        found[weight] = np.vstack([found[weight], moved[["n", "mean", "width"]].to_numpy()])
    (values, errors, moved), (others, other_errors, other_moved) = found.values()
    error = np.array([np.sqrt(1000.0), y.std() / np.sqrt(1000.0), y.std() / np.sqrt(2000.0)])
    np.testing.assert_allclose(values, [1000.0, y.mean(), y.std()], atol=3e-3 * error[2])
    np.testing.assert_allclose((others - values) / error, 0.0, atol=3e-3)
    np.testing.assert_allclose(other_errors, errors, rtol=2e-3)
    np.testing.assert_allclose(other_moved, moved, rtol=0.02, atol=1e-6)


def test_results_that_do_not_follow_weights_say_so():
    """The likelihood is that of n w events, while the mean fluctuates as that of n does; Asimov sets do not fluctuate."""
    y, w, width = np.random.default_rng(5).normal(0.2, 1.0, 400), 0.25, 1.0
    n, mean = zfit.Parameter("n", 100.0, 0.0, 500.0), zfit.Parameter("mean", 0.0, -5.0, 5.0)
    model = zfit.pdf.Gauss(mean, width, obs=zfit.Space("y", -20.0, 20.0), extended=n)
    nll = ExtendedUnbinnedNLL(model, {"y": y}, weights=np.full(len(y), w))
    result = Minuit().minimize(nll)
    assert result.hesse(mean)[mean]["error"] == pytest.approx(np.std(y) / np.sqrt(len(y)), rel=0.01)
    said = r"of weighted data are those of as many unweighted events .*sum 100, sum of squares 25.* about 0.5 times as large"
    with pytest.warns(UserWarning, match=f"errors of MINOS {said}.*hesse"):
        errors = result.errors(mean, method="minuit_minos", name="minos")[0]
    assert errors[mean]["upper"] == pytest.approx(width / np.sqrt(len(y) * w), rel=1e-3)
    with pytest.warns(UserWarning, match=f"profiles {said}.*hesse"):
        scans.profile(nll, result, mean, n_points=3, progress=False)
    with pytest.warns(UserWarning, match=f"contours {said}.*hesse"):
        scans.contour(nll, result, (n, mean), n_points=2, progress=False)
    with pytest.warns(UserWarning, match=f"limits and significances {said}.*simulated events"):
        limits.discovery(nll, n, n_asimov=200)
    result.errors(mean, method="minuit_minos", name="again")  # once
    expected = Minuit().minimize(toys.asimov(nll, params={n: 100.0, mean: 0.2}, n_events=2000).loss(nll))
    errors = expected.errors(mean, method="minuit_minos")[0]
    assert errors[mean]["upper"] == pytest.approx(width / np.sqrt(100.0), rel=0.02)


def test_limits_refuse_a_parameter_that_heavy_events_decide():
    """The weights fluctuate less than a number of events all together, but a strength whose events weigh 3 does more."""
    rng = np.random.default_rng(1)
    y = np.r_[rng.normal(-1.0, 0.5, 4000), rng.normal(3.0, 0.3, 20)]
    weights = np.r_[np.full(4000, 0.1), np.full(20, 3.0)]
    space = zfit.Space("y", -5.0, 5.0)
    signal, other = zfit.Parameter("signal", 60.0, 0.0, 500.0), zfit.Parameter("other", 400.0, 0.0, 5000.0)
    peaks = [
        zfit.pdf.Gauss(mean, width, obs=space, extended=n)
        for mean, width, n in ((3.0, 0.3, signal), (-1.0, 0.5, other))
    ]
    nll = ExtendedUnbinnedNLL(SumPDF(peaks), {"y": y}, weights=weights)
    assert np.sum(weights**2) < 0.5 * np.sum(weights)
    result = Minuit().minimize(nll)
    errors = [result.hesse(name=f"h{len(one)}", **one)[signal]["error"] for one in ({}, {"weightcorr": False})]
    assert errors[0] / errors[1] == pytest.approx(np.sqrt(3.0), rel=0.01)
    for ask in (limits.upper_limit, limits.discovery, limits.feldman_cousins):
        with pytest.raises(ValueError, match=r"decide parameters.* 'signal' 1\.73"):
            ask(nll, signal)
    with pytest.warns(UserWarning, match="limits and significances .* or more where heavy events decide"):
        significance = limits.discovery(nll, other, null=350.0, n_asimov=200).significance
    n = 400.0  # a counting experiment
    assert significance == pytest.approx(np.sqrt(2 * (n * np.log(n / 350.0) - n + 350.0)), rel=0.02)


def test_limits_are_refused_in_any_units():
    """Beside a mass that is known to 1e-7 a yield was no direction of the likelihood, and that few events make it not seen."""
    rng, unit = np.random.default_rng(1), 1e-6
    centre = zfit.Parameter("centre", 0.0, -unit, unit, stepsize=0.01 * unit)
    n_peak, n_flat = (
        zfit.Parameter(name, n, 0.0, 1e5, stepsize=20.0) for name, n in (("peak", 6000.0), ("flat", 400.0))
    )
    obs = zfit.Space("x", -9 * unit, 9 * unit)
    peak = zfit.pdf.Gauss(centre, unit, obs=obs, extended=n_peak)
    flat = zfit.pdf.Uniform(-9 * unit, 9 * unit, obs, extended=n_flat)
    x = np.concatenate([rng.normal(0.0, unit, 30_000), rng.uniform(-9 * unit, 9 * unit, 50)])
    measured = {"x": x, "w": np.repeat([0.2, 8.0], [30_000, 50])}
    nll = ExtendedUnbinnedNLL(SumPDF([peak, flat]), measured, weights="w")
    with pytest.raises(ValueError, match=r"by a factor of: 'flat' 2\.\d"):
        check_weights(nll, [n_flat], None)

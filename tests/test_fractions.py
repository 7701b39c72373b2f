"""Conditional fractions against the exact shares of Gaussian processes, and fits of mixtures with them."""

from __future__ import annotations

from dataclasses import replace

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from analytic import GaussianFlow
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import norm

import zfit_fnf as zfnf
from zfit_fnf.densities.fractions import FractionResponse, Fractions
from zfit_fnf.densities.reliability import Reliability
from zfit_fnf.pdf import ConditionalMixturePDF, FlowPDF
from zfit_fnf.pdf.base import draw
from zfit_fnf.samples import Sample
from zfit_fnf.train import Schedule, fit_fractions
from zfit_fnf.train.fractions import _Training

SHIFT, MOVED = 0.8, 0.3  # means of the conditions of the signal, and how far a nuisance moves the first
SCHEDULE = Schedule(steps=400, batch_size=2048, warmup=50, averaging=0.98)
SLOPES = {"signal": (0.5, 0.5), "background": (-0.5, 0.0)}  # of the mean of y, whose width is one


def conditions(process, n, rng, jes=0.0):
    mean = [SHIFT + MOVED * jes, SHIFT] if process == "signal" else [0.0, 0.0]
    x = rng.normal(mean, 1.0, (n, 2))
    return {"x1": x[:, 0], "x2": x[:, 1]}


def exact_log_ratio(x, jes=0.0):
    """Of signal to background."""
    a = np.array([SHIFT + MOVED * jes, SHIFT])
    return np.column_stack([x["x1"], x["x2"]]) @ a - 0.5 * a @ a


@pytest.fixture(scope="module")
def simulations():
    rng, n = np.random.default_rng(1), 30_000
    variations = [zfnf.Variation(conditions("signal", n, rng, side), at={"jes": side}) for side in (-1.0, 1.0)]
    signal = zfnf.Simulation(conditions("signal", n, rng), variations)
    # One background event in eleven has weight -1, and as many others undo it: a twelfth of events in x1 > 0 is too many.
    background = conditions("background", n, rng)
    extra = conditions("signal", n // 10, rng)
    both = {name: np.concatenate([background[name], extra[name], extra[name]]) for name in background}
    weights = np.repeat([1.0, 1.0, -1.0], [n, n // 10, n // 10])
    return {"signal": signal, "background": zfnf.Simulation(both, weights=weights)}


@pytest.fixture(scope="module")
def fractions(simulations):
    return fit_fractions(simulations, ["x1", "x2"], hidden=[16, 16], schedule=SCHEDULE, seed=1, progress=False)


@pytest.fixture(scope="module")
def plane():
    return conditions("background", 4000, np.random.default_rng(2))


def log_odds(fractions, x, jes=0.0):
    shares = fractions.shares(x, nu={"jes": jes})
    return np.log(shares["signal"] / shares["background"]).to_numpy()


def test_shares_are_those_of_the_densities(fractions, plane):
    """30 000 events know three numbers to about 1 / sqrt(30 000) each; networks some ten more."""
    assert fractions.reliability.passed
    assert np.std(log_odds(fractions, plane) - exact_log_ratio(plane)) < 0.08
    assert abs(np.mean(log_odds(fractions, plane) - exact_log_ratio(plane))) < 0.05
    shares = fractions.shares(plane, {"signal": 100.0, "background": 300.0})
    odds = np.log(shares["signal"] / shares["background"])
    np.testing.assert_allclose(odds, log_odds(fractions, plane) - np.log(3.0), atol=1e-9)
    chosen = pd.DataFrame(plane).sample(frac=0.5, random_state=1)
    again = fractions.shares(chosen, {"signal": 100.0, "background": 300.0})
    pd.testing.assert_frame_equal(again, shares.loc[chosen.index], rtol=1e-6)  # by which pandas assigns columns


@pytest.mark.parametrize("jes", [-1.0, 0.5, 1.0])
def test_nuisances_move_shares(fractions, plane, jes):
    moved = log_odds(fractions, plane, jes) - log_odds(fractions, plane)
    exact = exact_log_ratio(plane, jes) - exact_log_ratio(plane)
    assert np.std(exact) > 0.14  # what is tested is not small
    assert np.std(moved - exact) < 0.1  # 30 000 events and 17 features: 0.03 to 0.06
    assert abs(np.mean(moved - exact)) < 0.04


def mixture(fractions, mu, jes, n_signal=400.0, n_background=800.0):
    flows = {
        name: GaussianFlow([0.0], [1.0], obs=["y"], cond=["x1", "x2"], slope=slope) for name, slope in SLOPES.items()
    }
    yields = {"signal": zfnf.modified_yield(n_signal, [mu]), "background": n_background}
    pdfs = {name: FlowPDF(flow, extended=yields[name]) for name, flow in flows.items()}
    return ConditionalMixturePDF(pdfs, fractions, {"jes": jes})


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    parts = [conditions("signal", rng.poisson(400), rng, 0.5), conditions("background", rng.poisson(800), rng)]
    slopes = [np.array(SLOPES[name]) for name in ("signal", "background")]
    y = [rng.normal(slope @ [part["x1"], part["x2"]]) for slope, part in zip(slopes, parts, strict=True)]
    table = {name: np.concatenate([part[name] for part in parts]) for name in ("x1", "x2")}
    return {"y": np.concatenate(y), **table}


def exact_nll(point, data):
    mu, jes = point
    odds = mu * 0.5 * np.exp(exact_log_ratio(data, jes))
    p = {name: norm.pdf(data["y"] - np.array(s) @ [data["x1"], data["x2"]]) for name, s in SLOPES.items()}
    return -np.log((odds * p["signal"] + p["background"]) / (1 + odds)).sum() + 0.5 * jes**2


def exact_fit(data):
    """Strength and its error."""
    best = minimize(exact_nll, [1.0, 0.0], (data,), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}).x
    step = 0.05 * np.eye(2)
    hessian = [
        [sum(s * t * exact_nll(best + s * a + t * b, data) for s in (1, -1) for t in (1, -1)) / 0.01 for a in step]
        for b in step
    ]
    return best[0], np.linalg.inv(hessian)[0, 0] ** 0.5


def test_fit_is_that_of_the_exact_shares(fractions, data):
    mu, jes = zfit.Parameter("mu_of_mixture", 1.0, 0, 5), zfnf.nuisance("jes_of_mixture")
    nll = zfnf.loss.UnbinnedNLL(mixture(fractions, mu, jes), data)
    start = [1.0, 0.0]
    with zfit.param.set_values([mu, jes], [1.3, 0.4]):
        there = float(nll.value())
    with zfit.param.set_values([mu, jes], start):
        rise = there - float(nll.value())
    assert rise == pytest.approx(exact_nll([1.3, 0.4], data) - exact_nll(start, data), abs=0.3)
    result = zfnf.Minuit().minimize(nll)
    result.hesse()
    exact, error = exact_fit(data)
    # 30 000 simulated events for 1200 of the data leave about 0.2 errors of noise.
    assert abs(result.params[mu]["value"] - exact) < 1.0 * error
    assert result.params[mu]["hesse"]["error"] == pytest.approx(error, rel=0.15)


def test_events_are_drawn_with_these_shares(fractions, plane):
    mu, jes = zfit.Parameter("mu_drawn", 1.0, 0, 5), zfnf.nuisance("jes_drawn")
    pdf = mixture(fractions, mu, jes)
    x = np.column_stack([plane["x1"], plane["x2"]])
    zfit.settings.set_seed(5)
    y = draw(pdf, tf.constant(x)).numpy()[:, 0]
    share = fractions.shares(plane, {"signal": 400.0, "background": 800.0})["signal"].to_numpy()
    mean = share * (x @ SLOPES["signal"]) + (1 - share) * (x @ SLOPES["background"])
    spread = 1 + share * (1 - share) * (x @ np.subtract(*SLOPES.values())) ** 2
    pulls = (y - mean) / np.sqrt(spread)
    assert abs(pulls.mean()) < 4 / np.sqrt(len(y))
    assert abs((pulls * x[:, 1]).mean()) < 4 / np.sqrt(len(y))
    assert np.mean(pulls**2) == pytest.approx(1.0, abs=4 * np.sqrt(2 / len(y)))


def test_nuisances_outside_of_their_window_are_told(fractions):
    mu, jes = zfit.Parameter("mu_outside", 1.0, 0, 5), zfnf.nuisance("jes_outside")
    nll = zfnf.loss.UnbinnedNLL(mixture(fractions, mu, jes), {"y": [0.1], "x1": [0.0], "x2": [0.0]})
    with zfit.param.set_values([jes], [1.5]), pytest.warns(UserWarning, match="outside of the range"):
        nll.value()


def test_conditions_outside_of_the_training_are_told(fractions):
    """Some 2 % of the events, of a mixture that has shares of any conditions."""
    assert fractions.ranges["x1"][1] == pytest.approx(SHIFT + 4.0, abs=1.0)
    pdf = mixture(fractions, zfit.Parameter("mu_far", 1.0, 0, 5), zfnf.nuisance("jes_far"))
    x = np.append(np.zeros(49), 9.0)
    with pytest.warns(UserWarning, match=r"condition 'x1' of 'ConditionalMixturePDF' of 2 % of the events is outside"):
        zfnf.loss.UnbinnedNLL(pdf, {"y": np.zeros(50), "x1": x, "x2": np.zeros(50)}).value()


def test_shares_are_numbers_where_one_process_is_alone(fractions):
    far = {"x1": [1e6], "x2": [1e6]}  # the logarithm of the ratio is beyond what an exponential holds
    np.testing.assert_allclose(fractions.shares(far), [[1.0, 0.0]])
    shares = fractions.shares({"x1": [0.0], "x2": [0.0]}, {"signal": 0.0, "background": 1.0})
    np.testing.assert_array_equal(shares, [[0.0, 1.0]])
    with pytest.raises(ValueError, match="yields= are all zero"):
        fractions.shares({"x1": [0.0], "x2": [0.0]}, {"signal": 0.0, "background": 0.0})


def test_temperatures_that_events_do_not_know_stay_near_one(monkeypatch):
    """Events of two processes are each on their side, or on that of the other, as few of both signs may be."""
    training = _Training(Fractions(["s", "b"], ["x"], hidden=(4,), seed=1), SCHEDULE, 0, False)
    monkeypatch.setattr(
        training, "_logits", lambda samples: [np.outer(one.columns["x"], [1.0, 0.0]) for one in samples]
    )

    def temperature(sign, n):
        samples = [Sample({"x": np.full(n, side)}) for side in (sign, -sign)]
        training.calibrate(samples, samples)
        return float(training.fractions.temperature)

    for sign in (1.0, -1.0):

        def objective(k, sign=sign):
            return np.log1p(np.exp(-sign * np.exp(k))) + 0.5 * k**2 / (0.3**2 * 60)

        best = minimize_scalar(objective, bounds=(-1.5, 1.5), method="bounded").x
        assert temperature(sign, 30) == pytest.approx(np.exp(-best), rel=1e-3)
        assert temperature(sign, 30_000) == pytest.approx(np.exp(-1.5 * sign), rel=1e-6)


def test_bad_input_is_named():
    x = np.random.default_rng(1).normal(size=50)
    processes = {"signal": zfnf.Simulation({"x": x[:3]}), "background": zfnf.Simulation({"x": x})}
    with pytest.raises(ValueError, match="'signal, nominal' has 3 events, a tenth of which is to calibrate"):
        fit_fractions(processes, ["x"], progress=False)  # "has no events to learn from"
    with pytest.raises(ValueError, match="cond= names the conditions, one at least"):
        fit_fractions(processes, [], progress=False)


def test_variations_on_other_sides_of_two_processes_are_refused(simulations):
    """There is no range in which both are known: it ended with probabilities that are no numbers."""
    one_sided = {
        name: zfnf.Simulation(one.nominal, [zfnf.Variation(one.nominal, at={"jes": side})])
        for (name, one), side in zip(simulations.items(), (1.0, -1.0), strict=True)
    }
    with pytest.raises(ValueError, match=r"variations of 'jes' have no range in common.*'signal': \(0.0, 1.0\)"):
        fit_fractions(one_sided, ["x1", "x2"], progress=False)


def test_stored_fractions_are_the_same(fractions, plane, tmp_path):
    zfnf.save(fractions, tmp_path / "fractions.fnf")
    again = zfnf.load(tmp_path / "fractions.fnf")
    assert again.reliability == fractions.reliability
    assert again.ranges == fractions.ranges
    np.testing.assert_array_equal(log_odds(again, plane, 0.7), log_odds(fractions, plane, 0.7))


def test_reliability_finds_shares_that_are_wrong():
    rng = np.random.default_rng(4)
    odds = rng.normal(size=20_000)
    label = (rng.uniform(size=len(odds)) > 1 / (1 + np.exp(-odds))).astype(int)  # the first process is number 0

    def judged(factor):
        share = 1 / (1 + np.exp(-factor * odds))
        return Reliability.of(["a", "b"], np.column_stack([share, 1 - share]), label, np.ones(len(odds)))

    assert judged(1.0).passed
    assert judged(1.0).p_value > 1e-4
    assert judged(1.0).calibration_error < 0.01
    wrong = judged(1.5)
    assert not wrong.passed
    # Mean square of the difference of the shares, for a normal distribution of log-odds.
    expected = np.sqrt(np.mean((1 / (1 + np.exp(-1.5 * odds)) - 1 / (1 + np.exp(-odds))) ** 2))
    assert wrong.calibration_error == pytest.approx(expected, rel=0.15)


def test_integral_of_a_strong_response_is_that_over_all_events():
    """Of a density exp(-x) with the factor exp(nu x) it is 1 / (1 - nu); second order is 3 % off at 0.4."""
    x = Sample({"x": np.random.default_rng(6).exponential(size=200_000)})
    windows, responses = {"jes": (-0.4, 0.4)}, [FractionResponse("signal", ("jes",))]

    def normalised(n_events):
        found = Fractions(
            ["signal", "background"], ["x"], responses=responses, windows=windows, hidden=[], n_events=n_events
        )
        found.networks[0].weights[-1].assign([[1.0], [0.0]])
        _Training(found, SCHEDULE, 1, progress=False).normalise({"signal": x})
        return [float(found.log_integral(0, tf.constant([nu], tf.float64))) for nu in (-0.4, 0.4)]

    with pytest.warns(UserWarning, match=r"normalised to 0.03 only at jes = 0.4"):
        second = normalised(0)
    np.testing.assert_allclose(second, [-0.4 + 0.08, 0.4 + 0.08], atol=0.005)
    # 1024 events, drawn by their importance, know the orders beyond to 0.0016.
    np.testing.assert_allclose(normalised(1024), -np.log([1.4, 0.6]), atol=0.008)


def _judged_right_shares(n_signal, n_background, weigh, rng, inside=None):
    """Of two Gaussians 1.5 apart, with weights that do not depend on anything but the process and x."""
    x, label = rng.normal(np.repeat([1.5, 0.0], [n_signal, n_background])), np.repeat([0, 1], [n_signal, n_background])
    weights = np.where(label == 0, 1 / n_signal, weigh(x, rng) / n_background)
    share = 1 / (1 + np.exp(1.125 - 1.5 * x))
    own = inside and inside(x)
    return Reliability.of(["s", "b"], np.column_stack([share, 1 - share]), label, weights, inside=own)


def _signs(x, rng):
    """Most weights are negative where the signal is, and one on average everywhere."""
    negative = np.where(x > 1.0, 0.45, 0.1)
    return np.where(rng.uniform(size=len(x)) < negative, -1.0, 1.0) / (1 - 2 * negative)


@pytest.mark.parametrize(
    ("n_signal", "weigh", "inside"),
    [
        (300, lambda x, rng: np.ones(len(x)), None),  # 29 of 100 such were refused
        (60, lambda x, rng: np.ones(len(x)), lambda x: x < 0.0),  # all
        (3000, _signs, None),  # 50 of 100
    ],
)
def test_right_shares_of_unequal_samples_and_of_signed_weights_pass(n_signal, weigh, inside):
    """Few events of large weight beside many of small weight: what a bin without any of the few scatters by is not small."""
    judged = [_judged_right_shares(n_signal, 3000, weigh, np.random.default_rng(k), inside) for k in range(40)]
    assert all(one.passed for one in judged)
    assert np.mean([one.p_value < 0.1 for one in judged]) <= 0.2  # 0.05 is expected, and 0.8 or more were
    assert min(one.p_value for one in judged) > 1e-3


def test_right_shares_pass_in_cells_of_what_they_do_not_depend_on():
    """All shares are in each cell, and weights are large and negative where some of them are: 23 of 100 were refused."""
    p_values = []
    for k in range(40):
        rng = np.random.default_rng(k)
        x, label = rng.normal(np.repeat([1.5, 0.0], 3000)), np.repeat([0, 1], 3000)
        share = 1 / (1 + np.exp(1.125 - 1.5 * x))
        weights, cells = np.where(label == 0, 1.0, _signs(x, rng)) / 3000, rng.integers(16, size=len(x))
        judged = Reliability.of(["s", "b"], np.column_stack([share, 1 - share]), label, weights, cells=cells)
        p_values.append(judged.p_value)
    assert np.mean(np.array(p_values) < 0.1) <= 0.2  # 0.7 were
    assert min(p_values) > 1e-3


def test_shares_that_fail_in_a_part_of_a_condition_are_refused():
    """A classifier that knows nothing is right on average, and not for the largest x."""
    rng, n = np.random.default_rng(7), 100_000
    found = Fractions(["signal", "background"], ["x"], hidden=[])
    found.network.weights[-1].assign(np.zeros((2, 2)))
    x = rng.normal(size=n)
    label = rng.uniform(size=n) < np.where(x > 0.7, 0.6, 0.47)  # of the background, about half in all
    samples = [Sample({"x": x[label == own]}) for own in (False, True)]
    judged = _Training(found, SCHEDULE, 1, progress=False).reliability(samples)
    assert not judged.passed
    assert judged.region.startswith("x from 0.6")
    assert "with x from 0.6" in str(judged)


def test_fractions_that_are_not_confirmed_are_refused(fractions):
    mu, jes = zfit.Parameter("mu_refused", 1.0, 0, 5), zfnf.nuisance("jes_refused")
    arguments = fractions.config()
    with pytest.raises(ValueError, match="have no reliability"):
        mixture(Fractions(**{**arguments, "reliability": None}), mu, jes)
    known = fractions.reliability
    wrong = replace(known, observed=tuple(share + 0.1 for share in known.observed))
    refused = Fractions(**{**arguments, "reliability": wrong})
    with pytest.raises(ValueError, match="NOT CONFIRMED by held-out events"):
        mixture(refused, mu, jes)
    with pytest.raises(ValueError, match="NOT CONFIRMED by held-out events"):
        refused.shares({"x1": [0.0], "x2": [0.0]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["signal"], "takes the Simulation of each process"),
        (lambda s: {"signal": s["signal"]}, "two or more processes"),
        (lambda s: {**s, "top": zfnf.Simulation({"x1": [], "x2": []})}, "top, nominal.*no events"),
        (lambda s: {**s, "top": zfnf.Simulation({"x1": [1.0]})}, "x2"),
    ],
)
def test_bad_simulations_are_refused(simulations, change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fit_fractions(change(simulations), ["x1", "x2"], schedule=SCHEDULE, progress=False)


def test_pdfs_that_do_not_fit_are_refused(fractions):
    one = FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), extended=1.0)
    plain = FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]))
    other = FlowPDF(GaussianFlow([0.0], [1.0], obs=["z"]), extended=1.0)
    condition = FlowPDF(GaussianFlow([0.0], [1.0], obs=["x1"]), extended=1.0)
    jes = {"jes": zfnf.nuisance("jes_unfit")}
    for pdfs, message in [
        ([one, one], "takes the PDF of each process"),
        ({"signal": one}, "but the fractions of"),
        ({"signal": one, "background": plain}, "'background'.* has no yield"),
        ({"signal": one, "background": other}, "different observables"),
        ({"signal": condition, "background": condition}, "are conditions of the fractions"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            ConditionalMixturePDF(pdfs, fractions, jes)
    with pytest.raises(ValueError, match="lacks a parameter for"):
        ConditionalMixturePDF({"signal": one, "background": one}, fractions)
    with pytest.raises(ValueError, match="no window"):
        Fractions(["a", "b"], ["x"], responses=[FractionResponse("a", ("jes",))])


def test_fractions_of_few_events_are_near_the_exact_ones():
    """A signal with a bent density in two conditions: 1000 events of each process stopped training with a singular matrix."""
    rng = np.random.default_rng(1002)

    def bent(n):
        x1 = rng.normal(0.7, 0.8, n)
        return {"x1": x1, "x2": rng.normal(0.5 * x1**2 - 0.4, 0.6)}

    def flat(n):
        return {"x1": rng.normal(size=n), "x2": rng.normal(size=n)}

    simulations = {"signal": zfnf.Simulation(bent(1000)), "background": zfnf.Simulation(flat(1000))}
    learned = fit_fractions(simulations, ["x1", "x2"], schedule=Schedule(steps=1000), seed=1, progress=False)
    signal, background = bent(20_000), flat(20_000)
    x = {name: np.concatenate([signal[name], background[name]]) for name in signal}
    exact = norm.logpdf(x["x1"], 0.7, 0.8) + norm.logpdf(x["x2"], 0.5 * x["x1"] ** 2 - 0.4, 0.6)
    exact = 1.0 / (1.0 + np.exp(norm.logpdf(x["x1"]) + norm.logpdf(x["x2"]) - exact))
    share = learned.shares(x)["signal"].to_numpy()
    gap = np.mean(exact * np.log(exact / share) + (1.0 - exact) * np.log((1.0 - exact) / (1.0 - share)))
    assert gap < 0.03  # nats; eight numbers that describe the two densities would cost 4 / 2000


@pytest.mark.parametrize("columns", [("x", "y"), ("x",)])
def test_shares_that_are_the_same_everywhere_are_refused(columns):
    """Where signs of x and y agree 0.8 are signal, else 0.2; or so where x is between some of its values."""
    rng, n = np.random.default_rng(8), 20_000
    found = Fractions(["signal", "background"], columns, hidden=[])
    found.network.weights[-1].assign(np.zeros((len(columns) + 1, 2)))
    x, y = rng.uniform(-1, 1, size=(2, n))
    is_signal = rng.uniform(size=n) < np.where(x * y > 0 if "y" in columns else np.sin(8 * np.pi * x) > 0, 0.8, 0.2)
    table = {"x": x, "y": y}
    samples = [Sample({one: table[one][is_signal == own] for one in columns}) for own in (True, False)]
    judged = _Training(found, SCHEDULE, 1, progress=False).reliability(samples)
    assert not judged.passed
    assert judged.calibration_error == pytest.approx(0.3, abs=0.02)
    assert ("4 x 4 parts of x and y" if "y" in columns else "16 parts of x") in str(judged)


def test_right_shares_pass_in_all_parts_of_the_conditions():
    """Of four conditions, with few events and with many: none of 30 is refused."""
    for n in (100, 2000):
        for seed in range(15):
            rng = np.random.default_rng(seed)
            found = Fractions(["signal", "background"], list("abcd"), hidden=[])
            slope = rng.normal(size=4)
            weights = np.zeros(found.network.weights[-1].shape)
            weights[:4, 0] = slope
            found.network.weights[-1].assign(weights)
            x = rng.normal(size=(n, 4))
            is_signal = rng.uniform(size=n) < 1 / (1 + np.exp(-x @ slope))
            samples = [Sample(dict(zip("abcd", x[is_signal == own].T, strict=True))) for own in (True, False)]
            assert _Training(found, SCHEDULE, 1, progress=False).reliability(samples).passed


def test_reliability_of_bins_without_a_single_event_of_the_other_process():
    """Right shares of 0.02: a third of 15 bins of 60 events has none, from which differences had no error."""
    rng = np.random.default_rng(1)
    passed = 0
    for _ in range(20):
        share = 0.02 + 1e-4 * rng.uniform(size=900)
        labels = (rng.uniform(size=900) > share).astype(int)
        curve = Reliability.of(("signal", "background"), np.column_stack([share, 1.0 - share]), labels, np.ones(900))
        passed += curve.p_value > 1e-4
        assert min(curve.error) > 0.015  # sqrt(0.02 * 0.98 / 60) = 0.018
    assert passed >= 18  # chi2 of counts around one has longer tails than that of Gaussians

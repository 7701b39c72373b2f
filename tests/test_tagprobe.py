"""Efficiencies as functions of two conditions, of a toy with a known map."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from scipy import optimize, stats
from scipy.special import expit

from zfit_fnf.datasets import TagAndProbe
from zfit_fnf.densities.flows import Flow
from zfit_fnf.plotting import tagprobe as plots
from zfit_fnf.storage import inspect, load, save
from zfit_fnf.tagprobe import (
    Bernstein,
    ErfcExponential,
    Exponential,
    LearnedSignal,
    Peak,
    export_correction,
    fit,
)
from zfit_fnf.tagprobe.model import Likelihood, Quadrature, log_normalised
from zfit_fnf.tagprobe.pairs import Columns, Pairs
from zfit_fnf.train import Schedule

WINDOW = (60.0, 120.0)
SETTINGS = {**TagAndProbe.columns, "progress": False}
SHORT = Schedule(steps=250, batch_size=1024, warmup=50, averaging=0.98)
efficiency = TagAndProbe.efficiency


@pytest.fixture(scope="module")
def data():
    return TagAndProbe().simulate(10_000, seed=1)


@pytest.fixture(scope="module")
def result(data):
    found = fit(data, Peak(), Exponential(), members=2, hidden=[8, 8], schedule=SHORT, seed=1, **SETTINGS)
    # That fits with other shapes are made at all is for the slow test of real electrons.
    return replace(found, alternatives={"other": replace(found, members=found.members[:1])})


def test_map_is_found_within_its_errors(result):
    a, b = (grid.ravel() for grid in np.meshgrid([-0.7, 0.0, 0.7], [-0.7, 0.0, 0.7]))
    found = result.efficiency({"a": a, "b": b})
    pulls = (found.values - efficiency(a, b)) / found.errors
    # Nine points share about four directions; a right map has larger values less than once in 10^4 data sets.
    assert np.sqrt(np.mean(pulls**2)) < 2.8
    assert np.ptp(efficiency(a, b)) > 10 * found.errors.mean()  # what is tested is not flat
    assert np.linalg.eigvalsh(found.covariance)[0] > -1e-12


def test_weights_that_cancel_are_told_where_a_fit_fails(data, monkeypatch):
    """The peak was called too narrow, which it had become around events of positive weight."""
    few = data[:500].assign(w=np.where(np.arange(500) % 5 < 2, -1.0, 1.0))
    monkeypatch.setattr("zfit_fnf.tagprobe.training.Training.member", lambda *_: (None, 0.5))
    for weights, reason in (("w", "40% of the weights are negative"), (None, "a peak is too narrow")):
        with pytest.raises(ValueError, match=f"with 360 nodes: {reason}"):
            fit(few, Peak(), Exponential(), weights=weights, members=1, hidden=[4], schedule=SHORT, **SETTINGS)


def test_integrated_efficiency_and_its_error(result, data):
    inside = result.bins({"low": lambda x: x["a"] < 0, "high": lambda x: x["a"] >= 0})
    for name, value, error in zip((data["a"] < 0, data["a"] >= 0), inside.values, inside.errors, strict=True):
        own = data[name & data["signal"]]
        assert abs(value - efficiency(own["a"], own["b"]).mean()) < 4 * error
        # Pure signal would have the binomial error; the background, which has to be subtracted, adds a few tens of per cent.
        assert 0.95 < error / np.sqrt(value * (1 - value) / len(own)) < 1.7


def test_scale_factor_of_independent_fits(result):
    points = {"a": [0.0, 0.5], "b": [0.2, -0.3]}
    ratio, own = result.scale_factor(result, points), result.efficiency(points)
    np.testing.assert_allclose(ratio.values, 1.0)
    np.testing.assert_allclose(ratio.errors, np.sqrt(2) * own.errors / own.values, rtol=1e-9)


def test_fits_with_other_conditions_are_asked_at_the_same_probes(result, data):
    """Columns in another order, and pairs that another fit has standardised."""
    few, columns = data[data["b"] > -0.5], {**SETTINGS, "cond": ["b", "a"]}
    short = Schedule(steps=20, batch_size=512, warmup=5, averaging=0.9)
    other = fit(few, Peak(), Exponential(), members=1, hidden=[4], schedule=short, seed=2, **columns)
    small = fit(
        few,
        Peak(),
        Exponential(),
        weights=np.full(len(few), 1e-3),
        members=1,
        hidden=[4],
        schedule=short,
        seed=2,
        **columns,
    )
    before, after = other.efficiency(few.head(20)), small.efficiency(few.head(20))
    # Weights that are all the same say nothing: a prior counted a thousand times as much with these, and errors were ten times
    # too large.
    np.testing.assert_allclose(after.values, before.values, rtol=1e-6)
    np.testing.assert_allclose(after.covariance, before.covariance, rtol=1e-5, atol=1e-12)
    own = result._pairs(few)
    shares, regions = result.signal_share(own), {"all": lambda x: x["b"] > -2}
    expected = np.average(other.efficiency(few).values, weights=shares)
    ratio = result.bins(regions, few, over=other)
    assert ratio.values[0] == pytest.approx(result.bins(regions, few).values[0] / expected, rel=1e-9)
    for one in (other.pairs, own):  # not moments of the fit that made them
        np.testing.assert_allclose(result.bins(regions, one).values, result.bins(regions, few).values, rtol=1e-12)
        np.testing.assert_allclose(other.bins(regions, one).values, other.bins(regions).values, rtol=1e-12)
    with pytest.raises(
        ValueError, match="the data have 'b' from"
    ):  # of the whole range, of which the other knows a part
        result.bins(regions, over=other)
    more = replace(other, columns=replace(other.columns, cond=("b", "c")))
    with pytest.raises(ValueError, match=r"over= has the conditions \['c'\]"):
        result.bins(regions, few, over=more)


@pytest.mark.parametrize("shape", [Exponential(), ErfcExponential(), Bernstein(3), Peak(0.1, 0.2)])
def test_shapes_are_normalised(shape):
    rng = np.random.default_rng(1)
    fine = np.linspace(-1, 1, 4001)
    a = np.tile(np.array(shape.start) + 0.1 * rng.normal(size=len(shape.start)), (len(fine), 1))
    density = np.exp(log_normalised(shape, tf.constant(fine), tf.constant(a), tf.zeros((len(fine), 1), tf.float64)))
    assert np.trapezoid(density, fine) == pytest.approx(1.0, abs=2e-4)  # a kink of the peak's second derivative


def test_narrow_peaks_are_noticed_by_their_integral():
    x = tf.zeros((3, 1), tf.float64)

    def error(width, n_nodes):
        likelihood = Likelihood((Peak(0.31, width),), (Exponential(),) * 2, Quadrature(n_nodes=n_nodes))
        return likelihood.integral_error(tf.constant(np.tile([0.0, 0.0, 0.0, *likelihood.start], (3, 1))), x)

    assert error(0.2, 5) < 3e-4  # a kink where tails begin
    assert error(0.02, 5) > 1e-2
    assert error(0.02, 40) < 1e-3


def test_learned_signal_is_the_flow_moved():
    flow = Flow(["m"], ["a"], standardisation={"m": (90.0, 5.0)}, hidden=(4,), n_components=2, seed=1)
    shape, at = LearnedSignal(flow, WINDOW, "m", ["b", "a"]), np.array([-0.2, 0.0, 0.3])
    x = tf.constant([[7.0, 0.1], [7.0, 0.2], [7.0, 0.3]], tf.float64)
    moved = shape.log_shape(tf.constant(at), tf.constant([[0.5, np.log(1.2)]] * 3, tf.float64), x)
    expected = flow.log_prob({"m": 90 + 30 * (at - 0.05) / 1.2, "a": [0.1, 0.2, 0.3]})
    np.testing.assert_allclose(moved, expected, atol=1e-9)


def test_errors_of_weighted_pairs_without_background(data):
    """What a background does is not determined then: errors of all else, which weights decide, must not change with that."""
    own = data[data["signal"]]
    low = own["a"].to_numpy() < 0
    weights, passes = np.where(low, 0.3, 2.0), own["id"].to_numpy(float)
    short = Schedule(steps=100, batch_size=1024, warmup=20, averaging=0.9)
    found = fit(own, Peak(), Exponential(), weights=weights, members=1, hidden=[8], schedule=short, seed=1, **SETTINGS)
    integrated = found.bins({"low": low, "all": np.ones(len(own), bool)})
    for inside, error, tolerance in zip((low, low | True), integrated.errors, (0.25, 0.05), strict=True):
        w = weights[inside]
        direct = np.sqrt(np.sum(w**2 * (passes[inside] - np.average(passes[inside], weights=w)) ** 2)) / w.sum()
        assert error == pytest.approx(direct, rel=tolerance)


def test_alternative_shapes_are_an_uncertainty_of_their_own(result):
    points = {"a": [-0.5, 0.5], "b": [0.3, -0.2]}
    found, other = result.efficiency(points), result.alternatives["other"].efficiency(points)
    difference = other.values - found.values
    np.testing.assert_allclose(found.sources["other"], np.outer(difference, difference))
    np.testing.assert_allclose(found.covariance, sum(found.sources.values()))
    assert list(found.to_dataframe()) == ["value", "error", "statistics", "networks", "other"]


def test_spectrum_is_what_data_have(result, data):
    low = {passing: result.spectrum(passing, lambda x: x["a"] < 0, bins=30) for passing in (True, False)}
    own = data[data["a"] < 0]
    for passing, one in low.items():
        assert one.observed.sum() == (own["id"] == passing).sum()
        expected = one.signal + one.background
        assert expected.sum() == pytest.approx(one.observed.sum(), rel=0.03)  # 3 standard deviations of failing ones
        # 30 bins; a right model has more than 75 less than once in 10^4 data sets.
        assert np.sum((one.observed - expected) ** 2 / one.expected_variance) < 75
        truth = np.sum(own["signal"] & (own["id"] == passing))
        assert one.signal.sum() == pytest.approx(truth, rel=0.16)  # four standard deviations of the failing ones


def test_spectrum_without_pairs_of_an_outcome_has_the_errors_of_what_is_expected(result, data):
    passing = data["id"].to_numpy() & (data["a"] > 0.5).to_numpy()
    found = result.spectrum(False, passing, bins=10)
    assert not found.observed.any()
    np.testing.assert_allclose(found.expected_variance, found.signal + found.background)


def test_a_file_has_all_but_the_pairs(result, data, tmp_path):
    save(result, tmp_path / "id.fnf")
    again = load(tmp_path / "id.fnf")
    points = {"a": [-0.5, 0.5], "b": [0.3, -0.2]}
    one, other = result.efficiency(points), again.efficiency(points)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.covariance, other.covariance)
    regions = {"low": lambda x: x["a"] < 0}
    with pytest.raises(ValueError, match="a file has no pairs"):
        again.bins(regions)
    np.testing.assert_array_equal(again.bins(regions, data).values, result.bins(regions).values)
    np.testing.assert_array_equal(again.spectrum(True, pairs=data).signal, result.spectrum(True).signal)
    assert again.to_dict()["alternatives"] == ["other"]
    assert json.dumps(result.to_dict())
    assert "efficiency of id given a, b" in str(inspect(tmp_path / "id.fnf"))


def test_correction_is_read_by_correctionlib(result, tmp_path):
    correctionlib = pytest.importorskip("correctionlib")
    path, edges = tmp_path / "id.json", {"a": [-1.0, 0.0, 1.0], "b": [-1.0, 0.5, 1.0]}
    found = export_correction(result, path, edges)
    correction = correctionlib.CorrectionSet.from_file(str(path))["id"]
    at = np.array([[-0.5, 0.0], [-0.5, 0.7], [0.5, 0.0], [0.5, 0.7]]).T
    np.testing.assert_allclose(correction.evaluate(*at, "nominal"), found.values)
    np.testing.assert_allclose(correction.evaluate(*at, "up"), found.values + found.errors)
    statistics = np.sqrt(np.diag(found.sources["statistics"]))
    np.testing.assert_allclose(correction.evaluate(*at, "statistics_down"), found.values - statistics)
    one = result.bins({"one": lambda x: (x["a"] >= 0) & (x["b"] < 0.5)})
    assert found.values[2] == pytest.approx(one.values[0], rel=1e-12)
    endless = export_correction(result, path, {"a": [-np.inf, 0.0, np.inf], "b": [-1.0, 1.0]})
    read = correctionlib.CorrectionSet.from_file(str(path))["id"]
    np.testing.assert_allclose(read.evaluate(np.array([-7.0, 7.0]), np.zeros(2), "nominal"), endless.values)
    ones = export_correction(result, path, edges, over=result)
    np.testing.assert_allclose(ones.values, 1.0)
    with pytest.raises(ValueError, match="edges= are those of the conditions"):
        export_correction(result, path, {"a": [0, 1]})


def test_plots_hold_what_the_fit_says(result):
    figure = Figure()
    axes = figure.subplots(2, 2).ravel()
    grid = {"a": np.linspace(-0.9, 0.9, 4), "b": np.linspace(-0.8, 0.8, 3)}
    plots.efficiency_map(result, grid, titles={"a": "a [GeV]"}, ax=axes[0])
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("a [GeV]", "b")
    corner = result.efficiency({"a": [0.9], "b": [-0.8]}).values[0]
    assert axes[0].collections[0].get_array().reshape(3, 4)[0, 3] == pytest.approx(corner)
    plots.efficiency_slice(result, "a", grid["a"], at={"b": -0.8}, ax=axes[1])
    assert axes[1].lines[0].get_ydata()[-1] == pytest.approx(corner)
    plots.mass(result.spectrum(False, bins=20), unit="GeV", ax=axes[2], ax_pulls=axes[3])
    assert "failing probes" in axes[2].get_legend().get_title().get_text()
    with pytest.raises(ValueError, match=r"together are of the conditions \['a', 'b'\]"):
        plots.efficiency_slice(result, "a", grid["a"], ax=axes[1])


def test_two_signals_have_coefficients_of_their_own():
    one, x = Peak(0.1, 0.2), tf.zeros((2, 1), tf.float64)
    start = [*one.start, *Peak(-0.3, 0.1).start, 0.5, 0.5]
    eta, t = tf.constant([[0.0, 0.0, 0.0, *start]] * 2, tf.float64), tf.constant([0.05, 0.05], tf.float64)
    passing = tf.constant([1.0, 0.0], tf.float64)
    expected = [
        log_normalised(one, t[:1], tf.constant([start[4 * k : 4 * k + 4]], tf.float64), x[:1]).numpy()[0]
        for k in (0, 1)
    ]
    for signals in ((one, one), (one, Peak())):  # evaluated once, and twice
        found = Likelihood(signals, (Exponential(),) * 2).log_masses(eta, t, passing, x)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_learned_signals_that_end_at_the_window_are_refused():
    flow = Flow(["m"], ["a"], ranges={"m": WINDOW}, hidden=(4,), n_components=2, seed=1)
    with pytest.raises(ValueError, match=r"learn it from 54 to 126 at least"):
        LearnedSignal(flow, WINDOW, "m", ["a"])
    with pytest.raises(ValueError, match=r"given \['a'\]; the fit is of 'm' given \['b'\]"):
        LearnedSignal(flow, WINDOW, "m", ["b"])


class Endless(Exponential):
    """One that is infinite at an end of the window."""

    def log_shape(self, t, a, x):
        return super().log_shape(t, a, x) + tf.where(t > 0.99, np.inf * tf.ones_like(t), 0.0)


def test_regions_of_two_conditions_without_failing_probes_are_told(data):
    corner = (data["a"] > 0.45) & (data["b"] > 0.45)
    columns = Columns.of(**TagAndProbe.columns)
    sample = columns.read(data.assign(id=data["id"] | corner))
    with pytest.warns(
        UserWarning, match=r"a from 0\..* and b from 0\..* fail: what is fitted there is an extrapolation"
    ):
        Pairs(sample, columns, columns.moments(sample)).check_outcomes()


def test_bad_input_is_refused(result, data):
    with pytest.raises(ValueError, match="the data have 'a' from"):
        result.efficiency({"a": [1.5], "b": [0.0]})
    with pytest.raises(ValueError, match=r"no pairs are in the regions \['none'\]"):
        result.bins({"none": lambda x: x["a"] > 2})
    all_pass = data.assign(id=data["id"] | (data["b"] > 0.4))
    with pytest.raises(ValueError, match=r"no probes with b from .* to .* fail"):
        fit(all_pass, Peak(), Exponential(), **SETTINGS)
    with pytest.raises(ValueError, match="says whether probes pass"):
        fit(data.assign(id=0.5), Peak(), Exponential(), **SETTINGS)
    with pytest.raises(TypeError, match="background= is a shape of the mass"):
        fit(data, Peak(), "exponential", **SETTINGS)
    with pytest.raises(ValueError, match="Endless cannot be normalised over the window"):
        fit(data, Peak(), Endless(), **SETTINGS)
    with pytest.raises(ValueError, match=r"no pairs of .* in the window"):
        fit(data, Peak(), Exponential(), **{**SETTINGS, "window": (200, 300)})
    with pytest.raises(ValueError, match=r"a name other than .*; got 'denominator'"):  # the error of scale factors
        fit(data, Peak(), Exponential(), alternatives={"denominator": {"signal": Peak()}}, **SETTINGS)
    with pytest.raises(ValueError, match=r"a name other than .*; got 'value'"):  # a column of tables, which it replaced
        fit(data, Peak(), Exponential(), alternatives={"value": {"signal": Peak()}}, **SETTINGS)
    with pytest.raises(ValueError, match="alternative 'x' replaces signal, background or both"):
        fit(data, Peak(), Exponential(), alternatives={"x": {"shape": Peak()}}, **SETTINGS)
    with pytest.raises(ValueError, match="a region says true or false of each of"):
        result.bins({"x": [1.0, 2.0]})


@pytest.mark.parametrize("passing", [True, False])
def test_errors_of_efficiencies_at_an_end(passing):
    """Of a thousand probes of the signal one fails (or passes), and the background fluctuates: one (zero) fits best.

    The error was 2e-6 there, where the truth is 1e-3 away.
    """
    rng, n = np.random.default_rng(1), 8000
    a, is_signal = rng.uniform(-1, 1, n), rng.uniform(size=n) < 0.6
    m = np.where(is_signal, rng.normal(90, 3, n), rng.uniform(*WINDOW, n))
    passes = (rng.uniform(size=n) < np.where(is_signal, 0.999, 0.3)) == passing
    columns = {**SETTINGS, "cond": ["a"]}
    short = Schedule(steps=150, batch_size=1024, warmup=20, averaging=0.98)
    pairs = {"m": m, "a": a, "id": passes}
    made = fit(pairs, Peak(), Exponential(), members=1, hidden=[4], schedule=short, seed=1, **columns)
    found = made.bins({"all": np.ones(n, bool)})

    # With known shapes: where the likelihood falls by 1/2, the share and the efficiency of the background at their best.
    signal = stats.norm(90, 3).pdf(m)
    own = passes == passing

    def negative(lost, rest):
        share, of_background = expit(rest)
        efficiency, of_background = (np.where(own, e, 1 - e) for e in (1 - lost, of_background))
        return -np.sum(np.log(share * efficiency * signal + (1 - share) * of_background / 60))

    def best(lost):
        return optimize.minimize(lambda rest: negative(lost, rest), [0.4, -0.8]).fun

    lowest = optimize.minimize_scalar(best, bounds=(1e-9, 0.02), method="bounded", options={"xatol": 1e-6})
    up = optimize.brentq(lambda lost: best(lost) - lowest.fun - 0.5, max(lowest.x, 1e-6), 0.02, xtol=1e-6)
    lost = 1 - found.values[0] if passing else found.values[0]
    assert lost == pytest.approx(lowest.x, abs=0.3 * (up - lowest.x))
    assert found.errors[0] == pytest.approx(up - lowest.x, rel=0.3)  # other shapes, and a network beside a constant
    assert abs(lost - 0.001) < 3 * found.errors[0]

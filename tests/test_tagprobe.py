"""Efficiencies as functions of two conditions, of a toy with a known map."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy.special import expit

from zfit_fnf.densities.flows import Flow
from zfit_fnf.tagprobe import Bernstein, ErfcExponential, Exponential, LearnedSignal, Peak, fit
from zfit_fnf.tagprobe.model import Likelihood, log_normalised
from zfit_fnf.tagprobe.shapes import nodes
from zfit_fnf.train import Schedule

WINDOW = (60.0, 120.0)
SETTINGS = {"mass": "m", "window": WINDOW, "passing": "id", "cond": ["a", "b"], "progress": False}


def efficiency(a, b):
    return expit(1.4 + 0.7 * a - 0.8 * b**2 + 0.4 * a * b)


def pairs(n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-1, 1, (2, n))
    is_signal = rng.uniform(size=n) < expit(1.0 + 0.4 * a)
    passing = rng.uniform(size=n) < np.where(is_signal, efficiency(a, b), expit(-0.6 + 0.5 * b))
    slope = np.where(passing, 0.8, 0.3)
    falling = -1 - np.log1p(rng.uniform(size=n) * np.expm1(-2 * slope)) / slope
    t = np.where(is_signal, rng.normal(0.05 * a, 0.1 + 0.02 * b), falling)
    table = pd.DataFrame({"a": a, "b": b, "m": 90 + 30 * t, "id": passing, "signal": is_signal})
    return table[np.abs(t) < 1].reset_index(drop=True)


@pytest.fixture(scope="module")
def data():
    return pairs(20_000, 1)


@pytest.fixture(scope="module")
def result(data):
    schedule = Schedule(steps=400, batch_size=1024, warmup=50, averaging=0.98)
    return fit(data, Peak(), Exponential(), members=2, hidden=[8, 8], schedule=schedule, seed=1, **SETTINGS)


def test_map_is_found_within_its_errors(result):
    a, b = (grid.ravel() for grid in np.meshgrid([-0.7, 0.0, 0.7], [-0.7, 0.0, 0.7]))
    found = result.efficiency({"a": a, "b": b})
    pulls = (found.values - efficiency(a, b)) / found.errors
    # Nine points share about four directions; a right map has larger values less than once in 10^4 data sets.
    assert np.sqrt(np.mean(pulls**2)) < 2.8
    assert np.ptp(efficiency(a, b)) > 10 * found.errors.mean()  # what is tested is not flat
    assert np.linalg.eigvalsh(found.covariance)[0] > -1e-12


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
        likelihood = Likelihood(Peak(0.31, width), Exponential(), n_nodes)
        return likelihood.integral_error(tf.constant(np.tile([0.0, 0.0, 0.0, *likelihood.start], (3, 1))), x)

    assert error(0.2, 40) < 3e-4  # a kink where tails begin
    assert error(0.02, 40) > 1e-2
    assert error(0.02, 160) < 1e-3


def test_learned_signal_is_the_flow_moved():
    flow = Flow(["m"], ["a"], standardisation={"m": (90.0, 5.0)}, hidden=(4,), n_components=2, seed=1)
    shape, at = LearnedSignal(flow, WINDOW), np.array([-0.2, 0.0, 0.3])
    x = tf.constant([[0.1], [0.2], [0.3]], tf.float64)
    moved = shape.log_shape(tf.constant(at), tf.constant([[0.5, np.log(1.2)]] * 3, tf.float64), x)
    expected = flow.log_prob({"m": 90 + 30 * (at - 0.05) / 1.2, "a": [0.1, 0.2, 0.3]})
    np.testing.assert_allclose(moved, expected, atol=1e-9)
    assert len(nodes(40)[0]) == 40


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

"""Verdicts on derivatives along conditions, such as a mass that a parameter drives, with faults of known size."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
import tensorflow as tf

import zfit_fnf as zfnf
from zfit_fnf import Simulation
from zfit_fnf.diagnostics import validate

pytest.importorskip("sklearn")

WIDTH, N, N_DATA = 0.5, 12_000, 400
CONSERVATIVE = 1e-5


def peak(*, off=0.0, stretch=1.0):
    """A Gaussian at the mass, or off by so many widths above a mass of three, and wider than it should be."""
    width = stretch * WIDTH

    def centre(mass):
        return mass + off * WIDTH * tf.sigmoid((mass - 3.0) / 0.05)

    def log_prob(x, context):
        z = (x - centre(context))[:, 0] / width
        return -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - np.log(width)

    def sampler(context, seed):
        return centre(context) + width * tf.random.stateless_normal((tf.shape(context)[0], 1), seed, dtype=tf.float64)

    return zfnf.interop.callable.wrap(log_prob, sampler, obs=["m"], cond=["mass"])


def simulate(mass, seed=1):
    return Simulation({"m": np.random.default_rng(seed).normal(mass, WIDTH), "mass": mass})


def at_all_masses():
    return np.random.default_rng(2).uniform(1.0, 5.0, N)


def along_mass(report, test):
    return report.table[report.table["test"] == test].set_index("point")


def test_right_derivatives_pass():
    report = validate(peak(), simulate(at_all_masses()), level=CONSERVATIVE, n_data=N_DATA)
    assert report.passed
    found = along_mass(report, "condition")
    assert len(found) == 4  # of 3000 events each
    assert found.index[0].startswith("nominal, mass 1 to ")
    # The mean score of 3000 events is known to one part in 55 of its width, of which 400 events have 20: four of these.
    assert found["value"].abs().max() < 4.5 * np.sqrt(N_DATA / 3000)


def test_a_bias_of_a_fitted_mass_is_predicted_where_it_is():
    report = validate(peak(off=0.2), simulate(at_all_masses()), n_data=N_DATA)
    found = along_mass(report, "condition")
    expected = np.array([0.0, 0.0, -0.2, -0.2]) * np.sqrt(N_DATA)  # the peak is 0.2 widths below where it is promised
    np.testing.assert_allclose(found["value"], expected, atol=4.5 * np.sqrt(N_DATA / 3000))
    assert found["problem"].tolist() == [False, False, True, True]
    assert any("drives 'mass' would be off by -" in problem for problem in report.problems)


def test_a_claimed_error_that_is_wrong_is_found():
    report = validate(peak(stretch=1.2), simulate(at_all_masses()), n_data=N_DATA)
    found = along_mass(report, "information along condition")
    # Scores are sigma^2 / (1.2 sigma)^4, and claim 1 / (1.2 sigma)^2; of 3000 events known to 1.2 root(2 / 3000) = 0.03.
    np.testing.assert_allclose(found["value"], 1 / 1.44, atol=0.13)
    assert found["problem"].all()
    assert any("of a parameter that drives it are not right" in one for one in report.problems)


def test_masses_that_were_simulated_are_windows():
    masses = np.repeat([2.0, 3.0, 4.5], [3000, 3000, 500])
    report = validate(peak(), simulate(masses), level=CONSERVATIVE)
    assert along_mass(report, "condition").index.tolist() == ["nominal, mass 2", "nominal, mass 3"]  # 500 are too few


def test_of_a_model_only_conditions_that_parameters_drive_are_tested():
    mass = zfit.Parameter("m_X", 3.0, 1, 5)
    events = simulate(at_all_masses()[:2000])
    driven = zfnf.pdf.FlowPDF(peak(), given={"mass": mass}, extended=100.0, name="peak")
    tests = set(validate(driven, {"peak": events}, level=CONSERVATIVE).table["test"])
    assert "condition" in tests
    fixed = zfnf.pdf.FlowPDF(peak(), given={"mass": 3.0}, extended=100.0, name="peak")
    assert set(validate(fixed, {"peak": events}, level=CONSERVATIVE).table["test"]) == tests - {
        "condition",
        "information along condition",
    }

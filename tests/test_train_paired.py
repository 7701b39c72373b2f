"""Samples whose rows are the same generated events: the noise of a response is that of the differences."""

from __future__ import annotations

import numpy as np
import pytest

import zfit_fnf as zfnf
from zfit_fnf.densities.basis import Basis
from zfit_fnf.samples import Simulation, Variation
from zfit_fnf.train.claims import Points, Scored, shares
from zfit_fnf.train.contrast import Contrast, ContrastSample

N = 10_000
SHORT = zfnf.Schedule(steps=300, batch_size=1024)
Y, ORDER = np.random.default_rng(0).normal(size=N), np.random.default_rng(1).permutation(N)
ERROR_OF_A_TENTH = 1 / np.sqrt(
    1 + 5000 * 0.1**2
)  # of 5000 data events, where a nuisance shifts by a tenth of the width


def contrast(samples, *, paired, degree=2):
    """Samples at +1 and the nominal one."""
    zeros, folds = np.zeros((len(samples[0]), 1), np.float32), np.arange(len(samples[0])) % 3
    tables = [np.tanh(0.45 * y[:, None]).astype(np.float32) for y in samples]
    return Contrast(
        [ContrastSample(t, zeros, np.ones(len(t)), folds, zeros) for t in tables],
        np.array([[1.0]]),
        1,
        Basis((float(degree),), 1).exponents,
        paired=paired,
    )


def maximum(problem):
    """What the events of all folds say: weights, and their covariance."""
    at = np.zeros((1, len(problem.exponents)))
    for _ in range(3):
        folds = problem.quadratics(at)
        joint = folds[0] + folds[1] + folds[2]
        at = np.linalg.solve(joint.curvature, joint.gradient)[None]
    return at[0], np.linalg.inv(joint.curvature)


def test_covariances_are_those_of_repetitions():
    rng, found = np.random.default_rng(3), []
    for _ in range(60):
        y = rng.normal(size=1000)
        found.append(maximum(contrast([y, y + 0.1 + 0.3 * rng.normal(size=1000)], paired=True)))
    scatter = np.cov([weights for weights, _ in found], rowvar=False)
    expected = np.mean([covariance for _, covariance in found], axis=0)
    # A variance of 60 is known within 18 %. Without pairs it is ten times as large: smearing by 0.3 adds 9 % of the square.
    np.testing.assert_allclose(np.sqrt(np.diag(scatter) / np.diag(expected)), 1.0, atol=0.4)
    independent = maximum(contrast([y, y + 0.1], paired=False))[1]
    assert (np.diag(independent)[:2] > 5.0 * np.diag(expected)[:2]).all()


def test_independent_rows_know_as_much_when_they_are_taken_for_pairs():
    samples = np.random.default_rng(4).normal(size=(2, 20_000))
    (one, first), (two, second) = (maximum(contrast(samples, paired=paired)) for paired in (False, True))
    np.testing.assert_allclose(one, two, atol=1e-4)
    # Of 20 000 pairs a variance is known within 1 %; sizes of samples do not fluctuate, as the constant one would have it.
    np.testing.assert_allclose(np.diag(first)[:2], np.diag(second)[:2], rtol=0.06)


def test_shares_of_pairs():
    """A response that claims twice the shift by 0.01 that there is: 10 000 pairs know that, as many independent events do not."""
    points = Points(np.array([[1.0]]), np.array([[1.0], [1.0]]), np.array([0, 1]))
    claimed = Scored([0.02 * Y[:, None], 0.02 * (Y[:, None] + 0.01)], [np.ones(N)] * 2, [np.ones(N)])
    (factor,), (error,) = shares(claimed, points, paired=True)
    assert factor == pytest.approx(0.5, rel=0.05)  # of the variance of 10 000 events
    assert error < 1e-9
    assert shares(claimed, points)[1][0] == pytest.approx(np.sqrt(2 / N) / 0.02, rel=0.05)


@pytest.fixture(scope="module")
def flow():
    return zfnf.train.fit_flow({"y": Y}, obs=["y"], schedule=SHORT, progress=False)


def error(model):
    """Of a nuisance, with its constraint, from the curvature that 5000 data events give it."""
    data = {"y": np.random.default_rng(5).normal(size=5000)}
    nll = [0.5 * nu**2 - model.log_prob(data, nu={"nu": nu}).sum() for nu in (-0.5, 0.0, 0.5)]
    return 1 / np.sqrt((nll[0] - 2 * nll[1] + nll[2]) / 0.25)


@pytest.mark.filterwarnings("ignore:.*(does not respond|never better|still improving)")
def test_pairs_show_a_small_effect_that_independent_samples_do_not(flow):
    """The likelihood of a shift is quadratic; what is left is the error of the width of the density, 1 %, and of the map."""
    found = {
        name: error(
            zfnf.train.fit_deformation(flow, [Variation({"y": y}, at={"nu": 1.0})], schedule=SHORT, progress=False)
        )
        for name, y in (("paired", Y + 0.1), ("shuffled", (Y + 0.1)[ORDER]))
    }
    smeared = Variation({"y": Y + 0.3 * np.random.default_rng(7).normal(size=N)}, at={"nu": 1.0})
    wider = error(zfnf.train.fit_deformation(flow, [smeared], schedule=SHORT, progress=False))
    assert wider == pytest.approx(1 / np.sqrt(1 + 5000 * 2 * np.log(1.09) ** 2 / 4), rel=0.15)
    assert found["paired"] == pytest.approx(ERROR_OF_A_TENTH, rel=0.05)
    assert found["shuffled"] > 1.02 * ERROR_OF_A_TENTH  # of what is just significant, 10 nats, nine tenths are believed


@pytest.mark.filterwarnings("ignore:.*(does not respond|never better|still improving)")
def test_pairs_without_effect_claim_nothing(flow):
    """Resolutions drawn once more, and values rounded to single precision."""
    rng = np.random.default_rng(6)
    for y in (0.9 * Y + np.sqrt(1 - 0.9**2) * rng.normal(size=N), Y.astype(np.float32).astype(float)):
        variations = [Variation({"y": y}, at={"nu": 1.0})]
        model = zfnf.train.fit_deformation(flow, variations, schedule=SHORT, progress=False)
        assert model.history["nu"].claim.kind == "pruned"
        assert error(model) == 1.0


def test_numbers_of_events_say_which_rows_are_paired():
    numbers = np.arange(N)
    sorted_ones, up = np.sort(Y), Variation({"y": np.sort(Y) + 0.1, "event": numbers}, at={"nu": 1.0})
    other = Variation({"y": np.sort(Y) - 0.1, "event": numbers[::-1]}, at={"nu": -1.0})
    weights = Variation(at={"pdf": 1.0}, weights=np.ones(N))
    nominal = {"y": sorted_ones, "event": numbers}
    assert Simulation(nominal, [up, other, weights], paired_by="event").rows_are_paired() == [True, False, True]
    assert Simulation(nominal, [up, weights]).rows_are_paired() == [None, True]

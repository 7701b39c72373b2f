"""Variations that are other weights of the nominal events: their log-ratio is known, and learned by regression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

import zfit_fnf as zfnf
from zfit_fnf.densities.ratio import polynomials
from zfit_fnf.train import fit_deformation, fit_flow
from zfit_fnf.train.contrast import Contrast, ContrastSample
from zfit_fnf.train.ratio import learn
from zfit_fnf.train.terms import first_terms
from zfit_fnf.train.weights import Regression, known_ratios

N = 20_000
POINTS = np.array([[1.0, 1.0], [-1.0, 1.0]])  # monomials nu and nu^2 at +1 and -1


def events(n, seed, *, n_dim=1, n_cond=0):
    """Uniform coordinates, the last ones conditions, and halves to train on."""
    t = np.random.default_rng(seed).uniform(-1, 1, (n, n_dim + n_cond)).astype(np.float32)
    return ContrastSample(t, np.zeros((n, 2), np.float32), np.ones(n), np.arange(n) % 2, np.zeros((n, 2)))


def slope(t, nu):
    """Ratio of two densities: a slope, as curved in the second coordinate."""
    return (1 + 0.5 * nu * t[:, 0] * (1 if t.shape[1] == 1 else t[:, 1])) ** 2


def error(learned, n_dim):
    """Mean square error of the log-ratio at +1."""
    t = np.random.default_rng(9).uniform(-1, 1, (5000, n_dim))
    found = polynomials(t, learned.basis.exponents).numpy() @ learned.weights.sum(axis=0)
    difference = found - np.log(slope(t, 1.0))
    return np.var(difference)


@pytest.mark.parametrize("n_dim", [1, 2])
def test_it_is_more_precise_than_independent_samples(n_dim):
    nominal = events(N, 1, n_dim=n_dim)
    ratios = np.stack([slope(nominal.bounded, nu) for nu in (1.0, -1.0)], axis=1)
    regression = Regression(nominal, ratios / ratios.mean(axis=0), POINTS, n_dim, first_terms(n_dim, 0, 2))
    found = learn(regression)
    assert found.significant
    assert found.contrast.explained(found.coefficients) > 0.99
    drawn = []
    for nu in (1.0, -1.0):
        sample = events(6 * N, 3 + int(nu), n_dim=n_dim)
        kept = np.random.default_rng(2).random(6 * N) < slope(sample.bounded, nu) / 2.25
        drawn.append(
            ContrastSample(
                sample.bounded[kept][:N],
                *(part[:N] for part in (sample.offsets, sample.weights, sample.folds, sample.moved)),
            )
        )
    contrast = Contrast([nominal, *drawn], POINTS, n_dim, first_terms(n_dim, 0, 2))
    independent = error(learn(contrast), n_dim)
    # The classifier has an error of a few 1e-4; what a regression has left is its polynomials.
    assert error(found, n_dim) < independent / 10


def test_weights_of_what_is_not_seen_scatter():
    """Weights by a label of which the events tell only a part: their mean is learned."""
    nominal, rng = events(N, 1), np.random.default_rng(5)
    label = rng.random(N) < 0.5 * (1 + nominal.bounded[:, 0])
    ratios = np.stack([np.where(label, 1.0 + 0.4 * nu, 1.0 - 0.4 * nu) for nu in (1.0, -1.0)], axis=1)
    regression = Regression(nominal, ratios / ratios.mean(axis=0), POINTS, 1, first_terms(1, 0, 2))
    found = learn(regression)
    t = np.linspace(-0.9, 0.9, 19)[:, None]
    learned = polynomials(t, found.basis.exponents).numpy() @ found.weights.sum(axis=0)
    expected = np.log(1 + 0.4 * t[:, 0])  # E[rho | t] with the mean one
    # Ratios scatter by 0.35: 20k events and about five numbers that matter give 0.35 sqrt(5 / 2e4) = 0.006.
    np.testing.assert_allclose(learned - learned.mean(), expected - expected.mean(), atol=0.03)
    assert 0.1 < found.contrast.explained(found.coefficients) < 0.5  # of 0.4^2 the mean square 0.4^2 / 3


@pytest.mark.parametrize("size", [0.05, 4.0])
def test_ratios_of_any_size_are_found(size):
    nominal = events(N, 3)
    ratios = np.exp(size * np.sin(2.0 * nominal.bounded) * [1.0, -1.0])
    regression = Regression(nominal, ratios / ratios.mean(axis=0), POINTS, 1, first_terms(1, 0, 2))
    found = learn(regression)
    assert found.significant
    t = np.linspace(-0.95, 0.95, 50)[:, None]
    learned = polynomials(t, found.basis.exponents).numpy() @ found.weights.sum(axis=0)
    # 16 polynomials give a sine to 1e-9; what they are shrunk by is a few 1e-5.
    assert np.std(learned - size * np.sin(2.0 * t[:, 0])) < 1e-3


def test_weights_without_effect_claim_nothing():
    ratios = np.random.default_rng(6).gamma(20.0, 1 / 20.0, (N, 2))
    for seed in range(4):
        assert not learn(
            Regression(events(N, seed), ratios / ratios.mean(axis=0), POINTS, 1, first_terms(1, 0, 2))
        ).significant


def test_negative_weights_count():
    """Half of the events cancel the other half; the ratio is as known as before."""
    nominal = events(N, 1)
    sign = np.where(np.arange(N) % 10 < 2, -1.0, 1.0)
    signed = replace(nominal, weights=sign)
    ratios = np.stack([slope(nominal.bounded, nu) for nu in (1.0, -1.0)], axis=1)
    regression = Regression(signed, ratios / np.average(ratios, axis=0, weights=sign), POINTS, 1, first_terms(1, 0, 2))
    assert error(learn(regression), 1) < 1e-4


def test_which_samples_are_other_weights():
    y = {"y": np.linspace(0.0, 1.0, 5)}
    nominal, up = zfnf.Sample(y, np.full(5, 2.0)), zfnf.Sample(y, 3.0 + y["y"])
    ratios = known_ratios(nominal, [up, nominal])
    np.testing.assert_allclose(ratios, np.stack([(3.0 + y["y"]) / 3.5, np.ones(5)], axis=1))
    assert known_ratios(nominal, [up, zfnf.Sample({"y": y["y"][::-1]})]) is None
    assert known_ratios(nominal, [zfnf.Sample({"y": y["y"][1:]})]) is None
    assert known_ratios(nominal, [zfnf.Sample(y, np.array([1.0, 1.0, 0.0, 1.0, 1.0]))]) is None


def log_composition(y, nu):
    share = 1 / (1 + np.exp(-0.5 * nu))
    return np.log(share * norm.pdf(y, -1, 0.7) + (1 - share) * norm.pdf(y, 1, 0.7))


@pytest.mark.filterwarnings("ignore:.*still improving")
def test_a_process_with_weights():
    rng = np.random.default_rng(1)
    y = np.where(rng.random(N) < 0.5, -1.0, 1.0) + 0.7 * rng.normal(size=N)
    table = {"y": y, "w": np.full(N, 0.1)}
    table |= {
        f"w_{nu:+.0f}": 0.1 * (1 + 0.1 * nu) * np.exp(log_composition(y, nu) - log_composition(y, 0)) for nu in (1, -1)
    }
    shifted = [zfnf.Variation({"y": y + 0.1 * nu, "w": table["w"]}, at={"jes": nu}) for nu in (1.0, -1.0)]
    simulation = zfnf.Simulation(
        table, [zfnf.Variation(at={"pdf": nu}, weights=f"w_{nu:+.0f}") for nu in (1, -1)] + shifted, weights="w"
    )
    short = {"schedule": zfnf.Schedule(steps=200, batch_size=1024), "progress": False}
    flow = fit_flow(simulation, obs=["y"], **short)
    model = fit_deformation(flow, simulation, **short)
    assert [ratio.nuisances for ratio in model.ratios] == [("pdf",)]
    assert "of their variance" in str(model.history["pdf"])
    claim = model.history["pdf"].claim
    # Both are the information of weights, E[(d log p / d nu)^2]; halves differ by their share of the events.
    assert claim.claimed == pytest.approx(claim.confirmed, rel=0.05)
    assert claim.noise < 0.02 * claim.claimed
    assert model.yields["pdf"].up == pytest.approx(1.1, abs=0.01)  # by the summed weights; 20k events scatter by 0.003
    probes = np.linspace(-2.5, 2.5, 21)
    for nu in (1.0, -1.0, 0.5):
        found = model.log_prob({"y": probes}, nu={"pdf": nu}) - model.log_prob({"y": probes})
        true = log_composition(probes, nu) - log_composition(probes, 0)
        # Exact but for polynomials (0.003), a quadratic in nu, and the normalisation with a short training's nominal density.
        np.testing.assert_allclose(found - found.mean(), true - true.mean(), atol=0.015)

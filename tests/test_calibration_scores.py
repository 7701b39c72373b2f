"""Scores of many events at once, as a calibration takes them, against those of the exact density."""

from __future__ import annotations

import zfit
import numpy as np
from untrained import deformed, smooth_flow

import zfit_fnf as zfnf
from zfit_fnf.calibration import averages
from zfit_fnf.calibration.averages import ScoredEvents, _LinearKernel, _score_kernel, scored_samples
from zfit_fnf.loss import scores


def test_scores_of_polynomials_are_exact():
    """Where the parameters are, polynomials of first order have the exact derivatives, to float32; also after a move."""
    shape, mean_yield = zfnf.nuisance("shape"), zfit.Parameter("n", 1000.0, 0, 1e5)
    learned = deformed(smooth_flow(["y"]), [shape], extended=mean_yield, weighed=1)
    model, params = learned, [mean_yield, shape]
    x = np.random.default_rng(1).normal(size=(5000, 1))  # in two chunks, of which the last is filled up
    events = ScoredEvents(model, x, share=1.0)
    assert isinstance(_score_kernel(model), _LinearKernel)
    for value in (0.7, -0.4):
        zfit.param.set_values(params, [900.0, value])
        exact = scores(model, x, params)
        assert exact[:, 1].std() > 0.02
        # A calibration sums them: what counts is a hundredth of the error that the events have together.
        assert np.abs((events(params) - exact).mean(axis=0) / exact[:, 1].std()).max() < 0.01 / np.sqrt(len(x))
        np.testing.assert_allclose(events(params), exact, atol=1e-4 * exact[:, 1].std())


def test_scores_of_small_samples_are_computed_together(monkeypatch):
    mean = zfit.Parameter("mean", 0.1)
    model = zfit.pdf.Gauss(mean, zfit.Parameter("sigma", 1.0, floating=False), zfit.Space("y", -50, 50))
    samples = [np.linspace(-1.0, 1.0, n)[:, None] for n in (3, 5)]
    together = scored_samples(model, samples, 1, 0.5)
    monkeypatch.setattr(averages, "_TOGETHER", 0)
    alone = scored_samples(model, samples, 1, 0.5)
    for value in (0.1, 0.3):
        mean.set_value(value)
        for whole, own, x in zip(together, alone, samples, strict=True):
            np.testing.assert_allclose(whole([mean]), x - value, atol=1e-9)
            np.testing.assert_allclose(own([mean]), x - value, atol=1e-9)


def test_densities_without_polynomials_have_the_scores_of_the_exact_kernel():
    mean, sigma = zfit.Parameter("mean", 0.1), zfit.Parameter("sigma", 1.0, 0.1, 10)
    model = zfit.pdf.Gauss(mean, sigma, zfit.Space("y", -50, 50))
    x = np.linspace(-2.0, 2.0, 9)[:, None]
    z = x[:, 0] - 0.1
    np.testing.assert_allclose(ScoredEvents(model, x, share=1.0)([mean, sigma]), np.stack([z, z**2 - 1], 1), atol=1e-9)

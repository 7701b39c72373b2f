"""The warning of biased fits after a training, with a density whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from analytic import GaussianDeformation, GaussianFlow

from zfit_fnf.samples import Sample
from zfit_fnf.train.closure import biased_ones
from zfit_fnf.train.sources import EventSource

SHIFT, N = 0.5, 20_000


@pytest.fixture(scope="module")
def shifted():
    return GaussianDeformation(GaussianFlow([0.0], [1.0], obs=["y"]), {"jes": ((0.0, SHIFT), (0.0, 0.0))})


def held_out(deformation, off, *, nu=1.0):
    mean, sigma = deformation.moments([nu])
    z = np.random.default_rng(1).normal(size=N)
    z = (z - z.mean()) / z.std()
    sample = Sample({"y": mean[0] + sigma[0] * (z + off)}, None, "jes=+1")
    return EventSource(deformation.flow, sample, {"jes": nu}, np.zeros(0))


def test_a_bias_is_found_with_its_size(shifted):
    """Events that are 0.05 widths off the point, where one sigma of the nuisance is half a width: 5 errors of 10k events."""
    (message,) = biased_ones(shifted, [held_out(shifted, 0.05)], [np.arange(N)], 10_000)
    sign = "+" if shifted.moments([1.0])[0][0] > shifted.moments([0.0])[0][0] else "-"
    assert f"a fit of 'jes' to 10000 events would be off by {sign}5 +- 0.7" in message


def test_what_is_small_or_not_certain_is_not_said(shifted):
    """A bias of 0.1 errors is tolerated; 500 held-out events know 5 errors to 4.5 only."""
    assert not biased_ones(shifted, [held_out(shifted, 0.0)], [np.arange(N)], 10_000)
    assert not biased_ones(shifted, [held_out(shifted, 0.05)], [np.arange(N)], 4)
    assert not biased_ones(shifted, [held_out(shifted, 0.05)], [np.arange(500)], 10_000)

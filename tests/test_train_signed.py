"""Single events of negative weights far from all others, which a density could only make impossible."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from untrained import smooth_flow

from zfit_fnf import Deformation, Sample
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.train.compiled import signed_floor
from zfit_fnf.train.score_correction import correct_score
from zfit_fnf.train.sources import EventSource


def test_a_map_is_placed_in_spite_of_them():
    """As on the events without them; they alone have a curvature of minus a million."""
    flow, y = smooth_flow(["y"]), np.random.default_rng(1).normal(0.2, 1.0, 2000)
    found = []
    for far in ([], [300.0, -1000.0]):
        response = Response(["a"], [(1,)], n_dim=1, n_context=0, seed=1)
        response.networks[0].biases[-1].assign([0.1, 0.1])
        deformation = Deformation(flow, [response], windows={"a": (-1.0, 1.0)})
        weights = np.append(np.ones(2000), -np.ones(len(far)))
        source = EventSource.make(
            flow, Sample({"y": np.append(y, far)}, weights=weights), None, at={"a": 1.0}, name="a=+1"
        )
        correct_score(deformation, response, [source])
        found.append(response.correction.numpy())
    # Their weights change the mean one, and with it how much the prior of the shifts counts, by a thousandth.
    np.testing.assert_allclose(found[1], found[0], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("n_dim", [1, 2])
def test_the_floor_is_a_thousandth_of_a_density(n_dim):
    axis = np.tan(np.pi * (np.arange(400) + 0.5) / 400 - 0.5 * np.pi)  # quantiles of the Cauchy density
    u = np.stack(np.meshgrid(*[axis] * n_dim), axis=-1).reshape(-1, n_dim)
    shares = np.exp(signed_floor(tf.constant(u)).numpy()) * np.prod(np.pi * (1.0 + u**2), axis=1)
    np.testing.assert_allclose(shares, 1e-3, rtol=1e-9)

"""The same likelihood where TensorFlow finds a GPU."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
import tensorflow as tf
from untrained import deformed, events, smooth_flow

from zfit_fnf.acceleration import accelerate
from zfit_fnf.loss import UnbinnedNLL
from zfit_fnf.param import nuisance

pytestmark = pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="TensorFlow finds no GPU here")


def test_value_and_gradient_are_those_of_the_processor():
    shift = nuisance("shift")
    model = deformed(smooth_flow(["y", "z"]), [shift], size=0.3)
    x = events(model, {shift: 0.0}, 5000, seed=1)
    results = []
    for device in ("/CPU:0", "/GPU:0"):
        with tf.device(device), zfit.param.set_values([shift], [0.4]):
            nll = UnbinnedNLL(model, x)
            results.append(
                [np.asarray(part) for loss in (nll, accelerate(nll)) for part in loss.value_gradient([shift])]
            )
    for here, there in zip(*results, strict=True):
        # Networks are in double precision; polynomials in single, of 5000 events.
        np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-2)

"""Flows of zuko that are imported, and the checks that they share with other imports."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from state_dicts import made_flow

from zfit_fnf import interop


def points(n_dim, n_context, n=30, seed=0):
    rng = np.random.default_rng(seed)
    return 1.5 * rng.normal(size=(n, n_dim)), rng.normal(size=(n, n_context))


def log_jacobian_of(function, y):
    """Logarithm of the Jacobian determinant ``(n,)`` by automatic differentiation, and what the function gives beside it."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y)
        u, *others = function(y)
    jacobian = tape.batch_jacobian(u, y, experimental_use_pfor=False)  # which would compile first
    return np.linalg.slogdet(jacobian.numpy())[1], u, *others


def check_coordinates(flow, y, x):
    """Standardised coordinates do not change the density, and log-determinants are those of automatic differentiation."""
    y, x = tf.constant(y), tf.constant(x)
    expected, u, c, log_jacobian = log_jacobian_of(lambda y: flow.encode(y, x), y)
    np.testing.assert_allclose(log_jacobian, expected, atol=1e-9)
    np.testing.assert_allclose(flow.decode(u), y, atol=1e-9)
    single = flow.log_density(tf.cast(u, tf.float32), tf.cast(c, tf.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, flow.log_density(u, c), rtol=1e-4, atol=1e-4)  # of float32 coordinates


# --- zuko, without PyTorch ------------------------------------------------------------------------------------------

FLOWS = {
    "affine": {"orders": [[0, 1, 2], [2, 1, 0]]},
    "spline": {"orders": [[0, 1]], "bins": 6, "n_context": 2},
    "coupling": {"orders": [[0, 0, 1, 1], [1, 1, 0, 0]], "bins": 4, "n_context": 1},
    "any order": {"orders": [[1, 2, 0]], "n_context": 1},
    "residual blocks": {"orders": [[0, 1, 2]], "hidden": [8, 8, 6], "residual": True, "bins": 5, "n_context": 1},
    "one feature": {"orders": [[0], [0]], "bins": 4},
    "one feature, conditional": {"orders": [[0]], "n_context": 2, "bins": 5},
    "normalised layers": {"orders": [[0]], "n_context": 3, "hidden": [6, 5], "normalize": True},
}


def imported(name, activation="ReLU", **changes):
    made = made_flow(**FLOWS[name])
    obs, cond = ([f"{letter}{k}" for k in range(n)] for letter, n in (("y", made.n_dim), ("x", made.n_context)))
    architecture = {"activation": activation, "slope": 1e-3, **({"bins": made.bins} if made.bins else {}), **changes}
    return made, interop.zuko.import_flow(made.arrays, obs=obs, cond=cond, architecture=architecture)

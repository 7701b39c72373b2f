"""Taylor polynomials of densities: they differ from the density by what the next order says."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf.densities.flows import AutoregressiveDensity, Flow
from zfit_fnf.densities.taylor import expand, expansion_order, polynomial


def density(n_dim: int, *, n_layers: int = 1, n_context: int = 1) -> AutoregressiveDensity:
    """A density that is not normal, with conditions."""
    names = [f"y{i}" for i in range(n_dim)]
    options = {"hidden": (12, 12), "n_components": 3, "n_layers": n_layers, "seed": 3}
    return Flow(names, [f"x{i}" for i in range(n_context)], **options).density


CASES = {
    "one dimension": (density(1), 4),
    "one dimension without conditions": (density(1, n_context=0), 4),
    "two dimensions": (density(2), 3),
    "three dimensions": (density(3), 3),
    "five dimensions": (density(5), 2),
    "two layers": (density(2, n_layers=2), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_order_of_the_error(case):
    model, order = CASES[case]
    assert expansion_order(model) == order
    rng = np.random.default_rng(1)
    u, c = rng.normal(size=(60, model.n_dim)), rng.normal(size=(60, model.n_context))
    given = model.precompute(tf.constant(c))
    coefficients = expand(model, tf.constant(u), given)
    np.testing.assert_allclose(coefficients[0], model.log_density(tf.constant(u), tf.constant(c)), rtol=1e-12)
    direction = rng.normal(size=u.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    errors = []
    for size in (0.02, 0.01):
        rise = polynomial(coefficients[1:], tf.unstack(tf.constant(size * direction), axis=1), order)
        exact = model.log_density_at(tf.constant(u + size * direction), given)
        errors.append(np.median(np.abs(coefficients[0] + rise - exact)))
    # Halving the shift divides the error by 2**(order + 1).
    assert errors[0] / errors[1] == pytest.approx(2 ** (order + 1), rel=0.15)


def test_splines_have_no_polynomials():
    flow = Flow(["y1", "y2"], family="spline")
    assert expansion_order(flow.density) == 0

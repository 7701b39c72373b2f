"""What every model promises, whatever it is made of; models are those of the registry in stored_models.py."""

from __future__ import annotations

import numpy as np

from zfit_fnf import Flow
from zfit_fnf.pickling import dumps, loads

DRAWS = 20_000
X = 0.3


def log_prob(model, events, nu):
    return model.log_prob(events) if isinstance(model, Flow) else model.log_prob(events, nu=nu)


def sample(model, nu):
    given = {"cond": {name: np.full(DRAWS, X) for name in model.cond}} if model.cond else {"n": DRAWS}
    return model.sample(**given, seed=5) if isinstance(model, Flow) else model.sample(**given, nu=nu, seed=5)


def shifts(model):
    return [{}] if isinstance(model, Flow) else [{}, {"jes": 0.6, "jer": -0.4}]


def test_a_box_has_the_probability_of_its_events(any_model):
    """Density, normalisation and drawing agree: the integral over the middle of a distribution is the share drawn there."""
    for nu in shifts(any_model):
        events = sample(any_model, nu)
        box = [np.quantile(events[name], (0.2, 0.8)) for name in any_model.obs]
        inside = np.all(
            [
                (low < events[name]) & (events[name] < high)
                for name, (low, high) in zip(any_model.obs, box, strict=True)
            ],
            0,
        )
        nodes, weights = np.polynomial.legendre.leggauss(80)  # 1e-6 for densities of these widths, 1e-4 with knots
        axes = [(low + high) / 2 + (high - low) / 2 * nodes for low, high in box]
        grid = np.meshgrid(*axes, indexing="ij")
        table = {name: points.ravel() for name, points in zip(any_model.obs, grid, strict=True)}
        table |= {name: np.full(grid[0].size, X) for name in any_model.cond}
        measure = np.prod(np.meshgrid(*[(high - low) / 2 * weights for low, high in box], indexing="ij"), axis=0)
        probability = float(np.sum(np.exp(log_prob(any_model, table, nu)) * measure.ravel()))
        share = inside.mean()
        # 4.5 standard deviations of the share drawn: wrong once in 10^5 for a right model.
        assert abs(share - probability) < 4.5 * np.sqrt(share * (1 - share) / DRAWS) + 2e-4


def test_pickles_are_the_same_model(any_model):
    events = {name: np.linspace(0.5, 1.5, 7) for name in (*any_model.obs, *any_model.cond)}
    again = loads(dumps(any_model))
    for nu in shifts(any_model):
        np.testing.assert_array_equal(log_prob(again, events, nu), log_prob(any_model, events, nu))

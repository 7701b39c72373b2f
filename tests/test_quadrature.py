"""Few nodes and few places give what many give."""

from __future__ import annotations

import numpy as np

from zfit_fnf.densities.quadrature import few_nodes, few_places, snapshots


def test_few_nodes_integrate_a_family_between_its_snapshots():
    """The integral of exp(nu z) over a normal distribution."""
    z = np.linspace(-10, 10, 401)
    shares = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()

    def terms(nu):
        return shares * np.exp(np.outer(nu, z) - 0.5 * np.square(nu)[:, None])

    places, factors = few_nodes(terms(np.linspace(-2, 2, 15)), np.ones(15), 1e-6)
    assert len(places) < 16
    assert factors.min() > 0.0
    between = np.random.default_rng(1).uniform(-2, 2, 50)
    np.testing.assert_allclose(terms(between)[:, places] @ factors, 1.0, atol=1e-5)


def test_few_places_give_all():
    x, nu = np.linspace(-1, 1, 60), np.linspace(-1, 1, 20)
    values = np.log1p(0.3 * np.outer(nu, x) + 0.1 * np.outer(nu**2, np.sin(3 * x)))
    places, matrix = few_places(values, 1e-7)
    assert len(places) < 12
    np.testing.assert_allclose(values[:, places] @ matrix, values, atol=1e-6)


def test_snapshots_cover_pairs_and_leave_out_what_does_nothing():
    points, importance = snapshots([(-1, 1), (0, 2), (-1, 1)], acting=[True, True, False], n_random=7, seed=1)
    assert np.all(points[:, 2] == 0.0)
    assert points.min(axis=0).tolist() == [-3.0, -6.0, 0.0]
    assert any(np.array_equal(point, [3.0, -6.0, 0.0]) for point in points)
    inside = np.all(np.abs(points) <= [1.0, 2.0, 1.0], axis=1)
    np.testing.assert_array_equal(importance, np.where(inside, 1.0, 0.1))

"""Newton steps inside of limits, and Hessians with and without an inverse."""

from __future__ import annotations

import itertools

import zfit
import numpy as np
import pytest

from zfit_fnf.minimum import Derivatives, invert, settle, step_inside, vertical_distance


class Polynomial:
    """A function of parameters with the interface of a likelihood."""

    def __init__(self, function, gradient):
        self._function, self._gradient = function, gradient

    def value_gradient(self, params, full):
        point = np.array([float(parameter.value()) for parameter in params])
        return self._function(point), self._gradient(point)


def parameters(*stepsizes):
    return [zfit.Parameter(f"p{k}", 0.0, -1e4, 1e4, stepsize=step) for k, step in enumerate(stepsizes)]


@pytest.mark.parametrize("stepsizes", [(1e-2, 1e-2), (1e-7, 10.0), (5.0, 1e-5)])
def test_differences_find_steps_of_their_own(stepsizes):
    """Third and fourth derivatives of the size that ten events have, at scales of 1e-3 and 100."""
    scale = np.array([1e-3, 1e2])

    def gradient(point):
        u = point / scale
        return (
            np.array([u[0] + 0.3 * u[0] ** 2 + 0.2 * u[0] ** 3 + 0.5 * u[1], u[1] + 0.3 * u[1] ** 2 + 0.5 * u[0]])
            / scale
        )

    derivatives = Derivatives(Polynomial(lambda point: 0.0, gradient), parameters(*stepsizes))
    point = np.array([0.4, -0.3]) * scale
    expected = np.array([[1 + 0.6 * 0.4 + 0.6 * 0.16, 0.5], [0.5, 1 - 0.6 * 0.3]]) / np.outer(scale, scale)
    # Differences at a hundredth of an error: 0.2 (0.01)^2 of a third derivative.
    np.testing.assert_allclose(derivatives.hessian(point), expected, rtol=1e-3)


def lowest_in_box(hessian, centre):
    """The minimum of a parabola, by all combinations of parameters at their limits."""
    best = np.inf, centre
    for sides in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        point, inner = np.array(sides), np.array(sides) == 0
        if inner.any():
            pull = hessian[np.ix_(inner, ~inner)] @ (point - centre)[~inner]
            point[inner] = centre[inner] - np.linalg.solve(hessian[np.ix_(inner, inner)], pull)
        if np.abs(point).max() <= 1.0:
            best = min(best, (0.5 * (point - centre) @ hessian @ (point - centre), point), key=lambda one: one[0])
    return best


def test_settles_in_the_minimum_of_a_box():
    rng = np.random.default_rng(2)
    params = [zfit.Parameter(f"b{k}", 0.0, -1.0, 1.0) for k in range(3)]
    for _ in range(30):
        factor, centre = rng.normal(size=(3, 3)), 2 * rng.normal(size=3)
        hessian = factor @ factor.T + 0.1 * np.eye(3)
        loss = Polynomial(
            lambda point, h=hessian, c=centre: 0.5 * (point - c) @ h @ (point - c),
            lambda point, h=hessian, c=centre: h @ (point - c),
        )
        start = rng.uniform(-1, 1, size=3)
        minimum = settle(Derivatives(loss, params), start, goal=1e-9)
        value, point = lowest_in_box(hessian, centre)
        assert minimum.edm <= 1e-9
        assert minimum.nll == pytest.approx(value, abs=1e-8)
        np.testing.assert_allclose(minimum.values, point, atol=1e-3)  # an EDM of 1e-9, errors of up to 3
        assert minimum.free.tolist() == (np.abs(point) < 1.0).tolist()
        step, distance = step_inside(start, hessian @ (start - centre), hessian, -np.ones(3), np.ones(3))
        assert np.abs(start + step).max() <= 1.0 + 1e-12
        assert distance >= 0.0


def test_settles_at_limits():
    hessian, centre = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([4.0, 0.5])
    params = [zfit.Parameter("a", 0.0, -1.0, 1.0), zfit.Parameter("b", 0.0, -10.0, 10.0)]
    loss = Polynomial(
        lambda point: 0.5 * (point - centre) @ hessian @ (point - centre), lambda point: hessian @ (point - centre)
    )
    minimum = settle(Derivatives(loss, params), np.zeros(2), goal=1e-9)
    np.testing.assert_allclose(minimum.values, [1.0, 0.5 + 3.0 / 3.0], atol=1e-6)
    assert minimum.free.tolist() == [False, True]
    assert minimum.edm <= 1e-9


def test_inverse_of_a_degenerate_hessian():
    free = np.array([True, True, True])
    hessian = np.array([[4.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 2.0, 4.0]])
    curvature = invert(hessian, free)
    assert curvature.is_minimum
    assert curvature.flat.tolist() == [False, True, True]
    assert curvature.covariance[0, 0] == 0.25
    assert np.isnan(curvature.covariance[1:]).all()
    held = invert(hessian, np.array([True, True, False]))
    assert not held.flat.any()
    np.testing.assert_allclose(held.covariance[:2, :2], np.diag([0.25, 1.0]))
    assert np.isnan(held.covariance[2]).all()
    assert not invert(-hessian, free).is_minimum
    assert not invert(np.full((3, 3), np.nan), free).is_minimum


def test_vertical_distance():
    first, second = zfit.Parameter("first", 0.0, 0.0, 1.0), zfit.Parameter("second", 0.0, -1.0, 1.0)
    slope, matrix = np.array([3.0, 2.0]), np.array([[1.0, 0.5], [0.5, 4.0]])
    assert vertical_distance(slope, matrix, [first, second]) == 0.5  # of the second alone: the first is at its limit
    first.set_value(0.5)
    assert vertical_distance(slope, matrix, [first, second]) == pytest.approx(
        0.5 * slope @ np.linalg.solve(matrix, slope)
    )
    assert vertical_distance(slope, -matrix, [first, second]) == np.inf
    assert vertical_distance(np.array([np.nan, 0.0]), matrix, [first, second]) == np.inf

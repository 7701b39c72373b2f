"""The map of the parameters of a calibrated likelihood to those of the learned one."""

from __future__ import annotations

from dataclasses import replace

import zfit
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfit_fnf.calibration.map import Calibration
from zfit_fnf.calibration.moments import Moments

N = 3


def positive(rng, smallest=0.05, largest=50.0):
    """A symmetric matrix with random directions, and widths that differ as those of a fit do."""
    rotation, _ = np.linalg.qr(rng.normal(size=(N, N)))
    return rotation @ np.diag(np.exp(rng.uniform(np.log(smallest), np.log(largest), N))) @ rotation.T


def calibration(seed, *, limit=5.0):
    """Learned curvature, scores and their covariance as random as they may be, and what is known of two nuisances beside."""
    rng = np.random.default_rng(seed)
    promised, scatter = positive(rng), positive(rng)
    moments = Moments(
        bias=rng.normal(size=N),
        promised=promised,
        slope=positive(rng) - promised,
        scatter=scatter,
        sources={("signal", "nominal"): 0.1 * scatter},
        constraints=np.diag([0.0, 0.8, 0.8]),
        slope_noise={},
    )
    params = tuple(zfit.Parameter(f"of_map_{k}", 0.0, -limit, limit) for k in range(N))
    curvature = positive(rng)
    return Calibration(
        params,
        np.zeros(N),
        np.ones(N),
        rng.uniform(-1, 1, N),
        curvature,
        curvature,
        moments,
        rng.normal(size=N),
        (),
        None,
    )


@given(st.integers(0, 10_000))
def test_what_takes_the_place_of_the_learned_parabola_is_bounded(seed):
    """That of the scores and the constraints are never lower than the parabola that is taken away, if only in one direction."""
    made = calibration(seed)
    _, matrix = made.moved(np.zeros(N), np.zeros(N))
    n_eta = matrix.shape[1] - N
    instead = made.scores.T @ made.weight @ made.scores - matrix.T @ made.curvature @ matrix
    instead += np.pad(made.moments.constraints, (0, n_eta)) + np.diag([0.0] * N + [1.0] * n_eta)
    assert np.linalg.eigvalsh(instead).min() > -1e-7 * np.abs(instead).max()


def test_a_direction_in_which_the_learned_shape_changes_is_not_followed():
    made = calibration(1)
    scatter = np.diag([20.0, 20.0, 0.1])  # data hardly know the last one
    moments = replace(made.moments, promised=scatter, slope=np.zeros((N, N)), scatter=scatter, sources={})
    steady = replace(made, moments=moments, curvature=scatter, curvature_here=scatter)
    along = np.array([0.0, 0.0, 1.0])
    np.testing.assert_allclose(steady.moved(np.zeros(N), np.zeros(N))[1][:, :N], np.eye(N), atol=1e-12)
    bent = replace(steady, curvature_here=scatter - 0.6 * np.outer(along, along))
    np.testing.assert_allclose(bent.moved(np.zeros(N), np.zeros(N))[1][:, :N], np.diag([1.0, 1.0, 0.0]), atol=1e-12)


def test_of_a_model_that_is_far_off_only_the_parabola_is_left():
    made = replace(calibration(2), reference=np.array([0.0, -3.1, 0.0]))
    assert not any(one.any() for one in made.moved(np.ones(N), np.ones(N)))
    near = replace(made, reference=np.array([0.0, -2.9, 0.0]))
    assert all(one.any() for one in near.moved(np.ones(N), np.ones(N)))


@given(st.integers(0, 10_000))
def test_outside_of_the_limits_the_learned_parabola_is_higher_than_inside(seed):
    """Of correlated parameters, too, of which the nearest values one by one may be far up."""
    made, rng = calibration(seed, limit=2.0), np.random.default_rng(seed)
    tau = rng.normal(0.0, 5.0, N)
    place, follows = made.inside(tau)
    assert np.all(np.abs(place) <= 2.0)

    def height(at):
        away = at - made.reference
        return 0.5 * away @ (made.curvature + made.moments.constraints) @ away

    assert height(tau) >= height(place) - 1e-6 * (1.0 + height(tau))
    step = 1e-6 * rng.normal(size=N)
    np.testing.assert_allclose(made.inside(tau + step)[0] - place, follows @ step, atol=1e-9)


def test_inside_of_the_limits_nothing_moves():
    made = calibration(3)
    place, follows = made.inside(np.array([1.0, -4.0, 4.9]))
    np.testing.assert_array_equal(place, [1.0, -4.0, 4.9])
    np.testing.assert_array_equal(follows, np.eye(N))


@pytest.mark.parametrize("seed", range(3))
def test_right_densities_are_where_they_are(seed):
    """Scores that mean what densities promise, and data that are as expected: parameters are the learned ones."""
    made = calibration(seed)
    moments = replace(made.moments, slope=np.zeros((N, N)), scatter=made.moments.promised, sources={}, bias=np.zeros(N))
    right = replace(
        made, moments=moments, curvature=moments.promised, curvature_here=moments.promised, bias=np.zeros(N)
    )
    gradient = -moments.promised @ right.reference  # at the point; none at the best fit
    origin, matrix = right.moved(gradient, np.zeros(N))
    np.testing.assert_allclose(origin, 0.0, atol=1e-9)
    np.testing.assert_allclose(matrix, np.eye(N), atol=1e-9)

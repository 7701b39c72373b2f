"""Maps between data and simulation: they start as the identity, can be inverted, and know their Jacobian."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_models import shaken

from zfit_fnf.densities.displacement import Displacement, graded, log_slope
from zfit_fnf.densities.transfer import ProfiledTransfer, Transfer
from zfit_fnf.samples import as_sample

EVENTS = pd.DataFrame({"a": [0.3, 4.2, 1.0], "b": [1.0, -2.0, 0.5], "x": [0.2, -1.0, 3.0]})


def transfer(n_dim=2, n_layers=2, *, seed=0, **options):
    names = ["a", "b", "c"][:n_dim]
    return Transfer(names, ["x"], n_layers=n_layers, hidden=(6,), seed=seed, **options)


def profiled(map_, seed=0):
    """A map that follows two parameters."""
    follows = Displacement(((1, 0), (0, 1), (1, 1)), n_dim=len(map_.obs), n_cond=1, n_maps=map_.n_maps, n_functions=6)
    rng = np.random.default_rng(seed)
    for weights in follows.weights:
        weights.assign(0.02 * rng.normal(size=weights.shape))
    for frame in follows.frames:
        frame.assign(0.1 * rng.normal(size=frame.shape))
    axes = np.array([[0.1, 0.02], [-0.03, 0.2]])
    return ProfiledTransfer(map_, follows, centre={"mu": 1.1, "jes": -0.2}, axes=axes)


def check_inverse_and_jacobian(inverse, forward, n_dim, seed):
    """``forward`` undoes ``inverse``, whose log-determinant is that of its Jacobian."""
    u = tf.constant(np.random.default_rng(seed).normal(size=(5, n_dim)))
    with tf.GradientTape() as tape:
        tape.watch(u)
        moved, log_det = inverse(u)
    jacobian = tape.batch_jacobian(moved, u)
    np.testing.assert_allclose(log_det, tf.linalg.slogdet(jacobian)[1], atol=1e-10)
    assert np.all(np.linalg.det(jacobian) > 0)
    np.testing.assert_allclose(forward(moved), u, atol=1e-8)


@settings(deadline=None, max_examples=12)
@given(n_dim=st.integers(1, 3), n_layers=st.integers(1, 3), seed=st.integers(0, 1000))
def test_inverse_and_jacobian(n_dim, n_layers, seed):
    made = shaken(transfer(n_dim, n_layers, seed=seed), seed)
    context = tf.constant(np.random.default_rng(seed + 1).normal(size=(5, 1)))
    of_context = made.precompute(context)
    check_inverse_and_jacobian(
        lambda u: made.inverse(u, of_context), lambda u: made.forward(u, of_context), n_dim, seed
    )


@settings(deadline=None, max_examples=4)
@given(n_dim=st.integers(1, 3), mu=st.floats(0.9, 1.3), seed=st.integers(0, 1000))
def test_profiled_inverse_and_jacobian(n_dim, mu, seed):
    made = profiled(shaken(transfer(n_dim, seed=seed), seed), seed)
    context, theta = tf.constant(np.linspace(-1, 1, 5)[:, None]), tf.constant([mu, 0.1], tf.float64)
    check_inverse_and_jacobian(
        lambda u: made.inverse(u, context, theta), lambda u: made.forward(u, context, theta), n_dim, seed
    )


def test_profiled_transfer_is_the_transfer_at_its_centre():
    made = profiled(shaken(transfer()))
    u, context = tf.constant(EVENTS[["a", "b"]].to_numpy()), tf.constant(EVENTS[["x"]].to_numpy())
    centre = tf.constant(list(made.centre.values()), tf.float64)
    moved, log_det = made.inverse(u, context, centre)
    expected, expected_log_det = made.transfer.inverse(u, made.transfer.precompute(context))
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(log_det, expected_log_det)
    away, _ = made.inverse(u, context, centre + 0.1)
    assert np.abs(away - expected).max() > 1e-3
    # One unit along the first axis.
    np.testing.assert_allclose(made.basis(tf.constant([1.2, -0.23], tf.float64)), [1.0, 0.0, 0.0], atol=1e-12)


def test_new_maps_are_the_identity():
    made = transfer(ranges={"a": (0.0, 5.0)})
    made.standardise(as_sample(EVENTS, ["a", "b", "x"]))
    chosen = EVENTS.set_index(pd.Index([5, 9, 3]))  # by which pandas assigns columns
    for moved in (made.to_simulation(chosen), made.to_data(chosen)):
        pd.testing.assert_frame_equal(moved, chosen, check_exact=False, rtol=1e-12)


def test_maps_stay_inside_of_physical_ranges():
    made = shaken(transfer(ranges={"a": (0.0, 5.0), "b": (-3.0, np.inf)}))
    rng = np.random.default_rng(0)
    events = pd.DataFrame(
        {"a": rng.uniform(0.01, 4.99, 500), "b": rng.exponential(2, 500) - 3, "x": rng.normal(size=500)}
    )
    moved = made.to_data(events)
    assert moved["a"].between(0.0, 5.0).all()
    assert (moved["b"] >= -3.0).all()
    assert np.abs(moved["a"] - events["a"]).max() > 0.1
    # Next to an edge the digits of what was there before are lost.
    inside = moved["a"].between(1e-6, 5.0 - 1e-6) & (moved["b"] > -3.0 + 1e-6)
    assert inside.mean() > 0.8
    back = made.to_simulation(moved[inside])
    np.testing.assert_allclose(back[["a", "b", "x"]], events.loc[inside, ["a", "b", "x"]], rtol=1e-5, atol=1e-5)


def test_each_process_has_its_map():
    made = shaken(transfer(processes=["A", "B"]))
    a, b = (made.to_simulation(EVENTS, process=process) for process in "AB")
    assert np.abs(a["a"] - b["a"]).max() > 1e-3
    pd.testing.assert_frame_equal(made.to_data(a, process="A"), EVENTS, check_exact=False, rtol=1e-8)
    for process in (None, "C"):
        with pytest.raises(ValueError, match=r"process= must be one of \['A', 'B'\]"):
            made.to_simulation(EVENTS, process=process)


def test_bad_input():
    with pytest.raises(ValueError, match="n_layers must be from 1 to 100, got 0"):
        transfer(n_layers=0)
    with pytest.raises(ValueError, match="b"):
        transfer().to_simulation(EVENTS[["a", "x"]])
    with pytest.raises(ValueError, match="not inside the range 0 < a < 1"):
        transfer(ranges={"a": (0.0, 1.0)}).to_simulation(EVENTS)


def test_functions_of_the_lowest_degrees():
    assert graded(0, 5).tolist() == [[]]
    assert graded(1, 4).tolist() == [[0], [1], [2], [3]]
    many = graded(3, 20)
    assert sorted(map(tuple, many)) == sorted(
        (a, b, c) for a in range(4) for b in range(4) for c in range(4) if a + b + c <= 3
    )
    assert np.all(np.diff(many.sum(axis=1)) >= 0)


def test_displacements_continue_where_they_would_fold():
    """Beyond a slope of 0.1 the logarithm is continued by a parabola: values and two derivatives agree."""
    x = tf.constant([-0.9 - 1e-6, -0.9 + 1e-6], tf.float64)
    with tf.GradientTape() as second:
        second.watch(x)
        with tf.GradientTape() as first:
            first.watch(x)
            values = log_slope(x)
        slopes = first.gradient(values, x)
    bends = second.gradient(slopes, x)
    np.testing.assert_allclose(values, np.log(0.1), atol=2e-5)
    np.testing.assert_allclose(slopes, 10.0, rtol=2e-5)
    np.testing.assert_allclose(bends, -100.0, rtol=1e-4)
    assert np.isfinite(log_slope(tf.constant([-5.0], tf.float64))).all()


def test_processes_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"different names, one for each map; got \['A', 'A'\]"):
        transfer(processes=["A", "A"])

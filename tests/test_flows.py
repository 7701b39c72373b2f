"""Flows with random weights: normalisation, Jacobians, structure, sampling, and what they say about bad input."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf import Flow
from zfit_fnf.densities.networks import MaskedMLP

FLOWS = {
    "1d": {"obs": ["a"]},
    "1d bounded": {"obs": ["a"], "ranges": {"a": (0.0, 2.0)}},
    "1d half-bounded, conditional": {"obs": ["a"], "cond": ["x"], "ranges": {"a": (0.0, np.inf)}},
    "2d": {"obs": ["a", "b"]},
    "2d conditional": {"obs": ["a", "b"], "cond": ["x", "z"]},
    "2d bounded, stacked": {"obs": ["a", "b"], "ranges": {"b": (-1.0, 1.0)}, "n_layers": 2},
    "2d spline": {"obs": ["a", "b"], "cond": ["x"], "family": "spline"},
    "2d spline, stacked": {"obs": ["a", "b"], "family": "spline", "n_layers": 3},
}


def shaken(kwargs, seed=0):
    """A flow with random weights in all layers and a standardisation that is not trivial."""
    flow = Flow(**kwargs, hidden=(12, 12), n_components=4, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in flow.trainable_variables:
        variable.assign(variable + 0.15 * rng.normal(size=variable.shape))
    flow._centre.assign(0.3 * rng.normal(size=flow._centre.shape))
    flow._scale.assign(rng.uniform(0.5, 1.5, size=flow._scale.shape))
    return flow


@pytest.fixture(params=FLOWS.values(), ids=FLOWS)
def flow(request):
    return shaken(request.param)


def random_events(flow, n, seed=1):
    u = tf.constant(np.random.default_rng(seed).normal(size=(n, len(flow.obs))))
    c = np.random.default_rng(seed + 1).normal(size=(n, len(flow.cond)))
    return flow.decode(u), tf.constant(c)


def test_integrates_to_one(flow):
    d = len(flow.obs)
    # In unbounded coordinates a grid covers everything; the Jacobian of encode takes care of the ranges.
    axis = np.linspace(-30.0, 30.0, 1201)
    log_density = tf.function(flow.log_density, jit_compile=True)
    total = 0.0
    for part in np.array_split(axis, 8):
        grid = np.stack(np.meshgrid(part, *[axis] * (d - 1), indexing="ij"), -1).reshape(-1, d)
        context = tf.fill((len(grid), len(flow.cond)), tf.constant(0.7, tf.float64))
        total += np.exp(log_density(tf.constant(grid), context)).sum()
    # The narrowest random components and spline bins are as wide as a few steps of the grid.
    assert total * (axis[1] - axis[0]) ** d == pytest.approx(
        1.0, abs=1e-3 if flow.density.family == "mixture" else 5e-3
    )


def test_jacobian_of_encode_and_layers(flow):
    y, x = random_events(flow, 6)
    with tf.GradientTape() as tape:
        tape.watch(y)
        u, c, log_jacobian = flow.encode(y, x)
    np.testing.assert_allclose(log_jacobian, np.linalg.slogdet(tape.batch_jacobian(u, y).numpy())[1], atol=1e-9)
    for layer in flow.density.layers:
        given = layer.precompute(c)
        with tf.GradientTape() as tape:
            tape.watch(u)
            z, log_det = layer.inverse(u, given)
        jacobian = tape.batch_jacobian(z, u).numpy()
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-8)
        assert np.all(np.triu(jacobian, 1) == 0.0)  # autoregressive: column j depends on the columns before it only
        np.testing.assert_allclose(layer.forward(z, given), u, atol=1e-6)


def test_decode_inverts_encode(flow):
    y, x = random_events(flow, 20)
    u, _, _ = flow.encode(y, x)
    np.testing.assert_allclose(flow.decode(u), y, atol=1e-10)


def test_samples_follow_the_density(flow):
    """Base values of samples are uniform after the logistic function.

    A Kolmogorov-Smirnov distance above 0.055 has a probability of 2 exp(-2 * 2000 * 0.055^2) = 1e-5 in each column.
    """
    cond = {name: np.random.default_rng(3).normal(size=2000) for name in flow.cond} if flow.cond else None
    events = flow.sample(2000, cond=cond, seed=7)
    u, c, _ = flow.encode(*map(tf.constant, flow.columns(events)))
    for layer in flow.density.layers[:-1]:
        u = tf.reverse(layer.inverse(u, layer.precompute(c))[0], axis=[-1])
    last = flow.density.layers[-1]
    z = np.sort(1.0 / (1.0 + np.exp(-last.inverse(u, last.precompute(c))[0].numpy())), axis=0)
    distance = np.abs(z - (np.arange(2000)[:, None] + 0.5) / 2000).max(axis=0)
    assert np.all(distance < 0.055)


def test_sampling_is_reproducible_and_conditional():
    flow = shaken(FLOWS["2d conditional"])
    table = {"x": [0.0, 1.0, 2.0], "z": [5.0, 6.0, 7.0]}
    first, second = (flow.sample(cond=table, seed=5) for _ in range(2))
    assert first.equals(second)
    assert list(first.columns) == ["a", "b", "x", "z"]
    assert first["z"].tolist() == [5.0, 6.0, 7.0]
    assert not flow.sample(cond=table, seed=6).equals(first)
    assert len(flow.sample(7, cond=table, seed=5)) == 7


def test_copy_through_another_process_is_identical(flow):
    y, x = random_events(flow, 10)
    table = dict(zip(flow.obs + flow.cond, np.concatenate([y, x], axis=1).T, strict=True))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(flow)).log_prob(table), flow.log_prob(table))


def test_float32_agrees_with_float64(flow):
    y, x = random_events(flow, 50)
    u, c, _ = flow.encode(y, x)
    single = flow.log_density(tf.cast(u, tf.float32), tf.cast(c, tf.float32))
    np.testing.assert_allclose(single, flow.log_density(u, c), rtol=5e-5, atol=5e-5)  # float32 through exponentials


def test_standardise_learns_mean_and_width():
    from zfit_fnf import Sample

    rng = np.random.default_rng(0)
    flow = Flow(["a"], ["x"])
    flow.standardise(Sample({"a": rng.normal(91.0, 2.5, 20_000), "x": rng.normal(-4.0, 0.1, 20_000)}))
    np.testing.assert_allclose(flow._centre, [91.0, -4.0], atol=0.1)  # 5 sigma of the mean
    np.testing.assert_allclose(flow._scale, [2.5, 0.1], rtol=0.03)
    with pytest.raises(ValueError, match="'x' of 'flat' is constant"):
        flow.standardise(Sample({"a": rng.normal(size=9), "x": np.ones(9)}, name="flat"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"obs": []}, "at least one observable"),
        ({"obs": ["a", "a"]}, "named more than once"),
        ({"obs": ["a"], "cond": ["a"]}, "named more than once"),
        ({"obs": ["a"], "ranges": {"b": (0, 1)}}, "ranges given for .'b'."),
        ({"obs": ["a"], "ranges": {"a": (1, 0)}}, "'a' needs low < high"),
        ({"obs": ["a"], "family": "gauss"}, "unknown family 'gauss'"),
        ({"obs": ["a"], "n_layers": 0}, "n_layers"),
    ],
)
def test_bad_construction(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Flow(**kwargs)


def test_without_conditions_a_graph_of_single_precision_is_as_good():
    """The product of no conditions with no weights ended the process where oneDNN fused it with its biases."""
    flow = Flow(["y1", "y2"], seed=1)
    y = np.random.default_rng(1).normal(size=(4096, 2)).astype(np.float32)
    eager = flow.density.log_density(tf.constant(y), tf.zeros((4096, 0)))
    compiled = tf.function(flow.density.log_density, autograph=False)(tf.constant(y), tf.zeros((4096, 0)))
    np.testing.assert_allclose(compiled, eager, atol=1e-5)  # rounding of single precision


def test_no_events_give_no_numbers():
    flow = Flow(["a"], ["x"], ranges={"a": (0.0, 1.0)})
    assert flow.log_prob({"a": [], "x": []}).shape == (0,)
    assert flow.sample(cond={"x": []}).shape == (0, 2)


def test_bad_calls():
    with pytest.raises(TypeError, match="obs is a list"):
        Flow("mass")
    flow = Flow(["a"], ["x"], ranges={"a": (0.0, 1.0)})
    with pytest.raises(ValueError, match="x"):
        flow.log_prob({"a": [0.5]})
    with pytest.raises(ValueError, match="1 "):
        flow.log_prob({"a": [0.5, 1.5], "x": [0.0, 0.0]})
    with pytest.raises(ValueError, match="no rows"):
        flow.sample(10, cond={"x": []})
    with pytest.raises(ValueError, match="conditional"):
        flow.sample(10)
    with pytest.raises(ValueError, match="needs n"):
        Flow(["a"]).sample()


def test_masked_network_depends_on_earlier_inputs_only():
    network = MaskedMLP(4, 2, 3, hidden=(20, 20), seed=0)
    inputs, context = tf.random.stateless_normal((5, 4), (1, 2)), tf.random.stateless_normal((5, 2), (3, 4))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([inputs, context])
        outputs = network(inputs, context)
    by_input = np.abs(tape.batch_jacobian(outputs, inputs).numpy()).max(axis=(0, 2))
    by_context = np.abs(tape.batch_jacobian(outputs, context).numpy()).max(axis=(0, 2))
    assert np.all(np.triu(by_input) == 0.0)
    assert np.all(by_input[np.tril_indices(4, -1)] > 0.0)
    assert np.all(by_context > 0.0)

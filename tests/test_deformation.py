"""The map T_nu with random coefficient networks: equations, identity, Jacobian, continuation, additivity."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from zfit_fnf import Deformation, Flow, YieldRatio
from zfit_fnf.densities.monomials import continued_power
from zfit_fnf.densities.polynomial_map import PolynomialMap, Response

WINDOWS = {"jes": (-1.0, 1.0), "jer": (-1.0, 2.0)}


def shaken_response(names, powers, seed, **shape):
    response = Response(names, powers, n_dim=2, n_context=1, hidden=(8, 8), seed=seed, **shape)
    rng = np.random.default_rng(seed)
    for variable in response.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    return response


@pytest.fixture(scope="module")
def flow():
    return Flow(["a", "b"], ["x"], ranges={"a": (0.0, 5.0)}, hidden=(8, 8), n_components=3, seed=2)


@pytest.fixture(scope="module")
def deformation(flow):
    responses = [
        shaken_response(["jes"], ((1,), (2,)), 1),
        shaken_response(["jer"], ((1,), (2,), (3,)), 2),
        shaken_response(["jes", "jer"], ((1, 1), (2, 1)), 3, n_single=5),
    ]
    responses[0].correction.assign([[0.1, -0.05], [0.02, 0.03]])
    responses[2].correction.assign(0.05 * np.random.default_rng(4).normal(size=(2, 7)))
    return Deformation(flow, responses, windows=WINDOWS, yields={"jes": YieldRatio(1.1, 0.9)})


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    return {"a": rng.uniform(0.1, 4.9, 40), "b": rng.normal(size=40), "x": rng.normal(size=40)}


def test_identity_at_zero_is_exact(deformation, flow, events):
    np.testing.assert_array_equal(deformation.log_prob(events), flow.log_prob(events))


def test_against_a_slow_loop_of_the_equations(deformation, flow, events):
    """Event by event, nuisance by nuisance, written from the equations."""
    jes, jer = 0.7, -0.4
    y, x = flow.columns(events)
    u, c, log_jacobian = (np.asarray(part) for part in flow.encode(tf.constant(y), tf.constant(x)))
    monomials = {("jes",): [jes, jes**2], ("jer",): [jer, jer**2, jer**3], ("jes", "jer"): [jes * jer, jes**2 * jer]}
    weights = {names: np.array(values) for names, values in monomials.items()}
    first, _, pair = deformation.responses
    weights["jes",] = weights["jes",] + np.array(monomials["jes",]) @ first.correction.numpy()
    fed = np.array(monomials["jes", "jer"]) @ pair.correction.numpy()
    weights["jes",], weights["jer",] = weights["jes",] + fed[:2], weights["jer",] + fed[2:5]
    weights["jes", "jer"] = weights["jes", "jer"] + fed[5:]
    expected = []
    for event in range(len(u)):
        nominal, log_det = u[event].copy(), 0.0
        for j in range(2):
            s = t = 0.0
            for response in deformation.responses:
                given = response.precompute(tf.constant(c[event : event + 1]))
                single = response.coefficients(tf.constant(u[event : event + 1]), given)[0]
                for weight, coefficient in zip(weights[response.nuisances], single.numpy(), strict=True):
                    s, t = s + weight * coefficient[j, 0], t + weight * coefficient[j, 1]
            nominal[j], log_det = u[event, j] * np.exp(s) + t, log_det + s
        density = flow.log_density(tf.constant(nominal[None]), tf.constant(c[event : event + 1])).numpy()[0]
        expected.append(density + log_det + log_jacobian[event])
    np.testing.assert_allclose(deformation.log_prob(events, nu={"jes": jes, "jer": jer}), expected, atol=1e-10)


@pytest.fixture(scope="module")
def stacked():
    """Three layers; one response to both nuisances together."""
    powers = ((1, 0), (0, 1), (2, 0), (1, 1), (0, 3))
    return PolynomialMap([shaken_response(["jes", "jer"], powers, 5, n_layers=3)], windows=WINDOWS)


@pytest.fixture(scope="module")
def coordinates(deformation, events):
    u, c, _ = deformation.flow.encode(*map(tf.constant, deformation.flow.columns(events)))
    return u, c


@settings(max_examples=3, deadline=None)
@given(jes=st.floats(-1.0, 1.0), jer=st.floats(-1.0, 1.0))
@pytest.mark.parametrize("name", ["deformation", "stacked"])
def test_inverse_and_jacobian(request, coordinates, name, jes, jer):
    transform, (u, c) = request.getfixturevalue(name), coordinates
    basis = transform.basis(tf.constant([jes, jer], tf.float64))
    with tf.GradientTape() as tape:
        tape.watch(u)
        nominal, log_det = transform.inverse(u, c, transform.coefficients(u, c), basis)
    jacobian = tape.batch_jacobian(nominal, u).numpy()
    # Where stacked layers squeeze one direction only, rounding matters: of the determinant of a matrix, and of the way back.
    rounding = 100 * np.finfo(float).eps * np.linalg.cond(jacobian)
    assert np.all(np.abs(log_det - np.linalg.slogdet(jacobian)[1]) < 1e-9 + rounding)
    back = transform.forward(tf.identity(nominal), c, basis)
    assert np.all(np.abs(back - u).max(axis=1) < (1e-7 + rounding) * (1.0 + np.abs(u).max(axis=1)))


def test_one_layer_moves_the_first_coordinate_alone_and_stacked_ones_mix(deformation, stacked, coordinates):
    u, c = coordinates
    for transform, mixes in ((deformation, False), (stacked, True)):
        with tf.GradientTape() as tape:
            tape.watch(u)
            basis = transform.basis(tf.constant([0.5, 0.5], tf.float64))
            first = transform.inverse(u, c, transform.coefficients(u, c), basis)[0][:, 0]
        assert np.any(tape.gradient(first, u)[:, 1] != 0.0) == mixes


def test_stacked_layers_are_single_ones_in_turn(stacked, coordinates):
    """Written with one-layer maps that own one of the networks each; the middle one works on reversed coordinates."""
    u, c = coordinates
    (response,) = stacked.responses
    basis = stacked.basis(tf.constant([0.4, -0.3], tf.float64))
    expected, log_det = u, np.zeros(len(u))
    for layer, network in enumerate(response.networks):
        alone = Response(response.nuisances, response.powers, n_dim=2, n_context=1, hidden=(8, 8))
        alone.networks = [network]
        transform = PolynomialMap([alone], windows=WINDOWS)
        given = expected[:, ::-1] if layer == 1 else expected
        moved, change = transform.inverse(given, c, transform.coefficients(given, c), basis)
        expected, log_det = moved[:, ::-1] if layer == 1 else moved, log_det + change
    moved, change = stacked.inverse(u, c, stacked.coefficients(u, c), basis)
    np.testing.assert_allclose(moved, expected, atol=1e-12)
    np.testing.assert_allclose(change, log_det, atol=1e-12)


def test_stacked_layers_are_the_identity_at_zero_exactly(stacked, coordinates):
    u, c = coordinates
    moved, log_det = stacked.inverse(u, c, stacked.coefficients(u, c), stacked.basis(tf.zeros(2, tf.float64)))
    np.testing.assert_array_equal(moved, u)
    np.testing.assert_array_equal(log_det, np.zeros(len(u)))


def test_monomials_of_several_nuisances_together(stacked):
    jes, jer = 0.7, -0.4
    np.testing.assert_allclose(
        stacked.basis(tf.constant([jes, jer], tf.float64)), [jes, jer, jes**2, jes * jer, jer**3], atol=1e-15
    )


def test_a_point_per_event(deformation, stacked, coordinates):
    u, c = coordinates
    points = np.random.default_rng(6).uniform(-1.0, 1.0, size=(len(u), 2))
    for transform in (deformation, stacked):
        basis = tf.stack([transform.basis(tf.constant(point)) for point in points])
        together, _ = transform.inverse(u, c, transform.coefficients(u, c), basis)
        for row in (0, 7):
            one = slice(row, row + 1)
            alone, _ = transform.inverse(u[one], c[one], transform.coefficients(u[one], c[one]), basis[row])
            np.testing.assert_allclose(together[one], alone, atol=1e-12)


def test_what_is_given_can_be_kept_event_by_event():
    """Also where responses of one shape are evaluated together; distributions of interest draw minibatches of it."""
    alike = [shaken_response([name], ((1,), (2,)), seed) for seed, name in enumerate(("jes", "jer"))]
    transform = PolynomialMap(alike, windows=WINDOWS)
    rng = np.random.default_rng(6)
    u, c = (tf.constant(rng.normal(size=(20, n)).astype(np.float32)) for n in (2, 1))
    rows = np.array([3, 17, 5])
    kept = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), transform.precompute_layer(c))
    some = transform.coefficients_at(tf.gather(u, rows), kept)
    np.testing.assert_allclose(some, tf.gather(transform.coefficients(u, c), rows), rtol=1e-5, atol=1e-6)


def test_one_nuisance_at_zero_drops_out(deformation, flow, events):
    alone = Deformation(flow, deformation.responses[:1], windows={"jes": WINDOWS["jes"]})
    np.testing.assert_allclose(
        deformation.log_prob(events, nu={"jes": 0.8}), alone.log_prob(events, nu={"jes": 0.8}), atol=1e-12
    )


def test_density_integrates_to_one_at_a_deformed_point(deformation):
    axis = np.linspace(-30.0, 30.0, 601)
    u = tf.constant(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2))
    c = tf.zeros((len(u), 1), tf.float64)
    basis = deformation.basis(tf.constant([0.9, -0.6], tf.float64))
    assert np.exp(deformation.log_density(u, c, basis)).sum() * 0.1**2 == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("window", [(-1.0, 1.0), (-1.0, 2.0), (0.0, 1.0)])
def test_continuation_of_powers(power, window):
    """Exact inside; value, slope and curvature continuous at the edges; linear far outside."""

    def derivatives(nu):
        nu = tf.constant(nu, tf.float64)
        with tf.GradientTape() as outer:
            outer.watch(nu)
            with tf.GradientTape() as inner:
                inner.watch(nu)
                value = continued_power(nu, power, *map(tf.constant, map(np.float64, window)))
            slope = inner.gradient(value, nu)
        curvature = outer.gradient(slope, nu)
        return np.array([float(v) if v is not None else 0.0 for v in (value, slope, curvature)])

    low, high = window
    for nu in np.linspace(low, high, 5):
        expected = [nu**power, power * nu ** (power - 1), power * (power - 1) * nu ** max(power - 2, 0)]
        np.testing.assert_allclose(derivatives(nu), expected, atol=1e-12)
    for edge in window:
        np.testing.assert_allclose(derivatives(edge - 1e-7), derivatives(edge + 1e-7), atol=1e-4)
    far = [derivatives(high + 1.5 + step) for step in (0.0, 10.0, 100.0)]
    np.testing.assert_allclose([d[1] for d in far], far[0][1], rtol=1e-12)
    np.testing.assert_allclose([d[2] for d in far], 0.0, atol=1e-12)
    # The continuation is the integral of its slope: compare with quadrature across the fade.
    grid = np.linspace(high, high + 2.0, 2001)
    slopes = np.array([derivatives(nu)[1] for nu in grid[::100]])
    area = np.sum((slopes[1:] + slopes[:-1]) / 2) * (grid[100] - grid[0])
    assert derivatives(high + 2.0)[0] - derivatives(high)[0] == pytest.approx(area, rel=5e-3)


def test_nothing_overflows_far_outside(deformation, events):
    assert np.all(np.isfinite(deformation.log_prob(events, nu={"jes": 5.0, "jer": -5.0})))


def test_sampling_follows_the_deformed_density(deformation, flow):
    """Base values of samples, undone with T_nu, are uniform: the same threshold as for flows, for two columns."""
    table = deformation.sample(nu={"jes": 1.0, "jer": 0.5}, cond={"x": np.linspace(-2.0, 2.0, 2000)}, seed=3)
    u, c, _ = flow.encode(*map(tf.constant, flow.columns(table)))
    basis = deformation.basis(tf.constant([1.0, 0.5], tf.float64))
    nominal, _ = deformation.inverse(u, c, deformation.coefficients(u, c), basis)
    z = np.sort(
        tf.sigmoid(flow.density.layers[0].inverse(nominal, flow.density.layers[0].precompute(c))[0]).numpy(), axis=0
    )
    assert np.all(np.abs(z - (np.arange(2000)[:, None] + 0.5) / 2000).max(axis=0) < 0.055)


@pytest.mark.parametrize("n_events", [0, 7, 8, 20])
def test_what_is_drawn_does_not_depend_on_how_many_are_deformed_at_a_time(deformation, monkeypatch, n_events):
    c = tf.constant(np.random.default_rng(0).normal(size=(n_events, 1)))
    nu, seed = tf.constant([0.7, -0.4], tf.float64), tf.constant([1, 2])
    at_once = deformation.forward(deformation.flow.draw(c, seed), c, deformation.basis(nu))
    monkeypatch.setattr("zfit_fnf.densities.deformation._ROWS", 8)
    np.testing.assert_allclose(deformation.draw(c, nu, seed), at_once, rtol=1e-12)
    assert deformation.draw(c, nu, seed).shape == (n_events, 2)


def test_pickle_round_trip_of_stacked_layers(stacked, coordinates):
    u, c = coordinates
    again = pickle.loads(pickle.dumps(stacked))
    basis = stacked.basis(tf.constant([0.4, -0.3], tf.float64))
    moved = [transform.inverse(u, c, transform.coefficients(u, c), basis)[0] for transform in (stacked, again)]
    np.testing.assert_array_equal(*moved)


def test_pickle_round_trip(deformation, events):
    again = pickle.loads(pickle.dumps(deformation))
    np.testing.assert_array_equal(
        again.log_prob(events, nu={"jes": 0.3, "jer": 1.2}), deformation.log_prob(events, nu={"jes": 0.3, "jer": 1.2})
    )
    assert again.yields["jes"] == YieldRatio(1.1, 0.9)


def test_bad_input(deformation, flow, events):
    with pytest.raises(ValueError, match=r"unknown nuisance \['jec'\]: this deformation knows \['jes', 'jer'\]"):
        deformation.log_prob(events, nu={"jec": 1.0})
    with pytest.raises(ValueError, match="interactions with"):
        Deformation(flow, [shaken_response(["p", "q"], ((1, 1),), 1)], windows={})
    with pytest.raises(ValueError, match="one exponent for each"):
        Response(["a"], ((1, 1),), n_dim=1, n_context=0)
    with pytest.raises(ValueError, match="one window per nuisance"):
        Deformation(flow, [shaken_response(["p"], ((1,),), 1)], windows={})
    with pytest.raises(ValueError, match="one response per nuisance"):
        Deformation(flow, [shaken_response(["p"], ((1,),), seed) for seed in (1, 2)], windows={"p": (-1.0, 1.0)})
    alone = [shaken_response([name], ((1,),), 1) for name in ("p", "q")]
    twice = [shaken_response(pair, ((1, 1),), 1) for pair in (["p", "q"], ["q", "p"])]
    with pytest.raises(ValueError, match="one interaction per pair of nuisances"):
        Deformation(flow, alone + twice, windows={"p": (-1.0, 1.0), "q": (-1.0, 1.0)})
    with pytest.raises(ValueError, match="at least one nuisance"):
        Deformation(flow, [], windows={})
    with pytest.raises(ValueError, match="would not vanish at zero"):
        Response(["a"], ((0,), (1,)), n_dim=1, n_context=0)
    with pytest.raises(ValueError, match="n_layers must be from 1 to 100, got 0"):
        Response(["a"], ((1,),), n_dim=1, n_context=0, n_layers=0)
    responses = [shaken_response([name], ((1,),), 1, n_layers=n) for name, n in (("p", 1), ("q", 2))]
    with pytest.raises(ValueError, match=r"same number of layers, got \[1, 2\]"):
        PolynomialMap(responses, windows=dict.fromkeys("pq", (-1.0, 1.0)))

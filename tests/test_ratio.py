"""Log-ratios in front of a flow: the density integrates to one, and events follow it."""

import copy
import itertools

import zfit
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Flow
from zfit_fnf.common.chunks import SMALL_GRAPH
from zfit_fnf.densities.basis import Basis, default_degree
from zfit_fnf.densities.deformation import Response
from zfit_fnf.densities.quadrature import latent_nodes
from zfit_fnf.densities.ratio import LogRatio, polynomials
from zfit_fnf.densities.reweighting import Reweighting
from zfit_fnf.loss import UnbinnedNLL
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF

POINTS = [dict(zip(("pdf", "jes"), nu, strict=True)) for nu in itertools.product((-1.0, 0.5, 3.0), (0.0, 1.0, -3.0))]


def deformation(n_dim, n_context, *, seed=1, moving=True):
    """A map of one nuisance, and log-ratios of two, with random coefficients: up to about one at one sigma."""
    rng = np.random.default_rng(seed)
    flow = Flow([f"y{j}" for j in range(n_dim)], [f"x{j}" for j in range(n_context)], n_components=3, seed=seed)
    responses, ratios = [], []
    for name, powers in (("jes", ((1,), (2,))), ("pdf", ((1,), (2,)))):
        response = Response([name], powers, n_dim=n_dim, n_context=n_context, hidden=[4], seed=seed)
        if moving and name == "jes":
            bias = response.networks[0].biases[-1]
            bias.assign(rng.normal(size=bias.shape) * np.tile([0.1, 0.1, 0.02, 0.02], n_dim))
        responses.append(response)
        ratio = LogRatio([name], powers, n_dim=n_dim, n_context=n_context, degrees=[4] * (n_dim + n_context))
        decay = np.exp(-0.7 * ratio.exponents.sum(axis=1))
        ratio.weights.assign(rng.normal(size=ratio.weights.shape) * decay * [[0.3], [0.06]])
        ratios.append(ratio)
    return Deformation(flow, responses, windows={"jes": (-1, 1), "pdf": (-1, 1)}, ratios=ratios)


def integral(model, nu, cond):
    """Of the density over a fine grid."""
    n_dim = len(model.obs)
    axis = np.linspace(-25, 25, 6001 if n_dim == 1 else 601)
    grid = np.stack(np.meshgrid(*[axis] * n_dim, indexing="ij"), axis=-1).reshape(-1, n_dim)
    table = dict(zip(model.obs, grid.T, strict=True)) | {name: np.full(len(grid), x) for name, x in cond.items()}
    return np.exp(model.log_prob(table, nu=nu)).sum() * (axis[1] - axis[0]) ** n_dim


def tolerance(nu):
    """What is promised in the trained windows, and up to three times as far."""
    return 1e-5 if max(map(abs, nu.values())) <= 1 else 1e-4


@pytest.mark.parametrize("moving", [False, True])
def test_the_density_integrates_to_one(moving):
    model = deformation(1, 0, moving=moving)
    for nu in POINTS:
        # Sums on grids of such functions are exact to many digits; what is beyond the grid is below 1e-5.
        assert integral(model, nu, {}) == pytest.approx(1.0, abs=tolerance(nu)), nu


def steep_ratio(n_dim, degrees, bias=(0.0, 0.0)):
    """As that of two components is, where the events go from one to the other; the map has these scales and shifts."""
    flow = Flow([f"y{j}" for j in range(n_dim)], n_components=3)
    shape = {"n_dim": n_dim, "n_context": 0}
    ratio, response = LogRatio(["pdf"], ((1,),), **shape, degrees=degrees), Response(["pdf"], ((1,),), **shape)
    response.networks[0].biases[-1].assign(np.tile(bias, n_dim))
    t = tf.constant(np.random.default_rng(1).uniform(-1, 1, (5000, n_dim)))
    steep = 0.5 * np.tanh(np.array([25.0, 12.0][n_dim - 1]) * t.numpy()).prod(axis=1)
    ratio.weights.assign(np.linalg.lstsq(polynomials(t, ratio.exponents).numpy(), steep, rcond=None)[0][None])
    return Deformation(flow, [response], windows={"pdf": (-1, 1)}, ratios=[ratio])


@pytest.mark.parametrize(("n_dim", "degrees"), [(1, [24]), (1, [40]), (2, [14, 14]), (2, [40, 3])])
def test_a_steep_ratio_of_the_highest_degree_is_integrated(n_dim, degrees):
    """By sums over many more nodes."""
    model = steep_ratio(n_dim, degrees)
    z, log_weights = (part[0] for part in latent_nodes(n_dim, 1, [[0.02, 0.1][n_dim - 1]] * n_dim, 0))
    log_ratio = model.ratios[0].coefficients(tf.tanh(0.45 * tf.constant(z))).numpy()[:, 0]
    for nu in (-1.0, 0.5, 1.0, 3.0):
        exact = logsumexp(log_weights + nu * log_ratio) - logsumexp(log_weights)
        found = float(model.reweighting.log_norm_at_anchors(tf.constant([nu], tf.float64))[0])
        assert found == pytest.approx(exact, abs=tolerance({"pdf": nu})), nu


def test_a_steep_ratio_behind_a_map_that_stretches_is_integrated():
    """At three standard deviations all is 2.5 times as wide or as narrow, and so are the distances of the nodes."""
    model = steep_ratio(1, [24], bias=(-0.3, 0.4))
    axis = np.linspace(-40.0, 40.0, 16_001)
    u, c = tf.constant(axis[:, None]), tf.zeros((len(axis), 0), tf.float64)
    nominal = model.flow.log_density(u, c).numpy()
    for nu in (-3.0, -1.0, 1.0, 2.6, 3.0):
        point = tf.constant([nu], tf.float64)
        exact = logsumexp(nominal + model.reweighting.log_weight_of_moved(u, c, point)) + np.log(axis[1] - axis[0])
        found = float(model.reweighting.log_norm_at_anchors(point)[0])
        assert found == pytest.approx(exact, abs=tolerance({"pdf": nu})), nu


def test_the_density_of_two_observables_integrates_to_one():
    model, nu = deformation(2, 0), {"pdf": 1.0, "jes": -1.0}
    # The grid of the test errs by 6e-5 for the flow alone, whose second coordinate can be narrow.
    assert integral(model, nu, {}) == pytest.approx(1.0, abs=3e-4)


@pytest.mark.parametrize(("n_context", "moving"), [(1, False), (2, False), (1, True)])
def test_a_conditional_density_integrates_to_one(n_context, moving):
    model = deformation(1, n_context, moving=moving)
    for nu, x in itertools.product(POINTS[::2], (-1.5, 0.0, 0.8)):
        cond = {name: x * (1 - 0.3 * j) for j, name in enumerate(model.cond)}
        assert integral(model, nu, cond) == pytest.approx(1.0, abs=tolerance(nu)), nu


@pytest.mark.parametrize(("n_dim", "n_context"), [(1, 0), (2, 0), (1, 1)])
def test_few_nodes_are_enough(n_dim, n_context):
    """As many as a chunk of events does not notice, in place of ten thousand."""
    reweighting = deformation(n_dim, n_context).reweighting
    assert reweighting.n_nodes < (150 if n_context == 0 else 2000)
    nu = tf.constant([0.0, 0.0], tf.float64)
    np.testing.assert_allclose(reweighting.log_norm_at_anchors(nu), 0.0, atol=1e-12)


@pytest.mark.parametrize(("n_dim", "n_context"), [(2, 1), (3, 0)])
def test_networks_see_nodes_that_differ_in_the_last_observable_once(n_dim, n_context, monkeypatch):
    monkeypatch.setattr(Reweighting, "_choose_nodes", lambda _: (None, None))
    reweighting, rng = deformation(n_dim, n_context).reweighting, np.random.default_rng(2)
    z = rng.normal(size=(3, n_dim))[[0, 0, 1, 2, 2]]
    z[:, -1] = rng.normal(size=5)
    c = tf.constant(np.repeat(rng.normal(size=(2, n_context)), 5, axis=0))
    flow = reweighting.flow
    u = flow.density.from_base(tf.constant(np.tile(z, (2, 1))), flow.precompute(c))
    nodes = reweighting._nodes_at(u, c, np.zeros((2, 5)), np.eye(2))
    for nu in (tf.constant([0.5, -1.0], tf.float64), tf.constant([3.0, 2.0], tf.float64)):
        found = reweighting._terms_of_grid(nodes, z)(nu)
        np.testing.assert_allclose(found, reweighting._terms_of(nodes)(nu), atol=1e-9)


@pytest.mark.parametrize("moving", [False, True])
def test_no_table_has_all_nodes_by_all_products(moving, monkeypatch):
    """There can be two million of the one and four thousand of the other."""
    model, rows, coefficients = deformation(2, 1, moving=moving), [], LogRatio.coefficients

    def spied(self, t):
        rows.append(len(t))
        return coefficients(self, t)

    monkeypatch.setattr(LogRatio, "coefficients", spied)
    model.use_all_nodes()
    found = model.reweighting.log_norm_at_anchors(tf.constant([1.0, -1.0], tf.float64))
    assert model.reweighting.n_nodes > 4 * SMALL_GRAPH
    assert max(rows, default=0) <= SMALL_GRAPH
    assert found.shape == (model.reweighting._nodes.log_weights.shape[0],)


def test_an_integral_that_is_wrong_is_told():
    """A map that turns steeply with a condition, which polynomials between anchors do not follow."""
    model = deformation(1, 1)
    network = model.responses[0].networks[0]
    network.weights[0].assign(12.0 * np.ones(network.weights[0].shape))
    for variable, first in ((network.weights[-1], [[0.1, 0.3], [-0.1, -0.4]]), (network.biases[0], [6.0, 2.0])):
        value, first = np.zeros(variable.shape), np.array(first)
        value[tuple(map(slice, first.shape))] = first
        variable.assign(value)
    wrong = {"pdf": 3.0, "jes": 3.0}
    check = model.reweighting.check
    found = check.error(model.point(wrong))
    exact = max(abs(np.log(integral(model, wrong, {"x0": x}))) for x in check.conditions[:, 0])
    assert found > 3e-4
    assert found == pytest.approx(exact, rel=0.05)
    nuisances = {name: nuisance(name) for name in model.nuisances}
    pdf = FNFPDF(model, nuisances)
    nll = UnbinnedNLL(pdf, {"y0": [0.1], "x0": [0.3]})
    zfit.param.set_values(list(nuisances.values()), [3.0, 3.0])
    with pytest.warns(UserWarning, match="outside"), pytest.warns(UserWarning, match="not normalised"):
        nll.value()


def test_an_integral_that_is_right_is_known_to_be():
    model = deformation(1, 0)
    check = model.reweighting.check
    for nu in POINTS:
        # What few nodes neglect.
        assert 0.0 < check.error_at(model.point(nu)) < tolerance(nu)
    assert check.error(np.array([2.5, -2.1])) == 0.0


@pytest.mark.parametrize("n_context", [0, 1])
def test_events_follow_the_density(n_context):
    model, n = deformation(1, n_context), 40_000
    nu = {"pdf": 1.0, "jes": 1.0}
    cond = {"x0": np.full(n, 0.7)} if n_context else None
    drawn = np.sort(model.sample(n, nu=nu, cond=cond, seed=5)["y0"])
    grid = np.linspace(-30, 30, 20_001)
    table = {"y0": grid} | ({"x0": np.full(len(grid), 0.7)} if n_context else {})
    distribution = np.cumsum(np.exp(model.log_prob(table, nu=nu))) * (grid[1] - grid[0])
    distance = np.abs(np.interp(drawn, grid, distribution) - (np.arange(n) + 0.5) / n).max()
    assert distance < 2.23 / np.sqrt(n)  # Kolmogorov and Smirnov: exceeded once in 1e4
    assert 0.01 < model.efficiency(nu) < 1.0


def test_derivatives_in_the_nuisances():
    model = deformation(1, 1)
    rng = np.random.default_rng(2)
    u, c = (tf.constant(rng.normal(size=(20, 1))) for _ in range(2))
    precomputed = model.precompute(u, c)
    nu = tf.constant([0.4, -0.3], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(nu)
        total = tf.reduce_sum(model.log_density_at(nu, precomputed))
    gradient = tape.gradient(total, nu).numpy()
    for k, step in enumerate(np.eye(2) * 1e-4):
        ends = [float(tf.reduce_sum(model.log_density_at(nu + s * step, precomputed))) for s in (1, -1)]
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5)


def test_it_is_the_nominal_density_at_zero_and_follows_new_weights():
    model = deformation(1, 0)
    events = {"y0": np.linspace(-2, 2, 5)}
    np.testing.assert_allclose(model.log_prob(events), model.flow.log_prob(events), rtol=1e-12)
    before = model.log_prob(events, nu={"pdf": 1})
    model.assign([0.5 * value for value in model.weights_list()])
    assert np.abs(model.log_prob(events, nu={"pdf": 1}) - before).min() > 1e-3
    assert np.exp(model.log_prob({"y0": np.linspace(-40, 40, 8001)}, nu={"pdf": 1})).sum() * 0.01 == pytest.approx(
        1, abs=1e-5
    )


def test_where_nothing_moves_the_nominal_density_is_known_of_each_event():
    model, point = deformation(1, 1, moving=False), {"pdf": 0.7, "jes": -1.2}
    events = dict(zip(("y0", "x0"), np.random.default_rng(3).normal(size=(2, 50)), strict=True))
    assert [len(part) for part in model.precompute(*[tf.zeros((4, 1), tf.float64)] * 2)] == [1, 2]
    known = model.log_prob(events, nu=point)
    model.reweighting.moves = True  # by the map after all, which is the identity
    np.testing.assert_allclose(known, model.log_prob(events, nu=point), rtol=1e-12)


def test_copies_and_files_are_equal(tmp_path):
    model = deformation(1, 1)
    events = {"y0": np.array([0.1, 0.5]), "x0": np.array([0.3, -1.0])}
    expected = model.log_prob(events, nu={"pdf": 1, "jes": 0.5})
    zfnf.save(model, tmp_path / "model.fnf")
    for other in (zfnf.load(tmp_path / "model.fnf"), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.log_prob(events, nu={"pdf": 1, "jes": 0.5}), expected)


def test_training_a_map_refuses_log_ratios():
    model = deformation(1, 0)
    with pytest.raises(ValueError, match="log-ratios"):
        model.log_density(tf.zeros((1, 1)), tf.zeros((1, 0)), tf.zeros(4))


def test_log_ratios_of_unknown_nuisances_are_refused():
    model = deformation(1, 0)
    ratio = LogRatio(["other"], ((1,),), n_dim=1, n_context=0)
    with pytest.raises(ValueError, match="other"):
        Deformation(model.flow, model.responses, windows=model.windows, ratios=[ratio])


def test_tails_are_linear_in_the_latent_coordinate_and_end():
    """As the logarithm of the ratio of two power laws is, up to where one event in 3e4 is beyond."""
    z = np.linspace(-30.0, 30.0, 601)[:, None]
    t = tf.tanh(0.45 * tf.constant(z))
    below, above = polynomials(t, np.array([[-1], [-2]])).numpy().T
    np.testing.assert_allclose(below, above[::-1], atol=1e-6)
    far = (z[:, 0] < -4.0) & (z[:, 0] > -7.0)
    np.testing.assert_allclose(np.gradient(below, z[:, 0])[far], -1.0, atol=0.05)
    assert np.ptp(below[z[:, 0] < -16.0]) < 0.01  # from -log(3e-5) = 10.4 on it is constant
    # Events themselves: F is uniform, and -log F has a mean of one and a width of one.
    f = (np.arange(100_000) + 0.5)[:, None] / 100_000
    values = polynomials(tf.tanh(0.45 * tf.constant(np.log(f / (1 - f)))), np.array([[-1]])).numpy()
    assert values.mean() == pytest.approx(0.0, abs=1e-3)
    assert values.std() == pytest.approx(1.0, abs=5e-3)


def test_tails_have_derivatives_at_the_ends_of_bounded_coordinates():
    z = tf.constant([[-60.0], [0.0], [60.0]], tf.float32)
    with tf.GradientTape() as outer:
        outer.watch(z)
        with tf.GradientTape() as inner:
            inner.watch(z)
            values = polynomials(tf.tanh(0.45 * z), np.array([[-1], [-2]]))
        slopes = inner.gradient(values, z)
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()
    assert np.isfinite(outer.gradient(slopes, z)).all()


def test_degrees_of_each_variable():
    basis = Basis((6.0, 2.0, 3.0), 2, tails=True)
    sums = np.where(basis.exponents < 0, 1, basis.exponents) @ [1 / 6, 1 / 2, 1 / 3]
    assert sums.max() <= 1.0 + 1e-9
    assert basis.exponents.max(axis=0).tolist() == [6, 2, 2]  # of the condition 3 by itself
    assert (basis.exponents[:, :2] != 0).any(axis=1).all()  # the last variable is a condition
    assert (basis.exponents[:, 2] >= 0).all()
    assert basis.count(10_000) == len(basis.exponents) == len({tuple(row) for row in basis.exponents})
    assert basis.count(5) == 6
    assert Basis((64.0,) * 12, 1).count(1000) == 1001  # 6e14 of them are not listed
    assert Basis((2.0, 2.0), 2).exponents.tolist() == [
        [1, 0],
        [0, 1],
        [2, 0],
        [1, 1],
        [0, 2],
    ]  # as in files of format 4


def test_polynomials_are_orthonormal():
    points, weights = np.polynomial.legendre.leggauss(20)
    t = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    shares = np.outer(weights, weights).ravel() / 4
    values = polynomials(tf.constant(t), Basis((5.0, 5.0), 2).exponents).numpy()
    np.testing.assert_allclose(values.T @ (shares[:, None] * values), np.eye(values.shape[1]), atol=1e-12)
    assert [default_degree(n) for n in (1, 2, 3, 4)] == [24, 14, 7, 5]
    assert [default_degree(n, 4) for n in (1, 2, 3, 4)] == [24, 9, 5, 3]

"""Flows from elsewhere: the same densities as where they come from, and members like any other here."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import zfit
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from safetensors.numpy import save_file
from scipy import stats
from state_dicts import density_of, made_flow, made_fnf

import zfit_fnf as zfnf
from zfit_fnf import interop
from zfit_fnf.interop.callable import check_normalisation
from zfit_fnf.minimize import Minuit

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "fnf-reference"
f = np.float64


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


# --- TensorFlow Probability -----------------------------------------------------------------------------------------

tfd, tfb = tfp.distributions, tfp.bijectors


def correlated():
    return tfd.MultivariateNormalTriL(np.array([91.0, -4.0]), np.array([[2.5, 0.0], [0.3, 0.5]]))


TRUTH = stats.multivariate_normal([91.0, -4.0], [[2.5**2, 0.75], [0.75, 0.3**2 + 0.5**2]])


class TestTFP:
    def test_distribution(self):
        flow = interop.tfp.wrap(correlated(), obs=["mass", "score"])
        y = TRUTH.rvs(50, random_state=1)
        np.testing.assert_allclose(flow.log_prob({"mass": y[:, 0], "score": y[:, 1]}), TRUTH.logpdf(y), atol=1e-12)
        check_coordinates(flow, y, np.zeros((50, 0)))
        # Coordinates for deformations: of the order of one.
        u, _, _ = flow.encode(tf.constant(y), tf.zeros((50, 0), tf.float64))
        assert np.all(np.abs(np.mean(u, axis=0)) < 1.0)
        assert np.all((np.std(u, axis=0) > 0.5) & (np.std(u, axis=0) < 2.0))

    def test_samples(self):
        """Kolmogorov-Smirnov distances above 0.055 of 2000 events have a probability of 1e-5 in each column."""
        sample = interop.tfp.wrap(correlated(), obs=["mass", "score"]).sample(2000, seed=4)
        assert stats.kstest(sample["mass"], stats.norm(91.0, 2.5).cdf).statistic < 0.055
        assert stats.kstest(sample["score"], stats.norm(-4.0, np.hypot(0.3, 0.5)).cdf).statistic < 0.055

    def test_bijector_acts_on_normal_variables(self):
        flow = interop.tfp.wrap(
            tfb.Chain([tfb.Shift(f(1.0)), tfb.Exp(), tfb.Scale(f(0.5))]), obs=["t"], ranges={"t": (1.0, np.inf)}
        )
        t = np.array([1.1, 2.0, 5.0])
        np.testing.assert_allclose(flow.log_prob({"t": t}), stats.lognorm(0.5, loc=1.0).logpdf(t), atol=1e-12)
        check_coordinates(flow, t[:, None], np.zeros((3, 0)))

    def test_bounded_support(self):
        flow = interop.tfp.wrap(tfd.Beta(f(2.0), f(3.0)), obs=["t"], ranges={"t": (0.0, 1.0)})
        t = np.array([1e-6, 0.2, 0.9, 1 - 1e-9])
        np.testing.assert_allclose(flow.log_prob({"t": t}), stats.beta(2, 3).logpdf(t), atol=1e-6)  # 1 - t is rounded
        # Far out in the coordinates, where t is rounded to its edge, the density still falls exponentially.
        u = tf.constant([[60.0], [70.0]], tf.float64)
        fall = np.diff(flow.log_density(u, tf.zeros((2, 0), tf.float64)))[0]
        assert fall == pytest.approx(-10.0 * float(flow._scale[0]), rel=1e-6)
        assert check_normalisation(flow).consistent

    def test_conditional(self):
        def at(x):
            return tfd.Normal(2.0 * x[:, 0], 1.0 + x[:, 1] ** 2)

        y, x = points(1, 2)
        table = {"y": y[:, 0], "a": x[:, 0], "b": x[:, 1]}
        flow = interop.tfp.wrap(at, obs=["y"], cond=["a", "b"], events=table)
        truth = stats.norm(2.0 * x[:, 0], 1.0 + x[:, 1] ** 2)
        np.testing.assert_allclose(flow.log_prob(table), truth.logpdf(y[:, 0]), atol=1e-12)
        check_coordinates(flow, y, x)
        sample = flow.sample(4000, cond={"a": [1.0], "b": [1.0]}, seed=2)
        distance = stats.kstest(sample["y"], stats.norm(2.0, 2.0).cdf).statistic
        assert distance < 0.04  # exceeded with a probability of 6e-6

    @pytest.mark.parametrize(
        ("given", "obs", "error", "message"),
        [
            (lambda: tfd.Normal(f(0), f(1)), ["a", "b"], ValueError, "event shape ()"),
            (lambda: tfd.Normal(np.zeros(2), np.ones(2)), ["a", "b"], ValueError, "Independent"),
            (lambda: tfd.Normal(np.zeros(2), np.ones(2)), ["a"], ValueError, "batch shape (2,)"),
            (lambda: "Normal", ["a"], TypeError, "expected a distribution or bijector"),
        ],
    )
    def test_bad_input(self, given, obs, error, message):
        with pytest.raises(error) as caught:
            interop.tfp.wrap(given(), obs=obs)
        assert message in str(caught.value)

    def test_conditions_need_a_function(self):
        with pytest.raises(TypeError, match="give a function of them"):
            interop.tfp.wrap(correlated(), obs=["mass", "score"], cond=["x"])

    def test_ranges_that_are_not_the_support(self):
        with pytest.raises(ValueError, match="not inside the range 90 < mass < 92"):
            interop.tfp.wrap(correlated(), obs=["mass", "score"], ranges={"mass": (90.0, 92.0)})

    def test_single_precision_warns(self):
        with pytest.warns(UserWarning, match="computes in float32"):
            flow = interop.tfp.wrap(tfd.Normal(0.0, 1.0), obs=["a"])
        assert flow.log_prob({"a": [0.0]})[0] == pytest.approx(-0.9189385, abs=1e-6)


# --- functions ------------------------------------------------------------------------------------------------------


def exponential(context_slope=0.0):
    def log_prob(x, context):
        rate = tf.exp(context_slope * tf.reduce_sum(context, axis=1))
        return tf.math.log(rate) - rate * x[:, 0]

    def sampler(context, seed):
        uniform = tf.random.stateless_uniform((tf.shape(context)[0], 1), seed, dtype=tf.float64)
        return -tf.math.log(uniform) / tf.exp(context_slope * tf.reduce_sum(context, axis=1, keepdims=True))

    return log_prob, sampler


class TestCallable:
    def test_density_and_sampler(self):
        flow = interop.callable.wrap(*exponential(), obs=["t"], ranges={"t": (0.0, np.inf)})
        t = np.array([1e-3, 1.0, 7.0])
        np.testing.assert_allclose(flow.log_prob({"t": t}), -t, atol=1e-12)
        check_coordinates(flow, t[:, None], np.zeros((3, 0)))
        assert stats.kstest(flow.sample(2000, seed=1)["t"], stats.expon.cdf).statistic < 0.055  # p = 1e-5

    def test_conditional(self):
        flow = interop.callable.wrap(*exponential(0.5), obs=["t"], cond=["x"], ranges={"t": (0.0, np.inf)})
        rate = np.exp(0.5 * np.array([0.0, 1.0, -2.0]))
        table = {"t": [0.1, 1.0, 3.0], "x": [0.0, 1.0, -2.0]}
        np.testing.assert_allclose(flow.log_prob(table), np.log(rate) - rate * table["t"], atol=1e-12)

    def test_normalisation_is_checked(self):
        log_prob, sampler = exponential(0.5)
        ranges = {"t": (0.0, np.inf)}
        good = interop.callable.wrap(log_prob, sampler, obs=["t"], cond=["x"], ranges=ranges)
        result = check_normalisation(good, at={"x": 1.0}, seed=1)
        assert result.consistent
        assert result.error < 0.01
        assert "as one" in str(result)
        bad = interop.callable.wrap(lambda *a: log_prob(*a) + 0.1, sampler, obs=["t"], cond=["x"], ranges=ranges)
        result = check_normalisation(bad, at={"x": 1.0}, seed=1)
        assert not result.consistent
        assert result.integral == pytest.approx(np.exp(0.1), abs=5 * result.error)
        with pytest.raises(ValueError, match="a value for each condition"):
            check_normalisation(good)

    @pytest.mark.parametrize(
        ("log_prob", "sampler", "message"),
        [
            (lambda x, c: x, None, "log-densities of shape"),
            (lambda x, c: x[:, 0] / 0.0, None, "is not finite for 10000 of 10000 events"),
            (None, lambda c, seed: tf.zeros(7), "gives the shape (7,)"),
            (None, lambda c, seed: -tf.ones((tf.shape(c)[0], 1)), "not inside the range 0 < t"),
        ],
    )
    def test_functions_are_tried_out(self, log_prob, sampler, message):
        good = exponential()
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            interop.callable.wrap(log_prob or good[0], sampler or good[1], obs=["t"], ranges={"t": (0.0, np.inf)})
        assert message in str(caught.value)


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


class TestZuko:
    @pytest.mark.parametrize("activation", ["ReLU", "ELU", "SiLU", "Tanh"])
    @pytest.mark.parametrize("name", FLOWS)
    def test_against_a_slow_loop_of_the_equations(self, name, activation):
        made, flow = imported(name, activation)
        y, x = points(made.n_dim, made.n_context)
        y[:3] *= 6.0  # outside of the box of the spline
        table = dict(zip(flow.obs + flow.cond, np.concatenate([y, x], axis=1).T, strict=True))
        expected = [density_of(made, event, given, activation) for event, given in zip(y, x, strict=True)]
        np.testing.assert_allclose(flow.log_prob(table), expected, rtol=1e-12, atol=1e-10)

    @pytest.mark.parametrize("name", FLOWS)
    def test_inverse_and_jacobian(self, name):
        made, flow = imported(name, "Tanh")
        y, x = map(tf.constant, points(made.n_dim, made.n_context))
        expected, z, log_det = log_jacobian_of(lambda y: flow.density.inverse(y, x), y)
        np.testing.assert_allclose(log_det, expected, atol=1e-9)
        np.testing.assert_allclose(flow.density.forward(tf.identity(z), x), y, atol=1e-9)

    def test_coupling_needs_two_passes(self):
        passes = {name: [t.architecture.passes for t in imported(name)[1].density.layers] for name in FLOWS}
        assert passes["coupling"] == [2, 2]
        assert passes["affine"] == [3, 3]
        assert passes["one feature"] == [1, 1]

    def test_samples_follow_the_density(self):
        """Latents of samples are normal; distances above 0.055 have a probability of 1e-5 in each column."""
        _, flow = imported("spline")
        sample = flow.sample(2000, cond={"x0": [0.3], "x1": [-0.4]}, seed=5)
        z, _ = flow.density.inverse(*map(tf.constant, flow.columns(sample)))
        assert all(stats.kstest(z[:, k], stats.norm.cdf).statistic < 0.055 for k in range(2))

    def test_standardisation_of_the_training(self):
        made, plain = imported("affine")
        scaled = interop.zuko.import_flow(
            made.arrays, obs=plain.obs, architecture={"slope": 1e-3}, standardisation={"y1": (91.0, 2.5)}
        )
        y, _ = points(3, 0)
        table = dict(zip(plain.obs, y.T, strict=True))
        moved = {**table, "y1": 91.0 + 2.5 * table["y1"]}
        np.testing.assert_allclose(scaled.log_prob(moved), plain.log_prob(table) - np.log(2.5), atol=1e-10)

    def test_files(self, tmp_path):
        made, flow = imported("coupling")
        np.savez(tmp_path / "m.npz", **{f"model.flow.{name}": array for name, array in made.arrays.items()})
        save_file({name: np.ascontiguousarray(a) for name, a in made.arrays.items()}, tmp_path / "m.safetensors")
        y, x = points(4, 1)
        table = dict(zip(flow.obs + flow.cond, np.concatenate([y, x], axis=1).T, strict=True))
        for name in ("m.npz", "m.safetensors"):
            again = interop.zuko.import_flow(
                str(tmp_path / name), obs=flow.obs, cond=flow.cond, architecture={"bins": 4, "slope": 1e-3}
            )
            np.testing.assert_array_equal(again.log_prob(table), flow.log_prob(table))

    def test_names_of_older_versions(self):
        made, flow = imported("affine")
        older = {
            name.replace("base.loc", "base._0").replace("base.scale", "base._1"): a for name, a in made.arrays.items()
        }
        with pytest.warns(UserWarning, match="the slope is taken to be 1e-3"):
            again = interop.zuko.import_flow(older, obs=flow.obs, architecture={})
        table = dict(zip(flow.obs, points(3, 0)[0].T, strict=True))
        np.testing.assert_array_equal(again.log_prob(table), flow.log_prob(table))
        oldest = interop.zuko.import_flow(older, obs=flow.obs, architecture={"slope": 1e-4})
        expected = [density_of(made, event, np.zeros(0), "ReLU", slope=1e-4) for event in points(3, 0)[0]]
        np.testing.assert_allclose(oldest.log_prob(table), expected, atol=1e-10)

    @pytest.mark.parametrize(
        ("architecture", "change", "message"),
        [
            (None, None, "a state dict does not say everything about its flow"),
            ({"bins": 5}, None, "an NSF with bins=5 needs 28"),
            ({}, None, "a MAF needs 4, an NSF has bins="),
            ({"bins": 6, "layers": 3}, None, "has ['layers'], which are not arguments"),
            ({"bins": 6, "features": 3}, None, "features=3, but the arrays say 2"),
            ({"bins": 6, "context": 0}, None, "context=0, but the arrays say 2"),
            ({"bins": 6, "transforms": 2}, None, "transforms=2, but the arrays say 1"),
            ({"bins": 6, "hidden_features": [8, 9]}, None, "hidden_features=[8, 9], but the arrays say [8, 8]"),
            ({"bins": 6, "passes": 1}, None, "passes=1, but the masks need more"),
            ({"bins": 6, "activation": "Softplus"}, None, "the activation Softplus cannot be imported"),
            ({"bins": 6}, lambda a: a.pop("transform.transforms.0.hyper.2.mask"), "0.hyper.2.mask' is missing"),
            (
                {"bins": 6},
                lambda a: a.pop("transform.transforms.0.hyper.2.weight"),
                "such as 'transform.transforms.0.hyper.2.bias'",
            ),
            (
                {"bins": 6},
                lambda a: [a.pop(f"transform.transforms.0.hyper.4.{part}") for part in ("weight", "bias", "mask")],
                "gives 8 numbers for 2 features; an NSF with bins=6 needs 34",
            ),
            ({"bins": 6}, lambda a: a.pop("base.loc"), "the base of the flow is missing"),
            ({"bins": 6}, lambda a: a["base.scale"].fill(2.0), "the base of the flow is not standard normal"),
            (
                {"bins": 6},
                lambda a: a.update(extra=np.ones(1)),
                "1 arrays do not belong to a zuko NSF or MAF, such as 'extra'",
            ),
            ({"bins": 6}, lambda a: a["transform.transforms.0.hyper.0.mask"].fill(True), "depend on themselves"),
            (
                {"bins": 6},
                lambda a: a["transform.transforms.0.hyper.0.bias"].fill(np.nan),
                "numbers that are not finite",
            ),
            ({"bins": 6}, lambda a: a.update(epoch="ten"), "'epoch' of the state dict is not an array"),
            ({"bins": 6}, lambda a: [a.pop(name) for name in list(a)], "found those of 0"),
        ],
    )
    def test_state_dicts_that_do_not_fit(self, architecture, change, message):
        made = made_flow(**FLOWS["spline"])
        if change:
            change(made.arrays)
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            interop.zuko.import_flow(made.arrays, obs=["a", "b"], cond=["x", "z"], architecture=architecture)
        assert message in str(caught.value)

    def test_names_that_do_not_fit(self):
        made = made_flow(**FLOWS["spline"])
        with pytest.raises(ValueError, match="2 coordinates given 2 conditions cannot describe"):
            interop.zuko.import_flow(made.arrays, obs=["a", "b"], architecture={"bins": 6})

    def test_files_that_are_none(self, tmp_path, monkeypatch):
        for name in ("m.npz", "m.safetensors"):
            (tmp_path / name).write_bytes(b"nothing of the kind")
            with pytest.raises(ValueError, match="cannot be read as a state dict"):
                interop.zuko.import_flow(tmp_path / name, obs=["a"], architecture={})
        np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
        with pytest.raises(ValueError, match="cannot be read as a state dict"):
            interop.zuko.import_flow(tmp_path / "objects.npz", obs=["a"], architecture={})
        (tmp_path / "m.h5").touch()
        with pytest.raises(ValueError, match=r"none of \.npz"):
            interop.zuko.import_flow(tmp_path / "m.h5", obs=["a"], architecture={})
        with pytest.raises(FileNotFoundError):
            interop.zuko.import_flow(tmp_path / "missing.npz", obs=["a"], architecture={})
        with pytest.raises(TypeError, match="got int"):
            interop.zuko.import_flow(7, obs=["a"], architecture={})
        monkeypatch.setitem(sys.modules, "torch", None)
        (tmp_path / "m.pt").touch()
        with pytest.raises(ImportError, match="PyTorch is needed for this: pip install"):
            interop.zuko.import_flow(tmp_path / "m.pt", obs=["a"], architecture={})


# --- published factorizable flows -----------------------------------------------------------------------------------


def import_reference():
    architecture = {**json.loads((REFERENCE / "kinematics.json").read_text())["arch"]["kin_flow"], "slope": 1e-3}
    return interop.reference.import_fnf(
        REFERENCE / "kinematics_weights.npz",
        obs=["x1", "x2"],
        cond=["is_a", "is_b"],
        nuisances=["shift", "squeeze"],
        architecture=architecture,
    )


@pytest.fixture(scope="module")
def model():
    return import_reference()


@pytest.fixture(scope="module")
def vectors():
    return np.load(REFERENCE / "kinematics_vectors.npz")


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is not here")
class TestPublishedModel:
    """A thousand events of a published model, evaluated with PyTorch in float64."""

    def test_base(self, model, vectors):
        density, u, c = model.flow.density, tf.constant(vectors["x"]), tf.constant(vectors["kin_context"])
        z, log_det = density.inverse(u, c)
        table = dict(zip(model.obs + model.cond, np.concatenate([u, c], axis=1).T, strict=True))
        for name, value in {
            "logprob": model.flow.log_prob(table),
            "z": z,
            "ladj": log_det,
            "inverse": density.forward(tf.constant(vectors["kin_base_z"]), c),
            "sample": density.forward(tf.constant(vectors["kin_latent"]), c),
        }.items():
            np.testing.assert_allclose(value, vectors[f"kin_base_{name}"], rtol=0, atol=1e-9, err_msg=name)
        for place, transform in enumerate(density.layers):
            u, log_det = transform.inverse(u, c)
            np.testing.assert_allclose(u, vectors[f"kin_base_after_t{place}"], rtol=0, atol=1e-9)
            np.testing.assert_allclose(log_det, vectors[f"kin_base_ladj_t{place}"], rtol=0, atol=1e-9)

    def test_deformed(self, model, vectors):
        u, c, nu = (tf.constant(vectors[name]) for name in ("x", "kin_context", "nu"))
        basis = tf.vectorized_map(model.basis, nu)
        coefficients = model.coefficients(u, c)
        nominal, log_det = model.inverse(u, c, coefficients, basis)
        z, _ = model.flow.density.inverse(nominal, c)
        shape = tf.einsum("nmjk,nm->njk", coefficients, basis)
        for name, value in {
            "residual_after_0": nominal,
            "residual_ladj": log_det,
            "residual0_s": shape[..., 0],
            "residual0_t": shape[..., 1],
            "fnf_z": z,
            "fnf_logprob": model.flow.log_density(nominal, c) + log_det,
        }.items():
            np.testing.assert_allclose(value, vectors[f"kin_{name}"], rtol=0, atol=1e-9, err_msg=name)
        base = vectors["kin_base_logprob"]
        at_zero = np.all(vectors["nu"] == 0.0, axis=1)
        np.testing.assert_array_equal(nominal[at_zero], u[at_zero])
        np.testing.assert_allclose((model.flow.log_density(nominal, c) + log_det)[at_zero], base[at_zero], atol=1e-9)

    def test_density_at_zero_is_exactly_that_of_the_base(self, model, vectors):
        table = dict(
            zip(model.obs + model.cond, np.concatenate([vectors["x"], vectors["kin_context"]], 1).T, strict=True)
        )
        np.testing.assert_array_equal(model.log_prob(table), model.flow.log_prob(table))

    def test_samples(self, model, vectors):
        @tf.function
        def one(z, c, nu):
            basis = model.basis(nu)
            sample = model.forward(model.flow.density.forward(z[None], c[None]), c[None], basis)
            moved, log_det = model.inverse(sample, c[None], model.coefficients(sample, c[None]), basis)
            return sample[0], log_det[0] + model.flow.density.inverse(moved, c[None])[1][0]

        rows = zip(*(vectors[name] for name in ("kin_latent", "kin_context", "nu")), strict=True)
        samples, log_dets = zip(*(one(*row) for row in rows), strict=True)
        np.testing.assert_allclose(samples, vectors["kin_fnf_sample"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.negative(log_dets), vectors["kin_fnf_sample_ladj"], rtol=0, atol=1e-9)

    def test_derivatives_in_the_nuisances(self, model, vectors):
        u, c, nu = (tf.constant(vectors[name]) for name in ("x", "kin_context", "nu"))
        coefficients = model.coefficients(u, c)
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(nu)
            with tf.GradientTape() as inner:
                inner.watch(nu)
                nominal, log_det = model.inverse(u, c, coefficients, tf.vectorized_map(model.basis, nu))
                log_prob = model.flow.log_density(nominal, c) + log_det
            gradient = inner.gradient(log_prob, nu)
            columns = tf.unstack(gradient, axis=1)
        hessian = np.stack([outer.gradient(column, nu) for column in columns], axis=1)
        np.testing.assert_allclose(gradient, vectors["kin_fnf_dlogp_dnu"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(hessian, vectors["kin_fnf_d2logp_dnu2"], rtol=0, atol=1e-7)

    def test_stored(self, model, vectors, tmp_path):
        zfnf.save(model, tmp_path / "m.fnf")
        again = zfnf.load(tmp_path / "m.fnf")
        table = dict(
            zip(model.obs + model.cond, np.concatenate([vectors["x"], vectors["kin_context"]], 1).T, strict=True)
        )
        nu = {"shift": 0.7, "squeeze": -1.1}
        np.testing.assert_array_equal(again.log_prob(table, nu=nu), model.log_prob(table, nu=nu))


class TestFactorizableFlows:
    """State dicts with random weights: several layers, cross terms, central values and scales."""

    @pytest.mark.parametrize("n_layers", [1, 2, 3])
    def test_against_a_slow_loop_of_the_equations(self, n_layers):
        made = made_fnf(n_layers=n_layers, centre=[0.3, -0.2, 0.0], scale=[0.5, 2.0, 1.0], pairs=[(0, 2), (1, 2)])
        model = interop.reference.import_fnf(
            {f"fnf.{name}": array for name, array in made.arrays.items()},
            obs=["a", "b"], cond=["x"], nuisances=["p", "q", "r"], architecture={"slope": 1e-3},
            quadratic_damping=0.05, cross_term_damping=0.03,
        )  # fmt: skip
        assert model.interactions == (("p", "r"), ("q", "r"))
        assert model.windows["p"] == pytest.approx((0.3 - 1.5, 0.3 + 1.5))
        y, x = points(2, 1)
        table = {"a": y[:, 0], "b": y[:, 1], "x": x[:, 0]}
        nu = np.array([1.2, -0.7, 0.4])
        expected = [made.log_prob(event, given, nu, 0.05, 0.03) for event, given in zip(y, x, strict=True)]
        np.testing.assert_allclose(model.log_prob(table, nu=dict(zip("pqr", nu, strict=True))), expected, atol=1e-9)
        # The nominal density is at the central values; the map is inverted by its forward direction.
        centre = {"p": 0.3, "q": -0.2}
        nominal = model.flow.log_prob(table)
        np.testing.assert_allclose(model.log_prob(table, nu=centre), nominal, atol=1e-6)  # central values are float32
        u, c = tf.constant(y), tf.constant(x)
        basis = model.basis(tf.constant(nu))
        nominal, _ = model.inverse(u, c, model.coefficients(u, c), basis)
        np.testing.assert_allclose(model.forward(tf.identity(nominal), c, basis), u, atol=1e-9)

    def test_base_given_apart(self):
        made = made_fnf(n_layers=1)
        whole = interop.reference.import_fnf(
            made.arrays, obs=["a", "b"], cond=["x"], nuisances=["p"], architecture={"slope": 1e-3}
        )
        parts = {name: array for name, array in made.arrays.items() if not name.startswith("base_model")}
        apart = interop.reference.import_fnf(parts, nuisances=["p"], base=whole.flow)
        table = {"a": [0.1, 0.2], "b": [1.0, -1.0], "x": [0.0, 0.5]}
        np.testing.assert_array_equal(apart.log_prob(table, nu={"p": 1.0}), whole.log_prob(table, nu={"p": 1.0}))

    @pytest.mark.parametrize(
        ("change", "arguments", "message"),
        [
            (None, {"nuisances": ["p", "q"]}, "names ['p', 'q'], but the flow has 1"),
            (None, {"architecture": None}, "does not say everything about its base"),
            (lambda a: [a.pop(name) for name in list(a) if "base_model" in name], {}, "give it as base="),
            (lambda a: [a.pop(name) for name in list(a) if "central" in name], {}, "no central_nuisance_values"),
            (lambda a: a.pop("transforms.0.nuisance_scales"), {}, "nuisance_scales' is missing"),
            (lambda a: a["transforms.1.indices"].sort(), {}, "transforms.1 does not reverse"),
            (lambda a: a["transforms.2.nuisance_scales"].fill(3.0), {}, "the layers differ"),
            (lambda a: a["transforms.0.nuisance_nets.0.0.mask"].fill(True), {}, "depend on itself or on later ones"),
            (lambda a: a.update({"transforms.0.bonus": np.ones(1)}), {}, "such as 'transforms.0.bonus'"),
        ],
    )
    def test_state_dicts_that_do_not_fit(self, change, arguments, message):
        made = made_fnf(n_layers=2)
        if change:
            change(made.arrays)
        settings = {"obs": ["a", "b"], "cond": ["x"], "nuisances": ["p"], "architecture": {"slope": 1e-3}, **arguments}
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            interop.reference.import_fnf(made.arrays, **settings)
        assert message in str(caught.value)


# --- members like any other -----------------------------------------------------------------------------------------


def zuko_flow(columns):
    made = made_flow([[0, 1], [1, 0]], scale=0.3)
    return interop.zuko.import_flow(made.arrays, obs=columns, architecture={"activation": "Tanh", "slope": 1e-3})


def physical_flow(columns):
    return interop.tfp.wrap(correlated(), obs=columns)


@pytest.mark.parametrize("make", [zuko_flow, physical_flow])
def test_imported_flows_go_to_other_processes(make):
    flow = make(["y0", "y1"])
    table = dict(zip(flow.obs, points(2, 0)[0].T, strict=True))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(flow)).log_prob(table), flow.log_prob(table))


@pytest.mark.parametrize("make", [zuko_flow, physical_flow])
def test_imported_flows_are_deformed_fitted_and_stored(make, tmp_path):
    """A response trained on top of an imported flow measures a shift: within 5 sigma, also after storage."""
    columns = ["y0", "y1"]
    flow = make(columns)
    nominal = flow.sample(20_000, seed=1)
    flow.sum_weights = float(len(nominal))
    shift = 0.3 * nominal["y0"].std()

    def moved(n, nu, seed):
        return flow.sample(n, seed=seed).assign(y0=lambda table: table["y0"] + nu * shift)

    variations = [zfnf.Variation(moved(20_000, nu, seed=nu + 3), at={"jes": nu}) for nu in (-1, 1)]
    schedule = zfnf.Schedule(steps=150, batch_size=1024, learning_rate=5e-3, warmup=20, averaging=0.95, rotate_every=0)
    deformation = zfnf.train.fit_deformation(flow, variations, hidden=(8,), schedule=schedule, progress=False)
    assert deformation.yields["jes"] == zfnf.YieldRatio(1.0, 1.0)

    data = moved(2000, 0.5, seed=9)[columns]
    zfnf.save(deformation, tmp_path / "m.fnf")
    fitted = []
    for model in (deformation, zfnf.load(tmp_path / "m.fnf")):
        jes, n = zfnf.nuisance("jes"), zfit.Parameter("n", 1900.0, 0.0, 10_000.0, stepsize=10.0)
        nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.FNFPDF(model, params={"jes": jes}, extended=n), data)
        result = Minuit().minimize(nll)
        error = result.hesse(params=jes)[jes]["error"]
        assert result.valid
        # Shifted by 0.3 widths per unit, two thousand events: 1 / (0.3 sqrt(2000)) = 0.075, less with correlations.
        assert 0.03 < error < 0.08
        assert abs(result.params[jes]["value"] - 0.5) < 5 * error
        fitted.append(result.params[jes]["value"])
    assert fitted[0] == pytest.approx(fitted[1], abs=1e-9)


def normal(**parameters):
    return tfd.Normal(**{"loc": np.float64(0.0), "scale": np.float64(1.0), **parameters})


def function(log_prob=lambda x, c: -x[:, 0], **options):
    sampler = exponential()[1]
    return interop.callable.wrap(log_prob, options.pop("sampler", sampler), **{"obs": ["t"], **POSITIVE, **options})


POSITIVE = {"ranges": {"t": (0.0, np.inf)}}
WRAP = interop.tfp.wrap
MISTAKES = {
    "names as a text": (lambda: WRAP(normal(), obs="mass"), TypeError, "obs= is a list of column names"),
    "no names": (lambda: WRAP(normal(), obs=None), TypeError, "obs= is a list of column names"),
    "no observable": (lambda: WRAP(normal(), obs=[]), ValueError, "names no observable"),
    "numbers as names": (lambda: WRAP(normal(), obs=[1]), TypeError, "obs= is a list of column names"),
    "an empty name": (lambda: WRAP(normal(), obs=[""]), TypeError, "obs= is a list of column names"),
    "conditions as a text": (lambda: WRAP(normal(), obs=["a"], cond="x"), TypeError, "cond= is a list"),
    "a name of the function": (lambda: function(name=7), TypeError, "name= is a text"),
    "an empty name of the function": (lambda: function(name=""), TypeError, "name= is a text"),
    "a class": (lambda: WRAP(tfd.Normal, obs=["a"]), TypeError, "expected a distribution or bijector"),
    "text": (lambda: WRAP("normal", obs=["a"]), TypeError, "expected a distribution or bijector"),
    "a list of ranges": (lambda: WRAP(normal(), obs=["a"], ranges=[(0, 1)]), TypeError, "ranges= is a mapping"),
    "a range of one number": (lambda: WRAP(normal(), obs=["a"], ranges={"a": 5}), TypeError, "is a pair"),
    "the column of weights": (lambda: WRAP(normal(), obs=["a"], sum_weights="w"), TypeError, "sum_weights= is a number"),
    "a negative yield": (lambda: WRAP(normal(), obs=["a"], sum_weights=-3.0), ValueError, "positive and finite"),
    "a yield that is none": (lambda: WRAP(normal(), obs=["a"], sum_weights=np.nan), ValueError, "positive and finite"),
    "counts": (lambda: WRAP(tfd.Poisson(np.float64(3.0)), obs=["a"]), ValueError, "it is discrete"),
    "categories": (lambda: WRAP(tfd.Categorical(probs=[0.5, 0.5]), obs=["a"]), ValueError, "it is discrete"),
    "an atom": (lambda: function(sampler=lambda c, seed: tf.ones((len(c), 1), tf.float64)), ValueError, "it is discrete"),
    "a function of no distribution": (
        lambda: WRAP(lambda x: 3.0, obs=["a"], cond=["x"], events={"a": np.arange(9.0), "x": np.arange(9.0)}),
        ValueError, "the function gives 3.0, neither",
    ),
    "no function": (lambda: function(None), TypeError, "log_prob is a function"),
    "no sampler": (lambda: function(sampler=None), TypeError, "sampler is a function"),
    "swapped": (lambda: interop.callable.wrap(*exponential()[::-1], obs=["t"], **POSITIVE), ValueError, "the sampler of"),
    "one argument": (lambda: function(lambda x: -x[:, 0]), ValueError, "fails as a TensorFlow function"),
    "NumPy": (lambda: function(lambda x, c: -np.asarray(x)[:, 0]), ValueError, "fails as a TensorFlow function"),
    "a list of numbers": (lambda: function(lambda x, c: [0.0] * 3), ValueError, "of shape"),
    "a sampler that fails": (lambda: function(sampler=lambda c, seed: c[:, 5:6] / 0), ValueError, "the sampler of"),
    "a function that gives nothing": (lambda: function(lambda x, c: None), ValueError, "log-density of"),
    "no events to integrate": (lambda: check_normalisation(function(), n=0), ValueError, "n= is a number of points"),
    "half an event": (lambda: check_normalisation(function(), n=1000.5), ValueError, "n= is a number of points"),
    "a negative seed": (lambda: check_normalisation(function(), seed=-1), ValueError, "seed= not negative"),
    "conditions in a list": (lambda: check_normalisation(function(), at=[1.0]), TypeError, "at= is a mapping"),
    "no flow": (lambda: check_normalisation(normal()), TypeError, "expected a flow"),
    "an architecture in a list": (
        lambda: interop.zuko.import_flow({}, obs=["a"], architecture=["bins"]), TypeError, "architecture= is a mapping",
    ),
    "a folder": (lambda: interop.zuko.import_flow(".", obs=["a"], architecture={}), ValueError, "is a folder"),
    "a flow of ours": (lambda: interop.zuko.import_flow(function(), obs=["a"], architecture={}), TypeError, "a module of zuko"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*computes in")
@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(call, error, message):
    """One error at the door, which says what is expected."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

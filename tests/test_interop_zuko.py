"""Flows of zuko and published factorizable flows: the same densities as where they come from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from imported_flows import FLOWS, imported, log_jacobian_of, points
from safetensors.numpy import save_file
from scipy import stats
from state_dicts import density_of, made_flow, made_fnf

import zfit_fnf as zfnf
from zfit_fnf import interop

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "fnf-reference"


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

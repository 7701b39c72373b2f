"""Models in files: they come back to the last bit, and what is not a sound file gives one clear error and costs little."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import pickle
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Flow, YieldRatio, storage
from zfit_fnf.densities.history import History
from zfit_fnf.densities.polynomial_map import PolynomialMap, Response
from zfit_fnf.densities.transfer import ProfiledTransfer, Transfer
from zfit_fnf.interop.architecture import NetworkShape, ZukoLayer
from zfit_fnf.interop.reference import ReferenceDeformation, ReferenceResponse
from zfit_fnf.interop.zuko_density import ZukoDensity
from zfit_fnf.storage.registry import class_of, entries
from zfit_fnf.storage.schema import FORMAT, Manifest

SMALL = {"hidden": (6, 5), "n_components": 3}
HISTORY = History(
    "p(a)", [10, 20], [1.5, 1.25], [1.4, 1.3], best_step=20, n_events=900, effective_size=812.5, seconds=3.5
)


def shaken(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape).astype(variable.dtype.as_numpy_dtype))
    return model


def flow(**settings):
    made = shaken(Flow(**{"obs": ["a", "b"], "cond": ["x"], **SMALL, **settings}))
    made._centre.assign(np.linspace(-0.3, 0.4, made._centre.shape[0]))
    made._scale.assign(np.linspace(0.7, 1.3, made._scale.shape[0]))
    return made


def deformation(**shape):
    shape = {"n_dim": 2, "n_context": 1, "hidden": (6,), **shape}
    responses = [
        Response(["jes"], ((1,), (2,)), **shape),
        Response(["jer"], ((1,),), **shape),
        Response(["jer", "jes"], ((1, 1),), n_single=3, **shape),
    ]
    responses[2].correction.assign([[0.1, -0.2, 0.05, 0.3]])
    made = Deformation(
        flow(ranges={"a": (0.0, 5.0), "b": (-np.inf, 9.5)}, sum_weights=1234.5),
        [shaken(response, seed) for seed, response in enumerate(responses)],
        windows={"jes": (-1.0, 1.0), "jer": (0.0, 1.0)},
        yields={"jes": YieldRatio(1.1, 0.9)},
    )
    made.flow.history = HISTORY
    made.history = {"jes": HISTORY}
    return made


def zuko_flow(dtype="float32", **network):
    layers = [
        ZukoLayer("spline", 4, 5.0, 1e-3, NetworkShape((3, 8, 8, 22), "ReLU", **network), 2),
        ZukoLayer("affine", 0, 5.0, 1e-4, NetworkShape((3, 4, 4), "SiLU"), 1),
    ]
    density = ZukoDensity(2, 1, layers, dtype=dtype)
    # Nothing is masked here: all networks are made blind for the coordinates.
    for layer in density.layers:
        shaken(layer)
        layer.network.weights[0][:2].assign(tf.zeros_like(layer.network.weights[0][:2]))
    return Flow(["a", "b"], ["x"], density=density, standardisation={"a": (0.5, 2.0)})


def reference():
    shapes = [NetworkShape((3, 6, 8), "ELU")], [NetworkShape((3, 6, 4), "ELU")]
    names = (["jes"], ["jer"], ["jes", "jer"])
    responses = [
        shaken(ReferenceResponse(pair, n_dim=2, n_context=1, shapes=shapes[len(pair) - 1], dtype="float64"), seed)
        for seed, pair in enumerate(names)
    ]
    return ReferenceDeformation(
        zuko_flow(),
        responses,
        windows=dict.fromkeys(["jes", "jer"], (-3.0, 3.0)),
        centre={"jes": 0.0, "jer": 0.5},
        scale={"jes": 1.0, "jer": 2.0},
        quadratic_damping=0.01,
        cross_term_damping=0.02,
    )


def distribution():
    base = tfp.distributions.MultivariateNormalTriL(np.array([0.5, 1.0]), np.array([[1.0, 0.0], [0.3, 0.8]]))
    chain = tfp.bijectors.Chain([tfp.bijectors.Shift(np.array([0.0, 2.0])), tfp.bijectors.Scale(np.float64(1.5))])
    mixture = tfp.distributions.Mixture(
        tfp.distributions.Categorical(probs=np.array([0.25, 0.75])),
        [base, tfp.distributions.TransformedDistribution(base, chain)],
    )
    return zfnf.interop.tfp.wrap(mixture, obs=["a", "b"])


MODELS = {
    "mixture": flow,
    "one observable": lambda: flow(obs=["a"], cond=[]),
    "stacked splines": lambda: flow(family="spline", n_layers=2, ranges={"a": (-30.0, 30.0)}),
    "deformation": deformation,
    "deformation of stacked layers": lambda: deformation(n_layers=2),
    "zuko": zuko_flow,
    "zuko with residual blocks in float64": lambda: zuko_flow("float64", residual=True),
    "reference": reference,
    "distribution": distribution,
}


@pytest.fixture(params=MODELS.values(), ids=MODELS, scope="module")
def model(request):
    return request.param()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A deformation in a file; tests write changed copies of it."""
    path = tmp_path_factory.mktemp("model") / "signal.fnf"
    storage.save(deformation(), path)
    return path


EVENTS = {"a": np.linspace(0.1, 4.9, 40), "b": np.linspace(-2.0, 3.0, 40), "x": np.sin(np.arange(40.0))}


def densities(model):
    if isinstance(model, Flow):
        return model.log_prob(EVENTS)
    return np.stack([model.log_prob(EVENTS, nu=nu) for nu in ({}, {"jes": 0.7, "jer": -0.3})])


class TestRoundTrip:
    def test_densities_and_samples_are_the_same_to_the_last_bit(self, model, tmp_path):
        storage.save(model, tmp_path / "m.fnf")
        again = zfnf.load(tmp_path / "m.fnf")
        assert type(again) is type(model)
        np.testing.assert_array_equal(densities(again), densities(model))
        draw = {"n": 5, "cond": EVENTS if model.cond else None, "seed": 3}
        assert again.sample(**draw).equals(model.sample(**draw))

    def test_maps(self, tmp_path):
        whole = deformation(n_layers=2)
        storage.save(PolynomialMap(whole.responses, windows=whole.windows), tmp_path / "m.fnf")
        again = storage.load(tmp_path / "m.fnf")
        u, c = tf.constant(np.random.default_rng(0).normal(size=(20, 2))), tf.zeros((20, 1), tf.float64)
        basis = whole.basis(tf.constant([0.4, -1.2], tf.float64))
        for moved, expected in zip(
            again.inverse(u, c, again.coefficients(u, c), again.basis(tf.constant([0.4, -1.2], tf.float64))),
            whole.inverse(u, c, whole.coefficients(u, c), basis),
            strict=True,
        ):
            np.testing.assert_array_equal(moved, expected)

    def test_same_model_same_bytes(self, model, tmp_path):
        for name in ("1", "2"):
            storage.save(model, tmp_path / name)
        storage.save(storage.load(tmp_path / "1"), tmp_path / "3")
        first = (tmp_path / "1").read_bytes()
        assert first == (tmp_path / "2").read_bytes() == (tmp_path / "3").read_bytes()

    def test_every_variable_is_stored(self, model, tmp_path):
        storage.save(model, tmp_path / "m.fnf")
        contents = storage.inspect(tmp_path / "m.fnf")
        stored = [
            np.prod(contents.manifest.tensors[tensor].shape)
            for entry in contents.entries
            for name, tensor in entry.arrays.items()
            if entry.kind != "distribution" and name not in ("probes", "probed")
        ]
        assert sum(stored) == sum(variable.numpy().size for variable in model.variables)

    def test_everything_else_comes_back(self, stored):
        again, before = storage.load(stored), deformation()
        assert again.windows == before.windows
        assert again.yields == before.yields
        assert again.interactions == before.interactions
        assert again.history == before.history
        assert again.flow.history == HISTORY
        assert again.flow.sum_weights == 1234.5
        assert again.flow.ranges == before.flow.ranges
        assert repr(again) == repr(before)

    def test_shared_models_are_stored_once(self, tmp_path):
        whole = deformation()
        alone = Deformation(whole.flow, [whole.responses[0], Response(["jer"], ((1,),), n_dim=2, n_context=1)],
                            windows=whole.windows)  # fmt: skip
        storage.save(alone, tmp_path / "m.fnf")
        kinds = [entry.kind for entry in storage.inspect(tmp_path / "m.fnf").entries]
        assert kinds == ["autoregressive", "flow", "response", "response", "deformation"]

    def test_functions_are_supplied_again(self, tmp_path):
        given = gaussian(width=1.0)
        storage.save(given, tmp_path / "m.fnf")
        again = storage.load(tmp_path / "m.fnf", supplied={"gauss": gaussian(width=1.0)})
        np.testing.assert_array_equal(again.log_prob(EVENTS), given.log_prob(EVENTS))
        for supplied, message in (
            (None, "the function 'gauss', which is not stored"),
            ({"gauss": gaussian(width=1.1)}, "is not the one that was stored"),
            ({"gauss": gaussian(width=1.0, obs=("a", "b"))}, "1 observables and 0 conditions; the one supplied has 2"),
        ):
            with pytest.raises(ValueError, match=message):
                storage.load(tmp_path / "m.fnf", supplied=supplied)

    def test_a_hundred_nuisances_in_two_seconds(self, tmp_path):
        names = [f"nuisance{index}" for index in range(100)]
        responses = [Response([name], ((1,), (2,)), n_dim=2, n_context=1) for name in names]
        large = Deformation(flow(), responses, windows=dict.fromkeys(names, (-1.0, 1.0)))
        started = time.process_time()
        storage.save(large, tmp_path / "m.fnf")
        saved = time.process_time()
        storage.load(tmp_path / "m.fnf")
        assert saved - started < 2.0
        assert time.process_time() - saved < 2.0


def gaussian(width, obs=("a",)):
    law = tfp.distributions.MultivariateNormalDiag(np.zeros(len(obs)), np.full(len(obs), width))
    return zfnf.interop.callable.wrap(
        lambda x, context: law.log_prob(x),
        lambda context, seed: law.sample(tf.shape(context)[0], seed=seed),
        obs=obs,
        events={name: np.random.default_rng(0).normal(size=99) for name in obs},
        name="gauss",
    )


def transfer():
    made = shaken(Transfer(["a", "b"], ["x"], processes=["A", "B"], hidden=(5,), n_layers=2, ranges={"a": (0.0, 5.0)}))
    made._centre.assign([0.1, 0.2, 0.3])
    made._scale.assign([0.9, 1.5, 0.8])
    return made


class TestTransfers:
    def test_transfer(self, tmp_path):
        made = transfer()
        storage.save(made, tmp_path / "m.fnf")
        again = storage.load(tmp_path / "m.fnf")
        for process in "AB":
            assert again.to_simulation(EVENTS, process=process).equals(made.to_simulation(EVENTS, process=process))
            assert again.to_data(EVENTS, process=process).equals(made.to_data(EVENTS, process=process))
        assert again.config() == made.config()
        assert "transfer of a, b | x for each of A, B: 2 layer(s)" in str(storage.inspect(tmp_path / "m.fnf"))

    def test_profiled_transfer(self, tmp_path):
        moves = Response(["axis 0", "axis 1"], ((1, 0), (0, 1), (1, 1)), n_dim=2, n_context=3, hidden=(4,))
        follows = PolynomialMap([shaken(moves)], windows=dict.fromkeys(["axis 0", "axis 1"], (-1.5, 1.5)))
        axes = np.array([[0.1, 0.02], [-0.03, 0.2]])
        made = ProfiledTransfer(transfer(), follows, centre={"mu": 1.1, "jes": -0.2}, axes=axes)
        storage.save(made, tmp_path / "m.fnf")
        again = storage.load(tmp_path / "m.fnf")
        u, context = tf.constant(np.random.default_rng(0).normal(size=(2, 20, 3)))
        theta = tf.constant([1.2, 0.1], tf.float64)
        for moved, expected in zip(
            again.inverse(u[:, :2], context, theta), made.inverse(u[:, :2], context, theta), strict=True
        ):
            np.testing.assert_array_equal(moved, expected)
        assert again.centre == made.centre
        assert "follows mu from 1.1, jes from -0.2" in str(storage.inspect(tmp_path / "m.fnf"))
        for change, message in (
            ({"centre": {"mu": 1.0}}, "its arguments need [1, 1]"),
            ({"transfer": 2, "deformation": 0}, "refers to model 2 as a Transfer"),
        ):
            refused(rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", set_in("profiled_transfer", **change)), message)

    def test_axes_that_are_none(self, tmp_path):
        moves = Response(["axis 0"], ((1,),), n_dim=2, n_context=3, hidden=(4,))
        follows = PolynomialMap([moves], windows={"axis 0": (-1.5, 1.5)})
        made = ProfiledTransfer(transfer(), follows, centre={"mu": 1.1}, axes=np.array([[1.0]]))
        made._axes.assign([[0.0]])
        storage.save(made, tmp_path / "m.fnf")
        refused(tmp_path / "m.fnf", "Singular matrix")


class TestSave:
    def test_leaves_nothing_half_written(self, tmp_path, monkeypatch):
        def full(path, content):
            with path.open("wb") as file:
                file.write(content[:100])
            raise OSError("No space left on device")

        (tmp_path / "m.fnf").write_text("older")
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            storage.save(flow(), tmp_path / "m.fnf")
        assert [path.name for path in tmp_path.iterdir()] == ["m.fnf"]
        assert (tmp_path / "m.fnf").read_text() == "older"

    def test_others_may_read_what_they_may_read_of_other_files(self, tmp_path):
        (tmp_path / "other").touch()
        storage.save(flow(), tmp_path / "m.fnf")
        assert (tmp_path / "m.fnf").stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_refuses_what_could_not_be_read(self, tmp_path):
        broken = flow()
        broken.density.layers[0].network.biases[0].assign(np.full(6, np.nan))
        with pytest.raises(ValueError, match=r"6 of 6 numbers of tensor '0.layers.0.network.biases.0' are not finite"):
            storage.save(broken, tmp_path / "m.fnf")
        with pytest.raises(TypeError, match=r"a dict cannot be stored; models that can are .*Deformation, .*Flow"):
            storage.save({}, tmp_path / "m.fnf")
        poisson = tfp.distributions.Normal(np.float64(0.0), np.float64(1.0)).copy()
        vague = zfnf.interop.tfp.wrap(tfp.distributions.Blockwise([poisson] * 2), obs=["a", "b"])
        with pytest.raises(TypeError, match="Blockwise is not among the classes that can be stored"):
            storage.save(vague, tmp_path / "m.fnf")
        with pytest.raises(FileNotFoundError, match="no folder"):
            storage.save(flow(), tmp_path / "missing" / "m.fnf")
        assert list(tmp_path.iterdir()) == []

    def test_closure_figures_are_kept(self, tmp_path):
        storage.save(flow(), tmp_path / "m.fnf", closure={"AUC": np.float32(0.5), "verdict": "passed"})
        contents = storage.inspect(tmp_path / "m.fnf")
        assert contents.manifest.closure == {"AUC": 0.5, "verdict": "passed"}
        assert "closure: AUC = 0.5" in str(contents)


def test_inspect_shows_what_there_is(stored):
    text = str(storage.inspect(stored))
    for part in (
        "signal.fnf: deformation",
        f"format {FORMAT}, zfit_fnf {zfnf.__version__}",
        "flow p(a, b | x): mixture of 3, 1 layer(s), hidden layers 6 x 5, sum of weights 1234.5",
        "a in (0, 5)",
        "b in (-inf, 9.5)",
        "response to jes: powers 1, 2, window (-1, 1), yield up 1.1, down 0.9",
        "response to jer: powers 1, window (0, 1), yield unchanged",
        "response to jer x jes: powers 1*1",
        "validation log-density -1.30000 nats/event at step 20",
    ):
        assert part in text


def test_the_file_is_readable_without_this_package(stored):
    """As the documentation says: a safetensors file with a manifest of two lines, checksum and JSON."""
    with safe_open(stored, "numpy") as file:
        checksum, text = file.metadata()["zfit_fnf"].split("\n")
        manifest = json.loads(text)
        assert hashlib.sha256(text.encode()).hexdigest() == checksum
        assert set(manifest["tensors"]) == set(file.keys())
        for name, tensor in manifest["tensors"].items():
            array = file.get_tensor(name)
            assert list(array.shape) == tensor["shape"]
            assert hashlib.sha256(array.tobytes()).hexdigest() == tensor["sha256"]


def test_schema_of_every_kind_knows_the_arguments_of_its_model():
    for kind, entry in entries().items():
        arguments = inspect.signature(class_of(entry.model).__init__).parameters
        assert set(entry.model_fields) - {"kind", "arrays", "history"} <= set(arguments), kind


# --- versions -------------------------------------------------------------------------------------------------------


def rewritten(source, target, change, arrays=None):
    """A copy of a file whose manifest has been changed, with a checksum that is right."""
    with safe_open(source, "numpy") as file:
        manifest = json.loads(file.metadata()["zfit_fnf"].split("\n")[1])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(manifest)
    text = json.dumps(manifest if changed is None else changed) if not isinstance(changed, str) else changed
    checksum = hashlib.sha256(text.encode()).hexdigest()
    save_file({**tensors, **(arrays or {})}, target, metadata={"zfit_fnf": f"{checksum}\n{text}"})
    return target


def test_newer_formats_are_refused_with_the_versions_named(stored, tmp_path):
    def newer(manifest):
        manifest.update(format=FORMAT + 1, written_by={"zfit_fnf": "9.1"})

    with pytest.raises(
        ValueError, match=rf"format {FORMAT + 1}, written by zfit_fnf 9.1; this is zfit_fnf {zfnf.__version__}"
    ):
        storage.load(rewritten(stored, tmp_path / "m.fnf", newer))


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "stored").glob("*.fnf")), ids=lambda path: path.stem)
def test_files_written_earlier_give_the_same_densities(path):
    """The densities at ``EVENTS`` when each file was written are among its closure figures.

    Where this fails, old files have changed their meaning: that needs a new format, and a migration.
    """
    closure = storage.inspect(path).manifest.closure
    expected = [value for name, value in closure.items() if name.startswith("log_prob")]
    np.testing.assert_allclose(densities(storage.load(path)).reshape(-1), expected, rtol=0, atol=1e-12)


def test_older_formats_are_migrated(stored, tmp_path):
    def older(manifest):
        """What format 1 was: responses with one layer, called ``network``."""
        manifest["format"] = 1
        for fields in manifest["models"]:
            if fields["kind"] == "response":
                assert fields.pop("n_layers") == 1
                fields["arrays"] = {k.replace("networks.0", "network"): v for k, v in fields["arrays"].items()}

    path = rewritten(stored, tmp_path / "m.fnf", older)
    np.testing.assert_array_equal(densities(storage.load(path)), densities(deformation()))


# --- what is not sound ----------------------------------------------------------------------------------------------


def model_of(manifest, kind):
    return next(fields for fields in manifest["models"] if fields["kind"] == kind)


def set_in(kind, /, **values):
    return lambda manifest: model_of(manifest, kind).update(values)


def history_with(**changes):
    return lambda manifest: model_of(manifest, "flow")["history"].update(changes)


def tensor_of(manifest, kind="flow", array="centre"):
    return manifest["tensors"][model_of(manifest, kind)["arrays"][array]]


HOSTILE = {
    "a huge network": (set_in("autoregressive", hidden=[10_000, 10_000]), "its arguments need"),
    "many layers": (set_in("autoregressive", n_layers=100), "lacks the array"),
    "many layers of many layers": (set_in("autoregressive", n_layers=100, hidden=[1] * 100), "its arguments need"),
    "more layers than allowed": (set_in("autoregressive", n_layers=101), "n_layers: Input should be less"),
    "a number without end": (set_in("autoregressive", n_dim=10**4000), "n_dim"),
    "a negative size": (set_in("autoregressive", n_dim=-1), "n_dim: Input should be greater"),
    "a size that is no integer": (set_in("autoregressive", n_dim=2.5), "n_dim: Input should be a valid integer"),
    "a size as text": (set_in("autoregressive", n_dim="2"), "n_dim: Input should be a valid integer"),
    "a huge power": (set_in("response", powers=[[10**9], [2]]), "powers.0.0: Input should be less"),
    "another number of monomials": (set_in("response", powers=[[1], [2], [3]]), "its arguments need"),
    "an unknown family": (set_in("autoregressive", family="__import__('os')"), "family: Input should be 'mixture'"),
    "an unknown argument": (set_in("flow", density_factory="os.system"), "density_factory: Extra inputs"),
    "a missing argument": (lambda m: model_of(m, "flow").pop("obs") and None, "obs: Field required"),
    "an unknown kind": (set_in("flow", kind="builtins.eval"), "unknown kind; this version knows"),
    "a kind that is no name": (set_in("flow", kind=["flow"]), "unknown kind"),
    "observables that repeat": (set_in("flow", obs=["a", "a"]), "named more than once"),
    "an observable without a name": (set_in("flow", obs=["", "b"]), "obs.0: String should have at least 1"),
    "a range without width": (set_in("flow", ranges={"a": [1.0, 1.0]}), "range of 'a' needs low < high"),
    "a range that is not a number": (lambda m: json.dumps(m).replace("5.0", "NaN"), "finite number"),
    "a window without width": (set_in("deformation", windows={"jes": [0.0, 0.0], "jer": [0.0, 1.0]}), "needs low < high"),
    "a window for nobody": (set_in("deformation", windows={"jes": [-1.0, 1.0]}), "one window per nuisance"),
    "itself as a part": (lambda m: m["models"][-1].update(flow=len(m["models"]) - 1), "does not come before it"),
    "a part that is not there": (set_in("deformation", flow=10**6), "does not come before it"),
    "a part of another kind": (set_in("deformation", flow=2, responses=[1, 3, 4]), "refers to model 2 as a Flow, but it is a"),
    "a part that nobody needs": (lambda m: m["models"].insert(0, m["models"][0]), "to several"),
    "no models": (lambda m: m.update(models=[]), "models: List should have at least 1 item"),
    "a list": (lambda m: [m], "names no version"),
    "no version": (lambda m: m.pop("format") and None, "names no version"),
    "a version that is no number": (lambda m: m.update(format="2"), "names no version"),
    "version zero": (lambda m: m.update(format=0), "names no version"),
    "a path as the name of an array": (
        lambda m: model_of(m, "flow")["arrays"].update({"../../etc/passwd": "1.centre"}), "that models of this kind do not",
    ),
    "a path as the name of a tensor": (
        lambda m: model_of(m, "flow")["arrays"].update(centre="../../etc/passwd"), "tensor '../../etc/passwd' that is not",
    ),
    "a tensor that is not in the file": (
        lambda m: m["tensors"].update({"/etc/passwd": tensor_of(m)}), "tensor '/etc/passwd' is not in the file",
    ),
    "a tensor that is not listed": (lambda m: m["tensors"].pop("1.centre") and None, "tensor '1.centre' is not listed"),
    "another shape": (lambda m: tensor_of(m).update(shape=[10**15]), "another dtype or shape"),
    "another dtype": (lambda m: tensor_of(m).update(dtype="F32"), "another dtype or shape"),
    "another checksum": (lambda m: tensor_of(m).update(sha256="0" * 64), "does not have the checksum"),
    "a checksum that is none": (lambda m: tensor_of(m).update(sha256="../x"), "sha256: String should match"),
    "a tensor used twice": (
        lambda m: model_of(m, "flow")["arrays"].update(centre="1.scale"), "belong to no model, or to several",
    ),
    "something twice": (lambda m: json.dumps(m)[:-1] + ',"format":2}', "names something twice"),
    "brackets without end": (lambda m: "[" * 2**20, "too deeply"),
    "brackets without end inside": (lambda m: json.dumps(m)[:-1] + ',"x":' + "[" * 2**20 + "]" * 2**20 + "}", "too deeply"),
    "a manifest without end": (lambda m: json.dumps(m) + " " * storage.MAX_MANIFEST, "bytes; more than"),
    "many empty lists": (lambda m: json.dumps({**m, "x": 0})[:-2] + "[" + "[]," * 2**21 + "[]]}", "commas; more than"),
    "as many as allowed": (
        lambda m: json.dumps({**m, "x": 0})[:-2] + "[" + "[]," * (storage.MAX_COMMAS - 5000) + "[]]}", "x: Extra inputs",
    ),
    "as many as allowed in a model": (
        lambda m: m["models"][0].update(hidden=[[]] * (storage.MAX_COMMAS - 5000)), "hidden: List should have at most",
    ),
    "a history of unequal length": (history_with(training=[1.0]), "has lists of different lengths"),
    "a history of nothing": (history_with(steps=[], training=[], validation=[]), "has no record of step 20"),
    "a history that is not finite": (lambda m: json.dumps(m).replace("1.25", "Infinity"), "finite number"),
    "a history that commands": (history_with(name="p\x1b[2J"), "cannot be printed"),
    "an observable that commands": (set_in("flow", obs=["a\x1b[1A", "b"]), "cannot be printed"),
    "an observable of two lines": (set_in("flow", obs=["a\nb", "b"]), "cannot be printed"),
    "an observable that turns around": (set_in("flow", obs=["a\u202eb", "b"]), "cannot be printed"),
    "half a character": (set_in("flow", obs=["a\ud800", "b"]), "Invalid JSON"),
    "a figure of two lines": (lambda m: m["closure"].update({"AUC": "1\nchecksums verified"}), "closure.AUC"),
    "a yield below zero": (set_in("deformation", yields={"jes": {"up": -1.0, "down": 1.0}}), "greater than 0"),
    "windows without end": (set_in("deformation", windows={"jes": [-1e300, 1e300], "jer": [0.0, 1.0]}), "is not finite"),
    "many hidden layers": (set_in("response", hidden=[1] * 101), "hidden: List should have at most 100"),
    "hidden layers that are too wide": (set_in("response", hidden=[10**7]), "less than or equal to 10000"),
    "too many components": (set_in("autoregressive", n_components=10**9), "less than or equal to 10000"),
    "no JSON": (lambda m: "import os; os.system('true')", "Expecting value"),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifests(stored, tmp_path, change):
    refused(rewritten(stored, tmp_path / "m.fnf", change[0]), change[1])


def refused(path, message):
    """One error, in less than 5 s, that names the file; it may not leave anything behind."""
    before, started = sorted(path.parent.iterdir()), time.process_time()
    with pytest.raises(ValueError, match="is not a usable model file") as caught:
        storage.load(path)
    assert time.process_time() - started < 5.0
    assert path.name in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert sorted(path.parent.iterdir()) == before


def test_weights_that_are_not_finite(stored, tmp_path):
    bad = np.array([np.nan, 1.0, np.inf])

    def signed(manifest):
        tensor_of(manifest)["sha256"] = hashlib.sha256(bad.tobytes()).hexdigest()

    refused(rewritten(stored, tmp_path / "m.fnf", signed, {"1.centre": bad}), "2 of 3 numbers of tensor '1.centre' are")


def test_densities_that_are_not_finite(tmp_path):
    """All weights are finite, and what they give is not: neither written nor read."""
    good = flow(hidden=(4,) * 9)  # each layer multiplies by 1e38, and float64 ends at 1e308
    storage.save(good, tmp_path / "m.fnf")
    network = good.density.layers[0].network
    bad = {f"weights.{layer}": np.full(w.shape, 1e38, np.float32) for layer, w in enumerate(network.weights)}
    for weights, values in zip(network.weights, bad.values(), strict=True):
        weights.assign(values)
    with pytest.raises(ValueError, match="the log-density is not finite for typical events"):
        storage.save(good, tmp_path / "n.fnf")
    assert [path.name for path in tmp_path.iterdir()] == ["m.fnf"]
    bad = {f"0.layers.0.network.{name}": values for name, values in bad.items()}

    def signed(manifest):
        for name, values in bad.items():
            manifest["tensors"][name]["sha256"] = hashlib.sha256(values.tobytes()).hexdigest()

    refused(rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", signed, bad), "is not finite for typical events")


def test_one_observable_needs_no_hidden_layers(tmp_path):
    """No array says how wide they are; they cost nothing nevertheless."""
    storage.save(flow(obs=["a"], cond=[]), tmp_path / "m.fnf")
    change = set_in("autoregressive", hidden=[10_000] * 100)
    started = time.process_time()
    storage.load(rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", change))
    assert time.process_time() - started < 5.0


def chain(n):
    shift = {"class": "bijectors.Shift", "parameters": {"shift": {"array": "0"}}}
    chained = {"class": "bijectors.Chain", "parameters": {"bijectors": [shift] * n}}
    return {
        "class": "distributions.TransformedDistribution",
        "parameters": {"distribution": NORMAL, "bijector": chained},
    }


NORMAL = {"class": "distributions.Normal", "parameters": {"loc": 0.0, "scale": 1.0}}


def test_distributions_that_cost_much_or_are_none(tmp_path):
    storage.save(distribution(), tmp_path / "m.fnf")
    nested = NORMAL
    for _ in range(120):
        nested = {"class": "distributions.Independent", "parameters": {"distribution": nested}}
    for description, message in (
        (chain(3000), "is made of 3003 distributions and bijectors; more than 100"),
        (nested, "recursion limit"),
        (
            {"class": "distributions.Normal", "parameters": {"loc": 0.0, "scale": 1.0, "validate_args": "yes"}},
            "validate_args",
        ),
        (
            {"class": "distributions.Normal", "parameters": {"loc": 0.0, "scale": -1.0, "validate_args": True}},
            "positive",
        ),
        (
            {"class": "distributions.Normal", "parameters": {"loc": 0.0, "scale": 1.0, "allow_nan_stats": {}}},
            "allow_nan_stats",
        ),
    ):
        path = rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", set_in("distribution", distribution=description))
        refused(path, message)


def test_responses_of_other_dimensions(tmp_path):
    responses = [Response(["jes"], ((1,),), n_dim=3, n_context=1)]
    with pytest.raises(ValueError, match="3 coordinates and 1 conditions; expected 2 and 1"):
        Deformation(flow(), responses, windows={"jes": (-1.0, 1.0)})
    sound = Deformation(flow(), [Response(["jes"], ((1,),), n_dim=2, n_context=1)], windows={"jes": (-1.0, 1.0)})
    sound.responses = responses
    storage.save(sound, tmp_path / "m.fnf")
    refused(tmp_path / "m.fnf", "a response to ('jes',) of 3 coordinates and 1 conditions; expected 2 and 1")


@pytest.mark.parametrize("width", [0.0, -1.0])
def test_widths_that_are_not_positive(stored, tmp_path, width):
    scale = np.array([1.0, width, 1.0])

    def signed(manifest):
        tensor_of(manifest, array="scale")["sha256"] = hashlib.sha256(scale.tobytes()).hexdigest()

    refused(rewritten(stored, tmp_path / "m.fnf", signed, {"1.scale": scale}), "'b' needs a mean and a positive width")


def test_slopes_that_are_none(tmp_path):
    storage.save(zuko_flow(), tmp_path / "m.fnf")
    for slope in (0.0, 1.0, -1.0):
        change = lambda m, slope=slope: model_of(m, "zuko")["layers"][0].update(slope=slope)  # noqa: E731
        refused(rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", change), "needs 0 < slope < 1")


def test_distributions_of_other_classes(tmp_path):
    storage.save(distribution(), tmp_path / "m.fnf")
    for description in (
        {"class": "distributions.PoissonLogNormalQuadratureCompound", "parameters": {"quadrature_size": 10**9}},
        {"class": "os.system", "parameters": {"command": "true"}},
        {"class": "distributions.Normal", "parameters": {"loc": 0.0}},
        {"class": "distributions.Normal", "parameters": ["loc"]},
        {"class": "distributions.Sample", "parameters": {"distribution": {"array": "0"}, "sample_shape": 10**12}},
        {"array": ["0"]},
    ):
        path = rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", set_in("distribution", distribution=description))
        refused(path, "model 0 (distribution)")


class Sentinel:
    def __reduce__(self):
        return Path.touch, (Path("was-executed"),)


def test_other_files(stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", b" " * 2**24)
    files = {
        "empty": b"",
        "short": b"1234567",
        "text": b"a model file, really",
        "pickle": pickle.dumps(Sentinel()),
        "zip": bomb.read_bytes(),
        "a header without end": (2**63).to_bytes(8, "little") + b"{}",
        "a large header": (2**25).to_bytes(8, "little") + b" " * 2**25,
        "a header of nothing": (8).to_bytes(8, "little") + b"{}      ",
        "more at the end": stored.read_bytes() + b"more",
        "twice": 2 * stored.read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "")
    plain = tmp_path / "plain.safetensors"
    save_file({"a": np.zeros(3)}, plain)
    refused(plain, "has no manifest of zfit_fnf")
    assert not Path("was-executed").exists()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        storage.load(tmp_path / "nothing")
    refused(tmp_path, "it is a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "it is not a regular file")
    with (tmp_path / "vast").open("wb") as file:
        file.truncate(2**40)
    refused(tmp_path / "vast", "it has 1099511627776 bytes, more than")


def damaged(content, seed, way):
    """A file with one accident; half of them in the header, which is all of its meaning."""
    rng, content = random.Random(seed), bytearray(content)
    place = rng.randrange(len(content) if rng.random() < 0.5 else int.from_bytes(content[:8], "little"))
    if way == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif way == "byte":
        content[place] ^= rng.randrange(1, 256)
    elif way == "cut":
        del content[place:]
    elif way == "insert":
        content[place:place] = rng.randbytes(rng.randrange(1, 20))
    else:
        other = rng.randrange(len(content) - 8)
        content[place : place + 8], content[other : other + 8] = content[other : other + 8], content[place : place + 8]
    return bytes(content)


ACCIDENTS = ("bit", "byte", "cut", "insert", "swap")


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1), way=st.sampled_from(ACCIDENTS))
def test_damaged_files(stored, tmp_path, seed, way):
    path, content = tmp_path / "damaged.fnf", damaged(stored.read_bytes(), seed, way)
    assume(content != stored.read_bytes())
    path.write_bytes(content)
    refused(path, "")


ODD_VALUES = [None, True, -1, 0, 3, 10**9, 10**30, 1.5, -1e308, "", "a", "../..", [], {}, [[]], {"a": 1}, [0, 0], "jes"]


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
def test_forged_manifests(stored, tmp_path, seed):
    """Any part of the manifest replaced, removed or repeated, with a checksum that is right."""
    rng = random.Random(seed)

    def forge(manifest):
        for _ in range(rng.randrange(1, 4)):
            holder, key = rng.choice(list(places(manifest)))
            action = rng.randrange(3)
            if action == 0:
                holder[key] = rng.choice(ODD_VALUES)
            elif action == 1:
                del holder[key]
            elif isinstance(holder, list):
                holder.append(holder[key])
            else:
                holder[f"{key}_"] = holder[key]

    path = rewritten(stored, tmp_path / "forged.fnf", forge)
    started = time.process_time()
    # A change that is itself sound, of a window or a history, makes another model, which loads.
    with contextlib.suppress(ValueError):
        assert isinstance(storage.load(path), Deformation)
    assert time.process_time() - started < 5.0


def places(value):
    """Every (container, key) of nested lists and mappings."""
    for key in list(range(len(value)) if isinstance(value, list) else value):
        yield value, key
        if isinstance(value[key], (list, dict)):
            yield from places(value[key])


IN_ANOTHER_PROCESS = """
import resource, sys, time, numpy as np
from pathlib import Path
from zfit_fnf import storage
folder = Path(sys.argv[1])
good = storage.load(folder / "good.fnf")
events = {"a": np.linspace(0.1, 4.9, 40), "b": np.linspace(-2.0, 3.0, 40), "x": np.sin(np.arange(40.0))}
np.save(folder / "densities.npy", [good.log_prob(events, nu=nu) for nu in ({}, {"jes": 0.7, "jer": -0.3})])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(folder.glob("bad*.fnf")):
    started = time.process_time()
    try:
        storage.load(path)
    except ValueError:
        pass
    else:
        sys.exit(f"{path} was accepted")
    assert time.process_time() - started < 5.0, path
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_of_refusals_and_densities_in_another_process(stored, tmp_path):
    (tmp_path / "good.fnf").write_bytes(stored.read_bytes())
    for number, (change, _) in enumerate(HOSTILE.values()):
        rewritten(stored, tmp_path / f"bad{number}.fnf", change)
    for seed in range(200):
        content = damaged(stored.read_bytes(), seed, ACCIDENTS[seed % len(ACCIDENTS)])
        (tmp_path / f"bad-{seed}.fnf").write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout) < 500.0  # MB
    np.testing.assert_array_equal(np.load(tmp_path / "densities.npy"), densities(deformation()))


MISTAKES = {
    "swapped": (lambda f, p: storage.save(p, f), TypeError, "the model comes first"),
    "swapped, as text": (lambda f, p: storage.save(str(p), f), TypeError, "the model comes first"),
    "into a folder": (lambda f, p: storage.save(f, p.parent), ValueError, "is a folder"),
    "into no folder": (lambda f, p: storage.save(f, p.parent / "none" / "m.fnf"), FileNotFoundError, "there is no folder"),
    "below a file": (lambda f, p: storage.save(f, p / "m.fnf"), FileNotFoundError, "there is no folder"),
    "to nothing": (lambda f, p: storage.save(f, None), TypeError, "expected the path"),
    "to an empty name": (lambda f, p: storage.save(f, ""), (ValueError, TypeError), "folder"),
    "to bytes": (lambda f, p: storage.save(f, b"m.fnf"), TypeError, "expected the path"),
    "to an open file": (lambda f, p: storage.save(f, p.open()), TypeError, "expected the path"),
    "to a number": (lambda f, p: storage.save(f, 7), TypeError, "expected the path"),
    "to a name with a zero": (lambda f, p: storage.save(f, "a\0b"), TypeError, "expected the path"),
    "no model": (lambda f, p: storage.save(None, p), TypeError, "a NoneType cannot be stored"),
    "several models": (lambda f, p: storage.save([f, f], p), TypeError, "a list cannot be stored"),
    "named models": (lambda f, p: storage.save({"a": f}, p), TypeError, "a dict cannot be stored"),
    "the class": (lambda f, p: storage.save(Flow, p), TypeError, "a type cannot be stored"),
    "an array": (lambda f, p: storage.save(np.zeros(3), p), TypeError, "a ndarray cannot be stored"),
    "a density": (lambda f, p: storage.save(f.log_prob, p), TypeError, "a method cannot be stored"),
    "a network of TensorFlow": (lambda f, p: storage.save(tf.Module(), p), TypeError, "a Module cannot be stored"),
    "a distribution": (lambda f, p: storage.save(tfp.distributions.Normal(0.0, 1.0), p), TypeError, "a Normal cannot be"),
    "a figure without name": (lambda f, p: storage.save(f, p, closure=0.5), TypeError, "closure= is a mapping"),
    "figures in a list": (lambda f, p: storage.save(f, p, closure=[("AUC", 0.5)]), TypeError, "closure= is a mapping"),
    "an array of figures": (lambda f, p: storage.save(f, p, closure={"AUC": [0.5]}), TypeError, "closure= is a mapping"),
    "no figure": (lambda f, p: storage.save(f, p, closure={"AUC": None}), TypeError, "closure= is a mapping"),
    "a figure that is none": (lambda f, p: storage.save(f, p, closure={"AUC": np.nan}), ValueError, "finite number"),
    "a figure with an empty name": (lambda f, p: storage.save(f, p, closure={"": 0.5}), ValueError, "at least 1"),
    "load nothing": (lambda f, p: storage.load(None), TypeError, "expected the path"),
    "load a model": (lambda f, p: storage.load(f), TypeError, "expected the path"),
    "load a number": (lambda f, p: storage.load(0), TypeError, "expected the path"),
    "load an open file": (lambda f, p: storage.load(p.open("rb")), TypeError, "expected the path"),
    "load contents": (lambda f, p: storage.load(p.read_bytes()), TypeError, "expected the path"),
    "load text": (lambda f, p: storage.load(__file__), ValueError, "not a safetensors file"),
    "load a folder": (lambda f, p: storage.load(p.parent), ValueError, "it is a folder"),
    "load another name": (lambda f, p: storage.load(p.with_suffix(".txt")), FileNotFoundError, "there is no file"),
    "load an empty name": (lambda f, p: storage.load(""), ValueError, "it is a folder"),
    "load below a file": (lambda f, p: storage.load(p / "m.fnf"), FileNotFoundError, "there is no file"),
    "load with a flow": (lambda f, p: storage.load(p, supplied=f), TypeError, "supplied= is a mapping"),
    "load with a list": (lambda f, p: storage.load(p, supplied=[f]), TypeError, "supplied= is a mapping"),
    "inspect a model": (lambda f, p: storage.inspect(f), TypeError, "expected the path"),
    "inspect nothing": (lambda f, p: storage.inspect(None), TypeError, "expected the path"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(tmp_path, call, error, message):
    """One error at the door, which says what is expected."""
    model, path = flow(), tmp_path / "m.fnf"
    storage.save(model, path)
    before = path.read_bytes()
    with pytest.raises(error, match=message) as caught:
        call(model, path)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["m.fnf"]
    assert path.read_bytes() == before


def test_a_summary_is_printable(tmp_path):
    """Whatever is not checked by a schema, such as the name of the file itself."""
    path = tmp_path / "m\x1b[2J\nchecksums.fnf"
    storage.save(flow(), path)
    text = str(storage.inspect(path))
    assert all(line.isprintable() for line in text.splitlines())
    assert text.startswith(r"m\x1b[2J\nchecksums.fnf: flow")


def test_manifest_schema_is_strict():
    with pytest.raises(ValueError, match="Extra inputs"):
        Manifest.model_validate_json('{"format":2,"written_by":{},"closure":{},"models":[{}],"tensors":{},"more":1}')

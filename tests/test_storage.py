"""Models in files: what is saved comes back, to the last bit."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from safetensors import safe_open
from stored_models import (
    EVENTS,
    HISTORY,
    deformation,
    densities,
    flow,
    gaussian,
    model_of,
    refused,
    rewritten,
    set_in,
    transfer,
)

import zfit_fnf as zfnf
from zfit_fnf import Deformation, storage
from zfit_fnf.densities.displacement import Displacement
from zfit_fnf.densities.polynomial_map import PolynomialMap, Response
from zfit_fnf.densities.transfer import ProfiledTransfer, Transfer
from zfit_fnf.storage.registry import class_of, entries
from zfit_fnf.storage.schema import FORMAT


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A deformation in a file; tests write changed copies of it."""
    path = tmp_path_factory.mktemp("model") / "signal.fnf"
    storage.save(deformation(), path)
    return path


class TestRoundTrip:
    def test_densities_and_samples_are_the_same_to_the_last_bit(self, any_model, tmp_path):
        storage.save(any_model, tmp_path / "m.fnf")
        again = zfnf.load(tmp_path / "m.fnf")
        assert type(again) is type(any_model)
        np.testing.assert_array_equal(densities(again), densities(any_model))
        draw = {"n": 5, "cond": EVENTS if any_model.cond else None, "seed": 3}
        assert again.sample(**draw).equals(any_model.sample(**draw))

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

    def test_same_model_same_bytes(self, any_model, tmp_path):
        for name in ("1", "2"):
            storage.save(any_model, tmp_path / name)
        storage.save(storage.load(tmp_path / "1"), tmp_path / "3")
        first = (tmp_path / "1").read_bytes()
        assert first == (tmp_path / "2").read_bytes() == (tmp_path / "3").read_bytes()

    def test_every_variable_is_stored(self, any_model, tmp_path):
        storage.save(any_model, tmp_path / "m.fnf")
        contents = storage.inspect(tmp_path / "m.fnf")
        stored = [
            np.prod(contents.manifest.tensors[tensor].shape)
            for entry in contents.entries
            for name, tensor in entry.arrays.items()
            if entry.kind != "distribution" and name not in ("probes", "probed")
        ]
        assert sum(stored) == sum(variable.numpy().size for variable in any_model.variables)

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

    def test_transfers_from_before_layers_could_bend(self, tmp_path):
        """Files that name no knots have layers that are affine."""
        made = Transfer(["a", "b"], ["x"], hidden=(5,), n_layers=2, n_knots=0)
        for number, variable in enumerate(made.trainable_variables):
            variable.assign(0.1 * np.random.default_rng(number).normal(size=variable.shape))
        storage.save(made, tmp_path / "m.fnf")

        def without(manifest):
            del model_of(manifest, "transfer")["n_knots"]

        old = rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", without)
        again = storage.load(old)
        assert again.n_knots == 0
        assert again.to_simulation(EVENTS).equals(made.to_simulation(EVENTS))

    def test_profiled_transfer(self, tmp_path):
        follows = Displacement(((1, 0), (0, 1), (1, 1)), n_dim=2, n_cond=1, n_maps=2, n_functions=5)
        for number, variable in enumerate(follows.variables):
            variable.assign(0.05 * np.random.default_rng(number).normal(size=variable.shape))
        axes = np.array([[0.1, 0.02], [-0.03, 0.2]])
        made = ProfiledTransfer(transfer(), follows, centre={"mu": 1.1, "jes": -0.2}, axes=axes)
        storage.save(made, tmp_path / "m.fnf")
        again = storage.load(tmp_path / "m.fnf")
        u, context = tf.constant(np.random.default_rng(0).normal(size=(2, 20, 3)))
        theta = tf.constant([1.2, 0.1], tf.float64)
        for moved, expected in zip(
            again.inverse(u[:, :2], context, theta, "B"), made.inverse(u[:, :2], context, theta, "B"), strict=True
        ):
            np.testing.assert_array_equal(moved, expected)
        assert again.centre == made.centre
        text = str(storage.inspect(tmp_path / "m.fnf"))
        assert "follows mu from 1.1, jes from -0.2" in text
        assert "displacement by 5 functions of each of 2 coordinate(s), 2 map(s)" in text
        for change, message in (
            ({"centre": {"mu": 1.0}}, "its arguments need [1, 1]"),
            ({"transfer": 1, "displacement": 0}, "refers to model 1 as a Transfer"),
        ):
            refused(rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", set_in("profiled_transfer", **change)), message)

    def test_displacements_of_another_transfer(self, tmp_path):
        follows = Displacement(((1,),), n_dim=2, n_cond=1, n_maps=1, n_functions=5)
        made = ProfiledTransfer(transfer(), follows, centre={"mu": 1.1}, axes=np.array([[1.0]]))
        storage.save(made, tmp_path / "m.fnf")
        refused(tmp_path / "m.fnf", "has a displacement of (2, 1, 1) coordinates, conditions and maps")

    def test_axes_that_are_none(self, tmp_path):
        follows = Displacement(((1,),), n_dim=2, n_cond=1, n_maps=2, n_functions=5)
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
        if entry.__module__ in ("zfit_fnf.doi.entries", "zfit_fnf.tagprobe.entries"):  # results, made by fits alone
            continue
        arguments = inspect.signature(class_of(entry.model).__init__).parameters
        assert set(entry.model_fields) - {"kind", "arrays", "history"} <= set(arguments), kind


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "stored").glob("*.fnf")), ids=lambda path: path.stem)
def test_files_written_earlier_give_the_same_densities(path):
    """The densities at ``EVENTS`` when each file was written are among its closure figures.

    Where this fails, old files have changed their meaning: that needs a new format, and a migration.
    """
    closure = storage.inspect(path).manifest.closure
    expected = [value for name, value in closure.items() if name.startswith("log_prob")]
    np.testing.assert_allclose(densities(storage.load(path)).reshape(-1), expected, rtol=0, atol=1e-12)


def test_one_observable_needs_no_hidden_layers(tmp_path):
    """No array says how wide they are; they cost nothing nevertheless."""
    storage.save(flow(obs=["a"], cond=[]), tmp_path / "m.fnf")
    change = set_in("autoregressive", hidden=[10_000] * 100)
    started = time.process_time()
    storage.load(rewritten(tmp_path / "m.fnf", tmp_path / "n.fnf", change))
    assert time.process_time() - started < 5.0


def test_a_summary_is_printable(tmp_path):
    """Whatever is not checked by a schema, such as the name of the file itself."""
    path = tmp_path / "m\x1b[2J\nchecksums.fnf"
    storage.save(flow(), path)
    text = str(storage.inspect(path))
    assert all(line.isprintable() for line in text.splitlines())
    assert text.startswith(r"m\x1b[2J\nchecksums.fnf: flow")

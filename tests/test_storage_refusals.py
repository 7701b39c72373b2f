"""Files that are older, damaged or hostile: each is refused with one clear error, before anything is made of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
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
from safetensors.numpy import save_file
from stored_models import (
    deformation,
    densities,
    distribution,
    flow,
    model_of,
    refused,
    rewritten,
    set_in,
    weighed,
    zuko_flow,
)

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Flow, storage
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.storage.schema import FORMAT, Manifest


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A deformation in a file; tests write changed copies of it."""
    path = tmp_path_factory.mktemp("model") / "signal.fnf"
    storage.save(deformation(), path)
    return path


def test_newer_formats_are_refused_with_the_versions_named(stored, tmp_path):
    def newer(manifest):
        manifest.update(format=FORMAT + 1, written_by={"zfit_fnf": "9.1"})

    with pytest.raises(
        ValueError, match=rf"format {FORMAT + 1}, written by zfit_fnf 9.1; this is zfit_fnf {zfnf.__version__}"
    ):
        storage.load(rewritten(stored, tmp_path / "m.fnf", newer))


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


def test_log_ratios_of_format_4_are_migrated(tmp_path):
    """They had the same degree in all variables, and no tails."""
    model = weighed()
    storage.save(model, tmp_path / "now.fnf")

    def older(manifest):
        manifest["format"] = 4
        for fields in manifest["models"]:
            if fields["kind"] == "log_ratio":
                assert (fields.pop("degrees"), fields.pop("tails")) == ([3.0], False)
                fields["degree"] = 3

    path = rewritten(tmp_path / "now.fnf", tmp_path / "old.fnf", older)
    assert json.dumps(storage.load(path).ratios[0].config()) == json.dumps(model.ratios[0].config())
    np.testing.assert_array_equal(densities(storage.load(path)), densities(model))


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
    "a yield of no events": (set_in("flow", sum_weights=0.0), "sum_weights: Input should be greater than 0"),
    "a negative yield": (set_in("flow", sum_weights=-5.0), "sum_weights: Input should be greater than 0"),
    "a negative number of events": (history_with(n_events=-3), "has -3 events, which count like"),
    "many hidden layers": (set_in("response", hidden=[1] * 101), "hidden: List should have at most 100"),
    "hidden layers that are too wide": (set_in("response", hidden=[10**7]), "less than or equal to 10000"),
    "too many components": (set_in("autoregressive", n_components=10**9), "less than or equal to 10000"),
    "no JSON": (lambda m: "import os; os.system('true')", "Expecting value"),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifests(stored, tmp_path, change):
    refused(rewritten(stored, tmp_path / "m.fnf", change[0]), change[1])


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
    "to an open file": (lambda f, p: storage.save(f, io.BytesIO()), TypeError, "expected the path"),
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
    "load an open file": (lambda f, p: storage.load(io.BytesIO(p.read_bytes())), TypeError, "expected the path"),
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
    """One error on input, which names the expected type."""
    model, path = flow(), tmp_path / "m.fnf"
    storage.save(model, path)
    before = path.read_bytes()
    with pytest.raises(error, match=message) as caught:
        call(model, path)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["m.fnf"]
    assert path.read_bytes() == before


def test_manifest_schema_is_strict():
    with pytest.raises(ValueError, match="Extra inputs"):
        Manifest.model_validate_json('{"format":2,"written_by":{},"closure":{},"models":[{}],"tensors":{},"more":1}')

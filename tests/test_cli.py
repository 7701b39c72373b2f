"""The command line, and the demonstration behind it: complete, only tiny."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from unittest.mock import create_autospec

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from executors import Here
from typer.testing import CliRunner

import zfit_fnf
from zfit_fnf import demo
from zfit_fnf.cli import app
from zfit_fnf.demo import doi as doi_demo
from zfit_fnf.demo import model as toy
from zfit_fnf.demo import stages, trust
from zfit_fnf.densities.claims import Claim
from zfit_fnf.diagnostics import ValidationReport
from zfit_fnf.limits import DiscoveryResult, LimitResult
from zfit_fnf.train import deformation
from zfit_fnf.train.choice import Choice
from zfit_fnf.train.schedule import Schedule, TrainingStopped

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving:UserWarning"),
    pytest.mark.filterwarnings("ignore:nuisance .* outside of the range:UserWarning"),
    # Ten steps of training leave densities whose likelihood has more than one minimum.
    pytest.mark.filterwarnings("ignore:MINOS has not found all errors:UserWarning"),
]

SHORT = Schedule(steps=10, batch_size=256, warmup=2, averaging=0.5, rotate_every=0)
TINY = demo.DemoSettings(
    n_simulated=5_000,
    expected={"A": 250.0, "B": 250.0},
    flow=SHORT,
    deformation=SHORT,
    n_drawn=1_000,
    profile_points=5,
    contour_points=5,
    n_asimov=500,
    n_held_out=200,
    accelerated=False,
)
PLOTS = {
    *(f"training_{process}" for process in "AB"),
    *(f"projection_{column}" for column in ("x1", "x2", "y1", "y2")),
    *(f"{kind}_{name}" for kind in ("variations", "profile") for name in ("shift", "squeeze", "lumi")),
    "pulls",
    "correlation",
    "contour",
    "impacts",
    "limit",
    "closure",
}


CLS = ("observed", "expected", "expected_m2", "expected_m1", "expected_p1", "expected_p2")
SCAN = pd.DataFrame({name: [1.0, 0.2, 0.01] for name in CLS}, index=[0.0, 1.0, 2.0])
LIMIT = LimitResult("mu", 0.95, 1.1, (0.1, 0.2, 0.3, 0.4, 0.5), 1.0, SCAN)
SIGNIFICANCE = DiscoveryResult("mu", 0.0, 1.0, 5.0, 2.9e-7, 1.0, 4.8, 7.9e-7)


ROW = {"process": "B, y_given_x", "point": "nominal", "test": "closure", "of": "shift", "value": 3.0, "p_value": 0.001}
VERDICT = ValidationReport(("a bias",), (), pd.DataFrame([{**ROW, "problem": True}]), 0.01, 500)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train_without_compiling(*arguments, **options):
    """Sixteen compilations would take longer than everything else together."""
    tf.config.run_functions_eagerly(True)
    try:
        return train(*arguments, **options)
    finally:
        tf.config.run_functions_eagerly(False)


train = stages.train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder that `zfit-fnf demo` leaves behind, and what it printed; judgements and limits are not computed."""
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "QUICK", TINY)
        patch.setattr(stages, "train", train_without_compiling)
        patch.setattr(stages, "workers", lambda n: nullcontext(Here()))
        patch.setattr(stages, "upper_limit", create_autospec(stages.upper_limit, return_value=LIMIT))
        patch.setattr(deformation, "choose", lambda *_, **__: Choice(Claim("map", 0.0, 0.0, 0.0), keep_map=True))
        patch.setattr(trust, "validate", create_autospec(trust.validate, return_value=VERDICT))
        patch.setattr(trust, "calibrate", create_autospec(trust.calibrate, side_effect=RuntimeError("hardly trained")))
        patch.setattr(stages, "discovery", create_autospec(stages.discovery, return_value=SIGNIFICANCE))
        done = invoke("demo", "--out", out, "--seed", 3)
    assert done.exit_code == 0, done.output
    return out, done.output


@pytest.mark.slow
def test_the_quick_demonstration_is_right(tmp_path):
    """Two thousand events, and short trainings: close to the exact likelihood, the signal at about four sigma."""
    done = invoke("demo", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["fit"]["valid"]
    assert results["trust"]["calibration"] is not None
    for name, found in results["fit"]["parameters"].items():
        exact = found["exact"]
        # Finite simulation alone (100k events in each sample for 2k in data) makes differences of about 0.2 sigma.
        assert abs(found["value"] - exact["value"]) < exact["error"], name
        assert found["hesse"] == pytest.approx(exact["error"], rel=0.1), name
        assert found["minos"] == pytest.approx((-found["hesse"], found["hesse"]), rel=0.2), name
    mu = results["fit"]["parameters"]["mu"]
    assert results["limit"]["observed"] == pytest.approx(mu["value"] + 1.645 * mu["hesse"], abs=0.5 * mu["hesse"])
    assert 2.5 < results["discovery"]["significance"] < 6
    assert results["discovery"]["significance"] == pytest.approx(results["discovery"]["exact"], abs=0.5)


@pytest.mark.slow
def test_the_quick_demonstration_of_a_map_is_right(tmp_path):
    done = invoke("demo", "--doi", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["fit"]["valid"]
    for name in ("shift", "squeeze"):
        found = results["fit"]["parameters"][name]
        # Small networks leave a little of what y knows, and biases of a map are part of the measurement.
        assert found["HESSE"] == pytest.approx(found["error, exact x"], rel=0.2), name
        assert abs(found["profile"] - found["exact x"]) < 4 * found["error, exact x"], name
    for of_process in results["map"].values():
        # What data tell of the map; with few weights it is not all that they do.
        assert of_process["shortest map"] < 0.5 * of_process["no shortest map"]
    assert results["auc"] < 0.53  # 8000 events scatter by 0.005
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {
        *(f"{kind}_{process}" for kind in ("field", "displacement", "morphing") for process in "AB"),
        *("postfit_y1", "postfit_y2", "likelihoods", "spectrum", "ellipse", "impacts"),
    }


class TestDemo:
    def test_leaves_everything_and_nothing_half_written(self, finished):
        out, _ = finished
        assert {path.name for path in out.iterdir()} == {
            "events",
            "models",
            "plots",
            "files.json",
            "results.txt",
            "results.json",
            "histories.json",
        }
        assert {path.stem for path in (out / "plots").iterdir()} == PLOTS
        assert len(list((out / "events").iterdir())) == 2 * len(toy.POINTS) + 1

    def test_its_models_are_kept(self, finished):
        out, _ = finished
        names = {path.name for path in (out / "models").iterdir()}
        assert names == {f"{process}_{part}.fnf" for process in "AB" for part in ("x", "y_given_x")}
        signal = zfit_fnf.load(out / "models" / "B_y_given_x.fnf")
        assert (signal.obs, signal.cond) == (("y1", "y2"), ("x1", "x2"))
        assert set(signal.nuisances) == {"shift", "squeeze"}

    def test_lists_what_it_has_written(self, finished):
        out, _ = finished
        written = json.loads((out / "files.json").read_text())
        assert set(written) == {
            str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != "files.json"
        }

    def test_parameter_of_interest_first(self, finished):
        out, _ = finished
        lines = (out / "results.txt").read_text().splitlines()
        first = next(index for index, line in enumerate(lines) if "best fit" in line)
        assert [line.split()[0] for line in lines[first + 1 : first + 5]] == ["mu", "shift", "squeeze", "lumi"]

    def test_announces_its_stages_and_prints_the_table(self, finished):
        out, output = finished
        for word in (
            "simulating 9 samples of 5,000 events",
            "training p(x) and p(y | x) of both processes",
            "MIGRAD",
            "HESSE",
            "MINOS",
            "CLs",
        ):
            assert word in output
        assert (out / "results.txt").read_text() in output
        assert f"results and plots are in {out}" in output.replace("\n", "")

    def test_results_hold_the_named_entries(self, finished):
        out, _ = finished
        results = json.loads((out / "results.json").read_text())
        assert results["seed"] == 3
        assert results["settings"]["n_simulated"] == 5_000
        assert results["versions"]["zfit_fnf"] == zfit_fnf.__version__
        assert results["versions"]["zfit"] == zfit.__version__
        parameters = results["fit"]["parameters"]
        assert list(parameters) == ["mu", "shift", "squeeze", "lumi"]
        for name, found in parameters.items():
            assert set(found) == {"value", "hesse", "minos", "truth", "exact"}
            assert found["truth"] == TINY.truth[name]
            assert found["hesse"] > 0
            assert results["fit"]["correlation"][name][name] == pytest.approx(1.0)
        assert results["limit"] == {"poi": "mu", "cl": 0.95, "observed": 1.1, "expected": [0.1, 0.2, 0.3, 0.4, 0.5]}
        assert results["discovery"] == {**asdict(SIGNIFICANCE), "exact": pytest.approx(results["discovery"]["exact"])}
        assert set(results["impacts"]) == {"shift", "squeeze", "lumi"}
        assert results["trust"]["verdict"]["tests"] == [{**ROW, "problem": True}]
        assert results["trust"]["refusal"] == "hardly trained"
        assert results["trust"]["calibration"] is None
        for seconds in results["timings"].values():
            assert set(seconds) == {"wall", "cpu"}

    def test_the_exact_fit_is_a_reference(self, finished):
        """500 events at the truth: the exact fit finds it within five of its errors."""
        out, _ = finished
        parameters = json.loads((out / "results.json").read_text())["fit"]["parameters"]
        for name, found in parameters.items():
            assert abs(found["exact"]["value"] - found["truth"]) < 5 * found["exact"]["error"], name
        # The constraint leaves nothing to be learned about the luminosity but a little.
        assert 0.5 < parameters["lumi"]["exact"]["error"] <= 1.0

    def test_histories_can_be_drawn_again(self, finished):
        out, _ = finished
        histories = json.loads((out / "histories.json").read_text())
        assert set(histories) == {"A", "B"}
        for process in histories.values():
            assert len(process) == 8
            for history in process.values():
                assert len(history["steps"]) == len(history["validation"]) == len(history["training"]) > 0

    def test_samples_carry_the_yields(self, finished):
        out, _ = finished
        samples = stages.read(out / "events", "B")
        assert samples["nominal"].sum_weights == pytest.approx(250.0)
        assert samples["shift_up"].sum_weights == pytest.approx(250.0 * 1.04)
        assert samples["shift_down"].sum_weights == pytest.approx(250.0 * 0.97)
        assert samples["squeeze_up"].sum_weights == pytest.approx(250.0)


class TestMap:
    def test_the_distortion_is_undone_exactly(self):
        events = toy.TOY.simulate("A", 100, seed=1)
        y, x = events[["y1", "y2"]].to_numpy(), events[["x1", "x2"]].to_numpy()
        distorted = toy.TOY.distort(y, x, "A")
        assert np.abs(distorted - y).max() > 0.1
        back = doi_demo.undistorted(events.assign(y1=distorted[:, 0], y2=distorted[:, 1]), "A")
        np.testing.assert_allclose(back, events, atol=1e-12)

    def test_data_may_be_distorted(self):
        plain, distorted = (stages.observe(TINY, 1, distorted=which) for which in (False, True))
        np.testing.assert_array_equal(plain[["x1", "x2"]], distorted[["x1", "x2"]])
        assert np.abs(plain["y1"] - distorted["y1"]).max() > 0.1


class TestExactLikelihood:
    def test_the_yield_follows_all_parameters(self):
        values = {"mu": 2.0, "shift": 1.0, "squeeze": 1.0, "lumi": -1.0}
        assert toy.expected_events("A", values, TINY) == pytest.approx(250.0 * 1.03 / 1.02)
        assert toy.expected_events("B", values, TINY) == pytest.approx(2.0 * 250.0 * 1.04 / 1.02)

    def test_the_model_has_the_same_yields(self, finished):
        """Learned from the weights in the files, where the exact ones went in."""
        out, _ = finished
        learned = {process: yields_of(stages.read(out / "events", process)) for process in "AB"}
        for process, effects in learned.items():
            for nuisance, (down, up) in effects.items():
                exact = toy.EFFICIENCY[process].get(nuisance, (1.0, 1.0))
                assert (down, up) == pytest.approx(exact, rel=1e-6)

    def test_fit_of_many_events_finds_the_truth(self):
        settings = replace(TINY, expected={"A": 10_000.0, "B": 10_000.0})
        exact = toy.fit_exactly(stages.observe(settings, seed=4), settings).table
        truth = np.array([settings.truth[name] for name in exact.index])
        assert np.all(np.abs(exact["value"] - truth) < 5 * exact["error"])
        # With 100k events the errors of shift and squeeze are 0.0063 and 0.0066; they go with the root of the number.
        np.testing.assert_allclose(
            exact.loc[["shift", "squeeze"], "error"], np.sqrt(5) * np.array([63e-4, 66e-4]), rtol=0.15
        )


def yields_of(samples):
    nominal = samples["nominal"].sum_weights
    return {
        name: tuple(samples[f"{name}_{side}"].sum_weights / nominal for side in ("down", "up"))
        for name in ("shift", "squeeze")
    }


class TestFolder:
    def test_refuses_a_folder_with_files(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        done = invoke("demo", "--out", tmp_path)
        assert done.exit_code == 1
        assert "is not empty; choose another one, or use --overwrite" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_refuses_a_file(self, tmp_path):
        (tmp_path / "file").write_text("x")
        done = invoke("demo", "--out", tmp_path / "file", "--overwrite")
        assert done.exit_code == 1
        assert "is a file; a folder is needed" in done.stderr

    @pytest.mark.parametrize("place", ["events/own.parquet", "plots/deep/own.png", "models/own.fnf", "results.txt"])
    def test_overwrite_refuses_files_that_it_has_not_written(self, tmp_path, place):
        """And says so before it does anything, minutes of training for instance."""
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("months of work")
        done = invoke("demo", "--out", tmp_path, "--overwrite")
        assert done.exit_code == 1
        assert f"{str(tmp_path / place)!r} is not as an earlier run has left it" in done.stderr.replace("\n", "")
        assert (tmp_path / place).read_text() == "months of work"


class TestErrors:
    def test_a_missing_library_is_named_before_anything_is_done(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        done = invoke("demo", "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert 'pyarrow is needed for this: pip install "zfit_fnf[plot,io]"' in done.stderr
        assert not (tmp_path / "out").exists()

    def test_a_training_that_stops_leaves_no_results(self, tmp_path, monkeypatch):
        def stop(*_, **__):
            raise TrainingStopped("training of p(x1, x2) was interrupted at step 7", step=7, learning_rate=0.01)

        monkeypatch.setattr(demo, "QUICK", TINY)
        monkeypatch.setattr(stages, "train", stop)
        monkeypatch.setattr(stages, "workers", lambda n: nullcontext(Here()))
        done = invoke("demo", "--out", tmp_path)
        assert done.exit_code == 1
        assert "error: training of p(x1, x2) was interrupted at step 7" in done.stderr
        assert {path.name for path in tmp_path.iterdir()} == {"events", "files.json"}


class TestCommand:
    def test_version(self):
        assert invoke("--version").output == f"zfit_fnf {zfit_fnf.__version__}\n"

    def test_help_lists_the_options(self):
        output = invoke("demo", "--help").output
        for option in ("--out", "--full", "--seed", "--overwrite"):
            assert option in output

    @pytest.mark.parametrize(("options", "settings"), [((), doi_demo.QUICK), (("--full",), doi_demo.FULL)])
    def test_a_map_is_measured_instead(self, tmp_path, monkeypatch, options, settings):
        run = create_autospec(doi_demo.run, return_value="the table")
        monkeypatch.setattr(doi_demo, "run", run)
        done = invoke("demo", "--doi", *options, "--seed", 3, "--out", tmp_path)
        assert done.exit_code == 0, done.output
        assert "the table" in done.output
        run.assert_called_once_with(tmp_path, settings, seed=3, overwrite=False)

    def test_needs_a_folder(self):
        assert invoke("demo").exit_code == 2


class TestInspect:
    @pytest.fixture
    def model(self, tmp_path):
        zfit_fnf.save(zfit_fnf.Flow(["mass"], ["pt"], ranges={"mass": (60.0, 120.0)}), tmp_path / "m.fnf")
        return tmp_path / "m.fnf"

    def test_a_file_cannot_write_lines_of_its_own(self, model):
        path = model.rename(model.with_name("m\x1b[1A\nchecksums verified.fnf"))
        done = invoke("inspect", path)
        assert done.exit_code == 0
        assert "\x1b" not in done.stdout
        path.write_bytes(path.read_bytes()[:-1])
        done = invoke("inspect", path)
        assert done.exit_code == 1
        assert "\x1b" not in done.stderr
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("end", [0, 7, 8, 9, 1000, -1])
    def test_truncated_files_give_one_line(self, model, end):
        model.write_bytes(model.read_bytes()[:end])
        done = invoke("inspect", model)
        assert done.exit_code == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1

    def test_shows_what_a_model_file_contains(self, tmp_path):
        zfit_fnf.save(zfit_fnf.Flow(["mass"], ["pt"], ranges={"mass": (60.0, 120.0)}), tmp_path / "m.fnf")
        done = invoke("inspect", tmp_path / "m.fnf")
        assert done.exit_code == 0
        for part in ("m.fnf: flow", "checksums verified", "flow p(mass | pt)", "mass in (60, 120)"):
            assert part in done.stdout

    @pytest.mark.parametrize(
        ("content", "message"), [(None, "there is no file"), (b"none of ours", "is not a usable model file")]
    )
    def test_bad_files_give_one_line(self, tmp_path, content, message):
        if content:
            (tmp_path / "m.fnf").write_bytes(content)
        done = invoke("inspect", tmp_path / "m.fnf")
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1

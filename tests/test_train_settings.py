"""Accepted settings of a training can be saved and loaded; others give one clear error on input."""

from __future__ import annotations

import numpy as np
import pytest

from zfit_fnf import Deformation, Flow, Sample, Schedule, Variation, YieldRatio, load, save
from zfit_fnf.densities.polynomial_map import PolynomialMap, Response
from zfit_fnf.train import deformation as train_deformation
from zfit_fnf.train import fit_deformation, fit_flow

RNG = np.random.default_rng(1)
EVENTS = {name: RNG.normal(size=300) for name in ("y", "z", "x")} | {"w": RNG.uniform(0.5, 1.5, 300)}
QUICK = {"steps": 2, "batch_size": 32, "rotate_every": 0}
TINY = {"schedule": Schedule(**QUICK), "progress": False}
UP, DOWN = Variation(EVENTS, at={"jes": 1}), Variation(EVENTS, at={"jes": -1})
JER, BOTH = Variation(EVENTS, at={"jer": 1}), Variation(EVENTS, at={"jes": 1, "jer": 1})

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # two steps learn little


@pytest.mark.parametrize(
    ("settings", "variations"),
    [
        ({"hidden": []}, {"hidden": ()}),
        ({"hidden": [np.int64(3)], "n_components": np.int32(2)}, {"hidden": np.array([3, 2]), "order": np.int64(1)}),
        ({"obs": ["y"], "family": "spline", "n_components": 2, "n_layers": 2}, {"mirror": True}),
        ({"obs": ("z", "y"), "cond": ["x"], "weights": "w", "hidden": [3]}, {"weights": "w", "seed": np.uint32(7)}),
        (
            {"obs": ["y"], "ranges": {"y": (np.float32(-9), 9)}, "schedule": Schedule(**QUICK | {"validation": 0.99})},
            {"interactions": ()},
        ),
        ({"schedule": Schedule(**QUICK | {"batch_size": 500, "patience": 0})}, {}),
        ({"schedule": Schedule(**QUICK | {"steps": 1, "warmup": 0, "averaging": 0.0}), "obs": ["y"]}, {"joint": True}),
    ],
)
def test_what_trains_can_be_saved(monkeypatch, tmp_path, settings, variations):
    monkeypatch.setattr(
        train_deformation, "correct_score", lambda *_: None
    )  # it takes longer to compile than these to train
    points = (UP, DOWN, JER, BOTH) if variations.pop("joint", False) else (UP, DOWN)
    flow = fit_flow(EVENTS, **{"obs": ["y", "z"], "hidden": [2], "n_components": 2, **TINY, **settings})
    moved = [Variation({**EVENTS, "y": EVENTS["y"] + 0.1 * i}, at=v.at) for i, v in enumerate(points, 1)]
    deformation = fit_deformation(flow, moved, **{"hidden": [2], **TINY, **variations})
    save(deformation, tmp_path / "m.fnf")
    again = load(tmp_path / "m.fnf")
    nu = dict.fromkeys(deformation.nuisances, 0.4)
    np.testing.assert_array_equal(again.log_prob(EVENTS, nu=nu), deformation.log_prob(EVENTS, nu=nu))
    assert again.history == deformation.history
    assert str(again.history) == str(deformation.history)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"obs": "y"}, TypeError, "obs is a list"),
        ({"obs": []}, ValueError, "at least one observable"),
        ({"obs": [0]}, TypeError, "obs is a list of names"),
        ({"obs": ["y", "y"]}, ValueError, r"\['y'\] are named more than once"),
        ({"obs": ["y"], "cond": ["y"]}, ValueError, r"\['y'\] are named more than once"),
        ({"obs": ["y"], "cond": "x"}, TypeError, "cond is a list"),
        ({"obs": ["y"], "cond": None}, TypeError, "cond is a list"),
        ({"obs": ["q"]}, ValueError, "no column 'q'"),
        ({"obs": ["y\n"]}, ValueError, "printable"),
        ({"hidden": [4.0]}, TypeError, "each width in hidden must be an integer, got 4.0"),
        ({"hidden": [-5]}, ValueError, "each width in hidden must be from 1"),
        ({"hidden": 64}, TypeError, r"hidden is a list such as \[64, 64\], got 64"),
        ({"hidden": "64"}, TypeError, "hidden is a list"),
        ({"hidden": [True]}, TypeError, "hidden must be an integer, got True"),
        ({"n_layers": 0}, ValueError, "n_layers must be from 1 to 100, got 0"),
        ({"n_layers": 1.5}, TypeError, "n_layers must be an integer"),
        ({"n_components": 0}, ValueError, "n_components must be from 1"),
        ({"n_components": 10**6}, ValueError, "n_components must be from 1"),
        ({"n_components": 1, "family": "spline"}, ValueError, "n_bins must be at least 2"),
        ({"family": "gauss"}, ValueError, "unknown family 'gauss'"),
        ({"family": None}, ValueError, "unknown family None"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 1.5}, TypeError, "seed must be an integer"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"schedule": 500}, TypeError, r"schedule is a Schedule, e.g. .*, got 500"),
        ({"schedule": {"steps": 500}}, TypeError, "schedule is a Schedule"),
        ({"progress": "no"}, TypeError, "progress must be True or False"),
        ({"ranges": [(0, 1)]}, TypeError, "ranges maps observables"),
        ({"ranges": {"y": 5}}, TypeError, "range of 'y'"),
        ({"ranges": {"y": (0, 1, 2)}}, TypeError, "range of 'y' is a pair of numbers"),
        ({"ranges": {"y": (1, np.nan)}}, ValueError, "range of 'y' needs low < high"),
        ({"ranges": {"q": (0, 1)}}, ValueError, "not among the observables"),
        ({"weights": "q"}, ValueError, "no column 'q'"),
        ({"weights": np.zeros(300)}, ValueError, "weights"),
    ],
)
def test_mistakes_with_flows(settings, error, message):
    with pytest.raises(error, match=message):
        fit_flow(EVENTS, **{"obs": ["y"], **TINY, **settings})


@pytest.fixture(scope="module")
def flow():
    return Flow(["y"], hidden=[2], n_components=2)


@pytest.mark.parametrize(
    ("variations", "settings", "error", "message"),
    [
        (UP, {}, TypeError, "variations is a list"),
        ({"jes": UP}, {}, TypeError, "variations is a list"),
        ([EVENTS], {}, TypeError, "got a dict among them"),
        ([], {}, ValueError, "at least one variation"),
        ([UP, Variation(EVENTS, at={"jes": 1.0})], {}, ValueError, "are both at .*is a sign missing"),
        ([UP, DOWN], {"order": 0}, ValueError, "order must be from 1 to 3, got 0"),
        ([UP, DOWN], {"order": 4}, ValueError, "order must be from 1 to 3, got 4"),
        ([UP, DOWN], {"order": "2"}, TypeError, "order must be an integer"),
        ([UP, DOWN], {"order": 2.0}, TypeError, "order must be an integer"),
        ([UP, DOWN], {"order": 3}, ValueError, "order 3 needs samples of 'jes' at 3 or more points"),
        ([UP, JER, BOTH], {"interactions": ("jes", "jer")}, TypeError, r"each interaction.*\[\(\"jes\", \"jer\"\)\]"),
        ([UP, JER, BOTH], {"interactions": "jes"}, ValueError, 'interactions is "auto" or a list'),
        ([UP, JER, BOTH], {"interactions": None}, TypeError, "interactions is a list"),
        ([UP, JER, BOTH], {"interactions": [("jes", "jes")]}, ValueError, "a pair of two nuisances"),
        ([UP, JER, BOTH], {"interactions": [("jes", "jer", "mu")]}, ValueError, "a pair of two nuisances"),
        ([UP, JER, BOTH], {"interactions": [("jes", "mu")]}, ValueError, r"names \['mu'\]"),
        ([UP, JER], {"interactions": [("jes", "jer")]}, ValueError, "needs joint samples"),
        ([UP, BOTH], {}, ValueError, "need samples of jer alone"),
        ([UP], {"mirror": "yes"}, TypeError, "mirror must be True or False"),
        ([UP], {"weights": np.ones(300)}, TypeError, "weights names a column"),
        ([UP], {"weights": "q"}, ValueError, "no column 'q'"),
        ([UP], {"hidden": [0]}, ValueError, "each width in hidden"),
        ([UP], {"hidden": 64}, TypeError, "hidden is a list"),
        ([UP], {"schedule": "long"}, TypeError, "schedule is a Schedule"),
        ([UP], {"seed": -1}, ValueError, "seed must be at least 0"),
        ([UP], {"executor": 4}, TypeError, "executor= is one of concurrent.futures"),
        ([UP], {"progress": 1}, TypeError, "progress must be True or False"),
        ([UP], {"trained": "m.fnf"}, TypeError, "trained= is a Deformation"),
        ([Variation(EVENTS, at={"jes up": 1})], {}, ValueError, "'jes up' is no name for a nuisance"),
        ([Variation(EVENTS, at={"_jes": 1})], {}, ValueError, "'_jes' is no name for a nuisance"),
        ([Variation(EVENTS, at={"": 1})], {}, ValueError, "'' is no name for a nuisance"),
        ([Variation(EVENTS, at={"yes": 1})], {}, ValueError, "'yes' is no name for a nuisance"),
        ([Variation({"y": [1.0]}, at={"jes": 1})], {}, ValueError, "1 event"),
        ([Variation({"y": [1.0, np.nan]}, at={"jes": 1})], {}, ValueError, "NaN"),
        ([Variation(Sample({"y": EVENTS["y"]}, EVENTS["x"] * 0), at={"jes": 1})], {}, ValueError, "positive sum"),
    ],
)
def test_mistakes_with_deformations(flow, variations, settings, error, message):
    with pytest.raises(error, match=message):
        fit_deformation(flow, variations, **{"progress": False, **settings})


def test_a_flow_comes_first(flow):
    with pytest.raises(TypeError, match="takes the Flow of the nominal events first, got a list"):
        fit_deformation([UP], flow)


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        ({}, ValueError, "at the origin"),
        ({"jes": 0}, ValueError, "at the origin"),
        ({"jes": 1, "jer": 0}, ValueError, "name only the nuisances that move"),
        ({"jes": np.nan}, ValueError, "jes"),
        ({"jes": "up"}, TypeError, "number for every nuisance"),
        ("jes", TypeError, "maps nuisance names to numbers"),
        ({1: 1}, TypeError, "maps nuisance names to numbers"),
    ],
)
def test_mistakes_with_points(point, error, message):
    with pytest.raises(error, match=message):
        Variation(EVENTS, at=point)


def response(**changes):
    return Response(
        **{"nuisances": ["jes"], "powers": ((1,), (2,)), "n_dim": 1, "n_context": 0, "hidden": [2], **changes}
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"nuisances": "jes"}, TypeError, "nuisances is a list"),
        ({"nuisances": ["jes", "jes"], "powers": ((1, 1),)}, ValueError, "named once"),
        ({"powers": (1, 2)}, TypeError, "each monomial in powers is a list"),
        ({"powers": ((1,), (1,))}, ValueError, "named once"),
        ({"powers": ((0.5,),)}, TypeError, "each power must be an integer"),
        ({"powers": ((-1,),)}, ValueError, "each power must be from 0"),
        ({"powers": ((11,),)}, ValueError, "each power must be from 0 to 10"),
        ({"n_dim": 0}, ValueError, "n_dim must be from 1"),
        ({"n_context": -1}, ValueError, "n_context must be at least 0"),
        ({"hidden": [4.0]}, TypeError, "each width in hidden"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_mistakes_with_responses(changes, error, message):
    with pytest.raises(error, match=message):
        response(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"flow": "m.fnf"}, TypeError, "needs the Flow that it deforms, got a str"),
        ({"responses": ["jes"]}, TypeError, "a list of Response, got a str among them"),
        ({"responses": response()}, TypeError, "responses is a list"),
        ({"responses": [response(n_dim=2)]}, ValueError, "2 coordinates and 0 conditions; expected 1 and 0"),
        ({"windows": {"jes": (1, -1)}}, ValueError, "the window of 'jes' needs low < high"),
        ({"windows": {"jes": (0.5, 1)}}, ValueError, "must contain 0"),
        ({"windows": {"jes": (-1, np.inf)}}, ValueError, "window of 'jes' must be finite"),
        ({"windows": {"jes": 1}}, TypeError, "the window of 'jes' is a list"),
        ({"windows": {"jes": (-1, 0, 1)}}, ValueError, "needs two edges"),
        ({"windows": [(-1, 1)]}, TypeError, "windows= maps nuisances to ranges"),
        ({"yields": {"jse": YieldRatio(1.1, 0.9)}}, ValueError, r"yields= names \['jse'\]"),
        ({"yields": {"jes": (1.1, 0.9)}}, TypeError, "yields= maps nuisances to YieldRatio"),
    ],
)
def test_mistakes_with_the_parts_of_a_deformation(flow, changes, error, message):
    with pytest.raises(error, match=message):
        Deformation(**{"flow": flow, "responses": [response()], "windows": {"jes": (-1, 1)}, **changes})


def test_windows_of_maps_contain_zero():
    with pytest.raises(ValueError, match="must contain 0"):
        PolynomialMap([response()], windows={"jes": (-2, -1)})


@pytest.mark.parametrize(
    ("sides", "error"),
    [({"up": 0}, ValueError), ({"down": -1.0}, ValueError), ({"up": np.inf}, ValueError), ({"up": "1.1"}, TypeError)],
)
def test_mistakes_with_yield_changes(sides, error):
    with pytest.raises(error, match="the ratio of yields"):
        YieldRatio(**sides)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"steps": 1e4}, TypeError),
        ({"steps": True}, TypeError),
        ({"steps": -1}, ValueError),
        ({"batch_size": "all"}, TypeError),
        ({"learning_rate": 0}, ValueError),
        ({"learning_rate": "fast"}, TypeError),
        ({"weight_decay": -0.1}, ValueError),
        ({"rotate_every": -1}, ValueError),
        ({"rotate_every": None}, TypeError),
        ({"averaging": np.nan}, ValueError),
        ({"validation": 1.0}, ValueError),
        ({"validation": 5000}, ValueError),
        ({"patience": 0.5}, TypeError),
    ],
)
def test_mistakes_with_schedules(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        Schedule(**settings)

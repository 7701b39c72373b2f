"""Simulation taken to data by one conditional flow: exact where it has to be, and right where the answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from stored_models import shaken

import zfit_fnf as zfnf
from zfit_fnf.morph import Morph, check, fit_morph
from zfit_fnf.morph.columns import LEVELS, Columns
from zfit_fnf.morph.model import FLAG

pytestmark = pytest.mark.filterwarnings("ignore:.*still improving:UserWarning")  # after a few hundred steps

SHORT = zfnf.Schedule(steps=800, batch_size=512, warmup=50, patience=None)
N = 8000


def events(n, *, data, seed):
    """``y`` around a condition, ``iso`` zero in half of simulation and in 31 % of data, a number of tracks ``k``."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = rng.normal(x + 0.5 * data, 1.0 + 0.3 * data)
    iso = np.maximum(rng.normal(0.5 * data, 1.0, n), 0.0)
    return pd.DataFrame({"y": y, "iso": iso, "k": rng.binomial(3, 0.3 + 0.2 * data, n), "x": x})


SPECIAL = {"atoms": {"iso": [0.0]}, "integers": ["k"], "ranges": {"iso": (0.0, np.inf), "k": (-0.5, 3.5)}}


@pytest.fixture(scope="module")
def samples():
    return events(N, data=False, seed=1), events(N, data=True, seed=2)


@pytest.fixture(scope="module")
def morph(samples):
    return fit_morph(
        *samples,
        obs=["y", "iso", "k"],
        cond=["x"],
        **SPECIAL,
        hidden=(32,),
        schedule=SHORT,
        progress=False,
    )


def test_conditions_far_from_the_training_are_told(morph, samples):
    far = samples[0].head(3).assign(x=[0.0, 0.5, 50.0])
    with pytest.warns(UserWarning, match=r"conditions of events are more than 10 standard deviations.*\(x 1\)"):
        morph.to_data(far)


def untrained(seed=0, replicas=0):
    """With random weights, as nothing here depends on them."""
    columns = Columns(("y", "iso"), {"iso": (0.0,)}, ())
    flows = [
        shaken(
            zfnf.Flow(columns.names, ["x", FLAG], ranges={"iso": (0.0, np.inf)}, hidden=(6,), n_components=3), seed + i
        )
        for i in range(1 + replicas)
    ]
    made = Morph(flows[0], ["y", "iso"], atoms={"iso": [0.0]}, replicas=flows[1:])
    made.quantiles[0].assign(np.linspace(0.01, 3.0, LEVELS))
    return made


# --- columns -----------------------------------------------------------------------------------------------------------


def test_columns_are_inverted_exactly():
    columns = Columns(("a", "b", "n"), {"b": (-1.0, 0.0)}, ("n",))
    rng = np.random.default_rng(1)
    b = rng.choice([-1.0, 0.0, np.nan], 1000)
    values = {
        "a": rng.normal(size=1000),
        "b": np.where(np.isnan(b), rng.normal(size=1000), b),
        "n": rng.poisson(2.0, 1000),
    }
    encoded = columns.encode(values, [np.linspace(5.0, 6.0, LEVELS)], (1,))
    assert list(encoded) == columns.names == ["a", "b is", "b", "n"]
    for name, back in columns.decode(encoded).items():
        np.testing.assert_array_equal(back, values[name])
    # What stands in for atoms has the distribution of the other values, here one that is told.
    assert ((encoded["b"] >= 5.0) == ~np.isnan(b)).all()
    # A triangle: its standard deviation is 1 / sqrt(24).
    assert np.std(encoded["n"] - values["n"]) == pytest.approx(24**-0.5, rel=0.1)
    for name in encoded:  # a seed gives one answer
        np.testing.assert_array_equal(
            encoded[name], columns.encode(values, [np.linspace(5.0, 6.0, LEVELS)], (1,))[name]
        )


def test_columns_of_float32_have_atoms_too():
    columns = Columns(("b",), {"b": (-999.5, 0.1)}, ())
    for dtype in ("float32", "float64"):
        values = np.array([0.1, 0.1001, -999.5, 0.0], dtype).astype(float)
        np.testing.assert_array_equal(columns.label("b", values), [1, 2, 0, 2])


def test_whole_numbers_are_whole():
    zeros = Columns(("n",), {}, ("n",)).decode({"n": np.array([-0.3, 0.3])})["n"]
    assert not np.signbit(zeros).any()
    made = Morph(shaken(zfnf.Flow(["n"], ["x", FLAG], hidden=(6,), n_components=3)), ["n"], integers=["n"])
    with pytest.raises(ValueError, match=r"integers= names 'n', which has values such as 2\.4 in data"):
        made.to_data({"n": [1.0, 2.4], "x": [0.0, 0.0]})


# --- the map -----------------------------------------------------------------------------------------------------------


def test_there_and_back():
    """Without atoms, each direction undoes the other."""
    flow = shaken(zfnf.Flow(["a", "b"], ["x", FLAG], n_layers=2, hidden=(6,), n_components=3))
    made, rng = Morph(flow, ["a", "b"]), np.random.default_rng(2)
    table = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "x"])
    there = made.to_data(table)
    assert np.abs(there - table).to_numpy().max() > 0.1
    np.testing.assert_allclose(made.to_simulation(there), table, atol=1e-5)
    np.testing.assert_array_equal(there["x"], table["x"])
    chosen = table.sample(frac=0.5, random_state=1)
    chosen["moved"] = made.to_data(chosen)["a"]  # pandas assigns by the index
    np.testing.assert_allclose(chosen["moved"], there["a"].loc[chosen.index], rtol=1e-9)


def test_others_depend_on_whole_numbers_and_not_on_what_is_random_about_them():
    """Of numbers and atoms that end where they end with another seed, and that come back: what else there is does so too."""
    columns = Columns(("n", "b", "y"), {"b": (0.0, 1.0)}, ("n",))
    flow = shaken(zfnf.Flow(columns.names, ["x", FLAG], hidden=(6,), n_components=3))
    made, rng = Morph(flow, ["n", "b", "y"], atoms={"b": [0.0, 1.0]}, integers=["n"]), np.random.default_rng(2)
    b = rng.choice([0.0, 1.0, np.nan], 3000)
    table = pd.DataFrame({"n": rng.integers(-1, 2, 3000), "b": np.where(np.isnan(b), rng.normal(size=3000), b)})
    table = table.assign(y=rng.normal(size=3000), x=0.3).astype(float)
    one, other = made.to_data(table, seed=1), made.to_data(table, seed=2)
    back = made.to_simulation(one, seed=3)

    def are_alike(left, right):
        is_continuous = [~frame["b"].isin([0.0, 1.0]) for frame in (table, one, other, back)]
        return (left["n"] == right["n"]) & np.all(is_continuous, axis=0)

    for left, right in ((one, other), (back, table)):
        rows = are_alike(left, right)
        assert rows.sum() > 20
        for name in ("b", "y"):  # differences were 0.2 on average
            np.testing.assert_allclose(left.loc[rows, name], right.loc[rows, name], atol=1e-5)
    assert (one["n"] != table["n"]).any()
    assert (one["b"] != table["b"]).any()


def test_distributions_are_those_of_data(morph, samples):
    """Of other events than those of the training, also at some conditions; and the same the other way."""
    there = morph.to_data(events(10_000, data=False, seed=3))
    back = morph.to_simulation(events(10_000, data=True, seed=4))
    for found, shift, width, zeros, p in ((there, 0.5, 1.3, 0.3085, 0.5), (back, 0.0, 1.0, 0.5, 0.3)):
        # 8000 events know a mean to 1.5 %, and the flow is trained for 800 steps.
        pulls = found["y"] - found["x"] - shift
        assert abs(pulls.mean()) < 0.08
        assert abs(pulls[found["x"] > 1.0].mean()) < 0.15
        assert pulls.std() == pytest.approx(width, rel=0.06)
        assert np.mean(found["iso"] == 0.0) == pytest.approx(zeros, abs=0.04)
        assert found["k"].mean() == pytest.approx(3 * p, rel=0.06)
        assert set(found["k"]) <= {0.0, 1.0, 2.0, 3.0}
        assert (found["iso"] >= 0.0).all()


def test_each_whole_number_has_a_component(morph):
    """Eight follow shapes; 0 to 3 are frequent in both samples."""
    assert morph.flow.density.n_components == 8 + 4


def test_a_classifier_judges(morph, samples):
    found = check(morph, *(events(4000, data=flag, seed=5 + flag) for flag in (False, True)), seed=1)
    assert found.auc_before > 0.65
    assert found.p_before < 1e-6
    # Two samples of 4000 scatter by 0.0065; what a training of 800 steps leaves comes to it.
    assert abs(found.auc_after - 0.5) < 0.04
    assert not found.reweighted
    assert set(found.to_dict()) == {"auc_before", "auc_after", "p_before", "p_after", "reweighted"}
    assert "before" in str(found)


def test_simulation_with_other_conditions(morph):
    """Is weighted to those of data before it is compared."""
    simulation = events(6000, data=False, seed=7)
    chosen = simulation[np.random.default_rng(1).random(6000) < 1 / (1 + np.exp(-2 * simulation["x"]))]
    found = check(morph, chosen, events(4000, data=True, seed=8), seed=1)
    assert found.reweighted
    assert abs(found.auc_after - 0.5) < 0.05


# --- files and replicas ------------------------------------------------------------------------------------------------


def test_morphs_in_files(tmp_path):
    made, table = untrained(replicas=2), events(100, data=False, seed=9)[["y", "iso", "x"]]
    zfnf.save(made, tmp_path / "morph.fnf")
    read = zfnf.load(tmp_path / "morph.fnf")
    assert "morph of y, iso, with point masses in iso" in str(zfnf.storage.inspect(tmp_path / "morph.fnf"))
    assert repr(read) == repr(made) == "<Morph of y, iso | x, with point masses in iso, 2 replica(s)>"
    pd.testing.assert_frame_equal(read.to_data(table, seed=3), made.to_data(table, seed=3))
    there = read.replicas[1].to_data(table, seed=3)
    pd.testing.assert_frame_equal(there, made.replicas[1].to_data(table, seed=3))
    assert not there.equals(read.replicas[0].to_data(table, seed=3))


def test_replicas_are_trained_on_other_weights(samples):
    few = zfnf.Schedule(steps=5, batch_size=64, warmup=1, patience=None)
    simulation, data = samples[0][:500].assign(w=1.0), samples[1][:400].assign(w=2.0)
    small = {"hidden": (4,), "n_components": 2, "schedule": few, "progress": False}
    made = fit_morph(simulation, data, obs=["y"], cond=["x"], weights=("w", "w"), n_bootstrap=2, **small)
    first, second = made.replicas
    assert not first.to_data(simulation).equals(second.to_data(simulation))
    # Both samples count as much, whatever their weights.
    assert made.flow.sum_weights == pytest.approx(2 * 500)


# --- bad input ---------------------------------------------------------------------------------------------------------

IN_COMMON = "have 0.0% of the condition 'x' in common"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"atoms": None},
            r"observable 'iso' of 'simulation' (has|is) .*Or declare it: atoms=\{'iso': \[value\]\}",
        ),
        ({"integers": []}, r"'k' of 'simulation' takes only 4 integer values .*or integers=\['k'\]"),
        ({"integers": ["k", "y"]}, "integers= names 'y', which has values such as"),
        ({"atoms": {"iso": [0.0], "z": [1.0]}}, r"atoms= and integers= name \['z'\]; the observables are"),
        ({"atoms": {"iso": [0.0], "k": [1.0]}}, r"\['k'\] are in atoms= and in integers="),
        ({"atoms": {"iso": []}}, "atoms= of 'iso' needs different values"),
        ({"atoms": ["iso"]}, "atoms= maps observables to their point masses"),
        ({"ranges": {"iso": (0.0, 1.0)}}, "events of 'simulation' are not inside the range 0 < iso < 1"),
        ({"shift": 100.0}, IN_COMMON),
    ],
)
def test_samples_that_cannot_be_learned_from(samples, options, message):
    simulation, data = (one[:2000] for one in samples)
    data = data.assign(x=data["x"] + options.pop("shift", 0.0))
    with pytest.raises((ValueError, TypeError), match=message):
        fit_morph(simulation, data, obs=["y", "iso", "k"], cond=["x"], **{**SPECIAL, **options}, progress=False)


def test_events_outside_of_the_ranges():
    with pytest.raises(ValueError, match="1 of 1 events of 'data' are not inside the range 0 < iso"):
        untrained().to_data({"y": [0.0, 1.0], "iso": [0.0, -1.0], "x": [0.0, 0.0]})

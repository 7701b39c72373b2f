"""Simulated events of a process: samples, weights of variations, parts and replicas, in which pairs stay together."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from zfit_fnf import Sample, Simulation, Variation, normsys, nuisance
from zfit_fnf.samples import write_sample
from zfit_fnf.samples.variation import yields_at_one
from zfit_fnf.train.assembly import yield_ratio
from zfit_fnf.workspace.events import yield_ratios

N = 1000
RNG = np.random.default_rng(0)
Y, NUMBER = RNG.normal(size=N), np.arange(5000, 5000 + N)
W = RNG.uniform(0.5, 1.5, N)
TABLE = {"y": Y, "number": NUMBER, "w": W, "w_pdf_up": W * np.exp(0.2 * Y), "w_pdf_down": W * np.exp(-0.2 * Y)}
UP, DOWN = (Variation(at={"pdf": nu}, weights=f"w_pdf_{side}") for side, nu in (("up", +1.0), ("down", -1.0)))
KEPT = RNG.random(N) < 0.7  # of the generated events, after another selection
MOVED = {name: TABLE[name][KEPT] for name in ("y", "number", "w")} | {"y": Y[KEPT] + 0.1}


def simulation(**options):
    return Simulation(TABLE, [UP, Variation(MOVED, at={"jes": 1.0}), DOWN], weights="w", **options)


@pytest.mark.parametrize("form", ["dict", "frame", "sample", "file"])
def test_weights_of_a_variation_are_a_column_of_the_nominal_events(form, tmp_path):
    nominal = {"dict": TABLE, "frame": pd.DataFrame(TABLE), "sample": Sample(TABLE), "file": tmp_path / "n.parquet"}[
        form
    ]
    if form == "file":
        write_sample(pd.DataFrame(TABLE), nominal)
    first, up, jes, down = Simulation(nominal, [UP, Variation(MOVED, at={"jes": 1.0}), DOWN], weights="w").samples(
        ["y"]
    )
    assert [s.name for s in (up, jes, down)] == ["pdf=+1", "jes=+1", "pdf=-1"]
    for sample, weights in ((first, "w"), (up, "w_pdf_up"), (down, "w_pdf_down")):
        assert list(sample.columns) == ["y"]
        np.testing.assert_array_equal(sample.columns["y"], Y)
        np.testing.assert_array_equal(sample.weights, TABLE[weights])
    np.testing.assert_array_equal(jes.columns["y"], MOVED["y"])
    np.testing.assert_array_equal(jes.weights, MOVED["w"])


def test_arrays_of_weights_and_weights_of_their_own():
    moved = Variation(MOVED | {"v": 2.0 * MOVED["w"]}, at={"jes": 1.0}, weights="v")
    _, up, jes = Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=2.0 * W), moved], weights=W).samples(["y"])
    np.testing.assert_array_equal(up.weights, 2.0 * W)
    np.testing.assert_array_equal(jes.weights, 2.0 * MOVED["w"])


def test_files_are_read_with_cuts(tmp_path):
    write_sample(pd.DataFrame(TABLE), tmp_path / "nominal.parquet")
    write_sample(pd.DataFrame(MOVED), tmp_path / "up.parquet")
    variations = [UP, Variation(tmp_path / "up.parquet", at={"jes": 1.0})]
    read = Simulation.read(tmp_path / "nominal.parquet", variations, columns=["y"], weights="w", cut="y > 0.5")
    nominal, up, jes = read.samples(["y"])
    np.testing.assert_array_equal(nominal.weights, W[Y > 0.5])
    np.testing.assert_array_equal(up.weights, TABLE["w_pdf_up"][Y > 0.5])
    np.testing.assert_array_equal(jes.columns["y"], MOVED["y"][MOVED["y"] > 0.5])
    with pytest.raises(TypeError, match=r"'jes=.1' are no file"):
        Simulation.read(tmp_path / "nominal.parquet", [Variation(MOVED, at={"jes": 1.0})])


def test_the_table():
    table = simulation().to_dataframe()
    assert list(table.index) == ["nominal", "pdf=+1", "jes=+1", "pdf=-1"]
    assert list(table["kind"]) == ["nominal", "weights", "events", "weights"]
    assert list(table["events"]) == [N, N, KEPT.sum(), N]
    np.testing.assert_allclose(
        table["yield"], [TABLE[w].sum() for w in ("w", "w_pdf_up")] + [MOVED["w"].sum(), TABLE["w_pdf_down"].sum()]
    )
    np.testing.assert_allclose(table["ratio"], table["yield"] / W.sum())
    assert table["effective size"].iloc[0] == pytest.approx(W.sum() ** 2 / np.square(W).sum())
    assert simulation().effective_size == table["effective size"].iloc[0]
    assert "pdf=-1   weights    1000" in str(simulation())
    written = json.loads(json.dumps(simulation().to_dict()))
    assert written["nuisances"] == ["pdf", "jes"]
    assert written["samples"][2] == {
        "sample": "jes=+1",
        "kind": "events",
        "events": KEPT.sum(),
        "effective size": table["effective size"].iloc[2],
        "yield": table["yield"].iloc[2],
        "ratio": table["ratio"].iloc[2],
        "at": {"jes": 1.0},
    }


def numbers(part):
    """Generated events in each sample of a part."""
    return [set(sample.array(["number"])[:, 0]) for sample in part.samples(["number"])]


@pytest.mark.parametrize(("n", "sizes"), [(0.8, [800, 200]), (2, [500, 500]), (3, [333, 334, 333])])
def test_parts(n, sizes):
    whole = simulation()
    parts = whole.split(n, seed=3)
    assert [len(numbers(part)[0]) for part in parts] == sizes
    assert set.union(*(numbers(part)[0] for part in parts)) == set(NUMBER)
    for part in parts:
        nominal, up, *_ = part.samples(["y", "number"])
        np.testing.assert_array_equal(nominal.columns["number"], up.columns["number"])
        rows = nominal.columns["number"].astype(int) - 5000
        # Weights of the same events, such that each sample keeps its yield.
        np.testing.assert_allclose(nominal.weights, W[rows] * W.sum() / W[rows].sum())
        ratio = up.weights / TABLE["w_pdf_up"][rows]
        np.testing.assert_allclose(ratio, ratio[0])
        np.testing.assert_allclose(part.to_dataframe()["yield"], whole.to_dataframe()["yield"])
    again = simulation().split(n, seed=3)
    assert numbers(again[0]) == numbers(parts[0])
    assert numbers(simulation().split(n, seed=4)[0]) != numbers(parts[0])


@pytest.mark.parametrize("n", [2, 3])
def test_folds(n):
    folds = simulation(paired_by="number").folds(n, seed=1)
    parts = simulation(paired_by="number").split(n, seed=1)
    for (train, held_out), part in zip(folds, parts, strict=True):
        assert numbers(held_out) == numbers(part)
        for seen, unseen, everything in zip(numbers(train), numbers(held_out), numbers(simulation()), strict=True):
            assert seen | unseen == everything
            assert not seen & unseen


def test_numbered_events_stay_together_in_samples_of_other_lengths():
    parts = simulation(paired_by="number").split(2, seed=1)
    for part in parts:
        nominal, up, jes, _ = numbers(part)
        assert jes == nominal & set(NUMBER[KEPT])
        assert up == nominal
    # 500 +- 16 events
    assert all(abs(len(numbers(part)[0]) - 500) < 80 for part in parts)
    together = Simulation(TABLE, [Variation(TABLE | {"y": Y + 0.1}, at={"jes": 1.0})]).split(0.5)
    for part in together:  # as many events: row by row
        assert len(set(map(frozenset, numbers(part)))) == 1


@pytest.mark.parametrize("paired_by", [None, "number"])
def test_replicas(paired_by):
    replica = simulation(paired_by=paired_by).resampled(7)
    nominal, up, jes, _ = replica.samples(["number"])
    rows = nominal.columns["number"].astype(int) - 5000
    copies = nominal.weights / W[rows]
    np.testing.assert_allclose(copies, np.round(copies))
    # The mean of 1000 numbers with the variance one; their variance has the error sqrt(3 / 1000).
    assert abs(copies.sum() / N - 1.0) < 0.13
    assert abs(np.square(copies).sum() / N - (copies.sum() / N) ** 2 - 1.0) < 0.25
    np.testing.assert_allclose(up.weights / TABLE["w_pdf_up"][rows], copies)
    if paired_by:
        of_number = dict(zip(rows + 5000, copies, strict=True))
        kept = jes.columns["number"].astype(int)
        assert set(kept) == set(of_number) & set(NUMBER[KEPT])
        np.testing.assert_allclose(jes.weights / W[kept - 5000], [of_number[number] for number in kept])


ZERO, NEGATIVE, MISSING, NONE = (np.where(np.arange(N) == 3, value, 1.0) for value in (0.0, -0.1, np.nan, 0.0))


@pytest.mark.filterwarnings("ignore:.*do not follow the nominal")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            lambda: Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights="w_pdf_upp")]),
            "no column 'w_pdf_upp'.*Is 'w_pdf_up' meant",
        ),
        (
            lambda: Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=W[1:])]),
            r"shape \(999,\).*1000 events: they belong",
        ),
        (
            lambda: Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=ZERO)]),
            "1 of 1000 .*'pdf=.1' have the weight zero.*row 3",
        ),
        (lambda: Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=NEGATIVE)]), "other sign .*row 3: -0.1"),
        (
            lambda: Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=MISSING)]),
            "NaN or infinite in the weights: row 3",
        ),
        (lambda: Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=W)], weights=NONE), "ratio is infinite"),
        (lambda: Simulation(TABLE | {"number": Y}, [UP], paired_by="number").split(2), "not whole"),
        (lambda: Simulation(TABLE).split(1.0), "share of the first part must be finite and > 0 and < 1"),
        (lambda: Simulation(TABLE).split(1), "number of parts"),
    ],
)
def test_mistakes(given, told):
    with pytest.raises(ValueError, match=told):
        given().samples(["y"])


def test_negative_weights_on_both_sides_are_weights():
    sign = np.where(np.arange(N) % 5 == 0, -1.0, 1.0)
    _, up = Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=sign * TABLE["w_pdf_up"])], weights=sign * W).samples(
        ["y"]
    )
    np.testing.assert_array_equal(up.weights, sign * TABLE["w_pdf_up"])


def test_what_is_no_variation():
    with pytest.raises(TypeError, match=r"needs events: .* no weights= of the nominal events"):
        Variation(at={"pdf": 1.0})
    with pytest.raises(ValueError, match="at the origin"):
        Variation(TABLE)


@pytest.mark.parametrize("weights", [np.exp(0.2 * Y), RNG.permutation(TABLE["w_pdf_up"])])
def test_factors_and_weights_of_other_events_are_told(weights):
    with pytest.warns(UserWarning, match=r"'pdf=.1' do not follow the nominal ones"):
        Simulation(TABLE, [Variation(at={"pdf": 1.0}, weights=weights)], weights="w").samples(["y"])


def test_weights_of_a_variation_belong_to_the_events_by_their_index():
    """Rows would be bound by position, to those of other events."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"y": rng.normal(size=500), "w": 1.0})
    up = (np.exp(0.3 * table["y"] - 0.045)).rename("w_up")
    variations = [Variation(at={"a": 1.0}, weights=up)]
    _, moved = Simulation(table, variations, weights="w").samples(["y"])
    np.testing.assert_array_equal(moved.weights, up)
    with pytest.raises(ValueError, match=r"weights of variation 'a=\+1' and the nominal events have different pandas"):
        Simulation(table.sample(frac=1.0, random_state=1), variations, weights="w")


@pytest.mark.parametrize(
    ("simulated", "expected"),
    [
        ({1.0: 1.3, -0.5: 0.95}, (0.95**2, 1.3)),  # not 1 / 1.3, which is what a side that nobody simulated has
        ({2.0: 1.21, -2.0: 0.81, -1.0: 0.88}, (0.88, 1.1)),
        ({0.5: 1.1, 3.0: 2.0}, (None, 1.21)),
    ],
)
def test_yields_of_variations_that_are_not_at_one(simulated, expected):
    """Log-normal: a factor to the power of the nuisance, which the modifier follows exactly beyond one."""
    alike = pytest.approx([one or 0.0 for one in expected], rel=1e-12)
    assert [one or 0.0 for one in yields_at_one(simulated)] == alike
    group = [Variation({"y": [0.0]}, at={"jes": at}) for at in simulated]
    sums = {id(one): SimpleNamespace(sample=Sample({"y": [0.0]}, [50.0 * simulated[one.at["jes"]]])) for one in group}
    found = yield_ratio(group, sums, 50.0, mirror=False)
    assert [found.down or 0.0, found.up or 0.0] == alike
    events = Simulation(Sample({"y": [0.0]}, [50.0]), [Variation(sums[id(v)].sample, at=v.at) for v in group])
    if {1.0, -1.0} & set(simulated):
        side = yield_ratios(["jes"], events, "signal")["jes"]
        assert [side["lo"], side["hi"]] == alike
    factor = normsys(nuisance("jes"), found)
    at, ratio = next((at, one) for at, one in simulated.items() if at > 0)
    if at >= 1.0:
        assert float(factor(tf.constant(at, tf.float64))) == pytest.approx(ratio, rel=1e-12)


def test_missing_entries_of_columns_that_are_not_used_do_not_matter():
    """As NaN does not: such simulation could not be split, resampled or printed."""
    table = pd.DataFrame({"y": np.arange(4.0), "z": pd.array([1, None, 3, 4], dtype="Int64")})
    parts = Simulation(table).split(2, seed=1)
    assert sorted(np.concatenate([part.sample(["y"]).columns["y"] for part in parts])) == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="1 of 4 entries of column 'z' of 'data' are missing"):
        Simulation(table).sample(["z"])
    with pytest.raises(ValueError, match="NaN or infinite in column 'z'"):
        [part.sample(["z"]) for part in parts]


@pytest.mark.parametrize("paired_by", [None, "number"])
def test_parts_without_events_are_refused(paired_by):
    """Ten folds of five events were five trainings with all of them, and five parts held out without any."""
    table = {"x": np.arange(5.0), "number": np.arange(5)}
    for n in (10, 0.99):
        with pytest.raises(ValueError, match=r"part \d of \d+ would have none of the 5 events of 'data'"):
            Simulation(table, paired_by=paired_by).split(n)
    with pytest.raises(ValueError, match=r"part \d of 10 would have none"):
        Simulation(table, paired_by=paired_by).folds(10)


def test_numbers_of_events_that_are_not_exact_are_refused():
    """A thousand of them were a few numbers, and parts of a quarter and three quarters."""
    numbers = np.arange(1000) + 2**60
    halves = Simulation({"x": np.zeros(1000), "number": numbers}, paired_by="number").split(2)
    assert [len(one.nominal.columns["x"]) for one in halves] == [pytest.approx(500, abs=80)] * 2
    with pytest.raises(
        ValueError, match=r"'number' of 'data' numbers the events, but floating-point numbers beyond 2\^53"
    ):
        Simulation({"x": np.zeros(1000), "number": numbers.astype(float)}, paired_by="number").split(2)

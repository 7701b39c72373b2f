"""Events enter: every supported form gives the same numbers, and every mistake one clear error."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zfit_fnf.samples import Sample, Variation, as_sample, check_inside, check_trainable, write_sample

ZMUMU = Path(__file__).parents[2] / "shared" / "data" / "uproot-Zmumu.root"


@pytest.fixture
def events() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "y1": rng.normal(size=50),
            "y2": rng.exponential(size=50).astype(np.float32),
            "njets": rng.integers(0, 4, size=50),
            "w": rng.normal(1, 1, size=50),
        }
    )


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".pq", ".csv", ".CSV"])
def test_files_return_the_very_numbers(tmp_path: Path, events: pd.DataFrame, suffix: str) -> None:
    path = tmp_path / f"signal{suffix}"
    write_sample(events, path)
    sample = Sample.read(path, weights="w")
    assert set(sample.columns) == set(events.columns)
    np.testing.assert_array_equal(sample.columns["njets"], events["njets"])
    for name in ("y1", "w"):  # pandas before 3.1 may miss the last bit of a number in a CSV
        np.testing.assert_allclose(
            sample.columns[name], events[name], rtol=1e-15 if suffix.lower() == ".csv" else 0, atol=0
        )
    # A CSV has no float32: the shortest decimal that identifies the float32 comes back as a float64.
    np.testing.assert_array_equal(sample.columns["y2"].astype(np.float32), events["y2"])
    assert sample.weights is sample.columns["w"]
    assert sample.name == path.name
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".csv"])
def test_weights_of_a_sample_become_a_column(tmp_path: Path, events: pd.DataFrame, suffix: str) -> None:
    path = tmp_path / f"signal{suffix}"
    write_sample(as_sample(events, ["y1"], weights="w"), path)
    sample = as_sample(path, ["y1"], weights="weight")
    assert list(sample.columns) == ["y1"]
    np.testing.assert_allclose(sample.weights, events["w"], rtol=1e-15)
    write_sample(Sample.read(path, weights="weight"), path)  # the column is the weights: no conflict
    np.testing.assert_allclose(Sample.read(path).columns["weight"], events["w"], rtol=2e-15)


def test_rntuple(tmp_path: Path, events: pd.DataFrame) -> None:
    import uproot

    path = tmp_path / "signal.root"
    with uproot.recreate(path) as file:
        file.mkrntuple("ntuple", {"y1": np.float64, "n": np.int32}).extend(
            {"y1": events["y1"].to_numpy(), "n": np.arange(50, dtype=np.int32)}
        )
    sample = Sample.read(path)
    np.testing.assert_array_equal(sample.columns["y1"], events["y1"])
    np.testing.assert_array_equal(sample.columns["n"], np.arange(50))


def test_root_file_with_several_trees_and_jagged_branches(tmp_path: Path) -> None:
    import awkward
    import uproot

    path = tmp_path / "many.root"
    with uproot.recreate(path) as file:
        file.mktree("nominal", {"pt": "var * float64", "m": "float64"}).extend(
            {"pt": awkward.Array([[1.0, 2.0], []]), "m": np.array([1.0, 2.0])}
        )
        file.mktree("jes_up", {"m": "float64"}).extend({"m": np.array([3.0, 4.0])})
    with pytest.raises(ValueError, match=r"'many.root' has 2 trees, choose one .*\['nominal', 'jes_up'\]"):
        Sample.read(path)
    with pytest.raises(ValueError, match=r"no tree 'jer_up'; its trees are \['nominal', 'jes_up'\]"):
        Sample.read(path, tree="jer_up")
    with pytest.raises(ValueError, match=r"branch 'pt' of 'many.root' does not hold one number per event"):
        Sample.read(path, tree="nominal", columns=["pt"])
    assert Sample.read(path, tree="jes_up").columns["m"].tolist() == [3.0, 4.0]
    assert "pt" not in Sample.read(path, tree="nominal").columns


@pytest.mark.skipif(not ZMUMU.is_file(), reason=f"needs {ZMUMU.name}")
def test_real_root_file() -> None:
    sample = Sample.read(ZMUMU)
    assert sample.n_events == 2304
    assert "Type" not in sample.columns  # text
    columns = {name: sample.columns[name] for name in ("E1", "E2", "M")}
    momentum = sum(sum(sample.columns[f"p{axis}{muon}"] for muon in (1, 2)) ** 2 for axis in "xyz")
    # The mass follows from the four-vectors: the columns are the right ones (rounding of printed digits: 1e-3).
    np.testing.assert_allclose(np.sqrt((columns["E1"] + columns["E2"]) ** 2 - momentum), columns["M"], rtol=1e-3)


def test_every_form_gives_the_same_sample(events: pd.DataFrame) -> None:
    import zfit

    expected = events[["y2", "y1"]].to_numpy(dtype=float)
    array = events[["y1", "y2"]].to_numpy(dtype=float)
    data = zfit.Data.from_numpy(obs=["y1", "y2"], array=array, weights=events["w"].to_numpy(), name="observed")
    forms = {
        "frame": as_sample(events, ["y2", "y1"], weights="w"),
        "dict": as_sample({name: events[name].tolist() for name in events}, ["y2", "y1"], weights="w"),
        "array of weights": as_sample(events, ["y2", "y1"], weights=events["w"].to_numpy()),
        "zfit": as_sample(data, ["y2", "y1"]),
        "sample": as_sample(as_sample(events, ["y1", "y2"], weights="w"), ["y2", "y1"]),
        "nullable": as_sample(events.convert_dtypes(), ["y2", "y1"], weights="w"),
    }
    for form, sample in forms.items():
        assert list(sample.columns) == ["y2", "y1"], form
        np.testing.assert_array_equal(sample.array(["y2", "y1"]), expected, err_msg=form)
        np.testing.assert_array_equal(sample.weights, events["w"], err_msg=form)
    assert forms["zfit"].name == "observed"


def test_sizes() -> None:
    sample = Sample({"y": np.zeros(3)}, weights=np.array([2.0, 1.0, -1.0]))
    assert (sample.n_events, sample.sum_weights) == (3, 2.0)
    assert sample.effective_size == pytest.approx(4 / 6, rel=1e-15)
    unweighted = Sample({"y": np.zeros(3)})
    assert (unweighted.sum_weights, unweighted.effective_size) == (3.0, 3.0)
    float32 = Sample({"y": np.zeros(2**25)}, weights=np.ones(2**25, dtype=np.float32))
    assert float32.effective_size == 2**25  # sums run in float64


def test_array_selects_rows_and_columns() -> None:
    sample = Sample({"a": np.arange(5), "b": np.arange(5) * 0.5})
    assert sample.array(["b", "a"], slice(1, 3)).tolist() == [[0.5, 1.0], [1.0, 2.0]]
    assert sample.array(["b"], np.array([4, 0])).tolist() == [[2.0], [0.0]]
    assert sample.array([], np.array([4, 0])).shape == (2, 0)
    assert sample.array(["a"]).dtype == np.float64


def test_memory_maps_are_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.arange(10.0))
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    assert as_sample({"y": mapped}, ["y"]).columns["y"] is mapped


BAD_DATA = [
    ({"a": [1.0]}, {}, r"'data' has no column 'y1'; its columns are 'a'"),
    (
        {"y1": [1.0, np.nan, np.inf]},
        {},
        r"2 of 3 events of 'data' are NaN or infinite in column 'y1': row 1: nan, row 2",
    ),
    ({"y1": [1.0, 2.0], "w": [1.0]}, {"weights": "w"}, r"differ in length: \{'y1': 2, 'the weights': 1\}"),
    ({"y1": [[1.0, 2.0]]}, {}, r"column 'y1' of 'data' has shape \(1, 2\)"),
    ({"y1": [1.0]}, {"weights": "w"}, r"'data' has no column 'w'"),
    ({"y1": [1.0, 2.0]}, {"weights": [1.0, np.nan]}, r"1 of 2 events of 'data' are NaN or infinite in the weights"),
    ({"y1": [1.0, 2.0]}, {"weights": [1.0], "name": "jes_up"}, r"columns of 'jes_up' differ in length"),
    ({"y1": [1.0, 2.0]}, {"weights": 3.0}, r"column 'the weights' of 'data' has shape \(\)"),
    ({"y1": 1.0}, {}, r"column 'y1' of 'data' has shape \(\)"),
    ({"y1": [2**53 + 1]}, {}, r"column 'y1' of 'data' has integers up to 9007199254740993, .*beyond 2.53"),
    ({"y1": np.array([2**64 - 1], np.uint64)}, {}, "integers up to 18446744073709551615"),
    ({"y1": [-(2**63)]}, {}, "integers up to 9223372036854775808"),
    ({"y1": [1.0, -1e200]}, {}, r"column 'y1' of 'data' reaches 1e\+200, the square of which overflows"),
    ({"y1": np.array([1e4000], np.longdouble)}, {}, "NaN or infinite in column 'y1'"),
    ({"y1": [1.0, 2.0]}, {"weights": [1e308, 1e308]}, r"the weights of 'data' reaches 1e\+308"),
    (
        {"y1": [1.0, 2.0]},
        {"weights": [1e-310, 0.0]},
        "weights of 'data' are at most 1e-310, the square of which is zero",
    ),
]


@pytest.mark.parametrize(("data", "options", "message"), BAD_DATA)
def test_bad_data(data: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_sample(data, ["y1"], **options)


def test_data_may_be_empty_and_sum_to_anything() -> None:
    for empty in ({"y1": []}, pd.DataFrame({"y1": []}), {"y1": np.zeros(0)}):
        sample = as_sample(empty, ["y1"])
        assert (sample.n_events, sample.sum_weights, sample.effective_size) == (0, 0.0, 0.0)
        assert sample.array(["y1"]).shape == (0, 1)
    assert as_sample({"y1": []}, ["y1"], weights=[]).effective_size == 0.0
    assert as_sample({"y1": [1.0, 2.0]}, ["y1"], weights=[1.0, -2.0]).sum_weights == -1.0


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample({"y1": np.zeros(0)}, name="jes_up"), "'jes_up' has no events to learn from"),
        (Sample({"y1": np.zeros(2)}, np.array([1.0, -2.0])), "'sample' sum to -1; expected a positive sum"),
        (Sample({"y1": np.zeros(2)}, np.zeros(2)), "'sample' sum to 0; expected a positive sum"),
        (Sample({"y1": np.zeros(2)}, np.array([1.0, -1.0])), "'sample' sum to 0; expected a positive sum"),
        (Sample({"y1": np.zeros(11)}, np.append(np.full(10, 0.1), -0.9999)), "worth 9.1e-09 events"),
    ],
)
def test_nothing_is_learned_from_nothing(sample: Sample, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_trainable(sample)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"y1": ["a", "b"]}, r"column 'y1' of 'data' is not numeric"),
        (pd.DataFrame({"y1": ["a", "b"]}), r"column 'y1' of 'data' is not numeric"),
        ({"y1": [[1.0], [1.0, 2.0]]}, r"column 'y1' of 'data' is not numeric"),
        ({"y1": [1j, 2j]}, r"column 'y1' of 'data' is not numeric \(dtype complex128\)"),
        ({"y1": [1.0, None]}, r"is not numeric \(dtype object\)"),
        ({"y1": np.array(["2024-01-01"], dtype="datetime64[s]")}, r"is not numeric \(dtype datetime64\[s\]\)"),
        ({"y1": pd.to_timedelta([1.0], unit="s")}, r"is not numeric \(dtype timedelta64"),
        ({"y1": pd.Categorical([1, 2])}, r"is not numeric but a category"),
        ({"y1": np.zeros(1, dtype=[("a", float)])}, "is not numeric"),
        (None, "got NoneType"),
        ([{"y1": [1.0]}], "got list"),
        (3.0, "got float"),
        (np.zeros((3, 1)), r"expected a DataFrame, a dict of arrays, a zfit.Data, a Sample .* got ndarray"),
    ],
)
def test_bad_types(data: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_sample(data, ["y1"])


def hidden() -> dict[str, object]:
    """Columns of the numbers 1, (missing), 3, in every form in which the second one can hide."""
    import awkward
    import pyarrow

    return {
        "masked float": np.ma.array([1.0, np.nan, 3.0], mask=[False, True, False]),
        "masked integer": np.ma.array([1, 2**63 - 1, 3], mask=[False, True, False]),
        "masked value in range": np.ma.masked_equal([1.0, -9.0, 3.0], -9.0),
        "awkward option": awkward.Array([1.0, None, 3.0]),
        "awkward to_numpy": awkward.to_numpy(awkward.firsts(awkward.Array([[1, 2], [], [3]]))),
        "pandas Int64": pd.Series(pd.array([1, None, 3], dtype="Int64")),
        "pandas Float64": pd.array([1.0, None, 3.0], dtype="Float64"),
        "pandas boolean": pd.Series([True, None, False], dtype="boolean"),
        "pandas on Arrow": pd.Series([1, None, 3], dtype="int64[pyarrow]"),
        "Arrow": pyarrow.array([1, None, 3]),
        "Arrow in chunks": pyarrow.chunked_array([[1.0, None], [3.0]]),
    }


@pytest.mark.parametrize("form", hidden())
def test_missing_entries_are_never_values(form: str) -> None:
    column, y = hidden()[form], np.zeros(3)
    message = "1 of 3 entries of column '{}' of '{}' are missing .rows 1.: remove these events"
    with pytest.raises(ValueError, match=message.format("y1", "data")):
        as_sample({"y1": column}, ["y1"])
    with pytest.raises(ValueError, match=message.format("the weights", "data")):
        as_sample({"y1": y, "w": column}, ["y1"], weights="w")
    with pytest.raises(ValueError, match=message.format("the weights", "data")):
        as_sample({"y1": y}, ["y1"], weights=column)
    with pytest.raises(ValueError, match=message.format("y1", "sample")):
        Sample({"y1": column})
    assert as_sample({"y1": column, "y2": y}, ["y2"]).n_events == 3  # what is not needed does not matter


def test_masks_and_options_without_missing_entries_are_numbers() -> None:
    import awkward
    import pyarrow

    for column in (
        np.ma.array([1.0, 3.0]),
        awkward.Array([1.0, 3.0]),
        awkward.to_numpy(awkward.Array([1.0, None, 3.0])[[0, 2]]),
        pd.Series([1, 3], dtype="Int64"),
        pyarrow.array([1.0, 3.0]),
        [1.0, 3.0],
        np.array([1.0, 3.0], dtype=">f4"),
        np.array([1.0, 3.0], dtype=np.longdouble),
    ):
        values = as_sample({"y1": column}, ["y1"]).columns["y1"]
        assert type(values) is np.ndarray
        assert values.tolist() == [1.0, 3.0]


def test_integers_keep_their_digits() -> None:
    frame = pd.DataFrame({"y1": pd.array([2**53 - 1, 2**53], dtype="Int64")})
    assert as_sample(frame, ["y1"]).columns["y1"].tolist() == [2**53 - 1, 2**53]


def test_series_of_different_events_are_refused() -> None:
    frame = pd.DataFrame({"y1": [1.0, 2.0, 3.0], "w": [1.0, 2.0, 4.0]})
    shuffled = frame.w.sort_values(ascending=False)  # pandas would align these rows; by position they are others
    for data, weights in [(frame, shuffled), ({"y1": frame.y1, "w": shuffled}, "w")]:
        with pytest.raises(ValueError, match="'y1' and 'the weights' of 'data' have different pandas indices"):
            as_sample(data, ["y1"], weights=weights)
    assert as_sample(frame, ["y1"], weights=shuffled.to_numpy()).weights.tolist() == [4.0, 2.0, 1.0]


def test_relative_weights_of_any_size() -> None:
    """Weights of 1e-140 to 1e140, whose sums, squares and ratios are all finite."""
    for scale in (1e-140, 1.0, 1e140):
        sample = as_sample({"y": np.zeros(4)}, ["y"], weights=scale * np.array([1.0, -1.0, 2.0, 6.0]))
        np.testing.assert_allclose(sample.relative_weights(np.array([3, 1])), [3.0, -0.5], rtol=1e-14)
        assert sample.effective_size == pytest.approx(64 / 42, rel=1e-14)


def test_duplicate_columns() -> None:
    frame = pd.DataFrame([[1.0, 2.0]], columns=["y1", "y1"])
    with pytest.raises(ValueError, match="does the column appear twice"):
        as_sample(frame, ["y1"])
    with pytest.raises(ValueError, match="list of different names"):
        as_sample(frame, ["y1", "y1"])
    for columns in ("y1", b"y1", None, 1, {"y1"}, [1], [None], [["y1"]]):
        with pytest.raises(TypeError, match="columns= is a list of names; got"):
            as_sample(frame, columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros(3),), TypeError, "a mapping from names to arrays; got ndarray"),
        (("signal.root",), TypeError, "Files are read by Sample.read"),
        (([1.0],), TypeError, "got list"),
        ((None,), TypeError, "got NoneType"),
        (({"y": [1.0]}, "w"), TypeError, "takes the name of a column, 'w'"),
        (({"y": [1.0]}, None, 3), TypeError, "name= of a Sample is a string; got 3"),
        (({"y": ["a"]},), TypeError, "column 'y' of 'sample' is not numeric"),
        (({"y": [1.0]}, ["a"]), TypeError, "column 'the weights' of 'sample' is not numeric"),
        (({},), ValueError, "has no columns"),
        (({"y": 1.0},), ValueError, "has shape"),
        (({"y": [1.0]}, 2.0), ValueError, "has shape"),
        (({"y": [1.0]}, [1.0, 2.0]), ValueError, "differ in length"),
    ],
)
def test_bad_samples(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sample(*arguments)


def test_samples_are_made_of_arrays() -> None:
    for sample in (Sample({"y": [1, 2]}, [1, 3]), Sample(pd.DataFrame({"y": [1, 2]}), pd.Series([1, 3]))):
        assert sample.array(["y"], np.array([1])).tolist() == [[2.0]]
        assert sample.relative_weights(np.array([1])).tolist() == [1.5]


@pytest.mark.parametrize("events", [None, 3.0, [1.0], np.zeros(3), {"jes": 1}.items()])
def test_variations_need_events(events: object) -> None:
    with pytest.raises(TypeError, match=r"a variation needs events: a DataFrame, .*; got "):
        Variation(events, at={"jes": 1})


def test_bad_files(tmp_path: Path, events: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"unknown suffix '.h5'; supported are .root, .parquet, .pq, .csv"):
        Sample.read("signal.h5")
    with pytest.raises(ValueError, match="unknown suffix"):
        write_sample(events, tmp_path / "signal.h5")
    with pytest.raises(FileNotFoundError, match=r"no file .*signal.root"):
        Sample.read(tmp_path / "signal.root")
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_sample(events, tmp_path / "nowhere" / "signal.csv")
    for suffix, form in {".root": "ROOT", ".parquet": "Parquet", ".csv": "CSV"}.items():
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"\xff\xfe broken")
        with pytest.raises(ValueError, match=rf"cannot read .*broken{re.escape(suffix)}' as a {form} file"):
            Sample.read(path)
        write_sample(events, path)
        with pytest.raises(
            ValueError, match=rf"'broken{re.escape(suffix)}' has no column 'y3'; its columns are .*'y1'"
        ):
            as_sample(path, ["y3"])
    with pytest.raises(ValueError, match=r"tree='t' was given, but 'broken.csv' is a CSV file without trees"):
        Sample.read(tmp_path / "broken.csv", tree="t")


def test_text_columns_of_files(tmp_path: Path) -> None:
    path = tmp_path / "text.csv"
    pd.DataFrame({"y1": [1.0], "label": ["GG"]}).to_csv(path, index=False)
    assert list(Sample.read(path).columns) == ["y1"]
    with pytest.raises(TypeError, match=r"column 'label' of 'text\.csv' is not numeric"):
        Sample.read(path, columns=["label"])


@pytest.mark.parametrize("suffix", [".root", ".parquet", ".csv"])
def test_failed_write_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"signal{suffix}"
    write_sample(pd.DataFrame({"y1": [1.0]}), path)

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sample(pd.DataFrame({"y1": [2.0]}), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert Sample.read(path).columns["y1"].tolist() == [1.0]


def test_write_refuses_ambiguous_weights(tmp_path: Path) -> None:
    sample = Sample({"weight": np.array([70.0])}, weights=np.array([1.0]))
    with pytest.raises(ValueError, match="both weights and another column 'weight'"):
        write_sample(sample, tmp_path / "signal.csv")
    with pytest.raises(TypeError, match="expected a Sample or a DataFrame to write; got dict"):
        write_sample({"y1": [1.0]}, tmp_path / "signal.csv")  # type: ignore[arg-type]


def test_check_inside() -> None:
    sample = Sample({"y1": np.array([0.2, 1.2, 0.0]), "y2": np.array([-9.0, 0.0, 9.0])}, name="jes_up")
    check_inside(sample, {"y2": (-np.inf, np.inf)})
    check_inside(sample, {"y1": (-0.1, 1.3)})
    # The boundary itself is outside: the logarithm that maps the range to the real line diverges there.
    message = (
        r"2 of 3 events of 'jes_up' are not inside the range 0 < y1 < 1: row 1: 1.2, row 2: 0 .1 exactly on an edge: "
        r".*off_the_edges.*Cut .*ranges="
    )
    with pytest.raises(ValueError, match=message):
        check_inside(sample, {"y1": (0, 1)})
    with pytest.raises(ValueError, match="has no column 'z'"):
        check_inside(sample, {"z": (0, 1)})


def test_off_the_edges() -> None:
    unit = 2.0**-23
    cos = np.array([-1.0, 0.25, 1.0, 1.0, -1.5], np.float32)
    time = np.array([0.0, 1.0, 2.0, 3.0, 0.0])
    sample = Sample({"cos": cos, "t": time}, np.arange(5.0), "up").off_the_edges({"cos": (-1, 1), "t": (0, np.inf)})
    assert sample.columns["cos"].tolist() == [-1 + 2 * unit, 0.25, 1 - 2 * unit, 1 - 2 * unit, -1.5]
    assert sample.columns["t"].tolist() == [2 * unit, 1.0, 2.0, 3.0, 2 * unit]
    assert (sample.name, sample.weights.tolist()) == ("up", [0, 1, 2, 3, 4])
    check_inside(as_sample(sample, ["t"]), {"t": (0, np.inf)})
    far = Sample({"m": np.array([1000.0, 1000.5], np.float32)}).off_the_edges({"m": (1000, 1001)})
    check_inside(far, {"m": (1000, 1001)})  # float32 itself could not tell the moved value from the edge
    assert Sample({"m": np.zeros(2)}).off_the_edges({"m": (0, np.inf)}).columns["m"].tolist() == [unit, unit]
    with pytest.raises(ValueError, match="no column 'z'"):
        sample.off_the_edges({"z": (0, 1)})


def test_variation() -> None:
    single = Variation({"y": [1.0]}, at={"jes": -1})
    assert (single.at, single.name, single.is_joint) == ({"jes": -1.0}, "jes=-1", False)
    joint = Variation({"y": [1.0]}, at={"jes": 1, "jer": 0.5})
    assert (joint.name, joint.is_joint) == ("jes=+1, jer=+0.5", True)
    assert Variation("jes_up.root", at={"jes": np.int64(1)}, name="JES up").name == "JES up"


@pytest.mark.parametrize(
    ("at", "error", "message"),
    [
        ({}, ValueError, "a variation at the origin is the nominal sample"),
        ({"jes": 0}, ValueError, "a variation at the origin is the nominal sample"),
        ({"jes": 1, "jer": 0}, ValueError, "'jer' at 0.0; name only the nuisances that move"),
        ({"jes": np.nan}, ValueError, "'jes' at nan"),
        ({"jes": "up"}, TypeError, "needs a number for every nuisance"),
        ({"jes": "1"}, TypeError, "needs a number for every nuisance"),
        ({"jes": True}, TypeError, "needs a number for every nuisance"),
        ({"jes": None}, TypeError, "needs a number for every nuisance"),
        ({"jes": [1.0]}, TypeError, "needs a number for every nuisance"),
        ("jes", TypeError, "maps nuisance names to numbers"),
        (["jes"], TypeError, "maps nuisance names to numbers"),
        ({1: 1.0}, TypeError, "maps nuisance names to numbers"),
    ],
)
def test_bad_variations(at: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Variation({"y": [1.0]}, at=at)  # type: ignore[arg-type]


def test_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "uproot", None)
    with pytest.raises(ImportError, match=r'uproot is needed .* pip install "zfit_fnf\[io\]"'):
        write_sample(pd.DataFrame({"y1": [1.0]}), tmp_path / "signal.root")
    assert list(tmp_path.iterdir()) == []


def test_relative_weights_average_to_one():
    weighted = Sample({"y": np.arange(4.0)}, weights=np.array([1.0, -1.0, 2.0, 6.0]))
    np.testing.assert_allclose(weighted.relative_weights(np.array([3, 1])), [3.0, -0.5])
    np.testing.assert_array_equal(Sample({"y": np.arange(4.0)}).relative_weights(np.array([0, 2])), [1.0, 1.0])

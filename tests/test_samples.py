"""Events enter: every supported form gives the same numbers, and every mistake one clear error."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zfit_fnf.samples import Sample, Variation, as_sample, check_continuous, check_inside, check_trainable, write_sample

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
        (np.zeros((3, 1)), r"expected a DataFrame, a dict of arrays, a zfit.Data, a Sample .* got ndarray"),
    ],
)
def test_bad_types(data: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_sample(data, ["y1"])


def test_missing_numbers_of_nullable_columns_are_nan() -> None:
    frame = pd.DataFrame({"y1": pd.array([1, None], dtype="Int64")})
    with pytest.raises(ValueError, match="1 of 2 events of 'data' are NaN or infinite in column 'y1': row 1: nan"):
        as_sample(frame, ["y1"])


def test_duplicate_columns() -> None:
    frame = pd.DataFrame([[1.0, 2.0]], columns=["y1", "y1"])
    with pytest.raises(ValueError, match="does the column appear twice"):
        as_sample(frame, ["y1"])
    with pytest.raises(ValueError, match="list of different names"):
        as_sample(frame, ["y1", "y1"])
    with pytest.raises(ValueError, match="list of different names; got 'y1'"):
        as_sample(frame, "y1")


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
    with pytest.raises(ValueError, match=r"tree='t' was given, but 'broken.csv' is a CSV file"):
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
    message = r"2 of 3 events of 'jes_up' are not inside the range 0 < y1 < 1: row 1: 1.2, row 2: 0\. Cut .*ranges="
    with pytest.raises(ValueError, match=message):
        check_inside(sample, {"y1": (0, 1)})
    with pytest.raises(ValueError, match="has no column 'z'"):
        check_inside(sample, {"z": (0, 1)})


def point_masses() -> dict[str, tuple[np.ndarray, str]]:
    rng = np.random.default_rng(2)
    spike = rng.normal(size=2000)
    spike[:30] = 5.0
    return {
        "multiplicity": (rng.poisson(3, 5000), r"takes only \d+ integer values \(0 to"),
        "multiplicity as float": (rng.poisson(3, 40).astype(float), "takes only"),
        "overflow spike": (spike, r"is exactly 5 in 1\.5% of the events"),
        "half integers": (rng.integers(0, 20, 5000) / 2, "is exactly"),
        "constant": (np.full(10, 91.1876), r"is 91\.1876 in every event"),
        "multiplicity of a large sample": (rng.poisson(3, 300_000), "takes only"),
    }


@pytest.mark.parametrize("case", point_masses())
def test_point_masses_are_refused(case: str) -> None:
    values, message = point_masses()[case]
    with pytest.raises(ValueError, match=f"observable 'y' of 'ttbar' {message}.*cond=.*channels.*cut"):
        check_continuous(Sample({"y": values}, name="ttbar"), ["y"])


def test_continuous_columns_pass() -> None:
    rng = np.random.default_rng(3)
    spike = rng.normal(size=2000)
    spike[:20] = 5.0  # exactly 1 %
    columns = {
        "gauss": rng.normal(size=2000),
        "rounded": rng.normal(size=2000).round(2),  # at most 0.4 % expected in one value
        "float32": rng.normal(size=2000).astype(np.float32),
        "many integers": rng.integers(0, 100_000, 2000),
        "small spike": spike,
        "discrete condition": rng.poisson(3, 2000),
    }
    check_continuous(Sample(columns), [name for name in columns if name != "discrete condition"])
    check_continuous(Sample({"y": np.array([1.0, 2.0, 3.0])}), ["y"])


def test_variation() -> None:
    single = Variation({"y": [1.0]}, at={"jes": -1})
    assert (single.at, single.name, single.is_joint) == ({"jes": -1.0}, "jes=-1", False)
    joint = Variation({"y": [1.0]}, at={"jes": 1, "jer": 0.5})
    assert (joint.name, joint.is_joint) == ("jes=+1, jer=+0.5", True)
    assert Variation(None, at={"jes": 1}, name="JES up").name == "JES up"


@pytest.mark.parametrize(
    ("at", "error", "message"),
    [
        ({}, ValueError, "a variation at the origin is the nominal sample"),
        ({"jes": 0}, ValueError, "a variation at the origin is the nominal sample"),
        ({"jes": 1, "jer": 0}, ValueError, "'jer' at 0.0; name only the nuisances that move"),
        ({"jes": np.nan}, ValueError, "'jes' at nan"),
        ({"jes": "up"}, TypeError, "needs a number for every nuisance"),
        (["jes"], TypeError, "maps nuisance names to numbers"),
        ({1: 1.0}, TypeError, "maps nuisance names to numbers"),
    ],
)
def test_bad_variations(at: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Variation(None, at=at)  # type: ignore[arg-type]


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

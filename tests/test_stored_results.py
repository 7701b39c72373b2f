"""Results of fits in files, and with secret offsets."""

from __future__ import annotations

import json

import zfit
import numpy as np
import pandas as pd
import pytest

import zfit_fnf
from zfit_fnf.diagnostics import ValidationReport
from zfit_fnf.limit_scans import LimitScan
from zfit_fnf.limits import DiscoveryResult, FeldmanCousins, LimitResult, PoolWorth
from zfit_fnf.results import FitSummary
from zfit_fnf.scans import ContourScan, Impacts, ProfileScan
from zfit_fnf.storage.results import plain, read_envelope
from zfit_fnf.toys import ToyFits
from zfit_fnf.workspace.blinding import hidden, text_of
from zfit_fnf.yield_tables import YieldTable

CLS = ("observed", "expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2")
INDEX = pd.Index([0.0, 1.0, 2.0], name="mu")
FIT = FitSummary(
    pd.DataFrame(
        {"value": [1.3, 0.1], "error": [0.2, 0.9], "lower": [-0.2, np.nan], "upper": [0.3, np.nan]}
        | {"measured": [np.nan, 0.0], "label": ["mu", "jes"]},
        index=pd.Index(["mu", "jes"], name="parameter"),
    ),
    pd.DataFrame([[0.04, 0.01], [0.01, 0.81]], index=["mu", "jes"], columns=["mu", "jes"]),
    *(-12.3, True, "", {"SR": 100.0}),
)
RESULTS = {
    "fit": FIT,
    "profile": ProfileScan("mu", "mu", np.array([1.0, 1.3, 1.6]), np.array([2.0, 0.0, np.nan]), 1.3),
    "contour": ContourScan(("jes", "mu"), ("a", "b"), (np.arange(2.0), np.arange(3.0)), np.ones((2, 3)), (0.1, 1.3)),
    "limit": LimitResult(
        "mu",
        0.95,
        1.9,
        (0.1, 0.2, 0.3, 0.4, 0.5),
        1.3,
        pd.DataFrame(0.1, INDEX, CLS),
        "mu",
        200,
        0.05,
        PoolWorth(40.0, 0.002),
    ),
    "region": FeldmanCousins(
        *(("mu",), 0.9, 200, (1.3,)),
        pd.DataFrame(
            {"mu": [0.0, 1.3], "t": [9.0, 0.0], "p_value": [0.01, 1.0], "error": [0.007, 0.0], "inside": [False, True]}
        ),
    ),
    "limits": LimitScan("mu", "mass", 0.95, pd.DataFrame(0.3, [1.0, 2.0], CLS), ("mu", "$m$")),
    "significance": DiscoveryResult("mu", 0.0, 1.3, 5.0, 2.9e-7, 1.3, 4.8, 7.9e-7),
    "impacts": Impacts(
        *("mu", "mu", 0.2),
        pd.DataFrame({"value": [0.1], "down": [0.05], "up": [np.nan]}, index=["jes"]),
        pd.DataFrame({"frozen": [0.1], "impact": [0.17]}, index=["statistical"]),
    ),
    "yields": YieldTable(
        pd.DataFrame(
            {"prefit": [10.0, 10.0], "prefit_error": [1.0, 1.0], "postfit": [9.0, np.nan], "postfit_error": [2.0, 2.0]}
            | {"observed": [np.nan, 11.0]},
            index=pd.MultiIndex.from_tuples([("SR", "signal"), ("SR", "total")], names=["channel", "process"]),
        )
    ),
    "toys": ToyFits(
        {"mu": 1.3, "jes": 0.1},
        pd.DataFrame({"mu": [1.1, 1.5], "jes": [0.0, 0.5]}, index=pd.RangeIndex(2, name="toy")),
        pd.DataFrame({"mu": [0.2, 0.3], "jes": [0.9, np.nan]}, index=pd.RangeIndex(2, name="toy")),
        np.array([True, True]),
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_stored_and_read(name, tmp_path):
    result = RESULTS[name]
    zfit_fnf.save(result, tmp_path / "result.json")
    stored = zfit_fnf.load(tmp_path / "result.json")
    assert type(stored) is type(result)
    assert plain(stored.to_dict()) == plain(result.to_dict())
    assert str(stored) == str(result)
    envelope = read_envelope(tmp_path / "result.json")
    assert (envelope["kind"], envelope["versions"]["zfit"]) == (name, zfit.__version__)


def test_sorted_parameters_keep_their_covariance(tmp_path):
    path = tmp_path / "fit.json"
    zfit_fnf.save(FIT, path)
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(text), sort_keys=True), encoding="utf-8")  # as jq -S does: jes before mu
    stored = zfit_fnf.load(path)
    pd.testing.assert_frame_equal(stored.covariance, FIT.covariance)
    pd.testing.assert_frame_equal(stored.parameters, FIT.parameters, check_like=True)
    path.write_text(text.replace('"error": 0.2', '"eror": 0.2'), encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        zfit_fnf.load(path)


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="no result that zfit_fnf has written"):
        zfit_fnf.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match="no JSON"):
        zfit_fnf.load(tmp_path / "a.json")


@pytest.mark.parametrize("name", RESULTS)
def test_blinded_results_have_an_offset_and_the_right_widths(name):
    result, offset = RESULTS[name], 0.7
    shown = hidden(result, {"mu": offset})
    match name:
        case "fit":
            assert (shown.parameters["value"] - result.parameters["value"]).tolist() == pytest.approx([offset, 0.0])
            assert shown.parameters.drop(columns="value").equals(result.parameters.drop(columns="value"))
        case "profile":
            assert shown.values - shown.best_fit == pytest.approx(result.values - result.best_fit)
            assert shown.best_fit == pytest.approx(2.0)
        case "contour":
            assert shown.best_fit == pytest.approx((0.1, 2.0))
            assert [grid[0] for grid in shown.values] == pytest.approx([0.0, offset])
        case "limit":
            # Expected limits know nothing of the value; how far the observed one is above the best fit tells it.
            assert shown.expected == result.expected
            assert np.isnan([shown.observed, shown.best_fit]).all()
            assert "observed" not in shown.scan
            # Nor are there values that were tried for the observed one: CLs is 5 % where the expected limits are.
            assert np.diff(shown.scan.index) == pytest.approx(0.02)
            cls = [
                np.interp(at, shown.scan.index, shown.scan[name])
                for at, name in zip((0.1, 0.3, 0.5), CLS[1::2], strict=True)
            ]
            assert cls == pytest.approx([0.05] * 3, abs=0.005)  # between points, of a curve
        case "significance":
            missing = [shown.significance, shown.p_value, shown.expected_significance, shown.expected_p_value]
            assert np.isnan(missing).all()
            assert "hidden" in text_of(shown, {"mu": offset})
        case "yields":
            assert shown is result  # `Analysis.yields` knows what depends on what
        case "impacts":
            assert shown.table.equals(result.table)
        case "toys":
            assert shown.pulls()["mean"].tolist() == pytest.approx(result.pulls()["mean"].tolist(), nan_ok=True)
            assert shown.truth["mu"] == pytest.approx(2.0)
    assert hidden(result, {}) is result


@pytest.mark.parametrize("n_tests", [0, 1])
def test_a_verdict_without_tests_or_p_values_is_the_same_in_a_file(tmp_path, n_tests):
    """As of a simulation that is too small; printing what was read was an error."""
    names = ["process", "point", "test", "of", "value", "p_value", "problem"]
    table = pd.DataFrame([["p", "nominal", "integral", "y", 1.0, np.nan, False]][:n_tests], columns=names)
    report = ValidationReport((), ("not tested",), table.astype({"value": float, "p_value": float}), 0.01, 500)
    zfit_fnf.save(report, tmp_path / "report.json")
    stored = zfit_fnf.load(tmp_path / "report.json")
    assert str(stored) == str(report)
    assert stored.table["p_value"].dtype == float


def test_stored_verdicts_know_how_many_events_taught_and_tested(tmp_path):
    """Predicted biases are those for the events of each process, and their errors without the chances of the training."""
    names = ["process", "point", "test", "of", "value", "p_value", "taught_by", "n_data", "seen", "problem"]
    rows = [
        ["p", "a=+1", "closure", "a", 0.4, 0.1, 2000.0, 300, 0.4, False],
        ["p", "nominal", "normalisation", "integral", 1.0, 0.9, np.nan, 300, np.nan, False],
    ]
    report = ValidationReport((), (), pd.DataFrame(rows, columns=names), 0.01, 10_000)
    zfit_fnf.save(report, tmp_path / "report.json")
    stored = zfit_fnf.load(tmp_path / "report.json")
    pd.testing.assert_frame_equal(stored.table, report.table)
    pd.testing.assert_frame_equal(stored.biases, report.biases)
    assert "for 300 events" in str(stored)


@pytest.mark.parametrize(
    "result",
    [
        ProfileScan("mu", "mu", np.array([0.0, 1.0, 2.0]), np.array([np.inf, 0.0, np.nan]), 1.0),
        ContourScan(
            *(("a", "b"), ("a", "b"), (np.arange(2.0),) * 2), np.array([[0.0, np.inf], [1.0, np.nan]]), (0.0, np.nan)
        ),
        DiscoveryResult("mu", 0.0, 1.3, np.inf, 0.0, 1.3, np.nan, np.nan),
        LimitScan("mu", "mass", 0.95, pd.DataFrame([[-np.inf] * 3 + [np.inf] * 3], [1.0], CLS), ("mu", "$m$")),
        Impacts(
            "mu", "mu", np.inf, pd.DataFrame({"value": [-np.inf, np.nan], "down": [0.1, np.inf]}, index=["a", "b"])
        ),
    ],
    ids=["profile", "contour", "significance", "limits", "impacts"],
)
def test_infinite_numbers_are_kept_apart_from_those_that_are_none(result, tmp_path):
    """A likelihood of zero is no fit that did not converge; the file is JSON that anything reads."""
    zfit_fnf.save(result, tmp_path / "result.json")
    loaded = zfit_fnf.load(tmp_path / "result.json")
    assert repr(loaded.to_dict()) == repr(result.to_dict())
    assert str(loaded) == str(result)
    text = (tmp_path / "result.json").read_text()
    assert '"Infinity"' in text
    assert "NaN" not in text

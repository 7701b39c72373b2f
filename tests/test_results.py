"""Results of inference as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from zfit_fnf.limits import DiscoveryResult, LimitResult
from zfit_fnf.projections import PostfitBand, VariedSample
from zfit_fnf.samples import Sample
from zfit_fnf.scans import ContourScan, Impacts, ProfileScan
from zfit_fnf.toys import ToyFits

TABLE = pd.DataFrame({"value": [0.1, 0.2], "down": [-0.3, 0.4]}, index=["jes", "jer"])
VALUES = pd.DataFrame({"mu": [1.0, 2.0], "jes": [0.5, -0.5]}, index=pd.RangeIndex(2, name="toy"))
SCAN = pd.DataFrame({"observed": [1.0, 0.04], "expected": [0.9, 0.06]}, index=pd.Index([0.0, 2.0], name="mu"))
EVENTS = Sample({"y": np.array([0.1, 0.2])}, weights=np.array([1.0, 2.0]))
WEIGHTS = np.array([0.9, 1.9]), np.array([1.1, 2.2])

RESULTS = {
    "profile": ProfileScan("jes", "scale", np.array([0.0, 1.0]), np.array([0.0, 1.5]), 0.1),
    "contour": ContourScan(
        ("a", "b"),
        ("A", "B"),
        (np.array([0.0, 1.0]), np.array([2.0, 3.0])),
        np.array([[0.0, 1.0], [2.0, 3.0]]),
        (0.1, 2.1),
    ),
    "impacts": Impacts("mu", "strength", 0.2, TABLE),
    "limit": LimitResult("mu", 0.95, 1.5, (0.5, 0.7, 1.0, 1.4, 1.9), 0.2, SCAN, "strength"),
    "discovery": DiscoveryResult("mu", 0.0, 1.0, 3.0, 0.00135, 1.0, 2.5, 0.0062),
    "varied": VariedSample(EVENTS, {"jes": WEIGHTS}, {"jes": (WEIGHTS[1], WEIGHTS[0])}, {"jes": "scale"}),
    "band": PostfitBand(EVENTS, np.array([[0.1, 0.2], [0.0, 0.3]])),
    "toys": ToyFits({"mu": 1.0, "jes": 0.0}, VALUES, VALUES.abs() / 4, np.array([True, True])),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_results_are_frozen_printable_and_json(result):
    fields = [field.name for field in dataclasses.fields(result)]
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(content) == set(fields)
    assert str(result)
    assert not hasattr(result, "plot")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, fields[0], None)


def test_what_the_json_says():
    assert RESULTS["profile"].to_dict()["delta"] == [0.0, 1.5]
    assert RESULTS["contour"].to_dict()["values"] == [[0.0, 1.0], [2.0, 3.0]]
    assert RESULTS["impacts"].to_dict()["table"]["jer"] == {"value": 0.2, "down": 0.4}
    assert RESULTS["limit"].to_dict()["scan"] == {"mu": [0.0, 2.0], "observed": [1.0, 0.04], "expected": [0.9, 0.06]}
    assert RESULTS["varied"].to_dict()["nominal"] == {"y": [0.1, 0.2], "weight": [1.0, 2.0]}
    assert RESULTS["varied"].to_dict()["prefit"] == {"jes": [[0.9, 1.9], [1.1, 2.2]]}
    assert RESULTS["band"].to_dict()["shifts"] == [[0.1, 0.2], [0.0, 0.3]]
    assert RESULTS["toys"].to_dict()["values"] == {"mu": [1.0, 2.0], "jes": [0.5, -0.5]}


def test_what_the_tables_say():
    assert RESULTS["profile"].to_dataframe().to_dict("list") == {"value": [0.0, 1.0], "delta": [0.0, 1.5]}
    contour = RESULTS["contour"].to_dataframe()
    assert contour.to_dict("list") == {
        "a": [0.0, 0.0, 1.0, 1.0],
        "b": [2.0, 3.0, 2.0, 3.0],
        "delta": [0.0, 1.0, 2.0, 3.0],
    }
    pd.testing.assert_frame_equal(RESULTS["impacts"].to_dataframe(), TABLE)
    assert RESULTS["limit"].to_dataframe().loc["expected_m1", "limit"] == 0.7
    assert RESULTS["limit"].to_dataframe().loc["observed", "limit"] == 1.5
    assert RESULTS["discovery"].to_dataframe().loc["expected", "significance"] == 2.5
    varied = RESULTS["varied"].to_dataframe()
    assert list(varied) == ["y", "weight", *(f"jes_{s}_{d}" for s in ("prefit", "postfit") for d in ("down", "up"))]
    assert varied["jes_postfit_down"].tolist() == [1.1, 2.2]
    toys = RESULTS["toys"].to_dataframe()
    assert toys[("jes", "value")].tolist() == [0.5, -0.5]
    assert toys[("mu", "error")].tolist() == [0.25, 0.5]
    assert toys["valid"].tolist() == [True, True]


def test_a_parameter_of_a_contour_may_be_called_like_the_rise():
    """Its values were those of the rise of the likelihood."""
    grid = np.array([1.0, 2.0])
    scan = ContourScan(("delta", "mu"), ("a", "b"), (grid, grid), np.array([[0.0, 4.0], [9.0, 16.0]]), (1.0, 1.0))
    table = scan.to_dataframe()
    assert table["delta (parameter)"].tolist() == [1.0, 1.0, 2.0, 2.0]
    assert table["delta"].tolist() == [0.0, 4.0, 9.0, 16.0]

"""Plots of verdicts: what the artists hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from zfit_fnf import plotting
from zfit_fnf.calibration import CalibrationReport
from zfit_fnf.diagnostics import GoodnessOfFit, ValidationReport
from zfit_fnf.plotting.style import RED

VERDICT = ValidationReport(
    ("jes is off",),
    (),
    pd.DataFrame(
        [
            ("p(y)", "nominal", "classifier", "y", np.nan, 0.4, 5000, 0.1, False),
            ("p(y)", "jes=+1", "closure", "jes", 4.5, 1e-8, 5000, 4.5, True),
            ("p(y)", "jes=-1", "closure", "jes", -0.2, 0.7, 5000, 0.2, False),
        ],
        columns=["process", "point", "test", "of", "value", "p_value", "n_data", "seen", "problem"],
    ),
    0.01,
    5000,
)
FIT = GoodnessOfFit(
    0.03,
    pd.DataFrame(
        [("m", "classifier", "y", 0.1, 0.02), ("m", "saturated", "y", 9.0, 0.2)],
        columns=["channel", "test", "of", "statistic", "p_value"],
    ),
    pd.DataFrame(),
    pd.DataFrame(
        [("m", "y", 0.0, 1.0, 9, 10.0, -0.3), ("m", "y", 1.0, 3.0, 20, 10.0, 3.2)],
        columns=["channel", "of", "low", "high", "observed", "expected", "pull"],
    ),
    100,
)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_closure_is_a_bar_for_each_sample_and_nuisance(ax):
    plotting.closure(VERDICT, ax=ax)
    bars = ax.containers[-1].patches
    (line,) = ax.containers[-1].errorbar.lines[2]
    reaches = [np.ptp(segment[:, 0]) / 2.0 for segment in line.get_segments()]
    np.testing.assert_allclose(reaches, [4.5 / 5.7307, 0.2 / 0.3853], rtol=1e-3)  # p-values of so many of them
    assert [bar.get_width() for bar in bars] == [4.5, -0.2]
    assert to_hex(bars[0].get_facecolor()) == RED != to_hex(bars[1].get_facecolor())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["jes at jes=+1", "jes at jes=-1"]
    assert "5,000 events" in ax.get_xlabel()
    of_two = replace(VERDICT, table=VERDICT.table.assign(n_data=[5000, 4000, 1000]))
    plotting.closure(of_two, ax=ax)
    assert "1,000 to 4,000 events" in ax.get_xlabel()
    without = ValidationReport((), (), VERDICT.table[:1], 0.01, 5000)
    with pytest.raises(ValueError, match="no density depends on nuisances"):
        plotting.closure(without, ax=ax)


def test_p_values_are_sorted_by_what_is_expected(ax):
    plotting.p_values(VERDICT, ax=ax)
    points = {line.get_label(): line.get_xydata() for line in ax.lines[1:]}
    np.testing.assert_allclose(points["classifier"], [[0.5, 0.4]])
    np.testing.assert_allclose(points["closure"], [[1 / 6, 1e-8], [5 / 6, 0.7]])


def test_pulls_of_a_fit_are_in_its_bins(ax):
    plotting.goodness_of_fit(FIT, "y", ax=ax)
    (stairs,) = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    np.testing.assert_allclose(stairs.get_data().values, [-0.3, 3.2])
    np.testing.assert_allclose(stairs.get_data().edges, [0.0, 1.0, 3.0])
    assert "p = 0.03" in ax.get_title()
    with pytest.raises(ValueError, match="no single projection on 'x'"):
        plotting.goodness_of_fit(FIT, "x", ax=ax)


def test_shares_of_the_variance_add_up(ax):
    table = pd.DataFrame(
        {"error": [5.0], "statistical": [4.0], "constraints": [0.0], "simulation": [3.0]}, index=["mu"]
    )
    plotting.uncertainty_split(CalibrationReport(table, pd.DataFrame(), pd.Series(dtype=float), 1, 0, 2), ax=ax)
    widths = [container.patches[0].get_width() for container in ax.containers]
    assert widths == pytest.approx([16 / 25, 0.0, 9 / 25])

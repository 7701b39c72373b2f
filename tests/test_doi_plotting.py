"""Plots of distributions of interest: what the artists hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from zfit_fnf.doi.variations import Eigenvariations, MapVariations, Uncertainty
from zfit_fnf.plotting import doi as doi_plotting
from zfit_fnf.plotting.unfolding import spectrum
from zfit_fnf.scans import ContourScan

GRID = {"y1": [-1.0, 1.0], "y2": [0.0, 1.0, 2.0]}
AT = {"x": 0.5}
ROOT_HALF = np.sqrt(0.5)
MODES = Eigenvariations(
    ("jer", "jes"),
    np.array([0.2, -0.1]),
    np.array([0.5, 0.1]),
    ROOT_HALF * np.array([[1.0, 1.0], [1.0, -1.0]]),
)


@dataclass
class Shifting:
    """A variation whose map adds a constant and a part of the condition."""

    step: tuple[float, float]
    transfer: SimpleNamespace

    def to_simulation(self, data, *, process=None):
        assert process == "B"
        return data.assign(y1=data.y1 + self.step[0] + data.x, y2=data.y2 + self.step[1])


@pytest.fixture
def maps():
    """The best fit moves by (0.5 + x, 0); replicas scatter by 0.1 in y1; mode 0 moves y1 by 0.2 and mode 1 y2 by 0.05."""
    of = SimpleNamespace(transfer=SimpleNamespace(obs=("y1", "y2"), cond=("x",), n_maps=1))
    replicas = tuple(Shifting((0.5 + delta, 0.0), of) for delta in (-0.1, 0.0, 0.1))
    moved = tuple((Shifting((0.5 - a, -b), of), Shifting((0.5 + a, b), of)) for a, b in ((0.2, 0.0), (0.0, 0.05)))
    return MapVariations(Shifting((0.5, 0.0), of), replicas, MODES, moved)


@pytest.fixture
def ax():
    return Figure().subplots()


def arrows(ax):
    """Starts and steps of the arrows of each field, in the order drawn."""
    fields = [artist for artist in ax.collections if isinstance(artist, Quiver)]
    return [(field.XY, np.column_stack([field.U, field.V])) for field in fields]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return np.column_stack(found.get_data())


class TestVectorField:
    def test_arrows_go_from_data_to_simulation(self, ax, maps):
        doi_plotting.vector_field(maps, GRID, at=AT, process="B", truth=lambda table: table.assign(y2=7.0), ax=ax)
        (starts, truth), (_, fitted) = arrows(ax)
        np.testing.assert_allclose(starts, [[a, b] for a in GRID["y1"] for b in GRID["y2"]])
        np.testing.assert_allclose(truth, np.column_stack([np.zeros(6), 7.0 - starts[:, 1]]))
        np.testing.assert_allclose(fitted, [[1.0, 0.0]] * 6)
        assert (ax.get_xlabel(), ax.get_ylabel(), legend(ax)) == ("y1", "y2", ["truth", "best fit"])

    def test_a_slice_has_to_be_complete(self, ax, maps):
        with pytest.raises(ValueError, match=r"at= needs a value of \['x'\]"):
            doi_plotting.vector_field(maps, GRID, process="B", ax=ax)
        with pytest.raises(ValueError, match="2 of the observables"):
            doi_plotting.vector_field(maps, {"y1": [0.0], "x": [1.0]}, at={"y2": 0.0}, process="B", ax=ax)


class TestDisplacement:
    def draw(self, maps, ax):
        values = {"y1": np.linspace(-1.0, 1.0, 5)}
        at = {"x": 0.5, "y2": 0.0}
        return doi_plotting.displacement(maps, values, at=at, process="B", truth=lambda t: t.assign(y1=0.0), ax=ax)

    def test_bands_are_those_of_the_map(self, ax, maps):
        self.draw(maps, ax)
        np.testing.assert_allclose(line(ax, "best fit, one of many maps"), [[y, 1.0] for y in np.linspace(-1, 1, 5)])
        np.testing.assert_allclose(line(ax, "truth"), [[y, -y] for y in np.linspace(-1, 1, 5)], atol=1e-12)
        heights = [np.ptp(band.get_paths()[0].vertices[:, 1]) for band in ax.collections]
        # Replicas -0.1, 0 and 0.1 scatter by 0.1; the first eigenvector adds 0.2 in quadrature.
        np.testing.assert_allclose(heights, [2 * np.hypot(0.1, 0.2), 2 * 0.1])

    def test_without_members_there_is_no_statistical_band(self, ax, maps):
        self.draw(replace(maps, replicas=()), ax)
        assert legend(ax) == ["systematic", "best fit, one of many maps", "truth"]


class TestPostfit:
    columns = {"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 2.0, 3.0]}  # noqa: RUF012
    data = {  # noqa: RUF012
        "x": np.array([0.5] * 9 + [1.5] * 4),
        "y": np.array([0.5] * 4 + [1.5] * 5 + [2.5] * 4),
    }
    band = Uncertainty(
        np.array([[4.0, 3.0, 0.0], [1.0, 0.0, 9.0]]),
        np.zeros((2, 2, 3)),
        np.stack([np.full((2, 3), -4.0), np.full((2, 3), 4.0)])[None],
    )

    def test_each_panel_shows_its_bin(self):
        axes = doi_plotting.postfit(self.data, self.band, self.columns, axes=Figure().subplots(2, 2))
        for ax, counts in zip(axes[0], ([4, 5, 0], [0, 0, 4]), strict=True):
            np.testing.assert_allclose(ax.containers[0][0].get_ydata(), counts)
        assert [ax.get_title() for ax in axes[0]] == ["0 < x < 1", "1 < x < 2"]

    def test_pulls_have_the_total_uncertainty(self):
        axes = doi_plotting.postfit(self.data, self.band, self.columns, axes=Figure().subplots(2, 2))
        expected = np.array([0.0, 2.0 / np.sqrt(3.0 + 16.0), 0.0])
        np.testing.assert_allclose(axes[1, 0].containers[0][0].get_ydata(), expected)

    def test_other_bins_are_refused(self):
        with pytest.raises(ValueError, match="the band has"):
            doi_plotting.postfit(self.data, self.band, {**self.columns, "y": [0.0, 3.0]})


def test_likelihoods_show_both_scans_and_the_members(ax):
    grid = np.linspace(-3.0, 3.0, 13)
    delta = grid[:, None] ** 2 + grid**2
    profiled = ContourScan(("jes", "jer"), ("jes", "jer"), (grid, grid), delta / 1.44, (0.0, 0.0))
    fixed = replace(profiled, delta=delta)
    replicas = pd.DataFrame({"jer": [0.1, 0.2], "jes": [0.3, 0.4]})
    doi_plotting.likelihoods(fixed, profiled, replicas=replicas, truth={"jes": 0.5, "jer": 0.6}, ax=ax)

    reach = [contour.get_paths()[0].vertices[:, 0].max() for contour in ax.collections]
    radii = np.sqrt([2.30, 6.18])
    np.testing.assert_allclose(reach, [*radii, *(1.2 * radii)], rtol=1e-3)
    np.testing.assert_allclose(line(ax, "replicas"), [[0.3, 0.1], [0.4, 0.2]])
    np.testing.assert_allclose(line(ax, "truth"), [[0.5, 0.6]])
    with pytest.raises(ValueError, match="scan the same parameters"):
        doi_plotting.likelihoods(fixed, replace(profiled, parameters=("jes", "mu")), ax=ax)


def test_ellipse_projects_to_the_errors(ax):
    doi_plotting.ellipse(MODES, ("jes", "jer"), ax=ax)
    outline = line(ax, r"$1\sigma$")
    error = np.sqrt(0.5 * (0.5**2 + 0.1**2))
    np.testing.assert_allclose(np.ptp(outline, axis=0) / 2, [error, error], rtol=1e-3)
    np.testing.assert_allclose(outline.mean(axis=0), [-0.1, 0.2], atol=1e-2)
    ends = [text.xy for text in ax.texts if text.get_text() == ""]
    np.testing.assert_allclose(ends[0], [-0.1 + 0.5 * ROOT_HALF, 0.2 + 0.5 * ROOT_HALF])
    with pytest.raises(ValueError, match="were not fitted"):
        doi_plotting.ellipse(MODES, ("jes", "lumi"), ax=ax)


def test_morphing_is_the_change_with_a_mode(ax, maps):
    doi_plotting.morphing(maps, 0, GRID, at=AT, process="B", ax=ax)
    (_, down), (_, up) = arrows(ax)
    # 0.2 times 5 is as long as the spacing of the grid.
    np.testing.assert_allclose(up, [[1.0, 0.0]] * 6, atol=1e-12)
    np.testing.assert_allclose(down, [[-1.0, 0.0]] * 6, atol=1e-12)
    assert ax.get_title() == "1: +0.71 jer +0.71 jes\narrows $\\times$ 5"


def test_impacts_are_shifts_with_each_mode(ax):
    number = Uncertainty(np.array(3.0), np.array([2.9, 3.0, 3.1]), np.array([[-0.2, 0.3], [0.05, -0.04]]))
    doi_plotting.impacts(number, MODES, label="mean of y", ax=ax)
    widths = [[bar.get_width() for bar in bars] for bars in ax.containers]
    np.testing.assert_allclose(widths[0], [0.3, -0.04])
    np.testing.assert_allclose(widths[1], [-0.2, 0.05])
    np.testing.assert_allclose(widths[2], [0.2])  # twice the spread of the replicas
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["1: +0.71 jer +0.71 jes", "2: +0.71 jer \N{MINUS SIGN}0.71 jes", "statistical"]
    with pytest.raises(ValueError, match="one number"):
        doi_plotting.impacts(Uncertainty(np.zeros(2), np.zeros((0, 2)), np.zeros((2, 2, 2))), MODES, ax=ax)


def test_spectrum():
    """The spectrum with its bands, and the correlations between bins."""
    rng, edges = np.random.default_rng(1), np.array([0.0, 1.0, 3.0, 4.0])
    replicas = 100.0 + 5.0 * rng.normal(size=(30, 1)) * [1.0, 1.0, -1.0]
    band = Uncertainty(np.full(3, 100.0), replicas, np.zeros((1, 2, 3)), None, {"mass": edges})
    left, right = spectrum(band, expected=np.array([100.0, 110.0, 95.0]), label="generator")
    assert left.get_xlim() == (0.0, 4.0)
    assert [text for text in legend(left) if text.startswith("generator, chi2 = ")]
    np.testing.assert_allclose(
        right.collections[0].get_array(), np.outer([1.0, 1.0, -1.0], [1.0, 1.0, -1.0]), atol=1e-9
    )
    without = spectrum(replace(band, replicas=np.zeros((0, 3))), expected=np.full(3, 100.0))
    assert legend(without[0]) == ["systematic", "unfolded data", "expected"]
    with pytest.raises(ValueError, match=r"of one observable; the band has bins of \['a', 'b'\]"):
        spectrum(replace(band, edges={"a": edges, "b": edges}))
    with pytest.raises(ValueError, match=r"expected= has the shape \(2,\)"):
        spectrum(band, expected=np.zeros(2))

"""Plots: what the artists hold, not what it looks like."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from likelihoods import search
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from zfit_fnf import plotting
from zfit_fnf.densities.history import History
from zfit_fnf.limits import LimitResult
from zfit_fnf.minimize import Minuit
from zfit_fnf.plotting.projections import POSTFIT_BAND
from zfit_fnf.plotting.style import BLUE, current_axes, figure, legend_above
from zfit_fnf.projections import PostfitBand, VariedSample
from zfit_fnf.samples import Sample
from zfit_fnf.scans import ContourScan, Impacts, ProfileScan
from zfit_fnf.toys import ToyFits

EDGES = [0.0, 1.0, 2.0, 4.0]


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def fitted():
    """A fit with a signal strength and the nuisances shape and rate."""
    measurement = search(1, 300.0, 700.0, seed=5)
    result = Minuit().minimize(measurement.nll)
    result.hesse()
    return measurement, result


def errorbars(ax):
    """Points ``(n, 2)`` and half lengths of the vertical or horizontal bars of the only error bars."""
    (container,) = ax.containers
    points = np.column_stack(container[0].get_data())
    segments = np.array(container[2][0].get_segments())
    return points, np.ptp(segments, axis=1).max(axis=1) / 2


def steps(ax, label):
    """Heights of the step line with a label."""
    (patch,) = [patch for patch in ax.patches if patch.get_label() == label]
    return patch.get_data().values


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class TestProjection:
    data: ClassVar = {"x": np.array([0.2, 0.4, 0.6, 0.8, 1.5, 1.6, 1.7, 1.8, 1.9, 3.0])}  # 4, 5 and 1 events
    components: ClassVar = {
        "background": Sample({"x": np.array([0.5, 1.5, 1.5, 3.0])}, np.array([2.0, 1.0, 1.0, 3.0])),  # 2, 2 and 3
        "signal": Sample({"x": np.array([0.5, 1.5, 5.0])}, np.array([1.0, 2.0, 100.0])),  # 1, 2 and 0
    }

    def draw(self, data=None, **options):
        ax, ax_pulls = Figure().subplots(2)
        given = self.data if data is None else data
        plotting.projection(given, self.components, "x", bins=EDGES, ax=ax, ax_pulls=ax_pulls, **options)
        return ax, ax_pulls

    def test_data_have_root_n_errors(self):
        ax, _ = self.draw()
        points, errors = errorbars(ax)
        np.testing.assert_allclose(points, [[0.5, 4], [1.5, 5], [3.0, 1]])
        np.testing.assert_allclose(errors, np.sqrt([4, 5, 1]))

    def test_pulls_count_the_errors_of_data_and_model(self):
        _, ax_pulls = self.draw()
        points, errors = errorbars(ax_pulls)
        expected, model_variance = np.array([3.0, 4.0, 3.0]), np.array([4.0 + 1.0, 1.0 + 1.0 + 4.0, 9.0])
        np.testing.assert_allclose(points[:, 0], [0.5, 1.5, 3.0])
        np.testing.assert_allclose(points[:, 1], [1, 1, -2] / np.sqrt(expected + model_variance))
        np.testing.assert_allclose(errors, 1.0)

    def test_weighted_data_have_the_errors_of_their_weights(self):
        weights = np.full(10, 0.5)
        ax, ax_pulls = self.draw(weights=weights)
        points, errors = errorbars(ax)
        np.testing.assert_allclose(points[:, 1], [2, 2.5, 0.5])
        np.testing.assert_allclose(errors, 0.5 * np.sqrt([4, 5, 1]))
        variance = 0.5 * np.array([3, 4, 3]) + [5, 6, 9]
        np.testing.assert_allclose(errorbars(ax_pulls)[0][:, 1], [-1, -1.5, -2.5] / np.sqrt(variance))

    def test_components_are_stacked_in_order(self):
        ax, _ = self.draw()
        layers = [patch for patch in ax.patches if patch.get_label() in self.components]
        tops = {patch.get_label(): patch.get_data().values for patch in layers}
        np.testing.assert_allclose(tops["background"], [2, 2, 3])
        np.testing.assert_allclose(tops["signal"], [3, 4, 3])
        np.testing.assert_allclose(steps(ax, "model"), [3, 4, 3])
        assert labels(ax) == ["data", "model", "signal", "background"]

    def test_or_are_lines(self):
        ax, _ = self.draw(stack=False)
        np.testing.assert_allclose(steps(ax, "background"), [2, 2, 3])
        np.testing.assert_allclose(steps(ax, "signal"), [1, 2, 0])
        np.testing.assert_allclose(steps(ax, "model"), [3, 4, 3])

    def test_axes_are_labelled(self, ax):
        top, bottom = self.draw()
        assert (top.get_xlabel(), top.get_ylabel()) == ("", "events / bin")
        assert (bottom.get_xlabel(), bottom.get_ylabel()) == ("x", "pull")
        assert plotting.projection(self.data, self.components, "x", bins=(4, 0.0, 2.0), ax=ax) is ax
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "events / 0.5")
        assert ax.get_xlim() == (0.0, 2.0)

    @pytest.mark.parametrize("bins", [1, 2, 3, 7, 50])
    def test_a_number_of_bins_covers_all_data(self, ax, bins):
        plotting.projection(self.data, self.components, "x", bins=bins, ax=ax)
        points, _ = errorbars(ax)
        assert len(points) <= bins
        assert points[:, 1].sum() == 10

    @pytest.mark.parametrize(
        ("low", "high", "bins", "expected"),
        [
            (60.02, 119.97, 60, np.arange(60.0, 121.0, 1.0)),
            (60.02, 119.97, 25, np.arange(60.0, 122.5, 2.5)),
            (0.31, 0.68, 10, np.arange(0.3, 0.71, 0.05)),
            (-3.1e-4, 4.2e-4, 4, np.arange(-5e-4, 6e-4, 2.5e-4)),  # five bins of 2e-4 would be needed
        ],
    )
    def test_bins_are_round(self, ax, low, high, bins, expected):
        plotting.projection({"x": np.linspace(low, high, 500)}, self.components, "x", bins=bins, ax=ax)
        np.testing.assert_allclose(errorbars(ax)[0][:, 0], 0.5 * (expected[1:] + expected[:-1]), atol=1e-12)

    def test_units_and_labels(self, ax):
        plotting.projection(self.data, self.components, "x", bins=(4, 0.0, 2.0), label="$m$", unit="GeV", ax=ax)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("$m$ [GeV]", "events / 0.5 GeV")

    def test_a_logarithmic_axis_shows_the_smallest_bin(self, ax):
        plotting.projection(self.data, self.components, "x", bins=EDGES, log=True, ax=ax)
        assert ax.get_yscale() == "log"
        assert 0 < ax.get_ylim()[0] < 1  # the last bin has one event
        assert ax.get_ylim()[1] > 5

    def test_negative_sums_of_weights_are_shown(self):
        """They were below the axis."""
        ax, _ = self.draw(weights=np.r_[np.full(4, 0.5), np.full(5, -1.0), 1.0])
        points, _ = errorbars(ax)
        assert points[:, 1].min() == -5.0
        assert ax.get_ylim()[0] == pytest.approx(-6.0)
        negative = {"interference": Sample({"x": np.array([0.5])}, np.array([-7.0]))}
        ax = plotting.projection(self.data, negative, "x", bins=EDGES, ax=Figure().subplots())
        assert ax.get_ylim()[0] == pytest.approx(-8.4)

    @pytest.mark.parametrize("name", ["model", "data", "_hidden"])
    def test_components_have_names_of_their_own(self, ax, name):
        """The legend had the sum twice, and a line in place of the component."""
        plotting.projection(self.data, {name: self.components["signal"]}, "x", bins=EDGES, ax=ax)
        assert labels(ax) == ["data", "model", f"component {name}"]

    def test_what_cannot_be_drawn_is_said(self, ax):
        with pytest.raises(ValueError, match="with one at least"):
            plotting.projection(self.data, {}, "x", bins=EDGES, ax=ax)
        with pytest.raises(ValueError, match="bins=50 cover the events, and there are none"):
            plotting.projection({"x": np.zeros(0)}, self.components, "x", ax=ax)
        plotting.projection(self.data, self.components, "x", bins=np.int64(7), ax=ax)
        assert len(errorbars(ax)[0]) <= 7

    def test_chi_square_counts_the_bins_with_enough_expected_events(self, ax):
        components = {"all": Sample({"x": np.array([0.5, 1.5, 3.0])}, np.array([8.0, 6.0, 3.0]))}  # the last is too few
        plotting.projection(self.data, components, "x", bins=EDGES, ax=ax)
        chi_square = (4 - 8) ** 2 / (8 + 64) + (5 - 6) ** 2 / (6 + 36)
        p_value = np.exp(-chi_square / 2)  # of two degrees of freedom
        title = ax.get_legend().get_title().get_text()
        assert title == rf"$\chi^2$ / bins = {chi_square:.1f} / 2, p = {p_value:.2g}"

    @pytest.mark.parametrize(("weight", "n_bins"), [(0.01, 50), (1.5, 50), (10.0, 0)])
    def test_chi_square_of_weighted_data_of_the_model(self, weight, n_bins):
        """Of 50 bins with 12 expected: 1200, 8 or 1.2 events. In 20 data sets the mean is 50 +- 2.2."""
        rng, simulated = np.random.default_rng(1), np.linspace(0.0, 1.0, 50_000, endpoint=False)
        components = {"all": Sample({"x": simulated}, np.full(50_000, 600 / 50_000))}
        texts = []
        for _ in range(20):
            x = rng.uniform(0.0, 1.0, rng.poisson(600 / weight))
            ax = plotting.projection(
                Sample({"x": x}, np.full(len(x), weight)), components, "x", bins=(50, 0.0, 1.0), ax=Figure().subplots()
            )
            texts.append(ax.get_legend().get_title().get_text())
        found = [re.search(r"= (\S+) / (\d+),", text) for text in texts]
        if not n_bins:
            assert not any(found)
        else:
            assert {int(one[2]) for one in found} == {n_bins}
            share = weight / (weight + 600 / 50_000)  # of the variance, of which simulation on a grid has none
            assert np.mean([float(one[1]) for one in found]) == pytest.approx(n_bins * share, abs=7.0)

    def test_weights_of_both_signs_have_the_errors_of_the_events(self, ax):
        """A bin in which no event is has no pull, and one with two events does not count."""
        x = np.array([0.5] * 40 + [1.5] * 40 + [3.0] * 2)
        weights = np.r_[np.tile([1.0, -0.5], 40), [1.0, 1.0]]
        components = {"all": Sample({"x": np.linspace(0.01, 4.99, 4000)}, np.full(4000, 0.01))}
        ax_pulls = Figure().subplots()
        plotting.projection(
            Sample({"x": x}, weights), components, "x", bins=[0.0, 1.0, 2.0, 4.0, 5.0], ax=ax, ax_pulls=ax_pulls
        )
        points, _ = errorbars(ax_pulls)
        np.testing.assert_allclose(points[:, 0], [0.5, 1.5, 3.0])
        assert "/ 2, p" in ax.get_legend().get_title().get_text()

    def test_without_enough_events_there_is_no_chi_square(self, ax):
        plotting.projection(self.data, self.components, "x", bins=EDGES, ax=ax)
        assert ax.get_legend().get_title().get_text() == ""

    def test_the_band_adds_the_directions_in_quadrature(self, ax):
        events = Sample({"x": np.array([0.5, 1.5, 1.6, 3.0])}, np.array([3.0, 2.0, 2.0, 3.0]))  # 3, 4, 3 expected
        band = PostfitBand(events, np.array([[0.3, 0.1, 0.2, 0.0], [0.4, 0.2, -0.2, 0.5]]))
        plotting.projection(self.data, self.components, "x", bins=EDGES, band=band, ax=ax)
        (drawn,) = [patch for patch in ax.patches if patch.get_label() == POSTFIT_BAND]
        np.testing.assert_allclose(drawn.get_data().values, [3 + 0.5, 4 + 0.3, 3 + 0.5])
        np.testing.assert_allclose(drawn.get_data().baseline, [3 - 0.5, 4 - 0.3, 3 - 0.5])
        assert POSTFIT_BAND in labels(ax)

    @pytest.mark.parametrize("bins", [[1.0], [2.0, 1.0], (3, 1.0, 1.0), [[1.0, 2.0]]])
    def test_refuses_bins_that_are_none(self, bins):
        with pytest.raises(ValueError, match=r"bins= is a number, \(number, low, high\) or ascending edges; got"):
            plotting.projection(self.data, self.components, "x", bins=bins, ax=Figure().subplots())

    def test_refuses_a_column_that_is_not_there(self, ax):
        with pytest.raises(ValueError, match="'data' has no column 'y'"):
            plotting.projection(self.data, self.components, "y", ax=ax)

    def test_says_what_to_install(self, ax, monkeypatch):
        monkeypatch.setitem(sys.modules, "mplhep", None)
        with pytest.raises(ImportError, match=r'mplhep is needed for this: pip install "zfit_fnf\[plot\]"'):
            plotting.projection(self.data, self.components, "x", bins=EDGES, ax=ax)


class TestVariations:
    varied = VariedSample(
        nominal=Sample({"x": np.array([0.5, 1.5, 1.5, 9.0])}, np.array([2.0, 1.0, 3.0, 1.0])),  # 2, 4 and 0
        prefit={"jes": (np.array([1.0, 1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0, 1.0]))},  # 1, 2 and 3, 6
        postfit={"jes": (np.array([2.0, 2.0, 2.0, 1.0]), np.array([2.2, 2.0, 2.8, 1.0]))},  # 2, 4 and 2.2, 4.8
        labels={"jes": "jet energy scale"},
    )

    def test_draws_ratios_to_nominal(self, ax):
        assert plotting.variations(self.varied, "jes", "x", bins=EDGES, ax=ax) is ax
        np.testing.assert_allclose(steps(ax, r"pre-fit $+1\sigma$"), [1.5, 1.5, np.nan])
        np.testing.assert_allclose(steps(ax, r"pre-fit $-1\sigma$"), [0.5, 0.5, np.nan])
        np.testing.assert_allclose(steps(ax, "post-fit"), [1.05, 1.1, np.nan])
        (band,) = [patch for patch in ax.patches if patch.get_label() == "post-fit error"]
        np.testing.assert_allclose(band.get_data().baseline, [1.0, 1.0, np.nan])
        np.testing.assert_allclose(band.get_data().values, [1.1, 1.2, np.nan])

    def test_simulation_has_the_errors_of_independent_samples(self, ax):
        nominal, up = Sample({"x": np.full(100, 0.5)}), Sample({"x": np.full(40, 0.5)}, np.full(40, 2.0))
        plotting.variations(self.varied, "jes", "x", bins=EDGES, simulated=(nominal, nominal, up), ax=ax)
        ratios = {container.get_label(): container for container in ax.containers}
        for sign, ratio, error in (("+", 0.8, 0.8 * np.sqrt(1 / 40 + 1 / 100)), ("-", 1.0, np.sqrt(2 / 100))):
            container = ratios[rf"simulation ${sign}1\sigma$"]
            np.testing.assert_allclose(container[0].get_ydata(), [ratio])
            np.testing.assert_allclose(np.ptp(container[2][0].get_segments()[0][:, 1]), 2 * error)

    def test_is_labelled(self, ax):
        plotting.variations(self.varied, "jes", "x", bins=EDGES, ax=ax)
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x", "ratio to nominal", "jet energy scale")
        assert labels(ax) == [r"pre-fit $+1\sigma$", r"pre-fit $-1\sigma$", "post-fit", "post-fit error"]

    def test_refuses_an_unknown_nuisance(self, ax):
        with pytest.raises(ValueError, match=r"nuisance 'jer' was not varied; those that were are \['jes'\]"):
            plotting.variations(self.varied, "jer", "x", ax=ax)


class TestPulls:
    def test_best_fit_and_error_of_each_nuisance(self, ax, fitted):
        measurement, result = fitted
        assert plotting.pulls(result, measurement.nuisances, ax=ax) is ax
        points, errors = errorbars(ax)
        np.testing.assert_allclose(points[:, 0], [result.params[nu]["value"] for nu in measurement.nuisances])
        np.testing.assert_allclose(points[:, 1], [0, 1])
        np.testing.assert_allclose(errors, [result.params[nu]["hesse"]["error"] for nu in measurement.nuisances])

    def test_is_labelled(self, ax, fitted):
        measurement, result = fitted
        plotting.pulls(result, measurement.nuisances, ax=ax)
        assert ax.get_xlabel() == r"nuisance parameter [$\sigma$]"
        assert [text.get_text() for text in ax.get_yticklabels()] == ["shape", "rate"]
        bottom, top = ax.get_ylim()
        assert bottom > top  # the first is at the top
        bands = [patch.get_x() for patch in ax.patches]
        assert bands == [-2, -1]
        shown = result.params[measurement.nuisances[1]]
        assert f"{shown['value']:.2f} \\pm {shown['hesse']['error']:.2f}" in ax.texts[1].get_text()

    def test_takes_the_nuisances_of_the_fit(self, ax, fitted):
        measurement, result = fitted
        plotting.pulls(result, ax=ax)
        assert {text.get_text() for text in ax.get_yticklabels()} == {nu.name for nu in measurement.nuisances}

    def test_refuses_when_there_are_none(self, ax, fitted):
        with pytest.raises(ValueError, match="no nuisances to show"):
            plotting.pulls(fitted[1], [], ax=ax)


class TestImpacts:
    table = pd.DataFrame(
        {
            "value": [0.1, 0.0],
            "error": [1.0, 0.9],
            "pull": [-0.4, 0.0],
            "down": [-0.3, 0.1],
            "up": [0.25, -0.1],
            "prefit_down": [-0.3, 0.7],
            "prefit_up": [0.26, np.nan],
        },
        index=["jes", "jer"],
    )
    ranking = Impacts("mu", r"$\mu$", 0.5, table)

    def test_bars_and_error(self, ax):
        assert plotting.impacts(self.ranking, ax=ax) is ax
        band = ax.patches[0]
        assert (band.get_x(), band.get_width()) == (-0.5, 1.0)
        ends = {
            container.get_label(): [bar.get_x() + bar.get_width() if bar.get_width() else 0.0 for bar in container]
            for container in ax.containers
        }
        assert ends[r"post-fit $+1\sigma$"] == pytest.approx([0.25, -0.1])
        assert ends[r"post-fit $-1\sigma$"] == pytest.approx([-0.3, 0.1])
        assert ends[r"pre-fit $-1\sigma$"] == pytest.approx([-0.3, 0.7])
        assert ends[r"pre-fit $+1\sigma$"][0] == pytest.approx(0.26)
        assert [text.get_text() for text in ax.get_yticklabels()] == ["jes", "jer"]
        assert ax.get_xlabel() == r"$\Delta$ $\mu$"
        assert ax.get_xlim() == pytest.approx((-0.77, 0.77))  # the largest is the pre-fit one

    def test_post_fit_values_stand_beside(self, ax):
        plotting.impacts(self.ranking, ax=ax)
        assert [text.get_text() for text in ax.texts] == [r"$0.1 \pm 1.0$", r"$0.00 \pm 0.90$"]

    def test_pulls_have_their_own_axes(self, ax):
        ax_pulls = Figure().subplots()
        plotting.impacts(self.ranking, ax=ax, ax_pulls=ax_pulls)
        points, errors = errorbars(ax_pulls)
        np.testing.assert_allclose(points, [[-0.4, 0], [0.0, 1]])
        np.testing.assert_allclose(errors, [1.0, 0.9])
        assert [text.get_text() for text in ax_pulls.get_yticklabels()] == ["jes", "jer"]
        assert ax.get_ylim() == ax_pulls.get_ylim()

    def test_a_nuisance_without_an_error_has_its_value(self, ax):
        table = self.table.assign(error=[np.nan, 0.9], up=[np.nan, -0.1])
        plotting.impacts(replace(self.ranking, table=table), ax=ax)
        assert ax.texts[0].get_text() == "0.1"

    @pytest.mark.parametrize(("scale", "reach"), [(1.0, 0.77), (0.0, 1.0)])
    def test_a_parameter_at_its_limit_has_no_error(self, ax, scale, reach):
        """As in half of all searches without a signal; it may not move from there at all."""
        columns = self.table.filter(regex="down|up").columns
        table = self.table.assign(**(scale * self.table[columns]))
        plotting.impacts(replace(self.ranking, error=np.nan, table=table), ax=ax)
        assert ax.get_xlim() == pytest.approx((-reach, reach))
        assert "total error" not in [one.get_label() for one in ax.patches]


class TestCorrelation:
    def test_matrix_and_numbers(self, ax, fitted):
        measurement, result = fitted
        assert plotting.correlation(result, measurement.parameters, ax=ax) is ax
        matrix = result.correlation(measurement.parameters)
        (image,) = ax.images
        np.testing.assert_allclose(image.get_array(), matrix)
        assert image.get_clim() == (-1, 1)
        numbers = [float(text.get_text().replace("\N{MINUS SIGN}", "-")) for text in ax.texts]
        np.testing.assert_allclose(numbers, np.ravel(matrix), atol=0.00501)  # two digits

    def test_is_labelled(self, ax, fitted):
        measurement, result = fitted
        plotting.correlation(result, measurement.parameters, ax=ax)
        for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert [text.get_text() for text in ticks] == ["mu", "shape", "rate"]
        assert ax.figure.axes[-1].get_ylabel() == "correlation"


class TestProfile:
    values = np.linspace(0.2, 0.8, 13)
    scan = ProfileScan("jes", r"jes [$\sigma$]", values, ((values - 0.5) / 0.1) ** 2, 0.5)

    def test_curve_and_levels(self, ax):
        assert plotting.profile(self.scan, ax=ax) is ax
        curve = ax.lines[0].get_data()
        np.testing.assert_allclose(curve[1], ((curve[0] - 0.5) / 0.1) ** 2, atol=1e-9)  # a spline keeps a parabola
        horizontal = [line.get_ydata()[0] for line in ax.lines if np.ptp(line.get_ydata()) == 0]
        assert horizontal == [1, 4]
        assert [text.get_text() for text in ax.texts] == [r"$1\sigma$", r"$2\sigma$"]
        assert [list(line.get_xdata()) for line in ax.lines if line.get_label() == "best fit"] == [[0.5, 0.5]]

    def test_is_labelled(self, ax):
        plotting.profile(self.scan, ax=ax)
        assert (ax.get_xlabel(), ax.get_ylabel()) == (r"jes [$\sigma$]", r"$-2\,\Delta \ln L$")
        assert ax.get_ylim()[0] == 0

    def test_fits_that_failed_leave_a_gap(self, ax):
        """A spline went on where nothing is known, through the minimum."""
        delta = np.where(np.abs(self.values - 0.5) < 0.08, np.nan, self.scan.delta)
        plotting.profile(replace(self.scan, values=self.values[::-1], delta=delta), ax=ax)  # in any order
        x, y = ax.lines[0].get_data()
        unknown = np.abs(x - 0.5) < 0.1
        assert np.isnan(y[unknown]).all()
        np.testing.assert_allclose(y[~unknown], ((x[~unknown] - 0.5) / 0.1) ** 2, atol=1e-9)
        with pytest.raises(ValueError, match="converged at 1 of 13 points"):
            plotting.profile(replace(self.scan, delta=np.where(self.values < 0.22, 1.0, np.nan)), ax=ax)

    def test_leaves_out_what_did_not_converge(self, ax):
        delta = self.scan.delta.copy()
        delta[[0, 5]] = np.nan
        plotting.profile(replace(self.scan, delta=delta), ax=ax)
        curve = ax.lines[0].get_data()
        assert curve[0][0] == pytest.approx(self.values[1])
        np.testing.assert_allclose(curve[1], ((curve[0] - 0.5) / 0.1) ** 2, atol=1e-9)


class TestContour:
    x, y = np.linspace(-3.0, 3.0, 9), np.linspace(-1.5, 1.5, 9)
    scan = ContourScan(
        ("jes", "jer"), (r"jes [$\sigma$]", r"jer [$\sigma$]"), (x, y), x[:, None] ** 2 + (2 * y) ** 2, (0.0, 0.0)
    )

    def lines(self, ax):
        """Points on each contour line, by the style of the line."""
        drawn = [c for c in ax.collections if c.get_linewidth()[0] and len(c.get_edgecolor())]
        return [np.concatenate([path.vertices for path in c.get_paths()]) for c in drawn]

    def test_regions_are_where_the_likelihood_has_fallen(self, ax):
        assert plotting.contour(self.scan, ax=ax) is ax
        lines = self.lines(ax)
        assert len(lines) == 2
        for points, level in zip(lines, (2.30, 6.18), strict=True):
            # Lines are straight between points of the fine grid.
            np.testing.assert_allclose(points[:, 0] ** 2 + (2 * points[:, 1]) ** 2, level, atol=5e-3)

    def test_best_fit_and_truth(self, ax):
        plotting.contour(self.scan, truth={"jer": -0.5, "jes": 0.5, "mu": 1.0}, ax=ax)
        points = {line.get_label(): np.ravel(line.get_data()) for line in ax.lines}
        np.testing.assert_allclose(points["best fit"], [0, 0])
        np.testing.assert_allclose(points["truth"], [0.5, -0.5])
        assert labels(ax) == ["68.3 %", "95.4 %", "best fit", "truth"]
        (star,) = [line for line in ax.lines if line.get_label() == "truth"]
        assert to_hex(star.get_color()) == "#b2182b"

    def test_is_labelled(self, ax):
        plotting.contour(self.scan, ax=ax)
        assert (ax.get_xlabel(), ax.get_ylabel()) == (r"jes [$\sigma$]", r"jer [$\sigma$]")
        assert "truth" not in labels(ax)

    def test_a_point_that_did_not_converge_leaves_a_hole(self, ax):
        delta = self.scan.delta.copy()
        delta[4, 4] = np.nan
        plotting.contour(
            ContourScan(self.scan.parameters, self.scan.titles, self.scan.values, delta, (0.0, 0.0)), ax=ax
        )
        assert len(self.lines(ax)) == 2


class TestLimit:
    scan = pd.DataFrame(
        {
            "observed": [1.0, 0.4, 0.04],
            "expected_m2": [0.5, 0.1, 0.001],
            "expected_m1": [0.7, 0.2, 0.01],
            "expected": [0.8, 0.3, 0.02],
            "expected_p1": [0.9, 0.5, 0.06],
            "expected_p2": [0.95, 0.7, 0.1],
        },
        index=[0.0, 1.0, 2.0],
    )
    result = LimitResult("mu", 0.9, 1.5, (0.5, 0.7, 1.0, 1.4, 2.0), 0.25, scan, r"$\mu$")

    def test_curves_pass_through_the_scan(self, ax):
        assert plotting.limit(self.result, ax=ax) is ax
        for name in ("observed", "expected"):
            (line,) = [line for line in ax.lines if line.get_label() == name]
            np.testing.assert_allclose(line.get_ydata()[[0, -1]], self.scan[name].iloc[[0, -1]])
        band = ax.collections[0].get_paths()[0].vertices  # two standard deviations
        np.testing.assert_allclose(np.ptp(band[band[:, 0] == 0.0, 1]), 0.95 - 0.5)
        assert ax.lines[-1].get_ydata()[0] == pytest.approx(0.1)  # excluded below
        assert ax.get_xlabel() == r"$\mu$"

    def test_without_data_there_are_expected_limits(self, ax):
        plotting.limit(replace(self.result, scan=self.scan.drop(columns="observed")), ax=ax)
        assert labels(ax) == [r"expected $\pm 2\sigma$", r"expected $\pm 1\sigma$", "expected"]


class TestToyPulls:
    def test_counts_the_valid_fits(self, ax):
        values = pd.DataFrame({"mu": [1.0, 2.0, 2.4, 7.0]})
        fits = ToyFits({"mu": 2.0}, values, pd.DataFrame({"mu": [0.5] * 4}), np.array([True, True, True, False]))
        assert plotting.toy_pulls(fits, "mu", ax=ax) is ax
        heights = ax.patches[0].get_path().vertices[:, 1]
        assert heights.max() == 1
        assert labels(ax)[0] == "3 toys"
        edges = np.unique(ax.patches[0].get_path().vertices[heights > 0, 0])
        np.testing.assert_allclose(edges, [-2.0, -1.75, 0.0, 0.25, 0.75, 1.0])  # pulls -2, 0 and 0.8
        (curve,) = ax.lines
        assert curve.get_ydata().sum() == pytest.approx(3.0, rel=1e-5)  # the Gaussian has as many toys

    def test_those_outside_and_those_that_are_none_are_told(self, ax):
        values = pd.DataFrame({"mu": [1.0, 2.0, 9.0, 2.0]})
        errors = pd.DataFrame({"mu": [0.5, 0.5, 0.5, np.nan]})
        plotting.toy_pulls(ToyFits({"mu": 2.0}, values, errors, np.full(4, True)), "mu", ax=ax)
        assert labels(ax)[0] == "3 toys, 1 outside"
        with pytest.raises(ValueError, match="none of 4 fits is valid"):
            plotting.toy_pulls(ToyFits({"mu": 2.0}, values, errors, np.full(4, False)), "mu", ax=ax)
        with pytest.raises(ValueError, match="'nu' was not fitted"):
            plotting.toy_pulls(ToyFits({"mu": 2.0}, values, errors, np.full(4, True)), "nu", ax=ax)


def test_contours_of_few_points_and_of_half_a_truth(ax):
    grid = np.linspace(-1.0, 1.0, 3)
    delta = 4.0 * np.add.outer(grid**2, grid**2)
    scan = ContourScan(("a", "b"), ("a", "b"), (grid, grid), delta, (0.0, 0.0))
    x, y, fine = plotting.fits.smooth(scan)
    np.testing.assert_allclose(fine, 4.0 * np.add.outer(x**2, y**2), atol=1e-9)
    with pytest.raises(ValueError, match=r"truth= lacks \['b'\]"):
        plotting.contour(scan, truth={"a": 0.0}, ax=ax)


def test_training_history(ax):
    history = History("flow", [10, 20, 30], [1.5, 1.2, 1.0], [1.6, 1.3, 1.4], best_step=20)
    assert plotting.training(history, ax=ax) is ax
    lines = {line.get_label(): line.get_data() for line in ax.lines}
    np.testing.assert_allclose(lines["training"], [[10, 20, 30], [1.5, 1.2, 1.0]])
    np.testing.assert_allclose(lines["validation (averaged weights)"][1], [1.6, 1.3, 1.4])
    assert lines["kept"][0] == [20, 20]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "negative log-density [nats/event]")


# --- recipe: a plot ---------------------------------------------------------------------------------------------------


def toy_errors(fits, parameter, *, ax=None):
    """Histogram of the HESSE errors of one parameter in toys, of the valid fits."""
    ax = current_axes() if ax is None else ax
    ax.hist(fits.errors[parameter][fits.valid], histtype="stepfilled", color=BLUE, label="valid fits")
    ax.set(xlabel=f"error of {parameter}", ylabel="toys")
    legend_above(ax)
    return ax


def test_a_plot_draws_on_the_given_axes(ax):
    errors = pd.DataFrame({"mu": [0.5, 0.6, 0.7, 9.0]})
    fits = ToyFits({"mu": 2.0}, errors, errors, np.array([True, True, True, False]))
    assert toy_errors(fits, "mu", ax=ax) is ax
    outline = ax.patches[0].get_path().vertices
    assert outline[:, 0].max() == pytest.approx(0.7)  # the fit that is not valid is left out
    assert (ax.get_xlabel(), labels(ax)) == ("error of mu", ["valid fits"])


# --- end of the recipe ------------------------------------------------------------------------------------------------


def test_figures_are_saved_when_they_are_complete(tmp_path):
    with figure(tmp_path / "a.png", (2, 1)) as fig:
        fig.subplots().plot([0, 1])
        assert not list(tmp_path.iterdir())
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "b.png", (2, 1)):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_importing_needs_no_plotting_library():
    code = (
        "import sys; sys.modules.update(matplotlib=None, mplhep=None); import zfit_fnf.plotting as p\n"
        "try: p.profile(None)\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "zfit_fnf[plot]"' in done.stdout

"""Plots of data, models and fit results: results in, axes out; nothing is fitted or scanned here.

Every function draws on the Matplotlib axes that it is given, or on the current ones, and returns them.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zfit  # before tensorflow, which it silences
import numpy as np
from scipy.interpolate import CubicSpline, RectBivariateSpline
from scipy.stats import chi2
from zfit.result import FitResult

from ..common.optional import require
from ..param import Nuisance
from ..projections import PostfitBand, VariedSample, fitted_nuisances, hesse_error
from ..samples import Sample, as_sample
from ..scans import ContourScan, Impacts, ProfileScan
from ..toys import current_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Bins = int | tuple[int, float, float] | Sequence[float] | np.ndarray

REGIONS = {"68.3 %": 2.30, "95.4 %": 6.18}
"""Probability of a region of two parameters, and twice the rise of the negative log-likelihood at its edge."""

_FILLS = ("#92bfdb", "#fdc086", "#a8d8a0", "#c7b5de", "#e9d18b", "#d0d0d0")
INK, RED, BLUE, GREEN, YELLOW = "#1a1a1a", "#b2182b", "#2166ac", "#85d17c", "#ffdf7f"
POSTFIT_BAND = "post-fit error"
_FINE = 200  # points along a smooth line
_ENOUGH_EXPECTED = 5  # events in a bin, from which on its pull is nearly Gaussian


def projection(
    data: Any,
    components: Mapping[str, Any],
    column: str,
    *,
    bins: Bins = 50,
    weights: str | np.ndarray | None = None,
    stack: bool = True,
    log: bool = False,
    label: str | None = None,
    unit: str | None = None,
    band: PostfitBand | None = None,
    ax: Axes | None = None,
    ax_pulls: Axes | None = None,
) -> Axes:
    r"""Distribution of the data in one column with the model, and pulls below.

    The pull of a bin is :math:`(n - m) / \sqrt{m + \sigma_m^2}`, with :math:`n` events in data, :math:`m` expected ones
    and :math:`\sigma_m` the error of :math:`m` from the finite size of the model's samples. For weighted data the sum of
    their squared weights takes the place of the first :math:`m`. The legend has :math:`\chi^2`, the sum of the squared
    pulls of the bins with at least five expected events, and its p-value for as many degrees of freedom as there are such
    bins: fitted parameters are not counted off, so that the p-value of a good fit tends to be large.

    Args:
        data: The data: anything that `zfit_fnf.samples.as_sample` takes.
        components: Weighted events of each component, by its label, from `zfit_fnf.projections.component_samples` or
            from simulation.
        column: Which column.
        bins: At most how many bins of a round width (1, 2, 2.5 or 5 times a power of ten) cover the data,
            ``(number, low, high)``, or the edges.
        weights: Weights of the data: a column or an array; by default their own.
        stack: Whether the components are stacked, the first at the bottom; otherwise they are lines below their sum.
        log: Whether the axis of the counts is logarithmic.
        label: Text for the observable; by default the name of the column.
        unit: Unit of the observable, such as ``"GeV"``.
        band: Post-fit uncertainty of the model, from `zfit_fnf.projections.postfit_band`, drawn around its sum.
        ax: Where to draw; by default in the current figure.
        ax_pulls: Where to draw the pulls; by default they are not drawn.

    Returns:
        The axes of the distribution.

    Raises:
        ImportError: If a plotting library is missing, with what to install.
        ValueError: If a column is missing, or the bins are none.

    Example:
        >>> fig, (ax, ax_pulls) = plt.subplots(2, sharex=True, height_ratios=[3, 1])
        >>> parts = component_samples(model, params=result.values)
        >>> projection(data, parts, "mass", bins=(60, 60, 120), ax=ax, ax_pulls=ax_pulls)
    """
    ax = current_axes() if ax is None else ax
    sample = as_sample(data, [column], weights=weights)
    edges = _edges(bins, sample.columns[column])
    parts = {label: _histogram(as_sample(part, [column]), column, edges) for label, part in components.items()}
    observed, expected = _histogram(sample, column, edges), functools.reduce(operator.add, parts.values())
    statistical = expected.values() if sample.weights is None else observed.variances()
    variance = expected.variances() + statistical
    _draw_model(parts, expected, stack, ax)
    if band is not None:
        _draw_band(band, column, edges, expected.values(), ax)
    _draw_data(observed, ax)
    title = observable_title(column if label is None else label, unit)
    ax.set(
        xlabel=title if ax_pulls is None else "", ylabel=f"events / {per_bin(edges, unit)}", xlim=(edges[0], edges[-1])
    )
    _scale_counts(ax, np.concatenate([expected.values(), observed.values()]), log)
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    order = ["data", "model", *([POSTFIT_BAND] if band is not None else []), *reversed(parts)]  # as they lie on top
    fit = chi_square(observed.values(), expected.values(), variance)
    ax.legend([handles[name] for name in order], order, ncols=2, frameon=False, title=str(fit), title_fontsize="small")
    if ax_pulls is not None:
        draw_pulls(edges, observed.values(), expected.values(), variance, ax_pulls)
        ax_pulls.set(xlabel=title, xlim=(edges[0], edges[-1]))
    return ax


def variations(
    varied: VariedSample,
    nuisance: Nuisance | str,
    column: str,
    *,
    bins: Bins = 20,
    simulated: tuple[Any, Any, Any] | None = None,
    label: str | None = None,
    unit: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What one nuisance does to the distribution of a column: pre-fit at ±1 sigma, and post-fit within its error.

    Both are ratios to the prediction with all nuisances at their observed values. The simulation that the effect was
    learned from is drawn beside it as ratios of independent samples, with their statistical errors.

    Args:
        varied: The prediction, from `zfit_fnf.projections.vary`.
        nuisance: The nuisance, or its name.
        column: Which column.
        bins: At most how many bins of a round width between the 0.5 % quantiles, ``(number, low, high)``, or the edges.
        simulated: Simulated events of what ``varied`` describes with the nuisance at -1, 0 and +1 standard deviation;
            by default none are drawn.
        label: Text for the observable; by default the name of the column.
        unit: Unit of the observable, such as ``"GeV"``.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If a plotting library is missing, with what to install.
        ValueError: If the nuisance or the column is not there.

    Example:
        >>> parts = component_samples(model, params=result.values)
        >>> variations(vary(model, result, parts), "jes", "mass")
    """
    ax = current_axes() if ax is None else ax
    name = nuisance if isinstance(nuisance, str) else nuisance.name
    if name not in varied.labels:
        raise ValueError(f"nuisance {name!r} was not varied; those that were are {list(varied.labels)}")
    nominal = as_sample(varied.nominal, [column])
    edges = _edges(bins, nominal.columns[column], tails=0.005)
    reference = _histogram(nominal, column, edges).values()

    def ratio(weights: np.ndarray) -> np.ndarray:
        counts = _histogram(Sample(nominal.columns, weights), column, edges).values()
        return np.divide(counts, reference, out=np.full(len(counts), np.nan), where=reference > 0)

    down, up = map(ratio, varied.prefit[name])
    low, high = map(ratio, varied.postfit[name])
    ax.axhline(1.0, color="grey", linewidth=0.8)
    ax.stairs(up, edges, baseline=None, color=RED, linewidth=1.5, label=r"pre-fit $+1\sigma$")
    ax.stairs(down, edges, baseline=None, color=BLUE, linewidth=1.5, linestyle="dashed", label=r"pre-fit $-1\sigma$")
    ax.stairs(0.5 * (low + high), edges, baseline=None, color=INK, linewidth=1.5, label="post-fit")
    ax.stairs(high, edges, baseline=low, fill=True, color=INK, alpha=0.35, linewidth=0, label="post-fit error")
    if simulated is not None:
        _draw_simulated_ratios(simulated, column, edges, ax)
    title = observable_title(column if label is None else label, unit)
    ax.set(xlabel=title, ylabel="ratio to nominal", title=varied.labels[name], xlim=(edges[0], edges[-1]))
    ax.legend(frameon=False)
    return ax


def pulls(result: FitResult, nuisances: Sequence[Nuisance] | None = None, *, ax: Axes | None = None) -> Axes:
    """Best fit and post-fit error of each nuisance, over the bands of one and two pre-fit standard deviations.

    Args:
        result: The fit, with errors by `FitResult.hesse`.
        nuisances: Which to show, from top to bottom; by default all that were fitted.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with what to install.
        ValueError: If a nuisance was not fitted or has no HESSE error, or there is none.

    Example:
        >>> result.hesse()
        >>> pulls(result)
    """
    ax = current_axes() if ax is None else ax
    shown = fitted_nuisances(result) if nuisances is None else list(nuisances)
    if not shown:
        raise ValueError("there are no nuisances to show: the fit has none made by zfit_fnf.nuisance")
    errors = np.array([hesse_error(result, nuisance) for nuisance in shown])
    values = np.array([float(result.params[nuisance]["value"]) for nuisance in shown])
    rows = np.arange(len(shown))
    ax.axvspan(-2, 2, color=YELLOW, linewidth=0, label=r"pre-fit $\pm 2\sigma$")
    ax.axvspan(-1, 1, color=GREEN, linewidth=0, label=r"pre-fit $\pm 1\sigma$")
    ax.axvline(0, color="white", linewidth=1)
    ax.errorbar(values, rows, xerr=errors, fmt="o", color=INK, markersize=5, capsize=3, label="post-fit")
    for row, value, error in zip(rows, values, errors, strict=True):
        ax.annotate(_rounded(value, error), (1.01, row), xycoords=("axes fraction", "data"), va="center")
    reach = 1.1 * max(2.0, float(np.max(np.abs(values) + errors)))
    ax.set(xlabel=r"nuisance parameter [$\sigma$]", xlim=(-reach, reach), ylim=(len(shown) - 0.4, -0.6))
    ax.set_yticks(rows, [str(nuisance.label) for nuisance in shown])
    ax.tick_params(axis="y", length=0)
    legend_above(ax)
    return ax


def impacts(ranking: Impacts, *, ax: Axes | None = None, ax_pulls: Axes | None = None) -> Axes:
    r"""Impacts of nuisances on a parameter, the largest on top, over the error of the parameter; their pulls beside.

    Filled bars are post-fit impacts, with the nuisance fixed one post-fit error away; hollow ones are pre-fit impacts, at
    one standard deviation of the auxiliary measurement. The pull is the distance of the best fit to what the auxiliary
    measurement found, and its error bar the post-fit error: where it is shorter than one, the data constrain the nuisance.

    Args:
        ranking: Made by `zfit_fnf.scans.impacts`.
        ax: Where to draw; by default in the current figure.
        ax_pulls: Where to draw the pulls, which share the rows of ``ax``; by default they are not drawn.

    Returns:
        The axes of the impacts.

    Raises:
        ImportError: If Matplotlib is missing, with what to install.

    Example:
        >>> fig, (ax_pulls, ax) = plt.subplots(1, 2, width_ratios=[2, 3], layout="constrained")
        >>> impacts(zfit_fnf.scans.impacts(nll, result, mu), ax=ax, ax_pulls=ax_pulls)
    """
    ax = current_axes() if ax is None else ax
    table, rows = ranking.table, np.arange(len(ranking.table))
    ax.axvspan(-ranking.error, ranking.error, color=GREEN, alpha=0.4, linewidth=0, label="total error")
    ax.axvline(0, color=INK, linewidth=0.8)
    for side, sign, colour in (("up", "+", "C3"), ("down", "-", "C0")):
        ax.barh(rows, table[side], height=0.6, color=colour, alpha=0.7, label=rf"post-fit ${sign}1\sigma$")
        if (column := f"prefit_{side}") in table:
            label = rf"pre-fit ${sign}1\sigma$"
            ax.barh(rows, table[column], height=0.75, fill=False, edgecolor=colour, linewidth=1.2, label=label)
    sizes = table.filter(regex="^(prefit_)?(down|up)$").abs().max(axis=None)
    reach = 1.1 * max(ranking.error, float(np.nan_to_num(sizes)))
    ax.set(xlabel=rf"$\Delta$ {ranking.title}", xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    ax.tick_params(axis="y", length=0)
    for row, value, error in zip(rows, table["value"], table["error"], strict=True):
        ax.annotate(_rounded(value, error), (1.01, row), xycoords=("axes fraction", "data"), va="center")
    legend_above(ax, columns=3)
    if ax_pulls is None:
        ax.set_yticks(rows, list(table.index))
    else:
        ax.set_yticks([])
        _draw_nuisance_pulls(table, ax_pulls)
    return ax


def correlation(result: FitResult, params: Sequence[zfit.Parameter] | None = None, *, ax: Axes | None = None) -> Axes:
    """Matrix of the correlations of the fitted parameters, from their covariance by HESSE.

    Args:
        result: The fit.
        params: Which parameters; by default all that were fitted.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with what to install.

    Example:
        >>> correlation(result)
    """
    ax = current_axes() if ax is None else ax
    shown = list(result.params) if params is None else list(params)
    matrix = np.asarray(result.correlation(shown))
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
        ax.text(column, row, text, ha="center", va="center", color="white" if abs(value) > 0.6 else INK)
    labels = [str(parameter.label) for parameter in shown]
    ax.set_xticks(range(len(shown)), labels, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(shown)), labels)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, label="correlation", shrink=0.9)
    return ax


def profile(scan: ProfileScan, *, ax: Axes | None = None) -> Axes:
    """Profile likelihood of one parameter, with the rise at one and two standard deviations.

    Args:
        scan: The scan, from `zfit_fnf.scans.profile`; a cubic spline is drawn through its points.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with what to install.

    Example:
        >>> profile(zfit_fnf.scans.profile(nll, result, jes))
    """
    ax = current_axes() if ax is None else ax
    good = np.isfinite(scan.delta)
    values, delta = scan.values[good], scan.delta[good]
    fine = np.linspace(values[0], values[-1], _FINE)
    ax.plot(fine, CubicSpline(values, delta)(fine), color=BLUE, linewidth=1.8, label="profile likelihood")
    ax.plot(values, delta, ".", color=BLUE)
    ax.axvline(scan.best_fit, color=INK, linestyle="dotted", linewidth=1.2, label="best fit")
    for n_sigma in (1, 2):
        ax.axhline(n_sigma**2, color="grey", linewidth=0.9, linestyle="dashed")
        ax.annotate(rf"${n_sigma}\sigma$", (0.985, n_sigma**2 + 0.12), xycoords=("axes fraction", "data"), ha="right")
    ax.set(xlabel=scan.title, ylabel=r"$-2\,\Delta \ln L$", xlim=(values[0], values[-1]), ylim=(0, None))
    legend_above(ax)
    return ax


def contour(scan: ContourScan, *, truth: Mapping[str, float] | None = None, ax: Axes | None = None) -> Axes:
    """Regions of two parameters with 68.3 and 95.4 % probability, and the best fit.

    Args:
        scan: The scan, from `zfit_fnf.scans.contour`; a cubic spline is drawn through its points.
        truth: True values of the parameters, by name, where they are known.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with what to install.

    Example:
        >>> contour(zfit_fnf.scans.contour(nll, result, (jes, jer)), truth={"jes": 0.5, "jer": -0.5})
    """
    ax = current_axes() if ax is None else ax
    x, y, delta = smooth(scan)
    for (label, level), style in zip(REGIONS.items(), ("solid", "dashed"), strict=True):
        ax.contourf(x, y, delta.T, levels=[-np.inf, level], colors=[BLUE], alpha=0.18)
        ax.contour(x, y, delta.T, levels=[level], colors=[BLUE], linestyles=style, linewidths=1.5)
        ax.plot([], [], color=BLUE, linestyle=style, label=label)
    ax.plot(*scan.best_fit, "+", color=INK, markersize=11, markeredgewidth=1.8, linestyle="none", label="best fit")
    if truth is not None:
        point = [truth[name] for name in scan.parameters]
        ax.plot(*point, "*", color=RED, markersize=11, linestyle="none", label="truth")
    ax.set(xlabel=scan.titles[0], ylabel=scan.titles[1])
    legend_above(ax)
    return ax


def _draw_nuisance_pulls(table: pd.DataFrame, ax: Axes) -> None:
    """Pull of each nuisance with its post-fit error, over the bands of one and two pre-fit standard deviations."""
    rows = np.arange(len(table))
    ax.axvspan(-2, 2, color=YELLOW, linewidth=0)
    ax.axvspan(-1, 1, color=GREEN, linewidth=0)
    ax.axvline(0, color="white", linewidth=1)
    pulls, errors = table["pull"].to_numpy(float), table["error"].to_numpy(float)
    ax.errorbar(pulls, rows, xerr=errors, fmt="o", color=INK, markersize=4, capsize=3)
    reach = 1.1 * max(2.0, float(np.max(np.nan_to_num(np.abs(pulls) + errors), initial=0.0)))
    ax.set(xlabel=r"pull [$\sigma$]", xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(rows, list(table.index))
    ax.tick_params(axis="y", length=0)


# --- what other plots share -----------------------------------------------------------------------------------------


def draw_pulls(edges: np.ndarray, observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, ax: Axes) -> None:
    """Pulls of the bins whose variance is known, over the bands of one and two standard deviations."""
    centres = 0.5 * (edges[1:] + edges[:-1])
    known = variance > 0
    pull = (observed - expected)[known] / np.sqrt(variance[known])
    ax.axhspan(-2, 2, color=YELLOW, linewidth=0)
    ax.axhspan(-1, 1, color=GREEN, linewidth=0)
    ax.axhline(0, color="white", linewidth=1)
    ax.errorbar(centres[known], pull, yerr=1.0, fmt="o", color=INK, markersize=3, linewidth=1)
    reach = max(4.0, 1.2 * float(np.max(np.abs(pull), initial=0.0)) + 1.0)
    ax.set(ylabel="pull", ylim=(-reach, reach), yticks=[-2, 0, 2])


def smooth(scan: ContourScan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A finer grid of a scan, by cubic splines; the scan itself where a point of it is missing."""
    (x, y), delta = scan.values, scan.delta
    if not np.isfinite(delta).all():
        return x, y, delta
    spline = RectBivariateSpline(x, y, delta)
    x, y = np.linspace(x[0], x[-1], _FINE), np.linspace(y[0], y[-1], _FINE)
    return x, y, spline(x, y)


def per_bin(edges: np.ndarray, unit: str | None = None) -> str:
    """What an axis of counts is per: the width of the bins, if that is the same for all."""
    widths = np.diff(edges)
    if not np.allclose(widths, widths[0]):
        return "bin"
    return f"{widths[0]:.3g}" + ("" if unit is None else f" {unit}")


def observable_title(label: str, unit: str | None) -> str:
    """Title of the axis of an observable, with its unit in brackets."""
    return label if unit is None else f"{label} [{unit}]"


@dataclass(frozen=True)
class ChiSquare:
    r"""Agreement of binned data with a model, :math:`\chi^2 = \sum (n - m)^2 / \sigma^2`; prints as text for a plot.

    Attributes:
        value: The sum over the bins.
        n_bins: Number of bins with enough expected events for it, which count as degrees of freedom.
    """

    value: float
    n_bins: int

    @property
    def p_value(self) -> float:
        """Probability of a larger value if the model is true; NaN without bins."""
        return float(chi2.sf(self.value, self.n_bins)) if self.n_bins else float("nan")

    def __str__(self) -> str:
        if not self.n_bins:
            return ""
        return rf"$\chi^2$ / bins = {self.value:.1f} / {self.n_bins}, p = {self.p_value:.2g}"


def chi_square(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> ChiSquare:
    """Agreement of counts with a model, over the bins with at least five expected events.

    Args:
        observed: Sums of weights of the data.
        expected: Those of the model.
        variance: Variance of their difference.
    """
    enough = (expected >= _ENOUGH_EXPECTED) & (variance > 0)
    return ChiSquare(float(np.sum((observed - expected)[enough] ** 2 / variance[enough])), int(enough.sum()))


def legend_above(ax: Axes, *, columns: int | None = None) -> None:
    """A legend that covers nothing, by default in one row."""
    ncols = len(ax.get_legend_handles_labels()[0]) if columns is None else columns
    ax.legend(ncols=ncols, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, columnspacing=1.2)


# --- histograms -----------------------------------------------------------------------------------------------------


def _histogram(sample: Sample, column: str, edges: np.ndarray) -> Any:
    hist = require("hist", extra="plot")
    histogram = hist.Hist(hist.axis.Variable(edges, name=column), storage=hist.storage.Weight())
    return histogram.fill(sample.columns[column], weight=sample.weights)


def _edges(bins: Bins, values: np.ndarray, *, tails: float = 0.0) -> np.ndarray:
    """Bin edges; a mere number of bins spans the values, apart from a fraction in each tail."""
    if isinstance(bins, int) and bins > 0 and len(values):
        return _round_edges(bins, *np.quantile(values, [tails, 1.0 - tails]))
    if isinstance(bins, tuple) and len(bins) == 3 and isinstance(bins[0], int):
        edges = np.linspace(bins[1], bins[2], bins[0] + 1)
    else:
        edges = np.asarray(bins, float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"bins= is a number, (number, low, high) or ascending edges; got {bins!r}")
    return edges


def _round_edges(most: int, low: float, high: float) -> np.ndarray:
    """Edges at multiples of the smallest round width with which at most ``most`` bins contain both ends."""
    if most == 1:
        return np.array([low, np.nextafter(high, np.inf)])  # multiples may need two
    span = max(high - low, 1e-9 * max(abs(low), abs(high), 1.0))
    for exponent in itertools.count(math.floor(math.log10(span / most))):
        for digits in (1.0, 2.0, 2.5, 5.0):
            width = digits * 10.0**exponent
            first, last = math.floor(low / width), math.floor(high / width) + 1
            if last - first <= most:
                return width * np.arange(first, last + 1)
    raise AssertionError("two bins are wide enough at last")


def _scale_counts(ax: Axes, counts: np.ndarray, log: bool) -> None:
    """Axis of counts with room for the legend; a logarithmic one starts below the smallest bin that is not empty."""
    highest = float(counts.max(initial=0.0)) or 1.0
    if not log:
        ax.set_ylim(0, 1.6 * highest)
        return
    lowest = float(counts[counts > 0].min(initial=highest))
    ax.set_yscale("log")
    ax.set_ylim(0.5 * lowest, highest * (highest / lowest) ** 0.4 * 3.0)


def _draw_band(band: PostfitBand, column: str, edges: np.ndarray, expected: np.ndarray, ax: Axes) -> None:
    error = band.error(column, edges)
    low, high = expected - error, expected + error
    style: dict[str, Any] = {
        "fill": True,
        "facecolor": "none",
        "edgecolor": INK,
        "alpha": 0.5,
        "hatch": "////",
        "linewidth": 0,
    }
    ax.stairs(high, edges, baseline=low, label=POSTFIT_BAND, **style)


def _draw_simulated_ratios(simulated: tuple[Any, Any, Any], column: str, edges: np.ndarray, ax: Axes) -> None:
    down, nominal, up = (_histogram(as_sample(sample, [column]), column, edges) for sample in simulated)
    centres, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    for moved, colour, side, shift in ((up, RED, "+", 0.08), (down, BLUE, "-", -0.08)):
        known = (nominal.values() > 0) & (moved.values() > 0)
        counts, reference = moved.values()[known], nominal.values()[known]
        ratio = counts / reference
        error = ratio * np.sqrt(moved.variances()[known] / counts**2 + nominal.variances()[known] / reference**2)
        label = rf"simulation ${side}1\sigma$"
        style: dict[str, Any] = {"fmt": "o", "markersize": 3, "linewidth": 1, "color": colour, "label": label}
        ax.errorbar((centres + shift * width)[known], ratio, yerr=error, **style)


def _draw_model(parts: Mapping[str, Any], total: Any, stack: bool, ax: Axes) -> None:
    histplot = require("mplhep", extra="plot").histplot
    colours = [_FILLS[index % len(_FILLS)] for index in range(len(parts))]
    common = {"ax": ax, "flow": "none", "yerr": False, "label": list(parts), "color": colours}
    if stack:
        histplot(list(parts.values()), stack=True, histtype="fill", **common)
    else:
        histplot(list(parts.values()), linewidth=2, **common)
    histplot(total, ax=ax, flow="none", yerr=False, color=INK, linewidth=1.2, label="model")


def _draw_data(observed: Any, ax: Axes) -> None:
    histplot = require("mplhep", extra="plot").histplot
    error = np.sqrt(observed.variances())
    histplot(observed, histtype="errorbar", yerr=error, color=INK, markersize=4, label="data", ax=ax, flow="none")


# --- small things ---------------------------------------------------------------------------------------------------


def _rounded(value: float, error: float) -> str:
    """Value and error with two digits of the error; the value alone where there is none."""
    if not error > 0:
        return f"{value:.3g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return rf"${value:.{digits}f} \pm {error:.{digits}f}$"


from . import doi  # noqa: E402, F401 (its plots are drawn with those above)

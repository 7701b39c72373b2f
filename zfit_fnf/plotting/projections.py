"""Plots of distributions: data with the model, and the effect of nuisances."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.optional import require
from ..param import Nuisance
from ..projections import PostfitBand, VariedSample
from ..samples import Sample, as_sample
from .histograms import Bins, bin_edges, chi_square, counting_variance, draw_pulls, histogram, observable_title, per_bin
from .style import BLUE, FILLS, INK, RED, current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["POSTFIT_BAND", "draw_data", "draw_model", "projection", "scale_counts", "variations"]

POSTFIT_BAND = "post-fit error"


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
    and :math:`\sigma_m` the error of :math:`m` from the finite size of the model's samples. For weighted data the first
    :math:`m` is multiplied by the mean weight :math:`\sum w^2 / \sum w` of the events in the bin; if some weights are negative,
    :math:`\sum w^2` takes its place. The legend has :math:`\chi^2`, the sum of the squared pulls of the bins with at
    least five expected events (:math:`m` over the mean weight), and its p-value for as many degrees of freedom as there are
    such bins: fitted parameters are not counted off, so that the p-value of a good fit tends to be large.

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
        ImportError: If a plotting library is missing, with the command that installs it.
        ValueError: If a column is missing, the bins are none, or there is no component.

    Example:
        >>> fig, (ax, ax_pulls) = plt.subplots(2, sharex=True, height_ratios=[3, 1])
        >>> parts = component_samples(model, params=result.values)
        >>> projection(data, parts, "mass", bins=(60, 60, 120), ax=ax, ax_pulls=ax_pulls)
    """
    components = _labelled(components)
    ax = current_axes() if ax is None else ax
    sample = as_sample(data, [column], weights=weights)
    edges = bin_edges(bins, sample.columns[column])
    parts = {label: histogram(as_sample(part, [column]), column, edges) for label, part in components.items()}
    observed, expected = histogram(sample, column, edges), functools.reduce(operator.add, parts.values())
    statistical, n_events = counting_variance(sample, column, edges, expected.values())
    variance = np.where(statistical > 0, expected.variances() + statistical, 0.0)
    draw_model(parts, expected, stack, ax)
    if band is not None:
        _draw_band(band, column, edges, expected.values(), ax)
    draw_data(observed, ax)
    title = observable_title(column if label is None else label, unit)
    ax.set(
        xlabel=title if ax_pulls is None else "", ylabel=f"events / {per_bin(edges, unit)}", xlim=(edges[0], edges[-1])
    )
    scale_counts(ax, np.concatenate([expected.values(), observed.values()]), log)
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    order = ["data", "model", *([POSTFIT_BAND] if band is not None else []), *reversed(parts)]  # as they lie on top
    fit = chi_square(observed.values(), expected.values(), variance, n_events)
    ax.legend([handles[name] for name in order], order, ncols=2, frameon=False, title=str(fit), title_fontsize="small")
    if ax_pulls is not None:
        draw_pulls(edges, observed.values(), expected.values(), variance, ax_pulls)
        ax_pulls.set(xlabel=title, xlim=(edges[0], edges[-1]))
    return ax


def _labelled(components: Any) -> dict[str, Any]:
    """Components by labels of their own: some are taken in the legend, and Matplotlib hides what begins with an underscore."""
    if not isinstance(components, Mapping) or not components:
        raise ValueError(f"components is a mapping from labels to events, with one at least; got {components!r:.100}")
    taken = ("data", "model", POSTFIT_BAND)
    return {
        f"component {name}" if name in taken or name.startswith("_") else name: part
        for name, part in ((str(name), part) for name, part in components.items())
    }


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
    """Effect of one nuisance on the distribution of a column: pre-fit at ±1 sigma, and post-fit within its error.

    Both are ratios to the prediction with all nuisances at their observed values. The simulation that the effect was
    learned from is drawn beside it as ratios of independent samples, with their statistical errors.

    Args:
        varied: The prediction, from `zfit_fnf.projections.vary`.
        nuisance: The nuisance, or its name.
        column: Which column.
        bins: At most how many bins of a round width between the 0.5 % quantiles, ``(number, low, high)``, or the edges.
        simulated: Simulated events of the model in ``varied`` with the nuisance at -1, 0 and +1 standard deviation;
            by default none are drawn.
        label: Text for the observable; by default the name of the column.
        unit: Unit of the observable, such as ``"GeV"``.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If a plotting library is missing, with the command that installs it.
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
    edges = bin_edges(bins, nominal.columns[column], tails=0.005)
    reference = histogram(nominal, column, edges).values()

    def ratio(weights: np.ndarray) -> np.ndarray:
        counts = histogram(Sample(nominal.columns, weights), column, edges).values()
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


def scale_counts(ax: Axes, counts: np.ndarray, log: bool) -> None:
    """Axis of counts with room for the legend; a logarithmic one starts below the smallest bin that is not empty.

    Sums of weights of both signs may be negative, and are shown too.
    """
    highest = float(counts.max(initial=0.0)) or 1.0
    if not log:
        ax.set_ylim(1.2 * float(counts.min(initial=0.0)), 1.6 * highest)
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
    down, nominal, up = (histogram(as_sample(sample, [column]), column, edges) for sample in simulated)
    centres, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    for moved, colour, side, shift in ((up, RED, "+", 0.08), (down, BLUE, "-", -0.08)):
        known = (nominal.values() > 0) & (moved.values() > 0)
        counts, reference = moved.values()[known], nominal.values()[known]
        ratio = counts / reference
        error = ratio * np.sqrt(moved.variances()[known] / counts**2 + nominal.variances()[known] / reference**2)
        label = rf"simulation ${side}1\sigma$"
        style: dict[str, Any] = {"fmt": "o", "markersize": 3, "linewidth": 1, "color": colour, "label": label}
        ax.errorbar((centres + shift * width)[known], ratio, yerr=error, **style)


def draw_model(parts: Mapping[str, Any], total: Any, stack: bool, ax: Axes) -> None:
    """Histograms of the components, stacked or as lines, and their sum."""
    histplot = require("mplhep", extra="plot").histplot
    colours = [FILLS[index % len(FILLS)] for index in range(len(parts))]
    common = {"ax": ax, "flow": "none", "yerr": False, "label": list(parts), "color": colours}
    if stack:
        histplot(list(parts.values()), stack=True, histtype="fill", **common)
    else:
        histplot(list(parts.values()), linewidth=2, **common)
    histplot(total, ax=ax, flow="none", yerr=False, color=INK, linewidth=1.2, label="model")


def draw_data(observed: Any, ax: Axes) -> None:
    """A histogram of the data with errors."""
    histplot = require("mplhep", extra="plot").histplot
    error = np.sqrt(observed.variances())
    histplot(observed, histtype="errorbar", yerr=error, color=INK, markersize=4, label="data", ax=ax, flow="none")

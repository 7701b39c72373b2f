"""Plots of tag and probe: the map of the efficiency, slices of it with bands, and masses in a region of the conditions.

As in `zfit_fnf.plotting`, functions take results and return axes; nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from ..common.optional import require
from ..tagprobe.result import TagProbeResult
from ..tagprobe.spectrum import Spectrum
from .histograms import chi_square, draw_pulls, observable_title, per_bin
from .projections import draw_data, draw_model, scale_counts
from .style import BLUE, INK, current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["binned", "efficiency_map", "efficiency_slice", "mass"]


def efficiency_map(
    result: TagProbeResult,
    grid: Mapping[str, Any],
    *,
    at: Mapping[str, float] | None = None,
    errors: bool = False,
    titles: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The efficiency, or its error, as colours over two conditions.

    Args:
        result: The fit.
        grid: Points along two conditions, by name, the horizontal one first.
        at: Values of all other conditions.
        errors: Whether errors are drawn in place of values.
        titles: Texts for the axes, with units, by name of the condition; by default the names.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the grid is not of two conditions, or points are outside of the range of the data.

    Example:
        >>> grid = {"eta": np.linspace(-2, 2, 80), "pt": np.linspace(25, 80, 80)}
        >>> efficiency_map(result, grid, titles={"pt": "pt [GeV]"})
    """
    ax = current_axes() if ax is None else ax
    if len(grid) != 2:
        raise ValueError(f"a map is of two conditions; got {list(grid)}")
    (one, x), (two, y) = ((name, np.asarray(points, float)) for name, points in grid.items())
    xs, ys = np.meshgrid(x, y)
    found = result.efficiency(_points(result, {one: xs.ravel(), two: ys.ravel()}, at))
    values = (found.errors if errors else found.values).reshape(xs.shape)
    mesh = ax.pcolormesh(x, y, values, shading="nearest", cmap="cividis_r" if errors else "viridis", rasterized=True)
    lines = ax.contour(x, y, values, colors="white", linewidths=0.7)
    ax.clabel(lines, fontsize="x-small")
    ax.figure.colorbar(mesh, ax=ax, label="error of the efficiency" if errors else "efficiency")
    ax.set(xlabel=_title(one, titles), ylabel=_title(two, titles))
    return ax


def efficiency_slice(
    result: TagProbeResult,
    cond: str,
    points: Any,
    *,
    at: Mapping[str, float] | None = None,
    label: str | None = None,
    color: str = BLUE,
    titles: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The efficiency along one condition, with bands of one and two standard deviations of its logit.

    Args:
        result: The fit.
        cond: The condition.
        points: Its values.
        at: Values of all other conditions.
        label: Text for the legend.
        color: Colour of line and bands.
        titles: Text for the axis, with its unit, by name of the condition; by default the name.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Example:
        >>> efficiency_slice(result, "pt", np.linspace(25, 80, 100), at={"eta": 0.5}, label="eta 0.5")
    """
    ax = current_axes() if ax is None else ax
    x = np.asarray(points, float)
    found = result.efficiency(_points(result, {cond: x}, at))
    widths = found.errors / (found.values * (1.0 - found.values))  # of the logit, so that no band leaves 0 to 1
    for sigmas in (2, 1):
        low, high = (expit(logit(found.values) + sign * sigmas * widths) for sign in (-1.0, 1.0))
        ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(x, found.values, color=color, label=label)
    ax.set(xlabel=_title(cond, titles), ylabel="efficiency", xlim=(x.min(), x.max()))
    if label is not None:
        ax.legend(frameon=False)
    return ax


def binned(result: TagProbeResult, reference: Any, regions: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Integrated efficiencies of a fit beside those of another method, such as of one fit in each bin.

    Args:
        result: The fit.
        reference: Values and errors of the other method, in the order of the regions.
        regions: For each region, which pairs are inside, as in :meth:`~zfit_fnf.tagprobe.TagProbeResult.bins`.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.
    """
    ax = current_axes() if ax is None else ax
    own, places = result.bins(regions), np.arange(len(regions))
    other_values, other_errors = np.asarray(reference, float)
    for shift, values, errors, color, label in (
        (-0.12, other_values, other_errors, INK, "one fit in each bin"),
        (0.12, own.values, own.errors, BLUE, "continuous"),
    ):
        ax.errorbar(places + shift, values, yerr=errors, fmt="o", markersize=4, color=color, label=label)
    ax.set_xticks(places, [str(name) for name in regions], rotation=60, ha="right", fontsize="small")
    ax.set_ylabel("efficiency")
    ax.legend(frameon=False)
    return ax


def mass(
    spectrum: Spectrum,
    *,
    label: str = "mass",
    unit: str | None = None,
    ax: Axes | None = None,
    ax_pulls: Axes | None = None,
) -> Axes:
    """Mass of passing or of failing probes in a region, with what the fit expects there.

    Args:
        spectrum: From :meth:`~zfit_fnf.tagprobe.TagProbeResult.spectrum`.
        label: Text for the mass.
        unit: Its unit, such as ``"GeV"``.
        ax: Where to draw; by default in the current figure.
        ax_pulls: Where to draw the pulls; by default they are not drawn.

    Returns:
        The axes.

    Raises:
        ImportError: If a plotting library is missing, with the command that installs it.

    Example:
        >>> mass(result.spectrum(False, lambda x: x["pt"] < 35), unit="GeV")
    """
    ax = current_axes() if ax is None else ax
    expected = spectrum.signal + spectrum.background
    parts = {
        "background": _histogram(spectrum.edges, spectrum.background),
        "signal": _histogram(spectrum.edges, spectrum.signal),
    }
    draw_model(parts, _histogram(spectrum.edges, expected), True, ax)
    draw_data(_histogram(spectrum.edges, spectrum.observed, spectrum.variance), ax)
    title, variance = observable_title(label, unit), spectrum.expected_variance
    ax.set(
        xlabel=title if ax_pulls is None else "",
        ylabel=f"probes / {per_bin(spectrum.edges, unit)}",
        xlim=(spectrum.edges[0], spectrum.edges[-1]),
    )
    scale_counts(ax, np.concatenate([expected, spectrum.observed]), log=False)
    fit = chi_square(spectrum.observed, expected, variance, expected**2 / np.maximum(variance, 1e-300))
    heading = f"{'passing' if spectrum.passing else 'failing'} probes, {fit}"
    ax.legend(ncols=2, frameon=False, title=heading, title_fontsize="small")
    if ax_pulls is not None:
        draw_pulls(spectrum.edges, spectrum.observed, expected, variance, ax_pulls)
        ax_pulls.set(xlabel=title, xlim=(spectrum.edges[0], spectrum.edges[-1]))
    return ax


def _title(cond: str, titles: Mapping[str, str] | None) -> str:
    return (titles or {}).get(cond, cond)


def _points(result: TagProbeResult, moved: Mapping[str, Any], at: Mapping[str, float] | None) -> dict[str, Any]:
    """Points that differ in some conditions, with the others fixed."""
    fixed, n = at or {}, len(next(iter(moved.values())))
    if set(fixed) | set(moved) != set(result.cond) or set(fixed) & set(moved):
        raise ValueError(f"points and at= together are of the conditions {list(result.cond)}; got {[*moved, *fixed]}")
    return {**moved, **{name: np.full(n, value) for name, value in fixed.items()}}


def _histogram(edges: np.ndarray, values: np.ndarray, variances: np.ndarray | None = None) -> Any:
    hist = require("hist", extra="plot")
    filled = hist.Hist(hist.axis.Variable(edges), storage=hist.storage.Weight())
    filled[...] = np.column_stack([values, values if variances is None else variances])
    return filled

"""Plots of Distributions of Interest: the map, its predictions, and the sources of its uncertainties.

As in `zfit_fnf.plotting`, functions take results and return axes; nothing is fitted, scanned or trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.optional import require
from ..doi.variations import Eigenvariations, MapVariations, Uncertainty
from ..samples import as_sample
from ..scans import ContourScan
from .fits import REGIONS, smooth
from .histograms import draw_pulls, per_bin
from .style import BLUE, INK, RED, current_axes, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Truth",
    "bands_of",
    "displacement",
    "eigenvector_label",
    "ellipse",
    "impacts",
    "likelihoods",
    "morphing",
    "postfit",
    "vector_field",
]

Truth = Callable[[pd.DataFrame], pd.DataFrame]
"""The exact map from data to simulation, where it is known; a table in, a table with the same columns out."""

_STATISTICAL, _TOTAL = "#8fb8de", "#d9d9d9"
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 200)


def vector_field(
    maps: MapVariations,
    grid: Mapping[str, Sequence[float] | np.ndarray],
    *,
    at: Mapping[str, float] | None = None,
    process: str | None = None,
    truth: Truth | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The map in a slice: an arrow from each point in data to its image in simulation.

    Args:
        maps: The map variations; the map at the best fit is drawn.
        grid: Points along two observables that the map moves, by name.
        at: Values of all other observables of the map.
        process: Which process, if each has its own map.
        truth: The exact map, drawn behind the other.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the grid is not that of two observables of the map, or a value is missing.

    Example:
        >>> vector_field(maps, {"y1": range(-2, 3), "y2": range(-3, 2)}, at={"x1": 0.5, "x2": 0.0}, process="B")
    """
    ax = current_axes() if ax is None else ax
    names, points = _points(maps, grid, at, 2)
    if truth is not None:
        _arrows(ax, points, truth(points), names, color=RED, width=0.011, alpha=0.45, label="truth")
    fitted = maps.best.to_simulation(points, process=process)
    _arrows(ax, points, fitted, names, color=BLUE, width=0.005, label="best fit")
    ax.set(xlabel=names[0], ylabel=names[1], aspect="equal")
    legend_above(ax)
    return ax


def displacement(
    maps: MapVariations,
    values: Mapping[str, Sequence[float] | np.ndarray],
    *,
    at: Mapping[str, float] | None = None,
    process: str | None = None,
    truth: Truth | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How far the map moves one observable, along that observable, with the statistical and the total uncertainty.

    In one observable and of one process the map is unique. Of several, others lead to the same density of data, and the bands are
    those of the one that was found: the exact map may lie outside of them, and the legend says so.

    Args:
        maps: The map variations.
        values: Points along one observable that the map moves, by its name.
        at: Values of all other observables of the map.
        process: Which process, if each has its own map.
        truth: The exact map.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If there is not one observable of the map, or a value is missing.

    Example:
        >>> displacement(maps, {"mass": np.linspace(80, 100, 41)})
    """
    ax = current_axes() if ax is None else ax
    (name,), points = _points(maps, values, at, 1)

    def moved(table: pd.DataFrame) -> np.ndarray:
        return np.asarray(table[name] - points[name])

    band = maps.evaluate(lambda variation: moved(variation.to_simulation(points, process=process)))
    x = points[name].to_numpy()
    ax.axhline(0.0, color="grey", linewidth=0.8)
    for width, colour, label in bands_of(band):
        ax.fill_between(x, band.value - width, band.value + width, color=colour, linewidth=0, label=label)
    transfer = maps.best.transfer.transfer
    unique = len(transfer.obs) == transfer.n_maps == 1
    ax.plot(x, band.value, color=BLUE, linewidth=1.8, label="best fit" if unique else "best fit, one of many maps")
    if truth is not None:
        ax.plot(x, moved(truth(points)), color=RED, linestyle="dashed", linewidth=1.5, label="truth")
    ax.set(xlabel=name, ylabel=f"{name} in simulation \N{MINUS SIGN} in data", xlim=(x[0], x[-1]))
    legend_above(ax)
    return ax


def postfit(
    data: Any,
    band: Uncertainty,
    columns: Mapping[str, Sequence[float] | np.ndarray],
    *,
    weights: Any = None,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    r"""Distribution of an observable in bins of another, with the model and its uncertainty, and pulls below.

    The pull of a bin is :math:`(n - m) / \sqrt{m + \sigma_m^2}`, with :math:`n` events in data, :math:`m` expected ones
    and :math:`\sigma_m` the total uncertainty of :math:`m`. (The map has been fitted to the same data: pulls are smaller
    than those of independent data.) For weighted data the sum of squared weights takes the place of the first
    :math:`m`.

    Args:
        data: The data: anything that `zfit_fnf.samples.as_sample` takes.
        band: Expected events in the same bins: `zfit_fnf.doi.predicted`, evaluated.
        columns: Edges by observable: of the bins that have a panel each, and of the bins in a panel.
        weights: Weights of the data: a column or an array.
        axes: Where to draw ``(2, panels)``: distributions above, pulls below; by default in a new figure.

    Returns:
        The axes ``(2, panels)``.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the columns are not two, the band has other bins, or there are too few axes.

    Example:
        >>> columns = {"x1": [-1, 0, 1], "y1": np.linspace(-3, 3, 31)}
        >>> postfit(data, maps.evaluate(predicted(maps, events, columns)), columns)
    """
    if len(columns) != 2:
        raise ValueError(f"columns= needs two observables, for panels and for bins in them; got {list(columns)}")
    (across, panels), (column, edges) = ((name, np.asarray(e, float)) for name, e in columns.items())
    shape = len(panels) - 1, len(edges) - 1
    if band.value.shape != shape:
        raise ValueError(f"the band has {band.value.shape} bins, columns= {shape}: evaluate it with the same edges")
    axes = _new_axes(shape[0]) if axes is None else np.asarray(axes)
    if axes.shape != (2, shape[0]):
        raise ValueError(f"axes= must have the shape {(2, shape[0])}, got {axes.shape}")
    sample = as_sample(data, list(columns), weights=weights)
    values = [sample.columns[across], sample.columns[column]]
    own = np.ones(sample.n_events) if sample.weights is None else sample.weights
    observed = np.histogramdd(values, [panels, edges], weights=own)[0]
    variances = np.histogramdd(values, [panels, edges], weights=own**2)[0]
    bands = bands_of(band)
    for index, (ax, ax_pulls) in enumerate(axes.T):
        expected = band.value[index]
        for width, colour, label in bands:
            low, high = expected - width[index], expected + width[index]
            ax.stairs(high, edges, baseline=low, fill=True, color=colour, linewidth=0, label=label)
        ax.stairs(expected, edges, baseline=None, color=BLUE, linewidth=1.3, label="model")
        centres = 0.5 * (edges[1:] + edges[:-1])
        error = np.sqrt(variances[index])
        ax.errorbar(centres, observed[index], yerr=error, fmt="o", color=INK, markersize=3, linewidth=1, label="data")
        low, high = panels[index : index + 2]
        ax.set(title=f"{low:g} < {across} < {high:g}", ylabel=f"events / {per_bin(edges)}", xlim=(edges[0], edges[-1]))
        if np.min(np.r_[expected, observed[index]]) >= 0:  # weights of both signs may sum to less
            ax.set_ylim(0, None)
        statistical = expected if sample.weights is None else variances[index]
        draw_pulls(edges, observed[index], expected, statistical + bands_of(band)[0][0][index] ** 2, ax_pulls)
        ax_pulls.set(xlabel=column, xlim=(edges[0], edges[-1]))
    axes[0, 0].legend(frameon=False, fontsize="small")
    return axes


def likelihoods(
    fixed: ContourScan,
    profiled: ContourScan,
    *,
    replicas: pd.DataFrame | None = None,
    truth: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Regions of two parameters with the map fixed (step 1) and with the map that follows them (step 2).

    Args:
        fixed: Scan of the loss of the global fit, from `zfit_fnf.scans.contour`.
        profiled: Scan of the profile likelihood.
        replicas: Minima of the replicas: `Ensemble.minima`.
        truth: True values of the parameters, by name, where they are known.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the scans are not those of the same parameters.

    Example:
        >>> first, second = (scans.contour(loss, result, pair) for loss, result in both)
        >>> likelihoods(first, second, replicas=ensemble(profiled).minima)
    """
    ax = current_axes() if ax is None else ax
    if fixed.parameters != profiled.parameters:
        raise ValueError(f"the scans are of {fixed.parameters} and of {profiled.parameters}: scan the same parameters")
    for scan, colour, label in ((fixed, "grey", "map fixed"), (profiled, BLUE, "profile")):
        x, y, delta = smooth(scan)
        for (probability, level), style in zip(REGIONS.items(), ("solid", "dashed"), strict=True):
            ax.contour(x, y, delta.T, levels=[level], colors=[colour], linestyles=style, linewidths=1.5)
            ax.plot([], [], color=colour, linestyle=style, label=f"{label}, {probability}")
        ax.plot(*scan.best_fit, "+", color=colour, markersize=11, markeredgewidth=1.8)
    if replicas is not None:
        minima = replicas[list(profiled.parameters)].to_numpy().T
        ax.plot(*minima, "o", color=BLUE, markersize=4, alpha=0.6, linestyle="none", label="replicas")
    _draw_truth(ax, profiled.parameters, truth)
    ax.set(xlabel=profiled.titles[0], ylabel=profiled.titles[1])
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")
    return ax


def ellipse(
    eigenvariations: Eigenvariations,
    parameters: tuple[str, str],
    *,
    truth: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Covariance of two parameters as an ellipse, whose projections are their errors, with the eigenvectors.

    An arrow is one standard deviation along an eigenvector. With two parameters in the fit the arrows are the half axes of
    the ellipse; with more, their projections.

    Args:
        eigenvariations: The eigenvectors: ``scenarios(...).eigenvariations``.
        parameters: Names of the two parameters.
        truth: True values of the parameters, by name, where they are known.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If a parameter is not in the fit.

    Example:
        >>> ellipse(maps.eigenvariations, ("jes", "jer"))
    """
    ax = current_axes() if ax is None else ax
    if unknown := [name for name in parameters if name not in eigenvariations.names]:
        raise ValueError(f"{unknown} were not fitted; those that were are {list(eigenvariations.names)}")
    rows = [eigenvariations.names.index(name) for name in parameters]
    centre, steps = eigenvariations.values[rows], (eigenvariations.directions * eigenvariations.deviations)[rows]
    root = np.linalg.cholesky(steps @ steps.T)
    outline = centre[:, None] + root @ np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    ax.fill(*outline, facecolor=BLUE, alpha=0.15)
    ax.plot(*outline, color=BLUE, linewidth=1.5, label=r"$1\sigma$")
    ax.plot(*centre, "+", color=INK, markersize=11, markeredgewidth=1.8, linestyle="none", label="best fit")
    for index, step in enumerate(steps.T):
        end = centre + step
        ax.annotate(
            "",
            (end[0], end[1]),
            (centre[0], centre[1]),
            arrowprops={"arrowstyle": "->", "color": RED, "linewidth": 1.5},
        )
        if np.hypot(*step / np.sqrt(np.sum(steps**2, axis=1))) > 0.1:  # labels of the others would lie on each other
            ax.annotate(f"{index + 1}", tuple(centre + 1.12 * step), color=RED, ha="center", va="center")
    _draw_truth(ax, parameters, truth)
    ax.set(xlabel=parameters[0], ylabel=parameters[1])
    ax.margins(0.15)
    legend_above(ax)
    return ax


def morphing(
    maps: MapVariations,
    index: int,
    grid: Mapping[str, Sequence[float] | np.ndarray],
    *,
    at: Mapping[str, float] | None = None,
    process: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Effect of one eigenvector on the map: its change one standard deviation up and down, as a vector field.

    Arrows are as long as the change times the factor in the title.

    Args:
        maps: The map variations.
        index: Which eigenvector, from 0.
        grid: As for `vector_field`.
        at: As for `vector_field`.
        process: As for `vector_field`.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: As for `vector_field`.

    Example:
        >>> morphing(maps, 0, {"y1": range(-2, 3), "y2": range(-3, 2)}, at={"x1": 0.5, "x2": 0.0}, process="B")
    """
    ax = current_axes() if ax is None else ax
    names, points = _points(maps, grid, at, 2)
    best, *sides = (
        variation.to_simulation(points, process=process)[names].to_numpy()
        for variation in (maps.best, *maps.moved[index])
    )
    down, up = (side - best for side in sides)
    spacing = min(float(np.min(np.diff(np.unique(points[name])))) for name in names)
    factor = _round_number(spacing / max(float(np.abs([down, up]).max()), 1e-12))
    for change, colour, label in ((down, BLUE, r"$-1\sigma$"), (up, RED, r"$+1\sigma$")):
        end = points.assign(**dict(zip(names, (points[names].to_numpy() + factor * change).T, strict=True)))
        _arrows(ax, points, end, names, color=colour, width=0.006, label=label)
    ax.set(
        xlabel=names[0],
        ylabel=names[1],
        aspect="equal",
        title=f"{eigenvector_label(maps.eigenvariations, index)}\n" + rf"arrows $\times$ {factor:g}",
    )
    ax.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return ax


def impacts(
    number: Uncertainty,
    eigenvariations: Eigenvariations,
    *,
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Change of one number of the Distribution of Interest with each eigenvector, and its statistical uncertainty.

    Args:
        number: A single number, from `MapVariations.evaluate`.
        eigenvariations: The eigenvectors: ``scenarios(...).eigenvariations``.
        label: Description of the number, with its unit.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If there is not one number.

    Example:
        >>> mean = maps.evaluate(lambda s: s.to_data(events, process="B")["y1"].mean())
        >>> impacts(mean, maps.eigenvariations, label="mean of y1 in process B")
    """
    ax = current_axes() if ax is None else ax
    if number.value.size != 1:
        raise ValueError(f"impacts are those on one number; got {number.value.size} of them")
    down, up = number.shifts.reshape(-1, 2).T
    statistical = float(number.statistical.reshape(()))
    rows = np.arange(len(up))
    names = [eigenvector_label(eigenvariations, index) for index in range(len(up))]
    ax.barh(rows, up, height=0.6, color=RED, alpha=0.75, label=r"$+1\sigma$")
    ax.barh(rows, down, height=0.6, color=BLUE, alpha=0.75, label=r"$-1\sigma$")
    if np.isfinite(statistical):
        rows, names = np.append(rows, len(rows)), [*names, "statistical"]
        ax.barh(rows[-1], 2 * statistical, left=-statistical, height=0.6, color=_TOTAL, label="statistical")
    ax.axvline(0.0, color=INK, linewidth=0.8)
    ax.set_yticks(rows, names)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(f"change of {label}" if label else "change")
    legend_above(ax)
    return ax


def eigenvector_label(eigenvariations: Eigenvariations, index: int) -> str:
    """An eigenvector in words: the parameters that it moves, with their parts.

    Args:
        eigenvariations: The eigenvectors.
        index: Which one, from 0.
    """
    parts = sorted(
        zip(eigenvariations.names, eigenvariations.directions[:, index], strict=True), key=lambda part: -abs(part[1])
    )
    text = " ".join(f"{part:+.2f} {name}" for name, part in parts if abs(part) > 0.1)
    return f"{index + 1}: {text}".replace("-", "\N{MINUS SIGN}")


# --- small things ---------------------------------------------------------------------------------------------------


def _points(
    maps: MapVariations, along: Mapping[str, Sequence[float] | np.ndarray], at: Mapping[str, float] | None, n: int
) -> tuple[list[str], pd.DataFrame]:
    """The observables that are varied, and the table of all points of their grid."""
    transfer, names = maps.best.transfer.transfer, list(along)
    if len(names) != n or not set(names) <= set(transfer.obs):
        raise ValueError(f"{n} of the observables {list(transfer.obs)} of the map can be varied here; got {names}")
    others = dict(at or {})
    if missing := [name for name in (*transfer.obs, *transfer.cond) if name not in others and name not in names]:
        raise ValueError(f"at= needs a value of {missing}")
    columns = np.meshgrid(*(np.asarray(values, float) for values in along.values()), indexing="ij")
    table = pd.DataFrame({name: column.ravel() for name, column in zip(names, columns, strict=True)})
    return names, table.assign(**others)


def _arrows(
    ax: Axes, start: pd.DataFrame, end: pd.DataFrame, names: Sequence[str], *, width: float, **style: Any
) -> None:
    begin = start[list(names)].to_numpy().T
    step = np.asarray(end[list(names)]).T - begin
    ax.quiver(*begin, *step, angles="xy", scale_units="xy", scale=1.0, width=width, **style)


def bands_of(band: Uncertainty) -> list[tuple[np.ndarray, str, str]]:
    """Half widths, colours and labels of the bands, the widest first."""
    if np.isnan(band.statistical).any():
        return [(band.systematic, _TOTAL, "systematic")]
    return [(band.total, _TOTAL, "total"), (band.statistical, _STATISTICAL, "statistical")]


def _draw_truth(ax: Axes, parameters: Sequence[str], truth: Mapping[str, float] | None) -> None:
    if truth is not None:
        ax.plot(*(truth[name] for name in parameters), "*", color=RED, markersize=11, linestyle="none", label="truth")


def _new_axes(n_panels: int) -> np.ndarray:
    figure = require("matplotlib.pyplot", extra="plot").figure(figsize=(3.5 * n_panels, 4.5), layout="constrained")
    return figure.subplots(2, n_panels, sharex=True, height_ratios=[3, 1], squeeze=False)


def _round_number(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above a number."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step for step in (1.0, 2.0, 5.0) if step * power <= value * (1 + 1e-9)) * power)

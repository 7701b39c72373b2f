"""Plots of verdicts on densities and on fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..calibration import CalibrationReport
from ..diagnostics import GoodnessOfFit, ValidationReport
from .style import BLUE, FILLS, INK, RED, current_axes, draw_sigma_bands, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["closure", "goodness_of_fit", "p_values", "uncertainty_split"]


def closure(report: ValidationReport, *, ax: Axes | None = None) -> Axes:
    """Bias that each simulated sample predicts for a fit, in errors of the fit, with its own uncertainty.

    Args:
        report: Made by `zfit_fnf.diagnostics.validate`.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If no density depends on nuisances.

    Example:
        >>> closure(validate(deformation, held_out, n_data=5000))
    """
    ax = current_axes() if ax is None else ax
    table = report.biases
    if not len(table):
        raise ValueError("the report has no closure: no density depends on nuisances")
    rows = np.arange(len(table))
    draw_sigma_bands(ax)
    value, error = table["value"].to_numpy(float), table["error"].to_numpy(float)
    colours = np.where(table["problem"], RED, INK)
    ax.barh(rows, value, height=0.6, color=colours, alpha=0.8, xerr=error, error_kw={"ecolor": INK, "elinewidth": 0.8})
    first = ~table["process"].duplicated() & (table["process"].nunique() > 1)
    labels = [
        (f"{row.process}: " if new else "") + f"{row.of} at {row.point}"
        for row, new in zip(table[["process", "point", "of"]].itertuples(), first, strict=True)
    ]
    for row in rows[first][1:]:
        ax.axhline(row - 0.5, color=INK, linewidth=0.5)
    ax.set_yticks(rows, labels)
    ax.tick_params(axis="y", length=0)
    reach = 1.1 * max(3.0, float((np.abs(value) + error).max()))
    numbers = " to ".join(f"{n:,}" for n in sorted({int(table["n_data"].min()), int(table["n_data"].max())}))
    ax.set(
        xlabel=rf"bias of a fit to {numbers} events [$\sigma$]",
        xlim=(-reach, reach),
        ylim=(len(rows) - 0.4, -0.6),
    )
    return ax


def p_values(report: ValidationReport | GoodnessOfFit, *, ax: Axes | None = None) -> Axes:
    """Sorted p-values of all tests, over the straight line on which they are if nothing is wrong.

    Args:
        report: Made by `zfit_fnf.diagnostics.validate` or `goodness_of_fit`.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes, both logarithmic.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> p_values(validate(deformation, held_out))
    """
    ax = current_axes() if ax is None else ax
    table = report.to_dataframe().dropna(subset="p_value").sort_values("p_value")
    expected = (np.arange(len(table)) + 0.5) / len(table)
    known = np.maximum(table["p_value"].to_numpy(float), 1e-12)
    ax.plot(expected, expected, color=INK, linewidth=0.8)
    for colour, (test, rows) in zip(
        (BLUE, RED, *FILLS), pd.Series(known, table["test"]).groupby(level=0), strict=False
    ):
        ax.plot(
            expected[(table["test"] == test).to_numpy()], rows.to_numpy(), "o", color=colour, markersize=5, label=test
        )
    ax.set(xscale="log", yscale="log", xlabel="expected p-value", ylabel="p-value")
    legend_above(ax, columns=3)
    return ax


def goodness_of_fit(report: GoodnessOfFit, of: str, *, channel: str | None = None, ax: Axes | None = None) -> Axes:
    """Pulls of the data from the fitted model in one observable, in bins that expect equal numbers of events.

    Args:
        report: Made by `zfit_fnf.diagnostics.goodness_of_fit`.
        of: The observable.
        channel: Name of the model, where several have it.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the observable is not there, or in several channels.

    Example:
        >>> goodness_of_fit(zfit_fnf.diagnostics.goodness_of_fit(nll, result), "mass")
    """
    ax = current_axes() if ax is None else ax
    chosen = [table[(table["of"] == of) & table["channel"].isin([channel] if channel else table["channel"])]
              for table in (report.bins, report.tests[report.tests["test"] == "saturated"])]  # fmt: skip
    bins, tests = chosen
    if len(tests) != 1:
        where = report.tests.loc[report.tests["test"] == "saturated", ["channel", "of"]].drop_duplicates()
        raise ValueError(f"no single projection on {of!r}: there are {where.to_numpy().tolist()}")
    draw_sigma_bands(ax, horizontal=True)
    edges = np.append(bins["low"], bins["high"].iloc[-1])
    ax.stairs(bins["pull"], edges, color=INK, linewidth=1.4)
    reach = 1.1 * max(3.0, float(bins["pull"].abs().max()))
    ax.set(xlabel=of, ylabel=r"(data $-$ fit) / $\sqrt{\mathrm{fit}}$", xlim=edges[[0, -1]], ylim=(-reach, reach))
    text = f"saturated: p = {tests['p_value'].iloc[0]:.2g}, all tests: p = {report.p_value:.2g}"
    ax.set_title(text, fontsize="medium")
    return ax


def uncertainty_split(report: CalibrationReport, *, ax: Axes | None = None) -> Axes:
    """Shares of the variance of each parameter: from data, auxiliary measurements and finite simulation.

    Args:
        report: ``.report`` of a calibrated likelihood.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> uncertainty_split(zfit_fnf.calibrate(nll, simulations).report)
    """
    ax = current_axes() if ax is None else ax
    table, left = report.table, np.zeros(len(report.table))
    rows = np.arange(len(table))
    for part, colour in zip(("statistical", "constraints", "simulation"), FILLS, strict=False):
        share = np.square(table[part] / table["error"]).to_numpy()
        ax.barh(rows, share, left=left, height=0.6, color=colour, label=part)
        left += share
    ax.set_yticks(rows, list(table.index))
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="share of the variance", xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    legend_above(ax)
    return ax

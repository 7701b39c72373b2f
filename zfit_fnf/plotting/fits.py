"""Plots of trainings, fits, scans, limits and toys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import zfit  # before tensorflow, which it silences
import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator, RectBivariateSpline
from zfit.result import FitResult

from ..densities.history import History
from ..limit_scans import LimitScan
from ..limits import LimitResult
from ..param import Nuisance
from ..projections import fitted_nuisances, hesse_error
from ..scans import ContourScan, Impacts, ProfileScan
from ..state import known_before
from ..toys import ToyFits
from .style import BLUE, GREEN, INK, RED, YELLOW, current_axes, draw_sigma_bands, legend_above, rounded

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "REGIONS",
    "contour",
    "correlation",
    "impacts",
    "limit",
    "limits",
    "profile",
    "pulls",
    "smooth",
    "toy_pulls",
    "training",
]

REGIONS = {"68.3 %": 2.30, "95.4 %": 6.18}
"""Probability of a region of two parameters, and twice the rise of the negative log-likelihood at its edge."""

_N_FINE = 200  # points along a smooth line
_FEWEST = 2  # points of a curve
_GAP = 2  # points in a row without which a curve has a gap


def pulls(result: FitResult, nuisances: Sequence[Nuisance] | None = None, *, ax: Axes | None = None) -> Axes:
    """Best fit and post-fit error of each nuisance, over the bands of one and two pre-fit standard deviations.

    The bands are where constraints put a nuisance, around the outcome of its auxiliary measurement.

    Args:
        result: The fit, with errors by `FitResult.hesse`.
        nuisances: Which to show, from top to bottom; by default all that were fitted.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
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
    before = known_before(result.loss)
    centres = np.array([before[one].value if one in before else float(one.observed.value()) for one in shown])
    widths = np.array([before[one].error if one in before else 1.0 for one in shown])
    alike = not centres.any() and bool((widths == 1.0).all())
    for n_sigma, colour in ((2, YELLOW), (1, GREEN)):
        label = rf"pre-fit $\pm {n_sigma}\sigma$"
        if alike:
            ax.axvspan(-n_sigma, n_sigma, color=colour, linewidth=0, label=label)
        else:
            left = centres - n_sigma * widths
            ax.barh(rows, 2.0 * n_sigma * widths, left=left, height=1.0, color=colour, linewidth=0, label=label)
    ax.vlines(centres, rows - 0.5, rows + 0.5, color="white", linewidth=1)
    ax.errorbar(values, rows, xerr=errors, fmt="o", color=INK, markersize=5, capsize=3, label="post-fit")
    for row, value, error in zip(rows, values, errors, strict=True):
        ax.annotate(rounded(value, error), (1.01, row), xycoords=("axes fraction", "data"), va="center")
    reach = 1.1 * max(2.0, float(np.max(np.abs(values) + errors)), float(np.max(np.abs(centres) + 2.0 * widths)))
    ax.set(xlabel=r"nuisance parameter [$\sigma$]", xlim=(-reach, reach), ylim=(len(shown) - 0.4, -0.6))
    ax.set_yticks(rows, [str(nuisance.label) for nuisance in shown])
    ax.tick_params(axis="y", length=0)
    legend_above(ax)
    return ax


def impacts(ranking: Impacts, *, ax: Axes | None = None, ax_pulls: Axes | None = None) -> Axes:
    r"""Impacts of nuisances on a parameter, the largest on top, over the error of the parameter; their pulls beside.

    Filled bars are post-fit impacts, with the nuisance fixed one post-fit error away; hollow ones are pre-fit impacts, at
    one standard deviation of the auxiliary measurement. The pull is the distance of the best fit from the outcome of the
    auxiliary measurement, and its error bar the post-fit error: where it is shorter than one, the data constrain the nuisance.

    Args:
        ranking: Made by `zfit_fnf.scans.impacts`.
        ax: Where to draw; by default in the current figure.
        ax_pulls: Where to draw the pulls, which share the rows of ``ax``; by default they are not drawn.

    Returns:
        The axes of the impacts.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> fig, (ax_pulls, ax) = plt.subplots(1, 2, width_ratios=[2, 3], layout="constrained")
        >>> impacts(zfit_fnf.scans.impacts(nll, result, mu), ax=ax, ax_pulls=ax_pulls)
    """
    ax = current_axes() if ax is None else ax
    table, rows = ranking.table, np.arange(len(ranking.table))
    if np.isfinite(ranking.error):
        ax.axvspan(-ranking.error, ranking.error, color=GREEN, alpha=0.4, linewidth=0, label="total error")
    ax.axvline(0, color=INK, linewidth=0.8)
    for side, sign, colour in (("up", "+", "C3"), ("down", "-", "C0")):
        ax.barh(rows, table[side], height=0.6, color=colour, alpha=0.7, label=rf"post-fit ${sign}1\sigma$")
        if (column := f"prefit_{side}") in table:
            label = rf"pre-fit ${sign}1\sigma$"
            ax.barh(rows, table[column], height=0.75, fill=False, edgecolor=colour, linewidth=1.2, label=label)
    sizes = table.filter(regex="^(prefit_)?(down|up)$").abs().max(axis=None)
    # A parameter at its limit has no error, and may not move from there.
    reach = 1.1 * float(np.nan_to_num(np.nanmax([ranking.error, sizes, 0.0]))) or 1.0
    ax.set(xlabel=rf"$\Delta$ {ranking.title}", xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    ax.tick_params(axis="y", length=0)
    for row, value, error in zip(rows, table["value"], table["error"], strict=True):
        ax.annotate(rounded(value, error), (1.01, row), xycoords=("axes fraction", "data"), va="center")
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
        ImportError: If Matplotlib is missing, with the command that installs it.

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
        scan: The scan, from `zfit_fnf.scans.profile`; a cubic spline is drawn through its points, with gaps where fits at
            several points in a row failed.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If fits converged at fewer than two points.

    Example:
        >>> profile(zfit_fnf.scans.profile(nll, result, jes))
    """
    ax = current_axes() if ax is None else ax
    order = np.argsort(scan.values)
    known = np.flatnonzero(np.isfinite(scan.delta[order]))
    values, delta = scan.values[order][known], scan.delta[order][known]
    if len(known) < _FEWEST:
        raise ValueError(
            f"fits converged at {len(known)} of {len(order)} points of this scan: there is no curve to draw"
        )
    fine = np.linspace(values[0], values[-1], _N_FINE)
    missing = np.diff(known)[np.clip(np.searchsorted(values, fine), 1, len(known) - 1) - 1] - 1
    curve = np.where(missing < _GAP, CubicSpline(values, delta)(fine), np.nan)
    ax.plot(fine, curve, color=BLUE, linewidth=1.8, label="profile likelihood")
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
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the truth of one of the parameters is missing.

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
        if missing := [name for name in scan.parameters if name not in truth]:
            raise ValueError(f"truth= lacks {missing}; the parameters of the contour are {list(scan.parameters)}")
        point = [truth[name] for name in scan.parameters]
        ax.plot(*point, "*", color=RED, markersize=11, linestyle="none", label="truth")
    ax.set(xlabel=scan.titles[0], ylabel=scan.titles[1])
    legend_above(ax)
    return ax


def limit(result: LimitResult, *, ax: Axes | None = None) -> Axes:
    """CLs against the parameter of interest, with the bands expected from background only.

    Args:
        result: The limits, from `zfit_fnf.limits.upper_limit`; their scan is interpolated monotonically.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> limit(zfit_fnf.limits.upper_limit(nll, mu))
    """
    ax = current_axes() if ax is None else ax
    values = np.linspace(result.scan.index.min(), result.scan.index.max(), _N_FINE)
    cls = {name: PchipInterpolator(result.scan.index, result.scan[name])(values) for name in result.scan}
    for n_sigma, colour in ((2, YELLOW), (1, GREEN)):
        low, high = cls[f"expected_m{n_sigma}"], cls[f"expected_p{n_sigma}"]
        ax.fill_between(values, low, high, color=colour, label=rf"expected $\pm {n_sigma}\sigma$")
    ax.plot(values, cls["expected"], color="black", linestyle="dashed", label="expected")
    if "observed" in cls:
        ax.plot(values, cls["observed"], color="black", label="observed")
    ax.axhline(1 - result.cl, color="red", linewidth=1)
    ax.set(xlabel=result.title or result.poi, ylabel=r"CL$_s$", ylim=(0, 1), xlim=(values[0], values[-1]))
    ax.legend()
    return ax


def limits(result: LimitScan, *, ax: Axes | None = None) -> Axes:
    """Upper limits against another parameter, with the bands expected from background only.

    Args:
        result: The limits, from `zfit_fnf.limit_scans.limits_against`.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> *_, scan = zfit_fnf.limit_scans.limits_against(nll, mu, mass, [200, 300, 400])
        >>> limits(scan)
    """
    ax = current_axes() if ax is None else ax
    values, table = result.table.index.to_numpy(float), result.table
    for n_sigma, colour in ((2, YELLOW), (1, GREEN)):
        low, high = table[f"expected_m{n_sigma}"], table[f"expected_p{n_sigma}"]
        ax.fill_between(values, low, high, color=colour, label=rf"expected $\pm {n_sigma}\sigma$")
    ax.plot(values, table["expected"], color="black", linestyle="dashed", label="expected")
    if not table["observed"].isna().all():
        ax.plot(values, table["observed"], color="black", marker="o", markersize=3, label="observed")
    poi, parameter = result.titles
    ax.set(xlabel=parameter, ylabel=f"{100 * result.cl:g} % upper limit on {poi}", ylim=(0, None))
    legend_above(ax)
    return ax


def toy_pulls(fits: ToyFits, parameter: zfit.Parameter | str, *, ax: Axes | None = None) -> Axes:
    """Histogram of the pulls ``(fit - truth) / error`` of one parameter, with the unit Gaussian.

    Args:
        fits: The fits to toys, from `zfit_fnf.toys.fit_toys`; those that are not valid are left out.
        parameter: The parameter, or its name.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the parameter was not fitted, or no fit is valid.

    Example:
        >>> toy_pulls(zfit_fnf.toys.fit_toys(nll, 100), mu)
    """
    ax = current_axes() if ax is None else ax
    name = parameter if isinstance(parameter, str) else parameter.name
    if name not in fits.values:
        raise ValueError(f"{name!r} was not fitted; the toys have {list(fits.values)}")
    pulls = ((fits.values[name] - fits.truth[name]) / fits.errors[name])[fits.valid].dropna()
    if not len(pulls):
        raise ValueError(
            f"none of {len(fits.valid)} fits is valid and has an error of {name!r}: there are no pulls to draw"
        )
    edges = np.linspace(-5, 5, 41)
    outside = int(np.sum(np.abs(pulls) > edges[-1]))
    centres = 0.5 * (edges[1:] + edges[:-1])
    gauss = np.exp(-0.5 * centres**2) / np.sqrt(2 * np.pi)
    ax.hist(
        pulls,
        bins=edges.tolist(),
        histtype="stepfilled",
        alpha=0.5,
        label=f"{len(pulls)} toys" + (f", {outside} outside" if outside else ""),
    )
    ax.plot(centres, gauss * len(pulls) * (edges[1] - edges[0]), color="black", label="unit Gaussian")
    ax.set(xlabel=f"pull of {name}", ylabel="toys")
    ax.legend()
    return ax


def training(history: History, *, ax: Axes | None = None) -> Axes:
    """Training and validation loss against the step, and the step whose weights were kept.

    Args:
        history: Record of the training, such as ``flow.history``.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> training(zfit_fnf.train.fit_flow(nominal, ["m"]).history)
    """
    ax = current_axes() if ax is None else ax
    ax.plot(history.steps, history.training, label="training")
    ax.plot(history.steps, history.validation, label="validation (averaged weights)")
    ax.axvline(history.best_step, color="grey", linestyle=":", label="kept")
    ax.set(xlabel="step", ylabel="negative log-density [nats/event]", title=history.name)
    ax.legend()
    return ax


def smooth(scan: ContourScan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A finer grid of a scan, by cubic splines; the scan itself where a point of it is missing."""
    (x, y), delta = scan.values, scan.delta
    if not np.isfinite(delta).all():
        return x, y, delta
    spline = RectBivariateSpline(x, y, delta, kx=min(3, len(x) - 1), ky=min(3, len(y) - 1))
    x, y = np.linspace(x[0], x[-1], _N_FINE), np.linspace(y[0], y[-1], _N_FINE)
    return x, y, spline(x, y)


def _draw_nuisance_pulls(table: pd.DataFrame, ax: Axes) -> None:
    """Pull of each nuisance with its post-fit error, over the bands of one and two pre-fit standard deviations."""
    rows = np.arange(len(table))
    draw_sigma_bands(ax)
    pulls, errors = table["pull"].to_numpy(float), table["error"].to_numpy(float)
    ax.errorbar(pulls, rows, xerr=errors, fmt="o", color=INK, markersize=4, capsize=3)
    reach = 1.1 * max(2.0, float(np.max(np.nan_to_num(np.abs(pulls) + errors), initial=0.0)))
    ax.set(xlabel=r"pull [$\sigma$]", xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(rows, list(table.index))
    ax.tick_params(axis="y", length=0)

r"""Scans of the profile likelihood in one and in two parameters.

At each point all other parameters are at the values that fit best there. Likelihoods of many events are nearly
parabolic, so the other parameters are first placed by the Hessian of the best fit; most points then need a single
evaluation. Points where a few Newton steps are not enough are left to a minimiser.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from ..arguments import (
    count,
    numbers_inside,
    parameter_of,
    positive,
    warn_of_extrapolation,
)
from ..common.parallel import Executor, run
from ..loss import warn_of_weights
from ..param import axis_title
from ..profiles import BestFit, ConditionalMinima, KnownMinimum, warn_of_points
from ..state import preserved
from .shared import check_scan, shared_work

__all__ = ["ContourScan", "ProfileScan", "contour", "profile"]

_BY_HESSE = "Read errors from result.hesse(), which follow the weights"


@dataclass(frozen=True, eq=False)
class ProfileScan:
    """Profile likelihood of one parameter, made by `profile`.

    Attributes:
        parameter: Name of the parameter.
        title: Its label, with the unit.
        values: Where it was fixed, ``(n,)``.
        delta: Twice the rise of the negative log-likelihood above the best fit, ``(n,)``; NaN where a fit did not converge.
        best_fit: Best-fit value.
    """

    parameter: str
    title: str
    values: np.ndarray
    delta: np.ndarray
    best_fit: float

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each point: the ``value`` of the parameter and ``delta``."""
        return pd.DataFrame({"value": self.values, "delta": self.delta})

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return {**vars(self), "values": self.values.tolist(), "delta": self.delta.tolist()}

    def __str__(self) -> str:
        rows = (f"  {value:>12.6g}  {delta:>10.4f}" for value, delta in zip(self.values, self.delta, strict=True))
        return "\n".join([f"profile of {self.parameter}, best fit {self.best_fit:.6g}: value, 2 delta NLL", *rows])


@dataclass(frozen=True, eq=False)
class ContourScan:
    """Profile likelihood of two parameters on a grid, made by `contour`.

    Attributes:
        parameters: Names of the two parameters.
        titles: Their labels, with units.
        values: Grid of each, ``(n,)``.
        delta: Twice the rise of the negative log-likelihood above the best fit, ``(n, n)``, the first parameter along
            the first axis; NaN where a fit did not converge.
        best_fit: Best-fit value of each.
    """

    parameters: tuple[str, str]
    titles: tuple[str, str]
    values: tuple[np.ndarray, np.ndarray]
    delta: np.ndarray
    best_fit: tuple[float, float]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each point of the grid: the parameters (one of that name is ``delta (parameter)``) and ``delta``."""
        first, second = np.meshgrid(*self.values, indexing="ij")
        names = [f"{name} (parameter)" if name == "delta" else name for name in self.parameters]
        return pd.DataFrame({names[0]: first.ravel(), names[1]: second.ravel(), "delta": self.delta.ravel()})

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        texts = {"parameters": list(self.parameters), "titles": list(self.titles), "best_fit": list(self.best_fit)}
        return {**texts, "values": [grid.tolist() for grid in self.values], "delta": self.delta.tolist()}

    def __str__(self) -> str:
        grid = " x ".join(str(len(values)) for values in self.values)
        best = ", ".join(f"{name} = {value:.6g}" for name, value in zip(self.parameters, self.best_fit, strict=True))
        return f"2 delta NLL of {' and '.join(self.parameters)} at {grid} points, best fit {best}"


def profile(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    param: zfit.Parameter | str,
    *,
    values: Iterable[float] | None = None,
    n_sigma: float = 3.0,
    n_points: int = 21,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> ProfileScan:
    r"""Scan the profile likelihood of a parameter.

    .. math:: -2 \ln \frac{L(\theta, \hat{\hat\nu}(\theta))}{L(\hat\theta, \hat\nu)}

    All parameters are restored at the end.

    Args:
        nll: The likelihood.
        result: Its best fit.
        param: The parameter, one of those that were fitted, or its name.
        values: Where to fix it; by default ``n_points`` evenly within ``n_sigma`` errors of the best fit.
        n_sigma: Half width of the scan, in errors by the Hessian; parameter limits cut it off.
        n_points: Number of points.
        minimizer: What fits where Newton steps with the Hessian of the best fit do not get there; by default
            `zfit_fnf.Minuit`.
        executor: ``concurrent.futures`` executor that shares the points; each worker compiles the likelihood once.
        progress: Whether to show a progress bar.

    Warns:
        UserWarning: If a point is below the best fit, which then is a local minimum, or was not found.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the parameter was not fitted, values are outside of its limits, the result is not a minimum of this
            likelihood, e.g. that of other data, or the Hessian there is not positive definite.

    Example:
        >>> ax = zfit_fnf.plotting.profile(profile(nll, result, jes))
    """
    check_scan(nll, result, minimizer, executor)
    warn_of_weights(nll, "profiles", _BY_HESSE)
    param, n_sigma = parameter_of(nll, param, "what is scanned"), positive(n_sigma, "n_sigma=")
    n_points = count(n_points, "n_points=", least=2)
    given = None if values is None else numbers_inside(values, param)
    with preserved(nll):
        best_fit = BestFit(nll, result)
        grid = best_fit.grid(param, n_sigma, n_points) if given is None else given
        points = [(value,) for value in grid.tolist()]
        delta = _scanned(best_fit, [param], points, f"profile of {param.name}", minimizer, executor, progress)
    return ProfileScan(param.name, axis_title(param), grid, delta, best_fit.values[param])


def contour(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    params: tuple[zfit.Parameter | str, zfit.Parameter | str],
    *,
    n_sigma: float = 3.0,
    n_points: int = 21,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> ContourScan:
    """Scan the profile likelihood of two parameters on a grid.

    All parameters are restored at the end.

    Args:
        nll: The likelihood.
        result: Its best fit.
        params: The two parameters, of those that were fitted, or their names.
        n_sigma: Half width of the grid, in errors by the Hessian; parameter limits cut it off.
        n_points: Number of points along each axis.
        minimizer: As for `profile`.
        executor: As for `profile`.
        progress: Whether to show a progress bar.

    Warns:
        UserWarning: As for `profile`.

    Raises:
        ValueError: As for `profile`, or if there are not two different parameters.

    Example:
        >>> ax = zfit_fnf.plotting.contour(contour(nll, result, (jes, jer)))
    """
    check_scan(nll, result, minimizer, executor)
    if isinstance(params, (str, zfit.Parameter)) or len(params) != 2:
        raise ValueError(f"a contour needs two parameters, (first, second); got {params!r}")
    warn_of_weights(nll, "contours", _BY_HESSE)
    first, second = (parameter_of(nll, one, "what is scanned") for one in params)
    if first is second:
        raise ValueError(f"a contour needs two different parameters; got {first.name!r} twice")
    n_sigma, n_points = positive(n_sigma, "n_sigma="), count(n_points, "n_points=", least=2)
    with preserved(nll):
        best_fit = BestFit(nll, result)
        grids = best_fit.grid(first, n_sigma, n_points), best_fit.grid(second, n_sigma, n_points)
        points = list(itertools.product(*(grid.tolist() for grid in grids)))
        text = f"contour of {first.name}, {second.name}"
        delta = _scanned(best_fit, [first, second], points, text, minimizer, executor, progress)
    return ContourScan(
        (first.name, second.name),
        (axis_title(first), axis_title(second)),
        grids,
        delta.reshape(n_points, n_points),
        (best_fit.values[first], best_fit.values[second]),
    )


def _scanned(
    best_fit: KnownMinimum,
    params: list[zfit.Parameter],
    points: Sequence[tuple[float, ...]],
    what: str,
    minimizer: zfit.minimize.BaseMinimizer | None,
    executor: Executor | None,
    progress: bool,
) -> np.ndarray:
    """Twice the rise of the likelihood with parameters fixed to the points ``(n,)``; what is wrong with them is told."""
    work = shared_work(_rises, best_fit, params, minimizer, executor)
    found = dict(run(work, points, executor=executor, progress=what if progress else ""))
    delta = np.array([found[point][0] for point in points])
    warn_of_points(params, points, delta)
    by_name = {one.name: one for one in best_fit.params}
    reached = [{by_name[name]: value for name, value in values.items()} for _, values in found.values()]
    warn_of_extrapolation(best_fit.nll.model, reached, f"points of the {what}")
    return delta


def _rises(
    best_fit: KnownMinimum, params: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer | None
) -> Callable[[tuple[float, ...]], tuple[float, dict[str, float]]]:
    """Twice the rise of the likelihood with parameters fixed to some values, and where all of them are then."""
    return ConditionalMinima(best_fit, params, minimizer).rise

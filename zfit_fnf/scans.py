r"""Scans of the profile likelihood in one and in two parameters, and impacts of nuisances.

At each point all other parameters are at the values that fit best there. Likelihoods of many events are nearly
parabolic, so the other parameters are first placed by the Hessian of the best fit; most points then need a single
evaluation. Points where a few Newton steps are not enough are left to a minimiser.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from tqdm.auto import tqdm
from zfit.result import FitResult

from .param import Nuisance, limits_of
from .toys import default_minimizer, preserved

_NEWTON_STEPS = 12
_TOLERANCE = 1e-2  # of the distance to the minimum, which is then added: what remains is of higher order
_PRECISE = 1e-4  # the same where the position of the minimum matters: within a hundredth of an error


@dataclass(frozen=True, eq=False)
class ProfileScan:
    """Profile likelihood of one parameter, made by `profile`.

    Attributes:
        parameter: Name of the parameter.
        title: Its label, with the unit.
        values: Where it was fixed, ``(n,)``.
        delta: Twice the rise of the negative log-likelihood above the best fit, ``(n,)``; not a number where a fit did
            not converge.
        best_fit: Best-fit value.
    """

    parameter: str
    title: str
    values: np.ndarray
    delta: np.ndarray
    best_fit: float

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
            the first axis; not a number where a fit did not converge.
        best_fit: Best-fit value of each.
    """

    parameters: tuple[str, str]
    titles: tuple[str, str]
    values: tuple[np.ndarray, np.ndarray]
    delta: np.ndarray
    best_fit: tuple[float, float]

    def __str__(self) -> str:
        grid = " x ".join(str(len(values)) for values in self.values)
        best = ", ".join(f"{name} = {value:.6g}" for name, value in zip(self.parameters, self.best_fit, strict=True))
        return f"2 delta NLL of {' and '.join(self.parameters)} at {grid} points, best fit {best}"


@dataclass(frozen=True, eq=False)
class Impacts:
    """How much nuisances move a parameter, made by `impacts`.

    Attributes:
        parameter: Name of the parameter.
        title: Its label, with the unit.
        error: Its error by the Hessian.
        table: One row for each nuisance, the largest impact first: its best fit ``value`` and ``error``, and the change
            of the parameter with the nuisance fixed one such error ``down`` and ``up``.
    """

    parameter: str
    title: str
    error: float
    table: pd.DataFrame

    def __str__(self) -> str:
        return (
            f"impacts on {self.parameter}, whose error is {self.error:.4g}\n{self.table.to_string(float_format='%.4g')}"
        )


def profile(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    param: zfit.Parameter,
    *,
    values: Iterable[float] | None = None,
    n_sigma: float = 3.0,
    n_points: int = 21,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    progress: bool = True,
) -> ProfileScan:
    r"""Scan the profile likelihood of a parameter.

    .. math:: -2 \ln \frac{L(\theta, \hat{\hat\nu}(\theta))}{L(\hat\theta, \hat\nu)}

    All parameters are restored at the end.

    Args:
        nll: The likelihood.
        result: Its best fit.
        param: The parameter, one of those that were fitted.
        values: Where to fix it; by default ``n_points`` evenly within ``n_sigma`` errors of the best fit.
        n_sigma: Half width of the scan, in errors by the Hessian; parameter limits cut it off.
        n_points: Number of points.
        minimizer: What fits where Newton steps with the Hessian of the best fit do not get there; by default
            `zfit_fnf.toys.default_minimizer`.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the parameter was not fitted, values are outside of its limits, or the Hessian at the best fit is
            not positive definite.

    Example:
        >>> ax = zfit_fnf.plotting.profile(profile(nll, result, jes))
    """
    with preserved(nll):
        minima = _ConditionalMinima(_BestFit(nll, result), [param], minimizer)
        grid = minima.grid(param, n_sigma, n_points) if values is None else _inside(param, values)
        points = tqdm(grid, desc=f"profile of {param.name}", disable=not progress)
        delta = np.array([minima.delta([value]) for value in points])
    return ProfileScan(param.name, axis_title(param), grid, delta, minima.best[param])


def contour(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    params: tuple[zfit.Parameter, zfit.Parameter],
    *,
    n_sigma: float = 3.0,
    n_points: int = 21,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    progress: bool = True,
) -> ContourScan:
    """Scan the profile likelihood of two parameters on a grid.

    All parameters are restored at the end.

    Args:
        nll: The likelihood.
        result: Its best fit.
        params: The two parameters, of those that were fitted.
        n_sigma: Half width of the grid, in errors by the Hessian; parameter limits cut it off.
        n_points: Number of points along each axis.
        minimizer: As for `profile`.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: As for `profile`, or if there are not two different parameters.

    Example:
        >>> ax = zfit_fnf.plotting.contour(contour(nll, result, (jes, jer)))
    """
    first, second = params
    if first is second:
        raise ValueError(f"a contour needs two different parameters; got {first.name!r} twice")
    with preserved(nll):
        minima = _ConditionalMinima(_BestFit(nll, result), [first, second], minimizer)
        grids = minima.grid(first, n_sigma, n_points), minima.grid(second, n_sigma, n_points)
        points = tqdm(
            itertools.product(*grids),
            total=n_points**2,
            desc=f"contour of {first.name}, {second.name}",
            disable=not progress,
        )
        delta = np.array([minima.delta(point) for point in points]).reshape(n_points, n_points)
    return ContourScan(
        (first.name, second.name),
        (axis_title(first), axis_title(second)),
        grids,
        delta,
        (minima.best[first], minima.best[second]),
    )


def impacts(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    param: zfit.Parameter,
    *,
    nuisances: Sequence[Nuisance] | None = None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    progress: bool = True,
) -> Impacts:
    """Change of a parameter when each nuisance is fixed one post-fit error away, and all others are fitted again.

    All parameters are restored at the end.

    Args:
        nll: The likelihood.
        result: Its best fit.
        param: The parameter.
        nuisances: Which nuisances; by default all that were fitted, but the parameter itself.
        minimizer: As for `profile`.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: As for `profile`, or if there is no nuisance.

    Example:
        >>> print(impacts(nll, result, mu))
        >>> ax = zfit_fnf.plotting.impacts(impacts(nll, result, mu))
    """
    if nuisances is None:
        nuisances = [one for one in result.params if isinstance(one, Nuisance) and one is not param]
    if not nuisances:
        raise ValueError("there are no nuisances that could have an impact: the fit has none made by zfit_fnf.nuisance")
    rows = {}
    with preserved(nll):
        best_fit = _BestFit(nll, result)
        for moved in tqdm(nuisances, desc=f"impacts on {param.name}", disable=not progress):
            minima = _ConditionalMinima(best_fit, [moved], minimizer)
            value, error = minima.best[moved], minima.errors[moved]
            low, high = limits_of(moved)
            down, up = (
                minima.position([min(max(value + sign * error, low), high)])[param] - minima.best[param]
                for sign in (-1, 1)
            )
            rows[moved.name] = {"value": value, "error": error, "down": down, "up": up}
        own = _ConditionalMinima(best_fit, [param], minimizer).errors[param]
    table = pd.DataFrame.from_dict(rows, orient="index")
    order = table[["down", "up"]].abs().max(axis=1).sort_values(ascending=False, kind="stable").index
    return Impacts(param.name, axis_title(param), own, table.loc[order])


def axis_title(parameter: zfit.Parameter) -> str:
    """Label of a parameter for an axis: nuisances are in units of their standard deviation.

    Args:
        parameter: The parameter.
    """
    label = str(parameter.label or parameter.name)
    return rf"{label} [$\sigma$]" if isinstance(parameter, Nuisance) else label


class _BestFit:
    """Minimum of a likelihood, and its second derivatives there.

    Args:
        nll: The likelihood.
        result: Its best fit.
    """

    def __init__(self, nll: zfit.loss.UnbinnedNLL, result: FitResult):
        self.nll = nll
        self.values = {parameter: float(result.params[parameter]["value"]) for parameter in result.params}
        zfit.param.set_values(self.values, clip=True)
        self.lowest = float(nll.value(full=False))
        # Its own derivatives: differences of values, as Minuit takes them, are no match for many parameters. What weights
        # do to errors is not in it.
        self.hessian = np.asarray(nll.hessian(list(self.values)))
        if not np.isfinite(self.hessian).all() or np.linalg.eigvalsh(self.hessian)[0] <= 0:
            raise ValueError("the Hessian at the best fit is not positive definite: the fit did not end at a minimum")


class _ConditionalMinima:
    """Minima of a likelihood with some parameters fixed.

    Args:
        best_fit: The minimum without.
        fixed: The parameters that are fixed.
        minimizer: For the points that Newton steps do not solve.
    """

    def __init__(
        self, best_fit: _BestFit, fixed: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer | None
    ):
        self.best, self._nll, self._lowest = best_fit.values, best_fit.nll, best_fit.lowest
        if unknown := [parameter.name for parameter in fixed if parameter not in self.best]:
            raise ValueError(f"cannot scan {unknown}: the fit has {[parameter.name for parameter in self.best]}")
        self._fixed = list(fixed)
        self._others = [parameter for parameter in self.best if parameter not in fixed]
        self._minimizer = default_minimizer() if minimizer is None else minimizer
        every = list(self.best)
        errors = np.sqrt(np.diag(np.linalg.inv(best_fit.hessian)))
        self.errors = {parameter: errors[every.index(parameter)] for parameter in self._fixed}
        moving, still = ([every.index(parameter) for parameter in part] for part in (self._others, self._fixed))
        self._curvature, self._mixed = (best_fit.hessian[np.ix_(moving, part)] for part in (moving, still))

    def grid(self, parameter: zfit.Parameter, n_sigma: float, n_points: int) -> np.ndarray:
        """Even grid of a parameter around the best fit."""
        centre, width = self.best[parameter], n_sigma * self.errors[parameter]
        low, high = limits_of(parameter)
        return np.linspace(max(centre - width, low), min(centre + width, high), n_points)

    def delta(self, point: Sequence[float]) -> float:
        """Twice the rise of the conditional minimum above the best fit."""
        start = self._start(point)
        if not self._others:
            return 2.0 * (float(self._nll.value(full=False)) - self._lowest)
        for _, value, distance in self._newton(start):
            if distance < _TOLERANCE:
                return 2.0 * (value - distance - self._lowest)
        fit = self._fit(start)
        zfit.param.set_values(self._others, fit, clip=True)
        return 2.0 * (float(self._nll.value(full=False)) - self._lowest) if fit.converged else float("nan")

    def position(self, point: Sequence[float]) -> dict[zfit.Parameter, float]:
        """Values of the other parameters at the conditional minimum; not numbers where a fit did not converge."""
        start = self._start(point)
        for position, _, distance in self._newton(start):
            if distance < _PRECISE:
                return dict(zip(self._others, position, strict=True))
        fit = self._fit(start)
        return {one: float(fit.params[one]["value"]) if fit.converged else np.nan for one in self._others}

    def _start(self, point: Sequence[float]) -> np.ndarray:
        """Fix the parameters; where the others should be by the Hessian of the best fit."""
        _assign(self._fixed, point)
        moved = np.asarray(point) - [self.best[parameter] for parameter in self._fixed]
        start = np.array([self.best[parameter] for parameter in self._others])
        return start - np.linalg.solve(self._curvature, self._mixed @ moved) if len(start) else start

    def _fit(self, start: np.ndarray) -> FitResult:
        zfit.param.set_values(self._others, start, clip=True)
        return self._minimizer.minimize(self._nll, self._others)

    def _newton(self, position: np.ndarray) -> Iterator[tuple[np.ndarray, float, float]]:
        """Step by step, as long as they stay inside of the limits: where it leads, the value before and its distance."""
        low, high = np.transpose([limits_of(parameter) for parameter in self._others])
        inverse, before = np.linalg.inv(self._curvature), None
        for _ in range(_NEWTON_STEPS):
            if not np.all((position >= low) & (position <= high)):  # a step that is not a number is not inside either
                return
            _assign(self._others, position)
            value, tensor = self._nll.value_gradient(self._others, full=False)
            gradient = np.asarray(tensor)
            if before is not None:
                inverse = _updated(inverse, position - before[0], gradient - before[1])
            step, before = inverse @ gradient, (position, gradient)
            position = position - step
            yield position, float(value), float(0.5 * gradient @ step)


def _updated(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The inverse Hessian after a step and the change of the gradient that came with it (BFGS)."""
    curvature = step @ change
    if not curvature > 0:
        return inverse
    projection = np.eye(len(step)) - np.outer(step, change) / curvature
    return projection @ inverse @ projection.T + np.outer(step, step) / curvature


def _inside(parameter: zfit.Parameter, values: Iterable[float]) -> np.ndarray:
    grid, (low, high) = np.asarray(list(values), float), limits_of(parameter)
    if outside := [float(value) for value in grid if not low <= value <= high]:
        raise ValueError(f"cannot scan {parameter.name!r} at {outside}: its limits are {low:g} and {high:g}")
    return grid


def _assign(parameters: Sequence[zfit.Parameter], values: Iterable[float]) -> None:
    """Set values that are known to be inside of the limits: looking once more would cost as much as an evaluation."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.assign(value)

r"""Scans of the profile likelihood in one and in two parameters, and impacts of nuisances.

At each point all other parameters are at the values that fit best there. Likelihoods of many events are nearly
parabolic, so the other parameters are first placed by the Hessian of the best fit; most points then need a single
evaluation. Points where a few Newton steps are not enough are left to a minimiser.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from .arguments import (
    check_executor_fits,
    check_likelihood,
    check_minimizer,
    count,
    numbers_inside,
    parameter_of,
    positive,
    warn_of_extrapolation,
)
from .common.parallel import Executor, run
from .common.warning import warn
from .loss import warn_of_weights
from .param import Nuisance, axis_title, limits_of
from .pickling import work_of
from .profiles import BestFit, ConditionalMinima, KnownMinimum, warn_of_points
from .state import Known, current_values, known_before, preserved

Task = TypeVar("Task")
Result = TypeVar("Result")

_BY_HESSE = "Read errors from result.hesse(), which follow the weights"

__all__ = ["ContourScan", "Impacts", "ProfileScan", "axis_title", "contour", "impacts", "profile"]


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


@dataclass(frozen=True, eq=False)
class Impacts:
    r"""How much nuisances move a parameter, made by `impacts`.

    Attributes:
        parameter: Name of the parameter.
        title: Its label, with the unit.
        error: Its error by the Hessian, and by the weights of events if there are some.
        table: One row for each nuisance, the largest impact first: its best fit ``value`` and ``error`` (in standard
            deviations of its auxiliary measurements together, so that ``error`` is also how much the data constrain it; of
            parameters in other units, such as those of ``shapesys``, from what was measured), its ``pull``
            (distance to what that measurement found), and changes of the parameter by several definitions: with the
            nuisance fixed one ``error`` ``down`` and ``up``; the same by the covariance of the fit, ``covariance``; with it
            fixed one standard deviation of that measurement away, up to limits, ``prefit_down`` and ``prefit_up``; with the
            outcome of that shifted by one standard deviation, and nothing fixed, ``observed_down`` and ``observed_up``. Not
            numbers where there is no error, at a limit, or no such measurement.
        groups: One row for each group of nuisances, ``statistical`` and ``systematic``: the ``frozen`` error with the
            nuisances of the group fixed at their best fit, and the ``impact`` :math:`\sqrt{\sigma^2 - \sigma_{frozen}^2}`; the
            root of the summed squares of the changes with shifted ``observed`` outcomes. ``systematic`` are all nuisances, and
            ``statistical`` is the error with all of them frozen, or what these changes leave of the variance. Impacts of
            correlated groups do not add up; changes with shifted outcomes do.
    """

    parameter: str
    title: str
    error: float
    table: pd.DataFrame
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; rows of tables by nuisance and by group."""
        tables = {name: getattr(self, name).to_dict(orient="index") for name in ("table", "groups")}
        return {**vars(self), **tables}

    def __str__(self) -> str:
        tables = [table.to_string(float_format="%.4g") for table in (self.table, self.groups) if len(table)]
        return "\n".join([f"impacts on {self.parameter}, whose error is {self.error:.4g}", *tables])


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
    _check(nll, result, minimizer, executor)
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
    _check(nll, result, minimizer, executor)
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


def impacts(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    param: zfit.Parameter | str,
    *,
    nuisances: Sequence[zfit.Parameter | str] | None = None,
    groups: Mapping[str, Sequence[zfit.Parameter | str]] | None = None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Impacts:
    r"""Change of a parameter with each nuisance, by several definitions, and with groups of them.

    * The nuisance is fixed one error away, that after the fit as in most rankings, or that before it, and all others are
      fitted again: what the parameter would be if the nuisance were there.
    * The same by the covariance of the fit, :math:`V_{\mu\nu} / \sigma_\nu`: for a parabolic likelihood it is that number, up and
      down alike.
    * The outcome of the auxiliary measurement is shifted by its standard deviation, and all parameters are fitted: the part
      of the error that comes from that measurement. For a parabolic likelihood it is :math:`V_{\mu\nu}`, smaller than the
      others where the data constrain the nuisance, and the squares of those parts and of the statistical one add up to the
      variance (arXiv:2307.04007).

    All parameters are restored at the end.

    Args:
        nll: The likelihood.
        result: Its best fit.
        param: The parameter, or its name.
        nuisances: Which nuisances; by default all parameters with an auxiliary measurement that were fitted, but the parameter
            itself: also those of constraints of zfit, and of ``shapesys``.
        groups: Nuisances by the name of their group, such as ``{"theory": ["pdf", "scale"]}``; for a calibrated likelihood
            the group ``mcstat`` is its finite simulation.
        minimizer: As for `profile`.
        executor: As for `profile`.
        progress: Whether to show a progress bar.

    Warns:
        UserWarning: If limits of a nuisance are closer than a step of it, or cut off an impact; if a fit does not converge.

    Raises:
        TypeError: If ``groups`` are no nuisances by name.
        ValueError: As for `profile`, or if there is no nuisance; if a group has others than those that are ranked.

    Example:
        >>> print(impacts(nll, result, mu))
        >>> ax = zfit_fnf.plotting.impacts(impacts(nll, result, mu))
    """
    _check(nll, result, minimizer, executor)
    param = parameter_of(nll, param, "what is measured")
    if nuisances is None:
        known = known_before(nll)
        moved = [one for one in nll.get_params() if (isinstance(one, Nuisance) or one in known) and one is not param]
    else:
        moved = [parameter_of(nll, one, "each of nuisances=") for one in nuisances]
    if not moved:
        raise ValueError("there are no nuisances that could have an impact: the fit has none made by zfit_fnf.nuisance")
    if param in moved:
        raise ValueError(f"{param.name!r} has no impact on itself: leave it out of nuisances=")
    members = _members(nll, groups, moved)
    with preserved(nll):
        best_fit = BestFit(nll, result)
        work = _shared(_rows, best_fit, [param, *moved], minimizer, executor)
        text = f"impacts on {param.name}" if progress else ""
        found = dict(run(work, range(1, 1 + len(moved)), executor=executor, progress=text))
        rows = {one.name: found[index] for index, one in enumerate(moved, start=1)}
        table = pd.DataFrame.from_dict(rows, orient="index")
        order = table[["down", "up"]].abs().max(axis=1).sort_values(ascending=False, kind="stable").index
        error = _error_of(best_fit, param)
        by_group = _by_group(best_fit, param, {**members, "systematic": moved}, table)
        _warn_of_impacts(best_fit, [param, *moved], table)
    return Impacts(param.name, axis_title(param), error, table.loc[order], by_group)


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
    work = _shared(_rises, best_fit, params, minimizer, executor)
    found = dict(run(work, points, executor=executor, progress=what if progress else ""))
    delta = np.array([found[point][0] for point in points])
    warn_of_points(params, points, delta)
    by_name = {one.name: one for one in best_fit.params}
    reached = [{by_name[name]: value for name, value in values.items()} for _, values in found.values()]
    warn_of_extrapolation(best_fit.nll.model, reached, f"points of the {what}")
    return delta


def _shared(
    make: Callable[..., Callable[[Task], Result]],
    best_fit: KnownMinimum,
    params: Sequence[zfit.Parameter],
    minimizer: zfit.minimize.BaseMinimizer | None,
    executor: Executor | None,
) -> Callable[[Task], Result]:
    """What computes points of a scan, or rows of a table, for an executor: its processes find the minimum for themselves."""
    if executor is None:
        return make(best_fit, params, minimizer)
    return work_of(_at_minimum, make, best_fit.nll, best_fit.values, list(params), executor=executor)


def _at_minimum(
    make: Callable[..., Callable[[Task], Result]],
    nll: zfit.loss.UnbinnedNLL,
    values: Mapping[zfit.Parameter, float],
    params: Sequence[zfit.Parameter],
) -> Callable[[Task], Result]:
    return make(KnownMinimum(nll, values), params, None)


def _rises(
    best_fit: KnownMinimum, params: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer | None
) -> Callable[[tuple[float, ...]], tuple[float, dict[str, float]]]:
    """Twice the rise of the likelihood with parameters fixed to some values, and where all of them are then."""
    return ConditionalMinima(best_fit, params, minimizer).rise


def _rows(
    best_fit: KnownMinimum, params: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer | None
) -> Callable[[int], dict[str, float]]:
    """Rows of the table of impacts on the first of the parameters, of another one by its index."""
    param, free, every = params[0], ConditionalMinima(best_fit, [], minimizer), known_before(best_fit.nll)
    covariance, places = best_fit.covariance_of_data(), {one: index for index, one in enumerate(best_fit.params)}

    def row(index: int) -> dict[str, float]:
        one = params[index]
        known, error = every.get(one), float(np.sqrt(covariance[places[one], places[one]]))
        return {
            **_impact(ConditionalMinima(best_fit, [one], minimizer), one, error, param, known),
            "covariance": float(covariance[places[param], places[one]]) / error,
            **_observed_impact(free, known, param),
        }

    return row


def _warn_of_impacts(best_fit: KnownMinimum, params: Sequence[zfit.Parameter], table: pd.DataFrame) -> None:
    """Tell of impacts on the first of the parameters that were not found, or that limits cut off."""
    if len(missing := table.index[table["error"].notna() & table[["down", "up"]].isna().any(axis=1)]):
        warn(f"fits with {', '.join(missing[:5])} fixed did not converge, of which there are no impacts")
    covariance, every, cut = best_fit.covariance_of_data(), known_before(best_fit.nll), []
    reached = list[dict[zfit.Parameter, float]]()
    for one in params[1:]:
        error = float(np.sqrt(covariance[(best_fit.params.index(one),) * 2]))
        steps = [step for step in (error, every[one].error if one in every else np.nan) if np.isfinite(step)]
        (low, high), value = limits_of(one), best_fit.values[one]
        # While others are fixed one error away, none moves by more than its own.
        reached += [{one: min(max(value + side * step, low), high)} for step in steps for side in (-1, 1)]
        if steps and not low <= value - max(steps) <= value + max(steps) <= high:
            cut.append(one.name)
    if cut:
        warn(f"limits of {', '.join(cut[:5])} are less than an error away, and impacts too small: make them wider")
    warn_of_extrapolation(best_fit.nll.model, reached, f"impacts on {params[0].name}")
    (low, high), room = limits_of(params[0]), 1e-3 * best_fit.width(params[0], 1.0)
    after_fit = table.filter(regex="^(observed_)?(down|up)$")  # before the fit a limit may well be reached
    ends = best_fit.values[params[0]] + after_fit
    if len(at := table.index[((ends < low + room) | (ends > high - room)).any(axis=1)]):
        warn(f"limits of {params[0].name} cut off impacts of {', '.join(at[:5])}, which are larger: make them wider")


def _members(nll: Any, groups: Any, moved: Sequence[zfit.Parameter]) -> dict[str, list[zfit.Parameter]]:
    """The nuisances of each group, those of finite simulation among them."""
    given = {} if groups is None else groups
    if not isinstance(given, Mapping) or any(isinstance(one, (str, zfit.Parameter)) for one in given.values()):
        raise TypeError(f'groups= are lists of nuisances by name, {{"theory": ["pdf", "scale"]}}; got {groups!r}')
    if taken := {"statistical", "systematic"}.intersection(given):
        raise ValueError(f"a group cannot be called {sorted(taken)[0]!r}: that is a row of its own")
    of_simulation = [one for one in getattr(nll, "simulation_nuisances", ()) if one in moved]
    members = {"mcstat": of_simulation} if of_simulation else {}
    for name, group in given.items():
        members[name] = [parameter_of(nll, one, f"each of the group {name!r}") for one in group]
        if strange := [one.name for one in members[name] if one not in moved]:
            raise ValueError(f"the group {name!r} has {strange}, whose impacts are not asked for")
    return members


def _error_of(best_fit: KnownMinimum, param: zfit.Parameter, fixed: Sequence[zfit.Parameter] = ()) -> float:
    """Error of a parameter with others fixed at the best fit; not a number at a limit."""
    return float(np.sqrt(best_fit.covariance_of_data(fixed)[(best_fit.params.index(param),) * 2]))


def _by_group(
    best_fit: BestFit, param: zfit.Parameter, members: Mapping[str, list[zfit.Parameter]], table: pd.DataFrame
) -> pd.DataFrame:
    """The table of groups."""
    total, rows = _error_of(best_fit, param), {}
    shifts = 0.5 * (table["observed_up"] - table["observed_down"])
    for name, group in members.items():
        frozen = _error_of(best_fit, param, group)
        observed = float(np.sqrt(np.square(shifts[[one.name for one in group]]).sum(skipna=False)))
        rows[name] = {"frozen": frozen, "impact": _rest(total, frozen), "observed": observed}
    everything = rows["systematic"]
    rows["statistical"] = {
        "frozen": _rest(total, everything["frozen"]),
        "impact": everything["frozen"],
        "observed": _rest(total, everything["observed"]),
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _rest(total: float, part: float) -> float:
    """What is left of a variance, as an error."""
    return float(np.sqrt(max(total**2 - part**2, 0.0))) if np.isfinite(total - part) else np.nan


def _observed_impact(minima: ConditionalMinima, known: Known | None, param: zfit.Parameter) -> dict[str, float]:
    """Changes of the parameter with a shifted outcome of the auxiliary measurement."""
    names = {"observed_down": -1.0, "observed_up": 1.0}
    if known is None or not known.steps:
        return dict.fromkeys(names, np.nan)
    outcomes, changes = current_values(known.steps), {}
    for name, side in names.items():
        zfit.param.set_values({one: outcomes[one] + side * step for one, step in known.steps.items()})
        changes[name] = minima.position([])[param] - minima.best[param]
    zfit.param.set_values(outcomes)
    return changes


def _impact(
    minima: ConditionalMinima, moved: zfit.Parameter, error: float, param: zfit.Parameter, known: Known | None
) -> dict[str, float]:
    """Those columns of the table of impacts for which the nuisance is fixed."""
    value, (low, high) = minima.best[moved], limits_of(moved)

    def change(step: float) -> float:
        if not np.isfinite(step):
            return np.nan
        return minima.position([min(max(value + step, low), high)])[param] - minima.best[param]

    prior = np.nan if known is None else known.error
    pull = np.nan if known is None else (value - known.value) / prior
    in_own_units = known is None or (isinstance(moved, Nuisance) and np.isclose(known.error, 1.0, rtol=1e-9))
    return {
        "value": value if in_own_units else pull,
        "error": error if in_own_units else error / prior,
        "pull": pull,
        "down": change(-error),
        "up": change(error),
        "prefit_down": change(-prior),
        "prefit_up": change(prior),
    }


def _check(nll: zfit.loss.UnbinnedNLL, result: FitResult, minimizer: Any, executor: Any) -> None:
    check_likelihood(nll)
    if not isinstance(result, FitResult):
        raise TypeError(f"the second argument is the result of a fit, zfit_fnf.Minuit().minimize(nll); got {result!r}")
    check_minimizer(minimizer)
    check_executor_fits(executor, minimizer)

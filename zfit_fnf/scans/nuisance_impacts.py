"""Impacts of nuisances on a parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from ..arguments import (
    parameter_of,
    warn_of_extrapolation,
)
from ..common.parallel import Executor, run
from ..common.warning import warn
from ..param import Nuisance, axis_title, limits_of
from ..profiles import BestFit, ConditionalMinima, KnownMinimum
from ..state import Known, current_values, known_before, preserved
from .shared import check_scan, shared_work

__all__ = ["Impacts", "impacts"]


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
    check_scan(nll, result, minimizer, executor)
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
        work = shared_work(_rows, best_fit, [param, *moved], minimizer, executor)
        text = f"impacts on {param.name}" if progress else ""
        found = dict(run(work, range(1, 1 + len(moved)), executor=executor, progress=text))
        rows = {one.name: found[index] for index, one in enumerate(moved, start=1)}
        table = pd.DataFrame.from_dict(rows, orient="index")
        order = table[["down", "up"]].abs().max(axis=1).sort_values(ascending=False, kind="stable").index
        error = _error_of(best_fit, param)
        by_group = _by_group(best_fit, param, {**members, "systematic": moved}, table)
        _warn_of_impacts(best_fit, [param, *moved], table)
    return Impacts(param.name, axis_title(param), error, table.loc[order], by_group)


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

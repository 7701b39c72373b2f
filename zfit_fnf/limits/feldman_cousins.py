r"""Intervals and regions of Feldman and Cousins (arXiv:physics/9711021), with nuisances profiled.

A point belongs to the region if its likelihood ratio
:math:`t(\theta) = -2 \ln L(\theta, \hat{\hat\nu}(\theta)) / L(\hat\theta, \hat\nu)` is not among the largest that toys of that
point have, with the nuisances there that fit the data best. Best fits respect the limits of the parameters, so that the region
is never empty at a physical boundary, and goes over from an upper limit to an interval by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression
from scipy.stats import norm

from ..arguments import check_likelihood, check_minimizer, count, numbers, parameter_of, real, warn_of_extrapolation
from ..common.parallel import Executor
from ..common.warning import warn
from ..minimize import Minuit
from ..param import limits_of
from ..profiles import ConditionalMinima, KnownMinimum, minimise
from ..state import current_values, preserved
from .neyman import Hypothesis, rises_in_toys
from .results import PoolWorth
from .weights import check_weights

__all__ = ["FeldmanCousins", "feldman_cousins"]

_TIE = 1e-3  # as for limits from toys
_SCATTER = 3.0  # standard deviations by which toys may scatter p-values
_BEYOND = 1.5  # standard deviations beyond the confidence level to which points reach by default


@dataclass(frozen=True, eq=False)
class FeldmanCousins:
    """Confidence region of one or two parameters, made by `feldman_cousins`; prints as a table.

    Attributes:
        pois: Names of the parameters.
        cl: Confidence level.
        n_toys: Number of toys of each point.
        best_fit: Best-fit values.
        table: One row for each point: the parameters, the likelihood ratio ``t`` of the data, the share ``p_value`` of toys with
            one at least as large, its binomial ``error``, and whether the point is ``inside`` the region.
        pool: What the pools are worth that the toys were drawn from, if they were.
    """

    pois: tuple[str, ...]
    cl: float
    n_toys: int
    best_fit: tuple[float, ...]
    table: pd.DataFrame
    pool: PoolWorth | None = None

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Ends of the parts of the region of one parameter, by linear interpolation between points.

        Where p-values are near ``1 - cl`` for long, toys scatter them to both sides. If all of them are compatible with ones that
        fall steadily from the largest, the ends are those of these.
        """
        if len(self.pois) > 1:
            raise ValueError(f"a region of {' and '.join(self.pois)} has no intervals: see its table")
        x, p_values = self.table[self.pois[0]].to_numpy(), self.table["p_value"].to_numpy()
        parts = _parts(x, p_values - (1 - self.cl))
        if len(parts) < 2:
            return parts
        falling = _falling(p_values)
        of_toys = np.maximum(self.table["error"].to_numpy(), np.sqrt(falling * (1 - falling) / self.n_toys))
        scattered = np.abs(p_values - falling) <= _SCATTER * of_toys
        return _parts(x, falling - (1 - self.cl)) if scattered.all() else parts

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        pool = None if self.pool is None else self.pool.to_dict()
        return {**vars(self), "table": self.table.to_dict(orient="list"), "pool": pool}

    def __str__(self) -> str:
        head = f"{100 * self.cl:g} % region of {', '.join(self.pois)} by Feldman and Cousins, {self.n_toys} toys of each point"
        if self.pool is not None:
            head += f"\n  {self.pool}"
        if len(self.pois) > 1:
            return f"{head}\n{self.table.to_string(index=False, float_format=lambda number: f'{number:.4g}')}"
        parts = " and ".join(f"[{low:.4g}, {high:.4g}]" for low, high in self.intervals)
        return f"{head}\n  {self.pois[0]} in {parts} (best fit {self.best_fit[0]:.4g})"


def feldman_cousins(
    nll: zfit.loss.UnbinnedNLL,
    pois: zfit.Parameter | str | Sequence[zfit.Parameter | str],
    *,
    cl: float = 0.95,
    points: Sequence[Sequence[float]] | None = None,
    n_points: int = 21,
    n_toys: int = 1000,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    pool: int | None = None,
    progress: bool = True,
) -> FeldmanCousins:
    """Confidence region of one or two parameters from toys, valid near boundaries and for few events.

    Limits of the parameters are physical boundaries here: best fits do not leave them. Parameters and global observables are
    restored at the end.

    Args:
        nll: The likelihood.
        pois: The parameters, or their names.
        cl: Confidence level.
        points: Values of each parameter, of which a grid is made; by default around the best fit, as far as the likelihood
            says, inside of the limits.
        n_points: Number of values of each parameter, if they are not given.
        n_toys: Number of toys of each point.
        minimizer: By default `zfit_fnf.Minuit`.
        seed: Seed of all toys.
        executor: ``concurrent.futures`` executor that shares the toys; each worker compiles the likelihood once.
        pool: Draw the toys of each point from a pool of so many events for each component of the model, which is expanded
            once; use ten times the events of a toy or more. A toy then needs neither networks nor compilers, and the result says
            in ``pool`` what that is worth. By default each toy has events of its own.
        progress: Whether to show a progress bar.

    Warns:
        UserWarning: If the region goes on beyond the points; if fits to many toys do not converge.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a parameter is not one of the likelihood or does not float, or points are outside of its limits; if there
            are more than two parameters; if the data have weights.
        RuntimeError: If the fit to the data does not converge, or ends in a local minimum; if none of those to the toys of a
            point converges.

    Example:
        >>> region = feldman_cousins(nll, mu, cl=0.9)
        >>> region.intervals
    """
    check_likelihood(nll)
    check_minimizer(minimizer)
    if not 0 < real(cl, "cl=") < 1:
        raise ValueError(f"cl must be between 0 and 1, e.g. 0.95; got {cl}")
    n_toys, n_points = count(n_toys, "n_toys=", least=50), count(n_points, "n_points=", least=3)
    params = _checked_pois(nll, pois)
    check_weights(nll, params, minimizer)
    with preserved(nll):
        minimise(nll, list(nll.get_params()), minimizer or Minuit())
        best = KnownMinimum(nll, current_values(nll.get_params()))
        minima = ConditionalMinima(best, params, minimizer)
        axes = _axes(best, params, points, n_points, cl)
        grid = [tuple(map(float, point)) for point in itertools.product(*axes)]
        found = [minima.at(point) for point in grid]
        best.refuse_lower(found, params)
        t = np.array([max(2 * (point.nll - best.lowest), 0.0) for point in found])
        hypotheses = [Hypothesis(at.values, (point,)) for at, point in zip(found, grid, strict=True)]
        names = tuple(parameter.name for parameter in params)
        label = f"toys for a region of {', '.join(names)}" if progress else ""
        pool = None if pool is None else count(pool, "pool=", least=1)
        toys = rises_in_toys(
            nll,
            params,
            hypotheses,
            n_toys,
            minimizer=minimizer,
            seed=seed,
            executor=executor,
            pool=pool,
            progress=label,
        )
    worth = [one.pool for one in toys if one.pool is not None]
    rises = [one.rise[np.isfinite(one.rise[:, 0]), 0] for one in toys]
    p_values = np.array([np.mean(rise >= value - _TIE) for rise, value in zip(rises, t, strict=True)])
    table = pd.DataFrame(np.array(grid), columns=list(names)).assign(
        t=t,
        p_value=p_values,
        error=np.sqrt(p_values * (1 - p_values) / [len(rise) for rise in rises]),
        inside=p_values > 1 - cl,
    )
    inside = [point.values for point, is_inside in zip(found, table["inside"], strict=True) if is_inside]
    warn_of_extrapolation(nll.model, inside, f"fits in the region of {', '.join(names)}")
    for name in _cut(params, axes, table):
        warn(f"the region goes on beyond the points of {name!r}: give more of them (points=)")
    pools = reduce(PoolWorth.worst, worth) if worth else None
    return FeldmanCousins(names, cl, n_toys, tuple(best.values[parameter] for parameter in params), table, pools)


_COLUMNS = ("t", "p_value", "error", "inside")


def _checked_pois(nll: zfit.loss.UnbinnedNLL, pois: Any) -> list[zfit.Parameter]:
    given = list(pois) if isinstance(pois, Sequence) and not isinstance(pois, str) else [pois]
    params = [parameter_of(nll, one, "a parameter of interest") for one in given]
    if len(params) not in (1, 2) or len(set(params)) < len(params):
        raise ValueError(f"a region is of one or of two different parameters; got {[one.name for one in params]}")
    if taken := [one.name for one in params if one.name in _COLUMNS]:
        raise ValueError(f"the table of a region has columns {list(_COLUMNS)} of its own: give {taken} other names")
    return params


def _axes(
    best: KnownMinimum, params: Sequence[zfit.Parameter], points: Any, n_points: int, cl: float
) -> list[np.ndarray]:
    """Values of each parameter, inside of its limits."""
    if points is None:
        if not best.is_regular:
            raise ValueError("the likelihood is flat or has no minimum: give points=")
        reach = float(norm.isf((1 - cl) / 2)) + _BEYOND
        return [best.grid(one, reach, n_points) for one in params]
    given = list(points)
    given = [points] if len(params) == 1 and (not given or np.ndim(given[0]) == 0) else given
    if len(given) != len(params):
        raise ValueError(f"points= has values of each of {[one.name for one in params]}; got {len(given)} sequences")
    axes = [np.unique(numbers(one, "points=")) for one in given]
    for one, values in zip(params, axes, strict=True):
        low, high = limits_of(one)
        if values[0] < low or values[-1] > high:
            raise ValueError(f"points= of {one.name!r} go from {values[0]:g} to {values[-1]:g}, outside of its limits")
    return axes


def _cut(params: Sequence[zfit.Parameter], axes: list[np.ndarray], table: pd.DataFrame) -> list[str]:
    """Names of parameters whose outermost points are inside of the region and not at a limit."""
    names = []
    for parameter, values in zip(params, axes, strict=True):
        ends = [end for end, limit in zip(values[[0, -1]], limits_of(parameter), strict=True) if end != limit]
        if table["inside"][table[parameter.name].isin(ends)].any():
            names.append(parameter.name)
    return names


def _parts(x: np.ndarray, height: np.ndarray) -> list[tuple[float, float]]:
    """Ends of where a height is positive."""
    parts = []
    for inside, group in itertools.groupby(range(len(x)), lambda index: bool(height[index] > 0)):
        if inside:
            rows = list(group)
            parts.append((_edge(x, height, rows[0], -1), _edge(x, height, rows[-1], +1)))
    return parts


def _falling(p_values: np.ndarray) -> np.ndarray:
    """p-values nearest to these, in squares, that fall to both sides of the largest."""
    top = int(np.argmax(p_values))
    left, right = (isotonic_regression(side, increasing=False).x for side in (p_values[top::-1], p_values[top:]))
    return np.concatenate([left[:0:-1], right])


def _edge(x: np.ndarray, height: np.ndarray, row: int, side: int) -> float:
    """Where the region ends beside its last point: at the end of the points, or where the p-value crosses."""
    other = row + side
    if not 0 <= other < len(x):
        return float(x[row])
    return float(x[row] + (x[other] - x[row]) * height[row] / (height[row] - height[other]))

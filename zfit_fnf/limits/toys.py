r"""CLs upper limits from toys, where there are too few events for asymptotic formulae.

.. math:: \mathrm{CLs}(\mu) = \frac{P(\tilde q_\mu \ge \tilde q_\mu^\mathrm{obs} \,|\, \mu)}
    {P(\tilde q_\mu \ge \tilde q_\mu^\mathrm{obs} \,|\, 0)}

is the ratio of two shares of toys, those of :math:`\mu` and those of background only, each with the nuisances that fit the
data best there. Its logarithm is close to a parabola in :math:`\mu`: one is fitted to the points around the limit, so that
all their toys tell where that is.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import NamedTuple

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.stats import norm

from ..common.parallel import Executor
from ..common.warning import warn
from ..param import axis_title
from ..profiles import ProfileLikelihood
from ..state import current_values, global_observables, measured_values, preserved
from .asymptotic import asymptotic_limit
from .neyman import Hypothesis, Rises, rises_in_toys
from .results import BANDS, COLUMNS, LimitResult, PoolWorth

__all__ = ["toy_limit"]

_POINTS = 10  # values of the parameter at which toys are made
_AROUND = 0.5, 1.6  # the first and the last, in units of the least and the largest asymptotic limit
_TIE = 1e-3  # test statistics that differ by less are equal: those of one outcome differ by the tolerance of fits
_FALL = 0.05  # of the likelihood above zero that fits do not make, but a second minimum,
_SEVERAL = 0.01  # in at least this share of the toys
_NEAR = 8.0  # factor of CLs up to which points tell where a limit is
_PRECISE = 0.2  # relative statistical error, above which an expected limit is not given


def toy_limit(
    nll: zfit.loss.UnbinnedNLL,
    poi: zfit.Parameter,
    cl: float,
    *,
    postfit: bool,
    minimizer: zfit.minimize.BaseMinimizer | None,
    n_asimov: int,
    n_toys: int,
    seed: int,
    executor: Executor | None,
    pool: int | None,
    progress: bool,
) -> LimitResult:
    """Upper limits from toys; arguments as those of `zfit_fnf.limits.upper_limit`, checked."""
    guess = asymptotic_limit(
        nll, poi, cl, postfit=postfit, minimizer=minimizer, n_asimov=n_asimov, seed=seed, warns=False
    )
    grid = _grid(guess, poi)
    with preserved(nll):
        data = ProfileLikelihood(nll, poi, minimizer, current_values(global_observables(nll))) if postfit else None
        measured = {**current_values(nll.get_params()), **measured_values(nll)}
        truths = [{**measured, poi: mu} if data is None else data.at(mu).values for mu in (0.0, *grid)]
        observed = None if data is None else np.array([data.q(mu) for mu in grid])
        hypotheses = [Hypothesis(truths[0], ((0.0,), *((mu,) for mu in grid)))]
        hypotheses += [Hypothesis(at, ((0.0,), (mu,))) for at, mu in zip(truths[1:], grid, strict=True)]
        label = f"toys for a limit on {poi.name}" if progress else ""
        background, *signal = rises_in_toys(
            nll, [poi], hypotheses, n_toys, minimizer=minimizer, seed=seed, executor=executor, pool=pool, progress=label
        )
    worth = [one.pool for one in (background, *signal) if one.pool is not None]
    curves = _curves(grid, background, signal, observed)
    limit, error = _crossing(grid, curves["observed"], 1 - cl, poi) if postfit else (math.nan, math.nan)
    expected = _expected_limits(grid, curves, 1 - cl, poi)
    scan = pd.DataFrame({name: curve.cls for name, curve in curves.items()}, index=pd.Index(grid, name=poi.name))
    pools = reduce(PoolWorth.worst, worth) if worth else None
    return LimitResult(poi.name, cl, limit, expected, guess.best_fit, scan, axis_title(poi), n_toys, error, pools)


class _Curve(NamedTuple):
    """CLs at the points of a grid, and variances of its logarithm, from toys of each point and from those that all share."""

    cls: np.ndarray
    variance: np.ndarray
    shared: np.ndarray


def _grid(guess: LimitResult, poi: zfit.Parameter) -> np.ndarray:
    limits = [value for value in (guess.observed, *guess.expected) if math.isfinite(value)]
    high = _AROUND[1] * max(limits)
    return np.geomspace(_AROUND[0] * min(limits), high if poi.upper is None else min(high, float(poi.upper)), _POINTS)


def _test_statistic(toys: Rises, mu: float, column: int) -> np.ndarray:
    r"""The statistic :math:`\tilde q_\mu` of toys whose fits have converged; their first point is zero.

    Raises:
        ValueError: If best fits below zero do not stand for zero, since the likelihood falls again above it.
    """
    best, rise, at_zero = toys.best[:, 0], toys.rise[:, column], toys.rise[:, 0]
    if np.mean((best < 0) & (rise < at_zero - _FALL)) > _SEVERAL:
        raise ValueError(
            "toys have a second minimum above zero beside the one below, as couplings have whose sign is not known: give the "
            "parameter of interest a lower limit of zero"
        )
    q = np.where(mu <= best, 0.0, np.where(best < 0, np.maximum(rise - at_zero, 0.0), rise))
    return q[np.isfinite(best) & np.isfinite(rise)]


def _curves(grid: np.ndarray, background: Rises, signal: list[Rises], observed: np.ndarray | None) -> dict[str, _Curve]:
    """CLs of the data, and those that background only gives if it fluctuates, at each point."""
    rows = []
    for index, mu in enumerate(grid):
        of_signal, of_background = _test_statistic(signal[index], mu, 1), _test_statistic(background, mu, index + 1)
        # The larger the statistic is, the smaller is CLs: the quantiles of CLs are those of the statistic, turned around.
        outcomes = np.quantile(of_background, norm.sf(BANDS), method="closest_observation")
        q = np.concatenate([[] if observed is None else [observed[index]], outcomes])
        rows.append([_cls(one, of_signal, of_background) for one in q])
    names = [*([] if observed is None else ["observed"]), *COLUMNS]
    return {name: _Curve(*np.array(rows)[:, column].T) for column, name in enumerate(names)}


def _cls(q: float, of_signal: np.ndarray, of_background: np.ndarray) -> tuple[float, float, float]:
    """CLs of an outcome, and variances of its logarithm from binomial numbers of toys with signal and of background."""
    shares = [float(np.mean(toys >= q - _TIE)) for toys in (of_signal, of_background)]
    if not all(shares):
        return 0.0, math.inf, math.inf
    sizes = len(of_signal), len(of_background)
    signal, background = ((1 - share) / (n * share) for share, n in zip(shares, sizes, strict=True))
    return shares[0] / shares[1], signal, background


def _expected_limits(
    grid: np.ndarray, curves: dict[str, _Curve], alpha: float, poi: zfit.Parameter
) -> tuple[float, ...]:
    """Where the bands cross; those whose outcomes are too rare among so many toys are not numbers, which is told."""
    limits, reasons = [], []
    for name in COLUMNS:
        try:
            limit, error = _crossing(grid, curves[name], alpha, poi)
            if error > _PRECISE * limit:
                raise RuntimeError(f"{limit:.2g} +- {error:.2g}: take more toys (n_toys=)")
            limits.append(limit)
        except (ValueError, RuntimeError) as reason:
            limits.append(math.nan)
            reasons.append(f"{name} ({reason})")
    if reasons:
        warn(f"some expected limits are not known: {'; '.join(reasons)}")
    return tuple(limits)


def _crossing(grid: np.ndarray, curve: _Curve, alpha: float, poi: zfit.Parameter) -> tuple[float, float]:
    """Where CLs is ``alpha``, and the statistical error of that."""
    if not curve.cls.min() < alpha < curve.cls.max():
        side, end = ("above", grid[-1]) if curve.cls.min() >= alpha else ("below", grid[0])
        raise ValueError(
            f"a limit is {side} {poi.name} = {end:.4g}, where toys end: make the upper limit that {poi.name!r} has larger, "
            "or take more toys (n_toys=)"
        )
    height = np.full(len(grid), np.inf)
    told = (curve.cls > 0) & (curve.variance > 0)  # where all toys are above, CLs is one, whatever the parameter is
    height[told] = np.abs(np.log(curve.cls[told] / alpha))
    if told.sum() < 2:
        raise RuntimeError(f"too few values of {poi.name!r} tell where CLs falls: take more toys (n_toys=)")
    near = told & (height <= max(np.log(_NEAR), np.sort(height)[3]))
    weights = 1 / np.sqrt(np.maximum(curve.variance[near], 1e-8))
    middle, scale = grid[near].mean(), np.ptp(grid[near])
    x, y = (grid[near] - middle) / scale, np.log(curve.cls[near] / alpha)
    coefficients, covariance = np.polyfit(x, y, min(2, near.sum() - 1), w=weights, cov="unscaled")
    roots = np.roots(coefficients)
    roots = roots[np.isreal(roots)].real
    ends = (grid[[0, -1]] - middle) / scale
    falling = roots[(np.polyval(np.polyder(coefficients), roots) < 0) & (ends[0] <= roots) & (roots <= ends[1])]
    if not len(falling):
        raise RuntimeError(f"CLs of {poi.name!r} does not fall where the limit is: take more toys (n_toys=)")
    root = falling[np.argmin(np.abs(falling))]
    powers = root ** np.arange(len(coefficients))[::-1]
    slope = np.polyval(np.polyder(coefficients), root)
    shared = curve.shared[near][np.argmin(np.abs(x - root))]
    error = np.sqrt(powers @ covariance @ powers + shared)
    return float(middle + scale * root), float(scale * error / abs(slope))

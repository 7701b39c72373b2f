r"""CLs upper limits and discovery significances from asymptotic formulae (arXiv:1007.1727).

The test statistics are ratios of profile likelihoods,

.. math::
    \tilde q_\mu = -2 \ln \frac{L(\mu, \hat{\hat\nu}(\mu))}{L(\max(\hat\mu, 0), \hat\nu)} \quad (\mu \ge \hat\mu),
    \qquad
    q_0 = -2 \ln \frac{L(0, \hat{\hat\nu}(0))}{L(\hat\mu, \hat\nu)} \quad (\hat\mu > 0),

and zero otherwise. Their distributions follow from the same ratio in the Asimov set of the other hypothesis
(:func:`zfit_fnf.toys.asimov`), which needs no histogram. A limit is where CLs crosses a line; it is found by
interpolation between points each of which costs a fit, two or three of them for a limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.interpolate import BarycentricInterpolator
from scipy.stats import norm

from ..arguments import check_likelihood, check_minimizer, count, parameter_of, real, warn_of_extrapolation
from ..common.warning import warn
from ..loss import channels_of
from ..param import Nuisance, axis_title, limits_of
from ..profiles import ProfileLikelihood
from ..state import current_values, global_observables, measured_values, preserved
from ..toys import Values, asimov
from .results import BANDS, COLUMNS, DiscoveryResult, LimitResult
from .weights import check_weights

__all__ = ["asymptotic_limit", "checked_poi", "discovery", "log_cls", "log_expected_cls"]

_TRIALS = 30  # values to try at most in search of one limit
_FURTHEST = 10.0  # times the largest value that was tried: how far to extrapolate
_CLOSE = 0.01  # how close to a value that was tried, relative to the range searched, a limit may be interpolated
_BENT = 5.0  # how much steeper than on average the function may be there
_FEW = 10.0  # events, below which asymptotic limits are off by several per cent


def asymptotic_limit(
    nll: zfit.loss.UnbinnedNLL,
    poi: zfit.Parameter,
    cl: float,
    *,
    postfit: bool,
    minimizer: zfit.minimize.BaseMinimizer | None,
    n_asimov: int,
    seed: int,
    warns: bool = True,
) -> LimitResult:
    """Upper limits by asymptotic formulae; arguments as those of `zfit_fnf.limits.upper_limit`, checked."""
    with preserved(nll):
        data = None
        if postfit:
            data = ProfileLikelihood(nll, poi, minimizer, current_values(global_observables(nll)))
        at = (
            {**current_values(nll.get_params()), **measured_values(nll), poi: 0.0}
            if data is None
            else data.at(0.0).values
        )
        experiment = asimov(nll, params=at, n_events=n_asimov, seed=seed)
        background = ProfileLikelihood(
            experiment.loss(nll), poi, minimizer, experiment.observed, truth=experiment.truth
        )
        limits = _expected_limits(background, 1 - cl)
        observed = best_fit = math.nan
        if data is not None:
            best_fit = data.best(above=0.0).values[poi]
            observed = _observed_limit(data, background, 1 - cl, sigma=limits[2] / norm.isf((1 - cl) / 2))
        scan = _scan(background, data)
        # The search for a limit may have gone further.
        points = background.reached((1.0 + _CLOSE) * max(limits))
        points += [] if data is None else data.reached((1.0 + _CLOSE) * observed)
        warn_of_extrapolation(nll.model, points, f"fits for limits on {poi.name}")
        at[poi] = limits[2]
        n_events = [_n_relevant(nll, poi, at, experiment.data)]
        n_events += [] if data is None else [_n_relevant(nll, poi, at, nll.data)]
    if warns:
        _warn_of_few(poi, n_events, "limits come out too strong, by up to 20 %", 'upper_limit(..., calculator="toys")')
    return LimitResult(poi.name, cl, observed, limits, best_fit, scan, axis_title(poi))


def discovery(
    nll: zfit.loss.UnbinnedNLL,
    poi: zfit.Parameter | str,
    *,
    null: float = 0.0,
    expected_at: float | None = None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    n_asimov: int = 20_000,
    seed: int = 0,
) -> DiscoveryResult:
    r"""Significance of an excess of a parameter over its value without signal, by asymptotic formulae.

    The test statistic is :math:`q_0`. The expected significance is that of an Asimov set with the nuisances that fit
    the data best at ``expected_at``. Parameters and global observables are restored at the end.

    Args:
        nll: The likelihood.
        poi: The parameter of interest, or its name, floating.
        null: Its value without signal.
        expected_at: Its value for the expected significance; by default the best fit.
        minimizer: By default `zfit_fnf.Minuit`.
        n_asimov: Events for each component of the Asimov set.
        seed: Seed of the Asimov set.

    Returns:
        Observed and expected significances and p-values.

    Warns:
        UserWarning: If the excess rests on fewer than ten events.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: As for `upper_limit`, or if ``null`` or ``expected_at`` are outside of the parameter's limits.
        RuntimeError: If a fit does not converge.

    Example:
        >>> discovery(nll, mu, expected_at=1.0).expected_significance
    """
    poi = checked_poi(nll, poi, real(null, "null="), minimizer, n_asimov)
    if expected_at is not None:
        _check_range(poi, real(expected_at, "expected_at="))
    check_weights(nll, [poi], minimizer)
    with preserved(nll):
        data = ProfileLikelihood(nll, poi, minimizer, current_values(global_observables(nll)))
        best_fit = data.best(above=null).values[poi]
        observed = data.excess(null)
        at = best_fit if expected_at is None else expected_at
        values = data.at(at).values
        warn_of_extrapolation(nll.model, data.reached(math.inf), f"fits for the significance of {poi.name}")
        experiment = asimov(nll, params=values, n_events=n_asimov, seed=seed)
        n_events = [_n_relevant(nll, poi, values, experiment.data)]
        expected = ProfileLikelihood(
            experiment.loss(nll), poi, minimizer, experiment.observed, truth=experiment.truth
        ).excess(null)
    _warn_of_few(poi, n_events, "significances are not precise", "zfit_fnf.hepstats.FrequentistCalculator")
    return DiscoveryResult(
        poi.name, null, best_fit, observed, float(norm.sf(observed)), at, expected, float(norm.sf(expected))
    )


def log_cls(q: float, q_asimov: float) -> float:
    r"""Logarithm of CLs from :math:`\tilde q_\mu` in data and in the background-only Asimov set.

    Args:
        q: In data.
        q_asimov: In the Asimov set.
    """
    root = math.sqrt(max(q_asimov, 1e-300))
    if q <= q_asimov:
        return float(norm.logsf(math.sqrt(q)) - norm.logsf(math.sqrt(q) - root))
    return float(norm.logsf((q + q_asimov) / (2 * root)) - norm.logsf((q - q_asimov) / (2 * root)))


def log_expected_cls(q_asimov: float, band: float) -> float:
    """Logarithm of the CLs that background only gives if it fluctuates.

    Args:
        q_asimov: Test statistic in the background-only Asimov set.
        band: The fluctuation in standard deviations; 0 for the median.
    """
    return float(norm.logsf(math.sqrt(q_asimov) - band) - norm.logcdf(band))


def _expected_limits(background: ProfileLikelihood, alpha: float) -> tuple[float, ...]:
    """Where the root of the test statistic, almost a straight line, has the value that belongs to each band."""
    step = float(background.poi.stepsize)

    def limit(root: float) -> float:
        return _crossing(lambda value: math.sqrt(background.q(value)) - root, background.known(), step, background.poi)

    return tuple(limit(norm.isf(alpha * norm.cdf(band)) + band) for band in BANDS)


def _observed_limit(data: ProfileLikelihood, background: ProfileLikelihood, alpha: float, *, sigma: float) -> float:
    """Where CLs is ``alpha``; found on a scale on which it is a straight line for a parabola of width ``sigma``."""
    best_fit = data.best(above=0.0).values[data.poi]
    clb = norm.cdf(best_fit / sigma)

    def straight(log_p: float) -> float:
        return float(norm.isf(clb * max(math.exp(log_p), 1e-300)))

    target = straight(math.log(alpha))

    def excluded(value: float) -> float:
        return straight(log_cls(data.q(value), background.q(value))) - target

    return _crossing(excluded, {best_fit}, best_fit + sigma * target, data.poi)


def _crossing(function: Callable[[float], float], tried: set[float], guess: float, poi: zfit.Parameter) -> float:
    """Where an almost linear, increasing function is zero; it is negative at the least of the values tried before."""
    low, highest = min(tried), math.inf if poi.upper is None else float(poi.upper)
    known = {value: function(value) for value in tried}
    trial = guess if len(known) == 1 else _interpolate(known)
    for _ in range(_TRIALS):
        trial = min(trial, highest)
        known[trial] = function(trial)
        if trial == highest and known[trial] < 0:
            raise ValueError(
                f"a limit is above {poi.name} = {highest:g}, the upper limit that the parameter {poi.name!r} has: make "
                "that larger"
            )
        root = _interpolate(known)
        # The second condition is the first one for a straight line; where there is none, the first may hold by chance.
        if abs(root - trial) < _CLOSE * (trial - low) and abs(known[trial]) <= _BENT * _CLOSE * abs(known[low]):
            return root
        trial = root
    raise RuntimeError(f"no limit found: the likelihood around {poi.name} = {trial:g} is not smooth")


def _interpolate(known: Mapping[float, float]) -> float:
    """Where a function is zero, from the three known points that come closest; inside of where it must be."""
    low = max(value for value, function in known.items() if function <= 0)
    high = min((value for value, function in known.items() if function > 0), default=_FURTHEST * low)
    # A coarse Asimov set can give several values the same function: an inverse exists between distinct ones only.
    inverse = {function: value for value, function in known.items()}
    closest = sorted(inverse, key=abs)[:3]
    if len(closest) == 1:
        return 0.5 * (low + high)
    root = float(BarycentricInterpolator(closest, [inverse[function] for function in closest])(0.0))
    return root if low < root < high else 0.5 * (low + high)


def _scan(background: ProfileLikelihood, data: ProfileLikelihood | None) -> pd.DataFrame:
    """CLs at all values that were tried."""
    index = pd.Index(sorted(background.known()), name=background.poi.name)
    columns = {}
    if data is not None:
        columns["observed"] = [math.exp(log_cls(data.q(value), background.q(value))) for value in index]
    for name, band in zip(COLUMNS, BANDS, strict=True):
        columns[name] = [math.exp(log_expected_cls(background.q(value), band)) for value in index]
    return pd.DataFrame(columns, index=index)


def _n_relevant(nll: zfit.loss.UnbinnedNLL, poi: zfit.Parameter, at: Values, data: Sequence[zfit.Data]) -> float:
    r"""How many events a parameter is measured with, :math:`(\sum_i w_i s_i^2)^2 / \sum_i w_i s_i^4` of their scores.

    That is the number of events where all are alike, as in a counting experiment, and those under a narrow peak.
    """
    with zfit.param.set_values(list(at), list(at.values())):
        moments = np.zeros(2)
        for channel, events in zip(channels_of(nll), data, strict=True):
            weights, scores = channel.scored(events, [poi])
            squares = scores[:, 0] ** 2
            moments += [weights @ squares, weights @ squares**2]
    return float(moments[0] ** 2 / moments[1]) if moments[1] > 0 else 0.0


def _warn_of_few(poi: zfit.Parameter, n_events: Sequence[float], what: str, toys: str) -> None:
    if min(n_events) < _FEW:
        counts = " and ".join(f"{n:.2g} {kind}" for n, kind in zip(n_events, ("expected", "observed"), strict=False))
        warn(
            f"asymptotic formulae need more events than {counts} that this result on {poi.name} rests on: {what}. Toys do not: "
            f"{toys}"
        )


def checked_poi(
    nll: zfit.loss.UnbinnedNLL, poi: zfit.Parameter | str, value: float, minimizer: Any, n_asimov: int
) -> zfit.Parameter:
    """The parameter of interest, if all arguments are what they should be."""
    check_likelihood(nll)
    check_minimizer(minimizer)
    count(n_asimov, "n_asimov=", least=1)
    poi = parameter_of(nll, poi, "the parameter of interest")
    if isinstance(poi, Nuisance):
        raise ValueError(
            f"{poi.name!r} is a nuisance, with an auxiliary measurement: the parameter of interest has none"
        )
    _check_range(poi, value)
    return poi


def _check_range(poi: zfit.Parameter, value: float) -> None:
    low, high = limits_of(poi)
    if not low <= value <= high:
        raise ValueError(f"{poi.name!r} cannot be {value:g}: its limits are ({low:g}, {high:g}); make them wider")

"""Profile likelihoods: minima of a likelihood with some of its parameters fixed, for scans, impacts and limits.

They are found in one way: the Hessian of the best fit tells where they should be, and a few Newton steps with its updates (BFGS)
lead there. Where they do not, a minimiser fits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import zfit  # before tensorflow, which it silences
import numpy as np
from zfit.minimizers.errors import WeightCorr
from zfit.result import FitResult

from .common.warning import warn
from .minimize import Minuit
from .minimum import Derivatives, assign, curvature_of, settle, step_inside
from .param import limits_of
from .state import current_values

__all__ = ["BestFit", "ConditionalMinima", "KnownMinimum", "Point", "ProfileLikelihood", "warn_of_points"]

Values = Mapping[zfit.Parameter, float]

_NEWTON_STEPS = 12
_TOLERANCE = 1e-2  # of the distance to the minimum, which is then subtracted: what remains is of higher order
_FAR = 9.0  # twice a rise, above which the distance to a minimum has to be smaller
_PRECISE = 1e-4  # the same where the position of the minimum matters: within a hundredth of an error
_POLISHED = 1e-6  # expected vertical distance of the best fit to the minimum, after Newton steps
_MINIMUM = 1e-3  # the same, above which there is none
_ELSEWHERE = 0.1  # the same before them, above which the result is that of something else
_AT_EDGE = 1e-3  # of the error: a best fit that is not further outside is at the edge
# Where a second minimum is looked for, in errors and in distances of the best fit from the edge.
_SEARCHED = np.append(0.2, np.arange(0.5, 12.5, 0.5))
_SLACK = 0.05  # how much lower than the best fit another fit may end, by the tolerance of the minimiser


class NotConverged(RuntimeError):
    """A conditional minimum has not been found."""


@dataclass(frozen=True, eq=False)
class Point:
    """A minimum of the negative log-likelihood, and where it is."""

    nll: float
    values: dict[zfit.Parameter, float]


class KnownMinimum:
    """Minimum of a likelihood, and its second derivatives there.

    A fit ends within a tolerance of the minimum, which would shift everything that is compared with it: Newton steps go to
    the minimum itself first.

    Args:
        nll: The likelihood; its parameters are left at the minimum.
        values: Where the minimum is, within the tolerance of a fit.

    Attributes:
        values: Where it is, by parameter.
        lowest: The negative log-likelihood there.
        edm: Expected vertical distance to the minimum that remains.
        flat: Names of parameters that the likelihood does not depend on.
        is_regular: Whether this is a minimum, with a Hessian that is positive definite.
        unit: Rise of the likelihood of weighted data that is worth as much as one of unweighted events is, at most one.
        errors: From the Hessian, by parameter; weights of events are not corrected for.
        covariance: Likewise, ``(P, P)``.
    """

    def __init__(self, nll: zfit.loss.UnbinnedNLL, values: Values):
        self.nll, self.params = nll, list(nll.get_params())
        derivatives = Derivatives(nll, self.params)
        self.low, self.high = derivatives.low, derivatives.high
        start = np.clip([values[parameter] for parameter in self.params], self.low, self.high)
        self.unit = derivatives.unit
        minimum = settle(derivatives, start, goal=_POLISHED * self.unit, within=_ELSEWHERE)
        curvature = curvature_of(minimum, derivatives)
        self.edm = minimum.edm
        self.flat = [parameter.name for parameter, none in zip(self.params, curvature.flat, strict=True) if none]
        self.is_regular = bool(minimum.edm <= _MINIMUM and curvature.is_minimum and not self.flat)
        self.values = dict(zip(self.params, minimum.values.tolist(), strict=True))
        self.gradient, self.hessian = minimum.gradient, minimum.hessian
        self.covariance = curvature.covariance
        self.errors = dict(zip(self.params, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))
        assign(self.params, minimum.values)
        self.lowest = float(nll.value(full=True))  # full: as precise as it has to be, also of an accelerated likelihood

    def covariance_of_data(self, fixed: Collection[zfit.Parameter] = ()) -> np.ndarray:
        """Covariance ``(P, P)`` with some parameters fixed here; other than `covariance`, it is that of weighted events too.

        Not numbers in the rows of those that are fixed, and of those at a limit.
        """
        free = [i for i, one in enumerate(self.params) if one not in fixed and np.isfinite(self.errors[one])]
        params, found = [self.params[i] for i in free], np.full_like(self.hessian, np.nan)
        inverse = np.linalg.inv(self.hessian[np.ix_(free, free)])
        if params and getattr(self.nll, "is_weighted", False) and hasattr(self.nll, "weighted_covariance"):
            with zfit.param.set_values(self.params, list(self.values.values())):
                inverse = np.asarray(self.nll.weighted_covariance(inverse, params, WeightCorr.ASYMPTOTIC))
        found[np.ix_(free, free)] = inverse
        return found

    def width(self, parameter: zfit.Parameter, n_sigma: float) -> float:
        """Distance at which the likelihood has risen as it does within so many errors; from a limit, towards the inside."""
        if np.isfinite(self.errors[parameter]):
            return n_sigma * self.errors[parameter]
        index = self.params.index(parameter)
        slope, curvature = abs(self.gradient[index]), max(self.hessian[index, index], 0.0)
        return n_sigma**2 / (slope + np.sqrt(slope**2 + curvature * n_sigma**2))

    def grid(self, parameter: zfit.Parameter, n_sigma: float, n_points: int) -> np.ndarray:
        """Even grid of a parameter around the best fit, inside of its limits."""
        centre, width = self.values[parameter], self.width(parameter, n_sigma)
        low, high = limits_of(parameter)
        return np.linspace(max(centre - width, low), min(centre + width, high), n_points)

    def refuse_lower(self, points: Iterable[Point], fixed: Sequence[zfit.Parameter]) -> None:
        """Refuse to compare points with this minimum where it is a local one.

        Args:
            points: Minima with some parameters fixed.
            fixed: These.

        Raises:
            RuntimeError: If one of them is below.
        """
        point = min(points, key=lambda one: one.nll)
        if point.nll < self.lowest - _SLACK:
            at = ", ".join(f"{parameter.name} = {point.values[parameter]:g}" for parameter in fixed)
            raise RuntimeError(
                f"with {at} the fit ended {self.lowest - point.nll:.3g} below that of all parameters, a local minimum: start "
                "from other values, or give another minimizer="
            )


class BestFit(KnownMinimum):
    """Best fit of a likelihood, with errors.

    Args:
        nll: The likelihood.
        result: Its best fit.

    Raises:
        ValueError: If the result is not a minimum of this likelihood, or the Hessian there is not positive definite.
    """

    def __init__(self, nll: zfit.loss.UnbinnedNLL, result: FitResult):
        fitted = {getattr(one, "name", one): float(found["value"]) for one, found in result.params.items()}
        params = {parameter.name: parameter for parameter in nll.get_params()}
        if set(fitted) != set(params):
            raise ValueError(
                f"the result is not one of this likelihood: only it has {sorted(set(fitted) - set(params))}, and it lacks "
                f"{sorted(set(params) - set(fitted))}"
            )
        super().__init__(nll, {params[name]: value for name, value in fitted.items()})
        if not self.edm <= _MINIMUM:
            other = "" if result.loss is nll else ", which is not the one that was fitted"
            raise ValueError(
                f"the result is not at a minimum of this likelihood{other}: its expected vertical distance is "
                f"{self.edm:.3g}. Fit it: zfit_fnf.Minuit().minimize(nll)"
            )
        if not self.is_regular:
            why = f"it does not depend on {self.flat}" if self.flat else "the fit did not end at a minimum"
            raise ValueError(f"the Hessian at the best fit is not positive definite: {why}")


class ConditionalMinima:
    """Minima of a likelihood with some parameters fixed.

    Args:
        best_fit: The minimum without.
        fixed: The parameters that are fixed.
        minimizer: For the points that Newton steps do not solve; by default `zfit_fnf.Minuit`.
    """

    def __init__(
        self, best_fit: KnownMinimum, fixed: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer | None
    ):
        self.best, self._nll, self._lowest = best_fit.values, best_fit.nll, best_fit.lowest
        self._fixed = list(fixed)
        self._others = [parameter for parameter in self.best if parameter not in fixed]
        self._minimizer = Minuit() if minimizer is None else minimizer
        self._steps, self._precise = best_fit.is_regular, _PRECISE * best_fit.unit
        every = list(self.best)
        moving, still = ([every.index(parameter) for parameter in part] for part in (self._others, self._fixed))
        self._curvature, self._mixed = (best_fit.hessian[np.ix_(moving, part)] for part in (moving, still))
        self._slope = best_fit.gradient[moving]
        self._low, self._high = best_fit.low[moving], best_fit.high[moving]

    def at(self, point: Sequence[float], *, tolerance: float | None = None) -> Point:
        """The minimum with the parameters fixed to these values; the parameters are left there.

        Raises:
            NotConverged: If it was not found.
        """
        tolerance = self._precise if tolerance is None else tolerance
        if (found := self.by_steps(point, tolerance=tolerance)) is not None:
            return found
        zfit.param.set_values(self._others, self._start(point), clip=True)
        if not np.isfinite(self._nll.value(full=False)):
            # A background of none, as fits best beside a signal, is impossible without: start beside the limits.
            steps = np.minimum([float(one.stepsize) for one in self._others], 0.25 * (self._high - self._low))
            zfit.param.set_values(self._others, np.clip(self._start(point), self._low + steps, self._high - steps))
            if np.isposinf(self._nll.value(full=False)):  # whatever the others are, as of no events at all
                return self._found(point, current_values(self._others).values(), np.inf)
        minimise(self._nll, self._others, self._minimizer)
        value, _ = self._nll.value_gradient(self._others, full=True)
        return self._found(point, current_values(self._others).values(), float(value))

    def by_steps(self, point: Sequence[float], *, tolerance: float = _TOLERANCE) -> Point | None:
        """The same if Newton steps lead there; none otherwise."""
        assign(self._fixed, point)
        if not self._others:
            return self._found(point, [], float(self._nll.value_gradient(self._fixed, full=True)[0]))
        for position, value, distance in self._newton(self._start(point)):
            # Far out the Hessian of the best fit may be another one, by which a minimum seems nearer than it is.
            is_far = 2.0 * (value - self._lowest) > _FAR
            if distance < (min(tolerance, self._precise) if is_far else tolerance):
                return self._found(point, position, value - distance)
        return None

    def delta(self, point: Sequence[float]) -> float:
        """Twice the rise of the conditional minimum above the best fit; not a number where that was not found."""
        return self.rise(point)[0]

    def rise(self, point: Sequence[float]) -> tuple[float, dict[str, float]]:
        """The same, and the values of all parameters there by name, none of them where it was not found."""
        try:
            found = self.at(point, tolerance=_TOLERANCE)
        except NotConverged:
            return math.nan, {}
        return 2.0 * (found.nll - self._lowest), {one.name: value for one, value in found.values.items()}

    def position(self, point: Sequence[float]) -> dict[zfit.Parameter, float]:
        """Values of all parameters at the conditional minimum; not numbers where that was not found."""
        try:
            return self.at(point).values
        except NotConverged:
            return dict.fromkeys(self.best, math.nan)

    def _found(self, point: Sequence[float], position: Iterable[float], nll: float) -> Point:
        values = {**dict(zip(self._fixed, point, strict=True)), **dict(zip(self._others, position, strict=True))}
        return Point(nll, {parameter: float(values[parameter]) for parameter in self.best})

    def _start(self, point: Sequence[float]) -> np.ndarray:
        """Where the other parameters should be by the Hessian of the best fit."""
        start = np.array([self.best[parameter] for parameter in self._others])
        moved = np.asarray(point) - [self.best[parameter] for parameter in self._fixed]
        slope = self._slope + self._mixed @ moved
        return start + step_inside(start, slope, self._curvature, self._low, self._high)[0]

    def _newton(self, position: np.ndarray) -> Iterator[tuple[np.ndarray, float, float]]:
        """Step by step, inside of the limits: where it leads, the value before and its distance."""
        curvature, before = self._curvature, None
        for _ in range(_NEWTON_STEPS if self._steps else 0):
            assign(self._others, position)
            value, tensor = self._nll.value_gradient(self._others, full=True)
            gradient = np.asarray(tensor)
            if not np.isfinite([float(value), *gradient]).all():
                return
            if before is not None:
                curvature = _updated(curvature, position - before[0], gradient - before[1])
            before = position, gradient
            step, distance = step_inside(position, gradient, curvature, self._low, self._high)
            if not np.isfinite(distance):
                return
            position = np.clip(position + step, self._low, self._high)
            yield position, float(value), distance


def _updated(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The Hessian after a step and the change of the gradient that came with it (BFGS)."""
    curvature, expected = step @ change, hessian @ step
    if not curvature > 0:
        return hessian
    return hessian - np.outer(expected, expected) / (step @ expected) + np.outer(change, change) / curvature


def warn_of_points(params: Sequence[zfit.Parameter], points: Sequence[tuple[float, ...]], delta: np.ndarray) -> None:
    """Tell of points whose minimum was not found, and of the lowest, if it is below the best fit.

    Args:
        params: Parameters that were fixed.
        points: To what values each time.
        delta: Twice the rise above the best fit ``(n,)``; not a number where it was not found.
    """

    def at(index: int) -> str:
        return ", ".join(f"{one.name} = {x:g}" for one, x in zip(params, points[index], strict=True))

    if len(missing := np.flatnonzero(np.isnan(delta))):
        warn(
            f"{len(missing)} of {len(points)} fits did not converge and are not numbers, the first of them with "
            f"{at(missing[0])}: take a smaller range, or give another minimizer="
        )
    if np.nanmin(delta, initial=0.0) < -2.0 * _SLACK:
        warn(
            f"the likelihood is larger with {at(int(np.nanargmin(delta)))} than at the best fit, a local minimum: start there"
        )


def minimise(
    nll: zfit.loss.UnbinnedNLL, params: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer
) -> None:
    """Fit from the current values, to the minimum; a fit that does not converge is continued once.

    Raises:
        NotConverged: If it does not converge then either.
    """
    for _ in range(2):
        result = minimizer.minimize(nll, params)
        zfit.param.set_values(params, result, clip=True)
        if result.converged:
            return
    fixed = [parameter for parameter in nll.get_params() if parameter not in params]
    at = ", ".join(f"{parameter.name} = {float(parameter.value()):g}" for parameter in fixed)
    raise NotConverged(
        f"a fit {f'with {at}' if at else 'of all parameters'} did not converge: {result.message}. Check that the data "
        "constrain all parameters, start from other values, or give another minimizer="
    )


class ProfileLikelihood:
    """Profile likelihood of one parameter; remembers its points.

    Args:
        loss: The likelihood.
        poi: The parameter.
        minimizer: What fits; by default `zfit_fnf.Minuit`.
        observed: Global observables that belong to the likelihood.
        truth: Where its minimum is, if that is known: in an Asimov set.
    """

    def __init__(
        self,
        loss: zfit.loss.UnbinnedNLL,
        poi: zfit.Parameter,
        minimizer: zfit.minimize.BaseMinimizer | None,
        observed: Values,
        *,
        truth: Values | None = None,
    ):
        self.loss, self.poi, self._observed = loss, poi, observed
        zfit.param.set_values({**observed, **(truth or {})}, clip=True)
        if truth is None:
            minimise(loss, list(loss.get_params()), Minuit() if minimizer is None else minimizer)
        best = KnownMinimum(loss, current_values(loss.get_params()))
        self._minima, self._minimizer = ConditionalMinima(best, [poi], minimizer), minimizer or Minuit()
        self._minimum, self._best = best, Point(best.lowest, best.values)
        self._points = {best.values[poi]: self._best}
        self._width = best.width(poi, 1.0)
        self._above: dict[float, Point] = {}

    def at(self, value: float) -> Point:
        """The minimum with the parameter fixed to a value."""
        if value not in self._points:
            zfit.param.set_values(self._observed)
            point = self._points[value] = self._minima.at([value])
            self._minimum.refuse_lower([point], [self.poi])
        return self._points[value]

    def best(self, above: float) -> Point:
        """The minimum where the parameter is not below a value; fits are not exact at the edge, so it is tried too."""
        if above not in self._above:
            edge, inside = self.at(above), self._best
            if inside.values[self.poi] < above - _AT_EDGE * self._width:
                inside = self._second(edge, above)
            self._above[above] = edge if inside.values[self.poi] < above or edge.nll < inside.nll else inside
        return self._above[above]

    def _second(self, edge: Point, above: float) -> Point:
        """Another minimum above the edge, such as that of the other sign of a coupling; without one, the edge."""
        low, high = limits_of(self.poi)
        scales = np.array([[self._width], [above - self._best.values[self.poi]]])
        tried = [value for value in above + np.ravel(scales * _SEARCHED) if value < high]
        zfit.param.set_values({**self._observed, **edge.values}, clip=True)
        values = []
        for value in tried:
            self.poi.set_value(value)
            values.append(float(self.loss.value(full=True)))
        if not values or min(values) > edge.nll - _SLACK:
            return edge
        self.poi.set_value(tried[int(np.argmin(values))])
        self.poi.lower = above
        try:
            minimise(self.loss, list(self.loss.get_params()), self._minimizer)
            found = KnownMinimum(self.loss, current_values(self.loss.get_params()))
        finally:
            self.poi.lower = None if np.isinf(low) else low
        return Point(found.lowest, found.values)

    def q(self, value: float) -> float:
        r"""Test statistic :math:`\tilde q` of upper limits."""
        best = self.best(0.0)
        return 0.0 if value <= best.values[self.poi] else max(2 * (self.at(value).nll - best.nll), 0.0)

    def excess(self, null: float) -> float:
        """Root of the test statistic of discovery: the significance."""
        return math.sqrt(2 * (self.at(null).nll - self.best(null).nll))

    def known(self) -> set[float]:
        """Values at which the minimum is known."""
        return set(self._points)

    def reached(self, highest: float) -> list[Values]:
        """Values of all parameters at the minima that are known up to a value of this one."""
        return [point.values for value, point in self._points.items() if value <= highest]

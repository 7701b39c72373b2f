"""What keeps an accelerated likelihood honest: where its polynomials are made, and whether a value of theirs may be used.

:class:`Control` decides, an `Approximation` evaluates. See :mod:`zfit_fnf.acceleration` for what is controlled, and how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..loss import Parameters
from ..minimum import expected_fall, newton_step, vertical_distance
from ..param import limits_of
from .chunks import ExpandedEvents

__all__ = ["RELATIVE", "TOLERANCE", "AccelerationError", "AccelerationReport", "Approximation", "Control"]

TOLERANCE = 0.005
"""Error of the negative log-likelihood that is tolerated near the minimum."""

RELATIVE = 0.01  # error that is tolerated further away, relative to the distance from the minimum
_SEARCHING = 0.3  # of a value that only tells a minimiser how long its next step should be
_ALMOST_THERE = 1e-3  # expected vertical distance to the minimum at which the exact gradient is asked for
_NEAR = 0.1  # the same, where a fit has ended, or the pilot
_ARRIVED = 0.01  # the same, where a fit should start
_EDM = 5e-5  # largest expected vertical distance between the exact and the accelerated minimum: a hundredth of an error
_CORRECTABLE = 1e-3  # largest expected vertical distance that a linear term may make up for
_CLOSE = 0.3  # standard deviations, within which the centre need not move
_MISSES = 3  # values in a row that the polynomials cannot give, before their centre moves
_ENOUGH_EVENTS = 15_000  # to estimate the information to some per cent
_SCORING_STEPS = 30


class AccelerationError(RuntimeError):
    """The accelerated likelihood does not agree with the exact one."""


@dataclass(frozen=True)
class AccelerationReport:
    """What an accelerated likelihood did; prints as a table.

    Attributes:
        methods: How the events of each density are evaluated, by its name.
        n_expansions: How often the polynomials were made.
        n_exact: Evaluations of the exact likelihood, those of its gradient included.
        exact_events: Number of events that are evaluated exactly: densities without polynomials, or no room for them.
        exact_edm: Expected vertical distance to the minimum from the exact gradient, where it was last asked for; not a
            number before.
        value_difference: Difference of the exact and the accelerated negative log-likelihood there.
    """

    methods: dict[str, str]
    n_expansions: int = 0
    n_exact: int = 0
    exact_events: int = 0
    exact_edm: float = float("nan")
    value_difference: float = float("nan")

    def __str__(self) -> str:
        width = max(map(len, self.methods))
        return "\n".join(
            [
                f"{self.n_expansions} expansions, {self.n_exact} exact evaluations; last check: exact EDM "
                f"{self.exact_edm:.2g}, difference of the NLL {self.value_difference:.2g}",
                *(f"  {name:<{width}}  {method}" for name, method in self.methods.items()),
                *([f"  {self.exact_events} events are evaluated exactly"] if self.exact_events else []),
            ]
        )


class Approximation(Protocol):
    """A likelihood that can be evaluated exactly, or by polynomials around a centre; nothing is checked.

    Attributes:
        report: What was done.
    """

    report: AccelerationReport

    def get_params(self, floating: bool | None = True) -> Any:
        """The parameters."""

    def expanded_events(self) -> list[ExpandedEvents]:
        """The events that have polynomials, one entry for each data set."""

    def n_exact_events(self) -> int:
        """Number of events that have none."""

    def expand(self) -> None:
        """Make the polynomials around the current values of the parameters; a correction ends."""

    def correct(self, params: Parameters, slope: tf.Tensor) -> None:
        """Add a linear term that vanishes at the current values of the parameters."""

    def approximate(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Negative log-likelihood, and how wrong it may be."""

    def approximate_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Negative log-likelihood, its gradient ``(P,)``, and how wrong the former may be."""

    def exact_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """The exact negative log-likelihood and its gradient ``(P,)``."""

    def squared_scores(self, params: Parameters, *, n_events: float = np.inf) -> np.ndarray:
        """Sum over the events of the squares of the score ``(P, P)``, or an estimate from about ``n_events`` of them."""

    def constraint_hessian(self, params: Parameters) -> np.ndarray:
        """Hessian ``(P, P)`` of the constraints."""


@dataclass(eq=False)
class _Centre:
    """Where the polynomials were made, and what is known of them; another centre takes the place of all of it.

    Attributes:
        point: Values of all parameters ``(P,)``.
        value: The approximate negative log-likelihood there.
        confirmed: The point at which they were compared with the exact likelihood, if they were.
        hessian: The last Hessian that was computed, after what tells it from others.
    """

    point: np.ndarray
    value: float
    confirmed: np.ndarray | None = None
    hessian: tuple[tuple[Any, ...], tf.Tensor] | None = None


class Control:
    """Control of an approximation, for one data set; it starts by finding a centre for the polynomials.

    Args:
        approximation: What is controlled. The parameters have their values again in the end.
    """

    def __init__(self, approximation: Approximation):
        self._approximation = approximation
        self._every = list(approximation.get_params(floating=None))
        self._known_information: np.ndarray | None = None
        self._minimum: float | None = None
        self._closest, self._misses = np.inf, 0
        self._start = self._find_centre()

    # --- what is asked for --------------------------------------------------------------------------------------------

    def coarse_value(self) -> tf.Tensor:
        """What tells a minimiser how long its next step should be."""
        value, error = self._approximation.approximate()
        if not error <= self._tolerance(value, searching=True):
            self._misses += 1
            if self._misses <= _MISSES:
                return self._exact_value()
            self._move_centre()
            value, error = self._approximation.approximate()
            if not np.isfinite(error):  # so far out that the polynomials overflow
                return self._exact_value()
        self._misses = 0
        return value

    def value(self, *, confirm: bool) -> tf.Tensor:
        """A value that is right to the tolerance; where a fit without gradients may have ended, it is confirmed first."""
        if confirm and self._minimum is None:
            self._confirm_if_near()
        value, error = self._approximation.approximate()
        return value if error <= self._tolerance(value, searching=False) else self._exact_value()

    def value_gradient(self, params: Parameters, *, coarse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Value and gradient ``(P,)``; where a fit is about to stop, they are compared with the exact ones."""
        value, gradient, error = self._approximation.approximate_gradient(params)
        if not coarse and not error <= self._tolerance(value, searching=False):
            return self._approximation.exact_gradient(params)
        distance = self._distance(gradient, params)
        # Where the polynomials fail their gradient is large: it must not be what excuses them.
        tolerance = max(RELATIVE * min(self._closest, distance), self._tolerance(value, searching=True))
        if not error <= tolerance:
            self._move_centre()
            value, gradient, _ = self._approximation.approximate_gradient(params)
            distance = self._distance(gradient, params)
        self._closest = min(self._closest, distance)
        if distance < _ALMOST_THERE and not self._is_confirmed(params):
            value, gradient = self._confirm(value, gradient, params)
        self._misses = 0
        return value, gradient

    def hessian(self, compute: Callable[[], tf.Tensor], *what: Any) -> tf.Tensor:
        """A Hessian of polynomials that are good here, computed once: one minimisation starts where another one has ended.

        Args:
            compute: Gives it.
            *what: What tells it from others at the same point.
        """
        if not self._approximation.approximate()[1] <= TOLERANCE:
            self._move_centre()
        key = *what, tuple(self._point())
        if self._centre.hessian is None or self._centre.hessian[0] != key:
            self._centre.hessian = key, compute()
        return self._centre.hessian[1]

    def starting_point(self, params: Parameters) -> np.ndarray:
        """Where a fit should start: near the minimum, if that was searched for from here; ``(P,)``."""
        start, found = self._start
        here = {parameter: float(parameter.value()) for parameter in params}
        best = found if here == start else here
        return np.array([best[parameter] for parameter in params])

    def _tolerance(self, value: tf.Tensor, *, searching: bool) -> float:
        """Error that a value may have, by its distance from what matters: the minimum, as soon as it is known."""
        if self._minimum is not None:
            return max(TOLERANCE, RELATIVE * (float(value) - self._minimum))
        return max(TOLERANCE, _SEARCHING * abs(float(value) - self._centre.value)) if searching else TOLERANCE

    def _exact_value(self) -> tf.Tensor:
        # The value alone is cheaper, but it would be one more program to compile.
        return self._approximation.exact_gradient(self._floating())[0]

    # --- the centre ---------------------------------------------------------------------------------------------------

    def _find_centre(self) -> tuple[dict[zfit.Parameter, float], dict[zfit.Parameter, float]]:
        """Values of the floating parameters as they are, and where a fit that begins there should start."""
        floating = self._floating()
        here = np.array([float(parameter.value()) for parameter in floating])
        there = self._pilot(floating, here) if (searched := self._is_cheap()) else here
        with zfit.param.set_values(floating, there):
            self._move_centre()
        if searched:
            there = fisher_scoring(floating, there, self._with_information, until=_ARRIVED)
        with zfit.param.set_values(floating, there):
            if not self._approximation.approximate()[1] <= TOLERANCE:
                self._move_centre()
            self._information(floating)  # rather here than where a minimiser starts
        return dict(zip(floating, here, strict=True)), dict(zip(floating, there, strict=True))

    def _is_cheap(self) -> bool:
        """Whether all events have polynomials."""
        return bool(self._approximation.expanded_events()) and not self._approximation.n_exact_events()

    def _pilot(self, params: Parameters, start: np.ndarray) -> np.ndarray:
        """Where all events should be expanded first: the minimum that a few of them have, from where we are."""
        events = self._approximation.expanded_events()
        share = np.mean([chunks.n_pilot / len(chunks) for chunks in events])

        def expanded_here(params: Parameters) -> tuple[float, np.ndarray, np.ndarray]:
            for chunks in events:
                chunks.move_pilot()
            value, gradient, _ = self._approximation.approximate_gradient(params)
            squares = self._approximation.squared_scores(params)
            information = share * squares + self._approximation.constraint_hessian(params)
            return float(value), np.asarray(gradient), information

        return fisher_scoring(params, start, expanded_here, until=_NEAR)

    def _with_information(self, params: Parameters) -> tuple[float, np.ndarray, np.ndarray]:
        self._known_information = None
        value, gradient, _ = self._approximation.approximate_gradient(params)
        return float(value), np.asarray(gradient), self._information(params)

    def _move_centre(self) -> None:
        """Expand all events around the current values of the parameters."""
        self._approximation.expand()
        self._centre = _Centre(self._point(), float(self._approximation.approximate()[0]))

    # --- confirmation by the exact likelihood -------------------------------------------------------------------------

    def _confirm_if_near(self) -> None:
        """A fit without gradients may have ended here."""
        floating = self._floating()
        value, gradient, error = self._approximation.approximate_gradient(floating)
        near = error <= TOLERANCE and self._distance(gradient, floating) < _NEAR
        if near and not self._is_confirmed(floating):
            self._confirm(value, gradient, floating)

    def _confirm(self, value: tf.Tensor, gradient: tf.Tensor, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """Compare with the exact likelihood, and move the centre if they differ.

        What the compression of coefficients and rounding leave of the gradient after that is made up for by a linear term.
        """
        if not self._approximation.expanded_events():
            self._record_check(self._distance(gradient, params), 0.0)
            return value, gradient
        exact_value, exact_gradient = self._approximation.exact_gradient(params)
        remedies = iter(("move", "correct"))
        while True:
            distance = self._distance(exact_gradient - gradient, params)
            difference = float(exact_value - value)
            if distance <= _EDM and abs(difference) <= TOLERANCE:
                break
            correctable = distance <= _CORRECTABLE and abs(difference) <= TOLERANCE
            remedy = next(remedies, None)
            if remedy == "move" and correctable and self._is_within(_CLOSE, self._centre.point):
                remedy = next(remedies)  # the polynomials would be the same
            if remedy == "move":
                self._move_centre()
            elif remedy == "correct" and correctable:
                self._approximation.correct(params, exact_gradient - gradient)
            else:
                raise AccelerationError(
                    f"the accelerated likelihood differs from the exact one by {difference:.3g} and their minima by an "
                    f"EDM of {distance:.3g}, although its polynomials were made here: fit the exact likelihood instead"
                )
            value, gradient, _ = self._approximation.approximate_gradient(params)
            self._closest = self._distance(gradient, params)
        if self._minimum is None or not self._is_conditional(params):
            self._minimum = float(exact_value)
        self._record_check(self._distance(exact_gradient, params), difference)
        return value, gradient

    def _record_check(self, edm: float, difference: float) -> None:
        self._centre.confirmed = self._point()
        report = self._approximation.report
        self._approximation.report = replace(report, exact_edm=edm, value_difference=difference)

    def _is_confirmed(self, params: Parameters) -> bool:
        """Whether the exact likelihood was asked since the centre has moved: for a fit, within a standard deviation.

        The many conditional minima of a scan rely on the terms that are neglected, like every value does.
        """
        confirmed = self._centre.confirmed
        if confirmed is None or self._is_conditional(params):
            return confirmed is not None
        return self._is_within(1.0, confirmed)

    # --- distances ----------------------------------------------------------------------------------------------------

    def _distance(self, gradient: tf.Tensor, params: Parameters) -> float:
        """Expected vertical distance to the minimum, from a gradient."""
        return vertical_distance(np.asarray(gradient), self._information(params), params)

    def _is_within(self, n_sigma: float, point: np.ndarray) -> bool:
        """Whether we are within so many standard deviations of a point."""
        moved = self._point() - point
        return bool(moved @ self._information(self._every) @ moved < n_sigma**2)

    def _information(self, params: Parameters) -> np.ndarray:
        """Covariance of the score, which unlike the Hessian is positive anywhere, plus that of the constraints."""
        if self._known_information is None:
            squares = self._approximation.squared_scores(self._every, n_events=_ENOUGH_EVENTS)
            self._known_information = squares + self._approximation.constraint_hessian(self._every)
        rows = [self._every.index(parameter) for parameter in params]
        return self._known_information[np.ix_(rows, rows)]

    def _is_conditional(self, params: Parameters) -> bool:
        return len(params) < len(self._floating())

    def _floating(self) -> list[zfit.Parameter]:
        return list(self._approximation.get_params())

    def _point(self) -> np.ndarray:
        return np.array([float(parameter.value()) for parameter in self._every])


def fisher_scoring(
    params: Parameters,
    start: np.ndarray,
    evaluate: Callable[[Parameters], tuple[float, np.ndarray, np.ndarray]],
    *,
    until: float,
) -> np.ndarray:
    """Fisher scoring: Newton steps to a minimum, with the covariance of the scores in place of the Hessian.

    Args:
        params: The parameters, which have their values again in the end.
        start: Where to begin, ``(P,)``.
        evaluate: Gives the value, the gradient ``(P,)`` and that covariance ``(P, P)`` where the parameters are.
        until: Expected vertical distance that is near enough.

    Returns:
        The point ``(P,)``.
    """
    if not params:
        return start
    lower, upper = np.transpose([limits_of(parameter) for parameter in params])
    best, origin, step, length = np.inf, start, np.zeros_like(start), 1.0
    with zfit.param.set_values(params, start):
        for _ in range(_SCORING_STEPS):
            point = np.clip(origin + length * step, lower, upper)
            zfit.param.set_values(params, point)
            value, gradient, information = evaluate(params)
            if not value <= best:
                length *= 0.25
                continue
            best, origin, length = value, point, min(1.0, 2.0 * length)
            free = np.flatnonzero(((lower < point) | (gradient < 0)) & ((point < upper) | (gradient > 0)))
            step = np.zeros_like(point)
            step[free] = newton_step(information[np.ix_(free, free)], gradient[free])
            if not until < expected_fall(step, gradient, information) < np.inf:
                break
    return origin

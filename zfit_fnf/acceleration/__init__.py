r"""Fast evaluation of likelihoods: the same minimum, by Taylor polynomials of every event that are kept honest.

A fit evaluates the likelihood at many points close to each other. Around one of them, the *centre*, a deformation moves
an event by a small shift in its standardised coordinates, and the nominal density is replaced by its Taylor polynomial
in that shift (:mod:`zfit_fnf.acceleration.polynomials`). The shift itself is not expanded: it is a contraction of the
coefficients of the deformation, computed once per data set and, if there are many, in fewer combinations
(:mod:`zfit_fnf.acceleration.compression`). The cost hardly depends on the number of nuisances, and yields, sums of
processes, constraints and densities that cannot be expanded are what they are in the exact likelihood.

The error is controlled in three ways, whatever minimiser is at work:

1. Every evaluation adds up how wrong the polynomials may be, event by event, from the size of the shift and the length
   over which the density varies (:func:`zfit_fnf.densities.taylor.remainder`). Where that exceeds what matters there, the
   polynomials move to a new centre or the exact likelihood answers.
2. When a fit is about to stop, the exact gradient is computed at that point and compared. If the expected
   vertical distance between the two minima is too large, the centre moves there and the minimiser goes on.
3. When the fit is done, the exact likelihood has been evaluated at its end. If it disagrees, an error says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..loss import (
    Compiled,
    Events,
    EventTerm,
    ExtendedUnbinnedNLL,
    LearnedLoss,
    Parameters,
    Term,
    UnbinnedNLL,
    constraint_kernel,
    event_kernel,
    kept_by,
    outside_of_graphs,
    select,
    total,
    total_hessian,
)
from ..minimum import newton_step, vertical_distance
from ..param import limits_of, values_of
from ..pdf import components
from .polynomials import ExpandedEvents, ExpandedKernel, method, order_of

TOLERANCE = 0.005
"""Error of the negative log-likelihood that is tolerated near the minimum."""

_RELATIVE = 0.01  # error that is tolerated further away, relative to the distance from the minimum
_SEARCHING = 0.3  # of a value that only tells a minimiser how long its next step should be
_ALMOST_THERE = 1e-3  # expected vertical distance to the minimum at which the exact gradient is asked for
_NEAR = 0.1  # the same, where a fit has ended, or the pilot
_ARRIVED = 0.01  # the same, where a fit should start
_EDM = 5e-5  # largest expected vertical distance between the exact and the accelerated minimum: a hundredth of an error
_CORRECTABLE = 1e-3  # largest expected vertical distance that a linear term may make up for
_CLOSE = 0.3  # standard deviations, within which the centre need not move
_STRAYS = 3  # values in a row that the polynomials cannot give, before their centre moves
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


def accelerate(nll: UnbinnedNLL | ExtendedUnbinnedNLL, *, max_memory: float | None = None) -> AcceleratedNLL:
    """A likelihood with the same parameters, minimum and interface, whose evaluations are much cheaper.

    Use it in place of ``nll`` wherever a likelihood is evaluated many times: fits, MINOS, scans, limits, toys. The result
    is that of ``nll``: while a fit goes on the accelerated likelihood compares itself with the exact one, see
    :mod:`zfit_fnf.acceleration`. Values are right to 0.005, or to one per cent of their distance from a minimum that was
    found, whatever was evaluated before; what minimisers ask for on their way there (``full=False``, and the gradient
    alone) may be coarser.

    Args:
        nll: A loss of :mod:`zfit_fnf.loss`; it is not changed.
        max_memory: Bytes for polynomials and coefficients; events for which there is no room are evaluated exactly, as
            the report says. By default the option of the same name of ``nll``.

    Returns:
        The loss, of the kind (extended or not) of ``nll``. Its ``report`` tells what was done.

    Raises:
        TypeError: If ``nll`` is another loss.
        AccelerationError: From a fit, if the exact likelihood does not confirm its minimum.

    Example:
        >>> fast = accelerate(nll)
        >>> result = zfit_fnf.Minuit().minimize(fast)
        >>> print(fast.report)
    """
    if isinstance(nll, AcceleratedNLL):
        return nll
    kinds = {UnbinnedNLL: AcceleratedUnbinnedNLL, ExtendedUnbinnedNLL: AcceleratedExtendedUnbinnedNLL}
    if type(nll) not in kinds:
        raise TypeError(
            f"accelerate takes losses of zfit_fnf.loss, UnbinnedNLL or ExtendedUnbinnedNLL; got {type(nll).__name__}"
        )
    options = {} if max_memory is None else {"max_memory": max_memory}
    return kinds[type(nll)](nll.model, nll.data, constraints=nll.constraints, options={**nll._options, **options})


# --- the likelihood ---------------------------------------------------------------------------------------------------


class AcceleratedNLL(LearnedLoss):
    """What accelerated likelihoods share, made by `accelerate`.

    Attributes:
        report: What was done so far, an `AccelerationReport`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        named = {pdf.name: method(pdf) for model in self.model for pdf in components(model) if not hasattr(pdf, "pdfs")}
        self.report = AccelerationReport(named)
        self._closest, self._strays = np.inf, 0
        self._last_hessian: tuple[tuple[Any, ...], tf.Tensor] | None
        self._correction: LinearTerm | None
        self._forget()

    # --- evaluations --------------------------------------------------------------------------------------------------

    def _call_value(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        del args, kwargs
        self._follow_data()
        if not tf.executing_eagerly():
            return self._approximate()[0]
        value, error = self._approximate()
        if not error <= self._tolerance(value, searching=True):
            self._strays += 1
            if self._strays <= _STRAYS:
                return self._exact_value_gradient([])[0]
            self._move_centre()
            value, error = self._approximate()
            if not np.isfinite(error):  # so far out that the polynomials overflow
                return self._exact_value_gradient([])[0]
        self._strays = 0
        return value

    def _call_value_gradient(
        self, params: Parameters, numgrad: Any = None, full: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del numgrad
        params = list(self._input_check_params(params, only_independent=True))
        self._follow_data()
        value, gradient, error = self._approximate_gradient(params)
        if not tf.executing_eagerly():
            return value, gradient
        if full and not error <= self._tolerance(value, searching=False):
            return self._exact_value_gradient(params)
        distance = self._distance(gradient, params)
        # Where the polynomials fail their gradient is large: it must not be what excuses them.
        tolerance = max(_RELATIVE * min(self._closest, distance), self._tolerance(value, searching=True))
        if not error <= tolerance:
            self._move_centre()
            value, gradient, _ = self._approximate_gradient(params)
            distance = self._distance(gradient, params)
        self._closest = min(self._closest, distance)
        if distance < _ALMOST_THERE and not self._is_confirmed(params):
            value, gradient = self._confirm(value, gradient, params)
        self._strays = 0
        return value, gradient

    def _call_hessian(self, params: Parameters, numgrad: Any = None, hessian: str | None = None) -> tf.Tensor:
        self._follow_data()
        if not tf.executing_eagerly():
            return super()._call_hessian(params, numgrad, hessian)
        if not self._approximate()[1] <= TOLERANCE:
            self._move_centre()
        # Where one minimisation ends another one may start, or HESSE.
        key = hessian, tuple(params), tuple(self._point())
        if self._last_hessian is None or self._last_hessian[0] != key:
            self._last_hessian = key, super()._call_hessian(params, numgrad, hessian)
        return self._last_hessian[1]

    def value(self, *, params: Any = None, full: bool | None = None) -> tf.Tensor:
        """As that of the exact likelihood, which answers wherever the accelerated one may be wrong by more than is tolerated.

        Args:
            params: Values of parameters, by name; those left out have their current values.
            full: ``False`` for a value that a fit asks for, which is coarse as long as nothing better is needed; otherwise
                a minimum that a fit has found is confirmed, if none was yet.

        Returns:
            Scalar, float64.

        Raises:
            AccelerationError: If the exact likelihood is not at a minimum where the accelerated one is.
        """
        if full is False or not tf.executing_eagerly():
            return super().value(params=params, full=full)
        self._warn_outside_windows()
        with self._check_set_input_params(params):
            self._follow_data()
            if params is None and self._minimum is None:
                self._confirm_if_near()
            value, error = self._approximate()
            return value if error <= self._tolerance(value, searching=False) else self._exact_value_gradient([])[0]

    def _confirm_if_near(self) -> None:
        """A fit without gradients may have ended here."""
        floating = list(self.get_params())
        value, gradient, error = self._approximate_gradient(floating)
        near = error <= TOLERANCE and self._distance(gradient, floating) < _NEAR
        if near and not self._is_confirmed(floating):
            self._confirm(value, gradient, floating)

    def _tolerance(self, value: tf.Tensor, *, searching: bool) -> float:
        """Error that a value may have, by its distance from what matters: the minimum, as soon as it is known."""
        if self._minimum is not None:
            return max(TOLERANCE, _RELATIVE * (float(value) - self._minimum))
        return max(TOLERANCE, _SEARCHING * abs(float(value) - self._value_at_centre)) if searching else TOLERANCE

    def _terms(self) -> Iterator[tuple[Any, Iterable[tuple[Any, ...]]]]:
        yield from super()._terms()
        if self._correction is not None:
            self._correction.follow_limits()
            yield self._correction, [()]

    def _approximate(self) -> tuple[tf.Tensor, float]:
        totals = [tf.add_n([kernel.value(*arguments) for arguments in calls]) for kernel, calls in self._terms()]
        return _add_sums(totals)

    def _approximate_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor, float]:
        return self._sum_with_gradient(self._terms(), params)

    def _exact_value_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        self.report = replace(self.report, n_exact=self.report.n_exact + 1)
        # The value alone is cheaper, but it would be one more program to compile.
        terms = map(_exactly, super()._terms())
        value, gradient, _ = self._sum_with_gradient(terms, params or list(self.get_params()))
        return value, gradient

    @staticmethod
    def _sum_with_gradient(
        terms: Iterable[tuple[Any, Iterable[tuple[Any, ...]]]], params: Parameters
    ) -> tuple[tf.Tensor, tf.Tensor, float]:
        totals, gradients = [], []
        for kernel, calls in terms:
            results = [kernel.value_gradient(*arguments) for arguments in calls]
            totals.append(tf.add_n([sums for sums, _ in results]))
            gradients.append(select(tf.add_n([gradient for _, gradient in results]), kernel.params, params))
        value, error = _add_sums(totals)
        return value, total(gradients, (len(params),)), error

    # --- events and the centre ----------------------------------------------------------------------------------------

    def _prepare_events(self, index: int, x: np.ndarray) -> list[EventTerm]:
        self._forget()
        model = self.model[index]
        if not len(x) or not any(map(order_of, components(model))):
            return super()._prepare_events(index, x)
        # In random order any chunk is like the others, and a few of them estimate what all of them would give.
        rows = np.random.default_rng(0).permutation(len(x))
        x, weights = x[rows], self._weights(index)[rows]
        kernel = kept_by(model, "expanded", lambda: ExpandedKernel(model))
        events = ExpandedEvents(kernel, x, weights, max_memory=self._memory_for(len(x)))
        exact = event_kernel(model)
        others = Events(exact, x[events.n_events :], weights[events.n_events :], max_memory=0.0)
        return [(kernel, chunks) for kernel, chunks in ((kernel, events), (exact, others)) if len(chunks)]

    def __getstate__(self) -> dict[str, Any]:
        fresh = object.__new__(type(self))
        fresh._forget()
        return {**super().__getstate__(), **vars(fresh)}

    def _forget(self) -> None:
        """The data or the constraints are new."""
        self._is_new = True
        self._piloted: tuple[dict[zfit.Parameter, float], dict[zfit.Parameter, float]] = {}, {}
        self._scores: np.ndarray | None = None
        self._confirmed: np.ndarray | None = None
        self._correction, self._last_hessian = None, None
        self._minimum: float | None = None
        self._closest, self._strays = np.inf, 0

    def _expanded_events(self) -> list[ExpandedEvents]:
        terms = [term for index in range(len(self.model)) for term in self._event_terms(index)[0]]
        return [events for _, events in terms if isinstance(events, ExpandedEvents)]

    def _follow_data(self) -> None:
        with outside_of_graphs():
            self._expanded_events()  # prepares those that are new
            if self._is_new:
                self._is_new = False
                floating = list(self.get_params())
                here = np.array([float(parameter.value()) for parameter in floating])
                there = self._pilot(floating, here) if (searched := self._is_cheap()) else here
                with zfit.param.set_values(floating, there):
                    self._move_centre()
                if searched:
                    there = self._scored(floating, there, self._with_information, until=_ARRIVED)
                self._piloted = dict(zip(floating, here, strict=True)), dict(zip(floating, there, strict=True))
                with zfit.param.set_values(floating, there):
                    if not self._approximate()[1] <= TOLERANCE:
                        self._move_centre()
                    self._information(floating)  # rather here than where a minimiser starts

    def _is_cheap(self) -> bool:
        """Whether all events have polynomials."""
        events = self._expanded_events()
        n_terms = sum(len(self._event_terms(index)[0]) for index in range(len(self.model)))
        return bool(events) and len(events) == n_terms and all(chunks.n_pilot for chunks in events)

    def starting_point(self, params: Parameters) -> np.ndarray:
        """Where a fit should start: near the minimum, if that was searched for from here."""
        self._follow_data()
        start, found = self._piloted
        here = {parameter: float(parameter.value()) for parameter in params}
        best = found if here == start else here
        return np.array([_away_from_limits(parameter, best[parameter]) for parameter in params])

    def _pilot(self, params: Parameters, start: np.ndarray) -> np.ndarray:
        """Where all events should be expanded first: the minimum that a few of them have, from where we are."""
        events = self._expanded_events()
        share = np.mean([chunks.n_pilot / len(chunks) for chunks in events])

        def expanded_here(params: Parameters) -> tuple[float, np.ndarray, np.ndarray]:
            for chunks in events:
                chunks.move_pilot()
            value, gradient, _ = self._approximate_gradient(params)
            information = share * self._sum_of_squared_scores(params, np.abs) + self._constraint_hessian(params)
            return float(value), np.asarray(gradient), information

        return self._scored(params, start, expanded_here, until=_NEAR)

    def _with_information(self, params: Parameters) -> tuple[float, np.ndarray, np.ndarray]:
        self._scores = None
        value, gradient, _ = self._approximate_gradient(params)
        return float(value), np.asarray(gradient), self._information(params)

    @staticmethod
    def _scored(
        params: Parameters,
        start: np.ndarray,
        evaluate: Callable[[Parameters], tuple[float, np.ndarray, np.ndarray]],
        *,
        until: float,
    ) -> np.ndarray:
        """Fisher scoring: Newton steps to a minimum, with the covariance of the scores in place of the Hessian.

        Args:
            params: The parameters, which are at their values again in the end.
            start: Where to begin.
            evaluate: The value, the gradient and that covariance where the parameters are.
            until: Expected vertical distance that is near enough.

        Returns:
            The point.
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
                if not -0.5 * float(step @ gradient) > until:
                    break
        return origin

    def _move_centre(self) -> None:
        """Expand all events around the current values of the parameters."""
        self._confirmed, self._correction, self._last_hessian = None, None, None
        for events in (expanded_events := self._expanded_events()):
            events.move()
        self._centre = self._point()
        self._value_at_centre = float(self._approximate()[0])
        n_expanded = sum(events.n_events for events in expanded_events)
        n_exact = sum(int(data.num_entries) for data in self.data) - n_expanded
        self.report = replace(self.report, n_expansions=self.report.n_expansions + 1, exact_events=n_exact)

    # --- control ------------------------------------------------------------------------------------------------------

    def _confirm(self, value: tf.Tensor, gradient: tf.Tensor, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """Compare with the exact likelihood, and move the centre if they differ.

        What the compression of coefficients and rounding leave of the gradient after that is made up for by a linear term.
        """
        if not self._expanded_events():
            self.report = replace(self.report, exact_edm=self._distance(gradient, params), value_difference=0.0)
            self._confirmed = self._point()
            return value, gradient
        exact_value, exact_gradient = self._exact_value_gradient(params)
        remedies = iter(("move", "correct"))
        while True:
            distance = self._distance(exact_gradient - gradient, params)
            difference = float(exact_value - value)
            if distance <= _EDM and abs(difference) <= TOLERANCE:
                break
            correctable = distance <= _CORRECTABLE and abs(difference) <= TOLERANCE
            remedy = next(remedies, None)
            if remedy == "move" and correctable and self._is_within(_CLOSE, self._centre):
                remedy = next(remedies)  # the polynomials would be the same
            if remedy == "move":
                self._move_centre()
            elif remedy == "correct" and correctable:
                self._correction = LinearTerm(params, exact_gradient - gradient)
            else:
                raise AccelerationError(
                    f"the accelerated likelihood differs from the exact one by {difference:.3g} and their minima by an "
                    f"EDM of {distance:.3g}, although its polynomials were made here: fit the exact likelihood instead"
                )
            value, gradient, _ = self._approximate_gradient(params)
            self._closest = self._distance(gradient, params)
        self._confirmed = self._point()
        if self._minimum is None or not self._is_conditional(params):
            self._minimum = float(exact_value)
        self.report = replace(
            self.report, exact_edm=self._distance(exact_gradient, params), value_difference=difference
        )
        return value, gradient

    def _is_confirmed(self, params: Parameters) -> bool:
        """Whether the exact likelihood was asked since the centre has moved: for a fit, within a standard deviation.

        The many conditional minima of a scan rely on the terms that are neglected, like every value does.
        """
        if self._confirmed is None or self._is_conditional(params):
            return self._confirmed is not None
        return self._is_within(1.0, self._confirmed)

    def _is_within(self, n_sigma: float, point: np.ndarray) -> bool:
        """Whether we are within so many standard deviations of a point."""
        moved = self._point() - point
        return bool(moved @ self._information(self._all()) @ moved < n_sigma**2)

    def _is_conditional(self, params: Parameters) -> bool:
        return len(params) < len(self.get_params())

    def _distance(self, gradient: tf.Tensor, params: Parameters) -> float:
        """Expected vertical distance to the minimum, from a gradient."""
        return vertical_distance(np.asarray(gradient), self._information(params), params)

    def _information(self, params: Parameters) -> np.ndarray:
        """Covariance of the score, which unlike the Hessian is positive anywhere, plus that of the constraints."""
        every = self._all()
        if self._scores is None:
            squares = self._sum_of_squared_scores(every, np.abs, n_events=_ENOUGH_EVENTS)
            self._scores = squares + self._constraint_hessian(every)
        rows = [every.index(parameter) for parameter in params]
        return self._scores[np.ix_(rows, rows)]

    def _constraint_hessian(self, params: Parameters) -> np.ndarray:
        matrices = [total_hessian(constraint_kernel(constraint), [()], params) for constraint in self.constraints]
        return np.sum([np.zeros((len(params), len(params))), *map(np.asarray, matrices)], axis=0)

    def _all(self) -> list[zfit.Parameter]:
        return list(self.get_params(floating=None))

    def _point(self) -> np.ndarray:
        return np.array([float(parameter.value()) for parameter in self._all()])


class LinearTerm(Term):
    """A linear function of parameters that vanishes where they are now, in the guise of a kernel.

    Args:
        params: The parameters.
        slope: Its gradient ``(P,)``.
    """

    def __init__(self, params: Parameters, slope: tf.Tensor):
        super().__init__(params)
        self._slope, self._origin = slope, values_of(params)
        self._values = Compiled(lambda: values_of(params), xla=True)

    def value(self) -> tf.Tensor:
        return self.value_gradient()[0]

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.tensordot(self._slope, self._values() - self._origin, 1), self._slope

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(directions)


class AcceleratedUnbinnedNLL(AcceleratedNLL, zfit.loss.UnbinnedNLL):
    """An accelerated `UnbinnedNLL`; see `accelerate`."""


class AcceleratedExtendedUnbinnedNLL(AcceleratedNLL, zfit.loss.ExtendedUnbinnedNLL):
    """An accelerated `ExtendedUnbinnedNLL`; see `accelerate`."""


def _away_from_limits(parameter: zfit.Parameter, value: float) -> float:
    """At a limit nothing depends on the variable that Minuit has in place of the parameter: one step inside of it."""
    low, high = limits_of(parameter)
    step = min(float(parameter.stepsize), 0.25 * (high - low))
    return float(np.clip(value, low + step, high - step))


def _exactly(term: tuple[Any, Any]) -> tuple[Any, Iterable[tuple[Any, ...]]]:
    """A term of the likelihood as it is without polynomials."""
    kernel, calls = term
    return (kernel, calls.exact()) if isinstance(calls, ExpandedEvents) else term


def _add_sums(totals: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum of the values, and of the errors that come with some of them."""
    value = total([sums[0] if sums.shape.rank else sums for sums in totals])
    return value, total([sums[1] for sums in totals if sums.shape.rank])

"""Minuit, given all derivatives that likelihoods have."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import iminuit
import numpy as np
from zfit.result import FitResult

from . import finite_simulation, influence
from .arguments import warn_of_extrapolation
from .common.warning import warn
from .loss import warn_of_weights
from .loss.zfit_hooks import FailMinimizeNaN, OpenMinuit, OpenResult, matrix_to_dict
from .minimum import Derivatives, Minimum, assign, curvature_of, settle
from .param import limits_of

__all__ = ["Minuit", "MinuitResult"]

_ROUNDS = 4
_GOAL = 1e-6  # expected vertical distance to the minimum at the end: a thousandth of a standard deviation
_NEAR = 1.0  # the same, below which Newton steps alone find it
_BARRIER = 0.5  # rise of the negative log-likelihood on the way to the minimum that tells of another one
_STEEPEST = 4.0  # how much the slope of a single minimum exceeds its depth, without a closer look
_WIDEST = 1.5  # the same of its parabola
_BESIDE = 1e-6  # distance to a limit, by the width of the range, that MIGRAD does not resolve
_ON_THE_WAY = np.linspace(0.0, 1.0, 9)[1:-1]
_CROSSED = (
    "the likelihood rises and falls again between the start of the fit and its end: there are two minima at least, and the one "
    "near the start was left. Fit from other start values and compare the minima (result.fmin)"
)
_MINOS = ("is_valid", "upper_valid", "lower_valid", "at_lower_limit", "at_upper_limit", "nfcn")


class Minuit(OpenMinuit):
    """The minimiser of this package: MIGRAD with exact derivatives, then Newton steps to the minimum itself; MINOS.

    MIGRAD starts with the Hessian of the likelihood, and where it ends, or where a fit starts near its minimum already,
    Newton steps inside of the limits lead on, until the expected vertical distance to the minimum (EDM) is below 1e-6, a
    thousandth of a standard deviation: what follows needs no other tolerance. A minimum that is none is not valid, and the
    ``message`` of the result says why: at a saddle, where the likelihood does not depend on a parameter, or where the EDM
    stays above ``tol``. A fit that has crossed a barrier on its way, from the minimum near its start to another one, warns,
    and so does one in which events far from all simulation move a parameter by half of its error (`zfit_fnf.influence`), or
    whose densities were learned from so few events that errors should be a tenth larger (`zfit_fnf.finite_simulation`).

    The result is one of zfit's. Its HESSE errors come from the Hessian at the minimum. A parameter that a limit holds, where
    the likelihood still falls towards values outside, has none (NaN, with a warning), and the others have theirs with
    it fixed: ``result.errors()`` (MINOS) gives its error towards the inside.

    It also fits likelihoods of zfit's own. The fit of an accelerated likelihood starts near the minimum already: where that
    is, seen from the current values, a part of the events has told.

    Args:
        tol: EDM above which a result is not valid, by default 1e-3.
        mode: Strategy of MIGRAD, by default 0: with exact derivatives, what 1 and 2 check is right already.
        **options: Further arguments of `zfit.minimize.Minuit`, but ``gradient``.

    Raises:
        TypeError: If ``gradient`` is given: it is always exact.
        ValueError: From `minimize`, if there is no floating parameter, or the likelihood or a derivative is not a finite number
            where the fit starts.

    Example:
        >>> mean = zfit.Parameter("mean", 0.5)
        >>> gauss = zfit.pdf.Gauss(mean, 1.0, obs=zfit.Space("y", -10, 10))
        >>> data = zfit.Data(np.array([-1.0, 0.5, 2.0]), obs=gauss.space)
        >>> result = Minuit().minimize(zfit.loss.UnbinnedNLL(gauss, data))
        >>> round(result.params[mean]["value"], 3)
        0.5
    """

    def __init__(self, tol: float | None = None, mode: int = 0, **options: Any):
        if "gradient" in options:
            raise TypeError("zfit_fnf.Minuit always has the exact gradient: leave gradient= out")
        super().__init__(tol=tol, mode=mode, gradient="zfit", **options)

    def minimize(self, loss: Any, params: Any = None, init: Any = None) -> FitResult:
        """Fit.

        Args:
            loss: The likelihood.
            params: The parameters; by default all that float.
            init: A result to start from; by default the current values.

        Returns:
            The result; the parameters have its values.
        """
        if not (hasattr(loss, "value_gradient") or isinstance(loss, FitResult)):
            raise TypeError(f"a fit needs a likelihood, e.g. zfit_fnf.loss.UnbinnedNLL(model, data); got {loss!r}")
        given: list[Any] = [params] if isinstance(params, (str, zfit.Parameter)) else list(params or ())
        if wrong := [one for one in given if not isinstance(one, zfit.Parameter)]:
            raise TypeError(f"params= takes zfit.Parameters; got {wrong}")
        fitted = given or list(loss.params if isinstance(loss, FitResult) else loss.get_params())
        if not any(parameter.floating for parameter in fitted):
            raise ValueError("there is nothing to fit: no parameter floats")
        result = super().minimize(loss, params, init)
        if result.info["crossed"]:
            warn(_CROSSED)
        for told in (
            influence.warning(result.info["far_events"], list(result.params)),
            finite_simulation.warning(loss),
        ):
            if told:
                warn(told)
        return result

    def fit(self, loss: Any, params: Sequence[zfit.Parameter]) -> FitResult:
        """Fit from the current values of the parameters, or from where an accelerated likelihood suggests."""
        suggest = getattr(loss, "starting_point", None)
        start = np.array([float(parameter.value()) for parameter in params]) if suggest is None else suggest(params)
        derivatives, minuit = Derivatives(loss, params), None
        goal = min(self.tol, _GOAL) * derivatives.unit
        first = _checked(derivatives, start)
        best = settle(derivatives, start, goal=goal, within=_NEAR)
        for _ in range(_ROUNDS):
            if best.edm <= goal:
                break
            minuit, options = self.minuit_at(derivatives, best.values)
            try:
                minuit.migrad(**options)
            except FailMinimizeNaN:  # wherever MIGRAD goes: the result is what there was before, and not valid
                break
            best = settle(derivatives, _onto_limits(derivatives, np.array(minuit.values)), goal=goal)
        crossed = _has_crossed_a_barrier(derivatives, start, first, best)
        return self._result(derivatives, best, minuit, crossed=crossed)

    def _result(
        self, derivatives: Derivatives, best: Minimum, minuit: iminuit.Minuit | None, *, crossed: bool
    ) -> MinuitResult:
        loss, params = derivatives.loss, derivatives.params
        curvature = curvature_of(best, derivatives)
        assign(params, best.values)
        criterion = self.create_criterion(loss, params)
        criterion.last_value = best.edm
        held = [parameter.name for parameter, free in zip(params, best.free, strict=True) if not free]
        flat = [parameter.name for parameter, none in zip(params, curvature.flat, strict=True) if none]
        problems = {
            f"the expected vertical distance to the minimum stays at {best.edm:.2g}, above {self.tol:g}": best.edm
            > self.tol,
            "the likelihood falls in some direction: this is no minimum": not curvature.is_minimum,
            f"the likelihood does not depend on {flat} here, alone or together: fix or constrain one": bool(flat),
            f"the likelihood still falls towards values of {held} outside of the limits: see result.errors()": bool(
                held
            ),
            _CROSSED: crossed,
        }
        n_calls = derivatives.n_calls + (0 if minuit is None else minuit.nfcn + minuit.ngrad)
        is_minimum = best.edm <= self.tol and curvature.is_minimum and not flat
        return MinuitResult(
            loss=loss,
            params=dict(zip(params, best.values.tolist(), strict=True)),
            minimizer=self.copy(),
            valid=is_minimum,  # which zfit denies at a limit
            converged=best.edm <= self.tol,
            edm=best.edm,
            fminopt=best.nll,
            criterion=criterion,
            message=" AND ".join(text for text, is_so in problems.items() if is_so),
            info={
                "n_eval": n_calls,
                "minuit": minuit,
                "at_limit": held,
                "is_minimum": is_minimum,
                "crossed": crossed,
                "far_events": influence.of_far_events(loss, params, curvature.covariance),
            },
            niter=n_calls,
        )

    def minuit_at(self, derivatives: Derivatives, start: np.ndarray) -> tuple[iminuit.Minuit, dict[str, Any]]:
        """Minuit at a point, and its options for MIGRAD: zfit's, made once more with a Hessian, which it does not hand on."""
        params = derivatives.params
        without, options, evaluator = self.plain_minuit(derivatives.loss, params)
        # Where the likelihood is not a number, such as at a negative density, zfit answers with the last value and a penalty.
        evaluator.last_value, evaluator.last_gradient = derivatives.value_gradient(start)

        def value(point: np.ndarray) -> float:
            known = derivatives.known(np.asarray(point))
            return evaluator.value(point) if known is None else known[0]

        def gradient(point: np.ndarray) -> np.ndarray:
            known = derivatives.known(np.asarray(point))
            return evaluator.gradient(point) if known is None else known[1]

        def hessian(point: np.ndarray) -> np.ndarray:
            return derivatives.hessian(np.array(point))

        with warnings.catch_warnings():
            # It says that the diagonal is of no use beside the Hessian, but asks for it where that is not positive.
            warnings.simplefilter("ignore", iminuit.warnings.IMinuitWarning)
            minuit = iminuit.Minuit(
                value,
                [_away_from_limits(*one) for one in zip(params, start, strict=True)],
                grad=gradient,
                g2=lambda point: np.diag(hessian(point)),
                hessian=hessian,
                name=without.parameters,
            )
        minuit.strategy = without.strategy.strategy
        for name in ("errors", "limits", "errordef", "print_level", "tol", "precision"):
            setattr(minuit, name, getattr(without, name))
        minuit.tol *= derivatives.unit
        minuit.hesse()  # of itself, it would only look at the diagonal
        return minuit, {**options, "use_simplex": False}  # it is no use where derivatives are exact


class MinuitResult(OpenResult):
    """A result of zfit's whose HESSE is exact, at the minimum wherever the parameters are now, and knows of limits.

    Errors that do not exist are not numbers, and a warning says why: HESSE of parameters that a limit holds, or that nothing
    depends on, and MINOS on a side where it fails.
    """

    def checked_covariance(self, covariance: dict[Any, float]) -> dict[Any, float]:
        """The covariance by pair of parameters; not a number where there is none, with a warning."""
        if unknown := self._without_error:
            names = [parameter.name for parameter in self.params if parameter in unknown]
            warn(f"HESSE has no errors for {names}: {self.message or 'this is no minimum'}")
        return {pair: np.nan if unknown.intersection(pair) else value for pair, value in covariance.items()}

    def inverse_hessian(self, params: Sequence[zfit.Parameter], *, automatic: bool) -> dict[Any, float]:
        """Inverse Hessian by pair of parameters, zero for those that have no error."""
        point = np.array([self.params[parameter]["value"] for parameter in params])
        with zfit.param.set_values(params, point):
            derivatives = Derivatives(self.loss, params)
            value, gradient = derivatives.value_gradient(point)
            hessian = derivatives.automatic_hessian(point) if automatic else derivatives.hessian(point)
            minimum = Minimum(point, value, gradient, ~derivatives.held(point), self.edm, hessian)
            curvature = curvature_of(minimum, derivatives)
        matrix = curvature.covariance
        self._without_error = {
            one for one, error in zip(params, np.diag(matrix), strict=True) if not np.isfinite(error)
        }
        return matrix_to_dict(params, np.nan_to_num(matrix, nan=0.0))

    def check_method(self, method: Any) -> None:
        """Refuse a method that needs errors there are none of."""
        if method in ("zfit_error", "zfit_errors") and not np.isfinite(self.covariance()).all():
            raise ValueError(f'{method} needs HESSE errors of all parameters; take method="minuit_minos"')

    def minos(self, params: Sequence[zfit.Parameter], cl: float | None) -> tuple[dict[Any, Any], None]:
        """Errors of MINOS, from the minimum that the result has."""
        warn_of_weights(self.loss, "errors of MINOS", "Take those of result.hesse(), which follow the weights")
        every = list(self.params)
        values = {parameter: self.params[parameter]["value"] for parameter in every}
        with zfit.param.set_values(every, list(values.values())):
            minuit, options = self.minimizer.minuit_at(Derivatives(self.loss, every), np.array(list(values.values())))
            minuit.migrad(**options)
            if not minuit.valid:
                raise RuntimeError(f"MINOS needs a minimum. {self.message}")
            minuit.minos(*(parameter.name for parameter in params), cl=cl)
        errors, failed, cut = {}, [], []
        reached = list[dict[zfit.Parameter, float]]()
        for parameter in params:
            found = minuit.merrors[parameter.name]
            ours = {name: getattr(found, name) for name in _MINOS}
            for side in ("lower", "upper"):
                end = getattr(found, side) + minuit.values[parameter.name] - values[parameter]
                ours[side] = end if ours[f"{side}_valid"] else np.nan
                if ours[f"at_{side}_limit"] and parameter.name not in self.info["at_limit"]:
                    cut.append(f"{parameter.name} ({side})")
                moved = {one: ours[side] * _along(minuit, parameter.name, one.name) for one in every}
                reached.append({one: values[one] + step for one, step in moved.items()})
            failed += [] if found.is_valid else [parameter.name]
            errors[parameter] = {**ours, "original": found}
        if failed:
            warn(f"MINOS has not found all errors of {failed}: there may be another minimum, or none on one side")
        if cut:
            warn(
                f"errors of MINOS of {', '.join(cut)} are the distance to a limit, where the likelihood has not risen as far as "
                "an error needs: quote an upper limit, or make limits of parameters wider"
            )
        warn_of_extrapolation(self.loss.model, reached, "errors of MINOS")
        return errors, None


def _along(minuit: iminuit.Minuit, moved: str, other: str) -> float:
    """By how much a parameter moves with another one, by the covariance; not a number if there is none."""
    if moved == other:
        return 1.0
    covariance = minuit.covariance
    return np.nan if covariance is None else float(covariance[other, moved] / covariance[moved, moved])


def _checked(derivatives: Derivatives, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient where a fit starts."""
    value, gradient = derivatives.value_gradient(start)
    at = ", ".join(f"{one.name} = {at:.6g}" for one, at in zip(derivatives.params, start, strict=True))
    if not np.isfinite(value):
        raise ValueError(
            f"the negative log-likelihood is {value} where the fit starts, at {at}: start from other values"
        )
    if wrong := [one.name for one, slope in zip(derivatives.params, gradient, strict=True) if not np.isfinite(slope)]:
        raise ValueError(f"the derivative with respect to {wrong} is not a finite number where the fit starts, at {at}")
    return value, gradient


def _has_crossed_a_barrier(
    derivatives: Derivatives, start: np.ndarray, first: tuple[float, np.ndarray], best: Minimum
) -> bool:
    """Whether the likelihood rises on the straight way to the minimum, so that the start belongs to another one.

    First derivatives at the start and second ones at the end tell for most fits that it does not. Where they do not, some values
    on the way decide.
    """
    way, (value, gradient) = best.values - start, first
    fall, slope, parabola = value - best.nll, -float(gradient @ way), 0.5 * float(way @ best.hessian @ way)
    if fall <= slope + _BARRIER and slope <= _STEEPEST * fall + _BARRIER and parabola <= _WIDEST * fall + _BARRIER:
        return False
    values = [value, *(derivatives.value(start + fraction * way) for fraction in _ON_THE_WAY), best.nll]
    return bool(np.max(values - np.minimum.accumulate(values)) > _BARRIER)


def _onto_limits(derivatives: Derivatives, point: np.ndarray) -> np.ndarray:
    """A point of MIGRAD inside of the limits, and at those that the likelihood falls towards and MIGRAD has not quite reached.

    Newton steps do not get there where the likelihood is concave. They lead back if the limit is not the minimum.
    """
    low, high = derivatives.low, derivatives.high
    point = np.clip(point, low, high)
    gradient = derivatives.value_gradient(point)[1]
    close = _BESIDE * np.where(np.isfinite(high - low), high - low, 1.0)  # Minuit maps half-lines on a scale of one
    point = np.where((point < low + close) & (gradient > 0), low, point)
    return np.where((point > high - close) & (gradient < 0), high, point)


def _away_from_limits(parameter: zfit.Parameter, value: float) -> float:
    """At a limit nothing depends on the variable that Minuit has in place of the parameter: one step inside of it."""
    low, high = limits_of(parameter)
    step = min(float(parameter.stepsize), 0.25 * (high - low))
    return float(np.clip(value, low + step, high - step))

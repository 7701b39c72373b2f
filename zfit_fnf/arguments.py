"""Arguments of functions of inference, validated on input: likelihoods, results, parameters or their names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from zfit.result import FitResult

from .common.parallel import check_executor
from .common.warning import warn
from .param import limits_of
from .pdf import components

__all__ = [
    "check_executor_fits",
    "check_likelihood",
    "check_minimizer",
    "check_result",
    "count",
    "covariance_of",
    "numbers",
    "numbers_inside",
    "parameter_of",
    "positive",
    "real",
    "warn_of_extrapolation",
]

# Of the width of a window: so far beyond it a linear continuation misses a sixteenth of a quadratic effect at its edge.
_NEAR = 0.125


def check_likelihood(nll: Any) -> None:
    """Refuse what is no likelihood.

    Raises:
        TypeError: If it is a result, a model, data or anything else.
    """
    if isinstance(nll, FitResult):
        raise TypeError("the first argument is the likelihood, not its result: give result.loss, or change the order")
    if not (hasattr(nll, "value_gradient") and hasattr(nll, "get_params") and hasattr(nll, "model")):
        raise TypeError(
            f"the first argument is a likelihood, e.g. zfit_fnf.loss.UnbinnedNLL(model, data); got {type(nll).__name__}"
        )


def warn_of_extrapolation(models: Iterable[Any], points: Sequence[Mapping[zfit.Parameter, float]], what: str) -> None:
    """Tell, once, of nuisances that went clearly further than any response was trained, how far, and where that was.

    Args:
        models: The models.
        points: Where nuisances were; what is not a number does not count.
        what: What went there, in the plural.
    """
    found = dict[str, tuple[float, str]]()
    for pdf in (part for model in models for part in components(model)):
        for name, (parameter, low, high) in getattr(pdf, "trained_windows", {}).items():
            for value in (point[parameter] for point in points if parameter in point):
                beyond = max(low - value, value - high)
                if beyond > max(_NEAR * (high - low), found.get(name, (0.0, ""))[0]):
                    text = f"{name!r} goes to {value:.3g}, outside of the range ({low:g}, {high:g}) of {pdf.name!r}"
                    found[name] = beyond, text
    if found:
        warn(
            f"nuisance {', and '.join(text for _, text in found.values())}: {what} are extrapolations there, where no "
            "response was trained. Train with variations further out"
        )


def check_result(result: Any, params: Iterable[zfit.Parameter]) -> None:
    """Refuse what is no result of a fit, and one of other parameters that are called the same, as those of a model made anew.

    Args:
        result: The result.
        params: The parameters of the likelihood or of the model.

    Raises:
        TypeError: If it is no result.
        ValueError: If it has other parameters with the same names.
    """
    if not isinstance(result, FitResult):
        raise TypeError(f"a fit result is needed, zfit_fnf.Minuit().minimize(nll); got {type(result).__name__}")
    fitted = {one.name: one for one in result.params}
    if other := [one.name for one in params if fitted.get(one.name, one) is not one]:
        raise ValueError(
            f"the result is not one of this likelihood: its parameters {other} are others that have the same names"
        )


def covariance_of(result: FitResult, params: Sequence[zfit.Parameter], what: str) -> np.ndarray:
    """Covariance ``(P, P)`` of a fit by `FitResult.hesse`, to be propagated; zero for parameters at a limit, which have none.

    Args:
        result: The fit.
        params: Fitted parameters.
        what: What it is propagated to.

    Raises:
        ValueError: If parameters that are at no limit have no finite covariance.

    Warns:
        UserWarning: If parameters are at a limit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of HESSE, which has warned before
        covariance = result.covariance(list(params)) if params else np.zeros((0, 0))
    found = np.full((len(params),) * 2, np.nan) if covariance is None else np.array(covariance, float)
    held = [
        index
        for index, one in enumerate(params)
        if not np.isfinite(found[index, index]) and _is_at_limit(one, float(result.params[one]["value"]))
    ]
    found[held, :] = found[:, held] = 0.0
    if covariance is None or not np.isfinite(found).all():
        raise ValueError(f"the fit has no finite covariance for {what}: call result.hesse(), and check what it reports")
    if held:
        names = ", ".join(repr(params[index].name) for index in held)
        warn(f"{names} at a limit: no HESSE error is known there, and {what} is without it")
    return found


def _is_at_limit(parameter: zfit.Parameter, value: float) -> bool:
    low, high = limits_of(parameter)
    return min(value - low, high - value) <= min(0.005 * (high - low), 1e-5)  # as zfit has it


def check_minimizer(minimizer: Any) -> None:
    """Refuse what cannot fit.

    Raises:
        TypeError: If it has no method ``minimize``, or is a class instead of an object.
    """
    if minimizer is not None and (isinstance(minimizer, type) or not callable(getattr(minimizer, "minimize", None))):
        raise TypeError(f"minimizer= is an object that fits, e.g. zfit_fnf.Minuit(); got {minimizer!r}")


def parameter_of(nll: Any, wanted: zfit.Parameter | str, what: str) -> zfit.Parameter:
    """The floating parameter of a likelihood that is meant, by itself or by its name.

    Args:
        nll: The likelihood.
        wanted: The parameter or its name.
        what: How to call it in an error.

    Raises:
        TypeError: If it is neither.
        ValueError: If the likelihood does not depend on it, or it does not float.
    """
    if not isinstance(wanted, (str, zfit.Parameter)):
        raise TypeError(f"{what} must be a zfit.Parameter, or the name of one; got {wanted!r}")
    every = list(nll.get_params(floating=None))
    name = wanted if isinstance(wanted, str) else wanted.name
    found = [one for one in every if one is wanted or (isinstance(wanted, str) and one.name == name)]
    if not found:
        twin = " (but on another parameter of that name)" if name in [one.name for one in every] else ""
        names = sorted(one.name for one in nll.get_params())
        raise ValueError(f"{name!r} is not a parameter of the likelihood{twin}; it depends on {names}")
    if not found[0].floating:
        raise ValueError(f"{name!r} does not float: set {name}.floating = True")
    return found[0]


def positive(value: Any, what: str) -> float:
    """A positive, finite number.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not positive and finite.
    """
    number = real(value, what)
    if not number > 0:
        raise ValueError(f"{what} must be positive; got {value}")
    return number


def real(value: Any, what: str) -> float:
    """A finite number.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{what} must be a number; got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite; got {value}")
    return float(value)


def count(value: Any, what: str, *, least: int) -> int:
    """A whole number that is large enough.

    Raises:
        TypeError: If it is not whole.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{what} must be a whole number; got {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}; got {value}")
    return int(value)


def numbers(values: Iterable[float], what: str) -> np.ndarray:
    """Finite numbers, one at least.

    Raises:
        TypeError: If they are no sequence of numbers.
        ValueError: If there is none, or one is not finite.
    """
    try:
        array = np.asarray(list(values), float)
    except (TypeError, ValueError):
        raise TypeError(f"{what} takes a sequence of numbers; got {values!r}") from None
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{what} takes one finite number at least, in one dimension; got {values!r}")
    return array


def check_executor_fits(executor: Any, minimizer: Any) -> None:
    """Refuse what cannot be given tasks, and another minimiser for its processes.

    Raises:
        TypeError: If the executor is none.
        ValueError: If there is a minimiser, too.
    """
    check_executor(executor)
    if executor is not None and minimizer is not None:
        raise ValueError("an executor fits with zfit_fnf.Minuit(): minimisers are not sent to other processes")


def numbers_inside(values: Iterable[float], parameter: zfit.Parameter) -> np.ndarray:
    """Values of a parameter at which it may be scanned.

    Raises:
        TypeError: As `numbers`.
        ValueError: Likewise, or if one is outside of its limits.
    """
    grid, (low, high) = numbers(values, "values="), limits_of(parameter)
    if outside := [float(value) for value in grid if not low <= value <= high]:
        raise ValueError(f"cannot scan {parameter.name!r} at {outside}: its limits are {low:g} and {high:g}")
    return grid

"""The state that inference moves and puts back: values of parameters, global observables, and random numbers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from .param import AuxiliaryMeasurement, auxiliary_measurement

__all__ = [
    "Known",
    "current_values",
    "global_observables",
    "known_before",
    "measured_covariance",
    "measured_values",
    "preserved",
    "seeded",
    "seeds_from",
]


@contextmanager
def preserved(nll: zfit.loss.UnbinnedNLL) -> Iterator[None]:
    """Set parameters and global observables of a likelihood back to what they were, also after an exception.

    Args:
        nll: The likelihood.
    """
    parameters = [*nll.get_params(floating=None), *global_observables(nll)]
    before = [(parameter, float(parameter.value()), parameter.floating) for parameter in parameters]
    try:
        yield
    finally:
        for parameter, value, floating in before:
            parameter.floating = floating
            parameter.set_value(value, clip=True)


def global_observables(nll: zfit.loss.UnbinnedNLL) -> list[zfit.Parameter]:
    """The parameters that hold outcomes of auxiliary measurements.

    Args:
        nll: The likelihood.
    """
    outcomes = itertools.chain.from_iterable(auxiliary_measurement(one).observed for one in nll.constraints)
    return [outcome for outcome in outcomes if isinstance(outcome, zfit.Parameter)]


def measured_values(
    nll: zfit.loss.UnbinnedNLL, params: Iterable[zfit.Parameter] | None = None
) -> dict[zfit.Parameter, float]:
    """Where auxiliary measurements put the parameters that they measure, all those of one together, by parameter.

    Args:
        nll: The likelihood.
        params: Of which parameters; by default of those that float.
    """
    floating, values = set(nll.get_params() if params is None else params), dict[zfit.Parameter, float]()
    for measurement in map(auxiliary_measurement, nll.constraints):
        for parameter, estimate in zip(measurement.measured, _estimates(measurement), strict=True):
            if parameter in floating:
                values[parameter] = float(estimate)
    combined = _Combined(nll, list(floating))
    return {**values, **dict(zip(combined.params, combined.values.tolist(), strict=True))}


@dataclass(frozen=True)
class Known:
    """What auxiliary measurements alone say of a parameter, all those of it together.

    Attributes:
        value: Its estimate.
        error: Standard deviation of that.
        steps: By how much each global observable moves where the estimate moves by its error; none if one of them cannot be
            moved, or is correlated with others.
    """

    value: float
    error: float
    steps: dict[zfit.Parameter, float]


def known_before(nll: zfit.loss.UnbinnedNLL) -> dict[zfit.Parameter, Known]:
    """What auxiliary measurements say of the floating parameters that they measure, by parameter.

    Args:
        nll: The likelihood.
    """
    combined = _Combined(nll, nll.get_params())
    errors = dict(zip(combined.params, np.sqrt(np.diag(combined.covariance)).tolist(), strict=True))
    steps: dict[zfit.Parameter, dict[zfit.Parameter, float]] = {one: {} for one in combined.params}
    still = set[zfit.Parameter]()
    for constraint in nll.constraints:
        measurement, covariance = auxiliary_measurement(constraint), getattr(constraint, "covariance", None)
        known = None if covariance is None else np.asarray(covariance)
        for k, (parameter, outcome) in enumerate(zip(measurement.measured, measurement.observed, strict=True)):
            if parameter not in errors:
                continue
            if known is None or np.count_nonzero(known[k]) != 1 or not isinstance(outcome, zfit.Parameter):
                still.add(parameter)
                continue
            own = float(np.sqrt(known[k, k]))
            spread = float(constraint.spread()[k]) if hasattr(constraint, "spread") else own
            steps[parameter][outcome] = spread * errors[parameter] / own
    return {
        one: Known(value, errors[one], {} if one in still else steps[one])
        for one, value in zip(combined.params, combined.values.tolist(), strict=True)
    }


def measured_covariance(nll: zfit.loss.UnbinnedNLL, params: Sequence[zfit.Parameter]) -> np.ndarray:
    """Covariance ``(P, P)`` of parameters by auxiliary measurements alone; zero of those that none of them measures.

    Args:
        nll: The likelihood.
        params: The parameters; others are fixed.
    """
    result, combined = np.zeros((len(params), len(params))), _Combined(nll, params)
    rows = [params.index(one) for one in combined.params]
    if rows:
        result[np.ix_(rows, rows)] = combined.covariance
    return result


class _Combined:
    """Average of all auxiliary measurements with a covariance, of which a parameter may have several.

    Args:
        nll: The likelihood.
        floating: Parameters that may move; others stay at their values, and what is correlated with them knows it.

    Attributes:
        params: Those of them that are measured.
        values: Theirs ``(K,)``.
        covariance: Theirs ``(K, K)``.
    """

    def __init__(self, nll: zfit.loss.UnbinnedNLL, floating: Iterable[zfit.Parameter]):
        floating, parts = set(floating), []
        for constraint in nll.constraints:
            if getattr(constraint, "covariance", None) is None:
                continue
            covariance, measurement = np.asarray(constraint.covariance, float), auxiliary_measurement(constraint)
            # What is a function of parameters is left out; so is a count of zero, which has no error.
            kept = [
                k
                for k, one in enumerate(measurement.measured)
                if isinstance(one, zfit.Parameter) and covariance[k, k] > 0
            ]
            measured, estimates = [measurement.measured[k] for k in kept], _estimates(measurement)[kept]
            parts.append((measured, estimates, np.linalg.inv(covariance[np.ix_(kept, kept)])))
        self.params = [one for one in dict.fromkeys(one for part in parts for one in part[0]) if one in floating]
        index = {one: k for k, one in enumerate(self.params)}
        information, pull = np.zeros((len(index), len(index))), np.zeros(len(index))
        for measured, estimates, weights in parts:
            free = [k for k, one in enumerate(measured) if one in index]
            here = [0.0 if one in index else float(one.value()) for one in measured]
            rows = [index[measured[k]] for k in free]
            information[np.ix_(rows, rows)] += weights[np.ix_(free, free)]
            pull[rows] += weights[free] @ (estimates - here)
        self.covariance = np.linalg.inv(information)
        self.values = self.covariance @ pull


def _estimates(measurement: AuxiliaryMeasurement) -> np.ndarray:
    """Values ``(K,)`` of what is measured that the outcomes alone say."""
    if hasattr(measurement, "estimates"):
        return np.asarray(measurement.estimates(), float)
    return np.array([float(zfit.param.convert_to_parameter(one).value()) for one in measurement.observed])


def current_values(parameters: Iterable[zfit.Parameter]) -> dict[zfit.Parameter, float]:
    """The current values, by parameter.

    Args:
        parameters: The parameters.
    """
    return {parameter: float(parameter.value()) for parameter in parameters}


def seeds_from(seed: int) -> Iterator[np.ndarray]:
    """Seed pairs, without end, that a number determines.

    Args:
        seed: The number.
    """
    return (np.random.SeedSequence([seed, n]).generate_state(2).astype(np.int32) for n in itertools.count())


_drawing = threading.RLock()


@contextmanager
def seeded(seed: np.ndarray, *, tensorflow: bool = True) -> Iterator[None]:
    """Seed zfit's and TensorFlow's generators; afterwards they go on as what was before determines.

    There is one of each, so that other threads wait meanwhile. What learned densities draw does not depend on them.

    Args:
        seed: The seed pair.
        tensorflow: Whether TensorFlow's generator is of use: seeding it makes TensorFlow forget every function that it has
            optimised, which costs a second and more.
    """
    with _drawing:
        afterwards = int(zfit.z.random.get_prng().uniform((), maxval=2**31 - 1, dtype=tf.int32))
        within = int(np.random.default_rng([int(part) for part in np.abs(seed.astype(np.int64))]).integers(2**31))
        zfit.settings.set_seed(within, numpy=False, backend=tensorflow or False)
        try:
            yield
        finally:
            zfit.settings.set_seed(afterwards, numpy=False, backend=tensorflow or False)

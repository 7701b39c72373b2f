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

from .param import auxiliary_measurement

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


def measured_values(nll: zfit.loss.UnbinnedNLL) -> dict[zfit.Parameter, float]:
    """Where auxiliary measurements put the floating parameters that they measure, by parameter.

    Args:
        nll: The likelihood.
    """
    floating, values = set(nll.get_params()), {}
    for measurement in map(auxiliary_measurement, nll.constraints):
        estimates = measurement.estimates() if hasattr(measurement, "estimates") else measurement.observed
        for parameter, estimate in zip(measurement.measured, estimates, strict=True):
            if parameter in floating:
                values[parameter] = float(zfit.param.convert_to_parameter(estimate).value())
    return values


@dataclass(frozen=True)
class Known:
    """What an auxiliary measurement alone says of a parameter.

    Attributes:
        value: Its estimate.
        error: Standard deviation of that.
        outcome: The global observable; none if it cannot be moved, or is correlated with others.
        spread: Standard deviation of the outcome.
    """

    value: float
    error: float
    outcome: zfit.Parameter | None
    spread: float


def known_before(nll: zfit.loss.UnbinnedNLL) -> dict[zfit.Parameter, Known]:
    """What auxiliary measurements say of the floating parameters that they measure, by parameter.

    Args:
        nll: The likelihood.
    """
    values, found = measured_values(nll), {}
    for constraint in nll.constraints:
        if getattr(constraint, "covariance", None) is None:
            continue
        covariance, measurement = np.asarray(constraint.covariance), auxiliary_measurement(constraint)
        errors = np.sqrt(np.diag(covariance))
        spreads = constraint.spread() if hasattr(constraint, "spread") else errors
        alone = np.count_nonzero(covariance, axis=1) == 1
        for k, (parameter, outcome) in enumerate(zip(measurement.measured, measurement.observed, strict=True)):
            if parameter in values and errors[k] > 0:
                movable = outcome if alone[k] and isinstance(outcome, zfit.Parameter) else None
                found[parameter] = Known(values[parameter], float(errors[k]), movable, float(spreads[k]))
    return found


def measured_covariance(nll: zfit.loss.UnbinnedNLL, params: Sequence[zfit.Parameter]) -> np.ndarray:
    """Covariance ``(P, P)`` of parameters by auxiliary measurements alone; zero of those that none of them measures.

    Args:
        nll: The likelihood.
        params: The parameters.
    """
    result = np.zeros((len(params), len(params)))
    for constraint in nll.constraints:
        covariance, measured = getattr(constraint, "covariance", None), auxiliary_measurement(constraint).measured
        places = [(k, params.index(one)) for k, one in enumerate(measured) if one in params]
        if covariance is not None and places:
            own, rows = np.transpose(places)
            result[np.ix_(rows, rows)] = np.asarray(covariance)[np.ix_(own, own)]
    return result


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

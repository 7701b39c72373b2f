r"""Pseudo-experiments: toys, which fluctuate as an experiment does, and the Asimov set, which does not fluctuate.

An experiment has two kinds of outcomes, and both belong to a pseudo-experiment: the *events* of every channel (their
number too, if the likelihood is extended), and the *global observables*, the outcomes of the auxiliary measurements
behind the constraints. Global observables are fixed `zfit.Parameter` objects, such as `Nuisance.observed`, so that a
constraint follows when they move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from zfit.core.loss import BaseUnbinnedNLL

from ..loss import LogSpaceNLL, channels_of
from ..param import auxiliary_measurement, limits_of
from ..state import current_values, preserved, seeds_from

__all__ = [
    "PseudoExperiment",
    "Values",
    "asimov",
    "check_events",
    "checked_number",
    "checked_seed",
    "drawn_outcomes",
    "refill",
    "refillable",
    "set_truth",
    "toy",
]

Values = Mapping[zfit.Parameter, float]
Seed = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class PseudoExperiment:
    """Outcome of all measurements that enter a likelihood, made by `asimov` or `toy`.

    Attributes:
        data: Events of every channel.
        observed: Values of the global observables, by parameter.
        truth: Values of the floating parameters that it was made at, by parameter.

    Example:
        >>> experiment = toy(nll, seed=1)
        >>> with zfit.param.set_values(experiment.observed):
        ...     result = zfit_fnf.Minuit().minimize(experiment.loss(nll))
    """

    data: tuple[zfit.Data, ...]
    observed: dict[zfit.Parameter, float]
    truth: dict[zfit.Parameter, float]

    def loss(self, nll: zfit.loss.UnbinnedNLL) -> zfit.loss.UnbinnedNLL:
        """The likelihood ``nll`` of these events.

        The global observables are shared by all likelihoods of a model: set them to `observed` while it is used.

        Args:
            nll: The likelihood that the pseudo-experiment was made from.
        """
        return _of_toy(nll.create_new(data=list(self.data)))


def toy(nll: zfit.loss.UnbinnedNLL, *, params: Values | None = None, seed: Seed = 0) -> PseudoExperiment:
    """Draw a toy: events from the models, and global observables from their auxiliary measurements.

    The number of events of an extended model is a Poisson number, drawn anew for each toy; otherwise it is that of the
    data.

    Args:
        nll: The likelihood; its parameters are left as they are.
        params: Parameter values to draw at; those left out have their current values.
        seed: Seed of everything that is random.

    Returns:
        The toy.

    Raises:
        TypeError: If ``nll`` is not an unbinned likelihood, or ``params`` are not values by parameter.
        ValueError: If ``params`` names another likelihood's parameter, or a value outside of the limits; if the outcome
            behind a constraint cannot be moved, a yield is negative, or weighted data do not say how many events a model
            has whose number is not fitted.

    Example:
        >>> toy(nll, params={mu: 0.0}, seed=1).observed
        {<zfit.Parameter 'jes_observed' floating=False value=0>: 0.345584192064786}
    """
    check_events(nll)
    rng = np.random.default_rng(checked_seed(seed))
    seeds = seeds_from(int(rng.integers(2**31)))
    with preserved(nll):
        set_truth(nll, params)
        data = tuple(channel.draw(rng, seeds) for channel in channels_of(nll))
        observed = drawn_outcomes(nll, rng)
        return PseudoExperiment(data, observed, current_values(nll.get_params()))


def asimov(
    nll: zfit.loss.UnbinnedNLL, *, params: Values | None = None, n_events: int = 20_000, seed: Seed = 0
) -> PseudoExperiment:
    r"""Make the Asimov set: weighted events that stand for the expectation, and unfluctuated global observables.

    Events ``x_i`` are drawn from all components of a sum in equal parts, the mixture :math:`q`, and get the weights
    :math:`w_i = n p(x_i) / (N q(x_i))`: also a component whose yield is zero has its region populated. Then the
    scores :math:`s_i = \partial \log(n p(x_i)) / \partial \theta` balance them, :math:`w_i \to w_i (1 + s_i \cdot
    \lambda)` with :math:`\lambda` such that :math:`\sum_i w_i s_i = \partial n / \partial \theta`: the point where the
    set is made is an exact stationary point of its likelihood, however few the events. No histogram is involved, so the
    number of observables does not matter. (The Asimov set: arXiv:1007.1727.)

    Fits to it have the expected values and test statistics. Their errors are those expected from data if the weights
    are *not* corrected for: ``result.hesse(weightcorr=False)``, or MINOS.

    Args:
        nll: The likelihood; its parameters are left as they are.
        params: Parameter values to make it at; those left out have their current values.
        n_events: Number of events for each component of each channel. Expected errors and limits are precise to about
            0.2 % with 20 000, and to 0.7 % with 4000.
        seed: Seed of the events.

    Returns:
        The Asimov set.

    Raises:
        TypeError: As for `toy`.
        ValueError: As for `toy`; if ``n_events`` is not positive.

    Example:
        >>> background_only = asimov(nll, params={mu: 0.0})
    """
    check_events(nll)
    n_events = checked_number(n_events, "n_events=")
    seeds = seeds_from(int(np.random.default_rng(checked_seed(seed)).integers(2**31)))
    with preserved(nll):
        set_truth(nll, params)
        floating = list(nll.get_params())
        data = tuple(channel.asimov(floating, n_events, seeds) for channel in channels_of(nll))
        observed: dict[zfit.Parameter, float] = {}
        for measurement in map(auxiliary_measurement, nll.constraints):
            observed.update(zip(measurement.observed, measurement.expected_outcome(), strict=True))
        return PseudoExperiment(data, observed, current_values(floating))


def drawn_outcomes(nll: zfit.loss.UnbinnedNLL, rng: np.random.Generator) -> dict[zfit.Parameter, float]:
    """Global observables of one experiment, by parameter: outcomes of the auxiliary measurements at the current values."""
    observed: dict[zfit.Parameter, float] = {}
    for measurement in map(auxiliary_measurement, nll.constraints):
        observed.update(zip(measurement.observed, measurement.draw_outcome(rng), strict=True))
    return observed


def set_truth(nll: zfit.loss.UnbinnedNLL, params: Values | None) -> None:
    """Set parameters of a likelihood to where pseudo-experiments are made.

    Args:
        nll: The likelihood.
        params: Values by parameter; those left out stay where they are.

    Raises:
        TypeError: If they are not values by parameter.
        ValueError: If a parameter is not one of the likelihood, or a value is outside of its limits.
    """
    if params is None:
        return
    if not isinstance(params, Mapping):
        raise TypeError(f"params= are values by parameter, e.g. {{mu: 0.0}}; got {type(params).__name__}")
    known = nll.get_params(floating=None)
    for parameter, value in params.items():
        _check_value(parameter, value, known)
    zfit.param.set_values(dict(params), clip=True)  # rounding may have moved it over the edge


def refillable(nll: zfit.loss.UnbinnedNLL) -> zfit.loss.UnbinnedNLL:
    """A copy of a likelihood whose events `refill` replaces.

    Args:
        nll: The likelihood, of unweighted data.
    """
    return _of_toy(nll.create_new(data=[channel.refillable() for channel in channels_of(nll)]))


def _of_toy(nll: zfit.loss.UnbinnedNLL) -> zfit.loss.UnbinnedNLL:
    if isinstance(nll, LogSpaceNLL):
        nll.is_toy = True
    return nll


def refill(loss: zfit.loss.UnbinnedNLL, experiment: PseudoExperiment) -> None:
    """Put the events and global observables of a toy into a likelihood.

    Args:
        loss: Made by `refillable`.
        experiment: The toy.
    """
    for channel, data in zip(channels_of(loss), experiment.data, strict=True):
        channel.refill(data)
    zfit.param.set_values(experiment.observed)


# --- input -----------------------------------------------------------------------------------------------------


def check_events(nll: Any) -> None:
    """Refuse a likelihood without events."""
    if not isinstance(nll, BaseUnbinnedNLL):
        raise TypeError(f"pseudo-experiments are made from an unbinned likelihood; got {type(nll).__name__}")


def _check_value(parameter: Any, value: Any, known: Collection[zfit.Parameter]) -> None:
    names = [own.name for own in known]
    if not isinstance(parameter, zfit.Parameter):
        raise TypeError(f"params= takes the parameters themselves, not {parameter!r}; there are {names}")
    if parameter not in known:
        raise ValueError(
            f"params= has a second parameter that is called {parameter.name!r}, which the likelihood does not depend on"
            if parameter.name in names
            else f"params= has {parameter.name!r}, which is no parameter of the likelihood; there are {names}"
        )
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(value, str) or not np.isfinite(number):
        raise ValueError(f"params= needs a finite number for {parameter.name!r}; got {value!r}")
    low, high = limits_of(parameter)
    slack = 1e-9 * max(1.0, abs(number))
    if not low - slack <= number <= high + slack:
        raise ValueError(f"params= has {parameter.name!r} at {number:g}, outside of its limits ({low:g}, {high:g})")


def checked_number(number: Any, name: str) -> int:
    """A positive integer."""
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{name} is a positive integer; got {number!r}")
    return int(number)


def checked_seed(seed: Any, *, single: bool = False) -> Any:
    """A seed: an integer that is not negative, or several of them."""
    several = isinstance(seed, (Sequence, np.ndarray)) and not isinstance(seed, str) and not single
    parts = seed if several else [seed]
    if not len(parts) or any(isinstance(s, bool) or not isinstance(s, Integral) or s < 0 for s in parts):
        raise ValueError(f"seed= is an integer that is not negative{'' if single else ', or several'}; got {seed!r}")
    return seed

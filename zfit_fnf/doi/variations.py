r"""Uncertainties of whatever is made of the map: statistical, systematic and total.

A :class:`Scenario` is the map at one value of the parameters: at the best fit, for each member of the ensemble, and moved by
one standard deviation along each eigenvector of the covariance of the parameters. Anything that can be computed for one
scenario gets its uncertainty by computing it for all of them. Members are taken at the best fit of the *parameters*, with
``T_psi``: their spread is what the statistics of the data do to the map alone, and the eigenvectors carry what the
parameters do to it, so that the total is the sum in quadrature.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf
from zfit.result import FitResult

from ..densities.flows import in_chunks
from ..densities.transfer import ProfiledTransfer
from ..pdf import log_density, precompute
from ..samples import as_sample
from .pdf import behind, parts_of, responsibilities
from .step2 import ProfiledFit


@dataclass(frozen=True, eq=False)
class Scenario:
    """The map at one value of the parameters, made by `scenarios`.

    Attributes:
        name: What it is.
        values: The parameters, by name.
        transfer: The map as a function of the parameters.
        pdf: The model of data with this map.
        parameters: The parameters of the model, by name.
    """

    name: str
    values: dict[str, float]
    transfer: ProfiledTransfer
    pdf: zfit.pdf.BasePDF
    parameters: Mapping[str, zfit.Parameter]

    def to_simulation(self, data: Any, *, process: str | None = None) -> pd.DataFrame:
        """Take data to where simulation has them; arguments as for `Transfer.to_simulation`."""
        theta = tf.constant(list(self.values.values()), tf.float64)
        return self.transfer.transfer.moved(
            lambda u, context: self.transfer.inverse(u, context, theta)[0], data, process
        )

    def to_data(self, simulation: Any, *, process: str | None = None) -> pd.DataFrame:
        """Correct simulated events; arguments as for `Transfer.to_data`."""
        theta = tf.constant(list(self.values.values()), tf.float64)
        return self.transfer.transfer.moved(
            lambda u, context: self.transfer.forward(u, context, theta), simulation, process
        )

    def log_rate(self, events: Any) -> np.ndarray:
        """Logarithm ``(n,)`` of the expected density of events; of the normalised one if the model has no yield."""
        return self._evaluate(events, self._log_rate)

    def shares(self, events: Any) -> pd.DataFrame:
        """Probability of each process to have made an event: a row for each event, a column for each process."""
        names = [part.name for part in parts_of(self.pdf)]
        return pd.DataFrame(self._evaluate(events, self._shares), columns=names)

    def _evaluate(self, events: Any, function: Callable[[tf.Tensor], tf.Tensor]) -> np.ndarray:
        x = as_sample(events, self.pdf.obs).array(self.pdf.obs)
        params = [self.parameters[name] for name in self.values]
        with zfit.param.set_values(params, list(self.values.values())):
            return in_chunks(function, x)

    def _log_rate(self, x: tf.Tensor) -> tf.Tensor:
        expected = self.pdf.get_yield().value() if self.pdf.is_extended else tf.constant(1.0, tf.float64)
        return log_density(self.pdf, precompute(self.pdf, x)) + tf.math.log(tf.reshape(expected, ()))

    def _shares(self, x: tf.Tensor) -> tf.Tensor:
        log_p = [log_density(part, precompute(part, x)) for part in parts_of(self.pdf)]
        return tf.stack(responsibilities(self.pdf, log_p), axis=1)


@dataclass(frozen=True, eq=False)
class Modes:
    """Eigenvectors of the covariance of the parameters: independent directions of uncertainty.

    Attributes:
        names: Names of the parameters.
        values: Best fit ``(P,)``.
        deviations: Standard deviation along each eigenvector ``(P,)``, the largest first.
        directions: Eigenvectors as columns ``(P, P)``.
    """

    names: tuple[str, ...]
    values: np.ndarray
    deviations: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, result: FitResult) -> Modes:
        """Of a fit.

        Args:
            result: A fit of the profile likelihood.

        Raises:
            ValueError: If its covariance is not positive definite.
        """
        params = sorted(result.params, key=lambda parameter: parameter.name)
        covariance = np.asarray(result.covariance(params), float)
        if not np.isfinite(covariance).all() or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError("the covariance of the fit is not positive definite: the fit did not end at a minimum")
        variances, directions = np.linalg.eigh(covariance)
        directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(len(params))])
        values = np.array([float(result.params[parameter]["value"]) for parameter in params])
        return cls(tuple(p.name for p in params), values, np.sqrt(variances[::-1]), directions[:, ::-1])

    def moved(self, mode: int, sign: float) -> dict[str, float]:
        """The parameters one standard deviation along a mode, by name."""
        point = self.values + sign * self.deviations[mode] * self.directions[:, mode]
        return dict(zip(self.names, point.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Scenarios:
    """All that is needed to propagate uncertainties, made by `scenarios`.

    Attributes:
        best: The best fit.
        members: The members of the ensemble, at the best fit of the parameters.
        modes: The eigenvectors.
        moved: For each mode, one standard deviation down and up.
    """

    best: Scenario
    members: tuple[Scenario, ...]
    modes: Modes
    moved: tuple[tuple[Scenario, Scenario], ...]

    def evaluate(self, function: Callable[[Scenario], Any]) -> Uncertainty:
        """Compute something, with its uncertainty.

        Args:
            function: Takes a scenario and returns an array of numbers, always of the same shape.
        """
        value = np.asarray(function(self.best), float)
        members = np.array([np.asarray(function(member), float) for member in self.members]).reshape(-1, *value.shape)
        shifts = [[np.asarray(function(side), float) - value for side in sides] for sides in self.moved]
        return Uncertainty(value, members, np.array(shifts).reshape(-1, 2, *value.shape))


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """A number, or an array of them, with its uncertainties.

    Attributes:
        value: At the best fit.
        members: For each member ``(B, ...)``; empty without an ensemble.
        shifts: Change with each mode, one standard deviation down and up ``(P, 2, ...)``.
    """

    value: np.ndarray
    members: np.ndarray
    shifts: np.ndarray

    @property
    def systematic(self) -> np.ndarray:
        """Standard deviation from the parameters."""
        return np.sqrt(np.sum(self._half() ** 2, axis=0))

    @property
    def statistical(self) -> np.ndarray:
        """Standard deviation of the members; not a number with fewer than two, which tell nothing about a spread."""
        if len(self.members) < 2:
            return np.full_like(self.value, np.nan)
        return self.members.std(axis=0, ddof=1)

    @property
    def total(self) -> np.ndarray:
        """Both in quadrature; of the parameters alone without an ensemble."""
        return np.hypot(self.systematic, np.nan_to_num(self.statistical))

    def covariance(self) -> np.ndarray:
        """Total covariance ``(k, k)`` of the ``k`` numbers, flattened."""
        half = self._half().reshape(len(self.shifts), -1)
        matrix = half.T @ half
        if len(self.members) > 1:
            deviation = (self.members - self.members.mean(axis=0)).reshape(len(self.members), -1)
            matrix += deviation.T @ deviation / (len(self.members) - 1)
        return matrix

    def _half(self) -> np.ndarray:
        """Half the difference between the two sides of each mode ``(P, ...)``."""
        return 0.5 * (self.shifts[:, 1] - self.shifts[:, 0])


def scenarios(profiled: ProfiledFit, result: FitResult) -> Scenarios:
    """The maps that uncertainties are made of.

    Args:
        profiled: The profile, of a fit with members if there is to be a statistical uncertainty.
        result: A fit of its loss, which gives the best fit and the covariance of the parameters.

    Raises:
        ValueError: If the covariance of the fit is not positive definite.

    Example:
        >>> band = scenarios(profiled, result).evaluate(lambda s: s.to_data(events, process="B").to_numpy())
        >>> band.value, band.statistical, band.systematic, band.total
    """
    modes = Modes.of(result)
    best = dict(zip(modes.names, modes.values.tolist(), strict=True))
    nominal = copy.deepcopy(profiled.transfer)  # stays as it is when the original is trained again
    pdf = behind(profiled.fit.model, nominal, params=profiled.parameters)

    def scenario(name: str, values: Mapping[str, float]) -> Scenario:
        return Scenario(name, dict(values), nominal, pdf, profiled.parameters)

    members = []
    for index, member in enumerate(profiled.fit.members):
        transfer = copy.deepcopy(profiled.transfer)
        transfer.transfer.assign(member.transfer)
        transfer.place(member.values)
        own = behind(profiled.fit.model, transfer, params=profiled.parameters)
        members.append(Scenario(f"member {index}", best, transfer, own, profiled.parameters))
    moved = tuple(
        (scenario(f"mode {mode} down", modes.moved(mode, -1.0)), scenario(f"mode {mode} up", modes.moved(mode, +1.0)))
        for mode in range(len(modes.names))
    )
    return Scenarios(scenario("best fit", best), tuple(members), modes, moved)

r"""The calibrated likelihood: the learned one, seen through an affine map of its parameters.

.. math::
    -\log L(\theta, \eta) = E(\tau) - Q(\tau) + \tfrac12 r^T J^{-1} r + C(\theta) + \tfrac12 (\eta - \eta^\mathrm{obs})^2

:math:`E` is the learned likelihood of the events, and :math:`Q` its parabola at its own best fit, where its shape is that of
its intervals; :math:`r(\theta, \eta)` are the calibrated scores (:mod:`zfit_fnf.calibration.moments`), and the map
:math:`\tau(\theta, \eta)` is such that in all directions that the data constrain :math:`Q(\tau)` and the parabola of the scores
are the same (:mod:`zfit_fnf.calibration.map`): what remains there is :math:`E(\tau)`, with its true shape. :math:`C` are the
constraints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.loss import NONE

from ..loss import (
    Channel,
    LogSpaceNLL,
    OtherLikelihood,
    Parameters,
    as_term,
    channel_kind,
    combined,
    constraint_kernel,
    select,
    sharing,
)
from ..minimum import assign, hessian_here
from ..param import Nuisance
from .map import Calibration

__all__ = ["CalibratedExtendedUnbinnedNLL", "CalibratedNLL", "CalibratedUnbinnedNLL"]


class CalibratedNLL(LogSpaceNLL):
    """What calibrated likelihoods share, made by `zfit_fnf.calibrate`.

    Attributes:
        learned: The likelihood of the learned densities.
        calibration: What is known about it.
        report: Where the errors come from, a `CalibrationReport`.
        beside: A likelihood that was added to it, which needs no calibration; or none.
    """

    precedence = 2

    def __init__(
        self,
        learned: LogSpaceNLL,
        calibration: Calibration,
        report: Any = None,
        *,
        constraints: Any = None,
        options: Any = None,
        beside: LogSpaceNLL | None = None,
    ):
        self.learned, self.calibration, self.report, self.beside = learned, calibration, report, beside
        self._parts = [learned] if beside is None else [learned, beside]
        known = [one for part in self._parts for one in part.constraints] if constraints is None else list(constraints)
        known += [one for one in [calibration.constraint] if one is not None and one not in known]
        options = learned.options if options is None else options
        models, data = ([one for part in self._parts for one in getattr(part, name)] for name in ("model", "data"))
        super().__init__(models, data, constraints=known, options=options)
        self._reference: Any = None  # what belongs to the present data

    def kind_of(self, model: Any) -> type[Channel]:
        """The class of channels for a model."""
        return channel_kind(model)

    def extended_flags(self, models: Sequence[Any]) -> list[bool]:
        """For each of the models, whether the number of events is a part of the likelihood."""
        del models
        return [flag for part in self._parts for flag in part.extended]

    @property
    def simulation_nuisances(self) -> tuple[Nuisance, ...]:
        """The nuisances that stand for the finite simulation."""
        return tuple(self.calibration.nuisances)

    def create_new(
        self, model: Any = NONE, data: Any = NONE, fit_range: Any = NONE, constraints: Any = NONE, options: Any = NONE
    ) -> CalibratedNLL:
        """The same calibration with other data, or other constraints.

        Args:
            model: Not available: what was calibrated is this model.
            data: Events of every channel.
            fit_range: Not supported.
            constraints: Constraints in place of those that there are.
            options: As for `UnbinnedNLL`.

        Raises:
            ValueError: If another model is given.
        """
        n = len(self.learned.model)
        models, events = (
            list(own if new is NONE else new if isinstance(new, (list, tuple)) else [new])
            for new, own in ((model, self.model), (data, self.data))
        )
        if models[:n] != list(self.learned.model):
            raise ValueError("a calibration belongs to its model: calibrate the likelihood of the other one")
        given = {"fit_range": fit_range, "options": options}
        same = all(new is own for new, own in zip(events, self.learned.data, strict=False))
        return type(self)(
            self.learned.create_new(data=events[:n], **given),
            self.calibration,
            self.report if same or self.report is None else self.report.of_other_data(),
            constraints=self.constraints if constraints is NONE else constraints,
            options=None if options is NONE else options,
            beside=self.beside and self.beside.create_new(model=models[n:], data=events[n:], **given),
        )

    def sum_of(self, first: Any, second: Any) -> CalibratedNLL:
        """The sum of this likelihood, which is one of the two, and another one, which is not calibrated.

        Raises:
            ValueError: If both are calibrated.
        """
        other = second if first is self else first
        if isinstance(other, CalibratedNLL):
            raise ValueError(
                "calibrated likelihoods cannot be added, their finite simulation may be the same: calibrate the sum"
            )
        own, exact = sharing(self, as_term(other.exact() if hasattr(other, "exact") else other))
        if isinstance(exact, OtherLikelihood):
            return own.create_new(constraints=[*own.constraints, exact, *exact.constraints])
        beside = exact if own.beside is None else combined(own.beside, exact)
        constraints = [*own.constraints, *exact.constraints]
        return type(self)(own.learned, own.calibration, own.report, constraints=constraints, beside=beside)

    def made_of(self) -> dict[str, Any]:
        """Arguments of the constructor, with which it is made again in another process."""
        return {
            "learned": self.learned,
            "calibration": self.calibration,
            "report": self.report,
            "constraints": list(self.constraints),
            "options": self.options,
            "beside": self.beside,
        }

    def make_channel(self, model: Any, data: Any, *, extended: bool) -> Channel:
        """A channel of this likelihood."""
        made = super().make_channel(model, data, extended=extended)
        is_learned = any(model is own for own in self.learned.model)
        return cast(Channel, _DrawnChannel(made, self)) if is_learned else made

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """In here, parameters are where the learned densities describe what is expected from the calibrated ones."""
        u, eta = self._position()
        with self._at(self.calibration.towards_model(u, eta)):
            yield

    # --- what zfit calls ----------------------------------------------------------------------------------------------

    def compute_value(self) -> tf.Tensor:
        """The negative log-likelihood, a scalar."""
        return self.compute_value_gradient([], coarse=False)[0]

    def compute_value_gradient(self, params: Parameters, *, coarse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The negative log-likelihood and its gradient ``(P,)``."""
        del coarse  # where the learned likelihood is asked is not where a minimiser searches
        z, calibration = self._checked_position(), self.calibration
        origin, matrix = self._map()
        raw = origin + matrix @ z
        tau, follows = calibration.inside(raw)
        known = self.learned.get_params(floating=None)
        others = [one for one in params if one in known and one not in self._calibrated]
        with self._at(tau):
            value, gradient = self._events_value_gradient([*calibration.params, *others])
        extra, at_tau, at_z = self._parabolas(z, tau)
        inner = follows.T @ (gradient[: len(tau)] * calibration.errors + at_tau)
        own = (matrix.T @ inner + at_z) / self._units
        slopes = dict(zip([*self._calibrated, *others], [*own, *gradient[len(tau) :]], strict=True))
        plain = [constraints_value_gradient(self, params)]
        if self.beside is not None:
            plain.append(events_value_gradient(self.beside, params))
        result = np.array([slopes.get(one, 0.0) for one in params]) + sum(slope for _, slope in plain)
        total = value + extra + sum(term for term, _ in plain)
        return tf.constant(total, tf.float64), tf.constant(result, tf.float64)

    def compute_hessian(self, params: Parameters) -> tf.Tensor:
        """The Hessian ``(P, P)``."""
        z = self._checked_position()
        calibration, (origin, matrix) = self.calibration, self._map()
        raw = origin + matrix @ z
        tau, follows = calibration.inside(raw)
        with self._at(tau):
            curvature = event_hessian(self.learned, calibration.params) * np.outer(
                calibration.errors, calibration.errors
            )
        inner = follows @ matrix
        own = (
            inner.T @ (curvature - calibration.curvature) @ inner
            + calibration.scores.T @ calibration.weight @ calibration.scores
        )
        own /= np.outer(self._units, self._units)
        rows = [self._calibrated.index(one) if one in self._calibrated else len(own) for one in params]
        total = np.pad(own, (0, 1))[np.ix_(rows, rows)] + self.constraint_hessian(params)
        if self.beside is not None:
            total += event_hessian(self.beside, params)
        return tf.constant(total, tf.float64)

    def weighted_covariance(self, inverse_hessian: np.ndarray, params: Parameters, correction: Any) -> np.ndarray:
        """The Hessian has the covariance of the scores of weighted events in it already."""
        del params, correction
        return inverse_hessian

    # --- the map ------------------------------------------------------------------------------------------------------

    @property
    def _calibrated(self) -> list[zfit.Parameter]:
        return [*self.calibration.params, *self.calibration.nuisances]

    @property
    def _units(self) -> np.ndarray:
        return np.concatenate([self.calibration.errors, np.ones(len(self.calibration.nuisances))])

    def _position(self) -> tuple[np.ndarray, np.ndarray]:
        calibration = self.calibration
        values = np.array([float(parameter.value()) for parameter in calibration.params])
        eta = np.array([float(parameter.value()) for parameter in calibration.nuisances])
        return (values - calibration.point) / calibration.errors, eta

    def _checked_position(self) -> np.ndarray:
        if not tf.executing_eagerly():
            raise NotImplementedError('a calibrated likelihood is not traced: take method="minuit_minos"')
        if unknown := [one.name for one in self.learned.get_params() if one not in self._calibrated]:
            raise ValueError(
                f"the parameters {unknown} were fixed when the likelihood was calibrated: calibrate it anew"
            )
        return np.concatenate(self._position())

    @contextmanager
    def _at(self, position: np.ndarray) -> Iterator[None]:
        """Context in which the calibrated parameters are somewhere else, relative to the point."""
        params = self.calibration.params
        before = [float(parameter.value()) for parameter in params]
        assign(params, self.calibration.point + self.calibration.errors * position)
        try:
            yield
        finally:
            assign(params, before)

    def _gradients(self) -> tuple[np.ndarray, np.ndarray]:
        """Gradients ``(P,)`` of the learned likelihood of these data at the point and at the reference."""
        return self._of_data()[1]

    def _map(self) -> tuple[np.ndarray, np.ndarray]:
        return self._of_data()[2]

    def _of_data(self) -> tuple[tuple[Any, ...], tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        if self._reference is None or any(a is not b for a, b in zip(self._reference[0], self._version(), strict=True)):
            self.calibration.check_numbers(self.learned.data)
            gradients = (
                self._gradient(np.zeros(len(self.calibration.point))),
                self._gradient(self.calibration.reference),
            )
            self._reference = self._version(), gradients, self.calibration.moved(*gradients)
        return self._reference

    def _gradient(self, position: np.ndarray) -> np.ndarray:
        with self._at(position):
            return self._events_value_gradient(self.calibration.params)[1] * self.calibration.errors

    def _version(self) -> tuple[Any, ...]:
        """Objects of which another one takes the place whenever the events are replaced."""
        return tuple(
            part for data in self.learned.data for part in (data, getattr(data, "n_samples", None), data.weights)
        )

    def _events_value_gradient(self, params: Parameters) -> tuple[float, np.ndarray]:
        """Of the learned likelihood without its constraints, where the parameters are."""
        return events_value_gradient(self.learned, params)

    def _parabolas(self, z: np.ndarray, tau: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """That of the scores minus that of the learned likelihood, and their gradients by ``tau`` and ``z``."""
        calibration, (at_point, at_reference) = self.calibration, self._gradients()
        residual = at_point + calibration.bias + calibration.scores @ z
        distance = tau - calibration.reference
        slope = at_reference + calibration.curvature @ distance
        value = 0.5 * residual @ calibration.weight @ residual - 0.5 * distance @ (at_reference + slope)
        return float(value), -slope, calibration.scores.T @ calibration.weight @ residual


class _DrawnChannel:
    """A channel whose pseudo-data are what the learned densities make of calibrated parameters.

    Args:
        channel: The channel.
        nll: The calibrated likelihood.
    """

    def __init__(self, channel: Channel, nll: CalibratedNLL):
        self._channel, self._nll = channel, nll

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while a copy is made
            raise AttributeError(name)
        return getattr(self._channel, name)

    def n_expected(self) -> float:
        """As `Channel.n_expected`."""
        with self._nll.drawing():
            return self._channel.n_expected()

    def draw(self, rng: np.random.Generator, seeds: Iterator[np.ndarray]) -> zfit.Data:
        """As `Channel.draw`."""
        with self._nll.drawing():
            return self._channel.draw(rng, seeds)

    def asimov(self, params: Parameters, n_events: int, seeds: Iterator[np.ndarray]) -> zfit.Data:
        """As `Channel.asimov`."""
        with self._nll.drawing():
            return self._channel.asimov(params, n_events, seeds)


def event_hessian(nll: LogSpaceNLL, params: Parameters) -> np.ndarray:
    """Hessian ``(P, P)`` of a likelihood without its constraints."""
    own = _of(nll, params)
    rows = [own.index(one) if one in own else len(own) for one in params]
    hessian = hessian_here(nll, own) - nll.constraint_hessian(own)
    return np.pad(hessian, (0, 1))[np.ix_(rows, rows)]


def events_value_gradient(nll: LogSpaceNLL, params: Parameters) -> tuple[float, np.ndarray]:
    """Value and gradient ``(P,)`` of a likelihood without its constraints."""
    own = _of(nll, params)
    value, gradient = nll.value_gradient(own, full=True)
    term, slope = constraints_value_gradient(nll, own)
    slopes = dict(zip(own, np.asarray(gradient) - slope, strict=True))
    return float(value) - term, np.array([slopes.get(one, 0.0) for one in params])


def _of(nll: LogSpaceNLL, params: Parameters) -> list[zfit.Parameter]:
    """Those of some parameters that a likelihood depends on."""
    known = nll.get_params(floating=None)
    return [one for one in params if one in known]


def constraints_value_gradient(nll: LogSpaceNLL, params: Parameters) -> tuple[float, np.ndarray]:
    """Value and gradient ``(P,)`` of the constraints of a likelihood."""
    value, gradient = 0.0, np.zeros(len(params))
    for kernel in map(constraint_kernel, nll.constraints):
        term, slope = kernel.value_gradient()
        value += float(term)
        if len(params):
            gradient += np.asarray(select(slope, kernel.params, params))
    return value, gradient


class CalibratedUnbinnedNLL(CalibratedNLL, zfit.loss.UnbinnedNLL):
    """A calibrated `UnbinnedNLL`; see `zfit_fnf.calibrate`."""


class CalibratedExtendedUnbinnedNLL(CalibratedNLL, zfit.loss.ExtendedUnbinnedNLL):
    """A calibrated `ExtendedUnbinnedNLL`; see `zfit_fnf.calibrate`."""

r"""The affine map of the parameters of a calibrated likelihood to those of the learned one, which gives it its shape.

:math:`\tau(\theta, \eta)` is such that in all directions that the data constrain the parabola :math:`Q(\tau)` of the learned
likelihood and that of the calibrated scores are the same. Along directions that data hardly constrain, :math:`\tau` moves with
:math:`\theta` in the valley of :math:`Q`, or stays where it is if the learned likelihood claims that they do, or changes its mind
between its best fit and the calibrated one. Outside of the limits it is the nearest place inside, in the metric of :math:`Q`.
So nothing that takes the place of :math:`Q` falls without end. Of a model that is far off nothing moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import zfit  # before tensorflow, which it silences
import numpy as np
from scipy.optimize import lsq_linear

from ..param import Nuisance, NuisanceConstraint, limits_of
from .moments import Moments, inverse, root

__all__ = ["FAR", "Calibration"]

FAR = 3.0
"""Errors by which a model is so far off that it is told, and that the shape of its likelihood means nothing."""

_CONSTRAINED = 0.2  # share of the information on a direction that data give, above which the learned shape is moved
_HARMLESS = 1.0  # curvature of the learned likelihood, likewise, up to which it is followed elsewhere
_STEADY = 0.3  # change of that curvature from its best fit to the calibrated one, likewise
_OTHER_NUMBER = 0.1  # of the events, by which data may be more or fewer, and errors that a bias may be off by for that
_LEAST = 1e-6  # curvature, where there is none
_CURVED = 0.05  # curvature of the learned likelihood, in units of the calibrated one, that is needed for it


@dataclass(frozen=True, eq=False)
class Calibration:
    """What makes a likelihood a calibrated one, found by `zfit_fnf.calibrate`.

    Scores and matrices are those of parameters in units of ``errors``.

    Attributes:
        params: The parameters.
        point: Where the scores were taken, ``(P,)``.
        errors: Units of the parameters ``(P,)``.
        reference: Best fit of the learned likelihood, relative to the point, ``(P,)``.
        curvature: Hessian of the learned likelihood of the events there, ``(P, P)``.
        curvature_here: The same at the point.
        moments: What the scores mean.
        bias: What is added to the gradient at the point, ``(P,)``.
        nuisances: ``mcstat_0``, ..., one for each direction of finite simulation.
        constraint: Their unit Gaussians.
        numbers: Sum of the weights of the data, of channels in which it is no part of the likelihood; `None` of others.
    """

    params: tuple[zfit.Parameter, ...]
    point: np.ndarray
    errors: np.ndarray
    reference: np.ndarray
    curvature: np.ndarray
    curvature_here: np.ndarray
    moments: Moments
    bias: np.ndarray
    nuisances: tuple[Nuisance, ...]
    constraint: NuisanceConstraint | None
    numbers: tuple[float | None, ...] = ()

    def check_numbers(self, data: Sequence[zfit.Data]) -> None:
        """Refuse data of other numbers of events, of which the closure is another one and no parameter knows.

        Raises:
            ValueError: If they are 10 % more or fewer, or so many that a tenth of an error of bias would be left.
        """
        pulls = self.moments.weights @ self.moments.bias / np.sqrt(np.diag(self.moments.covariance))
        for number, events in zip(self.numbers, data, strict=False):
            found = float(events.samplesize)
            if number is not None and abs(found / number - 1.0) * max(1.0, np.abs(pulls).max()) > _OTHER_NUMBER:
                raise ValueError(
                    f"the likelihood was calibrated for {number:.6g} events of {list(events.obs)}, and these data have "
                    f"{found:.6g}: as it is not extended, no parameter tells how many are expected. Calibrate it with these"
                )

    @cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Limits of the parameters, each ``(P,)``, relative to the point."""
        low, high = np.transpose([limits_of(parameter) for parameter in self.params])
        return (low - self.point) / self.errors, (high - self.point) / self.errors

    @cached_property
    def scores(self) -> np.ndarray:
        """Derivative ``(P, P + m)`` of the calibrated scores with respect to parameters and ``nuisances``."""
        return np.concatenate([self.moments.sensitivity, self.moments.directions], axis=1)

    @cached_property
    def weight(self) -> np.ndarray:
        """Inverse covariance of the scores ``(P, P)``."""
        return inverse(self.moments.scatter)

    @cached_property
    def constrained(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Directions ``X (P, r)`` that data constrain, others that are harmless, and the metric of both ``(P, P)``."""
        information = self.moments.sensitivity.T @ self.weight @ self.moments.sensitivity
        metric = information + self.moments.constraints
        half = root(metric, -0.5)
        values, vectors = np.linalg.eigh(half @ information @ half)
        strong, weak = (half @ vectors[:, chosen] for chosen in (values > _CONSTRAINED, values <= _CONSTRAINED))
        curvatures, rotation = np.linalg.eigh(strong.T @ self.curvature @ strong)
        strong = strong @ rotation[:, curvatures > _CURVED]
        # Where the learned likelihood claims much that is not there, or not everywhere, its shape at a distance means nothing.
        curvatures, rotation = np.linalg.eigh(self._of_valley(strong, weak, self.curvature))
        weak, curvatures = weak @ rotation[:, harmless := np.abs(curvatures) < _HARMLESS], curvatures[harmless]
        changes, rotation = np.linalg.eigh(self._of_valley(strong, weak, self.curvature_here) - np.diag(curvatures))
        return strong, weak @ rotation[:, np.abs(changes) < _STEADY], metric

    def _valley(self, strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
        """Along directions ``weak`` of the scores, where the learned likelihood is lowest: its own valley."""
        shear: np.ndarray = inverse(strong.T @ self.curvature @ strong) @ (strong.T @ self.curvature @ weak)
        return weak - strong @ shear

    @staticmethod
    def _of_valley(strong: np.ndarray, weak: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """A curvature along directions ``weak``, where it is least along ``strong`` ones."""
        across = strong.T @ curvature @ weak
        found: np.ndarray = weak.T @ curvature @ weak - across.T @ inverse(strong.T @ curvature @ strong) @ across
        return found

    def moved(self, gradient: np.ndarray, at_reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map of parameters and nuisances to the parameters of the learned likelihood, at first order.

        Args:
            gradient: That of the learned likelihood of the events at the point, ``(P,)``.
            at_reference: The same at the reference.

        Returns:
            Where it takes the point, relative to it, and its matrix ``(P, P + m)``. Of a model that is far off nothing moves:
            only the parabola of the scores is left.
        """
        if np.abs(self.reference).max() > FAR:
            return np.zeros(len(self.point)), np.zeros((len(self.point), self.scores.shape[1]))
        strong, weak, metric = self.constrained
        follows = self._valley(strong, weak) @ weak.T @ metric
        kept = np.pad(follows, ((0, 0), (0, self.scores.shape[1] - len(self.point))))
        if not strong.shape[1]:
            return np.zeros(len(self.point)), kept
        curvature = strong.T @ self.curvature @ strong
        whitened = root(self.weight) @ self.moments.sensitivity @ strong
        half = root(whitened.T @ whitened, -0.5) @ whitened.T @ root(self.weight)  # of the scores, as r unit Gaussians
        # Of all maps with this parabola, the one that is closest to the identity.
        left, _, right = np.linalg.svd(root(curvature) @ root(whitened.T @ whitened))
        onto = root(curvature, -0.5) @ left @ right @ half
        stationary = inverse(curvature) @ (strong.T @ (self.curvature @ self.reference - at_reference))
        return strong @ (stationary + onto @ (gradient + self.bias)), kept + strong @ onto @ self.scores

    def inside(self, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The place inside of the limits that is nearest to one outside, in the metric of the learned likelihood.

        From there its parabola goes on to the place itself, which is further from its minimum: what is left after it was taken
        away is bounded. Of the coordinates alone, the nearest values may be off the valley of correlated parameters, where the
        parabola is much higher than the likelihood.

        Returns:
            The place ``(P,)``, and its derivative ``(P, P)``.
        """
        low, high = self.limits
        if np.all((low <= tau) & (tau <= high)):
            return tau, np.eye(len(tau))
        metric = self.curvature + self.moments.constraints + _LEAST * np.eye(len(tau))
        half = root(metric)
        found = lsq_linear(half, half @ tau, (low, high), method="bvls")
        free = found.active_mask == 0
        follows = np.zeros_like(metric)
        follows[np.ix_(free, free)] = np.eye(free.sum())
        follows[np.ix_(free, ~free)] = np.linalg.solve(metric[np.ix_(free, free)], metric[np.ix_(free, ~free)])
        return np.clip(found.x, low, high), follows

    def towards_model(self, u: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Parameters at which the densities describe what is expected at others, all relative to the point."""
        strong, weak, metric = self.constrained
        promised, kept = self.moments.promised, weak @ (weak.T @ metric @ u)
        missing = self.bias + self.scores @ np.concatenate([u, eta]) - promised @ kept
        moved = kept + strong @ (inverse(strong.T @ promised @ strong) @ (strong.T @ missing))
        return np.clip(moved, *self.limits)

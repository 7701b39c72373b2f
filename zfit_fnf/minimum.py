"""Minima of likelihoods inside of the limits of their parameters, from exact derivatives.

A minimum at a limit is one where the likelihood still falls towards values outside. The parameters that are there have no
curvature that would mean an error, and the others have theirs with the former fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import scipy.linalg

from .loss import channels_of
from .param import is_inside, limits_of

__all__ = [
    "Curvature",
    "Derivatives",
    "Minimum",
    "assign",
    "curvature_of",
    "hessian_here",
    "inverse_of",
    "invert",
    "newton_step",
    "pseudo_inverse",
    "scales",
    "settle",
    "smallest_eigenvalue",
    "step_inside",
    "vertical_distance",
]

_DIFFERENCE = 0.01  # standard deviations (all others fixed) between which gradients are compared
_BATCHED = 16  # parameters, from which on an accelerated likelihood has a Hessian that is cheaper than differences
_SMALLEST = 1e-6  # mean weight up to which goals and differences follow it, until rounding ends that
_DOUBTFUL = 1e-4  # smallest eigenvalue, in units of the diagonal, below which differences are not good enough
_FLAT = 1e-8  # the same, below which the likelihood does not depend on a direction
_ENDLESS = 1e-6  # fall of the likelihood along a direction without curvature that is more than rounding
_LARGEST = 1e4  # times the step size of a parameter: how far a difference may reach for curvature
_STEPS = 12  # of Newton's method
_SLOW = 0.1  # the ratio of two distances, above which a step was not Newton's and the Hessian is computed anew


class Derivatives:
    """A likelihood, its gradient and its Hessian as functions of the values of parameters.

    The Hessian is made of central differences of the gradient. For that they are exact enough (to about 1e-4), they need no
    program of their own to be compiled, and take half of the time of automatic second derivatives.

    Args:
        loss: The likelihood.
        params: The parameters.

    Attributes:
        low: Lower limits ``(P,)``, infinite where there are none.
        high: Upper limits ``(P,)``.
        n_calls: How often the gradient was computed.
        unit: Rise of the likelihood that is worth as much as one of unweighted events is, at most one.
    """

    def __init__(self, loss: Any, params: Iterable[zfit.Parameter]):
        self.loss, self.params = loss, list(params)
        self.low, self.high = np.transpose([limits_of(parameter) for parameter in self.params])
        self.unit = _unit(loss)
        self._difference = _DIFFERENCE * np.sqrt(self.unit)
        self._steps = self._difference * np.array([float(parameter.stepsize) for parameter in self.params])
        self._largest = _LARGEST * self._steps
        self.n_calls = 0
        self._known: dict[bytes, tuple[float, np.ndarray]] = {}
        self._hessian: tuple[bytes, np.ndarray] = b"", np.zeros((0, 0))

    def value(self, point: np.ndarray) -> float:
        """The negative log-likelihood."""
        assign(self.params, point)
        return float(self.loss.value(full=False))

    def value_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative log-likelihood and its gradient ``(P,)``."""
        key = point.tobytes()
        if key not in self._known:
            self._known = {key: self._value_gradient(point)}
        return self._known[key]

    def known(self, point: np.ndarray) -> tuple[float, np.ndarray] | None:
        """The same, if they were computed there last."""
        return self._known.get(point.tobytes())

    def hessian(self, point: np.ndarray) -> np.ndarray:
        """The Hessian ``(P, P)``."""
        if self._hessian[0] != point.tobytes():
            batched = hasattr(self.loss, "starting_point") and len(self.params) > _BATCHED
            self._hessian = point.tobytes(), self.automatic_hessian(point) if batched else self._differences(point)
        return self._hessian[1]

    def automatic_hessian(self, point: np.ndarray) -> np.ndarray:
        """The Hessian ``(P, P)`` by automatic differentiation."""
        assign(self.params, point)
        matrix = np.asarray(self.loss.hessian(self.params))
        return 0.5 * (
            matrix + matrix.T
        )  # single precision leaves differences, which would look like slopes without end

    def held(self, point: np.ndarray) -> np.ndarray:
        """Which parameters are at a limit that the likelihood falls towards, ``(P,)``."""
        gradient = self.value_gradient(point)[1]
        return ((point <= self.low) & (gradient > 0)) | ((point >= self.high) & (gradient < 0))

    def _value_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        self.n_calls += 1
        assign(self.params, point)
        value, gradient = self.loss.value_gradient(self.params, full=False)
        return float(value), np.asarray(gradient)

    def _differences(self, point: np.ndarray) -> np.ndarray:
        matrix = np.stack([self._row(point, index) for index in range(len(point))])
        return 0.5 * (matrix + matrix.T)

    def _row(self, point: np.ndarray, index: int) -> np.ndarray:
        """A row of the Hessian; the step is found that is right for the curvature, and remembered."""
        for _ in range(2):
            up, down = point.copy(), point.copy()
            up[index] = min(point[index] + self._steps[index], self.high[index])
            down[index] = max(point[index] - self._steps[index], self.low[index])
            row = (self._value_gradient(up)[1] - self._value_gradient(down)[1]) / (up[index] - down[index])
            if not np.isfinite(row).all():  # a limit is that close where a yield is zero there
                return np.full_like(row, np.nan)
            right = self._difference / np.sqrt(row[index]) if row[index] > 0 else self._steps[index]
            if 0.1 < self._steps[index] / right < 10.0:
                break
            self._steps[index] = min(right, self._largest[index])
        return row


def _unit(loss: Any) -> float:
    """Of weighted data, whose likelihood is as flat as their weights are small: the smallest of all channels."""
    if not (getattr(loss, "is_weighted", False) and hasattr(loss, "weighted_covariance")):
        return 1.0
    sums = (channel.sums_of_weights() for channel in channels_of(loss))
    return float(min([1.0, *(max(squares / total, _SMALLEST) for total, squares in sums if total > 0)]))


def hessian_here(loss: Any, params: Sequence[zfit.Parameter]) -> np.ndarray:
    """Hessian ``(P, P)`` of a likelihood at the current values, which stay, as `Derivatives` makes it.

    Args:
        loss: The likelihood.
        params: The parameters.
    """
    if not params:
        return np.zeros((0, 0))
    derivatives = Derivatives(loss, params)
    point = np.array([float(parameter.value()) for parameter in derivatives.params])
    try:
        return derivatives.hessian(point)
    finally:
        assign(derivatives.params, point)


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where Newton steps inside of the limits have led, made by `settle`.

    Attributes:
        values: Values of the parameters ``(P,)``.
        nll: The negative log-likelihood there.
        gradient: First derivatives ``(P,)``.
        free: Which parameters are not held by a limit, ``(P,)``.
        edm: Expected vertical distance to the minimum inside of the limits; infinite where there is none in sight.
        hessian: Second derivatives ``(P, P)``, there or close by.
    """

    values: np.ndarray
    nll: float
    gradient: np.ndarray
    free: np.ndarray
    edm: float
    hessian: np.ndarray


def settle(
    derivatives: Derivatives,
    start: np.ndarray,
    *,
    goal: float,
    within: float = np.inf,
    hessian: np.ndarray | None = None,
) -> Minimum:
    """Newton steps inside of the limits, from a point that is close to a minimum.

    Args:
        derivatives: The likelihood.
        start: The point ``(P,)``.
        goal: Expected vertical distance to the minimum that is small enough.
        within: The same, beyond which no step is taken.
        hessian: Second derivatives ``(P, P)`` of a likelihood close by, for the first steps; by default those at the point.

    Returns:
        The last point, the minimum if its distance is small enough.
    """
    point, closest, is_here = start, np.inf, hessian is None
    if hessian is None:
        hessian = derivatives.hessian(start)
    for _ in range(_STEPS):
        value, gradient = derivatives.value_gradient(point)
        step, distance = step_inside(point, gradient, hessian, derivatives.low, derivatives.high)
        if not distance <= goal and not is_here and not distance <= _SLOW * closest:
            hessian, is_here = derivatives.hessian(point), True
            step, distance = step_inside(point, gradient, hessian, derivatives.low, derivatives.high)
        best = Minimum(point, value, gradient, ~derivatives.held(point), distance, hessian)
        end = np.clip(point + step, derivatives.low, derivatives.high)
        reaches_limit = bool(((end != point) & ((end == derivatives.low) | (end == derivatives.high))).any())
        if (distance <= goal and not reaches_limit) or not distance < min(within, 10.0 * closest):
            break
        closest, is_here, point = min(closest, max(distance, goal)), False, end
    return best


def step_inside(
    point: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, float]:
    """The step to the minimum of a parabola inside of limits, and how far below it is.

    Args:
        point: Where we are, ``(P,)``.
        gradient: First derivatives ``(P,)``.
        hessian: Second derivatives ``(P, P)``.
        low: Lower limits ``(P,)``.
        high: Upper limits ``(P,)``.

    Returns:
        The step ``(P,)``, and the expected vertical distance: infinite where derivatives are not finite or the parabola
        has no minimum.
    """
    step = np.zeros_like(point)
    if not (np.isfinite(gradient).all() and np.isfinite(hessian).all()):
        return step, np.inf
    free = ~(((point <= low) & (gradient > 0)) | ((point >= high) & (gradient < 0)))
    while free.any():  # one parameter at least comes to a limit in each turn, or we are done
        inner = hessian[np.ix_(free, free)]
        if smallest_eigenvalue(inner) < -_DOUBTFUL:
            return step, np.inf
        slope = gradient[free] + hessian[np.ix_(free, ~free)] @ step[~free]
        step[free] = newton_step(inner, slope)
        if (endless := _steepest_without_curvature(point, hessian @ step + gradient, low, high, free)) is not None:
            step[endless] = (low if (hessian @ step + gradient)[endless] > 0 else high)[endless] - point[endless]
            if not np.isfinite(step[endless]):
                return np.zeros_like(step), np.inf
            free[endless] = False
            continue
        bounded = np.clip(step, low - point, high - point)
        beyond = free & (bounded != step)
        if not beyond.any():
            break
        # The one that goes furthest beyond its limit stays there; the others may come back.
        first = np.argmax(np.where(beyond, np.abs(step - bounded) * np.sqrt(np.maximum(np.diag(hessian), 0.0)), -1.0))
        step[first], free[first] = bounded[first], False
    return step, expected_fall(step, gradient, hessian)


def _steepest_without_curvature(
    point: np.ndarray, slope: np.ndarray, low: np.ndarray, high: np.ndarray, free: np.ndarray
) -> int | None:
    """The parameter with most to gain from a slope that no curvature ends, if there is one."""
    reach = np.abs(np.where(slope > 0, low, high) - point)
    fall = np.where(free, np.abs(slope) * np.where(np.isfinite(reach), reach, np.maximum(np.abs(point), 1.0)), 0.0)
    return int(np.argmax(fall)) if fall.max() > _ENDLESS else None


def newton_step(curvature: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The step to the minimum of a parabola; none in directions that nothing depends on."""
    if not len(gradient):  # every parameter is at a limit
        return np.zeros_like(gradient)
    scale = scales(curvature)
    scaled, slope = curvature / np.outer(scale, scale), gradient / scale
    try:
        factor = scipy.linalg.cho_factor(scaled)
        if np.diag(factor[0]).min() > np.sqrt(_FLAT):
            return -scipy.linalg.cho_solve(factor, slope) / scale
    except scipy.linalg.LinAlgError:
        pass
    return -np.linalg.lstsq(scaled, slope, rcond=_FLAT)[0] / scale


def vertical_distance(gradient: np.ndarray, curvature: np.ndarray, params: Sequence[zfit.Parameter]) -> float:
    """How far above the minimum of a parabola we are.

    Args:
        gradient: First derivatives ``(P,)``.
        curvature: Second derivatives ``(P, P)``, or an estimate of them.
        params: The parameters; those at a limit are left out.

    Returns:
        The expected vertical distance (EDM); infinite where derivatives overflow or the parabola has no minimum.
    """
    inside = np.flatnonzero([is_inside(parameter) for parameter in params])
    slope, matrix = gradient[inside], curvature[np.ix_(inside, inside)]
    if not (np.isfinite(slope).all() and np.isfinite(matrix).all()):
        return np.inf
    return expected_fall(newton_step(matrix, slope), slope, matrix)


def expected_fall(step: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> float:
    """How far a parabola falls along a step ``(P,)``; infinite where it rises: its minimum is not there."""
    fall = -float(gradient @ step + 0.5 * step @ curvature @ step)
    return abs(fall) if fall >= 0.0 else np.inf


def scales(curvature: np.ndarray) -> np.ndarray:
    """Roots of the diagonal ``(P,)``, which make different units alike; one where there is no curvature."""
    diagonal = np.abs(np.diag(curvature))
    return np.where(diagonal > 0.0, np.sqrt(diagonal), 1.0)


def smallest_eigenvalue(curvature: np.ndarray) -> float:
    """In units of the diagonal."""
    scale = scales(curvature)
    return float(np.linalg.eigvalsh(curvature / np.outer(scale, scale))[0]) if len(curvature) else 1.0


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second derivatives at a minimum, and the errors that follow, made by `curvature_of`.

    Attributes:
        covariance: Inverse Hessian ``(P, P)`` of the parameters that are not held by a limit. Not numbers where there is
            none: in the rows of parameters at a limit and of those that nothing depends on, everywhere at a saddle.
        flat: Which parameters change nothing, alone or together, ``(P,)``.
        is_minimum: Whether the likelihood does not fall in any direction.
    """

    covariance: np.ndarray
    flat: np.ndarray
    is_minimum: bool


def curvature_of(minimum: Minimum, derivatives: Derivatives) -> Curvature:
    """The second derivatives of a minimum; where differences leave a doubt, automatic ones decide."""
    hessian, inner = minimum.hessian, np.ix_(minimum.free, minimum.free)
    if np.isfinite(hessian[inner]).all() and not smallest_eigenvalue(hessian[inner]) > _DOUBTFUL:
        hessian = derivatives.automatic_hessian(minimum.values)
    return invert(hessian, minimum.free)


def invert(hessian: np.ndarray, free: np.ndarray) -> Curvature:
    """The inverse of a Hessian ``(P, P)`` as far as there is one, for the parameters that are not held by a limit."""
    inner = hessian[np.ix_(free, free)]
    covariance, flat = np.full_like(hessian, np.nan), np.zeros(len(free), bool)
    if not np.isfinite(inner).all():
        return Curvature(covariance, flat, is_minimum=False)
    scale = scales(inner)
    eigenvalues, vectors = np.linalg.eigh(inner / np.outer(scale, scale))
    if (eigenvalues < -_FLAT).any():
        return Curvature(covariance, flat, is_minimum=False)
    none = eigenvalues < _FLAT
    flat[free] = (np.abs(vectors[:, none]) > 0.1).any(axis=1)
    inverse = (vectors[:, ~none] / eigenvalues[~none]) @ vectors[:, ~none].T / np.outer(scale, scale)
    covariance[np.ix_(free, free)] = inverse
    covariance[flat], covariance[:, flat] = np.nan, np.nan
    return Curvature(covariance, flat, is_minimum=True)


def inverse_of(hessian: np.ndarray) -> np.ndarray:
    """The inverse ``(P, P)`` of a Hessian, the covariance; not numbers where it is not positive definite."""
    try:
        if np.isfinite(hessian).all():
            np.linalg.cholesky(hessian)
            return np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        pass
    return np.full_like(hessian, np.nan)


def pseudo_inverse(matrix: np.ndarray, *, rcond: float = 1e-12) -> np.ndarray:
    """Of a symmetric matrix ``(P, P)`` in any units: without them, a yield beside a well-known mass would be no direction.

    Args:
        matrix: The matrix.
        rcond: Eigenvalues that are left out, where its diagonal is one, in units of the largest.
    """
    scale = np.sqrt(np.abs(np.diag(matrix)))
    scale[scale == 0] = 1.0
    units = np.outer(scale, scale)
    return np.asarray(np.linalg.pinv(matrix / units, rcond=rcond, hermitian=True)) / units


def assign(parameters: Sequence[zfit.Parameter], values: Iterable[float]) -> None:
    """Set values that are known to be inside of the limits: looking once more would cost as much as an evaluation."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.assign(value)

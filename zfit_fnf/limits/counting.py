"""Toys of counting experiments, which are fitted together: all their likelihoods are evaluated in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import slices
from ..loss import BinnedChannel, CountPDF, channels_of, constraint_kernel, select, total
from ..param import auxiliary_measurement, limits_of
from ..state import current_values, global_observables

__all__ = ["CountingToys", "counts_only"]

_ROWS = 1024  # points of one call: one program serves any number of toys
_STEPS = 60  # of Newton's method at most
_DISTANCE = 1e-7  # expected vertical distance to a minimum that is small enough
_DIFFERENCE = 1e-3  # step sizes of parameters between which gradients are compared
_SMALLEST = 1e-6  # eigenvalue of a scaled Hessian that is taken for a direction without curvature
_BENT = 1e-2  # negative eigenvalue of it that is no rounding
_DAMPED = 1.0  # damping above which a short step does not mean that a minimum is close


def counts_only(nll: zfit.loss.UnbinnedNLL) -> bool:
    """Whether all data of a likelihood are extended counts, and nothing hinders that they are compiled."""
    channels = channels_of(nll)
    return all(
        isinstance(one, BinnedChannel)
        and one.extended
        and (isinstance(one.model, CountPDF) or getattr(one.model, "compilable", False))
        for one in channels
    )


class CountingToys:
    """Toys of a likelihood of counts, drawn one by one and fitted together by Newton's method inside of limits.

    Args:
        nll: The likelihood, see `counts_only`. Its parameters and global observables move.
    """

    def __init__(self, nll: zfit.loss.UnbinnedNLL):
        self._channels: list[Any] = channels_of(nll)
        self.params, self._measurements = list(nll.get_params()), list(map(auxiliary_measurement, nll.constraints))
        self._outcomes = global_observables(nll)
        self._kernels: list[Any] = [next(iter(channel.terms()))[0] for channel in self._precomputed(self._channels)]
        self._constraints = [constraint_kernel(one) for one in nll.constraints]
        self.low, self.high = np.transpose([limits_of(parameter) for parameter in self.params])
        self._steps = _DIFFERENCE * np.array([float(parameter.stepsize) for parameter in self.params])
        self._compiled = tf.function(self._at_points, jit_compile=True, autograph=False)

    @staticmethod
    def _precomputed(channels: Sequence[Any]) -> Sequence[Any]:
        for channel in channels:
            channel.precompute(0.0)
        return channels

    def draw(self, truth: dict[zfit.Parameter, float], seeds: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Outcomes of toys, those that `zfit_fnf.toys.toy` has of these seeds.

        Args:
            truth: Values of the floating parameters.
            seeds: A seed of each of ``n`` toys.

        Returns:
            Global observables ``(n, G)``, and for each channel counts ``(n, ...)``.
        """
        zfit.param.set_values(truth, clip=True)
        rates = [np.asarray(kernel.rates()) for kernel in self._kernels]
        outcomes: list[list[Any]] = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            rng.integers(2**31)  # the seed of events, of which there are none
            counts = [rng.poisson(one).astype(float) for one in rates]
            observed = dict.fromkeys(self._outcomes, 0.0)
            for measurement in self._measurements:
                observed.update(zip(measurement.observed, measurement.draw_outcome(rng), strict=True))
            outcomes.append([np.array(list(observed.values())), *counts])
        return [np.stack(column) for column in zip(*outcomes, strict=True)]

    def minima(
        self, outcomes: Sequence[np.ndarray], start: np.ndarray, fixed: Sequence[zfit.Parameter] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where the likelihood of each toy is smallest, and its negative logarithm there.

        Args:
            outcomes: The toys, see `draw`.
            start: Where to start ``(n, P)``.
            fixed: Parameters that stay there.

        Returns:
            Values ``(n, P)``, and ``(n,)`` numbers, which are none where no minimum was found.
        """
        still = np.array([parameter in fixed for parameter in self.params])
        point = np.clip(start, self.low, self.high)
        value, gradient, hessian = self._derivatives(point, outcomes)
        damping = np.zeros(len(point))
        for _ in range(_STEPS):
            held = ((point <= self.low) & (gradient > 0)) | ((point >= self.high) & (gradient < 0)) | still
            step, distance, downhill = _newton(gradient, hessian, held, damping)
            away = self._inside(point, downhill) if (distance < _DISTANCE).any() else np.zeros_like(step)
            # A maximum along some direction, such as zero of a coupling that enters squared, is left.
            saddle = (distance < _DISTANCE) & away.any(axis=1)
            step, distance = np.where(saddle[:, None], away, step), np.where(saddle, 1.0, distance)
            moving = ~((distance < _DISTANCE) & (damping < _DAMPED)) & np.isfinite(value)
            if not moving.any():
                break
            trial = np.where(moving[:, None], np.clip(point + step, self.low, self.high), point)
            found = self._derivatives(trial, outcomes)
            better = moving & (found[0] <= value + 1e-9)
            damping = np.where(moving & ~better, np.maximum(10.0 * damping, 0.01), 0.1 * damping)
            point[better] = trial[better]
            for mine, new in zip((value, gradient, hessian), found, strict=True):
                mine[better] = new[better]
        return point, np.where(moving, np.nan, value)

    def _inside(self, points: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Steps ``(n, P)`` or those in the opposite directions, whichever limits cut off less, as far as limits allow."""
        there, back = (np.clip(points + sign * steps, self.low, self.high) - points for sign in (1.0, -1.0))
        longer = np.square(there / self._steps).sum(axis=1) >= np.square(back / self._steps).sum(axis=1)
        return np.where(longer[:, None], there, back)

    def _derivatives(
        self, points: np.ndarray, outcomes: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The negative log-likelihood ``(n,)``, its gradient ``(n, P)``, and its Hessian ``(n, P, P)`` by differences."""
        n, n_params = points.shape
        around = np.repeat(points[:, None], 2 * n_params + 1, axis=1)
        for index, step in enumerate(self._steps):
            around[:, 1 + index, index] = np.minimum(points[:, index] + step, self.high[index])
            around[:, 1 + n_params + index, index] = np.maximum(points[:, index] - step, self.low[index])
        repeated = [np.repeat(one, around.shape[1], axis=0) for one in outcomes]
        values, gradients = self._evaluate(around.reshape(-1, n_params), repeated)
        gradients = gradients.reshape(n, -1, n_params)
        up, down = slice(1, 1 + n_params), slice(1 + n_params, None)
        widths = np.diagonal(around[:, up] - around[:, down], axis1=1, axis2=2)
        rows = (gradients[:, up] - gradients[:, down]) / widths[:, :, None]
        return values.reshape(n, -1)[:, 0].copy(), gradients[:, 0].copy(), 0.5 * (rows + rows.swapaxes(1, 2))

    def _evaluate(self, points: np.ndarray, outcomes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for rows in slices(len(points), _ROWS):
            arguments = [_filled(one[rows]) for one in (points, *outcomes)]
            n = len(points[rows])
            parts.append([np.asarray(one)[:n] for one in self._compiled(*map(tf.constant, arguments))])
        values, gradients = (np.concatenate(part) for part in zip(*parts, strict=True))
        return values, gradients

    def _at_points(self, points: tf.Tensor, *outcomes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        signature = (tf.TensorSpec((), tf.float64), tf.TensorSpec((len(self.params),), tf.float64))
        result: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
            self._at_point, (points, *outcomes), fn_output_signature=signature, parallel_iterations=1
        )
        return result

    def _at_point(self, arguments: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        """The negative log-likelihood of one toy without the constant ``log n!``, and its gradient."""
        point, observed, *counts = arguments
        for parameter, value in zip(self.params, tf.unstack(point, num=len(self.params)), strict=True):
            parameter.assign(value)
        for parameter, value in zip(self._outcomes, tf.unstack(observed, num=len(self._outcomes)), strict=True):
            parameter.assign(value)
        calls: list[Any] = [
            (kernel, (one, tf.zeros((), tf.float64))) for kernel, one in zip(self._kernels, counts, strict=True)
        ]
        calls += [(kernel, ()) for kernel in self._constraints]
        found = [(kernel, kernel.value_gradient(*arguments)) for kernel, arguments in calls]
        gradients = [select(gradient, kernel.params, self.params) for kernel, (_, gradient) in found]
        return total([value for _, (value, _) in found]), total(gradients, (len(self.params),))

    def values(self, truth: dict[zfit.Parameter, float], n: int) -> np.ndarray:
        """Where ``n`` toys of a truth start, ``(n, P)``."""
        values = {**current_values(self.params), **truth}
        return np.tile([values[parameter] for parameter in self.params], (n, 1))


def _newton(
    gradient: np.ndarray, hessian: np.ndarray, held: np.ndarray, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps ``(n, P)`` of parameters that are not held, and how far below their ends are by the parabolas, ``(n,)``.

    Then steps ``(n, P)`` along the direction of the most negative curvature, zero without one.
    """
    diagonal = np.abs(np.diagonal(hessian, axis1=1, axis2=2))
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = np.nan_to_num(hessian / (scale[:, :, None] * scale[:, None, :]))
    scaled[held[:, :, None] | held[:, None, :]] = 0.0
    slope = np.nan_to_num(np.where(held, 0.0, gradient / scale))
    eigenvalues, vectors = np.linalg.eigh(scaled)
    size = np.maximum(np.abs(eigenvalues), _SMALLEST) + damping[:, None]
    along = np.einsum("nij,ni->nj", vectors, slope)
    step = -np.einsum("nij,nj->ni", vectors, along / size)
    bent = (eigenvalues[:, 0] < -_BENT)[:, None] / (1.0 + damping[:, None])
    return step / scale, 0.5 * np.sum(along**2 / size, axis=1), bent * vectors[:, :, 0] / scale


def _filled(rows: np.ndarray) -> np.ndarray:
    """Rows up to the size of a call, filled up with the last one."""
    return np.concatenate([rows, np.repeat(rows[-1:], _ROWS - len(rows), axis=0)])

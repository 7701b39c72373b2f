"""The distribution of a first observable on its own, fitted to all events at once after minibatches have come near.

Without conditions it is a mixture of few numbers, which minibatches leave far from their best along directions that
change the density little, each of them, but together by more than the events leave open: of 200 000 events in one
observable the gap to the truth falls from 1.0e-4 to 0.7e-4 nats, of two million from 7e-5 to 1.5e-5.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize

from ..common.chunks import EVENTS, slices
from ..densities.bijectors import LogisticMixture
from ..densities.flows import AutoregressiveDensity, AutoregressiveLayer, Flow
from .sources import EventSource

__all__ = ["polish"]

_CELLS = 8192
_MOST_STEPS = 400
_SIGNIFICANT = 2.0  # standard deviations by which held-out events may speak against it


def polish(flow: Flow, source: EventSource, held_out: np.ndarray) -> None:
    """Maximise the posterior density of the numbers of the first observable, with the prior that minibatches have.

    Nothing is done for other densities than mixtures of one layer, with conditions, or with negative weights, whose
    likelihood has no maximum; and what held-out events speak against is taken back.

    Args:
        flow: A trained density.
        source: Its events.
        held_out: Rows of them that are not trained on.
    """
    density = flow.density
    if not isinstance(density, AutoregressiveDensity) or len(density.layers) > 1 or density.n_context:
        return
    (layer,) = density.layers
    weights = source.sample.weights
    if not isinstance(layer.univariate, LogisticMixture) or (weights is not None and np.any(np.asarray(weights) < 0.0)):
        return
    cells = _Cells(layer, source, held_out)
    numbers, before = layer.network.biases[-1], layer.network.biases[-1].numpy()
    own = slice(0, layer.univariate.n_parameters)  # those of the first coordinate, which depends on nothing
    start = before[own].astype(np.float64)
    found = minimize(cells.objective, start, jac=True, method="BFGS", options={"maxiter": _MOST_STEPS})
    if np.isfinite(found.x).all() and not cells.speak_against(start, found.x):
        after = before.copy()
        after[own] = found.x
        numbers.assign(after)


class _Cells:
    """Events of the first coordinate, counted in cells of about equal probability; the second counts are those held out."""

    def __init__(self, layer: AutoregressiveLayer, source: EventSource, held_out: np.ndarray):
        self._univariate = layer.univariate
        n = source.sample.n_events
        u = np.concatenate([source.standardised(rows)[0][:, :1].numpy() for rows in slices(n, EVENTS)])[:, 0]
        cell = np.concatenate([self._cells(layer, u[rows]) for rows in slices(n, EVENTS)])
        filled, cell = np.unique(cell, return_inverse=True)
        weights = source.sample.relative_weights(np.arange(n)) * (source.sample.effective_size / n)
        is_held = np.isin(np.arange(n), held_out)
        size = len(filled)
        self._u = tf.constant(np.bincount(cell, u, size) / np.bincount(cell, minlength=size))[:, None]
        self._trained = tf.constant(np.bincount(cell, np.where(is_held, 0.0, weights), size))
        self._held = np.bincount(cell, np.where(is_held, weights, 0.0), size)
        self._squares = np.bincount(cell, np.where(is_held, weights**2, 0.0), size)
        self._compiled = tf.function(self._value_and_gradient, autograph=False)

    def objective(self, numbers: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log-posterior of the events that are trained on, and its gradient; biases have unit variance."""
        value, gradient = self._compiled(tf.constant(numbers))
        return float(value) + 0.5 * float(numbers @ numbers), gradient.numpy() + numbers

    def speak_against(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether held-out events do."""
        loss = (self._log_prob(tf.constant(before)) - self._log_prob(tf.constant(after))).numpy()
        return bool(self._held @ loss > _SIGNIFICANT * np.sqrt(self._squares @ loss**2))

    def _value_and_gradient(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(numbers)
            value = -tf.reduce_sum(self._trained * self._log_prob(numbers))
        return value, tape.gradient(value, numbers)

    def _log_prob(self, numbers: tf.Tensor) -> tf.Tensor:
        return self._univariate.log_prob(self._u, self._univariate.unpack(numbers[None, None, :]))[:, 0]

    @staticmethod
    def _cells(layer: AutoregressiveLayer, u: np.ndarray) -> np.ndarray:
        first, _ = layer.precompute(tf.zeros((1, 0), tf.float64))
        z, _ = layer.univariate.inverse(tf.constant(u)[:, None], first)
        below = 0.5 + 0.5 * np.tanh(0.45 * z.numpy()[:, 0])
        return np.minimum((_CELLS * below).astype(int), _CELLS - 1)

"""Score correction of a response: what minibatches cannot see, fitted to all simulated events at once.

At a simulated point the deformation is a weighted sum of coefficient functions, with the monomials of the point as
weights. If the expected derivative of the log-density with respect to these weights vanishes, so does the expected score
with respect to the nuisances: a fit of events from that point is unbiased there. Minibatch training leaves derivatives
of the size of its own statistical noise. A few Newton steps over the whole sample remove them, at the price of one pass
over the events each, and the shifted weights of all points together determine the correction matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from ..common.chunks import GRAPH
from ..densities.deformation import Deformation
from ..densities.polynomial_map import Response
from .compiled import signed_floor
from .loop import filled
from .schedule import TrainingStopped
from .sources import EventSource

__all__ = ["NewtonSums", "NoMaximum", "correct_score", "scale", "vanish_at"]

_MANY = 2_000_000  # events of which the sums are worth a compilation by XLA
_STEPS = 5
_PLACED = 0.3  # nats that the last step gains at most in any sample: one more would gain ten times less

NewtonSums = Callable[..., tuple[tf.Tensor, tf.Tensor]]


class NoMaximum(TrainingStopped):
    """A map cannot be placed on a sample, which has too many negative weights where it would matter."""


def correct_score(deformation: Deformation, response: Response, sources: Sequence[EventSource]) -> None:
    """Set the correction matrix of a freshly trained response.

    Args:
        deformation: The response together with those of its nuisances alone.
        response: The response; its correction is zero so far, or as `vanish_at` has made it.
        sources: The samples that it was trained on.

    Raises:
        NoMaximum: If the log-density of a sample has no maximum.
        TrainingStopped: If its derivatives are not finite.
    """
    many = sum(source.sample.n_events for source in sources) > _MANY
    newton_sums = tf.function(_newton_sums(deformation), jit_compile=many, autograph=False)
    fed, n_own = deformation.positions(response), len(response.powers)
    # Before the correction the weights of the response's own coefficients at a point are its monomials.
    monomials = np.array([_basis_at(deformation, source)[fed[-n_own:]] for source in sources])
    possible = np.eye(n_own) + response.correction.numpy()[:, -n_own:]
    before, least = response.correction.numpy(), np.inf
    for _ in range(_STEPS):
        placed = [replace(source, basis=_basis_at(deformation, source)) for source in sources]
        shifts, gradients = zip(*(_newton_step(newton_sums, source, fed) for source in placed), strict=True)
        solution = np.linalg.lstsq(monomials, np.array(shifts), rcond=None)[0]
        gain = 0.5 * np.max(np.sum(np.array(gradients) * (monomials @ solution), axis=1))
        if gain > least:  # the last step led away
            response.correction.assign(before)
            break
        before, least = response.correction.numpy(), gain
        response.correction.assign(before + possible @ solution)
        if gain < _PLACED:
            break


def _basis_at(deformation: Deformation, source: EventSource) -> np.ndarray:
    found: np.ndarray = deformation.basis(tf.constant(deformation.point(source.at))).numpy()
    return found


def vanish_at(response: Response, points: Sequence[Mapping[str, float]]) -> bool:
    """Make a new response exactly zero at some points, whatever its networks become.

    The correction takes the polynomials out that do not vanish there: it projects the monomials.

    Args:
        response: The response; its correction is zero so far.
        points: Values of its nuisances by name.

    Returns:
        Whether a polynomial is left that is not zero everywhere.
    """
    monomials = [
        [
            np.prod([point[n] ** p for n, p in zip(response.nuisances, powers, strict=True)])
            for powers in response.powers
        ]
        for point in points
    ]
    if not monomials:
        return True
    _, sizes, rows = np.linalg.svd(np.array(monomials))
    rows = rows[: np.sum(sizes > 1e-9 * sizes[0])]
    correction = response.correction.numpy()
    correction[:, -len(response.powers) :] = -rows.T @ rows
    response.correction.assign(correction)
    return len(rows) < len(response.powers)


def scale(response: Response, factors: np.ndarray) -> None:
    """Multiply the monomials of a trained response, as rows, by a matrix ``(M, M)``."""
    correction, n_own = response.correction.numpy(), len(response.powers)
    identity = np.eye(n_own, correction.shape[1], correction.shape[1] - n_own)
    response.correction.assign(factors @ (identity + correction) - identity)


def _newton_step(newton_sums: NewtonSums, source: EventSource, fed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift of the weights towards the maximum of the log-density of one sample, and the gradient of that.

    A unit Gaussian prior on the shift keeps weights of coefficient functions that hardly matter where they are.
    """
    gradient, information = np.zeros(len(fed)), np.eye(len(fed))
    n = source.sample.n_events
    for rows, real in filled(n, min(n, GRAPH)):
        u, c, basis, w = source.batch(rows)
        w = np.where(real, w, np.float32(0.0))
        first, second = newton_sums(*map(tf.constant, (u, c, basis, w)))
        gradient += first.numpy()[fed]
        information += second.numpy()[np.ix_(fed, fed)]
    failure = f"the map of {source.sample.name!r} cannot be placed on its events: their density has "
    if not (np.isfinite(gradient).all() and np.isfinite(information).all()):
        raise TrainingStopped(failure + "derivatives that are not finite")
    if np.linalg.eigvalsh(information)[0] <= 0.0:
        raise NoMaximum(failure + "no maximum, since too many of their weights are negative")
    return np.linalg.solve(information, gradient), gradient


def _newton_sums(deformation: Deformation) -> NewtonSums:
    def newton_sums(u: tf.Tensor, c: tf.Tensor, basis: tf.Tensor, w: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Sums over events of ``w F`` and ``w F F^T``, with ``F = d log p / d weights`` of the coefficients.

        As in the training, events of negative weights push no more where the density is small.
        """
        coefficients = deformation.coefficients(u, c)
        with tf.GradientTape() as tape:
            tape.watch(basis)
            nominal, log_det = deformation.inverse(u, c, coefficients, basis)
            log_prob = deformation.flow.log_density(nominal, c) + log_det
        derivative = tape.gradient(log_prob, basis)
        w = tf.where(w < 0.0, w * tf.sigmoid(log_prob - signed_floor(u)), w)
        derivative, weight = tf.cast(derivative, tf.float64), tf.cast(w, tf.float64)[:, None]
        return tf.reduce_sum(weight * derivative, axis=0), tf.matmul(derivative, weight * derivative, transpose_a=True)

    return newton_sums

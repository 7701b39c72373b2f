"""Training of the members of the ensemble, and Newton's method for all that is linear in its features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.warning import warn
from ..densities.networks import MaskedMLP
from ..train.loop import Maximiser, filled
from ..train.schedule import Schedule
from .member import Member, features, linear
from .model import HEADS, Likelihood
from .pairs import Pairs

__all__ = ["Training"]

_CHUNK = 2000  # pairs; with all nodes of the quadrature they fit into the cache
_NEWTON_STEPS, _ARRIVED = 30, 1e-4  # expected rise of the log-likelihood where Newton's method ends
_FAR = 0.02  # the same, from where on a warning is due: a seventh of a standard deviation
_RIDGE = 1.0  # inverse square of the width of the prior of the last layer's weights, around those of the network
_RIDGE_OF_SHAPES = 0.01  # the same of coefficients of shapes, around those of the training: some are not determined
_FLAT = 1e-9  # of the largest curvature: not more than rounding
_AT_AN_END = 0.1  # scores that say so much less than the curvature: the efficiency is at zero or one
_MANY = 500  # steps of the training that XLA is worth compiling for
_TESTED = 200  # pairs at which integrals are tested, and those with the extremes of each coefficient


class Training:
    """Training of members, and their Newton steps; compiled once for all of them.

    Args:
        pairs: The data.
        likelihood: The shapes.
        widths: Widths of the hidden layers.
        schedule: Length and speed of each training.
    """

    def __init__(self, pairs: Pairs, likelihood: Likelihood, widths: Sequence[int], schedule: Schedule):
        self.pairs, self.likelihood, self.widths = pairs, likelihood, tuple(widths)
        # As many as the pairs are worth: the prior, and where Newton's method ends, do not depend on what all weights share.
        self._weights = pairs.weights * (pairs.weights.sum() / np.square(pairs.weights).sum())
        self._network = self._new_network(0)
        self._linear = tf.Variable(np.zeros((pairs.c.shape[1] + 1, len(likelihood.start)), np.float32))

        def log_prob(c: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            shapes = tf.matmul(tf.concat([c, tf.ones_like(c[:, :1])], axis=1), self._linear)
            eta = tf.concat([self._network.precompute(c)[0][:, 0], shapes], axis=1)
            return likelihood.log_prob(eta, t, passing, x)

        @tf.function(autograph=False, jit_compile=True)
        def derivatives(eta: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as outer:
                outer.watch(eta)
                with tf.GradientTape() as inner:
                    inner.watch(eta)
                    value = likelihood.log_prob(eta, t, passing, x)
                first = inner.gradient(value, eta)
            return value, first, outer.batch_jacobian(first, eta)

        variables = [*self._network.trainable_variables, self._linear]
        self._maximise = Maximiser(log_prob, variables, schedule=schedule, xla=schedule.steps >= _MANY)
        self._derivatives: Callable[..., tuple[tf.Tensor, ...]] = derivatives
        self._values = tf.function(likelihood.log_prob, autograph=False)

    def member(self, seed: int, progress: bool, name: str) -> tuple[Member, float]:
        """The fitted member, and by how much integrals of its shapes are wrong."""
        network = self._new_network(seed)
        self._copy(network, self._network)
        start = np.zeros(self._linear.shape, np.float32)
        start[-1] = self.likelihood.start
        self._linear.assign(start)
        history = self._maximise(name, [self.pairs], seed=seed, progress=progress)
        self._copy(self._network, network)
        n_features = network.hidden[-1] if network.hidden else self.pairs.c.shape[1]
        heads = np.concatenate([network.weights[-1].numpy()[:n_features], network.biases[-1].numpy()[None]])
        trained = np.concatenate([heads.T.ravel(), self._linear.numpy().T.ravel()]).astype(float)
        numbers, covariance = self._newton(trained, features(network, self.pairs.c))
        member = Member(network, numbers, covariance, history)
        return member, self._integral_error(member.eta(self.pairs.c), seed)

    def _new_network(self, seed: int) -> MaskedMLP:
        return MaskedMLP(1, self.pairs.c.shape[1], HEADS, hidden=self.widths, seed=seed)

    @staticmethod
    def _copy(source: MaskedMLP, target: MaskedMLP) -> None:
        for one, other in zip(source.trainable_variables, target.trainable_variables, strict=True):
            other.assign(one)

    def _integral_error(self, eta: np.ndarray, seed: int) -> float:
        rows = np.random.default_rng(seed).permutation(len(eta))[:_TESTED]
        rows = np.concatenate([rows, np.argmin(eta, axis=0), np.argmax(eta, axis=0)])
        return self.likelihood.integral_error(tf.constant(eta[rows]), tf.constant(self.pairs.x[rows]))

    def _newton(self, start: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What is linear in features, and its covariance."""
        n_heads = HEADS * basis[0].shape[1]
        ridge = np.where(np.arange(len(start)) < n_heads, _RIDGE, _RIDGE_OF_SHAPES)
        ridge[basis[0].shape[1] - 1 : n_heads : basis[0].shape[1]] = 0.0  # constants are free
        at, has_arrived = start, False
        value, score, hessian, squares, once = self._sums(at, basis)
        for _ in range(_NEWTON_STEPS):
            gradient = score - ridge * (at - start)
            curvature = _positive(hessian + np.diag(ridge), squares + np.diag(ridge))
            step = np.linalg.solve(curvature, gradient)
            has_arrived = bool(gradient @ step < _ARRIVED)
            if has_arrived:
                break
            objective = value - 0.5 * ridge @ (at - start) ** 2
            for share in 0.5 ** np.arange(12):
                there = at + share * step
                if self._value(there, basis) - 0.5 * ridge @ (there - start) ** 2 > objective:
                    break
            else:
                break
            at, (value, score, hessian, squares, once) = there, self._sums(there, basis)
        if not np.isfinite(value):
            raise ValueError("the likelihood is not finite: can the shapes be normalised over the window?")
        if not has_arrived and not gradient @ step < _FAR:
            remedy = self.pairs.of_negative_weights() or "train longer (schedule=), or give simpler shapes"
            warn(
                f"the fit of tag and probe has not reached its maximum, which is {0.5 * float(gradient @ step):.2g} above: its "
                f"errors are not to be trusted; {remedy}"
            )
        return at, _sandwich(hessian, squares, once, np.diag(ridge), basis[0].shape[1])

    def _value(self, numbers: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> float:
        """Log-likelihood."""
        total = 0.0
        for rows, eta, own, real in self._pieces(numbers, basis):
            total += float(np.where(real, self._weights[rows], 0.0) @ self._values(eta, *own).numpy())
        return total

    def _pieces(self, numbers: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[Any, ...]]:
        """Pairs in pieces of one size: rows, logits and coefficients, what else is known of them, and which are real."""
        for rows, real in filled(len(self.pairs.t), _CHUNK):
            eta = linear(numbers, (basis[0][rows], basis[1][rows]))
            own = [tf.constant(a[rows]) for a in (self.pairs.t, self.pairs.passing, self.pairs.x)]
            yield rows, tf.constant(eta), own, real

    def _sums(self, numbers: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> tuple[Any, ...]:
        """Log-likelihood, gradient, minus the Hessian, and sums of the squares of weighted scores, and of scores by weight."""
        n_shapes = len(self.likelihood.start)
        n_eta = HEADS + n_shapes
        sizes = [basis[0].shape[1]] * HEADS + [basis[1].shape[1]] * n_shapes
        places = np.cumsum([0, *sizes])
        value, gradient = 0.0, np.zeros(len(numbers))
        hessian, squares, once = np.zeros((3, len(numbers), len(numbers)))
        for rows, eta, own, real in self._pieces(numbers, basis):
            log_p, first, second = (part.numpy() for part in self._derivatives(eta, *own))
            w = np.where(real, self._weights[rows], 0.0)
            value += float(w @ log_p)
            of = [basis[0 if k < HEADS else 1][rows] for k in range(n_eta)]
            scores = np.concatenate([of[k] * first[:, k : k + 1] for k in range(n_eta)], axis=1)
            gradient += w @ scores
            squares += (scores * w[:, None] ** 2).T @ scores
            once += (scores * w[:, None]).T @ scores
            for j in range(n_eta):
                for k in range(n_eta):
                    block = of[j].T @ (of[k] * (w * second[:, j, k])[:, None])
                    hessian[places[j] : places[j + 1], places[k] : places[k + 1]] -= block
        return value, gradient, hessian, squares, once


def _sandwich(
    hessian: np.ndarray, squares: np.ndarray, scores: np.ndarray, ridge: np.ndarray, n_features: int
) -> np.ndarray:
    r"""Covariance of what is linear in features, also where the efficiency is at zero or one.

    There the best logit is infinite, and Newton's method ends somewhere on the way, where a parabola says nothing: with
    :math:`1 - \varepsilon = \delta r`, :math:`r = e^{-t}`, the log-likelihood falls by :math:`a r + \tfrac12 b r^2`.
    Its curvature in the logit ``t`` is ``a``, and ``b`` is the information of the scores, which at a maximum is the
    curvature. The standard deviation in ``t`` is the ``r`` at which the fall is 1/2.

    Args:
        hessian: Minus the Hessian.
        squares: Sum of the squares of weighted scores.
        scores: Weighted sum of the squares of scores.
        ridge: Information of the prior.
        n_features: Numbers of the logit of the efficiency, which are the first.
    """
    curvature = _positive(hessian + ridge, squares + ridge)
    root = np.linalg.inv(np.linalg.cholesky(curvature))
    information, own = np.linalg.eigh(root @ (scores + ridge) @ root.T)  # ones where the likelihood is a parabola
    directions = root.T @ own
    covariance = directions.T @ (squares + ridge) @ directions
    slopes = np.maximum(np.einsum("ik,ij,jk->k", directions, hessian + ridge, directions), 0.0)
    of_efficiency = directions[:n_features]
    constant = scores[n_features - 1, n_features - 1]
    steps = np.einsum("ik,ij,jk->k", of_efficiency, scores[:n_features, :n_features], of_efficiency) / constant
    for k in np.flatnonzero((information > 0.0) & (information < _AT_AN_END) & (steps > 0.0)):
        # In units in which the logit moves by one where the scores are.
        b, a = information[k] / steps[k], slopes[k] / steps[k]
        size = (np.sqrt(a**2 + b) - a) / b / np.sqrt(steps[k])
        if size**2 > covariance[k, k]:
            covariance[k], covariance[:, k] = 0.0, 0.0
            covariance[k, k] = size**2
    found: np.ndarray = directions @ covariance @ directions.T
    return found


def _positive(hessian: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """The Hessian, with the squares of scores along directions in which it is not positive.

    Far from the maximum these are some. At the maximum they are those that data do not determine, such as the efficiency of a
    background that is not there; all others must keep their Hessian, which for weighted pairs is another one than the squares.
    """
    values, directions = np.linalg.eigh(0.5 * (hessian + hessian.T))
    least = _FLAT * max(values[-1], np.trace(squares) / len(squares))
    instead = np.maximum(np.einsum("ik,ij,jk->k", directions, squares, directions), least)
    found: np.ndarray = (directions * np.where(values > least, values, instead)) @ directions.T
    return found

"""Whether the integral of log-ratios is right where it is used: the same by other nodes, many of them, at a few conditions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp, ndtri

from .flows import AutoregressiveDensity, Flow
from .quadrature import latent_nodes, lattice
from .ratio import has_latent

if TYPE_CHECKING:
    from .reweighting import Reweighting

__all__ = ["PROMISED", "IntegralCheck"]

PROMISED = 1e-4
"""Largest error of the logarithm of an integral, up to three times as far as the trained windows reach."""

_STEPS = {1: 0.04, 2: 0.17}  # distances of the nodes, by the number of observables,
_PER_DEGREE = 2.0  # and by the highest degree in a coordinate
_CONDITIONS = 8
_SPREAD = 1.3  # of the conditions, of which most are within one
_ROWS = 4096  # nodes at a time: a hundred networks take a gigabyte for them


class IntegralCheck:
    """Independent integrals of log-ratios, made when first asked for.

    Args:
        reweighting: The log-ratios, whose integral is checked.
    """

    def __init__(self, reweighting: Reweighting):
        self._reweighting = reweighting
        self._edges = np.abs(np.array(list(reweighting.windows.values()))).max(axis=1)
        self._good = np.zeros((2, len(self._edges)))  # lower and upper limits between which all is right

    def error(self, nu: np.ndarray) -> float:
        """Largest error of the logarithm of the integral at ``nu (K,)``; zero where points further out were right."""
        low, high = self._good
        if np.all((low <= nu) & (nu <= high)):
            return 0.0
        # A toy fit ends elsewhere than the one before: a point further out speaks for many.
        wider = (
            np.minimum(low, np.floor(nu / self._edges) * self._edges),
            np.maximum(high, np.ceil(nu / self._edges) * self._edges),
        )
        if self.error_at(np.where(nu < 0.0, *wider)) < PROMISED:
            self._good = np.array(wider)
            return 0.0
        return self.error_at(nu)

    def error_at(self, nu: np.ndarray) -> float:
        """Largest error of the logarithm of the integral at ``nu (K,)`` itself."""
        u, c, log_weights, rows_of = self._nodes
        point = tf.constant(nu, tf.float64)
        pieces = [self._log_weights(u[i : i + _ROWS], c[i : i + _ROWS], point) for i in range(0, len(u), _ROWS)]
        log_terms = np.concatenate(pieces).reshape(log_weights.shape) + log_weights
        exact = logsumexp(log_terms, axis=1) - logsumexp(log_weights, axis=1)
        return float(np.abs(exact - self._reweighting.log_norm_given(point, rows_of).numpy()).max())

    @property
    def conditions(self) -> np.ndarray:
        """Standardised conditions ``(A, m)`` at which it is checked."""
        n_context = self._reweighting.n_context
        return _SPREAD * ndtri(lattice(_CONDITIONS, n_context)) if n_context else np.zeros((1, 0))

    @functools.cached_property
    def _nodes(self) -> tuple[tf.Tensor, tf.Tensor, np.ndarray, tf.Tensor]:
        """Nodes ``u (A Q, d)``, ``c (A Q, m)``, logarithms of their shares ``(A, Q)``, and the conditions ``(A, m)``."""
        reweighting = self._reweighting
        flow, n_dim = reweighting.flow, reweighting.n_dim
        conditions = self.conditions
        # Of densities that can only be drawn from, the nodes are events, and many of them.
        steps, count = ((), 32768) if has_latent(flow) else ((), 131072)
        if has_latent(flow) and n_dim in _STEPS:
            steps = np.minimum(_STEPS[n_dim], _PER_DEGREE / reweighting.highest[:n_dim])
        z, log_weights = latent_nodes(n_dim, len(conditions), steps, count // len(conditions))
        c = tf.constant(np.repeat(conditions, z.shape[1], axis=0))
        if not has_latent(flow):
            return flow.draw(c, tf.constant([3, 4])), c, np.zeros_like(log_weights), tf.constant(conditions)
        z = tf.constant(z.reshape(-1, n_dim))
        pieces = [_from_base(flow, z[i : i + _ROWS], c[i : i + _ROWS]) for i in range(0, len(c), _ROWS)]
        return tf.concat(pieces, axis=0), c, log_weights, tf.constant(conditions)

    @functools.cached_property
    def _log_weights(self) -> Any:
        """Logarithms ``(n,)`` of the weights of nominal nodes, after the map has moved them."""
        one = self._reweighting
        shapes = [(None, one.n_dim), (None, one.n_context), (len(one.windows),)]
        signature = [tf.TensorSpec(shape, tf.float64) for shape in shapes]
        return tf.function(one.log_weight_of_moved, input_signature=signature, autograph=False)


def _from_base(flow: Flow, z: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    return cast(AutoregressiveDensity, flow.density).from_base(z, flow.precompute(c))

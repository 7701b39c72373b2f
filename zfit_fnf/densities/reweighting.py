r"""What turns log-ratios into a density: their integral :math:`Z(\nu | x)`, and events.

The integral is a sum over fixed *nodes*, points in the latent space of the nominal density, each with its share of the
probability there. A map moves the density at the nodes, not the nodes:

.. math::
    Z(\nu | x) = \sum_i w_i e^{\phi \cdot r(u_i)} \Big/ \sum_i w_i, \qquad
    w_i = w^\mathrm{nom}_i \, p_\mathrm{map}(u_i | x, \nu) / p_\mathrm{nom}(u_i | x).

In one and two dimensions the nodes are a grid, where such sums converge exponentially; in more, a lattice. A conditional
density has nodes at *anchors*, fixed points of the conditions, and the logarithm of ``Z`` is a polynomial in their bounded
coordinates in between. So nothing in a fit costs more with more events but the values of these polynomials, which are
computed once per event.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from .bijectors import logistic_log_prob
from .monomials import Monomials
from .ratio import LogRatio, bounded, bounded_conditions, exponents, has_latent, polynomials

if TYPE_CHECKING:
    from .deformation import Deformation

__all__ = ["Reweighting"]

_BOUND_POINTS = 8192
_MOST_ROUNDS = 10_000
_FAR = 5.0  # widths, up to which conditions have anchors


class _Nodes(NamedTuple):
    """Nodes ``Q`` at each of ``A`` anchors."""

    shape: tuple[int, int]
    coefficients: tf.Tensor  # of the log-ratios, (A, Q, M)
    log_weights: tf.Tensor  # of the nominal density, (A, Q)
    of_map: Any  # what the map needs to know, None if it moves nothing
    log_nominal: tf.Tensor  # density, (A Q,)
    interpolation: tf.Tensor  # from anchors to polynomials in the conditions, (B, A)


class Reweighting:
    """The log-ratios of a deformation, together.

    Args:
        deformation: What they act on: its map, in front of its flow.
        ratios: The log-ratios, at least one.

    Attributes:
        monomials: Those of the nuisances that multiply their coefficients.
    """

    def __init__(self, deformation: Deformation, ratios: list[LogRatio]):
        self._deformation, self._ratios = deformation, ratios
        self.monomials = Monomials(ratios, deformation.windows)
        self._n_dim, self._n_context = ratios[0].n_dim, ratios[0].n_context
        self._of_conditions = _with_constant(self._n_context, {0: 1, 1: 16, 2: 12, 3: 7}.get(self._n_context, 4))
        with tf.init_scope():
            self._nodes = self._choose_nodes()

    # --- densities --------------------------------------------------------------------------------------------------

    def precompute(self, u: tf.Tensor, c: tf.Tensor, of_flow: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Coefficients ``(n, M)`` and, for a conditional density, polynomials ``(n, B)`` of the conditions."""
        return self._coefficients(u, c, of_flow), self._condition_polynomials(tf.cast(c, tf.float64))

    def log_weight(self, nu: tf.Tensor, precomputed: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Logarithm ``(n,)`` of the weight of each event, not normalised."""
        coefficients, _ = precomputed
        return tf.linalg.matvec(coefficients, tf.cast(self.monomials(nu), coefficients.dtype))

    def log_norm(self, nu: tf.Tensor, precomputed: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Logarithm of the integral: a scalar, or ``(n,)`` for a conditional density; float64."""
        return self.between_anchors(self.log_norm_at_anchors(nu), precomputed[1])

    def between_anchors(self, at_anchors: tf.Tensor, polynomials: tf.Tensor) -> tf.Tensor:
        """Values for events, whose polynomials :meth:`precompute` gives, from those ``(A,)`` at the anchors.

        A scalar, or ``(n,)`` for a conditional density, in the dtype of the polynomials.
        """
        if not self._n_context:
            return tf.cast(at_anchors[0], polynomials.dtype)
        weights = tf.linalg.matvec(self._nodes.interpolation, at_anchors)
        return tf.linalg.matvec(polynomials, tf.cast(weights, polynomials.dtype))

    def log_norm_at_anchors(self, nu: tf.Tensor) -> tf.Tensor:
        """Logarithm of the integral ``(A,)`` at the anchors."""
        nodes = self._nodes
        log_weights = nodes.log_weights
        if nodes.of_map is not None:
            moved = self._deformation.log_density_of_map(nu, nodes.of_map) - nodes.log_nominal
            log_weights += tf.reshape(moved, nodes.shape)
        log_ratio = tf.linalg.matvec(nodes.coefficients, self.monomials(nu))
        return tf.reduce_logsumexp(log_weights + log_ratio, axis=1) - tf.reduce_logsumexp(log_weights, axis=1)

    def _coefficients(self, u: tf.Tensor, c: tf.Tensor, of_flow: Any) -> tf.Tensor:
        return self._at_bounded(bounded(self._deformation.flow, u, c, of_flow))

    def _at_bounded(self, t: tf.Tensor) -> tf.Tensor:
        return tf.concat([ratio.coefficients(t) for ratio in self._ratios], axis=1)

    def _condition_polynomials(self, c: tf.Tensor) -> tf.Tensor:
        if not self._n_context:
            return tf.ones_like(c[:, :1])
        return polynomials(bounded_conditions(c), self._of_conditions)

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _choose_nodes(self) -> _Nodes:
        anchors, flow = self._anchors(), self._deformation.flow
        if has_latent(flow):
            z, log_weights = _latent_nodes(self._n_dim, len(anchors), self._step())
        else:
            log_weights = np.zeros((len(anchors), 32768 if len(anchors) == 1 else 1024))
        c = tf.constant(np.repeat(anchors, log_weights.shape[1], axis=0))
        of_flow = flow.precompute(c)
        if has_latent(flow):
            u = flow.density.from_base(tf.constant(z.reshape(-1, self._n_dim)), of_flow)
        else:
            u = flow.draw(c, tf.constant([1, 2]))
        of_map = self._deformation.precompute_map(u, c) if self._deformation.moves else None
        return _Nodes(
            log_weights.shape,
            tf.reshape(self._coefficients(u, c, of_flow), (*log_weights.shape, len(self.monomials))),
            tf.constant(log_weights),
            of_map,
            tf.zeros(0, tf.float64) if of_map is None else flow.log_density_at(u, of_flow),
            tf.constant(np.linalg.pinv(self._condition_polynomials(tf.constant(anchors)).numpy())),
        )

    def _step(self) -> float:
        """Distance of the nodes, which is narrow for maps."""
        if self._deformation.moves and self._n_dim == 1:
            return 0.25
        return 0.5 if self._n_dim <= 2 else 1.0

    def _anchors(self) -> np.ndarray:
        """Conditions ``(A, m)``, standardised, that cover the bounded coordinates, denser towards their ends."""
        if not self._n_context:
            return np.zeros((1, 0))
        ends = float(bounded_conditions(tf.constant(_FAR)))
        wanted = ends * np.cos(np.pi * _lattice(2 * len(self._of_conditions), self._n_context))
        return np.arctanh(wanted) * _FAR / np.arctanh(ends)

    # --- events -----------------------------------------------------------------------------------------------------

    def draw(self, c: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)``: events of the map, each kept with a probability proportional to its weight.

        Exact in distribution. An event whose weight is above the bound would not be, and is an error.
        """
        bound = self.log_bound(nu)
        drawn = tf.zeros((tf.shape(c)[0], self._n_dim), c.dtype)

        def try_again(drawn: tf.Tensor, missing: tf.Tensor, turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            rows = tf.gather(c, missing)
            of_flow = self._deformation.flow.precompute(rows)
            pair = tf.random.experimental.stateless_fold_in(seed, turn)
            u = self._deformation.draw_of_map(rows, nu, pair)
            log_weight = self.log_weight(nu, (self._coefficients(u, rows, of_flow), None)) - tf.cast(bound, u.dtype)
            message = "the bound on the weights of events is too low: report this, with the model"
            with tf.control_dependencies([tf.debugging.assert_less_equal(log_weight, tf.zeros((), u.dtype), message)]):
                uniform = tf.random.stateless_uniform(tf.shape(missing), pair + 1, dtype=u.dtype)
            kept = tf.math.log(uniform) < log_weight
            drawn = tf.tensor_scatter_nd_update(
                drawn, tf.boolean_mask(missing, kept)[:, None], tf.boolean_mask(u, kept)
            )
            return drawn, tf.boolean_mask(missing, ~kept), turn + 1

        drawn, missing, _ = tf.while_loop(
            lambda drawn, missing, turn: (tf.size(missing) > 0) & (turn < _MOST_ROUNDS),
            try_again,
            (drawn, tf.range(tf.shape(c)[0]), tf.constant(0)),
            shape_invariants=(drawn.shape, tf.TensorShape([None]), tf.TensorShape([])),
        )
        with tf.control_dependencies(
            [tf.debugging.assert_equal(tf.size(missing), 0, "events are too rarely accepted")]
        ):
            return tf.identity(drawn)

    def log_bound(self, nu: tf.Tensor) -> tf.Tensor:
        """Logarithm of the largest weight of any event, with a margin.

        The weight is a polynomial of bounded coordinates, of which there are dense points.
        """
        n_inputs = self._n_dim + self._n_context
        t = tf.constant(2.0 * _lattice(_BOUND_POINTS, n_inputs) - 1.0)
        if n_inputs == 1:
            t = tf.linspace(-np.ones(1), np.ones(1), _BOUND_POINTS)
        log_weight = tf.linalg.matvec(self._at_bounded(t), self.monomials(nu))
        low, high = tf.reduce_min(log_weight), tf.reduce_max(log_weight)
        return high + 1e-6 + (0.0 if n_inputs == 1 else 0.1) * (high - low)

    def efficiency(self, nu: tf.Tensor) -> float:
        """Mean share of the events that `draw` keeps, at the anchors."""
        return float(tf.reduce_mean(tf.exp(self.log_norm_at_anchors(nu) - self.log_bound(nu))))


def _with_constant(n_inputs: int, degree: int) -> np.ndarray:
    return np.concatenate([np.zeros((1, n_inputs), int), exponents(n_inputs, degree)]) if n_inputs else np.zeros((1, 0))


def _latent_nodes(n_dim: int, n_anchors: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Logistic coordinates ``(A, Q, d)`` and logarithms of their shares ``(A, Q)`` of the probability.

    A grid, whose sums err by ``exp(-2 pi s / step)`` for functions that are analytic up to ``s`` from the real axis (that is
    3 for the logistic density and the bounded coordinates), or a lattice where a grid would be too large.
    """
    if n_dim <= (3 if n_anchors == 1 else 2):
        end = round((20.0 if n_dim == 1 else 15.0) / step)
        axis = step * np.arange(-end, end + 1)
        z = np.stack(np.meshgrid(*[axis] * n_dim, indexing="ij"), axis=-1).reshape(1, -1, n_dim)
        log_weights = logistic_log_prob(tf.constant(z)).numpy().sum(axis=-1) + n_dim * np.log(step)
        return np.repeat(z, n_anchors, axis=0), np.repeat(log_weights, n_anchors, axis=0)
    count = 8192 if n_anchors == 1 else 1024
    # Each anchor has the lattice at another place, so that its errors average out in between.
    places = _lattice(count, n_dim)[None] + _lattice(n_anchors, n_dim)[:, None]
    tent = np.clip(1.0 - np.abs(2.0 * (places % 1.0) - 1.0), 1e-9, 1.0 - 1e-9)  # a periodic function of the place
    return np.log(tent) - np.log1p(-tent), np.full((n_anchors, count), -math.log(count))


def _lattice(count: int, n_dim: int) -> np.ndarray:
    """Evenly distributed points ``(count, n_dim)`` of the unit cube: multiples of a generalised golden ratio."""
    golden = 2.0
    for _ in range(60):
        golden = (1.0 + golden) ** (1.0 / (n_dim + 1))
    return (0.5 + np.arange(1, count + 1)[:, None] * golden ** -np.arange(1.0, n_dim + 1)) % 1.0

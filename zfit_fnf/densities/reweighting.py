r"""What turns log-ratios into a density: their integral :math:`Z(\nu | x)`, and events.

The integral is a sum over fixed *nodes*, points in the latent space of the nominal density, each with its share of the
probability there, which the map moves:

.. math::
    Z(\nu | x) = \sum_i w_i \, e^{\phi \cdot r(T_\nu^{-1}(u_i))}, \qquad \sum_i w_i = 1 .

In one and two dimensions the nodes are a grid, where such sums converge exponentially; in more, a lattice. A conditional
density has nodes at *anchors*, fixed points of the conditions, and the logarithm of ``Z`` is a polynomial in their bounded
coordinates in between. Few of these nodes, with other shares, and few of the anchors give the same, see :mod:`.quadrature`:
where it takes too long to find them, all are kept. So nothing in a fit costs more with more events but to interpolate
between the anchors, with factors that are computed once per event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from ..common.chunks import GRAPH, SMALL_GRAPH, concatenated
from .basis import Basis
from .bijectors import Affine
from .flows import AutoregressiveDensity
from .integral_check import IntegralCheck
from .monomials import Monomials
from .quadrature import few_nodes, few_places, latent_nodes, lattice, snapshots
from .ratio import LogRatio, bounded, has_latent, polynomials, sigmoid

if TYPE_CHECKING:
    from .deformation import Deformation

__all__ = ["Reweighting", "most_in_conditions"]

_BOUND_POINTS = 8192
_MOST_ROUNDS = 10_000
_FAR = 5.0  # widths, up to which conditions have anchors
_PER_DEGREE = 3.6  # distance of nodes times the highest degree in a coordinate
_PER_CONDITION = 2.3  # degree between anchors in that of a log-ratio in the condition,
_PER_LARGE_CONDITION = 3.5  # and of one that is large at the ends
_TOLERANCE = 1e-6  # of what few nodes give, in the trained windows; ten times that beyond
_CHECKS = 12  # points at which few nodes are compared with many
_NOTHING = -1e3  # logarithm of a share that is none
_AFFORDABLE = 4e7  # densities, that are evaluated once to find them


def most_in_conditions(n_dim: int, n_context: int) -> float:
    """Degree in each condition of log-ratios whose integral is followed between its anchors; infinite without conditions.

    In the tails of a condition, where few events are, a high degree is large, and polynomials between anchors miss it.
    """
    return _degree_between_anchors(n_dim, n_context) / _PER_LARGE_CONDITION if n_context else np.inf


def _degree_between_anchors(n_dim: int, n_context: int) -> int:
    if n_dim == 1:
        return {1: 40, 2: 20, 3: 7}.get(n_context, 4)
    return {1: 48, 2: 12, 3: 7}.get(n_context, 4)


Terms = Callable[[tf.Tensor], tf.Tensor]


class _Nodes(NamedTuple):
    """Nodes ``Q`` at each of ``A`` anchors."""

    log_weights: tf.Tensor  # logarithms of their shares, (A, Q)
    coefficients: Any  # of the log-ratios where they are, (A Q, M); None if they move
    place: Any  # otherwise u (A Q, d) and c (A Q, m)
    interpolation: tf.Tensor  # from polynomials in the conditions to factors of the anchors, (B, A)


class Reweighting:
    """The log-ratios of a deformation, together.

    Args:
        deformation: What they act on: its map, in front of its flow.
        ratios: The log-ratios, at least one.
        few_nodes: Whether to look for few nodes, which is worth it for more than some points.

    Attributes:
        monomials: Those of the nuisances that multiply their coefficients.
        flow: The nominal density.
        windows: Trained range of each nuisance.
        n_dim: Number of observables.
        n_context: Number of conditions.
        highest: Highest degree of the log-ratios in each variable ``(d + m,)``, one at least.
        moves: Whether the map does anything.
        check: What tells how wrong the integral is.
    """

    def __init__(self, deformation: Deformation, ratios: list[LogRatio], *, few_nodes: bool = True):
        self._deformation, self._ratios, self._few_nodes = deformation, ratios, few_nodes
        self.flow, self.windows = deformation.flow, deformation.windows
        self.monomials = Monomials(ratios, deformation.windows)
        self.n_dim, self.n_context = ratios[0].n_dim, ratios[0].n_context
        self.highest = np.max([[1] * (self.n_dim + self.n_context), *(r.exponents.max(axis=0) for r in ratios)], axis=0)
        with tf.init_scope():
            self.moves = deformation.moves
            self._of_conditions = _with_constant(self.n_context, self._degree())
            self._nodes, self._log_terms = self._choose_nodes()
        self.check = IntegralCheck(self)

    @property
    def n_nodes(self) -> int:
        """Number of nodes at all anchors, which every evaluation takes."""
        return int(self._nodes.log_weights.shape.num_elements())

    @property
    def size(self) -> int:
        """Numbers in the largest table that an evaluation makes of the nodes, at most."""
        columns = max(len(ratio.exponents) for ratio in self._ratios) if self.moves else 1
        return self.n_nodes * columns

    # --- densities --------------------------------------------------------------------------------------------------

    def precompute(self, u: tf.Tensor, c: tf.Tensor, of_flow: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Coefficients ``(n, M)`` and, for a conditional density, the factors ``(n, A)`` of the anchors."""
        return self._coefficients(u, c, of_flow), self._anchor_factors(tf.cast(c, tf.float64))

    def log_weight(self, nu: tf.Tensor, precomputed: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Logarithm ``(n,)`` of the weight of each event, not normalised."""
        coefficients, _ = precomputed
        return tf.linalg.matvec(coefficients, tf.cast(self.monomials(nu), coefficients.dtype))

    def log_norm(self, nu: tf.Tensor, precomputed: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """Logarithm of the integral: a scalar, or ``(n,)`` for a conditional density; float64."""
        return self.between_anchors(self.log_norm_at_anchors(nu), precomputed[1])

    def between_anchors(self, at_anchors: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
        """Values for events, whose factors of the anchors :meth:`precompute` gives, from those ``(A,)`` at the anchors.

        A scalar, or ``(n,)`` for a conditional density, in the dtype of the factors.
        """
        at_anchors = tf.cast(at_anchors, factors.dtype)
        return tf.linalg.matvec(factors, at_anchors) if self.n_context else at_anchors[0]

    def log_norm_given(self, nu: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Logarithm of the integral at conditions ``c (n, m)``: a scalar, or ``(n,)`` for a conditional density."""
        return self.between_anchors(self.log_norm_at_anchors(nu), self._anchor_factors(c))

    def log_weight_of_moved(self, u: tf.Tensor, c: tf.Tensor, nu: tf.Tensor) -> tf.Tensor:
        """As :meth:`log_weight`, of nominal events after the map has moved them."""
        deformation = self._deformation
        of_layer, of_flow = deformation.precompute_conditions(c)
        moved = deformation.forward(u, c, deformation.basis(nu), of_layer)
        return tf.linalg.matvec(self._coefficients(moved, c, of_flow), self.monomials(nu))

    def log_norm_at_anchors(self, nu: tf.Tensor) -> tf.Tensor:
        """Logarithm of the integral ``(A,)`` at the anchors."""
        return tf.reduce_logsumexp(self._log_terms(nu), axis=1)

    def _terms_of(self, nodes: _Nodes) -> Terms:
        """Logarithms ``(A, Q)`` of what every node adds to the integral, as a function of the nuisances."""
        deformation = self._deformation
        u, c = nodes.place or (None, None)
        of_layer, of_flow = deformation.precompute_conditions(c) if nodes.place else (None, None)

        def log_terms(nu: tf.Tensor) -> tf.Tensor:
            coefficients = nodes.coefficients
            if coefficients is None:
                coefficients = self._coefficients(
                    deformation.forward(u, c, deformation.basis(nu), of_layer), c, of_flow
                )
            log_weights = tf.linalg.matvec(coefficients, self.monomials(nu))
            return nodes.log_weights + tf.reshape(log_weights, nodes.log_weights.shape)

        return log_terms

    def _terms_of_grid(self, nodes: _Nodes, z: np.ndarray) -> Terms:
        """As :meth:`_terms_of` of moving nodes, most of which differ from others in their last observable only.

        Networks see one of these each, its *head*.

        Args:
            nodes: The nodes.
            z: Their latent coordinates ``(Q, d)``, the same at all anchors.
        """
        deformation, flow, last = self._deformation, self.flow, self.n_dim - 1
        n_anchors = nodes.log_weights.shape[0]
        _, heads, of_head = np.unique(z[:, :last], axis=0, return_index=True, return_inverse=True)
        starts = np.arange(n_anchors)[:, None]
        of_head = (starts * len(heads) + of_head.ravel()).ravel()
        heads = (starts * len(z) + heads).ravel()
        u, c = nodes.place
        u_heads, c_heads = tf.gather(u, heads), tf.gather(c, heads)
        of_layer, of_flow = deformation.precompute_conditions(c_heads)
        (layer,) = flow.density.layers

        def log_terms(nu: tf.Tensor) -> tf.Tensor:
            basis = deformation.basis(nu)
            moved = deformation.forward(u_heads, c_heads, basis, of_layer)
            of_map = tf.einsum("nmk,m->nk", deformation.coefficients_at(moved, of_layer)[:, :, last], basis)
            law = tf.nest.map_structure(lambda values: values[:, last], layer.parameters(moved, of_flow[0]))
            of_map, law = tf.nest.map_structure(lambda values: tf.gather(values, of_head), (of_map, law))
            z_last, _ = layer.univariate.inverse(Affine().forward(u[:, last], of_map), law)
            t_heads, monomials = bounded(flow, moved, c_heads, of_flow), self.monomials(nu)
            log_weights, start = tf.zeros_like(z_last), 0
            for ratio in self._ratios:
                own = monomials[start : (start := start + len(ratio.powers))]
                of_others, functions = ratio.in_last_observable(t_heads)
                of_heads = tf.einsum("nmk,m->nk", of_others, own)
                values = polynomials(sigmoid(z_last)[:, None], functions)
                log_weights += tf.reduce_sum(values * tf.gather(of_heads, of_head), axis=1)
            return nodes.log_weights + tf.reshape(log_weights, nodes.log_weights.shape)

        return log_terms

    def _coefficients(self, u: tf.Tensor, c: tf.Tensor, of_flow: Any) -> tf.Tensor:
        return self._at_bounded(bounded(self._deformation.flow, u, c, of_flow))

    def _at_bounded(self, t: tf.Tensor) -> tf.Tensor:
        return tf.concat([ratio.coefficients(t) for ratio in self._ratios], axis=1)

    def _anchor_factors(self, c: tf.Tensor) -> tf.Tensor:
        of_conditions = self._condition_polynomials(c)
        return tf.matmul(of_conditions, self._nodes.interpolation) if self.n_context else of_conditions

    def _condition_polynomials(self, c: tf.Tensor) -> tf.Tensor:
        if not self.n_context:
            return tf.ones_like(c[:, :1])
        return polynomials(sigmoid(c), self._of_conditions)

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _degree(self) -> int:
        """Of the polynomials between the anchors: an effect that moves depends more on the conditions."""
        highest = _degree_between_anchors(self.n_dim, self.n_context)
        if self.n_dim == 1 or self.n_context > 1 or self.moves:
            return highest
        return int(np.clip(_PER_CONDITION * self.highest[-1], 16, highest))

    @property
    def _by_heads(self) -> bool:
        """Whether networks see one node for all that differ in their last observable only."""
        grid = 1 < self.n_dim <= (2 if self.n_context else 3)
        return self.moves and grid and has_latent(self.flow) and self._deformation.n_layers == 1

    def _cost(self) -> float:
        """Of a node at a point of the nuisances: in densities, of which networks that see many of them take less."""
        if not self.moves:  # no networks
            return 0.15
        if self._by_heads:
            return 1.0
        return 3.0 if self.n_dim == 1 else 7.0

    def _choose_nodes(self) -> tuple[_Nodes, Terms]:
        anchors, flow, points = self._anchors(), self._deformation.flow, self._snapshots(seed=0)
        cost = self._cost()
        for steps in self._steps():
            z, log_weights = latent_nodes(self.n_dim, len(anchors), steps, 8192 if len(anchors) == 1 else 1024)
            if affordable := cost * len(points[1]) * log_weights.size < _AFFORDABLE:
                break
        if not has_latent(flow):
            log_weights = np.zeros((len(anchors), 32768 if len(anchors) == 1 else 1024))
        c = tf.constant(np.repeat(anchors, log_weights.shape[1], axis=0))
        places = self._places(z.reshape(-1, self.n_dim), c)
        interpolation = np.linalg.pinv(self._condition_polynomials(tf.constant(anchors)).numpy())
        nodes = self._nodes_at(places, c, log_weights, interpolation)
        log_terms = self._terms_of_grid(nodes, z[0]) if self._by_heads else self._terms_of(nodes)
        if self._few_nodes and affordable:
            few = self._few_of(nodes, tf.function(log_terms, autograph=False), places, c, *points)
            return (few, self._terms_of(few)) if few else (nodes, log_terms)
        return nodes, log_terms

    def _places(self, z: np.ndarray, c: tf.Tensor) -> tf.Tensor:
        """Where nodes are: ``u (A Q, d)`` if the map moves them, bounded coordinates ``(A Q, d + m)`` if they stay there."""
        flow = self.flow
        if not has_latent(flow):
            u = flow.draw(c, tf.constant([1, 2]))
            return u if self.moves else bounded(flow, u, c, None)
        if not self.moves:
            return tf.concat([sigmoid(tf.constant(z)), sigmoid(c)], axis=1)
        density = cast(AutoregressiveDensity, flow.density)
        from_base = concatenated(lambda z, c: density.from_base(z, flow.precompute(c)), tf.constant(z), c, size=GRAPH)
        return tf.constant(from_base)

    def _nodes_at(self, places: tf.Tensor, c: tf.Tensor, log_weights: np.ndarray, interpolation: np.ndarray) -> _Nodes:
        """Nodes that are at ``places`` given ``c (A Q, m)``."""
        place, coefficients = None, None
        if self.moves:
            place = (places, c)
        else:
            coefficients = tf.constant(concatenated(self._at_bounded, places, size=SMALL_GRAPH))
        log_weights = log_weights - logsumexp(log_weights, axis=1, keepdims=True)
        return _Nodes(tf.constant(log_weights), coefficients, place, tf.constant(interpolation))

    def _few_of(
        self, nodes: _Nodes, evaluate: Any, at: tf.Tensor, c: tf.Tensor, points: tf.Tensor, importance: np.ndarray
    ) -> _Nodes | None:
        """Few nodes in place of many, whose terms are evaluated, if they give the same integrals."""
        terms = self._terms_by_anchor(nodes, evaluate, points)
        n_anchors, n_nodes = nodes.log_weights.shape
        log_norms = np.stack([logsumexp(terms(anchor), axis=1) for anchor in range(n_anchors)], axis=1)
        anchors, interpolation = few_places(log_norms * importance[:, None], 0.3 * _TOLERANCE)
        chosen = [
            few_nodes(np.exp(terms(anchor) - log_norms[:, anchor, None]), importance, _TOLERANCE) for anchor in anchors
        ]
        size = max(len(places) for places, _ in chosen)
        rows, log_weights = np.zeros((len(anchors), size), int), np.full((len(anchors), size), _NOTHING)
        for index, (anchor, (places, factors)) in enumerate(zip(anchors, chosen, strict=True)):
            rows[index] = anchor * n_nodes + np.resize(places, size)
            log_weights[index, : len(places)] = nodes.log_weights.numpy()[anchor, places] + np.log(factors)
        at, c = tf.gather(at, rows.ravel()), tf.gather(c, rows.ravel())
        few = self._nodes_at(at, c, log_weights, nodes.interpolation.numpy() @ interpolation.T)
        points, importance = self._snapshots(seed=1)
        log_terms = self._terms_of(few)
        for nu, matters in zip(points[-_CHECKS:], importance[-_CHECKS:], strict=True):
            log_norm = tf.reduce_logsumexp(log_terms(nu), axis=1).numpy()
            error = np.abs(log_norm @ interpolation - logsumexp(evaluate(nu), axis=1)).max()
            if not error * matters < 10.0 * _TOLERANCE:
                return None
        return few

    def _terms_by_anchor(self, nodes: _Nodes, evaluate: Any, points: tf.Tensor) -> Callable[[int], np.ndarray]:
        """What gives the terms ``(S, Q)`` at an anchor; of nodes that stay where they are, one anchor after the other."""
        if self.moves:
            log_terms = np.array([evaluate(nu) for nu in points])
            return lambda anchor: log_terms[:, anchor]
        monomials = np.array([self.monomials(nu) for nu in points])
        log_weights = nodes.log_weights.numpy()
        coefficients = nodes.coefficients.numpy().reshape(*log_weights.shape, -1)
        return lambda anchor: log_weights[anchor] + monomials @ coefficients[anchor].T

    def _snapshots(self, seed: int) -> tuple[tf.Tensor, np.ndarray]:
        """Points ``(S, K)`` of the nuisances at which integrals are compared, and how much they matter."""
        windows = self._deformation.windows
        acting = {name for ratio in self._ratios for name in ratio.nuisances}
        moved = [self.moves or name in acting for name in windows]
        points, importance = snapshots(list(windows.values()), acting=moved, n_random=40, seed=seed)
        return tf.constant(points), importance

    def _steps(self) -> Iterator[np.ndarray]:
        """Distances of the nodes, of which few will be kept, and where all are: narrow for maps and for high degrees."""
        if self.n_dim == 1:
            bases = (0.1 if self.n_context else 0.06), 0.2
        elif self.n_dim == 2:
            bases = (0.2 if not self.n_context else 0.3 if self.moves else 0.4), 0.4
        else:
            bases = (0.7 if self.moves else 0.5), 0.7
        for base in bases:
            yield np.minimum(base, _PER_DEGREE / self.highest[: self.n_dim])

    def _anchors(self) -> np.ndarray:
        """Conditions ``(A, m)``, standardised, that cover the bounded coordinates, denser towards their ends."""
        if not self.n_context:
            return np.zeros((1, 0))
        ends = float(sigmoid(tf.constant(_FAR)))
        n_terms = len(self._of_conditions)
        if self.n_context == 1:  # the nodes of Chebyshev
            places = (0.5 + np.arange(n_terms)[:, None]) / n_terms
        else:
            places = lattice(2 * n_terms, self.n_context)
        wanted = ends * np.cos(np.pi * places)
        return np.arctanh(wanted) * _FAR / np.arctanh(ends)

    # --- events -----------------------------------------------------------------------------------------------------

    def draw(self, c: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)``: events of the map, each kept with a probability proportional to its weight.

        Exact in distribution. An event whose weight is above the bound would not be, and is an error.
        """
        bound = self.log_bound(nu)
        drawn = tf.zeros((tf.shape(c)[0], self.n_dim), c.dtype)

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
        n_inputs = self.n_dim + self.n_context
        places = lattice(_BOUND_POINTS, n_inputs) if n_inputs > 1 else np.linspace(0.0, 1.0, _BOUND_POINTS)[:, None]
        t = tf.constant(np.cos(np.pi * places))  # denser towards the ends, where tails and high degrees change
        log_weight = tf.linalg.matvec(self._at_bounded(t), self.monomials(nu))
        low, high = tf.reduce_min(log_weight), tf.reduce_max(log_weight)
        return high + 1e-6 + (0.0 if n_inputs == 1 else 0.1) * (high - low)

    def efficiency(self, nu: tf.Tensor) -> float:
        """Mean share of the events that `draw` keeps, at the anchors."""
        return float(tf.reduce_mean(tf.exp(self.log_norm_at_anchors(nu) - self.log_bound(nu))))


def _with_constant(n_inputs: int, degree: int) -> np.ndarray:
    powers = Basis((float(degree),) * n_inputs, n_inputs).exponents
    return np.concatenate([np.zeros((1, n_inputs), int), powers]) if n_inputs else np.zeros((1, 0))

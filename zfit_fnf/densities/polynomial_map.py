r"""Systematic variations: the invertible map ``T_nu`` in front of a frozen nominal density.

.. math::
    p(y | x, \nu) = p_\mathrm{nom}(T_\nu(y; x) | x) \; |\det \partial T_\nu / \partial y|, \qquad
    T_j(u) = u_j e^{s_j} + t_j, \qquad (s_j, t_j) = \sum_m \phi_m(\nu) \; C_{mj}(u_{<j}, x)

(arXiv:2606.30489). The sum runs over monomials ``phi_m`` of the nuisances: powers of one nuisance, and products of two
for interactions. A :class:`Response` holds the coefficient networks of the monomials that are learned together; the
:class:`PolynomialMap` is the named sum of responses, and a :class:`Deformation` is such a map in front of a flow. The
coefficients depend on the event only and the monomials on the nuisances only, so the former are computed once per data
set.

One layer moves each coordinate by a function of those before it. Layers can be stacked, :math:`T_\nu = T^{(L)}_\nu \circ
\dots \circ T^{(1)}_\nu`, with the order of the coordinates reversed from layer to layer; the coefficients of the first
layer alone are then functions of the event only.

Training with minibatches leaves noise in the coefficients that would bias a fit to as many events as were simulated. A
response therefore has a small *score correction*, a matrix ``K``, ``phi -> phi (1 + K)``, found from all events at once
(see :func:`zfit_fnf.train.fit_deformation`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import DEEPEST, LARGEST, integer, listed, names, number
from .bijectors import Affine
from .flows import solve_autoregressive
from .model import Model
from .monomials import Monomials, Powers, checked_powers
from .networks import MaskedMLP, StackedMLP, hidden_widths

__all__ = ["PolynomialMap", "Response", "check_dimensions", "checked_responses"]

_AFFINE = Affine()


class Response(Model):
    """Coefficient networks of one nuisance, of one interaction of two, or of several nuisances together.

    Args:
        nuisances: The names whose monomials this response multiplies.
        powers: Exponents of each monomial, one per nuisance: ``((1,), (2,))`` for a quadratic response to one nuisance.
        n_dim: Number of observables.
        n_context: Number of conditions.
        n_single: For an interaction: number of monomials that its nuisances have alone, in total.
        n_layers: Number of stacked layers, each with a network of its own.
        hidden: Widths of the hidden layers.
        seed: Seed of the initial weights (the last layer starts at zero: the identity).
    """

    def __init__(
        self,
        nuisances: Sequence[str],
        powers: Powers,
        *,
        n_dim: int,
        n_context: int,
        n_single: int = 0,
        n_layers: int = 1,
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        n_layers = integer(n_layers, "n_layers", low=1, high=DEEPEST)
        n_dim, n_context = integer(n_dim, "n_dim", low=1, high=LARGEST), integer(n_context, "n_context", low=0)
        n_single, seed = integer(n_single, "n_single", low=0), integer(seed, "seed", low=0)
        self.nuisances = names(nuisances, "nuisances", '["jes"]')
        self.powers = checked_powers(powers, self.nuisances)
        self.hidden = hidden_widths(hidden, n_dim)
        seeds = [seed, *map(int, np.random.SeedSequence(seed).generate_state(n_layers - 1))]
        self.networks = [
            MaskedMLP(n_dim, n_context, 2 * len(self.powers), hidden=self.hidden, seed=layer_seed, zero_init=True)
            for layer_seed in seeds
        ]
        # From the monomials of this response to the coefficients of its nuisances alone (interactions) and its own.
        shape = (len(self.powers), n_single + len(self.powers))
        self.correction = tf.Variable(tf.zeros(shape, tf.float64), trainable=False)

    def precompute(self, c: tf.Tensor, layer: int = 0) -> Any:
        """What the network of one layer makes of the conditions ``(n, m)``."""
        return self.networks[layer].precompute(c)

    def coefficients(self, u: tf.Tensor, precomputed: Any, layer: int = 0) -> tf.Tensor:
        """Coefficients ``(n, monomials, d, 2)`` of one layer at its inputs; the last axis is (log-scale, shift)."""
        return _by_event(_outputs(self.networks[layer], u, precomputed, layer)[None], len(self.powers))

    def prior(self) -> list[tuple[tf.Variable, np.ndarray]]:
        """That of the networks: coefficients are smooth functions of order one."""
        return [pair for network in self.networks for pair in network.prior()]

    @property
    def shape(self) -> tuple[Any, ...]:
        """Responses of the same shape can be evaluated together."""
        return type(self), len(self.powers), *(network.shape for network in self.networks)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a response of the same architecture."""
        return {
            "nuisances": self.nuisances,
            "powers": self.powers,
            "n_dim": self.networks[0].n_inputs,
            "n_context": self.networks[0].n_context,
            "n_single": self.correction.shape[1] - len(self.powers),
            "n_layers": len(self.networks),
            "hidden": self.hidden,
        }


class _Together:
    """Neighbouring responses of one shape, evaluated together; a map asks of them what it asks of a single one."""

    def __init__(self, responses: Sequence[Response]):
        self._n_powers = len(responses[0].powers)
        self._networks = [StackedMLP(networks) for networks in zip(*(r.networks for r in responses), strict=True)]

    def precompute(self, c: tf.Tensor, layer: int = 0) -> Any:
        # Events along the first axis, as for a single response: some keep it for every event.
        return tf.nest.map_structure(_swapped, self._networks[layer].precompute(c))

    def coefficients(self, u: tf.Tensor, precomputed: Any, layer: int = 0) -> tf.Tensor:
        by_network = tf.nest.map_structure(_swapped, precomputed)
        return _by_event(_outputs(self._networks[layer], u, by_network, layer), self._n_powers)


def _outputs(network: MaskedMLP, u: tf.Tensor, precomputed: Any, layer: int) -> tf.Tensor:
    """What a network says of each coordinate, ``(..., n, d, p)``; every second layer sees them in reversed order."""
    order = slice(None, None, -1 if layer % 2 else 1)
    return network.complete(u[:, order], precomputed)[..., order, :]


def _swapped(tensor: tf.Tensor) -> tf.Tensor:
    """The first two axes swapped."""
    return tf.transpose(tensor, (1, 0, *range(2, tensor.shape.rank)))


def _by_event(outputs: tf.Tensor, n_powers: int) -> tf.Tensor:
    """From the outputs ``(responses, n, d, 2 powers)`` to coefficients ``(n, monomials, d, 2)``."""
    n_responses, _, n_dim, _ = outputs.shape
    split = tf.reshape(outputs, (n_responses, -1, n_dim, n_powers, 2))
    return tf.reshape(tf.transpose(split, (1, 0, 3, 2, 4)), (-1, n_responses * n_powers, n_dim, 2))


class PolynomialMap(Model):
    """The map ``T_nu``: a sum of responses, exactly the identity when all nuisances are zero.

    Nuisances count standard deviations. Beyond the trained window of a nuisance its powers continue linearly (twice
    continuously differentiable), so that nothing overflows.

    Args:
        responses: The responses, all with the same number of layers.
        windows: Trained range ``(low, high)`` of each nuisance.

    Raises:
        ValueError: If responses and windows name different nuisances, or responses differ in their layers.
    """

    _CONTINUED = True  # beyond the windows: a power that is continued from an edge would not vanish at zero

    def __init__(self, responses: Sequence[Response], *, windows: Mapping[str, tuple[float, float]]):
        super().__init__()
        self.responses = checked_responses(responses)
        self.nuisances = tuple(dict.fromkeys(name for response in self.responses for name in response.nuisances))
        if not self.nuisances:
            raise ValueError("a deformation needs the response of at least one nuisance")
        if not isinstance(windows, Mapping):
            raise TypeError(f'windows= maps nuisances to ranges such as {{"jes": (-1, 1)}}, got {windows!r}')
        if set(windows) != set(self.nuisances):
            raise ValueError(
                f"need one window per nuisance, got responses of {self.nuisances} and windows of {list(windows)}"
            )
        layers = {len(response.networks) for response in self.responses}
        if len(layers) > 1:
            raise ValueError(f"all responses of a map need the same number of layers, got {sorted(layers)}")
        (self.n_layers,) = layers
        self.windows = {name: _checked_window(name, windows[name]) for name in self.nuisances}
        if self._CONTINUED and (away := [name for name, (low, high) in self.windows.items() if not low <= 0.0 <= high]):
            raise ValueError(f"the windows of {away} must contain 0, where the map is the identity, got {self.windows}")
        self.monomials = Monomials(self.responses, self.windows)
        self._fed = self._fed_positions()

    def basis(self, nu: tf.Tensor, correction: tf.Tensor | None = None) -> tf.Tensor:
        """Corrected monomials ``(M,)`` at the nuisances ``nu (K,)``, continued beyond the trained windows.

        ``correction`` is what :meth:`correction` returns, for those who have it already.
        """
        monomials = self.monomials(nu)
        correction = tf.cast(self.correction() if correction is None else correction, nu.dtype)
        return monomials + tf.linalg.matvec(correction, monomials, transpose_a=True)

    def correction(self) -> tf.Tensor:
        """Matrix ``(M, M)`` of what every monomial adds to every other one."""
        values = tf.concat([tf.reshape(response.correction, (-1,)) for response in self.responses], axis=0)
        return tf.scatter_nd(self._fed, values, (len(self.monomials),) * 2)

    def _fed_positions(self) -> np.ndarray:
        """Positions in the ``(M, M)`` correction matrix of the entries of all responses' corrections."""
        entries = []
        for response in self.responses:
            fed = self.positions(response)
            own = fed[-len(response.powers) :]
            entries.append(np.stack(np.meshgrid(own, fed, indexing="ij"), axis=-1).reshape(-1, 2))
        return np.concatenate(entries)

    def positions(self, response: Response) -> np.ndarray:
        """Positions, among the ``M`` coefficients, of those that the correction of one response feeds.

        For an interaction these are the coefficients of its nuisances alone, then its own.
        """
        starts = np.cumsum([0, *(len(r.powers) for r in self.responses)])
        place = {r.nuisances: np.arange(a, b) for r, a, b in zip(self.responses, starts, starts[1:], strict=False)}
        feeds_others = response.correction.shape[1] > len(response.powers)
        alone = [place[name,] for name in response.nuisances] if feeds_others else []
        return np.concatenate([*alone, place[response.nuisances]])

    def precompute_layer(self, c: tf.Tensor, layer: int = 0) -> list[Any]:
        """What the networks of one layer make of the conditions ``c (n, m)``."""
        return [response.precompute(c, layer) for response in self._evaluated()]

    def coefficients_at(self, u: tf.Tensor, precomputed: Sequence[Any], layer: int = 0) -> tf.Tensor:
        """Coefficients ``(n, M, d, 2)`` of one layer, with what :meth:`precompute_layer` has made of the conditions."""
        parts = zip(self._evaluated(), precomputed, strict=True)
        return tf.concat([response.coefficients(u, part, layer) for response, part in parts], axis=1)

    def coefficients(self, u: tf.Tensor, c: tf.Tensor, layer: int = 0) -> tf.Tensor:
        """Coefficients ``(n, M, d, 2)`` of all monomials in one layer, at its inputs ``u (n, d)``.

        Those of the first layer are a function of the event, not of the nuisances.
        """
        return self.coefficients_at(u, self.precompute_layer(c, layer), layer)

    def _evaluated(self) -> list[Any]:
        """The responses, neighbours of one shape together: an order that the coefficients keep."""
        groups = [list(group) for _, group in itertools.groupby(self.responses, key=lambda response: response.shape)]
        return [group[0] if len(group) == 1 else _Together(group) for group in groups]

    def inverse(
        self, u: tf.Tensor, c: tf.Tensor, coefficients: tf.Tensor, basis: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Deformed to nominal: ``T_nu(u)`` ``(n, d)`` and its log-determinant ``(n,)``.

        ``coefficients`` are those of the first layer. ``basis`` is ``(M,)``, or ``(n, M)`` for one point of the
        nuisances per event.
        """
        u, log_slopes = self.inverse_layer(u, coefficients, basis)
        log_det = tf.reduce_sum(log_slopes, axis=-1)
        for layer in range(1, self.n_layers):
            u, log_slopes = self.inverse_layer(u, self.coefficients(u, c, layer), basis)
            log_det += tf.reduce_sum(log_slopes, axis=-1)
        return u, log_det

    @staticmethod
    def inverse_layer(u: tf.Tensor, coefficients: tf.Tensor, basis: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """One layer with the given coefficients: moved coordinates and the logarithm of their slopes, ``(n, d)`` each."""
        if basis.shape.rank == 1:
            contracted = tf.einsum("nmjk,m->njk", coefficients, basis)
        else:
            contracted = tf.einsum("nmjk,nm->njk", coefficients, basis)
        return _AFFINE.inverse(u, contracted)

    def forward(self, nominal: tf.Tensor, c: tf.Tensor, basis: tf.Tensor, of_first: Any = None) -> tf.Tensor:
        """Nominal to deformed, the inverse of ``T_nu``: layer after layer, one coordinate after the other.

        ``of_first`` is what :meth:`precompute_layer` makes of the conditions, for those who have it already.
        """
        for layer in reversed(range(self.n_layers)):
            of_layer = of_first if layer == 0 and of_first is not None else self.precompute_layer(c, layer)
            nominal = self._layer_forward(nominal, of_layer, basis, layer)
        return nominal

    def _layer_forward(self, nominal: tf.Tensor, of_layer: Any, basis: tf.Tensor, layer: int) -> tf.Tensor:
        def coordinate(u: tf.Tensor, j: int) -> tf.Tensor:
            contracted = tf.einsum("nmk,m->nk", self.coefficients_at(u, of_layer, layer)[:, :, j], basis)
            return _AFFINE.forward(nominal[:, j], contracted)

        return solve_autoregressive(coordinate, n_dim=nominal.shape[1], like=nominal, backwards=layer % 2 == 1)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same map."""
        return {"responses": self.responses, "windows": self.windows}


def check_dimensions(responses: Sequence[Any], n_dim: int, n_context: int) -> None:
    """Refuse responses of other numbers of coordinates and conditions than those of what they deform.

    Raises:
        ValueError: If there is one.
    """
    for response in responses:
        own = response.config()
        if (own["n_dim"], own["n_context"]) != (n_dim, n_context):
            raise ValueError(
                f"has a response to {own['nuisances']} of {own['n_dim']} coordinates and {own['n_context']} conditions; "
                f"expected {n_dim} and {n_context}"
            )


def checked_responses(responses: Sequence[Response]) -> list[Response]:
    """A list of responses; anything else is refused."""
    checked = listed(responses, "responses", "[Response(...)]")
    for response in checked:
        if not all(hasattr(response, name) for name in ("nuisances", "powers", "networks", "correction")):
            raise TypeError(f"responses is a list of Response, got a {type(response).__name__} among them")
    return checked


def _checked_window(name: str, window: tuple[float, float]) -> tuple[float, float]:
    edges = listed(window, f"the window of {name!r}", "(-1, 1)")
    if len(edges) != 2:
        raise ValueError(f"the window of {name!r} needs two edges (low, high), got {window!r}")
    low, high = (number(edge, f"each edge of the window of {name!r}") for edge in edges)
    if not low < high:
        raise ValueError(f"the window of {name!r} needs low < high, got ({low:g}, {high:g})")
    return low, high

r"""Systematic variations: the invertible map ``T_nu`` in front of a frozen nominal density.

.. math::
    p(y | x, \nu) = p_\mathrm{nom}(T_\nu(y; x) | x) \; |\det \partial T_\nu / \partial y|, \qquad
    T_j(u) = u_j e^{s_j} + t_j, \qquad (s_j, t_j) = \sum_m \phi_m(\nu) \; C_{mj}(u_{<j}, x)

(arXiv:2602.13184). The sum runs over monomials ``phi_m`` of the nuisances: powers of one nuisance, and products of two
for interactions. A :class:`Response` holds the coefficient networks of the monomials that are learned together; the
:class:`Deformation` is the named sum of responses. The coefficients depend on the event only and the monomials on the
nuisances only, so the former are computed once per data set.

Training with minibatches leaves noise in the coefficients that would bias a fit to as many events as were simulated. A
response therefore has a small *calibration* matrix ``K`` as well, ``phi -> phi (1 + K)``, found from all events at once
(see :func:`zfit_fnf.train.fit_deformation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from .flows import Flow, in_chunks, sample_table, solve_autoregressive
from .nets import MaskedMLP, Model, default_hidden

Powers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class YieldChange:
    """Ratio of the summed weights of a variation to the nominal ones, ready for :func:`zfit_fnf.normsys`.

    Attributes:
        up: Ratio at +1 sigma, ``None`` where it was not simulated.
        down: Ratio at -1 sigma, ``None`` where it was not simulated.
    """

    up: float | None = None
    down: float | None = None


class Response(Model):
    """Coefficient networks of one nuisance, or of one interaction of two.

    Args:
        nuisances: The names whose monomials this response multiplies.
        powers: Exponents of each monomial, one per nuisance: ``((1,), (2,))`` for a quadratic response to one nuisance.
        n_dim: Number of observables.
        n_context: Number of conditions.
        n_single: For an interaction: number of monomials that its nuisances have alone, in total.
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
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.nuisances, self.powers = tuple(nuisances), tuple(tuple(power) for power in powers)
        if not self.powers or any(len(power) != len(self.nuisances) for power in self.powers):
            raise ValueError(f"every monomial needs one exponent for each of {self.nuisances}, got {self.powers}")
        self.hidden = default_hidden(n_dim) if hidden is None else tuple(hidden)
        self.network = MaskedMLP(
            n_dim,
            n_context,
            2 * len(self.powers),
            hidden=self.hidden,
            seed=seed,
            zero_init=True,
        )
        # From the monomials of this response to the coefficients of its nuisances alone (interactions) and its own.
        shape = (len(self.powers), n_single + len(self.powers))
        self.calibration = tf.Variable(tf.zeros(shape, tf.float64), trainable=False)

    def coefficients(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Coefficients ``(n, monomials, d, 2)``; the last axis is (log-scale, shift)."""
        raw = self.network(u, c)
        return tf.transpose(tf.reshape(raw, (-1, raw.shape[1], len(self.powers), 2)), (0, 2, 1, 3))

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a response of the same architecture."""
        return {
            "nuisances": self.nuisances,
            "powers": self.powers,
            "n_dim": self.network.n_inputs,
            "n_context": self.network.n_context,
            "n_single": self.calibration.shape[1] - len(self.powers),
            "hidden": self.hidden,
        }


class Deformation(Model):
    """The map ``T_nu`` of a flow: a sum of responses, exactly the identity when all nuisances are zero.

    Usually made by :func:`zfit_fnf.train.fit_deformation`. Nuisances count standard deviations. Beyond the trained
    window of a nuisance its powers continue linearly (twice continuously differentiable), so that nothing overflows.

    Args:
        flow: The nominal density, left unchanged.
        responses: Responses of single nuisances, then of interactions between them.
        windows: Trained range ``(low, high)`` of each nuisance.
        yields: Change of the yield with each nuisance, default none.

    Raises:
        ValueError: If an interaction or a window names a nuisance that has no response of its own.
    """

    def __init__(
        self,
        flow: Flow,
        responses: Sequence[Response],
        *,
        windows: Mapping[str, tuple[float, float]],
        yields: Mapping[str, YieldChange] | None = None,
    ):
        super().__init__()
        self.flow, self.responses = flow, list(responses)
        self.nuisances = tuple(r.nuisances[0] for r in self.responses if len(r.nuisances) == 1)
        if unknown := sorted({name for r in self.responses for name in r.nuisances} - set(self.nuisances)):
            raise ValueError(f"interactions with {unknown} need a response of each of these nuisances alone")
        if len(set(self.nuisances)) < len(self.nuisances) or set(windows) != set(self.nuisances):
            raise ValueError(
                f"need one response and one window per nuisance, got responses of {self.nuisances}, windows of {list(windows)}"
            )
        self.windows = {name: windows[name] for name in self.nuisances}
        self.yields = {name: (yields or {}).get(name, YieldChange()) for name in self.nuisances}

    @property
    def obs(self) -> tuple[str, ...]:
        """Names of the observables."""
        return self.flow.obs

    @property
    def cond(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return self.flow.cond

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Physical range of each observable."""
        return self.flow.ranges

    @property
    def interactions(self) -> tuple[tuple[str, ...], ...]:
        """Pairs of nuisances with a response of their own."""
        return tuple(r.nuisances for r in self.responses if len(r.nuisances) > 1)

    # --- for users ------------------------------------------------------------------------------------------------

    def log_prob(self, data: Any, *, nu: Mapping[str, float] | None = None) -> np.ndarray:
        """Log-density per event at a point of the nuisances.

        Args:
            data: Table with the columns ``obs`` and ``cond``.
            nu: Nuisances in standard deviations; those left out are zero.

        Returns:
            ``(n,)`` float64.

        Raises:
            ValueError: For bad columns and for a nuisance that the deformation does not know.
        """
        basis = self.basis(tf.constant(self.point(nu)))

        def log_prob(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            u, c, log_jacobian = self.flow.encode(y, x)
            return self.log_density(u, c, basis) + log_jacobian

        return in_chunks(log_prob, *self.flow.columns(data))

    def sample(
        self, n: int | None = None, *, nu: Mapping[str, float] | None = None, cond: Any = None, seed: int | None = None
    ) -> pd.DataFrame:
        """Draw events at a point of the nuisances; arguments as in :meth:`Flow.sample` and :meth:`log_prob`."""
        point = tf.constant(self.point(nu))
        return sample_table(self.flow, lambda c, pair: self.draw(c, point, pair), n, cond, seed)

    def point(self, nu: Mapping[str, float] | None) -> np.ndarray:
        """Values ``(K,)`` in the order of ``nuisances`` from a mapping by name."""
        nu = nu or {}
        if unknown := sorted(set(nu) - set(self.nuisances)):
            raise ValueError(f"unknown nuisance {unknown}: this deformation knows {list(self.nuisances)}")
        return np.array([float(nu.get(name, 0.0)) for name in self.nuisances])

    # --- for training and pdfs ------------------------------------------------------------------------------------

    def basis(self, nu: tf.Tensor) -> tf.Tensor:
        """Calibrated monomials ``(M,)`` at the nuisances ``nu (K,)``, continued beyond the trained windows."""
        blocks = {response.nuisances: self._monomials(response, nu) for response in self.responses}
        total = dict(blocks)
        for response in self.responses:
            change = tf.linalg.matvec(tf.cast(response.calibration, nu.dtype), blocks[response.nuisances], transpose_a=True)
            fed = calibrated_blocks(response)
            for names, part in zip(fed, tf.split(change, [blocks[names].shape[0] for names in fed]), strict=True):
                total[names] += part
        return tf.concat(list(total.values()), axis=0)

    def _monomials(self, response: Response, nu: tf.Tensor) -> tf.Tensor:
        value = {name: nu[index] for index, name in enumerate(self.nuisances)}
        return tf.stack(
            [
                tf.reduce_prod(
                    [
                        continued_power(value[name], power, *self.windows[name])
                        for name, power in zip(response.nuisances, powers, strict=True)
                    ]
                )
                for powers in response.powers
            ]
        )

    def coefficients(self, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Coefficients ``(n, M, d, 2)`` of all monomials: a function of the event, not of the nuisances."""
        return tf.concat([response.coefficients(u, c) for response in self.responses], axis=1)

    @staticmethod
    def apply(u: tf.Tensor, coefficients: tf.Tensor, basis: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Deformed to nominal: ``T_nu(u)`` ``(n, d)`` and its log-determinant ``(n,)``.

        ``basis`` is ``(M,)``, or ``(n, M)`` for one point of the nuisances per event.
        """
        if basis.shape.rank == 1:
            contracted = tf.einsum("nmjk,m->njk", coefficients, basis)
        else:
            contracted = tf.einsum("nmjk,nm->njk", coefficients, basis)
        log_scale, shift = contracted[..., 0], contracted[..., 1]
        return u * tf.exp(log_scale) + shift, tf.reduce_sum(log_scale, axis=-1)

    def log_density(self, u: tf.Tensor, c: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` in the standardised coordinates."""
        nominal, log_det = self.apply(u, self.coefficients(u, c), basis)
        return self.flow.log_density(nominal, c) + log_det

    def draw(self, c: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)`` at the nuisances ``nu (K,)``."""
        return self.forward(self.flow.draw(c, seed), c, self.basis(nu))

    def forward(self, nominal: tf.Tensor, c: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
        """Nominal to deformed, the inverse of ``T_nu``: one coordinate after the other."""

        def coordinate(u: tf.Tensor, j: int) -> tf.Tensor:
            contracted = tf.einsum("nmk,m->nk", self.coefficients(u, c)[:, :, j], basis)
            return (nominal[:, j] - contracted[:, 1]) * tf.exp(-contracted[:, 0])

        return solve_autoregressive(coordinate, n_dim=len(self.obs), like=nominal)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same deformation."""
        return {"flow": self.flow, "responses": self.responses, "windows": self.windows, "yields": self.yields}

    def __repr__(self) -> str:
        pairs = "".join(f", {'*'.join(pair)}" for pair in self.interactions)
        return f"<Deformation of {self.flow!r} by {', '.join(self.nuisances)}{pairs}>"


def calibrated_blocks(response: Response) -> list[tuple[str, ...]]:
    """Nuisances of the responses whose coefficients the calibration of one response feeds, in its column order."""
    alone = [(name,) for name in response.nuisances] if len(response.nuisances) > 1 else []
    return [*alone, response.nuisances]


def continued_power(nu: tf.Tensor, power: int, low: float, high: float) -> tf.Tensor:
    """``nu**power`` inside ``[low, high]``, continued linearly outside.

    Over the first half-width beyond an edge the second derivative fades quadratically to zero, which keeps the
    continuation twice differentiable: HESSE at a template point sees no kink.
    """
    if power == 1:
        return nu
    inside = tf.clip_by_value(nu, low, high)
    fade = 0.5 * max(abs(low), abs(high))
    excess = nu - inside
    faded = tf.clip_by_value(tf.abs(excess), 0.0, fade)
    # Twice the integral of (1 - s/fade)^2 over the excess: the curvature term of the continuation.
    bend = 2.0 * (fade * tf.abs(excess) / 3.0 - fade**2 / 12.0 * (1.0 - (1.0 - faded / fade) ** 4))
    edge_curvature = 0.5 * power * (power - 1) * inside ** (power - 2)
    return inside**power + power * inside ** (power - 1) * excess + edge_curvature * bend

r"""Densities with nuisances: the invertible map of :mod:`.polynomial_map` in front of a frozen nominal density.

.. math::
    p(y | x, \nu) = p_\mathrm{nom}(T_\nu(y; x) | x) \; |\det \partial T_\nu / \partial y|

(arXiv:2606.30489), times what log-ratios reweight, see :mod:`.ratio`. What varies
with the nuisances besides is the yield: a :class:`YieldRatio` for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import number
from .claims import ResponseTable
from .flows import AutoregressiveDensity, Flow
from .history import Histories, label_of
from .polynomial_map import PolynomialMap, Response, check_dimensions, checked_responses
from .ratio import LogRatio
from .responses import ShapeResponse
from .reweighting import Reweighting

__all__ = ["Deformation", "YieldRatio"]

_ROWS = 2048  # deformed at a time when events are drawn: a hundred networks take a gigabyte for them


@dataclass(frozen=True)
class YieldRatio:
    """Ratio of the summed weights of a variation to the nominal ones, ready for :func:`zfit_fnf.normsys`.

    Attributes:
        up: Ratio at +1 sigma, ``None`` where it was not simulated.
        down: Ratio at -1 sigma, ``None`` where it was not simulated.
    """

    up: float | None = None
    down: float | None = None

    def __post_init__(self) -> None:
        for side in ("up", "down"):
            if (ratio := getattr(self, side)) is not None:
                object.__setattr__(self, side, number(ratio, f"the ratio of yields {side}=", above=0.0))


class Deformation(PolynomialMap, ShapeResponse):
    """The map ``T_nu`` in front of a flow: responses of single nuisances, and of interactions between two.

    Usually made by :func:`zfit_fnf.train.fit_deformation`.

    Args:
        flow: The nominal density, left unchanged.
        responses: Responses of single nuisances, then of interactions between them.
        windows: Trained range ``(low, high)`` of each nuisance.
        yields: Change of the yield with each nuisance, default none.
        ratios: Log-ratios that reweight what the map has moved, at most one for each response, see
            :mod:`zfit_fnf.densities.ratio`.

    Raises:
        ValueError: If an interaction, a log-ratio or a window names a nuisance that has no response of its own.
    """

    def __init__(
        self,
        flow: Flow,
        responses: Sequence[Response],
        *,
        windows: Mapping[str, tuple[float, float]],
        yields: Mapping[str, YieldRatio] | None = None,
        ratios: Sequence[LogRatio] = (),
    ):
        if not isinstance(flow, Flow):
            raise TypeError(f"a deformation needs the Flow that it deforms, got a {type(flow).__name__}")
        responses = checked_responses(responses)
        singles = [r.nuisances[0] for r in responses if len(r.nuisances) == 1]
        if unknown := sorted({name for r in responses for name in r.nuisances} - set(singles)):
            raise ValueError(f"interactions with {unknown} need a response of each of these nuisances alone")
        if len(set(singles)) < len(singles):
            raise ValueError(f"need one response per nuisance, got responses of {singles}")
        pairs = [tuple(sorted(r.nuisances)) for r in responses if len(r.nuisances) > 1]
        if len(set(pairs)) < len(pairs):  # their corrections would all be those of the last one
            raise ValueError(f"need one interaction per pair of nuisances, got interactions of {pairs}")
        super().__init__(responses, windows=windows)
        check_dimensions(self.responses, len(flow.obs), len(flow.cond))
        self.flow = flow
        self.ratios = _checked_ratios(ratios, self.windows)
        check_dimensions(self.ratios, len(flow.obs), len(flow.cond))
        self._reweighting: Reweighting | None = None
        self.history = Histories()  # of the trainings, by response
        self.yields = {name: YieldRatio() for name in self.nuisances} | _checked_yields(yields or {}, self.nuisances)

    @property
    def interactions(self) -> tuple[tuple[str, ...], ...]:
        """Pairs of nuisances with a response of their own."""
        return tuple(r.nuisances for r in self.responses if len(r.nuisances) > 1)

    @property
    def moves(self) -> bool:
        """Whether the map is anything but the identity."""
        last = [v for r in self.responses for n in r.networks for v in (n.weights[-1], n.biases[-1])]
        return any(np.any(variable.numpy()) for variable in last)

    @property
    def movement(self) -> PolynomialMap | None:
        """The map by itself, if it has one layer."""
        return PolynomialMap(self.responses, windows=self.windows) if self.n_layers == 1 else None

    @property
    def reweighting(self) -> Reweighting | None:
        """What the log-ratios do together, if there are any."""
        if self.ratios and self._reweighting is None:
            self._reweighting = Reweighting(self, self.ratios)
        return self._reweighting

    def use_all_nodes(self) -> None:
        """Integrate with all nodes there are, for a few points: to find few that give the same takes longer than that."""
        if self.ratios:
            self._reweighting = Reweighting(self, self.ratios, few_nodes=False)

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Set all variables, in the order of :meth:`weights_list`."""
        super().assign(values)
        self._reweighting = None

    # --- the map alone ----------------------------------------------------------------------------------------------

    def log_density_of_map(self, nu: tf.Tensor, of_map: Any) -> tf.Tensor:
        """Log-density ``(n,)`` without log-ratios."""
        if len(of_map) == 1:  # nothing moves
            return of_map[0]
        u, c, coefficients, of_flow = of_map
        nominal, log_det = self.inverse(u, c, coefficients, tf.cast(self.basis(nu), u.dtype))
        return self.flow.log_density_at(nominal, of_flow) + log_det

    def draw_of_map(self, c: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` without log-ratios."""
        basis = self.basis(nu)
        return _in_turn(lambda u, c: self.forward(u, c, basis), self.flow.draw(c, seed), c)

    def log_density(self, u: tf.Tensor, c: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
        """Log-density ``(n,)`` for training a map, also with a ``basis (n, M)`` for every event.

        Raises:
            ValueError: With log-ratios, of which the basis knows nothing.
        """
        if self.ratios:
            raise ValueError("this density has log-ratios: use precompute and log_density_at")
        nominal, log_det = self.inverse(u, c, self.coefficients(u, c), basis)
        return self.flow.log_density(nominal, c) + log_det

    # --- as a response of the shape -------------------------------------------------------------------------------

    def precompute_conditions(self, c: tf.Tensor) -> Any:
        """What the networks of the first layer and the flow make of the conditions."""
        return self.precompute_layer(c), self.flow.precompute(c)

    def precompute(self, u: tf.Tensor, c: tf.Tensor, of_conditions: Any = None) -> Any:
        """What the map needs, then what the log-ratios need, if there are any.

        The map needs coordinates, conditions, coefficients of its first layer, and what the flow makes of the conditions;
        beside log-ratios, where it moves nothing, the nominal log-density is all there is to know.
        """
        of_layer, of_flow = of_conditions or self.precompute_conditions(c)
        reweighting = self.reweighting
        if reweighting is None:
            return ((u, c, self.coefficients_at(u, of_layer), of_flow),)
        of_ratios = reweighting.precompute(u, c, of_flow)
        if not reweighting.moves:
            return (self.flow.log_density_at(u, of_flow),), of_ratios
        return (u, c, self.coefficients_at(u, of_layer), of_flow), of_ratios

    def log_shape(self, nu: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)``, which :meth:`log_norm` normalises if there are log-ratios."""
        of_map, *of_ratios = precomputed
        log_density = self.log_density_of_map(nu, of_map)
        return log_density + self.reweighting.log_weight(nu, *of_ratios) if self.reweighting else log_density

    def log_norm(self, nu: tf.Tensor, precomputed: Any) -> tf.Tensor | float:
        """Logarithm of the integral of :meth:`log_shape`; zero without log-ratios."""
        return self.reweighting.log_norm(nu, precomputed[1]) if self.reweighting else 0.0

    @property
    def sequential(self) -> bool:
        """Whether flow and map keep the order of the coordinates, with one layer or in one dimension, without log-ratios."""
        density = getattr(self.flow, "density", None)
        if self.ratios or not isinstance(density, AutoregressiveDensity):
            return False
        return density.sequential and (self.n_layers == 1 or density.n_dim == 1)

    def base(self, nu: tf.Tensor, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Independent logistic coordinates ``(n, d)``, and the logarithms of their slopes ``(n, d)``."""
        ((u, c, coefficients, of_flow),) = precomputed
        basis = self.basis(nu)
        if self.n_layers == 1:
            nominal, log_slopes = self.inverse_layer(u, coefficients, basis)
        else:  # in one dimension
            nominal, log_det = self.inverse(u, c, coefficients, basis)
            log_slopes = log_det[:, None]
        z, log_slope = self.flow.density.base(nominal, of_flow)
        return z, log_slope + log_slopes

    def draw(self, c: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)`` given ``c (n, m)`` at the nuisances ``nu (K,)``, exact in distribution."""
        return self.reweighting.draw(c, nu, seed) if self.reweighting else self.draw_of_map(c, nu, seed)

    def efficiency(self, nu: Mapping[str, float] | None = None) -> float:
        """Share of the events drawn from the map that :meth:`sample` keeps; one without log-ratios."""
        return self.reweighting.efficiency(tf.constant(self.point(nu))) if self.reweighting else 1.0

    @property
    def without_effect(self) -> frozenset[str]:
        """Nuisances of which all responses were pruned, so that the shape does not depend on them."""
        pruned = {True: set[str](), False: set[str]()}
        for response in self.responses:
            record = self.history.get(label_of(response.nuisances))
            pruned[bool(record and record.claim and record.claim.kind == "pruned")].update(response.nuisances)
        return frozenset(pruned[True] - pruned[False])

    def response_table(self, n_data: float = 10_000) -> ResponseTable:
        """What each response claims to know, what events confirm of it, and how much is noise.

        Args:
            n_data: Number of events of this process in the data, whose error on each nuisance is given.

        Example:
            >>> print(deformation.response_table(n_data=50_000))
        """
        return ResponseTable.of([label_of(r.nuisances) for r in self.responses], self.history, n_data)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same deformation."""
        return {
            "flow": self.flow,
            "responses": self.responses,
            "windows": self.windows,
            "yields": self.yields,
            "ratios": self.ratios,
        }

    def __repr__(self) -> str:
        pairs = "".join(f", {'*'.join(pair)}" for pair in self.interactions)
        ratios = f", {len(self.ratios)} log-ratio(s)" if self.ratios else ""
        return f"<Deformation of {self.flow!r} by {', '.join(self.nuisances)}{pairs}{ratios}>"


def _in_turn(function: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """Apply a function to rows ``u (n, d)`` and ``c (n, m)``, a bounded number at a time, also where a graph does not know n."""
    n = tf.shape(u)[0]
    size = tf.clip_by_value(n, 1, _ROWS)
    count = (n + size - 1) // size
    pieces = [
        tf.reshape(tf.pad(rows, [[0, count * size - n], [0, 0]]), (count, size, rows.shape[1])) for rows in (u, c)
    ]
    # Outside of graphs, autograph would take most of the time.
    of_piece = tf.autograph.experimental.do_not_convert(lambda rows: function(*rows))
    results = tf.map_fn(of_piece, pieces, fn_output_signature=u.dtype, parallel_iterations=1)
    return tf.reshape(results, (count * size, u.shape[1]))[:n]


def _checked_yields(yields: Any, nuisances: Sequence[str]) -> dict[str, YieldRatio]:
    if not isinstance(yields, Mapping) or not all(isinstance(change, YieldRatio) for change in yields.values()):
        raise TypeError(f"yields= maps nuisances to YieldRatio(up=..., down=...), got {yields!r}")
    if unknown := sorted(set(yields) - set(nuisances)):
        raise ValueError(f"yields= names {unknown}, to which there is no response: the nuisances are {list(nuisances)}")
    return dict(yields)


def _checked_ratios(ratios: Sequence[LogRatio], windows: Mapping[str, Any]) -> list[LogRatio]:
    checked = list(ratios)
    if not all(isinstance(ratio, LogRatio) for ratio in checked):
        raise TypeError(f"ratios= is a list of LogRatio, got {ratios!r}")
    if unknown := sorted({name for ratio in checked for name in ratio.nuisances} - set(windows)):
        raise ValueError(f"log-ratios name {unknown}, to which there is no response")
    if len({ratio.nuisances for ratio in checked}) < len(checked):
        raise ValueError(f"need one log-ratio for each response, got {[ratio.nuisances for ratio in checked]}")
    return checked

r"""The measured quantity of a Distribution of Interest: an invertible map from data to simulation.

.. math::
    p(y | x, c, \nu) = p_\mathrm{sim}(T_\phi(y; x, c) | x, c, \nu) \; |\det \partial T_\phi / \partial y|

(arXiv:2602.13184). A :class:`Transfer` is the map :math:`T_\phi`. How it has to move with the parameters, so that it stays
the best one for each of their values, is a :class:`~zfit_fnf.densities.displacement.Displacement` behind it: a
:class:`ProfiledTransfer` is :math:`T(y; \theta) = T_\psi(T_\phi(y); \theta - \hat\theta)`.

As for all bijectors here, *inverse* takes data to simulation (in one pass), *forward* simulation to data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.checks import DEEPEST, integer, names
from ..samples import index_of
from .bijectors import Affine, Bent, ConditionalBijector
from .coordinates import Coordinates
from .displacement import Displacement
from .flows import AutoregressiveLayer, in_chunks
from .model import Model
from .networks import hidden_widths

__all__ = ["ProfiledTransfer", "Transfer"]


class Transfer(Coordinates, ConditionalBijector):
    """The map ``T_phi``: smooth, invertible, conditional on ``x`` and on the process; a new one is the identity.

    Autoregressive layers, with the order of the observables reversed from one to the next, in coordinates that keep the
    observables inside of their physical ranges.

    Args:
        obs: Observables that it moves.
        cond: Observables that it depends on.
        processes: Names of the processes that have a map each; with none, one map is for all.
        ranges: Physical ``(low, high)`` of observables that have them.
        standardisation: ``(mean, width)`` of columns in unbounded coordinates; default ``(0, 1)``, until
            :meth:`standardise` learns it.
        n_layers: Number of layers.
        n_knots: Where the slope of each coordinate can change, in every layer; with none, layers are affine in it.
        hidden: Widths of the hidden layers of each network; default two layers of ``max(32, 16 d)``.
        seed: Seed of the initial weights.

    Example:
        >>> transfer = Transfer(["y1", "y2"], ["x"], processes=["A", "B"])
        >>> events = pd.DataFrame({"y1": [0.3], "y2": [1.0], "x": [0.0]})
        >>> bool(np.allclose(transfer.to_simulation(events, process="A"), events))
        True
    """

    def __init__(
        self,
        obs: Sequence[str],
        cond: Sequence[str] = (),
        *,
        processes: Sequence[str] = (),
        ranges: Mapping[str, tuple[float, float]] | None = None,
        standardisation: Mapping[str, tuple[float, float]] | None = None,
        n_layers: int = 3,
        n_knots: int = 6,
        hidden: Sequence[int] | None = None,
        seed: int = 0,
    ):
        super().__init__(obs, cond, ranges=ranges, standardisation=standardisation)
        n_layers = integer(n_layers, "n_layers", low=1, high=DEEPEST)
        seed = integer(seed, "seed", low=0)
        self.processes = names(processes, "processes", '["signal", "background"]')
        if len(set(self.processes)) < len(self.processes):
            raise ValueError(f"processes= are different names, one for each map; got {list(self.processes)}")
        self.hidden = hidden_widths(hidden, len(self.obs), least=32)
        self.n_knots = integer(n_knots, "n_knots", low=0, high=DEEPEST)
        law = Bent(self.n_knots) if self.n_knots > 1 else Affine()
        n_context = len(self.cond) + len(self.processes)
        self.layers = [
            AutoregressiveLayer(law, len(self.obs), n_context, self.hidden, int(layer_seed), zero_init=True)
            for layer_seed in np.random.SeedSequence(seed).generate_state(n_layers)
        ]

    # --- for users: tables in, tables out -----------------------------------------------------------------------

    def to_simulation(self, data: Any, *, process: str | None = None) -> pd.DataFrame:
        """Take data to where simulation has them.

        Args:
            data: Table with the columns ``obs`` and ``cond``.
            process: Which process the events are taken to be of, if each has its own map.

        Returns:
            The same events in simulation: the columns ``obs`` and ``cond``, with the pandas index of the data.

        Raises:
            ValueError: For bad columns, events outside of the ranges, and a process that is missing or unknown.
        """
        return self.moved(lambda u, context: self.inverse(u, self.precompute(context))[0], data, process)

    def to_data(self, simulation: Any, *, process: str | None = None) -> pd.DataFrame:
        """Correct simulated events: take them to where data have them; arguments as for :meth:`to_simulation`."""
        return self.moved(lambda u, context: self.forward(u, self.precompute(context)), simulation, process)

    def moved(
        self, move: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], events: Any, process: str | None
    ) -> pd.DataFrame:
        """Apply a function of the standardised observables and the context to a table; as for :meth:`to_simulation`."""
        y, x = self.columns(events)

        def physical(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            u, c, _ = self.encode(y, x)
            return self.decode(move(u, self.context(c, process)))

        moved = np.concatenate([in_chunks(physical, y, x), x], axis=1)
        return pd.DataFrame(moved, columns=[*self.obs, *self.cond], index=index_of(events))

    # --- for densities and training: tensors ----------------------------------------------------------------------

    def context(self, c: tf.Tensor, process: str | None) -> tf.Tensor:
        """What the networks are conditional on: standardised conditions ``(n, m)`` and the process, one-hot."""
        if not self.processes:
            return c
        one_hot = np.zeros(len(self.processes))
        one_hot[self.index(process)] = 1.0
        return tf.concat(
            [c, tf.fill((tf.shape(c)[0], 1), tf.constant(1.0, c.dtype)) * tf.constant(one_hot, c.dtype)], axis=1
        )

    @property
    def n_maps(self) -> int:
        """Number of maps, one for each process or one for all."""
        return max(1, len(self.processes))

    def index(self, process: str | None) -> int:
        """Number of the map of a process."""
        if not self.processes:
            return 0
        if process not in self.processes:
            raise ValueError(
                f"each process has its own map: process= must be one of {list(self.processes)}, got {process!r}"
            )
        return self.processes.index(process)

    def precompute(self, context: tf.Tensor) -> list[Any]:
        """What the networks make of the context alone."""
        return [layer.precompute(context) for layer in self.layers]

    def inverse(self, u: tf.Tensor, precomputed: Sequence[Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to simulation ``(n, d)`` and its log-determinant ``(n,)``, in standardised coordinates."""
        log_det = tf.zeros_like(u[:, 0])
        for index, (layer, of_layer) in enumerate(zip(self.layers, precomputed, strict=True)):
            moved, layer_log_det = layer.inverse(_turned(u, index), of_layer)
            u, log_det = _turned(moved, index), log_det + layer_log_det
        return u, log_det

    def forward(self, u: tf.Tensor, precomputed: Sequence[Any]) -> tf.Tensor:
        """Simulation to data ``(n, d)``, the inverse of :meth:`inverse`."""
        for index, (layer, of_layer) in reversed(list(enumerate(zip(self.layers, precomputed, strict=True)))):
            u = _turned(layer.forward(_turned(u, index), of_layer), index)
        return u

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a transfer of the same architecture."""
        return {
            "obs": self.obs,
            "cond": self.cond,
            "processes": self.processes,
            "ranges": self.ranges,
            "n_layers": len(self.layers),
            "n_knots": self.n_knots,
            "hidden": self.hidden,
        }

    def __repr__(self) -> str:
        given = f" | {', '.join(self.cond)}" if self.cond else ""
        each = f" for each of {', '.join(self.processes)}" if self.processes else ""
        return f"<Transfer of {', '.join(self.obs)}{given}{each}, {len(self.layers)} layer(s)>"


def _turned(u: tf.Tensor, index: int) -> tf.Tensor:
    """Coordinates in the order of a layer: every second one sees them reversed."""
    return u[:, ::-1] if index % 2 else u


class ProfiledTransfer(Model):
    """A transfer that follows the parameters: ``T(y; theta) = T_psi(T_phi(y); theta - centre)``.

    Args:
        transfer: The map ``T_phi``, the best one at the centre.
        displacement: The map ``T_psi`` behind it, polynomial in the shifts along the axes.
        centre: Values of the parameters where ``T_psi`` is the identity, by name.
        axes: Matrix ``(P, P)`` whose columns are shifts of the parameters by one unit of the displacement's shifts.
    """

    def __init__(
        self, transfer: Transfer, displacement: Displacement, *, centre: Mapping[str, float], axes: np.ndarray
    ):
        super().__init__()
        self.transfer, self.displacement = transfer, displacement
        self.parameters = tuple(centre)
        n = len(self.parameters)
        self._centre, self._axes, self._inverse_axes = (
            tf.Variable(np.zeros(shape), trainable=False, dtype=tf.float64) for shape in (n, (n, n), (n, n))
        )
        self.place(centre, axes)

    @property
    def centre(self) -> dict[str, float]:
        """Values of the parameters where ``T_psi`` is the identity, by name."""
        return dict(zip(self.parameters, self._centre.numpy().tolist(), strict=True))

    @property
    def axes(self) -> np.ndarray:
        """Shifts of the parameters by one unit of the displacement's shifts, as columns ``(P, P)``."""
        return self._axes.numpy()

    def place(self, centre: Mapping[str, float], axes: np.ndarray | None = None) -> None:
        """Set the centre, and other axes if there are any."""
        self._centre.assign([centre[name] for name in self.parameters])
        if axes is not None:
            self._axes.assign(axes)
            self._inverse_axes.assign(np.linalg.inv(axes))

    def displaced(self, fields: np.ndarray) -> ProfiledTransfer:
        """The same map with another constant part ``fields (K,)`` of its displacement."""
        displacement = copy.deepcopy(self.displacement)
        displacement.set_fields(np.concatenate([displacement.field_weights()[:-1], fields[None]]))
        return ProfiledTransfer(self.transfer, displacement, centre=self.centre, axes=self.axes)

    def basis(self, theta: tf.Tensor) -> tf.Tensor:
        """Monomials ``(M,)`` at the parameters ``theta (P,)``; float64."""
        return self.displacement.basis(tf.linalg.matvec(self._inverse_axes, theta - self._centre))

    def inverse(
        self, u: tf.Tensor, context: tf.Tensor, theta: tf.Tensor, process: str | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Data to simulation ``(n, d)`` and its log-determinant ``(n,)``."""
        v, phi_log_det = self.transfer.inverse(u, self.transfer.precompute(context))
        coefficients = self.coefficients(v, context, process)
        moved, psi_log_det = self.displacement.inverse(v, coefficients, self.basis(theta))
        return moved, phi_log_det + psi_log_det

    def forward(self, u: tf.Tensor, context: tf.Tensor, theta: tf.Tensor, process: str | None = None) -> tf.Tensor:
        """Simulation to data ``(n, d)``."""
        conditions = context[:, : len(self.transfer.cond)]
        v = self.displacement.forward(u, conditions, self.basis(theta), self.transfer.index(process))
        return self.transfer.forward(v, self.transfer.precompute(context))

    def coefficients(self, v: tf.Tensor, context: tf.Tensor, process: str | None) -> tf.Tensor:
        """Coefficients of ``T_psi`` for events that ``T_phi`` has taken to ``v``."""
        conditions = context[:, : len(self.transfer.cond)]
        return self.displacement.coefficients(v, conditions, self.transfer.index(process))

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same map."""
        return {
            "transfer": self.transfer,
            "displacement": self.displacement,
            "centre": self.centre,
            "axes": self.axes,
        }

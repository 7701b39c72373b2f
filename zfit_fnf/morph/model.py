r"""The map between simulation and data of one conditional flow (method: Daumann et al., arXiv:2403.18582).

The flow knows :math:`p(y\,|\,x, f)` with a flag ``f`` of -1 for simulation and +1 for data. Its latent coordinates
:math:`z = F(y; x, f)` have the same distribution under both, so that

.. math:: y' = F^{-1}\big(F(y; x, -1); x, +1\big)

has the distribution of data at the same conditions if ``y`` has that of simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.checks import integer
from ..common.warning import warn
from ..densities.flows import AutoregressiveDensity, Flow, in_chunks
from ..densities.model import Model
from ..samples import as_sample, check_inside, index_of
from .columns import LEVELS, Columns

__all__ = ["FLAG", "Morph"]

_FAR = 10.0  # standard deviations of a condition: hardly any event of a training is that far away

FLAG = "data or simulation"
"""The condition that tells data (+1) from simulation (-1)."""


class Morph(Model):
    """Takes simulated events to where data are, and back; made by :func:`~zfit_fnf.morph.fit_morph`.

    Args:
        flow: Density of the columns of the observables, given the conditions and the flag.
        obs: Observables, in order.
        atoms: Values with a point mass, by observable.
        integers: Observables of whole numbers.
        replicas: Flows that were trained on bootstrap replicas of both samples.

    Raises:
        ValueError: If the flow is of other columns.
    """

    def __init__(
        self,
        flow: Flow,
        obs: Sequence[str],
        *,
        atoms: Mapping[str, Sequence[float]] | None = None,
        integers: Sequence[str] = (),
        replicas: Sequence[Flow] = (),
    ):
        super().__init__()
        known = {name: tuple(map(float, values)) for name, values in (atoms or {}).items()}
        self.columns = Columns(tuple(obs), known, tuple(integers))
        self.flow, self.flows_of_replicas = flow, list(replicas)
        for one in (flow, *replicas):
            if list(one.obs) != self.columns.names or one.cond[-1:] != (FLAG,):
                raise ValueError(f"a morph of {self.columns.names} cannot have the flow {one!r}")
        self.quantiles = [tf.Variable(np.linspace(0.0, 1.0, LEVELS), trainable=False) for name in obs if name in known]

    @property
    def obs(self) -> tuple[str, ...]:
        """The observables."""
        return self.columns.obs

    @property
    def cond(self) -> tuple[str, ...]:
        """The conditions, without the flag."""
        return tuple(self.flow.cond[:-1])

    @property
    def replicas(self) -> tuple[Morph, ...]:
        """The morph of each bootstrap replica; the spread of what is computed with them is its statistical uncertainty."""
        return tuple(self._with(flow) for flow in self.flows_of_replicas)

    def to_data(self, events: Any, *, seed: int = 0) -> pd.DataFrame:
        """Take simulated events to where data are.

        Args:
            events: Events with the observables and the conditions; anything that `zfit_fnf.samples.as_sample` takes.
            seed: Seed of what is random for atoms and whole numbers.

        Returns:
            Observables and conditions, in the order of the events and with their pandas index: weights stay what they were.

        Raises:
            ValueError: If a column is missing, events are outside of the ranges, or a whole number is none.

        Warns:
            UserWarning: If conditions are far from all that the morph was trained on.
        """
        return self._moved(events, -1.0, seed)

    def to_simulation(self, events: Any, *, seed: int = 0) -> pd.DataFrame:
        """Take data to where simulation is; arguments as for :meth:`to_data`."""
        return self._moved(events, +1.0, seed)

    def _moved(self, events: Any, flag: float, seed: int) -> pd.DataFrame:
        sample = as_sample(events, [*self.obs, *self.cond])
        self.columns.check_whole(sample)
        free = {name: limits for name, limits in self.flow.ranges.items() if name in self.obs}
        for name, limits in free.items():
            rows = np.flatnonzero(self.columns.continuous(sample, name))
            check_inside(as_sample({name: sample.columns[name][rows]}, [name], name=sample.name), {name: limits})
        quantiles = [one.numpy() for one in self.quantiles]
        columns = self.columns.encode(sample.columns, quantiles, (integer(seed, "seed=", low=0),))
        y = np.stack([columns[name] for name in self.columns.names], axis=1)
        x = sample.array(self.cond)
        self._warn_if_far(x)
        moved = in_chunks(lambda y, x: self._through(y, x, flag), y, x)
        found = self.columns.decode(dict(zip(self.columns.names, moved.T, strict=True)))
        kept = {name: np.asarray(sample.columns[name], float) for name in self.cond}
        return pd.DataFrame({**found, **kept}, index=index_of(events))

    def _warn_if_far(self, x: np.ndarray) -> None:
        c = np.asarray(self.flow.encode_conditions(tf.constant(np.insert(x, x.shape[1], 0.0, axis=1))))[:, :-1]
        if far := {name: int(n) for name, n in zip(self.cond, np.sum(np.abs(c) > _FAR, axis=0), strict=True) if n}:
            counted = ", ".join(f"{name} {n}" for name, n in far.items())
            warn(
                f"conditions of events are more than {_FAR:.0f} standard deviations from the mean of the events that the morph "
                f"was trained on ({counted}): it extrapolates there, to anything"
            )

    def _through(self, y: tf.Tensor, x: tf.Tensor, flag: float) -> tf.Tensor:
        """To the latent space with one flag, and back with the other.

        A whole number is moved with the random part that it got, but other columns depend on the number alone: the network
        follows steps smoothly, and would carry the random part over to them. With several layers these cannot be told apart.
        """
        flags = flag * tf.ones_like(y[:, :1])
        here, there = (tf.concat([x, own], axis=1) for own in (flags, -flags))
        whole = self.columns.whole if len(self.flow.density.layers) == 1 else {}
        z = self._to_latent(_rounded(y, whole), here)
        for column in whole:
            others = {k: limits for k, limits in whole.items() if k != column}
            z = _with_column(z, column, self._to_latent(_rounded(y, others), here))
        for column in whole:  # in order, as later ones depend on it
            moved = _rounded(self._to_events(z, there), {k: limits for k, limits in whole.items() if k <= column})
            z = _with_column(z, column, self._to_latent(moved, there))
        return self._to_events(z, there)

    def _to_latent(self, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        u, c, _ = self.flow.encode(y, x)
        return _to_latent(self.flow.density, u, c)

    def _to_events(self, z: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return self.flow.decode(_to_events(self.flow.density, z, self.flow.encode_conditions(x)))

    def _with(self, flow: Flow) -> Morph:
        new = Morph(flow, self.obs, atoms=self.columns.atoms, integers=self.columns.integers)
        for mine, own in zip(new.quantiles, self.quantiles, strict=True):
            mine.assign(own)
        return new

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same morph."""
        atoms = {name: list(values) for name, values in self.columns.atoms.items()}
        own = {"flow": self.flow, "obs": self.obs, "atoms": atoms, "integers": self.columns.integers}
        return {**own, "replicas": self.flows_of_replicas}

    def __repr__(self) -> str:
        special = [*self.columns.atoms, *self.columns.integers]
        beside = f", with point masses in {', '.join(special)}" if special else ""
        given = f" | {', '.join(self.cond)}" if self.cond else ""
        return f"<Morph of {', '.join(self.obs)}{given}{beside}, {len(self.flows_of_replicas)} replica(s)>"


def _to_latent(density: AutoregressiveDensity, u: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """Independent logistic coordinates ``(n, d)`` of standardised events given the conditions."""
    layers, precomputed = density.layers, density.precompute(c)
    for layer, of_layer in zip(layers[:-1], precomputed[:-1], strict=True):
        u = tf.reverse(layer.inverse(u, of_layer)[0], axis=[-1])
    return layers[-1].inverse(u, precomputed[-1])[0]


def _to_events(density: AutoregressiveDensity, z: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """The inverse of `_to_latent`."""
    layers, precomputed = density.layers, density.precompute(c)
    u = layers[-1].forward(z, precomputed[-1])
    for layer, of_layer in zip(layers[-2::-1], precomputed[-2::-1], strict=True):
        u = layer.forward(tf.reverse(u, axis=[-1]), of_layer)
    return u


def _rounded(y: tf.Tensor, whole: Mapping[int, tuple[float, float]]) -> tf.Tensor:
    """Columns with some of them rounded to whole numbers, inside of their limits."""
    columns = tf.unstack(y, axis=1)
    for column, limits in whole.items():
        columns[column] = tf.clip_by_value(tf.round(columns[column]), *limits)
    return tf.stack(columns, axis=1)


def _with_column(z: tf.Tensor, column: int, other: tf.Tensor) -> tf.Tensor:
    return tf.concat([z[:, :column], other[:, column : column + 1], z[:, column + 1 :]], axis=1)

"""Observables with point masses as columns that have a density, and back exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..samples import Sample

__all__ = ["LABEL", "LEVELS", "Columns"]

LABEL = " is"
"""Added to the name of an observable with atoms, for the column that tells which of them a value is."""

LEVELS = 201
"""Quantiles of an observable without its atoms, from which values for atoms are drawn."""


@dataclass(frozen=True)
class Columns:
    r"""How observables become columns with a density.

    A whole number ``k`` becomes :math:`k + t`, with a random ``t`` between -1/2 and 1/2 whose density is a triangle, and is
    what a value rounds to. An observable with atoms :math:`a_1, \dots, a_K` becomes two columns: the number of its atom, or
    ``K`` for all other values, as a whole number; and the value, or for an atom a random one, distributed as the others.

    Attributes:
        obs: Observables, in order.
        atoms: Values with a point mass, by observable.
        integers: Observables of whole numbers.
    """

    obs: tuple[str, ...]
    atoms: Mapping[str, tuple[float, ...]]
    integers: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns, where the label of an observable comes before its value."""
        return [column for name in self.obs for column in ([name + LABEL] if name in self.atoms else []) + [name]]

    @property
    def whole(self) -> dict[int, tuple[float, float]]:
        """Places of the columns of whole numbers, in order, and the limits of each."""
        labels = {name + LABEL: (0.0, float(len(values))) for name, values in self.atoms.items()}
        limits = {**labels, **dict.fromkeys(self.integers, (-np.inf, np.inf))}
        return {place: limits[name] for place, name in enumerate(self.names) if name in limits}

    def label(self, name: str, values: np.ndarray) -> np.ndarray:
        """Number of the atom of each value, or ``K``; columns of float32 have the atom as they round it."""
        known = np.asarray(self.atoms[name])
        is_atom = (values[:, None] == known) | (values[:, None] == known.astype(np.float32).astype(float))
        return np.where(is_atom.any(axis=1), is_atom.argmax(axis=1), len(known))

    def continuous(self, sample: Sample, name: str) -> np.ndarray:
        """Whether each value is none of the atoms."""
        values = np.asarray(sample.columns[name], float)
        return self.label(name, values) == len(self.atoms[name]) if name in self.atoms else np.ones(len(values), bool)

    def check_whole(self, sample: Sample) -> None:
        """Refuse other numbers in observables of whole ones."""
        for name in self.integers:
            values = np.asarray(sample.columns[name], float)
            if len(other := values[values != np.round(values)]):
                raise ValueError(f"integers= names {name!r}, which has values such as {other[0]:g} in {sample.name}")

    def encode(
        self, values: Mapping[str, np.ndarray], quantiles: Sequence[np.ndarray], seed: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The columns of observables; ``quantiles`` are those of each observable with atoms, without them."""
        rng, found, of_atoms = np.random.default_rng(seed), {}, iter(quantiles)
        for name in self.obs:
            own = np.asarray(values[name], float)
            if name in self.atoms:
                label = self.label(name, own)
                found[name + LABEL] = label + _triangle(rng, len(own))
                grid = next(of_atoms)
                drawn = np.interp(rng.random(len(own)), np.linspace(0.0, 1.0, len(grid)), grid)
                own = np.where(label < len(self.atoms[name]), drawn, own)
            found[name] = own + _triangle(rng, len(own)) if name in self.integers else own
        return found

    def decode(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The observables of columns."""
        found = {}
        for name in self.obs:
            own = np.round(columns[name]) + 0.0 if name in self.integers else columns[name]  # no -0
            if name in self.atoms:
                table = np.array([*self.atoms[name], np.nan])
                label = np.clip(np.round(columns[name + LABEL]), 0, len(table) - 1).astype(int)
                own = np.where(label < len(table) - 1, table[label], own)
            found[name] = own
        return found


def _triangle(rng: np.random.Generator, n: int) -> np.ndarray:
    return 0.5 * (rng.random(n) - rng.random(n))

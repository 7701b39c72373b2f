r"""What data can say about the parameters beside a free map.

With free maps the information of any estimator is at most the *efficient* one: the scores minus their projection on all that
maps can do to the density. The profile likelihood has the information that a finite number of displacement fields leaves; with
more of them it falls towards the efficient one, about as one over their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf

from ..densities.displacement import Displacement
from ..minimum import inverse_of
from .regression import Regression

__all__ = ["MATRICES", "Bounds", "constraint_hessian"]

MATRICES = ("fixed", "profiled", "efficient", "prior")
"""Information matrices of `Bounds`."""

_ABSORBED = 0.98  # of the information: beyond it nothing is left that could be measured


@dataclass(frozen=True, eq=False)
class Bounds:
    """Information about the parameters with the map fixed, with one that follows them, and with any map.

    Attributes:
        names: The parameters.
        fixed: Information ``(P, P)`` of the data with the map fixed.
        profiled: With the fields that the map moves by.
        efficient: With any map, by extrapolation from half of the fields and all of them.
        prior: Of the constraints.
    """

    names: tuple[str, ...]
    fixed: np.ndarray
    profiled: np.ndarray
    efficient: np.ndarray
    prior: np.ndarray

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        regression: Regression,
        prior: np.ndarray,
        displacement: Displacement,
        weight: float = 1.0,
    ) -> Bounds:
        """Of a regression on the fields of a displacement.

        Args:
            names: The parameters.
            regression: Of events whose weights sum to those of the data.
            prior: Information of the constraints.
            displacement: The fields.
            weight: As how many events each one of the likelihood counts, ``sum w^2 / sum w`` for weighted data: they know less
                than their likelihood says by as much.
        """
        half = regression.restricted(displacement.lowest(0.5))
        # In the events that directions were found from, too little is left; in others too much, by as much.
        whole, part = (0.5 * (r.information() + r.held_out()) for r in (regression, half))
        found = regression.squares.sum(axis=0), regression.information(), _positive(2.0 * whole - part)
        fixed, profiled, efficient = (information / weight for information in found)
        return cls(names, fixed, profiled, efficient, prior)

    @property
    def covariance(self) -> np.ndarray:
        """Of the profile likelihood, with the constraints."""
        return inverse_of(self.profiled + self.prior)

    def inverse_hessian(self, weight: float) -> np.ndarray:
        """Of the profile likelihood, in which events count as often as `Bounds.of` was told."""
        return inverse_of(weight * self.profiled + self.prior)

    @property
    def errors(self) -> dict[str, np.ndarray]:
        """Standard errors ``(P,)`` with the constraints, for each kind of information."""
        kinds = {"fixed": self.fixed, "profiled": self.profiled, "efficient": self.efficient}
        return {kind: np.sqrt(np.diag(inverse_of(found + self.prior))) for kind, found in kinds.items()}

    @property
    def absorbed(self) -> dict[str, float]:
        """Part of what data say about each parameter alone that a map absorbs."""
        parts = 1.0 - np.diag(self.efficient) / np.maximum(np.diag(self.fixed), 1e-300)
        return dict(zip(self.names, np.clip(parts, 0.0, 1.0).tolist(), strict=True))

    @property
    def lost(self) -> tuple[str, ...]:
        """Parameters of which the map absorbs all that data say."""
        return tuple(name for name, part in self.absorbed.items() if part > _ABSORBED)

    @property
    def degenerate(self) -> np.ndarray:
        """Shift ``(P,)`` of the parameters along which the map absorbs most, where both are hardest to tell apart."""
        root = np.linalg.cholesky(self.fixed + self.prior)
        relative = np.linalg.solve(root, np.linalg.solve(root, self.profiled + self.prior).T)
        return np.linalg.solve(root.T, np.linalg.eigh(relative)[1][:, 0])

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each parameter: its standard error for each kind of information, and what the map absorbs."""
        return pd.DataFrame({**self.errors, "absorbed": list(self.absorbed.values())}, index=list(self.names))

    def to_dict(self) -> dict[str, Any]:
        """All matrices and the table, ready for JSON."""
        matrices = {name: getattr(self, name).tolist() for name in MATRICES}
        return {"names": list(self.names), **matrices, "table": self.to_dataframe().to_dict(orient="index")}

    def __str__(self) -> str:
        table = self.to_dataframe()
        for column in ("fixed", "profiled", "efficient"):
            table[column] = [f"{value:.3g}" for value in table[column]]
        table["absorbed"] = [f"{100 * part:.0f} %" for part in table["absorbed"]]
        table = table.rename(columns={"fixed": "map fixed", "absorbed": "absorbed by the map"})
        lines = ["standard errors that data and constraints allow:", table.to_string()]
        lines += [f"{name}: the map absorbs all that data say about it; nothing is measured" for name in self.lost]
        return "\n".join(lines)


def constraint_hessian(constraints: Sequence[Any], params: Sequence[zfit.Parameter]) -> np.ndarray:
    """Second derivatives ``(P, P)`` of the sum of constraints at the current parameters."""
    hessian = np.zeros((len(params),) * 2)
    if not constraints:
        return hessian
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as tape:
            total = tf.add_n([tf.reshape(constraint.value(), ()) for constraint in constraints])
        gradients = tape.gradient(total, list(params))
    for row, gradient in zip(hessian, gradients, strict=True):
        if gradient is not None:
            second = outer.gradient(gradient, list(params))
            row[:] = [0.0 if value is None else float(value) for value in second]
    return hessian


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return (vectors * np.maximum(values, 0.0)) @ vectors.T

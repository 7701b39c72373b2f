"""What can be validated: flows, densities with nuisances, and the learned factors of a whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ..densities.flows import AutoregressiveDensity, Flow, in_chunks
from ..densities.process import FittedProcess
from ..densities.responses import ShapeResponse

__all__ = ["Subject", "subjects_of"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A learned density: one factor of one process.

    Attributes:
        process: Name of the process; empty where there is one only.
        density: The density.
    """

    process: str
    density: Flow | ShapeResponse

    @property
    def flow(self) -> Flow:
        """The nominal density."""
        return self.density if isinstance(self.density, Flow) else self.density.flow

    @property
    def response(self) -> ShapeResponse | None:
        """The density, if it depends on nuisances."""
        return self.density if isinstance(self.density, ShapeResponse) else None

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances."""
        return () if self.response is None else tuple(self.response.nuisances)

    @property
    def columns(self) -> list[str]:
        """Observables and conditions."""
        return [*self.flow.obs, *self.flow.cond]

    @property
    def title(self) -> str:
        """As messages call it."""
        given = f" | {', '.join(self.flow.cond)}" if self.flow.cond else ""
        factor = f"p({', '.join(self.flow.obs)}{given})"
        return f"{self.process}, {factor}" if self.process else factor

    def log_prob(self, table: Any, nu: Mapping[str, float]) -> np.ndarray:
        """Log-density ``(n,)`` of events."""
        return self.flow.log_prob(table) if self.response is None else self.response.log_prob(table, nu=self._known(nu))

    def sample(self, table: pd.DataFrame, nu: Mapping[str, float], *, n: int, seed: int) -> pd.DataFrame:
        """Events, with the conditions of those of a table."""
        cond = table if self.flow.cond else None
        if self.response is None:
            return self.flow.sample(n, cond=cond, seed=seed)
        return self.response.sample(n, nu=self._known(nu), cond=cond, seed=seed)

    def uniform(self, table: Any, nu: Mapping[str, float]) -> np.ndarray | None:
        """Probability integral transform ``(n, d)`` of events; `None` where distribution functions are not known."""
        flow, density, response = self.flow, self.flow.density, self.response
        if not isinstance(density, AutoregressiveDensity) or not density.sequential:
            return None
        if response is not None and not response.sequential:
            return None

        def logistic(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            u, c, _ = flow.encode(y, x)
            if response is None:
                return density.base(u, density.precompute(c))[0]
            return response.base(tf.constant(response.point(self._known(nu))), response.precompute(u, c))[0]

        z = in_chunks(logistic, *flow.columns(table))
        return 1.0 / (1.0 + np.exp(-z))

    def _known(self, nu: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in nu.items() if name in self.nuisances}


def subjects_of(model: Any, names: Mapping[str, Any] | None) -> Iterator[Subject]:
    """The learned densities of a flow, a deformation, or of the components of a PDF that have a simulation.

    Args:
        model: What to validate.
        names: Processes that have a simulation; `None` where the model is a single density.
    """
    if isinstance(model, FittedProcess):
        model = model.model
    if isinstance(model, (Flow, ShapeResponse)):
        yield Subject("", model)
        return
    for pdf in _named(model, names or {}):
        for part in _parts(pdf):
            density = getattr(part, "deformation", None) or getattr(part, "_flow", None)
            if isinstance(density, (Flow, ShapeResponse)):
                yield Subject(pdf.name, density)


def _named(pdf: Any, names: Mapping[str, Any]) -> Iterator[Any]:
    """Components of a PDF that are called so."""
    if pdf.name in names:
        yield pdf
        return
    for daughter in getattr(pdf, "pdfs", ()):
        yield from _named(daughter, names)


def _parts(pdf: Any) -> Iterator[Any]:
    yield pdf
    for daughter in getattr(pdf, "pdfs", ()):
        yield from _parts(daughter)

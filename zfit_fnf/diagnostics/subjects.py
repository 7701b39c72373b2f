"""What can be validated: flows, densities with nuisances, and the learned factors of a whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import zfit  # noqa: F401, before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from ..common.chunks import SMALL_GRAPH, slices
from ..densities.flows import AutoregressiveDensity, Flow
from ..densities.history import label_of
from ..densities.process import FittedProcess
from ..densities.responses import ShapeResponse
from ..loss import Compiled
from ..pdf import sum_components, sum_shares
from ..samples import Sample

__all__ = ["Subject", "subjects_of", "unnamed"]

_TINY = 1e-300  # of a variance


@dataclass(frozen=True, eq=False)
class Subject:
    """A learned density: one factor of one process. What is asked of it for each event is compiled once.

    Attributes:
        process: Name of the process; empty where there is one only.
        density: The density.
        driven: Conditions that a parameter drives, or may drive; a fit uses the derivatives along these.
        share: Of the process in the events of the model.
    """

    process: str
    density: Flow | ShapeResponse
    driven: tuple[str, ...] = ()
    share: float = 1.0

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
    def interactions(self) -> set[frozenset[str]]:
        """Nuisances that have a response together, be it pruned."""
        responses = [frozenset(one.nuisances) for one in getattr(self.response, "responses", ())]
        return {one for one in responses if len(one) > 1}

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

    def learned_from(self, nu: Mapping[str, float]) -> float:
        """Number of events whose chances the density has at a point; infinite where it is not known to be learned from any.

        At the point of a sample it is that of this sample, since its response is learned against the nominal events. Where
        responses of several samples come together without a joint one, theirs add up.
        """
        if self.flow.history is None or not self.flow.history.effective_size > 0.0:
            return np.inf
        nominal = 1.0 / self.flow.history.effective_size
        known = getattr(self.response, "history", {})
        moved = {name for name, value in nu.items() if value and name in self.nuisances}
        acting = {}
        for response in getattr(self.response, "responses", ()):
            record = known.get(label_of(response.nuisances))
            if record is None or (record.claim and record.claim.kind == "pruned"):
                continue
            if moved.issuperset(response.nuisances) and record.effective_size > 0.0:
                acting[frozenset(response.nuisances)] = len(response.powers) / record.effective_size
        variances = [own for names, own in acting.items() if not any(names < more for more in acting)]
        if not variances:
            return 1.0 / nominal
        return 1.0 / max(sum(variances) - (len(variances) - 1) * nominal, _TINY)

    def log_probs(self, sample: Sample, points: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Log-densities ``(points, n)`` of events at several points of the nuisances."""
        nu = tf.constant(np.stack([self._point(one) for one in points]))
        return _in_chunks(lambda *rows: self._log_probs(*rows, nu), *self.flow.columns(sample), axis=1)

    def sample(self, conditions: Sample, nu: Mapping[str, float], *, n: int, seed: int) -> Sample:
        """Events with the conditions, and the weights, of other ones, which are repeated in order."""
        rows = np.arange(n) % conditions.n_events
        x, point = conditions.array(self.flow.cond)[rows], tf.constant(self._point(nu))
        pairs = iter(
            np.random.SeedSequence(seed).generate_state(2 * -(-n // SMALL_GRAPH)).astype(np.int32).reshape(-1, 2)
        )
        y = _in_chunks(lambda rows: self._draw(rows, point, tf.constant(next(pairs))), x)
        columns = dict(zip(self.columns, np.concatenate([y, x], axis=1).T, strict=True))
        # Of a density that is not conditional, the weights of simulated events say nothing about these.
        weighted = self.flow.cond and conditions.weights is not None
        return Sample(columns, np.asarray(conditions.weights)[rows] if weighted else None, "promised")

    def uniform(self, sample: Sample, nu: Mapping[str, float]) -> np.ndarray:
        """Probability integral transform ``(n, d)`` of events of a `sequential` density."""
        point = tf.constant(self._point(nu))
        z = _in_chunks(lambda *rows: self._base(*rows, point), *self.flow.columns(sample))
        return 1.0 / (1.0 + np.exp(-z))

    @property
    def sequential(self) -> bool:
        """Whether the distribution function of each observable, given those before it, is known."""
        density, response = self.flow.density, self.response
        if not isinstance(density, AutoregressiveDensity) or not density.sequential:
            return False
        return response is None or response.sequential

    def _point(self, nu: Mapping[str, float]) -> np.ndarray:
        """Values of the nuisances; those that it does not depend on are left out."""
        known = {name: value for name, value in nu.items() if name in self.nuisances}
        return np.zeros(0) if self.response is None else self.response.point(known)

    @cached_property
    def _log_probs(self) -> Compiled:
        flow, response = self.flow, self.response

        def log_probs(y: tf.Tensor, x: tf.Tensor, nu: tf.Tensor) -> tf.Tensor:
            u, c, log_det = flow.encode(y, x)
            if response is None:
                return tf.repeat((flow.log_density(u, c) + log_det)[None], tf.shape(nu)[0], axis=0)
            known = response.precompute(u, c)
            return log_det + tf.map_fn(lambda one: tf.cast(response.log_density_at(one, known), tf.float64), nu)

        return Compiled(log_probs, xla=False)

    @cached_property
    def _draw(self) -> Compiled:
        flow, response = self.flow, self.response

        def draw(x: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            c = flow.encode_conditions(x)
            return flow.decode(flow.draw(c, seed) if response is None else response.draw(c, nu, seed))

        return Compiled(draw, xla=False)

    @cached_property
    def _base(self) -> Compiled:
        flow, response = self.flow, self.response

        def base(y: tf.Tensor, x: tf.Tensor, nu: tf.Tensor) -> tf.Tensor:
            u, c, _ = flow.encode(y, x)
            if response is None:
                return flow.density.base(u, flow.density.precompute(c))[0]
            return response.base(nu, response.precompute(u, c))[0]

        return Compiled(base, xla=False)


def _in_chunks(function: Any, *arrays: np.ndarray, axis: int = 0) -> np.ndarray:
    """A compiled function of rows, a fixed number at a time, with all results together along an axis."""
    n = len(arrays[0])
    parts = [
        np.asarray(function(*(tf.constant(_filled(array[rows])) for array in arrays)))
        for rows in slices(n, SMALL_GRAPH)
    ]
    return np.concatenate(parts, axis=axis).take(range(n), axis=axis)


def _filled(rows: np.ndarray) -> np.ndarray:
    return rows[np.arange(SMALL_GRAPH) % len(rows)]


def subjects_of(model: Any, names: Mapping[str, Any] | None) -> Iterator[Subject]:
    """The learned densities of a flow, a deformation, or of the components of a PDF that have a simulation.

    Args:
        model: What to validate.
        names: Processes that have a simulation; `None` where the model is a single density.
    """
    if isinstance(model, FittedProcess):
        model = model.model
    if isinstance(model, (Flow, ShapeResponse)):
        alone = Subject("", model)
        yield replace(alone, driven=tuple(alone.flow.cond))
        return
    for pdf, share in _named(model, names or {}):
        yield from (Subject(pdf.name, density, driven, share) for density, driven in _learned(pdf))


def _named(pdf: Any, names: Mapping[str, Any], share: float = 1.0) -> Iterator[tuple[Any, float]]:
    """Components of a PDF that are called so, and their shares of its events."""
    if pdf.name in names:
        yield pdf, share
        return
    daughters = getattr(pdf, "pdfs", ())
    shares = sum_shares(pdf) if sum_components(pdf) != [pdf] else np.ones(len(daughters))
    for daughter, own in zip(daughters, shares, strict=True):
        yield from _named(daughter, names, share * float(own))


def unnamed(pdf: Any, names: Mapping[str, Any]) -> list[str]:
    """Names of the learned components of a PDF that have no simulation."""
    if pdf.name in names:
        return []
    if sum_components(pdf) == [pdf]:
        return [pdf.name] if any(_learned(pdf)) and not any(_named(pdf, names)) else []
    return [name for part in sum_components(pdf) for name in unnamed(part, names)]


def _learned(pdf: Any) -> Iterator[tuple[Flow | ShapeResponse, tuple[str, ...]]]:
    """The learned densities that a PDF is made of, each with the conditions that parameters drive."""
    for part in _parts(pdf):
        density = getattr(part, "deformation", None) or getattr(part, "_flow", None)
        if isinstance(density, (Flow, ShapeResponse)):
            given = getattr(part, "given", {})
            yield density, tuple(name for name, one in given.items() if isinstance(one, BaseParameter))


def _parts(pdf: Any) -> Iterator[Any]:
    yield pdf
    for daughter in getattr(pdf, "pdfs", ()):
        yield from _parts(daughter)

"""Where minibatches come from: checked events at one point of the nuisances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from ..densities.flows import Flow
from ..samples import Sample, as_sample, check_inside, check_trainable
from ..samples.pairing import warn_of_copies
from ..samples.screening import check_conditions, check_continuous
from .loop import Batch

__all__ = ["EventSource", "no_weights_beside"]


@dataclass(frozen=True)
class EventSource:
    """Training events at one point of the nuisances, handed out as standardised minibatches.

    Attributes:
        flow: The nominal density.
        sample: The events.
        at: The point.
        basis: Values of the monomials there.
        held_out: Rows to validate on; ``None`` leaves the choice to the training.
        paired: Whether row ``i`` is the same generated event as row ``i`` of the nominal sample.
    """

    flow: Flow
    sample: Sample
    at: Mapping[str, float]
    basis: np.ndarray
    held_out: np.ndarray | None = None
    paired: bool = False

    @classmethod
    def make(
        cls, flow: Flow, events: Any, weights: Any, *, at: Mapping[str, float] | None = None, name: str | None = None
    ) -> EventSource:
        sample = as_sample(events, flow.obs + flow.cond, weights=weights, name=name)
        check_trainable(sample)
        check_inside(sample, flow.ranges)
        check_continuous(sample, flow.obs)
        check_conditions(sample, flow.cond)
        warn_of_copies(sample, flow.obs + flow.cond)
        return cls(flow, sample, at or {}, np.zeros(0))

    def batch(self, rows: np.ndarray) -> Batch:
        """``u, c, basis, w`` in float32; standardised in float64 first, where large offsets cancel."""
        u, c = self.standardised(rows)
        w = self.sample.relative_weights(rows)
        basis = np.broadcast_to(self.basis, (len(rows), len(self.basis)))
        return tuple(np.asarray(column, np.float32) for column in (u, c, basis, w))

    def standardised(self, rows: np.ndarray | slice) -> tuple[tf.Tensor, tf.Tensor]:
        """Observables ``u (n, d)`` and conditions ``c (n, m)`` of some rows; float64."""
        y, x = (tf.constant(self.sample.array(names, rows)) for names in (self.flow.obs, self.flow.cond))
        return self.flow.encode(y, x)[:2]


def no_weights_beside(weights: Any) -> None:
    """Refuse weights beside a simulation, which has its own."""
    if weights is not None:
        raise ValueError("a Simulation has its own weights: give them as Simulation(..., weights=...)")

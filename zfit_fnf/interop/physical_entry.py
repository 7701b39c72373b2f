"""Storage entry of flows whose density other code computes; imports nothing that computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..densities.entries import PROBES, FlowEntry, probe
from ..storage.registry import register
from ..storage.schema import Array, Parts

if TYPE_CHECKING:
    from ..densities.model import Model

__all__ = ["PhysicalFlowEntry"]


@register
class PhysicalFlowEntry(FlowEntry):
    """See :class:`~zfit_fnf.interop.physical.PhysicalFlow`.

    Its density is computed by code that is not in the file, which therefore holds the values at a few events.
    """

    model: ClassVar[str | type] = "interop.physical.PhysicalFlow"
    kind: Literal["physical_flow"] = "physical_flow"  # type: ignore[assignment]

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The flow, and its log-density at a few points of its coordinates."""
        fields = cls.fields_of(model, index_of)
        points = np.random.default_rng(0).normal(size=(4 * PROBES, len(model.obs) + len(model.cond)))
        log_density = probe(model, points)
        usable = np.flatnonzero(np.isfinite(log_density))[:PROBES]
        if len(usable) < PROBES:
            raise ValueError(
                f"the density of {model} is finite at {len(usable)} of {len(points)} points where its events should be: "
                "give typical events as events= when you wrap it"
            )
        return fields, {
            "centre": model._centre.numpy(),
            "scale": model._scale.numpy(),
            "probes": points[usable],
            "probed": log_density[usable],
        }

    @classmethod
    def verify(cls, model: Any) -> None:
        """The density may be zero outside of its support."""

    def layout(self) -> Iterator[Array]:
        """The standardisation; points ``(u, c)`` of the coordinates, and the log-density at each."""
        yield from super().layout()
        yield Array("probes", (PROBES, len(self.obs) + len(self.cond)), "F64", "")
        yield Array("probed", (PROBES,), "F64", "")

    def make(self, parts: Parts) -> Model:
        """The flow, if its density is what it was."""
        flow: Any = self.new(parts)
        try:
            now, then = probe(flow, parts.arrays["probes"]), parts.arrays["probed"]
        except Exception as error:  # whatever the library or the function says of what does not fit
            raise ValueError(f"the density of {flow} cannot be evaluated: {error}") from error
        if not np.allclose(now, then, rtol=1e-9, atol=1e-9):
            raise ValueError(f"the density of {flow} is not the one that was stored: log-densities {now} were {then}")
        return flow

"""Conditional fractions in files, without anything that computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..common.checks import LARGEST
from ..storage.registry import class_of, register
from ..storage.schema import Array, Count, Entry, Names, Parts, Power, Schema, Text, Widths, Window, check_finite
from .entries import network_arrays

__all__ = ["FractionsEntry"]

Share = Annotated[list[float], Field(max_length=LARGEST)]


class _Response(Schema):
    process: Text
    nuisances: Annotated[list[Text], Field(min_length=1)]
    powers: Annotated[list[list[Power]], Field(min_length=1)]


class _Reliability(Schema):
    process: Names
    predicted: Share
    observed: Share
    error: Share
    share: Share
    region: Annotated[str, Field(max_length=1000)] = ""


@register
class FractionsEntry(Entry):
    """See :class:`~zfit_fnf.densities.fractions.Fractions`."""

    model: ClassVar[str | type] = "densities.fractions.Fractions"
    kind: Literal["fractions"] = "fractions"
    processes: Names
    cond: Names
    responses: Annotated[list[_Response], Field(max_length=LARGEST)]
    windows: dict[Text, Window]
    hidden: Widths
    n_events: Count = 0
    ranges: dict[Text, tuple[float, float]] = Field(default_factory=dict)
    reliability: _Reliability | None

    def layout(self) -> Iterator[Array]:
        """Standardisation, calibration, networks, and the moments of the coefficients of each process."""
        m, n_processes = len(self.cond), len(self.processes)
        for name, shape in (("centre", (m,)), ("scale", (m,)), ("temperature", ()), ("offsets", (n_processes,))):
            yield Array(name, shape, "F64", name)
        yield from network_arrays("network", 1, m, n_processes, self.hidden)
        for index, response in enumerate(self.responses):
            yield from network_arrays(f"networks.{index}", 1, m, len(response.powers), self.hidden)
        sizes = [sum(len(r.powers) for r in self.responses if r.process == name) for name in self.processes]
        for index, size in enumerate(filter(None, sizes)):
            yield Array(f"means.{index}", (size,), "F64", f"means.{index}")
            yield Array(f"covariances.{index}", (size, size), "F64", f"covariances.{index}")
            if self.n_events:
                yield Array(f"averaged.{index}", (self.n_events, size), "F64", f"averaged.{index}")
                yield Array(f"averaged_weights.{index}", (self.n_events,), "F64", f"averaged_weights.{index}")

    def new(self, parts: Parts) -> Any:
        """The fractions."""
        del parts
        from .fractions import FractionResponse
        from .reliability import Reliability

        responses = [
            FractionResponse(one.process, tuple(one.nuisances), tuple(map(tuple, one.powers))) for one in self.responses
        ]
        known = self.reliability
        reliability = None
        if known is not None:
            reliability = Reliability(
                process=tuple(known.process),
                predicted=tuple(known.predicted),
                observed=tuple(known.observed),
                error=tuple(known.error),
                share=tuple(known.share),
                region=known.region,
            )
        own = {"responses": responses, "reliability": reliability}
        return class_of(self.model)(**{**self.arguments(), **own})

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse shares that are not finite."""
        import numpy as np
        import tensorflow as tf

        log_ratios = model.log_ratios(
            np.zeros(len(model.nuisances)), model.precompute(tf.constant(model.centre.numpy()[None]))
        )
        check_finite("a share", log_ratios.numpy())
        if not math.isfinite(1.0 / float(model.temperature)):
            raise ValueError("has a temperature of zero")

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """Processes, conditions and nuisances."""
        del entries
        lines = [f"fractions of {', '.join(self.processes)} given {', '.join(self.cond)}"]
        return lines + [f"  {one.process} moved by {' x '.join(one.nuisances)}" for one in self.responses]

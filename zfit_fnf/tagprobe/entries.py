"""Fits of tag and probe in files: all but the pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..densities.entries import Record, network_arrays
from ..densities.networks import MaskedMLP
from ..storage.registry import register
from ..storage.schema import (
    Array,
    Entry,
    Names,
    Parts,
    Positive,
    Reference,
    Schema,
    Text,
    Widths,
    Window,
    check_finite,
    plain,
)
from . import shapes
from .member import Member
from .model import HEADS, Likelihood, Quadrature
from .pairs import Columns
from .result import TagProbeResult

__all__ = ["TagProbeEntry"]


class _Shape(Schema):
    """A shape of the package: its class, and arguments of its constructor."""

    name: Literal["Bernstein", "ErfcExponential", "Exponential", "LearnedSignal", "Peak"]
    degree: Annotated[int, Field(ge=1, le=6)] | None = None
    mean: float | None = None
    width: Positive | None = None
    flow: Reference | None = None

    @classmethod
    def fields_of(cls, shape: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The fields of a shape."""
        name = type(shape).__name__
        if getattr(shapes, name, None) is not type(shape):
            raise TypeError(
                f"a fit with a shape of one's own, {name}, cannot be stored: only shapes of the package can"
            )
        given = shape.config() if hasattr(shape, "config") else {}
        return {
            "name": name,
            **{key: plain(value, index_of) for key, value in given.items() if key in cls.model_fields},
        }

    @property
    def size(self) -> int:
        """Number of its coefficients."""
        sizes = {"Bernstein": self.degree or 0, "ErfcExponential": 3, "Exponential": 1, "LearnedSignal": 2, "Peak": 4}
        return sizes[self.name]

    def new(self, parts: Parts, columns: Columns) -> Any:
        """The shape."""
        given = {key: value for key, value in self.model_dump(exclude={"name", "flow"}).items() if value is not None}
        if self.flow is not None:
            flow = parts.model(self.flow, "densities.flows.Flow")
            given = {"flow": flow, "window": columns.window, "mass": columns.mass, "cond": columns.cond}
        return getattr(shapes, self.name)(**given)


@register
class TagProbeEntry(Entry):
    """See :class:`~zfit_fnf.tagprobe.TagProbeResult`; the pairs are not in the file."""

    model: ClassVar[str | type] = "tagprobe.result.TagProbeResult"
    kind: Literal["tag_and_probe"] = "tag_and_probe"
    mass: Text
    window: Window
    passing: Text
    cond: Annotated[Names, Field(min_length=1)]
    ranges: dict[Text, Window]
    hidden: Widths
    signals: Annotated[list[_Shape], Field(min_length=1, max_length=2)]
    backgrounds: Annotated[list[_Shape], Field(min_length=2, max_length=2)]
    panels: Annotated[list[float], Field(min_length=2, max_length=1000)]
    n_nodes: Annotated[int, Field(ge=1, le=1000)]
    histories: Annotated[list[Record], Field(min_length=1)]
    alternatives: dict[Text, Reference]

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The shapes, and of each member its network, numbers and covariance."""
        fit: TagProbeResult = model
        fields = {
            "kind": "tag_and_probe",
            **{name: getattr(fit.columns, name) for name in ("mass", "window", "passing", "cond")},
            "ranges": fit.ranges,
            "hidden": fit.members[0].network.hidden,
            "signals": [_Shape.fields_of(shape, index_of) for shape in fit.likelihood.signals],
            "backgrounds": [_Shape.fields_of(shape, index_of) for shape in fit.likelihood.backgrounds],
            "panels": fit.likelihood.quadrature.panels,
            "n_nodes": fit.likelihood.quadrature.n_nodes,
            "histories": [member.history for member in fit.members],
            "alternatives": {name: index_of(other) for name, other in fit.alternatives.items()},
        }
        arrays = {"centre": fit.moments[0], "scale": fit.moments[1]}
        for k, member in enumerate(fit.members):
            arrays |= {f"members.{k}.numbers": member.numbers, f"members.{k}.covariance": member.covariance}
            for place, (kernel, biases) in enumerate(zip(member.network.weights, member.network.biases, strict=True)):
                arrays[f"members.{k}.network.weights.{place}"] = kernel.numpy()
                arrays[f"members.{k}.network.biases.{place}"] = biases.numpy()
        return plain(fields, index_of), arrays

    def layout(self) -> Iterator[Array]:
        """Standardisation; network, numbers and covariance of each member."""
        m = len(self.cond)
        n_features = (self.hidden[-1] if self.hidden else m) + 1
        n = HEADS * n_features + (m + 1) * sum(shape.size for shape in (*self.signals, *self.backgrounds))
        yield Array("centre", (m,), "F64", "")
        yield Array("scale", (m,), "F64", "")
        for k in range(len(self.histories)):
            yield Array(f"members.{k}.numbers", (n,), "F64", "")
            yield Array(f"members.{k}.covariance", (n, n), "F64", "")
            yield from network_arrays(f"members.{k}.network", 1, m, HEADS, self.hidden)

    def references(self) -> list[int]:
        """Flows of signals and of backgrounds, and fits with other shapes."""
        flows = [shape.flow for shape in (*self.signals, *self.backgrounds) if shape.flow is not None]
        return [*flows, *self.alternatives.values()]

    def make(self, parts: Parts) -> Any:
        """The fit, without pairs."""
        columns = Columns.of(self.mass, self.window, self.passing, self.cond)
        if set(self.ranges) != set(self.cond):
            raise ValueError(f"has ranges of {list(self.ranges)}, and the conditions {list(self.cond)}")
        likelihood = Likelihood(
            tuple(shape.new(parts, columns) for shape in self.signals),
            tuple(shape.new(parts, columns) for shape in self.backgrounds),
            Quadrature(tuple(self.panels), self.n_nodes),
        )
        fit = TagProbeResult(
            columns,
            dict(self.ranges),
            (parts.arrays["centre"], parts.arrays["scale"]),
            tuple(self._member(parts.arrays, k) for k in range(len(self.histories))),
            likelihood,
            None,
            {name: parts.model(index, "tagprobe.result.TagProbeResult") for name, index in self.alternatives.items()},
        )
        self.verify(fit)
        return fit

    def _member(self, arrays: Mapping[str, np.ndarray], k: int) -> Member:
        network = MaskedMLP(1, len(self.cond), HEADS, hidden=self.hidden, seed=0)
        own = f"members.{k}.network"
        for place in range(len(network.weights)):
            network.weights[place].assign(arrays[f"{own}.weights.{place}"])
            network.biases[place].assign(arrays[f"{own}.biases.{place}"])
        return Member(network, arrays[f"members.{k}.numbers"], arrays[f"members.{k}.covariance"], self.histories[k])

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse efficiencies that are not finite."""
        middle = {name: [0.5 * (low + high)] for name, (low, high) in model.ranges.items()}
        found = model.efficiency(middle)
        check_finite("an efficiency", np.append(found.values, found.errors))

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """Conditions and shapes."""
        del entries
        signal, background = (" and ".join(shape.name for shape in own) for own in (self.signals, self.backgrounds))
        lines = [f"efficiency of {self.passing} given {', '.join(self.cond)}, by tag and probe"]
        lines += [f"  signal {signal}, background {background}, {len(self.histories)} members"]
        return lines + [f"  alternative {name}" for name in self.alternatives]

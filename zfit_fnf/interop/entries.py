"""Imported densities in files: the entry of each class of this folder, without anything that computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..common.checks import LARGEST
from ..densities.entries import PROBES, DeformationEntry, FlowEntry, probe
from ..storage.registry import class_of, kind_of, register
from ..storage.schema import Array, Count, Entry, Parts, Tensor, Text, linear_maps
from .zuko_architecture import NetworkShape, ZukoLayer

if TYPE_CHECKING:
    from ..densities.model import Model

__all__ = [
    "DistributionEntry",
    "FunctionEntry",
    "PhysicalFlowEntry",
    "ReferenceDeformationEntry",
    "ReferenceResponseEntry",
    "ZukoEntry",
]

_MOST_PARTS = 100  # distributions and bijectors that a distribution is made of


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


@register
class DistributionEntry(Entry):
    """See :class:`~zfit_fnf.interop.tfp.DistributionDensity`; the arrays are the tensors among the parameters."""

    model: ClassVar[str | type] = "interop.tfp.DistributionDensity"
    kind: Literal["distribution"] = "distribution"
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    distribution: dict[str, Any]

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The classes and numbers that the distribution is made of."""
        from ..interop.tfp import describe

        config = model.config()
        arrays: dict[str, np.ndarray] = {}
        description = describe(config["distribution"], arrays)
        return {"kind": "distribution", "n_dim": config["n_dim"], "distribution": description}, arrays

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse what is made of too many parts; arrays may have any shape.

        Raises:
            ValueError: If it is.
        """
        if (n_parts := _count_parts(self.distribution)) > _MOST_PARTS:
            raise ValueError(
                f"is made of {n_parts} distributions and bijectors; more than {_MOST_PARTS} are not stored"
            )

    def make(self, parts: Parts) -> Model:
        """The density."""
        from ..interop.tfp import DistributionDensity, construct

        try:
            return DistributionDensity(construct(self.distribution, parts.arrays), self.n_dim)
        except Exception as error:  # whatever the library says of parameters that do not fit
            raise ValueError(f"its distribution cannot be made: {error}") from error

    def __str__(self) -> str:
        return str(self.distribution.get("class"))


@register
class FunctionEntry(Entry):
    """See :class:`~zfit_fnf.interop.callable.FunctionDensity`: only the name of the function, which the user supplies."""

    model: ClassVar[str | type] = "interop.callable.FunctionDensity"
    kind: Literal["function"] = "function"
    name: Text
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count

    @classmethod
    def fields_of(cls, model: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The name."""
        return {"kind": kind_of(cls), "name": model.label, "n_dim": model.n_dim, "n_context": model.n_context}

    def make(self, parts: Parts) -> Model:
        """The function that the user supplies under this name."""
        supplied = parts.supplied.get(self.name)
        density: Any = getattr(supplied, "density", supplied)  # of a flow
        if not isinstance(density, class_of(self.model)):
            raise ValueError(
                f"contains the function {self.name!r}, which is not stored: make its flow again as before, and give it "
                f"as supplied={{{self.name!r}: flow}}"
            )
        if (density.n_dim, density.n_context) != (self.n_dim, self.n_context):
            raise ValueError(
                f"needs a function {self.name!r} of {self.n_dim} observables and {self.n_context} conditions; the one "
                f"supplied has {density.n_dim} and {density.n_context}"
            )
        return density

    def __str__(self) -> str:
        return f"function {self.name!r}, not stored"


@register
class ZukoEntry(Entry):
    """See :class:`~zfit_fnf.interop.zuko_density.ZukoDensity`."""

    model: ClassVar[str | type] = "interop.zuko_density.ZukoDensity"
    kind: Literal["zuko"] = "zuko"
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    layers: Annotated[list[ZukoLayer], Field(min_length=1, max_length=1000)]
    dtype: Literal["float32", "float64"]

    def layout(self) -> Iterator[Array]:
        """The weights of the network of each transform."""
        for place, layer in enumerate(self.layers):
            yield from _zuko_network(f"layers.{place}.network", layer.network, self.dtype)

    def __str__(self) -> str:
        return f"zuko {self.layers[0].law}, {len(self.layers)} transform(s)"


@register
class ReferenceResponseEntry(Entry):
    """See :class:`~zfit_fnf.interop.reference.ReferenceResponse`."""

    model: ClassVar[str | type] = "interop.reference.ReferenceResponse"
    kind: Literal["reference_response"] = "reference_response"
    nuisances: Annotated[list[Text], Field(min_length=1, max_length=2)]
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    shapes: Annotated[list[NetworkShape], Field(min_length=1, max_length=1000)]
    dtype: Literal["float32", "float64"]

    def layout(self) -> Iterator[Array]:
        """The weights of the network of each layer."""
        for place, shape in enumerate(self.shapes):
            yield from _zuko_network(f"networks.{place}", shape, self.dtype)

    @property
    def powers(self) -> list[list[int]]:
        """Exponents of each monomial."""
        return [[1], [2]] if len(self.nuisances) == 1 else [[1, 1]]


@register
class ReferenceDeformationEntry(DeformationEntry):
    """See :class:`~zfit_fnf.interop.reference.ReferenceDeformation`."""

    model: ClassVar[str | type] = "interop.reference.ReferenceDeformation"
    response: ClassVar[str] = "interop.reference.ReferenceResponse"
    kind: Literal["reference_deformation"] = "reference_deformation"  # type: ignore[assignment]
    centre: dict[Text, float]
    scale: dict[Text, float]
    quadratic_damping: float
    cross_term_damping: float


def _zuko_network(path: str, shape: NetworkShape, dtype: str) -> Iterator[Array]:
    """The arrays of a :class:`~zfit_fnf.interop.zuko_density.ZukoNetwork`."""
    return linear_maps(path, shape.linears, {"float32": "F32", "float64": "F64"}[dtype])


def _count_parts(description: Any) -> int:
    """How many distributions and bijectors a description has, at any depth."""
    if isinstance(description, dict):
        return ("class" in description) + sum(map(_count_parts, description.values()))
    return sum(map(_count_parts, description)) if isinstance(description, list) else 0

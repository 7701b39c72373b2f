"""Storage entries of published factorizable flows; imports nothing that computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..common.checks import LARGEST
from ..densities.entries import DeformationEntry
from ..storage.registry import register
from ..storage.schema import Array, Count, Entry, Text
from .zuko_architecture import NetworkShape
from .zuko_entry import network_arrays

__all__ = ["ReferenceDeformationEntry", "ReferenceResponseEntry"]


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
            yield from network_arrays(f"networks.{place}", shape, self.dtype)

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

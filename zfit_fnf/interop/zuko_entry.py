"""Storage entry of flows of zuko; imports nothing that computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ..common.checks import LARGEST
from ..storage.registry import register
from ..storage.schema import Array, Count, Entry, linear_maps
from .zuko_architecture import NetworkShape, ZukoLayer

__all__ = ["ZukoEntry", "network_arrays"]


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
            yield from network_arrays(f"layers.{place}.network", layer.network, self.dtype)

    def __str__(self) -> str:
        return f"zuko {self.layers[0].law}, {len(self.layers)} transform(s)"


def network_arrays(path: str, shape: NetworkShape, dtype: str) -> Iterator[Array]:
    """The arrays of a :class:`~zfit_fnf.interop.zuko_density.ZukoNetwork`."""
    return linear_maps(path, shape.linears, {"float32": "F32", "float64": "F64"}[dtype])

"""Storage entry of densities given as functions; imports nothing that computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..common.checks import LARGEST
from ..storage.registry import class_of, kind_of, register
from ..storage.schema import Count, Entry, Parts, Text

if TYPE_CHECKING:
    from ..densities.model import Model

__all__ = ["FunctionEntry"]


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

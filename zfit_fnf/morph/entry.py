"""Morphs in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..common.checks import LARGEST
from ..storage.registry import class_of, register
from ..storage.schema import Array, Entry, Names, Parts, Reference, Text, check_finite
from .columns import LEVELS

__all__ = ["MorphEntry"]


@register
class MorphEntry(Entry):
    """See :class:`~zfit_fnf.morph.Morph`."""

    model: ClassVar[str | type] = "morph.model.Morph"
    kind: Literal["morph"] = "morph"
    flow: Reference
    obs: Names
    atoms: dict[Text, Annotated[list[float], Field(min_length=1, max_length=1000)]]
    integers: Names
    replicas: Annotated[list[Reference], Field(max_length=LARGEST)]

    def references(self) -> list[int]:
        """The flow, and those of the replicas."""
        return [self.flow, *self.replicas]

    def layout(self) -> Iterator[Array]:
        """Quantiles of each observable with atoms."""
        for index, _ in enumerate(name for name in self.obs if name in self.atoms):
            yield Array(f"quantiles.{index}", (LEVELS,), "F64", f"quantiles.{index}")

    def new(self, parts: Parts) -> Any:
        """The morph, with its flows."""
        flows = [parts.model(index, "densities.flows.Flow") for index in self.references()]
        own = {"flow": flows[0], "replicas": flows[1:]}
        return class_of(self.model)(**{**self.arguments(), **own})

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse quantiles that are not finite."""
        for one in model.quantiles:
            check_finite("a quantile", np.asarray(one))

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """Observables and what is special about them."""
        del entries
        special = [*self.atoms, *self.integers]
        return [f"morph of {', '.join(self.obs)}" + (f", with point masses in {', '.join(special)}" if special else "")]

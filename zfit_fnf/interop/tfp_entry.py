"""Storage entry of distributions of TensorFlow Probability; imports nothing that computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..common.checks import LARGEST
from ..storage.registry import register
from ..storage.schema import Entry, Parts, Tensor

if TYPE_CHECKING:
    from ..densities.model import Model

__all__ = ["DistributionEntry"]


_MOST_PARTS = 100  # distributions and bijectors that a distribution is made of


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
        from .tfp import describe

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
        from .tfp import DistributionDensity, construct

        try:
            return DistributionDensity(construct(self.distribution, parts.arrays), self.n_dim)
        except Exception as error:  # whatever the library says of parameters that do not fit
            raise ValueError(f"its distribution cannot be made: {error}") from error

    def __str__(self) -> str:
        return str(self.distribution.get("class"))


def _count_parts(description: Any) -> int:
    """How many distributions and bijectors a description has, at any depth."""
    if isinstance(description, dict):
        return ("class" in description) + sum(map(_count_parts, description.values()))
    return sum(map(_count_parts, description)) if isinstance(description, list) else 0

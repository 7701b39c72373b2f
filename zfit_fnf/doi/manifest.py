"""What the JSON file beside published events says about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, model_validator

from ..storage.schema import Names, Schema, Text

__all__ = ["PROCESS", "WEIGHT", "Column", "Manifest", "Table", "Varied"]

PROCESS, WEIGHT = "process", "weight"
"""Columns that every file of events has."""

_LARGEST = 2**26  # bytes
_HOW = (
    "A number is computed from the columns and the weight of one entry of 'variations' at a time: t of the nominal one, t_b of "
    "replica b of B, t_k- and t_k+ of eigenvector k down and up. Columns that an entry does not name are the same in all. "
    "Covariance of numbers t_i, t_j by source: statistical = sum_b (t_bi - mean_i)(t_bj - mean_j) / (B - 1); "
    "eigenvector k = (t_k+,i - t_k-,i)(t_k+,j - t_k-,j) / 4, systematic = their sum over k; "
    "simulation, of a sum t_i = sum_e w_e g_ei = sum over processes of sum_e w_e^2 (g_ei - mean_i)(g_ej - mean_j), with the "
    "weighted mean of g in the process. All are independent and add up. Not contained: finite simulation behind the densities, "
    "and that data do not tell apart maps with the same push-forward (distributions are measured, not displacements of events)."
)


class Column(Schema):
    """A column: whether the map moves it, its unit and its meaning."""

    moved: bool
    unit: Text | None
    definition: str | None


class Varied(Schema):
    """A variation: for each moved observable the column that has it, and the column of the weights."""

    name: Text
    kind: Literal["nominal", "replica", "down", "up"]
    columns: dict[Text, Text]
    weight: Text


class Table(Schema):
    """The file of the events."""

    file: Text
    rows: Annotated[int, Field(ge=1)]
    columns: Names
    n_bytes: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Eigenvectors(Schema):
    """As of `Eigenvariations`: eigenvectors are columns of the directions."""

    names: Names
    values: list[float]
    deviations: list[float]
    directions: list[list[float]]


class Manifest(Schema):
    """Everything that is to be known about published events."""

    type: Literal["zfit_fnf published distribution"]
    format: Literal[1]
    how_to_use: str
    written_by: dict[Text, Text]
    valid: bool
    problems: list[str]
    processes: Names
    normalisation: Literal["expected number of events", "number of events of the data"]
    parameters: dict[Text, float]
    covariance: list[list[float]]
    eigenvariations: Eigenvectors
    columns: dict[Text, Column]
    variations: list[Varied]
    events: Table

    @classmethod
    def of(cls, *, extended: bool, problems: list[str], **fields: Any) -> Manifest:
        """Of what there is to say.

        Args:
            extended: Whether the model has a yield.
            problems: Why the result is not valid; none if it is.
            fields: The other fields.
        """
        counted: Any = "expected number of events" if extended else "number of events of the data"
        return cls(
            type="zfit_fnf published distribution",
            format=1,
            how_to_use=_HOW,
            valid=not problems,
            problems=problems,
            normalisation=counted,
            **{**fields, "eigenvariations": Eigenvectors(**fields["eigenvariations"])},
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """From a file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or something else.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no published distribution at {str(path.parent)!r}: it has no {path.name!r}"
            )
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{str(path)!r} has more than {_LARGEST} bytes")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            own = content.pop("sha256")
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"{str(path)!r} is not the manifest of a published distribution: {error!r}") from None
        if own != _sha256(content):
            raise ValueError(f"{str(path)!r} is damaged, or was edited: its checksum is another one")
        try:
            return cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            raise ValueError(f"{str(path)!r} is not a manifest that this version reads: {error!s:.1000}") from None

    def to_json(self) -> str:
        """The text of the file."""
        content = self.model_dump(mode="json")
        return json.dumps({**content, "sha256": _sha256(content)}, indent=1, allow_nan=False) + "\n"

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        """Everything has the shape that it must have.

        Raises:
            ValueError: If it has not.
        """
        eigen, n = self.eigenvariations, len(self.parameters)
        shapes = [np.shape(self.covariance), np.shape(eigen.directions)]
        if shapes != [(n, n)] * 2 or not len(eigen.values) == len(eigen.deviations) == len(eigen.names) == n:
            raise ValueError(f"the covariance and its eigenvectors are not of {n} parameters")
        if set(eigen.names) != set(self.parameters):
            raise ValueError("the eigenvectors are of other parameters")
        if self.kinds() != ["nominal", *["replica"] * self.kinds().count("replica"), *["down", "up"] * n]:
            raise ValueError("the variations are not the nominal one, replicas, and two of each eigenvector")
        moved = {name for name, column in self.columns.items() if column.moved}
        named = {PROCESS, *self.columns}
        for one in self.variations:
            if set(one.columns) != moved:
                raise ValueError(f"the variation {one.name!r} is of other columns than those that are moved")
            named |= {one.weight, *one.columns.values()}
        if named != set(self.events.columns) or Path(self.events.file).name != self.events.file:
            raise ValueError("the file of the events has other columns")
        return self

    def kinds(self) -> list[str]:
        """Kind of each variation."""
        return [one.kind for one in self.variations]

    def of_kind(self, kind: str) -> Sequence[Varied]:
        """Variations of a kind."""
        return [one for one in self.variations if one.kind == kind]


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

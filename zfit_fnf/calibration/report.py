"""What a calibration found: where the error of each parameter comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["CalibrationReport"]

_OTHER = (
    "the likelihood has other data since: values and errors above are those of the data that it was calibrated with, not of "
    "the present ones. Fit it, or calibrate that of the present data"
)


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """Errors of a calibrated likelihood by what they come from; prints as a table.

    Attributes:
        table: One row for each parameter. ``value`` and ``error`` are the calibrated ones, ``naive_error`` that of the
            learned likelihood. ``statistical``, ``constraints`` and ``simulation`` are the parts of ``error`` that come from the
            data, from auxiliary measurements and from the finite simulation: their squares add up. ``bias`` is what was removed
            from the learned likelihood's value, in units of ``naive_error``, ``loss`` is ``error / naive_error``, and ``doubt``
            by what share of itself ``error`` is uncertain, since finite simulation tells what scores are worth.
        sources: One row for each simulated sample, by ``process`` and ``sample``: its number of ``events``, what they are
            worth (``effective``), and the part of the error of each parameter that comes from it.
        between: How far off the closure may be between the points that were simulated, in errors of the fit in its worst
            direction; by ``process`` and the ``nuisances`` of the monomials that its polynomial lacks. An order of magnitude,
            and no part of the errors.
        n_directions: Number of nuisances ``mcstat_0``, ... that stand for the finite simulation.
        n_left_out: Number of directions that are left out: each less than 0.1 % of the variance of any parameter.
        n_iterations: How often the scores were taken anew.
        notes: What to know before the result is believed, in sentences.
    """

    table: pd.DataFrame
    sources: pd.DataFrame
    between: pd.Series[float]
    n_directions: int
    n_left_out: int
    n_iterations: int
    notes: tuple[str, ...] = ()

    def of_other_data(self) -> CalibrationReport:
        """The same, as the report of a likelihood that was given other data since: it says whose values and errors it has."""
        return self if _OTHER in self.notes else replace(self, notes=(*self.notes, _OTHER))

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        sources = self.sources.reset_index().to_dict(orient="records")
        return {
            "parameters": self.table.to_dict(orient="index"),
            "sources": [{key: _plain(value) for key, value in row.items()} for row in sources],
            "between": [{"process": a, "nuisances": b, "errors": float(x)} for (a, b), x in self.between.items()],
            "n_directions": self.n_directions,
            "n_left_out": self.n_left_out,
            "n_iterations": self.n_iterations,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        def shown(table: pd.DataFrame) -> str:
            return table.to_string(float_format=lambda number: f"{number:.4g}")

        return "\n".join(
            [
                "calibrated errors by what they come from (bias in naive errors, loss is error / naive_error, doubt is of error)",
                shown(self.table),
                f"finite simulation by process and sample: {self.n_directions} directions, {self.n_left_out} left out",
                shown(self.sources),
                *self.notes,
            ]
        )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value

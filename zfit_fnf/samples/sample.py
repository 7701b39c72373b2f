"""The events of a process: columns bound by name, and their weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.files import complete
from . import event_files
from .columns import as_column, check_names
from .cuts import Cut

__all__ = ["WEIGHT_COLUMN", "Sample", "checked_columns", "write_sample"]

WEIGHT_COLUMN = "weight"
"""What the weights are called in a file that `write_sample` writes."""

_SHOWN = 5  # names quoted


@dataclass(frozen=True, eq=False)
class Sample:
    """Events of one process: columns bound by name, and optional event weights.

    A sample holds references, never copies: memory-mapped columns stay on disk until rows are asked for.
    The constructor checks types, shapes and missing entries; `as_sample` checks the numbers of the columns it needs.

    Args:
        columns: One number per event, by name; anything of which `as_column` makes a numeric array.
        weights: One weight per event, may be negative; `None` for unweighted events.
        name: What error messages call this sample; the file name if it was read from a file.

    Raises:
        TypeError: If the columns have no names, or a column is not numeric.
        ValueError: If a column or the weights are not one-dimensional, their lengths differ, or entries are missing.

    Example:
        >>> sample = Sample({"y1": np.array([0.1, 0.4])}, weights=np.array([1.0, 3.0]))
        >>> sample.effective_size
        1.6
    """

    columns: Mapping[str, np.ndarray]
    weights: np.ndarray | None = None
    name: str = "sample"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name= of a Sample is a string; got {self.name!r}")
        if not isinstance(self.columns, (Mapping, pd.DataFrame)):
            raise TypeError(
                f"a Sample is made of a mapping from names to arrays; got {type(self.columns).__name__}. Files are read "
                "by Sample.read, and whatever else holds events by as_sample"
            )
        if isinstance(self.weights, str):
            raise TypeError(f"weights= of a Sample are numbers; as_sample takes the name of a column, {self.weights!r}")
        given = {str(column): values for column, values in self.columns.items()}
        if not given:
            raise ValueError(f"{self.name!r} has no columns")
        if self.weights is not None:
            given["the weights"] = self.weights
        _check_aligned(given, self.name)
        arrays = {column: as_column(values, column, self.name) for column, values in given.items()}
        for column, values in arrays.items():
            if np.ndim(values) != 1:
                raise ValueError(
                    f"column {column!r} of {self.name!r} has shape {np.shape(values)}; expected one number per event "
                    "(does the column appear twice, or hold lists?)"
                )
        lengths = {column: len(values) for column, values in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of {self.name!r} differ in length: {lengths}; expected one row per event")
        object.__setattr__(self, "weights", None if self.weights is None else arrays.pop("the weights"))
        object.__setattr__(self, "columns", arrays)

    def __repr__(self) -> str:
        shown = ", ".join(list(self.columns)[:_SHOWN]) + (", ..." if len(self.columns) > _SHOWN else "")
        weighted = "" if self.weights is None else ", weighted"
        return f"Sample({self.name!r}: {self.n_events} events of {shown}{weighted})"

    @property
    def n_events(self) -> int:
        """Number of events, whatever their weights."""
        return len(next(iter(self.columns.values())))

    @property
    def sum_weights(self) -> float:
        """Sum of the weights; the yield this sample stands for; the number of events if it is unweighted."""
        return float(self.n_events if self.weights is None else np.sum(self.weights, dtype=np.float64))

    @property
    def effective_size(self) -> float:
        """Kish's effective number of events, `(sum w)^2 / sum w^2`."""
        if self.weights is None:
            return float(self.n_events)
        largest = float(np.max(np.abs(self.weights), initial=0.0))
        if not largest:
            return 0.0
        scaled = np.asarray(self.weights, np.float64) / largest  # squares of large weights would overflow
        return float(scaled.sum() ** 2 / np.square(scaled).sum())

    def relative_weights(self, rows: np.ndarray) -> np.ndarray:
        """Weights of some rows, scaled such that those of all events average to one; float64."""
        if self.weights is None:
            return np.ones(len(rows))
        return self.weights[rows] / (self.sum_weights / self.n_events)

    def array(self, names: Sequence[str], rows: slice | np.ndarray | None = None) -> np.ndarray:
        """The named columns side by side, in the order asked for.

        Args:
            names: Columns; an empty sequence gives an array of shape `(n, 0)`.
            rows: A slice or index array; all rows by default.

        Returns:
            float64 array of shape `(n, len(names))`.

        Raises:
            ValueError: If a column is missing.
        """
        check_names(names, self.columns, self.name)
        selection = slice(None) if rows is None else rows
        n_rows = len(next(iter(self.columns.values()))[selection])
        table = np.empty((n_rows, len(names)))
        for position, name in enumerate(names):
            table[:, position] = self.columns[name][selection]
        return table

    def off_the_edges(self, ranges: Mapping[str, tuple[float, float]]) -> Sample:
        """The same events, with values exactly on an edge of a physical range moved inside.

        Rounded to float32, a few values of a bounded quantity (a cosine, the output of a classifier) end on its edge,
        where a density has no value. They are moved by 2^-23 of the width of the range, the precision of float32; of a
        range without end, of the median distance from the edge. Values beyond an edge stay where they are.

        Args:
            ranges: `(low, high)` by column.

        Raises:
            ValueError: If a column is missing.

        Example:
            >>> Sample({"cos": np.array([0.5, 1.0])}).off_the_edges({"cos": (-1, 1)}).columns["cos"].tolist()
            [0.5, 0.9999997615814209]
        """
        check_names(ranges, self.columns, self.name)
        moved = dict(self.columns)
        for column, (low, high) in ranges.items():
            for edge, other in ((low, high), (high, low)):
                on_edge = moved[column] == edge
                if np.isfinite(edge) and on_edge.any():
                    distances = np.abs(np.asarray(moved[column], np.float64)[~on_edge] - edge)
                    width = (
                        abs(other - edge)
                        if np.isfinite(other)
                        else float(np.median(distances))
                        if distances.size
                        else 1.0
                    )
                    inside = edge + np.sign(other - edge) * width * np.finfo(np.float32).eps
                    moved[column] = np.where(on_edge, inside, np.asarray(moved[column], np.float64))
        return Sample(moved, self.weights, self.name)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        tree: str | None = None,
        cut: str | None = None,
    ) -> Sample:
        """Reads events from ROOT (TTree or RNTuple), Parquet or CSV files.

        Args:
            path: A file, a pattern such as `"signal_*.root"`, or a list of them; the suffix decides the format (.root,
                .parquet, .pq, .csv). The events of several files follow one another. `"file.root:tree"` names a tree.
            columns: What to read; by default every column that holds one number per event.
            weights: The column with the event weights.
            tree: Name of the TTree or RNTuple in a ROOT file; needed only if there are several.
            cut: Keep the events that pass a condition such as `"pt > 20 and abs(eta) < 2.4"`; see `Cut`.

        Raises:
            FileNotFoundError: If there is no such file.
            ImportError: If the library that reads the format is missing (`pip install "zfit_fnf[io]"`).
            TypeError: If an argument or a column that was asked for is of a wrong type.
            ValueError: If a suffix is unknown, a file is damaged or named twice, a column is missing or does not hold one
                number per event, the cut is no condition, or `tree` has to be chosen.

        Example:
            >>> nominal = Sample.read("nominal_*.root:events", columns=["y1", "y2"], weights="w", cut="y1 > 0")
        """
        for option, value in {"weights": weights, "tree": tree}.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{option}= of Sample.read is a name; got {value!r}")
        chosen = None if columns is None else checked_columns(columns)
        wanted = None if chosen is None else [*chosen, *([weights] if weights else [])]
        condition = None if cut is None else Cut(cut)
        files = event_files.find(path, tree)
        parts = [event_files.read(source, wanted, own_tree, condition) for source, own_tree in files]
        name = files[0][0].name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        arrays = _joined(parts, [source.name for source, _ in files])
        if weights is not None:
            check_names([weights], arrays, name)
        kept = arrays if chosen is None else {column: arrays[column] for column in chosen}
        return cls(kept, weights=None if weights is None else arrays[weights], name=name)


def write_sample(sample: Sample | pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes events to a ROOT (one TTree called "events"), Parquet or CSV file, chosen by the suffix.

    The file appears under its name only when it is complete. The weights of a `Sample` become the column "weight".

    Args:
        sample: The events.
        path: Where to; an existing file is replaced.

    Raises:
        ImportError: If the library that writes the format is missing (`pip install "zfit_fnf[io]"`).
        TypeError: If the events are neither a `Sample` nor a DataFrame.
        ValueError: If the suffix is unknown, or a column "weight" is in the way of the weights.
    """
    target = Path(path)
    form = event_files.format_of(target)
    frame = _as_frame(sample)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} into")
    with complete(target) as draft:
        event_files.write(frame, draft, form)


def checked_columns(columns: Any) -> list[str]:
    """The names in a list of different columns; anything else is refused."""
    if isinstance(columns, (str, bytes, set, frozenset)) or not isinstance(columns, Iterable):
        raise TypeError(f"columns= is a list of names; got {columns!r}")
    names = list(columns)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"columns= is a list of names; got {wrong[0]!r} in it")
    if len(set(names)) != len(names):
        raise ValueError(f"columns= has to be a list of different names; got {names}")
    return names


def _check_aligned(columns: Mapping[str, Any], name: str) -> None:
    """Columns are bound by position; pandas Series that would be bound differently by their index are refused."""
    series = {column: values.index for column, values in columns.items() if isinstance(values, pd.Series)}
    first = next(iter(series), "")
    if others := [column for column, index in series.items() if not index.equals(series[first])]:
        raise ValueError(
            f"columns {first!r} and {', '.join(map(repr, others))} of {name!r} have different pandas indices: their rows "
            "may be of different events. Take them from one DataFrame, or give arrays (.to_numpy())"
        )


def _joined(parts: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of several files, one after the other."""
    if len(parts) == 1:
        return dict(parts[0])
    for part, name in zip(parts, names, strict=True):
        if different := sorted(set(part) ^ set(parts[0])):
            raise ValueError(
                f"{names[0]!r} and {name!r} do not have the same columns: {different}; name those with columns="
            )
    return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}


def _as_frame(sample: Sample | pd.DataFrame) -> pd.DataFrame:
    if isinstance(sample, pd.DataFrame):
        return sample
    if not isinstance(sample, Sample):
        raise TypeError(f"expected a Sample or a DataFrame to write; got {type(sample).__name__}")
    columns = dict(sample.columns)
    if sample.weights is not None:
        if columns.get(WEIGHT_COLUMN, sample.weights) is not sample.weights:
            raise ValueError(
                f"{sample.name!r} has both weights and another column {WEIGHT_COLUMN!r}; rename the column"
            )
        columns[WEIGHT_COLUMN] = sample.weights
    return pd.DataFrame(columns)

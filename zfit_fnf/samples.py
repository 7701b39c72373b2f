"""Events with named columns: the one form in which data enter, from memory or from files, checked at the door."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .files import complete

FORMATS = {".root": "ROOT", ".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV"}
WEIGHT_COLUMN = "weight"
TREE_NAME = "events"

_SHOWN = 5  # rows or names quoted in an error message
_CHECKED_ROWS = 100_000  # enough to see a point mass of 1 %, cheap on any sample
_POINT_MASS = 0.01
_POINT_MASS_MIN_EVENTS = 1000
_FEW_INTEGERS = 100
_ONE_NUMBER_PER_EVENT = re.compile(
    r"(std::)?(double|float|bool|u?int(8|16|32|64)_t|(unsigned )?(int|short|long)"
    r"|Double(32)?_t|Float(16)?_t|Bool_t|U?(Int|Short|Long64)_t)"
)


@dataclass(frozen=True, eq=False)
class Sample:
    """Events of one process: columns bound by name, and optional event weights.

    A sample holds references, never copies: memory-mapped columns stay on disk until rows are asked for.
    The constructor only checks shapes; `as_sample` checks everything else (finite numbers, usable weights).

    Args:
        columns: One-dimensional numeric arrays of the same length, by name.
        weights: One weight per event, may be negative; `None` for unweighted events.
        name: What error messages call this sample; the file name if it was read from a file.

    Raises:
        ValueError: If a column or the weights are not one-dimensional or their lengths differ.

    Example:
        >>> sample = Sample({"y1": np.array([0.1, 0.4])}, weights=np.array([1.0, 3.0]))
        >>> sample.effective_size
        1.6
    """

    columns: Mapping[str, np.ndarray]
    weights: np.ndarray | None = None
    name: str = "sample"

    def __post_init__(self) -> None:
        arrays = dict(self.columns)
        if not arrays:
            raise ValueError(f"{self.name!r} has no columns")
        if self.weights is not None:
            arrays["the weights"] = self.weights
        for column, values in arrays.items():
            if np.ndim(values) != 1:
                raise ValueError(
                    f"column {column!r} of {self.name!r} has shape {np.shape(values)}; expected one number per event "
                    "(does the column appear twice, or hold lists?)"
                )
        lengths = {column: len(values) for column, values in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of {self.name!r} differ in length: {lengths}; expected one row per event")

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
        """Sum of the weights: the yield this sample stands for; the number of events if it is unweighted."""
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
        return self.weights[rows] * (self.n_events / self.sum_weights)

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
        _check_names(names, self.columns, self.name)
        selection = slice(None) if rows is None else rows
        n_rows = len(next(iter(self.columns.values()))[selection])
        table = np.empty((n_rows, len(names)))
        for position, name in enumerate(names):
            table[:, position] = self.columns[name][selection]
        return table

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        tree: str | None = None,
    ) -> Sample:
        """Reads events from a ROOT (TTree or RNTuple), Parquet or CSV file.

        Args:
            path: The file; its suffix decides the format (.root, .parquet, .pq, .csv).
            columns: What to read; by default every column that holds one number per event.
            weights: The column with the event weights.
            tree: Name of the TTree or RNTuple in a ROOT file; needed only if there are several.

        Raises:
            FileNotFoundError: If there is no such file.
            ImportError: If the library that reads the format is missing (`pip install "zfit_fnf[io]"`).
            ValueError: If the suffix is unknown, the file is damaged, a column is missing or does not hold one
                number per event, or `tree` has to be chosen.

        Example:
            >>> nominal = Sample.read("nominal.root", columns=["y1", "y2"], weights="w")
        """
        source = Path(path)
        form = _format(source)
        if not source.is_file():
            raise FileNotFoundError(f"there is no file {str(source)!r}")
        if tree is not None and form != "ROOT":
            raise ValueError(f"tree={tree!r} was given, but {source.name!r} is a {form} file, which has no trees")
        wanted = None if columns is None else list(dict.fromkeys([*columns, *([weights] if weights else [])]))
        if form == "ROOT":
            arrays = _read_root(source, wanted, tree)
        else:
            arrays = _numeric(_read_frame(source, form, wanted), wanted, source.name)
        if weights is not None:
            _check_names([weights], arrays, source.name)
        kept = arrays if columns is None else {name: arrays[name] for name in columns}
        return cls(kept, weights=None if weights is None else arrays[weights], name=source.name)


@dataclass(frozen=True, eq=False)
class Variation:
    """Simulated events of a process with one or more nuisance parameters moved away from zero.

    Args:
        events: Anything `as_sample` takes.
        at: The nuisance point in standard deviations, e.g. `{"jes": +1}`; a nuisance that is not named is at zero.
            Several entries make a joint point, from which interactions are learned.
        name: What messages call it; by default the point, e.g. `"jes=+1, jer=-1"`.

    Raises:
        TypeError: If `at` is not a mapping from names to numbers.
        ValueError: If `at` is empty or one of its values is zero or not finite.

    Example:
        >>> Variation({"y1": np.array([0.1, 0.4])}, at={"jes": +1, "jer": +1}).is_joint
        True
    """

    events: Any
    at: Mapping[str, float]
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.at, Mapping) or not all(isinstance(name, str) for name in self.at):
            raise TypeError(f"at= of a variation maps nuisance names to numbers, e.g. {{'jes': +1}}; got {self.at!r}")
        try:
            point = {name: float(value) for name, value in self.at.items()}
        except (TypeError, ValueError):
            raise TypeError(f"at= of a variation needs a number for every nuisance; got {dict(self.at)!r}") from None
        if not point or not any(point.values()):
            raise ValueError(f"a variation at the origin is the nominal sample: at={point} moves no nuisance")
        for nuisance, value in point.items():
            if value == 0 or not np.isfinite(value):
                raise ValueError(f"at= of a variation has {nuisance!r} at {value}; name only the nuisances that move")
        object.__setattr__(self, "at", point)
        if self.name is None:
            object.__setattr__(self, "name", ", ".join(f"{nuisance}={value:+g}" for nuisance, value in point.items()))

    @property
    def is_joint(self) -> bool:
        """Whether more than one nuisance is moved."""
        return len(self.at) > 1


def as_sample(
    data: Any,
    columns: Sequence[str],
    *,
    weights: str | Any | None = None,
    name: str | None = None,
) -> Sample:
    """Makes a checked `Sample` of whatever a user has.

    Args:
        data: A pandas DataFrame, a dict of arrays, a `zfit.Data`, a `Sample` or the path of a file.
        columns: The columns needed; others are ignored.
        weights: Name of a column, or one weight per event; by default the data's own (`zfit.Data`, `Sample`).
        name: What error messages call the data; by default the name that it carries.

    Returns:
        A sample with exactly `columns`: one finite number per event, and finite weights. Observed data without events
        are data; what is learned from has to pass `check_trainable` as well.

    Raises:
        TypeError: If `data` is nothing of the above, or a column is not numeric.
        ValueError: If a column is missing, lengths differ, or numbers are NaN or infinite.

    Example:
        >>> as_sample(pd.DataFrame({"y1": [0.1, 0.4], "w": [1.0, -0.5]}), ["y1"], weights="w").sum_weights
        0.5
    """
    if isinstance(columns, str) or len(set(columns)) != len(columns):
        raise ValueError(f"columns must be a list of different names; got {columns!r}")
    found, own_weights, own_name = _arrays_of(data, columns, weights)
    name = name or own_name
    if isinstance(weights, str):
        _check_names([weights], found, name)
        own_weights = _one_column(found[weights], weights, name)
    elif weights is not None:
        own_weights = _one_column(weights, "weights", name)
    _check_names(columns, found, name)
    sample = Sample({c: _one_column(found[c], c, name) for c in columns}, weights=own_weights, name=name)
    _check_values(sample)
    return sample


def check_trainable(sample: Sample) -> None:
    """Refuses events from which nothing can be learned: none at all, or a sum of weights that is not positive.

    Args:
        sample: Simulated events, or the data that a map is fitted to. Observed data need no such check.

    Raises:
        ValueError: Says which of the two it is.
    """
    if sample.n_events == 0:
        raise ValueError(f"{sample.name!r} has no events to learn from")
    if not (sample.sum_weights > 0 and sample.effective_size > 0.5):  # less than one event: rounding, or cancellation
        raise ValueError(
            f"the weights of {sample.name!r} sum to {sample.sum_weights:g}; expected a positive sum "
            f"(single weights may be negative), worth {sample.effective_size:.2g} events. Is the weight column the right "
            "one, and are its signs?"
        )


def check_inside(sample: Sample, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuses events that are not strictly inside the physical ranges: a density has no value there.

    Args:
        sample: The events.
        ranges: `(low, high)` by column; infinite where a column is not bounded.

    Raises:
        ValueError: Names the first column with such events, counts and shows them.
    """
    for column, (low, high) in ranges.items():
        _check_names([column], sample.columns, sample.name)
        values = sample.columns[column]
        rows = np.flatnonzero(~((values > low) & (values < high)))
        if rows.size:
            raise ValueError(
                f"{rows.size} of {sample.n_events} events of {sample.name!r} are not inside the range "
                f"{low:g} < {column} < {high:g}: {_show(values, rows)}. Cut these events, or train with a wider range "
                f"(ranges={{{column!r}: (low, high)}})"
            )


def check_continuous(sample: Sample, names: Iterable[str]) -> None:
    """Refuses observables with point masses: a density cannot describe them.

    Looks at up to 100 000 events, spread evenly. A column is refused if all its values are integers and few of them
    differ, if it is constant, or if more than 1 % of at least 1000 events share one value.

    Args:
        sample: The events.
        names: The observables to look at; conditions may be discrete and need no check.

    Raises:
        ValueError: Names the column and says what to do.
    """
    step = max(1, -(-sample.n_events // _CHECKED_ROWS))
    for name in names:
        _check_names([name], sample.columns, sample.name)
        values, counts = np.unique(sample.columns[name][::step], return_counts=True)
        finding = _point_mass(values, counts)
        if finding:
            raise ValueError(
                f"observable {name!r} of {sample.name!r} {finding}: a density cannot describe it. Pass it in cond=, or "
                "split the sample into channels by its value; if it is a spike such as an overflow, cut those events"
            )


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
    form = _format(target)
    frame = _as_frame(sample)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} into")
    with complete(target) as draft:
        _write_frame(frame, draft, form)


def _arrays_of(data: Any, columns: Sequence[str], weights: Any) -> tuple[Mapping[str, Any], np.ndarray | None, str]:
    """The columns of any supported input (at least those needed), its own weights and its name."""
    if isinstance(data, (str, os.PathLike)):
        data = Sample.read(data, columns=columns, weights=weights if isinstance(weights, str) else None)
        if isinstance(weights, str):
            return {**data.columns, weights: data.weights}, None, data.name
    if isinstance(data, Sample):
        return data.columns, data.weights, data.name
    if isinstance(data, pd.DataFrame):
        return {name: data[name] for name in data.columns}, None, "data"
    if isinstance(data, Mapping):
        return data, None, "data"
    if hasattr(data, "obs") and callable(getattr(data, "value", None)):
        values = np.asarray(data.value())
        own = getattr(data, "weights", None)
        table = {name: values[:, position] for position, name in enumerate(data.obs)}
        return table, None if own is None else np.asarray(own), getattr(data, "name", None) or "data"
    raise TypeError(
        "expected a DataFrame, a dict of arrays, a zfit.Data, a Sample or the path of a file; "
        f"got {type(data).__name__}"
    )


def _one_column(values: Any, column: str, name: str) -> np.ndarray:
    """A column as a numeric array; missing entries of nullable pandas columns become NaN."""
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.api.extensions.ExtensionDtype):
        numeric = pd.api.types.is_numeric_dtype(values.dtype)
        values = values.to_numpy(dtype=np.float64 if numeric else object, na_value=np.nan)
    try:
        array = np.asanyarray(values)
    except ValueError:
        array = np.empty(0, dtype=object)  # lists of different lengths
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"column {column!r} of {name!r} is not numeric (dtype {array.dtype}); expected one number per event"
        )
    return array


def _check_names(names: Iterable[str], there: Iterable[str], sample: str) -> None:
    available = list(there)
    missing = [name for name in names if name not in available]
    if missing:
        shown = ", ".join(map(repr, available[:50])) + (", ..." if len(available) > 50 else "")
        raise ValueError(f"{sample!r} has no column {', '.join(map(repr, missing))}; its columns are {shown}")


def _check_values(sample: Sample) -> None:
    for column, values in sample.columns.items():
        _check_finite(values, f"column {column!r}", sample)
    if sample.weights is not None:
        _check_finite(sample.weights, "the weights", sample)


def _check_finite(values: np.ndarray, what: str, sample: Sample) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise ValueError(
            f"{rows.size} of {sample.n_events} events of {sample.name!r} are NaN or infinite in {what}: "
            f"{_show(values, rows)}. Remove these events or repair the column"
        )


def _show(values: np.ndarray, rows: np.ndarray) -> str:
    shown = ", ".join(f"row {row}: {values[row]:g}" for row in rows[:_SHOWN])
    return shown + (", ..." if rows.size > _SHOWN else "")


def _point_mass(values: np.ndarray, counts: np.ndarray) -> str | None:
    """What is wrong with a column, given its distinct values and how often each occurs; `None` if nothing is."""
    n_events = counts.sum()
    if values.size == 1 and n_events > 1:
        return f"is {values[0]:g} in every event"
    few = values.size <= min(_FEW_INTEGERS, n_events // 2)
    if few and np.all(values == np.floor(values)):
        return f"takes only {values.size} integer values ({values[0]:g} to {values[-1]:g})"
    top = np.argmax(counts)
    if n_events >= _POINT_MASS_MIN_EVENTS and counts[top] > _POINT_MASS * n_events:
        return f"is exactly {values[top]:g} in {counts[top] / n_events:.1%} of the events"
    return None


def _format(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path.name!r} has an unknown suffix {path.suffix!r}; supported are {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{package} is needed for this file format: pip install "zfit_fnf[io]"') from error


@contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Turns whatever a file library raises on a damaged file into one error that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"cannot read {str(path)!r} as a {form} file: {error}") from error


def _read_frame(path: Path, form: str, columns: list[str] | None) -> pd.DataFrame:
    parquet = _library("pyarrow.parquet") if form == "Parquet" else None
    with _reading(path, form):
        there = parquet.read_schema(path).names if parquet else list(pd.read_csv(path, nrows=0).columns)
    _check_names(columns or [], there, path.name)
    with _reading(path, form):
        return pd.read_parquet(path, columns=columns) if parquet else pd.read_csv(path, usecols=columns)


def _numeric(frame: pd.DataFrame, wanted: list[str] | None, name: str) -> dict[str, np.ndarray]:
    """The numeric columns of a table; one that was asked for by name and is not numeric is an error."""
    chosen = wanted or [column for column in frame.columns if pd.api.types.is_numeric_dtype(frame[column].dtype)]
    if not chosen:
        raise ValueError(f"{name!r} has no numeric column; its columns are {list(frame.columns)}")
    return {column: _one_column(frame[column], column, name) for column in chosen}


def _read_root(path: Path, columns: list[str] | None, tree: str | None) -> dict[str, np.ndarray]:
    uproot = _library("uproot")
    with _reading(path, "ROOT"):
        file = uproot.open(path)
    with file:
        events = file[_choose_tree(file.classnames(cycle=False), tree, path.name)]
        branches = events.keys()
        if columns is None:
            columns = [name for name in branches if _ONE_NUMBER_PER_EVENT.fullmatch(events[name].typename)]
            if not columns:
                raise ValueError(f"{path.name!r} has no branch with one number per event; its branches are {branches}")
        _check_names(columns, branches, path.name)
        return {name: _branch(events[name], name, path.name) for name in columns}


def _choose_tree(classes: Mapping[str, str], tree: str | None, name: str) -> str:
    trees = [key for key, kind in classes.items() if kind in ("TTree", "TNtuple") or kind.endswith("RNTuple")]
    if tree is not None:
        if tree not in trees:
            raise ValueError(f"{name!r} has no tree {tree!r}; its trees are {trees}")
        return tree
    if len(trees) != 1:
        raise ValueError(f"{name!r} has {len(trees)} trees, choose one with Sample.read(..., tree=): {trees}")
    return trees[0]


def _branch(branch: Any, column: str, name: str) -> np.ndarray:
    if not _ONE_NUMBER_PER_EVENT.fullmatch(branch.typename):
        raise ValueError(
            f"branch {column!r} of {name!r} does not hold one number per event (its type is {branch.typename}). "
            "Flatten it first, e.g. write the leading entry of a jagged branch as a branch of its own"
        )
    return branch.array(library="np")


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


def _write_frame(frame: pd.DataFrame, path: Path, form: str) -> None:
    if form == "CSV":
        frame.to_csv(path, index=False)
    elif form == "Parquet":
        _library("pyarrow")
        frame.to_parquet(path, index=False)
    else:
        arrays = {str(name): _one_column(frame[name], str(name), "the events") for name in frame.columns}
        with _library("uproot").recreate(path) as file:
            file.mktree(TREE_NAME, {name: values.dtype for name, values in arrays.items()})
            file[TREE_NAME].extend(arrays)

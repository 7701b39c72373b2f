"""Tables of events in ROOT, Parquet and CSV files: whatever a damaged or odd file does is one error that names it."""

from __future__ import annotations

import csv
import glob
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.optional import require
from .columns import as_column, check_names
from .cuts import Cut

__all__ = ["FORMATS", "TREE_NAME", "Arrays", "find", "format_of", "read", "write"]

FORMATS = {".root": "ROOT", ".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV"}
TREE_NAME = "events"

_TREE_IN_PATH = re.compile(r"(?P<path>.*\.root):(?P<tree>.+)", re.IGNORECASE | re.DOTALL)
_ONE_NUMBER_PER_EVENT = re.compile(
    r"(std::)?(double|float|bool|u?int(8|16|32|64)_t|(unsigned )?(int|short|long)"
    r"|Double(32)?_t|Float(16)?_t|Bool_t|U?(Int|Short|Long64)_t)"
)

Arrays = dict[str, np.ndarray]


def find(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], tree: str | None
) -> list[tuple[Path, str | None]]:
    """The files, each with the tree to read, that paths, patterns and `"file.root:tree"` name.

    Raises:
        TypeError: If something else than paths is given.
        FileNotFoundError: If a file is not there, or nothing matches a pattern.
        ValueError: If a suffix is unknown, or trees are named twice or of files that have none.
    """
    given: list[Any] = list(paths) if isinstance(paths, (list, tuple)) else [paths]
    if not given or not all(isinstance(path, (str, os.PathLike)) for path in given):
        raise TypeError(
            f"expected the path of a file, a pattern such as 'signal_*.root', or a list of them; got {paths!r}"
        )
    found = []
    for path in given:
        named = None if Path(path).is_file() else _TREE_IN_PATH.fullmatch(os.fspath(path))
        if named and tree is not None and named["tree"] != tree:
            raise ValueError(f"{os.fspath(path)!r} names the tree {named['tree']!r}, and tree= another, {tree!r}")
        own_tree = named["tree"] if named else tree
        found += [(source, own_tree) for source in _matching(named["path"] if named else os.fspath(path))]
    for source, own_tree in found:
        if own_tree is not None and format_of(source) != "ROOT":
            raise ValueError(
                f"tree={own_tree!r} was given, but {source.name!r} is a {format_of(source)} file without trees"
            )
    if repeated := sorted({str(source) for source, _ in found if [s for s, _ in found].count(source) > 1}):
        raise ValueError(f"files {repeated} are named more than once: their events would count twice")
    return found


def read(source: Path, columns: Sequence[str] | None, tree: str | None = None, cut: Cut | None = None) -> Arrays:
    """Columns of one file, of the events that pass a cut; by default all columns of one number per event.

    Raises:
        ImportError: If the library that reads the format is missing.
        TypeError: If a column that was asked for is not numeric.
        ValueError: If the file is damaged, or a column, tree or event is not as it has to be.
    """
    wanted = None if columns is None else list(dict.fromkeys([*columns, *(cut.names if cut else ())]))
    form = format_of(source)
    if form == "ROOT":
        arrays = _read_root(source, wanted, tree)
    else:
        arrays = (_read_csv if form == "CSV" else _read_parquet)(source, wanted)
    if cut is not None:
        check_names(cut.names, arrays, source.name)
        passed = cut(arrays)
        arrays = {name: values[passed] for name, values in arrays.items()}
    return arrays if columns is None else {name: arrays[name] for name in dict.fromkeys(columns)}


def write(columns: Mapping[str, Any], path: Path, form: str) -> None:
    """Writes columns to a file of a format."""
    if form == "CSV":
        pd.DataFrame(columns).to_csv(path, index=False)
    elif form == "Parquet":
        require("pyarrow", extra="io")
        pd.DataFrame(columns).to_parquet(path, index=False, write_page_checksum=True)
    else:
        arrays = {str(name): as_column(values, str(name), "the events") for name, values in columns.items()}
        with require("uproot", extra="io").recreate(path) as file:
            file.mktree(TREE_NAME, {name: values.dtype for name, values in arrays.items()})
            file[TREE_NAME].extend(arrays)


def format_of(path: Path) -> str:
    """The format that belongs to the suffix of a file.

    Raises:
        ValueError: If the suffix is unknown.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path.name!r} has an unknown suffix {path.suffix!r}; supported are {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _matching(path: str) -> list[Path]:
    """The one file of this name, or those that match it as a pattern, in alphabetical order."""
    source = Path(path)
    pattern = any(letter in path for letter in "*?[") and not source.is_file()
    found = [Path(match) for match in sorted(glob.glob(path, recursive=True))] if pattern else [source]
    for file in found or [source]:
        format_of(file)
        if not file.is_file():
            raise FileNotFoundError(f"no file matches {path!r}" if pattern else f"there is no file {path!r}")
    return found


@contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Turns whatever a file library raises on a damaged file into one error that names the file."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except (Exception, zlib.error) as error:
        raise ValueError(f"cannot read {str(path)!r} as a {form} file: {str(error) or type(error).__name__}") from error


# --- ROOT --------------------------------------------------------------------------------------------------------------


def _read_root(path: Path, columns: list[str] | None, tree: str | None) -> Arrays:
    uproot = require("uproot", extra="io")
    with _reading(path, "ROOT"):
        file = uproot.open(path)
    with file:
        with _reading(path, "ROOT"):
            classes = file.classnames(cycle=False)
        chosen = _choose_tree(classes, tree, path.name)
        with _reading(path, "ROOT"):
            events = file[chosen]
            types = {name: events[name].typename for name in events.keys()}  # noqa: SIM118 (not a mapping)
        if columns is None:
            columns = [name for name, kind in types.items() if _ONE_NUMBER_PER_EVENT.fullmatch(kind)]
            if not columns:
                raise ValueError(
                    f"{path.name!r} has no branch with one number per event; its branches are {list(types)}"
                )
        check_names(columns, types, path.name)
        for column in columns:
            if not _ONE_NUMBER_PER_EVENT.fullmatch(types[column]):
                raise ValueError(
                    f"branch {column!r} of {path.name!r} does not hold one number per event (its type is "
                    f"{types[column]}). Flatten it first, e.g. write the leading entry of a jagged branch as a branch of its own"
                )
        with _reading(path, "ROOT"):
            arrays = {name: np.asarray(events[name].array(library="np")) for name in columns}
            if wrong := [name for name, values in arrays.items() if values.shape != (events.num_entries,)]:
                raise ValueError(f"branches {wrong} do not have the {events.num_entries} entries of their tree")
            return arrays


def _choose_tree(classes: Mapping[str, str], tree: str | None, name: str) -> str:
    trees = [key for key, kind in classes.items() if kind in ("TTree", "TNtuple") or kind.endswith("RNTuple")]
    if tree is not None:
        if tree not in trees:
            raise ValueError(f"{name!r} has no tree {tree!r}; its trees are {trees}")
        return tree
    if len(trees) != 1:
        raise ValueError(f"{name!r} has {len(trees)} trees, choose one with Sample.read(..., tree=): {trees}")
    return trees[0]


# --- Parquet -----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, columns: list[str] | None) -> Arrays:
    """Without pandas, which would make an index of some columns."""
    parquet, types = require("pyarrow.parquet", extra="io"), require("pyarrow.types", extra="io")
    with _reading(path, "Parquet"), parquet.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        _check_header(schema.names, path.name)
        wanted = columns
        if wanted is None:
            numeric = (types.is_integer, types.is_floating, types.is_boolean)
            wanted = [field.name for field in schema if any(kind(field.type) for kind in numeric)]
        table = file.read(columns=[name for name in wanted if name in schema.names])
    check_names(wanted, schema.names, path.name)
    if not wanted:
        raise ValueError(f"{path.name!r} has no numeric column; its columns are {schema.names}")
    arrays = {name: table.column(name).to_numpy() for name in wanted}
    kept = [name for name in wanted if columns or arrays[name].dtype != object]  # booleans with nulls are objects
    return {name: as_column(arrays[name], name, path.name) for name in kept}


# --- CSV ---------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, columns: list[str] | None) -> Arrays:
    with _reading(path, "CSV"):
        header = _csv_header(path)
        _check_header(header, path.name)
        _check_rows(path, len(header))
    check_names(columns or [], header, path.name)
    with _reading(path, "CSV"):
        frame = pd.read_csv(path, header=0, names=header, usecols=columns, index_col=False, skipinitialspace=True)
    if not len(frame):
        frame = frame.astype(float)
    chosen = columns or [name for name in header if pd.api.types.is_numeric_dtype(frame[name].dtype)]
    if not chosen:
        raise ValueError(f"{path.name!r} has no numeric column; its columns are {header}")
    return {name: as_column(frame[name], name, path.name) for name in chosen}


def _csv_header(path: Path) -> list[str]:
    with _csv_rows(path) as rows:
        first = next((row for row in rows if row), None)
    if first is None:
        raise ValueError("it is empty")
    header = [name.strip() or f"Unnamed: {position}" for position, name in enumerate(first)]
    if header[0].startswith("#"):
        raise ValueError(f"it begins with a comment, {first[0]!r}; the first line has to name the columns")
    if len(header) == 1 and any(other in header[0] for other in ";\t|"):
        raise ValueError(f"its header is {header[0]!r}; fields have to be separated by commas, decimals by points")
    if any(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", name, re.IGNORECASE) for name in header):
        raise ValueError(f"it begins with the numbers {header[:5]}; the first line has to name the columns")
    return header


def _check_header(names: Sequence[str], file: str) -> None:
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"{file!r} has several columns of the name {', '.join(map(repr, repeated))}")


def _check_rows(path: Path, n_columns: int) -> None:
    """Pandas shifts the columns of rows with too many fields, or drops the last, and fills rows with too few."""
    with _csv_rows(path) as rows:
        if set(map(len, rows)) <= {0, n_columns}:
            return
    with _csv_rows(path) as rows:
        for row in rows:
            fields = row[:n_columns] if not any(row[n_columns:]) else row  # a comma at the end of each line is common
            if fields and len(fields) != n_columns:
                raise ValueError(f"line {rows.line_num} has {len(row)} fields, the header names {n_columns} columns")


@contextmanager
def _csv_rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield csv.reader(lines, skipinitialspace=True)

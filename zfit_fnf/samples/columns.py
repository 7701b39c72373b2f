"""One column of numbers, out of whatever holds it: what is missing or no number is an error, never a value."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["as_column", "check_names", "check_numbers", "check_weights", "is_number", "show"]

_SHOWN = 5  # rows quoted in an error message
_EXACT_INTEGERS = 2**53
_LARGEST, _SMALLEST = 1e150, 1e-150  # squares of what lies between, and their sums, are finite and not zero


def as_column(values: Any, column: str, name: str) -> np.ndarray:
    """A column as a numeric array; not copied if it is one already.

    Args:
        values: NumPy array, pandas Series (also with nullable types), awkward or Arrow array, tensor, or list.
        column: What error messages call the column.
        name: What they call the events it belongs to.

    Raises:
        TypeError: If the column does not hold numbers.
        ValueError: If entries are missing (masked, null or `None`).
    """
    values = _without_missing(values, column, name)
    try:
        array = np.asanyarray(values)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, dtype=object)  # lists of different lengths, tensors of another device
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"column {column!r} of {name!r} is not numeric (dtype {array.dtype}); expected one real number per event"
        )
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array if type(array) in (np.ndarray, np.memmap) else np.asarray(array)


def check_names(names: Iterable[str], there: Iterable[Any], name: str) -> None:
    """Refuses names of columns that are not there.

    Raises:
        ValueError: Lists the columns that are.
    """
    available = list(there)
    missing = [column for column in names if column not in available]
    if missing:
        shown = ", ".join(map(repr, available[:50])) + (", ..." if len(available) > 50 else "")
        near = [like[0] for column in missing if (like := difflib.get_close_matches(column, map(str, available), 1))]
        meant = f". Is {', '.join(map(repr, near))} meant?" if near else ""
        raise ValueError(f"{name!r} has no column {', '.join(map(repr, missing))}; its columns are {shown}{meant}")


def check_numbers(values: np.ndarray, what: str, name: str) -> None:
    """Refuses numbers with which float64 arithmetic goes wrong: not finite, not exact, or overflowing when squared.

    Raises:
        ValueError: Counts and shows them.
    """
    if not len(values):
        return
    largest = max(-values.min().item(), values.max().item())
    if not np.isfinite(float(largest)):
        rows = np.flatnonzero(~np.isfinite(values))
        raise ValueError(
            f"{rows.size} of {len(values)} events of {name!r} are NaN or infinite in {what}: "
            f"{show(values, rows)}. Remove these events or repair the column"
        )
    if values.dtype.kind in "iu" and largest > _EXACT_INTEGERS:
        raise ValueError(
            f"{what} of {name!r} has integers up to {largest}, which float64 cannot tell from their neighbours (beyond "
            "2^53): it looks like an identifier, not like something measured"
        )
    if largest > _LARGEST:
        raise ValueError(f"{what} of {name!r} reaches {largest:g}, the square of which overflows: use other units")


def check_weights(weights: np.ndarray, name: str) -> None:
    """Refuses weights of which sums and sums of squares cannot be computed.

    Raises:
        ValueError: Says why.
    """
    check_numbers(weights, "the weights", name)
    largest = float(np.max(np.abs(weights), initial=0.0))
    if 0.0 < largest < _SMALLEST:
        raise ValueError(f"the weights of {name!r} are at most {largest:g}, the square of which is zero: rescale them")


def is_number(value: Any) -> bool:
    """Whether a value is a single real number; a truth value is none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def show(values: np.ndarray, rows: np.ndarray) -> str:
    """A few rows and their values, for a message."""
    shown = ", ".join(f"row {row}: {values[row]:g}" for row in rows[:_SHOWN])
    return shown + (", ..." if rows.size > _SHOWN else "")


def _without_missing(values: Any, column: str, name: str) -> Any:
    """The values in a form in which none can be hidden behind a mask."""
    if type(values).__module__.partition(".")[0] == "awkward":
        try:
            values = importlib.import_module("awkward").to_numpy(values, allow_missing=True)
        except ValueError:
            raise TypeError(f"column {column!r} of {name!r} is not numeric: it holds lists, not one number") from None
    missing = np.zeros(0, bool)
    if isinstance(values, np.ma.MaskedArray):
        missing, values = np.ma.getmaskarray(values), values.data
    elif isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
        raise TypeError(
            f"column {column!r} of {name!r} is not numeric but a category; use its numbers, e.g. .cat.codes"
        )
    elif isinstance(getattr(values, "dtype", None), pd.api.extensions.ExtensionDtype):
        missing = np.asarray(pd.isna(values))
    elif type(values).__module__.partition(".")[0] == "pyarrow" and hasattr(values, "null_count"):
        missing = np.asarray(values.is_null()) if values.null_count else missing
    if missing.any():
        rows = ", ".join(map(str, np.flatnonzero(missing)[:_SHOWN]))
        raise ValueError(
            f"{int(missing.sum())} of {missing.size} entries of column {column!r} of {name!r} are missing (rows {rows}"
            f"{', ...' if missing.sum() > _SHOWN else ''}): remove these events first"
        )
    return values

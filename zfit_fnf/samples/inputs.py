"""What users have, made into samples and checked: whatever passes here can be computed with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .columns import as_column, check_names, check_numbers, check_weights, show
from .sample import Sample, checked_columns

__all__ = ["EVENTS", "as_sample", "check_inside", "check_trainable", "holds_events", "index_of", "whole_sample"]

EVENTS = "a DataFrame, a dict of arrays, a zfit.Data, a Sample or the path of a file"
"""What `as_sample` takes, in words."""


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
        ValueError: If a column or entries of it are missing (NaN, masked, null), lengths or pandas indices differ, or
            float64 arithmetic would go wrong: infinite numbers, integers beyond 2^53, numbers whose square overflows.

    Example:
        >>> as_sample(pd.DataFrame({"y1": [0.1, 0.4], "w": [1.0, -0.5]}), ["y1"], weights="w").sum_weights
        0.5
    """
    columns = checked_columns(columns)
    found, own_weights, own_name = _arrays_of(data, columns, weights)
    name = own_name if name is None else name
    if isinstance(weights, str):
        check_names([weights], found, name)
        own_weights = found[weights]
    elif weights is not None:
        own_weights = weights
    check_names(columns, found, name)
    sample = Sample({column: found[column] for column in columns}, weights=own_weights, name=name)
    _check_values(sample)
    return sample


def whole_sample(data: Any, weights: str | Any | None = None, name: str | None = None) -> Sample:
    """A `Sample` of all columns that hold numbers, which `as_sample` has to check before they are used.

    Args:
        data: As for `as_sample`.
        weights: Name of a column, or one weight per event; by default the data's own.
        name: What error messages call the data; by default the name that it carries.
    """
    if isinstance(data, (str, os.PathLike)):
        data = Sample.read(data)
    found, own_weights, own_name = _arrays_of(data, [], None)
    name = own_name if name is None else name
    columns = {}
    for column, values in found.items():
        with contextlib.suppress(TypeError):  # text and the like
            columns[str(column)] = as_column(_with_nan(values), column, name)
    if isinstance(weights, str):
        check_names([weights], columns, name)
        own_weights = columns[weights]
    elif weights is not None:
        own_weights = weights
    sample = Sample(columns, own_weights, name)
    if sample.weights is not None:
        check_weights(sample.weights, name)
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
        check_names([column], sample.columns, sample.name)
        values = sample.columns[column]
        rows = np.flatnonzero(~((values > low) & (values < high)))
        if rows.size:
            n_on_edge = int(np.isin(values[rows], (low, high)).sum())
            on_edge = f" ({n_on_edge} exactly on an edge: see Sample.off_the_edges)" if n_on_edge else ""
            raise ValueError(
                f"{rows.size} of {sample.n_events} events of {sample.name!r} are not inside the range "
                f"{low:g} < {column} < {high:g}: {show(values, rows)}{on_edge}. Cut these events, or train with a wider range "
                f"(ranges={{{column!r}: (low, high)}})"
            )


def _with_nan(values: Any) -> Any:
    """Missing entries of pandas as NaN, which only matters in columns that are used."""
    numeric = isinstance(values, pd.Series) and pd.api.types.is_numeric_dtype(values.dtype)
    return values.astype(np.float64) if numeric and values.isna().any() else values


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
    if _is_zfit_data(data):
        values = np.asarray(data.value())
        if values.ndim != 2:
            raise TypeError(f"expected unbinned data; got {type(data).__name__}")
        own = getattr(data, "weights", None)
        table = {name: values[:, position] for position, name in enumerate(data.obs)}
        return table, None if own is None else np.asarray(own), getattr(data, "name", None) or "data"
    raise TypeError(f"expected {EVENTS}; got {type(data).__name__}")


def index_of(data: Any) -> pd.Index | None:
    """Index of a table of events, for what is computed row by row: pandas assigns columns by it; `None` without one.

    Args:
        data: As for `as_sample`.
    """
    if isinstance(data, pd.DataFrame):
        return data.index
    columns = data.values() if isinstance(data, Mapping) else ()
    return next((values.index for values in columns if isinstance(values, pd.Series)), None)


def holds_events(data: Any) -> bool:
    """Whether `as_sample` knows what to do with data."""
    return isinstance(data, (str, os.PathLike, Sample, pd.DataFrame, Mapping)) or _is_zfit_data(data)


def _is_zfit_data(data: Any) -> bool:
    """Without importing zfit: names of observables and values."""
    return hasattr(data, "obs") and callable(getattr(data, "value", None))


def _check_values(sample: Sample) -> None:
    for column, values in sample.columns.items():
        check_numbers(values, f"column {column!r}", sample.name)
    if sample.weights is not None:
        check_weights(sample.weights, sample.name)

"""What no density describes, found before training: values that repeat, sentinels, columns that determine one another.

And where the bulk of a column lies, whatever its tails: `bulk`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..common.warning import warn
from .columns import check_names
from .sample import Sample

__all__ = ["bulk", "check_conditions", "check_continuous", "check_independent"]

_CHECKED_ROWS = 100_000  # enough to see a point mass of 0.1 %, cheap on any sample
_FEW = 100  # distinct values of a discrete column
_MANY_OF_ONE = 0.01
_ATOM, _ATOM_EVENTS, _ABOVE_NEIGHBOURS = 1e-3, 10, 10.0
_FAR = 10.0

_TAIL = 0.02275  # of a Gaussian beyond two standard deviations
_CLIP = 5.0

_DETERMINED = 1e-3
_PAIRED_ROWS, _FEWEST_ROWS = 20_000, 1000
_MOST_SQUARED = 10


# --- values that repeat ------------------------------------------------------------------------------------------------


class _Distinct(NamedTuple):
    """The distinct values of a column, in order, and how often each occurs, in rows spread evenly over the sample."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, sample: Sample, name: str) -> _Distinct:
        check_names([name], sample.columns, sample.name)
        step = max(1, -(-sample.n_events // _CHECKED_ROWS))
        return cls(*np.unique(sample.columns[name][::step], return_counts=True))

    @property
    def n_events(self) -> int:
        return int(self.counts.sum())

    @property
    def is_discrete(self) -> bool:
        return len(self.values) <= min(_FEW, self.n_events // 2)

    @property
    def integers(self) -> bool:
        return bool(np.all(self.values == np.floor(self.values)))

    @property
    def atom(self) -> int | None:
        """Position of a value that many more events have than the values beside it, if there is one."""
        top = int(np.argmax(self.counts))
        beside = np.delete(self.counts[max(0, top - 10) : top + 11], min(top, 10))
        often = max(_ATOM_EVENTS, _ATOM * self.n_events, _ABOVE_NEIGHBOURS * np.median(beside) if beside.size else 0)
        return top if self.counts[top] >= often else None

    def share(self, position: int) -> str:
        return (
            f"is exactly {self.values[position]:g} in {100 * self.counts[position] / self.n_events:.2g} % of the events"
        )


def check_continuous(sample: Sample, names: Sequence[str]) -> None:
    """Refuses observables with point masses, and warns of whole numbers: a density describes neither.

    Looks at up to 100 000 events, spread evenly. A column is refused if it is constant, if it takes few values that
    are all integers, if more than 1 % of at least 1000 events share one value, or if ten or more events, and 0.1 % of
    them, share a value that is ten times as frequent as those beside it: a default such as -999, an overflow.

    Args:
        sample: The events.
        names: The observables to look at.

    Raises:
        ValueError: Names the column and says what to do.
    """
    for name in names:
        distinct = _Distinct.of(sample, name)
        if finding := _point_mass(distinct):
            raise ValueError(
                f"observable {name!r} of {sample.name!r} {finding}: a density cannot describe it. Pass it in cond=, or "
                "split the sample into channels by its value; if it is a default such as -999 or an overflow, cut those "
                "events"
            )
        if distinct.integers and 2 * len(distinct.values) <= distinct.n_events:
            warn(
                f"observable {name!r} of {sample.name!r} has whole numbers only: a density describes them on scales "
                "well above one. Add a uniform number between -0.5 and 0.5 to each (to data and simulation), or pass it "
                "in cond="
            )


def _point_mass(distinct: _Distinct) -> str | None:
    """What is wrong with an observable; `None` if nothing is."""
    values, counts, n_events = *distinct, distinct.n_events
    top = int(np.argmax(counts))
    if len(values) == 1 and n_events > 1:
        return f"is {values[0]:g} in every event"
    if distinct.is_discrete and distinct.integers:
        return f"takes only {len(values)} integer values ({values[0]:g} to {values[-1]:g})"
    if distinct.atom is not None:
        return distinct.share(distinct.atom)
    if n_events >= _FEWEST_ROWS and counts[top] > _MANY_OF_ONE * n_events:
        return distinct.share(top)
    return None


def check_conditions(sample: Sample, names: Sequence[str]) -> None:
    """Refuses defaults such as -999 among continuous conditions: a network would have to span the gap.

    Discrete conditions (a charge, a number of jets) are fine; of a value far from all others of such a column it warns.

    Raises:
        ValueError: Names the column, the value and its share, and says what to do.
    """
    for name in names:
        distinct = _Distinct.of(sample, name)
        values, atom = distinct.values, distinct.atom
        if distinct.is_discrete:
            far = _far_value(values)
            if far is not None:
                warn(
                    f"condition {name!r} of {sample.name!r} {distinct.share(far)}, far from its other values. "
                    "Replace it by a value next to the others if it is a default"
                )
        elif atom is not None:
            others = np.delete(sample.columns[name], np.flatnonzero(sample.columns[name] == values[atom]))
            centre, width = bulk(others)
            if abs(values[atom] - centre) > _FAR * width:
                raise ValueError(
                    f"condition {name!r} of {sample.name!r} {distinct.share(atom)}, far from the others "
                    f"({centre:.3g} +- {width:.2g}), as a default is. Replace it by a value next to the others, such as "
                    f"{centre:.3g}, and add a column of 0 and 1 to cond= that says where; or cut those events"
                )


def _far_value(values: np.ndarray) -> int | None:
    """Position of the smallest or largest of at least three values, if it is far from the others; else `None`."""
    if len(values) < 3:
        return None
    low, high = values[[1, -1]] - values[[0, -2]]
    if low > _FAR * (values[-1] - values[1]):
        return 0
    return len(values) - 1 if high > _FAR * (values[-2] - values[0]) else None


# --- where the bulk is -------------------------------------------------------------------------------------------------


def bulk(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Mean and standard deviation of a column whose tails are clipped: neither outliers nor defaults set the scale.

    Clipped are values more than five widths from the middle of the central 95.45 % of the events, where the width is
    that of a Gaussian with this interval. A Gaussian sample has its own mean and standard deviation.

    Args:
        values: The column, ``(n,)``.
        weights: Of the events; may be negative, their sum is positive.

    Returns:
        The mean, and the standard deviation: zero if all values are equal.
    """
    values = np.asarray(values, np.float64)
    low, high = _quantiles(values, weights, (_TAIL, 1.0 - _TAIL))
    lower, upper = _quantiles(values, weights, (0.25, 0.75))
    if lower == upper:  # most events have one value: the different values say more
        values, weights = np.unique(values), None
        low, high = _quantiles(values, None, (_TAIL, 1.0 - _TAIL))
    middle, width = 0.5 * (low + high), 0.25 * (high - low)
    clipped = np.clip(values, middle - _CLIP * width, middle + _CLIP * width)
    mean = float(np.average(clipped, weights=weights))
    variance = float(np.average((clipped - mean) ** 2, weights=weights))
    return (mean, np.sqrt(variance)) if variance > 0.0 else (middle, width)


def _quantiles(values: np.ndarray, weights: np.ndarray | None, levels: Sequence[float]) -> list[float]:
    """Quantiles; with negative weights, the middle of where the summed weights first and last pass each level."""
    if weights is None:
        return [float(q) for q in np.quantile(values, levels)]
    order = np.argsort(values)
    summed = np.cumsum(np.asarray(weights, np.float64)[order])
    summed /= summed[-1]
    passed = [(np.argmax(summed >= level), len(summed) - 1 - np.argmax(summed[::-1] < level)) for level in levels]
    return [float(0.5 * (values[order[first]] + values[order[last]])) for first, last in passed]


# --- columns that determine one another --------------------------------------------------------------------------------


def check_independent(sample: Sample, obs: Sequence[str], cond: Sequence[str] = ()) -> None:
    """Refuses observables that other columns determine: together they have no density, and would count twice.

    Found are linear relations of any number of columns (up to ten: quadratic ones), and functions of one column; both to
    about 1e-3 of their spread in at least half of the events. Correlations of 0.99999 pass. Conditions may
    determine one another.

    Args:
        sample: The events, of which up to 20 000 are looked at.
        obs: The observables.
        cond: The conditions.

    Raises:
        ValueError: Names the columns.
    """
    if sample.n_events < _FEWEST_ROWS:
        return
    rows = np.arange(0, sample.n_events, -(-sample.n_events // _PAIRED_ROWS))
    # In files, events are sometimes sorted, and equal values of one column would then seem to determine another.
    np.random.default_rng(0).shuffle(rows)
    names = [*obs, *cond]
    table = sample.array(names, rows)
    centre, width = np.transpose([bulk(column) for column in table.T])
    varying = np.flatnonzero(width > 0)
    table = (table[:, varying] - centre[varying]) / width[varying]
    is_obs = varying < len(obs)
    related = _pair(table, is_obs) or _polynomial(table, is_obs)
    if related:
        shown = ", ".join(repr(names[varying[position]]) for position in sorted(related))
        raise ValueError(
            f"columns {shown} of {sample.name!r} determine one another, to about a thousandth of their spread: together "
            "they have no density. Leave one of them out; if a small difference matters, use the difference itself"
        )


def _pair(table: np.ndarray, is_obs: np.ndarray) -> set[int]:
    """Two columns, at least one an observable, of which one is a function of the other; empty if there are none.

    Where a column is a function of another, events that are neighbours in the one are neighbours in the other.
    """
    n = len(table)
    order = np.argsort(table, axis=0)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(n)[:, None], axis=0)
    continuous = [len(np.unique(column)) > n // 10 for column in table.T]
    for argument, value in itertools.permutations(range(table.shape[1]), 2):
        if not continuous[value] or not (is_obs[argument] or is_obs[value]):
            continue
        different = np.diff(table[order[:, argument], argument]) > 0  # else it may be the same event twice
        steps = np.abs(np.diff(rank[order[:, argument], value]))[different]
        if steps.size > n // 10 and np.median(steps) <= max(2.0, _DETERMINED * n):
            return {value, argument}
    return set()


def _polynomial(table: np.ndarray, is_obs: np.ndarray) -> set[int]:
    """Columns, at least one an observable, of which one, or its square, is a quadratic function of the others."""
    inside = table[(np.abs(table) < _CLIP).all(axis=1)]  # extreme events would decide the fit
    n, d = inside.shape
    for target in range(d):
        others = np.delete(np.arange(d), target)
        linear = [(k,) for k in others]
        trials = [(inside[:, target], linear)]
        if d <= _MOST_SQUARED:
            squares = [*linear, *itertools.combinations_with_replacement(others, 2)]
            trials += [(inside[:, target], squares), (inside[:, target] ** 2, [(target,), *squares])]
        for values, terms in trials:
            design = np.stack([np.ones(n), *(np.prod(inside[:, term], axis=1) for term in terms)], axis=1)
            if n < 10 * design.shape[1]:
                continue
            coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
            spread = np.median(np.abs(values - np.median(values)))
            if np.median(np.abs(values - design @ coefficients)) < _DETERMINED * spread:
                strong = (term for term, size in zip(terms, coefficients[1:], strict=True) if abs(size) > 0.01)
                related = {target, *(int(k) for term in strong for k in term)}
                if len(related) > 1 and is_obs[list(related)].any():
                    return related
    return set()

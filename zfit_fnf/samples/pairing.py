"""Samples that hold the same events: what differs between those is not noise, but an effect, or nothing at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from ..common.chunks import ROWS, slices
from ..common.warning import warn
from .columns import check_weights, show
from .sample import Sample

__all__ = [
    "are_paired",
    "are_related",
    "check_ratio",
    "fingerprint",
    "integers_of",
    "same_events",
    "shared_rows",
    "uniform_by",
    "warn_of_copies",
]

_EXACT = 2.0**53  # beyond, whole numbers are no longer all there in float64
_COUNT = 4
_FEWEST = 100  # events, of which correlations mean something
_SPREAD, _RELATED = 0.1, 0.1  # of the logarithms of nominal weights, and their correlation with others
_LOOKED_AT = 100_000  # rows
_CHANCE = 10.0  # standard deviations of the correlation of independent rows, above which rows are paired
_IN_ORDER = 5.0  # and with the next rows, above which they are in some order
_COPIED = 0.1  # of the rows
_BESIDE = 101  # gaps between values with the same mean
_NEXT, _ON_A_GRID = 0.1, 0.03  # what is small beside it, and the share that is, without a grid
_ROUNDING = 2e-7  # of single-precision weights, with a margin


def fingerprint(sample: Sample, columns: Sequence[str]) -> list[float]:
    """Four weighted means over the events of pseudo-random numbers in (-0.5, 0.5) that a row's values determine.

    Samples with the same rows have the same fingerprint, in whatever order, and with weights that differ by a constant
    factor only. One row that is another changes it by about ``1 / n``.

    Args:
        sample: The events.
        columns: The columns that count.
    """
    sums = np.zeros(_COUNT)
    for rows in slices(sample.n_events, ROWS):
        state = _hashed(sample.array(columns, rows))
        weights = np.ones(len(state)) if sample.weights is None else np.asarray(sample.weights[rows], np.float64)
        for index in range(_COUNT):
            state = _mixed(state + np.uint64(0x9E3779B97F4A7C15))
            sums[index] += np.sum(weights * (state * 2.0**-64 - 0.5))
    return (sums / sample.sum_weights).tolist()


def same_events(first: Sequence[float], second: Sequence[float], effective_size: float) -> bool:
    """Whether two fingerprints are those of the same events, of which there are so many."""
    if len(first) != _COUNT or len(second) != _COUNT:
        return False
    return bool(np.abs(np.subtract(first, second)).max() < _ROUNDING / np.sqrt(effective_size))


def are_paired(first: np.ndarray, other: np.ndarray) -> bool:
    """Whether row ``i`` of two samples is the same generated event, as their values ``(n, columns)`` tell.

    Ranks of at least one column correlate, row by row, by more than ten standard deviations of what chance does; those of a
    row and the next one of the other sample do in no column: rows that are in some order do, paired or not, and count as not
    paired.
    """
    if first.shape != other.shape or len(first) < _FEWEST:
        return False
    one, two = (
        (rankdata(values[:_LOOKED_AT], axis=0) - 0.5) / len(values[:_LOOKED_AT]) - 0.5 for values in (first, other)
    )
    chance = 1.0 / np.sqrt(len(one))
    together, with_next = (12.0 * np.abs(np.mean(a * b, axis=0)) for a, b in ((one, two), (one[:-1], two[1:])))
    return bool(together.max() > _CHANCE * chance and with_next.max() < _IN_ORDER * chance)


def shared_rows(sample: Sample, other: Sample, columns: Sequence[str], rows: np.ndarray | slice) -> int:
    """How many events of a sample are among some rows of another one, value by value.

    Args:
        sample: The events.
        other: The other ones.
        columns: The columns that count.
        rows: Which of these.
    """
    return int(np.isin(_hashed(sample.array(columns)), _hashed(other.array(columns, rows))).sum())


def check_ratio(nominal: Sample, weights: np.ndarray, name: str) -> None:
    """Refuses weights of a variation whose ratio to the nominal ones is not positive and finite for every event.

    Args:
        nominal: The events with their nominal weights.
        weights: Their weights in the variation.
        name: What error messages call it.

    Raises:
        ValueError: Counts and shows such events.
    """
    check_weights(weights, name)
    own = np.ones(nominal.n_events) if nominal.weights is None else np.asarray(nominal.weights)
    for wrong, what in (
        ((own == 0) & (weights != 0), "a weight, but none in the nominal sample: their ratio is infinite"),
        (
            (own != 0) & (weights == 0),
            "the weight zero, but not in the nominal sample. Is it a default that means missing?",
        ),
        (np.sign(own) * np.sign(weights) < 0, "weights of the other sign than in the nominal sample"),
    ):
        if (rows := np.flatnonzero(wrong)).size:
            raise ValueError(
                f"{rows.size} of {nominal.n_events} events of variation {name!r} have {what} ({show(weights, rows)}). "
                "Remove these events from the simulation; if they are right, the variation needs events= of its own"
            )


def are_related(nominal: Sample, weights: np.ndarray) -> bool:
    """Whether weights of a variation follow the nominal ones, as far as these vary: factors do not, nor those of other events."""
    if nominal.weights is None or nominal.n_events < _FEWEST:
        return True
    used = (nominal.weights != 0) & (weights != 0)
    sizes = np.log(np.abs(np.stack([nominal.weights[used], weights[used]]).astype(np.float64)))
    spread = sizes.std(axis=1)
    if spread[0] < _SPREAD:
        return True
    correlation = np.corrcoef(sizes)[0, 1] if spread[1] > 1e-6 else 0.0
    return bool(correlation > _RELATED)


def integers_of(values: np.ndarray, column: str, name: str) -> np.ndarray:
    """A column of whole numbers in 64 bits."""
    if values.dtype.kind == "f":
        if (rows := np.flatnonzero(values != np.floor(values))).size:
            raise ValueError(
                f"column {column!r} of {name!r} numbers the events, but is not whole in {rows.size} rows: {show(values, rows)}"
            )
        if (rows := np.flatnonzero(np.abs(values) > _EXACT)).size:
            raise ValueError(
                f"column {column!r} of {name!r} numbers the events, but floating-point numbers beyond 2^53, in {rows.size} rows, "
                f"are those of several events: {show(values, rows)}. Keep it as whole numbers, or give a shorter one"
            )
        values = values.astype(np.int64)
    return values.astype(np.uint64)


def uniform_by(keys: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """Pseudo-random numbers in (0, 1) that keys, whole numbers, determine; others for another seed."""
    start = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    return (_mixed(_mixed(keys.astype(np.uint64) + start) + np.uint64(1)) >> np.uint64(11)) * 2.0**-53 + 2.0**-54


def warn_of_copies(sample: Sample, columns: Sequence[str]) -> None:
    """Warn where many rows are those of other ones, as after drawing events with replacement.

    Rounded values are equal by chance, and not told: of those, few are much closer to each other than they are on average.

    Args:
        sample: The events.
        columns: All columns that a training sees.
    """
    share = _share_of_copies(sample, columns)
    if share < _COPIED or all(_on_a_grid(sample, name) for name in columns):
        return
    n = sample.n_events
    warn(
        f"{share:.0%} of the {n} rows of {sample.name!r} are copies of others, as after drawing with replacement: they count "
        "as so many independent events, and copies of what has trained a density seem to confirm it. Keep each row once, with "
        "the sum of the weights of its copies"
    )


def _share_of_copies(sample: Sample, columns: Sequence[str]) -> float:
    """Share of the rows whose values an earlier row has, by rows with small hashes where there are many."""
    few = np.uint64(min(2**64 - 1, round(2.0**64 * _LOOKED_AT / max(sample.n_events, 1))))
    kept = []
    for rows in slices(sample.n_events, ROWS):
        state = _hashed(sample.array(columns, rows))
        kept.append(state[state <= few])
    states = np.concatenate([np.zeros(0, np.uint64), *kept])
    return 1.0 - len(np.unique(states)) / len(states) if len(states) >= _FEWEST else 0.0


def _on_a_grid(sample: Sample, name: str) -> bool:
    """Whether distinct values keep a distance from each other, all of them or, of a large sample, at a quartile."""
    values = np.asarray(sample.columns[name], np.float64)
    some = np.sort(values[:: max(1, len(values) // _LOOKED_AT)])
    around = round(0.5 * len(some) * min(1.0, _LOOKED_AT / len(values)))
    # Floating-point numbers are a grid of which the steps grow with the distance from zero: hardly one there.
    for middle in (len(some) // 4, len(some) // 2, 3 * len(some) // 4):
        low, high = some[max(middle - around, 0)], some[min(middle + around, len(some) - 1)]
        gaps = np.diff(np.unique(values[(values >= low) & (values <= high)]))
        if len(gaps) < _BESIDE:
            return True
        mean = np.convolve(gaps, np.full(_BESIDE, 1.0 / _BESIDE), mode="same")
        inner = slice(_BESIDE // 2, len(gaps) - _BESIDE // 2)
        if np.mean(gaps[inner] < _NEXT * mean[inner]) < _ON_A_GRID:
            return True
    return False


def _hashed(table: np.ndarray) -> np.ndarray:
    """A 64-bit number for each row."""
    state = np.zeros(len(table), np.uint64)
    for column in table.T:
        state = _mixed(state + (np.ascontiguousarray(column) + 0.0).view(np.uint64))  # minus zero is zero
    return state


def _mixed(state: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit depends on every other one."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))

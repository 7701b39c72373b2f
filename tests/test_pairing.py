"""Samples that hold the same events are recognised, others are not."""

from __future__ import annotations

import numpy as np
import pytest

from zfit_fnf.samples import Sample
from zfit_fnf.samples.pairing import are_paired, fingerprint, same_events

N = 20_000
RNG = np.random.default_rng(1)
COLUMNS = {"y": RNG.normal(size=N), "x": RNG.normal(size=N)}
WEIGHTS = RNG.uniform(-0.5, 1.5, N).astype(np.float32)


def recognised(columns, weights=None, own=None):
    first, second = Sample(COLUMNS, own), Sample(columns, weights)
    marks = [fingerprint(sample, ["y", "x"]) for sample in (first, second)]
    return same_events(*marks, second.effective_size)


def changed(column, row, value):
    values = COLUMNS[column].copy()
    values[row] = value
    return {**COLUMNS, column: values}


ORDER = RNG.permutation(N)


@pytest.mark.parametrize(
    ("columns", "weights", "own"),
    [
        (COLUMNS, None, None),
        ({name: values[ORDER] for name, values in COLUMNS.items()}, None, None),
        ({name: values[ORDER] for name, values in COLUMNS.items()}, 1.7 * WEIGHTS[ORDER], WEIGHTS),
        (COLUMNS, np.full(N, 0.3, np.float32), None),
        (COLUMNS, (WEIGHTS * np.float32(1.0537)).astype(np.float32), WEIGHTS),  # rounded in single precision
        ({name: np.tile(values, 2) for name, values in COLUMNS.items()}, None, None),
        ({name: np.append(values, 5.0) for name, values in COLUMNS.items()}, np.append(np.ones(N), 0.0), None),
    ],
)
def test_the_same_events(columns, weights, own):
    assert recognised(columns, weights, own)


@pytest.mark.parametrize(
    ("columns", "weights"),
    [
        (changed("y", 7, COLUMNS["y"][7] + 1e-12), None),
        (changed("x", N - 1, 0.0), None),
        ({"y": COLUMNS["x"], "x": COLUMNS["y"]}, None),
        ({**COLUMNS, "x": COLUMNS["x"][::-1]}, None),  # the same values in other rows
        ({name: values[1:] for name, values in COLUMNS.items()}, None),
        (COLUMNS, WEIGHTS),
        (COLUMNS, np.where(np.arange(N) == 3, 1.01, 1.0)),
    ],
)
def test_other_events(columns, weights):
    assert not recognised(columns, weights)


def test_zeros_have_no_sign_and_nothing_is_the_same_as_what_is_not_known():
    zero = Sample({"y": np.array([0.0, 1.0])}), Sample({"y": np.array([-0.0, 1.0])})
    assert same_events(*(fingerprint(sample, ["y"]) for sample in zero), 2.0)
    assert not same_events([], fingerprint(zero[0], ["y"]), 2.0)


MIDDLE = RNG.normal(size=(2000, 2))
ELSEWHERE = RNG.normal(size=(2000, 2))
IN_PARTS = np.repeat([[-2.0], [2.0]], 1000, axis=0)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (MIDDLE, MIDDLE + 0.1),
        (MIDDLE, np.column_stack([MIDDLE[:, 0], ELSEWHERE[:, 1]])),  # the same condition, measured once more
        (MIDDLE, MIDDLE + ELSEWHERE),
        (np.exp(5.0 * MIDDLE), np.exp(5.0 * MIDDLE + 0.1 * ELSEWHERE)),  # tails that decide on correlations
    ],
)
def test_rows_that_are_paired(first, other):
    assert are_paired(first, other)
    assert are_paired(first[:, :1], other[:, :1])


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (MIDDLE, ELSEWHERE),
        (MIDDLE, (MIDDLE + 0.1)[::-1]),
        (MIDDLE, np.roll(MIDDLE + 0.1, 1, axis=0)),
        (MIDDLE, (MIDDLE + 0.1)[:-1]),
        (np.sort(MIDDLE, axis=0), np.sort(ELSEWHERE, axis=0)),  # independent, but correlated row by row
        (MIDDLE + IN_PARTS, ELSEWHERE + IN_PARTS),  # two components, one after the other
        (MIDDLE[:50], MIDDLE[:50]),  # too few to tell
    ],
)
def test_rows_that_are_not_paired_or_may_not_be(first, other):
    assert not are_paired(first, other)

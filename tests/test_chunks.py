"""Rows in chunks."""

from __future__ import annotations

import numpy as np
import pytest

from zfit_fnf.common.chunks import concatenated, slices


@pytest.mark.parametrize(("n", "sizes"), [(0, []), (2, [2]), (4, [4]), (9, [4, 4, 1])])
def test_every_row_is_in_one_slice(n, sizes):
    rows = np.arange(n)
    parts = [rows[part] for part in slices(n, 4)]
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == list(rows)


@pytest.mark.parametrize("n", [0, 4, 9])
def test_results_of_chunks_are_put_together(n):
    x, y = np.random.default_rng(0).normal(size=(2, n, 3))
    calls = []

    def function(x, y):
        calls.append(len(x))
        return x[:, :2] * y[:, :2]

    result = concatenated(function, x, y, size=4)
    np.testing.assert_array_equal(result, x[:, :2] * y[:, :2])
    assert result.shape == (n, 2)
    assert max(calls) <= 4

"""A classifier between two samples against the best there can be, which is known for Gaussians."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from zfit_fnf.diagnostics import two_sample_auc

pytest.importorskip("sklearn")

N = 4000
ERROR = np.sqrt(2 / (12 * N))
"""Standard deviation of the area for equal distributions."""


def sample(seed, mean=0.0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": rng.normal(mean, 1.0, N), "b": rng.normal(size=N)})


def test_equal_distributions():
    assert two_sample_auc(sample(1), sample(2), ["a", "b"]) == pytest.approx(0.5, abs=4 * ERROR)


def test_shifted_gaussians():
    """The likelihood ratio has the area ``Phi(shift / sqrt 2)``, and trees with thousands of events nearly so."""
    area = two_sample_auc(sample(1), sample(2, mean=1.0), ["a", "b"])
    best = stats.norm.cdf(1 / np.sqrt(2))
    assert best - 0.03 < area < best + 4 * ERROR
    assert two_sample_auc(sample(1), sample(2, mean=1.0), ["b"]) == pytest.approx(0.5, abs=4 * ERROR)


def test_weights_make_distributions_equal():
    """Weights of the likelihood ratio undo a shift; negative ones count as zero."""
    shifted = sample(2, mean=0.5)
    ratio = np.exp(0.125 - 0.5 * shifted["a"].to_numpy())
    # The squared weights are exp(1/4) on average: that many fewer effective events in one of two samples.
    assert two_sample_auc(sample(1), shifted, ["a"], weights=(None, ratio)) == pytest.approx(0.5, abs=5 * ERROR)
    outliers = pd.concat([sample(2), sample(3, mean=50.0)])
    weights = np.repeat([1.0, -0.5], N)
    assert two_sample_auc(sample(1), outliers, ["a"], weights=(None, weights)) == pytest.approx(0.5, abs=4 * ERROR)


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="'c'"):
        two_sample_auc(sample(1), sample(2), ["a", "c"])
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ImportError, match=r'pip install "zfit_fnf\[diagnostics\]"'):
        two_sample_auc(sample(1), sample(2), ["a"])

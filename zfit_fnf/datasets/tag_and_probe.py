"""Pairs of a tag and a probe whose efficiency is a known function of two conditions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit

from ..common.checks import integer

__all__ = ["TagAndProbe"]


class TagAndProbe:
    """A peak on a falling background, with an efficiency of two conditions ``a`` and ``b``, both uniform between -1 and 1.

        logit eps(a, b) = 1.4 + 0.7 a - 0.8 b^2 + 0.4 a b

    The peak is a Gaussian whose mean follows ``a`` and whose width follows ``b``; passing and failing pairs of the background
    fall exponentially with slopes of their own. Columns are ``m`` (60 to 120), ``a``, ``b``, ``id`` (whether the probe passes)
    and ``signal``, which no data know.

    Example:
        >>> pairs = TagAndProbe().simulate(20_000, seed=1)
        >>> zfnf.tagprobe.fit(pairs, Peak(), Exponential(), **TagAndProbe.columns)
    """

    columns: ClassVar[dict[str, Any]] = {"mass": "m", "window": (60.0, 120.0), "passing": "id", "cond": ["a", "b"]}

    @staticmethod
    def efficiency(a: Any, b: Any) -> np.ndarray:
        """The efficiency of the signal."""
        a, b = np.asarray(a), np.asarray(b)
        found: np.ndarray = expit(1.4 + 0.7 * a - 0.8 * b**2 + 0.4 * a * b)
        return found

    def simulate(self, n: int, seed: int = 0) -> pd.DataFrame:
        """Draws about ``n`` pairs; the few with a mass outside of the window are left out."""
        n, rng = integer(n, "n", low=1), np.random.default_rng(seed)
        a, b = rng.uniform(-1, 1, (2, n))
        is_signal = rng.uniform(size=n) < expit(1.0 + 0.4 * a)
        passes = rng.uniform(size=n) < np.where(is_signal, self.efficiency(a, b), expit(-0.6 + 0.5 * b))
        slope = np.where(passes, 0.8, 0.3)
        falling = -1 - np.log1p(rng.uniform(size=n) * np.expm1(-2 * slope)) / slope
        t = np.where(is_signal, rng.normal(0.05 * a, 0.1 + 0.02 * b), falling)
        table = pd.DataFrame({"m": 90 + 30 * t, "a": a, "b": b, "id": passes, "signal": is_signal})
        return table[np.abs(t) < 1].reset_index(drop=True)

"""Results of limits and significances, which print as tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["BANDS", "COLUMNS", "DiscoveryResult", "LimitResult", "PoolWorth"]

BANDS = (-2, -1, 0, 1, 2)
"""Standard deviations of the background-only fluctuations behind the five expected limits."""

COLUMNS = ("expected_m2", "expected_m1", "expected", "expected_p1", "expected_p2")
"""What the five expected limits are called in tables."""


@dataclass(frozen=True)
class PoolWorth:
    """What a pool of events is worth from which toys of limits and regions are drawn; prints as a sentence.

    Attributes:
        n_independent: How many toys have as many events as the pool, for the hypothesis where these are fewest.
        difference: Largest difference between test statistics with and without the pool, of the same events.
    """

    n_independent: float
    difference: float

    def worst(self, other: PoolWorth) -> PoolWorth:
        """The smaller number of toys, and the larger difference."""
        return PoolWorth(min(self.n_independent, other.n_independent), max(self.difference, other.difference))

    def to_dict(self) -> dict[str, float]:
        """The fields for JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"from pools of as many events as {self.n_independent:.3g} independent toys have; test statistics of the same events "
            f"without them differ by {self.difference:.2g} at most"
        )


@dataclass(frozen=True, eq=False)
class LimitResult:
    """CLs upper limits, made by `upper_limit`; prints as a table.

    Attributes:
        poi: Name of the parameter of interest.
        cl: Confidence level.
        observed: The observed limit; NaN if the data were not used.
        expected: The limits expected from background only: -2, -1, 0, +1, +2 standard deviations, ascending.
        best_fit: Best-fit value of the parameter, likewise; values below zero count as zero.
        scan: CLs at the values of the parameter that were tried (the index): ``observed``, and ``expected_m2``,
            ``expected_m1``, ``expected``, ``expected_p1``, ``expected_p2`` for -2 to +2 standard deviations.
        title: Label of the parameter, for plots; by default its name.
        n_toys: Number of toys of each hypothesis; zero for asymptotic formulae.
        error: Statistical error of the observed limit from the number of toys.
        pool: What the pools are worth that the toys were drawn from, if they were.
    """

    poi: str
    cl: float
    observed: float
    expected: tuple[float, ...]
    best_fit: float
    scan: pd.DataFrame
    title: str = ""
    n_toys: int = 0
    error: float = 0.0
    pool: PoolWorth | None = None

    def to_dataframe(self) -> pd.DataFrame:
        """The limits: ``observed`` and ``expected_m2`` to ``expected_p2`` (the index) with their ``limit``."""
        limits = dict(zip(("observed", *COLUMNS), (self.observed, *self.expected), strict=True))
        return pd.DataFrame({"limit": limits})

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; the scan as lists, the values of the parameter under its name."""
        scan = self.scan.rename_axis(self.poi).reset_index().to_dict(orient="list")
        pool = None if self.pool is None else self.pool.to_dict()
        return {**vars(self), "expected": list(self.expected), "scan": scan, "pool": pool}

    def __str__(self) -> str:
        names = ["observed", *(f"expected {band:+d} sigma" if band else "expected" for band in BANDS)]
        values = [f"{value:.4g}" for value in (self.observed, *self.expected)]
        fit = f"best fit {self.best_fit:.4g}"
        if math.isnan(self.observed):
            values[0], fit = "not looked at", "before any fit"
        if self.n_toys:
            values[0] += f" +- {self.error:.2g} (from {self.n_toys} toys)"
        rows = (f"  {name:<17} {value}" for name, value in zip(names, values, strict=True))
        worth = [] if self.pool is None else [f"  toys {self.pool}"]
        return "\n".join([f"{100 * self.cl:g} % CLs upper limits on {self.poi} ({fit})", *rows, *worth])


@dataclass(frozen=True)
class DiscoveryResult:
    """Significance of an excess, made by `discovery`; prints as a table.

    Attributes:
        poi: Name of the parameter of interest.
        null: Its value without the signal.
        best_fit: Its best-fit value.
        significance: Observed significance in standard deviations, one-sided; zero if there is no excess.
        p_value: Probability of an excess at least as large without signal.
        expected_at: Value of the parameter for which the following two are expected.
        expected_significance: Median significance.
        expected_p_value: The corresponding probability.
    """

    poi: str
    null: float
    best_fit: float
    significance: float
    p_value: float
    expected_at: float
    expected_significance: float
    expected_p_value: float

    def to_dataframe(self) -> pd.DataFrame:
        """``significance`` and ``p_value``, ``observed`` and ``expected`` (the index)."""
        observed = {"significance": self.significance, "p_value": self.p_value}
        expected = {"significance": self.expected_significance, "p_value": self.expected_p_value}
        return pd.DataFrame.from_dict({"observed": observed, "expected": expected}, orient="index")

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        expected = f"expected for {self.poi} = {self.expected_at:.4g}"
        return (
            f"excess over {self.poi} = {self.null:g} (best fit {self.best_fit:.4g})\n"
            f"  {'observed':<{len(expected)}}  {self.significance:.3g} sigma, p = {self.p_value:.3g}\n"
            f"  {expected}  {self.expected_significance:.3g} sigma, p = {self.expected_p_value:.3g}"
        )

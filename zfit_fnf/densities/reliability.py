"""Whether events confirm the shares that a classifier predicts: calibration curves of weighted events, and a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

__all__ = ["Reliability"]

_LARGEST_ERROR, _SMALLEST_P = 0.02, 1e-4


@dataclass(frozen=True)
class Reliability:
    """Calibration curve of each process in a mixture of equal parts: predicted and observed share, in bins of the former.

    Attributes:
        process: Process of each bin.
        predicted: Mean predicted share.
        observed: Share of the events of the process.
        error: Standard deviation of the observed minus the predicted share if the latter is right, of events with these weights.
        share: Share of all events that is in the bin.
        region: Of which part of the conditions it is, in words; empty for all of them.
    """

    process: tuple[str, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    error: tuple[float, ...]
    share: tuple[float, ...]
    region: str = ""

    @classmethod
    def of(
        cls,
        processes: Sequence[str],
        predicted: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        n_bins: int = 15,
        region: str = "",
    ) -> Reliability:
        """From events.

        Args:
            processes: Names of the processes.
            predicted: Shares ``(n, C)``.
            labels: Process ``(n,)`` that each event is of, by its number.
            weights: Weights ``(n,)``, with equal sums for all processes.
            n_bins: Number of bins with as many events each.
            region: What the events have in common.
        """
        rows = []
        for index, name in enumerate(processes):
            own = predicted[:, index]
            edges = np.quantile(own, np.linspace(0, 1, n_bins + 1)[1:-1])
            for number in range(n_bins):
                inside = np.searchsorted(edges, own, side="right") == number
                w, total = weights[inside], weights[inside].sum()
                if not total > 0:  # negative weights, or equal shares
                    continue
                residual = (labels[inside] == index) - own[inside]
                mean, difference = float(w @ own[inside] / total), float(w @ residual / total)
                # What is expected of right shares: where a bin has no event of the others by chance, residuals scatter less.
                variance = (own * (1.0 - own))[inside].clip(min=0.0)
                error = float(np.sqrt(np.square(w) @ variance) / total)
                rows.append((name, mean, mean + difference, error, float(total / weights.sum())))
        columns: Any = zip(*rows, strict=True) if rows else [()] * 5
        one, two, three, four, five = map(tuple, columns)
        return cls(one, two, three, four, five, region)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each bin."""
        return pd.DataFrame({name: values for name, values in vars(self).items() if name != "region"})

    @property
    def p_value(self) -> float:
        """Probability of larger differences by chance, of the worst process, times the number of processes."""
        table = self.to_dataframe()
        pulls = np.square((table["observed"] - table["predicted"]) / table["error"].clip(lower=1e-300))
        worst = min(float(chi2.sf(part.sum(), len(part))) for _, part in pulls.groupby(table["process"]))
        return min(1.0, worst * table["process"].nunique())

    @property
    def calibration_error(self) -> float:
        """Root mean square of observed minus predicted share, beyond what is expected by chance; of the worst process."""
        table = self.to_dataframe()
        excess = table["share"] * (np.square(table["observed"] - table["predicted"]) - np.square(table["error"]))
        return float(np.sqrt(max(0.0, excess.groupby(table["process"]).sum().max())))

    @property
    def passed(self) -> bool:
        """Whether the differences are chance, or too small to matter (0.02)."""
        return self.p_value > _SMALLEST_P or self.calibration_error < _LARGEST_ERROR

    def to_dict(self) -> dict[str, Any]:
        """The curves, for JSON, and what follows from them."""
        verdict = {"p_value": self.p_value, "calibration_error": self.calibration_error, "passed": self.passed}
        return {**self.to_dataframe().to_dict("list"), "region": self.region, **verdict}

    def __str__(self) -> str:
        verdict = "confirmed" if self.passed else "NOT CONFIRMED"
        where = f" with {self.region}" if self.region else ""
        return (
            f"shares {verdict} by held-out events{where}: rms calibration error {self.calibration_error:.2g}, "
            f"p-value {self.p_value:.2g}"
        )

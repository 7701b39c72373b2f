"""Whether events confirm the shares that a classifier predicts: calibration curves of weighted events, and a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

__all__ = ["Reliability", "quantile_bins"]

_LARGEST_ERROR, _SMALLEST_P = 0.02, 1e-4
_AS_EVERYWHERE = 5.0  # events of a process in a bin, whose own weights then count as much as those of all its events


@dataclass(frozen=True)
class Reliability:
    """Calibration curve of each process in a mixture of equal parts: predicted and observed share, in bins of the former.

    Or in cells of the conditions, since shares that are the same everywhere are right on average in any bin of themselves.

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
        inside: np.ndarray | None = None,
        cells: np.ndarray | None = None,
    ) -> Reliability:
        """From events.

        Args:
            processes: Names of the processes.
            predicted: Shares ``(n, C)``.
            labels: Process ``(n,)`` that each event is of, by its number.
            weights: Weights ``(n,)``, with equal sums for all processes.
            n_bins: Number of bins with as many events each.
            region: What the events that are looked at have in common.
            inside: Which of the events ``(n,)`` are looked at; by default all. The others tell how large weights are.
            cells: Number ``(n,)`` of the cell of the conditions that each event is in, instead of bins of the predicted share.
        """
        rows, squares = [], _squares(labels, weights, len(processes))
        if inside is not None:
            predicted, labels, weights = predicted[inside], labels[inside], weights[inside]
            cells = None if cells is None else cells[inside]
        for index, name in enumerate(processes):
            own = predicted[:, index]
            bins = quantile_bins(own, n_bins) if cells is None else cells
            for number in np.unique(bins):
                of_bin = bins == number
                w, total = weights[of_bin], weights[of_bin].sum()
                if not total > 0:  # negative weights, or equal shares
                    continue
                residual = (labels[of_bin] == index) - own[of_bin]
                mean, difference = float(w @ own[of_bin] / total), float(w @ residual / total)
                error = _error(predicted[of_bin], labels[of_bin], w, index, squares) / total
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


def quantile_bins(values: np.ndarray, n_bins: int) -> np.ndarray:
    """In which of so many bins with as many events each the values ``(n,)`` are."""
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, n_bins + 1)[1:-1]), values, side="right")


def _squares(labels: np.ndarray, weights: np.ndarray, n_processes: int) -> np.ndarray:
    """Of each process the sum ``(C, 2)`` of the squares of its weights, by the sum of its weights, and by its events."""
    found = np.zeros((n_processes, 2))
    for process in range(n_processes):
        own = weights[labels == process]
        total = own.sum() if own.sum() > 0 else max(np.abs(own).sum(), 1e-300)
        found[process] = np.square(own).sum() / np.array([total, max(1, len(own))])
    return found


def _error(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray, index: int, squares: np.ndarray) -> float:
    """Standard deviation of the sum of the weighted residuals of a process in a bin, if its shares are right.

    As many events of each process are expected as the shares say, not those that are there: where a bin has none of a process by
    chance, residuals scatter less, and few events of large weight beside many of small weight are most of the scatter. How large
    weights are is what the events of the process in the bin say, where it has some.
    """
    variance = 0.0
    for process, (of_weight, of_event) in enumerate(squares):
        expected = weights @ predicted[:, process]  # sum of weights
        residual = np.square((process == index) - predicted[:, index])
        mean = np.abs(weights) * predicted[:, process]
        average = float(mean @ residual / max(mean.sum(), 1e-300))
        squared, of_events = max(expected, 0.0) * of_weight, _AS_EVERYWHERE * of_event
        # Not the product of the means: in a cell of many shares, weights may be large where residuals are.
        there = float(np.square(weights) @ np.where(labels == process, residual, 0.0))
        variance += squared * (there + of_events * average) / (squared + of_events)
    return float(np.sqrt(variance))

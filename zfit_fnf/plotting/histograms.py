"""Weighted histograms for plots: bins, pulls and chi-square."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import chi2

from ..common.optional import require
from ..samples import Sample
from .style import INK, draw_sigma_bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Bins",
    "ChiSquare",
    "bin_edges",
    "chi_square",
    "counting_variance",
    "draw_pulls",
    "histogram",
    "observable_title",
    "per_bin",
]

Bins = int | np.integer[Any] | tuple[int, float, float] | Sequence[float] | np.ndarray
"""At most how many bins of a round width cover the events, ``(number, low, high)``, or the edges."""

_ENOUGH_EXPECTED = 5  # events in a bin, from which on its pull is nearly Gaussian


def histogram(sample: Sample, column: str, edges: np.ndarray) -> Any:
    """Weighted counts of a column with their variances, as a ``hist.Hist``."""
    hist = require("hist", extra="plot")
    filled = hist.Hist(hist.axis.Variable(edges, name=column), storage=hist.storage.Weight())
    return filled.fill(sample.columns[column], weight=sample.weights)


def bin_edges(bins: Bins, values: np.ndarray, *, tails: float = 0.0) -> np.ndarray:
    """Bin edges; a mere number of bins spans the values, apart from a fraction in each tail."""
    if isinstance(bins, (int, np.integer)) and bins > 0:
        if not len(values):
            raise ValueError(f"bins={bins} cover the events, and there are none: give (number, low, high) or edges")
        return _round_edges(int(bins), *np.quantile(values, [tails, 1.0 - tails]))
    if isinstance(bins, tuple) and len(bins) == 3 and isinstance(bins[0], (int, np.integer)):
        edges = np.linspace(bins[1], bins[2], bins[0] + 1)
    else:
        edges = np.asarray(bins, float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"bins= is a number, (number, low, high) or ascending edges; got {bins!r}")
    return edges


def _round_edges(most: int, low: float, high: float) -> np.ndarray:
    """Edges at multiples of the smallest round width with which at most ``most`` bins contain both ends."""
    if most == 1:
        return np.array([low, np.nextafter(high, np.inf)])  # multiples may need two
    span = max(high - low, 1e-9 * max(abs(low), abs(high), 1.0))
    for exponent in itertools.count(math.floor(math.log10(span / most))):
        for digits in (1.0, 2.0, 2.5, 5.0):
            width = digits * 10.0**exponent
            first, last = math.floor(low / width), math.floor(high / width) + 1
            if last - first <= most:
                return width * np.arange(first, last + 1)
    raise AssertionError("two bins are wide enough at last")


def per_bin(edges: np.ndarray, unit: str | None = None) -> str:
    """Denominator of an axis of counts: the width of the bins, or ``bin`` where widths differ."""
    widths = np.diff(edges)
    if not np.allclose(widths, widths[0]):
        return "bin"
    return f"{widths[0]:.3g}" + ("" if unit is None else f" {unit}")


def observable_title(label: str, unit: str | None) -> str:
    """Title of the axis of an observable, with its unit in brackets."""
    return label if unit is None else f"{label} [{unit}]"


@dataclass(frozen=True)
class ChiSquare:
    r"""Agreement of binned data with a model, :math:`\chi^2 = \sum (n - m)^2 / \sigma^2`; prints as text for a plot.

    Attributes:
        value: The sum over the bins.
        n_bins: Number of bins with enough expected events for it, which count as degrees of freedom.
    """

    value: float
    n_bins: int

    @property
    def p_value(self) -> float:
        """Probability of a larger value if the model is true; NaN without bins."""
        return float(chi2.sf(self.value, self.n_bins)) if self.n_bins else float("nan")

    def __str__(self) -> str:
        if not self.n_bins:
            return ""
        return rf"$\chi^2$ / bins = {self.value:.1f} / {self.n_bins}, p = {self.p_value:.2g}"


def counting_variance(
    sample: Sample, column: str, edges: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the sum of weights of data in each bin, and number of events that is expected there.

    A bin that happens to be empty is as uncertain as others. With weights of both signs, where the expected sum says nothing
    of the events that cancel in it, both are those of the observed events.

    Args:
        sample: The data.
        column: The column that is filled.
        edges: Edges of the bins.
        expected: The sums of weights that a model expects.
    """
    if sample.weights is None:
        return expected, expected
    filled = histogram(sample, column, edges)
    sums, squares = filled.values(), filled.variances()
    if np.min(sample.weights, initial=0.0) < 0:
        return squares, np.histogram(sample.columns[column], edges)[0].astype(float)
    everywhere = squares.sum() / sums.sum() if sums.sum() > 0 else 1.0
    weight = np.divide(squares, sums, out=np.full_like(sums, everywhere), where=sums > 0)
    return expected * weight, expected / weight


def chi_square(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, n_events: np.ndarray) -> ChiSquare:
    """Agreement of counts with a model, over the bins with at least five expected events.

    Args:
        observed: Sums of weights of the data.
        expected: Those of the model.
        variance: Variance of their difference.
        n_events: Number of events that is expected, which of weighted data is not the sum of weights.
    """
    enough = (n_events >= _ENOUGH_EXPECTED) & (variance > 0)
    return ChiSquare(float(np.sum((observed - expected)[enough] ** 2 / variance[enough])), int(enough.sum()))


def draw_pulls(edges: np.ndarray, observed: np.ndarray, expected: np.ndarray, variance: np.ndarray, ax: Axes) -> None:
    """Pulls of the bins whose variance is known, over the bands of one and two standard deviations."""
    centres = 0.5 * (edges[1:] + edges[:-1])
    known = variance > 0
    pull = (observed - expected)[known] / np.sqrt(variance[known])
    draw_sigma_bands(ax, horizontal=True)
    ax.errorbar(centres[known], pull, yerr=1.0, fmt="o", color=INK, markersize=3, linewidth=1)
    reach = max(4.0, 1.2 * float(np.max(np.abs(pull), initial=0.0)) + 1.0)
    ax.set(ylabel="pull", ylim=(-reach, reach), yticks=[-2, 0, 2])

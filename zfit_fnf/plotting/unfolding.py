"""Plots of unfolded distributions; as in `zfit_fnf.plotting`, functions take results and return axes."""

from __future__ import annotations

import numpy as np

from ..common.optional import require
from ..doi.variations import Uncertainty
from .doi import bands_of
from .histograms import per_bin
from .style import BLUE, RED, legend_above

__all__ = ["spectrum"]


def spectrum(
    band: Uncertainty, *, expected: np.ndarray | None = None, label: str = "expected", axes: np.ndarray | None = None
) -> np.ndarray:
    """An unfolded distribution with its uncertainties, and the correlations between its bins.

    Args:
        band: Numbers in bins of one observable: `zfit_fnf.doi.unfolded`, evaluated.
        expected: What they are compared with, by a chi-square with the whole covariance.
        label: Of what is expected.
        axes: Where to draw ``(2,)``: the spectrum, the correlation matrix; by default in a new figure.

    Returns:
        The axes ``(2,)``.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
        ValueError: If the band is not a histogram of one observable, or what is expected has other bins.

    Example:
        >>> spectrum(maps.evaluate(unfolded(data, {"mass": np.linspace(80, 100, 21)})))
    """
    if len(band.edges) != 1:
        raise ValueError(f"a spectrum is a histogram of one observable; the band has bins of {list(band.edges)}")
    ((name, edges),) = band.edges.items()
    if expected is not None and np.shape(expected) != band.value.shape:
        raise ValueError(f"expected= has the shape {np.shape(expected)}, the band {band.value.shape}")
    if axes is None:
        axes = np.asarray(
            require("matplotlib.pyplot", extra="plot").subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")[1]
        )
    ax, ax_correlation = axes
    for width, colour, text in bands_of(band):
        low, high = band.value - width, band.value + width
        ax.stairs(high, edges, baseline=low, fill=True, color=colour, linewidth=0, label=text)
    ax.stairs(band.value, edges, baseline=None, color=BLUE, linewidth=1.3, label="unfolded data")
    known = len(band.replicas) > 1
    if expected is not None:
        chi2 = f", chi2 = {band.chi2(expected):.1f} / {band.value.size}" if known else ""
        ax.stairs(expected, edges, baseline=None, color=RED, linestyle="dashed", label=label + chi2)
    ax.set(xlabel=name, ylabel=f"events / {per_bin(edges)}", xlim=(edges[0], edges[-1]))
    if np.min(band.value) >= 0:  # weights of both signs may sum to less
        ax.set_ylim(0, None)
    legend_above(ax, columns=2)
    covariance = band.covariance(None if known else "systematic")
    errors = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    mesh = ax_correlation.pcolormesh(
        edges, edges, covariance / np.outer(errors, errors), cmap="RdBu_r", vmin=-1, vmax=1
    )
    what = "correlation" if known else "correlation (systematic part)"
    ax_correlation.figure.colorbar(mesh, ax=ax_correlation, label=what)
    ax_correlation.set(xlabel=name, ylabel=name, aspect="equal")
    return np.asarray(axes)

"""Reliability of conditional fractions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..densities.reliability import Reliability
from .style import INK, current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["reliability"]


def reliability(curve: Reliability, *, ax: Axes | None = None) -> Axes:
    """Observed against predicted share of each process, with errors.

    Args:
        curve: The reliability, of fractions or of other events.
        ax: Where to draw; by default in the current figure.

    Returns:
        The axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> reliability(fractions.reliability)
    """
    ax = current_axes() if ax is None else ax
    ax.plot([0, 1], [0, 1], color=INK, linestyle="dotted", linewidth=1.2)
    for process, part in curve.to_dataframe().groupby("process", sort=False):
        ax.errorbar(part["predicted"], part["observed"], yerr=part["error"], fmt="o", markersize=3.5, label=process)
    ax.set(xlabel="predicted share, in equal parts", ylabel="observed share", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_title(f"calibration error {curve.calibration_error:.2g}, p-value {curve.p_value:.2g}", fontsize="medium")
    ax.legend(frameon=False)
    return ax

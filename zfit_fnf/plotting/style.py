"""What all plots share: axes, colours, legends, labels, and figures in files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.files import complete
from ..common.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "FILLS",
    "GREEN",
    "INK",
    "RED",
    "YELLOW",
    "current_axes",
    "draw_sigma_bands",
    "figure",
    "legend_above",
    "rounded",
]

FILLS = ("#92bfdb", "#fdc086", "#a8d8a0", "#c7b5de", "#e9d18b", "#d0d0d0")
INK, RED, BLUE, GREEN, YELLOW = "#1a1a1a", "#b2182b", "#2166ac", "#85d17c", "#ffdf7f"

_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": "medium",
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
}


def current_axes() -> Axes:
    """Matplotlib's current axes.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.
    """
    return require("matplotlib.pyplot", extra="plot").gca()


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure in the package's style, saved as PNG at the end of the context.

    Args:
        path: The file; it appears when it is complete.
        size: Width and height in inches.

    Raises:
        ImportError: If Matplotlib is missing, with the command that installs it.

    Example:
        >>> with figure(Path("pulls.png"), (6, 4)) as fig:
        ...     zfit_fnf.plotting.pulls(result, ax=fig.subplots())
    """
    with require("matplotlib", extra="plot").rc_context(_STYLE):
        fig = require("matplotlib.figure", extra="plot").Figure(figsize=size, layout="constrained")
        yield fig
        with complete(path) as draft:
            fig.savefig(draft, format="png", dpi=150)


def draw_sigma_bands(ax: Axes, *, horizontal: bool = False) -> None:
    """Bands of one and two standard deviations around a line at zero: the background of pulls."""
    span, line = (ax.axhspan, ax.axhline) if horizontal else (ax.axvspan, ax.axvline)
    span(-2, 2, color=YELLOW, linewidth=0)
    span(-1, 1, color=GREEN, linewidth=0)
    line(0, color="white", linewidth=1)


def legend_above(ax: Axes, *, columns: int | None = None) -> None:
    """A legend that covers nothing, by default in one row."""
    ncols = len(ax.get_legend_handles_labels()[0]) if columns is None else columns
    ax.legend(ncols=ncols, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, columnspacing=1.2)


def rounded(value: float, error: float) -> str:
    """Value and error with two digits of the error; the value alone where there is none."""
    if not error > 0:
        return f"{value:.3g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return rf"${value:.{digits}f} \pm {error:.{digits}f}$"

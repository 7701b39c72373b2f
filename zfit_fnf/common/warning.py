"""Warnings that point at the code of the user."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]

_INSIDE = {__name__.partition(".")[0], "zfit", "hepstats", "iminuit", "scipy", "tensorflow"}


def warn(message: str) -> None:
    """Give a `UserWarning` at the line that called the package, past the libraries that are in between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)

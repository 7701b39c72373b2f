"""The window of step 2: how far the parameters are moved from the best fit, and along which axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import qmc

from .rows import nuisance_ranges
from .step1 import TransferFit

__all__ = ["axes_of_errors", "axes_of_window", "headroom_of", "inside", "low_discrepancy_shifts"]

_N_SIGMA = 6.0  # half width of the window, in standard errors with the map fixed; half as many when it is free
_LEAST = 0.5  # standard errors: headroom that is left to a parameter at the edge of its range
_POINTS = 14  # log2 of the number of shifts


def axes_of_errors(fit: TransferFit) -> np.ndarray:
    """Principal axes of the standardised covariance as columns, several standard errors long."""
    if not np.isfinite(fit.covariance).all():
        raise ValueError("the global fit has no covariance to choose a window from: give window=")
    errors = np.sqrt(np.diag(fit.covariance))
    lengths, directions = np.linalg.eigh(fit.covariance / np.outer(errors, errors))
    return _N_SIGMA * errors[:, None] * directions * np.sqrt(lengths)


def axes_of_window(fit: TransferFit, window: Mapping[str, float]) -> np.ndarray:
    """Half widths that the user has chosen, as a diagonal matrix."""
    if set(window) != set(fit.values) or not all(0 < half < np.inf for half in window.values()):
        raise ValueError(f"window= needs a positive half width for each of {list(fit.values)}; got {dict(window)}")
    return np.diag([window[name] for name in fit.values])


def headroom_of(fit: TransferFit, axes: np.ndarray, *, chosen: bool) -> np.ndarray:
    """How far ``(P,)`` each parameter may move to both sides within its limits and the trained range of deformations."""
    ranges, headroom = nuisance_ranges(fit.model), []
    for (name, parameter), reach in zip(fit.parameters.items(), np.abs(axes).sum(axis=1), strict=True):
        value, low, high = ranges.get(name, (fit.values[name], -np.inf, np.inf))
        if chosen and (value - reach < low or value + reach > high):
            raise ValueError(
                f"window= of {name!r} reaches from {value - reach:.3g} to {value + reach:.3g}, but its deformation was "
                f"trained between {low:g} and {high:g} only: choose a narrower window, or train with variations further out"
            )
        limits = [float(edge) for edge in (parameter.lower, parameter.upper) if edge is not None]
        to_edge = [abs(edge - value) for edge in (low, high, *limits)]
        headroom.append(max(min([np.inf, *to_edge]), _LEAST * fit.errors[name]))
    return np.array(headroom)


def inside(shifts: np.ndarray, axes: np.ndarray, headroom: np.ndarray) -> np.ndarray:
    """Shifts ``(..., P)`` along the axes, clipped so that no parameter exceeds its headroom."""
    moved = np.clip(shifts @ axes.T, -headroom, headroom)
    return moved @ np.linalg.inv(axes).T


def low_discrepancy_shifts(axes: np.ndarray, headroom: np.ndarray, seed: int) -> np.ndarray:
    """Low-discrepancy shifts in the window."""
    cube = qmc.Sobol(len(axes), seed=seed).random_base2(_POINTS)
    return inside(2.0 * cube - 1.0, axes, headroom).astype(np.float32)

"""The window of step 2: how far the parameters are moved from the best fit, and along which axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .rows import nuisance_ranges
from .step1 import TransferFit

__all__ = ["axes_of_covariance", "axes_of_window", "ends_of", "headroom_of", "of_constraints"]

_N_SIGMA = 4.0  # half width of the window, in standard errors of the profile likelihood
_OF_CONSTRAINTS = 2.0  # where data say nothing
_NOTHING = 0.95  # of the information is that of constraints
_LEAST = 0.5  # standard errors: headroom that is left to a parameter at the edge of its range


def axes_of_covariance(covariance: np.ndarray, prior: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Principal axes of the standardised covariance as columns, several standard errors long.

    An axis about which data say next to nothing is shorter: there is nothing to be found out far away.

    Args:
        covariance: Of the profile likelihood ``(P, P)``.
        prior: Information of the constraints ``(P, P)``.
        moves: Expected distance ``(P,)`` of its minimum from the start, by which the axes are longer.
    """
    errors = np.sqrt(np.diag(covariance))
    variances, directions = np.linalg.eigh(covariance / np.outer(errors, errors))
    axes = errors[:, None] * directions * np.sqrt(variances)
    lengths = np.where(of_constraints(axes, prior), _OF_CONSTRAINTS, _N_SIGMA)
    return axes * (lengths + np.abs(directions.T @ (moves / errors)) / np.sqrt(variances))


def of_constraints(axes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Whether axes of one standard error ``(P, P)`` owe nearly all of their information to constraints, ``(P,)``."""
    return np.einsum("ik,ij,jk->k", axes, prior, axes) > _NOTHING


def axes_of_window(fit: TransferFit, window: Mapping[str, float]) -> np.ndarray:
    """Half widths that the user has chosen, as a diagonal matrix."""
    if set(window) != set(fit.values) or not all(0 < half < np.inf for half in window.values()):
        raise ValueError(f"window= needs a positive half width for each of {list(fit.values)}; got {dict(window)}")
    return np.diag([window[name] for name in fit.values])


def headroom_of(fit: TransferFit, axes: np.ndarray, errors: np.ndarray, *, chosen: bool) -> np.ndarray:
    """How far ``(P,)`` each parameter may move to both sides within its limits and the trained range of deformations."""
    headroom = []
    for name, reach, error in zip(fit.values, np.abs(axes).sum(axis=1), errors, strict=True):
        value, (low, high) = fit.values[name], _trained(fit, name)
        if chosen and (value - reach < low or value + reach > high):
            raise ValueError(
                f"window= of {name!r} reaches from {value - reach:.3g} to {value + reach:.3g}, but its deformation was "
                f"trained between {low:g} and {high:g} only: choose a narrower window, or train with variations further out"
            )
        to_edge = [abs(edge - value) for edge in (low, high, *_limits(fit, name))]
        headroom.append(max(min([np.inf, *to_edge]), _LEAST * error))
    return np.array(headroom)


def ends_of(fit: TransferFit, window: Mapping[str, float]) -> list[str]:
    """In words, which windows end where the parameter does, or where its deformations were trained."""
    ends = []
    for name, half in window.items():
        reached = (1.0 + 1e-9) * half
        ends += [
            f"that of {name} ends at {edge:g}, {what}"
            for what, edges in (("its limit", _limits(fit, name)), ("where its training ends", _trained(fit, name)))
            for edge in edges
            if abs(edge - fit.values[name]) <= reached
        ]
    return ends


def _trained(fit: TransferFit, name: str) -> tuple[float, float]:
    _, low, high = nuisance_ranges(fit.model).get(name, (0.0, -np.inf, np.inf))
    return low, high


def _limits(fit: TransferFit, name: str) -> list[float]:
    parameter = fit.parameters[name]
    return [float(edge) for edge in (parameter.lower, parameter.upper) if edge is not None]

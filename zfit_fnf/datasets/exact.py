"""Fits of likelihoods that are known exactly, and what their problems share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ExactFit", "Nu", "by_name", "log_normal", "minimise", "point_of"]

Nu = Mapping[str, float] | Sequence[float] | np.ndarray | None
"""A nuisance point, given by name, in order, or as the origin."""

_LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class ExactFit:
    """Maximum-likelihood estimate of an exactly known likelihood.

    Attributes:
        values: Estimate of each nuisance parameter, in standard deviations.
        errors: Symmetric (HESSE) error of each.
        covariance: Covariance matrix in the order of `values`.
        nll: Negative log-likelihood at the minimum, constraints included.
        minos: Asymmetric errors `(lower < 0, upper > 0)` of each, if they were asked for.
    """

    values: dict[str, float]
    errors: dict[str, float]
    covariance: np.ndarray
    nll: float
    minos: dict[str, tuple[float, float]] | None = None


def minimise(nll: Callable[[np.ndarray], float], start: np.ndarray, names: Sequence[str], *, minos: bool) -> ExactFit:
    """Minimum of a negative log-likelihood by Minuit."""
    from iminuit import Minuit

    fit = Minuit(nll, start, name=tuple(names))
    fit.errordef = Minuit.LIKELIHOOD
    fit.errors = 0.1
    fit.strategy = 1
    fit.migrad()
    fit.hesse()
    if not fit.valid:
        raise RuntimeError(f"the exact fit did not converge:\n{fit.fmin}")
    if minos:
        fit.minos()
    return ExactFit(
        values=by_name(names, fit.values),
        errors=by_name(names, fit.errors),
        covariance=np.asarray(fit.covariance),
        nll=float(fit.fval),
        minos={name: (fit.merrors[name].lower, fit.merrors[name].upper) for name in names} if minos else None,
    )


def point_of(nu: Nu, names: Sequence[str]) -> np.ndarray:
    """A nuisance point as an array in the order of `names`."""
    if nu is None:
        return np.zeros(len(names))
    if isinstance(nu, Mapping):
        unknown = [name for name in nu if name not in names]
        if unknown:
            raise ValueError(f"unknown nuisance {', '.join(map(repr, unknown))}; the nuisances are {list(names)}")
        nu = [nu.get(name, 0.0) for name in names]
    point = np.asarray(nu, dtype=float)
    if point.shape != (len(names),) or not np.isfinite(point).all():
        raise ValueError(f"expected one finite number for each nuisance of {list(names)}; got {nu!r}")
    return point


def by_name(names: Sequence[str], values: Any) -> dict[str, float]:
    """Numbers by name."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def log_normal(standardised: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    """Sum over variables (rows) of independent normal log-densities."""
    return -0.5 * np.sum(standardised**2 + _LOG_2PI, axis=0) - np.sum(log_scale, axis=0)

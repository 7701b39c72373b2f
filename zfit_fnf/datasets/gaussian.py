"""Correlated Gaussians whose means are linear in any number of nuisances: fits of them are linear algebra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..samples import as_sample
from .exact import ExactFit, Nu, by_name, log_normal, point_of

__all__ = ["GaussianNuisances"]


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianNuisances:
    """Gaussian observables whose mean moves linearly with the nuisances: everything has a closed form.

        y ~ N(mean + response nu, covariance),    nu_k ~ N(0, 1) as constraint

    The negative log-likelihood is a quadratic form in `nu`, and so are all its profiles.

    Args:
        mean: Mean of the observables at `nu = 0`, shape `(d,)`.
        response: Change of the mean per standard deviation of each nuisance, shape `(d, K)`.
        covariance: Covariance of the observables, shape `(d, d)`.
        observables: Their names; y1 ... yd by default.
        nuisances: Their names; nu1 ... nuK by default.

    Raises:
        ValueError: If shapes or the number of names do not match, or the covariance is not positive definite.

    Example:
        >>> toy = GaussianNuisances(mean=[0.0], response=[[0.1, 0.2]], covariance=[[1.0]])
        >>> toy.fit(toy.simulate(1000, {"nu1": 0.5}, seed=1)).errors["nu1"]
    """

    mean: np.ndarray
    response: np.ndarray
    covariance: np.ndarray
    observables: tuple[str, ...] = ()
    nuisances: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        mean, response, covariance = (np.asarray(v, dtype=float) for v in (self.mean, self.response, self.covariance))
        d = mean.size
        if mean.ndim != 1 or response.ndim != 2 or len(response) != d or covariance.shape != (d, d):
            raise ValueError(
                "expected shapes (d,), (d, K) and (d, d) for mean, response and covariance; got "
                f"{mean.shape}, {response.shape} and {covariance.shape}"
            )
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError(f"the covariance must be symmetric and positive definite; got {covariance.tolist()}")
        fields = {
            "mean": mean,
            "response": response,
            "covariance": covariance,
            "observables": _names(self.observables, "y", d),
            "nuisances": _names(self.nuisances, "nu", response.shape[1]),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def random(cls, d: int, k: int, *, seed: int = 0) -> GaussianNuisances:
        """A problem with `d` correlated observables of unit width and `k` nuisances that move them by about 0.3."""
        rng = np.random.default_rng(seed)
        factor = np.eye(d) + 0.5 * rng.standard_normal((d, d)) / np.sqrt(d)
        covariance = factor @ factor.T
        width = np.sqrt(np.diag(covariance))
        response = 0.3 * rng.standard_normal((d, k))
        return cls(mean=rng.standard_normal(d), response=response, covariance=covariance / np.outer(width, width))

    def simulate(self, n: int, nu: Nu = None, seed: int = 0) -> pd.DataFrame:
        """Draws `n` events at a nuisance point.

        Args:
            n: Number of events.
            nu: Nuisance point, as a mapping from names (missing ones are zero) or in the order of `nuisances`.
            seed: The same seed gives the same random numbers at every `nu`.

        Returns:
            One column per observable.
        """
        normal = np.random.default_rng(seed).standard_normal((n, self.mean.size))
        y = self._mean_at(point_of(nu, self.nuisances)) + normal @ np.linalg.cholesky(self.covariance).T
        return pd.DataFrame(y, columns=list(self.observables))

    def log_prob(self, events: Any, nu: Nu = None) -> np.ndarray:
        """Exact log-density of each event at a nuisance point, shape `(n,)`."""
        residual = self._events(events) - self._mean_at(point_of(nu, self.nuisances))
        factor = np.linalg.cholesky(self.covariance)
        standardised = np.linalg.solve(factor, residual.T)
        return log_normal(standardised, np.log(np.diag(factor))[:, None])

    def nll(self, events: Any, nu: Nu = None) -> float:
        """Negative log-likelihood of the events with the constraint `sum nu^2 / 2`."""
        point = point_of(nu, self.nuisances)
        return float(-self.log_prob(events, point).sum() + 0.5 * point @ point)

    def fit(self, events: Any) -> ExactFit:
        """Closed-form maximum-likelihood estimate with all constraints; MINOS equals HESSE, `nll` is quadratic."""
        y = self._events(events)
        information = np.linalg.solve(self.covariance, self.response).T
        covariance = np.linalg.inv(len(y) * information @ self.response + np.eye(len(self.nuisances)))
        values = covariance @ information @ (y - self.mean).sum(axis=0)
        errors = np.sqrt(np.diag(covariance))
        return ExactFit(
            values=by_name(self.nuisances, values),
            errors=by_name(self.nuisances, errors),
            covariance=covariance,
            nll=self.nll(events, values),
            minos={name: (-float(error), float(error)) for name, error in zip(self.nuisances, errors, strict=True)},
        )

    def profile_nll(self, events: Any, fixed: Mapping[str, float]) -> float:
        """Minimum of `nll` over all nuisances that are not in `fixed`, in closed form.

        Example:
            >>> toy.profile_nll(events, {"nu1": 0.3}) - toy.fit(events).nll
        """
        point_of(fixed, self.nuisances)
        best = self.fit(events)
        rows = [self.nuisances.index(name) for name in fixed]
        distance = np.array([fixed[name] - best.values[name] for name in fixed])
        return best.nll + float(0.5 * distance @ np.linalg.solve(best.covariance[np.ix_(rows, rows)], distance))

    def _events(self, events: Any) -> np.ndarray:
        return as_sample(events, self.observables).array(self.observables)

    def _mean_at(self, nu: np.ndarray) -> np.ndarray:
        return self.mean + self.response @ nu


def _names(names: Sequence[str], prefix: str, count: int) -> tuple[str, ...]:
    chosen = tuple(names) or tuple(f"{prefix}{i + 1}" for i in range(count))
    if len(set(chosen)) != count:
        raise ValueError(f"expected {count} different names ({prefix}1, ...); got {list(chosen)}")
    return chosen

"""The efficiency as a function of conditions, with its covariance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from ..densities.history import History
from ..densities.networks import MaskedMLP, last_hidden_layer
from ..samples import as_sample
from .model import HEADS, Likelihood

__all__ = ["Efficiency", "Member", "TagProbeResult"]


@dataclass(frozen=True)
class Efficiency:
    """Efficiencies, or ratios of them, at some points or in some bins.

    Attributes:
        values: The values ``(n,)``.
        covariance: Their covariance ``(n, n)``.
    """

    values: np.ndarray
    covariance: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations ``(n,)``."""
        return np.sqrt(np.diag(self.covariance))

    def __truediv__(self, other: Efficiency) -> Efficiency:
        """The ratio, such as a scale factor of data over simulation; the two are independent."""
        ratio = self.values / other.values
        a, b = (
            self.covariance / np.outer(other.values, other.values),
            other.covariance / np.outer(other.values, other.values),
        )
        return Efficiency(ratio, a + np.outer(ratio, ratio) * b)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each."""
        return pd.DataFrame({"value": self.values, "error": self.errors})

    def __str__(self) -> str:
        return self.to_dataframe().to_string(float_format=lambda value: f"{value:.4f}")


@dataclass(frozen=True)
class Member:
    """One member of the ensemble.

    Attributes:
        network: Its hidden layers.
        numbers: What is linear in features: the logits first, then coefficients of the shapes.
        covariance: The sandwich.
        history: Its training.
    """

    network: MaskedMLP
    numbers: np.ndarray
    covariance: np.ndarray
    history: History

    def logit(self, c: np.ndarray, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A logit ``(n,)`` at standardised conditions, its features ``(n, H + 1)`` and their covariance."""
        basis = last_hidden_layer(self.network, c)
        own = slice(head * basis.shape[1], (head + 1) * basis.shape[1])
        return basis @ self.numbers[own], basis, self.covariance[own, own]


@dataclass(frozen=True, eq=False)
class TagProbeResult:
    """What `fit` has found.

    Attributes:
        cond: Names of the conditions.
        ranges: Range of each condition in the data.
        members: The members of the ensemble.
        likelihood: The shapes.
        window: Range of the mass.
    """

    cond: tuple[str, ...]
    ranges: dict[str, tuple[float, float]]
    moments: tuple[np.ndarray, np.ndarray] = field(repr=False)
    members: tuple[Member, ...]
    likelihood: Likelihood
    window: tuple[float, float]
    pairs: Any = field(repr=False)

    def efficiency(self, points: Any) -> Efficiency:
        """The efficiency at some conditions, with the covariance between any of them.

        The mean over the members. Its covariance is the mean of their sandwiches, and what members differ by.

        Args:
            points: Table with the conditions.

        Raises:
            ValueError: For bad columns, and points outside of the range of the data.
        """
        x = as_sample(points, self.cond).array(self.cond)
        for name, column in zip(self.cond, x.T, strict=True):
            low, high = self.ranges[name]
            if np.any((column < low) | (column > high)):
                raise ValueError(
                    f"the data have {name!r} from {low:.4g} to {high:.4g}: of probes outside nothing is known, such as at "
                    f"{column[(column < low) | (column > high)][0]:.4g}"
                )
        return self._mean(self._standardised(x), np.eye(len(x)))

    def bins(self, regions: Mapping[Any, np.ndarray]) -> Efficiency:
        """Efficiencies integrated over regions, each the mean over the signal pairs of the data that are inside.

        Args:
            regions: For each region, which of the pairs in the window are inside: booleans, or a function of the table of their
                conditions.
        """
        table = pd.DataFrame(self.pairs.x, columns=list(self.cond))
        shares = self.signal_share() * self.pairs.weights
        rows = [np.asarray(one(table) if callable(one) else one, float) * shares for one in regions.values()]
        if empty := [name for name, row in zip(regions, rows, strict=True) if not row.sum() > 0]:
            raise ValueError(f"no pairs are in the regions {empty}")
        return self._mean(self.pairs.c, np.array([row / row.sum() for row in rows]))

    def signal_share(self) -> np.ndarray:
        """Share of the signal ``(n,)`` at the conditions of each pair, mass and outcome aside."""
        return np.mean([expit(member.logit(self.pairs.c, 2)[0]) for member in self.members], axis=0)

    def scale_factor(self, other: TagProbeResult, points: Any) -> Efficiency:
        """Ratio of the efficiencies of this fit and of another, independent one, such as data over simulation, at some points."""
        return self.efficiency(points) / other.efficiency(points)

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        centre, scale = self.moments
        found: np.ndarray = (x - centre) / scale
        return found

    def _mean(self, c: np.ndarray, weigh: np.ndarray) -> Efficiency:
        """Weighted means ``(k,)`` of the efficiencies at conditions ``c (n, m)``, with weights ``(k, n)``."""
        values, covariances = [], []
        for member in self.members:
            logit, basis, covariance = member.logit(c, 0)
            own = expit(logit)
            slopes = weigh @ (basis * (own * (1 - own))[:, None])
            values.append(weigh @ own)
            covariances.append(slopes @ covariance @ slopes.T)
        spread = np.cov(np.array(values).T, ddof=1).reshape(len(weigh), -1) if len(values) > 1 else 0.0
        return Efficiency(np.mean(values, axis=0), np.mean(covariances, axis=0) + spread)

    def __str__(self) -> str:
        whole = self.bins({"all": np.ones(len(self.pairs.t), bool)})
        return (
            f"efficiency given {', '.join(self.cond)}: {whole.values[0]:.4f} +- {whole.errors[0]:.4f} on average over "
            f"{len(self.pairs.t)} pairs, {len(self.members)} members of {HEADS} heads"
        )

"""The efficiency as a function of conditions, with its covariance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from ..samples import as_sample
from .member import Member
from .model import HEADS, Likelihood
from .pairs import Columns, Moments, Pairs
from .spectrum import Spectrum, spectrum_of

__all__ = ["Efficiency", "TagProbeResult"]


@dataclass(frozen=True)
class Efficiency:
    """Efficiencies, or ratios of them, at some points or in some bins.

    Attributes:
        values: The values ``(n,)``.
        sources: Their covariance ``(n, n)`` from each source: ``statistics``, ``networks``, and each alternative.
    """

    values: np.ndarray
    sources: Mapping[str, np.ndarray]

    @property
    def covariance(self) -> np.ndarray:
        """Covariance ``(n, n)`` of all sources."""
        return np.sum(list(self.sources.values()), axis=0)

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations ``(n,)``."""
        return np.sqrt(np.diag(self.covariance))

    def __truediv__(self, other: Efficiency) -> Efficiency:
        """The ratio, such as a scale factor of data over simulation; the two are independent."""
        ratio = self.values / other.values
        scale = np.outer(other.values, other.values)
        sources = {name: covariance / scale for name, covariance in self.sources.items()}
        sources["denominator"] = np.outer(ratio, ratio) * other.covariance / scale + sources.get("denominator", 0.0)
        return Efficiency(ratio, sources)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each: value, error, and the error from each source."""
        parts = {name: np.sqrt(np.diag(covariance)) for name, covariance in self.sources.items()}
        return pd.DataFrame({"value": self.values, "error": self.errors, **parts})

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        sources = {name: covariance.tolist() for name, covariance in self.sources.items()}
        return {"values": self.values.tolist(), "errors": self.errors.tolist(), "sources": sources}

    def __str__(self) -> str:
        return self.to_dataframe().to_string(float_format=lambda value: f"{value:.4f}")


@dataclass(frozen=True, eq=False)
class TagProbeResult:
    """What `fit` has found.

    Attributes:
        columns: What the columns of pairs are.
        ranges: Range of each condition in the data.
        moments: Mean and width of each condition.
        members: The members of the ensemble.
        likelihood: The shapes.
        pairs: The data; none if it was read from a file.
        alternatives: The same with other shapes.
    """

    columns: Columns
    ranges: Mapping[str, tuple[float, float]]
    moments: Moments = field(repr=False)
    members: tuple[Member, ...]
    likelihood: Likelihood
    pairs: Pairs | None = field(repr=False)
    alternatives: Mapping[str, TagProbeResult] = field(default_factory=dict, repr=False)

    @property
    def cond(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return self.columns.cond

    def efficiency(self, points: Any) -> Efficiency:
        """The efficiency at some conditions, with the covariance between any of them.

        The mean over the members. Its covariance is the mean of their sandwiches, what members differ by, and what fits
        with alternative shapes differ by.

        Args:
            points: Table with the conditions.

        Raises:
            ValueError: For bad columns, and points outside of the range of the data.
        """
        x = self._checked(as_sample(points, self.cond).array(self.cond))
        return self._mean(self._standardised(x), np.eye(len(x)))

    def bins(self, regions: Mapping[Any, Any], pairs: Any = None, *, over: TagProbeResult | None = None) -> Efficiency:
        """Efficiencies integrated over regions, each the mean over the signal pairs of the data that are inside.

        Args:
            regions: For each region, which of the pairs in the window are inside: booleans, or a function of the table of their
                conditions.
            pairs: Over which pairs the mean is taken; by default over those of the fit, which a file does not have. A table is
                taken without weights: give weighted pairs as a :class:`~zfit_fnf.Sample`.
            over: Another, independent fit that the means are divided by, over the same pairs: scale factors.

        Raises:
            ValueError: If no pairs are in a region, or pairs are outside of the range of the data.
        """
        own = self._pairs(pairs)
        shares = self._signal_share(own.c) * own.weights
        rows = [own.inside(one) * shares for one in regions.values()]
        if empty := [name for name, row in zip(regions, rows, strict=True) if not row.sum() > 0]:
            raise ValueError(f"no pairs are in the regions {empty}")
        weigh = np.array([row / row.sum() for row in rows])
        found = self._mean(own.c, weigh)
        return found if over is None else found / over._mean(over._conditions(own), weigh)

    def signal_share(self, pairs: Pairs | None = None) -> np.ndarray:
        """Share of the signal ``(n,)`` at the conditions of each pair, mass and outcome aside."""
        return self._signal_share(self._pairs(pairs).c)

    def _signal_share(self, c: np.ndarray) -> np.ndarray:
        return np.mean([expit(member.eta(c)[:, 2]) for member in self.members], axis=0)

    def scale_factor(self, other: TagProbeResult, points: Any) -> Efficiency:
        """Ratio of the efficiencies of this fit and of another, independent one, such as data over simulation, at some points."""
        return self.efficiency(points) / other.efficiency(points)

    def spectrum(self, passing: bool, region: Any = None, *, bins: int = 60, pairs: Any = None) -> Spectrum:
        """The mass of passing or of failing probes in a region, and what the fit expects there, in bins.

        Args:
            passing: Whether of passing probes.
            region: Which of the pairs in the window are inside, as in :meth:`bins`; by default all.
            bins: Number of bins.
            pairs: Pairs to be shown; by default those of the fit.
        """
        own = self._pairs(pairs)
        inside = np.ones(len(own.t), bool) if region is None else own.inside(region)
        return spectrum_of(self.members, self.likelihood, own, inside, passing, self.columns.edges(bins))

    def to_dict(self) -> dict[str, Any]:
        """The fit in plain types, ready for JSON: what it is of, and the integrated efficiency if it has its pairs."""
        integrated = self.pairs and self.bins({"all": np.ones(len(self.pairs.t), bool)}).to_dict()
        return {
            "mass": self.columns.mass,
            "window": list(self.columns.window),
            "passing": self.columns.passing,
            "cond": list(self.cond),
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "signal": [type(shape).__name__ for shape in self.likelihood.signals],
            "background": [type(shape).__name__ for shape in self.likelihood.backgrounds],
            "members": [member.history.to_dict() for member in self.members],
            "alternatives": list(self.alternatives),
            "integrated": integrated,
        }

    def _pairs(self, given: Any) -> Pairs:
        """Pairs that are given, standardised as this fit's, or those of the fit."""
        if given is None:
            if self.pairs is None:
                raise ValueError("a file has no pairs: say over which ones, pairs=")
            return self.pairs
        if given is self.pairs:
            return self.pairs
        pairs = Pairs(
            self.columns.read(given.sample if isinstance(given, Pairs) else given), self.columns, self.moments
        )
        self._checked(pairs.x)
        return pairs

    def _conditions(self, pairs: Pairs) -> np.ndarray:
        """Conditions of pairs of another fit, in the order and standardised as this fit has them."""
        if missing := [name for name in self.cond if name not in pairs.table]:
            raise ValueError(f"over= has the conditions {missing}, which the pairs of the first fit do not have")
        return self._standardised(self._checked(pairs.table[list(self.cond)].to_numpy()))

    def _checked(self, x: np.ndarray) -> np.ndarray:
        for name, column in zip(self.cond, x.T, strict=True):
            low, high = self.ranges[name]
            outside = (column < low) | (column > high)
            if outside.any():
                raise ValueError(
                    f"the data have {name!r} from {low:.4g} to {high:.4g}: of probes outside nothing is known, such as at "
                    f"{column[outside][0]:.4g}"
                )
        return x

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        centre, scale = self.moments
        found: np.ndarray = (x - centre) / scale
        return found

    def _mean(self, c: np.ndarray, weigh: np.ndarray) -> Efficiency:
        """Weighted means ``(k,)`` of the efficiencies at conditions ``c (n, m)``, with weights ``(k, n)``."""
        values, covariances = [], []
        for member in self.members:
            own, slopes, covariance = member.efficiency(c)
            slopes = weigh @ slopes
            values.append(weigh @ own)
            covariances.append(slopes @ covariance @ slopes.T)
        mean = np.mean(values, axis=0)
        sources = {"statistics": np.mean(covariances, axis=0)}
        if len(values) > 1:
            sources["networks"] = np.cov(np.array(values).T, ddof=1).reshape(len(weigh), -1)
        for name, other in self.alternatives.items():
            difference = other._mean(c, weigh).values - mean
            sources[name] = np.outer(difference, difference)
        return Efficiency(mean, sources)

    def __str__(self) -> str:
        lines = [
            f"efficiency given {', '.join(self.cond)}: {len(self.members)} members of {HEADS} heads"
            + "".join(f", alternative {name}" for name in self.alternatives)
        ]
        if self.pairs is not None:
            whole = self.bins({"all": np.ones(len(self.pairs.t), bool)})
            lines += [f"mean over {len(self.pairs.t)} pairs:", str(whole)]
        return "\n".join(lines)

"""Pairs of a tag and a probe, read and checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..common.checks import integer, names
from ..common.warning import warn
from ..densities.coordinates import Coordinates
from ..samples import Sample, as_sample, check_trainable
from ..train.loop import Batch

__all__ = ["Columns", "Moments", "Pairs"]

Moments = tuple[np.ndarray, np.ndarray]  # mean and width of each condition

_CANCELLING = 0.2  # share of negative weights that is told where a fit fails
_REGIONS = 4  # of each condition, in which probes have to pass and to fail
_EXPECTED = 10.0  # probes that would pass, or fail, in a region of two conditions, before it is told that none does


@dataclass(frozen=True)
class Columns:
    """What the columns of pairs are.

    Attributes:
        mass: Mass of a pair.
        window: Range of the mass.
        passing: True, or one, for probes that pass.
        cond: Conditions.
    """

    mass: str
    window: tuple[float, float]
    passing: str
    cond: tuple[str, ...]

    @classmethod
    def of(cls, mass: str, window: tuple[float, float], passing: str, cond: Sequence[str]) -> Columns:
        """The columns, if they are different ones, and the window is one."""
        low, high = map(float, window)
        if not -np.inf < low < high < np.inf:
            raise ValueError(f"window= is the range of the mass, such as (60, 120); got {window!r}")
        cond = names(cond, "cond", '["pt", "eta"]')
        every = [mass, passing, *cond]
        if not cond or len(set(every)) < len(every):
            raise ValueError(f"mass=, passing= and cond= are different columns, one condition at least; got {every}")
        return cls(mass, (low, high), passing, cond)

    def read(self, data: Any, weights: Any = None) -> Sample:
        """The pairs inside of the window."""
        sample = as_sample(data, [self.mass, self.passing, *self.cond], weights=weights)
        values = np.asarray(sample.columns[self.mass], float)
        kept = np.flatnonzero((values >= self.window[0]) & (values <= self.window[1]))
        if not kept.size:
            raise ValueError(f"no pairs of {sample.name!r} have {self.mass!r} in the window {self.window}")
        inside = {name: column[kept] for name, column in sample.columns.items()}
        sample = Sample(inside, None if sample.weights is None else sample.weights[kept], sample.name)
        check_trainable(sample)
        if not np.isin(np.asarray(sample.columns[self.passing], float), (0.0, 1.0)).all():
            raise ValueError(
                f"column {self.passing!r} of {sample.name!r} says whether probes pass: it is true or false, or 1 or 0"
            )
        return sample

    def edges(self, bins: int) -> np.ndarray:
        """Edges ``(bins + 1,)`` of bins of the mass."""
        return np.linspace(*self.window, integer(bins, "bins", low=1) + 1)

    def moments(self, sample: Sample) -> Moments:
        """Mean and width of the bulk of each condition."""
        coordinates = Coordinates(self.cond)
        own = {name: sample.columns[name] for name in self.cond}
        coordinates.standardise(Sample(own, sample.weights, sample.name))
        return coordinates._centre.numpy(), coordinates._scale.numpy()


class Pairs:
    """The data as the likelihood sees them.

    Attributes:
        sample: The pairs inside of the window.
        x: Conditions ``(n, m)``.
        c: The same, standardised.
        t: Mass ``(n,)``, from -1 to 1 over the window.
        passing: One for probes that pass, else zero, ``(n,)``.
        weights: Weights ``(n,)``.
    """

    def __init__(self, sample: Sample, columns: Columns, moments: Moments):
        low, high = columns.window
        self.sample, self.held_out = sample, None
        self.x = sample.array(columns.cond)
        self.c = (self.x - moments[0]) / moments[1]
        self.t = (2 * np.asarray(sample.columns[columns.mass], float) - low - high) / (high - low)
        self.passing = np.asarray(sample.columns[columns.passing], float)
        self.weights = np.ones(sample.n_events) if sample.weights is None else np.asarray(sample.weights, float)
        self.table = pd.DataFrame(self.x, columns=list(columns.cond))

    def batch(self, rows: np.ndarray) -> Batch:
        """Conditions, mass, outcome, conditions as they are, weights."""
        columns = (self.c[rows], self.t[rows], self.passing[rows], self.x[rows], self.sample.relative_weights(rows))
        return tuple(np.asarray(column, np.float32) for column in columns)

    def inside(self, region: Callable[[pd.DataFrame], Any] | Any) -> np.ndarray:
        """Which pairs ``(n,)`` are in a region: booleans, or a function of the table of the conditions."""
        found = np.asarray(region(self.table) if callable(region) else region)
        if found.shape != self.t.shape or found.dtype != bool:
            raise ValueError(
                f"a region says true or false of each of {len(self.t)} pairs in the window, or is a function of the table of "
                f"their conditions that does; got {found.dtype} of shape {found.shape}"
            )
        return found

    def of_negative_weights(self) -> str:
        """What weights may have to do with a fit that fails: nothing, unless many of them cancel."""
        share = float(-self.weights[self.weights < 0].sum() / np.abs(self.weights).sum())
        if share < _CANCELLING:
            return ""
        return (
            f"{share:.0%} of the weights are negative, which a likelihood with few effective events does not survive: shapes "
            "become narrow where negative pairs are few, and have no best value; subtract less, or take wider regions and fewer "
            "coefficients"
        )

    def check_outcomes(self) -> None:
        """Refuse quarters of the range of a condition where no probes pass or fail; tell it of regions of two conditions."""
        quarters = [self._quarters(column) for column in self.x.T]
        for name, own in zip(self.table, quarters, strict=True):
            for inside in own:
                if what := self._missing(inside, least=0.0):
                    raise ValueError(
                        f"of {self.sample.name!r}, no probes with {self._range(name, inside)} {what}: there is no "
                        "efficiency to be fitted; leave the region out"
                    )
        for (one, first), (two, second) in itertools.combinations(zip(self.table, quarters, strict=True), 2):
            for a, b in itertools.product(first, second):
                if what := self._missing(a & b, least=_EXPECTED):
                    warn(
                        f"no probes with {self._range(one, a)} and {self._range(two, b)} {what}: what is fitted there is an "
                        "extrapolation from its neighbours, whose error says little"
                    )

    def _missing(self, inside: np.ndarray, least: float) -> str:
        """What no probes do in a region, where so many are expected at the average efficiency."""
        share, number = self.passing.mean(), inside.sum()
        passing = self.passing[inside].sum()
        if not passing and number * share >= least:
            return "pass"
        return "fail" if passing == number and number * (1 - share) >= least else ""

    @staticmethod
    def _quarters(values: np.ndarray) -> list[np.ndarray]:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, _REGIONS + 1)))
        return [(values >= low) & (values <= high) for low, high in itertools.pairwise(edges)]

    def _range(self, name: str, inside: np.ndarray) -> str:
        own = self.table[name][inside]
        return f"{name} from {own.min():.4g} to {own.max():.4g}"

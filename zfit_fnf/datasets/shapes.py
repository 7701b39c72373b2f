"""One nuisance that changes a shape in ways that no shift and no stretch follows, with exact likelihoods.

Each is a density of one observable, or of two given one condition, of which the nuisance changes the first one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..samples import as_sample
from .exact import ExactFit, Nu, log_normal, minimise, point_of

__all__ = ["Composition", "MovingPeak", "NoEffect", "OneNuisance", "Slope", "Tilt"]

_SECOND = (0.5, 0.3, 0.8)  # of the second observable: slope in the first one and in the condition, width


@dataclass(frozen=True, kw_only=True, eq=False)
class OneNuisance(ABC):
    """A density ``p(y | nu)``, or ``p(y1, y2 | x, nu)``, with ``nu ~ N(0, 1)`` as constraint.

    The condition ``x`` is standard normal and moves ``y1``; ``y2`` is normal around ``0.5 tanh(y1) + 0.3 x``, at any ``nu``.

    Args:
        conditional: Two observables given one condition, instead of one observable.

    Example:
        >>> toy = Composition()
        >>> toy.fit(toy.simulate(10_000, 1.0, seed=1)).errors["nu"]
    """

    conditional: bool = False

    nuisances: ClassVar[tuple[str, ...]] = ("nu",)

    @property
    def obs(self) -> tuple[str, ...]:
        """Names of the observables."""
        return ("y1", "y2") if self.conditional else ("y",)

    @property
    def cond(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return ("x",) if self.conditional else ()

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Physical range of the observables that have one."""
        return {}

    def simulate(self, n: int, nu: Nu | float = None, seed: int = 0) -> pd.DataFrame:
        """Draws ``n`` events at a value of the nuisance; other seeds or values are other random numbers."""
        value = self._value(nu)
        rng = np.random.default_rng([seed, int(np.float64(value).view(np.uint64))])
        x = rng.standard_normal(n) if self.conditional else np.zeros(n)
        y = self._draw(rng, value, x)
        if not self.conditional:
            return pd.DataFrame({"y": y})
        of_y, of_x, width = _SECOND
        second = of_y * np.tanh(y) + of_x * x + width * rng.standard_normal(n)
        return pd.DataFrame({"x": x, "y1": y, "y2": second})

    def log_prob(self, events: Any, nu: Nu | float = None) -> np.ndarray:
        """Exact log-density of each event, given its condition if there is one, shape ``(n,)``."""
        columns = as_sample(events, self.cond + self.obs).array(self.cond + self.obs).T
        if not self.conditional:
            return self._log_density(columns[0], self._value(nu), np.zeros(len(columns[0])))
        (x, y, second), (of_y, of_x, width) = columns, _SECOND
        pull = (second - of_y * np.tanh(y) - of_x * x) / width
        return self._log_density(y, self._value(nu), x) + log_normal(pull[None], np.log([[width]]))

    def fit(self, events: Any, *, minos: bool = False) -> ExactFit:
        """Maximises the exact likelihood of the nuisance, with its constraint."""
        sample = as_sample(events, self.cond + self.obs)
        return minimise(
            lambda nu: float(0.5 * nu[0] ** 2 - self.log_prob(sample, float(nu[0])).sum()),
            np.zeros(1),
            self.nuisances,
            minos=minos,
        )

    def _value(self, nu: Nu | float) -> float:
        if isinstance(nu, (int, float)):
            nu = [float(nu)]
        return float(point_of(nu, self.nuisances)[0])

    @abstractmethod
    def _draw(self, rng: np.random.Generator, nu: float, x: np.ndarray) -> np.ndarray:
        """The first observable ``(n,)`` of events with conditions ``x (n,)``."""

    @abstractmethod
    def _log_density(self, y: np.ndarray, nu: float, x: np.ndarray) -> np.ndarray:
        """Log-density ``(n,)`` of the first observable given the condition."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _TwoNormals(OneNuisance):
    """Two normal components, moved by ``0.3 x``."""

    @abstractmethod
    def _components(self, nu: float) -> tuple[float, tuple[float, float], tuple[float, float]]:
        """Fraction of the first component; means; widths."""

    def _draw(self, rng: np.random.Generator, nu: float, x: np.ndarray) -> np.ndarray:
        fraction, means, widths = self._components(nu)
        second = (rng.random(len(x)) >= fraction).astype(int)
        return np.take(means, second) + np.take(widths, second) * rng.standard_normal(len(x)) + 0.3 * x

    def _log_density(self, y: np.ndarray, nu: float, x: np.ndarray) -> np.ndarray:
        fraction, means, widths = self._components(nu)
        of_each = [
            log_normal(((y - 0.3 * x - mean) / width)[None], np.log([[width]]))
            for mean, width in zip(means, widths, strict=True)
        ]
        return np.logaddexp(np.log(fraction) + of_each[0], np.log1p(-fraction) + of_each[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Composition(_TwoNormals):
    """Two components whose shares change, as by a theory weight: ``fraction = 1 / (1 + exp(-rate nu))``.

    Args:
        rate: Change of the logarithm of the ratio of the components per standard deviation.
        distance: Distance of their means.
        width: Width of both.
    """

    rate: float = 0.5
    distance: float = 2.0
    width: float = 0.7

    def _components(self, nu: float) -> tuple[float, tuple[float, float], tuple[float, float]]:
        return 1 / (1 + np.exp(-self.rate * nu)), (-self.distance / 2, self.distance / 2), (self.width, self.width)


@dataclass(frozen=True, kw_only=True, eq=False)
class MovingPeak(_TwoNormals):
    """A normal peak that moves and widens over a background, ``N(0, 2)``, that does not.

    Args:
        fraction: Of the peak.
        shift: Of the peak, in its widths per standard deviation.
        stretch: Of its width, logarithm per standard deviation.
        width: Of the peak.
    """

    fraction: float = 0.5
    shift: float = 0.8
    stretch: float = 0.15
    width: float = 0.5

    def _components(self, nu: float) -> tuple[float, tuple[float, float], tuple[float, float]]:
        return self.fraction, (self.shift * self.width * nu, 0.0), (self.width * np.exp(self.stretch * nu), 2.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slope(OneNuisance):
    """An exponential in the range from 0 to 1 whose rate changes: ``rate + change nu + 0.5 tanh x``.

    Args:
        rate: At zero; positive falls.
        change: Per standard deviation.
    """

    rate: float = 2.0
    change: float = 0.4

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of the first observable, from 0 to 1."""
        return {self.obs[0]: (0.0, 1.0)}

    def _rates(self, nu: float, x: np.ndarray) -> np.ndarray:
        rates = self.rate + self.change * nu + 0.5 * np.tanh(x)
        return np.where(np.abs(rates) > 1e-9, rates, 1e-9)  # flat, where the formulae are 0 / 0

    def _draw(self, rng: np.random.Generator, nu: float, x: np.ndarray) -> np.ndarray:
        rate = self._rates(nu, x)
        return -np.log1p(rng.random(len(x)) * np.expm1(-rate)) / rate

    def _log_density(self, y: np.ndarray, nu: float, x: np.ndarray) -> np.ndarray:
        rate = self._rates(nu, x)
        return np.log(rate / -np.expm1(-rate)) - rate * y


@dataclass(frozen=True, kw_only=True, eq=False)
class Tilt(OneNuisance):
    """A standard normal observable, tilted by weights: ``p = N(z) (1 + size nu tanh z)``, ``z = y - 0.3 x``, ``|size nu| < 1``.

    Args:
        size: Of the tilt per standard deviation.
    """

    size: float = 0.3

    def _value(self, nu: Nu | float) -> float:
        value = super()._value(nu)
        if not abs(self.size * value) < 1:
            raise ValueError(f"a tilt of size {self.size:g} * nu is no density beyond 1: nu = {value:g} is too far")
        return value

    def weights(self, events: Any, nu: Nu | float) -> np.ndarray:
        """Weights ``(n,)`` that make nominal events those at another value of the nuisance."""
        return np.exp(self.log_prob(events, nu) - self.log_prob(events))

    def _draw(self, rng: np.random.Generator, nu: float, x: np.ndarray) -> np.ndarray:
        z = np.abs(rng.standard_normal(len(x)))  # the tilt is odd: it decides on the sign alone
        return np.where(2 * rng.random(len(x)) < 1 + self.size * nu * np.tanh(z), z, -z) + 0.3 * x

    def _log_density(self, y: np.ndarray, nu: float, x: np.ndarray) -> np.ndarray:
        z = y - 0.3 * x
        return log_normal(z[None], np.zeros((1, 1))) + np.log1p(self.size * nu * np.tanh(z))


@dataclass(frozen=True, kw_only=True, eq=False)
class NoEffect(OneNuisance):
    """A normal observable that the nuisance shifts by ``sqrt(information)`` of its width: not at all by default.

    Args:
        information: On the nuisance, of each event; ``n`` events have an error of ``1 / sqrt(1 + n information)`` on it.
    """

    information: float = 0.0

    def _draw(self, rng: np.random.Generator, nu: float, x: np.ndarray) -> np.ndarray:
        return rng.standard_normal(len(x)) + np.sqrt(self.information) * nu + 0.3 * x

    def _log_density(self, y: np.ndarray, nu: float, x: np.ndarray) -> np.ndarray:
        return log_normal((y - np.sqrt(self.information) * nu - 0.3 * x)[None], np.zeros((1, 1)))

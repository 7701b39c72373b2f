"""Events with nuisances away from zero: what the response to a systematic uncertainty is learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .columns import is_number
from .inputs import EVENTS, holds_events

__all__ = ["Variation", "yields_at_one"]


@dataclass(frozen=True, eq=False)
class Variation:
    """Simulated events of a process with one or more nuisance parameters moved away from zero.

    Args:
        events: Anything `as_sample` takes. Without, it is the nominal events with other `weights`, which a `Simulation` has.
        at: The nuisance point in standard deviations, e.g. `{"jes": +1}`; a nuisance that is not named is at zero.
            Several entries make a joint point, from which interactions are learned.
        name: What messages call it; by default the point, e.g. `"jes=+1, jer=-1"`.
        weights: Its event weights: the name of a column or one number per event. They take the place of the nominal
            weights, and are no factors to these.

    Raises:
        TypeError: If `at` is not a mapping from names to numbers, or `events` are nothing that `as_sample` takes.
        ValueError: If `at` is empty or one of its values is zero or not finite.

    Example:
        >>> Variation({"y1": np.array([0.1, 0.4])}, at={"jes": +1, "jer": +1}).is_joint
        True
        >>> Variation(at={"pdf": +1}, weights="w_pdf_up").is_reweighting
        True
    """

    events: Any = None
    at: Mapping[str, float] = field(default_factory=dict)
    name: str | None = None
    weights: str | np.ndarray | None = None

    def __post_init__(self) -> None:
        names: Any = self.at  # whatever was given, until it is checked
        if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"at= of a variation maps nuisance names to numbers, e.g. {{'jes': +1}}; got {self.at!r}")
        if not all(is_number(value) for value in self.at.values()):
            raise TypeError(f"at= of a variation needs a number for every nuisance; got {dict(self.at)!r}")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name= of a variation is a string; got {self.name!r}")
        if self.events is None and self.weights is None:
            raise TypeError(f"a variation needs events: {EVENTS}; got None, and no weights= of the nominal events")
        if self.events is not None and not holds_events(self.events):
            raise TypeError(f"a variation needs events: {EVENTS}; got {type(self.events).__name__}")
        point = {name: float(value) for name, value in self.at.items()}
        if not point or not any(point.values()):
            raise ValueError(f"a variation at the origin is the nominal sample: at={point} moves no nuisance")
        for nuisance, value in point.items():
            if value == 0 or not np.isfinite(value):
                raise ValueError(f"at= of a variation has {nuisance!r} at {value}; name only the nuisances that move")
        object.__setattr__(self, "at", point)
        if self.name is None:
            object.__setattr__(self, "name", ", ".join(f"{nuisance}={value:+g}" for nuisance, value in point.items()))

    @property
    def is_joint(self) -> bool:
        """Whether more than one nuisance is moved."""
        return len(self.at) > 1

    @property
    def is_reweighting(self) -> bool:
        """Whether it is other weights of the nominal events."""
        return self.events is None


def yields_at_one(ratios: Mapping[float, float]) -> tuple[float | None, float | None]:
    """Ratios of yields to the nominal one at -1 and +1 standard deviation of a nuisance, each none if its side was not simulated.

    Where a side was not simulated at one, its point that is nearest to it tells, with the exponential interpolation of log-normal
    uncertainties.

    Args:
        ratios: By the value of the nuisance.
    """

    def side(sign: float) -> float | None:
        points = [at for at in ratios if sign * at > 0]
        if not points:
            return None
        nearest = min(points, key=lambda at: abs(math.log(abs(at))))
        # Of a sum of weights that is not positive there is no logarithm; a ratio of yields is refused then.
        return ratios[nearest] ** (1.0 / abs(nearest)) if ratios[nearest] > 0 else ratios[nearest]

    return side(-1.0), side(1.0)

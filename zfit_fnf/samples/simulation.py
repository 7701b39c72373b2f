"""All simulated events of one process: the nominal sample, and those with nuisances away from zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .inputs import EVENTS, holds_events
from .variation import Variation

__all__ = ["Simulation"]


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated events of one process: what `zfit_fnf.calibrate` and validation compare densities with.

    Args:
        nominal: Events with all nuisances at zero; anything `as_sample` takes.
        variations: Samples with nuisances away from zero.

    Raises:
        TypeError: If these are no events, or no variations.

    Example:
        >>> nominal, up = {"y": np.array([0.1, 0.4])}, {"y": np.array([0.2, 0.5])}
        >>> Simulation(nominal, variations=[Variation(up, at={"jes": +1})]).nuisances
        ('jes',)
    """

    nominal: Any
    variations: tuple[Variation, ...] = ()

    def __post_init__(self) -> None:
        if not holds_events(self.nominal):
            raise TypeError(f"the nominal sample of a Simulation is {EVENTS}; got {type(self.nominal).__name__}")
        given: Any = self.variations  # whatever was given, until it is checked
        if isinstance(given, Variation) or not isinstance(given, Iterable):
            raise TypeError(f"variations= of a Simulation is a list of Variation; got {given!r}")
        variations = tuple(given)
        if wrong := [type(one).__name__ for one in variations if not isinstance(one, Variation)]:
            raise TypeError(f"variations= of a Simulation is a list of Variation; got {wrong[0]} in it")
        object.__setattr__(self, "variations", variations)

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances that were simulated."""
        return tuple(dict.fromkeys(name for variation in self.variations for name in variation.at))

"""The amortised map against maps that were refitted with the parameters fixed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMNS", "Check"]

COLUMNS = ("amortised", "refitted", "data, amortised", "data, refitted", "missed")
"""Of a table of checks, after the shifts of the parameters."""

_TOLERANCE = (0.2, 0.04)  # of the rise of the profile likelihood: absolute, relative
_OF_ONE_SAMPLE = (0.5, 0.15)  # where refitted maps have followed the events that they are judged by


@dataclass(frozen=True)
class Check:
    """The amortised map against one that was refitted with the parameters fixed.

    Maps are refitted to events of the model, of which there are many, and compared in these and in the data. A map that was
    refitted to the data would follow their fluctuations: of 2000 right events it gains 3 units in these, and loses as many in
    others.

    Attributes:
        shift: Of the parameters, from the best fit of step 1, by name.
        amortised: Expected rise of the negative log-likelihood with the amortised map.
        refitted: Expected rise with the map refitted there, compared to one refitted at the best fit in the same way.
        slopes: Slope of both along the shift, in units of the slope that their rise would give to a parabola.
        data: Rises of both for the data; none if it is the data that the map was refitted to.
    """

    shift: dict[str, float]
    amortised: float
    refitted: float
    slopes: tuple[float, float]
    data: tuple[float, float] | None = None

    @property
    def difference(self) -> float:
        """How far the amortised map stays below the maximum.

        In the events that a map was refitted to it gains too much, and in the data too little, by as much.
        """
        gained = self.amortised - self.refitted
        return 0.5 * (gained + self.data[0] - self.data[1]) if self.data else gained

    @property
    def passed(self) -> bool:
        """Whether rises differ by less than 0.2 plus 4 %, and slopes by less than 0.5 plus 15 % of their parabola's.

        At the shifts of `profile` these are errors that are wrong by 4 %. Without data apart, rises are judged as slopes are.
        """
        absolute, relative = _TOLERANCE if self.data else _OF_ONE_SAMPLE
        rises = abs(self.difference) < absolute + relative * abs(self.refitted)
        absolute, relative = _OF_ONE_SAMPLE
        # The rise of a parabola is half its slope: what is tolerated of one is half of what is of the other.
        slopes = abs(self.slopes[0] - self.slopes[1])
        return bool(rises and slopes < 2.0 * (absolute + relative * abs(self.refitted)))

    @property
    def problem(self) -> str:
        """What is wrong if it has not passed."""
        at = ", ".join(f"{name} {shift:+.3g}" for name, shift in self.shift.items())
        rises = f"by {self.amortised:.2f}, but by {self.refitted:.2f} with a refitted map"
        of_data = f" (for the data by {self.data[0]:.2f} and {self.data[1]:.2f})" if self.data else ""
        return f"at {at} the NLL is expected to rise {rises}{of_data}: use a narrower window=, or n_fields="

    def to_row(self) -> dict[str, float]:
        """Of a table: the shifts, and the columns."""
        of_data = self.data or (float("nan"),) * 2
        values = (self.amortised, self.refitted, *of_data, self.difference)
        return {**self.shift, **dict(zip(COLUMNS, values, strict=True))}

"""What responses claim to know of their nuisances, and how much of it events have confirmed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..common.checks import number

if TYPE_CHECKING:
    import pandas as pd

    from .history import History

__all__ = ["OFF_BETWEEN", "Claim", "ResponseTable"]

OFF_BETWEEN = 0.5
"""Errors that fits may be off by between the samples, from which that is told."""


@dataclass(frozen=True)
class Claim:
    r"""Information on a nuisance that an event carries, the mean square of its score: by a response, and by events.

    An amount :math:`I` gives ``n`` events an error of :math:`1 / \sqrt{1 + n I}` on the nuisance, the one of its
    constraint being one. It is the mean over the nominal point and the simulated ones. That of an interaction is
    on its strength, the factor by which it is multiplied.

    Attributes:
        kind: What the response is: ``"map"``, ``"ratio"``, ``"both"`` or ``"pruned"``.
        claimed: Mean square of the score that the response has, per event.
        confirmed: Mean product of the score and the change of the density, which events that the score was not learned
            from show; without noise it is what is claimed.
        noise: What a response without effect claims after such a training, as far as events tell; of one that was pruned, what
            it claimed.
        missed: Share of the effect, of what held-out events gain in log-likelihood, that a log-ratio follows, or one beside
            a map, and this does not.
        lost: What a log-ratio may lack at most because it is too fine for as many terms as it may have, in nats per event at
            one standard deviation: by its prior, which is often far too much, and not more than what it follows.
        between: What a response may be off by between the samples, half its mean square in nats per event, if the series of
            its monomials goes on as it began (:mod:`zfit_fnf.train.between`).
        between_at: The point where that is largest.
    """

    kind: str
    claimed: float
    confirmed: float
    noise: float
    missed: float = 0.0
    lost: float = 0.0
    between: float = 0.0
    between_at: dict[str, float] = field(default_factory=dict)

    def off_by(self, n_data: float) -> float:
        """Errors by which a fit of so many events may be off between the samples, at most."""
        return math.sqrt(2.0 * n_data * self.between)

    @property
    def where_off(self) -> str:
        """Where that is, in words."""
        return "at " + ", ".join(f"{name}={value:+g}" for name, value in self.between_at.items())


@dataclass(frozen=True)
class ResponseTable:
    """What each response of a deformation claims, as the error that it would give a nuisance; prints as a table.

    The last column is by how many of their errors fits may be off between the samples, see :meth:`Claim.off_by`.

    Attributes:
        n_data: Number of events of the process in the data.
        claims: By response; ``None`` for one that is not known.
    """

    n_data: float
    claims: Mapping[str, Claim | None]

    @classmethod
    def of(cls, labels: Sequence[str], history: Mapping[str, History], n_data: float) -> ResponseTable:
        """The table of some responses."""
        n_data = number(n_data, "n_data", above=0.0)
        return cls(n_data, {label: history[label].claim if label in history else None for label in labels})

    def error(self, information: float) -> float:
        """Error on a nuisance of which an event knows this much."""
        return 1.0 / math.sqrt(1.0 + self.n_data * max(information, 0.0))

    def rows(self) -> list[dict[str, Any]]:
        """One for each response, with errors."""
        return [
            {
                "response": label,
                "kind": "not known",
                "claimed": math.nan,
                "confirmed": math.nan,
                "noise floor": math.nan,
                "off between": math.nan,
            }
            if claim is None
            else {
                "response": label,
                "kind": claim.kind,
                "claimed": self.error(claim.claimed),
                "confirmed": self.error(claim.confirmed),
                "noise floor": self.error(claim.noise),
                "off between": claim.off_by(self.n_data),
            }
            for label, claim in self.claims.items()
        ]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each response."""
        import pandas as pd

        return pd.DataFrame(self.rows()).set_index("response")

    def __str__(self) -> str:
        title = (
            f"error on each nuisance that {self.n_data:g} events of this process would give it, 1 without any, and by how many "
            "errors fits may be off between the samples:"
        )
        cells = [["", "kind", "claimed", "confirmed", "noise floor", "off between"]]
        for row in self.rows():
            errors = [row[name] for name in cells[0][2:]]
            cells.append([row["response"], row["kind"], *("" if math.isnan(e) else f"{e:.3f}" for e in errors)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), *map(str.rjust, row[2:], widths[2:])]).rstrip()
            for row in cells
        ]
        return "\n".join([title, *lines])

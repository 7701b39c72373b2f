r"""How much of what a response claims is true, found with events that it was not learned from.

The log-ratios of a response are :math:`\sum_m \phi_m(\nu) r_m(y)`, so that the score of an event at a point is
:math:`s = \sum_m \phi_m'(\nu) r_m(y)`. The response claims the information :math:`E[s^2]`. By how much the mean of ``s``
changes with the nuisance, from one sample to another, is :math:`E[s \, s_\mathrm{true}]`, whatever ``s`` is: noise in
``s`` that events have not seen does not contribute. It is what they confirm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..densities.claims import Claim

__all__ = ["Points", "Scored", "claim", "of_first", "shares"]

_WEAK = 0.05  # confirmed information per event below which scores change the density little, and noise may matter


@dataclass(frozen=True)
class Points:
    """Where the samples of a response are.

    Attributes:
        monomials: At the points of the variations, ``(J, M)``.
        slopes: Their derivatives at the points of information, ``(P, M)``; of an interaction the monomials themselves.
        samples: Sample ``(P,)`` at each of these points, zero for the nominal one.
    """

    monomials: np.ndarray
    slopes: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class Scored:
    """Events of the samples, with the coefficients that a response has for them.

    Attributes:
        coefficients: For each sample ``(n, M)``.
        weights: For each sample ``(n,)``.
        expected: Weights of the nominal events for each variation, which make them events without this response.
    """

    coefficients: Sequence[np.ndarray]
    weights: Sequence[np.ndarray]
    expected: Sequence[np.ndarray]

    def scaled(self, factors: np.ndarray) -> Scored:
        """With each coefficient multiplied by a factor."""
        return Scored([each * factors for each in self.coefficients], self.weights, self.expected)

    def spread(self, sample: int) -> np.ndarray:
        """Covariance ``(M, M)`` of the coefficients in a sample."""
        weights, values = self.weights[sample], self.coefficients[sample]
        centred = values - _mean(values, weights)
        return (centred * weights[:, None]).T @ centred / weights.sum()

    def changes(self) -> np.ndarray:
        """Mean coefficients ``(J, M)`` in each variation minus those of the events without this response."""
        nominal = self.coefficients[0]
        return np.array(
            [
                _mean(values, weights) - _mean(nominal, expected)
                for values, weights, expected in zip(
                    self.coefficients[1:], self.weights[1:], self.expected, strict=True
                )
            ]
        )

    def fluctuations(self, factors: np.ndarray) -> list[np.ndarray]:
        """What events ``(n, M)`` of each sample contribute to that of the changes times ``factors (J, M)``, summed over ``J``.

        Those of the nominal sample come first, since the same events are in all changes.
        """
        nominal, *others = self.coefficients
        of_nominal = [row * _parts(nominal, expected) for row, expected in zip(factors, self.expected, strict=True)]
        of_variations = zip(factors, others, self.weights[1:], strict=True)
        return [-np.sum(of_nominal, axis=0), *(row * _parts(values, weights) for row, values, weights in of_variations)]

    def claimed(self, points: Points) -> float:
        """Information that the response claims."""
        return float(np.mean([s @ self.spread(i) @ s for s, i in zip(points.slopes, points.samples, strict=True)]))

    def confirmed(self, points: Points) -> float:
        """Information that these events confirm, if the response was not learned from them."""
        slopes = np.linalg.pinv(points.monomials) @ self.changes()  # of the means, (M, M)
        return float(np.mean([s @ slopes @ s for s in points.slopes]))


def claim(kind: str, response: Scored, judged: Sequence[Scored], points: Points, *, share: float = 1.0) -> Claim:
    """What a response claims, and what is true of it.

    Args:
        kind: What it is.
        response: It, of any events.
        judged: Responses that are like it, of events that they were not learned from.
        points: Where the samples are.
        share: Its noise in that of the judged ones, which have learned from fewer events.
    """
    confirmed = float(np.mean([each.confirmed(points) for each in judged]))
    noise = share * float(np.mean([each.claimed(points) for each in judged]) - confirmed)
    return Claim(kind, response.claimed(points), confirmed, max(noise, 0.0))


def shares(
    judged: Scored, points: Points, *, paired: bool = False, together: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """By which factors a response has to be multiplied to agree with events, for small effects; with their errors.

    Least squares between the response and the change of the density at all points. They are one for large effects.

    Args:
        judged: The response, of events that it was not learned from.
        points: Where the samples are.
        paired: Whether row ``i`` is the same generated event in all samples.
        together: Whether all coefficients have the same factor.
    """
    phi = points.monomials
    if judged.confirmed(points) > _WEAK:
        return np.ones(phi.shape[1]), np.zeros(phi.shape[1])
    # That of each variation, far as it may be from the nominal sample: joint samples are where both nuisances have moved.
    normal = np.sum([np.outer(row, row) * judged.spread(j) for j, row in enumerate(phi, start=1)], axis=0)
    of_factors = np.ones((phi.shape[1], 1)) if together else np.eye(phi.shape[1])
    inverse = of_factors @ np.linalg.pinv(of_factors.T @ normal @ of_factors) @ of_factors.T
    found = inverse @ (phi * judged.changes()).sum(axis=0)
    parts = judged.fluctuations(phi)
    if paired:
        parts = [np.sum(parts, axis=0)]
    variance = np.sum([part.T @ part for part in parts], axis=0)
    return found, np.sqrt(np.diag(inverse @ variance @ inverse))


def of_first(scored: Scored, points: Points) -> np.ndarray | None:
    """Factors ``(M, M)`` that make all coefficients of a small effect multiples of the first one; ``None`` for a large one.

    What is left out of them is not correlated with the first one, so that its means in the samples, where a fit is unbiased by
    them, stay what they are.
    """
    if scored.confirmed(points) > _WEAK:
        return None
    spread = scored.spread(0)
    factors = np.zeros_like(spread)
    factors[:, 0] = spread[:, 0] / spread[0, 0]
    return factors


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum()


def _parts(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (values - _mean(values, weights)) * (weights / weights.sum())[:, None]

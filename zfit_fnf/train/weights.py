r"""Log-ratios that are known: what variations that are other weights of the nominal events say of each event.

The ratio of the two weights of an event is :math:`\rho = w_\mathrm{var} / w_\mathrm{nom}`, and that of the two densities is its
mean among events that look the same: :math:`e^{l(y)} = E[\rho | y]`. So :math:`l` maximises

.. math::
    \sum_i w_{\mathrm{nom},i} \, (\rho_i \, l(y_i) - e^{l(y_i)}),

a regression. Its noise is what :math:`\rho` scatters about :math:`e^l`, nothing at all where the weights are functions of the
observables; the comparison of two independent samples has that of both samples. Like there (:mod:`.contrast`), :math:`l` is
known up to :math:`\sum_m \phi_m(\nu) r_m` and functions of the conditions alone, and :mod:`.ratio` learns the :math:`r_m`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from ..common.chunks import EVENTS, slices
from ..densities.claims import Claim
from ..samples import Sample
from ..samples.pairing import check_ratio
from .between import off_between_samples
from .candidates import Candidates
from .choice import Choice
from .claims import Points, Scored, claim
from .contrast import Contrast, ContrastSample, Quadratic
from .ratio import Learned, learn

__all__ = ["Regression", "by_weights", "known_ratios"]

_LEAST_NOISE = 1e-4
"""Variance of a ratio about what is learned of it, relative to that of a Poisson number, as regressions are not perfect."""

_LARGEST = 30.0  # logarithm of a ratio


def by_weights(candidates: Candidates, *, keep: bool = False) -> Choice | None:
    """The log-ratio of variations that are other weights of the nominal events; ``None`` if they are not.

    Args:
        candidates: What there is to choose from; the map is not looked at.
        keep: Keep it also where the weights do not depend on the events.
    """
    ratios = known_ratios(candidates.nominal.sample, [source.sample for source in candidates.sources])
    if ratios is None:
        return None
    points = candidates.points
    nominal = candidates.nominal_events()
    regression = Regression(nominal, ratios, points.monomials, candidates.n_dim, candidates.first_terms)
    learned = learn(regression)
    regression = cast(Regression, learned.contrast)
    if not (keep or learned.significant):
        note = f"pruned: its weights do not depend on the events, beyond chance (evidence {learned.evidence:.1f} nats)"
        claimed = regression.claim(learned, points).claimed
        return Choice(Claim("pruned", 0.0, 0.0, claimed), notes=[note])
    note = f"log-ratio of known weights: {regression.explained(learned.coefficients):.1%} of their variance"
    learned = learned if keep else learned.shrunk()
    off, where = off_between_samples(candidates, learned)
    claims = regression.claim(learned, points)
    claims = replace(claims, lost=0.5 * claims.claimed * learned.lost, between=off, between_at=where)
    return Choice(claims, learned=learned, notes=[note])


def known_ratios(nominal: Sample, variations: Sequence[Sample]) -> np.ndarray | None:
    """Ratios ``(n, J)`` of the weights of variations to the nominal ones, with a mean of one.

    ``None`` if a variation has other events, or the same ones in another order; or weights of which ratios make no sense.

    Args:
        nominal: The nominal events.
        variations: Events at other points.
    """
    weights = []
    for sample in variations:
        if sample.n_events != nominal.n_events or not all(
            np.array_equal(values, nominal.columns[column]) for column, values in sample.columns.items()
        ):
            return None
        weights.append(sample.relative_weights(np.arange(sample.n_events)))
        try:
            check_ratio(nominal, weights[-1], sample.name)
        except ValueError:
            return None
    own = nominal.relative_weights(np.arange(nominal.n_events))[:, None]
    return np.divide(np.stack(weights, axis=1), own, out=np.ones((nominal.n_events, len(weights))), where=own != 0)


class Regression(Contrast):
    """Known log-ratios, as a problem for :func:`zfit_fnf.train.ratio.learn`.

    Args:
        nominal: The nominal events.
        ratios: Of the weights of ``J`` variations to theirs ``(n, J)``, with a mean of one.
        monomials: At the points of the variations, ``(J, M)``.
        n_dim: Number of observables among the bounded coordinates.
        exponents: Degrees ``(terms, d + m)`` of the products that are learned.
    """

    def __init__(
        self, nominal: ContrastSample, ratios: np.ndarray, monomials: np.ndarray, n_dim: int, exponents: np.ndarray
    ):
        super().__init__([nominal], monomials, n_dim, exponents)
        self._ratios = ratios
        self._noise: np.ndarray | None = None

    def quadratics(self, coefficients: np.ndarray, *, most: int | None = None) -> list[Quadratic]:
        """The quasi-likelihood of each fold near ``coefficients (J, all terms)``, as a function of these.

        Args:
            coefficients: Where; if all are zero, near the logarithms of the ratios.
            most: Number of events, if not all.
        """
        sums = self._sums(coefficients, most)
        if self._noise is None:  # the same from now on: it is the scale of what is maximised
            gradients, curvatures = (part.sum(axis=0) for part in sums[:2])
            first = [np.linalg.lstsq(*pair, rcond=1e-9)[0] for pair in zip(curvatures, gradients, strict=True)]
            *_, scatter, n_events = self._sums(coefficients + np.array(first), most)
            spent = min(len(self.exponents) / n_events, 0.5)
            self._noise = np.maximum(scatter / (1.0 - spent), _LEAST_NOISE)
        noise = self._noise
        return [
            self._quadratic(gradient / noise[:, None], curvature / noise[:, None, None], coefficients)
            for gradient, curvature in zip(*sums[:2], strict=True)
        ]

    def _sums(self, coefficients: np.ndarray, most: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Gradients and curvatures of each fold and variation, mean scatter of the ratios, and the number of events."""
        n_variations, n_all = self.n_variations, len(self.exponents)
        gradients, curvatures = np.zeros((3, n_variations, n_all)), np.zeros((3, n_variations, n_all, n_all))
        scatter, size, n_events = np.zeros(n_variations), np.zeros(n_variations), 0
        for fold, features, offsets, weights, ratios in self._rows(most):
            found = np.minimum(offsets + features @ coefficients.T, _LARGEST)
            if coefficients.any():
                expected = np.exp(found)
                residuals = ratios - expected
            else:
                expected, residuals = ratios, ratios * (np.log(ratios) - found)
            scatter += np.square(weights[:, None] * residuals).sum(axis=0)
            size += weights @ expected
            n_events += len(weights)
            gradients[fold] += (weights[:, None] * residuals).T @ features
            for j in range(n_variations):
                curvatures[fold, j] += features.T @ (features * (weights * expected[:, j])[:, None])
        return gradients, curvatures, scatter / size, n_events

    def explained(self, coefficients: np.ndarray) -> float:
        """Share of the variance of the ratios that is learned; what is missing depends on something else than the events."""
        total = remaining = 0.0
        for _, features, offsets, weights, ratios in self._rows(None):
            found = np.exp(np.minimum(offsets + features @ coefficients.T, _LARGEST))
            total += float(weights @ np.square(ratios - np.exp(offsets)).sum(axis=1))
            remaining += float(weights @ np.square(ratios - found).sum(axis=1))
        return 1.0 - remaining / total if total > 0.0 else 0.0

    def claim(self, learned: Learned, points: Points) -> Claim:
        """What the response claims, and what weights confirm that it was not learned from."""
        judged = [self._scored(half, rows) for half, rows in zip(learned.halves, ([1, 2], [0, 2]), strict=True)]
        return claim("ratio", self._scored(learned.weights, [0, 1, 2]), judged, points, share=0.5)

    def _scored(self, weights: np.ndarray, folds: Sequence[int]) -> Scored:
        (sample,) = self.samples
        rows = np.flatnonzero(np.isin(sample.folds, folds))
        values, own = self.values(sample.bounded[rows], weights), sample.weights[rows]
        if self.n_free:  # a log-ratio given the conditions has no mean
            conditions = self.of_conditions(sample.bounded[rows])
            values -= conditions @ np.linalg.lstsq(conditions, values, rcond=None)[0]
        moved = [own * ratio for ratio in self._ratios[rows].T]
        known = [own * np.exp(offset - offset.max()) for offset in sample.offsets[rows].T]
        return Scored([values] * (1 + len(moved)), [own, *moved], known)

    def _quadratic(self, gradients: np.ndarray, curvatures: np.ndarray, coefficients: np.ndarray) -> Quadratic:
        n_variations, n_all = coefficients.shape
        hessian = np.zeros((n_variations, n_all) * 2)
        for j in range(n_variations):
            hessian[j, :, j] = curvatures[j]
        matrix = hessian.reshape(coefficients.size, -1)
        return Quadratic(gradients.ravel() + matrix @ coefficients.ravel(), matrix)

    def _rows(self, most: int | None) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Fold, features ``(n, all terms)``, offsets, weights and ratios of events; float64."""
        (sample,) = self.samples
        step = 1 if most is None else max(1, len(sample.weights) // most)
        for fold in range(3):
            rows = np.flatnonzero(sample.folds == fold)[::step]
            for part in slices(len(rows), EVENTS):
                chosen = rows[part]
                features = self._features(sample.bounded[chosen], (0, fold, part.start) if step == 1 else None)
                offsets, weights = sample.offsets[chosen], sample.weights[chosen]
                yield fold, features.astype(np.float64), offsets, weights, self._ratios[chosen]

"""Learning of log-ratios: polynomials whose weights have a Gaussian prior, of a width that the events themselves choose.

The weights maximise the likelihood of :mod:`.contrast` times a Gaussian prior. Its variance falls exponentially with the
degree of a polynomial, from an amplitude of its own for each monomial; amplitudes and fall maximise the *evidence*, the
integral of the two over all weights. Noise has no evidence: for a nuisance without effect the best amplitude is zero, for a
small effect the weights are shrunk, for a large one they are free. A ratio is kept where its evidence is significant and
what either half of the events learns makes the other half more probable.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from .contrast import Contrast, Quadratic

__all__ = ["Learned", "learn"]

SIGNIFICANT = 8.0
"""Evidence (natural logarithm) from which a ratio is kept, by chance for about one of 2e4 nuisances without effect."""

_FALLS = (0.1, 0.2, 0.4, 0.8, 1.4, 2.2)  # per degree
_FIRST_LOOK = 50_000  # events of each sample
_MOST_STEPS = 6


@dataclass(frozen=True)
class Learned:
    """Weights of a log-ratio, and what speaks for them.

    Attributes:
        weights: ``(M, terms)``.
        coefficients: Of all terms for each variation, ``(J, all terms)``.
        evidence: Natural logarithm of the evidence over that of no ratio.
        crossed: Gain of either half of the events from what the other half has learned, in nats.
        halves: Weights that either half alone has learned.
    """

    weights: np.ndarray
    coefficients: np.ndarray
    evidence: float
    crossed: float
    halves: tuple[np.ndarray, np.ndarray]

    @property
    def significant(self) -> bool:
        """Whether the events confirm it."""
        return self.evidence > SIGNIFICANT and self.crossed > 0.0


def learn(contrast: Contrast, *, held_out: bool = False, ratio: bool = True) -> Learned:
    """Learn the weights of a log-ratio.

    Args:
        contrast: The samples.
        held_out: Leave the held-out events out.
        ratio: Without, only what is free is found: the functions of the conditions alone.
    """
    directions = contrast.directions()
    n_monomials, n_terms = contrast.monomials.shape[1], contrast.n_terms
    free = np.arange(n_monomials * n_terms, directions.shape[1])
    orders = contrast.degrees[:n_terms].sum(axis=1) - 1.0
    coefficients = np.zeros((contrast.n_variations, len(contrast.degrees)))
    folds: list[Quadratic] = []
    prior = np.zeros(n_monomials * n_terms)
    evidence, weights = 0.0, prior
    for step in range(_MOST_STEPS if ratio or contrast.n_free else 0):
        folds = [
            fold.seen_by(directions)
            for fold in contrast.quadratics(coefficients, most=_FIRST_LOOK if step == 0 else None)[: 2 + (not held_out)]
        ]
        whole, of_rest = sum(folds[1:], folds[0]).without(free)
        prior = _best_prior(whole, orders, n_monomials) if ratio else prior
        evidence, updated = _evidence(whole, prior)
        found = of_rest @ np.append(updated, 1.0)
        coefficients = (directions @ np.append(updated, found)).reshape(coefficients.shape)
        moved, weights = updated - weights, updated
        if step and moved @ whole.curvature @ moved < 0.05:  # nats
            break
    if not ratio:
        shape = n_monomials, n_terms
        return Learned(weights.reshape(shape), coefficients, 0.0, 0.0, (np.zeros(shape), np.zeros(shape)))
    halves = [fold.without(free)[0] for fold in folds[:2]]
    learned = [_evidence(half, prior)[1] for half in halves]
    crossed = halves[0].gain(learned[1]) + halves[1].gain(learned[0])
    shape = n_monomials, n_terms
    return Learned(
        weights.reshape(shape), coefficients, evidence, crossed, (learned[0].reshape(shape), learned[1].reshape(shape))
    )


def _evidence(quadratic: Quadratic, prior: np.ndarray) -> tuple[float, np.ndarray]:
    """Logarithm of the evidence over that of zero weights, and the weights, for variances ``prior`` of theirs."""
    root = np.sqrt(prior)
    factor = np.linalg.cholesky(np.eye(len(root)) + root[:, None] * quadratic.curvature * root)
    solved = np.linalg.solve(factor, root * quadratic.gradient)
    evidence = 0.5 * solved @ solved - np.log(np.diag(factor)).sum()
    return float(evidence), root * np.linalg.solve(factor.T, solved)


def _best_prior(quadratic: Quadratic, orders: np.ndarray, n_monomials: int) -> np.ndarray:
    """Variances of all weights that maximise the evidence."""

    def prior(amplitudes: np.ndarray, fall: float) -> np.ndarray:
        exponents = np.clip(amplitudes, -60.0, 6.0)[:, None] - fall * orders
        return np.where(amplitudes[:, None] > -25.0, np.exp(exponents), 0.0).ravel()

    best, chosen = 0.0, np.zeros(n_monomials * len(orders))
    for fall, start in itertools.product(_FALLS, (-3.0, -8.0)):
        found = minimize(
            lambda amplitudes, fall=fall: -_evidence(quadratic, prior(amplitudes, fall))[0],
            np.full(n_monomials, start),
            method="Nelder-Mead",
            options={"maxiter": 60 * n_monomials, "xatol": 0.05, "fatol": 0.02},
        )
        if -found.fun > best:
            best, chosen = -found.fun, prior(found.x, fall)
    return _without_idle(quadratic, chosen.reshape(n_monomials, -1)).ravel()


def _without_idle(quadratic: Quadratic, prior: np.ndarray) -> np.ndarray:
    """The prior without monomials that nothing speaks for, less than 0.2 nats each."""
    for monomial in range(len(prior)):
        fewer = prior.copy()
        fewer[monomial] = 0.0
        if _evidence(quadratic, fewer.ravel())[0] > _evidence(quadratic, prior.ravel())[0] - 0.2:
            prior = fewer
    return prior

r"""Learning of log-ratios: polynomials whose weights have a Gaussian prior, of a width that the events themselves choose.

The weights maximise the likelihood of :mod:`.contrast` times a Gaussian prior. Its variance falls exponentially with the
degree of a polynomial in each variable, from an amplitude of its own for each monomial; amplitudes and falls maximise the
*evidence*, the integral of the two over all weights. Noise has no evidence: for a nuisance without effect the best
amplitude is zero, for a small effect the weights are shrunk, for a large one they are free. A ratio is kept where its
evidence is significant and what either half of the events learns makes the other half more probable; of what is just
significant only a part is believed.

A nuisance that changes the shares of a mixture changes the density linearly, and its logarithm by
:math:`\log(1 + \nu a) = \nu a - \nu^2 a^2 / 2 + \dots`: the quadratic coefficient is a multiple of the square of the linear
one, and too small to be learned as a function of its own. Without it errors at one standard deviation are a few per cent too
small. So that multiple, one number, is learned where the evidence for it is larger than for a function, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from .contrast import Contrast, Quadratic

__all__ = ["Learned", "learn", "of_conditions_alone"]

SIGNIFICANT = 8.0
"""Evidence (natural logarithm) from which a ratio is kept, by chance for about one of 2e4 nuisances without effect."""

_FIRST_LOOK = 50_000  # events of each sample
_MOST_STEPS = 20
_NOT_CONVERGED = 5.0  # nats that the last step would gain, from which nothing is believed
_AMPLITUDES = (-25.0, 6.0)  # logarithms; the first one is none
_FALLS = (0.05, 2.5)  # per degree
_STARTS = ((-3.0, 0.3), (-8.0, 0.3), (-3.0, 1.2))


@dataclass(frozen=True)
class Learned:
    """Weights of a log-ratio, and what speaks for them.

    Attributes:
        weights: ``(M, terms)``.
        coefficients: Of all terms for each variation, ``(J, all terms)``.
        without_held_out: Those that are learned without the held-out events.
        halves: Weights that either half of the other events alone has learned.
        evidence: Natural logarithm of the evidence over that of no ratio.
        crossed: Gain of either half from what the other half has learned, in nats.
    """

    weights: np.ndarray
    coefficients: np.ndarray
    without_held_out: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    evidence: float
    crossed: float

    @property
    def significant(self) -> bool:
        """Whether the events confirm it."""
        return self.evidence > SIGNIFICANT and self.crossed > 0.0

    @property
    def trust(self) -> float:
        """Factor by which a small effect is made smaller, so that it is rather under- than overestimated.

        It falls to zero where an effect ceases to be significant, and is close to one already where the evidence is a few
        times as large: what clear effects lack is a bias of every nuisance that the data measure well.
        """
        return 1.0 - (SIGNIFICANT / self.evidence) ** 2 if self.significant else 0.0

    def shrunk(self) -> Learned:
        """The same with its weights multiplied by :attr:`trust`."""
        return replace(self, weights=self.trust * self.weights)


def of_conditions_alone(contrast: Contrast) -> np.ndarray:
    """Coefficients ``(J, all terms)`` without a log-ratio, learned without the held-out events.

    Functions of the conditions alone are free for each variation; without conditions there are none.
    """
    coefficients = np.zeros((contrast.n_variations, len(contrast.degrees)))
    if not contrast.n_free:
        return coefficients
    alone = contrast.without_observables()
    free = coefficients[:, contrast.n_terms :]
    at = last = np.zeros(free.size)
    slope = np.inf
    for step in range(_MOST_STEPS):
        folds = alone.quadratics(at.reshape(free.shape), most=_FIRST_LOOK if step == 0 else None)
        trained = folds[0] + folds[1]
        joint = trained + folds[2]
        gradient = joint.gradient - joint.curvature @ at
        if gradient @ (last - at) > 0.5 * slope:  # beyond the maximum, where curvatures say little
            at, slope = 0.5 * (last + at), 0.5 * slope
            continue
        last, at = at, joint.maximum()
        slope = float(gradient @ (at - last)) * (contrast.thinning(_FIRST_LOOK) if step == 0 else 1.0)
        if step and slope < 0.05:  # nats
            break
    free[:] = trained.maximum().reshape(free.shape)
    return coefficients


def learn(contrast: Contrast) -> Learned:
    """Learn the weights of a log-ratio."""
    directions = contrast.directions()
    n_monomials, n_terms = contrast.monomials.shape[1], contrast.n_terms
    free = np.arange(n_monomials * n_terms, directions.shape[1])
    prior = _Prior(contrast.degrees[:n_terms], n_monomials)
    coefficients = np.zeros((contrast.n_variations, len(contrast.degrees)))
    folds = [Quadratic.zero(directions.shape[1])] * 3
    at = last = np.zeros(directions.shape[1])
    weights, slope, left = at[: free[0]], np.inf, np.inf
    for step in range(_MOST_STEPS):
        folds = [
            fold.seen_by(directions)
            for fold in contrast.quadratics(coefficients, most=_FIRST_LOOK if step == 0 else None)
        ]
        joint = sum(folds[1:], folds[0])
        if -prior.slope(joint, at, at - last) > 0.5 * slope:  # beyond the maximum, where curvatures say little
            at = 0.5 * (last + at)
            coefficients, slope = (directions @ at).reshape(coefficients.shape), 0.5 * slope
            continue
        whole, of_rest = joint.without(free)
        prior.adapt(whole)
        weights = _Posterior(whole, prior.variances).weights
        last, at = at, np.append(weights, of_rest @ np.append(weights, 1.0))
        coefficients, moved = (directions @ at).reshape(coefficients.shape), weights - last[: free[0]]
        left, slope = float(moved @ whole.curvature @ moved), prior.slope(joint, last, at - last)
        slope *= contrast.thinning(_FIRST_LOOK) if step == 0 else 1.0
        if step and left < 0.05:  # nats
            break
    basis, variances = np.eye(len(weights)), prior.variances
    if contrast.squares:
        basis, variances = _with_square(whole, prior, contrast.square_of(weights[:n_terms]))

    def most_probable(quadratic: Quadratic) -> np.ndarray:
        return basis @ _Posterior(quadratic.seen_by(basis), variances).weights

    evidence, weights = _Posterior(whole.seen_by(basis), variances).evidence, most_probable(whole)
    coefficients = _coefficients(directions, weights, of_rest, coefficients.shape)
    trained, of_rest = (folds[0] + folds[1]).without(free)
    others = _coefficients(directions, most_probable(trained), of_rest, coefficients.shape)
    halves = [fold.without(free)[0] for fold in folds[:2]]
    first, second = map(most_probable, halves)
    return Learned(
        weights.reshape(n_monomials, n_terms),
        coefficients,
        others,
        (first.reshape(n_monomials, n_terms), second.reshape(n_monomials, n_terms)),
        evidence if left < max(_NOT_CONVERGED, 0.01 * evidence) else 0.0,
        halves[0].gain(second) + halves[1].gain(first),
    )


def _with_square(whole: Quadratic, prior: _Prior, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the weights and their variances, with a multiple of a square in place of the second coefficient, or not.

    Args:
        whole: What the events say of the weights.
        prior: Variances of the weights.
        square: Weights of the square of the first coefficient.
    """
    variances, n_terms = prior.variances, len(square)
    basis = np.eye(2 * n_terms)
    column = np.append(np.zeros(n_terms), square)
    with_square = np.column_stack([basis, column])
    instead = np.concatenate([variances[:n_terms], np.zeros(n_terms), [1.0]])  # of a mixture the multiple is -1/2
    if _Posterior(whole.seen_by(with_square), instead).evidence > _Posterior(whole, variances).evidence:
        return with_square, instead
    return basis, variances


def _coefficients(
    directions: np.ndarray, weights: np.ndarray, of_rest: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    found = of_rest @ np.append(weights, 1.0)
    return (directions @ np.append(weights, found)).reshape(shape)


class _Posterior:
    """What is known of weights with a Gaussian prior, from a likelihood.

    Attributes:
        weights: The most probable ones.
        evidence: Logarithm of the evidence over that of zero weights.
    """

    def __init__(self, quadratic: Quadratic, variances: np.ndarray):
        root = np.sqrt(variances)
        self._factor = lapack.dpotrf(np.eye(len(root)) + root[:, None] * quadratic.curvature * root, lower=True)[0]
        solved = lapack.dtrtrs(self._factor, root * quadratic.gradient, lower=True)[0]
        self._scaled = lapack.dtrtrs(self._factor, solved, lower=True, trans=1)[0]
        self.weights = root * self._scaled
        self.evidence = float(0.5 * solved @ solved - np.log(np.diag(self._factor)).sum())

    def slopes(self) -> np.ndarray:
        """Derivatives of the evidence with respect to the logarithms of the variances."""
        inverse = lapack.dtrtri(self._factor, lower=True)[0]
        return 0.5 * (np.square(self._scaled) + np.square(inverse).sum(axis=0) - 1.0)


class _Prior:
    """Variances of the weights.

    Args:
        degrees: Degrees ``(terms, k)`` of the polynomials in each variable.
        n_monomials: Number of monomials of the nuisances, each with these polynomials.
    """

    def __init__(self, degrees: np.ndarray, n_monomials: int):
        self._degrees, self._n_monomials = degrees.astype(float), n_monomials
        self._idle = np.zeros(n_monomials, bool)
        self._chosen: np.ndarray | None = None

    @property
    def variances(self) -> np.ndarray:
        """Of all weights ``(M terms,)``."""
        if self._chosen is None:
            return np.zeros(self._n_monomials * len(self._degrees))
        return self._at(self._chosen, self._idle)

    def slope(self, quadratic: Quadratic, at: np.ndarray, along: np.ndarray) -> float:
        """Derivative of the log-likelihood with this prior, at weights and whatever is free, along a step."""
        variances = self.variances
        n = len(variances)
        precision = np.divide(1.0, variances, out=np.zeros(n), where=variances > 0.0)
        gradient = quadratic.gradient - quadratic.curvature @ at
        return float(gradient @ along - (precision * at[:n]) @ along[:n])

    def adapt(self, quadratic: Quadratic) -> None:
        """Maximise the evidence; idle are the monomials that nothing speaks for, by less than 0.2 nats each."""
        starts = [np.repeat(start, [self._n_monomials, self._degrees.shape[1]]) for start in _STARTS]
        if self._chosen is not None:
            starts = [
                np.where(
                    np.arange(len(self._chosen)) < self._n_monomials, np.maximum(self._chosen, -12.0), self._chosen
                )
            ]
        bounds = [_AMPLITUDES] * self._n_monomials + [_FALLS] * self._degrees.shape[1]
        found = [
            minimize(
                self._objective, start, (quadratic,), jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-6}
            )
            for start in starts
        ]
        self._chosen = min(found, key=lambda each: each.fun).x
        self._idle = np.zeros(self._n_monomials, bool)
        for monomial in range(self._n_monomials):
            fewer = self._idle.copy()
            fewer[monomial] = True
            fuller = _Posterior(quadratic, self._at(self._chosen, self._idle)).evidence
            if _Posterior(quadratic, self._at(self._chosen, fewer)).evidence > fuller - 0.2:
                self._idle = fewer

    def _at(self, settings: np.ndarray, idle: np.ndarray) -> np.ndarray:
        amplitudes, falls = np.split(settings, [self._n_monomials])
        exponents = amplitudes[:, None] - self._degrees @ falls
        return np.where((idle | (amplitudes <= _AMPLITUDES[0]))[:, None], 0.0, np.exp(exponents)).ravel()

    def _objective(self, settings: np.ndarray, quadratic: Quadratic) -> tuple[float, np.ndarray]:
        posterior = _Posterior(quadratic, self._at(settings, np.zeros(self._n_monomials, bool)))
        slopes = posterior.slopes().reshape(self._n_monomials, -1)
        gradient = np.append(slopes.sum(axis=1), -slopes.sum(axis=0) @ self._degrees)
        return -posterior.evidence, -gradient

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
small. Samples up and down often differ from the nominal one by the same function in different sizes: the quadratic coefficient
is then a multiple of the linear one. So both multiples, one number each, are learned where the evidence for them is larger than
for a function, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from ..densities.basis import Basis, default_degree, size_of
from .contrast import Contrast, Quadratic
from .terms import LOWEST, chosen, lost

__all__ = ["Learned", "learn", "of_conditions_alone"]

SIGNIFICANT = 6.0
"""Evidence (natural logarithm) from which a ratio is kept, by chance for about one of 700 nuisances without effect."""

_FIRM = 4.0  # power of the evidence by which trust grows
_FIRST_LOOK = 50_000  # events of each sample
_LOOKS = 2
_MOST_STEPS = 30
_BEYOND = 0.1  # share of the slope at the start of a step, downwards at its end, from which it was too long
_GROWN = 1.2  # times as many products as there are, from which these are learned anew
_NOT_CONVERGED = 5.0  # nats that the last step would gain, from which nothing is believed
_AMPLITUDES = (-25.0, 6.0)  # logarithms; the first one is none
_FALLS = (0.05, 8.0)  # per degree
_LEAST = 0.2  # nats of evidence for a monomial, or it is idle
_ALIKE = (0.0, 0.01, 0.1, 1.0)  # squares of the multiples of the weights of the first coefficient that the second has
_STARTS = ((-3.0, 0.3), (-8.0, 0.3), (-3.0, 1.2))


@dataclass(frozen=True)
class Learned:
    """Weights of a log-ratio, and what speaks for them.

    Attributes:
        weights: ``(M, terms)``.
        coefficients: Of all terms for each variation, ``(J, all terms)``.
        without_held_out: Those that are learned without the held-out events.
        halves: Weights that either half of the other events alone has learned.
        by_halves: Coefficients with these.
        evidence: Natural logarithm of the evidence over that of no ratio; zero if the steps to it did not converge.
        converged: Whether they did.
        crossed: Gain of either half from what the other half has learned, in nats.
        contrast: The samples with the products that it is made of.
        basis: These products.
        prior: Their prior.
        lost: Mean square of what products would add that are too many, in that of those there are, as its prior has it.
    """

    weights: np.ndarray
    coefficients: np.ndarray
    without_held_out: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]
    by_halves: tuple[np.ndarray, np.ndarray]
    evidence: float
    converged: bool
    crossed: float
    contrast: Contrast
    basis: Basis
    prior: _Prior
    lost: float

    @property
    def significant(self) -> bool:
        """Whether the events confirm it."""
        return self.evidence > SIGNIFICANT and self.crossed > 0.0

    @property
    def trust(self) -> float:
        """Factor by which a small effect is made smaller, so that it is rather under- than overestimated.

        It falls to zero where an effect ceases to be significant, and is close to one already where the evidence is twice as
        large: what an effect lacks is a bias of every parameter that does the same to the data.
        """
        return 1.0 - (SIGNIFICANT / self.evidence) ** _FIRM if self.significant else 0.0

    def on_held_out(self) -> np.ndarray:
        """Log-likelihoods of the held-out events, which it is not learned from."""
        return self.contrast.log_likelihoods(self.without_held_out)

    def on_other_events(self) -> np.ndarray:
        """Log-likelihoods of all events, each by what others have taught: halves judge each other."""
        first, second = self.by_halves
        judged = ((second, 0), (first, 1), (self.without_held_out, 2))
        return np.concatenate([self.contrast.log_likelihoods(coefficients, fold) for coefficients, fold in judged])

    def shrunk(self) -> Learned:
        """The same with its weights multiplied by :attr:`trust`."""
        return replace(self, weights=self.trust * self.weights)


def of_conditions_alone(contrast: Contrast) -> np.ndarray:
    """Coefficients ``(J, all terms)`` without a log-ratio, learned without the held-out events.

    Functions of the conditions alone are free for each variation; without conditions there are none.
    """
    coefficients = np.zeros((contrast.n_variations, len(contrast.exponents)))
    if not contrast.n_free:
        return coefficients
    alone = contrast.without_observables()
    free = coefficients[:, contrast.n_terms :]
    at = last = np.zeros(free.size)
    slope, share = np.inf, 0.5
    for step in range(_MOST_STEPS):
        folds = alone.quadratics(at.reshape(free.shape), most=_FIRST_LOOK if step == 0 else None)
        trained = folds[0] + folds[1]
        joint = trained + folds[2]
        gradient = joint.gradient - joint.curvature @ at
        if gradient @ (last - at) > _BEYOND * slope:
            at, slope, share = last + share * (at - last), share * slope, 0.5 * share
            continue
        share = 0.5
        last, at = at, joint.maximum()
        slope = float(gradient @ (at - last)) * (contrast.thinning(_FIRST_LOOK) if step == 0 else 1.0)
        if step and slope < 0.05:  # nats
            break
    free[:] = trained.maximum().reshape(free.shape)
    return coefficients


def learn(contrast: Contrast, former: Learned | None = None) -> Learned:
    """Learn the weights of a log-ratio.

    Args:
        contrast: The samples, with products for a first look.
        former: What fewer of these events have learned.
    """
    if former is None:
        look = _Climb(contrast, None)
        # Where conditions differ much between samples, nothing is seen of observables before that is known.
        look.begin(of_conditions_alone(contrast))
        look.climb(_LOOKS, most=_FIRST_LOOK)
        thinning = contrast.thinning(_FIRST_LOOK)
        climb = look.onto(look.wanted(thinning), thinning)
    else:
        climb = _Climb(contrast.with_terms(former.basis.exponents), former.basis)
        climb.start(former.contrast, former.coefficients, former.prior)
    climb.climb(_MOST_STEPS)
    if climb.grown():
        climb = climb.onto(climb.wanted())
        climb.climb(_MOST_STEPS)
    return climb.learned()


class _Climb:
    """Newton steps to the most probable weights, and the prior that fits them.

    Args:
        contrast: The samples.
        basis: Its products, if these are what they will be.
        former: Where to start: steps with other products.
    """

    def __init__(self, contrast: Contrast, basis: Basis | None):
        self.contrast, self._basis, self._directions = contrast, basis, contrast.directions()
        self._n_monomials, n_terms = contrast.monomials.shape[1], contrast.n_terms
        self._n_weights = self._n_monomials * n_terms
        self._free = np.arange(self._n_weights, self._directions.shape[1])
        self.prior = _Prior(contrast.exponents[:n_terms], self._n_monomials)
        self.coefficients = np.zeros((contrast.n_variations, len(contrast.exponents)))
        self._at = np.zeros(self._directions.shape[1])
        self._begun = self._at, np.inf  # where the last step has begun, and the slope along it there
        self._left = np.inf

    def onto(self, basis: Basis, thinning: float = 1.0) -> _Climb:
        """The same with other products and so many times more events, from here on."""
        other = _Climb(self.contrast.with_terms(basis.exponents), basis)
        other.start(self.contrast, self.coefficients, self.prior)
        last, slope = self._begun
        other._begun = (
            other._weights_of(other.contrast.carried(self._coefficients_of(last), self.contrast)),
            thinning * slope,
        )
        return other

    def start(self, contrast: Contrast, coefficients: np.ndarray, prior: _Prior) -> None:
        """Begin with what other products have learned."""
        self.begin(self.contrast.carried(coefficients, contrast))
        self.prior.take_over(prior)

    def begin(self, coefficients: np.ndarray) -> None:
        """Begin with coefficients of these products."""
        self._at = self._weights_of(coefficients)
        self.coefficients, self._begun = coefficients, (self._at, np.inf)

    def climb(self, steps: int, most: int | None = None) -> None:
        """At most this number of steps with at most this number of events of each sample."""
        share = 0.5
        for _ in range(steps):
            quadratics = self.contrast.quadratics(self.coefficients, most=most)
            self._folds = [fold.seen_by(self._directions) for fold in quadratics]
            joint = sum(self._folds[1:], self._folds[0])
            at, (last, slope) = self._at, self._begun
            # Where a sample is alone, curvatures vanish, and steps lead hundreds of times too far.
            if -self.prior.slope(joint, at, at - last) > _BEYOND * slope:
                self._move(last + share * (at - last))
                self._begun, share = (last, share * slope), 0.5 * share
                continue
            self._whole, self._of_rest = joint.without(self._free)
            self.prior.adapt(self._whole)
            weights, last = _Posterior(self._whole, self.prior.variances).weights, at.copy()
            last[: self._n_weights][self.prior.variances == 0.0] = 0.0  # what is idle from here on
            moved = weights - last[: self._n_weights]
            self._move(np.append(weights, self._of_rest @ np.append(weights, 1.0)))
            self._left, slope = (
                float(moved @ self._whole.curvature @ moved),
                self.prior.slope(joint, last, self._at - last),
            )
            self._begun, share = (last, slope), 0.5
            if self._left < 0.05:  # nats
                self._begun = self._at, np.inf
                break

    def _weights_of(self, coefficients: np.ndarray) -> np.ndarray:
        directions = self._directions
        found: np.ndarray = np.linalg.solve(directions.T @ directions, directions.T @ coefficients.ravel())
        return found

    def _coefficients_of(self, at: np.ndarray) -> np.ndarray:
        found: np.ndarray = (self._directions @ at).reshape(self.coefficients.shape)
        return found

    def _move(self, at: np.ndarray) -> None:
        self._at, self.coefficients = at, self._coefficients_of(at)

    def wanted(self, thinning: float = 1.0) -> Basis:
        """The products that the prior asks for, with so many times more events."""
        amplitudes, falls = self.prior.settings
        n_dim, n_inputs = self.contrast.n_dim, len(falls)
        if not len(amplitudes):  # nothing yet: few products do that as well, unless there are more events to look at
            degree = float(default_degree(n_inputs, self._n_monomials)) if thinning > 1.0 else LOWEST
            return self._basis or Basis((degree,) * n_inputs, n_dim, tails=True)
        return chosen(amplitudes, falls, thinning * self._precisions(), n_dim, self._n_monomials)

    def _precisions(self) -> np.ndarray:
        """Of the weights of each monomial that is not idle, as far as events tell."""
        curvatures = np.diag(self._whole.curvature).reshape(self._n_monomials, -1)
        return np.maximum(np.median(curvatures[self.prior.acting], axis=1), 1e-9)

    def grown(self) -> bool:
        """Whether more products are asked for than there are."""
        return self._basis is not None and len(self.wanted().exponents) > _GROWN * self.contrast.n_terms

    def learned(self) -> Learned:
        """What has been learned."""
        assert self._basis is not None
        contrast, whole, n_terms = self.contrast, self._whole, self.contrast.n_terms
        basis, variances = np.eye(self._n_weights), self.prior.variances
        if contrast.squares:
            first = self._at[:n_terms]
            basis, variances = _second_by_first(whole, self.prior.variances, first, contrast.square_of(first))

        def most_probable(quadratic: Quadratic) -> np.ndarray:
            return basis @ _Posterior(quadratic.seen_by(basis), variances).weights

        evidence, weights = _Posterior(whole.seen_by(basis), variances).evidence, most_probable(whole)
        shape, directions = self.coefficients.shape, self._directions
        coefficients = _coefficients(directions, weights, self._of_rest, shape)
        trained, of_rest = (self._folds[0] + self._folds[1]).without(self._free)
        others = _coefficients(directions, most_probable(trained), of_rest, shape)
        halves, of_rests = zip(*(fold.without(self._free) for fold in self._folds[:2]), strict=True)
        first, second = (most_probable(half) for half in halves)
        return Learned(
            weights.reshape(-1, n_terms),
            coefficients,
            others,
            (first.reshape(-1, n_terms), second.reshape(-1, n_terms)),
            (
                _coefficients(directions, first, of_rests[0], shape),
                _coefficients(directions, second, of_rests[1], shape),
            ),
            evidence if (converged := self._left < max(_NOT_CONVERGED, 0.01 * evidence)) else 0.0,
            converged,
            halves[0].gain(second) + halves[1].gain(first),
            contrast,
            self._basis,
            self.prior,
            lost(self._basis, *self.prior.settings, self._precisions()),
        )


def _second_by_first(
    whole: Quadratic, variances: np.ndarray, first: np.ndarray, square: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the weights and their variances: what evidence prefers for the second coefficient.

    It is a function of its own, or each weight a multiple of that of the first, or nothing; and has multiples of the first
    and of its square, or not.

    Args:
        whole: What the events say of the weights.
        variances: Of the weights ``(2 terms,)``.
        first: Weights of the first coefficient ``(terms,)``.
        square: Weights of its square.
    """
    n_terms = len(first)
    columns = np.zeros((2 * n_terms, 2))
    columns[n_terms:] = np.column_stack([first, square])
    directions = np.column_stack([np.eye(2 * n_terms), columns])
    seen = whole.seen_by(directions)
    alike = [np.append(variances[:n_terms], share * np.square(first)) for share in _ALIKE]
    priors = [
        np.append(own, multiples)
        for own in (variances, *alike)
        for multiples in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))  # of a mixture they are 0 and -1/2
    ]
    return directions, max(
        priors, key=lambda each: _Posterior(seen, each).evidence - (_LEAST if np.any(each[n_terms:]) else 0.0)
    )


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
        self._degrees, self._n_monomials = size_of(degrees).astype(float), n_monomials
        self.idle = np.zeros(n_monomials, bool)
        self._chosen: np.ndarray | None = None

    @property
    def variances(self) -> np.ndarray:
        """Of all weights ``(M terms,)``."""
        if self._chosen is None:
            return np.zeros(self._n_monomials * len(self._degrees))
        return self._at(self._chosen, self.idle)

    @property
    def acting(self) -> np.ndarray:
        """Which monomials ``(M,)`` are not idle."""
        if self._chosen is None:
            return np.zeros(self._n_monomials, bool)
        return ~self.idle & (self._chosen[: self._n_monomials] > _AMPLITUDES[0])

    @property
    def settings(self) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the amplitudes of the monomials that are not idle, and falls ``(k,)``."""
        if self._chosen is None:
            return np.zeros(0), np.zeros(self._degrees.shape[1])
        return self._chosen[: self._n_monomials][self.acting], self._chosen[self._n_monomials :]

    def take_over(self, other: _Prior) -> None:
        """Start from the prior of other products."""
        self._chosen, self.idle = other._chosen, other.idle.copy()

    def slope(self, quadratic: Quadratic, at: np.ndarray, along: np.ndarray) -> float:
        """Derivative of the log-likelihood with this prior, at weights and whatever is free, along a step."""
        variances = self.variances
        n = len(variances)
        precision = np.divide(1.0, variances, out=np.zeros(n), where=variances > 0.0)
        gradient = quadratic.gradient - quadratic.curvature @ at
        return float(gradient @ along - (precision * at[:n]) @ along[:n])

    def adapt(self, quadratic: Quadratic) -> None:
        """Maximise the evidence; idle are the monomials that nothing speaks for."""
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
        self.idle = np.zeros(self._n_monomials, bool)
        for monomial in range(self._n_monomials):
            fewer = self.idle.copy()
            fewer[monomial] = True
            fuller = _Posterior(quadratic, self._at(self._chosen, self.idle)).evidence
            if _Posterior(quadratic, self._at(self._chosen, fewer)).evidence > fuller - _LEAST:
                self.idle = fewer

    def _at(self, settings: np.ndarray, idle: np.ndarray) -> np.ndarray:
        amplitudes, falls = np.split(settings, [self._n_monomials])
        exponents = amplitudes[:, None] - self._degrees @ falls
        return np.where((idle | (amplitudes <= _AMPLITUDES[0]))[:, None], 0.0, np.exp(exponents)).ravel()

    def _objective(self, settings: np.ndarray, quadratic: Quadratic) -> tuple[float, np.ndarray]:
        posterior = _Posterior(quadratic, self._at(settings, np.zeros(self._n_monomials, bool)))
        slopes = posterior.slopes().reshape(self._n_monomials, -1)
        gradient = np.append(slopes.sum(axis=1), -slopes.sum(axis=0) @ self._degrees)
        return -posterior.evidence, -gradient

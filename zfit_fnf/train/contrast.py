r"""How samples differ, learned from their events against the nominal *events*: what is wrong with the nominal density is not.

Which sample an event comes from, the nominal one or a variation, is a question that only the ratios of their densities
answer. With :math:`l_k` the logarithm of the ratio of variation ``k`` to the nominal density (:math:`l_0 = 0`), an event
comes from sample ``k`` with the probability :math:`N_k e^{l_k} / \sum_j N_j e^{l_j}`. Its logarithm, summed over all events
of all samples, is a likelihood: errors of what maximises it are those of the samples' sizes, the nominal one included.
Sizes :math:`N_k` are those of the part of the events (:attr:`ContrastSample.folds`) that is looked at, since the parts are
not in proportion.

Where rows of the samples are paired, of the same generated events, those errors are much smaller: what fluctuates in one
sample fluctuates in the others. The scores of the events of a pair are then summed, and the information on what is learned
is :math:`H G^{-1} H` in place of the curvature :math:`H`, with the covariance :math:`G` of the sums of scores.

Here :math:`l_k = o_k + \sum_m \phi_m(\nu_k) r_m + g_k`, where :math:`o_k` is known, :math:`r_m` are polynomials with the
weights that are learned, and :math:`g_k` are functions of the conditions alone, of which a conditional density knows nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy.linalg import lapack
from scipy.special import log_softmax

from ..common.chunks import EVENTS, slices
from ..densities.basis import Basis, default_degree
from ..densities.ratio import polynomials

__all__ = ["Contrast", "ContrastSample", "Quadratic"]

_RIDGE = 1e-3  # of what is free, for functions of conditions that the events do not determine
_SMALLEST = 1e-6  # of the mean curvature, what a direction has to have at least to be known by pairs
_ROUNDING = 1e-7  # of products of features, relative
_LEAST_SIGNED = 0.5  # of the usual share of signed weights in unsigned ones
_INDEPENDENT = 1e-11  # mean square of a combination of features in that of the largest one, below which it is rounding
_PROJECTED = 20_000  # nominal events for which a square is a polynomial
_NOTHING = 1e-9  # size of a sample that has no events in a part of them
_MOST_KEPT = 50_000_000  # polynomials of events that are kept from one pass to the next


@dataclass(frozen=True)
class ContrastSample:
    """Events of one sample.

    Attributes:
        bounded: Bounded coordinates ``(n, d + m)``.
        offsets: What is known of the log-ratios, ``(n, J)`` for ``J`` variations.
        moved: What a map contributes to that, ``(n, J)``, if anyone asks.
        weights: Event weights ``(n,)`` whose sum is the effective size of the sample.
        folds: Part ``(n,)`` of the events: 0 and 1 are halves to train on, 2 is held out.
    """

    bounded: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    folds: np.ndarray
    moved: np.ndarray | None


@dataclass(frozen=True)
class Quadratic:
    """A log-likelihood ``h w - w H w / 2``, near its maximum, of what is learned."""

    gradient: np.ndarray
    curvature: np.ndarray

    @classmethod
    def zero(cls, size: int) -> Quadratic:
        """One that knows nothing of ``size`` weights."""
        return cls(np.zeros(size), np.zeros((size, size)))

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(self.gradient + other.gradient, self.curvature + other.curvature)

    def gain(self, weights: np.ndarray) -> float:
        """How much larger it is than at zero."""
        return float(self.gradient @ weights - 0.5 * weights @ self.curvature @ weights)

    def seen_by(self, directions: np.ndarray) -> Quadratic:
        """As a function of the coordinates along ``directions``, the columns of a matrix."""
        return Quadratic(directions.T @ self.gradient, directions.T @ self.curvature @ directions)

    def maximum(self) -> np.ndarray:
        """Where it is largest."""
        return np.linalg.solve(self.curvature + _RIDGE * np.eye(len(self.gradient)), self.gradient)

    def without(self, others: np.ndarray) -> tuple[Quadratic, np.ndarray]:
        """Maximised over the coordinates ``others``; also the matrix that gives those, of the rest and of one."""
        kept = np.setdiff1d(np.arange(len(self.gradient)), others)
        block = self.curvature[np.ix_(others, others)] + _RIDGE * np.eye(len(others))
        right = np.column_stack([-self.curvature[np.ix_(others, kept)], self.gradient[others]])
        solved = np.linalg.solve(block, right)
        cross = self.curvature[np.ix_(kept, others)]
        gradient = self.gradient[kept] - cross @ solved[:, -1]
        return Quadratic(gradient, _not_negative(self.curvature[np.ix_(kept, kept)] + cross @ solved[:, :-1])), solved


class Contrast:
    """The samples of one response.

    Args:
        samples: The nominal events first, then those of ``J`` variations.
        monomials: Their monomials at the points of the variations, ``(J, M)``.
        n_dim: Number of observables among the bounded coordinates.
        exponents: Degrees ``(terms, d + m)`` of the products that are learned.
        paired: Whether row ``i`` is the same generated event in all samples, and in the same fold.
        squares: Whether the monomials are a nuisance and its square.
    """

    def __init__(
        self,
        samples: Sequence[ContrastSample],
        monomials: np.ndarray,
        n_dim: int,
        exponents: np.ndarray,
        *,
        paired: bool = False,
        squares: bool = False,
    ):
        self.samples, self.monomials, self.paired, self.squares = samples, monomials, paired, squares
        self.n_dim, self._signed = n_dim, any(np.any(sample.weights < 0.0) for sample in samples)
        self._set(exponents)
        sizes = [[sample.weights[sample.folds == fold].sum() for sample in samples] for fold in range(3)]
        self._log_sizes = np.log(np.maximum(sizes, _NOTHING))  # (3, 1 + J)

    def _set(self, exponents: np.ndarray) -> None:
        """The constant comes last: it and what depends on conditions alone are for each variation by itself."""
        self.n_terms, n_inputs = len(exponents), exponents.shape[1]
        least = default_degree(n_inputs)
        of_conditions = Basis(tuple(np.maximum(exponents, least).max(axis=0)[self.n_dim :]), n_inputs - self.n_dim)
        alone = np.pad(of_conditions.exponents, ((0, 1), (self.n_dim, 0)))
        self.exponents = np.concatenate([exponents, alone])
        self._keep()

    def with_terms(self, exponents: np.ndarray) -> Contrast:
        """The same samples with other products."""
        other = copy.copy(self)
        other._set(exponents)
        return other

    def carried(self, coefficients: np.ndarray, former: Contrast) -> np.ndarray:
        """Coefficients ``(J, all terms)`` of former products, as those of these; of others they are zero."""
        places = {tuple(row): place for place, row in enumerate(former.exponents)}
        rows = [places.get(tuple(row), -1) for row in self.exponents]
        return np.where(np.array(rows) >= 0, coefficients[:, rows], 0.0)

    def _keep(self) -> None:
        """Keep the polynomials of events, if they are not too many."""
        size = sum(len(sample.weights) for sample in self.samples) * len(self.exponents)
        self._kept: dict[tuple[int, int, int], np.ndarray] | None = {} if size < _MOST_KEPT else None

    def without_observables(self) -> Contrast:
        """The same samples with polynomials of the conditions alone."""
        alone = copy.copy(self)
        alone.exponents, alone.n_terms = self.exponents[self.n_terms :], 0
        alone._keep()
        return alone

    @property
    def n_variations(self) -> int:
        return len(self.monomials)

    @property
    def n_free(self) -> int:
        """Number of polynomials of the conditions alone."""
        return len(self.exponents) - self.n_terms - 1

    def thinning(self, most: int) -> float:
        """How many times more events there are than with at most ``most`` of each sample, about."""
        return float(np.mean([max(1, len(sample.weights) // most) for sample in self.samples]))

    def directions(self) -> np.ndarray:
        """From the weights ``(M, terms)`` of what is learned, then what is free, to coefficients ``(J, all terms)``."""
        n_variations, n_all = self.n_variations, len(self.exponents)
        columns = []
        for m in range(self.monomials.shape[1]):
            for term in range(self.n_terms):
                column = np.zeros((n_variations, n_all))
                column[:, term] = self.monomials[:, m]
                columns.append(column.ravel())
        for variation in range(n_variations):
            for term in range(self.n_terms, n_all):
                column = np.zeros((n_variations, n_all))
                column[variation, term] = 1.0
                columns.append(column.ravel())
        return np.column_stack(columns)

    def quadratics(self, coefficients: np.ndarray, *, most: int | None = None) -> list[Quadratic]:
        """The log-likelihood of each fold near ``coefficients (J, all terms)``, as a function of these.

        Args:
            coefficients: Where.
            most: Number of events of each sample, if not all.
        """
        size = coefficients.size
        gradients, curvatures, unsigned = np.zeros((3, size)), np.zeros((3, size, size)), np.zeros((3, size, size))
        scatter, of_pairs = np.zeros((size, size)), np.zeros((0, size), np.float32)
        for index, fold, features, offsets, weights in self._chunks(most):
            log_shares = self._log_shares(features, offsets, coefficients, fold)
            shares = np.exp(log_shares[:, 1:])
            scores = ((index == np.arange(1, self.n_variations + 1)) - shares) * weights[:, None]
            gradients[fold] += (scores.T @ features).ravel()
            curvatures[fold] += _spread(features, shares, weights).reshape(size, size)
            if self._signed:
                unsigned[fold] += _spread(features, shares, np.abs(weights)).reshape(size, size)
            if self.paired:
                own = (scores.astype(np.float32)[:, :, None] * features[:, None, :]).reshape(len(features), size)
                of_pairs = own if index == 0 else of_pairs + own
                if index == self.n_variations:
                    scatter += of_pairs.T @ of_pairs
        if self._signed:
            curvatures = np.array(list(map(_populated, curvatures, unsigned)))
        at = coefficients.ravel()
        sums = [
            Quadratic(gradient + curvature @ at, curvature)
            for gradient, curvature in zip(gradients, curvatures, strict=True)
        ]
        return self._of_pairs(sums, scatter, at) if self.paired else sums

    def _of_pairs(self, sums: Sequence[Quadratic], scatter: np.ndarray, at: np.ndarray) -> list[Quadratic]:
        """What pairs know, from the sums of the folds, and of squares of the scores of pairs.

        As many more events as there are coefficients are taken to be independent, since a covariance of many numbers is known
        of many pairs only.
        """
        sizes = np.exp(self._log_sizes).min(axis=1)
        curvature = _not_negative(sums[0].curvature + sums[1].curvature + sums[2].curvature)
        scores = [fold.gradient - fold.curvature @ at for fold in sums]
        share = len(at) / (len(at) + sizes.sum())
        noise = (1.0 - share) * scatter + share * curvature
        noise += _SMALLEST * np.trace(curvature) / len(at) * np.eye(len(at))
        better = np.linalg.solve(noise, curvature)
        information = curvature @ better
        information = 0.5 * (information + information.T)
        of_folds = [information * each for each in sizes / sizes.sum()]
        return [Quadratic(score @ better + each @ at, each) for score, each in zip(scores, of_folds, strict=True)]

    def log_likelihoods(self, coefficients: np.ndarray, fold: int = 2) -> np.ndarray:
        """Weighted logarithm of the probability of the sample that each event, or pair, of a fold comes from."""
        parts: list[np.ndarray] = []
        for index, _, features, offsets, weights in self._chunks(None, [fold]):
            values = weights * self._log_shares(features, offsets, coefficients, fold)[:, index]
            if self.paired and index:
                parts[-1] = parts[-1] + values
            else:
                parts.append(values)
        return np.concatenate(parts) if parts else np.zeros(0)

    def values(self, bounded: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Polynomials ``(n, M)`` with the given ``weights (M, terms)``."""
        found = np.empty((len(bounded), len(weights)))
        for part in slices(len(bounded), EVENTS):
            features = polynomials(tf.constant(bounded[part]), self.exponents[: self.n_terms]).numpy()
            found[part] = features @ weights.T.astype(np.float32)
        return found

    def square_of(self, weights: np.ndarray) -> np.ndarray:
        """Weights ``(terms,)`` of the polynomial nearest to the square of that with the given weights, for nominal events."""
        nominal = self.samples[0]
        rows = np.arange(0, len(nominal.weights), max(1, len(nominal.weights) // _PROJECTED))
        features = self._features(nominal.bounded[rows], None).astype(np.float64)
        weighted = features * np.abs(nominal.weights[rows])[:, None]
        square = np.square(features[:, : self.n_terms] @ weights)
        # Products of features are several times faster than their decomposition, and what they lose is noise anyway.
        sizes, directions = np.linalg.eigh(weighted.T @ features)
        known = sizes > _INDEPENDENT * sizes[-1]
        directions = directions[:, known]
        found: np.ndarray = directions @ ((directions.T @ (weighted.T @ square)) / sizes[known])
        return found[: self.n_terms]

    def of_conditions(self, bounded: np.ndarray) -> np.ndarray:
        """Polynomials ``(n, free + 1)`` of the conditions alone; the last one is constant."""
        return polynomials(tf.constant(bounded), self.exponents[self.n_terms :]).numpy()

    def _log_shares(self, features: np.ndarray, offsets: np.ndarray, coefficients: np.ndarray, fold: int) -> np.ndarray:
        ratios = offsets + features @ coefficients.T.astype(np.float32)
        return log_softmax(np.column_stack([np.zeros(len(ratios)), ratios]) + self._log_sizes[fold], axis=1)

    def _chunks(
        self, most: int | None, folds: Sequence[int] = (0, 1, 2)
    ) -> Iterator[tuple[int, int, np.ndarray, np.ndarray, np.ndarray]]:
        """Sample, fold, features ``(n, all terms)``, offsets and weights of events; all samples of some rows, then the next."""
        steps = [1 if most is None else max(1, len(sample.weights) // most) for sample in self.samples]
        for fold in folds:
            rows = [
                np.flatnonzero(sample.folds == fold)[::step] for sample, step in zip(self.samples, steps, strict=True)
            ]
            for part in slices(max(map(len, rows)), EVENTS):
                for index, (sample, step) in enumerate(zip(self.samples, steps, strict=True)):
                    chosen = rows[index][part]
                    if not len(chosen):
                        continue
                    place = (index, fold, part.start) if step == 1 else None
                    features = self._features(sample.bounded[chosen], place)
                    yield index, fold, features, sample.offsets[chosen], sample.weights[chosen]

    def _features(self, bounded: np.ndarray, place: tuple[int, int, int] | None) -> np.ndarray:
        if self._kept is None or place is None:
            return polynomials(tf.constant(bounded), self.exponents).numpy()
        if place not in self._kept:
            self._kept[place] = polynomials(tf.constant(bounded), self.exponents).numpy()
        return self._kept[place]


def _spread(features: np.ndarray, shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance ``(J, terms, J, terms)`` of the features of each variation, whose shares are ``(n, J)``, summed over events."""
    (n_variations, n_terms), signs = (shares.shape[1], features.shape[1]), np.sign(weights)
    found = np.zeros((n_variations, n_terms) * 2)
    for j in range(n_variations):
        for k in range(j, n_variations):
            # Squares of one matrix take half as long as a product of two.
            sizes = np.sqrt(np.abs(weights) * shares[:, j] * (1.0 - shares[:, k] if j == k else shares[:, k]))
            own = features * sizes.astype(np.float32)[:, None]
            block = own.T @ own
            if len(negative := own[signs < 0]):
                block -= 2.0 * (negative.T @ negative)
            block *= 1.0 if j == k else -1.0
            found[j, :, k], found[k, :, j] = block, block.T
    return found


def _populated(curvature: np.ndarray, unsigned: np.ndarray) -> np.ndarray:
    """A curvature of events of both signs of weights, in all directions at least half of what is usual beside that without signs.

    It fluctuates to nothing, or below, in directions that only few events see, where a step would lead anywhere.
    """
    if not unsigned.any():
        return curvature
    least = _LEAST_SIGNED * max(float(np.trace(curvature) / np.trace(unsigned)), 0.0)
    tiny = _ROUNDING * np.trace(unsigned) / len(unsigned) * np.eye(len(unsigned))
    if lapack.dpotrf(curvature - least * unsigned + tiny, lower=True)[1] == 0:
        return curvature
    sizes, directions = np.linalg.eigh(unsigned)
    root = directions * np.sqrt(np.maximum(sizes, _ROUNDING * sizes[-1]))
    inverse = root / np.square(root).sum(axis=0)
    relative, along = np.linalg.eigh(inverse.T @ curvature @ inverse)
    found: np.ndarray = (root @ along * np.maximum(relative, least)) @ (root @ along).T
    return found


def _not_negative(curvature: np.ndarray) -> np.ndarray:
    """A symmetric matrix without its negative eigenvalues, which it has where few events have negative weights."""
    curvature = 0.5 * (curvature + curvature.T)
    sizes, directions = np.linalg.eigh(curvature)
    if sizes[0] >= -1e-9 * sizes[-1]:
        return curvature
    return (directions * np.maximum(sizes, 0.0)) @ directions.T

r"""The likelihood of the summed scores: what data say, once simulation has told what the scores mean.

Near a point of the parameters the gradient :math:`g` of the negative log-likelihood of the events is a Gaussian measurement,

.. math::
    r(u, \eta) = g + b + S u + R \eta, \qquad -\log L = \tfrac12 r^T J^{-1} r + \tfrac12 \eta^2,

with the distance :math:`u` from that point, the covariance :math:`J` of the scores of the data, the closure :math:`b`, the
derivative :math:`S` of the expected sum of scores (what the densities promise and what simulation adds to it), and the directions
:math:`R R^T = V` in which finite simulation leaves the closure uncertain. Profiling them gives the covariance
:math:`S^{-1} (J + V) S^{-T}`: the sandwich, in which everything has been measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

__all__ = ["Moments", "SlopeNoise", "cautiously", "inverse", "root"]

SlopeNoise: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Two factors ``(P, P)`` and a covariance ``(P, P)`` of mean scores, see `Moments`."""

_NOTHING = 1e-10  # of the largest eigenvalue, in units of the diagonal: no information
_LEAST = 0.1  # of the claimed information that is left where all of it may be noise: a free parameter needs an error
_DOUBT = 2.0  # standard deviations by which a measured variance is raised, where it is smaller than the promised one
_SECOND_ORDER = 3.0  # pulls by an error that is 1 + d times the right one have the mean square 1 + 3 <d^2>, for small d
_NEGLIGIBLE = 1e-3  # of the variance of a parameter, below which a direction of finite simulation is left out


def _eigen(matrix: np.ndarray, power: float) -> np.ndarray:
    """A symmetric matrix to a power, in the subspace in which it is positive."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    used = scale > 0
    result = np.zeros_like(matrix)
    if used.any():
        values, vectors = np.linalg.eigh(matrix[np.ix_(used, used)])
        kept = values > _NOTHING * values.max()
        result[np.ix_(used, used)] = (vectors[:, kept] * values[kept] ** power) @ vectors[:, kept].T
    return result


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric matrix that is not negative, in the subspace in which it is not zero."""
    scale = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    scale[scale == 0] = 1.0
    return _eigen(matrix / np.outer(scale, scale), -1.0) / np.outer(scale, scale)


def root(matrix: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Symmetric root of such a matrix, or another power of it."""
    return _eigen(matrix, power)


def cautiously(measured: np.ndarray, scores: np.ndarray, shares: np.ndarray, n: float) -> np.ndarray:
    r"""A matrix ``T (P, P)``, such that :math:`T\,\mathrm{measured}\,T^T` is a covariance of scores that may be believed.

    Where few events with large scores make a variance, most samples have fewer of them than they should, and the measured
    variance is too small. In each direction in which it is smaller than the densities promise it is raised by two of its
    standard deviations, but not above what they promise.

    Args:
        measured: Covariance of the score of an event ``(P, P)``, as ``n`` events have it.
        scores: Scores ``(N, P)`` of events of the densities: many, so that large ones are among them.
        shares: Weights ``(N,)`` of these, which sum to one.
        n: Number of events, or what they are worth.
    """
    promised = scores.T @ (shares[:, None] * scores)
    units = np.sqrt(np.diag(promised))
    units[units == 0] = 1.0
    scaled = promised / np.outer(units, units)
    whiten, back = root(scaled, -0.5) / units, units[:, None] * root(scaled)
    ratios, directions = np.linalg.eigh(whiten @ measured @ whiten.T)
    ratios = np.maximum(ratios, _NOTHING)
    squares = np.square(scores @ (whiten.T @ directions))
    doubt = np.sqrt(shares @ np.square(squares) / n)
    believed = np.where(ratios < 1.0, np.minimum(ratios + _DOUBT * doubt, 1.0), ratios)
    factors = np.sqrt(believed / ratios)
    return np.eye(len(measured)) + back @ (directions * (factors - 1.0)) @ directions.T @ whiten


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of scores and what is known of them, in units of the errors that constraints and densities would give.

    Attributes:
        bias: Closure ``(P,)``.
        promised: Fisher information of the densities ``(P, P)``.
        slope: Derivative of the closure ``(P, P)``.
        scatter: Covariance of the sum of the scores of the data ``(P, P)``.
        sources: Covariance of the closure by process and sample.
        constraints: Information of the auxiliary measurements ``(P, P)``.
        slope_noise: For each source, what multiplies the covariance of its mean score in the covariance of two columns of
            ``slope``, the same for how well these are known, which shrinking does not improve as much, and that covariance.
    """

    bias: np.ndarray
    promised: np.ndarray
    slope: np.ndarray
    scatter: np.ndarray
    sources: dict[tuple[str, str], np.ndarray]
    constraints: np.ndarray
    slope_noise: dict[tuple[str, str], list[SlopeNoise]]

    @cached_property
    def simulation(self) -> np.ndarray:
        """Covariance ``(P, P)`` of the closure, ``V``."""
        return np.sum([np.zeros_like(self.scatter), *self.sources.values()], axis=0)

    @cached_property
    def weight(self) -> np.ndarray:
        """Inverse covariance ``(P, P)`` of the calibrated scores."""
        return inverse(self.scatter + self.simulation)

    @cached_property
    def noise(self) -> np.ndarray:
        """Information ``(P, P)`` that the noise of the slopes pretends to have."""
        found = [
            factors * np.sum(self.weight * noise) for ones in self.slope_noise.values() for factors, _, noise in ones
        ]
        return np.sum([np.zeros_like(self.weight), *found], axis=0)

    @cached_property
    def _shrinkage(self) -> np.ndarray:
        """What of the derivatives of the scores is no noise, ``(P, P)``."""
        raw = self.promised + self.slope
        claimed = raw.T @ self.weight @ raw
        half = root(claimed + self.constraints, -0.5)
        values, vectors = np.linalg.eigh(half @ claimed @ half)
        kept = values > 1e-9
        white = half @ vectors[:, kept] / np.sqrt(values[kept])  # claimed information is one
        real, directions = np.linalg.eigh(np.eye(kept.sum()) - white.T @ self.noise @ white)
        shrink = (directions * np.sqrt(np.maximum(real, _LEAST))) @ directions.T
        return white @ shrink @ white.T @ claimed

    @cached_property
    def _scores(self) -> np.ndarray:
        """Derivatives ``(P, P)`` of the scores, shrunk by what of their information is noise, the weights of the estimate."""
        return (self.promised + self.slope) @ self._shrinkage

    @cached_property
    def _step(self) -> np.ndarray:
        """How what is solved for the estimate moves with it, ``(P, P)``."""
        return self._scores.T @ self.weight @ (self.promised + self.slope) + self.constraints

    @cached_property
    def _solved(self) -> np.ndarray:
        """Inverse covariance ``(P, P)`` of what is solved for the estimate."""
        return inverse(self._scores.T @ self.weight @ self._scores + self.constraints)

    @cached_property
    def _as_measured(self) -> np.ndarray:
        """Covariance ``(P, P)`` of the estimate, if slopes are what was measured."""
        return inverse(self._step.T @ self._solved @ self._step)

    @cached_property
    def _to_estimate(self) -> np.ndarray:
        """Inverse of how what is solved for the estimate moves with it, ``(P, P)``."""
        return self._as_measured @ self._step.T @ self._solved

    @cached_property
    def _of_slopes(self) -> dict[tuple[str, str], np.ndarray]:
        """What to add to that covariance ``(P, P)``, for each source, as its noise in the slopes makes the errors uncertain.

        Errors that are sometimes too small and sometimes too large are too small on average, as those of a mean whose
        width comes from few events are without Student's factor.
        """
        sizes = np.sqrt(np.diag(self._as_measured))
        sizes[sizes == 0] = 1.0
        scale = np.outer(sizes, sizes) / _SECOND_ORDER
        return {source: self._uncertain(self._as_measured, ones) / scale for source, ones in self.slope_noise.items()}

    @cached_property
    def precision(self) -> np.ndarray:
        """Inverse covariance ``(P, P)`` of the calibrated estimate."""
        measured = self._step.T @ self._solved @ self._step - self.constraints
        total = np.sum([self._as_measured, *self._of_slopes.values()], axis=0)
        # Data make no estimate worse: whatever the slopes are, a tenth of the information is left.
        whiten, back = root(self._as_measured), root(self._as_measured, -0.5)
        values, vectors = np.linalg.eigh(whiten @ (inverse(total) - self.constraints - _LEAST * measured) @ whiten)
        rest = back @ (vectors * np.maximum(values, 0.0)) @ vectors.T @ back
        return self.constraints + _LEAST * measured + rest

    @cached_property
    def of_slopes(self) -> dict[tuple[str, str], np.ndarray]:
        """Part ``(P,)`` of the variances of the estimate that is there because slopes are uncertain, for each source."""
        wanted = {source: np.maximum(np.diag(one), 0.0) for source, one in self._of_slopes.items()}
        total = np.sum([np.zeros(len(self.bias)), *wanted.values()], axis=0)
        added = np.maximum(np.diag(self.covariance) - np.diag(self._as_measured), 0.0)
        return {source: one * added / np.maximum(total, 1e-300) for source, one in wanted.items()}

    @cached_property
    def _towards(self) -> np.ndarray:
        """What a gradient ``(P,)`` at a point is multiplied by, ``(P, P)``, to be that of the parabola with ``covariance``."""
        return self.precision @ self._to_estimate

    @cached_property
    def information(self) -> np.ndarray:
        """Information ``(P, P)`` of the data, finite simulation included."""
        return self.precision - self.constraints

    @cached_property
    def covariance(self) -> np.ndarray:
        """Covariance ``(P, P)`` of the calibrated estimate."""
        return inverse(self.precision)

    @cached_property
    def sensitivity(self) -> np.ndarray:
        """``S``, derivatives of the scores that have this information, as near as may be to what they are weighed by."""
        half = root(self._scores.T @ self.weight @ self._scores)
        back = root(half @ half, -0.5)
        return self._scores @ back @ root(half @ self.information @ half) @ back

    @cached_property
    def weights(self) -> np.ndarray:
        """What a change of the sum of scores does to the estimate, ``(P, P)``."""
        return self._to_estimate @ self._scores.T @ self.weight

    @cached_property
    def of_constraints(self) -> np.ndarray:
        """Part ``(P, P)`` of the covariance of the estimate that comes from auxiliary measurements."""
        return self._to_estimate @ self.constraints @ self._to_estimate.T

    def gradient(self, scores: np.ndarray, of_constraints: np.ndarray) -> np.ndarray:
        """Gradient ``(P,)`` of the calibrated parabola where the scores were taken.

        Args:
            scores: Gradient ``(P,)`` there of the learned likelihood of the events.
            of_constraints: That of the constraints.
        """
        return self._towards @ (self._scores.T @ self.weight @ (scores + self.bias) + of_constraints)

    def location(self, scores: np.ndarray, of_constraints: np.ndarray) -> np.ndarray:
        """``b (P,)``, with which a likelihood with the derivatives ``sensitivity`` has that gradient; arguments as there."""
        onto = self.sensitivity.T @ self.weight
        missing = self.gradient(scores, of_constraints) - of_constraints - onto @ (scores + self.bias)
        return self.bias + self.sensitivity @ inverse(self.information) @ missing

    @cached_property
    def metric(self) -> np.ndarray:
        """Length of a change of the sum of scores ``(P, P)``, in errors that it moves the estimate by in its worst direction."""
        return self.weights.T @ inverse(self.covariance) @ self.weights

    def share(self, of_scores: np.ndarray) -> np.ndarray:
        """Part ``(P, P)`` of the covariance of the estimate that comes from a part of that of the scores."""
        return self.weights @ of_scores @ self.weights.T

    @cached_property
    def directions(self) -> np.ndarray:
        """What of the covariance of the closure matters for the parameters, ``R (P, m)``."""
        half = root(self.simulation)
        _, values, rotation = np.linalg.svd(root(self.covariance, -0.5) @ self.weights @ half)
        return half @ rotation.T[:, : int((values**2 > _NEGLIGIBLE).sum())]

    @property
    def left_out(self) -> int:
        """Number of directions of finite simulation that do not matter."""
        return int(np.linalg.matrix_rank(self.simulation)) - self.directions.shape[1]

    def doubt(self, planned: Moments | None = None) -> np.ndarray:
        """Relative uncertainty ``(P,)`` that the noise of the slopes leaves of the errors, or of those ``planned`` from these."""
        made = self if planned is None else planned
        variances = [np.diag(made._uncertain(made.covariance, ones)) for ones in self.slope_noise.values()]
        variance = np.sum([np.zeros(len(self.bias)), *variances], axis=0)
        return np.sqrt(np.maximum(variance, 0.0)) / np.diag(made.covariance)

    def _uncertain(self, covariance: np.ndarray, noise: Sequence[SlopeNoise]) -> np.ndarray:
        """Mean square ``(P, P)`` of half of what the noise of slopes changes a covariance of the estimate by."""
        parts = [
            (covariance @ unknown @ covariance) * (self.weights @ of_scores @ self.weights.T)
            for _, unknown, of_scores in noise
        ]
        return np.sum([np.zeros_like(covariance), *parts], axis=0)

    def with_sources(self, factors: Sequence[float]) -> Moments:
        """The same with samples that are larger by these factors, one for each source."""
        larger = dict(zip(self.sources, factors, strict=True))
        noise = {
            source: [(factors, unknown, covariance / larger[source]) for factors, unknown, covariance in ones]
            for source, ones in self.slope_noise.items()
        }
        sources = {source: one / larger[source] for source, one in self.sources.items()}
        return replace(self, sources=sources, slope_noise=noise)

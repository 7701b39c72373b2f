"""The mass of pairs in a region, and what a fit expects there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy.special import expit

from ..common.chunks import slices
from .member import Member
from .model import Likelihood, log_integral
from .pairs import Pairs

__all__ = ["Spectrum", "spectrum_of"]

_SHOWN = 4000  # pairs that are enough for a spectrum
_FINE = 4  # points in a bin
_CHUNK = 500  # pairs


@dataclass(frozen=True)
class Spectrum:
    """Mass of passing or of failing probes in a region of the conditions, and what the fit says of it.

    Attributes:
        edges: Edges of the bins.
        observed: Sum of weights in each bin.
        variance: Sum of their squares.
        signal: What the fit expects in each bin, of the signal.
        background: The same of the background.
        passing: Whether it is that of passing probes.
    """

    edges: np.ndarray
    observed: np.ndarray
    variance: np.ndarray
    signal: np.ndarray
    background: np.ndarray
    passing: bool

    @property
    def expected_variance(self) -> np.ndarray:
        """Variance of what is observed; for weighted pairs the mean weight counts, which is one where there are none."""
        weight = self.variance.sum() / self.observed.sum() if self.variance.any() else 1.0
        found: np.ndarray = (self.signal + self.background) * weight
        return found


def spectrum_of(
    members: Sequence[Member],
    likelihood: Likelihood,
    pairs: Pairs,
    inside: np.ndarray,
    passing: bool,
    edges: np.ndarray,
) -> Spectrum:
    """The spectrum of some of the pairs, with what the members expect on average."""
    if not inside.any():
        raise ValueError("no pairs are in the region")
    chosen, scaled = inside & (pairs.passing == passing), np.linspace(-1, 1, len(edges))
    observed, variance = (np.histogram(pairs.t[chosen], scaled, weights=pairs.weights[chosen] ** k)[0] for k in (1, 2))
    rows = np.flatnonzero(inside)
    rows = rows[:: -(-len(rows) // _SHOWN)]
    weights = pairs.weights[rows] * pairs.weights[inside].sum() / pairs.weights[rows].sum()
    signal, background = np.mean(
        [_expected(m, likelihood, pairs, rows, weights, passing, len(edges) - 1) for m in members], axis=0
    )
    return Spectrum(edges, observed, variance, signal, background, passing)


def _expected(
    member: Member,
    likelihood: Likelihood,
    pairs: Pairs,
    rows: np.ndarray,
    weights: np.ndarray,
    passing: bool,
    bins: int,
) -> np.ndarray:
    """Signal and background ``(2, bins)`` with an outcome that a member expects of some pairs."""
    eta, sign = member.eta(pairs.c[rows]), 1.0 if passing else -1.0
    share = expit(eta[:, 2])
    outcome = np.array([share * expit(sign * eta[:, 0]), (1 - share) * expit(sign * eta[:, 1])]) * weights
    fine = -1 + (np.arange(bins * _FINE) + 0.5) * 2 / (bins * _FINE)
    found = np.zeros((2, len(fine)))
    for part in slices(len(rows), _CHUNK):
        x = tf.constant(pairs.x[rows[part]])
        n, t = x.shape[0], tf.constant(np.tile(fine, x.shape[0]))
        for k, (shape, a) in enumerate(likelihood.of_outcome(tf.constant(eta[part]), passing)):
            everywhere = shape.log_shape(t, tf.repeat(a, len(fine), axis=0), tf.repeat(x, len(fine), axis=0))
            log_p = tf.reshape(everywhere, (n, -1)) - log_integral(shape, a, x, likelihood.quadrature)[:, None]
            found[k] += outcome[k, part] @ np.exp(log_p.numpy())
    return found.reshape(2, bins, _FINE).sum(axis=-1) * 2 / len(fine)

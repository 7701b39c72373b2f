"""One member of the ensemble: hidden layers, and what is linear in their features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ..densities.history import History
from ..densities.networks import MaskedMLP, last_hidden_layer
from .model import HEADS

__all__ = ["Member", "features", "linear"]


@dataclass(frozen=True)
class Member:
    """One member of the ensemble.

    Attributes:
        network: Its hidden layers.
        numbers: What is linear in features: the logits first, then coefficients of the shapes.
        covariance: The sandwich.
        history: Its training.
    """

    network: MaskedMLP
    numbers: np.ndarray
    covariance: np.ndarray
    history: History

    def eta(self, c: np.ndarray) -> np.ndarray:
        """Logits and coefficients ``(n, 3 + P)`` at standardised conditions."""
        return linear(self.numbers, features(self.network, c))

    def efficiency(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The efficiency ``(n,)``, its derivatives ``(n, H + 1)`` with respect to numbers, and the covariance of these."""
        basis = last_hidden_layer(self.network, c)
        n = basis.shape[1]
        own = expit(basis @ self.numbers[:n])
        return own, basis * (own * (1 - own))[:, None], self.covariance[:n, :n]


def features(network: MaskedMLP, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What logits and what coefficients of shapes are linear in: the last hidden layer, and the conditions, each with a one."""
    return last_hidden_layer(network, c), np.column_stack([c, np.ones(len(c))])


def linear(numbers: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Logits and coefficients ``(n, 3 + P)``."""
    n_first = HEADS * basis[0].shape[1]
    heads, shapes = numbers[:n_first].reshape(HEADS, -1), numbers[n_first:].reshape(-1, basis[1].shape[1])
    return np.concatenate([basis[0] @ heads.T, basis[1] @ shapes.T], axis=1)

"""Monomials of the nuisances, which multiply what is learned of the events; continued linearly beyond the trained windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import MOST_POWER, integer, listed

__all__ = ["Monomials", "Powers", "checked_powers", "continued_power"]

Powers = tuple[tuple[int, ...], ...]
"""Exponents of the nuisances in each monomial."""


class Monomials:
    """The monomials of several responses, one after the other.

    Args:
        responses: Whatever has ``nuisances`` and the ``powers`` of its monomials.
        windows: Trained range ``(low, high)`` of each nuisance, in the order of the values that :meth:`__call__` takes.
    """

    def __init__(self, responses: Sequence[Any], windows: Mapping[str, tuple[float, float]]):
        self._windows = dict(windows)
        self._order = max((power for r in responses for powers in r.powers for power in powers), default=1)
        # Places of the factors in the flat (K, order + 1) table of powers, where 0 is one.
        place = {name: index * (self._order + 1) for index, name in enumerate(self._windows)}
        factors = [
            [place[name] + power for name, power in zip(response.nuisances, powers, strict=True) if power]
            for response in responses
            for powers in response.powers
        ]
        most = max(map(len, factors), default=0)
        self._factors = np.array([places + [0] * (most - len(places)) for places in factors], np.int32)

    def __len__(self) -> int:
        return len(self._factors)

    def __call__(self, nu: tf.Tensor) -> tf.Tensor:
        """Values ``(M,)`` at the nuisances ``nu (K,)``."""
        low, high = (tf.constant(edge, nu.dtype) for edge in zip(*self._windows.values(), strict=True))
        powers = [tf.ones_like(nu), *(continued_power(nu, power, low, high) for power in range(1, self._order + 1))]
        table = tf.reshape(tf.stack(powers, axis=-1), (-1,))
        return tf.reduce_prod(tf.gather(table, self._factors), axis=-1)


def checked_powers(powers: Powers, nuisances: tuple[str, ...]) -> Powers:
    """Exponents of different monomials of the nuisances, none of them constant."""
    monomials = [
        listed(monomial, "each monomial in powers", "(1, 0)") for monomial in listed(powers, "powers", "((1,), (2,))")
    ]
    if not monomials or any(len(monomial) != len(nuisances) for monomial in monomials):
        raise ValueError(f"every monomial needs one exponent for each of {nuisances}, got {powers}")
    checked = tuple(
        tuple(integer(power, "each power", low=0, high=MOST_POWER) for power in monomial) for monomial in monomials
    )
    if not all(any(monomial) for monomial in checked):
        raise ValueError(f"a monomial without a nuisance would not vanish at zero, got {checked}")
    if len(set(checked)) < len(checked) or len(set(nuisances)) < len(nuisances):
        raise ValueError(f"nuisances and monomials are named once each, got {checked} of {nuisances}")
    return checked


def continued_power(nu: tf.Tensor, power: int, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """``nu**power`` inside ``[low, high]``, continued linearly outside (elementwise).

    Over the first half-width beyond an edge the second derivative fades quadratically to zero, which keeps the
    continuation twice differentiable: HESSE at a template point sees no kink.
    """
    if power == 1:
        return nu
    inside = tf.clip_by_value(nu, low, high)
    fade = 0.5 * tf.maximum(tf.abs(low), tf.abs(high))
    excess = nu - inside
    left = 1.0 - tf.clip_by_value(tf.abs(excess) / fade, 0.0, 1.0)
    # Twice the integral of (1 - s/fade)^2 over the excess: the curvature term of the continuation.
    bend = 2.0 * (fade * tf.abs(excess) / 3.0 - fade**2 / 12.0 * (1.0 - tf.square(tf.square(left))))
    slope = power * _product(inside, power - 1)
    return _product(inside, power) + slope * excess + 0.5 * power * (power - 1) * _product(inside, power - 2) * bend


def _product(x: tf.Tensor, count: int) -> tf.Tensor:
    """``x**count`` by multiplication: the derivatives of ``tf.pow`` are not finite at zero."""
    result = tf.ones_like(x)
    for _ in range(count):
        result *= x
    return result

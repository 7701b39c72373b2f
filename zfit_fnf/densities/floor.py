"""The floor of a density of which some events have negative weights.

The likelihood of such an event grows without limit where there is no density at it, and has no maximum. The logarithm of the sum
of the density and a floor is as good as that of the density, except where this is less than the floor: there it moves nothing.
"""

from __future__ import annotations

import math

import tensorflow as tf

__all__ = ["SHARE", "above"]

SHARE = math.log(1e-3)
"""Of a floor in the middle of a density."""


def above(log_p: tf.Tensor, floor: tf.Tensor) -> tf.Tensor:
    """Logarithm of the sum of a density and its floor."""
    return floor + tf.math.softplus(log_p - floor)

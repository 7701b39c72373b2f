r"""The map beside a log-ratio that leaves it as linear in the nuisance as it can be.

Two samples determine the linear and the quadratic coefficient of a log-ratio, whatever the map beside it: all maps describe
the samples equally well, and differ in between and beyond. What moves is linear in the nuisance as a map, and of all orders as
a log-ratio. So the outputs of the networks of a map, trained as if it were alone, are multiplied by factors that make the
higher coefficients of the log-ratio small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from scipy.optimize import least_squares

from ..densities.deformation import Deformation
from ..densities.polynomial_map import Response

__all__ = ["straighten"]

_OF_LINEAR = 0.3  # weight of the linear coefficient, which noise grows with, beside that of the higher ones
_OF_FACTORS = 1e-3  # and of the distance of the factors from one


def straighten(
    density: Deformation,
    response: Response,
    events: tuple[tf.Tensor, tf.Tensor],
    ratios: np.ndarray,
    points: Sequence[Mapping[str, float]],
    monomials: np.ndarray,
) -> None:
    """Change the last layers of a response.

    Args:
        density: The density with the map.
        response: That of the map, to one nuisance.
        events: Standardised nominal events ``u (n, d)``, ``c (n, m)``.
        ratios: Coefficients ``(n, M)`` of the log-ratios of the samples for these events, without a map.
        points: Of the samples.
        monomials: There, ``(J, M)``.
    """
    last = [variable for network in response.networks for variable in (network.weights[-1], network.biases[-1])]
    before = [variable.numpy() for variable in last]
    sizes = [network.biases[-1].shape[0] for network in response.networks]
    u, c = events
    log_nominal = density.flow.log_density_at(u, density.flow.precompute(c))
    from_offsets = np.linalg.pinv(monomials).T
    importance = np.where(np.sum(response.powers, axis=1) == 1, _OF_LINEAR, 1.0)

    def left(factors: np.ndarray) -> np.ndarray:
        of_networks = np.repeat(np.split(factors, np.cumsum(sizes)[:-1]), 2, axis=0)
        for variable, values, factor in zip(last, before, of_networks, strict=True):
            variable.assign(values * factor.astype(values.dtype))
        precomputed = density.precompute(u, c)
        at_points = [density.log_density_at(tf.constant(density.point(at)), precomputed) - log_nominal for at in points]
        rest = ratios - np.stack(at_points, axis=1) @ from_offsets
        rest = (rest - rest.mean(axis=0)) * importance / np.sqrt(len(rest))
        return np.append(rest.ravel(), _OF_FACTORS * (factors - 1.0))

    found = least_squares(left, np.ones(sum(sizes)), diff_step=1e-3, max_nfev=30)
    left(found.x)

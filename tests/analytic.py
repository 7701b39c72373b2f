"""A flow and a deformation whose densities are Gaussians known in closed form: exact truth without any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from zfit_fnf.densities.deformation import YieldChange


class GaussianFlow:
    """``y_j = mean_j + sigma_j (u_j)`` with ``u_j ~ N(sum_k slope_k c_k, 1)``, ``c = x``."""

    def __init__(self, mean: Sequence[float], sigma: Sequence[float], *, obs: Sequence[str], cond=(), slope=()):
        self.obs, self.cond = tuple(obs), tuple(cond)
        self.ranges = dict.fromkeys(self.obs, (-np.inf, np.inf))
        self.mean, self.sigma, self.slope = (np.array(values, float) for values in (mean, sigma, slope))

    def encode(self, y, x):
        return (y - self.mean) / self.sigma, x, tf.fill(tf.shape(y)[:1], -np.log(self.sigma).sum())

    def decode(self, u):
        return u * self.sigma + self.mean

    def _centre(self, c):
        return tf.linalg.matvec(c, self.slope)[:, None] if len(self.slope) else tf.zeros_like(c[:, :0])

    def log_density(self, u, c):
        residual = u - self._centre(c) if self.cond else u
        return -0.5 * tf.reduce_sum(residual**2 + np.log(2 * np.pi), axis=-1)

    def given(self, c):
        return c

    def log_density_given(self, u, given):
        return self.log_density(u, given)

    def draw(self, c, seed):
        normal = tf.random.stateless_normal((tf.shape(c)[0], len(self.obs)), seed, dtype=c.dtype)
        return normal + self._centre(c) if self.cond else normal


class GaussianDeformation:
    """``T(u) = u exp(s) + t``, with ``s`` and ``t`` polynomials in the nuisances that are the same for every event.

    Args:
        flow: The nominal Gaussian.
        response: By nuisance, ``(linear, quadratic)`` coefficients, each a pair (log-scale, shift).
    """

    def __init__(self, flow: GaussianFlow, response: dict[str, tuple[tuple[float, float], tuple[float, float]]]):
        self.flow, self.obs, self.cond, self.ranges = flow, flow.obs, flow.cond, flow.ranges
        self.nuisances = tuple(response)
        self.windows = dict.fromkeys(response, (-2.0, 2.0))
        self.yields = dict.fromkeys(response, YieldChange(up=1.1, down=0.9))
        self.table = np.array([pair for pairs in response.values() for pair in pairs])

    def coefficients(self, u, c):
        del c
        table = tf.constant(self.table)[None, :, None, :]
        return tf.tile(table, [tf.shape(u)[0], 1, len(self.obs), 1])

    @staticmethod
    def given(c):
        return c

    def coefficients_given(self, u, given):
        return self.coefficients(u, given)

    @staticmethod
    def basis(nu):
        return tf.reshape(tf.stack([nu, nu**2], axis=-1), (-1,))

    @staticmethod
    def apply(u, c, coefficients, basis):
        del c
        contracted = tf.einsum("nmjk,m->njk", coefficients, basis)
        return u * tf.exp(contracted[..., 0]) + contracted[..., 1], tf.reduce_sum(contracted[..., 0], axis=-1)

    def draw(self, c, nu, seed):
        scale, shift = tf.unstack(tf.linalg.matvec(self.table, self.basis(nu), transpose_a=True))
        return (self.flow.draw(c, seed) - shift) * tf.exp(-scale)

    def moments(self, nu: Sequence[float], x: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Exact mean and standard deviation of each observable."""
        scale, shift = self.table.T @ np.stack([nu, np.square(nu)], axis=-1).reshape(-1)
        centre = float(np.sum(self.flow.slope * x)) if len(self.flow.slope) else 0.0
        return self.flow.mean + self.flow.sigma * (centre - shift) * np.exp(-scale), self.flow.sigma * np.exp(-scale)


def one_dimensional(
    *, mean: float = 0.0, sigma: float = 1.0, name: str = "y", shift: float = -1.0
) -> GaussianDeformation:
    """A Gaussian whose mean moves by ``-shift sigma`` per standard deviation of "jes" and whose width by "jer"."""
    flow = GaussianFlow([mean], [sigma], obs=[name])
    return GaussianDeformation(flow, {"jes": ((0.0, shift), (0.0, 0.05)), "jer": ((-0.1, 0.0), (0.02, 0.0))})

"""A flow and a deformation whose densities are Gaussians known in closed form: exact truth without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import zfit
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from zfit_fnf.densities.deformation import YieldRatio
from zfit_fnf.densities.responses import ShapeResponse
from zfit_fnf.param import Nuisance, nuisance
from zfit_fnf.pdf import FlowPDF


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

    def precompute(self, c):
        return c

    def log_density_at(self, u, precomputed):
        return self.log_density(u, precomputed)

    def draw(self, c, seed):
        normal = tf.random.stateless_normal((tf.shape(c)[0], len(self.obs)), seed, dtype=c.dtype)
        return normal + self._centre(c) if self.cond else normal


class GaussianDeformation(ShapeResponse):
    """``T(u) = u exp(s) + t``, with ``s`` and ``t`` polynomials in the nuisances that are the same for every event.

    Args:
        flow: The nominal Gaussian.
        response: By nuisance, ``(linear, quadratic)`` coefficients, each a pair (log-scale, shift).
    """

    def __init__(self, flow: GaussianFlow, response: dict[str, tuple[tuple[float, float], tuple[float, float]]]):
        self.flow = flow
        self.nuisances = tuple(response)
        self.windows = dict.fromkeys(response, (-2.0, 2.0))
        self.yields = dict.fromkeys(response, YieldRatio(up=1.1, down=0.9))
        self.table = np.array([pair for pairs in response.values() for pair in pairs])

    def precompute(self, u, c, of_conditions=None):
        return u, self.flow.precompute(c)

    def log_shape(self, nu, precomputed):
        u, of_flow = precomputed
        scale, shift = tf.unstack(tf.cast(self._moved(nu), u.dtype))
        return self.flow.log_density_at(u * tf.exp(scale) + shift, of_flow) + len(self.obs) * scale

    def _moved(self, nu):
        return tf.linalg.matvec(self.table, tf.reshape(tf.stack([nu, nu**2], axis=-1), (-1,)), transpose_a=True)

    def draw(self, c, nu, seed):
        scale, shift = tf.unstack(self._moved(nu))
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


def conditional_gaussians() -> tuple[GaussianFlow, GaussianFlow]:
    """p(y1, y2 | x) and p(x)."""
    flow = GaussianFlow([1.0, -2.0], [0.5, 2.0], obs=["y1", "y2"], cond=["x"], slope=[1.5])
    return flow, GaussianFlow([0.3], [0.8], obs=["x"])


def shifted(mean: float, **kwargs) -> FlowPDF:
    """A unit Gaussian of "y" around a mean."""
    return FlowPDF(GaussianFlow([mean], [1.0], obs=["y"]), **kwargs)


def nuisances_at(values: Mapping[str, float]) -> dict[str, Nuisance]:
    """Nuisances by name, with their values."""
    made = {name: nuisance(name) for name in values}
    for name, value in values.items():
        made[name].set_value(value)
    return made


POINT = (0.7, -1.1)


GRID = np.linspace(-4.0, 5.0, 50)


@pytest.fixture
def nuisances():
    """The nuisances "jes" and "jer", away from zero."""
    return nuisances_at(dict(zip(("jes", "jer"), POINT, strict=True)))


@pytest.fixture
def conditional():
    return conditional_gaussians()


def space(low: float, high: float, name: str = "y") -> zfit.Space:
    return zfit.Space(name, low, high)


def truth(deformation: GaussianDeformation, point=POINT):
    mean, sigma = deformation.moments(point)
    return stats.norm(mean, sigma)

r"""The shortest of the maps that data cannot tell from each other.

In two or more observables many maps turn one density into another. One of them moves events by the smallest mean square for each
value of the conditions: the gradient of a convex function, which is unique (Brenier),

.. math::
    S(u, c) = \nabla_u \psi(u, c), \qquad
    \psi = \mu' \cdot u + \tfrac12 (u - \mu)^T A\, (u - \mu) + \sum_a W_a f_a(z, c).

``A (c)`` is the optimal transport between Gaussians that have the running means :math:`\mu, \mu'` and covariances of both
samples, and the rest is a sum of products of Hermite polynomials of the standardised coordinates ``z`` and the conditions. The
weights make the means of all ``f_a`` in data equal to those in simulation that is taken back, the condition for the minimum of
Kantorovich's dual

.. math:: E_\mathrm{data}[\psi] + E_\mathrm{simulation}\big[\max_u (v \cdot u - \psi)\big],

by Newton's method. Distances are those in the coordinates of the map, where each observable has unit width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.warning import warn
from ..densities.displacement import graded
from ..densities.transfer import Transfer
from .variations import MapVariation

__all__ = ["OptimalTransport", "optimal_transport"]

_BOUND = 4.0  # of the arguments of the polynomials
_OF_FRAME, _OF_POTENTIAL = (28, 6), (70, 5)  # functions, at most, and their degree
_FEWEST, _MOST = 1000, 3  # events, and observables
_STEPS, _INNER = 20, 40  # of Newton's method: for the weights, for the inverse
_CONVEX = 0.02  # smallest eigenvalue of the second derivatives
_RIDGE = 1e-3
_STILL = 1e-7


@dataclass(frozen=True, eq=False)
class OptimalTransport:
    """The shortest map with the same push-forward, made by `optimal_transport`.

    Attributes:
        transfer: The map whose coordinates it works in.
        data: Frame of data.
        simulation: Frame of simulation.
        weights: Of the functions of its potential.
    """

    transfer: Transfer
    data: _Frame
    simulation: _Frame
    weights: np.ndarray

    def to_simulation(self, data: Any) -> pd.DataFrame:
        """Take data to where simulation has them: the columns ``obs`` and ``cond``."""
        y, x = self.transfer.columns(data)
        u, c = _encoded(self.transfer, y, x)
        moved = self.transfer.decode(tf.constant(_Potential(u, c, self.data, self.simulation).gradient(self.weights)))
        return pd.DataFrame(np.concatenate([moved, x], axis=1), columns=[*self.transfer.obs, *self.transfer.cond])


def optimal_transport(
    variation: MapVariation, simulation: Any, *, process: str | None = None, data: Any = None
) -> OptimalTransport:
    """The optimal transport between the densities that a map connects, given the conditions.

    It is what data determine of a map in several observables: other maps that are as likely have the same one.

    Args:
        variation: The map, at one value of the parameters.
        simulation: Simulated events of the process, at those values of the parameters; ten thousand are enough.
        process: Which process they are of, if each has its own map.
        data: What the events of the process are in data, where that is known, as of another simulation: the shortest map is
            then a prediction for the one that is measured. By default they are what the map makes of the simulated ones.

    Raises:
        ValueError: For one observable, where the map itself is the optimal transport; for more than three; for fewer than a
            thousand events, bad columns, and a process that is missing or unknown.
        RuntimeError: If no potential of this form is convex where the events are.

    Warns:
        UserWarning: If its potential is not the best one yet.

    Example:
        >>> def shortest(variation):
        ...     return optimal_transport(variation, events, process="A").to_simulation(data)
        >>> band = maps.evaluate(shortest)
    """
    transfer = variation.transfer.transfer
    if len(transfer.obs) == 1:
        raise ValueError(
            f"the map of {transfer.obs[0]!r} alone increases: it is the optimal transport, use its to_simulation"
        )
    if len(transfer.obs) > _MOST:
        raise ValueError(
            f"optimal transport is found in {_MOST} observables at most; the map moves {list(transfer.obs)}"
        )
    y, x = transfer.columns(simulation)
    if len(y) < _FEWEST:
        raise ValueError(f"optimal transport needs {_FEWEST} simulated events at least; got {len(y)}")
    known = variation.to_data(simulation, process=process) if data is None else data
    there, here = _encoded(transfer, y, x), _encoded(transfer, *transfer.columns(known))
    frames = _Frame.of(*here), _Frame.of(*there)
    return OptimalTransport(transfer, *frames, _weights(here, there, *frames))


def _encoded(transfer: Transfer, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    u, c, _ = transfer.encode(tf.constant(y, tf.float64), tf.constant(x, tf.float64))
    return np.asarray(u), np.asarray(c)


@dataclass(frozen=True, eq=False)
class _Frame:
    """Running mean and covariance of coordinates, as functions of the conditions.

    Each coordinate is regressed on those before it, with coefficients and a width that depend on the conditions.

    Attributes:
        mean: Coefficients ``(functions, d)``.
        slopes: For each coordinate ``(j, functions)``.
        log_widths: ``(functions, d)``.
    """

    mean: np.ndarray
    slopes: tuple[np.ndarray, ...]
    log_widths: np.ndarray

    @classmethod
    def of(cls, u: np.ndarray, c: np.ndarray) -> _Frame:
        """Of a sample."""
        functions = _frame_functions(c)
        mean = np.linalg.lstsq(functions, u, rcond=None)[0]
        left, slopes, widths = u - functions @ mean, [], []
        for j in range(u.shape[1]):
            regressors = (functions[:, None, :] * left[:, :j, None]).reshape(len(u), -1)
            slopes.append(np.linalg.lstsq(regressors, left[:, j], rcond=None)[0].reshape(j, functions.shape[1]))
            widths.append(_log_width(functions, left[:, j] - regressors @ slopes[-1].ravel()))
        return cls(mean, tuple(slopes), np.stack(widths, axis=1))

    def at(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean ``(n, d)`` and covariance ``(n, d, d)``."""
        functions, d = _frame_functions(c), len(self.slopes)
        whiten = np.tile(np.eye(d), (len(c), 1, 1))
        for j, slopes in enumerate(self.slopes):
            whiten[:, j, :j] = -functions @ slopes.T
        root = np.linalg.inv(whiten) * np.exp(functions @ self.log_widths)[:, None, :]
        return functions @ self.mean, root @ root.transpose(0, 2, 1)


def _lowest(n_variables: int, size: int, highest: int) -> np.ndarray:
    degrees = graded(n_variables, size)
    return degrees[degrees.sum(axis=1) <= highest]


def _frame_functions(c: np.ndarray) -> np.ndarray:
    degrees = _lowest(c.shape[1], *_OF_FRAME)
    return _product([_hermite(one, int(degrees.max(initial=0)))[0] for one in c.T], degrees, len(c))


def _log_width(functions: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Coefficients of the logarithm of a Gaussian's width: Fisher scoring from a constant one."""
    found = np.zeros(functions.shape[1])
    found[0] = 0.5 * np.log(np.mean(left**2))
    normal = functions.T @ functions + 1e-8 * len(left) * np.eye(len(found))
    for _ in range(_STEPS):
        squared = np.minimum((left * np.exp(-(functions @ found))) ** 2, 1e4)
        found = found + np.linalg.solve(normal, 0.5 * functions.T @ (squared - 1.0))
    return found


class _Potential:
    """The convex function at some places, for any weights.

    Args:
        u: The places ``(n, d)``.
        c: Conditions there ``(n, m)``.
        data: Frame of the sample that is moved.
        simulation: Frame of where it goes.
    """

    def __init__(self, u: np.ndarray, c: np.ndarray, data: _Frame, simulation: _Frame):
        (self._mean, covariance), (self._to, other) = data.at(c), simulation.at(c)
        root, back = _power(covariance, 0.5), _power(covariance, -0.5)
        self.affine = back @ _power(root @ other @ root, 0.5) @ back
        self._widths = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        degrees = _lowest(c.shape[1] + u.shape[1], *_OF_POTENTIAL)
        degrees = degrees[degrees[:, c.shape[1] :].sum(axis=1) > 0]
        self._own = degrees[:, c.shape[1] :]
        highest = int(degrees.max())
        self._of_conditions = _product([_hermite(one, highest)[0] for one in c.T], degrees, len(c))
        self._highest = highest
        self.move(u)

    def move(self, u: np.ndarray) -> None:
        """Go to other places, under the same conditions."""
        self.u, z = u, (u - self._mean) / self._widths
        tables = [_hermite(one, self._highest) for one in z.T]
        d, unit = u.shape[1], np.eye(u.shape[1], dtype=int)

        def product(orders: np.ndarray) -> np.ndarray:
            values = self._of_conditions.copy()
            for table, order, degrees in zip(tables, orders, self._own.T, strict=True):
                values *= table[order][:, degrees]
            return values

        self.functions = product(0 * unit[0])
        self.slopes = np.stack([product(unit[i]) for i in range(d)], axis=1) / self._widths[:, :, None]
        scale = self._widths[:, :, None] * self._widths[:, None, :]
        second = np.stack([np.stack([product(unit[i] + unit[j]) for j in range(d)], axis=1) for i in range(d)], axis=1)
        self._second = second / scale[..., None]

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Where the map takes the places, ``(n, d)``."""
        return self._to + np.einsum("nij,nj->ni", self.affine, self.u - self._mean) + self.slopes @ weights

    def hessian(self, weights: np.ndarray) -> np.ndarray:
        """Second derivatives ``(n, d, d)``."""
        return self.affine + self._second @ weights

    def start_from(self, v: np.ndarray) -> None:
        """Go to where the affine part takes to ``v``."""
        self.move(self._mean + np.linalg.solve(self.affine, (v - self._to)[..., None])[..., 0])

    def go_to(self, v: np.ndarray, weights: np.ndarray) -> None:
        """Go to where the map takes to ``v (n, d)``, by Newton's method."""
        for _ in range(_INNER):
            hessian = self.hessian(weights)
            lift = np.maximum(_CONVEX - np.linalg.eigvalsh(hessian)[:, 0], 0.0)
            hessian = hessian + lift[:, None, None] * np.eye(v.shape[1])
            change = np.linalg.solve(hessian, (v - self.gradient(weights))[..., None])[..., 0]
            change = np.clip(change, -self._widths, self._widths)
            self.move(self.u + change)
            if np.abs(change).max() < _STILL:
                break


def _weights(
    of_data: tuple[np.ndarray, np.ndarray],
    of_simulation: tuple[np.ndarray, np.ndarray],
    data: _Frame,
    simulation: _Frame,
) -> np.ndarray:
    """Minimum of the dual, for coordinates and conditions of both samples."""
    v = of_simulation[0]
    here, there = _Potential(*of_data, data, simulation), _Potential(*of_simulation, data, simulation)
    there.start_from(v)
    expected = here.functions.mean(axis=0)
    weights = np.zeros(len(expected))
    for _ in range(_STEPS):
        there.go_to(v, weights)
        gradient = expected - there.functions.mean(axis=0)
        white = np.linalg.solve(np.linalg.cholesky(there.hessian(weights)), there.slopes).reshape(-1, len(weights))
        curvature = white.T @ white / len(v)
        step = -np.linalg.solve(curvature + _RIDGE * np.diag(np.diag(curvature)), gradient)
        size = 1.0
        while np.linalg.eigvalsh(here.hessian(weights + size * step))[:, 0].min() < _CONVEX:
            size *= 0.5
            if size < 1e-3:
                raise RuntimeError(
                    "no convex potential of this form was found: the map folds, or takes events far out to where others are"
                )
        weights = weights + size * step
        if -gradient @ step < _STILL:
            break
    else:
        warn(f"the optimal transport has not arrived after {_STEPS} steps: compare where it takes data with simulation")
    return weights


def _power(matrices: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrices)
    return (vectors * values[:, None, :] ** power) @ vectors.transpose(0, 2, 1)


def _hermite(values: np.ndarray, highest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised Hermite polynomials ``(n, highest + 1)`` of bounded values ``(n,)``, and two derivatives."""
    root = np.sqrt(1.0 + (values / _BOUND) ** 2)
    t, first, second = values / root, root[:, None] ** -3, -3.0 * (values / _BOUND**2 * root**-5)[:, None]
    found, degrees = [np.ones_like(t), t], np.sqrt(np.arange(highest + 1.0))
    for degree in range(2, highest + 1):
        found.append((t * found[-1] - degrees[degree - 1] * found[-2]) / degrees[degree])
    polynomials = np.stack(found[: highest + 1], axis=1)
    slopes = degrees * np.pad(polynomials[:, :-1], ((0, 0), (1, 0)))
    return polynomials, slopes * first, degrees * np.pad(slopes[:, :-1], ((0, 0), (1, 0))) * first**2 + slopes * second


def _product(tables: list[np.ndarray], degrees: np.ndarray, n: int) -> np.ndarray:
    """Products ``(n, functions)`` of polynomials of the first variables."""
    values = np.ones((n, len(degrees)))
    for table, column in zip(tables, degrees.T[: len(tables)], strict=True):
        values *= table[:, column]
    return values

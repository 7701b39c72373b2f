r"""The shortest of the maps that data cannot tell from each other.

In two or more observables many maps turn one density into another. One of them moves events by the smallest mean square for each
value of the conditions: the gradient of a convex function, which is unique (Brenier),

.. math::
    S(u, c) = \nabla_u \psi(u, c), \qquad
    \psi = \mu' \cdot u + \tfrac12 (u - \mu)^T A\, (u - \mu) + \sum_a W_a f_a(z, c).

``A (c)`` is the optimal transport between Gaussians that have the running means :math:`\mu, \mu'` and covariances of both
samples, and the rest is a sum of products of Hermite polynomials of the standardised coordinates ``z`` and the conditions. The
weights minimise Kantorovich's dual

.. math:: E_\mathrm{data}[\psi] + E_\mathrm{simulation}\big[\max_u (v \cdot u - \psi)\big],

by Newton's method: there the means of all ``f_a`` in data are equal to those in simulation that is taken back. A ridge, as strong
as events that are held out want it, keeps them from following fluctuations, and a barrier keeps the map from folding at
single events, most of them at the ends of the conditions. Distances are those in the coordinates of the map, where each
observable has unit width.
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
from ..samples import index_of
from .variations import MapVariation

__all__ = ["OptimalTransport", "optimal_transport"]

_BOUND = 4.0  # of the arguments of the polynomials
_OF_FRAME, _OF_POTENTIAL = (28, 6), (126, 6)  # functions, at most, and their degree
_PER_FRAME, _PER_POTENTIAL = 200, 40  # events for each function
_FEWEST, _ENOUGH, _MOST = 1000, 20_000, 3  # events, and observables
_STEPS, _INNER, _ATTEMPTS = 20, 15, 4  # of Newton's method for the weights, for the inverse; ridges
_CONVEX = 0.02  # smallest eigenvalue of the second derivatives, where steps are made with them
_FOLDS, _RIDGES = 4, np.geomspace(1e-4, 100.0, 13)  # relative to the diagonal of the curvature
_BARRIER = 1e-3  # strength, for one event,
_FREE = 0.1  # below this smallest eigenvalue relative to that of the affine part
_SHORTEST = 1 / 256  # part of a step
_LEAST = 1e-4  # ridge, relative, of an inverse
_STILL = 1e-7  # squared displacement


@dataclass(frozen=True, eq=False)
class OptimalTransport:
    """The shortest map with the same push-forward, made by `optimal_transport`.

    Attributes:
        transfer: The map whose coordinates it works in.
        data: Frame of data.
        simulation: Frame of simulation.
        weights: Of the functions of its potential.
        size: Number of functions of conditions and coordinates, of which those with coordinates are used.
        left: Root mean square displacement, in units of the widths of the coordinates, by which data that it has moved
            still differ from simulation, as far as those functions see.
        noise: The same of two samples of one density with so many events: what is to be expected.
    """

    transfer: Transfer
    data: _Frame
    simulation: _Frame
    weights: np.ndarray
    size: int
    left: float
    noise: float

    def to_simulation(self, data: Any) -> pd.DataFrame:
        """Take data to where simulation has them: the columns ``obs`` and ``cond``."""
        y, x = self.transfer.columns(data)
        u, c = _encoded(self.transfer, y, x)
        moved = self.transfer.decode(
            tf.constant(_Potential(u, c, self.data, self.simulation, self.size).gradient(self.weights))
        )
        names = [*self.transfer.obs, *self.transfer.cond]
        return pd.DataFrame(np.concatenate([moved, x], axis=1), columns=names, index=index_of(data))


def optimal_transport(
    variation: MapVariation, simulation: Any, *, process: str | None = None, data: Any = None
) -> OptimalTransport:
    """The optimal transport between the densities that a map connects, given the conditions.

    It is what data determine of a map in several observables: other maps that are as likely have the same one. Of several
    processes with maps of their own data determine only the density of all together, and the shortest map of one is not unique.
    Bands of replicas know only the fields that these move: they are a little too narrow, and of 20 000 events in two observables
    given two conditions they covered the exact shortest map at 54 +- 3 % of places (``benchmarks/doi_shortest.py``).

    Args:
        variation: The map, at one value of the parameters.
        simulation: Simulated events of the process, at those values of the parameters; ten thousand are enough.
        process: Which process they are of, if each has its own map.
        data: What the events of the process are in data, where that is known, as of another simulation: the shortest map is
            then a prediction for the one that is measured. By default they are what the map makes of the simulated ones.

    Raises:
        ValueError: For one observable, where the map itself is the optimal transport; for more than three; for fewer than a
            thousand events, bad columns, events with weights, and a process that is missing or unknown.

    Warns:
        UserWarning: If its potential is not the best one, and more than noise is left: see `OptimalTransport.left`.

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
    for events in (simulation, data):
        _check_unweighted(events)
    y, x = transfer.columns(simulation)
    if len(y) < _FEWEST:
        raise ValueError(f"optimal transport needs {_FEWEST} simulated events at least; got {len(y)}")
    known = variation.to_data(simulation, process=process) if data is None else data
    there, here = (_some(_encoded(transfer, *columns)) for columns in ((y, x), transfer.columns(known)))
    frames = _Frame.of(*here), _Frame.of(*there)
    size = min(_OF_POTENTIAL[0], min(len(y), len(here[0])) // _PER_POTENTIAL)
    dual = _Dual(_Potential(*here, *frames, size), _Potential(*there, *frames, size), there[0])
    arrived = dual.minimum()
    left, noise = dual.agreement()
    if not arrived and left > noise:
        warn(
            f"the optimal transport is not the best one, as that folds at some events: data are left {left:.2g} widths from "
            f"simulation, where {noise:.2g} are expected"
        )
    return OptimalTransport(transfer, *frames, dual.weights, size, left, noise)


def _check_unweighted(events: Any) -> None:
    """Refuse weights, which would be left out."""
    weights = None if isinstance(events, pd.DataFrame) else getattr(events, "weights", None)
    if weights is not None and np.ptp(weights := np.asarray(weights, float)) > 1e-9 * np.abs(weights).max(initial=0.0):
        raise ValueError(
            "optimal transport takes events without weights: draw some by their weights, such as "
            "table.sample(10_000, weights=..., replace=True)"
        )


def _encoded(transfer: Transfer, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    u, c, _ = transfer.encode(tf.constant(y, tf.float64), tf.constant(x, tf.float64))
    return np.asarray(u), np.asarray(c)


def _some(arrays: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of many events some that are spread over the sample."""
    u, c = (array[:: -(-len(array) // _ENOUGH)] for array in arrays)
    return u, c


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
        functions = _frame_functions(c, min(_OF_FRAME[0], len(u) // _PER_FRAME))
        mean = np.linalg.lstsq(functions, u, rcond=None)[0]
        left, slopes, widths = u - functions @ mean, [], []
        for j in range(u.shape[1]):
            regressors = (functions[:, None, :] * left[:, :j, None]).reshape(len(u), -1)
            slopes.append(np.linalg.lstsq(regressors, left[:, j], rcond=None)[0].reshape(j, functions.shape[1]))
            widths.append(_log_width(functions, left[:, j] - regressors @ slopes[-1].ravel()))
        return cls(mean, tuple(slopes), np.stack(widths, axis=1))

    def at(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean ``(n, d)`` and covariance ``(n, d, d)``."""
        functions, d = _frame_functions(c, len(self.mean)), len(self.slopes)
        whiten = np.tile(np.eye(d), (len(c), 1, 1))
        for j, slopes in enumerate(self.slopes):
            whiten[:, j, :j] = -functions @ slopes.T
        root = np.linalg.inv(whiten) * np.exp(functions @ self.log_widths)[:, None, :]
        return functions @ self.mean, root @ root.transpose(0, 2, 1)


def _lowest(n_variables: int, size: int, highest: int) -> np.ndarray:
    degrees = graded(n_variables, size)
    return degrees[degrees.sum(axis=1) <= highest]


def _frame_functions(c: np.ndarray, size: int) -> np.ndarray:
    degrees = _lowest(c.shape[1], size, _OF_FRAME[1])
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
        size: Number of functions, at most.
    """

    def __init__(self, u: np.ndarray, c: np.ndarray, data: _Frame, simulation: _Frame, size: int):
        (self._mean, covariance), (self._to, other) = data.at(c), simulation.at(c)
        root, back = _power(covariance, 0.5), _power(covariance, -0.5)
        self.affine = back @ _power(root @ other @ root, 0.5) @ back
        self._widths = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        degrees = _lowest(c.shape[1] + u.shape[1], size, _OF_POTENTIAL[1])
        degrees = degrees[degrees[:, c.shape[1] :].sum(axis=1) > 0]
        self.stiffness = np.maximum(degrees.sum(axis=1) - 1.0, 1.0) ** 2
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

    def value(self, weights: np.ndarray) -> np.ndarray:
        """The potential ``(n,)``."""
        away = self.u - self._mean
        affine = np.sum(self._to * self.u, axis=1) + 0.5 * np.einsum("ni,nij,nj->n", away, self.affine, away)
        return affine + self.functions @ weights

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Where the map takes the places, ``(n, d)``."""
        return self._to + np.einsum("nij,nj->ni", self.affine, self.u - self._mean) + self.slopes @ weights

    def hessian(self, weights: np.ndarray) -> np.ndarray:
        """Second derivatives ``(n, d, d)``."""
        return self.affine + self._second @ weights

    def second(self, rows: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Second derivatives ``(k, K)`` of the functions along directions ``(k, d)``, at some of the places."""
        return np.einsum("ni,nija,nj->na", along, self._second[rows], along)

    def curvature(self, weights: np.ndarray) -> np.ndarray:
        """Second derivatives ``(K, K)`` of the mean of the convex conjugate by the weights."""
        white = np.linalg.solve(np.linalg.cholesky(self._lifted(weights)), self.slopes)
        white = white.reshape(-1, len(weights))
        return white.T @ white / len(self.u)

    def _lifted(self, weights: np.ndarray) -> np.ndarray:
        hessian = self.hessian(weights)
        lift = np.maximum(_CONVEX - np.linalg.eigvalsh(hessian)[:, 0], 0.0)
        return hessian + lift[:, None, None] * np.eye(hessian.shape[1])

    def start_from(self, v: np.ndarray) -> None:
        """Go to where the affine part takes to ``v``."""
        self.move(self._mean + np.linalg.solve(self.affine, (v - self._to)[..., None])[..., 0])

    def go_to(self, v: np.ndarray, weights: np.ndarray) -> None:
        """Go to where the map takes to ``v (n, d)``, by Newton's method."""
        for _ in range(_INNER):
            change = np.linalg.solve(self._lifted(weights), (v - self.gradient(weights))[..., None])[..., 0]
            change = np.clip(change, -self._widths, self._widths)
            self.move(self.u + change)
            if np.abs(change).max() < _STILL:
                break


class _Dual:
    """Kantorovich's dual for two samples, with a ridge and a barrier, and its minimum.

    Args:
        here: The potential where data are.
        there: That where simulation comes from.
        v: Where simulation is.

    Attributes:
        weights: Of the functions.
        ridge: The strength that events that are held out want.
    """

    def __init__(self, here: _Potential, there: _Potential, v: np.ndarray):
        self._here, self._there, self._v = here, there, v
        self._back = _power(here.affine, -0.5)
        self.weights = np.zeros(here.functions.shape[1])
        there.start_from(v)
        self._curvature = there.curvature(self.weights)
        self._penalty = np.zeros_like(self.weights)
        self.ridge = self._best_ridge()

    def minimum(self) -> bool:
        """Find the weights, and say whether they are those of the minimum.

        Where Newton's method does not arrive, the ridge grows until it does; the weights under which least is left are kept.
        """
        found = []
        for attempt in range(_ATTEMPTS):
            arrived = self._arrives(self.ridge * 10.0**attempt)
            found.append((self.agreement()[0], self.weights))
            if arrived:
                break
        _, self.weights = min(found, key=lambda one: one[0])
        self._there.go_to(self._v, self.weights)
        return arrived and len(found) == 1

    def _arrives(self, ridge: float) -> bool:
        """Newton's method from the affine map, each step as long as it helps, and whether it comes to an end."""
        self._penalty = ridge * np.diag(self._curvature) * self._here.stiffness
        self.weights = np.zeros_like(self.weights)
        value = self._value(self.weights)
        for _ in range(_STEPS):
            slope, stiffness = self._barrier(self.weights)
            slope = slope + self._gradient() + self._penalty * self.weights
            step = -np.linalg.solve(self._there.curvature(self.weights) + np.diag(self._penalty) + stiffness, slope)
            if -slope @ step < _STILL:
                return True
            size = 1.0
            while not (trial := self._value(self.weights + size * step)) < value:
                size *= 0.5
                if size < _SHORTEST:
                    self._there.go_to(self._v, self.weights)
                    return False
            self.weights, value = self.weights + size * step, trial
        return False

    def agreement(self) -> tuple[float, float]:
        """Root mean square displacement by which the samples differ as far as the functions see, and that of equal ones."""
        curvature = self._there.curvature(self.weights)
        inverse = np.linalg.inv(curvature + _LEAST * np.diag(np.diag(curvature)))
        gradient = self._gradient()
        noise = sum(np.cov(of.functions.T) / len(of.functions) for of in (self._here, self._there))
        return float(np.sqrt(gradient @ inverse @ gradient)), float(np.sqrt(np.sum(inverse * noise)))

    def _gradient(self, rows: slice = slice(None)) -> np.ndarray:
        return self._here.functions[rows].mean(axis=0) - self._there.functions[rows].mean(axis=0)

    def _best_ridge(self) -> float:
        """The one under which a step from the affine map helps events that are held out most."""
        slopes = [self._gradient(slice(fold, None, _FOLDS)) for fold in range(_FOLDS)]
        total, gains = sum(slopes), []
        for ridge in _RIDGES:
            matrix = self._curvature + ridge * np.diag(np.diag(self._curvature) * self._here.stiffness)
            steps = [np.linalg.solve(matrix, (total - own) / (_FOLDS - 1)) for own in slopes]
            gains.append(sum(own @ w - 0.5 * w @ self._curvature @ w for own, w in zip(slopes, steps, strict=True)))
        return float(_RIDGES[int(np.argmax(gains))])

    def _value(self, weights: np.ndarray) -> float:
        """The dual with ridge and barrier; infinite where the map folds at an event of data."""
        smallest = np.linalg.eigvalsh(self._relative(weights))[:, 0]
        if smallest.min() <= 0.0:
            return np.inf
        self._there.go_to(self._v, weights)
        own = self._here.value(weights).mean()
        other = np.mean(np.sum(self._v * self._there.u, axis=1) - self._there.value(weights))
        held = np.mean(np.log(np.minimum(smallest / _FREE, 1.0)) ** 2)
        return float(own + other + 0.5 * self._penalty @ weights**2 + _BARRIER * held)

    def _relative(self, weights: np.ndarray) -> np.ndarray:
        """Second derivatives where data are, relative to those of the affine part."""
        return self._back @ self._here.hessian(weights) @ self._back

    def _barrier(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient ``(K,)`` of the barrier and the part ``(K, K)`` of its second derivatives that is sure to be positive."""
        values, vectors = np.linalg.eigh(self._relative(weights))
        mine = values[:, 0] < _FREE
        smallest, along = values[mine, 0], np.einsum("nij,nj->ni", self._back[mine], vectors[mine, :, 0])
        moved = self._here.second(mine, along)
        logs, share = np.log(smallest / _FREE), _BARRIER / len(values)
        slope = moved.T @ (2.0 * share * logs / smallest)
        return slope, (moved * (2.0 * share * (1.0 - logs) / smallest**2)[:, None]).T @ moved


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

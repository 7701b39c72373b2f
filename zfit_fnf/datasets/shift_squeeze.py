"""The toy of arXiv:2602.13184, whose densities are known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..samples import as_sample
from .exact import ExactFit, Nu, log_normal, minimise, point_of

__all__ = ["Part", "ShiftSqueeze"]

Part = Literal["joint", "x", "y|x"]
"""Density of everything, of the conditions, or of the observables given the conditions."""


@dataclass(frozen=True, kw_only=True)
class ShiftSqueeze:
    """The toy of arXiv:2602.13184: two processes, a shift and a squeeze, all of it known in closed form.

    With `sgn = -1` for process A and `+1` for B, and the nuisances `shift` and `squeeze` in standard deviations:

    * `x` (2-D) is Gaussian around `center` with widths `sigma`. The squeeze scales `x - center` by
      `(exp(-sgn a), exp(sgn a))`, `a = squeeze_x * squeeze`; then the shift adds `sgn * shift_x * shift` to `x1`.
    * `y` (2-D) given `x` is Gaussian with `d = shift_y * shift`, `b = squeeze_y * squeeze` and::

          mean  = (sin(frequency x1) + slope x2 + sgn d tanh x1,
                   curvature x1^2 - offset + amplitude sin x2 - sgn d tanh x1)
          sigma = (softplus(width1[0] x1 + width1[1]) exp(sgn b), softplus(width2[0] x1 + width2[1]) exp(-sgn b))
          correlation = rho tanh((x1 + x2) / 2)

    * The distortion of the data turns `y` by `sgn * rotation / (radius[0] |x| + radius[1]) * tanh(steepness x1)`, then
      adds `sgn * shear * (y1 - y2, y2 - y1)`.

    Args:
        center_a, center_b: Centre of `x` for each process.
        sigma_a, sigma_b: Widths of `x` for each process.
        shift_x, squeeze_x: Size of the two effects on `x`.
        shift_y, squeeze_y: Size of the two effects on `y`.
        frequency, slope: Of the mean of `y1` in `x1` and in `x2`.
        curvature, offset, amplitude: Of the mean of `y2`.
        width1, width2: Slope and intercept in `x1` of the widths of `y1` and `y2`, before the softplus.
        rho: Largest correlation of `y1` and `y2`, inside (-1, 1).
        rotation, shear: Size of the distortion.
        radius, steepness: How the rotation depends on `x`.

    Raises:
        ValueError: If a width is not positive, `rho` is not inside (-1, 1) or `shear` makes the distortion singular.

    Example:
        >>> toy = ShiftSqueeze()
        >>> data = toy.observe(100_000, {"shift": 0.5, "squeeze": -0.5}, seed=1)
        >>> toy.fit(data).errors  # about 0.0063 and 0.0066
    """

    center_a: tuple[float, float] = (-0.5, 0.0)
    center_b: tuple[float, float] = (0.5, 0.0)
    sigma_a: tuple[float, float] = (0.9, 0.6)
    sigma_b: tuple[float, float] = (0.6, 0.4)
    shift_x: float = 0.3
    squeeze_x: float = 0.2
    shift_y: float = 0.3
    squeeze_y: float = 0.2
    frequency: float = 1.5
    slope: float = 0.3
    curvature: float = 0.3
    offset: float = 1.2
    amplitude: float = 0.5
    width1: tuple[float, float] = (0.4, 0.1)
    width2: tuple[float, float] = (-0.2, 0.4)
    rho: float = 0.8
    rotation: float = 0.4
    shear: float = 0.1
    radius: tuple[float, float] = (0.7, 0.5)
    steepness: float = 2.0

    processes = ("A", "B")
    nuisances = ("shift", "squeeze")
    x = ("x1", "x2")
    y = ("y1", "y2")

    def __post_init__(self) -> None:
        if min(*self.sigma_a, *self.sigma_b) <= 0:
            raise ValueError(f"widths must be positive; got sigma_a={self.sigma_a}, sigma_b={self.sigma_b}")
        if not abs(self.rho) < 1:
            raise ValueError(f"rho must be inside (-1, 1); got {self.rho}")
        if not abs(self.shear) < 0.5:
            raise ValueError(f"shear must be inside (-0.5, 0.5), where the distortion is invertible; got {self.shear}")

    def simulate(self, process: str, n: int, nu: Nu = None, seed: int = 0) -> pd.DataFrame:
        """Draws events of one process.

        Args:
            process: "A" or "B".
            n: Number of events.
            nu: Nuisance point, as a mapping from names (missing ones are zero) or in the order of `nuisances`.
            seed: Samples of the same process with the same seed share their random numbers at every `nu`: give
                samples that have to be independent different seeds.

        Returns:
            Columns x1, x2, y1, y2.
        """
        rng = np.random.default_rng([self.processes.index(_process(process, self.processes)), seed])
        x, y = self._draw(process, n, point_of(nu, self.nuisances), rng)
        return pd.DataFrame(dict(zip(self.x + self.y, [*x, *y], strict=True)), copy=False)

    def observe(
        self, n: int, nu: Nu = None, distorted: bool = False, seed: int = 0, *, fraction: float = 0.5
    ) -> pd.DataFrame:
        """Draws a data set: each event is of process A with probability `fraction`, otherwise of B.

        Args:
            n: Number of events of both processes together.
            nu: Nuisance point of the data.
            distorted: Whether `distort` is applied to `y`.
            seed: Of the random numbers; the data are independent of every `simulate`.
            fraction: Expected fraction of process A.

        Returns:
            Columns x1, x2, y1, y2, without the process.
        """
        rng = np.random.default_rng([len(self.processes), seed])
        is_a = rng.random(n) < _fraction(fraction)
        table = np.empty((n, 4))
        for process, rows in (("A", is_a), ("B", ~is_a)):
            x, y = self._draw(process, int(rows.sum()), point_of(nu, self.nuisances), rng)
            table[rows, :2] = x.T
            table[rows, 2:] = self.distort(y.T, x.T, process) if distorted else y.T
        return pd.DataFrame(table, columns=[*self.x, *self.y])

    def distort(self, y: np.ndarray, x: np.ndarray, process: str) -> np.ndarray:
        """What the detector does to `y` in the data but not in the simulation; `y` and `x` have shape `(n, 2)`."""
        angle = self._angle(x, process)
        return _rotate(np.asarray(y), angle) @ self._shear_matrix(process)

    def undistort(self, y: np.ndarray, x: np.ndarray, process: str) -> np.ndarray:
        """The exact inverse of `distort`."""
        angle = self._angle(x, process)
        return _rotate(np.asarray(y) @ np.linalg.inv(self._shear_matrix(process)), -angle)

    def log_prob(
        self,
        events: Any,
        nu: Nu = None,
        process: str | None = None,
        *,
        of: Part = "joint",
        distorted: bool = False,
        fraction: float = 0.5,
    ) -> np.ndarray:
        """Exact log-density of events.

        Args:
            events: Anything `as_sample` takes; `y` is not needed for `of="x"`.
            nu: Nuisance point at which the density is taken.
            process: "A" or "B"; by default their mixture.
            of: "joint" for `log p(x, y)`, "x" for `log p(x)`, "y|x" for `log p(y | x)`.
            distorted: Whether the density is that of distorted data.
            fraction: Fraction of process A in the mixture.

        Returns:
            float64 array of shape `(n,)`.
        """
        if of not in ("joint", "x", "y|x"):
            raise ValueError(f"of={of!r} is unknown; choose 'joint', 'x' or 'y|x'")
        names = self.x if of == "x" else self.x + self.y
        columns = as_sample(events, names).array(names).T
        point = point_of(nu, self.nuisances)
        if process is not None:
            return self._log_process(columns, point, _process(process, self.processes), of, distorted)
        weights = np.log([_fraction(fraction), 1 - fraction])
        if of == "y|x":
            whole, condition = (self._log_mixture(columns, point, part, distorted, weights) for part in ("joint", "x"))
            return whole - condition
        return self._log_mixture(columns, point, of, distorted, weights)

    def fit(
        self,
        events: Any,
        *,
        of: Part = "joint",
        start: Nu = None,
        constrained: bool = True,
        minos: bool = False,
        distorted: bool = False,
        fraction: float = 0.5,
    ) -> ExactFit:
        """Maximises the exact likelihood of the mixture with MIGRAD, and runs HESSE.

        Args:
            events: The data.
            of: Which density is used, as in `log_prob`.
            start: Where the fit starts; at zero by default.
            constrained: Whether each nuisance has its unit Gaussian constraint.
            minos: Whether MINOS runs as well.
            distorted: Whether the data are distorted, and the distortion known exactly.
            fraction: Fraction of process A in the mixture.

        Raises:
            RuntimeError: If the fit does not converge.
        """
        names = self.x if of == "x" else self.x + self.y
        sample = as_sample(events, names)

        def nll(nu: np.ndarray) -> float:
            log_prob = self.log_prob(sample, nu, of=of, distorted=distorted, fraction=fraction)
            return float(-log_prob.sum() + (0.5 * nu @ nu if constrained else 0.0))

        return minimise(nll, point_of(start, self.nuisances), self.nuisances, minos=minos)

    def moments(self, x: np.ndarray, process: str, nu: Nu = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean `(n, 2)` and covariance `(n, 2, 2)` of `y`, which is Gaussian for every `x` of shape `(n, 2)`."""
        point = point_of(nu, self.nuisances)
        mean, width, rho = self._y_density(np.transpose(x), _process(process, self.processes), point)
        correlation = np.stack([[np.ones_like(rho), rho], [rho, np.ones_like(rho)]])
        return mean.T, (correlation * width[:, None] * width).transpose(2, 0, 1)

    def _draw(self, process: str, n: int, nu: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Events as rows of variables, `(2, n)` each: the layout in which every step is contiguous."""
        center, sigma = self._x_density(process, nu)
        x = rng.standard_normal((2, n)) * sigma + center
        mean, width, rho = self._y_density(x, process, nu)
        normal = rng.standard_normal((2, n))
        normal[1] = rho * normal[0] + np.sqrt(1 - rho**2) * normal[1]
        return x, mean + width * normal

    def _log_mixture(
        self, columns: np.ndarray, nu: np.ndarray, of: str, distorted: bool, weights: np.ndarray
    ) -> np.ndarray:
        terms = (self._log_process(columns, nu, process, of, distorted) for process in self.processes)
        return np.logaddexp(*(term + weight for term, weight in zip(terms, weights, strict=True)))

    def _log_process(self, columns: np.ndarray, nu: np.ndarray, process: str, of: str, distorted: bool) -> np.ndarray:
        x, y = columns[:2], columns[2:]
        log_prob = np.zeros(x.shape[1])
        if of != "y|x":
            center, sigma = self._x_density(process, nu)
            log_prob += log_normal((x - center) / sigma, np.log(sigma))
        if of != "x":
            if distorted:
                y = self.undistort(y.T, x.T, process).T
                log_prob -= np.log(np.linalg.det(self._shear_matrix(process)))
            mean, width, rho = self._y_density(x, process, nu)
            first, second = (y - mean) / width
            slope = np.sqrt(1 - rho**2)
            log_prob += log_normal(np.stack([first, (second - rho * first) / slope]), np.log(width))
            log_prob -= np.log(slope)
        return log_prob

    def _x_density(self, process: str, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centre and widths of `x`, `(2, 1)` each."""
        shift, squeeze = nu
        sign = _sign(process)
        center, sigma = (self.center_a, self.sigma_a) if process == "A" else (self.center_b, self.sigma_b)
        moved = np.add(center, (sign * self.shift_x * shift, 0.0))
        scaled = np.multiply(sigma, np.exp(np.array([-1.0, 1.0]) * sign * self.squeeze_x * squeeze))
        return moved[:, None], scaled[:, None]

    def _y_density(self, x: np.ndarray, process: str, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and widths of `y`, `(2, n)` each, and the correlation, `(n,)`."""
        shift, squeeze = nu
        sign = _sign(process)
        x1, x2 = x
        moved = sign * self.shift_y * shift * np.tanh(x1)
        scale = np.exp(sign * self.squeeze_y * squeeze)
        mean = np.stack(
            [
                np.sin(self.frequency * x1) + self.slope * x2 + moved,
                self.curvature * x1**2 - self.offset + self.amplitude * np.sin(x2) - moved,
            ]
        )
        width = np.stack(
            [
                _softplus(self.width1[0] * x1 + self.width1[1]) * scale,
                _softplus(self.width2[0] * x1 + self.width2[1]) / scale,
            ]
        )
        return mean, width, self.rho * np.tanh((x1 + x2) / 2)

    def _angle(self, x: np.ndarray, process: str) -> np.ndarray:
        x1, x2 = np.asarray(x).T
        falloff = self.radius[0] * np.hypot(x1, x2) + self.radius[1]
        return _sign(_process(process, self.processes)) * self.rotation / falloff * np.tanh(self.steepness * x1)

    def _shear_matrix(self, process: str) -> np.ndarray:
        return np.eye(2) + _sign(process) * self.shear * np.array([[1.0, -1.0], [-1.0, 1.0]])


def _process(process: str, processes: Sequence[str]) -> str:
    if process not in processes:
        raise ValueError(f"unknown process {process!r}; the processes are {list(processes)}")
    return process


def _fraction(fraction: float) -> float:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction of process A must be inside (0, 1); got {fraction}")
    return fraction


def _sign(process: str) -> float:
    return -1.0 if process == "A" else 1.0


def _softplus(t: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(t))) + np.maximum(t, 0.0)


def _rotate(y: np.ndarray, angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * y[:, 0] - sin * y[:, 1], sin * y[:, 0] + cos * y[:, 1]], axis=1)

"""One fit of the efficiency over the whole phase space, to passing and failing probes together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import flag, integer, names
from ..common.chunks import slices
from ..common.warning import warn
from ..densities.coordinates import Coordinates
from ..densities.networks import MaskedMLP, hidden_widths, last_hidden_layer
from ..samples import Sample, as_sample, check_trainable
from ..train.loop import Batch, Maximiser
from ..train.schedule import Schedule, checked_schedule
from .model import HEADS, Likelihood
from .result import Member, TagProbeResult
from .shapes import LearnedSignal, MassShape

__all__ = ["fit"]

_CHUNK = 20_000
_NEWTON_STEPS, _ARRIVED = 30, 1e-4  # expected rise of the log-likelihood where Newton's method ends
_RIDGE = 1.0  # inverse square of the width of the prior of the last layer's weights, around those of the network
_NODES = (40, 160, 640)  # of the quadrature over the mass, until integrals are right
_INTEGRAL = 1e-3  # how wrong they may be, at _TESTED pairs: what is common to all of them cancels
_TESTED = 200
_REGIONS = 4  # of each condition, in which probes have to pass and to fail


def fit(
    data: Any,
    signal: Any,
    background: MassShape,
    *,
    mass: str,
    window: tuple[float, float],
    passing: str,
    cond: Sequence[str],
    weights: Any = None,
    hidden: Sequence[int] | None = None,
    members: int = 3,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TagProbeResult:
    """Fit the efficiency of a selection of probes as a function of their conditions.

    Each member of an ensemble is trained as a whole; then, with its hidden layers fixed, the likelihood is maximised in all
    that is linear in features, by Newton's method, which gives the covariance too: the sandwich of its Hessian and of the
    squares of the scores of pairs.

    Args:
        data: Pairs: DataFrame, mapping of arrays, :class:`~zfit_fnf.Sample` or file.
        signal: Shape of the signal: a :class:`~zfit_fnf.Flow` of the mass given the conditions, learned from simulation, which is
            moved and widened by the fit, or one of :mod:`zfit_fnf.tagprobe.shapes`.
        background: Shape of the background, of which passing and failing probes have coefficients of their own.
        mass: Column of the mass of a pair.
        window: Range of the mass; pairs outside are not used.
        passing: Column that is true, or one, for probes that pass.
        cond: Columns of the conditions.
        weights: Column of weights, or one weight for each pair.
        hidden: Widths of the hidden layers; default two of 16.
        members: Number of members of the ensemble.
        schedule: Length and speed of each training; default 1500 steps of 2048 pairs.
        seed: Seed of the initial weights and of the shuffling.
        progress: Show progress bars.

    Raises:
        TypeError: If a shape is none.
        ValueError: For bad columns; if no probes pass or fail in a region; if a shape cannot be normalised, or is too narrow for
            the window.

    Warns:
        UserWarning: If the likelihood has not reached its maximum.

    Example:
        >>> result = fit(pairs, Peak(), Exponential(), mass="m", window=(60, 120), passing="id", cond=["pt", "eta"])
        >>> print(result.efficiency({"pt": [30.0], "eta": [0.5]}))
    """
    signal = LearnedSignal(signal, window) if hasattr(signal, "log_density_at") else signal
    for shape, name in ((signal, "signal"), (background, "background")):
        if not isinstance(shape, MassShape):
            raise TypeError(f"{name}= is a shape of the mass, e.g. zfit_fnf.tagprobe.Exponential(); got {shape!r}")
    cond, members = names(cond, "cond", '["pt", "eta"]'), integer(members, "members", low=1)
    flag(progress, "progress")
    sample = _inside(as_sample(data, [mass, passing, *cond], weights=weights), mass, window)
    _check_outcomes(sample, passing, cond)
    coordinates = Coordinates(cond)
    coordinates.standardise(Sample({name: sample.columns[name] for name in cond}, sample.weights, sample.name))
    schedule = checked_schedule(schedule, Schedule(steps=1500, batch_size=2048, warmup=100, averaging=0.99))
    pairs = _Pairs(sample, coordinates, mass, window, passing, cond)
    widths = (16, 16) if hidden is None else hidden_widths(hidden, 1)
    likelihood, first = _with_enough_nodes(pairs, signal, background, widths, seed, schedule, progress)
    others = [
        _Fit(pairs, likelihood, widths, seed + k).member(schedule, progress, f"member {k + 1}")[0]
        for k in range(1, members)
    ]
    edges = {name: (float(np.min(sample.columns[name])), float(np.max(sample.columns[name]))) for name in cond}
    moments = coordinates._centre.numpy(), coordinates._scale.numpy()
    return TagProbeResult(tuple(cond), edges, moments, (first, *others), likelihood, (window[0], window[1]), pairs)


def _with_enough_nodes(
    pairs: _Pairs,
    signal: MassShape,
    background: MassShape,
    widths: Sequence[int],
    seed: int,
    schedule: Schedule,
    progress: bool,
) -> tuple[Likelihood, Member]:
    """The likelihood, and its first member, whose shapes have right integrals: those of a narrow peak need many nodes."""
    for n_nodes in _NODES:
        likelihood = Likelihood(signal, background, n_nodes)
        member, error = _Fit(pairs, likelihood, widths, seed).member(schedule, progress, "member 1")
        if error < _INTEGRAL:
            return likelihood, member
    raise ValueError(
        f"the integral of a shape over the mass is wrong by {error:.1g} even with {n_nodes} nodes: the peak is too narrow for "
        "window=, or a shape has a jump; give a narrower window"
    )


class _Pairs:
    """The data as the likelihood sees them."""

    def __init__(
        self,
        sample: Sample,
        coordinates: Coordinates,
        mass: str,
        window: tuple[float, float],
        passing: str,
        cond: Sequence[str],
    ):
        low, high = window
        self.sample, self.held_out = sample, None
        self.x = sample.array(cond)
        self.c = (self.x - coordinates._centre.numpy()) / coordinates._scale.numpy()
        self.t = (2 * np.asarray(sample.columns[mass], float) - low - high) / (high - low)
        self.passing = np.asarray(sample.columns[passing], float)
        self.weights = np.ones(sample.n_events) if sample.weights is None else np.asarray(sample.weights, float)

    def batch(self, rows: np.ndarray) -> Batch:
        """Conditions, mass, outcome, conditions as they are, weights."""
        columns = (self.c[rows], self.t[rows], self.passing[rows], self.x[rows], self.sample.relative_weights(rows))
        return tuple(np.asarray(column, np.float32) for column in columns)


class _Fit:
    """Training of a member, and its Newton steps."""

    def __init__(self, pairs: _Pairs, likelihood: Likelihood, widths: Sequence[int], seed: int):
        self.pairs, self.likelihood, self.seed = pairs, likelihood, seed
        m = pairs.c.shape[1]
        self.network = MaskedMLP(1, m, HEADS, hidden=widths, seed=seed)
        start = np.zeros((m + 1, len(likelihood.start)), np.float32)
        start[-1] = likelihood.start
        self.linear = tf.Variable(start)

        @tf.function(autograph=False, reduce_retracing=True)
        def derivatives(eta: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as outer:
                outer.watch(eta)
                with tf.GradientTape() as inner:
                    inner.watch(eta)
                    value = likelihood.log_prob(eta, t, passing, x)
                first = inner.gradient(value, eta)
            return value, first, outer.batch_jacobian(first, eta)

        self._derivatives: Callable[..., tuple[tf.Tensor, ...]] = derivatives

    def member(self, schedule: Schedule, progress: bool, name: str) -> tuple[Member, float]:
        """The fitted member, and by how much integrals of its shapes are wrong."""

        def log_prob(c: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            ones = tf.ones_like(c[:, :1])
            shapes = tf.matmul(tf.concat([c, ones], axis=1), self.linear)
            eta = tf.concat([self.network.precompute(c)[0][:, 0], shapes], axis=1)
            return self.likelihood.log_prob(eta, t, passing, x)

        loop = Maximiser(log_prob, [*self.network.trainable_variables, self.linear], schedule=schedule)
        history = loop(name, [self.pairs], seed=self.seed, progress=progress)
        heads = np.concatenate(
            [self.network.weights[-1].numpy()[: self.network.hidden[-1]], self.network.biases[-1].numpy()[None]]
        )
        start = np.concatenate([heads.T.ravel(), self.linear.numpy().T.ravel()]).astype(float)
        basis = (
            last_hidden_layer(self.network, self.pairs.c),
            np.column_stack([self.pairs.c, np.ones(len(self.pairs.c))]),
        )
        numbers, covariance = self._newton(start, basis)
        rows = np.random.default_rng(self.seed).permutation(len(self.pairs.t))[:_TESTED]
        eta = self._eta(numbers, (basis[0][rows], basis[1][rows]))
        error = self.likelihood.integral_error(tf.constant(eta), tf.constant(self.pairs.x[rows]))
        return Member(self.network, numbers, covariance, history), error

    def _newton(self, start: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What is linear in features, and its covariance."""
        n_heads = HEADS * basis[0].shape[1]
        ridge = np.where(np.arange(len(start)) < n_heads, _RIDGE, 0.0)
        ridge[basis[0].shape[1] - 1 : n_heads : basis[0].shape[1]] = 0.0  # constants are free
        at, has_arrived = start, False
        value, score, hessian, squares = self._sums(at, basis)
        for _ in range(_NEWTON_STEPS):
            gradient = score - ridge * (at - start)
            curvature = _positive(hessian, squares) + np.diag(ridge)
            step = np.linalg.solve(curvature, gradient)
            has_arrived = bool(gradient @ step < _ARRIVED)
            if has_arrived:
                break
            objective = value - 0.5 * ridge @ (at - start) ** 2
            for share in 0.5 ** np.arange(12):
                there = at + share * step
                new = self._sums(there, basis)
                if new[0] - 0.5 * ridge @ (there - start) ** 2 > objective:
                    break
            else:
                break
            at, (value, score, hessian, squares) = there, new
        if not np.isfinite(value):
            raise ValueError("the likelihood is not finite: can the shapes be normalised over the window?")
        if not has_arrived:
            warn(
                f"the fit of tag and probe has not reached its maximum, which is {0.5 * float(gradient @ step):.2g} above: its "
                "errors are not to be trusted; train longer (schedule=), or give simpler shapes"
            )
        inverse = np.linalg.inv(_positive(hessian, squares) + np.diag(ridge))
        return at, inverse @ (squares + np.diag(ridge)) @ inverse

    def _sums(self, numbers: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> tuple[Any, ...]:
        """Log-likelihood, gradient, minus the Hessian, and sum of the squares of scores."""
        n_shapes = len(self.likelihood.start)
        n_eta = HEADS + n_shapes
        sizes = [basis[0].shape[1]] * HEADS + [basis[1].shape[1]] * n_shapes
        places = np.cumsum([0, *sizes])
        value, gradient = 0.0, np.zeros(len(numbers))
        hessian, squares = np.zeros((2, len(numbers), len(numbers)))
        for rows in slices(len(self.pairs.t), _CHUNK):
            eta = self._eta(numbers, (basis[0][rows], basis[1][rows]))
            own = (tf.constant(a[rows]) for a in (self.pairs.t, self.pairs.passing, self.pairs.x))
            log_p, first, second = (part.numpy() for part in self._derivatives(tf.constant(eta), *own))
            w = self.pairs.weights[rows]
            value += float(w @ log_p)
            of = [basis[0 if k < HEADS else 1][rows] for k in range(n_eta)]
            scores = np.concatenate([of[k] * first[:, k : k + 1] for k in range(n_eta)], axis=1)
            gradient += w @ scores
            squares += (scores * w[:, None] ** 2).T @ scores
            for j in range(n_eta):
                for k in range(n_eta):
                    block = of[j].T @ (of[k] * (w * second[:, j, k])[:, None])
                    hessian[places[j] : places[j + 1], places[k] : places[k + 1]] -= block
        return value, gradient, hessian, squares

    @staticmethod
    def _eta(numbers: np.ndarray, basis: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Logits and coefficients ``(n, 3 + P)``."""
        n_first = HEADS * basis[0].shape[1]
        heads, shapes = numbers[:n_first].reshape(HEADS, -1), numbers[n_first:].reshape(-1, basis[1].shape[1])
        return np.concatenate([basis[0] @ heads.T, basis[1] @ shapes.T], axis=1)


def _positive(hessian: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """The Hessian, or, far from the maximum, where it is not positive, the squares of scores, which always are."""
    symmetric = 0.5 * (hessian + hessian.T)
    if np.linalg.eigvalsh(symmetric)[0] > 0:
        return symmetric
    return squares + 1e-6 * np.trace(squares) / len(squares) * np.eye(len(squares))


def _inside(sample: Sample, mass: str, window: tuple[float, float]) -> Sample:
    low, high = window
    values = sample.columns[mass]
    kept = np.flatnonzero((values >= low) & (values <= high))
    weights = None if sample.weights is None else sample.weights[kept]
    inside = Sample({name: column[kept] for name, column in sample.columns.items()}, weights, sample.name)
    check_trainable(inside)
    return inside


def _check_outcomes(sample: Sample, passing: str, cond: Sequence[str]) -> None:
    outcome = np.asarray(sample.columns[passing], float)
    if not np.isin(outcome, (0.0, 1.0)).all():
        raise ValueError(
            f"column {passing!r} of {sample.name!r} says whether probes pass: it is true or false, or 1 or 0"
        )
    for name in cond:
        values = np.asarray(sample.columns[name], float)
        edges = np.quantile(values, np.linspace(0, 1, _REGIONS + 1))
        for low, high in itertools.pairwise(edges):
            own = outcome[(values >= low) & (values <= high)]
            for what, number in (("pass", np.sum(own == 1)), ("fail", np.sum(own == 0))):
                if not number:
                    raise ValueError(
                        f"of {sample.name!r}, no probes with {name} from {low:.4g} to {high:.4g} {what}: there is no "
                        "efficiency to be fitted; leave the region out"
                    )

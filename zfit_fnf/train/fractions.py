r"""Training of conditional fractions: a classifier of the processes, its calibration, and what nuisances do to each process.

A network that tells :math:`C` samples apart, each with the same weight in all, has its smallest cross entropy where its
outputs are the logarithms of their densities, up to a function that they share (arXiv:1506.02169). Weights may be negative: only
sums of them enter. Then, with the hidden layers fixed, the last layer is fitted to all training events at once, a convex problem;
a temperature is fitted to events that were held out, and offsets to all events, such that the mean share of each process
is what it should be. Other events that were held out tell whether the shares are right.

Calibration is by a temperature and not by isotonic regression: this is a step function, of which a likelihood that depends on
nuisances has no derivatives, and of several processes it leaves shares that do not sum to one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from ..common.checks import flag, integer, names
from ..common.chunks import EVENTS, slices
from ..common.warning import warn
from ..densities.coordinates import Coordinates
from ..densities.fractions import FractionResponse, Fractions
from ..densities.history import problems_of
from ..densities.networks import MaskedMLP, last_hidden_layer
from ..densities.reliability import Reliability, quantile_bins
from ..samples import Sample, Simulation, check_trainable
from ..samples.screening import check_conditions
from .loop import Batch, Maximiser
from .plan import Plan
from .schedule import Schedule, checked_schedule

__all__ = ["fit_fractions"]

_HELD_OUT = 0.2  # of the events, half to calibrate and half to check
_FEWEST = 10  # events of each process
_SPREAD = 5.0  # of the prior of log-ratios between processes, which are well separated ones in a part of the space
_SPREAD_OF_TEMPERATURE, _HOTTEST = 0.3, 1.5  # of the prior of the logarithm of a temperature, and the largest one
_RIDGE = 1e-6  # of the mean curvature, for directions of the last layer that the events do not determine
_NEWTON_STEPS = 20
_REGIONS, _BINS_OF_REGION = 4, 5  # of each condition, in which shares are checked as well
# Shares are also compared in the cells of any two conditions, so many parts of each, and in as many parts of each alone: what one
# condition says only if another is known moves no average over that. With fewer events, two parts.
_PARTS, _MANY = 4, 400
_AVERAGED = 1024  # events for the integral of a response beyond second order
_JOINT_POINTS = 32
_INTEGRAL = 0.01  # how wrong the logarithm of an integral may be, which is the relative error of a yield


def fit_fractions(
    simulations: Mapping[str, Simulation],
    cond: Sequence[str],
    *,
    order: int = 2,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Fractions:
    """Learn what share of the events at given conditions is of each process.

    Args:
        simulations: The simulation of each process. Its variations, also joint ones of two nuisances, are learned as
            factors on its density of the conditions.
        cond: Columns of the conditions.
        order: Highest power of a nuisance, 1 to 3, as far as there are variations.
        hidden: Widths of the hidden layers; default two of 64.
        schedule: Length and speed of each training; default 3000 steps of 4096 events.
        seed: Seed of the initial weights, and of the choice of the events that are held out.
        progress: Show progress bars.

    Returns:
        The fractions, with ``reliability``, their verdict by held-out events.

    Raises:
        TypeError: If ``simulations`` is no mapping to simulations.
        ValueError: For fewer than two processes, and for events of no use; the message names process and column.
        TrainingStopped: If the loss diverges, or the user interrupts.

    Warns:
        UserWarning: If held-out events do not confirm the shares, which no PDF takes then; if a training went wrong.

    Example:
        >>> fractions = fit_fractions({"signal": signal, "background": background}, cond=["pt", "eta"])
        >>> print(fractions.reliability)
    """
    _check_simulations(simulations)
    cond, seed = names(cond, "cond", '["pt", "eta"]'), integer(seed, "seed", low=0)
    if not cond:
        raise ValueError('cond= names the conditions, one at least, such as ["pt", "eta"]')
    schedule = checked_schedule(schedule, Schedule(steps=3000, batch_size=4096))
    flag(progress, "progress")
    samples = {name: one.samples(cond, process=name) for name, one in simulations.items()}
    for sample in (one for parts in samples.values() for one in parts):
        check_trainable(sample)
        check_conditions(sample, cond)
    plans = {
        name: Plan.make(one.variations, order=order, interactions="auto", mirror=False)
        for name, one in simulations.items()
        if one.variations
    }
    nominal = [parts[0] for parts in samples.values()]
    responses = [FractionResponse(name, one, powers) for name, p in plans.items() for one, powers in p.powers.items()]
    fractions = Fractions(
        list(simulations),
        cond,
        responses=responses,
        windows=_windows(plans),
        hidden=hidden,
        n_events=_AVERAGED if responses else 0,
        ranges={one: _range(one, nominal) for one in cond},
        seed=seed,
    )
    training = _Training(fractions, schedule, seed, progress)
    training.standardise(nominal)
    parts = [_split(sample, seed + index) for index, sample in enumerate(nominal)]
    training.classifier([part[0] for part in parts])
    training.calibrate([part[1] for part in parts], nominal)
    fractions.reliability = training.reliability([part[2] for part in parts])
    for index, response in enumerate(responses):
        variations = simulations[response.process].variations
        moved = [
            (sample, dict(variation.at))
            for sample, variation in zip(samples[response.process][1:], variations, strict=True)
            if tuple(sorted(variation.at)) == tuple(sorted(response.nuisances))
        ]
        training.response(index, samples[response.process][0], moved)
    training.normalise({name: samples[name][0] for name in fractions.moved})
    if messages := problems_of(fractions.history):
        warn("; ".join(messages))
    if not fractions.reliability.passed:
        warn(f"{fractions.reliability}: train for longer, or with larger networks, before you use them")
    return fractions


@dataclass(frozen=True)
class _Labelled:
    """Events of one of the samples that are told apart.

    Attributes:
        sample: The events.
        label: Number of the sample.
        encode: From rows of conditions to what the log-probability takes of them.
    """

    sample: Sample
    label: int
    encode: Callable[[np.ndarray], Sequence[np.ndarray]]
    held_out: np.ndarray | None = None

    def batch(self, rows: np.ndarray) -> Batch:
        """What is known of some rows, the label, and weights that average to one."""
        x = self.sample.array(list(self.sample.columns), rows)
        columns = (*self.encode(x), np.full(len(rows), self.label), self.sample.relative_weights(rows))
        return tuple(np.asarray(column, np.float32) for column in columns)


class _Training:
    def __init__(self, fractions: Fractions, schedule: Schedule, seed: int, progress: bool):
        self.fractions, self.schedule, self.seed, self.progress = fractions, schedule, seed, progress

    def standardise(self, samples: Sequence[Sample]) -> None:
        """Of the events of all processes together."""
        cond = self.fractions.cond
        pooled = Sample({name: np.concatenate([sample.columns[name] for sample in samples]) for name in cond})
        coordinates = Coordinates(cond)
        coordinates.standardise(pooled)
        self.fractions.centre.assign(coordinates._centre)
        self.fractions.scale.assign(coordinates._scale)

    # --- the classifier -------------------------------------------------------------------------------------------------

    def classifier(self, samples: Sequence[Sample]) -> None:
        """Train the network, and fit its last layer."""
        network = self.fractions.network

        def log_prob(c: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            return _of_label(network.precompute(c)[0][:, 0], label)

        sources = [_Labelled(sample, index, lambda x: [self._encoded(x)]) for index, sample in enumerate(samples)]
        self._maximise("fractions", log_prob, network, sources, self.seed, _SPREAD)
        self._fit_last_layer(samples)

    def _fit_last_layer(self, samples: Sequence[Sample]) -> None:
        """Newton's method for the weights of the last layer, the features being fixed."""
        network = self.fractions.network
        features = [last_hidden_layer(network, self._encoded(sample.array(self.fractions.cond))) for sample in samples]
        weights = [sample.relative_weights(np.arange(sample.n_events)) / sample.n_events for sample in samples]
        n_inputs = self.fractions.network.n_context
        before = network.weights[-1].numpy()[: _rows_seen(network, n_inputs)], network.biases[-1].numpy()
        matrix = np.concatenate([before[0], before[1][None, :]]).astype(float)
        (_, of_weights), (_, of_biases) = network.prior(_SPREAD)[-2:]
        prior = np.append(of_weights[: len(matrix) - 1, 0], of_biases[0]) / sum(s.effective_size for s in samples)
        for _ in range(_NEWTON_STEPS):
            step = _newton_step(matrix, features, weights, prior)
            matrix = matrix - step
            if np.abs(step).max() < 1e-6:
                break
        if not np.isfinite(matrix).all():
            return
        after = network.weights[-1].numpy()
        after[: len(matrix) - 1] = matrix[:-1]
        network.weights[-1].assign(after)
        network.biases[-1].assign(matrix[-1])

    def calibrate(self, held_out: Sequence[Sample], everything: Sequence[Sample]) -> None:
        """The temperature by held-out events, then the offsets by all."""
        logits = self._logits(held_out)
        # Few events, or some of negative weight, do not know a temperature: without a prior it may be zero or infinite.
        prior = 1.0 / (_SPREAD_OF_TEMPERATURE**2 * sum(sample.effective_size for sample in held_out))

        def temperature_and_offsets(numbers: np.ndarray) -> float:
            own = [z * np.exp(numbers[0]) + np.append(numbers[1:], 0.0) for z in logits]
            return _cross_entropy(own, held_out) + 0.5 * prior * float(numbers[0]) ** 2

        n = len(held_out)
        limits = [(-_HOTTEST, _HOTTEST), *[(None, None)] * (n - 1)]
        found = minimize(temperature_and_offsets, np.zeros(n), method="L-BFGS-B", bounds=limits)
        self.fractions.temperature.assign(np.exp(-found.x[0]))
        logits = self._logits(everything)
        offsets = minimize(
            lambda b: _cross_entropy([z * np.exp(found.x[0]) + np.append(b, 0.0) for z in logits], everything),
            found.x[1:],
            method="BFGS",
        )
        self.fractions.offsets.assign(np.append(offsets.x, 0.0))

    def reliability(self, samples: Sequence[Sample]) -> Reliability:
        """By events that nothing was fitted to: of all, or where it fails worst, in parts of one or two conditions."""
        shift, t = self.fractions.offsets.numpy(), float(self.fractions.temperature)
        predicted = np.concatenate([softmax(z / t + shift, axis=1) for z in self._logits(samples)])
        labels = np.repeat(np.arange(len(samples)), [sample.n_events for sample in samples])
        weights = np.concatenate([s.relative_weights(np.arange(s.n_events)) / s.n_events for s in samples])
        whole = Reliability.of(self.fractions.processes, predicted, labels, weights)
        if not whole.passed:
            return whole
        failed = []
        columns = {one: np.concatenate([sample.columns[one] for sample in samples]) for one in self.fractions.cond}
        for region, cells in _partitions(columns, n_parts=_PARTS if len(labels) >= _MANY else 2):
            parts = Reliability.of(self.fractions.processes, predicted, labels, weights, region=region, cells=cells)
            failed += [] if parts.passed else [parts]
        for name, values in columns.items():
            for low, high in itertools.pairwise(np.unique(np.quantile(values, np.linspace(0, 1, _REGIONS + 1)))):
                own = (values >= low) & (values <= high)
                region = f"{name} from {low:.4g} to {high:.4g}"
                part = Reliability.of(
                    self.fractions.processes, predicted, labels, weights, _BINS_OF_REGION, region, own
                )
                if part.process and not part.passed:
                    failed.append(part)
        return max(failed, key=lambda part: part.calibration_error, default=whole)

    # --- nuisances ------------------------------------------------------------------------------------------------------

    def response(self, index: int, nominal: Sample, moved: Sequence[tuple[Sample, Mapping[str, float]]]) -> None:
        """Train a response, the earlier ones of the process being fixed."""
        response, network = self.fractions.responses[index], self.fractions.networks[index]
        points = np.array([[at[name] for name in response.nuisances] for _, at in moved])
        monomials = np.prod(points[:, None, :] ** np.array(response.powers), axis=-1)  # (J, M)
        phi = tf.constant(monomials, tf.float32)
        earlier = [k for k in self.fractions.of_process(response.process) if k < index]
        known = [self._monomials_at(k, [at for _, at in moved]) for k in earlier]

        def encode(x: np.ndarray) -> list[np.ndarray]:
            c = self._encoded(x)
            offsets = np.zeros((len(c), len(moved)))
            for k, values in zip(earlier, known, strict=True):
                offsets += _outputs(self.fractions.networks[k], c) @ values.T
            return [c, offsets]

        def log_prob(c: tf.Tensor, offsets: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            r = network.precompute(c)[0][:, 0]
            ratios = offsets + tf.matmul(r, phi, transpose_b=True)
            return _of_label(tf.concat([tf.zeros_like(ratios[:, :1]), ratios], axis=1), label)

        sources = [_Labelled(one, k, encode) for k, one in enumerate([nominal, *(sample for sample, _ in moved)])]
        name = f"{response.process}: {' x '.join(response.nuisances)}"
        self._maximise(name, log_prob, network, sources, self.seed + 1 + index)

    def _monomials_at(self, index: int, points: Sequence[Mapping[str, float]]) -> np.ndarray:
        response = self.fractions.responses[index]
        values = np.array([[at.get(name, 0.0) for name in response.nuisances] for at in points])
        found: np.ndarray = np.prod(values[:, None, :] ** np.array(response.powers), axis=-1)
        return found

    def normalise(self, samples: Mapping[str, Sample]) -> None:
        """Moments of the coefficients over the nominal events of each process, and some events for what is beyond them."""
        for place, (name, sample) in enumerate(samples.items()):
            c = self._encoded(sample.array(self.fractions.cond))
            r = np.concatenate(
                [_outputs(self.fractions.networks[k], c) for k in self.fractions.of_process(name)], axis=1
            )
            shares = sample.relative_weights(np.arange(sample.n_events)) / sample.n_events
            mean = shares @ r
            self.fractions.means[place].assign(mean)
            self.fractions.covariances[place].assign((r - mean).T @ ((r - mean) * shares[:, None]))
            rows, own = self._for_high_orders(name, r - mean, shares)
            self.fractions.averaged[place].assign(r[rows] - own @ r[rows])
            self.fractions.averaged_weights[place].assign(own)
            self._check_integral(place, name, r, shares)

    def _for_high_orders(self, name: str, r: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of some events, and their weights: more of those that matter at third order, drawn by importance."""
        largest = tf.constant([max(map(abs, self.fractions.windows[one])) for one in self.fractions.nuisances])
        reach = (np.abs(r) @ self.fractions._monomials[name](tf.cast(largest, tf.float64)).numpy()) ** 3
        p = np.abs(shares) * (reach + reach.mean() + 1e-300)
        p /= p.sum()
        rows = np.random.default_rng(self.seed).choice(len(r), self.fractions.n_events, p=p)
        own = shares[rows] / p[rows]
        return rows, own / own.sum()

    def _check_integral(self, place: int, name: str, r: np.ndarray, shares: np.ndarray) -> None:
        """Warn where the integral is not that over all events, at the edges of the windows and in between."""
        fractions = self.fractions
        edges = np.array([fractions.windows[one] for one in fractions.nuisances])
        points = [edge * np.eye(len(edges))[k] for k, pair in enumerate(edges) for edge in pair]
        points += list(np.random.default_rng(0).normal(size=(_JOINT_POINTS, len(edges))).clip(*edges.T))
        worst, at = 0.0, points[0]
        for point in points:
            phi = fractions._monomials[name](tf.constant(point))
            s = r @ phi.numpy()
            exact = s.max() + np.log(shares @ np.exp(s - s.max()))
            error = abs(float(fractions.log_integral(place, phi)) - exact)
            if not error < worst:  # also if it is no number
                worst, at = error, point
        if not worst < _INTEGRAL:
            where = ", ".join(f"{one} = {value:.2g}" for one, value in zip(fractions.nuisances, at, strict=True))
            warn(
                f"the density of {name!r} is normalised to {worst:.2g} only at {where}, which a fit takes for a change of its "
                "yield: simulate more events, or smaller variations"
            )

    # --- what they share ------------------------------------------------------------------------------------------------

    def _maximise(
        self,
        name: str,
        log_prob: Callable[..., tf.Tensor],
        network: MaskedMLP,
        sources: Sequence[Any],
        seed: int,
        spread: float = 1.0,
    ) -> None:
        """Train a network, the prior of whose outputs has a spread."""
        prior = network.prior(spread)
        loop = Maximiser(log_prob, network.trainable_variables, schedule=self.schedule, prior=prior)
        self.fractions.history[name] = loop(name, sources, seed=seed, progress=self.progress)

    def _encoded(self, x: np.ndarray) -> np.ndarray:
        return np.asarray((x - self.fractions.centre.numpy()) / self.fractions.scale.numpy(), np.float32)

    def _logits(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        network = self.fractions.network
        return [_outputs(network, self._encoded(sample.array(self.fractions.cond))) for sample in samples]


def _rows_seen(network: MaskedMLP, n_inputs: int) -> int:
    """Rows of the weights of the last layer that see anything."""
    return network.hidden[-1] if network.hidden else n_inputs


def _of_label(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Log-probability ``(n,)`` of the sample that each event comes from."""
    chosen = tf.one_hot(tf.cast(label, tf.int32), logits.shape[-1], dtype=logits.dtype)
    return tf.reduce_sum(chosen * tf.nn.log_softmax(logits), axis=1)


def _outputs(network: MaskedMLP, c: np.ndarray) -> np.ndarray:
    """Outputs ``(n, p)`` of a network of conditions, float64."""
    found = [network.precompute(tf.constant(c[rows], tf.float64))[0][:, 0].numpy() for rows in slices(len(c), EVENTS)]
    return np.concatenate(found)


def _newton_step(
    matrix: np.ndarray, features: Sequence[np.ndarray], weights: Sequence[np.ndarray], prior: np.ndarray
) -> np.ndarray:
    """Of the mean cross entropy, as a function of the weights ``(H + 1, C)`` of the last layer.

    ``prior (H + 1)`` are inverse variances of the weights in units of the number of events.
    """
    n_rows, n_classes = matrix.shape
    gradient, hessian = np.zeros_like(matrix), np.zeros((n_classes, n_rows, n_classes, n_rows))
    for label, (h, w) in enumerate(zip(features, weights, strict=True)):
        for rows in slices(len(h), EVENTS):
            shares = softmax(h[rows] @ matrix, axis=1)
            gradient += h[rows].T @ (w[rows, None] * (shares - np.eye(n_classes)[label]))
            for j in range(n_classes):
                for k in range(n_classes):
                    spread = w[rows] * shares[:, j] * ((j == k) - shares[:, k])
                    hessian[j, :, k] += h[rows].T @ (h[rows] * spread[:, None])
    gradient = gradient / n_classes + prior[:, None] * matrix
    square = hessian.reshape(n_rows * n_classes, -1) / n_classes + np.diag(np.tile(prior, n_classes))
    square += _RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square, gradient.T.ravel()).reshape(n_classes, n_rows).T


def _cross_entropy(logits: Sequence[np.ndarray], samples: Sequence[Sample]) -> float:
    """Mean cross entropy, with equal parts of all processes."""
    return -float(
        np.mean(
            [
                sample.relative_weights(np.arange(sample.n_events)) @ log_softmax(z, axis=1)[:, label] / sample.n_events
                for label, (z, sample) in enumerate(zip(logits, samples, strict=True))
            ]
        )
    )


def _split(sample: Sample, seed: int) -> list[Sample]:
    """To train, to calibrate and to check."""
    n = sample.n_events
    if n < _FEWEST:
        raise ValueError(
            f"{sample.name!r} has {n} events, a tenth of which is to calibrate and another one to check: give {_FEWEST} at least"
        )
    rows = np.random.default_rng(seed).permutation(n)
    first, second = round((1 - _HELD_OUT) * n), round((1 - _HELD_OUT / 2) * n)
    parts = []
    for own in (rows[:first], rows[first:second], rows[second:]):
        weights = None if sample.weights is None else sample.weights[own]
        part = Sample({name: values[own] for name, values in sample.columns.items()}, weights, sample.name)
        check_trainable(part)
        parts.append(part)
    return parts


def _range(name: str, samples: Sequence[Sample]) -> tuple[float, float]:
    """Lowest and highest value of a condition in any of the samples."""
    columns = [sample.columns[name] for sample in samples]
    return float(min(column.min() for column in columns)), float(max(column.max() for column in columns))


def _partitions(columns: Mapping[str, np.ndarray], *, n_parts: int) -> Iterator[tuple[str, np.ndarray]]:
    """Partitions of events by one condition or by two, of as many cells: in words, and the cell ``(n,)`` of each event."""
    for name, values in columns.items():
        yield f"{n_parts**2} parts of {name}", quantile_bins(values, n_parts**2)
    for (first, x), (second, y) in itertools.combinations(columns.items(), 2):
        cells = quantile_bins(x, n_parts) * n_parts + quantile_bins(y, n_parts)
        yield f"{n_parts} x {n_parts} parts of {first} and {second}", cells


def _windows(plans: Mapping[str, Plan]) -> dict[str, tuple[float, float]]:
    """The widest range of each nuisance that all processes with it know."""
    windows: dict[str, tuple[float, float]] = {}
    for plan in plans.values():
        for name, (low, high) in plan.windows.items():
            other = windows.get(name, (low, high))
            windows[name] = max(low, other[0]), min(high, other[1])
    for name, (low, high) in windows.items():
        if not low < high:
            known = {process: plan.windows[name] for process, plan in plans.items() if name in plan.windows}
            raise ValueError(
                f"the variations of {name!r} have no range in common, of one process on one side and of another on the other: "
                f"{known}; add variations of the other side"
            )
    return windows


def _check_simulations(simulations: Any) -> None:
    if not isinstance(simulations, Mapping) or not all(isinstance(one, Simulation) for one in simulations.values()):
        raise TypeError(
            "fit_fractions takes the Simulation of each process by its name, e.g. {'signal': Simulation(...), ...}; got "
            f"{simulations!r}"
        )
    if len(simulations) < 2:
        raise ValueError(f"fractions need two or more processes; got {list(simulations)}")

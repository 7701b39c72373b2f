"""The one training loop: maximise a weighted mean log-likelihood over minibatches, in compiled code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from ..common.chunks import GRAPH, slices
from ..densities.floor import above
from ..densities.history import History
from ..samples import Sample
from .schedule import Schedule, TrainingStopped

__all__ = ["Batch", "LogProb", "Maximiser", "Prior", "Source", "filled", "held_out_rows", "n_held_out"]

_STEPS_PER_CALL = 100
_CHECKS = 20
_MANY = 2000  # steps for which XLA, which makes each 1.2 to 2 times faster, compiles 2 to 4 s longer


Batch = tuple[np.ndarray, ...]
LogProb = Callable[..., tf.Tensor]
Prior = Sequence[tuple[tf.Variable, np.ndarray]]  # with inverse variances, around zero


class Source(Protocol):
    """Training events, e.g. those at one point of the nuisances."""

    @property
    def sample(self) -> Sample:
        """The events."""

    @property
    def held_out(self) -> np.ndarray | None:
        """Rows to validate on, if that is not the choice of the training."""

    def batch(self, rows: np.ndarray) -> Batch:
        """What the log-density takes of some rows, then their weights, in float32; weights average to one."""


class _Feed:
    """Endless shuffled minibatches, in equal shares from several sources, and a fixed validation set."""

    def __init__(self, sources: Sequence[Source], schedule: Schedule, seed: int):
        rng = np.random.default_rng(seed)
        self.sources = sources
        self._share = max(1, schedule.batch_size // len(sources))
        self.batch_size = self._share * len(sources)
        splits = [self._split(source, schedule, rng, len(sources)) for source in sources]
        self.validation = [source.batch(held) for source, (held, _) in zip(sources, splits, strict=True)]
        self.n_events = sum(len(rows) for _, rows in splits)
        self.effective_size = sum(
            source.sample.effective_size * len(rows) / source.sample.n_events
            for source, (_, rows) in zip(sources, splits, strict=True)
        )
        self._rows = [_Shuffler(rows, rng) for _, rows in splits]

    @staticmethod
    def _split(
        source: Source, schedule: Schedule, rng: np.random.Generator, n_sources: int
    ) -> tuple[np.ndarray, np.ndarray]:
        held = n_held_out(source.sample, schedule, n_sources)
        rows = rng.permutation(source.sample.n_events)
        if source.held_out is not None:
            rows, held = np.append(source.held_out, np.setdiff1d(rows, source.held_out)), len(source.held_out)
        for part, share in (("validation", rows[:held]), ("training", rows[held:])):
            if (total := source.sample.relative_weights(share).sum()) <= 0.0:
                raise ValueError(
                    f"the weights of the {len(share)} {part} events of {source.sample.name!r} sum to {total:.3g} of their "
                    "mean: too many of them are negative or zero for so few events"
                )
        return np.sort(rows[:held]), rows[held:]

    def steps(self, count: int) -> Batch:
        """Minibatches of ``count`` steps, stacked: ``(count, batch_size, ...)``."""
        parts = []
        for source, rows in zip(self.sources, self._rows, strict=True):
            batch = source.batch(rows.take(count * self._share))
            parts.append([column.reshape(count, self._share, *column.shape[1:]) for column in batch])
        if len(parts) == 1:  # nothing to copy
            return tuple(parts[0])
        return tuple(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))


def held_out_rows(sources: Sequence[Source], schedule: Schedule, seed: int) -> list[np.ndarray]:
    """Rows of each of several samples that a training with this seed only validates on."""
    rng = np.random.default_rng(seed)
    return [_Feed._split(source, schedule, rng, len(sources))[0] for source in sources]


def n_held_out(sample: Sample, schedule: Schedule, n_sources: int = 1) -> int:
    """How many events of one of several samples validate.

    Raises:
        ValueError: If none are left to train on.
    """
    n = sample.n_events
    held = min(int(np.ceil(schedule.validation * n)), max(1, 50_000 // n_sources))
    if n - held < 1:
        raise ValueError(f"{sample.name!r} has {n} event(s): too few to train and to validate on")
    return held


class _Shuffler:
    """Row numbers without end: every row once, in random order, before any comes again."""

    def __init__(self, rows: np.ndarray, rng: np.random.Generator):
        self._rows, self._rng, self._next = rows, rng, 0

    def take(self, count: int) -> np.ndarray:
        taken = []
        while count:
            if self._next == len(self._rows):
                self._rng.shuffle(self._rows)
                self._next = 0
            part = self._rows[self._next : self._next + count]
            taken.append(part.copy())
            self._next, count = self._next + len(part), count - len(part)
        return np.concatenate(taken)


class _Optimiser(tf.Module):
    """Adam in the eigenbasis of the gradients' second moments (SOAP, arXiv:2409.11321), with averaged weights.

    The conditioners are small and their losses badly conditioned: rotating each weight matrix into the eigenbasis of
    ``E[G G^T]`` and ``E[G^T G]`` before Adam's elementwise step reaches the accuracy of plain Adam with a quarter of the
    events. Biases, and sides too long for a cheap QR decomposition, are not rotated.
    """

    _BETA, _EPSILON = 0.95, 1e-8
    _LONGEST_SIDE = 256

    def __init__(self, variables: Sequence[tf.Variable], schedule: Schedule, step_sizes: Sequence[Any] | None = None):
        super().__init__()
        self.targets, self.schedule = list(variables), schedule
        self.step_sizes = [1.0] * len(self.targets) if step_sizes is None else list(step_sizes)
        self.first, self.second = ([_state(tf.zeros(v.shape)) for v in self.targets] for _ in range(2))
        self.average = [_state(v) for v in self.targets]
        rotated = schedule.rotate_every > 0
        sizes = [
            [n if rotated and len(v.shape) == 2 and n <= self._LONGEST_SIDE else 0 for n in v.shape]
            for v in self.targets
        ]
        self.moments = [[_state(tf.zeros((n, n))) for n in sides] for sides in sizes]
        self.bases = [[_state(tf.eye(n)) for n in sides] for sides in sizes]

    def reset(self) -> None:
        """Forget everything but the current values of the targets."""
        for state, start in [
            *((first, tf.zeros(first.shape)) for first in (*self.first, *self.second)),
            *((average, target) for average, target in zip(self.average, self.targets, strict=True)),
            *((moment, tf.zeros(moment.shape)) for sides in self.moments for moment in sides),
            *((basis, tf.eye(basis.shape[0])) for sides in self.bases for basis in sides),
        ]:
            state.assign(start)

    def step(self, gradients: Sequence[tf.Tensor], number: tf.Tensor, rate: tf.Tensor) -> None:
        """One update; ``number`` counts from one."""
        # The average starts short and grows to its full length, so that it forgets the initial weights.
        keep = tf.minimum(self.schedule.averaging, number / (number + 10.0))
        scale = tf.sqrt(1.0 - self._BETA**number) / (1.0 - self._BETA**number)
        slots = zip(self.targets, self.first, self.second, self.average, self.moments, self.bases, strict=True)
        for gradient, size, slot in zip(gradients, self.step_sizes, slots, strict=True):
            target, first, second, average, moments, bases = slot
            gradient = tf.cast(gradient, tf.float32)
            rotations = self._rotations(gradient, moments, bases, number)
            m = self._BETA * first + (1.0 - self._BETA) * gradient
            v = self._BETA * second + (1.0 - self._BETA) * _rotate(gradient, rotations) ** 2
            direction = _rotate(scale * _rotate(m, rotations) / (tf.sqrt(v) + self._EPSILON), rotations, back=True)
            if target.shape.rank:  # a scalar is a parameter of the model, not a weight of a network
                direction += self.schedule.weight_decay * target
            value = target - tf.cast(rate * size * direction, target.dtype)
            first.assign(m)
            second.assign(v)
            target.assign(value)
            average.assign(average + tf.cast(1.0 - keep, target.dtype) * (value - average))

    def _rotations(
        self, gradient: tf.Tensor, moments: Sequence[tf.Variable], bases: Sequence[tf.Variable], number: tf.Tensor
    ) -> list[tf.Tensor | None]:
        """Update the second moments and, every few steps, the eigenbases by one step of orthogonal iteration."""
        rotations: list[tf.Tensor | None] = []
        for side, (moment, basis) in enumerate(zip(moments, bases, strict=True)):
            if not basis.shape[0]:
                rotations.append(None)
                continue
            outer = tf.matmul(gradient, gradient, transpose_a=side == 1, transpose_b=side == 0)
            updated, current = self._BETA * moment + (1.0 - self._BETA) * outer, basis.read_value()
            due = tf.equal(tf.math.floormod(number, float(self.schedule.rotate_every)), 0.0)
            rotation = tf.cond(due, lambda m=updated, q=current: _improved_basis(m, q), lambda q=current: q)
            moment.assign(updated)
            basis.assign(rotation)
            rotations.append(rotation)
        return rotations


def _state(value: tf.Tensor) -> tf.Variable:
    return tf.Variable(value, trainable=False)


def _improved_basis(moment: tf.Tensor, basis: tf.Tensor) -> tf.Tensor:
    # The small multiple of the old basis keeps directions without any gradient (masked weights) well defined.
    power = tf.matmul(moment / (tf.linalg.trace(moment) + 1e-30), basis) + 1e-7 * basis
    return tf.linalg.qr(power)[0]


def _rotate(matrix: tf.Tensor, rotations: Sequence[tf.Tensor | None], *, back: bool = False) -> tf.Tensor:
    """Rotate the rows' and the columns' side of a matrix; sides without a rotation (and vectors) are left alone."""
    for side, rotation in enumerate(rotations):
        if rotation is None:
            continue
        if side == 0:
            matrix = tf.matmul(rotation, matrix, transpose_a=not back)
        else:
            matrix = tf.matmul(matrix, rotation, transpose_b=back)
    return matrix


class Maximiser:
    """The training loop for one log-density: compiled when first called, and not again for other events.

    Args:
        log_prob: The log-density of minibatches.
        variables: What is trained; each call starts from their current values.
        schedule: How long and how fast.
        step_sizes: Multiply the learning rate of each variable, numbers or variables; the weights of networks want one,
            the default.
        floor: A log-density of the same events, below which those of negative weights push no more: without it their
            likelihood has no maximum, since a density may vanish at each of them.
        prior: Gaussian prior of some of the variables. What is maximised is the posterior density: the more events, the less
            it counts; of few it keeps networks from following single events.
        xla: Whether XLA compiles the steps; by default where there are many.
    """

    def __init__(
        self,
        log_prob: LogProb,
        variables: Sequence[tf.Variable],
        *,
        schedule: Schedule,
        step_sizes: Sequence[float | tf.Variable] | None = None,
        floor: LogProb | None = None,
        prior: Prior = (),
        xla: bool | None = None,
    ):
        self._schedule, self._optimiser = schedule, _Optimiser(variables, schedule, step_sizes)
        xla = schedule.steps > _MANY if xla is None else xla
        weighed = _weighed(log_prob, floor)
        self._run = _compiled_steps(weighed, self._optimiser, prior, xla=xla)
        self._losses = _compiled_losses(weighed)

    def __call__(
        self, name: str, sources: Sequence[Source], *, seed: int, progress: bool, first_step: int = 0
    ) -> History:
        """Train; the variables end at the last average that is not significantly worse than the best one.

        Args:
            name: What is trained, for messages.
            sources: Where the events come from; all have an equal share of each minibatch.
            seed: Of the validation split and of the shuffling.
            progress: Whether to show a progress bar.
            first_step: Where in the schedule to begin: its end, with small steps, polishes a trained model.

        Raises:
            TrainingStopped: If the loss diverges or the user interrupts; with the record of what was done.
        """
        started = time.monotonic()
        feed = _Feed(sources, self._schedule, seed)
        self._optimiser.reset()
        history = History(name, n_events=feed.n_events, effective_size=sum(s.sample.effective_size for s in sources))
        best = _Best(self._optimiser, _Validation(self._losses, feed.validation))

        def record() -> History:
            return replace(history, initial=best.initial, best_step=best.step, seconds=time.monotonic() - started)

        try:
            _stop_if_invalid(name, best.initial, first_step)
            done = self._train(name, feed, best, history, first_step, progress)
        except TrainingStopped as stopped:
            stopped.history = replace(record(), interrupted=True)
            raise
        finally:
            best.restore()
        return replace(record(), stopped_early=done < self._schedule.steps)

    def _train(self, name: str, feed: _Feed, best: _Best, history: History, first_step: int, progress: bool) -> int:
        """All steps, with validations in between; fills the lists of the history, and returns the last step."""
        schedule, check_every = self._schedule, max(1, round(self._schedule.steps / _CHECKS))
        losses: list[np.ndarray] = []
        stale, done = 0, first_step
        bar = tqdm(total=schedule.steps, initial=first_step, desc=name, disable=not progress, unit="step")

        def validate() -> bool:
            improved = best.offer(done)
            _stop_if_invalid(name, best.latest, done)
            history.steps.append(done)
            history.training.append(float(np.concatenate(losses).mean()))
            history.validation.append(best.latest)
            bar.set_postfix(validation=f"{best.latest:.5f}")
            losses.clear()
            return improved

        try:
            while done < schedule.steps and (schedule.patience is None or stale <= schedule.patience):
                count = min(_STEPS_PER_CALL, schedule.steps - done, check_every - done % check_every)
                rates = schedule.learning_rates(done, count)
                losses.append(self._run(feed.steps(count), done, rates, 1.0 / feed.effective_size).numpy())
                _stop_if_diverged(name, losses[-1], done, rates)
                done += count
                bar.update(count)
                if done % check_every == 0 or done == schedule.steps:
                    stale = 0 if validate() else stale + 1
        except KeyboardInterrupt as error:
            if losses:  # what was done since the last validation counts as well
                validate()
            raise TrainingStopped(
                f"training of {name} was interrupted at step {done} of {schedule.steps}",
                step=done,
                learning_rate=float(schedule.learning_rates(done, 1)[0]),
            ) from error
        finally:
            bar.close()
        return done


class _Best:
    """The latest averaged weights whose validation loss is not significantly above the smallest one so far.

    The weights of the start are the first of them. Where the loss has become flat its minimum is at a random step. Later
    weights have profited from smaller learning rates, so they are preferred unless the differences of the losses event by
    event speak against them.
    """

    _SIGNIFICANT = 2.0  # standard deviations

    def __init__(self, optimiser: _Optimiser, validation: _Validation):
        self._optimiser, self._validation = optimiser, validation
        self._values = [variable.numpy() for variable in optimiser.targets]
        self._lowest = validation()
        self.initial = self.latest = float(self._lowest.sum())
        self.step = 0

    def offer(self, step: int) -> bool:
        """Validate the current average and keep it unless it is worse; returns whether its loss is the smallest."""
        live = [variable.numpy() for variable in self._optimiser.targets]
        averaged = [variable.numpy() for variable in self._optimiser.average]
        self._set(averaged)
        shares = self._validation()
        self._set(live)
        self.latest = float(shares.sum())
        difference = shares - self._lowest
        if difference.sum() < self._SIGNIFICANT * np.sqrt(np.square(difference).sum()):
            self.step, self._values = step, averaged
        if improved := difference.sum() < 0.0:
            self._lowest = shares
        return improved

    def restore(self) -> None:
        """Put the best weights into the model."""
        self._set(self._values)

    def _set(self, values: Sequence[np.ndarray]) -> None:
        for variable, value in zip(self._optimiser.targets, values, strict=True):
            variable.assign(value)


def _weighed(log_prob: LogProb, floor: LogProb | None) -> LogProb:
    """Weight times log-density of each event, in the dtype of the weight, which comes last.

    Of a negative weight it is the logarithm of the sum of the density and the floor.
    """

    def weighed(*columns: tf.Tensor) -> tf.Tensor:
        *inputs, w = columns
        found = tf.cast(log_prob(*inputs), w.dtype)
        if floor is not None:
            low = tf.cast(floor(*inputs), w.dtype)
            found = tf.where(w < 0.0, above(found, low), found)
        return w * found

    return weighed


def _compiled_steps(weighed: LogProb, optimiser: _Optimiser, prior: Prior, *, xla: bool) -> Callable[..., tf.Tensor]:
    """Many optimiser steps in one program: no round trips to Python between minibatches."""

    @tf.function(jit_compile=xla, autograph=False)
    def run(batches: tuple[tf.Tensor, ...], first: tf.Tensor, rates: tf.Tensor, per_event: tf.Tensor) -> tf.Tensor:
        count = rates.shape[0]

        def body(i: tf.Tensor, losses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(optimiser.targets)
                loss = -tf.reduce_mean(weighed(*(column[i] for column in batches)))
                objective = loss + per_event * _minus_log_prior(prior)
            gradients = tape.gradient(objective, optimiser.targets, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            optimiser.step(gradients, tf.cast(first + i + 1, tf.float32), rates[i])
            return i + 1, tf.tensor_scatter_nd_update(losses, [[i]], [loss])

        return tf.while_loop(lambda i, _: i < count, body, (0, tf.zeros(count)), parallel_iterations=1)[1]

    return lambda batches, first, rates, per_event: run(
        tuple(map(tf.constant, batches)),
        tf.constant(first),
        tf.constant(rates, tf.float32),
        tf.constant(per_event, tf.float32),
    )


def _minus_log_prior(prior: Prior) -> tf.Tensor:
    """Up to a constant."""
    terms = [tf.reduce_sum(tf.constant(precision, tf.float32) * variable**2) for variable, precision in prior]
    return 0.5 * tf.add_n(terms) if terms else tf.constant(0.0)


def _compiled_losses(weighed: LogProb) -> Callable[..., tf.Tensor]:
    """Weighted loss of each event of a piece, in float64; XLA would compile for longer than it saves."""

    @tf.function(autograph=False)
    def losses(*columns: tf.Tensor) -> tf.Tensor:
        *inputs, w = columns
        return -weighed(*inputs, tf.cast(w, tf.float64))

    return losses


class _Validation:
    """The mean loss over validation sets with equal shares, as a sum over events; pieces of one size, compiled once."""

    def __init__(self, losses: Callable[..., tf.Tensor], batches: Sequence[Batch]):
        self._losses = losses
        self._size = min(GRAPH, max(len(batch[0]) for batch in batches))
        self._pieces = [list(self._cut(batch)) for batch in batches]
        self._norms = [float(batch[-1].sum()) * len(batches) for batch in batches]

    def __call__(self) -> np.ndarray:
        """Share of each event in the mean loss."""
        return np.concatenate(
            [
                np.asarray(self._losses(*piece)) / norm
                for pieces, norm in zip(self._pieces, self._norms, strict=True)
                for piece in pieces
            ]
        )

    def _cut(self, batch: Batch) -> Iterator[tuple[tf.Tensor, ...]]:
        for rows, real in filled(len(batch[0]), self._size):
            *columns, weights = (column[rows] for column in batch)
            yield tuple(map(tf.constant, (*columns, np.where(real, weights, np.float32(0.0)))))


def filled(n: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows ``0 .. n - 1`` in pieces of one size, for which code is compiled once, and whether each of them is real.

    The last piece is filled with the last row, again and again; those get weight zero.
    """
    for piece in slices(n, size):
        rows = np.arange(piece.start, piece.start + size)
        yield np.minimum(rows, n - 1), rows < n


def _stop_if_diverged(name: str, losses: np.ndarray, first: int, rates: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if not len(bad):
        return
    step, rate = first + int(bad[0]), float(rates[bad[0]])
    raise TrainingStopped(
        f"training of {name} diverged: the loss is {losses[bad[0]]} at step {step} (learning rate {rate:.2g}). Try a "
        "smaller learning_rate, a longer warmup, or larger batches in the Schedule, and look for extreme values or large "
        "negative weights in the sample",
        step=step,
        learning_rate=rate,
    )


def _stop_if_invalid(name: str, loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise TrainingStopped(
            f"training of {name} cannot go on: the validation loss is {loss} at step {step}. Look for extreme values "
            "and weights in the sample",
            step=step,
        )

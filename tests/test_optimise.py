"""The training loop on problems with known answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf.optimise import Maximiser, Schedule, _Best
from zfit_fnf.samples import Sample

SHORT = Schedule(steps=200, batch_size=250, learning_rate=0.05, warmup=10, averaging=0.9, rotate_every=0)


@dataclass
class Rows:
    sample: Sample

    def batch(self, rows):
        y = self.sample.columns["y"][rows]
        return y.astype(np.float32), self.sample.relative_weights(rows).astype(np.float32)


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(1)
    return Rows(Sample({"y": rng.normal(2.0, 1.0, 5000)}, weights=rng.uniform(0.5, 1.5, 5000)))


def gaussian(mean, unit=1.0):
    return lambda y: -0.5 * (y - tf.cast(mean / unit, y.dtype)) ** 2


def weighted_mean(rows):
    return np.average(rows.sample.columns["y"], weights=rows.sample.weights)


def test_finds_the_weighted_mean_and_starts_anew_in_every_call(events):
    mean = tf.Variable([0.0])
    fit = Maximiser(gaussian(mean), [mean], schedule=SHORT)
    found = []
    for _ in range(2):
        mean.assign([0.0])
        fit("mean", [events], seed=3, progress=False)
        found.append(mean.numpy())
    # Ten per cent of the events validate: the mean of the others is off by 1 / sqrt(5000) * sqrt(0.1) = 0.005.
    assert found[0] == pytest.approx(weighted_mean(events), abs=0.03)
    np.testing.assert_array_equal(found[0], found[1])


def test_parameters_may_have_their_own_steps_and_precision(events):
    """A scalar in other units, in float64, with a step in these units; weight decay leaves it alone."""
    mean = tf.Variable(0.0, dtype=tf.float64)
    schedule = Schedule(**{**vars(SHORT), "weight_decay": 1.0})
    Maximiser(gaussian(mean, 1000.0), [mean], schedule=schedule, step_sizes=[1000.0])(
        "mean", [events], seed=3, progress=False
    )
    assert float(mean) == pytest.approx(1000.0 * weighted_mean(events), abs=30.0)


class Recorded:
    """An optimiser whose weights are the number of the step."""

    def __init__(self):
        self.targets, self.average = [tf.Variable(0.0)], [tf.Variable(0.0)]


@pytest.mark.parametrize(
    ("mean_of_second", "kept"),
    [(-0.01, 2), (+0.01, 2), (+0.10, 1)],  # better; worse by less than its own error; significantly worse
)
def test_later_weights_are_kept_unless_they_are_significantly_worse(mean_of_second, kept):
    rng = np.random.default_rng(2)
    noise = rng.normal(size=1000)
    losses = {1: np.ones(1000), 2: 1.0 + mean_of_second + (noise - noise.mean()) / noise.std()}
    optimiser = Recorded()
    best = _Best(optimiser, lambda: losses[int(optimiser.targets[0])] / 1000)
    for step in (1, 2):
        optimiser.average[0].assign(step)
        improved = best.offer(step)
    best.restore()
    assert int(optimiser.targets[0]) == best.step == kept
    assert improved == (mean_of_second < 0)
    assert best.latest == pytest.approx(1.0 + mean_of_second)

"""The training loop on problems with known answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf.densities.networks import MaskedMLP
from zfit_fnf.samples import Sample
from zfit_fnf.train.loop import Maximiser, _Best, held_out_rows
from zfit_fnf.train.schedule import Schedule, TrainingStopped

SHORT = Schedule(steps=200, batch_size=250, learning_rate=0.05, warmup=10, averaging=0.9, rotate_every=0)


@dataclass
class Rows:
    sample: Sample
    held_out: None = None

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
    losses = {0: np.full(1000, 2.0), 1: np.ones(1000), 2: 1.0 + mean_of_second + (noise - noise.mean()) / noise.std()}
    optimiser = Recorded()
    best = _Best(optimiser, lambda: losses[int(optimiser.targets[0])] / 1000)
    for step in (1, 2):
        optimiser.average[0].assign(step)
        improved = best.offer(step)
    best.restore()
    assert int(optimiser.targets[0]) == best.step == kept
    assert best.initial == pytest.approx(2.0)
    assert improved == (mean_of_second < 0)
    assert best.latest == pytest.approx(1.0 + mean_of_second)


def test_the_start_is_kept_where_training_makes_it_worse(events):
    mean = tf.Variable([weighted_mean(events)], dtype=tf.float32)
    start = mean.numpy()
    wild = Schedule(**{**vars(SHORT), "learning_rate": 50.0, "steps": 20})
    history = Maximiser(gaussian(mean), [mean], schedule=wild)("mean", [events], seed=3, progress=False)
    np.testing.assert_array_equal(mean, start)
    assert history.best_step == 0
    assert history.best_validation == history.initial
    assert "never better than its start" in str(history)


def test_a_validation_that_is_not_finite_is_told():
    extreme = Rows(Sample({"y": np.append(np.random.default_rng(1).normal(size=900), np.full(100, 1e30))}))
    mean = tf.Variable([0.0])
    with pytest.raises(TrainingStopped, match=r"cannot go on: the validation loss is inf at step 0.*extreme") as caught:
        Maximiser(gaussian(mean), [mean], schedule=SHORT)("mean", [extreme], seed=3, progress=False)
    assert caught.value.history.interrupted
    assert float(mean[0]) == 0.0


def test_weights_of_both_signs_find_the_mean_of_what_is_left():
    """Events around 2, and events around 0 of which as many count minus one as plus one."""
    rng = np.random.default_rng(4)
    y = np.concatenate([rng.normal(2.0, 1.0, 4000), rng.normal(0.0, 1.0, 2000)])
    rows = Rows(Sample({"y": y}, weights=np.concatenate([np.ones(4000), np.repeat([1.0, -1.0], 1000)])))
    mean = tf.Variable([0.0])
    Maximiser(gaussian(mean), [mean], schedule=SHORT)("mean", [rows], seed=3, progress=False)
    # The weighted mean of the nine tenths that train is off by sqrt(6000 * 0.1) * 1.5 / 4000 = 0.01.
    assert float(mean[0]) == pytest.approx(weighted_mean(rows), abs=0.06)


@pytest.mark.parametrize(("floor", "mean_of_rest"), [(None, -0.30), (lambda y: -20.0 - 0.0 * y, 0.0)])
def test_events_of_negative_weights_push_no_further_than_the_floor(floor, mean_of_rest):
    """A hundredth of the events is 30 widths away, at a density of ``exp(-450)``, and has negative weights."""
    rng = np.random.default_rng(6)
    y = rng.permuted(np.append(rng.normal(0.0, 1.0, 9900), np.full(100, 30.0)))
    rows, mean = Rows(Sample({"y": y}, weights=np.where(y == 30.0, -1.0, 1.0))), tf.Variable([0.0])
    Maximiser(gaussian(mean), [mean], schedule=SHORT, floor=floor)("mean", [rows], seed=3, progress=False)
    # The last steps average some 30 minibatches of 250 events: 0.01 without the far ones, 0.035 with them.
    assert float(mean[0]) == pytest.approx(mean_of_rest, abs=0.04 if floor else 0.14)


def test_events_that_validate_need_a_positive_sum_of_weights():
    rows = Rows(Sample({"y": np.arange(4.0)}, weights=np.array([-1.0, -1.0, -1.0, 4.0])))
    mean = tf.Variable([0.0])
    with pytest.raises(ValueError, match="too many of them are negative or zero"):
        Maximiser(gaussian(mean), [mean], schedule=SHORT)("mean", [rows], seed=3, progress=False)


def test_few_events_move_a_variable_from_its_prior_by_what_they_weigh():
    """The posterior mean of a Gaussian is ``S / (n + k)`` of ``n`` events with sum ``S`` and inverse variance ``k``."""
    y = np.random.default_rng(5).normal(2.0, 1.0, 60)
    rows, mean = Rows(Sample({"y": y})), tf.Variable([0.0])
    schedule = replace(SHORT, steps=1000)
    fit = Maximiser(gaussian(mean), [mean], schedule=schedule, prior=[(mean, np.array([20.0]))])
    fit("mean", [rows], seed=3, progress=False)
    (held_out,) = held_out_rows([rows], schedule, 3)
    trained = np.delete(y, held_out)
    # After as many steps with small ones at the end what is left of the noise of minibatches is some 1e-3.
    assert float(mean[0]) == pytest.approx(trained.sum() / (len(trained) + 20.0), abs=0.01)
    assert abs(float(mean[0]) - trained.mean()) > 0.4


def test_initial_weights_of_a_network_are_drawn_from_its_prior():
    network = MaskedMLP(3, 2, 5, hidden=[90, 90], seed=1)
    pulls = [variable.numpy() * np.sqrt(precision) for variable, precision in network.prior()]
    kernels = np.concatenate([pull[pull != 0.0] for pull in pulls])  # biases and masked weights start at zero
    # More than 6000 standard normal numbers: their variance is known to 1.8 %; four times as much.
    assert len(kernels) > 6000
    assert np.mean(kernels**2) == pytest.approx(1.0, abs=0.07)
    wider = {variable.ref(): precision for variable, precision in network.prior(5.0)}
    for variable, precision in network.prior():
        is_last = variable is network.weights[-1] or variable is network.biases[-1]
        np.testing.assert_allclose(wider[variable.ref()], precision / (25.0 if is_last else 1.0))

"""Training on samples whose truth is known, and what it says when it cannot go on."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf import Schedule, Variation
from zfit_fnf.train import fit_deformation, fit_flow
from zfit_fnf.train.loop import _Optimiser, _Shuffler
from zfit_fnf.train.plan import interaction_powers
from zfit_fnf.train.schedule import TrainingStopped

N = 40_000
SHORT = Schedule(steps=150, batch_size=512, warmup=20, averaging=0.98)
TINY_SCHEDULE = Schedule(steps=10, batch_size=128, rotate_every=0)


def simulate(shift=0.0, width=0.0, seed=0, n=N):
    """``y | x ~ N(0.5 x + 0.4 shift (1 + 0.3 width), exp(0.2 width))``, weights that average to one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 0.5 * x + 0.4 * shift * (1.0 + 0.3 * width) + np.exp(0.2 * width) * rng.normal(size=n)
    return {"y": y, "x": x, "w": np.ones(n)}


def exact_log_prob(events, shift=0.0, width=0.0):
    z = (events["y"] - 0.5 * events["x"] - 0.4 * shift * (1.0 + 0.3 * width)) * np.exp(-0.2 * width)
    return -0.5 * z**2 - 0.2 * width - 0.5 * np.log(2 * np.pi)


@pytest.fixture(scope="module")
def flow():
    return fit_flow(simulate(), obs=["y"], cond=["x"], schedule=SHORT, seed=1, progress=False)


@pytest.fixture(scope="module")
def variations():
    points = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    return [
        Variation(simulate(*point, seed=i), at={k: v for k, v in zip(("shift", "width"), point, strict=True) if v})
        for i, point in enumerate(points, start=1)
    ]


@pytest.fixture(scope="module")
def deformation(flow, variations):
    return fit_deformation(flow, variations, schedule=SHORT, seed=1, progress=False, map=True, ratio=False)


def test_a_density_remembers_where_its_conditions_were(flow):
    x = simulate()["x"]
    assert flow.history.conditions == {"x": [x.min(), x.max()]}


def gap(model, shift=0.0, width=0.0, **nu):
    events = simulate(shift, width, seed=99)
    return np.mean(exact_log_prob(events, shift, width) - model.log_prob(events, **nu))


def test_flow_reaches_the_truth(flow):
    assert abs(gap(flow)) < 5e-3  # 150 steps; statistical noise of the difference is 3e-4


@pytest.mark.parametrize("point", [(1, 0), (-1, 0), (0, 1), (1, 1), (-1, 1), (0.5, -0.5)])
def test_deformation_reaches_the_truth(deformation, point):
    shift, width = point
    assert abs(gap(deformation, shift, width, nu={"shift": shift, "width": width})) < 6e-3


def test_calibration_zeroes_the_score_at_the_simulated_points(deformation, variations):
    """The mean score of a training sample is zero within a tenth of its statistical size, also at joint points.

    So it is if nothing makes the response smaller afterwards, and Newton's method has converged.
    """
    h = 1e-3
    for variation in variations:
        for name, value in variation.at.items():
            up, down = (
                deformation.log_prob(variation.events, nu={**variation.at, name: value + s * h}) for s in (1, -1)
            )
            score = (up - down) / (2 * h)
            assert abs(score.mean()) < 0.1 * score.std() / np.sqrt(N), (variation.at, name)


def test_interaction_has_all_monomials_that_corners_determine(deformation):
    assert deformation.interactions == (("shift", "width"),)
    assert deformation.responses[-1].powers == ((1, 1), (1, 2), (2, 1), (2, 2))


def test_history(flow, deformation, tmp_path):
    history = flow.history
    assert history.n_events == 36_000
    assert history.effective_size == pytest.approx(N)
    assert history.validation[-1] < history.validation[0]
    assert history.initial > history.validation[0]
    assert history.validation[history.steps.index(history.best_step)] == history.best_validation
    assert "validation log-density" in str(history)
    assert set(deformation.history) == {"shift", "width", "shift x width"}
    assert [line.split()[0] for line in str(deformation.history).splitlines()[1:4]] == ["shift", "width", "shift"]


@pytest.mark.filterwarnings("ignore:.*still improving:UserWarning")
@pytest.mark.filterwarnings("ignore:.*(its map follows|would be off):UserWarning")  # of trainings that short
def test_yields_are_ratios_of_summed_weights(flow):
    up = simulate(1.0, seed=5) | {"w": np.full(N, 1.2)}
    weighted = fit_flow(simulate(), obs=["y"], cond=["x"], weights="w", schedule=TINY_SCHEDULE, progress=False)
    model = fit_deformation(
        weighted,
        [Variation(up, at={"shift": 1})],
        weights="w",
        mirror=True,
        schedule=TINY_SCHEDULE,
        progress=False,
    )
    assert model.yields["shift"].up == pytest.approx(1.2)
    assert model.yields["shift"].down == pytest.approx(1 / 1.2)
    assert model.windows["shift"] == (-1.0, 1.0)
    assert model.responses[0].powers == ((1,),)


def test_negative_weights_subtract():
    """Signal plus background minus background is the signal."""
    rng = np.random.default_rng(3)
    signal, background = rng.normal(0.0, 1.0, N), rng.normal(0.5, 2.0, N // 5)
    events = {
        "y": np.concatenate([signal, background, rng.normal(0.5, 2.0, N // 5)]),
        "w": np.concatenate([np.ones(N), np.ones(N // 5), -np.ones(N // 5)]),
    }
    flow = fit_flow(events, obs=["y"], weights="w", schedule=Schedule(steps=600, learning_rate=0.03), progress=False)
    y = np.linspace(-2.0, 2.0, 11)
    exact = -0.5 * y**2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(flow.log_prob({"y": y}), exact, atol=0.15)  # 6 sigma of the subtraction at the ends


def test_same_seed_same_model_and_another_seed_another(flow):
    again = fit_flow(simulate(), obs=["y"], cond=["x"], schedule=SHORT, seed=1, progress=False)
    other = fit_flow(simulate(), obs=["y"], cond=["x"], schedule=SHORT, seed=2, progress=False)
    probe = simulate(n=100)
    np.testing.assert_allclose(again.log_prob(probe), flow.log_prob(probe), atol=1e-4)  # thread order of float32 sums
    assert np.abs(other.log_prob(probe) - flow.log_prob(probe)).max() > 1e-4


@pytest.mark.filterwarnings("ignore:.*(its map follows|would be off):UserWarning")  # of trainings that short
def test_adding_a_nuisance_changes_no_other(flow, variations):
    alone = fit_deformation(flow, variations[:1], schedule=TINY_SCHEDULE, seed=4, progress=False)
    both = fit_deformation(flow, [variations[2], variations[0]], schedule=TINY_SCHEDULE, seed=4, progress=False)
    probe, nu = simulate(n=100), {"shift": 0.8}
    np.testing.assert_allclose(both.log_prob(probe, nu=nu), alone.log_prob(probe, nu=nu), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*(its map follows|would be off):UserWarning")  # of trainings that short
def test_executor_gives_the_same_model(flow, variations):
    serial = fit_deformation(flow, variations[:3:2], schedule=TINY_SCHEDULE, seed=4, progress=False)
    with ThreadPoolExecutor(2) as executor:
        parallel = fit_deformation(flow, variations[:3:2], schedule=TINY_SCHEDULE, seed=4, executor=executor)
    probe, nu = simulate(n=100), {"shift": 0.8, "width": -0.3}
    np.testing.assert_allclose(parallel.log_prob(probe, nu=nu), serial.log_prob(probe, nu=nu), atol=1e-5)


def test_divergence_names_step_and_rate_and_keeps_nothing_that_is_no_better_than_the_start():
    events = simulate(n=2000)
    with pytest.raises(
        TrainingStopped, match=r"diverged: .* at step \d+ \(learning rate .*smaller.*Nothing was"
    ) as caught:
        fit_flow(
            events,
            obs=["y"],
            schedule=Schedule(steps=400, batch_size=128, learning_rate=1e30, warmup=400),
            progress=False,
        )
    assert caught.value.step < 400
    assert caught.value.model is None


def test_a_stopped_training_survives_the_way_from_another_process(flow):
    stopped = TrainingStopped("diverged", step=7, learning_rate=0.1)
    stopped.model = flow
    again = pickle.loads(pickle.dumps(stopped))
    assert (str(again), again.step, again.learning_rate) == ("diverged", 7, 0.1)
    probe = simulate(n=10)
    np.testing.assert_array_equal(again.model.log_prob(probe), flow.log_prob(probe))


def test_interrupt_keeps_the_best_weights(monkeypatch):
    from zfit_fnf.train import loop as optimise

    real, calls = optimise._Feed.steps, []

    def interrupted(self, count):
        calls.append(count)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(self, count)

    monkeypatch.setattr(optimise._Feed, "steps", interrupted)
    with pytest.raises(TrainingStopped, match="interrupted at step") as caught:
        fit_flow(simulate(n=2000), obs=["y"], schedule=Schedule(steps=2000, batch_size=64), progress=False)
    assert np.all(np.isfinite(caught.value.model.log_prob(simulate(n=10))))


def test_every_weight_receives_a_gradient(flow):
    u, c = tf.random.stateless_normal((64, 1), (1, 2)), tf.random.stateless_normal((64, 1), (3, 4))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(flow.log_density(u, c))
    gradients = tape.gradient(value, flow.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(np.any(gradient.numpy() != 0.0) for gradient in gradients)


def test_without_rotation_the_optimiser_is_adam():
    """Against the update written from the paper (arXiv:1412.6980), in numpy."""
    rng = np.random.default_rng(0)
    weights = tf.Variable(rng.normal(size=(4, 3)), dtype=tf.float32)
    expected, first, second = weights.numpy().astype(float), np.zeros((4, 3)), np.zeros((4, 3))
    optimiser = _Optimiser([weights], Schedule(rotate_every=0))
    for number in range(1, 6):
        gradient = rng.normal(size=(4, 3))
        optimiser.step([tf.constant(gradient, tf.float32)], tf.constant(float(number)), tf.constant(0.01))
        first, second = 0.95 * first + 0.05 * gradient, 0.95 * second + 0.05 * gradient**2
        corrected = (first / (1 - 0.95**number)) / np.sqrt(second / (1 - 0.95**number))
        expected -= 0.01 * corrected
    np.testing.assert_allclose(weights, expected, atol=1e-5)  # float32


def test_rotation_is_the_eigenbasis_of_the_gradients():
    """Gradients with a fixed covariance: the bases become its eigenvectors, and stay orthogonal."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    weights = tf.Variable(tf.zeros((4, 3)))
    optimiser = _Optimiser([weights], Schedule(rotate_every=1))
    for number in range(1, 60):
        gradient = basis @ np.diag([8.0, 4.0, 2.0, 1.0]) @ rng.normal(size=(4, 3))
        optimiser.step([tf.constant(gradient, tf.float32)], tf.constant(float(number)), tf.constant(0.01))
    left, moment = optimiser.bases[0][0].numpy(), optimiser.moments[0][0].numpy()
    np.testing.assert_allclose(left.T @ left, np.eye(4), atol=1e-5)
    rotated = left.T @ moment @ left
    off_diagonal = rotated - np.diag(np.diag(rotated))
    assert np.abs(off_diagonal).max() < 0.1 * np.diag(rotated).max()


def test_every_event_is_used_before_any_comes_again():
    rows = _Shuffler(np.arange(10), np.random.default_rng(0))
    first = np.concatenate([rows.take(4), rows.take(4), rows.take(4)])
    assert sorted(first[:10]) == list(range(10))


CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 1)], ((1, 1),)),
        ([(1, 1), (-1, -1)], ((1, 1),)),
        (CORNERS, ((1, 1), (1, 2), (2, 1), (2, 2))),
        ([*CORNERS, (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1)], ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2))),
        # One point does not tell a^3 b from a^3 b^2, and on two circles a^3 b is a b^3.
        ([*CORNERS, (0.5, 1)], ((1, 1), (1, 2), (2, 1), (2, 2))),
        ([*CORNERS, (0.5, 0.5), (-0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)], ((1, 1), (1, 2), (2, 1), (2, 2))),
    ],
)
def test_interaction_powers(points, expected):
    group = [Variation({}, at={"a": p, "b": q}) for p, q in points]
    assert interaction_powers(("a", "b"), group, {"a": 2, "b": 2}) == expected


TINY = {"y": np.array([0.1, 0.7, 0.3]), "x": np.array([1.0, 2.0, 3.0])}


@pytest.mark.parametrize(
    ("variations", "kwargs", "message"),
    [
        ([], {}, "at least one variation"),
        ([Variation(TINY, at={"a": 1, "b": 1})], {}, "need samples of a and b alone"),
        ([Variation(TINY, at={"a": 1})], {"interactions": [("a", "b")]}, "for which there are no variations"),
        (
            [Variation(TINY, at={"a": 1}), Variation(TINY, at={"b": 1})],
            {"interactions": [("a", "b")]},
            "needs joint samples",
        ),
        ([Variation(TINY, at={"a": 1}), Variation(TINY, at={"a": -1})], {"order": 3}, "order 3 needs samples of 'a'"),
        ([Variation(TINY, at={"a": 1})], {"order": 4}, "order must be from 1 to 3"),
        ([Variation(TINY, at={"a": 1, "b": 1, "c": 1})], {}, "two at a time"),
        ([Variation({"y": [1.0]}, at={"a": 1})], {}, "x"),
    ],
)
def test_bad_variations(flow, variations, kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit_deformation(flow, variations, progress=False, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 0}, "steps must be from 1"),
        ({"averaging": 1.0}, "averaging must be finite and >= 0 and < 1, got 1.0"),
        ({"validation": 0.0}, "validation"),
        ({"learning_rate": np.nan}, "learning_rate must be finite"),
        ({"learning_rate": np.inf}, "learning_rate must be finite"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"batch_size": 0}, "batch_size must be from 1"),
        ({"warmup": -5}, "warmup must be at least 0"),
    ],
)
def test_bad_schedules(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**kwargs)


def test_discrete_observables_are_refused():
    jets = {"n_jets": np.random.default_rng(0).integers(2, 8, 5000).astype(float)}
    with pytest.raises(ValueError, match="n_jets"):
        fit_flow(jets, obs=["n_jets"], progress=False)


def test_events_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="y"):
        fit_flow({"y": [0.5, 1.5, 0.2]}, obs=["y"], ranges={"y": (0, 1)}, progress=False)


def bent(n, seed, nu=0.0):
    """Events of an observable whose mean, a sine of the condition, moves by 0.3 of a width with ``nu``; and their log-density."""
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-1.0, 1.0, n), rng.normal(size=n)
    width = 0.3 + 0.2 * x
    return {"y": np.sin(2.0 * x) + width * (z + 0.3 * nu), "x": x}, -0.5 * z**2 - np.log(np.sqrt(2.0 * np.pi) * width)


def test_a_density_of_few_events_does_not_follow_single_ones():
    """The gap to the truth of 1000 events was 0.1 to 0.3 nats, as of 150 numbers or more."""
    schedule = Schedule(steps=1000, batch_size=1024)
    flow = fit_flow(bent(1000, 1)[0], obs=["y"], cond=["x"], schedule=schedule, seed=1, progress=False)
    events, truth = bent(50_000, 2)
    before = np.mean(truth - flow.log_prob(events))
    assert before < 0.05  # two smooth functions of the condition, of about five numbers each, cost 10 / 2000 = 0.005
    variations = [Variation(bent(1000, 5 + side, side)[0], at={"nu": side}) for side in (-1, 1)]
    deformation = fit_deformation(
        flow, variations, ratio=False, schedule=replace(schedule, steps=500), seed=1, progress=False
    )
    for side in (-1, 1):
        events, truth = bent(50_000, 3, side)
        assert abs(np.mean(truth - deformation.log_prob(events, nu={"nu": side})) - before) < 0.02

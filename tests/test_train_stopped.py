"""Trainings that are interrupted, whose processes die, or that diverge: what was trained is kept, and goes on."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from executors import Here

from zfit_fnf import Schedule, Variation, load, save
from zfit_fnf.densities.claims import Claim
from zfit_fnf.train import deformation as train_deformation
from zfit_fnf.train import fit_deformation, fit_flow
from zfit_fnf.train import loop as optimise
from zfit_fnf.train.choice import Choice
from zfit_fnf.train.schedule import TrainingStopped
from zfit_fnf.train.score_correction import NoMaximum

SCHEDULE = Schedule(steps=200, batch_size=64, rotate_every=0, patience=None)  # validated every ten steps
SETTINGS = {"schedule": SCHEDULE, "hidden": (3,), "seed": 2, "progress": False}
NOMINAL = {"y": np.random.default_rng(0).normal(size=2000), "x": np.random.default_rng(9).normal(size=2000)}
NU = {"a": 0.7, "b": -0.4, "c": 0.2}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # short trainings learn little


def moved(seed, shift):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=2000)
    return {"y": rng.normal(size=2000) + shift * (1.0 + 0.3 * x), "x": x}


VARIATIONS = [Variation(moved(i, 0.4), at={name: 1}) for i, name in enumerate("abc", 1)]
VARIATIONS.append(Variation(moved(4, 0.8), at={"a": 1, "b": 1}))


@pytest.fixture(scope="module", autouse=True)
def _without_what_comes_after():
    """Score corrections and judgements come after each training, and take longer than these do."""
    kept = Choice(Claim("map", 0.0, 0.0, 0.0), keep_map=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_deformation, "choose", lambda *_, **__: kept)
        patch.setattr(train_deformation, "correct_score", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def flow():
    return fit_flow(NOMINAL, obs=["y"], cond=["x"], n_components=2, **SETTINGS)


@pytest.fixture(scope="module")
def whole(flow):
    return fit_deformation(flow, VARIATIONS, **SETTINGS)


def interrupt(monkeypatch, at_call):
    """A KeyboardInterrupt instead of the minibatches of a certain call."""
    real, calls = optimise._Feed.steps, []

    def steps(self, count):
        calls.append(count)
        if len(calls) == at_call:
            raise KeyboardInterrupt
        return real(self, count)

    monkeypatch.setattr(optimise._Feed, "steps", steps)


def same(one, other):
    np.testing.assert_allclose(one.log_prob(NOMINAL, nu=NU), other.log_prob(NOMINAL, nu=NU), atol=1e-5)


def test_an_interrupted_flow_keeps_its_best_weights(monkeypatch):
    interrupt(monkeypatch, 8)
    with pytest.raises(
        TrainingStopped, match=r"p\(y\) was interrupted at step 70 of 200\. The best .*of step"
    ) as caught:
        fit_flow(NOMINAL, obs=["y"], n_components=2, **SETTINGS)
    stopped = caught.value
    assert stopped.step == 70
    assert 0 < stopped.model.history.best_step <= 70
    assert stopped.model.history.interrupted
    u = stopped.model.encode(NOMINAL["y"][:, None], np.zeros((2000, 0)))[0]
    loss = -np.mean(stopped.model.log_density(u, np.zeros((2000, 0))))
    assert loss < stopped.model.history.initial - 0.01


@pytest.mark.parametrize(("at_call", "model"), [(1, type(None)), (2, object)])
def test_a_flow_that_has_learned_nothing_is_not_kept(monkeypatch, at_call, model):
    interrupt(monkeypatch, at_call)
    with pytest.raises(TrainingStopped, match="interrupted") as caught:
        fit_flow(NOMINAL, obs=["y"], n_components=2, **SETTINGS)
    assert isinstance(caught.value.model, model)


@pytest.mark.parametrize(
    ("at_call", "ready", "kept"),
    [
        (11, [], ("a",)),  # of the first one: its best weights
        (21, ["a"], ("a",)),  # before the second has learned anything
        (35, ["a"], ("a", "b")),
        (65, ["a", "b", "c"], ("a", "b", "c")),
    ],
)
def test_an_interrupted_deformation_goes_on(monkeypatch, tmp_path, flow, whole, at_call, ready, kept):
    with monkeypatch.context() as patch:
        interrupt(patch, at_call)
        with pytest.raises(TrainingStopped, match=r"trained=stopped\.model") as caught:
            fit_deformation(flow, VARIATIONS, **SETTINGS)
    partial = caught.value.model
    assert partial.nuisances == kept
    assert [name for name, history in partial.history.items() if not history.interrupted][: len(ready)] == ready
    save(partial, tmp_path / "partial.fnf")
    calls = []
    monkeypatch.setattr(
        train_deformation,
        "train_response",
        lambda task, real=train_deformation.train_response: calls.append(task) or real(task),
    )
    again = fit_deformation(flow, VARIATIONS, trained=load(tmp_path / "partial.fnf"), **SETTINGS)
    same(again, whole)
    assert list(again.history) == list(whole.history)
    assert len(calls) == 4 - len(ready)
    assert not any(history.interrupted for history in again.history.values())


def test_nothing_to_keep(monkeypatch, flow):
    interrupt(monkeypatch, 1)
    with pytest.raises(TrainingStopped, match="Nothing had been trained yet") as caught:
        fit_deformation(flow, VARIATIONS, **SETTINGS)
    assert caught.value.model is None


class Dying(Executor):
    """Runs some calls in this process, and then fails as a pool does whose processes have died, or the user interrupts."""

    def __init__(self, lives: int, error: BaseException):
        self.lives, self.error = lives, error

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        if self.lives:
            self.lives -= 1
            future.set_result(function(*args, **kwargs))
        else:
            future.set_exception(self.error)
        return future


def test_a_map_that_cannot_be_placed_leaves_it_to_the_log_ratio(monkeypatch, flow):
    """Where many weights are negative, a likelihood need not have a maximum."""

    def fail(*_):
        raise NoMaximum("it cannot be placed")

    seen, nothing = [], Choice(Claim("pruned", 0.0, 0.0, 0.0))
    monkeypatch.setattr(train_deformation, "correct_score", fail)
    monkeypatch.setattr(
        train_deformation, "choose", lambda candidates, **_: seen.append(candidates.with_map) or nothing
    )
    deformation = fit_deformation(flow, VARIATIONS[:1], **SETTINGS)
    assert seen == [None]
    assert deformation.history["a"].notes == ["no map: it cannot be placed"]
    assert not deformation.moves
    with pytest.raises(TrainingStopped, match='it cannot be placed; map="auto" learns a log-ratio in its place'):
        fit_deformation(flow, VARIATIONS[:1], map=True, **SETTINGS)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BrokenProcessPool("abruptly"), r"a process has died, perhaps for lack of memory \(abruptly\)"),
        (KeyboardInterrupt(), "the training was interrupted"),
        (MemoryError("no room"), "the training failed: MemoryError: no room"),
    ],
)
def test_what_an_executor_has_done_is_kept(flow, whole, error, message):
    with pytest.raises(TrainingStopped, match=message + r"\. What is ready \(a, b\)") as caught:
        fit_deformation(flow, VARIATIONS, executor=Dying(2, error), **SETTINGS)
    assert caught.value.model.nuisances == ("a", "b")
    same(fit_deformation(flow, VARIATIONS, trained=caught.value.model, executor=Here(), **SETTINGS), whole)


def test_what_is_ready_behind_a_failure_is_kept(flow):
    """The second training diverges; the third one, which was done at the same time, is not lost."""
    real, broken = train_deformation.train_response, TrainingStopped("diverged", step=3, learning_rate=0.5)

    class Failing(Dying):
        def submit(self, function, task):
            future = Future()
            if task.response.nuisances == ("b",):
                future.set_exception(broken)
            else:
                future.set_result(real(task))
            return future

    with pytest.raises(TrainingStopped, match=r"diverged\. What is ready \(a, c\)") as caught:
        fit_deformation(flow, VARIATIONS, executor=Failing(0, broken), **SETTINGS)
    assert (caught.value.step, caught.value.learning_rate) == (3, 0.5)
    assert caught.value.model.nuisances == ("a", "c")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.model.nuisances == ("a", "c")


def test_records_of_trainings_go_where_models_go(whole):
    for again in (pickle.loads(pickle.dumps(whole)), copy.deepcopy(whole)):
        assert again.history == whole.history
        assert str(again.history) == str(whole.history)
        assert again.flow.history == whole.flow.history


def test_a_nuisance_is_added_to_a_deformation(flow, whole):
    alone = fit_deformation(flow, VARIATIONS[:1], **SETTINGS)
    same(fit_deformation(flow, VARIATIONS, trained=alone, **SETTINGS), whole)


def test_responses_that_do_not_fit_are_not_kept(flow, whole):
    other = fit_flow(NOMINAL, obs=["y"], cond=["x"], n_components=2, **SETTINGS | {"seed": 3})
    with pytest.raises(ValueError, match="a deformation of another flow"):
        fit_deformation(other, VARIATIONS, trained=whole, **SETTINGS)
    with pytest.raises(ValueError, match=r"has a response to \('b',\)"):
        fit_deformation(flow, VARIATIONS[:1], trained=whole, **SETTINGS)
    down = Variation(moved(7, -0.4), at={"a": -1})
    with pytest.raises(ValueError, match=r"with the monomials \(\(1,\),\)"):
        fit_deformation(flow, [*VARIATIONS, down], trained=whole, **SETTINGS)

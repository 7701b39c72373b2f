"""What a record of a training says, and that its figures belong together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from zfit_fnf.densities.claims import Claim
from zfit_fnf.densities.history import Histories, History, problems_of

SOUND = History(
    "jes",
    [10, 20, 30, 40],
    [1.5, 1.4, 1.3, 1.2],
    [1.4, 1.3, 1.25, 1.2504],
    best_step=40,
    n_events=9000,
    effective_size=8000.0,
    seconds=3.5,
    initial=1.5,
)


def test_step_and_log_density_belong_to_one_point():
    """The weights of step 40 were kept, although the loss of step 30 was smaller by less than its error."""
    assert SOUND.best_validation == 1.2504
    assert SOUND.gain == pytest.approx(0.2496)
    assert "log-density -1.25040 nats/event at step 40 of 40" in str(SOUND)
    assert SOUND.problems == []
    assert replace(SOUND, best_step=20).best_validation == 1.3
    assert replace(SOUND, best_step=0).best_validation == 1.5


def test_records_of_several_trainings_print_as_a_table():
    histories = Histories({"jes": SOUND, "a long name": replace(SOUND, name="a long name", effective_size=500.0)})
    header, first, second, problem = str(histories).splitlines()
    assert header.split() == ["events", "effective", "log-density", "gain", "kept", "step", "seconds"]
    assert first.split() == ["jes", "9000", "8000", "-1.25040", "0.25", "40/40", "4"]
    assert second.startswith("a long name")
    assert len(second) == len(first) == len(header)
    assert problem == "a long name: only 500 effective events"
    assert problems_of(histories) == [problem]
    assert repr(histories) == str(histories)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"best_step": 0}, "never better than its start"),
        ({"initial": 1.2}, "never better than its start"),
        ({"validation": [1.4, 1.3, 1.25, 1.2]}, "still improving at its end, by 0.05"),
        ({"effective_size": 99.0}, "only 99 effective events"),
        ({"n_events": 10**6, "effective_size": 50_000.0}, "1000000 events count like 50000"),
        ({"interrupted": True}, "interrupted after step 40"),
    ],
)
def test_what_went_wrong_is_told(change, problem):
    wrong = replace(SOUND, **change)
    assert len(wrong.problems) == 1
    assert problem in wrong.problems[0]
    assert wrong.problems[0] in str(wrong)


@pytest.mark.parametrize(("kind", "told"), [("map", True), ("both", True), ("ratio", False), ("pruned", False)])
def test_a_map_that_is_not_kept_need_not_learn(kind, told):
    record = replace(SOUND, best_step=0, claim=Claim(kind, 0.0, 0.0, 0.0))
    assert any("never better" in problem for problem in record.problems) is told


def test_old_records_do_not_know_their_start():
    old = replace(SOUND, initial=None)
    assert math.isnan(old.gain)
    assert old.problems == []
    assert "nan" in str(Histories({"jes": old}))


def test_untrained():
    assert str(History("jes", n_events=2000, effective_size=2000.0)) == "jes: not trained; 2000 events (effective 2000)"
    few = History("jes", n_events=10, effective_size=10.0, claim=Claim("ratio", 0.1, 0.1, 0.0, lost=1e-3))
    assert "only 10 effective events" in str(few)
    assert "its log-ratio is too fine" in str(few)
    assert "not trained" in str(Histories({"jes": History("jes")}))


@pytest.mark.parametrize("change", [{"steps": [10]}, {"training": []}, {"best_step": 15}])
def test_figures_that_do_not_belong_together(change):
    with pytest.raises(ValueError, match="the history of 'jes' has"):
        replace(SOUND, **change)

"""The code in the README and on the getting-started page runs as it stands, only with shorter trainings."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from test_examples import load

from zfit_fnf import limits, train

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def in_a_hurry(monkeypatch, tmp_path):
    """An empty working directory, trainings of 40 steps, and small Asimov sets."""
    monkeypatch.chdir(tmp_path)
    schedule = train.Schedule(steps=40, batch_size=512, warmup=10, averaging=0.9)
    monkeypatch.setattr(train, "Schedule", lambda **_: schedule)
    monkeypatch.setattr(limits, "upper_limit", functools.partial(limits.upper_limit, n_asimov=5000))


def run(page: str) -> dict:
    blocks = CODE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    return namespace


def check(names: dict) -> None:
    """The fit has converged, and found a signal of the size that was simulated."""
    fitted = names["result"].params[names["mu"]]
    assert names["result"].valid
    assert 0.02 < fitted["hesse"]["error"] < 0.3
    # Trainings this short leave errors in the densities that are larger than those of the fit.
    assert 0.4 < fitted["value"] < 2.0


def test_readme(in_a_hurry):
    load("quickstart").simulate(Path(), events=10_000, seed=1)
    check(run("README.md"))


def test_getting_started(in_a_hurry):
    names = run("docs/getting_started.md")
    check(names)
    assert list(names["limit"].expected) == sorted(names["limit"].expected)
    assert Path("y1.png").stat().st_size > 10_000

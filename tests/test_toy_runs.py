"""Runs of toys that are interrupted, continued and shared."""

from __future__ import annotations

import json

import zfit
import numpy as np
import pytest

from zfit_fnf.loss import NLL, counting
from zfit_fnf.toys import fit_toys, run


def experiment(n: int = 50, background: float = 40.0) -> NLL:
    mu = zfit.Parameter("mu", 10.0, -30.0, 200.0, stepsize=0.1)
    return counting(zfit.ComposedParameter("total", lambda s: s + background, params=[mu]), n, name="region")


def test_a_run_goes_on_where_it_was_and_counts_nothing_twice(tmp_path):
    nll, folder = experiment(), tmp_path / "toys"
    whole = fit_toys(nll, 60, seed=2, progress=False)
    run(nll, 50, seed=2, out=folder, progress=False)
    files = sorted(folder.iterdir())
    files[0].unlink()  # that of a worker that was killed
    before = files[1].stat().st_mtime_ns
    (folder / ".toys_0000000_0000025.json.0123abcd.part").write_text("{")  # and what it had begun to write
    continued = run(nll, 60, seed=2, out=folder, progress=False)
    np.testing.assert_array_equal(continued.values, whole.values)
    np.testing.assert_array_equal(continued.errors, whole.errors)
    assert files[1].stat().st_mtime_ns == before
    assert len(list(folder.glob("toys_*.json"))) == 3


def test_toys_of_something_else_are_refused(tmp_path):
    run(experiment(), 2, seed=2, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="give another folder"):
        run(experiment(), 2, seed=3, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="of another likelihood"):
        run(experiment(background=50.0), 2, seed=2, out=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({"seed": 2}))
    with pytest.raises(ValueError, match="is no block of toys"):
        run(experiment(), 2, seed=2, out=tmp_path, progress=False)

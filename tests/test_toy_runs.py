"""Runs of toys that are interrupted, continued and shared."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

import zfit
import numpy as np
import pytest
from executors import Here

from zfit_fnf.common.parallel import WorkerDied
from zfit_fnf.loss import NLL, counting
from zfit_fnf.toys import fit_toys, run
from zfit_fnf.yields import modified_yield


def experiment(n: int = 50, expected: float = 40.0) -> NLL:
    mu = zfit.Parameter("mu", 1.0, 0.0, 20.0, stepsize=0.1)
    return counting(modified_yield(expected, [mu]), n, name="region")


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
        run(experiment(expected=50.0), 2, seed=2, out=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({"seed": 2}))
    with pytest.raises(ValueError, match="is no block of toys"):
        run(experiment(), 2, seed=2, out=tmp_path, progress=False)


def test_toys_of_other_limits_are_refused(tmp_path):
    """The first toy is the same with both; others end at a limit that was not there."""
    nll = experiment(expected=4.0)
    run(nll, 25, seed=2, out=tmp_path, progress=False)
    (mu,) = nll.get_params()
    mu.lower = 0.9
    with pytest.raises(ValueError, match=r"has toys of .*'limits': {'mu': \['0.0', '20.0'\]}.*, not of .*'0.9'"):
        run(nll, 50, seed=2, out=tmp_path, progress=False)


def test_toys_are_the_same_whoever_does_them():
    nll, executor = experiment(), Here()
    shared = run(nll, 30, seed=2, executor=executor, progress=False)
    assert executor.calls == 2
    np.testing.assert_array_equal(shared.values, fit_toys(nll, 30, seed=2, progress=False).values)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_that_is_killed_loses_nothing_that_was_done(tmp_path):
    nll, context = experiment(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        run(nll, 25, seed=2, out=tmp_path, executor=pool, progress=False)
        os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(WorkerDied):
            run(nll, 500, seed=2, out=tmp_path, executor=pool, progress=False)
    assert (tmp_path / "toys_0000000_0000025.json").exists()
    continued = run(nll, 50, seed=2, out=tmp_path, progress=False)
    # Another process may round sums in another order.
    np.testing.assert_allclose(continued.values, fit_toys(nll, 50, seed=2, progress=False).values, atol=1e-6)

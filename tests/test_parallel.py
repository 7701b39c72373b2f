"""Processes beside this one: they end with it, and unguarded scripts get an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from executors import Here

from zfit_fnf.common import parallel

SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
import parallel

if __name__ == "__main__":
    with parallel.workers(1) as pool:
        import os
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user's own choice
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    with parallel.workers(2) as pool:
        names = ["OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"]
        assert [pool.submit(os.getenv, name).result() for name in names] == ["5", "3"]
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "TF_NUM_INTRAOP_THREADS" not in os.environ


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_workers_end_with_their_parent(end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(parallel.__file__).parent)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert is_alive(worker)
        parent.send_signal(getattr(signal, end))
        parent.wait()
        # The worker holds the other end of the pipe, which closes when it ends; it would sleep for ten minutes.
        parent.stdout.read()
    for _ in range(100):
        if not is_alive(worker):
            break
        time.sleep(0.05)
    assert not is_alive(worker)


@pytest.mark.parametrize("source", ["run()", 'if __name__ == "__main__":\n    run()'])
def test_scripts_need_a_guard(source, tmp_path, monkeypatch):
    script = tmp_path / "analysis.py"
    script.write_text(source)
    main = types.ModuleType("__main__")
    main.__file__, main.__spec__ = str(script), None
    monkeypatch.setitem(sys.modules, "__main__", main)
    if "__name__" in source:
        parallel._check_script()
    else:
        with pytest.raises(RuntimeError, match=r"analysis\.py' starts processes, each of which imports it: put what"):
            parallel._check_script()


def reciprocal(number):
    return 1 / number


class Never(Executor):
    """Never starts what it is given."""

    def submit(self, function, /, *args, **kwargs):
        return Future()


@pytest.mark.parametrize("executor", [None, Here(), ThreadPoolExecutor(2)], ids=["none", "here", "threads"])
def test_every_task_has_its_result(executor):
    assert dict(parallel.run(reciprocal, [1, 2, 4], executor=executor)) == {1: 1.0, 2: 0.5, 4: 0.25}
    assert dict(parallel.run(reciprocal, [], executor=executor)) == {}


def test_tasks_are_done_here_when_their_results_are_asked_for():
    done = parallel.run(reciprocal, [1, 0])
    assert next(done) == (1, 1.0)
    with pytest.raises(ZeroDivisionError):
        next(done)


def test_results_behind_a_failure_are_kept():
    kept = []
    with pytest.raises(RuntimeError, match="out of memory"):
        kept.extend(parallel.run(reciprocal, [0, 1, 2], executor=Here(fails_at=1)))
    assert sorted(kept) == [(1, 1.0), (2, 0.5)]


def test_an_executor_that_takes_no_more_tasks_has_done_some():
    class Dying(Here):
        def submit(self, function, /, *args, **kwargs):
            if self.calls == 2:
                raise BrokenProcessPool("abruptly")
            return super().submit(function, *args, **kwargs)

    kept = []
    with pytest.raises(parallel.WorkerDied, match=r"a process has died, perhaps for lack of memory \(abruptly\)"):
        kept.extend(parallel.run(reciprocal, [1, 2, 4], executor=Dying()))
    assert sorted(kept) == [(1, 1.0), (2, 0.5)]


def test_what_is_not_wanted_any_more_is_not_started():
    futures = []

    class Recording(Never):
        def submit(self, function, /, *args, **kwargs):
            futures.append(super().submit(function) if futures else Here().submit(function, *args, **kwargs))
            return futures[-1]

    results = parallel.run(reciprocal, [1, 2], executor=Recording())
    assert next(results) == (1, 1.0)
    results.close()
    assert futures[1].cancelled()


def test_an_interruption_loses_no_result(monkeypatch):
    def interrupted(futures):
        yield next(iter(futures))
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "as_completed", interrupted)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        kept.extend(parallel.run(reciprocal, [1, 2], executor=Here()))
    assert kept == [(1, 1.0), (2, 0.5)]


def test_what_is_no_executor_is_refused():
    with pytest.raises(TypeError, match=r"executor= is one of concurrent\.futures or the like, got a int"):
        parallel.run(reciprocal, [1], executor=4)

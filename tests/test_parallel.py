"""Processes beside this one: they end with it, and scripts that cannot have them are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

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

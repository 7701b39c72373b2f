"""Python processes that work beside this one."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def workers(n: int) -> Iterator[Executor]:
    """An executor with a process for each of ``n`` tasks, but not more than there are cores; at its end none is left.

    They end with this process too, however that ends.

    Args:
        n: Number of tasks, at least one.

    Yields:
        The executor.

    Raises:
        RuntimeError: If the script that runs would run anew in each process.
    """
    _check_script()
    # Forked processes would inherit TensorFlow's threads, which do not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(n, os.cpu_count() or 1), mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # whatever is computed: nobody waits for it


def _check_script() -> None:
    """New processes import the script that runs, unless it is a module or typed in."""
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if script is None or getattr(main, "__spec__", None) is not None:
        return
    try:
        guarded = "__name__" in Path(script).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # not a script that could be looked at
        return
    if not guarded:
        raise RuntimeError(
            f'{script!r} starts processes, each of which imports it: put what it does under if __name__ == "__main__":'
        )

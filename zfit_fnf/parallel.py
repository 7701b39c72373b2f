"""Python processes that work beside this one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def workers(n: int) -> Iterator[Executor]:
    """An executor with a process for each of ``n`` tasks, but not more than there are cores; at its end none is left.

    Args:
        n: Number of tasks, at least one.

    Yields:
        The executor.
    """
    # Forked processes would inherit TensorFlow's threads, which do not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(n, os.cpu_count() or 1), mp_context=context)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

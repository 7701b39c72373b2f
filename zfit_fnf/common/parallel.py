"""Work for other processes: the only place that knows futures."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["Executor", "WorkerDied", "check_executor", "run", "workers"]

_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")  # of linear algebra, of TensorFlow

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerDied(RuntimeError):
    """A process has died while it worked on a task."""


def run(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    executor: Executor | None = None,
    progress: str = "",
) -> Iterator[tuple[Task, Result]]:
    """Each task with the result that a function has for it, as soon as that is known.

    After a failure no further task is started. Results of the tasks that are at work still come; then the exception is
    raised. If whoever takes the results stops, or is interrupted, the tasks that have not been started are dropped.

    Args:
        function: What is to be done; for other processes a function that can be pickled.
        tasks: Its arguments.
        executor: Who does it, an executor like those of ``concurrent.futures``, for instance of `workers`; it has the tasks at
            once. By default it is done here, one task after the other, when its result is asked for.
        progress: Text of a progress bar; none is shown without.

    Yields:
        Pairs of a task and its result, in the order in which they are done.

    Raises:
        WorkerDied: If a process died.
        Exception: The first one that the function has raised.

    Example:
        >>> dict(run(abs, [-1, 2]))
        {-1: 1, 2: 2}
    """
    tasks = list(tasks)
    if executor is None:
        return ((task, function(task)) for task in tqdm(tasks, desc=progress, disable=not progress))
    check_executor(executor)
    futures: dict[Future[Result], Task] = {}
    failure: BaseException | None = None
    try:
        for task in tasks:
            futures[executor.submit(function, task)] = task
    except (KeyboardInterrupt, Exception) as error:  # a pool whose processes have died takes no more tasks
        failure = error
    return _results(futures, failure, progress)


def check_executor(executor: object) -> None:
    """Refuse what cannot be given tasks.

    Raises:
        TypeError: If it has no method ``submit``.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor= is one of concurrent.futures or the like, got a {type(executor).__name__}")


def _results(
    futures: dict[Future[Result], Task], failure: BaseException | None, progress: str
) -> Iterator[tuple[Task, Result]]:
    left = dict(futures)
    try:
        if failure:
            _cancel(futures)
        for future in tqdm(as_completed(futures), total=len(futures), desc=progress, disable=not progress):
            task = left.pop(future)
            if future.cancelled():
                continue
            if error := future.exception():
                failure = failure or error
                _cancel(futures)
            else:
                yield task, future.result()
    except KeyboardInterrupt as interrupt:
        failure = interrupt
        for future, task in left.items():
            if future.done() and not future.cancelled() and not future.exception():
                yield task, future.result()
    finally:
        _cancel(futures)
    if isinstance(failure, BrokenExecutor):
        raise WorkerDied(f"a process has died, perhaps for lack of memory ({failure})") from failure
    if failure:
        raise failure


def _cancel(futures: Iterable[Future[Result]]) -> None:
    for future in futures:
        future.cancel()


@contextmanager
def workers(n: int) -> Iterator[Executor]:
    """An executor with a process for each of ``n`` tasks, but not more than there are cores; at its end none is left.

    They end with this process too, however that ends. They have the cores to themselves: this process should not compute
    meanwhile.

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
    cores = os.cpu_count() or 1
    # Threads in more processes than there are cores for would wait for one another.
    threads = dict.fromkeys(_THREADS, str(max(1, cores // n)))
    own = {name: os.environ[name] for name in threads if name in os.environ}
    os.environ.update({**threads, **own})  # read by each process when it starts
    pool = ProcessPoolExecutor(min(n, cores), mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name in threads.keys() - own.keys():
            del os.environ[name]


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

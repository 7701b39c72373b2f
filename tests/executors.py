"""Executors without processes."""

from __future__ import annotations

from concurrent.futures import Executor, Future


class Here(Executor):
    """Runs everything at once, in this process; can fail at one of the calls."""

    def __init__(self, fails_at: int | None = None):
        self.calls, self._fails_at = 0, fails_at

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        self.calls += 1
        if self.calls == self._fails_at:
            future.set_exception(RuntimeError("out of memory"))
        else:
            future.set_result(function(*args, **kwargs))
        return future

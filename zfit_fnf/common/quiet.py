"""TensorFlow without notes on what it was built for, which it prints when it is loaded."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["load_tensorflow_quietly", "without_notes"]

_SEVERITIES = "IWE"  # information, warnings, errors: what TF_CPP_MIN_LOG_LEVEL = 1, 2, 3 hides


def load_tensorflow_quietly() -> None:
    """Let the next import of TensorFlow hide what the variable ``TF_CPP_MIN_LOG_LEVEL`` says that it hides; default all.

    From version 2.19 on, TensorFlow does not look at the variable before its libraries have been loaded, and they tell of
    oneDNN and of missing drivers while they are. A user who wants to see that sets it to 0, or
    ``ZFIT_DISABLE_TF_WARNINGS`` as for zfit.
    """
    shown = os.environ.get("ZFIT_DISABLE_TF_WARNINGS", "1") == "0"
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if shown else "3")
    os.environ.setdefault("ZFIT_DISABLE_TF_WARNINGS", "1")  # else zfit warns that it hides warnings
    if level in ("1", "2", "3") and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder(_SEVERITIES[: int(level)]))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as everything else is found, once, and has its import filtered."""

    def __init__(self, severities: str):
        self._severities = severities

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with without_notes(self._severities):
                    execute(module)

            loader.exec_module = exec_module
        return spec


@contextmanager
def without_notes(severities: str) -> Iterator[None]:
    """Nothing of these severities in what libraries log to the standard error; everything else comes at the end.

    Args:
        severities: Their initials, such as ``"IW"``.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as file:
        _flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            os.write(2, _filtered(file.read(), severities))


def _filtered(logged: bytes, severities: str) -> bytes:
    initial = f"[{severities}]".encode()
    note = re.compile(
        rb"(%b\d{4} |\d{4}-\d\d-\d\d [\d:.]+: %b )|WARNING: All log messages before absl::|To enable the following instr"
        % (initial, initial)
    )
    return b"".join(line for line in logged.splitlines(keepends=True) if not note.match(line))


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()

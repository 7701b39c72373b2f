"""Results of fits in files: JSON with what they are, the versions that made them, and the workspace they belong to."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..common.files import complete
from .registry import class_of

__all__ = ["holds_result", "is_result", "load_result", "plain", "read_envelope", "save_result", "versions"]

FORMAT = 1
"""Of the files."""

_MARK = "zfit_fnf result"
_LARGEST = 2**28  # bytes
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}
_PACKAGES = ("zfit", "tensorflow", "iminuit", "numpy", "scipy")


def _arrays(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {**content, **{name: np.array(content[name], float) for name in names}}


def _contour(content: dict[str, Any]) -> dict[str, Any]:
    tuples = {name: tuple(content[name]) for name in ("parameters", "titles")}
    tuples["best_fit"] = tuple(map(_number, content["best_fit"]))
    grids = tuple(np.array(one, float) for one in content["values"])
    return {**content, **tuples, "values": grids, "delta": np.array(content["delta"], float)}


def _with_pool(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The same, with what the pool is worth as an object, or without it: files of toys without a pool have nothing, or null."""
    known = content.get("pool")
    pool = {"pool": class_of(name)(**known)} if isinstance(known, dict) else {}
    return {key: value for key, value in content.items() if key != "pool"} | pool


def _limit(content: dict[str, Any]) -> dict[str, Any]:
    scan = _pandas().DataFrame(content["scan"], dtype=float).set_index(content["poi"])
    expected = tuple(map(_number, content["expected"]))
    return {**_with_pool(content, "limits.results.PoolWorth"), "expected": expected, "scan": scan}


def _limit_scan(content: dict[str, Any]) -> dict[str, Any]:
    table = _pandas().DataFrame(content["table"], dtype=float).set_index("at").rename_axis(None)
    return {**content, "table": table, "titles": tuple(content["titles"])}


def _region(content: dict[str, Any]) -> dict[str, Any]:
    names = {name: tuple(content[name]) for name in ("pois", "best_fit")}
    known = _with_pool(content, "limits.results.PoolWorth")
    return {**known, **names, "table": _pandas().DataFrame(content["table"])}


def _impacts(content: dict[str, Any]) -> dict[str, Any]:
    frame = _pandas().DataFrame.from_dict
    return {**content, **{name: frame(content[name], orient="index", dtype=float) for name in ("table", "groups")}}


def _toys(content: dict[str, Any]) -> dict[str, Any]:
    pd = _pandas()
    index = pd.RangeIndex(len(content["valid"]), name="toy")
    tables = {name: pd.DataFrame(content[name], index=index, dtype=float) for name in ("values", "errors")}
    return {**_with_pool(content, "toys.fits.PoolReport"), **tables, "valid": np.array(content["valid"], bool)}


def _validation(content: dict[str, Any]) -> dict[str, Any]:
    texts = {name: tuple(content[name]) for name in ("problems", "untested")}
    names = ["process", "point", "test", "of", "value", "p_value", "problem"]  # also where there are no tests
    table = _pandas().DataFrame(content["tests"], columns=None if content["tests"] else names)
    numbers = table.columns.intersection(["value", "p_value", "taught_by", "seen"])
    return {
        **texts,
        "table": table.astype(dict.fromkeys(numbers, float)),
        "level": content["level"],
        "n_data": content["n_data"],
    }


def _yields(content: dict[str, Any]) -> dict[str, Any]:
    table = _pandas().DataFrame(content["rows"]).set_index(["channel", "process"])
    return {"table": table.astype(float)}


_KINDS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]] | None]] = {
    "fit": ("results.FitSummary", None),
    "profile": ("scans.profile_scans.ProfileScan", _arrays("values", "delta")),
    "contour": ("scans.profile_scans.ContourScan", _contour),
    "impacts": ("scans.nuisance_impacts.Impacts", _impacts),
    "limit": ("limits.results.LimitResult", _limit),
    "limits": ("limit_scans.LimitScan", _limit_scan),
    "region": ("limits.feldman_cousins.FeldmanCousins", _region),
    "significance": ("limits.results.DiscoveryResult", dict),
    "toys": ("toys.fits.ToyFits", _toys),
    "yields": ("yield_tables.YieldTable", _yields),
    "validation": ("diagnostics.verdict.ValidationReport", _validation),
}
"""Classes of results by their kind, and what makes their arguments of what JSON holds."""


def is_result(model: Any) -> bool:
    """Whether something is the result of a fit, a scan, a limit or the like."""
    return _kind(model) is not None


def save_result(
    result: Any, path: str | os.PathLike[str], *, workspace: Mapping[str, str] | None = None, **more: Any
) -> None:
    """Write a result to a JSON file, completely or not at all.

    Args:
        result: The result.
        path: The file.
        workspace: Name and checksum of the workspace it belongs to.
        more: What else is to be kept beside it.

    Raises:
        TypeError: If it is no such result.
    """
    kind, target = _kind(result), Path(path)
    if kind is None:
        raise TypeError(f"a {type(result).__name__} is no result of a fit")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} into")
    if kind == "fit" and not hasattr(result, "to_dict"):
        result = class_of(_KINDS["fit"][0]).of(result)
    content = {
        "type": _MARK,
        "format": FORMAT,
        "kind": kind,
        "versions": versions(),
        "workspace": dict(workspace or {}),
        **more,
        "content": result.to_dict(),
    }
    with complete(target) as draft:
        draft.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def holds_result(path: Path) -> bool:
    """Whether a JSON file says that it holds a result."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("type") == _MARK


def load_result(path: str | os.PathLike[str]) -> Any:
    """Read a result from a file that `save_result` has written.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file.
    """
    envelope = read_envelope(path)
    name, arguments = _KINDS[envelope["kind"]]
    cls, content = class_of(name), envelope["content"]
    try:
        if arguments is None:
            return cls.from_dict(content)
        given = {key: math.nan if value is None else value for key, value in arguments(content).items()}
        return cls(**given)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error!r}") from error


def read_envelope(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything in a file of a result: its kind, versions, workspace and content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {str(source)!r}")
    if source.stat().st_size > _LARGEST:
        raise ValueError(f"{str(source)!r} has more than {_LARGEST} bytes")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(source)!r} is no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("type") != _MARK or not isinstance(content.get("content"), dict):
        raise ValueError(f"{str(source)!r} is no result that zfit_fnf has written")
    if content.get("format") != FORMAT or content.get("kind") not in _KINDS:
        raise ValueError(
            f"{str(source)!r} has format {content.get('format')!r} and kind {content.get('kind')!r}; this version of "
            f"zfit_fnf reads format {FORMAT}, and the kinds {list(_KINDS)}"
        )
    return {**content, "content": _numbers(content["content"])}


def versions() -> dict[str, str]:
    """Versions of the packages that determine the numbers."""
    installed = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"zfit_fnf": __version__, "python": platform.python_version(), **installed}


def _kind(result: Any) -> str | None:
    package = __name__.partition(".")[0]
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(result).__mro__}
    if any(name.startswith("zfit.") and name.endswith(".FitResult") for name in names):
        return "fit"
    return next((kind for kind, (name, _) in _KINDS.items() if f"{package}.{name}" in names), None)


def _pandas() -> Any:
    """Imported where it is used: model files need none."""
    return importlib.import_module("pandas")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """What JSON can hold of plain values and arrays: numbers that are none become null, and infinite ones texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    return value


def _numbers(value: Any) -> Any:
    """What `plain` was given, but for numbers that are none."""
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return _INFINITE.get(value, value) if isinstance(value, str) else value

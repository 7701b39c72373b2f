"""Models in files: writing, reading and verifying them.

A model file is a safetensors file (https://github.com/huggingface/safetensors): named arrays behind a header, any tool
can read it. Its metadata contain the manifest, a JSON document that says what the arrays are (:mod:`zfit_fnf.storage.schema`;
the page "The model file" of the documentation specifies it). Reading executes nothing that is in the file, and checks
everything before it makes anything: limits on sizes, then the schema, then shapes and checksums, then the arguments.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialised

from .. import __version__
from ..common.files import complete
from .registry import entry_of, entry_type
from .results import is_result, load_result, save_result
from .schema import FORMAT, Entry, Manifest, Parts, Tensor

__all__ = ["MAX_COMMAS", "MAX_FILE", "MAX_HEADER", "MAX_MANIFEST", "ModelFile", "inspect", "load", "printable", "save"]

MAX_MANIFEST = 2**23
"""Bytes that a manifest may have; enough for a deformation of fifteen hundred responses."""

MAX_COMMAS = 2**18
"""Commas that a manifest may have, which bound the number of its values and with it the memory to parse them."""

MAX_FILE = 2**29
"""Bytes that a file may have, all of which are read and verified."""

MAX_HEADER = 2 * MAX_MANIFEST
"""Bytes that the header of a file may have, which contains the manifest."""

_LONGEST = 1500  # characters of an error
_KEY = "zfit_fnf"  # of the metadata
_DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32}
_NUMBERS = (int, float, np.integer, np.floating)
_PACKAGES = ("numpy", "tensorflow", "tensorflow-probability")


def save(model: Any, path: str | os.PathLike[str], *, closure: Mapping[str, float | str] | None = None) -> None:
    """Write a model, or the result of a fit, to a file, completely or not at all.

    The same model gives the same bytes. Results (of fits, scans, limits, impacts, toys) are JSON; of a fit its numbers are
    kept, as a :class:`~zfit_fnf.FitSummary`.

    Args:
        model: A :class:`~zfit_fnf.Flow`, a :class:`~zfit_fnf.Deformation` (which carries its flow), a transfer, a fit of
            one, or any other model with a registered :class:`Entry`. Of a fitted process it is the density.
        path: The file, usually called ``*.fnf``, and ``*.json`` for a result; an existing one is replaced.
        closure: Figures of a validation of the model to keep with it, such as ``{"AUC, joint point": 0.503}``.

    Raises:
        FileNotFoundError: If the folder does not exist.
        TypeError: If models of this kind cannot be stored, or an argument is of another type.
        ValueError: If the model has weights that are not finite.

    Example:
        >>> save(deformation, "signal.fnf")
        >>> load("signal.fnf").log_prob(events)
    """
    if is_result(model):
        save_result(model, _as_path(path))
        return
    if hasattr(model, "simulation"):  # a fitted process
        model = model.model
    if isinstance(model, (str, os.PathLike)):
        raise TypeError(f"the model comes first, then the path: save(model, {str(model)!r})")
    target = _as_path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to write {target.name!r} into")
    if target.is_dir():
        raise ValueError(f"{str(target)!r} is a folder; give the name of a file in it, such as 'signal.fnf'")
    entries, arrays, parts = _described(model)
    manifest = {
        "format": FORMAT,
        "written_by": _versions(),
        "closure": _figures(closure),
        "models": entries,
        "tensors": {name: _tensor(array) for name, array in arrays.items()},
    }
    text = json.dumps(manifest, separators=(",", ":"))
    with _complaints(f"{model!r} cannot be stored"):
        _check(Manifest.model_validate_json(text))
        for name, array in arrays.items():
            _check_finite(name, array)
        for part in parts:
            entry_type(part).verify(part)
        _check_size(text)
        if (size := sum(array.nbytes for array in arrays.values())) > MAX_FILE - MAX_HEADER:
            raise ValueError(f"its arrays have {size} bytes, and files with more than {MAX_FILE} are not read")
    with complete(target) as draft:
        # Not with save_file, whose files nobody else may read.
        draft.write_bytes(serialised(arrays, metadata={_KEY: f"{_sha256(text.encode())}\n{text}"}))


def load(path: str | os.PathLike[str], *, supplied: Mapping[str, Any] | None = None) -> Any:
    """Read a model or a result from a file that :func:`save` has written.

    The model gives the same densities as the one that was saved, to the last bit on the same machine.

    Args:
        path: The file.
        supplied: What is not stored: flows of :func:`zfit_fnf.interop.callable.wrap`, by the name of the function; the
            ``model`` and the ``data`` of a fit. Their values are compared with those at the time of writing.

    Returns:
        The model: a :class:`~zfit_fnf.Flow`, a :class:`~zfit_fnf.Deformation`, ...

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If an argument is of another type.
        ValueError: If it is damaged, not a model, or written by a newer version of the package; says which.
    """
    if not isinstance(supplied, (Mapping, type(None))):
        raise TypeError(
            f'supplied= is a mapping such as {{"model": model, "data": data}}; got a {type(supplied).__name__}'
        )
    if _as_path(path).suffix == ".json":
        return load_result(path)
    with _opened(path) as (manifest, read):
        entries = _check(manifest)
        arrays = {tensor: read(tensor) for tensor in manifest.tensors}
        models: list[Any] = []
        for index, entry in enumerate(entries):
            with _complaints(f"model {index} ({entry.kind})"):
                own = {name: arrays[tensor] for name, tensor in entry.arrays.items()}
                models.append(entry.make(Parts(models, own, supplied or {})))
    return models[-1]


def inspect(path: str | os.PathLike[str]) -> ModelFile:
    """Read what a model file contains, and verify it, without making the model.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If an argument is of another type.
        ValueError: If it is damaged, not a model, or written by a newer version of the package; says which.
    """
    with _opened(path) as (manifest, read):
        entries = _check(manifest)
        for tensor in manifest.tensors:
            read(tensor)
    return ModelFile(Path(path), Path(path).stat().st_size, manifest, tuple(entries))


@dataclass(frozen=True)
class ModelFile:
    """What a model file contains; prints as a summary.

    Attributes:
        path: The file.
        size: Its size in bytes.
        manifest: Everything but the models: versions, closure figures, and the list of tensors.
        entries: One for each model; the last is the one that was saved.
    """

    path: Path
    size: int
    manifest: Manifest
    entries: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """The manifest for JSON: versions, models and their settings, closure figures, and the list of tensors."""
        return {"file": str(self.path), "size": self.size, **self.manifest.model_dump(mode="json")}

    def __str__(self) -> str:
        numbers = sum(int(np.prod(tensor.shape)) for tensor in self.manifest.tensors.values())
        lines = [
            f"{self.path.name}: {self.entries[-1].kind}, {numbers} numbers in {len(self.manifest.tensors)} arrays, "
            f"{self.size / 1e6:.2f} MB, checksums verified",
            f"format {self.manifest.format}, "
            + ", ".join(f"{name} {version}" for name, version in self.manifest.written_by.items()),
        ]
        lines += [line for entry in self.entries for line in entry.summary(self.entries)]
        lines += [f"closure: {name} = {value}" for name, value in self.manifest.closure.items()]
        return "\n".join(map(printable, lines))


def printable(text: str) -> str:
    """The text in one line, without what a terminal would obey: whatever cannot be printed is escaped as in Python."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


# --- models and their parts -----------------------------------------------------------------------------------------


def _described(model: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], list[Any]]:
    """Entries of a model and of those it is made of, each once and after its own parts; all their arrays; and the models."""
    entries: list[dict[str, Any]] = []
    parts: list[Any] = []
    arrays: dict[str, np.ndarray] = {}
    known: dict[int, int] = {}

    def index_of(part: Any) -> int:
        if id(part) not in known:
            fields, own = entry_type(part).describe(part, index_of)
            parts.append(part)
            index = known[id(part)] = len(entries)
            tensors = {name: f"{index}.{name}" for name in own}
            arrays.update({tensors[name]: np.asarray(array, order="C") for name, array in own.items()})
            entries.append({**fields, "arrays": tensors})
        return known[id(part)]

    index_of(model)
    return entries, arrays, parts


def _check(manifest: Manifest) -> list[Entry]:
    """The entries, if they and the tensors fit together."""
    entries: list[Entry] = []
    needed: list[str] = []
    for index, fields in enumerate(manifest.models):
        kind = fields.get("kind")
        with _complaints(f"model {index} ({str(kind)[:50]})"):
            entry = entry_of(kind).parse(fields)
            if unknown := [tensor for tensor in entry.arrays.values() if tensor not in manifest.tensors]:
                raise ValueError(f"refers to a tensor {unknown[0]!r} that is not listed")
            if wrong := [reference for reference in entry.references() if reference >= index]:
                raise ValueError(f"refers to model {wrong[0]}, which does not come before it")
            entry.check(manifest.tensors)
            entries.append(entry)
            needed += entry.arrays.values()
    if len(needed) != len(set(needed)) or len(needed) != len(manifest.tensors):
        raise ValueError("some tensors belong to no model, or to several")
    parts = {reference for entry in entries for reference in entry.references()}
    if unused := sorted(set(range(len(entries) - 1)) - parts):
        raise ValueError(f"model {unused[0]} is not part of any other")
    return entries


# --- the file ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Manifest, Callable[[str], np.ndarray]]]:
    """The verified manifest of a file, and a function that reads and verifies one of its tensors."""
    source = _as_path(path)
    if not os.path.lexists(source):
        raise FileNotFoundError(f"there is no file {str(source)!r}")
    with _complaints(f"{str(source)!r} is not a usable model file"):
        if not source.is_file():  # a pipe would never end
            raise ValueError("it is a folder" if source.is_dir() else "it is not a regular file")
        _check_header_size(source)
        with safe_open(source, framework="numpy") as file:
            manifest = _manifest((file.metadata() or {}).get(_KEY))
            listed, present = set(manifest.tensors), set(file.keys())
            if listed != present:
                odd = sorted(listed ^ present)[0]
                raise ValueError(f"tensor {odd!r} is {'not in the file' if odd in listed else 'not listed'}")
            for name, tensor in manifest.tensors.items():
                part = file.get_slice(name)
                if (part.get_dtype(), list(part.get_shape())) != (tensor.dtype, list(tensor.shape)):
                    raise ValueError(f"tensor {name!r} has another dtype or shape than the manifest says")
            yield manifest, lambda name: _verified(name, file.get_tensor(name), manifest.tensors[name])


def _check_header_size(source: Path) -> None:
    size = source.stat().st_size
    if size > MAX_FILE:
        raise ValueError(f"it has {size} bytes, more than {MAX_FILE}")
    with source.open("rb") as file:
        start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise ValueError(f"it is not a safetensors file, or truncated: {size} bytes")
    if length > MAX_HEADER:
        raise ValueError(f"its header claims {length} bytes, more than {MAX_HEADER}")


def _manifest(stored: str | None) -> Manifest:
    if stored is None:
        raise ValueError("it is a safetensors file, but has no manifest of zfit_fnf")
    checksum, _, text = stored.partition("\n")
    _check_size(text)
    if checksum != _sha256(text.encode()):
        raise ValueError("its manifest does not have the checksum it should have")
    return Manifest.model_validate_json(_migrated(text))


def _check_size(text: str) -> None:
    for what, number, most in (("bytes", len(text.encode()), MAX_MANIFEST), ("commas", text.count(","), MAX_COMMAS)):
        if number > most:
            raise ValueError(f"its manifest has {number} {what}; more than {most} are not read")


def _migrated(text: str) -> str:
    """A manifest in the present format."""
    content = json.loads(text, object_pairs_hook=_no_duplicates)
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError("its manifest names no version of the format")
    if version > FORMAT:
        writer = content.get("written_by")
        written_by = writer.get("zfit_fnf") if isinstance(writer, dict) else None
        raise ValueError(
            f"it has format {version}, written by zfit_fnf {str(written_by)[:50]}; this is zfit_fnf {__version__}, which "
            f"reads formats up to {FORMAT}: upgrade with pip install --upgrade zfit_fnf"
        )
    for older in range(version, FORMAT):
        content = {**_MIGRATIONS[older](content), "format": older + 1}
    return text if version == FORMAT else json.dumps(content)


def _stack_layers(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 to 2: responses had one layer, with one ``network``; they have a list of ``networks`` now."""
    models = []
    for fields in content["models"]:
        if fields["kind"] == "response":
            arrays = {name.replace("network.", "networks.0.", 1): t for name, t in fields["arrays"].items()}
            fields = {**fields, "n_layers": 1, "arrays": arrays}
        models.append(fields)
    return {**content, "models": models}


def _without_ratios(content: dict[str, Any]) -> dict[str, Any]:
    """Format 3 to 4: deformations have log-ratios now, of which there were none."""
    kinds = {"deformation", "reference_deformation"}
    models = [{**fields, "ratios": []} if fields["kind"] in kinds else fields for fields in content["models"]]
    return {**content, "models": models}


def _degree_of_each_variable(content: dict[str, Any]) -> dict[str, Any]:
    """Format 4 to 5: log-ratios had the same degree in each variable, and no tails."""
    models = []
    for fields in content["models"]:
        if fields["kind"] == "log_ratio":
            kept = {name: value for name, value in fields.items() if name != "degree"}
            degrees = [fields["degree"]] * (fields["n_dim"] + fields["n_context"])
            fields = {**kept, "degrees": degrees, "tails": False}
        models.append(fields)
    return {**content, "models": models}


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _stack_layers,
    2: dict,  # histories say more now, all of which may be missing
    3: _without_ratios,
    4: _degree_of_each_variable,
}
"""From a version of the format to the next one."""


def _verified(name: str, array: np.ndarray, tensor: Tensor) -> np.ndarray:
    if _sha256(array.tobytes()) != tensor.sha256:
        raise ValueError(f"tensor {name!r} does not have the checksum it should have: the file is damaged")
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    if bad := int(np.sum(~np.isfinite(array))):
        raise ValueError(f"{bad} of {array.size} numbers of tensor {name!r} are not finite")


def _as_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path):
        raise TypeError(f"expected the path of a model file, got {path!r:.100}")
    return Path(path)


def _figures(closure: Any) -> dict[str, float | str]:
    """Closure figures as plain data."""
    figures = {} if closure is None else closure
    if not isinstance(figures, Mapping) or not all(isinstance(value, (str, *_NUMBERS)) for value in figures.values()):
        raise TypeError(
            f'closure= is a mapping from names to numbers or texts, such as {{"AUC": 0.503}}; got {closure!r:.100}'
        )
    return {str(name): value if isinstance(value, str) else float(value) for name, value in figures.items()}


def _tensor(array: np.ndarray) -> dict[str, Any]:
    names = [name for name, dtype in _DTYPES.items() if array.dtype == dtype]
    if not names:
        raise TypeError(f"arrays of dtype {array.dtype} cannot be stored")
    return {"dtype": names[0], "shape": list(array.shape), "sha256": _sha256(array.tobytes())}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("its manifest names something twice")
    return content


def _versions() -> dict[str, str]:
    packages = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {"zfit_fnf": __version__, "python": platform.python_version(), **packages}


@contextmanager
def _complaints(subject: str) -> Iterator[None]:
    """Errors of whatever checks or makes something, in one sentence with its subject."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:200]
        raise ValueError(_shortened(": ".join(filter(None, (subject, place, first["msg"]))))) from error
    except RecursionError as error:
        raise ValueError(f"{subject}: it is nested too deeply") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SafetensorError, MemoryError) as error:
        raise ValueError(_shortened(f"{subject}: {error}")) from error


def _shortened(message: str) -> str:
    message = printable(message)
    return message if len(message) < _LONGEST else message[:_LONGEST] + " ..."

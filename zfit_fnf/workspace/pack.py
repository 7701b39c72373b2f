"""A workspace with its trained models and its data in one file, to be evaluated and fitted without the simulated events."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ..common.files import complete
from ..samples import WEIGHT_COLUMN, write_sample
from .document import WorkspaceError
from .schema import Channel, Sample
from .training import model_path, names_of, read_record
from .workspace import Workspace

__all__ = ["pack", "unpack"]

DOCUMENT = "workspace.json"
"""Name of the document in the file."""

_MEMBER = re.compile(rf"{re.escape(DOCUMENT)}|models/[\w.\-]+\.fnf|data/[\w.\-]+\.parquet")
_LARGEST = 2**33  # bytes of everything in a file


def pack(workspace: Workspace, trained: str | os.PathLike[str] | None, path: str | os.PathLike[str]) -> Path:
    """Write a workspace, its models, its data and the yields of its simulation into one file.

    It is a ZIP file that `Workspace.read` reads as any other workspace, in which nothing refers to simulated events any more.

    Args:
        workspace: The workspace.
        trained: Folder of the results of `Workspace.train`.
        path: The file, which ends with ``.zip``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If a sample is not trained.
        ValueError: If the name does not end with ``.zip``.

    Example:
        >>> pack(workspace, "results", "analysis.zip")
        >>> nll = Workspace.read("analysis.zip").loss()
    """
    target = Path(path)
    if target.suffix != ".zip":
        raise ValueError(f"the name of a packed workspace ends with '.zip'; got {target.name!r}")
    if binned := [one.name for one in workspace.document.channels if one.binned]:
        raise ValueError(f"channel {binned[0]!r} is made of histograms of its events, which are not packed")
    if workspace.document.calibrate:
        raise ValueError("a calibrated likelihood needs its simulated events: pack the workspace without 'calibrate'")
    if trained is not None:
        workspace.check_fresh(trained)
    content = workspace.document.model_dump(by_alias=True, exclude_unset=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in ("models", "data"):
            (folder / kind).mkdir()
        for name, data in workspace.data().items():
            write_sample(data, folder / "data" / f"{name}.parquet")
            own = next(one for one in content["channels"] if one["name"] == name)
            own["data"] = {"file": f"data/{name}.parquet"}
            if data.weights is not None:
                own["data"]["weights"] = WEIGHT_COLUMN
        for channel, own in zip(workspace.document.channels, content["channels"], strict=True):
            for index, sample in enumerate(channel.samples):
                own["samples"][index] = _packed(workspace, trained, channel, sample, own["samples"][index], folder)
        (folder / DOCUMENT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with complete(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(one for one in folder.rglob("*") if one.is_file()):
                archive.write(file, file.relative_to(folder).as_posix())
    return target


def unpack(path: Path, folder: Path) -> Path:
    """Extract a packed workspace, if it contains nothing else.

    Returns:
        The document.

    Raises:
        WorkspaceError: If it is no packed workspace.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if strange := [one.filename for one in members if not _MEMBER.fullmatch(one.filename)]:
                raise WorkspaceError(f"{path.name} is no packed workspace: it contains {strange[0]!r}")
            if DOCUMENT not in archive.namelist():
                raise WorkspaceError(f"{path.name} is no packed workspace: it has no {DOCUMENT}")
            if (size := sum(one.file_size for one in members)) > _LARGEST:
                raise WorkspaceError(f"{path.name} contains {size} bytes; a packed workspace has at most {_LARGEST}")
            archive.extractall(folder, members)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise WorkspaceError(f"{path.name} cannot be read as a packed workspace: {error}") from None
    return folder / DOCUMENT


def _packed(
    workspace: Workspace,
    trained: str | os.PathLike[str] | None,
    channel: Channel,
    sample: Sample,
    content: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """A sample whose events are replaced by its models, its yield, and the factors on it."""
    if sample.model is not None:
        names = names_of(channel, sample, len(sample.model))
        sources = [workspace.folder / one for one in sample.model]
    elif sample.events is not None:
        names = names_of(channel, sample, workspace.document.training.folds)
        records = [None if trained is None else read_record(Path(trained), name) for name in names]
        if trained is None or any(record is None or not record.complete for record in records):
            raise FileNotFoundError(f"sample {names[0]!r} is not trained: train the workspace first")
        sources = [model_path(Path(trained), name) for name in names]
    else:
        return content
    for name, source in zip(names, sources, strict=True):
        shutil.copyfile(source, folder / "models" / f"{name}.fnf")
    content = {**content, "model": [f"models/{name}.fnf" for name in names]}
    return content if sample.events is None else _without_events(content, records[0])


def _without_events(content: dict[str, Any], record: Any) -> dict[str, Any]:
    """A sample whose yield, and the factors on it, are no longer taken from events."""
    modifiers = []
    for modifier in content.get("modifiers", []):
        if modifier["type"] == "normsys" and modifier["data"] == "events":
            rates = record.rates[modifier.get("variation") or modifier["name"]]
            low, high = rates["lo"], rates["hi"]
            sides = {"lo": low or 1.0 / (high or 1.0), "hi": high or 1.0 / (low or 1.0)}
            modifier = {"name": modifier["name"], "type": "normsys", "data": sides}
        modifiers.append(modifier)
    left = {key: value for key, value in content.items() if key not in ("events", "modifiers")}
    return {"yield": record.expected, **left, "modifiers": modifiers}

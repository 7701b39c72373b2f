"""Files that are complete or not there, and folders in which only own files are replaced."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["complete", "own_files"]

_LIST = "files.json"


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A file to write to that gets its name when it is complete: an interruption leaves nothing half-written."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def own_files(folder: Path, places: Sequence[str], *, overwrite: bool) -> Iterator[None]:
    """A folder to write to, without what an earlier run has written; a list of what is written goes into it at the end.

    Args:
        folder: The folder; made if it is not there.
        places: Names of files and folders in it that are written to.
        overwrite: Whether it may have files in it. Those of an earlier run are deleted.

    Raises:
        FileExistsError: If it has files in it and `overwrite` is not set; or files at these places that are not as an
            earlier run has left them. Then nothing is deleted.
    """
    _prepare(folder, places, overwrite)
    try:
        yield
    finally:
        written = {str(path.relative_to(folder)): _checksum(path) for path in _present(folder, places)}
        with complete(folder / _LIST) as draft:
            draft.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _prepare(folder: Path, places: Sequence[str], overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file; a folder is needed")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(f"the folder {str(folder)!r} is not empty; choose another one, or use --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    present, written = _present(folder, places), _listed(folder / _LIST)
    if foreign := [path for path in present if _checksum(path) != written.get(str(path.relative_to(folder)), "")]:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise FileExistsError(
            f"{str(foreign[0])!r}{more} is not as an earlier run has left it: move it, or choose another folder"
        )
    for path in present:
        path.unlink()
    (folder / _LIST).unlink(missing_ok=True)


def _present(folder: Path, places: Sequence[str]) -> list[Path]:
    """Everything but folders that there is at these places; links are not followed."""
    found: list[Path] = []
    for place in (folder / name for name in places):
        if place.is_dir() and not place.is_symlink():
            found += (path for path in sorted(place.rglob("*")) if path.is_symlink() or not path.is_dir())
        elif place.exists() or place.is_symlink():
            found.append(place)
    return found


def _listed(path: Path) -> Mapping[str, str]:
    """The checksums of files that an earlier run has written, by name; none without a readable list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _checksum(path: Path) -> str:
    """Of a regular file; none of anything else, which is never written here."""
    if path.is_symlink() or not path.is_file():
        return "none"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

"""The text of a workspace: read without executing anything, and errors that say where in it something is wrong."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..common.optional import require
from .schema import VERSION, Document

__all__ = ["Place", "Text", "WorkspaceError", "nearest", "parse"]

Place = tuple[str | int, ...]
"""Where something is in a document, e.g. ``("channels", 0, "name")``."""

_LARGEST = 10_000_000  # bytes
_MOST = 1_000_000  # values
_SHOWN = 10  # errors


class WorkspaceError(ValueError):
    """Something that is wrong in a workspace; the message names the file, the line and the place in the document."""


class Text:
    """The content of a YAML or JSON file, and the line in which each of its parts begins.

    Args:
        path: The file.

    Attributes:
        path: The file.
        content: What it contains.

    Raises:
        FileNotFoundError: If there is no such file.
        WorkspaceError: If it cannot be read as YAML or JSON, or names something twice.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no workspace {str(self.path)!r}")
        if (size := self.path.stat().st_size) > _LARGEST:
            raise WorkspaceError(f"{self.path.name} has {size} bytes; a workspace has at most {_LARGEST}")
        self._lines: dict[Place, int] = {}
        try:
            text = self.path.read_text(encoding="utf-8")
            self.content: Any = self._json(text) if self.path.suffix == ".json" else self._yaml(text)
        except (UnicodeDecodeError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise WorkspaceError(f"{self.path.name} cannot be read: {reason}") from None

    def _yaml(self, text: str) -> Any:
        yaml = require("yaml", extra="io")
        # The safe loader alone: it makes numbers, texts, lists and mappings, whatever tags the file has.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            node = loader.get_single_node()
            self._locate(node, ())
            return None if node is None else loader.construct_document(node)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error)
            raise WorkspaceError(f"{self.path.name}{line}: this is no YAML: {problem}") from None
        finally:
            loader.dispose()

    def _json(self, text: str) -> Any:
        """JSON, which is YAML but for its tabs and a few numbers: that gives the lines."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise WorkspaceError(f"{self.path.name}, line {error.lineno}: this is no JSON: {error.msg}") from None
        self._yaml(text.replace("\t", " "))
        return content

    def error(self, place: Sequence[str | int], message: str) -> WorkspaceError:
        """An error at a place of the document."""
        return WorkspaceError(self.describe(place, message))

    def describe(self, place: Sequence[str | int], message: str) -> str:
        """A message with the line, and the place in the document."""
        known = self.known(place)
        where = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in known).lstrip(".")
        line = f", line {self._lines[known]}" if known in self._lines else ""
        return f"{self.path.name}{line}: {where + ': ' if where else ''}{message}"

    def known(self, place: Sequence[str | int]) -> Place:
        """A place that pydantic names, without what is not in the document (such as which of several types it tried)."""
        known: Place = ()
        for one in place:
            if (further := (*known, one)) in self._lines:
                known = further
        return known

    def _locate(self, node: Any, place: Place) -> None:
        if node is None:
            return
        self._lines[place] = node.start_mark.line + 1
        if len(self._lines) > _MOST:
            raise WorkspaceError(f"{self.path.name} has more than {_MOST} values")
        if node.id == "mapping":
            names: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in names:
                    where = self.describe(place, f"{name!r} is given twice, in lines {names[name]} and {line}")
                    raise WorkspaceError(where)
                names[name] = line
                self._locate(value, (*place, name))
                self._lines[(*place, name)] = line
        elif node.id == "sequence":
            for index, value in enumerate(node.value):
                self._locate(value, (*place, index))


def parse(text: Text) -> Document:
    """The document in a text, as the schema says.

    Raises:
        WorkspaceError: Says what is wrong, where, and what is the nearest thing that would be right.
    """
    if not isinstance(text.content, dict):
        raise text.error((), "a workspace has channels and measurements, by name")
    if (version := text.content.get("version")) != VERSION:
        raise text.error(
            ("version",),
            f"version: {VERSION} is what this zfit_fnf reads; got {'none' if version is None else version!r}",
        )
    try:
        return Document.model_validate(text.content)
    except ValidationError as error:
        found = error.errors(include_url=False)
        messages = list(dict.fromkeys(text.describe(*_explained(one)) for one in found))
        more = f"\n(and {len(messages) - _SHOWN} more)" if len(messages) > _SHOWN else ""
        raise WorkspaceError("\n".join(messages[:_SHOWN]) + more) from None


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint at the nearest known name, or at all of them."""
    names = list(dict.fromkeys(known))
    if close := difflib.get_close_matches(str(name), names, n=1, cutoff=0.5):
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(map(repr, names[:30]))}" if names else ""


def _explained(error: Any) -> tuple[Place, str]:
    place, kind, context = tuple(error["loc"]), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return place, f"{place[-1]!r} is not known here{nearest(place[-1], _fields(place[:-1]))}"
    if kind == "missing":
        return place[:-1], f"{place[-1]!r} is missing"
    if kind == "union_tag_invalid":
        expected = [one.strip(" '") for one in context["expected_tags"].split(",")]
        return (*place, "type"), f"{context['tag']!r} is not a type of modifier{nearest(context['tag'], expected)}"
    if kind == "union_tag_not_found":
        return place, "'type' is missing"
    message = str(context["error"]) if kind == "value_error" else f"{error['msg']}, got {_shown(error['input'])}"
    if kind == "literal_error":
        known = [one.strip(" '") for one in context["expected"].replace(" or ", ", ").split(",")]
        message = f"{_shown(error['input'])} is not possible{nearest(error['input'], known)}"
    return place, message


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."


def _fields(place: Place) -> list[str]:
    """The fields that are known at a place of a document."""
    model: Any = Document
    for one in place:
        if isinstance(model, type) and issubclass(model, BaseModel) and isinstance(one, str):
            fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
            model = fields.get(one, model)
        models = _models(model)
        tagged = [one_of for one_of in models if one == _tag(one_of)]
        models = tagged or models
        model = models[0] if models else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _tag(model: Any) -> Any:
    """The ``type`` of a modifier."""
    return next(iter(getattr(getattr(model.model_fields.get("type"), "annotation", None), "__args__", ())), None)


def _models(annotation: Any) -> list[Any]:
    """The models in a type such as ``list[A | B]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models(part)]

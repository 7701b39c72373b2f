"""HistFactory channels of a workspace: documents of pyhf, and the parameters in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .document import Place, Text, nearest
from .schema import Document, HistFactory, ParameterConfig

__all__ = ["KINDS", "Kind", "errors_of_bins", "inlined", "measured", "parameter_uses", "said_of", "settings_of"]

Kind = Literal["factor", "nuisance", "lumi", "free"]

KINDS: dict[str, Kind] = {"normfactor": "factor", "lumi": "lumi", "normsys": "nuisance", "histosys": "nuisance"}
"""What the parameters of modifiers of pyhf are here; those of others, one in each bin, stay where they are."""


def inlined(text: Text, document: Document) -> Document:
    """The document with those of pyhf in it, in place of the names of their files.

    Raises:
        WorkspaceError: If a file is not there, or is no workspace of pyhf; or a channel in it is not there.
    """
    channels = []
    for index, channel in enumerate(document.channels):
        if channel.histfactory is not None:
            place: Place = ("channels", index, "histfactory")
            content = _content(text, channel.histfactory, place)
            _check(text, channel.histfactory, content, place)
            binned = channel.histfactory.model_copy(update={"workspace": content})
            channel = channel.model_copy(update={"histfactory": binned})
        channels.append(channel)
    return document.model_copy(update={"channels": channels})


def parameter_uses(binned: HistFactory) -> Iterator[tuple[str, Kind, str]]:
    """Parameters of the channels: the name in this document, the kind, and the name in that of pyhf."""
    for channel in _channels(binned):
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                if modifier["type"] in KINDS:
                    own = modifier["name"]
                    yield binned.parameters.get(own, own), KINDS[modifier["type"]], own


def errors_of_bins(binned: HistFactory) -> set[str]:
    """Names of errors that each bin of the channels has for itself; of all channels of one document, as pyhf knows them."""
    modifiers = (one for channel in _channels(binned) for sample in channel["samples"] for one in sample["modifiers"])
    return {one["name"] for one in modifiers if one["type"] in ("staterror", "shapesys")}


def settings_of(binned: HistFactory, measurement: str) -> dict[str, ParameterConfig]:
    """What pyhf says of the parameters in its measurement of this name, or the first, by their names in this document."""
    kinds = {own: (name, kind) for name, kind, own in parameter_uses(binned)}
    found = {}
    for one in _measurement(binned, measurement)["config"].get("parameters", []):
        if one["name"] not in kinds:
            continue
        name, kind = kinds[one["name"]]
        found[name] = ParameterConfig.model_validate({"name": name, **said_of(one, kind)})
    return found


def said_of(parameter: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """What a measurement of pyhf says of a parameter, as one of this document says it.

    A nuisance is measured as zero here unless it has an outcome, which needs a standard deviation.
    """
    wanted = ["inits", "bounds", "fixed", *(["auxdata", "sigmas"] if kind == "lumi" else [])]
    found = {key: parameter[key] for key in wanted if key in parameter}
    if kind == "nuisance" and parameter.get("auxdata", [0.0]) != [0.0]:
        found |= {"auxdata": parameter["auxdata"], "sigmas": [1.0]}
    return found


def measured(binned: HistFactory, measurement: str, luminosity: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """The document of pyhf with one measurement, where the luminosity is known as well as in this document.

    Args:
        binned: The channels.
        measurement: Name of the measurement; where the workspace of pyhf has none of this name, its first one is meant.
        luminosity: Outcome and standard deviation of the luminosity, by the name in this document.
    """
    chosen = _measurement(binned, measurement)
    known = {own: luminosity[name] for name, kind, own in parameter_uses(binned) if kind == "lumi"}
    parameters = {one["name"]: one for one in chosen["config"].get("parameters", [])}
    for own, (outcome, sigma) in known.items():
        parameters[own] = {"name": own, **parameters.get(own, {}), "auxdata": [outcome], "sigmas": [sigma]}
    config = {**chosen["config"], "parameters": list(parameters.values())}
    return {**_document(binned), "measurements": [{**chosen, "config": config}]}


def _measurement(binned: HistFactory, name: str) -> dict[str, Any]:
    every: list[dict[str, Any]] = _document(binned)["measurements"]
    return next((one for one in every if one["name"] == name), every[0])


def _document(binned: HistFactory) -> dict[str, Any]:
    assert isinstance(binned.workspace, dict)
    return binned.workspace


def _channels(binned: HistFactory) -> list[dict[str, Any]]:
    every = _document(binned)["channels"]
    return [one for one in every if binned.channels is None or one["name"] in binned.channels]


def _content(text: Text, binned: HistFactory, place: Place) -> dict[str, Any]:
    if isinstance(binned.workspace, dict):
        return binned.workspace
    path = text.path.parent / Path(binned.workspace)
    if not path.is_file():
        raise text.error((*place, "workspace"), f"there is no file {str(path)!r}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise text.error((*place, "workspace"), f"{path.name!r} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise text.error((*place, "workspace"), f"{path.name!r} is no workspace of pyhf")
    return content


def _check(text: Text, binned: HistFactory, content: dict[str, Any], place: Place) -> None:
    """What is read of it here; the rest is checked by pyhf."""
    try:
        names = [channel["name"] for channel in content["channels"]]
        own = {m["name"] for channel in content["channels"] for s in channel["samples"] for m in s["modifiers"]}
        [(m["type"], m["data"]) for channel in content["channels"] for s in channel["samples"] for m in s["modifiers"]]
        measurements = [(one["config"]["poi"], one["name"]) for one in content["measurements"]]
        content["observations"]
    except (KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise text.error((*place, "workspace"), f"this is no workspace of pyhf: {reason}") from None
    if not measurements:
        raise text.error((*place, "workspace"), "this workspace of pyhf has no measurement")
    for name in binned.channels or []:
        if name not in names:
            raise text.error(
                (*place, "channels"), f"the workspace of pyhf has no channel {name!r}{nearest(name, names)}"
            )
    for name in binned.parameters:
        if name not in own:
            raise text.error((*place, "parameters", name), f"the workspace of pyhf has no {name!r}{nearest(name, own)}")

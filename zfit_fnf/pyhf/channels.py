"""HistFactory channels: likelihoods of pyhf workspaces and models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pyhf

from ..common.warning import warn
from ..loss import NLL
from .pdf import HistFactoryPDF

__all__ = ["channel"]


def channel(
    workspace: str | PathLike[str] | Mapping[str, Any] | pyhf.Workspace | pyhf.Model,
    channel: str | Collection[str] | None = None,
    *,
    params: Mapping[str, zfit.Parameter] | None = None,
    data: Any = None,
    measurement: str | None = None,
    name: str | None = None,
    **settings: Any,
) -> NLL:
    r"""The likelihood of a HistFactory channel, to be fitted alone or added to others.

    The expected counts are those of pyhf, and the value is the negative logarithm of its likelihood without the constants
    :math:`\tfrac12 \log 2\pi\sigma^2` of the Gaussian constraints. Parameters that another term of a sum has under the same name
    are shared, and constrained once.

    Args:
        workspace: A pyhf workspace (file, document or object), or a model.
        channel: Name of the channel, or several names; by default all channels.
        params: Parameters by the names that they have in pyhf: a `Nuisance` for what pyhf constrains by a Gaussian, a plain
            parameter for others. Those left out are made.
        data: Counts in the bins, of all channels in the order of pyhf; by default the observations of the workspace.
        measurement: Name of the measurement of the workspace; by default the first one.
        name: Name of the PDF, by default that of the channel.
        **settings: Arguments of `pyhf.Workspace.model`, like ``modifier_settings``.

    Returns:
        A likelihood with one channel, whose model is a `HistFactoryPDF`.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If a parameter is given that is not constrained as that of pyhf.
        ValueError: If there is no such channel or parameter, if the data of a model are not given or have another number of bins.

    Warns:
        UserWarning: If a sample has several modifiers of one type and name, of which pyhf takes the last.

    Example:
        >>> nll = zfit_fnf.loss.ExtendedUnbinnedNLL(model, events) + channel("control.json", "CR", params={"jes": jes})
    """
    if isinstance(workspace, pyhf.Model):
        if settings or measurement:
            raise ValueError(f"a pyhf.Model has its settings already; got {[*settings, measurement]}")
        model = workspace if channel is None else _model_of(workspace, _chosen(workspace.config.channels, channel))
        if data is None:
            raise ValueError("a pyhf.Model has no data: give them as data=, or a workspace")
        counts = data
    else:
        document = workspace if isinstance(workspace, pyhf.Workspace) else pyhf.Workspace(_read(workspace))
        chosen = _chosen(document.channels, channel)
        _warn_of_repeated([one for one in document["channels"] if one["name"] in chosen])
        model = _model_of_workspace(document, chosen, measurement, settings)
        counts = data
        if data is None:
            counts = np.concatenate([document.observations[one] for one in model.config.channels])
    pdf = HistFactoryPDF(model, params, name=name)
    n_bins = int(pdf.space.binning.size[0])
    if isinstance(counts, (list, tuple, np.ndarray)):
        counts = np.asarray(counts, float)
        if counts.shape != (n_bins,):
            raise ValueError(
                f"data= of {pdf.name!r} are {n_bins} counts; got {counts.shape}. Auxiliary data are not among them"
            )
    return NLL(pdf, counts)


def _read(workspace: Any) -> Mapping[str, Any]:
    if isinstance(workspace, Mapping):
        return workspace
    if not isinstance(workspace, (str, PathLike)):
        raise TypeError(f"a pyhf workspace is a file, a document or an object of pyhf; got {type(workspace).__name__}")
    if not (path := Path(workspace)).is_file():
        raise FileNotFoundError(f"there is no workspace of pyhf at {str(path)!r}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no workspace of pyhf: {error}") from None


def _warn_of_repeated(channels: Iterable[Mapping[str, Any]]) -> None:
    """Modifiers of one type and name act once in pyhf, as the last of them says."""
    for channel in channels:
        for sample in channel["samples"]:
            keys = Counter((one["type"], one["name"]) for one in sample["modifiers"])
            if several := [f"{kind} {name!r}" for (kind, name), n in keys.items() if n > 1]:
                warn(
                    f"the sample {sample['name']!r} of {channel['name']!r} has {several[0]} more than once, of which pyhf takes "
                    "the last: make one modifier of them, or give them different names"
                )


def _chosen(known: Collection[str], channel: Any) -> list[str]:
    """Names of channels, in the order that pyhf has them in."""
    names = known if channel is None else [channel] if isinstance(channel, str) else list(channel)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"the workspace has no channel {unknown}; there are {list(known)}")
    return [name for name in known if name in names]


def _model_of_workspace(
    workspace: pyhf.Workspace, channels: Collection[str], measurement: str | None, settings: Mapping[str, Any]
) -> pyhf.Model:
    """The model of some channels, with what a measurement says about their parameters."""
    others = [name for name in workspace.channels if name not in channels]
    pruned = workspace.prune(channels=others) if others else workspace
    poi = pruned.get_measurement(measurement_name=measurement)["config"]["poi"]
    known = {name for name, _ in pruned.modifiers}
    return pruned.model(measurement_name=measurement, **{"poi_name": poi if poi in known else None, **settings})


def _model_of(model: pyhf.Model, channels: Collection[str]) -> pyhf.Model:
    spec = {**model.spec, "channels": [one for one in model.spec["channels"] if one["name"] in channels]}
    names = {
        modifier["name"] for one in spec["channels"] for sample in one["samples"] for modifier in sample["modifiers"]
    }
    spec["parameters"] = [one for one in spec.get("parameters", []) if one["name"] in names]
    poi = model.config.poi_name if model.config.poi_name in names else None
    return pyhf.Model(spec, poi_name=poi, modifier_settings=model.config.modifier_settings, validate=False)

"""A workspace as one of pyhf: unbinned channels in bins, binned ones as they are; what is not the same is listed."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..pyhf.export import Projected, project
from .convert import SYMMETRIC, Conversion
from .expressions import Expression
from .likelihood import Parameters, pdf_name
from .names import measurement_of, parameters_of
from .schema import Channel, Document, Free, LnN, NormFactor, ParameterConfig
from .workspace import Workspace

__all__ = ["to_pyhf"]


def to_pyhf(
    workspace: Workspace, trained: str | os.PathLike[str] | None = None, *, measurement: str | None = None
) -> Conversion:
    """Project a workspace on bins, those of the first observable of each channel.

    A nuisance becomes a ``normsys`` and a ``histosys``, from templates at -1 and +1, and factors stay factors. An ``expression``
    that is no product of parameters becomes a free factor of its own, and other free parameters, such as the slope of a density,
    are fixed where the document starts them; both are listed.

    Args:
        workspace: The workspace.
        trained: Folder of the results of `Workspace.train`; not needed without samples that are learned.
        measurement: Name of the measurement, by default the first one.

    Raises:
        FileNotFoundError: If a sample is not trained.
        ValueError: If an observable has no bins, or HistFactory has no counterpart of the parameter of interest.

    Example:
        >>> conversion = to_pyhf(Workspace.read("analysis.yaml"), "results")
        >>> conversion.write("binned.json")
    """
    document, left = workspace.document, []
    if document.calibrate:
        left.append("calibrate: templates of learned densities have no errors of finite simulation")
        workspace = workspace.changed(document := document.model_copy(update={"calibrate": False}))
    poi = measurement_of(document, measurement).config.poi[0]
    found = _projected(workspace, trained, measurement, poi)
    parameters = _parameters(workspace, measurement)
    if replaced := _factors(document, parameters, found.fixed):
        left += [f"{name}: a free factor in place of {text}" for text, name in replaced.items()]
        of_poi = [name for text, name in replaced.items() if poi in _names_in(text, parameters)]
        poi = of_poi[0] if of_poi and poi in found.fixed else poi
        workspace = workspace.changed(_with_factors(document, measurement, parameters, replaced))
        found = _projected(workspace, trained, measurement, poi)
    if poi in found.fixed:
        raise ValueError(f"{poi!r} is of interest, but no factor on yields: HistFactory has no parameter of this kind")
    left += [f"{name}: fixed at {value:g}; HistFactory has no such parameter" for name, value in found.fixed.items()]
    return Conversion(found.document, [*left, *_interpolated(document), *found.notes])


def _interpolated(document: Document) -> list[str]:
    """Log-normal factors that are smooth between half a standard deviation, which ``normsys`` is otherwise."""
    return [
        f"{sample.name} in {channel.name}: lnN {one.name} {list(one.data)} becomes normsys, which interpolates otherwise "
        "within one sigma"
        for channel in document.channels
        for sample in channel.samples
        for one in sample.modifiers
        if isinstance(one, LnN) and isinstance(one.data, tuple) and abs(math.log(math.prod(one.data))) > SYMMETRIC
    ]


def _projected(
    workspace: Workspace, trained: str | os.PathLike[str] | None, measurement: str | None, poi: str
) -> Projected:
    model = workspace.model(trained, measurement=measurement)
    nll = workspace.loss(trained, model=model)
    names = [one.name for one in nll.model]
    found = project(nll, [_bins(workspace.channel(name)) for name in names], poi=poi, names=names)
    processes = {pdf_name(channel, one): one.name for channel in workspace.document.channels for one in channel.samples}
    for sample in (one for channel in found.document["channels"] for one in channel["samples"]):
        sample["name"] = processes.get(sample["name"], sample["name"])
    return found


def _bins(channel: Channel) -> Mapping[str, Sequence[float]]:
    """Edges of the bins of the first observable; none of a channel that is binned already."""
    if channel.histfactory is not None or channel.binned:
        return {}
    name, observable = next(iter(channel.observables.items()))
    if observable.bins is None:
        raise ValueError(f"channel {channel.name!r} is projected on {name!r}, which has no bins: write bins: 40")
    return {name: np.linspace(*observable.range, observable.bins + 1).tolist()}


def _parameters(workspace: Workspace, measurement: str | None) -> Parameters:
    functions = {one.name: Expression(one.expression) for one in workspace.document.functions}
    return Parameters(workspace.parameters(measurement), functions)


def _names_in(text: str, parameters: Parameters) -> list[str]:
    return [one.name for one in parameters.evaluator(text)[0]]


def _factors(document: Document, parameters: Parameters, fixed: Collection[str]) -> dict[str, str]:
    """Names of the factors in place of expressions that depend on parameters which HistFactory does not know."""
    taken = {*parameters.by_name, *(one.name for one in document.functions)}
    found: dict[str, str] = {}
    for channel in document.channels:
        for sample in channel.samples:
            for one in (modifier for modifier in sample.modifiers if isinstance(modifier, Free)):
                if one.data not in found and set(fixed) & set(_names_in(one.data, parameters)):
                    candidates = (one.name, *(f"{one.name}_factor{k or ''}" for k in range(len(taken) + 1)))
                    found[one.data] = next(name for name in candidates if name not in taken)
                    taken.add(found[one.data])
    return found


def _with_factors(
    document: Document, measurement: str | None, parameters: Parameters, replaced: dict[str, str]
) -> Document:
    """The document with factors in place of expressions, which start where the expressions do."""

    def factor(modifier: Any) -> Any:
        is_replaced = isinstance(modifier, Free) and modifier.data in replaced
        return NormFactor(name=replaced[modifier.data], type="normfactor") if is_replaced else modifier

    channels = [
        channel.model_copy(
            update={
                "samples": [
                    sample.model_copy(update={"modifiers": [factor(one) for one in sample.modifiers]})
                    for sample in channel.samples
                ]
            }
        )
        for channel in document.channels
    ]
    settings = []
    for text, name in replaced.items():
        params, value = parameters.evaluator(text)
        start = float(value(*(one.value() for one in params)))
        reach = 10.0 * max(abs(start), 1.0)
        bounds = ((0.0 if start >= 0 else -reach, reach),)
        settings.append(ParameterConfig(name=name, inits=(start,), bounds=bounds))
    chosen = measurement_of(document, measurement)  # with what it has from the first one
    document = document.model_copy(update={"channels": channels, "groups": {}, "blinding": None})
    used = parameters_of(document.model_copy(update={"measurements": [chosen]}))
    kept = [one for one in chosen.config.parameters if one.name in used]
    interest = [one if one in used else next(iter(replaced.values())) for one in chosen.config.poi]
    config = chosen.config.model_copy(update={"parameters": [*kept, *settings], "poi": interest})
    return document.model_copy(update={"measurements": [chosen.model_copy(update={"config": config})]})

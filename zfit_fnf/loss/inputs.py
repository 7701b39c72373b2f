"""Models, data, constraints and options of a likelihood, validated on input."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
from zfit.core.constraint import BaseConstraint

from ..pdf import space_ranges
from ..samples import as_sample, check_inside

__all__ = [
    "as_list",
    "checked_constraints",
    "checked_data",
    "checked_models",
    "checked_options",
    "common_options",
    "data_and_weights",
    "kind_of",
]

_OPTIONS = {"max_memory", "numgrad", "numhess", "subtr_const", "subtr_const_value", "sumtype"}  # all but one of zfit


def as_list(given: Any) -> list[Any]:
    """What is given, one thing or several, as a list; empty for `None`."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def checked_models(model: Any) -> list[zfit.pdf.BasePDF]:
    """The models of a likelihood as a list, one at least."""
    models = as_list(model)
    if not models:
        raise ValueError("a likelihood needs at least one PDF as model=")
    return models


def checked_constraints(constraints: Any) -> list[BaseConstraint]:
    """The constraints of a likelihood as a list; anything else is an error."""
    given = as_list(constraints)
    if wrong := [kind_of(c) for c in given if not isinstance(c, BaseConstraint)]:
        raise TypeError(f"constraints= takes constraints (zfit.constraint, or a NuisanceConstraint); got {wrong}")
    return given


def checked_options(options: Any) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f'options= is a dictionary, e.g. {{"max_memory": 1e9}}; got {kind_of(options)}')
    options = dict(options or {})
    if unknown := sorted(map(str, set(options) - _OPTIONS)):
        raise ValueError(f"options= has no {unknown}; there is max_memory, in bytes")
    memory = options.get("max_memory", 0.0)
    if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not memory >= 0:
        raise ValueError(f"the option max_memory is a number of bytes, not negative; got {memory!r}")
    return options


def common_options(*options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a sum: the tightest limit of memory."""
    limits = [given["max_memory"] for given in options if "max_memory" in given]
    merged = {name: value for given in reversed(options) for name, value in given.items()}
    return {**merged, "max_memory": min(limits)} if limits else merged


def kind_of(given: Any) -> str:
    return f"{type(given).__name__} {given!r}" if isinstance(given, (str, numbers.Number)) else type(given).__name__


def data_and_weights(models: Sequence[Any], data: Any, weights: Any) -> list[tuple[Any, Any]]:
    """Data and weights of each model."""
    if any(isinstance(one, zfit.pdf.BasePDF) for one in as_list(data)):
        raise TypeError("data= of a likelihood are events; got a PDF. The model comes first, then the data")
    if any(isinstance(one, numbers.Number) for one in as_list(data)):
        raise TypeError(f"data= needs names of the columns: {{{models[0].obs[0]!r}: ...}}; got a list of numbers")
    sets = as_list(data)
    if len(models) == 1:
        columns = [weights]
    else:
        columns = [weights] * len(models) if weights is None or isinstance(weights, str) else as_list(weights)
    if not len(models) == len(sets) == len(columns):
        raise ValueError(
            f"{len(models)} models need as many data sets and weights; got {len(sets)} data sets"
            + ("" if weights is None else f" and {len(columns)} weights")
        )
    return list(zip(sets, columns, strict=True))


def checked_data(model: zfit.pdf.BasePDF, data: Any, weights: Any) -> zfit.Data:
    """Events of one channel, checked, with the observables in the order of the model."""
    sample = as_sample(data, model.obs, weights=weights)
    check_inside(sample, space_ranges(model.norm))
    if sample.n_events and not sample.sum_weights > 0:
        raise ValueError(
            f"the weights of {sample.name!r} sum to {sample.sum_weights:g}: no likelihood has such data. Is the column "
            "of weights the right one, and are its signs?"
        )
    if isinstance(data, zfit.Data) and weights is None and data.obs == model.obs:
        return data  # the object itself: SamplerData change
    if isinstance(data, zfit.data.SamplerData):
        raise ValueError(
            f"a likelihood follows SamplerData only with the observables {list(model.obs)} in this order and their own "
            f"weights; {sample.name!r} has {list(data.obs)}"
        )
    return zfit.Data.from_numpy(
        obs=model.norm,
        array=sample.array(model.obs),
        weights=sample.weights,
        name=_data_name(sample.name),
        guarantee_limits=True,
    )


def _data_name(name: str) -> str:
    """A name that zfit accepts without complaint."""
    return "data_" + "".join(letter if letter.isalnum() else "_" for letter in name)

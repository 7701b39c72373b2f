"""Models and likelihoods on their way to another process: zfit objects do not pickle, but know what they were made of."""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import zfit  # before tensorflow, which it silences
import cloudpickle
import numpy as np
from zfit.core.constraint import BaseConstraint
from zfit.core.loss import BaseUnbinnedNLL

from .common.parallel import Executor
from .loss import CountPDF
from .loss.zfit_hooks import (
    composed_function,
    constraint_arguments,
    loss_options,
    pdf_arguments,
    simple_constraint_arguments,
)
from .param import Nuisance, NuisanceConstraint, limits_of
from .pdf import LogSpacePDF, space_ranges
from .pdf.spaces import make_space
from .yields import ModifiedYield

__all__ = ["dumps", "loads", "work_of"]

Task = TypeVar("Task")
Result = TypeVar("Result")

Parts = tuple[Callable[..., Any], dict[str, Any]]


def dumps(content: Any) -> bytes:
    """Pickle anything that contains PDFs, parameters, data and likelihoods; one object stays one, wherever it appears.

    What was compiled or computed from the events is not sent but made again.

    Args:
        content: The content.

    Raises:
        TypeError: If something in it cannot be pickled.

    Example:
        >>> nll_elsewhere = loads(dumps(nll))
    """
    stream = io.BytesIO()
    try:
        _Pickler(stream).dump(content)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(f"the model cannot be sent to another process: {error}") from error
    return stream.getvalue()


def loads(data: bytes) -> Any:
    """The content again, with parameters of its own that have the same values.

    Args:
        data: From `dumps`, by a trusted sender.
    """
    return pickle.loads(data)


def work_of(
    make: Callable[..., Callable[[Task], Result]], *content: Any, executor: Executor | None
) -> Callable[[Task], Result]:
    """A function of tasks, for this process or for those of an executor.

    Others get its content with each task, but make the function once, and compile its likelihoods once.

    Args:
        make: Makes the function of the content; a function of a module.
        *content: Likelihoods, parameters and whatever else can be pickled by `dumps`.
        executor: Who calls it; `None` for this process.
    """
    return make(*content) if executor is None else _Elsewhere(make, content)


class _Elsewhere(Generic[Task, Result]):
    """A function that is made where it is called."""

    def __init__(self, make: Callable[..., Callable[[Task], Result]], content: tuple[Any, ...]):
        self._sent = dumps((make, content))

    def __call__(self, task: Task) -> Result:
        result: Result = _made_once(self._sent)(task)
        return result


@functools.lru_cache(maxsize=1)
def _made_once(sent: bytes) -> Callable[[Any], Any]:
    make, content = loads(sent)
    function: Callable[[Any], Any] = make(*content)
    return function


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        parts = next((parts for kind, parts in _PARTS.items() if isinstance(obj, kind)), None)
        return super().reducer_override(obj) if parts is None else (_made, parts(obj))


def _made(make: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    return make(**arguments)


def _composed(parameter: zfit.ComposedParameter) -> Parts:
    arguments = {"name": parameter.name, "func": composed_function(parameter), "params": dict(parameter.params)}
    return zfit.ComposedParameter, {**arguments, "unpack_params": False}


def _constant(parameter: zfit.param.ConstantParameter) -> Parts:
    return zfit.param.ConstantParameter, {"name": parameter.name, "value": float(parameter.value())}


def _parameter(parameter: zfit.Parameter) -> Parts:
    lower, upper = (edge if np.isfinite(edge) else None for edge in limits_of(parameter))
    return zfit.Parameter, {
        "name": parameter.name,
        "value": float(parameter.value()),
        "lower": lower,
        "upper": upper,
        "stepsize": float(parameter.stepsize),
        "floating": parameter.floating,
        "label": parameter.label,
    }


def _space(space: zfit.Space) -> Parts:
    if space.is_binned:
        return _binned_space, {"edges": {axis.name: np.asarray(axis.edges) for axis in space.binning}}
    return make_space, {"ranges": space_ranges(space)}


def _binned_space(edges: dict[str, np.ndarray]) -> zfit.Space:
    axes = [zfit.binned.VariableBinning(values, name=name) for name, values in edges.items()]
    return zfit.Space(list(edges), binning=axes)


def _binned_pdf(pdf: zfit.pdf.BinnedFromUnbinnedPDF) -> Parts:
    extended = pdf.get_yield() if pdf.is_extended else None
    return type(pdf), {"pdf": pdf.pdfs[0], "space": pdf.space, "extended": extended}


def _count_pdf(pdf: CountPDF) -> Parts:
    return type(pdf), {"extended": pdf.get_yield(), "name": pdf.name, "label": pdf.label}


def _counts(data: zfit.data.BinnedData) -> Parts:
    variances = None if data.variances() is None else np.asarray(data.variances())
    return zfit.data.BinnedData.from_tensor, {
        "space": data.space,
        "values": np.asarray(data.values()),
        "variances": variances,
    }


def _learned(pdf: LogSpacePDF) -> Parts:
    return type(pdf), pdf._arguments


def _pdf(pdf: zfit.pdf.BasePDF) -> Parts:
    return type(pdf), pdf_arguments(pdf)


def _events(data: zfit.Data) -> Parts:
    weights = None if data.weights is None else np.asarray(data.weights)
    arguments = {"array": np.asarray(data.value()), "obs": data.space, "weights": weights, "name": data.name}
    return zfit.Data.from_numpy, {**arguments, "guarantee_limits": True}


def _nuisances(constraint: NuisanceConstraint) -> Parts:
    return type(constraint), {"nuisances": constraint.nuisances}


def _function_constraint(constraint: zfit.constraint.SimpleConstraint) -> Parts:
    return zfit.constraint.SimpleConstraint, simple_constraint_arguments(constraint)


def _constraint(constraint: BaseConstraint) -> Parts:
    return type(constraint), constraint_arguments(constraint)


def _loss(loss: BaseUnbinnedNLL) -> Parts:
    if hasattr(loss, "made_of"):
        arguments = loss.made_of()
    else:
        arguments = {"model": list(loss.model), "data": list(loss.data), "constraints": list(loss.constraints)}
        arguments["options"] = loss_options(loss)
    # The first of what is read again: tables, toys and results have parameters in the order in which they were made.
    params = list(loss.get_params(floating=None))
    return _loss_of, {"params": params, "kind": type(loss), "arguments": arguments}


def _loss_of(params: list[zfit.Parameter], kind: type, arguments: dict[str, Any]) -> Any:
    del params
    return kind(**arguments)


_PARTS: dict[type, Callable[[Any], Parts] | None] = {
    Nuisance: None,
    ModifiedYield: None,
    zfit.ComposedParameter: _composed,
    zfit.param.ConstantParameter: _constant,
    zfit.Parameter: _parameter,
    zfit.Space: _space,
    LogSpacePDF: _learned,
    zfit.pdf.BasePDF: _pdf,
    zfit.pdf.BinnedFromUnbinnedPDF: _binned_pdf,
    CountPDF: _count_pdf,
    zfit.Data: _events,
    zfit.data.BinnedData: _counts,
    NuisanceConstraint: _nuisances,
    zfit.constraint.SimpleConstraint: _function_constraint,
    BaseConstraint: _constraint,
    BaseUnbinnedNLL: _loss,
}
"""Function and arguments that make the objects of each kind. The first kind counts; the first two pickle."""

"""Models on their way to another process: zfit objects do not pickle, but know what they were made of."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import zfit  # before tensorflow, which it silences
import cloudpickle

from ..param import Nuisance
from ..pdf import LogSpacePDF, space_ranges


def dumps(content: Any) -> bytes:
    """Pickle anything that contains PDFs and parameters; one object stays one, wherever it appears.

    Args:
        content: The content.

    Raises:
        TypeError: If something in it cannot be pickled.
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


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, zfit.ComposedParameter):
            return _composed, (obj.name, obj._func, dict(obj.params))
        if isinstance(obj, zfit.param.ConstantParameter):
            return zfit.param.ConstantParameter, (obj.name, float(obj.value()))
        if isinstance(obj, zfit.Parameter) and not isinstance(obj, Nuisance):
            lower, upper = (None if edge is None else float(edge) for edge in (obj.lower, obj.upper))
            return _parameter, (
                obj.name,
                float(obj.value()),
                lower,
                upper,
                float(obj.stepsize),
                obj.floating,
                obj.label,
            )
        if isinstance(obj, zfit.Space):
            return _space, (space_ranges(obj),)
        if isinstance(obj, LogSpacePDF):
            return _learned, (type(obj), obj._arguments)
        if isinstance(obj, zfit.pdf.BasePDF):
            extended = obj.get_yield() if obj.is_extended else None
            return _foreign, (type(obj), dict(obj.params), obj.space, obj.norm, obj.name, obj.label, extended)
        return super().reducer_override(obj)


def _composed(name: str, function: Any, params: Mapping[str, Any]) -> zfit.ComposedParameter:
    return zfit.ComposedParameter(name, function, params=params, unpack_params=False)


def _parameter(
    name: str, value: float, lower: float | None, upper: float | None, step: float, floating: bool, label: str
) -> zfit.Parameter:
    return zfit.Parameter(name, value, lower, upper, stepsize=step, floating=floating, label=label)


def _space(ranges: Mapping[str, tuple[float, float]]) -> zfit.Space:
    lower, upper = zip(*ranges.values(), strict=True)
    return zfit.Space(list(ranges), lower=list(lower), upper=list(upper))


def _learned(kind: type[LogSpacePDF], arguments: Mapping[str, Any]) -> LogSpacePDF:
    return kind(**arguments)


def _foreign(
    kind: type, params: Mapping[str, Any], obs: zfit.Space, norm: zfit.Space, name: str, label: str, extended: Any
) -> zfit.pdf.BasePDF:
    return kind(**params, obs=obs, norm=norm, name=name, label=label, extended=extended)

"""What a model file says about its arrays: one schema for each kind of model, and how the model is made of it.

A model is determined by its constructor's arguments and its arrays (see :class:`~zfit_fnf.densities.networks.Model`). An
:class:`Entry` holds the arguments as plain data; models that an argument refers to are entries of their own, earlier
ones, so that a model that two others share is written once. The arguments also determine the shape of every array, which
is checked before anything of that size is made.

Reading and checking a manifest imports nothing that computes: an entry names the class of its model, which is imported
when the model is made.

To make a kind of model storable, write its entry and add it to ``KINDS``; if it is made of zfit objects, name its module
in ``RESULTS``.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ..common.checks import DEEPEST, LARGEST, MOST_COMPONENTS, MOST_POWER, WIDEST
from ..densities.history import Histories, History
from ..interop.architecture import NetworkShape, ZukoLayer

if TYPE_CHECKING:
    import tensorflow as tf

    from ..densities.flows import Flow
    from ..densities.networks import Model

FORMAT = 3
"""Version of the format that is written; older ones are migrated when they are read."""

_PACKAGE = __name__.partition(".")[0]
_PROBES = 16  # events by which a function is recognised
_MOST_PARTS = 100  # distributions and bijectors that a distribution is made of


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text[:100]!r} has characters that cannot be printed")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_printable)]
Names = Annotated[list[Text], Field(max_length=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Layers = Annotated[int, Field(ge=1, le=DEEPEST)]
Widths = Annotated[list[Annotated[int, Field(ge=1, le=WIDEST)]], Field(max_length=DEEPEST)]
Reference = Count
Edge = float | None  # none: unbounded
Power = Annotated[int, Field(ge=0, le=MOST_POWER)]
Positive = Annotated[float, Field(gt=0.0)]


def _ascending(window: tuple[float, float]) -> tuple[float, float]:
    if not window[0] < window[1]:
        raise ValueError(f"a window needs low < high, got {window}")
    return window


Window = Annotated[tuple[float, float], AfterValidator(_ascending)]


def _recorded(history: History) -> History:
    _printable(history.name)
    return history


Record = Annotated[History, AfterValidator(_recorded)]


class Array(NamedTuple):
    """What is known of an array of a model: its name, shape, dtype, and where the model has it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: str


class Schema(BaseModel):
    """Base of everything in a manifest: nothing is converted, nothing unknown is ignored, all numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Tensor(Schema):
    """A tensor of the file: dtype as in safetensors, shape, and SHA-256 of its bytes."""

    dtype: Literal["F64", "F32", "I64", "I32"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=32)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Manifest(Schema):
    """The whole: the last of the models is the one that was saved, the others are those it is made of."""

    format: Literal[3]
    written_by: dict[Text, Text]
    closure: dict[Text, float | Text]
    models: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tensors: dict[Text, Tensor]


@dataclass
class Parts:
    """What an entry may use to make its model: models before it, its arrays, and what the user supplies."""

    models: Sequence[Model]
    arrays: Mapping[str, np.ndarray]
    supplied: Mapping[str, Any]

    def model(self, index: int, kind: str) -> Any:
        """The model that an argument refers to, which has to be of a class, such as ``"densities.flows.Flow"``."""
        expected = class_of(kind)
        if not isinstance(self.models[index], expected):
            raise ValueError(f"refers to model {index} as a {expected.__name__}, but it is a {self.models[index]!r}")
        return self.models[index]


class Entry(Schema):
    """One model: the arguments of its constructor, and for each of its arrays the name of a tensor.

    A subclass names its ``kind`` and the class of its ``model``, has a field for each argument, lists its arrays in
    :meth:`layout`, and makes the model in :meth:`new`.
    """

    model: ClassVar[str]
    kind: str
    arrays: dict[Text, Text]

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Entry:
        """The entry with these fields, as they are in the file.

        Raises:
            pydantic.ValidationError: If they do not fit the schema.
        """
        return cls.model_validate_json(json.dumps(fields))

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The fields of the entry but ``arrays``, and the arrays by name."""
        fields = cls.fields_of(model, index_of)
        layout = cls.parse({**fields, "arrays": {}}).layout()
        return fields, {array.name: _at(model, array.path).numpy() for array in layout}

    @classmethod
    def fields_of(cls, model: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The fields of the entry but ``arrays``, as plain data for JSON."""
        fields = {"kind": kind_of(cls), **plain(model.config(), index_of)}
        if "history" in cls.model_fields:
            fields["history"] = plain(model.history, index_of)
        return fields

    def layout(self) -> Iterator[Array]:
        """Every array."""
        return iter(())

    def references(self) -> list[int]:
        """Indices of the models that this one is made of."""
        return []

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse arrays other than those of :meth:`layout`; costs nothing, whatever their sizes.

        Raises:
            ValueError: If an array is missing, not known, or of the wrong shape or dtype.
        """
        known = set()
        for array in self.layout():  # one after the other: arguments may ask for many more than the file has
            if array.name not in self.arrays:
                raise ValueError(f"lacks the array {array.name!r}")
            tensor = tensors[self.arrays[array.name]]
            if (tuple(tensor.shape), tensor.dtype) != (array.shape, array.dtype):
                raise ValueError(
                    f"has an array {array.name!r} of shape {tensor.shape} and dtype {tensor.dtype}; "
                    f"its arguments need {list(array.shape)} and {array.dtype}"
                )
            known.add(array.name)
        if unknown := sorted(set(self.arrays) - known):
            raise ValueError(f"has an array {unknown[0]!r} that models of this kind do not have")

    def make(self, parts: Parts) -> Model:
        """The model with its arrays."""
        model = self.new(parts)
        for array in self.layout():
            _at(model, array.path).assign(parts.arrays[array.name], read_value=False)
        self.verify(model)
        return model

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse a model that gives no numbers, when it is written and when it is read.

        Raises:
            ValueError: If it does not.
        """

    def new(self, parts: Parts) -> Any:
        """The model, with the arrays of a new one."""
        return class_of(self.model)(**self.arguments())

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """Lines about the model for people; ``entries`` are all of the file."""
        del entries
        return []

    def arguments(self) -> dict[str, Any]:
        """The fields that are arguments of the constructor under their own names."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "arrays", "history")
        }


class AutoregressiveEntry(Entry):
    """See :class:`~zfit_fnf.densities.flows.AutoregressiveDensity`."""

    model: ClassVar[str] = "densities.flows.AutoregressiveDensity"
    kind: Literal["autoregressive"] = "autoregressive"
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    family: Literal["mixture", "spline"]
    n_layers: Layers
    n_components: Annotated[int, Field(ge=1, le=MOST_COMPONENTS)]
    hidden: Widths

    def layout(self) -> Iterator[Array]:
        """The weights of the network of each layer."""
        k = self.n_components
        n_outputs = {"mixture": 3 * k + 2, "spline": 3 * k - 1}[self.family]
        for layer in range(self.n_layers):
            yield from _network(f"layers.{layer}.network", self.n_dim, self.n_context, n_outputs, self.hidden)

    def __str__(self) -> str:
        widths = " x ".join(map(str, self.hidden))
        return f"{self.family} of {self.n_components}, {self.n_layers} layer(s), hidden layers {widths}"


class CoordinatesEntry(Entry):
    """See :class:`~zfit_fnf.densities.coordinates.Coordinates`: what flows and transfers share."""

    obs: Names
    cond: Names
    ranges: dict[Text, tuple[Edge, Edge]]

    @classmethod
    def fields_of(cls, model: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The fields; JSON has no infinite numbers, so the edges of unbounded observables are null."""
        fields = super().fields_of(model, index_of)
        ranges = {name: [None if math.isinf(edge) else edge for edge in edges] for name, edges in model.ranges.items()}
        return {**fields, "ranges": ranges}

    def layout(self) -> Iterator[Array]:
        """The standardisation, observables first."""
        shape = (len(self.obs) + len(self.cond),)
        yield Array("centre", shape, "F64", "_centre")
        yield Array("scale", shape, "F64", "_scale")

    def coordinates(self, parts: Parts) -> dict[str, Any]:
        """The arguments of the constructor that make the coordinates."""
        centre, scale = (parts.arrays[name].tolist() for name in ("centre", "scale"))
        return {
            "obs": self.obs,
            "cond": self.cond,
            "ranges": {name: self._edges(name) for name in self.ranges},
            "standardisation": dict(zip(self.obs + self.cond, zip(centre, scale, strict=True), strict=True)),
        }

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The ranges of observables that have them."""
        bounded = [name for name, edges in self.ranges.items() if edges != (None, None)]
        return ["  {} in ({:g}, {:g})".format(name, *self._edges(name)) for name in bounded]

    def _edges(self, name: str) -> tuple[float, float]:
        low, high = self.ranges[name]
        return -math.inf if low is None else low, math.inf if high is None else high

    def __str__(self) -> str:
        return ", ".join(self.obs) + (f" | {', '.join(self.cond)}" if self.cond else "")


class FlowEntry(CoordinatesEntry):
    """See :class:`~zfit_fnf.densities.flows.Flow`."""

    model: ClassVar[str] = "densities.flows.Flow"
    kind: Literal["flow"] = "flow"
    density: Reference
    sum_weights: float | None
    history: Record | None

    def references(self) -> list[int]:
        """The density."""
        return [self.density]

    def new(self, parts: Parts) -> Any:
        """The flow, with its history."""
        density = parts.model(self.density, "densities.flows.Density")
        flow = class_of(self.model)(density=density, sum_weights=self.sum_weights, **self.coordinates(parts))
        flow.history = self.history
        return flow

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse a density that is not finite where events are."""
        points = np.random.default_rng(0).normal(size=(_PROBES, len(model.obs) + len(model.cond)))
        _check_finite("the log-density", _probe(model, points))

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The observables with their ranges, the density, the yield and the training."""
        total = "" if self.sum_weights is None else f", sum of weights {self.sum_weights:.6g}"
        lines = [f"flow p({self}): {entries[self.density]}{total}", *super().summary(entries)]
        return lines + ([f"  {self.history}"] if self.history else [])


class PhysicalFlowEntry(FlowEntry):
    """See :class:`~zfit_fnf.interop.physical.PhysicalFlow`.

    Its density is computed by code that is not in the file, which therefore holds the values at a few events.
    """

    model: ClassVar[str] = "interop.physical.PhysicalFlow"
    kind: Literal["physical_flow"] = "physical_flow"  # type: ignore[assignment]

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The flow, and its log-density at a few points of its coordinates."""
        fields = cls.fields_of(model, index_of)
        points = np.random.default_rng(0).normal(size=(4 * _PROBES, len(model.obs) + len(model.cond)))
        log_density = _probe(model, points)
        usable = np.flatnonzero(np.isfinite(log_density))[:_PROBES]
        if len(usable) < _PROBES:
            raise ValueError(
                f"the density of {model} is finite at {len(usable)} of {len(points)} points where its events should be: "
                "give typical events as events= when you wrap it"
            )
        return fields, {
            "centre": model._centre.numpy(),
            "scale": model._scale.numpy(),
            "probes": points[usable],
            "probed": log_density[usable],
        }

    @classmethod
    def verify(cls, model: Any) -> None:
        """The density may be zero outside of its support."""

    def layout(self) -> Iterator[Array]:
        """The standardisation; points ``(u, c)`` of the coordinates, and the log-density at each."""
        yield from super().layout()
        yield Array("probes", (_PROBES, len(self.obs) + len(self.cond)), "F64", "")
        yield Array("probed", (_PROBES,), "F64", "")

    def make(self, parts: Parts) -> Model:
        """The flow, if its density is what it was."""
        flow: Any = self.new(parts)
        try:
            now, then = _probe(flow, parts.arrays["probes"]), parts.arrays["probed"]
        except Exception as error:  # whatever the library or the function says of what does not fit
            raise ValueError(f"the density of {flow} cannot be evaluated: {error}") from error
        if not np.allclose(now, then, rtol=1e-9, atol=1e-9):
            raise ValueError(f"the density of {flow} is not the one that was stored: log-densities {now} were {then}")
        return flow


class DistributionEntry(Entry):
    """See :class:`~zfit_fnf.interop.tfp.DistributionDensity`; the arrays are the tensors among the parameters."""

    model: ClassVar[str] = "interop.tfp.DistributionDensity"
    kind: Literal["distribution"] = "distribution"
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    distribution: dict[str, Any]

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The classes and numbers that the distribution is made of."""
        from ..interop.tfp import describe

        config = model.config()
        arrays: dict[str, np.ndarray] = {}
        description = describe(config["distribution"], arrays)
        return {"kind": "distribution", "n_dim": config["n_dim"], "distribution": description}, arrays

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse what is made of too many parts; arrays may have any shape.

        Raises:
            ValueError: If it is.
        """
        if (n_parts := _count_parts(self.distribution)) > _MOST_PARTS:
            raise ValueError(
                f"is made of {n_parts} distributions and bijectors; more than {_MOST_PARTS} are not stored"
            )

    def make(self, parts: Parts) -> Model:
        """The density."""
        from ..interop.tfp import DistributionDensity, construct

        try:
            return DistributionDensity(construct(self.distribution, parts.arrays), self.n_dim)
        except Exception as error:  # whatever the library says of parameters that do not fit
            raise ValueError(f"its distribution cannot be made: {error}") from error

    def __str__(self) -> str:
        return str(self.distribution.get("class"))


class FunctionEntry(Entry):
    """See :class:`~zfit_fnf.interop.callable.FunctionDensity`: only the name of the function, which the user supplies."""

    model: ClassVar[str] = "interop.callable.FunctionDensity"
    kind: Literal["function"] = "function"
    name: Text
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count

    @classmethod
    def fields_of(cls, model: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The name."""
        return {"kind": kind_of(cls), "name": model.label, "n_dim": model.n_dim, "n_context": model.n_context}

    def make(self, parts: Parts) -> Model:
        """The function that the user supplies under this name."""
        supplied = parts.supplied.get(self.name)
        density: Any = getattr(supplied, "density", supplied)  # of a flow
        if not isinstance(density, class_of(self.model)):
            raise ValueError(
                f"contains the function {self.name!r}, which is not stored: make its flow again as before, and give it "
                f"as supplied={{{self.name!r}: flow}}"
            )
        if (density.n_dim, density.n_context) != (self.n_dim, self.n_context):
            raise ValueError(
                f"needs a function {self.name!r} of {self.n_dim} observables and {self.n_context} conditions; the one "
                f"supplied has {density.n_dim} and {density.n_context}"
            )
        return density

    def __str__(self) -> str:
        return f"function {self.name!r}, not stored"


class ResponseEntry(Entry):
    """See :class:`~zfit_fnf.densities.polynomial_map.Response`."""

    model: ClassVar[str] = "densities.polynomial_map.Response"
    kind: Literal["response"] = "response"
    nuisances: Annotated[list[Text], Field(min_length=1)]
    powers: Annotated[list[list[Power]], Field(min_length=1)]
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    n_single: Count
    n_layers: Layers
    hidden: Widths

    def layout(self) -> Iterator[Array]:
        """The calibration, and the weights of the network of each layer."""
        m = len(self.powers)
        yield Array("calibration", (m, self.n_single + m), "F64", "calibration")
        for layer in range(self.n_layers):
            yield from _network(f"networks.{layer}", self.n_dim, self.n_context, 2 * m, self.hidden)


class PolynomialMapEntry(Entry):
    """See :class:`~zfit_fnf.densities.polynomial_map.PolynomialMap`."""

    model: ClassVar[str] = "densities.polynomial_map.PolynomialMap"
    response: ClassVar[str] = "densities.polynomial_map.Response"
    kind: Literal["polynomial_map"] = "polynomial_map"
    responses: Annotated[list[Reference], Field(min_length=1)]
    windows: dict[Text, Window]

    def references(self) -> list[int]:
        """The responses."""
        return list(self.responses)

    def new(self, parts: Parts) -> Any:
        """The map."""
        return class_of(self.model)(**{**self.arguments(), "responses": self._responses(parts)})

    def _responses(self, parts: Parts) -> list[Any]:
        return [parts.model(index, self.response) for index in self.responses]

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse a map that does not take events to numbers at the edges of its windows."""
        import tensorflow as tf

        size, rng = model.responses[0].config(), np.random.default_rng(0)
        u, c = (tf.constant(rng.normal(size=(_PROBES, size[name]))) for name in ("n_dim", "n_context"))
        coefficients = model.coefficients(u, c)
        for edges in zip(*model.windows.values(), strict=True):
            moved, log_det = model.apply(u, c, coefficients, model.basis(tf.constant(edges, tf.float64)))
            _check_finite(
                f"the map at {dict(zip(model.windows, edges, strict=True))}", np.column_stack([moved, log_det])
            )

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """One line for each response, with its powers and the windows of its nuisances."""
        lines = []
        for response in (entries[index] for index in self.responses):
            powers = getattr(response, "powers", [])
            names = getattr(response, "nuisances", [])
            line = f"response to {' x '.join(names)}: powers {', '.join('*'.join(map(str, p)) for p in powers)}"
            lines.append(line + (self._about(names[0]) if len(names) == 1 else ""))
        return lines

    def _about(self, nuisance: str) -> str:
        return ", window ({:g}, {:g})".format(*self.windows[nuisance])


class YieldEntry(Schema):
    """See :class:`~zfit_fnf.YieldRatio`."""

    up: Positive | None
    down: Positive | None

    def __str__(self) -> str:
        sides = (("up", self.up), ("down", self.down))
        return ", ".join(f"{side} {ratio:g}" for side, ratio in sides if ratio is not None) or "unchanged"


class DeformationEntry(PolynomialMapEntry):
    """See :class:`~zfit_fnf.densities.deformation.Deformation`."""

    model: ClassVar[str] = "densities.deformation.Deformation"
    kind: Literal["deformation"] = "deformation"  # type: ignore[assignment]
    flow: Reference
    yields: dict[Text, YieldEntry]
    history: dict[Text, Record]

    def references(self) -> list[int]:
        """The flow and the responses."""
        return [self.flow, *super().references()]

    def new(self, parts: Parts) -> Any:
        """The deformation, with its histories."""
        from ..densities.deformation import YieldRatio

        flow, responses = parts.model(self.flow, "densities.flows.Flow"), self._responses(parts)
        yields = {name: YieldRatio(change.up, change.down) for name, change in self.yields.items()}
        own = {"flow": flow, "responses": responses, "yields": yields}
        deformation = class_of(self.model)(**{**self.arguments(), **own})
        deformation.history = Histories(self.history)
        return deformation

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """One line for each nuisance and interaction, with window, powers and yields, and the trainings."""
        return super().summary(entries) + [f"  {history}" for history in self.history.values()]

    def _about(self, nuisance: str) -> str:
        return super()._about(nuisance) + f", yield {self.yields[nuisance]}"


class TransferEntry(CoordinatesEntry):
    """See :class:`~zfit_fnf.densities.transfer.Transfer`."""

    model: ClassVar[str] = "densities.transfer.Transfer"
    kind: Literal["transfer"] = "transfer"
    processes: Names
    n_layers: Layers
    hidden: Widths

    def layout(self) -> Iterator[Array]:
        """The standardisation, and the weights of the network of each layer."""
        yield from super().layout()
        n_dim, n_context = len(self.obs), len(self.cond) + len(self.processes)
        for layer in range(self.n_layers):
            yield from _network(f"layers.{layer}.network", n_dim, n_context, 2, self.hidden)

    def new(self, parts: Parts) -> Any:
        """The transfer."""
        return class_of(self.model)(**{**self.arguments(), **self.coordinates(parts)})

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The observables with their ranges, and the processes."""
        each = f" for each of {', '.join(self.processes)}" if self.processes else ""
        return [f"transfer of {self}{each}: {self.n_layers} layer(s)", *super().summary(entries)]


class ProfiledTransferEntry(Entry):
    """See :class:`~zfit_fnf.densities.transfer.ProfiledTransfer`."""

    model: ClassVar[str] = "densities.transfer.ProfiledTransfer"
    kind: Literal["profiled_transfer"] = "profiled_transfer"
    transfer: Reference
    deformation: Reference
    centre: dict[Text, float]

    @classmethod
    def fields_of(cls, model: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The fields; the axes are an array."""
        fields = super().fields_of(model, index_of)
        del fields["axes"]
        return fields

    def layout(self) -> Iterator[Array]:
        """The axes, as columns."""
        yield Array("axes", (len(self.centre),) * 2, "F64", "_axes")

    def references(self) -> list[int]:
        """The two maps."""
        return [self.transfer, self.deformation]

    def make(self, parts: Parts) -> Any:
        """The map."""
        from ..densities.polynomial_map import check_dimensions

        transfer = parts.model(self.transfer, "densities.transfer.Transfer")
        deformation = parts.model(self.deformation, "densities.polynomial_map.PolynomialMap")
        check_dimensions(deformation.responses, len(transfer.obs), len(transfer.cond) + len(transfer.processes))
        if len(deformation.nuisances) != len(self.centre):
            raise ValueError(f"has {len(self.centre)} parameters, but a map that follows {len(deformation.nuisances)}")
        return class_of(self.model)(transfer, deformation, centre=self.centre, axes=parts.arrays["axes"])

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The parameters, and where the map has been fitted."""
        return [f"follows {', '.join(f'{name} from {value:g}' for name, value in self.centre.items())}"]


class ZukoEntry(Entry):
    """See :class:`~zfit_fnf.interop.zuko_density.ZukoDensity`."""

    model: ClassVar[str] = "interop.zuko_density.ZukoDensity"
    kind: Literal["zuko"] = "zuko"
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    layers: Annotated[list[ZukoLayer], Field(min_length=1, max_length=1000)]
    dtype: Literal["float32", "float64"]

    def layout(self) -> Iterator[Array]:
        """The weights of the network of each transform."""
        for place, layer in enumerate(self.layers):
            yield from _zuko_network(f"layers.{place}.network", layer.network, self.dtype)

    def __str__(self) -> str:
        return f"zuko {self.layers[0].law}, {len(self.layers)} transform(s)"


class ReferenceResponseEntry(Entry):
    """See :class:`~zfit_fnf.interop.reference.ReferenceResponse`."""

    model: ClassVar[str] = "interop.reference.ReferenceResponse"
    kind: Literal["reference_response"] = "reference_response"
    nuisances: Annotated[list[Text], Field(min_length=1, max_length=2)]
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    shapes: Annotated[list[NetworkShape], Field(min_length=1, max_length=1000)]
    dtype: Literal["float32", "float64"]

    def layout(self) -> Iterator[Array]:
        """The weights of the network of each layer."""
        for place, shape in enumerate(self.shapes):
            yield from _zuko_network(f"networks.{place}", shape, self.dtype)

    @property
    def powers(self) -> list[list[int]]:
        """Exponents of each monomial."""
        return [[1], [2]] if len(self.nuisances) == 1 else [[1, 1]]


class ReferenceDeformationEntry(DeformationEntry):
    """See :class:`~zfit_fnf.interop.reference.ReferenceDeformation`."""

    model: ClassVar[str] = "interop.reference.ReferenceDeformation"
    response: ClassVar[str] = "interop.reference.ReferenceResponse"
    kind: Literal["reference_deformation"] = "reference_deformation"  # type: ignore[assignment]
    centre: dict[Text, float]
    scale: dict[Text, float]
    quadratic_damping: float
    cross_term_damping: float


def kind_of(entry: type[Entry]) -> str:
    """What the file calls models with such entries."""
    return entry.model_fields["kind"].default


KINDS: dict[str, type[Entry]] = {
    kind_of(entry): entry
    for entry in (
        AutoregressiveEntry,
        DistributionEntry,
        FunctionEntry,
        FlowEntry,
        PhysicalFlowEntry,
        ResponseEntry,
        PolynomialMapEntry,
        DeformationEntry,
        TransferEntry,
        ProfiledTransferEntry,
        ZukoEntry,
        ReferenceResponseEntry,
        ReferenceDeformationEntry,
    )
}
"""The entry of each kind of model that can be stored."""


RESULTS = {"transfer_fit": ".doi.entries", "profiled_fit": ".doi.entries", "ensemble": ".doi.entries"}
"""Kinds made of zfit objects; the modules with their entries, which know zfit, are imported when one is needed."""


def entry_of(kind: Any) -> type[Entry]:
    """The entry of a kind.

    Raises:
        ValueError: If there is no such kind.
    """
    if not isinstance(kind, str) or kind not in {**KINDS, **RESULTS}:
        raise ValueError(f"is of an unknown kind; this version knows {sorted({**KINDS, **RESULTS})}")
    return KINDS[kind] if kind in KINDS else _entries_of_results()[kind]


def entry_type(model: Any) -> type[Entry]:
    """The entry of a model.

    Raises:
        TypeError: If models of its kind cannot be stored.
    """
    own = f"{type(model).__module__}.{type(model).__qualname__}".removeprefix(f"{_PACKAGE}.")
    known = {entry.model: entry for entry in KINDS.values()}
    if own not in known:
        known |= {entry.model: entry for entry in _entries_of_results().values()}
    if own not in known:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in known}))
        raise TypeError(f"a {type(model).__name__} cannot be stored; models that can are {names}")
    return known[own]


def class_of(name: str) -> Any:
    """A class of this package by its name, such as ``"densities.flows.Flow"``."""
    module, _, own = name.rpartition(".")
    return getattr(importlib.import_module(f".{module}", _PACKAGE), own)


def _entries_of_results() -> dict[str, type[Entry]]:
    modules = [importlib.import_module(name, _PACKAGE) for name in sorted(set(RESULTS.values()))]
    return {kind_of(entry): entry for module in modules for entry in module.ENTRIES}


def _network(path: str, n_inputs: int, n_context: int, n_outputs: int, hidden: Sequence[int]) -> Iterator[Array]:
    """The arrays of a :class:`~zfit_fnf.densities.networks.MaskedMLP`; without dependence no hidden layers."""
    used = hidden if n_context or n_inputs > 1 else ()
    widths = (n_context + n_inputs, *used, n_inputs * n_outputs)
    return _linear_maps(path, itertools.pairwise(widths), "F32")


def _zuko_network(path: str, shape: NetworkShape, dtype: str) -> Iterator[Array]:
    """The arrays of a :class:`~zfit_fnf.interop.zuko_density.ZukoNetwork`."""
    return _linear_maps(path, shape.linears, {"float32": "F32", "float64": "F64"}[dtype])


def _linear_maps(path: str, sizes: Iterable[tuple[int, int]], dtype: str) -> Iterator[Array]:
    for layer, (before, after) in enumerate(sizes):
        for name, shape in ((f"weights.{layer}", (before, after)), (f"biases.{layer}", (after,))):
            yield Array(f"{path}.{name}", shape, dtype, f"{path}.{name}")


def _count_parts(description: Any) -> int:
    """How many distributions and bijectors a description has, at any depth."""
    if isinstance(description, dict):
        return ("class" in description) + sum(map(_count_parts, description.values()))
    return sum(map(_count_parts, description)) if isinstance(description, list) else 0


def _check_finite(what: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what} is not finite for typical events")


def _probe(flow: Flow, points: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    d = len(flow.obs)
    return np.asarray(flow.log_density(tf.constant(points[:, :d]), tf.constant(points[:, d:])))


def _at(model: Any, path: str) -> tf.Variable:
    """The variable at a dotted path of attributes and places in lists."""
    for step in path.split("."):
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model


def plain(value: Any, index_of: Callable[[Any], int]) -> Any:
    """Plain data for JSON, models by their index."""
    from ..densities.networks import Model

    if isinstance(value, Model):
        return index_of(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), index_of)
    if isinstance(value, Mapping):
        return {str(key): plain(item, index_of) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, index_of) for item in value]
    return value.item() if isinstance(value, np.generic) else value

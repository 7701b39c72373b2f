"""Densities and maps in files: the entry of each class of this folder, without anything that computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from ..common.checks import DEEPEST, LARGEST, MOST_COMPONENTS
from ..storage.registry import class_of, register
from ..storage.schema import (
    Array,
    Count,
    Edge,
    Entry,
    Layers,
    Names,
    Parts,
    Positive,
    Power,
    Reference,
    Schema,
    Tensor,
    Text,
    Widths,
    Window,
    check_finite,
    linear_maps,
    printable_text,
)
from .basis import Basis
from .history import Histories, History

if TYPE_CHECKING:
    from .flows import Flow

__all__ = [
    "PROBES",
    "AutoregressiveEntry",
    "CoordinatesEntry",
    "DeformationEntry",
    "DisplacementEntry",
    "FlowEntry",
    "LogRatioEntry",
    "PolynomialMapEntry",
    "ProfiledTransferEntry",
    "Record",
    "ResponseEntry",
    "TransferEntry",
    "YieldEntry",
    "network_arrays",
    "probe",
]

HIGHEST_DEGREE, MOST_TERMS = 64, 100_000
HIGHEST_SUM, FRAME = 12, 24  # of displacements: degree of their functions, and functions of a frame
"""Limits of the polynomials of a log-ratio."""

PROBES = 16
"""Events by which a function is recognised."""


def _recorded(history: History) -> History:
    printable_text(history.name)
    if history.n_events < 0 or history.effective_size < 0:
        raise ValueError(f"has {history.n_events} events, which count like {history.effective_size:g}")
    return history


Record = Annotated[History, AfterValidator(_recorded)]


@register
class AutoregressiveEntry(Entry):
    """See :class:`~zfit_fnf.densities.flows.AutoregressiveDensity`."""

    model: ClassVar[str | type] = "densities.flows.AutoregressiveDensity"
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
            yield from network_arrays(f"layers.{layer}.network", self.n_dim, self.n_context, n_outputs, self.hidden)

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


@register
class FlowEntry(CoordinatesEntry):
    """See :class:`~zfit_fnf.densities.flows.Flow`."""

    model: ClassVar[str | type] = "densities.flows.Flow"
    kind: Literal["flow"] = "flow"
    density: Reference
    sum_weights: Positive | None
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
        points = np.random.default_rng(0).normal(size=(PROBES, len(model.obs) + len(model.cond)))
        check_finite("the log-density", probe(model, points))

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The observables with their ranges, the density, the yield and the training."""
        total = "" if self.sum_weights is None else f", sum of weights {self.sum_weights:.6g}"
        lines = [f"flow p({self}): {entries[self.density]}{total}", *super().summary(entries)]
        return lines + ([f"  {self.history}"] if self.history else [])


@register
class ResponseEntry(Entry):
    """See :class:`~zfit_fnf.densities.polynomial_map.Response`."""

    model: ClassVar[str | type] = "densities.polynomial_map.Response"
    kind: Literal["response"] = "response"
    nuisances: Annotated[list[Text], Field(min_length=1)]
    powers: Annotated[list[list[Power]], Field(min_length=1)]
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    n_single: Count
    n_layers: Layers
    hidden: Widths

    def layout(self) -> Iterator[Array]:
        """The score correction, and the weights of the network of each layer."""
        m = len(self.powers)
        yield Array("calibration", (m, self.n_single + m), "F64", "correction")
        for layer in range(self.n_layers):
            yield from network_arrays(f"networks.{layer}", self.n_dim, self.n_context, 2 * m, self.hidden)


@register
class LogRatioEntry(Entry):
    """See :class:`~zfit_fnf.densities.ratio.LogRatio`."""

    model: ClassVar[str | type] = "densities.ratio.LogRatio"
    kind: Literal["log_ratio"] = "log_ratio"
    nuisances: Annotated[list[Text], Field(min_length=1)]
    powers: Annotated[list[list[Power]], Field(min_length=1)]
    n_dim: Annotated[int, Field(ge=1, le=LARGEST)]
    n_context: Count
    degrees: Annotated[list[Annotated[float, Field(ge=0, le=HIGHEST_DEGREE)]], Field(min_length=1)]
    tails: bool

    def layout(self) -> Iterator[Array]:
        """The weights of the products."""
        n_terms = Basis(tuple(self.degrees), self.n_dim, self.tails).count(MOST_TERMS)
        yield Array("weights", (len(self.powers), n_terms), "F64", "weights")

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse arrays of other sizes, before the polynomials are listed."""
        super().check(tensors)
        if next(self.layout()).shape[1] > MOST_TERMS:
            raise ValueError(f"has more than {MOST_TERMS} products, which is as many as are read")


@register
class PolynomialMapEntry(Entry):
    """See :class:`~zfit_fnf.densities.polynomial_map.PolynomialMap`."""

    model: ClassVar[str | type] = "densities.polynomial_map.PolynomialMap"
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
        u, c = (tf.constant(rng.normal(size=(PROBES, size[name]))) for name in ("n_dim", "n_context"))
        coefficients = model.coefficients(u, c)
        for edges in zip(*model.windows.values(), strict=True):
            moved, log_det = model.inverse(u, c, coefficients, model.basis(tf.constant(edges, tf.float64)))
            check_finite(
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


@register
class DeformationEntry(PolynomialMapEntry):
    """See :class:`~zfit_fnf.densities.deformation.Deformation`."""

    model: ClassVar[str | type] = "densities.deformation.Deformation"
    kind: Literal["deformation"] = "deformation"  # type: ignore[assignment]
    flow: Reference
    yields: dict[Text, YieldEntry]
    ratios: list[Reference]
    history: dict[Text, Record]

    def references(self) -> list[int]:
        """The flow, the responses and the log-ratios."""
        return [self.flow, *super().references(), *self.ratios]

    def new(self, parts: Parts) -> Any:
        """The deformation, with its histories."""
        from ..densities.deformation import YieldRatio

        flow, responses = parts.model(self.flow, "densities.flows.Flow"), self._responses(parts)
        yields = {name: YieldRatio(change.up, change.down) for name, change in self.yields.items()}
        ratios = [parts.model(index, "densities.ratio.LogRatio") for index in self.ratios]
        own = {"flow": flow, "responses": responses, "yields": yields, "ratios": ratios}
        deformation = class_of(self.model)(**{**self.arguments(), **own})
        deformation.history = Histories(self.history)
        return deformation

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """One line for each nuisance and interaction, with window, powers and yields, and the trainings."""
        ratios = [f"log-ratio of {' x '.join(getattr(entries[i], 'nuisances', []))}" for i in self.ratios]
        return super().summary(entries) + ratios + [f"  {history}" for history in self.history.values()]

    @classmethod
    def verify(cls, model: Any) -> None:
        """Refuse a density that gives no numbers at the edges of its windows."""
        super().verify(model)
        if model.ratios:
            import tensorflow as tf

            for edges in zip(*model.windows.values(), strict=True):
                norm = model.reweighting.log_norm_at_anchors(tf.constant(edges, tf.float64))
                check_finite(f"the integral at {dict(zip(model.windows, edges, strict=True))}", norm.numpy())

    def _about(self, nuisance: str) -> str:
        return super()._about(nuisance) + f", yield {self.yields[nuisance]}"


@register
class TransferEntry(CoordinatesEntry):
    """See :class:`~zfit_fnf.densities.transfer.Transfer`."""

    model: ClassVar[str | type] = "densities.transfer.Transfer"
    kind: Literal["transfer"] = "transfer"
    processes: Names
    n_layers: Layers
    hidden: Widths
    n_knots: Count = 0  # files from before layers could bend have none

    def layout(self) -> Iterator[Array]:
        """The standardisation, and the weights of the network of each layer."""
        yield from super().layout()
        n_dim, n_context = len(self.obs), len(self.cond) + len(self.processes)
        for layer in range(self.n_layers):
            n_parameters = 2 + (self.n_knots + 1 if self.n_knots > 1 else 0)
            yield from network_arrays(f"layers.{layer}.network", n_dim, n_context, n_parameters, self.hidden)

    def new(self, parts: Parts) -> Any:
        """The transfer."""
        return class_of(self.model)(**{**self.arguments(), **self.coordinates(parts)})

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The observables with their ranges, and the processes."""
        each = f" for each of {', '.join(self.processes)}" if self.processes else ""
        return [f"transfer of {self}{each}: {self.n_layers} layer(s)", *super().summary(entries)]


@register
class DisplacementEntry(Entry):
    """See :class:`~zfit_fnf.densities.displacement.Displacement`."""

    model: ClassVar[str | type] = "densities.displacement.Displacement"
    kind: Literal["displacement"] = "displacement"
    powers: Annotated[list[list[Power]], Field(min_length=1)]
    n_dim: Annotated[int, Field(ge=1, le=DEEPEST)]
    n_cond: Annotated[int, Field(ge=0, le=DEEPEST)]
    n_maps: Annotated[int, Field(ge=1, le=LARGEST)]
    n_functions: Annotated[int, Field(ge=1, le=MOST_TERMS)]
    constant: bool = False  # files from before maps were polished have no constant part

    def layout(self) -> Iterator[Array]:
        """The weights of the fields of each coordinate, and its frame."""
        for j in range(self.n_dim):
            of_fields = min(self.n_functions, math.comb(self.n_cond + j + 1 + HIGHEST_SUM, HIGHEST_SUM))
            of_frame = min(FRAME, math.comb(self.n_cond + j + HIGHEST_SUM, HIGHEST_SUM))
            yield Array(
                f"weights.{j}", (self.n_maps, len(self.powers) + self.constant, of_fields), "F64", f"weights.{j}"
            )
            yield Array(f"frames.{j}", (self.n_maps, 2, of_frame), "F64", f"frames.{j}")

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The number of functions."""
        return [
            f"displacement by {self.n_functions} functions of each of {self.n_dim} coordinate(s), {self.n_maps} map(s)"
        ]


@register
class ProfiledTransferEntry(Entry):
    """See :class:`~zfit_fnf.densities.transfer.ProfiledTransfer`."""

    model: ClassVar[str | type] = "densities.transfer.ProfiledTransfer"
    kind: Literal["profiled_transfer"] = "profiled_transfer"
    transfer: Reference
    displacement: Reference
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
        return [self.transfer, self.displacement]

    def make(self, parts: Parts) -> Any:
        """The map."""
        transfer = parts.model(self.transfer, "densities.transfer.Transfer")
        displacement = parts.model(self.displacement, "densities.displacement.Displacement")
        own = (displacement.n_dim, displacement.n_cond, displacement.n_maps)
        if own != (expected := (len(transfer.obs), len(transfer.cond), transfer.n_maps)):
            raise ValueError(f"has a displacement of {own} coordinates, conditions and maps; expected {expected}")
        if len(displacement.axes) != len(self.centre):
            raise ValueError(f"has {len(self.centre)} parameters, but a map that follows {len(displacement.axes)}")
        return class_of(self.model)(transfer, displacement, centre=self.centre, axes=parts.arrays["axes"])

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The parameters, and where the map has been fitted."""
        return [f"follows {', '.join(f'{name} from {value:g}' for name, value in self.centre.items())}"]


def network_arrays(path: str, n_inputs: int, n_context: int, n_outputs: int, hidden: Sequence[int]) -> Iterator[Array]:
    """The arrays of a :class:`~zfit_fnf.densities.networks.MaskedMLP`; without dependence no hidden layers."""
    used = hidden if n_context or n_inputs > 1 else ()
    widths = (n_context + n_inputs, *used, n_inputs * n_outputs)
    return linear_maps(path, itertools.pairwise(widths), "F32")


def probe(flow: Flow, points: np.ndarray) -> np.ndarray:
    """Log-densities ``(n,)`` of a flow at points of its observables and conditions ``(n, d + c)``."""
    import tensorflow as tf

    d = len(flow.obs)
    return np.asarray(flow.log_density(tf.constant(points[:, :d]), tf.constant(points[:, d:])))

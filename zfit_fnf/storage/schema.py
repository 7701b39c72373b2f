"""What a model file says about its arrays, and the base of what it says about each kind of model.

A model is determined by its constructor's arguments and its arrays (see :class:`~zfit_fnf.densities.model.Model`). An
:class:`Entry` holds the arguments as plain data; models that an argument refers to are entries of their own, earlier
ones, so that a model that two others share is written once. The arguments also determine the shape of every array, which
is checked before anything of that size is made.

Reading and checking a manifest imports nothing that computes: an entry names the class of its model, which is imported
when the model is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from ..common.checks import DEEPEST, LARGEST, MOST_POWER, WIDEST
from . import registry

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "FORMAT",
    "Array",
    "Count",
    "Edge",
    "Entry",
    "Layers",
    "Manifest",
    "Names",
    "Parts",
    "Positive",
    "Power",
    "Reference",
    "Schema",
    "Tensor",
    "Text",
    "Widths",
    "Window",
    "check_finite",
    "linear_maps",
    "plain",
    "printable_text",
    "variable_at",
]

FORMAT = 5
"""Version of the format that is written; older ones are migrated when they are read."""


def printable_text(text: str) -> str:
    """A text, refused if it has characters that cannot be printed."""
    if not text.isprintable():
        raise ValueError(f"{text[:100]!r} has characters that cannot be printed")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(printable_text)]
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

    format: Literal[5]
    written_by: dict[Text, Text]
    closure: dict[Text, float | Text]
    models: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tensors: dict[Text, Tensor]


@dataclass
class Parts:
    """What an entry may use to make its model: models before it, its arrays, and what the user supplies."""

    models: Sequence[Any]
    arrays: Mapping[str, np.ndarray]
    supplied: Mapping[str, Any]

    def model(self, index: int, kind: str) -> Any:
        """The model that an argument refers to, which has to be of a class, such as ``"densities.flows.Flow"``."""
        expected = registry.class_of(kind)
        if not isinstance(self.models[index], expected):
            raise ValueError(f"refers to model {index} as a {expected.__name__}, but it is a {self.models[index]!r}")
        return self.models[index]


class Entry(Schema):
    """One model: the arguments of its constructor, and for each of its arrays the name of a tensor.

    Recipe. A subclass, registered by :func:`~zfit_fnf.storage.register`, names the class of its ``model`` and its
    ``kind``, which is what the file calls it, has a field for each argument that ``model.config()`` gives, with its limits,
    and lists the arrays in :meth:`layout`. Where arguments are models, they are a ``Reference`` each: list them in
    :meth:`references` and put them in their place in :meth:`new`.

    Example:
        A density and its entry, in one file:

        >>> class Normal(Density):
        ...     def __init__(self, n_dim, n_context=0):
        ...         super().__init__()
        ...         self.n_dim, self.n_context = n_dim, n_context
        ...         self.mean = tf.Variable(np.zeros(n_dim), dtype=tf.float32)
        ...     def log_density(self, u, c):
        ...         residual = u - tf.cast(self.mean, u.dtype)
        ...         return -0.5 * tf.reduce_sum(residual**2 + np.log(2 * np.pi), axis=-1)
        ...     def draw(self, c, seed):
        ...         normal = tf.random.stateless_normal((tf.shape(c)[0], self.n_dim), seed, c.dtype)
        ...         return normal + tf.cast(self.mean, c.dtype)
        ...     def config(self):
        ...         return {"n_dim": self.n_dim, "n_context": self.n_context}
        >>> @storage.register
        ... class NormalEntry(storage.Entry):
        ...     model = Normal
        ...     kind: Literal["normal"] = "normal"
        ...     n_dim: storage.Count
        ...     n_context: storage.Count
        ...     def layout(self):
        ...         yield storage.Array("mean", (self.n_dim,), "F32", "mean")
    """

    model: ClassVar[str | type]
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
        return fields, {array.name: variable_at(model, array.path).numpy() for array in layout}

    @classmethod
    def fields_of(cls, model: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
        """The fields of the entry but ``arrays``, as plain data for JSON."""
        fields = {"kind": registry.kind_of(cls), **plain(model.config(), index_of)}
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

    def make(self, parts: Parts) -> Any:
        """The model with its arrays."""
        model = self.new(parts)
        for array in self.layout():
            variable_at(model, array.path).assign(parts.arrays[array.name], read_value=False)
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
        return registry.class_of(self.model)(**self.arguments())

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """Lines about the model for people; ``entries`` are all of the file."""
        del entries
        return []

    def arguments(self) -> dict[str, Any]:
        """The fields that are arguments of the constructor under their own names."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "arrays", "history")
        }


def linear_maps(path: str, sizes: Iterable[tuple[int, int]], dtype: str) -> Iterator[Array]:
    """Weights and biases of a network, by the numbers of inputs and outputs of each layer."""
    for layer, (before, after) in enumerate(sizes):
        for name, shape in ((f"weights.{layer}", (before, after)), (f"biases.{layer}", (after,))):
            yield Array(f"{path}.{name}", shape, dtype, f"{path}.{name}")


def check_finite(what: str, values: np.ndarray) -> None:
    """Refuse a model whose values at typical events are not finite."""
    if not np.isfinite(values).all():
        raise ValueError(f"{what} is not finite for typical events")


def variable_at(model: Any, path: str) -> tf.Variable:
    """The variable at a dotted path of attributes and places in lists."""
    for step in path.split("."):
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model


def plain(value: Any, index_of: Callable[[Any], int]) -> Any:
    """Plain data for JSON, models by their index."""
    if callable(getattr(value, "weights_list", None)):  # a model, whose class is not imported here
        return index_of(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), index_of)
    if isinstance(value, Mapping):
        return {str(key): plain(item, index_of) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, index_of) for item in value]
    return value.item() if isinstance(value, np.generic) else value

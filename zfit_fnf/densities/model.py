"""Models: modules that constructor arguments and weights determine, and functions compiled once for each architecture."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Model", "PerArchitecture", "architecture", "same_model"]


class Model(tf.Module):
    """A module that is determined by its constructor arguments and the values of its variables.

    That is enough to send one to another process, and to compare two.
    """

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a module of the same architecture."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is constructed")

    def weights_list(self) -> list[np.ndarray]:
        """Values of all variables, in a fixed order."""
        return [variable.numpy() for variable in self.variables]

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Set all variables, in the order of :meth:`weights_list`."""
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value, read_value=False)

    def __reduce__(self) -> tuple[Any, ...]:
        record = getattr(self, "history", None)
        return _rebuild, (type(self), self.config(), self.weights_list()), {"history": record} if record else None


def _rebuild(cls: type[Model], config: dict[str, Any], values: Sequence[np.ndarray]) -> Model:
    model = cls(**config)
    model.assign(values)
    return model


class PerArchitecture:
    """A function of a model and tensors that XLA compiles once for all models of one architecture.

    The compiled code reads the weights of a model of its own, which takes over those of the model it is called for.

    Args:
        function: Takes a model and tensors; returns a nest of tensors.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._lock = threading.RLock()
        self._compiled: dict[Any, tuple[Model, Callable[..., Any]]] = {}

    @contextmanager
    def of(self, model: Model) -> Iterator[Callable[..., Any]]:
        """The compiled function of the tensors, with the weights as they are now; other threads wait meanwhile.

        In a graph it is compiled for the model alone and reads its weights: graphs run whenever they are called.
        """
        if not tf.executing_eagerly():
            yield self._compiled_for(model)
            return
        key = architecture(model)
        with self._lock:
            if key not in self._compiled:
                own = copy.deepcopy(model)
                self._compiled[key] = own, self._compiled_for(own)
            own, compiled = self._compiled[key]
            own.assign(model.variables)
            yield compiled

    def _compiled_for(self, model: Model) -> Callable[..., Any]:
        return tf.function(functools.partial(self._function, model), jit_compile=True, autograph=False)


def same_model(one: Model, other: Model) -> bool:
    """Whether two models are of one architecture and have equal weights."""
    if one is other:
        return True
    return architecture(one) == architecture(other) and all(
        np.array_equal(a, b) for a, b in zip(one.weights_list(), other.weights_list(), strict=True)
    )


def architecture(part: Any) -> Any:
    """What tells a model from others of which not only the weights differ: its type and the arguments that make it."""
    if isinstance(part, Model):
        return type(part), architecture(part.config())
    if isinstance(part, Mapping):
        return tuple((name, architecture(value)) for name, value in part.items())
    if isinstance(part, (list, tuple)):
        return tuple(map(architecture, part))
    return repr(part)

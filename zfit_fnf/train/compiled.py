"""Training loops that are compiled once for all models of one architecture."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ..densities.deformation import Deformation
from ..densities.floor import SHARE
from ..densities.flows import AutoregressiveDensity, Density
from ..densities.history import History
from ..densities.model import Model
from .loop import Maximiser, Prior
from .schedule import Schedule
from .sources import EventSource

__all__ = ["Parts", "TrainingLoop", "of_density", "of_last_response", "signed_floor"]


class TrainingLoop:
    """A training loop of all models of one architecture, which is compiled once.

    It trains a model of its own, which takes over the weights of the model that is to be trained, and gives them back.

    Args:
        model: The model of its own.
        parts: From a model to its log-density of minibatches, the variables that are trained, and their prior.
        schedule: How long and how fast.
    """

    _THREAD = threading.local()  # two threads must not train one model
    _MOST = 8

    def __init__(self, model: Model, parts: Callable[[Any], Parts], schedule: Schedule):
        self._model, self._parts = model, parts
        log_prob, self._variables, prior = parts(self._model)
        self._maximiser = Maximiser(log_prob, self._variables, schedule=schedule, floor=signed_floor, prior=prior)

    @classmethod
    def of(
        cls, model: Model, density: Density, shapes: Sequence[Any], parts: Callable[[Any], Parts], schedule: Schedule
    ) -> TrainingLoop:
        """The loop for a model with this density and responses of these shapes; the ones used last are kept."""
        if type(density) is not AutoregressiveDensity:  # what others are made of is not known
            return cls(model, parts, schedule)
        kept: dict[tuple[str, Schedule], TrainingLoop] = vars(cls._THREAD).setdefault("loops", {})
        key = repr((density.config(), shapes)), schedule
        loop = kept.pop(key, None) or cls(copy.deepcopy(model), parts, schedule)
        kept[key] = loop
        while len(kept) > cls._MOST:
            del kept[next(iter(kept))]
        return loop

    def train(self, model: Model, name: str, sources: Sequence[EventSource], *, seed: int, progress: bool) -> History:
        """Train a model; see `Maximiser`."""
        self._model.assign(model.weights_list())
        try:
            return self._maximiser(name, sources, seed=seed, progress=progress)
        finally:
            for variable, trained in zip(self._parts(model)[1], self._variables, strict=True):
                variable.assign(trained)


def signed_floor(u: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
    """Floor of negative weights, the logarithm ``(n,)`` of a thousandth of the Cauchy density of standardised events.

    Where a density is ten times that, and a seventh of its events have negative weights, it becomes too large by 1.8 %, since
    these push less; where it is a thousand times that by 0.02 %. Tails of a flow fall faster, so that single events of negative
    weights far away push nothing.
    """
    return SHARE - tf.reduce_sum(tf.math.log1p(tf.square(u)) + math.log(math.pi), axis=1)


Parts = tuple[Callable[..., tf.Tensor], Sequence[tf.Variable], Prior]


def of_density(density: Density) -> Parts:
    """The whole density is trained."""
    return lambda u, c, _: density.log_density(u, c), density.trainable_variables, density.prior()


def of_last_response(deformation: Deformation) -> Parts:
    """The last response is trained."""
    return deformation.log_density, deformation.responses[-1].trainable_variables, deformation.responses[-1].prior()

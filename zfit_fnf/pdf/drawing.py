"""Random numbers and checks of the code that draws events inside of a graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import zfit  # before tensorflow, which it silences
import tensorflow as tf

__all__ = ["ROUNDS", "drawing_from", "drawn", "new_seed", "plainly", "required"]

ROUNDS = 1000
"""Rounds of accept-reject sampling, after which hardly any event is accepted."""

_SAID = "\u00b6"  # around the messages of checks in a graph


@contextmanager
def plainly() -> Iterator[None]:
    """In here, what a graph refuses is a `ValueError` with the message alone."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if _SAID not in (said := str(error)):
            raise
        raise ValueError(said.split(_SAID)[1].replace("\\'", "'")) from None  # TensorFlow escapes quotes


def required(condition: tf.Tensor, message: str) -> list[tf.Operation]:
    """What to depend on, in a graph that runs inside of `plainly`."""
    check = tf.debugging.Assert(condition, [f"{_SAID}{message}{_SAID}"])
    return [] if check is None else [check]


_seeds: ContextVar[Iterator[tf.Tensor] | None] = ContextVar("seeds", default=None)


@contextmanager
def drawing_from(seed: tf.Tensor | None) -> Iterator[None]:
    """In here, and in this thread alone, seeds follow from a seed pair; by default they come from zfit's generator."""
    fold_in = tf.random.experimental.stateless_fold_in
    token = _seeds.set(None if seed is None else (fold_in(seed, number) for number in itertools.count()))
    try:
        yield
    finally:
        _seeds.reset(token)


def new_seed() -> tf.Tensor:
    """A fresh seed pair; from zfit's generator `zfit.settings.set_seed` makes samples reproducible."""
    seeds = _seeds.get()
    return zfit.z.random.get_prng().make_seeds(1)[:, 0] if seeds is None else next(seeds)


def drawn(pdf: zfit.pdf.BasePDF, limits: zfit.Space, n: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Events ``(n, n_obs)`` of a learned density that a seed pair determines; parts of zfit have zfit's generator.

    To be called while a graph is traced: zfit compiles what it draws with the seeds of the first time.
    """
    with drawing_from(seed):
        return pdf.sample(n=n, limits=limits).with_obs(pdf.obs).value()

r"""Base of the PDFs that are evaluated in log space, and what is asked of any PDF, ours or zfit's.

A density is evaluated in two steps, which is what makes fits fast:

1. *precompute*: everything that depends on the events alone (coordinates, coefficients of the deformations), once per
   data set;
2. *log-density*: the rest, a function of the parameters.

:func:`precompute` and :func:`log_density` do this for any PDF, also for those of zfit (which precompute nothing);
:mod:`zfit_fnf.loss` calls them. All densities are normalised by construction.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from ..common.checks import number
from . import logdensities
from .drawing import ROUNDS, drawing_from, new_seed, plainly, required
from .regions import Region
from .spaces import Ranges, columns, conditions, make_space, outputs, space_ranges

__all__ = [
    "LogSpacePDF",
    "components",
    "draw",
    "drawn_given",
    "integral",
    "is_compilable",
    "log_density",
    "precompute",
    "precompute_conditions",
    "precompute_with",
]

_ROUND_SIZE = 4096  # least number of events of a round of accept-reject sampling


class LogSpacePDF(zfit.pdf.BasePDF):
    """PDF that is evaluated in log space, in two steps; base class of all PDFs of this package.

    A subclass sets the attributes and ``_arguments`` (those of its constructor, for `copy`), and implements ``_precompute``,
    ``_log_shape`` (normalised over `ranges`), ``_draw`` and ``_log_fraction``; everything that zfit and the losses ask of a
    PDF follows.

    Attributes:
        ranges: Where the shape is normalised, ``(low, high)`` by observable.
        cond: Observables that the density is conditional on; they are among `obs`, but not integrated over.
    """

    ranges: Ranges
    cond: tuple[str, ...]
    _arguments: dict[str, Any]  # of the constructor

    def __init__(self, *args: Any, **settings: Any):
        expected = settings.get("extended")
        if expected is True:  # zfit makes that one event, a constant
            raise ValueError(
                f"extended=True of {settings.get('name')!r} says no number of events: give a yield, a number or a parameter"
            )
        if not (expected is None or isinstance(expected, (bool, BaseParameter))):
            what = f"the yield extended= of {settings.get('name')!r} (a zfit.Parameter may be negative)"
            plain = tf.is_tensor(expected) or isinstance(expected, (np.generic, np.ndarray))
            settings["extended"] = number(np.asarray(expected).tolist() if plain else expected, what, low=0.0)
        super().__init__(*args, **settings)

    def _precompute(self, x: tf.Tensor) -> Any:
        """Nest of tensors from events ``(n, n_obs)``, independent of all parameters."""
        raise NotImplementedError

    def _precompute_conditions(self, x: tf.Tensor) -> Any:
        """Nest of tensors from the conditions alone, for :meth:`_precompute_with` with other observables."""
        del x
        return ()

    def _precompute_with(self, x: tf.Tensor, given: Any) -> Any:
        """As :meth:`_precompute`, with what :meth:`_precompute_conditions` has made of the conditions."""
        del given
        return self._precompute(x)

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)``, normalised over `ranges`."""
        raise NotImplementedError

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        """Events ``(n, d)`` over `ranges` for the rows of the conditions ``(n, n_cond)``: the columns `outputs`."""
        raise NotImplementedError(f"{self.name!r} cannot be drawn: {type(self).__name__} has no _draw")

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        """Logarithm of the integral of the shape over a part of `ranges`, a scalar."""
        raise NotImplementedError

    @property
    def outputs(self) -> tuple[str, ...]:
        """The observables that the density describes; `obs` without the conditions."""
        return tuple(name for name in self.obs if name not in self.cond)

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return True

    def _log_density(self, precomputed: Any) -> tf.Tensor:
        # Trainings precompute events in float32; the integral is in float64.
        return tf.cast(self._log_shape(precomputed), tf.float64) - self.log_integral(self.norm)

    def log_integral(self, space: zfit.Space | bool) -> tf.Tensor | float:
        """Logarithm of the integral over a range; zero over that of the density itself."""
        return 0.0 if self._covers(space) else self._log_fraction(space_ranges(space))

    def _covers(self, space: zfit.Space | bool) -> bool:
        if not getattr(space, "has_limits", False):  # zfit's norm=False: the density as it is
            return True
        given = space_ranges(space)
        return all(given[name][0] <= low and given[name][1] >= high for name, (low, high) in self.ranges.items())

    @functools.cached_property
    def _regions(self) -> dict[Any, Region]:
        """Those in which probabilities were computed, by range; their points are chosen once."""
        return {}

    def _refuse_conditional(self) -> None:
        if self.cond:
            raise ValueError(
                f"{self.name!r} is conditional on {list(self.cond)} and cannot be integrated, sampled or normalised "
                f"over a part of its range {self.ranges} by itself; multiply it by their density with "
                "ConditionalProductPDF"
            )

    @zfit.supports(norm=True)
    def _log_pdf(self, x: zfit.Data, norm: zfit.Space | bool) -> tf.Tensor:
        events = x.value()
        value = self._log_shape(self._precompute(events)) - self.log_integral(norm)
        outside = _outside(columns(events, self.obs, self.outputs), self.outputs, space_ranges(self.space))
        return tf.where(outside, tf.fill(tf.shape(value), tf.constant(-np.inf, value.dtype)), value)

    @zfit.supports(norm=True)
    def _integrate(self, limits: zfit.Space, norm: zfit.Space | bool, options: Any = None) -> tf.Tensor:
        del options
        self._refuse_conditional()
        return tf.exp(tf.zeros((1,), tf.float64) + self.log_integral(limits) - self.log_integral(norm))

    @zfit.supports()
    def _sample(self, n: tf.Tensor, limits: zfit.Space) -> tf.Tensor:
        self._refuse_conditional()
        if self._covers(limits):
            return self._draw(tf.zeros((n, 0), tf.float64))
        return self._draw_inside(n, space_ranges(limits))

    def _draw_inside(self, n: tf.Tensor, ranges: Ranges) -> tf.Tensor:
        """Accept-reject, up to ``ROUNDS`` times."""
        rows, seed = tf.maximum(n, _ROUND_SIZE), new_seed()

        def more(number: tf.Tensor, events: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with drawing_from(tf.random.experimental.stateless_fold_in(seed, number)):
                new = self._draw(tf.zeros((rows, 0), tf.float64))
            return number + 1, tf.concat([events, tf.boolean_mask(new, ~_outside(new, self.obs, ranges))], axis=0)

        _, events = tf.while_loop(
            lambda number, events: tf.shape(events)[0] < n,
            more,
            (tf.constant(0), tf.zeros((0, len(self.obs)), tf.float64)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, len(self.obs)])),
            maximum_iterations=ROUNDS,
            parallel_iterations=1,
        )
        with tf.control_dependencies(
            required(n <= tf.shape(events)[0], f"hardly any event of {self.name} in {ranges}")
        ):
            return events[:n]

    def sample(self, n: Any = None, limits: Any = None, **options: Any) -> Any:
        """Draw events, as every PDF of zfit does.

        Args:
            n: Number of events; of an extended PDF by default a Poisson number.
            limits: Space to draw in; by default that of the PDF.
            **options: Further arguments of zfit's ``sample``.

        Raises:
            ValueError: If the number is negative, the density is negative where its events are, or the limits hold hardly
                any event.
        """
        if not (n is None or tf.is_tensor(n) or isinstance(n, (int, float, np.number))) or isinstance(n, bool):
            raise TypeError(f"the number of events of {self.name!r} is an integer; got {n!r}")
        if n is None and not self.is_extended:
            raise ValueError(f"{self.name!r} is not extended: give the number of events n=")
        self._refuse_conditional()
        if isinstance(n, (int, float, np.number)) and not (n >= 0 and float(n).is_integer()):
            raise ValueError(f"the number of events of {self.name!r} is an integer that is not negative; got {n}")
        if (
            n is None
            and self.is_extended
            and tf.executing_eagerly()
            and not float(expected := self.get_yield().value()) >= 0
        ):
            raise ValueError(f"{self.name!r} expects {expected:g} events: they cannot be drawn")
        with plainly():
            return super().sample(n, limits, **options)

    def copy(self, **overrides: Any) -> Any:
        """A new PDF from the same constructor arguments, some of them replaced.

        Args:
            **overrides: Arguments of the constructor.
        """
        arguments = dict(self._arguments)
        if self.is_extended and arguments["extended"] is not True:
            arguments["extended"] = self.get_yield()
        return type(self)(**{**arguments, **overrides})


def precompute(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What the density of ``pdf`` needs to know about events ``(n, n_obs)``: a nest of tensors, free of parameters."""
    return pdf._precompute(x) if isinstance(pdf, LogSpacePDF) else x


def precompute_conditions(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What ``pdf`` needs to know about the conditions of events ``(n, n_obs)``, for `precompute_with`."""
    return pdf._precompute_conditions(x) if isinstance(pdf, LogSpacePDF) else ()


def precompute_with(pdf: zfit.pdf.BasePDF, x: tf.Tensor, given: Any) -> Any:
    """The same as `precompute`, for events with the conditions that ``given`` was made of."""
    return pdf._precompute_with(x, given) if isinstance(pdf, LogSpacePDF) else x


def log_density(pdf: zfit.pdf.BasePDF, precomputed: Any) -> tf.Tensor:
    """Log-density ``(n,)`` float64 of precomputed events at the current parameters, normalised over ``pdf.norm``."""
    if isinstance(pdf, LogSpacePDF):
        return tf.cast(pdf._log_density(precomputed), tf.float64)
    return logdensities.log_density(pdf, tf.cast(precomputed, tf.float64))


def is_compilable(pdf: zfit.pdf.BasePDF) -> bool:
    """Whether XLA may compile the density of ``pdf``: yes for ours, not in general for those of zfit."""
    return isinstance(pdf, LogSpacePDF) and pdf.compilable


def components(pdf: zfit.pdf.BasePDF) -> Iterable[zfit.pdf.BasePDF]:
    """The PDF and, recursively, all those that it is made of."""
    yield pdf
    for daughter in getattr(pdf, "pdfs", ()):
        yield from components(daughter)


def draw(pdf: zfit.pdf.BasePDF, context: tf.Tensor) -> tf.Tensor:
    """Events ``(n, d)`` of any PDF for the rows of its conditions ``(n, n_cond)``, inside of a graph."""
    if conditions(pdf):
        return pdf._draw(context)
    # Those of zfit draw in loops of their own, in which one seed would be used again and again.
    with nullcontext() if isinstance(pdf, LogSpacePDF) else drawing_from(None):
        return pdf.sample(n=tf.shape(context)[0], limits=pdf.norm).value()


def drawn_given(pdf: zfit.pdf.BasePDF, given: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Events ``(n, n_obs)`` of a conditional density with these conditions ``(n, n_cond)``, determined by a seed pair."""
    with drawing_from(seed):
        new = draw(pdf, given)
    return columns(tf.concat([new, given], axis=1), (*outputs(pdf), *conditions(pdf)), pdf.obs)


def integral(pdf: zfit.pdf.BasePDF, ranges: Ranges) -> tf.Tensor:
    """Integral of any PDF over ranges by observable, a scalar."""
    return tf.reshape(pdf.integrate(make_space({name: ranges[name] for name in pdf.obs})), ())


def _outside(events: tf.Tensor, names: Sequence[str], ranges: Ranges) -> tf.Tensor:
    low, high = (np.array([ranges[name][side] for name in names]) for side in (0, 1))
    return tf.reduce_any((events < low) | (events > high), axis=1)

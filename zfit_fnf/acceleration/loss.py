"""Accelerated likelihoods: drop-in replacements of exact ones, evaluated by polynomials of their events."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..loss import (
    NLL,
    Channel,
    Compiled,
    EventChunks,
    EventTerm,
    ExtendedUnbinnedNLL,
    LogSpaceNLL,
    Parameters,
    Term,
    TermCalls,
    UnbinnedChannel,
    UnbinnedNLL,
    combined,
    event_kernel,
    outside_of_graphs,
    scores,
    select,
    total,
)
from ..param import values_of
from .chunks import ExpandedEvents, ExpandedKernel, expanded_kernel
from .control import AccelerationReport, Control
from .polynomials import expansion_of

__all__ = [
    "AcceleratedExtendedUnbinnedNLL",
    "AcceleratedNLL",
    "AcceleratedUnbinnedNLL",
    "ExpandedChannel",
    "LinearTerm",
    "accelerate",
    "sum_with_gradient",
]


def accelerate(nll: LogSpaceNLL, *, max_memory: float | None = None) -> AcceleratedNLL:
    """A likelihood with the same parameters, minimum and interface, whose evaluations are much cheaper.

    Use it in place of ``nll`` wherever a likelihood is evaluated many times: fits, MINOS, scans, limits, toys. The result
    is that of ``nll``: while a fit goes on the accelerated likelihood compares itself with the exact one, see
    :mod:`zfit_fnf.acceleration`. Values are right to 0.005, or to one per cent of their distance from a minimum that was
    found, whatever was evaluated before; what minimisers ask for on their way there (``full=False``, and the gradient
    alone) may be coarser.

    Args:
        nll: A loss of :mod:`zfit_fnf.loss`; it is not changed.
        max_memory: Bytes for polynomials and coefficients; events for which there is no room are evaluated exactly, as
            the report says. By default the option of the same name of ``nll``.

    Returns:
        The loss, of the kind (extended or not) of ``nll``. Its ``report`` tells what was done.

    Raises:
        TypeError: If ``nll`` is another loss.
        AccelerationError: From a fit, if the exact likelihood does not confirm its minimum.

    Example:
        >>> fast = accelerate(nll)
        >>> result = zfit_fnf.Minuit().minimize(fast)
        >>> print(fast.report)
    """
    if isinstance(nll, AcceleratedNLL):
        return nll
    kind = next((kind for kind in _KINDS if kind.exact_kind is type(nll)), None)
    if kind is None:
        raise TypeError(f"accelerate takes losses of zfit_fnf.loss, like ExtendedUnbinnedNLL; got {type(nll).__name__}")
    made_of = nll.made_of()
    options = made_of["options"] if max_memory is None else {**made_of["options"], "max_memory": max_memory}
    return kind(**{**made_of, "options": options})


class AcceleratedNLL(LogSpaceNLL):
    """What accelerated likelihoods share, made by `accelerate`: it evaluates, a `Control` decides.

    Attributes:
        report: What was done so far, an `AccelerationReport`.
    """

    exact_kind: type[LogSpaceNLL]
    """The class of the exact likelihood."""

    precedence = 1

    _control: Control | None = None  # of the data and constraints as they are
    _correction: LinearTerm | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        models = [channel.model for channel in self._channels if isinstance(channel, ExpandedChannel)]
        methods = [expansion_of(model).methods().items() for model in models]
        self.report = AccelerationReport(dict(itertools.chain.from_iterable(methods)))

    def sum_of(self, first: Any, second: Any) -> AcceleratedNLL:
        """The sum of this likelihood, which is one of the two, and another one; accelerated."""
        exact = (loss.exact() if isinstance(loss, AcceleratedNLL) else loss for loss in (first, second))
        return accelerate(combined(*exact))

    def exact(self) -> LogSpaceNLL:
        """The exact likelihood."""
        return self.exact_kind(**self.made_of())

    # --- what zfit calls ----------------------------------------------------------------------------------------------

    def value(self, *, params: Any = None, full: bool | None = None) -> tf.Tensor:
        """As that of the exact likelihood, which answers wherever the accelerated one may be wrong by more than is tolerated.

        Args:
            params: Values of parameters, by name; those left out have their current values.
            full: ``False`` for a value that a fit asks for, which is coarse as long as nothing better is needed; otherwise
                a minimum that a fit has found is confirmed, if none was yet.

        Returns:
            Scalar, float64.

        Raises:
            AccelerationError: If the exact likelihood is not at a minimum where the accelerated one is.
        """
        if full is False or not tf.executing_eagerly():
            return super().value(params=params, full=full)
        self._warn_outside_windows()
        with self.at(params):
            return self._controlled().value(confirm=params is None)

    def starting_point(self, params: Parameters) -> np.ndarray:
        """Where a fit should start, ``(P,)``: near the minimum, if that was searched for from here."""
        return self._controlled().starting_point(params)

    def compute_value(self) -> tf.Tensor:
        """The negative log-likelihood, coarse while a minimiser searches."""
        control = self._controlled()
        return control.coarse_value() if tf.executing_eagerly() else self.approximate()[0]

    def compute_value_gradient(self, params: Parameters, *, coarse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The negative log-likelihood and its gradient ``(P,)``, coarse if a minimiser searches."""
        params, control = list(params), self._controlled()
        if tf.executing_eagerly():
            return control.value_gradient(params, coarse=coarse)
        return self.approximate_gradient(params)[:2]

    def compute_hessian(self, params: Parameters) -> tf.Tensor:
        """The Hessian ``(P, P)``."""
        control, compute = self._controlled(), functools.partial(super().compute_hessian, params)
        return control.hessian(compute, tuple(params)) if tf.executing_eagerly() else compute()

    def _controlled(self) -> Control:
        """The control, with a centre for the data and constraints as they are."""
        with outside_of_graphs():
            _ = self.constraints, self.expanded_events()  # may be new
            if self._control is None:
                self._control = Control(self)
        return self._control

    def forget(self) -> None:
        """The data or the constraints are new."""
        self._control, self._correction = None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_control": None, "_correction": None}

    # --- what the control calls: an `Approximation` -------------------------------------------------------------------

    def approximate(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Negative log-likelihood, and how wrong it may be."""
        values, errors = [], []
        for kernel, calls in self.terms():
            if isinstance(kernel, ExpandedKernel):
                bounded = tf.add_n([kernel.bounded_value(*arguments) for arguments in calls])
                values.append(bounded[0])
                errors.append(bounded[1])
            else:
                values.append(tf.add_n([kernel.value(*arguments) for arguments in calls]))
        return total(values), total(errors)

    def approximate_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Negative log-likelihood, its gradient ``(P,)``, and how wrong the former may be."""
        return sum_with_gradient(self.terms(), params)

    def exact_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """The exact negative log-likelihood and its gradient ``(P,)``."""
        self.report = replace(self.report, n_exact=self.report.n_exact + 1)
        return sum_with_gradient(map(_exactly, super().terms()), params)[:2]

    def expanded_events(self) -> list[ExpandedEvents]:
        """The events that have polynomials, one entry for each data set."""
        terms = (term for channel in self.precomputed_channels() for term in channel.terms())
        return [events for _, events in terms if isinstance(events, ExpandedEvents)]

    def n_exact_events(self) -> int:
        """Number of events that have none."""
        unbinned = (channel for channel in self.channels if isinstance(channel, UnbinnedChannel))
        return sum(int(one.data.num_entries) for one in unbinned) - sum(e.n_events for e in self.expanded_events())

    def expand(self) -> None:
        """Make the polynomials around the current values of the parameters; a correction ends."""
        self._correction = None
        for events in self.expanded_events():
            events.move()
        n_expansions = self.report.n_expansions + 1
        self.report = replace(self.report, n_expansions=n_expansions, exact_events=self.n_exact_events())

    def correct(self, params: Parameters, slope: tf.Tensor) -> None:
        """Add a linear term that vanishes at the current values of the parameters."""
        self._correction = LinearTerm(params, slope)

    def squared_scores(self, params: Parameters, *, n_events: float = np.inf) -> np.ndarray:
        """Sum over the events of the squares of the score ``(P, P)``, or an estimate from about ``n_events`` of them."""
        return self.score_covariance(params, np.abs, n_events=n_events)

    def terms(self) -> Iterator[TermCalls]:
        """Kernels, with the arguments of all calls whose results add up."""
        yield from super().terms()
        if self._correction is not None:
            self._correction.follow_limits()
            yield self._correction, [()]

    def make_channel(self, model: Any, data: Any, *, extended: bool) -> Channel:
        """A channel, whose events have polynomials if it is unbinned."""
        exact = super().make_channel(model, data, extended=extended)
        return ExpandedChannel(model, data, extended=extended) if type(exact) is UnbinnedChannel else exact


class ExpandedChannel(UnbinnedChannel):
    """A channel whose events are evaluated by polynomials, as far as the model has some and there is room for them."""

    def _make_terms(self, x: np.ndarray, weights: np.ndarray, max_memory: float) -> list[EventTerm]:
        model = self.model
        if (kernel := expanded_kernel(model)) is None:
            return super()._make_terms(x, weights, max_memory)
        # In random order any chunk is like the others, and a few of them estimate what all of them would give.
        rows = np.random.default_rng(0).permutation(len(x))
        x, weights = x[rows], weights[rows]
        events = ExpandedEvents(kernel, x, weights, max_memory=max_memory)
        exact = event_kernel(model)
        others = EventChunks(exact, x[events.n_events :], weights[events.n_events :], max_memory=0.0)
        return [(kernel, chunks) for kernel, chunks in ((kernel, events), (exact, others)) if len(chunks)]

    def scores(self, x: np.ndarray, params: Parameters) -> np.ndarray:
        """As of the exact likelihood, with what is compiled already."""
        for kernel, events in self._event_terms:
            if isinstance(events, ExpandedEvents):
                kernel.follow_limits()
                return scores(self.model, x, params, (kernel, events.exact_of(x)), extended=self.extended)
        return super().scores(x, params)


class AcceleratedUnbinnedNLL(AcceleratedNLL, zfit.loss.UnbinnedNLL):
    """An accelerated `UnbinnedNLL`; see `accelerate`."""

    exact_kind = UnbinnedNLL


class AcceleratedExtendedUnbinnedNLL(AcceleratedNLL, zfit.loss.ExtendedUnbinnedNLL):
    """An accelerated `ExtendedUnbinnedNLL`; see `accelerate`."""

    exact_kind = ExtendedUnbinnedNLL


class AcceleratedCombinedNLL(AcceleratedNLL, NLL):
    """An accelerated `NLL`, of which the unbinned channels are accelerated; see `accelerate`."""

    exact_kind = NLL


_KINDS: tuple[type[AcceleratedNLL], ...] = (
    AcceleratedUnbinnedNLL,
    AcceleratedExtendedUnbinnedNLL,
    AcceleratedCombinedNLL,
)


class LinearTerm(Term):
    """A linear function of parameters that vanishes where they are now; implements the interface of a kernel.

    Args:
        params: The parameters.
        slope: Its gradient ``(P,)``.
    """

    def __init__(self, params: Parameters, slope: tf.Tensor):
        super().__init__(params)
        self._slope, self._origin = slope, values_of(params)
        self._values = Compiled(lambda: values_of(params), xla=True)

    def value(self) -> tf.Tensor:
        """The value, a scalar."""
        return self.value_gradient()[0]

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The value and the slope ``(P,)``."""
        return tf.tensordot(self._slope, self._values() - self._origin, 1), self._slope

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        """Zeros ``(D, P)``."""
        return tf.zeros_like(directions)


def sum_with_gradient(terms: Iterable[TermCalls], params: Parameters) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Sums of the values, of the gradients ``(P,)``, and of the errors of terms that have one."""
    values, gradients, errors = [], [], []
    for kernel, calls in terms:
        if is_expanded := isinstance(kernel, ExpandedKernel):
            results = [kernel.bounded_gradient(*arguments) for arguments in calls]
        else:
            results = [kernel.value_gradient(*arguments) for arguments in calls]
        value = tf.add_n([value for value, _ in results])
        values.append(value[0] if is_expanded else value)
        errors += [value[1]] if is_expanded else []
        gradients.append(select(tf.add_n([gradient for _, gradient in results]), kernel.params, params))
    return total(values), total(gradients, (len(params),)), total(errors)


def _exactly(term: TermCalls) -> TermCalls:
    """A term of the likelihood as it is without polynomials."""
    kernel, calls = term
    return (kernel, calls.exact()) if isinstance(calls, ExpandedEvents) else term

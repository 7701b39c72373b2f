r"""Channels: the measurements that a likelihood is a sum of, beside its auxiliary measurements.

Losses, toys, Asimov sets and influences ask channels, and do not know of what kind their data are. `UnbinnedChannel` has
events and any PDF; counts in bins have :mod:`zfit_fnf.loss.binned`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from ..common.chunks import SMALL_GRAPH
from ..param import read_once
from ..pdf import (
    UNBOUNDED,
    LogSpacePDF,
    columns,
    components,
    drawn,
    expected_events,
    log_density,
    plainly,
    precompute,
    space_ranges,
    sum_components,
    sum_shares,
)
from ..state import seeded
from .inputs import checked_data, kind_of
from .kernels import (
    Compiled,
    EventChunks,
    EventKernel,
    Parameters,
    Term,
    directions_along,
    event_kernel,
    kept_by,
    rate_kernel,
    yield_gradient,
)

__all__ = [
    "ASIMOV",
    "Channel",
    "EventDensity",
    "EventTerm",
    "TermCalls",
    "UnbinnedChannel",
    "channel_kind",
    "channels_of",
    "drawn_events",
    "scores",
]

ASIMOV = "asimov_set"
"""Name of weighted events that stand for an expectation, and do not fluctuate."""

EventTerm = tuple[EventKernel, EventChunks]
"""A kernel with the chunks of events that it is called on."""

_PLAIN = {f"zfit.models.{module}" for module in ("basic", "dist_tfp", "physics", "polynomials")}
"""Modules of densities that draw with zfit's generator; others may draw with TensorFlow's."""

_REJECTING = _PLAIN - {"zfit.models.dist_tfp"}
"""Those that draw by rejection within the range. Where it has no end, they would try for ever."""

_MANY_SCORES = 500_000  # of events along parameters, for which XLA compiles 3 s longer

TermCalls = tuple[Any, Iterable[tuple[Any, ...]]]
"""A term of a likelihood with the arguments of all calls whose results add up."""


class Channel(Protocol):
    r"""One measurement of a likelihood: data with their model, and all that depends on both.

    It does not change: where a loss gets another model or data set, it makes another channel.

    Recipe. Another kind of data is one module with a class that implements this protocol, registered for
    the class of its models, for which losses then make it::

        class CountingChannel:
            ...

        @channel_kind.register
        def _(model: Count) -> type[Channel]:
            return CountingChannel

    What :meth:`terms` gives are kernels, functions of zfit parameters that are compiled once and kept by the model, see
    :class:`~zfit_fnf.loss.kernels.Kernel` and :func:`~zfit_fnf.loss.kernels.kept_by`.

    Attributes:
        model: The PDF.
        data: Its data, a `zfit.Data` or `zfit.data.BinnedData`.
        extended: Whether the number of events is a part of the likelihood.
    """

    model: Any
    data: Any
    extended: bool

    def __init__(self, model: Any, data: Any, *, extended: bool) -> None:
        """``extended``: whether the number of events is a part of the likelihood."""

    @staticmethod
    def checked(model: Any, data: Any, weights: Any) -> zfit.Data:
        """The data that a user gives for a model; one clear error if they do not fit."""

    def is_current(self) -> bool:
        """Whether the data are still those that something was precomputed of."""

    def precompute(self, max_memory: float) -> None:
        """Compute what depends on the data alone, and keep at most ``max_memory`` bytes of it."""

    def terms(self) -> Iterator[TermCalls]:
        """What is added up to the negative log-likelihood of the channel."""

    def score_covariance(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], *, n_events: float = np.inf
    ) -> np.ndarray:
        r"""Sum :math:`\sum_i f(w_i) g_i g_i^T` ``(P, P)`` over events, :math:`g` the gradient of the logarithm of ``n p``.

        Args:
            params: The parameters.
            weigh: The function ``f`` of the weights.
            n_events: Number of events from which it may be estimated.
        """

    def sums_of_weights(self) -> tuple[float, float]:
        """Sums of the weights of the data and of their squares."""

    def scored(self, data: Any, params: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``(n,)`` of events, or counts in bins, and their scores ``(n, P)``, derivatives of the logarithm of ``n p``.

        Args:
            data: Data of the channel's kind.
            params: The parameters.
        """

    def n_expected(self) -> float:
        """Expected number of events at the current parameters; of the data, if the number is not fitted."""

    def draw(self, rng: np.random.Generator, seeds: Iterator[np.ndarray]) -> zfit.Data:
        """Data of one experiment at the current parameters, from a generator and seeds of events."""

    def asimov(self, params: Parameters, n_events: int, seeds: Iterator[np.ndarray]) -> zfit.Data:
        """Data that stand for the expectation at the current parameters, where the gradient in ``params`` vanishes."""

    def refillable(self) -> zfit.Data:
        """Data of the same kind whose contents can be replaced."""

    def refill(self, data: Any) -> None:
        """Replace the contents of the data, which are `refillable`, by those that were drawn."""


@functools.singledispatch
def channel_kind(model: Any) -> type[Channel]:
    """The class of channels for a model; register another one for another kind of models, see `Channel`."""
    raise TypeError(
        f"model= of an unbinned likelihood is a PDF of unbinned events, or a list of them; got {kind_of(model)}. "
        "The model comes first, then the data"
    )


@channel_kind.register
def _(model: zfit.pdf.BasePDF) -> type[Channel]:
    del model
    return UnbinnedChannel


def channels_of(nll: Any) -> list[Channel]:
    """The channels of a likelihood, ours or zfit's."""
    if hasattr(nll, "channels"):
        return list(nll.channels)
    pairs = zip(nll.model, nll.data, strict=True)
    return [channel_kind(model)(model, data, extended=nll.is_extended) for model, data in pairs]


class UnbinnedChannel:
    r"""Events and a PDF, :math:`n(\theta) - \sum_i w_i \log( n(\theta) p(x_i | \theta))`; without a yield, the sum of logs.

    Args:
        model: The PDF.
        data: The events, with the observables in the order of the model.
        extended: Whether the number of events is a part of the likelihood.
    """

    @staticmethod
    def checked(model: zfit.pdf.BasePDF, data: Any, weights: Any) -> zfit.Data:
        """Events, checked, with the observables in the order of the model."""
        return checked_data(model, data, weights)

    def __init__(self, model: zfit.pdf.BasePDF, data: zfit.Data, *, extended: bool):
        self.model, self.data, self.extended = model, data, extended
        self._forget()

    def _forget(self) -> None:
        self._version: tuple[Any, ...] | None = None
        self._event_terms: list[EventTerm] = []
        self._sum_weights: tf.Tensor | None = None
        self.weights = np.zeros(0)

    def __getstate__(self) -> dict[str, Any]:
        """All but what is precomputed."""
        fresh = object.__new__(type(self))
        fresh._forget()
        return {**vars(self), **vars(fresh)}

    # --- the likelihood -----------------------------------------------------------------------------------------------

    def is_current(self) -> bool:
        """Whether the events are those that something was precomputed of."""
        known = self._version
        return known is not None and all(then is now for then, now in zip(known, self._data_version(), strict=True))

    def _data_version(self) -> tuple[Any, ...]:
        """Objects that SamplerData replace by others whenever their events are replaced."""
        return getattr(self.data, "n_samples", None), self.data.weights

    def precompute(self, max_memory: float) -> None:
        """Compute what depends on the events alone, and keep at most ``max_memory`` bytes of it."""
        data = self.checked(self.model, self.data, None)  # those of SamplerData were not seen before
        x, self.weights = np.asarray(data.value()), _weights_of(data)
        self._event_terms = self._make_terms(x, self.weights, max_memory) if len(x) else []
        self._sum_weights = tf.constant(self.weights.sum())
        self._version = self._data_version()

    def _make_terms(self, x: np.ndarray, weights: np.ndarray, max_memory: float) -> list[EventTerm]:
        """Kernels, each with the chunks of its events."""
        kernel = event_kernel(self.model)
        return [(kernel, EventChunks(kernel, x, weights, max_memory=max_memory))]

    def terms(self) -> Iterator[TermCalls]:
        """The events, and their number if the likelihood is extended."""
        for kernel, events in self._event_terms:
            kernel.follow_limits()
            yield kernel, events
        if self.extended:
            yield rate_kernel(self.model), [(self._sum_weights,)]

    def score_covariance(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], *, n_events: float = np.inf
    ) -> np.ndarray:
        """As `Channel.score_covariance`, of all events or estimated from about ``n_events`` of them."""
        offset = _log_yield_gradient(self.model, params) if self.extended and self._event_terms else 0.0
        result, seen = np.zeros((len(params), len(params))), 0.0
        for kernel, events in self._event_terms:
            kernel.follow_limits()
            directions = directions_along(kernel.params, params)
            for chunk in events:
                if seen >= n_events:
                    break
                weights = np.asarray(chunk[1])
                scores = np.transpose(kernel.scores(directions, *chunk)) + offset
                result += scores.T @ (scores * weigh(weights)[:, None])
                seen += np.count_nonzero(weights)
        return result * (np.count_nonzero(self.weights) / max(seen, 1.0))

    def sums_of_weights(self) -> tuple[float, float]:
        """Sums of the weights and of their squares."""
        weights = _weights_of(self.data)
        return float(weights.sum()), float(np.square(weights).sum())

    def scored(self, data: zfit.Data, params: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """As `Channel.scored`."""
        return _weights_of(data), self.scores(np.asarray(data.with_obs(self.model.obs).value()), params)

    def scores(self, x: np.ndarray, params: Parameters) -> np.ndarray:
        """Derivatives ``(n, P)`` for some events of the logarithm of ``n p``, or of ``p`` if the number is not fitted."""
        return scores(self.model, x, params, extended=self.extended)

    # --- pseudo-experiments -------------------------------------------------------------------------------------------

    def n_expected(self) -> float:
        """Expected number of events at the current parameters; that of the data, if the number is not fitted.

        Raises:
            ValueError: If a yield is negative.
        """
        if not self.extended:
            return float(self.data.samplesize)
        expected = expected_events(self.model)
        if not expected >= 0:
            raise ValueError(
                f"model {self.model.name!r} expects {expected:g} events at the present parameters: a number of events "
                "is not negative"
            )
        return expected

    def draw(self, rng: np.random.Generator, seeds: Iterator[np.ndarray]) -> zfit.Data:
        """Events of one experiment; their number is a Poisson number, or that of the data if the number is not fitted."""
        n = int(rng.poisson(self.n_expected())) if self.extended else self._n_events()
        return self._as_data(drawn_events(self.model, self.model, n, next(seeds)))

    def _n_events(self) -> int:
        if self.data.has_weights:
            raise ValueError(
                f"toys of {self.model.name!r} need a number of events, which the weighted data {self.data.name!r} do "
                "not tell; use an extended likelihood"
            )
        return int(self.data.n_events)

    def asimov(self, params: Parameters, n_events: int, seeds: Iterator[np.ndarray]) -> zfit.Data:
        """Weighted events, ``n_events`` of each component of the model, see :func:`zfit_fnf.toys.asimov`."""
        model, expected = self.model, self.n_expected()
        if not expected:
            return self._as_data(np.zeros((0, len(model.obs))), np.zeros(0))
        parts = sum_components(model)
        x = np.concatenate([drawn_events(model, part, n_events, next(seeds)) for part in parts])
        log_p = _log_densities(model, parts, x)
        log_q = logsumexp(log_p, axis=0) - np.log(len(parts))
        # The components of a sum of zfit may be normalised over other ranges than the sum.
        ratio = (
            np.exp(EventDensity(model, x)() - log_q)
            if isinstance(model, zfit.pdf.SumPDF)
            else sum_shares(model) @ np.exp(log_p - log_q)
        )
        weights = ratio * expected / len(x)
        x, weights = x[weights > 0], weights[weights > 0]
        target = yield_gradient(model, params)[1] if self.extended else np.zeros(len(params))
        balanced = _balanced(weights, scores(model, x, params, extended=self.extended), target)
        return self._as_data(x, balanced)

    def refillable(self) -> zfit.data.SamplerData:
        """The same events as SamplerData."""
        x = np.asarray(self.data.with_obs(self.model.obs).value())
        return zfit.data.SamplerData.from_sampler(
            sample_func=lambda n, params: x,
            n=len(x),
            obs=self.model.norm,
            params={},
            name="toy_data",
            guarantee_limits=True,
        )

    def refill(self, data: zfit.Data) -> None:
        """Replace the events of `refillable` data."""
        self.data.update_data(data.value(), guarantee_limits=True)

    def _as_data(self, x: np.ndarray, weights: np.ndarray | None = None) -> zfit.Data:
        return zfit.Data.from_numpy(
            obs=self.model.norm,
            array=x,
            weights=weights,
            name="pseudo_data" if weights is None else ASIMOV,
            guarantee_limits=True,
        )


def _weights_of(data: zfit.Data) -> np.ndarray:
    return np.ones(int(data.num_entries)) if data.weights is None else np.asarray(data.weights, float)


def _balanced(weights: np.ndarray, scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights times ``1 + scores @ lambda`` such that the weighted sum of scores is the target.

    Directions that the events do not constrain are left alone, and all are scaled to unit information.
    """
    weighted = scores * weights[:, None]
    information = weighted.T @ scores
    scale = np.sqrt(np.diag(information))
    scale[scale == 0] = 1.0
    missing = (target - weighted.sum(axis=0)) / scale
    solution = np.linalg.lstsq(information / np.outer(scale, scale), missing, rcond=1e-10)[0]
    return weights * (1.0 + scores @ (solution / scale))


# --- events and their scores, for any model ---------------------------------------------------------------------------


def drawn_events(model: zfit.pdf.BasePDF, component: zfit.pdf.BasePDF, n: int, seed: np.ndarray) -> np.ndarray:
    """Events ``(n, n_obs)`` of a component of a model, in the model's range and order of observables.

    Args:
        model: The model.
        component: One of its components, or the model.
        n: How many.
        seed: The seed pair that determines them.

    Raises:
        ValueError: If a density of zfit would be drawn by rejection in a range without end.
    """
    if not n:
        return np.zeros((0, len(model.obs)))
    of_zfit = [part for part in components(component) if not isinstance(part, LogSpacePDF)]
    _refuse_endless(of_zfit, model.norm)
    plain = all(type(part).__module__ in _PLAIN for part in of_zfit)
    with seeded(seed, tensorflow=not plain) if of_zfit else nullcontext():
        if not isinstance(component, LogSpacePDF):
            return np.asarray(component.sample(n=n, limits=model.norm).with_obs(model.obs).value())
        draw = kept_by(component, f"draw in {space_ranges(model.norm)}", lambda: _Draw(component, model.norm))
        with plainly():
            return np.asarray(columns(draw.events(tf.constant(n), tf.constant(seed)), component.obs, model.obs))


def _refuse_endless(parts: Iterable[zfit.pdf.BasePDF], limits: Any) -> None:
    ranges = space_ranges(limits) if isinstance(limits, zfit.Space) else {}
    for part in (one for one in parts if type(one).__module__ in _REJECTING):
        if endless := [name for name in part.obs if np.max(np.abs(ranges.get(name, 0.0))) >= UNBOUNDED]:
            raise ValueError(
                f"{part.name!r} is drawn by trying values in the range of {endless}, which has no end: give it, and what it is "
                "added to, obs= with limits"
            )


class _Draw(Term):
    """Events of a learned density in a range."""

    def __init__(self, pdf: LogSpacePDF, limits: zfit.Space):
        super().__init__(pdf.get_params(floating=None))
        self.events = Compiled(functools.partial(drawn, pdf, limits), xla=False)


class EventDensity:
    """Logarithm of the density of events at the current parameters, ``(n,)`` when it is called.

    Args:
        model: Any PDF.
        x: Events ``(n, n_obs)`` in the order of its observables; what depends on them alone is computed once.
    """

    def __init__(self, model: zfit.pdf.BasePDF, x: np.ndarray):
        self._model, self._n = model, len(x)
        self._chunks = EventChunks(self._kernel(), x)

    def __call__(self) -> np.ndarray:
        return self._kernel()(self._chunks)[0, : self._n]

    def _kernel(self) -> _DensityKernel:
        return kept_by(self._model, "density", lambda: _DensityKernel(self._model, [self._model]))


def _log_densities(model: zfit.pdf.BasePDF, parts: Sequence[zfit.pdf.BasePDF], x: np.ndarray) -> np.ndarray:
    """Log-densities ``(C, n)`` of the components of a model at its events."""
    kernel = kept_by(model, "densities of components", lambda: _DensityKernel(model, parts))
    return kernel(EventChunks(kernel, x))[:, : len(x)]


class _DensityKernel(Term):
    """Log-densities of events of a model; without XLA, which compiles longer than these few evaluations take."""

    def __init__(self, model: zfit.pdf.BasePDF, parts: Sequence[zfit.pdf.BasePDF]):
        super().__init__(model.get_params(floating=None))
        self.precompute = Compiled(
            lambda x: [precompute(one, columns(x, model.obs, one.obs)) for one in parts], xla=False
        )
        self._log_densities = Compiled(
            read_once()(lambda events: tf.stack([log_density(*pair) for pair in zip(parts, events, strict=True)])),
            xla=False,
        )

    def chunk_size(self, n_events: int) -> int:
        """Events per call: one size for samples of all sizes, since each is compiled anew."""
        del n_events
        return SMALL_GRAPH

    def __call__(self, chunks: EventChunks) -> np.ndarray:
        """Log-densities ``(C, n)`` of precomputed events, including those that fill the last chunk."""
        return np.concatenate([self._log_densities(precomputed) for precomputed, _ in chunks], axis=1)


def scores(
    model: zfit.pdf.BasePDF,
    x: np.ndarray,
    params: Parameters,
    term: TermCalls | None = None,
    *,
    extended: bool | None = None,
) -> np.ndarray:
    """Derivatives ``(n, P)`` of the logarithm of the expected density ``n p`` of events.

    Args:
        model: The model.
        x: Events ``(n, n_obs)`` in the order of its observables.
        params: The parameters.
        term: A kernel and the chunks of these events, by default those of the exact density.
        extended: Whether the number of events is a part of the likelihood, by default that of a model with a yield; otherwise
            the derivatives are those of ``log p``.
    """
    result = np.zeros((len(x), len(params)))
    if not len(x):  # where none is expected, a logarithm of the yield has no derivative
        return result
    kernel, chunks = term or _scoring(model, x, len(params))
    own = [index for index, parameter in enumerate(params) if parameter in kernel.params]
    directions = directions_along(kernel.params, [params[index] for index in own])
    parts = [kernel.scores(directions, *chunk) for chunk in chunks] if own else []
    result[:, own] = np.concatenate(parts, axis=1)[:, : len(x)].T if own else 0.0
    counted = model.is_extended if extended is None else extended
    return result + (_log_yield_gradient(model, params) if counted else 0.0)


def _scoring(model: zfit.pdf.BasePDF, x: np.ndarray, n_params: int) -> TermCalls:
    kernel = event_kernel(model)
    if len(x) * n_params <= _MANY_SCORES and not kernel.score.n_traces:  # what is compiled already serves
        kernel = kept_by(model, "few scores", lambda: EventKernel(model, xla=False))
    return kernel, EventChunks(kernel, x)


def _log_yield_gradient(model: zfit.pdf.BasePDF, params: Parameters) -> np.ndarray:
    expected, gradient = yield_gradient(model, params)
    return gradient / expected

r"""Toys from one large pool of events: neither networks nor compilers work for them.

The pool is the Asimov set of the truth (`zfit_fnf.toys.asimov`): events of all components with weights :math:`w_i` that
add up to the expected number, and whose scores balance. A toy has :math:`n \sim \mathrm{Poisson}(\sum_i w_i)` of them
(as many as the data, if the likelihood is not extended), drawn with probabilities :math:`w_i / \sum_j w_j`. The pool was
expanded around the truth once (:mod:`zfit_fnf.acceleration`): a fit is then a few Newton steps, with the Hessian of
the pool, on polynomials that know how wrong they may be. Where that is too much, the same events are fitted without a pool.

What all toys share are the fluctuations of the pool. They do not shift fits, since the scores balance; what is left is the
spread of a sample of the size of the pool, e.g. :math:`1 / \sqrt{M}` of its information.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..acceleration import (
    RELATIVE,
    TOLERANCE,
    EventPool,
    ExpandedEvents,
    ExpandedKernel,
    accelerate,
    expanded_kernel,
    sum_with_gradient,
)
from ..loss import (
    Channel,
    TermCalls,
    UnbinnedChannel,
    channels_of,
    constraint_kernel,
    rate_kernel,
    total,
    total_hessian,
)
from ..minimize import Minuit
from ..minimum import Derivatives, inverse_of, settle
from ..state import seeds_from
from .experiments import PseudoExperiment, asimov, drawn_outcomes, refillable
from .fits import Fit, PoolReport, fits_of, hesse_errors

__all__ = ["ToyPool"]

_GOAL = 1e-6  # expected vertical distance to the minimum, as in fits of data
_CHECKS = 3  # toys that are fitted without a pool, too
_POOL = 2**31  # part of the seed that no toy has


class ToyPool:
    """A likelihood whose data are drawn from a pool, and its fits; parameters and global observables move.

    Args:
        nll: The likelihood, with the parameters at the truth.
        truth: Their values.
        n_events: Events of each component of each channel in the pool.
        seed: Seed of the pool; with the number of a toy, that of the toy.

    Raises:
        TypeError: If `accelerate` does not take it: it has to be a loss of :mod:`zfit_fnf.loss`.
        ValueError: If no density of it has polynomials.
    """

    def __init__(self, nll: Any, truth: dict[zfit.Parameter, float], n_events: int, seed: Sequence[int]):
        self.nll, self._truth, self._seed = accelerate(nll), truth, tuple(seed)
        self.params = list(truth)
        self._constraints = [constraint_kernel(constraint) for constraint in nll.constraints]
        data = asimov(nll, params=truth, n_events=n_events, seed=(*self._seed, _POOL)).data
        pairs = zip(channels_of(refillable(nll)), data, strict=True)
        self._channels = [_with_pool(channel, events, nll.max_memory) for channel, events in pairs]
        if not any(isinstance(one, _PooledChannel) for one in self._channels):
            raise ValueError(
                "pool= serves learned densities with responses to nuisances, and there are none: leave it out"
            )
        self.error, self._observed = 0.0, dict[zfit.Parameter, float]()
        for one in self._channels:
            one.expect()
        self._hessian = Derivatives(self, self.params).automatic_hessian(np.array(list(truth.values())))

    def fits(self, indices: Iterable[int]) -> Iterator[Fit]:
        """The fits of some toys."""
        return (self._fit(index) for index in indices)

    def report(self) -> PoolReport:
        """What the toys are worth, from the pool and from some toys that are fitted without it."""
        differences = [0.0]
        for index in range(_CHECKS):
            values, errors, converged = self._pooled_fit(index) or self._plain_fit(index)
            others = self._plain_fit(index)
            if converged and others[2]:
                differences += list(np.abs(np.subtract(values, others[0])) / errors)
        n_events = sum(len(pool.weights) for pool in self._pools)
        return PoolReport(n_events, self.n_independent, float(np.nanmax(differences)))

    @property
    def n_independent(self) -> float:
        """How many toys have as many events as the pool, in the channel where these are fewest."""
        return float(min(pool.weights.sum() / np.square(pool.weights).sum() for pool in self._pools))

    @property
    def _pools(self) -> list[EventPool]:
        return [one.pool for one in self._channels if isinstance(one, _PooledChannel)]

    # --- one toy ------------------------------------------------------------------------------------------------------

    def draw(self, index: int) -> None:
        """A toy is from now on the data; the parameters are at the truth, and global observables are its own."""
        rng = np.random.default_rng((*self._seed, index))
        seeds = seeds_from(int(rng.integers(2**31)))
        zfit.param.set_values(self._truth, clip=True)
        for channel in self._channels:
            channel.draw(rng, seeds)
        self._observed = drawn_outcomes(self.nll, rng)
        zfit.param.set_values(self._observed)

    def drawn(self) -> PseudoExperiment:
        """The toy that was drawn last."""
        return PseudoExperiment(tuple(channel.data() for channel in self._channels), self._observed, self._truth)

    def settle(self) -> _PoolDerivatives | None:
        """Newton steps from the truth to the minimum, where parameters are left; none where polynomials are not good enough."""
        start = np.array(list(self._truth.values()))
        derivatives = _PoolDerivatives(self, start, self._hessian)
        best = settle(derivatives, start, goal=_GOAL)
        derivatives.value_gradient(best.values)
        return derivatives if best.edm <= _GOAL and self.is_precise() else None

    def _fit(self, index: int) -> Fit:
        return self._pooled_fit(index) or self._plain_fit(index)

    def _pooled_fit(self, index: int) -> Fit | None:
        self.draw(index)
        if (derivatives := self.settle()) is None:
            return None
        values = np.array([float(parameter.value()) for parameter in self.params])
        errors = np.sqrt(np.diag(inverse_of(derivatives.hessian(values))))
        return values.tolist(), errors.tolist(), True

    def _plain_fit(self, index: int) -> Fit:
        self.draw(index)
        ((loss, result),) = fits_of(self.nll, [self.drawn()], Minuit())
        values = [float(parameter.value()) for parameter in self.params]
        return values, list(hesse_errors(loss, self.params).values()), bool(result.converged)

    # --- the likelihood of the toy, as minima of it want it -----------------------------------------------------------

    def get_params(self) -> list[zfit.Parameter]:
        """The floating parameters."""
        return self.params

    def is_precise(self, rise: float = 0.0) -> bool:
        """Whether the polynomials are good enough where the likelihood was evaluated last, by that much above its minimum."""
        return self.error <= max(TOLERANCE, RELATIVE * rise)

    def value(self, *, full: bool) -> float:
        """Negative log-likelihood of the toy."""
        return self.value_gradient(self.params, full=full)[0]

    def value_gradient(self, params: Sequence[zfit.Parameter], *, full: bool) -> tuple[float, np.ndarray]:
        """Negative log-likelihood and gradient ``(P,)`` of the toy; ``error`` is how wrong the former may be."""
        del full
        value, gradient, error = sum_with_gradient(self._terms(), params)
        self.error = float(error)
        return float(value), np.asarray(gradient)

    def hessian(self, params: Sequence[zfit.Parameter]) -> tf.Tensor:
        """Hessian ``(P, P)`` of the toy."""
        return total([total_hessian(kernel, calls, params) for kernel, calls in self._terms()], (len(params),) * 2)

    def _terms(self) -> Iterator[TermCalls]:
        for channel in self._channels:
            yield from channel.terms()
        yield from ((kernel, [()]) for kernel in self._constraints)


class _PoolDerivatives(Derivatives):
    """Derivatives of a toy that begin with the Hessian of the pool, and whose others are automatic."""

    def __init__(self, toys: ToyPool, start: np.ndarray, hessian: np.ndarray):
        super().__init__(toys, toys.params)
        self._hessian = start.tobytes(), hessian

    def hessian(self, point: np.ndarray) -> np.ndarray:
        """The Hessian ``(P, P)``."""
        if self._hessian[0] != point.tobytes():
            self._hessian = point.tobytes(), self.automatic_hessian(point)
        return self._hessian[1]


class _PooledChannel:
    """A channel whose events are drawn from a pool.

    Args:
        channel: The channel; the parameters are at the truth.
        kernel: The kernel of its model.
        data: The events of the pool, with weights.
        max_memory: Bytes for their polynomials.
    """

    def __init__(self, channel: Channel, kernel: ExpandedKernel, data: zfit.Data, max_memory: float):
        self._channel, self._kernel = channel, kernel
        rows = np.random.default_rng(0).permutation(int(data.num_entries))  # the first chunk stands for all
        self._x = np.asarray(data.value())[rows]
        events = ExpandedEvents(kernel, self._x, np.maximum(np.asarray(data.weights)[rows], 0.0), max_memory=max_memory)
        if events.n_events < len(rows):
            raise ValueError(
                f"pool= has room for {events.n_events} of {len(rows)} events of {channel.model.name!r}: make it smaller, or give "
                'the likelihood options={"max_memory": bytes}'
            )
        events.move()
        self.pool = EventPool(kernel, events)
        self._edges = np.cumsum(self.pool.weights)
        self._rows = rows[:0]
        self._events, self._n = self.pool.draw(self._rows), 0.0

    def expect(self) -> None:
        """The pool itself is the data."""
        self._events, self._n = self.pool.draw(np.arange(len(self._x)), self.pool.weights), self._edges[-1]

    def draw(self, rng: np.random.Generator, seeds: Iterator[np.ndarray]) -> None:
        """Data of one toy, from now on those of the channel."""
        del seeds
        expected = self._edges[-1] if self._channel.extended else self._channel.n_expected()
        n = int(rng.poisson(expected)) if self._channel.extended else round(expected)
        self._rows = np.searchsorted(self._edges, np.sort(rng.random(n)) * self._edges[-1], side="right")
        self._events, self._n = self.pool.draw(self._rows), float(n)

    def data(self) -> zfit.Data:
        """The events of the last toy."""
        space = self._channel.model.norm
        return zfit.Data.from_numpy(obs=space, array=self._x[self._rows], name="toy_data", guarantee_limits=True)

    def terms(self) -> Iterator[TermCalls]:
        """What is added up to the negative log-likelihood of the channel."""
        self._kernel.follow_limits()
        yield self._kernel, self._events
        if self._channel.extended:
            yield rate_kernel(self._channel.model), [(tf.constant(self._n, tf.float64),)]


class _PlainChannel:
    """A channel that draws its data anew."""

    def __init__(self, channel: Channel, max_memory: float):
        self._channel, self._max_memory, self._data = channel, max_memory, channel.data

    def expect(self) -> None:
        """One toy stands for what is expected."""
        self.draw(np.random.default_rng(0), seeds_from(0))

    def draw(self, rng: np.random.Generator, seeds: Iterator[np.ndarray]) -> None:
        """Data of one toy, from now on those of the channel."""
        self._data = self._channel.draw(rng, seeds)
        self._channel.refill(self._data)
        self._channel.precompute(self._max_memory)

    def data(self) -> Any:
        """Those of the last toy."""
        return self._data

    def terms(self) -> Iterator[TermCalls]:
        """What is added up to the negative log-likelihood of the channel."""
        return self._channel.terms()


def _with_pool(channel: Channel, data: Any, max_memory: float) -> _PooledChannel | _PlainChannel:
    kernel = expanded_kernel(channel.model) if isinstance(channel, UnbinnedChannel) and int(data.num_entries) else None
    return _PlainChannel(channel, max_memory) if kernel is None else _PooledChannel(channel, kernel, data, max_memory)

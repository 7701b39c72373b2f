"""One likelihood over many machines: chunks of events live where they are evaluated, and only sums travel.

The workers are those of a Dask cluster, on one machine, on HTCondor or on SLURM (dask-jobqueue). Each has its chunk of the events
of a channel with what depends on them alone, as an actor; yields and constraints stay here. Value, gradient and Hessian are sums
over the chunks: the same likelihood to rounding. A worker that dies costs time alone: its chunk is made again by another one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from .loss import (
    NLL,
    Channel,
    EventChunks,
    LogSpaceNLL,
    Parameters,
    Term,
    TermCalls,
    UnbinnedChannel,
    directions_along,
    event_kernel,
    rate_kernel,
    yield_gradient,
)
from .param import limits_of
from .pickling import dumps, loads

__all__ = ["DistributedNLL", "distribute"]

State = Mapping[str, tuple[float, float, float]]
"""Value and limits of each parameter, by its name."""

_TRIES = 5  # workers in a row that may die with one chunk


def distribute(nll: LogSpaceNLL, client: Any, *, chunks: int | None = None) -> DistributedNLL:
    """A likelihood with the same parameters, minimum and interface, whose events are spread over the workers of a cluster.

    Use it in place of ``nll`` where the events do not fit one machine, or one machine is too slow. The models are sent once to
    each worker, and so are the events; after that, an evaluation exchanges a few numbers for each parameter.

    Args:
        nll: A loss of :mod:`zfit_fnf.loss`, not accelerated; it is not changed.
        client: A ``dask.distributed.Client``; the extra ``dask`` installs it. Workers need this package, and as many processes
            as there are cores to be used: threads of one process share its zfit.
        chunks: In how many chunks the events of each channel are split; by default one for each worker.

    Raises:
        TypeError: If the loss is another one, or the client none of Dask.
        ValueError: If there are no workers.

    Example:
        >>> from distributed import Client, LocalCluster
        >>> with LocalCluster(n_workers=4, threads_per_worker=1) as cluster, Client(cluster) as client:
        ...     shared = zfit_fnf.distribute(nll, client)
        ...     result = zfit_fnf.Minuit().minimize(shared)
    """
    if type(nll).__module__ != LogSpaceNLL.__module__ and type(nll) is not NLL:
        raise TypeError(
            f"distribute takes losses of zfit_fnf.loss, like ExtendedUnbinnedNLL, as they are; got {type(nll).__name__}"
        )
    return DistributedNLL(**{"extended": list(nll.extended), **nll.made_of(), "cluster": _Cluster(client, chunks)})


class DistributedNLL(NLL):
    """A likelihood whose events are evaluated by the workers of a cluster, made by `distribute`."""

    precedence = 3

    def __init__(self, *args: Any, cluster: _Cluster, **kwargs: Any):
        self._cluster = cluster
        super().__init__(*args, **kwargs)

    def make_channel(self, model: Any, data: Any, *, extended: bool) -> Channel:
        """A channel, whose events are on the workers if it is unbinned."""
        channel = super().make_channel(model, data, extended=extended)
        if type(channel) is not UnbinnedChannel:
            return channel
        return _SharedChannel(model, data, extended=extended, cluster=self._cluster)

    def made_of(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().made_of(), "cluster": self._cluster}

    def sum_of(self, first: Any, second: Any) -> LogSpaceNLL:
        """Not available: add likelihoods before they are distributed."""
        raise TypeError("likelihoods are added before they are distributed: distribute(first + second, client)")


class _SharedChannel(UnbinnedChannel):
    """A channel whose events are on the workers of a cluster."""

    def __init__(self, model: Any, data: Any, *, extended: bool, cluster: _Cluster):
        self._cluster = cluster
        super().__init__(model, data, extended=extended)

    def _make_terms(self, x: np.ndarray, weights: np.ndarray, max_memory: float) -> list[Any]:
        return [(RemoteEvents(self.model, x, weights, self._cluster, max_memory), [()])]

    def terms(self) -> Iterator[TermCalls]:
        """The events, and their number if the likelihood is extended."""
        yield from self._event_terms
        if self.extended:
            yield rate_kernel(self.model), [(self._sum_weights,)]

    def score_covariance(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], *, n_events: float = np.inf
    ) -> np.ndarray:
        """As `Channel.score_covariance`, of all events."""
        del n_events
        offset = np.zeros(len(params))
        if self.extended and self._event_terms:
            expected, gradient = yield_gradient(self.model, params)
            offset = gradient / expected
        remote: list[Any] = [events for events, _ in self._event_terms]
        parts = (events.score_covariance(params, weigh, offset) for events in remote)
        return np.sum([*parts, np.zeros((len(params), len(params)))], axis=0)


class RemoteEvents(Term):
    """Minus the weighted sum of the log-densities of events on workers; implements the interface of a kernel.

    Args:
        model: Their PDF.
        x: Events ``(n, n_obs)``.
        weights: Weights ``(n,)``.
        cluster: The workers.
        max_memory: Bytes that all of them may keep.
    """

    def __init__(
        self, model: zfit.pdf.BasePDF, x: np.ndarray, weights: np.ndarray, cluster: _Cluster, max_memory: float
    ):
        super().__init__(model.get_params(floating=None, is_yield=False))
        parts = [rows for rows in np.array_split(np.arange(len(x)), cluster.n_chunks) if len(rows)]
        sent = [dumps((model, x[rows], weights[rows], max_memory / len(parts))) for rows in parts]
        self._chunks = [_Chunk(cluster, one) for one in sent]

    def value(self) -> tf.Tensor:
        """The sum, a scalar."""
        return tf.constant(sum(self._ask("value")), tf.float64)

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum and its gradient ``(P,)``."""
        values, gradients = zip(*self._ask("value_gradient"), strict=True)
        return tf.constant(sum(values), tf.float64), tf.constant(np.sum(gradients, axis=0))

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        """Products of the Hessian with vectors ``(D, P)``."""
        return tf.constant(np.sum(self._ask("hessian_vectors", np.asarray(directions)), axis=0))

    def score_covariance(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], offset: np.ndarray
    ) -> np.ndarray:
        """As `Channel.score_covariance`, with an offset ``(P,)`` of the scores."""
        names = [one.name for one in params]
        return np.asarray(np.sum(self._ask("score_covariance", names, weigh, offset), axis=0))

    def _ask(self, what: str, *arguments: Any) -> list[Any]:
        """The answers of all chunks to one question at the current values of the parameters."""
        state = {one.name: (float(one.value()), *limits_of(one)) for one in self.params}
        order = [one.name for one in self.params]
        for chunk in self._chunks:
            chunk.ask(what, state, order, *arguments)
        return [chunk.answer() for chunk in self._chunks]


class EventActor:
    """Events on a worker, which evaluates their density.

    Args:
        sent: The model, events, weights and the number of bytes that may be kept, from `dumps`.
    """

    def __init__(self, sent: bytes):
        model, x, weights, max_memory = loads(sent)
        self._kernel = event_kernel(model)
        self._chunks = EventChunks(self._kernel, x, weights, max_memory=max_memory)

    def value(self, state: State, order: Sequence[str]) -> float:
        """Minus the weighted sum of the log-densities."""
        self._set(state)
        del order
        return float(sum(float(self._kernel.value(*chunk)) for chunk in self._chunks))

    def value_gradient(self, state: State, order: Sequence[str]) -> tuple[float, np.ndarray]:
        """The same and its gradient, by the names of the parameters."""
        self._set(state)
        values, gradients = zip(*(self._kernel.value_gradient(*chunk) for chunk in self._chunks), strict=True)
        return float(sum(map(float, values))), np.sum(gradients, axis=0)[self._rows(order)]

    def hessian_vectors(self, state: State, order: Sequence[str], directions: np.ndarray) -> np.ndarray:
        """Products of the Hessian with vectors ``(D, P)``."""
        self._set(state)
        rows = self._rows(order)
        own = np.empty_like(directions)
        own[:, rows] = directions
        parts = [np.asarray(self._kernel.hessian_vectors(tf.constant(own), *chunk)) for chunk in self._chunks]
        return np.sum(parts, axis=0)[:, rows]

    def score_covariance(
        self,
        state: State,
        order: Sequence[str],
        names: Sequence[str],
        weigh: Callable[[np.ndarray], np.ndarray],
        offset: np.ndarray,
    ) -> np.ndarray:
        """As `Channel.score_covariance`, for parameters with these names."""
        self._set(state)
        del order
        own = {one.name: one for one in self._kernel.params}
        directions = directions_along(self._kernel.params, [own.get(name) for name in names])
        result = np.zeros((len(names), len(names)))
        for chunk in self._chunks:
            scores = np.transpose(self._kernel.scores(directions, *chunk)) + offset
            result += scores.T @ (scores * weigh(np.asarray(chunk[1]))[:, None])
        return result

    def _set(self, state: State) -> None:
        for parameter in self._kernel.params:
            value, low, high = state[parameter.name]
            if limits_of(parameter) != (low, high):  # they are built into compiled code
                parameter.lower, parameter.upper = low, high
            parameter.assign(value)
        self._kernel.follow_limits()

    def _rows(self, order: Sequence[str]) -> list[int]:
        own = [parameter.name for parameter in self._kernel.params]
        return [own.index(name) for name in order]


class _Cluster:
    """The workers of a Dask cluster.

    Args:
        client: The client.
        chunks: Number of chunks; by default that of the workers.
    """

    def __init__(self, client: Any, chunks: Any):
        if not all(hasattr(client, name) for name in ("submit", "scheduler_info", "get_executor")):
            raise TypeError(
                f"client= is a dask.distributed.Client, e.g. Client(LocalCluster()); got {type(client).__name__}"
            )
        if chunks is not None and (isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1):
            raise ValueError(f"chunks= is a positive integer; got {chunks!r}")
        self.client = client
        self.n_chunks = chunks or len(self.workers())
        self._next = itertools.count()

    def workers(self) -> list[str]:
        """Addresses of the workers that are alive."""
        if not (workers := sorted(self.client.scheduler_info(n_workers=-1)["workers"])):
            raise ValueError("the cluster of client= has no workers: wait for them, client.wait_for_workers(1)")
        return workers

    def place(self, sent: bytes) -> tuple[str, Any]:
        """An actor for some events, on one of the workers after the other: its address, and the future of the actor."""
        workers = self.workers()
        address = workers[next(self._next) % len(workers)]
        return address, self.client.submit(EventActor, sent, actor=True, workers=[address], pure=False)


class _Chunk:
    """Events on some worker, and the last question about them.

    Args:
        cluster: The workers.
        sent: What an `EventActor` is made of.
    """

    def __init__(self, cluster: _Cluster, sent: bytes):
        self._cluster, self._sent = cluster, sent
        self._address, self._actor = cluster.place(sent)
        self._ask: Callable[[], Any] = lambda: None
        self._answer: Any = None

    def ask(self, what: str, *arguments: Any) -> None:
        """Send a question, without waiting for the answer."""
        self._ask = lambda: getattr(self._actor.result(), what)(*arguments)
        try:
            self._answer = self._ask()
        except Exception:
            self._answer = None  # `answer` asks again

    def answer(self) -> Any:
        """The answer to the last question; events that nobody has any more are sent to another worker."""
        for _ in range(_TRIES):
            try:
                return (self._answer or self._ask()).result()
            except Exception:
                if self._address in self._cluster.workers():
                    raise
            self._address, self._actor = self._cluster.place(self._sent)
            self._answer = None
        raise RuntimeError(f"{_TRIES} workers in a row have died with the same events, perhaps for lack of memory")

"""Training of flows and deformations.

:func:`fit_flow` learns a nominal density; :func:`fit_deformation` learns the response to each nuisance alone from its
own samples, then the interactions from joint samples with everything else frozen. A trained model is a frozen object:
nothing here is needed to evaluate it.
"""

from __future__ import annotations

import copy
import functools
import itertools
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from ..common.checks import flag, integer, listed
from ..densities.deformation import Deformation, YieldRatio
from ..densities.flows import AutoregressiveDensity, Density, Flow
from ..densities.history import Histories, History, problems_of
from ..densities.networks import Model, same_model
from ..densities.polynomial_map import Response
from ..samples import Sample, Variation, as_sample, check_inside, check_trainable
from ..samples.pairing import fingerprint, same_events
from ..samples.screening import check_conditions, check_continuous, check_independent
from .loop import Batch, Maximiser, Schedule, TrainingStopped, n_held_out
from .plan import Plan, named_seed
from .score_correction import calibrate, vanish_at

__all__ = ["History", "Schedule", "TrainingStopped", "fit_deformation", "fit_flow"]


def fit_flow(
    nominal: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    weights: str | np.ndarray | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    family: str = "mixture",
    n_layers: int = 1,
    n_components: int = 8,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Flow:
    """Learn the nominal conditional density ``p(obs | cond)`` of one process.

    Args:
        nominal: Simulated events: DataFrame, mapping of arrays, zfit Data, :class:`~zfit_fnf.Sample` or file.
        obs: Columns whose density is learned.
        cond: Columns it is conditional on.
        weights: Event weights: a column name or an array; negative ones are allowed.
        ranges: Physical ``(low, high)`` of the observables that have them.
        family: ``"mixture"`` (smooth, default) or ``"spline"``.
        n_layers: Autoregressive layers.
        n_components: Components of the mixture, or bins of the spline.
        hidden: Widths of the hidden layers; default two of ``max(64, 16 d)``.
        schedule: Length and speed of the training.
        seed: Seed of the initial weights, of the validation split and of the shuffling.
        progress: Show a progress bar.

    Returns:
        The flow, with its :class:`History` as ``flow.history``.

    Raises:
        ValueError: For bad input; the message names the column and the remedy.
        TrainingStopped: If the loss diverges or the user interrupts; ``.model`` is the flow with the best weights so far,
            or ``None`` where they are no better than those of the start.

    Warns:
        UserWarning: If the training went wrong in a way that its record shows, see :attr:`History.problems`.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> events = {"y": rng.normal(size=5000)}
        >>> flow = fit_flow(events, obs=["y"], schedule=Schedule(steps=200), progress=False)
        >>> bool(abs(flow.log_prob({"y": [0.0]})[0] + 0.919) < 0.1)
        True
    """
    flow = Flow(
        obs, cond, ranges=ranges, family=family, n_layers=n_layers, n_components=n_components, hidden=hidden, seed=seed
    )
    schedule = _checked_schedule(schedule, Schedule())
    flag(progress, "progress")
    source = _Source.make(flow, nominal, weights)
    check_independent(source.sample, flow.obs, flow.cond)
    flow.standardise(source.sample)
    flow.sum_weights = source.sample.sum_weights
    loop = _Loop.of(flow.density, flow.density, (), _of_flow, schedule)
    name, mark = f"p({', '.join(flow.obs)})", fingerprint(source.sample, flow.obs + flow.cond)
    try:
        record = loop.train(flow.density, name, [source], seed=seed, progress=progress)
    except TrainingStopped as stopped:
        if stopped.history is None or not stopped.history.best_step:
            stopped.carry(None, "Nothing was learned that is worth keeping")
        else:
            flow.history = replace(stopped.history, fingerprint=mark)
            stopped.carry(flow, f"The best weights so far, of step {flow.history.best_step}, are those of .model")
        raise
    flow.history = replace(record, fingerprint=mark)
    _warn(problems_of({name: flow.history}))
    return flow


def fit_deformation(
    flow: Flow,
    variations: Sequence[Variation],
    *,
    weights: str | None = None,
    order: int = 2,
    interactions: Sequence[tuple[str, str]] | str = "auto",
    mirror: bool = False,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    trained: Deformation | None = None,
    progress: bool = True,
) -> Deformation:
    """Learn the response of a nominal density to its nuisances.

    Every nuisance is learned alone, from its own variations, so that adding one never retrains another. Interactions
    follow, each from the joint samples of its two nuisances, with everything else frozen. After its networks, the few
    numbers that place a response on its samples are fitted to all events at once (:mod:`zfit_fnf.train.score_correction`).

    A variation that holds the nominal events themselves, in any order, and with weights that differ by a constant factor
    only, changes the yield at most: the response is exactly zero there. The flow has to be one that was trained here.

    Args:
        flow: The nominal density; not changed.
        variations: Samples, each at a point of one nuisance, or of two for an interaction.
        weights: Column of event weights, the same in all samples.
        order: Highest power of a nuisance, 1 to 3. A nuisance with samples on one side only gets order 1.
        interactions: Pairs of nuisances; the default ``"auto"`` takes all pairs with joint samples. The monomials go
            up to ``order`` in each nuisance, as far as the joint points tell them apart: one point gives the product, the
            four corners all of ``nu_k^a nu_l^b`` with ``a, b <= 2``.
        mirror: Trust the linear response of a nuisance with samples on one side at the mirrored point too: its window
            becomes symmetric, and its yield change is inverted there.
        hidden: Widths of the hidden layers.
        schedule: Length and speed of each training; default 1500 steps of 2048 events.
        seed: Seed; each response derives its own from it and from its name.
        executor: ``concurrent.futures`` executor to train single nuisances in parallel, e.g. a
            ``ProcessPoolExecutor`` with the ``spawn`` method; likewise the interactions afterwards.
        trained: A deformation of the same flow whose responses are kept as they are: ``.model`` of an interrupted
            training, which goes on with what is missing; or one with fewer nuisances.
        progress: Show progress bars.

    Returns:
        The deformation, with a mapping ``history`` from the name of each response to its :class:`History`, which prints
        as a table.

    Raises:
        ValueError: For bad input: a variation at the origin, an interaction without joint samples or without its single
            nuisances, two samples at one point, an order that the points cannot determine.
        TrainingStopped: If a training diverges, is interrupted, or a process of the executor dies; ``.model`` is the
            deformation by what was trained so far (``None`` if that is nothing).

    Warns:
        UserWarning: If a training went wrong in a way that its record shows, see :attr:`History.problems`; for variations
            that hold the nominal events or those of another one, joint samples that are not used, and summed weights
            that are not of the size of the nominal ones.

    Example:
        >>> deformation = fit_deformation(flow, [Variation(up, at={"jes": 1}), Variation(down, at={"jes": -1})])
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"fit_deformation takes the Flow of the nominal events first, got a {type(flow).__name__}")
    variations = listed(variations, "variations", '[Variation(events, at={"jes": +1})]')
    plan = Plan.make(variations, order=order, interactions=interactions, mirror=mirror)
    schedule, seed = _checked_schedule(schedule, _OF_A_RESPONSE), integer(seed, "seed", low=0)
    flag(progress, "progress")
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor is one of concurrent.futures or the like, got a {type(executor).__name__}")
    if weights is not None and not isinstance(weights, str):
        raise TypeError("weights names a column of all samples; give arrays of weights as Sample(columns, weights=...)")
    sources = {id(v): _Source.make(flow, v.events, weights, at=v.at, name=v.name) for v in variations}
    assembly = _Assembly.of(flow, plan, sources, mirror)
    assembly.keep(trained)
    names = [names for names in (*plan.singles, *plan.pairs) if names not in assembly.trained]
    new = [response for name in names if assembly.moves(response := plan.response(name, flow, hidden, seed))]
    for source in sources.values():
        n_held_out(source.sample, schedule)
        flow.warn_of_outliers(source.sample)
    _warn(assembly.findings)
    try:
        for stage in (plan.singles, plan.pairs):
            tasks = [
                assembly.task(response, schedule, named_seed(seed, response.nuisances), progress and executor is None)
                for response in new
                if response.nuisances in stage
            ]
            _train_all(tasks, assembly, executor, progress=progress)
    except (Exception, KeyboardInterrupt) as error:
        raise _stopped(error, assembly) from error
    _warn(problems_of(assembly.history))
    return assembly.deformation()


_OF_A_RESPONSE = Schedule(steps=1500, batch_size=2048)


def _checked_schedule(schedule: Schedule | None, default: Schedule) -> Schedule:
    if schedule is None:
        return default
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule is a Schedule, e.g. Schedule(steps=2000), got {schedule!r}")
    return schedule


def _warn(messages: Sequence[str]) -> None:
    """Warn who called the caller, once."""
    if messages:
        warnings.warn("; ".join(messages), stacklevel=3)


# --- what a deformation is made of -------------------------------------------------------------------------------


def _yield_change(
    group: Sequence[Variation], sources: Mapping[int, _Source], nominal: float | None, mirror: bool
) -> YieldRatio:
    if nominal is None:
        return YieldRatio()
    ratio = {next(iter(v.at.values())): sources[id(v)].sample.sum_weights / nominal for v in group}
    up, down = ratio.get(1.0), ratio.get(-1.0)
    if mirror and (up is None) != (down is None):
        up, down = up or 1.0 / down, down or 1.0 / up  # type: ignore[operator]
    return YieldRatio(up=up, down=down)


def _without_effect(
    sources: Mapping[int, _Source], marks: Mapping[int, Sequence[float]], nominal: Sequence[float]
) -> frozenset[int]:
    """Keys of the sources at whose point a response has to vanish, because the events are those of a simpler point.

    A sample of one nuisance is that at zero if it holds the nominal events; a joint sample is that of one of its two
    nuisances if the other one has no effect at its value.
    """
    by_point = {frozenset(source.at.items()): marks[key] for key, source in sources.items()} | {frozenset(): nominal}
    idle: set[tuple[str, float]] = set()
    found = set()
    for key, source in sorted(sources.items(), key=lambda item: len(item[1].at)):
        point = frozenset(source.at.items())
        simpler = point - idle if len(point) > 1 else frozenset()
        if simpler != point and same_events(marks[key], by_point.get(simpler, []), source.sample.effective_size):
            found.add(key)
            idle |= point if len(point) == 1 else set()
    return frozenset(found)


def _nominal_ones(sources: Mapping[int, _Source], without_effect: frozenset[int]) -> list[str]:
    if not (found := [source.sample.name for key, source in sources.items() if key in without_effect]):
        return []
    return [
        f"samples {', '.join(map(repr, found))} hold the same events as the nominal one, or as the one without this "
        "nuisance: the shape does not change there. Are they the right files?"
    ]


def _copies(
    sources: Mapping[int, _Source], marks: Mapping[int, Sequence[float]], without_effect: frozenset[int]
) -> list[str]:
    pairs = itertools.combinations([key for key in sources if key not in without_effect], 2)
    copies = [
        f"{sources[a].sample.name!r} and {sources[b].sample.name!r}"
        for a, b in pairs
        if same_events(marks[a], marks[b], sources[a].sample.effective_size)
    ]
    return [f"samples {', '.join(copies)} hold the same events. Are they the right files?"] if copies else []


def _odd_yields(yields: Mapping[str, YieldRatio]) -> list[str]:
    odd = [
        f"by {ratio:.3g} with {name!r} {side}"
        for name, change in yields.items()
        for side, ratio in (("up", change.up), ("down", change.down))
        if ratio is not None and not 0.5 < ratio < 2.0
    ]
    if not odd:
        return []
    return [
        f"by their summed weights the yield changes {', '.join(odd)}: is weights= missing, or are the samples normalised "
        "differently?"
    ]


# --- responses, one after the other or at the same time ----------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """Everything needed to train one response, in this process or another."""

    flow: Flow
    frozen: list[Response]
    response: Response
    windows: dict[str, tuple[float, float]]
    sources: list[_Source]
    schedule: Schedule
    seed: int
    progress: bool


@dataclass(frozen=True)
class _Assembly:
    """A deformation that grows, response by response."""

    flow: Flow
    plan: Plan
    sources: Mapping[int, _Source]
    without_effect: frozenset[int]
    yields: Mapping[str, YieldRatio]
    findings: list[str]
    trained: dict[tuple[str, ...], Response] = field(default_factory=dict)
    history: Histories = field(default_factory=Histories)

    @classmethod
    def of(cls, flow: Flow, plan: Plan, sources: Mapping[int, _Source], mirror: bool) -> _Assembly:
        """Nothing yet, but what is found in the samples."""
        yields = {
            name: _yield_change(group, sources, flow.sum_weights, mirror) for (name,), group in plan.singles.items()
        }
        marks = {key: fingerprint(source.sample, flow.obs + flow.cond) for key, source in sources.items()}
        without_effect = _without_effect(sources, marks, flow.history.fingerprint if flow.history else [])
        findings = [*_nominal_ones(sources, without_effect), *_copies(sources, marks, without_effect)]
        return cls(flow, plan, sources, without_effect, yields, [*findings, *_odd_yields(yields)])

    def keep(self, trained: Deformation | None) -> None:
        """Take over the responses of another deformation of the same flow, but those whose training was interrupted."""
        if trained is None:
            return
        if not isinstance(trained, Deformation):
            raise TypeError(f"trained= is a Deformation, got a {type(trained).__name__}")
        if not same_model(trained.flow, self.flow):
            raise ValueError("trained= is a deformation of another flow")
        for response in trained.responses:
            if self.plan.powers.get(response.nuisances) != response.powers:
                raise ValueError(
                    f"trained= has a response to {response.nuisances} with the monomials {response.powers}, which these "
                    f"variations and settings do not ask for (but {self.plan.powers.get(response.nuisances)})"
                )
            record = trained.history.get(_label(response.nuisances))
            if record is None or not record.interrupted:
                self.add(response, record)

    def add(self, response: Response, record: History | None) -> None:
        """Add a response that has been trained."""
        self.trained[response.nuisances] = response
        if record is not None:
            self.history[record.name] = record

    def moves(self, response: Response) -> bool:
        """Make a new response vanish where it has no effect; adds it if that is everywhere."""
        group = self._group(response)
        points = [self.sources[id(v)].at for v in group if id(v) in self.without_effect]
        if vanish_at(response, points) and len(points) < len(group):
            return True
        if len(points) < len(group):
            raise ValueError(
                f"the samples of {_label(response.nuisances)} are the nominal one at {[dict(point) for point in points]}, "
                "but not elsewhere: no response of this order is zero there only. Choose a higher order"
            )
        samples = [self.sources[id(v)].sample for v in group]
        n_events, effective = (sum(getattr(s, name) for s in samples) for name in ("n_events", "effective_size"))
        self.add(response, History(_label(response.nuisances), n_events=n_events, effective_size=effective))
        return False

    def task(self, response: Response, schedule: Schedule, seed: int, progress: bool) -> _Task:
        """The training of a new response."""
        return _Task(
            flow=self.flow,
            frozen=[self.trained[(name,)] for name in response.nuisances if len(response.nuisances) > 1],
            response=response,
            windows={name: self.plan.windows[name] for name in response.nuisances},
            sources=[self.sources[id(v)] for v in self._group(response) if id(v) not in self.without_effect],
            schedule=schedule,
            seed=seed,
            progress=progress,
        )

    def _group(self, response: Response) -> list[Variation]:
        return {**self.plan.singles, **self.plan.pairs}[response.nuisances]

    def deformation(self) -> Deformation:
        """The deformation by all responses so far, in the order of the variations.

        Raises:
            ValueError: If there is none.
        """
        order = [names for names in (*self.plan.singles, *self.plan.pairs) if names in self.trained]
        singles = [names[0] for names in order if len(names) == 1]
        result = Deformation(
            self.flow,
            [self.trained[names] for names in order],
            windows={name: self.plan.windows[name] for name in singles},
            yields={name: self.yields[name] for name in singles},
        )
        labels = [_label(names) for names in order]
        result.history = Histories({label: self.history[label] for label in labels if label in self.history})
        return result


def _label(nuisances: Sequence[str]) -> str:
    return " x ".join(nuisances)


def _train_all(tasks: Sequence[_Task], assembly: _Assembly, executor: Executor | None, *, progress: bool) -> None:
    """Train responses and add them to a deformation, also those that are ready when one fails."""
    if executor is None:
        for task in tasks:
            _add_result(functools.partial(_train_response, task), assembly)
        return
    futures: list[Future[tuple[Response, History]]] = []
    try:
        futures += [executor.submit(_train_response, task) for task in tasks]
        for future in tqdm(futures, desc="responses", disable=not progress):
            future.result()
    finally:
        for future in futures:
            future.cancel()
        for future in futures:
            if future.done() and not future.cancelled():
                with suppress(Exception, KeyboardInterrupt):
                    _add_result(future.result, assembly)


def _add_result(result: Callable[[], tuple[Response, History]], assembly: _Assembly) -> None:
    """Add a response, also one whose training has been stopped, if it is better than none."""
    try:
        assembly.add(*result())
    except TrainingStopped as stopped:
        if isinstance(stopped.model, Response) and stopped.history is not None and stopped.history.best_step:
            assembly.add(stopped.model, stopped.history)
        raise


def _stopped(error: BaseException, assembly: _Assembly) -> TrainingStopped:
    """What went wrong, with what was trained before."""
    if isinstance(error, TrainingStopped):
        stopped = TrainingStopped(str(error), error.step, error.learning_rate)
        stopped.history = error.history
    elif isinstance(error, KeyboardInterrupt):
        stopped = TrainingStopped("the training was interrupted")
    elif isinstance(error, BrokenExecutor):
        stopped = TrainingStopped(f"a process that trains has died, perhaps for lack of memory ({error})")
    else:
        stopped = TrainingStopped(f"the training failed: {type(error).__name__}: {error}")
    if not assembly.trained:
        stopped.carry(None, "Nothing had been trained yet")
        return stopped
    ready = [_label(names) for names in assembly.trained]
    stopped.carry(
        assembly.deformation(),
        f"What is ready ({', '.join(ready)}) is in .model; fit_deformation(..., trained=stopped.model), with everything "
        "else as before, goes on with the rest",
    )
    return stopped


def _train_response(task: _Task) -> tuple[Response, History]:
    deformation = Deformation(task.flow, [*task.frozen, task.response], windows=task.windows)
    sources = [replace(source, basis=_basis_at(deformation, source.at)) for source in task.sources]
    shapes = [(response.shape, response.powers) for response in deformation.responses]
    loop = _Loop.of(deformation, task.flow.density, shapes, _of_deformation, task.schedule)
    label = _label(task.response.nuisances)
    try:
        history = loop.train(deformation, label, sources, seed=task.seed, progress=task.progress)
    except TrainingStopped as stopped:
        stopped.model = task.response
        raise
    calibrate(deformation, task.response, sources)
    return task.response, history


def _basis_at(deformation: Deformation, at: Mapping[str, float]) -> np.ndarray:
    return deformation.basis(tf.constant(deformation.point(at))).numpy()


# --- training loops -----------------------------------------------------------------------------------------------


class _Loop:
    """A training loop of all models of one architecture, which is compiled once.

    It trains a model of its own, which takes over the weights of the model that is to be trained, and gives them back.

    Args:
        model: The model of its own.
        parts: From a model to its log-density of minibatches, and to the variables that are trained.
        schedule: How long and how fast.
    """

    _THREAD = threading.local()  # two threads must not train one model
    _MOST = 8

    def __init__(self, model: Model, parts: Callable[[Any], _Parts], schedule: Schedule):
        self._model, self._parts = model, parts
        log_prob, self._variables = parts(self._model)
        self._maximiser = Maximiser(log_prob, self._variables, schedule=schedule)

    @classmethod
    def of(
        cls, model: Model, density: Density, shapes: Sequence[Any], parts: Callable[[Any], _Parts], schedule: Schedule
    ) -> _Loop:
        """The loop for a model with this density and responses of these shapes; the ones used last are kept."""
        if not isinstance(density, AutoregressiveDensity):  # what others are made of is not known
            return cls(model, parts, schedule)
        kept: dict[tuple[str, Schedule], _Loop] = vars(cls._THREAD).setdefault("loops", {})
        key = repr((density.config(), shapes)), schedule
        loop = kept.pop(key, None) or cls(copy.deepcopy(model), parts, schedule)
        kept[key] = loop
        while len(kept) > cls._MOST:
            del kept[next(iter(kept))]
        return loop

    def train(self, model: Model, name: str, sources: Sequence[_Source], *, seed: int, progress: bool) -> History:
        """Train a model; see `Maximiser`."""
        self._model.assign(model.weights_list())
        try:
            return self._maximiser(name, sources, seed=seed, progress=progress)
        finally:
            for variable, trained in zip(self._parts(model)[1], self._variables, strict=True):
                variable.assign(trained)


_Parts = tuple[Callable[..., tf.Tensor], Sequence[tf.Variable]]


def _of_flow(density: Density) -> _Parts:
    return lambda u, c, _: density.log_density(u, c), density.trainable_variables


def _of_deformation(deformation: Deformation) -> _Parts:
    """The last response is trained."""
    return deformation.log_density, deformation.responses[-1].trainable_variables


# --- where the events come from ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Training events at one point of the nuisances, handed out as standardised minibatches."""

    flow: Flow
    sample: Sample
    at: Mapping[str, float]
    basis: np.ndarray

    @classmethod
    def make(
        cls, flow: Flow, events: Any, weights: Any, *, at: Mapping[str, float] | None = None, name: str | None = None
    ) -> _Source:
        sample = as_sample(events, flow.obs + flow.cond, weights=weights, name=name)
        check_trainable(sample)
        check_inside(sample, flow.ranges)
        check_continuous(sample, flow.obs)
        check_conditions(sample, flow.cond)
        return cls(flow, sample, at or {}, np.zeros(0))

    def batch(self, rows: np.ndarray) -> Batch:
        """``u, c, basis, w`` in float32; standardised in float64 first, where large offsets cancel."""
        u, c, _ = self.flow.encode(
            tf.constant(self.sample.array(self.flow.obs, rows)), tf.constant(self.sample.array(self.flow.cond, rows))
        )
        w = self.sample.relative_weights(rows)
        basis = np.broadcast_to(self.basis, (len(rows), len(self.basis)))
        return tuple(np.asarray(column, np.float32) for column in (u, c, basis, w))

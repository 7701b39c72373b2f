"""Training of a deformation: single nuisances first, each alone, then the interactions with everything else frozen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import flag, integer, listed, number
from ..common.parallel import Executor, WorkerDied, check_executor, run
from ..common.warning import warn
from ..densities.deformation import Deformation
from ..densities.flows import Flow
from ..densities.history import History, label_of, problems_of
from ..densities.polynomial_map import Response
from ..densities.ratio import LogRatio
from ..samples import Sample, Simulation, Variation
from ..samples.pairing import are_paired, fingerprint, same_events
from .assembly import Assembly, Nominal, Task, Wanted
from .between import off_between_of_map
from .candidates import Candidates
from .choice import choose
from .closure import biased_ones
from .compiled import TrainingLoop, of_last_response
from .findings import pruned_ones
from .loop import held_out_rows, n_held_out
from .plan import Plan, named_seed
from .schedule import Schedule, TrainingStopped, checked_schedule
from .score_correction import NoMaximum, correct_score, scale
from .sources import EventSource, no_weights_beside
from .weights import by_weights

__all__ = ["fit_deformation", "train_response"]

_EXAMPLE = '[Variation(events, at={"jes": +1})]'
_OF_A_RESPONSE = Schedule(steps=1500, batch_size=2048)


def fit_deformation(
    flow: Flow,
    variations: Sequence[Variation] | Simulation,
    *,
    weights: str | None = None,
    order: int = 2,
    interactions: Sequence[tuple[str, str]] | str = "auto",
    mirror: bool = False,
    nominal: Any = None,
    map: bool | str = "auto",
    ratio: bool | str = "auto",
    keep: Sequence[str | tuple[str, str]] = (),
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    trained: Deformation | None = None,
    n_data: float | None = None,
    progress: bool = True,
) -> Deformation:
    """Learn the response of a nominal density to its nuisances.

    Every nuisance is learned alone, from its own variations, so that adding one never retrains another. Interactions
    follow, each from the joint samples of its two nuisances, with everything else frozen. After its networks, the few
    numbers that place a response on its samples are fitted to all events at once (:mod:`zfit_fnf.train.score_correction`).

    A nuisance whose variations are other weights of the nominal events moves nothing: its response is a log-ratio in any
    case, learned by regression of the known ratio of the weights (:mod:`zfit_fnf.train.weights`).

    A variation that holds the nominal events themselves, in any order, and with weights that differ by a constant factor
    only, changes the yield at most: the response is exactly zero there. The flow has to be one that was trained here.

    Args:
        flow: The nominal density; not changed.
        variations: Samples, each at a point of one nuisance, or of two for an interaction; or the
            :class:`~zfit_fnf.Simulation` that has them, with the nominal events and all weights.
        weights: Column of event weights, the same in all samples.
        order: Highest power of a nuisance, 1 to 3. A nuisance with samples on one side only gets order 1.
        interactions: Pairs of nuisances; the default ``"auto"`` takes all pairs with joint samples. The monomials go
            up to ``order`` in each nuisance, as far as the joint points tell them apart: one point gives the product, the
            four corners all of ``nu_k^a nu_l^b`` with ``a, b <= 2``, and further ones half way one power more.
        mirror: Trust the linear response of a nuisance with samples on one side at the mirrored point too: its window
            becomes symmetric, and its yield change is inverted there.
        nominal: The nominal events, against which responses are judged and log-ratios are learned; by default those that
            the flow was trained on, if that was in this session. Without them every response is a map, and nothing is
            judged.
        map: Whether a response moves events; the default ``"auto"`` keeps a map where held-out events speak for it.
        ratio: Whether a response reweights events by a log-ratio, which takes time in fits; the default ``"auto"`` keeps one
            where the events confirm it.
        keep: Nuisances, and interactions as pairs, whose responses are not pruned: a response of which events show no
            effect would claim to know what is only noise, and is left out otherwise.
        hidden: Widths of the hidden layers.
        schedule: Length and speed of each training; default 1500 steps of 2048 events.
        seed: Seed; each response derives its own from it and from its name.
        executor: ``concurrent.futures`` executor to train single nuisances in parallel, e.g. a
            ``ProcessPoolExecutor`` with the ``spawn`` method; likewise the interactions afterwards.
        trained: A deformation of the same flow whose responses are kept as they are: ``.model`` of an interrupted
            training, which goes on with what is missing; or one with fewer nuisances.
        n_data: Number of data events of this process that will be fitted, for the warning of biased fits; by default the
            nominal yield, the sum of the weights that the flow was trained with.
        progress: Show progress bars.

    Returns:
        The deformation, with a mapping ``history`` from the name of each response to its :class:`History`, which prints
        as a table.

    Raises:
        ValueError: For bad input: a variation at the origin, an interaction without joint samples or without its single
            nuisances, two samples at one point, an order that the points cannot determine.
        TrainingStopped: If a training diverges, is interrupted, or a process of the executor dies, or if a map cannot be placed
            on its events, for negative weights, and no log-ratio may take its place; ``.model`` is the deformation by what was
            trained so far (``None`` if that is nothing).

    Warns:
        UserWarning: If a training went wrong in a way that its record shows, see :attr:`History.problems`; for variations
            that hold the nominal events or those of another one, joint samples that are not used, and summed weights
            that are not of the size of the nominal ones; for responses that are pruned, since events show no effect; and if
            events that were held out show that fits to ``n_data`` events would be off by more than 0.3 errors.

    Example:
        >>> deformation = fit_deformation(flow, [Variation(up, at={"jes": 1}), Variation(down, at={"jes": -1})])
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"fit_deformation takes the Flow of the nominal events first, got a {type(flow).__name__}")
    simulation = variations if isinstance(variations, Simulation) else None
    variations = listed(simulation.variations if simulation else variations, "variations", _EXAMPLE)
    plan = Plan.make(variations, order=order, interactions=interactions, mirror=mirror)
    schedule, seed = checked_schedule(schedule, _OF_A_RESPONSE), integer(seed, "seed", low=0)
    flag(progress, "progress")
    n_data = (flow.sum_weights or 0.0) if n_data is None else number(n_data, "n_data", above=0.0)
    check_executor(executor)
    sources, known = _sources(flow, variations, weights, nominal, simulation)
    if known is not None:
        sources, known = _paired(sources, known, simulation, held_out_rows([known.source], schedule, seed)[0])
    assembly = Assembly.of(flow, plan, sources, mirror, known, _wanted(map, ratio, keep, plan, known))
    assembly.keep(trained)
    names = [names for names in (*plan.singles, *plan.pairs) if names not in assembly.trained]
    new = [response for name in names if assembly.moves(response := plan.response(name, flow, hidden, seed))]
    for source in sources.values():
        n_held_out(source.sample, schedule)
        flow.warn_of_outliers(source.sample)
    if messages := assembly.findings:
        warn("; ".join(messages))
    done = list[Task]()
    try:
        for stage in (plan.singles, plan.pairs):
            tasks = [
                assembly.task(response, schedule, named_seed(seed, response.nuisances), progress and executor is None)
                for response in new
                if response.nuisances in stage
            ]
            _train_all(tasks, assembly, executor, progress=progress)
            done += tasks
    except (Exception, KeyboardInterrupt) as error:
        raise _stopped(error, assembly) from error
    deformation = assembly.deformation()
    new_ones = [label_of(response.nuisances) for response in new]
    messages = [*problems_of(deformation.history), *pruned_ones(deformation.history, new_ones)]
    for task in done:
        rows = held_out_rows(task.sources, schedule, task.seed)
        messages += biased_ones(deformation, task.sources, rows, n_data)
    if messages:
        warn("; ".join(messages))
    return deformation


def _sources(
    flow: Flow, variations: Sequence[Variation], weights: str | None, nominal: Any, simulation: Simulation | None
) -> tuple[dict[int, EventSource], Nominal | None]:
    """The events of the variations, and the nominal ones if they are known."""
    if weights is not None and not isinstance(weights, str):
        raise TypeError("weights names a column of all samples; give arrays of weights as Sample(columns, weights=...)")
    events = [variation.events for variation in variations]
    own: list[Any] = [weights if variation.weights is None else variation.weights for variation in variations]
    if simulation is not None:
        no_weights_beside(weights)
        if nominal is not None:
            raise ValueError("a Simulation has its own nominal events: leave nominal= out")
        nominal, *events = simulation.samples(flow.obs + flow.cond)
        own = [None] * len(events)
        if flow.events and _same(flow, nominal):
            nominal = None  # the flow knows which of its events were held out
    elif by_weights := [variation.name for variation in variations if variation.is_reweighting]:
        raise ValueError(
            f"variations {by_weights} are other weights of nominal events: in place of the variations give "
            "Simulation(nominal, variations), which has both"
        )
    sources = {
        id(variation): EventSource.make(flow, sample, column, at=variation.at, name=variation.name)
        for variation, sample, column in zip(variations, events, own, strict=True)
    }
    return sources, _nominal(flow, nominal, weights)


def _same(flow: Flow, nominal: Sample) -> bool:
    """Whether a flow was trained on these events."""
    trained = flow.history.fingerprint if flow.history else []
    return same_events(trained, fingerprint(nominal, flow.obs + flow.cond), nominal.effective_size)


def _nominal(flow: Flow, given: Any, weights: str | None) -> Nominal | None:
    """The nominal events, if they are known."""
    if given is not None:
        return Nominal(EventSource.make(flow, given, weights, name="nominal"), np.zeros(0, np.int64))
    if flow.events is None:
        return None
    sample, held_out = flow.events
    return Nominal(EventSource(flow, sample, {}, np.zeros(0)), held_out)


def _paired(
    sources: dict[int, EventSource], nominal: Nominal, simulation: Simulation | None, held_out: np.ndarray
) -> tuple[dict[int, EventSource], Nominal]:
    """The sources, of which those that are paired with the nominal events row by row hold out the same rows as these.

    Args:
        sources: Of the variations, in their order.
        nominal: The nominal events.
        simulation: Knows of pairs by numbers of events.
        held_out: Rows to hold out, if the flow has held out none.
    """
    flow, sample = nominal.source.flow, nominal.source.sample
    columns = flow.obs + flow.cond
    first = sample.array(columns)
    told: Sequence[bool | None] = [None] * len(sources)
    if (
        simulation is not None
        and simulation.paired_by
        and np.array_equal(simulation.sample(columns).array(columns), first)
    ):
        told = simulation.rows_are_paired()
    held_out = nominal.held_out if len(nominal.held_out) else held_out

    def marked(source: EventSource, told: bool | None) -> EventSource:
        paired = are_paired(first, source.sample.array(columns)) if told is None else told
        return replace(source, held_out=held_out, paired=True) if paired else source

    found = {key: marked(source, one) for (key, source), one in zip(sources.items(), told, strict=True)}
    any_paired = any(source.paired for source in found.values())
    return found, nominal._replace(held_out=held_out) if any_paired else nominal


def _wanted(map_: bool | str, ratio: bool | str, keep: Any, plan: Plan, nominal: Nominal | None) -> Wanted:
    """What is asked for, if it can be had."""
    kept = frozenset(
        (each,) if isinstance(each, str) else tuple(sorted(each))
        for each in listed(keep, "keep", '["jes", ("jes", "jer")]')
    )
    if unknown := sorted(kept - set(plan.powers)):
        raise ValueError(f"keep= names {unknown}, of which there is no response: there are {sorted(plan.powers)}")
    for name, value in (("map", map_), ("ratio", ratio)):
        if value not in (True, False, "auto"):
            raise ValueError(f'{name} is "auto", True or False, got {value!r}')
    if map_ is False and ratio is False:
        raise ValueError("a response needs a map or a log-ratio: map=False and ratio=False leave neither")
    if nominal is not None:
        return Wanted(map_, ratio, kept)
    if ratio is True or map_ is False:
        raise ValueError(
            "a log-ratio is learned against the nominal events, which are not known of this flow: give them as nominal="
        )
    return Wanted(True, False, kept)


def _train_all(tasks: Sequence[Task], assembly: Assembly, executor: Executor | None, *, progress: bool) -> None:
    """Train responses and add them to a deformation, also those that are ready when one fails."""
    text = "responses" if progress and executor is not None else ""
    try:
        for _, trained in run(train_response, tasks, executor=executor, progress=text):
            assembly.add(*trained)
    except TrainingStopped as stopped:
        if isinstance(stopped.model, Response) and stopped.history is not None and stopped.history.best_step:
            assembly.add(stopped.model, stopped.history)  # half trained, but better than nothing
        raise


def _stopped(error: BaseException, assembly: Assembly) -> TrainingStopped:
    """What went wrong, with what was trained before."""
    if isinstance(error, TrainingStopped):
        stopped = TrainingStopped(str(error), error.step, error.learning_rate)
        stopped.history = error.history
    elif isinstance(error, KeyboardInterrupt):
        stopped = TrainingStopped("the training was interrupted")
    elif isinstance(error, WorkerDied):
        stopped = TrainingStopped(str(error))
    else:
        stopped = TrainingStopped(f"the training failed: {type(error).__name__}: {error}")
    if not assembly.trained:
        stopped.carry(None, "Nothing had been trained yet")
        return stopped
    partial = assembly.deformation()
    ready = [label_of(response.nuisances) for response in partial.responses]
    stopped.carry(
        partial,
        f"What is ready ({', '.join(ready)}) is in .model; fit_deformation(..., trained=stopped.model), with everything "
        "else as before, goes on with the rest",
    )
    return stopped


Trained = tuple[Response, History, LogRatio | None]


def train_response(task: Task) -> Trained:
    """Learn a map, then a log-ratio beside it or in its place; keep what the events confirm."""
    started = time.monotonic()
    response, label = task.response, label_of(task.response.nuisances)
    nothing = Response(**{**response.config(), "hidden": []})
    candidates = None if task.nominal is None else _candidates(task, nothing)
    choice = None if candidates is None else by_weights(candidates, keep=task.keep)
    history, without_map = History(label, **_sizes(task.sources)), list[str]()
    if choice is None and task.wanted.map is not False:
        try:
            history = _train_map(task, label)
        except NoMaximum as reason:
            if candidates is None:
                raise
            if task.wanted.map is True or task.wanted.ratio is False:
                raise TrainingStopped(f'{reason}; map="auto" learns a log-ratio in its place') from reason
            candidates, without_map = replace(candidates, with_map=None), [f"no map: {reason}"]
    if candidates is None:
        return response, history, None
    if choice is None:
        choice = choose(candidates, use_map=task.wanted.map, use_ratio=task.wanted.ratio, keep=task.keep)
    ratio = choice.log_ratio(candidates)
    if choice.factors is not None:
        scale(response, candidates.combinations * choice.factors @ candidates.combinations.T)
    claim = choice.claim
    if claim.kind == "map":
        off, where = off_between_of_map(candidates, response)
        claim = replace(claim, between=off, between_at=where)
    history = replace(history, notes=[*without_map, *choice.notes], claim=claim, seconds=time.monotonic() - started)
    return response if choice.keep_map else nothing, history, ratio


def _train_map(task: Task, label: str) -> History:
    deformation = Deformation(task.flow, [*task.frozen, task.response], windows=task.windows)
    sources = [replace(source, basis=_basis_at(deformation, source.at)) for source in task.sources]
    shapes = [(response.shape, response.powers) for response in deformation.responses]
    loop = TrainingLoop.of(deformation, task.flow.density, shapes, of_last_response, task.schedule)
    try:
        history = loop.train(deformation, label, sources, seed=task.seed, progress=task.progress)
    except TrainingStopped as stopped:
        stopped.model = task.response
        raise
    correct_score(deformation, task.response, sources)
    return history


def _candidates(task: Task, nothing: Response) -> Candidates:
    response, flow = task.response, task.flow
    trained = task.wanted.map is not False
    assert task.nominal is not None
    densities = [
        Deformation(flow, [*task.frozen, own], windows=task.windows, ratios=task.ratios) for own in (nothing, response)
    ]
    held_out = held_out_rows(task.sources, task.schedule, task.seed)
    return Candidates(
        without=densities[0],
        with_map=densities[1] if trained else None,
        nuisances=response.nuisances,
        powers=response.powers,
        nominal=task.nominal.source,
        sources=task.sources,
        held_out=[task.nominal.held_out, *held_out],
        idle=task.idle,
    )


def _sizes(sources: Sequence[EventSource]) -> dict[str, Any]:
    return {
        "n_events": sum(source.sample.n_events for source in sources),
        "effective_size": sum(source.sample.effective_size for source in sources),
    }


def _basis_at(deformation: Deformation, at: Mapping[str, float]) -> np.ndarray:
    return deformation.basis(tf.constant(deformation.point(at))).numpy()

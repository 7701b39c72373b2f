"""Training of what a workspace needs and what is not trained yet: contents of files and settings decide, not dates."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import storage
from ..common.files import complete
from ..common.parallel import Executor, workers
from ..common.parallel import run as run_tasks
from ..densities.deformation import Deformation, YieldRatio
from ..samples import Simulation, Variation
from ..train import fit_flow
from ..train.process import fit_process
from ..train.schedule import Schedule, TrainingStopped
from .document import WorkspaceError
from .events import files_of, read_simulation, yield_ratios
from .schema import Channel, NormSys, Sample, Shape, Source, Training

__all__ = [
    "Record",
    "Task",
    "changes",
    "checksum_of",
    "held_out",
    "model_path",
    "names_of",
    "read_record",
    "train_all",
    "unseen",
]

MODELS = "models"
"""Folder of the model files, in that of the results."""

_PARTIAL = ".partial.fnf"

_SMOOTH = (16, 16)
"""Widths of hidden layers for conditions that are fitted. What larger ones learn of noise, derivatives make larger."""


@dataclass(frozen=True)
class Record:
    """What is known of a training, in a file beside the model.

    Attributes:
        inputs: Checksums of what the nominal density (``nominal``), each response, and the yields (``rates``) were made of.
        expected: Sum of the weights of the nominal events.
        rates: Ratios of the sums of weights of variations to it, at -1 and +1 standard deviation, by nuisance.
        n_events: Number of nominal events.
        seconds: How long the training took.
        problems: What it warned of.
        complete: Whether it has come to its end.
    """

    inputs: dict[str, str]
    expected: float
    rates: dict[str, dict[str, float | None]] = field(default_factory=dict)
    n_events: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    complete: bool = True

    def ratios(self) -> dict[str, YieldRatio]:
        """The ratios as `normsys` takes them."""
        return {name: YieldRatio(up=one["hi"], down=one["lo"]) for name, one in self.rates.items()}


@dataclass(frozen=True)
class Task:
    """One sample to be trained: everything that another process needs.

    Attributes:
        channel: Its channel.
        sample: The sample, with events.
        training: Settings.
        folder: What paths of events are relative to.
        out: Folder of the results.
        progress: Whether to show progress bars.
        fold: Which of the folds, from 1 on; 0 if there are none.
    """

    channel: Channel
    sample: Sample
    training: Training
    folder: Path
    out: Path
    progress: bool = True
    fold: int = 0

    @property
    def name(self) -> str:
        """Channel and sample, and the fold."""
        return names_of(self.channel, self.sample, self.training.folds)[max(self.fold - 1, 0)]

    @property
    def shapes(self) -> tuple[str, ...]:
        """Nuisances whose effect on the distribution is learned, by their names in the variations."""
        return tuple(one.variation or one.name for one in self.sample.modifiers if isinstance(one, Shape))

    @property
    def rates(self) -> tuple[str, ...]:
        """Nuisances whose effect on the yield is taken from the events."""
        from_events = [m for m in self.sample.modifiers if isinstance(m, NormSys) and m.data == "events"]
        return tuple(one.variation or one.name for one in from_events)


def names_of(channel: Channel, sample: Sample, folds: int) -> list[str]:
    """What the models of a sample are called, one for each fold."""
    name = f"{channel.name}.{sample.name}"
    return [name] if folds == 1 else [f"{name}.fold{fold}" for fold in range(1, folds + 1)]


def train_all(
    tasks: list[Task], *, jobs: int = 1, progress: bool = True, echo: Callable[[str], Any] = print
) -> dict[str, Record]:
    """Train what is stale.

    Args:
        tasks: The samples.
        jobs: In how many processes: samples beside one another, or the nuisances of a single one.
        progress: Whether to show progress bars.
        echo: Announces what is done.

    Returns:
        The records of all samples, by ``channel.sample``.

    Raises:
        TrainingStopped: If a training diverges or is interrupted; what is complete stays, and the next call goes on.
    """
    records = {task.name: read_record(task.out, task.name) for task in tasks}
    stale = [task for task in tasks if not (is_fresh(task, records[task.name]) and _is_intact(task))]
    for task in tasks:
        if task not in stale:
            echo(f"{task.name} is trained already")
    several = len(stale) > 1
    n_workers = min(jobs, len(stale) if several else sum(len(task.shapes) for task in stale))
    parallel = n_workers > 1
    todo = [replace(task, progress=progress and not (parallel and several)) for task in stale]
    with workers(n_workers) if parallel else nullcontext() as pool:
        # Several samples are trained beside one another, and of a single one the responses to its nuisances.
        work = train if several else functools.partial(train, executor=pool)
        bar = "training" if progress and parallel and several else ""
        for task, record in run_tasks(work, todo, executor=pool if several else None, progress=bar):
            records[task.name] = record
            echo(f"{task.name} trained in {record.seconds:.0f} s" + "".join(f"\n  {one}" for one in record.problems))
    return {name: record for name, record in records.items() if record is not None}


def train(task: Task, executor: Executor | None = None) -> Record:
    """Train one sample, and write its model and record.

    Args:
        task: The sample.
        executor: What trains the responses to its nuisances in parallel.

    Raises:
        TrainingStopped: If it diverges or is interrupted; what was learned is kept for the next try.
    """
    begun, inputs = time.perf_counter(), _inputs(task)
    events = simulation_of(task)
    record = Record(
        inputs, events.nominal.sum_weights, yield_ratios(task.rates, events, task.name), events.nominal.n_events
    )
    known = _usable(task, read_record(task.out, task.name), inputs)
    partial = model_path(task.out, task.name, _PARTIAL)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            density = _learn(task, _shapes_only(task, seen_by(task, events)), known, executor)
    except TrainingStopped as stopped:
        if stopped.model is not None:
            storage.save(stopped.model, partial)
            _write(task, Record(**{**asdict(record), "complete": False}))
        raise
    storage.save(density, model_path(task.out, task.name))
    partial.unlink(missing_ok=True)
    problems = list(dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)))
    problems += _yields_left_out(task, events)
    done = Record(**{**asdict(record), "seconds": time.perf_counter() - begun, "problems": problems})
    _write(task, done)
    return done


def simulation_of(task: Task) -> Simulation:
    """The simulation of a sample."""
    name = f"{task.sample.name} in {task.channel.name}"
    assert task.sample.events is not None
    columns = (*task.channel.observables, *task.sample.given)
    return read_simulation(task.sample.events, columns, task.folder, name)


def held_out(task: Task) -> Simulation:
    """What no training of a sample sees, with the nuisances that are learned: for validation."""
    return _shapes_only(task, _split(task, simulation_of(task))[1])


def unseen(task: Task) -> Simulation:
    """What the training of a sample, in this fold, has not seen: for calibration."""
    events = simulation_of(task)
    seen, held_out = _split(task, events)
    return _shapes_only(task, _fold(task, seen)[1] if task.fold else held_out)


def seen_by(task: Task, events: Simulation) -> Simulation:
    """What the training of a sample, in this fold, sees."""
    seen, _ = _split(task, events)
    return _fold(task, seen)[0] if task.fold else seen


def _fold(task: Task, seen: Simulation) -> tuple[Simulation, Simulation]:
    return seen.folds(task.training.folds, task.training.seed)[task.fold - 1]


def is_fresh(task: Task, record: Record | None) -> bool:
    """Whether the model of a sample was trained from what the workspace says now."""
    done = record is not None and record.complete and model_path(task.out, task.name).is_file()
    return done and record is not None and record.inputs == _inputs(task)


def _is_intact(task: Task, path: Path | None = None) -> bool:
    """Whether the model file of a sample can be read; one that was cut or edited is trained again."""
    try:
        storage.inspect(path or model_path(task.out, task.name))
    except ValueError:
        return False
    return True


def changes(task: Task, record: Record) -> list[str]:
    """What a sample was trained from that is different now: ``nominal``, ``rates``, or names of nuisances."""
    try:
        now = _inputs(task)
    except FileNotFoundError:  # who has no simulated events any more has the densities
        return []
    return [name for name in sorted({*now, *record.inputs}) if now.get(name) != record.inputs.get(name)]


def model_path(out: Path, name: str, suffix: str = ".fnf") -> Path:
    """The model file of a sample."""
    return out / MODELS / f"{name}{suffix}"


def read_record(out: Path, name: str) -> Record | None:
    """The record of a sample, if there is one.

    Raises:
        WorkspaceError: If it is damaged.
    """
    path = model_path(out, name, ".json")
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise WorkspaceError(f"{str(path)!r} is damaged ({error}): delete it, and train again") from None


def _write(task: Task, record: Record) -> None:
    with complete(model_path(task.out, task.name, ".json")) as draft:
        draft.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


# --- learning ----------------------------------------------------------------------------------------------------------


def _learn(task: Task, simulation: Simulation, known: Any, executor: Executor | None) -> Any:
    """The density of a sample; what is known already is kept."""
    settings, progress = task.training, task.progress
    obs, cond = list(task.channel.observables), list(task.sample.given)
    flow = known
    if flow is None:
        flow = fit_flow(
            simulation.nominal,
            obs=obs,
            cond=cond,
            ranges={name: one.range for name, one in task.channel.observables.items()},
            family=settings.family,
            n_layers=settings.n_layers,
            n_components=settings.n_components,
            hidden=settings.hidden or (_SMOOTH if cond else None),
            schedule=_schedule(settings.steps, settings.batch_size, Schedule()),
            seed=settings.seed,
            progress=progress,
        )
    if not simulation.variations:
        return getattr(flow, "flow", flow)
    schedule = _schedule(settings.response_steps, settings.batch_size, Schedule(steps=1500, batch_size=2048))
    return fit_process(
        simulation,
        obs=obs,
        cond=cond,
        trained=flow,
        order=settings.order,
        mirror=settings.mirror,
        schedule=schedule,
        seed=settings.seed,
        executor=executor,
        progress=progress,
    ).model


def _yields_left_out(task: Task, events: Simulation) -> list[str]:
    """Nuisances whose variations change the yield, which the document says of their distribution alone."""
    has_yield = {one.name for one in task.sample.modifiers if not isinstance(one, Shape)}
    found = []
    for shape in (one for one in task.sample.modifiers if isinstance(one, Shape) and one.name not in has_yield):
        wanted = shape.variation or shape.name
        if not any(set(one.at) == {wanted} and abs(one.at[wanted]) == 1 for one in events.variations):
            continue
        changes = [one - 1.0 for one in yield_ratios([wanted], events, task.name)[wanted].values() if one is not None]
        noise = 4.0 / math.sqrt(events.nominal.effective_size)
        if max(map(abs, changes)) > max(0.005, noise):
            shown = " and ".join(f"{100 * one:+.2g} %" for one in changes)
            found.append(
                f"the variations of {wanted!r} change the yield too ({shown}), which the fit leaves out: if that is not meant, "
                f"add the modifier {{name: {shape.name}, type: normsys, data: events}}"
            )
    return found


def _schedule(steps: int | None, batch_size: int | None, default: Schedule) -> Schedule:
    """A schedule of so many steps; the warm-up is shorter where there are few."""
    steps = default.steps if steps is None else steps
    warmup = min(default.warmup, steps // 10)
    batch_size = default.batch_size if batch_size is None else batch_size
    return Schedule(steps=steps, batch_size=batch_size, warmup=warmup, averaging=min(default.averaging, 1 - 10 / steps))


def _split(task: Task, events: Simulation) -> tuple[Simulation, Simulation]:
    seen, held_out = events.split(1.0 - task.training.validation, seed=task.training.seed)
    return seen, held_out


def _shapes_only(task: Task, events: Simulation) -> Simulation:
    """Without the variations that only the yields are taken from."""
    kept: list[Variation] = [one for one in events.variations if set(one.at) <= set(task.shapes)]
    return Simulation(events.nominal, variations=tuple(kept))


# --- what is stale -----------------------------------------------------------------------------------------------------


def _usable(task: Task, record: Record | None, inputs: dict[str, str]) -> Any:
    """What of an earlier training is as it would be made now: a deformation, its flow, or nothing."""
    if record is None or record.inputs.get("nominal") != inputs["nominal"]:
        return None
    path = model_path(task.out, task.name, ".fnf" if record.complete else _PARTIAL)
    if not (path.is_file() and _is_intact(task, path)):
        return None
    model = storage.load(path)
    if not isinstance(model, Deformation):
        # A nominal density whose training was interrupted is trained anew: half of its steps are not half as good.
        return None if model.history is not None and model.history.interrupted else model
    stored = {name for name in record.inputs if name not in ("nominal", "rates")}
    return model if all(inputs.get(name) == record.inputs[name] for name in stored) else model.flow


def _inputs(task: Task) -> dict[str, str]:
    """Checksums of everything that the training depends on."""
    events, settings = task.sample.events, task.training.model_dump()
    assert events is not None
    of_responses = {name: settings.pop(name) for name in ("response_steps", "order", "mirror")}
    ranges = {name: one.range for name, one in task.channel.observables.items()}
    if any(one.source(events.nominal).selection and not one.changes_weights_only for one in events.variations):
        settings["rows"] = "numbered"  # models of before were trained on other rows
    nominal = _checksum(task, [events.nominal], ranges, list(task.sample.given), settings, task.fold)
    responses: dict[str, list[Any]] = {}
    others: list[Any] = []
    for variation in events.variations:
        source = variation.source(events.nominal)
        if set(variation.at) <= set(task.shapes):
            responses.setdefault(",".join(sorted(variation.at)), []).append((variation.at, source))
        else:
            others.append((variation.at, source))
    learned = {
        name: _checksum(task, [source for _, source in given], [at for at, _ in given], of_responses, nominal)
        for name, given in responses.items()
    }
    rates = _checksum(task, [source for _, source in others], [at for at, _ in others], list(task.rates))
    return {"nominal": nominal, **learned, "rates": rates}


def _checksum(task: Task, sources: list[Source], *settings: Any) -> str:
    files = [[checksum_of(path) for path in files_of(source, task.folder)] for source in sources]
    content = [[source.model_dump(exclude={"file"}) for source in sources], files, settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checksum_of(path: Path) -> str:
    """Checksum of the content of a file."""
    status = path.stat()
    return _of_file(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _of_file(path: Path, size: int, changed: int, touched: int) -> str:
    """Checksum of the content; size and times of the last change, one of which nobody can set, tell whether it is known."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

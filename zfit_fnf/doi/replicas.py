"""The statistical spread of a map: replicas of the global fit with Poisson weights."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from tqdm.auto import tqdm

from ..common.files import complete
from ..common.parallel import workers
from ..densities.networks import Model
from ..param import Nuisance, limits_of
from ..pdf import LogSpacePDF, components, space_ranges
from ..pickling import dumps, loads
from ..samples import Sample
from .step1 import GlobalProblem, Member, TransferFit, check_count

_PROBES = 16  # events by which a model is recognised


class EnsembleStopped(RuntimeError):
    """An ensemble that was interrupted, or one of whose members failed.

    Attributes:
        fit: The fit with the members that are done; give it to `bootstrap` again to go on.
    """

    def __init__(self, message: str, fit: TransferFit):
        super().__init__(message)
        self.fit = fit


def bootstrap(
    fit: TransferFit,
    n_members: int,
    *,
    seed: int = 0,
    executor: Executor | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TransferFit:
    """Repeat a global fit with Poisson(1) weights of the events.

    Each replica starts from other networks, so that the spread of the maps contains what the training leaves to chance. Members
    that the fit or the folder has already are not made again.

    Args:
        fit: The fit.
        n_members: How many members the fit should have in the end; two at least tell about a spread.
        seed: Seed of the weights, and of the trainings.
        executor: A ``concurrent.futures`` executor; by default processes on this machine, one for each core. (A script that
            starts processes needs ``if __name__ == "__main__":`` around what it does.)
        folder: Where members are kept as soon as they are done; by default nowhere.
        progress: Whether to show a progress bar.

    Returns:
        The fit with its members.

    Raises:
        ValueError: If ``n_members`` or ``seed`` is not a number to count with.
        TypeError: If the model cannot be sent to another process.
        EnsembleStopped: If it is interrupted or a member fails; ``.fit`` has the members that are done.

    Warns:
        UserWarning: For each file in the folder that is damaged or belongs to another fit; its member is made again.

    Example:
        >>> doi = bootstrap(doi, 8, seed=1, folder="members")
    """
    check_count("n_members=", n_members, least=1)
    check_count("seed=", seed)
    wanted = [(seed, index) for index in range(n_members)]
    done = {member.seed: member for member in fit.members}
    store = _Store.open(folder, fit) if folder is not None else None
    if store:
        done |= {label: member for label in wanted if label not in done and (member := store.read(label))}
    missing = [label for label in wanted if label not in done]
    try:
        for member in _made(fit, missing, executor, progress):
            done[member.seed] = member
            if store:
                store.write(member)
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt) and not done:
            raise
        kept = replace(fit, members=tuple(done[label] for label in wanted if label in done))
        raise EnsembleStopped(
            f"the ensemble stopped with {len(kept.members)} of {n_members} members ({error!r}); .fit has them: "
            "call bootstrap(stopped.fit, ...) to go on",
            kept,
        ) from error
    return replace(fit, members=tuple(done[label] for label in wanted))


def _made(
    fit: TransferFit, labels: Sequence[tuple[int, int]], executor: Executor | None, progress: bool
) -> Iterator[Member]:
    """The members, as they are done."""
    if not labels:
        return
    payload = _payload(fit)
    with nullcontext(executor) if executor else workers(len(labels)) as pool:
        futures = [pool.submit(_replica, payload, label) for label in labels]
        failure: BaseException | None = None
        try:
            for future in tqdm(as_completed(futures), total=len(labels), desc="replicas", disable=not progress):
                if future.cancelled():
                    continue
                if error := future.exception():  # those that are at work may go on, and are kept
                    failure = failure or error
                    _cancel(futures)
                    continue
                yield future.result()
        finally:
            _cancel(futures)
        if failure:
            raise failure


def _cancel(futures: Sequence[Future[Member]]) -> None:
    for future in futures:
        future.cancel()


def _replica(payload: bytes, label: tuple[int, int]) -> Member:
    """One member, in whichever process this is."""
    problem, sample = _problem(payload)
    counts = np.random.default_rng(label).poisson(1.0, sample.n_events)
    rows = np.flatnonzero(counts)
    weights = counts[rows] * (1.0 if sample.weights is None else sample.weights[rows])
    columns = {name: values[rows] for name, values in sample.columns.items()}
    training_seed = int(np.random.SeedSequence(label).generate_state(1)[0])
    replica = Sample(columns, weights, f"replica of {sample.name}")
    fit = problem.solve(replica, seed=training_seed, progress=False, covariance=False)
    return Member(label, fit.transfer.weights_list(), fit.values, fit.problems)


def _payload(fit: TransferFit) -> bytes:
    """All that determines the members of a fit, with the parameters where the fit has started."""
    problem = fit.problem
    with zfit.param.set_values(problem.start):
        return dumps((problem.model, problem.transfer, problem.schedule, problem.penalty, fit.data))


@functools.lru_cache(maxsize=1)
def _problem(payload: bytes) -> tuple[GlobalProblem, Sample]:
    """The problem of a payload, compiled once in each process."""
    model, transfer, schedule, penalty, sample = loads(payload)
    return GlobalProblem(model, transfer, schedule, penalty=penalty), sample


_ROOM = 1_000_000  # bytes of a file beside the weights of a map


@dataclass(frozen=True)
class _Store:
    """Members in files, one each."""

    folder: Path
    fingerprint: str
    fit: TransferFit

    @classmethod
    def open(cls, folder: str | os.PathLike[str], fit: TransferFit) -> _Store:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, _fingerprint(fit), fit)

    def _path(self, label: tuple[int, int]) -> Path:
        return self.folder / f"member_{label[0]}_{label[1]}.npz"

    def write(self, member: Member) -> None:
        with complete(self._path(member.seed)) as draft, draft.open("wb") as stream:
            head = {"fingerprint": self.fingerprint, "values": member.values, "problems": member.problems}
            np.savez(stream, *member.transfer, head=np.array(json.dumps(head)))

    def read(self, label: tuple[int, int]) -> Member | None:
        """The member of a label, if there is a file with it; one that cannot be it is named in a warning."""
        path = self._path(label)
        if not path.exists():
            return None
        try:
            return self._read(path, label)
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            reason = str(error) if isinstance(error, _Foreign) else f"is damaged ({error})"
            warnings.warn(f"{str(path)!r} {reason}: this member is made again", stacklevel=4)
            return None

    def _read(self, path: Path, label: tuple[int, int]) -> Member:
        own = self.fit.transfer.weights_list()
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _ROOM + sum(array.nbytes for array in own):
                raise _Foreign("is much larger than a member of this fit")
        with np.load(path, allow_pickle=False) as content:
            head = json.loads(str(content["head"]))
            if head["fingerprint"] != self.fingerprint:
                raise _Foreign("is a member of another fit")
            transfer = [content[f"arr_{index}"] for index in range(len(content.files) - 1)]
        if [(a.shape, a.dtype) for a in transfer] != [(a.shape, a.dtype) for a in own]:
            raise ValueError("its map has another shape")
        values = {str(name): float(value) for name, value in head["values"].items()}
        if set(values) != set(self.fit.values) or not np.isfinite([*values.values(), *map(np.sum, transfer)]).all():
            raise ValueError("its parameters are others, or not all finite")
        return Member(label, transfer, values, tuple(map(str, head["problems"])))


class _Foreign(ValueError):
    """A file that is not of this fit."""


def _fingerprint(fit: TransferFit) -> str:
    """Hash of everything that determines the members of a fit."""
    problem, digest = fit.problem, hashlib.sha256()
    with zfit.param.set_values(problem.start):
        settings: Any = [
            problem.transfer.config(),
            asdict(problem.schedule),
            problem.penalty,
            sorted(fit.data.columns),
            [_described(parameter) for parameter in _parameters(problem.model)],
            [[type(part).__qualname__, part.name, space_ranges(part.norm)] for part in components(problem.model)],
            _behaviour(fit),
        ]
    digest.update(json.dumps(settings, sort_keys=True, default=dict).encode())  # TensorFlow wraps dicts
    arrays = [fit.data.columns[name] for name in sorted(fit.data.columns)]
    arrays += [] if fit.data.weights is None else [fit.data.weights]
    arrays += [variable.numpy() for variable in problem.transfer.variables if not variable.trainable]
    for part in components(problem.model):
        if isinstance(part, LogSpacePDF):
            for trained in part._arguments.values():
                arrays += trained.weights_list() if isinstance(trained, Model) else []
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _parameters(model: zfit.pdf.BasePDF) -> list[zfit.Parameter]:
    """All independent parameters of a model, also fixed ones, and the global observables, by name."""
    own = list(model.get_params(floating=None))
    return sorted(
        [*own, *(parameter.observed for parameter in own if isinstance(parameter, Nuisance))],
        key=lambda parameter: parameter.name,
    )


def _described(parameter: zfit.Parameter) -> list[Any]:
    return [parameter.name, float(parameter.value()), parameter.floating, *limits_of(parameter)]


def _behaviour(fit: TransferFit) -> list[str]:
    """Densities of some events and yields, where the fit starts and next to it: what names and numbers do not tell."""
    model, start = fit.problem.model, fit.problem.start
    events = zfit.Data.from_numpy(obs=model.obs, array=fit.data.array(model.obs, slice(0, _PROBES)))
    numbers: list[float] = []
    for share in (0.0, 1.0):
        moved = [value + share * float(parameter.stepsize) for parameter, value in start.items()]
        with zfit.param.set_values(list(start), moved, clip=True):
            numbers += np.asarray(model.log_pdf(events), float).tolist()
            numbers += [float(part.get_yield().value()) for part in components(model) if part.is_extended]
    return [f"{number:.8e}" for number in numbers]

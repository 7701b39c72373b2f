"""The statistical spread of a map: replicas of the global fit with Poisson weights."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from tqdm.auto import tqdm

from ..files import complete
from ..nets import Model
from ..parallel import workers
from ..pdf import LearnedPDF, components
from ..samples import Sample
from .globalfit import GlobalProblem, Member, TransferFit
from .transport import dumps, loads


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
        ValueError: If the folder has members of another fit.
        TypeError: If the model cannot be sent to another process.
        EnsembleStopped: If it is interrupted or a member fails; ``.fit`` has the members that are done.

    Example:
        >>> doi = bootstrap(doi, 8, seed=1, folder="members")
    """
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
    with zfit.param.set_values(fit.problem.start):
        problem = fit.problem
        payload = dumps((problem.model, problem.transfer, problem.schedule, problem.penalty, fit.data))
    with nullcontext(executor) if executor else workers(len(labels)) as pool:
        futures = [pool.submit(_replica, payload, label) for label in labels]
        try:
            for future in tqdm(as_completed(futures), total=len(labels), desc="replicas", disable=not progress):
                yield future.result()
        finally:
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


@functools.lru_cache(maxsize=1)
def _problem(payload: bytes) -> tuple[GlobalProblem, Sample]:
    """The problem of a payload, compiled once in each process."""
    model, transfer, schedule, penalty, sample = loads(payload)
    return GlobalProblem(model, transfer, schedule, penalty=penalty), sample


@dataclass(frozen=True)
class _Store:
    """Members in files, one each."""

    folder: Path
    fingerprint: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str], fit: TransferFit) -> _Store:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, _fingerprint(fit))

    def _path(self, label: tuple[int, int]) -> Path:
        return self.folder / f"member_{label[0]}_{label[1]}.npz"

    def write(self, member: Member) -> None:
        with complete(self._path(member.seed)) as draft, draft.open("wb") as stream:
            head = {"fingerprint": self.fingerprint, "values": member.values, "problems": member.problems}
            np.savez(stream, *member.transfer, head=np.array(json.dumps(head)))

    def read(self, label: tuple[int, int]) -> Member | None:
        path = self._path(label)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as content:
            head = json.loads(str(content["head"]))
            if head["fingerprint"] != self.fingerprint:
                raise ValueError(f"{str(path)!r} is a member of another fit: use another folder=, or remove it")
            transfer = [content[f"arr_{index}"] for index in range(len(content.files) - 1)]
        return Member(label, transfer, head["values"], tuple(head["problems"]))


def _fingerprint(fit: TransferFit) -> str:
    """Hash of everything that determines the members of a fit."""
    problem, digest = fit.problem, hashlib.sha256()
    start = {parameter.name: value for parameter, value in problem.start.items()}
    settings: Any = [problem.transfer.config(), asdict(problem.schedule), problem.penalty, start]
    digest.update(json.dumps(settings, sort_keys=True, default=dict).encode())  # TensorFlow wraps dicts
    arrays = [*fit.data.columns.values(), *([] if fit.data.weights is None else [fit.data.weights])]
    for part in components(problem.model):
        if isinstance(part, LearnedPDF):
            for trained in part._arguments.values():
                arrays += trained.weights_list() if isinstance(trained, Model) else []
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

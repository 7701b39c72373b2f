"""The statistical spread of a map: replicas of the global fit with Poisson weights."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import zfit  # before tensorflow, which it silences
import numpy as np

from ..common.checks import integer
from ..common.files import complete
from ..common.parallel import Executor, check_executor, run, workers
from ..common.warning import warn
from ..densities.model import Model
from ..param import Nuisance, limits_of
from ..pdf import LogSpacePDF, components, space_ranges
from ..pickling import dumps, loads
from ..samples import Sample
from .step1 import GlobalProblem, Replica, TransferFit, poisson_counts
from .step2 import ProfiledFit

__all__ = ["EnsembleStopped", "bootstrap"]

_PROBES = 16  # events by which a model is recognised

_Fit = TypeVar("_Fit", TransferFit, ProfiledFit)


class EnsembleStopped(RuntimeError):
    """A bootstrap that was interrupted, or in which a replica failed.

    Attributes:
        fit: The fit with the finished replicas; give it to `bootstrap` again to continue.
    """

    def __init__(self, message: str, fit: TransferFit):
        super().__init__(message)
        self.fit = fit


def bootstrap(
    fit: _Fit,
    n_replicas: int,
    *,
    seed: int = 0,
    executor: Executor | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> _Fit:
    """Repeat a global fit with Poisson(1) weights of the events.

    Each replica starts from other networks, so that the spread of the maps contains the randomness of the training. Replicas
    that the fit or the folder has already are not made again.

    Args:
        fit: The global fit or its profile, which stays as it is.
        n_replicas: Number of replicas of the returned fit; at least two are needed for a spread.
        seed: Seed of the weights, and of the trainings.
        executor: A ``concurrent.futures`` executor; by default processes on this machine, one for each core. (A script that
            starts processes needs ``if __name__ == "__main__":`` around its code.)
        folder: Where replicas are saved as soon as they are finished; by default nowhere.
        progress: Whether to show a progress bar.

    Returns:
        The fit with its replicas.

    Raises:
        ValueError: If ``n_replicas`` or ``seed`` is out of range.
        TypeError: If the fit is something else, or the model cannot be sent to another process.
        EnsembleStopped: If it is interrupted or a replica fails; ``.fit`` has the finished replicas.

    Warns:
        UserWarning: For each file in the folder that is damaged or belongs to another fit; its replica is made again.

    Example:
        >>> doi = bootstrap(doi, 8, seed=1, folder="replicas")
    """
    if isinstance(fit, ProfiledFit):
        options: dict[str, Any] = {"seed": seed, "executor": executor, "folder": folder, "progress": progress}
        return replace(fit, fit=bootstrap(fit.fit, n_replicas, **options))  # type: ignore[call-arg]
    if not isinstance(fit, TransferFit):
        raise TypeError(f"bootstrap takes a fit made by fit_transfer or profile; got {type(fit).__name__}")
    n_replicas, seed = integer(n_replicas, "n_replicas=", low=1), integer(seed, "seed=", low=0)
    check_executor(executor)
    wanted = [(seed, index) for index in range(n_replicas)]
    done = {replica.seed: replica for replica in fit.replicas}
    store = _Store.open(folder, fit) if folder is not None else None
    if store:
        done |= {label: replica for label in wanted if label not in done and (replica := store.read(label))}
    missing = [label for label in wanted if label not in done]
    try:
        for replica in _made(fit, missing, executor, progress):
            done[replica.seed] = replica
            if store:
                store.write(replica)
    except (KeyboardInterrupt, Exception) as error:
        if not isinstance(error, KeyboardInterrupt) and not done:
            raise
        kept = replace(fit, replicas=tuple(done[label] for label in wanted if label in done))
        raise EnsembleStopped(
            f"the bootstrap stopped with {len(kept.replicas)} of {n_replicas} replicas ({error!r}); .fit has them: "
            "call bootstrap(stopped.fit, ...) to continue",
            kept,
        ) from error
    return replace(fit, replicas=tuple(done[label] for label in wanted))


def _made(
    fit: TransferFit, labels: Sequence[tuple[int, int]], executor: Executor | None, progress: bool
) -> Iterator[Replica]:
    """Replicas as they are finished."""
    if labels:
        task = functools.partial(_replica, _payload(fit, len(labels)))
        with nullcontext(executor) if executor else workers(len(labels)) as pool:
            for _, replica in run(task, labels, executor=pool, progress="replicas" if progress else ""):
                yield replica


def _replica(payload: bytes, label: tuple[int, int]) -> Replica:
    """One replica, in whichever process this is."""
    problem, sample = _problem(payload)
    counts = poisson_counts(label, sample.n_events)
    rows = np.flatnonzero(counts)
    weights = counts[rows] * (1.0 if sample.weights is None else sample.weights[rows])
    columns = {name: values[rows] for name, values in sample.columns.items()}
    training_seed = int(np.random.SeedSequence(label).generate_state(1)[0])
    resampled = Sample(columns, weights, f"replica of {sample.name}")
    fit = problem.solve(resampled, seed=training_seed, progress=False, covariance=False)
    return Replica(label, fit.transfer.weights_list(), fit.values, fit.problems)


def _payload(fit: TransferFit, n_replicas: int) -> bytes:
    """All that determines the replicas of a fit, with the parameters where the fit has started."""
    problem, n_fits = fit.problem, -(-n_replicas // (os.cpu_count() or 1))
    with zfit.param.set_values(problem.start):
        return dumps((problem.model, problem.transfer, problem.schedule, problem.penalty, n_fits, fit.data))


@functools.lru_cache(maxsize=1)
def _problem(payload: bytes) -> tuple[GlobalProblem, Sample]:
    """The problem of a payload, compiled once in each process."""
    model, transfer, schedule, penalty, n_fits, sample = loads(payload)
    return GlobalProblem(model, transfer, schedule, penalty=penalty, n_fits=n_fits), sample


_HEADROOM = 1_000_000  # bytes of a file beside the weights of a map


@dataclass(frozen=True)
class _Store:
    """Replicas in files, one each."""

    folder: Path
    fingerprint: str
    fit: TransferFit

    @classmethod
    def open(cls, folder: str | os.PathLike[str], fit: TransferFit) -> _Store:
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, _fingerprint(fit), fit)

    def _path(self, label: tuple[int, int]) -> Path:
        return self.folder / f"replica_{label[0]}_{label[1]}.npz"

    def write(self, replica: Replica) -> None:
        with complete(self._path(replica.seed)) as draft, draft.open("wb") as stream:
            head = {"fingerprint": self.fingerprint, "values": replica.values, "problems": replica.problems}
            np.savez(stream, *replica.transfer, head=np.array(json.dumps(head)))

    def read(self, label: tuple[int, int]) -> Replica | None:
        """The replica of a label, if there is a file of it; a file that is not usable is named in a warning."""
        path = self._path(label)
        if not path.exists():
            return None
        try:
            return self._read(path, label)
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            reason = str(error) if isinstance(error, _Foreign) else f"is damaged ({error})"
            warn(f"{str(path)!r} {reason}: this replica is made again")
            return None

    def _read(self, path: Path, label: tuple[int, int]) -> Replica:
        own = self.fit.transfer.weights_list()
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _HEADROOM + sum(array.nbytes for array in own):
                raise _Foreign("is much larger than a replica of this fit")
        with np.load(path, allow_pickle=False) as content:
            head = json.loads(str(content["head"]))
            if head["fingerprint"] != self.fingerprint:
                raise _Foreign("is a replica of another fit")
            transfer = [content[f"arr_{index}"] for index in range(len(content.files) - 1)]
        if [(a.shape, a.dtype) for a in transfer] != [(a.shape, a.dtype) for a in own]:
            raise ValueError("its map has another shape")
        values = {str(name): float(value) for name, value in head["values"].items()}
        if set(values) != set(self.fit.values) or not np.isfinite([*values.values(), *map(np.sum, transfer)]).all():
            raise ValueError("its parameters are others, or not all finite")
        return Replica(label, transfer, values, tuple(map(str, head["problems"])))


class _Foreign(ValueError):
    """A file that is not of this fit."""


def _fingerprint(fit: TransferFit) -> str:
    """Hash of everything that determines the replicas of a fit."""
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
    """Densities of some events and yields, at the start of the fit and next to it: these tell functions apart."""
    model, start = fit.problem.model, fit.problem.start
    events = zfit.Data.from_numpy(obs=model.obs, array=fit.data.array(model.obs, slice(0, _PROBES)))
    numbers: list[float] = []
    for share in (0.0, 1.0):
        moved = [value + share * float(parameter.stepsize) for parameter, value in start.items()]
        with zfit.param.set_values(list(start), moved, clip=True):
            numbers += np.asarray(model.log_pdf(events), float).tolist()
            numbers += [float(part.get_yield().value()) for part in components(model) if part.is_extended]
    return [f"{number:.8e}" for number in numbers]

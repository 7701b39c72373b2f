"""Many toys in blocks, each of which is kept as soon as it is done: an interrupted run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd

from ..common.files import complete
from ..common.parallel import Executor, check_executor
from ..common.parallel import run as run_tasks
from ..param import limits_of
from ..pickling import work_of
from ..state import current_values, preserved
from .experiments import Values, check_events, checked_number, checked_seed, set_truth, toy
from .fits import Fit, PoolReport, ToyFits, fits_of, hesse_errors, toy_minimizer
from .pool import ToyPool

__all__ = ["fit_toys", "run"]

_BLOCK = 25  # toys of one task and of one file
_SAME = 0.01  # errors by which a toy that is fitted again may differ, on another machine


def run(
    nll: zfit.loss.UnbinnedNLL,
    n: int,
    *,
    params: Values | None = None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    out: str | Path | None = None,
    pool: int | None = None,
    first: int = 0,
    progress: bool = True,
) -> ToyFits:
    """Draw and fit many toys, here or by an executor, in a folder from which an interrupted run goes on.

    Toy ``i`` is ``toy(nll, seed=(seed, i))``, whoever draws and fits it, from the true values; nothing is compiled again
    from toy to toy. They are done in blocks of 25, each of which is a file that appears when it is
    complete. Whatever ends a run, a worker or the machine, only blocks that were at work are lost; the same call again does
    these. Several runs may share the folder: a block is counted once, whoever did it.

    Args:
        nll: The likelihood.
        n: How many toys; a larger number continues what is there.
        params: Parameter values to draw at; those left out have their current values.
        minimizer: By default `zfit_fnf.Minuit`.
        seed: Seed of all toys.
        executor: ``concurrent.futures`` executor that shares the blocks; each worker compiles the likelihood once.
        out: Folder of the blocks; without one they are kept in memory alone.
        pool: Draw the toys from a pool of so many events for each component of the model, which is expanded once
            (:mod:`zfit_fnf.toys.pool`). A toy then costs a hundredth, and the result says in ``pool`` what that is worth: use
            ten times the events of a toy or more. By default each toy has events of its own.
        first: Number of the first toy, to go on with those that were made before.
        progress: Whether to show a progress bar, with the time left.

    Raises:
        TypeError: As for `toy`; if ``pool`` is given for a loss of zfit.
        ValueError: As for `fit_toys`; if ``pool`` is too large for the memory, or no density can use it; if the folder has
            toys of another seed, truth, pool or likelihood, or of other limits of the parameters.
        WorkerDied: If a worker died; blocks that were done are kept.

    Example:
        >>> fits = run(nll, 10_000, out="toys", pool=200_000)
        >>> with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        ...     fits = run(nll, 10_000, out="toys", executor=pool)
    """
    check_events(nll)
    check_executor(executor)
    n, pool = checked_number(n, "n"), None if pool is None else checked_number(pool, "pool=")
    checked_seed(seed, single=True)
    if first != 0:
        first = checked_number(first, "first=")
    if minimizer is not None and not (executor is None and pool is None):
        who = "a pool" if executor is None else "an executor"
        raise ValueError(f"{who} fits with zfit_fnf.Minuit(): minimisers are not sent to other processes")
    toy_minimizer(nll, minimizer)
    with preserved(nll):
        set_truth(nll, params)
        truth = current_values(nll.get_params())
        size = (
            1 if executor is None and out is None else _BLOCK
        )  # a bar moves with every toy where nobody waits for blocks
        blocks = [range(start, min(start + size, first + n)) for start in range(first, first + n, size)]
        names = {parameter.name: value for parameter, value in truth.items()}
        limits = {parameter.name: list(map(str, limits_of(parameter))) for parameter in truth}
        origin: dict[str, Any] = {"seed": int(seed), "truth": names, "limits": limits}
        origin |= {} if pool is None else {"pool": pool}
        toys = _toys(nll, truth, seed, pool, minimizer)
        folder = None if out is None else Path(out)
        done = {} if folder is None else _kept(folder, blocks, origin)
        if done:
            first = next(iter(done))
            _check_same(folder, done[first][0], next(iter(toys.fits([first]))))
        work = work_of(_blocks_of, toys if executor is None else (nll, truth, seed, pool), executor=executor)
        missing = [block for block in blocks if block.start not in done]
        for block, fits in run_tasks(work, missing, executor=executor, progress="toys" if progress else ""):
            done[block.start] = fits
            if folder is not None:
                _keep(folder, block, origin, fits)
        report = toys.report() if isinstance(toys, ToyPool) else None
    return _joined(names, [fit for block in blocks for fit in done[block.start]], report)


def fit_toys(
    nll: zfit.loss.UnbinnedNLL,
    n_toys: int,
    *,
    params: Values | None = None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    first: int = 0,
    progress: bool = True,
) -> ToyFits:
    """Draw toys and fit them all with one loss, from the true values: `run` without a folder or a pool.

    Nothing is compiled again from toy to toy. Toy ``i`` is ``toy(nll, seed=(seed, i))``, whoever draws and fits it.
    Parameters and global observables are restored at the end.

    Args:
        nll: The likelihood; of its data only the number of events is used, where that is not fitted.
        n_toys: How many toys.
        params: Parameter values to draw at; those left out have their current values.
        minimizer: By default `zfit_fnf.Minuit`.
        seed: Seed of all toys.
        executor: ``concurrent.futures`` executor that shares the toys in blocks of 25: each worker compiles the likelihood
            once, and fits with `zfit_fnf.Minuit`.
        first: Number of the first toy, to go on with those that were made before.
        progress: Whether to show a progress bar.

    Returns:
        Best-fit values, errors and pulls.

    Raises:
        TypeError: As for `toy`.
        ValueError: As for `toy`; if ``n_toys`` is not positive, no parameter floats, or an executor shall use another
            minimiser.

    Example:
        >>> fits = fit_toys(nll, 200, params={mu: 1.0}, seed=1)
        >>> with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        ...     same = fit_toys(nll, 200, params={mu: 1.0}, seed=1, executor=pool)
        >>> fits.pulls().loc["mu", "width"]
    """
    n_toys = checked_number(n_toys, "n_toys")
    settings: dict[str, Any] = {"params": params, "minimizer": minimizer, "seed": seed, "executor": executor}
    return run(nll, n_toys, first=first, progress=progress, **settings)


@dataclass(frozen=True)
class _OwnToys:
    """Toys each of which has events of its own."""

    nll: zfit.loss.UnbinnedNLL
    truth: dict[zfit.Parameter, float]
    seed: int
    minimizer: zfit.minimize.BaseMinimizer | None

    def fits(self, indices: Iterable[int]) -> Iterator[Fit]:
        """The fits of some toys."""
        minimizer = toy_minimizer(self.nll, self.minimizer)
        toys = (toy(self.nll, params=self.truth, seed=(self.seed, index)) for index in indices)
        for loss, result in fits_of(self.nll, toys, minimizer):
            values, errors = current_values(self.truth), hesse_errors(loss, list(self.truth))
            yield list(values.values()), list(errors.values()), bool(result.converged)


def _toys(
    nll: zfit.loss.UnbinnedNLL,
    truth: dict[zfit.Parameter, float],
    seed: int,
    pool: int | None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
) -> _OwnToys | ToyPool:
    return _OwnToys(nll, truth, seed, minimizer) if pool is None else ToyPool(nll, truth, pool, (seed,))


def _blocks_of(toys: _OwnToys | ToyPool | tuple[Any, ...]) -> Callable[[range], list[Fit]]:
    """What fits blocks of toys, or of toys that have yet to be made of these arguments."""
    ready = _toys(*toys) if isinstance(toys, tuple) else toys
    return lambda block: list(ready.fits(block))


def _file(folder: Path, block: range) -> Path:
    return folder / f"toys_{block.start:07d}_{block.stop:07d}.json"


def _keep(folder: Path, block: range, origin: dict[str, Any], fits: list[Fit]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with complete(_file(folder, block)) as draft:
        draft.write_text(json.dumps({**origin, "fits": fits}), encoding="utf-8")


def _kept(folder: Path, blocks: Iterable[range], origin: dict[str, Any]) -> dict[int, list[Fit]]:
    """Blocks that were done before, by their first toy."""
    done = {}
    for block in blocks:
        if not (path := _file(folder, block)).exists():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            fits = [(values, errors, bool(converged)) for values, errors, converged in content.pop("fits")]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{str(path)!r} is no block of toys: move it away, and it is done again") from None
        if content != origin or len(fits) != len(block):
            raise ValueError(f"{str(path)!r} has toys of {content}, not of {origin}: give another folder as out=")
        done[block.start] = fits
    return done


def _check_same(folder: Path | None, kept: Fit, again: Fit) -> None:
    """Refuse the toys of a likelihood that has the same parameters, but is another one."""
    errors = np.where(np.isfinite(again[1]), again[1], 1.0)
    differences = np.abs(np.subtract(kept[:2], again[:2])) / errors  # of values, and of errors
    if not (np.isnan(differences) | (differences < _SAME)).all() or np.isnan(differences[0]).any():
        raise ValueError(
            f"the toys in {str(folder)!r} are of another likelihood, or were made by another version: the first one gave "
            f"{kept[0]}, and gives {again[0]} now. Give another folder as out="
        )


def _joined(truth: dict[str, float], fits: list[Fit], pool: PoolReport | None) -> ToyFits:
    index = pd.RangeIndex(len(fits), name="toy")
    values, errors = (pd.DataFrame([fit[part] for fit in fits], columns=list(truth), index=index) for part in (0, 1))
    valid = np.array([fit[2] for fit in fits]) & np.isfinite(errors).all(axis=1).to_numpy()
    return ToyFits(dict(truth), values, errors, valid, pool)

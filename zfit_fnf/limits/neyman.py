"""Rises of the profile likelihood in toys of hypotheses, from which intervals are constructed without any formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import NamedTuple

import zfit  # before tensorflow, which it silences
import numpy as np

from ..arguments import check_executor_fits
from ..common.parallel import Executor, run
from ..common.warning import warn
from ..minimize import Minuit
from ..pickling import work_of
from ..profiles import ConditionalMinima, KnownMinimum, NotConverged, minimise
from ..state import current_values
from ..toys import PseudoExperiment, refill, refillable, toy
from ..toys.pool import ToyPool
from .counting import CountingToys, counts_only
from .results import PoolWorth

__all__ = ["Hypothesis", "Rises", "rises_in_toys"]

_TOGETHER = 100  # toys of one task
_FAILED = 0.02  # share of toys whose fits do not converge, above which it is told


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Where toys are made, and the points at which their likelihoods are evaluated.

    Attributes:
        truth: Values of all floating parameters.
        points: Values of the parameters of interest, ``(K, P)``.
    """

    truth: dict[zfit.Parameter, float]
    points: tuple[tuple[float, ...], ...]


class Rises(NamedTuple):
    """Fits to the toys of a hypothesis.

    Attributes:
        best: Best-fit values of the parameters of interest, ``(n, P)``.
        rise: Twice the rise of the profile likelihood at the points, ``(n, K)``; not a number where a fit did not converge.
        pool: What the pool is worth that they were drawn from, if there is one.
    """

    best: np.ndarray
    rise: np.ndarray
    pool: PoolWorth | None = None


Task = tuple[int, range]


def rises_in_toys(
    nll: zfit.loss.UnbinnedNLL,
    params: Sequence[zfit.Parameter],
    hypotheses: Sequence[Hypothesis],
    n_toys: int,
    *,
    minimizer: zfit.minimize.BaseMinimizer | None,
    seed: int,
    executor: Executor | None,
    pool: int | None,
    progress: str,
) -> list[Rises]:
    """Draw toys of each hypothesis and fit them; toy ``i`` of hypothesis ``h`` is ``toy(nll, seed=(seed, h, i))``.

    Nothing is compiled again from toy to toy. Parameters and global observables are not restored.

    Args:
        nll: The likelihood.
        params: The parameters of interest.
        hypotheses: The hypotheses.
        n_toys: Number of toys of each.
        minimizer: What fits; by default `zfit_fnf.Minuit`.
        seed: Seed of all toys.
        executor: Who does it; by default this process. Each worker compiles the likelihood once.
        pool: Events of each component in the pool that toys of a hypothesis are drawn from; by default they have their own.
        progress: Text of a progress bar.

    Warns:
        UserWarning: If fits to many toys of a hypothesis do not converge.

    Raises:
        ValueError: If an executor or a pool shall use another minimiser, or there is no use or no room for a pool.
        RuntimeError: If none of the fits to toys of a hypothesis converges.
    """
    check_executor_fits(executor, minimizer)
    if pool is not None and minimizer is not None:
        raise ValueError("toys of a pool are fitted by Newton steps: leave minimizer= out")
    starts = range(0, n_toys, _TOGETHER)
    parts = [range(start, min(start + _TOGETHER, n_toys)) for start in starts]
    tasks: list[Task] = list(itertools.product(range(len(hypotheses)), parts))
    work = work_of(_work, nll, list(params), list(hypotheses), seed, minimizer, pool, executor=executor)
    done = {
        (index, part.start): rises for (index, part), rises in run(work, tasks, executor=executor, progress=progress)
    }
    rises = [_joined([done[index, start] for start in starts]) for index in range(len(hypotheses))]
    failed = max(float(np.mean(~np.isfinite(one.rise).all(axis=1))) for one in rises)
    if failed == 1.0:
        raise RuntimeError(
            "no fit to toys of one hypothesis has converged: fit some with zfit_fnf.toys.fit_toys, and look"
        )
    if failed > _FAILED:
        warn(f"{100 * failed:.0f} % of the fits to toys of one hypothesis did not converge, and are left out")
    return rises


def _joined(parts: Sequence[Rises]) -> Rises:
    """Those of several tasks."""
    worth = [part.pool for part in parts if part.pool is not None]
    best, rise = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
    return Rises(best, rise, reduce(PoolWorth.worst, worth) if worth else None)


def _work(
    nll: zfit.loss.UnbinnedNLL,
    params: Sequence[zfit.Parameter],
    hypotheses: Sequence[Hypothesis],
    seed: int,
    minimizer: zfit.minimize.BaseMinimizer | None,
    pool: int | None,
) -> Callable[[Task], Rises]:
    """What fits some of the toys of one hypothesis."""
    if pool is not None:
        return _PooledToys(nll, params, hypotheses, seed, pool)
    if minimizer is None and counts_only(nll):
        return partial(_counts, CountingToys(nll), params, hypotheses, seed)
    return partial(_events, minimizer or Minuit(), nll, refillable(nll), params, hypotheses, seed)


def _counts(
    toys: CountingToys, params: Sequence[zfit.Parameter], hypotheses: Sequence[Hypothesis], seed: int, task: Task
) -> Rises:
    index, part = task
    truth, points = hypotheses[index].truth, hypotheses[index].points
    outcomes = toys.draw(truth, [(seed, index, number) for number in part])
    values, lowest = toys.minima(outcomes, toys.values(truth, len(part)))
    rises, columns = [], [toys.params.index(parameter) for parameter in params]
    for point in points:
        start = values.copy()
        start[:, columns] = point
        # Below zero it is by the tolerance of the fits alone.
        rises.append(np.maximum(2 * (toys.minima(outcomes, start, params)[1] - lowest), 0.0))
    best = np.where(np.isfinite(lowest)[:, None], values[:, columns], np.nan)
    return Rises(best, np.stack(rises, axis=1))


def _events(
    minimizer: zfit.minimize.BaseMinimizer,
    nll: zfit.loss.UnbinnedNLL,
    loss: zfit.loss.UnbinnedNLL,
    params: Sequence[zfit.Parameter],
    hypotheses: Sequence[Hypothesis],
    seed: int,
    task: Task,
) -> Rises:
    index, part = task
    truth, points = hypotheses[index].truth, hypotheses[index].points
    best, rise = np.full((len(part), len(params)), np.nan), np.full((len(part), len(points)), np.nan)
    for row, number in enumerate(part):
        experiment = toy(nll, params=truth, seed=(seed, index, number))
        best[row], rise[row] = _rises_of(loss, experiment, params, points, minimizer)
    return Rises(best, rise)


def _rises_of(
    loss: zfit.loss.UnbinnedNLL,
    experiment: PseudoExperiment,
    params: Sequence[zfit.Parameter],
    points: Sequence[tuple[float, ...]],
    minimizer: zfit.minimize.BaseMinimizer,
) -> tuple[list[float], list[float]]:
    """Best-fit values and rises of one toy, by fits; not numbers where it did not converge."""
    refill(loss, experiment)
    zfit.param.set_values(experiment.truth, clip=True)
    try:
        minimise(loss, list(loss.get_params()), minimizer)
    except NotConverged:
        return [np.nan] * len(params), [np.nan] * len(points)
    minimum = KnownMinimum(loss, current_values(loss.get_params()))
    minima = ConditionalMinima(minimum, params, minimizer)
    # Below zero it is by the tolerance of the fits alone; not a number stays one.
    return [minimum.values[one] for one in params], [float(np.maximum(minima.delta(point), 0.0)) for point in points]


class _PooledToys:
    """Toys from pools, one for each hypothesis, which are made when they are wanted; the last one is kept.

    A toy for which the polynomials of its pool are not good enough is fitted without them.
    """

    def __init__(
        self,
        nll: zfit.loss.UnbinnedNLL,
        params: Sequence[zfit.Parameter],
        hypotheses: Sequence[Hypothesis],
        seed: int,
        n_events: int,
    ):
        self._params, self._hypotheses = params, hypotheses
        self._loss, self._minimizer = refillable(nll), Minuit()
        self._pool = lru_cache(maxsize=1)(lambda index: self._made(nll, index, seed, n_events))

    def __call__(self, task: Task) -> Rises:
        index, part = task
        pool, points = self._pool(index), self._hypotheses[index].points
        rows = [self._rises(pool, number, points) for number in part]
        pool.draw(part[0])
        plain = _rises_of(self._loss, pool.drawn(), self._params, points, self._minimizer)
        # One toy of each task tells how good the polynomials are.
        difference = np.abs(np.subtract(rows[0][1], plain[1]))
        worth = PoolWorth(pool.n_independent, float(np.max(difference, where=np.isfinite(difference), initial=0.0)))
        best, rise = (np.array(column) for column in zip(*rows, strict=True))
        return Rises(best, rise, worth)

    def _made(self, nll: zfit.loss.UnbinnedNLL, index: int, seed: int, n_events: int) -> ToyPool:
        truth = self._hypotheses[index].truth
        zfit.param.set_values(truth, clip=True)
        return ToyPool(nll, truth, n_events, (seed, index))

    def _rises(
        self, pool: ToyPool, number: int, points: Sequence[tuple[float, ...]]
    ) -> tuple[list[float], list[float]]:
        pool.draw(number)
        if pool.settle() is not None and (found := self._precise_rises(pool, points)) is not None:
            return found
        return _rises_of(self._loss, pool.drawn(), self._params, points, self._minimizer)

    def _precise_rises(
        self, pool: ToyPool, points: Sequence[tuple[float, ...]]
    ) -> tuple[list[float], list[float]] | None:
        """None where Newton steps do not lead to a minimum, or to one that the polynomials do not reach."""
        minimum = KnownMinimum(pool, current_values(pool.params))
        minima, rises = ConditionalMinima(minimum, self._params, None), []
        for point in points:
            found = minima.by_steps(point)
            if found is None or not pool.is_precise(found.nll - minimum.lowest):
                return None
            rises.append(max(2 * (found.nll - minimum.lowest), 0.0))
        return [minimum.values[one] for one in self._params], rises

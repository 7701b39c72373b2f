"""Rises of the profile likelihood in toys of hypotheses, from which intervals are constructed without any formula."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from ..toys import refill, refillable, toy
from .counting import CountingToys, counts_only

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
    """

    best: np.ndarray
    rise: np.ndarray


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
        progress: Text of a progress bar.

    Warns:
        UserWarning: If fits to many toys of a hypothesis do not converge.

    Raises:
        ValueError: If an executor shall use another minimiser.
        RuntimeError: If none of the fits to toys of a hypothesis converges.
    """
    check_executor_fits(executor, minimizer)
    starts = range(0, n_toys, _TOGETHER)
    parts = [range(start, min(start + _TOGETHER, n_toys)) for start in starts]
    tasks: list[Task] = list(itertools.product(range(len(hypotheses)), parts))
    work = work_of(_work, nll, list(params), list(hypotheses), seed, minimizer, executor=executor)
    done = {
        (index, part.start): rises for (index, part), rises in run(work, tasks, executor=executor, progress=progress)
    }
    rises = [
        Rises(*map(np.concatenate, zip(*(done[index, start] for start in starts), strict=True)))
        for index in range(len(hypotheses))
    ]
    failed = max(float(np.mean(~np.isfinite(one.rise).all(axis=1))) for one in rises)
    if failed == 1.0:
        raise RuntimeError(
            "no fit to toys of one hypothesis has converged: fit some with zfit_fnf.toys.fit_toys, and look"
        )
    if failed > _FAILED:
        warn(f"{100 * failed:.0f} % of the fits to toys of one hypothesis did not converge, and are left out")
    return rises


def _work(
    nll: zfit.loss.UnbinnedNLL,
    params: Sequence[zfit.Parameter],
    hypotheses: Sequence[Hypothesis],
    seed: int,
    minimizer: zfit.minimize.BaseMinimizer | None,
) -> Callable[[Task], Rises]:
    """What fits some of the toys of one hypothesis."""
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
        refill(loss, toy(nll, params=truth, seed=(seed, index, number)))
        zfit.param.set_values(truth, clip=True)
        try:
            minimise(loss, list(loss.get_params()), minimizer)
        except NotConverged:
            continue
        minimum = KnownMinimum(loss, current_values(loss.get_params()))
        minima = ConditionalMinima(minimum, params, minimizer)
        best[row] = [minimum.values[parameter] for parameter in params]
        # Below zero it is by the tolerance of the fits alone.
        rise[row] = [max(minima.delta(point), 0.0) for point in points]
    return Rises(best, rise)

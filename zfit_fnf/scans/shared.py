"""What scans and impacts share: who computes their points, and from which minimum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import zfit  # before tensorflow, which it silences
from zfit.result import FitResult

from ..arguments import check_executor_fits, check_likelihood, check_minimizer
from ..common.parallel import Executor
from ..pickling import work_of
from ..profiles import KnownMinimum

__all__ = ["check_scan", "shared_work"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def shared_work(
    make: Callable[..., Callable[[Task], Result]],
    best_fit: KnownMinimum,
    params: Sequence[zfit.Parameter],
    minimizer: zfit.minimize.BaseMinimizer | None,
    executor: Executor | None,
) -> Callable[[Task], Result]:
    """What computes points of a scan, or rows of a table, for an executor: its processes find the minimum for themselves."""
    if executor is None:
        return make(best_fit, params, minimizer)
    return work_of(_at_minimum, make, best_fit.nll, best_fit.values, list(params), executor=executor)


def _at_minimum(
    make: Callable[..., Callable[[Task], Result]],
    nll: zfit.loss.UnbinnedNLL,
    values: Mapping[zfit.Parameter, float],
    params: Sequence[zfit.Parameter],
) -> Callable[[Task], Result]:
    return make(KnownMinimum(nll, values), params, None)


def check_scan(nll: zfit.loss.UnbinnedNLL, result: FitResult, minimizer: Any, executor: Any) -> None:
    """Refuse what cannot be scanned: no likelihood, no result of a fit, or an executor beside a minimiser.

    Raises:
        TypeError: If one of them is something else; names it.
    """
    check_likelihood(nll)
    if not isinstance(result, FitResult):
        raise TypeError(f"the second argument is the result of a fit, zfit_fnf.Minuit().minimize(nll); got {result!r}")
    check_minimizer(minimizer)
    check_executor_fits(executor, minimizer)

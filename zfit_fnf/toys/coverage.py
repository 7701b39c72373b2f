"""How often intervals contain the truth, for toys of the model and for toys of simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.stats import norm

from ..arguments import check_executor_fits, parameter_of, positive
from ..common.parallel import Executor, run
from ..common.warning import warn
from ..pickling import work_of
from ..profiles import BestFit, ConditionalMinima
from ..samples import Simulation
from ..state import current_values, preserved
from .experiments import PseudoExperiment, Values, check_events, checked_number, checked_seed, set_truth, toy
from .fits import fits_of, toy_minimizer
from .simulated import drawing

__all__ = ["METHODS", "Coverage", "coverage"]

METHODS = ("hesse", "minos")

_BLOCK = 25  # toys of one task


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often intervals contain the truth, made by `coverage`; prints as a table.

    Attributes:
        truth: Values that the toys were made at, by name of the parameter.
        n_toys: Number of toys.
        n_sigma: Half width of the intervals, in errors.
        expected: Probability with which such intervals should contain the truth.
        table: One row for each ``parameter`` and ``method``: number ``n`` of toys with an interval, the share that is
            ``covered``, its binomial ``error`` (of the expected share), and mean ``pull_mean`` and ``pull_width`` of
            ``(fit - truth) / HESSE error``, of toys with that error. All of them are of the toys with an interval: a fit
            that ends at a limit has no HESSE error, and where many do, the share is not that of all toys.
    """

    truth: dict[str, float]
    n_toys: int
    n_sigma: float
    expected: float
    table: pd.DataFrame

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        scalars = {name: getattr(self, name) for name in ("truth", "n_toys", "n_sigma", "expected")}
        return {**scalars, "intervals": self.table.reset_index().to_dict(orient="records")}

    def __str__(self) -> str:
        head = f"coverage of {self.n_sigma:g} sigma intervals in {self.n_toys} toys, expected {self.expected:.3f}"
        text = f"{head}\n{self.table.to_string(float_format=lambda number: f'{number:.3f}')}"
        return "\n".join([text, *_without(self.table, self.n_toys)])


def coverage(
    nll: zfit.loss.UnbinnedNLL,
    n_toys: int,
    *,
    of: Sequence[zfit.Parameter | str] | None = None,
    params: Values | None = None,
    simulations: Mapping[str, Simulation] | None = None,
    methods: Sequence[str] = METHODS,
    n_sigma: float = 1.0,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> Coverage:
    r"""How often intervals of fits to toys contain the truth.

    An interval of MINOS contains it if the profile likelihood there has not risen more than MINOS allows,
    :math:`2 \Delta \ln L \le n_\sigma^2`: one conditional fit tells, and the ends of the interval are not looked for.

    Args:
        nll: The likelihood, calibrated or not; of its data only the number of events is used, where that is not fitted.
        n_toys: How many toys.
        of: Parameters whose intervals are tested; by default all that float, but for those of the finite simulation if
            there are ``simulations``: nobody knows where these are.
        params: The truth; parameters that are left out have their current values.
        simulations: Where the events of the toys come from, by name of the process: its sample at the nuisances of the
            truth, see `simulated_toys`. By default they come from the densities of the likelihood itself.
        methods: ``"hesse"``, ``"minos"``, or both.
        n_sigma: Half width of the intervals, in errors.
        minimizer: By default `zfit_fnf.Minuit`.
        seed: Seed of all toys.
        executor: ``concurrent.futures`` executor that shares the toys in blocks of 25, and fits with `zfit_fnf.Minuit`; each
            worker compiles the likelihood once.
        progress: Whether to show a progress bar.

    Warns:
        UserWarning: If more toys have no interval, because their fit failed or ended at a limit, than the error of the share
            that is covered leaves room for.

    Raises:
        TypeError: As for `toy`.
        ValueError: As for `toy` and `simulated_toys`; if a method is unknown, no parameter floats, or an executor shall use
            another minimiser.

    Example:
        >>> print(coverage(nll, 300, params={mu: 1.0}))
        >>> print(coverage(zfit_fnf.calibrate(nll, simulations), 300, params={jes: 1.0}, simulations=simulations))
    """
    check_events(nll)
    n_toys, n_sigma = checked_number(n_toys, "n_toys"), positive(n_sigma, "n_sigma=")
    checked_seed(seed, single=True)
    if isinstance(methods, str) or not methods or (unknown := [one for one in methods if one not in METHODS]):
        raise ValueError(f"methods= are some of {METHODS}; got {methods if isinstance(methods, str) else unknown!r}")
    check_executor_fits(executor, minimizer)
    toy_minimizer(nll, minimizer)
    unknown_to_all = () if simulations is None else getattr(nll, "simulation_nuisances", ())
    every = [one for one in nll.get_params() if one not in unknown_to_all]
    tested = [parameter_of(nll, one, "each of of=") for one in (every if of is None else of)]
    size = 1 if executor is None else _BLOCK
    blocks = [range(start, min(start + size, n_toys)) for start in range(0, n_toys, size)]
    with preserved(nll):
        set_truth(nll, params)
        truth = current_values(nll.get_params())
        test = _Test(nll, truth, tested, tuple(methods), n_sigma, seed)
        work = work_of(_intervals_of, test, simulations, minimizer, executor=executor)
        done = dict(run(work, blocks, executor=executor, progress="coverage" if progress else ""))
    rows = [row for block in blocks for row in done[block]]
    table = pd.DataFrame(rows, columns=["parameter", "method", "pull", "covered"])
    expected = float(2 * norm.cdf(n_sigma) - 1)
    summary = _summary(table, expected)
    if many := _without(summary[1.0 - summary["n"] / n_toys > summary["error"]], n_toys):
        warn("; ".join(many))
    return Coverage({one.name: value for one, value in truth.items()}, n_toys, n_sigma, expected, summary)


@dataclass(frozen=True)
class _Test:
    """What is tested, of which toys."""

    nll: zfit.loss.UnbinnedNLL
    truth: dict[zfit.Parameter, float]
    tested: Sequence[zfit.Parameter]
    methods: tuple[str, ...]
    n_sigma: float
    seed: int


Row = tuple[str, str, float, float]
"""Parameter, method, pull, and whether the truth is inside; not numbers where there is no interval."""


def _intervals_of(
    test: _Test, simulations: Mapping[str, Simulation] | None, minimizer: zfit.minimize.BaseMinimizer | None
) -> Callable[[range], list[Row]]:
    """What makes the intervals of blocks of toys."""
    minimizer = toy_minimizer(test.nll, minimizer)
    from_simulation = None if simulations is None else drawing(test.nll, simulations, params=test.truth, seed=test.seed)

    def draw(index: int) -> PseudoExperiment:
        if from_simulation is not None:
            return from_simulation(index)
        return toy(test.nll, params=test.truth, seed=(test.seed, index))

    def block(indices: range) -> list[Row]:
        fits = fits_of(test.nll, map(draw, indices), minimizer)
        return [row for loss, result in fits if result.converged for row in _intervals(loss, result, test, minimizer)]

    return block


def _intervals(loss: Any, result: Any, test: _Test, minimizer: zfit.minimize.BaseMinimizer) -> list[Row]:
    """For each parameter and method the pull, and whether the truth is inside."""
    try:
        best = BestFit(loss, result)
    except ValueError:  # the Hessian there is not positive definite
        return []
    rows = []
    for one in test.tested:
        pull = (best.values[one] - test.truth[one]) / best.errors[one]
        for method in test.methods:
            if method == "hesse":
                covered = float(abs(pull) <= test.n_sigma) if np.isfinite(pull) else np.nan
            else:
                rise = ConditionalMinima(best, [one], minimizer).delta([test.truth[one]])
                covered = float(rise <= test.n_sigma**2) if np.isfinite(rise) else np.nan
            rows.append((one.name, method, pull, covered))
    return rows


def _without(table: pd.DataFrame, n_toys: int) -> list[str]:
    """Says how many toys have no interval."""
    return [
        f"{n_toys - n:.0f} of {n_toys} toys have no {method} interval of {parameter}: their fits failed, or ended at a limit. "
        "What is said is that of the others"
        for (parameter, method), n in table["n"].items()
        if n < n_toys
    ]


def _summary(table: pd.DataFrame, expected: float) -> pd.DataFrame:
    groups = table.groupby(["parameter", "method"], sort=False)
    n = groups["covered"].count()
    return pd.DataFrame(
        {
            "n": n,
            "covered": groups["covered"].mean(),
            "error": np.sqrt(expected * (1 - expected) / n),
            "pull_mean": groups["pull"].mean(),
            "pull_width": groups["pull"].std(),
        }
    )

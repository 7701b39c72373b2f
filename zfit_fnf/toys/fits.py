"""Fits to toys, and their pulls."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm.auto import tqdm
from zfit.result import FitResult

from ..arguments import positive
from ..common.parallel import Executor, check_executor, run
from ..minimize import Minuit
from ..minimum import inverse_of
from ..pickling import dumps, loads
from ..state import current_values, preserved
from .experiments import (
    PseudoExperiment,
    Values,
    check_events,
    checked_number,
    checked_seed,
    refill,
    refillable,
    set_truth,
    toy,
)

__all__ = ["Fit", "PoolReport", "ToyFits", "fit_toys", "fits_of", "hesse_errors", "some_fits", "toy_minimizer"]


@dataclass(frozen=True)
class PoolReport:
    """What toys of a pool are worth, a part of `ToyFits`; prints as a sentence.

    Attributes:
        n_events: Number of events in the pool.
        n_independent: How many toys have as many events as the pool: the effective number of its events over those of a toy,
            for the channel where that is smallest.
        difference: Largest difference, in errors, between fits of the pool and fits without it, of the same events.
    """

    n_events: int
    n_independent: float
    difference: float

    def __str__(self) -> str:
        return (
            f"from a pool of {self.n_events} events, as many as {self.n_independent:.3g} independent toys have; fits of the "
            f"same events without it differ by {self.difference:.2g} errors at most"
        )


@dataclass(frozen=True, eq=False)
class ToyFits:
    """Fits to toys, made by `fit_toys`; prints as a table of the pulls.

    Attributes:
        truth: Values that the toys were drawn at, by name of the parameter.
        values: Best-fit values: a row for each toy, a column for each parameter.
        errors: HESSE errors, likewise; NaN where the Hessian is not positive definite.
        valid: Whether each fit converged and has errors.
        pool: What the toys are worth, if they were drawn from a pool.
    """

    truth: dict[str, float]
    values: pd.DataFrame
    errors: pd.DataFrame
    valid: np.ndarray
    pool: PoolReport | None = None

    def pulls(self) -> pd.DataFrame:
        """Mean and width of ``(fit - truth) / error`` of the valid fits; 0 and 1 if the errors are right.

        Returns:
            A row for each parameter with the columns ``mean``, ``mean_error``, ``width`` and ``width_error``.

        Raises:
            ValueError: If fewer than two fits are valid.
        """
        pulls = self._pulls()
        n_valid = len(pulls)
        if n_valid < 2:
            raise ValueError(f"pulls need two valid fits at least; {n_valid} of {len(self.valid)} are valid")
        width = pulls.std()
        columns = {
            "mean": pulls.mean(),
            "mean_error": width / np.sqrt(n_valid),
            "width": width,
            "width_error": width / np.sqrt(2 * (n_valid - 1)),
        }
        return pd.DataFrame(columns)

    def coverage(self, n_sigma: float = 1.0) -> pd.DataFrame:
        """How often the true value is within so many HESSE errors of the best fit, among the valid fits.

        Args:
            n_sigma: Half width of the interval, in errors.

        Returns:
            A row for each parameter with the columns ``covered``, its binomial ``error``, and what is ``expected``.

        Raises:
            ValueError: If no fit is valid, or ``n_sigma`` is not positive.

        Example:
            >>> fit_toys(nll, 300, seed=1).coverage()
        """
        pulls, n_sigma = self._pulls(), positive(n_sigma, "n_sigma=")
        if not len(pulls):
            raise ValueError(f"coverage needs valid fits; none of {len(self.valid)} is")
        covered, expected = (pulls.abs() < n_sigma).mean(), float(2 * norm.cdf(n_sigma) - 1)
        error = np.sqrt(expected * (1 - expected) / len(pulls))
        return pd.DataFrame({"covered": covered, "error": error, "expected": expected})

    def _pulls(self) -> pd.DataFrame:
        return ((self.values - pd.Series(self.truth)) / self.errors)[self.valid]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each toy: ``value`` and ``error`` of each parameter (columns of two levels), and ``valid``."""
        table = pd.concat({"value": self.values, "error": self.errors}, axis=1).swaplevel(axis=1)
        table = table.reindex(columns=list(self.truth), level=0)
        table["valid", ""] = self.valid
        return table

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON: by name of the parameter the ``truth``, and lists of ``values`` and ``errors``; ``valid``."""
        tables = {name: getattr(self, name).to_dict(orient="list") for name in ("values", "errors")}
        pool = {} if self.pool is None else {"pool": asdict(self.pool)}
        return {"truth": dict(self.truth), **tables, "valid": self.valid.tolist(), **pool}

    def __str__(self) -> str:
        table = self.pulls().to_string(float_format=lambda number: f"{number:.3f}")
        pool = "" if self.pool is None else f", {self.pool}"
        return f"pulls of {self.valid.sum()} valid fits to {len(self.valid)} toys{pool}\n{table}"


def fit_toys(
    nll: zfit.loss.UnbinnedNLL,
    n_toys: int,
    *,
    params: Values | None = None,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> ToyFits:
    """Draw toys and fit them all with one loss, from the true values.

    Nothing is compiled again from toy to toy. Toy ``i`` is ``toy(nll, seed=(seed, i))``, whoever draws and fits it.
    Parameters and global observables are restored at the end.

    Args:
        nll: The likelihood; of its data only the number of events is used, and that only without a yield.
        n_toys: How many toys.
        params: Parameter values to draw at; those left out have their current values.
        minimizer: By default `zfit_fnf.Minuit`.
        seed: Seed of all toys.
        executor: ``concurrent.futures`` executor that shares the toys, in as many parts as there are cores: each compiles
            the likelihood once, and fits with `zfit_fnf.Minuit`.
        progress: Whether to show a progress bar.

    Returns:
        Best-fit values, errors and pulls.

    Raises:
        TypeError: As for `toy`.
        ValueError: As for `toy`; if ``n_toys`` is not positive, no parameter floats, or an executor shall use another minimiser.

    Example:
        >>> fits = fit_toys(nll, 200, params={mu: 1.0}, seed=1)
        >>> with concurrent.futures.ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        ...     same = fit_toys(nll, 200, params={mu: 1.0}, seed=1, executor=pool)
        >>> fits.pulls().loc["mu", "width"]
    """
    check_events(nll)
    n_toys = checked_number(n_toys, "n_toys")
    checked_seed(seed, single=True)
    check_executor(executor)
    if executor is not None and minimizer is not None:
        raise ValueError("an executor fits with zfit_fnf.Minuit(): minimisers are not sent to other processes")
    minimizer = toy_minimizer(nll, minimizer)
    with preserved(nll):
        set_truth(nll, params)
        truth = current_values(nll.get_params())
        if executor is None:
            fits = list(
                tqdm(some_fits(nll, truth, minimizer, seed, range(n_toys)), "toys", n_toys, disable=not progress)
            )
        else:
            fits = _shared_fits(nll, truth, seed, n_toys, executor, "toys" if progress else "")
    names = [parameter.name for parameter in truth]
    values, errors = (
        pd.DataFrame([fit[part] for fit in fits], columns=names, index=pd.RangeIndex(n_toys, name="toy"))
        for part in (0, 1)
    )
    valid = np.array([fit[2] for fit in fits]) & np.isfinite(errors).all(axis=1).to_numpy()
    return ToyFits(dict(zip(names, truth.values(), strict=True)), values, errors, valid)


Fit = tuple[list[float], list[float], bool]
"""Values, errors, and whether the fit converged; valid is another thing, zfit calls fits at limits invalid."""


def some_fits(
    nll: zfit.loss.UnbinnedNLL,
    truth: dict[zfit.Parameter, float],
    minimizer: zfit.minimize.BaseMinimizer,
    seed: int,
    indices: Iterable[int],
) -> Iterator[Fit]:
    """The fits of some of the toys."""
    toys = (toy(nll, params=truth, seed=(seed, index)) for index in indices)
    for loss, result in fits_of(nll, toys, minimizer):
        values, errors = current_values(truth), hesse_errors(loss, list(truth))
        yield list(values.values()), list(errors.values()), bool(result.converged)


def _shared_fits(
    nll: zfit.loss.UnbinnedNLL,
    truth: dict[zfit.Parameter, float],
    seed: int,
    n_toys: int,
    executor: Executor,
    progress: str,
) -> list[Fit]:
    """The same by an executor, in the order of the toys."""
    n_parts = min(n_toys, os.cpu_count() or 1)
    parts = [range(part, n_toys, n_parts) for part in range(n_parts)]
    work = partial(_fits_of_part, dumps((nll, truth, seed)))
    fits: dict[int, Fit] = {}
    for part, done in run(work, parts, executor=executor, progress=progress):
        fits.update(zip(part, done, strict=True))
    return [fits[index] for index in range(n_toys)]


def _fits_of_part(sent: bytes, indices: range) -> list[Fit]:
    nll, truth, seed = loads(sent)
    return list(some_fits(nll, truth, Minuit(), seed, indices))


def toy_minimizer(nll: zfit.loss.UnbinnedNLL, minimizer: Any) -> zfit.minimize.BaseMinimizer:
    """What fits toys of a likelihood, by default `zfit_fnf.Minuit`.

    Raises:
        TypeError: If it is no minimiser of zfit.
        ValueError: If no parameter of the likelihood floats.
    """
    if minimizer is not None and not isinstance(minimizer, zfit.minimize.BaseMinimizer):
        raise TypeError(f"minimizer= is a minimiser of zfit, or zfit_fnf.Minuit(); got {type(minimizer).__name__}")
    if not nll.get_params():
        raise ValueError("nothing can be fitted to toys: no parameter of the likelihood floats")
    return minimizer or Minuit()


def fits_of(
    nll: zfit.loss.UnbinnedNLL, experiments: Iterable[PseudoExperiment], minimizer: zfit.minimize.BaseMinimizer
) -> Iterator[tuple[zfit.loss.UnbinnedNLL, FitResult]]:
    """Fit pseudo-experiments with one loss, each from the values that it was made at: nothing is compiled again.

    Parameters and global observables are those of the fit, until the next one is asked for.

    Args:
        nll: The likelihood that they were made from.
        experiments: The pseudo-experiments, of unweighted events.
        minimizer: What fits.
    """
    loss = refillable(nll)
    for experiment in experiments:
        refill(loss, experiment)
        zfit.param.set_values(experiment.truth, clip=True)
        yield loss, minimizer.minimize(loss)


def hesse_errors(loss: zfit.loss.UnbinnedNLL, parameters: Sequence[zfit.Parameter]) -> dict[zfit.Parameter, float]:
    """Errors from the Hessian at the current values; NaN where it is not positive definite.

    Args:
        loss: The likelihood; weights of its data are not corrected for.
        parameters: All its floating parameters.
    """
    errors = np.sqrt(np.diag(inverse_of(np.asarray(loss.hessian(parameters)))))
    return dict(zip(parameters, errors.tolist(), strict=True))

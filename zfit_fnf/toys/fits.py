"""Fits to toys, and their pulls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.stats import norm
from zfit.result import FitResult

from ..arguments import positive
from ..common.warning import warn
from ..minimize import Minuit
from ..minimum import inverse_of
from .experiments import PseudoExperiment, refill, refillable

__all__ = ["Fit", "PoolReport", "ToyFits", "fits_of", "hesse_errors", "toy_minimizer"]


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
    """Fits to toys, made by `run` or `fit_toys`; prints as a table of the pulls.

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
        width, n = pulls.std(), pulls.notna().sum()
        columns = {
            "mean": pulls.mean(),
            "mean_error": width / np.sqrt(n),
            "width": width,
            "width_error": width / np.sqrt(2 * (n - 1)),
        }
        return pd.DataFrame(columns)

    def coverage(self, n_sigma: float = 1.0) -> pd.DataFrame:
        """How often the true value is within so many HESSE errors of the best fit, among the valid fits with a value.

        Args:
            n_sigma: Half width of the interval, in errors.

        Returns:
            A row for each parameter with the columns ``covered``, its binomial ``error``, and what is ``expected``.

        Warns:
            UserWarning: If more fits are not valid than the error of the share leaves room for.

        Raises:
            ValueError: If no fit is valid, or ``n_sigma`` is not positive.

        Example:
            >>> fit_toys(nll, 300, seed=1).coverage()
        """
        pulls, n_sigma = self._pulls(), positive(n_sigma, "n_sigma=")
        if not len(pulls):
            raise ValueError(f"coverage needs valid fits; none of {len(self.valid)} is")
        # Values at a limit are hidden while a parameter is blinded.
        n, expected = pulls.notna().sum(), float(2 * norm.cdf(n_sigma) - 1)
        covered, error = (pulls.abs() < n_sigma).sum() / n, np.sqrt(expected * (1 - expected) / n)
        if 1.0 - len(pulls) / len(self.valid) > error.max():
            warn(
                f"{len(self.valid) - len(pulls)} of {len(self.valid)} toys have no errors: their fits failed, or ended at a "
                "limit. The share that is covered is that of the others"
            )
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
        pool = None if self.pool is None else asdict(self.pool)
        return {"truth": dict(self.truth), **tables, "valid": self.valid.tolist(), "pool": pool}

    def __str__(self) -> str:
        n_valid, pool = int(self.valid.sum()), "" if self.pool is None else f", {self.pool}"
        if n_valid < 2:
            return f"{n_valid} valid fits to {len(self.valid)} toys, which have no pulls{pool}"
        table = self.pulls().to_string(float_format=lambda number: f"{number:.3f}")
        return f"pulls of {n_valid} valid fits to {len(self.valid)} toys{pool}\n{table}"


Fit = tuple[list[float], list[float], bool]
"""Values, errors, and whether the fit converged; valid is another thing, zfit calls fits at limits invalid."""


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

"""hepstats' calculators and upper limit for the likelihoods of this package, in any number of dimensions.

They take the places of their namesakes in hepstats (0.10):

* `AsymptoticCalculator`: hepstats fills its Asimov set into bins, too many of them in several dimensions, and leaves
  the global observables where they were.
* `FrequentistCalculator`: hepstats draws one number of events for all toys, and does not move the global observables.
* `UpperLimit`: with NumPy 2.4, hepstats returns ``None`` for every limit.

Discovery tests and confidence intervals of hepstats run with these calculators as they are. For limits and
significances alone, :mod:`zfit_fnf.limits` is faster.

Example:
    >>> from hepstats.hypotests import Discovery
    >>> from hepstats.hypotests.parameters import POI, POIarray
    >>> calculator = AsymptoticCalculator(result, minimizer)
    >>> p_value, significance = Discovery(calculator, POI(mu, 0)).result()
    >>> limits = UpperLimit(calculator, POIarray(mu, np.linspace(0, 3, 15)), POI(mu, 0), qtilde=True).upperlimit()
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zfit
import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from zfit.result import FitResult

from .arguments import check_likelihood, check_minimizer, count
from .common.optional import require
from .limits.weights import check_weights
from .param import Nuisance
from .profiles import ProfileLikelihood
from .state import current_values, global_observables, preserved
from .toys import asimov, refill, refillable, toy

require("hepstats", extra="limits")

import hepstats.hypotests  # noqa: E402
import hepstats.hypotests.calculators  # noqa: E402
from hepstats.hypotests.exceptions import POIRangeError  # noqa: E402
from hepstats.hypotests.parameters import POI, POIarray  # noqa: E402

__all__ = ["AsymptoticCalculator", "FrequentistCalculator", "UpperLimit"]

_TINY = 1e-12  # instead of a p-value of zero, which toys may have


class AsymptoticCalculator(hepstats.hypotests.calculators.AsymptoticCalculator):
    """Asymptotic formulae with an unbinned Asimov set (arXiv:1007.1727).

    Args:
        input: Loss or fit result.
        minimizer: What fits.
        n_asimov: Events for each component of an Asimov set.
        seed: Seed of the Asimov sets.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If weights of the data make them fluctuate more than a number of events does.
    """

    def __init__(self, input: Any, minimizer: Any, *, n_asimov: int = 20_000, seed: int = 0):
        _check_input(input, minimizer)
        super().__init__(input, minimizer)
        _check_weights(self.loss, minimizer)
        self._n_asimov = count(n_asimov, "n_asimov=", least=1)
        self._seed = count(seed, "seed=", least=0)
        self._profiles: dict[POI, ProfileLikelihood] = {}

    def asimov_dataset(self, poi: POI, ntrials_fit: int | None = None) -> list[zfit.Data]:
        """Asimov set of a hypothesis, with the nuisances that fit the data best.

        Args:
            poi: The hypothesis.
            ntrials_fit: Not used.

        Returns:
            Weighted events of every channel.
        """
        del ntrials_fit
        return self.asimov_loss(poi).data

    def asimov_loss(self, poi: POI) -> zfit.loss.UnbinnedNLL:
        """Likelihood of the Asimov set, to be used while the global observables are at the same hypothesis.

        Args:
            poi: The hypothesis.
        """
        return self._profile(poi).loss

    def asimov_nll(self, pois: POIarray, poialt: POI) -> np.ndarray:
        """Profile likelihood of the Asimov set.

        Args:
            pois: Where to evaluate it.
            poialt: The hypothesis that the Asimov set is of.

        Returns:
            Negative log-likelihoods.
        """
        with preserved(self.loss):
            return np.array([self._profile(poialt).at(poi.value).nll for poi in pois])

    def _profile(self, poi: POI) -> ProfileLikelihood:
        if poi not in self._profiles:
            with preserved(self.loss):
                best = {parameter: self.bestfit.params[parameter]["value"] for parameter in self.loss.get_params()}
                observed = current_values(global_observables(self.loss))
                data = ProfileLikelihood(self.loss, poi.parameter, self.minimizer, observed, truth=best)
                made = asimov(self.loss, params=data.at(poi.value).values, n_events=self._n_asimov, seed=self._seed)
                self._profiles[poi] = ProfileLikelihood(
                    made.loss(self.loss), poi.parameter, self.minimizer, made.observed, truth=made.truth
                )
        return self._profiles[poi]


class FrequentistCalculator(hepstats.hypotests.calculators.FrequentistCalculator):
    """Toys with their own number of events and global observables, refitted with one compiled loss.

    Args:
        input: Loss or fit result.
        minimizer: What fits.
        ntoysnull: Number of toys of the null hypothesis.
        ntoysalt: Number of toys of the alternative hypothesis.
        seed: Seed of all toys.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If weights of the data make them fluctuate more than a number of events does.
    """

    def __init__(self, input: Any, minimizer: Any, ntoysnull: int = 100, ntoysalt: int = 100, *, seed: int = 0):
        _check_input(input, minimizer)
        for name, n_toys in (("ntoysnull=", ntoysnull), ("ntoysalt=", ntoysalt)):
            count(n_toys, name, least=0)
        super().__init__(input, minimizer, ntoysnull=ntoysnull, ntoysalt=ntoysalt)
        _check_weights(self.loss, minimizer)
        self._seed, self._n_drawn = count(seed, "seed=", least=0), 0
        self._refillable = refillable(self.loss)
        self._truth: dict[zfit.Parameter, float] = {}

    @classmethod
    def from_yaml(
        cls, filename: str, input: Any, minimizer: Any, *, ntoysnull: int = 100, ntoysalt: int = 100, seed: int = 0
    ) -> FrequentistCalculator:
        """A calculator with toys that `to_yaml` has written.

        Args:
            filename: The file.
            input: Loss or fit result.
            minimizer: What fits.
            ntoysnull: Number of toys of the null hypothesis; those that are missing are drawn.
            ntoysalt: Number of toys of the alternative hypothesis, likewise.
            seed: Seed of the toys that are drawn: another one than that of the toys in the file.
        """
        calculator = cls(input, minimizer, ntoysnull, ntoysalt, seed=seed)
        for toys in calculator.toysresults_from_yaml(filename):
            calculator.add_toyresult(toys)
        return calculator

    def generate_and_fit_toys(self, ntoys: int, poigen: POI, poieval: POIarray) -> None:
        """Draw toys of a hypothesis, with the nuisances that fit the data best, and fit them.

        Args:
            ntoys: How many.
            poigen: The hypothesis.
            poieval: Where to evaluate the profile likelihood of each toy.
        """
        with preserved(self.loss):
            self.set_params_to_bestfit()
            super().generate_and_fit_toys(ntoys, poigen, poieval)

    def toys_loss(self, parameter_name: str) -> zfit.loss.UnbinnedNLL:
        """The loss that fits toys, of the hypothesis that the parameters have at the moment.

        Args:
            parameter_name: Not used.
        """
        del parameter_name
        self._truth = current_values(self.loss.get_params())
        return self._refillable

    def sample(self, sampler: Any, ntoys: int, poi: POI, constraints: Any = None) -> Iterator[dict[Any, Any]]:
        """Fill the loss with one toy after the other.

        Args:
            sampler: Not used.
            ntoys: How many.
            poi: The hypothesis.
            constraints: Not used.

        Yields:
            Nothing for hepstats to set: it would do so for the first of several fits only.
        """
        del sampler, constraints
        truth = {**self._truth, poi.parameter: poi.value}
        for _ in range(ntoys):
            refill(self._refillable, toy(self.loss, params=truth, seed=(self._seed, self._n_drawn)))
            zfit.param.set_values(truth, clip=True)
            self._n_drawn += 1
            yield {}


class UpperLimit(hepstats.hypotests.UpperLimit):
    """Upper limits by interpolation of p-values; the arguments are those of hepstats."""

    def upperlimit(self, alpha: float = 0.05, CLs: bool = True, printlevel: int = 1) -> dict[str, float | None]:
        """Observed and expected upper limits.

        Args:
            alpha: One minus the confidence level.
            CLs: Whether the p-values are those of CLs, or of signal plus background.
            printlevel: Not used.

        Returns:
            Limits by name: ``observed``, ``expected``, and ``expected_m2`` to ``expected_p2``, which are ``None`` if
            they are not between values of the parameter.

        Raises:
            POIRangeError: If the observed or expected limit is.
        """
        del printlevel
        pvalues = self.pvalues(CLs)
        best_fit = self.calculator.bestfit.params[self.poinull.parameter]["value"]
        values = self.poinull.values
        curves = {"observed": (values[values >= best_fit], pvalues["cls" if CLs else "clsb"][values >= best_fit])}
        curves |= {name: (values, p) for name, p in pvalues.items() if name.startswith("expected")}
        limits = {name: _crossing(*curve, alpha) for name, curve in curves.items()}
        for name in ("observed", "expected"):
            if limits[name] is None:
                tried, pvalues_there = curves[name]
                where = f"above {self.poinull.name} = {values.max():g}; scan further"
                if np.any(pvalues_there < alpha):
                    where = f"below {self.poinull.name} = {tried[0]:g}, where the scan starts; scan from lower values, finer"
                raise POIRangeError(f"the {name} upper limit is {where}")
        return limits


def _check_input(input: Any, minimizer: Any) -> None:
    """Refuse what is neither a likelihood nor a result, and what cannot fit.

    Raises:
        TypeError: If an argument is of another kind.
    """
    if not isinstance(input, FitResult):
        check_likelihood(input)
    if minimizer is None:
        raise TypeError("a calculator needs a minimiser, e.g. zfit_fnf.Minuit(); got None")
    check_minimizer(minimizer)


def _check_weights(loss: zfit.loss.UnbinnedNLL, minimizer: Any) -> None:
    """As limits do; which parameter is of interest is not known yet, so that those that fluctuate too much are only named."""
    check_weights(loss, [one for one in loss.get_params() if not isinstance(one, Nuisance)], minimizer, refuse=False)


def _crossing(values: np.ndarray, pvalues: np.ndarray, alpha: float) -> float | None:
    """The first point where the p-values fall below ``alpha``, by monotone interpolation of their logarithm, if it is known."""
    below = np.flatnonzero(pvalues < alpha)
    if not len(below) or below[0] == 0:
        return None
    curve = PchipInterpolator(values, np.log(np.maximum(pvalues, _TINY)))
    return float(brentq(lambda value: curve(value) - np.log(alpha), values[below[0] - 1], values[below[0]]))

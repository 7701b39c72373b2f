r"""Goodness of fit of unbinned likelihoods: what toys of the fitted model say of the data.

Every statistic is computed for the data and for toys that were fitted just as well, which makes all p-values right whatever
the statistic is, fitted parameters included. With the fitted parameters of a toy, events of the fitted model get the weights
:math:`p(x | \hat\theta_{toy}) / p(x | \hat\theta)`: nothing is drawn anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from scipy.special import xlogy
from tqdm.auto import tqdm
from zfit.result import FitResult

from ..arguments import check_likelihood, count
from ..common.optional import require
from ..loss import EventDensity, UnbinnedChannel, channels_of, constraint_kernel, drawn_events
from ..minimize import Minuit
from ..pdf import expected_events
from ..state import current_values, measured_values, preserved, seeds_from
from ..toys import fits_of, toy
from .two_sample import held_out_log_odds

__all__ = ["GoodnessOfFit", "goodness_of_fit"]

_REFERENCE, _FEWEST = 2, 1000  # events of the fitted model for each of the data, and in all
_FEW_FOR_CLASSIFIER = 10  # data events, below which trees cannot be grown
_FOR_CLASSIFIER = 50_000  # data events, beyond which trees gain little
_BINS, _PER_BIN = 20, 20.0  # at most so many bins, of so many events at least
_CONVERGED = 0.05  # errors by which fits of free yields may miss the number of events: how far they converge is no test
_LEAVES, _PER_LEAF = 8, 0.02  # regions of the map, and the least share of the events in one


@dataclass(frozen=True, eq=False)
class GoodnessOfFit:
    """Whether data could come from the fitted model, and where not, made by `goodness_of_fit`; prints what was found.

    Attributes:
        p_value: Of all tests together: share of toys in which the smallest p-value of a test is not larger than in the data.
        tests: One row for each test: ``channel``, ``test``, ``of``, its ``statistic`` and ``p_value``.
        regions: Where data and model differ most, the most significant first: ``channel``, the edges of the region
            (``"y1 from"``, ``"y1 to"``), events ``observed`` and ``expected`` in it, and their ``pull``. One half of the events
            finds the regions, and the other half is counted.
        bins: Projections on each observable in bins that expect equal numbers: ``channel``, ``of``, ``low``, ``high``,
            ``observed``, ``expected`` and ``pull``.
        n_toys: Number of toys whose fit converged; no p-value is below ``1 / (n_toys + 1)``.
    """

    p_value: float
    tests: pd.DataFrame
    regions: pd.DataFrame
    bins: pd.DataFrame
    n_toys: int

    def to_dataframe(self) -> pd.DataFrame:
        """The tests."""
        return self.tests.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        tables = {name: getattr(self, name).to_dict(orient="records") for name in ("tests", "regions", "bins")}
        return {"p_value": self.p_value, "n_toys": self.n_toys, **tables}

    def __str__(self) -> str:
        def shown(table: pd.DataFrame) -> str:
            return table.to_string(index=False, float_format=lambda number: f"{number:.4g}")

        return "\n".join(
            [
                f"goodness of fit: p = {self.p_value:.3g} of all tests together, by {self.n_toys} toys",
                shown(self.tests),
                "regions in which data and model differ most",
                shown(self.regions.head(3)),
            ]
        )


def goodness_of_fit(
    nll: zfit.loss.UnbinnedNLL,
    result: FitResult,
    *,
    n_toys: int = 100,
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    seed: int = 0,
    progress: bool = True,
) -> GoodnessOfFit:
    """Whether data could come from the fitted model, by toys that are fitted likewise.

    For each channel there are a *classifier* between the data and events of the model (boosted trees, each fifth of the events
    judged by trees that were grown on the others; the statistic is the mean difference of their log-odds, zero for fewer
    than ten events), the *saturated* likelihood ratio of the projection on each observable, in bins, and the number of
    *events*, where the model has a yield; of the whole likelihood, how far its *constraints* are pulled. Parameters are
    restored at the end.

    Args:
        nll: The likelihood, calibrated or not, of unweighted events.
        result: Its best fit.
        n_toys: How many toys are drawn and fitted.
        minimizer: By default `zfit_fnf.Minuit`.
        seed: Seed of all that is random.
        progress: Whether to show a progress bar.

    Raises:
        ImportError: If scikit-learn is missing, with the command that installs it.
        TypeError: If an argument is of another kind.
        ValueError: If data are weighted or fewer than two, the result is of another likelihood, or no toy could be fitted.

    Example:
        >>> report = goodness_of_fit(nll, result)
        >>> report.p_value, report.regions.head(3)
    """
    n_toys = count(n_toys, "n_toys=", least=1)
    seed = count(seed, "seed=", least=0)
    _check(nll, result)
    minimizer = Minuit() if minimizer is None else minimizer
    with preserved(nll):
        zfit.param.set_values(list(result.params), result, clip=True)
        truth, seeds = current_values(nll.get_params()), seeds_from(seed)
        with _densities(nll):
            channels = [_Comparison(channel, next(seeds)) for channel in _unbinned(nll)]
        keys = [key for one in channels for key in one.keys] + ([("", "constraints", "")] if nll.constraints else [])
        observed = _statistics(nll, channels, seed)
        regions = pd.concat([one.regions(seed) for one in channels], ignore_index=True)
        bins = pd.concat([one.bins() for one in channels], ignore_index=True)
        toys = (toy(nll, params=truth, seed=(seed, index)) for index in range(n_toys))
        found = [
            _statistics(loss, channels, seed + 1 + index)
            for index, (loss, fit) in enumerate(
                tqdm(fits_of(nll, toys, minimizer), "goodness of fit", n_toys, disable=not progress)
            )
            if fit.converged
        ]
    if not found:
        raise ValueError("no fit of a toy converged: there is nothing to compare the data with")
    p_values, p_value = _p_values(np.array([observed, *found]))
    tests = pd.DataFrame(keys, columns=["channel", "test", "of"]).assign(statistic=observed, p_value=p_values)
    order = regions["pull"].abs().sort_values(ascending=False, kind="stable").index
    return GoodnessOfFit(p_value, tests, regions.loc[order].reset_index(drop=True), bins, len(found))


def _check(nll: Any, result: Any) -> None:
    check_likelihood(nll)
    if not isinstance(result, FitResult):
        raise TypeError(f"the second argument is the result of a fit, zfit_fnf.Minuit().minimize(nll); got {result!r}")
    if {one.name for one in result.params} != (names := {one.name for one in nll.get_params()}):
        raise ValueError(f"the result is not one of this likelihood, whose parameters are {sorted(names)}")
    for channel in _unbinned(nll):
        if channel.data.has_weights:
            raise ValueError(
                f"the data of {channel.model.name!r} are weighted: how they fluctuate is not known, so that no toys can be drawn"
            )
        if (n_events := int(channel.data.n_events)) < 2:
            raise ValueError(
                f"the data of {channel.model.name!r} have {n_events} event(s): nothing can be seen in fewer than two"
            )


def _unbinned(nll: Any) -> list[UnbinnedChannel]:
    """Channels with events; of a calibrated likelihood those of the learned one."""
    found = [one for one in channels_of(getattr(nll, "learned", nll)) if isinstance(one, UnbinnedChannel)]
    if not found:
        raise TypeError("goodness of fit is that of unbinned events, and this likelihood has none")
    return found


def _densities(nll: Any) -> AbstractContextManager[Any]:
    """In here, densities are those that the parameters of a likelihood mean."""
    return nll.drawing() if hasattr(nll, "drawing") else nullcontext()


class _Comparison:
    """Events of a channel, with events of its model where the parameters are when it is made.

    Args:
        channel: The channel.
        seed: Seed of the events.
    """

    def __init__(self, channel: UnbinnedChannel, seed: np.ndarray):
        self.model, self._channel = channel.model, channel
        self.obs = list(channel.model.obs)
        self._data = _events(channel)
        self._reference = drawn_events(self.model, self.model, max(_REFERENCE * len(self._data), _FEWEST), seed)
        self._density = EventDensity(self.model, self._reference)
        self._log_p = self._density()
        n_bins = int(np.clip(len(self._data) / _PER_BIN, 2, _BINS))
        self._edges = [_even_edges(values, n_bins) for values in self._reference.T]

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """Channel, test and what is tested, in the order of `statistics`."""
        name, number = self.model.name, [("events", "")] if self._channel.extended else []
        tests = [("classifier", ", ".join(self.obs)), *(("saturated", one) for one in self.obs), *number]
        return [(name, test, of) for test, of in tests]

    def statistics(self, channel: UnbinnedChannel, seed: int) -> Iterator[float]:
        """Of the events of a channel of the same model, where the parameters are: the larger, the worse is the fit."""
        x, shares = _events(channel), self._shares()
        yield self._classified(x, shares, seed)
        for observed, expected in self._counts(x, shares):
            yield float(2.0 * np.sum(expected - observed + xlogy(observed, observed / expected)))
        if self._channel.extended:
            expected_number = expected_events(self.model)
            away = abs(len(x) - expected_number) / np.sqrt(max(expected_number, 1.0))
            yield away if away > _CONVERGED else 0.0

    def bins(self) -> pd.DataFrame:
        """Projections of the data."""
        parts = []
        for name, edges, (observed, expected) in zip(
            self.obs, self._edges, self._counts(self._data, self._shares()), strict=True
        ):
            ends = {"channel": self.model.name, "of": name, "low": edges[:-1], "high": edges[1:]}
            pull = (observed - expected) / np.sqrt(expected)
            parts.append(pd.DataFrame({**ends, "observed": observed, "expected": expected, "pull": pull}))
        return pd.concat(parts, ignore_index=True)

    def regions(self, seed: int) -> pd.DataFrame:
        """Boxes in which data and model differ: of a tree that was grown on one half of the events, counted in the other."""
        rng = np.random.default_rng(seed)
        halves = [rng.permutation(len(x)) % 2 == 0 for x in (self._data, self._reference)]
        grown = [x[half] for x, half in zip((self._data, self._reference), halves, strict=True)]
        tree = require("sklearn.tree", extra="diagnostics").DecisionTreeClassifier(
            max_leaf_nodes=_LEAVES, min_weight_fraction_leaf=_PER_LEAF, random_state=seed
        )
        weights = np.repeat([1.0, len(grown[0]) / len(grown[1])], [len(x) for x in grown])
        tree.fit(np.concatenate(grown), np.repeat([0, 1], [len(x) for x in grown]), sample_weight=weights)
        data, reference = self._data[~halves[0]], self._reference[~halves[1]]
        share = self._expected_number() / len(self._reference)  # of half of the events in half of the data
        rows = []
        leaves, of_data, of_reference = _boxes(tree.tree_, len(self.obs)), tree.apply(data), tree.apply(reference)
        for leaf, box in leaves.items():
            n_reference = int((of_reference == leaf).sum())
            observed, expected = int((of_data == leaf).sum()), share * n_reference
            ends = {
                f"{name} {end}": x
                for name, pair in zip(self.obs, box, strict=True)
                for end, x in zip(("from", "to"), pair, strict=True)
            }
            error = np.sqrt(expected + share**2 * n_reference) or 1.0
            rows.append(
                {"channel": self.model.name, **ends, "observed": observed, "expected": expected,
                 "pull": (observed - expected) / error}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def _shares(self) -> np.ndarray:
        """Weights of the events of the model where the parameters are, which sum to one."""
        ratio = np.exp(self._density() - self._log_p)
        return ratio / ratio.sum()

    def _expected_number(self) -> float:
        return expected_events(self.model) if self._channel.extended else float(len(self._data))

    def _classified(self, x: np.ndarray, shares: np.ndarray, seed: int) -> float:
        if len(x) < _FEW_FOR_CLASSIFIER:
            return 0.0
        data, reference = x[:_FOR_CLASSIFIER], self._reference[: _REFERENCE * _FOR_CLASSIFIER]
        of_data, of_model = held_out_log_odds(data, reference, shares[: len(reference)], seed=seed)
        return float(of_data.mean() - np.average(of_model, weights=shares[: len(reference)]))

    def _counts(self, x: np.ndarray, shares: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Observed and expected numbers in the bins of each observable; a fit has the number of events right."""
        for values, reference, edges in zip(x.T, self._reference.T, self._edges, strict=True):
            inner = edges[1:-1]
            observed = np.bincount(np.searchsorted(inner, values), minlength=len(edges) - 1)
            expected = np.bincount(np.searchsorted(inner, reference), shares, minlength=len(edges) - 1) * len(x)
            yield observed, np.maximum(expected, 1e-9)


def _events(channel: UnbinnedChannel) -> np.ndarray:
    return np.asarray(channel.data.with_obs(channel.model.obs).value())


def _even_edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Edges between which equal numbers of values are; the outermost ones are those of the values."""
    return np.unique(np.quantile(values, np.linspace(0.0, 1.0, n_bins + 1)))


def _boxes(tree: Any, n_dim: int) -> dict[int, np.ndarray]:
    """Lower and upper edges ``(n_dim, 2)`` of each leaf of a tree."""
    found, open_boxes = {}, [(0, np.tile([-np.inf, np.inf], (n_dim, 1)))]
    while open_boxes:
        node, box = open_boxes.pop()
        if tree.children_left[node] < 0:
            found[node] = box
            continue
        axis, threshold = tree.feature[node], tree.threshold[node]
        left, right = box.copy(), box.copy()
        left[axis, 1], right[axis, 0] = threshold, threshold
        open_boxes += [(tree.children_left[node], left), (tree.children_right[node], right)]
    return found


def _statistics(nll: Any, channels: Sequence[_Comparison], seed: int) -> list[float]:
    """All statistics of a likelihood at the current parameters, which are those that fit it best."""
    with _densities(nll):
        found = [
            value
            for one, channel in zip(channels, _unbinned(nll), strict=True)
            for value in one.statistics(channel, seed)
        ]
    return [*found, _pulled(nll)] if nll.constraints else found


def _pulled(nll: Any) -> float:
    """Twice the rise of the constraints above their minimum."""

    def value() -> float:
        return sum(float(constraint_kernel(one).value_gradient()[0]) for one in nll.constraints)

    here = value()
    with zfit.param.set_values(measured_values(nll), clip=True):
        return 2.0 * (here - value())


def _p_values(table: np.ndarray) -> tuple[np.ndarray, float]:
    """p-values ``(tests,)`` of the first row among all rows, and that of the smallest of them; the next ones break ties."""
    ranks = np.array([(column[:, None] <= column).sum(axis=1) for column in table.T]).T / len(table)
    ordered = np.sort(ranks, axis=1).tolist()
    return ranks[0], float(np.mean([row <= ordered[0] for row in ordered]))

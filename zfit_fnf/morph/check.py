"""Whether morphed simulation looks like data, to a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..diagnostics import two_sample_auc, two_sample_test
from ..diagnostics.two_sample import held_out_scores
from ..samples import Sample, as_sample
from .model import Morph

__all__ = ["MorphCheck", "check"]

_DIFFERENT = 0.01  # probability of equal conditions, below which simulation is weighted in them


@dataclass(frozen=True)
class MorphCheck:
    """What a classifier finds between simulation and data, made by `check`.

    Attributes:
        auc_before: Area under its ROC curve before the morph; 0.5 where it finds no difference.
        auc_after: After the morph.
        p_before: Probability that samples of one distribution differ as much, before.
        p_after: After.
        reweighted: Whether simulation was weighted to the conditions of data first, by a classifier of them.
    """

    auc_before: float
    auc_after: float
    p_before: float
    p_after: float
    reweighted: bool

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    def to_dataframe(self) -> pd.DataFrame:
        """The area and the probability: a row each for before and after."""
        rows = {"auc": [self.auc_before, self.auc_after], "p": [self.p_before, self.p_after]}
        return pd.DataFrame(rows, index=["before", "after"])

    def __str__(self) -> str:
        weighted = ", simulation weighted to the conditions of data" if self.reweighted else ""
        return f"classifier between simulation and data{weighted}\n{self.to_dataframe().to_string()}"


def check(
    morph: Morph, simulation: Any, data: Any, *, weights: tuple[Any, Any] = (None, None), seed: int = 0
) -> MorphCheck:
    """Compare simulation with data before and after a morph, in the observables and the conditions together.

    A morph leaves the conditions alone. Where simulation has others than data, it is weighted to them first, by boosted trees.
    Give events that have not trained the morph, if there are any: those that have are closer to each other.

    Args:
        morph: The morph.
        simulation: Simulated events.
        data: Observed events.
        weights: Of both samples, each the name of a column or an array.
        seed: Seed of the classifiers, and of what is random in the morph.

    Raises:
        ImportError: If scikit-learn is missing (``pip install "zfit_fnf[diagnostics]"``).

    Example:
        >>> print(check(morph, simulation, data))
    """
    names = [*morph.obs, *morph.cond]
    before, observed = (as_sample(e, names, weights=w) for e, w in zip((simulation, data), weights, strict=True))
    different = bool(morph.cond) and two_sample_test(before, observed, morph.cond, seed=seed) < _DIFFERENT
    if different:
        before = _weighted(before, observed, morph.cond, seed)
    after = Sample(morph.to_data(before, seed=seed), before.weights, before.name)
    found = [
        (two_sample_auc(one, observed, names, seed=seed), two_sample_test(one, observed, names, seed=seed))
        for one in (before, after)
    ]
    (auc_before, p_before), (auc_after, p_after) = found
    return MorphCheck(auc_before, auc_after, p_before, p_after, different)


def _weighted(simulation: Sample, data: Sample, cond: Sequence[str], seed: int) -> Sample:
    """Simulation with weights by which it has the conditions of data."""
    score, label, _, _ = held_out_scores(simulation, data, cond, weights=(None, None), seed=seed)
    p = np.clip(score[label == 0], 1e-3, 1.0 - 1e-3)
    own = np.ones(simulation.n_events) if simulation.weights is None else simulation.weights
    return Sample(simulation.columns, own * p / (1.0 - p), simulation.name)

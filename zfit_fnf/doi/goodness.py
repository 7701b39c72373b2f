"""Whether data have the density of the model behind the map: what a map that is too stiff does not reach."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
from scipy import special

from ..diagnostics import two_sample_test
from ..samples import Sample

__all__ = ["goodness_of_fit", "kolmogorov_smirnov"]

_CLASSIFIED = 10_000  # of each sample, for a classifier


def goodness_of_fit(obs: Sequence[str], data: Sample, drawn: Sample, seed: int) -> dict[str, float]:
    """Probabilities that events of a model differ from data by as much as they do, by name of the test.

    Kolmogorov and Smirnov's test of each observable that the map moves, and a classifier of all observables, if scikit-learn
    is there. A map is fitted to the data: where it is right the probabilities are large.

    Args:
        obs: The observables that the map moves.
        data: The events.
        drawn: Weighted events of the model, with all its observables.
        seed: Of the classifier.
    """
    own = np.ones(data.n_events) if data.weights is None else data.weights
    assert drawn.weights is not None
    found = {name: kolmogorov_smirnov(data.columns[name], drawn.columns[name], own, drawn.weights) for name in obs}
    if importlib.util.find_spec("sklearn"):
        rows = [np.random.default_rng([seed, n]).permutation(n)[:_CLASSIFIED] for n in (data.n_events, drawn.n_events)]
        first, second = (
            Sample({name: sample.columns[name][chosen] for name in drawn.columns})
            for sample, chosen in zip((data, drawn), rows, strict=True)
        )
        weights = own[rows[0]], drawn.weights[rows[1]]
        found["classifier"] = two_sample_test(first, second, list(drawn.columns), weights=weights, seed=seed)
    return found


def kolmogorov_smirnov(
    first: np.ndarray, second: np.ndarray, first_weights: np.ndarray, second_weights: np.ndarray
) -> float:
    """Probability that weighted samples of one distribution have distribution functions so far apart."""
    order = np.argsort(values := np.concatenate([first, second]))
    steps = [
        np.concatenate([first_weights / first_weights.sum(), np.zeros(len(second))]),
        np.concatenate([np.zeros(len(first)), second_weights / second_weights.sum()]),
    ]
    last = np.append(np.diff(values[order]) > 0, True)  # of equal values only the whole step counts
    distance = np.abs(np.cumsum(steps[0][order]) - np.cumsum(steps[1][order]))[last].max()
    sizes = [np.sum(w) ** 2 / np.sum(w**2) for w in (first_weights, second_weights)]
    return float(special.kolmogorov(distance * np.sqrt(sizes[0] * sizes[1] / (sizes[0] + sizes[1]))))

"""Histograms as functions of a scenario, for `Scenarios.evaluate`: what is predicted for data, and what was unfolded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..samples import Sample, as_sample
from .variations import Scenario, Scenarios


def predicted(
    cases: Scenarios, events: Sample, columns: Mapping[str, Sequence[float] | np.ndarray]
) -> Callable[[Scenario], np.ndarray]:
    r"""Expected numbers of events of data in bins of one or more observables.

    A fixed sample of the best-fit model is reweighted with :math:`n'p'/(np)` for each scenario: differences have little
    statistical noise.

    Args:
        cases: The scenarios.
        events: Weighted events of the model at the best fit, with all its observables, e.g. the concatenated
            `zfit_fnf.projections.component_samples` of ``profiled.pdf``.
        columns: Bin edges by observable: one axis of the histogram each.

    Example:
        >>> band = cases.evaluate(predicted(cases, events, {"x1": [-1, 0, 1], "y1": np.linspace(-3, 3, 31)}))
        >>> band.value.shape
        (2, 30)
    """
    values, edges = [events.columns[name] for name in columns], [np.asarray(edge, float) for edge in columns.values()]
    weights = np.ones(events.n_events) if events.weights is None else events.weights
    reference = cases.best.log_rate(events)

    def histogram(scenario: Scenario) -> np.ndarray:
        return np.histogramdd(values, edges, weights=weights * np.exp(scenario.log_rate(events) - reference))[0]

    return histogram


def unfolded(
    data: Any, columns: Mapping[str, Sequence[float] | np.ndarray], *, weights: Any = None
) -> Callable[[Scenario], np.ndarray]:
    """Numbers of events of data in bins of where simulation has them.

    The process of an event is not known: it counts for each one with its probability, at the place where the map of that
    process takes it.

    Args:
        data: The events, with all observables of the model.
        columns: Bin edges by observable: one axis of the histogram each.
        weights: Weights of the events: a column or an array.

    Example:
        >>> result = cases.evaluate(unfolded(data, {"y1": np.linspace(-3, 3, 31)}))
        >>> result.value, result.covariance()
    """
    edges = [np.asarray(edge, float) for edge in columns.values()]

    def histogram(scenario: Scenario) -> np.ndarray:
        sample = as_sample(data, scenario.pdf.obs, weights=weights)
        own = np.ones(sample.n_events) if sample.weights is None else sample.weights
        total = np.zeros([len(edge) - 1 for edge in edges])
        for process, shares in scenario.shares(sample).items():
            moved = scenario.to_simulation(sample, process=str(process))
            values = [moved[name] if name in moved else sample.columns[name] for name in columns]
            total += np.histogramdd([np.asarray(v) for v in values], edges, weights=own * shares.to_numpy())[0]
        return total

    return histogram

"""Histograms as functions of a map variation, for `MapVariations.evaluate`: predicted and unfolded event counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..common.checks import flag
from ..common.warning import warn
from ..samples import Sample, as_sample
from .variations import MapVariation, MapVariations, check_map_variations

__all__ = ["bin_edges", "predicted", "unfolded"]


def predicted(
    maps: MapVariations, events: Any, columns: Mapping[str, Sequence[float] | np.ndarray]
) -> Callable[[MapVariation], np.ndarray]:
    r"""Expected numbers of events of data in bins of one or more observables.

    A fixed sample of the best-fit model is reweighted with :math:`n'p'/(np)` for each map: differences have little
    statistical noise.

    Args:
        maps: The map variations.
        events: Weighted events of the model at the best fit, with all its observables, e.g. the concatenated
            `zfit_fnf.projections.component_samples` of ``profiled.pdf``.
        columns: Bin edges by observable: one axis of the histogram each.

    Raises:
        TypeError: If the first argument is not from `scenarios`.
        ValueError: If the events lack an observable.

    Example:
        >>> band = maps.evaluate(predicted(maps, events, {"x1": [-1, 0, 1], "y1": np.linspace(-3, 3, 31)}))
        >>> band.value.shape
        (2, 30)
    """
    check_map_variations(maps, "predicted")
    edges = bin_edges(columns)
    events = as_sample(events, list(dict.fromkeys([*maps.best.pdf.obs, *columns])))
    values = [events.columns[name] for name in columns]
    weights = np.ones(events.n_events) if events.weights is None else events.weights
    reference = maps.best.log_rate(events)

    def histogram(variation: MapVariation) -> np.ndarray:
        return np.histogramdd(values, edges, weights=weights * np.exp(variation.log_rate(events) - reference))[0]

    histogram.edges = dict(zip(columns, edges, strict=True))  # type: ignore[attr-defined]
    return histogram


def unfolded(
    data: Any,
    columns: Mapping[str, Sequence[float] | np.ndarray],
    *,
    weights: Any = None,
    counting: bool = True,
) -> Callable[[MapVariation], np.ndarray]:
    """Numbers of events of data in bins of where simulation has them.

    The process of an event is not known: it counts for each one with its probability, at the place where the map of that
    process takes it.

    Args:
        data: The events, with all observables of the model.
        columns: Bin edges by observable: one axis of the histogram each.
        weights: Weights of the events: a column or an array.
        counting: Whether uncertainties include that of the numbers of events, and are those of what the experiment would
            find if it were repeated: what of it moves the parameters is in their part, the rest in the statistical one.
            Without it, the numbers are those of *these* events, and only the map is uncertain.

    Example:
        >>> result = maps.evaluate(unfolded(data, {"y1": np.linspace(-3, 3, 31)}))
        >>> result.value, result.covariance()
    """
    edges = bin_edges(columns)
    flag(counting, "counting=")

    def histogram(variation: MapVariation) -> np.ndarray:
        sample = as_sample(data, list(dict.fromkeys([*variation.pdf.obs, *columns])), weights=weights)
        own = np.ones(sample.n_events) if sample.weights is None else sample.weights
        if sample.weights is None and variation.seed is None and variation.data.weights is not None:
            _warn_if_weighted(variation, sample)
        own = own * variation.counts(sample) if counting else own
        total = np.zeros([len(edge) - 1 for edge in edges])
        for process, shares in variation.shares(sample).items():
            moved = variation.to_simulation(sample, process=str(process))
            values = [moved[name] if name in moved else sample.columns[name] for name in columns]
            total += np.histogramdd([np.asarray(v) for v in values], edges, weights=own * shares.to_numpy())[0]
        return total

    histogram.edges = dict(zip(columns, edges, strict=True))  # type: ignore[attr-defined]
    return histogram


def _warn_if_weighted(variation: MapVariation, sample: Sample) -> None:
    """Tell it of events whose weights were left behind."""
    if n := int(np.sum(variation.places(sample) >= 0)):
        warn(
            f"{n} of these events had weights in the fit, and have none here: each counts once. Give them, weights=, or the "
            "data of the fit, profiled.fit.data"
        )


def bin_edges(columns: Any) -> list[np.ndarray]:
    """Edges of each axis, checked."""
    if not isinstance(columns, Mapping) or not columns:
        raise TypeError(f'columns= maps observables to bin edges, e.g. {{"y1": [-1, 0, 1]}}; got {columns!r}')
    edges = [np.asarray(edge, float) for edge in columns.values()]
    for name, edge in zip(columns, edges, strict=True):
        if edge.ndim != 1 or len(edge) < 2 or not np.all(np.diff(edge) > 0):
            raise ValueError(f"columns= needs ascending bin edges for {name!r}; got {columns[name]!r}")
    return edges

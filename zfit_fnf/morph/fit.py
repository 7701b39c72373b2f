"""Training of a morph: the flow of both samples, told apart by a flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import integer, listed, names
from ..densities.flows import Flow
from ..samples import Sample, as_sample, check_inside, check_trainable
from ..samples.screening import check_continuous
from ..train import Schedule, fit_flow
from .columns import LEVELS, Columns
from .model import FLAG, Morph

__all__ = ["fit_morph"]

_COMPONENTS, _MOST_COMPONENTS = 8, 24
_FREQUENT = 0.01  # share of a whole number from which on the flow needs a peak for it
_BINS, _OVERLAP = 50, 0.05  # quantile bins of a condition, and the least that its distributions have in common


def fit_morph(
    simulation: Any,
    data: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    atoms: Mapping[str, Sequence[float]] | None = None,
    integers: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    weights: tuple[Any, Any] = (None, None),
    n_layers: int = 1,
    n_components: int | None = None,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    n_bootstrap: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Morph:
    """Learn how to take simulated events to where data are, at the same conditions.

    Args:
        simulation: Simulated events: anything that `zfit_fnf.samples.as_sample` takes.
        data: Observed events.
        obs: Observables that are moved, in autoregressive order.
        cond: Conditions that stay what they are, such as momentum and direction.
        atoms: Values with a point mass, by observable, such as ``{"iso": [0.0]}``.
        integers: Observables of whole numbers; where there are none below zero, say so by the range ``(-0.5, inf)``.
        ranges: Physical ``(low, high)`` of observables with sharp edges; atoms may be on an edge.
        weights: Of both samples, each the name of a column or an array; negative ones are allowed.
        n_layers: Autoregressive layers; several take correlations with whole numbers and atoms away, a little.
        n_components: Components of the mixture; default 8, and one more for each value that a whole number often has, up to 24.
        hidden: Widths of the hidden layers.
        schedule: Length and speed of the training.
        n_bootstrap: Number of further flows, trained on bootstrap replicas of both samples.
        seed: Seed of everything random.
        progress: Whether to show progress bars.

    Returns:
        The morph.

    Raises:
        ValueError: If an observable has point masses that are not declared (they are named), or events are outside of the
            ranges; if the samples have next to nothing in common in a condition; for other bad input, which is named.

    Example:
        >>> morph = fit_morph(simulation, data, obs=["shape", "iso"], cond=["pt", "eta"], atoms={"iso": [0.0]})
        >>> morph.to_data(simulation)
    """
    columns = _columns(names(obs, "obs="), atoms, integers)
    cond = names(cond, "cond=")
    if FLAG in (*columns.names, *cond):
        raise ValueError(f"no column may be called {FLAG!r}: it is the flag")
    n_bootstrap, seed = integer(n_bootstrap, "n_bootstrap=", low=0), integer(seed, "seed=", low=0)
    samples = [
        as_sample(events, [*columns.obs, *cond], weights=own, name=name)
        for events, own, name in zip((simulation, data), weights, ("simulation", "data"), strict=True)
    ]
    for sample in samples:
        check_trainable(sample)
        _check_values(sample, columns, ranges or {})
    _check_overlap(samples, cond)
    quantiles = [_quantiles(samples, columns, name) for name in columns.obs if name in columns.atoms]
    if n_components is None:
        n_components = _components(samples, columns)
    options: dict[str, Any] = {"n_layers": n_layers, "n_components": n_components, "hidden": hidden}
    options |= {"ranges": ranges, "schedule": schedule, "progress": progress}

    def trained(member: int) -> Flow:
        table, own = _pooled(samples, columns, cond, quantiles, (seed, member))
        return fit_flow(table, obs=columns.names, cond=[*cond, FLAG], weights=own, seed=seed + member, **options)

    flows = [trained(member) for member in range(1 + n_bootstrap)]
    morph = Morph(flows[0], columns.obs, atoms=columns.atoms, integers=columns.integers, replicas=flows[1:])
    for mine, own in zip(morph.quantiles, quantiles, strict=True):
        mine.assign(tf.constant(own))
    return morph


def _columns(obs: tuple[str, ...], atoms: Mapping[str, Sequence[float]] | None, integers: Sequence[str]) -> Columns:
    if not isinstance(atoms, (Mapping, type(None))):
        raise TypeError(f'atoms= maps observables to their point masses, {{"iso": [0.0]}}; got {atoms!r}')
    known = {name: tuple(sorted(map(float, listed(own, "atoms=", "[0.0]")))) for name, own in (atoms or {}).items()}
    whole = names(integers, "integers=") if integers else ()
    if unknown := [name for name in (*known, *whole) if name not in obs]:
        raise ValueError(f"atoms= and integers= name {unknown}; the observables are {list(obs)}")
    if both := sorted(set(known) & set(whole)):
        raise ValueError(f"{both} are in atoms= and in integers=: of whole numbers each value is an atom already")
    if empty := [name for name, values in known.items() if not values or len(set(values)) < len(values)]:
        raise ValueError(f"atoms= of {empty[0]!r} needs different values, got {known[empty[0]]}")
    return Columns(obs, known, whole)


def _check_values(sample: Sample, columns: Columns, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse point masses that are not declared, and values outside of ranges."""
    columns.check_whole(sample)
    for name in columns.obs:
        values = np.asarray(sample.columns[name], float)
        if name in columns.integers:
            continue
        rest = Sample({name: values[columns.continuous(sample, name)]}, name=sample.name)
        if not rest.n_events:
            raise ValueError(f"{name!r} has no values but its atoms in {sample.name}: number them, and use integers=")
        try:
            check_continuous(rest, [name])
        except ValueError as error:
            raise ValueError(f"{error}. Or declare it: atoms={{{name!r}: [value]}}, or integers=[{name!r}]") from None
        check_inside(rest, {name: ranges[name]} if name in ranges else {})


def _check_overlap(samples: Sequence[Sample], cond: Sequence[str]) -> None:
    """Refuse conditions in which the samples have next to nothing in common."""
    for name in cond:
        both = [np.asarray(sample.columns[name], float) for sample in samples]
        edges = np.unique(np.quantile(np.concatenate(both), np.linspace(0.0, 1.0, _BINS + 1)))
        if len(edges) < 2:
            continue
        shares = [np.histogram(values, edges)[0] / len(values) for values in both]
        if (common := float(np.minimum(*shares).sum())) < _OVERLAP:
            ranges = " and ".join(
                f"{one.name} from {v.min():.4g} to {v.max():.4g}" for one, v in zip(samples, both, strict=True)
            )
            raise ValueError(
                f"the samples have {common:.1%} of the condition {name!r} in common ({ranges}): at no condition are there events "
                "of both to compare"
            )


def _components(samples: Sequence[Sample], columns: Columns) -> int:
    """One for each peak that a whole number makes of its frequent values, beside those that follow shapes."""
    peaks = [0]
    for name in columns.integers:
        counts = [np.unique(sample.columns[name], return_counts=True) for sample in samples]
        frequent = [values[n > _FREQUENT * n.sum()] for values, n in counts]
        peaks.append(len(np.unique(np.concatenate(frequent))))
    return min(_COMPONENTS + max(peaks), _MOST_COMPONENTS)


def _quantiles(samples: Sequence[Sample], columns: Columns, name: str) -> np.ndarray:
    """Of an observable without its atoms, in both samples together."""
    values = [np.asarray(s.columns[name], float)[columns.continuous(s, name)] for s in samples]
    return np.quantile(np.concatenate(values), np.linspace(0.0, 1.0, LEVELS))


def _pooled(
    samples: Sequence[Sample],
    columns: Columns,
    cond: Sequence[str],
    quantiles: Sequence[np.ndarray],
    seed: tuple[int, int],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of both samples with the flag, and weights by which both count as much; in those of replicas, Poisson counts."""
    tables, weights = [], []
    for index, sample in enumerate(samples):
        table = columns.encode(sample.columns, quantiles, (*seed, index))
        table |= {name: np.asarray(sample.columns[name], float) for name in cond}
        tables.append({**table, FLAG: np.full(sample.n_events, 2.0 * index - 1.0)})
        own = sample.relative_weights(np.arange(sample.n_events))
        own = own * np.random.default_rng((*seed, index, 1)).poisson(1.0, len(own)) if seed[1] else own
        weights.append(own * (samples[0].n_events / own.sum()))
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}, np.concatenate(weights)

"""What is odd about variations: events that are those of another sample, and yields that jump."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..densities.deformation import YieldRatio
from ..densities.history import History
from ..samples import Sample
from ..samples.pairing import same_events
from .sources import EventSource

__all__ = [
    "bent_yields",
    "beyond_the_nominal",
    "copies",
    "joint_yields",
    "nominal_ones",
    "odd_yields",
    "pruned_ones",
    "same_on_both_sides",
    "samples_without_effect",
    "without_weights",
]

_NOTABLE, _CERTAIN = 0.01, 5.0  # of a ratio of yields: its relative size, and in standard deviations of the samples
_LOOKED_AT = 100_000  # events of each sample, evenly spread
_BEYOND = 0.01  # of the events of both sides of a nuisance, beyond the same end of the nominal ones


def samples_without_effect(
    sources: Mapping[int, EventSource], marks: Mapping[int, Sequence[float]], nominal: Sequence[float]
) -> frozenset[int]:
    """Keys of the sources at whose point a response has to vanish, because the events are those of a simpler point.

    A sample of one nuisance is that at zero if it holds the nominal events; a joint sample is that of one of its two
    nuisances if the other one has no effect at its value.
    """
    by_point = {frozenset(source.at.items()): marks[key] for key, source in sources.items()} | {frozenset(): nominal}
    idle: set[tuple[str, float]] = set()
    found = set()
    for key, source in sorted(sources.items(), key=lambda item: len(item[1].at)):
        point = frozenset(source.at.items())
        simpler = point - idle if len(point) > 1 else frozenset()
        if simpler != point and same_events(marks[key], by_point.get(simpler, []), source.sample.effective_size):
            found.add(key)
            idle |= point if len(point) == 1 else set()
    return frozenset(found)


def nominal_ones(sources: Mapping[int, EventSource], without_effect: frozenset[int]) -> list[str]:
    """Samples of `samples_without_effect`, which hold the events of a simpler point."""
    if not (found := [source.sample.name for key, source in sources.items() if key in without_effect]):
        return []
    return [
        f"samples {', '.join(map(repr, found))} hold the same events as the nominal one, or as the one without this "
        "nuisance: the shape does not change there. Are they the right files?"
    ]


def copies(
    sources: Mapping[int, EventSource], marks: Mapping[int, Sequence[float]], without_effect: frozenset[int]
) -> list[str]:
    """Samples at different points that hold the same events, by the marks of these."""
    pairs = itertools.combinations([key for key in sources if key not in without_effect], 2)
    copies = [
        f"{sources[a].sample.name!r} and {sources[b].sample.name!r}"
        for a, b in pairs
        if same_events(marks[a], marks[b], sources[a].sample.effective_size)
    ]
    return [f"samples {', '.join(copies)} hold the same events. Are they the right files?"] if copies else []


def same_on_both_sides(nominal: Sample, sources: Sequence[EventSource], obs: Sequence[str]) -> list[str]:
    """Nuisances whose two sides differ from the nominal sample alike, by means and widths of the observables.

    What is even in the nuisance is six standard deviations from zero, what is odd less than three, or a fifth of that.

    Args:
        nominal: The nominal events.
        sources: Those of the variations.
        obs: The observables.
    """
    by_point = _of_one_nuisance(sources)
    pairs = [(up, by_point.get(((name, -value),))) for ((name, value),), up in by_point.items() if value > 0.0]
    if not (pairs := [(up, down) for up, down in pairs if down is not None]):
        return []
    centre, width = nominal.array(obs).mean(axis=0), nominal.array(obs).std(axis=0)

    def moments(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(None, None, max(1, sample.n_events // _LOOKED_AT))
        z = np.clip((sample.array(obs, rows) - centre) / width, -5.0, 5.0)
        values = np.concatenate([z, z**2], axis=1)
        weights = np.ones(len(z)) if sample.weights is None else np.asarray(sample.weights, np.float64)[rows]
        mean = weights @ values / weights.sum()
        return mean, np.square(weights) @ np.square(values - mean) / weights.sum() ** 2

    middle, of_middle = moments(nominal)
    alike = []
    for up, down in pairs:
        assert down is not None
        (high, of_high), (low, of_low) = moments(up), moments(down)
        even, odd, noise = 0.5 * (high + low) - middle, 0.5 * (high - low), 0.25 * (of_high + of_low)
        if (np.abs(even) > 6.0 * np.sqrt(noise + of_middle)).any() and (
            np.abs(odd) < np.maximum(3.0 * np.sqrt(noise), 0.2 * np.abs(even))
        ).all():
            alike.append(f"{up.name!r} and {down.name!r}")
    if not alike:
        return []
    return [
        f"samples {', '.join(alike)} differ from the nominal one in the same direction: is one of them the wrong file, or "
        "normalised to another nominal sample? If not, the nuisance has hardly any linear effect"
    ]


def beyond_the_nominal(nominal: Sample, sources: Sequence[EventSource], obs: Sequence[str]) -> list[str]:
    """Observables that end in the nominal sample and go on in variations: a shift would move an end to one side only.

    Args:
        nominal: The nominal events.
        sources: Those of the variations.
        obs: The observables.
    """
    by_point, found = _of_one_nuisance(sources), {}
    chance = 10.0 / nominal.n_events  # beyond n events there is one in n
    for ((nuisance, value),), up in by_point.items():
        down = by_point.get(((nuisance, -value),))
        if value < 0.0 or down is None:
            continue
        for name in obs:
            values = nominal.columns[name]
            for side, end in ((-1.0, values.min()), (1.0, values.max())):
                if min(np.mean(side * one.columns[name] > side * end) for one in (up, down)) > max(_BEYOND, chance):
                    found[name, side] = f"{name!r} {'above' if side > 0 else 'below'} {end:.4g}"
    if not found:
        return []
    return [
        f"the nominal sample has no events with {', '.join(found.values())}, and variations to both sides have many: was a cut "
        "made on the nominal events alone?"
    ]


def _of_one_nuisance(sources: Sequence[EventSource]) -> dict[tuple[tuple[str, float], ...], Sample]:
    """Samples of a single nuisance, by its name and value."""
    return {tuple(source.at.items()): source.sample for source in sources if len(source.at) == 1}


def odd_yields(yields: Mapping[str, YieldRatio]) -> list[str]:
    """Nuisances that change the yield by more than a factor of two."""
    odd = [
        f"by {ratio:.3g} with {name!r} {side}"
        for name, change in yields.items()
        for side, ratio in (("up", change.up), ("down", change.down))
        if ratio is not None and not 0.5 < ratio < 2.0
    ]
    if not odd:
        return []
    return [
        f"by their summed weights the yield changes {', '.join(odd)}: is weights= missing, or are the samples normalised "
        "differently?"
    ]


def bent_yields(nominal: Sample | None, sources: Sequence[EventSource], yields: Mapping[str, YieldRatio]) -> list[str]:
    """Yields of samples beyond one standard deviation that a factor known there does not have, which goes on exponentially.

    Args:
        nominal: The nominal events.
        sources: Those of the variations.
        yields: Changes of the yield at one standard deviation.
    """
    found = []
    for ((name, value),), sample in _of_one_nuisance(sources).items() if nominal is not None else ():
        side = yields[name].up if value > 0.0 else yields[name].down
        if nominal is None or side is None or abs(value) <= 1.0:
            continue
        ratio, expected = sample.sum_weights / nominal.sum_weights, side ** abs(value)
        noise = abs(value) * math.sqrt(1.0 / sample.effective_size + 1.0 / nominal.effective_size)
        if abs(ratio / expected - 1.0) > max(_NOTABLE, _CERTAIN * noise):
            found.append(
                f"by {ratio:.4g} at {sample.name!r}, where normsys and lnN of its yield at one have {expected:.4g}"
            )
    if not found:
        return []
    return [
        f"a nuisance changes the yield {', '.join(found)}: give modified_yield a modifier that follows these samples"
    ]


def joint_yields(nominal: Sample | None, sources: Sequence[EventSource]) -> list[str]:
    """Yields of joint samples that are not those of the nuisances one by one, whose factors a model multiplies.

    Only where each nuisance has a sample of its own at the same value, so that nothing is interpolated.

    Args:
        nominal: The nominal events.
        sources: Those of the variations.
    """
    if nominal is None:
        return []
    by_point = _of_one_nuisance(sources)
    found = []
    for source in sources:
        alone = [by_point.get((one,)) for one in source.at.items()]
        if len(source.at) < 2 or None in alone:
            continue
        singles = [sample for sample in alone if sample is not None]
        product = math.prod(sample.sum_weights / nominal.sum_weights for sample in singles)
        ratio = source.sample.sum_weights / nominal.sum_weights
        # As if they were independent: samples of the same events are known better.
        noise = math.sqrt(sum(1.0 / sample.effective_size for sample in (source.sample, nominal, *singles)))
        if abs(ratio / product - 1.0) > max(_NOTABLE, _CERTAIN * noise):
            found.append(f"by {ratio:.4g} at {source.sample.name!r}, where one by one they change it by {product:.4g}")
    if not found:
        return []
    return [
        f"two nuisances change the yield together {', '.join(found)}: normsys and lnN multiply, and leave the rest out. Give "
        "modified_yield a modifier of both, or check the normalisation of these samples"
    ]


def without_weights(nominal: Sample | None, sources: Sequence[EventSource]) -> list[str]:
    """Variations whose events have no weights where the nominal ones do."""
    if nominal is None or nominal.weights is None or np.all(np.asarray(nominal.weights) == 1.0):
        return []
    if not (found := [repr(source.sample.name) for source in sources if source.sample.weights is None]):
        return []
    return [
        f"the nominal events have weights, and each event of {', '.join(found)} counts as one: yields and shapes are compared "
        "with other ones than are meant. Name the column in Simulation(..., weights=) or in each Variation"
    ]


def pruned_ones(history: Mapping[str, History], among: Sequence[str]) -> list[str]:
    """Responses that were left out, as the events show no effect."""
    found = [
        label for label in among if label in history and (claim := history[label].claim) and claim.kind == "pruned"
    ]
    if not found:
        return []
    return [
        f"the shape does not respond to {', '.join(found)}: the events show no effect, and a response would take their "
        "noise for one (keep= keeps it)"
    ]

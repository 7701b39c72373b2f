"""What is odd about variations: events that are those of another sample, and yields that jump."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from ..densities.deformation import YieldRatio
from ..densities.history import History
from ..samples.pairing import same_events
from .sources import EventSource

__all__ = ["copies", "nominal_ones", "odd_yields", "pruned_ones", "samples_without_effect"]


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
    if not (found := [source.sample.name for key, source in sources.items() if key in without_effect]):
        return []
    return [
        f"samples {', '.join(map(repr, found))} hold the same events as the nominal one, or as the one without this "
        "nuisance: the shape does not change there. Are they the right files?"
    ]


def copies(
    sources: Mapping[int, EventSource], marks: Mapping[int, Sequence[float]], without_effect: frozenset[int]
) -> list[str]:
    pairs = itertools.combinations([key for key in sources if key not in without_effect], 2)
    copies = [
        f"{sources[a].sample.name!r} and {sources[b].sample.name!r}"
        for a, b in pairs
        if same_events(marks[a], marks[b], sources[a].sample.effective_size)
    ]
    return [f"samples {', '.join(copies)} hold the same events. Are they the right files?"] if copies else []


def odd_yields(yields: Mapping[str, YieldRatio]) -> list[str]:
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


def pruned_ones(history: Mapping[str, History], among: Sequence[str]) -> list[str]:
    found = [
        label for label in among if label in history and (claim := history[label].claim) and claim.kind == "pruned"
    ]
    if not found:
        return []
    return [
        f"the shape does not respond to {', '.join(found)}: the events show no effect, and a response would take their "
        "noise for one (keep= keeps it)"
    ]

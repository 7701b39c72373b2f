"""What a deformation is made of while it is trained, and what is found in its samples before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..densities.deformation import Deformation, YieldRatio
from ..densities.flows import Flow
from ..densities.history import Histories, History, label_of
from ..densities.model import same_model
from ..densities.polynomial_map import Response
from ..densities.ratio import LogRatio
from ..samples import Variation
from ..samples.pairing import fingerprint
from ..samples.variation import yields_at_one
from .findings import (
    bent_yields,
    beyond_the_nominal,
    copies,
    joint_yields,
    nominal_ones,
    odd_yields,
    same_on_both_sides,
    samples_without_effect,
    without_weights,
)
from .plan import Plan
from .schedule import Schedule
from .score_correction import vanish_at
from .sources import EventSource

__all__ = ["Assembly", "Nominal", "Task", "Wanted", "yield_ratio"]


@dataclass(frozen=True)
class Task:
    """Everything needed to train one response, in this process or another."""

    flow: Flow
    frozen: list[Response]
    response: Response
    windows: dict[str, tuple[float, float]]
    sources: list[EventSource]
    schedule: Schedule
    seed: int
    progress: bool
    ratios: list[LogRatio]
    nominal: Nominal | None
    idle: list[Mapping[str, float]]
    wanted: Wanted
    keep: bool


class Nominal(NamedTuple):
    """The nominal events, and the rows of them that the flow was not trained on."""

    source: EventSource
    held_out: np.ndarray


class Wanted(NamedTuple):
    """Whether responses have a map, and a log-ratio: ``True``, ``False``, or ``"auto"``; and which are kept in any case."""

    map: bool | str
    ratio: bool | str
    keep: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True)
class Assembly:
    """A deformation that grows, response by response."""

    flow: Flow
    plan: Plan
    sources: Mapping[int, EventSource]
    without_effect: frozenset[int]
    yields: Mapping[str, YieldRatio]
    findings: list[str]
    nominal: Nominal | None
    wanted: Wanted
    trained: dict[tuple[str, ...], Response] = field(default_factory=dict)
    ratios: dict[tuple[str, ...], LogRatio] = field(default_factory=dict)
    history: Histories = field(default_factory=Histories)

    @classmethod
    def of(
        cls,
        flow: Flow,
        plan: Plan,
        sources: Mapping[int, EventSource],
        mirror: bool,
        nominal: Nominal | None,
        wanted: Wanted,
    ) -> Assembly:
        """Nothing yet, but what is found in the samples."""
        yields = {
            name: yield_ratio(group, sources, flow.sum_weights, mirror) for (name,), group in plan.singles.items()
        }
        marks = {key: fingerprint(source.sample, flow.obs + flow.cond) for key, source in sources.items()}
        known = flow.history.fingerprint if flow.history else []
        if nominal is not None:
            known = fingerprint(nominal.source.sample, flow.obs + flow.cond)
        without_effect = samples_without_effect(sources, marks, known)
        findings = [*nominal_ones(sources, without_effect), *copies(sources, marks, without_effect)]
        if nominal is not None and not findings:
            findings = same_on_both_sides(nominal.source.sample, list(sources.values()), flow.obs)
        if nominal is not None:
            findings += beyond_the_nominal(nominal.source.sample, list(sources.values()), flow.obs)
        sample, every = None if nominal is None else nominal.source.sample, list(sources.values())
        findings += [
            *without_weights(sample, every),
            *odd_yields(yields),
            *bent_yields(sample, every, yields),
            *joint_yields(sample, every),
        ]
        return cls(flow, plan, sources, without_effect, yields, findings, nominal, wanted)

    def keep(self, trained: Deformation | None) -> None:
        """Take over the responses of another deformation of the same flow, but those whose training was interrupted."""
        if trained is None:
            return
        if not isinstance(trained, Deformation):
            raise TypeError(f"trained= is a Deformation, got a {type(trained).__name__}")
        if not same_model(trained.flow, self.flow):
            raise ValueError("trained= is a deformation of another flow")
        for response in trained.responses:
            if self.plan.powers.get(response.nuisances) != response.powers:
                raise ValueError(
                    f"trained= has a response to {response.nuisances} with the monomials {response.powers}, which these "
                    f"variations and settings do not ask for (but {self.plan.powers.get(response.nuisances)})"
                )
            record = trained.history.get(label_of(response.nuisances))
            if record is None or not record.interrupted:
                self.add(response, record, next((r for r in trained.ratios if r.nuisances == response.nuisances), None))

    def add(self, response: Response, record: History | None, ratio: LogRatio | None = None) -> None:
        """Add a response that has been trained, and its log-ratio."""
        self.trained[response.nuisances] = response
        if ratio is not None:
            self.ratios[ratio.nuisances] = ratio
        if record is not None:
            self.history[record.name] = record

    def moves(self, response: Response) -> bool:
        """Make a new response vanish where it has no effect; adds it if that is everywhere."""
        group = self._group(response)
        points = [self.sources[id(v)].at for v in group if id(v) in self.without_effect]
        if vanish_at(response, points) and len(points) < len(group):
            return True
        if len(points) < len(group):
            raise ValueError(
                f"the samples of {label_of(response.nuisances)} are the nominal one at {[dict(point) for point in points]}, "
                "but not elsewhere: no response of this order is zero there only. Choose a higher order"
            )
        samples = [self.sources[id(v)].sample for v in group]
        n_events, effective = (sum(getattr(s, name) for s in samples) for name in ("n_events", "effective_size"))
        self.add(response, History(label_of(response.nuisances), n_events=n_events, effective_size=effective))
        return False

    def task(self, response: Response, schedule: Schedule, seed: int, progress: bool) -> Task:
        """The training of a new response."""
        return Task(
            flow=self.flow,
            frozen=[self.trained[(name,)] for name in response.nuisances if len(response.nuisances) > 1],
            response=response,
            windows={name: self.plan.windows[name] for name in response.nuisances},
            sources=[self.sources[id(v)] for v in self._group(response) if id(v) not in self.without_effect],
            schedule=schedule,
            seed=seed,
            progress=progress,
            ratios=[
                self.ratios[(n,)] for n in response.nuisances if len(response.nuisances) > 1 and (n,) in self.ratios
            ],
            nominal=self.nominal,
            idle=[self.sources[id(v)].at for v in self._group(response) if id(v) in self.without_effect],
            wanted=self.wanted,
            keep=response.nuisances in self.wanted.keep,
        )

    def _group(self, response: Response) -> list[Variation]:
        return {**self.plan.singles, **self.plan.pairs}[response.nuisances]

    def deformation(self) -> Deformation:
        """The deformation by all responses so far, in the order of the variations.

        Raises:
            ValueError: If there is none.
        """
        order = [names for names in (*self.plan.singles, *self.plan.pairs) if names in self.trained]
        singles = [names[0] for names in order if len(names) == 1]
        result = Deformation(
            self.flow,
            [self.trained[names] for names in order],
            windows={name: self.plan.windows[name] for name in singles},
            yields={name: self.yields[name] for name in singles},
            ratios=[self.ratios[names] for names in order if names in self.ratios],
        )
        labels = [label_of(names) for names in order]
        result.history = Histories({label: self.history[label] for label in labels if label in self.history})
        return result


def yield_ratio(
    group: Sequence[Variation], sources: Mapping[int, EventSource], nominal: float | None, mirror: bool
) -> YieldRatio:
    """Yields at one standard deviation down and up, relative to the nominal one.

    Args:
        group: The variations of one nuisance.
        sources: Their events, by the identity of the variation.
        nominal: Sum of the nominal weights; without it nothing is known.
        mirror: Whether a side without samples is the inverse of the other.
    """
    if nominal is None:
        return YieldRatio()
    ratio = {next(iter(v.at.values())): sources[id(v)].sample.sum_weights / nominal for v in group}
    down, up = yields_at_one(ratio)
    if mirror and (up is None) != (down is None):
        up, down = up or 1.0 / down, down or 1.0 / up  # type: ignore[operator]
    return YieldRatio(up=up, down=down)

"""Map, log-ratio, both or nothing: what the events of a response confirm against the nominal events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ..common.warning import warn
from ..densities.claims import Claim
from ..densities.history import label_of
from ..densities.ratio import LogRatio, bounded, has_latent
from .between import off_between_samples
from .candidates import Candidates
from .claims import Scored, claim, of_first, shares
from .contrast import Contrast
from .ratio import SIGNIFICANT, Learned, learn, of_conditions_alone
from .score_correction import scale
from .straighten import straighten

__all__ = ["Choice", "choose"]

MAP_SIGNIFICANT = 5.0
"""Standard deviations by which held-out events have to speak for a map."""

_JUDGED = 100_000  # events of each sample that a judgement is learned from, beside those that are held out
_OF_CLEAR_EFFECTS = 25_000  # where all that is left to judge is a map
_CLEAR = 80.0  # evidence of an effect that more events would not make clearer
_NEARLY_ALL = 0.95
_LARGE_PART = 0.5  # of an effect that a map follows, which then moves events: a log-ratio alone extrapolates less well
_LINEAR = 0.1  # spread of the quadratic coefficient of a log-ratio in that of the linear one, from which it needs a map
_ALONG = 0.02  # variance of what is no multiple of the linear coefficient, in that one: 8 % of information at the edges
_NOISE = 0.25  # and in that of a map, of which all else is noise
_STRAIGHTENED = 4000  # nominal events
_SEEN = 3.0  # standard deviations by which held-out events have to speak for both in several variables
_SLIGHTLY = 1.0  # and where both may be right, for the one that continues better
_MOSTLY = 0.8  # share of a map that is no noise, from which it is left alone
_TRUSTED = 0.9  # and trust in the effect


@dataclass(frozen=True)
class Choice:
    """What is kept.

    Attributes:
        claim: What the response claims.
        keep_map: Whether the map is kept.
        learned: The log-ratio, if it is.
        factors: By which the coefficients of the map have to be multiplied.
        notes: What was not kept, and why, in sentences.
    """

    claim: Claim
    keep_map: bool = False
    learned: Learned | None = None
    factors: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def pruned(self) -> bool:
        """Whether nothing is kept."""
        return not self.keep_map and self.learned is None

    def log_ratio(self, candidates: Candidates) -> LogRatio | None:
        """The log-ratio that is kept."""
        if self.learned is None:
            return None
        basis, shape = self.learned.basis, {"n_dim": candidates.n_dim, "n_context": candidates.n_context}
        found = LogRatio(candidates.nuisances, candidates.powers, **shape, degrees=basis.degrees, tails=basis.tails)
        found.weights.assign(candidates.combinations @ self.learned.weights)
        return found


def choose(candidates: Candidates, *, use_map: bool | str, use_ratio: bool | str, keep: bool = False) -> Choice:
    """Keep what the events confirm.

    Args:
        candidates: What there is to choose from.
        use_map: Whether to keep the map; ``"auto"`` asks the held-out events.
        use_ratio: Whether to keep the log-ratio; ``"auto"`` asks its evidence.
        keep: Keep them also where the events do not show any effect.
    """
    if use_ratio is not True and use_map is not False and candidates.has_more(_OF_CLEAR_EFFECTS):
        judgement = _Judgement(candidates, _OF_CLEAR_EFFECTS)
        if judgement.alone.evidence > _CLEAR and (use_ratio is False or judgement.map_is_enough()):
            return judgement.choice(use_map, use_ratio, keep)
        if judgement.alone.significant:
            return _Judgement(candidates, _JUDGED, judgement.alone).choice(use_map, use_ratio, keep)
    return _Judgement(candidates, _JUDGED).choice(use_map, use_ratio, keep)


class _Judgement:
    """What the events say of the candidates.

    Args:
        candidates: What there is to choose from.
        most: Number of events of each sample to learn from.
        former: The log-ratio alone that fewer of them have learned, where to start.
    """

    _crooked: Learned | None = None  # the log-ratio beside a map before that was made straighter

    def __init__(self, candidates: Candidates, most: int, former: Learned | None = None):
        self.candidates = candidates
        self.without, self.with_map = candidates.contrasts(most)
        self.alone = learn(self.without, former)
        self.without = self.alone.contrast

    @cached_property
    def none(self) -> np.ndarray:
        """Log-likelihoods of the held-out events without this response."""
        return self._held_out(self.without)

    @cached_property
    def of_map(self) -> np.ndarray:
        """Log-likelihoods of the held-out events with the map alone."""
        return self.none if self.with_map is None else self._held_out(self.with_map)

    @cached_property
    def map_gain(self) -> tuple[float, float]:
        """How much more probable the map makes held-out events, and the error of that."""
        return _difference(self.of_map, self.none)

    @cached_property
    def beside(self) -> Learned:
        """The log-ratio beside the map."""
        assert self.with_map is not None
        learned = learn(self.with_map)
        self.with_map = learned.contrast
        return learned

    @property
    def significant(self) -> bool:
        """Whether there is an effect at all."""
        gain, error = self.map_gain
        return self.alone.significant or gain > MAP_SIGNIFICANT * error > 0.0

    def map_is_enough(self) -> bool:
        """Whether the map does what a log-ratio in its place could, where both together are not to be had."""
        candidates, (gain, error) = self.candidates, self.map_gain
        if candidates.affordable or gain < self._least * error:
            return False
        most = _difference(self.alone.on_held_out(), self.none)[0]
        if len(candidates.nuisances) > 1 and not candidates.accurate:  # small, and costly to look at again
            more, error = _difference(self.alone.on_held_out(), self.of_map)
            return gain > _NEARLY_ALL * most or more < _SEEN * error
        return gain > _NEARLY_ALL * most and not self.needs_both(True)

    def needs_both(self, keep_map: bool) -> bool:
        """Whether in several variables held-out events see what map or log-ratio alone do not follow, and both may be kept."""
        candidates = self.candidates
        if self.with_map is None or not candidates.accurate or not has_latent(candidates.nominal.flow):
            return False
        _, lacking, error = self._lacking(keep_map, not keep_map)
        return lacking > _SEEN * error

    def choice(self, use_map: bool | str, use_ratio: bool | str, keep: bool) -> Choice:
        """What to keep."""
        if not (keep or self.significant):
            text = f"pruned: events show no effect (evidence {self.alone.evidence:.1f} nats, of {SIGNIFICANT:.0f} that it takes)"
            if not self.alone.converged:
                text = f"pruned: {_NOT_LEARNED}"
                warn(f"{label_of(self.candidates.nuisances)} is {text}")
            return Choice(self._claim(self.with_map is not None, None, None, "pruned"), notes=[text])
        notes: list[str] = []
        keep_map = self.with_map is not None
        if self.with_map is not None and use_map == "auto":
            keep_map, notes = self._judge_map(use_ratio)
        if not self.candidates.affordable and use_ratio == "auto":
            if self.needs_both(keep_map) or self._both_continue_better():
                keep_map, notes = True, []
            elif keep_map:
                notes, use_ratio = [*notes, _SLOW], False
        learned = None
        if use_ratio is not False:
            if keep_map and self._straightened():
                notes = [*notes, "its map leaves the log-ratio nearly linear in the nuisance"]
            learned = self.beside if keep_map else self.alone
            if use_ratio == "auto" and not (learned.significant or (keep and not keep_map)):
                notes = [*notes, f"no log-ratio, for which the evidence is {learned.evidence:.1f} nats"]
                learned = None
        if learned is not None and not keep:
            learned = learned.shrunk()
        if learned is not None and keep_map and not self.candidates.accurate:
            notes = [*notes, _INACCURATE]
            warn(_INACCURATE)
        if keep_map and learned is None and not keep and self._in_one_direction():
            notes = [
                *notes,
                "its map moves events in one direction for all values of the nuisance: events confirm no more",
            ]
        factors = self._factors() if keep_map and learned is None and not keep else None
        if factors is not None:
            notes = [
                *notes,
                f"its map is multiplied by {', '.join(f'{f:.2f}' for f in factors)}: events confirm no more",
            ]
        claims = self._claim(keep_map, learned, factors, _KINDS[keep_map, learned is not None])
        if factors is None:  # otherwise it is noise that keeps a map from following
            claims = replace(claims, missed=self._missed(keep_map, learned is not None))
        if learned is not None:
            off, where = off_between_samples(self.candidates, learned, self._crooked if keep_map else None)
            claims = replace(claims, lost=0.5 * claims.claimed * learned.lost, between=off, between_at=where)
        if learned is not None and self.candidates.has_more(_JUDGED):
            learned = learn(self.candidates.contrast(keep_map), learned)
            learned = learned if keep else learned.shrunk()
        return Choice(claims, keep_map, learned, factors, notes)

    def _judge_map(self, use_ratio: bool | str) -> tuple[bool, list[str]]:
        """Whether to keep a map, and what to say if not: the judges are events that it was not trained on.

        A map that does nearly all there is to do is kept, since it extrapolates; but not where a log-ratio alone does more
        and is linear in the nuisance, which extrapolates too. Otherwise a log-ratio has to need it.
        """
        assert self.with_map is not None
        gain, error = self.map_gain
        if use_ratio is False:
            if gain > 0.0:
                return True, []
            return False, [f"no map, by which held-out events become less probable ({gain:.1f} +- {error:.1f} nats)"]
        if gain < self._least * error:
            return False, [f"no map: held-out events speak for it by {gain:.1f} +- {error:.1f} nats only"]
        ratio_alone = self.alone.on_held_out()
        if use_ratio == "auto" and (linear := self._is_linear()):
            more, error = self._gain_of_ratio()
            either = linear == "exactly" and self.candidates.affordable and self.alone.evidence > _CLEAR
            least = _SLIGHTLY if either else MAP_SIGNIFICANT
            if more > least * error:
                return False, [
                    f"no map: a log-ratio gains {more:.1f} +- {error:.1f} nats more, and is linear in the nuisance"
                ]
        more, error = _difference(ratio_alone, self.of_map)
        if gain > _NEARLY_ALL * _difference(ratio_alone, self.none)[0]:
            return True, []
        if use_ratio == "auto" and not self.candidates.affordable:
            if more < MAP_SIGNIFICANT * error:
                return True, []
            return False, [f"no map: a log-ratio gains {more:.1f} +- {error:.1f} nats more"]
        if gain > _LARGE_PART * _difference(ratio_alone, self.none)[0]:
            return True, []
        gain, error = _difference(self.beside.on_held_out(), ratio_alone)
        if gain > 2.0 * error:
            return True, []
        return False, [f"no map: beside a log-ratio it gains {gain:.1f} +- {error:.1f} nats of held-out events"]

    def _gain_of_ratio(self) -> tuple[float, float]:
        """How much more probable than a map a log-ratio alone makes events, and the error of that.

        Events that the map has been trained on judge too, since held-out ones alone do not see what a fit to many events
        would. A map of few numbers has learned little of their noise. In several variables it has learned more, so that they
        speak for the log-ratio only where they do so in spite of that.
        """
        held_out = _difference(self.alone.on_held_out(), self.of_map)
        assert self.with_map is not None
        coefficients = of_conditions_alone(self.with_map)
        of_map = [self.with_map.log_likelihoods(coefficients, fold) for fold in range(3)]
        of_all = _difference(self.alone.on_other_events(), np.concatenate(of_map))
        if self.candidates.affordable:
            return of_all
        return max(held_out, of_all, key=lambda gain: gain[0] / gain[1])

    @property
    def _least(self) -> float:
        """Standard deviations by which held-out events have to speak for a map.

        They are few, and for a small effect of which all events together leave no doubt they need not prove it again, unless a
        log-ratio in its place is as simple and costs nothing.
        """
        if self._from_one_point:
            return _SLIGHTLY
        if self.alone.evidence < _CLEAR or (self.candidates.affordable and self._is_linear() == "exactly"):
            return MAP_SIGNIFICANT
        return _SEEN

    @property
    def _from_one_point(self) -> bool:
        """Whether one sample alone does not tell how the response continues, for which a map is the better guess."""
        candidates = self.candidates
        return len(candidates.nuisances) == 1 and len(candidates.points.monomials) == 1 and not candidates.idle

    @property
    def _sees_curvature(self) -> bool:
        """Whether the samples tell what is linear in the one nuisance from what is not."""
        candidates = self.candidates
        return len(candidates.nuisances) == 1 and candidates.points.monomials.shape[1] > 1 and not candidates.idle

    def _is_linear(self) -> Literal["exactly", "nearly", ""]:
        """Whether the log-ratio alone is linear in the nuisance, so that it extrapolates as well as a map.

        It is exactly so where no evidence speaks for more, as for the slope of an exponential, or a Gaussian that moves.
        """
        if not self._sees_curvature:
            return ""
        first, higher = self._spreads()
        if higher == 0.0 < first:
            return "exactly"
        return "nearly" if higher < _LINEAR**2 * first else ""

    def _spreads(self) -> tuple[float, float]:
        """Variances of the coefficients of the log-ratio alone: of the linear one, and the largest of the others."""
        first, *higher = np.diag(self._scored(False, self.alone.weights, [0, 1, 2]).spread(0))
        return float(first), float(max(higher))

    def _both_continue_better(self) -> bool:
        """Whether, where both are accurate, a map follows a large part, not all, and a log-ratio alone is far from linear.

        Between and beyond the samples such a log-ratio follows less well than one beside the map, which samples do not see.
        """
        candidates = self.candidates
        if self.with_map is None or not candidates.accurate or not has_latent(candidates.nominal.flow):
            return False
        most, lacking, error = self._lacking(True, False)
        part = 1.0 - lacking / max(most, 1e-9)
        seen = self._sees_curvature and lacking > MAP_SIGNIFICANT * error and self.map_gain[0] > 0.0
        return seen and _LARGE_PART < part < _NEARLY_ALL and not self._is_linear()

    def _straightened(self) -> bool:
        """Change the map such that the log-ratio beside it is nearly linear, if held-out events do not mind."""
        candidates, density = self.candidates, self.candidates.with_map
        assert density is not None
        if not self._sees_curvature or not self.beside.significant:
            return False
        response, points = density.responses[-1], [source.at for source in candidates.sources]
        before, rows = response.weights_list(), np.arange(min(candidates.nominal.sample.n_events, _STRAIGHTENED))
        u, c = candidates.nominal.standardised(rows)
        seen = bounded(density.flow, u, c, density.flow.precompute(c)).numpy().astype(np.float32)
        ratios = self.without.values(seen, self.alone.weights)
        beside = self.beside
        former = beside.contrast
        straighten(density, response, (u, c), ratios, points, candidates.points.monomials)
        candidates.forget_map()
        self.with_map = candidates.contrasts(_JUDGED)[1]
        assert self.with_map is not None
        del self.beside
        gain, error = _difference(self.beside.on_held_out(), beside.on_held_out())
        if gain > -2.0 * error:
            self._crooked = beside
            return True
        response.assign(before)
        candidates.forget_map()
        self.with_map, self.beside = former, beside
        return False

    def _in_one_direction(self) -> bool:
        """Let a map move events in one direction, by a polynomial of the nuisance, if all else is noise.

        That is where the log-ratio alone, which has no noise for which there is no evidence, has one direction only or nearly
        so, the density changes more linearly then, and held-out events do not mind. What a network has learned of noise for the
        square claims information where the nuisance is not zero.
        """
        candidates, density = self.candidates, self.candidates.with_map
        assert density is not None
        if candidates.has_more(_JUDGED) or not self._sees_curvature:
            return False
        former, of_map, scored = self.with_map, self.of_map, self._scored(True, None, [0, 1, 2])
        noise = np.minimum(_ALONG, _NOISE * _beside_first(scored))
        if np.any(_beside_first(self._scored(False, self.alone.weights, [0, 1, 2])) >= noise):
            return False
        factors = of_first(scored, candidates.points)
        if factors is None:
            return False
        response, before = density.responses[-1], density.responses[-1].weights_list()
        scale(response, factors)
        candidates.forget_map()
        self.with_map = candidates.contrasts(_JUDGED)[1]
        assert self.with_map is not None
        gain, error = _difference(self._held_out(self.with_map), of_map)
        curvatures = [np.diag(each.spread(0))[1:] for each in (self._scored(True, None, [0, 1, 2]), scored)]
        if np.all(curvatures[0] <= curvatures[1]) and gain > -2.0 * error:
            del self.of_map
            return True
        response.assign(before)
        candidates.forget_map()
        self.with_map = former
        return False

    @staticmethod
    def _held_out(contrast: Contrast) -> np.ndarray:
        """Log-likelihoods of the held-out events without a log-ratio."""
        return contrast.log_likelihoods(of_conditions_alone(contrast))

    def _missed(self, keep_map: bool, keep_ratio: bool) -> float:
        """Share of what could be gained that what is kept does not gain, zero if held-out events leave that open."""
        if keep_map and keep_ratio:
            return 0.0
        most, lacking, error = self._lacking(keep_map, keep_ratio)
        return min(lacking / most, 1.0) if lacking > MAP_SIGNIFICANT * error and lacking > 0.0 else 0.0

    def _lacking(self, keep_map: bool, keep_ratio: bool) -> tuple[float, float, float]:
        """What could be gained of held-out events, and what of this one of the two alone does not gain, with its error."""
        ratio_alone = self.alone.on_held_out()
        kept = ratio_alone if keep_ratio else self.of_map if keep_map else self.none
        possible = [ratio_alone]
        # Otherwise both were tried; of an interaction, small as it is, that would take too long.
        if self.with_map is not None and not self.candidates.affordable and len(self.candidates.nuisances) == 1:
            possible.append(self.beside.on_held_out())
        best = max(possible, key=np.sum)
        return (_difference(best, self.none)[0], *_difference(best, kept))

    def _factors(self) -> np.ndarray | None:
        """Factors that make a map smaller that is mostly noise, as held-out events say, or of an effect just significant."""
        candidates = self.candidates
        found, errors = shares(
            self._scored(True, None, [2]),
            candidates.points,
            paired=candidates.paired,
            together=len(candidates.nuisances) > 1,  # they make up for each other at the joint points
        )
        factors = np.where(found < np.minimum(1.0 - 3.0 * errors, _MOSTLY), np.clip(found, 0.0, 1.0), 1.0)
        if 0.0 < self.alone.trust < _TRUSTED:
            factors = factors * self.alone.trust
        return None if np.all(factors == 1.0) else factors

    def _claim(self, keep_map: bool, learned: Learned | None, factors: np.ndarray | None, kind: str) -> Claim:
        points = self.candidates.points
        if kind == "pruned" and not keep_map:
            learned = self.alone
        if learned is not None:  # halves judge each other; a map has seen both
            others = [[2], [2]] if keep_map else [[1, 2], [0, 2]]
            judged = [self._scored(keep_map, half, rows) for half, rows in zip(learned.halves, others, strict=True)]
        else:
            judged = [self._scored(keep_map, None, [2])]
        if factors is not None:
            judged = [each.scaled(factors) for each in judged]
        whole = self._scored(keep_map, None if learned is None else learned.weights, [0, 1, 2])
        whole = whole if factors is None else whole.scaled(factors)
        found = claim(kind, whole, judged, points, share=1.0 if keep_map else 0.5)
        return Claim(kind, 0.0, 0.0, found.claimed) if kind == "pruned" else found

    def _scored(self, use_map: bool, weights: np.ndarray | None, folds: Sequence[int]) -> Scored:
        """Events of some folds with the coefficients of a map, a log-ratio or both."""
        contrast = self.with_map if use_map and self.with_map is not None else self.without
        of_monomials = np.linalg.pinv(self.candidates.points.monomials).T
        found = []
        for sample in contrast.samples:
            rows = np.flatnonzero(np.isin(sample.folds, folds))
            rows = rows if len(rows) else np.arange(len(sample.folds))  # nominal events of which none are held out
            assert sample.moved is not None
            values = sample.moved[rows].astype(np.float64) @ of_monomials
            if weights is not None:
                values += contrast.values(sample.bounded[rows], weights)
            found.append((values, sample.weights[rows], (sample.offsets - sample.moved)[rows], sample.bounded[rows]))
        if weights is not None and contrast.n_free:  # a log-ratio given the conditions has no mean
            mean = np.linalg.lstsq(contrast.of_conditions(found[0][3]), found[0][0], rcond=None)[0]
            found = [(v - contrast.of_conditions(b) @ mean, w, o, b) for v, w, o, b in found]
        log_weights = found[0][2].T - found[0][2].max(axis=0)[:, None]
        return Scored(
            [each[0] for each in found],
            [each[1] for each in found],
            [found[0][1] * np.exp(each) for each in log_weights],
        )


_NOT_LEARNED = (
    "its log-ratio could not be learned, so that nobody knows whether there is an effect: look for a sample that has no events "
    "in common with the others, and for weights that are few and large"
)
_SLOW = "no log-ratio beside the map, whose integral would be slow in several variables"
_INACCURATE = (
    "behind a map, this log-ratio of three or more observables, or given two or more conditions, integrates to one within 2e-3 "
    "at one standard deviation, and less well beyond, which takes many nodes; where that matters, compare fits with map=False "
    "or ratio=False"
)
_KINDS = {(True, False): "map", (False, True): "ratio", (True, True): "both", (False, False): "pruned"}


def _beside_first(scored: Scored) -> np.ndarray:
    """Variances of coefficients without what is a multiple of the linear one, in that of the linear one."""
    spread = scored.spread(0)
    first = max(float(spread[0, 0]), 1e-300)
    found: np.ndarray = np.diag(spread)[1:] / first - np.square(spread[0, 1:] / first)
    return found


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    difference = one - other
    return float(difference.sum()), float(np.sqrt(np.square(difference).sum()) + 1e-9)

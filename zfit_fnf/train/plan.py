"""Which responses to train from which variations: monomials that their points determine, windows, interactions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common import checks
from ..common.checks import flag, integer, listed
from ..common.warning import warn
from ..densities.flows import Flow
from ..densities.monomials import Powers
from ..densities.polynomial_map import Response
from ..samples import Variation

__all__ = ["Plan", "interaction_powers", "named_seed"]

# What zfit takes as names of parameters.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_HIGHEST_ORDER = 3
_RESERVED = {"null", "true", "false", "yes", "no", "on", "off"}


@dataclass(frozen=True)
class Plan:
    """Which responses to train, from which variations."""

    singles: dict[tuple[str, ...], list[Variation]]
    pairs: dict[tuple[str, ...], list[Variation]]
    powers: dict[tuple[str, ...], Powers]
    windows: dict[str, tuple[float, float]]

    @classmethod
    def make(
        cls,
        variations: Sequence[Variation],
        *,
        order: int,
        interactions: Sequence[tuple[str, str]] | str,
        mirror: bool,
    ) -> Plan:
        order = integer(order, "order", low=1, high=_HIGHEST_ORDER)
        flag(mirror, "mirror")
        singles, joint = _grouped(variations)
        pairs = _chosen_pairs(interactions, singles, joint)
        orders = {names[0]: _order_of(names[0], group, order) for names, group in singles.items()}
        powers: dict[tuple[str, ...], Powers] = {
            names: tuple((power,) for power in range(1, orders[names[0]] + 1)) for names in singles
        }
        powers |= {names: interaction_powers(names, group, orders) for names, group in pairs.items()}
        windows = {names[0]: _window(names[0], variations, mirror) for names in singles}
        return cls(singles, pairs, powers, windows)

    def response(self, names: tuple[str, ...], flow: Flow, hidden: Sequence[int] | None, seed: int) -> Response:
        """A new response for these nuisances, the identity."""
        return Response(
            names,
            self.powers[names],
            n_dim=len(flow.obs),
            n_context=len(flow.cond),
            n_single=sum(len(self.powers[(name,)]) for name in names) if len(names) > 1 else 0,
            hidden=hidden,
            seed=named_seed(seed, names),
        )


def _grouped(
    variations: Sequence[Variation],
) -> tuple[dict[tuple[str, ...], list[Variation]], dict[tuple[str, ...], list[Variation]]]:
    """Variations by the nuisances they move: those of one, and those of two."""
    _check_variations(variations)
    singles: dict[tuple[str, ...], list[Variation]] = {}
    joint: dict[tuple[str, ...], list[Variation]] = {}
    for variation in variations:
        if len(variation.at) > 2:
            raise ValueError(
                f"variation at {dict(variation.at)} moves {len(variation.at)} nuisances: "
                "give joint samples of two at a time"
            )
        (joint if variation.is_joint else singles).setdefault(tuple(sorted(variation.at)), []).append(variation)
    for names in joint:
        if missing := [name for name in names if (name,) not in singles]:
            raise ValueError(
                f"joint samples of {' and '.join(names)} need samples of {' and '.join(missing)} alone: "
                f"add Variation(events, at={{{missing[0]!r}: +1}})"
            )
    return singles, joint


def _check_variations(variations: Sequence[Variation]) -> None:
    known: dict[frozenset[tuple[str, float]], Variation] = {}
    for variation in variations:
        if not isinstance(variation, Variation):
            raise TypeError(
                'variations is a list such as [Variation(events, at={"jes": +1})], '
                f"got a {type(variation).__name__} among them"
            )
        if invalid := [name for name in variation.at if not _NAME.fullmatch(name) or name.lower() in _RESERVED]:
            raise ValueError(
                f"{invalid[0]!r} is no name for a nuisance, of which zfit has to make a parameter: use letters, digits "
                '"_", "-" and ".", and begin with a letter or a digit'
            )
        if other := known.get(point := frozenset(variation.at.items())):
            raise ValueError(
                f"variations {other.name!r} and {variation.name!r} are both at {dict(variation.at)}: give one sample for "
                "each point (is a sign missing? Else concatenate them)"
            )
        known[point] = variation
    if not known:
        raise ValueError("fit_deformation needs at least one variation")


def _chosen_pairs(
    interactions: Sequence[tuple[str, str]] | str,
    singles: Mapping[tuple[str, ...], Any],
    joint: dict[tuple[str, ...], list[Variation]],
) -> dict[tuple[str, ...], list[Variation]]:
    if isinstance(interactions, str):
        if interactions != "auto":
            raise ValueError(f'interactions is "auto" or a list such as [("jes", "jer")], got {interactions!r}')
        return joint
    chosen: dict[tuple[str, ...], list[Variation]] = {}
    for pair in listed(interactions, "interactions", '[("jes", "jer")]'):
        names = tuple(sorted(checks.names(pair, "each interaction, a pair of nuisances in a list", '[("jes", "jer")]')))
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"an interaction is a pair of two nuisances, got {tuple(pair)}")
        if unknown := [name for name in names if (name,) not in singles]:
            raise ValueError(f"interaction {tuple(pair)} names {unknown}, for which there are no variations")
        if names not in joint:
            raise ValueError(
                f"interaction {tuple(pair)} needs joint samples: "
                f"add Variation(events, at={{{names[0]!r}: +1, {names[1]!r}: +1}})"
            )
        chosen[names] = joint[names]
    if unused := sorted(set(joint) - set(chosen)):
        warn(f"joint samples of {unused} are not used, since interactions= does not name these pairs")
    return chosen


def _order_of(name: str, group: Sequence[Variation], order: int) -> int:
    points = sorted({variation.at[name] for variation in group})
    if len(points) == 1:
        return 1
    if len(points) < order:
        raise ValueError(
            f"order {order} needs samples of {name!r} at {order} or more points, got {points}: "
            "lower the order or add samples"
        )
    return order


def _window(name: str, variations: Sequence[Variation], mirror: bool) -> tuple[float, float]:
    points = [variation.at[name] for variation in variations if name in variation.at]
    low, high = min(0.0, *points), max(0.0, *points)
    return (-max(-low, high), max(-low, high)) if mirror and low * high == 0.0 else (low, high)


def interaction_powers(names: tuple[str, ...], group: Sequence[Variation], orders: Mapping[str, int]) -> Powers:
    """Monomials of an interaction that the joint points determine, lowest total degree first.

    Monomials of one degree enter together or not at all: the points decide, not the order of the names. Where joint points
    are also between the others, a nuisance has one power more than by itself, three at most.
    """
    points = np.array([[variation.at[name] for name in names] for variation in group])

    def determined(powers: Sequence[tuple[int, ...]]) -> bool:
        design = np.stack([np.prod(points**power, axis=1) for power in powers], axis=1)
        return bool(np.linalg.matrix_rank(design) == len(powers))

    candidates = list(itertools.product(*(range(1, orders[name] + 1) for name in names)))
    chosen: list[tuple[int, ...]] = []
    for _, degree in itertools.groupby(sorted(candidates, key=lambda p: (sum(p), p)), key=sum):
        if determined(trial := [*chosen, *degree]):
            chosen = trial
    if len(chosen) == len(candidates):
        one, other = (range(1, orders[name] + 1) for name in names)
        # With all powers of the other nuisance: with some, what points at one of its values know would go wrong at others.
        more = [
            powers
            for powers in ([(len(one) + 1, k) for k in other], [(k, len(other) + 1) for k in one])
            if max(map(max, powers)) <= _HIGHEST_ORDER and determined([*chosen, *powers])
        ]
        added = [power for powers in more for power in powers]
        if added and determined([*chosen, *added]):
            chosen = sorted([*chosen, *added], key=lambda p: (sum(p), p))
    return tuple(chosen)


def named_seed(seed: int, names: Sequence[str]) -> int:
    """Seed that depends on the names, not on their place in a list: adding a nuisance changes no other."""
    digits = [byte for name in names for byte in name.encode() + b"\0"]
    return int(np.random.SeedSequence([seed, *digits]).generate_state(1)[0])

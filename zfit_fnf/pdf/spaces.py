"""How PDFs fit together: their observables, conditions, ranges and shares, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from ..common.checks import number

__all__ = [
    "UNBOUNDED",
    "Ranges",
    "as_list",
    "causal_order",
    "check_components",
    "columns",
    "conditions",
    "finite",
    "make_space",
    "outputs",
    "same_space",
    "shares_of",
    "space_ranges",
    "space_within",
]

UNBOUNDED = 1e12
"""Limit of unbounded observables; zfit cannot compare spaces with infinite limits."""

Ranges = dict[str, tuple[float, float]]


def conditions(pdf: zfit.pdf.BasePDF) -> tuple[str, ...]:
    """The observables that a PDF is conditional on; none for PDFs of zfit."""
    return getattr(pdf, "cond", ())


def outputs(pdf: zfit.pdf.BasePDF) -> tuple[str, ...]:
    """The observables that a PDF describes."""
    return tuple(name for name in pdf.obs if name not in conditions(pdf))


def space_ranges(space: zfit.Space) -> Ranges:
    """Limits ``(low, high)`` of each observable of a space with one rectangle of limits.

    Raises:
        ValueError: If the space has several ranges, or limits that are no rectangle.
    """
    if not isinstance(space, zfit.Space) or (space.has_limits and not space.has_rect_limits):
        raise ValueError(
            f"limits of {', '.join(space.obs)} are one range for each observable: several ranges (the sum of two spaces), or "
            "limits by a function, are not. Make a channel of each range"
        )
    try:
        with tf.init_scope():
            lower, upper = (np.asarray(edges, dtype=float) for edges in space.v1.limits)
    except TypeError:  # limits inside of a graph
        raise NotImplementedError(  # zfit would go on after a ValueError
            f"the limits of {', '.join(space.obs)} are known inside of a graph only, as in zfit's to_binned: for learned "
            "densities in bins there is zfit_fnf.pyhf.export"
        ) from None
    return {name: (float(low), float(high)) for name, low, high in zip(space.obs, lower, upper, strict=True)}


def columns(x: tf.Tensor, names: Sequence[str], wanted: Sequence[str]) -> tf.Tensor:
    """Columns of ``x (n, len(names))`` by name."""
    if tuple(names) == tuple(wanted):
        return x
    return tf.gather(x, [tuple(names).index(name) for name in wanted], axis=1) if wanted else x[:, :0]


# --- spaces ---------------------------------------------------------------------------------------------------------


def finite(low: float, high: float) -> tuple[float, float]:
    """Limits that zfit can compare: infinite ones become very large."""
    return max(low, -UNBOUNDED), min(high, UNBOUNDED)


def make_space(ranges: Ranges) -> zfit.Space:
    """The space of these ranges."""
    lower, upper = zip(*ranges.values(), strict=True)
    return zfit.Space(list(ranges), lower=list(lower), upper=list(upper))


def _requested(obs: Any, available: Ranges, name: str) -> Ranges | None:
    """Ranges that the user asks for, or ``None`` by default; checks the names."""
    if obs is None:
        return None
    space = obs if hasattr(obs, "has_limits") else zfit.Space(obs)  # a MultiSpace of zfit is no Space
    if set(space.obs) != set(available):
        raise ValueError(f"obs= of {name!r} names {list(space.obs)}; expected {list(available)}, in any order")
    if not space.has_limits:
        return {o: available[o] for o in space.obs}
    return {o: finite(*limits) for o, limits in space_ranges(space).items()}


def space_within(obs: Any, available: Ranges, name: str) -> zfit.Space:
    """The space that the user asks for, which has to be a part of what is available."""
    requested = _requested(obs, available, name) or available
    for o, (low, high) in requested.items():
        allowed = available[o]
        if low < allowed[0] or high > allowed[1]:
            raise ValueError(
                f"obs= of {name!r} has the range ({low:g}, {high:g}) for {o!r}, but the density exists in "
                f"({allowed[0]:g}, {allowed[1]:g}) only; use this range, or train with "
                f"ranges={{{o!r}: ({low:g}, {high:g})}}"
            )
    return make_space(requested)


def same_space(obs: Any, space: zfit.Space, name: str) -> zfit.Space:
    """The space that the user asks for, which may only differ in the order of its observables."""
    available = space_ranges(space)
    requested = _requested(obs, available, name) or available
    if any(not np.allclose(requested[o], available[o]) for o in available):
        raise ValueError(
            f"obs= of {name!r} has the ranges {requested}, but its components have {available}; restrict each of them"
        )
    return make_space({o: available[o] for o in requested})


# --- how PDFs fit together ------------------------------------------------------------------------------------------


def as_list(pdfs: Any) -> list[zfit.pdf.BasePDF]:
    """One PDF or several, as a list."""
    pdfs = [pdfs] if isinstance(pdfs, zfit.pdf.BasePDF) else list(pdfs)
    for pdf in pdfs:
        if not isinstance(pdf, zfit.pdf.BasePDF):
            raise TypeError(f"expected PDFs, got {pdf!r}")
    return pdfs


def check_components(pdfs: Sequence[zfit.pdf.BasePDF], name: str) -> None:
    """Refuses to sum PDFs of other observables, conditions or ranges."""
    if len(pdfs) < 2:
        raise ValueError(f"{name!r} needs at least two PDFs to sum, got {len(pdfs)}")
    first = pdfs[0]
    for pdf in pdfs[1:]:
        if set(pdf.obs) != set(first.obs) or set(conditions(pdf)) != set(conditions(first)):
            raise ValueError(
                f"components of {name!r} differ in their observables: {first.name!r} describes {_signature(first)}, "
                f"{pdf.name!r} describes {_signature(pdf)}"
            )
        theirs, ours = space_ranges(pdf.norm), space_ranges(first.norm)
        if differing := [o for o in outputs(first) if not np.allclose(theirs[o], ours[o])]:
            shown = {o: (ours[o], theirs[o]) for o in differing}
            raise ValueError(
                f"components {first.name!r} and {pdf.name!r} of {name!r} are normalised over different ranges {shown}; "
                "give them the same obs="
            )


def _signature(pdf: zfit.pdf.BasePDF) -> str:
    given = f" | {', '.join(conditions(pdf))}" if conditions(pdf) else ""
    return f"p({', '.join(outputs(pdf))}{given})"


def shares_of(pdfs: Sequence[zfit.pdf.BasePDF], fracs: Any, name: str) -> list[Any]:
    """Yields of the components, or the fractions given."""
    extended = [pdf.name for pdf in pdfs if pdf.is_extended]
    if fracs is None:
        if len(extended) < len(pdfs):
            others = [pdf.name for pdf in pdfs if not pdf.is_extended]
            raise ValueError(f"{name!r} needs fracs=, or a yield for each component: {others} are not extended")
        return [pdf.get_yield() for pdf in pdfs]
    if extended:
        raise ValueError(f"{name!r} has fracs=, but its components {extended} are extended; use either")
    if isinstance(fracs, (str, Mapping)):
        raise TypeError(f"fracs of {name!r} are numbers or parameters, one for each PDF; got {fracs!r}")
    fracs = (
        list(fracs) if isinstance(fracs, (Sequence, np.ndarray)) and not isinstance(fracs, BaseParameter) else [fracs]
    )
    if len(fracs) not in (len(pdfs) - 1, len(pdfs)):
        raise ValueError(f"{name!r} has {len(pdfs)} components and {len(fracs)} fracs; expected as many, or one less")
    _check_constants([frac for frac in fracs if not isinstance(frac, BaseParameter)], fracs, len(pdfs), name)
    return fracs


def _check_constants(constants: Sequence[Any], fracs: Sequence[Any], n_pdfs: int, name: str) -> None:
    """Fractions that are numbers: finite, and with a sum that leaves something."""
    for constant in constants:
        number(constant, f"each of the fracs of {name!r} that is no parameter")
    if len(constants) < len(fracs):
        return
    total = sum(constants)
    if len(fracs) < n_pdfs and total > 1.0:
        raise ValueError(
            f"fracs of {name!r} sum to {total:g}: less than nothing is left for the last component. If its share is "
            "meant to be negative, give all of them"
        )
    if len(fracs) == n_pdfs and not total > 0.0:
        raise ValueError(f"fracs of {name!r} sum to {total:g}; their sum has to be positive")


def causal_order(pdfs: Sequence[zfit.pdf.BasePDF], name: str) -> list[zfit.pdf.BasePDF]:
    """The factors in an order in which all conditions are known before they are needed."""
    described = [o for pdf in pdfs for o in outputs(pdf)]
    if twice := sorted({o for o in described if described.count(o) > 1}):
        raise ValueError(f"observables {twice} are described by more than one factor of {name!r}")
    for pdf in pdfs:
        if missing := [o for o in conditions(pdf) if o not in described]:
            raise ValueError(f"no factor of {name!r} describes {missing}, on which {pdf.name!r} is conditional")
    order: list[zfit.pdf.BasePDF] = []
    while waiting := [pdf for pdf in pdfs if pdf not in order]:
        known = {o for pdf in order for o in outputs(pdf)}
        ready = [pdf for pdf in waiting if known.issuperset(conditions(pdf))]
        if not ready:
            circle = ", ".join(_signature(pdf) for pdf in waiting)
            raise ValueError(f"the factors of {name!r} condition each other in a circle: {circle}")
        order += ready
    return order

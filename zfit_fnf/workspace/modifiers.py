"""Modifiers of yields from what a datacard says."""

from __future__ import annotations

import re
from typing import Any

from .expressions import Expression

__all__ = ["at_both_sides", "factors", "formula", "multiplied"]


def multiplied(modifiers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Effects of one nuisance on one yield, as of a ``shape`` and a ``lnN``, as one: pyhf takes the last of several."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in modifiers:
        known = found.setdefault((one["name"], one["type"]), one)
        if known is one:
            continue
        if one["type"] == "normsys":
            data: Any = {side: known["data"][side] * one["data"][side] for side in ("lo", "hi")}
        elif one["type"] == "lnN":
            (low, high), (lower, higher) = (at_both_sides(factor["data"]) for factor in (known, one))
            are_two = isinstance(known["data"], list) or isinstance(one["data"], list)
            data = [low * lower, high * higher] if are_two else high * higher
        else:
            continue
        found[one["name"], one["type"]] = {**known, "data": data}
    return list(found.values())


def at_both_sides(data: Any) -> list[float]:
    """Factors of ``lnN`` at -1 and at +1."""
    return list(data) if isinstance(data, list) else [1.0 / data, data]


def factors(effect: str) -> Any:
    """Of ``lnN``: one factor, or those at -1 and at +1."""
    low, _, high = effect.partition("/")
    return [float(low), float(high)] if high else float(low)


def formula(text: str, arguments: list[str]) -> str | None:
    """A formula of combine, with its arguments by name, as an expression."""
    filled = re.sub(r"@(\d+)", lambda found: arguments[int(found[1])] if int(found[1]) < len(arguments) else "?", text)
    filled = re.sub(r"TMath::(\w+)", lambda found: found[1].lower(), filled.replace("^", "**"))
    try:
        Expression(filled)
    except ValueError:
        return None
    return filled

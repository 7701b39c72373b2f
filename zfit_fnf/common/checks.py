"""Validation of arguments on input: one clear error that names the argument, the accepted values, and the given one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from typing import Any

__all__ = [
    "DEEPEST",
    "LARGEST",
    "MOST_COMPONENTS",
    "MOST_POWER",
    "WIDEST",
    "flag",
    "integer",
    "listed",
    "names",
    "number",
]

LARGEST = 1_000_000
"""What of a model is counted."""

WIDEST = 10_000
"""Units that a hidden layer may have; where nothing depends on anything, the arrays of a file do not tell."""

DEEPEST = 100
"""Layers and hidden layers that a model may have; they cost milliseconds each even if they are tiny."""

MOST_COMPONENTS = 10_000
"""Components of a mixture, or bins of a spline, that a model may have."""

MOST_POWER = 10
"""The highest power of a nuisance in a model."""


def integer(value: Any, name: str, *, low: int, high: int | None = None) -> int:
    """A whole number in ``[low, high]``; of NumPy or Python, but neither a truth value nor a float.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is outside.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    whole = int(value)
    if whole < low or (high is not None and whole > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return whole


def number(value: Any, name: str, *, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> float:
    """A finite number in ``[low, high)`` that is larger than ``above``.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is outside, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    real = float(value)
    if not (math.isfinite(real) and low <= real < high and real > above):
        bounds = [f">= {low:g}"] * (low > -math.inf) + [f"> {above:g}"] * (above > -math.inf)
        bounds += [f"< {high:g}"] * (high < math.inf)
        raise ValueError(f"{name} must be {' and '.join(['finite', *bounds])}, got {value}")
    return real


def flag(value: Any, name: str) -> None:
    """A truth value.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def listed(value: Any, name: str, example: str) -> list[Any]:
    """The items of a list, a tuple or another sequence, but not of a text, a mapping or a set.

    Raises:
        TypeError: If it is something else; shows the example.
    """
    if isinstance(value, (str, bytes, Mapping, Set)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is a list such as {example}, got {value!r}")
    return list(value)


def names(value: Any, name: str, example: str = '["y1", "y2"]') -> tuple[str, ...]:
    """A list of names.

    Raises:
        TypeError: If it is no list, or something in it is no text.
        ValueError: If a name is empty, or a model file could not keep it.
    """
    found = tuple(listed(value, name, example))
    for item in found:
        if not isinstance(item, str):
            raise TypeError(f"{name} is a list of names such as {example}, got {item!r} among them")
        if not 1 <= len(item) <= 1000 or not item.isprintable():
            raise ValueError(f"names in {name} have 1 to 1000 printable characters, got {item[:100]!r}")
    return found

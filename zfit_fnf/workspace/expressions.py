"""Expressions of parameters or columns, such as ``kappa**2``: parsed, compared with a list of what is allowed, never executed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np

__all__ = ["FUNCTIONS", "Expression", "sorted_by_use"]

FUNCTIONS = ("abs", "sqrt", "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh")
"""Functions of one argument that expressions may call; NumPy and TensorFlow know them by the same names."""

_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}
_LONGEST = 10_000


class Expression:
    """An expression of names and numbers: ``+ - * / **``, parentheses, and `FUNCTIONS`.

    Args:
        text: The expression.

    Attributes:
        text: The expression.
        names: The names in it, in the order in which they come.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> Expression("2 * kappa**2")({"kappa": 3.0})
        18.0
    """

    def __init__(self, text: str):
        self.text = text
        if len(text) > _LONGEST:
            raise ValueError(f"an expression has at most {_LONGEST} characters; this one has {len(text)}")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            self.names: tuple[str, ...] = tuple(dict.fromkeys(self._names(self._tree)))
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is not an expression: {str(error) or 'it is nested too deeply'}") from None

    def __call__(self, values: Mapping[str, Any], library: Any = np) -> Any:
        """The value.

        Args:
            values: Numbers, arrays or tensors, by name.
            library: What has the functions: NumPy, or ``tf.math``.
        """
        return self._value(self._tree, values, library)

    def _names(self, node: ast.AST) -> Iterable[str]:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return
            case ast.Name(id=name):
                yield name
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                yield from self._names(inner)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATIONS:
                yield from self._names(left)
                yield from self._names(right)
            case ast.Call(func=ast.Name(id=function), args=[inner], keywords=[]) if function in FUNCTIONS:
                yield from self._names(inner)
            case _:
                raise ValueError(
                    f"{ast.unparse(node)!r} in {self.text!r} is not understood; an expression is made of names, numbers, "
                    f"+ - * / **, parentheses, and {', '.join(FUNCTIONS)}"
                )

    def _value(self, node: Any, values: Mapping[str, Any], library: Any) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number):
                return np.float64(number)  # overflows to infinity, where Python would count for years
            case ast.Name():
                return values[node.id]
            case ast.UnaryOp():
                inner = self._value(node.operand, values, library)
                return -inner if isinstance(node.op, ast.USub) else inner
            case ast.BinOp():
                sides = (self._value(side, values, library) for side in (node.left, node.right))
                with np.errstate(all="ignore"):
                    return _OPERATIONS[type(node.op)](*sides)
        return getattr(library, node.func.id)(self._value(node.args[0], values, library))


def sorted_by_use(expressions: Mapping[str, Expression], *, itself: bool = False) -> list[str]:
    """Names of expressions that refer to one another, each after those it needs.

    Args:
        expressions: The expressions.
        itself: Whether an expression may contain its own name, which then means something else, such as a column of a file.

    Raises:
        ValueError: If some need one another in a circle.

    Example:
        >>> sorted_by_use({"a": Expression("b + 1"), "b": Expression("x")})
        ['b', 'a']
    """
    needs = {
        name: [one for one in own.names if one in expressions and not (itself and one == name)]
        for name, own in expressions.items()
    }
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ValueError(f"they refer to one another in a circle: {' -> '.join(error.args[1])}") from None

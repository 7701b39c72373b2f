"""Cuts on columns: numeric expressions, evaluated without Python's `eval`."""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["Cut"]

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
    ast.Mod: np.mod,
    ast.Pow: lambda a, b: np.power(np.asarray(a, float), b),
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
}
_LONGEST = 10_000


def _number(value: Any) -> Any:
    """Whole numbers and truth values as float64: their own arithmetic wraps around, unsigned 2 - 3 is 4294967295."""
    return np.asarray(value, np.float64) if np.asarray(value).dtype.kind in "biu" else value


class Cut:
    """A condition on columns, such as `"pt > 20 and abs(eta) < 2.4"`.

    Numbers, columns, `+ - * / % **`, comparisons (also chained), `and`, `or`, `not` (or `&&`, `||`, `!`, and `&`, `|`,
    `~` between comparisons in parentheses), and the functions abs, sqrt, exp, log, log10, sin, cos, tan, sinh, cosh and
    tanh. A comparison with NaN is false; true is one, and false is zero.

    Args:
        expression: The condition.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is no such condition.

    Example:
        >>> Cut("20 < pt && !(abs(eta) > 2.4)")({"pt": np.array([30.0, 10.0]), "eta": np.array([-1.0, 0.0])}).tolist()
        [True, False]
    """

    def __init__(self, expression: str):
        if not isinstance(expression, str):
            raise TypeError(f"cut= is an expression such as 'pt > 20 and abs(eta) < 2.4'; got {expression!r}")
        self.expression = expression
        if len(expression) > _LONGEST:
            raise ValueError(f"cut= has {len(expression)} characters; at most {_LONGEST} are read")
        python = re.sub(r"!(?!=)", " not ", expression.replace("&&", " and ").replace("||", " or "))
        try:
            self._tree = ast.parse(python.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"cut={expression!r} is not an expression: {error}") from None
        called = {id(node.func) for node in ast.walk(self._tree) if isinstance(node, ast.Call)}
        names = (node for node in ast.walk(self._tree) if isinstance(node, ast.Name) and id(node) not in called)
        self.names = tuple(dict.fromkeys(node.id for node in names))

    def __call__(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which events pass: booleans `(n,)`.

        Raises:
            ValueError: For anything else than a condition in the columns.
        """
        try:
            with np.errstate(all="ignore"):
                passed = np.asarray(self._value(self._tree, columns))
        except RecursionError:
            raise ValueError(f"cut={self.expression!r} is nested too deeply") from None
        if passed.dtype != bool or passed.ndim != 1:
            raise ValueError(f"cut={self.expression!r} is not a condition on columns; expected e.g. 'pt > 20'")
        return passed

    def _value(self, node: ast.AST, columns: Mapping[str, np.ndarray]) -> Any:
        value = functools.partial(self._value, columns=columns)
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return float(number) if not isinstance(number, bool) else number
            case ast.Name(id=name) if name in columns:
                return columns[name]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -1.0 * value(inner)
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=inner):
                return ~self._condition(value(inner))
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() as op, left=left, right=right):
                sides = [self._condition(value(side)) for side in (left, right)]
                return sides[0] & sides[1] if isinstance(op, ast.BitAnd) else sides[0] | sides[1]
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](_number(value(left)), _number(value(right)))
            case ast.BoolOp(op=op, values=parts):
                both = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return functools.reduce(both, (self._condition(value(part)) for part in parts))
            case ast.Compare(left=left, ops=ops, comparators=right) if all(type(op) in _COMPARISONS for op in ops):
                sides = [value(side) for side in (left, *right)]
                pairs = zip(ops, sides[:-1], sides[1:], strict=True)
                return functools.reduce(np.logical_and, [_COMPARISONS[type(op)](a, b) for op, a, b in pairs])
            case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](_number(value(inner)))
        raise ValueError(
            f"cut={self.expression!r}: {ast.unparse(node)!r} is not understood; a cut is made of columns, numbers, "
            f"comparisons, 'and', 'or', 'not' and {', '.join(_FUNCTIONS)}"
        )

    def _condition(self, value: Any) -> np.ndarray:
        condition = np.asarray(value)
        if condition.dtype != bool:
            raise ValueError(
                f"cut={self.expression!r} combines numbers as if they were conditions: put comparisons in parentheses, "
                "or write 'and', 'or', 'not'"
            )
        return condition

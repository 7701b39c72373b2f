"""Upper limits against another parameter, such as those on a cross-section against the mass of a particle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import pandas as pd
from tqdm.auto import tqdm

from .limits import LimitResult, upper_limit
from .param import axis_title, limits_of
from .state import preserved

__all__ = ["LimitScan", "limits_against"]


@dataclass(frozen=True, eq=False)
class LimitScan:
    """CLs upper limits against a parameter, made by `limits_against`; prints as a table.

    Attributes:
        poi: Name of the parameter of interest.
        parameter: Name of the other one.
        cl: Confidence level.
        table: Limits at each value of the other parameter (the index): ``observed``, NaN if the data were not used, and the
            expected ones, ``expected_m2``, ``expected_m1``, ``expected``, ``expected_p1``, ``expected_p2``.
        titles: Labels of both, for plots; by default their names.
    """

    poi: str
    parameter: str
    cl: float
    table: pd.DataFrame
    titles: tuple[str, str]

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; the table as lists."""
        table = self.table.rename_axis("at").reset_index().to_dict(orient="list")
        return {**vars(self), "table": table, "titles": list(self.titles)}

    def __str__(self) -> str:
        text = self.table.rename_axis(self.parameter).reset_index().to_string(index=False, float_format="{:.4g}".format)
        return f"{100 * self.cl:g} % CLs upper limits on {self.poi} against {self.parameter}\n{text}"

    def joined(self, other: LimitScan) -> LimitScan:
        """The limits of both, in the order of the values; those of the other one where they are the same."""
        table = pd.concat([self.table.drop(index=other.table.index, errors="ignore"), other.table]).sort_index()
        return LimitScan(self.poi, self.parameter, self.cl, table, self.titles)


def limits_against(
    nll: zfit.loss.UnbinnedNLL,
    poi: zfit.Parameter | str,
    parameter: zfit.Parameter | str,
    values: Iterable[float],
    *,
    progress: bool = True,
    **settings: Any,
) -> Iterator[LimitScan]:
    """CLs upper limits at values of a parameter, which is fixed there.

    A mass that a density is conditional on, ``FlowPDF(flow, given={"m_X": mass})``, is such a parameter. It is where it was at
    the end, and floats if it did.

    Args:
        nll: The likelihood.
        poi: The parameter of interest, or its name.
        parameter: The other one, or its name.
        values: Its values.
        progress: Whether to show a progress bar.
        **settings: Arguments of `upper_limit`.

    Yields:
        All limits that are known, after each of them.

    Raises:
        ValueError: If the likelihood has no such parameter, or a value is outside of its limits; and as for `upper_limit`.

    Example:
        >>> *_, scan = limits_against(nll, mu, mass, [200, 300, 400])
        >>> scan.table["observed"]
    """
    name = parameter if isinstance(parameter, str) else parameter.name
    fixed = next((one for one in nll.get_params(floating=None) if one.name == name), None)
    if fixed is None or name == getattr(poi, "name", poi):
        raise ValueError(f"limits are against another parameter of the likelihood; got {name!r}")
    values, (low, high) = [float(value) for value in values], limits_of(fixed)
    if outside := [value for value in values if not low <= value <= high]:
        raise ValueError(f"{outside[0]:g} is outside of the limits {low:g} and {high:g} of {name!r}")
    return _limits(nll, poi, fixed, values, progress, settings)


def _limits(
    nll: Any, poi: Any, fixed: zfit.Parameter, values: list[float], progress: bool, settings: dict[str, Any]
) -> Iterator[LimitScan]:
    known: LimitScan | None = None
    for value in tqdm(values, f"limits against {fixed.name}", disable=not progress):
        with preserved(nll):
            fixed.floating = False
            fixed.set_value(value)
            limit = upper_limit(nll, poi, **settings)
        found = _of_one(limit, fixed, value)
        known = found if known is None else known.joined(found)
        yield known


def _of_one(limit: LimitResult, parameter: zfit.Parameter, value: float) -> LimitScan:
    table = limit.to_dataframe()["limit"].to_frame(value).T
    return LimitScan(limit.poi, parameter.name, limit.cl, table, (limit.title or limit.poi, axis_title(parameter)))

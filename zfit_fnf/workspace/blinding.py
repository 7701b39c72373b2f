"""Values of parameters of interest that are shown with a secret offset, until they are unblinded."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from ..limit_scans import LimitScan
from ..limits import DiscoveryResult, LimitResult
from ..limits.asymptotic import log_expected_cls
from ..limits.results import BANDS, COLUMNS
from ..results import FitSummary
from ..scans import ContourScan, Impacts, ProfileScan
from ..toys import ToyFits
from .schema import Blinding

__all__ = ["hidden", "offsets_of", "text_of", "without_numbers"]


def offsets_of(blinding: Blinding | None) -> dict[str, float]:
    """The secret offset of each parameter that is blinded: a Gaussian number made of the seal and the name."""
    if blinding is None:
        return {}
    digests = {name: hashlib.sha256(f"{blinding.seal}\n{name}".encode()).digest() for name in blinding.parameters}
    shares = {name: (int.from_bytes(digest[:8], "big") + 0.5) / 2.0**64 for name, digest in digests.items()}
    return {name: blinding.width * float(norm.ppf(share)) for name, share in shares.items()}


_AT = 1e-3
"""How close to a limit, in errors, a parameter is there."""


def hidden(result: Any, offsets: Mapping[str, float], limits: Mapping[str, tuple[float, float]] | None = None) -> Any:
    """A result with the offsets added to the values of parameters; differences and errors stay as they are.

    What depends on the distance of the value from zero is left out: significances and observed limits, values at limits of the
    parameter and MINOS errors that end there, and what a ranking says of the value of a nuisance.

    Args:
        result: A fit, scan, limit, significance, ranking or toys.
        offsets: By name of the parameter.
        limits: Lowest and highest value of parameters, by name.
    """
    if not offsets:
        return result
    ends = {name: (limits or {}).get(name, (-math.inf, math.inf)) for name in offsets}
    match result:
        case FitSummary():
            return _fit(result, offsets, ends)
        case ProfileScan(parameter=name) if name in offsets:
            return replace(result, values=result.values + offsets[name], best_fit=result.best_fit + offsets[name])
        case ContourScan():
            (first, second), (a, b) = result.values, (offsets.get(name, 0.0) for name in result.parameters)
            best = (result.best_fit[0] + a, result.best_fit[1] + b)
            return replace(result, values=(first + a, second + b), best_fit=best)
        case LimitResult(poi=name) if name in offsets:
            # Expected limits do not depend on the value; the observed one does, and so do the values that were tried for it.
            return replace(result, observed=math.nan, best_fit=math.nan, scan=_expected_scan(result))
        case LimitScan(poi=name) if name in offsets:
            return replace(result, table=result.table.assign(observed=math.nan))
        case DiscoveryResult(poi=name) if name in offsets:
            return _significance(result)
        case Impacts():
            table = result.table.copy()
            own = [name for name in table.index if name in offsets]
            table.loc[own, [name for name in ("value", "pull") if name in table]] = math.nan
            return replace(result, table=table)
        case ToyFits():
            return _toys(result, offsets, ends)
    return result


def _fit(result: FitSummary, offsets: Mapping[str, float], ends: Mapping[str, tuple[float, float]]) -> FitSummary:
    table = result.parameters.copy()
    for name in offsets.keys() & set(table.index):
        value, error = table.loc[name, ["value", "error"]].astype(float)
        near = _AT * error if math.isfinite(error) else math.inf  # without an error it is at a limit, which is known
        for side, end in zip(("lower", "upper"), ends[name], strict=True):
            if abs(value + table.loc[name, side] - end) < near:  # MINOS ends there
                table.loc[name, side] = math.nan
        at_limit = not math.isfinite(error) or min(abs(value - end) for end in ends[name]) < near
        table.loc[name, "value"] += math.nan if at_limit else offsets[name]
    return replace(result, parameters=table, message=result.message and "see the result after unblinding")


def _significance(result: DiscoveryResult) -> DiscoveryResult:
    """Without what is observed, nor what is expected at the best fit."""
    found = replace(result, best_fit=math.nan, significance=math.nan, p_value=math.nan)
    if math.isclose(result.expected_at, result.best_fit):
        found = replace(found, expected_at=math.nan, expected_significance=math.nan, expected_p_value=math.nan)
    return found


def _toys(result: ToyFits, offsets: Mapping[str, float], ends: Mapping[str, tuple[float, float]]) -> ToyFits:
    truth = {name: value + offsets.get(name, 0.0) for name, value in result.truth.items()}
    values = result.values + [offsets.get(name, 0.0) for name in result.values.columns]
    at_limits = result.errors.isna() & [name in offsets for name in values.columns]
    for name in offsets.keys() & set(values.columns):
        for end in ends[name]:
            at_limits[name] |= (result.values[name] - end).abs() < _AT * result.errors[name]
    return replace(result, truth=truth, values=values.mask(at_limits))


def _expected_scan(result: LimitResult) -> pd.DataFrame:
    """Expected CLs evenly up to the highest expected limit; each of these limits says what the test statistic is there."""
    bands = np.array(BANDS, float)
    roots = np.r_[0.0, norm.isf((1.0 - result.cl) * norm.cdf(bands)) + bands]
    values = np.linspace(0.0, result.expected[-1], 26)
    q = np.interp(values, [0.0, *result.expected], roots) ** 2  # its root is almost a straight line
    columns = {
        name: [math.exp(log_expected_cls(one, band)) for one in q] for name, band in zip(COLUMNS, BANDS, strict=True)
    }
    return pd.DataFrame(columns, index=pd.Index(values, name=result.poi))


def text_of(result: Any, offsets: Mapping[str, float]) -> str:
    """A result as text, which says why numbers are missing.

    Args:
        result: The result, made by `hidden`.
        offsets: By name of the parameter.
    """
    text = str(result)
    if not offsets:
        return text
    if isinstance(result, LimitResult):
        text = text.replace("not looked at", "hidden").replace(" (before any fit)", "")
    text = re.sub(r"\b(nan|NaN)\b", "hidden", text.replace("nan sigma, p = nan", "hidden"))
    return f"{text}\n(blinded: values of {', '.join(offsets)} have a secret offset)"


def without_numbers(text: str, offsets: Mapping[str, float]) -> str:
    """A message without its numbers, if it speaks of a parameter that is blinded."""
    told = any(re.search(rf"\b{re.escape(name)}\b", text) for name in offsets)
    return re.sub(r"(?<![\w.])[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?(?!\w)", "...", text) if told else text

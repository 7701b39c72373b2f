"""The result of a fit as plain numbers: what is printed, stored and reported of it, without its likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from .state import measured_values

__all__ = ["FitSummary"]


_COLUMNS = ("value", "error", "lower", "upper", "measured", "label")


@dataclass(frozen=True, eq=False)
class FitSummary:
    """A fit as plain numbers, made by `FitSummary.of`; prints as a table.

    Attributes:
        parameters: A row for each fitted parameter: ``value``, its HESSE ``error``, its MINOS errors ``lower`` and ``upper``,
            what its auxiliary measurements together have ``measured`` (NaN where there is none), and its ``label``.
        covariance: Of the fitted parameters, by their names.
        nll: The negative log-likelihood.
        valid: Whether the fit is a good minimum.
        message: What was found otherwise.
        n_events: Number of events in each channel.
    """

    parameters: pd.DataFrame
    covariance: pd.DataFrame
    nll: float
    valid: bool
    message: str
    n_events: dict[str, float]

    @classmethod
    def of(cls, result: FitResult) -> FitSummary:
        """What there is to say of the result of a fit: HESSE and MINOS errors only if they were asked of it.

        Args:
            result: The result.

        Raises:
            TypeError: If it is none.
        """
        if not isinstance(result, FitResult):
            raise TypeError(f"expected the result of a fit, zfit_fnf.Minuit().minimize(nll); got {result!r}")
        params: list[zfit.Parameter] = list(result.params)
        names = [parameter.name for parameter in params]
        # A result may have been read from a file, without its likelihood.
        measured = measured_values(result.loss, params) if getattr(result.loss, "constraints", None) else {}
        rows = [_row(one, result.params[one], measured.get(one, np.nan)) for one in params]
        known = all("hesse" in result.params[parameter] for parameter in params)
        covariance = np.asarray(result.covariance(params)) if known else np.full((len(names), len(names)), np.nan)
        data = getattr(result.loss, "data", None) or []
        models = getattr(result.loss, "model", None) or []
        counts = {
            str(getattr(model, "name", index)): _count(events)
            for index, (model, events) in enumerate(zip(models, data, strict=False))
        }
        return cls(
            pd.DataFrame(rows, index=pd.Index(names, name="parameter")),
            pd.DataFrame(covariance, index=names, columns=names),
            float(result.fmin),
            bool(result.valid),
            str(getattr(result, "message", "") or ""),
            counts,
        )

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlations of the parameters."""
        sigmas = np.sqrt(np.diag(self.covariance))
        return self.covariance / np.outer(sigmas, sigmas)

    def to_dataframe(self) -> pd.DataFrame:
        """The parameters."""
        return self.parameters.copy()

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; parameters by their names, and the covariance as a list of rows in their ``order``."""
        return {
            "order": list(self.parameters.index),
            "parameters": self.parameters.to_dict(orient="index"),
            "covariance": self.covariance.to_numpy().tolist(),
            "nll": self.nll,
            "valid": self.valid,
            "message": self.message,
            "n_events": dict(self.n_events),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FitSummary:
        """What `to_dict` gave, made into a summary again."""
        table = pd.DataFrame.from_dict(content["parameters"], orient="index").rename_axis("parameter")
        numbers = [column for column in table if column != "label"]
        table[numbers] = table[numbers].astype(float)
        names = list(content.get("order", table.index))  # programs that edit JSON sort the parameters
        if set(names) != set(table.index) or set(table) != set(_COLUMNS):
            raise ValueError(f"parameters {names} with {list(_COLUMNS)} are not those of the table")
        table = table.loc[names]
        covariance = pd.DataFrame(np.array(content["covariance"], float), index=names, columns=names)
        rest = {name: content[name] for name in ("nll", "valid", "message", "n_events")}
        return cls(table, covariance, **rest)

    def rounded(self) -> pd.DataFrame:
        """The parameters as texts, with two digits of their errors: ``parameter``, ``value``, ``HESSE`` and ``MINOS``."""
        rows = []
        for name, one in self.parameters.iterrows():
            digits = _digits(one["error"])
            minos = "" if np.isnan(one["lower"]) else f"{one['lower']:+.{digits}f} {one['upper']:+.{digits}f}"
            error = "" if np.isnan(one["error"]) else f"{one['error']:.{digits}f}"
            rows.append({"parameter": name, "value": f"{one['value']:.{digits}f}", "HESSE": error, "MINOS": minos})
        table = pd.DataFrame(rows)
        return table if table["MINOS"].any() else table.drop(columns="MINOS")

    def __str__(self) -> str:
        state = "valid" if self.valid else f"NOT VALID: {self.message}"
        head = f"fit of {sum(self.n_events.values()):.10g} events, {state}"
        return f"{head}\n{self.rounded().to_string(index=False)}"


def _digits(error: float) -> int:
    """Digits after the point that show two of an error, and a third one where the first is small."""
    return max(0, 2 - int(np.floor(np.log10(error)))) if 0 < error < np.inf else 4


def _count(events: Any) -> float:
    """Number of events, in bins or not."""
    return (
        float(np.sum(events.values())) if hasattr(events, "values") else float(getattr(events, "num_entries", np.nan))
    )


def _row(parameter: zfit.Parameter, found: Mapping[str, Any], measured: float) -> dict[str, Any]:
    minos = found.get("errors")
    sides = minos if isinstance(minos, Mapping) else {}
    return {
        "value": float(found["value"]),
        "error": float(found.get("hesse", {}).get("error", np.nan)),
        "lower": float(sides.get("lower", np.nan)),
        "upper": float(sides.get("upper", np.nan)),
        "measured": measured,
        "label": str(parameter.label or parameter.name),
    }

"""Tables of expected events per process and channel, before and after a fit, with errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from .arguments import check_result, covariance_of
from .loss import Channel, channels_of
from .param import LINEAR, Nuisance, principal_shifts
from .pdf import expected_events, folds_of, sum_components, sum_shares
from .state import measured_covariance, measured_values, preserved

__all__ = ["YieldTable", "yield_table"]

_TOTAL = "total"


@dataclass(frozen=True, eq=False)
class YieldTable:
    """Expected and observed events, made by `yield_table`; prints as a table.

    Attributes:
        table: A row for each channel and process (the index) and their ``total``, with the columns ``prefit``, ``prefit_error``,
            ``postfit``, ``postfit_error``, and ``observed`` in the rows of totals.
    """

    table: pd.DataFrame

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """The rows for JSON."""
        return {"rows": self.table.reset_index().replace({np.nan: None}).to_dict(orient="records")}

    def to_latex(self) -> str:
        """The table as a LaTeX ``tabular``, numbers rounded to two digits of their errors."""
        lines = [
            r"\begin{tabular}{llrrr}",
            r"\hline",
            r"channel & process & pre-fit & post-fit & observed \\",
            r"\hline",
        ]
        for channel, process, *numbers in self.rounded(r" $\pm$ ").itertuples(index=False):
            names = (name.replace("_", r"\_") for name in (channel, process))
            lines.append(" & ".join([*names, *numbers]) + r" \\" + (r" \hline" if process == _TOTAL else ""))
        return "\n".join([*lines, r"\end{tabular}"])

    def to_hepdata(self) -> dict[str, Any]:
        """The table as HEPData takes it, to be written as YAML: independent and dependent variables, errors as ``symerror``."""
        names = [
            {
                "header": {"name": title},
                "values": [{"value": str(one)} for one in self.table.index.get_level_values(level)],
            }
            for title, level in (("Channel", "channel"), ("Process", "process"))
        ]
        expected = [
            {
                "header": {"name": f"Events, {title}"},
                "values": [
                    {
                        "value": float(row[column]) if np.isfinite(row[column]) else "-",
                        "errors": [{"symerror": float(row[f"{column}_error"]), "label": "total"}],
                    }
                    for _, row in self.table.iterrows()
                ],
            }
            for title, column in (("pre-fit", "prefit"), ("post-fit", "postfit"))
        ]
        observed = [{"value": "-" if np.isnan(one) else float(one)} for one in self.table["observed"]]
        counts = {"header": {"name": "Events, observed"}, "values": observed}
        return {"independent_variables": names, "dependent_variables": [*expected, counts]}

    def rounded(self, sign: str = " +- ") -> pd.DataFrame:
        """The table as texts, with two digits of errors: ``channel``, ``process``, ``prefit``, ``postfit`` and ``observed``.

        Args:
            sign: What is between a number and its error.
        """
        return pd.DataFrame(list(self._rows(sign)), columns=["channel", "process", "prefit", "postfit", "observed"])

    def __str__(self) -> str:
        return self.rounded().to_string(index=False)

    def _rows(self, sign: str) -> Iterator[list[str]]:
        for (channel, process), row in self.table.iterrows():
            observed = "" if np.isnan(row["observed"]) else f"{row['observed']:.10g}"
            pairs = ((row[when], row[f"{when}_error"]) for when in ("prefit", "postfit"))
            yield [str(channel), str(process), *(_rounded(*pair, sign) for pair in pairs), observed]


def yield_table(nll: Any, result: FitResult, *, before: Mapping[zfit.Parameter, float] | None = None) -> YieldTable:
    r"""Expected events of each process in each channel, before and after a fit.

    After the fit parameters are at their best fit, and errors come from its covariance :math:`V` and the derivatives of the
    events, :math:`\sigma^2 = \nabla m^T V \nabla m`. Before it nuisances and other parameters with auxiliary measurements are
    where these say, and each moves the events by :math:`m^\pm` at its errors, :math:`\sigma^2 = \sum (m^+ - m^-)^2 / 4`; near
    limits of parameters by a part of that, scaled.

    Args:
        nll: The likelihood; its channels are extended.
        result: The fit, with its covariance by `FitResult.hesse`.
        before: Values of other parameters before the fit; by default their best fit.

    Raises:
        TypeError: If it is no result of a fit.
        ValueError: If a channel is not extended, or the fit has no finite covariance, or is one of another likelihood.

    Warns:
        UserWarning: If parameters are at a limit, where they have no error.

    Example:
        >>> table = yield_table(nll, result)
        >>> print(table.to_latex())
    """
    check_result(result, nll.get_params(floating=None))
    params = list(result.params)
    covariance = covariance_of(result, params, "a table of yields")
    best = np.array([float(result.params[one]["value"]) for one in params])
    starts, known, before_fit = best.copy(), measured_values(nll), measured_covariance(nll, params)
    for index, parameter in enumerate(params):
        if isinstance(parameter, Nuisance) and parameter not in known:  # of a likelihood of zfit, or fixed since
            starts[index], before_fit[index, index] = float(parameter.observed.value()), 1.0
        else:
            starts[index] = known.get(parameter, (before or {}).get(parameter, best[index]))
    channels = channels_of(nll)
    with preserved(nll):
        rows = [row for channel in channels for row in _names(channel)]
        prefit, prefit_error = _with_errors(channels, params, starts, before_fit)
        postfit, postfit_error = _with_errors(channels, params, best, covariance, part=LINEAR)
    observed = [
        float(np.sum(channel.sums_of_weights()[0])) if process == _TOTAL else np.nan
        for channel in channels
        for _, process in _names(channel)
    ]
    columns = {
        "prefit": prefit,
        "prefit_error": prefit_error,
        "postfit": postfit,
        "postfit_error": postfit_error,
        "observed": observed,
    }
    return YieldTable(pd.DataFrame(columns, index=pd.MultiIndex.from_tuples(rows, names=["channel", "process"])))


def _with_errors(
    channels: list[Channel],
    params: list[zfit.Parameter],
    values: np.ndarray,
    covariance: np.ndarray,
    *,
    part: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Events in each row, and their errors."""

    def events(moved: np.ndarray) -> np.ndarray:
        zfit.param.set_values(params, list(moved), clip=True)
        return np.concatenate([_events(channel) for channel in channels])

    shifts = principal_shifts(events, params, values, covariance, part=part)
    return events(values), np.sqrt(np.sum(np.square(shifts), axis=0))


def _names(channel: Channel) -> list[tuple[str, str]]:
    """Names of the rows of a channel; those of a model with samples in several channels are several."""
    model = channel.model
    if not channel.extended:
        raise ValueError(f"the number of events of {model.name!r} is not a part of the likelihood: it expects none")
    if hasattr(model, "samples"):
        rows = [(region, sample) for region, samples in model.samples().items() for sample in samples]
        return [*rows, (model.name, _TOTAL)]
    parts = sum_components(folds_of(model)[0])
    return [(model.name, str(part.label or part.name)) for part in parts] + [(model.name, _TOTAL)]


def _events(channel: Channel) -> np.ndarray:
    """Events of each row of a channel at the current parameters."""
    model = channel.model
    total = channel.n_expected()
    if hasattr(model, "samples"):
        parts = [expected for samples in model.samples().values() for expected in samples.values()]
    elif isinstance(model, zfit.pdf.BasePDF):
        total = expected_events(model)  # at these parameters, of a calibrated likelihood too
        parts = list(np.asarray(sum_shares(folds_of(model)[0])) * total)  # yields of all folds are the same
    else:
        parts = [total]
    return np.array([*parts, total])


def _rounded(value: float, error: float, sign: str) -> str:
    """A number with its error, to two digits of the error."""
    digits = 1 if not error > 0 else int(np.clip(1 - np.floor(np.log10(error)), 0, 8))
    return f"{value:.{digits}f}{sign}{error:.{digits}f}"

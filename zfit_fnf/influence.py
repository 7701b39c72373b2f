r"""Scores of single events, and the influence that each of them has on a fit.

The score of an event is the derivative of the logarithm of its expected density, :math:`s_i = \nabla_\theta \ln n p(x_i)`.
Without the event, a fit with covariance :math:`C` would end at :math:`\hat\theta - C s_i`, to first order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf
from zfit.minimizers.errors import WeightCorr
from zfit.result import FitResult

from .arguments import check_result
from .common.checks import integer
from .common.chunks import concatenated
from .loss import Channel, LogSpaceNLL, UnbinnedChannel
from .minimum import inverse_of
from .pdf import columns

__all__ = ["FAR", "NOTABLE", "of_events", "of_far_events", "warning"]

FAR = 10.0
"""Widths of the learned densities, beyond which hardly any simulation lies."""

NOTABLE = 0.5
"""Errors by which an event may move a parameter before a fit tells of it."""

_SHOWN = 3  # events in a message


def of_events(nll: LogSpaceNLL, result: FitResult, *, n: int = 10) -> pd.DataFrame:
    """Influence of single events on a fit: how much each parameter owes to them.

    Args:
        nll: The likelihood.
        result: Its best fit, with errors by `FitResult.hesse`.
        n: Number of events, those of the largest influence.

    Returns:
        One row for each event, the largest influence first: its ``channel`` and ``row``, its observables, its ``distance`` from
        the centre of the learned densities in their widths (of the nearest component), and by the name of each parameter how
        far the event has moved it, in units of its error. A parameter that is called like another column is ``mass (parameter)``.

    Raises:
        TypeError: If ``nll`` is not a likelihood of this package.
        ValueError: If there is no finite covariance, ``n`` is not positive, or the result is one of another likelihood.

    Example:
        >>> print(zfit_fnf.influence.of_events(nll, result))
    """
    if not isinstance(nll, LogSpaceNLL):
        raise TypeError(f"influences are known for likelihoods of zfit_fnf.loss; got {nll!r}")
    if hasattr(nll, "learned"):
        raise TypeError(
            "influences are those on the fit of the learned likelihood: give nll.learned, and its own result"
        )
    n = integer(n, "n= (the number of events)", low=1)
    check_result(result, nll.get_params(floating=None))
    params = list(result.params)
    covariance = result.covariance(params)
    if covariance is None or not np.isfinite(covariance := np.asarray(covariance, float)).any():
        raise ValueError("the fit has no finite covariance: call result.hesse(), and see what it says")
    with zfit.param.set_values(params, [result.params[parameter]["value"] for parameter in params]):
        rows = [np.arange(len(_events(channel))) for channel in nll.channels]
        free = np.flatnonzero(np.isfinite(np.diag(covariance)))
        inverse = covariance
        if getattr(nll, "is_weighted", False):  # errors are corrected for weights, and fits move by the inverse Hessian
            inverse = np.full_like(covariance, np.nan)
            inverse[np.ix_(free, free)] = inverse_of(
                np.asarray(nll.hessian([params[index] for index in free.tolist()]))
            )
        return _table(nll, rows, params, inverse, np.sqrt(np.diag(covariance))).head(n)


def of_far_events(nll: Any, params: Sequence[zfit.Parameter], covariance: np.ndarray) -> pd.DataFrame:
    """Influence of the events that lie where hardly any simulation is, at the current values of the parameters.

    Args:
        nll: The likelihood; one of zfit's own has none.
        params: The fitted parameters.
        covariance: The inverse Hessian; NaN where they have no errors.

    Returns:
        As from `of_events`.
    """
    if not isinstance(nll, LogSpaceNLL):
        return pd.DataFrame()
    rows = [np.flatnonzero(_distances(channel.model, _events(channel)) > FAR) for channel in nll.channels]
    if not any(map(len, rows)):
        return pd.DataFrame()
    free, errors = np.flatnonzero(np.isfinite(np.diag(covariance))), np.sqrt(np.diag(covariance))
    if getattr(nll, "is_weighted", False) and len(free):
        known, chosen = covariance[np.ix_(free, free)], [params[index] for index in free.tolist()]
        errors[free] = np.sqrt(np.diag(np.asarray(nll.weighted_covariance(known, chosen, WeightCorr.ASYMPTOTIC))))
    return _table(nll, rows, params, covariance, errors)


def warning(table: pd.DataFrame, params: Sequence[zfit.Parameter]) -> str:
    """What a fit has to say of far-out events: nothing, unless one of them or all together move a parameter notably."""
    longer = {parameter.name: f"{parameter.name} (parameter)" for parameter in params}
    names = [long if long in table else name for name, long in longer.items() if {long, name} & set(table)]
    moved = table[names] if names else pd.DataFrame()
    if not len(moved):
        return ""
    most = moved.sum().abs().combine(moved.abs().max(), max)
    if not most.max() > NOTABLE:
        return ""
    worst = most.idxmax()
    observables = [name for name in table if name not in (*names, "distance")]
    shown = "; ".join(
        ", ".join(f"{name} {event[name]:g}" for name in observables) + f": {event[worst]:+.2g}"
        for event in table.head(_SHOWN).to_dict(orient="records")
    )
    more = f" and {len(table) - _SHOWN} more" if len(table) > _SHOWN else ""
    who, move = ("an event lies", "moves") if len(table) == 1 else (f"{len(table)} events lie", "move")
    return (
        f"{who} more than {FAR:g} widths from what the densities were learned from, where nothing is known, and {move} "
        f"{worst!r} by {most[worst]:.2g} of its error ({shown}{more}). Look at it, or train and fit within ranges= that end "
        "before. zfit_fnf.influence.of_events(nll, result) has the influence of every event"
    )


def _table(
    nll: LogSpaceNLL,
    rows: Sequence[np.ndarray],
    params: Sequence[zfit.Parameter],
    inverse: np.ndarray,
    errors: np.ndarray,
) -> pd.DataFrame:
    """Changes by the inverse Hessian ``(P, P)``, in units of errors ``(P,)``."""
    known, errors = np.nan_to_num(inverse), np.nan_to_num(errors)
    tables, parts = [], []
    for index, (channel, chosen) in enumerate(zip(nll.channels, rows, strict=True)):
        model, x, weights = channel.model, _events(channel)[chosen], getattr(channel.data, "weights", None)
        weights = 1.0 if weights is None else np.asarray(weights, float)[chosen, None]
        moved = weights * _scores(channel, x, params) @ known
        parts.append(np.divide(moved, errors, out=np.zeros_like(moved), where=errors > 0))
        names = [_free(name, _OWN, "observable") for name in model.obs]
        own = {"channel": index, "row": chosen, **dict(zip(names, x.T, strict=True)), "distance": _distances(model, x)}
        tables.append(pd.DataFrame(own, index=range(len(x))))
    table, relative = pd.concat(tables, ignore_index=True), np.concatenate(parts)
    moved = pd.DataFrame(relative, columns=[_free(one.name, table.columns, "parameter") for one in params])
    order = np.argsort(-np.abs(relative).max(axis=1, initial=0.0), kind="stable")
    return pd.concat([table, moved], axis=1).loc[order].reset_index(drop=True)


_OWN = ("channel", "row", "distance")


def _free(name: str, taken: Iterable[str], kind: str) -> str:
    """A name of a column that is not taken: a parameter may be called like an observable."""
    return f"{name} ({kind})" if name in taken else name


def _events(channel: Channel) -> np.ndarray:
    """The events of a channel ``(n, n_obs)``; those of one that is not unbinned are not events."""
    unbinned = isinstance(channel, UnbinnedChannel)
    return np.asarray(channel.data.value()) if unbinned else np.zeros((0, len(channel.model.obs)))


def _scores(channel: Channel, x: np.ndarray, params: Sequence[zfit.Parameter]) -> np.ndarray:
    return channel.scores(x, params) if isinstance(channel, UnbinnedChannel) else np.zeros((0, len(params)))


def _distances(pdf: zfit.pdf.BasePDF, x: np.ndarray) -> np.ndarray:
    """Distance ``(n,)`` of events from the centre of what is learned, in its widths; zero where nothing is learned.

    Of a sum it is that of the nearest component, of a product that of the furthest factor.
    """
    daughters = getattr(pdf, "pdfs", ())
    if daughters:
        parts = [_distances(one, np.asarray(columns(x, pdf.obs, one.obs))) for one in daughters]
        is_sum = all(set(one.obs) == set(pdf.obs) for one in daughters)
        return np.min(parts, axis=0) if is_sum else np.max(parts, axis=0)
    if not hasattr(pdf, "encode"):
        return np.zeros(len(x))

    def furthest(rows: np.ndarray) -> np.ndarray:
        u, c, _ = pdf.encode(tf.constant(rows, tf.float64))
        return np.abs(np.concatenate([u, c], axis=1)).max(axis=1)

    return concatenated(furthest, x)

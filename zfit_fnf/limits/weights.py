"""Whether weighted data fluctuate at most as the likelihood says, so that its ratios follow asymptotic formulae."""

from __future__ import annotations

from collections.abc import Sequence

import zfit  # before tensorflow, which it silences
import numpy as np

from ..common.warning import warn
from ..loss import channels_of, warn_of_weights
from ..loss.channels import ASIMOV
from ..minimize import Minuit
from ..minimum import hessian_here, pseudo_inverse
from ..profiles import minimise
from ..state import preserved

__all__ = ["check_weights"]

_NEGLIGIBLE = 0.05  # of a variance: finite samples of weights that are one on average scatter as much


def check_weights(
    nll: zfit.loss.UnbinnedNLL,
    pois: Sequence[zfit.Parameter],
    minimizer: zfit.minimize.BaseMinimizer | None,
    *,
    refuse: bool = True,
) -> None:
    """Refuse data whose weights make them fluctuate more than a number of events does, and tell of those that do it less.

    What counts is how a parameter fluctuates: a few events of large weights may decide it, among many of small ones.

    Args:
        nll: The likelihood.
        pois: The parameters whose likelihood is asked for.
        minimizer: What fits weighted data.
        refuse: Whether parameters that fluctuate more are an error; a warning otherwise.

    Raises:
        ValueError: Names the data, and what fluctuates.
    """
    channels = channels_of(nll)
    for channel in channels:
        total, squares = channel.sums_of_weights()
        if squares > total * (1 + 1e-6):
            raise ValueError(
                f"the weights of {channel.data.name!r} make it fluctuate more than a Poisson number of events does (sum of "
                f"squares {squares:.6g}, sum {total:.6g}), so that asymptotic formulae do not "
                "hold. Use unweighted events, or a sample whose weights scale it down"
            )
    known = getattr(nll, "is_weighted", False) and any(channel.data.name != ASIMOV for channel in channels)
    if known and hasattr(nll, "score_covariance") and (ratios := _too_large(nll, pois, minimizer)):
        found = ", ".join(f"{name!r} {ratio:.3g}" for name, ratio in ratios.items())
        text = (
            f"events of large weights decide parameters, which fluctuate more than the likelihood says, by a factor of: {found}. "
            "Limits and significances would be too strong. Use unweighted events, or a sample whose weights scale it down"
        )
        if refuse:
            raise ValueError(text)
        warn(text)
    warn_of_weights(
        nll,
        "limits and significances",
        "That is meant for simulated events scaled down to a luminosity; of measured events, drop the weights",
    )


def _too_large(
    nll: zfit.loss.UnbinnedNLL, pois: Sequence[zfit.Parameter], minimizer: zfit.minimize.BaseMinimizer | None
) -> dict[str, float]:
    r"""Errors over those that the likelihood claims, of parameters where that is too large, by name.

    An event moves a parameter by :math:`w_i u_i`, with :math:`u_i = H^{-1} g_i`. That makes the variance
    :math:`\sum_i w_i^2 u_i^2`, which is :math:`\sum_i w_i u_i^2` to the likelihood.
    """
    params = list(nll.get_params())
    with preserved(nll):
        minimise(nll, params, minimizer or Minuit())
        rows = pseudo_inverse(hessian_here(nll, params))[[params.index(poi) for poi in pois]]
        claimed, measured = (
            np.einsum("ip,pq,iq->i", rows, nll.score_covariance(params, weigh), rows)
            for weigh in (np.asarray, np.square)
        )
    return {
        poi.name: float(np.sqrt(above / below)) if below > 0 else np.inf
        for poi, above, below in zip(pois, measured, claimed, strict=True)
        if above > (1 + _NEGLIGIBLE) * below
    }

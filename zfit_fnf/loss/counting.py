"""Counting channels: a number of events, and the number that is expected."""

from __future__ import annotations

from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.space import supports

from ..common.checks import number
from .combined import NLL

__all__ = ["CountPDF", "counting"]


class CountPDF(zfit.pdf.BaseBinnedPDF):
    """One bin, with the expected number of events in it.

    Args:
        extended: The expected number: a parameter, of any kind.
        name: Name of the PDF, also of its observable.
        label: Text for plots; by default the name.

    Example:
        >>> CountPDF(zfit.Parameter("n_control", 60.0), name="control").counts()
        array([60.])
    """

    def __init__(self, extended: Any, *, name: str = "count", label: str | None = None):
        space = zfit.Space(name, binning=zfit.binned.RegularBinning(1, 0, 1, name=name))
        super().__init__(obs=space, extended=extended, params={}, name=name, label=label or name)

    @supports(norm="norm")
    def _counts(self, x: Any, norm: Any = None) -> tf.Tensor:
        del x, norm
        return tf.reshape(self.get_yield().value(), (1,))

    @supports(norm="norm")
    def _rel_counts(self, x: Any, norm: Any = None) -> tf.Tensor:
        del x, norm
        return tf.ones((1,), tf.float64)


def counting(expected: Any, observed: float, *, name: str = "count") -> NLL:
    r"""The likelihood of a counted number of events, :math:`\lambda - n \log \lambda + \log n!`.

    Args:
        expected: The expected number, a parameter: such as :func:`~zfit_fnf.yields.modified_yield`, for a transfer factor
            ``modified_yield(2.0, [n_background])``.
        observed: The number.
        name: Name of the channel.

    Raises:
        TypeError: If the observed number is not one.
        ValueError: If it is negative.

    Example:
        >>> nll = zfit_fnf.loss.ExtendedUnbinnedNLL(model, events) + counting(n_control, 140, name="control")
    """
    n = number(observed, f"observed= of {name!r}", low=0.0)
    return NLL(CountPDF(expected, name=name), np.array([n]))

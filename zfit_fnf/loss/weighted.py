"""What the likelihood of weighted data does not tell: how far the data fluctuate."""

from __future__ import annotations

import math
import weakref
from typing import Any

from ..common.warning import warn
from .channels import ASIMOV, channels_of

__all__ = ["warn_of_weights"]

_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def warn_of_weights(loss: Any, what: str, instead: str) -> None:
    """Say once for a likelihood that a result does not follow how its weighted data fluctuate.

    Such results rest on the rise of the likelihood alone, which is that of as many unweighted events as the sum of weights.
    That is meant in an Asimov set, which does not fluctuate, so that nothing is said of it.

    Args:
        loss: The likelihood, ours or zfit's.
        what: The results, in the plural.
        instead: What to do.
    """
    if not getattr(loss, "is_weighted", False) or what in _told.setdefault(loss, set()):
        return
    for channel in channels_of(loss):
        total, squares = channel.sums_of_weights()
        if channel.data.name != ASIMOV and not math.isclose(total, squares, rel_tol=1e-6):
            _told[loss].add(what)
            warn(
                f"{what} of weighted data are those of as many unweighted events as the sum of weights: the weights of "
                f"{channel.data.name!r} (sum {total:.6g}, sum of squares {squares:.6g}) are not corrected for, with which "
                f"statistical errors are about {math.sqrt(squares / total):.3g} times as large, "
                f"or more where heavy events decide. {instead}"
            )
            return

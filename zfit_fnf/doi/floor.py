"""The floor behind a map of data of which some events have negative weights (:mod:`zfit_fnf.densities.floor`).

All events have it, so that it stops single ones that are far away in simulation, and the positive ones there that they should
cancel. It is a thousandth of the density in the middle under the same conditions, and falls off as a Cauchy density; a Gaussian
is below it at 4.3 widths.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ..densities.displacement import Displacement
from ..densities.transfer import Transfer
from ..samples import Sample
from .frames import fit_frames, middle

__all__ = ["LOWEST", "is_signed", "middles"]

LOWEST = -1e4
"""Logarithm of a floor that is none."""


def is_signed(sample: Sample) -> bool:
    """Whether some events have negative weights."""
    return sample.weights is not None and bool(np.any(sample.weights < 0.0))


def middles(transfer: Transfer, sample: Sample) -> list[np.ndarray]:
    """Of data before a map, `middle` of frames that are fitted to them, as columns of float32."""
    u, c, _ = transfer.encode(*(tf.constant(sample.array(names)) for names in (transfer.obs, transfer.cond)))
    frames = Displacement(((1,),), n_dim=u.shape[1], n_cond=c.shape[1], n_functions=1)
    weights = np.ones(sample.n_events) if sample.weights is None else sample.weights
    fit_frames(frames, 0, u.numpy(), c.numpy(), weights)
    return [np.asarray(one, np.float32) for one in middle(frames, u, c)]

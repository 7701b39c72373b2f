r"""Whether a response is unbiased where it was learned, by the events that its training has not used.

At the point :math:`\nu_k` of a sample the mean score :math:`E[\partial_\nu \log p(x | \nu_k)]` vanishes if the density is that
of the sample. What is found in place of zero is, divided by the root of the information, the bias of a fit to one event in
units of its error; a fit to n events is off by :math:`\sqrt n` times as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from ..densities.deformation import Deformation
from ..densities.flows import in_chunks
from .sources import EventSource

__all__ = ["biased_ones"]

_STEP = 0.05  # standard deviations between which a score is a difference
_MOST = 20_000  # held-out events of a sample
_TOLERATED = 0.3  # errors of a fit
_CERTAIN = 4.0  # how far beyond that a bias has to be, in errors of its own


def biased_ones(
    deformation: Deformation, sources: Sequence[EventSource], held_out: Sequence[np.ndarray], n_data: float
) -> list[str]:
    """Which fits would be off by more than 0.3 errors, in sentences.

    Args:
        deformation: The density.
        sources: Samples with their points.
        held_out: Rows of each that have not trained it.
        n_data: Number of events of the fits.
    """
    return [
        f"a fit of {name!r} to {n_data:.0f} events would be off by {bias:+.2g} +- {noise:.1g} of its errors, as held-out events "
        f"of {source.sample.name!r} show. Train longer or with more events; zfit_fnf.calibrate takes the bias out"
        for source, rows in zip(sources, held_out, strict=True)
        for name, bias, noise in _closure(deformation, source, rows[:_MOST], n_data)
        if abs(bias) > _TOLERATED + _CERTAIN * noise
    ]


def _closure(
    deformation: Deformation, source: EventSource, rows: np.ndarray, n_data: float
) -> Iterator[tuple[str, float, float]]:
    """For each nuisance that is moved: the bias of a fit in its errors, and how well held-out events know it."""
    weights = source.sample.relative_weights(rows)
    shares = weights / weights.sum()
    flow = deformation.flow
    events = [source.sample.array(names, rows) for names in (flow.obs, flow.cond)]
    for name, value in source.at.items():
        up, down = (
            tf.constant(deformation.point({**source.at, name: value + step}), tf.float64) for step in (_STEP, -_STEP)
        )

        def score(y: tf.Tensor, x: tf.Tensor, up: tf.Tensor = up, down: tf.Tensor = down) -> tf.Tensor:
            u, c = (tf.cast(values, tf.float32) for values in flow.encode(y, x)[:2])
            precomputed = deformation.precompute(u, c)
            return (deformation.log_density_at(up, precomputed) - deformation.log_density_at(down, precomputed)) / (
                2 * _STEP
            )

        values = in_chunks(score, *events)
        width = float(np.sqrt(shares @ np.square(values)))
        if width > 0:
            noise = float(np.sqrt(n_data * np.square(shares) @ np.square(values)) / width)
            yield name, float(np.sqrt(n_data) * (shares @ values) / width), noise

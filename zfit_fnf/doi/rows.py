"""The model of data behind a map, its parameters, and events as rows of arrays: shared by both steps and all replicas."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import GRAPH, slices
from ..densities.transfer import ProfiledTransfer, Transfer
from ..loss import EventChunks, ExtendedUnbinnedNLL, UnbinnedNLL, drawn_events, event_kernel, yield_gradient
from ..param import Nuisance
from ..pdf import FNFPDF, SumPDF, components, space_ranges, sum_shares
from ..samples import Sample
from ..state import seeds_from
from ..train.loop import Batch
from ..train.schedule import Schedule
from .pdf import DoIPDF

__all__ = [
    "Rows",
    "behind",
    "current",
    "default_schedule",
    "expected_errors",
    "floating",
    "make_loss",
    "mixture",
    "model_sample",
    "nuisance_ranges",
    "parts_of",
    "precomputed_rows",
    "precomputed_structure",
    "responsibilities",
]

_SCORED = 32  # calls of the kernel from which the error of a parameter is estimated
_EPOCHS = 20


# --- models and their parts -----------------------------------------------------------------------------------------


def behind(
    model: zfit.pdf.BasePDF, transfer: Transfer | ProfiledTransfer, params: Mapping[str, Any] | None = None
) -> zfit.pdf.BasePDF:
    """The model of data: every component of a model of simulation behind the transfer.

    Args:
        model: The model of simulation.
        transfer: The map.
        params: For a `ProfiledTransfer`, the parameters that it follows, by name.
    """
    maps = transfer.transfer if isinstance(transfer, ProfiledTransfer) else transfer
    parts = [
        DoIPDF(
            part,
            transfer,
            process=part.name if maps.processes else None,
            params=params,
            name=part.name,
            label=part.label,
        )
        for part in parts_of(model)
    ]
    return model.copy(pdfs=parts) if isinstance(model, SumPDF) else parts[0]


def parts_of(model: zfit.pdf.BasePDF) -> list[zfit.pdf.BasePDF]:
    """The components of a sum, or the PDF itself."""
    return list(model.pdfs) if isinstance(model, SumPDF) else [model]


def mixture(pdf: zfit.pdf.BasePDF, log_p: Sequence[tf.Tensor]) -> tf.Tensor:
    """Log-density ``(n,)`` of a model from those of its parts."""
    return pdf.mix(log_p) if isinstance(pdf, SumPDF) else log_p[0]


def responsibilities(pdf: zfit.pdf.BasePDF, log_p: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Probability ``(n,)`` that an event belongs to each part of a model: the derivatives of the mixture."""
    log_p = [tf.identity(part) for part in log_p]
    with tf.GradientTape() as tape:
        tape.watch(log_p)
        value = mixture(pdf, log_p)
    return tape.gradient(value, log_p)


def make_loss(pdf: zfit.pdf.BasePDF, sample: Sample) -> zfit.loss.UnbinnedNLL:
    """The likelihood of data, extended if the model is."""
    return (ExtendedUnbinnedNLL if pdf.is_extended else UnbinnedNLL)(pdf, sample)


def model_sample(pdf: zfit.pdf.BasePDF, n: int, seed: int) -> Sample | None:
    """Weighted events of a model at the current parameters, as many of each of its components; none if one cannot be drawn."""
    parts = parts_of(pdf)
    shares = np.asarray(sum_shares(pdf), float) if isinstance(pdf, SumPDF) else np.ones(1)
    each, seeds = -(-n // len(parts)), seeds_from(seed)
    try:
        x = np.concatenate([drawn_events(pdf, part, each, next(seeds)) for part in parts])
    except NotImplementedError:
        return None
    weights = np.repeat(np.maximum(shares, 0.0) / each, each)
    return Sample(dict(zip(pdf.obs, x.T, strict=True)), weights, f"events of {pdf.name}")


def floating(pdf: zfit.pdf.BasePDF) -> list[zfit.Parameter]:
    """The floating parameters of a model, by name."""
    return sorted(pdf.get_params(floating=True), key=lambda parameter: parameter.name)


def current(params: Sequence[zfit.Parameter]) -> np.ndarray:
    """Current values."""
    return np.array([float(parameter.value()) for parameter in params])


def nuisance_ranges(model: zfit.pdf.BasePDF) -> dict[str, tuple[float, float, float]]:
    """Value of each nuisance and the range where all deformations that it moves were trained, by parameter name."""
    ranges: dict[str, tuple[float, float, float]] = {}
    for part in components(model):
        if not isinstance(part, FNFPDF):
            continue
        for name, (low, high) in part.deformation.windows.items():
            parameter = part.params[name]
            _, lowest, highest = ranges.get(parameter.name, (0.0, -np.inf, np.inf))
            ranges[parameter.name] = (float(parameter.value()), max(low, lowest), min(high, highest))
    return ranges


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Rows:
    """Events as rows of arrays: where minibatches come from."""

    sample: Sample
    columns: Sequence[np.ndarray]
    held_out: None = None

    def batch(self, rows: np.ndarray) -> Batch:
        """The columns of some rows, and their weights."""
        weights = self.sample.relative_weights(rows).astype(np.float32)
        return (*(column[rows] for column in self.columns), weights)


def precomputed_rows(pdf: zfit.pdf.BasePDF, sample: Sample) -> list[np.ndarray]:
    """Precomputed quantities of events for all parts of a model, before any map, as a flat list of float32 arrays."""
    parts, x = parts_of(pdf), sample.array(pdf.obs)
    chunks = [
        tf.nest.flatten([part.precompute_unmapped(tf.constant(x[rows])) for part in parts])
        for rows in slices(len(x), GRAPH)
    ]
    return [_rows([np.asarray(t, np.float32) for t in column], len(x)) for column in zip(*chunks, strict=True)]


def _rows(chunks: Sequence[np.ndarray], n: int) -> np.ndarray:
    """One array with a row for each event; quantities without a row per event are repeated."""
    if n > 1 and len(chunks[0]) == 1:
        return np.broadcast_to(chunks[0], (n, *chunks[0].shape[1:]))
    return np.concatenate(chunks)


def precomputed_structure(pdf: zfit.pdf.BasePDF) -> Any:
    """The nest that `precomputed_rows` flattens."""
    centre = [[0.5 * (low + high) for low, high in space_ranges(pdf.norm).values()]]
    return [part.precompute_unmapped(tf.constant(centre, tf.float64)) for part in parts_of(pdf)]


def default_schedule(sample: Sample) -> Schedule:
    """A thousand steps over twenty epochs, for any number of events."""
    steps = 1000
    batch_size = int(np.clip(_EPOCHS * sample.n_events / steps, 64, 4096))
    return Schedule(steps=steps, batch_size=batch_size, learning_rate=1e-2, patience=None)


def expected_errors(pdf: zfit.pdf.BasePDF, sample: Sample, params: Sequence[zfit.Parameter]) -> np.ndarray:
    """Rough standard errors ``(P,)`` of parameters one by one, from their scores.

    The gradient of a sum of log-densities with random signs has the sum of their squared scores as its variance: a few
    calls of the kernel that fits use anyway, and no second derivatives.
    """
    kernel, rng = event_kernel(pdf), np.random.default_rng(0)
    rows = rng.permutation(sample.n_events)[: _SCORED * kernel.chunk_size(sample.n_events)]
    events = EventChunks(kernel, sample.array(pdf.obs, rows))
    squares = np.zeros(len(kernel.params))
    for prepared, present in itertools.islice(itertools.cycle(events), _SCORED):
        signs = tf.constant(rng.choice([-1.0, 1.0], size=present.shape)) * present
        gradient = kernel.value_gradient(prepared, signs)[1].numpy()
        squares += gradient**2 * sample.n_events / float(tf.reduce_sum(present)) / _SCORED
    of_shape = dict(zip(kernel.params, squares, strict=True))
    information = np.array([of_shape.get(parameter, 0.0) for parameter in params])
    if pdf.is_extended:
        expected, gradient = yield_gradient(pdf, params)
        information += gradient**2 / expected
    information += [float(isinstance(p, Nuisance)) for p in params]
    return 1.0 / np.sqrt(np.maximum(information, 1e-12))

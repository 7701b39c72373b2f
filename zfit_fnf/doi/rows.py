"""The model of data behind a map, its parameters, and events as rows of arrays: shared by both steps and all replicas."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.chunks import GRAPH, concatenated, slices
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
    "Precomputed",
    "Rows",
    "behind",
    "current",
    "default_schedule",
    "expected_errors",
    "floating",
    "make_loss",
    "mixture",
    "nuisance_ranges",
    "observed",
    "parts_of",
    "responsibilities",
    "simulated_events",
]

_SCORED = 32  # calls of the kernel from which the error of a parameter is estimated
_EPOCHS = 20
_SAME_PLACE = 0.01  # widths


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


def simulated_events(model: zfit.pdf.BasePDF, n: int, seed: int) -> list[np.ndarray] | None:
    """Events ``(n, n_obs)`` of each component of a model of simulation, as many of each; none if one cannot be drawn."""
    parts, seeds = parts_of(model), seeds_from(seed)
    each = -(-n // len(parts))
    try:
        return [drawn_events(model, part, each, next(seeds)) for part in parts]
    except NotImplementedError:
        return None


def observed(pdf: zfit.pdf.BasePDF, simulated: Sequence[np.ndarray]) -> Sample:
    """Events of the components of a model where data have them, weighted by their shares at the current parameters.

    A map that has bent where there are no data may fold there: events that it does not bring back are left out.
    """
    parts = parts_of(pdf)
    shares = np.asarray(sum_shares(pdf), float) if isinstance(pdf, SumPDF) else np.ones(1)
    x = [_observed(part, events) for part, events in zip(parts, simulated, strict=True)]
    sizes = [len(events) for events in x]
    weights = np.repeat(np.maximum(shares, 0.0) / sizes, sizes)
    return Sample(dict(zip(pdf.obs, np.concatenate(x).T, strict=True)), weights, f"events of {pdf.name}")


def _observed(part: DoIPDF, events: np.ndarray) -> np.ndarray:
    x = concatenated(part.observed, events, size=GRAPH)

    def distance(x: tf.Tensor, events: np.ndarray) -> tf.Tensor:
        own = [abs(y - events[:, part.obs.index(name)]) / width[name] for name, y in part.simulated(x).items()]
        return tf.reduce_max(own, axis=0)

    width = dict(zip(part.obs, np.maximum(events.std(axis=0), 1e-300), strict=True))
    return x[concatenated(distance, x, events, size=GRAPH) < _SAME_PLACE]


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


class Precomputed:
    """Quantities of events for all parts of a model, before any map: arrays of rows, and what all events have in common.

    What depends on no observable, as the conditioner of a density without conditions, is the same for all events: it stays out
    of minibatches.

    Args:
        pdf: The model of data.
    """

    def __init__(self, pdf: zfit.pdf.BasePDF):
        self._pdf = pdf
        centre = [0.5 * (low + high) for low, high in space_ranges(pdf.norm).values()]
        self._structure = self._of(np.array([centre, centre]))
        leaves = tf.nest.flatten(self._structure)
        self._common = [tf.constant(leaf) if len(leaf) == 1 else None for leaf in map(_float32, leaves)]

    def rows(self, sample: Sample) -> list[np.ndarray]:
        """What differs between events, as a list of float32 arrays with a row for each."""
        x = sample.array(self._pdf.obs)
        chunks = [self._own(self._of(x[rows])) for rows in slices(len(x), GRAPH)]
        return [np.concatenate(column) for column in zip(*chunks, strict=True)]

    def packed(self, columns: Sequence[tf.Tensor]) -> Any:
        """The parts' quantities of some events from these columns: tensors, or rows of the arrays."""
        own = iter(columns)
        leaves = [next(own) if common is None else common for common in self._common]
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def _of(self, x: np.ndarray) -> Any:
        return [part.precompute_unmapped(tf.constant(x)) for part in parts_of(self._pdf)]

    def _own(self, of_events: Any) -> list[np.ndarray]:
        leaves = zip(tf.nest.flatten(of_events), self._common, strict=True)
        return [_float32(leaf) for leaf, common in leaves if common is None]


def _float32(tensor: tf.Tensor) -> np.ndarray:
    return np.asarray(tensor, np.float32)


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

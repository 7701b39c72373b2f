r"""Binned channels: counts in the bins of any binned PDF of zfit, and of what derives from one.

.. math::
    -\log L = \sum_b \lambda_b(\theta) - n_b \log \lambda_b(\theta) + \log n_b!

:math:`\lambda_b` are the expected counts. Without a yield they are the number of events in the data times the fraction in each
bin, as in `zfit.loss.BinnedNLL`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from scipy.special import gammaln
from uhi.typing.plottable import PlottableHistogram
from zfit.data import BinnedData, BinnedSamplerData

from ..pdf import space_ranges
from ..samples import as_sample, check_inside
from .channels import Channel, TermCalls, channel_kind
from .kernels import Compiled, Kernel, Parameters, directions_along, kept_by

__all__ = ["BinnedChannel", "BinnedKernel", "binned_kernel"]


class BinnedKernel(Kernel):
    """Minus the logarithm of the Poisson probability of counts, ``(counts, log n!)``.

    Attributes:
        log_rates: ``log_rates(tangent)``, the derivative of the logarithm of each rate along a direction.
        rates: ``rates()``, the expected counts; without a yield, the fraction in each bin.
    """

    def __init__(self, model: zfit.pdf.BaseBinnedPDF, *, extended: bool):
        self._extended = extended
        self._rates: Callable[[], tf.Tensor] = model.counts if extended else model.rel_counts
        xla = getattr(model, "compilable", False)
        super().__init__(self._poisson, model.get_params(floating=None, is_yield=None if extended else False), xla=xla)
        self.rates: Callable[[], tf.Tensor] = Compiled(self._rates, xla=xla)
        self._log_rate_along = Compiled(self._along_log_rates, xla=False)

    def scores(self, directions: tf.Tensor) -> np.ndarray:
        """Derivatives ``(D, n_bins)`` of the logarithms of all rates along directions ``(D, P)``."""
        parts = [np.ravel(self._log_rate_along(direction)) for direction in tf.unstack(directions)]
        return np.stack(parts)

    def _poisson(self, counts: tf.Tensor, log_factorials: tf.Tensor) -> tf.Tensor:
        rates = self._rates() if self._extended else self._rates() * tf.reduce_sum(counts)
        return tf.reduce_sum(rates - tf.math.xlogy(counts, rates)) + log_factorials

    def _along_log_rates(self, tangent: tf.Tensor) -> tf.Tensor:
        return self._along(tangent, lambda: tf.math.log(self._rates()))


def binned_kernel(model: zfit.pdf.BaseBinnedPDF, *, extended: bool) -> BinnedKernel:
    """The kernel of a binned model, one for the life of the model."""
    return kept_by(model, f"binned, extended={extended}", lambda: BinnedKernel(model, extended=extended))


class BinnedChannel:
    """Counts in bins, and a binned PDF.

    Args:
        model: The PDF.
        data: The counts, in the bins of the model.
        extended: Whether the number of events is a part of the likelihood.
    """

    def __init__(self, model: zfit.pdf.BaseBinnedPDF, data: BinnedData, *, extended: bool):
        self.model, self.data, self.extended = model, data, extended
        self._known: np.ndarray | None = None

    @staticmethod
    def checked(model: zfit.pdf.BaseBinnedPDF, data: Any, weights: Any) -> BinnedData:
        """Counts, checked, in the bins of the model: binned data, a histogram, an array, or events that are filled."""
        if isinstance(data, BinnedData) and weights is None and data.space == model.space:
            counts, checked = data.values(), data  # the object itself: SamplerData change
        else:
            counts, variances = _in_bins(model.space, data, weights)
            checked = BinnedData.from_tensor(model.space, counts, variances=variances)
        if not np.all(np.isfinite(counts)) or not np.all(np.asarray(counts) >= 0):
            raise ValueError(f"counts of {model.name!r} must not be negative, and numbers; got {np.ravel(counts)}")
        return checked

    # --- the likelihood -----------------------------------------------------------------------------------------------

    def is_current(self) -> bool:
        """Whether the counts are those that something was precomputed of."""
        if self._known is None or not isinstance(self.data, BinnedSamplerData):
            return self._known is not None
        return np.array_equal(self._known, np.asarray(self.data.values()))

    def precompute(self, max_memory: float) -> None:
        """Look at the counts; they need no memory."""
        del max_memory
        self._known = counts = np.asarray(self.data.values(), float)
        self._arguments = tf.constant(counts), tf.constant(gammaln(counts + 1.0).sum())

    def __getstate__(self) -> dict[str, Any]:
        """All but what is precomputed."""
        return {"model": self.model, "data": self.data, "extended": self.extended, "_known": None}

    def terms(self) -> Iterator[TermCalls]:
        """All bins at once."""
        yield self._kernel, [self._arguments]

    @property
    def _kernel(self) -> BinnedKernel:
        return binned_kernel(self.model, extended=self.extended)

    def score_covariance(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], *, n_events: float = np.inf
    ) -> np.ndarray:
        """As `Channel.score_covariance`, as if all events of a bin had the same weight."""
        del n_events
        counts, scores = self.scored(self.data, params)
        variances = self._variances()
        weights = np.divide(variances, counts, out=np.ones_like(counts), where=(counts > 0) & (variances > 0))
        return scores.T @ (scores * (weigh(weights) * counts / weights)[:, None])

    def scored(self, data: BinnedData, params: Parameters) -> tuple[np.ndarray, np.ndarray]:
        """As `Channel.scored`."""
        counts = np.ravel(data.values())
        scores = self._kernel.scores(directions_along(self._kernel.params, params)).T
        return counts, np.where(counts[:, None] > 0, scores, 0.0)  # an empty bin may have a rate of zero

    def sums_of_weights(self) -> tuple[float, float]:
        """Sums of the weights and of their squares."""
        return float(np.sum(self.data.values())), float(self._variances().sum())

    def _variances(self) -> np.ndarray:
        variances = self.data.variances()
        return np.ravel(self.data.values() if variances is None else variances)

    # --- pseudo-experiments -------------------------------------------------------------------------------------------

    def n_expected(self) -> float:
        """Expected number of events at the current parameters; that of the data, if the number is not fitted."""
        return float(np.sum(self._rates()))

    def _rates(self) -> np.ndarray:
        rates = np.asarray(self._kernel.rates())
        rates = rates if self.extended else rates * float(np.sum(self.data.values()))
        if not np.all(rates >= 0):
            raise ValueError(f"model {self.model.name!r} expects {rates.min():g} events in a bin: draw none of it")
        return rates

    def draw(self, rng: np.random.Generator, seeds: Iterator[np.ndarray]) -> BinnedData:
        """Poisson numbers; with the number of events of the data, if that is not fitted."""
        del seeds
        rates = self._rates()
        if self.extended:
            return self._as_data(rng.poisson(rates))
        number, fractions = np.rint(rates.sum()), np.ravel(rates) / rates.sum()
        return self._as_data(np.reshape(rng.multinomial(int(number), fractions), rates.shape))

    def asimov(self, params: Parameters, n_events: int, seeds: Iterator[np.ndarray]) -> BinnedData:
        """The expected counts."""
        del params, n_events, seeds
        return self._as_data(self._rates())

    def refillable(self) -> BinnedSamplerData:
        """The same counts as SamplerData."""
        counts = np.asarray(self.data.values())
        return BinnedSamplerData.from_sampler(
            sample_func=lambda n, params: counts, n=counts.sum(), obs=self.model.space
        )

    def refill(self, data: BinnedData) -> None:
        """Replace the counts of `refillable` data."""
        self.data.update_data(data.values())

    def _as_data(self, counts: np.ndarray) -> BinnedData:
        return BinnedData.from_tensor(self.model.space, np.asarray(counts, float))


@channel_kind.register
def _(model: zfit.pdf.BaseBinnedPDF) -> type[Channel]:
    del model
    return BinnedChannel


def _in_bins(space: zfit.Space, data: Any, weights: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts and variances in the bins of a space, of a histogram, an array, or events."""
    shape = tuple(axis.size for axis in space.binning)
    if isinstance(data, BinnedData):
        data = data.with_obs(space.obs)
    if isinstance(data, PlottableHistogram):
        axes: Any = data.binning if isinstance(data, BinnedData) else data.axes
        edges = [np.asarray(axis.edges) for axis in axes]
        own = [np.asarray(axis.edges) for axis in space.binning]
        if len(edges) != len(own) or not all(map(_same_edges, edges, own)):
            raise ValueError(f"the bins of the data are {edges}; those of the model are {own}")
        variances = data.variances()
        return np.asarray(data.values(), float), None if variances is None else np.asarray(variances, float)
    if weights is None and not hasattr(data, "keys") and np.shape(data) == shape:
        return np.asarray(data, float), None
    if isinstance(data, (list, np.ndarray)):
        raise ValueError(f"counts of the bins of {list(space.obs)} have the shape {shape}; got {np.shape(data)}")
    sample = as_sample(data, space.obs, weights=weights)
    check_inside(sample, space_ranges(space))
    bins = [np.asarray(axis.edges) for axis in space.binning]
    counts, squares = (
        np.histogramdd(sample.array(space.obs), bins=bins, weights=w)[0]
        for w in (sample.weights, None if sample.weights is None else np.square(sample.weights))
    )
    return counts, None if sample.weights is None else squares


def _same_edges(some: np.ndarray, others: np.ndarray) -> bool:
    return some.shape == others.shape and bool(np.allclose(some, others, rtol=1e-9, atol=1e-9 * np.ptp(others)))

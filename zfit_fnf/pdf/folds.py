"""Models of complementary parts of the simulation, averaged: each simulated event is judged by one that has not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..param import limits_of, scalar_of
from .base import LogSpacePDF, draw, integral, is_compilable, log_density, precompute
from .drawing import new_seed
from .spaces import Ranges, as_list, columns, conditions, outputs, space_ranges

__all__ = ["FoldedPDF", "folds_of"]


class FoldedPDF(LogSpacePDF, zfit.pdf.BaseFunctor):
    r"""The mean likelihood of K models, :math:`\log p = \frac1K \sum_k \log p_k`, for `zfit_fnf.calibrate` (cross-fitting).

    The models describe the same data with the same parameters, and differ in the simulation that their densities were
    learned from: ``fit_process(..., folds=K)``. Its negative log-likelihood is the mean of theirs. As a density by itself it
    integrates to a little less than one, where the models differ; events are drawn from each of them in equal parts.

    Args:
        pdfs: The models, two at least, in the order of the folds.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        ValueError: If there are not two models, or their observables, ranges, parameters or yields differ.

    Example:
        >>> def model(s, b):
        ...     return SumPDF([FNFPDF(s, {"jes": jes}, extended=n_s, name="s"), FlowPDF(b, extended=n_b, name="b")])
        >>> folded = FoldedPDF([model(s, b) for (s, _), (b, _) in zip(signal.folds, background.folds)])
        >>> nll = zfit_fnf.loss.ExtendedUnbinnedNLL(folded, data)
        >>> trusted = zfit_fnf.calibrate(nll, {"s": signal, "b": background})
    """

    def __init__(self, pdfs: Sequence[zfit.pdf.BasePDF], *, name: str = "FoldedPDF", label: str | None = None):
        pdfs = as_list(pdfs)
        if len(pdfs) < 2:
            raise ValueError(f"{name!r} needs the models of two folds at least; got {len(pdfs)}")
        first, *others = pdfs
        for other in others:
            for what, one, two in zip(
                ("observables", "ranges", "parameters"), *map(_shared, (first, other)), strict=True
            ):
                if one != two:
                    raise ValueError(f"the models of {name!r} have different {what}: {one} and {two}")
        _check_yields(pdfs, name)
        self._arguments = {"pdfs": pdfs, "name": name, "label": label}
        self.cond = conditions(first)
        self.ranges = {o: limits for o, limits in space_ranges(first.norm).items() if o not in self.cond}
        total = first.get_yield() if first.is_extended else None
        super().__init__(pdfs=pdfs, obs=first.norm, extended=total, name=name, label=label)

    def copy(self, **overrides: Any) -> Any:
        """A new PDF from the same constructor arguments, some of them replaced."""
        return type(self)(**{**self._arguments, **overrides})

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return all(is_compilable(pdf) for pdf in self.pdfs)

    def _precompute(self, x: tf.Tensor) -> Any:
        return [precompute(pdf, columns(x, self.obs, pdf.obs)) for pdf in self.pdfs]

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        parts = [log_density(pdf, part) for pdf, part in zip(self.pdfs, precomputed, strict=True)]
        return tf.add_n(parts) / len(parts)

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        n = tf.shape(context)[0]
        fold = tf.random.stateless_uniform((n,), new_seed(), maxval=len(self.pdfs), dtype=tf.int32)
        parts = [columns(draw(pdf, context), outputs(pdf), self.outputs) for pdf in self.pdfs]
        return tf.gather(tf.stack(parts, axis=1), fold, batch_dims=1)

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        return tf.add_n([tf.math.log(integral(pdf, ranges)) for pdf in self.pdfs]) / len(self.pdfs)


def _shared(pdf: zfit.pdf.BasePDF) -> tuple[Any, ...]:
    """What all models have in common: observables, ranges, and the parameters themselves, not only their names."""
    return tuple(pdf.obs), space_ranges(pdf.norm), {(one.name, id(one)) for one in pdf.get_params(floating=None)}


def _check_yields(pdfs: Sequence[zfit.pdf.BasePDF], name: str) -> None:
    """Only the densities are learned from parts: of several numbers of events the likelihood would take that of the first."""

    def expected() -> list[float]:
        return [float(scalar_of(pdf.get_yield())) if pdf.is_extended else np.nan for pdf in pdfs]

    moved = {}
    for one in pdfs[0].get_params(floating=None):
        value, (low, high) = float(one.value()), limits_of(one)
        moved[one] = next((v for v in (value + 0.1, value - 0.1) if low <= v <= high), value)
    with zfit.param.set_values(moved):
        elsewhere = expected()
    for numbers in (expected(), elsewhere):
        if not np.allclose(numbers, numbers[0], rtol=1e-9, atol=0.0, equal_nan=True):
            shown = " and ".join(f"{one:g}" for one in numbers)
            raise ValueError(
                f"the models of {name!r} expect different numbers of events, {shown}: give all of them the yields of "
                "the whole simulation, and normsys of its ratios"
            )


def folds_of(model: zfit.pdf.BasePDF) -> list[zfit.pdf.BasePDF]:
    """The models of the folds; of any other PDF, itself."""
    return list(model.pdfs) if isinstance(model, FoldedPDF) else [model]

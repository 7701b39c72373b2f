"""Sums and products of any PDFs, ours or zfit's, evaluated in log space."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..param import scalar_of
from . import logdensities
from .base import LogSpacePDF, draw, integral, is_compilable, log_density, precompute
from .drawing import ROUNDS, drawing_from, new_seed, required
from .flow import FlowBasedPDF, log_probability
from .spaces import (
    Ranges,
    as_list,
    causal_order,
    check_components,
    columns,
    conditions,
    make_space,
    outputs,
    same_space,
    shares_of,
    space_ranges,
)

__all__ = ["ConditionalProductPDF", "SumPDF", "expected_events", "sum_components", "sum_shares"]

_sums = itertools.count()


class SumPDF(LogSpacePDF, zfit.pdf.BaseFunctor):
    r"""Mixture :math:`\sum_c f_c p_c` of any PDFs, learned or of zfit, evaluated in log space.

    The shares are either the yields of the components, :math:`f_c = n_c / \sum n`, or ``fracs``. Each yield is
    evaluated once per evaluation; a yield may be zero.

    Args:
        pdfs: At least two PDFs of the same observables over the same range: all extended, or none of them.
        fracs: Shares, if the PDFs are not extended: one for each, or all but the last. Their sum is divided out.
        obs: Names, or a `zfit.Space`, that give the order of the observables; by default those of the first PDF.
        extended: If the PDFs are extended: ``False`` to use their yields as shares only, by default the sum is extended
            by the sum of yields. With ``fracs``: the total yield, if any.
        norm: Range over which it is normalised, which has to be that of the PDFs.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        ValueError: If PDFs do not fit together, or yields and ``fracs`` are mixed.

    Example:
        >>> space = zfit.Space("mass", 60.0, 120.0)
        >>> sig = FlowPDF(Flow(["mass"], ranges={"mass": (60.0, 120.0)}), extended=100.0)
        >>> bkg = zfit.pdf.Exponential(-0.02, obs=space, extended=900.0)
        >>> float(SumPDF([sig, bkg]).get_yield().value())
        1000.0
    """

    def __init__(
        self,
        pdfs: Sequence[zfit.pdf.BasePDF],
        fracs: Any = None,
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "SumPDF",
        label: str | None = None,
    ):
        pdfs = as_list(pdfs)
        check_components(pdfs, name)
        shares = shares_of(pdfs, fracs, name)
        self._arguments = {
            "pdfs": pdfs,
            "fracs": fracs,
            "obs": obs,
            "extended": extended,
            "norm": norm,
            "name": name,
            "label": label,
        }
        self._complete = len(shares) == len(pdfs)
        if fracs is None:
            extended = self._total_yield(shares, extended, name)
        self.cond = conditions(pdfs[0])
        self.ranges = {o: limits for o, limits in space_ranges(pdfs[0].norm).items() if o not in self.cond}
        space = same_space(obs, pdfs[0].norm, name)
        kind = "yield" if fracs is None else "frac"
        params = {f"{kind}_{index}": share for index, share in enumerate(shares)}
        super().__init__(pdfs=pdfs, obs=space, params=params, extended=extended, norm=norm, name=name, label=label)
        if not self._covers(self.norm):
            raise ValueError(
                f"norm= of {name!r} is narrower than its components' {self.ranges}: give it to each of them"
            )

    def _total_yield(self, yields: Sequence[Any], extended: Any, name: str) -> Any:
        if extended is False:
            return None
        if extended is not None and extended is not True:
            raise ValueError(f"{name!r} gets its yield from its components; extended={extended!r} needs fracs= instead")
        self._arguments["extended"] = True
        return zfit.ComposedParameter(
            f"{name}_yield_{next(_sums)}",
            lambda params: tf.add_n(list(map(scalar_of, params.values()))),
            params={f"yield_{index}": value for index, value in enumerate(yields)},
            unpack_params=False,
        )

    def weights(self) -> tf.Tensor:
        """Yields or fractions of the components at the current parameters, ``(C,)``."""
        values = list(map(scalar_of, self.params.values()))
        return tf.stack(values if self._complete else [*values, 1.0 - tf.add_n(values)])

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return all(is_compilable(pdf) for pdf in self.pdfs)

    def _precompute(self, x: tf.Tensor) -> Any:
        return [precompute(pdf, columns(x, self.obs, pdf.obs)) for pdf in self.pdfs]

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        return self.mix([log_density(pdf, part) for pdf, part in zip(self.pdfs, precomputed, strict=True)])

    def mix(self, log_densities: Sequence[tf.Tensor]) -> tf.Tensor:
        """Log-density ``(n,)`` of the sum, from those of its components."""
        weights = self.weights()
        return logdensities.log_sum(log_densities, weights) - tf.math.log(tf.reduce_sum(weights))

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        """From the components with positive shares; where others are negative, as many are taken back as they say."""
        weights = self.weights()
        finite = tf.reduce_all(tf.math.is_finite(weights)) & (tf.reduce_sum(weights) > 0)
        checked = required(finite, f"the yields or fractions of {self.name!r} are not finite or have no positive sum")
        with tf.control_dependencies(checked):
            return tf.cond(
                tf.reduce_any(weights < 0),
                lambda: self._draw_difference(context),
                lambda: self._draw_positive(context),
            )

    def _draw_difference(self, context: tf.Tensor) -> tf.Tensor:
        """Accept-reject with the ratio of the density to that of the positive components; the conditions stay."""
        n, weights, seed = tf.shape(context)[0], self.weights(), new_seed()

        def more(number: tf.Tensor, events: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = tf.where(missing)[:, 0]
            given = tf.gather(context, rows)
            with drawing_from(tf.random.experimental.stateless_fold_in(seed, number)):
                new, chance = self._draw_positive(given), new_seed()
            whole = dict(
                zip((*self.outputs, *self.cond), tf.unstack(tf.concat([new, given], axis=1), axis=1), strict=True)
            )
            x = tf.stack([whole[name] for name in self.obs], axis=1)
            log_p = [log_density(pdf, precompute(pdf, columns(x, self.obs, pdf.obs))) for pdf in self.pdfs]
            log_positive = logdensities.log_sum(log_p, tf.maximum(weights, 0.0))
            taken = tf.reduce_sum(tf.minimum(weights, 0.0)[:, None] * tf.exp(tf.stack(log_p) - log_positive), axis=0)
            density = required(
                tf.reduce_all(taken >= -1.0),
                f"the density of {self.name!r} is negative where its events are: with yields or fractions this negative it "
                "cannot be sampled",
            )
            with tf.control_dependencies(density):
                kept = tf.random.stateless_uniform(tf.shape(taken), chance, dtype=tf.float64) < 1.0 + taken
            chosen = tf.boolean_mask(rows, kept)[:, None]
            events = tf.tensor_scatter_nd_update(events, chosen, tf.boolean_mask(new, kept))
            return (
                number + 1,
                events,
                tf.tensor_scatter_nd_update(missing, chosen, tf.zeros(tf.shape(chosen)[:1], tf.bool)),
            )

        start = tf.constant(0), tf.zeros((n, len(self.outputs)), tf.float64), tf.fill((n,), True)
        _, events, missing = tf.while_loop(
            lambda number, events, missing: tf.reduce_any(missing),
            more,
            start,
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, len(self.outputs)]), tf.TensorShape([None])),
            maximum_iterations=ROUNDS,
            parallel_iterations=1,
        )
        complete = required(
            ~tf.reduce_any(missing), f"hardly any event of {self.name!r} is left by its negative components"
        )
        with tf.control_dependencies(complete):
            return tf.identity(events)

    def _draw_positive(self, context: tf.Tensor) -> tf.Tensor:
        """Labels first, then every component for the rows with its label; negative shares are left out."""
        n = tf.shape(context)[0]
        log_weights = tf.math.log(tf.maximum(self.weights(), 0.0))[None, :]
        labels = tf.random.stateless_categorical(log_weights, n, new_seed())[0]
        rows = tf.dynamic_partition(tf.range(n), tf.cast(labels, tf.int32), len(self.pdfs))
        parts = [
            columns(draw(pdf, tf.gather(context, chosen)), outputs(pdf), self.outputs)
            for pdf, chosen in zip(self.pdfs, rows, strict=True)
        ]
        return tf.gather(tf.concat(parts, axis=0), tf.math.invert_permutation(tf.concat(rows, axis=0)))

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        parts = tf.stack([integral(pdf, ranges) for pdf in self.pdfs])
        weights = self.weights()
        return tf.math.log(tf.tensordot(weights, parts, 1) / tf.reduce_sum(weights))


class ConditionalProductPDF(LogSpacePDF, zfit.pdf.BaseFunctor):
    r"""Chain rule: :math:`p(y, x) = p(y | x)\, p(x)`, with any number of factors.

    Every observable is described by exactly one factor; the factors may be given in any order. Sampling draws the
    conditions first.

    Args:
        pdfs: Conditional and unconditional PDFs, learned or of zfit, none of them extended.
        obs: Names, or a `zfit.Space`, that give the order of the observables; by default that of the factors.
        extended: Yield: a number or parameter.
        norm: Range over which it is normalised, which has to be that of the factors.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        ValueError: If an observable is described twice, a condition by no factor, or factors condition each other in a
            circle; if a factor is extended; if the range is not that of the factors.

    Example:
        >>> p_y_given_x, p_x = FlowPDF(Flow(["y"], ["x"])), FlowPDF(Flow(["x"]))
        >>> ConditionalProductPDF([p_y_given_x, p_x], extended=1000.0).obs
        ('y', 'x')
    """

    def __init__(
        self,
        pdfs: Sequence[zfit.pdf.BasePDF],
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "ConditionalProductPDF",
        label: str | None = None,
    ):
        pdfs = as_list(pdfs)
        self._arguments = {"pdfs": pdfs, "obs": obs, "extended": extended, "norm": norm, "name": name, "label": label}
        if extended_factors := [pdf.name for pdf in pdfs if pdf.is_extended]:
            raise ValueError(f"factors {extended_factors} of {name!r} are extended; give the yield to the product")
        self._in_order = causal_order(pdfs, name)
        self.cond = ()
        self.ranges = {o: space_ranges(pdf.norm)[o] for pdf in pdfs for o in outputs(pdf)}
        space = same_space(obs, make_space(self.ranges), name)
        super().__init__(pdfs=pdfs, obs=space, extended=extended, norm=norm, name=name, label=label)
        if not self._covers(self.norm):
            raise ValueError(f"norm= of {name!r} is narrower than its factors' {self.ranges}: give it to the factors")

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return all(is_compilable(pdf) for pdf in self.pdfs)

    def _precompute(self, x: tf.Tensor) -> Any:
        return [precompute(pdf, columns(x, self.obs, pdf.obs)) for pdf in self.pdfs]

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        return tf.add_n([log_density(pdf, part) for pdf, part in zip(self.pdfs, precomputed, strict=True)])

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        drawn: dict[str, tf.Tensor] = {}
        for pdf in self._in_order:
            given = tf.stack([drawn[o] for o in conditions(pdf)], axis=1) if conditions(pdf) else context
            drawn.update(zip(outputs(pdf), tf.unstack(draw(pdf, given), axis=1), strict=True))
        return tf.stack([drawn[name] for name in self.obs], axis=1)

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        """Factors that nothing depends on have a probability of their own; the others have one together."""
        cut = {o for o, (low, high) in self.ranges.items() if ranges[o][0] > low or ranges[o][1] < high}
        chain: list[FlowBasedPDF] = []
        log_fraction = tf.zeros((), tf.float64)
        for pdf in self._in_order[::-1]:
            used = cut.union(*(factor.cond for factor in chain))
            if not used & set(outputs(pdf)):
                continue
            if not conditions(pdf) and not any(set(factor.cond) & set(pdf.obs) for factor in chain):
                log_fraction += tf.math.log(integral(pdf, ranges))
            elif isinstance(pdf, FlowBasedPDF):
                chain.insert(0, pdf)
            else:
                raise ValueError(
                    f"{self.name!r} cannot be integrated over {ranges}, a part of its range: {pdf.name!r} depends on "
                    "other factors, or they on it, and is neither a FlowPDF nor an FNFPDF"
                )
        if chain:
            parts = [
                pdf.restricted({o: _overlap(ranges[o], space_ranges(pdf.norm)[o]) for o in pdf.ranges}) for pdf in chain
            ]
            log_fraction += log_probability(
                chain, {o: limits for part in parts for o, limits in part.items()}, self._regions
            )
            log_fraction -= tf.add_n([tf.zeros((), tf.float64) + pdf.log_integral(pdf.norm) for pdf in chain])
        return log_fraction


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return max(first[0], second[0]), min(first[1], second[1])


# --- any sum, ours or zfit's ------------------------------------------------------------------------------------------


def sum_components(model: zfit.pdf.BasePDF) -> list[zfit.pdf.BasePDF]:
    """The components of a sum, ours or zfit's; of any other PDF, itself."""
    return list(model.pdfs) if isinstance(model, (SumPDF, zfit.pdf.SumPDF)) else [model]


def sum_shares(model: zfit.pdf.BasePDF) -> np.ndarray:
    """Fractions of `sum_components` at the current parameters; they sum to one."""
    if isinstance(model, SumPDF):
        shares = np.asarray(model.weights(), float)
    elif isinstance(model, zfit.pdf.SumPDF):
        shares = np.asarray([scalar_of(fraction) for fraction in model.params.values()], float)
    else:
        return np.ones(1)
    return shares / np.sum(shares)


def expected_events(model: zfit.pdf.BasePDF) -> float:
    """Yield of an extended PDF at the current parameters."""
    return float(scalar_of(model.get_yield()))

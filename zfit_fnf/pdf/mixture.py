"""A mixture whose shares depend on the conditions: processes without a density of the conditions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..densities.fractions import Fractions
from ..param import scalar_of, values_of
from . import logdensities
from .base import LogSpacePDF, draw, is_compilable, log_density, precompute
from .drawing import new_seed, required
from .flow import _bound
from .spaces import UNBOUNDED, Ranges, columns, conditions, make_space, outputs, same_space, space_ranges

__all__ = ["ConditionalMixturePDF"]

_mixtures = itertools.count()


class ConditionalMixturePDF(LogSpacePDF, zfit.pdf.BaseFunctor):
    r"""Mixture :math:`p(y | x) = \sum_f A(f | x)\, p(y | x, f)` with shares that a classifier has learned.

    .. math:: A(f | x) = n_f\, e^{l_f(x, \nu)} \Big/ \sum_g n_g\, e^{l_g(x, \nu)}

    with the yields :math:`n_f` of the PDFs. It is conditional on :math:`x`, so that an unbinned likelihood knows ratios of yields
    alone: fix one of them, or use the extended likelihood, to which the number of events adds their sum.

    Args:
        pdfs: The PDF of each process, by its name, with a yield ``extended=``. They describe the same observables over the same
            range, and may be conditional on some of the conditions of the fractions, or on others.
        fractions: The classifier, from :func:`zfit_fnf.train.fit_fractions`.
        params: A parameter for each nuisance of the fractions, by its name; those of the PDFs are their own.
        obs: Names, or a `zfit.Space`, that give the order of observables and conditions.
        extended: Whether it is extended by the sum of the yields, the default.
        norm: Range over which it is normalised, which has to be that of the PDFs.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        TypeError: If it is not a mapping of PDFs, or the fractions are none.
        ValueError: If processes are not those of the fractions, PDFs do not fit together or have no yield; if held-out events
            have not confirmed the shares.
    """

    def __init__(
        self,
        pdfs: Mapping[str, zfit.pdf.BasePDF],
        fractions: Fractions,
        params: Mapping[str, Any] | None = None,
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "ConditionalMixturePDF",
        label: str | None = None,
    ):
        _check_fractions(fractions, name)
        _check_pdfs(pdfs, fractions, name)
        self._arguments = {
            "pdfs": dict(pdfs),
            "fractions": fractions,
            "params": params,
            "obs": obs,
            "extended": extended,
            "norm": norm,
            "name": name,
            "label": label,
        }
        parts = [pdfs[process] for process in fractions.processes]
        self.fractions = fractions
        self.cond = tuple(dict.fromkeys([*fractions.cond, *(o for pdf in parts for o in conditions(pdf))]))
        self.ranges = {o: limits for o, limits in space_ranges(parts[0].norm).items() if o in outputs(parts[0])}
        yields = {f"yield_{process}": pdf.get_yield() for process, pdf in zip(fractions.processes, parts, strict=True)}
        bound = {f"nuisance_{k}": one for k, one in _bound(params or {}, fractions.nuisances, name).items()}
        if extended not in (None, True, False):
            raise ValueError(f"{name!r} gets its yield from its components; got extended={extended!r}")
        total = None if extended is False else _total(yields, name)
        space = make_space({**self.ranges, **dict.fromkeys(self.cond, (-UNBOUNDED, UNBOUNDED))})
        space = same_space(obs, space, name)
        super().__init__(
            pdfs=parts, obs=space, params={**yields, **bound}, extended=total, norm=norm, name=name, label=label
        )
        if not self._covers(self.norm):
            raise ValueError(
                f"norm= of {name!r} is narrower than its components' {self.ranges}: give it to each of them"
            )

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return all(is_compilable(pdf) for pdf in self.pdfs)

    @property
    def trained_windows(self) -> dict[str, tuple[zfit.Parameter, float, float]]:
        """By name of the nuisance its parameter, and the range in which the fractions were trained."""
        return {name: (self.params[f"nuisance_{name}"], *window) for name, window in self.fractions.windows.items()}

    @property
    def trained_conditions(self) -> dict[str, tuple[float, float]]:
        """By name of a condition the range in which the fractions were trained, if it is known."""
        return dict(self.fractions.ranges)

    @property
    def given_conditions(self) -> dict[str, float]:
        """Conditions that are given, of which there are none."""
        return {}

    def yields(self) -> tf.Tensor:
        """Yields of the processes ``(C,)``."""
        return tf.stack([scalar_of(self.params[f"yield_{process}"]) for process in self.fractions.processes])

    def nu(self) -> tf.Tensor:
        """Values ``(K,)`` of the nuisances of the fractions."""
        named = [self.params[f"nuisance_{name}"] for name in self.fractions.nuisances]
        return values_of(named) if named else tf.zeros((0,), tf.float64)

    def _precompute(self, x: tf.Tensor) -> Any:
        of_fractions = self.fractions.precompute(columns(x, self.obs, self.fractions.cond))
        return of_fractions, [precompute(pdf, columns(x, self.obs, pdf.obs)) for pdf in self.pdfs]

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        of_fractions, events = precomputed
        ratios = tf.unstack(self.fractions.log_ratios(self.nu(), of_fractions), axis=1)
        log_p = [log_density(pdf, part) for pdf, part in zip(self.pdfs, events, strict=True)]
        yields = self.yields()
        joint = logdensities.log_sum([ratio + p for ratio, p in zip(ratios, log_p, strict=True)], yields)
        return joint - logdensities.log_sum(ratios, yields)

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        """Labels first, then every process for the rows with its label."""
        n, yields = tf.shape(context)[0], self.yields()
        positive = tf.reduce_all(yields >= 0) & (tf.reduce_sum(yields) > 0)
        with tf.control_dependencies(required(positive, f"yields of {self.name!r} are negative: it cannot be sampled")):
            ratios = self.fractions.log_ratios(
                self.nu(), self.fractions.precompute(columns(context, self.cond, self.fractions.cond))
            )
        labels = tf.random.stateless_categorical(ratios + tf.math.log(yields), 1, new_seed())[:, 0]
        rows = tf.dynamic_partition(tf.range(n), tf.cast(labels, tf.int32), len(self.pdfs))
        parts = [
            columns(draw(pdf, columns(tf.gather(context, own), self.cond, conditions(pdf))), outputs(pdf), self.outputs)
            for pdf, own in zip(self.pdfs, rows, strict=True)
        ]
        return tf.gather(tf.concat(parts, axis=0), tf.math.invert_permutation(tf.concat(rows, axis=0)))

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        del ranges
        raise ValueError(
            f"{self.name!r} is conditional on {list(self.cond)}: it cannot be integrated over a part of its range"
        )


def _total(yields: Mapping[str, Any], name: str) -> zfit.Parameter:
    return zfit.ComposedParameter(
        f"{name}_yield_{next(_mixtures)}",
        lambda params: tf.add_n(list(map(scalar_of, params.values()))),
        params=dict(yields),
        unpack_params=False,
    )


def _check_fractions(fractions: Any, name: str) -> None:
    if not isinstance(fractions, Fractions):
        raise TypeError(f"{name!r} takes Fractions, from zfit_fnf.train.fit_fractions; got {fractions!r}")
    if fractions.reliability is None:
        raise ValueError(f"fractions of {name!r} have no reliability: whether their shares are right is not known")
    fractions.check()


def _check_pdfs(pdfs: Any, fractions: Fractions, name: str) -> None:
    if not isinstance(pdfs, Mapping) or not all(isinstance(pdf, zfit.pdf.BasePDF) for pdf in pdfs.values()):
        raise TypeError(f"{name!r} takes the PDF of each process by its name; got {pdfs!r}")
    if set(pdfs) != set(fractions.processes):
        raise ValueError(
            f"pdfs of {name!r} are those of {list(pdfs)}, but the fractions of {list(fractions.processes)}"
        )
    first = pdfs[fractions.processes[0]]
    for process, pdf in pdfs.items():
        if not pdf.is_extended:
            raise ValueError(f"the PDF of {process!r} in {name!r} has no yield: give it extended=")
        ours, theirs = space_ranges(first.norm), space_ranges(pdf.norm)
        if set(outputs(pdf)) != set(outputs(first)) or not all(np.allclose(ours[o], theirs[o]) for o in outputs(first)):
            raise ValueError(
                f"the PDFs of {name!r} describe different observables or ranges: {process!r} {theirs}, "
                f"{fractions.processes[0]!r} {ours}"
            )
        if both := sorted(set(outputs(pdf)) & set(fractions.cond)):
            raise ValueError(
                f"{both} are conditions of the fractions, and described by the PDF of {process!r} in {name!r}"
            )

r"""Conditional fractions: what share of the events at given conditions is of each process, from a classifier.

.. math::
    A(f | x) = \frac{n_f\, e^{l_f(x, \nu)}}{\sum_g n_g\, e^{l_g(x, \nu)}}, \qquad
    l_f(x, \nu) = \frac{g_f(x)}{T} + b_f + \sum_m \phi_m(\nu)\, r_{fm}(x) - \log Z_f(\nu).

:math:`n_f` are yields. Up to a function that all processes share, and which drops out, :math:`l_f` is the logarithm of the
density :math:`p(x | f)`: a network :math:`g` that tells the processes apart in equal parts learns just that. The temperature
:math:`T` and the offsets :math:`b` calibrate it. With nuisances :math:`\nu` the density of a process is multiplied by the
exponential of a polynomial, as in :mod:`.ratio`, whose coefficients :math:`r` are networks. Its integral over the process is

.. math::
    \log Z_f(\nu) = \phi^T \bar r_f + \tfrac12 \phi^T C_f\, \phi
        + \log \sum_i w_i\, e^{s_i} - \tfrac12 \sum_i w_i\, s_i^2, \qquad s_i = \phi^T (r_{fi} - \textstyle\sum_j w_j r_{fj}),

with the mean :math:`\bar r` and the covariance :math:`C_f` of the coefficients over all events of the process, which are right to
second order, and, for what is beyond, the average over some of the events, with weights :math:`w` that add up to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from scipy.special import softmax

from ..common.checks import integer, names, number
from ..samples import as_sample, index_of
from .history import History
from .model import Model
from .monomials import Monomials, Powers, checked_powers
from .networks import MaskedMLP, hidden_widths
from .reliability import Reliability

__all__ = ["FractionResponse", "Fractions"]


@dataclass(frozen=True)
class FractionResponse:
    """On which monomials of nuisances the density of a process depends.

    Attributes:
        process: The process.
        nuisances: One nuisance, or two of an interaction.
        powers: Exponents of each monomial, one per nuisance.
    """

    process: str
    nuisances: tuple[str, ...]
    powers: Powers = field(default=((1,),))

    def __post_init__(self) -> None:
        object.__setattr__(self, "nuisances", tuple(self.nuisances))
        object.__setattr__(self, "powers", checked_powers(self.powers, self.nuisances))


class Fractions(Model):
    """Shares of processes as a function of conditions, yields and nuisances; made by :func:`zfit_fnf.train.fit_fractions`.

    Args:
        processes: Their names, at least two.
        cond: Names of the conditions.
        responses: What depends on nuisances.
        windows: Trained range ``(low, high)`` of each nuisance.
        hidden: Widths of the hidden layers; default two of 64.
        n_events: Events of each moved process that its integral beyond second order is averaged over.
        reliability: How well held-out events confirm the shares; not known by default.
        ranges: Lowest and highest value ``(low, high)`` of each condition in the training; not known by default.
        seed: Seed of the initial weights.

    Raises:
        ValueError: For fewer than two processes, no conditions, names that repeat, or responses without process or window.
    """

    def __init__(
        self,
        processes: Sequence[str],
        cond: Sequence[str],
        *,
        responses: Sequence[FractionResponse] = (),
        windows: Mapping[str, tuple[float, float]] | None = None,
        hidden: Sequence[int] | None = None,
        n_events: int = 0,
        reliability: Reliability | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.processes, self.cond = names(processes, "processes"), names(cond, "cond")
        if len(set(self.processes)) < max(2, len(self.processes)):
            raise ValueError(f"fractions need two or more processes with different names; got {list(self.processes)}")
        if not self.cond or len(set(self.cond)) < len(self.cond):
            raise ValueError(f"fractions need conditions with different names in cond=; got {list(self.cond)}")
        self.responses, self.windows = tuple(responses), dict(windows or {})
        for response in self.responses:
            if response.process not in self.processes or not set(response.nuisances) <= set(self.windows):
                raise ValueError(f"{response} is not of a process in {list(self.processes)}, or has no window")
        self.ranges = dict(ranges or {})
        if self.ranges and set(self.ranges) != set(self.cond):
            raise ValueError(f"ranges= are those of the conditions {list(self.cond)}; got {list(self.ranges)}")
        self.hidden, self.reliability = hidden_widths(hidden, 1), reliability
        m = len(self.cond)
        self.network = MaskedMLP(1, m, len(self.processes), hidden=self.hidden, seed=seed)
        self.networks = [
            MaskedMLP(1, m, len(r.powers), hidden=self.hidden, seed=seed + 1 + k, zero_init=True)
            for k, r in enumerate(self.responses)
        ]
        fixed = {"dtype": tf.float64, "trainable": False}
        self.centre, self.scale = tf.Variable(np.zeros(m), **fixed), tf.Variable(np.ones(m), **fixed)
        self.temperature = tf.Variable(1.0, **fixed)
        self.offsets = tf.Variable(np.zeros(len(self.processes)), **fixed)
        sizes = [sum(len(self.responses[k].powers) for k in self.of_process(name)) for name in self.moved]
        self.means = [tf.Variable(np.zeros(size), **fixed) for size in sizes]
        self.covariances = [tf.Variable(np.zeros((size, size)), **fixed) for size in sizes]
        self.n_events = integer(n_events, "n_events", low=0)
        self.averaged = [tf.Variable(np.zeros((self.n_events, size)), **fixed) for size in sizes]
        self.averaged_weights = [tf.Variable(np.full(self.n_events, 1 / max(1, n_events)), **fixed) for _ in sizes]
        self.history: dict[str, History] = {}
        self._monomials = {
            name: Monomials([self.responses[k] for k in self.of_process(name)], self.windows) for name in self.moved
        }

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances."""
        return tuple(self.windows)

    @property
    def moved(self) -> tuple[str, ...]:
        """Processes that depend on nuisances."""
        return tuple(name for name in self.processes if self.of_process(name))

    def of_process(self, process: str) -> list[int]:
        """Places of the responses of a process."""
        return [k for k, response in enumerate(self.responses) if response.process == process]

    # --- in graphs ------------------------------------------------------------------------------------------------------

    def standardised(self, x: tf.Tensor) -> tf.Tensor:
        """Conditions ``(n, m)`` as the networks see them."""
        return (tf.cast(x, tf.float64) - self.centre) / self.scale

    def coefficients(self, c: tf.Tensor, index: int) -> tf.Tensor:
        """Coefficients ``(n, M)`` of the monomials of a response at standardised conditions."""
        return self.networks[index].precompute(c)[0][:, 0]

    def precompute(self, x: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """What depends on events ``(n, m)`` alone: calibrated log-ratios ``(n, C)``, and coefficients of moved processes."""
        c = self.standardised(x)
        logits = self.network.precompute(c)[0][:, 0] / self.temperature + self.offsets
        return logits, [
            tf.concat([self.coefficients(c, k) for k in self.of_process(name)], axis=1) for name in self.moved
        ]

    def log_ratios(self, nu: tf.Tensor, precomputed: tuple[tf.Tensor, list[tf.Tensor]]) -> tf.Tensor:
        """Logarithms ``(n, C)`` of the densities of the processes, up to what they share, at nuisances ``nu (K,)``."""
        logits, coefficients = precomputed
        columns = dict(zip(self.processes, tf.unstack(logits, axis=1), strict=True))
        for place, (name, r) in enumerate(zip(self.moved, coefficients, strict=True)):
            phi = self._monomials[name](nu)
            columns[name] += tf.linalg.matvec(r, phi) - self.log_integral(place, phi)
        return tf.stack([columns[name] for name in self.processes], axis=1)

    def log_integral(self, place: int, phi: tf.Tensor) -> tf.Tensor:
        """Logarithm of the integral of the factor on the density of a moved process, for monomials ``phi (M,)``."""
        second = 0.5 * tf.tensordot(phi, tf.linalg.matvec(self.covariances[place], phi), 1)
        result = tf.tensordot(phi, self.means[place], 1) + second
        if not self.n_events:
            return result
        s, w = tf.linalg.matvec(self.averaged[place], phi), self.averaged_weights[place]
        highest = tf.stop_gradient(tf.reduce_max(s))  # weights can be negative
        log_mean = highest + tf.math.log(tf.tensordot(w, tf.exp(s - highest), 1))
        return result + log_mean - 0.5 * tf.tensordot(w, s**2, 1)

    # --- for users ------------------------------------------------------------------------------------------------------

    def shares(
        self, data: Any, yields: Mapping[str, float] | None = None, *, nu: Mapping[str, float] | None = None
    ) -> pd.DataFrame:
        """Shares of the processes at some conditions.

        Args:
            data: Table with the conditions.
            yields: Expected events of each process; by default equal ones.
            nu: Nuisances in standard deviations; those left out are zero.

        Returns:
            A row for each of the conditions, with their pandas index, and a column for each process.

        Raises:
            ValueError: For bad columns, yields that are not of these processes or all zero, and unknown nuisances; if held-out
                events have not confirmed the shares.
        """
        self.check()
        yields, nu = yields or dict.fromkeys(self.processes, 1.0), nu or {}
        if set(yields) != set(self.processes):
            raise ValueError(f"yields= are those of {list(self.processes)}; got {list(yields)}")
        if unknown := sorted(set(nu) - set(self.nuisances)):
            raise ValueError(f"unknown nuisance {unknown}: these fractions know {list(self.nuisances)}")
        point = tf.constant([number(nu.get(name, 0.0), name) for name in self.nuisances], tf.float64)
        x = as_sample(data, self.cond).array(self.cond)
        expected = np.array([number(yields[name], f"the yield of {name!r}", low=0.0) for name in self.processes])
        if not expected.any():
            raise ValueError("yields= are all zero: there are no shares of nothing")
        with np.errstate(divide="ignore"):  # a yield of zero
            terms = self.log_ratios(point, self.precompute(tf.constant(x))).numpy() + np.log(expected)
        return pd.DataFrame(softmax(terms, axis=1), columns=list(self.processes), index=index_of(data))

    def check(self) -> None:
        """Refuse shares that held-out events have not confirmed; those of fractions that nothing was held out for are not known.

        Raises:
            ValueError: If they are not confirmed.
        """
        if self.reliability is not None and not self.reliability.passed:
            raise ValueError(
                f"{self!r} cannot be used, {self.reliability}: train them for longer, or with larger networks"
            )

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct fractions of the same architecture."""
        return {
            "processes": self.processes,
            "cond": self.cond,
            "responses": self.responses,
            "windows": self.windows,
            "hidden": self.hidden,
            "n_events": self.n_events,
            "reliability": self.reliability,
            "ranges": self.ranges,
        }

    def __repr__(self) -> str:
        moved = f", moved by {', '.join(self.nuisances)}" if self.nuisances else ""
        return f"<Fractions of {', '.join(self.processes)} given {', '.join(self.cond)}{moved}>"

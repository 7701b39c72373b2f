"""Parameters of a pyhf model as parameters of zfit, with what constrains them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..loss import ModelConstraint
from ..param import Nuisance, unclipped

__all__ = ["AuxiliaryCounts", "PyhfParameter", "given_or_made", "parameters_of", "zfit_name"]


@dataclass(frozen=True)
class PyhfParameter:
    """One parameter of a pyhf model.

    Attributes:
        name: Its name, as in ``pyhf.Model.config.par_names``: ``stat[0]`` for the first of a set.
        kind: ``free``, ``normal`` or ``poisson``: the distribution of its auxiliary measurement.
        start: Value where fits start.
        low: Lower bound.
        high: Upper bound.
        fixed: Whether it does not float.
        centre: The parameter of pyhf is ``centre + width * parameter``; 0 and 1, unless it is ``normal``.
        width: See ``centre``.
        outcome: Outcome of the auxiliary measurement.
        factor: Of a ``poisson`` measurement, the expected outcome divided by the parameter.
    """

    name: str
    kind: str
    start: float
    low: float
    high: float
    fixed: bool
    centre: float = 0.0
    width: float = 1.0
    outcome: float = 0.0
    factor: float = 1.0

    def made(self) -> zfit.Parameter:
        """A parameter of zfit: a nuisance in units of standard deviations, or a plain one with the values of pyhf."""
        name = zfit_name(self.name)
        if self.kind != "normal":
            return zfit.Parameter(name, self.start, self.low, self.high, floating=not self.fixed, label=self.name)
        low, high = ((edge - self.centre) / self.width for edge in (self.low, self.high))
        parameter = Nuisance(name, limits=(low, high), label=self.name)
        parameter.set_value((self.start - self.centre) / self.width)
        parameter.observed.set_value((self.outcome - self.centre) / self.width)
        parameter.floating = not self.fixed
        return parameter

    def made_outcome(self) -> zfit.Parameter:
        """The global observable of a ``poisson`` measurement, a fixed parameter ``<name>_observed``."""
        return zfit.Parameter(f"{zfit_name(self.name)}_observed", self.outcome, floating=False)

    def check(self, parameter: Any) -> zfit.Parameter:
        """A parameter that is given for this one, if it can stand for it.

        Raises:
            TypeError: If it is not constrained as this one.
        """
        if not isinstance(parameter, zfit.Parameter):
            raise TypeError(f"params= needs a zfit.Parameter or a nuisance for {self.name!r}; got {parameter!r}")
        if self.kind == "normal" and not isinstance(parameter, Nuisance):
            raise TypeError(
                f"pyhf has a Gaussian constraint of {self.name!r}, but {parameter.name!r} is a parameter without one: make it "
                f"with zfit_fnf.nuisance({parameter.name!r})"
            )
        if self.kind != "normal" and isinstance(parameter, Nuisance):
            raise TypeError(
                f"pyhf has no Gaussian constraint of {self.name!r}, but {parameter.name!r} is a nuisance, which has one: give a "
                "plain zfit.Parameter, or another name to one of them"
            )
        return parameter


def zfit_name(name: str) -> str:
    """A name as zfit takes it: ``stat_0`` for ``stat[0]``."""
    return re.sub(r"[^\w.\-]", "_", name.replace("]", ""))


def parameters_of(model: Any) -> list[PyhfParameter]:
    """The parameters of a pyhf model, in its order.

    Raises:
        ValueError: If two have names that are the same for zfit.
    """
    config = model.config
    known: dict[str, str] = {}
    for name in config.par_names:
        if known.setdefault(zfit_name(name), name) != name:
            raise ValueError(
                f"the parameters {known[zfit_name(name)]!r} and {name!r} of pyhf would both be called {zfit_name(name)!r}: "
                "rename one of them in the workspace"
            )
    effects = {name for name, kind in config.modifiers if kind in ("normsys", "histosys")}
    starts, bounds, fixed = config.suggested_init(), config.suggested_bounds(), config.suggested_fixed()
    auxiliary = _auxiliary(config)
    made = []
    for name in config.par_order:
        paramset = config.param_set(name)
        kind = paramset.pdf_type if paramset.constrained else "free"
        where = config.par_slice(name)
        for place, index in enumerate(range(*where.indices(len(starts)))):
            outcome = auxiliary[name][place] if paramset.constrained else 0.0
            # The templates of an effect are at 0 and +-1, whatever its auxiliary measurement says.
            centre = outcome if kind == "normal" and name not in effects else 0.0
            width = float(getattr(paramset, "sigmas", [1.0] * (place + 1))[place]) if kind == "normal" else 1.0
            factor = float(paramset.factors[place]) if kind == "poisson" else 1.0
            made.append(
                PyhfParameter(
                    name=config.par_names[index],
                    kind=kind,
                    start=float(starts[index]),
                    low=float(bounds[index][0]),
                    high=float(bounds[index][1]),
                    fixed=bool(fixed[index]),
                    centre=centre,
                    width=width,
                    outcome=outcome,
                    factor=factor,
                )
            )
    return made


def _auxiliary(config: Any) -> dict[str, list[float]]:
    """Outcomes of the auxiliary measurements, by name of the set of parameters."""
    outcomes, start = {}, 0
    for name in config.auxdata_order:
        stop = start + config.param_set(name).n_parameters
        outcomes[name], start = [float(one) for one in config.auxdata[start:stop]], stop
    return outcomes


def given_or_made(known: list[PyhfParameter], params: Mapping[str, Any]) -> list[zfit.Parameter]:
    """For each parameter the one that is given for its name, or a new one.

    Raises:
        TypeError: If one that is given is not constrained as that of pyhf.
        ValueError: If pyhf has none of a name.
    """
    names = [parameter.name for parameter in known]
    for name in params:
        if name not in names:
            close = get_close_matches(str(name), names, n=1)
            nearest = f"; do you mean {close[0]!r}?" if close else ""
            raise ValueError(f"params= has {name!r}, which is no parameter of the pyhf model, {names}{nearest}")
    return [one.check(params[one.name]) if one.name in params else one.made() for one in known]


class AuxiliaryCounts(ModelConstraint):
    r"""Poisson measurements of parameters, :math:`\sum_k \tau_k \gamma_k - n_k \log \tau_k \gamma_k + \log n_k!`.

    Args:
        parameters: The parameters :math:`\gamma`.
        outcomes: The global observables ``n``, fixed parameters.
        factors: The factors :math:`\tau`.

    Attributes:
        measured: The parameters.
        observed: The global observables.
    """

    def __init__(
        self, parameters: Sequence[zfit.Parameter], outcomes: Sequence[zfit.Parameter], factors: Sequence[float]
    ):
        self.measured, self.observed = tuple(parameters), tuple(outcomes)
        self._factors = np.array(factors)
        super().__init__(params={parameter.name: parameter for parameter in parameters}, name="AuxiliaryCounts")

    def estimates(self) -> np.ndarray:
        """Values of the parameters that the outcomes alone say ``(K,)``."""
        return np.array([float(one.value()) for one in self.observed]) / self._factors

    @property
    def covariance(self) -> np.ndarray:
        """Of `estimates` ``(K, K)``."""
        return np.diag(self.estimates() / self._factors)

    def spread(self) -> np.ndarray:
        """Standard deviations of the outcomes ``(K,)``."""
        return np.sqrt([float(one.value()) for one in self.observed])

    def expected_outcome(self) -> np.ndarray:
        """The expected counts ``(K,)``."""
        return self._factors * np.array([float(parameter.value()) for parameter in self.measured])

    def draw_outcome(self, rng: np.random.Generator) -> np.ndarray:
        """Counts ``(K,)`` of one experiment."""
        return rng.poisson(self.expected_outcome()).astype(float)

    def _value(self) -> tf.Tensor:
        rates = self._factors * tf.stack([unclipped(parameter) for parameter in self.measured])
        counts = tf.stack([unclipped(parameter) for parameter in self.observed])
        return tf.reduce_sum(rates - tf.math.xlogy(counts, rates) + tf.math.lgamma(counts + 1.0))

"""PDFs made of one flow: a nominal density, and a density that nuisances deform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from ..common.checks import number
from ..densities.flows import Flow
from ..densities.process import FittedProcess
from ..densities.responses import ShapeResponse
from ..param import values_of
from .base import LogSpacePDF
from .drawing import new_seed
from .regions import Factor, Region
from .spaces import UNBOUNDED, Ranges, columns, finite, space_within

__all__ = ["FNFPDF", "FlowBasedPDF", "FlowPDF", "log_probability"]

_PRECISIONS = ["float64", "float32"]


class FlowBasedPDF(LogSpacePDF):
    """PDF of a flow, or of a flow with a response to nuisances, whose observables are bound by name."""

    _deformation: ShapeResponse | None = None

    def __init__(
        self, flow: Flow, obs: Any, params: Mapping[str, Any], given: Mapping[str, Any] | None, **settings: Any
    ):
        if isinstance(flow, (zfit.pdf.BasePDF, ShapeResponse)) or not hasattr(flow, "log_density_at"):
            raise TypeError(f"{settings['name']!r} takes a Flow (a Deformation belongs into an FNFPDF); got {flow!r}")
        self._flow = flow
        self.given = _checked_given(given or {}, flow, settings["name"])
        moving = {name: one for name, one in self.given.items() if isinstance(one, BaseParameter)}
        if repeated := [name for name in moving if name in params]:
            raise ValueError(f"{repeated} of {settings['name']!r} are nuisances already")
        self.has_moving_conditions = bool(moving)
        self.cond = tuple(name for name in flow.cond if name not in self.given)
        self.ranges = {name: finite(*flow.ranges[name]) for name in flow.obs}
        default = {**self.ranges, **dict.fromkeys(self.cond, (-UNBOUNDED, UNBOUNDED))}
        super().__init__(obs=space_within(obs, default, settings["name"]), params={**params, **moving}, **settings)
        if not self._covers(self.norm):
            self._refuse_conditional()
            if self.given:
                raise ValueError(
                    f"{self.name!r} has given conditions {list(self.given)}, with which it is not normalised over a part of its "
                    f"range {self.ranges}"
                )

    @property
    def trained_conditions(self) -> dict[str, tuple[float, float]]:
        """By name of a condition the range in which the density was trained, if it is known."""
        known = getattr(getattr(self._flow, "history", None), "conditions", {})
        return {name: (low, high) for name, (low, high) in known.items()}

    @property
    def given_conditions(self) -> dict[str, float]:
        """Values of the conditions that are given, by name."""
        return {name: float(_value(one)) for name, one in self.given.items()}

    def encode(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Observables ``(n, d)`` and conditions ``(n, m)``, standardised, and the log-Jacobian ``(n,)``; dtype of ``x``."""
        # Large offsets cancel in float64.
        exact = tf.cast(x, tf.float64)
        encoded = self._flow.encode(
            columns(exact, self.obs, self._flow.obs), self._conditions(columns(exact, self.obs, self.cond))
        )
        return tuple(tf.cast(part, x.dtype) for part in encoded)

    def _context(self, context: tf.Tensor) -> tf.Tensor:
        """Standardised conditions; the encoder wants observables too, so it gets the centre of the density."""
        centre = self._flow.decode(tf.zeros((tf.shape(context)[0], len(self._flow.obs)), tf.float64))
        return self._flow.encode(centre, self._conditions(context))[1]

    def _conditions(self, context: tf.Tensor) -> tf.Tensor:
        """All conditions ``(n, m)`` of the flow: those of the events, and those that are given."""
        if not self.given:
            return context
        ones = tf.ones(tf.shape(context)[:1], context.dtype)
        known = {name: ones * tf.cast(_value(one), context.dtype) for name, one in self.given.items()}
        known |= dict(zip(self.cond, tf.unstack(context, axis=1), strict=True))
        return tf.stack([known[name] for name in self._flow.cond], axis=1)

    def _precompute(self, x: tf.Tensor) -> Any:
        # With a condition that is a parameter, nothing depends on the events alone.
        return x if self.has_moving_conditions else self._precompute_with(x, self._precompute_conditions(x))

    def _precompute_conditions(self, x: tf.Tensor) -> Any:
        return () if self.has_moving_conditions else self._of_conditions(x)

    def _precompute_with(self, x: tf.Tensor, given: Any) -> Any:
        return x if self.has_moving_conditions else self._of_events(x, given)

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        if self.has_moving_conditions:
            precomputed = self._of_events(precomputed, self._of_conditions(precomputed))
        return self._log_at(precomputed)

    def _of_conditions(self, x: tf.Tensor) -> Any:
        """What networks make of the conditions of events ``(n, n_obs)``."""
        raise NotImplementedError

    def _of_events(self, x: tf.Tensor, given: Any) -> Any:
        """What they make of events with these conditions."""
        raise NotImplementedError

    def _log_at(self, events: Any) -> tf.Tensor:
        """Log-density ``(n,)`` of what `_of_events` has made."""
        raise NotImplementedError

    def _decode(self, u: tf.Tensor) -> tf.Tensor:
        return columns(self._flow.decode(u), self._flow.obs, self.outputs)

    def factor(self, used: frozenset[str]) -> Factor:
        """The density as a factor of a `Region`, if factors are conditional on the observables ``used``."""
        return Factor(self._flow, self._deformation, used)

    def nu(self) -> tf.Tensor | None:
        """Values ``(K,)`` of the nuisances, if the density depends on any."""
        return None

    def restricted(self, ranges: Ranges) -> Ranges:
        """Of ranges, those that cut something away, infinite on the sides where they do not."""
        cut = {}
        for name, (low, high) in self.ranges.items():
            wanted = ranges.get(name, (low, high))
            cut[name] = (wanted[0] if wanted[0] > low else -np.inf, wanted[1] if wanted[1] < high else np.inf)
        return {name: limits for name, limits in cut.items() if np.any(np.isfinite(limits))}

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        return log_probability([self], self.restricted(ranges), self._regions)


def log_probability(factors: Sequence[FlowBasedPDF], ranges: Ranges, regions: dict[Any, Region]) -> tf.Tensor:
    """Logarithm of the probability of a product of densities in a box.

    Args:
        factors: The densities, each after those that describe its conditions.
        ranges: The box, by observable.
        regions: Boxes of these factors that are known already; a new one is added.
    """
    key = tuple(ranges.items())
    if key not in regions:
        with tf.init_scope():
            used = frozenset(o for pdf in factors for o in pdf.cond)
            regions[key] = Region([pdf.factor(used) for pdf in factors], ranges)
    return regions[key].log_probability([pdf.nu() for pdf in factors])


class FlowPDF(FlowBasedPDF):
    r"""A nominal density :math:`p(y | x)`, which depends on parameters only by its conditions.

    Args:
        flow: The density, or a fitted process without nuisances.
        obs: Names, or a `zfit.Space`, of the observables and conditions, in any order; by default those of the flow,
            over its ranges (unbounded ones: ± ``UNBOUNDED``). In a narrower space the density is divided by its
            integral there.
        extended: Yield: a number or parameter.
        norm: Range over which it is normalised; by default ``obs``.
        name: Name of the PDF.
        label: Text for plots and tables.
        given: Conditions that are the same for all events, by name: a number, or a parameter such as a mass. They are no
            observables of the PDF then.

    Raises:
        ValueError: If the observables are not those of the flow, or their range is wider; if a conditional density
            should be normalised over a part of its range; if what is given is no condition.

    Example:
        >>> flow = Flow(["mass"], ranges={"mass": (60.0, 120.0)})
        >>> pdf = FlowPDF(flow)
        >>> float(pdf.integrate((60.0, 120.0))[0])
        1.0
    """

    def __init__(
        self,
        flow: Flow | FittedProcess,
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "FlowPDF",
        label: str | None = None,
        given: Mapping[str, Any] | None = None,
    ):
        if isinstance(flow, FittedProcess):
            flow = flow.model
        settings = {"extended": extended, "norm": norm, "name": name, "label": label}
        self._arguments = {"flow": flow, "obs": obs, "given": given, **settings}
        super().__init__(flow, obs, {}, given, **settings)

    def _of_conditions(self, x: tf.Tensor) -> Any:
        return self._flow.precompute(self.encode(x)[1])

    def _of_events(self, x: tf.Tensor, given: Any) -> Any:
        u, _, log_jacobian = self.encode(x)
        return self._flow.log_density_at(u, given) + log_jacobian

    def _log_at(self, events: Any) -> tf.Tensor:
        return events

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        return self._decode(self._flow.draw(self._context(context), new_seed()))


class FNFPDF(FlowBasedPDF):
    r"""A density that nuisances deform.

    A factorizable normalizing flow (arXiv:2606.30489),
    :math:`p(y|x,\nu) = p_\mathrm{nom}(T_\nu(y;x)|x) \, |\det \partial T_\nu/\partial y|`. The coefficients of the
    deformation are computed once per data set.

    In a range that is narrower than that of the deformation the density is divided by its integral there, which is a
    smooth function of the nuisances and accurate to 1e-4 (relative), see :mod:`zfit_fnf.pdf.regions`: exact in one
    dimension, and in the first of several, for densities and maps with one layer.

    Args:
        deformation: The deformation, or another response of the shape, which carries its flow; or the fitted process.
        params: A parameter for each of its nuisances, by name.
        obs: As for `FlowPDF`.
        extended: Yield: a number or parameter, e.g. from :func:`zfit_fnf.modified_yield`.
        norm: Range over which it is normalised; by default ``obs``.
        name: Name of the PDF.
        label: Text for plots and tables.
        precision: Of the networks, ``"float64"`` or ``"float32"``, see docs/performance.md.
        given: As for `FlowPDF`.

    Raises:
        ValueError: If ``params`` lacks a nuisance or names another one, for another precision; as for `FlowPDF`.

    Example:
        >>> from zfit_fnf.densities.deformation import Deformation
        >>> from zfit_fnf.densities.polynomial_map import Response
        >>> from zfit_fnf.param import nuisance
        >>> response = Response(["jes"], ((1,), (2,)), n_dim=1, n_context=0)
        >>> deformation = Deformation(Flow(["mass"]), [response], windows={"jes": (-1.0, 1.0)})
        >>> pdf = FNFPDF(deformation, params={"jes": nuisance("jes")}, extended=1000.0)
        >>> len(pdf.sample(5).value())
        5
    """

    _deformation: ShapeResponse

    def __init__(
        self,
        deformation: ShapeResponse | FittedProcess,
        params: Mapping[str, Any],
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "FNFPDF",
        label: str | None = None,
        precision: str = "float64",
        given: Mapping[str, Any] | None = None,
    ):
        if isinstance(deformation, FittedProcess):
            deformation = deformation.model
        if precision not in _PRECISIONS:
            raise ValueError(f"precision= is one of {_PRECISIONS}; got {precision!r}")
        self._arguments = {
            "deformation": deformation,
            "params": params,
            "obs": obs,
            "extended": extended,
            "norm": norm,
            "name": name,
            "label": label,
            "precision": precision,
            "given": given,
        }
        if not isinstance(deformation, ShapeResponse):
            raise TypeError(
                f"{name!r} takes a Deformation, e.g. from zfit_fnf.train.fit_deformation; got {deformation!r}"
            )
        self._single = precision == "float32"
        self._deformation = deformation
        bound = _bound(params, deformation.nuisances, name)
        super().__init__(deformation.flow, obs, bound, given, extended=extended, norm=norm, name=name, label=label)

    @property
    def deformation(self) -> ShapeResponse:
        """The deformation."""
        return self._deformation

    @property
    def trained_windows(self) -> dict[str, tuple[zfit.Parameter, float, float]]:
        """By name of the nuisance its parameter, and the range in which its response was trained; of those with an effect."""
        idle: frozenset[str] = getattr(self.deformation, "without_effect", frozenset())
        windows = self.deformation.windows.items()
        return {name: (self.params[name], low, high) for name, (low, high) in windows if name not in idle}

    def nu(self) -> tf.Tensor:
        """Values ``(K,)`` of the nuisances, in the order of the deformation."""
        return values_of([self.params[name] for name in self._deformation.nuisances])

    def _coordinates(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `encode`, the coordinates in the precision of the networks."""
        u, c, log_jacobian = self.encode(x)
        return (tf.cast(u, tf.float32), tf.cast(c, tf.float32), log_jacobian) if self._single else (u, c, log_jacobian)

    def _of_conditions(self, x: tf.Tensor) -> Any:
        _, c, _ = self._coordinates(x)
        return self._deformation.precompute_conditions(c)

    def _of_events(self, x: tf.Tensor, given: Any) -> Any:
        u, c, log_jacobian = self._coordinates(x)
        return log_jacobian, self._deformation.precompute(u, c, given)

    def _log_at(self, events: Any) -> tf.Tensor:
        log_jacobian, of_response = events
        log_density = self._deformation.log_density_at(self.nu(), of_response)
        return tf.cast(log_density, log_jacobian.dtype) + log_jacobian

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        return self._decode(self._deformation.draw(self._context(context), self.nu(), new_seed()))


def _bound(params: Any, known: Sequence[str], name: str) -> dict[str, Any]:
    """The parameters of a PDF in the order of its nuisances, checked."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params= of {name!r} maps the nuisances {list(known)} to parameters; got {params!r}")
    for nuisance, value in params.items():
        if not isinstance(value, BaseParameter):
            number(value, f"params[{nuisance!r}] of {name!r}, if it is no parameter,")
    if missing := [nuisance for nuisance in known if nuisance not in params]:
        raise ValueError(f"params= lacks a parameter for {missing}; the nuisances of the deformation are {list(known)}")
    if unknown := sorted(set(params) - set(known)):
        raise ValueError(f"params= names {unknown}, but the nuisances of the deformation are {list(known)}")
    return {nuisance: params[nuisance] for nuisance in known}


def _checked_given(given: Any, flow: Flow, name: str) -> dict[str, Any]:
    """Conditions that are given, checked."""
    if not isinstance(given, Mapping):
        raise TypeError(f"given= of {name!r} maps conditions of the flow {list(flow.cond)} to values; got {given!r}")
    if unknown := [one for one in given if one not in flow.cond]:
        raise ValueError(f"given= names {unknown}, but the conditions of the flow are {list(flow.cond)}")
    return {
        one: value if isinstance(value, BaseParameter) else number(value, f"given[{one!r}] of {name!r}")
        for one, value in given.items()
    }


def _value(given: Any) -> tf.Tensor:
    return given.value() if isinstance(given, BaseParameter) else tf.constant(given, tf.float64)

r"""Nuisance parameters with their constraints, and the modifiers through which they change yields.

A nuisance counts standard deviations of an auxiliary measurement: the likelihood contains, for each one, the factor
``exp(-(nu - observed)^2 / 2)``. The losses of :mod:`zfit_fnf.loss` add that factor by themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.constraint import BaseConstraint
from zfit.core.parameter import BaseParameter

from .common.checks import number
from .densities.deformation import YieldRatio

_yield_numbers = itertools.count()


class Nuisance(zfit.Parameter):
    """Nuisance parameter in units of its prior standard deviation, with a unit-Gaussian auxiliary measurement.

    A `zfit.Parameter` that starts at zero. Losses recognise it and constrain it, once, whatever they are added to.

    Args:
        name: Name of the nuisance, as in the deformations.
        limits: Range in which a fit may move it, in standard deviations.
        label: Text for plots and tables; by default the name.

    Raises:
        TypeError: If the name is not a text, or the limits are not two numbers.
        ValueError: If the limits do not enclose zero.
    """

    def __init__(self, name: str, *, limits: tuple[float, float] = (-5.0, 5.0), label: str | None = None):
        if not isinstance(name, str):
            raise TypeError(f"a nuisance needs a name, e.g. nuisance('jes'); got {name!r}")
        try:
            low, high = map(float, limits)
        except (TypeError, ValueError):
            raise TypeError(f"limits of nuisance {name!r} are two numbers, e.g. (-5, 5); got {limits!r}") from None
        if not low < 0.0 < high:
            raise ValueError(f"limits of nuisance {name!r} must enclose 0, where it starts; got ({low}, {high})")
        super().__init__(name, 0.0, low, high, stepsize=0.1, label=label)
        self._observed = zfit.Parameter(f"{name}_observed", 0.0, floating=False)

    @property
    def observed(self) -> zfit.Parameter:
        """The global observable, i.e. the outcome of the auxiliary measurement, set by ``observed.set_value``.

        A fixed `zfit.Parameter` called ``<name>_observed`` with value 0; toys and Asimov data sets move it.
        """
        return self._observed

    def set_value(self, value: Any, *, clip: bool | None = None) -> Any:
        """As that of zfit, but refuses what is not a number.

        Args:
            value: The value.
            clip: Whether a value outside of the limits is moved to them, instead of an error.

        Raises:
            ValueError: If the value is not a number or outside of the limits.
        """
        if tf.executing_eagerly() and math.isnan(value):
            raise ValueError(f"nuisance {self.name!r} cannot be set to a value that is not a number")
        return super().set_value(value, clip=clip)

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self.name, self._label, float(self.value()), self.lower, self.upper, self.stepsize, self.floating)
        return _remade, (*state, self.observed)


def _remade(
    name: str, label: str, value: float, lower: Any, upper: Any, stepsize: Any, floating: bool, observed: zfit.Parameter
) -> Nuisance:
    """A nuisance as it was stored, with its limits of then."""
    made = Nuisance(name, label=label)
    made.lower, made.upper, made.stepsize, made.floating = lower, upper, stepsize, floating
    made.set_value(value)
    made._observed = observed
    return made


def nuisance(name: str, *, limits: tuple[float, float] = (-5.0, 5.0), label: str | None = None) -> Nuisance:
    """Make a nuisance parameter; two calls with one name make two parameters.

    Args:
        name: Name of the nuisance, as in the deformations.
        limits: Range in which a fit may move it, in standard deviations.
        label: Text for plots and tables; by default the name.

    Raises:
        TypeError: If the name is not a text, or the limits are not two numbers.
        ValueError: If the limits do not enclose zero.

    Example:
        >>> jes = nuisance("jes")
        >>> float(jes.value()), jes.observed.name
        (0.0, 'jes_observed')
    """
    return Nuisance(name, limits=limits, label=label)


def unclipped(parameter: zfit.Parameter) -> tf.Tensor:
    """The value, also outside of the limits, where ``value()`` stays at the edge, and in a tenth of its time."""
    return super(zfit.Parameter, parameter).value()


_read: ContextVar[dict[tuple[int, ...], tf.Tensor] | None] = ContextVar("read", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """In here, parameters that many densities share are read once: graphs of many nuisances stay small."""
    # Of the context: another thread traces a graph of its own, in which these tensors have no meaning.
    token = _read.set({})
    try:
        yield
    finally:
        _read.reset(token)


def values_of(params: Sequence[BaseParameter]) -> tf.Tensor:
    """Values ``(K,)`` as ``value()`` gives them, one by one; of many parameters in a fraction of its time."""
    # A loop inside of a graph is a graph of its own: what it reads ends with it.
    key, read = (id(tf.compat.v1.get_default_graph()), *map(id, params)), _read.get()
    if read is not None and key in read:
        return read[key]
    simple = [parameter if isinstance(parameter, zfit.Parameter) else None for parameter in params]
    low, high = np.transpose([(-np.inf, np.inf) if p is None else limits_of(p) for p in simple])
    stacked = tf.stack([q.value() if p is None else unclipped(p) for p, q in zip(simple, params, strict=True)])
    # The derivative is one also at the edge.
    values = stacked + tf.stop_gradient(tf.clip_by_value(stacked, low, high) - stacked)
    if read is not None:
        read[key] = values
    return values


def limits_of(parameter: zfit.Parameter) -> tuple[float, float]:
    """Of a parameter; infinite on a side without one."""
    low, high = parameter.lower, parameter.upper
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def is_inside(parameter: zfit.Parameter) -> bool:
    """Whether a parameter is not at one of its limits; as zfit's ``at_limit``, in a hundredth of the time."""
    if not parameter.has_limits:
        return True
    low, high = limits_of(parameter)
    margin = min(0.005 * (high - low), 1e-5)
    return low + margin < float(unclipped(parameter)) < high - margin


class NuisanceConstraint(BaseConstraint):
    r"""Unit-Gaussian constraint of any number of nuisances, :math:`\frac12 \sum_k (\nu_k - \nu_k^\mathrm{obs})^2`.

    The losses of this package make it themselves; give one explicitly to losses of zfit. One that is given is kept beside
    any other constraint.

    Args:
        nuisances: What to constrain; each one once.

    Raises:
        TypeError: If something else than a `Nuisance` is among them.
        ValueError: If there is none, or one appears twice.

    Example:
        >>> jes, jer = nuisance("jes"), nuisance("jer")
        >>> constraint = NuisanceConstraint([jes, jer])
        >>> _ = jes.observed.set_value(1.0)
        >>> float(constraint.value())
        0.5
    """

    def __init__(self, nuisances: Nuisance | Iterable[Nuisance]):
        if not isinstance(nuisances, Iterable) or isinstance(nuisances, (str, zfit.Parameter)):
            nuisances = [nuisances]
        self.nuisances: tuple[Nuisance, ...] = tuple(nuisances)
        if not self.nuisances:
            raise ValueError("a NuisanceConstraint needs at least one nuisance")
        for nu in self.nuisances:
            if not isinstance(nu, Nuisance):
                raise TypeError(f"NuisanceConstraint takes nuisances made by zfit_fnf.nuisance; got {nu!r}")
        if len(set(self.nuisances)) < len(self.nuisances):
            raise ValueError(f"a nuisance appears twice in {[nu.name for nu in self.nuisances]}")
        super().__init__(params={nu.name: nu for nu in self.nuisances}, name="NuisanceConstraint")

    @property
    def observed(self) -> tuple[zfit.Parameter, ...]:
        """The global observables, in the order of `nuisances`."""
        return tuple(nu.observed for nu in self.nuisances)

    def gradient(self) -> tf.Tensor:
        """Derivative with respect to each nuisance, ``nu - observed``, shape ``(K,)``; the Hessian is the identity."""
        values = tf.stack([unclipped(nu) for nu in self.nuisances])
        return values - tf.stack([unclipped(parameter) for parameter in self.observed])

    def _value(self) -> tf.Tensor:
        return 0.5 * tf.reduce_sum(tf.square(self.gradient()))

    def sample(self, n: int) -> dict[zfit.Parameter, tf.Tensor]:
        """Draw global observables around the current values of the nuisances, as a toy experiment does.

        Args:
            n: Number of toys.

        Returns:
            For every global observable ``(n,)`` values.
        """
        draws = zfit.z.random.normal((n, len(self.nuisances)))
        return {nu.observed: nu.value() + draws[:, k] for k, nu in enumerate(self.nuisances)}


@dataclass(frozen=True, eq=False)
class Modifier:
    """A factor on a yield that depends on one nuisance; made by `lnN` and `normsys`.

    Attributes:
        nuisance: The parameter it depends on.
        down: Factor at -1 standard deviation.
        up: Factor at +1 standard deviation.
        interpolation: ``"exponential"`` (lnN) or ``"code4"`` (normsys).

    Raises:
        TypeError: If the nuisance is no parameter.
        ValueError: If a factor is not positive and finite, or the interpolation is not known.
    """

    nuisance: zfit.Parameter
    down: float
    up: float
    interpolation: str

    def __post_init__(self) -> None:
        _check_parameter(self.nuisance, "a Modifier")
        _positive(self.down, f"down= of a Modifier of {self.nuisance.name}")
        _positive(self.up, f"up= of a Modifier of {self.nuisance.name}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation= is one of {list(_INTERPOLATIONS)}; got {self.interpolation!r}")


def lnN(nuisance: zfit.Parameter, kappa: float) -> Modifier:
    r"""Log-normal uncertainty of a yield: the factor :math:`\kappa^\nu`.

    Args:
        nuisance: The nuisance :math:`\nu`, in standard deviations.
        kappa: Factor at +1 standard deviation, e.g. 1.02 for 2 %.

    Raises:
        ValueError: If ``kappa`` is not positive.

    Example:
        >>> lumi = nuisance("lumi")
        >>> n_bkg = modified_yield(1000.0, [lnN(lumi, 1.02)])
    """
    _check_parameter(nuisance, "lnN(nuisance, kappa)")
    up = _positive(kappa, f"kappa of lnN({nuisance.name})")
    return Modifier(nuisance, 1.0 / up, up, "exponential")


def normsys(
    nuisance: zfit.Parameter, change: YieldRatio | None = None, *, down: float | None = None, up: float | None = None
) -> Modifier:
    """Asymmetric uncertainty of a yield with HistFactory's interpolation code 4.

    Exponential in the nuisance beyond one standard deviation, a polynomial of sixth order between that has the same
    value, slope and curvature at ±1, and is 1 at zero (CERN-OPEN-2012-016).

    Args:
        nuisance: The nuisance, in standard deviations.
        change: What a deformation learned from its variations, e.g. ``deformation.yields["jes"]``; or instead of it
        down: Factor at -1 standard deviation, and
        up: Factor at +1 standard deviation. A side that is missing is the inverse of the other.

    Raises:
        ValueError: If neither side is known, both ways are used, or a factor is not positive.

    Example:
        >>> jes = nuisance("jes")
        >>> n_sig = modified_yield(1000.0, [normsys(jes, down=0.95, up=1.06)])
    """
    _check_parameter(nuisance, "normsys(nuisance, down=..., up=...)")
    if change is not None:
        if not isinstance(change, YieldRatio):
            raise TypeError(
                f"normsys({nuisance.name}) takes a YieldRatio, e.g. deformation.yields[...], or down= and up=; got {change!r}"
            )
        if down is not None or up is not None:
            raise ValueError(f"normsys({nuisance.name}): give either a YieldRatio or down= and up=, not both")
        down, up = change.down, change.up
    known = {
        side: _positive(factor, f"{side}= of normsys({nuisance.name})")
        for side, factor in (("down", down), ("up", up))
        if factor is not None
    }
    if not known:
        raise ValueError(f"normsys({nuisance.name}) needs the factor on at least one side: down= or up=")
    mirrored = 1.0 / next(iter(known.values()))
    return Modifier(nuisance, known.get("down", mirrored), known.get("up", mirrored), "code4")


def modified_yield(
    nominal: float | zfit.Parameter, modifiers: Sequence[Modifier | zfit.Parameter], *, name: str | None = None
) -> zfit.ComposedParameter:
    r"""Expected number of events of a process, :math:`n(\theta) = N \prod_i \mu_i \prod_k \kappa_k(\nu_k)`.

    Args:
        nominal: Yield ``N`` of the simulation, at all nuisances zero and all factors one.
        modifiers: Parameters that multiply it (signal strengths), `lnN` and `normsys` modifiers; may be empty.
        name: Name of the yield; by default ``yield_<number>``.

    Returns:
        A parameter to pass as ``extended=``.

    Raises:
        TypeError: If a modifier is neither.
        ValueError: If two different parameters have the same name.

    Example:
        >>> mu, lumi, jes = zfit.Parameter("mu", 1.0, 0, 5), nuisance("lumi"), nuisance("jes")
        >>> n_sig = modified_yield(1000.0, [mu, lnN(lumi, 1.02), normsys(jes, down=0.95, up=1.06)])
        >>> float(n_sig.value())
        1000.0
    """
    if not isinstance(nominal, BaseParameter):
        nominal = number(nominal, "the nominal yield of modified_yield (a zfit.Parameter may be negative)", low=0.0)
    if isinstance(modifiers, (Modifier, BaseParameter)) or not isinstance(modifiers, Iterable):
        raise TypeError(f"modified_yield takes a list of modifiers, e.g. [lnN(lumi, 1.02)]; got {modifiers!r}")
    factors, modifiers = [nominal], list(modifiers)
    for modifier in modifiers:
        if isinstance(modifier, Nuisance) or not isinstance(modifier, (Modifier, BaseParameter)):
            raise TypeError(
                f"modified_yield multiplies parameters, lnN(...) and normsys(...); got {modifier!r}. "
                "A nuisance needs lnN or normsys around it; a constant factor belongs to the nominal yield"
            )
    factors += [m for m in modifiers if not isinstance(m, Modifier)]
    groups = [
        _product(kind, [m for m in modifiers if isinstance(m, Modifier) and m.interpolation == kind])
        for kind in _INTERPOLATIONS
    ]
    parameters = [f for f in factors if not isinstance(f, float)]
    parameters += [m.nuisance for m in modifiers if isinstance(m, Modifier)]

    def value(params: dict[str, zfit.Parameter]) -> tf.Tensor:
        product = tf.constant(1.0, tf.float64)
        for factor in factors:
            product *= factor if isinstance(factor, float) else params[factor.name].value()
        for group in groups:
            product *= group(params)
        return product

    return zfit.ComposedParameter(
        name or f"yield_{next(_yield_numbers)}", value, params=_by_name(parameters), unpack_params=False
    )


def interpolate_exponential(nu: tf.Tensor, down: np.ndarray, up: np.ndarray) -> tf.Tensor:
    """``up**nu`` above zero and ``down**-nu`` below (HistFactory's code 1), for vectors of nuisances and factors."""
    return tf.exp(nu * tf.where(nu >= 0, np.log(up), -np.log(down)))


def interpolate_code4(nu: tf.Tensor, down: np.ndarray, up: np.ndarray) -> tf.Tensor:
    """HistFactory's interpolation code 4 for vectors of nuisances and factors; see `normsys`."""
    outside = tf.where(tf.abs(nu) >= 1, nu, tf.sign(nu))
    inside = tf.clip_by_value(nu, -1.0, 1.0)
    polynomial = tf.zeros_like(nu)
    for coefficient in _code4_coefficients(down, up)[::-1]:
        polynomial = (polynomial + coefficient) * inside
    return tf.where(tf.abs(nu) >= 1, interpolate_exponential(outside, down, up), 1.0 + polynomial)


_INTERPOLATIONS: dict[str, Callable[[tf.Tensor, np.ndarray, np.ndarray], tf.Tensor]] = {
    "exponential": interpolate_exponential,
    "code4": interpolate_code4,
}


def _code4_coefficients(down: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Coefficients ``(6, K)`` of nu, ..., nu^6 that continue the exponentials with two derivatives at nu = ±1."""
    power = np.arange(1, 7)
    sign = (-1.0) ** power
    conditions = np.stack(
        [np.ones(6), sign, power, -sign * power, power * (power - 1), sign * power * (power - 1)], axis=0
    )
    log_up, log_down = np.log(up), np.log(down)
    values = [up - 1, down - 1, up * log_up, -down * log_down, up * log_up**2, down * log_down**2]
    return np.linalg.solve(conditions, np.stack(values))


def _product(kind: str, modifiers: Sequence[Modifier]) -> Callable[[dict[str, zfit.Parameter]], tf.Tensor]:
    """All modifiers of one kind in one vector operation: graphs of many nuisances stay small."""
    down, up = (np.array([getattr(m, side) for m in modifiers]) for side in ("down", "up"))
    interpolate = _INTERPOLATIONS[kind]

    def product(params: dict[str, zfit.Parameter]) -> tf.Tensor:
        if not modifiers:
            return tf.constant(1.0, tf.float64)
        nu = values_of([params[m.nuisance.name] for m in modifiers])
        return tf.reduce_prod(interpolate(nu, down, up))

    return product


def _check_parameter(nuisance: Any, what: str) -> None:
    if not isinstance(nuisance, BaseParameter):
        raise TypeError(f"{what} needs a parameter as its nuisance, e.g. from zfit_fnf.nuisance(...); got {nuisance!r}")


def _positive(factor: float, what: str) -> float:
    return number(factor, f"{what}, a ratio of yields, e.g. 1.02 for 2 %,", above=0.0)


def _by_name(parameters: Iterable[zfit.Parameter]) -> dict[str, zfit.Parameter]:
    named: dict[str, zfit.Parameter] = {}
    for parameter in parameters:
        if named.setdefault(parameter.name, parameter) is not parameter:
            raise ValueError(f"two different parameters of this yield are called {parameter.name!r}; make one of them")
    return named

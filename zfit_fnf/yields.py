r"""Yields: expected numbers of events, made of a nominal one and of modifiers, such as lnN and normsys.

To add a modifier, write a class with the three members of `Modifier`, and give objects of it to `modified_yield`:

    >>> @dataclass(frozen=True, eq=False)
    ... class Linear:
    ...     nuisance: zfit.Parameter
    ...     slope: float
    ...
    ...     @property
    ...     def params(self):
    ...         return (self.nuisance,)
    ...
    ...     def __call__(self, nu):
    ...         return 1.0 + self.slope * nu
    ...
    ...     def to_dict(self):
    ...         return {"type": "linear", "nuisance": self.nuisance.name, "slope": self.slope}
    >>> n_bkg = modified_yield(1000.0, [Linear(jes, 0.02)])
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from .common.checks import number
from .common.warning import warn
from .densities.deformation import YieldRatio
from .param import Nuisance, values_of

__all__ = [
    "InterpolatedModifier",
    "ModifiedYield",
    "Modifier",
    "interpolate_code4",
    "interpolate_exponential",
    "lnN",
    "modified_yield",
    "normsys",
]

_RELATIVE = 0.4  # a kappa below it is rather a relative uncertainty by mistake

Factor = Callable[[Mapping[str, zfit.Parameter]], tf.Tensor]

_yield_numbers = itertools.count()


@runtime_checkable
class Modifier(Protocol):
    """A factor on a yield that depends on parameters."""

    @property
    def params(self) -> tuple[zfit.Parameter, ...]:
        """The parameters it depends on."""

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        """The factor, a scalar, at values of its parameters (float64 scalars)."""

    def to_dict(self) -> dict[str, Any]:
        """What it is, for JSON: its ``type``, names of parameters and numbers."""


@dataclass(frozen=True, eq=False)
class InterpolatedModifier:
    """A factor on a yield that is known at one standard deviation of a nuisance; made by `lnN` and `normsys`.

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
        _check_parameter(self.nuisance, "an InterpolatedModifier")
        _positive(self.down, f"down= of a modifier of {self.nuisance.name}")
        _positive(self.up, f"up= of a modifier of {self.nuisance.name}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation= is one of {list(_INTERPOLATIONS)}; got {self.interpolation!r}")

    @property
    def params(self) -> tuple[zfit.Parameter, ...]:
        """The nuisance."""
        return (self.nuisance,)

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        """The factor at a value of the nuisance."""
        nu = tf.reshape(tf.convert_to_tensor(values, tf.float64), (1,))
        return _INTERPOLATIONS[self.interpolation](nu, np.array([self.down]), np.array([self.up]))[0]

    def to_dict(self) -> dict[str, Any]:
        """Its ``type``, the ``nuisance`` by name, and the factors ``down`` and ``up``."""
        kind = {"exponential": "lnN", "code4": "normsys"}[self.interpolation]
        return {"type": kind, "nuisance": self.nuisance.name, "down": self.down, "up": self.up}


def lnN(nuisance: zfit.Parameter, kappa: float) -> InterpolatedModifier:
    r"""Log-normal uncertainty of a yield: the factor :math:`\kappa^\nu`.

    Args:
        nuisance: The nuisance :math:`\nu`, in standard deviations.
        kappa: Factor at +1 standard deviation, e.g. 1.02 for 2 %.

    Raises:
        ValueError: If ``kappa`` is not positive.

    Warns:
        UserWarning: If ``kappa`` is below 0.4, as relative uncertainties are.

    Example:
        >>> lumi = nuisance("lumi")
        >>> n_bkg = modified_yield(1000.0, [lnN(lumi, 1.02)])
    """
    _check_parameter(nuisance, "lnN(nuisance, kappa)")
    up = _positive(kappa, f"kappa of lnN({nuisance.name})")
    if up < _RELATIVE:
        warn(
            f"lnN({nuisance.name}, {up:g}) divides the yield by {1.0 / up:.3g} at one standard deviation: kappa is a factor, and "
            f"for {100 * up:.3g} % it is {1.0 + up:g}"
        )
    return InterpolatedModifier(nuisance, 1.0 / up, up, "exponential")


def normsys(
    nuisance: zfit.Parameter, change: YieldRatio | None = None, *, down: float | None = None, up: float | None = None
) -> InterpolatedModifier:
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
    return InterpolatedModifier(nuisance, known.get("down", mirrored), known.get("up", mirrored), "code4")


def modified_yield(
    nominal: float | zfit.Parameter, modifiers: Sequence[Modifier | zfit.Parameter], *, name: str | None = None
) -> ModifiedYield:
    r"""Expected number of events of a process, :math:`n(\theta) = N \prod_i \mu_i \prod_k \kappa_k(\nu_k)`.

    Args:
        nominal: Yield ``N`` of the simulation, at all nuisances zero and all factors one.
        modifiers: Parameters that multiply it (signal strengths), `lnN` and `normsys`, or any other `Modifier`; may be
            empty.
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
    return ModifiedYield(nominal, list(map(_checked, modifiers)), name or f"yield_{next(_yield_numbers)}")


class ModifiedYield(zfit.ComposedParameter):
    """A yield with its modifiers, made by `modified_yield`.

    Attributes:
        nominal: The nominal yield, a number or a parameter.
        modifiers: Parameters and `Modifier` objects that multiply it.
    """

    def __init__(
        self, nominal: float | zfit.Parameter, modifiers: Sequence[Modifier | zfit.Parameter], name: str
    ) -> None:
        self.nominal, self.modifiers = nominal, tuple(modifiers)
        strengths = [one for one in (nominal, *modifiers) if isinstance(one, BaseParameter)]
        factors: list[Factor] = [functools.partial(_strength, one) for one in strengths]
        alike: dict[str, list[InterpolatedModifier]] = {kind: [] for kind in _INTERPOLATIONS}
        others: list[Modifier] = []
        for modifier in modifiers:
            if isinstance(modifier, InterpolatedModifier):
                alike[modifier.interpolation].append(modifier)
            elif not isinstance(modifier, BaseParameter):
                others.append(modifier)
        factors += [_product(kind, group) for kind, group in alike.items() if group]
        factors += [functools.partial(_factor, modifier) for modifier in others]
        constant = 1.0 if isinstance(nominal, BaseParameter) else nominal

        def value(params: Mapping[str, zfit.Parameter]) -> tf.Tensor:
            product = tf.constant(constant, tf.float64)
            for factor in factors:
                product *= factor(params)
            return product

        dependents = [p for m in modifiers if not isinstance(m, BaseParameter) for p in m.params]
        super().__init__(name, value, params=_by_name([*strengths, *dependents]), unpack_params=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(modified_yield, name=self.name), (self.nominal, list(self.modifiers))

    def to_dict(self) -> dict[str, Any]:
        """The ``name``, the ``nominal`` yield and the ``modifiers``, for JSON; parameters by their names."""
        nominal = self.nominal.name if isinstance(self.nominal, BaseParameter) else self.nominal
        modifiers = [
            {"type": "parameter", "name": one.name} if isinstance(one, BaseParameter) else one.to_dict()
            for one in self.modifiers
        ]
        return {"name": self.name, "nominal": nominal, "modifiers": modifiers}


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


def _strength(own: BaseParameter, params: Mapping[str, zfit.Parameter]) -> tf.Tensor:
    return params[own.name].value()


def _factor(modifier: Modifier, params: Mapping[str, zfit.Parameter]) -> tf.Tensor:
    return modifier(*(params[own.name].value() for own in modifier.params))


def _product(kind: str, modifiers: Sequence[InterpolatedModifier]) -> Factor:
    """All modifiers of one kind in one vector operation: graphs of many nuisances stay small."""
    down, up = (np.array([getattr(m, side) for m in modifiers]) for side in ("down", "up"))

    def product(params: Mapping[str, zfit.Parameter]) -> tf.Tensor:
        return tf.reduce_prod(_INTERPOLATIONS[kind](values_of([params[m.nuisance.name] for m in modifiers]), down, up))

    return product


def _checked(modifier: Any) -> Modifier | zfit.Parameter:
    if isinstance(modifier, Nuisance) or not isinstance(modifier, (Modifier, BaseParameter)):
        raise TypeError(
            f"modified_yield multiplies parameters, lnN(...) and normsys(...); got {modifier!r}. "
            "A nuisance needs lnN or normsys around it; a constant factor belongs to the nominal yield"
        )
    return modifier


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

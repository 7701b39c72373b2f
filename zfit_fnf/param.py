r"""Nuisance parameters, and the auxiliary measurements that constrain them.

A nuisance counts standard deviations of an auxiliary measurement: the likelihood contains, for each one, the factor
``exp(-(nu - observed)^2 / 2)``. The losses of :mod:`zfit_fnf.loss` add that factor by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.constraint import BaseConstraint, ProbabilityConstraint
from zfit.core.parameter import BaseParameter

__all__ = [
    "AuxiliaryMeasurement",
    "Nuisance",
    "NuisanceConstraint",
    "auxiliary_measurement",
    "axis_title",
    "is_inside",
    "limits_of",
    "nuisance",
    "principal_shifts",
    "read_once",
    "scalar_of",
    "unclipped",
    "values_of",
]


class Nuisance(zfit.Parameter):
    """Nuisance parameter in units of its prior standard deviation, with a unit-Gaussian auxiliary measurement.

    A `zfit.Parameter` that starts at zero, made by `nuisance`. Losses recognise it and constrain it, once, whatever they are
    added to.
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
        state = (self.name, self.label, float(self.value()), self.lower, self.upper, self.stepsize, self.floating)
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


def axis_title(parameter: zfit.Parameter) -> str:
    """Label of a parameter for an axis: nuisances are in units of their standard deviation.

    Args:
        parameter: The parameter.
    """
    label = str(parameter.label or parameter.name)
    return rf"{label} [$\sigma$]" if isinstance(parameter, Nuisance) else label


def unclipped(parameter: zfit.Parameter) -> tf.Tensor:
    """The value, also outside of the limits, where ``value()`` stays at the edge, and in a tenth of its time."""
    return super(zfit.Parameter, parameter).value()


def scalar_of(parameter: BaseParameter) -> tf.Tensor:
    """The value, a scalar: yields of some PDFs of zfit, such as its `TruncatedPDF`, are vectors of one."""
    return tf.reshape(parameter.value(), ())


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


LINEAR = 0.05
"""Part of a standard deviation over which expected events are straight, and further apart than float32 rounds."""


def principal_shifts(
    function: Callable[[np.ndarray], np.ndarray],
    params: Sequence[zfit.Parameter],
    values: np.ndarray,
    covariance: np.ndarray,
    *,
    part: float = 1.0,
) -> np.ndarray:
    """Changes of a function by a standard deviation along each axis of a correlation; squared, they sum to its variance.

    Half the difference between both ends of an axis, ``(K, n)``, or of a part of it, scaled: as much as limits have room for.

    Args:
        function: Gives numbers ``(n,)`` at values ``(P,)``.
        params: The parameters.
        values: Theirs ``(P,)``, around which it is.
        covariance: Theirs ``(P, P)``.
        part: Largest part of an axis. With `LINEAR` shifts are derivatives, of which those of correlated parameters cancel as
            they should: of a yield that is a product of two numbers, the data know the product.
    """

    def shift(step: np.ndarray) -> np.ndarray:
        near = min(part, _room_for(params, values, step))
        return (function(values + near * step) - function(values - near * step)) / (2.0 * near)

    # In units of their errors: rounding of the largest variance must not be more than the smallest one is.
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    units = np.where(errors > 0, errors, 1.0)
    variances, directions = np.linalg.eigh(covariance / np.outer(units, units))
    steps = (units[:, None] * directions * np.sqrt(np.maximum(variances, 0.0))).T
    return np.array([shift(step) for step in steps if step.any()] or [0.0 * function(values)])


def _room_for(params: Sequence[zfit.Parameter], values: Iterable[float], step: Iterable[float]) -> float:
    """The part of a step, at most all of it, that parameters can take to both sides without leaving their limits."""
    parts = [1.0]
    for parameter, value, one in zip(params, values, step, strict=True):
        low, high = limits_of(parameter)
        parts += [min(high - value, value - low) / abs(one)] if one else []
    return max(min(parts), 1e-4)  # at a limit itself there is no error


def is_inside(parameter: zfit.Parameter) -> bool:
    """Whether a parameter is not at one of its limits; as zfit's ``at_limit``, in a hundredth of the time."""
    if not parameter.has_limits:
        return True
    low, high = limits_of(parameter)
    margin = min(0.005 * (high - low), 1e-5)
    return low + margin < float(unclipped(parameter)) < high - margin


@runtime_checkable
class AuxiliaryMeasurement(Protocol):
    """The measurement of parameters that a constraint stands for; its outcome are the global observables.

    A constraint with these members can be part of pseudo-experiments; `auxiliary_measurement` gives them to those of zfit. One
    with a ``covariance`` ``(K, K)`` of the parameters also enters impacts and pre-fit errors. Where outcomes are no values of
    the parameters, such as counts, ``estimates()`` are those that they say, and ``spread()`` are their own standard deviations.
    """

    @property
    def measured(self) -> tuple[zfit.Parameter, ...]:
        """The parameters that are measured."""

    @property
    def observed(self) -> tuple[Any, ...]:
        """The global observables in the same order, fixed parameters; or numbers, where the outcome cannot be another one."""

    def expected_outcome(self) -> np.ndarray:
        """The outcome that is expected at the current values of the parameters, ``(K,)``."""

    def draw_outcome(self, rng: np.random.Generator) -> np.ndarray:
        """An outcome ``(K,)`` of one experiment at the current values of the parameters."""


def auxiliary_measurement(constraint: BaseConstraint) -> AuxiliaryMeasurement:
    """The measurement behind a constraint, of this package or of zfit.

    Args:
        constraint: The constraint. The outcome of one of zfit can be moved if it is a Gaussian with a parameter as its
            ``observation=``; others raise a `ValueError` when they are asked for another outcome.
    """
    return constraint if isinstance(constraint, AuxiliaryMeasurement) else _MeasurementOfZfit(constraint)


class _MeasurementOfZfit:
    def __init__(self, constraint: BaseConstraint):
        self._constraint = constraint
        is_measurement = isinstance(constraint, ProbabilityConstraint)
        self.observed = tuple(constraint.observation) if is_measurement else ()
        self.measured = tuple(constraint.params[f"param_{k}"] for k in range(len(self.observed)))

    def estimates(self) -> np.ndarray:
        """Values of the parameters ``(K,)`` where the constraint is least."""
        if isinstance(self._constraint, zfit.constraint.LogNormalConstraint):  # its outcome is a logarithm
            return np.asarray(self._constraint.distribution.mode(), float).reshape(-1)
        return np.array([float(zfit.param.convert_to_parameter(one).value()) for one in self.observed])

    def expected_outcome(self) -> np.ndarray:
        is_gaussian = isinstance(self._constraint, zfit.constraint.GaussianConstraint)
        if not is_gaussian or not all(isinstance(one, zfit.Parameter) for one in self.observed):
            names = sorted(parameter.name for parameter in self._constraint.get_params(floating=None))
            raise ValueError(
                "pseudo-experiments must move the outcome of the auxiliary measurement behind each constraint, but that of "
                f"{type(self._constraint).__name__} on {names} is fixed. Use zfit_fnf.nuisance, or a GaussianConstraint of "
                "zfit with observation=zfit.Parameter(..., floating=False)"
            )
        return np.array([float(parameter.value()) for parameter in self.measured])

    def draw_outcome(self, rng: np.random.Generator) -> np.ndarray:
        return rng.multivariate_normal(self.expected_outcome(), np.asarray(self._constraint.covariance))


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
        if isinstance(nuisances, (str, zfit.Parameter)) or not isinstance(nuisances, Iterable):
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
    def measured(self) -> tuple[Nuisance, ...]:
        """The nuisances."""
        return self.nuisances

    @property
    def observed(self) -> tuple[zfit.Parameter, ...]:
        """The global observables, in the order of `nuisances`."""
        return tuple(nu.observed for nu in self.nuisances)

    @property
    def covariance(self) -> np.ndarray:
        """Of the outcomes ``(K, K)``."""
        return np.eye(len(self.nuisances))

    def expected_outcome(self) -> np.ndarray:
        """The values of the nuisances ``(K,)``."""
        return np.array([float(nu.value()) for nu in self.nuisances])

    def draw_outcome(self, rng: np.random.Generator) -> np.ndarray:
        """Global observables ``(K,)`` of one experiment, around the values of the nuisances."""
        return rng.multivariate_normal(self.expected_outcome(), self.covariance)

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

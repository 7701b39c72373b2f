r"""Fast evaluation of likelihoods: the same minimum, by Taylor polynomials of every event that are kept honest.

A fit evaluates the likelihood at many points close to each other. Around one of them, the *centre*, a deformation moves
an event by a small shift in its standardised coordinates, and the nominal density is replaced by its Taylor polynomial in
that shift (:mod:`zfit_fnf.expansion`). The shift itself is exact: it is a contraction of the coefficients of the
deformation, computed once per data set. The cost hardly depends on the number of nuisances, and yields, sums of
processes, constraints and densities that cannot be expanded are what they are in the exact likelihood.

The error is controlled in three ways, whatever minimiser is at work:

1. Every evaluation adds up the terms of the highest degree times the size of the shift, which bounds the first neglected
   terms. Where that exceeds what matters there, the polynomials move to a new centre or the exact likelihood answers.
2. When the minimiser is about to stop, the exact gradient is computed at that point and compared. If the expected
   vertical distance between the two minima is too large, the centre moves there and the minimiser goes on.
3. When the fit is done, the exact likelihood has been evaluated at its end. If it disagrees, an error says so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from .expansion import expand, expansion_order, polynomial
from .flows import Density
from .loss import (
    EventKernel,
    Events,
    ExtendedUnbinnedNLL,
    LearnedLoss,
    Parameters,
    UnbinnedNLL,
    constraint_kernel,
    data_version,
    kept_by,
    same_version,
    select,
    total_hessian,
    vector,
)
from .nets import PerArchitecture
from .pdf import FNFPDF, ConditionalProductPDF, SumPDF, _columns, components, log_density, prepare

SMALL_CHUNK, CHUNK = 4096, 16384
"""Events per call of the compiled code, for small and for large data sets."""

TOLERANCE = 0.01
"""Error of the negative log-likelihood that is tolerated near the minimum."""

_GROWTH = 5.0  # of the derivatives from one order to the next: densities vary over a fraction of their overall width
_RELATIVE = 0.02  # error that is tolerated further away, relative to the decrease that is still expected
_RELATIVE_CHANGE = 0.1  # relative to the change from the lowest value so far
_ALMOST_THERE = 1e-3  # expected vertical distance to the minimum at which the exact gradient is asked for
_NEAR = 0.1  # the same, where a fit has ended
_EDM = 1e-3  # largest expected vertical distance between the minima of the exact and the accelerated likelihood
_STRAYS = 3  # values in a row that the polynomials cannot give, before their centre moves


class AccelerationError(RuntimeError):
    """The accelerated likelihood does not agree with the exact one."""


@dataclass(frozen=True)
class AccelerationReport:
    """What an accelerated likelihood did; prints as a table.

    Attributes:
        methods: How the events of each density are evaluated, by its name.
        n_expansions: How often the polynomials were made.
        n_exact: Evaluations of the exact likelihood, those of its gradient included.
        exact_edm: Expected vertical distance to the minimum from the exact gradient, where it was last asked for; not a
            number before.
        value_difference: Difference of the exact and the accelerated negative log-likelihood there.
    """

    methods: dict[str, str]
    n_expansions: int = 0
    n_exact: int = 0
    exact_edm: float = float("nan")
    value_difference: float = float("nan")

    def __str__(self) -> str:
        width = max(map(len, self.methods))
        return "\n".join(
            [
                f"{self.n_expansions} expansions, {self.n_exact} exact evaluations; last check: exact EDM "
                f"{self.exact_edm:.2g}, difference of the NLL {self.value_difference:.2g}",
                *(f"  {name:<{width}}  {method}" for name, method in self.methods.items()),
            ]
        )


def accelerate(nll: UnbinnedNLL | ExtendedUnbinnedNLL) -> AcceleratedNLL:
    """A likelihood with the same parameters, minimum and interface, whose evaluations are much cheaper.

    Use it in place of ``nll`` wherever a likelihood is evaluated many times: fits, MINOS, scans, limits, toys. The result
    is that of ``nll``: while a fit goes on the accelerated likelihood compares itself with the exact one, see
    :mod:`zfit_fnf.acceleration`.

    Args:
        nll: A loss of :mod:`zfit_fnf.loss`; it is not changed.

    Returns:
        The loss, of the kind (extended or not) of ``nll``. Its ``report`` tells what was done.

    Raises:
        TypeError: If ``nll`` is another loss.
        AccelerationError: From a fit, if the exact likelihood does not confirm its minimum.

    Example:
        >>> fast = accelerate(nll)
        >>> result = zfit.minimize.Minuit(gradient="zfit", mode=0).minimize(fast)
        >>> print(fast.report)
    """
    if isinstance(nll, AcceleratedNLL):
        return nll
    kinds = {UnbinnedNLL: AcceleratedUnbinnedNLL, ExtendedUnbinnedNLL: AcceleratedExtendedUnbinnedNLL}
    if type(nll) not in kinds:
        raise TypeError(
            f"accelerate takes losses of zfit_fnf.loss, UnbinnedNLL or ExtendedUnbinnedNLL; got {type(nll).__name__}"
        )
    return kinds[type(nll)](nll.model, nll.data, constraints=nll.constraints)


# --- densities, expanded around the current values of their parameters ------------------------------------------------


@functools.singledispatch
def gathered(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What depends on the events ``(n, n_obs)`` alone: a nest of tensors. By default what the exact density needs."""
    return prepare(pdf, x)


@functools.singledispatch
def expanded(pdf: zfit.pdf.BasePDF, data: Any) -> Any:
    """Gathered events, expanded around the current parameters; by default they stay as they are."""
    del pdf
    return data


@functools.singledispatch
def log_expanded(pdf: zfit.pdf.BasePDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` float64 of expanded events, and the size of the terms that are neglected."""
    value = log_density(pdf, nest)
    return value, tf.zeros_like(value)


@functools.singledispatch
def method(pdf: zfit.pdf.BasePDF) -> str:
    """How `log_expanded` evaluates a density, in words."""
    return "exact" if pdf.get_params(floating=None, is_yield=False) else "constant"


# A factorizable normalizing flow with one layer: the shift of an event is a contraction of its coefficients.


def _is_stacked(pdf: FNFPDF) -> bool:
    return pdf.deformation.n_layers > 1


@gathered.register
def _(pdf: FNFPDF, x: tf.Tensor) -> Any:
    if _is_stacked(pdf):
        return prepare(pdf, x)
    u, c, log_jacobian = pdf._encode(x)
    single = tf.cast(u, tf.float32), tf.cast(c, tf.float32)
    coefficients = tf.concat([_coefficients(response, *single) for response in pdf.deformation.responses], axis=0)
    return u, c, log_jacobian, coefficients


@expanded.register
def _(pdf: FNFPDF, data: Any) -> Any:
    if _is_stacked(pdf):
        return data
    u, c, log_jacobian, coefficients = data
    centre = pdf.deformation.basis(pdf._nu())
    log_scale, shift = tf.unstack(tf.einsum("mkjn,m->kjn", tf.cast(coefficients, tf.float64), centre))
    scaled = tf.transpose(u) * tf.exp(log_scale)
    log_density, polynomial = _expand_in_pieces(pdf.deformation.flow.density, tf.transpose(scaled + shift), c)
    return {
        "centre": centre,
        "coefficients": tf.reshape(coefficients, (coefficients.shape[0], -1)),
        "scaled": tf.cast(scaled, tf.float32),
        "polynomial": polynomial,
        "log_density": log_density + log_jacobian + tf.reduce_sum(log_scale, axis=0),
    }


@log_expanded.register
def _(pdf: FNFPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    if _is_stacked(pdf):
        return log_expanded.dispatch(object)(pdf, nest)
    deformation = pdf.deformation
    # Differences to the centre are small: float32 resolves them better than anybody asks for.
    basis = tf.cast(deformation.basis(pdf._nu()) - nest["centre"], tf.float32)
    change = tf.reshape(basis[None, :] @ nest["coefficients"], (2, *nest["scaled"].shape))
    delta = tf.unstack(nest["scaled"] * tf.math.expm1(change[0]) + change[1])
    rise, highest = polynomial(nest["polynomial"], delta, expansion_order(deformation.flow.density))
    neglected = _GROWTH * highest * tf.add_n([tf.abs(shift) for shift in delta])
    value = nest["log_density"] + tf.cast(rise + tf.reduce_sum(change[0], axis=0), tf.float64)
    return value - pdf._log_integral(pdf.norm), tf.cast(neglected, tf.float64)


@method.register
def _(pdf: FNFPDF) -> str:
    if _is_stacked(pdf):
        return "exact (stacked layers)"
    return f"polynomial of order {expansion_order(pdf.deformation.flow.density)} in the shift"


_coefficients = PerArchitecture(lambda response, u, c: tf.transpose(response.coefficients(u, c), (1, 3, 2, 0)))


@PerArchitecture
def _expand(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` in float64, and the other Taylor coefficients ``(T - 1, n)`` in float32."""
    single = tf.cast(u, tf.float32), tf.cast(c, tf.float32)
    return density.log_density(u, c), expand(density, single[0], density.given(single[1]))[1:]


def _expand_in_pieces(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_expand`, of as many events at once as the caches of a processor hold."""
    starts = range(0, u.shape[0], SMALL_CHUNK)
    pieces = [_expand(density, u[start : start + SMALL_CHUNK], c[start : start + SMALL_CHUNK]) for start in starts]
    values, polynomials = zip(*pieces, strict=True)
    return tf.concat(values, axis=0), tf.concat(polynomials, axis=1)


# Sums and products of densities.


@gathered.register(SumPDF)
@gathered.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, x: tf.Tensor) -> Any:
    return [gathered(part, _columns(x, pdf.obs, part.obs)) for part in pdf.pdfs]


@expanded.register(SumPDF)
@expanded.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, data: Any) -> Any:
    return [expanded(part, events) for part, events in zip(pdf.pdfs, data, strict=True)]


@log_expanded.register
def _(pdf: SumPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    values, neglected = _of_parts(pdf, nest)
    total, weights = pdf.mix(values), pdf.weights()
    shares = tf.exp(tf.stack(values, axis=-1) - total[:, None]) * (weights / tf.reduce_sum(weights))
    return total, tf.reduce_sum(shares * tf.stack(neglected, axis=-1), axis=-1)


@log_expanded.register
def _(pdf: ConditionalProductPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    values, neglected = _of_parts(pdf, nest)
    return tf.add_n(values), tf.add_n(neglected)


def _of_parts(pdf: Any, nest: Any) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
    results = [log_expanded(part, events) for part, events in zip(pdf.pdfs, nest, strict=True)]
    values, neglected = zip(*results, strict=True)
    return values, neglected


class ExpandedKernel(EventKernel):
    """As `EventKernel`, of expanded events. Its value is ``(3,)``: the sum, the neglected terms, and their squares."""

    def __init__(self, model: zfit.pdf.BasePDF):
        super().__init__(model)
        self._log_density = lambda nest: log_expanded(model, nest)[0]
        self._log_expanded = functools.partial(log_expanded, model)
        self.prepare = functools.partial(gathered, model)

    def chunk_size(self, n_events: int) -> int:
        """Events per call for a data set of a size: calls are costly, and so are events that fill the last one."""
        return SMALL_CHUNK if n_events <= 2 * SMALL_CHUNK else CHUNK

    def _sum(self, nest: Any, weights: tf.Tensor) -> tf.Tensor:
        value, neglected = self._log_expanded(nest)
        neglected = weights * neglected
        return -tf.stack([tf.reduce_sum(weights * value), tf.reduce_sum(neglected), -tf.reduce_sum(neglected**2)])

    def _value_gradient(self, *args: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.params)
            sums = self._sum(*args)
            value = sums[0]
        return sums, vector(tape.gradient(value, self.params, unconnected_gradients=tf.UnconnectedGradients.ZERO))


class ExpandedEvents:
    """A data set in chunks, expanded around the current parameters.

    Args:
        model: The density.
        events: The chunks, gathered.
    """

    def __init__(self, model: zfit.pdf.BasePDF, events: Events):
        self.sum_weights, self.sum_weights2 = events.sum_weights, events.sum_weights2
        self._chunks = [(expanded(model, data), weights) for data, weights in events]

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        return iter(self._chunks)


# --- the likelihood ---------------------------------------------------------------------------------------------------


class AcceleratedNLL(LearnedLoss):
    """What accelerated likelihoods share, made by `accelerate`.

    Attributes:
        report: What was done so far, an `AccelerationReport`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._exact = self._exact_kind(self.model, self.data, constraints=self.constraints)
        named = {pdf.name: method(pdf) for model in self.model for pdf in components(model) if not hasattr(pdf, "pdfs")}
        self.report = AccelerationReport(named)
        self._versions: list[Any] | None = None
        self._expanded: list[ExpandedEvents | None] = [None] * len(self.model)
        self._confirmed: np.ndarray | None = None
        self._scores: np.ndarray | None = None
        self._lowest, self._remaining, self._strays = np.inf, np.inf, 0

    # --- evaluations --------------------------------------------------------------------------------------------------

    def _call_value(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        del args, kwargs
        if not tf.executing_eagerly():
            return self._approximate()[0]
        self._follow_data()
        value, error = self._approximate()
        decrease = self._remaining if np.isfinite(self._remaining) else 0.0
        if not error <= max(TOLERANCE, _RELATIVE * decrease, _RELATIVE_CHANGE * abs(float(value) - self._lowest)):
            self._strays += 1
            if self._strays <= _STRAYS:
                return self._exact_value_gradient([])[0]
            value, _ = self._move_centre()
        self._strays, self._lowest = 0, min(self._lowest, float(value))
        return value

    def _call_value_gradient(
        self, params: Parameters, numgrad: Any = None, full: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del numgrad, full
        params = list(self._input_check_params(params, only_independent=True))
        if not tf.executing_eagerly():
            value, gradient, _ = self._approximate_gradient(params)
            return value, gradient
        self._follow_data()
        value, gradient, error = self._approximate_gradient(params)
        # Where the polynomials fail their gradient is large: it must not be what excuses them.
        remaining = min(self._remaining, self._distance(gradient, params))
        if not error <= max(TOLERANCE, _RELATIVE * remaining):
            self._move_centre()
            value, gradient, _ = self._approximate_gradient(params)
            remaining = self._distance(gradient, params)
        self._remaining = remaining
        if self._remaining < _ALMOST_THERE and not self._is_confirmed():
            value, gradient = self._confirm(value, gradient, params)
        self._lowest, self._strays = min(self._lowest, float(value)), 0
        return value, gradient

    def _call_hessian(self, params: Parameters, numgrad: Any = None, hessian: str | None = None) -> tf.Tensor:
        if tf.executing_eagerly():
            self._follow_data()
            if not self._approximate()[1] <= TOLERANCE:
                self._move_centre()
        return super()._call_hessian(params, numgrad, hessian)

    def value(self, *, params: Any = None, full: bool | None = None) -> tf.Tensor:
        """As that of the exact likelihood; where a fit has ended it also compares the two.

        Args:
            params: Values of parameters, by name; those left out have their current values.
            full: ``False`` for a value alone; otherwise the minimum that a fit has found is confirmed, if it was not yet.

        Returns:
            Scalar, float64.

        Raises:
            AccelerationError: If the exact likelihood is not at a minimum where the accelerated one is.
        """
        result = super().value(params=params, full=full)
        if full is not False and params is None and tf.executing_eagerly():
            floating = list(self.get_params())
            value, gradient = self._call_value_gradient(floating)
            if self._remaining < _NEAR and not self._is_confirmed():
                self._confirm(value, gradient, floating)
        return result

    def _approximate(self) -> tuple[tf.Tensor, float]:
        totals = [tf.add_n([kernel.value(*arguments) for arguments in calls]) for kernel, calls in self._terms()]
        return _add_sums(totals)

    def _approximate_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor, float]:
        totals, gradients = [], []
        for kernel, calls in self._terms():
            results = [kernel.value_gradient(*arguments) for arguments in calls]
            totals.append(tf.add_n([total for total, _ in results]))
            gradients.append(select(tf.add_n([gradient for _, gradient in results]), kernel.params, params))
        value, error = _add_sums(totals)
        return value, tf.add_n(gradients), error

    def _exact_value_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        self.report = replace(self.report, n_exact=self.report.n_exact + 1)
        # The value alone is cheaper, but it would be one more program to compile.
        return self._exact._call_value_gradient(params or list(self.get_params()))

    # --- the centre ---------------------------------------------------------------------------------------------------

    def _follow_data(self) -> None:
        versions = [data_version(data) for data in self.data]
        if self._versions is None or not all(map(same_version, self._versions, versions)):
            self._versions, self._scores = versions, None
            self._lowest, self._remaining = np.inf, np.inf
            self._move_centre()

    def _move_centre(self) -> tuple[tf.Tensor, float]:
        """Expand all events around the current values of the parameters."""
        self._expanded, self._confirmed = [None] * len(self.model), None
        self.report = replace(self.report, n_expansions=self.report.n_expansions + 1)
        return self._approximate()

    # --- control ------------------------------------------------------------------------------------------------------

    def _confirm(self, value: tf.Tensor, gradient: tf.Tensor, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """Compare with the exact likelihood, and move the centre if they differ."""
        exact_value, exact_gradient = self._exact_value_gradient(params)
        for last in (False, True):
            distance = self._distance(exact_gradient - gradient, params)
            difference = float(exact_value - value)
            if distance <= _EDM and abs(difference) <= TOLERANCE:
                break
            if last:
                raise AccelerationError(
                    f"the accelerated likelihood differs from the exact one by {difference:.3g} and their minima by an "
                    f"EDM of {distance:.3g}, although its polynomials were made here: fit the exact likelihood instead"
                )
            self._move_centre()
            value, gradient, _ = self._approximate_gradient(params)
        self._confirmed = self._point()
        self.report = replace(
            self.report, exact_edm=self._distance(exact_gradient, params), value_difference=difference
        )
        return value, gradient

    def _is_confirmed(self) -> bool:
        """Whether the exact likelihood was asked within a standard deviation, since the centre has moved."""
        if self._confirmed is None:
            return False
        moved = self._point() - self._confirmed
        return bool(moved @ self._information(self._all()) @ moved < 1.0)

    def _distance(self, gradient: tf.Tensor, params: Parameters) -> float:
        """Expected vertical distance to the minimum, from a gradient."""
        g = np.asarray(gradient)
        return float(0.5 * g @ np.linalg.lstsq(self._information(params), g, rcond=None)[0])

    def _information(self, params: Parameters) -> np.ndarray:
        """Covariance of the score, which unlike the Hessian is positive anywhere, plus that of the constraints."""
        every = self._all()
        if self._scores is None:
            constraints = [total_hessian(constraint_kernel(c), [()], every) for c in self.constraints]
            self._scores = self._score_covariance(every) + sum(np.asarray(matrix) for matrix in constraints)
        rows = [every.index(parameter) for parameter in params]
        return self._scores[np.ix_(rows, rows)]

    def _all(self) -> list[zfit.Parameter]:
        return list(self.get_params(floating=None))

    def _point(self) -> np.ndarray:
        return np.array([float(parameter.value()) for parameter in self._all()])

    # --- hooks of the exact likelihood --------------------------------------------------------------------------------

    @staticmethod
    def _event_kernel(model: zfit.pdf.BasePDF) -> EventKernel:
        return kept_by(model, "expanded", lambda: ExpandedKernel(model))

    def _prepared(self, index: int) -> ExpandedEvents:
        if self._expanded[index] is None:
            with tf.init_scope():
                self._expanded[index] = ExpandedEvents(self.model[index], super()._prepared(index))
        return self._expanded[index]


class AcceleratedUnbinnedNLL(AcceleratedNLL, zfit.loss.UnbinnedNLL):
    """An accelerated `UnbinnedNLL`; see `accelerate`."""

    _exact_kind = UnbinnedNLL


class AcceleratedExtendedUnbinnedNLL(AcceleratedNLL, zfit.loss.ExtendedUnbinnedNLL):
    """An accelerated `ExtendedUnbinnedNLL`; see `accelerate`."""

    _exact_kind = ExtendedUnbinnedNLL


def _add_sums(totals: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum of the values, and the error from the terms that were neglected in those that come with them.

    The neglected terms of different events cancel in part: the bound is their sum, plus three times its spread.
    """
    value = tf.add_n([total[0] if total.shape.rank else total for total in totals])
    neglected = [total[1:] for total in totals if total.shape.rank]
    if not neglected:
        return value, tf.zeros_like(value)
    linear, square = tf.unstack(tf.add_n(neglected))
    return value, tf.abs(linear) + 3.0 * tf.sqrt(square)

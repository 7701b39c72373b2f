r"""Fast evaluation of likelihoods: the same minimum, by Taylor polynomials of every event that are kept honest.

A fit evaluates the likelihood at many points close to each other. Around one of them, the *centre*, a deformation moves
an event by a small shift in its standardised coordinates, and the nominal density is replaced by its Taylor polynomial in
that shift (:mod:`zfit_fnf.expansion`). The shift itself is exact: it is a contraction of the coefficients of the
deformation, computed once per data set. The cost hardly depends on the number of nuisances, and yields, sums of
processes, constraints and densities that cannot be expanded are what they are in the exact likelihood.

The error is controlled in three ways, whatever minimiser is at work:

1. Every evaluation adds up the terms of the highest degree times the size of the shift, which bounds the first neglected
   terms. Where that exceeds what matters there, the polynomials move to a new centre or the exact likelihood answers.
2. When a fit is about to stop, the exact gradient is computed at that point and compared. If the expected
   vertical distance between the two minima is too large, the centre moves there and the minimiser goes on.
3. When the fit is done, the exact likelihood has been evaluated at its end. If it disagrees, an error says so.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from .compression import compress, contract, left_out, principal_components
from .deformation import Deformation, PolynomialMap
from .expansion import expand, expansion_order, polynomial
from .flows import Density
from .loss import (
    XLA_CHUNK,
    Compiled,
    EventKernel,
    Events,
    EventTerm,
    ExtendedUnbinnedNLL,
    LearnedLoss,
    Parameters,
    UnbinnedNLL,
    constraint_kernel,
    event_kernel,
    kept_by,
    outside_of_graphs,
    select,
    total_hessian,
    vector,
)
from .minimize import newton_step, vertical_distance
from .nets import PerArchitecture
from .param import limits_of, read_once, values_of
from .pdf import FNFPDF, ConditionalProductPDF, SumPDF, columns, components, is_compilable, log_density, prepare
from .series import monomials

SMALL_CHUNK, CHUNK = 4096, 16384
"""Events per call of the compiled code, for small and for large data sets."""

TOLERANCE = 0.01
"""Error of the negative log-likelihood that is tolerated near the minimum."""

_GROWTH = 2.0  # of the derivatives from one order to the next: densities vary over a fraction of their overall width
_RELATIVE = 0.02  # error that is tolerated further away, relative to the distance from the minimum
_ZERO = tf.UnconnectedGradients.ZERO
_SEARCHING = 0.3  # of a value that only tells a minimiser how long its next step should be
_ALMOST_THERE = 1e-3  # expected vertical distance to the minimum at which the exact gradient is asked for
_NEAR = 0.1  # the same, where a fit has ended, or the pilot
_ARRIVED = 0.01  # the same, where a fit should start
_EDM = 5e-5  # largest expected vertical distance between the exact and the accelerated minimum: a hundredth of an error
_LEFT_OUT = 0.02  # of the shift of an event by the compression of coefficients, times the root of the number of events
_CORRECTABLE = 1e-3  # largest expected vertical distance that a linear term may make up for
_CLOSE = 0.3  # standard deviations, within which the centre need not move
_STRAYS = 3  # values in a row that the polynomials cannot give, before their centre moves
_DIRECTIONS = 16  # along which second derivatives are computed at a time
_ENOUGH_EVENTS = 15_000  # to estimate the information to some per cent
_PILOT_SHARE = 8  # one chunk of so many tells where to expand all of them
_SCORING_STEPS = 30


class AccelerationError(RuntimeError):
    """The accelerated likelihood does not agree with the exact one."""


@dataclass(frozen=True)
class AccelerationReport:
    """What an accelerated likelihood did; prints as a table.

    Attributes:
        methods: How the events of each density are evaluated, by its name.
        n_expansions: How often the polynomials were made.
        n_exact: Evaluations of the exact likelihood, those of its gradient included.
        exact_events: Number of events that are evaluated exactly: densities without polynomials, or no room for them.
        exact_edm: Expected vertical distance to the minimum from the exact gradient, where it was last asked for; not a
            number before.
        value_difference: Difference of the exact and the accelerated negative log-likelihood there.
    """

    methods: dict[str, str]
    n_expansions: int = 0
    n_exact: int = 0
    exact_events: int = 0
    exact_edm: float = float("nan")
    value_difference: float = float("nan")

    def __str__(self) -> str:
        width = max(map(len, self.methods))
        return "\n".join(
            [
                f"{self.n_expansions} expansions, {self.n_exact} exact evaluations; last check: exact EDM "
                f"{self.exact_edm:.2g}, difference of the NLL {self.value_difference:.2g}",
                *(f"  {name:<{width}}  {method}" for name, method in self.methods.items()),
                *([f"  {self.exact_events} events are evaluated exactly"] if self.exact_events else []),
            ]
        )


def accelerate(nll: UnbinnedNLL | ExtendedUnbinnedNLL, *, max_memory: float | None = None) -> AcceleratedNLL:
    """A likelihood with the same parameters, minimum and interface, whose evaluations are much cheaper.

    Use it in place of ``nll`` wherever a likelihood is evaluated many times: fits, MINOS, scans, limits, toys. The result
    is that of ``nll``: while a fit goes on the accelerated likelihood compares itself with the exact one, see
    :mod:`zfit_fnf.acceleration`. Values are right to 0.01, or to two per cent of their distance from a minimum that was
    found; what minimisers ask for on their way there (``full=False``, and the gradient alone) may be coarser.

    Args:
        nll: A loss of :mod:`zfit_fnf.loss`; it is not changed.
        max_memory: Bytes for polynomials and coefficients; events for which there is no room are evaluated exactly, as
            the report says. By default the option of the same name of ``nll``.

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
    options = {} if max_memory is None else {"max_memory": max_memory}
    return kinds[type(nll)](nll.model, nll.data, constraints=nll.constraints, options={**nll._options, **options})


# --- densities, expanded around the current values of their parameters ------------------------------------------------


@functools.singledispatch
def gathered(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What depends on the events ``(n, n_obs)`` alone: a nest of tensors. By default what the exact density needs."""
    return prepare(pdf, x)


@functools.singledispatch
def adapt(pdf: zfit.pdf.BasePDF, data: Any, n_events: int) -> None:
    """Choose the combinations of coefficients for ``n_events`` events, of which some have been gathered."""
    del pdf, data, n_events


@functools.singledispatch
def expanded(pdf: zfit.pdf.BasePDF, data: Any, *, linear: bool = False, whole: bool = False) -> Any:
    """Gathered events, expanded around the current parameters; by default they stay as they are.

    Without the terms beyond the first order (``linear``) the value and the gradient at the current parameters are as
    good, and cheaper to have. They are exact if the coefficients are not compressed (``whole``).
    """
    del pdf, linear, whole
    return data


@functools.singledispatch
def log_expanded(pdf: zfit.pdf.BasePDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` float64 of expanded events, and in float32 the size of the terms that are neglected."""
    value = log_density(pdf, nest)
    return value, tf.zeros_like(value, tf.float32)


@functools.singledispatch
def method(pdf: zfit.pdf.BasePDF) -> str:
    """How `log_expanded` evaluates a density, in words."""
    return "exact" if pdf.get_params(floating=None, is_yield=False) else "constant"


# A factorizable normalizing flow with one layer: the shift of an event is a contraction of its coefficients.


def order_of(pdf: zfit.pdf.BasePDF) -> int:
    """Order of the polynomials of a density; zero if it is evaluated as it is."""
    if not isinstance(pdf, FNFPDF) or not isinstance(pdf.deformation, Deformation) or pdf.deformation.n_layers > 1:
        return 0
    return expansion_order(pdf.deformation.flow.density)


@gathered.register
def _(pdf: FNFPDF, x: tf.Tensor) -> Any:
    if not order_of(pdf):
        return prepare(pdf, x)
    # Without the flow and the yields, which may differ where the responses are of one architecture.
    responses = PolynomialMap(pdf.deformation.responses, windows=pdf.deformation.windows)
    u, c, log_jacobian = pdf.encode(x)
    (coefficients,) = _in_pieces(_coefficients.of(responses), tf.cast(u, tf.float32), tf.cast(c, tf.float32))
    coefficients = tf.reshape(coefficients, (coefficients.shape[0], -1))
    return tf.transpose(u), tf.transpose(c), log_jacobian, coefficients, responses.calibration()


@PerArchitecture
def _coefficients(responses: PolynomialMap, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor]:
    """Coefficients ``(M, 2, d, n)``."""
    return (tf.transpose(responses.coefficients(u, c), (1, 3, 2, 0)),)


def _moved(pdf: FNFPDF, data: Any) -> tuple[tf.Tensor, ...]:
    """Basis ``(M,)`` at the current nuisances; there the log-scales, scaled coordinates and shifts, ``(d, n)`` each."""
    u, _, _, coefficients, calibration = data
    basis = tf.stop_gradient(pdf.deformation.basis(pdf.nu(), calibration))  # a tape of the user may be watching
    contracted = basis[None, :] @ tf.cast(coefficients, tf.float64)
    log_scale, shift = tf.unstack(tf.reshape(contracted, (2, *u.shape)))
    return basis, log_scale, u * tf.exp(log_scale), shift


def _projections(pdf: FNFPDF) -> list[tf.Tensor]:
    """Those that were chosen for the coefficients of a density; to begin with there are none."""
    return kept_by(pdf, "projections", list)


@adapt.register
def _(pdf: FNFPDF, data: Any, n_events: int) -> None:
    if not order_of(pdf):
        return
    coefficients, n_outputs = data[3], 2 * len(pdf.deformation.flow.obs)
    # What is left out may move no event by more than all events together can tell.
    tolerance, known = _LEFT_OUT / np.sqrt(n_events), _projections(pdf)
    if not known or left_out(coefficients, n_outputs, known) > 2.0 * tolerance:
        known[:] = principal_components(coefficients, n_outputs, tolerance)


@expanded.register
def _(pdf: FNFPDF, data: Any, *, linear: bool = False, whole: bool = False) -> Any:
    if not order_of(pdf):
        return data
    _, c, log_jacobian, coefficients, calibration = data
    centre, log_scale, scaled, shift = _moved(pdf, data)
    expansion = (_linearise if linear else _expand).of(pdf.deformation.flow.density)
    log_density, polynomial = _in_pieces(expansion, tf.transpose(scaled + shift), tf.transpose(c))
    return {
        "centre": centre,
        "calibration": calibration,
        "blocks": compress(coefficients, [tf.eye(len(centre))] if whole else _projections(pdf)),
        "scaled": tf.cast(scaled, tf.float32),
        "polynomial": polynomial,
        "log_density": log_density + log_jacobian + tf.reduce_sum(log_scale, axis=0),
    }


@log_expanded.register
def _(pdf: FNFPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    if not (order := order_of(pdf)):
        return log_expanded.dispatch(object)(pdf, nest)
    # Differences to the centre are small: float32 resolves them better than anybody asks for.
    basis = tf.cast(pdf.deformation.basis(pdf.nu(), nest["calibration"]) - nest["centre"], tf.float32)
    log_scale, shift = tf.unstack(tf.reshape(contract(basis, nest["blocks"]), (2, *nest["scaled"].shape)))
    delta = tf.unstack(nest["scaled"] * tf.math.expm1(log_scale) + shift)
    rise, highest = polynomial(nest["polynomial"], delta, order)
    neglected = _GROWTH * highest * tf.add_n([tf.abs(moved) for moved in delta])
    value = nest["log_density"] + tf.cast(rise + tf.reduce_sum(log_scale, axis=0), tf.float64)
    return value - pdf.log_integral(pdf.norm), neglected


@method.register
def _(pdf: FNFPDF) -> str:
    order = order_of(pdf)
    return f"polynomials of order {order} in the shift" if order else "exact"


@PerArchitecture
def _expand(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-density ``(n,)`` in float64, whose rounding errors would add up, and the other coefficients in float32."""
    single = tf.cast(u, tf.float32), tf.cast(c, tf.float32)
    return density.log_density(u, c), expand(density, single[0], density.given(single[1]))[1:]


@PerArchitecture
def _linearise(density: Density, u: tf.Tensor, c: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_expand`, with zeros beyond the first order, and that by automatic differentiation."""
    single = tf.cast(u, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(single)
        value = density.log_density(single, tf.cast(c, tf.float32))
    slopes = tf.transpose(tape.gradient(value, single))
    n_terms = len(monomials(density.n_dim, expansion_order(density))) - 1
    return density.log_density(u, c), tf.pad(slopes, [[0, n_terms - density.n_dim], [0, 0]])


def _in_pieces(function: Callable[..., Any], *args: tf.Tensor) -> list[tf.Tensor]:
    """Apply a function to as many events at once as the caches of a processor hold.

    Events are the first axis of the arguments and the last one of the results.
    """
    starts = range(0, args[0].shape[0], XLA_CHUNK)
    pieces = [function(*(values[start : start + XLA_CHUNK] for values in args)) for start in starts]
    return [tf.concat(parts, axis=-1) for parts in zip(*pieces, strict=True)]


# Sums and products of densities.


@gathered.register(SumPDF)
@gathered.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, x: tf.Tensor) -> Any:
    return [gathered(part, columns(x, pdf.obs, part.obs)) for part in pdf.pdfs]


@adapt.register(SumPDF)
@adapt.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, data: Any, n_events: int) -> None:
    for part, events in zip(pdf.pdfs, data, strict=True):
        adapt(part, events, n_events)


@expanded.register(SumPDF)
@expanded.register(ConditionalProductPDF)
def _(pdf: SumPDF | ConditionalProductPDF, data: Any, **options: bool) -> Any:
    return [expanded(part, events, **options) for part, events in zip(pdf.pdfs, data, strict=True)]


@log_expanded.register
def _(pdf: SumPDF, nest: Any) -> tuple[tf.Tensor, tf.Tensor]:
    values, neglected = _of_parts(pdf, nest)
    total, weights = pdf.mix(values), pdf.weights()
    fractions = tf.cast(weights / tf.reduce_sum(weights), tf.float32)[:, None]
    shares = fractions * tf.exp(tf.cast(tf.stack(values) - total, tf.float32))
    return total, tf.reduce_sum(shares * tf.stack(neglected), axis=0)


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
        self._log_expanded = read_once()(functools.partial(log_expanded, model))
        self._batch = Compiled(self._second_derivatives_of_batch, xla=is_compilable(model))
        self.adapt = functools.partial(adapt, model)
        self.expand = functools.partial(expanded, model)
        self.prepare = functools.partial(gathered, model)

    def hessian_vectors(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """Products of the Hessian with vectors ``(D, P)``."""
        return self._along_directions(directions, *chunk)[0]

    def scores(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """Derivatives ``(D, n)`` of every log-density along directions ``(D, P)``."""
        return self._along_directions(directions, *chunk)[1]

    def chunk_size(self, n_events: int) -> int:
        """Events per call for a data set of a size: calls are costly, and so are events that fill the last one."""
        return SMALL_CHUNK if n_events <= _PILOT_SHARE * SMALL_CHUNK else CHUNK

    def _sum(self, nest: Any, weights: tf.Tensor) -> tf.Tensor:
        value, neglected = self._log_expanded(nest)
        neglected = weights * tf.cast(neglected, tf.float64)
        return -tf.stack([tf.reduce_sum(weights * value), tf.reduce_sum(neglected), -tf.reduce_sum(neglected**2)])

    def _value_gradient(self, *args: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.params)
            sums = self._sum(*args)
            value = sums[0]
        return sums, vector(tape.gradient(value, self.params, unconnected_gradients=_ZERO))

    def _along_directions(self, directions: tf.Tensor, *chunk: Any) -> list[tf.Tensor]:
        """What `_second_derivatives` gives, in batches of one size: they read the coefficients once for all directions."""
        n, size = len(directions), min(_DIRECTIONS, len(self.params))
        padded = tf.pad(directions, [[0, -n % size], [0, 0]])
        parts = [self._batch(padded[start : start + size], *chunk) for start in range(0, n, size)]
        return [tf.concat(results, axis=0)[:n] for results in zip(*parts, strict=True)]

    def _second_derivatives_of_batch(self, directions: tf.Tensor, *chunk: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.vectorized_map(lambda direction: self._second_derivatives(direction, *chunk), directions)

    def _second_derivatives(self, direction: tf.Tensor, nest: Any, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of the sum, along a direction and with respect to the parameters, and to the weights: that is the score."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([self.params, weights])
            slope = tf.tensordot(direction, self._value_gradient(nest, weights)[1], 1)
        *hessian, score = tape.gradient(slope, [*self.params, weights], unconnected_gradients=_ZERO)
        return vector(hessian), -score


class ExpandedEvents(Events):
    """Chunks that are expanded around the parameters as they were when `move` was last called.

    Args:
        kernel: The kernel.
        x: As for `Events`.
        weights: As for `Events`.
        max_memory: Bytes for expanded chunks, of which there are ``n_expanded``. As many of them as have room beside
            those are kept prepared as well, to be expanded elsewhere.

    Attributes:
        n_events: Number of events in these chunks.
        n_pilot: Number of chunks that stand for all of them.
    """

    def __init__(self, kernel: ExpandedKernel, x: np.ndarray, weights: np.ndarray, *, max_memory: float):
        super().__init__(kernel, x, weights, max_memory=0.0)
        self._expand = kernel.expand
        self._expanded: list[Any] = []
        first = kernel.prepare(self._chunks[0])
        kernel.adapt(first, len(x))
        shared = {id(tensor) for tensor in tf.nest.flatten(first)}
        expanded = tf.nest.flatten(self._expand(first))
        taken = max(kernel.size(expanded), 1)
        more = kernel.size(first) - kernel.size([tensor for tensor in expanded if id(tensor) in shared])
        self.n_expanded = min(len(self._chunks), int(max_memory // taken))
        self.n_kept = min(self.n_expanded, int((max_memory - self.n_expanded * taken) // max(more, 1)))
        kept = [first, *map(kernel.prepare, self._chunks[1 : self.n_kept])]
        self._chunks[: self.n_kept] = kept[: self.n_kept]
        self.n_events = min(len(x), self.size * self.n_expanded)
        self.n_pilot = -(-self.n_expanded // _PILOT_SHARE)

    def __len__(self) -> int:
        return self.n_expanded

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """Expanded events and weights, chunk by chunk."""
        return zip(self._expanded, self._weights, strict=False)

    def exact(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """The same, with the exact value and gradient at the current parameters; one chunk is in memory at a time."""
        chunks = (self._expand(chunk, linear=True, whole=True) for chunk in self._prepared())
        return zip(chunks, self._weights[: self.n_expanded], strict=True)

    def move(self) -> None:
        """Expand around the current parameters."""
        self._expanded = []  # not two of them in memory
        self._expanded = [self._expand(chunk) for chunk in self._prepared()]

    def move_pilot(self) -> None:
        """Expand the first chunks only, to first order."""
        self._expanded = [
            self._expand(chunk, linear=True) for chunk in itertools.islice(self._prepared(), self.n_pilot)
        ]

    def _prepared(self) -> Iterator[Any]:
        others = self._chunks[self.n_kept : self.n_expanded]
        return itertools.chain(self._chunks[: self.n_kept], map(self._prepare, others))


# --- the likelihood ---------------------------------------------------------------------------------------------------


class AcceleratedNLL(LearnedLoss):
    """What accelerated likelihoods share, made by `accelerate`.

    Attributes:
        report: What was done so far, an `AccelerationReport`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        named = {pdf.name: method(pdf) for model in self.model for pdf in components(model) if not hasattr(pdf, "pdfs")}
        self.report = AccelerationReport(named)
        self._closest, self._strays = np.inf, 0
        self._last_hessian: tuple[tuple[Any, ...], tf.Tensor] | None
        self._correction: LinearTerm | None
        self._forget()

    # --- evaluations --------------------------------------------------------------------------------------------------

    def _call_value(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        del args, kwargs
        self._follow_data()
        if not tf.executing_eagerly():
            return self._approximate()[0]
        value, error = self._approximate()
        if not error <= max(TOLERANCE, self._tolerance_away(float(value))):
            self._strays += 1
            if self._strays <= _STRAYS:
                return self._exact_value_gradient([])[0]
            self._move_centre()
            value, error = self._approximate()
            if not np.isfinite(error):  # so far out that the polynomials overflow
                return self._exact_value_gradient([])[0]
        self._strays = 0
        return value

    def _call_value_gradient(
        self, params: Parameters, numgrad: Any = None, full: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del numgrad
        params = list(self._input_check_params(params, only_independent=True))
        self._follow_data()
        value, gradient, error = self._approximate_gradient(params)
        if not tf.executing_eagerly():
            return value, gradient
        if full and self._is_too_coarse(error):
            return self._exact_value_gradient(params)
        distance = self._distance(gradient, params)
        # Where the polynomials fail their gradient is large: it must not be what excuses them.
        tolerance = max(_RELATIVE * min(self._closest, distance), self._tolerance_away(float(value)))
        if not error <= max(TOLERANCE, tolerance):
            self._move_centre()
            value, gradient, _ = self._approximate_gradient(params)
            distance = self._distance(gradient, params)
        self._closest = min(self._closest, distance)
        if distance < _ALMOST_THERE and not self._is_confirmed(params):
            value, gradient = self._confirm(value, gradient, params)
        self._strays = 0
        return value, gradient

    def _call_hessian(self, params: Parameters, numgrad: Any = None, hessian: str | None = None) -> tf.Tensor:
        self._follow_data()
        if not tf.executing_eagerly():
            return super()._call_hessian(params, numgrad, hessian)
        if not self._approximate()[1] <= TOLERANCE:
            self._move_centre()
        # Where one minimisation ends another one may start, or HESSE.
        key = hessian, tuple(params), tuple(self._point())
        if self._last_hessian is None or self._last_hessian[0] != key:
            self._last_hessian = key, super()._call_hessian(params, numgrad, hessian)
        return self._last_hessian[1]

    def value(self, *, params: Any = None, full: bool | None = None) -> tf.Tensor:
        """As that of the exact likelihood; where a fit has ended it also compares the two.

        Args:
            params: Values of parameters, by name; those left out have their current values.
            full: ``False`` for a value that a fit asks for, which is coarse as long as nothing better is needed; otherwise
                the minimum that a fit has found is confirmed, if it was not yet.

        Returns:
            Scalar, float64.

        Raises:
            AccelerationError: If the exact likelihood is not at a minimum where the accelerated one is.
        """
        result = super().value(params=params, full=full)
        if full is False or not tf.executing_eagerly():
            return result
        with self._check_set_input_params(params):
            if self._is_too_coarse(self._approximate()[1]):
                result = self._exact_value_gradient([])[0]
        if params is None:
            floating = list(self.get_params())
            value, gradient = self._call_value_gradient(floating)
            if self._distance(gradient, floating) < _NEAR and not self._is_confirmed(floating):
                self._confirm(value, gradient, floating)
        return result

    def _is_too_coarse(self, error: float) -> bool:
        """Whether an error may matter, as far as is known before a fit has found where the minimum is."""
        return self._minimum is None and not error <= TOLERANCE

    def _tolerance_away(self, value: float) -> float:
        """Error that a value may have by its distance from what matters: the minimum, as soon as it is known."""
        if self._minimum is None:
            return _SEARCHING * abs(value - self._value_at_centre)
        return _RELATIVE * abs(value - self._minimum)

    def _terms(self) -> Iterator[tuple[Any, Iterable[tuple[Any, ...]]]]:
        yield from super()._terms()
        if self._correction is not None:
            yield self._correction, [()]

    def _approximate(self) -> tuple[tf.Tensor, float]:
        totals = [tf.add_n([kernel.value(*arguments) for arguments in calls]) for kernel, calls in self._terms()]
        return _add_sums(totals)

    def _approximate_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor, float]:
        return self._sum_with_gradient(self._terms(), params)

    def _exact_value_gradient(self, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        self.report = replace(self.report, n_exact=self.report.n_exact + 1)
        # The value alone is cheaper, but it would be one more program to compile.
        terms = map(_exactly, super()._terms())
        value, gradient, _ = self._sum_with_gradient(terms, params or list(self.get_params()))
        return value, gradient

    @staticmethod
    def _sum_with_gradient(
        terms: Iterable[tuple[Any, Iterable[tuple[Any, ...]]]], params: Parameters
    ) -> tuple[tf.Tensor, tf.Tensor, float]:
        totals, gradients = [], []
        for kernel, calls in terms:
            results = [kernel.value_gradient(*arguments) for arguments in calls]
            totals.append(tf.add_n([total for total, _ in results]))
            gradients.append(select(tf.add_n([gradient for _, gradient in results]), kernel.params, params))
        value, error = _add_sums(totals)
        return value, tf.add_n(gradients), error

    # --- events and the centre ----------------------------------------------------------------------------------------

    def _prepare_events(self, index: int, x: np.ndarray) -> list[EventTerm]:
        self._forget()
        model = self.model[index]
        if not any(map(order_of, components(model))):
            return super()._prepare_events(index, x)
        # In random order any chunk is like the others, and a few of them estimate what all of them would give.
        rows = np.random.default_rng(0).permutation(len(x))
        x, weights = x[rows], self._weights(index)[rows]
        kernel = kept_by(model, "expanded", lambda: ExpandedKernel(model))
        events = ExpandedEvents(kernel, x, weights, max_memory=self._memory_for(len(x)))
        exact = event_kernel(model)
        others = Events(exact, x[events.n_events :], weights[events.n_events :], max_memory=0.0)
        return [(kernel, chunks) for kernel, chunks in ((kernel, events), (exact, others)) if len(chunks)]

    def _forget(self) -> None:
        """The data are new."""
        self._is_new = True
        self._piloted: tuple[dict[zfit.Parameter, float], dict[zfit.Parameter, float]] = {}, {}
        self._scores: np.ndarray | None = None
        self._confirmed: np.ndarray | None = None
        self._correction, self._last_hessian = None, None
        self._minimum: float | None = None
        self._closest, self._strays = np.inf, 0

    def _expanded_events(self) -> list[ExpandedEvents]:
        terms = [term for index in range(len(self.model)) for term in self._event_terms(index)[0]]
        return [events for _, events in terms if isinstance(events, ExpandedEvents)]

    def _follow_data(self) -> None:
        with outside_of_graphs():
            self._expanded_events()  # prepares those that are new
            if self._is_new:
                self._is_new = False
                floating = list(self.get_params())
                here = np.array([float(parameter.value()) for parameter in floating])
                there = self._pilot(floating, here)
                with zfit.param.set_values(floating, there):
                    self._move_centre()
                there = self._scored(floating, there, self._with_information, until=_ARRIVED)
                self._piloted = dict(zip(floating, here, strict=True)), dict(zip(floating, there, strict=True))
                with zfit.param.set_values(floating, there):
                    if not self._approximate()[1] <= TOLERANCE:
                        self._move_centre()
                    self._information(floating)  # rather here than where a minimiser starts

    def starting_point(self, params: Parameters) -> np.ndarray:
        """Where a fit should start: near the minimum, if a part of the events was asked from here where that is."""
        self._follow_data()
        start, found = self._piloted
        here = {parameter: float(parameter.value()) for parameter in params}
        best = found if here == start else here
        return np.array([_away_from_limits(parameter, best[parameter]) for parameter in params])

    def _pilot(self, params: Parameters, start: np.ndarray) -> np.ndarray:
        """Where all events should be expanded first: the minimum that a few of them have, from where we are."""
        events = self._expanded_events()
        n_terms = sum(len(self._event_terms(index)[0]) for index in range(len(self.model)))
        if not (params and events) or len(events) < n_terms or not all(chunks.n_pilot for chunks in events):
            return start
        share = np.mean([chunks.n_pilot / len(chunks) for chunks in events])

        def expanded_here(params: Parameters) -> tuple[float, np.ndarray, np.ndarray]:
            for chunks in events:
                chunks.move_pilot()
            value, gradient, _ = self._approximate_gradient(params)
            information = share * self._sum_of_squared_scores(params, np.abs) + self._constraint_hessian(params)
            return float(value), np.asarray(gradient), information

        return self._scored(params, start, expanded_here, until=_NEAR)

    def _with_information(self, params: Parameters) -> tuple[float, np.ndarray, np.ndarray]:
        self._scores = None
        value, gradient, _ = self._approximate_gradient(params)
        return float(value), np.asarray(gradient), self._information(params)

    @staticmethod
    def _scored(
        params: Parameters,
        start: np.ndarray,
        evaluate: Callable[[Parameters], tuple[float, np.ndarray, np.ndarray]],
        *,
        until: float,
    ) -> np.ndarray:
        """Fisher scoring: Newton steps to a minimum, with the covariance of the scores in place of the Hessian.

        Args:
            params: The parameters, which are at their values again in the end.
            start: Where to begin.
            evaluate: The value, the gradient and that covariance where the parameters are.
            until: Expected vertical distance that is near enough.

        Returns:
            The point.
        """
        if not params:
            return start
        lower, upper = np.transpose([limits_of(parameter) for parameter in params])
        best, origin, step, length = np.inf, start, np.zeros_like(start), 1.0
        with zfit.param.set_values(params, start):
            for _ in range(_SCORING_STEPS):
                point = np.clip(origin + length * step, lower, upper)
                zfit.param.set_values(params, point)
                value, gradient, information = evaluate(params)
                if not value <= best:
                    length *= 0.25
                    continue
                best, origin, length = value, point, min(1.0, 2.0 * length)
                free = np.flatnonzero(((lower < point) | (gradient < 0)) & ((point < upper) | (gradient > 0)))
                step = np.zeros_like(point)
                step[free] = newton_step(information[np.ix_(free, free)], gradient[free])
                if not -0.5 * float(step @ gradient) > until:
                    break
        return origin

    def _move_centre(self) -> None:
        """Expand all events around the current values of the parameters."""
        self._confirmed, self._correction, self._last_hessian = None, None, None
        for events in (expanded_events := self._expanded_events()):
            events.move()
        self._centre = self._point()
        self._value_at_centre = float(self._approximate()[0])
        n_expanded = sum(events.n_events for events in expanded_events)
        n_exact = sum(int(data.num_entries) for data in self.data) - n_expanded
        self.report = replace(self.report, n_expansions=self.report.n_expansions + 1, exact_events=n_exact)

    # --- control ------------------------------------------------------------------------------------------------------

    def _confirm(self, value: tf.Tensor, gradient: tf.Tensor, params: Parameters) -> tuple[tf.Tensor, tf.Tensor]:
        """Compare with the exact likelihood, and move the centre if they differ.

        What the compression of coefficients and rounding leave of the gradient after that is made up for by a linear term.
        """
        if not self._expanded_events():
            self.report = replace(self.report, exact_edm=self._distance(gradient, params), value_difference=0.0)
            self._confirmed = self._point()
            return value, gradient
        exact_value, exact_gradient = self._exact_value_gradient(params)
        remedies = iter(("move", "correct"))
        while True:
            distance = self._distance(exact_gradient - gradient, params)
            difference = float(exact_value - value)
            if distance <= _EDM and abs(difference) <= TOLERANCE:
                break
            correctable = distance <= _CORRECTABLE and abs(difference) <= TOLERANCE
            remedy = next(remedies, None)
            if remedy == "move" and correctable and self._is_within(_CLOSE, self._centre):
                remedy = next(remedies)  # the polynomials would be the same
            if remedy == "move":
                self._move_centre()
            elif remedy == "correct" and correctable:
                self._correction = LinearTerm(params, exact_gradient - gradient)
            else:
                raise AccelerationError(
                    f"the accelerated likelihood differs from the exact one by {difference:.3g} and their minima by an "
                    f"EDM of {distance:.3g}, although its polynomials were made here: fit the exact likelihood instead"
                )
            value, gradient, _ = self._approximate_gradient(params)
            self._closest = self._distance(gradient, params)
        self._confirmed = self._point()
        if self._minimum is None or not self._is_conditional(params):
            self._minimum = float(exact_value)
        self.report = replace(
            self.report, exact_edm=self._distance(exact_gradient, params), value_difference=difference
        )
        return value, gradient

    def _is_confirmed(self, params: Parameters) -> bool:
        """Whether the exact likelihood was asked since the centre has moved: for a fit, within a standard deviation.

        The many conditional minima of a scan rely on the terms that are neglected, like every value does.
        """
        if self._confirmed is None or self._is_conditional(params):
            return self._confirmed is not None
        return self._is_within(1.0, self._confirmed)

    def _is_within(self, n_sigma: float, point: np.ndarray) -> bool:
        """Whether we are within so many standard deviations of a point."""
        moved = self._point() - point
        return bool(moved @ self._information(self._all()) @ moved < n_sigma**2)

    def _is_conditional(self, params: Parameters) -> bool:
        return len(params) < len(self.get_params())

    def _distance(self, gradient: tf.Tensor, params: Parameters) -> float:
        """Expected vertical distance to the minimum, from a gradient."""
        return vertical_distance(np.asarray(gradient), self._information(params), params)

    def _information(self, params: Parameters) -> np.ndarray:
        """Covariance of the score, which unlike the Hessian is positive anywhere, plus that of the constraints."""
        every = self._all()
        if self._scores is None:
            squares = self._sum_of_squared_scores(every, np.abs, n_events=_ENOUGH_EVENTS)
            self._scores = squares + self._constraint_hessian(every)
        rows = [every.index(parameter) for parameter in params]
        return self._scores[np.ix_(rows, rows)]

    def _constraint_hessian(self, params: Parameters) -> np.ndarray:
        matrices = [total_hessian(constraint_kernel(constraint), [()], params) for constraint in self.constraints]
        return np.sum([np.zeros((len(params), len(params))), *map(np.asarray, matrices)], axis=0)

    def _all(self) -> list[zfit.Parameter]:
        return list(self.get_params(floating=None))

    def _point(self) -> np.ndarray:
        return np.array([float(parameter.value()) for parameter in self._all()])


class LinearTerm:
    """A linear function of parameters that vanishes where they are now, in the guise of a kernel.

    Args:
        params: The parameters.
        slope: Its gradient ``(P,)``.
    """

    def __init__(self, params: Parameters, slope: tf.Tensor):
        self.params = tuple(params)
        self._slope, self._origin = slope, values_of(params)
        self._values = Compiled(lambda: values_of(params), xla=True)

    def value(self) -> tf.Tensor:
        return self.value_gradient()[0]

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.tensordot(self._slope, self._values() - self._origin, 1), self._slope

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(directions)


class AcceleratedUnbinnedNLL(AcceleratedNLL, zfit.loss.UnbinnedNLL):
    """An accelerated `UnbinnedNLL`; see `accelerate`."""


class AcceleratedExtendedUnbinnedNLL(AcceleratedNLL, zfit.loss.ExtendedUnbinnedNLL):
    """An accelerated `ExtendedUnbinnedNLL`; see `accelerate`."""


def _away_from_limits(parameter: zfit.Parameter, value: float) -> float:
    """At a limit nothing depends on the variable that Minuit has in place of the parameter: one step inside of it."""
    low, high = limits_of(parameter)
    step = min(float(parameter.stepsize), 0.25 * (high - low))
    return float(np.clip(value, low + step, high - step))


def _exactly(term: tuple[Any, Any]) -> tuple[Any, Iterable[tuple[Any, ...]]]:
    """A term of the likelihood as it is without polynomials."""
    kernel, calls = term
    return (kernel, calls.exact()) if isinstance(calls, ExpandedEvents) else term


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

r"""Unbinned likelihoods of learned densities: drop-in replacements of zfit's losses that never leave log space.

.. math::
    \mathrm{NLL}(\theta) = \sum_\mathrm{channels} \Big[ n(\theta)
    - \sum_i w_i \log\big( n(\theta)\, p(x_i | \theta) \big) \Big] + \tfrac12 \sum_k (\nu_k - \nu_k^\mathrm{obs})^2

A loss is a sum of terms, each one a :class:`Kernel`: a function of zfit parameters with its derivatives, compiled
once. The kernel of the events belongs to the *model* and is called on chunks of one size, with the events as
arguments: a new loss of the same model, with other data, compiles nothing, and memory is bounded by the chunk.
"""

from __future__ import annotations

import functools
import itertools
import operator
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
import zfit.minimizers.fitresult
from zfit.core.constraint import BaseConstraint
from zfit.core.loss import BaseLoss, BaseUnbinnedNLL
from zfit.minimizers.errors import WeightCorr, dict_to_matrix, matrix_to_dict

from ..param import Nuisance, NuisanceConstraint, read_once
from ..pdf import FNFPDF, components, is_compilable, log_density, precompute
from .constraints import measured, merged, outside
from .inputs import as_list, channel, channels, checked_constraints, checked_models, checked_options, common_options

XLA_CHUNK, GRAPH_CHUNK = 1024, 16384
"""Events per call of a kernel; XLA code is as fast in small chunks, which suit toys; a TensorFlow graph is not."""

MAX_MEMORY = 4e9
"""Bytes of precomputed events that a loss keeps; beyond, events are precomputed anew in every evaluation."""

Parameters = Sequence[zfit.Parameter]
EventTerm = tuple["EventKernel", "Events"]


class Compiled:
    """A tensor function, compiled when first called, once per shape of its arguments.

    Args:
        function: Takes nests of tensors.
        xla: Whether XLA compiles it.
    """

    def __init__(self, function: Callable[..., Any], *, xla: bool):
        self._function, self._xla = function, xla
        self.forget()

    def forget(self) -> None:
        """Compile anew when called next."""
        self._graph = tf.function(self._function, autograph=False)
        self._compiled = tf.function(self._graph, autograph=False, jit_compile=True) if self._xla else self._graph
        self._concrete: dict[tuple[Any, ...], Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Compiled, xla=self._xla), (self._function,)

    @property
    def n_traces(self) -> int:
        """How often it was traced so far."""
        return self._compiled.experimental_get_tracing_count()

    def __call__(self, *args: Any) -> Any:
        tensors = tf.nest.flatten(args)
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._concrete:
            # Under XLA, TensorFlow differentiates concatenations into an operation that has no derivative of its own.
            # A graph that exists before XLA sees it has all derivatives.
            self._graph.get_concrete_function(*args)
            self._concrete[shapes] = self._compiled.get_concrete_function(*args)
        if not tf.executing_eagerly():
            return self._compiled(*args)
        # What tf.function does before it arrives here takes as long as ten thousand events.
        concrete = self._concrete[shapes]
        return concrete._call_flat(tensors, concrete.captured_inputs)


class Term:
    """A term of a likelihood: what is compiled for some parameters.

    Limits of parameters are built into compiled code, by zfit too: `follow_limits` has it compiled anew where they
    were changed.

    Args:
        params: The independent parameters.
    """

    def __init__(self, params: Iterable[zfit.Parameter]):
        self.params = tuple(params)
        self._limits = self._read_limits()

    def follow_limits(self) -> None:
        """To be called before an evaluation."""
        # Almost always the same objects, of which the values are not looked at.
        if (limits := self._read_limits()) != self._limits:
            self._limits = limits
            for part in self._compiled():
                part.forget()

    def _read_limits(self) -> list[tuple[Any, Any]]:
        return list(map(_LIMITS, self.params))

    def _compiled(self) -> list[Compiled]:
        return [part for part in vars(self).values() if isinstance(part, Compiled)]


class Kernel(Term):
    """A scalar function of zfit parameters with its derivatives, each compiled when first called, once per shape.

    Args:
        function: Takes tensors, reads parameters, returns a scalar.
        params: The independent parameters it may depend on; derivatives with respect to the others are zero.
        xla: Whether XLA compiles it.

    Attributes:
        value: ``value(*args)``, the function.
        value_gradient: ``value_gradient(*args)``, the function and its gradient ``(P,)`` in the order of ``params``.
    """

    def __init__(self, function: Callable[..., tf.Tensor], params: Iterable[zfit.Parameter], *, xla: bool):
        super().__init__(params)
        self._function = function
        self.value = Compiled(function, xla=xla)
        self.value_gradient = Compiled(self._value_gradient, xla=xla)
        # XLA would fold the many constant tangents of forward mode with its slow interpreter, for minutes.
        self._compiled_hessian_vector = Compiled(self._hessian_vector, xla=False)

    @property
    def n_traces(self) -> int:
        """How often anything was traced so far."""
        return sum(part.n_traces for part in self._compiled())

    def hessian_vectors(self, directions: tf.Tensor, *args: Any) -> tf.Tensor:
        """Products of the Hessian with vectors ``(D, P)``."""
        return tf.stack([self._compiled_hessian_vector(direction, *args) for direction in tf.unstack(directions)])

    def _value_gradient(self, *args: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self.params)
            value = self._function(*args)
        return value, vector(tape.gradient(value, self.params, unconnected_gradients=_ZERO))

    def _hessian_vector(self, tangent: tf.Tensor, *args: Any) -> tf.Tensor:
        return self._along(tangent, lambda: self._value_gradient(*args)[1])

    def _along(self, tangent: tf.Tensor, function: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Derivative of a tensor along a direction in the space of the parameters."""
        tangents = tuple(tf.unstack(tangent, num=len(self.params)))
        with tf.autodiff.ForwardAccumulator(self.params, tangents) as accumulator:
            output = function()
        return accumulator.jvp(output, unconnected_gradients=_ZERO)


class EventKernel(Kernel):
    """Minus the weighted sum of the log-densities of a chunk of precomputed events, ``(precomputed, weights)``.

    Attributes:
        precompute: ``precompute(x)``, the precomputed events ``(n, n_obs)``.
        score: ``score(tangent, precomputed, weights)``, the derivative ``(n,)`` of every log-density along a direction.
    """

    def __init__(self, model: zfit.pdf.BasePDF):
        self._log_density: Callable[[Any], tf.Tensor] = read_once()(functools.partial(log_density, model))
        xla = is_compilable(model)
        self._chunk = XLA_CHUNK if xla else GRAPH_CHUNK
        super().__init__(self._sum, model.get_params(floating=None, is_yield=False), xla=xla)
        self.precompute: Callable[[tf.Tensor], Any] = Compiled(functools.partial(precompute, model), xla=xla)
        self.score: Callable[..., tf.Tensor] = Compiled(self._score, xla=xla)

    def chunk_size(self, n_events: int) -> int:
        """Events per call for a data set of a size."""
        del n_events
        return self._chunk

    def scores(self, directions: tf.Tensor, *chunk: Any) -> tf.Tensor:
        """As `score`, along directions ``(D, P)``: ``(D, n)``."""
        return tf.stack([self.score(direction, *chunk) for direction in tf.unstack(directions)])

    def _sum(self, precomputed: Any, weights: tf.Tensor) -> tf.Tensor:
        return -tf.reduce_sum(weights * self._log_density(precomputed))

    def _score(self, tangent: tf.Tensor, precomputed: Any, weights: tf.Tensor) -> tf.Tensor:
        del weights
        return self._along(tangent, lambda: self._log_density(precomputed))


class NuisanceTerm(Term):
    """A :class:`NuisanceConstraint` in the guise of a kernel: its second derivatives are known."""

    def __init__(self, constraint: NuisanceConstraint):
        super().__init__(constraint.nuisances)
        # Without compilation, to read a hundred parameters takes as long as ten thousand events.
        self._gradient = Compiled(constraint.gradient, xla=True)

    def value(self) -> tf.Tensor:
        return self.value_gradient()[0]

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        gradient = self._gradient()
        return 0.5 * tf.reduce_sum(tf.square(gradient)), gradient

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        return directions


class Events:
    """A data set in chunks of one size, precomputed for the kernel of its model.

    Args:
        kernel: An `EventKernel`, or what has a ``chunk_size`` and a ``precompute`` as it has.
        x: Events ``(n, n_obs)``, in the order of the model's observables.
        weights: Weights ``(n,)``, by default one.
        max_memory: Bytes for precomputed events. Chunks beyond are precomputed whenever they are asked for.

    Attributes:
        size: Events of a chunk; the last one is filled up with events of weight zero.
        n_kept: Number of chunks that are kept precomputed.
    """

    def __init__(
        self, kernel: Any, x: np.ndarray, weights: np.ndarray | None = None, *, max_memory: float = MAX_MEMORY
    ):
        self.size = size = kernel.chunk_size(len(x))
        weights = np.ones(len(x)) if weights is None else weights
        self._precompute = kernel.precompute
        starts = range(0, len(x), size)
        self._weights = [tf.constant(_padded(weights[start : start + size], size, 0.0)) for start in starts]
        self._chunks = [tf.constant(_padded(x[start : start + size], size, x[0])) for start in starts]
        self.n_kept = 0
        if max_memory:
            first = kernel.precompute(self._chunks[0])
            self.n_kept = min(len(self._chunks), int(max_memory // max(n_bytes(first), 1)))
            kept = [first, *map(kernel.precompute, self._chunks[1 : self.n_kept])]
            self._chunks[: self.n_kept] = kept[: self.n_kept]

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """Prepared events and weights, chunk by chunk."""
        kept, others = self._chunks[: self.n_kept], self._chunks[self.n_kept :]
        return zip(itertools.chain(kept, map(self._precompute, others)), self._weights, strict=True)


class LearnedLoss(BaseUnbinnedNLL):
    """What the losses of this package share.

    zfit would compile value, gradient and Hessian anew for every loss. The methods that it compiles, ``_call_*``, are
    replaced here by ones that run eagerly and add up kernels. They consist of tensor operations, because
    zfit's `FitResult.errors` with its own method traces them.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        fit_range: Any = None,
        constraints: Any = None,
        options: Mapping[str, object] | None = None,
        *,
        weights: Any = None,
    ):
        if any(limits is not None for limits in as_list(fit_range)):
            raise ValueError(
                "fit_range= is not supported: cut the data, and give the narrower range to the model as obs="
            )
        models = checked_models(model)
        if self.is_extended and (plain := [pdf.name for pdf in models if not pdf.is_extended]):
            raise ValueError(f"an extended likelihood needs a yield for {plain}: give them extended=")
        self._known_params: dict[tuple[Any, ...], Any] = {}
        self._merged: list[BaseConstraint] | None = None
        super().__init__(
            model=models,
            data=channels(models, data, weights),
            constraints=checked_constraints(constraints),
            options={**checked_options(options), "subtr_const": False},
        )
        self._events: list[tuple[tuple[Any, ...], list[EventTerm], tf.Tensor] | None] = [None] * len(models)
        self._warned: set[str] = set()

    @property
    def constraints(self) -> list[BaseConstraint]:
        """Each auxiliary measurement once, those of the nuisances included; more of them may be added to the list."""
        if self._constraints != self._merged:
            is_yield = None if self.is_extended else False
            params = [p for model in self.model for p in model.get_params(floating=None, is_yield=is_yield)]
            self._constraints[:] = merged(checked_constraints(self._constraints), params)
            self._merged = list(self._constraints)
            self._known_params.clear()
            self._forget()
        return self._constraints

    def _forget(self) -> None:
        """The data or the constraints are new."""

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, BaseLoss):
            return NotImplemented
        if type(other) is not type(self):
            raise ValueError(
                f"only likelihoods of one kind can be added; got {type(self).__name__} and {type(other).__name__}. "
                "Losses of zfit_fnf take any PDF of zfit; accelerate the sum instead of its terms"
            )
        return self.create_new(
            self.model + other.model,
            self.data + other.data,
            constraints=self.constraints + other.constraints,
            options=common_options(self._options, other._options),
        )

    @classmethod
    def get_repr(cls) -> Any:
        """Not available: zfit would read a likelihood of its own, without the constraints of nuisances."""
        raise NotImplementedError(f"{cls.__name__} cannot be written by zfit: save densities with zfit_fnf.save")

    def __getstate__(self) -> dict[str, Any]:
        """All but what is made of the data when it is needed."""
        return {**vars(self), "_events": [None] * len(self.model), "_known_params": {}}

    @property
    def max_memory(self) -> float:
        """Bytes of precomputed events that are kept, an option."""
        return float(self._options.get("max_memory", MAX_MEMORY))

    def value(self, *, params: Any = None, full: bool | None = None) -> tf.Tensor:
        """The negative log-likelihood, without the constant ``log n!`` of an extended one.

        Args:
            params: Values of parameters, by name; those left out have their current values.
            full: Nothing is left out in either case; unless ``False``, nuisances outside of the range in which their
                deformation was trained are reported in a warning, once each.

        Returns:
            Scalar, float64.
        """
        result = super().value(params=params, full=full)
        if full is not False and tf.executing_eagerly():
            self._refuse_undefined_parameters(result)
            self._warn_outside_windows()
        return result

    def _get_params(
        self, floating: bool | None, is_yield: bool | None, extract_independent: bool | None, *, autograd: Any = None
    ) -> Any:
        """As zfit's, which walks through all models in every evaluation, which takes longer than the rest of it."""
        if floating is not None and extract_independent is not True:
            return super()._get_params(floating, is_yield, extract_independent, autograd=autograd)
        _ = self.constraints  # may be new
        key = (is_yield, extract_independent, autograd)
        if key not in self._known_params:
            params = super()._get_params(None, is_yield, extract_independent, autograd=autograd)
            self._known_params[key] = type(params)(sorted(params, key=_place)) if extract_independent else params
        known = self._known_params[key]
        return known - [p for p in known if floating is not None and p.floating != floating]

    # --- the terms ----------------------------------------------------------------------------------------------------

    def _terms(self) -> Iterator[tuple[Any, Iterable[tuple[Any, ...]]]]:
        """Kernels, with the arguments of all calls whose results add up."""
        if not len(self.model) == len(self.data) == len(self._events):
            raise ValueError("models and data cannot be appended to a likelihood: make another one and add the two")
        for index, model in enumerate(self.model):
            terms, sum_weights = self._event_terms(index)
            yield from terms
            if self.is_extended:
                yield rate_kernel(model), [(sum_weights,)]
        yield from ((constraint_kernel(constraint), [()]) for constraint in self.constraints)

    def _event_terms(self, index: int) -> tuple[list[EventTerm], tf.Tensor]:
        """Kernels of one model, each with the chunks of its events, and the sum of weights; made once per data set."""
        version, cached = (self.model[index], *data_version(self.data[index])), self._events[index]
        if cached is None or not same_version(cached[0], version):
            with outside_of_graphs():
                # Those of SamplerData were not seen before.
                self.data[index] = channel(self.model[index], self.data[index], None)
                version = (self.model[index], *data_version(self.data[index]))
                terms = self._prepare_events(index, np.asarray(self.data[index].value()))
                cached = self._events[index] = (version, terms, tf.constant(self._weights(index).sum()))
        for kernel, _ in cached[1]:
            kernel.follow_limits()
        return cached[1:]

    def _prepare_events(self, index: int, x: np.ndarray) -> list[EventTerm]:
        if not len(x):
            return []
        kernel = event_kernel(self.model[index])
        return [(kernel, Events(kernel, x, self._weights(index), max_memory=self._memory_for(len(x))))]

    def _weights(self, index: int) -> np.ndarray:
        data = self.data[index]
        return np.ones(int(data.num_entries)) if data.weights is None else np.asarray(data.weights, float)

    def _memory_for(self, n_events: int) -> float:
        """Bytes for the precomputed events of one of the data sets."""
        return self.max_memory * n_events / sum(int(data.num_entries) for data in self.data)

    # --- what zfit calls ----------------------------------------------------------------------------------------------

    def _call_value(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        del args, kwargs  # its own model, data and constraints
        return total([kernel.value(*arguments) for kernel, calls in self._terms() for arguments in calls])

    def _call_value_gradient(
        self, params: Parameters, numgrad: Any = None, full: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        del numgrad, full  # derivatives are always exact
        params = self._input_check_params(params, only_independent=True)
        values, gradients = [], []
        for kernel, calls in self._terms():
            results = [kernel.value_gradient(*arguments) for arguments in calls]
            values.append(tf.add_n([value for value, _ in results]))
            gradients.append(select(tf.add_n([gradient for _, gradient in results]), kernel.params, params))
        return total(values), total(gradients, (len(params),))

    def _call_gradient(self, params: Parameters, numgrad: Any = None) -> tf.Tensor:
        return self._call_value_gradient(params, numgrad)[1]

    def _call_hessian(self, params: Parameters, numgrad: Any = None, hessian: str | None = None) -> tf.Tensor:
        del numgrad
        params = self._input_check_params(params, only_independent=True)
        parts = [total_hessian(kernel, calls, params) for kernel, calls in self._terms()]
        matrix = total(parts, (len(params), len(params)))
        return tf.linalg.diag_part(matrix) if hessian == "diag" else matrix

    def _call_value_gradient_hessian(
        self, params: Parameters, numgrad: Any = None, full: Any = None, hessian: str | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return *self._call_value_gradient(params, numgrad, full), self._call_hessian(params, numgrad, hessian)

    # --- weighted data ------------------------------------------------------------------------------------------------

    def _score_covariance(self, params: Parameters) -> np.ndarray:
        r"""Covariance ``(P, P)`` of the data's score, :math:`\sum w_i^2 g_i g_i^T`, g the gradient of ``log n p``."""
        return self._sum_of_squared_scores(params, np.square)

    def _sum_of_squared_scores(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], *, n_events: float = np.inf
    ) -> np.ndarray:
        """Of all events, or estimated from about ``n_events`` of each data set."""
        result = np.zeros((len(params), len(params)))
        for index, model in enumerate(self.model):
            offset = self._log_rate_gradient(model, params) if self.is_extended else np.zeros(len(params))
            total, seen = np.zeros_like(result), 0.0
            for kernel, events in self._event_terms(index)[0]:
                directions = _directions(kernel.params, params)
                for chunk in events:
                    if seen >= n_events:
                        break
                    weights = np.asarray(chunk[1])
                    scores = np.transpose(kernel.scores(directions, *chunk)) + offset
                    total += scores.T @ (scores * weigh(weights)[:, None])
                    seen += np.count_nonzero(weights)
            result += total * (np.count_nonzero(self._weights(index)) / max(seen, 1.0))
        return result

    @staticmethod
    def _log_rate_gradient(model: zfit.pdf.BasePDF, params: Parameters) -> np.ndarray:
        kernel = rate_kernel(model)
        rate, gradient = kernel.value_gradient(tf.constant(0.0, tf.float64))
        return np.asarray(select(gradient / rate, kernel.params, params))

    def _weighted_covariance(
        self, inverse_hessian: np.ndarray, params: Parameters, correction: WeightCorr
    ) -> np.ndarray:
        r"""Sandwich :math:`H^{-1} (D + C) H^{-1}` with the covariances of the scores of data and constraints.

        The outcome of an auxiliary measurement fluctuates as the constraint says: the covariance ``C`` of its score is
        its Hessian (the identity for nuisances), not the square of its gradient at the one outcome that was observed.
        """
        constraint = sum(
            (np.asarray(total_hessian(constraint_kernel(c), [()], params)) for c in self.constraints),
            start=np.zeros_like(inverse_hessian),
        )
        if correction == WeightCorr.ASYMPTOTIC:
            data = self._score_covariance(params)
        else:
            weights = np.concatenate([self._weights(index) for index in range(len(self.model))])
            scale = np.square(weights).sum() / weights.sum() if len(weights) else 1.0
            data = scale * (np.linalg.inv(inverse_hessian) - constraint)
        return inverse_hessian @ (data + constraint) @ inverse_hessian

    # --- the trained range --------------------------------------------------------------------------------------------

    def _refuse_undefined_parameters(self, value: tf.Tensor) -> None:
        if np.isnan(value) and (undefined := [p.name for p in self.get_params(floating=None) if np.isnan(p.value())]):
            raise ValueError(f"the values of {undefined} are not numbers: set them before the likelihood is evaluated")

    def _warn_outside_windows(self) -> None:
        value_of = functools.cache(lambda parameter: float(parameter.value()))  # several densities share a nuisance
        for pdf in (part for model in self.model for part in components(model) if isinstance(part, FNFPDF)):
            for name, (low, high) in pdf.deformation.windows.items():
                value = value_of(pdf.params[name])
                if not low <= value <= high and name not in self._warned:
                    self._warned.add(name)
                    warnings.warn(
                        f"nuisance {name!r} is at {value:.3g}, outside of the range ({low:g}, {high:g}) in which the "
                        f"deformation of {pdf.name!r} was trained: the density there is an extrapolation. Train with "
                        "variations further out, or check the model",
                        stacklevel=3,
                    )


class UnbinnedNLL(LearnedLoss, zfit.loss.UnbinnedNLL):
    r"""Unbinned negative log-likelihood, :math:`-\sum_i w_i \log p(x_i | \theta)` plus constraints.

    A `zfit.loss.UnbinnedNLL` for learned densities (and any others). Nuisances of the model are constrained without
    being asked, once each, also when losses are added. An explicit constraint of the nuisance itself takes that place; one
    of a function of it, like the yield of a control region, is one more measurement. To leave a nuisance free, use a plain
    `zfit.Parameter` in its place.

    Parameters are listed in the order of definition, nuisances last. Data without events are data.

    Args:
        model: PDF, or list of PDFs for several channels.
        data: Events with the model's observables as columns: DataFrame, dict of arrays, `zfit.Data`, `Sample` or file;
            one for each channel.
        fit_range: Not supported, see below.
        constraints: Further constraints (of zfit, or a `NuisanceConstraint`).
        options: ``{"max_memory": bytes}``, default ``MAX_MEMORY``, bounds what is computed once and kept for the events;
            beyond it is computed in every evaluation. Derivatives are always automatic.
        weights: Name of the column, or the event weights, one for each channel; by default those of the data. With
            weights, errors come from `FitResult.hesse`, which corrects for them.

    Raises:
        TypeError: If data are of an unknown kind.
        ValueError: If columns are missing, events are outside of the model's range, lists differ in length, or
            ``fit_range`` is given: cut the data and give the model a narrower range instead.

    Example:
        >>> mean = zfit.Parameter("mean", 0.5)
        >>> gauss = zfit.pdf.Gauss(mean, 1.0, obs=zfit.Space("y", -10, 10))
        >>> nll = UnbinnedNLL(gauss, {"y": [-1.0, 0.5, 2.0], "w": [1.0, 1.0, 2.0]}, weights="w")
        >>> result = zfit_fnf.Minuit().minimize(nll)
        >>> round(result.params[mean]["value"], 3)
        0.875
    """


class ExtendedUnbinnedNLL(LearnedLoss, zfit.loss.ExtendedUnbinnedNLL):
    r"""Extended likelihood, :math:`n(\theta) - \sum_i w_i \log( n(\theta) p(x_i | \theta))` plus constraints.

    The constant :math:`\log n!` is left out. Everything else is as for :class:`UnbinnedNLL`.

    Args:
        model: Extended PDF, or list of extended PDFs for several channels.
        data: As for `UnbinnedNLL`.
        fit_range: Not supported.
        constraints: As for `UnbinnedNLL`.
        options: As for `UnbinnedNLL`.
        weights: As for `UnbinnedNLL`.

    Raises:
        ValueError: If a model is not extended; as for `UnbinnedNLL`.

    Example:
        >>> n = zfit.Parameter("n", 3.0, 0, 100)
        >>> flat = zfit.pdf.Uniform(0.0, 1.0, obs=zfit.Space("y", 0, 1), extended=n)
        >>> nll = ExtendedUnbinnedNLL(flat, {"y": [0.3, 0.8]})
        >>> float(nll.gradient([n])[0])  # 1 - 2 / 3
        0.333333...
    """


# --- kernels, each kept by the object that it belongs to ------------------------------------------------------------

_KEPT = "_zfit_fnf_kept"
_ZERO = tf.UnconnectedGradients.ZERO
_LIMITS = operator.attrgetter("_lower", "_upper")  # of a parameter, in a tenth of the time that its properties take
_making = threading.RLock()


class _Kept(dict[str, Any]):
    """What is kept by an object; it is not copied or stored with it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


def kept_by(owner: Any, kind: str, make: Callable[[], Any]) -> Any:
    """What is made once for an object, and lives as long as it does; copies make their own."""
    kept = vars(owner).get(_KEPT, {})
    if kind not in kept:
        with _making, outside_of_graphs():
            kept = vars(owner).setdefault(_KEPT, _Kept())
            if kind not in kept:
                kept[kind] = make()
    made = kept[kind]
    if isinstance(made, Term):
        made.follow_limits()
    return made


def outside_of_graphs() -> AbstractContextManager[Any]:
    """Context in which tensors have values, also while a graph is traced."""
    # Gradient tapes record nothing in an init_scope: it is entered only where there is no other way.
    return nullcontext() if tf.executing_eagerly() else tf.init_scope()


def event_kernel(model: zfit.pdf.BasePDF) -> EventKernel:
    """The kernel of a model's events, one for the life of the model."""
    return kept_by(model, "event", lambda: EventKernel(model))


def rate_kernel(model: zfit.pdf.BasePDF) -> Kernel:
    """The kernel of an extended model's rate, ``n - W log n`` as a function of the sum of weights ``W``."""

    def rate(sum_weights: tf.Tensor) -> tf.Tensor:
        expected = tf.reshape(model.get_yield().value(), ())
        return expected - tf.math.xlogy(sum_weights, expected)  # without events a rate of zero is as good as any

    return kept_by(model, "rate", lambda: Kernel(rate, model.get_params(floating=None, is_yield=True), xla=False))


def constraint_kernel(constraint: BaseConstraint) -> Kernel | NuisanceTerm:
    """The kernel of a constraint, one for the life of the constraint."""
    if isinstance(constraint, NuisanceConstraint):
        return kept_by(constraint, "constraint", lambda: NuisanceTerm(constraint))

    def value() -> tf.Tensor:
        return tf.reshape(constraint.value(), ())

    return kept_by(constraint, "constraint", lambda: Kernel(value, constraint.get_params(floating=None), xla=False))


def total_hessian(kernel: Any, calls: Iterable[tuple[Any, ...]], params: Parameters) -> tf.Tensor:
    """Hessian ``(P, P)`` with respect to ``params`` of a sum of calls; one call is in memory at a time."""
    own = [parameter for parameter in params if parameter in kernel.params]
    if not own:
        return tf.zeros((len(params), len(params)), tf.float64)
    directions = _directions(kernel.params, own)
    rows = tf.add_n([kernel.hessian_vectors(directions, *arguments) for arguments in calls])
    return select(tf.transpose(select(tf.transpose(rows), kernel.params, params)), own, params)


def _directions(own: Parameters, params: Parameters) -> tf.Tensor:
    """Unit vectors in the space of ``own`` along each of ``params``; zero for a parameter that is not among them."""
    vectors = [[float(mine is parameter) for mine in own] for parameter in params]
    return tf.reshape(tf.constant(vectors, tf.float64), (len(params), len(own)))


def select(values: tf.Tensor, own: Parameters, params: Parameters) -> tf.Tensor:
    """Rows by parameter of ``own``, in the order of ``params``; zero for a parameter that is not among them."""
    position = {parameter: index for index, parameter in enumerate(own)}
    padded = tf.pad(values, [[0, 1]] + [[0, 0]] * (values.shape.rank - 1))
    return tf.gather(padded, [position.get(parameter, len(own)) for parameter in params])


def _place(parameter: Any) -> tuple[bool, int]:
    """Where a parameter stands in tables: nuisances last, each kind in the order of definition."""
    return isinstance(parameter, Nuisance), int(parameter._unique_id.rpartition("_")[2])  # TensorFlow counts


def n_bytes(nest: Any) -> int:
    """Bytes that a nest of tensors takes, such as a chunk of prepared events."""
    return sum(tensor.dtype.size * tensor.shape.num_elements() for tensor in tf.nest.flatten(nest))


def vector(values: Sequence[tf.Tensor]) -> tf.Tensor:
    """Scalars as a vector, also if there are none."""
    return tf.stack(values) if values else tf.zeros((0,), tf.float64)


def total(tensors: Sequence[tf.Tensor], shape: tuple[int, ...] = ()) -> tf.Tensor:
    """Sum of tensors of one shape, also if there are none."""
    return tf.add_n(tensors) if tensors else tf.zeros(shape, tf.float64)


def data_version(data: zfit.Data) -> tuple[Any, ...]:
    """Objects of which another one takes the place whenever the events of SamplerData are replaced."""
    return data, getattr(data, "n_samples", None), data.weights


def same_version(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Whether the events are those that they were."""
    return all(then is now for then, now in zip(first, second, strict=True))


def _padded(values: np.ndarray, size: int, fill: Any) -> np.ndarray:
    padding = np.broadcast_to(fill, (size - len(values), *values.shape[1:]))
    return np.concatenate([values, padding]) if len(padding) else values


# --- zfit has no hooks for what follows, so functions of it are replaced by ones that look at the loss ----------------


def _warn_of_free_nuisances(zfits_own: Callable[..., Any]) -> Callable[..., Any]:
    """Likelihoods of zfit find no constraints: say so, once for each."""

    @functools.wraps(zfits_own)
    def check_precompile(loss: Any, **options: Any) -> Any:
        if not isinstance(loss, LearnedLoss) and _CHECKED not in vars(loss):
            setattr(loss, _CHECKED, True)
            params = sorted(loss.get_params(floating=None), key=_place) if loss.model else ()
            constrained = measured(loss.constraints)
            if free := [p.name for p in params if isinstance(p, Nuisance) and p not in constrained]:
                warnings.warn(
                    f"{type(loss).__name__} of zfit has no constraints of the nuisances {free}: they are free. Use "
                    "zfit_fnf.loss, which finds them, or give it constraints=zfit_fnf.param.NuisanceConstraint([...])",
                    stacklevel=outside(),
                )
        return zfits_own(loss, **options)

    return check_precompile


_CHECKED = "_zfit_fnf_nuisances_checked"
BaseLoss.check_precompile = _warn_of_free_nuisances(BaseLoss.check_precompile)


def _ask_our_losses(zfits_own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(zfits_own)
    def covariance_with_weights(
        hinv: Callable[..., Any], result: Any, params: list[zfit.Parameter], *, weightcorr: WeightCorr | None = None
    ) -> dict[Any, float]:
        if not isinstance(result.loss, LearnedLoss):
            return zfits_own(hinv, result, params, weightcorr=weightcorr)
        inverse_hessian = hinv(result=result, params=params)
        if not inverse_hessian:
            return {}
        correction = WeightCorr.ASYMPTOTIC if weightcorr is None else WeightCorr(weightcorr)
        matrix = dict_to_matrix(params, inverse_hessian)
        return matrix_to_dict(params, result.loss._weighted_covariance(matrix, params, correction))

    return covariance_with_weights


zfit.minimizers.fitresult.covariance_with_weights = _ask_our_losses(zfit.minimizers.fitresult.covariance_with_weights)

r"""Unbinned likelihoods of learned densities: drop-in replacements of zfit's losses that never leave log space.

.. math::
    \mathrm{NLL}(\theta) = \sum_\mathrm{channels} \Big[ n(\theta)
    - \sum_i w_i \log\big( n(\theta)\, p(x_i | \theta) \big) \Big] + \tfrac12 \sum_k (\nu_k - \nu_k^\mathrm{obs})^2

A loss is a sum of channels (:mod:`zfit_fnf.loss.channels`) and constraints, and each of them of terms, a
:class:`~zfit_fnf.loss.kernels.Kernel` each: a function of zfit parameters with its derivatives, compiled once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.constraint import BaseConstraint

from ..common.warning import warn
from ..densities.integral_check import PROMISED
from ..pdf import FNFPDF, components, conditions
from .channels import Channel, TermCalls, channel_kind
from .constraints import ModelConstraint, merged, warn_of_free_nuisances
from .inputs import as_list, checked_constraints, checked_models, checked_options, data_and_weights
from .kernels import (
    MAX_MEMORY,
    Parameters,
    constraint_kernel,
    outside_of_graphs,
    select,
    total,
    total_hessian,
)
from .zfit_hooks import EagerLoss, WeightCorr, before_first_evaluation

__all__ = ["ExtendedUnbinnedNLL", "LogSpaceNLL", "UnbinnedNLL"]

_BEYOND = 0.01  # of the range of a condition in the training
_FEW = 1.0  # percent of the events beyond it, from which on it is told

before_first_evaluation(warn_of_free_nuisances)


class LogSpaceNLL(EagerLoss):
    """Likelihood that is a sum of kernels and never leaves log space; base class of the losses of this package."""

    precedence = 0
    """Of two likelihoods that are added, the one with the higher precedence makes the sum, by ``sum_of(first, second)``."""
    is_toy = False
    """Whether its events are those of a toy, of which nothing is told about the finite simulation behind the model."""

    def sum_of(self, first: Any, second: Any) -> Any:
        """The sum of this likelihood, which is one of the two, and another one."""
        raise NotImplementedError

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
        kinds = [self.kind_of(one) for one in models]
        counted = zip(models, self.extended_flags(models), strict=True)
        if plain := [pdf.name for pdf, extended in counted if extended and not pdf.is_extended]:
            raise ValueError(f"an extended likelihood needs a yield for {plain}: give them extended=")
        given = zip(kinds, models, data_and_weights(models, data, weights), strict=True)
        super().__init__(
            model=models,
            data=[kind.checked(one, *events) for kind, one, events in given],
            constraints=checked_constraints(constraints),
            options=checked_options(options),
        )
        triples = zip(self.model, self.data, self.extended, strict=True)
        self._channels = [self.make_channel(one, events, extended=extended) for one, events, extended in triples]
        self._warned: set[str] = set()

    def kind_of(self, model: Any) -> type[Channel]:
        """The class of channels for a model."""
        if isinstance(model, zfit.pdf.BaseBinnedPDF):
            raise TypeError(
                f"model= of {type(self).__name__} is a PDF of unbinned events; got the binned {model.name!r}. "
                "zfit_fnf.loss.NLL takes models of all kinds"
            )
        return channel_kind(model)

    def extended_flags(self, models: Sequence[Any]) -> list[bool]:
        """For each of the models, whether the number of events is a part of the likelihood."""
        return [self.is_extended] * len(models)

    @property
    def extended(self) -> list[bool]:
        """For each channel, whether the number of events is a part of the likelihood."""
        return self.extended_flags(self.model)

    def merge_constraints(self, constraints: list[BaseConstraint]) -> list[BaseConstraint]:
        """Each auxiliary measurement once, those of the nuisances and of the models included."""
        own = [constraint for model in self.model for constraint in getattr(model, "auxiliary_measurements", ())]
        return merged(checked_constraints(constraints), self.model_params(floating=None), own)

    def made_of(self) -> dict[str, Any]:
        """Arguments of the constructor, with which it is made again in another process."""
        models, data = list(self.model), list(self.data)
        constraints = [one for one in self.constraints if not isinstance(one, ModelConstraint)]
        return {"model": models, "data": data, "constraints": constraints, "options": self.options}

    @classmethod
    def get_repr(cls) -> Any:
        """Not available: zfit would read a likelihood of its own, without the constraints of nuisances."""
        raise NotImplementedError(f"{cls.__name__} cannot be written by zfit: save densities with zfit_fnf.save")

    def __getstate__(self) -> dict[str, Any]:
        """All but what is collected when it is needed."""
        return {**vars(self), "_known_params": {}}

    @property
    def max_memory(self) -> float:
        """Bytes of precomputed events that are kept, an option."""
        return float(self.options.get("max_memory", MAX_MEMORY))

    def value(self, *, params: Any = None, full: bool | None = None) -> tf.Tensor:
        """The negative log-likelihood, without the constant ``log n!`` of an extended one.

        Args:
            params: Values of parameters, by name; those left out have their current values.
            full: Nothing is left out in either case; unless ``False``, nuisances and given conditions outside of the range
                in which their density was trained are reported in a warning, once each.

        Returns:
            Scalar, float64.
        """
        result = super().value(params=params, full=full)
        if full is not False and tf.executing_eagerly():
            self._refuse_undefined_parameters(result)
            self._warn_outside_windows()
        return result

    # --- the terms ----------------------------------------------------------------------------------------------------

    @property
    def channels(self) -> list[Channel]:
        """The measurements; another model or data set, put in the place of one, makes another channel."""
        if not len(self.model) == len(self.data) == len(self._channels):
            raise ValueError("models and data cannot be appended to a likelihood: make another one and add the two")
        for index, (model, data) in enumerate(zip(self.model, self.data, strict=True)):
            known = self._channels[index]
            if known.model is not model or known.data is not data:
                self.data[index] = self.kind_of(model).checked(model, data, None)
                self._channels[index] = self.make_channel(model, self.data[index], extended=known.extended)
        return self._channels

    def precomputed_channels(self) -> list[Channel]:
        """The channels, with what is precomputed of their events as they are now."""
        for channel in (channels := self.channels):
            if not channel.is_current():
                with outside_of_graphs():
                    self.forget()
                    channel.precompute(self._memory_for(channel.data))
        return channels

    def make_channel(self, model: Any, data: Any, *, extended: bool) -> Channel:
        """A channel of this likelihood."""
        return self.kind_of(model)(model, data, extended=extended)

    def _memory_for(self, data: Any) -> float:
        """Bytes for what is precomputed of one of the data sets."""
        return self.max_memory * int(data.num_entries) / max(sum(int(one.num_entries) for one in self.data), 1)

    def terms(self) -> Iterator[TermCalls]:
        """Kernels, with the arguments of all calls whose results add up."""
        for channel in self.precomputed_channels():
            yield from channel.terms()
        yield from ((constraint_kernel(constraint), [()]) for constraint in self.constraints)

    def constraint_hessian(self, params: Parameters) -> np.ndarray:
        """Hessian ``(P, P)`` of the constraints."""
        parts = [total_hessian(constraint_kernel(constraint), [()], params) for constraint in self.constraints]
        return np.asarray(total(parts, (len(params), len(params))))

    # --- what zfit calls ----------------------------------------------------------------------------------------------

    def compute_value(self) -> tf.Tensor:
        """The negative log-likelihood, a scalar."""
        return total([kernel.value(*arguments) for kernel, calls in self.terms() for arguments in calls])

    def compute_value_gradient(self, params: Parameters, *, coarse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The negative log-likelihood and its gradient ``(P,)``, exact also where a coarse one would do."""
        del coarse
        values, gradients = [], []
        for kernel, calls in self.terms():
            results = [kernel.value_gradient(*arguments) for arguments in calls]
            values.append(tf.add_n([value for value, _ in results]))
            gradients.append(select(tf.add_n([gradient for _, gradient in results]), kernel.params, params))
        return total(values), total(gradients, (len(params),))

    def compute_hessian(self, params: Parameters) -> tf.Tensor:
        """The Hessian ``(P, P)``."""
        parts = [total_hessian(kernel, calls, params) for kernel, calls in self.terms()]
        return total(parts, (len(params), len(params)))

    # --- weighted data ------------------------------------------------------------------------------------------------

    @property
    def weights_differ(self) -> bool:
        """Whether the data have weights other than one, in bins or event by event."""
        sums = [channel.sums_of_weights() for channel in self.channels]
        return not all(math.isclose(total, squares, rel_tol=1e-9) for total, squares in sums)

    def score_covariance(
        self, params: Parameters, weigh: Callable[[np.ndarray], np.ndarray], *, n_events: float = np.inf
    ) -> np.ndarray:
        r"""Sum :math:`\sum f(w_i) g_i g_i^T` ``(P, P)`` of all channels, see :meth:`Channel.score_covariance`.

        With ``f`` the square it is the covariance of the score of the data.
        """
        parts = [channel.score_covariance(params, weigh, n_events=n_events) for channel in self.precomputed_channels()]
        return np.sum(parts, axis=0)

    def weighted_covariance(
        self, inverse_hessian: np.ndarray, params: Parameters, correction: WeightCorr
    ) -> np.ndarray:
        r"""Sandwich :math:`H^{-1} (D + C) H^{-1}` with the covariances of the scores of data and constraints.

        The outcome of an auxiliary measurement fluctuates as the constraint says: the covariance ``C`` of its score is
        its Hessian (the identity for nuisances), not the square of its gradient at the one outcome that was observed.
        """
        constraint = inverse_hessian @ self.constraint_hessian(params) @ inverse_hessian
        if correction == WeightCorr.ASYMPTOTIC:
            return inverse_hessian @ self.score_covariance(params, np.square) @ inverse_hessian + constraint
        total_weight, squares = np.sum([channel.sums_of_weights() for channel in self.precomputed_channels()], axis=0)
        scale = squares / total_weight if total_weight else 1.0
        # D is the Hessian of the data times a number: no inverse is needed, which there is none of at a limit.
        return scale * (inverse_hessian - constraint) + constraint

    # --- the trained range --------------------------------------------------------------------------------------------

    def _refuse_undefined_parameters(self, value: tf.Tensor) -> None:
        if np.isnan(value) and (undefined := [p.name for p in self.get_params(floating=None) if np.isnan(p.value())]):
            raise ValueError(f"the values of {undefined} are not numbers: set them before the likelihood is evaluated")

    def _warn_outside_windows(self) -> None:
        value_of = functools.cache(lambda parameter: float(parameter.value()))  # several densities share a nuisance
        for pdf in (part for model in self.model for part in components(model)):
            if isinstance(pdf, FNFPDF):
                self._warn_of_integral(pdf)
            for name, (parameter, low, high) in getattr(pdf, "trained_windows", {}).items():
                value = value_of(parameter)
                if not low <= value <= high and name not in self._warned:
                    self._warned.add(name)
                    warn(
                        f"nuisance {name!r} is at {value:.3g}, outside of the range ({low:g}, {high:g}) in which the "
                        f"response of {pdf.name!r} was trained: the density there is an extrapolation. Train with "
                        "variations further out, or check the model"
                    )
        for channel in self.channels:
            for pdf in components(channel.model):
                for name, (low, high) in getattr(pdf, "trained_conditions", {}).items():
                    room = _BEYOND * (high - low)  # the last event of a training is not at its end
                    self._warn_of_condition(channel, pdf, name, low - room, high + room)

    def _warn_of_condition(self, channel: Channel, pdf: Any, name: str, low: float, high: float) -> None:
        """Of a condition that is given, or that nothing describes, where a density was not trained."""
        key, where = f"condition {name} of {pdf.name}", "is at {:.4g}"
        if key in self._warned:
            return
        if name in pdf.given_conditions:
            value = pdf.given_conditions[name]
            is_outside = not low <= value <= high
        elif name in conditions(channel.model) and name in channel.data.obs:
            values = np.asarray(channel.data.value())[:, channel.data.obs.index(name)]
            value = 100.0 * float(np.mean((values < low) | (values > high))) if len(values) else 0.0
            is_outside, where = value > _FEW, "of {:.2g} % of the events is"
            self._warned.add(key)  # they are looked at once
        else:
            return
        if is_outside:
            self._warned.add(key)
            warn(
                f"condition {name!r} of {pdf.name!r} {where.format(value)} outside of the range ({low:.4g}, {high:.4g}) in "
                "which it was trained: the density there is an extrapolation. Simulate further out"
            )

    def _warn_of_integral(self, pdf: FNFPDF) -> None:
        reweighting, key = pdf.deformation.reweighting, f"integral of {pdf.name}"
        if reweighting is None or key in self._warned:
            return
        if (error := reweighting.check.error(pdf.nu().numpy())) > PROMISED:
            self._warned.add(key)
            warn(
                f"the density of {pdf.name!r} with its log-ratios is not normalised at these values of its nuisances: its "
                f"integral is wrong by {error:.1g}, where {PROMISED:g} is promised. A fit is wrong by as much per event. Train "
                f"the deformation with map=False or with ratio=False, and compare the fits"
            )


class UnbinnedNLL(LogSpaceNLL, zfit.loss.UnbinnedNLL):
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


class ExtendedUnbinnedNLL(LogSpaceNLL, zfit.loss.ExtendedUnbinnedNLL):
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

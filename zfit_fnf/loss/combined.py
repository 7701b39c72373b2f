r"""Likelihoods of channels of any kinds, and the sum of any two likelihoods.

A sum shares parameters by name. Where both terms have a parameter of one name, and one of them can do with another parameter
(those of :mod:`zfit_fnf.pyhf` can), it takes that of the other; else they must be one object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.constraint import BaseConstraint
from zfit.core.loss import NONE, BaseLoss

from .binned import BinnedChannel
from .channels import Channel, channel_kind
from .constraints import FoundConstraint, ModelConstraint
from .inputs import as_list, common_options
from .kernels import Term
from .losses import ExtendedUnbinnedNLL, LogSpaceNLL, UnbinnedNLL
from .zfit_hooks import add_by, loss_options

__all__ = ["NLL", "OtherLikelihood", "as_term", "combined", "sharing"]

_SUMS_OF_ZFIT = (
    zfit.loss.UnbinnedNLL,
    zfit.loss.ExtendedUnbinnedNLL,
    zfit.loss.BinnedNLL,
    zfit.loss.ExtendedBinnedNLL,
)


class NLL(LogSpaceNLL):
    r"""Negative log-likelihood of channels of any kinds, :math:`\sum -\log L_\mathrm{channel}`, plus constraints.

    Unbinned and binned PDFs of zfit, learned ones and those of HistFactory stand beside each other. What is said of
    `UnbinnedNLL` about constraints, weights and options is true here too. The sum of any two likelihoods is one of these,
    if they are of different kinds.

    Args:
        model: PDF, or list of PDFs, one for each channel.
        data: Events as for `UnbinnedNLL`, or for a binned PDF its counts: binned data of zfit, a histogram with the same
            bins, an array, or events, which are filled into the bins.
        fit_range: Not supported.
        constraints: As for `UnbinnedNLL`.
        options: As for `UnbinnedNLL`.
        weights: As for `UnbinnedNLL`.
        extended: For each channel, whether the number of events is a part of the likelihood; by default, whether the
            model has a yield.

    Raises:
        TypeError: As for `UnbinnedNLL`.
        ValueError: As for `UnbinnedNLL`; if counts are negative or in other bins.

    Example:
        >>> nll = NLL([unbinned, binned], [events, histogram])
        >>> nll = zfit_fnf.loss.ExtendedUnbinnedNLL(unbinned, events) + zfit.loss.ExtendedBinnedNLL(binned, histogram)
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
        extended: bool | Sequence[bool] | None = None,
    ):
        self._errordef = 0.5
        self._extended = None if extended is None else as_list(extended)
        super().__init__(model, data, fit_range, constraints, options, weights=weights)

    def kind_of(self, model: Any) -> type[Channel]:
        """The class of channels for a model."""
        return channel_kind(model)

    def extended_flags(self, models: Sequence[Any]) -> list[bool]:
        """For each of the models, whether the number of events is a part of the likelihood."""
        if self._extended is None:
            self._extended = [bool(model.is_extended) for model in models]
        if len(self._extended) != len(models):
            raise ValueError(f"extended= has {len(self._extended)} values for {len(models)} models")
        return self._extended

    @property
    def is_extended(self) -> bool:
        """Whether the number of events is a part of the likelihood in any channel."""
        return any(self.extended)

    @property
    def is_weighted(self) -> bool:
        """Whether events have weights, or counts other variances than Poisson numbers."""
        binned = (channel for channel in self._channels if isinstance(channel, BinnedChannel))
        return super().is_weighted or any(not math.isclose(*channel.sums_of_weights()) for channel in binned)

    def _loss_func(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        del args, kwargs  # its own model, data and constraints
        return self.compute_value()

    def create_new(
        self, model: Any = NONE, data: Any = NONE, fit_range: Any = NONE, constraints: Any = NONE, options: Any = NONE
    ) -> NLL:
        """A likelihood with something else in the place of a part.

        Args:
            model: Models; if there are as many as there were, the same channels are extended.
            data: Data of every channel.
            fit_range: Not supported.
            constraints: Constraints in place of those that there are.
            options: As for `UnbinnedNLL`.
        """
        given = {"model": model, "data": data, "fit_range": fit_range, "constraints": constraints, "options": options}
        arguments = {**self.made_of(), **{name: value for name, value in given.items() if value is not NONE}}
        if len(as_list(arguments["model"])) != len(self.model):
            arguments["extended"] = None
        return type(self)(**arguments)

    def made_of(self) -> dict[str, Any]:
        """Arguments of the constructor, with which it is made again in another process."""
        return {**super().made_of(), "extended": list(self.extended)}


class OtherLikelihood(BaseConstraint):
    """A loss of zfit that is no sum of channels, as a term of a likelihood.

    A function of parameters stays as it is in pseudo-experiments. A loss with data, like a chi-squared, cannot take part in them.

    Attributes:
        measured: No parameters.
        observed: No global observables.
    """

    measured: tuple[zfit.Parameter, ...] = ()
    observed: tuple[zfit.Parameter, ...] = ()

    def __init__(self, loss: BaseLoss):
        self.constraints = list(loss.constraints)
        self.loss = loss.create_new(constraints=[]) if self.constraints else loss
        self.scale = 0.5 / float(loss.errordef)  # of a negative log-likelihood
        params = {parameter.name: parameter for parameter in loss.get_params(floating=None)}
        super().__init__(params=params, name=type(loss).__name__)

    def as_term(self) -> Term:
        """The kernel."""
        return OtherTerm(self)

    def expected_outcome(self) -> np.ndarray:
        """None, ``(0,)``.

        Raises:
            ValueError: If the loss has data.
        """
        if self.loss.data:
            raise ValueError(
                f"the data of {type(self.loss).__name__} cannot be drawn: for pseudo-experiments, replace it by a likelihood "
                "like zfit.loss.ExtendedBinnedNLL"
            )
        return np.zeros(0)

    def draw_outcome(self, rng: np.random.Generator) -> np.ndarray:
        """As `expected_outcome`."""
        del rng
        return self.expected_outcome()

    def _value(self) -> tf.Tensor:
        return self.scale * tf.convert_to_tensor(self.loss.value(full=True))


class OtherTerm(Term):
    """Kernel of an `OtherLikelihood`, with the derivatives that the loss has."""

    def __init__(self, likelihood: OtherLikelihood):
        super().__init__(likelihood.params.values())
        self._loss, self._scale = likelihood.loss, likelihood.scale

    def value(self) -> tf.Tensor:
        return self._scale * tf.convert_to_tensor(self._loss.value(full=True))

    def value_gradient(self) -> tuple[tf.Tensor, tf.Tensor]:
        value, gradient = self._loss.value_gradient(list(self.params), full=True)
        return self._scale * tf.convert_to_tensor(value), self._scale * tf.stack(gradient)

    def hessian_vectors(self, directions: tf.Tensor) -> tf.Tensor:
        return self._scale * directions @ tf.convert_to_tensor(self._loss.hessian(list(self.params)))


# --- sums -------------------------------------------------------------------------------------------------------------


def combined(first: BaseLoss, second: BaseLoss) -> Any:
    """The sum of two likelihoods of any kinds, of this package or of zfit.

    Raises:
        ValueError: If they have two parameters of one name that cannot be one; if one of them cannot be added to others.
    """
    for loss in sorted((first, second), key=lambda loss: getattr(loss, "precedence", 0), reverse=True):
        if isinstance(loss, LogSpaceNLL) and loss.precedence:
            return loss.sum_of(first, second)
    terms = sharing(as_term(first), as_term(second))
    losses = [term for term in terms if isinstance(term, LogSpaceNLL)]
    if not losses:
        raise ValueError(
            f"{type(first).__name__} and {type(second).__name__} of zfit are no likelihoods of data: add one of those first"
        )
    constraints = [constraint for loss in losses for constraint in loss.constraints]
    for other in (term for term in terms if isinstance(term, OtherLikelihood)):
        constraints += [other, *other.constraints]
    kinds = {type(loss) for loss in losses}
    kind = type(losses[0]) if len(kinds) == 1 else NLL
    return kind(
        [model for loss in losses for model in loss.model],
        [data for loss in losses for data in loss.data],
        constraints=constraints,
        options=common_options(*(loss.options for loss in losses)),
        **({"extended": [flag for loss in losses for flag in loss.extended]} if kind is NLL else {}),
    )


add_by(combined)


def as_term(loss: BaseLoss) -> LogSpaceNLL | OtherLikelihood:
    """A likelihood as a sum of channels, if it is one; otherwise as a constraint."""
    if type(loss) in (UnbinnedNLL, ExtendedUnbinnedNLL, NLL):
        return loss
    if isinstance(loss, LogSpaceNLL):
        raise ValueError(f"{type(loss).__name__} cannot be added to another likelihood")
    if type(loss) not in _SUMS_OF_ZFIT:
        return OtherLikelihood(loss)
    if any(limits is not None for limits in loss.fit_range):
        raise ValueError("a likelihood with fit_range= cannot be added to others: cut the data instead")
    return NLL(
        loss.model,
        loss.data,
        constraints=loss.constraints,
        options=loss_options(loss),
        extended=[loss.is_extended] * len(loss.model),
    )


def sharing(first: Any, second: Any) -> tuple[Any, Any]:
    """Both terms with one parameter for each name.

    Raises:
        ValueError: If two parameters of one name cannot be one.
    """
    known = {parameter.name: parameter for parameter in first.get_params(floating=None)}
    to_first, to_second = {}, {}
    for parameter in second.get_params(floating=None):
        if (other := known.get(parameter.name, parameter)) is parameter:
            continue
        if _can_replace(second, parameter):
            to_second[parameter] = other
        elif _can_replace(first, other):
            to_first[other] = parameter
        else:
            raise ValueError(
                f"both terms of the sum have a parameter called {parameter.name!r}, and they are not the same one: make both "
                "models with one zfit.Parameter, or give one of them another name"
            )
    return _with_params(first, to_first), _with_params(second, to_second)


def _can_replace(loss: Any, parameter: zfit.Parameter) -> bool:
    """Whether another parameter can be put in the place of one."""
    models = [model for model in getattr(loss, "model", ()) if parameter in model.get_params(floating=None)]
    given = [one for one in loss.constraints if not isinstance(one, (FoundConstraint, ModelConstraint))]
    constrained = any(parameter in constraint.get_params(floating=None) for constraint in given)
    return bool(models) and not constrained and all(hasattr(model, "with_params") for model in models)


def _with_params(loss: Any, others: Mapping[zfit.Parameter, zfit.Parameter]) -> Any:
    """A likelihood whose models have other parameters in the places of some."""
    if not others:
        return loss
    models = [
        model.with_params(others) if others.keys() & model.get_params(floating=None) else model for model in loss.model
    ]
    return loss.create_new(model=models)

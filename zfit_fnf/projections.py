r"""A model's prediction as weighted events, from which its distribution in any column can be histogrammed.

Integrating a density over all observables but one has no closed form; a large sample of each component has it for free, in
any dimension and for any PDF.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.result import FitResult

from .param import Nuisance
from .pdf import SumPDF, log_density, prepare
from .samples import Sample
from .toys import _seeded

_CHUNK = 10_000


def component_samples(
    model: zfit.pdf.BasePDF, *, total: float | None = None, n_events: int = 100_000, seed: int = 0
) -> dict[str, Sample]:
    """Draw events of each component of a model at the current values of the parameters.

    Args:
        model: The model: a sum of PDFs, or a PDF, which then is its only component.
        total: Number of events that the model stands for; by default its yield.
        n_events: Number of events to draw of each component.
        seed: Seed of the events.

    Returns:
        For each component, by its label, a sample whose weights sum to the expected number of events.

    Raises:
        ValueError: If the model has no yield and ``total`` is not given, or components have the same label.

    Example:
        >>> parts = component_samples(model, seed=1)
        >>> zfit_fnf.plotting.projection(data, parts, "mass")
    """
    if total is None:
        if not model.is_extended:
            raise ValueError(f"model {model.name!r} has no yield: give the number of events as total=")
        total = float(model.get_yield().value())
    parts = list(model.pdfs) if isinstance(model, (SumPDF, zfit.pdf.SumPDF)) else [model]
    labels = [str(part.label or part.name) for part in parts]
    if len(set(labels)) < len(labels):
        raise ValueError(f"the components of {model.name!r} have the labels {labels}: give each its own label=")
    with _seeded(seed):
        return {
            label: _sample(part, model, share * total, n_events)
            for label, part, share in zip(labels, parts, _shares(model), strict=True)
        }


@dataclass(frozen=True, eq=False)
class VariedSample:
    """A model's prediction with one nuisance moved at a time, made by `vary`.

    The events are drawn once and get other weights where a nuisance has moved: the statistical fluctuations of the sample
    cancel in ratios.

    Attributes:
        nominal: Events of the prediction before the fit, with all nuisances at their observed values.
        prefit: Weights for each nuisance at -1 and +1 standard deviation, by name.
        postfit: Weights for each nuisance at its best fit minus and plus its error, by name.
        titles: Label of each nuisance, by name.
    """

    nominal: Sample
    prefit: dict[str, tuple[np.ndarray, np.ndarray]]
    postfit: dict[str, tuple[np.ndarray, np.ndarray]]
    titles: dict[str, str]


def vary(
    model: zfit.pdf.BasePDF,
    result: FitResult,
    *,
    nuisances: Sequence[Nuisance] | None = None,
    n_events: int = 50_000,
    seed: int = 0,
) -> VariedSample:
    r"""Predict what each nuisance does to the distributions of a model, before and after a fit.

    One nuisance is moved, the others stay at their observed values, and all other parameters at their best fit. An event with
    density :math:`p` and :math:`n` expected events gets the weight :math:`n' p' / (n p)` relative to the nominal one.

    Args:
        model: The model.
        result: The fit, with errors by `FitResult.hesse`.
        nuisances: Which to move; by default all that were fitted.
        n_events: Number of events to draw.
        seed: Seed of the events.

    Returns:
        The events with their weights. Parameters are left as they are.

    Raises:
        ValueError: If a nuisance was not fitted, or has no HESSE error.

    Example:
        >>> varied = vary(model, result)
        >>> zfit_fnf.plotting.variations(varied, "jes", "mass")
    """
    known = fitted_nuisances(result)
    moved = known if nuisances is None else list(nuisances)
    best = {parameter: float(result.params[parameter]["value"]) for parameter in result.params}
    errors = {nuisance: hesse_error(result, nuisance) for nuisance in moved}
    before = {**best, **{nuisance: float(nuisance.observed.value()) for nuisance in known}}
    with zfit.param.set_values(before, clip=True):
        with _seeded(seed):
            nominal = _sample(model, model, float(model.get_yield().value()) if model.is_extended else 1.0, n_events)
        weights = _Reweighting(model, nominal)
        prefit = {nu.name: (weights(nu, before[nu] - 1.0), weights(nu, before[nu] + 1.0)) for nu in moved}
        postfit = {nu.name: (weights(nu, best[nu] - errors[nu]), weights(nu, best[nu] + errors[nu])) for nu in moved}
    return VariedSample(nominal, prefit, postfit, {nu.name: str(nu.label) for nu in moved})


def fitted_nuisances(result: FitResult) -> list[Nuisance]:
    """The nuisances among the fitted parameters.

    Args:
        result: The fit.
    """
    return [parameter for parameter in result.params if isinstance(parameter, Nuisance)]


def hesse_error(result: FitResult, parameter: zfit.Parameter) -> float:
    """Symmetric error of a fitted parameter.

    Args:
        result: The fit, after `FitResult.hesse`.
        parameter: The parameter.

    Raises:
        ValueError: If it was not fitted, or has no such error.
    """
    if parameter not in result.params:
        raise ValueError(f"{parameter.name!r} was not fitted; the fit has {[known.name for known in result.params]}")
    found = result.params[parameter].get("hesse")
    if not found:
        raise ValueError(f"{parameter.name!r} has no HESSE error: call result.hesse() first")
    return float(found["error"])


class _Reweighting:
    """Weights that events of a model have when a parameter is moved from where it is now.

    Args:
        model: The model.
        events: Its events, with their weights now.
    """

    def __init__(self, model: zfit.pdf.BasePDF, events: Sample):
        self._model, self._now = model, events.weights
        x = events.array(model.obs)
        self._prepared = [prepare(model, tf.constant(x[start : start + _CHUNK])) for start in range(0, len(x), _CHUNK)]
        self._reference = self._log_rate()

    def __call__(self, parameter: zfit.Parameter, value: float) -> np.ndarray:
        with zfit.param.set_values([parameter], [value], clip=True):
            return self._now * np.exp(self._log_rate() - self._reference)

    def _log_rate(self) -> np.ndarray:
        """Logarithm of the expected density of events."""
        total = self._model.get_yield().value() if self._model.is_extended else 1.0
        return np.concatenate([log_density(self._model, chunk) for chunk in self._prepared]) + np.log(total)


def _sample(pdf: zfit.pdf.BasePDF, model: zfit.pdf.BasePDF, total: float, n_events: int) -> Sample:
    """Events of a component, with weights that sum to ``total``, over the range and in the observables of the model."""
    events = np.asarray(pdf.sample(n=n_events, limits=model.norm).with_obs(model.obs).value())
    columns = dict(zip(model.obs, events.T, strict=True))
    return Sample(columns, weights=np.full(n_events, total / n_events), name=str(pdf.label or pdf.name))


def _shares(model: zfit.pdf.BasePDF) -> np.ndarray:
    """Fractions of the components."""
    if not isinstance(model, (SumPDF, zfit.pdf.SumPDF)):
        return np.ones(1)
    weights = model.weights() if isinstance(model, SumPDF) else [fraction.value() for fraction in model.params.values()]
    return np.asarray(weights, float) / np.sum(weights)

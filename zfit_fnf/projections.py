r"""A model's prediction as weighted events, from which its distribution in any column can be histogrammed.

The integral of a density over all observables but one has no closed form. A large sample of each component gives it in any
dimension and for any PDF.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from .arguments import check_result, covariance_of, warn_of_extrapolation
from .common.warning import warn
from .loss import EventDensity, drawn_events
from .param import LINEAR, Nuisance, limits_of, principal_shifts
from .pdf import expected_events, folds_of, sum_components, sum_shares
from .samples import Sample
from .state import Known, known_before, seeds_from
from .toys import Values

__all__ = [
    "PostfitBand",
    "VariedSample",
    "component_samples",
    "fitted_nuisances",
    "hesse_error",
    "postfit_band",
    "vary",
]


def component_samples(
    model: zfit.pdf.BasePDF,
    *,
    params: Values | None = None,
    total: float | None = None,
    n_events: int = 100_000,
    seed: int = 0,
) -> dict[str, Sample]:
    """Draw events of each component of a model.

    Args:
        model: The model: a sum of PDFs, or a PDF, which then is its only component.
        params: Parameter values to draw at, e.g. ``result.values``; those left out have their current values.
        total: Expected number of events; by default the yield of the model.
        n_events: Number of events to draw of each component.
        seed: Seed of the events.

    Returns:
        For each component, by its label, a sample whose weights sum to the expected number of events.

    Raises:
        ValueError: If the model has no yield and ``total`` is not given, or components have the same label.

    Example:
        >>> parts = component_samples(model, params=result.values, seed=1)
        >>> zfit_fnf.plotting.projection(data, parts, "mass")
    """
    if total is None and not model.is_extended:
        raise ValueError(f"model {model.name!r} has no yield: give the number of events as total=")
    folds = [sum_components(fold) for fold in folds_of(model)]
    labels = [str(part.label or part.name) for part in folds[0]]
    if len(set(labels)) < len(labels):
        raise ValueError(f"the components of {model.name!r} have the labels {labels}: give each its own label=")
    values = dict(params.items()) if params else {}  # a dict also of `FitResult.values`, which is not one
    seeds = seeds_from(seed)
    with zfit.param.set_values(values, clip=True):
        yields = sum_shares(folds_of(model)[0]) * (expected_events(model) if total is None else total)
        return {
            label: _sample(parts, model, expected, n_events, seeds)
            for label, *parts, expected in zip(labels, *folds, yields, strict=True)
        }


@dataclass(frozen=True, eq=False)
class VariedSample:
    """A model's prediction with one nuisance moved at a time, made by `vary`.

    Attributes:
        nominal: Events of the prediction with all nuisances at their observed values.
        prefit: Weights of the events with a nuisance at -1 and at +1 standard deviation, by its name.
        postfit: Weights with a nuisance at its best fit minus and plus its error, by its name.
        labels: Label of each nuisance, by its name.
    """

    nominal: Sample
    prefit: dict[str, tuple[np.ndarray, np.ndarray]]
    postfit: dict[str, tuple[np.ndarray, np.ndarray]]
    labels: dict[str, str]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each event: its columns, ``weight``, and weights such as ``jes_prefit_down`` of each nuisance."""
        moved = {
            f"{name}_{stage}_{side}": weights
            for stage in ("prefit", "postfit")
            for name, pair in getattr(self, stage).items()
            for side, weights in zip(("down", "up"), pair, strict=True)
        }
        return _table(self.nominal).assign(**moved)

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; of the events the columns and, as ``weight``, the weights."""
        moved = {
            stage: {name: [weights.tolist() for weights in pair] for name, pair in getattr(self, stage).items()}
            for stage in ("prefit", "postfit")
        }
        return {"nominal": _table(self.nominal).to_dict(orient="list"), **moved, "labels": dict(self.labels)}


def _table(sample: Sample) -> pd.DataFrame:
    """Columns and ``weight`` of events."""
    weights = np.ones(sample.n_events) if sample.weights is None else sample.weights
    return pd.DataFrame({**sample.columns, "weight": weights})


def vary(
    model: zfit.pdf.BasePDF,
    result: FitResult,
    components: Mapping[str, Sample],
    *,
    nuisances: Sequence[Nuisance] | None = None,
) -> VariedSample:
    r"""Predict the effect of each nuisance on the distributions of a model, before and after a fit.

    One nuisance is moved, the others stay at their observed values, and all other parameters at their best fit. Nothing
    is drawn: with the expected density :math:`n p` at the best fit and :math:`n' p'` elsewhere, an event's weight
    changes by :math:`n' p' / (n p)`. Most of the statistical fluctuations cancel in ratios.

    Args:
        model: The model.
        result: The fit, with errors by `FitResult.hesse`.
        components: Events of its components at the best fit, from `component_samples`.
        nuisances: Which to move; by default all that were fitted.

    Returns:
        The events with their weights. Parameters are left as they are.

    Warns:
        UserWarning: If limits of a nuisance are closer than a step of it, whose variation is then too small; if a step before
            the fit leaves the range in which its response was trained.

    Raises:
        ValueError: If a nuisance was not fitted, or has no HESSE error.

    Example:
        >>> varied = vary(model, result, component_samples(model, params=result.values))
        >>> zfit_fnf.plotting.variations(varied, "jes", "mass")
    """
    check_result(result, model.get_params(floating=None))
    moved = fitted_nuisances(result) if nuisances is None else list(nuisances)
    errors = {nuisance: hesse_error(result, nuisance) for nuisance in moved}
    best = {parameter: float(result.params[parameter]["value"]) for parameter in result.params}
    unit = {nuisance: Known(float(nuisance.observed.value()), 1.0, {}) for nuisance in fitted_nuisances(result)}
    known = {**unit, **known_before(result.loss)}
    before = {**best, **{nuisance: known[nuisance].value for nuisance in fitted_nuisances(result)}}
    drawn = _together(model, components)
    log_rate = _LogRate(model, drawn)
    reference = log_rate(best)

    steps = [(one, before[one], known[one].error) for one in moved] + [(one, best[one], errors[one]) for one in moved]
    ends = [(one.name, limits_of(one), centre - width, centre + width) for one, centre, width in steps]
    if cut := dict.fromkeys(name for name, (low, high), down, up in ends if not low <= down <= up <= high):
        warn(
            f"limits of {', '.join(cut)} are less than a standard deviation away, and variations end there: make them wider"
        )

    prior = [{one: before[one] + side * known[one].error for one in moved} for side in (-1, 1)]
    warn_of_extrapolation([model], prior, "variations by one standard deviation before the fit")

    def weights(nuisance: Nuisance, centre: float, width: float) -> tuple[np.ndarray, np.ndarray]:
        down, up = (log_rate({**before, nuisance: centre + side * width}) for side in (-1, 1))
        return drawn.weights * np.exp(down - reference), drawn.weights * np.exp(up - reference)

    return VariedSample(
        nominal=Sample(drawn.columns, drawn.weights * np.exp(log_rate(before) - reference), name=model.name),
        prefit={nuisance.name: weights(nuisance, before[nuisance], known[nuisance].error) for nuisance in moved},
        postfit={nuisance.name: weights(nuisance, best[nuisance], errors[nuisance]) for nuisance in moved},
        labels={nuisance.name: str(nuisance.label) for nuisance in moved},
    )


@dataclass(frozen=True, eq=False)
class PostfitBand:
    r"""Post-fit uncertainty of a model's prediction in any bins of any column, made by `postfit_band`.

    The covariance of the fit is decomposed into orthogonal directions, and the derivative along each moves the expected events
    of a bin: :math:`\\sigma^2 = \\sum_k (m_k^+ - m_k^-)^2 / 4`.

    Attributes:
        events: Events of the prediction at the best fit.
        shifts: Changes of the events' weights by a standard deviation along each direction, ``(K, n)``.
    """

    events: Sample
    shifts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON; of the events the columns and, as ``weight``, the weights."""
        return {"events": _table(self.events).to_dict(orient="list"), "shifts": self.shifts.tolist()}

    def error(self, column: str, edges: np.ndarray) -> np.ndarray:
        """Standard deviation of the expected number of events in each bin.

        Args:
            column: Which column.
            edges: Edges of the bins, ascending, ``(m + 1,)``.

        Returns:
            ``(m,)`` numbers of events.
        """
        values = self.events.columns[column]
        moved = [np.histogram(values, edges, weights=weights)[0] for weights in self.shifts]
        return np.sqrt(np.sum(np.square(moved), axis=0))


def postfit_band(model: zfit.pdf.BasePDF, result: FitResult, components: Mapping[str, Sample]) -> PostfitBand:
    """Uncertainty of a model's prediction from the covariance of a fit, for any distribution of it.

    Args:
        model: The model.
        result: The fit, with its covariance by `FitResult.hesse`.
        components: Events of its components at the best fit, from `component_samples`.

    Returns:
        The band. Parameters are left as they are.

    Raises:
        ValueError: If the fit has no finite covariance, or is one of another model.

    Warns:
        UserWarning: If parameters are at a limit, where they have no error.

    Example:
        >>> parts = component_samples(model, params=result.values)
        >>> zfit_fnf.plotting.projection(data, parts, "mass", band=postfit_band(model, result, parts))
    """
    check_result(result, model.get_params(floating=None))
    params = [parameter for parameter in result.params if parameter in model.get_params()]
    covariance = covariance_of(result, params, "a post-fit band")
    best = {parameter: float(result.params[parameter]["value"]) for parameter in result.params}
    drawn = _together(model, components)
    log_rate = _LogRate(model, drawn)
    reference = log_rate(best)

    def weights(values: np.ndarray) -> np.ndarray:
        moved = dict(zip(params, values, strict=True))
        return drawn.weights * np.exp(log_rate({**best, **moved}) - reference)

    values = np.array([best[parameter] for parameter in params])
    return PostfitBand(drawn, principal_shifts(weights, params, values, covariance, part=LINEAR))


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


class _LogRate:
    """Logarithm of the expected density of events, at any values of the parameters.

    Args:
        model: The model.
        events: The events.
    """

    def __init__(self, model: zfit.pdf.BasePDF, events: Sample):
        self._model, self._log_density = model, EventDensity(model, events.array(model.obs))

    def __call__(self, params: Values) -> np.ndarray:
        with zfit.param.set_values(params, clip=True):
            expected = expected_events(self._model) if self._model.is_extended else 1.0
            return self._log_density() + np.log(expected)


def _together(model: zfit.pdf.BasePDF, components: Mapping[str, Sample]) -> Sample:
    """Events of all components, in the observables of the model."""
    if not components:
        raise ValueError(
            "there are no events of components: make them with component_samples(model, params=result.values)"
        )
    events = {name: np.concatenate([part.columns[name] for part in components.values()]) for name in model.obs}
    return Sample(events, np.concatenate([part.weights for part in components.values()]), name=model.name)


def _sample(
    folds: Sequence[zfit.pdf.BasePDF], model: zfit.pdf.BasePDF, expected: float, n_events: int, seeds: Iterator[Any]
) -> Sample:
    """Events of a component, of all its folds, in the range of the model; their weights sum to the expected number."""
    sizes = [len(part) for part in np.array_split(np.arange(n_events), len(folds))]
    events = np.concatenate([drawn_events(model, pdf, n, next(seeds)) for pdf, n in zip(folds, sizes, strict=True)])
    pdf = folds[0]
    columns = dict(zip(model.obs, events.T, strict=True))
    return Sample(columns, weights=np.full(n_events, expected / n_events), name=str(pdf.label or pdf.name))

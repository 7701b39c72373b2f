"""Whether a fit is where its densities are known: the data, the nuisances, and the information that is claimed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from scipy import stats

from ..loss import EventDensity, LogSpaceNLL, UnbinnedChannel, drawn_events, scores
from ..minimum import hessian_here, pseudo_inverse
from ..pdf import FNFPDF, columns, components, conditions, drawn_given, plainly, sum_components, sum_shares

__all__ = ["REMEDIES", "tests_of_fit"]

_RARE = 1e-3  # share of the fitted model below whose density simulation hardly ever is
_DRAWS, _MOST = 4, 200_000  # events of the model for each of the data, and at most
_MOVED = 0.5  # errors by which such events may move a parameter more than the fit expects
_CERTAIN = 4.0  # the same, in standard deviations of what is expected
_RATIO = 1.4  # of scattered to claimed information, and its inverse

REMEDIES = {
    "window": "the fit has {of!r} at {value:.3g}, outside of where the density was trained: simulate further out",
    "far events": "{percent:.2g} % of the data are where simulation hardly ever is, and the fitted model expects 0.1 %: look at "
    "them with zfit_fnf.influence",
    "influence": "the data where simulation hardly ever is move {of!r} by {value:+.2g} of its error more than expected",
    "information": "scores scatter {value:.2f} times as much as the likelihood's information claims: errors are not right, "
    "calibrate the fit",
}
"""What to say of each test that finds something."""


def tests_of_fit(nll: LogSpaceNLL, seed: int) -> Iterator[tuple[Any, ...]]:
    """Tests of a likelihood where its parameters are: process, point, test, what is tested, value and p-value.

    What has no p-value has zero for one where it finds something, and none elsewhere.

    Args:
        nll: The likelihood; the parameters are at its best fit.
        seed: Seed of the events that are drawn.
    """
    params = list(nll.get_params())
    hessian = hessian_here(nll, params)
    covariance = pseudo_inverse(hessian)
    # First, since what it compiles gives scores of far events, too.
    # Weights count once, as in the information; squared, they would be the covariance of the sum of scores.
    scatter = nll.score_covariance(params, np.asarray) if len(params) else np.zeros((0, 0))
    for index, channel in enumerate(one for one in nll.channels if isinstance(one, UnbinnedChannel)):
        yield from _windows(channel.model)
        if int(channel.data.n_events) and not channel.data.has_weights:
            yield from _far_events(channel, params, covariance, seed + index)
    of_events = hessian - nll.constraint_hessian(params)
    if len(params):
        inverse = pseudo_inverse(of_events, rcond=1e-9)
        # Of directions that events know nothing of, such as a pruned nuisance, there is nothing to compare.
        known = float(np.trace(inverse @ of_events))
        ratio = float(np.trace(inverse @ scatter)) / known if known > 0.5 else 1.0
        yield "", "fit", "information", "all parameters", ratio, np.nan if 1 / _RATIO < ratio < _RATIO else 0.0


def _windows(model: zfit.pdf.BasePDF) -> Iterator[tuple[Any, ...]]:
    for pdf in sum_components(model):
        for part in (one for one in components(pdf) if isinstance(one, FNFPDF)):
            for name, (parameter, low, high) in part.trained_windows.items():
                value = float(parameter.value())
                if not low <= value <= high:
                    yield pdf.name, "fit", "window", name, value, 0.0


def _far_events(
    channel: UnbinnedChannel, params: list[zfit.Parameter], covariance: np.ndarray, seed: int
) -> Iterator[tuple[Any, ...]]:
    """The data below a density that the model seldom has, and what they do to the fit."""
    model = channel.model
    x = np.asarray(channel.data.with_obs(model.obs).value())
    n = int(np.clip(_DRAWS * len(x), 10 / _RARE, _MOST))
    drawn = _of_conditions(model, x, n, seed) if conditions(model) else _of_model(model, n, seed)
    below = round(_RARE * n)
    of_drawn = EventDensity(model, drawn)()
    threshold = np.sort(of_drawn)[below - 1]
    far = EventDensity(model, x)() < threshold
    p_value = float(stats.betabinom.sf(far.sum() - 1, len(x), below, n + 1 - below))
    yield model.name, "fit", "far events", "data", float(far.mean()), p_value
    if far.any():
        errors = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
        rare = scores(model, drawn[of_drawn < threshold], params, extended=channel.extended) * np.sqrt(len(x) / n)
        expected = covariance @ rare.sum(axis=0) * np.sqrt(len(x) / n) / errors
        spread = np.sqrt(np.sum((rare @ covariance) ** 2, axis=0)) / errors
        moved = covariance @ scores(model, x[far], params, extended=channel.extended).sum(axis=0) / errors - expected
        largest = int(np.argmax(np.abs(moved)))
        strange = abs(moved[largest]) > max(_MOVED, _CERTAIN * spread[largest])
        yield model.name, "fit", "influence", params[largest].name, float(moved[largest]), 0.0 if strange else np.nan


def _of_conditions(model: zfit.pdf.BasePDF, x: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Events of a conditional model, whose conditions are those of the data, each as often as the others."""
    given = columns(tf.constant(np.resize(x, (n, x.shape[1]))), model.obs, conditions(model))
    with plainly():
        return np.asarray(drawn_given(model, given, tf.constant([seed, 0], tf.int32)))


def _of_model(model: zfit.pdf.BasePDF, n: int, seed: int) -> np.ndarray:
    """Events of a model; where all shares are positive those of its components, which are compiled for a calibration too."""
    parts, shares = [model], np.ones(1)
    if (sum_shares(model) >= 0).all():
        parts, shares = sum_components(model), sum_shares(model)
    numbers = np.random.default_rng(seed).multinomial(n, shares / shares.sum())
    seeds = np.random.SeedSequence(seed).generate_state(2 * len(parts)).astype(np.int32).reshape(-1, 2)
    return np.concatenate([drawn_events(model, *one) for one in zip(parts, numbers.tolist(), seeds, strict=True)])

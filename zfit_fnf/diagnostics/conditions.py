r"""Score closure along conditions, of which a fit uses the derivative where a parameter such as a mass is `given`.

Write :math:`r_\pm(y) = \hat p(y|x \pm h) / \hat p(y|x)` for a small step. A density that is right at a condition has
:math:`E[r_\pm] = 1` over events with this condition, whatever the step, and so the mean of the score
:math:`t = (r_+ - r_-) / 2h` vanishes, as that of :math:`c = (r_+ + r_- - 2) / h^2`. The first is the bias of a fit of the
condition, the second what separates the scatter of the scores, :math:`E[t^2]`, from the information that the fit claims,
:math:`E[t^2] - E[c]`. Both are taken in windows of the condition, of events that are next to one another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats

from ..samples import Sample
from .subjects import Subject

__all__ = ["REMEDIES", "tests_of_conditions"]

_IN_WINDOW = 3000  # effective events of each, about
_WINDOWS = 8  # of a condition, at most
_FEWEST = 1000  # effective events of a window: squares of scores have tails
_STEP = 0.05  # errors of a fit to one event between which a score is a difference
_LONGEST = 0.2  # widths of the distribution of the condition, for the same
_PROBED = 5000  # events that tell how long such a step is

REMEDIES = {
    "condition": "a parameter that drives {of!r} would be off by {value:+.2g} errors in a fit to {n_data} events: train on more "
    "events there, or with smaller networks (hidden=), which are smoother along conditions",
    "information along condition": "the scores along {of!r} scatter {value:.2f} times as much as their information claims, so "
    "that errors of a parameter that drives it are not right: train on more events there, or with smaller networks (hidden=), "
    "which are smoother along conditions",
}
"""What to say of each test that finds something."""


def tests_of_conditions(subject: Subject, sample: Sample, n_data: int) -> Iterator[tuple[str, str, str, float, float]]:
    """Tests of the derivatives of a density along its conditions: window, test, condition, value and p-value.

    Args:
        subject: The density, with the conditions that a parameter may drive.
        sample: Simulated events, at nominal nuisances.
        n_data: Number of data events for which biases are predicted.
    """
    for name in subject.driven:
        longest = _LONGEST * float(sample.columns[name].std() or max(abs(float(sample.columns[name][0])), 1.0))
        for rows in _windows(sample, name):
            events = _rows(sample, rows)
            shares = events.relative_weights(np.arange(len(rows))) / len(rows)
            score, curvature = _derivatives(subject, events, name, longest)
            values = events.columns[name]
            window = f"{name} {values.min():.3g}" + (f" to {values.max():.3g}" if np.ptp(values) > 0 else "")
            mean, square, change = (float(shares @ one) for one in (score, score**2, curvature))
            if not square > 0:
                continue
            noises = [np.sqrt(np.square(shares) @ np.square(one - shares @ one)) for one in (score, curvature)]
            p_values = [
                float(2 * stats.norm.sf(abs(off) / noise)) for off, noise in zip((mean, change), noises, strict=True)
            ]
            yield window, "condition", name, float(np.sqrt(n_data) * mean / np.sqrt(square)), p_values[0]
            claimed = square - change
            ratio = square / claimed if claimed > 0 else np.inf
            yield window, "information along condition", name, ratio, p_values[1]


def _rows(sample: Sample, rows: np.ndarray) -> Sample:
    weights = None if sample.weights is None else sample.weights[rows]
    return Sample({name: values[rows] for name, values in sample.columns.items()}, weights, sample.name)


def _windows(sample: Sample, name: str) -> Iterator[np.ndarray]:
    """Rows of events whose conditions are next to one another, with as many events in each; equal ones stay together."""
    values = sample.columns[name]
    effective = sample.effective_size
    edges = np.quantile(values, np.linspace(0.0, 1.0, int(np.clip(effective // _IN_WINDOW, 1, _WINDOWS)) + 1))
    if len(distinct := np.unique(values)) <= len(edges):
        edges = np.append(distinct, np.inf)
    places = np.searchsorted(np.unique(edges)[1:-1], values, side="right")
    for place in np.unique(places):
        rows = np.flatnonzero(places == place)
        if _rows(sample, rows).effective_size >= _FEWEST:
            yield rows


def _derivatives(subject: Subject, events: Sample, name: str, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The score of each event along a condition, and what has to vanish of its curvature, ``(n,)`` each."""
    step = _step(subject, _rows(events, np.arange(min(events.n_events, _PROBED))), name, step)
    centre, up, down = (subject.log_probs(_moved(events, name, by), [{}])[0] for by in (0.0, step, -step))
    ratio_up, ratio_down = (np.exp(np.clip(np.nan_to_num(one - centre), -30.0, 30.0)) for one in (up, down))
    return (ratio_up - ratio_down) / (2 * step), (ratio_up + ratio_down - 2.0) / step**2


def _step(subject: Subject, events: Sample, name: str, step: float) -> float:
    """A step of a condition, no longer than a given one, that is small for what one event knows of it."""
    for _ in range(6):
        up, down = (subject.log_probs(_moved(events, name, by), [{}])[0] for by in (step, -step))
        length = 0.5 * float(np.sqrt(np.mean(np.square(np.clip(np.nan_to_num(up - down), -30.0, 30.0)))))
        if length <= _STEP:
            break
        step *= 0.8 * _STEP / length
    return step


def _moved(events: Sample, name: str, by: float) -> Sample:
    return Sample({**events.columns, name: events.columns[name] + by}, events.weights, events.name)

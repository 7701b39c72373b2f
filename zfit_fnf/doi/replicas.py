r"""The statistical spread of a map: what it would be for other data, to first order.

A replica counts each event Poisson(1) times, :math:`c_i`. At the best fit the derivatives :math:`g_i` of the log-density of an
event by the weights of the displacement fields sum to zero; with other counts they do not, and the map moves by

.. math:: \delta w = (I + R)^{-1} \sum_i (c_i - 1)\, g_i,

``I`` the information about the weights and ``R`` the ridge of the regression of step 2, a tenth of the diagonal at most: where
nuisances are nothing that a map could follow, it would be larger and hold back the replicas. This is one step of Fisher
scoring for any number of replicas, in one pass over the events.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import zfit  # before tensorflow, which it silences
import numpy as np

from ..common.checks import integer
from ..common.warning import warn
from ..loss import scores
from ..param import limits_of
from ..samples import Sample
from .profiled import ProfiledFit, Replica
from .regression import DisplacedLikelihood, EventsBehind, Regression
from .rows import behind, model_sample
from .step2 import events_for

__all__ = ["bootstrap", "poisson_counts"]

_RIDGE = 0.1  # of the diagonal, at most
_TRIED = 2  # replicas whose gain is compared with the expected one
_LINEAR = 0.5  # of the expected gain, at least: a step that gains less is too long to be one of first order


def poisson_counts(seed: Sequence[int], n: int) -> np.ndarray:
    """How often each of ``n`` events counts in the replica of a seed."""
    return np.random.default_rng(seed).poisson(1.0, n).astype(float)


def bootstrap(profiled: ProfiledFit, n_replicas: int, *, seed: int = 0) -> ProfiledFit:
    """Replicas of a map, as of data in which each event counts Poisson(1) times.

    Each is one step of Fisher scoring from the best fit, in the fields of step 2: all are made in one pass over the
    events. The randomness of the training of step 1 is not in them; to see it, repeat `fit_transfer` with another ``seed``.

    Args:
        profiled: The profile, which stays as it is.
        n_replicas: Number of replicas of the returned profile; a spread needs two, and fifty know it to 10 %.
        seed: Seed of the weights.

    Returns:
        The profile with its replicas.

    Raises:
        ValueError: If ``n_replicas`` or ``seed`` is out of range, or the profile is from a file of an earlier version.
        TypeError: If it is no profile.

    Warns:
        UserWarning: If the events are too few for one step.

    Example:
        >>> profiled = bootstrap(profile(fit), 50, seed=1)
    """
    if not isinstance(profiled, ProfiledFit):
        raise TypeError(f"bootstrap takes a profile made by zfit_fnf.doi.profile; got {type(profiled).__name__}")
    n_replicas, seed = integer(n_replicas, "n_replicas=", low=1), integer(seed, "seed=", low=0)
    if not profiled.transfer.displacement.constant:
        raise ValueError("this profile was made by an earlier version: repeat profile(fit), then bootstrap")
    fit, params = profiled.fit, list(profiled.parameters.values())
    with zfit.param.set_values(params, [fit.values[parameter.name] for parameter in params]):
        made = _Replicas(profiled, params)
        regression = made.regression(seed)
        labels = [(seed, index) for index in range(n_replicas)]
        steps, shifts = made.steps(regression, labels)
        made.check(regression, labels[:_TRIED], steps)
        return replace(profiled, replicas=tuple(map(made.replica, labels, steps, shifts)))


class _Replicas:
    """The fields of a profile behind its fixed map, at the best fit of step 1."""

    def __init__(self, profiled: ProfiledFit, params: Sequence[zfit.Parameter]):
        self._profiled, self._params = profiled, params
        transfer, self._displacement = profiled.transfer, profiled.transfer.displacement
        weights = self._displacement.field_weights()
        self._rest = weights[-1]
        self._directions = weights[: len(params)].T @ np.linalg.inv(transfer.axes)
        fixed = copy.deepcopy(transfer.transfer)
        self._likelihood = DisplacedLikelihood(behind(profiled.fit.model, fixed), fixed, self._displacement)

    def regression(self, seed: int) -> Regression:
        """Information about the weights of the fields where the map is best, from events of the model, and the ridge."""
        fit, pdf = self._profiled.fit, self._profiled.pdf
        drawn = model_sample(pdf, events_for(self._displacement), seed) or fit.data
        events = self._likelihood.events(drawn, float(fit.data.sum_weights), seed, frames=False)
        rows = list(self._rows(events))
        # Scores of the profile are those in which the map follows; the regression is of those with the map fixed.
        followed = np.concatenate([own @ self._directions for own, _ in rows])
        found = Regression.of(rows, scores(pdf, events.x, self._params) - followed)
        return replace(found, ridge=min(found.ridge, _RIDGE))

    def steps(self, regression: Regression, labels: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """What each replica adds to the weights of the fields ``(B, K)``, and to the parameters ``(B, P)``."""
        data, pdf = self._profiled.fit.data, self._profiled.pdf
        changes = np.stack([poisson_counts(label, data.n_events) - 1.0 for label in labels])
        changes *= 1.0 if data.weights is None else data.weights
        slopes, start = np.zeros((len(labels), self._displacement.n_fields)), 0
        for rows, _ in self._rows(self._likelihood.of_all(data)):
            stop = start + len(rows)
            slopes, start = slopes + changes[:, start:stop].astype(np.float32) @ rows, stop
        of_parameters = changes @ scores(pdf, data.array(pdf.obs), self._params)
        return regression.solve(slopes.T).T, of_parameters @ self._profiled.bounds.covariance

    def check(self, regression: Regression, labels: Sequence[tuple[int, int]], steps: np.ndarray) -> None:
        """Warn if the likelihood of replicas gains much less than a step of first order should."""
        data, gains, expected = self._profiled.fit.data, 0.0, 0.0
        nominal = self._likelihood.gradient(self._likelihood.of_all(data), self._rest)
        for label, step in zip(labels, steps, strict=False):
            counts = poisson_counts(label, data.n_events) * (1.0 if data.weights is None else data.weights)
            events = self._likelihood.of_all(Sample(data.columns, counts, data.name))
            before, after = (self._likelihood.value(events, weights) for weights in (self._rest, self._rest + step))
            slope = self._likelihood.gradient(events, self._rest) - nominal
            gains += after - before - float(nominal @ step)
            expected += float(slope @ step - 0.5 * step @ regression.gram.sum(axis=0) @ step)
        if gains < _LINEAR * expected:
            warn(
                f"{data.n_events} events are few for replicas by one step: their log-likelihood gains "
                f"{gains / _TRIED:.1f}, where {expected / _TRIED:.1f} is expected. Use a smaller n_fields= in profile"
            )

    def replica(self, label: tuple[int, int], step: np.ndarray, shift: np.ndarray) -> Replica:
        """One replica, its parameters inside of their limits."""
        values = {
            parameter.name: float(np.clip(float(parameter.value()) + own, *limits_of(parameter)))
            for parameter, own in zip(self._params, shift, strict=True)
        }
        return Replica(label, self._rest + step, values)

    def _rows(self, events: EventsBehind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self._likelihood.rows(events, self._rest if self._rest.any() else None)

r"""The statistical spread of a map: what it would be for other data, to first order.

A replica counts each event Poisson(1) times, :math:`c_i`. At the best fit the derivatives :math:`g_i` of the log-density of an
event by the weights of the displacement fields sum to zero; with other counts they do not, and the map moves by

.. math:: \delta w = (I + R)^{-1} \sum_i (c_i - 1)\, g_i,

``I`` the information about the weights and ``R`` the ridge of the regression of step 2, a tenth of the diagonal at most: where
nuisances are nothing that a map could follow, it would be larger and hold back the replicas. This is one step of Fisher
scoring for any number of replicas, in one pass over the events. Where events are few for so many fields, the likelihood is no
parabola over such a step and does not gain what it should: each replica then takes further ones, to its own maximum. Of
few events only the lowest fields move, one for each forty events: more of them would follow single events.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
from .step2 import events_for, free_fields

__all__ = ["bootstrap", "poisson_counts"]

_RIDGE = 0.1  # of the diagonal, at most
_TRIED = 2  # replicas whose gain is compared with the expected one
_LINEAR = 0.8  # of the expected gain, at least: a step that gains less is too long to be one of first order
_STEPS = 20  # where it is not,
_SHORTEST, _ENOUGH = 1 / 64, 0.25  # the shortest part of one, and of what its slope promises
_ARRIVED = 0.01  # of the number of fields: distance to a maximum that no band shows


def poisson_counts(seed: Sequence[int], n: int) -> np.ndarray:
    """How often each of ``n`` events counts in the replica of a seed."""
    return np.random.default_rng(seed).poisson(1.0, n).astype(float)


def bootstrap(profiled: ProfiledFit, n_replicas: int, *, seed: int = 0) -> ProfiledFit:
    """Replicas of a map, as of data in which each event counts Poisson(1) times.

    Each is one step of Fisher scoring from the best fit, in the fields of step 2: all are made in one pass over the
    events. Where these are so few that one step does not lead to the maximum of a replica, it takes further ones. The
    randomness of the training of step 1 is not in them; to see it, repeat `fit_transfer` with another ``seed``.

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
        UserWarning: If the events are so few that replicas do not come to their maxima, which is then one of the ``problems``.

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
        steps, problems = made.settled(regression, labels, steps)
        replicas = tuple(map(made.replica, labels, steps, shifts))
        return replace(profiled, replicas=replicas, problems=(*profiled.problems, *problems))


class _Replicas:
    """The fields of a profile behind its fixed map, at the best fit of step 1."""

    def __init__(self, profiled: ProfiledFit, params: Sequence[zfit.Parameter]):
        self._profiled, self._params = profiled, params
        transfer, self._displacement = profiled.transfer, profiled.transfer.displacement
        weights = self._displacement.field_weights()
        self._rest, self._free = weights[-1], free_fields(self._displacement, profiled.fit.data)
        self._directions = weights[: len(params)].T @ np.linalg.inv(transfer.axes)
        fixed = copy.deepcopy(transfer.transfer)
        self._likelihood = DisplacedLikelihood(behind(profiled.fit.model, fixed), fixed, self._displacement)

    def regression(self, seed: int) -> Regression:
        """Information about the weights of the free fields where the map is best, from events of the model, and the ridge."""
        fit, pdf = self._profiled.fit, self._profiled.pdf
        drawn = model_sample(pdf, events_for(int(self._free.sum())), seed) or fit.data
        events = self._likelihood.events(drawn, float(fit.data.sum_weights), seed, frames=False)
        rows = list(self._rows(events))
        # Scores of the profile are those in which the map follows; the regression is of those with the map fixed.
        followed = np.concatenate([own @ self._directions for own, _ in rows])
        mine = ((own[:, self._free], share) for own, share in rows)
        found = Regression.of(mine, scores(pdf, events.x, self._params) - followed)
        return replace(found, ridge=min(found.ridge, _RIDGE))

    def steps(self, regression: Regression, labels: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """What each replica adds to the weights of the free fields ``(B, F)``, and to the parameters ``(B, P)``."""
        data, pdf = self._profiled.fit.data, self._profiled.pdf
        changes = np.stack([poisson_counts(label, data.n_events) - 1.0 for label in labels])
        changes *= 1.0 if data.weights is None else data.weights
        slopes, start = np.zeros((len(labels), int(self._free.sum()))), 0
        for rows, _ in self._rows(self._likelihood.of_all(data)):
            stop = start + len(rows)
            slopes, start = slopes + changes[:, start:stop].astype(np.float32) @ rows[:, self._free], stop
        of_parameters = changes @ scores(pdf, data.array(pdf.obs), self._params)
        return regression.solve(slopes.T).T, of_parameters @ self._profiled.bounds.covariance

    def settled(
        self, regression: Regression, labels: Sequence[tuple[int, int]], steps: np.ndarray
    ) -> tuple[np.ndarray, list[str]]:
        """The steps where the likelihood gains what is expected of one, otherwise the ends of further ones; and problems."""
        nominal = self._likelihood.gradient(self._likelihood.of_all(self._profiled.fit.data), self._rest)

        def own(label: tuple[int, int]) -> _Likelihood:
            return _Likelihood(
                self._likelihood, self._of(label), self._rest, self._free, nominal[self._free], regression
            )

        tried = [(own(label), step) for label, step in zip(labels[:_TRIED], steps, strict=False)]
        if sum(one.gain(step) for one, step in tried) > _LINEAR * sum(one.expected(step) for one, step in tried):
            return steps, []
        ends, remaining = zip(*(own(label).climb(step) for label, step in zip(labels, steps, strict=True)), strict=True)
        if (far := sum(one > _ARRIVED * self._free.sum() for one in remaining)) == 0:
            return np.array(ends), []
        problem = (
            f"{far} of {len(labels)} replicas did not come to their maxima in {_STEPS} steps: {self._profiled.fit.data.n_events} "
            f"events are few for {self._free.sum()} fields. Use a smaller n_fields= in profile"
        )
        warn(problem)
        return np.array(ends), [problem]

    def _of(self, label: tuple[int, int]) -> EventsBehind:
        """The events with the counts of a replica."""
        data = self._profiled.fit.data
        counts = poisson_counts(label, data.n_events) * (1.0 if data.weights is None else data.weights)
        return self._likelihood.of_all(Sample(data.columns, counts, data.name))

    def replica(self, label: tuple[int, int], step: np.ndarray, shift: np.ndarray) -> Replica:
        """One replica, its parameters inside of their limits."""
        values = {
            parameter.name: float(np.clip(float(parameter.value()) + own, *limits_of(parameter)))
            for parameter, own in zip(self._params, shift, strict=True)
        }
        fields = self._rest.copy()
        fields[self._free] += step
        return Replica(label, fields, values)

    def _rows(self, events: EventsBehind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self._likelihood.rows(events, self._rest if self._rest.any() else None)


@dataclass(frozen=True)
class _Likelihood:
    """Penalised likelihood of a replica, as a function of what is added to the weights of the free fields.

    The slope that the nominal events have left is no part of it: with their own counts, nothing would move.
    """

    likelihood: DisplacedLikelihood
    events: EventsBehind
    rest: np.ndarray
    free: np.ndarray
    nominal: np.ndarray
    regression: Regression

    def gain(self, step: np.ndarray) -> float:
        """How much it is above that at rest; not a number where the map does not exist."""
        return self._value(step) - self._value(np.zeros_like(step))

    def expected(self, step: np.ndarray) -> float:
        """The same of a parabola."""
        return float(0.5 * self._slope(np.zeros_like(step)) @ step)

    def climb(self, step: np.ndarray) -> tuple[np.ndarray, float]:
        """Where further steps lead, each as long as it helps, and how far below the maximum that is.

        They are made with the mean of the information of the model and of that of the replica's own events where they
        are: an event that is about to fold has a large part of it, and does not block the others.
        """
        here, value = np.zeros_like(step), self._value(np.zeros_like(step))
        expected, slope = self.regression.gram.sum(axis=0), self._slope(here)
        for _ in range(_STEPS):
            length, along = 1.0, float(slope @ step)
            while not (above := self._value(here + length * step)) > value + _ENOUGH * length * along:
                length /= 2
                if length < _SHORTEST:
                    return here, 0.5 * along
            here, value = here + length * step, above
            slope, information = self._slope(here), 0.5 * (expected + self._information(here))
            step = np.linalg.solve(information + np.diag(self.regression.penalty()), slope)
            if (distance := float(0.5 * slope @ step)) < _ARRIVED * len(step):
                break
        return here, distance

    def _information(self, added: np.ndarray) -> np.ndarray:
        found = np.zeros((len(added), len(added)))
        for rows, counts in self.likelihood.rows(self.events, self._weights(added)):
            own = rows[:, self.free]
            found += own.T @ (own * counts[:, None].astype(np.float32))
        return found

    def _value(self, added: np.ndarray) -> float:
        value = self.likelihood.value(self.events, self._weights(added))
        return value - float(self.nominal @ added + 0.5 * self.regression.penalty() @ added**2)

    def _slope(self, added: np.ndarray) -> np.ndarray:
        slope = self.likelihood.gradient(self.events, self._weights(added))[self.free]
        return slope - self.nominal - self.regression.penalty() * added

    def _weights(self, added: np.ndarray) -> np.ndarray:
        weights = self.rest.copy()
        weights[self.free] += added
        return weights

r"""The statistical spread of a map: what it would be for other data, to first order.

A replica counts each event Poisson(1) times, :math:`c_i`. At the best fit the derivatives :math:`g_i` of the log-density of an
event by the weights of the displacement fields sum to zero; with other counts they do not, and the map moves by

.. math:: \delta w = (I + R)^{-1} \sum_i (c_i - 1)\, g_i,

``I`` the information of the events about the weights and ``R`` a ridge that is chosen as in step 2, a tenth of the diagonal at
most: where nuisances are nothing that a map could follow, it would be larger and hold back the replicas. This is one step of
Fisher scoring for any number of replicas, in one pass over the events.

Of few events only the lowest fields move. Where the likelihood of a replica does not gain half of what a parabola would over such
a step, as an event far out would fold, it takes further ones to its own maximum. With more fields that is far
away, where the map follows single events: a gain much larger than that of a parabola is a problem.
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
from .floor import is_signed
from .profiled import ProfiledFit, Replica
from .regression import LARGEST_RIDGE, MOST, DisplacedLikelihood, EventsBehind, Regression
from .rows import behind, observed, simulated_events
from .step2 import events_for, free_fields

__all__ = ["bootstrap", "poisson_counts"]

_KNOWN = 3000  # effective events: bands of maps of fewer are a little too narrow
# Of the expected gain, at least: a step that gains less may fold the map at an event. With 400 fields steps gain 0.6 to 0.8, and
# bands are those of the maxima.
_LINEAR = 0.5
_STEPS = 20  # of replicas that go on,
_SHORTEST, _ENOUGH = 1 / 64, 0.25  # the shortest part of one, and of what its slope promises
_ARRIVED = 0.01  # of the number of fields: distance to a maximum that no band shows
_FAR = 0.1  # of the replicas, at most: bands do not show so few that stay behind
# Of the expected gain, at most: behind larger ones there are maxima far away, where maps follow single events. Bands of smaller
# ones are too wide by less than a quarter, and with fewer fields they would be too narrow by more.
_PARABOLA = 1.5


def poisson_counts(seed: Sequence[int], n: int) -> np.ndarray:
    """How often each of ``n`` events counts in the replica of a seed."""
    return np.random.default_rng(seed).poisson(1.0, n).astype(float)


def bootstrap(profiled: ProfiledFit, n_replicas: int, *, seed: int = 0) -> ProfiledFit:
    """Replicas of a map, as of data in which each event counts Poisson(1) times.

    Each is one step of Fisher scoring from the best fit, in the fields of step 2: all are made in one pass over the
    events. A replica for whose likelihood one step is too long takes further ones, to its own maximum. The
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
        UserWarning: If there are fewer than 3000 effective events, as bands of their maps are a little too narrow. If they are
            so few that replicas do not come to their maxima or follow single events, which is then one of the ``problems``.

    Example:
        >>> profiled = bootstrap(profile(fit), 50, seed=1)
    """
    if not isinstance(profiled, ProfiledFit):
        raise TypeError(f"bootstrap takes a profile made by zfit_fnf.doi.profile; got {type(profiled).__name__}")
    n_replicas, seed = integer(n_replicas, "n_replicas=", low=1), integer(seed, "seed=", low=0)
    if not profiled.transfer.displacement.constant:
        raise ValueError("this profile was made by an earlier version: repeat profile(fit), then bootstrap")
    fit, params = profiled.fit, list(profiled.parameters.values())
    if (size := fit.data.effective_size) < _KNOWN:
        warn(
            f"the map of {size:.0f} effective events is known a little worse than its replicas say: they can neither bend as "
            "freely nor know how far it is from the truth on average. Bands of one standard error cover 59 to 68 % in examples"
        )
    with zfit.param.set_values(params, [fit.values[parameter.name] for parameter in params]):
        made = _Replicas(profiled, params)
        regression = made.regression(seed)
        labels = [(seed, index) for index in range(n_replicas)]
        slopes, left = made.slopes(labels)
        steps = regression.solve(slopes.T).T
        steps, problems = made.settled(regression, labels, steps, slopes, left)
        replicas = tuple(map(made.replica, labels, steps, made.shifts(labels)))
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
        self._events = self._likelihood.of_all(profiled.fit.data)
        own = profiled.fit.data.weights
        self._once = np.ones(profiled.fit.data.n_events) if own is None else own
        self._scores = scores(profiled.pdf, profiled.fit.data.array(profiled.pdf.obs), params)

    def regression(self, seed: int) -> Regression:
        """Information of the events about the weights of the free fields where the map is best, and the ridge.

        That of the events themselves, and not of the model: an event far out, where the model has few, cannot move the map by
        more than to itself. With negative weights it would not be positive, and it is that of the model.
        """
        data, pdf = self._profiled.fit.data, self._profiled.pdf
        signed = is_signed(data)
        few = not signed and data.n_events <= MOST
        sample = (self._of_model(seed) if signed else None) or data
        events = self._events if few else self._likelihood.events(sample, float(data.sum_weights), seed, frames=False)
        rows = list(self._rows(events))
        # Scores of the profile are those in which the map follows; the regression is of those with the map fixed.
        own = self._scores if few else scores(pdf, events.x, self._params)
        followed = np.concatenate([chunk @ self._directions for chunk, _ in rows])
        found = Regression.of(((chunk[:, self._free], weights) for chunk, weights in rows), own - followed)
        return replace(found, ridge=min(found.ridge, LARGEST_RIDGE))

    def _of_model(self, seed: int) -> Sample | None:
        simulated = simulated_events(self._profiled.fit.model, events_for(self._displacement.n_fields), seed)
        return observed(self._profiled.pdf, simulated) if simulated else None

    def slopes(self, labels: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Slopes ``(B, F)`` of the likelihood of each replica that its counts make, and those ``(F,)`` that are left without."""
        changes, start = self._changes(labels), 0
        slopes, left = np.zeros((len(labels), int(self._free.sum()))), 0.0
        for rows, counts in self._rows(self._events):
            own, stop = rows[:, self._free], start + len(rows)
            slopes, start = slopes + changes[:, start:stop].astype(np.float32) @ own, stop
            left = left + counts @ own
        return slopes, np.asarray(left)

    def shifts(self, labels: Sequence[tuple[int, int]]) -> np.ndarray:
        """What each replica adds to the parameters ``(B, P)``."""
        data, bounds = self._profiled.fit.data, self._profiled.bounds
        return self._changes(labels) @ self._scores @ bounds.inverse_hessian(data.sum_weights / data.effective_size)

    def settled(
        self,
        regression: Regression,
        labels: Sequence[tuple[int, int]],
        steps: np.ndarray,
        slopes: np.ndarray,
        left: np.ndarray,
    ) -> tuple[np.ndarray, list[str]]:
        """Steps where a replica's likelihood gains much of what is expected, otherwise the ends of further ones; and problems."""

        def own(label: tuple[int, int]) -> _Likelihood:
            events = self._likelihood.reweighted(self._events, self._counts(label))
            return _Likelihood(self._likelihood, events, self._rest, self._free, left, regression)

        expected = 0.5 * np.sum(slopes * steps, axis=1)
        ends, gains, far = steps.copy(), np.zeros(len(steps)), 0
        for number, label in enumerate(labels):
            likelihood = own(label)
            gains[number] = likelihood.gain(steps[number])
            if not gains[number] > _LINEAR * expected[number]:
                ends[number], gains[number], left_over = likelihood.climb(steps[number], slopes[number])
                far += left_over > _ARRIVED * steps.shape[1]
        problem = ""
        if far > _FAR * len(labels):
            problem = f"{far} of {len(labels)} replicas did not come to their maxima in {_STEPS} steps"
        elif gains.sum() > _PARABOLA * expected.sum():
            both = f"{gains.sum():.0f} where {expected.sum():.0f} is expected"
            problem = f"maps of replicas follow single events: their likelihoods gain {both}"
        if not problem:
            return ends, []
        n_events, n_fields = self._profiled.fit.data.n_events, steps.shape[1]
        signed = ", some of negative weight," if is_signed(self._profiled.fit.data) else ""
        problem += f", as {n_events} events{signed} are few for {n_fields} fields. Use a smaller n_fields= in profile"
        warn(problem)
        return ends, [problem]

    def _changes(self, labels: Sequence[tuple[int, int]]) -> np.ndarray:
        """By how much each event counts more ``(B, n)`` in the replicas than in the data."""
        return np.stack([self._counts(label) - self._once for label in labels])

    def _counts(self, label: tuple[int, int]) -> np.ndarray:
        return self._once * poisson_counts(label, self._profiled.fit.data.n_events)

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

    The slope that is left with the counts of the data is no part of it: with them, nothing would move.
    """

    likelihood: DisplacedLikelihood
    events: EventsBehind
    rest: np.ndarray
    free: np.ndarray
    left: np.ndarray
    regression: Regression

    def gain(self, step: np.ndarray) -> float:
        """How much it is above that at rest; not a number where the map does not exist."""
        return self._value(step) - self._value(np.zeros_like(step))

    def climb(self, step: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Where further steps lead, each as long as it helps, the gain, and how far below the maximum that is.

        They are made with the mean of the information of all events and of that of the replica's own events where they
        are: an event that is about to fold has a large part of it, and does not block the others.
        """
        here, rest = np.zeros_like(step), self._value(np.zeros_like(step))
        expected, value = self.regression.gram.sum(axis=0), rest
        for _ in range(_STEPS):
            length, along = 1.0, float(slope @ step)
            while not (above := self._value(here + length * step)) > value + _ENOUGH * length * along:
                length /= 2
                if length < _SHORTEST:
                    return here, value - rest, 0.5 * along
            here, value = here + length * step, above
            slope, own = self._slope_and_information(here)
            step = np.linalg.solve(0.5 * (expected + own) + np.diag(self.regression.penalty()), slope)
            if (distance := float(0.5 * slope @ step)) < _ARRIVED * len(step):
                break
        return here, value - rest, distance

    def _slope_and_information(self, added: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slope, found = np.zeros(len(added)), np.zeros((len(added), len(added)))
        for rows, counts in self.likelihood.rows(self.events, self._weights(added)):
            own = rows[:, self.free]
            slope = slope + counts @ own
            found = found + own.T @ (own * np.maximum(counts, 0.0)[:, None].astype(np.float32))
        return slope - self.left - self.regression.penalty() * added, found

    def _value(self, added: np.ndarray) -> float:
        value = self.likelihood.value(self.events, self._weights(added))
        return value - float(self.left @ added + 0.5 * self.regression.penalty() @ added**2)

    def _weights(self, added: np.ndarray) -> np.ndarray:
        weights = self.rest.copy()
        weights[self.free] += added
        return weights

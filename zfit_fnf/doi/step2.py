r"""Step 2: the amortised profile, i.e. how the best map moves with the parameters.

For every value of the parameters there is a best map. ``T_psi``, behind the map ``T_phi`` that is best at
:math:`\hat\theta`, is all of them at once: a displacement that is a polynomial in :math:`\delta\theta = \theta - \hat\theta`.
Its linear part is the least favourable direction, the solution of a regression (:mod:`zfit_fnf.doi.regression`). The gradient
of the likelihood at shifted parameters says what the linear part misses, and a second regression, with the same
factorisation, gives the quadratic part. The likelihood with the moving map is then the profile likelihood, in
which the map no longer appears.

A constant displacement is found first, by the same regression, which takes the map of step 1 to the maximum of the likelihood in
the fields by which data move it: the map is *polished*. A training ends near the maximum, at another place for each seed of its
weights, and replicas of the data know nothing of that.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..common.checks import integer
from ..densities.displacement import Displacement
from ..densities.transfer import ProfiledTransfer
from ..loss import scores
from ..samples import Sample
from .bounds import Bounds, constraint_hessian
from .check import Check
from .goodness import goodness_of_fit
from .profiled import ProfiledFit
from .regression import MOST, DisplacedLikelihood, EventsBehind, Regression
from .rows import behind, make_loss, observed, simulated_events
from .step1 import TransferFit
from .window import axes_of_covariance, axes_of_window, headroom_of, of_constraints

__all__ = ["ProfileProblem", "events_for", "free_fields", "profile"]

_FIELDS = (100, 400)  # displacement fields
_EVENTS_PER_FIELD = 40.0  # of those by which the map follows the parameters
# Of those by which data move it: more would follow single events, and no likelihood be a parabola.
_EVENTS_PER_FREE_FIELD = 100.0
# A map that is fitted to few events bends, and depends on conditions, by more than one number for each hundred of them: replicas
# that could not would say that it is known twice as well as it is.
_LEAST_FREE_FIELDS, _EVENTS_PER_LEAST_FIELD = 40, 25.0
_DRAWN_PER_FIELD, _DRAWN = (
    160,
    40_000,
)  # events of the model: directions from so many lose half a per cent of information
_LARGEST_PRODUCT = 5  # parameters: with more of them, shifts enter squared but not multiplied
_SHORT = 2.4  # standard errors of the profile likelihood: a window that ends there is too narrow
_NODE = 0.7  # of the window: where the quadratic part is found
_AT = 0.8  # of the window: where maps are refitted
_STEPS = 2  # of a refit
_POLISHES, _SMALL = 5, 0.1  # steps, at most, of a polish, and the gain of its last one
_STEP = 0.02  # of a shift, for slopes
_FIRM = 1e-3  # ridge, at least, of what is found from gradients
_ASTRAY = 3.0  # standard errors of the profile likelihood: a start further from its minimum is none
_IMPROBABLE = 1e-5  # of a test of goodness of fit
_NARROW = 0.93  # of the efficient error


def profile(
    fit: TransferFit,
    *,
    window: Mapping[str, float] | None = None,
    n_checks: int = 3,
    n_fields: int | None = None,
    seed: int = 0,
) -> ProfiledFit:
    """How the map of a global fit moves with the parameters, and with it the profile likelihood.

    Args:
        fit: The global fit.
        window: Half width of the range of each parameter around its best fit, by name; by default four standard errors of
            the profile likelihood.
        n_checks: At how many random shifts inside of the window the map is refitted, for comparison; beside
            them, both ends of the axis along which map and parameters are hardest to tell apart. With none, the goodness of
            the fit is not tested either.
        n_fields: Number of displacement fields that the map may move by; by default 400, with fewer events one for each forty
            of them, and 100 at least. The lowest ones are what the data move the map by, one for each hundred events or, of
            few, forty or one for each 25 of them; all of them follow the parameters.
        seed: Seed of everything random.

    Returns:
        The profile likelihood. Print it, and look at ``valid``: the profile is not valid if the map stays too far below the
        maximum at a check.

    Raises:
        ValueError: If the window names an unknown parameter, lacks one, or leaves the range where the deformations of the
            model were trained; and if the map absorbs all that is known about a parameter.

    Example:
        >>> profiled = profile(doi, seed=1)
        >>> result = zfit_fnf.Minuit().minimize(profiled.loss())
    """
    if not isinstance(fit, TransferFit):
        raise TypeError(f"profile takes a fit made by fit_transfer; got {type(fit).__name__}")
    if window is not None and not isinstance(window, Mapping):
        raise TypeError(f"window= is a half width by name of the parameter, for {list(fit.values)}; got {window!r}")
    n_checks, seed = integer(n_checks, "n_checks=", low=0), integer(seed, "seed=", low=0)
    if n_fields is not None:
        n_fields = integer(n_fields, "n_fields=", low=1)
    return ProfileProblem(fit, n_fields=n_fields).solve(fit, window=window, n_checks=n_checks, seed=seed)


class ProfileProblem:
    """The amortised profile of one global problem: compiled for the first fit, and not again for others.

    It works on a copy of the map of a fit, and every solution gets a copy of ``T_psi``.

    Args:
        fit: A solution of the global problem.
        n_fields: As for `profile`.
    """

    def __init__(self, fit: TransferFit, *, n_fields: int | None = None):
        self.params = fit.problem.params
        self._transfer = copy.deepcopy(fit.transfer)
        self._fixed_pdf = behind(fit.model, self._transfer)
        self._powers = np.array(_powers(len(self.params)))
        n_dim, n_maps = len(fit.transfer.obs), fit.transfer.n_maps
        wanted = n_fields or int(np.clip(fit.data.effective_size / _EVENTS_PER_FIELD, *_FIELDS))
        self._displacement = Displacement(
            tuple(map(tuple, self._powers.tolist())),
            n_dim=n_dim,
            n_cond=len(fit.transfer.cond),
            n_maps=n_maps,
            n_functions=max(2, wanted // (n_dim * n_maps)),
            constant=True,
        )
        self._likelihood = DisplacedLikelihood(self._fixed_pdf, self._transfer, self._displacement)
        self._constraints = make_loss(self._fixed_pdf, fit.data).constraints

    def solve(self, fit: TransferFit, *, window: Mapping[str, float] | None, n_checks: int, seed: int) -> ProfiledFit:
        """The profile around a solution of the global problem.

        Args:
            fit: The solution.
            window: As for `profile`.
            n_checks: As for `profile`.
            seed: Of the order of the events and of the checks.

        Raises:
            ValueError: As for `profile`.
        """
        centre = np.array(list(fit.values.values()))
        self._centre = centre
        zfit.param.set_values(self.params, centre)
        self._transfer.assign(fit.transfer.weights_list())
        self._total = float(fit.data.sum_weights)
        self._rest = np.zeros(self._displacement.n_fields)
        drawn, of_model, of_data, start = self._at_the_maximum(fit, seed)
        prior = constraint_hessian(self._constraints, self.params)
        weight = fit.data.sum_weights / fit.data.effective_size
        own = scores(self._polished_pdf(fit), of_model.x, self.params)
        regression = Regression.of(self._rows(of_model), own, weight * prior)
        bounds = Bounds.of(tuple(fit.values), regression, prior, self._displacement, weight)
        if not np.isfinite(bounds.covariance).all():
            raise ValueError(
                f"the profile likelihood has no covariance: a map absorbs all that data say about {list(bounds.lost)}, which "
                "have no constraint. Fix them (floating = False), or move fewer observables"
            )
        self._penalty = regression.penalty()
        moves = bounds.inverse_hessian(weight) @ (regression.directions().T @ start)
        axes = axes_of_window(fit, window) if window else axes_of_covariance(bounds.covariance, prior, moves)
        headroom = headroom_of(fit, axes, bounds.errors["profiled"], chosen=window is not None)
        self._axes, self._headroom = axes, headroom
        self._weights = np.zeros((len(self._powers), self._displacement.n_fields))
        self._weights[: len(axes)] = (regression.directions() @ axes).T
        self._add_quadratic(of_model, regression)
        checks = self._checks(of_model, of_data, regression, bounds, n_checks, seed)
        goodness = goodness_of_fit(fit.transfer.obs, fit.data, drawn, seed) if n_checks and drawn else {}
        zfit.param.set_values(self.params, centre)
        displacement = self._displaced()
        transfer = ProfiledTransfer(fit.transfer, displacement, centre=fit.values, axes=axes)
        half = np.minimum(np.abs(axes).sum(axis=1), headroom)
        return ProfiledFit(
            fit=fit,
            transfer=transfer,
            pdf=behind(fit.model, transfer, params=fit.parameters),
            window=dict(zip(fit.values, half.tolist(), strict=True)),
            bounds=bounds,
            goodness=goodness,
            checks=tuple(checks),
            problems=tuple(self._problems(fit, checks, bounds, goodness, moves)),
        )

    def _at_the_maximum(
        self, fit: TransferFit, seed: int
    ) -> tuple[Sample | None, EventsBehind, EventsBehind, np.ndarray]:
        """Polish the map. Events of the model behind it, if it can be sampled, from which directions are found; and the data.

        Of the model there are enough: directions that were found from the data would follow their fluctuations, and move the
        estimates with them.

        Returns:
            The events of the model as a sample, those and the data behind the map, and the slope ``(K,)`` where step 1 had it.
        """
        simulated = simulated_events(fit.model, events_for(self._displacement.n_fields), seed)
        drawn = observed(self._fixed_pdf, simulated) if simulated else None
        of_model = self._likelihood.events(drawn or fit.data, self._total, seed, frames=True)
        everything = self._likelihood.of_all(fit.data)
        start = self._likelihood.gradient(everything, self._rest)
        self._rest = self._polished(everything, of_model, free_fields(self._displacement, fit.data))
        if simulated and self._rest.any():
            drawn = observed(self._polished_pdf(fit), simulated)
            of_model = self._likelihood.events(drawn, self._total, seed, frames=False)
        of_data = of_model = self._with_slope(of_model)
        if drawn:
            few = fit.data.n_events <= MOST
            of_data = everything if few else self._likelihood.events(fit.data, self._total, seed, frames=False)
            of_data = self._with_slope(of_data)
        return drawn, of_model, of_data, start

    def _with_slope(self, events: EventsBehind) -> EventsBehind:
        return events._replace(slope=self._likelihood.gradient(events, self._rest))

    def _rows(self, events: EventsBehind) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """First variations where the map is, with the weights of the events."""
        return self._likelihood.rows(events, self._rest if self._rest.any() else None)

    def _polished_pdf(self, fit: TransferFit) -> zfit.pdf.BasePDF:
        """The model of data behind the polished map, which does not follow the parameters yet."""
        n, displacement = len(self.params), copy.deepcopy(self._displacement)
        displacement.set_fields(np.concatenate([np.zeros((len(self._powers), len(self._rest))), self._rest[None]]))
        transfer = ProfiledTransfer(fit.transfer, displacement, centre=fit.values, axes=np.eye(n))
        return behind(fit.model, transfer, params=fit.parameters)

    def _polished(self, events: EventsBehind, of_model: EventsBehind, free: np.ndarray) -> np.ndarray:
        """Weights ``(K,)`` of the fields by which the map comes to the best one, by Fisher scoring with the parameters fixed."""
        own = ((chunk[:, free], weights) for chunk, weights in self._rows(of_model))
        weights, strict = np.zeros_like(events.slope), Regression.of(own, np.zeros((len(of_model.x), 0)))
        strict = replace(strict, ridge=strict.polish(self._likelihood.slopes(events)[:, free]))

        def value(weights: np.ndarray) -> float:
            return self._likelihood.value(events, weights) - 0.5 * float(strict.penalty() @ weights[free] ** 2)

        highest = value(weights)
        for _ in range(_POLISHES):
            step = np.zeros_like(weights)
            slope = self._likelihood.gradient(events, weights)[free]
            step[free] = strict.solve(slope - strict.penalty() * weights[free])
            weights, gain = _shortened(value, weights, step, highest)
            highest += gain
            if gain < _SMALL:
                break
        return weights

    # --- the likelihood at one point -------------------------------------------------------------------------------

    def _move_to(self, shift: np.ndarray) -> None:
        for parameter, value in zip(self.params, self._centre + self._axes @ shift, strict=True):
            parameter.assign(value)

    def _along(self, shift: np.ndarray) -> np.ndarray:
        """Weights ``(K,)`` of the fields at a shift along the axes."""
        return self._rest + np.prod(shift**self._powers, axis=1) @ self._weights

    def _value(self, events: EventsBehind, shift: np.ndarray, weights: np.ndarray) -> float:
        """Negative log-likelihood of events at a shift, with these weights of the fields."""
        self._move_to(shift)
        value = -self._likelihood.value(events, weights)
        if self._fixed_pdf.is_extended:
            expected = float(tf.reshape(self._fixed_pdf.get_yield().value(), ()))
            value += expected - self._total * np.log(expected)
        return value + sum(float(tf.reshape(constraint.value(), ())) for constraint in self._constraints)

    def _objective(self, events: EventsBehind, shift: np.ndarray, weights: np.ndarray) -> float:
        """What the best motion of the map minimises.

        The fit of step 1 is not quite a maximum; the slope that this leaves is taken out, so that the map moves with the
        parameters only. The ridge is that of the regression.
        """
        moved = weights - self._rest
        return float(self._value(events, shift, weights) + events.slope @ moved + 0.5 * self._penalty @ moved**2)

    # --- the quadratic part ----------------------------------------------------------------------------------------

    def _add_quadratic(self, events: EventsBehind, regression: Regression) -> None:
        """From the gradients at both signs of shifts along each axis, and then of pairs of axes."""
        n = len(self._axes)
        pairs = list(itertools.combinations(range(n), 2)) if len(self._powers) > 2 * n else []
        nodes = [*np.eye(n), *(np.eye(n)[i] + np.eye(n)[j] for i, j in pairs)]
        found: list[np.ndarray] = []
        for number, node in enumerate(nodes):
            if number == n:
                self._weights[n : 2 * n] = found
            shift = _NODE * node * self._room(_NODE * node)
            size = np.abs(shift).max()
            both = []
            for sign in (1.0, -1.0):
                self._move_to(sign * shift)
                both.append(self._likelihood.gradient(events, self._along(sign * shift)))
            curvature = regression.solve(0.5 * (both[0] + both[1]) - events.slope, least=_FIRM) / size**2
            found.append(curvature * self._helps(events, shift, curvature * size**2))
        self._weights[n:] = found

    def _helps(self, events: EventsBehind, shift: np.ndarray, missing: np.ndarray) -> bool:
        """Whether what is to be added at both signs of a shift makes the likelihood larger there."""
        gains = []
        for sign in (1.0, -1.0):
            own = self._along(sign * shift)
            before, after = (self._objective(events, sign * shift, weights) for weights in (own, own + missing))
            gains.append(before - after)
        return sum(gains) > 0.0

    def _room(self, shift: np.ndarray) -> float:
        """Factor, at most one, by which a shift has to be shortened to stay inside of the headroom."""
        moved = np.abs(self._axes @ shift)
        return float(min(1.0, np.min(self._headroom / np.maximum(moved, 1e-300))))

    def _displaced(self) -> Displacement:
        """A copy of the displacement, with the weights."""
        made = copy.deepcopy(self._displacement)
        made.set_fields(np.concatenate([self._weights, self._rest[None]]))
        return made

    # --- how good it is -------------------------------------------------------------------------------------------

    def _checks(
        self, of_model: EventsBehind, of_data: EventsBehind, regression: Regression, bounds: Bounds, n: int, seed: int
    ) -> list[Check]:
        """At random shifts, and at both ends of the axis along which map and parameters are hardest to tell apart."""
        if not n:
            return []
        directions = np.random.default_rng([seed, 1]).normal(size=(n, len(self._axes)))
        degenerate = np.linalg.solve(self._axes, bounds.degenerate)
        one = len(degenerate) == 1  # of which both ends are all that there is
        directions = np.concatenate([directions[: 0 if one else None], [degenerate, -degenerate]])
        directions *= _AT / np.linalg.norm(directions, axis=1, keepdims=True)
        return [
            self._check(direction * self._room(direction), of_model, of_data, regression) for direction in directions
        ]

    def _check(self, point: np.ndarray, of_model: EventsBehind, of_data: EventsBehind, regression: Regression) -> Check:
        own, refitted = self._along(point), self._refitted(of_model, regression, point)

        def rises(events: EventsBehind) -> tuple[float, float]:
            lowest = self._objective(events, 0.0 * point, self._rest)
            return self._objective(events, point, own) - lowest, self._objective(events, point, refitted) - lowest

        def slope(at: float, held: np.ndarray | None = None) -> float:
            ends = [(at + sign * _STEP) * point for sign in (1.0, -1.0)]
            up, down = (self._objective(of_model, end, self._along(end) if held is None else held) for end in ends)
            return (up - down) / (2.0 * _STEP)

        tilt = slope(0.0)  # events of the model have their minimum close by; what is asked for is a rise from it
        expected = [rise - tilt for rise in rises(of_model)]
        return Check(
            shift=dict(zip((one.name for one in self.params), (self._axes @ point).tolist(), strict=True)),
            amortised=expected[0],
            refitted=expected[1],
            slopes=(slope(1.0) - tilt, slope(1.0, refitted) - tilt),
            data=None if of_data is of_model else rises(of_data),
        )

    def _refitted(self, events: EventsBehind, regression: Regression, shift: np.ndarray) -> np.ndarray:
        """The fields' weights ``(K,)`` at the maximum of the likelihood of events at a shift.

        By Fisher scoring; a step that does not help is shortened.
        """
        weights = self._along(shift)
        lowest = self._objective(events, shift, weights)
        for _ in range(_STEPS):
            held = self._penalty * (weights - self._rest)
            step = regression.solve(self._likelihood.gradient(events, weights) - events.slope - held, least=_FIRM)
            weights, gain = _shortened(lambda moved: -self._objective(events, shift, moved), weights, step, -lowest)
            lowest -= gain
        return weights

    def _problems(
        self,
        fit: TransferFit,
        checks: Sequence[Check],
        bounds: Bounds,
        goodness: Mapping[str, float],
        moves: np.ndarray,
    ) -> list[str]:
        problems = list(fit.problems)
        if np.any((far := np.abs(moves) / bounds.errors["profiled"]) > _ASTRAY):
            problems.append(
                f"its minimum is about {far.max():.1f} standard errors from where the map of step 1 was best: train the map "
                "for longer"
            )
        if worst := [f"{name} {p:.1g}" for name, p in goodness.items() if p < _IMPROBABLE]:
            problems.append(
                f"data do not have the density of the model behind the map (probabilities: {', '.join(worst)}): the map is "
                "too stiff or was not trained for long enough, or something that it does not move is wrong"
            )
        errors = bounds.errors
        if np.any(narrow := errors["profiled"] < _NARROW * errors["efficient"]):
            names = [name for name, is_narrow in zip(bounds.names, narrow, strict=True) if is_narrow]
            problems.append(
                f"the errors of {', '.join(names)} are too small, as the map follows by few fields: use n_fields="
            )
        problems += [check.problem for check in checks if not check.passed]
        lengths = np.linalg.norm(np.linalg.solve(np.linalg.cholesky(bounds.covariance), self._axes), axis=0)
        cut = np.array([self._room(axis) < 0.99 for axis in np.eye(len(lengths))])
        if np.any(short := (lengths < _SHORT) & ~cut & ~of_constraints(self._axes / lengths, bounds.prior)):
            reach = lengths[short].min()
            problems.append(f"the window reaches {reach:.1f} standard errors of the profile likelihood only")
        return problems


def events_for(n_fields: int) -> int:
    """Number of events of the model from which the directions of so many fields are found."""
    return min(MOST, max(_DRAWN, _DRAWN_PER_FIELD * n_fields))


def free_fields(displacement: Displacement, data: Sample) -> np.ndarray:
    """The fields that data say something about, the lowest ones, as a mask ``(K,)``.

    One for each hundred events, and forty at least, or as many as have 25 events each. How the map follows the parameters
    is found from events of the model, of which there are enough for all fields. Where the map is, and how that fluctuates, only
    the data say.
    """
    n = data.effective_size
    wanted = max(n / _EVENTS_PER_FREE_FIELD, min(_LEAST_FREE_FIELDS, n / _EVENTS_PER_LEAST_FIELD))
    return displacement.lowest(min(1.0, wanted / displacement.n_fields))


def _shortened(
    value: Callable[[np.ndarray], float], weights: np.ndarray, step: np.ndarray, highest: float
) -> tuple[np.ndarray, float]:
    """Weights after the longest part of a step that increases a value, and by how much; as they are if none does."""
    for size in (1.0, 0.5, 0.2, 0.05):
        gain = value(weights + size * step) - highest
        if gain > 0.0:
            return weights + size * step, gain
    return weights, 0.0


def _powers(n: int) -> tuple[tuple[int, ...], ...]:
    """Exponents of the monomials: linear, squared, and the products of two, unless these are many."""
    linear = np.eye(n, dtype=int)
    pairs = itertools.combinations(range(n), 2) if n <= _LARGEST_PRODUCT else ()
    rows = [*linear, *(2 * linear), *(linear[i] + linear[j] for i, j in pairs)]
    return tuple(tuple(row.tolist()) for row in rows)

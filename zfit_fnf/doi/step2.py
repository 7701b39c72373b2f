r"""Step 2: the amortised profile, i.e. how the best map moves with the parameters.

For every value of the parameters there is a best map. ``T_psi``, behind the map ``T_phi`` that is best at
:math:`\hat\theta`, is all of them at once: a displacement that is a polynomial in :math:`\delta\theta = \theta - \hat\theta`.
Its linear part is the least favourable direction, the solution of a regression (:mod:`zfit_fnf.doi.regression`). The gradient
of the likelihood at shifted parameters says what the linear part misses, and a second regression, with the same
factorisation, gives the quadratic part. The likelihood with the moving map is then the profile likelihood, in
which the map no longer appears.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.checks import integer
from ..common.warning import warn
from ..densities.displacement import Displacement
from ..densities.transfer import ProfiledTransfer
from ..loss import scores
from ..samples import Sample
from .bounds import Bounds, constraint_hessian
from .goodness import goodness_of_fit
from .regression import MOST, EventsBehind, Regression
from .rows import behind, make_loss, model_sample
from .step1 import TransferFit
from .window import axes_of_covariance, axes_of_window, headroom_of, of_constraints

__all__ = ["Check", "ProfileProblem", "ProfiledFit", "profile"]

_FIELDS = 400  # displacement fields, at most
_EVENTS_PER_FIELD = 20.0
_DRAWN_PER_FIELD = 160  # events of the model: directions from so many lose half a per cent of the information
_LARGEST_PRODUCT = 5  # parameters: with more of them, shifts enter squared but not multiplied
_SHORT = 2.4  # standard errors of the profile likelihood: a window that ends there is too narrow
_NODE = 0.7  # of the window: where the quadratic part is found
_AT = 0.8  # of the window: where maps are refitted
_STEPS = 2  # of a refit
_STEP = 0.02  # of a shift, for slopes
_FIRM = 1e-3  # ridge, at least, of what is found from the gradients of the data
_CHUNKS = 4  # of events, for the quadratic part
_IMPROBABLE = 1e-5  # of a test of goodness of fit
_NARROW = 0.93  # of the efficient error
_TOLERANCE = (0.5, 0.15)  # of the rise of the profile likelihood at a check: absolute, relative


@dataclass(frozen=True)
class Check:
    """The amortised map against one that was refitted with the parameters fixed.

    Attributes:
        shift: Of the parameters, from the best fit of step 1, by name.
        amortised: Rise of the negative log-likelihood with the amortised map.
        refitted: Rise with the map refitted there, compared to one refitted at the best fit in the same way.
        slopes: Slope of both along the shift, in units of the slope that their rise would give to a parabola.
    """

    shift: dict[str, float]
    amortised: float
    refitted: float
    slopes: tuple[float, float]

    @property
    def difference(self) -> float:
        """How far the amortised map stays below the maximum."""
        return self.amortised - self.refitted

    @property
    def passed(self) -> bool:
        """Whether rises differ by less than 0.5 plus 15 % of the refitted one, and slopes by as much of theirs."""
        absolute, relative = _TOLERANCE
        rise = abs(self.refitted)
        # The rise of a parabola is half its slope: what is tolerated of one is half of what is of the other.
        slopes = abs(self.slopes[0] - self.slopes[1])
        return abs(self.difference) < absolute + relative * rise and slopes < 2.0 * (absolute + relative * rise)


@dataclass(frozen=True, eq=False)
class ProfiledFit:
    """The profile likelihood of the parameters, with the map that belongs to each of their values; made by `profile`.

    Attributes:
        fit: The global fit that it starts from.
        transfer: The map, as a function of the parameters.
        pdf: The model of data.
        window: Half width of the range where the map is known, around the best fit of step 1, by name.
        bounds: What data can say about each parameter beside a free map.
        goodness: Probabilities that events of the model differ from the data by as much as they do, by name of the test;
            empty if the model cannot be sampled.
        checks: Comparisons with maps that were refitted.
        problems: Problems of the profile; none if it is valid.
    """

    fit: TransferFit
    transfer: ProfiledTransfer
    pdf: zfit.pdf.BasePDF
    window: dict[str, float]
    bounds: Bounds
    goodness: dict[str, float]
    checks: tuple[Check, ...]
    problems: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether the profile has no problems."""
        return not self.problems

    @property
    def parameters(self) -> dict[str, zfit.Parameter]:
        """The parameters, by name."""
        return self.fit.parameters

    def loss(self) -> zfit.loss.UnbinnedNLL:
        """The profile likelihood of the parameters, a loss like any other: for MIGRAD, HESSE, MINOS, scans and limits.

        Warns:
            UserWarning: If the profile is not valid.
        """
        if not self.valid:
            warn(f"this profile likelihood is not valid: {'; '.join(self.problems)}")
        return make_loss(self.pdf, self.fit.data)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each check: the shift of each parameter, and the rises of the negative log-likelihood."""
        rows = [
            {**check.shift, "amortised": check.amortised, "refitted": check.refitted, "missed": check.difference}
            for check in self.checks
        ]
        return pd.DataFrame(rows, columns=[*self.window, "amortised", "refitted", "missed"])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the map, the model and the events, ready for JSON."""
        return {
            "fit": self.fit.to_dict(),
            "window": self.window,
            "valid": self.valid,
            "problems": list(self.problems),
            "bounds": self.bounds.to_dict(),
            "goodness": self.goodness,
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
        }

    def __str__(self) -> str:
        state = "valid" if self.valid else "NOT VALID: " + "; ".join(self.problems)
        window = ", ".join(f"{name} +-{half:.3g}" for name, half in self.window.items())
        lines = [f"amortised profile of {', '.join(self.window)}", state, f"window: {window}", str(self.bounds)]
        if self.goodness:
            tests = ", ".join(f"{name} {p:.2g}" for name, p in self.goodness.items())
            lines.append(
                f"probabilities that the model, at the start, is right and the data differ by as much: {tests}"
            )
        if self.checks:
            lines += ["rise of the NLL at shifts of the parameters:", self.to_dataframe().to_string(index=False)]
        return "\n".join(lines)


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
        n_fields: Number of displacement fields that the map may move by; by default 400, or one for each twenty events.
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
        raise TypeError(f"profile takes a fit made by fit_transfer or bootstrap; got {type(fit).__name__}")
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
        wanted = n_fields or int(np.clip(fit.data.effective_size / _EVENTS_PER_FIELD, 8, _FIELDS))
        self._displacement = Displacement(
            tuple(map(tuple, self._powers.tolist())),
            n_dim=n_dim,
            n_cond=len(fit.transfer.cond),
            n_maps=n_maps,
            n_functions=max(2, wanted // (n_dim * n_maps)),
        )
        self._events = EventsBehind(self._fixed_pdf, self._transfer, self._displacement)
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
        regression, drawn = self._regression(fit, seed)
        prior = constraint_hessian(self._constraints, self.params)
        bounds = Bounds.of(tuple(fit.values), regression, prior, self._displacement)
        if not np.isfinite(bounds.covariance).all():
            raise ValueError(
                f"the profile likelihood has no covariance: a map absorbs all that data say about {list(bounds.lost)}, which "
                "have no constraint. Fix them (floating = False), or move fewer observables"
            )
        self._tilt = self._events.gradient(np.zeros(self._displacement.n_fields))
        self._penalty = regression.penalty()
        moves = bounds.covariance @ (regression.directions().T @ self._tilt)
        if window:
            axes = axes_of_window(fit, window)
        else:
            axes = axes_of_covariance(bounds.covariance, prior, moves)
        headroom = headroom_of(fit, axes, bounds.errors["profiled"], chosen=window is not None)
        self._axes, self._headroom = axes, headroom
        self._weights = np.zeros((len(self._powers), self._displacement.n_fields))
        self._weights[: len(axes)] = (regression.directions() @ axes).T
        self._add_quadratic(regression)
        checks = self._checks(fit, regression, bounds, n_checks, seed)
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
            problems=tuple(self._problems(fit, checks, bounds, goodness)),
        )

    def _regression(self, fit: TransferFit, seed: int) -> tuple[Regression, Sample | None]:
        """On events of the model, of which there are enough, and these; on the data themselves if it cannot be sampled.

        Directions that were found from the data would follow their fluctuations, and move the estimates with them. The
        events that the likelihood is evaluated on are the data afterwards.
        """
        n, total = min(MOST, _DRAWN_PER_FIELD * self._displacement.n_fields), float(fit.data.sum_weights)
        drawn = model_sample(self._fixed_pdf, n, seed)
        self._events.take(drawn or fit.data, total, seed, frames=True)
        regression = Regression.of(self._events, scores(self._fixed_pdf, self._events.x, self.params))
        if drawn:
            self._events.take(fit.data, total, seed, frames=False)
        return regression, drawn

    # --- the likelihood at one point -------------------------------------------------------------------------------

    def _move_to(self, shift: np.ndarray) -> None:
        for parameter, value in zip(self.params, self._centre + self._axes @ shift, strict=True):
            parameter.assign(value)

    def _along(self, shift: np.ndarray) -> np.ndarray:
        """Weights ``(K,)`` of the fields at a shift along the axes."""
        return np.prod(shift**self._powers, axis=1) @ self._weights

    def _value(self, shift: np.ndarray, weights: np.ndarray) -> float:
        """Negative log-likelihood at a shift, with these weights of the fields."""
        self._move_to(shift)
        value = -self._events.value(weights)
        if self._fixed_pdf.is_extended:
            expected = float(tf.reshape(self._fixed_pdf.get_yield().value(), ()))
            value += expected - self._events.sum_weights * np.log(expected)
        return value + sum(float(tf.reshape(constraint.value(), ())) for constraint in self._constraints)

    def _objective(self, shift: np.ndarray, weights: np.ndarray) -> float:
        """What the best motion of the map minimises.

        The fit of step 1 is not quite a maximum; the slope that this leaves is taken out, so that the map moves with the
        parameters only. The ridge is that of the regression.
        """
        return self._value(shift, weights) + self._tilt @ weights + 0.5 * self._penalty @ weights**2

    # --- the quadratic part ----------------------------------------------------------------------------------------

    def _add_quadratic(self, regression: Regression) -> None:
        """From the gradients at both signs of shifts along each axis, and then of pairs of axes."""
        n = len(self._axes)
        pairs = list(itertools.combinations(range(n), 2)) if len(self._powers) > 2 * n else []
        nodes = [*np.eye(n), *(np.eye(n)[i] + np.eye(n)[j] for i, j in pairs)]
        n_chunks = _CHUNKS if n > 2 else None
        share = self._events.share(n_chunks)
        self._move_to(np.zeros(n))
        at_centre = self._events.gradient(np.zeros(self._displacement.n_fields), n_chunks)
        found: list[np.ndarray] = []
        for number, node in enumerate(nodes):
            if number == n:
                self._weights[n : 2 * n] = found
            shift = _NODE * node * self._room(_NODE * node)
            size = np.abs(shift).max()
            both = []
            for sign in (1.0, -1.0):
                self._move_to(sign * shift)
                both.append(self._events.gradient(self._along(sign * shift), n_chunks))
            curvature = regression.solve(0.5 * (both[0] + both[1]) - at_centre, least=_FIRM) / share / size**2
            found.append(curvature * self._helps(shift, curvature * size**2))
        self._weights[n:] = found

    def _helps(self, shift: np.ndarray, missing: np.ndarray) -> bool:
        """Whether what is to be added at both signs of a shift makes the likelihood larger there."""
        gains = []
        for sign in (1.0, -1.0):
            own = self._along(sign * shift)
            gains.append(self._objective(sign * shift, own) - self._objective(sign * shift, own + missing))
        return sum(gains) > 0.0

    def _room(self, shift: np.ndarray) -> float:
        """Factor, at most one, by which a shift has to be shortened to stay inside of the headroom."""
        moved = np.abs(self._axes @ shift)
        return float(min(1.0, np.min(self._headroom / np.maximum(moved, 1e-300))))

    def _displaced(self) -> Displacement:
        """A copy of the displacement, with the weights."""
        made, start = copy.deepcopy(self._displacement), 0
        for index in range(made.n_maps):
            for weights in made.weights:
                stop = start + weights.shape[2]
                values = weights.numpy()
                values[index] = self._weights[:, start:stop]
                weights.assign(values)
                start = stop
        return made

    # --- how good it is -------------------------------------------------------------------------------------------

    def _checks(
        self, fit: TransferFit, regression: Regression, bounds: Bounds, n_checks: int, seed: int
    ) -> list[Check]:
        if not n_checks:
            return []
        directions = np.random.default_rng([seed, 1]).normal(size=(n_checks, len(self._axes)))
        degenerate = np.linalg.solve(self._axes, bounds.degenerate)
        one = len(degenerate) == 1  # of which both ends are all that there is
        directions = np.concatenate([directions[: 0 if one else None], [degenerate, -degenerate]])
        directions *= _AT / np.linalg.norm(directions, axis=1, keepdims=True)
        nothing = np.zeros(len(self._axes))
        lowest, checks = self._value(nothing, self._along(nothing)), []
        for direction in directions:
            point = direction * self._room(direction)
            value = self._value(point, self._along(point))
            weights, missed = self._refitted(regression, point)
            ends = [(1.0 + sign * _STEP) * point for sign in (1.0, -1.0)]
            amortised = [self._objective(end, self._along(end)) for end in ends]
            refitted = [self._objective(end, weights) for end in ends]
            slopes = [(up - down) / (2 * _STEP) for up, down in (amortised, refitted)]
            shift = dict(zip(fit.values, (self._axes @ point).tolist(), strict=True))
            rise = value - lowest
            checks.append(Check(shift, float(rise), float(rise - missed), (float(slopes[0]), float(slopes[1]))))
        return checks

    def _refitted(self, regression: Regression, shift: np.ndarray) -> tuple[np.ndarray, float]:
        """The fields' weights at the maximum of the likelihood at a shift, and by how much it is higher there.

        By Fisher scoring; a step that does not help is shortened.
        """
        weights = self._along(shift)
        start = lowest = self._objective(shift, weights)
        for _ in range(_STEPS):
            slope = self._events.gradient(weights) - self._tilt - self._penalty * weights
            step = regression.solve(slope, least=_FIRM)
            for size in (1.0, 0.5, 0.2, 0.05):
                value = self._objective(shift, weights + size * step)
                if value < lowest:
                    lowest, weights = value, weights + size * step
                    break
        return weights, start - lowest

    def _problems(
        self, fit: TransferFit, checks: Sequence[Check], bounds: Bounds, goodness: Mapping[str, float]
    ) -> list[str]:
        problems = list(fit.problems)
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
        for check in checks:
            if not check.passed:
                at = ", ".join(f"{name} {shift:+.3g}" for name, shift in check.shift.items())
                problems.append(
                    f"at {at} the NLL rises by {check.amortised:.2f}, but by {check.refitted:.2f} with a refitted map"
                )
        lengths = np.linalg.norm(np.linalg.solve(np.linalg.cholesky(bounds.covariance), self._axes), axis=0)
        cut = np.array([self._room(axis) < 0.99 for axis in np.eye(len(lengths))])
        if np.any(short := (lengths < _SHORT) & ~cut & ~of_constraints(self._axes / lengths, bounds.prior)):
            reach = lengths[short].min()
            problems.append(f"the window reaches {reach:.1f} standard errors of the profile likelihood only")
        return problems


def _powers(n: int) -> tuple[tuple[int, ...], ...]:
    """Exponents of the monomials: linear, squared, and the products of two, unless these are many."""
    linear = np.eye(n, dtype=int)
    pairs = itertools.combinations(range(n), 2) if n <= _LARGEST_PRODUCT else ()
    rows = [*linear, *(2 * linear), *(linear[i] + linear[j] for i, j in pairs)]
    return tuple(tuple(row.tolist()) for row in rows)

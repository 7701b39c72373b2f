r"""Step 2: the amortised profile, i.e. how the best map moves with the parameters.

For every value of the parameters there is a best map. ``T_psi``, in front of the map ``T_phi`` that is best at
:math:`\hat\theta`, learns all of them at once: it maximises the log-likelihood averaged over a window of
:math:`\delta\theta = \theta - \hat\theta`. The likelihood with the moving map is then the profile likelihood, in which the
map no longer appears.

The gain is of second order in :math:`\delta\theta`, while the log-likelihood of an event changes in first
order with any displacement :math:`\Delta` of it: a sum over events of fluctuations of both signs, which would drown the
gain. This first variation,

.. math::
    \delta \ell_i = \sum_c r_{ic} \, \big[ \nabla \log p_c(y_i) \cdot \Delta_c(y_i) + \nabla \cdot \Delta_c(y_i) \big],
    \qquad r_{ic} = \frac{n_c \, p_c(y_i)}{\sum_{c'} n_{c'} p_{c'}(y_i)},

with the densities at :math:`\hat\theta`, is therefore subtracted event by event. Its sum over the data vanishes for every
displacement if :math:`T_\phi` is a maximum, so that only noise is lost; and where :math:`T_\phi` is not quite a maximum,
``T_psi`` learns the motion of the maximum, not its position. Shifts are drawn in pairs of both signs, which removes
the rest of first order.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.checks import integer
from ..common.chunks import GRAPH, slices
from ..common.warning import warn
from ..densities.history import History
from ..densities.polynomial_map import PolynomialMap, Response
from ..densities.transfer import ProfiledTransfer
from ..train.loop import Batch, Maximiser
from ..train.schedule import Schedule
from .rows import (
    Rows,
    behind,
    default_schedule,
    make_loss,
    mixture,
    parts_of,
    precomputed_rows,
    precomputed_structure,
    responsibilities,
)
from .step1 import TransferFit
from .window import axes_of_errors, axes_of_window, headroom_of, inside, low_discrepancy_shifts

__all__ = ["Check", "ProfileProblem", "ProfiledFit", "profile"]

_RISE = 4.5  # of the profile likelihood towards the edges of the window: three standard errors
_WIDEN, _WIDENINGS = 4.0, 2  # at the most, each time, and how often
_LARGEST_PRODUCT = 5  # parameters: with more of them, shifts enter squared but not multiplied
_SHORT = 0.8  # of that: a window that ends there is too narrow
_AT = 0.8  # of the window: where maps are refitted
_TOLERANCE = (0.5, 0.15)  # of the rise of the profile likelihood at a check: absolute, relative


@dataclass(frozen=True)
class Check:
    """The amortised map against one that was refitted with the parameters fixed.

    Attributes:
        shift: Of the parameters, from the best fit of step 1, by name.
        amortised: Rise of the negative log-likelihood with the amortised map.
        refitted: Rise with the map refitted there, compared to one refitted at the best fit in the same way.
    """

    shift: dict[str, float]
    amortised: float
    refitted: float

    @property
    def difference(self) -> float:
        """How far the amortised map stays below the maximum."""
        return self.amortised - self.refitted

    @property
    def passed(self) -> bool:
        """Whether the difference is less than 0.5 plus 15 % of the rise with the refitted map."""
        absolute, relative = _TOLERANCE
        return abs(self.difference) < absolute + relative * abs(self.refitted)


@dataclass(frozen=True, eq=False)
class ProfiledFit:
    """The profile likelihood of the parameters, with the map that belongs to each of their values; made by `profile`.

    Attributes:
        fit: The global fit that it starts from.
        transfer: The map, as a function of the parameters.
        pdf: The model of data.
        window: Half width of the range where the map was trained, around the best fit of step 1, by name.
        checks: Comparisons with maps that were refitted.
        history: Of the training.
        problems: Problems of the profile; none if it is valid.
    """

    fit: TransferFit
    transfer: ProfiledTransfer
    pdf: zfit.pdf.BasePDF
    window: dict[str, float]
    checks: tuple[Check, ...]
    history: History
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
        """Everything but the maps, the model and the events, ready for JSON."""
        return {
            "fit": self.fit.to_dict(),
            "window": self.window,
            "checks": [asdict(check) for check in self.checks],
            "valid": self.valid,
            "problems": list(self.problems),
            "history": self.history.to_dict(),
        }

    def __str__(self) -> str:
        state = "valid" if self.valid else "NOT VALID: " + "; ".join(self.problems)
        window = ", ".join(f"{name} +-{half:.3g}" for name, half in self.window.items())
        lines = [f"amortised profile of {', '.join(self.window)}", state, f"window: {window}"]
        if self.checks:
            lines += ["rise of the NLL at shifts of the parameters:", self.to_dataframe().to_string(index=False)]
        return "\n".join(lines)


def profile(
    fit: TransferFit,
    *,
    window: Mapping[str, float] | None = None,
    n_checks: int = 3,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ProfiledFit:
    """Learn how the map of a global fit moves with the parameters.

    Args:
        fit: The global fit.
        window: Half width of the range of each parameter around its best fit, by name; by default six standard errors
            with the map fixed, widened until the profile likelihood has risen by three standard errors at its edges.
        n_checks: At how many random shifts inside of the window the map is refitted, for comparison.
        hidden: Widths of the hidden layers; default two of ``max(64, 16 d)``.
        schedule: Length and speed of the training; default 500 steps.
        seed: Seed of everything random.
        progress: Whether to show progress bars.

    Returns:
        The profile likelihood. Print it, and look at ``valid``: the profile is not valid if the map stays too far below the
        maximum at a check.

    Raises:
        ValueError: If the global fit has no covariance, or the window names an unknown parameter, lacks one, or leaves the
            range where the deformations of the model were trained.
        TrainingStopped: If the training diverges or is interrupted.

    Example:
        >>> profiled = profile(doi, seed=1)
        >>> result = zfit_fnf.Minuit().minimize(profiled.loss())
    """
    if not isinstance(fit, TransferFit):
        raise TypeError(f"profile takes a fit made by fit_transfer or bootstrap; got {type(fit).__name__}")
    if window is not None and not isinstance(window, Mapping):
        raise TypeError(f"window= is a half width by name of the parameter, for {list(fit.values)}; got {window!r}")
    n_checks, seed = integer(n_checks, "n_checks=", low=0), integer(seed, "seed=", low=0)
    problem = ProfileProblem(fit, hidden=hidden, schedule=schedule, seed=seed)
    return problem.solve(fit, window=window, n_checks=n_checks, seed=seed, progress=progress)


class ProfileProblem:
    """The amortised profile of one global problem: compiled for the first fit, and not again for others.

    It works on a copy of the map of a fit, and every solution gets a copy of the trained ``T_psi``.

    Args:
        fit: A solution of the global problem.
        hidden: As for `profile`.
        schedule: As for `profile`.
        seed: Of the networks' initial weights.
    """

    def __init__(
        self,
        fit: TransferFit,
        *,
        hidden: Sequence[int] | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
    ):
        self.params = fit.problem.params
        self.schedule = schedule or _default_schedule(fit)
        transfer = copy.deepcopy(fit.transfer)  # checks refit it
        self._fixed_pdf = behind(fit.model, transfer)
        response = Response(
            axes := [f"axis {index}" for index in range(len(self.params))],
            _powers(len(self.params)),
            n_dim=len(transfer.obs),
            n_context=len(transfer.cond) + len(transfer.processes),
            hidden=hidden,
            seed=seed,
        )
        self.deformation = PolynomialMap([response], windows=dict.fromkeys(axes, (-1.5, 1.5)))
        self.transfer = ProfiledTransfer(
            transfer,
            self.deformation,
            centre={parameter.name: 0.0 for parameter in self.params},
            axes=np.eye(len(self.params)),
        )
        named = {parameter.name: parameter for parameter in self.params}
        self.pdf = behind(fit.model, self.transfer, params=named)
        self._start = self.deformation.weights_list()
        self._amortise = Maximiser(self._log_likelihood(), self.deformation.trainable_variables, schedule=self.schedule)
        self._point = tf.Variable(tf.zeros(len(self.params), tf.float64), trainable=False)
        # The comparison has its own schedule, so that it reveals a training that was too short.
        self._refit = Maximiser(
            self._log_likelihood_at_point(),
            transfer.trainable_variables,
            schedule=_default_schedule(fit),
        )
        self._first_variation = tf.function(self._events_first_variation, autograph=False)

    def solve(
        self, fit: TransferFit, *, window: Mapping[str, float] | None, n_checks: int, seed: int, progress: bool
    ) -> ProfiledFit:
        """Learn the map around a solution of the global problem.

        Args:
            fit: The solution.
            window: As for `profile`.
            n_checks: As for `profile`.
            seed: Of the shifts and of the shuffling.
            progress: Whether to show progress bars.

        Raises:
            ValueError: As for `profile`.
            TrainingStopped: As for `profile`.
        """
        centre = np.array(list(fit.values.values()))
        axes = axes_of_window(fit, window) if window else axes_of_errors(fit)
        headroom = headroom_of(fit, axes, chosen=window is not None)
        zfit.param.set_values(self.params, centre)
        self.transfer.transfer.assign(fit.transfer.weights_list())
        columns = [*precomputed_rows(self._fixed_pdf, fit.data), *self._variation_rows(fit)]
        for widening in range(_WIDENINGS + 1):
            self.transfer.place(fit.values, axes)
            self.deformation.assign(self._start)
            shifts = low_discrepancy_shifts(axes, headroom, seed)
            source = [_ShiftedRows(fit.data, columns, shifts, self.schedule.batch_size)]
            history = self._amortise("profile", source, seed=seed, progress=progress)
            reach = self._reach(fit, axes, headroom)
            if window or widening == _WIDENINGS or np.all(reach > 1.0):
                break
            axes = axes * np.clip(1.2 / reach, 1.0, _WIDEN)
        checks = self._checks(fit, axes, headroom, n_checks, seed=seed, progress=progress)
        zfit.param.set_values(self.params, centre)
        deformation = copy.deepcopy(self.deformation)
        transfer = ProfiledTransfer(fit.transfer, deformation, centre=fit.values, axes=axes)
        return ProfiledFit(
            fit=fit,
            transfer=transfer,
            pdf=behind(fit.model, transfer, params=fit.parameters),
            window=dict(zip(fit.values, np.minimum(np.abs(axes).sum(axis=1), headroom).tolist(), strict=True)),
            checks=tuple(checks),
            history=history,
            problems=tuple(_problems(fit, checks, reach)),
        )

    # --- objectives -----------------------------------------------------------------------------------------------

    def _log_likelihood(self) -> Callable[..., tf.Tensor]:
        """Log-density of minibatches at both signs of a shift, minus its first variation with the displacement."""
        structure = precomputed_structure(self._fixed_pdf)

        def log_likelihood(*columns: tf.Tensor) -> tf.Tensor:
            *flat, shares, gradients, shift = columns
            unmapped = tf.nest.pack_sequence_as(structure, flat)
            # The model has one value of the parameters at a time: all events of a minibatch share the first shift.
            sides = [self._shifted(unmapped, shares, gradients, sign * shift[0]) for sign in (1.0, -1.0)]
            return 0.5 * (sides[0] + sides[1])

        return log_likelihood

    def _shifted(self, unmapped: Any, shares: tf.Tensor, gradients: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        self._set_parameters(tf.cast(shift, tf.float64))
        basis, log_p, first = self.deformation.basis(shift), [], tf.zeros_like(shares[:, 0])
        for index, (part, events) in enumerate(zip(parts_of(self._fixed_pdf), unmapped, strict=True)):
            coefficients = self.deformation.coefficients(events.u, events.context)
            u, log_slopes = self.deformation.inverse_layer(events.u, coefficients, basis)
            log_p.append(part.log_density_at(events, u, tf.reduce_sum(log_slopes, axis=-1)))
            first += tf.reduce_sum(gradients[:, index] * (u - events.u), axis=-1)
            first += shares[:, index] * tf.reduce_sum(tf.math.expm1(log_slopes), axis=-1)
        return mixture(self._fixed_pdf, log_p) - tf.cast(first, tf.float64)

    def _log_likelihood_at_point(self) -> Callable[..., tf.Tensor]:
        """Log-density of minibatches at one shift, where the parameters have been set to already."""
        structure = precomputed_structure(self._fixed_pdf)

        def log_likelihood(*columns: tf.Tensor) -> tf.Tensor:
            unmapped, log_p = tf.nest.pack_sequence_as(structure, columns), []
            for part, events in zip(parts_of(self._fixed_pdf), unmapped, strict=True):
                basis = self.deformation.basis(tf.cast(self._point, events.u.dtype))
                coefficients = self.deformation.coefficients(events.u, events.context)
                log_p.append(
                    part.log_density_at(
                        events, *self.deformation.inverse(events.u, events.context, coefficients, basis)
                    )
                )
            return mixture(self._fixed_pdf, log_p)

        return log_likelihood

    def _set_parameters(self, shift: tf.Tensor) -> None:
        for parameter, value in zip(self.params, tf.unstack(self.transfer.at(shift)), strict=True):
            parameter.assign(value)

    def _variation_rows(self, fit: TransferFit) -> list[np.ndarray]:
        """Share ``(n, C)`` of each component in each event, and the gradients ``(n, C, d)`` of the mixture."""
        x = fit.data.array(fit.pdf.obs)
        chunks = [self._first_variation(tf.constant(x[rows])) for rows in slices(len(x), GRAPH)]
        return [
            np.concatenate([np.asarray(part, np.float32) for part in column]) for column in zip(*chunks, strict=True)
        ]

    def _events_first_variation(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parts = parts_of(self._fixed_pdf)
        unmapped = [part.precompute_unmapped(x) for part in parts]
        u = [events.u for events in unmapped]
        with tf.GradientTape() as tape:
            tape.watch(u)
            log_p = [part.log_density_at(events, y) for part, events, y in zip(parts, unmapped, u, strict=True)]
            value = mixture(self._fixed_pdf, log_p)
        return (
            tf.stack(responsibilities(self._fixed_pdf, log_p), axis=1),
            tf.stack(tape.gradient(value, u), axis=1),
        )

    # --- how good it is -------------------------------------------------------------------------------------------

    def _reach(self, fit: TransferFit, axes: np.ndarray, headroom: np.ndarray) -> np.ndarray:
        """Standard errors of the profile likelihood that each axis of the window reaches, in units of three."""
        nll = make_loss(self.pdf, fit.data)
        lowest = self._value(nll, np.zeros(len(axes)))
        reach = []
        for axis in np.eye(len(axes)):
            point = inside(axis, axes, headroom)
            rises = [self._value(nll, sign * point) - lowest for sign in (1.0, -1.0)]
            cut = np.linalg.norm(point) < 0.99  # by the range of a deformation: there is nothing to be widened
            reach.append(np.inf if cut else np.sqrt(max(min(rises), 1e-3) / _RISE))
        return np.array(reach)

    def _value(self, nll: zfit.loss.UnbinnedNLL, shift: np.ndarray) -> float:
        self._set_parameters(tf.constant(shift))
        return float(nll.value(full=False))

    def _checks(
        self, fit: TransferFit, axes: np.ndarray, headroom: np.ndarray, n_checks: int, *, seed: int, progress: bool
    ) -> list[Check]:
        if not n_checks:
            return []
        directions = np.random.default_rng([seed, 1]).normal(size=(n_checks, len(axes)))
        directions *= _AT / np.linalg.norm(directions, axis=1, keepdims=True)
        points = np.concatenate([np.zeros((1, len(axes))), inside(directions, axes, headroom)])
        source = [Rows(fit.data, precomputed_rows(self._fixed_pdf, fit.data))]
        amortised, refitted = [], []
        for number, point in enumerate(points):
            self.transfer.transfer.assign(fit.transfer.weights_list())
            amortised.append(self._value(make_loss(self.pdf, fit.data), point))
            self._point.assign(point)
            self._refit(f"check {number}", source, seed=seed, progress=progress)
            refitted.append(self._value(make_loss(self.pdf, fit.data), point))
        shifts = points @ axes.T
        return [
            Check(dict(zip(fit.values, shift.tolist(), strict=True)), high - amortised[0], low - refitted[0])
            for shift, high, low in zip(shifts[1:], amortised[1:], refitted[1:], strict=True)
        ]


@dataclass(eq=False)
class _ShiftedRows(Rows):
    """Events as rows of arrays, and a shift that is the same for all events of a step.

    Attributes:
        shifts: The shifts ``(n, P)``, used one after the other.
        per_step: Events of a step.
    """

    shifts: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))
    per_step: int = 1
    _used: int = 0

    def batch(self, rows: np.ndarray) -> Batch:
        *columns, weights = super().batch(rows)
        steps = self._used + np.arange(len(rows)) // self.per_step
        self._used = int(steps[-1]) + 1
        return (*columns, self.shifts[steps % len(self.shifts)], weights)


def _default_schedule(fit: TransferFit) -> Schedule:
    return replace(default_schedule(fit.data), steps=500)


def _powers(n: int) -> tuple[tuple[int, ...], ...]:
    """Exponents of the monomials: linear, squared, and the products of two, unless these are many."""
    linear = np.eye(n, dtype=int)
    pairs = itertools.combinations(range(n), 2) if n <= _LARGEST_PRODUCT else ()
    rows = [*linear, *(2 * linear), *(linear[i] + linear[j] for i, j in pairs)]
    return tuple(tuple(row.tolist()) for row in rows)


def _problems(fit: TransferFit, checks: Sequence[Check], reach: np.ndarray) -> list[str]:
    problems = list(fit.problems)
    for check in checks:
        if not check.passed:
            at = ", ".join(f"{name} {shift:+.3g}" for name, shift in check.shift.items())
            problems.append(
                f"at {at} the NLL rises by {check.amortised:.2f}, but only by {check.refitted:.2f} with a refitted map: "
                "train longer or with larger networks"
            )
    if np.any(reach < _SHORT):
        problems.append(f"the window reaches {3 * reach.min():.1f} standard errors of the profile likelihood only")
    return problems

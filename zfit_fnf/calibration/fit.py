"""Calibrating a learned likelihood with simulation that its training has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd

from ..arguments import count
from ..common.warning import warn
from ..loss import LogSpaceNLL
from ..minimize import Minuit
from ..minimum import step_inside
from ..param import NuisanceConstraint, limits_of, nuisance
from ..pdf import components
from .closure import Closure, Measurement
from .loss import (
    CalibratedExtendedUnbinnedNLL,
    CalibratedNLL,
    CalibratedUnbinnedNLL,
    constraints_value_gradient,
    event_hessian,
)
from .map import FAR, Calibration
from .moments import Moments, cautiously, inverse
from .processes import Process, processes_of
from .report import CalibrationReport

__all__ = ["calibrate"]

_DRAWS = 30_000, 100_000  # fewest and most events that are drawn of each channel
_ROUNDS = 8
_SLOW = 0.6  # ratio of two steps, above which the next one is half of what it would be
_LONG = 0.5  # errors of a first step, beyond which a part of the events finds the way
_ARRIVED = 0.1  # errors between the point of the scores and the best fit: what remains is of second order
_ASTRAY = 1.0  # the same after all rounds, beyond which the fit has no end: noise of little simulation stays below
_SMALLER = 0.75  # times the learned error: a smaller calibrated one has to be explained
_UNSURE = 0.2  # relative uncertainty of an error: intervals of those beyond covered 35 to 85 %
_BETWEEN = 0.3  # errors by which the closure between simulated points may be off, beyond which it is told
_EVENTS_PER_SCORE = 20  # data events per parameter, below which their scatter says less than the densities do


def calibrate(
    nll: LogSpaceNLL, simulations: Mapping[str, Any], *, n_draws: int | None = None, seed: int = 0
) -> CalibratedNLL:
    r"""A likelihood that is right whatever the densities are: what they do not know costs precision, not validity.

    The learned likelihood is fitted. Then simulated events that the training has not seen tell

    * *where* its estimate is off: the mean score of simulated events is not what the densities promise. It is measured at
      the nominal point and at all variations, and interpolated between them as the deformation is;
    * *how well* that is known: finite simulation has a covariance, of which each direction that matters becomes a nuisance
      ``mcstat_0``, ``mcstat_1``, ... with a unit Gaussian and a global observable;
    * *what a score is worth*: how it moves with the parameters in simulation, and how it scatters in the data.

    The result is a likelihood for Minuit (HESSE, MINOS), scans, impacts, limits and toys, with the parameters of ``nll`` and
    those nuisances. With the new best fit the scores are taken anew, until it stays where it is; the parameters are left there.
    See docs/believe.md.

    Args:
        nll: A likelihood of learned densities, accelerated or not.
        simulations: By name of the process (the ``name=`` of its PDF) its simulation: ``nominal``, the nominal sample, and
            ``variations``, a list of `Variation`; expected event numbers are those of the likelihood, only the shapes count.
            Densities of zfit need none. For a `FoldedPDF`, one simulation for each fold, or the process that
            ``fit_process(..., folds=2)`` has made: each event is judged by a model that has not seen it.
        n_draws: Events to draw from the densities of each channel, for what they promise; by default as many as the data,
            30 000 at least and 100 000 at most.
        seed: Seed of these.

    Returns:
        The calibrated likelihood; ``report`` tells where the errors come from.

    Raises:
        TypeError: If ``nll`` is another loss, or ``simulations`` no such mapping.
        ValueError: If a learned process has no simulation, a nuisance no samples, a sample too few events or those of the
            training; if there are no data, or ``nll`` has no minimum.
        RuntimeError: If the calibrated fit does not settle: the densities are too far from the simulation.

    Example:
        >>> trusted = zfit_fnf.calibrate(nll, {"signal": signal, "background": background})
        >>> result = zfit_fnf.Minuit().minimize(trusted)
        >>> print(trusted.report)
    """
    _check(nll)
    n_data = sum(int(data.num_entries) for data in nll.data)
    n_draws = int(np.clip(n_data, *_DRAWS)) if n_draws is None else count(n_draws, "n_draws=", least=1000)
    processes = processes_of(nll, simulations)
    params = list(nll.get_params())
    start, errors, curvature = _learned_fit(nll, params)
    # Beyond what was simulated no scores are taken.
    edges = _simulated_range(params, processes)
    point, path, share = np.clip(start, *edges), list[float](), 1.0
    zfit.param.set_values(params, point)
    measurement = Measurement(nll, processes, params, n_draws=n_draws, seed=seed)
    part: Measurement | None = None

    def measured(point: np.ndarray) -> tuple[Closure, Moments]:
        zfit.param.set_values(params, point)
        closure = measurement()
        return closure, _moments(nll, params, errors, closure)

    while True:
        closure, moments = measured(point)
        total = errors * np.sqrt(np.diag(moments.covariance))
        end = point + errors * _step(nll, params, errors, moments)
        step = np.clip(end, *edges) - point
        path.append(float(np.max(np.abs(step) / total)))
        if path[-1] < _ARRIVED or len(path) == _ROUNDS:
            break
        if len(path) > 1 and path[-1] > _SLOW * path[-2]:  # it turns around the end in place of going there
            share *= 0.5
        if path[-1] > _LONG and share == 1.0 and (part := part or measurement.thinned()) is not None:
            point = _followed(nll, params, errors, part, closure, moments, edges)
        else:
            point = np.clip(point + share * step, *edges)  # rounding might leave them
    _refuse_astray(params, path, (start - end) / errors, np.maximum(edges[0] - end, end - edges[1]) / total)
    loss = _calibrated(nll, params, errors, moments, start, curvature)
    zfit.param.set_values(params, end)
    loss.report = _report(loss, processes, closure, start, end, len(path))
    for note in loss.report.notes:
        warn(note)
    return loss


def _check(nll: Any) -> None:
    if isinstance(nll, CalibratedNLL):
        raise TypeError("this likelihood is calibrated already: calibrate the one that it was made from, .learned")
    if not isinstance(nll, LogSpaceNLL):
        raise TypeError(f"calibrate takes losses of zfit_fnf.loss, accelerated or not; got {type(nll).__name__}")
    if binned := [model.name for model in nll.model if isinstance(model, zfit.pdf.BaseBinnedPDF)]:
        raise TypeError(
            f"the channels {binned} are binned: calibrate the likelihood of the others, and add these to it"
        )
    if any(hasattr(part, "simulated") for model in nll.model for part in components(model)):  # a DoIPDF
        raise TypeError(
            "this is the likelihood of a Distribution of Interest: its map takes data to simulation and follows the data "
            "themselves. Its uncertainties are those of replicas, map variations and zfit_fnf.doi.finite_simulation; "
            "calibrate the likelihood of the densities, without a map"
        )
    if empty := [model.name for model, data in zip(nll.model, nll.data, strict=True) if not int(data.num_entries)]:
        raise ValueError(f"the data of {empty} have no events: there are no scores to calibrate")


def _learned_fit(nll: LogSpaceNLL, params: Sequence[zfit.Parameter]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best fit and errors of the learned likelihood, each ``(P,)``, and its Hessian of the events there, in such units."""
    result = Minuit().minimize(nll)
    if not result.info["is_minimum"]:  # inside of the limits or at one of them, as without a signal
        raise ValueError(f"the likelihood has no minimum that could be calibrated: {result.message}")
    curvature = event_hessian(nll, params)
    errors = np.sqrt(np.diag(inverse(curvature + nll.constraint_hessian(params))))
    if unknown := [one.name for one, error in zip(params, errors, strict=True) if not error > 0]:
        raise ValueError(f"the likelihood does not depend on {unknown}: fix them")
    start = np.array([result.params[parameter]["value"] for parameter in params])
    return start, errors, curvature * np.outer(errors, errors)


def _refuse_astray(
    params: Sequence[zfit.Parameter], path: Sequence[float], bias: np.ndarray, beyond: np.ndarray
) -> None:
    """One error where the end of a calibration means nothing.

    Args:
        params: The parameters.
        path: Length of each step, in errors.
        bias: What was removed of each parameter, in errors of the learned likelihood.
        beyond: How far the end is outside of what was simulated, in calibrated errors.
    """
    if path[-1] > _ASTRAY:
        steps = ", ".join(f"{step:.2g}" for step in path)
        raise RuntimeError(
            f"the calibrated fit does not settle, its steps were {steps} errors: the densities are too far from the simulation. "
            "Train longer, or add the interactions that are missing"
        )
    for one, off, outside in zip(params, bias, beyond, strict=True):
        if abs(off) > FAR and outside > FAR:
            raise RuntimeError(
                f"the densities are {abs(off):.2g} errors off in {one.name!r}, and where the calibrated fit goes nothing was "
                "simulated that could put them right. Train longer, or simulate further out"
            )


def _simulated_range(params: Sequence[zfit.Parameter], processes: Sequence[Process]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest values ``(P,)`` of the parameters at which all processes were simulated."""
    low, high = np.full(len(params), -np.inf), np.full(len(params), np.inf)
    for process in processes:
        points = process.interpolation.points
        for one, values in zip(process.params, points.T, strict=True):
            if one in params:
                index = params.index(one)
                low[index], high[index] = max(low[index], values.min()), min(high[index], values.max())
    return low, high


def _moments(nll: LogSpaceNLL, params: Sequence[zfit.Parameter], errors: np.ndarray, closure: Closure) -> Moments:
    """What the scores mean where the parameters are, of parameters in units of errors."""
    units = np.outer(errors, errors)
    scatter = _scatter(nll, params, closure) * units
    noise = {
        source: [(factors * units, unknown * units, covariance * units) for factors, unknown, covariance in ones]
        for source, ones in closure.slope_noise.items()
    }
    return Moments(
        closure.bias * errors,
        closure.promised * units,
        closure.slope * units,
        scatter,
        {source: matrix * units for source, matrix in closure.sources.items()},
        nll.constraint_hessian(params) * units,
        noise,
    )


def _step(nll: LogSpaceNLL, params: Sequence[zfit.Parameter], errors: np.ndarray, moments: Moments) -> np.ndarray:
    """From where the parameters are to the minimum of the calibrated parabola inside of their limits."""
    gradient = moments.gradient(*_gradients(nll, params, errors))
    point, (low, high) = np.array([float(one.value()) for one in params]), np.transpose(list(map(limits_of, params)))
    return step_inside(point / errors, gradient, moments.precision, low / errors, high / errors)[0]


def _followed(
    nll: LogSpaceNLL,
    params: Sequence[zfit.Parameter],
    errors: np.ndarray,
    part: Measurement,
    closure: Closure,
    moments: Moments,
    edges: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """About where the calibrated fit is, ``(P,)``: a part of the events tells how the closure moves on the way there.

    That is much better known than the closure itself, and the derivatives need not follow.

    Args:
        nll: The likelihood.
        params: The parameters.
        errors: Their units.
        part: Measures the closure with a part of the events.
        closure: That of all events, where the parameters are.
        moments: Likewise.
        edges: Lowest and highest values of the parameters.
    """
    point = np.array([float(one.value()) for one in params])
    rest, total = closure.bias - part().bias, errors * np.sqrt(np.diag(moments.covariance))
    path, share = list[float](), 1.0
    while True:
        step = np.clip(point + errors * _step(nll, params, errors, moments), *edges) - point
        path.append(float(np.max(np.abs(step) / total)))
        if path[-1] < 0.5 * _ARRIVED or len(path) > _ROUNDS:
            return np.clip(point + share * step, *edges)
        if len(path) > 1 and path[-1] > _SLOW * path[-2]:
            share *= 0.5
        point = np.clip(point + share * step, *edges)
        zfit.param.set_values(params, point)
        moments = replace(moments, bias=(rest + part().bias) * errors)


def _gradients(nll: LogSpaceNLL, params: Sequence[zfit.Parameter], errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the learned likelihood of the events, and of the constraints, where the parameters are; ``(P,)`` in units of errors."""
    of_constraints = constraints_value_gradient(nll, params)[1]
    return (np.asarray(nll.gradient(list(params))) - of_constraints) * errors, of_constraints * errors


def _calibrated(
    nll: LogSpaceNLL,
    params: Sequence[zfit.Parameter],
    errors: np.ndarray,
    moments: Moments,
    start: np.ndarray,
    curvature: np.ndarray,
) -> CalibratedNLL:
    """The calibrated likelihood, whose scores are taken where the parameters are.

    The learned one is best at ``start``, with that ``curvature``.
    """
    mcstat = tuple(nuisance(f"mcstat_{k}") for k in range(moments.directions.shape[1]))
    point = np.array([float(parameter.value()) for parameter in params])
    location = moments.location(*_gradients(nll, params, errors))
    calibration = Calibration(
        params=tuple(params),
        point=point,
        errors=errors,
        reference=(start - point) / errors,
        curvature=curvature,
        curvature_here=event_hessian(nll, params) * np.outer(errors, errors),
        moments=moments,
        bias=location,
        nuisances=mcstat,
        constraint=NuisanceConstraint(mcstat) if mcstat else None,
        numbers=tuple(
            None if extended else float(data.samplesize) for data, extended in zip(nll.data, nll.extended, strict=True)
        ),
    )
    kind = CalibratedExtendedUnbinnedNLL if nll.is_extended else CalibratedUnbinnedNLL
    return kind(nll, calibration)


def _scatter(nll: LogSpaceNLL, params: Sequence[zfit.Parameter], closure: Closure) -> np.ndarray:
    """Covariance ``(P, P)`` of the sum of the scores of the data."""
    sums, squares = np.sum([_sums_of_weights(data) for data in nll.data], axis=0)
    n_effective = sums**2 / squares
    if n_effective < _EVENTS_PER_SCORE * len(params):
        return closure.promised
    measured = nll.score_covariance(params, np.square)
    believed = cautiously(measured / squares, closure.scores, closure.numbers / closure.numbers.sum(), n_effective)
    return believed @ measured @ believed.T


def _sums_of_weights(data: zfit.Data) -> tuple[float, float]:
    weights = np.ones(int(data.num_entries)) if data.weights is None else np.asarray(data.weights, float)
    return float(weights.sum()), float(np.square(weights).sum())


def _report(
    loss: CalibratedNLL,
    processes: Sequence[Process],
    closure: Closure,
    start: np.ndarray,
    end: np.ndarray,
    n_iterations: int,
) -> CalibrationReport:
    calibration, moments = loss.calibration, loss.calibration.moments
    errors, names = calibration.errors, [parameter.name for parameter in calibration.params]

    def part(of_scores: np.ndarray) -> np.ndarray:
        return errors * np.sqrt(np.maximum(np.diag(moments.share(of_scores)), 0.0))

    parts = {
        source: np.hypot(part(matrix), errors * np.sqrt(moments.of_slopes.get(source, 0.0)))
        for source, matrix in moments.sources.items()
    }
    total = errors * np.sqrt(np.diag(moments.covariance))
    table = pd.DataFrame(
        {
            "value": end,
            "error": total,
            "naive_error": errors,
            "statistical": part(moments.scatter),
            "constraints": errors * np.sqrt(np.maximum(np.diag(moments.of_constraints), 0.0)),
            "simulation": np.sqrt(np.sum(np.square(list(parts.values())), axis=0)),
            "bias": (start - end) / errors,
            "loss": total / errors,
            "doubt": moments.doubt(),
        },
        index=pd.Index(names, name="parameter"),
    )
    sources = pd.DataFrame(
        list(parts.values()),
        columns=names,
        index=pd.MultiIndex.from_tuples(parts, names=["process", "sample"]),
    )
    sources.insert(0, "effective", [closure.sizes[source][1] for source in moments.sources])
    sources.insert(0, "events", [closure.sizes[source][0] for source in moments.sources])
    between = _between(closure, moments, errors)
    return CalibrationReport(
        table,
        sources,
        between,
        len(calibration.nuisances),
        moments.left_out,
        n_iterations,
        tuple(dict.fromkeys(_notes(processes, table, between))),
    )


def _between(closure: Closure, moments: Moments, errors: np.ndarray) -> pd.Series[float]:
    """How far off the closure may be between the points of each process; of folds, the sum."""
    found: dict[tuple[str, str], float] = {}
    for one in closure.coefficients:
        for names, size in one.remainders(moments.metric * np.outer(errors, errors)).items():
            key = one.process.name, ", ".join(names)
            found[key] = found.get(key, 0.0) + size
    index = pd.MultiIndex.from_tuples(list(found), names=["process", "nuisances"]) if found else None
    return pd.Series(list(found.values()), index, float, name="errors")


def _notes(processes: Sequence[Process], table: pd.DataFrame, between: pd.Series[float]) -> list[str]:
    notes = []
    if len(far := table.index[table["bias"].abs() > FAR]):
        worst = table["bias"].abs().idxmax()
        notes.append(
            f"the model is far off: a bias of {table.loc[worst, 'bias']:+.1f} errors was removed from {worst!r}"
            + (f", and more than {FAR:g} from {list(far)}" if len(far) > 1 else "")
            + ". Train longer, or add the interactions that are missing"
        )
    if len(small := table.index[table["loss"] < _SMALLER]):
        notes.append(
            f"calibrated errors of {list(small)} are {table['loss'].min():.2f} times the learned ones or little more: simulation "
            "says that the data tell more than the densities know, as for densities that are too wide, or where few events with "
            "large scores decide. Compare with toys before you quote the smaller error"
        )
    if len(unsure := table.index[table["doubt"] > _UNSURE]):
        notes.append(
            f"errors of {list(unsure)} are themselves uncertain by up to {table['doubt'].max():.0%}: too few events were "
            "simulated to tell what a score is worth, and intervals may cover much less or more than they should. Simulate more "
            "(simulation_plan) before you quote them"
        )
    total = float(np.sqrt(np.square(between).sum()))
    if total > _BETWEEN:
        process, nuisances = between.idxmax()
        notes.append(
            f"where the fit is, between the points that were simulated, the closure may be off by {total:.1g} errors, most of it "
            f"in {nuisances} of {process!r}: simulate nearer to the fit"
            + (", and with both moved together" if ", " in nuisances else "")
        )
    for process in processes:
        nu = [float(one.value()) for one in process.params]
        if beyond := process.interpolation.beyond(nu):
            notes.append(
                f"the fit is at values of {beyond} beyond the simulation of {process.name!r}: the closure there is an "
                "extrapolation. Simulate points further out"
            )
    return notes

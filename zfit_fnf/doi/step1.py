"""Step 1: the global fit, of the map together with all parameters of the model.

The map is trained on minibatches, and the parameters of the model with it. Minuit then finds the exact minimum in the
parameters with the map fixed; the end of the training is repeated, with small steps, until the minimum no longer moves.
A training that goes astray, whose minimum moves on and on, is repeated from other weights.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf
from zfit.minimizers.errors import WeightCorr
from zfit.result import FitResult

from ..common.checks import integer, names, number
from ..common.warning import warn
from ..densities.floor import SHARE, above
from ..densities.history import History
from ..densities.transfer import Transfer
from ..minimize import Minuit
from ..minimum import inverse_of
from ..pdf import UNBOUNDED, is_compilable, outputs, space_ranges, sum_shares
from ..samples import Sample, as_sample, check_inside
from ..train.loop import Maximiser
from ..train.schedule import Schedule
from .floor import is_signed, middles
from .pdf import MappedEvents
from .rows import (
    Precomputed,
    Rows,
    behind,
    current,
    default_schedule,
    expected_errors,
    floating,
    make_loss,
    mixture,
    nuisance_ranges,
    parts_of,
    responsibilities,
)

__all__ = ["GlobalProblem", "TransferFit", "fit_transfer"]

_ROUNDS, _TAIL = 4, 0.8  # repeats of the end of the training, at most, and where that end begins
_STILL = 0.2  # standard errors with the map fixed: a minimum that moves less has stopped,
_LOST = 1.0  # and one that moves by more at last is that of a training that went astray: others do not move by 0.3
_OTHER_SEED = 7919
_TRAININGS = 3  # at most, each from other weights
_LAYERS = 3
_ENOUGH = 7.0  # events per weight: with fewer a map follows fluctuations, and by more than replicas move it;
_TOO_FEW, _FEW = 5.0, 2.0  # what is told where users choose the map, of all events and of those of a process
_WIDEST, _NARROWEST = 32, 4  # hidden layers that are chosen for many and for few events
_MUCH = 500_000  # events in minibatches: XLA, which makes a step twice as fast, compiles for ten seconds longer
_EDGE = 1e-6  # of a range: events closer to its edge have been pushed there
_LOOKED_AT = 8192  # of the events, for pushes


@dataclass(frozen=True, eq=False)
class TransferFit:
    """A map from data to simulation and the parameters of the model, fitted together; made by `fit_transfer`.

    Nothing trains the map again: profiles and ensembles work on copies.

    Attributes:
        model: The model of simulation.
        pdf: The model of data: every component behind the map.
        data: The events.
        transfer: The map.
        values: Minimum in the parameters with the map fixed, by name: a start, as the map could absorb a part of any shift of
            theirs; the profile has the estimates.
        covariance: Their covariance with the map fixed, in the order of `values`.
        nll: Negative log-likelihood at the minimum.
        rounds: Moves of the minimum, in standard errors, when the end of the training was repeated.
        history: Of the training.
        problem: The problem that was solved; it can be solved again for other data.
        problems: Problems of the fit; none if it is valid.
    """

    model: zfit.pdf.BasePDF
    pdf: zfit.pdf.BasePDF
    data: Sample
    transfer: Transfer
    values: dict[str, float]
    covariance: np.ndarray
    nll: float
    rounds: tuple[float, ...]
    history: History
    problem: GlobalProblem = field(repr=False)
    problems: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the fit has no problems."""
        return not self.problems

    @property
    def parameters(self) -> dict[str, zfit.Parameter]:
        """The parameters that were fitted, by name, also where one has been fixed since."""
        found = {parameter.name: parameter for parameter in self.pdf.get_params(floating=None)}
        return {name: found[name] for name in self.values}

    @property
    def errors(self) -> dict[str, float]:
        """Standard errors with the map fixed; too small, because a map could absorb part of a shift of the parameters."""
        return dict(zip(self.values, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    def loss(self) -> zfit.loss.UnbinnedNLL:
        """The likelihood of the parameters with the map fixed."""
        return make_loss(self.pdf, self.data)

    def to_dataframe(self) -> pd.DataFrame:
        """Start ``value`` and ``error`` with the map fixed: a row for each parameter."""
        return pd.DataFrame({"value": self.values, "error": self.errors})

    def to_dict(self) -> dict[str, Any]:
        """Everything but the map, the model and the events, ready for JSON."""
        return {
            "n_events": self.data.n_events,
            "values": self.values,
            "errors": self.errors,
            "covariance": self.covariance.tolist(),
            "nll": self.nll,
            "rounds": list(self.rounds),
            "valid": self.valid,
            "problems": list(self.problems),
            "history": self.history.to_dict(),
        }

    def __str__(self) -> str:
        rows = {name: (f"{value:.5g}", f"{self.errors[name]:.2g}") for name, value in self.values.items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=["start", "error, map fixed"]).to_string()
        state = "valid" if self.valid else "NOT VALID: " + "; ".join(self.problems)
        return (
            f"global fit of {self.data.n_events} events with {self.transfer!r}\n{state}\n{table}\n"
            f"NLL {self.nll:.2f}; the minimum moved by {', '.join(f'{move:.2f}' for move in self.rounds)} such errors at last\n"
            "the map can follow the parameters: estimates and errors are those of zfit_fnf.doi.profile"
        )


def fit_transfer(
    model: zfit.pdf.BasePDF,
    data: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    weights: Any = None,
    shared: bool = False,
    penalty: float = 0.0,
    n_layers: int | None = None,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TransferFit:
    """Fit a map from data to simulation together with the parameters of a model.

    The densities of simulation stay frozen. All floating parameters of the model start from their current values,
    and are left at the best fit.

    Args:
        model: Density of simulation with its nuisances, yields and so on: a `SumPDF`, whose components are
            processes with a map each, or another PDF.
        data: Events with all observables of the model: DataFrame, dict of arrays, `zfit.Data`, `Sample` or file.
        obs: Observables that the map moves.
        cond: Observables that it depends on.
        weights: Weights of the events: a column or an array.
        shared: Whether one map is for all processes, as for an effect of the detector.
        penalty: Cost per event of a squared displacement, in nats per squared standard deviation of the observables.
        n_layers: Autoregressive layers of the map; default three, or one where there are few events for each weight.
        hidden: Widths of the hidden layers of its networks; default two of ``max(32, 16 d)``. Where that would leave fewer
            than seven events for each weight, the default is the largest map that has them: networks of a half, a
            quarter or an eighth of that width, then one layer of the last, then one without hidden layers.
        schedule: Length and speed of the training; default 1000 steps over 20 epochs. Its validation events are a
            guard against overfitting: where they speak against later weights, earlier ones are kept.
        seed: Seed of everything random.
        progress: Whether to show progress bars.

    Returns:
        The fit. Print it, look at ``valid``, and go on with `profile`.

    Raises:
        ValueError: If the model has no floating parameter or does not describe the observables of the map, processes
            have no names of their own, or the data are bad.
        TrainingStopped: If the training diverges or is interrupted.

    Example:
        >>> doi = fit_transfer(model, data, obs=["y1", "y2"], cond=["x1", "x2"], seed=1)
        >>> profiled = profile(doi, seed=1)
    """
    if not isinstance(model, zfit.pdf.BasePDF):
        raise TypeError(f"fit_transfer takes a model first, then its data; got {type(model).__name__}")
    obs, cond = names(obs, "obs="), names(cond, "cond=", '["x1", "x2"]')
    seed = integer(seed, "seed=", low=0)
    n_layers = None if n_layers is None else integer(n_layers, "n_layers=", low=1)
    penalty = number(penalty, "penalty=", low=0.0)
    # Step 2 needs the events, whatever becomes of their table.
    sample = copy.deepcopy(as_sample(data, model.obs, weights=weights))
    check_inside(sample, space_ranges(model.norm))
    for own in _sizes(len(obs), n_layers, hidden):
        transfer = _new_transfer(model, obs, cond, shared=shared, seed=seed, **own)
        if sample.effective_size >= _ENOUGH * _n_weights(transfer):
            break
    transfer.standardise(sample)
    _warn_if_few(model, transfer, sample)
    problem = GlobalProblem(model, transfer, schedule or default_schedule(sample), penalty=penalty)
    return problem.solve(sample, seed=seed, progress=progress)


@dataclass(frozen=True, eq=False)
class _Minimum:
    """What one training has found: Minuit's result with the map fixed, the last moves of the minimum, and where it is."""

    result: FitResult
    history: History
    moves: tuple[float, ...]
    weights: list[np.ndarray]
    values: np.ndarray


class GlobalProblem:
    """The global fit of one model: compiled for the first data set, and not again for others.

    It trains a map of its own; every solution gets a copy. The parameters of the model are left at the best fit.

    Args:
        model: The model of simulation.
        transfer: A map with the architecture and the standardisation; its weights are not used.
        schedule: Of its training.
        penalty: As for `fit_transfer`.
        n_fits: How often it will be solved: what is compiled for longer, and is faster then, pays in many fits.
    """

    def __init__(
        self,
        model: zfit.pdf.BasePDF,
        transfer: Transfer,
        schedule: Schedule,
        *,
        penalty: float = 0.0,
        n_fits: int = 1,
    ):
        self.model, self.transfer, self.schedule, self.penalty = model, copy.deepcopy(transfer), schedule, penalty
        self.pdf = behind(model, self.transfer)
        self._precomputed = Precomputed(self.pdf)
        self.params = floating(self.pdf)
        self.start = {parameter: float(parameter.value()) for parameter in self.params}
        self._sum_weights = tf.Variable(1.0, dtype=tf.float64, trainable=False)
        self._step_sizes = [tf.Variable(1.0, trainable=False) for _ in self.params]
        self._fit: Maximiser | None = None
        self._signed = False
        self._xla = n_fits * schedule.steps * schedule.batch_size > _MUCH and all(
            map(is_compilable, parts_of(self.pdf))
        )

    def solve(self, sample: Sample, *, seed: int, progress: bool, covariance: bool = True) -> TransferFit:
        """Fit data from the identity map and from the start values of the parameters.

        Args:
            sample: The events.
            seed: Of the networks' initial weights and of the shuffling.
            progress: Whether to show progress bars.
            covariance: Whether to compute the covariance of the parameters; NaN otherwise.

        Raises:
            TrainingStopped: If the training diverges or is interrupted.
        """
        self._sum_weights.assign(sample.sum_weights)
        signed = is_signed(sample)
        source = [Rows(sample, self._precomputed.rows(sample) + (middles(self.transfer, sample) if signed else []))]
        if self._fit is None or self._signed != signed:
            self._signed = signed
            self._fit = self._maximiser(sample)
        found: _Minimum | None = None
        for attempt in range(_TRAININGS):
            minimum = self._train(sample, source, seed + _OTHER_SEED * attempt, progress=progress)
            if found is None or minimum.result.fmin < found.result.fmin:
                found = minimum
            if found.moves[-1] <= _LOST:
                break
        assert found is not None
        self.transfer.assign(found.weights)
        zfit.param.set_values(self.params, found.values)
        matrix = self._covariance_of(sample) if covariance else np.full((len(self.params),) * 2, np.nan)
        transfer = copy.deepcopy(self.transfer)
        return TransferFit(
            model=self.model,
            pdf=behind(self.model, transfer),
            data=sample,
            transfer=transfer,
            values={parameter.name: float(parameter.value()) for parameter in self.params},
            covariance=matrix,
            nll=float(found.result.fmin),
            rounds=found.moves,
            history=found.history,
            problems=tuple(self._problems(sample, found, matrix if covariance else np.eye(1))),
            problem=self,
        )

    def _train(self, sample: Sample, source: Sequence[Rows], seed: int, *, progress: bool) -> _Minimum:
        """From the start values to a minimum that no longer moves, or until there have been enough rounds."""
        zfit.param.set_values(self.start, clip=True)
        self._restart(seed)
        self._set_step_sizes(sample)
        assert self._fit is not None
        history = self._fit("global fit", source, seed=seed, progress=progress)
        result = self._minimise(sample)
        moves: list[float] = []
        while len(moves) < _ROUNDS and (not moves or moves[-1] > _STILL):
            before = current(self.params)
            tail = int(_TAIL * self.schedule.steps)
            self._fit(f"global fit, round {len(moves) + 1}", source, seed=seed, progress=progress, first_step=tail)
            result = self._minimise(sample)
            errors = expected_errors(self.pdf, sample, self.params)
            moves.append(float(np.max(np.abs(current(self.params) - before) / errors)))
        return _Minimum(result, history, tuple(moves), self.transfer.weights_list(), current(self.params))

    def _restart(self, seed: int) -> None:
        """The identity, with fresh weights in the hidden layers."""
        fresh = Transfer(**self.transfer.config(), seed=seed)
        for variable, start in zip(self.transfer.trainable_variables, fresh.trainable_variables, strict=True):
            variable.assign(start)

    def _maximiser(self, sample: Sample) -> Maximiser:
        weights = self.transfer.trainable_variables
        return Maximiser(
            self._log_likelihood(make_loss(self.pdf, sample).constraints),
            [*weights, *self.params],
            schedule=self.schedule,
            step_sizes=[*[1.0] * len(weights), *self._step_sizes],
            xla=self._xla,
        )

    def _set_step_sizes(self, sample: Sample) -> None:
        """Of the parameters: one standard error at most, from these data and not from earlier ones."""
        sizes = expected_errors(self.pdf, sample, self.params) / self.schedule.learning_rate
        for variable, size in zip(self._step_sizes, sizes, strict=True):
            variable.assign(size)

    def _log_likelihood(self, constraints: Sequence[Any]) -> Callable[..., tf.Tensor]:
        """Log-density of minibatches, with the terms of the likelihood that are not sums over events shared out."""
        parts, signed = parts_of(self.pdf), self._signed

        def log_likelihood(*columns: tf.Tensor) -> tf.Tensor:
            unmapped = self._precomputed.packed(columns)
            log_p = [part.log_density_at(part.mapped(events)) for part, events in zip(parts, unmapped, strict=True)]
            value = mixture(self.pdf, log_p)
            if signed:
                there = [part.log_density_at(own, columns[-2]) for part, own in zip(parts, unmapped, strict=True)]
                floor = mixture(self.pdf, there) - tf.cast(columns[-1], tf.float64) + SHARE
                value = above(value, tf.stop_gradient(floor))
            if self.penalty:
                value -= self.penalty * self._displacement(unmapped, log_p)
            if self.pdf.is_extended:
                expected = tf.reshape(self.pdf.get_yield().value(), ())
                value += tf.math.log(expected) - expected / self._sum_weights
            for constraint in constraints:
                value -= tf.reshape(constraint.value(), ()) / self._sum_weights
            return value

        return log_likelihood

    def _displacement(self, unmapped: Sequence[MappedEvents], log_p: Sequence[tf.Tensor]) -> tf.Tensor:
        """Squared displacement of each event, averaged over the processes that may have made it."""
        squared = [tf.reduce_sum(tf.square(self._moved(events) - events.u), axis=-1) for events in unmapped]
        shares = responsibilities(self.pdf, [tf.stop_gradient(part) for part in log_p])
        return tf.add_n([share * tf.cast(s, tf.float64) for share, s in zip(shares, squared, strict=True)])

    def _moved(self, events: MappedEvents) -> tf.Tensor:
        return self.transfer.inverse(events.u, self.transfer.precompute(events.context))[0]

    def _minimise(self, sample: Sample) -> FitResult:
        # Minimisers of zfit leave cycles of references, which hold events precomputed for an earlier map.
        gc.collect()
        return Minuit().minimize(make_loss(self.pdf, sample), self.params)

    def _covariance_of(self, sample: Sample) -> np.ndarray:
        """Inverse Hessian, corrected for weights of events; NaN where it is not positive definite."""
        loss = make_loss(self.pdf, sample)
        inverse = inverse_of(np.asarray(loss.hessian(self.params)))
        if sample.weights is None or not np.isfinite(inverse).all():
            return inverse
        return np.asarray(loss.weighted_covariance(inverse, self.params, WeightCorr.ASYMPTOTIC))

    def _problems(self, sample: Sample, found: _Minimum, covariance: np.ndarray) -> list[str]:
        problems = []
        if found.moves[-1] > _LOST:
            problems.append(
                f"after {_TRAININGS} trainings from different weights the minimum still moved by {found.moves[-1]:.1f} errors "
                "with the map fixed: train for longer (schedule=)"
            )
        if not np.isfinite(covariance).all():
            problems.append("the Hessian at the minimum is not positive definite")
        if not found.result.converged:
            problems.append("Minuit did not converge")
        if at_limit := [parameter.name for parameter in self.params if parameter.at_limit]:
            problems.append(f"at a limit: {', '.join(at_limit)}")
        problems += [
            f"nuisance {name!r} is at {value:.3g}, outside of the range ({low:g}, {high:g}) of its deformation"
            for name, (value, low, high) in nuisance_ranges(self.model).items()
            if not low <= value <= high
        ]
        if pushed := _pushed_to_an_edge(self.pdf, sample):
            problems.append(f"the map pushes {pushed} events to an edge of the range of the observables")
        return problems


def _pushed_to_an_edge(pdf: zfit.pdf.BasePDF, sample: Sample) -> int:
    """Number of events that the map takes to an edge of the range of an observable, among the first ones."""
    pushed = 0
    for part in parts_of(pdf):
        x = tf.constant(sample.array(pdf.obs, slice(0, _LOOKED_AT)))
        moved = part.simulated(x)
        for name, (low, high) in part.ranges.items():
            if name in moved and high - low < UNBOUNDED:
                y, margin = moved[name], _EDGE * (high - low)
                pushed += int(np.sum((y < low + margin) | (y > high - margin)))
    return pushed


def _sizes(d: int, n_layers: int | None, hidden: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """Layers of a map and widths of their networks, the largest first; what is given is the same in all."""
    widest, least = max(_WIDEST, 16 * d), max(_NARROWEST, d)
    chosen = [widest, widest // 2, widest // 4, max(widest // 8, least)]
    widths: list[Sequence[int]] = [(width, width) for width in chosen] if hidden is None else [hidden]
    yield from ({"n_layers": n_layers or _LAYERS, "hidden": own} for own in widths)
    if n_layers is None:
        yield {"n_layers": 1, "hidden": widths[-1]}
    if hidden is None:
        yield {"n_layers": n_layers or 1, "hidden": ()}


def _new_transfer(
    model: zfit.pdf.BasePDF,
    obs: Sequence[str],
    cond: Sequence[str],
    *,
    shared: bool,
    n_layers: int,
    hidden: Sequence[int],
    seed: int,
) -> Transfer:
    described = outputs(model)
    if unknown := [name for name in obs if name not in described]:
        raise ValueError(f"obs= names {unknown}, but {model.name!r} describes {list(described)}")
    if unknown := [name for name in cond if name not in model.obs]:
        raise ValueError(f"cond= names {unknown}, but {model.name!r} has {list(model.obs)}")
    processes = [part.name for part in parts_of(model)]
    if not shared and len(set(processes)) < len(processes):
        raise ValueError(
            f"the components of {model.name!r} are called {processes}: give each process its own name=, or use shared=True"
        )
    if not floating(model):
        raise ValueError(f"{model.name!r} has no floating parameter, and there is nothing to fit together with the map")
    limits = {name: limits for name, limits in space_ranges(model.norm).items() if name in obs}
    ranges = {
        name: (low if low > -UNBOUNDED else -np.inf, high if high < UNBOUNDED else np.inf)
        for name, (low, high) in limits.items()
    }
    return Transfer(
        obs,
        cond,
        processes=() if shared or len(processes) == 1 else processes,
        ranges=ranges,
        n_layers=n_layers,
        hidden=hidden,
        seed=seed,
    )


def _n_weights(transfer: Transfer) -> int:
    return sum(int(np.prod(variable.shape)) for variable in transfer.trainable_variables)


def _warn_if_few(model: zfit.pdf.BasePDF, transfer: Transfer, sample: Sample) -> None:
    n_weights = _n_weights(transfer)
    ratio = sample.effective_size / n_weights
    if ratio < _TOO_FEW:
        warn(
            f"{sample.effective_size:.0f} effective events are few for a map with {n_weights} weights (ratio "
            f"{ratio:.2g}): it will follow fluctuations. Use smaller hidden= layers, or a penalty="
        )
        return
    shares = sum_shares(model) if transfer.processes else np.zeros(0)
    own = {name: sample.effective_size * float(share) for name, share in zip(transfer.processes, shares, strict=True)}
    if few := {name: n for name, n in own.items() if n < _FEW * n_weights / transfer.n_maps}:
        counted = ", ".join(f"{name} {n:.0f}" for name, n in few.items())
        warn(
            f"processes have few effective events for maps of their own ({counted}, with {n_weights / transfer.n_maps:.0f} "
            "weights each): a map can shrink a process onto single events, and the likelihood has no maximum. Use shared=True, "
            "smaller hidden= layers, or a penalty="
        )

"""One fit of the efficiency over the whole phase space, to passing and failing probes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from ..common.checks import flag, integer
from ..densities.networks import hidden_widths
from ..train.schedule import Schedule, checked_schedule
from .member import Member
from .model import Likelihood, Quadrature, log_integral
from .pairs import Columns, Moments, Pairs
from .result import TagProbeResult
from .shapes import LearnedSignal, MassShape
from .training import Training

__all__ = ["fit"]

_FINER = (1, 3, 9)  # times as many nodes of the quadrature over the mass, until integrals are right
_INTEGRAL = 1e-3  # how wrong they may be: what is common to all pairs cancels
_TAKEN = "statistics", "networks", "denominator", "value", "error"  # columns of tables, which no alternative is called
_STARTS = 200  # pairs whose shapes are looked at before anything is trained

Shapes = Any  # a shape, or one for passing and one for failing probes


def fit(
    data: Any,
    signal: Shapes,
    background: Shapes,
    *,
    mass: str,
    window: tuple[float, float],
    passing: str,
    cond: Sequence[str],
    weights: Any = None,
    alternatives: Mapping[str, Mapping[str, Shapes]] | None = None,
    hidden: Sequence[int] | None = None,
    members: int = 3,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> TagProbeResult:
    """Fit the efficiency of a selection of probes as a function of their conditions.

    Each member of an ensemble is trained as a whole; then, with its hidden layers fixed, the likelihood is maximised in all
    that is linear in features, by Newton's method, which gives the covariance too: the sandwich of its Hessian and of the
    squares of the scores of pairs.

    Args:
        data: Pairs: DataFrame, mapping of arrays, :class:`~zfit_fnf.Sample` or file.
        signal: Shape of the signal: a :class:`~zfit_fnf.Flow` of the mass given the conditions, learned from simulation, which is
            moved and widened by the fit, or one of :mod:`zfit_fnf.tagprobe.shapes`. One shape is that of all probes, with the
            same coefficients; of two, for passing and for failing probes, each has its own.
        background: Shape of the background, of which passing and failing probes have coefficients of their own; or two.
        mass: Column of the mass of a pair.
        window: Range of the mass; pairs outside are not used.
        passing: Column that is true, or one, for probes that pass.
        cond: Columns of the conditions.
        weights: Column of weights, or one weight for each pair.
        alternatives: Other shapes by a name of each, such as ``{"polynomial": {"background": Bernstein(3)}}``. The fit is
            repeated with each, and what the efficiency differs by is an uncertainty.
        hidden: Widths of the hidden layers; default two of 16.
        members: Number of members of the ensemble.
        schedule: Length and speed of each training; default 1500 steps of 2048 pairs.
        seed: Seed of the initial weights and of the shuffling.
        progress: Show progress bars.

    Raises:
        TypeError: If a shape is none.
        ValueError: For bad columns; if no probes pass or fail in a region; if a shape cannot be normalised, or is too narrow for
            the window.

    Warns:
        UserWarning: If the likelihood has not reached its maximum; if no probes pass or fail in a region of two conditions.

    Example:
        >>> result = fit(pairs, Peak(), Exponential(), mass="m", window=(60, 120), passing="id", cond=["pt", "eta"])
        >>> print(result.efficiency({"pt": [30.0], "eta": [0.5]}))
    """
    columns = Columns.of(mass, window, passing, cond)
    models = {"": {"signal": signal, "background": background}}
    models |= _checked_alternatives(alternatives or {}, models[""])
    likelihoods = {name: _likelihood(shapes, columns, name) for name, shapes in models.items()}
    flag(progress, "progress")
    sample = columns.read(data, weights)
    moments = columns.moments(sample)
    pairs = Pairs(sample, columns, moments)
    pairs.check_outcomes()
    settings = _Settings(
        columns,
        moments,
        (16, 16) if hidden is None else hidden_widths(hidden, 1),
        integer(members, "members", low=1),
        checked_schedule(schedule, Schedule(steps=1500, batch_size=2048, warmup=100, averaging=0.99)),
        integer(seed, "seed", low=0),
        progress,
    )
    for name, likelihood in likelihoods.items():
        _check_normalisable(likelihood, pairs, name)
    results = {name: _fitted(pairs, likelihood, settings, name) for name, likelihood in likelihoods.items()}
    return replace(results.pop(""), alternatives=results)


@dataclass(frozen=True)
class _Settings:
    columns: Columns
    moments: Moments
    widths: tuple[int, ...]
    members: int
    schedule: Schedule
    seed: int
    progress: bool


def _fitted(pairs: Pairs, likelihood: Likelihood, settings: _Settings, name: str) -> TagProbeResult:
    """All members, with as many nodes as the narrowest peak of any of them needs."""
    for factor in _FINER:
        finer = replace(likelihood, quadrature=Quadrature.of(pairs.t).finer(factor))
        training = Training(pairs, finer, settings.widths, settings.schedule)
        members: list[Member] = []
        for k in range(settings.members):
            label = f"{name}: member {k + 1}" if name else f"member {k + 1}"
            member, error = training.member(settings.seed + k, settings.progress, label)
            if not error < _INTEGRAL:
                break
            members.append(member)
        else:
            ranges = {one: (float(x.min()), float(x.max())) for one, x in pairs.table.items()}
            return TagProbeResult(settings.columns, ranges, settings.moments, tuple(members), finer, pairs)
    n_nodes = len(finer.quadrature.nodes()[0])
    why = pairs.of_negative_weights() or (
        "a peak is too narrow for window=, or a shape has a jump or cannot be normalised; give a narrower window, or another "
        "shape"
    )
    raise ValueError(f"the integral of a shape over the mass is wrong by {error:.1g} even with {n_nodes} nodes: {why}")


def _likelihood(shapes: Mapping[str, Shapes], columns: Columns, name: str) -> Likelihood:
    of = f" of the alternative {name!r}" if name else ""
    signals = _shapes(shapes["signal"], f"signal={of}", columns)
    backgrounds = _shapes(shapes["background"], f"background={of}", columns)
    return Likelihood(signals, (backgrounds[0], backgrounds[-1]))


def _shapes(given: Shapes, what: str, columns: Columns) -> tuple[MassShape, ...]:
    """One shape, or two."""
    found = []
    for shape in given if isinstance(given, (tuple, list)) else (given,):
        is_flow = hasattr(shape, "log_density_at")
        shape = LearnedSignal(shape, columns.window, columns.mass, columns.cond) if is_flow else shape
        if not isinstance(shape, MassShape):
            raise TypeError(
                f"{what} is a shape of the mass, e.g. zfit_fnf.tagprobe.Exponential(), or two, of passing and of failing "
                f"probes; got {shape!r}"
            )
        found.append(shape)
    if len(found) not in (1, 2):
        raise ValueError(f"{what} is one shape, or two, of passing and of failing probes; got {len(found)}")
    return tuple(found)


def _checked_alternatives(given: Any, nominal: Mapping[str, Shapes]) -> dict[str, dict[str, Shapes]]:
    example = '{"polynomial": {"background": Bernstein(3)}}'
    if not isinstance(given, Mapping):
        raise TypeError(f"alternatives= are shapes by a name of each, such as {example}; got {given!r}")
    for name, shapes in given.items():
        if not isinstance(name, str) or not name or name in _TAKEN:
            raise ValueError(f"an alternative needs a name other than {', '.join(map(repr, _TAKEN))}; got {name!r}")
        if not isinstance(shapes, Mapping) or not shapes or not set(shapes) <= set(nominal):
            raise ValueError(
                f"the alternative {name!r} replaces signal, background or both, as in {example}; got {shapes!r}"
            )
    return {name: {**nominal, **shapes} for name, shapes in given.items()}


def _check_normalisable(likelihood: Likelihood, pairs: Pairs, name: str) -> None:
    """Refuse shapes that are infinite at an end of the window, or whose integral is not a number, where the fit starts."""
    x = tf.constant(pairs.x[:_STARTS])
    n = x.shape[0]
    for shape in likelihood.shapes:
        a = tf.constant(np.tile([*shape.start], (n, 1)), tf.float64)
        ends = [shape.log_shape(tf.fill((n,), tf.constant(t, tf.float64)), a, x).numpy() for t in (-1.0, 1.0)]
        integral = log_integral(shape, a, x, likelihood.quadrature.finer(8)).numpy()
        if not (np.max(ends) < np.inf and np.isfinite(integral).all()):  # neither infinite nor no number
            of = f" of the alternative {name!r}" if name else ""
            raise ValueError(
                f"the shape {type(shape).__name__}{of} cannot be normalised over the window where the fit starts: its "
                "logarithm has to be finite, or minus infinity in a part of the window, for all conditions"
            )

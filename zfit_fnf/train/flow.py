"""Training of a nominal density."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..common.checks import flag, names
from ..common.warning import warn
from ..densities.flows import Density, Flow
from ..densities.history import problems_of
from ..samples import Simulation
from ..samples.pairing import fingerprint
from ..samples.screening import check_independent
from .compiled import TrainingLoop, of_density
from .loop import held_out_rows
from .polish import polish
from .schedule import Schedule, TrainingStopped, checked_schedule
from .sources import EventSource, no_weights_beside

__all__ = ["fit_flow"]

_COMPONENTS, _OF_ONE_OBSERVABLE = 8, 24


def fit_flow(
    nominal: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    weights: str | np.ndarray | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    family: str = "mixture",
    n_layers: int = 1,
    n_components: int | None = None,
    hidden: Sequence[int] | None = None,
    density: Density | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Flow:
    """Learn the nominal conditional density ``p(obs | cond)`` of one process.

    Without conditions, the distribution of the first observable is at last fitted to all training events at once
    (:mod:`zfit_fnf.train.polish`).

    Args:
        nominal: Simulated events: DataFrame, mapping of arrays, zfit Data, :class:`~zfit_fnf.Sample` or file; or the
            :class:`~zfit_fnf.Simulation` that has them.
        obs: Columns whose density is learned.
        cond: Columns it is conditional on.
        weights: Event weights: a column name or an array. Negative ones are allowed; where a density is less than a
            thousandth of that of a wide Cauchy distribution they count less, since it would vanish at each of them.
        ranges: Physical ``(low, high)`` of the observables that have them.
        family: ``"mixture"`` (smooth, default) or ``"spline"``.
        n_layers: Autoregressive layers.
        n_components: Components of the mixture, or bins of the spline; default 8, but 24 of the mixture in a single
            observable without conditions, where more take no time and follow the shape better.
        hidden: Widths of the hidden layers; default two of ``max(64, 16 d)``.
        density: A new density of your own to train, instead of the one that the arguments from ``family`` to ``hidden``
            describe; see :class:`~zfit_fnf.densities.flows.Density`. It becomes that of the flow.
        schedule: Length and speed of the training.
        seed: Seed of the initial weights, of the validation split and of the shuffling.
        progress: Show a progress bar.

    Returns:
        The flow, with its :class:`History` as ``flow.history``.

    Raises:
        ValueError: For bad input; the message names the column and the remedy.
        TrainingStopped: If the loss diverges or the user interrupts; ``.model`` is the flow with the best weights so far,
            or ``None`` where they are no better than those of the start.

    Warns:
        UserWarning: If the training went wrong in a way that its record shows, see :attr:`History.problems`.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> events = {"y": rng.normal(size=5000)}
        >>> flow = fit_flow(events, obs=["y"], schedule=Schedule(steps=200), progress=False)
        >>> bool(abs(flow.log_prob({"y": [0.0]})[0] + 0.919) < 0.1)
        True
    """
    architecture: dict[str, Any] = {
        "family": family,
        "n_layers": n_layers,
        "n_components": n_components,
        "hidden": hidden,
    }
    if density is not None:
        _check_density(density, architecture)
    if n_components is None:
        alone = family == "mixture" and len(names(obs, "obs")) == 1 and not cond
        architecture["n_components"] = _OF_ONE_OBSERVABLE if alone else _COMPONENTS
    flow = Flow(obs, cond, ranges=ranges, density=density, seed=seed, **architecture)
    schedule = checked_schedule(schedule, Schedule())
    flag(progress, "progress")
    if isinstance(nominal, Simulation):
        no_weights_beside(weights)
        nominal = nominal.sample(flow.obs + flow.cond)
    source = EventSource.make(flow, nominal, weights)
    check_independent(source.sample, flow.obs, flow.cond)
    flow.standardise(source.sample)
    flow.sum_weights = source.sample.sum_weights
    flow.events = source.sample, held_out_rows([source], schedule, seed)[0]
    loop = TrainingLoop.of(flow.density, flow.density, (), of_density, schedule)
    name, ends = f"p({', '.join(flow.obs)})", {one: source.sample.columns[one] for one in flow.cond}
    mark: dict[str, Any] = {
        "fingerprint": fingerprint(source.sample, flow.obs + flow.cond),
        "conditions": {one: [float(values.min()), float(values.max())] for one, values in ends.items()},
    }
    try:
        record = loop.train(flow.density, name, [source], seed=seed, progress=progress)
    except TrainingStopped as stopped:
        if stopped.history is None or not stopped.history.best_step:
            stopped.carry(None, "Nothing was learned that is worth keeping")
        else:
            flow.history = replace(stopped.history, **mark)
            stopped.carry(flow, f"The best weights so far, of step {flow.history.best_step}, are those of .model")
        raise
    polish(flow, source, flow.events[1])
    flow.history = replace(record, **mark)
    if messages := problems_of({name: flow.history}):
        warn("; ".join(messages))
    return flow


def _check_density(density: Density, architecture: Mapping[str, Any]) -> None:
    if not isinstance(density, Density):
        raise TypeError(f"density= is a Density to train, got a {type(density).__name__}")
    default = inspect.signature(fit_flow).parameters
    if described := [name for name, value in architecture.items() if value != default[name].default]:
        raise ValueError(f"{', '.join(described)} would describe another density than the one given as density=")
    if not density.trainable_variables:
        raise ValueError(f"the density {density} has no variables to train")

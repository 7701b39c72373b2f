"""Training of one process in one call: its nominal density, then the responses to its nuisances."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..common.checks import integer
from ..common.parallel import Executor, run
from ..densities.deformation import Deformation
from ..densities.flows import Flow
from ..densities.process import FittedProcess
from ..samples import Simulation
from .deformation import fit_deformation
from .flow import fit_flow
from .schedule import TrainingStopped

__all__ = ["FittedProcess", "fit_process"]


def fit_process(
    simulation: Simulation,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    trained: Flow | Deformation | None = None,
    folds: int = 1,
    n_bootstrap: int = 0,
    progress: bool = True,
    **settings: Any,
) -> FittedProcess:
    """Learn the density of one process from its simulation: :func:`fit_flow`, then :func:`fit_deformation`.

    Args:
        simulation: The simulated events, nominal and with nuisances away from zero.
        obs: Columns whose density is learned.
        cond: Columns it is conditional on.
        ranges: Physical ``(low, high)`` of the observables that have them.
        seed: Seed of everything random.
        executor: ``concurrent.futures`` executor to train responses in parallel, then folds and replicas.
        trained: ``.model`` of an interrupted training, which goes on with what is missing; a nominal density that was not
            ready is trained anew.
        folds: With two or more, as many further densities, each learned without a part of the events: cross-fitting, which
            takes as long again for each.
        n_bootstrap: Number of further densities, each learned from a bootstrap replica of the simulation.
        progress: Show progress bars.
        settings: Any other argument of :func:`fit_flow` or :func:`fit_deformation`, such as ``interactions``; what both
            have, ``schedule`` and ``hidden``, is for both.

    Returns:
        The densities with their histories.

    Raises:
        TypeError: For an argument that neither function has.
        ValueError: For bad input, as in the two functions.
        TrainingStopped: If a training diverges, is interrupted, or a process of the executor dies; ``.model`` is what was
            trained so far.

    Example:
        >>> up, down = (Variation(f"signal_jes_{side}.root", at={"jes": nu}) for side, nu in (("up", +1), ("down", -1)))
        >>> signal = fit_process(Simulation("signal.root", [up, down], weights="w"), obs=["y1", "y2"])
        >>> pdf = zfit_fnf.pdf.FNFPDF(signal, params={"jes": zfit_fnf.nuisance("jes")})
    """
    if not isinstance(simulation, Simulation):
        raise TypeError(f"fit_process takes a Simulation(nominal, variations), got a {type(simulation).__name__}")
    of_flow, of_deformation = (_settings_of(function, settings) for function in (fit_flow, fit_deformation))
    if unknown := sorted(set(settings) - set(of_flow) - set(of_deformation)):
        raise TypeError(f"fit_process has no argument {unknown[0]!r}{_near(unknown[0])}")
    folds, n_bootstrap = integer(folds, "folds", low=1), integer(n_bootstrap, "n_bootstrap", low=0)
    of_flow |= {"obs": obs, "cond": cond, "ranges": ranges}
    job = _Job(simulation, of_flow, of_deformation, seed, progress)
    process = job.trained(_trained(trained), executor)
    seeds = np.random.SeedSequence(integer(seed, "seed", low=0)).generate_state(folds + n_bootstrap).tolist()
    pairs = simulation.folds(folds, seed) if folds > 1 else ()
    parts = [*(train for train, _ in pairs), *(simulation.resampled(one) for one in seeds[folds:])]
    if not parts:
        return process
    jobs = [
        replace(job, simulation=part, seed=one, progress=progress and executor is None)
        for part, one in zip(parts, [*seeds[: len(pairs)], *seeds[folds:]], strict=True)
    ]
    text = "folds and replicas" if progress and executor is not None else ""
    try:
        found = {id(one): model for one, model in run(_Job.model, jobs, executor=executor, progress=text)}
    except (Exception, KeyboardInterrupt) as error:
        stopped = TrainingStopped(f"the training of folds and replicas has stopped: {error!r}")
        stopped.carry(
            process.model, "The density is in .model; fit_process(..., trained=stopped.model) goes on with them"
        )
        raise stopped from error
    models = [found[id(one)] for one in jobs]
    return replace(
        process,
        folds=tuple((model, held_out) for model, (_, held_out) in zip(models, pairs, strict=False)),
        replicas=tuple(models[len(pairs) :]),
    )


@dataclass(frozen=True)
class _Job:
    """All that a density is learned from, in this process or another."""

    simulation: Simulation
    of_flow: dict[str, Any]
    of_deformation: dict[str, Any]
    seed: int
    progress: bool

    def model(self) -> Flow | Deformation:
        return self.trained((None, None), None).model

    def trained(self, ready: tuple[Flow | None, Deformation | None], executor: Executor | None) -> FittedProcess:
        """The process, by what is there already and the rest."""
        flow, deformation = ready
        common: dict[str, Any] = {"seed": self.seed, "progress": self.progress}
        if flow is None:
            flow = fit_flow(self.simulation, **self.of_flow, **common)
        if not self.simulation.variations:
            return FittedProcess(flow, None, self.simulation)
        try:
            deformation = fit_deformation(
                flow, self.simulation, executor=executor, trained=deformation, **self.of_deformation, **common
            )
        except TrainingStopped as stopped:
            if stopped.model is None:
                stopped.carry(flow, "The nominal density is in .model; fit_process(..., trained=stopped.model) goes on")
            raise
        return FittedProcess(flow, deformation, self.simulation)


_OWN = ("nominal", "variations", "flow", "weights", "obs", "cond", "ranges", "seed", "executor", "trained", "progress")


def _settings_of(function: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings that are arguments of a function."""
    known = set(inspect.signature(function).parameters) - set(_OWN)
    return {name: value for name, value in settings.items() if name in known}


def _near(name: str) -> str:
    known = {*inspect.signature(fit_flow).parameters, *inspect.signature(fit_deformation).parameters} - set(_OWN)
    near = difflib.get_close_matches(name, known, 1)
    return f"; is {near[0]!r} meant?" if near else ": weights are those of the Simulation" if name == "weights" else ""


def _trained(trained: Any) -> tuple[Flow | None, Deformation | None]:
    """The flow and the responses that are there already."""
    if isinstance(trained, Deformation):
        return trained.flow, trained
    if trained is not None and not isinstance(trained, Flow):
        raise TypeError(f"trained= is a Flow or a Deformation, got a {type(trained).__name__}")
    if trained is not None and trained.history is not None and trained.history.interrupted:
        return None, None  # half of the steps make no density: it is trained anew
    return trained, None

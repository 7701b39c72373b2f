"""Training of one process in one call: its nominal density, then the responses to its nuisances."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..common.parallel import Executor
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
    **settings: Any,
) -> FittedProcess:
    """Learn the density of one process from its simulation: :func:`fit_flow`, then :func:`fit_deformation`.

    Args:
        simulation: The simulated events, nominal and with nuisances away from zero.
        obs: Columns whose density is learned.
        cond: Columns it is conditional on.
        ranges: Physical ``(low, high)`` of the observables that have them.
        seed: Seed of everything random.
        executor: ``concurrent.futures`` executor to train the responses in parallel.
        trained: ``.model`` of an interrupted training, which goes on with what is missing.
        settings: Any other argument of :func:`fit_flow` or :func:`fit_deformation`, such as ``interactions``; what both
            have, ``schedule``, ``hidden`` and ``progress``, is for both.

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
    flow, ready = _trained(trained)
    if flow is None:
        flow = fit_flow(simulation, obs=obs, cond=cond, ranges=ranges, seed=seed, **of_flow)
    if not simulation.variations:
        return FittedProcess(flow, None, simulation)
    try:
        deformation = fit_deformation(flow, simulation, seed=seed, executor=executor, trained=ready, **of_deformation)
    except TrainingStopped as stopped:
        if stopped.model is None:
            stopped.carry(flow, "The nominal density is in .model; fit_process(..., trained=stopped.model) goes on")
        raise
    return FittedProcess(flow, deformation, simulation)


_OWN = ("nominal", "variations", "flow", "weights", "obs", "cond", "ranges", "seed", "executor", "trained")


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
    return trained, None

"""Learned, unbinned, multidimensional likelihoods with profiled systematic uncertainties, for zfit.

Modules and names are imported when they are first used: evaluating a density does not load what trains one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .common.quiet import load_tensorflow_quietly

load_tensorflow_quietly()

if TYPE_CHECKING:
    from . import (
        datasets,
        diagnostics,
        doi,
        hepstats,
        influence,
        interop,
        limits,
        loss,
        morph,
        pdf,
        plotting,
        projections,
        pyhf,
        samples,
        scans,
        storage,
        tagprobe,
        toys,
        train,
        workspace,
    )
    from .acceleration import accelerate
    from .calibration import calibrate, simulation_plan
    from .couplings import morphed_yields, polynomial
    from .densities.deformation import Deformation, YieldRatio
    from .densities.flows import Flow
    from .densities.fractions import Fractions
    from .distribution import distribute
    from .minimize import Minuit
    from .param import Nuisance, nuisance
    from .results import FitSummary
    from .samples import Sample, Simulation, Variation
    from .storage import load, save
    from .train.schedule import Schedule
    from .workspace import Workspace
    from .yields import lnN, modified_yield, normsys

_NAMES = {
    "Deformation": "densities.deformation",
    "FitSummary": "results",
    "Flow": "densities.flows",
    "Fractions": "densities.fractions",
    "Minuit": "minimize",
    "Nuisance": "param",
    "Sample": "samples",
    "Schedule": "train.schedule",
    "Simulation": "samples",
    "Variation": "samples",
    "Workspace": "workspace",
    "YieldRatio": "densities.deformation",
    "accelerate": "acceleration",
    "calibrate": "calibration",
    "distribute": "distribution",
    "lnN": "yields",
    "load": "storage",
    "modified_yield": "yields",
    "morphed_yields": "couplings",
    "normsys": "yields",
    "nuisance": "param",
    "polynomial": "couplings",
    "save": "storage",
    "simulation_plan": "calibration",
}

__version__ = "0.1.0.dev0"
__all__ = [  # noqa: RUF022 (modules first)
    "datasets",
    "diagnostics",
    "doi",
    "hepstats",
    "influence",
    "interop",
    "limits",
    "loss",
    "morph",
    "pdf",
    "plotting",
    "projections",
    "pyhf",
    "samples",
    "scans",
    "storage",
    "tagprobe",
    "toys",
    "train",
    "workspace",
    "Deformation",
    "FitSummary",
    "Flow",
    "Fractions",
    "Minuit",
    "Nuisance",
    "Sample",
    "Schedule",
    "Simulation",
    "Variation",
    "Workspace",
    "YieldRatio",
    "accelerate",
    "calibrate",
    "distribute",
    "lnN",
    "load",
    "modified_yield",
    "morphed_yields",
    "normsys",
    "nuisance",
    "polynomial",
    "save",
    "simulation_plan",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

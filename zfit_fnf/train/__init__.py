"""Training of flows and deformations.

:func:`fit_process` learns the density of a process from its :class:`~zfit_fnf.Simulation`. Its two steps can be used alone:
:func:`fit_flow` learns a nominal density; :func:`fit_deformation` learns the response to each nuisance alone from its
own samples, then the interactions from joint samples with everything else frozen. A trained model is a frozen object:
nothing here is needed to evaluate it. :func:`fit_fractions` learns shares of processes given conditions.
"""

from ..densities.history import History
from ..densities.process import FittedProcess
from .deformation import fit_deformation
from .flow import fit_flow
from .fractions import fit_fractions
from .process import fit_process
from .schedule import Schedule, TrainingStopped

__all__ = [
    "FittedProcess",
    "History",
    "Schedule",
    "TrainingStopped",
    "fit_deformation",
    "fit_flow",
    "fit_fractions",
    "fit_process",
]

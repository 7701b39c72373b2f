"""Training of flows and deformations.

:func:`fit_flow` learns a nominal density; :func:`fit_deformation` learns the response to each nuisance alone from its
own samples, then the interactions from joint samples with everything else frozen. A trained model is a frozen object:
nothing here is needed to evaluate it.
"""

from ..densities.history import History
from .deformation import fit_deformation
from .flow import fit_flow
from .schedule import Schedule, TrainingStopped

__all__ = ["History", "Schedule", "TrainingStopped", "fit_deformation", "fit_flow"]

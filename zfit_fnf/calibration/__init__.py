"""Learned likelihoods that simulation has made right: location, finite simulation and information.

`calibrate` does it, `CalibrationReport` says what it found, and `simulation_plan` what more simulation would bring; the
derivation is in docs/believe.md.
"""

from .fit import calibrate
from .loss import CalibratedExtendedUnbinnedNLL, CalibratedNLL, CalibratedUnbinnedNLL
from .plan import SimulationPlan, simulation_plan
from .report import CalibrationReport

__all__ = [
    "CalibratedExtendedUnbinnedNLL",
    "CalibratedNLL",
    "CalibratedUnbinnedNLL",
    "CalibrationReport",
    "SimulationPlan",
    "calibrate",
    "simulation_plan",
]

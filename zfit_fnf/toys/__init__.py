"""Toys, which fluctuate as an experiment does, Asimov sets, which do not, and what intervals cover."""

from .coverage import Coverage, coverage
from .experiments import PseudoExperiment, Values, asimov, refill, refillable, set_truth, toy
from .fits import PoolReport, ToyFits, fits_of, hesse_errors
from .runs import fit_toys, run
from .simulated import simulated_toys

__all__ = [
    "Coverage",
    "PoolReport",
    "PseudoExperiment",
    "ToyFits",
    "Values",
    "asimov",
    "coverage",
    "fit_toys",
    "fits_of",
    "hesse_errors",
    "refill",
    "refillable",
    "run",
    "set_truth",
    "simulated_toys",
    "toy",
]

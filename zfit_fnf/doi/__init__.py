"""Distributions of Interest: the measured quantity is an invertible map from data to simulation."""

from .ensemble import Ensemble, ensemble
from .histograms import predicted, unfolded
from .pdf import DoIPDF
from .replicas import EnsembleStopped, bootstrap
from .step1 import TransferFit, fit_transfer
from .step2 import ProfiledFit, profile
from .variations import Scenario, Scenarios, Uncertainty, scenarios

__all__ = [
    "DoIPDF",
    "Ensemble",
    "EnsembleStopped",
    "ProfiledFit",
    "Scenario",
    "Scenarios",
    "TransferFit",
    "Uncertainty",
    "bootstrap",
    "ensemble",
    "fit_transfer",
    "predicted",
    "profile",
    "scenarios",
    "unfolded",
]

"""Distributions of Interest: the measured quantity is an invertible map from data to simulation."""

from .amortised import ProfiledFit, profile
from .bootstrap import EnsembleStopped, bootstrap
from .ensemble import Ensemble, ensemble
from .globalfit import TransferFit, fit_transfer
from .histograms import predicted, unfolded
from .pdf import DoIPDF
from .uncertainty import Scenario, Scenarios, Uncertainty, scenarios

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

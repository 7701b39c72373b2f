"""Distributions of Interest: the measured quantity is an invertible map from data to simulation."""

from .bounds import Bounds
from .check import Check
from .ensemble import Ensemble, ensemble
from .finite_simulation import FiniteSimulation, finite_simulation
from .hepdata import to_hepdata
from .histograms import predicted, unfolded
from .optimal_transport import OptimalTransport, optimal_transport
from .pdf import DoIPDF
from .profiled import ProfiledFit, Replica
from .publish import publish
from .published import Published, PublishedUncertainty, read
from .replicas import bootstrap
from .step1 import TransferFit, fit_transfer
from .step2 import profile
from .variations import Eigenvariations, MapVariation, MapVariations, Uncertainty, scenarios

__all__ = [
    "Bounds",
    "Check",
    "DoIPDF",
    "Eigenvariations",
    "Ensemble",
    "FiniteSimulation",
    "MapVariation",
    "MapVariations",
    "OptimalTransport",
    "ProfiledFit",
    "Published",
    "PublishedUncertainty",
    "Replica",
    "TransferFit",
    "Uncertainty",
    "bootstrap",
    "ensemble",
    "finite_simulation",
    "fit_transfer",
    "optimal_transport",
    "predicted",
    "profile",
    "publish",
    "read",
    "scenarios",
    "to_hepdata",
    "unfolded",
]

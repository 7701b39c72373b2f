"""Plots of data, models and results: every function draws on the given axes or the current ones, and returns them.

Nothing is fitted, scanned or trained here. Files are written by `zfit_fnf.plotting.style.figure` or by Matplotlib.
"""

from . import doi
from .fits import contour, correlation, impacts, limit, profile, pulls, toy_pulls, training
from .histograms import Bins
from .projections import projection, variations

__all__ = [
    "Bins",
    "contour",
    "correlation",
    "doi",
    "impacts",
    "limit",
    "profile",
    "projection",
    "pulls",
    "toy_pulls",
    "training",
    "variations",
]

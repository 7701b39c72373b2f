"""Plots of data, models and results: every function draws on the given axes or the current ones, and returns them.

Nothing is fitted, scanned or trained here. Files are written by `zfit_fnf.plotting.style.figure` or by Matplotlib.
"""

from . import doi, tagprobe
from .diagnostics import closure, goodness_of_fit, p_values, uncertainty_split
from .fits import contour, correlation, impacts, limit, limits, profile, pulls, toy_pulls, training
from .fractions import reliability
from .histograms import Bins
from .projections import projection, variations

__all__ = [
    "Bins",
    "closure",
    "contour",
    "correlation",
    "doi",
    "goodness_of_fit",
    "impacts",
    "limit",
    "limits",
    "p_values",
    "profile",
    "projection",
    "pulls",
    "reliability",
    "tagprobe",
    "toy_pulls",
    "training",
    "uncertainty_split",
    "variations",
]

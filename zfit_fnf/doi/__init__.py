"""Distributions of Interest: the measured quantity is an invertible map from data to simulation."""

from .amortised import ProfiledFit, profile
from .globalfit import TransferFit, fit_transfer
from .pdf import DoIPDF

__all__ = ["DoIPDF", "ProfiledFit", "TransferFit", "fit_transfer", "profile"]

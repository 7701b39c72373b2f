"""Scans of the profile likelihood in one and in two parameters, and impacts of nuisances."""

from __future__ import annotations

from .nuisance_impacts import Impacts, impacts
from .profile_scans import ContourScan, ProfileScan, contour, profile

__all__ = ["ContourScan", "Impacts", "ProfileScan", "contour", "impacts", "profile"]

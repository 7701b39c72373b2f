"""Yardsticks: problems whose exact likelihood is known, to measure how far a learned one is from ideal."""

from .exact import ExactFit, Nu
from .gaussian import GaussianNuisances
from .shift_squeeze import Part, ShiftSqueeze

__all__ = ["ExactFit", "GaussianNuisances", "Nu", "Part", "ShiftSqueeze"]

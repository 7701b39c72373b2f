"""Yardsticks: problems whose exact likelihood is known, to measure how far a learned one is from ideal."""

from .exact import ExactFit, Nu
from .gaussian import GaussianNuisances
from .shapes import Composition, MovingPeak, NoEffect, OneNuisance, Slope, Tilt
from .shift_squeeze import Part, ShiftSqueeze
from .tag_and_probe import TagAndProbe

__all__ = [
    "Composition",
    "ExactFit",
    "GaussianNuisances",
    "MovingPeak",
    "NoEffect",
    "Nu",
    "OneNuisance",
    "Part",
    "ShiftSqueeze",
    "Slope",
    "TagAndProbe",
    "Tilt",
]

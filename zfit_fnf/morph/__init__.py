"""Simulation made to look like data, event by event: one conditional flow of both, told apart by a flag."""

from .check import MorphCheck, check
from .fit import fit_morph
from .model import Morph

__all__ = ["Morph", "MorphCheck", "check", "fit_morph"]

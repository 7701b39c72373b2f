"""A complete analysis of simulated events in files, from training to limits: what ``zfit-fnf demo`` does.

Two processes, the signal B and the background A, in four observables: the toy of arXiv:2602.13184, whose exact
likelihood is known. `zfit_fnf.demo.model` holds its events and its statistical model, `zfit_fnf.demo.stages` the steps of
the analysis, `zfit_fnf.demo.report` tables and plots, and `zfit_fnf.demo.doi` a Distribution of Interest.
"""

from .model import FULL, QUICK, DemoSettings
from .stages import run

__all__ = ["FULL", "QUICK", "DemoSettings", "run"]

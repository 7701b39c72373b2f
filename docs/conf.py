"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import zfit_fnf

project = "zfit_fnf"
copyright = "zfit_fnf developers"
version = release = zfit_fnf.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "zfit_fnf"
html_static_path = ["_static"]

default_role = "py:obj"  # single backticks in docstrings are names, linked where they are documented
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what the arguments are
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

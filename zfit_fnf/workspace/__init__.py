"""Analyses in one document: read and checked, trained, and made into likelihoods.

:class:`Workspace` reads a YAML or JSON file and gives ordinary objects of this package to go on with in Python; the command
``zfit-fnf`` does whole analyses of it.
"""

from .document import WorkspaceError
from .schema import json_schema
from .workspace import Model, Workspace

__all__ = ["Model", "Workspace", "WorkspaceError", "json_schema"]

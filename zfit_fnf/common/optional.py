"""Optional libraries, which an extra of the package installs."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["require"]

_PACKAGES = {"sklearn": "scikit-learn", "torch": "PyTorch"}
"""Names of packages that are not those of their modules."""


def require(module: str, *, extra: str) -> Any:
    """An optional module, imported.

    Args:
        module: Its name, also that of a submodule.
        extra: The extra of this package (or several, with commas) that installs it.

    Raises:
        ImportError: If it is missing, with what to install.

    Example:
        >>> require("hepstats", extra="limits").__name__
        'hepstats'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        package = _PACKAGES.get(library, library)
        raise ImportError(f'{package} is needed for this: pip install "zfit_fnf[{extra}]"') from error

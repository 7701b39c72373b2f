"""Densities from elsewhere, as flows like any other: they are deformed, fitted and stored as if they were trained here.

* :mod:`~zfit_fnf.interop.zuko`: NSF and MAF flows of the PyTorch library zuko;
* :mod:`~zfit_fnf.interop.reference`: published factorizable flows, a zuko flow behind polynomial residual layers;
* :mod:`~zfit_fnf.interop.tfp`: distributions and bijectors of TensorFlow Probability;
* :mod:`~zfit_fnf.interop.callable`: any TensorFlow function with a sampler.

PyTorch is imported only to read what only PyTorch can read.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import callable, reference, tfp, zuko

__all__ = ["callable", "reference", "tfp", "zuko"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

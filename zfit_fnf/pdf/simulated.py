"""Which parameter of a model moves what was simulated of a process, also where its density does not depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences

from ..param import Nuisance
from .base import components
from .flow import FNFPDF

__all__ = ["deformations", "simulated_parameters"]


def deformations(pdf: zfit.pdf.BasePDF) -> list[FNFPDF]:
    """The factors of a PDF that nuisances deform."""
    return [part for part in components(pdf) if isinstance(part, FNFPDF)]


def simulated_parameters(
    names: Iterable[str], pdf: zfit.pdf.BasePDF, models: Sequence[zfit.pdf.BasePDF], params: Iterable[Any]
) -> dict[str, Any]:
    """The parameter of each nuisance of which samples of a process were simulated; a nuisance that has none is left out.

    It is the one that the process itself is given for this nuisance, else the one that other processes are: those of its own
    channel first. What nothing is given for has to be a `Nuisance` of this name, as only those count standard deviations.

    Args:
        names: The nuisances.
        pdf: The process.
        models: All models, that of the process first.
        params: The parameters of the likelihood.

    Raises:
        ValueError: If processes are given different parameters for a nuisance that this one is given none for, or the
            parameter of its name counts something else.
    """
    known = {one.name: one for one in params}
    return {name: one for name in names if (one := _parameter(name, pdf, models, known)) is not None}


def _parameter(name: str, pdf: zfit.pdf.BasePDF, models: Sequence[zfit.pdf.BasePDF], known: dict[str, Any]) -> Any:
    for group in ([pdf], models[:1], models):
        found = list({id(one): one for part in group for one in _given(part, name)}.values())
        if len(found) > 1:
            raise ValueError(
                f"{pdf.name!r} was simulated with {name!r} moved, for which other processes are given different parameters, "
                f"{sorted(one.name for one in found)}: give its density one of them, or the nuisance another name here"
            )
        if found:
            return found[0]
    parameter = known.get(name)
    if parameter is not None and not isinstance(parameter, Nuisance):
        raise ValueError(
            f"{pdf.name!r} was simulated with {name!r} moved by standard deviations, and the parameter {name!r} of the "
            f"likelihood counts something else: make it with zfit_fnf.nuisance({name!r}), or give one of them another name"
        )
    return parameter


def _given(pdf: zfit.pdf.BasePDF, name: str) -> Iterator[Any]:
    yield from (part.params[name] for part in deformations(pdf) if name in part.deformation.nuisances)

"""Efficiencies and scale factors in bins, as JSON for correctionlib."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import complete
from ..common.optional import require
from .result import Efficiency, TagProbeResult

__all__ = ["export_correction"]


def export_correction(
    result: TagProbeResult,
    path: str | Path,
    edges: Mapping[str, Sequence[float]],
    *,
    over: TagProbeResult | None = None,
    name: str | None = None,
    pairs: Any = None,
) -> Efficiency:
    """Write efficiencies in bins of the conditions, or scale factors, as a correction of correctionlib.

    The correction takes the conditions, and the text ``nominal``, ``up`` or ``down`` (one standard deviation of all
    uncertainties), or ``<source>_up``, ``<source>_down``, where the sources are those of :class:`~zfit_fnf.tagprobe.Efficiency`.
    What one source does is *not* the same in all bins, but for an alternative: the covariance between bins is in the value that
    is returned. Conditions outside of the bins are an error there.

    Args:
        result: The fit.
        path: The file, ``*.json``.
        edges: Edges of the bins of each condition, by name; the last one may be infinite. Values on it are not inside.
        over: A fit that values are divided by, such as one of simulation; bins are averaged over the pairs of the first.
        name: Name of the correction; by default that of the column that says whether probes pass.
        pairs: Pairs over which each bin is averaged; by default those of the fit.

    Returns:
        The values in the bins, the last condition fastest.

    Raises:
        ImportError: If correctionlib is missing, with the command that installs it.
        ValueError: If edges are not of the conditions, or a bin has no pairs.

    Example:
        >>> export_correction(data, "id.json", {"pt": [25, 35, 50, 100], "eta": [-2.5, 0, 2.5]}, over=simulation)
    """
    schema = require("correctionlib.schemav2", extra="correctionlib")
    if set(edges) != set(result.cond):
        raise ValueError(f"edges= are those of the conditions {list(result.cond)}; got {list(edges)}")
    chosen = {one: [float(edge) for edge in edges[one]] for one in result.cond}
    for one, own in chosen.items():
        if len(own) < 2 or not np.all(np.diff(own) > 0):
            raise ValueError(f"edges of {one!r} ascend, and are two at least; got {own}")
    found = result.bins(_regions(chosen), pairs, over=over)
    kind = "efficiency" if over is None else "scale factor"
    table = [
        schema.CategoryItem(key=key, value=_binning(schema, chosen, values))
        for key, values in _variations(found).items()
    ]
    correction = schema.Correction(
        name=result.columns.passing if name is None else name,
        description=f"{kind} of {result.columns.passing}, by tag and probe; mean over the pairs in each bin",
        version=1,
        inputs=[
            *(schema.Variable(name=one, type="real") for one in chosen),
            schema.Variable(
                name="uncertainty", type="string", description="nominal, up, down, <source>_up, <source>_down"
            ),
        ],
        output=schema.Variable(name="value", type="real", description=kind),
        data=schema.Category(nodetype="category", input="uncertainty", content=table),
    )
    written = schema.CorrectionSet(schema_version=2, corrections=[correction])
    with complete(Path(path)) as draft:
        draft.write_text(json.dumps(written.model_dump(exclude_unset=True), indent=1))
    return found


def _binning(schema: Any, edges: Mapping[str, Sequence[float]], values: np.ndarray) -> Any:
    return schema.MultiBinning(
        nodetype="multibinning",
        inputs=list(edges),
        edges=[[edge if np.isfinite(edge) else f"{edge:+}" for edge in own] for own in edges.values()],
        content=values.tolist(),
        flow="error",
    )


def _variations(found: Efficiency) -> dict[str, np.ndarray]:
    """Values by the name of a variation."""
    errors = {"": found.errors, **{f"{name}_": np.sqrt(np.diag(cov)) for name, cov in found.sources.items()}}
    moved = {
        f"{name}{side}": found.values + sign * e
        for name, e in errors.items()
        for side, sign in (("up", 1), ("down", -1))
    }
    return {"nominal": found.values, **moved}


def _regions(edges: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The bins, the last condition fastest."""
    regions = {}
    for limits in itertools.product(*(itertools.pairwise(own) for own in edges.values())):
        own = dict(zip(edges, limits, strict=True))
        name = ", ".join(f"{one} {low:g} to {high:g}" for one, (low, high) in own.items())
        regions[name] = lambda table, own=own: np.logical_and.reduce(
            [(table[one] >= low) & (table[one] < high) for one, (low, high) in own.items()]
        )
    return regions

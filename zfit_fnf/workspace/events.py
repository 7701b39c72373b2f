"""Events that a workspace describes, read and made into samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..samples import Sample, Simulation, Variation
from ..samples.columns import check_weights
from ..samples.cuts import Cut
from ..samples.event_files import find
from ..samples.variation import yields_at_one
from .document import WorkspaceError
from .expressions import Expression, sorted_by_use
from .schema import Events, Source

__all__ = ["files_of", "read_events", "read_simulation", "yield_ratios"]

_ROW = "number of the row"


def files_of(source: Source, folder: Path) -> list[Path]:
    """The files of a source, relative to the folder of the document.

    Raises:
        FileNotFoundError: If one is not there.
    """
    return [path for path, _ in find([str(folder / one) for one in source.file], source.tree)]


def read_events(source: Source, columns: tuple[str, ...], folder: Path, name: str) -> Sample:
    """The events of a source.

    Args:
        source: Where they are.
        columns: Which columns are wanted, of the files or derived ones.
        folder: What paths are relative to.
        name: What messages call them.
    """
    return _read(source, columns, folder, name)[0]


def _read(source: Source, columns: tuple[str, ...], folder: Path, name: str) -> tuple[Sample, np.ndarray]:
    """The events of a source, and which rows of its files they are."""
    derived = {one: Expression(text) for one, text in source.columns.items()}
    weight = None if source.weights is None else Expression(source.weights)
    cut = None if source.selection is None else Cut(source.selection)
    wanted = {*columns, *(weight.names if weight else ()), *(cut.names if cut else ())}
    order = sorted_by_use(derived, itself=True)
    needed = set()
    for one in reversed(order):
        if one in wanted:
            needed.add(one)
            wanted |= set(derived[one].names)
    raw = [one for one in wanted if one not in derived or one in derived[one].names]
    files = [str(folder / one) for one in source.file]
    arrays = dict(Sample.read(files, columns=sorted(raw) or None, tree=source.tree).columns)
    n_events = len(next(iter(arrays.values())))
    for one in order:
        if one in needed:
            values = {column: np.asarray(arrays[column], np.float64) for column in derived[one].names}
            arrays[one] = np.broadcast_to(derived[one](values), (n_events,)).copy()
    weights = _weights(weight, arrays, n_events, _factor(source))
    passed = np.ones(n_events, bool) if cut is None else cut(arrays)
    kept = {column: arrays[column][passed] for column in columns}
    return Sample(kept, None if weights is None else weights[passed], name=name), passed


def read_simulation(
    events: Events, columns: tuple[str, ...], folder: Path, name: str, *, nuisances: tuple[str, ...] | None = None
) -> Simulation:
    """The simulation of a process.

    Where a selection keeps other rows of a variation than of the nominal events, of files with as many rows, these are numbered:
    what is made of one generated event stays together when the simulation is split.

    Args:
        events: Where it is.
        columns: Which columns are wanted.
        folder: What paths are relative to.
        name: What messages call it.
        nuisances: Which nuisances; by default all.
    """
    nominal, passed = _read(events.nominal, columns, folder, name)
    variations, rows = [], []
    for variation in events.variations:
        if nuisances is not None and not set(variation.at) <= set(nuisances):
            continue
        point = ", ".join(f"{one}={value:+g}" for one, value in variation.at.items())
        sample, own = _read(variation.source(events.nominal), columns, folder, f"{name} ({point})")
        if variation.changes_weights_only:
            variations.append(Variation(at=variation.at, weights=sample.weights))
        else:
            variations.append(Variation(sample, at=variation.at))
            rows.append(own)
    if not any(len(own) == len(passed) and np.any(own != passed) for own in rows):
        return Simulation(nominal, variations=tuple(variations))
    numbers = iter(rows)
    numbered = [v if v.is_reweighting else replace(v, events=_numbered(v.events, next(numbers))) for v in variations]
    return Simulation(_numbered(nominal, passed), variations=tuple(numbered), paired_by=_ROW)


def _numbered(sample: Sample, passed: np.ndarray) -> Sample:
    """With the numbers of its rows in the files."""
    return Sample({**sample.columns, _ROW: np.flatnonzero(passed)}, sample.weights, name=sample.name)


def yield_ratios(nuisances: Iterable[str], events: Simulation, name: str) -> dict[str, dict[str, float | None]]:
    """Ratios of the sums of weights of variations to the nominal one, ``lo`` at -1 and ``hi`` at +1, by nuisance.

    Args:
        nuisances: Their names.
        events: The simulation.
        name: What messages call it.

    Raises:
        ValueError: If a weight is no finite number.
        WorkspaceError: If there is no variation at -1 or +1.
    """
    nominal, found = events.nominal.sum_weights, {}
    for nuisance in nuisances:
        moved = [one for one in events.variations if set(one.at) == {nuisance}]
        for one in moved:
            own = one.weights if one.is_reweighting else one.events.weights
            check_weights(np.asarray([] if own is None else own, float), f"{name} ({one.name})")
        sums = {
            v.at[nuisance]: np.sum(np.asarray(v.weights, float)) if v.is_reweighting else v.events.sum_weights
            for v in moved
        }
        at = {where: float(total / nominal) for where, total in sums.items()}
        if not {-1.0, 1.0} & set(at):
            raise WorkspaceError(
                f"{name}: the yields of {nuisance!r} are taken at +1 or -1; there are variations at {at}"
            )
        found[nuisance] = dict(zip(("lo", "hi"), yields_at_one(at), strict=True))
    return found


def _factor(source: Source) -> float:
    return float(Expression(source.scale)({}) if isinstance(source.scale, str) else source.scale)


def _weights(weight: Expression | None, arrays: dict[str, np.ndarray], n: int, factor: float) -> np.ndarray | None:
    if weight is None:
        return None if factor == 1.0 else np.full(n, factor)
    values = {column: np.asarray(arrays[column], np.float64) for column in weight.names}
    return np.broadcast_to(weight(values), (n,)) * factor

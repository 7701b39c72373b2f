"""Histograms as YAML tables of HEPData (https://hepdata-submission.readthedocs.io), with their covariances by source."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..common.optional import require
from .publish import new_folder
from .variations import Uncertainty

__all__ = ["to_hepdata"]

_LONGEST = 64  # characters of the name of a table
_LABELS = {"statistical": "stat", "simulation": "simulation"}


def to_hepdata(
    numbers: Mapping[str, Uncertainty],
    path: str | os.PathLike[str],
    *,
    units: Mapping[str, str] | None = None,
    description: str = "",
) -> None:
    """Write histograms as a submission to HEPData: a table for each, and one for its covariance from each source.

    In the table of a histogram, each eigenvector of the covariance of the parameters is an uncertainty of its own, fully
    correlated between bins, with the signs of the shifts up and down.

    Args:
        numbers: Histograms by name: `unfolded` or `predicted`, evaluated, or those of `Published`.
        path: A new folder, which gets ``submission.yaml`` and the tables, completely or not at all.
        units: Unit of each observable.
        description: Of the measurement, for the whole submission.

    Raises:
        FileExistsError: If there is something at the path.
        ImportError: If PyYAML is missing (``pip install "zfit_fnf[io]"``).
        TypeError: If the numbers are none.
        ValueError: If they are not histograms, a name is too long, or units are of none of their observables.

    Example:
        >>> to_hepdata({"mass": maps.evaluate(unfolded(data, {"mass": edges}))}, "hepdata", units={"mass": "GeV"})
    """
    yaml = require("yaml", extra="io")
    _check(numbers)
    observables = list(dict.fromkeys(name for band in numbers.values() for name in band.edges))
    if unknown := [name for name in units or {} if name not in observables]:
        raise ValueError(f"units= names {unknown}; the observables of these histograms are {observables}")
    tables: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, band in numbers.items():
        text = f"Numbers of events in bins of {', '.join(band.edges)}, with one uncertainty for each source."
        tables[name] = text, _histogram(band, dict(units or {}))
        for source in _sources(band):
            title = f"{name}, covariance, {source}"
            text = f"Covariance of the numbers of the table {name!r}, source: {source}."
            tables[title] = text, _matrix(band, source, dict(units or {}))
    if long := [title for title in tables if len(title) > _LONGEST]:
        raise ValueError(
            f"{long[0]!r} is longer than the {_LONGEST} characters that HEPData allows a table: give a shorter name"
        )
    with new_folder(path) as folder:
        documents: list[dict[str, Any]] = [{"comment": description}]
        for index, (title, (text, content)) in enumerate(tables.items()):
            file = f"{index:03d}_{re.sub('[^0-9a-zA-Z]+', '_', title).strip('_')}.yaml"
            documents.append({"name": title, "description": text, "keywords": [], "data_file": file})
            (folder / file).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        text = yaml.safe_dump_all(documents, sort_keys=False, explicit_start=True)
        (folder / "submission.yaml").write_text(text, encoding="utf-8")


def _check(numbers: Any) -> None:
    if not isinstance(numbers, Mapping) or not all(isinstance(one, Uncertainty) for one in numbers.values()):
        raise TypeError(
            'numbers is a mapping from names to histograms, {"mass": maps.evaluate(unfolded(data, {"mass": edges}))}'
        )
    for name, band in numbers.items():
        if not band.edges:
            raise ValueError(f"{name!r} is not a histogram: it has no bin edges")


def _sources(band: Uncertainty) -> list[str]:
    """Sources of the covariance that are known, and their sum."""
    found = ["systematic"]
    found += ["simulation"] if hasattr(band, "simulation") else []
    return [*found, "statistical", "total"] if len(band.replicas) > 1 else found


def _histogram(band: Uncertainty, units: Mapping[str, str]) -> dict[str, Any]:
    table = band.to_dataframe()
    shifts = band.shifts.reshape(len(band.shifts), 2, -1)
    values: list[dict[str, Any]] = []
    for index, value in enumerate(table["value"]):
        errors: list[dict[str, Any]] = [
            {"symerror": float(table[name][index]), "label": label}
            for name, label in _LABELS.items()
            if name in table and np.isfinite(table[name][index])
        ]
        errors += [
            {"asymerror": {"minus": float(down), "plus": float(up)}, "label": f"sys,eigenvector {number}"}
            for number, (down, up) in enumerate(shifts[:, :, index])
        ]
        values.append({"value": float(value), "errors": errors} if errors else {"value": float(value)})
    axes = [_axis(name, table[f"{name} low"], table[f"{name} high"], units) for name in band.edges]
    return {"independent_variables": axes, "dependent_variables": [{"header": {"name": "events"}, "values": values}]}


def _matrix(band: Uncertainty, source: str, units: Mapping[str, str]) -> dict[str, Any]:
    table, covariance = band.to_dataframe(), band.covariance(None if source == "total" else source)
    pairs = np.indices(covariance.shape).reshape(2, -1)
    axes = [
        _axis(name, table[f"{name} low"].to_numpy()[rows], table[f"{name} high"].to_numpy()[rows], units)
        for rows in pairs
        for name in band.edges
    ]
    values = [{"value": float(one)} for one in covariance.ravel()]
    return {
        "independent_variables": axes,
        "dependent_variables": [{"header": {"name": f"covariance, {source}"}, "values": values}],
    }


def _axis(name: str, low: Any, high: Any, units: Mapping[str, str]) -> dict[str, Any]:
    header = {"name": name, **({"units": units[name]} if name in units else {})}
    return {"header": header, "values": [{"low": float(a), "high": float(b)} for a, b in zip(low, high, strict=True)]}

"""Published distributions, read again: numbers of any new observable, with their uncertainties by source."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from ..common.optional import require
from ..common.warning import warn
from .histograms import bin_edges
from .manifest import PROCESS, WEIGHT, Manifest, Varied
from .publish import EVENTS_FILE, MANIFEST_FILE, checksum
from .variations import Eigenvariations, Uncertainty

__all__ = ["Published", "PublishedUncertainty", "read"]

Observable = str | Callable[[pd.DataFrame], Any]


@dataclass(frozen=True, eq=False)
class PublishedUncertainty(Uncertainty):
    """Numbers of published events; as `Uncertainty`, with one more source, the finite number of these events.

    Attributes:
        events: Covariance of the flattened numbers ``(k, k)`` from the finite number of simulated events.
    """

    _NAMES: ClassVar[tuple[str, ...]] = ("value", "statistical", "systematic", "simulation", "total")

    events: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def simulation(self) -> np.ndarray:
        """Standard deviation from the finite number of simulated events."""
        return np.sqrt(np.maximum(np.diag(self.events), 0.0)).reshape(self.value.shape)

    @property
    def total(self) -> np.ndarray:
        """All in quadrature; NaN with fewer than two replicas."""
        return np.hypot(super().total, self.simulation)

    def covariance(self, source: str | int | None = None) -> np.ndarray:
        """Covariance ``(k, k)`` of the ``k`` numbers, flattened.

        Args:
            source: As for `Uncertainty`, or ``"simulation"``.

        Raises:
            ValueError: If there are no replicas for what is statistical, or the source is unknown.
        """
        if source == "simulation":
            return self.events.copy()
        return super().covariance(source) + (self.events if source is None else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """As that of `Uncertainty`, with the covariance of the source ``simulation``."""
        content = super().to_dict()
        covariances = {**content["covariance"], "simulation": self.events.tolist()}
        return {**content, "simulation": self.simulation.tolist(), "covariance": covariances}


@dataclass(frozen=True, eq=False)
class Published:
    """A published distribution, read by `read`.

    Attributes:
        path: Its folder.
        manifest: What it says of itself.
    """

    path: Path
    manifest: Manifest

    @property
    def valid(self) -> bool:
        """Whether the result was valid when it was published."""
        return self.manifest.valid

    @property
    def parameters(self) -> pd.DataFrame:
        """The ``value`` and ``error`` of each parameter."""
        errors = np.sqrt(np.diag(self.manifest.covariance))
        return pd.DataFrame(
            {"value": self.manifest.parameters, "error": dict(zip(self.manifest.parameters, errors, strict=True))}
        )

    @property
    def covariance(self) -> pd.DataFrame:
        """Of the parameters, by their names."""
        names = list(self.manifest.parameters)
        return pd.DataFrame(self.manifest.covariance, index=names, columns=names)

    @property
    def columns(self) -> pd.DataFrame:
        """Whether each column is ``moved`` by the map, its ``unit`` and its ``definition``."""
        rows = {name: column.model_dump() for name, column in self.manifest.columns.items()}
        return pd.DataFrame.from_dict(rows, orient="index")

    def events(self, variation: str = "best fit") -> pd.DataFrame:
        """The events of one variation, with columns as in data, ``process`` and ``weight``.

        Args:
            variation: Its name, see `variations`.

        Raises:
            ValueError: If there is none of this name.
        """
        found = [one for one in self.manifest.variations if one.name == variation]
        if not found:
            raise ValueError(f"there is no variation {variation!r}; those that are published are {self.variations}")
        return self._events(found[0])

    @property
    def variations(self) -> list[str]:
        """Names of the variations."""
        return [one.name for one in self.manifest.variations]

    def histogram(
        self,
        columns: Mapping[str, Sequence[float] | np.ndarray],
        *,
        define: Mapping[str, Observable] | None = None,
        select: Observable | None = None,
    ) -> PublishedUncertainty:
        """Expected numbers of events of data in bins of one or more observables.

        Args:
            columns: Bin edges by observable: one axis of the histogram each.
            define: New observables by name, as functions of the table of events.
            select: Function of the table that says which events to count.

        Example:
            >>> measured = read("measured")
            >>> pt = {"pt": lambda events: np.hypot(events.px, events.py)}
            >>> measured.histogram({"pt": [0, 20, 50, 100]}, define=pt).to_dataframe()
        """
        edges = bin_edges(columns)
        shape = [len(edge) - 1 for edge in edges]

        def membership(events: pd.DataFrame) -> np.ndarray:
            """Number of the bin of each event ``(n,)``; one more than there are where it has none."""
            places, chosen = [], _mask(select, events)
            for name, edge in zip(columns, edges, strict=True):
                values = _values((define or {}).get(name, name), events, chosen)
                inside = (values >= edge[0]) & (values <= edge[-1])
                place = np.minimum(np.searchsorted(edge, values, side="right") - 1, len(edge) - 2)
                places.append(np.where(inside, place, -1))
            counted = np.all(np.array(places) >= 0, axis=0) & chosen
            flat = np.ravel_multi_index(tuple(np.maximum(places, 0)), shape)
            return np.where(counted, flat, int(np.prod(shape)))

        def counts(events: pd.DataFrame) -> np.ndarray:
            bins = membership(events)
            return np.bincount(bins, events[WEIGHT], int(np.prod(shape)) + 1)[:-1].reshape(shape)

        nominal = self.events()
        covariance = _of_counts(membership(nominal), nominal, int(np.prod(shape)))
        return self._uncertainty(counts, covariance, dict(zip(columns, edges, strict=True)))

    def mean(self, observable: Observable, *, select: Observable | None = None) -> PublishedUncertainty:
        """Average of an observable over the events of data.

        Args:
            observable: A column, or a function of the table of events.
            select: Function of the table that says which events to average over.

        Raises:
            ValueError: If an event that is averaged over has no finite number, or none is selected in a variation.
        """

        def finite(events: pd.DataFrame, chosen: np.ndarray) -> np.ndarray:
            """The observable of selected events, zero for others, which may have none."""
            values = np.where(chosen, _values(observable, events, chosen), 0.0)
            if not np.isfinite(values).all():
                raise ValueError("the observable is infinite for some of the events: there is no average of it")
            return values

        def average(events: pd.DataFrame) -> np.ndarray:
            chosen = _mask(select, events)
            weights = events[WEIGHT].to_numpy() * chosen
            if not np.sum(weights):
                raise ValueError("no events are selected, in this variation at least: there is no average")
            return np.array(np.sum(weights * finite(events, chosen)) / np.sum(weights))

        nominal = self.events()
        counted = _mask(select, nominal)
        pulls = counted * (finite(nominal, counted) - average(nominal))
        pulls = pulls / np.sum(nominal[WEIGHT].to_numpy() * counted)
        return self._uncertainty(average, _of_sums(pulls[:, None], nominal), {})

    def _uncertainty(
        self, function: Callable[[pd.DataFrame], np.ndarray], events: np.ndarray, edges: Mapping[str, np.ndarray]
    ) -> PublishedUncertainty:
        """Numbers in all variations, as `MapVariations.evaluate` arranges them."""
        value = function(self.events())
        replicas, down, up = (
            np.array([function(self._events(one)) for one in self.manifest.of_kind(kind)]).reshape(-1, *value.shape)
            for kind in ("replica", "down", "up")
        )
        own = self.manifest.eigenvariations
        arrays = (np.array(getattr(own, name), float) for name in ("values", "deviations", "directions"))
        eigen = Eigenvariations(tuple(own.names), *arrays)
        return PublishedUncertainty(value, replicas, np.stack([down, up], axis=1) - value, eigen, edges, events)

    def _events(self, variation: Varied) -> pd.DataFrame:
        renamed = {column: name for name, column in variation.columns.items()} | {variation.weight: WEIGHT}
        fixed = [PROCESS, *(name for name, column in self.manifest.columns.items() if not column.moved)]
        table = pd.read_parquet(self.path / EVENTS_FILE, columns=[*fixed, *renamed]).rename(columns=renamed)
        return table[[PROCESS, *self.manifest.columns, WEIGHT]]

    def __str__(self) -> str:
        state = "valid" if self.valid else "NOT VALID: " + "; ".join(self.manifest.problems)
        kinds, processes = self.manifest.kinds(), ", ".join(self.manifest.processes)
        return (
            f"published distribution of {self.manifest.events.rows} simulated events of {processes}, {state}\n"
            f"{kinds.count('replica')} replicas, {kinds.count('up')} eigenvectors; "
            f"weights sum to the {self.manifest.normalisation}\n"
            f"{self.columns.to_string()}\n{self.parameters.to_string()}"
        )


def read(path: str | os.PathLike[str]) -> Published:
    """Read a published distribution, and verify it: schema, sizes, checksums, rows and columns.

    Args:
        path: Its folder.

    Raises:
        FileNotFoundError: If there is none.
        ImportError: If pyarrow is missing (``pip install "zfit_fnf[io]"``).
        ValueError: If it is damaged, or something else.

    Warns:
        UserWarning: If the result is not valid.

    Example:
        >>> measured = read("measured")
        >>> measured.mean("mass").covariance("statistical")
    """
    folder = Path(path)
    manifest = Manifest.read(folder / MANIFEST_FILE)
    parquet = require("pyarrow.parquet", extra="io")
    file, said = folder / EVENTS_FILE, manifest.events
    if not file.is_file():
        raise FileNotFoundError(f"{str(folder)!r} lacks {EVENTS_FILE!r}, which its manifest names")
    if (found := checksum(file)) != {"n_bytes": said.n_bytes, "sha256": said.sha256}:
        raise ValueError(
            f"{str(file)!r} is not the file that its manifest names: {found['n_bytes']} bytes, not {said.n_bytes}, or other ones"
        )
    header = parquet.ParquetFile(file)
    if (header.metadata.num_rows, header.schema_arrow.names) != (said.rows, said.columns):
        raise ValueError(f"{str(file)!r} has other rows or columns than its manifest says")
    if not manifest.valid:
        warn(f"the published result is not valid: {'; '.join(manifest.problems)}")
    return Published(folder, manifest)


# --- numbers of events -------------------------------------------------------------------------------------------------


def _values(observable: Observable, events: pd.DataFrame, chosen: np.ndarray | None = None) -> np.ndarray:
    """An observable of each event ``(n,)``; those that are not chosen may have none."""
    if isinstance(observable, str):
        if observable not in events or observable == PROCESS:
            numbers = [name for name in events if name != PROCESS]
            raise ValueError(
                f"there is no column {observable!r}; there are {numbers}. Functions of them define new ones"
            )
        return events[observable].to_numpy()
    if not callable(observable):
        raise TypeError(f"an observable is a column, or a function of the table of events; got {observable!r}")
    values = np.asarray(observable(events.copy()), float)  # what it does to its table does not count
    if values.shape != (len(events),):
        raise ValueError(
            f"the function of an observable gives one number for each of {len(events)} events; got {values.shape}"
        )
    if (undefined := np.isnan(values) & (True if chosen is None else chosen)).any():
        raise ValueError(
            f"the function of an observable gives no number for {undefined.sum()} of {len(events)} events: leave them out by "
            "select="
        )
    return values


def _mask(select: Observable | None, events: pd.DataFrame) -> np.ndarray:
    return np.ones(len(events), bool) if select is None else _values(select, events) != 0.0


def _of_sums(pulls: np.ndarray, events: pd.DataFrame) -> np.ndarray:
    """Covariance ``(k, k)`` of weighted sums of ``(n, k)`` numbers of independent events; processes have known sums."""
    covariance = np.zeros((pulls.shape[1],) * 2)
    for process in events[PROCESS].unique():
        rows = (events[PROCESS] == process).to_numpy()
        weights, own = events[WEIGHT].to_numpy()[rows], pulls[rows]
        moved = weights[:, None] * (own - weights @ own / weights.sum())
        covariance += moved.T @ moved
    return covariance


def _of_counts(bins: np.ndarray, events: pd.DataFrame, n_bins: int) -> np.ndarray:
    """The same of numbers of events in bins, without a matrix of events and bins."""
    covariance = np.zeros((n_bins, n_bins))
    for process in events[PROCESS].unique():
        rows = (events[PROCESS] == process).to_numpy()
        weights = events[WEIGHT].to_numpy()[rows]
        shares = np.bincount(bins[rows], weights, n_bins + 1)[:-1] / weights.sum()
        squares = np.bincount(bins[rows], weights**2, n_bins + 1)[:-1]
        cross = np.outer(squares, shares)
        covariance += np.diag(squares) - cross - cross.T + np.sum(weights**2) * np.outer(shares, shares)
    return covariance

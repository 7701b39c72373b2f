"""All simulated events of one process: the nominal sample, and those with nuisances away from zero."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..common.checks import integer, number
from ..common.warning import warn
from .columns import as_column, check_names
from .inputs import EVENTS, as_sample, holds_events, index_of, whole_sample
from .pairing import are_related, check_ratio, integers_of, uniform_by
from .sample import Sample, checked_columns
from .variation import Variation

__all__ = ["Simulation"]


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated events of one process: the nominal sample, and its variations.

    A variation is a sample of its own, or other weights of the nominal events. From those the ratio of the two densities is
    known event by event, and learned much more precisely than from two independent samples.

    Args:
        nominal: Events with all nuisances at zero; anything `as_sample` takes. Files are read when events are needed.
        variations: Samples with nuisances away from zero.
        weights: Event weights of the nominal events: the name of a column, or one number per event; by default the data's
            own. A column is that of the variations, too, unless they name another one.
        paired_by: A column that numbers the generated events. Rows of one number stay together when events are split or
            resampled, in whichever samples they are. Without, samples of the length of the nominal one are taken to hold
            the same generated events row by row. Where they do, row by row, statistical noise of the nominal sample is that
            of the variation too, and responses are judged by the differences: see :meth:`rows_are_paired`.

    Raises:
        TypeError: If these are no events, or no variations.

    Example:
        >>> events = {"y": np.array([0.1, 0.4]), "w": np.array([1.0, 1.0]), "w_up": np.array([1.2, 1.0])}
        >>> simulation = Simulation(events, [Variation(at={"pdf": +1}, weights="w_up")], weights="w")
        >>> print(simulation)
                    kind  events  effective size  yield  ratio
        nominal  nominal       2               2    2.0    1.0
        pdf=+1   weights       2            1.98    2.2    1.1
    """

    nominal: Any
    variations: tuple[Variation, ...] = ()
    weights: str | np.ndarray | None = None
    paired_by: str | None = None

    def __post_init__(self) -> None:
        if not holds_events(self.nominal):
            raise TypeError(f"the nominal sample of a Simulation is {EVENTS}; got {type(self.nominal).__name__}")
        object.__setattr__(self, "variations", tuple(self._aligned(one) for one in _checked(self.variations)))

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        variations: Iterable[Variation] = (),
        *,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        paired_by: str | None = None,
        tree: str | None = None,
        cut: str | None = None,
    ) -> Simulation:
        """Read the nominal events and those of all variations now, as `Sample.read` does.

        Args:
            path: File or files of the nominal events.
            variations: Their events are files; or they are other weights of the nominal events.
            columns: What to read; by default every column that holds one number per event. Weights are read besides.
            weights: Column of the event weights, in all files but of variations that name another one.
            paired_by: A column that numbers the generated events.
            tree: Name of the TTree or RNTuple in ROOT files.
            cut: Keep the events of all samples that pass a condition such as `"pt > 20 and abs(eta) < 2.4"`.

        Example:
            >>> up = Variation("signal_jes_up.root", at={"jes": +1})
            >>> signal = Simulation.read("signal.root", [up], columns=["mass"], weights="w", cut="pt > 20")
        """
        variations = _checked(variations)
        wanted = None if columns is None else [*checked_columns(columns), *([paired_by] if paired_by else [])]

        def sample(source: Any, weights: str | None, more: Sequence[str] = ()) -> Sample:
            chosen = None if wanted is None else list(dict.fromkeys([*wanted, *more]))
            return Sample.read(source, columns=chosen, weights=weights, tree=tree, cut=cut)

        def moved(variation: Variation) -> Variation:
            own = weights if variation.weights is None else variation.weights
            if variation.is_reweighting:
                return variation
            if not isinstance(variation.events, (str, os.PathLike)) or not isinstance(own, str | None):
                raise TypeError(f"the events of {variation.name!r} are no file with its weights: use Simulation(...)")
            return replace(variation, events=sample(variation.events, own), weights=None)

        return cls(sample(path, weights, _columns_of(variations)), tuple(map(moved, variations)), paired_by=paired_by)

    def _aligned(self, variation: Variation) -> Variation:
        """The variation with weights of the nominal events by position; other pandas indices are refused."""
        if not (variation.is_reweighting and isinstance(variation.weights, pd.Series)):
            return variation
        index = index_of(self.nominal)
        if index is not None and not index.equals(variation.weights.index):
            raise ValueError(
                f"the weights of variation {variation.name!r} and the nominal events have different pandas indices: their rows "
                "may be of different events. Name their column, weights=, or give an array (.to_numpy())"
            )
        return replace(variation, weights=as_column(variation.weights, "weights", variation.name or ""))

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances that were simulated."""
        return tuple(dict.fromkeys(name for variation in self.variations for name in variation.at))

    @property
    def effective_size(self) -> float:
        """Kish's effective number of nominal events."""
        return self._whole[0].effective_size

    def sample(self, columns: Sequence[str], *, process: str = "") -> Sample:
        """The nominal events, checked, with their weights.

        Args:
            columns: Which.
            process: What error messages call the process; by default the sample has its own name.
        """
        name = f"{process}, nominal" if process else None
        return as_sample(self.nominal, columns, weights=self.weights, name=name)

    def samples(self, columns: Sequence[str], *, process: str = "") -> list[Sample]:
        """The nominal events and those of each variation, checked, with the weights of each.

        Args:
            columns: Which.
            process: What error messages call the process.

        Raises:
            ValueError: As `as_sample`; if weights of the nominal events are those of a variation nowhere, or their ratio to
                the nominal ones is not positive and finite everywhere.

        Warns:
            UserWarning: If weights of a variation do not follow the nominal ones.
        """
        wanted = dict.fromkeys([*checked_columns(columns), *_columns_of(self.variations)])
        table = self.sample(list(wanted), process=process)
        nominal = Sample({column: table.columns[column] for column in columns}, table.weights, table.name)
        found = [nominal]
        for variation in self.variations:
            name = ", ".join(filter(None, [process, variation.name]))
            if variation.is_reweighting:
                weights = _weights_of(variation, table)
                check_ratio(table, weights, name)
                if not are_related(table, weights):
                    warn(
                        f"the weights of variation {name!r} do not follow the nominal ones: do they belong to other events, or "
                        "are they factors, to be multiplied by the nominal weights?"
                    )
                found.append(Sample(nominal.columns, weights, name))
            else:
                found.append(as_sample(variation.events, columns, weights=self._own_weights(variation), name=name))
        return found

    def rows_are_paired(self) -> list[bool | None]:
        """Whether row ``i`` of each variation is the generated event of row ``i`` of the nominal sample.

        That of other weights always is; otherwise the numbers in the column ``paired_by`` have to agree. ``None`` without
        such a column: the values of the events have to tell, :func:`zfit_fnf.samples.pairing.are_paired`.
        """
        if self.paired_by is None:
            return [True if variation.is_reweighting else None for variation in self.variations]
        nominal, *others = self._numbers()
        own = iter(others)
        return [v.is_reweighting or np.array_equal(nominal, next(own)) for v in self.variations]

    def _own_weights(self, variation: Variation) -> Any:
        """Weights of a variation that has events."""
        common = self.weights if isinstance(self.weights, str) else None
        return common if variation.weights is None else variation.weights

    # --- parts of it ------------------------------------------------------------------------------------------------

    def split(self, n: float, seed: int = 0) -> tuple[Simulation, ...]:
        """Random parts of all samples; rows that are paired stay together.

        Each part stands for the yields of the whole: its weights are larger than those of the events were.

        Args:
            n: A share such as 0.8 for two parts, of that share and of the rest; or a number of equal parts.
            seed: Seed of the choice.

        Raises:
            ValueError: If a part would have no events of a sample.

        Example:
            >>> train, held_out = signal.split(0.8, seed=1)
            >>> first, second = signal.split(2, seed=1)
        """
        return tuple(map(self._of, self._rows_of_parts(n, seed)))

    def folds(self, n: int, seed: int = 0) -> tuple[tuple[Simulation, Simulation], ...]:
        """For each of the parts of `split`: all events but those of the part, to train on, and the part, held out.

        Args:
            n: Number of parts.
            seed: Seed of the choice.

        Example:
            >>> for train, held_out in signal.folds(2, seed=1): ...
        """
        parts = self._rows_of_parts(integer(n, "the number of folds", low=2), seed)
        everything = [np.arange(sample.n_events) for sample in self._whole]
        return tuple((self._of(list(map(np.setdiff1d, everything, part))), self._of(part)) for part in parts)

    def _rows_of_parts(self, n: float, seed: int) -> list[list[np.ndarray]]:
        """Rows of each sample in each part."""
        if isinstance(n, (int, np.integer)):
            edges = np.linspace(0.0, 1.0, integer(n, "the number of parts", low=2) + 1)
        else:
            edges = np.array([0.0, number(n, "the share of the first part", above=0.0, high=1.0), 1.0])
        places = self._places(integer(seed, "seed", low=0))
        if self.paired_by is None:  # sizes that are exact
            places = [(np.argsort(np.argsort(place)) + 0.5) / len(place) for place in places]
        parts = [
            [np.flatnonzero((place >= low) & (place < high)) for place in places]
            for low, high in itertools.pairwise(edges)
        ]
        for place, part in enumerate(parts, start=1):
            if without := [s for s, rows in zip(self._whole, part, strict=True) if s.n_events and not rows.size]:
                raise ValueError(
                    f"part {place} of {len(parts)} would have none of the {without[0].n_events} events of {without[0].name!r}: "
                    "split them into fewer parts, or simulate more"
                )
        return parts

    def resampled(self, seed: int) -> Simulation:
        """A bootstrap replica: Poisson(1) copies of each generated event, as weights; the same for rows that are paired.

        Args:
            seed: Seed of the numbers of copies.
        """
        thresholds = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 20)]))
        copies = [np.searchsorted(thresholds, place) for place in self._places(integer(seed, "seed", low=0))]
        rows = [np.flatnonzero(number) for number in copies]
        return self._of(rows, [number[row] for number, row in zip(copies, rows, strict=True)])

    @cached_property
    def _whole(self) -> list[Sample]:
        """All columns of the nominal sample, then of each variation that has events."""
        own = [v for v in self.variations if not v.is_reweighting]
        nominal = whole_sample(self.nominal, self.weights)
        return [nominal, *(whole_sample(v.events, self._own_weights(v), v.name) for v in own)]

    def _places(self, seed: int) -> list[np.ndarray]:
        """A number from 0 to 1 for each row, nominal and of each variation that has events; equal for rows that are paired."""
        if self.paired_by is not None:
            return [uniform_by(numbers, (seed, 0)) for numbers in self._numbers()]
        places = []
        for index, sample in enumerate(self._whole):
            stream = 0 if sample.n_events == self._whole[0].n_events else index
            places.append(uniform_by(np.arange(sample.n_events), (seed, stream)))
        return places

    def _numbers(self) -> list[np.ndarray]:
        """Numbers of the generated events in the nominal sample and in each variation that has events."""
        column = self.paired_by or ""
        for sample in self._whole:
            check_names([column], sample.columns, sample.name)
        return [integers_of(sample.columns[column], column, sample.name) for sample in self._whole]

    def _of(self, rows: Sequence[np.ndarray], copies: Sequence[np.ndarray] | None = None) -> Simulation:
        """Some rows of each sample: as many copies of each as there are in a replica, or with the yield of all rows."""

        def taken(index: int, sample: Sample) -> Sample:
            weights = np.ones(sample.n_events) if sample.weights is None else np.asarray(sample.weights, np.float64)
            kept = weights[rows[index]]
            if copies is not None:
                kept = kept * copies[index]
            elif kept.sum() > 0:
                kept = kept * (weights.sum() / kept.sum())
            return Sample({name: values[rows[index]] for name, values in sample.columns.items()}, kept, sample.name)

        nominal, variations, index = self._whole[0], list[Variation](), 0
        for variation in self.variations:
            if variation.is_reweighting:
                weights = taken(0, Sample(nominal.columns, _weights_of(variation, nominal))).weights
                variations.append(replace(variation, weights=weights))
            else:
                index += 1
                variations.append(replace(variation, events=taken(index, self._whole[index]), weights=None))
        return Simulation(taken(0, nominal), tuple(variations), paired_by=self.paired_by)

    # --- as a table -------------------------------------------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each sample: kind, number of events, effective size, yield, and its ratio to the nominal one."""
        nominal, *others = self._whole
        own, samples, kinds = iter(others), [nominal], ["nominal"]
        for variation in self.variations:
            kinds.append("weights" if variation.is_reweighting else "events")
            samples.append(
                Sample(nominal.columns, _weights_of(variation, nominal)) if variation.is_reweighting else next(own)
            )
        return pd.DataFrame(
            {
                "kind": kinds,
                "events": [sample.n_events for sample in samples],
                "effective size": [sample.effective_size for sample in samples],
                "yield": [sample.sum_weights for sample in samples],
                "ratio": [sample.sum_weights / nominal.sum_weights for sample in samples],
            },
            index=["nominal", *(variation.name for variation in self.variations)],
        )

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON can hold it, with the point of each sample."""
        records = self.to_dataframe().reset_index(names="sample").to_dict(orient="records")
        points = [{}, *(dict(variation.at) for variation in self.variations)]
        return {
            "nuisances": list(self.nuisances),
            "samples": [{**row, "at": at} for row, at in zip(records, points, strict=True)],
        }

    def __repr__(self) -> str:
        nominal = self.nominal if isinstance(self.nominal, (str, os.PathLike, Sample)) else type(self.nominal).__name__
        of = f" of {', '.join(self.nuisances)}" if self.variations else ""
        return f"<Simulation: nominal {nominal!s}, {len(self.variations)} variation(s){of}>"

    def __str__(self) -> str:
        return self.to_dataframe().to_string(float_format=lambda value: f"{value:.6g}")


def _checked(given: Any) -> tuple[Variation, ...]:
    if isinstance(given, Variation) or not isinstance(given, Iterable):
        raise TypeError(f"variations= of a Simulation is a list of Variation; got {given!r}")
    variations = tuple(given)
    if wrong := [type(one).__name__ for one in variations if not isinstance(one, Variation)]:
        raise TypeError(f"variations= of a Simulation is a list of Variation; got {wrong[0]} in it")
    return variations


def _columns_of(variations: Iterable[Variation]) -> list[str]:
    """Columns of the nominal sample that are weights of variations."""
    return [v.weights for v in variations if v.is_reweighting and isinstance(v.weights, str)]


def _weights_of(variation: Variation, nominal: Sample) -> Any:
    """The weights of a variation that is other weights of the nominal events."""
    weights: Any = variation.weights
    if isinstance(weights, str):
        check_names([weights], nominal.columns, nominal.name)
        return nominal.columns[weights]
    if np.shape(weights) != (nominal.n_events,):
        raise ValueError(
            f"the weights of variation {variation.name!r} have the shape {np.shape(weights)}, but the nominal sample "
            f"{nominal.name!r} has {nominal.n_events} events: they belong to other events"
        )
    return weights

r"""Uncertainties of numbers that are computed with the map: statistical, systematic and total.

A :class:`MapVariation` is the map at one value of the parameters: at the best fit, for each replica, and moved by one standard
deviation along each eigenvector of the covariance of the parameters. A number computed for all of them has an uncertainty.
Replicas are taken at the best fit of the *parameters*, with ``T_psi``: their spread is the statistical uncertainty of the
map alone, the eigenvectors carry the uncertainty of the parameters, and the total is the sum in quadrature. Numbers of events,
which measure the parameters as well, are shared out in the same way (:mod:`zfit_fnf.doi.counts`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf
from zfit.result import FitResult

from ..common.files import complete
from ..common.warning import warn
from ..densities.flows import in_chunks
from ..densities.transfer import ProfiledTransfer
from ..minimize import Minuit
from ..minimum import pseudo_inverse
from ..param import limits_of
from ..pdf import log_density, precompute
from ..samples import Sample, as_sample, index_of
from ..state import preserved
from .counts import Counts
from .profiled import ProfiledFit, check_fit_of
from .replicas import poisson_counts
from .rows import behind, parts_of, responsibilities

__all__ = [
    "Eigenvariations",
    "MapVariation",
    "MapVariations",
    "Uncertainty",
    "check_map_variations",
    "scenarios",
]

_FEW_REPLICAS = 2.0  # factor on the covariance of replicas, from which on a chi-square has another distribution


@dataclass(frozen=True, eq=False)
class MapVariation:
    """The map at one value of the parameters, made by `scenarios`.

    Attributes:
        name: Label, such as ``"best fit"``.
        values: The parameters, by name.
        transfer: The map as a function of the parameters.
        pdf: The model of data with this map.
        parameters: The parameters of the model, by name.
        data: The events of the fit.
        seed: Of the weights of the events, for the map of a replica.
        often: How often the events of the fit count ``(n,)``, where that is not once.
    """

    name: str
    values: dict[str, float]
    transfer: ProfiledTransfer
    pdf: zfit.pdf.BasePDF
    parameters: Mapping[str, zfit.Parameter]
    data: Sample
    seed: tuple[int, int] | None = None
    often: Callable[[], np.ndarray] | None = field(default=None, repr=False)

    def counts(self, events: Any) -> np.ndarray:
        """How often each event counts ``(n,)``: once for the best fit.

        For a replica, Poisson(1) times, but without what would move the best fit of the parameters; along an eigenvector as
        often as in data whose best fit is there. Events of the fit are found in any order and also if they are only some
        of them; others know of neither. Averages over data that are weighted by it contain the counting statistics.
        """
        sample = as_sample(events, self.pdf.obs)
        others = np.ones(sample.n_events) if self.seed is None else poisson_counts((*self.seed, 1), sample.n_events)
        if self.often is None:
            return others
        places = self.places(sample)
        return np.where(places < 0, others, self.often()[places])

    def places(self, events: Any) -> np.ndarray:
        """Which event of the fit ``(n,)`` each one is, by its observables; -1 for others."""
        here, there = (as_sample(one, self.pdf.obs).array(self.pdf.obs) for one in (events, self.data))
        if np.array_equal(here, there):
            return np.arange(len(there))
        found = _places(here, there)
        single = np.float32  # to which events are rounded in many files
        return found if np.any(found >= 0) else _places(here.astype(single), there.astype(single))

    def to_simulation(self, data: Any, *, process: str | None = None) -> pd.DataFrame:
        """Take data to where simulation has them; arguments as for `Transfer.to_simulation`."""
        theta = tf.constant(list(self.values.values()), tf.float64)
        return self.transfer.transfer.moved(
            lambda u, context: self.transfer.inverse(u, context, theta, process)[0], data, process
        )

    def to_data(self, simulation: Any, *, process: str | None = None) -> pd.DataFrame:
        """Correct simulated events; arguments as for `Transfer.to_data`."""
        theta = tf.constant(list(self.values.values()), tf.float64)
        return self.transfer.transfer.moved(
            lambda u, context: self.transfer.forward(u, context, theta, process), simulation, process
        )

    def log_rate(self, events: Any) -> np.ndarray:
        """Logarithm ``(n,)`` of the expected density of events; of the normalised one if the model has no yield."""
        return self._evaluate(events, self._log_rate)

    def shares(self, events: Any) -> pd.DataFrame:
        """Probability of each process to have made an event: a row for each event, a column for each process."""
        names = [part.name for part in parts_of(self.pdf)]
        return pd.DataFrame(self._evaluate(events, self._shares), columns=names, index=index_of(events))

    def _evaluate(self, events: Any, function: Callable[[tf.Tensor], tf.Tensor]) -> np.ndarray:
        x = as_sample(events, self.pdf.obs).array(self.pdf.obs)
        with self.set():
            return in_chunks(function, x)

    @contextmanager
    def set(self) -> Iterator[None]:
        """The parameters at their values.

        Raises:
            ValueError: If one of them would be outside of its limits.
        """
        for name, value in self.values.items():
            low, high = limits_of(self.parameters[name])
            if not low <= value <= high:
                raise ValueError(
                    f"{name!r} is at {value:.4g} for the {self.name}, outside of its limits ({low:g}, {high:g}), where the model "
                    "is not defined: make the limits wider and fit again"
                )
        with zfit.param.set_values([self.parameters[name] for name in self.values], list(self.values.values())):
            yield

    def _log_rate(self, x: tf.Tensor) -> tf.Tensor:
        expected = self.pdf.get_yield().value() if self.pdf.is_extended else tf.constant(1.0, tf.float64)
        return log_density(self.pdf, precompute(self.pdf, x)) + tf.math.log(tf.reshape(expected, ()))

    def _shares(self, x: tf.Tensor) -> tf.Tensor:
        log_p = [log_density(part, precompute(part, x)) for part in parts_of(self.pdf)]
        return tf.stack(responsibilities(self.pdf, log_p), axis=1)


@dataclass(frozen=True, eq=False)
class Eigenvariations:
    """Eigenvectors of the covariance of the parameters: independent directions of uncertainty.

    Attributes:
        names: Names of the parameters.
        values: Best fit ``(P,)``.
        deviations: Standard deviation along each eigenvector ``(P,)``, the largest first.
        directions: Eigenvectors as columns ``(P, P)``.
    """

    names: tuple[str, ...]
    values: np.ndarray
    deviations: np.ndarray
    directions: np.ndarray

    @classmethod
    def of(cls, result: FitResult) -> Eigenvariations:
        """Of a fit.

        Args:
            result: A fit of the profile likelihood.

        Raises:
            ValueError: If its covariance is not positive definite.
        """
        params = sorted(result.params, key=lambda parameter: parameter.name)
        covariance = np.asarray(result.covariance(params), float)
        errors = np.sqrt(np.where(np.diag(covariance) > 0, np.diag(covariance), np.nan))
        try:
            # Of a root of it: rounding of the largest variance is more than the smallest one is, where units differ.
            root = errors[:, None] * np.linalg.cholesky(covariance / np.outer(errors, errors))
        except np.linalg.LinAlgError:
            root = np.full_like(covariance, np.nan)
        if not np.isfinite(root).all():
            raise ValueError("the covariance of the fit is not positive definite: the fit did not end at a minimum")
        directions, deviations, _ = np.linalg.svd(root)
        directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(len(params))])
        values = np.array([float(result.params[parameter]["value"]) for parameter in params])
        return cls(tuple(p.name for p in params), values, deviations, directions)

    def moved(self, index: int, sign: float) -> dict[str, float]:
        """The parameters one standard deviation along an eigenvector, by name."""
        point = self.values + sign * self.deviations[index] * self.directions[:, index]
        return dict(zip(self.names, point.tolist(), strict=True))

    def to_dataframe(self) -> pd.DataFrame:
        """Components of the eigenvectors, a row each, and their ``deviation``."""
        return pd.DataFrame(self.directions.T, columns=list(self.names)).assign(deviation=self.deviations)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("values", "deviations", "directions")}
        return {"names": list(self.names), **arrays}

    def __str__(self) -> str:
        return self.to_dataframe().to_string()


@dataclass(frozen=True, eq=False)
class MapVariations:
    """The maps that propagate uncertainties, made by `scenarios`.

    Attributes:
        best: The best fit.
        replicas: The maps of the replicas, at the best fit of the parameters.
        eigenvariations: The eigenvectors of the covariance.
        moved: For each eigenvector, one standard deviation down and up.
    """

    best: MapVariation
    replicas: tuple[MapVariation, ...]
    eigenvariations: Eigenvariations
    moved: tuple[tuple[MapVariation, MapVariation], ...]

    def evaluate(self, function: Callable[[MapVariation], Any]) -> Uncertainty:
        """Numbers computed with the map, with their uncertainties.

        Args:
            function: Takes a map variation and returns an array of numbers, always of the same shape.

        Raises:
            TypeError: If it is no function, as when the result of one is given.
        """
        if not callable(function):
            raise TypeError(f"evaluate takes a function of a MapVariation, such as predicted(...); got {function!r}")
        value = np.asarray(function(self.best), float)
        replicas = np.array([np.asarray(function(one), float) for one in self.replicas]).reshape(-1, *value.shape)
        shifts = [[np.asarray(function(side), float) - value for side in sides] for sides in self.moved]
        edges = {name: np.asarray(edge, float) for name, edge in getattr(function, "edges", {}).items()}
        return Uncertainty(value, replicas, np.array(shifts).reshape(-1, 2, *value.shape), self.eigenvariations, edges)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """A number, or an array of them, with its uncertainties.

    Attributes:
        value: At the best fit.
        replicas: For each replica ``(B, ...)``; empty without any.
        shifts: Change with each eigenvector, one standard deviation down and up ``(P, 2, ...)``.
        eigenvariations: The eigenvectors.
        edges: Bin edges by observable, if the numbers are a histogram: one axis each.
    """

    _NAMES: ClassVar[tuple[str, ...]] = ("value", "statistical", "systematic", "total")

    value: np.ndarray
    replicas: np.ndarray
    shifts: np.ndarray
    eigenvariations: Eigenvariations | None = None
    edges: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def systematic(self) -> np.ndarray:
        """Standard deviation from the parameters."""
        return np.sqrt(np.sum(self._half() ** 2, axis=0))

    @property
    def statistical(self) -> np.ndarray:
        """Standard deviation of the replicas; NaN with fewer than two."""
        if len(self.replicas) < 2:
            return np.full_like(self.value, np.nan)
        return self.replicas.std(axis=0, ddof=1)

    @property
    def total(self) -> np.ndarray:
        """Both in quadrature; NaN with fewer than two replicas, when only `systematic` is known."""
        return np.hypot(self.systematic, self.statistical)

    def covariance(self, source: str | int | None = None) -> np.ndarray:
        """Covariance ``(k, k)`` of the ``k`` numbers, flattened.

        Args:
            source: ``"statistical"``, ``"systematic"``, the name of a parameter (what the numbers have in common with it, all
                that would be gone if it were known), or the number of an eigenvector; by default all together. Parameters are
                correlated: the covariances of their names do not add up to the systematic one, those of the
                eigenvectors do.

        Raises:
            ValueError: If there are no replicas for what is statistical, or the source is unknown.
        """
        half = self._half().reshape(len(self.shifts), self.value.size)
        if source is None:
            return self.covariance("systematic") + self.covariance("statistical")
        if source == "statistical":
            if len(self.replicas) < 2:
                raise ValueError("without two replicas there is no statistical covariance: make some with bootstrap")
            deviation = (self.replicas - self.replicas.mean(axis=0)).reshape(len(self.replicas), self.value.size)
            return deviation.T @ deviation / (len(self.replicas) - 1)
        if source == "systematic":
            return half.T @ half
        if isinstance(source, int) and 0 <= source < len(half):
            return np.outer(half[source], half[source])
        if self.eigenvariations is None or source not in self.eigenvariations.names:
            names = list(self.eigenvariations.names) if self.eigenvariations else []
            raise ValueError(
                f'source= is "statistical", "systematic", one of {names} or a number below {len(half)}; got {source!r}'
            )
        # A standard deviation of the parameter moves the others with it, by their covariance with it.
        own = (
            self.eigenvariations.deviations * self.eigenvariations.directions[self.eigenvariations.names.index(source)]
        )
        moved = own @ half / np.linalg.norm(own)
        return np.outer(moved, moved)

    def chi2(self, expected: np.ndarray) -> float:
        """Squared distance from expected numbers in the shape of `value`, with the covariance of all sources.

        The inverse of a covariance of few replicas is too large, by 1.8 for 20 numbers and 50 replicas: the statistical one is
        raised by what this is on average, so that the distance from the truth is as large as there are numbers on average.

        Warns:
            UserWarning: If replicas are too few, less than about twice the numbers; not a number, if they tell nothing.
        """
        difference = np.ravel(self.value - np.asarray(expected, float))
        covariance, statistical = self.covariance(), self.covariance("statistical")
        # In how many directions the replicas say what the errors are.
        known = float(np.sum(statistical * pseudo_inverse(covariance)))
        n = len(self.replicas)
        raised = (n - 1) / (n - 2 - known) if n - 2 > known else np.inf
        if raised > _FEW_REPLICAS:
            less = "means little" if np.isfinite(raised) else "has no meaning"
            warn(
                f"a chi-square of {self.value.size} numbers {less} with the covariance of {n} replicas: make more replicas, "
                "bootstrap, or compare fewer numbers"
            )
        if not np.isfinite(raised):
            return float("nan")
        covariance += (raised - 1.0) * statistical
        return float(difference @ pseudo_inverse(covariance) @ difference)

    def to_dataframe(self) -> pd.DataFrame:
        """The numbers, flattened, a row for each: bin edges if there are any, then value and uncertainties."""
        columns: dict[str, np.ndarray] = {}
        grids = np.meshgrid(*(np.arange(len(edge) - 1) for edge in self.edges.values()), indexing="ij")
        for (name, edge), index in zip(self.edges.items(), grids, strict=True):
            columns |= {f"{name} low": edge[index.ravel()], f"{name} high": edge[index.ravel() + 1]}
        return pd.DataFrame(columns | {name: np.ravel(getattr(self, name)) for name in self._NAMES})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table of `to_dataframe`."""
        with complete(Path(path)) as draft:
            self.to_dataframe().to_csv(draft, index=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers and their uncertainties in the shape of `value`, bin edges and covariances, ready for JSON.

        Without replicas, ``statistical`` and ``total`` are missing.
        """
        known = self._NAMES if len(self.replicas) > 1 else ("value", "systematic")
        sources: list[str | int] = ["systematic", *range(len(self.shifts))]
        sources += list(self.eigenvariations.names) if self.eigenvariations else []
        sources += ["statistical"] if len(self.replicas) > 1 else []
        return {
            **{name: getattr(self, name).tolist() for name in known},
            "edges": {name: edge.tolist() for name, edge in self.edges.items()},
            "covariance": {
                f"eigenvector {source}" if isinstance(source, int) else source: self.covariance(source).tolist()
                for source in sources
            },
        }

    def __str__(self) -> str:
        missing = "" if len(self.replicas) > 1 else "\nno replicas: only the systematic part is known"
        return self.to_dataframe().to_string() + missing

    def _half(self) -> np.ndarray:
        """Half the difference between the two sides of each eigenvector ``(P, ...)``."""
        return 0.5 * (self.shifts[:, 1] - self.shifts[:, 0])


def _places(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Which row of another table each row is, -1 if none; of equal rows, the first is the first one there, and so on."""
    both = np.concatenate([there, here])
    order = np.lexsort(both.T)  # stable: rows there come before their equals here
    new = np.append(True, np.any(np.diff(both[order], axis=0) != 0, axis=1))
    group = np.cumsum(new) - 1
    is_there = order < len(there)
    n_there = np.bincount(group, is_there).astype(int)[group]  # equals there
    start = np.flatnonzero(new)[group]
    rank = np.arange(len(order)) - start - n_there  # of a row here, among its equals here
    known = ~is_there & (rank < n_there)
    found = np.full(len(here), -1)
    found[order[known] - len(there)] = order[(start + rank)[known]]
    return found


def scenarios(profiled: ProfiledFit, result: FitResult | None = None) -> MapVariations:
    """The maps that propagate uncertainties: best fit, replicas, and one standard deviation along each eigenvector.

    Args:
        profiled: The profile, of a fit with replicas if there is to be a statistical uncertainty.
        result: A fit of its loss: the best fit and the covariance of the parameters; by default it is made here.

    Parameters that were fixed in that fit keep their present values, and have no uncertainty.

    Raises:
        TypeError: If the arguments are not a profile and the result of a fit.
        ValueError: If the covariance of the fit is not positive definite, or the fit has other parameters, is one with the
            map fixed, or one of another profile or other data.

    Warns:
        UserWarning: If the fit is not valid.

    Example:
        >>> maps = scenarios(profiled)
        >>> band = maps.evaluate(lambda variation: variation.to_data(events, process="B").to_numpy())
        >>> band.value, band.statistical, band.systematic, band.total
    """
    if not isinstance(profiled, ProfiledFit):
        raise TypeError(f"scenarios takes a profile made by zfit_fnf.doi.profile; got {type(profiled).__name__}")
    if result is None:
        loss = profiled.loss()
        with preserved(loss):
            start = {one: profiled.fit.values[name] for name, one in profiled.parameters.items() if one.floating}
            zfit.param.set_values(list(start), list(start.values()))
            result = Minuit().minimize(loss)
    if not isinstance(result, FitResult):
        raise TypeError(f"scenarios takes the result of a fit of profiled.loss(); got {type(result).__name__}")
    held = _fixed(profiled, result)
    check_fit_of(profiled, result)
    if not result.valid:
        warn(
            f"the fit of the profile has not converged ({getattr(result, 'message', '') or 'no message'}): neither its values "
            "nor its errors are those of a minimum"
        )
    eigen = Eigenvariations.of(result)
    counts = Counts(profiled, dict(zip(eigen.names, eigen.values, strict=True)), eigen.directions * eigen.deviations)

    def ordered(values: dict[str, float]) -> dict[str, float]:
        return {name: (held | values)[name] for name in profiled.parameters}

    def nominal(name: str, values: dict[str, float], often: Callable[[], np.ndarray] | None = None) -> MapVariation:
        made = profiled.transfer, profiled.pdf, profiled.parameters, profiled.fit.data
        return MapVariation(name, ordered(values), *made, often=often)

    def along(index: int, side: str, sign: float) -> MapVariation:
        often = partial(counts.moved, sign * eigen.deviations[index] * eigen.directions[:, index])
        return nominal(f"eigenvector {index} {side}", eigen.moved(index, sign), often)

    best = nominal("best fit", dict(zip(eigen.names, eigen.values.tolist(), strict=True)))
    replicas = []
    for index, replica in enumerate(profiled.replicas):
        transfer = profiled.transfer.displaced(replica.fields)
        pdf = behind(profiled.fit.model, transfer, params=profiled.parameters)
        often = partial(counts.of_replica, replica.seed)
        own = replace(best, name=f"replica {index}", transfer=transfer, pdf=pdf, seed=replica.seed, often=often)
        replicas.append(own)
    moved = tuple((along(index, "down", -1.0), along(index, "up", +1.0)) for index in range(len(eigen.names)))
    return MapVariations(best, tuple(replicas), eigen, moved)


def _fixed(profiled: ProfiledFit, result: FitResult) -> dict[str, float]:
    """Values of the parameters that were fixed in a fit, by name.

    Raises:
        ValueError: If the fit has other parameters than the profile, or lacks one that is not fixed.
    """
    found = {parameter.name for parameter in result.params}
    missing = [one for name, one in profiled.parameters.items() if name not in found]
    if found - set(profiled.parameters) or any(one.floating for one in missing):
        raise ValueError(
            f"result is a fit of {sorted(found)}; the profile has the parameters {list(profiled.parameters)}"
        )
    return {one.name: float(one.value()) for one in missing}


def check_map_variations(maps: Any, taker: str) -> None:
    """Refuse anything but map variations.

    Raises:
        TypeError: For anything else; names the function that takes them.
    """
    if not isinstance(maps, MapVariations):
        raise TypeError(f"{taker} takes what zfit_fnf.doi.scenarios returns; got {type(maps).__name__}")

r"""A measured distribution that others can use: simulated events where data have them, with weights and all their variations.

Simulated events ``(x, y)`` of process ``c``, made at the parameters :math:`\theta_0`, have with their weights ``w`` the
distribution of data at :math:`\theta` when the map takes ``y`` to data and the weights become

.. math::
    w' = n_c(\theta) \, \frac{w\, r}{\sum w\, r}, \qquad
    r = \frac{p_c^\mathrm{sim}(x, y\,|\,\theta)}{p_c^\mathrm{sim}(x, y\,|\,\theta_0)} .

They are written at the best fit, with the map of each replica, and one standard deviation down and up along each
eigenvector of the covariance of the parameters: what :class:`~zfit_fnf.doi.MapVariations` holds, as columns of one table.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from zfit.result import FitResult

from ..calibration.closure import expected_numbers
from ..common.checks import flag, names
from ..common.optional import require
from ..common.warning import warn
from ..loss import EventDensity
from ..param import Nuisance
from ..pdf import space_ranges
from ..results import FitSummary
from ..samples import Sample, Simulation, as_sample, check_inside
from ..samples.event_files import write
from ..samples.inputs import holds_events
from ..storage.results import versions
from .manifest import PROCESS, WEIGHT, Column, Manifest, Table, Varied
from .profiled import ProfiledFit
from .rows import parts_of
from .variations import MapVariation, MapVariations, scenarios

__all__ = ["EVENTS_FILE", "MANIFEST_FILE", "checksum", "new_folder", "publish"]

EVENTS_FILE, MANIFEST_FILE = "events.parquet", "manifest.json"
_WORTH = 0.1  # of the simulated events, that reweighting should leave


def publish(
    profiled: ProfiledFit,
    result: FitResult,
    simulation: Any,
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    definitions: Mapping[str, str] | None = None,
    made_at: Mapping[str, float] | None = None,
    even_invalid: bool = False,
) -> None:
    """Write the measured distribution as weighted events, for readers without this package: Parquet and a JSON manifest.

    Args:
        profiled: The profile, with replicas.
        result: A fit of its loss.
        simulation: By name of the process its simulated events or `Simulation`; of a model of one process also these alone.
        path: A new folder, which gets ``events.parquet`` and ``manifest.json``, completely or not at all.
        columns: Further columns of the simulated events to publish beside those of the model; no map moves them.
        units: Unit of each column, where it has one.
        definitions: What each column is, in words.
        made_at: Values of parameters that simulation was made with. Nuisances are zero by default; other parameters of shapes
            have to be given.
        even_invalid: Whether a result that is not valid may be published; the manifest says then that it is not, and why.

    Raises:
        FileExistsError: If there is something at the path.
        ImportError: If pyarrow is missing (``pip install "zfit_fnf[io]"``).
        TypeError: If the arguments are none of these.
        ValueError: If the result is not valid, an eigenvector leaves the limits of a parameter, simulation of a process is
            missing or outside of the range of its model, or a name is unknown.

    Warns:
        UserWarning: If the weights leave less than a tenth of the simulated events of a process.

    Example:
        >>> publish(profiled, result, {"signal": signal, "background": background}, "measured", units={"mass": "GeV"})
        >>> read("measured").histogram({"mass": np.linspace(80, 100, 21)}).covariance("statistical")
    """
    flag(even_invalid, "even_invalid=")
    require("pyarrow", extra="io")
    if not isinstance(result, FitResult):
        raise TypeError(f"publish takes the result of a fit of profiled.loss(); got {type(result).__name__}")
    target = _free(path)
    maps = scenarios(profiled, result)
    problems = _problems(profiled, result, maps)
    if problems and not even_invalid:
        raise ValueError(
            f"this result is not valid: {'; '.join(problems)}. Publish a valid one, or this one nevertheless with "
            "even_invalid=True, which its manifest will say"
        )
    needed = list(dict.fromkeys([*profiled.pdf.obs, *names(columns, "columns=")]))
    samples = _simulated(profiled, simulation, needed)
    described = _described(needed, profiled.fit.transfer.obs, units, definitions)
    varied = _variations(maps, profiled.fit.transfer.obs)
    table = _table(profiled, maps, samples, varied, dict(made_at or {}))
    with new_folder(target) as folder:
        write(table, folder / EVENTS_FILE, "Parquet")
        rows = Table(file=EVENTS_FILE, rows=len(table[PROCESS]), columns=list(table), **checksum(folder / EVENTS_FILE))
        fit = FitSummary.of(result)
        manifest = Manifest.of(
            written_by=versions(),
            processes=list(samples),
            extended=bool(profiled.pdf.is_extended),
            problems=problems,
            parameters={name: float(row["value"]) for name, row in fit.parameters.iterrows()},
            covariance=np.asarray(result.covariance(list(result.params)), float).tolist(),
            eigenvariations=maps.eigenvariations.to_dict(),
            columns=described,
            variations=varied,
            events=rows,
        )
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def _problems(profiled: ProfiledFit, result: FitResult, maps: MapVariations) -> list[str]:
    """Why a result is not valid."""
    problems = list(profiled.problems)
    if not result.valid:
        problems.append(f"the fit of the profile has not converged ({getattr(result, 'message', '') or 'no message'})")
    if len(profiled.replicas) < 2:
        problems.append("without two replicas the statistical uncertainty is not known: make some with bootstrap")
    points = [maps.best, *(side for sides in maps.moved for side in sides)]
    for name, half in profiled.window.items():
        if outside := [one.name for one in points if abs(one.values[name] - profiled.fit.values[name]) > half]:
            problems.append(f"{name} is outside of the window of the map at the {outside[0]}")
    return problems


def _simulated(profiled: ProfiledFit, simulation: Any, needed: Sequence[str]) -> dict[str, Sample]:
    """The events of each process, checked."""
    parts = {part.name: part for part in parts_of(profiled.fit.model)}
    alone = len(parts) == 1 and not (isinstance(simulation, Mapping) and set(simulation) == set(parts))
    given = dict.fromkeys(parts, simulation) if alone else simulation
    if not isinstance(given, Mapping):
        raise TypeError(
            f"simulation is a mapping from processes to their events, for {list(parts)}; got {given!r:.200}"
        )
    if set(given) != set(parts):
        raise ValueError(f"simulation is needed of the processes {list(parts)}; got it of {list(given)}")
    samples = {}
    for name, part in parts.items():
        one = given[name]
        if not isinstance(one, Simulation) and not holds_events(one):
            raise TypeError(f"simulation of {name!r} is a Simulation, or events; got a {type(one).__name__}")
        sample = one.sample(needed, process=name) if isinstance(one, Simulation) else as_sample(one, needed, name=name)
        check_inside(sample, space_ranges(part.norm))
        if sample.n_events == 0 or sample.sum_weights <= 0:
            raise ValueError(
                f"simulation of {name!r} has {sample.n_events} events, with weights that sum to {sample.sum_weights:g}"
            )
        samples[name] = sample
    return samples


def _described(
    needed: Sequence[str], moved: Sequence[str], units: Mapping[str, str] | None, definitions: Mapping[str, str] | None
) -> dict[str, Column]:
    """What the manifest says about each column of the events."""
    for given, option in ((units, "units="), (definitions, "definitions=")):
        if unknown := [name for name in given or {} if name not in needed]:
            raise ValueError(f"{option} names {unknown}; the columns that are published are {list(needed)}")
    if taken := [name for name in needed if name in (PROCESS, WEIGHT) or "__" in name]:
        raise ValueError(
            f"{taken[0]!r} cannot be published under this name: {PROCESS!r}, {WEIGHT!r} and names with '__' are taken"
        )
    return {
        name: Column(moved=name in moved, unit=(units or {}).get(name), definition=(definitions or {}).get(name))
        for name in needed
    }


def _variations(maps: MapVariations, moved: Sequence[str]) -> list[Varied]:
    """Which columns hold each variation; a replica has the weights of the best fit."""

    def entry(variation: MapVariation, kind: Any, suffix: str, *, weighted: bool) -> Varied:
        columns = {name: f"{name}{suffix}" for name in moved}
        return Varied(name=variation.name, kind=kind, columns=columns, weight=WEIGHT + (suffix if weighted else ""))

    found = [entry(maps.best, "nominal", "", weighted=True)]
    found += [entry(one, "replica", f"__replica_{index}", weighted=False) for index, one in enumerate(maps.replicas)]
    for index, pair in enumerate(maps.moved):
        for side, one in zip(("down", "up"), pair, strict=True):
            found.append(entry(one, side, f"__eigenvector_{index}_{side}", weighted=True))
    return found


def _table(
    profiled: ProfiledFit,
    maps: MapVariations,
    samples: Mapping[str, Sample],
    varied: Sequence[Varied],
    made_at: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """The columns of the file, the processes one after the other."""
    every = [maps.best, *maps.replicas, *(side for sides in maps.moved for side in sides)]
    names_of_maps = profiled.fit.transfer.processes
    blocks: list[dict[str, np.ndarray]] = []
    for index, (part, sample) in enumerate(zip(parts_of(profiled.fit.model), samples.values(), strict=True)):
        block = {PROCESS: np.full(sample.n_events, part.name, dtype=object), **sample.columns}
        weigh = _Weights(profiled, part, index, sample, made_at)
        for one, entry in zip(every, varied, strict=True):
            own = one.to_data(sample, process=part.name if names_of_maps else None)
            block |= {column: own[name].to_numpy() for name, column in entry.columns.items()}
            if entry.weight not in block:
                block[entry.weight] = weigh(one)
        weigh.check()
        blocks.append(block)
    table = {column: np.concatenate([block[column] for block in blocks]) for column in blocks[0]}
    for column, values in table.items():
        if column != PROCESS and not np.isfinite(values).all():
            raise ValueError(
                f"column {column!r} has numbers that are not finite: the map or the densities have none for some events"
            )
    return table


class _Weights:
    """Weights of the simulated events of a process at the parameters of a variation, which sum to the expected number.

    Args:
        profiled: The profile.
        part: The density of simulation.
        index: Number of the process.
        sample: Its events.
        made_at: Values of the parameters that they were made with, where not zero.
    """

    def __init__(
        self, profiled: ProfiledFit, part: zfit.pdf.BasePDF, index: int, sample: Sample, made_at: Mapping[str, float]
    ):
        self._pdf, self._index, self._sample = profiled.pdf, index, sample
        self._params = list(profiled.parameters.values())
        self._n_data = None if self._pdf.is_extended else float(profiled.fit.data.sum_weights)
        shape = part.get_params(floating=None, is_yield=False)
        self._shape = [one for one in shape if one in self._params or isinstance(one, Nuisance)]  # fixed ones too
        self._density = EventDensity(part, sample.array(part.obs))
        if unknown := [name for name in made_at if name not in profiled.parameters]:
            raise ValueError(f"made_at= names {unknown}; the parameters of the profile are {list(profiled.parameters)}")
        if lost := [one.name for one in self._shape if not isinstance(one, Nuisance) and one.name not in made_at]:
            raise ValueError(
                f"made_at= lacks {lost}, which change the shape of {part.name!r}: say what it was simulated with"
            )
        with zfit.param.set_values(self._shape, [float(made_at.get(one.name, 0.0)) for one in self._shape]):
            self._reference = self._density()
        self._worth: dict[str, float] = {}

    def __call__(self, variation: MapVariation) -> np.ndarray:
        """The weights ``(n,)``."""
        with variation.set():
            expected = expected_numbers(self._pdf, self._params, self._n_data)[0][self._index]
            log_ratio = self._density() - self._reference
        own = np.ones(self._sample.n_events) if self._sample.weights is None else self._sample.weights
        weights = own * np.exp(log_ratio)
        self._worth[variation.name] = Sample(self._sample.columns, weights).effective_size / self._sample.effective_size
        return weights * (expected / np.sum(weights))

    def check(self) -> None:
        """Warn if weights leave little of the events."""
        worst = min(self._worth, key=lambda name: self._worth[name])
        if self._worth[worst] < _WORTH:
            warn(
                f"{worst}: the weights leave {self._worth[worst]:.1%} of the simulated events of {self._sample.name!r}; "
                "simulate closer to the best fit (made_at=)"
            )


# --- files -------------------------------------------------------------------------------------------------------------


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"n_bytes": path.stat().st_size, "sha256": digest.hexdigest()}


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write to that gets its name when it is complete.

    Raises:
        FileExistsError: If there is something at the path.
        FileNotFoundError: If there is no folder to put it in.
    """
    target = _free(path)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    draft.mkdir()
    try:
        yield draft
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _free(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"there is something at {str(target)!r} already: choose another path, or remove it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(target.parent)!r} to put {target.name!r} into")
    return target

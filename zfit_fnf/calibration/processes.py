"""Which simulation describes which component of a likelihood, checked at the door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np

from ..loss import LogSpaceNLL
from ..pdf import FNFPDF, LogSpacePDF, components, space_ranges, sum_components
from ..samples import Sample, Simulation, check_inside, check_trainable
from ..samples.pairing import fingerprint, same_events
from .interpolation import Interpolation

__all__ = ["Process", "SimulatedPoint", "processes_of"]

_FEWEST = 100  # events of a simulated sample
_PAIRED = 10.0  # standard deviations of the correlation of two independent samples, above which rows are paired


@dataclass(frozen=True, eq=False)
class SimulatedPoint:
    """Simulated events of a process at one point of its nuisances.

    Attributes:
        name: ``"nominal"``, or what the variation is called.
        x: Events ``(n, n_obs)`` in the order of the model's observables.
        shares: Weights ``(n,)`` that sum to one.
        effective_size: How many unweighted events they are worth.
        paired: Whether row by row they are the generated events of the nominal sample: the same ones with other weights, or
            reconstructed another time.
    """

    name: str
    x: np.ndarray
    shares: np.ndarray
    effective_size: float
    paired: bool


@dataclass(frozen=True, eq=False)
class Process:
    """A component of the model of one channel, and its simulation.

    Attributes:
        name: Name of the PDF.
        channel: Index of the channel.
        index: Which of the components of the channel's model it is.
        pdf: The component.
        params: The parameter of each nuisance that was simulated, in the order of ``interpolation.nuisances``.
        points: The simulated samples, the nominal one first; empty for a density that was not learned.
        interpolation: Between these points.
    """

    name: str
    channel: int
    index: int
    pdf: zfit.pdf.BasePDF
    params: tuple[zfit.Parameter, ...]
    points: tuple[SimulatedPoint, ...]
    interpolation: Interpolation


def processes_of(nll: LogSpaceNLL, simulations: Mapping[str, Simulation]) -> list[Process]:
    """The components of all channels with their simulation.

    Args:
        nll: The likelihood.
        simulations: By name of the component; each with a ``nominal`` sample and ``variations``.

    Raises:
        TypeError: If the simulations are not such a mapping, or a model is conditional.
        ValueError: If a learned component has no simulation, a simulation no component, a nuisance no samples or another
            range, a sample too few events or those of the training.
    """
    given: Any = simulations  # whatever it is, until it is checked
    if not isinstance(given, Mapping) or not all(isinstance(one, Simulation) for one in given.values()):
        raise TypeError(
            'simulations= maps the names of the processes to their Simulation, e.g. {"signal": Simulation(nominal, '
            f"variations)}}; got {simulations!r}"
        )
    named = [(i, j, pdf) for i, model in enumerate(nll.model) for j, pdf in enumerate(sum_components(model))]
    _check_names(named, simulations)
    known = {parameter.name: parameter for parameter in nll.get_params(floating=None)}
    return [_process(nll, i, j, pdf, simulations.get(pdf.name), known) for i, j, pdf in named]


def _check_names(named: Sequence[tuple[int, int, zfit.pdf.BasePDF]], simulations: Mapping[str, Simulation]) -> None:
    names = [pdf.name for _, _, pdf in named]
    learned = [pdf.name for _, _, pdf in named if any(isinstance(part, LogSpacePDF) for part in components(pdf))]
    if repeated := sorted({name for name in learned if names.count(name) > 1}):
        raise ValueError(f"several components are called {repeated}: give each PDF another name=")
    if missing := [name for name in learned if name not in simulations]:
        raise ValueError(f"simulations= lacks the learned processes {missing}; it has {list(simulations)}")
    if unknown := [name for name in simulations if name not in names]:
        raise ValueError(f"simulations= names {unknown}, but the processes of the likelihood are {names}")


def _process(
    nll: LogSpaceNLL,
    channel: int,
    index: int,
    pdf: zfit.pdf.BasePDF,
    simulation: Simulation | None,
    known: Mapping[str, Any],
) -> Process:
    deformed = [part for part in components(pdf) if isinstance(part, FNFPDF)]
    bound = {name: parameter for part in deformed for name, parameter in part.params.items()}
    if simulation is None:
        return Process(pdf.name, channel, index, pdf, (), (), Interpolation((), np.zeros((1, 0)), {}))
    variations = list(simulation.variations)
    names = tuple(dict.fromkeys(name for variation in variations for name in variation.at))
    if missing := [name for name in bound if name not in names]:
        raise ValueError(f"the simulation of {pdf.name!r} lacks samples of the nuisances {missing}")
    if unknown := [name for name in names if name not in bound and name not in known]:
        raise ValueError(
            f"the simulation of {pdf.name!r} has samples of {unknown}, which is no nuisance of the likelihood"
        )
    params = tuple(bound.get(name, known.get(name)) for name in names)
    if fixed := [name for name, one in zip(names, params, strict=True) if not isinstance(one, zfit.Parameter)]:
        raise TypeError(f"the nuisances {fixed} of {pdf.name!r} have to be parameters of their own to be calibrated")
    _check_windows(pdf.name, variations, deformed)
    points = np.array([[variation.at.get(name, 0.0) for name in names] for variation in variations])
    interpolation = Interpolation(
        names, np.concatenate([np.zeros((1, len(names))), points.reshape(-1, len(names))]), _orders(deformed)
    )
    samples = simulation.samples(nll.model[channel].obs, process=pdf.name)
    given = list(zip(["nominal", *(str(variation.name) for variation in variations)], samples, strict=True))
    return Process(pdf.name, channel, index, pdf, params, tuple(_points(nll.model[channel], pdf, given)), interpolation)


def _check_windows(name: str, variations: Sequence[Any], deformed: Sequence[FNFPDF]) -> None:
    for part in deformed:
        for nuisance, (low, high) in part.deformation.windows.items():
            if outside := [v.name for v in variations if not low <= v.at.get(nuisance, 0.0) <= high]:
                raise ValueError(
                    f"the simulation of {name!r} has samples at {outside}, outside of the range ({low:g}, {high:g}) of "
                    f"{nuisance!r} in which its deformation was trained"
                )


def _orders(deformed: Sequence[FNFPDF]) -> dict[str, int]:
    """Highest power of each nuisance in the deformations of a process."""
    orders: dict[str, int] = {}
    for response in (one for part in deformed for one in getattr(part.deformation, "responses", ())):
        for powers in response.powers:
            for name, power in zip(response.nuisances, powers, strict=True):
                orders[name] = max(orders.get(name, 1), power)
    return orders


def _points(
    model: zfit.pdf.BasePDF, pdf: zfit.pdf.BasePDF, given: Sequence[tuple[str, Sample]]
) -> Iterator[SimulatedPoint]:
    first: np.ndarray | None = None
    for name, sample in given:
        check_trainable(sample)
        if sample.effective_size < _FEWEST:
            raise ValueError(
                f"the sample {name!r} of {pdf.name!r} is worth {sample.effective_size:.0f} events; a calibration needs "
                f"{_FEWEST} at least"
            )
        check_inside(sample, space_ranges(model.norm))
        _check_not_trained_with(sample, pdf, name)
        x = sample.array(model.obs)
        shares = np.ones(len(x)) if sample.weights is None else np.asarray(sample.weights, float)
        paired = first is not None and _are_paired(first, x)
        first = x if first is None else first
        yield SimulatedPoint(name, x, shares / shares.sum(), sample.effective_size, paired)


def _are_paired(first: np.ndarray, x: np.ndarray) -> bool:
    """Whether the rows of two samples are of the same generated events: those of independent ones do not correlate."""
    if first.shape != x.shape:
        return False
    a, b = first - first.mean(axis=0), x - x.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    correlation = np.divide((a * b).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0)
    return bool(np.abs(correlation).max() > _PAIRED / np.sqrt(len(x)))


def _check_not_trained_with(sample: Any, pdf: zfit.pdf.BasePDF, name: str) -> None:
    for part in components(pdf):
        flow: Any = getattr(part, "_flow", None)
        mark = getattr(getattr(flow, "history", None), "fingerprint", None)
        if mark and same_events(mark, fingerprint(sample, flow.obs + flow.cond), sample.effective_size):
            raise ValueError(
                f"the sample {name!r} of {pdf.name!r} has the events that its density was trained with, which say nothing "
                "about how wrong it is: hold some out"
            )

"""Which simulation describes which component of a likelihood, checked at the door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np

from ..loss import LogSpaceNLL
from ..pdf import (
    FNFPDF,
    LogSpacePDF,
    components,
    deformations,
    folds_of,
    simulated_parameters,
    space_ranges,
    sum_components,
)
from ..samples import Sample, Simulation, check_inside, check_trainable
from ..samples.pairing import are_paired, fingerprint, same_events, shared_rows
from .interpolation import Interpolation

__all__ = ["Process", "SimulatedPoint", "check_unseen", "processes_of"]

_FEWEST = 100  # events of a simulated sample
_ALIKE = 0.02  # differences of means of pseudo-random numbers, over the root of the number of events: 0.3 by chance
_SHARED = 0.01  # of the events of a sample, from which on they are those of the training


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

    def thinned(self, step: int) -> SimulatedPoint:
        """The same of every so many-th event."""
        shares = self.shares[::step] / self.shares[::step].sum()
        return replace(self, x=self.x[::step], shares=shares, effective_size=1.0 / float(np.square(shares).sum()))


@dataclass(frozen=True, eq=False)
class Process:
    """A component of the model of one channel, and its simulation.

    Attributes:
        name: Name of the PDF.
        channel: Index of the channel.
        fold: Which of the models of the channel it is in, where these were learned from parts of the simulation.
        index: Which of the components of that model it is.
        pdf: The component.
        params: The parameter of each nuisance that was simulated, in the order of ``interpolation.nuisances``.
        points: The simulated samples, the nominal one first; empty for a density that was not learned.
        interpolation: Between these points.
    """

    name: str
    channel: int
    fold: int
    index: int
    pdf: zfit.pdf.BasePDF
    params: tuple[zfit.Parameter, ...]
    points: tuple[SimulatedPoint, ...]
    interpolation: Interpolation


def processes_of(nll: LogSpaceNLL, simulations: Mapping[str, Any], *, unseen: bool = True) -> list[Process]:
    """The components of all channels with their simulation.

    Args:
        nll: The likelihood.
        simulations: By name of the component a `Simulation`, or one for each fold.
        unseen: Whether to refuse events that have trained the densities.

    Raises:
        TypeError: If the simulations are not such a mapping, or a condition of a density is a
            parameter that is fitted.
        ValueError: If a learned component has no simulation, a simulation no component, a nuisance no samples or another
            range, a sample too few events or those of the training.
    """
    given: Any = simulations  # whatever it is, until it is checked
    if not isinstance(given, Mapping) or not all(_unseen(one) for one in given.values()):
        raise TypeError(
            'simulations= maps the names of the processes to their Simulation, e.g. {"signal": Simulation(nominal, '
            "variations)}, or of a FoldedPDF to one for each fold, such as fit_process(..., folds=2) gives; got "
            f"{simulations!r:.300}"
        )
    named = [
        (i, k, j, pdf)
        for i, model in enumerate(nll.model)
        for k, fold in enumerate(folds_of(model))
        for j, pdf in enumerate(sum_components(fold))
    ]
    _check_names([pdf for _, k, _, pdf in named if k == 0], simulations)
    if unseen:
        _check_order(named, given)
    return [
        _process(
            nll,
            (i, k, j),
            pdf,
            _of_fold(given.get(pdf.name), pdf.name, k, len(folds_of(nll.model[i]))),
            unseen=unseen,
        )
        for i, k, j, pdf in named
    ]


def _unseen(given: Any) -> list[Simulation]:
    """The simulation that each fold has not seen; none, if that is something else."""
    if isinstance(given, Simulation):
        return [given]
    parts = [part for _, part in given.folds] if getattr(given, "folds", ()) else given
    is_list = isinstance(parts, Sequence) and all(isinstance(part, Simulation) for part in parts)
    return list(parts) if is_list else []


def _of_fold(given: Any, name: str, fold: int, n_folds: int) -> Simulation | None:
    if given is None:
        return None
    parts = _unseen(given)
    if len(parts) != n_folds:
        raise ValueError(
            f"the model that has {name!r} is one of {n_folds} fold(s), and its simulation is in {len(parts)} part(s): give one "
            "Simulation for each model of the FoldedPDF, which that model has not seen"
        )
    return parts[fold]


def _check_names(named: Sequence[zfit.pdf.BasePDF], simulations: Mapping[str, Any]) -> None:
    names = [pdf.name for pdf in named]
    learned = [pdf.name for pdf in named if any(isinstance(part, LogSpacePDF) for part in components(pdf))]
    if repeated := sorted({name for name in learned if names.count(name) > 1}):
        raise ValueError(f"several components are called {repeated}: give each PDF another name=")
    if missing := [name for name in learned if name not in simulations]:
        raise ValueError(f"simulations= lacks the learned processes {missing}; it has {list(simulations)}")
    if unknown := [name for name in simulations if name not in names]:
        raise ValueError(f"simulations= names {unknown}, but the processes of the likelihood are {names}")


def _process(
    nll: LogSpaceNLL,
    place: tuple[int, int, int],
    pdf: zfit.pdf.BasePDF,
    simulation: Simulation | None,
    *,
    unseen: bool,
) -> Process:
    deformed = deformations(pdf)
    bound = _bound(pdf.name, deformed)
    if simulation is None:
        return Process(pdf.name, *place, pdf, (), (), Interpolation((), np.zeros((1, 0)), {}))
    given = _given(pdf)
    variations = list(simulation.variations)
    names = tuple(dict.fromkeys(name for variation in variations for name in variation.at))
    if missing := [name for name in bound if name not in names]:
        raise ValueError(f"the simulation of {pdf.name!r} lacks samples of the nuisances {missing}")
    models = [nll.model[place[0]], *nll.model]
    moving = simulated_parameters(names, pdf, models, nll.get_params(floating=None))
    if unknown := [name for name in names if name not in moving]:
        raise ValueError(
            f"the simulation of {pdf.name!r} has samples of {unknown}, which is no nuisance of the likelihood"
        )
    params = tuple(moving[name] for name in names)
    if fixed := [name for name, one in zip(names, params, strict=True) if not isinstance(one, zfit.Parameter)]:
        raise TypeError(f"the nuisances {fixed} of {pdf.name!r} have to be parameters of their own to be calibrated")
    _check_windows(pdf.name, variations, deformed)
    points = np.array([[variation.at.get(name, 0.0) for name in names] for variation in variations])
    interpolation = Interpolation(
        names,
        np.concatenate([np.zeros((1, len(names))), points.reshape(len(variations), len(names))]),
        _orders(deformed),
    )
    samples = simulation.samples([*nll.model[place[0]].obs, *given], process=pdf.name)
    named = list(zip(["nominal", *(str(variation.name) for variation in variations)], samples, strict=True))
    for label, sample in named:
        _check_given(pdf.name, label, sample, given)
    return Process(
        pdf.name, *place, pdf, params, tuple(_points(nll.model[place[0]], pdf, named, unseen=unseen)), interpolation
    )


def _bound(process: str, deformed: Sequence[FNFPDF]) -> dict[str, Any]:
    """The parameter of each nuisance of a process, the same one in all its factors: a sample moves them together."""
    bound: dict[str, Any] = {}
    for name, parameter in ((name, one) for part in deformed for name, one in part.params.items()):
        if (first := bound.setdefault(name, parameter)) is not parameter:
            raise ValueError(
                f"the nuisance {name!r} is the parameter {first.name!r} in one factor of {process!r} and {parameter.name!r} in "
                "another one, but samples move both: give both factors one parameter, or the nuisance another name in one"
            )
    return bound


def _given(pdf: zfit.pdf.BasePDF) -> dict[str, float]:
    """Values of the conditions that are the same for all events, at which events have to be simulated.

    Raises:
        TypeError: If one of them is fitted.
    """
    found: dict[str, float] = {}
    for name, given in ((name, one) for part in components(pdf) for name, one in getattr(part, "given", {}).items()):
        if getattr(given, "floating", False):
            raise TypeError(
                f"the condition {name!r} of {pdf.name!r} is the parameter {given.name!r}, which is fitted, and how wrong the "
                f"density is as it moves is not measured: zfit_fnf.diagnostics.validate tests it; or fix {given.name!r} where "
                "there is simulation, and scan it"
            )
        found[name] = float(given.value() if hasattr(given, "value") else given)
    return found


def _check_given(process: str, label: str, sample: Sample, given: Mapping[str, float]) -> None:
    for name, value in given.items():
        found = sample.columns[name]
        if not np.allclose(found, value, rtol=1e-6):
            raise ValueError(
                f"{process!r} is given {name!r} = {value:g}, and its sample {label!r} was simulated from {found.min():g} to "
                f"{found.max():g}: a calibration needs events that were simulated at {value:g}"
            )


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
    model: zfit.pdf.BasePDF, pdf: zfit.pdf.BasePDF, named: Sequence[tuple[str, Sample]], *, unseen: bool
) -> Iterator[SimulatedPoint]:
    first: np.ndarray | None = None
    for name, sample in named:
        check_trainable(sample)
        if sample.effective_size < _FEWEST:
            raise ValueError(
                f"the sample {name!r} of {pdf.name!r} is worth {sample.effective_size:.0f} events; a calibration needs "
                f"{_FEWEST} at least"
            )
        check_inside(sample, space_ranges(model.norm))
        for part in components(pdf) if unseen else ():
            check_unseen(sample, getattr(part, "_flow", None), f"the sample {name!r} of {pdf.name!r}")
        x = sample.array(model.obs)
        shares = np.ones(len(x)) if sample.weights is None else np.asarray(sample.weights, float)
        paired = first is not None and are_paired(first, x)
        first = x if first is None else first
        yield SimulatedPoint(name, x, shares / shares.sum(), sample.effective_size, paired)


def _check_order(named: Sequence[tuple[int, int, int, zfit.pdf.BasePDF]], given: Mapping[str, Any]) -> None:
    """Refuse folds in another order: models that have been trained on all parts of the simulation but the one of another fold.

    From a file, a density has the mark of its training events alone, which is the mean of those of the parts.
    """
    for _, k, _, pdf in named:
        parts = _unseen(given[pdf.name]) if pdf.name in given else []
        for flow in (one for part in components(pdf) if (one := getattr(part, "_flow", None)) is not None):
            mark, columns = getattr(getattr(flow, "history", None), "fingerprint", None), [*flow.obs, *flow.cond]
            if len(parts) < 3 or not mark:
                continue
            samples = [part.sample(columns, process=pdf.name) for part in parts]
            sizes, marks = [one.n_events for one in samples], [fingerprint(one, columns) for one in samples]
            for j in (other for other in range(len(parts)) if other != k):
                share = np.delete(sizes, j) / np.delete(sizes, j).sum()  # by numbers: weights are known roughly
                if np.abs(share @ np.delete(marks, j, axis=0) - mark).max() < _ALIKE / np.sqrt(sum(sizes)):
                    raise ValueError(
                        f"model {k} of the FoldedPDF has {pdf.name!r} of the training that left out part {j} of the simulation: "
                        "give the models in the order of the parts"
                    )


def check_unseen(sample: Sample, flow: Any, what: str) -> None:
    """Refuse events that have trained a density, as far as it remembers them.

    Args:
        sample: The events.
        flow: The density, or what has none.
        what: What a message calls the sample and its density.

    Raises:
        ValueError: If more than one in a hundred of them have.
    """
    mark = getattr(getattr(flow, "history", None), "fingerprint", None)
    columns = [] if flow is None else [*flow.obs, *flow.cond]
    if mark and same_events(mark, fingerprint(sample, columns), sample.effective_size):
        shared = sample.n_events
    elif getattr(flow, "events", None) is not None:  # trained in this session: some of the events may be the same
        trained, held_out = flow.events
        seen = np.delete(np.arange(trained.n_events), held_out)
        shared = shared_rows(sample, trained, columns, seen)
    else:
        return
    if shared > _SHARED * sample.n_events:
        raise ValueError(
            f"{shared} of the {sample.n_events} events of {what} have trained its density (same rows), and say nothing about "
            "how wrong it is: hold some out, Simulation.split"
        )

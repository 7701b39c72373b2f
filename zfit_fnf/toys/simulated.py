"""Toys whose events are simulated ones, of whatever the densities do not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np

from ..loss import Channel, channels_of, drawn_events
from ..pdf import deformations, expected_events, simulated_parameters, space_ranges, sum_components, sum_shares
from ..samples import Simulation, check_inside, check_trainable
from ..state import current_values, preserved, seeds_from
from .experiments import PseudoExperiment, Values, checked_number, checked_seed, drawn_outcomes, set_truth

__all__ = ["drawing", "simulated_toys"]


def simulated_toys(
    nll: zfit.loss.UnbinnedNLL,
    n_toys: int,
    simulations: Mapping[str, Simulation],
    *,
    params: Values | None = None,
    seed: int = 0,
) -> Iterator[PseudoExperiment]:
    """Toys whose events are drawn, with replacement, from simulation at the nuisances of the truth.

    Each process has as many events as the likelihood expects of it at ``params``, and those of the sample that was simulated
    there: the nominal one, or the variation whose point it is. Processes without simulation draw from their density. To be
    independent, toys need samples that are much larger than they are.

    Global observables fluctuate, but for those of the finite simulation of a calibrated likelihood: what its simulation is off
    by is in these events already. It is the same for all toys, so that intervals cover on average over such likelihoods,
    each with a simulation of its own.

    Args:
        nll: The likelihood.
        n_toys: How many toys.
        simulations: By name of the process, see `zfit_fnf.calibrate`.
        params: The truth; parameters that are left out have their current values.
        seed: Seed of all toys.

    Raises:
        TypeError: If ``simulations`` is no such mapping.
        ValueError: If a name is that of no process, or a process was not simulated at the truth.

    Example:
        >>> experiment = next(simulated_toys(nll, 1, {"signal": signal}, params={jes: 1.0}))
    """
    n_toys, draw = checked_number(n_toys, "n_toys"), drawing(nll, simulations, params=params, seed=seed)
    return (draw(index) for index in range(n_toys))


def drawing(
    nll: zfit.loss.UnbinnedNLL, simulations: Mapping[str, Simulation], *, params: Values | None, seed: int
) -> Callable[[int], PseudoExperiment]:
    """What draws a toy of simulation by its number, see `simulated_toys`."""
    given: Any = simulations  # whatever it is, until it is checked
    checked_seed(seed, single=True)
    if not isinstance(given, Mapping) or not all(isinstance(one, Simulation) for one in given.values()):
        raise TypeError(
            f'simulations= maps names of processes to their Simulation, {{"signal": ...}}; got {given!r:.200}'
        )
    channels = channels_of(nll)
    names = [pdf.name for channel in channels for pdf in sum_components(channel.model)]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"simulations= names {unknown}, but the processes of the likelihood are {names}")
    with preserved(nll):
        set_truth(nll, params)
        truth = current_values(nll.get_params())
        pools = [_pools(nll, channel, given) for channel in channels]
    return lambda index: _toy(nll, channels, pools, truth, (seed, index))


@dataclass(frozen=True, eq=False)
class _Pool:
    """Simulated events of a process, in the order of the model's observables, with their probabilities."""

    x: np.ndarray
    shares: np.ndarray


def _pools(nll: zfit.loss.UnbinnedNLL, channel: Channel, simulations: Mapping[str, Simulation]) -> list[_Pool | None]:
    return [_pool(nll, channel.model, pdf, simulations.get(pdf.name)) for pdf in sum_components(channel.model)]


def _pool(
    nll: zfit.loss.UnbinnedNLL, model: zfit.pdf.BasePDF, pdf: zfit.pdf.BasePDF, simulation: Simulation | None
) -> _Pool | None:
    if simulation is None:
        return None
    names = {*simulation.nuisances, *(name for part in deformations(pdf) for name in part.deformation.nuisances)}
    moving = simulated_parameters(sorted(names), pdf, [model, *nll.model], nll.get_params(floating=None))
    at = {name: float(moving[name].value()) if name in moving else 0.0 for name in names}
    # Two samples may have one name.
    points: list[tuple[str, Any]] = [("nominal", {}), *((str(one.name), one.at) for one in simulation.variations)]
    for (name, point), sample in zip(points, simulation.samples(model.obs, process=pdf.name), strict=True):
        if all(np.isclose(value, point.get(nuisance, 0.0), atol=1e-9) for nuisance, value in at.items()):
            check_trainable(sample)
            check_inside(sample, space_ranges(model.norm))
            shares = np.ones(sample.n_events) if sample.weights is None else np.asarray(sample.weights, float)
            if (shares < 0).any():
                raise ValueError(
                    f"the sample {name!r} of {pdf.name!r} has negative weights: toys cannot be drawn from it"
                )
            return _Pool(sample.array(model.obs), shares / shares.sum())
    where = ", ".join(f"{name} = {value:g}" for name, value in sorted(at.items()))
    raise ValueError(
        f"{pdf.name!r} was not simulated at {where}, only at {[name for name, _ in points]}: give params= one of these "
        "points, or a Variation at this one"
    )


def _toy(
    nll: zfit.loss.UnbinnedNLL,
    channels: list[Channel],
    pools: list[list[_Pool | None]],
    truth: dict[zfit.Parameter, float],
    seed: tuple[int, int],
) -> PseudoExperiment:
    rng = np.random.default_rng(seed)
    seeds = seeds_from(int(rng.integers(2**31)))
    with preserved(nll):
        zfit.param.set_values(truth, clip=True)
        data = tuple(_events(channel, pool, rng, seeds) for channel, pool in zip(channels, pools, strict=True))
        observed = drawn_outcomes(nll, rng)
    finite = [one.observed for one in getattr(nll, "simulation_nuisances", ())]
    return PseudoExperiment(data, {**observed, **current_values(finite)}, dict(truth))


def _events(
    channel: Channel, pools: list[_Pool | None], rng: np.random.Generator, seeds: Iterator[np.ndarray]
) -> zfit.Data:
    model = channel.model
    if isinstance(model, zfit.pdf.BaseBinnedPDF):
        return channel.draw(rng, seeds)
    total = expected_events(model) if channel.extended else channel.n_expected()
    expected = total * sum_shares(model)
    numbers: Any = (
        rng.poisson(expected) if channel.extended else rng.multinomial(round(total), expected / expected.sum())
    )
    parts = [
        drawn_events(model, pdf, int(n), next(seeds))
        if pool is None
        else pool.x[rng.choice(len(pool.x), int(n), p=pool.shares)]
        for pdf, pool, n in zip(sum_components(model), pools, numbers, strict=True)
    ]
    return zfit.Data.from_numpy(
        obs=model.norm, array=np.concatenate(parts), name="simulated_data", guarantee_limits=True
    )

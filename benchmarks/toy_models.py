"""The learned model of the yardstick toy, as the benchmarks train and fit it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import zfit  # before tensorflow, which it silences
import numpy as np

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Nuisance, Schedule, Variation
from zfit_fnf.datasets import ShiftSqueeze

NUISANCES = ("shift", "squeeze")
POINTS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
SECTORS = {"x": (("x1", "x2"), ()), "y|x": (("y1", "y2"), ("x1", "x2"))}

GEOMETRIES = {
    "default": ShiftSqueeze(),
    "other": ShiftSqueeze(
        center_a=(-0.3, 0.2),
        center_b=(0.6, -0.1),
        sigma_a=(0.8, 0.7),
        sigma_b=(0.7, 0.5),
        shift_x=0.25,
        squeeze_x=0.25,
        shift_y=0.35,
        frequency=1.2,
        rho=0.6,
    ),
}
"""The paper's toy, and another one that nothing was tuned on."""


@dataclass
class Learned:
    """Deformations by process and sector, and what training them cost."""

    deformations: dict[tuple[str, str], Deformation] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


def named(point: tuple[float, float]) -> dict[str, float]:
    """A point of the nuisances by name, without those at zero."""
    return {name: float(value) for name, value in zip(NUISANCES, point, strict=True) if value}


def train(
    toy: ShiftSqueeze,
    *,
    n_simulated: int,
    seed: int,
    flow: Schedule | None = None,
    deformation: Schedule | None = None,
    progress: bool = False,
    **settings: bool | str,
) -> Learned:
    """Train four densities and their deformations, with fresh simulated events for every seed.

    ``settings`` are further ones of ``fit_deformation``: ``map`` and ``ratio``.
    """
    learned = Learned()
    for process in toy.processes:
        offset = 1000 * seed + 100 * toy.processes.index(process)
        nominal = toy.simulate(process, n_simulated, seed=offset)
        variations = [
            Variation(toy.simulate(process, n_simulated, named(point), seed=offset + i), at=named(point))
            for i, point in enumerate(POINTS, start=1)
        ]
        started = time.process_time(), time.monotonic()
        for sector, (obs, cond) in SECTORS.items():
            density = zfnf.train.fit_flow(nominal, obs=obs, cond=cond, schedule=flow, seed=seed, progress=progress)
            learned.deformations[process, sector] = zfnf.train.fit_deformation(
                density, variations, schedule=deformation, seed=seed, progress=progress, **settings
            )
        learned.cpu_seconds += time.process_time() - started[0]
        learned.wall_seconds += time.monotonic() - started[1]
    return learned


def mixture(learned: Learned) -> tuple[zfit.pdf.BasePDF, list[Nuisance]]:
    """The 50/50 mixture of both processes, p(x) p(y | x) each, with shared nuisances."""
    nuisances = [zfnf.nuisance(name) for name in NUISANCES]
    params = dict(zip(NUISANCES, nuisances, strict=True))
    processes = [
        zfnf.pdf.ConditionalProductPDF(
            [zfnf.pdf.FNFPDF(learned.deformations[process, sector], params=params) for sector in ("y|x", "x")],
            name=process,
        )
        for process in ("A", "B")
    ]
    return zfnf.pdf.SumPDF(processes, fracs=[0.5]), nuisances


def fit(nll: zfit.loss.UnbinnedNLL, nuisances: list[Nuisance]) -> zfit.result.FitResult:
    """MIGRAD from nominal."""
    for nuisance in nuisances:
        nuisance.set_value(0.0)
    return zfnf.Minuit().minimize(nll)


def in_order(by_name: dict[str, float]) -> np.ndarray:
    """Values in the order of the nuisances."""
    return np.array([by_name[name] for name in NUISANCES])

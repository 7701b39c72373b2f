"""Shortest maps of two observables given two conditions: how far they are from the exact one, and how often bands cover it.

    python benchmarks/doi_shortest.py --processes 1 2 --events 20000 --toys 8

Densities are exact. Data of one process determine its shortest map; of two processes with maps of their own they determine the
density of both together, and what one gains the other can lose. Distances are in widths of the observables.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from exact_models import ExactPDF

import zfit_fnf as zfnf
from zfit_fnf.doi import MapVariations, bootstrap, fit_transfer, optimal_transport, profile, scenarios

TOY = zfnf.datasets.ShiftSqueeze()
X, Y = list(TOY.x), list(TOY.y)


def distorted(events: pd.DataFrame, process: str) -> pd.DataFrame:
    """Simulated events of a process where data have them."""
    moved = TOY.distort(events[Y].to_numpy(), events[X].to_numpy(), process)
    return events.assign(**dict(zip(Y, moved.T, strict=True)))


def study(n_processes: int, n_events: int, n_toys: int, n_replicas: int, n_simulated: int, seed: int) -> dict[str, Any]:
    """Distances of shortest maps, their bands and coverage, of all toys and processes."""
    nuisances = {name: zfnf.nuisance(f"{name}_{n_processes}") for name in TOY.nuisances}
    processes = TOY.processes[:n_processes]
    parts = [ExactPDF(TOY, process, nuisances) for process in processes]
    model = zfnf.pdf.SumPDF(parts, fracs=[0.5]) if n_processes > 1 else parts[0]
    off, bands, single, start = [], [], [], time.process_time()
    for toy in range(n_toys):
        counts = np.random.default_rng([seed, toy]).multinomial(n_events, [1 / n_processes] * n_processes)
        data = pd.concat(
            [
                distorted(TOY.simulate(process, n, seed=1000 * seed + 10 * toy + number), process)
                for number, (process, n) in enumerate(zip(processes, counts, strict=True))
            ]
        ).reset_index(drop=True)
        zfit.param.set_values(list(nuisances.values()), [0.0] * len(nuisances))
        fit = fit_transfer(model, data, obs=Y, cond=X, seed=toy, progress=False)
        maps = scenarios(bootstrap(profile(fit, n_checks=0, seed=toy), n_replicas, seed=toy))
        for process in processes:
            own = process if n_processes > 1 else None
            found = compared(maps, process, own, n_simulated, seed=1000 * seed + 10 * toy)
            for total, one in zip((off, bands, single), found, strict=True):
                total.append(one)
    covered = np.mean(np.abs(off) < np.array(bands), axis=(1, 2))

    def rms(values: Any) -> float:
        return float(np.sqrt(np.mean(np.square(values))))

    return {
        "processes": n_processes,
        "events": n_events,
        "toys": n_toys,
        "seed": seed,
        "distance": rms(off),
        "band": rms(bands),
        "covered": float(covered.mean()),
        "covered_error": float(covered.std() / np.sqrt(n_toys)),
        "distance_of_the_inverse": rms(single),
        "cpu_s_per_toy": (time.process_time() - start) / n_toys,
    }


def compared(
    maps: MapVariations, process: str, own: str | None, n_simulated: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of fresh events: how far the shortest map is from the exact one, its band, and how far the map from the inverse is."""
    simulated, test = (TOY.simulate(process, n, seed=seed + k) for n, k in ((n_simulated, 5), (2000, 6)))
    width, data = test[Y].to_numpy().std(axis=0), distorted(test, process)

    def moved(one: Any, known: pd.DataFrame | None = None) -> np.ndarray:
        return optimal_transport(one, simulated, process=own, data=known).to_simulation(data)[Y].to_numpy() / width

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the optimal transport is not the best one", category=UserWarning)
        exact, band = moved(maps.best, distorted(simulated, process)), maps.evaluate(moved)
    inverse = maps.best.to_simulation(data, process=own)[Y].to_numpy() / width - test[Y].to_numpy() / width
    return band.value - exact, band.total, inverse


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", choices=(1, 2), default=[1, 2])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--toys", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=12)
    parser.add_argument("--simulated", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    own = parser.parse_args()
    found = [study(n, own.events, own.toys, own.replicas, own.simulated, own.seed) for n in own.processes]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

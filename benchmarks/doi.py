"""Distributions of Interest on distorted data, against what is known exactly: the parameters, their errors, and the map.

    python benchmarks/doi.py --seed 1 --models models --replicas 8 --json doi.json

Data are the yardstick toy at shift = 0.5 and squeeze = -0.5. Step 1 is compared with the exact likelihood of all observables
for which the distortion is known, and the profile likelihood with the exact one of ``x`` alone, which no map changes. What
is known is printed stage by stage, the report at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from toy_models import GEOMETRIES, NUISANCES, SECTORS, Learned, in_order, mixture, train

import zfit_fnf as zfnf
from zfit_fnf.datasets import ShiftSqueeze
from zfit_fnf.diagnostics import two_sample_auc
from zfit_fnf.doi import (
    MapVariations,
    ProfiledFit,
    TransferFit,
    bootstrap,
    ensemble,
    fit_transfer,
    profile,
    scenarios,
)
from zfit_fnf.minimize import Minuit

TRUTH = {"shift": 0.5, "squeeze": -0.5}
DISTORTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "other": {"rotation": -0.5, "shear": 0.06, "radius": (0.9, 0.6), "steepness": 1.0},
    "none": {"rotation": 0.0, "shear": 0.0},
}
"""The paper's distortion, one that nothing was tuned on, and none at all."""

X, Y = list(ShiftSqueeze.x), list(ShiftSqueeze.y)
N_POINTS = 10_000  # of each process, at which the map is compared with the exact one
N_CLASSIFIED = 50_000  # events of each sample


class Stages:
    """What every stage costs and finds."""

    def __init__(self) -> None:
        self.cpu_seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a stage."""
        started = time.process_time()
        result = function()
        self.cpu_seconds[name] = round(time.process_time() - started, 1)
        return result

    def say(self, **found: Any) -> dict[str, Any]:
        """Print what is known by now."""
        print(json.dumps({**found, "cpu_seconds": self.cpu_seconds}), flush=True)
        return found


def read_or_train(folder: Path, toy: ShiftSqueeze, n_simulated: int, seed: int) -> Learned:
    """The densities in a folder; they are trained and left there if there are none."""
    files = {
        (process, sector): folder / f"{process}_{sector.replace('|', '_')}.fnf"
        for process in toy.processes
        for sector in SECTORS
    }
    if all(file.exists() for file in files.values()):
        return Learned({key: zfnf.load(file) for key, file in files.items()})
    learned = train(toy, n_simulated=n_simulated, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    for key, file in files.items():
        zfnf.save(learned.deformations[key], file)
    return learned


def step_1(fit: TransferFit, toy: ShiftSqueeze, data: pd.DataFrame) -> dict[str, Any]:
    """The global fit, against the exact ones with the distortion known, and of ``x`` alone.

    A free map leaves nothing of what ``y`` says about the parameters, so that these two scatter around each other by
    ``sqrt(9.4^2 - 6.1^2) / 6.1 = 1.2`` standard errors of the former, whatever the map.
    """
    exact, of_x = toy.fit(data, distorted=True), toy.fit(data, of="x")
    values, errors = in_order(fit.values), in_order(fit.errors)
    of_x_values, of_x_errors = in_order(of_x.values), in_order(of_x.errors)
    return {
        "valid": fit.valid,
        "problems": fit.problems,
        "rounds": fit.rounds,
        "fitted": values.tolist(),
        "difference_to_known_in_sigma": ((values - in_order(exact.values)) / in_order(exact.errors)).tolist(),
        "difference_of_x_only_to_known_in_sigma": (
            (of_x_values - in_order(exact.values)) / in_order(exact.errors)
        ).tolist(),
        "difference_to_x_only_in_sigma": ((values - of_x_values) / of_x_errors).tolist(),
        "frozen_error_ratio": (errors / in_order(exact.errors)).tolist(),
    }


def step_2(profiled: ProfiledFit, result: zfit.result.FitResult, toy: ShiftSqueeze, data: pd.DataFrame) -> dict:
    """The profile likelihood, against the exact one of ``x``."""
    exact = toy.fit(data, of="x")
    fitted = {parameter.name: found for parameter, found in result.params.items()}
    values = np.array([fitted[name]["value"] for name in NUISANCES])
    errors = np.array([fitted[name]["hesse"]["error"] for name in NUISANCES])
    return {
        "valid": profiled.valid,
        "problems": profiled.problems,
        "window": profiled.window,
        "checks": [asdict(check) for check in profiled.checks],
        "fitted": values.tolist(),
        "errors": errors.tolist(),
        "difference_to_x_only_in_sigma": ((values - in_order(exact.values)) / in_order(exact.errors)).tolist(),
        "error_ratio": (errors / in_order(exact.errors)).tolist(),
    }


def the_map(maps: MapVariations, toy: ShiftSqueeze, seed: int) -> dict[str, dict[str, Any]]:
    """Distance of the map to the exact one in local widths of ``y``, and how often its bands cover that, by process."""
    found = {}
    for process in toy.processes:
        simulation = toy.simulate(process, N_POINTS, TRUTH, seed=900_000 + seed)
        y, x = simulation[Y].to_numpy(), simulation[X].to_numpy()
        distorted = toy.distort(y, x, process)
        data = simulation.assign(**dict(zip(Y, distorted.T, strict=True)))
        moved = evaluate(maps, data, process)
        width = np.sqrt(np.diagonal(toy.moments(x, process, TRUTH)[1], axis1=1, axis2=2))
        distance, shortest = moved.value - y, optimal_transport(toy, distorted, x, process)
        bands = {"statistical": moved.statistical, "systematic": moved.systematic, "total": moved.total}
        found[process] = {
            "rms_distance": rms(distance / width),
            "rms_distance_without_map": rms((distorted - y) / width),
            "rms_distance_of_optimal_transport": rms((shortest - y) / width),
            "rms_distance_to_optimal_transport": rms((moved.value - shortest) / width),
            "rms_band": {name: rms(band / width) for name, band in bands.items()},
            "covered": float(np.mean(np.abs(distance) < moved.total)),
        }
    return found


def evaluate(maps: MapVariations, data: pd.DataFrame, process: str) -> zfnf.doi.Uncertainty:
    """Where data are in simulation, with its uncertainties."""
    return maps.evaluate(lambda variation: variation.to_simulation(data, process=process)[Y].to_numpy())


def optimal_transport(toy: ShiftSqueeze, data: np.ndarray, x: np.ndarray, process: str) -> np.ndarray:
    """Where the shortest map takes data ``(n, 2)`` that makes them what simulation is at the truth.

    Given ``x``, both are Gaussian. This map is as likely as the exact one, event by event: only what is common to
    both can be measured.
    """
    mean, covariance = toy.moments(x, process, TRUTH)
    distortion = np.stack([toy.distort(np.tile(axis, (len(x), 1)), x, process) for axis in np.eye(2)], axis=2)
    distorted = distortion @ covariance @ distortion.transpose(0, 2, 1)
    root = square_root(distorted)
    inverse = np.linalg.inv(root)
    stretch = inverse @ square_root(root @ covariance @ root) @ inverse
    centred = data - np.einsum("nij,nj->ni", distortion, mean)
    return mean + np.einsum("nij,nj->ni", stretch, centred)


def square_root(matrices: np.ndarray) -> np.ndarray:
    """Of positive matrices ``(n, d, d)``."""
    lengths, directions = np.linalg.eigh(matrices)
    return (directions * np.sqrt(lengths)[:, None]) @ directions.transpose(0, 2, 1)


def rms(values: np.ndarray) -> float | None:
    """Root mean square; none if a band has no replicas."""
    result = float(np.sqrt(np.mean(np.square(values))))
    return result if np.isfinite(result) else None


def auc(maps: MapVariations, toy: ShiftSqueeze, seed: int) -> float:
    """Of a classifier between fresh data and fresh simulation at the best fit, corrected by the map."""
    data = toy.observe(N_CLASSIFIED, TRUTH, distorted=True, seed=910_000 + seed)
    corrected = [
        maps.best.to_data(
            toy.simulate(process, N_CLASSIFIED // 2, maps.best.values, seed=920_000 + seed), process=process
        )
        for process in toy.processes
    ]
    return two_sample_auc(data, pd.concat(corrected), [*X, *Y], seed=seed)


def main() -> None:
    """Run the study and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="default")
    parser.add_argument("--distortion", choices=DISTORTIONS, default="default")
    parser.add_argument("--events", type=int, default=100_000, help="events of data")
    parser.add_argument("--replicas", type=int, default=8, help="replicas; fewer than two make no statistical band")
    parser.add_argument("--models", type=Path, required=True, help="folder of densities; trained if there are none")
    parser.add_argument("--simulated", type=int, default=2_000_000, help="simulated events per sample, to train them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    toy, stage = replace(GEOMETRIES[args.geometry], **DISTORTIONS[args.distortion]), Stages()
    model, _ = mixture(stage("models", lambda: read_or_train(args.models, toy, args.simulated, args.seed)))
    data = toy.observe(args.events, TRUTH, distorted=True, seed=args.seed)
    report = {name: getattr(args, name) for name in ("seed", "geometry", "distortion", "events", "replicas")}

    fit = stage("step 1", lambda: fit_transfer(model, data, obs=Y, cond=X, seed=args.seed, progress=False))
    report |= stage.say(step_1=step_1(fit, toy, data))

    profiled = stage("step 2", lambda: profile(fit, seed=args.seed, progress=False))
    nll = profiled.loss()
    result = stage("migrad", lambda: Minuit().minimize(nll))
    stage("hesse", lambda: result.hesse(method="hesse_np", name="hesse"))
    report |= stage.say(step_2=step_2(profiled, result, toy, data))

    # In this process and one after the other, where the CPU time can be read.
    with ThreadPoolExecutor(1) as executor:
        fit = stage(
            "replicas", lambda: bootstrap(fit, args.replicas, seed=args.seed, executor=executor, progress=False)
        )
    profiled = replace(profiled, fit=fit)  # the map follows the parameters for all replicas in the same way
    maps = scenarios(profiled, result)
    report |= stage.say(map=stage("map", lambda: the_map(maps, toy, args.seed)))
    report |= stage.say(auc=stage("classifier", lambda: auc(maps, toy, args.seed)))
    if args.replicas > 1:
        average = stage("ensemble", lambda: ensemble(profiled, progress=False))
        found = {name: getattr(average, name) for name in ("values", "errors", "spread", "k_eff")}
        report |= stage.say(ensemble=found | {"problems": [replica.problems for replica in fit.replicas]})

    report["cpu_seconds"] = stage.cpu_seconds
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Coverage of HESSE and MINOS: of a likelihood and of its calibrated form, for toys of the model and of simulation.

    python benchmarks/coverage.py --toys 300 --minos --json coverage.json
    python benchmarks/coverage.py --toys 300 --minos --of "calibrated, toys of the model"
    python benchmarks/coverage.py --toys 200 --simulations 100 --minos --of "calibrated, toys of simulation"

The model is that of `validity.py`, with 20k events and the density of one of its cases; toys of simulation are drawn from a
sample of a million events at ``shift = 1``, which nothing has seen. The simulation that calibrates is off by the same for all
of its toys: the toys of ``--simulations`` independent ones, each with a training, a calibration and such a sample of its own,
tell what intervals cover on average.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import zfit
import numpy as np
import pandas as pd
from validity import TRUTH, YIELDS, Experiment

import zfit_fnf as zfnf

KINDS = [f"{loss}, toys of {source}" for source in ("the model", "simulation") for loss in ("learned", "calibrated")]


def experiments(experiment: Experiment, ratio: float, seed: int) -> tuple[Any, Any, dict[str, zfnf.Simulation], dict]:
    """Learned and calibrated likelihood of one simulation, a large sample that nothing has seen, and the truth."""
    rng = np.random.default_rng(seed)
    held_out = experiment.learn(ratio, rng)
    shift, scale = experiment.nuisances.values()
    truth = {experiment.mu: 1.0, experiment.nb: YIELDS["background"], shift: 1.0, scale: 0.0}
    at = {"shift": 1.0}
    data = [process.draw(at, rng.poisson(YIELDS[process.name]), rng)["y"] for process in experiment.processes]
    nll = zfnf.loss.ExtendedUnbinnedNLL(experiment.model, {"y": np.concatenate(data)})
    large = {
        process.name: zfnf.Simulation(
            process.draw({}, 1000, rng), (zfnf.Variation(process.draw(at, 1_000_000, rng), at=at),)
        )
        for process in experiment.processes
    }
    zfit.param.set_values({**truth, shift.observed: 1.0, scale.observed: 0.0})
    return nll, zfnf.calibrate(nll, held_out, n_draws=30_000, seed=seed), large, truth


def together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """One table of coverage for the toys of several."""
    n = sum(table["n"] for table in tables)
    mean = sum(table["n"] * table["pull_mean"] for table in tables) / n
    squares = sum(
        (table["n"] - 1) * table["pull_width"].fillna(0.0) ** 2 + table["n"] * table["pull_mean"] ** 2
        for table in tables
    )
    columns = {
        "n": n,
        "covered": sum(table["n"] * table["covered"] for table in tables) / n,
        "error": np.sqrt(sum(table["n"] ** 2 * table["error"] ** 2 for table in tables)) / n,
        "pull_mean": mean,
        "pull_width": np.sqrt((squares - n * mean**2) / (n - 1)),
    }
    return pd.DataFrame(columns)


def main() -> None:
    """Print the coverage as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=300)
    parser.add_argument("--simulations", type=int, default=1, help="independent ones, which share the toys")
    parser.add_argument("--events", type=float, default=20_000, help="expected in the data")
    parser.add_argument("--of", nargs="*", default=KINDS, choices=KINDS, help="which of them, as each takes minutes")
    parser.add_argument("--case", default="gaussian")
    parser.add_argument("--ratio", type=float, default=3.0, help="simulated events of each sample per data event")
    parser.add_argument("--minos", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    YIELDS.update({name: number * args.events / sum(YIELDS.values()) for name, number in YIELDS.items()})
    TRUTH["nb"] = YIELDS["background"]
    experiment, methods = Experiment(args.case), ("hesse", "minos") if args.minos else ("hesse",)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in args.of}
    report: dict[str, Any] = {}
    for number in range(args.simulations):
        nll, trusted, large, truth = experiments(experiment, args.ratio, args.seed + number)
        for name in args.of:
            loss = nll if name.startswith("learned") else trusted
            simulations = large if name.endswith("simulation") else None
            options = {"simulations": simulations, "methods": methods, "seed": args.seed + number, "progress": False}
            found = zfnf.toys.coverage(loss, args.toys // args.simulations, of=list(truth), params=truth, **options)
            tables[name].append(found.table)
            report[name] = together(tables[name]).reset_index().to_dict(orient="records")
            if args.json:  # what follows takes a while
                args.json.write_text(json.dumps(report, indent=2))
    for name in args.of:
        print(f"{name}\n{together(tables[name])}")


if __name__ == "__main__":
    main()

"""Coverage of HESSE and MINOS: of a likelihood and of its calibrated form, for toys of the model and of simulation.

    python benchmarks/coverage.py --toys 300 --minos --json coverage.json
    python benchmarks/coverage.py --toys 300 --minos --of "calibrated, toys of the model"

The model is that of `validity.py`, with 20k events and the density of one of its cases; toys of simulation are drawn from a
sample of 400k events at ``shift = 1``, which nothing has seen.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import zfit
import numpy as np
from validity import TRUTH, YIELDS, Experiment

import zfit_fnf as zfnf

KINDS = [f"{loss}, toys of {source}" for source in ("the model", "simulation") for loss in ("learned", "calibrated")]


def main() -> None:
    """Print the coverage as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=300)
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
    experiment, rng = Experiment(args.case), np.random.default_rng(args.seed)
    held_out = experiment.learn(args.ratio, rng)
    nuisances = list(experiment.nuisances.values())
    truth = {experiment.mu: 1.0, experiment.nb: YIELDS["background"], nuisances[0]: 1.0, nuisances[1]: 0.0}
    at = {"shift": 1.0}
    data = [process.draw(at, rng.poisson(YIELDS[process.name]), rng)["y"] for process in experiment.processes]
    nll = zfnf.loss.ExtendedUnbinnedNLL(experiment.model, {"y": np.concatenate(data)})
    large = {
        process.name: zfnf.Simulation(
            process.draw({}, 1000, rng), (zfnf.Variation(process.draw(at, 400_000, rng), at=at),)
        )
        for process in experiment.processes
    }
    zfit.param.set_values(truth)
    report, methods = {}, ("hesse", "minos") if args.minos else ("hesse",)
    trusted = zfnf.calibrate(nll, held_out, n_draws=30_000, seed=args.seed)
    for name in args.of:
        loss = nll if name.startswith("learned") else trusted
        simulations = large if name.endswith("simulation") else None
        started = time.process_time()
        options = {"simulations": simulations, "methods": methods, "seed": args.seed, "progress": False}
        found = zfnf.toys.coverage(loss, args.toys, of=list(truth), params=truth, **options)
        print(f"{name}, {time.process_time() - started:.0f} s\n{found}", flush=True)
        report[name] = found.to_dict()
        if args.json:  # what follows takes a while
            args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

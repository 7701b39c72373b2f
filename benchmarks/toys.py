"""Pulls of toys drawn from a trained model itself: sample, fit, repeat.

    python benchmarks/toys.py --toys 200 --pool 200000 --pooled-toys 1000 --json toys.json

Means within 0.2 of zero and widths within 0.15 of one are expected of 200 toys of a valid likelihood (their own
statistical errors are 0.07 and 0.05). With a pool, toys of the same truth are drawn from it too: their pulls, what the
pool is worth, and the cost of a toy of either kind in one run, after a first one that is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toy_models import GEOMETRIES, NUISANCES, mixture, train

import zfit_fnf as zfnf
from zfit_fnf import Schedule


def main() -> None:
    """Train one model, fit its toys and print the pulls as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", type=int, default=200)
    parser.add_argument("--events", type=int, default=5_000, help="events per toy")
    parser.add_argument("--pool", type=int, help="events of each component in a pool of toys")
    parser.add_argument("--pooled-toys", type=int, default=1000)
    parser.add_argument("--simulated", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="other")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    toy = GEOMETRIES[args.geometry]
    schedule = Schedule(steps=args.steps, batch_size=2048)
    learned = train(toy, n_simulated=args.simulated, seed=args.seed, flow=schedule, deformation=schedule)
    model, nuisances = mixture(learned)
    data = toy.observe(args.events, {"shift": 0.5, "squeeze": -0.5}, seed=args.seed)
    nll = zfnf.loss.UnbinnedNLL(model, data)
    truth = dict(zip(nuisances, (0.5, -0.5), strict=True))
    fast = zfnf.accelerate(nll)
    zfnf.toys.fit_toys(fast, 1, params=truth, seed=args.seed, progress=False)  # compiles
    started = time.process_time()
    fits = zfnf.toys.fit_toys(fast, args.toys, params=truth, seed=args.seed, progress=False)
    report = {
        "nuisances": NUISANCES,
        "events": args.events,
        **_summary(fits, (time.process_time() - started) / args.toys),
    }
    if args.pool:
        report["pool"] = _pooled(nll, truth, args)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


def _summary(fits: zfnf.toys.ToyFits, cost: float) -> dict[str, Any]:
    pulls = json.loads(fits.pulls().to_json(orient="index"))
    valid = int(fits.valid.sum())
    return {"toys": len(fits.valid), "valid": valid, "pulls": pulls, "cpu_seconds_per_toy": cost}


def _pooled(nll: Any, truth: dict[Any, float], args: argparse.Namespace) -> dict[str, Any]:
    """Toys of a pool; the difference of two runs is the cost of toys, without that of the pool."""
    costs = []
    for n in (1, args.pooled_toys):
        started = time.process_time()
        fits = zfnf.toys.run(nll, n, params=truth, seed=args.seed, pool=args.pool, progress=False)
        costs.append(time.process_time() - started)
    cost = (costs[1] - costs[0]) / (args.pooled_toys - 1)
    return {**_summary(fits, cost), "cpu_seconds_of_first_call": costs[0], **asdict(fits.pool)}


if __name__ == "__main__":
    main()

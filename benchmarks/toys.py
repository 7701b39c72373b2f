"""Pulls of toys drawn from a trained model itself: sample, fit, repeat.

    python benchmarks/toys.py --toys 200 --json toys.json

Means within 0.2 of zero and widths within 0.15 of one are expected of 200 toys of a valid likelihood (their own
statistical errors are 0.07 and 0.05).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from toy_models import GEOMETRIES, NUISANCES, mixture, train

import zfit_fnf as zfnf
from zfit_fnf import Schedule


def main() -> None:
    """Train one model, fit its toys and print the pulls as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toys", type=int, default=200)
    parser.add_argument("--events", type=int, default=5_000, help="events per toy")
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
    started = time.process_time()
    fits = zfnf.toys.fit_toys(nll, args.toys, params=truth, seed=args.seed, progress=False)
    pulls = fits.pulls()
    report = {
        "toys": args.toys,
        "valid": int(fits.valid.sum()),
        "pulls": json.loads(pulls.to_json(orient="index")),
        "nuisances": NUISANCES,
        "cpu_seconds_per_toy": (time.process_time() - started) / args.toys,
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

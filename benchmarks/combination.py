"""What a combined likelihood costs: value and gradient of a sum against those of its terms.

python benchmarks/combination.py --json combination.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import zfit  # before tensorflow, which it silences
import numpy as np
from random_models import normal_events, random_model

import zfit_fnf as zfnf


def control_region(n_bins: int, nuisances: list[str]) -> dict:
    """A HistFactory channel with effects of some nuisances and statistical errors."""
    rng = np.random.default_rng(1)
    counts = rng.uniform(50, 500, n_bins)
    variations = {name: (counts * (1 + 0.1 * rng.normal(size=n_bins)), None) for name in nuisances}
    sample = zfnf.pyhf.sample("background", counts, variations, factors=["norm"], errors=0.05 * counts, region="CR")
    return {
        "version": "1.0.0",
        "channels": [{"name": "CR", "samples": [sample]}],
        "observations": [{"name": "CR", "data": rng.poisson(counts).astype(float).tolist()}],
        "measurements": [{"name": "measurement", "config": {"poi": "norm", "parameters": []}}],
    }


def times(losses: dict, n_calls: int) -> dict[str, float]:
    """Median seconds of value and gradient, with the calls of all likelihoods taking turns."""
    params = {name: list(nll.get_params()) for name, nll in losses.items()}
    seen: dict[str, list[float]] = {name: [] for name in losses}
    for call in range(n_calls + 3):
        for name, nll in losses.items():
            start = time.perf_counter()
            nll.value_gradient(params[name], full=False)[1].numpy()
            if call >= 3:  # compiled by then
                seen[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seen.items()}


def measure(n_events: int, n_nuisances: int, n_bins: int, n_calls: int) -> dict:
    """A learned channel, a HistFactory channel, a binned one of zfit, and their sums."""
    model = random_model(n_nuisances, interactions=False)
    learned = zfnf.loss.UnbinnedNLL(model, normal_events(n_events, 1))
    names = [one.name for one in learned.get_params()]
    shared = {one.name: one for one in learned.get_params()}
    control = zfnf.pyhf.channel(control_region(n_bins, names), params=shared)
    space = zfit.Space("m", binning=zfit.binned.RegularBinning(n_bins, 0, 10, name="m"))
    slope = zfit.Parameter("slope", -0.3, -2, 0)
    falling = zfit.pdf.Exponential(slope, obs=zfit.Space("m", 0, 10)).to_binned(space, extended=1000.0)
    binned = zfnf.loss.NLL(falling, falling.to_binneddata())
    found = times({"learned": learned, "pyhf": control, "binned": binned, "sum": learned + control + binned}, n_calls)
    parts = found["learned"] + found["pyhf"] + found["binned"]
    sizes = {"events": n_events, "nuisances": n_nuisances, "bins": n_bins}
    return {**sizes, **{f"{name}_s": value for name, value in found.items()}, "ratio_to_parts": found["sum"] / parts}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=60)
    arguments = parser.parse_args()
    report = [measure(arguments.events, n, bins, arguments.calls) for n, bins in ((2, 20), (20, 50))]
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""A mass that a learned density is conditional on, fitted: values and errors against the exact ones, by size of the networks.

    python benchmarks/conditions.py --seeds 1 2 3 --hidden 64,64 32,32 16,16

A peak of width 0.5 is at a mass between 1 and 5, and is learned from 40k events with masses in this range. The data are 400
events at 3.3 on 3000 of a flat background; yields are known. Each seed is another simulation and training, of the same data.
"""

from __future__ import annotations

import argparse

import zfit  # noqa: F401 (before tensorflow, which it silences)
import numpy as np
from scipy.stats import norm

from zfit_fnf.train import fit_flow

WIDTH, RANGE, YIELDS = 0.5, (-2.0, 8.0), (400.0, 3000.0)
GRID = np.arange(3.0, 3.6, 0.02)


def fitted(density) -> tuple[float, float]:
    """The mass and its error from a parabola around the minimum; the density is a function of events and a mass."""
    rng = np.random.default_rng(5)
    data = np.concatenate([rng.normal(3.3, WIDTH, 400), rng.uniform(*RANGE, 3000)])
    signal, background = YIELDS
    flat = background / (RANGE[1] - RANGE[0])
    nll = np.array([-np.log(signal * density(data, mass) + flat).sum() for mass in GRID])
    near = np.abs(GRID - GRID[nll.argmin()]) < 0.09
    curvature, slope, _ = np.polyfit(GRID[near], nll[near], 2)
    return -slope / 2 / curvature, 1 / np.sqrt(2 * curvature)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--hidden", nargs="*", default=["64,64", "32,32", "16,16"])
    arguments = parser.parse_args()
    exact, error = fitted(lambda data, mass: norm.pdf(data, mass, WIDTH))
    print(f"exact: {exact:.4f} +- {error:.4f}; mean difference and rms in its errors, ratios of errors:")
    for hidden in arguments.hidden:
        found = []
        for seed in arguments.seeds:
            rng = np.random.default_rng([seed, 7])
            mass = rng.uniform(1, 5, 40_000)
            events = {"m": rng.normal(mass, WIDTH), "mass": mass}
            inside = (events["m"] > RANGE[0]) & (events["m"] < RANGE[1])
            events = {name: values[inside] for name, values in events.items()}
            widths = [int(one) for one in hidden.split(",")]
            flow = fit_flow(
                events, obs=["m"], cond=["mass"], ranges={"m": RANGE}, hidden=widths, seed=seed, progress=False
            )
            found.append(fitted(lambda x, at, flow=flow: np.exp(flow.log_prob({"m": x, "mass": np.full(len(x), at)}))))
        pulls, ratios = (np.array(found) - [exact, 0]).T / error
        values = " ".join(f"{one:.3f}" for one in ratios)
        print(f"{hidden}: {pulls.mean():+.2f}, {np.sqrt(np.mean(pulls**2)):.2f}; {values}", flush=True)


if __name__ == "__main__":
    main()

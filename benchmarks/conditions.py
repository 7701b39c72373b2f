"""A mass that a learned density is conditional on, fitted: values and errors against the exact ones, by size of the networks.

    python benchmarks/conditions.py --seeds 1 2 3 --hidden 64,64 32,32 16,16

A peak of width 0.5 is at a mass between 1 and 5, and is learned from 40k events with masses in this range. The data are 400
events at 3.3 on 3000 of a flat background; yields are known. Each seed is another simulation and training, of the same data.

``validate`` judges each density with further events, as many as trained it, for a fit to 400 events without background: printed
is how many of its tests along the mass find something, and the worst predicted bias and ratio of scatter to information.
"""

from __future__ import annotations

import argparse

import zfit  # noqa: F401 (before tensorflow, which it silences)
import numpy as np
from scipy.stats import norm

from zfit_fnf import Simulation
from zfit_fnf.diagnostics import validate
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


def simulate(rng: np.random.Generator, n: int = 40_000) -> dict[str, np.ndarray]:
    """Events with masses between 1 and 5."""
    mass = rng.uniform(1, 5, n)
    events = {"m": rng.normal(mass, WIDTH), "mass": mass}
    inside = (events["m"] > RANGE[0]) & (events["m"] < RANGE[1])
    return {name: values[inside] for name, values in events.items()}


def verdict(flow, events: dict[str, np.ndarray]) -> str:
    """What the tests along the mass say of a density."""
    table = validate(flow, Simulation(events), n_data=400, progress=False).table
    bias, information = (table[table["test"] == test] for test in ("condition", "information along condition"))
    near = table[table["test"].isin(["condition", "information along condition"])]
    ratio = information["value"].iloc[np.abs(np.log(information["value"])).argmax()]
    return f"{near['problem'].sum()} of {len(near)} tests, bias {bias['value'].abs().max():.2f}, scatter {ratio:.2f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--hidden", nargs="*", default=["64,64", "32,32", "16,16"])
    arguments = parser.parse_args()
    exact, error = fitted(lambda data, mass: norm.pdf(data, mass, WIDTH))
    print(f"exact: {exact:.4f} +- {error:.4f}; mean difference and rms in its errors, ratios of errors:")
    for hidden in arguments.hidden:
        found, verdicts = [], list[str]()
        for seed in arguments.seeds:
            rng = np.random.default_rng([seed, 7])
            events = simulate(rng)
            widths = [int(one) for one in hidden.split(",")]
            flow = fit_flow(
                events, obs=["m"], cond=["mass"], ranges={"m": RANGE}, hidden=widths, seed=seed, progress=False
            )
            verdicts.append(verdict(flow, simulate(rng)))
            found.append(fitted(lambda x, at, flow=flow: np.exp(flow.log_prob({"m": x, "mass": np.full(len(x), at)}))))
        pulls, ratios = (np.array(found) - [exact, 0]).T / error
        values = " ".join(f"{one:.3f}" for one in ratios)
        print(
            f"{hidden}: {pulls.mean():+.2f}, {np.sqrt(np.mean(pulls**2)):.2f}; {values}",
            *verdicts,
            sep="\n  ",
            flush=True,
        )


if __name__ == "__main__":
    main()

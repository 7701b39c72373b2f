"""Bands of a map of few events: how often they cover the exact map at fixed points, and how far it is from the truth.

    python benchmarks/doi_bands.py --case bent wavy --events 2000 --toys 20

One observable given one condition, Gaussian densities with a nuisance that moves both, which the condition measures. In each
toy the map is fitted, profiled and repeated by replicas, all with the defaults; bands are the total ones of one standard
error at twelve points of the observable and the condition. Points of one toy have much in common: errors of
coverages are those of means of toys.
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

import zfit_fnf as zfnf
from zfit_fnf.doi import bootstrap, fit_transfer, profile, scenarios
from zfit_fnf.pdf import UNBOUNDED, ConditionalProductPDF
from zfit_fnf.samples import as_sample

POINTS = pd.DataFrame([(y, x) for y in (-1.5, -0.5, 0.5, 1.5) for x in (-1.0, 0.0, 1.0)], columns=["y", "x"])
CASES = {
    "bent": lambda y, x: y + 0.35 * np.tanh(1.5 * y) + 0.2 * x,
    "wavy": lambda y, x: y + 0.4 * np.sin(1.5 * x) + 0.1 * x * np.tanh(y),
}


def data_of(case: str, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Events whose observable the map of the case takes to a Gaussian of unit width."""
    x, simulated = rng.normal(size=(2, n))
    low, high = np.full(n, -30.0), np.full(n, 30.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = CASES[case](middle, x) > simulated
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return pd.DataFrame({"y": middle, "x": x})


def model(jes: zfit.Parameter) -> ConditionalProductPDF:
    """Simulation: both columns are Gaussians whose mean the nuisance moves."""
    gauss = (zfit.pdf.Gauss(mu=jes, sigma=1.0, obs=zfit.Space(name, -UNBOUNDED, UNBOUNDED), name=name) for name in "yx")
    return ConditionalProductPDF(list(gauss), name="product")


def study(case: str, n_events: int, n_toys: int, n_replicas: int, seed: int) -> dict[str, Any]:
    """Coverage, distance from the truth and bands, in widths of the observable."""
    jes = zfnf.nuisance(f"jes_{case}")
    simulation, truth = model(jes), CASES[case](POINTS["y"], POINTS["x"]).to_numpy()
    problem, off, bands, valid, start = None, [], [], [], time.process_time()
    for toy in range(n_toys):
        data = data_of(case, n_events, np.random.default_rng([seed, toy]))
        jes.set_value(0.0)
        if problem is None:
            fit = fit_transfer(simulation, data, obs=["y"], cond=["x"], seed=toy, progress=False)
            problem = fit.problem
        else:  # the same, without compiling again
            fit = problem.solve(as_sample(data, simulation.obs), seed=toy, progress=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the map of .* effective events", category=UserWarning)
            made = bootstrap(profile(fit, n_checks=0, seed=toy), n_replicas, seed=toy)
        band = scenarios(made).evaluate(lambda variation: variation.to_simulation(POINTS)["y"].to_numpy())
        off.append(band.value - truth)
        bands.append(band.total)
        valid.append(made.valid)
    covered = np.mean(np.abs(off) < np.array(bands), axis=1)
    return {
        "case": case,
        "events": n_events,
        "toys": n_toys,
        "seed": seed,
        "valid": int(np.sum(valid)),
        "covered": float(covered.mean()),
        "covered_error": float(covered.std() / np.sqrt(n_toys)),
        "off": float(np.sqrt(np.mean(np.square(off)))),
        "bias": float(np.sqrt(np.mean(np.square(np.mean(off, axis=0))))),
        "band": float(np.sqrt(np.mean(np.square(bands)))),
        "cpu_s_per_toy": (time.process_time() - start) / n_toys,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--events", type=int, nargs="*", default=[2000])
    parser.add_argument("--toys", type=int, default=20)
    parser.add_argument("--replicas", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    own = parser.parse_args()
    found = [study(case, n, own.toys, own.replicas, own.seed) for case in own.case for n in own.events]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

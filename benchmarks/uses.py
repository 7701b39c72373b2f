"""Further uses of learned densities, each against an exact answer; prints JSON.

    python benchmarks/uses.py coupling --seeds 1 2 3 4 5
    python benchmarks/uses.py fractions2 --seeds 1 2 3
    python benchmarks/uses.py fractions10 --seeds 1 2 3
    python benchmarks/uses.py tagprobe20k --seeds 1 2 3 4 5 6 7 8

``coupling``: a quadratic coupling by morphing of three learned densities (`examples/coupling.py`), against the exact densities.

``fractions2``, ``fractions10``: a signal strength and a nuisance fitted given two or ten conditions, with shares from a
classifier, against the exact shares; with two conditions also against shares from learned densities of the conditions.
200k simulated events of each sample, 3000 events of data.

``tagprobe20k``, ``tagprobe200k``: the efficiency of a toy with a known map in two conditions, from so many pairs.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import zfit  # noqa: F401 (before tensorflow, which it silences)
import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.stats import norm

import zfit_fnf as zfnf

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import coupling as example


def coupling(seed: int) -> dict[str, float]:
    """Distance of the estimate from the exact one in exact errors, and the ratio of the errors."""
    found = example.main(seed=seed)
    (value, error), (exact, exact_error) = found["learned"], found["exact"]
    return {
        "pull": (value - example.TRUTH) / error,
        "distance": (value - exact) / exact_error,
        "error_ratio": error / exact_error,
    }


N_SIMULATED, N_SIGNAL, N_BACKGROUND, MOVED = 200_000, 1000, 2000, 0.3
TRUE = {"mu": 1.2, "jes": 0.5}


class Processes:
    """Signal and background with Gaussian conditions, of which one set is correlated, and an observable around a mean of each."""

    def __init__(self, n_conditions: int):
        self.names = [f"x{k}" for k in range(n_conditions)]
        self.mean = np.full(n_conditions, 1.2 / np.sqrt(n_conditions))
        self.correlated = 0.6 * np.eye(n_conditions) + 0.4
        self.slopes = {"signal": 0.7 * np.eye(n_conditions)[0], "background": -0.3 * np.eye(n_conditions)[1]}

    def conditions(self, process: str, n: int, rng: np.random.Generator, jes: float = 0.0) -> pd.DataFrame:
        """Events without the observable."""
        m = len(self.names)
        if process == "signal":
            return pd.DataFrame(rng.normal(self.mean + MOVED * jes * np.eye(m)[0], 1.0, (n, m)), columns=self.names)
        return pd.DataFrame(rng.multivariate_normal(np.zeros(m), self.correlated, n), columns=self.names)

    def log_ratio(self, x: np.ndarray, jes: float) -> np.ndarray:
        """Of signal to background, exactly."""
        residual = x - self.mean - MOVED * jes * np.eye(len(self.names))[0]
        quadratic = np.einsum("ij,jk,ik->i", x, np.linalg.inv(self.correlated), x)
        return 0.5 * (quadratic - (residual**2).sum(axis=1) + np.linalg.slogdet(self.correlated)[1])

    def data(self, rng: np.random.Generator) -> pd.DataFrame:
        """Observed events."""
        numbers = {"signal": rng.poisson(TRUE["mu"] * N_SIGNAL), "background": rng.poisson(N_BACKGROUND)}
        parts = []
        for process, n in numbers.items():
            events = self.conditions(process, n, rng, TRUE["jes"])
            parts.append(events.assign(y=rng.normal(events.to_numpy() @ self.slopes[process])))
        return pd.concat(parts, ignore_index=True)

    def fit(self, data: pd.DataFrame, log_ratio) -> dict[str, float]:
        """Estimates and errors of a fit given the conditions, with any log-ratio of the processes."""
        x, y = data[self.names].to_numpy(), data["y"].to_numpy()
        p = {process: norm.pdf(y - x @ slope) for process, slope in self.slopes.items()}

        def nll(point: np.ndarray) -> float:
            odds = point[0] * N_SIGNAL / N_BACKGROUND * np.exp(log_ratio(x, point[1]))
            return -np.log((odds * p["signal"] + p["background"]) / (1 + odds)).sum() + 0.5 * point[1] ** 2

        best = minimize(nll, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-7}).x
        step = 0.05 * np.eye(2)
        hessian = [
            [(nll(best + a + b) - nll(best + a - b) - nll(best - a + b) + nll(best - a - b)) / 0.01 for a in step]
            for b in step
        ]
        return dict(
            zip(("mu", "jes", "mu_error", "jes_error"), [*best, *np.diag(np.linalg.inv(hessian)) ** 0.5], strict=True)
        )


def fractions(n_conditions: int, seed: int) -> dict[str, float]:
    """Distance from the estimate with exact shares in its errors, and the ratio of the errors."""
    rng, toy = np.random.default_rng(seed), Processes(n_conditions)
    data = toy.data(rng)
    moved = [zfnf.Variation(toy.conditions("signal", N_SIMULATED, rng, s), at={"jes": s}) for s in (-1.0, 1.0)]
    nominal = {process: toy.conditions(process, N_SIMULATED, rng) for process in toy.slopes}
    simulations = {
        "signal": zfnf.Simulation(nominal["signal"], moved),
        "background": zfnf.Simulation(nominal["background"]),
    }
    learned = zfnf.train.fit_fractions(simulations, toy.names, seed=seed, progress=False)

    def of_classifier(x: np.ndarray, jes: float) -> np.ndarray:
        shares = learned.shares(pd.DataFrame(x, columns=toy.names), nu={"jes": jes})
        return np.log(shares["signal"] / shares["background"]).to_numpy()

    exact, found = toy.fit(data, toy.log_ratio), toy.fit(data, of_classifier)
    result = {"calibration_error": learned.reliability.calibration_error, "p_value": learned.reliability.p_value}
    routes = {"classifier": found}
    if n_conditions == 2:
        flows = {
            p: zfnf.train.fit_flow(events, obs=toy.names, seed=seed, progress=False) for p, events in nominal.items()
        }
        table = data[toy.names]
        at_zero = (
            flows["signal"].log_prob(table) - flows["background"].log_prob(table) - toy.log_ratio(table.to_numpy(), 0.0)
        )
        routes["densities"] = toy.fit(data, lambda x, jes: at_zero + toy.log_ratio(x, jes))
    for route, fitted in routes.items():
        for name in TRUE:
            result[f"{route}_{name}_distance"] = (fitted[name] - exact[name]) / exact[f"{name}_error"]
            result[f"{route}_{name}_error_ratio"] = fitted[f"{name}_error"] / exact[f"{name}_error"]
    return result


def tagprobe(n: int, seed: int) -> dict[str, float]:
    """Pulls of the map on a grid and of four integrated efficiencies."""
    toy = zfnf.datasets.TagAndProbe()
    pairs = toy.simulate(n, seed)
    result = zfnf.tagprobe.fit(
        pairs, zfnf.tagprobe.Peak(), zfnf.tagprobe.Exponential(), seed=seed, progress=False, **toy.columns
    )
    a, b = (one.ravel() for one in np.meshgrid(*[np.linspace(-0.9, 0.9, 7)] * 2))
    found = result.efficiency({"a": a, "b": b})
    pulls = (found.values - toy.efficiency(a, b)) / found.errors
    quarters = {(s, t): (s * pairs["a"] > 0) & (t * pairs["b"] > 0) for s in (1, -1) for t in (1, -1)}
    integrated = result.bins(quarters)
    truth = [
        toy.efficiency(own["a"], own["b"]).mean() for own in (pairs[q & pairs["signal"]] for q in quarters.values())
    ]
    return {
        "mean_pull": pulls.mean(),
        "mean_square_pull": np.square(pulls).mean(),
        "error_at_centre": found.errors[24],
        "mean_square_integrated_pull": np.square((integrated.values - truth) / integrated.errors).mean(),
        "largest_integrated_pull": np.abs((integrated.values - truth) / integrated.errors).max(),
    }


USES = {
    "coupling": coupling,
    "fractions2": functools.partial(fractions, 2),
    "fractions10": functools.partial(fractions, 10),
    "tagprobe20k": functools.partial(tagprobe, 20_000),
    "tagprobe200k": functools.partial(tagprobe, 200_000),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("use", choices=list(USES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    arguments = parser.parse_args()
    runs = []
    for seed in arguments.seeds:
        start = time.process_time()
        runs.append({"seed": seed, **USES[arguments.use](seed), "cpu_s": time.process_time() - start})
    numbers = [name for name in runs[0] if name not in ("seed", "cpu_s")]
    summary = {name: {"mean": np.mean(v := [r[name] for r in runs]), "rms": np.std(v)} for name in numbers}
    print(json.dumps({"use": arguments.use, "runs": runs, "summary": summary}, indent=1, default=float))


if __name__ == "__main__":
    main()

"""Both steps of a Distribution of Interest against what is known exactly, on distortions that are not in the package.

    python benchmarks/doi.py --events 100000 --seeds 3 --json doi.json
    python benchmarks/doi.py --quick

The densities of simulation are exact, so that nothing is measured but the map. No map of ``y`` changes what ``x`` says, and it
can undo almost all that ``y`` says: the profile likelihood is compared with the exact one of ``x`` alone, and with the
efficient bound of the profile itself. With one observable and no conditions, where the increasing map between two densities
is the only one, a nuisance of position and width is fitted behind several increasing distortions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from exact_models import ExactPDF, exact_mixture

import zfit_fnf as zfnf
from zfit_fnf.datasets import ShiftSqueeze
from zfit_fnf.doi import ProfiledFit, bootstrap, fit_transfer, profile
from zfit_fnf.pdf import UNBOUNDED, ConditionalProductPDF

TRUTH = {"shift": 0.5, "squeeze": -0.5}
X, Y = list(ShiftSqueeze.x), list(ShiftSqueeze.y)

Distortion = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bent(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A stretch that grows with the distance from the centre, and a drift with ``x``."""
    return np.sinh(0.7 * y) / 0.7 + np.stack([0.2 * np.tanh(x[:, 1]), 0.1 * x[:, 0]], axis=1)


def mixed(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A leakage of one observable into the other that depends on ``x``, and a saturation."""
    leak = 0.25 / (1.0 + x[:, 0] ** 2)
    return np.stack([y[:, 0] + leak * y[:, 1], y[:, 1] - 0.3 * np.tanh(y[:, 0])], axis=1)


def scaled(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A scale and a resolution that depend on ``x``."""
    return y * (1.0 + 0.15 * np.tanh(x)) + 0.1 * np.sin(2.0 * y[:, ::-1])


CASES: dict[str, tuple[ShiftSqueeze, Distortion]] = {
    "bent": (ShiftSqueeze(center_a=(-0.2, 0.3), center_b=(0.4, -0.2), frequency=1.0, rho=0.5), bent),
    "mixed": (
        ShiftSqueeze(center_a=(-0.3, 0.2), center_b=(0.6, -0.1), shift_x=0.25, squeeze_x=0.25, shift_y=0.35, rho=0.6),
        mixed,
    ),
    "scaled": (ShiftSqueeze(sigma_a=(0.7, 0.8), sigma_b=(0.8, 0.5), squeeze_y=0.3, frequency=1.8, slope=0.5), scaled),
}
"""Geometries and distortions."""

MONOTONE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sinh": lambda y: np.sinh(1.2 * y) / 1.2,
    "asinh": lambda y: np.arcsinh(2.0 * y) / 2.0,
    "cubic": lambda y: y + 0.1 * y**3,
    "exponential": lambda y: np.exp(0.5 * y),
    "wave": lambda y: y + 0.3 * np.sin(2.0 * y),
}
"""Distortions of one observable."""


def observed(case: str, n: int, seed: int) -> pd.DataFrame:
    """Distorted data."""
    toy, distortion = CASES[case]
    data = toy.observe(n, TRUTH, seed=seed)
    moved = distortion(data[Y].to_numpy(), data[X].to_numpy())
    return data.assign(**dict(zip(Y, moved.T, strict=True)))


def study(case: str, n: int, seed: int, n_replicas: int) -> dict[str, Any]:
    """Both steps of one data set, and replicas."""
    toy, data = CASES[case][0], observed(case, n, seed)
    model, _ = exact_mixture(toy)
    of_x = toy.fit(data, of="x")
    started = time.process_time()
    fit = fit_transfer(model, data, obs=Y, cond=X, seed=seed, progress=False)
    cpu = {"step 1": time.process_time() - started}
    started = time.process_time()
    profiled = profile(fit, seed=seed)
    cpu["step 2"] = time.process_time() - started
    if n_replicas:
        started = time.process_time()
        bootstrap(profiled, n_replicas, seed=seed)
        cpu["replicas"] = time.process_time() - started
    loss = profiled.loss()
    result = zfnf.Minuit().minimize(loss)
    result.hesse()
    table = profiled.bounds.to_dataframe()
    rows = {}
    for name, parameter in profiled.parameters.items():
        value, error = result.params[parameter]["value"], result.params[parameter]["hesse"]["error"]
        rows[name] = {
            "error / x only": error / of_x.errors[name],
            "error / efficient": error / table.loc[name, "efficient"],
            "efficient / x only": table.loc[name, "efficient"] / of_x.errors[name],
            "difference to x only": (value - of_x.values[name]) / of_x.errors[name],
            "pull": (value - TRUTH[name]) / error,
        }
        rows[name]["rises"] = rises(loss, parameter, error)
    return {
        "case": case,
        "seed": seed,
        "valid": profiled.valid,
        "problems": profiled.problems,
        "goodness": profiled.goodness,
        "parameters": rows,
        "checks": [(check.amortised, check.refitted) for check in profiled.checks],
        "cpu_seconds": cpu,
    }


def rises(loss: Any, parameter: zfit.Parameter, error: float) -> list[float]:
    """Rise of the amortised likelihood one error to both sides, the other parameters at their best fit; 0.5 or more."""
    value, lowest, found = float(parameter.value()), float(loss.value(full=False)), []
    for sign in (-1.0, 1.0):
        with zfit.param.set_values([parameter], [value + sign * error]):
            found.append(float(loss.value(full=False)) - lowest)
    return found


def gain_of_polish(profiled: ProfiledFit, events: pd.DataFrame) -> float:
    """By how much the log-likelihood of events rises from the map of step 1 to the one that step 2 has polished."""
    fit = profiled.fit
    x = events[list(fit.pdf.obs)].to_numpy()
    with zfit.param.set_values(list(fit.parameters.values()), list(fit.values.values())):
        return float(np.sum(profiled.pdf.log_pdf(x)) - np.sum(fit.pdf.log_pdf(x)))


def one_observable(label: str, n: int, seed: int) -> dict[str, Any]:
    """A nuisance that moves ``x`` and stretches ``y``, whose data are distorted by an increasing function."""
    rng, truth = np.random.default_rng([seed, len(label)]), 0.5

    def draw() -> pd.DataFrame:
        x, y = rng.normal(0.3 * truth, 1.0, n), np.exp(0.2 * truth) * rng.normal(size=n)
        return pd.DataFrame({"x": x, "y": MONOTONE[label](y)})

    data, others = draw(), draw()
    jes = zfnf.nuisance("jes")
    mean = zfit.param.ComposedParameter("mean", lambda jes: 0.3 * jes, params={"jes": jes})
    width = zfit.param.ComposedParameter("width", lambda jes: np.e ** (0.2 * jes), params={"jes": jes})
    p_x = zfit.pdf.Gauss(mean, 1.0, obs=zfit.Space("x", -UNBOUNDED, UNBOUNDED))
    p_y = zfit.pdf.Gauss(0.0, width, obs=zfit.Space("y", -UNBOUNDED, UNBOUNDED))
    fit = fit_transfer(ConditionalProductPDF([p_y, p_x], name="one"), data, obs=["y"], seed=seed, progress=False)
    profiled = profile(fit, seed=seed)
    result = zfnf.Minuit().minimize(profiled.loss())
    result.hesse()
    of_x = {"value": 0.3 * data["x"].sum() / (0.09 * n + 1.0), "error": 1.0 / np.sqrt(0.09 * n + 1.0)}
    found = result.params[profiled.parameters["jes"]]
    return {
        "distortion": label,
        "valid": profiled.valid,
        "problems": profiled.problems,
        "goodness": profiled.goodness,
        "difference to x only": (found["value"] - of_x["value"]) / of_x["error"],
        "error / x only": found["hesse"]["error"] / of_x["error"],
        "gain of the polish in other events": gain_of_polish(profiled, others),
        "start": (fit.values["jes"] - of_x["value"]) / of_x["error"],
    }


def many_nuisances(case: str, n: int, n_nuisances: int, seed: int) -> dict[str, Any]:
    """Both steps with many nuisances, each of which shifts and squeezes by a part; their true values are zero."""
    toy, distortion = CASES[case]
    rng = np.random.default_rng([seed, n_nuisances])
    nuisances = {f"nu_{index}": zfnf.nuisance(f"nu_{index}") for index in range(n_nuisances)}
    parts = rng.normal(size=(2, n_nuisances)) / np.sqrt(n_nuisances)
    moves = {
        name: zfit.param.ComposedParameter(
            name,
            lambda params, own=own: sum(w * p for w, p in zip(own, params, strict=True)),
            params=list(nuisances.values()),
        )
        for name, own in zip(toy.nuisances, parts, strict=True)
    }
    model = zfnf.pdf.SumPDF([ExactPDF(toy, process, moves) for process in toy.processes], fracs=[0.5])
    data = toy.observe(n, dict.fromkeys(TRUTH, 0.0), seed=seed)
    moved = distortion(data[Y].to_numpy(), data[X].to_numpy())
    data = data.assign(**dict(zip(Y, moved.T, strict=True)))
    cpu, started = {}, time.process_time()
    fit = fit_transfer(model, data, obs=Y, cond=X, seed=seed, progress=False)
    cpu["step 1"], started = time.process_time() - started, time.process_time()
    profiled = profile(fit, seed=seed)
    cpu["step 2"], started = time.process_time() - started, time.process_time()
    result = zfnf.Minuit().minimize(profiled.loss())
    cpu["minimum"] = time.process_time() - started
    return {
        "case": case,
        "seed": seed,
        "nuisances": n_nuisances,
        "valid": profiled.valid,
        "problems": profiled.problems,
        "converged": bool(result.converged),
        "largest value": float(max(abs(row["value"]) for row in result.params.values())),
        "checks": [(check.amortised, check.refitted, check.difference) for check in profiled.checks],
        "cpu_seconds": cpu,
    }


def main() -> None:
    """Run the studies and print the JSON, one line for each and the whole at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=3, help="data sets of each case")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--monotone", nargs="*", choices=MONOTONE, default=list(MONOTONE))
    parser.add_argument("--replicas", type=int, default=0, help="of each fit, for their cost")
    parser.add_argument("--nuisances", type=int, help="so many of them, in the first case, and nothing else")
    parser.add_argument("--quick", action="store_true", help="20 000 events, one seed, one case and one distortion")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args = argparse.Namespace(**{**vars(args), "events": 20_000, "seeds": 1})
        args.cases, args.monotone = args.cases[:1], args.monotone[:1]
    report: dict[str, Any] = {"events": args.events, "cases": [], "one_observable": []}
    seeds = range(args.first, args.first + args.seeds)
    if args.nuisances:
        print(json.dumps(many_nuisances(args.cases[0], args.events, args.nuisances, args.first)))
        return
    for label in args.monotone:
        for seed in seeds:
            report["one_observable"].append(one_observable(label, args.events // 5, seed))
            print(json.dumps(report["one_observable"][-1]), flush=True)
    for case in args.cases:
        for seed in seeds:
            report["cases"].append(study(case, args.events, seed, args.replicas))
            print(json.dumps(report["cases"][-1]), flush=True)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

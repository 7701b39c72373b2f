"""How far learned densities and the fits on them are from the exact ones: gaps to truth, bias, errors.

    python benchmarks/accuracy.py --seeds 5 --geometry other --json accuracy.json
    python benchmarks/accuracy.py --seeds 5 --maps-alone

Every seed simulates its own samples, trains all densities, and fits its own data. Differences to the exact
maximum-likelihood estimate on the same events are in units of its error. ``--maps-alone`` trains without log-ratios, to
compare: the toy is one that maps follow.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from random_models import clocked
from toy_models import GEOMETRIES, NUISANCES, SECTORS, fit, in_order, mixture, named, train

import zfit_fnf as zfnf
from zfit_fnf import Schedule
from zfit_fnf.datasets import ShiftSqueeze

GAP_POINTS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (0.5, -0.5)]
FIT_POINTS = [(0.5, -0.5), (1.0, 1.0)]


def gaps(toy: ShiftSqueeze, deformations: dict, *, n: int, seed: int) -> dict[str, dict[str, float]]:
    """``E[log p_true - log p]`` in nats per event, on fresh events of each process and point."""
    result: dict[str, dict[str, float]] = {f"{process} {sector}": {} for process, sector in deformations}
    for process in toy.processes:
        for point in GAP_POINTS:
            events = toy.simulate(process, n, named(point), seed=seed)
            for sector in SECTORS:
                exact = toy.log_prob(events, named(point), process, of=sector)
                learned = deformations[process, sector].log_prob(events, nu=named(point))
                result[f"{process} {sector}"][str(point)] = float(np.mean(exact - learned))
    return result


def compare_fits(toy: ShiftSqueeze, learned, *, n_data: int, seed: int) -> list[dict]:
    """Fits of undistorted data with the learned and with the exact likelihood."""
    model, nuisances = mixture(learned)
    rows = []
    for index, point in enumerate(FIT_POINTS):
        data = toy.observe(n_data, named(point), seed=10_000 + 10 * seed + index)
        exact = toy.fit(data, minos=True)
        nll = zfnf.loss.UnbinnedNLL(model, data)
        result = fit(nll, nuisances)
        methods = {name: result.hesse(method=name, name=name) for name in ("minuit_hesse", "hesse_np")}
        minos, _ = result.errors()
        values = np.array([result.params[nu]["value"] for nu in nuisances])
        sigma = {name: np.array([error[nu]["error"] for nu in nuisances]) for name, error in methods.items()}
        sigma["numerical"] = numerical_errors(nll, nuisances, values)
        width = np.array([(minos[nu]["upper"] - minos[nu]["lower"]) / 2.0 for nu in nuisances])
        exact_width = np.array([(exact.minos[n][1] - exact.minos[n][0]) / 2.0 for n in NUISANCES])
        rows.append(
            {
                "point": point,
                "valid": bool(result.valid),
                "fitted": values.tolist(),
                "exact": in_order(exact.values).tolist(),
                "difference_in_sigma": ((values - in_order(exact.values)) / in_order(exact.errors)).tolist(),
                "error_ratio": {name: (s / in_order(exact.errors)).tolist() for name, s in sigma.items()},
                "minos_ratio": (width / exact_width).tolist(),
            }
        )
    return rows


def cost(learned, toy: ShiftSqueeze, *, n_data: int) -> float:
    """CPU seconds of a value and gradient of the likelihood, the median of nine."""
    model, nuisances = mixture(learned)
    nll = zfnf.loss.UnbinnedNLL(model, toy.observe(n_data, named((0.5, -0.5)), seed=1))
    for nuisance in nuisances:
        nuisance.set_value(0.3)
    nll.value_gradient(full=False)
    return statistics.median(clocked(lambda: nll.value_gradient(full=False)[1].numpy())[0] for _ in range(9))


def numerical_errors(nll, nuisances, values: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Errors from a Hessian of central differences of the value alone."""

    def value(shift: np.ndarray) -> float:
        for nuisance, v in zip(nuisances, values + shift, strict=True):
            nuisance.set_value(v)
        return float(nll.value(full=False))

    e = step * np.eye(len(values))
    hessian = [[(value(a + b) - value(a - b) - value(b - a) + value(-a - b)) / (4.0 * step**2) for b in e] for a in e]
    value(np.zeros(len(values)))
    return np.sqrt(np.diag(np.linalg.inv(hessian)))


def main() -> None:
    """Run the study and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="default")
    parser.add_argument("--events", type=int, default=4_000_000, help="simulated events per sample")
    parser.add_argument("--data", type=int, default=100_000)
    parser.add_argument("--steps", type=int, nargs=2, metavar=("FLOW", "DEFORMATION"), help="shorter trainings")
    parser.add_argument("--maps-alone", action="store_true", help='map=True, ratio=False in place of "auto"')
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    settings = {"map": True, "ratio": False} if args.maps_alone else {}
    toy, runs = GEOMETRIES[args.geometry], []
    flow, deformation = (Schedule(steps=n, batch_size=2048) for n in args.steps) if args.steps else (None, None)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        learned = train(toy, n_simulated=args.events, seed=seed, flow=flow, deformation=deformation, **settings)
        run = {
            "seed": seed,
            "training_cpu_seconds": learned.cpu_seconds,
            "value_gradient_cpu_seconds": cost(learned, toy, n_data=args.data),
            "gaps": gaps(toy, learned.deformations, n=200_000, seed=77_000 + seed),
            "fits": compare_fits(toy, learned, n_data=args.data, seed=seed),
        }
        runs.append(run)
        print(json.dumps(run), flush=True)
    differences = np.abs([fit["difference_in_sigma"] for run in runs for fit in run["fits"]])
    report = {
        "geometry": args.geometry,
        "events": args.events,
        "median_difference": np.median(differences, axis=0).tolist(),
        "largest_difference": np.max(differences, axis=0).tolist(),
        "runs": runs,
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""What a fit costs: first calls, MIGRAD and HESSE, repeated fits, sampling, imports.

    python benchmarks/cost.py --json cost.json

Networks keep their random weights, slightly shaken: the cost does not depend on what they learned. As a peer, the same
likelihood is evaluated by zfit's own loss in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import zfit  # before tensorflow, which it silences
from random_models import clocked, normal_events, random_model, resident_megabytes

import zfit_fnf as zfnf
from zfit_fnf import Flow
from zfit_fnf.loss import event_kernel


def measure_fit(n_events: int, n_nuisances: int, *, interactions: bool) -> dict:
    """First calls, calls and a fit of one model."""
    model = random_model(n_nuisances, interactions=interactions)
    nll = zfnf.loss.UnbinnedNLL(model, normal_events(n_events, 1))
    report = {"events": n_events, "nuisances": n_nuisances, "interactions": interactions}
    for name, call in (
        ("value", lambda: float(nll.value(full=False))),
        ("value_gradient", lambda: nll.value_gradient(full=False)[1].numpy()),
    ):
        report[f"first_{name}_cpu_s"], report[f"first_{name}_wall_s"] = clocked(call)
        report[f"{name}_cpu_s"] = statistics.median(clocked(call)[0] for _ in range(5))
    minimizer = zfnf.Minuit()
    fitted: list = []
    report["migrad_cpu_s"], _ = clocked(lambda: fitted.append(minimizer.minimize(nll)))
    report["hesse_cpu_s"], _ = clocked(lambda: fitted[0].hesse(method="hesse_np", name="np"))
    report["valid"] = bool(fitted[0].valid)
    stock = zfit.loss.UnbinnedNLL(model, nll.data, constraints=nll.constraints)
    stock.value_gradient()
    report["zfit_value_gradient_cpu_s"] = statistics.median(
        clocked(lambda: stock.value_gradient())[0] for _ in range(3)
    )
    report["ratio_to_zfit"] = report["zfit_value_gradient_cpu_s"] / report["value_gradient_cpu_s"]
    return report


def measure_loop(n_fits: int, n_events: int) -> dict:
    """A new loss with new data in every turn: memory and traces must stand still."""
    model = random_model(2, interactions=True)
    kernel = event_kernel(model)

    def one(seed: int) -> None:
        nll = zfnf.loss.UnbinnedNLL(model, normal_events(n_events, seed))
        zfnf.Minuit().minimize(nll)

    for seed in range(5):
        one(seed)
    traces, memory = kernel.n_traces, resident_megabytes()
    cpu, _ = clocked(lambda: [one(seed) for seed in range(5, 5 + n_fits)])
    return {
        "fits": n_fits,
        "events": n_events,
        "new_traces": kernel.n_traces - traces,
        "memory_growth_MB": resident_megabytes() - memory,
        "cpu_s_per_fit": cpu / n_fits,
    }


def measure_sampling(n: int) -> dict:
    """Events per CPU second of an unconditional flow in ten dimensions."""
    flow = Flow([f"y{i}" for i in range(10)])
    flow.sample(100, seed=1)
    cpu, wall = clocked(lambda: flow.sample(n, seed=2))
    return {"dimensions": 10, "events_per_cpu_s": n / cpu, "events_per_wall_s": n / wall}


def measure_import(package: str) -> float:
    """Median CPU seconds of ``import zfit`` and then the package, in fresh processes, for the package alone."""
    program = (
        "import zfit, time; t = time.process_time(); "
        f"import {package}; from {package} import train, pdf, loss; print(time.process_time() - t)"
    )
    runs = [
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
        for _ in range(3)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    """Measure everything and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--fits", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = {
        "cores": os.cpu_count(),
        "import_after_zfit_cpu_s": measure_import("zfit_fnf"),
        "2 nuisances": measure_fit(args.events, 2, interactions=True),
        "30 nuisances": measure_fit(args.events // 5, 30, interactions=False),
        "loop": measure_loop(args.fits, 2_000),
        "sampling": measure_sampling(20_000),
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

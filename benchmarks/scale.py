"""What a fit of very many events needs: a cost model, from measurements here.

    python benchmarks/scale.py --workers 4 --json scale.json

The time of one value and gradient of n events with K nuisances is fitted by ``calls + n (event + K nuisance)``, for the exact
likelihood, of which `zfit_fnf.distribute` shares the events, and for the accelerated one; bytes for each event likewise. A
fit of 1e9 events and 100 nuisances on N workers is predicted from these, from the number of evaluations of the fits here,
and from the time that a question to all workers takes. With ``--workers`` a likelihood is also distributed on this machine:
it is the same to rounding, and a fit goes on where a worker is killed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from random_models import clocked, median_cpu, normal_events, random_model

import zfit_fnf as zfnf
from zfit_fnf.loss import n_bytes

SIZES, NUISANCES = (20_000, 100_000), (2, 10, 30)


def measure() -> list[dict]:
    """Evaluations of both likelihoods."""
    rows = []
    for n_nuisances in NUISANCES:
        model = random_model(n_nuisances)
        for n_events in SIZES:
            nll = zfnf.loss.UnbinnedNLL(model, normal_events(n_events, 1))
            params = list(nll.get_params())
            row = {"events": n_events, "nuisances": n_nuisances}
            for name, loss in (("exact", nll), ("accelerated", zfnf.accelerate(nll))):
                call = functools.partial(loss.value_gradient, params, full=False)
                row[f"first_{name}_cpu_s"], _ = clocked(call)
                row[f"{name}_cpu_s"] = median_cpu(call, 3)
                terms = [calls for _, calls in loss.terms() if hasattr(calls, "size")]
                row[f"{name}_bytes"] = sum(n_bytes(chunk) for calls in terms for chunk in calls)
            if n_events == SIZES[0]:
                result = zfnf.Minuit().minimize(nll)
                row["evaluations_of_a_fit"] = result.info["n_eval"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def cost_model(rows: list[dict], name: str) -> dict[str, float]:
    """Seconds and bytes for each event, and for each event and nuisance."""
    n, k = (np.array([row[key] for row in rows], float) for key in ("events", "nuisances"))
    design = np.stack([np.ones_like(n), n, n * k], axis=1)
    costs = np.array([row[f"{name}_cpu_s"] for row in rows])
    calls, event, nuisance = np.linalg.lstsq(design / costs[:, None], np.ones_like(n), rcond=None)[0]
    off = np.abs(design @ [calls, event, nuisance] / costs - 1).max()
    sizes = np.array([row[f"{name}_bytes"] for row in rows], float)
    bytes_event, bytes_nuisance = np.linalg.lstsq(design[:, 1:] / sizes[:, None], np.ones_like(n), rcond=None)[0]
    return {
        "call_s": calls,
        "event_s": event,
        "event_nuisance_s": nuisance,
        "largest_relative_residual": off,
        "event_bytes": bytes_event,
        "event_nuisance_bytes": bytes_nuisance,
    }


def predict(
    model: dict[str, float], n_events: float, n_nuisances: int, evaluations: float, asking: float
) -> list[dict]:
    """Fits on ever more workers of one core each."""
    seconds = model["event_s"] + n_nuisances * model["event_nuisance_s"]
    size = model["event_bytes"] + n_nuisances * model["event_nuisance_bytes"]
    table = []
    for workers in (1, 10, 100, 1000, 10_000):
        share = n_events / workers
        one = model["call_s"] + share * seconds + asking * np.sqrt(workers)
        table.append(
            {
                "workers": workers,
                "evaluation_s": one,
                "fit_hours": evaluations * one / 3600,
                "gigabytes_each": share * size / 1e9,
            }
        )
    return table


def distributed_here(n_workers: int, n_events: int) -> dict[str, Any]:
    """A fit by workers, one of which is killed on the way, against the same here."""
    from distributed import Client, LocalCluster

    nll = zfnf.loss.UnbinnedNLL(random_model(2), normal_events(n_events, 2))
    params = list(nll.get_params())
    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=n_workers, **options) as cluster, Client(cluster) as client:
        shared = zfnf.distribute(nll, client)
        value, gradient = shared.value_gradient(params)
        expected = nll.value_gradient(params)
        asking = median_cpu(lambda: shared.value_gradient(params))
        _, wall = clocked(lambda: shared.value_gradient(params))
        _, alone = clocked(lambda: nll.value_gradient(params))
        os.kill(client.submit(os.getpid, pure=False).result(), signal.SIGKILL)
        found, here = (zfnf.Minuit().minimize(loss) for loss in (shared, nll))
        differences = [abs(found.params[one]["value"] - here.params[one]["value"]) for one in params]
    return {
        "workers": n_workers,
        "events": n_events,
        "value_difference": float(value - expected[0]),
        "gradient_difference": float(np.abs(gradient - expected[1]).max()),
        "largest_difference_of_the_minimum": max(differences),
        "asking_cpu_s": asking,
        "evaluation_wall_s": wall,
        "evaluation_alone_wall_s": alone,
    }


def main() -> None:
    """Measure, fit, predict, and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=float, default=1e9)
    parser.add_argument("--nuisances", type=int, default=100)
    parser.add_argument("--workers", type=int, default=0, help="also distribute a likelihood over so many, here")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"cores": os.cpu_count(), "zfit": zfit.__version__, "rows": measure()}
    asking = 0.002  # seconds, of a question to one worker on this machine
    if args.workers:
        report["distributed"] = distributed_here(args.workers, 20_000)
        asking = report["distributed"]["asking_cpu_s"] / args.workers
    evaluations = np.polyfit(
        *zip(
            *(
                (row["nuisances"], row["evaluations_of_a_fit"])
                for row in report["rows"]
                if "evaluations_of_a_fit" in row
            ),
            strict=True,
        ),
        1,
    )
    report["evaluations_of_the_fit"] = float(np.polyval(evaluations, args.nuisances))
    for name in ("exact", "accelerated"):
        model = cost_model(report["rows"], name)
        table = predict(model, args.events, args.nuisances, report["evaluations_of_the_fit"], asking)
        report[name] = {"model": model, "fit": table}
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

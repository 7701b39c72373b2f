"""How far densities that are learned from few events are from the truth, with and without the prior of their weights.

    python benchmarks/few_events.py --events 1000 10000 --seeds 2 --json few_events.json
    python benchmarks/few_events.py three modes --events 100000

The gap is the mean of ``log p_true - log p`` over fresh events, in nats per event. Twice the gap times the number of events is
the number of parameters that would cost as much if they were fitted: ``as_parameters``. The peer, ``without``, is the same
density, trained alike, whose weights have no prior. The problems:

* ``given``: one observable whose mean and width depend on a condition.
* ``step``: a narrow peak that jumps where a condition changes its sign.
* ``bent``: two observables, the second around a parabola of the first.
* ``modes``: four separated components in two observables.
* ``three``: three observables given two conditions.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, t

from zfit_fnf.densities.flows import AutoregressiveDensity
from zfit_fnf.train import fit_flow

FRESH = 200_000

Events = dict[str, np.ndarray]


class WithoutPrior(AutoregressiveDensity):
    """The peer."""

    def prior(self) -> tuple[()]:
        return ()


def given(n: int, rng: np.random.Generator) -> tuple[Events, np.ndarray]:
    x = rng.uniform(-1.0, 1.0, n)
    y = rng.normal(np.sin(2.0 * x), 0.3 + 0.2 * x)
    return {"y": y, "x": x}, norm.logpdf(y, np.sin(2.0 * x), 0.3 + 0.2 * x)


def step(n: int, rng: np.random.Generator) -> tuple[Events, np.ndarray]:
    x = rng.uniform(-1.0, 1.0, n)
    y = rng.normal(np.tanh(20.0 * x), 0.15)
    return {"y": y, "x": x}, norm.logpdf(y, np.tanh(20.0 * x), 0.15)


def bent(n: int, rng: np.random.Generator) -> tuple[Events, np.ndarray]:
    a = rng.normal(size=n)
    b = rng.normal(0.5 * (a**2 - 1.0), 0.6)
    return {"a": a, "b": b}, norm.logpdf(a) + norm.logpdf(b, 0.5 * (a**2 - 1.0), 0.6)


MODES = ((-2.0, 0.3, -1.5), (-2.0, 0.5, 1.5), (2.0, 0.4, -1.0), (2.0, 0.8, 2.0))
"""Mean and width in the first observable, and mean in the second one."""


def modes(n: int, rng: np.random.Generator) -> tuple[Events, np.ndarray]:
    mean, width, other = np.array(MODES)[rng.integers(0, len(MODES), n)].T
    a, b = rng.normal(mean, width), rng.normal(other, 0.4)
    return {"a": a, "b": b}, np.log(sum(0.25 * norm.pdf(a, m, w) * norm.pdf(b, o, 0.4) for m, w, o in MODES))


def three(n: int, rng: np.random.Generator) -> tuple[Events, np.ndarray]:
    x1, x2 = rng.normal(size=(2, n))
    a = rng.normal(0.8 * x1, 0.6)
    mean, width = np.sin(1.5 * a) + 0.3 * x2**2, 0.4 * np.exp(0.3 * x1)
    b = rng.normal(mean, width)
    spread = 0.5 * np.exp(0.4 * np.tanh(b))
    tail = rng.standard_t(6, n)
    exact = norm.logpdf(a, 0.8 * x1, 0.6) + norm.logpdf(b, mean, width) + t.logpdf(tail, 6) - np.log(spread)
    return {"a": a, "b": b, "d": 0.5 * a * b + spread * tail, "x1": x1, "x2": x2}, exact


PROBLEMS: dict[str, tuple[Callable[..., tuple[Events, np.ndarray]], list[str], list[str]]] = {
    "given": (given, ["y"], ["x"]),
    "step": (step, ["y"], ["x"]),
    "bent": (bent, ["a", "b"], []),
    "modes": (modes, ["a", "b"], []),
    "three": (three, ["a", "b", "d"], ["x1", "x2"]),
}


def gap(name: str, n: int, seed: int, *, prior: bool) -> dict[str, Any]:
    """That of one training."""
    simulate, obs, cond = PROBLEMS[name]
    rng = np.random.default_rng([seed, n])
    events, _ = simulate(n, rng)
    fresh, truth = simulate(FRESH, rng)
    kind = AutoregressiveDensity if prior else WithoutPrior
    density = kind(len(obs), len(cond), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trainings without the prior say that they learn nothing
        started = time.process_time()
        flow = fit_flow(events, obs=obs, cond=cond, density=density, seed=seed, progress=False)
        seconds = time.process_time() - started
    difference = truth - flow.log_prob(fresh)
    found, error = float(difference.mean()), float(difference.std() / np.sqrt(FRESH))
    return {"gap": found, "error": error, "as_parameters": 2.0 * n * found, "cpu_seconds": seconds}


def main() -> None:
    """Run the study and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", help="all of them, unless some are named")
    parser.add_argument("--events", type=int, nargs="+", default=[1000, 10_000], help="to train on")
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.problems or PROBLEMS:
        for n in arguments.events:
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                both = {word: gap(name, n, seed, prior=word == "with") for word in ("with", "without")}
                ratio = both["without"]["gap"] / both["with"]["gap"]
                rows.append({"problem": name, "events": n, "seed": seed, **both, "ratio": ratio})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

"""How often `validate` finds faults that were planted, and how often it alarms where there is none.

    python benchmarks/verdict.py --repetitions 20 --clean 100 --json verdict.json
    python benchmarks/verdict.py "spurious response" "insufficient map"

Densities are Gaussians in two observables that are known exactly, with two nuisances; each repetition simulates anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import zfit_fnf as zfnf
from zfit_fnf.densities.responses import ShapeResponse

POINTS = [{"a": 1.0}, {"a": -1.0}, {"b": 1.0}, {"b": -1.0}, {"a": 1.0, "b": 1.0}]
SHIFT, STRETCH, CROSS = 0.3, 0.1, 0.2
WIDTHS = np.array([1.0, 2.0])


class Response(ShapeResponse):
    """``a`` shifts the first coordinate, ``b`` stretches the second one, and both together shift the second."""

    def __init__(self, flow: Any, *, cross: float = 0.0):
        self.flow, self._cross = flow, cross
        self.nuisances, self.windows = ("a", "b"), {"a": (-1.0, 1.0), "b": (-1.0, 1.0)}

    def precompute(self, u, c, of_conditions=None):
        return u

    def log_shape(self, nu, u):
        first, second = tf.unstack(u, axis=1)
        moved = tf.stack(
            [first - SHIFT * nu[0], (second - self._cross * nu[0] * nu[1]) * tf.exp(-STRETCH * nu[1])], axis=1
        )
        return self.flow.log_density(moved, tf.zeros_like(u[:, :0])) - STRETCH * nu[1]

    def draw(self, c, nu, seed):
        first, second = tf.unstack(self.flow.draw(c, seed), axis=1)
        return tf.stack([first + SHIFT * nu[0], second * tf.exp(STRETCH * nu[1]) + self._cross * nu[0] * nu[1]], axis=1)


def gaussian(excess: float = 0.0) -> Any:
    """Two independent Gaussians, as a function whose integral is ``1 + excess``."""

    def log_prob(x, context):
        return -0.5 * tf.reduce_sum((x / WIDTHS) ** 2, axis=1) - np.log(2 * np.pi * WIDTHS.prod()) + np.log1p(excess)

    def sampler(context, seed):
        return WIDTHS * tf.random.stateless_normal((tf.shape(context)[0], 2), seed, dtype=tf.float64)

    return zfnf.interop.callable.wrap(log_prob, sampler, obs=["y1", "y2"])


def simulate(density: Response, n: int, seed: int) -> zfnf.Simulation:
    """Nominal and moved samples."""
    seeds = np.random.SeedSequence(seed).generate_state(len(POINTS) + 1).tolist()
    moved = [zfnf.Variation(density.sample(n, nu=at, seed=s), at=at) for at, s in zip(POINTS, seeds[1:], strict=True)]
    return zfnf.Simulation(density.sample(n, seed=seeds[0]), moved)


def replaced(simulation: zfnf.Simulation, change: Callable[[Any], Any]) -> zfnf.Simulation:
    """With another nominal sample, and no variations."""
    return zfnf.Simulation(change(simulation.nominal.copy()))


def with_strangers(events: Any) -> Any:
    """Two per cent of the events are a narrow peak far out."""
    n = len(events) // 50
    events.iloc[:n] = 0.3 * events.iloc[:n] + 3.0
    return events


def partly_moved(events: Any, shift: float) -> Any:
    """Events of which 15 % are moved by two widths, with the mean and the width of events that are all moved by ``shift``."""
    y = events["y1"].to_numpy().copy()
    y[: round(0.15 * len(y))] += 2.0 * np.sign(shift)
    return events.assign(y1=shift + (y - y.mean()) / y.std())


def cases(n: int) -> dict[str, Callable[[int], tuple[Any, zfnf.Simulation]]]:
    """What is validated with which simulation, by fault."""
    flow, wrong = gaussian(), gaussian(0.03)
    right, crossed = Response(flow), Response(flow, cross=CROSS)

    def flipped(seed: int) -> tuple[Any, zfnf.Simulation]:
        good = simulate(right, n, seed)
        sides = [zfnf.Variation(v.events, at={k: -x for k, x in v.at.items()}) for v in good.variations]
        return right, zfnf.Simulation(good.nominal, sides)

    def spurious(seed: int) -> tuple[Any, zfnf.Simulation]:
        good = simulate(right, n, seed)
        none = zfnf.Variation(right.sample(n, seed=seed + 1), at={"a": 1.0})
        return right, zfnf.Simulation(good.nominal, [none, *good.variations[1:]])

    def composed(seed: int) -> tuple[Any, zfnf.Simulation]:
        good, one = simulate(right, n, seed), "a"
        sides = [
            zfnf.Variation(partly_moved(flow.sample(n, seed=seed + 1 + k), SHIFT * v.at[one]), at=v.at)
            if set(v.at) == {one}
            else v
            for k, v in enumerate(good.variations)
        ]
        return right, zfnf.Simulation(good.nominal, sides)

    return {
        "none": lambda seed: (right, simulate(right, n, seed)),
        "sign flipped": flipped,
        "missing interaction": lambda seed: (right, simulate(crossed, n, seed)),
        "spurious response": spurious,
        "insufficient map": composed,
        "1 % too wide at 100k events": lambda seed: (
            flow,
            zfnf.Simulation(flow.sample(100_000, seed=seed) * np.array([1.01, 1.0])),
        ),
        "not normalised by 3 %": lambda seed: (wrong, zfnf.Simulation(wrong.sample(n, seed=seed))),
        "2 % from elsewhere": lambda seed: (flow, replaced(zfnf.Simulation(flow.sample(n, seed=seed)), with_strangers)),
        "swapped observables": lambda seed: (
            flow,
            zfnf.Simulation(flow.sample(n, seed=seed).rename(columns={"y1": "y2", "y2": "y1"})),
        ),
    }


def main() -> None:
    """Run all cases and print the share of repetitions that did not pass as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help="all of them, unless some are named")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--clean", type=int, default=100, help="repetitions without a fault")
    parser.add_argument("--events", type=int, default=10_000, help="simulated events of each sample")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report, started, known = {}, time.process_time(), cases(args.events)
    if unknown := set(args.faults) - set(known):
        parser.error(f"there is no fault {sorted(unknown)}; there are {list(known)}")
    for fault in args.faults or known:
        n = args.clean if fault == "none" else args.repetitions
        found = [
            not zfnf.diagnostics.validate(*known[fault](args.seed * 100_000 + 100 * k), seed=args.seed + k).passed
            for k in range(n)
        ]
        report[fault] = {"repetitions": n, "not_passed": int(sum(found))}
    report["cpu_seconds"] = time.process_time() - started
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

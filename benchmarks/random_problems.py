r"""Responses of problems that are drawn at random, by default trainings, against their exact densities.

    python benchmarks/random_problems.py --problems 40 --first-seed 1 --json random_problems.json

Each problem has one to three observables given none to two conditions, and a nuisance that moves events or changes their
weights, by sizes from a hundredth to four tenths, with samples at one, two or three points: of other events, of other events
with weights of both signs, or of other weights of the same events. The rank ``v`` of the first observable is uniform, so that
what a nuisance does to its density is known in closed form.

At four values of the nuisance, from 200,000 fresh events: the gap to the exact density; the information that the response
claims over the exact one, ``ratio``, for a fit to a fifth as many events as there are in a sample; and by how much this fit
would be off, in errors of the exact one. Samples alone are off by about half an error: more than two deserve a
look.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit, ndtri

import zfit_fnf as zfnf

FRESH = 200_000
VALUES = (0.0, 1.0, -1.0, 0.5)
STEP = 0.02  # of scores
RANKS = (np.arange(4000) + 0.5) / 4000
CONDITIONS = np.linspace(-6.0, 6.0, 241)
UNSEEN = 1e-12  # of ranks

Events = dict[str, np.ndarray]

LAWS: dict[str, tuple[Any, tuple[float, float] | None]] = {
    "normal": (stats.norm(), None),
    "tails": (stats.t(5), None),
    "gamma": (stats.gamma(2), (0.0, np.inf)),
    "lognormal": (stats.lognorm(0.6), (0.0, np.inf)),
    "beta": (stats.beta(2, 5), (0.0, 1.0)),
    "edge": (stats.beta(0.8, 2.5), (0.0, 1.0)),
    "uniform": (stats.uniform(), (0.0, 1.0)),
    "exponential": (stats.truncexpon(3), (0.0, 3.0)),
}
"""Of the first observable, and its range."""

OTHERS = {"normal": stats.norm(), "tails": stats.t(5), "gamma": stats.gamma(4)}
"""Of what the second one adds to the first; smooth where they begin, since the information would not be finite otherwise."""

WEIGHTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "tilt": lambda v, place: 2.0 * (2.0 * v - 1.0),
    "step": lambda v, place: 1.5 * expit((v - place) / 0.03),
    "bump": lambda v, place: 1.5 * np.exp(-0.5 * np.square((v - place) / 0.05)),
    "tail": lambda v, place: 1.5 * expit((v - 0.96) / 0.004),
}
"""Logarithms of weights for a nuisance of one, as functions of the rank."""


@dataclass(frozen=True)
class Problem:
    """One problem, drawn with its seed."""

    seed: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What it is, ready for JSON."""
        rng = np.random.default_rng(self.seed)
        law = str(rng.choice(list(LAWS)))
        bounded = LAWS[law][1] is not None and np.isfinite(LAWS[law][1][1])
        effect = str(rng.choice([*WEIGHTS, *([] if bounded else ["scale", "scale"])]))
        samples = ["others", "both signs", *(["same"] if effect in WEIGHTS else [])]
        return {
            "law": law,
            "effect": effect,
            "observables": int(rng.integers(1, 4)),
            "conditions": int(rng.integers(0, 3)),
            "other": str(rng.choice(list(OTHERS))),
            "size": float(np.exp(rng.uniform(np.log(0.01), np.log(0.4)))),
            "asymmetry": float(rng.choice([0.0, 0.0, 0.3])),
            "place": float(rng.uniform(0.2, 0.9)),
            "events": int(rng.choice([20_000, 50_000, 100_000])),
            "samples": str(rng.choice(samples)),
            "at": [[1.0, -1.0], [1.0, -1.0], [1.0], [2.0, -2.0], [0.5, 1.0, -1.0]][rng.integers(5)],
        }

    @property
    def obs(self) -> list[str]:
        return ["y1", "y2", "y3"][: self.settings["observables"]]

    @property
    def cond(self) -> list[str]:
        return ["x1", "x2"][: self.settings["conditions"]]

    def moved(self, nu: float) -> float:
        """Size of the effect at a value of the nuisance."""
        return float(self.settings["size"] * (nu + self.settings["asymmetry"] * nu**2))

    def log_weights(self, v: np.ndarray, x1: np.ndarray | float, nu: float) -> np.ndarray:
        """Normalised for each condition."""
        if self.settings["effect"] not in WEIGHTS:
            return np.zeros_like(v)
        weights, place = WEIGHTS[self.settings["effect"]], self.settings["place"]
        size, steeper = self.moved(nu), 1.0 + 0.8 * np.tanh(x1)
        whole = [np.log(np.exp(size * s * weights(RANKS, place)).mean()) for s in 1.0 + 0.8 * np.tanh(CONDITIONS)]
        return size * steeper * weights(v, place) - np.interp(x1, CONDITIONS, whole)

    def power(self, events: Events) -> np.ndarray | float:
        """By which conditions change the ranks."""
        x1, x2 = (events.get(name, np.zeros(1)) for name in ("x1", "x2"))
        return np.exp(0.4 * x1 + 0.3 * np.sin(x2))

    def drawn(self, n: int, nu: float, rng: np.random.Generator) -> tuple[Events, np.ndarray]:
        """Events where the nuisance has moved them, and their ranks; not weighted."""
        x1, x2 = rng.normal(size=(2, n))
        events: Events = {
            name: x for name, x in zip(("x1", "x2"), (x1, x2 + 0.3 * x1), strict=True) if name in self.cond
        }
        v, law = rng.random(n), LAWS[self.settings["law"]][0]
        stretched = np.exp(0.5 * self.moved(nu)) if self.settings["effect"] == "scale" else 1.0
        events["y1"] = stretched * law.ppf(v ** self.power(events))
        added = OTHERS[self.settings["other"]].rvs(n, random_state=rng)
        events["y2"] = 0.7 * ndtri(np.clip(v, UNSEEN, 1.0 - UNSEEN)) + added
        events["y3"] = 0.4 * added + stats.t.rvs(4, size=n, random_state=rng)
        return {name: events[name] for name in (*self.obs, *self.cond)}, v

    def sample(self, n: int, nu: float, rng: np.random.Generator) -> Events:
        """Events at a value of the nuisance, by acceptance of those with random weights."""
        parts: list[Events] = []
        while sum(len(part["y1"]) for part in parts) < n:
            events, v = self.drawn(2 * n, nu, rng)
            log_weights = self.log_weights(v, events.get("x1", 0.0), nu)
            kept = np.log(rng.random(2 * n)) < log_weights - max(2.0, log_weights.max())
            parts.append({name: values[kept] for name, values in events.items()})
        return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}

    def simulation(self, rng: np.random.Generator) -> zfnf.Simulation:
        """The nominal sample and the variations."""
        n, points = self.settings["events"], self.settings["at"]
        if self.settings["samples"] == "same":
            events, v = self.drawn(n, 0.0, rng)
            for number, nu in enumerate(points):
                events[f"w{number}"] = np.exp(self.log_weights(v, events.get("x1", 0.0), nu))
            return zfnf.Simulation(
                events, [zfnf.Variation(at={"a": nu}, weights=f"w{number}") for number, nu in enumerate(points)]
            )
        samples = [self.sample(n, nu, rng) for nu in (0.0, *points)]
        signed = self.settings["samples"] == "both signs"
        for sample in samples if signed else ():
            sample["w"] = np.where(rng.random(n) < 0.12, -1.0, 1.0)
        variations = [zfnf.Variation(sample, at={"a": nu}) for sample, nu in zip(samples[1:], points, strict=True)]
        return zfnf.Simulation(samples[0], variations, weights="w" if signed else None)

    def log_prob(self, events: Events, nu: float) -> np.ndarray:
        """The exact log-density of the observables given the conditions."""
        law, scale = LAWS[self.settings["law"]][0], 0.5 * self.moved(nu) * (self.settings["effect"] == "scale")
        y1, power = events["y1"] * np.exp(-scale), self.power(events)
        below = np.clip(law.cdf(y1), 1e-300, 1.0 - 1e-16)
        v = below ** (1.0 / power)
        found = law.logpdf(y1) - scale - np.log(power) + (1.0 / power - 1.0) * np.log(below)
        found = found + self.log_weights(v, events.get("x1", 0.0), nu)
        added = events["y2"] - 0.7 * ndtri(np.clip(v, UNSEEN, 1.0 - UNSEEN)) if "y2" in events else None
        if added is not None:
            found = found + OTHERS[self.settings["other"]].logpdf(added)
        if added is not None and "y3" in events:
            found = found + stats.t.logpdf(events["y3"] - 0.4 * added, 4)
        return np.asarray(found)


def solved(seed: int) -> dict[str, Any]:
    """One problem, what was learned of it, and how good that is."""
    problem, rng = Problem(seed), np.random.default_rng([seed, 1])
    law_range = LAWS[problem.settings["law"]][1]
    simulation, n_data = problem.simulation(rng), problem.settings["events"] / 5
    started = time.process_time()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = zfnf.train.fit_process(
            simulation,
            obs=problem.obs,
            cond=problem.cond,
            ranges=None if law_range is None else {"y1": law_range},
            seed=1,
            progress=False,
            n_data=n_data,
        ).model
    seconds = time.process_time() - started
    record = model.history["a"]

    def learned(events: Events, nu: float) -> np.ndarray:
        return np.asarray(model.log_prob(events, nu={"a": nu}))

    def score(log_prob: Callable[[Events, float], np.ndarray], events: Events, nu: float) -> np.ndarray:
        return (log_prob(events, nu + STEP) - log_prob(events, nu - STEP)) / (2.0 * STEP)

    points = []
    for nu in VALUES:
        events = problem.sample(FRESH, nu, rng)
        exact, own = (score(log_prob, events, nu) for log_prob in (problem.log_prob, learned))
        information, claimed = n_data * float(exact.var()), n_data * float(own.var())
        off = n_data * float((own - exact).mean()) / (claimed + 1.0) * np.sqrt(information + 1.0)
        points.append(
            {
                "nu": nu,
                "gap": float((problem.log_prob(events, nu) - learned(events, nu)).mean()),
                "information": information,
                "ratio": claimed / information,
                "off": float(off),
            }
        )
    return {
        "seed": seed,
        **problem.settings,
        "kind": record.claim.kind if record.claim else None,
        "notes": record.notes,
        "told": [str(each.message) for each in told if issubclass(each.category, UserWarning)],
        "points": points,
        "cpu_seconds": seconds,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the problems whose nuisance has a response."""
    kept = [row for row in rows if row["kind"] != "pruned"]
    found: dict[str, Any] = {"problems": len(rows), "with_response": len(kept)}
    for number, nu in enumerate(VALUES):
        points = [row["points"][number] for row in kept]
        off = np.array([point["off"] for point in points])
        ratios = [point["ratio"] for point in points if point["information"] > 9.0]
        found[f"nu={nu:+g}"] = {
            "rms_off": float(np.sqrt(np.mean(np.square(off)))) if len(off) else None,
            "largest_off": float(np.abs(off).max()) if len(off) else None,
            "ratio_16_50_84": np.quantile(ratios, [0.16, 0.5, 0.84]).tolist() if ratios else None,
        }
    return found


def one_by_one(solve: Callable[[int], dict[str, Any]], seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
    """What was found of each problem, printed as a line of JSON; compiled programs of one are of no use to the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as executor:
        for row in executor.map(solve, seeds):
            print(json.dumps(row), flush=True)
            yield row


def study(
    doc: str | None,
    solve: Callable[..., dict[str, Any]],
    summarised: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    problems: int = 10,
    data: int | None = None,
) -> None:
    """The command line of a random study: runs it and prints its JSON.

    Args:
        doc: What it is.
        solve: Solves the problem of a seed, with ``n_data`` data sets if there are some.
        summarised: Summary of what was found.
        problems: Number of problems, by default.
        data: Number of data sets of each, by default; none, if that is not for users to choose.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=problems)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    if data is not None:
        parser.add_argument("--data", type=int, default=data, help="data sets of each problem")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.problems)
    rows = list(one_by_one(solve if data is None else partial(solve, n_data=arguments.data), seeds))
    print(json.dumps(summarised(rows), indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summarised(rows), "problems": rows}, indent=2))


if __name__ == "__main__":
    study(__doc__, solved, summary, problems=40)

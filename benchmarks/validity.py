"""Whether calibrated likelihoods are right whatever their densities are: pulls and coverage over independent repetitions.

    python benchmarks/validity.py gaussian --repetitions 100 --ratio 1 --minos
    python benchmarks/validity.py skewed wide off interaction --json validity.json
    python benchmarks/validity.py skewed wide off interaction --folds 2

Each repetition simulates and learns anew: densities are Gaussians with the moments of a training sample, so that learning costs
nothing, and are calibrated with an independent simulation of the same size, ``--ratio`` times the data; with ``--folds`` it is
the same simulation, of which each density has seen a part. There are 10k data
events, a signal strength ``mu``, a yield ``nb`` of the background and two nuisances, at 0.8 each. The cases:

* ``gaussian``: the family is right; only finite simulation matters.
* ``skewed``: the signal is skewed, which no Gaussian describes.
* ``tails``: both processes have tails of a Student distribution with five degrees of freedom, of which few events make most of
  the scores' variance.
* ``wide``: the signal's density is 10 % too wide.
* ``off``: the signal's response to the nuisance ``shift`` is missing.
* ``interaction``: the product of the two nuisances moves the signal, and the deformation does not know it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zfit
import numpy as np
import tensorflow as tf

import zfit_fnf as zfnf
from zfit_fnf.densities.responses import ShapeResponse

CASES = ("gaussian", "skewed", "tails", "wide", "off", "interaction")
POINTS = [{"shift": 1}, {"shift": -1}, {"scale": 1}, {"scale": -1}]
CORNERS = [{"shift": a, "scale": b} for a in (1, -1) for b in (1, -1)]
YIELDS = {"signal": 2000.0, "background": 8000.0}
TRUTH = {"mu": 1.0, "nb": YIELDS["background"], "shift": 0.8, "scale": 0.8}
RESPONSES = {"signal": (0.25, 0.10), "background": (0.10, 0.03)}
"""How far one standard deviation of ``shift`` moves events, in their widths, and by how much one of ``scale`` stretches them."""


@dataclass(frozen=True)
class Process:
    """The truth of a process: ``y = mean + width (z + shift nu_1 + cross nu_1 nu_2) exp(scale nu_2)``."""

    name: str
    mean: float
    width: float
    skewed: bool = False
    cross: float = 0.0
    strength: float = 1.0
    tails: bool = False

    def draw(self, nu: Mapping[str, float], n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self.skewed:
            z = (rng.gamma(2.0, size=n) - 2.0) / np.sqrt(2.0)
        else:
            z = np.sqrt(3 / 5) * rng.standard_t(5, size=n) if self.tails else rng.normal(size=n)
        return {"y": self.mean + self.width * self.moved(z, nu.get("shift", 0.0), nu.get("scale", 0.0))}

    def moved(self, z: np.ndarray, first: float, second: float) -> np.ndarray:
        shift, scale = (self.strength * size for size in RESPONSES[self.name])
        return (z + shift * first + self.cross * first * second) * np.exp(scale * second)

    def simulate(self, n: int, rng: np.random.Generator) -> zfnf.Simulation:
        points = POINTS + (CORNERS if self.cross else [])
        return zfnf.Simulation(self.draw({}, n, rng), [zfnf.Variation(self.draw(at, n, rng), at=at) for at in points])


class LearnedGaussian:
    """A Gaussian flow whose moments are variables: learned anew, it is compiled once."""

    obs, cond, ranges = ("y",), (), {"y": (-np.inf, np.inf)}

    def __init__(self) -> None:
        self.mean, self.sigma = tf.Variable(0.0, dtype=tf.float64), tf.Variable(1.0, dtype=tf.float64)

    def encode(self, y, x):
        return (y - self.mean) / self.sigma, x, tf.fill(tf.shape(y)[:1], -tf.math.log(self.sigma))

    def decode(self, u):
        return u * self.sigma + self.mean

    def log_density(self, u, c):
        return -0.5 * tf.reduce_sum(u**2 + np.log(2 * np.pi), axis=-1)

    def precompute(self, c):
        return c

    def log_density_at(self, u, c):
        return self.log_density(u, c)

    def draw(self, c, seed):
        return tf.random.stateless_normal((tf.shape(c)[0], 1), seed, dtype=c.dtype)


class LearnedResponse(ShapeResponse):
    """``T(u) = u exp(s) + t`` with polynomials ``s`` and ``t`` of two nuisances that are the same for every event."""

    nuisances = ("shift", "scale")
    windows, yields = {"shift": (-1.0, 1.0), "scale": (-1.0, 1.0)}, {}

    def __init__(self, flow: LearnedGaussian):
        self.flow, self.table = flow, tf.Variable(tf.zeros((4, 2), tf.float64))

    def precompute(self, u, c, of_conditions=None):
        return u

    def log_shape(self, nu, u):
        scale, shift = self._moved(nu)
        return self.flow.log_density(u * tf.exp(scale) + shift, None) + scale

    def draw(self, c, nu, seed):
        scale, shift = self._moved(nu)
        return (self.flow.draw(c, seed) - shift) * tf.exp(-scale)

    def _moved(self, nu):
        return tf.unstack(
            tf.linalg.matvec(self.table, tf.reshape(tf.stack([nu, nu**2], axis=-1), (-1,)), transpose_a=True)
        )

    def learn(self, simulation: zfnf.Simulation, *, stretch: float = 1.0, without: str = "") -> None:
        """Take the moments of the simulation, apart from what is spoilt on purpose."""
        y = simulation.nominal["y"]
        mean, sigma = y.mean(), y.std()
        table = np.zeros((2, 2, 2))
        for index, name in enumerate(self.nuisances):
            if name == without:
                continue
            maps = []
            for side in (1, -1):
                moved = next(v.events["y"] for v in simulation.variations if v.at == {name: side})
                maps.append((np.log(sigma / moved.std()), (mean - moved.mean()) / moved.std()))
            up, down = np.array(maps)
            table[index] = 0.5 * (up - down), 0.5 * (up + down)
        self.flow.mean.assign(mean)
        self.flow.sigma.assign(sigma * stretch)
        self.table.assign(table.reshape(4, 2))


def joined(parts: list[zfnf.Simulation]) -> zfnf.Simulation:
    """All events of several simulations of the same points."""
    columns = zip(*([part.nominal["y"], *(v.events["y"] for v in part.variations)] for part in parts), strict=True)
    nominal, *moved = ({"y": np.concatenate(ones)} for ones in columns)
    places = [v.at for v in parts[0].variations]
    return zfnf.Simulation(nominal, [zfnf.Variation(y, at=at) for y, at in zip(moved, places, strict=True)])


class Experiment:
    """The model of a case, its likelihoods and its truth."""

    def __init__(self, case: str, folds: int = 1):
        self.case = case
        self.processes = [
            Process(
                "signal", 1.0, 0.5, case == "skewed", 0.25 if case == "interaction" else 0.0, tails=case == "tails"
            ),
            Process("background", 0.0, 1.5, tails=case == "tails"),
        ]
        self.mu = zfit.Parameter("mu", 1.0, 0, 20, stepsize=0.1)
        self.nb = zfit.Parameter("nb", YIELDS["background"], 0, 1e5, stepsize=80)
        self.nuisances = {name: zfnf.nuisance(name) for name in LearnedResponse.nuisances}
        yields = {"signal": zfnf.modified_yield(YIELDS["signal"], [self.mu]), "background": self.nb}
        self.responses = [
            {one.name: LearnedResponse(LearnedGaussian()) for one in self.processes} for _ in range(folds)
        ]
        models = [
            zfnf.pdf.SumPDF(
                [
                    zfnf.pdf.FNFPDF(response, self.nuisances, extended=yields[name], name=name)
                    for name, response in responses.items()
                ]
            )
            for responses in self.responses
        ]
        self.model = models[0] if folds == 1 else zfnf.pdf.FoldedPDF(models)

    @property
    def truth(self) -> dict[zfit.Parameter, float]:
        return {one: TRUTH[one.name] for one in (self.mu, self.nb, *self.nuisances.values())}

    def repeat(self, ratio: float, seed: int, *, minos: bool = False) -> dict[str, Any]:
        """Simulate, learn, observe, fit and calibrate."""
        rng = np.random.default_rng(seed)
        zfit.param.set_values({**self.truth, **{nu.observed: rng.normal(nu_true) for nu, nu_true in self._auxiliary()}})
        held_out = self.learn(ratio, rng)
        data = [process.draw(TRUTH, rng.poisson(YIELDS[process.name]), rng)["y"] for process in self.processes]
        nll = zfnf.loss.ExtendedUnbinnedNLL(self.model, {"y": np.concatenate(data)})
        naive = self._fit(nll, minos=False)
        zfit.param.set_values(self.truth)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            trusted = zfnf.calibrate(nll, held_out, n_draws=30_000, seed=seed)
            return {"naive": naive, "calibrated": self._fit(trusted, minos=minos)}

    def learn(self, ratio: float, rng: np.random.Generator) -> dict[str, Any]:
        """Learn all densities; the simulation that they have not seen, of each fold the part that has taught the others."""
        folds, held_out = len(self.responses), {}
        for process in self.processes:
            n = round(ratio * YIELDS[process.name] / folds)
            parts = [process.simulate(n, rng) for _ in range(max(folds, 2))]
            for fold, responses in enumerate(self.responses):
                others = parts[1:] if folds == 1 else [part for k, part in enumerate(parts) if k != fold]
                responses[process.name].learn(
                    joined(others),
                    stretch=1.1 if self.case == "wide" and process.name == "signal" else 1.0,
                    without="shift" if self.case == "off" and process.name == "signal" else "",
                )
            held_out[process.name] = parts[0] if folds == 1 else parts
        return held_out

    def _auxiliary(self):
        return [(nu, TRUTH[name]) for name, nu in self.nuisances.items()]

    def _fit(self, nll: Any, *, minos: bool) -> dict[str, dict[str, float]]:
        result = zfnf.Minuit().minimize(nll)
        result.hesse()
        sides = result.errors(list(self.truth))[0] if minos else {}
        found = {}
        for one, truth in self.truth.items():
            value, error = result.params[one]["value"], result.params[one]["hesse"]["error"]
            found[one.name] = {"pull": (value - truth) / error, "error": error}
            if minos:
                found[one.name]["minos"] = value + sides[one]["lower"] <= truth <= value + sides[one]["upper"]
        return found


def summary(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and width of pulls, and coverage, of each parameter."""
    result: dict[str, Any] = {}
    for kind in ("naive", "calibrated"):
        for name in TRUTH:
            rows = [one[kind][name] for one in repetitions]
            pulls = np.array([row["pull"] for row in rows])
            result.setdefault(kind, {})[name] = {
                "mean": float(pulls.mean()),
                "width": float(pulls.std(ddof=1)) if len(pulls) > 1 else None,
                "hesse_covers": float(np.mean(np.abs(pulls) < 1)),
                "mean_error": float(np.mean([row["error"] for row in rows])),
                **({"minos_covers": float(np.mean([row["minos"] for row in rows]))} if "minos" in rows[0] else {}),
            }
    return result


def main() -> None:
    """Run cases and print their figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--ratio", type=float, default=1.0, help="simulated events of each sample per data event")
    parser.add_argument("--folds", type=int, default=1, help="two or more: cross-fitted, all events are used for both")
    parser.add_argument("--minos", action="store_true", help="intervals of MINOS too, which take most of the time")
    parser.add_argument("--minutes", type=float, default=np.inf, help="of CPU for each case, after which it ends")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = {}
    for case in args.cases:
        experiment, started = Experiment(case, args.folds), time.process_time()
        seeds = np.random.SeedSequence([args.seed, CASES.index(case)]).generate_state(args.repetitions)
        repetitions, failed = [], []
        for seed in seeds:
            if time.process_time() - started > 60 * args.minutes:
                break
            try:
                repetitions.append(experiment.repeat(args.ratio, int(seed), minos=args.minos))
            except (RuntimeError, ValueError) as error:
                failed.append(str(error))
            seconds = (time.process_time() - started) / (len(repetitions) + len(failed))
            report[case] = {
                "ratio": args.ratio,
                "folds": args.folds,
                "repetitions": len(repetitions),
                "failed": failed,
                **(summary(repetitions) if repetitions else {}),
                "cpu_seconds_per_repetition": seconds,
            }
            if args.json:  # the others take a while
                args.json.write_text(json.dumps(report, indent=2))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

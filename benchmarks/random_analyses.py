r"""Analyses that are drawn at random, by default trainings and fits, against fits of their exact likelihoods.

    python benchmarks/random_analyses.py --problems 10 --first-seed 1 --json random_analyses.json

A signal and a background in one or two observables, the first one in a range, learned together or the second one given the
first; two nuisances, each of which moves events of a
process, changes their weights, or leaves them alone, and both change its yield. Samples of other events or of other weights of
the same events, at one or both sides; where one nuisance changes what the other one does there are joint samples too. The
density of the first observable is normalised on a grid, everything else is known in closed form.

Each analysis is learned once, judged by :func:`~zfit_fnf.diagnostics.validate` with as many fresh events, and fitted to
``--data`` data sets of nuisances that are drawn from their constraints within the samples, as learned and calibrated with
the fresh events. Each estimate is compared with that of the exact likelihood of the same events: ``off``, the difference in
exact errors, and ``ratio``, the error over the exact one.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import zfit
import iminuit
import numpy as np
from random_problems import WEIGHTS, study
from scipy import stats

import zfit_fnf as zfnf

LOW, HIGH = 0.0, 10.0
GRID = np.linspace(LOW, HIGH, 10_001)
NUISANCES = ("a", "b")

Events = dict[str, np.ndarray]

SIGNALS = {"normal": stats.norm(), "tails": stats.t(5), "skewed": stats.gamma(4, loc=-4, scale=0.5)}
BACKGROUNDS = {"falling": stats.expon(loc=-1.0), "broad": stats.gamma(3), "flat": stats.norm(2.0, 3.0)}
"""Without edges that would move within the range, of which fits would know everything."""

REWEIGHTED = ("tilt", "step", "bump")
"""Of `random_problems.WEIGHTS`."""


@dataclass(frozen=True)
class Process:
    """A process whose density is known."""

    name: str
    law: Any
    loc: float
    width: float
    tilt: float
    centre: float
    effects: Mapping[str, tuple[str, float, float]]
    """Of each nuisance its kind, its size and its place."""
    cross: float
    obs: tuple[str, ...]

    def size(self, name: str, nu: Mapping[str, float]) -> float:
        """By how much a nuisance moves something; ``cross`` is what the second one adds to the first one's."""
        kind, size, _ = self.effects[name]
        return size * nu[name] * (1.0 + (self.cross * nu["b"] if name == "a" else 0.0)) if kind != "none" else 0.0

    def total(self, kind: str, nu: Mapping[str, float]) -> float:
        return sum(self.size(name, nu) for name, (of, _, _) in self.effects.items() if of == kind)

    def standard(self, y: np.ndarray, nu: Mapping[str, float]) -> np.ndarray:
        """What the first observable is before it is moved, in its widths."""
        return (y - self.loc - self.width * self.total("shift", nu)) / (self.width * np.exp(self.total("scale", nu)))

    def unnormalised(self, y: np.ndarray, nu: Mapping[str, float]) -> np.ndarray:
        """Of the first observable."""
        z = self.standard(y, nu)
        v, log = self.law.cdf(z), np.zeros_like(z)
        for name, (kind, _, place) in self.effects.items():
            if kind in WEIGHTS:
                log = log + self.size(name, nu) * WEIGHTS[kind](v, place)
        return np.asarray(self.law.pdf(z) * np.exp(log))

    def sample(self, n: int, nu: Mapping[str, float], rng: np.random.Generator) -> Events:
        density = self.unnormalised(GRID, nu)
        below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
        events = {"y1": np.interp(rng.random(n), below / below[-1], GRID)}
        if "y2" in self.obs:
            events["y2"] = self.middle(events["y1"], nu) + rng.normal(size=n)
        return events

    def middle(self, y: np.ndarray, nu: Mapping[str, float]) -> np.ndarray:
        """Of the second observable, given the first."""
        return self.centre + self.total("second", nu) + self.tilt * np.tanh(self.standard(y, nu))

    def density(self, events: Events, nu: Mapping[str, float]) -> np.ndarray:
        whole = np.trapezoid(self.unnormalised(GRID, nu), GRID)
        found = self.unnormalised(events["y1"], nu) / whole
        return found * stats.norm.pdf(events["y2"] - self.middle(events["y1"], nu)) if "y2" in self.obs else found


@dataclass(frozen=True)
class Analysis:
    """One analysis, drawn with its seed."""

    seed: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What it is, ready for JSON."""
        rng = np.random.default_rng(self.seed)
        second = bool(rng.integers(2))
        kinds = ["none", "shift", "scale", *REWEIGHTED, *(["second"] * 2 if second else [])]

        def drawn(*, small: float, large: float) -> dict[str, tuple[str, float, float]]:
            return {
                name: (
                    str(rng.choice(kinds)),
                    float(rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(small), np.log(large)))),
                    float(rng.uniform(0.2, 0.9)),
                )
                for name in NUISANCES
            }

        return {
            "obs": ["y1", "y2"] if second else ["y1"],
            "signal": str(rng.choice(list(SIGNALS))),
            "background": str(rng.choice(list(BACKGROUNDS))),
            "loc": float(rng.uniform(2.0, 7.0)),
            "width": float(rng.uniform(0.3, 1.0)),
            "broad": float(rng.uniform(1.5, 3.0)),
            "signal_effects": drawn(small=0.02, large=0.4),
            "background_effects": drawn(small=0.01, large=0.15),
            "cross": float(rng.choice([0.0, 0.0, 0.4])),
            "samples": str(rng.choice(["others", "others", "same"])),
            "sides": [[1.0, -1.0], [1.0, -1.0], [1.0], [2.0, -2.0]][rng.integers(4)],
            "events": int(rng.choice([20_000, 50_000, 100_000])),
            "yields": [float(rng.choice([300, 1000, 3000])), 10_000.0],
            "kappas": rng.uniform(0.9, 1.1, size=(2, 2)).tolist(),
            "factors": 2 if second and rng.integers(2) else 1,
        }

    @property
    def factors(self) -> list[tuple[list[str], list[str]]]:
        """Observables and conditions of the densities of each process."""
        return [(["y2"], ["y1"]), (["y1"], [])] if self.settings["factors"] == 2 else [(self.settings["obs"], [])]

    @cached_property
    def processes(self) -> list[Process]:
        has = self.settings
        common = {"cross": has["cross"], "obs": tuple(has["obs"])}
        return [
            Process(
                "signal",
                SIGNALS[has["signal"]],
                has["loc"],
                has["width"],
                0.5,
                1.0,
                has["signal_effects"],
                **common,
            ),
            Process(
                "background",
                BACKGROUNDS[has["background"]],
                0.0,
                has["broad"],
                -0.4,
                0.0,
                has["background_effects"],
                **common,
            ),
        ]

    def points(self, process: Process) -> list[dict[str, float]]:
        found = [{name: side} for name in NUISANCES for side in self.settings["sides"]]
        if process.cross and process.effects["a"][0] != "none":
            found += [{"a": a, "b": b} for a in self.settings["sides"] for b in self.settings["sides"]]
        return found

    def simulation(self, process: Process, rng: np.random.Generator) -> zfnf.Simulation:
        zero, n = dict.fromkeys(NUISANCES, 0.0), self.settings["events"]
        nominal, points = process.sample(n, zero, rng), self.points(process)
        movers = {"shift", "scale", "second"}
        if self.settings["samples"] == "same" and not movers & {kind for kind, _, _ in process.effects.values()}:
            before = process.density(nominal, zero)
            weighted = {f"w{k}": process.density(nominal, zero | at) / before for k, at in enumerate(points)}
            return zfnf.Simulation(
                nominal | weighted, [zfnf.Variation(at=at, weights=f"w{k}") for k, at in enumerate(points)]
            )
        return zfnf.Simulation(nominal, [zfnf.Variation(process.sample(n, zero | at, rng), at=at) for at in points])

    def yields(self, nu: Mapping[str, float]) -> np.ndarray:
        powers = np.array([nu[name] for name in NUISANCES])
        return np.asarray(self.settings["yields"]) * np.prod(np.asarray(self.settings["kappas"]) ** powers, axis=1)

    def data(self, nu: Mapping[str, float], rng: np.random.Generator) -> Events:
        parts = [
            process.sample(rng.poisson(n), nu, rng) for process, n in zip(self.processes, self.yields(nu), strict=True)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.settings["obs"]}

    def exact(self, data: Events) -> tuple[np.ndarray, np.ndarray]:
        """Estimates and errors of ``mu``, ``nb``, ``a`` and ``b`` from the exact likelihood."""

        def nll(mu: float, nb: float, a: float, b: float) -> float:
            nu = {"a": a, "b": b}
            n = self.yields(nu) * (mu, nb)
            density = sum(k * process.density(data, nu) for k, process in zip(n, self.processes, strict=True))
            return float(2.0 * (n.sum() - np.log(np.maximum(density, 1e-300)).sum()) + a**2 + b**2)

        minuit = iminuit.Minuit(nll, mu=1.0, nb=1.0, a=0.0, b=0.0)
        minuit.errors = (0.1, 0.02, 0.5, 0.5)
        minuit.limits["mu"] = (-5.0, 20.0)
        minuit.migrad().hesse()
        return np.array(minuit.values), np.array(minuit.errors)


def estimates(loss: Any, parameters: list[Any]) -> dict[str, Any]:
    """Of one fit, with what it says of itself."""
    for parameter, start in zip(parameters, (1.0, 1.0, 0.0, 0.0), strict=True):
        parameter.set_value(start)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = zfnf.Minuit().minimize(loss)
        hesse = result.hesse()
    return {
        "values": [float(result.params[parameter]["value"]) for parameter in parameters],
        "errors": [float(hesse[parameter]["error"]) if parameter in hesse else np.nan for parameter in parameters],
        "valid": bool(result.valid),
        "told": sentences(told),
    }


def learned(analysis: Analysis, simulations: Mapping[str, zfnf.Simulation]) -> dict[str, list[Any]]:
    """The densities of each process."""
    return {
        process.name: [
            zfnf.train.fit_process(
                simulations[process.name],
                obs=obs,
                cond=cond,
                ranges={"y1": (LOW, HIGH)} if "y1" in obs else None,
                seed=analysis.seed,
                progress=False,
                n_data=n,
            ).model
            for obs, cond in analysis.factors
        ]
        for process, n in zip(analysis.processes, analysis.settings["yields"], strict=True)
    }


def model_of(analysis: Analysis, densities: Mapping[str, list[Any]]) -> tuple[Any, list[Any]]:
    """The sum of the processes, and its parameters ``mu``, ``nb``, ``a`` and ``b``."""
    mu, nb = zfit.Parameter("mu", 1.0, -5.0, 20.0), zfit.Parameter("nb", 1.0, 0.0, 5.0)
    nuisances = {name: zfnf.nuisance(name) for name in NUISANCES}
    numbers, all_kappas = analysis.settings["yields"], analysis.settings["kappas"]
    pdfs = []
    for process, n, strength, kappas in zip(analysis.processes, numbers, (mu, nb), all_kappas, strict=True):
        changes = [zfnf.lnN(nuisances[name], kappa) for name, kappa in zip(NUISANCES, kappas, strict=True)]
        named = {"extended": zfnf.modified_yield(n, [strength, *changes]), "name": process.name}
        first, *others = densities[process.name]
        parts = [
            zfnf.pdf.FNFPDF(one, params={name: nuisances[name] for name in one.nuisances}, **({} if others else named))
            for one in (first, *others)
        ]
        pdfs.append(zfnf.pdf.ConditionalProductPDF(parts, **named) if others else parts[0])
    return zfnf.pdf.SumPDF(pdfs), [mu, nb, *nuisances.values()]


def compared(nll: Any, fresh: Mapping[str, zfnf.Simulation], parameters: list[Any], seed: int) -> dict[str, Any]:
    """Fits of a likelihood as it was learned, and calibrated with fresh events."""
    learned_fit = estimates(nll, parameters)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            calibrated = estimates(zfnf.calibrate(nll, fresh, seed=seed), parameters)
            calibrated["told"] += sentences(told)
        except (ValueError, RuntimeError) as error:
            calibrated = {"refused": str(error)}
    return {"naive": learned_fit, "calibrated": calibrated}


def solved(seed: int, n_data: int) -> dict[str, Any]:
    """One analysis and its fits."""
    analysis, rng = Analysis(seed), np.random.default_rng([seed, 1])
    simulations, fresh = ({one.name: analysis.simulation(one, rng) for one in analysis.processes} for _ in range(2))
    started = time.process_time()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        densities = learned(analysis, simulations)
    trained = time.process_time()
    model, parameters = model_of(analysis, densities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verdict = zfnf.diagnostics.validate(model, fresh, seed=seed)
    judged = time.process_time()
    low, high = (np.clip(bound(0.0, *analysis.settings["sides"]), -1.5, 1.5) for bound in (min, max))
    fits = []
    for _ in range(n_data):
        nu = {name: float(np.clip(abs(rng.normal()) if low == 0.0 else rng.normal(), low, high)) for name in NUISANCES}
        data = analysis.data(nu, rng)
        values, errors = analysis.exact(data)
        found = compared(zfnf.loss.ExtendedUnbinnedNLL(model, data), fresh, parameters, seed)
        for one in (one for one in found.values() if "values" in one):
            one["off"] = ((np.array(one["values"]) - values) / errors).tolist()
            one["ratio"] = (np.array(one["errors"]) / errors).tolist()
        fits.append({"nu": nu, "exact": values.tolist(), "exact_errors": errors.tolist(), **found})
    return {
        "seed": seed,
        **analysis.settings,
        "kinds": {
            name: [{key: record.claim and record.claim.kind for key, record in one.history.items()} for one in factors]
            for name, factors in densities.items()
        },
        "told": sentences(told),
        "passed": verdict.passed,
        "differences": verdict.table[verdict.table["p_value"] < 1e-3].to_dict(orient="records"),
        "problems": verdict.problems,
        "fits": fits,
        "cpu_seconds": {"training": trained - started, "verdict": judged - trained},
    }


def sentences(told: list[warnings.WarningMessage]) -> list[str]:
    """What users are told."""
    return [str(each.message) for each in told if issubclass(each.category, UserWarning)]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all fits, and how many models have passed."""
    found: dict[str, Any] = {"problems": len(rows), "passed": sum(row["passed"] for row in rows)}
    for name in ("naive", "calibrated"):
        fits = [fit[name] for row in rows for fit in row["fits"] if "off" in fit[name]]
        off, ratio = (np.array([fit[key] for fit in fits]) for key in ("off", "ratio"))
        found[name] = {
            "fits": len(fits),
            "valid": sum(fit["valid"] for fit in fits),
            "rms_off": np.sqrt(np.square(off).mean(axis=0)).tolist(),
            "largest_off": np.abs(off).max(axis=0).tolist(),
            "ratio_16_50_84": np.quantile(ratio, [0.16, 0.5, 0.84], axis=0).T.tolist(),
        }
    return found


if __name__ == "__main__":
    study(__doc__, solved, summary, data=3)

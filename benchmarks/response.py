"""How well responses follow effects that no map follows, and what they claim where there is none: gaps, fits, errors.

    python benchmarks/response.py --quick
    python benchmarks/response.py --parts gaps fits --seeds 3 --json response.json
    python benchmarks/response.py --parts gaps --toys Slope --observables 1 --append response.jsonl
    python benchmarks/response.py --parts combine --combine path/to/combine

Every seed simulates its own samples. ``--quick`` takes fewer events and shorter trainings, to see that everything runs.
The files of the part "combine" are those of the H -> gamma gamma exercise of CMS' combine, mc_part1.root, mc_part3.root and
data_part1.root, in the folder ``--combine`` or ``COMBINE_DATA``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zfit
import numpy as np
import tensorflow as tf
from iminuit import Minuit
from scipy.stats import norm

import zfit_fnf as zfnf
from zfit_fnf import Schedule
from zfit_fnf.datasets import Composition, MovingPeak, NoEffect, OneNuisance, Slope, Tilt
from zfit_fnf.densities.monomials import Monomials
from zfit_fnf.densities.ratio import LogRatio

POINTS = {"trained": (1.0, -1.0), "half way": (0.5, -0.5), "1.5": (1.5, -1.5)}
TOYS: dict[str, type[OneNuisance]] = {kind.__name__: kind for kind in (Composition, MovingPeak, Slope, Tilt)}
AIMS = {  # nats per event, in one observable; twice that in two given a condition
    "Composition": {"trained": 5e-5, "half way": 5e-5, "1.5": 2e-4},
    "MovingPeak": {"trained": 1e-4, "half way": 1e-4, "1.5": 1e-3},
    "Slope": {"trained": 3e-5, "half way": 3e-5, "1.5": 3e-5},
}


@dataclass(frozen=True)
class Settings:
    """What a study takes.

    Attributes:
        events: Simulated events of each sample.
        flow, response: Trainings; ``None`` for the defaults.
        map, ratio: As in ``fit_deformation``.
        judged: Events that gaps in two observables are measured with.
    """

    events: int
    flow: Schedule | None
    response: Schedule | None
    map: bool | str
    ratio: bool | str
    judged: int = 500_000

    def train(self, toy: OneNuisance, seed: int, *, events: int | None = None, weights: bool = False) -> Any:
        """A deformation of a toy's density, from samples at zero and at +-1, or from weights of the first one."""
        n = self.events if events is None else events
        nominal = toy.simulate(n, seed=seed)
        flow = zfnf.train.fit_flow(
            nominal, obs=toy.obs, cond=toy.cond, ranges=toy.ranges, schedule=self.flow, seed=seed, progress=False
        )
        return self.respond(toy, flow, nominal, seed, n, weights=weights)

    def respond(self, toy: OneNuisance, flow: Any, nominal: Any, seed: int, n: int, *, weights: bool = False) -> Any:
        """The response of a flow."""
        if weights:
            table = nominal.assign(**{f"w{nu:+.0f}": toy.weights(nominal, nu) for nu in (1.0, -1.0)})
            variations = [zfnf.Variation(at={"nu": nu}, weights=f"w{nu:+.0f}") for nu in (1.0, -1.0)]
            samples = zfnf.Simulation(table, variations)
        else:
            samples = [zfnf.Variation(toy.simulate(n, nu, seed=seed), at={"nu": nu}) for nu in (1.0, -1.0)]
        settings = {"map": self.map, "ratio": self.ratio, "schedule": self.response}
        return zfnf.train.fit_deformation(flow, samples, seed=seed, progress=False, **settings)


def gap(toy: OneNuisance, model: Any, nu: float, seed: int, *, n: int = 500_000) -> float:
    """``E[log p_true - log p]`` in nats per event; in one observable by quadrature, otherwise on ``n`` events."""
    if toy.conditional:
        events = toy.simulate(n, nu, seed=seed)
        return float(np.mean(toy.log_prob(events, nu) - model.log_prob(events, nu={"nu": nu})))
    low, high = toy.ranges.get("y", (-15.0, 15.0))
    grid = low + (high - low) * (np.arange(6000) + 0.5) / 6000
    truth = toy.log_prob({"y": grid}, nu)
    difference = truth - model.log_prob({"y": grid}, nu={"nu": nu})
    return float(np.sum(np.exp(truth) * difference) * (high - low) / 6000)


def study_gaps(settings: Settings, seed: int, toys: list[OneNuisance]) -> list[dict]:
    """Gaps to truth, those at zero, of the nominal density, subtracted elsewhere; also what they were around an exact one.

    What is subtracted correlates with errors of the response: differences may be negative, or too large.
    """
    rows = []
    for toy in toys:
        started = time.process_time()
        model = settings.train(toy, seed)
        spent = time.process_time() - started
        of = {nu: gap(toy, model, nu, 90_000 + seed, n=settings.judged) for nu in (0.0, *sum(POINTS.values(), ()))}
        excess = {name: max(of[nu] - of[0.0] for nu in values) for name, values in POINTS.items()}
        own = {
            name: max(response_gap(toy, model, nu, 90_000 + seed, n=settings.judged) for nu in values)
            for name, values in POINTS.items()
        }
        row = {**_named(toy), **_kept(model), "nominal": of[0.0], "gaps": excess, "around exact": own}
        rows.append({**row, "cpu_seconds": spent})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def study_fits(settings: Settings, seed: int, *, n_sets: int = 10) -> list[dict]:
    """Signal strengths on a background whose composition changes, against the exact fits."""
    toy, n_background, n_signal = Composition(), 9000, 500
    model = settings.train(toy, seed)
    strength, rate = zfit.Parameter(f"mu{seed}", 1.0, -10, 10), zfit.Parameter(f"rate{seed}", 1.0, 0, 5)
    nu = zfnf.nuisance("nu")
    space = zfit.Space("y", -zfnf.pdf.UNBOUNDED, zfnf.pdf.UNBOUNDED)
    signal = zfit.pdf.Gauss(1.0, 0.3, obs=space, extended=zfnf.modified_yield(n_signal, [strength]))
    background = zfnf.pdf.FNFPDF(model, {"nu": nu}, extended=zfnf.modified_yield(n_background, [rate]))
    both = zfnf.pdf.SumPDF([signal, background], obs=["y"])
    rng, rows = np.random.default_rng(seed), []
    for truth in (0.0, 1.0, 1.5):
        differences, ratios = [], []
        for index in range(n_sets):
            events = toy.simulate(rng.poisson(n_background), truth, seed=1000 * seed + index)
            y = np.concatenate([rng.normal(1.0, 0.3, rng.poisson(n_signal)), events["y"]])
            for parameter, value in ((strength, 1.0), (rate, 1.0), (nu, 0.0)):
                parameter.set_value(value)
            result = zfnf.Minuit().minimize(zfnf.loss.ExtendedUnbinnedNLL(both, {"y": y}))
            result.hesse(name="hesse")
            exact = _exact(toy, y, n_signal, n_background)
            values = np.array([result.params[p]["value"] for p in (strength, nu)])
            errors = np.array([result.params[p]["hesse"]["error"] for p in (strength, nu)])
            differences.append((values - exact.values[:2]) / exact.errors[:2])
            ratios.append(errors / exact.errors[:2])
        rows.append(
            {
                "nu": truth,
                "median_difference_in_sigma": np.median(np.abs(differences), axis=0).tolist(),
                "error_ratio": np.median(ratios, axis=0).tolist(),
            }
        )
    return rows


def _exact(toy: OneNuisance, y: np.ndarray, n_signal: float, n_background: float) -> Minuit:
    def nll(mu: float, nu: float, rate: float) -> float:
        density = n_signal * mu * norm.pdf(y, 1.0, 0.3) + n_background * rate * np.exp(toy.log_prob({"y": y}, nu))
        return n_signal * mu + n_background * rate - np.log(np.maximum(density, 1e-300)).sum() + 0.5 * nu**2

    fit = Minuit(nll, 1.0, 0.0, 1.0)
    fit.errordef, fit.limits = Minuit.LIKELIHOOD, [(-10, 10), (-5, 5), (0, 5)]
    fit.migrad()
    fit.hesse()
    return fit


def study_no_effect(settings: Settings, seed: int, *, trainings: int, sizes: tuple[int, ...]) -> list[dict]:
    """Post-fit errors of nuisances that do nothing, or little, from 10 000 data events; five trainings for each flow.

    In two observables the first one is what is a condition elsewhere.
    """
    rows = []
    for information in (0.0, 4.0, 25.0, 100.0):
        toy = NoEffect(information=information / 1e4, conditional=True)
        for events in sizes if information == 0.0 else sizes[-1:]:
            for obs in (["y1"], ["x", "y1"]):
                errors = [
                    round(error, 3)
                    for first in range(0, trainings, 5)
                    for error in _post_fit_errors(settings, toy, obs, 1000 * seed + first, events, min(5, trainings))
                ]
                row = {"information": information, "events": events, "observables": len(obs)}
                exact = 1 / np.sqrt(1 + information / (1.09 if len(obs) == 1 else 1.0))
                rows.append({**row, "exact": exact, "median": float(np.median(errors)), "errors": errors})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def _post_fit_errors(
    settings: Settings, toy: OneNuisance, obs: list[str], seed: int, events: int, trainings: int
) -> list[float]:
    nominal, data = toy.simulate(events, seed=seed), toy.simulate(10_000, seed=70_000 + seed)
    flow = zfnf.train.fit_flow(nominal, obs=obs, schedule=settings.flow, seed=seed, progress=False)
    models = [settings.respond(toy, flow, nominal, 100_000 + 10 * seed + i, events) for i in range(trainings)]
    return [_error(model, data) for model in models]


def _error(model: Any, data: Any) -> float:
    """Error of the nuisance, with its constraint, from the curvature at the minimum."""
    grid = np.linspace(-3, 3, 49)
    nll = np.array([0.5 * nu**2 - model.log_prob(data, nu={"nu": nu}).sum() for nu in grid])
    lowest = int(np.clip(nll.argmin(), 2, len(grid) - 3))
    near = slice(lowest - 2, lowest + 3)
    return float(1 / np.sqrt(2 * np.polyfit(grid[near] - grid[lowest], nll[near], 2)[0]))


def study_weights(settings: Settings, seed: int) -> list[dict]:
    """Responses to weights of the nominal events, and to independent samples of the same size.

    Gaps here are those that a response leaves around an exact nominal density, half of the mean square error of
    ``log p(y|nu) - log p(y|0)``. Both have the same nominal density, whose own error is larger than those of the responses:
    independent samples have events of their own, which even mend it a little where they are. What is between weights at -1, 0
    and +1 is a convention: here they are linear in the nuisance, and responses make their logarithms quadratic. So exact weights
    leave a gap, too, that of ``polynomial``.
    """
    toy, rows = Tilt(), []
    left = {name: max(polynomial_gap(toy, nu) for nu in values) for name, values in POINTS.items()}
    for weights in (True, False):
        model = settings.train(toy, seed, weights=weights)
        own = {name: max(response_gap(toy, model, nu) for nu in values) for name, values in POINTS.items()}
        full = {name: max(gap(toy, model, nu, 0) for nu in values) for name, values in POINTS.items()}
        row = {"weights": weights, **_kept(model), "nominal": gap(toy, model, 0.0, 0), "gaps": own, "full": full}
        rows.append({**row, "polynomial": left})
    return rows


def polynomial_gap(toy: OneNuisance, nu: float) -> float:
    """Gap in nats per event of exact densities at -1, 0 and +1, whose logarithms are quadratic in between."""
    y = -15.0 + 30.0 * (np.arange(6000) + 0.5) / 6000
    nominal, truth = toy.log_prob({"y": y}), toy.log_prob({"y": y}, nu)
    up, down = (toy.log_prob({"y": y}, side) - nominal for side in (1.0, -1.0))
    monomials = Monomials([LogRatio(["nu"], ((1,), (2,)), n_dim=1, n_context=0)], {"nu": (-1.0, 1.0)})
    linear, quadratic = monomials(tf.constant([nu], tf.float64)).numpy()
    share = np.exp(truth) / np.exp(truth).sum()
    wrong = nominal + 0.5 * linear * (up - down) + 0.5 * quadratic * (up + down) - truth
    return float(0.5 * share @ np.square(wrong - share @ wrong))


def response_gap(toy: OneNuisance, model: Any, nu: float, seed: int = 0, *, n: int = 500_000) -> float:
    """Gap in nats per event that a response leaves around an exact nominal density, to second order."""
    if toy.conditional:
        events: Any = toy.simulate(n, nu, seed=seed)
    else:
        low, high = toy.ranges.get("y", (-15.0, 15.0))
        events = {"y": low + (high - low) * (np.arange(6000) + 0.5) / 6000}
    truth = toy.log_prob(events, nu)
    wrong = model.log_prob(events, nu={"nu": nu}) - model.log_prob(events) - truth + toy.log_prob(events)
    share = np.full(n, 1.0 / n) if toy.conditional else np.exp(truth) / np.exp(truth).sum()
    return float(0.5 * share @ np.square(wrong))


def study_combine(settings: Settings, seed: int, folder: Path | None) -> dict:
    """Signal strength of H -> gamma gamma: 1.548 (statistical), 1.557 to 1.561 +- 0.244 (five nuisances) by parametric fits."""
    files = ("mc_part1.root", "mc_part3.root", "data_part1.root")
    if folder is None or not all((folder / name).exists() for name in files):
        return {"skipped": f"needs {', '.join(files)}: name their folder by --combine or COMBINE_DATA"}
    mass, weight, luminosity = "CMS_hgg_mass", "weight", 138_000.0
    names = ["scale", "smear", "JEC", "photonID"]
    tree = lambda suffix="": f"{folder / 'mc_part3.root'}:ggH_Tag0{suffix}"  # noqa: E731
    simulation = zfnf.Simulation(
        tree(),
        [
            zfnf.Variation(tree(f"_{name}{side}01Sigma"), at={name: nu})
            for name in names
            for side, nu in (("Up", 1.0), ("Down", -1.0))
        ],
        weights=weight,
    )
    ranges = {mass: (100.0, 180.0)}
    trained = zfnf.train.fit_process(
        simulation, obs=[mass], ranges=ranges, seed=seed, progress=False, map=settings.map, ratio=settings.ratio
    )
    model = trained.deformation
    data = zfnf.samples.as_sample(f"{folder / 'data_part1.root'}:data_Tag0", [mass]).array([mass])[:, 0]
    return {
        **_combine_fits(model, data, luminosity, names),
        "responses": model.response_table(600).rows(),
        "yields": {name: [change.up, change.down] for name, change in model.yields.items()},
    }


def _combine_fits(model: Any, data: np.ndarray, luminosity: float, names: list[str]) -> dict:
    mass = model.obs[0]
    nuisances = {name: zfnf.nuisance(name) for name in [*names, "lumi"]}
    r, slope = zfit.Parameter("r", 1.0, -5, 10), zfit.Parameter("slope", -0.02, -0.2, 0.1)
    n_background = zfit.Parameter("n_background", float(len(data)), 0, 1e6)
    expected = float(model.flow.sum_weights * luminosity)
    modifiers = [r, zfnf.lnN(nuisances["lumi"], 1.016)]
    yields = {name: model.yields[name] for name in names}
    modifiers += [zfnf.normsys(nuisances[name], down=change.down, up=change.up) for name, change in yields.items()]
    signal = zfnf.pdf.FNFPDF(
        model, {name: nuisances[name] for name in names}, extended=zfnf.modified_yield(expected, modifiers)
    )
    space = zfit.Space(mass, 100, 180)
    background = zfit.pdf.Exponential(slope, obs=space, extended=n_background)
    nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF([signal, background], obs=[mass]), {mass: data})
    found = {}
    for label, floating in (("statistical", False), ("five nuisances", True)):
        for parameter, value in ((r, 1.0), (slope, -0.02), (n_background, float(len(data)))):
            parameter.set_value(value)
        for nuisance in nuisances.values():
            nuisance.set_value(0.0)
            nuisance.floating = floating
        result = zfnf.Minuit().minimize(nll)
        errors, _ = result.errors([r])
        found[label] = {"r": float(result.params[r]["value"]), "errors": [errors[r]["lower"], errors[r]["upper"]]}
    return found


def _named(toy: OneNuisance) -> dict[str, Any]:
    return {"toy": type(toy).__name__, "observables": len(toy.obs)}


def _kept(model: Any) -> dict[str, Any]:
    record = model.history["nu"]
    return {"kind": record.claim.kind if record.claim else None, "notes": record.notes}


def checks(run: dict[str, Any]) -> list[dict[str, Any]]:
    """What is aimed at, what was found, and whether that is reached."""
    rows: list[tuple[str, float, float, float]] = []  # name, found, lowest and highest that is right
    for row in run.get("gaps", []):
        name, many = f"gap, {row['toy']} in {row['observables']}", row["observables"]
        if many == 1:
            rows.append((f"{name}, nominal", row["nominal"], -1.0, 1e-4))
        rows += [(f"{name}, {at}", row["gaps"][at], -1.0, aim * many) for at, aim in AIMS.get(row["toy"], {}).items()]
    for row in run.get("fits", []):
        difference, ratio = row["median_difference_in_sigma"], row["error_ratio"]
        rows.append((f"fit at {row['nu']}, difference of mu", difference[0], 0.0, 0.3))
        rows += [
            (f"fit at {row['nu']}, error of {of}", x, 0.95, 1.05) for of, x in zip(("mu", "nu"), ratio, strict=True)
        ]
    for row in run.get("no_effect", []):
        name = f"error by {row['information']:g} of {row['events']} events, {row['observables']} observables"
        errors, exact = np.array(row["errors"]), row["exact"]
        if row["information"] == 0.0:
            rows.append((f"{name}, share above 0.9", float(np.mean(errors >= 0.9)), 0.9, 1.0))
            rows.append((f"{name}, smallest", float(errors.min()), 0.8, 1.0))
        elif row["information"] == 4.0:
            rows.append((f"{name}, median over exact", row["median"] / exact, 1.0, np.inf))
        else:
            rows.append((f"{name}, median over exact", row["median"] / exact, 0.85, 1.15))
    if found := {row["weights"]: row["gaps"] for row in run.get("weights", [])}:
        rows += [
            (f"weights, gap of independent samples over theirs, {at}", found[False][at] / max(gap, 1e-9), 3.0, np.inf)
            for at, gap in found[True].items()
        ]
        left = run["weights"][0].get("polynomial", {})
        rows += [
            (f"weights, gap over that of exact ones, {at}", found[True][at] / gap, 0.0, 1.1)
            for at, gap in left.items()
            if gap > 1e-9
        ]
    for name, (low, high) in {"statistical": (1.528, 1.568), "five nuisances": (1.547, 1.571)}.items():
        if fit := run.get("combine", {}).get(name):
            rows.append((f"combine, r, {name}", fit["r"], low, high))
            if name == "five nuisances":
                rows.append((f"combine, error, {name}", float(np.diff(fit["errors"])[0] / 2), 0.2367, 0.2513))
    return [
        {"name": name, "found": found, "low": low, "high": high, "reached": bool(low <= found <= high)}
        for name, found, low, high in rows
    ]


def table_of(found: list[dict[str, Any]]) -> str:
    """The checks, a line each."""
    return "\n".join(
        f"{'      ' if row['reached'] else 'MISSED'}  {row['name']}: {row['found']:.3g}  ({row['low']:g} to {row['high']:g})"
        for row in found
    )


def main() -> None:
    """Run the studies and print their JSON."""
    parts = ["gaps", "fits", "no-effect", "weights", "combine"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--toys", nargs="+", choices=list(TOYS), default=list(TOYS), help="of the part 'gaps'")
    parser.add_argument("--observables", nargs="+", type=int, choices=[1, 2], default=[1, 2], help="likewise")
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=200_000, help="simulated events per sample")
    parser.add_argument("--trainings", type=int, default=20, help="of nuisances without effect")
    parser.add_argument("--map", default="auto", choices=["auto", "yes", "no"])
    parser.add_argument("--ratio", default="auto", choices=["auto", "yes", "no"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--combine", type=Path, default=os.environ.get("COMBINE_DATA"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--append", type=Path, help="file to which each run adds a line of JSON")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(does not respond|still improving|never better)")
    said = {"auto": "auto", "yes": True, "no": False}
    short = (Schedule(steps=800), Schedule(steps=300, batch_size=2048)) if args.quick else (None, None)
    sizes_of = (20_000, 20_000) if args.quick else (args.events, 500_000)
    settings = Settings(sizes_of[0], *short, said[args.map], said[args.ratio], sizes_of[1])
    trainings, sizes = (2, (10_000,)) if args.quick else (args.trainings, (10_000, 30_000, 100_000))
    report: dict[str, Any] = {"settings": {name: str(value) for name, value in vars(args).items()}, "runs": []}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        run: dict[str, Any] = {"seed": seed}
        if "gaps" in args.parts:
            run["gaps"] = study_gaps(
                settings, seed, [TOYS[t](conditional=n == 2) for n in args.observables for t in args.toys]
            )
        if "fits" in args.parts:
            run["fits"] = study_fits(settings, seed, n_sets=2 if args.quick else 10)
        if "no-effect" in args.parts:
            run["no_effect"] = study_no_effect(settings, seed, trainings=trainings, sizes=sizes)
        if "weights" in args.parts:
            run["weights"] = study_weights(settings, seed)
        if "combine" in args.parts:
            run["combine"] = study_combine(settings, seed, Path(args.combine) if args.combine else None)
        run["checks"] = checks(run)
        report["runs"].append(run)
        print(table_of(run["checks"]), flush=True)
        if args.append:
            with args.append.open("a") as file:
                file.write(json.dumps(run) + "\n")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Simulation taken to data by one conditional flow: how much of a difference is left, compared with reweighting.

Five correlated observables given three kinematic conditions; two of them are zero in a part of the events. Simulation and
data differ in means, widths, shapes, correlations and in the shares of zeros, each as a function of the conditions. All
numbers are of events that have not trained anything.

    python benchmarks/morph.py --events 200000 --out morph.json
    python benchmarks/morph.py --events 50000 --smooth

With ``--smooth`` the morph, the map of a Distribution of Interest and weights are compared on the same events in the three
observables without zeros, which are the ones that a Distribution of Interest takes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import typer

import zfit_fnf as zfnf
from zfit_fnf.diagnostics import two_sample_auc
from zfit_fnf.diagnostics.two_sample import held_out_scores

OBS, COND = ["width", "ratio", "energy", "iso", "track_iso"], ["log_pt", "eta", "rho"]
ATOMS = {"iso": [0.0], "track_iso": [0.0]}
SMOOTH, EDGE = OBS[:3], {"energy": (0.0, np.inf)}
RANGES = dict.fromkeys(("energy", "iso", "track_iso"), (0.0, np.inf))


def events(n: int, *, data: bool, seed: int) -> pd.DataFrame:
    """Events of the toy: Gaussian variables with correlations, bent and cut off at zero."""
    rng, d = np.random.default_rng(seed), float(data)
    log_pt, eta, rho = rng.normal(3.7, 0.4, n), rng.uniform(-2.5, 2.5, n), rng.gamma(4.0, 0.25, n)
    mixing = np.eye(5) + np.tril(np.full((5, 5), 0.35 + 0.1 * d), -1)
    g = rng.normal(size=(n, 5)) @ mixing.T
    g = (g + d * (0.25 + 0.15 * np.abs(eta)[:, None] * [0.5, -0.5, 0.3, 0.4, 0.2])) * (1.0 + 0.08 * d * rho[:, None])
    width = g[:, 0] + 0.3 * (log_pt - 3.7) + 0.15 * eta**2
    ratio = np.sinh(0.5 * g[:, 1]) + (0.2 - 0.1 * d) * eta
    energy = np.exp(0.4 * g[:, 2] + 0.3 * (log_pt - 3.7))
    iso = np.maximum(0.8 * g[:, 3] + 0.6 * rho, 0.0)
    track = np.maximum(0.8 * g[:, 4] + 0.4 * rho + (0.3 - 0.2 * d) * (log_pt - 3.7), 0.0)
    return pd.DataFrame(dict(zip(OBS + COND, (width, ratio, energy, iso, track, log_pt, eta, rho), strict=True)))


def marginals(morphed: pd.DataFrame, data: pd.DataFrame) -> dict[str, float]:
    """Largest relative difference of each observable in tenths of its values, and of the share of its atom."""
    found = {}
    for name in OBS:
        parts = [(one[name][one[name] != 0.0] if name in ATOMS else one[name]).to_numpy() for one in (morphed, data)]
        edges = np.quantile(parts[1], np.linspace(0.0, 1.0, 11))
        edges[[0, -1]] = -np.inf, np.inf
        shares = [np.histogram(v, edges)[0] / len(one) for v, one in zip(parts, (morphed, data), strict=True)]
        shares = [np.append(s, 1.0 - s.sum()) if name in ATOMS else s for s in shares]
        found[name] = float(np.max(np.abs(shares[0] / shares[1] - 1.0)))
    return found


def correlations(one: pd.DataFrame, other: pd.DataFrame) -> tuple[float, float]:
    """Largest difference of a correlation of two observables, and of one with a condition."""
    difference = np.abs(one[OBS + COND].corr().to_numpy() - other[OBS + COND].corr().to_numpy())
    return float(difference[:5, :5].max()), float(difference[:5, 5:].max())


def means_at(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Largest difference of the mean of an observable in fifths of a condition, in its standard deviations."""
    worst, obs = 0.0, [name for name in OBS if name in other]
    for name in COND:
        edges = other[name].quantile(np.linspace(0.0, 1.0, 6)).to_numpy()[1:-1]
        means = [e[obs].groupby(np.searchsorted(edges, e[name])).mean() for e in (one, other)]
        worst = max(worst, float(np.abs((means[0] - means[1]) / other[obs].std()).to_numpy().max()))
    return worst


def reweighted(simulation: pd.DataFrame, data: pd.DataFrame, obs: list[str], seed: int) -> dict[str, float]:
    """The other way: weights of a classifier, which leave events where they are."""
    score, label, _, _ = held_out_scores(simulation, data, obs + COND, weights=(None, None), seed=seed)
    p = np.clip(score[label == 0], 1e-4, 1.0 - 1e-4)
    weights = p / (1.0 - p)
    area = two_sample_auc(simulation, data, obs + COND, weights=(weights, None), seed=seed + 1)
    return {"auc": area, "effective_share": float(weights.sum() ** 2 / np.sum(weights**2) / len(weights))}


def compared(n: int, schedule: zfnf.Schedule, seed: int) -> dict[str, Any]:
    """Morph, map of a Distribution of Interest and weights, of the same events."""
    simulation, data = (events(n, data=flag, seed=10 * seed + flag)[SMOOTH + COND] for flag in (False, True))
    new, truth = (events(n, data=flag, seed=10 * seed + 5 + flag)[SMOOTH + COND] for flag in (False, True))
    options: dict[str, Any] = {"obs": SMOOTH, "cond": COND, "seed": seed, "progress": False}
    before = two_sample_auc(new, truth, SMOOTH + COND, seed=seed)
    found: dict[str, Any] = {"events": n, "seed": seed, "auc_before": before}

    def by_morph() -> pd.DataFrame:
        return zfnf.morph.fit_morph(simulation, data, ranges=EDGE, schedule=schedule, **options).to_data(new)

    def by_doi() -> pd.DataFrame:
        flow = zfnf.train.fit_flow(simulation, ranges=EDGE, schedule=schedule, **options)
        number = zfit.Parameter("number", n, 0.5 * n, 2 * n)
        fit = zfnf.doi.fit_transfer(zfnf.pdf.FlowPDF(flow, extended=number), data, **options)
        return fit.transfer.to_data(new)

    for name, way in (("morph", by_morph), ("distribution of interest", by_doi)):
        start = time.process_time()
        moved = way()
        found[name] = {
            "cpu_s": time.process_time() - start,
            "auc": two_sample_auc(moved, truth, SMOOTH + COND, seed=seed),
            "means": means_at(moved, truth),
            "displacement": float(np.sqrt(np.square((moved - new)[SMOOTH] / truth[SMOOTH].std()).to_numpy().mean())),
        }
    found["weights"] = reweighted(new, truth, SMOOTH, seed)
    return found


def main(
    events_each: Annotated[int, typer.Option("--events", help="Events of simulation and of data.")] = 200_000,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="File for the numbers.")] = Path("morph.json"),
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Compare with the map of a Distribution of Interest.")
    ] = False,
) -> dict[str, Any]:
    """Train, and compare with events that were not seen."""
    n = events_each
    if smooth:
        found = compared(n, zfnf.Schedule(steps=steps, batch_size=2048), seed)
        typer.echo(json.dumps(found, indent=1))
        return found
    simulation, data = trained = [events(n, data=flag, seed=10 * seed + flag) for flag in (False, True)]
    schedule, start = zfnf.Schedule(steps=steps, batch_size=2048), time.process_time()
    morph = zfnf.morph.fit_morph(
        simulation, data, obs=OBS, cond=COND, atoms=ATOMS, ranges=RANGES, schedule=schedule, seed=seed, progress=False
    )
    found = {"events": n, "steps": steps, "seed": seed, "cpu_s_training": time.process_time() - start}
    zfnf.save(morph, out.with_suffix(".fnf"))
    simulation, data = (events(n, data=flag, seed=10 * seed + 5 + flag) for flag in (False, True))
    found["auc_before"] = two_sample_auc(simulation, data, OBS + COND, seed=seed)
    found["auc_after"] = two_sample_auc(morph.to_data(simulation, seed=seed), data, OBS + COND, seed=seed)
    out.write_text(json.dumps(found, indent=1) + "\n")  # what follows takes a while
    # 200 000 events know 2 % of the worst of fifty bins, and not better: more are compared.
    many, truth = (events(600_000 * (1 + flag), data=flag, seed=10 * seed + 7 + flag) for flag in (False, True))
    morphed = morph.to_data(many, seed=seed)
    found["marginals"], found["marginals_before"] = marginals(morphed, truth), marginals(many, truth)
    found["marginals_of_training_data"] = marginals(trained[1], truth)  # as far as any training can know
    found["correlations"], found["correlations_with_conditions"] = correlations(morphed, truth)
    found["correlations_before"] = max(correlations(many, truth))
    found["means_given_conditions"], found["means_before"] = means_at(morphed, truth), means_at(many, truth)
    out.write_text(json.dumps(found, indent=1) + "\n")
    found["reweighting"] = reweighted(simulation, data, OBS, seed)
    out.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    typer.run(main)

"""The signal of combine's exercise, H -> gamma gamma: learned from events and in bins, with fresh trainings, and their scatter.

    python benchmarks/combine_exercise.py FOLDER --seeds 1 2 3 --bins 40 80 160 --toys 100

FOLDER has the files of the exercise, ``data_part1.root`` and ``mc_part3.root``. The references are a parametric fit (a Gaussian
on an exponential), 1.548 -0.210 +0.213 statistically, and combine's documentation, 1.56 -0.23 +0.26 with systematics and 7.9
sigma. ``scatter`` is what the binned estimate is expected to differ from the unbinned one for the same events, the root of the
difference of the variances: an efficient estimate is not correlated with what another one adds to it. ``--toys`` measures it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import zfit
import numpy as np

import zfit_fnf as zfnf
from zfit_fnf.workspace.analysis import Analysis

DOCUMENT = Path(__file__).parents[1] / "examples" / "hgg.yaml"
STATISTICAL = "statistical only"


def workspace(folder: Path, out: Path, *, seed: int = 1, bins: int | None = None) -> zfnf.Workspace:
    """The document of the example, trained with a seed or counted in bins."""
    text = DOCUMENT.read_text(encoding="utf-8").replace("combine/", f"{folder.resolve()}/")
    if bins is not None:
        text = text.replace("  data: {file", "  binned: true\n  data: {file").replace("bins: 80", f"bins: {bins}")
    path = out / "hgg.yaml"
    path.write_text(text.replace("\ngroups:", f"\ntraining: {{seed: {seed}}}\ngroups:"), encoding="utf-8")
    return zfnf.Workspace.read(path)


def results(analysed: zfnf.Workspace, out: Path) -> dict[str, Any]:
    """The signal strength with MINOS errors in both measurements, and the significance."""
    found: dict[str, Any] = {}
    for name in (STATISTICAL, "with systematics"):
        analysis = Analysis(analysed, out, measurement=name, progress=False)
        r = analysis.fit().parameters.loc["r"]
        found[name] = {key: round(float(r[key]), 4) for key in ("value", "error", "lower", "upper")}
    return {**found, "significance": round(analysis.significance().significance, 3)}


def scatter(folder: Path, out: Path, trained: Path, bins: int, n_toys: int) -> dict[str, float]:
    """Differences of both estimates for the same toys, statistical only."""
    unbinned = workspace(folder, out).loss(trained, measurement=STATISTICAL)
    best = {one: float(found["value"]) for one, found in zfnf.Minuit().minimize(unbinned).params.items()}
    counted = workspace(folder, out, bins=bins).loss(measurement=STATISTICAL)
    differences, errors = [], []
    for number in range(n_toys):
        zfit.param.set_values(list(best), list(best.values()))
        experiment = zfnf.toys.toy(unbinned, params=best, seed=number)
        events = {"CMS_hgg_mass": np.asarray(experiment.data[0].value()).ravel()}
        values = []
        for nll in (experiment.loss(unbinned), zfnf.loss.NLL(counted.model, events)):
            parameters = {one.name: one for one in nll.get_params()}
            zfit.param.set_values([parameters[one.name] for one in best], list(best.values()))
            values.append(float(zfnf.Minuit().minimize(nll).params[parameters["r"]]["value"]))
        differences.append(values[1] - values[0])
        errors.append(values[0] - best[next(one for one in best if one.name == "r")])
    return {
        "toys": n_toys,
        "bins": bins,
        "mean": float(np.mean(differences)),
        "scatter": float(np.std(differences, ddof=1)),
        "scatter of the unbinned estimate": float(np.std(errors, ddof=1)),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--bins", type=int, nargs="*", default=[20, 40, 80, 160, 320])
    parser.add_argument("--toys", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"unbinned": {}, "binned": {}}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        for seed in arguments.seeds:
            analysed, trained = workspace(arguments.folder, out, seed=seed), out / f"seed_{seed}"
            analysed.train(trained, progress=False)
            report["unbinned"][seed] = results(analysed, trained)
            print(f"seed {seed}: {json.dumps(report['unbinned'][seed])}", flush=True)
        for bins in arguments.bins:
            found = results(workspace(arguments.folder, out, bins=bins), out / f"bins_{bins}")
            if report["unbinned"]:
                of_first = next(iter(report["unbinned"].values()))[STATISTICAL]
                variance = found[STATISTICAL]["error"] ** 2 - of_first["error"] ** 2
                found["difference"] = round(found[STATISTICAL]["value"] - of_first["value"], 4)
                found["scatter"] = round(max(variance, 0.0) ** 0.5, 4)
            report["binned"][bins] = found
            print(f"{bins} bins: {json.dumps(found)}", flush=True)
        if arguments.toys:
            bins = 80 if 80 in arguments.bins else arguments.bins[0]
            trained = out / f"seed_{arguments.seeds[0]}"
            report["toys"] = scatter(arguments.folder, out, trained, bins, arguments.toys)
            print(f"toys: {json.dumps(report['toys'])}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""A learned signal region and a binned control region of pyhf in one fit.

A resonance is measured in the mass spectrum. Its energy scale `jes` is not known well, and the rate of the background is
free. The density of the signal, with its response to `jes`, is learned from events. A control region, which others have
written as a pyhf workspace, counts the background and measures `jes` on the way. Added to the learned likelihood it
shares both by their names. The example compares the errors without and with it, sets a limit, and writes the workspace
that a binned analysis of the signal region would have had.

    python examples/combination.py --out combination
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import typer

import zfit_fnf as zfnf

WINDOW = (50.0, 150.0)  # GeV
SCALE = 0.02  # relative change of the energies per standard deviation of jes
TRUTH = {"mu": 1.0, "bkg_norm": 1.1, "jes": 0.6}
N_SIGNAL, N_BACKGROUND = 400.0, 2000.0
CONTROL_REGION = {
    "name": "CR",
    "samples": [
        {
            "name": "background",
            "data": [3000.0, 2000.0, 900.0],
            "modifiers": [
                {"name": "bkg_norm", "type": "normfactor", "data": None},
                {
                    "name": "jes",
                    "type": "histosys",
                    "data": {"hi_data": [2880, 2030, 990], "lo_data": [3120, 1970, 810]},
                },
                {"name": "trigger", "type": "normsys", "data": {"hi": 1.02, "lo": 0.98}},
                {"name": "stat_CR", "type": "staterror", "data": [20.0, 15.0, 10.0]},
            ],
        }
    ],
}


def masses(n: int, jes: float, rng: np.random.Generator) -> np.ndarray:
    """Masses of signal events in the window."""
    mass = rng.normal(91.0, 5.0 + 2.0 * rng.exponential(size=n)) * (1 + SCALE * jes)
    return mass[(mass > WINDOW[0]) & (mass < WINDOW[1])]


def observe(rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Masses of the data in the signal region, and the workspace of the control region."""
    n_background = rng.poisson(TRUTH["bkg_norm"] * N_BACKGROUND)
    falling = WINDOW[0] - np.log1p(-rng.uniform(size=n_background) * (1 - np.exp(-2.5))) / 0.025
    data = np.concatenate([masses(rng.poisson(TRUTH["mu"] * N_SIGNAL), TRUTH["jes"], rng), falling])
    (sample,) = CONTROL_REGION["samples"]
    shift = TRUTH["jes"] * (np.array(sample["modifiers"][1]["data"]["hi_data"]) - sample["data"])
    counts = rng.poisson(TRUTH["bkg_norm"] * (np.array(sample["data"]) + shift)).astype(float)
    workspace = {
        "version": "1.0.0",
        "channels": [CONTROL_REGION],
        "observations": [{"name": "CR", "data": counts.tolist()}],
        "measurements": [{"name": "control", "config": {"poi": "", "parameters": []}}],
    }
    return data, workspace


def main(
    events: Annotated[int, typer.Option(help="Simulated events of each sample.")] = 20_000,
    steps: Annotated[int, typer.Option(help="Training steps of the density and of its response.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("combination"),
) -> dict[str, zfit.result.FitResult]:
    """Learn the signal, fit it without and with the control region, set a limit, and export."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    data, workspace = observe(rng)
    (out / "control.json").write_text(json.dumps(workspace))
    schedule = zfnf.Schedule(steps=steps, warmup=50, averaging=0.98)
    variations = [zfnf.Variation({"mass": masses(events, side, rng)}, at={"jes": side}) for side in (1.0, -1.0)]
    simulation = zfnf.Simulation({"mass": masses(events, 0.0, rng)}, variations)
    process = zfnf.train.fit_process(simulation, obs=["mass"], ranges={"mass": WINDOW}, schedule=schedule, seed=seed)

    mu, jes = zfit.Parameter("mu", 1.0, 0.0, 5.0), zfnf.nuisance("jes")
    norm = zfit.Parameter("bkg_norm", 1.0, 0.0, 5.0)
    space = zfit.Space("mass", *WINDOW)
    n_signal, n_background = zfnf.modified_yield(N_SIGNAL, [mu]), zfnf.modified_yield(N_BACKGROUND, [norm])
    signal = zfnf.pdf.FNFPDF(process, params={"jes": jes}, obs=space, extended=n_signal, name="signal")
    background = zfit.pdf.Exponential(-0.025, obs=space, extended=n_background, name="background")
    model = zfnf.pdf.SumPDF([signal, background])

    alone = zfnf.loss.ExtendedUnbinnedNLL(model, {"mass": data})
    combined = alone + zfnf.pyhf.channel(out / "control.json")
    results = {}
    for name, nll in (("without the control region", alone), ("with it", combined)):
        results[name] = zfnf.Minuit().minimize(nll)
        results[name].hesse()
        typer.echo(f"{name}\n{results[name].params}\n")
    typer.echo(str(zfnf.limits.upper_limit(combined, mu, n_asimov=5_000)))
    binned = zfnf.pyhf.export(alone, {"mass": np.linspace(*WINDOW, 26)}, poi=mu, names=["SR"])
    (out / "binned.json").write_text(json.dumps(binned))
    return results


if __name__ == "__main__":
    typer.run(main)

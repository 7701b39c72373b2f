"""The example of the README, complete with its files: two learned densities, a fit of the signal strength, and a limit.

The signal is process B of the toy of arXiv:2602.13184, whose shift plays the jet energy scale `jes`; the background is
its process A.

    python examples/quickstart.py --out quickstart
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import zfit
import pandas as pd
import typer

import zfit_fnf as zfnf
from zfit_fnf.projections import component_samples

TOY = zfnf.datasets.ShiftSqueeze()
OBS = ["y1", "y2"]
YIELDS = {"signal": 1000.0, "background": 4000.0}
EFFICIENCY = {-1: 0.97, 0: 1.0, +1: 1.04}  # of the signal at each value of jes
TRUTH = {"mu": 1.0, "jes": 0.5}


def simulate(folder: Path, events: int, seed: int) -> None:
    """Write simulated events with weights, and data with jes at half a standard deviation."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = {"signal": ("B", 0), "signal_jes_up": ("B", +1), "signal_jes_down": ("B", -1), "background": ("A", 0)}
    for number, (name, (process, jes)) in enumerate(samples.items()):
        total = YIELDS[name.split("_")[0]] * (EFFICIENCY[jes] if process == "B" else 1.0)
        table = TOY.simulate(process, events, {"shift": jes}, seed=10 * seed + number)
        zfnf.samples.write_sample(table[OBS].assign(w=total / events), folder / f"{name}.root")
    n_signal = round(TRUTH["mu"] * YIELDS["signal"] * (1 + TRUTH["jes"] * 0.035))
    parts = [("B", n_signal, {"shift": TRUTH["jes"]}), ("A", round(YIELDS["background"]), {})]
    data = [TOY.simulate(process, n, nu, seed=10 * seed + 9) for process, n, nu in parts]
    zfnf.samples.write_sample(pd.concat(data)[OBS], folder / "data.root")


def main(
    events: Annotated[int, typer.Option(help="Simulated events in each file.")] = 20_000,
    steps: Annotated[int, typer.Option(help="Training steps of each density and response.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("quickstart"),
) -> tuple[zfit.result.FitResult, zfnf.limits.LimitResult]:
    """Simulate, train, fit, and set a limit."""
    simulate(out, events, seed)
    sides = [
        zfnf.Variation(out / "signal_jes_up.root", at={"jes": +1}),
        zfnf.Variation(out / "signal_jes_down.root", at={"jes": -1}),
    ]
    simulations = {
        "signal": zfnf.Simulation(out / "signal.root", sides, weights="w"),
        "background": zfnf.Simulation(out / "background.root", weights="w"),
    }
    typer.echo(f"{simulations['signal']}\n")
    schedule = zfnf.Schedule(steps=steps, warmup=50, averaging=0.98)
    learned = {
        name: zfnf.train.fit_process(simulation, obs=OBS, schedule=schedule, seed=seed)
        for name, simulation in simulations.items()
    }

    mu, jes, lumi = zfit.Parameter("mu", 1.0, 0.0, 5.0), zfnf.nuisance("jes"), zfnf.nuisance("lumi")
    rates = [mu, zfnf.lnN(lumi, 1.02), zfnf.normsys(jes, learned["signal"].yields["jes"])]
    n_sig = zfnf.modified_yield(learned["signal"].sum_weights, rates)
    n_bkg = zfnf.modified_yield(learned["background"].sum_weights, [zfnf.lnN(lumi, 1.02)])
    signal = zfnf.pdf.FNFPDF(learned["signal"], params={"jes": jes}, extended=n_sig, name="signal")
    background = zfnf.pdf.FlowPDF(learned["background"], extended=n_bkg, name="background")
    model = zfnf.pdf.SumPDF([background, signal])
    nll = zfnf.loss.ExtendedUnbinnedNLL(model, zfnf.Sample.read(out / "data.root"))
    result = zfnf.Minuit().minimize(nll)
    result.hesse()
    result.errors(method="minuit_minos")
    draw(out, model)
    limit = zfnf.limits.upper_limit(nll, mu, n_asimov=5_000)
    typer.echo(f"{result}\n\n{limit}")
    return result, limit


def draw(out: Path, model: zfnf.pdf.SumPDF) -> None:
    """The data with the post-fit model, in both observables."""
    from matplotlib.figure import Figure

    parts = component_samples(model, seed=1)
    figure = Figure(figsize=(9, 4), layout="constrained")
    for column, (ax, ax_pulls) in zip(OBS, figure.subplots(2, 2, sharex="col", height_ratios=[3, 1]).T, strict=True):
        zfnf.plotting.projection(out / "data.root", parts, column, ax=ax, ax_pulls=ax_pulls)
    figure.savefig(out / "fit.png", dpi=100)


if __name__ == "__main__":
    typer.run(main)

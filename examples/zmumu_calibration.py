"""A calibration curve of the dimuon mass from Z -> mu mu events: a distribution of interest in one dimension.

One half of the events plays the simulation, from which p(mass | |eta| of the more forward muon) is learned with its
response to the momentum resolution. The other half plays the data: its momenta are scaled by a known amount. The map
that takes the masses of data to those of simulation is the calibration; it is fitted together with the resolution, a
nuisance, and replicas of the data give its statistical uncertainty. The curve is drawn with the exact one.

    python examples/zmumu_calibration.py uproot-Zmumu.root --out calibration

The file has 500 events (see `zmumu_scale.py`, whose events and density these are): the map gets one small network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import pandas as pd
import typer
from zmumu_scale import ETA, ETA_RANGE, learn, observables, read_events, split

import zfit_fnf as zfnf

MASSES = np.linspace(82.0, 100.0, 37)  # GeV
ETA_DRAWN = 1.0


def main(
    file: Annotated[Path, typer.Argument(help="ROOT file with the tree `events`.")],
    steps: Annotated[int, typer.Option(help="Training steps of the density and its responses.")] = 600,
    replicas: Annotated[int, typer.Option(help="Replicas of the data.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the plot.")] = Path("calibration"),
    scale: Annotated[float, typer.Option(help="Injected momentum scale in per cent.")] = 3.0,
) -> pd.DataFrame:
    """Learn, inject, measure the calibration curve, print it, and draw it."""
    template, other = split(read_events(file), seed)
    data = observables(other, scale=1 + scale / 100)
    model = build_model(template, learn(template, steps=steps, seed=seed), seed=seed)

    # Step 1: the map and the resolution together.
    schedule = zfnf.Schedule(steps=200, batch_size=128, learning_rate=1e-2, patience=None)
    fit = zfnf.doi.fit_transfer(
        model, data, obs=["mass"], cond=[ETA], n_layers=1, hidden=(), schedule=schedule, seed=seed, progress=False
    )
    # Step 2: how the map follows the resolution; then the likelihood of the resolution alone is a profile. Replicas tell
    # how the map would be for other data.
    profiled = zfnf.doi.bootstrap(zfnf.doi.profile(fit, n_checks=0, seed=seed), replicas, seed=seed)
    result = zfnf.Minuit().minimize(profiled.loss())
    result.hesse()

    maps = zfnf.doi.scenarios(profiled, result)
    curve = calibration(maps, scale)
    typer.echo(f"{fit}\n\n{result}\n\n{curve.iloc[::6].to_string(index=False, float_format='{:.3f}'.format)}")
    draw(out, maps, scale)
    return curve


def build_model(template: pd.DataFrame, deformation: zfnf.Deformation, *, seed: int) -> zfnf.pdf.ConditionalProductPDF:
    """The density of simulation; its own response to the momentum scale is off, since the map does that."""
    params = {"scale": zfit.Parameter("scale", 0.0, floating=False), "resolution": zfnf.nuisance("resolution")}
    # Nothing moves it, but step 2 draws events of the model, and these need the pseudorapidities that there are.
    schedule = zfnf.Schedule(steps=300, batch_size=256)
    eta = observables(template)[[ETA]]
    settings = {"ranges": {ETA: ETA_RANGE}, "n_components": 3, "schedule": schedule, "progress": False}
    p_eta = zfnf.pdf.FlowPDF(zfnf.train.fit_flow(eta, obs=[ETA], seed=seed, **settings))
    return zfnf.pdf.ConditionalProductPDF([zfnf.pdf.FNFPDF(deformation, params=params), p_eta], name="Z")


def exact(data: pd.DataFrame, scale: float) -> pd.DataFrame:
    """The calibration that undoes the injected scale."""
    return data.assign(mass=data.mass / (1 + scale / 100))


def calibration(maps: zfnf.doi.MapVariations, scale: float) -> pd.DataFrame:
    """Correction of the mass in GeV with its uncertainties: a row for each mass."""
    points = pd.DataFrame({"mass": MASSES, ETA: ETA_DRAWN})
    band = maps.evaluate(lambda variation: variation.to_simulation(points).mass - MASSES)
    return pd.DataFrame(
        {
            "mass": MASSES,
            "correction": band.value,
            "statistical": band.statistical,
            "systematic": band.systematic,
            "total": band.total,
            "exact": exact(points, scale).mass - MASSES,
        }
    )


def draw(out: Path, maps: zfnf.doi.MapVariations, scale: float) -> None:
    """The calibration curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    ax = zfnf.plotting.doi.displacement(
        maps, {"mass": MASSES}, at={ETA: ETA_DRAWN}, truth=lambda data: exact(data, scale), ax=figure.subplots()
    )
    ax.set(xlabel="dimuon mass in data [GeV]", ylabel="correction [GeV]")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "calibration.png", dpi=120)


if __name__ == "__main__":
    typer.run(main)

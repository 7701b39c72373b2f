"""The muon momentum scale from Z -> mu mu events: a learned density beside a zfit Exponential.

One half of the events plays the simulation: from it p(mass | |eta| of the more forward muon) is learned, with its
response to the momentum scale (1 % per standard deviation) and to the momentum resolution. For these systematic
variations the masses of the same events are recomputed from scaled and smeared momenta. The other half plays the
data: its momenta are scaled by a known amount, events with an exponential mass spectrum are mixed into it, and a fit
measures the scale.

The file has 500 events. The 250 of one half cannot teach more than one condition, and the error that they leave in the
density is as large as that of the fit; the table states it.

The pseudorapidity changes with neither variation, so its density is a factor of the likelihood that no parameter moves.
It is taken to be the same for signal and background (were it not, ignoring it would bias the yields), and drops out.

    python examples/zmumu_scale.py uproot-Zmumu.root --out zmumu

The file is `uproot-Zmumu.root` of https://github.com/scikit-hep/scikit-hep-testdata.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import pandas as pd
import typer
import uproot

import zfit_fnf as zfnf

WINDOW = (60.0, 120.0)  # GeV
ETA = "eta_forward"  # |eta| of the more forward muon, on which the resolution depends
ETA_RANGE = (0.0, 2.4)
MUON_MASS = 0.1056583755  # GeV
SCALE_STEP = 0.01  # relative change of the momenta per standard deviation of the scale
SMEARING = 0.015  # relative, of each muon's momentum, at +1 standard deviation of the resolution
COPIES = 20  # smeared copies of each event
SLOPE = -0.03  # of the injected background, per GeV


@dataclass(frozen=True)
class Measurement:
    """The measured scale in per cent, with its errors.

    Attributes:
        injected: The true value.
        fitted: The best fit.
        hesse: Error by HESSE.
        minos: Lower and upper error by MINOS.
        template: Error from the finite number of events that the density was learned from.
    """

    injected: float
    fitted: float
    hesse: float
    minos: tuple[float, float]
    template: float

    @property
    def pull(self) -> float:
        """Deviation from the truth in units of the total error."""
        return (self.fitted - self.injected) / float(np.hypot(self.hesse, self.template))

    def __str__(self) -> str:
        low, high = self.minos
        rows = {
            "injected": f"{self.injected:.3f}",
            "fitted": f"{self.fitted:.3f}",
            "HESSE": f"{self.hesse:.3f}",
            "MINOS": f"{low:+.3f} {high:+.3f}",
            "template statistics": f"{self.template:.3f}",
            "pull": f"{self.pull:+.2f}",
        }
        return "momentum scale in %\n" + pd.Series(rows).to_string()


def main(
    file: Annotated[Path, typer.Argument(help="ROOT file with the tree `events`.")],
    steps: Annotated[int, typer.Option(help="Training steps of each density and response.")] = 600,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the plot.")] = Path("zmumu"),
    scale: Annotated[float, typer.Option(help="Injected momentum scale in per cent.")] = 0.6,
    background: Annotated[int, typer.Option(help="Injected background events.")] = 60,
) -> Measurement:
    """Learn, inject, fit, print a table, and draw the mass."""
    template, other = split(read_events(file), seed)
    deformation = learn(template, steps=steps, seed=seed)
    data = pd.concat(
        [observables(other, scale=1 + scale / 100), background_like(other, background, seed)], ignore_index=True
    )
    model, parameter = build_model(deformation, n_expected=(len(other), background))
    result = zfnf.Minuit().minimize(zfnf.loss.ExtendedUnbinnedNLL(model, data))
    result.hesse()
    result.errors([parameter], method="minuit_minos")
    measurement = summarise(result, parameter, injected=scale, ratio=len(other) / deformation.flow.history.n_events)
    typer.echo(f"{len(template)} events to learn from, {len(data)} to fit\n\n{result}\n\n{measurement}")
    draw(out, data, model, deformation, seed)
    return measurement


# --- events ---


def read_events(file: Path) -> pd.DataFrame:
    """One row per event in the mass window, with two oppositely charged muons.

    The tree has a row for each pair of muon candidates, also for the same muons measured with different parts of the
    detector: four rows for most events. Only pairs of global muons ("GG") are used, and where an event has several of
    them, the one with the largest sum of transverse momenta, a choice that does not look at the mass.
    """
    with uproot.open(file) as opened:
        rows = pd.DataFrame(opened["events"].arrays(library="np"))
    rows = rows[(rows.Type.astype(str) == "GG") & (rows.Q1 * rows.Q2 < 0)]
    order = (rows.pt1 + rows.pt2).sort_values(ascending=False).index
    pairs = rows.loc[order].drop_duplicates(["Run", "Event"]).sort_index()
    return pairs[pairs.M.between(*WINDOW, inclusive="neither")].reset_index(drop=True)


def split(events: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two random halves."""
    rows = np.random.default_rng(seed).permutation(len(events))
    return events.iloc[rows[::2]], events.iloc[rows[1::2]]


def observables(
    events: pd.DataFrame, *, scale: float | np.ndarray = 1.0, scale2: float | np.ndarray | None = None
) -> pd.DataFrame:
    """Mass from rescaled momenta, and |eta| of the more forward muon; events outside of the mass window are dropped.

    Args:
        events: The events.
        scale: Factor on the momentum of the first muon.
        scale2: Factor on that of the second; by default the same.
    """
    momentum = sum(
        factor * events[[f"px{muon}", f"py{muon}", f"pz{muon}"]].to_numpy().T
        for muon, factor in ((1, scale), (2, scale if scale2 is None else scale2))
    )
    energy = _energy(events, 1, scale) + _energy(events, 2, scale if scale2 is None else scale2)
    eta = np.maximum(np.abs(events.eta1), np.abs(events.eta2)).to_numpy()
    table = pd.DataFrame({"mass": np.sqrt(energy**2 - np.sum(momentum**2, axis=0)), ETA: eta})
    return table[table.mass.between(*WINDOW, inclusive="neither")]


def _energy(events: pd.DataFrame, muon: int, factor: float | np.ndarray) -> np.ndarray:
    squared = sum((events[f"p{axis}{muon}"].to_numpy() * factor) ** 2 for axis in "xyz")
    return np.sqrt(squared + MUON_MASS**2)


def smeared(events: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Many copies of each event with fluctuating momenta."""
    copies = pd.concat([events] * COPIES, ignore_index=True)
    first, second = 1 + SMEARING * np.random.default_rng([seed, 1]).normal(size=(2, len(copies)))
    return observables(copies, scale=first, scale2=second)


def background_like(events: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Exponential masses, with the pseudorapidity of random events."""
    rng = np.random.default_rng([seed, 2])
    table = observables(events).sample(n, replace=True, random_state=rng)
    low, high = np.exp(SLOPE * np.array(WINDOW))
    return table.assign(mass=np.log(rng.uniform(high, low, size=n)) / SLOPE)


# --- density, model, result ---


def learn(events: pd.DataFrame, *, steps: int, seed: int) -> zfnf.Deformation:
    """The density of the mass, and its responses: few events, so small networks, and early stopping."""
    schedule = zfnf.Schedule(steps=steps, batch_size=256, warmup=50, averaging=0.98, weight_decay=0.1, validation=0.2)
    settings = {"hidden": (4,), "schedule": schedule, "seed": seed, "progress": False}
    copies = smeared(events, seed)
    variations = [
        zfnf.Variation(observables(events, scale=1 + SCALE_STEP), at={"scale": +1}),
        zfnf.Variation(observables(events, scale=1 - SCALE_STEP), at={"scale": -1}),
        zfnf.Variation(copies, at={"resolution": +1}, weights=np.full(len(copies), 1 / COPIES)),
    ]
    simulation, ranges = zfnf.Simulation(observables(events), variations), {"mass": WINDOW}
    return zfnf.train.fit_process(  # so few events alone would not show the resolution: that it matters is known
        simulation,
        obs=["mass"],
        cond=[ETA],
        ranges=ranges,
        n_components=3,
        mirror=True,
        keep=["resolution"],
        **settings,
    ).deformation


def build_model(
    deformation: zfnf.Deformation, n_expected: tuple[float, float]
) -> tuple[zfnf.pdf.SumPDF, zfit.Parameter]:
    """Signal and background, each times the same density of the pseudorapidity; and the scale."""
    scale = zfit.Parameter("scale", 0.0, -3.0, 3.0, stepsize=0.1)  # no Nuisance: it is measured without prior knowledge
    resolution = zfnf.nuisance("resolution")
    n_sig, n_bkg = (
        zfit.Parameter(name, n, 0.0, 10.0 * (n + 10.0), stepsize=np.sqrt(n + 1.0))
        for name, n in zip(("n_sig", "n_bkg"), n_expected, strict=True)
    )
    slope = zfit.Parameter("slope", -0.01, -0.3, 0.1, stepsize=0.01)
    p_eta = zfit.pdf.Uniform(*ETA_RANGE, obs=zfit.Space(ETA, *ETA_RANGE))  # stands in for the one that drops out
    peak = zfnf.pdf.FNFPDF(deformation, params={"scale": scale, "resolution": resolution})
    exponential = zfit.pdf.Exponential(slope, obs=zfit.Space("mass", *WINDOW))
    signal = zfnf.pdf.ConditionalProductPDF([peak, p_eta], extended=n_sig, name="Z")
    background = zfnf.pdf.ConditionalProductPDF([exponential, p_eta], extended=n_bkg, name="background")
    return zfnf.pdf.SumPDF([signal, background]), scale


def summarise(
    result: zfit.result.FitResult, parameter: zfit.Parameter, *, injected: float, ratio: float
) -> Measurement:
    """The scale; a density learned from N events adds an error of about sqrt(N_data / N) times that of the fit."""
    found, per_cent = result.params[parameter], 100 * SCALE_STEP
    hesse = per_cent * found["hesse"]["error"]
    minos = (per_cent * found["errors"]["lower"], per_cent * found["errors"]["upper"])
    return Measurement(injected, per_cent * found["value"], hesse, minos, hesse * np.sqrt(ratio))


def draw(out: Path, data: pd.DataFrame, model: zfnf.pdf.SumPDF, deformation: zfnf.Deformation, seed: int) -> None:
    """The mass with the post-fit model, averaged over the pseudorapidity in data."""
    from matplotlib.figure import Figure

    signal, background = model.pdfs
    n = 100 * len(data)
    values = {name: float(parameter.value()) for name, parameter in signal.pdfs[0].params.items()}
    z_events = deformation.sample(n, nu=values, cond=data[[ETA]], seed=seed)["mass"].to_numpy()
    others = background.pdfs[0].sample(n).value().numpy()[:, 0]
    parts = {
        pdf.name: zfnf.Sample({"mass": mass}, weights=np.full(n, float(pdf.get_yield().value()) / n))
        for pdf, mass in ((background, others), (signal, z_events))
    }
    figure = Figure(figsize=(6, 5), layout="constrained")
    ax, ax_pulls = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    zfnf.plotting.projection(data, parts, "mass", bins=(30, *WINDOW), ax=ax, ax_pulls=ax_pulls)
    ax_pulls.set_xlabel("dimuon mass [GeV]")
    os.makedirs(out, exist_ok=True)
    figure.savefig(out / "mass.png", dpi=120)


if __name__ == "__main__":
    typer.run(main)

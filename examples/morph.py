"""Simulation taken to data, event by event: a shower shape, an isolation that is often exactly zero, and a number of tracks.

In data the shape is wider and moves with the transverse momentum, the isolation is zero less often, and there are more
tracks. One flow learns both samples, told apart by a flag; simulated events go to its latent space with one flag and come
back with the other. A classifier is asked before and after.

    python examples/morph.py --out morph
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

import zfit_fnf as zfnf

OBS, COND = ["shape", "iso", "tracks"], ["log_pt"]


def events(n: int, *, data: bool, seed: int) -> pd.DataFrame:
    """Events of the toy."""
    rng = np.random.default_rng(seed)
    log_pt = rng.normal(3.7, 0.5, n)
    g = rng.normal(size=n)
    shape = (1.0 + 0.25 * data) * g + (0.4 + 0.3 * data) * (log_pt - 3.7)
    iso = np.maximum(0.6 * g + rng.normal(0.3 * data, 0.8, n), 0.0)
    tracks = rng.poisson(2.0 + 0.6 * data + 0.5 * (iso > 0.0))
    return pd.DataFrame({"shape": shape, "iso": iso, "tracks": tracks, "log_pt": log_pt})


def main(
    n: Annotated[int, typer.Option("--events", help="Events of each sample.")] = 20_000,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the model and the plot.")] = Path("morph"),
) -> zfnf.morph.MorphCheck:
    """Learn the morph, check it with other events, and draw."""
    simulation, data = (events(n, data=flag, seed=seed + flag) for flag in (False, True))
    morph = zfnf.morph.fit_morph(
        simulation,
        data,
        obs=OBS,
        cond=COND,
        atoms={"iso": [0.0]},
        integers=["tracks"],
        ranges={"iso": (0.0, np.inf), "tracks": (-0.5, np.inf)},
        schedule=zfnf.Schedule(steps=steps, batch_size=1024),
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    zfnf.save(morph, out / "morph.fnf")

    simulation, data = (events(n, data=flag, seed=seed + 2 + flag) for flag in (False, True))
    found = zfnf.morph.check(morph, simulation, data)
    typer.echo(f"{morph}\n{found}")
    draw({"simulation": simulation, "morphed": morph.to_data(simulation), "data": data}, out)
    return found


def draw(samples: dict[str, pd.DataFrame], out: Path) -> None:
    """Each observable, and how the shape depends on the momentum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.5), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    edges = [np.linspace(-5, 5, 41), np.linspace(-0.1, 3.9, 41), np.arange(-0.5, 10.0)]
    for name, table in samples.items():
        style = {"fmt": "k."} if name == "data" else {"fmt": "-" if name == "morphed" else "--"}
        for ax, observable, edge in zip(axes, OBS, edges, strict=False):
            counts = np.histogram(table[observable], edge)[0] / len(table)
            ax.errorbar(0.5 * (edge[1:] + edge[:-1]), counts, label=name, **style)
            ax.set(xlabel=observable, ylabel="share of events")
            if observable == "iso":
                ax.set(yscale="log", ylim=(1e-4, 1.0))
        bins = np.linspace(2.7, 4.7, 11)
        profile = table["shape"].groupby(np.digitize(table["log_pt"], bins)).mean()
        axes[3].errorbar(0.5 * (bins[1:] + bins[:-1]), profile.loc[1:10], label=name, **style)
    axes[3].set(xlabel="log_pt", ylabel="mean of shape")
    axes[0].legend()
    figure.savefig(out / "morph.png", dpi=120)


if __name__ == "__main__":
    typer.run(main)

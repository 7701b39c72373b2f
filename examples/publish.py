"""A measured distribution that others can use: published as weighted events, and read without the model.

In data, but not in simulation, y is stretched and moved. The map that undoes that is fitted together with a nuisance, with
replicas for its statistical uncertainty. Simulated events where the map takes them are published with all their variations;
whoever reads them makes a histogram of a new observable, with its covariance by source, as tables of HEPData too.

    python examples/publish.py --out published
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import pandas as pd
import typer

import zfit_fnf as zfnf

TRUTH = {"jes": 0.5}
RATIO = np.linspace(-3.0, 3.0, 13)


def simulate(n: int, jes: float, seed: int) -> pd.DataFrame:
    """Events in which the nuisance moves both observables."""
    return pd.DataFrame(np.random.default_rng(seed).normal(0.1 * jes, 1.0, (n, 2)), columns=["x", "y"])


def main(
    events: Annotated[int, typer.Option(help="Events of data.")] = 4000,
    replicas: Annotated[int, typer.Option(help="Replicas of the data.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="New folder for what is written.")] = Path("published"),
) -> zfnf.doi.PublishedUncertainty:
    """Measure, publish, read, and draw."""
    # 1. Data, and a model of simulation; here its densities are known.
    data = simulate(events, TRUTH["jes"], seed)
    data["y"] = 1.2 * data["y"] + 0.3
    jes = zfnf.nuisance("jes")
    mean = zfit.param.ComposedParameter("mean", lambda jes: 0.1 * jes, params={"jes": jes})
    p_x, p_y = (zfit.pdf.Gauss(mean, 1.0, obs=zfit.Space(name, -10, 10)) for name in ("x", "y"))
    model = zfnf.pdf.ConditionalProductPDF([p_y, p_x], name="signal")

    # 2. The map and its profile, with replicas.
    schedule = zfnf.Schedule(steps=200, batch_size=256, learning_rate=1e-2, patience=None)
    fit = zfnf.doi.fit_transfer(model, data, obs=["y"], n_layers=1, hidden=(4,), schedule=schedule, seed=seed)
    profiled = zfnf.doi.bootstrap(zfnf.doi.profile(fit, seed=seed), replicas, seed=seed)
    result = zfnf.Minuit().minimize(profiled.loss())
    result.hesse()

    # 3. What is published: simulated events, made with the nuisance at zero.
    out.mkdir(parents=True)
    simulation = simulate(10 * events, 0.0, seed + 1)
    text = {"x": "not moved by the detector", "y": "stretched and moved by the detector"}
    zfnf.doi.publish(profiled, result, simulation, out / "measured", units={"x": "GeV", "y": "GeV"}, definitions=text)

    # 4. What a reader does, without the model: a new observable.
    measured = zfnf.doi.read(out / "measured")
    ratio = measured.histogram(
        {"ratio": RATIO}, define={"ratio": lambda table: table["y"] / np.sqrt(1.0 + table["x"] ** 2)}
    )
    zfnf.doi.to_hepdata({"ratio": ratio}, out / "hepdata", description="an example")
    typer.echo(f"{measured}\n\n{ratio}")
    draw(ratio, data, out)
    return ratio


def draw(ratio: zfnf.doi.PublishedUncertainty, data: pd.DataFrame, out: Path) -> None:
    """The new observable with its uncertainties by source, beside data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    ax, ax_error = figure.subplots(1, 2)
    for width, colour, label in ((ratio.total, "0.85", "total"), (ratio.systematic, "tab:orange", "systematic")):
        ax.stairs(ratio.value + width, RATIO, baseline=ratio.value - width, fill=True, color=colour, label=label)
    ax.stairs(ratio.value, RATIO, baseline=None, color="tab:blue", label="published")
    counts = np.histogram(data["y"] / np.sqrt(1.0 + data["x"] ** 2), RATIO)[0]
    ax.errorbar(0.5 * (RATIO[1:] + RATIO[:-1]), counts, np.sqrt(counts), fmt="k.", label="data")
    ax.set(xlabel="y / sqrt(1 + x^2)", ylabel="events")
    ax.legend()
    for source in ("statistical", "systematic", "simulation", "total"):
        ax_error.stairs(getattr(ratio, source), RATIO, label=source, baseline=None)
    ax_error.set(xlabel="y / sqrt(1 + x^2)", ylabel="standard deviation / events")
    ax_error.legend()
    figure.savefig(out / "ratio.png", dpi=120)


if __name__ == "__main__":  # replicas are made by processes that read this file again
    typer.run(main)

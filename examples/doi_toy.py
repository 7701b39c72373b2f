"""A Distribution of Interest: measure the map that undoes a distortion of data, with its uncertainties.

Two processes A and B in four observables. In data, but not in simulation, y is rotated and sheared by an amount that
depends on x and has another sense in each process. Nothing about that is put in: the map from data to simulation is
fitted together with a nuisance, then profiled. ``zfit-fnf demo --doi`` does the same with more nuisances, yields and
plots.

    python examples/doi_toy.py --out doi
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import pandas as pd
import typer

import zfit_fnf as zfnf

TOY = zfnf.datasets.ShiftSqueeze()
TRUTH = {"shift": 0.5}
X, Y = list(TOY.x), list(TOY.y)
TRANSPORTED = 10  # replicas whose shortest maps are found, which takes seconds for each


def main(
    events: Annotated[int, typer.Option(help="Events of data.")] = 10_000,
    steps: Annotated[int, typer.Option(help="Training steps of each density and response.")] = 600,
    replicas: Annotated[int, typer.Option(help="Replicas of the data.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the plot.")] = Path("doi"),
) -> tuple[zfit.result.FitResult, pd.DataFrame]:
    """Learn the densities, measure the map, print the result, and draw the map."""
    # 1. Simulation: p(x) and p(y | x) of each process, with their responses to the nuisance.
    shift = zfnf.nuisance("shift")
    model = zfnf.pdf.SumPDF(
        [density(process, shift, 10 * events, steps, seed) for process in TOY.processes], fracs=[0.5]
    )

    # 2. Data, and the map that takes them to simulation: fitted together with the nuisance.
    data = TOY.observe(events, TRUTH, distorted=True, seed=seed)
    schedule = zfnf.Schedule(steps=max(steps // 2, 1), batch_size=512, learning_rate=1e-2, patience=None)
    fit = zfnf.doi.fit_transfer(model, data, obs=Y, cond=X, schedule=schedule, seed=seed)

    # 3. How the map follows the nuisance, found once, and how it would be for other data. The profile likelihood is one like
    #    any other.
    profiled = zfnf.doi.bootstrap(zfnf.doi.profile(fit, seed=seed), replicas, seed=seed)
    result = zfnf.Minuit().minimize(profiled.loss())
    result.hesse()

    # 4. Uncertainties of anything that is computed with the map; here, of the map itself.
    maps = zfnf.doi.scenarios(profiled, result)
    quality = pd.DataFrame({process: closeness(maps, process, seed) for process in TOY.processes}).T
    typer.echo(f"{fit}\n\n{profiled}\n\n{result}\n\n{quality.T.to_string(float_format='{:.3f}'.format)}")
    draw(maps, out)
    return result, quality


def density(process: str, shift: zfnf.Nuisance, n: int, steps: int, seed: int) -> zfnf.pdf.ConditionalProductPDF:
    """p(x) p(y | x) of a process, learned from simulated events at the nominal point and at one standard deviation."""
    variations = [
        zfnf.Variation(TOY.simulate(process, n, {"shift": side}, seed=seed + number), at={"shift": side})
        for number, side in enumerate((-1.0, +1.0), start=1)
    ]
    simulation = zfnf.Simulation(TOY.simulate(process, n, seed=seed), variations)
    schedule, factors = zfnf.Schedule(steps=steps, batch_size=1024, warmup=50), []
    for obs, cond in ((Y, X), (X, [])):
        learned = zfnf.train.fit_process(simulation, obs=obs, cond=cond, schedule=schedule, seed=seed)
        factors.append(zfnf.pdf.FNFPDF(learned, params={"shift": shift}))
    return zfnf.pdf.ConditionalProductPDF(factors, name=process)


def exact(data: pd.DataFrame, process: str) -> pd.DataFrame:
    """Where data would be without distortion."""
    y = TOY.undistort(data[Y].to_numpy(), data[X].to_numpy(), process)
    return data.assign(y1=y[:, 0], y2=y[:, 1])


def closeness(maps: zfnf.doi.MapVariations, process: str, seed: int) -> dict[str, float]:
    """Distances from exact maps in widths of y, and how often the uncertainties cover them.

    Data do not tell the inverse of the distortion from other maps that lead to the same density. The shortest of these is
    unique, but for what the map of one process gains and that of the other loses: it is what can be compared with a
    prediction, here from simulated events that are distorted.
    """
    simulation = TOY.simulate(process, 4000, TRUTH, seed=seed + 10)
    data = simulation.assign(
        **dict(zip(Y, TOY.distort(simulation[Y].to_numpy(), simulation[X].to_numpy(), process).T, strict=True))
    )
    band = maps.evaluate(lambda variation: variation.to_simulation(data, process=process)[Y].to_numpy())
    y, width = simulation[Y].to_numpy(), simulation[Y].to_numpy().std(axis=0)

    def distance(moved: np.ndarray) -> float:
        return float(np.sqrt(np.mean((moved / width) ** 2)))

    inverse = {
        "without map": distance(data[Y].to_numpy() - y),
        "inverse": distance(band.value - y),
        "inverse covered": float(np.mean(np.abs(band.value - y) < band.total)),
    }
    transport = zfnf.doi.optimal_transport
    few = replace(maps, replicas=maps.replicas[:TRANSPORTED])
    exact, measured = (transport(maps.best, simulation, process=process, data=known) for known in (data, None))
    predicted = exact.to_simulation(data)[Y].to_numpy()
    shortest = few.evaluate(lambda one: transport(one, simulation, process=process).to_simulation(data)[Y].to_numpy())
    return {
        **inverse,
        "no shortest map": distance(data[Y].to_numpy() - predicted),
        "shortest map": distance(shortest.value - predicted),
        "noise of both": float(np.hypot(exact.noise, measured.noise)),
        "shortest map covered": float(np.mean(np.abs(shortest.value - predicted) < shortest.total)),
    }


def draw(maps: zfnf.doi.MapVariations, out: Path) -> None:
    """The map of each process in two slices of x, with the exact one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    grid = {"y1": np.linspace(-2, 2, 9), "y2": np.linspace(-3, 1, 9)}
    for process, axes in zip(TOY.processes, figure.subplots(2, 2), strict=True):
        for ax, x1 in zip(axes, (-0.7, 0.7), strict=True):
            at = {"x1": x1, "x2": 0.0}
            zfnf.plotting.doi.vector_field(
                maps, grid, at=at, process=process, truth=lambda data, process=process: exact(data, process), ax=ax
            )
            ax.set_ylabel(f"y2 (process {process}, x1 = {x1})")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "map.png", dpi=120)


if __name__ == "__main__":
    typer.run(main)

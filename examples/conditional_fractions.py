"""A signal strength from the conditions of events, with a classifier in place of their density.

Two processes differ in ten quantities x of an event, and in a mass whose distribution is known for each. A density of ten
quantities would be work; a classifier of the two is learned in half a minute, with what a nuisance does to it. Given x, the
share of the signal is then known at any signal strength, and the mixture of the two distributions of the mass is fitted. The
reliability of the shares is drawn.

    python examples/conditional_fractions.py --out fractions
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import pandas as pd
import typer

import zfit_fnf as zfnf

NAMES = [f"x{k}" for k in range(10)]
N_SIGNAL, N_BACKGROUND = 1000.0, 4000.0
TRUTH = {"mu": 1.2, "jes": 0.5}
MASS, RESOLUTION, SLOPE = 125.0, 2.0, -0.02


def conditions(process: str, n: int, rng: np.random.Generator, jes: float = 0.0) -> pd.DataFrame:
    """Events without the observable; the nuisance moves the first quantity of the signal."""
    if process == "signal":
        return pd.DataFrame(rng.normal(0.4 + 0.3 * jes * np.eye(10)[0], 1.0, (n, 10)), columns=NAMES)
    return pd.DataFrame(rng.multivariate_normal(np.zeros(10), 0.8 * np.eye(10) + 0.2, n), columns=NAMES)


def observe(rng: np.random.Generator) -> pd.DataFrame:
    """The data: a peak, and a falling background between 100 and 150."""
    signal = conditions("signal", rng.poisson(TRUTH["mu"] * N_SIGNAL), rng, TRUTH["jes"])
    background = conditions("background", rng.poisson(N_BACKGROUND), rng)
    falling = 100 + np.log1p(rng.uniform(size=len(background)) * np.expm1(50 * SLOPE)) / SLOPE
    parts = [signal.assign(m=rng.normal(MASS, RESOLUTION, len(signal))), background.assign(m=falling)]
    return pd.concat(parts, ignore_index=True)


def main(
    events: Annotated[int, typer.Option(help="Simulated events of each sample.")] = 50_000,
    steps: Annotated[int, typer.Option(help="Training steps of the classifier and of its response.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for a plot of the reliability.")] = None,
) -> dict[str, zfit.result.FitResult]:
    """Learn the shares, and fit the signal strength with them and without."""
    rng = np.random.default_rng(seed)
    data = observe(rng)
    moved = [zfnf.Variation(conditions("signal", events, rng, side), at={"jes": side}) for side in (-1.0, 1.0)]
    simulations = {
        "signal": zfnf.Simulation(conditions("signal", events, rng), moved),
        "background": zfnf.Simulation(conditions("background", events, rng)),
    }
    schedule = zfnf.Schedule(steps=steps, batch_size=4096, warmup=100)
    fractions = zfnf.train.fit_fractions(simulations, NAMES, schedule=schedule, seed=seed, progress=False)
    typer.echo(f"{fractions.reliability}\n")

    mu, jes, space = zfit.Parameter("mu", 1.0, 0.0, 5.0), zfnf.nuisance("jes"), zfit.Space("m", 100, 150)
    yields = {"signal": zfnf.modified_yield(N_SIGNAL, [mu]), "background": N_BACKGROUND}
    pdfs = {
        "signal": zfit.pdf.Gauss(MASS, RESOLUTION, obs=space, extended=yields["signal"]),
        "background": zfit.pdf.Exponential(SLOPE, obs=space, extended=yields["background"]),
    }
    mixture = zfnf.pdf.ConditionalMixturePDF(pdfs, fractions, {"jes": jes})
    results = {}
    for name, nll in {
        "without the conditions": zfnf.loss.UnbinnedNLL(zfnf.pdf.SumPDF(list(pdfs.values())), data[["m"]]),
        "given the conditions": zfnf.loss.UnbinnedNLL(mixture, data),
    }.items():
        results[name] = zfnf.Minuit().minimize(nll)
        results[name].hesse()
        typer.echo(f"{name}\n{results[name].params}\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        zfnf.plotting.reliability(fractions.reliability).figure.savefig(out / "reliability.png", dpi=150)
    return results


if __name__ == "__main__":
    typer.run(main)

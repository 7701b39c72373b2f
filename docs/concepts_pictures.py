"""The two pictures of docs/concepts.md: what a map does to a density, and what a log-ratio does.

python docs/concepts_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

import zfit_fnf as zfnf

STATIC = Path(__file__).parent / "_static"
N = 100_000
GRID = np.linspace(-3.5, 3.5, 401)
COLOURS = {-1.0: "tab:blue", 0.0: "black", 1.0: "tab:red"}


def scale_log_prob(y: np.ndarray, nu: float) -> np.ndarray:
    """A peak that a scale moves and a resolution widens."""
    return norm.logpdf(y, 0.5 * nu, 0.7 * np.exp(0.2 * nu))


def composition_log_prob(y: np.ndarray, nu: float) -> np.ndarray:
    """Two components in places that stay, of which one gains what the other loses."""
    share = 1.0 / (1.0 + np.exp(-nu))
    return np.log(share * norm.pdf(y, -1.2, 0.6) + (1.0 - share) * norm.pdf(y, 1.2, 0.6))


def learned(log_prob: Any, y: np.ndarray, **settings: Any) -> zfnf.Deformation:
    """The response to a nuisance, from weights of nominal events or, where a map is asked for, from events of its own."""
    rng, variations = np.random.default_rng(2), []
    for nu in (1.0, -1.0):
        weights = np.exp(log_prob(y, nu) - log_prob(y, 0.0))
        if settings:
            events = {"y": rng.choice(y, N, p=weights / weights.sum())}
            variations.append(zfnf.Variation({"y": events["y"] + 1e-3 * rng.normal(size=N)}, at={"nu": nu}))
        else:
            variations.append(zfnf.Variation(at={"nu": nu}, weights=weights))
    simulation = zfnf.Simulation({"y": y}, variations)
    process = zfnf.train.fit_process(simulation, obs=["y"], schedule=zfnf.Schedule(steps=1500), seed=1, **settings)
    assert process.deformation is not None
    return process.deformation


def draw(name: str, log_prob: Any, models: dict[str, zfnf.Deformation], below: str) -> None:
    """Densities at three values of the nuisance, exact and learned, and the response below."""
    figure = Figure(figsize=(5.0 * len(models), 5.0), layout="constrained")
    axes = np.atleast_2d(np.array(figure.subplots(2, len(models), sharex=True, height_ratios=[3, 2])))
    for (title, model), (ax, response) in zip(models.items(), axes.reshape(2, -1).T, strict=True):
        for nu, colour in COLOURS.items():
            label = rf"$\nu = {nu:+g}$" if nu else "nominal"
            found = model.log_prob({"y": GRID}, nu={"nu": nu})
            ax.plot(GRID, np.exp(log_prob(GRID, nu)), color=colour, lw=5, alpha=0.25)
            ax.plot(GRID, np.exp(found), color=colour, label=label)
            if below == "map":
                response.plot(GRID, moved(model, nu), color=colour)
            else:
                response.plot(GRID, log_prob(GRID, nu) - log_prob(GRID, 0.0), color=colour, lw=5, alpha=0.25)
                response.plot(GRID, found - model.log_prob({"y": GRID}), color=colour)
        ax.set(title=title, ylabel=r"$p(y \mid \nu)$", ylim=(0, None))
        ax.legend(frameon=False)
        axis = r"$T_\nu(y)$" if below == "map" else r"$\log\, p(y \mid \nu) / p(y \mid 0)$"
        response.set(xlabel="$y$", ylabel=axis)
    figure.savefig(STATIC / name, dpi=100)


def moved(model: zfnf.Deformation, nu: float) -> np.ndarray:
    """Where the map takes points."""
    y = GRID[:, None]
    u, c, _ = model.flow.encode(y, np.zeros((len(y), 0)))
    nominal, _ = model.inverse(u, c, model.coefficients(u, c), model.basis(np.array([nu])))
    return model.flow.decode(nominal).numpy()[:, 0]


def main() -> None:
    """Learn and draw."""
    rng = np.random.default_rng(1)
    peak = 0.7 * rng.normal(size=N)
    mixture = np.where(rng.random(N) < 0.5, -1.2, 1.2) + 0.6 * rng.normal(size=N)
    moves = learned(scale_log_prob, peak, map=True, ratio=False)
    draw("map.png", scale_log_prob, {"a map moves events": moves}, "map")
    models = {
        "a map alone": learned(composition_log_prob, mixture, map=True, ratio=False),
        "a log-ratio reweights": learned(composition_log_prob, mixture),
    }
    draw("ratio.png", composition_log_prob, models, "ratio")


if __name__ == "__main__":
    main()

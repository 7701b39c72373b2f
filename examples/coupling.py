"""A coupling of new physics: an expected density that is quadratic in it, from learned densities at three of its values.

New physics interferes with a known process: the expected density of events in an observable y is a quadratic polynomial in
the coupling c. It is simulated at c = -1, 0 and 1, and a density is learned from each. At any other coupling the expected
density is a sum of the three, with yields that are polynomials in c (`morphed_yields`). A flat background is added, and the
coupling is fitted to data, with its profile. The same fit with the exact densities is printed beside.

    python examples/coupling.py --out coupling
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import zfit
import numpy as np
import typer

import zfit_fnf as zfnf

LINEAR, SQUARE = 0.6, 1.2  # interference and square of the new amplitude, relative to the known process
POINTS = (0.0, 1.0, -1.0)
TRUTH, N_SIGNAL, N_BACKGROUND = 0.6, 2000.0, 1000.0
RANGE = (-1.0, 1.0)


def expected_density(y: np.ndarray, c: float) -> np.ndarray:
    """Expected events of the signal by y."""
    return N_SIGNAL / 2 * (1 + LINEAR * c * y + SQUARE * c**2 * y**2)


def expected_events(c: float) -> float:
    """Their number."""
    return N_SIGNAL * (1 + SQUARE * c**2 / 3)


def simulate(n: int, c: float, rng: np.random.Generator) -> np.ndarray:
    """Events of the signal."""
    y = rng.uniform(*RANGE, 8 * n)
    most = expected_density(np.linspace(*RANGE, 1001), c).max()
    return y[rng.uniform(0, most, len(y)) < expected_density(y, c)][:n]


def observe(rng: np.random.Generator) -> np.ndarray:
    """The data."""
    signal = simulate(rng.poisson(expected_events(TRUTH)), TRUTH, rng)
    return np.concatenate([signal, rng.uniform(*RANGE, rng.poisson(N_BACKGROUND))])


def exact_fit(y: np.ndarray) -> tuple[float, float]:
    """Coupling and error from the exact densities, with a free background, by Newton's method."""
    at = np.array([TRUTH, 1.0])
    for _ in range(20):
        total = expected_density(y, at[0]) + at[1] * N_BACKGROUND / 2
        slopes = np.stack(
            [
                N_SIGNAL / 2 * (LINEAR * y + 2 * SQUARE * at[0] * y**2),
                np.full(len(y), N_BACKGROUND / 2),
            ]
        )
        gradient = np.array([N_SIGNAL * 2 * SQUARE * at[0] / 3, N_BACKGROUND]) - (slopes / total).sum(axis=1)
        hessian = (slopes / total) @ (slopes / total).T
        hessian[0, 0] += N_SIGNAL * 2 * SQUARE / 3 - (N_SIGNAL * SQUARE * y**2 / total).sum()
        at = at - np.linalg.solve(hessian, gradient)
    return float(at[0]), float(np.linalg.inv(hessian)[0, 0] ** 0.5)


def likelihood(flows: list[zfnf.Flow], data: np.ndarray) -> tuple[zfit.Parameter, zfnf.loss.ExtendedUnbinnedNLL]:
    """The coupling, and its likelihood."""
    c = zfit.Parameter("c", 0.3, -2.0, 2.0)
    background_norm = zfit.Parameter("bkg_norm", 1.0, 0.0, 5.0)
    yields = zfnf.morphed_yields(c, {(point,): expected_events(point) for point in POINTS})
    signal = [
        zfnf.pdf.FlowPDF(flow, extended=n, name=f"signal at {point:g}")
        for flow, n, point in zip(flows, yields, POINTS, strict=True)
    ]
    space = zfit.Space("y", *RANGE)
    n_background = zfnf.modified_yield(N_BACKGROUND, [background_norm])
    background = zfit.pdf.Uniform(*RANGE, obs=space, extended=n_background, name="background")
    return c, zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF([*signal, background]), {"y": data})


def main(
    events: Annotated[int, typer.Option(help="Simulated events at each coupling.")] = 100_000,
    steps: Annotated[int, typer.Option(help="Training steps of each density.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for a plot of the profile.")] = None,
) -> dict[str, tuple[float, float]]:
    """Learn the densities, and fit the coupling."""
    rng = np.random.default_rng(seed)
    data = observe(rng)
    schedule = zfnf.Schedule(steps=steps, warmup=50, averaging=0.98)
    flows = [
        zfnf.train.fit_flow(
            {"y": simulate(events, point, rng)}, obs=["y"], ranges={"y": RANGE}, schedule=schedule, progress=False
        )
        for point in POINTS
    ]
    c, nll = likelihood(flows, data)
    result = zfnf.Minuit().minimize(nll)
    result.hesse()
    fitted = result.params[c]["value"], result.params[c]["hesse"]["error"]
    typer.echo(f"{result.params}\n")
    exact = exact_fit(data)
    for name, (value, error) in {"learned": fitted, "exact": exact}.items():
        typer.echo(f"c from {name} densities: {value:.3f} +- {error:.3f}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        scan = zfnf.scans.profile(nll, result, c, progress=False)
        zfnf.plotting.profile(scan).figure.savefig(out / "profile.png", dpi=150)
    return {"learned": fitted, "exact": exact}


if __name__ == "__main__":
    typer.run(main)

"""The efficiency of an electron identification from Z -> e e events of CMS, without bins and in bins.

One electron of each pair, chosen at random, is the tag if it passes the identification; the other one is the probe. Its
efficiency as a function of transverse momentum and |pseudorapidity| is fitted at once over the whole phase space, then,
for comparison, by a fit of its own in each of twelve bins. Both use the same shapes of the mass.

The identification is a toy: tracks around the electron have less than 5 % of its transverse momentum, and the ratio
of hadronic to electromagnetic energy is below 4 %.

    python examples/tagprobe_zee.py Zee_Run2011A.csv --out zee

The file is `Zee_Run2011A.csv` of CERN Open Data record 545: 18 885 events of the CMS collaboration at 7 TeV (CC-BY 4.0).
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from pathlib import Path
from typing import Annotated, Any

import zfit  # noqa: F401 (before tensorflow, which it silences)
import numpy as np
import pandas as pd
import typer
from iminuit import Minuit
from scipy.special import erfc, expit

import zfit_fnf as zfnf
from zfit_fnf.tagprobe import Bernstein, ErfcExponential, Peak, export_correction

WINDOW = (60.0, 120.0)  # GeV
PT, ETA = (25.0, 33.0, 40.0, 47.0, 100.0), (0.0, 0.8, 1.479, 2.5)  # edges of the bins; the barrel ends at 1.479
TITLES = {"pt": r"$p_T$ [GeV]", "eta": r"$|\eta|$"}
COLUMNS = {"mass": "mass", "window": WINDOW, "passing": "id", "cond": ["pt", "eta"]}


def main(
    file: Annotated[Path, typer.Argument(help="The events, CSV.")],
    out: Annotated[Path, typer.Option(help="Folder for plots and corrections.")] = Path("zee"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    steps: Annotated[int, typer.Option(help="Training steps of each member.")] = 1500,
    reference: Annotated[bool, typer.Option(help="Whether to fit each bin as well.")] = True,
) -> pd.DataFrame:
    """Fit, compare with a fit in each bin, print a table, draw, and write the correction."""
    pairs, started = read_pairs(file, seed), time.process_time()
    result = zfnf.tagprobe.fit(
        pairs,
        Peak(),
        ErfcExponential(),
        alternatives={
            "polynomial": {"background": Bernstein(4)},
            "two peaks": {"signal": (Peak(), Peak())},
        },
        schedule=zfnf.Schedule(steps=steps, batch_size=2048, warmup=100, averaging=0.99),
        seed=seed,
        progress=False,
        **COLUMNS,
    )
    cpu = time.process_time() - started
    os.makedirs(out, exist_ok=True)
    found = export_correction(result, out / "efficiency.json", {"pt": PT, "eta": ETA})
    zfnf.save(result, out / "efficiency.fnf")
    table = pd.DataFrame({"probes": [int(one(pairs).sum()) for one in regions().values()]}, index=list(regions()))
    table = table.join(found.to_dataframe().set_index(table.index))
    typer.echo(f"{result}\n{cpu:.0f} CPU-seconds for the fit and two alternatives\n")
    if reference:
        table[["bin", "bin error"]] = [fit_bin(pairs[one(pairs)]) for one in regions().values()]
        typer.echo(compared(table, found.sources["statistics"] + found.sources["networks"]))
    typer.echo(table.to_string(float_format=lambda value: f"{value:.4f}"))
    draw(result, table, out)
    return table


def read_pairs(file: Path, seed: int) -> pd.DataFrame:
    """One row per probe: mass, whether it passes, transverse momentum and absolute pseudorapidity."""
    events = pd.read_csv(file)
    angles = np.cosh(events.eta1 - events.eta2) - np.cos(events.phi1 - events.phi2)
    passes = {k: (events[f"isoTrack{k}"] < 0.05 * events[f"pt{k}"]) & (events[f"HoverE{k}"] < 0.04) for k in (1, 2)}
    first_is_tag = np.random.default_rng(seed).uniform(size=len(events)) < 0.5
    pairs = pd.DataFrame(
        {
            "mass": np.sqrt(2 * events.pt1 * events.pt2 * angles),
            "id": np.where(first_is_tag, passes[2], passes[1]),
            "pt": np.where(first_is_tag, events.pt2, events.pt1),
            "eta": np.abs(np.where(first_is_tag, events.eta2, events.eta1)),
        }
    )
    has_tag = np.where(first_is_tag, passes[1], passes[2])
    return pairs[has_tag & (pairs.pt < PT[-1]) & (pairs.eta < ETA[-1])].reset_index(drop=True)


def regions() -> dict[str, Any]:
    """Twelve bins, in the order in which corrections have them."""
    return {
        f"pt {a:g} to {b:g} GeV, |eta| {c:g} to {d:g}": functools.partial(_inside, pt=(a, b), eta=(c, d))
        for a, b in itertools.pairwise(PT)
        for c, d in itertools.pairwise(ETA)
    }


def _inside(table: pd.DataFrame, **limits: tuple[float, float]) -> pd.Series:
    inside = [(table[name] >= low) & (table[name] < high) for name, (low, high) in limits.items()]
    return np.logical_and.reduce(inside)


# --- one fit in each bin --------------------------------------------------------------------------------------------------


def fit_bin(pairs: pd.DataFrame) -> tuple[float, float]:
    """Efficiency in a bin and its MINOS error, by an unbinned fit of the same shapes to the pairs in it."""
    low, high = WINDOW
    t, passing = (2 * pairs.mass.to_numpy() - low - high) / (high - low), pairs.id.to_numpy(bool)
    at, weights = np.polynomial.legendre.leggauss(160)

    def peak(t: np.ndarray, mean: float, log_width: float, left: float, right: float) -> np.ndarray:
        z = (t - mean) * np.exp(-log_width)
        k = np.where(z < 0, np.exp(left), np.exp(right))
        return np.exp(np.where(np.abs(z) < k, -0.5 * z**2, 0.5 * k**2 - k * np.abs(z)))

    def turn_on(t: np.ndarray, start: float, log_slope: float, fall: float) -> np.ndarray:
        return erfc(np.clip((start - t) * np.exp(log_slope), -5, 5)) * np.exp(-fall * t)

    def nll(p: np.ndarray) -> float:
        efficiency, of_background, share = p[0], expit(p[1]), expit(p[2])
        signal = peak(t, *p[3:7]) / (weights @ peak(at, *p[3:7]))
        density = np.empty(len(t))
        for outcome, a in ((True, p[7:10]), (False, p[10:13])):
            own = passing == outcome
            background = turn_on(t[own], *a) / (weights @ turn_on(at, *a))
            e, b = (efficiency, of_background) if outcome else (1 - efficiency, 1 - of_background)
            density[own] = share * e * signal[own] + (1 - share) * b * background
        return -2 * np.log(density).sum()

    background = [-0.8, 0.5, 0.5]
    fit = Minuit(nll, [0.8, 0.0, 0.0, 0.0, np.log(0.1), 0.0, 0.0, *background, *background])
    fit.limits = [
        (0.01, 0.99),
        (-9, 9),
        (-9, 9),
        (-0.3, 0.3),
        (-5, 0),
        (-2, 2),
        (-2, 2),
        *[(-2, 1), (-2, 3), (-6, 6)] * 2,
    ]
    fit.migrad(ncall=20_000)
    fit.minos("x0")
    errors = fit.merrors["x0"]
    return fit.values[0], 0.5 * (errors.upper - errors.lower)


# --- comparison and plots -------------------------------------------------------------------------------------------------


def compared(table: pd.DataFrame, covariance: np.ndarray) -> str:
    """How far the two are apart, and what their errors are in the four bins with the fewest probes.

    Both see the same probes: what they differ by has the difference of their variances, as far as the continuous fit is
    efficient; its own variance alone would be too large.
    """
    difference = table["value"] - table["bin"]
    variance = table["bin error"] ** 2
    own = np.diag(covariance)
    sparse = table["probes"].argsort()[: len(table) // 3]
    ratio = np.sqrt(own / variance).iloc[sparse]
    return (
        f"chi2 / bins of the difference: {np.sum(difference**2 / (variance - own).clip(lower=0.1 * variance)):.1f} / "
        f"{len(table)}, with errors of the bins alone {np.sum(difference**2 / variance):.1f}\n"
        f"errors over those of the bins, in the sparsest third: {ratio.mean():.2f} on average, {ratio.min():.2f} to "
        f"{ratio.max():.2f}\n"
    )


def draw(result: zfnf.tagprobe.TagProbeResult, table: pd.DataFrame, out: Path) -> None:
    """The map, slices, masses in two regions, and the bins."""
    from matplotlib.figure import Figure

    plots = zfnf.plotting.tagprobe
    figure = Figure(figsize=(11, 8), layout="constrained")
    (ax_map, ax_slices), (ax_errors, ax_bins) = figure.subplots(2, 2)
    grid = {"pt": np.linspace(26, 80, 60), "eta": np.linspace(0.02, 2.4, 60)}
    plots.efficiency_map(result, grid, titles=TITLES, ax=ax_map)
    plots.efficiency_map(result, grid, errors=True, titles=TITLES, ax=ax_errors)
    for eta, color in ((0.4, "#2166ac"), (1.9, "#b2182b")):
        place = {"at": {"eta": eta}, "label": rf"$|\eta|$ = {eta}"}
        plots.efficiency_slice(result, "pt", grid["pt"], color=color, titles=TITLES, ax=ax_slices, **place)
    if "bin" in table:
        plots.binned(result, table[["bin", "bin error"]].to_numpy().T, regions(), ax=ax_bins)
    figure.savefig(out / "efficiency.png", dpi=120)
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(4, 2, height_ratios=[3, 1, 3, 1])
    for row, (low, high) in enumerate(((25.0, 33.0), (40.0, 47.0))):
        for column, passing in enumerate((True, False)):
            own = result.spectrum(passing, lambda x, low=low, high=high: (x["pt"] >= low) & (x["pt"] < high), bins=30)
            plots.mass(own, unit="GeV", ax=axes[2 * row, column], ax_pulls=axes[2 * row + 1, column])
            axes[2 * row, column].set_title(rf"$p_T$ {low:g} to {high:g} GeV", fontsize="medium")
    figure.savefig(out / "mass.png", dpi=120)


if __name__ == "__main__":
    typer.run(main)

"""A Distribution of Interest, from simulated files to plots: what ``zfit-fnf demo --doi`` does.

The data of `zfit_fnf.demo` are distorted by a rotation and a shear that simulation does not have, of different sense in each
process. The map that undoes them is measured together with the signal strength and the nuisances; as the distortion is
known exactly, so is how far the measured map is from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import typer
from zfit.result import FitResult

from .. import scans, storage
from ..common.files import own_files
from ..diagnostics import two_sample_auc
from ..doi import (
    ProfiledFit,
    TransferFit,
    bootstrap,
    ensemble,
    fit_transfer,
    optimal_transport,
    profile,
    scenarios,
    unfolded,
)
from ..doi.ensemble import Ensemble
from ..doi.variations import MapVariation, MapVariations, Uncertainty
from ..minimize import Minuit
from ..plotting import doi as doi_plotting
from ..plotting.style import figure
from ..plotting.unfolding import spectrum
from ..projections import component_samples
from ..samples import Sample
from ..train.schedule import Schedule
from .model import QUICK as DEMO_QUICK
from .model import TOY, DemoSettings, Model, build_model, fit_exactly
from .report import minos_errors, to_json, versions, write_text
from .stages import PLACES, Stages, check_libraries, save_all, simulate, train_all

__all__ = ["FULL", "QUICK", "DoIFindings", "DoISettings", "run"]

SLICES = (-1.0, 0.0, 1.0)
"""Values of x1 at which the map is drawn; x2 is zero."""

GRID = {"y1": np.linspace(-2.0, 2.0, 9), "y2": np.linspace(-3.0, 1.0, 9)}
"""Points of the vector fields."""

PANELS = {"x1": (-2.0, -0.5, 0.5, 2.0)}
"""Bins of x1 in which distributions are drawn."""

BINS = {"y1": np.linspace(-3.0, 3.0, 25), "y2": np.linspace(-4.0, 2.0, 25)}

_N_POINTS = 4_000  # of each process, at which the map is compared to the exact one


@dataclass(frozen=True, kw_only=True)
class DoISettings:
    """Size of a demonstration.

    Attributes:
        base: Events, and training of the simulation model.
        n_replicas: Bootstrap replicas.
        n_layers: Layers of the map.
        hidden: Hidden layers of the networks of the map; by default those of `fit_transfer`.
        fit: Training of the map; by default that of `fit_transfer`.
        n_checks: Points where the profile is compared with a refitted map.
    """

    base: DemoSettings
    n_replicas: int = 50
    n_layers: int = 3
    hidden: tuple[int, ...] | None = None
    fit: Schedule | None = None
    n_checks: int = 2


FULL = DoISettings(
    base=DemoSettings(n_simulated=1_000_000, expected={"A": 20_000.0, "B": 20_000.0}, n_drawn=40_000, contour_points=7)
)
QUICK = DoISettings(
    base=DemoSettings(
        n_simulated=100_000,
        expected={"A": 4_000.0, "B": 4_000.0},
        flow=DEMO_QUICK.flow,
        deformation=DEMO_QUICK.deformation,
        n_drawn=8_000,
        contour_points=5,
    ),
    n_replicas=10,
    n_layers=2,
    hidden=(16, 16),
    fit=Schedule(steps=300, batch_size=512, learning_rate=1e-2, patience=None),
    n_checks=1,
)


@dataclass(frozen=True, eq=False)
class DoIFindings:
    """Results.

    Attributes:
        data: The data.
        model: The model of simulation.
        profiled: Both steps.
        result: Fit of the profile likelihood, with errors.
        limit: Upper limit on the signal strength at 95 % confidence level.
        average: The ensemble.
        maps: The map variations that propagate uncertainties.
        exact: Best fit and error of each parameter with the exact density of ``x`` alone, which no map changes.
        closeness: How good the map is, by process.
        auc: Of a classifier between data and the model.
        contours: Likelihood of the nuisances with the map fixed, and profiled.
    """

    data: Sample
    model: Model
    profiled: ProfiledFit
    result: FitResult
    limit: float
    average: Ensemble
    maps: MapVariations
    exact: pd.DataFrame
    closeness: pd.DataFrame
    auc: float
    contours: tuple[scans.ContourScan, scans.ContourScan]


# --- the analysis, step by step -------------------------------------------------------------------------------------


def run(
    out: Path,
    settings: DoISettings = FULL,
    *,
    seed: int = 1,
    overwrite: bool = False,
    progress: bool = True,
    echo: Callable[[str], Any] = typer.echo,
) -> str:
    """Do the whole analysis, and leave events, models, replicas, results and plots in a folder; as `zfit_fnf.demo.run`."""
    check_libraries("sklearn")
    with own_files(out, PLACES, overwrite=overwrite):
        return _run(out, settings, Stages(echo), seed=seed, progress=progress)


def _run(out: Path, settings: DoISettings, stage: Stages, *, seed: int, progress: bool) -> str:
    base = settings.base
    with stage("simulation", f"simulating {base.n_simulated:,} events for each process and variation"):
        simulate(out / "events", base, seed, distorted=True)
    with stage("training", "training p(x) and p(y | x) of both processes, with nuisances"):
        densities = train_all(out / "events", base, seed=seed, progress=progress)
        save_all(densities, out / "models")
    data, model = Sample.read(out / "events" / "data.parquet"), build_model(densities)
    fit = measure(data, model, settings, stage, seed=seed, progress=progress)
    findings = analyse(fit, model, settings, stage, seed=seed, progress=progress)
    storage.save(findings.average, out / "models" / "map.fnf")
    with stage("plots", "drawing plots"):
        draw_plots(out / "plots", findings, settings, seed)
    table = results_table(findings, settings, stage.seconds)
    write_text(out / "results.json", to_json(results_dict(findings, settings, stage.seconds, seed)))
    write_text(out / "results.txt", table)
    return table


def measure(
    data: Sample, model: Model, settings: DoISettings, stage: Stages, *, seed: int, progress: bool
) -> TransferFit:
    """Step 1: the map together with all parameters."""
    with stage("step 1", f"fitting the map and all parameters to {data.n_events:,} events"):
        return fit_transfer(
            model.pdf,
            data,
            obs=TOY.y,
            cond=TOY.x,
            n_layers=settings.n_layers,
            hidden=settings.hidden,
            schedule=settings.fit,
            seed=seed,
            progress=progress,
        )


def analyse(
    fit: TransferFit, model: Model, settings: DoISettings, stage: Stages, *, seed: int, progress: bool
) -> DoIFindings:
    """Step 2, and all results of the profile likelihood."""
    with stage("step 2", "finding how the map follows the parameters"):
        profiled = profile(fit, n_checks=settings.n_checks, seed=seed)
    with stage("replicas", f"the same map for {settings.n_replicas} replicas of the data"):
        profiled = bootstrap(profiled, settings.n_replicas, seed=seed)
    nll = profiled.loss()
    with stage("fit", "fitting the profile likelihood: MIGRAD, HESSE, MINOS"):
        result = Minuit().minimize(nll)
        result.hesse()
        result.errors(method="minuit_minos")
    with stage("limit", "upper limit on the signal strength"):
        limit = upper_limit(result, model.mu)
    with stage("ensemble", "combining the likelihoods of all replicas"):
        average = ensemble(profiled, progress=progress)
    with stage("scans", "likelihood of the nuisances with the map fixed, and profiled"):
        contours = scan_both(profiled, result, settings, progress=progress)
    with stage("comparison", "comparing the map with the exact one, and the model with data"):
        maps = scenarios(profiled, result)
        closeness = compare(maps, settings, seed)
        auc = two_sample_auc(fit.data, drawn(maps, settings, seed), TOY.x + TOY.y, seed=seed)
        exact = fit_exactly(fit.data, settings.base, of="x").table
    return DoIFindings(fit.data, model, profiled, result, limit, average, maps, exact, closeness, auc, contours)


def upper_limit(result: FitResult, parameter: zfit.Parameter) -> float:
    """One-sided limit at 95 %: the upper end of the two-sided MINOS interval at 90 %.

    A limit by CLs compares with no signal at all, where no map of the signal could have been measured.
    """
    errors, _ = result.errors([parameter], method="minuit_minos", cl=0.90, name="minos_90")
    return float(result.params[parameter]["value"] + errors[parameter]["upper"])


def scan_both(
    profiled: ProfiledFit, result: FitResult, settings: DoISettings, *, progress: bool
) -> tuple[scans.ContourScan, scans.ContourScan]:
    """The likelihood of the two nuisances of shape with the map fixed and with the map that follows them."""
    params = profiled.parameters
    pair, n_points = (params["shift"], params["squeeze"]), settings.base.contour_points
    with zfit.param.set_values(list(params.values()), list(profiled.fit.values.values())):
        loss = profiled.fit.loss()
        fixed = scans.contour(loss, Minuit().minimize(loss), pair, n_points=n_points, progress=progress)
    return fixed, scans.contour(profiled.loss(), result, pair, n_points=n_points, progress=progress)


def drawn(maps: MapVariations, settings: DoISettings, seed: int) -> Sample:
    """Weighted events of the model of data at the best fit."""
    best = {maps.best.parameters[name]: value for name, value in maps.best.values.items()}
    parts = component_samples(maps.best.pdf, params=best, n_events=settings.base.n_drawn, seed=seed).values()
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in TOY.x + TOY.y}
    return Sample(columns, np.concatenate([part.weights for part in parts]))


# --- exact results --------------------------------------------------------------------------------------------------


def undistorted(events: pd.DataFrame, process: str) -> pd.DataFrame:
    """Events with the distortion undone exactly."""
    y, x = events[list(TOY.y)].to_numpy(), events[list(TOY.x)].to_numpy()
    return events.assign(**dict(zip(TOY.y, TOY.undistort(y, x, process).T, strict=True)))


def compare(maps: MapVariations, settings: DoISettings, seed: int) -> pd.DataFrame:
    """Distance of the map from the exact one, and how often its uncertainty covers the difference, by process.

    Data do not tell the exact map from others that lead to the same density. The shortest of these is unique, but for what
    the map of one process gains and that of the other one loses.
    """
    point = {name: settings.base.truth[name] for name in TOY.nuisances}
    rows = {}
    for process in TOY.processes:
        simulation = TOY.simulate(process, _N_POINTS, point, seed=seed)
        y, x = simulation[list(TOY.y)].to_numpy(), simulation[list(TOY.x)].to_numpy()
        data = simulation.assign(**dict(zip(TOY.y, TOY.distort(y, x, process).T, strict=True)))
        band = moved_to_simulation(maps, data, process)
        width, distance = y.std(axis=0), band.value - y
        before = data[list(TOY.y)].to_numpy() - y
        predicted, measured = (_shortest(maps, simulation, data, process, known) for known in (data, None))
        distances = {
            "distance": distance,
            "distance without map": before,
            "shortest map": measured - predicted,
            "no shortest map": data[list(TOY.y)].to_numpy() - predicted,
        }
        rows[process] = {name: float(np.sqrt(np.mean((own / width) ** 2))) for name, own in distances.items()}
        rows[process]["covered"] = float(np.mean(np.abs(distance) < band.total))
    return pd.DataFrame(rows).T


def _shortest(
    maps: MapVariations, simulation: pd.DataFrame, data: pd.DataFrame, process: str, known: pd.DataFrame | None
) -> np.ndarray:
    """The observables of data where the shortest map takes them, that of the fit or that between known events."""
    found = optimal_transport(maps.best, simulation, process=process, data=known)
    return found.to_simulation(data)[list(TOY.y)].to_numpy()


def moved_to_simulation(maps: MapVariations, data: pd.DataFrame, process: str) -> Uncertainty:
    """The observables of data where the map takes them, with uncertainty."""
    return maps.evaluate(lambda variation: variation.to_simulation(data, process=process)[list(TOY.y)].to_numpy())


# --- results --------------------------------------------------------------------------------------------------------


def results_dict(findings: DoIFindings, settings: DoISettings, seconds: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that was found, by name."""
    profiled, average = findings.profiled, findings.average
    return {
        "seed": seed,
        "settings": asdict(settings),
        "versions": versions(),
        "n_events": findings.data.n_events,
        "step 1": {"problems": profiled.fit.problems, "rounds": profiled.fit.rounds, "nll": profiled.fit.nll},
        "step 2": {
            "problems": profiled.problems,
            "window": profiled.window,
            "checks": [asdict(check) for check in profiled.checks],
        },
        "fit": {
            "valid": findings.result.valid,
            "parameters": parameters(findings, settings).to_dict(orient="index"),
        },
        "limit": {"poi": findings.model.mu.name, "cl": 0.95, "observed": findings.limit},
        "ensemble": {
            "replicas": average.minima.to_dict(orient="list"),
            "k_eff": average.k_eff,
            "lowest": average.lowest,
        },
        "map": findings.closeness.to_dict(orient="index"),
        "auc": findings.auc,
        "timings": dict(seconds),
    }


def parameters(findings: DoIFindings, settings: DoISettings) -> pd.DataFrame:
    """All that is known of each parameter: a row each."""
    fit, average, rows = findings.profiled.fit, findings.average, {}
    for name, parameter in findings.model.parameters.items():
        rows[name] = {
            "truth": settings.base.truth[name],
            "map fixed": fit.values[name],
            "error, map fixed": fit.errors[name],
            "profile": findings.result.params[parameter]["value"],
            "HESSE": findings.result.params[parameter]["hesse"]["error"],
            "MINOS": minos_errors(findings.result, parameter),
            "ensemble": average.values[name],
            "error, ensemble": average.errors[name],
            "spread of replicas": average.spread[name],
            "exact x": findings.exact.loc[name, "value"],
            "error, exact x": findings.exact.loc[name, "error"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def results_table(findings: DoIFindings, settings: DoISettings, seconds: Mapping[str, Mapping[str, float]]) -> str:
    """The results as text."""
    table = parameters(findings, settings)
    table["MINOS"] = ["failed" if m is None else f"{m[0]:+.4f} {m[1]:+.4f}" for m in table["MINOS"]]
    closeness = findings.closeness.to_string(float_format="{:.3f}".format)
    times = pd.DataFrame(seconds).T.map("{:.1f}".format).to_string()
    parts = [
        findings.profiled.fit,
        findings.profiled,
        f"parameters\n{table.T.to_string(float_format='{:.4f}'.format)}",
        "(exact x: with the true density of x alone; its errors contain the information that a free map leaves)",
        f"signal strength: below {findings.limit:.4f} at 95 % confidence level",
        f"ensemble of {len(findings.average.minima)} replicas, K_eff = {findings.average.k_eff:.1f}",
        "map and exact map: rms distance in widths of y, of the shortest maps too; fraction of points inside of "
        f"the total uncertainty\n{closeness}",
        f"classifier between data and model: AUC {findings.auc:.4f}",
        f"time in seconds\n{times}",
    ]
    return "\n\n".join(map(str, parts)) + "\n"


# --- plots ----------------------------------------------------------------------------------------------------------


def draw_plots(folder: Path, findings: DoIFindings, settings: DoISettings, seed: int) -> None:
    """Draw everything into a folder."""
    folder.mkdir(exist_ok=True)
    for process in TOY.processes:
        draw_map(folder, findings.maps, process)
    draw_distributions(folder, findings, settings, seed)
    truth, maps = settings.base.truth, findings.maps
    with figure(folder / "likelihoods.png", (6, 5.5)) as fig:
        replicas = findings.average.minima
        doi_plotting.likelihoods(*findings.contours, replicas=replicas, truth=truth, ax=fig.subplots())
    found = maps.evaluate(unfolded(findings.data, {"y1": BINS["y1"]}))
    with figure(folder / "spectrum.png", (9.5, 3.8)) as fig:
        spectrum(found, axes=fig.subplots(1, 2))
    with figure(folder / "ellipse.png", (5, 4.5)) as fig:
        doi_plotting.ellipse(maps.eigenvariations, TOY.nuisances, truth=truth, ax=fig.subplots())
    with figure(folder / "impacts.png", (7, 3.5)) as fig:
        doi_plotting.impacts(mean_of(found), maps.eigenvariations, label="mean of y1, unfolded data", ax=fig.subplots())


def mean_of(spectrum: Uncertainty) -> Uncertainty:
    """Mean of the one observable of a histogram, with its uncertainties."""
    (edges,) = spectrum.edges.values()

    def mean(numbers: np.ndarray) -> np.ndarray:
        return np.asarray(numbers @ (edges[1:] + edges[:-1]) / numbers.sum(axis=-1) / 2)

    value = mean(spectrum.value)
    shifts = mean(spectrum.value + spectrum.shifts) - value
    return Uncertainty(value, mean(spectrum.replicas), shifts, spectrum.eigenvariations)


def draw_map(folder: Path, maps: MapVariations, process: str) -> None:
    """The map of one process: vector fields, displacements with uncertainties, and morphings."""

    def truth(events: pd.DataFrame) -> pd.DataFrame:
        return undistorted(events, process)

    slices = [{"x1": x1, "x2": 0.0} for x1 in SLICES]
    with figure(folder / f"field_{process}.png", (12, 4.8)) as fig:
        for ax, at in zip(fig.subplots(1, len(slices)), slices, strict=True):
            doi_plotting.vector_field(maps, GRID, at=at, process=process, truth=truth, ax=ax)
        _title_columns(fig, f"process {process}: data to simulation")
    with figure(folder / f"displacement_{process}.png", (12, 6.5)) as fig:
        for axes, (name, other) in zip(fig.subplots(2, len(slices)), (TOY.y, TOY.y[::-1]), strict=True):
            for ax, at in zip(axes, slices, strict=True):
                values, centre = {name: np.linspace(GRID[name][0], GRID[name][-1], 41)}, {other: GRID[other].mean()}
                doi_plotting.displacement(maps, values, at={**at, **centre}, process=process, truth=truth, ax=ax)
        _title_columns(fig, f"process {process}")
    with figure(folder / f"morphing_{process}.png", (12, 9)) as fig:
        for index, axes in enumerate(fig.subplots(2, len(slices))):
            for ax, at in zip(axes, slices, strict=True):
                doi_plotting.morphing(maps, index, GRID, at=at, process=process, ax=ax)
        _title_columns(fig, f"process {process}: change of the map along the two largest eigenvectors")


def _title_columns(fig: Any, title: str) -> None:
    """One legend for all axes, and which slice each column shows."""
    columns = fig.axes[0].get_subplotspec().get_gridspec().ncols
    handles = fig.axes[0].get_legend_handles_labels()
    for index, ax in enumerate(fig.axes):
        ax.get_legend().remove()
        if index < columns:
            own = ax.get_title()
            ax.set_title(f"x1 = {SLICES[index]:g}, x2 = 0" + (f"\n{own}" if own else ""))
    fig.suptitle(title)
    fig.legend(*handles, loc="outside lower center", ncols=4, frameon=False)


def draw_distributions(folder: Path, findings: DoIFindings, settings: DoISettings, seed: int) -> None:
    """Each observable of interest in bins of x1, with the post-fit model and its uncertainty."""
    maps, events = findings.maps, drawn(findings.maps, settings, seed)
    reference = maps.best.log_rate(events)
    weights = np.ones(events.n_events) if events.weights is None else events.weights
    columns = {name: {"x1": np.array(PANELS["x1"]), name: edges} for name, edges in BINS.items()}

    def histograms(variation: MapVariation) -> np.ndarray:
        # As `predicted`, but of both observables: the densities are what takes time.
        own = weights * np.exp(variation.log_rate(events) - reference)
        return np.stack(
            [
                np.histogramdd([events.columns[c] for c in of], list(of.values()), weights=own)[0]
                for of in columns.values()
            ]
        )

    both = maps.evaluate(histograms)
    for index, (name, of) in enumerate(columns.items()):
        band = Uncertainty(both.value[index], both.replicas[:, index], both.shifts[:, :, index], both.eigenvariations)
        with figure(folder / f"postfit_{name}.png", (12, 5)) as fig:
            axes = fig.subplots(2, len(PANELS["x1"]) - 1, sharex=True, height_ratios=[3, 1])
            doi_plotting.postfit(findings.data, band, of, axes=axes)

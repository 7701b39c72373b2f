"""The stages of the demonstration, each a function, in the order in which `run` calls them; copy what you need."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import typer

from .. import scans, storage
from ..acceleration import accelerate
from ..common.files import own_files
from ..common.optional import require
from ..common.parallel import run as run_tasks
from ..common.parallel import workers
from ..densities.deformation import Deformation
from ..limits import discovery, upper_limit
from ..loss import ExtendedUnbinnedNLL
from ..minimize import Minuit
from ..samples import Sample, Variation, write_sample
from ..train import fit_deformation, fit_flow
from .model import (
    FULL,
    POINTS,
    TOY,
    DemoSettings,
    Densities,
    Model,
    build_model,
    efficiency,
    expected_events,
    fit_exactly,
)
from .report import Findings, draw_plots, results_dict, results_table, to_json, write_text
from .trust import judge

__all__ = [
    "PLACES",
    "Stages",
    "analyse",
    "check_libraries",
    "observe",
    "read",
    "run",
    "save_all",
    "simulate",
    "train",
    "train_all",
]

PLACES = ("events", "models", "plots", "results.txt", "results.json", "histories.json")
"""Files and folders that a demonstration writes."""


def run(
    out: Path,
    settings: DemoSettings = FULL,
    *,
    seed: int = 1,
    overwrite: bool = False,
    progress: bool = True,
    echo: Callable[[str], Any] = typer.echo,
) -> str:
    """Do the whole analysis, and leave events, models, results and plots in a folder.

    Args:
        out: The folder; made if it is not there.
        settings: Size of the demonstration.
        seed: Seed of everything that is random.
        overwrite: Whether the folder may contain files; those of an earlier run are deleted first.
        progress: Whether to show progress bars.
        echo: Function that announces the stages.

    Returns:
        The table of results.

    Raises:
        FileExistsError: If the folder has files in it, and ``overwrite`` is not set; or foreign files are in the
            places of its own.
        ImportError: If an optional library is missing, with the command that installs it.
        TrainingStopped: If a training diverges or is interrupted.
    """
    check_libraries()
    with own_files(out, PLACES, overwrite=overwrite):
        return _run(out, settings, Stages(echo), seed=seed, progress=progress)


def _run(out: Path, settings: DemoSettings, stage: Stages, *, seed: int, progress: bool) -> str:
    with stage("simulation", f"simulating {len(POINTS)} samples of {settings.n_simulated:,} events for each process"):
        simulate(out / "events", settings, seed)
    with stage("training", "training p(x) and p(y | x) of both processes, with nuisances"):
        densities = train_all(out / "events", settings, seed=seed, progress=progress)
        save_all(densities, out / "models")
    data, model = Sample.read(out / "events" / "data.parquet"), build_model(densities)
    findings = analyse(data, model, settings, stage, seed=seed, progress=progress)
    with stage("plots", "drawing plots"):
        draw_plots(out / "plots", findings, densities, settings, seed)
    table = results_table(findings, settings, stage.seconds)
    write_text(out / "histories.json", to_json({process: learned.histories for process, learned in densities.items()}))
    write_text(out / "results.json", to_json(results_dict(findings, settings, stage.seconds, seed)))
    write_text(out / "results.txt", table)
    return table


def simulate(folder: Path, settings: DemoSettings, seed: int, *, distorted: bool = False) -> None:
    """Write the samples of both processes, with weights that sum to the expected yields, and the data, maybe distorted."""
    folder.mkdir(exist_ok=True)
    for process in TOY.processes:
        for number, (name, point) in enumerate(POINTS.items()):
            events = TOY.simulate(process, settings.n_simulated, point, seed=1000 * seed + number).astype(np.float32)
            weight = settings.expected[process] * efficiency(process, point) / len(events)
            write_sample(events.assign(w=np.float32(weight)), folder / f"{process}_{name}.parquet")
    write_sample(observe(settings, seed, distorted=distorted), folder / "data.parquet")


def observe(settings: DemoSettings, seed: int, *, distorted: bool = False) -> pd.DataFrame:
    """The data: a Poisson number of events of each process at the true parameters."""
    n_a, n_b = (expected_events(process, settings.truth, settings) for process in TOY.processes)
    n_events = int(np.random.default_rng(seed).poisson(n_a + n_b))
    point = {name: settings.truth[name] for name in TOY.nuisances}
    return TOY.observe(n_events, point, seed=seed, fraction=n_a / (n_a + n_b), distorted=distorted)


def read(folder: Path, process: str) -> dict[str, Sample]:
    """The simulated samples of a process."""
    return {name: Sample.read(folder / f"{process}_{name}.parquet", weights="w") for name in POINTS}


def train_all(folder: Path, settings: DemoSettings, *, seed: int, progress: bool) -> dict[str, Densities]:
    """Train for all processes at once, each beside this process; progress is shown for the last one."""
    work = functools.partial(_train, folder, settings, seed, TOY.processes[-1] if progress else "")
    with workers(len(TOY.processes)) as pool:
        learned = dict(run_tasks(work, TOY.processes, executor=pool))
    return {process: learned[process] for process in TOY.processes}


def _train(folder: Path, settings: DemoSettings, seed: int, shown: str, process: str) -> Densities:
    return train(folder, process, settings, seed=seed, progress=process == shown)


def train(folder: Path, process: str, settings: DemoSettings, *, seed: int, progress: bool) -> Densities:
    """Learn the densities of a process from its simulated samples, and their responses to the nuisances."""
    samples = read(folder, process)
    variations = [Variation(samples[name], at=point) for name, point in POINTS.items() if point]

    def learn(obs: tuple[str, ...], cond: tuple[str, ...] = ()) -> Deformation:
        flow = fit_flow(samples["nominal"], obs=obs, cond=cond, schedule=settings.flow, seed=seed, progress=progress)
        return fit_deformation(
            flow,
            variations,
            interactions=[("shift", "squeeze")],
            schedule=settings.deformation,
            seed=seed,
            progress=progress,
        )

    of_x, of_y = learn(TOY.x), learn(TOY.y, TOY.x)
    histories = {}
    for label, deformation in (("p(x)", of_x), ("p(y | x)", of_y)):
        if deformation.flow.history is not None:
            histories[label] = deformation.flow.history
        histories.update({f"{label}: {response}": history for response, history in deformation.history.items()})
    return Densities(of_x, of_y, histories)


def save_all(densities: Mapping[str, Densities], folder: Path) -> None:
    """Write what was learned into model files."""
    folder.mkdir(exist_ok=True)
    for process, learned in densities.items():
        storage.save(learned.x, folder / f"{process}_x.fnf")
        storage.save(learned.y_given_x, folder / f"{process}_y_given_x.fnf")


def analyse(
    data: Sample, model: Model, settings: DemoSettings, stage: Stages, *, seed: int, progress: bool
) -> Findings:
    """Fit the data, with errors, scans and limits."""
    nll = ExtendedUnbinnedNLL(model.pdf, data)
    if settings.accelerated:
        nll = accelerate(nll)
    with stage("MIGRAD", f"fitting {data.n_events:,} events: MIGRAD"):
        result = Minuit().minimize(nll)
    with stage("HESSE", "HESSE"):
        result.hesse()
    with stage("MINOS", "MINOS"):
        result.errors(method="minuit_minos")
    with stage("profiles", "profile likelihood of each nuisance, and a contour"):
        n_points, contour_points = settings.profile_points, settings.contour_points
        profiles = [
            scans.profile(nll, result, parameter, n_points=n_points, progress=progress)
            for parameter in model.nuisances.values()
        ]
        pair = model.nuisances["shift"], model.nuisances["squeeze"]
        contour = scans.contour(nll, result, pair, n_points=contour_points, progress=progress)
    with stage("impacts", "impacts of the nuisances on the signal strength"):
        impacts = scans.impacts(nll, result, model.mu, progress=progress)
    with stage("limit", "CLs limit on the signal strength"):
        limit = upper_limit(nll, model.mu, n_asimov=settings.n_asimov, seed=seed)
    with stage("discovery", "significance of the signal"):
        significance = discovery(nll, model.mu, n_asimov=settings.n_asimov, seed=seed)
    with stage("exact fit", "the exact likelihood, for comparison"):
        exact = fit_exactly(data, settings)
    with stage("verdict", "what it is worth: verdict on the densities, calibrated fit, plan of the simulation"):
        zfit.param.set_values(list(result.params), result, clip=True)
        trust = judge(nll, model, settings, seed=seed, progress=progress)
    return Findings(data, model, result, exact, limit, significance, profiles, contour, impacts, trust)


class Stages:
    """Announces the stages of a long computation, and measures the time they take.

    Args:
        echo: Function that announces them.

    Attributes:
        seconds: Wall-clock and CPU time of each stage, by its name.
    """

    def __init__(self, echo: Callable[[str], Any]):
        self._echo = echo
        self.seconds: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, name: str, announcement: str) -> Iterator[None]:
        """A stage, as a context."""
        self._echo(announcement)
        wall, cpu = time.perf_counter(), _cpu_seconds()
        yield
        self.seconds[name] = {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    """CPU time of this process, and of those it has started and that have ended."""
    return sum(os.times()[:4])


def check_libraries(*further: str) -> None:
    """Refuse to start without the libraries that files, plots and tests need, rather than to fail at the end."""
    for library in ("pyarrow", "matplotlib", "mplhep", "hist", *further):
        require(library, extra="plot,io,diagnostics" if further else "plot,io")

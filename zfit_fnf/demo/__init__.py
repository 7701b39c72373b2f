"""A complete analysis of simulated events in files, from training to limits: what ``zfit-fnf demo`` does.

Two processes, the signal B and the background A, in four observables: the toy of arXiv:2602.13184, whose exact
likelihood is known. Each function is one step of an analysis, in the order in which `run` calls them; copy what you
need.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import iminuit
import numpy as np
import pandas as pd
import tensorflow as tf
import typer
from zfit.result import FitResult

from .. import __version__, plotting, scans, storage
from ..acceleration import accelerate
from ..common.files import complete, own_files
from ..common.optional import require
from ..common.parallel import workers
from ..datasets import Part, ShiftSqueeze
from ..densities.deformation import Deformation
from ..densities.history import History
from ..limits import DiscoveryResult, LimitResult, discovery, upper_limit
from ..loss import ExtendedUnbinnedNLL
from ..minimize import Minuit
from ..param import Nuisance, nuisance
from ..pdf import FNFPDF, ConditionalProductPDF, SumPDF
from ..plotting.style import figure
from ..projections import component_samples, vary
from ..samples import Sample, Variation, write_sample
from ..train import fit_deformation, fit_flow
from ..train.schedule import Schedule
from ..yields import interpolate_code4, lnN, modified_yield, normsys

TOY = ShiftSqueeze()

POINTS: dict[str, dict[str, float]] = {
    "nominal": {},
    "shift_up": {"shift": +1.0},
    "shift_down": {"shift": -1.0},
    "squeeze_up": {"squeeze": +1.0},
    "squeeze_down": {"squeeze": -1.0},
    "corner_up_up": {"shift": +1.0, "squeeze": +1.0},
    "corner_up_down": {"shift": +1.0, "squeeze": -1.0},
    "corner_down_up": {"shift": -1.0, "squeeze": +1.0},
    "corner_down_down": {"shift": -1.0, "squeeze": -1.0},
}
"""The simulated samples of each process, and the nuisance point of each; the corners teach the interaction."""

EFFICIENCY = {"A": {"squeeze": (0.98, 1.03)}, "B": {"shift": (0.97, 1.04)}}
"""What nuisances do to the yield of each process; factors at -1 and at +1 standard deviation."""

BINS = {"x1": (24, -3.5, 2.5), "x2": (20, -2.0, 2.0), "y1": (28, -3.0, 4.0), "y2": (28, -4.0, 3.0)}
"""Binning of the plots; the fit has none."""

PLACES = ("events", "replicas", "models", "plots", "results.txt", "results.json", "histories.json")
"""What a demonstration makes in its folder."""

LUMINOSITY = 1.02
"""Log-normal uncertainty of the luminosity, to which both yields are proportional."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """How much of everything: all that distinguishes a quick demonstration from a full one.

    The signal is so small that it is found with about four standard deviations.

    Attributes:
        n_simulated: Simulated events in each sample.
        expected: Events that each process is expected to contribute to the data, with all nuisances at zero.
        truth: Values of the parameters that the data are made with.
        flow: Training of the nominal densities; by default that of `fit_flow`.
        deformation: Training of the responses to the nuisances; by default that of `fit_deformation`.
        n_drawn: Events drawn of each component of the model for plots.
        profile_points: Points of each profile likelihood.
        contour_points: Points of the contour along each axis.
        n_asimov: Events of each component in an Asimov set.
        accelerated: Whether the likelihood is accelerated: worth its compilation for many events.
    """

    n_simulated: int = 2_000_000
    expected: Mapping[str, float] = field(default_factory=lambda: {"A": 50_000.0, "B": 250.0})
    truth: Mapping[str, float] = field(default_factory=lambda: {"mu": 1.0, "shift": 0.5, "squeeze": -0.5, "lumi": 0.0})
    flow: Schedule | None = None
    deformation: Schedule | None = None
    n_drawn: int = 100_000
    profile_points: int = 13
    contour_points: int = 11
    n_asimov: int = 20_000
    accelerated: bool = True


FULL = DemoSettings()
QUICK = DemoSettings(
    n_simulated=100_000,
    expected={"A": 2_000.0, "B": 70.0},
    flow=Schedule(steps=1_500, batch_size=1024, warmup=50, averaging=0.98, rotate_every=0),
    deformation=Schedule(steps=300, batch_size=1024, warmup=50, averaging=0.98, rotate_every=0),
    n_drawn=20_000,
    profile_points=9,
    contour_points=9,
    n_asimov=4_000,
    accelerated=False,
)


@dataclass(frozen=True, eq=False)
class Densities:
    """What is learned of one process: p(x) and p(y | x), each with its deformation; and how, by what was trained."""

    x: Deformation
    y_given_x: Deformation
    histories: dict[str, History]


@dataclass(frozen=True, eq=False)
class Model:
    """The statistical model, and its parameters."""

    pdf: SumPDF
    mu: zfit.Parameter
    nuisances: dict[str, Nuisance]

    @property
    def parameters(self) -> dict[str, zfit.Parameter]:
        """All floating parameters, by name."""
        return {"mu": self.mu, **self.nuisances}


@dataclass(frozen=True, eq=False)
class ExactFit:
    """What the true densities find in place of the learned ones.

    Attributes:
        table: Best-fit ``value`` and HESSE ``error`` of each parameter.
        significance: Of the signal, in standard deviations.
    """

    table: pd.DataFrame
    significance: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What the analysis found."""

    data: Sample
    model: Model
    result: FitResult
    exact: ExactFit
    limit: LimitResult
    significance: DiscoveryResult
    profiles: list[scans.ProfileScan]
    contour: scans.ContourScan
    impacts: scans.Impacts


# --- the analysis, step by step -------------------------------------------------------------------------------------


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
        settings: How much of everything.
        seed: Seed of everything that is random.
        overwrite: Whether the folder may have files in it; those that an earlier run has written are deleted first.
        progress: Whether to show progress bars.
        echo: What announces the stages.

    Returns:
        The table of results.

    Raises:
        FileExistsError: If the folder has files in it, and ``overwrite`` is not set; or it has files of somebody else
            where its own would be.
        ImportError: If an optional library is missing, with what to install.
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
    """Train for all processes at once: for the last one here, where progress is shown, for the others beside it."""
    *others, here = TOY.processes
    with workers(len(others)) as pool:
        futures = [pool.submit(train, folder, process, settings, seed=seed, progress=False) for process in others]
        last = train(folder, here, settings, seed=seed, progress=progress)
        return dict(zip(TOY.processes, [*(future.result() for future in futures), last], strict=True))


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


def build_model(densities: Mapping[str, Densities]) -> Model:
    """The extended sum of the background A and the signal B, which has a strength; the nuisances are shared."""
    mu = zfit.Parameter("mu", 1.0, 0.0, 10.0, stepsize=0.1, label=r"$\mu$")
    nuisances = {name: nuisance(name) for name in (*TOY.nuisances, "lumi")}
    shapes = {name: nuisances[name] for name in TOY.nuisances}
    processes = []
    for process, learned in densities.items():
        rates = [normsys(parameter, learned.x.yields[name]) for name, parameter in shapes.items()]
        strength = [mu] if process == "B" else []
        n_expected = modified_yield(learned.x.flow.sum_weights, [*strength, *rates, lnN(nuisances["lumi"], LUMINOSITY)])
        p_x = FNFPDF(learned.x, params=shapes, name=f"{process}_x")
        p_y_given_x = FNFPDF(learned.y_given_x, params=shapes, name=f"{process}_y")
        label = f"process {process}"
        processes.append(ConditionalProductPDF([p_y_given_x, p_x], extended=n_expected, name=process, label=label))
    return Model(SumPDF(processes), mu, nuisances)


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
    return Findings(data, model, result, exact, limit, significance, profiles, contour, impacts)


# --- what is known exactly ------------------------------------------------------------------------------------------


def efficiency(process: str, point: Mapping[str, float]) -> float:
    """Factor on the yield of a process at a nuisance point."""
    factors = [
        interpolate_code4(tf.constant([point.get(name, 0.0)], tf.float64), np.array([down]), np.array([up]))
        for name, (down, up) in EFFICIENCY[process].items()
    ]
    return float(np.prod(factors))


def expected_events(process: str, values: Mapping[str, float], settings: DemoSettings) -> float:
    """Expected number of events of a process in the data, as a function of all parameters."""
    strength = values["mu"] if process == "B" else 1.0
    return strength * settings.expected[process] * efficiency(process, values) * LUMINOSITY ** values["lumi"]


def fit_exactly(data: Sample, settings: DemoSettings, *, of: Part = "joint") -> ExactFit:
    """Best fit, HESSE errors and significance with the true densities in place of the learned ones."""
    names = list(settings.truth)

    def nll(point: np.ndarray) -> float:
        values = dict(zip(names, point, strict=True))
        shape = {name: values[name] for name in TOY.nuisances}
        rates = {process: expected_events(process, values, settings) for process in TOY.processes}
        with np.errstate(divide="ignore"):  # no signal, whose density is then zero
            terms = [np.log(rate) + TOY.log_prob(data, shape, process, of=of) for process, rate in rates.items()]
        constraints = 0.5 * sum(value**2 for name, value in values.items() if name != "mu")
        return float(sum(rates.values()) - np.logaddexp(*terms).sum() + constraints)

    fit = iminuit.Minuit(nll, [1.0 if name == "mu" else 0.0 for name in names], name=names)
    fit.errordef, fit.errors, fit.limits["mu"] = iminuit.Minuit.LIKELIHOOD, 0.05, (0.0, None)
    fit.migrad().hesse()
    found, lowest = pd.DataFrame({"value": fit.values, "error": fit.errors}, index=names), fit.fval
    valid = fit.valid
    fit.values["mu"], fit.fixed["mu"] = 0.0, True
    fit.migrad()
    if not (valid and fit.valid):
        raise RuntimeError(f"the fit of the exact likelihood did not converge:\n{fit.fmin}")
    return ExactFit(found, float(np.sqrt(max(2.0 * (fit.fval - lowest), 0.0))))


# --- results --------------------------------------------------------------------------------------------------------


def results_dict(findings: Findings, settings: DemoSettings, seconds: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that was found, by name."""
    result, model = findings.result, findings.model
    fitted = {
        name: {
            "value": result.params[parameter]["value"],
            "hesse": result.params[parameter]["hesse"]["error"],
            "minos": minos_errors(result, parameter),
            "truth": settings.truth[name],
            "exact": dict(findings.exact.table.loc[name]),
        }
        for name, parameter in model.parameters.items()
    }
    correlation = pd.DataFrame(result.correlation(list(model.parameters.values())), *[list(fitted)] * 2)
    limit = findings.limit
    significance = {**asdict(findings.significance), "exact": findings.exact.significance}
    return {
        "seed": seed,
        "settings": asdict(settings),
        "versions": versions(),
        "n_events": findings.data.n_events,
        "fit": {"valid": result.valid, "nll": result.fmin, "parameters": fitted, "correlation": correlation.to_dict()},
        "limit": {"poi": limit.poi, "cl": limit.cl, "observed": limit.observed, "expected": limit.expected},
        "discovery": significance,
        "impacts": findings.impacts.table.to_dict(orient="index"),
        "timings": dict(seconds),
    }


def minos_errors(result: FitResult, parameter: zfit.Parameter) -> tuple[float, float] | None:
    """Lower and upper error by MINOS, or nothing if MINOS has failed."""
    errors = result.params[parameter].get("errors")
    return (errors["lower"], errors["upper"]) if isinstance(errors, Mapping) else None


def results_table(findings: Findings, settings: DemoSettings, seconds: Mapping[str, Mapping[str, float]]) -> str:
    """The results as text."""
    rows = []
    for name, parameter in findings.model.parameters.items():
        fitted, exact = findings.result.params[parameter], findings.exact.table.loc[name]
        minos = minos_errors(findings.result, parameter)
        rows.append(
            {
                "parameter": name,
                "truth": f"{settings.truth[name]:g}",
                "best fit": f"{fitted['value']:.4f}",
                "HESSE": f"{fitted['hesse']['error']:.4f}",
                "MINOS": "failed" if minos is None else f"{minos[0]:+.4f} {minos[1]:+.4f}",
                "exact fit": f"{exact['value']:.4f}",
                "exact HESSE": f"{exact['error']:.4f}",
                "difference": f"{(fitted['value'] - exact['value']) / exact['error']:+.2f}",
            }
        )
    title = f"fit of {findings.data.n_events} events, {'valid' if findings.result.valid else 'NOT VALID'}"
    parameters = pd.DataFrame(rows).to_string(index=False)
    remark = "(exact: with the true densities; the difference is in units of the exact error)"
    times = pd.DataFrame(seconds).T.map("{:.1f}".format).to_string()
    parts = [
        f"{title}\n{parameters}\n{remark}",
        findings.limit,
        f"{findings.significance}; with the true densities {findings.exact.significance:.2f}",
        findings.impacts,
        f"time in seconds\n{times}",
    ]
    return "\n\n".join(map(str, parts)) + "\n"


def versions() -> dict[str, str]:
    """Versions of what decides about the numbers."""
    packages = ("zfit", "tensorflow", "iminuit", "numpy", "scipy")
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {"zfit_fnf": __version__, "python": platform.python_version(), **installed}


# --- plots ----------------------------------------------------------------------------------------------------------


def draw_plots(
    folder: Path, findings: Findings, densities: Mapping[str, Densities], settings: DemoSettings, seed: int
) -> None:
    """Draw everything into a folder."""
    folder.mkdir(exist_ok=True)
    result = findings.result
    draw_histories(folder, densities)
    draw_distributions(folder, findings, settings, seed)
    with figure(folder / "pulls.png", (6, 1.6 + 0.4 * len(findings.model.nuisances))) as fig:
        plotting.pulls(result, ax=fig.subplots())
    with figure(folder / "correlation.png", (5, 4.2)) as fig:
        plotting.correlation(result, list(findings.model.parameters.values()), ax=fig.subplots())
    for scan in findings.profiles:
        with figure(folder / f"profile_{scan.parameter}.png", (5, 4)) as fig:
            plotting.profile(scan, ax=fig.subplots())
    with figure(folder / "limit.png", (5, 4)) as fig:
        plotting.limit(findings.limit, ax=fig.subplots())
    with figure(folder / "impacts.png", (9, 1.8 + 0.4 * len(findings.model.nuisances))) as fig:
        ax_pulls, ax = fig.subplots(1, 2, width_ratios=[2, 3])
        plotting.impacts(findings.impacts, ax=ax, ax_pulls=ax_pulls)
    with figure(folder / "contour.png", (5, 4.5)) as fig:
        plotting.contour(findings.contour, truth=settings.truth, ax=fig.subplots())


def draw_histories(folder: Path, densities: Mapping[str, Densities]) -> None:
    """The training histories of each process."""
    for process, learned in densities.items():
        histories = learned.histories
        with figure(folder / f"training_{process}.png", (14, 6)) as fig:
            axes = fig.subplots(2, len(histories) // 2)
            for ax, (name, history) in zip(axes.flat, histories.items(), strict=True):
                plotting.training(history, ax=ax).set(title=name, ylabel="")
                ax.get_legend().remove()
            fig.supylabel("negative log-density [nats/event]")
            fig.suptitle(f"process {process}")
            fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


def draw_distributions(folder: Path, findings: Findings, settings: DemoSettings, seed: int) -> None:
    """The data in each observable with the post-fit model, and what each nuisance does to it."""
    model, result = findings.model, findings.result
    parts = component_samples(model.pdf, params=result.values, n_events=settings.n_drawn, seed=seed)
    for column in TOY.x + TOY.y:
        with figure(folder / f"projection_{column}.png", (6, 5)) as fig:
            ax, ax_pulls = fig.subplots(2, sharex=True, height_ratios=[3, 1])
            plotting.projection(findings.data, parts, column, bins=BINS[column], ax=ax, ax_pulls=ax_pulls)
    varied = vary(model.pdf, result, parts)
    for name in model.nuisances:
        with figure(folder / f"variations_{name}.png", (10, 7)) as fig:
            axes = fig.subplots(2, 2)
            for ax, column in zip(axes.flat, TOY.x + TOY.y, strict=True):
                plotting.variations(varied, name, column, ax=ax).set_title("")
                ax.get_legend().remove()
            fig.suptitle(varied.labels[name])
            fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)


# --- files and stages -----------------------------------------------------------------------------------------------


class Stages:
    """Announces the stages of a long computation, and measures the time they take.

    Args:
        echo: What announces them.

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


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with complete(path) as draft:
        draft.write_text(text, encoding="utf-8")


def to_json(content: Any) -> str:
    """JSON of plain values, arrays and training histories."""

    def plain(value: Any) -> Any:
        return value.to_dict() if isinstance(value, History) else np.asarray(value).tolist()

    return json.dumps(content, indent=2, default=plain) + "\n"

"""Results of the demonstration as tables, JSON and plots."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from .. import __version__, plotting, scans
from ..common.files import complete
from ..densities.history import History
from ..limits import DiscoveryResult, LimitResult
from ..plotting.style import figure
from ..projections import component_samples, vary
from ..samples import Sample
from ..storage.results import plain
from .model import TOY, DemoSettings, Densities, ExactFit, Model
from .trust import Trust, draw_trust

__all__ = [
    "BINS",
    "Findings",
    "draw_plots",
    "minos_errors",
    "results_dict",
    "results_table",
    "to_json",
    "versions",
    "write_text",
]

BINS = {"x1": (24, -3.5, 2.5), "x2": (20, -2.0, 2.0), "y1": (28, -3.0, 4.0), "y2": (28, -4.0, 3.0)}
"""Binning of the plots; the fit has none."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Results of the analysis."""

    data: Sample
    model: Model
    result: FitResult
    exact: ExactFit
    limit: LimitResult
    significance: DiscoveryResult
    profiles: list[scans.ProfileScan]
    contour: scans.ContourScan
    impacts: scans.Impacts
    trust: Trust


def results_dict(findings: Findings, settings: DemoSettings, seconds: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """All results, by name."""
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
        "trust": findings.trust.to_dict(),
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
        findings.trust,
        f"time in seconds\n{times}",
    ]
    return "\n\n".join(map(str, parts)) + "\n"


def versions() -> dict[str, str]:
    """Versions of the packages that determine the numbers."""
    packages = ("zfit", "tensorflow", "iminuit", "numpy", "scipy")
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {"zfit_fnf": __version__, "python": platform.python_version(), **installed}


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
    draw_trust(folder, findings.trust)
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


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with complete(path) as draft:
        draft.write_text(text, encoding="utf-8")


def to_json(content: Any) -> str:
    """JSON of plain values, arrays and training histories; numbers that are none become null."""

    def known(value: Any) -> Any:
        return value.to_dict() if isinstance(value, History) else np.asarray(value).tolist()

    return json.dumps(plain(json.loads(json.dumps(content, default=known))), indent=2, allow_nan=False) + "\n"

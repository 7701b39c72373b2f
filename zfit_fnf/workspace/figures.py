"""Figures of an analysis, as PNG files in the folder of its results."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np

from .. import plotting
from ..limit_scans import LimitScan
from ..limits import LimitResult
from ..plotting.style import FILLS, INK, figure, legend_above
from ..projections import component_samples, fitted_nuisances
from ..scans import ContourScan, Impacts, ProfileScan
from ..storage import load
from .analysis import Analysis
from .schema import Channel
from .training import model_path

__all__ = ["are_drawn", "draw"]

_ROWS = 30  # of a page of a ranking
_OF_RESULTS = ("scan", "limit", "impacts")
_DRAWN = "drawn.txt"


def draw(analysis: Analysis, *, n_events: int = 50_000, seed: int = 1) -> list[Path]:
    """Draw everything that there is to draw of an analysis, and of its results that are kept.

    Projections, which would show the signal, are left out while a parameter is blinded.

    Args:
        analysis: The analysis.
        n_events: Events drawn of each process for projections.
        seed: Their seed.

    Returns:
        The files.
    """
    folder = analysis.place / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in (*folder.glob("*.png"), folder / _DRAWN):
        earlier.unlink(missing_ok=True)
    drawn = itertools.chain(
        _of_results(analysis, folder),
        _of_fit(analysis, folder),
        _of_trainings(analysis, folder),
        _projections(analysis, folder, n_events, seed),
    )
    files = list(drawn)
    (folder / _DRAWN).write_text(_state(analysis), encoding="utf-8")
    return files


def are_drawn(analysis: Analysis) -> bool:
    """Whether the figures are those of the results that are there."""
    drawn = analysis.place / "plots" / _DRAWN
    return drawn.is_file() and drawn.read_text(encoding="utf-8") == _state(analysis)


def _state(analysis: Analysis) -> str:
    """Checksum of everything that is drawn; a fit belongs to the workspace."""
    kept = [path.read_bytes() for name, path in analysis.kept().items() if name.startswith(_OF_RESULTS)]
    return hashlib.sha256(b"".join([analysis.workspace.inputs(analysis.out).encode(), *kept])).hexdigest()


def _of_results(analysis: Analysis, folder: Path) -> Iterator[Path]:
    """Scans, limits and impacts from their files."""
    for path in analysis.kept().values():
        result = load(path)
        for number, (size, function) in enumerate(_drawings(result)):
            target = folder / (f"{path.stem}.png" if number == 0 else f"{path.stem}_{number + 1}.png")
            with figure(target, size) as fig:
                function(fig)
            yield target


def _drawings(result: Any) -> Iterator[tuple[tuple[float, float], Any]]:
    match result:
        case ProfileScan():
            yield (5.5, 4), lambda fig: plotting.profile(result, ax=fig.subplots())
        case ContourScan():
            yield (5, 4.5), lambda fig: plotting.contour(result, ax=fig.subplots())
        case LimitResult():
            yield (5.5, 4), lambda fig: plotting.limit(result, ax=fig.subplots())
        case LimitScan():
            yield (5.5, 4), lambda fig: plotting.limits(result, ax=fig.subplots())
        case Impacts():
            for first in range(0, len(result.table), _ROWS):
                page = Impacts(result.parameter, result.title, result.error, result.table.iloc[first : first + _ROWS])
                yield (9, 1.8 + 0.4 * len(page.table)), _ranking(page)


def _ranking(page: Impacts) -> Any:
    def function(fig: Any) -> None:
        ax_pulls, ax = fig.subplots(1, 2, width_ratios=[2, 3])
        plotting.impacts(page, ax=ax, ax_pulls=ax_pulls)

    return function


def _of_fit(analysis: Analysis, folder: Path) -> Iterator[Path]:
    result = analysis.result
    params = list(result.params)
    if nuisances := [one for one in fitted_nuisances(result) if one.name not in analysis.offsets]:
        with figure(folder / "pulls.png", (6, 1.6 + 0.4 * len(nuisances))) as fig:
            plotting.pulls(result, nuisances, ax=fig.subplots())
        yield folder / "pulls.png"
    if 1 < len(params) <= _ROWS:
        side = 2.5 + 0.55 * len(params)
        with figure(folder / "correlation.png", (side + 0.8, side)) as fig:
            plotting.correlation(result, params, ax=fig.subplots())
        yield folder / "correlation.png"


def _of_trainings(analysis: Analysis, folder: Path) -> Iterator[Path]:
    for task in analysis.workspace.tasks(analysis.out):
        density = load(model_path(analysis.out, task.name))
        histories = {"nominal": getattr(density, "flow", density).history}
        if hasattr(density, "flow"):
            histories.update(density.history)
        shown = {name: one for name, one in histories.items() if one is not None}
        if not shown:
            continue
        target, columns = folder / f"training_{task.name}.png", min(3, len(shown))
        rows = -(-len(shown) // columns)
        with figure(target, (4.2 * columns, 3.2 * rows)) as fig:
            axes = np.atleast_1d(fig.subplots(rows, columns)).ravel()
            for ax, (name, history) in zip(axes, shown.items(), strict=False):
                plotting.training(history, ax=ax).set(title=name)
            for ax in axes[len(shown) :]:
                ax.set_axis_off()
        yield target


def _projections(analysis: Analysis, folder: Path, n_events: int, seed: int) -> Iterator[Path]:
    if analysis.offsets:
        return
    data, best = analysis.workspace.data(), analysis.result.params
    states = {"prefit": analysis.prefit, "postfit": {one: float(found["value"]) for one, found in best.items()}}
    for name, nll in analysis.model.binned.items():
        for state, values in states.items():
            counts = np.asarray(nll.data[0].values()).ravel()
            yield from _binned(name, nll.model[0], counts, values, folder, state)
    for name, pdf in analysis.model.pdfs.items():
        channel = analysis.workspace.channel(name)
        for state, values in states.items():
            parts = component_samples(pdf, params=values, n_events=n_events, seed=seed)
            band = analysis.band(pdf, parts) if state == "postfit" else None
            for column in channel.observables:
                target = folder / f"projection_{name}_{column}_{state}.png"
                with figure(target, (6.5, 5.5)) as fig:
                    ax, ax_pulls = fig.subplots(2, sharex=True, height_ratios=[3, 1])
                    axis = _axis(channel, column, band)
                    plotting.projection(data[name], parts, column, ax=ax, ax_pulls=ax_pulls, **axis)
                yield target


def _binned(
    name: str, pdf: Any, counts: np.ndarray, values: dict[Any, float], folder: Path, state: str
) -> Iterator[Path]:
    """The channels of a binned model: samples on top of one another, and the data."""
    with zfit.param.set_values(list(values), list(values.values()), clip=True):
        expected = pdf.histograms()
    first = 0
    for channel, samples in expected.items():
        target = folder / f"projection_{name}_{channel}_{state}.png"
        n_bins = len(next(iter(samples.values())))
        observed, edges = counts[first : first + n_bins], np.arange(n_bins + 1) - 0.5
        first += n_bins
        with figure(target, (6.5, 4)) as fig:
            ax, below = fig.subplots(), np.zeros(len(observed))
            for index, (sample, expectation) in enumerate(samples.items()):
                top = below + expectation
                colour = FILLS[index % len(FILLS)]
                ax.stairs(top, edges, baseline=below, fill=True, color=colour, label=sample)
                below = top
            ax.errorbar(edges[:-1] + 0.5, observed, np.sqrt(observed), fmt="o", color=INK, markersize=4, label="data")
            ax.set(xlabel=f"bin of {channel}", ylabel="events", ylim=(0, None), xlim=(edges[0], edges[-1]))
            legend_above(ax)
        yield target


def _axis(channel: Channel, column: str, band: Any) -> dict[str, Any]:
    own = channel.observables[column]
    return {"bins": (own.bins or 50, *own.range), "label": own.label, "unit": own.unit, "band": band}

"""An analysis as one HTML file, without scripts and without anything that would have to be loaded: for screens and for print."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.files import complete
from ..results import FitSummary
from ..storage import load
from ..storage.results import read_envelope
from ..workspace.analysis import Analysis
from ..workspace.blinding import text_of
from ..workspace.figures import are_drawn, draw
from ..workspace.schema import Channel, Document, Sample
from ..workspace.training import read_record
from ..yield_tables import YieldTable
from .style import STYLE

__all__ = ["write_report"]

_KINDS = {"factor": "factor", "nuisance": "nuisance", "lumi": "nuisance (luminosity)", "free": "free parameter"}


def write_report(analysis: Analysis) -> Path:
    """Write ``report.html`` of the results that are there into the folder of an analysis; draws figures that are not up to date.

    Args:
        analysis: The analysis; its fit is repeated.

    Returns:
        The file.
    """
    fit = analysis.fit()
    if not are_drawn(analysis):
        draw(analysis)
    results = analysis.kept()
    sections = {
        "Result": _headline(analysis, fit, results),
        "Model": _model(analysis.workspace.document) + _parameters(analysis),
        "Verdicts on the densities": _verdicts(results),
        "Fit": _fit(fit),
        "Expected events": _yields(analysis.yields()),
        "Uncertainties": _uncertainties(results),
        "Distributions": _figures(analysis, "projection_", pair=True),
        "Pulls and correlations": _figures(analysis, "pulls") + _figures(analysis, "correlation"),
        "Impacts": _figures(analysis, "impacts") + _ranking(results),
        "Limits and significance": _figures(analysis, "limit")
        + _printed(analysis, results, *(one for one in results if one.startswith(("limit", "significance")))),
        "Scans": _figures(analysis, "scan_", pair=True),
        "Toys": _printed(analysis, results, "toys"),
        "Trainings": _trainings(analysis) + _figures(analysis, "training_"),
        "Warnings": "".join(f'<p class="warning">{_text(one)}</p>' for one in analysis.warnings),
        "Versions": _versions(analysis, results),
    }
    present = {title: body for title, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in present)
    body = "".join(
        f'<section id="{_anchor(title)}"><h2>{title}</h2>{body}</section>' for title, body in present.items()
    )
    document = analysis.workspace.document
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(document.name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f'<h1>{_text(document.name)}</h1><p class="lead">{_text(document.description)}</p>'
        f'<p class="soft">measurement: {_text(analysis.measurement.name)}</p><nav>{links}</nav>{body}</body></html>\n'
    )
    target = analysis.place / "report.html"
    with complete(target) as draft:
        draft.write_text(page, encoding="utf-8")
    return target


# --- sections ----------------------------------------------------------------------------------------------------------


def _headline(analysis: Analysis, fit: FitSummary, results: Mapping[str, Path]) -> str:
    cards = []
    for name in analysis.measurement.config.poi:
        if name in fit.parameters.index:
            one = fit.parameters.loc[name]
            down, up = (one["lower"], one["upper"]) if math.isfinite(one["lower"]) else (-one["error"], one["error"])
            cards.append(f"{_text(name)}<b>{one['value']:.4g} <small>{down:+.3g} {up:+.3g}</small></b>")
    if "limit" in results:
        limit = load(results["limit"])
        shown = "hidden" if math.isnan(limit.observed) else f"{limit.observed:.4g}"
        cards.append(
            f"{100 * limit.cl:g} % CLs limit on {_text(limit.poi)}<b>{shown}</b>expected {limit.expected[2]:.4g}"
        )
    if "significance" in results:
        found = load(results["significance"])
        shown = "hidden" if math.isnan(found.significance) else f"{found.significance:.3g} &sigma;"
        cards.append(f"significance of {_text(found.poi)} over {found.null:g}<b>{shown}</b>")
    state = '<b class="good">valid</b>' if fit.valid else '<b class="bad">not valid</b>'
    cards.append(f"fit of {sum(fit.n_events.values()):,.0f} events{state}")
    blind = ""
    if analysis.offsets:
        names = ", ".join(map(_text, analysis.offsets))
        blind = f'<p class="blind">Blinded: values of {names} are shown with a secret offset; errors and widths are right.</p>'
    boxes = "".join(f'<div class="card">{one}</div>' for one in cards)
    return f'{blind}<div class="headline">{boxes}</div>' + ("" if fit.valid else f"<p>{_text(fit.message)}</p>")


def _model(document: Document) -> str:
    return "".join(_channel(channel) for channel in document.channels) + _functions(document)


def _channel(channel: Channel) -> str:
    if channel.histfactory:
        of = ", ".join(channel.histfactory.channels or ["all channels"])
        return (
            f"<h3>{_text(channel.name)}</h3><p>Binned: {_text(of)} of a HistFactory workspace, evaluated by pyhf.</p>"
        )
    observables = ", ".join(
        f"{_text(name)} in {one.range[0]:g} to {one.range[1]:g} {_text(one.unit or '')}".rstrip()
        for name, one in channel.observables.items()
    )
    rows = [
        {
            "process": sample.label or sample.name,
            "density": _density(sample),
            "yield": "sum of weights" if sample.expected is None else str(sample.expected),
            "modifiers": ", ".join(f"{one.name} ({one.type})" for one in sample.modifiers),
        }
        for sample in channel.samples
    ]
    text = _table(pd.DataFrame(rows), words=4)
    how = f"Counted in {next(iter(channel.observables.values())).bins} bins of" if channel.binned else "Unbinned in"
    return f"<h3>{_text(channel.name)}</h3><p>{how} {observables}.</p>{text}"


def _parameters(analysis: Analysis) -> str:
    """What the measurement says of each parameter."""
    rows = []
    for name, one in analysis.workspace.parameters(analysis.measurement.name).items():
        settings = one.settings
        measured = (0.0, 1.0) if one.kind == "nuisance" else (*(settings.auxdata or ()), *(settings.sigmas or ()))
        rows.append(
            {
                "parameter": name,
                "is": "of interest" if name in analysis.measurement.config.poi else _KINDS[one.kind],
                "starts at": f"{settings.inits[0]:g}" if settings.inits else "",
                "bounds": "{:g} to {:g}".format(*settings.bounds[0]) if settings.bounds else "",
                "measured as": " \N{PLUS-MINUS SIGN} ".join(f"{number:g}" for number in measured),
                "fixed": "yes" if settings.fixed else "",
            }
        )
    return f"<h3>Parameters</h3>{_table(pd.DataFrame(rows), words=2)}" if rows else ""


def _density(sample: Sample) -> str:
    if sample.pdf:
        arguments = ", ".join(f"{name} = {value}" for name, value in sample.pdf.parameters.items())
        return f"{sample.pdf.type}({arguments})"
    given = "".join(f", at {name} = {value}" for name, value in sample.given.items())
    if sample.events:
        return (
            f"learned from {', '.join(sample.events.nominal.file)}, {len(sample.events.variations)} variations{given}"
        )
    return f"model file {', '.join(sample.model or [])}{given}"


def _functions(document: Document) -> str:
    if not document.functions:
        return ""
    rows = "".join(f"<li><code>{_text(one.name)} = {_text(one.expression)}</code></li>" for one in document.functions)
    return f"<h3>Functions</h3><ul>{rows}</ul>"


def _verdicts(results: Mapping[str, Path]) -> str:
    parts = []
    for name, path in results.items():
        if name.startswith("validation_"):
            report = load(path)
            state = '<span class="good">passed</span>' if report.passed else '<span class="bad">not passed</span>'
            title = name.removeprefix("validation_")
            parts.append(f"<h3>{_text(title)}: {state}</h3><pre>{_text(report)}</pre>")
    return "".join(parts)


def _fit(fit: FitSummary) -> str:
    return _table(fit.rounded()) + f'<p class="soft">negative log-likelihood {fit.nll:.4f}</p>'


def _yields(yields: YieldTable) -> str:
    table = yields.rounded(" \N{PLUS-MINUS SIGN} ")
    table["postfit"] = table["postfit"].str.replace(r"^nan.*", "hidden", regex=True)
    return _table(table.rename(columns={"prefit": "pre-fit", "postfit": "post-fit"}), words=2)


def _ranking(results: Mapping[str, Path]) -> str:
    parts = []
    for ranking in (load(path) for name, path in results.items() if name.startswith("impacts")):
        columns = [
            name
            for name in ("value", "error", "pull", "down", "up", "prefit_down", "prefit_up")
            if name in ranking.table
        ]
        table = ranking.table[columns].map(lambda number: f"{number:.4f}" if abs(number) < 1e3 else f"{number:.4g}")
        parts.append(f"<h3>on {_text(ranking.parameter)}</h3>{_table(table.rename_axis('nuisance').reset_index())}")
    return "".join(parts)


def _uncertainties(results: Mapping[str, Path]) -> str:
    ranking = load(results["impacts"]) if "impacts" in results else None
    if ranking is None or not len(ranking.groups):
        return ""
    text = (
        f"<p>What the error of {_text(ranking.parameter)}, {ranking.error:.4g}, is made of: the error with the nuisances of a "
        "part frozen; their part of it, the difference of the squares; and the same from shifted auxiliary measurements.</p>"
    )
    return text + _table(ranking.groups.rename_axis("part").reset_index())


def _trainings(analysis: Analysis) -> str:
    rows, problems = [], []
    for task in analysis.workspace.tasks(analysis.out):
        record = read_record(analysis.out, task.name)
        if record is not None:
            rows.append(
                {
                    "sample": task.name,
                    "events": f"{record.n_events:,}",
                    "yield": f"{record.expected:.6g}",
                    "seconds": f"{record.seconds:.0f}",
                    "nuisances": ", ".join(name for name in record.inputs if name not in ("nominal", "rates")),
                }
            )
            problems += [f"{task.name}: {one}" for one in record.problems]
    text = "".join(f'<p class="warning">{_text(one)}</p>' for one in problems)
    return (_table(pd.DataFrame(rows), words=1) if rows else "") + text


def _versions(analysis: Analysis, results: Mapping[str, Path]) -> str:
    path = results.get("fit") or next(iter(results.values()), None)
    if path is None:
        return ""
    versions = read_envelope(path)["versions"]
    text = ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items())
    return f"<p>{text}</p><p>workspace SHA-256 <code>{analysis.workspace.sha256}</code></p>"


# --- parts -------------------------------------------------------------------------------------------------------------


def _figures(analysis: Analysis, prefix: str, *, pair: bool = False) -> str:
    """Figures of a kind, each in the page itself."""
    shown = []
    for path in sorted((analysis.place / "plots").glob(f"{prefix}*.png"), key=_order):
        content = path.read_bytes()
        width, data = int.from_bytes(content[16:20], "big"), base64.b64encode(content).decode()
        caption = path.stem.replace("_", " ")
        image = f'<img alt="{_text(caption)}" width="{width * 2 // 3}" src="data:image/png;base64,{data}">'
        shown.append(f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>")
    return f'<div class="{"pair" if pair else "figures"}">{"".join(shown)}</div>' if shown else ""


def _order(path: Path) -> str:
    """What is before the fit comes first."""
    return path.stem.replace("_prefit", "_0").replace("_postfit", "_1")


def _printed(analysis: Analysis, results: Mapping[str, Path], *names: str) -> str:
    texts = [text_of(load(results[name]), analysis.offsets) for name in names if name in results]
    return "".join(f"<pre>{_text(one)}</pre>" for one in texts)


def _table(table: pd.DataFrame, *, words: int = 1) -> str:
    """A table, whose first columns are words."""
    if not len(table):
        return ""
    head = _cells(table.columns, words, "th")
    rows = "".join(f"<tr>{_cells(row, words)}</tr>" for row in table.itertuples(index=False))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cells(values: Iterable[Any], words: int, tag: str = "td") -> str:
    cells = enumerate(values)
    return "".join(
        f"<{tag}{' class=text' if index < words else ''}>{_text(_shown(one))}</{tag}>" for index, one in cells
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")

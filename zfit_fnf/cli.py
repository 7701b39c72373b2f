"""The command ``zfit-fnf``: a thin layer over functions of the package, which are imported when they are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__

if TYPE_CHECKING:
    from .workspace.analysis import Analysis

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zfit_fnf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Unbinned likelihood fits with learned densities and factorizable systematic uncertainties."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for events, results and plots.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="More events and longer trainings: many minutes.")] = False,
    doi: Annotated[bool, typer.Option("--doi", help="Distort the data, and measure the map that undoes it.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.", min=0)] = 1,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Delete what an earlier demonstration has left in the folder."),
    ] = False,
) -> None:
    """Simulate a toy analysis, train its densities, fit it, and leave tables and plots in a folder."""
    # Imported here, because TensorFlow takes seconds and neither --help nor --version needs it.
    from . import demo as of_parameters
    from .demo import doi as of_map
    from .train.schedule import TrainingStopped

    try:
        if doi:
            table = of_map.run(out, of_map.FULL if full else of_map.QUICK, seed=seed, overwrite=overwrite)
        else:
            settings = of_parameters.FULL if full else of_parameters.QUICK
            table = of_parameters.run(out, settings, seed=seed, overwrite=overwrite)
    except (ImportError, OSError, TrainingStopped) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"\n{table}\nresults and plots are in {out}")


Path_ = Annotated[
    Path, typer.Argument(help="The workspace, a YAML or JSON file, or one that `pack` made.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of models and results.", show_default=False)]
Name = Annotated[str | None, typer.Option("--measurement", "-m", help="Its name; by default the first one.")]
Unblind = Annotated[bool, typer.Option("--unblind", help="Show the values of blinded parameters.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Poi = Annotated[str | None, typer.Option("--poi", help="The parameter; by default the first one of interest.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", help="In how many processes.", min=1)]
Fast = Annotated[
    bool, typer.Option("--accelerate", help="Evaluate densities by polynomials: faster for many events or nuisances.")
]

NOT_VALID = 3
"""Exit code of a command whose result is there but is not good, as that of a fit that did not converge."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as that of other programs."""


@app.command()
def train(workspace: Path_, out: Out, jobs: Jobs = 1, as_json: Json = False) -> None:
    """Train the densities that are not up to date; an interrupted training goes on."""
    with _errors():
        from dataclasses import asdict

        from .workspace import Workspace

        records = Workspace.read(workspace).train(out, jobs=jobs, progress=not as_json, echo=_echo(as_json))
        if as_json:
            _print_json({name: asdict(record) for name, record in records.items()})


@app.command()
def fit(
    workspace: Path_,
    out: Out,
    accelerate: Fast = False,
    measurement: Name = None,
    minos: Annotated[
        list[str] | None, typer.Option(help="Parameters with MINOS errors beside those of interest.")
    ] = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Fit the data: HESSE errors, and MINOS errors of the parameters of interest."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        result = analysis.fit(minos=[*analysis.measurement.config.poi, *(minos or [])])
        _show(result, analysis, as_json)
        if not result.valid:
            raise typer.Exit(NOT_VALID)


@app.command()
def scan(
    workspace: Path_,
    out: Out,
    parameter: Annotated[
        list[str] | None, typer.Option(help="The parameter, or two of them; by default the first one of interest.")
    ] = None,
    points: Annotated[int, typer.Option(help="Number of points, along each axis.", min=3)] = 21,
    n_sigma: Annotated[float, typer.Option(help="How far on each side, in errors.", min=0.1)] = 3.0,
    accelerate: Fast = False,
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Scan the profile likelihood of a parameter, or of two."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        _show(analysis.scan(*(parameter or []), points=points, n_sigma=n_sigma), analysis, as_json)


@app.command()
def limit(
    workspace: Path_,
    out: Out,
    poi: Poi = None,
    cl: Annotated[float, typer.Option(help="Confidence level.")] = 0.95,
    expected: Annotated[
        bool, typer.Option("--expected", help="Expected limits before any fit, without the data.")
    ] = False,
    against: Annotated[str | None, typer.Option(help="Limits at values of this parameter, such as a mass.")] = None,
    at: Annotated[list[float] | None, typer.Option(help="The values; by default 11 within its bounds.")] = None,
    accelerate: Fast = False,
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """CLs upper limit on a parameter, or its limits against another one."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        if against is not None:
            _show(analysis.limits(against, at or None, poi=poi, cl=cl, prefit=expected), analysis, as_json)
            return
        _show(analysis.limit(poi, cl=cl, prefit=expected), analysis, as_json)


@app.command()
def significance(
    workspace: Path_,
    out: Out,
    poi: Poi = None,
    expected_at: Annotated[float | None, typer.Option(help="Value of the parameter for the expected one.")] = None,
    accelerate: Fast = False,
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Significance of an excess of a parameter over zero."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        _show(analysis.significance(poi, expected_at=expected_at), analysis, as_json)


@app.command()
def impacts(
    workspace: Path_,
    out: Out,
    poi: Poi = None,
    accelerate: Fast = False,
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Impacts of the nuisances on a parameter, and their pulls."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        _show(analysis.impacts(poi), analysis, as_json)


@app.command()
def toys(
    workspace: Path_,
    out: Out,
    number: Annotated[int, typer.Option("--number", "-n", help="How many.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of all toys.", min=0)] = 0,
    jobs: Jobs = 1,
    accelerate: Fast = False,
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Fit toys that are drawn at the best fit."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        _show(analysis.toys(number, seed=seed, jobs=jobs), analysis, as_json)


@app.command()
def validate(workspace: Path_, out: Out, as_json: Json = False) -> None:
    """Compare the learned densities with simulated events that no training has seen."""
    with _analysis(workspace, out, None, False, as_json) as analysis:
        reports = analysis.validate()
        if as_json:
            _print_json({name: report.to_dict() for name, report in reports.items()})
        else:
            typer.echo("\n\n".join(f"{name}: {report}" for name, report in reports.items()))
        if not all(report.passed for report in reports.values()):
            raise typer.Exit(NOT_VALID)


@app.command()
def yields(
    workspace: Path_,
    out: Out,
    form: Annotated[str, typer.Option("--format", help="text, latex, or hepdata (YAML).")] = "text",
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Expected and observed events of each process in each channel, before and after the fit."""
    with _analysis(workspace, out, measurement, unblind, as_json) as analysis:
        if form not in ("text", "latex", "hepdata"):
            raise ValueError(f"--format is text, latex or hepdata; got {form!r}")
        table = analysis.yields()
        if as_json or form == "text":
            _show(table, analysis, as_json)
        elif form == "latex":
            typer.echo(table.to_latex())
        else:
            from .common.optional import require

            typer.echo(require("yaml", extra="io").safe_dump(table.to_hepdata(), sort_keys=False), nl=False)


@app.command()
def plot(workspace: Path_, out: Out, measurement: Name = None, unblind: Unblind = False, as_json: Json = False) -> None:
    """Draw the data with the model, and all results that are there."""
    with _analysis(workspace, out, measurement, unblind, as_json) as analysis:
        from .workspace.figures import draw

        files = [str(path) for path in draw(analysis)]
        if as_json:
            _print_json(files)
        else:
            typer.echo("\n".join(files))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of models and results.", show_default=False)],
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Write one HTML file of all results that are there, with figures."""
    with _errors():
        from .workspace.analysis import REMEMBERED

        if not (path := folder / REMEMBERED).is_file():
            raise FileNotFoundError(f"{str(folder)!r} has no results of a workspace: fit it first")
        workspace = Path(path.read_text(encoding="utf-8").strip())
    with _analysis(workspace, folder, measurement, unblind, as_json) as analysis:
        from .report import write_report

        _written(write_report(analysis), as_json)


@app.command()
def run(
    workspace: Path_,
    out: Out,
    jobs: Jobs = 1,
    accelerate: Fast = False,
    measurement: Name = None,
    unblind: Unblind = False,
    as_json: Json = False,
) -> None:
    """Train, validate, fit, scan, limit, significance, impacts, figures and report, one after the other."""
    with _analysis(workspace, out, measurement, unblind, as_json, accelerate) as analysis:
        from .report import write_report

        echo = _echo(as_json)
        found: dict[str, Any] = {}
        analysis.workspace.train(out, jobs=jobs, progress=not as_json, echo=echo)
        verdicts = analysis.validate()
        echo("\n".join(f"{name}: {verdict}" for name, verdict in verdicts.items()))
        for step in (analysis.fit, analysis.scan, analysis.significance, analysis.limit, analysis.impacts):
            try:
                found[step.__name__] = step()
                echo(f"{_text(found[step.__name__], analysis)}\n")
            except ValueError as error:  # such as a limit on a parameter that cannot be zero
                if step.__name__ == "fit":
                    raise
                echo(f"no {step.__name__}: {error}\n")
        page = write_report(analysis)
        echo(f"the report is {page}")
        if as_json:
            passed = {name: verdict.passed for name, verdict in verdicts.items()}
            results = {name: result.to_dict() for name, result in found.items()}
            _print_json({"validate": passed, **results, "report": str(page)})
        if not (found["fit"].valid and all(one.passed for one in verdicts.values())):
            raise typer.Exit(NOT_VALID)


@app.command()
def pack(
    workspace: Path_,
    out: Out,
    file: Annotated[Path, typer.Argument(help="The file to write, which ends with '.zip'.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write a workspace, its models and its data into one file, which is fitted without the simulated events."""
    with _errors():
        from .workspace import Workspace

        _written(Workspace.read(workspace).pack(out, file), as_json)


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Where to; made if it is not there.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write an example of a workspace, with comments and a few events, to begin with."""
    with _errors():
        from .workspace.example import write_example

        path = write_example(folder)
        _written(path, as_json)
        _echo(as_json)(f"go on with\n  zfit-fnf run {path} -o {folder / 'results'}")


@app.command()
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A model file, a result, or a workspace (YAML or JSON).", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Verify a file, and show what it contains."""
    with _errors():
        from . import storage
        from .storage.results import holds_result, read_envelope

        if path.suffix == ".json" and path.is_file() and holds_result(path):
            result = storage.load(path)
            _print_json(read_envelope(path)) if as_json else typer.echo(result)
        elif path.suffix in (".yaml", ".yml", ".json", ".zip"):
            from .workspace import Workspace

            workspace = Workspace.read(path)
            content = workspace.document.model_dump(mode="json", by_alias=True, exclude_unset=True)
            _print_json(content) if as_json else typer.echo(workspace.describe())
        else:
            file = storage.inspect(path)
            _print_json(file.to_dict()) if as_json else typer.echo(file)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A datacard of combine, a workspace of pyhf, or a workspace.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The workspace, YAML; or that of pyhf, JSON.", show_default=False)
    ],
    models: Annotated[Path | None, typer.Option(help="Folder of models, of a workspace.", show_default=False)] = None,
    measurement: Name = None,
    as_json: Json = False,
) -> None:
    """Convert a datacard or a pyhf workspace, or put a workspace into bins for pyhf; with exit code 3, what is left is listed."""
    with _errors():
        from .workspace.convert import convert

        conversion = convert(source, trained=models, measurement=measurement)
        conversion.write(out)
        if as_json:
            _print_json({"file": str(out), "not_converted": conversion.left})
        else:
            typer.echo(f"{out} is written" + ("; not converted, or not exactly:" if conversion.left else ""))
            typer.echo("\n".join(conversion.left), nl=bool(conversion.left))
        if conversion.left:
            raise typer.Exit(NOT_VALID)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a workspace, for editors."""
    from .workspace import json_schema

    _print_json(json_schema())


# --- what commands share -----------------------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    """What goes wrong with files, input or computations is one line, and the exit code 1; after Ctrl-C it is 130."""
    try:
        yield
    except typer.Exit:  # which is a RuntimeError
        raise
    except (ImportError, OSError, ValueError, TypeError, RuntimeError, KeyboardInterrupt) as error:
        if _was_interrupted(error):  # also a training, which has kept what is complete
            typer.echo("interrupted: what is complete is kept, and the same command goes on with the rest", err=True)
            raise typer.Exit(INTERRUPTED) from error
        lines = "\n".join(
            "".join(c if c.isprintable() else ascii(c)[1:-1] for c in one) for one in str(error).split("\n")
        )
        typer.echo(f"error: {lines}", err=True)
        raise typer.Exit(1) from error


def _was_interrupted(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__cause__))


@contextmanager
def _analysis(
    workspace: Path, out: Path, measurement: str | None, unblind: bool, quiet: bool, accelerated: bool = False
) -> Iterator[Analysis]:
    """The analysis of a workspace; its warnings are shown at the end."""
    with _errors():
        from .workspace import Workspace
        from .workspace.analysis import Analysis

        settings: dict[str, Any] = {"measurement": measurement, "unblind": unblind, "accelerated": accelerated}
        analysis = Analysis(Workspace.read(workspace), out, progress=not quiet, **settings)
        try:
            yield analysis
        finally:
            for one in analysis.warnings:
                typer.echo(f"warning: {one}", err=True)


def _echo(quiet: bool) -> Callable[[str], Any]:
    return (lambda _: None) if quiet else typer.echo


def _show(result: Any, analysis: Analysis, as_json: bool) -> None:
    if as_json:
        _print_json(result.to_dict())
    else:
        typer.echo(_text(result, analysis))


def _text(result: Any, analysis: Analysis) -> str:
    from .workspace.blinding import text_of

    return text_of(result, analysis.offsets)


def _written(path: Path, as_json: bool) -> None:
    if as_json:
        _print_json({"file": str(path)})
    else:
        typer.echo(f"{path} is written")


def _print_json(content: Any) -> None:
    from .storage.results import plain

    typer.echo(json.dumps(plain(content), indent=1))

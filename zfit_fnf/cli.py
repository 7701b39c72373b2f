"""The command ``zfit-fnf``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import __version__

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
    from .doi import EnsembleStopped
    from .train.schedule import TrainingStopped

    try:
        if doi:
            table = of_map.run(out, of_map.FULL if full else of_map.QUICK, seed=seed, overwrite=overwrite)
        else:
            settings = of_parameters.FULL if full else of_parameters.QUICK
            table = of_parameters.run(out, settings, seed=seed, overwrite=overwrite)
    except (ImportError, OSError, TrainingStopped, EnsembleStopped) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"\n{table}\nresults and plots are in {out}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A model file, as zfit_fnf.save writes it.", show_default=False)],
) -> None:
    """Verify a model file and show what it contains."""
    from . import storage

    try:
        contents = storage.inspect(path)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {storage.printable(str(error))}", err=True)
        raise typer.Exit(1) from error
    typer.echo(contents)

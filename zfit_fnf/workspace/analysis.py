"""What the commands do, one public function each: fits, scans, limits and so on of a workspace, kept in a folder."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from .. import scans
from ..common.files import complete
from ..common.parallel import workers
from ..diagnostics import ValidationReport, validate
from ..limit_scans import LimitScan, limits_against
from ..limits import DiscoveryResult, LimitResult, discovery, upper_limit
from ..minimize import Minuit
from ..param import Nuisance, limits_of
from ..projections import PostfitBand, postfit_band
from ..results import FitSummary
from ..samples import Sample
from ..scans import ContourScan, Impacts, ProfileScan
from ..state import known_before
from ..storage import load
from ..storage.results import read_envelope, save_result, versions
from ..toys import ToyFits, fit_toys
from ..yield_tables import YieldTable, yield_table
from .blinding import hidden, offsets_of, without_numbers
from .document import nearest
from .names import measurement_of
from .training import held_out, model_path
from .workspace import Model, Workspace

__all__ = ["REMEMBERED", "Analysis"]


REMEMBERED = "workspace.txt"
"""File with the path of the workspace, in the folder of its results."""

_BLOCK = 200
"""Toys after which they are kept."""


class Analysis:
    """A trained workspace and the folder of its results: each method computes one of them, and keeps it as JSON.

    Args:
        workspace: The workspace.
        out: Folder of the results, with the models of `Workspace.train`; another measurement than the first one, and what is
            unblinded, has a folder of its own in it.
        measurement: Name of the measurement, by default the first one.
        unblind: Whether the values of blinded parameters are shown and kept.
        accelerated: Whether the likelihood is evaluated by polynomials, see `zfit_fnf.accelerate`.
        progress: Whether to show progress bars.

    Example:
        >>> analysis = Analysis(Workspace.read("analysis.yaml"), "results")
        >>> print(analysis.fit())
        >>> print(analysis.limit())
    """

    def __init__(
        self,
        workspace: Workspace,
        out: str | os.PathLike[str],
        *,
        measurement: str | None = None,
        unblind: bool = False,
        accelerated: bool = False,
        progress: bool = True,
    ):
        self.workspace, self.out, self.progress = workspace, Path(out), progress
        self.accelerated = accelerated
        self.measurement = measurement_of(workspace.document, measurement)
        self.offsets = {} if unblind else offsets_of(workspace.document.blinding)
        # Each measurement has a folder of its own, and so has what is unblinded: nothing is mixed up.
        first = self.measurement.name == workspace.document.measurements[0].name
        self.place = self.out if first else self.out / re.sub(r"\W+", "_", self.measurement.name)
        if unblind and workspace.document.blinding is not None:
            self.place = self.place / "unblinded"
        self.warnings: list[str] = []

    @cached_property
    def model(self) -> Model:
        """The statistical model."""
        return self.workspace.model(self.out, measurement=self.measurement.name)

    @cached_property
    def loss(self) -> Any:
        """The likelihood."""
        before = self.prefit
        with self._listening():
            loss = self.workspace.loss(self.out, model=self.model, accelerated=self.accelerated)
        zfit.param.set_values(list(before), list(before.values()))  # a calibration leaves its fit
        return loss

    @cached_property
    def prefit(self) -> dict[zfit.Parameter, float]:
        """Values of all parameters before any fit."""
        return {one: float(one.value()) for one in self.model.parameters.values()}

    @cached_property
    def result(self) -> FitResult:
        """The fit, with HESSE errors; not blinded."""
        before = self.prefit
        with zfit.param.set_values(list(before), list(before.values())), self._listening():
            result = Minuit().minimize(self.loss)
            result.hesse()
        zfit.param.set_values(list(result.params), [found["value"] for found in result.params.values()])
        return result

    @property
    def poi(self) -> str:
        """The first parameter of interest."""
        return self.measurement.config.poi[0]

    def fit(self, *, minos: bool | list[str] = True) -> FitSummary:
        """The fit: HESSE errors of all parameters, and MINOS errors of those of interest.

        Args:
            minos: Of which parameters there are MINOS errors: by default those of interest, ``False`` for none, or names.
        """
        wanted = self.measurement.config.poi if minos is True else minos or []
        if unknown := [name for name in wanted if name not in self.model.parameters]:
            raise ValueError(f"there is no parameter {unknown[0]!r}{nearest(unknown[0], self.model.parameters)}")
        found = [self.model.parameters[name] for name in wanted]
        if params := [one for one in found if one.floating]:
            with self._listening():
                self.result.errors(params)
        with self._listening():
            summary = FitSummary.of(self.result)
        return self._keep("fit", summary)

    def scan(self, *parameters: str, points: int = 21, n_sigma: float = 3.0) -> ProfileScan | ContourScan:
        """Profile likelihood of a parameter, by default the first one of interest, or of two."""
        names = parameters or (self.poi,)
        if len(names) > 2:
            raise ValueError(f"one parameter is scanned, or two; got {', '.join(names)}")
        for name in set(names) & set(self.offsets):
            self._check_scan(name, n_sigma)
        settings: dict[str, Any] = {"n_points": points, "n_sigma": n_sigma, "progress": self.progress}
        scan: ProfileScan | ContourScan
        with self._listening():
            if len(names) == 2:
                scan = scans.contour(self.loss, self.result, (names[0], names[1]), **settings)
            else:
                scan = scans.profile(self.loss, self.result, names[0], **settings)
        return self._keep("_".join(["scan", *names]), scan)

    def _check_scan(self, name: str, n_sigma: float) -> None:
        """A scan that is cut off at a limit of a blinded parameter would tell how far its best fit is from there."""
        for parameter, found in self.result.params.items():
            reach = n_sigma * float(found.get("hesse", {}).get("error", np.nan))
            low, high = limits_of(parameter)
            if parameter.name == name and not low < found["value"] - reach < found["value"] + reach < high:
                raise ValueError(
                    f"a scan of {name!r}, which is blinded, would end at its bounds and so tell where the best fit is: scan "
                    "fewer standard deviations, or make the bounds wider"
                )

    def limit(self, poi: str | None = None, *, cl: float = 0.95, prefit: bool = False) -> LimitResult:
        """CLs upper limit on a parameter.

        Args:
            poi: The parameter, by default the first one of interest.
            cl: Confidence level.
            prefit: The expected limits alone, without looking at the data.
        """
        self._start(prefit)
        with self._listening():
            limit = upper_limit(self.loss, poi or self.poi, cl=cl, expected="prefit" if prefit else "postfit")
        return limit if prefit else self._keep(self._named("limit", poi), limit)

    def limits(
        self,
        parameter: str,
        values: Sequence[float] | None = None,
        *,
        poi: str | None = None,
        cl: float = 0.95,
        prefit: bool = False,
    ) -> LimitScan:
        """CLs upper limits at values of a parameter, such as a mass; those that an interrupted call has left are not done again.

        Args:
            parameter: The parameter, which is fixed at each of the values.
            values: Its values, by default 11 within its bounds.
            poi: As for `limit`.
            cl: As for `limit`.
            prefit: As for `limit`.
        """
        poi, known = poi or self.poi, None
        if parameter not in self.model.parameters:
            raise ValueError(f"there is no parameter {parameter!r}{nearest(parameter, self.model.parameters)}")
        if values is None:
            bounds = limits_of(self.model.parameters[parameter])
            if not np.all(np.isfinite(bounds)):
                raise ValueError(f"{parameter!r} has no bounds: say at which values the limits are wanted")
            values = np.linspace(*bounds, 11).tolist()
        path = self.results / f"limits_{parameter}.json"
        settings = {"poi": poi, "cl": cl, "prefit": prefit, "accelerated": self.accelerated}
        if path.is_file():
            envelope = read_envelope(path)
            same = {"workspace": self._document, "versions": versions(), "settings": settings}
            same["blinded"] = sorted(self.offsets)
            known = load(path) if all(envelope.get(name) == one for name, one in same.items()) else None
        left = [value for value in values if known is None or value not in known.table.index]
        if left:
            self._start(prefit)
            expected: Any = "prefit" if prefit else "postfit"
            with self._listening():
                for scan in limits_against(
                    self.loss, poi, parameter, left, cl=cl, expected=expected, progress=self.progress
                ):
                    known = self._keep(
                        f"limits_{parameter}", scan if known is None else known.joined(scan), settings=settings
                    )
        assert known is not None
        return known

    def significance(self, poi: str | None = None, *, expected_at: float | None = None) -> DiscoveryResult:
        """Significance of an excess of a parameter over zero."""
        self._start()
        with self._listening():
            found = discovery(self.loss, poi or self.poi, expected_at=expected_at)
        return self._keep(self._named("significance", poi), found)

    def impacts(self, poi: str | None = None) -> Impacts:
        """Impacts of the nuisances on a parameter, and of their groups: what its error is made of."""
        name = poi or self.poi
        known = known_before(self.loss)
        fitted = {one.name for one in self.result.params if isinstance(one, Nuisance) or one in known}
        groups = {
            group: [one for one in names if one in fitted and one != name]
            for group, names in self.workspace.document.groups.items()
        }
        groups = {group: names for group, names in groups.items() if names}
        with self._listening():
            ranking = scans.impacts(self.loss, self.result, name, groups=groups or None, progress=self.progress)
        return self._keep(self._named("impacts", poi), ranking)

    def toys(self, n: int = 100, *, seed: int = 0, jobs: int = 1) -> ToyFits:
        """Fits to toys that are drawn at the best fit; those that an interrupted call has left are not done again.

        Args:
            n: How many.
            seed: Seed of all of them.
            jobs: In how many processes.
        """
        values = {one: float(found["value"]) for one, found in self.result.params.items()}
        kept = {"seed": seed, "settings": {"accelerated": self.accelerated}}
        fits = self._known_toys(kept)
        with workers(jobs) if jobs > 1 else nullcontext() as pool:
            settings: dict[str, Any] = {"params": values, "executor": pool, "progress": self.progress}
            while (done := 0 if fits is None else len(fits.valid)) < n:
                with self._listening():
                    block = fit_toys(self.loss, min(_BLOCK, n - done), seed=seed, first=done, **settings)
                fits = block if fits is None else _together(fits, block)
                self._keep("toys", fits, **kept)
        assert fits is not None
        return self._keep("toys", fits, **kept)

    def _known_toys(self, kept: dict[str, Any]) -> ToyFits | None:
        """Toys of this workspace, with this seed, truth and likelihood, from an earlier call."""
        path = self.results / "toys.json"
        if not path.is_file():
            return None
        envelope = read_envelope(path)
        same = {"workspace": self._document, "versions": versions(), "blinded": sorted(self.offsets), **kept}
        if any(envelope.get(name) != one for name, one in same.items()):
            return None
        fits: ToyFits = hidden(load(path), {name: -offset for name, offset in self.offsets.items()})
        truth = {one.name: found["value"] for one, found in self.result.params.items()}
        errors = dict(zip(truth, np.sqrt(np.diag(self.result.covariance(list(self.result.params)))), strict=True))
        near = set(fits.truth) == set(truth) and all(abs(fits.truth[k] - truth[k]) < 0.01 * errors[k] for k in truth)
        return fits if near else None

    def validate(self) -> dict[str, ValidationReport]:
        """Verdict on each learned density, with the events that its training has not seen, by ``channel.sample``."""
        reports = {}
        self.workspace.check_fresh(self.out)
        data = self.workspace.data()
        for task in self.workspace.tasks(self.out):
            density, simulation = load(model_path(self.out, task.name)), held_out(task)
            n_data = data[task.channel.name].n_events
            with self._listening():
                reports[task.name] = validate(density, simulation, n_data=max(n_data, 1))
            self._keep(f"validation_{task.name}", reports[task.name])
        return reports

    def yields(self) -> YieldTable:
        """Expected and observed events of each process in each channel, before and after the fit.

        While a parameter is blinded, what is expected after the fit is hidden (not numbers) in channels that depend on it.
        """
        with self._listening():
            table = yield_table(self.loss, self.result, before=self.prefit).table
        for model in self.loss.model:
            if set(self.offsets) & {one.name for one in model.get_params(floating=None)}:
                regions = [model.name, *(model.samples() if hasattr(model, "samples") else ())]
                table.loc[table.index.get_level_values("channel").isin(regions), "postfit"] = np.nan
        return self._keep("yields", YieldTable(table))

    def band(self, pdf: zfit.pdf.BasePDF, parts: Mapping[str, Sample]) -> PostfitBand:
        """Uncertainty of the prediction of a channel after the fit, of events of its processes."""
        with self._listening():
            return postfit_band(pdf, self.result, parts)

    @property
    def results(self) -> Path:
        """Folder of the JSON files."""
        return self.place / "results"

    def kept(self) -> dict[str, Path]:
        """Files of the results of this workspace and measurement, by their names; not those of an earlier version of it."""
        files = sorted(self.results.glob("*.json"))
        return {path.stem: path for path in files if read_envelope(path)["workspace"] == self._document}

    def _named(self, what: str, poi: str | None) -> str:
        """Name of a result: those of other parameters than the first one of interest do not take its place."""
        return what if poi in (None, self.poi) else f"{what}_{poi}"

    def _start(self, prefit: bool = False) -> None:
        """Fits of limits start at the best fit, and those without data before any."""
        values = self.prefit if prefit else {one: found["value"] for one, found in self.result.params.items()}
        zfit.param.set_values(list(values), list(values.values()))

    @cached_property
    def _document(self) -> dict[str, str]:
        """What results belong to, which are the document, the data and the trained densities."""
        return {
            "name": self.workspace.name,
            "sha256": self.workspace.sha256,
            "inputs": self.workspace.inputs(self.out),
            "measurement": self.measurement.name,
        }

    def _keep(self, name: str, result: Any, **more: Any) -> Any:
        shown = hidden(result, self.offsets, {name: limits_of(one) for name, one in self.model.parameters.items()})
        self.results.mkdir(parents=True, exist_ok=True)
        path = self.results / f"{name}.json"
        with complete(self.out / REMEMBERED) as draft:
            draft.write_text(f"{self.workspace.path.resolve()}\n", encoding="utf-8")
        save_result(shown, path, workspace=self._document, blinded=sorted(self.offsets), **more)
        return shown

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Warnings are collected, for the report, and shown at the end of each command."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                yield
            except (ValueError, RuntimeError) as error:
                if (message := without_numbers(str(error), self.offsets)) == str(error):
                    raise
                raise type(error)(message) from None
        messages = [without_numbers(str(one.message), self.offsets) for one in caught]
        self.warnings += [one for one in dict.fromkeys(messages) if one not in self.warnings]


def _together(first: ToyFits, second: ToyFits) -> ToyFits:
    tables = [
        pd.concat(pair, ignore_index=True) for pair in ((first.values, second.values), (first.errors, second.errors))
    ]
    values, errors = (table.rename_axis("toy") for table in tables)
    return ToyFits(first.truth, values, errors, np.concatenate([first.valid, second.valid]))

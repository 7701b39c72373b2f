"""An analysis in one document: what is measured, with which processes and uncertainties, and how it is fitted."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..samples import Sample
from .binned import inlined, measured, parameter_uses
from .document import Text, WorkspaceError, parse
from .events import files_of, read_events
from .expressions import Expression
from .names import Parameter, check_files, check_names, measurement_of, parameters_of
from .schema import Channel, Document, HistFactory

if TYPE_CHECKING:
    import zfit

    from .likelihood import Learned, Parameters
    from .training import Record, Task

__all__ = ["Model", "Workspace"]


@dataclass(frozen=True, eq=False)
class Model:
    """The statistical model of a workspace, as objects of zfit and of this package.

    Attributes:
        pdfs: The extended density of each unbinned channel, by its name.
        binned: Likelihoods of the binned channels, by their names.
        parameters: All parameters, by their names.
        constraints: Those of parameters that are measured otherwise; nuisances bring their own.
    """

    pdfs: dict[str, zfit.pdf.BasePDF]
    binned: dict[str, Any]
    parameters: dict[str, zfit.Parameter]
    constraints: tuple[Any, ...]


class Workspace:
    """An analysis document, read and checked.

    Attributes:
        document: What it says.
        path: The file.
        folder: What its paths are relative to.
        sha256: Checksum of the text.

    Example:
        >>> workspace = Workspace.read("analysis.yaml")
        >>> workspace.train("results")
        >>> nll = workspace.loss("results")
        >>> result = zfit_fnf.Minuit().minimize(nll)
    """

    def __init__(self, text: Text, document: Document, *, files: bool = True):
        self._text, self.document = text, (document := inlined(text, document))
        self.path = text.path
        self.folder = self.path.parent
        check_names(text, document)
        if files:
            check_files(text, document, lambda source: files_of(source, self.folder))
        self.sha256 = hashlib.sha256(text.path.read_bytes()).hexdigest()

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, files: bool = True) -> Workspace:
        """Read a workspace from a YAML or JSON file, or from one that `pack` has written.

        Args:
            path: The file.
            files: Whether the files of events have to be there.

        Raises:
            FileNotFoundError: If there is no such file.
            WorkspaceError: If something is wrong in it: says what and where, and the nearest thing that would be right.
        """
        if Path(path).suffix != ".zip" or not Path(path).is_file():
            text = Text(path)
            return cls(text, parse(text), files=files)
        from .pack import unpack

        folder = tempfile.mkdtemp()
        try:
            text = Text(unpack(Path(path), Path(folder)))
            read = cls(text, parse(text), files=files)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        read.path = Path(path)
        weakref.finalize(read, shutil.rmtree, folder, ignore_errors=True)  # as long as it is needed
        return read

    def __repr__(self) -> str:
        return f"Workspace({self.name!r}: channels {', '.join(one.name for one in self.document.channels)})"

    @property
    def name(self) -> str:
        """Name of the analysis."""
        return self.document.name

    def channel(self, name: str) -> Channel:
        """A channel, by its name."""
        return next(one for one in self.document.channels if one.name == name)

    def changed(self, document: Document) -> Workspace:
        """A workspace with another document, whose files are in the same place."""
        made = Workspace(self._text, document, files=False)
        made.path, made.folder = self.path, self.folder
        return made

    def parameters(self, measurement: str | None = None) -> dict[str, Parameter]:
        """What the document says of each parameter, in a measurement; by default the first one."""
        return parameters_of(self.document, measurement)

    def describe(self) -> str:
        """What is in the document, in words: channels with their processes, and parameters."""
        lines = [f"{self.name}: {self.document.description}" if self.document.description else self.name]
        for channel in self.document.channels:
            lines.append(f"channel {channel.name}: {', '.join(channel.observables) or 'HistFactory'}")
            for sample in channel.samples:
                modifiers = ", ".join(f"{one.name} ({one.type})" for one in sample.modifiers)
                lines.append(f"  {sample.name}: {modifiers or 'no modifiers'}")
        for measurement in self.document.measurements:
            lines.append(f"measurement {measurement.name}: {', '.join(measurement.config.poi)}")
            for name, one in self.parameters(measurement.name).items():
                lines.append(f"  {name}: {one.kind}{', fixed' if one.settings.fixed else ''}")
        return "\n".join(lines)

    # --- training -----------------------------------------------------------------------------------------------------

    def tasks(self, out: str | os.PathLike[str], *, progress: bool = True) -> list[Task]:
        """The samples whose densities are learned from events."""
        from .training import Task

        settings = self.document.training
        folds = range(1, settings.folds + 1) if settings.folds > 1 else [0]
        return [
            Task(channel, sample, settings, self.folder, Path(out), progress, fold)
            for channel in self.document.channels
            for sample in channel.samples
            if sample.events is not None and not channel.binned
            for fold in folds
        ]

    def train(
        self,
        out: str | os.PathLike[str],
        *,
        jobs: int = 1,
        progress: bool = True,
        echo: Callable[[str], Any] = lambda _: None,
    ) -> dict[str, Record]:
        """Learn the densities of all samples with events, those that are not up to date; an interrupted training goes on.

        Args:
            out: Folder of the results; models are in its folder ``models``.
            jobs: In how many processes.
            progress: Whether to show progress bars.
            echo: Announces what is done.

        Returns:
            The record of each training, by ``channel.sample``.

        Raises:
            TrainingStopped: If a training diverges or is interrupted.
        """
        from .training import train_all

        return train_all(self.tasks(out, progress=progress), jobs=jobs, progress=progress, echo=echo)

    def inputs(self, trained: str | os.PathLike[str]) -> str:
        """Checksum of all that a likelihood is made of: the document, binned channels, observed events and densities.

        Args:
            trained: Folder of the results of `train`.
        """
        from .training import checksum_of, model_path, read_record

        parts: list[Any] = [self.document.model_dump(mode="json")]
        for channel in self.document.channels:
            parts += [checksum_of(path) for path in files_of(channel.data, self.folder)] if channel.data else []
            simulated = [one for sample in channel.samples if channel.binned for one in sample.sources()]
            parts += [checksum_of(path) for source in simulated for path in files_of(source, self.folder)]
            parts += [checksum_of(self.folder / one) for sample in channel.samples for one in sample.model or []]
        for task in self.tasks(trained):
            record, path = read_record(task.out, task.name), model_path(task.out, task.name)
            if record is not None and path.is_file():
                parts += [checksum_of(path), record.expected, record.rates]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # --- the likelihood -----------------------------------------------------------------------------------------------

    def model(self, trained: str | os.PathLike[str] | None = None, *, measurement: str | None = None) -> Model:
        """The statistical model; parameters are made anew by each call.

        Args:
            trained: Folder of the results of `train`; not needed without samples that are learned.
            measurement: Name of the measurement, by default the first one.

        Raises:
            FileNotFoundError: If a sample is not trained.
        """
        from .likelihood import Parameters, channel_pdf

        functions = {one.name: Expression(one.expression) for one in self.document.functions}
        parameters = Parameters(self.parameters(measurement), functions)
        chosen = measurement_of(self.document, measurement).name
        pdfs = {
            channel.name: channel_pdf(channel, parameters, self._learned(channel, trained))
            for channel in self.document.channels
            if channel.histfactory is None and not channel.binned
        }
        binned = {
            channel.name: self._counted(channel, parameters)
            if channel.histfactory is None
            else self._binned(channel.name, channel.histfactory, parameters, chosen)
            for channel in self.document.channels
            if channel.histfactory is not None or channel.binned
        }
        if binned and not pdfs and parameters.constraints:  # of a sum, constraints count wherever they are
            name, first = next(iter(binned.items()))
            binned[name] = type(first)(first.model, first.data, constraints=parameters.constraints)
        further = [one for nll in binned.values() for one in nll.get_params(floating=None)]
        every = {**{one.name: one for one in further}, **parameters.by_name}
        return Model(pdfs, binned, every, tuple(parameters.constraints))

    def data(self) -> dict[str, Sample]:
        """The observed events of each unbinned channel, by its name."""
        return {
            channel.name: read_events(channel.data, tuple(channel.observables), self.folder, f"data of {channel.name}")
            for channel in self.document.channels
            if channel.data is not None
        }

    def loss(
        self,
        trained: str | os.PathLike[str] | None = None,
        *,
        measurement: str | None = None,
        model: Model | None = None,
        data: Mapping[str, Any] | None = None,
        accelerated: bool = False,
    ) -> Any:
        """The likelihood of all channels, calibrated by simulated events if the document says so.

        Args:
            trained: As for `model`.
            measurement: As for `model`.
            model: What `model` has made, if it was called before.
            data: Events by channel, by default the observed ones.
            accelerated: Whether unbinned channels are evaluated by polynomials, see `zfit_fnf.accelerate`.
        """
        from ..acceleration import accelerate
        from ..loss import ExtendedUnbinnedNLL

        model = self.model(trained, measurement=measurement) if model is None else model
        data = self.data() if data is None else data
        terms = list(model.binned.values())
        if model.pdfs:
            events = [data[name] for name in model.pdfs]
            unbinned = ExtendedUnbinnedNLL(list(model.pdfs.values()), events, constraints=list(model.constraints))
            unbinned = accelerate(unbinned) if accelerated else unbinned
            terms = [self._calibrated(unbinned, trained) if self.document.calibrate else unbinned, *terms]
        return functools.reduce(operator.add, terms)

    def _calibrated(self, nll: Any, trained: str | os.PathLike[str] | None) -> Any:
        """The likelihood of the unbinned channels, made right by events that no training has seen."""
        from ..calibration import calibrate
        from .likelihood import pdf_name
        from .training import unseen

        if stored := [one.name for channel in self.document.channels for one in channel.samples if one.model]:
            raise ValueError(f"sample {stored[0]!r} has a model file and no events, with which it could be calibrated")
        simulations: dict[str, list[Any]] = {}
        for task in self.tasks(trained or ""):
            simulations.setdefault(pdf_name(task.channel, task.sample), []).append(unseen(task))
        return calibrate(nll, simulations)

    @staticmethod
    def _binned(name: str, binned: HistFactory, parameters: Parameters, measurement: str) -> Any:
        """The likelihood of channels of pyhf."""
        from ..pyhf import channel

        params = {own: parameters[here] for here, _, own in parameter_uses(binned)}
        document = measured(binned, measurement, parameters.luminosity)
        return channel(document, binned.channels, params=params, name=name)

    def _counted(self, channel: Channel, parameters: Parameters) -> Any:
        """The likelihood of a channel whose events are counted."""
        from ..loss import NLL
        from .likelihood import counted_pdf

        pdf = counted_pdf(channel, parameters, self.folder, statistics=self.document.calibrate)
        assert channel.data is not None
        return NLL(pdf, read_events(channel.data, tuple(channel.observables), self.folder, f"data of {channel.name}"))

    def pack(self, trained: str | os.PathLike[str] | None, path: str | os.PathLike[str]) -> Path:
        """Write the workspace with its models and data into one file, see :func:`~zfit_fnf.workspace.pack.pack`."""
        from .pack import pack

        return pack(self, trained, path)

    def _learned(self, channel: Channel, trained: str | os.PathLike[str] | None) -> dict[str, list[Learned]]:
        """What is learned of each sample that is: one density, or one for each fold."""
        from .training import names_of

        found = {}
        for sample in channel.samples:
            if sample.model is not None:
                found[sample.name] = [self._stored(sample.name, path) for path in sample.model]
            elif sample.events is not None:
                names = names_of(channel, sample, self.document.training.folds)
                found[sample.name] = [_trained(name, trained) for name in names]
        if trained is not None:
            self.check_fresh(trained, channel.name)
        return found

    def check_fresh(self, trained: str | os.PathLike[str], channel: str | None = None) -> None:
        """Refuse densities and yields that were learned from other events or settings than the document has now.

        Args:
            trained: Folder of the results of `train`.
            channel: Name of a channel; by default all of them.

        Raises:
            WorkspaceError: If a sample has to be trained again.
        """
        from .training import changes, read_record

        for task in self.tasks(trained):
            record = read_record(task.out, task.name)
            if channel in (None, task.channel.name) and record is not None and (found := changes(task, record)):
                raise WorkspaceError(
                    f"sample {task.name!r} was trained from other events or settings ({', '.join(found)}) than there are now: "
                    "train the workspace again"
                )

    def _stored(self, sample: str, path: str) -> Learned:
        from .. import storage
        from .likelihood import Learned

        if not (self.folder / path).is_file():
            raise FileNotFoundError(f"sample {sample!r}: there is no model file {str(self.folder / path)!r}")
        density = storage.load(self.folder / path)
        flow = getattr(density, "flow", density)
        return Learned(density, flow.sum_weights or None, getattr(density, "yields", {}))


def _trained(name: str, trained: str | os.PathLike[str] | None) -> Learned:
    from .. import storage
    from .likelihood import Learned
    from .training import model_path, read_record

    record = None if trained is None else read_record(Path(trained), name)
    if trained is None or record is None or not record.complete:
        where = "" if trained is None else f" in {str(trained)!r}"
        raise FileNotFoundError(f"sample {name!r} is not trained{where}: train the workspace first")
    return Learned(storage.load(model_path(Path(trained), name)), record.expected, record.ratios())

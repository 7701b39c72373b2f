"""The schema of a workspace: what an analysis document may contain, with the names of pyhf and HS3 where they have one.

The page "The workspace document" of the documentation is made of it, and so is the JSON Schema that `json_schema` gives.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from ..samples.cuts import Cut
from .expressions import Expression

__all__ = [
    "VERSION",
    "Analytic",
    "Blinding",
    "Channel",
    "Config",
    "Document",
    "Events",
    "Function",
    "HistFactory",
    "LnN",
    "Measurement",
    "Modifier",
    "NormSys",
    "Observable",
    "ParameterConfig",
    "Sample",
    "Source",
    "Training",
    "Variation",
    "json_schema",
]

VERSION = 1
"""Of the format of the document."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _number(value: Any) -> Any:
    """YAML takes ``1e3`` for a text, and ``yes`` for a number of a kind."""
    if isinstance(value, bool):
        raise ValueError(f"is a number; got {value}")
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            raise ValueError(f"is a number; got {value!r}")
        value = float(value)
    if isinstance(value, (int, float)) and not math.isfinite(value):
        raise ValueError(f"is a finite number; got {value}")
    return value


def _expression(value: Any) -> Any:
    if isinstance(value, str):
        Expression(value)
    return value


def _name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_][\w.\-]*", value):
        raise ValueError(f"{value!r} is no name: letters, digits, '_', '.' and '-', a letter first")
    return value


def _selection(value: Any) -> Any:
    if isinstance(value, str):
        cut = Cut(value)
        cut({name: np.zeros(0) for name in cut.names})
    return value


def _file_name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\w[\w.\-]*", value):
        raise ValueError(f"{value!r} is no name: letters, digits, '_', '.' and '-'")
    return value


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Name = Annotated[str, BeforeValidator(_name)]
FileName = Annotated[str, BeforeValidator(_file_name)]
Formula = Annotated[str, BeforeValidator(_expression)]
Value = Annotated[float | str, BeforeValidator(_expression)]
"""A number, the name of a parameter, or an expression of both."""
Selection = Annotated[str, BeforeValidator(_selection)]
Names = Annotated[
    list[str],
    BeforeValidator(_list),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class Strict(BaseModel):
    """What has these fields, and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


# --- events ------------------------------------------------------------------------------------------------------------


class Observable(Strict):
    """A quantity that is measured for every event."""

    range: tuple[Number, Number] = Field(description="Lowest and highest value; events outside are an error.")
    label: str | None = Field(None, description="Text for plots, by default the name.")
    unit: str | None = Field(None, description="Unit for plots, such as GeV.")
    bins: int | None = Field(None, ge=1, description="Number of bins in plots; the fit has none.")

    @model_validator(mode="after")
    def _check(self) -> Observable:
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range: the lower end comes first; got {list(self.range)}")
        return self


class Source(Strict):
    """Where events are, and which of them are meant."""

    file: Names = Field(description="ROOT, Parquet or CSV file, a pattern such as `signal_*.root`, or a list of them.")
    tree: str | None = Field(None, description="TTree or RNTuple in ROOT files; needed if there are several.")
    selection: Selection | None = Field(None, description="Which events are kept, e.g. `pt > 20 and abs(eta) < 2.4`.")
    weights: Formula | None = Field(None, description="Weight of each event: a column, or an expression of columns.")
    columns: dict[str, Formula] = Field(
        {},
        description="Further columns, by name: expressions of others. An own name in one means the column of the file.",
    )
    scale: Value = Field(
        1.0,
        description="What all weights are multiplied by, e.g. `48.6 * 138000 / 2e6`; a number or such an expression.",
    )


class Variation(Strict):
    """Events with nuisances away from zero; what is not given is as for the nominal events."""

    at: dict[str, Number] = Field(min_length=1, description="Standard deviations by nuisance, e.g. `{jes: +1}`.")
    file: Names | None = Field(None, description="As for the nominal events.")
    tree: str | None = Field(None, description="As for the nominal events.")
    selection: Selection | None = Field(None, description="As for the nominal events.")
    weights: Formula | None = Field(None, description="Given alone: other weights of the nominal events.")
    columns: dict[str, Formula] | None = Field(None, description="As for the nominal events; those not named stay.")
    scale: Value | None = Field(None, description="As for the nominal events.")

    @property
    def changes_weights_only(self) -> bool:
        """Whether the events are the nominal ones, with other weights."""
        return self.weights is not None and not self.model_fields_set - {"at", "weights", "scale"}

    def source(self, nominal: Source) -> Source:
        """Where the events are."""
        own = {name: getattr(self, name) for name in self.model_fields_set - {"at", "columns"}}
        return nominal.model_copy(update={**own, "columns": {**nominal.columns, **(self.columns or {})}})


class Events(Strict):
    """Simulated events of a process."""

    nominal: Source = Field(description="Events with all nuisances at zero.")
    variations: list[Variation] = Field([], description="Events with one nuisance moved, or two.")

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Names of the nuisances that were simulated."""
        return tuple(dict.fromkeys(name for variation in self.variations for name in variation.at))


# --- modifiers ---------------------------------------------------------------------------------------------------------


class _Modifier(Strict):
    name: Name = Field(description="Name of the parameter.")


class NormFactor(_Modifier):
    """A free factor on the yield, such as a signal strength."""

    type: Literal["normfactor"]
    data: None = None


class LnN(_Modifier):
    """Log-normal uncertainty of the yield; the parameter is a nuisance."""

    type: Literal["lnN"]
    data: Positive | tuple[Positive, Positive] = Field(description="Factor at +1 sigma; or those at -1 and at +1.")


class Factors(Strict):
    """Factors on a yield at one standard deviation of a nuisance."""

    lo: Positive = Field(description="At -1 sigma.")
    hi: Positive = Field(description="At +1 sigma.")


class NormSys(_Modifier):
    """Asymmetric uncertainty of the yield (interpolation code 4); the parameter is a nuisance."""

    type: Literal["normsys"]
    data: Factors | Literal["events"] = Field(
        description="The factors, or `events`: the sums of weights of the variations."
    )
    variation: str | None = Field(None, description="What the variations call the nuisance; by default `name`.")


class Shape(_Modifier):
    """Uncertainty of the distribution, learned from the variations; the parameter is a nuisance."""

    type: Literal["shape"]
    data: None = None
    variation: str | None = Field(
        None, description="What the variations call the nuisance; by default `name`. Another name is another parameter."
    )


class Lumi(_Modifier):
    """The luminosity, relative to the nominal one: `auxdata + sigmas * nuisance`, which the measurement gives."""

    type: Literal["lumi"]
    data: None = None


class Free(_Modifier):
    """A factor on the yield that is an expression of parameters and functions; `name` is that of the factor."""

    type: Literal["expression"]
    data: Formula = Field(description="For instance `kappa**2`.")


Modifier = Annotated[NormFactor | LnN | NormSys | Shape | Lumi | Free, Field(discriminator="type")]


# --- channels ----------------------------------------------------------------------------------------------------------


class Analytic(Strict):
    """A PDF of zfit."""

    type: str = Field(description="Name of the class in `zfit.pdf`, such as `Exponential`.")
    parameters: dict[str, Value | list[Value]] = Field(
        {}, description="Its arguments, by name: numbers, parameters, or expressions of parameters; or a list of them."
    )


class Sample(Strict):
    """A process in a channel: its density from `events`, a `model` file, or a `pdf`; and its yield."""

    name: FileName = Field(description="Name of the process.")
    label: str | None = Field(None, description="Text for plots and tables.")
    events: Events | None = Field(None, description="Simulated events, from which the density is learned.")
    model: Names | None = Field(
        None, description="A model file, as `zfit_fnf.save` writes it; or a list of those of all folds."
    )
    pdf: Analytic | None = Field(None, description="A PDF of zfit.")
    expected: Value | None = Field(
        None,
        alias="yield",
        description="Expected number of events at nominal parameters: a number, parameter or expression; by default the sum "
        "of the weights of the nominal events.",
    )
    modifiers: list[Modifier] = Field([], description="What the yield and the density depend on.")
    given: dict[str, Value] = Field(
        {},
        description="Columns of the simulated events on which the density is conditional, such as a generated mass, with the "
        "number or parameter where it is evaluated.",
    )

    @model_validator(mode="after")
    def _check(self) -> Sample:
        given = [name for name in ("events", "model", "pdf") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a sample has either events, model or pdf; got {given or 'none of them'}")
        if self.pdf is not None and self.expected is None:
            raise ValueError("a sample with a pdf needs its yield: a number, the name of a parameter, or an expression")
        if self.given and self.pdf is not None:
            raise ValueError("a sample with a pdf has no given conditions: write them into its parameters")
        if self.given and self.expected is None:
            raise ValueError(
                "a sample with given conditions needs its yield: the weights are those of events with all values"
            )
        return self

    def sources(self) -> list[Source]:
        """Where all of its simulated events are."""
        if self.events is None:
            return []
        return [self.events.nominal, *(one.source(self.events.nominal) for one in self.events.variations)]


class HistFactory(Strict):
    """Channels of a HistFactory workspace, evaluated by pyhf."""

    workspace: str | dict[str, Any] = Field(description="A pyhf workspace: its file, or the document itself.")
    channels: Names | None = Field(None, description="Which of its channels; by default all.")
    parameters: dict[str, str] = Field({}, description="Names of this document, by those in the workspace.")


class Channel(Strict):
    """A measurement: data, and the processes that they may come from."""

    name: FileName = Field(description="Name of the channel.")
    observables: dict[str, Observable] = Field({}, description="What is measured, by name of the column.")
    conditions: dict[str, Value] = Field(
        {}, description="What is `given` to all samples with events or a model, if they do not say otherwise."
    )
    data: Source | None = Field(None, description="Observed events.")
    samples: list[Sample] = Field([], description="The processes.")
    binned: bool = Field(
        False, description="Whether events are counted in the bins of the observable; templates are evaluated by pyhf."
    )
    histfactory: HistFactory | None = Field(None, description="In place of all of these: binned channels.")

    @model_validator(mode="before")
    @classmethod
    def _give(cls, content: Any) -> Any:
        """Conditions of the channel are given to its samples."""
        if not isinstance(content, dict) or not isinstance(conditions := content.get("conditions"), dict):
            return content
        samples = content.get("samples")
        if isinstance(samples, list):
            samples = [
                {**one, "given": {**conditions, **(one.get("given") or {})}}
                if isinstance(one, dict) and "pdf" not in one
                else one
                for one in samples
            ]
        return {**content, "samples": samples}

    @model_validator(mode="after")
    def _check(self) -> Channel:
        unbinned = [name for name in ("observables", "conditions", "data", "samples") if getattr(self, name)]
        if self.histfactory is not None and unbinned:
            raise ValueError(f"a channel with histfactory has no {', '.join(unbinned)}")
        missing = [name for name in ("observables", "data", "samples") if name not in unbinned]
        if self.histfactory is None and missing:
            raise ValueError(f"a channel needs {', '.join(missing)} (or histfactory)")
        if self.binned and (len(self.observables) != 1 or next(iter(self.observables.values())).bins is None):
            raise ValueError("a binned channel has one observable, with bins")
        if self.binned and any(one.model or one.given for one in self.samples):
            raise ValueError("samples of a binned channel have events or a pdf, and no model or given conditions")
        return self


# --- the rest ----------------------------------------------------------------------------------------------------------


class Function(Strict):
    """A function of parameters, to be used in expressions by its name."""

    name: Name = Field(description="Name of the function.")
    expression: Formula = Field(description="For instance `kappa_t * kappa_b`.")


class ParameterConfig(Strict):
    """Settings of a parameter, as in pyhf."""

    name: Name = Field(description="Name of the parameter.")
    inits: tuple[Number] | None = Field(None, description="Where fits start, in a list.")
    bounds: tuple[tuple[Number, Number]] | None = Field(
        None, description="Lowest and highest value, in a list of pairs."
    )
    fixed: bool = Field(False, description="Whether it is not fitted.")
    auxdata: tuple[Number] | None = Field(None, description="Outcome of the Gaussian measurement that constrains it.")
    sigmas: tuple[Positive] | None = Field(None, description="Standard deviation of that measurement.")
    label: str | None = Field(None, description="Text for plots and tables.")

    @model_validator(mode="after")
    def _check(self) -> ParameterConfig:
        if self.bounds is not None and not self.bounds[0][0] < self.bounds[0][1]:
            raise ValueError(f"bounds: the lower one comes first; got {list(self.bounds[0])}")
        if self.bounds is not None and self.inits is not None:
            (low, high), (start,) = self.bounds[0], self.inits
            if not low <= start <= high:
                raise ValueError(f"inits: {start:g} is not within the bounds {low:g} and {high:g}")
        if (self.auxdata is None) != (self.sigmas is None):
            raise ValueError("a measurement of the parameter has both auxdata and sigmas")
        return self


class Config(Strict):
    """Parameters of a measurement."""

    poi: Names = Field(description="The parameter of interest, or a list of them.")
    parameters: list[ParameterConfig] = Field([], description="Settings of parameters; others have their defaults.")


class Measurement(Strict):
    """Which parameters are of interest, and where they start."""

    name: str = Field(min_length=1, description="Name of the measurement.")
    config: Config = Field(description="Its parameters.")


class Training(Strict):
    """How densities are learned; what is not given has the default of the package."""

    seed: int = Field(1, ge=0, description="Seed of all trainings.")
    steps: int | None = Field(None, ge=1, description="Minibatch steps of the nominal densities.")
    response_steps: int | None = Field(None, ge=1, description="Minibatch steps of each response.")
    batch_size: int | None = Field(None, ge=1, description="Events of a step.")
    family: Literal["mixture", "spline"] = Field("mixture", description="Family of the densities.")
    n_layers: int = Field(1, ge=1, description="Layers of a density.")
    n_components: int | None = Field(None, ge=1, description="Components of the mixture, or bins of the spline.")
    hidden: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Widths of the hidden layers of nominal densities. Small ones are smooth in conditions: `[16, 16]` is the "
        "default of samples with `given`.",
    )
    order: int = Field(2, ge=1, le=3, description="Highest power of a nuisance.")
    mirror: bool = Field(False, description="Trust one-sided variations on the other side too.")
    folds: int = Field(
        1,
        ge=1,
        le=20,
        description="With two or more, so many densities of each process, each learned without a part of the events, which are "
        "averaged; for `calibrate`.",
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="Share of the events that no training sees, for `zfit-fnf validate`."
    )


class Blinding(Strict):
    """Parameters whose values are shown with a secret offset until `--unblind`."""

    parameters: Names = Field(description="Their names.")
    seal: str = Field("zfit_fnf", description="Text that the offsets are made of; another one, other offsets.")
    width: Positive = Field(1.0, description="Standard deviation of the offsets.")


class Document(Strict):
    """A workspace."""

    version: Literal[1] = Field(description="Of the format.")
    name: str = Field("analysis", description="Name of the analysis.")
    description: str = Field("", description="What is measured, in words.")
    channels: list[Channel] = Field(min_length=1, description="The measurements that are combined.")
    functions: list[Function] = Field([], description="Functions of parameters.")
    measurements: list[Measurement] = Field(min_length=1, description="The first one is used unless another is chosen.")
    groups: dict[str, list[str]] = Field({}, description="Nuisances by group, for the split of uncertainties.")
    training: Training = Field(Training(), description="How densities are learned.")
    calibrate: bool = Field(
        False,
        description="Whether simulated events that no training has seen correct the likelihood and add the error of finite "
        "simulation.",
    )
    blinding: Blinding | None = Field(None, description="What is hidden.")


def json_schema() -> dict[str, Any]:
    """The schema as a JSON Schema, for editors and other programs.

    Example:
        >>> json_schema()["title"]
        'Document'
    """
    return Document.model_json_schema(by_alias=True)

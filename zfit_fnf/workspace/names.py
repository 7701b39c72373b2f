"""What the names in a workspace refer to: every parameter with what it is, and an error for each name that nothing has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .binned import Kind, errors_of_bins, parameter_uses, settings_of
from .document import Place, Text, nearest
from .expressions import Expression, sorted_by_use
from .schema import (
    Channel,
    Document,
    Free,
    Lumi,
    Measurement,
    NormFactor,
    NormSys,
    ParameterConfig,
    Sample,
    Shape,
    Source,
)

__all__ = ["ANALYTIC", "Parameter", "check_files", "check_names", "measurement_of", "parameters_of"]

ANALYTIC: dict[str, tuple[str, ...]] = {
    "Bernstein": ("coeffs",),
    "BifurGauss": ("mu", "sigmal", "sigmar"),
    "Cauchy": ("m", "gamma"),
    "Chebyshev": ("coeffs",),
    "CrystalBall": ("mu", "sigma", "alpha", "n"),
    "DoubleCB": ("mu", "sigma", "alphal", "nl", "alphar", "nr"),
    "Exponential": ("lam",),
    "Gauss": ("mu", "sigma"),
    "GaussExpTail": ("mu", "sigma", "alpha"),
    "GeneralizedCB": ("mu", "sigmal", "alphal", "nl", "sigmar", "alphar", "nr"),
    "JohnsonSU": ("mu", "lambd", "gamma", "delta"),
    "Legendre": ("coeffs",),
    "LogNormal": ("mu", "sigma"),
    "StudentT": ("ndof", "mu", "sigma"),
    "Uniform": (),
    "Voigt": ("m", "sigma", "gamma"),
}
"""PDFs of zfit that a workspace can name, and the arguments that each needs; a uniform one has the range of its observable."""

_KINDS = {
    "factor": "a factor (normfactor)",
    "nuisance": "a nuisance (lnN, normsys or shape)",
    "lumi": "the luminosity (a nuisance)",
    "free": "a parameter without a modifier",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a workspace, in one measurement.

    Attributes:
        name: Its name.
        kind: ``"factor"``, ``"nuisance"``, ``"lumi"`` or ``"free"``: named by densities, yields and expressions only.
        settings: What the measurement says of it.
    """

    name: str
    kind: Kind
    settings: ParameterConfig


def measurement_of(document: Document, name: str | None) -> Measurement:
    """The measurement of this name, by default the first; with the settings of the first for parameters it does not name.

    Raises:
        ValueError: If there is no such measurement.
    """
    first = document.measurements[0]
    chosen = next((one for one in document.measurements if name in (None, one.name)), None)
    if chosen is None:
        raise ValueError(
            f"there is no measurement {name!r}{nearest(name, [one.name for one in document.measurements])}"
        )
    own = {one.name for one in chosen.config.parameters}
    further = [] if chosen is first else [one for one in first.config.parameters if one.name not in own]
    config = chosen.config.model_copy(update={"parameters": [*chosen.config.parameters, *further]})
    return chosen.model_copy(update={"config": config})


def parameters_of(document: Document, measurement: str | None = None) -> dict[str, Parameter]:
    """All parameters of a document, in the order in which they come, with their settings in a measurement."""
    settings: dict[str, ParameterConfig] = {}
    chosen = measurement_of(document, measurement)
    for channel in document.channels:
        settings.update(settings_of(channel.histfactory, chosen.name) if channel.histfactory else {})
    settings.update({one.name: one for one in chosen.config.parameters})
    found: dict[str, Kind] = {}
    for name, kind, _ in _uses(document):
        if kind != "free":
            found[name] = kind
    functions = {one.name for one in document.functions}
    for name, kind, _ in _uses(document):
        if name not in functions:
            found.setdefault(name, kind)
    return {name: Parameter(name, kind, settings.get(name, ParameterConfig(name=name))) for name, kind in found.items()}


def check_names(text: Text, document: Document) -> None:
    """Refuse names that refer to nothing, or to two things.

    Raises:
        WorkspaceError: Says which, where, and what is the nearest name that is known.
    """
    _check_distinct(text, document)
    _check_kinds(text, document)
    for place, channel in _channels(document):
        for index, sample in enumerate(channel.samples):
            _check_sample(text, sample, channel, (*place, "samples", index))
            if sample.given and document.calibrate:
                raise text.error(
                    (*place, "samples", index, "given"), "a density with given conditions is not calibrated"
                )
        if channel.data:
            _check_source(text, channel.data, (*place, "data"))
    _check_functions(text, document)
    _check_measurements(text, document)


def check_files(text: Text, document: Document, find: Callable[[Source], object]) -> None:
    """Refuse files that are not there.

    Args:
        text: The text of the document.
        document: The document.
        find: Finds the files of a source.

    Raises:
        WorkspaceError: Names the file and the place.
    """
    for place, source in sources_of(document):
        try:
            find(source)
        except (FileNotFoundError, ValueError) as error:
            raise text.error((*place, "file"), str(error)) from None


def sources_of(document: Document) -> Iterator[tuple[Place, Source]]:
    """Everything that is read from files of events, and where the document says so."""
    for place, channel in _channels(document):
        if channel.data:
            yield (*place, "data"), channel.data
        for index, sample in enumerate(channel.samples):
            if sample.events:
                events: Place = (*place, "samples", index, "events")
                yield (*events, "nominal"), sample.events.nominal
                for number, variation in enumerate(sample.events.variations):
                    yield (*events, "variations", number), variation.source(sample.events.nominal)


# --- what uses which name ----------------------------------------------------------------------------------------------


def _channels(document: Document) -> Iterator[tuple[Place, Channel]]:
    for index, channel in enumerate(document.channels):
        yield ("channels", index), channel


def _uses(document: Document) -> Iterator[tuple[str, Kind, Place]]:
    """Each use of a name of a parameter (or function), and what it takes it for."""
    for at, channel in _channels(document):
        if channel.histfactory is not None:
            for name, kind_there, _ in parameter_uses(channel.histfactory):
                yield name, kind_there, (*at, "histfactory")
        for index, sample in enumerate(channel.samples):
            place: Place = (*at, "samples", index)
            for number, modifier in enumerate(sample.modifiers):
                here = (*place, "modifiers", number)
                if isinstance(modifier, Free):
                    yield from _names(modifier.data, (*here, "data"))
                else:
                    kind: Kind = "nuisance"
                    if isinstance(modifier, (NormFactor, Lumi)):
                        kind = "factor" if isinstance(modifier, NormFactor) else "lumi"
                    yield modifier.name, kind, (*here, "name")
            yield from _names(sample.expected, (*place, "yield"))
            for name, value in sample.given.items():
                yield from _names(value, (*place, "given", name))
            for argument, values in (sample.pdf.parameters if sample.pdf else {}).items():
                for value in values if isinstance(values, list) else [values]:
                    yield from _names(value, (*place, "pdf", "parameters", argument))
    for index, function in enumerate(document.functions):
        yield from _names(function.expression, ("functions", index, "expression"))


def _names(value: float | str | None, place: Place) -> Iterator[tuple[str, Kind, Place]]:
    if isinstance(value, str):
        for name in Expression(value).names:
            yield name, "free", place


# --- checks ------------------------------------------------------------------------------------------------------------


def _check_distinct(text: Text, document: Document) -> None:
    lists: list[tuple[Place, list[str]]] = [
        (("channels",), [one.name for one in document.channels]),
        (("functions",), [one.name for one in document.functions]),
        (("measurements",), [one.name for one in document.measurements]),
    ]
    for place, channel in _channels(document):
        lists.append(((*place, "samples"), [one.name for one in channel.samples]))
    for index, measurement in enumerate(document.measurements):
        lists.append((("measurements", index, "config", "parameters"), [p.name for p in measurement.config.parameters]))
    for place, names in lists:
        for index, name in enumerate(names):
            if name in names[:index]:
                raise text.error(
                    (*place, index, "name"), f"the name {name!r} is taken already by [{names.index(name)}]"
                )


def _check_kinds(text: Text, document: Document) -> None:
    """One parameter is not two things."""
    known: dict[str, tuple[Kind, Place]] = {}
    functions = {one.name for one in document.functions}
    for name, kind, place in _uses(document):
        if kind == "free":
            continue
        before, where = known.setdefault(name, (kind, place))
        if before != kind:
            message = f"{name!r} is {_KINDS[kind]} here, but {_KINDS[before]} in {text.describe(where, '')[:-2]}"
            raise text.error(place, message)
        if name in functions:
            raise text.error(place, f"{name!r} is a function already: use it in a modifier of the type 'expression'")


def _check_functions(text: Text, document: Document) -> None:
    try:
        sorted_by_use({one.name: Expression(one.expression) for one in document.functions})
    except ValueError as error:
        raise text.error(("functions",), str(error)) from None


def _check_sample(text: Text, sample: Sample, channel: Channel, place: Place) -> None:
    for index, modifier in enumerate(sample.modifiers):
        here: Place = (*place, "modifiers", index)
        if (modifier.type, modifier.name) in [(one.type, one.name) for one in sample.modifiers[:index]]:
            raise text.error((*here, "name"), f"{modifier.type} {modifier.name!r} is given twice")
        yields = [one.name for one in sample.modifiers[:index] if one.type in ("lnN", "normsys")]
        if modifier.type in ("lnN", "normsys") and modifier.name in yields:
            raise text.error((*here, "name"), f"{modifier.name!r} changes the yield twice, by lnN and by normsys")
        _check_variations(text, sample, modifier, here)
    if taken := [name for name in sample.given if name in channel.observables]:
        raise text.error((*place, "given", taken[0]), f"{taken[0]!r} is an observable of the channel, and not given")
    if sample.events:
        _check_events(text, sample, place)
    if sample.pdf:
        _check_analytic(text, sample, channel, (*place, "pdf"))


def _check_variations(text: Text, sample: Sample, modifier: object, here: Place) -> None:
    """A modifier that is learned needs what it is learned from."""
    if not (isinstance(modifier, Shape) or (isinstance(modifier, NormSys) and modifier.data == "events")):
        return
    wanted = modifier.variation or modifier.name
    if sample.pdf:
        raise text.error(here, f"{wanted!r} cannot be learned from events: the sample has a pdf")
    if sample.events and wanted not in sample.events.nuisances:
        hint = nearest(wanted, sample.events.nuisances)
        raise text.error((*here, "name"), f"no variation of the events has {wanted!r} away from zero{hint}")
    if (
        isinstance(modifier, NormSys)
        and sample.events
        and not any(set(v.at) == {wanted} for v in sample.events.variations)
    ):
        raise text.error((*here, "name"), f"no variation of the events moves {wanted!r} alone")


def _check_events(text: Text, sample: Sample, place: Place) -> None:
    assert sample.events is not None
    learned = [m for m in sample.modifiers if isinstance(m, Shape) or (isinstance(m, NormSys) and m.data == "events")]
    used = {modifier.variation or modifier.name for modifier in learned}
    _check_source(text, sample.events.nominal, (*place, "events", "nominal"))
    for index, variation in enumerate(sample.events.variations):
        here: Place = (*place, "events", "variations", index)
        if unused := [name for name in variation.at if name not in used]:
            raise text.error(
                (*here, "at"),
                f"nothing uses the variations of {unused[0]!r}: add modifiers {{name: {unused[0]}, type: shape}} for the "
                f"distribution, and {{name: {unused[0]}, type: normsys, data: events}} for the yield",
            )
        if zero := [name for name, value in variation.at.items() if value == 0]:
            raise text.error((*here, "at"), f"{zero[0]!r} is at 0; name only the nuisances that move")
        if variation.at in [other.at for other in sample.events.variations[:index]]:
            raise text.error((*here, "at"), f"there are two variations at {dict(variation.at)}")
        if not variation.model_fields_set - {"at"}:
            raise text.error(
                here, "a variation needs other events than the nominal ones: file, tree, columns, weights ..."
            )
        _check_source(text, variation.source(sample.events.nominal), here)


def _check_source(text: Text, source: Source, place: Place) -> None:
    try:
        sorted_by_use({name: Expression(value) for name, value in source.columns.items()}, itself=True)
    except ValueError as error:
        raise text.error((*place, "columns"), str(error)) from None
    if isinstance(source.scale, str) and (names := Expression(source.scale).names):
        raise text.error((*place, "scale"), f"scale is made of numbers; {names[0]!r} is none")


def _check_analytic(text: Text, sample: Sample, channel: Channel, place: Place) -> None:
    assert sample.pdf is not None
    if sample.pdf.type not in ANALYTIC:
        hint = nearest(sample.pdf.type, ANALYTIC)
        raise text.error((*place, "type"), f"{sample.pdf.type!r} is not a PDF that a workspace knows{hint}")
    needed, given = ANALYTIC[sample.pdf.type], sample.pdf.parameters
    for name in given:
        if name not in needed:
            hint = nearest(name, needed) or ": its range is that of the observable, and it has no parameters"
            raise text.error((*place, "parameters", name), f"{sample.pdf.type} has no {name!r}{hint}")
    if missing := [name for name in needed if name not in given]:
        raise text.error(place, f"{sample.pdf.type} needs {', '.join(missing)} in parameters")
    if wrong := [n for n, value in given.items() if isinstance(value, list) != (n == "coeffs")]:
        raise text.error((*place, "parameters", wrong[0]), "coeffs is a list, and other arguments are none")
    if len(channel.observables) > 1 and sample.pdf.type != "Uniform":
        raise text.error(place, f"{sample.pdf.type} has one observable; the channel has {list(channel.observables)}")


def _check_measurements(text: Text, document: Document) -> None:
    _check_agreement(text, document)
    every = parameters_of(document)
    _check_declared(text, document, every, [one.name for one in document.functions])
    for index, measurement in enumerate(document.measurements):
        place: Place = ("measurements", index, "config")
        for number, settings in enumerate(measurement.config.parameters):
            if settings.name not in every:
                raise text.error(
                    (*place, "parameters", number, "name"),
                    f"nothing depends on a parameter {settings.name!r}{nearest(settings.name, every)}",
                )
        for poi in measurement.config.poi:
            if poi not in every:
                raise text.error((*place, "poi"), f"there is no parameter {poi!r}{nearest(poi, every)}")
            if poi in every and every[poi].kind in ("nuisance", "lumi"):
                raise text.error((*place, "poi"), f"{poi!r} is {_KINDS[every[poi].kind]}, which is not of interest")
    for group, members in document.groups.items():
        for name in members:
            if name not in every:
                raise text.error(("groups", group), f"there is no parameter {name!r}{nearest(name, every)}")
    for name in document.blinding.parameters if document.blinding else []:
        if name not in every:
            raise text.error(("blinding", "parameters"), f"there is no parameter {name!r}{nearest(name, every)}")
        if every[name].kind in ("nuisance", "lumi"):
            raise text.error(
                ("blinding", "parameters"), f"{name!r} is {_KINDS[every[name].kind]}, which is not blinded"
            )


def _check_agreement(text: Text, document: Document) -> None:
    """Channels of pyhf measure and fix the parameters that they share alike, unless the measurement says what is meant.

    Errors of bins they do not share: parameters of one name would be one.
    """
    errors: dict[str, str] = {}
    for at, channel in _channels(document):
        for name in sorted(errors_of_bins(channel.histfactory)) if channel.histfactory is not None else ():
            if (other := errors.setdefault(name, channel.name)) != channel.name:
                raise text.error(
                    (*at, "histfactory"),
                    f"the errors {name!r} of bins are also those of channel {other!r}, and would fluctuate together: give them "
                    "another name in one of the workspaces of pyhf, or take both channels from one (channels: [...])",
                )
    for measurement in document.measurements:
        settled = {one.name for one in measurement_of(document, measurement.name).config.parameters}
        known: dict[str, tuple[object, str]] = {}
        for at, channel in ((at, one) for at, one in _channels(document) if one.histfactory is not None):
            assert channel.histfactory is not None
            says = settings_of(channel.histfactory, measurement.name)
            for name in sorted({name for name, _, _ in parameter_uses(channel.histfactory)} - settled):
                one = says.get(name, ParameterConfig(name=name))
                found = (one.auxdata, one.sigmas, one.fixed)
                before, other = known.setdefault(name, (found, channel.name))
                if found != before:
                    raise text.error(
                        (*at, "histfactory"),
                        f"{name!r} is measured or fixed otherwise than in channel {other!r} (auxdata, sigmas, fixed: {found}, "
                        f"and {before}): the measurement {measurement.name!r} has to say which is meant",
                    )


def _check_declared(text: Text, document: Document, every: dict[str, Parameter], functions: list[str]) -> None:
    """Parameters of densities and yields have no default, and a luminosity is measured."""
    for name, kind, place in _uses(document):
        if name in functions:
            continue
        known, settings = every[name].kind, every[name].settings
        if known == "free" and settings.inits is None and settings.auxdata is None:
            declared = [one.name for one in document.measurements[0].config.parameters]
            hint = nearest(name, [*declared, *functions, *(one for one in every if every[one].kind != "free")])
            raise text.error(
                place, f"{name!r} is no modifier, and the measurement says not where it starts (inits: [...]){hint}"
            )
        if kind == "lumi" and settings.auxdata is None:
            raise text.error(
                place, f"the measurement does not say how well {name!r} is known: auxdata: [1.0] and sigmas: [...]"
            )
        if known == "nuisance" and settings.sigmas not in (None, (1.0,)):
            raise text.error(
                place, f"{name!r} is a nuisance, which is measured as 0 +- 1: it has no other sigmas than 1"
            )

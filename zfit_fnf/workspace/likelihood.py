"""Parameters, densities and yields of a workspace, made into objects of zfit and of this package."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.constraint import BaseConstraint

from ..densities.deformation import YieldRatio
from ..param import nuisance
from ..pdf import FNFPDF, FlowPDF, FoldedPDF, SumPDF
from ..samples import Simulation
from ..yields import lnN, modified_yield, normsys
from .events import read_simulation, yield_ratios
from .expressions import Expression, sorted_by_use
from .names import Parameter
from .schema import Analytic, Channel, Factors, Free, LnN, Lumi, NormFactor, NormSys, Sample, Shape

__all__ = ["Learned", "Parameters", "channel_pdf", "counted_pdf", "pdf_name"]


@dataclass(frozen=True, eq=False)
class Learned:
    """What training has made of the events of a sample.

    Attributes:
        density: The flow or deformation.
        expected: Sum of the weights of the nominal events.
        rates: Ratio of the sum of weights of variations to it, by nuisance.
    """

    density: Any
    expected: float | None
    rates: Mapping[str, YieldRatio] = field(default_factory=dict)


class Parameters:
    """The parameters of a workspace as zfit knows them, each made once, and the constraints of those that are measured.

    Args:
        parameters: What the document says of them.
        functions: The functions of the document.
    """

    def __init__(self, parameters: Mapping[str, Parameter], functions: Mapping[str, Expression]):
        self.by_name: dict[str, zfit.Parameter] = {}
        self.constraints: list[BaseConstraint] = []
        self.luminosity = {
            one.name: (one.settings.auxdata[0], one.settings.sigmas[0])
            for one in parameters.values()
            if one.kind == "lumi" and one.settings.auxdata and one.settings.sigmas
        }
        self._functions = {name: functions[name] for name in sorted_by_use(functions) if name in functions}
        for parameter in parameters.values():
            self.by_name[parameter.name] = self._make(parameter)

    def __getitem__(self, name: str) -> zfit.Parameter:
        return self.by_name[name]

    def _make(self, parameter: Parameter) -> zfit.Parameter:
        settings = parameter.settings
        start = settings.inits[0] if settings.inits else None
        bounds = settings.bounds[0] if settings.bounds else None
        if parameter.kind in ("nuisance", "lumi"):
            # Settings of a luminosity are in its own units, and the nuisance counts standard deviations.
            centre, width = self.luminosity.get(parameter.name, (0.0, 1.0))
            low, high = ((one - centre) / width for one in bounds or (centre - 5.0 * width, centre + 5.0 * width))
            made: zfit.Parameter = nuisance(parameter.name, limits=(low, high), label=settings.label)
            made.set_value(0.0 if start is None else (start - centre) / width)
            if parameter.kind == "nuisance" and settings.auxdata:
                made.observed.set_value(settings.auxdata[0])
        else:
            measured = settings.auxdata[0] if settings.auxdata else None
            start = next(one for one in (start, measured, 1.0) if one is not None)
            if parameter.kind == "factor" and bounds is None:
                bounds = (0.0, 10.0)
            made = zfit.Parameter(parameter.name, start, *(bounds or (None, None)), label=settings.label)
            if measured is not None and settings.sigmas:
                self._constrain(made, measured, settings.sigmas[0])
        if settings.fixed:
            made.floating = False
        return made

    def _constrain(self, parameter: zfit.Parameter, measured: float, sigma: float) -> None:
        observed = zfit.Parameter(f"{parameter.name}_observed", measured, floating=False)
        self.constraints.append(zfit.constraint.GaussianConstraint(parameter, observation=observed, sigma=sigma))

    def evaluator(self, text: str) -> tuple[tuple[zfit.Parameter, ...], Callable[..., tf.Tensor]]:
        """Parameters that an expression depends on, by way of functions too, and the expression as a function of their values."""
        expression, wanted = Expression(text), list(Expression(text).names)
        for one in wanted:
            wanted += (
                [name for name in self._functions[one].names if name not in wanted] if one in self._functions else []
            )
        params = tuple(self.by_name[name] for name in dict.fromkeys(wanted) if name not in self._functions)

        def value(*values: tf.Tensor) -> tf.Tensor:
            known: dict[str, Any] = {one.name: at for one, at in zip(params, values, strict=True)}
            for name, function in self._functions.items():
                if name in wanted:
                    known[name] = function(known, tf.math)
            return tf.convert_to_tensor(expression(known, tf.math), tf.float64)

        return params, value

    def value(self, given: float | str) -> Any:
        """A number, a parameter, or an expression of parameters as a composed one."""
        if not isinstance(given, str):
            return given
        if given in self.by_name:
            return self.by_name[given]
        params, value = self.evaluator(given)
        if not params:
            return float(value())
        name = f"expression_{next(_numbers)}"
        composed: zfit.Parameter = zfit.ComposedParameter(
            name,
            lambda known: value(*(known[one.name].value() for one in params)),
            params={one.name: one for one in params},
            unpack_params=False,
            label=given,
        )
        return composed


_numbers = itertools.count()


class ExpressionModifier:
    """A factor on a yield that is an expression of parameters.

    Args:
        text: The expression.
        parameters: The parameters.
    """

    def __init__(self, text: str, parameters: Parameters):
        self._text = text
        self._params, self._value = parameters.evaluator(text)

    @property
    def params(self) -> tuple[zfit.Parameter, ...]:
        """The parameters that it depends on."""
        return self._params

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        """The factor at values of the parameters."""
        return self._value(*values)

    def to_dict(self) -> dict[str, Any]:
        """Its ``type`` and the ``expression``."""
        return {"type": "expression", "expression": self._text}


@dataclass(frozen=True, eq=False)
class AsymmetricLnN:
    """Log-normal uncertainty with different factors on the two sides, smooth between half a standard deviation as in combine.

    Attributes:
        nuisance: The nuisance.
        down: Factor at -1 standard deviation.
        up: Factor at +1 standard deviation.
    """

    nuisance: zfit.Parameter
    down: float
    up: float

    @property
    def params(self) -> tuple[zfit.Parameter, ...]:
        """The nuisance."""
        return (self.nuisance,)

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        """The factor at a value of the nuisance."""
        (nu,), low, high = values, -math.log(self.down), math.log(self.up)
        t = tf.clip_by_value(2.0 * nu, -1.0, 1.0)
        step = 0.125 * t * (t**2 * (3.0 * t**2 - 10.0) + 15.0)
        return tf.exp(nu * 0.5 * ((high + low) + step * (high - low)))

    def to_dict(self) -> dict[str, Any]:
        """Its ``type``, the ``nuisance`` by name, and the factors ``down`` and ``up``."""
        return {"type": "lnN", "nuisance": self.nuisance.name, "down": self.down, "up": self.up}


@dataclass(frozen=True, eq=False)
class Luminosity:
    """The luminosity relative to the nominal one, as pyhf has it, in terms of a nuisance that counts standard deviations.

    Attributes:
        nuisance: The nuisance.
        measured: The outcome of its measurement.
        sigma: The standard deviation of that.
    """

    nuisance: zfit.Parameter
    measured: float
    sigma: float

    @property
    def params(self) -> tuple[zfit.Parameter, ...]:
        """The nuisance."""
        return (self.nuisance,)

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        """The factor at a value of the nuisance."""
        return self.measured + self.sigma * values[0]

    def to_dict(self) -> dict[str, Any]:
        """Its ``type``, the ``nuisance`` by name, and the numbers."""
        return {"type": "lumi", "nuisance": self.nuisance.name, "auxdata": self.measured, "sigma": self.sigma}


def channel_pdf(channel: Channel, parameters: Parameters, learned: Mapping[str, Sequence[Learned]]) -> zfit.pdf.BasePDF:
    """The extended density of a channel: the sum of its samples, and the average of its folds.

    Args:
        channel: The channel.
        parameters: All parameters of the workspace.
        learned: What was learned from events, by sample: one density, or one for each fold.

    Raises:
        ValueError: If samples have different numbers of folds.
    """
    folds = sorted({len(one) for one in learned.values()} - {1}) or [1]
    if len(folds) > 1:
        raise ValueError(
            f"the samples of channel {channel.name!r} have models of {' and '.join(map(str, folds))} folds"
        )
    models = []
    for fold in range(folds[0]):
        of_fold = {name: one[fold] if len(one) > 1 else one[0] for name, one in learned.items()}
        pdfs = [_sample_pdf(sample, channel, parameters, of_fold.get(sample.name)) for sample in channel.samples]
        models.append(SumPDF(pdfs, name=channel.name) if len(pdfs) > 1 else pdfs[0])
    return FoldedPDF(models, name=channel.name) if len(models) > 1 else models[0]


def space_of(channel: Channel) -> zfit.Space:
    """The observables of a channel with their ranges."""
    spaces = [zfit.Space(name, *one.range) for name, one in channel.observables.items()]
    space = spaces[0]
    for one in spaces[1:]:
        space = space * one
    return space


def counted_pdf(channel: Channel, parameters: Parameters, folder: Path, *, statistics: bool) -> zfit.pdf.BaseBinnedPDF:
    """The expected counts of a binned channel, with the yields of its samples.

    Args:
        channel: The channel.
        parameters: All parameters of the workspace.
        folder: What paths of events are relative to.
        statistics: Whether statistical errors of the simulation are nuisances.
    """
    from .counted import CountedPDF, shape_templates

    ((name, observable),) = channel.observables.items()
    assert observable.bins is not None
    binning = zfit.binned.RegularBinning(observable.bins, *observable.range, name=name)
    simulations, yields, densities = {}, [], []
    for sample in channel.samples:
        if sample.events is None:
            densities.append(_sample_pdf(sample, channel, parameters, None))
            continue
        what = f"{sample.name} in {channel.name}"
        simulation = read_simulation(sample.events, (name,), folder, what)
        learned = Learned(None, simulation.nominal.sum_weights, _rates_of(sample, simulation))
        yields.append((sample.name, _yield(sample, parameters, learned)))
        nominal = _nominal(sample, parameters, learned)
        start = float(nominal.value() if hasattr(nominal, "value") else nominal)
        simulations[sample.name] = sample, simulation, start if start > 0 else simulation.nominal.sum_weights
    templates = None
    if simulations:
        edges = np.asarray(binning.edges)
        templates = shape_templates(channel.name, edges, simulations, parameters.by_name, statistics=statistics)
        order = templates.histfactory.config.samples
        yields = sorted(yields, key=lambda one: order.index(one[0]))
    space = zfit.Space(name, binning=binning)
    return CountedPDF(space, templates, [one for _, one in yields], densities, channel.name)


def _rates_of(sample: Sample, simulation: Simulation) -> dict[str, YieldRatio]:
    from_events = [m for m in sample.modifiers if isinstance(m, NormSys) and m.data == "events"]
    names = [one.variation or one.name for one in from_events]
    found = yield_ratios(names, simulation, sample.name)
    return {name: YieldRatio(up=one["hi"], down=one["lo"]) for name, one in found.items()}


def pdf_name(channel: Channel, sample: Sample) -> str:
    """What the density of a sample is called; its label is the name of the process."""
    return f"{channel.name}.{sample.name}" if len(channel.samples) > 1 else channel.name


def _sample_pdf(sample: Sample, channel: Channel, parameters: Parameters, learned: Learned | None) -> zfit.pdf.BasePDF:
    # The density of a channel has its name, and labels are those of processes.
    name = pdf_name(channel, sample)
    texts: dict[str, Any] = {"name": name, "label": sample.label or sample.name}
    expected = _yield(sample, parameters, learned)
    if sample.pdf is not None:
        return _analytic(sample.pdf, channel, parameters, extended=expected, **texts)
    assert learned is not None
    density, space = learned.density, space_of(channel)
    texts["given"] = {one: parameters.value(value) for one, value in sample.given.items()}
    nuisances = getattr(density, "nuisances", ())
    if not nuisances:
        return FlowPDF(getattr(density, "flow", density), obs=space, extended=expected, **texts)
    bound = {one.variation or one.name: parameters[one.name] for one in sample.modifiers if isinstance(one, Shape)}
    if set(bound) != set(nuisances):
        raise ValueError(
            f"the model of sample {sample.name!r} in channel {channel.name!r} has the nuisances {list(nuisances)}, and the "
            f"document the modifiers of type shape {list(bound)}: train again, or name them in the document"
        )
    return FNFPDF(density, params=bound, obs=space, extended=expected, **texts)


def _analytic(analytic: Analytic, channel: Channel, parameters: Parameters, **settings: Any) -> zfit.pdf.BasePDF:
    space = space_of(channel)
    if analytic.type == "Uniform":
        pdfs = [zfit.pdf.Uniform(*one.range, obs=zfit.Space(o, *one.range)) for o, one in channel.observables.items()]
        if len(pdfs) > 1:
            return zfit.pdf.ProductPDF(pdfs, **settings)
        low, high = next(iter(channel.observables.values())).range
        return zfit.pdf.Uniform(low, high, obs=space, **settings)
    arguments = {
        name: [parameters.value(one) for one in value] if isinstance(value, list) else parameters.value(value)
        for name, value in analytic.parameters.items()
    }
    return getattr(zfit.pdf, analytic.type)(obs=space, **arguments, **settings)


def _nominal(sample: Sample, parameters: Parameters, learned: Learned | None) -> Any:
    """The yield of a sample before its modifiers, a number or a parameter."""
    expected = sample.expected if sample.expected is not None else (learned.expected if learned else None)
    if expected is None:
        raise ValueError(f"the model file of sample {sample.name!r} does not know its yield: give it as yield:")
    return parameters.value(expected)


def _yield(sample: Sample, parameters: Parameters, learned: Learned | None) -> Any:
    factors = [_factor(one, parameters, learned) for one in sample.modifiers if not isinstance(one, Shape)]
    nominal = _nominal(sample, parameters, learned)
    if isinstance(nominal, zfit.ComposedParameter):
        nominal, factors = 1.0, [ExpressionModifier(str(sample.expected), parameters), *factors]
    return modified_yield(nominal, factors)


def _factor(modifier: Any, parameters: Parameters, learned: Learned | None) -> Any:
    match modifier:
        case NormFactor(name=name):
            return parameters[name]
        case Lumi(name=name):
            return Luminosity(parameters[name], *parameters.luminosity[name])
        case LnN(name=name, data=(down, up)):
            return AsymmetricLnN(parameters[name], down, up)
        case LnN(name=name, data=float(kappa)):
            return lnN(parameters[name], kappa)
        case NormSys(name=name, data=Factors(lo=lo, hi=hi)):
            return normsys(parameters[name], down=lo, up=hi)
        case NormSys(name=name):
            wanted = modifier.variation or name
            rates = {} if learned is None else learned.rates
            if wanted not in rates:
                raise ValueError(f"the yields of the variations of {wanted!r} are not known: train the workspace")
            return normsys(parameters[name], rates[wanted])
        case Free(data=text):
            return ExpressionModifier(text, parameters)
    raise TypeError(f"unknown modifier {modifier!r}")

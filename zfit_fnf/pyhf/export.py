r"""Channels as a pyhf workspace: unbinned ones by their projection on bins, with its variations, binned ones as they are.

Each component of a model becomes a sample. A nuisance becomes a ``normsys`` and a ``histosys`` of one name, from the predictions
with the nuisance at -1 and +1; so does a parameter that a Gaussian constraint measures. A free parameter that yields are
proportional to becomes a ``normfactor`` with the same values. HistFactory knows no others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pyhf

from ..common.warning import warn
from ..loss import BinnedChannel, EventDensity, LogSpaceNLL, ModelConstraint, UnbinnedChannel, channels_of, drawn_events
from ..param import Nuisance, NuisanceConstraint, auxiliary_measurement, limits_of
from ..pdf import expected_events, folds_of, sum_components, sum_shares
from ..state import preserved, seeds_from
from .bins import bin_rule, points_in
from .pdf import HistFactoryPDF

__all__ = ["Projected", "export", "project", "sample"]

Bins = Mapping[str, Sequence[float]]


@dataclass(frozen=True, eq=False)
class Projected:
    """A likelihood in bins.

    Attributes:
        document: The pyhf workspace.
        fixed: Values of free parameters that HistFactory has no counterpart of, by name: the templates are made there.
        notes: What else is not exactly the same, in words.
    """

    document: dict[str, Any]
    fixed: dict[str, float]
    notes: list[str] = field(default_factory=list)


def export(
    nll: LogSpaceNLL,
    bins: Bins | Sequence[Bins],
    *,
    poi: zfit.Parameter | str | None = None,
    names: Sequence[str] | None = None,
    n_events: int = 1_000_000,
    seed: int = 0,
) -> pyhf.Workspace:
    """A pyhf workspace of a likelihood, with its data; unbinned channels are filled into bins.

    Models of one observable are integrated over the bins. Others are projected by ``n_events`` drawn events of each component,
    the same for all variations. Events outside of the bins do not enter.

    Args:
        nll: The likelihood; its models are extended. Templates are made with all nuisances at zero.
        bins: Edges by the column that is filled; one mapping for all channels, or one for each (an empty one if it is binned).
        poi: The parameter of interest; by default the first free parameter.
        names: Names of the channels; by default those of the models. Channels of pyhf keep their own.
        n_events: Events for each component of a model of several observables.
        seed: Seed of the events.

    Raises:
        ValueError: If a channel is binned otherwise than by pyhf, or has no yield; if a model depends on a free parameter in
            another way than by a yield that is proportional to it, which HistFactory does not know; if channels disagree on the
            measurement of a parameter.

    Warns:
        UserWarning: Of what a workspace does not hold, such as codes of interpolation, or holds otherwise.

    Example:
        >>> workspace = export(nll, {"mass": np.linspace(50, 150, 21)}, poi=mu)
        >>> pathlib.Path("binned.json").write_text(json.dumps(workspace))
    """
    found = project(nll, bins, poi=poi, names=names, n_events=n_events, seed=seed)
    if found.fixed:
        name = next(iter(found.fixed))
        raise ValueError(
            f"the likelihood depends on {name!r} in another way than by yields that are proportional to it: fix the parameter, "
            "or replace it by a nuisance"
        )
    for note in found.notes:
        warn(note)
    return pyhf.Workspace(found.document)


def project(
    nll: LogSpaceNLL,
    bins: Bins | Sequence[Bins],
    *,
    poi: zfit.Parameter | str | None = None,
    names: Sequence[str] | None = None,
    n_events: int = 1_000_000,
    seed: int = 0,
) -> Projected:
    """As `export`, but free parameters that HistFactory has no counterpart of are left where they are, and listed."""
    channels = channels_of(nll)
    each = [bins] * len(channels) if isinstance(bins, Mapping) else list(bins)
    labels = [channel.model.name for channel in channels] if names is None else list(names)
    if not len(channels) == len(each) == len(labels) == len(set(labels)):
        raise ValueError(
            f"{len(channels)} channels need as many bins= and different names=; got {len(each)} and {labels}"
        )
    seeds, effects = seeds_from(seed), _effects(nll)
    with preserved(nll):
        zfit.param.set_values({one: centre for one, (centre, *_) in effects.items()})
        parts = [_part(*one, n_events, seeds) for one in zip(channels, labels, each, strict=True)]
        filled = [one for one in parts if isinstance(one, _Filled)]
        fixed = {one.name: float(one.value()) for part in filled for one in part.others(effects)}
        settings: dict[str, dict[str, Any]] = {}
        made = {part.name: [part.channel(effects, fixed, settings)] for part in filled}
        notes: list[str] = []
        of_filled, measured = set(settings), dict[str, Any]()
        for part in (one for one in parts if isinstance(one, _OfPyhf)):
            made[part.name] = part.channels(effects, of_filled, notes)
            for name, one in part.settings(effects, fixed, notes).items():
                says = {kind: one[kind] for kind in ("auxdata", "sigmas") if kind in one}
                if name not in of_filled and measured.setdefault(name, says) != says:
                    raise ValueError(
                        f"channel {part.name!r} has another measurement of {name!r} than one before, {says} and "
                        f"{measured[name]}: HistFactory has one of each parameter"
                    )
                settings.setdefault(name, one)
        counts = {name: found for part in parts for name, found in part.observed.items()}
    free = next((one["name"] for one in settings.values() if "inits" in one and not one.get("fixed")), "")
    config = {"poi": getattr(poi, "name", poi) or free, "parameters": list(settings.values())}
    document = {
        "version": "1.0.0",
        "channels": [channel for part in parts for channel in made[part.name]],
        "observations": [{"name": name, "data": found.tolist()} for name, found in counts.items()],
        "measurements": [{"name": "measurement", "config": config}],
    }
    return Projected(document, fixed, list(dict.fromkeys(notes)))


def sample(
    name: str,
    nominal: Sequence[float],
    variations: Mapping[str, tuple[Sequence[float], Sequence[float] | None]],
    *,
    factors: Sequence[str] = (),
    errors: Sequence[float] | None = None,
    region: str = "",
) -> dict[str, Any]:
    """A sample of a HistFactory channel from histograms.

    Args:
        name: Name of the sample.
        nominal: Expected counts.
        variations: Counts at +1 and -1 standard deviation of each nuisance, of which the change of the sum becomes a ``normsys``,
            and the rest a ``histosys``; one that has no -1 is mirrored, ``2 nominal - up``.
        factors: Names of free parameters that multiply it.
        errors: Statistical errors of the counts, a ``staterror`` with the name ``staterror_<region>``.
        region: Name of the channel, for ``errors``.

    Example:
        >>> sample("ttbar", counts, {"btag": (up, down), "me": (other_generator, None)}, factors=["mu"])
    """
    counts = np.asarray(nominal, float)
    modifiers: list[dict[str, Any]] = [{"name": one, "type": "normfactor", "data": None} for one in factors]
    for nuisance, (up, down) in variations.items():
        hi = np.asarray(up, float)
        lo = 2 * counts - hi if down is None else np.asarray(down, float)
        if not (total := counts.sum()) > 0 or not hi.sum() > 0 or not lo.sum() > 0:
            raise ValueError(
                f"{name!r} has no counts, nominally or with {nuisance!r} at -1 or +1: leave the variation out"
            )
        norms, shapes = [side.sum() / total for side in (hi, lo)], [side * total / side.sum() for side in (hi, lo)]
        modifiers.append({"name": nuisance, "type": "normsys", "data": {"hi": norms[0], "lo": norms[1]}})
        if not np.allclose(shapes, counts, rtol=1e-9):
            data = {"hi_data": shapes[0].tolist(), "lo_data": shapes[1].tolist()}
            modifiers.append({"name": nuisance, "type": "histosys", "data": data})
    if errors is not None:
        data = np.asarray(errors, float).tolist()
        modifiers.append({"name": f"staterror_{region}", "type": "staterror", "data": data})
    return {"name": name, "data": counts.tolist(), "modifiers": modifiers}


# --- what the likelihood depends on --------------------------------------------------------------------------------------

Effects = Mapping[zfit.Parameter, tuple[float, float, float, float]]
"""Centre and width of parameters that are measured; the outcome and their value from there in widths. Templates are at the
centre, and the width away from it."""


def _effects(nll: LogSpaceNLL) -> dict[zfit.Parameter, tuple[float, float, float, float]]:
    """The nuisances, and what Gaussian constraints measure."""
    every = nll.get_params(floating=None)
    found = {one: (0.0, 1.0, float(one.observed.value())) for one in every if isinstance(one, Nuisance)}
    outcomes: dict[zfit.Parameter, list[tuple[float, float]]] = {}
    for constraint in nll.constraints:
        if isinstance(constraint, ModelConstraint):  # what models of pyhf bring stays in them
            continue
        is_gaussian = isinstance(constraint, (NuisanceConstraint, zfit.constraint.GaussianConstraint))
        covariance = np.asarray(constraint.covariance) if is_gaussian else np.ones((2, 2))
        if np.any(covariance != np.diag(np.diag(covariance))):
            names = sorted(one.name for one in constraint.get_params(floating=None))
            raise ValueError(f"HistFactory has independent Gaussians, and no {type(constraint).__name__} of {names}")
        measured = auxiliary_measurement(constraint)
        for parameter, outcome, width in zip(
            measured.measured, measured.observed, np.sqrt(np.diag(covariance)), strict=True
        ):
            known = float(zfit.convert_to_parameter(outcome).value()), float(width)
            outcomes.setdefault(parameter, []).append(known)
            if not isinstance(constraint, NuisanceConstraint):
                found[parameter] = (*known, 0.0)
    for parameter, several in outcomes.items():
        if len(several) > 1:  # their average is as good
            values, widths = np.transpose(several)
            centre, weight = np.average(values, weights=widths**-2.0, returned=True)
            found[parameter] = (float(centre), float(weight) ** -0.5, 0.0)
    return {one: (*known, (float(one.value()) - known[0]) / known[1]) for one, known in found.items()}


class _Filled:
    """Expected counts of each component of a channel in bins, at the current parameters.

    Attributes:
        name: Name of the channel.
        components: Names of the components.
        params: What they depend on.
        observed: The data, by name of the channel.
    """

    name: str
    components: list[str]
    params: list[zfit.Parameter]
    observed: dict[str, np.ndarray]

    def counts(self, index: int) -> np.ndarray:
        """Expected counts of a component."""
        raise NotImplementedError

    def others(self, effects: Effects) -> list[zfit.Parameter]:
        """Free parameters that something depends on in another way than by a factor."""
        free = [one for one in self.params if one.floating and one not in effects]
        return [one for one in free if any(self._is_factor(k, one) is False for k in range(len(self.components)))]

    def channel(self, effects: Effects, fixed: Collection[str], settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The channel of pyhf; what a measurement says of its parameters is added to the settings."""
        samples = [self._sample(k, effects, fixed, settings) for k in range(len(self.components))]
        return {"name": self.name, "samples": samples}

    def _sample(
        self, index: int, effects: Effects, fixed: Collection[str], settings: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        free = [one for one in self.params if one.floating and one not in effects and one.name not in fixed]
        factors = [one for one in free if self._is_factor(index, one)]
        settings.update({one.name: settings.get(one.name, _of_factor(one)) for one in factors})
        away = {one: _away_from_zero(one)[0] for one in factors}
        with zfit.param.set_values(away):
            scale, variations = np.prod(list(away.values())), {}
            nominal = self.counts(index) / scale
            for parameter, (centre, width, *place) in effects.items():
                if parameter not in self.params:
                    continue
                sides = []
                for value in (centre + width, centre - width):
                    with zfit.param.set_values({parameter: value}):
                        sides.append(self.counts(index) / scale)
                if not np.allclose(sides, nominal, rtol=1e-12, atol=0.0):
                    variations[parameter.name] = (sides[0], sides[1])
                    settings[parameter.name] = _of_effect(parameter, *place)
        return sample(self.components[index], nominal, variations, factors=[one.name for one in factors])

    def _is_factor(self, index: int, parameter: zfit.Parameter) -> bool | None:
        """Whether the counts of a component are proportional to a parameter; nothing if they do not depend on it."""
        first, second = _away_from_zero(parameter)
        with zfit.param.set_values({parameter: first}):
            one = self.counts(index)
        with zfit.param.set_values({parameter: second}):
            other = self.counts(index)
        if np.allclose(one, other, rtol=1e-12, atol=0.0):
            return None
        return bool(np.max(np.abs(other * first - one * second)) < 1e-6 * np.max(np.abs(one * second)))


class _Projection(_Filled):
    """The projection of an unbinned model.

    Args:
        channel: The channel.
        name: What it is called.
        bins: Edges by the column.
        n_events: Events of each component, for a model of several observables.
        seeds: Seeds of events.
    """

    def __init__(self, channel: UnbinnedChannel, name: str, bins: Bins, n_events: int, seeds: Iterator[Any]):
        model = channel.model
        if len(bins) != 1 or next(iter(bins)) not in model.obs:
            raise ValueError(
                f"bins= of {name!r} are those of one of its observables, {list(model.obs)}; got {list(bins)}"
            )
        ((column, given),) = bins.items()
        self.name, edges = name, np.asarray(given, float)
        self._folds, self.params = folds_of(model), list(model.get_params(floating=None))
        self.components = [one.name for one in sum_components(self._folds[0])]
        make = _integral if len(model.obs) == 1 else _of_events
        self._shapes = [
            [make(fold, part, column, edges, n_events, next(seeds)) for part in sum_components(fold)]
            for fold in self._folds
        ]
        data = channel.data
        values = np.asarray(data.with_obs(model.obs).value())[:, list(model.obs).index(column)]
        weights = None if data.weights is None else np.asarray(data.weights)
        self.observed = {name: np.histogram(values, edges, weights=weights)[0].astype(float)}

    def counts(self, index: int) -> np.ndarray:
        """Expected counts of a component, the mean of all folds."""
        found = [
            float(sum_shares(fold)[index]) * expected_events(fold) * shapes[index]()
            for fold, shapes in zip(self._folds, self._shapes, strict=True)
        ]
        return np.mean(found, axis=0)


class _Counted(_Filled):
    """A binned model that knows its counts by sample.

    Args:
        channel: The channel.
        name: What it is called.
    """

    def __init__(self, channel: BinnedChannel, name: str):
        self.name, self._model = name, channel.model
        self.components, self.params = list(self._model.sample_names), list(self._model.get_params(floating=None))
        self.observed = {name: np.ravel(np.asarray(channel.data.values(), float))}

    def counts(self, index: int) -> np.ndarray:
        """Expected counts of a component."""
        return np.asarray(self._model.expected_by_sample())[index]


class _OfPyhf:
    """Channels of pyhf, which stay as they are; their parameters get the names that they have in the likelihood.

    Args:
        channel: The channel.
        name: What it is called.
    """

    def __init__(self, channel: BinnedChannel, name: str):
        pdf: HistFactoryPDF = channel.model
        self.name, self._spec, config = name, pdf.histfactory.spec, pdf.histfactory.config
        self._pairs = {own.name: (own, here) for own, here in zip(pdf.known, pdf.parameters, strict=True)}
        self._config, self._outcomes, self._every = (
            config,
            pdf.auxiliary_data(),
            list(zip(pdf.known, pdf.parameters, strict=True)),
        )
        self._fixed = np.array([not one.floating for one in pdf.parameters])
        self._unlike = self._fixed != [one.fixed for one in pdf.known]  # pyhf itself fixes errors of empty bins
        self._settings = _other_settings(pdf.histfactory)
        counts = np.ravel(np.asarray(channel.data.values(), float))
        self.observed = {one: counts[config.channel_slices[one]] for one in config.channels}

    def channels(self, effects: Effects, settings: Collection[str], notes: list[str]) -> list[dict[str, Any]]:
        """The channels; a luminosity that other channels depend on is a nuisance there, so it is one here too."""
        found: list[dict[str, Any]] = copy.deepcopy(self._spec["channels"])
        if self._settings:
            names = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
            notes.append(f"{self.name}: a workspace does not hold {names}: give it to pyhf.Workspace.model")
        for channel in found:
            for modifier in (one for part in channel["samples"] for one in part["modifiers"]):
                if modifier["name"] not in self._pairs:  # a set, with one parameter for each bin
                    continue
                own, here = self._pairs[modifier["name"]]
                modifier["name"] = here.name
                if own.kind != "normal" and here in effects:
                    raise ValueError(
                        f"{here.name!r} is measured by a Gaussian, and a factor that is not in channel {channel['name']!r}"
                    )
                if modifier["type"] == "lumi" and here.name in settings:
                    sides = {"hi": own.centre + own.width, "lo": own.centre - own.width}
                    modifier.update(type="normsys", data=sides)
                    notes.append(
                        f"{channel['name']}: {here.name!r} is a normsys, as it is in other channels, and no lumi"
                    )
        return found

    def settings(self, effects: Effects, fixed: Mapping[str, float], notes: list[str]) -> dict[str, dict[str, Any]]:
        """What a measurement says about the parameters, by their names in the likelihood."""
        given, found = {one["name"]: one for one in self._spec.get("parameters", [])}, {}
        outcomes, stop = {}, 0
        for name in self._config.auxdata_order:
            start, stop = stop, stop + self._config.param_set(name).n_parameters
            if not np.array_equal(self._outcomes[start:stop], self._config.auxdata[start:stop]):
                outcomes[name] = {"auxdata": self._outcomes[start:stop].tolist()}
        for name in self._config.par_order:
            own, here = self._pairs.get(name, (None, None))
            called = name if here is None else here.name
            said = {**given.get(name, {}), **outcomes.get(name, {})}
            where = self._config.par_slice(name)
            if self._fixed[where].all():  # pyhf fixes parameters where they start
                inits = [own.centre + own.width * _value(here, effects) for own, here in self._every[where]]
                said |= {"fixed": True, "inits": inits}
            elif here is not None:
                said["fixed"] = False
            elif self._unlike[where].any():
                notes.append(f"{self.name}: some parameters of {name!r} are fixed; pyhf fixes all of a set, or none")
            if own is not None and here is not None and own.kind == "free":
                said |= _of_factor(here) | {"fixed": not here.floating or here.name in fixed}
            if said:
                found[called] = {**said, "name": called}
        return found


_SETTINGS = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
"""Of models that pyhf makes of a workspace."""


def _other_settings(model: pyhf.Model) -> dict[str, Any]:
    """Arguments of a model that are not those that pyhf makes of a workspace by default."""
    main, used = model.main_model, {modifier for _, modifier in model.config.modifiers}
    codes = model.config.modifier_settings or {}
    other = {
        kind: codes[kind] for kind in _SETTINGS if kind in used and codes.get(kind, _SETTINGS[kind]) != _SETTINGS[kind]
    }
    clips = {f"clip_{of}_data": getattr(main, f"clip_{of}_data", None) for of in ("sample", "bin")}
    return {
        **({"modifier_settings": other} if other else {}),
        **{name: one for name, one in clips.items() if one is not None},
    }


def _part(channel: Any, name: str, bins: Bins, n_events: int, seeds: Iterator[Any]) -> _Filled | _OfPyhf:
    model = channel.model
    if isinstance(model, HistFactoryPDF):
        return _OfPyhf(channel, name)
    if hasattr(model, "expected_by_sample"):
        return _Counted(channel, name)
    if not isinstance(channel, UnbinnedChannel) or not model.is_extended:
        raise ValueError(
            f"channel {name!r} has no yield, or its bins are not those of pyhf: nothing of it can be exported"
        )
    return _Projection(channel, name, bins, n_events, seeds)


def _integral(
    model: zfit.pdf.BasePDF, part: zfit.pdf.BasePDF, column: str, edges: np.ndarray, n_events: int, seed: Any
) -> Callable[[], np.ndarray]:
    """Function that integrates a density over the bins."""
    del model, column, n_events, seed
    nodes, weights = bin_rule(lambda x: np.exp(EventDensity(part, x[:, None])()), edges, part.name)
    half, density = 0.5 * np.diff(edges), EventDensity(part, points_in(edges, nodes)[:, None])
    return lambda: half * (np.exp(density()).reshape(len(half), -1) @ weights)


def _of_events(
    model: zfit.pdf.BasePDF, part: zfit.pdf.BasePDF, column: str, edges: np.ndarray, n_events: int, seed: Any
) -> Callable[[], np.ndarray]:
    """Function that fills events, with weights where the density is another one than that they were drawn from."""
    x = drawn_events(model, part, n_events, seed)
    density = EventDensity(part, x[:, [list(model.obs).index(name) for name in part.obs]])
    drawn, values = density(), x[:, list(model.obs).index(column)]
    return lambda: np.histogram(values, edges, weights=np.exp(density() - drawn) / n_events)[0]


def _away_from_zero(parameter: zfit.Parameter) -> tuple[float, float]:
    """Two values of a parameter, the present one first if it is not zero."""
    low, high = limits_of(parameter)
    first = float(parameter.value()) or next(one for one in (1.0, high, low) if one and low <= one <= high)
    second = next(one for one in (1.1 * first, 0.9 * first, low, high) if low <= one <= high and one != first)
    return first, second


def _value(parameter: zfit.Parameter, effects: Effects) -> float:
    """Of a parameter, also where it is away from it for the templates."""
    centre, width, _, value = effects.get(parameter, (0.0, 1.0, 0.0, float(parameter.value())))
    return centre + width * value


def _of_effect(parameter: zfit.Parameter, outcome: float, value: float) -> dict[str, Any]:
    """What a measurement says about a parameter that is measured."""
    said = {"name": parameter.name, "auxdata": [outcome], "fixed": not parameter.floating}
    return said if parameter.floating else {**said, "inits": [value]}  # pyhf fixes a parameter where it starts


def _of_factor(parameter: zfit.Parameter) -> dict[str, Any]:
    """What a measurement says about a free parameter."""
    low, high = limits_of(parameter)
    bounds = [max(low, -1e6), min(high, 1e6)]
    return {"name": parameter.name, "inits": [float(parameter.value())], "bounds": [bounds]}

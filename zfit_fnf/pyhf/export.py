r"""Unbinned channels as a pyhf workspace: their projection on bins, with its variations.

Each component of a model becomes a sample. A nuisance becomes a ``normsys`` and a ``histosys`` of one name, from the predictions
with the nuisance at -1 and +1; a free parameter that its yield is proportional to becomes a ``normfactor`` with the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pyhf

from ..loss import EventDensity, LogSpaceNLL, UnbinnedChannel, channels_of, drawn_events
from ..param import Nuisance, limits_of
from ..pdf import sum_components, sum_shares
from ..state import preserved, seeds_from

__all__ = ["export", "sample"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)  # of the integral over a bin


def export(
    nll: LogSpaceNLL,
    bins: Mapping[str, Sequence[float]] | Sequence[Mapping[str, Sequence[float]]],
    *,
    poi: zfit.Parameter | str | None = None,
    names: Sequence[str] | None = None,
    n_events: int = 1_000_000,
    seed: int = 0,
) -> pyhf.Workspace:
    """A pyhf workspace of the unbinned channels of a likelihood, with their data.

    Models of one observable are integrated over the bins. Others are projected by ``n_events`` drawn events of each component,
    the same for all variations. Events outside of the bins do not enter.

    Args:
        nll: The likelihood; its models are extended. Templates are made with all nuisances at zero.
        bins: Edges by the column that is filled; one mapping for all channels, or one for each.
        poi: The parameter of interest; by default the first free parameter.
        names: Names of the channels; by default those of the models.
        n_events: Events for each component of a model of several observables.
        seed: Seed of the events.

    Raises:
        ValueError: If a channel is not unbinned or has no yield; if a model depends on a free parameter in another way than by a
            yield that is proportional to it, which HistFactory does not know.

    Example:
        >>> workspace = export(nll, {"mass": np.linspace(50, 150, 21)}, poi=mu)
        >>> pathlib.Path("binned.json").write_text(json.dumps(workspace))
    """
    channels = channels_of(nll)
    each = [bins] * len(channels) if isinstance(bins, Mapping) else list(bins)
    labels = [channel.model.name for channel in channels] if names is None else list(names)
    if not len(channels) == len(each) == len(labels) == len(set(labels)):
        raise ValueError(
            f"{len(channels)} channels need as many bins= and different names=; got {len(each)} and {labels}"
        )
    found: dict[str, zfit.Parameter] = {}
    document: dict[str, Any] = {"version": "1.0.0", "channels": [], "observations": []}
    seeds = seeds_from(seed)
    with preserved(nll):
        nuisances = [one for one in nll.get_params(floating=None) if isinstance(one, Nuisance)]
        zfit.param.set_values(nuisances, [0.0] * len(nuisances))
        for channel, name, own in zip(channels, labels, each, strict=True):
            if not isinstance(channel, UnbinnedChannel) or not channel.model.is_extended:
                raise ValueError(
                    f"channel {name!r} is not unbinned, or has no yield: nothing of it can be filled into bins"
                )
            column, edges = next(iter(own.items()))
            filled = _Projection(channel.model, column, np.asarray(edges, float), n_events, seeds)
            samples = [_sample(filled, index, found) for index in range(len(filled.parts))]
            document["channels"].append({"name": name, "samples": samples})
            counts = _filled(channel, column, filled.edges)
            document["observations"].append({"name": name, "data": counts.tolist()})
        first = poi if poi is not None else next((one for one in found.values() if not isinstance(one, Nuisance)), "")
        config = {"poi": getattr(first, "name", first), "parameters": [_settings(one) for one in found.values()]}
    return pyhf.Workspace({**document, "measurements": [{"name": "measurement", "config": config}]})


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


class _Projection:
    """Expected counts of each component of a model in bins of a column, at the current parameters.

    Args:
        model: The model.
        column: The column.
        edges: Edges of its bins.
        n_events: Events of each component, for a model of several observables.
        seeds: Seeds of events.
    """

    def __init__(self, model: zfit.pdf.BasePDF, column: str, edges: np.ndarray, n_events: int, seeds: Any):
        if column not in model.obs:
            raise ValueError(f"bins= are of {column!r}; model {model.name!r} has the observables {list(model.obs)}")
        self.model, self.edges, self.parts = model, edges, sum_components(model)
        make = _integral if len(model.obs) == 1 else _of_events
        self._shapes = [make(model, part, column, edges, n_events, next(seeds)) for part in self.parts]

    def expected(self, index: int) -> float:
        """Expected number of events of a component, in and out of the bins."""
        return float(np.asarray(sum_shares(self.model))[index] * float(self.model.get_yield().value()))

    def counts(self, index: int) -> np.ndarray:
        """Expected counts of a component."""
        return self.expected(index) * self._shapes[index]()


def _integral(
    model: zfit.pdf.BasePDF, part: zfit.pdf.BasePDF, column: str, edges: np.ndarray, n_events: int, seed: Any
) -> Callable[[], np.ndarray]:
    """Function that integrates a density over the bins."""
    del model, column, n_events, seed
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    density = EventDensity(part, (middle[:, None] + half[:, None] * _NODES).reshape(-1, 1))
    return lambda: half * (np.exp(density()).reshape(len(half), -1) @ _WEIGHTS)


def _of_events(
    model: zfit.pdf.BasePDF, part: zfit.pdf.BasePDF, column: str, edges: np.ndarray, n_events: int, seed: Any
) -> Callable[[], np.ndarray]:
    """Function that fills events, with weights where the density is another one than that they were drawn from."""
    x = drawn_events(model, part, n_events, seed)
    density = EventDensity(part, x[:, [list(model.obs).index(name) for name in part.obs]])
    drawn, values = density(), x[:, list(model.obs).index(column)]
    return lambda: np.histogram(values, edges, weights=np.exp(density() - drawn) / n_events)[0]


def _sample(filled: _Projection, index: int, found: dict[str, zfit.Parameter]) -> dict[str, Any]:
    """A component as a sample, with the parameters that it depends on added to those that were found."""
    part = filled.parts[index]
    shape = part.get_params(floating=None, is_yield=False)
    free, nuisances = [], []
    for parameter in filled.model.get_params(floating=None):
        if isinstance(parameter, Nuisance):
            nuisances.append(parameter)
        elif parameter.floating and (change := _change(filled, index, parameter)) is not None:
            if parameter in shape or abs(change) > 1e-6:
                raise ValueError(
                    f"{part.name!r} depends on {parameter.name!r} in another way than by a yield that is proportional to it: fix "
                    "the parameter, or replace it by a nuisance"
                )
            free.append(parameter)
    scale = np.prod([float(one.value()) for one in free])
    nominal = filled.counts(index)
    variations = {}
    for nuisance in nuisances:
        sides = []
        for value in (1.0, -1.0):
            with zfit.param.set_values([nuisance], [value]):
                sides.append(filled.counts(index) / scale)
        if not np.allclose(sides, nominal / scale, rtol=1e-12):
            variations[nuisance.name] = (sides[0], sides[1])
            found[nuisance.name] = nuisance
    found.update({one.name: one for one in free})
    return sample(part.name, nominal / scale, variations, factors=[one.name for one in free])


def _change(filled: _Projection, index: int, parameter: zfit.Parameter) -> float | None:
    """By how much the counts of a component are not proportional to a parameter; nothing if it does not matter."""
    value, (low, high) = float(parameter.value()), limits_of(parameter)
    other = value + 0.1 * (value or 1.0) if value + 0.1 * (value or 1.0) <= high else max(value - 0.1 * value, low)
    before = filled.counts(index)
    with zfit.param.set_values([parameter], [other]):
        after = filled.counts(index)
    if np.allclose(before, after, rtol=1e-12, atol=0.0):
        return None
    return float(np.max(np.abs(after * value - before * other)) / np.max(before)) if value else np.inf


def _settings(parameter: zfit.Parameter) -> dict[str, Any]:
    """What a measurement says about a parameter."""
    if isinstance(parameter, Nuisance):
        return {"name": parameter.name, "auxdata": [float(parameter.observed.value())], "fixed": not parameter.floating}
    low, high = limits_of(parameter)
    bounds = [max(low, -1e6), min(high, 1e6)]
    return {"name": parameter.name, "inits": [float(parameter.value())], "bounds": [bounds]}


def _filled(channel: UnbinnedChannel, column: str, edges: np.ndarray) -> np.ndarray:
    """Observed counts."""
    data = channel.data
    values = np.asarray(data.with_obs(channel.model.obs).value())[:, list(channel.model.obs).index(column)]
    return np.histogram(values, edges, weights=None if data.weights is None else np.asarray(data.weights))[0].astype(
        float
    )

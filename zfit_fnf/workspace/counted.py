"""Channels whose events are counted in bins: templates of simulated events, evaluated by pyhf, and integrated densities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pyhf
import tensorflow as tf
from zfit.core.space import supports

from ..pdf import log_density, precompute
from ..pyhf import HistFactoryPDF
from ..pyhf import sample as template
from ..pyhf.bins import bin_rule, points_in
from ..samples import Sample as Events
from ..samples import Simulation, check_inside
from .schema import Sample, Shape

__all__ = ["CountedPDF", "shape_templates"]


class CountedPDF(zfit.pdf.BaseBinnedPDF):
    r"""Expected counts :math:`\sum_s \frac{n_s}{N_s} t_s(\nu) + \sum_d n_d \int_\mathrm{bin} p_d` of templates and densities.

    Args:
        space: The observable with its bins.
        templates: A HistFactory model with one channel, whose samples are the templates; or none.
        yields: The yield of each template.
        densities: Extended densities of the observable.
        name: Name of the PDF.
    """

    compilable = True

    def __init__(
        self,
        space: zfit.Space,
        templates: HistFactoryPDF | None,
        yields: Sequence[Any],
        densities: Sequence[zfit.pdf.BasePDF],
        name: str,
    ):
        self._arguments = (space, templates, tuple(yields), tuple(densities), name)
        self._templates, self._yields, self._densities = templates, tuple(yields), tuple(densities)
        self._nominal = np.ones(0)
        if templates is not None:
            (channel,) = templates.histfactory.spec["channels"]
            by_name = {one["name"]: float(np.sum(one["data"])) for one in channel["samples"]}
            self._nominal = np.array([by_name[one] for one in templates.histfactory.config.samples])
        edges = np.asarray(space.binning[0].edges)
        self._half = 0.5 * np.diff(edges)
        rules = [bin_rule(partial(_values, pdf), edges, pdf.name) for pdf in densities]
        self._weights = [weights for _, weights in rules]
        points = [points_in(edges, nodes)[:, None] for nodes, _ in rules]
        self._points = [precompute(pdf, tf.constant(x)) for pdf, x in zip(densities, points, strict=True)]
        params = {one.name: one for part in self._parts() for one in part.get_params(floating=None)}
        total = zfit.ComposedParameter(
            f"{name}_total", lambda _: tf.reduce_sum(self.expected_by_sample()), params=params, unpack_params=False
        )
        super().__init__(obs=space, extended=total, params=params, name=name, label=name)

    def _parts(self) -> Iterator[Any]:
        yield from [] if self._templates is None else [self._templates]
        yield from (one for one in self._yields if hasattr(one, "get_params"))
        yield from self._densities

    def __reduce__(self) -> tuple[Any, ...]:
        return CountedPDF, self._arguments

    @property
    def sample_names(self) -> list[str]:
        """Names of the samples, templates first."""
        config = [] if self._templates is None else list(self._templates.histfactory.config.samples)
        return [*config, *(str(pdf.label) for pdf in self._densities)]

    def expected_by_sample(self) -> tf.Tensor:
        """Expected counts ``(n_samples, n_bins)``."""
        rows = []
        if self._templates is not None:
            scales = tf.stack([tf.cast(zfit.convert_to_parameter(one).value(), tf.float64) for one in self._yields])
            rows.append((scales / self._nominal)[:, None] * self._templates.expected_by_sample())
        for pdf, points, weights in zip(self._densities, self._points, self._weights, strict=True):
            values = tf.reshape(tf.exp(log_density(pdf, points)), (len(self._half), -1))
            rows.append((pdf.get_yield().value() * self._half * tf.linalg.matvec(values, weights))[None])
        return tf.concat(rows, axis=0)

    def histograms(self) -> dict[str, dict[str, np.ndarray]]:
        """Expected counts of each sample, of the one channel."""
        return {self.name: dict(zip(self.sample_names, np.asarray(self.expected_by_sample()), strict=True))}

    def samples(self) -> dict[str, dict[str, float]]:
        """Expected events of each sample."""
        return {name: {one: float(n.sum()) for one, n in found.items()} for name, found in self.histograms().items()}

    @supports(norm="norm")
    def _counts(self, x: Any, norm: Any = None) -> tf.Tensor:
        del x, norm
        return tf.reduce_sum(self.expected_by_sample(), axis=0)

    @supports(norm="norm")
    def _rel_counts(self, x: Any, norm: Any = None) -> tf.Tensor:
        counts = self._counts(x, norm=norm)
        return counts / tf.reduce_sum(counts)


def _values(pdf: zfit.pdf.BasePDF, x: np.ndarray) -> np.ndarray:
    return np.exp(np.asarray(log_density(pdf, precompute(pdf, tf.constant(x[:, None])))))


def shape_templates(
    channel: str,
    edges: np.ndarray,
    simulations: dict[str, tuple[Sample, Simulation, float]],
    params: dict[str, zfit.Parameter],
    *,
    statistics: bool,
) -> HistFactoryPDF:
    """Templates of samples; nuisances change the distribution alone.

    Args:
        channel: Name of the channel.
        edges: Edges of the bins.
        simulations: By name the samples of the document with their events and yields: a statistical error that several
            have in common is that of their sum.
        params: The parameters, by name.
        statistics: Whether statistical errors of the templates become nuisances.

    Raises:
        ValueError: If a shape has no variation at +1, or there are variations elsewhere than at -1 and +1.
    """
    samples, used = [], set[str]()
    for name, (sample, simulation, expected) in simulations.items():
        counts, squares = _histogram(simulation.nominal, edges)
        scale = expected / counts.sum()
        counts, squares = scale * counts, scale**2 * squares
        variations: dict[str, tuple[Any, Any]] = {}
        for shape in (one for one in sample.modifiers if isinstance(one, Shape)):
            variations[shape.name] = _sides(simulation, shape.variation or shape.name, edges, counts.sum(), name)
            used.add(shape.name)
        errors = np.sqrt(squares).tolist() if statistics else None
        made = template(name, counts.tolist(), variations, errors=errors, region=channel)
        made["modifiers"] = [one for one in made["modifiers"] if one["type"] != "normsys"]  # the yield is elsewhere
        samples.append(made)
    bound = {name: params[name] for name in used}
    if not any(one["modifiers"] for one in samples):  # pyhf has no models without parameters
        one = zfit.Parameter(f"{channel}_one", 1.0, floating=False)
        samples[0]["modifiers"].append({"name": one.name, "type": "normfactor", "data": None})
        bound[one.name] = one
    model = pyhf.Model({"channels": [{"name": channel, "samples": samples}]}, poi_name=None)
    bound = {name: bound[name] for name in bound.keys() & set(model.config.parameters)}
    return HistFactoryPDF(model, bound, name=f"{channel}_templates")


def _sides(
    simulation: Simulation, nuisance: str, edges: np.ndarray, total: float, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts at +1 and -1, with the sum of the nominal ones."""
    found = {}
    for variation in simulation.variations:
        if set(variation.at) != {nuisance}:
            continue
        events = variation.events if variation.events is not None else simulation.nominal
        weights = None if variation.weights is None else np.asarray(variation.weights, float)
        counts, _ = _histogram(events, edges, weights)
        found[float(variation.at[nuisance])] = counts * total / counts.sum()
    if 1.0 not in found or set(found) - {1.0, -1.0}:
        raise ValueError(f"{name!r} in bins needs {nuisance!r} at +1, or at +1 and -1; there are {sorted(found)}")
    return found[1.0], found.get(-1.0)


def _histogram(events: Events, edges: np.ndarray, weights: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the weights, and of their squares, in the bins."""
    ((name, values),) = events.columns.items()
    check_inside(events, {name: (float(edges[0]), float(edges[-1]))})
    own = np.ones(len(values)) if events.weights is None else np.asarray(events.weights, float)
    weights = own if weights is None else weights
    counts, squares = (np.histogram(values, edges, weights=one)[0] for one in (weights, weights**2))
    return counts, squares

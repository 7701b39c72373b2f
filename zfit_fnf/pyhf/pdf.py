"""A HistFactory model as a binned PDF of zfit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pyhf
import tensorflow as tf
from zfit.core.space import supports

from ..param import values_of
from .parameters import AuxiliaryCounts, given_or_made, parameters_of, zfit_name

__all__ = ["HistFactoryPDF"]


class HistFactoryPDF(zfit.pdf.BaseBinnedPDF):
    """The bins of all channels of a pyhf model, one after the other, as an extended binned PDF.

    Args:
        histfactory: The model.
        params: Parameters by the names that they have in the model (``pyhf.Model.config.par_names``); the others are made.
        observed: Global observables of Poisson measurements, by the names of the parameters; those left out are made.
        name: Name of the PDF, also of its observable, the number of the bin.
        label: Text for plots; by default the name.

    Raises:
        TypeError: If a parameter is given that is not constrained as that of pyhf, see :mod:`zfit_fnf.pyhf`.
        ValueError: If pyhf has no parameter of a name.

    Example:
        >>> model = pyhf.simplemodels.uncorrelated_background([5.0, 10.0], [50.0, 60.0], [5.0, 12.0])
        >>> HistFactoryPDF(model).counts()
        array([55., 70.])
    """

    compilable = True
    """XLA compiles it."""

    def __init__(
        self,
        histfactory: pyhf.Model,
        params: Mapping[str, zfit.Parameter] | None = None,
        *,
        observed: Mapping[str, zfit.Parameter] | None = None,
        name: str | None = None,
        label: str | None = None,
    ):
        self.histfactory = histfactory
        self.known = parameters_of(histfactory)
        self.parameters = tuple(given_or_made(self.known, params or {}))
        self._observed = dict(observed or {})
        self._centres = np.array([one.centre for one in self.known])
        self._widths = np.array([one.width for one in self.known])
        name = zfit_name("_".join(histfactory.config.channels) if name is None else name)
        n_bins = sum(histfactory.config.channel_nbins.values())
        space = zfit.Space(name, binning=zfit.binned.RegularBinning(n_bins, 0, n_bins, name=name))
        by_name = {zfit_name(one.name): own for one, own in zip(self.known, self.parameters, strict=True)}
        expected = zfit.ComposedParameter(
            f"{name}_yield", lambda params: tf.reduce_sum(self.expected()), params=by_name, unpack_params=False
        )
        super().__init__(obs=space, extended=expected, params=by_name, name=name, label=label or name)

    def with_params(self, others: Mapping[zfit.Parameter, zfit.Parameter]) -> HistFactoryPDF:
        """The same model with other parameters in the places of some.

        Args:
            others: The new parameters, by the present ones.
        """
        params = {name: others.get(own, own) for name, own in self._by_name().items()}
        return HistFactoryPDF(self.histfactory, params, observed=self._outcomes(), name=self.name, label=self.label)

    def _by_name(self) -> dict[str, zfit.Parameter]:
        return {one.name: own for one, own in zip(self.known, self.parameters, strict=True)}

    def _outcomes(self) -> dict[str, zfit.Parameter]:
        """Global observables of Poisson measurements, by the names of the parameters."""
        names = {own: one.name for one, own in zip(self.known, self.parameters, strict=True)}
        pairs = (pair for c in self.auxiliary_measurements for pair in zip(c.measured, c.observed, strict=True))
        return {names[parameter]: outcome for parameter, outcome in pairs}

    def __reduce__(self) -> tuple[Any, ...]:
        main, config = self.histfactory.main_model, self.histfactory.config
        settings = {
            "poi_name": config.poi_name,
            "modifier_settings": config.modifier_settings,
            "clip_sample_data": main.clip_sample_data,
            "clip_bin_data": main.clip_bin_data,
        }
        return _remade, (self.histfactory.spec, settings, self._by_name(), self._outcomes(), self.name, self.label)

    @cached_property
    def auxiliary_measurements(self) -> list[AuxiliaryCounts]:
        """Poisson measurements of parameters; the Gaussian ones are those of the nuisances."""
        pairs = [pair for pair in zip(self.parameters, self.known, strict=True) if pair[1].kind == "poisson"]
        known = self._observed
        outcomes = [known[one.name] if one.name in known else one.made_outcome() for _, one in pairs]
        factors = [one.factor for _, one in pairs]
        return [AuxiliaryCounts([own for own, _ in pairs], outcomes, factors)] if pairs else []

    def pyhf_values(self) -> np.ndarray:
        """The parameters as they are now in the units of pyhf and in its order, as for ``pyhf.Model.logpdf``."""
        return np.asarray(self._pyhf_values())

    def auxiliary_data(self) -> np.ndarray:
        """The outcomes of all auxiliary measurements as they are now, in the order of pyhf."""
        config = self.histfactory.config
        outcomes = {}
        poisson = self._outcomes()
        for one, own in zip(self.known, self.parameters, strict=True):
            if one.kind == "normal":
                outcomes[one.name] = one.centre + one.width * float(own.observed.value())
            elif one.kind == "poisson":
                outcomes[one.name] = float(poisson[one.name].value())
        order = [config.par_names[index] for name in config.auxdata_order for index in _indices(config, name)]
        return np.array([outcomes[name] for name in order])

    def expected(self) -> tf.Tensor:
        """Expected counts ``(n_bins,)``."""
        with tensorflow_backend():
            return tf.reshape(self.histfactory.expected_actualdata(self._pyhf_values()), (-1,))

    def expected_by_sample(self) -> tf.Tensor:
        """Expected counts ``(n_samples, n_bins)`` in the order of ``pyhf.Model.config.samples``."""
        with tensorflow_backend():
            return self.histfactory.main_model.expected_data(self._pyhf_values(), return_by_sample=True)

    def samples(self) -> dict[str, dict[str, float]]:
        """Expected events of each sample in each channel."""
        return {
            channel: {name: float(counts.sum()) for name, counts in samples.items()}
            for channel, samples in self.histograms().items()
        }

    def histograms(self) -> dict[str, dict[str, np.ndarray]]:
        """Expected counts of each sample in each channel."""
        config, expected = self.histfactory.config, np.asarray(self._expected_by_sample())
        return {
            channel["name"]: {
                one["name"]: expected[config.samples.index(one["name"]), config.channel_slices[channel["name"]]]
                for one in channel["samples"]
            }
            for channel in self.histfactory.spec["channels"]
        }

    @cached_property
    def _expected_by_sample(self) -> Any:
        return tf.function(self.expected_by_sample, autograph=False)

    def _pyhf_values(self) -> tf.Tensor:
        return self._centres + self._widths * values_of(self.parameters)

    @supports(norm="norm")
    def _counts(self, x: Any, norm: Any = None) -> tf.Tensor:
        del x, norm
        return self.expected()

    @supports(norm="norm")
    def _rel_counts(self, x: Any, norm: Any = None) -> tf.Tensor:
        del x, norm
        expected = self.expected()
        return expected / tf.reduce_sum(expected)


def _remade(spec: Any, settings: Any, params: Any, observed: Any, name: str, label: str) -> HistFactoryPDF:
    """A PDF as it was stored."""
    model = pyhf.Model(spec, validate=False, **settings)
    return HistFactoryPDF(model, params, observed=observed, name=name, label=label)


@contextmanager
def tensorflow_backend() -> Iterator[None]:
    """In here, pyhf computes with TensorFlow in float64; afterwards with what it had before."""
    before = pyhf.get_backend()
    # Outside of graphs: what pyhf precomputes would otherwise belong to the graph that is traced.
    with tf.init_scope():
        pyhf.set_backend("tensorflow", precision="64b")
    try:
        yield
    finally:
        with tf.init_scope():
            pyhf.set_backend(*before)


def _indices(config: Any, name: str) -> range:
    return range(*config.par_slice(name).indices(config.npars))

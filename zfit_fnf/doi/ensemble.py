r"""The profile likelihood of an ensemble of maps: the rebased average.

Each replica has its own likelihood of the *observed* data, with its own map, which the shared ``T_psi`` makes follow the
parameters. They are averaged after each has been divided by its maximum,

.. math:: -\log \frac1B \sum_b \exp\big[ \ell_b(\theta) - \max_{\theta'} \ell_b(\theta') \big],

so that no replica counts more because its map happens to fit better. The distance between the minima of the replicas is
the contribution of the map's statistical uncertainty to the width of the likelihood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm.auto import tqdm
from zfit.minimizers.errors import WeightCorr

from ..loss import ExtendedUnbinnedNLL, UnbinnedNLL
from ..minimize import Minuit
from ..minimum import Derivatives, hessian_here, inverse_of, settle
from ..state import preserved
from .profiled import ProfiledFit
from .rows import make_loss

__all__ = ["Ensemble", "ExtendedRebasedNLL", "RebasedNLL", "ensemble", "rebased_loss"]

_GOAL = 1e-5  # expected distances to minima, in units of the likelihood


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The likelihoods of all replicas of a profiled fit, made by `ensemble`.

    Attributes:
        minima: Best fit of every parameter: a row for each replica.
        lowest: Negative log-likelihood of each replica at its minimum.
        values: Minimum of the rebased average, by name.
        errors: Standard errors from the Hessian of the rebased average, by name; of weighted data corrected for the weights.
        k_eff: Effective number of replicas at that minimum.
        nll: The rebased average, a loss like any other.
    """

    minima: pd.DataFrame
    lowest: np.ndarray
    values: dict[str, float]
    errors: dict[str, float]
    k_eff: float
    nll: zfit.loss.UnbinnedNLL

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation of the minima of the replicas, by name; it is not the error of the likelihood."""
        return self.minima.std().to_dict()

    def to_dataframe(self) -> pd.DataFrame:
        """The ``minimum`` of the average, its ``error`` and the ``spread`` of the replicas: a row for each parameter."""
        return pd.DataFrame({"minimum": self.values, "error": self.errors, "spread": self.spread})

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON."""
        return {
            "values": self.values,
            "errors": self.errors,
            "spread": self.spread,
            "k_eff": self.k_eff,
            "minima": self.minima.to_dict(orient="list"),
            "lowest": self.lowest.tolist(),
        }

    def __str__(self) -> str:
        table = self.to_dataframe().rename(columns={"spread": "spread of replicas"})
        return f"rebased average of {len(self.minima)} replicas, K_eff = {self.k_eff:.1f}\n{table.to_string()}"


def ensemble(profiled: ProfiledFit, *, progress: bool = True) -> Ensemble:
    """Combine the likelihoods of the replicas of a profiled fit.

    Args:
        profiled: The profile, of a fit with two replicas at least.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If it is not a profile.
        ValueError: If there are fewer replicas.

    Example:
        >>> print(ensemble(bootstrap(profile(doi), 50)))
    """
    if not isinstance(profiled, ProfiledFit):
        raise TypeError(f"ensemble takes a profile made by zfit_fnf.doi.profile; got {type(profiled).__name__}")
    replicas = profiled.replicas
    if len(replicas) < 2:
        raise ValueError(
            f"an ensemble of {len(replicas)} has no spread: make replicas first, with bootstrap(profiled, 50)"
        )
    params = [parameter for parameter in profiled.parameters.values() if parameter.floating]
    nll = rebased_loss(profiled)
    minima = []
    with preserved(nll):
        zfit.param.set_values(params, [profiled.fit.values[parameter.name] for parameter in params])
        nominal = make_loss(profiled.pdf, profiled.fit.data)
        best = settle(Derivatives(nominal, params), _minimum_of(nominal, params), goal=_GOAL)
        for index in tqdm(range(len(replicas)), desc="replicas", disable=not progress):
            with nll.only(index):
                # Each is a little away from that of the best map: its Hessian serves for all of them.
                found = settle(Derivatives(nll, params), best.values, goal=_GOAL, hessian=best.hessian)
            nll.rebase(index, found.nll)
            minima.append(dict(zip((parameter.name for parameter in params), found.values.tolist(), strict=True)))
        zfit.param.set_values(params, list(pd.DataFrame(minima).mean()))
        Minuit().minimize(nll, params)
        hessian = hessian_here(nll, params)
        values = {parameter.name: float(parameter.value()) for parameter in params}
        shares, covariance = nll.shares(), inverse_of(hessian)
        if profiled.fit.data.weights is not None and np.isfinite(covariance).all():
            covariance = np.asarray(nominal.weighted_covariance(covariance, params, WeightCorr.ASYMPTOTIC))
    errors = np.sqrt(np.diag(covariance))
    return Ensemble(
        minima=pd.DataFrame(minima),
        lowest=nll.lowest,
        values=values,
        errors=dict(zip(values, errors.tolist(), strict=True)),
        k_eff=float(1.0 / np.sum(shares**2)),
        nll=nll,
    )


def _minimum_of(loss: zfit.loss.BaseLoss, params: Sequence[zfit.Parameter]) -> np.ndarray:
    Minuit().minimize(loss, params)
    return np.array([float(parameter.value()) for parameter in params])


def rebased_loss(profiled: ProfiledFit) -> RebasedNLL | ExtendedRebasedNLL:
    """The rebased average, with all minima still at zero."""
    kind = ExtendedRebasedNLL if profiled.pdf.is_extended else RebasedNLL
    return kind(profiled.pdf, profiled.fit.data, profiled=profiled)


class _Rebased:
    """A loss of the same events under many maps, one after the other in the PDF of the profile, which is compiled already.

    Args:
        profiled: The profile. During an evaluation its map is that of one replica after the other; then it is its own again.
    """

    model: Any
    data: Any
    constraints: Any
    options: Any
    make_channel: Any
    _channels: list[Any]

    def __init__(self, *args: Any, profiled: ProfiledFit, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.profiled, self._replicas = profiled, profiled.replicas
        self._nominal = profiled.transfer.displacement.field_weights()
        self._channels_of: list[list[Any] | None] = [None] * len(self._replicas)  # each has precomputed with its map
        self._active = list(range(len(self._replicas)))
        self.lowest = np.zeros(len(self._replicas))

    def create_new(
        self,
        model: Any = None,
        data: Any = None,
        fit_range: Any = None,
        constraints: Any = None,
        options: Any = None,
    ) -> Any:
        """The average for other data or constraints, with the same minima.

        Raises:
            ValueError: For another model: the maps belong to their own.
        """
        if model is not None and model != self.model:
            raise ValueError(
                "a rebased average has maps of one model: it has no other one, and cannot be added to another"
            )
        new = type(self)(
            self.model,
            self.data if data is None else data,
            fit_range,
            self.constraints if constraints is None else constraints,
            self.options if options is None else options,
            profiled=self.profiled,
        )
        new.lowest[:] = self.lowest
        return new

    def made_of(self) -> dict[str, Any]:
        """Nothing: it is of a fit, which has compiled its trainings.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a rebased average belongs to its ensemble: save that (zfit_fnf.save), and load it there with the model and the data"
        )

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """The loss of one replica alone."""
        everyone, self._active = self._active, [index]
        try:
            yield
        finally:
            self._active = everyone

    def rebase(self, index: int, lowest: float) -> None:
        """Set the minimum of a replica."""
        self.lowest[index] = lowest

    def shares(self) -> np.ndarray:
        """Share of each replica in the average, at the current parameters."""
        return np.asarray(tf.nn.softmax(-self._above(self._of_each("compute_value"))))

    def _of_each(self, method: str, *args: Any, **options: Any) -> list[Any]:
        """Results of the loss of each active replica; afterwards the map is the nominal one again."""
        own, results = self._channels, []
        try:
            for index in self._active:
                self._displace(self._replicas[index].fields)
                made = self._channels_of[index]
                self._channels = made or [self.make_channel(c.model, c.data, extended=c.extended) for c in own]
                results.append(getattr(super(), method)(*args, **options))
                self._channels_of[index] = self._channels
        finally:
            self._channels = own
            self._displace(self._nominal[-1])
        return results

    def _displace(self, fields: np.ndarray) -> None:
        self.profiled.transfer.displacement.set_fields(np.concatenate([self._nominal[:-1], fields[None]]))

    def _above(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """Negative log-likelihoods above the minimum of each replica."""
        return tf.stack(values) - tf.constant(self.lowest[self._active])

    def _average(self, values: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """The rebased average, and the share of each replica in it."""
        above = self._above(values)
        return np.log(len(values)) - tf.reduce_logsumexp(-above), tf.nn.softmax(-above)

    def compute_value(self) -> tf.Tensor:
        """The rebased average, a scalar."""
        return self._average(self._of_each("compute_value"))[0]

    def compute_value_gradient(self, params: Any, *, coarse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The rebased average and its gradient ``(P,)``."""
        values, gradients = zip(*self._of_each("compute_value_gradient", params, coarse=coarse), strict=True)
        value, shares = self._average(values)
        return value, tf.linalg.matvec(tf.stack(gradients), shares, transpose_a=True)

    def compute_hessian(self, params: Any) -> tf.Tensor:
        """The Hessian of the rebased average ``(P, P)``."""
        values, gradients = zip(*self._of_each("compute_value_gradient", params, coarse=False), strict=True)
        matrices = self._of_each("compute_hessian", params)
        shares = self._average(values)[1]
        mean = tf.linalg.matvec(tf.stack(gradients), shares, transpose_a=True)
        moved = tf.stack([h - tf.tensordot(g, g, 0) for h, g in zip(matrices, gradients, strict=True)])
        return tf.tensordot(shares, moved, 1) + tf.tensordot(mean, mean, 0)


class RebasedNLL(_Rebased, UnbinnedNLL):
    """The rebased average of unbinned likelihoods, made by `ensemble`."""


class ExtendedRebasedNLL(_Rebased, ExtendedUnbinnedNLL):
    """The rebased average of extended likelihoods, made by `ensemble`."""

r"""How often events of the data count where a map is that of other data, or of other parameters.

In data whose events count :math:`c_i` times, with weights :math:`w_i` of their own, the best fit is elsewhere by

.. math:: \delta = H^{-1} \Big[ \sum_i (c_i - 1)\, w_i s_i + a \Big],

with the scores :math:`s_i` of the profile likelihood, its Hessian ``H``, and the score ``a`` of auxiliary measurements.
Numbers of events and the best fit fluctuate together: given the best fit, whose covariance is ``C``, events count on average

.. math:: E[c_i\,|\,\delta] = 1 + w_i\, s_i^T H^{-1} C^{-1}\, \delta ,

which for unweighted data is the ratio of their densities there and here. So often they count along the eigenvectors. In a
replica, which is a map at the best fit, they count as often as if the best fit had stayed. What replicas and what the
parameters do to a number is independent then, and adds up to how the number scatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import zfit  # before tensorflow, which it silences
import numpy as np

from ..loss import scores
from ..minimum import inverse_of
from .profiled import ProfiledFit
from .replicas import poisson_counts
from .rows import make_loss

__all__ = ["Counts"]


class Counts:
    """Numbers by which the events of a profile count; scores are evaluated when they are first asked for.

    Args:
        profiled: The profile.
        values: Best fit of the parameters that float, by name.
        root: A root ``(P, P)`` of their covariance, with rows in the order of the names.
    """

    def __init__(self, profiled: ProfiledFit, values: dict[str, float], root: np.ndarray):
        self._profiled, self._values, self._root = profiled, values, root

    def moved(self, shift: np.ndarray) -> np.ndarray:
        """How often events count ``(n,)`` where the best fit is elsewhere by a shift ``(P,)``."""
        return np.exp(self._known.slopes @ shift)

    def of_replica(self, seed: Sequence[int]) -> np.ndarray:
        """How often events count ``(n,)`` in a replica, as if the best fit had stayed where it is."""
        known, counts = self._known, poisson_counts(seed, self._profiled.fit.data.n_events)
        outcomes = known.auxiliary @ np.random.default_rng([*seed, 2]).normal(size=len(self._values))
        shift = known.inverse_hessian @ ((counts - 1.0) @ known.scores) + outcomes
        return counts * np.exp(-known.slopes @ shift)

    @cached_property
    def _known(self) -> _Known:
        profiled, data = self._profiled, self._profiled.fit.data
        params = [profiled.parameters[name] for name in self._values]
        covariance, inverse_root = self._root @ self._root.T, np.linalg.inv(self._root)
        with zfit.param.set_values(params, list(self._values.values())):
            own = scores(profiled.pdf, data.array(profiled.pdf.obs), params)
            inverse_hessian = covariance
            if data.weights is not None:
                own = own * data.weights[:, None]
                inverse_hessian = inverse_of(np.asarray(make_loss(profiled.pdf, data).hessian(params)))
        slopes = own @ (inverse_hessian @ inverse_root.T @ inverse_root)
        # What is left of the covariance, in its own units, is that of auxiliary measurements.
        of_data = own @ (inverse_hessian @ inverse_root.T)
        left, directions = np.linalg.eigh(np.eye(len(params)) - of_data.T @ of_data)
        return _Known(own, slopes, inverse_hessian, self._root @ directions * np.sqrt(np.maximum(left, 0.0)))


class _Known(NamedTuple):
    """What is evaluated once.

    Attributes:
        scores: Of the events ``(n, P)``, times their weights.
        slopes: By how much more they count for a shift of the best fit ``(n, P)``.
        inverse_hessian: Of the profile likelihood ``(P, P)``.
        auxiliary: Root ``(P, P)`` of the covariance of the best fit from auxiliary measurements.
    """

    scores: np.ndarray
    slopes: np.ndarray
    inverse_hessian: np.ndarray
    auxiliary: np.ndarray

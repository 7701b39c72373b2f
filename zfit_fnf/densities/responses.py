r"""What a density with nuisances is: the contract between a learned response and everything that evaluates it.

A :class:`ShapeResponse` turns a nominal density into one that depends on nuisances :math:`\nu`, counted in standard
deviations. :class:`~zfit_fnf.densities.deformation.Deformation`, an invertible map in front of the nominal density, is
one; a log-ratio that reweights events is another, and they can be stacked:

.. math::
    p(y | x, \nu) = p_\mathrm{nom}(T_\nu(y) | x) \; |\det \partial T_\nu / \partial y| \;
    \exp\Big(\sum_m \phi_m(\nu) \, r_m(x, y)\Big) \Big/ Z(\nu).

PDFs, integrals over parts of the range, losses, toys and validation know this contract and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ..common.checks import number
from .flows import Flow, in_chunks, sample_table

if TYPE_CHECKING:
    from .polynomial_map import PolynomialMap
    from .reweighting import Reweighting

__all__ = ["ShapeResponse"]


class ShapeResponse:
    r"""A conditional density :math:`p(y | x, \nu)` that is a nominal :class:`~zfit_fnf.Flow` where all nuisances are zero.

    Recipe. A subclass sets the three attributes below and implements:

    * :meth:`precompute`, once per event: everything that does not depend on the nuisances. What depends on the conditions
      alone can be split off into :meth:`precompute_conditions`, for events of which only the observables move.
    * :meth:`log_shape`, once per evaluation of a likelihood: the log-density at a point of the nuisances, without the
      logarithm of its integral, which is what :meth:`log_norm` gives. An invertible map needs no :meth:`log_norm`.
    * :meth:`draw`: events, exact in distribution.

    Both log-functions are pure TensorFlow, and twice differentiable in the nuisances. Where the distribution function of
    each coordinate, given those before it, is known, set :attr:`sequential` and implement :meth:`base`: then integrals
    over a part of the range are exact in one dimension. A response that acts on another response keeps that one, calls
    its :meth:`precompute`, :meth:`log_density_at` and :meth:`draw`, and adds its own factor.

    All tensors are in standardised coordinates: observables ``u (n, d)``, conditions ``c (n, m)``; the nuisances
    ``nu (K,)`` are float64 and in the order of ``nuisances``.

    To be stored, it has to be a :class:`~zfit_fnf.densities.model.Model` with an entry in :mod:`zfit_fnf.storage`.

    Attributes:
        flow: The nominal density.
        nuisances: Names of the nuisances.
        windows: Range ``(low, high)`` of each nuisance in which the response was learned.

    Example:
        A density that is shifted by one unit of its standardised coordinates per standard deviation:

        >>> class Shift(ShapeResponse):
        ...     def __init__(self, flow):
        ...         self.flow, self.nuisances, self.windows = flow, ("jes",), {"jes": (-1.0, 1.0)}
        ...     def precompute(self, u, c, of_conditions=None):
        ...         return u, self.flow.precompute(c)
        ...     def log_shape(self, nu, precomputed):
        ...         u, of_flow = precomputed
        ...         return self.flow.log_density_at(u - tf.cast(nu[0], u.dtype), of_flow)
        ...     def draw(self, c, nu, seed):
        ...         return self.flow.draw(c, seed) + nu[0]
        >>> flow = Flow(["mass"])
        >>> shifted = Shift(flow).log_prob({"mass": [1.5]}, nu={"jes": 0.5})
        >>> bool(np.isclose(shifted, flow.log_prob({"mass": [1.0]})).all())
        True
    """

    flow: Flow
    nuisances: tuple[str, ...]
    windows: dict[str, tuple[float, float]]

    # --- for implementers ------------------------------------------------------------------------------------------

    def precompute_conditions(self, c: tf.Tensor) -> Any:
        """What depends on the conditions alone, for :meth:`precompute`: a nest of tensors, by default nothing."""
        del c
        return ()

    def precompute(self, u: tf.Tensor, c: tf.Tensor, of_conditions: Any = None) -> Any:
        """What depends on the events alone: a nest of tensors with the events along the first axis.

        Args:
            u: Observables ``(n, d)``.
            c: Conditions ``(n, m)``.
            of_conditions: What :meth:`precompute_conditions` has made of ``c``, for those who have it already.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it needs to know about events")

    def log_shape(self, nu: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)`` without its normalisation, in the dtype of ``u``."""
        raise NotImplementedError(f"{type(self).__name__} has no density")

    def log_norm(self, nu: tf.Tensor, precomputed: Any) -> tf.Tensor | float:
        """Logarithm of the integral of :meth:`log_shape` over the observables; zero for an invertible map.

        A scalar, if it is the same for all events; otherwise, for a density that is conditional, ``(n,)``.
        """
        del nu, precomputed
        return 0.0

    def draw(self, c: tf.Tensor, nu: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Sample ``u (n, d)``; ``seed`` is the integer pair of ``tf.random.stateless_uniform``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be sampled")

    @property
    def sequential(self) -> bool:
        """Whether :meth:`base` knows the distribution function of each coordinate, given those before it."""
        return False

    def base(self, nu: tf.Tensor, precomputed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Independent logistic coordinates ``(n, d)`` of the density, and the logarithms of their slopes ``(n, d)``.

        Of a density that is :attr:`sequential`, coordinate ``j`` is a function of the observables up to ``j``.
        """
        raise NotImplementedError(f"the distribution functions of {type(self).__name__} are not known")

    @property
    def movement(self) -> PolynomialMap | None:
        """The map ``T_nu`` with one layer that moves events, if beside it and :attr:`reweighting` there is nothing."""
        return None

    @property
    def reweighting(self) -> Reweighting | None:
        """What weighs the events that are moved, if anything does."""
        return None

    # --- for pdfs, training and validation -------------------------------------------------------------------------

    def log_density_at(self, nu: tf.Tensor, precomputed: Any) -> tf.Tensor:
        """Log-density ``(n,)`` in the standardised coordinates, normalised."""
        log_shape = self.log_shape(nu, precomputed)
        return log_shape - tf.cast(self.log_norm(nu, precomputed), log_shape.dtype)

    def point(self, nu: Mapping[str, float] | None) -> np.ndarray:
        """Values ``(K,)`` in the order of ``nuisances`` from a mapping by name; those left out are zero."""
        nu = nu or {}
        if unknown := sorted(set(nu) - set(self.nuisances)):
            raise ValueError(f"unknown nuisance {unknown}: this deformation knows {list(self.nuisances)}")
        return np.array([number(nu.get(name, 0.0), f"the value of nuisance {name!r}") for name in self.nuisances])

    # --- for users -------------------------------------------------------------------------------------------------

    @property
    def obs(self) -> tuple[str, ...]:
        """Names of the observables."""
        return self.flow.obs

    @property
    def cond(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return self.flow.cond

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Physical range of each observable."""
        return self.flow.ranges

    def log_prob(self, data: Any, *, nu: Mapping[str, float] | None = None) -> np.ndarray:
        """Log-density per event at a point of the nuisances.

        Args:
            data: Table with the columns ``obs`` and ``cond``.
            nu: Nuisances in standard deviations; those left out are zero.

        Returns:
            ``(n,)`` float64.

        Raises:
            ValueError: For bad columns and for a nuisance without a response.
        """
        point = tf.constant(self.point(nu))

        def log_prob(y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
            u, c, log_jacobian = self.flow.encode(y, x)
            return self.log_density_at(point, self.precompute(u, c)) + log_jacobian

        return in_chunks(log_prob, *self.flow.columns(data))

    def sample(
        self, n: int | None = None, *, nu: Mapping[str, float] | None = None, cond: Any = None, seed: int | None = None
    ) -> pd.DataFrame:
        """Draw events at a point of the nuisances; arguments as in :meth:`zfit_fnf.Flow.sample` and :meth:`log_prob`."""
        point = tf.constant(self.point(nu))
        return sample_table(self.flow, lambda c, pair: self.draw(c, point, pair), n, cond, seed)

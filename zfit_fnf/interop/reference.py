r"""Published factorizable normalizing flows (arXiv:2606.30489): polynomial residual layers in front of a zuko flow.

.. math::
    T_j(u) = u_j e^{s_j} + t_j, \qquad
    s_j = \sum_k \left( A_{jk} m_k + \delta B_{jk} m_k^2 \right) + \delta' \sum_{k<l} C_{jkl} m_k m_l,
    \qquad m_k = (\nu_k - \nu_k^0) / \sigma_k

and :math:`t_j` likewise, with networks :math:`A, B, C` of the coordinates before :math:`j` and the context. There may be
several such layers, with the order of the coordinates reversed in between. The result is the map of a
:class:`~zfit_fnf.Deformation`, with its monomials counted from the central values, in units of the scales, and damped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..densities.deformation import Deformation, YieldRatio
from ..densities.flows import Flow
from ..densities.model import Model
from ..densities.monomials import Powers
from ..densities.ratio import LogRatio
from .zuko import activation_of, architecture_of, make_density
from .zuko_architecture import NetworkShape
from .zuko_density import ZukoNetwork
from .zuko_state_dict import NetworkWeights, common_dtype, is_module, read_arrays

__all__ = ["ReferenceDeformation", "ReferenceResponse", "import_fnf"]

_DAMPING = 0.01  # of the published training
_TRAINED = 3.0  # half-width of the window, in scales, if the user does not say better


def import_fnf(
    source: Any,
    *,
    nuisances: Sequence[str],
    obs: Sequence[str] = (),
    cond: Sequence[str] = (),
    architecture: Mapping[str, Any] | None = None,
    base: Flow | None = None,
    windows: Mapping[str, tuple[float, float]] | None = None,
    yields: Mapping[str, YieldRatio] | None = None,
    quadratic_damping: float = _DAMPING,
    cross_term_damping: float = _DAMPING,
) -> ReferenceDeformation:
    """A deformation with the density of a published factorizable flow.

    Args:
        source: The live model; or its state dict, a mapping of arrays or a file, see
            :func:`zfit_fnf.interop.zuko.import_flow`.
        nuisances: Names of its nuisances, in order.
        obs: Names of the features.
        cond: Names of the context.
        architecture: For a state dict: the arguments of the zuko class of the base.
        base: The base, if the state dict does not contain it; ``obs``, ``cond`` and ``architecture`` are then its own.
        windows: Range ``(low, high)`` of each nuisance in which it was trained; default three scales on either side.
        yields: Change of the yield with each nuisance, default none.
        quadratic_damping: Factor of the quadratic terms, which a state dict does not say.
        cross_term_damping: Factor of the cross terms, which a state dict does not say.

    Raises:
        ImportError: If PyTorch is needed and missing.
        TypeError: If the base is of another kind.
        ValueError: If names, arrays and architecture do not fit together.

    Example:
        >>> deformation = import_fnf(
        ...     "weights.npz", obs=["x1", "x2"], cond=["is_a", "is_b"], nuisances=["shift", "squeeze"],
        ...     architecture={"bins": 20}
        ... )
    """
    if is_module(source):
        _check_module(source)
        architecture = architecture_of(source.base_model)
        quadratic_damping, cross_term_damping = source.quadratic_damping, source.cross_term_damping
    arrays = _without_prefix(read_arrays(source))
    flow = _base(arrays, obs, cond, architecture, base)
    layers = _take_layers(arrays, len(flow.obs), len(flow.cond))
    if arrays:
        raise ValueError(f"{len(arrays)} arrays do not belong to a factorizable flow, such as {sorted(arrays)[0]!r}")
    centre, scale, pairs = layers[0].centre.tolist(), layers[0].scale.tolist(), layers[0].pairs
    if any(not layer.same_polynomial(layers[0]) for layer in layers):
        raise ValueError("the layers differ in their central values, scales or cross terms")
    if len(nuisances) != len(centre):
        raise ValueError(f"nuisances= names {list(nuisances)}, but the flow has {len(centre)}")
    names: list[tuple[str, ...]] = [(name,) for name in nuisances]
    names += [(nuisances[first], nuisances[second]) for first, second in pairs]
    responses = [
        _response(group, [layer.networks[place] for layer in layers], len(flow.obs), len(flow.cond))
        for place, group in enumerate(names)
    ]
    default = {
        name: (middle - _TRAINED * width, middle + _TRAINED * width)
        for name, middle, width in zip(nuisances, centre, scale, strict=True)
    }
    return ReferenceDeformation(
        flow,
        responses,
        windows={**default, **(windows or {})},
        yields=yields,
        centre=dict(zip(nuisances, centre, strict=True)),
        scale=dict(zip(nuisances, scale, strict=True)),
        quadratic_damping=float(quadratic_damping),
        cross_term_damping=float(cross_term_damping),
    )


class ReferenceResponse(Model):
    """Coefficient networks of one nuisance, or of the cross term of two, as zuko has made them.

    It takes the place of a :class:`~zfit_fnf.densities.polynomial_map.Response`.

    Args:
        nuisances: The names whose monomials this response multiplies.
        n_dim: Number of observables.
        n_context: Number of conditions.
        shapes: Architecture of the network of each layer.
        dtype: ``"float32"`` or ``"float64"``, in which the weights are kept.
    """

    def __init__(
        self,
        nuisances: Sequence[str],
        *,
        n_dim: int,
        n_context: int,
        shapes: Sequence[NetworkShape],
        dtype: str = "float32",
    ):
        super().__init__()
        self.nuisances = tuple(nuisances)
        self.powers: Powers = ((1,), (2,)) if len(self.nuisances) == 1 else ((1, 1),)
        self.n_dim, self.n_context, self.dtype = n_dim, n_context, dtype
        ends = n_dim + n_context, 2 * len(self.powers) * n_dim
        if wrong := [shape.widths for shape in shapes if (shape.widths[0], shape.widths[-1]) != ends]:
            raise ValueError(
                f"a response of {self.nuisances} needs networks from {ends[0]} to {ends[1]} numbers: {wrong}"
            )
        self.networks = [ZukoNetwork(shape, dtype) for shape in shapes]
        self.correction = tf.zeros((len(self.powers), len(self.powers)), tf.float64)

    def precompute(self, c: tf.Tensor, layer: int = 0) -> Any:
        """The conditions ``(n, m)``, of which all networks here are functions like of everything else."""
        del layer
        return c

    def coefficients(self, u: tf.Tensor, precomputed: Any, layer: int = 0) -> tf.Tensor:
        """Coefficients ``(n, monomials, d, 2)`` of one layer at its inputs; the last axis is (log-scale, shift)."""
        order = slice(None, None, -1 if layer % 2 else 1)
        raw = self.networks[layer](tf.concat([u[:, order], precomputed], axis=-1))
        raw = tf.reshape(raw, (-1, self.n_dim, 2, len(self.powers)))[:, order]
        return tf.transpose(raw, (0, 3, 1, 2))

    @property
    def shape(self) -> Any:
        """None of these networks is evaluated together with another one."""
        return id(self)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct a response of the same architecture."""
        return {
            "nuisances": self.nuisances,
            "n_dim": self.n_dim,
            "n_context": self.n_context,
            "shapes": [network.shape for network in self.networks],
            "dtype": self.dtype,
        }


class ReferenceDeformation(Deformation):
    """The map of a published factorizable flow; the density is the nominal one at the central values.

    Its polynomials are not continued linearly outside of the windows.

    Args:
        flow: The nominal density.
        responses: Responses of single nuisances, then cross terms.
        windows: Trained range ``(low, high)`` of each nuisance.
        yields: Change of the yield with each nuisance, default none.
        ratios: Log-ratios that reweight what the map has moved; published models have none.
        centre: Central value of each nuisance.
        scale: Scale of each nuisance.
        quadratic_damping: Factor of the quadratic terms.
        cross_term_damping: Factor of the cross terms.
    """

    _CONTINUED = False

    def __init__(
        self,
        flow: Flow,
        responses: Sequence[ReferenceResponse],
        *,
        windows: Mapping[str, tuple[float, float]],
        yields: Mapping[str, YieldRatio] | None = None,
        ratios: Sequence[LogRatio] = (),
        centre: Mapping[str, float],
        scale: Mapping[str, float],
        quadratic_damping: float,
        cross_term_damping: float,
    ):
        super().__init__(flow, responses, windows=windows, yields=yields, ratios=ratios)
        if set(centre) != set(self.nuisances) or set(scale) != set(self.nuisances) or not all(scale.values()):
            raise ValueError(f"need a central value and a scale for each nuisance {self.nuisances}: {centre}, {scale}")
        self.centre, self.scale = ({name: float(values[name]) for name in self.nuisances} for values in (centre, scale))
        self.quadratic_damping, self.cross_term_damping = quadratic_damping, cross_term_damping

    def basis(self, nu: tf.Tensor, correction: tf.Tensor | None = None) -> tf.Tensor:
        """Damped monomials ``(M,)`` at the nuisances ``nu (K,)``: those of single nuisances, then the products."""
        del correction  # published models have none
        centre, scale = (tf.constant(list(values.values()), nu.dtype) for values in (self.centre, self.scale))
        m = (nu - centre) / scale
        single = tf.stack([m, self.quadratic_damping * m**2], axis=-1)
        place = {name: index for index, name in enumerate(self.nuisances)}
        pairs = [[place[name] for name in pair] for pair in self.interactions]
        if not pairs:
            return tf.reshape(single, (-1,))
        products = self.cross_term_damping * tf.reduce_prod(tf.gather(m, pairs), axis=-1)
        return tf.concat([tf.reshape(single, (-1,)), products], axis=0)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that construct the same deformation."""
        return {
            **super().config(),
            "centre": self.centre,
            "scale": self.scale,
            "quadratic_damping": self.quadratic_damping,
            "cross_term_damping": self.cross_term_damping,
        }


# --- the state dict -------------------------------------------------------------------------------------------------


def _check_module(module: Any) -> None:
    if not hasattr(module, "base_model") or not hasattr(module, "quadratic_damping"):
        raise TypeError(f"expected a published factorizable flow, got {type(module).__name__}")
    if getattr(module, "ladj_sign", 1.0) != 1.0:
        raise ValueError("flows with ladj_sign=-1 cannot be imported")
    if (activation := activation_of(module.transforms)) not in (None, "ELU"):
        raise ValueError(f"the residual networks of published flows have ELU activations; these have {activation}")


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under the names that they have in a model alone, which may have been part of a larger module."""
    found = [name for name in arrays if name.endswith("central_nuisance_values")]
    if not found:
        raise ValueError("there are no central_nuisance_values: this is not the state dict of a factorizable flow")
    prefix = min(found, key=len).removesuffix("central_nuisance_values").partition("transforms.")[0]
    return {name.removeprefix(prefix): array for name, array in arrays.items()}


def _base(
    arrays: dict[str, np.ndarray],
    obs: Sequence[str],
    cond: Sequence[str],
    architecture: Mapping[str, Any] | None,
    base: Flow | None,
) -> Flow:
    """The nominal density; takes its arrays out."""
    own = {name: arrays.pop(name) for name in list(arrays) if name.startswith("base_model.")}
    if bool(own) == (base is not None):
        raise ValueError(
            "the state dict contains the base: leave base= out"
            if own
            else "the state dict does not contain the base: give it as base="
        )
    if base is not None:
        return base
    if architecture is None:
        raise ValueError('a state dict does not say everything about its base: give architecture={"bins": ...}')
    density = make_density({name.removeprefix("base_model."): array for name, array in own.items()}, architecture)
    return Flow(obs, cond, density=density)


class _Layer:
    """One residual layer: its networks, of single nuisances and then of pairs, and the polynomial that it has."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str):
        try:
            self.centre, self.scale, pairs = (
                arrays.pop(prefix + name) for name in ("central_nuisance_values", "nuisance_scales", "cross_term_pairs")
            )
        except KeyError as error:
            raise ValueError(f"array {error} is missing: keep the buffers in the state dict") from None
        self.pairs = [tuple(map(int, pair)) for pair in pairs]
        self.networks = [
            NetworkWeights.take(arrays, f"{prefix}{kind}.{place}.", masked=True)
            for kind, count in (("nuisance_nets", len(self.centre)), ("cross_nets", len(self.pairs)))
            for place in range(count)
        ]

    def same_polynomial(self, other: _Layer) -> bool:
        return self.pairs == other.pairs and all(
            np.array_equal(own, theirs) for own, theirs in ((self.centre, other.centre), (self.scale, other.scale))
        )


def _take_layers(arrays: dict[str, np.ndarray], n_dim: int, n_context: int) -> list[_Layer]:
    """The residual layers; between two of them, and at the end of an even number, the coordinates are reversed."""
    for name in ("central_nuisance_values", "nuisance_scales"):
        arrays.pop(name, None)  # every layer has them too
    count = 1 + max((int(name.split(".")[1]) for name in arrays if name.startswith("transforms.")), default=-1)
    layers = [_Layer(arrays, f"transforms.{place}.") for place in range(0, count, 2)]
    for place in range(1, count, 2):
        if not np.array_equal(arrays.pop(f"transforms.{place}.indices", np.empty(0)), np.arange(n_dim)[::-1]):
            raise ValueError(
                f"transforms.{place} does not reverse the order of the coordinates, as every second one does"
            )
        arrays.pop(f"transforms.{place}.inv_indices", None)
    if not layers or count != 2 * len(layers) - len(layers) % 2:
        raise ValueError(f"{count} transforms are not a stack of residual layers with reversals in between")
    for network in (network for layer in layers for network in layer.networks):
        needs = network.dependence.reshape(n_dim, -1, n_dim + n_context)[:, :, :n_dim].any(axis=1)
        if np.any(np.triu(needs)):
            raise ValueError("a network lets a coordinate depend on itself or on later ones")
    return layers


def _response(
    nuisances: tuple[str, ...], weights: Sequence[NetworkWeights], n_dim: int, n_context: int
) -> ReferenceResponse:
    response = ReferenceResponse(
        nuisances,
        n_dim=n_dim,
        n_context=n_context,
        shapes=[w.shape("ELU") for w in weights],
        dtype=common_dtype(weights),
    )
    for network, w in zip(response.networks, weights, strict=True):
        w.assign_to(network)
    return response

"""Flows of the PyTorch library zuko (https://github.com/probabilists/zuko): ``NSF`` and ``MAF``.

A zuko flow is a stack of transforms from the data to a standard normal base. Each is a univariate law (affine, or a
rational-quadratic spline) whose parameters come from a masked network of the coordinates and the context. Versions 1.3 to
1.6 can be imported; they differ in the names of the base's buffers, and in the smallest slope of the laws, which was 1e-4
up to 1.4 and is 1e-3 since.

PyTorch is needed to read a live module or a ``.pt`` file only.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..common.warning import warn
from ..densities.flows import Flow
from .physical import check_arguments
from .zuko_architecture import ZukoLayer
from .zuko_density import ZukoDensity
from .zuko_state_dict import NetworkWeights, activation_name, common_dtype, is_module, read_arrays

__all__ = ["activation_of", "architecture_of", "import_flow", "make_density"]

_DEFAULTS = {"activation": "ReLU", "bound": 5.0, "slope": 1e-3}
_TOLD_BY_ARRAYS = ("features", "context", "transforms", "hidden_features", "residual", "normalize", "passes")
_NOT_NEEDED = ("randperm", "order", "adjacency")  # the buffers say it
_ARGUMENTS = ("bins", *_DEFAULTS, *_TOLD_BY_ARRAYS, *_NOT_NEEDED)


def import_flow(
    source: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    architecture: Mapping[str, Any] | None = None,
    standardisation: Mapping[str, tuple[float, float]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    sum_weights: float | None = None,
) -> Flow:
    """A flow with the density of a zuko ``NSF`` or ``MAF``.

    It is evaluated in the precision of its arguments, float64 for all users, whatever the precision of its weights.

    Splines, and activations such as ReLU, have kinks: read the warning of
    :class:`~zfit_fnf.densities.bijectors.RationalQuadraticSpline` before you trust errors from Hessians.

    Args:
        source: The flow itself; or its state dict, a mapping of arrays or a file: ``.pt`` or ``.pth`` (written by
            ``torch.save``, read with ``weights_only``), ``.safetensors`` or ``.npz``.
        obs: Names of its features.
        cond: Names of its context.
        architecture: For a state dict: the arguments of the zuko class, at least ``bins`` for an ``NSF``. Those left out
            are zuko's defaults (ReLU) or follow from the arrays, with which those given are compared. ``slope`` is
            1e-3; give 1e-4 for models of zuko 1.3 and 1.4. ``activation`` is the name of the class.
        standardisation: ``(mean, width)`` of columns by which the training sample was standardised: the flow was
            trained on ``(column - mean) / width``. Default ``(0, 1)``.
        ranges: Physical ``(low, high)`` of observables that were brought to the real line before: by
            ``log((y - low) / (high - y))``, or the logarithm of the distance to the one edge that they have.
        sum_weights: Summed weights of the events it describes: the nominal yield that variations refer to.

    Raises:
        ImportError: If PyTorch is needed and missing.
        TypeError: If the flow is of another kind.
        ValueError: If names, arrays and architecture do not fit together.

    Example:
        >>> module = zuko.flows.NSF(features=2, context=1, bins=8)
        >>> flow = import_flow(module, obs=["y1", "y2"], cond=["x"])
    """
    check_arguments(obs, cond, ranges, sum_weights)
    if not isinstance(architecture, (Mapping, type(None))):
        raise TypeError(f'architecture= is a mapping such as {{"bins": 8}}; got {architecture!r:.100}')
    if is_module(source):
        if architecture is not None:
            raise ValueError("a live module says its architecture itself: leave architecture= out")
        architecture = architecture_of(source)
    elif architecture is None:
        raise ValueError(
            "a state dict does not say everything about its flow: give the arguments of the zuko class, such as "
            'architecture={"bins": 8, "activation": "ReLU"}'
        )
    arrays = _without_prefix(read_arrays(source))
    density = make_density(arrays, architecture)
    return Flow(obs, cond, ranges=ranges, density=density, standardisation=standardisation, sum_weights=sum_weights)


# --- from arrays and architecture to the density --------------------------------------------------------------------


def make_density(arrays: Mapping[str, np.ndarray], architecture: Mapping[str, Any]) -> ZukoDensity:
    """The density of a state dict.

    Args:
        arrays: The state dict, with the names that it has in a flow of zuko.
        architecture: As for :func:`import_flow`.

    Raises:
        ValueError: If arrays and architecture do not fit together, or arrays are left over.
    """
    if unknown := sorted(set(architecture) - set(_ARGUMENTS)):
        raise ValueError(f"architecture= has {unknown}, which are not arguments of a zuko NSF or MAF")
    left = dict(arrays)
    n_dim = _take_base(left, slope_is_given="slope" in architecture)
    indices = sorted({int(match[1]) for name in left if (match := _TRANSFORM.match(name))})
    if indices != list(range(len(indices))) or not indices:
        raise ValueError(f"transforms {indices} of the flow are there; expected all from 0")
    weights = [_take_transform(left, f"transform.transforms.{index}.", n_dim) for index in indices]
    if left:
        raise ValueError(
            f"{len(left)} arrays do not belong to a zuko NSF or MAF, such as {sorted(left)[0]!r}"
            + (
                "; import_fnf of zfit_fnf.interop.reference reads factorizable flows"
                if _LAYERS_OF_FNF & set(left)
                else ""
            )
        )
    layers = [_layer(w, n_dim, architecture) for w in weights]
    n_context = layers[0].network.widths[0] - (n_dim if n_dim > 1 else 0)
    _compare(architecture, layers, n_dim, n_context)
    density = ZukoDensity(n_dim, n_context, layers, dtype=common_dtype(weights))
    for transform, w in zip(density.layers, weights, strict=True):
        w.assign_to(transform.network)
    return density


_TRANSFORM = re.compile(r"transform\.transforms\.(\d+)\.")
_LAYERS_OF_FNF = {"central_nuisance_values", "nuisance_scales"}


def _take_base(left: dict[str, np.ndarray], *, slope_is_given: bool) -> int:
    """Number of features, from the base; it has to be standard normal."""
    names = next(
        (pair for pair in (("base.loc", "base.scale"), ("base._0", "base._1")) if set(pair) <= set(left)), None
    )
    if names is None:
        raise ValueError("the base of the flow is missing (base.loc and base.scale, or base._0 and base._1)")
    loc, scale = (left.pop(name) for name in names)
    if np.any(loc != 0.0) or np.any(scale != 1.0):
        raise ValueError("the base of the flow is not standard normal: it is neither an NSF nor a MAF")
    if names[0] == "base._0" and not slope_is_given:
        warn(
            "this state dict was written by zuko 1.5 or older: the slope is taken to be 1e-3, as in 1.5. If the flow was "
            'trained with 1.3 or 1.4, its density is another one: give architecture={"slope": 1e-4, ...}'
        )
    return len(loc)


def _take_transform(left: dict[str, np.ndarray], prefix: str, n_dim: int) -> NetworkWeights:
    left.pop(f"{prefix}order", None)  # the masks say the same
    count = sum(name.startswith(f"{prefix}phi.") for name in left)
    if not count:
        return NetworkWeights.take(left, f"{prefix}hyper.", masked=n_dim > 1)
    # A single coordinate without context: the parameters themselves, as a network without inputs would give them.
    phi = np.concatenate([left.pop(f"{prefix}phi.{place}").reshape(-1) for place in range(count)])
    return NetworkWeights([(0,)], [np.zeros((0, phi.size), phi.dtype)], [phi], np.zeros((phi.size, 0), bool))


def _layer(weights: NetworkWeights, n_dim: int, architecture: Mapping[str, Any]) -> ZukoLayer:
    chosen = {**_DEFAULTS, **architecture}
    network, bins = weights.shape(chosen["activation"]), architecture.get("bins", 0)
    needed = n_dim * (3 * bins - 1 if bins else 2)
    if network.widths[-1] != needed:
        raise ValueError(
            f"a network gives {network.widths[-1]} numbers for {n_dim} features; "
            + (
                f"an NSF with bins={bins} needs {needed}"
                if bins
                else f"a MAF needs {needed}, an NSF has bins= in architecture="
            )
        )
    passes = _generations(weights.dependence, n_dim) if n_dim > 1 else 1
    bound, slope = float(chosen["bound"]), float(chosen["slope"])
    return ZukoLayer("spline" if bins else "affine", bins, bound, slope, network, passes)


def _generations(dependence: np.ndarray, n_dim: int) -> int:
    """Length of the longest chain of features that depend on each other."""
    needs = dependence.reshape(n_dim, -1, dependence.shape[1])[:, :, :n_dim].any(axis=1)
    known = np.zeros(n_dim, bool)
    for generation in range(1, n_dim + 1):
        known = known | ~(needs & ~known).any(axis=1)
        if known.all():
            return generation
    raise ValueError("the masks of a network let features depend on themselves: this is not an autoregressive flow")


def _compare(architecture: Mapping[str, Any], layers: Sequence[ZukoLayer], n_dim: int, n_context: int) -> None:
    """Refuse an architecture that the arrays contradict."""
    first = layers[0].network
    known = {
        "features": n_dim,
        "context": n_context,
        "transforms": len(layers),
        "hidden_features": list(first.widths[1:-1]),
        "residual": first.residual,
        "normalize": first.normalize,
    }
    for name, value in known.items():
        given = architecture.get(name, value)
        if (list(given) if name == "hidden_features" else given) != value:
            raise ValueError(f"architecture= has {name}={given}, but the arrays say {value}")
    if (architecture.get("passes") or n_dim) < max(layer.passes for layer in layers):
        raise ValueError(f"architecture= has passes={architecture['passes']}, but the masks need more")


def _without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under the names that they have in a flow alone, which may have been part of a larger module."""
    prefixes = {
        name[: match.start()] for name in arrays if (match := re.search(r"(?<![^.])transform\.transforms\.\d", name))
    }
    if len(prefixes) != 1:
        raise ValueError(
            f"expected the arrays of one zuko flow (transform.transforms...), found those of {len(prefixes)}"
        )
    (prefix,) = prefixes
    return {name.removeprefix(prefix): array for name, array in arrays.items()}


def architecture_of(module: Any) -> dict[str, Any]:
    """The arguments of the zuko class that the arrays do not say, read off a live flow.

    Raises:
        TypeError: If it is neither an NSF nor a MAF.
    """
    transforms = getattr(getattr(module, "transform", None), "transforms", None)
    if transforms is None:
        raise TypeError(f"expected an NSF or MAF of zuko, got {type(module).__name__}")
    found = [_architecture_of_transform(transform) for transform in transforms]
    if any(architecture != found[0] for architecture in found):
        raise TypeError(f"the transforms of this {type(module).__name__} differ in their architecture: {found}")
    return found[0]


def _architecture_of_transform(transform: Any) -> dict[str, Any]:
    law: Any = getattr(transform, "univariate", None)
    arguments = dict(law.keywords) if isinstance(law, functools.partial) else {}
    law = getattr(law, "func", law)
    name = getattr(law, "__name__", type(transform).__name__)
    if type(transform).__name__ not in ("MaskedAutoregressiveTransform", "ElementWiseTransform") or name not in (
        "MonotonicAffineTransform",
        "MonotonicRQSTransform",
    ):
        raise TypeError(
            f"transforms of the kind {type(transform).__name__} of {name} cannot be imported: NSF and MAF can"
        )
    defaults = {key: parameter.default for key, parameter in inspect.signature(law).parameters.items()}
    architecture: dict[str, Any] = {
        key: arguments.get(key, defaults[key]) for key in ("slope", "bound") if key in defaults
    }
    if name == "MonotonicRQSTransform":
        architecture["bins"] = int(transform.shapes[0][0])
    if activation := activation_of(getattr(transform, "hyper", transform)):
        architecture["activation"] = activation
    return architecture


def activation_of(network: Any) -> str | None:
    """Name in ``ACTIVATIONS`` of the activation of a live network; none if it has none.

    Raises:
        TypeError: If the activation has arguments, or there are several.
        ValueError: If it is not known.
    """
    leaves = [part for part in network.modules() if not list(part.children()) and not part.state_dict()]
    used = {repr(part): part for part in leaves if type(part).__name__ != "LayerNorm"}
    if len(used) > 1 or any(text != repr(type(part)()) for text, part in used.items()):
        raise TypeError(
            f"networks with the activations {list(used)} cannot be imported: one, with default arguments, can"
        )
    return next((activation_name(type(part)) for part in used.values()), None)

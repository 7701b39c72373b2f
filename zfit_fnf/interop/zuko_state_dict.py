"""State dicts of PyTorch modules as arrays, and the networks in them."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.optional import require
from .zuko_architecture import NetworkShape
from .zuko_density import ACTIVATIONS, ZukoNetwork

__all__ = ["NetworkWeights", "activation_name", "common_dtype", "is_module", "read_arrays"]

_LINEAR = re.compile(r"(\d+)(?:\.(\d+))?\.weight")


def read_arrays(source: Any) -> dict[str, np.ndarray]:
    """The state dict of a live module, a mapping or a file, as arrays.

    Args:
        source: As for :func:`import_flow`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If PyTorch is needed and missing.
        TypeError: If it is nothing of these.
        ValueError: If the file is not readable, or contains more than arrays.
    """
    if isinstance(source, (str, os.PathLike)):
        source = _read_file(Path(source))
    elif is_module(source):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(f"expected a module of zuko, its state dict, or a file with that; got {type(source).__name__}")
    arrays = {str(name): _as_array(value) for name, value in source.items()}
    if wrong := [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]:
        raise ValueError(f"{wrong[0]!r} of the state dict is not an array of numbers: give the state dict alone")
    if bad := [name for name, array in arrays.items() if not np.all(np.isfinite(array))]:
        raise ValueError(f"array {bad[0]!r} of the state dict has numbers that are not finite")
    return arrays


def _read_file(path: Path) -> Any:
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; give the file with the state dict")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise ValueError(f"{path.name!r} is none of {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except ImportError:
        raise
    except Exception as error:  # each library has its own
        raise ValueError(f"{path.name!r} cannot be read as a state dict: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    torch = require("torch", extra="torch")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise ImportError(
            f"PyTorch {torch.__version__} may execute what is in a .pt file (CVE-2025-32434): upgrade to 2.6 or later, or "
            "save the state dict as .npz"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _as_array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def is_module(source: Any) -> bool:
    """Whether this is a live PyTorch module, seen without importing PyTorch."""
    return not isinstance(source, Mapping) and hasattr(source, "state_dict")


@dataclass(frozen=True)
class NetworkWeights:
    """The linear maps of a network in order, and their masks.

    Attributes:
        positions: Places in the network; two numbers inside of a residual block.
        matrices: Weights ``(inputs, outputs)``, with the masks multiplied in.
        biases: Biases ``(outputs,)``.
        dependence: Which outputs of the network depend on which inputs ``(outputs, inputs)``, along the masks.
    """

    positions: list[tuple[int, ...]]
    matrices: list[np.ndarray]
    biases: list[np.ndarray]
    dependence: np.ndarray

    @classmethod
    def take(cls, left: dict[str, np.ndarray], prefix: str, *, masked: bool) -> NetworkWeights:
        """Take a network out of a state dict, in which all its arrays have this prefix.

        Raises:
            ValueError: If the network, or a mask that it needs, is missing.
        """
        found = [
            match for name in left if name.startswith(prefix) and (match := _LINEAR.fullmatch(name[len(prefix) :]))
        ]
        positions = sorted(tuple(int(place) for place in match.groups() if place is not None) for match in found)
        if not positions:
            raise ValueError(f"the network {prefix.rstrip('.')!r} is missing")
        names = [prefix + ".".join(map(str, position)) for position in positions]
        if masked and (missing := [name for name in names if f"{name}.mask" not in left]):
            raise ValueError(f"the mask {missing[0] + '.mask'!r} is missing: keep the buffers in the state dict")
        weights = {name: left.pop(f"{name}.weight") for name in names}
        masks = {name: left.pop(f"{name}.mask", np.ones_like(weight)) for name, weight in weights.items()}
        biases = {name: left.pop(f"{name}.bias", np.zeros_like(weight[:, 0])) for name, weight in weights.items()}
        for (before, w), (after, following) in itertools.pairwise(weights.items()):
            if w.shape[0] != following.shape[1]:
                raise ValueError(f"the outputs of {before!r} are not as many as the inputs of {after!r}")
        if wrong := [n for n, w in weights.items() if (masks[n].shape, biases[n].shape) != (w.shape, w.shape[:1])]:
            raise ValueError(f"weight, bias and mask of {wrong[0]!r} have shapes that do not fit together")
        return cls(
            positions,
            [(weights[name] * masks[name]).T for name in names],
            list(biases.values()),
            _dependence(positions, list(masks.values())),
        )

    def shape(self, activation: Any) -> NetworkShape:
        """The architecture of the network.

        Args:
            activation: Name or class of the activation.

        Raises:
            ValueError: If it is not a network as zuko makes them, or the activation is not known.
        """
        residual = any(len(position) == 2 for position in self.positions)
        outputs = [matrix.shape[1] for matrix in self.matrices]
        hidden = outputs[:-1]
        if residual:
            hidden = [n for position, n in zip(self.positions, outputs, strict=True) if position[1:] == (0,)]
        normalize = self.positions[1:2] == [(3,)]
        shape = NetworkShape(
            (self.matrices[0].shape[0], *hidden, outputs[-1]), activation_name(activation), residual, normalize
        )
        step = 3 if normalize else 2
        regular = residual or self.positions == [(step * place,) for place in range(len(self.positions))]
        if not regular or shape.linears != tuple(matrix.shape for matrix in self.matrices):
            raise ValueError(f"a network with linear maps at {self.positions} is not one that zuko makes")
        return shape

    def assign_to(self, network: ZukoNetwork) -> None:
        """Set the weights of a network of this shape."""
        for variable, value in zip(network.weights + network.biases, self.matrices + self.biases, strict=True):
            variable.assign(value)


def common_dtype(weights: Sequence[NetworkWeights]) -> str:
    """``"float64"`` if any of the networks needs it, else ``"float32"``."""
    return "float64" if any(matrix.dtype == np.float64 for w in weights for matrix in w.matrices) else "float32"


def _dependence(positions: Sequence[tuple[int, ...]], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Which outputs of a network depend on which inputs ``(outputs, inputs)``, along its masks."""
    reached = np.eye(masks[0].shape[1], dtype=bool)
    for position, mask in zip(positions, masks, strict=True):
        # What goes into the first map of a residual block is added to what comes out of the second.
        if position[1:] == (0,):
            kept = reached
        reached = (mask.astype(float) @ reached) > 0
        if len(position) == 2 and position[1] > 0:
            reached |= kept
    return reached


def activation_name(given: Any) -> Any:
    """Name in ``ACTIVATIONS`` of an activation that is given by its name or class."""
    name = given if isinstance(given, str) else getattr(given, "__name__", str(given))
    known = {key.lower(): key for key in ACTIVATIONS}
    if name.lower() not in known:
        raise ValueError(
            f"networks with the activation {name} cannot be imported; those that can have {list(ACTIVATIONS)}"
        )
    return known[name.lower()]

"""Architectures of networks and transforms that are imported: plain data, without anything that computes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

__all__ = ["NetworkShape", "ZukoLayer"]


@dataclass(frozen=True)
class NetworkShape:
    """Architecture of a network that zuko makes.

    Attributes:
        widths: Units of the layers, from the inputs to the outputs.
        activation: Name in ``ACTIVATIONS``.
        residual: Whether the hidden layers are residual blocks.
        normalize: Whether the values of each hidden layer are normalised.
    """

    widths: tuple[int, ...]
    activation: Literal["ELU", "GELU", "LeakyReLU", "ReLU", "SELU", "SiLU", "Sigmoid", "Tanh"]
    residual: bool = False
    normalize: bool = False

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each linear map, in order; a residual block has two, and needs none before it."""
        if not self.residual:
            return tuple(itertools.pairwise(self.widths))
        maps: list[tuple[int, int]] = []
        for before, after in itertools.pairwise(self.widths[:-1]):
            maps += [] if maps and before == after else [(before, after)]
            maps += [(after, after), (after, after)]
        return (*maps, self.widths[-2:])  # type: ignore[arg-type]


@dataclass(frozen=True)
class ZukoLayer:
    """Architecture of one transform.

    Attributes:
        law: ``"affine"`` or ``"spline"``.
        bins: Bins of the spline, 0 for the affine law.
        bound: Half-width of the box of the spline.
        slope: Smallest slope.
        network: The network, from the coordinates and the context (for a single coordinate: from the context) to the
            parameters of the law.
        passes: Evaluations of the network that the inverse needs.
    """

    law: Literal["affine", "spline"]
    bins: int
    bound: float
    slope: float
    network: NetworkShape
    passes: int

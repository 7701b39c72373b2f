"""Masked networks: the autoregressive conditioners of every density and deformation.

A conditioner maps ``d`` inputs and ``m`` context values to ``p`` numbers per input, such that the numbers of input
``j`` depend on the context and on the inputs ``0 .. j-1`` only (MADE, arXiv:1502.03509). The activation is SiLU
throughout: the likelihood has to be smooth in the nuisances, and they move the *inputs* of the networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from ..common.checks import DEEPEST, WIDEST, integer, listed

__all__ = ["MaskedMLP", "StackedMLP", "hidden_widths", "last_hidden_layer", "silu"]


class MaskedMLP(tf.Module):
    """Autoregressive multilayer perceptron with SiLU activations.

    Units that see the context alone come first in every layer. What they contribute is computed by :meth:`precompute`, once
    for events that stay while the inputs move; :meth:`outputs` computes the rest.

    Weights are kept in ``dtype``; the arithmetic follows the dtype of the inputs, so that a network trained in float32
    is evaluated in float64 without a second copy.

    Args:
        n_inputs: Number ``d`` of inputs.
        n_context: Number ``m >= 0`` of context values, seen by every output.
        n_outputs: Numbers ``p`` per input.
        hidden: Widths of the hidden layers.
        seed: Seed of the initial weights.
        zero_init: Start with all outputs exactly zero (used by deformations, which start as the identity).
        dtype: Storage type of the weights.
    """

    def __init__(
        self,
        n_inputs: int,
        n_context: int,
        n_outputs: int,
        *,
        hidden: Sequence[int],
        seed: int,
        zero_init: bool = False,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.n_inputs, self.n_context, self.n_outputs = n_inputs, n_context, n_outputs
        self.hidden = self.widths(n_inputs, n_context, n_outputs, hidden)[1:-1]
        degrees = _degrees(n_inputs, n_context, n_outputs, self.hidden)
        # A unit of degree k sees the context and the first k inputs.
        self._masks = [(before[:, None] <= after).astype(float) for before, after in itertools.pairwise(degrees)]
        self._n_fixed = [int(np.sum(layer == 0)) for layer in degrees]
        rng = np.random.default_rng(seed)
        self.weights, self.biases = [], []
        for layer, mask in enumerate(self._masks):
            fan_in = np.maximum(mask.sum(axis=0), 1.0)
            kernel = rng.normal(size=mask.shape) * mask / np.sqrt(fan_in)
            if zero_init and layer == len(self._masks) - 1:
                kernel = np.zeros_like(kernel)
            self.weights.append(tf.Variable(kernel, dtype=dtype, name=f"weights_{layer}"))
            self.biases.append(tf.Variable(np.zeros(mask.shape[1]), dtype=dtype, name=f"biases_{layer}"))

    def prior(self, spread: float = 1.0) -> list[tuple[tf.Variable, np.ndarray]]:
        """Each variable with the inverse variances of its Gaussian prior around zero, the distribution of initial weights.

        Under it outputs are smooth functions of the order of ``spread``, whatever the widths of the layers are.
        """
        pairs = []
        for layer, (mask, kernel, biases) in enumerate(zip(self._masks, self.weights, self.biases, strict=True)):
            scale = 1.0 / spread**2 if layer == len(self._masks) - 1 else 1.0
            fan_in = np.maximum(mask.sum(axis=0), 1.0)
            pairs.append((kernel, scale * np.broadcast_to(fan_in, mask.shape)))
            pairs.append((biases, np.full(biases.shape, scale)))
        return pairs

    @property
    def shape(self) -> tuple[int, int, int, tuple[int, ...]]:
        """Inputs, context values, outputs per input and widths of the hidden layers."""
        return self.n_inputs, self.n_context, self.n_outputs, self.hidden

    @staticmethod
    def widths(n_inputs: int, n_context: int, n_outputs: int, hidden: Sequence[int]) -> tuple[int, ...]:
        """Units of every layer, from the inputs to the outputs; hidden layers that would be constants are left out."""
        used = tuple(hidden) if n_inputs > _lowest_degree(n_context) else ()
        return (n_context + n_inputs, *used, n_inputs * n_outputs)

    def __call__(self, inputs: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """Evaluate the network.

        Args:
            inputs: ``(n, d)``.
            context: ``(n, m)``.

        Returns:
            ``(n, d, p)`` in the dtype of the inputs.
        """
        return self.complete(inputs, self.precompute(context))

    def complete(self, inputs: tf.Tensor, precomputed: tuple[tf.Tensor, list[tf.Tensor]]) -> tf.Tensor:
        """Outputs ``(n, d, p)`` of all inputs, with what :meth:`precompute` has made of the context."""
        first, contributions = precomputed
        first = tf.broadcast_to(first, (*first.shape[:-3], tf.shape(inputs)[0], 1, self.n_outputs))
        return tf.concat([first, self.outputs(inputs, contributions)], axis=-2) if self.n_inputs > 1 else first

    def precompute(self, context: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """What depends on the context alone.

        Args:
            context: ``(n, m)``.

        Returns:
            The outputs ``(n, 1, p)`` of the first input, and the contributions ``(n, width)`` to the moving units of
            every layer. Without a context there is one row for all events.
        """
        layer = context
        contributions = []
        for index, (kernel, biases) in enumerate(zip(*self._parameters(context.dtype), strict=True)):
            n_in, n_out = self._n_fixed[index : index + 2]
            if n_in:
                layer = (silu(layer) if index else layer) @ kernel[..., :n_in, :] + biases
            else:  # a product with nothing, which ends the process where oneDNN fuses it
                layer = tf.zeros((1, 1), context.dtype) + biases
            layer, moving = layer[..., :n_out], layer[..., n_out:]
            contributions.append(moving)
        return layer[..., None, :], contributions

    def outputs(self, inputs: tf.Tensor, contributions: Sequence[tf.Tensor]) -> tf.Tensor:
        """Outputs ``(n, d - 1, p)`` of all inputs but the first, given the contributions of the context."""
        layer = inputs
        for index, (kernel, contribution) in enumerate(
            zip(self.moving_kernels(inputs.dtype), contributions, strict=True)
        ):
            if index:
                layer = silu(layer)
            layer = contribution + layer @ kernel
        return tf.reshape(layer, (*layer.shape[:-2], -1, self.n_inputs - 1, self.n_outputs))

    def moving_kernels(self, dtype: tf.DType) -> list[tf.Tensor]:
        """Weights ``(moving units before, moving units)`` of every layer, from the inputs to the outputs."""
        fixed = itertools.pairwise(self._n_fixed)
        kernels, _ = self._parameters(dtype)
        return [kernel[..., n_in:, n_out:] for kernel, (n_in, n_out) in zip(kernels, fixed, strict=True)]

    def _parameters(self, dtype: tf.DType) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Masked weights ``(units before, units)`` and biases ``(units,)`` of every layer."""
        masks = (tf.constant(mask, dtype) for mask in self._masks)
        kernels = [tf.cast(weights, dtype) * mask for weights, mask in zip(self.weights, masks, strict=True)]
        return kernels, [tf.cast(biases, dtype) for biases in self.biases]


class StackedMLP(MaskedMLP):
    """Networks of one shape that see the same events, evaluated together as batched matrix products.

    What it takes is as for one network; everything that it returns has the networks as an additional first axis.

    Args:
        networks: The networks, which keep their weights.
    """

    def __init__(self, networks: Sequence[MaskedMLP]):
        tf.Module.__init__(self)
        one = networks[0]
        self.networks = list(networks)
        self.n_inputs, self.n_context, self.n_outputs, self.hidden = one.shape
        self._masks, self._n_fixed = one._masks, one._n_fixed

    def _parameters(self, dtype: tf.DType) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        kernels, biases = zip(*(network._parameters(dtype) for network in self.networks), strict=True)
        return [tf.stack(layer) for layer in zip(*kernels, strict=True)], [
            tf.stack(layer)[:, None, :] for layer in zip(*biases, strict=True)
        ]


def last_hidden_layer(network: MaskedMLP, context: np.ndarray) -> np.ndarray:
    """Values ``(n, H + 1)`` of the last hidden layer, and one, of a network that sees its context ``(n, m)`` alone; float64."""
    layer = np.asarray(context, float)
    for kernel, biases in zip(network.weights[:-1], network.biases[:-1], strict=True):
        layer = layer @ kernel.numpy()[: layer.shape[1]].astype(float) + biases.numpy()
        layer = silu(tf.constant(layer)).numpy()
    return np.column_stack([layer, np.ones(len(layer))])


def silu(x: tf.Tensor) -> tf.Tensor:
    """Activation ``x`` times the logistic function of ``x``."""
    # tf.nn.silu has a gradient of its own, which TensorFlow registers, with the graph that it is in, for good.
    return x * tf.sigmoid(x)


def hidden_widths(hidden: Sequence[int] | None, n_inputs: int, *, least: int = 64) -> tuple[int, ...]:
    """Widths of the hidden layers: those asked for, or two layers that leave every input of a masked network enough units.

    Args:
        hidden: What the user asks for; none is the default, an empty list makes a linear map.
        n_inputs: Number of inputs, between which the units are shared out.
        least: Smallest width by default.

    Raises:
        TypeError: If it is not a list of integers.
        ValueError: If a width is not positive.
    """
    if hidden is None:
        return (max(least, 16 * n_inputs),) * 2
    widths = listed(hidden, "hidden", "[64, 64]")
    if len(widths) > DEEPEST:
        raise ValueError(f"hidden has the widths of at most {DEEPEST} layers, got {len(widths)}")
    return tuple(integer(width, "each width in hidden", low=1, high=WIDEST) for width in widths)


def _lowest_degree(n_context: int) -> int:
    """Without a context the first input has nothing to depend on: hidden units of degree 0 would be constants."""
    return 0 if n_context else 1


def _degrees(n_inputs: int, n_context: int, n_outputs: int, hidden: Sequence[int]) -> list[np.ndarray]:
    """Degree of every unit, layer by layer: those of hidden units are shared out evenly, in ascending order."""
    lowest = _lowest_degree(n_context)
    inputs = np.concatenate([np.zeros(n_context, int), np.arange(1, n_inputs + 1)])
    shares = [np.sort(lowest + np.arange(width) % max(n_inputs - lowest, 1)) for width in hidden]
    return [inputs, *shares, np.repeat(np.arange(n_inputs), n_outputs)]

r"""The likelihood of tag and probe, as a function of what is linear in features of the conditions.

.. math::
    p(m, \mathrm{pass} | c) &= s\, \varepsilon\, S(m | c) + (1 - s)\, \varepsilon_B\, B_\mathrm{pass}(m | c) \\
    p(m, \mathrm{fail} | c) &= s\, (1 - \varepsilon)\, S(m | c) + (1 - s)\, (1 - \varepsilon_B)\, B_\mathrm{fail}(m | c)

The sum over both, integrated over the mass, is one. The logits of the efficiency :math:`\varepsilon`, of that of the
background and of the share :math:`s` of the signal are linear in the outputs of the last hidden layer of a network of
:math:`c`; coefficients of the shapes are linear in :math:`c`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from .shapes import MassShape, nodes

__all__ = ["HEADS", "Likelihood", "log_integral", "log_normalised"]

HEADS = 3  # efficiency, that of the background, and share of the signal


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of mass and outcome given the conditions.

    Attributes:
        signal: Shape of the signal, of passing and of failing probes.
        background: That of the background, with other coefficients for passing and for failing probes.
        n_nodes: Of the quadrature over the mass.
    """

    signal: MassShape
    background: MassShape
    n_nodes: int = 40

    @property
    def start(self) -> np.ndarray:
        """Coefficients of all shapes, where a fit starts."""
        return np.array([*self.signal.start, *self.background.start, *self.background.start])

    def log_prob(self, eta: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Log-probability ``(n,)``.

        Args:
            eta: Logits and coefficients ``(n, 3 + P)``.
            t: Mass ``(n,)``, from -1 to 1.
            passing: One for probes that pass, else zero, ``(n,)``.
            x: Conditions ``(n, m)``.
        """
        of_signal, of_pass, of_fail = self._coefficients(eta)
        chosen = tf.where(passing[:, None] > 0.5, of_pass, of_fail)
        sign = 2.0 * passing - 1.0
        log_s, log_b = -tf.nn.softplus(-eta[:, 2]), -tf.nn.softplus(eta[:, 2])
        signal = log_s - tf.nn.softplus(-sign * eta[:, 0]) + log_normalised(self.signal, t, of_signal, x, self.n_nodes)
        background = (
            log_b - tf.nn.softplus(-sign * eta[:, 1]) + log_normalised(self.background, t, chosen, x, self.n_nodes)
        )
        return tf.reduce_logsumexp(tf.stack([signal, background]), axis=0)

    def integral_error(self, eta: tf.Tensor, x: tf.Tensor) -> float:
        """By how much the integral of a shape is wrong at most, by eight times as many nodes."""
        shapes = zip((self.signal, self.background, self.background), self._coefficients(eta), strict=True)
        both = [[log_integral(shape, a, x, n * self.n_nodes) for n in (1, 8)] for shape, a in shapes]
        return max(float(tf.reduce_max(tf.abs(tf.math.expm1(here - there)))) for here, there in both)

    def _coefficients(self, eta: tf.Tensor) -> list[tf.Tensor]:
        """Those of the signal, and of the background of passing and of failing probes."""
        n_signal, n_background = len(self.signal.start), len(self.background.start)
        found: list[tf.Tensor] = tf.split(eta[:, HEADS:], [n_signal, n_background, n_background], axis=1)
        return found


def log_normalised(shape: MassShape, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor, n_nodes: int = 40) -> tf.Tensor:
    """Logarithm of a shape, divided by its integral."""
    return shape.log_shape(t, a, x) - log_integral(shape, a, x, n_nodes)


def log_integral(shape: MassShape, a: tf.Tensor, x: tf.Tensor, n_nodes: int) -> tf.Tensor:
    """Logarithm of the integral ``(n,)`` of a shape over the window."""
    at, weights = (tf.constant(values, a.dtype) for values in nodes(n_nodes))
    everywhere = tf.tile(at, tf.shape(a)[:1])  # of each event in turn
    values = shape.log_shape(everywhere, tf.repeat(a, n_nodes, axis=0), tf.repeat(x, n_nodes, axis=0))
    return tf.reduce_logsumexp(tf.reshape(values, (-1, n_nodes)) + tf.math.log(weights), axis=1)

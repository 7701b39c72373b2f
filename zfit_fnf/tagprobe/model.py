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

__all__ = ["HEADS", "Likelihood", "log_normalised"]

HEADS = 3  # efficiency, that of the background, and share of the signal
_NODES = 40


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of mass and outcome given the conditions.

    Attributes:
        signal: Shape of the signal, of passing and of failing probes.
        background: That of the background, with other coefficients for passing and for failing probes.
    """

    signal: MassShape
    background: MassShape

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
        n_signal, n_background = len(self.signal.start), len(self.background.start)
        of_signal = eta[:, HEADS : HEADS + n_signal]
        of_pass = eta[:, HEADS + n_signal : HEADS + n_signal + n_background]
        chosen = tf.where(passing[:, None] > 0.5, of_pass, eta[:, HEADS + n_signal + n_background :])
        sign = 2.0 * passing - 1.0
        log_s, log_b = -tf.nn.softplus(-eta[:, 2]), -tf.nn.softplus(eta[:, 2])
        signal = log_s - tf.nn.softplus(-sign * eta[:, 0]) + log_normalised(self.signal, t, of_signal, x)
        background = log_b - tf.nn.softplus(-sign * eta[:, 1]) + log_normalised(self.background, t, chosen, x)
        return tf.reduce_logsumexp(tf.stack([signal, background]), axis=0)


def log_normalised(shape: MassShape, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Logarithm of a shape, divided by its integral."""
    at, weights = (tf.constant(values, t.dtype) for values in nodes(_NODES))
    everywhere = tf.tile(at, tf.shape(t))  # of each event in turn
    values = shape.log_shape(everywhere, tf.repeat(a, _NODES, axis=0), tf.repeat(x, _NODES, axis=0))
    integral = tf.reduce_logsumexp(tf.reshape(values, (-1, _NODES)) + tf.math.log(weights), axis=1)
    return shape.log_shape(t, a, x) - integral

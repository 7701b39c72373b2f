r"""The likelihood of tag and probe, as a function of what is linear in features of the conditions.

.. math::
    p(m, \mathrm{pass} | c) &= s\, \varepsilon\, S_\mathrm{pass}(m | c)
        + (1 - s)\, \varepsilon_B\, B_\mathrm{pass}(m | c) \\
    p(m, \mathrm{fail} | c) &= s\, (1 - \varepsilon)\, S_\mathrm{fail}(m | c)
        + (1 - s)\, (1 - \varepsilon_B)\, B_\mathrm{fail}(m | c)

The sum over both, integrated over the mass, is one. The logits of the efficiency :math:`\varepsilon`, of that of the
background and of the share :math:`s` of the signal are linear in the outputs of the last hidden layer of a network of
:math:`c`; coefficients of the shapes are linear in :math:`c`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from .shapes import MassShape

__all__ = ["HEADS", "Likelihood", "Quadrature", "log_integral", "log_normalised"]

_PANELS = 8
HEADS = 3  # efficiency, that of the background, and share of the signal


@dataclass(frozen=True)
class Quadrature:
    """Integrals over the mass, by Gauss-Legendre nodes in each of some panels.

    Attributes:
        panels: Edges of the panels, from -1 to 1.
        n_nodes: Nodes in each.
    """

    panels: tuple[float, ...] = tuple(np.linspace(-1, 1, _PANELS + 1))
    n_nodes: int = 5

    @classmethod
    def of(cls, t: np.ndarray) -> Quadrature:
        """Panels that are narrow where there are many pairs: half of them for equal numbers, half equally wide."""
        edges = np.quantile(np.concatenate([t, np.linspace(-1, 1, len(t))]), np.linspace(0, 1, _PANELS + 1))
        return cls((-1.0, *map(float, edges[1:-1]), 1.0))

    def nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights."""
        at, weights = np.polynomial.legendre.leggauss(self.n_nodes)
        edges = np.array(self.panels)
        half = 0.5 * np.diff(edges)[:, None]
        return (edges[:-1, None] + half * (1 + at)).ravel(), (half * weights).ravel()

    def finer(self, factor: int) -> Quadrature:
        """The same with more nodes in each panel."""
        return replace(self, n_nodes=factor * self.n_nodes)


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of mass and outcome given the conditions.

    Attributes:
        signals: Shape of the signal; or two, of passing and of failing probes, each with coefficients of its own.
        backgrounds: Shapes of the background of passing and of failing probes, each with coefficients of its own.
        quadrature: Of integrals over the mass.
    """

    signals: tuple[MassShape, ...]
    backgrounds: tuple[MassShape, MassShape]
    quadrature: Quadrature = Quadrature()

    @property
    def shapes(self) -> tuple[MassShape, ...]:
        """All shapes."""
        return (*self.signals, *self.backgrounds)

    @property
    def start(self) -> np.ndarray:
        """Coefficients of all shapes, where a fit starts."""
        return np.concatenate([shape.start for shape in self.shapes])

    def log_prob(self, eta: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Log-probability ``(n,)``.

        Args:
            eta: Logits and coefficients ``(n, 3 + P)``.
            t: Mass ``(n,)``, from -1 to 1.
            passing: One for probes that pass, else zero, ``(n,)``.
            x: Conditions ``(n, m)``.
        """
        sign = 2.0 * passing - 1.0
        log_signal, log_background = self.log_masses(eta, t, passing, x)
        log_s, log_b = -tf.nn.softplus(-eta[:, 2]), -tf.nn.softplus(eta[:, 2])
        signal = log_s - tf.nn.softplus(-sign * eta[:, 0]) + log_signal
        background = log_b - tf.nn.softplus(-sign * eta[:, 1]) + log_background
        return tf.reduce_logsumexp(tf.stack([signal, background]), axis=0)

    def log_masses(self, eta: tf.Tensor, t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-densities ``(n,)`` of the mass given the outcome, of the signal and of the background."""
        parts = self._coefficients(eta)
        n_signals = len(self.signals)
        return (
            self._of_outcome(self.signals, parts[:n_signals], t, passing, x),
            self._of_outcome(self.backgrounds, parts[n_signals:], t, passing, x),
        )

    def of_outcome(self, eta: tf.Tensor, passing: bool) -> list[tuple[MassShape, tf.Tensor]]:
        """Shape and coefficients of the signal, and of the background, of passing or of failing probes."""
        both, n = list(zip(self.shapes, self._coefficients(eta), strict=True)), len(self.signals)
        return [both[0 if passing else n - 1], both[n if passing else n + 1]]

    def integral_error(self, eta: tf.Tensor, x: tf.Tensor) -> float:
        """By how much the integral of a shape is wrong at most, by eight times as many nodes; infinite if one is not finite."""
        worst = 0.0
        for shape, a in zip(self.shapes, self._coefficients(eta), strict=True):
            here, there = (log_integral(shape, a, x, self.quadrature.finer(n)) for n in (1, 8))
            error = float(tf.reduce_max(tf.abs(tf.math.expm1(here - there))))
            worst = max(worst, error if np.isfinite(error) else np.inf)
        return worst

    def _of_outcome(
        self, shapes: tuple[MassShape, ...], parts: list[tf.Tensor], t: tf.Tensor, passing: tf.Tensor, x: tf.Tensor
    ) -> tf.Tensor:
        """Log-density of the mass by the shape of the outcome."""
        if len(shapes) == 1:
            return log_normalised(shapes[0], t, parts[0], x, self.quadrature)
        if shapes[0] is shapes[1]:
            chosen = tf.where(passing[:, None] > 0.5, *parts)
            return log_normalised(shapes[0], t, chosen, x, self.quadrature)
        return tf.where(
            passing > 0.5,
            *(log_normalised(shape, t, a, x, self.quadrature) for shape, a in zip(shapes, parts, strict=True)),
        )

    def _coefficients(self, eta: tf.Tensor) -> list[tf.Tensor]:
        """Those of each shape."""
        found: list[tf.Tensor] = tf.split(eta[:, HEADS:], [len(shape.start) for shape in self.shapes], axis=1)
        return found


def log_normalised(
    shape: MassShape, t: tf.Tensor, a: tf.Tensor, x: tf.Tensor, quadrature: Quadrature | None = None
) -> tf.Tensor:
    """Logarithm of a shape, divided by its integral."""
    return shape.log_shape(t, a, x) - log_integral(shape, a, x, quadrature or Quadrature())


def log_integral(shape: MassShape, a: tf.Tensor, x: tf.Tensor, quadrature: Quadrature) -> tf.Tensor:
    """Logarithm of the integral ``(n,)`` of a shape over the window."""
    at, weights = (tf.constant(values, a.dtype) for values in quadrature.nodes())
    n_nodes = len(quadrature.nodes()[0])
    everywhere = tf.tile(at, tf.shape(a)[:1])  # of each event in turn
    values = shape.log_shape(everywhere, tf.repeat(a, n_nodes, axis=0), tf.repeat(x, n_nodes, axis=0))
    return tf.reduce_logsumexp(tf.reshape(values, (-1, n_nodes)) + tf.math.log(weights), axis=1)

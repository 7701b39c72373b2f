"""The exact densities of `ShiftSqueeze` as zfit PDFs: maps are studied without any training of a density."""

from __future__ import annotations

from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

import zfit_fnf as zfnf
from zfit_fnf import Nuisance
from zfit_fnf.datasets import ShiftSqueeze
from zfit_fnf.param import values_of
from zfit_fnf.pdf import UNBOUNDED, LogSpacePDF

__all__ = ["ExactPDF", "exact_mixture"]


class ExactPDF(LogSpacePDF):
    """Density of one process of the toy, ``p(x, y | shift, squeeze)`` or that of ``x`` alone."""

    def __init__(
        self,
        toy: ShiftSqueeze,
        process: str,
        params: dict[str, Any],
        *,
        only_x: bool = False,
        extended: Any = None,
        name: str | None = None,
        label: str | None = None,
    ):
        self._arguments = {"toy": toy, "process": process, "params": params, "only_x": only_x, "extended": extended}
        self._arguments |= {"name": name, "label": label}
        columns = toy.x if only_x else toy.x + toy.y
        obs = zfit.Space(columns[0], -UNBOUNDED, UNBOUNDED)
        for column in columns[1:]:
            obs = obs * zfit.Space(column, -UNBOUNDED, UNBOUNDED)
        self._toy, self._sign, self._only_x = toy, -1.0 if process == "A" else 1.0, only_x
        self._centre, self._width = (toy.center_a, toy.sigma_a) if process == "A" else (toy.center_b, toy.sigma_b)
        self.cond = ()
        self.ranges = dict.fromkeys(columns, (-UNBOUNDED, UNBOUNDED))
        super().__init__(obs=obs, params=params, extended=extended, name=name or process, label=label)

    def _precompute(self, x: tf.Tensor) -> tf.Tensor:
        return x

    def _log_shape(self, precomputed: tf.Tensor) -> tf.Tensor:
        toy, sign = self._toy, self._sign
        shift, squeeze = tf.unstack(tf.cast(values_of([self.params[n] for n in toy.nuisances]), precomputed.dtype))
        columns = tf.unstack(precomputed, axis=1)
        a = sign * toy.squeeze_x * squeeze
        z1 = (columns[0] - sign * toy.shift_x * shift - self._centre[0]) / self._width[0]
        z2 = (columns[1] - self._centre[1]) / self._width[1]
        log_x = -0.5 * ((z1 * tf.exp(a)) ** 2 + (z2 * tf.exp(-a)) ** 2) - np.log(2 * np.pi * np.prod(self._width))
        if self._only_x:
            return tf.cast(log_x, tf.float64)
        x1, x2, y1, y2 = columns
        moved = sign * toy.shift_y * shift * tf.tanh(x1)
        b = sign * toy.squeeze_y * squeeze
        width1 = tf.math.softplus(toy.width1[0] * x1 + toy.width1[1])
        width2 = tf.math.softplus(toy.width2[0] * x1 + toy.width2[1])
        r1 = (y1 - tf.sin(toy.frequency * x1) - toy.slope * x2 - moved) / width1 * tf.exp(-b)
        r2 = (y2 - toy.curvature * x1**2 + toy.offset - toy.amplitude * tf.sin(x2) + moved) / width2 * tf.exp(b)
        rho = toy.rho * tf.tanh(0.5 * (x1 + x2))
        left = 1.0 - rho**2
        log_y = -0.5 * (r1**2 - 2 * rho * r1 * r2 + r2**2) / left - 0.5 * tf.math.log(left)
        return tf.cast(log_x + log_y - np.log(2 * np.pi) - tf.math.log(width1 * width2), tf.float64)

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        toy, sign, n = self._toy, self._sign, tf.shape(context)[0]
        shift, squeeze = tf.unstack(values_of([self.params[n] for n in toy.nuisances]))
        normal = tf.unstack(zfit.z.random.normal((n, 4), dtype=tf.float64), axis=1)
        a, b = sign * toy.squeeze_x * squeeze, sign * toy.squeeze_y * squeeze
        x1 = self._centre[0] + self._width[0] * tf.exp(-a) * normal[0] + sign * toy.shift_x * shift
        x2 = self._centre[1] + self._width[1] * tf.exp(a) * normal[1]
        if self._only_x:
            return tf.stack([x1, x2], axis=1)
        moved, rho = sign * toy.shift_y * shift * tf.tanh(x1), toy.rho * tf.tanh(0.5 * (x1 + x2))
        width1 = tf.math.softplus(toy.width1[0] * x1 + toy.width1[1]) * tf.exp(b)
        width2 = tf.math.softplus(toy.width2[0] * x1 + toy.width2[1]) * tf.exp(-b)
        y1 = tf.sin(toy.frequency * x1) + toy.slope * x2 + moved + width1 * normal[2]
        second = rho * normal[2] + tf.sqrt(1.0 - rho**2) * normal[3]
        y2 = toy.curvature * x1**2 - toy.offset + toy.amplitude * tf.sin(x2) - moved + width2 * second
        return tf.stack([x1, x2, y1, y2], axis=1)


def exact_mixture(
    toy: ShiftSqueeze, *, only_x: bool = False, n_events: float | None = None
) -> tuple[zfit.pdf.BasePDF, list[Nuisance]]:
    """The 50/50 mixture of both processes, with shared nuisances.

    Args:
        toy: The toy.
        only_x: Whether it is the density of ``x`` alone.
        n_events: Expected number of events; if it is given, the model has a signal strength ``mu`` for process A and a free
            yield ``n_B`` for process B.
    """
    nuisances = [zfnf.nuisance(name) for name in toy.nuisances]
    params = dict(zip(toy.nuisances, nuisances, strict=True))
    if n_events is None:
        parts = [ExactPDF(toy, process, params, only_x=only_x) for process in toy.processes]
        return zfnf.pdf.SumPDF(parts, fracs=[0.5]), nuisances
    half = 0.5 * n_events
    yields = {
        "A": zfnf.modified_yield(half, [zfit.Parameter("mu", 1.0, 0.0, 5.0)]),
        "B": zfit.Parameter("n_B", half, 0.0, 10.0 * half),
    }
    parts = [ExactPDF(toy, process, params, only_x=only_x, extended=yields[process]) for process in toy.processes]
    return zfnf.pdf.SumPDF(parts), nuisances

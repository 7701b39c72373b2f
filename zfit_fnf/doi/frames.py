"""Frames of displacements: running means and widths of coordinates under their conditions."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ..densities.displacement import Displacement

__all__ = ["fit_frames", "middle"]

_SMALLEST = 1e-3  # of the width of a coordinate: residuals below it do not make a frame narrower


def fit_frames(displacement: Displacement, index: int, v: np.ndarray, c: np.ndarray, weights: np.ndarray) -> None:
    """Running mean and width of each coordinate of one map, by regression on the conditions and the coordinates before it.

    Args:
        displacement: What gets the frames.
        index: Number of the map.
        v: Coordinates ``(n, d)``.
        c: Conditions ``(n, m)``.
        weights: Weights of the events ``(n,)``; negative ones count as zero.
    """
    weights = np.maximum(weights, 0.0)
    for j, frame in enumerate(displacement.frames):
        functions = np.asarray(displacement.frame_functions(tf.constant(v), tf.constant(c), j), float)
        own = v[:, j].astype(float)
        mean = _weighted_regression(functions, own, weights)
        residuals = np.abs(own - functions @ mean)
        typical = np.sqrt(np.average(residuals**2, weights=weights))
        log_width = _weighted_regression(functions, np.log(np.maximum(residuals, _SMALLEST * typical)), weights)
        relative = residuals * np.exp(-(functions @ log_width))
        log_width[0] += 0.5 * np.log(np.average(relative**2, weights=weights))
        values = frame.numpy()
        values[index] = [mean, log_width]
        frame.assign(values)


def _weighted_regression(functions: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weighted = functions * weights[:, None]
    matrix = functions.T @ weighted
    matrix += 1e-4 * np.diag(np.diag(matrix)) + 1e-12 * np.eye(len(matrix))
    return np.linalg.solve(matrix, weighted.T @ target)


def middle(displacement: Displacement, v: tf.Tensor, c: tf.Tensor, index: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    """The middle ``(n, d)`` of the frames of a displacement, and how far events are from it: the logarithm of what it falls by.

    Args:
        displacement: What has the frames.
        v: Coordinates of the events ``(n, d)``.
        c: Their conditions ``(n, m)``.
        index: Number of the map.
    """
    found, falls = tf.unstack(tf.zeros_like(v), axis=1), tf.zeros_like(v[:, 0])
    for j, frames in enumerate(displacement.frames):
        there, here = (
            tf.matmul(displacement.frame_functions(at, c, j), tf.cast(frames[index], v.dtype), transpose_b=True)
            for at in (tf.stack(found, axis=1), v)
        )
        found[j] = there[:, 0]
        falls += tf.math.log1p(tf.square((v[:, j] - here[:, 0]) * tf.exp(-here[:, 1])))
    return tf.stack(found, axis=1), falls

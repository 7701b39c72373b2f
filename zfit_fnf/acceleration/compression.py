r"""Coefficients of many nuisances in a smaller number of combinations.

The coefficients of a deformation are smooth functions of an event, and those of many nuisances are much alike. For every
output ``o`` (log-scale and shift of each coordinate) the principal components ``P_o (M, R_o)`` of the ``M`` coefficients
are found, and their products with the events are what an evaluation reads from memory:

.. math:: \sum_m b_m C_{moi} \approx \sum_r (b^T P_o)_r \, (P_o^T C_o)_{ri} .
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

__all__ = ["Blocks", "compress", "contract", "left_out", "principal_components"]

Blocks = list[tuple[tf.Tensor, tf.Tensor]]
"""Pairs of projections ``(M, R)`` and tables ``(R, n)``; the results of all of them stand side by side."""

_FEW = 32  # monomials for which it is not worth while
_WORTH_WHILE = 0.8  # of the size that the coefficients have as they are


def principal_components(
    coefficients: tf.Tensor, n_outputs: int, tolerance: float, known: Sequence[tf.Tensor] = ()
) -> list[tf.Tensor]:
    """The combinations that describe the coefficients of some events.

    Args:
        coefficients: ``(M, n_outputs n)``.
        n_outputs: Number of outputs.
        tolerance: Root mean square of what is left out of an output, for monomials with unit variance.
        known: Projections for other events, which remain among those that are found.

    Returns:
        Projections ``(M, R_o)``, one for each output; a single one, the identity, if they would not be much fewer.
    """
    n_monomials = coefficients.shape[0]
    identity = [tf.eye(n_monomials)]
    if n_monomials <= _FEW:
        return identity
    projections = []
    before = [np.asarray(projection, float) for projection in known] or [np.zeros((n_monomials, 0))] * n_outputs
    for table, spanned in zip(_by_output(coefficients, n_outputs), before, strict=True):
        beyond = np.eye(n_monomials) - spanned @ spanned.T
        variances, axes = np.linalg.eigh(beyond @ _second_moments(table) @ beyond)
        smaller = np.sqrt(np.cumsum(np.clip(variances, 0.0, None)))  # they are in ascending order
        n_left_out = min(np.count_nonzero(smaller <= tolerance), n_monomials - 1)
        orthonormal, _ = np.linalg.qr(np.concatenate([spanned, axes[:, n_left_out:]], axis=1))
        projections.append(tf.constant(orthonormal, tf.float32))
    n_combinations = sum(projection.shape[1] for projection in projections)
    return projections if n_combinations <= _WORTH_WHILE * n_monomials * n_outputs else identity


def left_out(coefficients: tf.Tensor, n_outputs: int, projections: list[tf.Tensor]) -> float:
    """What projections leave out of the coefficients of some events, as the tolerance of `principal_components`."""
    if len(projections) < n_outputs:
        return 0.0
    pairs = zip(_by_output(coefficients, n_outputs), projections, strict=True)
    rests = [table - projection @ tf.matmul(projection, table, transpose_a=True) for table, projection in pairs]
    return float(np.sqrt(max(np.trace(_second_moments(rest)) for rest in rests)))


def compress(coefficients: tf.Tensor, projections: list[tf.Tensor]) -> Blocks:
    """Coefficients ``(M, n_outputs n)`` in the combinations of each output."""
    if len(projections) == 1:
        return [(projections[0], coefficients)]
    pairs = zip(projections, _by_output(coefficients, len(projections)), strict=True)
    return [(projection, tf.matmul(projection, table, transpose_a=True)) for projection, table in pairs]


def contract(basis: tf.Tensor, blocks: Blocks) -> tf.Tensor:
    """The sum over all monomials, ``(n_outputs n,)``, with their values ``basis (M,)``."""
    return tf.concat([(basis[None, :] @ projection @ table)[0] for projection, table in blocks], axis=0)


def _by_output(coefficients: tf.Tensor, n_outputs: int) -> Iterable[tf.Tensor]:
    return tf.split(coefficients, n_outputs, axis=1)


def _second_moments(table: tf.Tensor) -> np.ndarray:
    values = np.asarray(table, float)
    return values @ values.T / values.shape[1]

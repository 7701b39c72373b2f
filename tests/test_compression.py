"""Coefficients in fewer combinations: what is left out is known, and nothing is left out where that gains little."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf.acceleration.compression import compress, contract, left_out, principal_components

N_MONOMIALS, N_OUTPUTS, N_EVENTS = 60, 4, 500


def coefficients(n_functions: int, *, noise: float = 0.0, seed: int = 0) -> tf.Tensor:
    """Every output is made of some functions of the event."""
    rng = np.random.default_rng(seed)
    mixed = [
        rng.normal(size=(N_MONOMIALS, n_functions)) @ rng.normal(size=(n_functions, N_EVENTS)) for _ in range(N_OUTPUTS)
    ]
    table = np.concatenate(mixed, axis=1)
    return tf.constant(table + noise * rng.normal(size=table.shape), tf.float32)


def test_as_many_combinations_as_there_are_functions():
    table = coefficients(3)
    projections = principal_components(table, N_OUTPUTS, 1e-3)
    assert [projection.shape for projection in projections] == [(N_MONOMIALS, 3)] * N_OUTPUTS
    basis = tf.constant(np.random.default_rng(1).normal(size=N_MONOMIALS), tf.float32)
    # Sums of 60 products of size one in float32.
    np.testing.assert_allclose(
        contract(basis, compress(table, projections)), tf.linalg.matvec(table, basis, transpose_a=True), atol=2e-4
    )


@pytest.mark.parametrize("tolerance", [0.05, 0.2])
def test_no_more_is_left_out_than_is_tolerated(tolerance):
    """Fourteen functions, each half the size of the one before."""
    rng = np.random.default_rng(2)
    sizes = 0.5 ** np.arange(14)
    mixed = rng.normal(size=(N_MONOMIALS, 14)) * sizes @ rng.normal(size=(14, N_EVENTS))
    table = tf.constant(np.tile(mixed, N_OUTPUTS), tf.float32)
    projections = principal_components(table, N_OUTPUTS, tolerance)
    fewer = [projection[:, 1:] for projection in projections]
    assert left_out(table, N_OUTPUTS, projections) <= tolerance < left_out(table, N_OUTPUTS, fewer)


def test_other_events_show_what_is_left_out():
    projections = principal_components(coefficients(3), N_OUTPUTS, 1e-3)
    assert left_out(coefficients(3), N_OUTPUTS, projections) < 1e-3
    assert left_out(coefficients(3, seed=1), N_OUTPUTS, projections) > 1.0


def test_projections_that_are_known_stay_among_those_that_are_found():
    """Data sets of one density share them: what is found for the second one has to serve the first one as well."""
    first, second = coefficients(3), coefficients(3, seed=1)
    known = principal_components(first, N_OUTPUTS, 1e-3)
    both = principal_components(second, N_OUTPUTS, 1e-3, known)
    assert [projection.shape[1] for projection in both] == [6] * N_OUTPUTS
    for table in (first, second):
        assert left_out(table, N_OUTPUTS, both) < 1e-3


@pytest.mark.parametrize("table", [coefficients(3)[:30], coefficients(3, noise=1.0)], ids=["few", "incompressible"])
def test_what_gains_nothing_stays_as_it_is(table):
    projections = principal_components(table, N_OUTPUTS, 1e-3)
    ((projection, same),) = compress(table, projections)
    np.testing.assert_array_equal(projection, np.eye(len(table)))
    assert same is table
    assert left_out(table, N_OUTPUTS, projections) == 0.0


def test_coefficients_that_are_zero():
    table = tf.zeros((N_MONOMIALS, N_OUTPUTS * N_EVENTS))
    projections = principal_components(table, N_OUTPUTS, 1e-3)
    assert [projection.shape[1] for projection in projections] == [1] * N_OUTPUTS
    np.testing.assert_array_equal(contract(tf.ones(N_MONOMIALS), compress(table, projections)), 0.0)

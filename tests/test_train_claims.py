"""How much of a response is true: factors that events confirm, and what multiplying by them does."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf.densities.polynomial_map import PolynomialMap, Response
from zfit_fnf.train.claims import Points, Scored, shares
from zfit_fnf.train.score_correction import scale

N = 100_000
SIDES = np.array([[1.0], [-1.0]])


def scored(tilt, *, moved=1.0, noise=0.0):
    """Events of N(0, 1), and of two samples that are known to be moved, with their densities times ``exp(+-tilt y^2)``.

    The coefficient is ``tilt y^2``, and noise that no event knows of.
    """
    rng = np.random.default_rng(0)
    precision = 1.0 - 2.0 * tilt * SIDES[:, 0]
    nominal = rng.normal(size=N)
    others = [(moved + np.sqrt(p) * rng.normal(size=N)) / p for p in precision]
    coefficients = [(tilt * y**2 + noise * rng.normal(size=N))[:, None] for y in (nominal, *others)]
    return Scored(coefficients, [np.ones(N)] * 3, [np.exp(moved * nominal)] * 2)


@pytest.mark.parametrize("moved", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_factors_of_events_that_are_known_to_have_moved(moved, noise):
    """As of joint samples, where the nuisances of an interaction have moved the events already.

    The variance of ``y^2`` is ``2 + 4 moved^2`` there. Third cumulants change a factor by ``(24 + 48) tilt^2 / 6``, 0.5 %.
    """
    tilt = 0.02
    events = scored(tilt, moved=moved, noise=noise)
    found, error = shares(events, Points(SIDES, SIDES, np.array([1, 2])))
    true = tilt**2 * (2.0 + 4.0 * moved**2)
    assert found == pytest.approx([true / (true + noise**2)], abs=0.01 + 4.0 * error.item())
    assert error < 0.1


def test_paired_events_know_factors_better():
    events = scored(0.02, moved=0.0)
    nominal = events.coefficients[0]
    shifted = [nominal * (1.0 + 0.04), nominal * (1.0 - 0.04)]
    paired = Scored([nominal, *shifted], events.weights, events.expected)
    points = Points(SIDES, SIDES, np.array([1, 2]))
    assert shares(paired, points, paired=True)[1] < 0.1 * shares(paired, points)[1]


def test_one_factor_of_all_coefficients():
    """Of two coefficients, one of them noise, that agree with events together by as much as they claim together."""
    events = scored(0.02)
    rng = np.random.default_rng(1)
    both = [np.column_stack([values, 0.05 * rng.normal(size=N)]) for values in events.coefficients]
    events, phi = Scored(both, events.weights, events.expected), np.hstack([SIDES, np.ones((2, 1))])
    points = Points(phi, phi, np.array([1, 2]))
    apart, errors = shares(events, points)
    assert apart == pytest.approx([1.0, 0.0], abs=0.01 + 4.0 * errors.max())
    together, errors = shares(events, points, together=True)
    true = 0.02**2 * 6.0
    assert together == pytest.approx([true / (true + 0.05**2)] * 2, abs=0.01 + 4.0 * errors.max())


def test_a_response_is_multiplied_monomial_by_monomial():
    """What an interaction adds to the coefficients of its nuisances alone likewise: without its monomials it adds nothing."""
    rng = np.random.default_rng(0)
    shape, pair = {"n_dim": 1, "n_context": 0, "hidden": (2,)}, ((1, 1), (1, 2), (2, 1), (2, 2))
    singles = [Response([name], ((1,), (2,)), **shape) for name in ("a", "b")]
    response = Response(["a", "b"], pair, n_single=4, **shape)
    response.correction.assign(rng.normal(size=response.correction.shape))
    windows = {"a": (-1.0, 1.0), "b": (-1.0, 1.0)}
    before = PolynomialMap([*singles, response], windows=windows).correction().numpy()
    factors = np.array([1.0, 0.5, 0.0, 2.0])
    scale(response, np.diag(factors))
    after = PolynomialMap([*singles, response], windows=windows)
    nu = tf.constant([0.7, -0.4], tf.float64)
    monomials = after.monomials(nu).numpy()
    expected = monomials * np.append(np.ones(4), factors)
    expected = expected + expected @ before
    np.testing.assert_allclose(after.basis(nu), expected, rtol=1e-12)

"""Yields that are polynomials of couplings, morphing, and shapes that depend on a parameter without constraint."""

from __future__ import annotations

import pickle

import zfit
import numpy as np
import pytest
import tensorflow as tf
from analytic import GaussianDeformation, GaussianFlow
from numpy.polynomial import Polynomial as Series

import zfit_fnf as zfnf
from zfit_fnf.couplings import morphed_yields, polynomial
from zfit_fnf.pdf import FNFPDF, SumPDF
from zfit_fnf.pdf.base import LogSpacePDF

A, B = 0.6, 1.2  # interference and square, of y and its square; positive, since A**2 < 4 B
POINTS = (-1.0, 0.5, 2.0)


def density(y, c):
    """Expected density of events in (-1, 1), quadratic in the coupling."""
    return 500.0 * (1 + A * c * y + B * c**2 * y**2)


def expected(c):
    return 1000.0 * (1 + B * c**2 / 3)


class AtCoupling(LogSpacePDF):
    """The density at one value of the coupling, as a learned one would be."""

    def __init__(self, c, extended):
        self._arguments, self.c, self.cond, self.ranges = {}, c, (), {"y": (-1.0, 1.0)}
        super().__init__(obs=zfit.Space("y", -1, 1), extended=extended, name=f"at_{c}")

    def _precompute(self, x):
        return x[:, 0]

    def _log_shape(self, precomputed):
        return tf.math.log(density(precomputed, self.c) / expected(self.c))


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(1)
    y = rng.uniform(-1, 1, rng.poisson(2 * density(1.0, 0.8)))
    return y[rng.uniform(0, density(1.0, 0.8), len(y)) < density(y, 0.8)]


@pytest.fixture(scope="module")
def morphed(events):
    c = zfit.Parameter("c", 0.7, -2, 2)
    yields = morphed_yields(c, {(one,): expected(one) for one in POINTS})
    model = SumPDF([AtCoupling(one, extended=n) for one, n in zip(POINTS, yields, strict=True)])
    return c, model, zfnf.loss.ExtendedUnbinnedNLL(model, {"y": events})


def exact_derivatives(y, c):
    """First and second derivative of the negative log-likelihood."""
    ratio = density(y, c)
    first, second = 500.0 * (A * y + 2 * B * c * y**2), 1000.0 * B * y**2
    gradient = 2000.0 * B * c / 3 - np.sum(first / ratio)
    return gradient, 2000.0 * B / 3 - np.sum(second / ratio - (first / ratio) ** 2)


@pytest.mark.parametrize("value", [-1.4, 0.0, 0.8])
def test_morphing_is_the_polynomial(morphed, events, value):
    c, model, nll = morphed
    with zfit.param.set_values([c], [value]):
        assert float(model.get_yield().value()) == pytest.approx(expected(value), rel=1e-12)
        found = model.log_pdf({"y": events[:50]}).numpy()
        np.testing.assert_allclose(found, np.log(density(events[:50], value) / expected(value)), atol=1e-12)
        gradient, hessian = exact_derivatives(events, value)
        assert float(nll.gradient([c])[0]) == pytest.approx(gradient, rel=1e-9, abs=1e-7)
        assert float(nll.hessian([c])[0, 0]) == pytest.approx(hessian, rel=1e-9)


def test_fit_of_a_coupling_is_the_exact_one(morphed, events):
    c, _, nll = morphed
    result = zfnf.Minuit(tol=1e-4).minimize(nll)
    value, at = result.params[c]["value"], 0.8
    for _ in range(30):
        gradient, hessian = exact_derivatives(events, at)
        at -= gradient / hessian
    assert value == pytest.approx(at, abs=0.01 * hessian**-0.5)
    assert result.hesse()[c]["error"] == pytest.approx(hessian**-0.5, rel=1e-3)


@pytest.mark.parametrize("unit", [1.0, 1e-8, 1e9])
def test_morphing_does_not_depend_on_units(unit):
    """Of couplings in 1 / GeV^2, the squares were taken for rounding errors: yields were wrong by up to 44 %."""
    c = zfit.Parameter("c", 0.5 * unit, -5 * unit, 5 * unit)
    yields = morphed_yields(c, {(value * unit,): expected(value) for value in POINTS})
    for value in (0.0, 0.5, 1.7, -3.0):
        c.set_value(value * unit)
        assert sum(float(one.value()) for one in yields) == pytest.approx(expected(value), rel=1e-12)


def test_polynomials_of_two_couplings_are_morphed_exactly():
    c = [zfit.Parameter(f"morphed_{k}", v, -3, 3) for k, v in enumerate((0.7, -0.4))]
    true = lambda a, b: 100.0 * (1 + 0.2 * a - 0.3 * b + 0.5 * a**2 + 0.1 * a * b + 0.4 * b**2)  # noqa: E731
    points = [
        (0.0, 0.0),
        (1.0, 0.0),
        (-1.0, 0.0),
        (0.0, 1.0),
        (0.0, -1.0),
        (1.0, 1.0),
        (1.0, -1.0),
    ]  # one more than needed
    yields = morphed_yields(c, {point: true(*point) for point in points})
    assert sum(float(n.value()) for n in yields) == pytest.approx(true(0.7, -0.4), rel=1e-12)


def test_interference_of_a_strength():
    mu = zfit.Parameter("interfering", 0.5, 1e-3, 5)
    n = zfnf.modified_yield(100.0, [polynomial(mu, {(1,): 1.0, (0.5,): -0.3})])
    with tf.GradientTape() as tape:
        value = n.value()
    assert float(value) == pytest.approx(100 * (0.5 - 0.3 * 0.5**0.5), rel=1e-12)
    assert float(tape.gradient(value, mu)) == pytest.approx(100 * (1 - 0.15 * 0.5**-0.5), rel=1e-12)
    assert n.to_dict()["modifiers"] == [
        {"type": "polynomial", "parameters": ["interfering"], "terms": [[[1.0], 1.0], [[0.5], -0.3]]}
    ]
    assert float(pickle.loads(pickle.dumps(n)).value()) == float(n.value())


def test_derivatives_exist_where_a_coupling_is_zero():
    c = zfit.Parameter("zero", 0.0, -2, 2)
    n = zfnf.modified_yield(10.0, [polynomial(c, {(0,): 1.0, (1,): 0.2, (2,): 0.4, (3,): 1.0})])
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = n.value()
        slope = inner.gradient(value, c)
    assert float(slope) == pytest.approx(2.0, rel=1e-12)
    assert float(outer.gradient(slope, c)) == pytest.approx(8.0, rel=1e-12)


def test_shapes_depend_on_parameters_without_constraint():
    """A coupling that moves a Gaussian by ``t_1 c + t_2 c^2``, next to a nuisance that scales it: all in closed form."""
    flow = GaussianFlow([0.0], [1.0], obs=["y"])
    response = {"c": ((0.0, -0.5), (0.0, -0.1)), "jes": ((0.05, 0.0), (0.0, 0.0))}
    c, jes = zfit.Parameter("moving", 0.2, -1.0, 4.0), zfnf.nuisance("jes_of_moving")
    pdf = FNFPDF(GaussianDeformation(flow, response), params={"c": c, "jes": jes})
    events = np.random.default_rng(2).normal(0.9, 1.0, 4000)
    nll = zfnf.loss.UnbinnedNLL(pdf, {"y": events})
    constrained = [one.name for constraint in nll.constraints for one in constraint.get_params(floating=True)]
    assert constrained == ["jes_of_moving"]
    result = zfnf.Minuit(tol=1e-4).minimize(nll)
    # The mean of the events, scaled, is what the coupling moves.
    mean = events.mean() * np.exp(0.05 * result.params[jes]["value"])
    (root,) = (one for one in (Series([0.0, 0.5, 0.1]) - mean).roots() if one > -1)
    errors = {one: found["error"] for one, found in result.hesse([c, jes]).items()}
    assert result.params[c]["value"] == pytest.approx(root, abs=0.02 * errors[c])
    # The width of 4000 events measures the scale to 1 in sqrt(8000), the mean of unknown width moves with it.
    assert errors[jes] == pytest.approx((1 + 0.05**2 * 8000) ** -0.5, rel=0.02)
    of_mean = np.hypot(4000**-0.5, 0.05 * errors[jes] * mean)
    assert errors[c] == pytest.approx(of_mean / (0.5 + 0.2 * root), rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: polynomial("c", {(1,): 1.0}), "one of parameters of zfit"),
        (lambda c: polynomial(c, {1: 1.0}), "numbers by the exponents"),
        (lambda c: polynomial(c, {(1, 2): 1.0}), "needs 1 exponents"),
        (lambda c: polynomial(c, {(-1,): 1.0}), "exponent"),
        (lambda c: polynomial(c, {(1,): np.nan}), "coefficient"),
        (lambda c: polynomial(c, {(0.5,): 1.0}), "derivative is infinite"),
        (lambda c: morphed_yields(c, {0.0: 1.0}), "numbers by the values"),
        (lambda c: morphed_yields(c, {(0.0,): 1.0, (1.0,): 1.0}), "simulate as many values"),
        (lambda c: morphed_yields(c, {(0.0,): 1.0, (1.0,): 1.0, (1.0 + 1e-12,): 1.0}), "do not tell"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(zfit.Parameter("refused", 0.0, -1, 1))

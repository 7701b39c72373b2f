"""Probabilities in parts of the range, against quadrature and closed forms."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
import tensorflow as tf
from analytic import GaussianDeformation, GaussianFlow
from scipy import stats
from untrained import random_deformation

from zfit_fnf.densities.flows import Flow
from zfit_fnf.loss import UnbinnedNLL
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF, UNBOUNDED, ConditionalProductPDF, FlowPDF
from zfit_fnf.pdf.regions import TOLERANCE

EXACT = 1e-7  # relative: quadrature, and rounding in networks that are stored in float32


@pytest.fixture
def nuisances():
    return {name: nuisance(name) for name in ("jes", "jer")}


def move(nuisances, *values: float) -> None:
    for nu, value in zip(nuisances.values(), values, strict=True):
        nu.set_value(value)


def box(**ranges: tuple[float, float]) -> zfit.Space:
    lower, upper = zip(*ranges.values(), strict=True)
    return zfit.Space(list(ranges), lower=list(lower), upper=list(upper))


ALL = (-UNBOUNDED, UNBOUNDED)


def quadrature(pdf, n: int, **ranges: tuple[float, float]) -> float:
    """Gauss-Legendre; what is unbounded ends where nothing is left."""
    x, w = np.polynomial.legendre.leggauss(n)
    halves = [(min(high, 30) - max(low, -30)) / 2 for low, high in ranges.values()]
    axes = [
        half * x + (min(high, 30) + max(low, -30)) / 2
        for half, (low, high) in zip(halves, ranges.values(), strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    weights = np.prod(np.stack(np.meshgrid(*[half * w for half in halves], indexing="ij"), axis=-1), axis=-1)
    return float(np.sum(weights.ravel() * pdf.pdf(points).numpy()))


@pytest.mark.parametrize(
    ("settings", "n_layers"),
    [({}, 1), ({"n_layers": 2}, 2), ({"ranges": {"m": (0.0, 9.0)}}, 1), ({"ranges": {"m": (-np.inf, 9.0)}}, 1)],
)
def test_one_dimension_is_exact(nuisances, settings, n_layers):
    pdf = FNFPDF(random_deformation(Flow(["m"], seed=3, **settings), n_layers=n_layers), nuisances)
    for values in ((0.0, 0.0), (-2.0, 0.5)):
        move(nuisances, *values)
        for low, high in ((1.0, 3.0), (2.0, 2.1), (5.0, 7.0)):
            expected = quadrature(pdf, 200, m=(low, high))
            np.testing.assert_allclose(pdf.integrate((low, high))[0], expected, rtol=EXACT)


def test_far_tails_keep_their_digits():
    flow = Flow(["m"], n_components=1)
    pdf = FlowPDF(flow)
    # One logistic: its widths are exp(-x / s); from the density at the edge, s = (1 / slope) and P = s p(edge).
    edge, step = 400.0, 1e-3
    scale = step / float(pdf.log_pdf([edge])[0] - pdf.log_pdf([edge + step])[0])
    expected = np.log(scale) + float(pdf.log_pdf([edge])[0]) + np.log(-np.expm1(-1.0 / scale))
    assert float(pdf.log_integral(box(m=(edge, edge + 1.0)))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("flow_layers", "map_layers", "ranges"),
    [(1, 1, {"a": ALL, "b": (1, 1.5)}), (1, 2, {"a": (0, 1), "b": (1, 2)}), (2, 1, {"a": (2, 2.2), "b": (-1, -0.9)})],
)
def test_two_dimensions(nuisances, flow_layers, map_layers, ranges):
    flow = Flow(["a", "b"], seed=6, n_layers=flow_layers, hidden=(16,))
    pdf = FNFPDF(random_deformation(flow, n_layers=map_layers), nuisances)
    for values in ((0.0, 0.0), (1.0, -0.5)):
        move(nuisances, *values)
        expected = quadrature(pdf, 400, **ranges)
        assert expected > 1e-4
        np.testing.assert_allclose(pdf.integrate(box(**ranges))[0], expected, rtol=TOLERANCE)


def test_what_is_not_restricted_costs_nothing(nuisances):
    pdf = FNFPDF(random_deformation(Flow(["a", "b", "c"], seed=6)), nuisances)
    pdf.integrate(box(a=(0, 1), b=ALL, c=ALL))
    (region,) = pdf._regions.values()
    assert (region.n_points, region.error) == (1, 0.0)


def test_a_chain_of_conditional_densities(nuisances):
    y = FNFPDF(random_deformation(Flow(["y"], ["x"], seed=7)), nuisances)
    x = FNFPDF(random_deformation(Flow(["x"], seed=8), seed=3), nuisances)
    joint = ConditionalProductPDF([y, x])
    move(nuisances, 0.7, -1.0)
    for ranges in ({"y": (0.0, 1.0), "x": ALL}, {"y": (1.0, 1.5), "x": (-1.0, 0.5)}):
        np.testing.assert_allclose(joint.integrate(box(**ranges))[0], quadrature(joint, 160, **ranges), rtol=TOLERANCE)
    only_x = box(y=ALL, x=(-1.0, 0.5))
    np.testing.assert_allclose(joint.integrate(only_x), x.integrate((-1.0, 0.5)), rtol=1e-12)
    narrow = ConditionalProductPDF([y, x.copy(obs=box(x=(-1.0, 1.0)))])
    expected = quadrature(narrow, 60, y=(0.0, 1.0), x=(-0.5, 0.5))
    np.testing.assert_allclose(narrow.integrate(box(y=(0.0, 1.0), x=(-0.5, 0.5)))[0], expected, rtol=TOLERANCE)


def test_a_chain_with_something_else_is_refused_where_it_matters():
    y = FlowPDF(Flow(["y"], ["x"], seed=7))
    joint = ConditionalProductPDF([y, zfit.pdf.Gauss(0.0, 1.0, obs=zfit.Space("x", -9, 9))])
    exact = stats.norm.cdf(1) - stats.norm.cdf(-1)
    np.testing.assert_allclose(joint.integrate(box(y=ALL, x=(-1.0, 1.0)))[0], exact, rtol=1e-6)
    with pytest.raises(ValueError, match="'Gauss' depends on other factors, or they on it"):
        joint.integrate(box(y=(0.0, 1.0), x=(-9.0, 9.0)))


def test_densities_without_distribution_functions(nuisances):
    deformation = GaussianDeformation(
        GaussianFlow([1.0, -2.0], [0.5, 2.0], obs=["a", "b"]),
        {"jes": ((0.0, -1.0), (0.0, 0.05)), "jer": ((-0.1, 0.0), (0.02, 0.0))},
    )
    pdf = FNFPDF(deformation, nuisances)
    for values in ((0.0, 0.0), (1.5, -1.0)):
        move(nuisances, *values)
        laws = stats.norm(*deformation.moments(values))
        low, high = np.array([1.5, -1.0]), np.array([2.0, np.inf])
        expected = np.prod(laws.cdf(high) - laws.cdf(low))
        part = box(a=(1.5, 2.0), b=(-1.0, UNBOUNDED))
        np.testing.assert_allclose(pdf.integrate(part)[0], expected, rtol=TOLERANCE)


def test_hardly_anything_is_refused():
    names = [f"y{j}" for j in range(8)]
    pdf = FlowPDF(GaussianFlow([0.0] * 8, [1.0] * 8, obs=names))
    with pytest.raises(ValueError, match="cannot be computed"):
        pdf.integrate(box(**dict.fromkeys(names, (1e5, 1e5 + 1))))


def test_derivatives_are_those_of_the_probability(nuisances):
    pdf = FNFPDF(random_deformation(Flow(["a", "b"], seed=6)), nuisances)
    part = box(a=(0.0, 1.0), b=(1.0, 2.0))
    jes = nuisances["jes"]

    def slope(value: float) -> float:
        jes.set_value(value)
        with tf.GradientTape() as tape:
            log_integral = pdf.log_integral(part)
        return float(tape.gradient(log_integral, jes))

    jes.set_value(0.5)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            log_integral = pdf.log_integral(part)
        first = inner.gradient(log_integral, jes)
    second = float(outer.gradient(first, jes))
    h = 1e-4  # errors of the central difference: h^2, and rounding / h
    assert second == pytest.approx((slope(0.5 + h) - slope(0.5 - h)) / (2 * h), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_several_ranges_are_refused():
    """The sum of two spaces is none: such limits were not seen, and the density was that of the whole range."""
    two = zfit.Space("y", -2, -1) + zfit.Space("y", 1, 2)
    pdf = FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]))
    exact = 2 * (stats.norm.cdf(2) - stats.norm.cdf(1))
    assert pdf.integrate(two).numpy() == pytest.approx(exact, rel=1e-4)
    gauss = zfit.pdf.Gauss(0.0, 1.0, obs=two)
    refused = [
        lambda: FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), obs=two),
        lambda: pdf.pdf([1.5], norm=two),
        lambda: UnbinnedNLL(gauss, {"y": [1.5]}),
    ]
    for make in refused:
        with pytest.raises(ValueError, match="one range for each observable: several ranges"):
            make()


def test_bins_of_zfit_are_refused():
    """Where its integrals are made, edges are tensors of a graph."""
    bins = zfit.Space("y", binning=zfit.binned.RegularBinning(4, -2, 2, name="y"))
    pdf = FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), obs=zfit.Space("y", -2, 2), extended=10.0)
    with pytest.raises(
        NotImplementedError, match=r"zfit's to_binned: for learned densities in bins there is zfit_fnf\.pyhf\.export"
    ):
        pdf.to_binned(bins).counts()

"""Accelerated likelihoods of densities with log-ratios give the results of the exact ones."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from untrained import deformed, events, smooth_flow

import zfit_fnf
from zfit_fnf.acceleration import accelerate, chunks
from zfit_fnf.acceleration.chunks import expanded_kernel
from zfit_fnf.loss import ExtendedUnbinnedNLL
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FlowPDF, SumPDF, components
from zfit_fnf.pickling import dumps, loads
from zfit_fnf.toys import asimov
from zfit_fnf.yields import modified_yield


@pytest.fixture(scope="module")
def search():
    """A signal that stays as it is on a background with log-ratios of two nuisances; 3000 weighted events."""
    jes, pdf, mu = nuisance("jes"), nuisance("pdf"), zfit.Parameter("mu", 1.0, -1, 5)
    signal = FlowPDF(smooth_flow(["x"]), extended=modified_yield(1000.0, [mu]))
    background = deformed(smooth_flow(["x"], seed=1), [pdf, jes], weighed=2, extended=modified_yield(2000.0, []))
    model = SumPDF([signal, background])
    data = events(model, {jes: 0.8, pdf: -1.1, mu: 1.3}, 3000, 1)
    weights = np.where(np.arange(3000) % 2, 1.0, np.random.default_rng(1).normal(1.0, 0.5, 3000))
    nll = ExtendedUnbinnedNLL(
        model, zfit.Data(np.stack([data[name] for name in model.obs], 1), model.space, weights=weights)
    )
    return nll, accelerate(nll), [mu, jes, pdf]


@pytest.mark.filterwarnings("ignore:nuisance 'pdf' is at .* outside of the range")  # of data made at -1.1
def test_the_minimum_is_that_of_the_exact_likelihood(search):
    nll, fast, params = search
    fit = zfit_fnf.Minuit(tol=1e-5).minimize(fast)
    assert fit.valid
    assert "log-ratios as they are" in str(fast.report)
    assert fast.report.exact_events == 0
    zfit.param.set_values(params, [fit.params[parameter]["value"] for parameter in params])
    exact = np.linalg.inv(nll.hessian(params).numpy())
    errors = np.sqrt(np.diag(exact))
    assert np.abs(exact @ nll.gradient(params).numpy() / errors).max() < 0.01
    np.testing.assert_allclose(np.sqrt(np.diag(np.linalg.inv(fast.hessian(params).numpy()))), errors, rtol=5e-3)


@pytest.mark.parametrize("point", [(1.0, 0.5, -0.5), (1.5, 2.5, 2.0), (1.0, -3.0, 1.0)])
def test_value_and_gradient_at_any_point(search, point):
    """Also beyond the trained windows, where monomials continue linearly."""
    nll, fast, params = search
    zfit.param.set_values(params, point)
    value, gradient = fast.value_gradient(params, full=False)
    exact, exact_gradient = nll.value_gradient(params, full=False)
    scale = np.abs(exact_gradient).max()
    assert float(value) == pytest.approx(float(exact), abs=max(0.01, 1e-4 * scale))
    np.testing.assert_allclose(gradient, exact_gradient, atol=max(0.05, 1e-2 * scale))


def test_at_the_centre_it_is_exact(search):
    """Where the polynomials were made nothing is neglected but digits."""
    nll, fast, params = search
    zfit.param.set_values(params, [1.2, 0.6, -0.9])
    fast.value()
    fast.expand()
    value, gradient, error = fast.approximate_gradient(params)
    exact, exact_gradient = nll.value_gradient(params)
    assert error == 0.0
    assert float(value) == pytest.approx(float(exact), abs=1e-3)
    np.testing.assert_allclose(gradient, exact_gradient, atol=1e-2)
    np.testing.assert_allclose(fast.hessian(params), nll.hessian(params), rtol=1e-3, atol=0.1)


def test_fewer_directions_at_a_time_where_their_integrals_would_take_much_memory(search, monkeypatch):
    kernel, sizes = expanded_kernel(search[0].model[0]), []
    response = next(part.deformation for part in components(search[0].model[0]) if hasattr(part, "deformation"))
    assert response.reweighting.size == response.reweighting.n_nodes * max(len(r.exponents) for r in response.ratios)

    def function(directions):
        sizes.append(len(directions))
        return (directions,)

    directions = np.random.default_rng(1).normal(size=(5, len(kernel.params)))
    for room in (10.0, 2.5, 0.5):
        monkeypatch.setattr(chunks, "_NUMBERS", room * response.reweighting.size)
        np.testing.assert_array_equal(kernel.in_batches(function, directions)[0], directions)
    n = len(kernel.params)
    assert sizes == [n] * -(-5 // n) + [2] * 3 + [1] * 5


def test_asimov_data_have_their_minimum_where_they_were_made(search):
    nll, _, params = search
    truth = dict(zip(params, (1.2, 0.5, -0.8), strict=True))
    experiment = asimov(nll, params=truth, n_events=2000)
    with zfit.param.set_values({**experiment.observed, **truth}):
        np.testing.assert_allclose(experiment.loss(nll).gradient(params), 0.0, atol=1e-6)


@pytest.mark.slow
def test_it_is_the_same_in_another_process(search):
    """But for the combinations of coefficients, which the other chooses where it is: both err by what they promise."""
    nll, fast, params = search
    zfit.param.set_values(params, [1.3, 0.8, -1.1])  # where the data were made
    low = float(nll.value(full=False))
    zfit.param.set_values(params, [1.0, 0.5, -0.5])
    other, exact = loads(dumps(fast)), float(nll.value(full=False))
    for loss in (fast, other):
        assert float(loss.value(full=False)) == pytest.approx(exact, abs=max(0.005, 0.01 * (exact - low)))

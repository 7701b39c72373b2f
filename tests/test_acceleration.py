"""Accelerated likelihoods give the results of the exact ones, or say that they can't."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
import tensorflow as tf
from analytic import one_dimensional
from untrained import deformed, events, smooth_flow

import zfit_fnf
from zfit_fnf import acceleration
from zfit_fnf.acceleration import AccelerationError, accelerate, chunks
from zfit_fnf.acceleration import polynomials as expanded
from zfit_fnf.densities.deformation import Deformation
from zfit_fnf.densities.flows import Flow
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.limits import upper_limit
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.minimize import Minuit
from zfit_fnf.param import NuisanceConstraint, nuisance
from zfit_fnf.pdf import FNFPDF, ConditionalProductPDF, FlowPDF, SumPDF
from zfit_fnf.scans import contour, profile
from zfit_fnf.yields import modified_yield, normsys

pytestmark = pytest.mark.filterwarnings("ignore:nuisance .* outside of the range:UserWarning")


def minimise(nll, start=0.0):
    """MIGRAD from one point, to an expected vertical distance that is small compared with what is tested."""
    for parameter in nll.get_params():
        if isinstance(parameter, zfit_fnf.Nuisance):
            parameter.set_value(start)
    return Minuit(tol=1e-5).minimize(nll)


def assert_same_minimum(nll, fast, fit, *, within=0.01):
    """A Newton step with exact derivatives leads from the accelerated minimum to the exact one."""
    params = list(fit.params)
    zfit.param.set_values(params, [fit.params[parameter]["value"] for parameter in params])
    exact = np.linalg.inv(nll.hessian(params).numpy())
    errors = np.sqrt(np.diag(exact))
    assert np.abs(exact @ nll.gradient(params).numpy() / errors).max() < within
    accelerated = np.sqrt(np.diag(np.linalg.inv(fast.hessian(params).numpy())))
    np.testing.assert_allclose(accelerated, errors, rtol=5e-3)


@pytest.fixture(scope="module")
def search():
    """Two processes p(x) p(y | x) with a rate each, one learned and one plain background component; 3000 events."""
    jes, jer, mu = nuisance("jes"), nuisance("jer"), zfit.Parameter("mu", 1.0, -1, 5)
    n_sig = modified_yield(1000.0, [mu, normsys(jer, down=0.9, up=1.1)])
    n_bkg = modified_yield(2000.0, [normsys(jes, down=0.95, up=1.04)])
    space = zfit.Space("x", -8, 8)
    options = {"ranges": {"x": (-8.0, 8.0)}}
    signal = ConditionalProductPDF(
        [
            deformed(smooth_flow(["y1", "y2"], ["x"]), [jes, jer], interactions=True),
            deformed(smooth_flow(["x"], **options), [jes, jer]),
        ],
        extended=n_sig,
    )
    width = zfit.Parameter("width", 2.0, 0.5, 5)
    background = ConditionalProductPDF(
        [deformed(smooth_flow(["y1", "y2"], ["x"], seed=1), [jes, jer]), zfit.pdf.Gauss(0.5, width, obs=space)],
        extended=n_bkg,
    )
    model = SumPDF([signal, background])
    data = events(model, {jes: 1.4, jer: -1.2, mu: 1.3}, 3000, 1)
    return {"model": model, "data": data, "mu": mu, "params": [mu, jes, jer, width], "jes": jes, "jer": jer}


@pytest.fixture(scope="module")
def small():
    """One density of one observable that a nuisance moves, and 3000 events: for what does not depend on the model."""
    jes = nuisance("jes")
    n = modified_yield(3000.0, [normsys(jes, down=0.95, up=1.04)])
    model = deformed(smooth_flow(["y1"]), [jes], extended=n)
    return {"model": model, "data": events(model, {jes: 1.4}, 3000, 1), "params": [jes]}


@pytest.fixture(scope="module")
def fitted(search):
    nll = ExtendedUnbinnedNLL(search["model"], search["data"])
    fast = accelerate(nll)
    return nll, fast, minimise(fast)


# --- the result is that of the exact likelihood ------------------------------------------------------------------------


def test_extended_fit_of_learned_and_plain_densities(fitted):
    nll, fast, fit = fitted
    assert fit.valid
    assert_same_minimum(nll, fast, fit)
    assert fast.report.exact_edm < 1e-3
    assert abs(fast.report.value_difference) < 0.01
    assert fast.report.exact_events == 0
    assert "polynomials of order 3" in str(fast.report)
    assert "exact" in fast.report.methods["Gauss"]


def test_value_and_gradient_at_any_point(fitted, search):
    """Also where the polynomials that a fit has left behind are wrong."""
    nll, fast, _ = fitted
    rng = np.random.default_rng(2)
    for _ in range(6):
        zfit.param.set_values(search["params"], [1.0, *rng.uniform(-2, 2, size=2), 2.0])
        value, gradient = fast.value_gradient(search["params"], full=False)
        exact, exact_gradient = nll.value_gradient(search["params"], full=False)
        # Far from the minimum the tolerance is two per cent of the distance; the error itself is much smaller.
        scale = np.abs(exact_gradient).max()
        assert float(value) == pytest.approx(float(exact), abs=max(0.01, 1e-4 * scale))
        np.testing.assert_allclose(gradient, exact_gradient, atol=max(0.05, 1e-2 * scale))


def test_minos_and_profile(fitted, search):
    nll, _, fit = fitted
    (errors, _) = fit.errors([search["mu"]], method="minuit_minos", name="fast minos")
    exact_fit = minimise(nll)
    (exact, _) = exact_fit.errors([search["mu"]], method="minuit_minos", name="exact minos")
    for side in ("lower", "upper"):
        assert errors[search["mu"]][side] == pytest.approx(exact[search["mu"]][side], rel=0.01)


def test_scans_with_other_parameters_stay_with_their_polynomials(fitted, search):
    """Away from a minimum that is known, errors are compared with the distance to it; beyond, the exact one answers."""
    nll, fast, fit = fitted
    before = fast.report
    pair = search["jes"], search["mu"]  # jer and width are fitted at every point
    scans = [contour(loss, fit, pair, n_sigma=4.0, n_points=5, progress=False) for loss in (fast, nll)]
    # One where the scan starts, if other tests have left the polynomials elsewhere.
    assert fast.report.n_expansions <= before.n_expansions + 1
    assert fast.report.n_exact <= before.n_exact + 25  # at most one for each point
    # The tolerances of two values, at the point and at the minimum.
    np.testing.assert_allclose(scans[0].delta, scans[1].delta, rtol=0.01, atol=4 * acceleration.TOLERANCE)


def narrow_peak(width, n_signal, n_background, *, n_dim=1, seed=4):
    """A narrow peak that a nuisance moves by twenty of its widths, on a broad background: logistic densities."""
    position = zfit.Parameter("position", 0.5, -3, 3, stepsize=0.1)
    names = [f"y{j}" for j in range(n_dim)]
    options = {"hidden": (8, 8), "n_components": 1}
    flows = [Flow(names, **options, standardisation=dict.fromkeys(names, (0.0, s))) for s in (1.0, 0.7)]
    for flow, w in zip(flows, (width, 1.0), strict=True):
        make_logistic(flow, w)
    response = Response(["position"], ((1,),), n_dim=n_dim, n_context=0)
    for network in response.networks:
        network.biases[-1].assign(np.tile([0.0, -1.0], n_dim))  # log-scale and shift of every coordinate
    mu = zfit.Parameter("mu", 1.0, 0, 10)
    moved = FNFPDF(
        Deformation(flows[0], [response], windows={"position": (-3.0, 3.0)}),
        {"position": position},
        extended=modified_yield(n_signal, [mu]),
    )
    model = SumPDF([moved, FlowPDF(flows[1], extended=float(n_background))])
    rng = np.random.default_rng(seed)
    y = np.concatenate([rng.logistic(0.5, width, (n_signal, n_dim)), rng.logistic(0.0, 0.7, (n_background, n_dim))])
    return ExtendedUnbinnedNLL(model, dict(zip(names, y.T, strict=True))), position, mu


def make_logistic(flow, width):
    """Every coordinate independent, logistic around zero."""
    (layer,) = flow.density.layers
    for weights in layer.network.weights:
        weights.assign(tf.zeros_like(weights))
    inverse = (width - 1e-3) - 1 / (width - 1e-3)  # of the positive function that makes a width
    unit = (1.0 - 1e-3) - 1 / (1.0 - 1e-3)
    bias = np.array([[0.0, unit, 0.0, -layer.univariate.start[0], inverse + 1.0]] * len(flow.obs))
    layer.network.biases[-1].assign(bias.reshape(-1).astype(np.float32))


@pytest.mark.parametrize(("width", "n_dim"), [(0.05, 1), pytest.param(0.05, 2, marks=pytest.mark.slow)])
def test_narrow_peaks_are_scanned_as_with_the_exact_likelihood(width, n_dim):
    """Its series converges within a few widths: what was last evaluated must not leave a trace in a scan."""
    nll, position, mu = narrow_peak(width, 40, 1000, n_dim=n_dim)
    fast = accelerate(nll)
    fit = Minuit().minimize(fast)
    options = {"values": np.linspace(-0.5, 1.0, 7), "progress": False}
    exact, first, again = (profile(loss, fit, position, **options).delta for loss in (nll, fast, fast))
    np.testing.assert_allclose(first, exact, rtol=0.01, atol=4 * acceleration.TOLERANCE)
    np.testing.assert_allclose(again, first, rtol=0.01, atol=4 * acceleration.TOLERANCE)
    rng, lowest = np.random.default_rng(0), float(nll.value())
    for _ in range(40):  # walks of all lengths, at the end of which a value is asked for
        point = {position: rng.normal(0.5, rng.choice([0.02, 0.2, 1.0])), mu: rng.uniform(0.2, 3.0)}
        zfit.param.set_values(point, clip=True)
        fast.value(full=False)
        value, exact = float(fast.value()), float(nll.value())
        assert value == pytest.approx(exact, abs=max(acceleration.TOLERANCE, 0.01 * abs(exact - lowest)))


def test_upper_limit(fitted, search):
    nll, fast, _ = fitted
    options = {"n_asimov": 2000, "seed": 1}
    exact, accelerated = (upper_limit(loss, search["mu"], **options) for loss in (nll, fast))
    np.testing.assert_allclose(
        [accelerated.observed, *accelerated.expected], [exact.observed, *exact.expected], rtol=2e-3
    )


# The second derivatives of 20 nuisances come in two batches, and their 40 monomials are compressed.
@pytest.mark.slow
@pytest.mark.parametrize(("n_dim", "n_nuisances"), [(2, 20), (4, 2)])
def test_dimensions_and_nuisances(n_dim, n_nuisances):
    nuisances = [nuisance(f"nu{i}") for i in range(n_nuisances)]
    names = [f"y{i}" for i in range(n_dim)]
    model = deformed(smooth_flow(names), nuisances, size=0.05)
    truth = dict(zip(nuisances, np.random.default_rng(1).uniform(-2, 2, size=n_nuisances), strict=True))
    nll = UnbinnedNLL(model, events(model, truth, 3000, 3))
    fast = accelerate(nll)
    fit = minimise(fast)
    assert fit.valid
    assert_same_minimum(nll, fast, fit)
    assert fast.report.n_expansions <= 3  # and not one for every step of a minimiser that has lost its way


def test_weighted_events(small):
    rng = np.random.default_rng(4)
    weighted = {**small["data"], "w": rng.uniform(0.2, 1.2, size=3000)}
    nll = ExtendedUnbinnedNLL(small["model"], weighted, weights="w")
    fast = accelerate(nll)
    fit = minimise(fast)
    assert_same_minimum(nll, fast, fit)
    params = list(fit.params)
    zfit.param.set_values(params, [fit.params[parameter]["value"] for parameter in params])
    np.testing.assert_allclose(
        *(loss.score_covariance(params, np.square) for loss in (fast, nll)), rtol=1e-3, atol=1e-2
    )


def test_scores_of_some_events_are_exact(fitted, search):
    """The slopes of the density are in float32; 50 events, each with its own score."""
    nll, fast, _ = fitted
    x = np.stack([values[:50] for values in search["data"].values()], axis=1)
    fast.value()
    (exact,), (accelerated,) = nll.channels, fast.channels
    scores = accelerated.scores(x, search["params"])
    np.testing.assert_allclose(scores, exact.scores(x, search["params"]), rtol=1e-3, atol=1e-4)
    assert np.ptp(scores[:, 1]) > 0.1


# --- a loss like others ------------------------------------------------------------------------------------------------


def test_simultaneous_fit_has_every_constraint_once(search):
    first, second = (
        {name: values[rows] for name, values in search["data"].items()} for rows in (slice(1500), slice(1500, None))
    )
    nlls = [ExtendedUnbinnedNLL(search["model"], data) for data in (first, second)]
    together = accelerate(nlls[0]) + accelerate(nlls[1])
    assert isinstance(together, acceleration.AcceleratedNLL)
    assert sum(isinstance(constraint, NuisanceConstraint) for constraint in together.constraints) == 1
    fit = minimise(together)
    assert_same_minimum(nlls[0] + nlls[1], together, fit)


def test_new_data_are_followed(small):
    sampler = small["model"].create_sampler(800)
    fast = accelerate(ExtendedUnbinnedNLL(small["model"], sampler))
    for seed in (1, 2):
        zfit.settings.set_seed(seed)
        sampler.resample()
        exact = ExtendedUnbinnedNLL(small["model"], {"y1": sampler.value().numpy()[:, 0]})
        assert float(fast.value()) == pytest.approx(float(exact.value()), abs=acceleration.TOLERANCE)


def test_numerical_gradients_and_tracing(fitted, search):
    _, fast, fit = fitted
    zfit.param.set_values(search["params"], fit)
    result = zfit.minimize.ScipyTrustConstrV1().minimize(fast)
    assert result.fmin == pytest.approx(fit.fmin, abs=1e-3)


def test_tapes_see_through_it_also_while_polynomials_are_made(small):
    few = {"y1": small["data"]["y1"][:300]}
    fast = accelerate(ExtendedUnbinnedNLL(small["model"], few))
    with tf.GradientTape() as tape:
        value = fast.value(full=False)
    # Its own gradient is confirmed by the exact one; both are sums of 300 numbers in float32.
    slopes = tape.gradient(value, small["params"])
    np.testing.assert_allclose(slopes, fast.gradient(small["params"]), rtol=1e-4, atol=0.01)


# --- memory, and densities without polynomials -------------------------------------------------------------------------


def test_memory_budget(small):
    nll = UnbinnedNLL(small["model"], {"y1": np.concatenate([small["data"]["y1"]] * 12)})
    exact, exact_gradient = nll.value_gradient()
    n_exact = []
    for budget in (4e9, 1e6, 1e3):
        fast = accelerate(nll, max_memory=budget)
        value, gradient = fast.value_gradient()
        assert float(value) == pytest.approx(float(exact), abs=1e-2)
        np.testing.assert_allclose(gradient, exact_gradient, atol=1e-2)
        n_exact.append(fast.report.exact_events)
    assert n_exact[0] == 0 < n_exact[1] < n_exact[2] == 36000
    assert "36000 events are evaluated exactly" in str(fast.report)


@pytest.mark.parametrize("kind", ["spline", "stacked", "plain"])
def test_what_has_no_polynomials_stays_exact(kind):
    jes = nuisance("jes")
    if kind == "spline":
        model = deformed(Flow(["y1"], family="spline", hidden=(8, 8), n_components=6), [jes])
    elif kind == "stacked":
        model = deformed(smooth_flow(["y1", "y2"]), [jes], n_layers=2)
    else:
        other = nuisance("jer")
        model = FNFPDF(one_dimensional(), {"jes": jes, "jer": other})
    data = events(model, {jes: 0.5}, 500, 5)
    nll = UnbinnedNLL(model, data)
    fast = accelerate(nll)
    fit = minimise(fast)
    assert fast.report.methods == {model.name: "exact"}
    assert_same_minimum(nll, fast, fit)
    assert fast.report.exact_events == 500


def test_constant_densities_are_said_to_be_constant():
    jes = nuisance("jes")
    moving = deformed(smooth_flow(["y1"]), [jes], name="moving")
    still = FlowPDF(smooth_flow(["y1"], seed=5), name="still")
    model = SumPDF([moving, still], fracs=[0.5])
    fast = accelerate(UnbinnedNLL(model, events(model, {jes: 0.3}, 500, 6)))
    assert fast.report.methods["still"] == "constant"


# --- control -----------------------------------------------------------------------------------------------------------


def test_wrong_polynomials_are_an_error(search, monkeypatch):
    true = expanded.expand

    def wrong(density, u, given):
        coefficients = true(density, u, given)
        return tf.concat([coefficients[:1], coefficients[1:2] + 0.05, coefficients[2:]], axis=0)

    monkeypatch.setattr(expanded, "expand", wrong)
    jes = nuisance("jes")
    # An architecture of its own: its polynomials are compiled here, and nobody else is given them.
    model = deformed(Flow(["y1"], hidden=(9, 9), n_components=3), [jes])
    fast = accelerate(UnbinnedNLL(model, events(model, {jes: 0.5}, 3000, 7)))
    with pytest.raises(AccelerationError, match="fit the exact likelihood instead"):
        minimise(fast)


@pytest.mark.slow
def test_what_compression_leaves_out_is_made_up_for(monkeypatch):
    """Compressed too much, the coefficients have another minimum; with the exact gradient there they do not."""
    monkeypatch.setattr(expanded, "_LEFT_OUT", 0.02)
    nuisances = [nuisance(f"nu{i}") for i in range(17)]
    model = deformed(smooth_flow(["y1", "y2"]), nuisances, size=0.1)
    nll = UnbinnedNLL(model, events(model, dict.fromkeys(nuisances, 0.5), 3000, 10))
    fast = accelerate(nll)
    fit = minimise(fast)
    assert fit.valid
    assert isinstance(fast._correction, acceleration.LinearTerm)
    assert_same_minimum(nll, fast, fit)


@pytest.mark.filterwarnings("ignore:.*than 10 widths from what:UserWarning")
def test_a_pilot_says_where_to_expand(monkeypatch):
    """One expansion serves a start that is many standard deviations away; the parameters stay where they are."""
    for size in ("SMALL_CHUNK", "CHUNK"):
        monkeypatch.setattr(chunks, size, 1024)
    jes, jer = nuisance("jes"), nuisance("jer")
    jer.upper = 3.0  # a limit on one side
    model = deformed(smooth_flow(["y1"], ["x"]), [jes, jer], size=0.1)
    flat = FlowPDF(smooth_flow(["x"], ranges={"x": (-8.0, 8.0)}))
    model = ConditionalProductPDF([model, flat])
    nll = UnbinnedNLL(model, events(model, {jes: 1.5, jer: -1.0}, 16_000, 9))
    fast = accelerate(nll)
    assert np.isfinite(float(fast.value()))
    assert float(jes.value()) == float(jer.value()) == 0.0
    fit = minimise(fast)
    assert_same_minimum(nll, fast, fit)
    assert fast.report.n_expansions == 1


def test_minimum_at_a_limit_is_confirmed():
    jes = nuisance("jes")
    model = deformed(smooth_flow(["y1"]), [jes])
    data = events(model, {jes: 2.0}, 3000, 8)
    jes.upper = 1.0
    fast = accelerate(UnbinnedNLL(model, data))
    fit = minimise(fast)
    assert fit.params[jes]["value"] == pytest.approx(1.0, abs=1e-4)
    assert 1 <= fast.report.n_exact <= 5  # Minuit cannot leave a limit where it starts
    assert abs(fast.report.value_difference) < 0.01


def test_other_losses_are_refused():
    gauss = zfit.pdf.Gauss(0.0, 1.0, obs=zfit.Space("y", -5, 5))
    with pytest.raises(TypeError, match=r"losses of zfit_fnf\.loss"):
        accelerate(zfit.loss.UnbinnedNLL(gauss, zfit.Data.from_numpy(gauss.space, np.array([[0.1], [0.2]]))))


def test_accelerating_twice_is_accelerating_once(fitted):
    _, fast, _ = fitted
    assert accelerate(fast) is fast

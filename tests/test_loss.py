"""Losses: values, derivatives, fits and errors against Gaussians known in closed form."""

from __future__ import annotations

import gc
import resource
import sys
import warnings
import weakref

import zfit
import numpy as np
import pandas as pd
import pytest
from analytic import GaussianFlow, one_dimensional
from likelihoods import SIGMA, events, location, two_processes
from scipy import stats

from zfit_fnf.densities.deformation import Deformation
from zfit_fnf.densities.flows import Flow
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL, event_kernel, rate_kernel
from zfit_fnf.param import NuisanceConstraint, nuisance
from zfit_fnf.pdf import FNFPDF, ConditionalProductPDF, FlowPDF, SumPDF
from zfit_fnf.samples import Sample
from zfit_fnf.yields import lnN, modified_yield


@pytest.fixture(scope="module")
def mixture():
    return two_processes()


@pytest.fixture(autouse=True)
def _nuisances_at_zero(mixture):
    zfit.param.set_values(mixture["params"], [1.0, 0.0, 0.0, 0.0])


def exact_mixture_nll(mixture, values, *, weights=1.0) -> float:
    _, jes, jer, lumi = values
    sig, bkg = mixture["model"].pdfs
    zfit.param.set_values(mixture["params"], values)
    rates = [float(pdf.get_yield().value()) for pdf in (sig, bkg)]
    density = 0.0
    for pdf, rate in zip((sig, bkg), rates, strict=True):
        mean, sigma = pdf.deformation.moments((jes, jer))
        density = density + rate * stats.norm(mean, sigma).pdf(mixture["y"])
    return sum(rates) - np.sum(weights * np.log(density)) + 0.5 * (jes**2 + jer**2 + lumi**2)


POINTS = [(1.0, 0.0, 0.0, 0.0), (1.3, 0.4, -0.7, 0.2), (0.5, -1.4, 1.2, 2.0)]


# --- the value and its derivatives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", POINTS)
def test_extended_value_is_exact(mixture, values):
    nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]})
    assert isinstance(nll, zfit.loss.ExtendedUnbinnedNLL)
    expected = exact_mixture_nll(mixture, values)
    assert float(nll.value()) == pytest.approx(expected, rel=1e-12)
    assert float(nll.value(full=False)) == pytest.approx(expected, rel=1e-12)
    assert float(nll.value(params=dict(zip(("mu", "jes", "jer", "lumi"), values, strict=True)))) == pytest.approx(
        expected
    )


def test_value_is_that_of_zfit_up_to_a_constant(mixture):
    data = zfit.Data.from_numpy(obs=mixture["model"].space, array=mixture["y"][:, None], name="data")
    ours = ExtendedUnbinnedNLL(mixture["model"], data)
    theirs = zfit.loss.ExtendedUnbinnedNLL(mixture["model"], data, constraints=ours.constraints)
    differences = []
    for values in POINTS:
        zfit.param.set_values(mixture["params"], values)
        differences.append(float(ours.value()) - float(theirs.value(full=True)))
    np.testing.assert_allclose(differences, differences[0], rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_agree_with_central_differences(mixture, weighted):
    weights = np.random.default_rng(5).uniform(0.5, 1.5, len(mixture["y"])) if weighted else None
    nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]}, weights=weights)
    params, step = mixture["params"], 1e-4

    def at(shift):
        zfit.param.set_values(params, np.add(POINTS[1], shift))
        return nll.value_gradient(params)

    value, gradient = at(np.zeros(4))
    hessian = nll.hessian(params)
    np.testing.assert_allclose(nll.gradient(params), gradient, rtol=1e-12)
    np.testing.assert_allclose(nll.hessian(params, hessian="diag"), np.diag(hessian), rtol=1e-12)
    both = nll.value_gradient_hessian(params)
    for ours, expected in zip(both, (value, gradient, hessian), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    sides = [(at(step * unit), at(-step * unit)) for unit in np.eye(4)]
    slopes = [(up[0] - down[0]) / (2 * step) for up, down in sides]
    curvatures = [(up[1] - down[1]) / (2 * step) for up, down in sides]
    scale = np.abs(hessian).max()  # a difference of 1e-4 is good to about 1e-8 of the largest entries
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    np.testing.assert_allclose(hessian, curvatures, rtol=1e-6, atol=1e-7 * scale)


def test_chunks_do_not_change_anything(mixture, monkeypatch):
    exact = exact_mixture_nll(mixture, POINTS[1])
    whole = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]})
    gradient, hessian = whole.gradient(mixture["params"]), whole.hessian(mixture["params"])
    monkeypatch.setattr(event_kernel(mixture["model"]), "_chunk", 97)
    for limit in (4e9, 1e4, 0.0):  # prepared events kept, some of them, and none
        nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]}, options={"max_memory": limit})
        assert nll.create_new().max_memory == limit
        assert float(nll.value()) == pytest.approx(exact, rel=1e-12)
        np.testing.assert_allclose(nll.gradient(mixture["params"]), gradient, rtol=1e-9)
        np.testing.assert_allclose(nll.hessian(mixture["params"]), hessian, rtol=1e-9)


def test_parameters_without_effect_have_zero_derivatives(mixture):
    idle = zfit.Parameter("idle", 1.0)
    constraint = zfit.constraint.GaussianConstraint([idle], [1.0], sigma=[2.0])
    nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]}, constraints=constraint)
    params = [*mixture["params"], idle]
    assert nll.get_params() == set(params)
    gradient, hessian = nll.gradient(params).numpy(), nll.hessian(params).numpy()
    assert gradient[-1] == pytest.approx(0.0, abs=1e-15)
    assert hessian[-1, -1] == pytest.approx(0.25)
    np.testing.assert_array_equal(hessian[-1, :-1], 0.0)
    shape = UnbinnedNLL(mixture["model"].pdfs[0], {"y": mixture["y"]})
    assert set(shape.get_params()) == set(mixture["params"][1:3])


def test_dependent_parameters_are_refused(mixture):
    nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]})
    with pytest.raises(ValueError, match="not independent"):
        nll.value_gradient([mixture["model"].pdfs[0].get_yield()])


def test_tails_keep_their_gradient():
    jes, pdf = location()
    nll = UnbinnedNLL(pdf, {"y": [100.0 * SIGMA]})
    assert float(nll.gradient([jes])[0]) == pytest.approx(-100.0, rel=1e-12)


# --- constraints ------------------------------------------------------------------------------------------------------


def test_constraints_are_found_and_follow_their_observations():
    jes, pdf = location()
    nll = UnbinnedNLL(pdf, {"y": events()})
    (constraint,) = nll.constraints
    assert constraint.nuisances == (jes,)
    jes.set_value(0.5)
    before = float(nll.value())
    jes.observed.set_value(2.0)
    assert float(nll.value()) - before == pytest.approx(0.5 * (1.5**2 - 0.5**2), abs=1e-9)
    assert jes.observed not in nll.get_params(floating=None)


def test_a_plain_parameter_is_free():
    free = zfit.Parameter("jes", 0.0, -5, 5)
    pdf = FNFPDF(one_dimensional(), {"jes": free, "jer": zfit.Parameter("jer", 0.0)})
    assert UnbinnedNLL(pdf, {"y": events()}).constraints == []


def test_an_explicit_constraint_replaces_the_automatic_one():
    jes, pdf = location()
    explicit = zfit.constraint.GaussianConstraint([jes], [0.0], sigma=[0.1])
    assert UnbinnedNLL(pdf, {"y": events()}, constraints=explicit).constraints == [explicit]
    assert UnbinnedNLL(pdf, {"y": events()}, constraints=[explicit, explicit]).constraints == [explicit]
    given = NuisanceConstraint([jes])
    nll = UnbinnedNLL(pdf, {"y": events()}, constraints=[given])
    assert nll.constraints == [given]
    assert nll.create_new(constraints=nll.constraints).constraints == [given]
    assert nll.create_new().constraints == [given]


def test_fixed_nuisances_keep_their_constraint():
    jes, pdf = location()
    jes.floating = False
    assert len(UnbinnedNLL(pdf, {"y": events()}).constraints) == 1


def test_rate_nuisances_matter_to_extended_losses_only(mixture):
    sig = mixture["model"].pdfs[0]
    _, jes, jer, lumi = mixture["params"]
    (constraint,) = UnbinnedNLL(sig, {"y": events()}).constraints
    assert set(constraint.nuisances) == {jes, jer}
    (constraint,) = ExtendedUnbinnedNLL(sig, {"y": events()}).constraints
    assert set(constraint.nuisances) == {jes, jer, lumi}


def test_sum_of_losses_counts_each_constraint_once(mixture):
    mu, jes, jer, lumi = mixture["params"]
    other = FNFPDF(
        one_dimensional(mean=-1.0),
        {"jes": jes, "jer": jer},
        extended=modified_yield(300.0, [lnN(lumi, 1.05)]),
        name="cr",
    )
    extra = zfit.constraint.GaussianConstraint([mu], [1.0], sigma=[0.5])
    first = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]}, constraints=extra)
    second = ExtendedUnbinnedNLL(other, {"y": events(300)}, constraints=[extra])
    total = first + second
    together = ExtendedUnbinnedNLL(
        [mixture["model"], other], [{"y": mixture["y"]}, {"y": events(300)}], constraints=extra
    )
    assert isinstance(total, ExtendedUnbinnedNLL)
    for values in POINTS:
        zfit.param.set_values(mixture["params"], values)
        shared = sum(float(c.value()) for c in first.constraints)
        expected = float(first.value()) + float(second.value()) - shared
        assert float(total.value()) == pytest.approx(expected, abs=1e-10)
        assert float(together.value()) == pytest.approx(expected, abs=1e-10)
        assert float((total + first).value()) == pytest.approx(expected + float(first.value()) - shared, abs=1e-10)
    params = mixture["params"]
    # At mu = 0.5 the shared constraint of mu, N(1, 0.5), contributes -2; the nuisances contribute their values.
    shared_gradient = [-2.0, *POINTS[2][1:]]
    expected = first.gradient(params) + second.gradient(params) - shared_gradient
    np.testing.assert_allclose(total.gradient(params), expected, rtol=1e-10)


# --- data -------------------------------------------------------------------------------------------------------------


def test_every_kind_of_data_gives_the_same_value(tmp_path):
    flow = GaussianFlow([0.0, 1.0], [1.0, 2.0], obs=["a", "b"])
    pdf = FlowPDF(flow)
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"b": rng.normal(size=50), "w": rng.uniform(0.5, 2.0, 50), "a": rng.normal(size=50)})
    table.to_csv(tmp_path / "events.csv", index=False)
    logs = stats.norm.logpdf(table.a) + stats.norm(1, 2).logpdf(table.b)
    array = table[["b", "a"]].to_numpy()
    reordered = zfit.Data.from_numpy(obs=["b", "a"], array=array, weights=table.w.to_numpy(), name="reordered")
    sample = Sample({"a": table.a.to_numpy(), "b": table.b.to_numpy()}, weights=table.w.to_numpy())
    for data, weights in (
        (table, "w"),
        (table, table.w.to_numpy()),
        (table.to_dict("list"), "w"),
        (reordered, None),
        (sample, None),
        (tmp_path / "events.csv", "w"),
    ):
        nll = UnbinnedNLL(pdf, data, weights=weights)
        assert float(nll.value()) == pytest.approx(-np.sum(table.w * logs), rel=1e-12)
        assert nll.is_weighted
    assert float(UnbinnedNLL(pdf, table).value()) == pytest.approx(-np.sum(logs), rel=1e-12)


def test_mistakes_in_data_are_named(mixture):
    _, pdf = location()
    bounded = FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), obs=zfit.Space("y", -3, 3))
    with pytest.raises(ValueError, match=r"'y'.*'z'"):
        UnbinnedNLL(pdf, {"z": events()})
    with pytest.raises(ValueError, match=r"1 of 3 events .* -3 < y < 3: .*7"):
        UnbinnedNLL(bounded, {"y": [0.0, 7.0, 1.0]})
    outside = zfit.Data.from_numpy(obs="y", array=np.array([[0.0], [7.0]]), name="outside")
    with pytest.raises(ValueError, match="1 of 2 events of 'outside'"):
        UnbinnedNLL(bounded, outside)
    with pytest.raises(ValueError, match="NaN"):
        UnbinnedNLL(pdf, {"y": [0.0, np.nan]})
    with pytest.raises(ValueError, match="2 models need as many data sets"):
        UnbinnedNLL([pdf, bounded], [{"y": events()}])
    with pytest.raises(ValueError, match="and 1 weights"):
        UnbinnedNLL([pdf, bounded], [{"y": [1.0]}, {"y": [1.0]}], weights=[np.ones(1)])
    with pytest.raises(ValueError, match="fit_range= is not supported"):
        UnbinnedNLL(pdf, {"y": events()}, fit_range=(-1, 1))
    with pytest.raises(ValueError, match=r"needs a yield for \['location'\]"):
        ExtendedUnbinnedNLL(pdf, {"y": events()})


def test_resampled_data_are_prepared_again():
    _, pdf = location()
    sampler = pdf.create_sampler(700)
    nll = UnbinnedNLL(pdf, sampler)
    for _ in range(2):
        assert float(nll.value()) == pytest.approx(-stats.norm(0, SIGMA).logpdf(sampler.value()).sum(), rel=1e-12)
        sampler.resample()
    sampler.update_data(events(300)[:, None])
    assert float(nll.value()) == pytest.approx(-stats.norm(0, SIGMA).logpdf(events(300)).sum(), rel=1e-12)


def test_models_of_zfit_take_part():
    obs, mu = zfit.Space("y", -20, 20), zfit.Parameter("mu", 0.1)
    gauss = zfit.pdf.Gauss(mu, SIGMA, obs=obs)
    nll = UnbinnedNLL(gauss, {"y": events()})
    assert float(nll.value()) == pytest.approx(-stats.norm(0.1, SIGMA).logpdf(events()).sum(), rel=1e-8)
    jes = nuisance("jes")
    pdf = FNFPDF(one_dimensional(), {"jes": jes, "jer": nuisance("jer")}, obs=obs, extended=100.0)
    lam = zfit.Parameter("lam", -0.1, -1, 0)
    model = SumPDF([pdf, zfit.pdf.Exponential(lam, obs=obs, extended=zfit.Parameter("n", 200.0, 0, 1000))])
    nll = ExtendedUnbinnedNLL(model, {"y": events()})
    theirs = zfit.loss.ExtendedUnbinnedNLL(model, nll.data, constraints=nll.constraints)
    params = list(nll.get_params())
    np.testing.assert_allclose(nll.gradient(params), theirs.gradient(params), rtol=1e-6)


# --- fits -------------------------------------------------------------------------------------------------------------

MINIMISERS = {
    "minuit": lambda: zfit.minimize.Minuit(gradient="zfit", mode=0),
    "minuit default": lambda: zfit.minimize.Minuit(),
    "trust region": lambda: zfit.minimize.ScipyTrustConstr(),
}


@pytest.mark.parametrize("minimiser", MINIMISERS)
def test_fits_reach_the_closed_form(minimiser):
    jes, pdf = location()
    n, mean = 400, 0.3
    result = MINIMISERS[minimiser]().minimize(UnbinnedNLL(pdf, {"y": events(n, mean=mean)}))
    # Mean of n events of width SIGMA, measured in SIGMA, with the constraint as one more event at zero.
    assert result.valid
    assert float(jes.value()) == pytest.approx(n * mean / SIGMA / (n + 1), abs=1e-4)
    assert result.fmin == pytest.approx(result.fminopt)
    expected = 1 / np.sqrt(n + 1)
    for method in ("minuit_hesse", "hesse_np"):
        assert result.hesse(method=method, name=method)[jes]["error"] == pytest.approx(expected, rel=1e-4)
    errors, _ = result.errors(method="zfit_errors")
    assert errors[jes]["upper"] == pytest.approx(expected, rel=0.01)
    assert errors[jes]["lower"] == pytest.approx(-expected, rel=0.01)
    if minimiser.startswith("minuit"):
        errors, _ = result.errors(method="minuit_minos", name="minos")
        assert errors[jes]["upper"] == pytest.approx(expected, rel=0.01)
    assert "jes" in str(result)


def test_extended_fit_with_several_parameters(mixture):
    nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]})
    result = zfit.minimize.Minuit(gradient="zfit", mode=0, tol=1e-5).minimize(nll)
    assert result.valid
    best = [result.params[p]["value"] for p in mixture["params"]]
    numeric = zfit.minimize.Minuit().minimize(nll)
    covariance = result.covariance(mixture["params"], method="hesse_np")
    sigma = np.sqrt(np.diag(covariance))
    minuit = result.covariance(mixture["params"], method="minuit_hesse")
    np.testing.assert_allclose(covariance / np.outer(sigma, sigma), minuit / np.outer(sigma, sigma), atol=0.01)
    other = [numeric.params[p]["value"] for p in mixture["params"]]
    np.testing.assert_allclose(np.divide(best, sigma), np.divide(other, sigma), atol=0.03)  # where Minuit stops
    for unit in np.eye(4):
        for side in (-0.1, 0.1):
            assert exact_mixture_nll(mixture, best + side * sigma * unit) > result.fmin


def test_fixed_parameters_retrace_nothing(mixture):
    nll = ExtendedUnbinnedNLL(mixture["model"], {"y": mixture["y"]})
    minimiser = zfit.minimize.Minuit(gradient="zfit", mode=0)
    minimiser.minimize(nll)
    before = n_traces(mixture["model"])
    mu = mixture["params"][0]
    mu.floating = False
    try:
        result = minimiser.minimize(nll)
    finally:
        mu.floating = True
    assert mu not in result.params
    assert n_traces(mixture["model"]) == before


def n_traces(model) -> int:
    return event_kernel(model).n_traces + rate_kernel(model).n_traces


def test_new_losses_of_a_model_retrace_nothing_and_are_freed(mixture):
    minimiser = zfit.minimize.Minuit(gradient="zfit", mode=0)
    traces, memory, alive = [], [], []
    for toy in range(20):
        table = pd.DataFrame({"y": np.random.default_rng(toy).permutation(mixture["y"])[: 1400 + toy]})
        zfit.param.set_values(mixture["params"], [1.0, 0.0, 0.0, 0.0])
        nll = ExtendedUnbinnedNLL(mixture["model"], table)
        result = minimiser.minimize(nll)
        result.hesse(method="hesse_np")
        alive.append(weakref.ref(nll))
        traces.append(n_traces(mixture["model"]))
        memory.append(resident_megabytes())
    assert traces[1:] == traces[:1] * 19
    assert memory[-1] - memory[4] < 60
    del nll, result, minimiser
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


@pytest.mark.slow
def test_a_hundred_fits_do_not_grow(mixture):
    minimiser = zfit.minimize.Minuit(gradient="zfit", mode=0)
    for toy in range(110):
        zfit.param.set_values(mixture["params"], [1.0, 0.0, 0.0, 0.0])
        table = pd.DataFrame({"y": np.random.default_rng(toy).choice(mixture["y"], 1400)})
        minimiser.minimize(ExtendedUnbinnedNLL(mixture["model"], table)).hesse()
        if toy == 10:
            start = resident_megabytes()
    assert resident_megabytes() - start < 100


def resident_megabytes() -> float:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * resource.getpagesize() / 1e6


def test_a_fit_outside_the_trained_range_warns_once():
    _, pdf = location()
    pdf.deformation.windows["jes"] = (-1.0, 1.0)
    nll = UnbinnedNLL(pdf, {"y": events(mean=4.0)})
    with pytest.warns(UserWarning, match=r"nuisance 'jes' is at 1.99, outside of the range \(-1, 1\)"):
        result = zfit.minimize.Minuit(gradient="zfit", mode=0).minimize(nll)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        nll.value()
        result.hesse()


# --- larger models ----------------------------------------------------------------------------------------------------


def test_conditional_products_are_fitted():
    jes = nuisance("jes")
    flow = GaussianFlow([0.0], [1.0], obs=["y"], cond=["x"], slope=[1.0])
    deformation = one_dimensional()
    deformation.flow = flow
    deformation.table[1:] = 0.0
    joint = ConditionalProductPDF(
        [
            FNFPDF(deformation, {"jes": jes, "jer": zfit.Parameter("jer", 0.0, floating=False)}),
            FlowPDF(GaussianFlow([0.0], [1.0], obs=["x"])),
        ]
    )
    rng = np.random.default_rng(7)
    x = rng.normal(size=300)
    y = x + 0.8 + rng.normal(size=300)
    result = zfit.minimize.Minuit(gradient="zfit", mode=0).minimize(UnbinnedNLL(joint, pd.DataFrame({"x": x, "y": y})))
    assert result.params[jes]["value"] == pytest.approx(np.sum(y - x) / 301, abs=1e-4)


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.4, -0.3), (-1.7, 1.2)])
def test_learned_densities_have_exact_derivatives(learned, point):
    nll, params = learned
    zfit.param.set_values(params, point)
    gradient, hessian = nll.gradient(params).numpy(), nll.hessian(params).numpy()
    step, slopes, curvatures = 1e-4, [], []
    for unit in np.eye(len(params)):
        zfit.param.set_values(params, point + step * unit)
        up = nll.value_gradient(params)
        zfit.param.set_values(params, point - step * unit)
        down = nll.value_gradient(params)
        slopes.append(float(up[0] - down[0]) / (2 * step))
        curvatures.append((up[1] - down[1]).numpy() / (2 * step))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-5 * np.abs(slopes).max())
    np.testing.assert_allclose(hessian, curvatures, rtol=1e-5, atol=1e-5 * np.abs(curvatures).max())


@pytest.fixture(scope="module")
def learned():
    """An untrained network with random coefficients, and its own events."""
    rng = np.random.default_rng(8)
    names = ("jes", "jer")
    responses = [Response([n], ((1,), (2,)), n_dim=2, n_context=0, hidden=(8, 8), seed=1) for n in names]
    for variable in (v for response in responses for v in response.variables):
        variable.assign_add(0.1 * rng.normal(size=variable.shape))
    flow = Flow(["a", "b"], hidden=(8, 8), seed=2)
    deformation = Deformation(flow, responses, windows=dict.fromkeys(names, (-1.0, 1.0)))
    nuisances = {name: nuisance(name) for name in names}
    nll = UnbinnedNLL(FNFPDF(deformation, nuisances), flow.sample(300, seed=3))
    return nll, list(nuisances.values())

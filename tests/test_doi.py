"""Distributions of Interest: fits of maps, their profile, ensembles and uncertainties, with small networks.

Trainings are a few steps long. What is tested here holds for any map, also for one that is not the best.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace

import zfit
import numpy as np
import pandas as pd
import pytest
import test_stored_fits as stored
from executors import Here
from scipy import integrate, stats
from test_stored_fits import FLOWS, SHORT, model

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Flow
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.densities.transfer import ProfiledTransfer, Transfer
from zfit_fnf.doi import (
    DoIPDF,
    EnsembleStopped,
    Uncertainty,
    bootstrap,
    ensemble,
    fit_transfer,
    predicted,
    profile,
    scenarios,
    unfolded,
)
from zfit_fnf.doi.ensemble import rebased_loss
from zfit_fnf.doi.replicas import _fingerprint
from zfit_fnf.doi.step1 import GlobalProblem
from zfit_fnf.doi.step2 import Check
from zfit_fnf.doi.variations import Modes
from zfit_fnf.minimize import Minuit
from zfit_fnf.pdf import FNFPDF, ConditionalProductPDF, FlowPDF, SumPDF
from zfit_fnf.samples import Sample, as_sample

data, fitted, profiled = stored.data, stored.fitted, stored.profiled  # fixtures
SMALL = {"obs": ["y"], "cond": ["x"], "n_layers": 1, "hidden": (4,), "schedule": SHORT, "progress": False}


def at(loss, value):
    """Value of a loss of one nuisance."""
    with zfit.param.set_values(list(loss.get_params()), [value]):
        return float(loss.value(full=False))


# --- densities and likelihoods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["fitted", "profiled"])
def test_density_of_data_is_normalised(which, request):
    """Integrated over ``y`` it is the density of ``x``, which the map does not move."""
    pdf = request.getfixturevalue(which).pdf
    y, given = np.linspace(-30, 30, 1201), (-1.0, 0.4)
    rows = pd.DataFrame({"y": np.tile(y, len(given)), "x": np.repeat(given, len(y))})
    densities = pdf.pdf(rows[list(pdf.obs)].to_numpy()).numpy().reshape(len(given), -1)
    # Trapezoids of a twentieth of a width, tails of logistics at thirty widths.
    np.testing.assert_allclose(
        integrate.trapezoid(densities, y, axis=1), np.exp(FLOWS[1].log_prob({"x": given})), rtol=1e-5
    )


def test_likelihood_has_the_constraint_once(profiled, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        nll = profiled.loss()
    events = data[list(profiled.pdf.obs)].to_numpy()
    for value in (0.0, 0.4):
        with zfit.param.set_values(list(profiled.parameters.values()), [value]):
            direct = -float(np.sum(profiled.pdf.log_pdf(events)))
        assert at(nll, value) == pytest.approx(direct + 0.5 * value**2, rel=1e-12)


def test_gradient_follows_the_map(profiled):
    """The profile moves with the nuisance through the density and through the map."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        nll = profiled.loss()
    (jes,) = nll.get_params()
    with zfit.param.set_values([jes], [0.2]):
        gradient = float(nll.gradient([jes])[0])
    numerical = (at(nll, 0.2 + 1e-5) - at(nll, 0.2 - 1e-5)) / 2e-5
    assert gradient == pytest.approx(numerical, rel=1e-5, abs=1e-4)


def test_samples_have_the_density(fitted):
    """The probability integral transform of ``y`` given ``x`` is uniform."""
    zfit.settings.set_seed(3)
    events = fitted.pdf.sample(300).value().numpy()
    y_column = list(fitted.pdf.obs).index("y")
    grid = np.linspace(-15, 15, 301)
    rows = np.repeat(events, len(grid), axis=0)
    rows[:, y_column] = np.tile(grid, len(events))
    densities = fitted.pdf.pdf(rows).numpy().reshape(len(events), -1)
    cumulative = integrate.cumulative_trapezoid(densities, grid, initial=0)
    transformed = [
        np.interp(event[y_column], grid, row / row[-1]) for event, row in zip(events, cumulative, strict=True)
    ]
    assert stats.kstest(transformed, "uniform").pvalue > 1e-4


# --- steps 1 and 2 -----------------------------------------------------------------------------------------------------


def test_map_lowers_the_likelihood_of_distorted_data(data):
    """A shift that simulation does not have is found by the map, not by the nuisance."""
    distorted = data.assign(y=data["y"] + 0.7)
    schedule = replace(SHORT, steps=300, batch_size=200, warmup=10, learning_rate=0.01)
    fit = fit_transfer(model(), distorted, **{**SMALL, "schedule": schedule}, seed=2)
    moved = fit.transfer.to_simulation(distorted)
    assert np.mean(moved["y"] - distorted["y"]) == pytest.approx(-0.7, abs=0.25)  # 400 events, wide by about one
    zfit.param.set_values(list(fit.parameters.values()), list(fit.values.values()))
    assert fit.nll == pytest.approx(float(fit.loss().value(full=False)), abs=1e-6)
    assert float(np.linalg.norm(fit.loss().gradient(list(fit.parameters.values())))) < 0.5
    assert "no members: no statistical band" in str(fit)


def test_short_training_of_step_two_is_not_valid(profiled):
    """The check refits the map at another value of the nuisance, and a map that does not follow fails it."""
    assert not profiled.valid
    assert any("train longer or with larger networks" in problem for problem in profiled.problems)
    assert "NOT VALID" in str(profiled)
    with pytest.warns(UserWarning, match="this profile likelihood is not valid"):
        profiled.loss()


def test_tolerance_of_a_check():
    assert Check({"jes": 1.0}, amortised=4.6, refitted=4.5).passed
    assert not Check({"jes": 1.0}, amortised=6.0, refitted=4.5).passed
    assert not Check({"jes": 1.0}, amortised=4.5, refitted=6.5).passed


# --- the ensemble ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def combined(profiled):
    return ensemble(profiled, progress=False)


def test_rebased_average(combined, profiled):
    """Each member counts with its likelihood relative to its own maximum."""
    nll = combined.nll
    for value in (-0.3, 0.2):
        members = []
        for index in range(2):
            with nll.only(index):
                # The average of one is its own likelihood above its own minimum.
                members.append(at(nll, value))
        assert at(nll, value) == pytest.approx(-np.log(np.mean(np.exp(-np.array(members)))), abs=1e-8)
    minimum = list(combined.values.values())
    with zfit.param.set_values(list(profiled.parameters.values()), minimum):
        shares = nll.shares()
    assert shares.sum() == pytest.approx(1.0)
    assert combined.k_eff == pytest.approx(1 / np.sum(shares**2), rel=1e-6)
    assert 1.0 <= combined.k_eff <= 2.0
    assert combined.spread["jes"] == pytest.approx(np.std(combined.minima["jes"], ddof=1))


def test_members_are_rebased_to_their_minima(combined, profiled):
    nll = combined.nll
    for index, row in combined.minima.iterrows():
        with nll.only(index):
            assert at(nll, row["jes"]) == pytest.approx(0.0, abs=1e-6)
            assert at(nll, row["jes"] + 0.05) > 0 < at(nll, row["jes"] - 0.05)
    fresh = rebased_loss(profiled)
    assert not np.any(fresh.lowest)


def test_derivatives_of_the_rebased_average(combined):
    nll, step = combined.nll, 1e-4
    (jes,) = nll.get_params()
    with zfit.param.set_values([jes], [0.1]):
        gradient, hessian = float(nll.gradient([jes])[0]), float(nll.hessian([jes])[0, 0])
    values = [at(nll, 0.1 + shift) for shift in (-step, 0.0, step)]
    assert gradient == pytest.approx((values[2] - values[0]) / (2 * step), rel=1e-4, abs=1e-4)
    assert hessian == pytest.approx((values[2] - 2 * values[1] + values[0]) / step**2, rel=1e-2)
    assert combined.errors["jes"] > 0


def test_ensembles_of_one_have_no_spread(profiled):
    alone = replace(profiled, fit=replace(profiled.fit, members=profiled.fit.members[:1]))
    with pytest.raises(ValueError, match="an ensemble of 1 has no spread: make members first"):
        ensemble(alone)


def test_interrupted_ensembles_are_continued(fitted, tmp_path):
    fit = replace(fitted, members=())
    with pytest.raises(RuntimeError, match="out of memory"):  # nothing to keep
        bootstrap(fit, 1, executor=Here(fails_at=1), folder=tmp_path, progress=False)
    bootstrap(fit, 1, executor=Here(), folder=tmp_path, progress=False)
    with pytest.raises(EnsembleStopped, match=r"stopped with 1 of 2 members .*out of memory") as caught:
        bootstrap(fit, 2, executor=Here(fails_at=1), folder=tmp_path, progress=False)
    assert len(caught.value.fit.members) == 1
    again = Here()
    done = bootstrap(fit, 2, executor=again, folder=tmp_path, progress=False)
    assert again.calls == 1  # the other one was in the folder
    first, second = done.members
    assert first.values == caught.value.fit.members[0].values
    assert first.values != second.values
    other = replace(fit, data=as_sample(fit.data, fit.data.columns, weights=np.full(fit.data.n_events, 2.0)))
    made = Here()
    with pytest.warns(UserWarning, match=r"member_0_0\.npz' is a member of another fit: this member is made again"):
        bootstrap(other, 1, executor=made, folder=tmp_path, progress=False)
    assert made.calls == 1
    (tmp_path / "member_0_1.npz").write_bytes(b"PK damaged")
    with pytest.warns(UserWarning, match=r"member_0_1\.npz' is damaged"):
        remade = bootstrap(replace(fit, members=done.members[:1]), 2, executor=Here(), folder=tmp_path, progress=False)
    # What the process fitted before, here other weights, does not matter.
    assert remade.members[1].values == second.values


def changed(what):
    """A fit of the same data by a model that differs in one thing."""
    events = FLOWS[0].sample(cond=FLOWS[1].sample(50, seed=1), seed=2)
    nu = zfnf.nuisance("jes")
    response = stored.shaken(Response(["jes"], ((1,),), n_dim=1, n_context=1, hidden=(4,)), seed=1)
    pdf = FNFPDF(Deformation(FLOWS[0], [response], windows={"jes": (-3.0, 3.0)}), params={"jes": nu})
    mean = zfit.Parameter("mean", 0.5 if what == "fixed parameter" else 0.0, floating=False)
    width = 1.5 if what == "number in a density of zfit" else 1.0
    other = zfit.pdf.Gauss(mean, width, obs=zfit.Space("x", -1e12, 1e12))
    if what == "density of zfit":
        other = zfit.pdf.Cauchy(mean, 1.0, obs=zfit.Space("x", -1e12, 1e12))
    if what == "global observable":
        nu.observed.set_value(0.3)
    if what == "start":
        nu.set_value(0.1)
    if what == "limits":
        nu.upper = 4.0
    transfer = Transfer(["y"], ["x"], n_layers=1, hidden=(4,))
    problem = GlobalProblem(
        ConditionalProductPDF([pdf, other]), transfer, SHORT, penalty=1.0 if what == "penalty" else 0.0
    )
    return SimpleNamespace(problem=problem, data=as_sample(events, ["y", "x"]), transfer=transfer)


DIFFERENCES = [
    "fixed parameter",
    "number in a density of zfit",
    "density of zfit",
    "global observable",
    "start",
    "limits",
    "penalty",
]


def test_members_are_recognised_by_the_whole_problem():
    prints = [_fingerprint(changed(what)) for what in ["nothing", "still nothing", *DIFFERENCES]]
    assert prints[0] == prints[1]
    assert len(set(prints[1:])) == len(DIFFERENCES) + 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda fit, data: fit_transfer(data, model(), **SMALL), TypeError, "takes a model first"),
        (lambda fit, data: fit_transfer(model(), data, **{**SMALL, "obs": "y"}), TypeError, "obs= is a list of names"),
        (lambda fit, data: fit_transfer(model(), data, **SMALL, seed=-1), ValueError, "seed= is at least 0"),
        (lambda fit, data: fit_transfer(model(), data, **SMALL, penalty=-1.0), ValueError, "penalty= is a cost"),
        (lambda fit, data: bootstrap(fit, 2.5), TypeError, "n_members= is an integer"),
        (lambda fit, data: bootstrap(fit, 0), ValueError, "n_members= is at least 1"),
        (lambda fit, data: profile("fit"), TypeError, "takes the fit that fit_transfer or bootstrap has made"),
        (lambda fit, data: profile(fit, window=0.5), TypeError, "window= is a half width by name"),
        (lambda fit, data: profile(fit, n_checks=-1), ValueError, "n_checks= is at least 0"),
    ],
)
def test_mistakes_are_named_at_the_door(call, error, message, fitted, data):
    with pytest.raises(error, match=message):
        call(fitted, data)


# --- uncertainties -----------------------------------------------------------------------------------------------------


def test_uncertainties_add_up():
    """Of a linear function of parameters and members, they are those of error propagation."""
    rng = np.random.default_rng(1)
    slopes, members = rng.normal(size=(2, 3)), rng.normal(size=(50, 3))
    shifts = np.stack([-slopes, slopes], axis=1)
    band = Uncertainty(np.zeros(3), members, shifts)
    np.testing.assert_allclose(band.systematic, np.sqrt(np.sum(slopes**2, axis=0)))
    np.testing.assert_allclose(band.statistical, np.std(members, axis=0, ddof=1))
    expected = slopes.T @ slopes + np.cov(members.T)
    np.testing.assert_allclose(band.covariance(), expected)
    np.testing.assert_allclose(band.total**2, np.diag(expected))
    alone = Uncertainty(np.zeros(3), members[:1], shifts)
    assert np.isnan(alone.statistical).all()
    np.testing.assert_allclose(alone.total, alone.systematic)


class Fitted:
    """A fit with a known covariance."""

    def __init__(self, covariance):
        self._covariance = np.asarray(covariance)
        params = [zfit.Parameter(name, 0.0) for name in ("a", "b")]
        self.params = {parameter: {"value": value} for parameter, value in zip(params, (0.5, -1.0), strict=True)}

    def covariance(self, params):
        assert [parameter.name for parameter in params] == ["a", "b"]
        return self._covariance


def test_modes_make_up_the_covariance():
    covariance = np.array([[0.04, 0.01], [0.01, 0.09]])
    modes = Modes.of(Fitted(covariance))
    scaled = modes.directions * modes.deviations
    np.testing.assert_allclose(scaled @ scaled.T, covariance, atol=1e-12)
    assert modes.deviations[0] > modes.deviations[1]
    up = modes.moved(0, 1.0)
    np.testing.assert_allclose([up["a"] - 0.5, up["b"] + 1.0], scaled[:, 0])
    with pytest.raises(ValueError, match="not positive definite"):
        Modes.of(Fitted([[1.0, 2.0], [2.0, 1.0]]))


@pytest.fixture(scope="module")
def cases(profiled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        nll = profiled.loss()
    result = Minuit().minimize(nll)
    return scenarios(profiled, result)


def test_scenarios_move_with_the_parameters(cases, data):
    """A mode moves the map by what the amortised map says, and each member has its own."""
    band = cases.evaluate(lambda scenario: scenario.to_simulation(data)["y"])
    assert band.members.shape == (2, len(data))
    assert band.shifts.shape == (1, 2, len(data))
    assert np.all(band.statistical > 0)
    assert cases.moved[0][1].values["jes"] - cases.best.values["jes"] == pytest.approx(cases.modes.deviations[0])
    back = cases.best.to_data(cases.best.to_simulation(data))
    np.testing.assert_allclose(back["y"], data["y"], atol=1e-7)


def test_unfolded_events_are_all_there(cases, data):
    edges = [-100.0, 0.0, 100.0]
    result = cases.evaluate(unfolded(data, {"y": edges}))
    assert result.value.sum() == pytest.approx(len(data))
    moved = cases.best.to_simulation(data)["y"]
    np.testing.assert_allclose(result.value, np.histogram(moved, edges)[0])
    # What leaves one of two bins enters the other.
    covariance = result.covariance()
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.array([[1, -1], [-1, 1]]), atol=1e-9)


def test_predictions_reweight_the_model(cases):
    zfit.settings.set_seed(4)
    pdf = cases.best.pdf
    with zfit.param.set_values(list(cases.best.parameters.values()), list(cases.best.values.values())):
        events = pdf.sample(2000).value().numpy()
    sample = Sample(dict(zip(pdf.obs, events.T, strict=True)), None, "events")
    band = cases.evaluate(predicted(cases, sample, {"y": [-100.0, 0.0, 100.0]}))
    np.testing.assert_allclose(band.value, np.histogram(sample.columns["y"], [-100.0, 0.0, 100.0])[0])
    # The total does not change, but for what the weights of 2000 events fluctuate: they differ from one by per cent.
    assert abs(band.shifts.sum(axis=-1)).max() < 0.02 * 2000


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_factors_in_a_part_of_their_range(shared):
    """What is cut away from the density of the conditions moves no map: it is a constant of the likelihood."""
    events, fits = FLOWS[0].sample(cond=FLOWS[1].sample(300, seed=1), seed=2), []
    low, high = float(events["x"].min()) - 0.1, float(events["x"].max()) + 0.1
    for obs in (None, zfit.Space("x", low, high)):
        whole = model()
        pdf = ConditionalProductPDF([whole.pdfs[0], FlowPDF(FLOWS[1], obs=obs)])
        fits.append(fit_transfer(pdf, events, **SMALL, seed=1, shared=shared))
    inside = float(FlowPDF(FLOWS[1]).integrate((low, high))[0])
    assert inside < 0.999
    assert fits[1].values == pytest.approx(fits[0].values, abs=1e-3)  # float32 trainings
    assert fits[1].nll - fits[0].nll == pytest.approx(300 * np.log(inside), abs=0.05)


def test_observables_that_the_model_does_not_have(data):
    with pytest.raises(ValueError, match=r"obs= names \['z'\], but .* describes"):
        fit_transfer(model(), data, **{**SMALL, "obs": ["z"]})
    with pytest.raises(ValueError, match=r"cond= names \['z'\]"):
        fit_transfer(model(), data, **{**SMALL, "cond": ["z"]})


def test_processes_need_names(data):
    first = model()
    parts = [first, ConditionalProductPDF([FlowPDF(FLOWS[0]), FlowPDF(FLOWS[1])], name=first.name)]
    with pytest.raises(ValueError, match=r"give each process its own name=, or use shared=True"):
        fit_transfer(SumPDF(parts, fracs=[0.5]), data, **SMALL)


def test_a_parameter_at_its_limit_marks_the_fit(data):
    pdf = model()
    (jes,) = pdf.get_params()
    jes.set_value(-0.95)
    jes.lower, jes.upper = -1.0, -0.9  # the constraint and undistorted data want it at zero
    fit = fit_transfer(pdf, data, **SMALL, seed=2)
    assert not fit.valid
    assert "at a limit: jes" in fit.problems


def test_few_events_for_many_weights(data):
    with pytest.warns(UserWarning, match=r"50 effective events are few for a map with \d+ weights \(ratio"):
        fit_transfer(model(), data[:50], **{**SMALL, "hidden": (16, 16)}, seed=1)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"jes": 10.0}, "its deformation was trained between -3 and 3 only: choose a narrower window"),
        ({"mu": 1.0}, "needs a positive half width for each of"),
        ({"jes": -1.0}, "needs a positive half width for each of"),
    ],
)
def test_bad_windows(fitted, window, message):
    with pytest.raises(ValueError, match=message):
        profile(fitted, window=window, hidden=(4,), schedule=SHORT, progress=False)


def test_fits_without_a_covariance_need_a_window(fitted):
    lost = replace(fitted, covariance=np.full_like(fitted.covariance, np.nan), problems=("the Hessian is not",))
    with pytest.raises(ValueError, match=r"no covariance to choose a window from: give window="):
        profile(lost, hidden=(4,), schedule=SHORT, progress=False)
    assert not lost.valid
    assert "NOT VALID: the Hessian is not" in str(lost)


def test_maps_that_do_not_belong_to_a_density():
    density = FlowPDF(FLOWS[0], name="density")
    apart = Transfer(["y"], ["x"], processes=["A", "B"])
    follows = ProfiledTransfer(Transfer(["y"], ["x"]), None, centre={"jes": 0.0}, axes=np.eye(1))
    for arguments, message in (
        ((density, Transfer(["z"])), r"'density' describes \['y'\]; the transfer of 'DoIPDF' moves \['z'\]"),
        ((density, Transfer(["y"], ["z"])), r"the transfer of 'DoIPDF' depends on \['z'\]"),
        ((density, Transfer(["y"], ranges={"y": (0.0, 1.0)})), "the ranges have to be the same"),
        ((density, apart), r"process= of 'DoIPDF' must be one of \['A', 'B'\], got None"),
        ((density, apart, "C"), r"process= of 'DoIPDF' must be one of \['A', 'B'\], got 'C'"),
        ((density, follows), r"params= of 'DoIPDF' names \[\], but the transfer follows \['jes'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            DoIPDF(*arguments)


def test_maps_that_leave_the_physical_range():
    """Events that only the edge of the range stops make a fit invalid."""
    n_events = zfit.Parameter("n_events", 200.0, 0.0, 1000.0)
    density = FlowPDF(Flow(["y"], ranges={"y": (0.0, 1.0)}, n_components=2), extended=n_events)
    y = np.random.default_rng(1).uniform(0.1, 0.9, 200)
    y[:20] = 1.0 - 1e-9
    fit = fit_transfer(density, {"y": y}, **{**SMALL, "cond": []})
    assert not fit.valid
    assert any("events to an edge of the range of the observables" in problem for problem in fit.problems)


def test_models_without_parameters(data):
    with pytest.raises(ValueError, match="'nothing floats' has no floating parameter"):
        fit_transfer(FlowPDF(FLOWS[1], name="nothing floats"), data, **{**SMALL, "obs": ["x"], "cond": []})

"""Distributions of Interest: fits of maps, their profile, ensembles and uncertainties, with small networks.

Trainings are a few steps long. What is tested here holds for any map, also for one that is not the best.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import zfit
import fitted_maps
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from fitted_maps import FLOWS, SHORT, SMALL, at, model
from scipy import integrate, stats
from untrained import deformed, smooth_flow

import zfit_fnf as zfnf
from zfit_fnf import Flow
from zfit_fnf.densities.displacement import Displacement
from zfit_fnf.densities.transfer import ProfiledTransfer, Transfer
from zfit_fnf.doi import (
    DoIPDF,
    bootstrap,
    ensemble,
    fit_transfer,
    predicted,
    profile,
    scenarios,
    step1,
    unfolded,
)
from zfit_fnf.doi.bounds import Bounds
from zfit_fnf.doi.check import Check
from zfit_fnf.doi.goodness import kolmogorov_smirnov
from zfit_fnf.doi.rows import Precomputed, behind, observed
from zfit_fnf.doi.step1 import _warn_if_few
from zfit_fnf.pdf import UNBOUNDED, ConditionalProductPDF, FlowPDF, SumPDF
from zfit_fnf.samples import as_sample

data, fitted, profiled = fitted_maps.data, fitted_maps.fitted, fitted_maps.profiled  # fixtures
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


@pytest.mark.parametrize(("moves", "n_trainings", "valid"), [((3.0, 0.1), 2, True), ((3.0, 2.5, 1.5), 3, False)])
def test_trainings_that_go_astray_are_repeated(fitted, data, monkeypatch, moves, n_trainings, valid):
    """One in about twenty on 8000 events ended 400 units above the minimum, with nuisances eight errors off."""
    problem, seeds = fitted.problem, []

    def train(self, sample, source, seed, *, progress):
        seeds.append(seed)
        result = SimpleNamespace(fmin=fitted.nll + 10.0 * (2.0 - len(seeds)), converged=True)
        values = np.array(list(fitted.values.values())) + 0.01 * len(seeds)
        weights = [(1.0 + 0.1 * len(seeds)) * value for value in fitted.transfer.weights_list()]
        return step1._Minimum(result, fitted.history, (moves[len(seeds) - 1],), weights, values)

    monkeypatch.setattr(step1.GlobalProblem, "_train", train)
    before = problem.transfer.weights_list()
    with zfit.param.set_values(problem.params, list(fitted.values.values())):
        found = problem.solve(fitted.data, seed=1, progress=False, covariance=False)
    problem.transfer.assign(before)
    assert len(set(seeds)) == len(seeds) == n_trainings
    assert any("still moved by 1.5 errors" in one for one in found.problems) is not valid
    # The last one has the lowest NLL, and is the one that is kept.
    assert found.nll == fitted.nll + 10.0 * (2.0 - n_trainings)
    start = np.array(list(fitted.values.values()))
    np.testing.assert_allclose(list(found.values.values()), start + 0.01 * n_trainings)
    for own, first in zip(found.transfer.weights_list(), fitted.transfer.weights_list(), strict=True):
        np.testing.assert_allclose(own, (1.0 + 0.1 * n_trainings) * first, rtol=1e-6)


def test_likelihood_has_the_constraint_once(profiled, data):
    nll = profiled.loss()
    events = data[list(profiled.pdf.obs)].to_numpy()
    for value in (0.0, 0.4):
        with zfit.param.set_values(list(profiled.parameters.values()), [value]):
            direct = -float(np.sum(profiled.pdf.log_pdf(events)))
        assert at(nll, value) == pytest.approx(direct + 0.5 * value**2, rel=1e-12)


def test_gradient_follows_the_map(profiled):
    """The profile moves with the nuisance through the density and through the map."""
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


@pytest.mark.filterwarnings("ignore:.*than 10 widths from what:UserWarning")
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


def test_tolerance_of_a_check():
    """Of a rise of 5 units 0.4 may be missed, half as many in the data and half as many in events of the model."""
    fine = Check({"jes": 1.0}, amortised=5.4, refitted=5.0, slopes=(10.4, 10.0), data=(5.5, 5.4))
    assert fine.difference == pytest.approx(0.25)
    assert fine.passed
    assert not replace(fine, data=(5.9, 5.4)).passed
    assert not replace(fine, amortised=5.8).passed
    assert not replace(fine, refitted=6.8).passed
    assert not replace(fine, slopes=(13.0, 10.0)).passed
    assert "by 5.40, but by 5.00 with a refitted map (for the data by 5.50 and 5.40)" in fine.problem
    # Of events that a map has followed more is tolerated.
    assert replace(fine, data=None).passed
    assert not replace(fine, data=None, amortised=6.4).passed


def test_parameters_that_a_map_absorbs_are_named():
    """Nothing is measured about the first one but its constraint; along it map and parameters are hardest to tell apart."""
    bounds = Bounds(("a", "b"), *map(np.diag, ((100.0, 50.0), (1.5, 40.0), (1.0, 40.0), (1.0, 0.0))))
    assert bounds.absorbed == pytest.approx({"a": 0.99, "b": 0.2})
    assert bounds.lost == ("a",)
    assert "a: the map absorbs all that data say about it; nothing is measured" in str(bounds)
    np.testing.assert_allclose(bounds.errors["efficient"], [1 / np.sqrt(2.0), 1 / np.sqrt(40.0)])
    assert abs(bounds.degenerate[0]) > 1e6 * abs(bounds.degenerate[1])


def test_kolmogorov_smirnov():
    """With equal weights it is SciPy's, in the limit of many events; weights count as fewer events."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=3000), rng.normal(0.03, 1.0, 5000)
    ones = np.ones(3000), np.ones(5000)
    expected = stats.ks_2samp(first, second, method="asymp").pvalue
    assert kolmogorov_smirnov(first, second, *ones) == pytest.approx(expected, rel=0.03)
    rounded = np.round(first, 1), np.round(second, 1)
    assert kolmogorov_smirnov(*rounded, *ones) == pytest.approx(
        stats.ks_2samp(*rounded, method="asymp").pvalue, rel=0.03
    )
    halves = np.repeat(first, 2), second, np.full(6000, 0.5), ones[1]  # the same function, of twice the events
    assert kolmogorov_smirnov(*halves) < expected


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_factors_in_a_part_of_their_range(shared):
    """What is cut away from the density of the conditions moves no map: it is a constant of the likelihood."""
    events, fits = FLOWS[0].sample(cond=FLOWS[1].sample(450, seed=1), seed=2), []
    low, high = float(events["x"].min()) - 0.1, float(events["x"].max()) + 0.1
    for obs in (None, zfit.Space("x", low, high)):
        whole = model()
        pdf = ConditionalProductPDF([whole.pdfs[0], FlowPDF(FLOWS[1], obs=obs)])
        fits.append(fit_transfer(pdf, events, **SMALL, seed=1, shared=shared))
    inside = float(FlowPDF(FLOWS[1]).integrate((low, high))[0])
    assert inside < 0.999
    assert fits[1].values == pytest.approx(fits[0].values, abs=1e-3)  # float32 trainings
    assert fits[1].nll - fits[0].nll == pytest.approx(450 * np.log(inside), abs=0.05)


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
    ("n_events", "n_layers", "hidden"),
    [(450, 1, ()), (1000, 1, (4, 4)), (3000, 3, (4, 4)), (4000, 3, (8, 8)), (40_000, 3, (32, 32))],
)
def test_maps_of_few_events_are_small(n_events, n_layers, hidden, monkeypatch):
    """Seven events for each weight: networks become narrower, and then there is one layer, and then no network."""
    monkeypatch.setattr(step1.GlobalProblem, "solve", lambda self, sample, **options: self.transfer)
    rng = np.random.default_rng(1)
    pdf, events = model(), {name: rng.normal(size=n_events) for name in ("x", "y")}
    transfer = fit_transfer(pdf, events, obs=["y"], cond=["x"], progress=False)
    assert (len(transfer.layers), transfer.hidden) == (n_layers, hidden)
    asked = fit_transfer(pdf, events, obs=["y"], cond=["x"], n_layers=2, hidden=(), progress=False)
    assert (len(asked.layers), asked.hidden) == (2, ())


def test_few_events_of_a_process():
    """A twentieth of 1000 events for half of the weights; with as many of each, there are enough."""
    transfer = Transfer(["y"], processes=("signal", "background"), n_layers=1, hidden=(4,))
    sample, space = as_sample({"y": np.linspace(-1.0, 1.0, 1000)}, ["y"]), zfit.Space("y", -5, 5)
    parts = [zfit.pdf.Gauss(0.0, 1.0, obs=space, name=name) for name in transfer.processes]
    n_own = sum(int(np.prod(weights.shape)) for weights in transfer.trainable_variables) / 2
    assert 25 < n_own < 250  # what makes 50 events few and 500 enough
    with pytest.warns(
        UserWarning, match=r"few effective events for maps of their own \(signal 50, with \d+ weights each"
    ):
        _warn_if_few(SumPDF(parts, fracs=[0.05]), transfer, sample)
    _warn_if_few(SumPDF(parts, fracs=[0.5]), transfer, sample)


def test_simulated_events_are_observed_where_the_map_has_them(fitted, profiled):
    """Back in simulation they are what they were, behind the fixed map and behind the one that follows a parameter."""
    simulated = np.random.default_rng(2).normal(size=(40, 2))
    events = dict(zip(fitted.pdf.obs, simulated.T, strict=True))
    for pdf in (fitted.pdf, profiled.pdf):
        x = pdf.observed(tf.constant(simulated)).numpy()
        np.testing.assert_array_equal(x[:, pdf.obs.index("x")], events["x"])
        assert np.abs(x[:, pdf.obs.index("y")] - events["y"]).max() > 1e-4  # the map moves them
    x = fitted.pdf.observed(tf.constant(simulated))
    np.testing.assert_allclose(fitted.pdf.simulated(x)["y"], events["y"], atol=1e-5)  # networks are in single precision


def test_simulated_events_that_a_map_with_folds_takes_nowhere_are_left_out():
    """A displacement by the fifth Hermite polynomial goes up and down: Newton's steps do not come back to a few events."""
    jes = zfnf.nuisance("jes")
    displacement = Displacement(((1,),), n_dim=1, n_cond=0, n_functions=6, constant=True)
    displacement.set_fields(np.array([np.zeros(6), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]))
    transfer = ProfiledTransfer(Transfer(["y"]), displacement, centre={"jes": 0.0}, axes=np.eye(1))
    gauss = zfit.pdf.Gauss(jes, 1.0, obs=zfit.Space("y", -UNBOUNDED, UNBOUNDED))
    pdf, simulated = behind(gauss, transfer, params={"jes": jes}), np.random.default_rng(1).normal(size=(1000, 1))

    def again(x):
        return pdf.simulated(tf.constant(x))["y"].numpy()

    wrong = np.abs(again(pdf.observed(tf.constant(simulated)).numpy()) - simulated[:, 0]) > 0.01
    assert 0 < np.sum(wrong) < 20
    moved = observed(pdf, [simulated])
    np.testing.assert_allclose(again(moved.array(["y"])), simulated[~wrong, 0], atol=0.01)
    assert np.sum(moved.weights) == pytest.approx(1.0)


def test_minibatches_hold_what_differs_between_events():
    """Packed with what all have in common, they are what is computed of the events at once."""
    of_x = deformed(
        smooth_flow(["x", "z"]), [zfnf.nuisance("jes")]
    )  # no conditions: networks see the same for all events
    pdf = behind(ConditionalProductPDF([FlowPDF(FLOWS[0]), of_x]), Transfer(["y"], ["x"]))
    x = np.random.default_rng(1).normal(size=(50, 3))
    rows = Precomputed(pdf).rows(as_sample(dict(zip(pdf.obs, x.T, strict=True)), pdf.obs))
    expected = tf.nest.flatten([pdf.precompute_unmapped(tf.constant(x))])
    packed = tf.nest.flatten(Precomputed(pdf).packed(rows))
    assert len(rows) < len(expected)
    assert all(len(column) == len(x) for column in rows)
    for one, other in zip(packed, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)  # single precision


def test_windows_that_end_where_a_parameter_does(profiled):
    assert "that of jes ends" not in str(profiled)
    wide = replace(profiled, window={"jes": 3.0 + abs(profiled.fit.values["jes"])})
    assert "that of jes ends at -3, where its training ends; that of jes ends at 3" in str(wide)


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
        profile(fitted, window=window)


def test_profiles_that_are_not_valid_say_so(profiled):
    wrong = replace(profiled, problems=("a problem",))
    assert "NOT VALID: a problem" in str(wrong)
    with pytest.warns(UserWarning, match="this profile likelihood is not valid: a problem"):
        wrong.loss()


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


@pytest.mark.filterwarnings("ignore:.*than 10 widths from what:UserWarning")
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


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda fit, data: fit_transfer(data, model(), **SMALL), TypeError, "takes a model first"),
        (lambda fit, data: fit_transfer(model(), data, **{**SMALL, "obs": "y"}), TypeError, "obs= is a list such as"),
        (lambda fit, data: fit_transfer(model(), data, **SMALL, seed=-1), ValueError, "seed= must be at least 0"),
        (
            lambda fit, data: fit_transfer(model(), data, **SMALL, penalty=-1.0),
            ValueError,
            "penalty= must be finite and >= 0",
        ),
        (lambda fit, data: profile("fit"), TypeError, "takes a fit made by fit_transfer"),
        (lambda fit, data: profile(fit, window=0.5), TypeError, "window= is a half width by name"),
        (lambda fit, data: profile(fit, n_checks=-1), ValueError, "n_checks= must be at least 0"),
        (lambda fit, data: bootstrap(fit, 2), TypeError, "takes a profile made by .*; got TransferFit"),
        (lambda fit, data: ensemble(fit), TypeError, "ensemble takes a profile made by .*; got TransferFit"),
        (lambda fit, data: scenarios(fit, None), TypeError, "takes a profile made by .*; got TransferFit"),
        (lambda fit, data: predicted(fit, data, {"y": [0, 1]}), TypeError, "takes what .*scenarios returns"),
        (lambda fit, data: unfolded(data, ["y"]), TypeError, "columns= maps observables to bin edges"),
        (lambda fit, data: unfolded(data, {"y": [1.0, 0.0]}), ValueError, "ascending bin edges for 'y'"),
        (lambda fit, data: DoIPDF(fit.transfer, fit.transfer), TypeError, "takes a PDF of simulation first"),
        (lambda fit, data: DoIPDF(fit.model, fit.model), TypeError, "takes a Transfer or a ProfiledTransfer"),
        (lambda fit, data: DoIPDF(fit.model, fit.transfer, params=[1]), TypeError, "maps names of parameters"),
    ],
)
def test_mistakes_are_named(call, error, message, fitted, data):
    with pytest.raises(error, match=message):
        call(fitted, data)

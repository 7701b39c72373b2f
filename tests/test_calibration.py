"""Calibrated likelihoods against exact ones, with densities that are wrong on purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass

import zfit
import numpy as np
import pandas as pd
import pytest
from analytic import GaussianDeformation, GaussianFlow

import zfit_fnf as zfnf
from zfit_fnf import Sample, Simulation, Variation
from zfit_fnf.calibration.averages import Draws
from zfit_fnf.calibration.closure import Measurement
from zfit_fnf.calibration.fit import _notes, _refuse_astray
from zfit_fnf.calibration.moments import inverse
from zfit_fnf.calibration.processes import processes_of
from zfit_fnf.densities.history import History
from zfit_fnf.densities.transfer import Transfer
from zfit_fnf.doi.pdf import DoIPDF
from zfit_fnf.pickling import dumps, loads
from zfit_fnf.samples.pairing import fingerprint

SIGNAL = {"shape": ((0.05, -0.2), (0.0, 0.02))}
BACKGROUND = {"shape": ((0.02, 0.1), (0.0, 0.0))}
N_SIGNAL, N_BACKGROUND, SHAPE = 1000.0, 4000.0, 0.5
WITHOUT = {"shape": ((0.0, 0.0), (0.0, 0.0))}


def signal(*, stretch=1.0):
    return GaussianDeformation(GaussianFlow([1.0], [0.5 * stretch], obs=["y"]), SIGNAL)


def background(response=None):
    return GaussianDeformation(GaussianFlow([0.0], [1.5], obs=["y"]), response or BACKGROUND)


def draw(deformation, nu, n, rng):
    mean, sigma = deformation.moments([nu])
    return {"y": rng.normal(mean[0], sigma[0], n)}


def simulate(n, seed):
    """Of the truth, at the nominal point and at both sides of the nuisance."""
    rng = np.random.default_rng(seed)
    return {
        name: Simulation(
            draw(truth, 0.0, n, rng), [Variation(draw(truth, side, n, rng), at={"shape": side}) for side in (1.0, -1.0)]
        )
        for name, truth in (("signal", signal()), ("background", background()))
    }


def observe(seed):
    rng = np.random.default_rng(seed)
    parts = [
        draw(signal(), SHAPE, rng.poisson(N_SIGNAL), rng),
        draw(background(), SHAPE, rng.poisson(N_BACKGROUND), rng),
    ]
    return {"y": np.concatenate([part["y"] for part in parts])}


@dataclass(frozen=True, eq=False)
class Problem:
    """Signal strength, background yield and a nuisance, measured with a density that may be wrong."""

    nll: zfnf.loss.ExtendedUnbinnedNLL
    mu: zfit.Parameter
    nb: zfit.Parameter
    shape: zfnf.Nuisance

    @property
    def parameters(self):
        return [self.mu, self.nb, self.shape]

    def fit(self, nll=None):
        zfit.param.set_values(self.parameters, [1.0, N_BACKGROUND, 0.0])
        result = zfnf.Minuit().minimize(self.nll if nll is None else nll)
        result.hesse()
        values = np.array([result.params[one]["value"] for one in self.parameters])
        return values, np.array([result.params[one]["hesse"]["error"] for one in self.parameters])


def problem(*, seed=1, stretch=1.0, of_background=None):
    shape = zfnf.nuisance("shape")
    mu = zfit.Parameter("mu", 1.0, 0, 20, stepsize=0.1)
    nb = zfit.Parameter("nb", N_BACKGROUND, 0, 1e5, stepsize=60)
    model = zfnf.pdf.SumPDF(
        [
            zfnf.pdf.FNFPDF(
                signal(stretch=stretch), {"shape": shape}, extended=zfnf.modified_yield(N_SIGNAL, [mu]), name="signal"
            ),
            zfnf.pdf.FNFPDF(background(of_background), {"shape": shape}, extended=nb, name="background"),
        ]
    )
    return Problem(zfnf.loss.ExtendedUnbinnedNLL(model, observe(seed)), mu, nb, shape)


@pytest.fixture(scope="module")
def wide():
    """A signal that is 20 % too wide, and what the exact likelihood says of the same events."""
    return problem(stretch=1.2), problem().fit()


@pytest.fixture(scope="module")
def calibrated(wide):
    return zfnf.calibrate(wide[0].nll, simulate(10_000, seed=2), n_draws=30_000)


def test_a_wrong_density_is_put_right(wide):
    """With 40 simulated events for each of the data; the simulation moves the result by 0.15 of its error then."""
    made, (exact, errors) = wide
    naive, _ = made.fit()
    values, own = made.fit(zfnf.calibrate(made.nll, simulate(200_000, seed=3), n_draws=50_000))
    assert np.abs((naive - exact) / errors).max() > 1.2
    assert np.abs((values - exact) / errors).max() < 0.5
    # The information of a density of the wrong width is not that of the right one.
    np.testing.assert_allclose(own, errors, rtol=0.1)


def test_a_missing_response_is_put_right():
    made, (exact, errors) = problem(of_background=WITHOUT), problem().fit()
    naive, _ = made.fit()
    values, own = made.fit(zfnf.calibrate(made.nll, simulate(200_000, seed=4), n_draws=50_000))
    assert np.abs((naive - exact) / errors).max() > 0.9
    assert np.abs((values - exact) / own).max() < 0.7
    assert (own < 1.5 * errors)[:2].all()
    assert own[2] > 1.5 * errors[2]  # what the scores do not see cannot be measured with them


def test_finite_simulation_widens_the_errors_as_the_report_says(wide, calibrated):
    made, (_, errors) = wide
    _, own = made.fit(calibrated)
    table = calibrated.report.to_dataframe()
    parts = table[["statistical", "constraints", "simulation"]]
    np.testing.assert_allclose(np.sqrt((parts**2).sum(axis=1)), table["error"], rtol=1e-6)
    np.testing.assert_allclose(own, table["error"], rtol=0.01)
    assert own[0] > 1.05 * errors[0]
    by_sample = calibrated.report.sources.drop(columns=["events", "effective"])
    np.testing.assert_allclose(np.sqrt((by_sample**2).sum()), table["simulation"], rtol=1e-6)
    assert ("signal", "shape=+1") in by_sample.index


def test_covariance_of_the_closure_is_that_of_repeated_simulation(wide):
    """Thirty repetitions of three scores: their variance is known to 15 %."""
    nll, params = wide[0].nll, wide[0].parameters
    zfit.param.set_values(params, [1.0, N_BACKGROUND, SHAPE])
    found = [
        Measurement(nll, processes_of(nll, simulate(2000, seed=(5, k))), params, n_draws=2000, seed=0)()
        for k in range(30)
    ]
    expected = np.mean([one.covariance - one.sources["SumPDF", "draws of the model"] for one in found], axis=0)
    observed = np.cov([one.bias for one in found], rowvar=False)
    weight = inverse(found[0].promised)  # one combination of the scores of two yields is the same for all events
    assert np.trace(weight @ observed) / np.trace(weight @ expected) == pytest.approx(1.0, abs=0.6)
    assert found[0].sizes["signal", "nominal"] == (2000, 2000.0)


def test_two_samples_at_one_point_have_each_its_own_variance(wide):
    """Halves of a sample are worth the whole; the last one with a name had taken the place of the others."""
    nll, params, whole = wide[0].nll, wide[0].parameters, simulate(2000, seed=15)
    zfit.param.set_values(params, [1.0, N_BACKGROUND, SHAPE])
    halves = {
        name: Simulation(
            one.nominal,
            [Variation({"y": part}, at=v.at) for v in one.variations for part in np.array_split(v.events["y"], 2)],
        )
        for name, one in whole.items()
    }
    sources = [
        Measurement(nll, processes_of(nll, given), params, n_draws=2000, seed=0)().sources for given in (whole, halves)
    ]
    for process in whole:
        one, both = (
            np.sum([value for key, value in found.items() if key[0] == process and "+1" in key[1]], axis=0)
            for found in sources
        )
        np.testing.assert_allclose(np.diag(both), np.diag(one), rtol=0.2)
    assert ("signal", "shape=+1 (2)") in sources[1]


def test_a_luminosity_changes_nothing_for_the_others(wide):
    """It moves all events alike; what rounding left of its scores was taken for a direction, and biases by it."""
    made, lumi = wide[0], zfnf.nuisance("lumi")
    parts = [
        zfnf.pdf.FNFPDF(density, {"shape": made.shape}, extended=number, name=name)
        for name, density, number in (
            ("signal", signal(stretch=1.2), zfnf.modified_yield(N_SIGNAL, [made.mu, zfnf.lnN(lumi, 1.02)])),
            ("background", background(), zfnf.modified_yield(N_BACKGROUND, [zfnf.lnN(lumi, 1.02)])),
        )
    ]
    nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF(parts), made.nll.data[0])
    zfit.param.set_values([made.mu, made.shape], [1.0, SHAPE])
    biases = [
        Measurement(nll, processes_of(nll, simulate(1000, seed=14)), params, n_draws=2000, seed=0)().bias
        for params in ([made.mu, made.shape], [made.mu, made.shape, lumi])
    ]
    np.testing.assert_allclose(biases[1][:2], biases[0], rtol=1e-9)
    assert abs(biases[1][2]) < 1e-9 * np.abs(biases[0]).max()


def test_the_best_fit_is_where_the_scores_say(wide, calibrated):
    """Although the learned one, whose shape the likelihood has, is more than an error away and no parabola."""
    values, _ = wide[0].fit(calibrated)
    table = calibrated.report.to_dataframe()
    assert table["bias"].abs().max() > 1.0
    names = [one.name for one in wide[0].parameters]
    assert np.abs((values - table.loc[names, "value"]) / table.loc[names, "error"]).max() < 0.01


def test_derivatives_are_those_of_the_value(wide, calibrated):
    params = list(calibrated.get_params())
    assert [one.name for one in params[3:]] == ["mcstat_0", "mcstat_1"][: len(params) - 3]
    values, errors = wide[0].fit(calibrated)
    steps = np.array([*errors, *np.ones(len(params) - 3)])
    zfit.param.set_values(params, [*values, *np.zeros(len(params) - 3)] + 0.7 * steps)
    gradient, hessian = np.asarray(calibrated.gradient(params)), np.asarray(calibrated.hessian(params))
    for index, (one, step) in enumerate(zip(params, 1e-3 * steps, strict=True)):
        centre, ends, slopes = float(one.value()), [], []
        for side in (step, -step):
            one.set_value(centre + side)
            ends.append(float(calibrated.value()))
            slopes.append(np.asarray(calibrated.gradient(params)))
        one.set_value(centre)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient[index], rel=1e-4, abs=1e-6 / step)
        np.testing.assert_allclose(
            (slopes[0] - slopes[1]) / (2 * step) * steps, hessian[index] * steps, rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_toys_have_unit_pulls(calibrated):
    """Twenty toys of the calibrated likelihood: mean and width of a pull are known to 0.22 and 0.16."""
    fits = zfnf.toys.fit_toys(calibrated, 20, seed=6, progress=False)
    pulls = fits.pulls()
    assert fits.valid.all()
    assert (pulls["mean"].abs() < 0.9).all()
    assert (abs(pulls["width"] - 1.0) < 0.65).all()


def test_toys_of_simulation_have_its_fluctuation_once(wide, calibrated):
    """What the simulation is off by is in their events: to draw its observables too gave pulls that are 12 % too wide."""
    made, mcstat = wide[0], calibrated.simulation_nuisances
    at, sample = {made.mu: 1.0, made.nb: N_BACKGROUND, made.shape: 1.0}, simulate(2000, seed=13)
    toys = list(zfnf.toys.simulated_toys(calibrated, 2, sample, params=at, seed=1))
    assert mcstat
    assert {one.observed[k.observed] for one in toys for k in mcstat} == {0.0}
    assert toys[0].observed[made.shape.observed] != toys[1].observed[made.shape.observed]
    of_model = zfnf.toys.toy(calibrated, params=at, seed=1)  # whose simulation nobody knows
    assert all(of_model.observed[k.observed] != 0.0 for k in mcstat)
    options = {"params": at, "simulations": sample, "methods": ["hesse"], "progress": False}
    found = zfnf.toys.coverage(calibrated, 1, **options).table
    assert list(found.index.get_level_values("parameter")) == [one.name for one in made.parameters]


def test_an_asimov_set_is_stationary(wide, calibrated):
    params = list(calibrated.get_params())
    _, errors = wide[0].fit(calibrated)
    made = zfnf.toys.asimov(calibrated, n_events=5000, seed=7)
    with zfit.param.set_values(made.observed):
        gradient = np.asarray(made.loss(calibrated).gradient(params))
    # The closure is a Taylor series of first order, the events are those of the densities.
    assert np.abs(gradient[:3] * errors).max() < 0.1


def test_scans_impacts_and_minos_take_it(wide, calibrated):
    made = wide[0]
    made.fit(calibrated)
    result = zfnf.Minuit().minimize(calibrated)
    result.hesse()
    scan = zfnf.scans.profile(calibrated, result, made.mu, n_sigma=1.0, n_points=3, progress=False)
    np.testing.assert_allclose(scan.delta, [1.0, 0.0, 1.0], atol=0.1)  # nearly a parabola
    ranking = zfnf.scans.impacts(calibrated, result, made.mu, progress=False)
    assert "mcstat_0" in ranking.table.index
    # The part of the error that comes from the simulation: all of what the report says, but for directions left out.
    of_simulation = calibrated.report.table.loc["mu", "simulation"]
    assert ranking.groups.loc["mcstat", "observed"] == pytest.approx(of_simulation, rel=0.15)
    with pytest.raises(TypeError, match=r"give nll\.learned"):
        zfnf.influence.of_events(calibrated, result)
    sides = result.errors([made.mu])[0][made.mu]
    assert sides["upper"] == pytest.approx(result.params[made.mu]["hesse"]["error"], rel=0.1)


def test_it_follows_other_data_and_is_sent_elsewhere(wide, calibrated):
    params = list(calibrated.get_params())
    other = calibrated.create_new(data=wide[0].nll.data)
    assert float(other.value()) == pytest.approx(float(calibrated.value()), rel=1e-12)
    assert other.report is calibrated.report
    sent = loads(dumps(calibrated))
    assert float(sent.value()) == pytest.approx(float(calibrated.value()), rel=1e-12)
    assert [one.name for one in sent.get_params()] == [one.name for one in params]
    fresh = calibrated.create_new(data=observe(8))
    assert np.abs(np.asarray(fresh.gradient(params) - calibrated.gradient(params))).max() > 1e-3
    with pytest.raises(ValueError, match="belongs to its model"):
        calibrated.create_new(model=problem().nll.model)
    with pytest.raises(ValueError, match="calibrate the sum"):
        calibrated + calibrated


def test_an_accelerated_likelihood_is_calibrated_likewise(wide, calibrated):
    made = wide[0]
    fast = zfnf.calibrate(zfnf.accelerate(made.nll), simulate(10_000, seed=2), n_draws=30_000)
    _, errors = made.fit(calibrated)
    table, exact = fast.report.table, calibrated.report.table
    assert np.abs((table["value"] - exact["value"]) / errors).max() < 0.02
    np.testing.assert_allclose(table["error"], exact["error"], rtol=0.01)


def test_densities_at_simulated_points_are_evaluated_once(wide, monkeypatch):
    """They depend on no yield, and do not follow the fit."""
    seen, at = [], Draws._at
    monkeypatch.setattr(Draws, "_at", lambda self, index, k: seen.append((index, k)) or at(self, index, k))
    with pytest.warns(UserWarning, match=r"errors of \['shape'\] are themselves uncertain by up to .*simulation_plan"):
        report = zfnf.calibrate(wide[0].nll, simulate(2000, seed=12), n_draws=2000).report
    assert report.table["doubt"]["shape"] > 0.2 > report.table["doubt"]["nb"]
    counts = {key: seen.count(key) for key in seen}
    assert set(counts) == {(index, k) for index in (0, 1) for k in (None, 0, 1, 2)}
    assert report.n_iterations > 1  # otherwise nothing would have moved
    assert {counts[key] for key in counts if key[1] is not None} == {1}


def test_a_part_of_the_events_finds_the_way_to_the_same_fit(wide, calibrated, monkeypatch):
    """All events are asked at its end: what is left of where they were asked before is of second order."""
    monkeypatch.setattr(Measurement, "thinned", lambda self: None)
    table = zfnf.calibrate(wide[0].nll, simulate(10_000, seed=2), n_draws=30_000).report.table
    found = calibrated.report.table
    assert found["bias"].abs().max() > 1.0  # a long way
    assert np.abs((found["value"] - table["value"]) / table["error"]).max() < 0.02
    np.testing.assert_allclose(found["error"], table["error"], rtol=0.01)


def test_a_part_of_the_events_is_every_so_many_th(wide):
    made = wide[0]
    few, many = (
        Measurement(made.nll, processes_of(made.nll, simulate(n, seed=15)), made.parameters, n_draws=2000, seed=0)
        for n in (1500, 5000)
    )
    assert few.thinned() is None
    assert {len(point.x) for one in many.thinned()._processes for point in one.points} == {1000}


def test_report_is_printed_and_stored(calibrated):
    report = calibrated.report
    assert "signal     nominal" in str(report)
    assert report.n_directions == len(calibrated.get_params()) - 3
    assert set(report.between.index) == {("signal", "shape"), ("background", "shape")}
    assert report.between.max() < 0.3  # a Gaussian that is too wide is moved as it should be
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["parameters"]["mu"]["naive_error"] > 0
    assert {row["sample"] for row in stored["sources"]} >= {"nominal", "shape=+1", "shape=-1"}


def test_a_plan_leads_to_the_wanted_error(wide, calibrated):
    made = wide[0]
    plan = zfnf.simulation_plan(calibrated, {}, made.mu)
    assert plan.error == pytest.approx(calibrated.report.table.loc["mu", "error"])
    assert plan.floor < plan.error
    target = 0.5 * (plan.floor + plan.error)
    plan = zfnf.simulation_plan(calibrated, {}, "mu", target=target)
    assert plan.predicted == pytest.approx(target, rel=1e-3)
    assert (plan.table["factor"] >= 1.0).all()
    assert plan.table["more"].sum() > 0
    assert (plan.table["doubled"] <= plan.error * (1 + 1e-9)).all()
    assert "wanted" in str(plan)
    more = plan.table["more"] > 0
    assert all(f" {sample} " in str(plan) for _, sample in plan.table.index[more])
    assert ("large enough" in str(plan)) == (not more.all())
    json.dumps(plan.to_dict())
    larger = zfnf.calibrate(made.nll, simulate(40_000, seed=9), n_draws=30_000).report.table.loc["mu", "error"]
    quadrupled = calibrated.calibration.moments.with_sources([4.0] * len(calibrated.report.sources))
    predicted = calibrated.calibration.errors[0] * np.sqrt(quadrupled.covariance[0, 0])
    assert larger == pytest.approx(predicted, rel=0.1)
    with pytest.raises(ValueError, match="cannot be reached"):
        zfnf.simulation_plan(calibrated, {}, made.mu, target=0.5 * plan.floor)


@pytest.mark.parametrize(
    ("target", "more", "printed", "rest"),
    [
        (0.3, [0, 700, 0], ["shape=+1"], "the other 2 of 3 samples are large enough"),
        (0.9, [0, 0, 0], [], "the 3 of 3 samples are large enough"),
        (None, [0, 0, 0], ["nominal"], "the other 2 of 3 samples each cause less than 10%"),
    ],
)
def test_a_plan_prints_what_matters(target, more, printed, rest):
    samples = ["nominal", "shape=+1", "shape=-1"]
    table = pd.DataFrame(
        {"events": 100, "contribution": [0.3, 0.02, 0.01], "doubled": 0.4, "factor": 1.0, "more": more},
        index=pd.MultiIndex.from_tuples([("signal", one) for one in samples], names=["process", "sample"]),
    )
    text = str(zfnf.calibration.SimulationPlan("mu", 0.5, 0.2, target, 0.3, 0.01, table))
    assert [one for one in samples if one in text] == printed
    assert rest in text


def test_a_fraction_is_calibrated_without_yields():
    shape, fraction = zfnf.nuisance("shape"), zfit.Parameter("fraction", 0.2, 0, 1, stepsize=0.01)
    parts = [
        zfnf.pdf.FNFPDF(signal(stretch=1.2), {"shape": shape}, name="signal"),
        zfnf.pdf.FNFPDF(background(), {"shape": shape}, name="background"),
    ]
    nll = zfnf.loss.UnbinnedNLL(zfnf.pdf.SumPDF(parts, fracs=[fraction]), observe(1))
    trusted = zfnf.calibrate(nll, simulate(100_000, seed=10), n_draws=30_000)
    table = trusted.report.table
    exact = problem().fit()[0]
    share = exact[0] * N_SIGNAL / (exact[0] * N_SIGNAL + exact[1])
    assert abs(table.loc["fraction", "value"] - share) < 0.5 * table.loc["fraction", "error"]
    assert table.loc["fraction", "bias"] > 0.5


def test_a_density_of_zfit_needs_no_simulation():
    """A Gaussian of free mean and width on the whole axis; 100 simulated events of the signal for each of the data."""
    shape, mu = zfnf.nuisance("shape"), zfit.Parameter("mu", 1.0, 0, 20, stepsize=0.1)
    free = [
        zfit.Parameter("nb", N_BACKGROUND, 0, 1e5, stepsize=60),
        zfit.Parameter("mean", 0.1, -2, 2, stepsize=0.01),
        zfit.Parameter("sigma", 1.4, 0.1, 5, stepsize=0.01),
    ]
    params, fits = [mu, *free, shape], []
    number = zfnf.modified_yield(N_SIGNAL, [mu])
    for stretch in (1.0, 1.2):
        own = zfnf.pdf.FNFPDF(signal(stretch=stretch), {"shape": shape}, extended=number, name="signal")
        other = zfit.pdf.Gauss(free[1], free[2], own.space, extended=free[0], name="background")
        nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF([own, other]), observe(1))
        if stretch > 1:
            nll = zfnf.calibrate(nll, {"signal": simulate(100_000, seed=20)["signal"]}, n_draws=20_000)
        zfit.param.set_values(params, [1.0, N_BACKGROUND, 0.1, 1.4, 0.0])
        result = zfnf.Minuit().minimize(nll)
        result.hesse()
        fits.append(np.array([[result.params[one]["value"], result.params[one]["hesse"]["error"]] for one in params]))
    (exact, errors), (values, own_errors) = fits[0].T, fits[1].T
    assert np.abs((values - exact) / errors).max() < 0.5
    assert (own_errors / errors)[:4] == pytest.approx(1.0, abs=0.15)
    # That both processes together have the scores which the densities promise takes the draws' noise away.
    of_draws = nll.report.sources.xs("draws of the model", level="sample")[["mu", "nb"]].to_numpy()[0]
    assert (of_draws < 0.1 * own_errors[:2]).all()


def test_variations_of_the_same_events_are_taken_together(wide):
    rng = np.random.default_rng(11)
    nominal = draw(signal(), 0.0, 1000, rng)
    smeared = Variation({"y": nominal["y"] + 0.1 * rng.normal(size=1000)}, at={"shape": 1.0})
    simulations = {"signal": Simulation(nominal, [smeared]), "background": simulate(1000, seed=12)["background"]}
    own = processes_of(wide[0].nll, simulations)
    assert [point.paired for point in own[0].points] == [False, True]
    assert [point.paired for point in own[1].points] == [False, False, False]
    zfit.param.set_values(wide[0].parameters, [1.0, N_BACKGROUND, 0.5])
    closure = Measurement(wide[0].nll, own, wide[0].parameters, n_draws=2000, seed=0)()
    assert ("signal", "nominal and 1 variations of its events") in closure.sources


def test_models_of_folds_are_judged_by_what_they_have_not_seen(wide):
    """Two models that are 20 % and 10 % too wide; each has its own half of the simulation."""
    made, (exact, errors) = wide
    signals = [
        zfnf.pdf.FNFPDF(
            signal(stretch=stretch),
            {"shape": made.shape},
            extended=zfnf.modified_yield(N_SIGNAL, [made.mu]),
            name="signal",
        )
        for stretch in (1.2, 1.1)
    ]
    models = [zfnf.pdf.SumPDF([one, made.nll.model[0].pdfs[1]]) for one in signals]
    folded = zfnf.pdf.FoldedPDF(models)
    nll = zfnf.loss.ExtendedUnbinnedNLL(folded, made.nll.data[0])
    parts = [zfnf.loss.ExtendedUnbinnedNLL(model, made.nll.data[0]) for model in models]
    values = []
    for shape in (0.0, 0.7):
        zfit.param.set_values(made.parameters, [1.1, N_BACKGROUND, shape])
        values.append([float(one.value(full=True)) for one in (nll, *parts)])
    (mean, *each) = np.diff(values, axis=0)[0]
    assert mean == pytest.approx(np.mean(each), rel=1e-9)
    assert folded.sample(500).n_events == 500
    halves = [simulate(100_000, seed=(20, fold)) for fold in range(2)]
    simulations = {name: [half[name] for half in halves] for name in ("signal", "background")}
    trusted = zfnf.calibrate(nll, simulations, n_draws=30_000)
    calibrated_values, own = made.fit(trusted)
    assert np.abs((calibrated_values - exact) / errors).max() < 0.5
    np.testing.assert_allclose(own, errors, rtol=0.15)
    assert trusted.report.sources.loc[("signal", "nominal"), "events"] == 200_000
    with pytest.raises(ValueError, match=r"'signal' is one of 2 fold\(s\), and its simulation is in 1 part"):
        zfnf.calibrate(nll, halves[0])
    with pytest.raises(ValueError, match="different parameters"):
        zfnf.pdf.FoldedPDF([models[0], problem().nll.model[0]])


def test_models_of_folds_expect_the_same_numbers(wide):
    """The likelihood is the mean of theirs: with 1000 and 1100 events it would have been that of 1000."""
    made, _ = wide
    changes = [zfnf.normsys(made.shape, up=1.1), zfnf.normsys(made.shape, up=1.12)]
    for yields in ([(N_SIGNAL, []), (1.1 * N_SIGNAL, [])], [(N_SIGNAL, [change]) for change in changes]):
        models = [
            zfnf.pdf.FNFPDF(
                signal(), {"shape": made.shape}, name="signal", extended=zfnf.modified_yield(number, [made.mu, *more])
            )
            for number, more in yields
        ]
        with zfit.param.set_values([made.shape], [0.0]), pytest.raises(ValueError, match="expect different numbers"):
            zfnf.pdf.FoldedPDF(models)


def test_weighted_data_count_what_they_are_worth(wide, calibrated):
    """Every other event with the weight two: half of the statistics, the same simulation."""
    data = observe(1)["y"][::2]
    nll = zfnf.loss.ExtendedUnbinnedNLL(wide[0].nll.model[0], {"y": data}, weights=np.full(len(data), 2.0))
    weighted = zfnf.calibrate(nll, simulate(10_000, seed=2), n_draws=30_000).report.table
    np.testing.assert_allclose(
        weighted["statistical"][:2], np.sqrt(2.0) * calibrated.report.table["statistical"][:2], rtol=0.2
    )


def test_channels_are_calibrated_together(wide):
    """A control channel of the background's shape, as large as ten times the data, fixes the nuisance."""
    made, rng = wide[0], np.random.default_rng(15)
    number = zfit.Parameter("n_control", 40_000.0, 0, 1e6, stepsize=200)
    control = zfnf.pdf.FNFPDF(background(), {"shape": made.shape}, extended=number, name="control")
    both = made.nll + zfnf.loss.ExtendedUnbinnedNLL(control, draw(background(), SHAPE, 40_000, rng))
    simulations = {**simulate(20_000, seed=16), "control": simulate(200_000, seed=17)["background"]}
    report = zfnf.calibrate(both, simulations, n_draws=30_000).report
    assert ("control", "shape=+1") in report.sources.index
    row = report.table.loc["shape"]
    assert (
        row["error"]
        < 0.5 * zfnf.calibrate(made.nll, simulate(20_000, seed=16), n_draws=30_000).report.table.loc["shape", "error"]
    )
    assert abs(row["value"] - SHAPE) < 4 * row["error"]


def test_without_a_signal_the_fit_may_end_at_a_limit():
    """As half of all searches do: the exact likelihood still falls at a strength of zero, too."""
    made, rng = problem(seed=7, stretch=1.05), np.random.default_rng(7)
    nothing = draw(background(), SHAPE, rng.poisson(N_BACKGROUND), rng)
    nll = made.nll.create_new(data=zfit.Data.from_numpy(obs=made.nll.model[0].space, array=nothing["y"]))
    zfit.param.set_values(made.parameters, [0.1, N_BACKGROUND, 0.0])
    assert zfnf.Minuit().minimize(nll).info["at_limit"] == ["mu"]
    trusted = zfnf.calibrate(nll, simulate(100_000, seed=207), n_draws=30_000)
    value, error = trusted.report.table.loc["mu", ["value", "error"]]
    assert value < 0.04  # simulation scatters by 0.008
    assert error == pytest.approx(0.051, rel=0.1)  # the exact one is 0.05, with 0.16 of it for the simulation
    limit = zfnf.limits.upper_limit(trusted, made.mu, n_asimov=4000, seed=1)
    assert limit.observed == pytest.approx(0.068, abs=0.03)  # of the exact likelihood


def test_limits_and_hepstats_take_it(wide, calibrated):
    made = wide[0]
    values, errors = made.fit(calibrated)
    limit = zfnf.limits.upper_limit(calibrated, made.mu, n_asimov=4000, seed=1)
    # Far from zero the limit is that of a Gaussian.
    assert (limit.observed - values[0]) / errors[0] == pytest.approx(1.64, abs=0.15)
    pytest.importorskip("hepstats")
    from hepstats.hypotests import Discovery
    from hepstats.hypotests.parameters import POI

    calculator = zfnf.hepstats.AsymptoticCalculator(calibrated, zfnf.Minuit(), n_asimov=4000)
    null = values[0] - 3.0 * errors[0]
    _, significance = Discovery(calculator, POI(made.mu, null)).result(printlevel=0)
    assert significance == pytest.approx(3.0, abs=0.3)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_mistakes_in_simulations_are_named(wide):
    nll, good = wide[0].nll, simulate(200, seed=13)
    few = {"y": np.zeros(50) + np.arange(50)}
    sides = good["signal"].variations
    cases = [
        (lambda: {"signal": good["signal"]}, ValueError, r"lacks the learned processes \['background'\]"),
        (lambda: {**good, "other": good["signal"]}, ValueError, r"names \['other'\]"),
        (lambda: [good["signal"]], TypeError, "maps the names of the processes"),
        (lambda: {**good, "signal": Simulation(good["signal"].nominal)}, ValueError, r"lacks samples of .*\['shape'\]"),
        (lambda: {**good, "signal": Simulation(few, sides)}, ValueError, "is worth 50 events"),
        (
            lambda: {**good, "signal": Simulation(good["signal"].nominal, [Variation(few, at={"shape": 3.0})])},
            ValueError,
            r"outside of the range \(-2, 2\)",
        ),
        (
            lambda: {**good, "signal": Simulation(good["signal"].nominal, [*sides, Variation(few, at={"jes": 1.0})])},
            ValueError,
            "no nuisance of the likelihood",
        ),
    ]
    for simulations, kind, message in cases:
        with pytest.raises(kind, match=message):
            zfnf.calibrate(nll, simulations())


def of_two_processes(strength, alpha=None):
    """A signal with ``shape``, if there is a parameter for it, and a background whose density knows nothing of it."""
    n_sig = zfnf.modified_yield(N_SIGNAL, [strength])
    flow = GaussianFlow([0.0], [1.5], obs=["y"])
    parts = [
        zfnf.pdf.FNFPDF(signal(), {"shape": alpha}, extended=n_sig, name="signal")
        if alpha is not None
        else zfnf.pdf.FlowPDF(signal().flow, extended=n_sig, name="signal"),
        zfnf.pdf.FlowPDF(flow, extended=N_BACKGROUND, name="background"),
    ]
    return zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF(parts), observe(1))


def test_a_parameter_that_is_called_like_a_nuisance_is_none():
    """A signal strength of one took the background's closure at one standard deviation: 0.72 in place of 0.96 +- 0.06."""
    nll, simulations = of_two_processes(zfit.Parameter("shape", 1.0, -20, 20)), simulate(200, seed=13)
    simulations["signal"] = Simulation(simulations["signal"].nominal)
    with pytest.raises(
        ValueError, match=r"'background' was simulated with 'shape' moved .* make it with zfit_fnf\.nuisance"
    ):
        zfnf.calibrate(nll, simulations)
    with pytest.raises(ValueError, match="'background' was simulated with 'shape' moved"):
        next(zfnf.toys.simulated_toys(nll, 1, simulations))


def test_a_nuisance_is_what_other_processes_are_given_for_it():
    """Whatever the parameter is called, and what else is called like the nuisance."""
    alpha, other = zfnf.nuisance("alpha"), zfit.Parameter("shape", 1.0, 0, 20)
    nll, simulations = of_two_processes(other, alpha), simulate(200, seed=13)
    assert [process.params for process in processes_of(nll, simulations)] == [(alpha,), (alpha,)]
    alpha.set_value(1.0)
    (toy,) = zfnf.toys.simulated_toys(nll, 1, simulations, seed=1)
    of_sample = [simulations[name].variations[0].events["y"] for name in ("signal", "background")]
    assert np.isin(np.asarray(toy.data[0].value())[:, 0], np.concatenate(of_sample)).all()


def test_folds_from_files_in_another_order_are_refused():
    """Of three folds, none has been trained on exactly the part that it is given, but two have seen theirs."""
    rng = np.random.default_rng(5)
    events = {"y": rng.normal(1.0, 0.5, 3000), "w": rng.uniform(0.5, 1.5, 3000)}
    parts = Simulation(events, weights="w").folds(3, seed=1)
    flows = [GaussianFlow([1.0], [0.5], obs=["y"]) for _ in parts]
    for flow, (trained, _) in zip(flows, parts, strict=True):
        flow.history = History("p(y)", fingerprint=fingerprint(trained.sample(["y"]), ["y"]))
    n = zfit.Parameter("n", 1000.0, 0.0, 1e5)
    models = [zfnf.pdf.FlowPDF(flow, extended=n, name="peak") for flow in flows]
    simulations = {"peak": [held_out for _, held_out in parts]}
    for order in ((0, 1, 2), (1, 0, 2), (1, 2, 0)):
        folded = zfnf.pdf.FoldedPDF([models[index] for index in order])
        nll = zfnf.loss.ExtendedUnbinnedNLL(folded, {"y": events["y"][:100]})
        if order == (0, 1, 2):
            assert len(processes_of(nll, simulations)) == 3
            continue
        with pytest.raises(
            ValueError, match="model 0 of the FoldedPDF has 'peak' of the training that left out part 1"
        ):
            processes_of(nll, simulations)


def test_mistakes_in_likelihoods_are_named(wide, calibrated):
    made, good = wide[0], simulate(200, seed=14)
    with pytest.raises(TypeError, match="calibrated already"):
        zfnf.calibrate(calibrated, good)
    with pytest.raises(TypeError, match=r"takes losses of zfit_fnf\.loss"):
        zfnf.calibrate(made.nll.model[0], good)
    flow = zfnf.Flow(["y"], seed=1)
    simulated = zfnf.pdf.FlowPDF(flow, extended=100.0)
    mapped = zfnf.loss.ExtendedUnbinnedNLL(DoIPDF(simulated, Transfer(["y"])), {"y": np.zeros(5)})
    with pytest.raises(TypeError, match="likelihood of a Distribution of Interest"):
        zfnf.calibrate(mapped, good)
    other = GaussianDeformation(GaussianFlow([0.0], [1.0], obs=["z"]), BACKGROUND)
    factors = [zfnf.pdf.FNFPDF(one, {"shape": zfnf.nuisance(own)}) for one, own in ((signal(), "a"), (other, "b"))]
    twice = zfnf.pdf.ConditionalProductPDF(factors, extended=100.0, name="signal")
    of_both = zfnf.loss.ExtendedUnbinnedNLL(twice, {"y": np.zeros(5), "z": np.zeros(5)})
    with pytest.raises(ValueError, match="is the parameter 'a' in one factor of 'signal' and 'b' in another"):
        zfnf.calibrate(of_both, {"signal": good["signal"]})
    with pytest.raises(ValueError, match="have no events"):
        zfnf.calibrate(made.nll.create_new(data={"y": np.zeros(0)}), good)
    made.nb.floating = False
    try:
        partly = zfnf.calibrate(made.nll, simulate(20_000, seed=15), n_draws=2000)
        made.nb.floating = True
        with pytest.raises(ValueError, match=r"\['nb'\] were fixed when"):
            partly.value()
    finally:
        made.nb.floating = True


def test_conditions_that_are_given_are_those_of_the_simulation():
    """Random weights, of which nothing is asked."""
    mass, rng = zfit.Parameter("m_X", 0.5, -2, 2), np.random.default_rng(19)
    number = zfit.Parameter("n_peak", 100.0, 0, 1e4)
    pdf = zfnf.pdf.FlowPDF(zfnf.Flow(["y"], ["mass"], seed=1), given={"mass": mass}, extended=number, name="peak")
    nll = zfnf.loss.ExtendedUnbinnedNLL(pdf, {"y": np.zeros(5)})
    events = {"y": rng.normal(size=200), "mass": np.full(200, 0.5)}
    with pytest.raises(TypeError, match=r"'mass' of 'peak' is the parameter 'm_X', which is fitted"):
        processes_of(nll, {"peak": Simulation(events)})
    mass.floating = False
    assert len(processes_of(nll, {"peak": Simulation(events)})[0].points) == 1
    with pytest.raises(ValueError, match=r"given 'mass' = 0.5, and its sample 'nominal' was simulated from -1 to 1"):
        processes_of(nll, {"peak": Simulation({**events, "mass": np.linspace(-1, 1, 200)})})
    with pytest.raises(ValueError, match="mass"):
        processes_of(nll, {"peak": Simulation({"y": events["y"]})})


def test_a_fit_beyond_the_simulation_is_told(wide):
    made = wide[0]
    one_sided = {
        name: Simulation(one.nominal, [one.variations[1]]) for name, one in simulate(5000, seed=16).items()
    }  # at -1 only, and the data are at +0.5
    with (
        pytest.warns(UserWarning, match=r"\['shape'\] beyond the simulation of 'signal'"),
        pytest.warns(UserWarning, match=r"\['shape'\] beyond the simulation of 'background'"),
    ):
        zfnf.calibrate(made.nll, one_sided, n_draws=5000)


def test_a_model_that_is_far_off_and_errors_that_shrink_are_told():
    columns = {"bias": [3.5, -4.25, 0.1], "loss": [1.1, 1.0, 0.5], "doubt": [0.1, 0.05, 0.31]}
    table, nowhere = pd.DataFrame(columns, index=["mu", "nb", "shape"]), pd.Series([], dtype=float)
    far, small, unsure = _notes([], table, nowhere)
    assert "the model is far off: a bias of -4.2 errors was removed from 'nb', and more than 3 from ['mu', 'nb']" in far
    assert "calibrated errors of ['shape'] are 0.50 times the learned ones" in small
    assert "errors of ['shape'] are themselves uncertain by up to 31%" in unsure
    assert _notes([], table.assign(bias=[2.9, -2.9, 0.0], loss=1.0, doubt=0.19), nowhere) == []


def test_a_response_that_is_no_polynomial_is_told():
    """The signal moves by one of its widths where the density stays: half-way its closure is not that of a parabola."""
    made, rng = problem(), np.random.default_rng(17)
    still = GaussianDeformation(GaussianFlow([1.0], [0.5], obs=["y"]), WITHOUT)
    fast = GaussianDeformation(GaussianFlow([1.0], [0.5], obs=["y"]), {"shape": ((0.05, -1.0), (0.0, 0.0))})
    share = zfnf.modified_yield(N_SIGNAL, [made.mu])
    parts = [zfnf.pdf.FNFPDF(still, {"shape": made.shape}, extended=share, name="signal"), made.nll.model[0].pdfs[1]]
    data = [draw(fast, SHAPE, 1000, rng), draw(background(), SHAPE, 4000, rng)]
    nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF(parts), {"y": np.concatenate([one["y"] for one in data])})
    sides = [Variation(draw(fast, side, 20_000, rng), at={"shape": side}) for side in (1.0, -1.0)]
    simulations = {**simulate(20_000, seed=18), "signal": Simulation(draw(fast, 0.0, 20_000, rng), sides)}
    with pytest.warns(UserWarning, match=r"may be off by .* errors, most of it in shape of 'signal'"):
        report = zfnf.calibrate(nll, simulations, n_draws=5000).report
    assert report.between["signal", "shape"] > 0.3
    assert json.loads(json.dumps(report.to_dict()))["between"][0]["nuisances"] == "shape"


def test_an_end_that_means_nothing_is_refused(wide):
    params = wide[0].parameters
    inside, none = np.full(3, -1.0), np.zeros(3)
    _refuse_astray(params, [2.0, 0.5, 0.05], none, inside)
    _refuse_astray(params, [0.05], np.array([0.0, 0.0, 9.0]), inside)  # far off, and put right
    with pytest.raises(RuntimeError, match=r"does not settle, its steps were 2, 3 errors"):
        _refuse_astray(params, [2.0, 3.0], none, inside)
    with pytest.raises(RuntimeError, match=r"9 errors off in 'shape', and where the calibrated fit goes nothing"):
        _refuse_astray(params, [0.05], np.array([0.0, 0.0, 9.0]), np.array([-1.0, -1.0, 4.0]))


# --- sums with other likelihoods --------------------------------------------------------------------------------------


def test_a_control_region_beside_it(calibrated):
    """Of a HistFactory channel that measures the nuisance: value, derivatives, toys and the fit are those of both."""
    pytest.importorskip("pyhf")
    control = {
        "channels": [
            {
                "name": "CR",
                "samples": [
                    {
                        "name": "background",
                        "data": [800.0, 500.0],
                        "modifiers": [{"name": "shape", "type": "normsys", "data": {"hi": 1.2, "lo": 0.85}}],
                    }
                ],
            }
        ],
        "observations": [{"name": "CR", "data": [870.0, 545.0]}],
        "measurements": [{"name": "m", "config": {"poi": "", "parameters": []}}],
        "version": "1.0.0",
    }
    beside = zfnf.pyhf.channel(control)
    both = beside + calibrated
    params = list(both.get_params())
    assert sorted(p.name for p in params) == sorted(p.name for p in calibrated.get_params())
    nu = next(p for p in params if p.name == "shape")
    changes = []
    for value in (0.2, 0.5):
        nu.set_value(value)
        beside.model[0].parameters[0].set_value(value)
        changes.append([float(term.value()) for term in (both, calibrated, beside)])
    once = 0.5 * (0.5**2 - 0.2**2)  # the constraint, which two of the three have once each and the sum has once
    total, *parts = np.diff(changes, axis=0)[0]
    assert total == pytest.approx(sum(parts) - once, abs=1e-8)
    step, gradient, hessian = 1e-3, np.asarray(both.gradient(params)), np.asarray(both.hessian(params))
    for index, parameter in enumerate(params):
        start, sides = float(parameter.value()), []
        h = step * (float(parameter.stepsize) if parameter.name == "nb" else 1.0)
        for side in (-h, h):
            parameter.set_value(start + side)
            sides.append((float(both.value()), np.asarray(both.gradient(params))))
        parameter.set_value(start)
        assert gradient[index] * h == pytest.approx((sides[1][0] - sides[0][0]) / 2, rel=1e-3, abs=1e-6)
        np.testing.assert_allclose(hessian[index] * h, (sides[1][1] - sides[0][1]) / 2, rtol=1e-3, atol=1e-5)
    drawn = zfnf.toys.toy(both, seed=1)
    assert [type(data).__name__ for data in drawn.data] == ["Data", "BinnedData"]
    error = zfnf.Minuit().minimize(both).hesse()[nu]["error"]
    assert error < 0.9 * zfnf.Minuit().minimize(calibrated).hesse()[nu]["error"]
    again = loads(dumps(both.create_new(data=list(drawn.data))))
    assert len(again.model) == 2
    with pytest.raises(ValueError, match="calibrate the sum"):
        both + calibrated


def test_events_of_the_training_are_refused(wide):
    """A flow remembers in its session which events have trained it."""
    rng = np.random.default_rng(18)
    trained, fresh = ({"y": rng.normal(size=400)} for _ in range(2))
    flow = zfnf.Flow(["y"], seed=1)
    flow.events = (Sample(trained), np.arange(40))
    number = zfit.Parameter("n_flow", 100.0, 0, 1e4)
    nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.FlowPDF(flow, extended=number, name="p"), {"y": np.zeros(5)})
    mixed = {"y": np.concatenate([fresh["y"][:200], trained["y"][:200]])}
    with pytest.raises(
        ValueError, match=r"160 of the 400 events of the sample 'nominal' of 'p' have trained its density"
    ):
        processes_of(nll, {"p": Simulation(mixed)})
    assert len(processes_of(nll, {"p": Simulation(fresh)})[0].points) == 1

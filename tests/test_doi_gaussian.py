"""Distributions of interest where all is Gaussian, so that likelihoods with and without a map are known in closed form.

A nuisance moves ``x`` and ``y``, which have unit widths, by one width for each standard deviation, and a map takes ``y`` to
where it likes. With the map fixed both measure the nuisance; the profile likelihood is that of ``x`` alone.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import optimize

import zfit_fnf as zfnf
from zfit_fnf.doi import Replica, bootstrap, ensemble, finite_simulation, fit_transfer, profile, scenarios, step2
from zfit_fnf.doi import replicas as replicas_module
from zfit_fnf.doi.counts import Counts
from zfit_fnf.doi.regression import Regression
from zfit_fnf.doi.replicas import poisson_counts
from zfit_fnf.doi.rows import behind, make_loss
from zfit_fnf.doi.step2 import ProfileProblem
from zfit_fnf.limits import upper_limit
from zfit_fnf.minimize import Minuit
from zfit_fnf.pdf import UNBOUNDED, ConditionalProductPDF, SumPDF
from zfit_fnf.train.schedule import Schedule
from zfit_fnf.yields import modified_yield

pytestmark = pytest.mark.filterwarnings("ignore:the map of .* effective events:UserWarning")

N = 2000
SCHEDULE = Schedule(steps=300, batch_size=200, learning_rate=0.01, warmup=10, rotate_every=0, patience=None)
NETWORKS = {"hidden": (4,), "schedule": SCHEDULE, "seed": 1, "progress": False}


def gauss(name, centre, width=1.0, **options):
    space = zfit.Space(name, -UNBOUNDED, UNBOUNDED)
    return zfit.pdf.Gauss(mu=centre, sigma=width, obs=space, name=name, **options)


def model():
    jes = zfnf.nuisance("jes")
    return ConditionalProductPDF([gauss("y", jes), gauss("x", jes)], name="product")


@pytest.fixture(scope="module")
def data():
    """In data, but not in simulation, ``y`` is half a width higher."""
    rng = np.random.default_rng(5)
    return pd.DataFrame({"y": rng.normal(0.5, 1.0, N), "x": rng.normal(size=N)})


@pytest.fixture(scope="module")
def fitted(data):
    return fit_transfer(model(), data, obs=["y"], n_layers=1, **NETWORKS)


@pytest.fixture(scope="module")
def profiled(fitted):
    return profile(fitted, seed=1)


@pytest.fixture(scope="module")
def few(data):
    """A global fit of 500 events, whose map depends on ``x``."""
    return fit_transfer(model(), data.head(500), obs=["y"], cond=["x"], n_layers=1, **NETWORKS)


@pytest.fixture(scope="module")
def stuck(profiled):
    """A profile whose map does not follow the nuisance."""
    transfer = copy.deepcopy(profiled.transfer)
    for weights in transfer.displacement.weights:
        weights.assign(tf.zeros_like(weights))
    pdf = behind(profiled.fit.model, transfer, params=profiled.parameters)
    return replace(profiled, transfer=transfer, pdf=pdf, problems=("does not follow",))


def test_global_fit(fitted, data):
    assert fitted.valid
    moved = fitted.transfer.to_simulation(data)
    # As the map may go anywhere, the mean of y in simulation is where the nuisance has it.
    assert moved["y"].mean() == pytest.approx(fitted.values["jes"], abs=0.02)
    assert moved["y"].std() == pytest.approx(1.0, abs=0.03)
    # Two Gaussians of N events each and the constraint; the Hessian of Gaussians in their mean is exact.
    assert fitted.errors["jes"] == pytest.approx(1.0 / np.sqrt(2 * N + 1), rel=1e-3)


def test_errors_with_the_map_fixed_are_corrected_for_weights(fitted, data):
    """Weights that are all the same say nothing of how well events measure."""
    events = zfnf.Sample({name: data[name].to_numpy() for name in data}, weights=np.full(N, 9.0))
    with zfit.param.set_values(fitted.problem.params, list(fitted.values.values())):
        (variance,) = fitted.problem._covariance_of(events).ravel()
    # Squares of scores have a spread of 2 %; without the correction it was a third.
    assert np.sqrt(variance) == pytest.approx(1.0 / np.sqrt(2 * N), rel=0.05)


def test_profile_is_the_likelihood_of_x(profiled, data):
    assert profiled.valid, profiled
    result = Minuit().minimize(profiled.loss())
    error = result.hesse(method="hesse_np", name="hesse")[profiled.parameters["jes"]]["error"]
    assert error == pytest.approx(1.0 / np.sqrt(N + 1), rel=0.03)
    assert result.params["jes"]["value"] == pytest.approx(data["x"].sum() / (N + 1), abs=0.2 * error)


def test_numbers_of_events_fluctuate_with_the_parameters(profiled, data):
    """The mean of ``x`` measures the nuisance, and the mean of ``y`` is unfolded to that: their sum scatters by twice as much.

    Errors of the sum and of the difference were 1.4 times that of either.
    """
    maps = scenarios(bootstrap(profiled, 20, seed=2), Minuit().minimize(profiled.loss()))

    def means(variation):
        counts, y = variation.counts(data), variation.to_simulation(data)["y"]
        of_x, of_y = (np.average(values, weights=counts) for values in (data["x"], y))
        return [of_x, of_y + of_x, of_y - of_x]

    band = maps.evaluate(means)
    np.testing.assert_allclose(
        band.total[:2] * np.sqrt(N), [1.0, 2.0], rtol=0.04
    )  # widths of 2000 events are known to 2 %
    assert band.total[2] * np.sqrt(N) < 0.2  # 1.4
    # Known parameters leave nothing: it is theirs.
    assert np.sqrt(band.covariance("jes")[1, 1]) == pytest.approx(band.total[1], rel=0.01)


@pytest.mark.parametrize("weight", [None, 9.0])
def test_counts_of_replicas_and_eigenvectors_are_independent(weight):
    """A mean of unit width scatters by ``n**-0.5``, whatever share of that moves a nuisance that has a constraint, too."""
    jes = zfnf.nuisance("jes")
    pdf = gauss("x", zfit.param.ComposedParameter("mean", lambda jes: 0.02 * jes, params={"jes": jes}))
    rng = np.random.default_rng(3)
    x = rng.normal(size=N)
    x = (x - x.mean()) / x.std()
    sample = zfnf.Sample({"x": x}, None if weight is None else np.full(N, weight))
    w = weight or 1.0
    information = N * 0.02**2
    hessian = w * information + 1.0
    variance = (w**2 * information + 1.0) / hessian**2
    profiled = SimpleNamespace(pdf=pdf, parameters={"jes": jes}, fit=SimpleNamespace(data=sample))
    counts = Counts(profiled, {"jes": 0.0}, np.array([[np.sqrt(variance)]]))
    systematic = np.mean(x * counts.moved(np.sqrt([variance])))
    assert systematic == pytest.approx(0.02 * w / hessian / np.sqrt(variance), rel=0.02)
    statistical = np.std([np.mean(x * counts.of_replica((1, index))) for index in range(2000)])
    assert np.hypot(systematic, statistical) == pytest.approx(N**-0.5, rel=0.03)  # of 2000 replicas, 1.6 %


def test_fits_with_the_map_fixed_are_not_those_of_the_profile(fitted, profiled):
    """Their errors are 0.7 times those that maps and published numbers need."""
    with pytest.raises(ValueError, match=r"map is fixed.*fit profiled\.loss\(\)"):
        scenarios(profiled, Minuit().minimize(fitted.loss()))


def test_fits_of_another_profile_or_other_data_are_not_those_of_the_profile(profiled, stuck, data):
    """In the same parameters: they were taken, with values and errors that belong to another map."""
    result = Minuit().minimize(profiled.loss())
    best = result.params["jes"]["value"]
    half = Minuit().minimize(make_loss(profiled.pdf, data.head(N // 2)))
    for other in (Minuit().minimize(make_loss(stuck.pdf, stuck.fit.data)), half):
        with pytest.raises(ValueError, match="not a fit of this profile, but of another one or other data"):
            scenarios(profiled, other)
    again = copy.deepcopy(profiled.transfer)  # as that of a file, which has the same likelihood
    pdf = behind(profiled.fit.model, again, params=profiled.parameters)
    assert scenarios(replace(profiled, transfer=again, pdf=pdf), result).best.values["jes"] == best
    fast = scenarios(profiled, Minuit().minimize(zfnf.accelerate(profiled.loss())))
    assert fast.best.values["jes"] == pytest.approx(best, abs=0.02 * profiled.fit.errors["jes"])


def test_bounds(profiled):
    """A shift of ``y`` can be undone by a map, one of ``x`` cannot: half of the information is absorbed."""
    table = profiled.bounds.to_dataframe().loc["jes"]
    # Scores of 2000 events have a spread of 1/sqrt(2N) = 2 % in their squares, 1 % in the error.
    assert table["fixed"] == pytest.approx(1.0 / np.sqrt(2 * N + 1), rel=0.04)
    assert table["profiled"] == pytest.approx(1.0 / np.sqrt(N + 1), rel=0.06)
    assert table["efficient"] == pytest.approx(1.0 / np.sqrt(N + 1), rel=0.06)
    assert table["absorbed"] == pytest.approx(0.5, abs=0.06)
    assert profiled.bounds.lost == ()
    assert "negative" not in str(profiled)


def test_bounds_and_windows_of_weighted_data(fitted, profiled, data):
    """Weights that are all the same say nothing: errors were a third of the right ones, and the window as narrow."""
    events = zfnf.Sample({name: data[name].to_numpy() for name in data}, np.full(N, 9.0))
    weighted = profile(replace(fitted, data=events), n_checks=0, seed=1)
    # The events of the model are others, as are those of which the map is polished.
    for kind in ("fixed", "profiled", "efficient"):
        assert weighted.bounds.errors[kind] == pytest.approx(profiled.bounds.errors[kind], rel=0.05)
    assert weighted.window["jes"] == pytest.approx(profiled.window["jes"], rel=0.1)
    shifts = [
        np.array([one.values["jes"] - fitted.values["jes"] for one in bootstrap(made, 10, seed=3).replicas])
        for made in (profiled, weighted)
    ]
    np.testing.assert_allclose(shifts[1], shifts[0], rtol=0, atol=0.3 * N**-0.5)


def test_events_of_negative_weight_do_not_make_the_map(data):
    """A background that others cancel, three times as wide: the map was best where single negative events have no density."""
    rng, n = np.random.default_rng(4), 600
    away = np.stack([rng.normal(0.5, 3.0, 2 * n), rng.normal(size=2 * n)], axis=1)
    events = pd.concat([data, pd.DataFrame(away, columns=["y", "x"])], ignore_index=True)
    weights = np.repeat([1.0, -1.0], [N + n, n])
    fit = fit_transfer(model(), events, weights=weights, obs=["y"], n_layers=1, **NETWORKS)
    made = profile(fit, n_checks=0, seed=1)
    with zfit.param.set_values(list(made.parameters.values()), list(fit.values.values())):
        result = Minuit().minimize(made.loss())
        maps = scenarios(made, result)
    error = result.hesse()[made.parameters["jes"]]["error"]
    assert (
        made.bounds.errors["profiled"] < error
    )  # they are for weights that are the same everywhere, and the table says so
    assert "some weights are negative: where such events are spread further" in str(made)
    of_x = float(weights @ events["x"]) / (weights.sum() + 1)
    # Events far away, whose weights do not cancel in each sample, say something about the nuisance: errors are larger for it.
    assert maps.best.values["jes"] == pytest.approx(of_x, abs=error)
    assert np.sqrt(N + 2 * n) / N < error < 0.06
    y = np.linspace(-1.5, 2.5, 9)
    np.testing.assert_allclose(
        maps.best.to_simulation({"y": y})["y"], y - 0.5 + of_x, atol=0.25
    )  # known to 0.1 at the ends


def test_fits_keep_their_data(fitted, data):
    """Events that are edited in their table after a fit were other ones in step 2."""
    own = data.copy()
    short = Schedule(steps=2, batch_size=100, warmup=1, averaging=0.5, rotate_every=0, patience=None)
    fit = fit_transfer(model(), own, obs=["y"], n_layers=1, hidden=(4,), schedule=short, progress=False)
    own.loc[:, ["y", "x"]] += 100.0
    np.testing.assert_array_equal(fit.data.columns["y"], data["y"])
    np.testing.assert_array_equal(fit.data.columns["x"], data["x"])


def test_finite_simulation(profiled):
    """What N_sim simulated events say of the position of ``x`` is uncertain by one over their root, and so is the nuisance."""
    n_simulated = 500
    events = np.random.default_rng(3).normal(size=(n_simulated, 2))
    simulations = {"product": zfnf.Simulation(pd.DataFrame(events, columns=["y", "x"]))}
    found = finite_simulation(profiled, simulations)
    expected = N / (N + 1) * events[:, 1].std() / np.sqrt(n_simulated)
    # The score has a part of y that the regression leaves: below 5 % of the whole, with either sign.
    assert found.errors["jes"] == pytest.approx(expected, rel=0.06)
    # Weights of the data change nothing of it, as long as the prior matters little: the errors were 0.42 and 0.097 for 0.045.
    for weights in (np.full(N, 9.0), np.random.default_rng(4).choice([-0.5, 1.0, 2.0], N)):
        weighted = zfnf.Sample(profiled.fit.data.columns, weights)
        others = finite_simulation(replace(profiled, fit=replace(profiled.fit, data=weighted)), simulations)
        assert others.errors["jes"] == pytest.approx(found.errors["jes"], rel=0.1)
    row = found.to_dataframe().loc[("product", "nominal")]
    assert row["jes"] == pytest.approx(found.errors["jes"])
    assert row["events"] == n_simulated
    assert json.loads(json.dumps(found.to_dict()))["samples"][0]["process"] == "product"
    assert "product" in str(found)
    with pytest.raises(ValueError, match="lacks the learned processes"):
        finite_simulation(profiled, {})


def test_map_that_does_not_follow_is_found_out(fitted, monkeypatch):
    """The check refits the map, whatever the amortised one does."""
    problem = ProfileProblem(fitted)
    monkeypatch.setattr(Regression, "directions", lambda self: np.zeros((self.cross.shape[1], 1)))
    monkeypatch.setattr(ProfileProblem, "_add_quadratic", lambda self, events, regression: None)
    stuck = problem.solve(fitted, window={"jes": 0.1}, n_checks=1, seed=1)
    assert not stuck.valid
    for check in stuck.checks:
        shift = check.shift["jes"]
        assert check.amortised == pytest.approx(0.5 * (2 * N + 1) * shift**2, rel=0.1)
        # What a refit gains is what ``y`` says, half of the curvature, but for the ridge and for what 2000 events scatter.
        assert check.difference == pytest.approx(0.5 * N * shift**2, rel=0.12)
        assert not check.passed


def test_directions_that_are_wrong_by_a_fifth_are_the_bound(fitted, monkeypatch):
    """A map absorbs half of the information here: of a direction that is wrong by ``e`` the rest grows by ``e^2``.

    A fifth makes the error 2 % too small and passes; two fifths make it 7 % too small and are told.
    """
    problem, right = ProfileProblem(fitted), Regression.directions
    for part, valid in ((0.8, True), (0.6, False)):
        monkeypatch.setattr(Regression, "directions", lambda self, part=part: part * right(self))
        found = problem.solve(fitted, window=None, n_checks=1, seed=1)
        assert found.valid == valid, found
        for check in found.checks:
            expected = (1.0 - part) ** 2 * 0.5 * N * check.shift["jes"] ** 2
            # What is missed scatters by 0.1 in the data, and the right direction misses about 0.05.
            assert check.difference == pytest.approx(expected, abs=0.2)


def test_narrow_windows(fitted):
    """A profile likelihood that is known for half a standard error only is of no use."""
    narrow = profile(fitted, window={"jes": 0.5 * fitted.errors["jes"]}, n_checks=0)
    (problem,) = narrow.problems
    # With the map fixed the error is smaller by the square root of two.
    assert problem in [f"the window reaches {x} standard errors of the profile likelihood only" for x in (0.3, 0.4)]


def test_bootstrap(profiled, data):
    """A replica is the best map for its counts, to first order, and its nuisance that of its ``x``."""
    made = bootstrap(profiled, 40, seed=2)
    assert len(profiled.replicas) == 0
    centre, maps = profiled.fit.values["jes"], scenarios(made)
    moves, shifts, expected = [], [], []
    for variation, replica in zip(maps.replicas, made.replicas, strict=True):
        counts = poisson_counts(replica.seed, N)
        at_centre = replace(variation, values=profiled.fit.values).to_simulation(data)["y"]
        moves.append([np.average(at_centre, weights=counts), at_centre.mean()])
        shifts.append(replica.values["jes"] - centre)
        expected.append((counts - 1.0) @ (data["x"] - centre) / (N + 1))
    of_counts, of_data = np.transpose(moves) - profiled.fit.values["jes"]
    # Where the best map takes the events of a replica they have the mean of simulation; those of data scatter by 1/sqrt(N).
    assert of_data.std() == pytest.approx(N**-0.5, rel=0.45)  # four standard deviations of the spread of 40
    assert np.std(of_counts) < 0.15 * of_data.std()
    # Scores of the profile have a part of y that the regression leaves.
    np.testing.assert_allclose(shifts, expected, rtol=0, atol=0.3 * N**-0.5)
    assert np.corrcoef(shifts, expected)[0, 1] > 0.98
    with pytest.raises(ValueError, match="n_replicas= must be at least 1"):
        bootstrap(profiled, 0)


def test_replicas_of_few_events(few):
    """Five hundred events move the twenty lowest fields only: all replicas arrive, and scatter by the error of the mean."""
    with pytest.warns(UserWarning, match="map of 500 effective events"):
        made = bootstrap(profile(few, n_checks=0, n_fields=40, seed=1), 12, seed=2)
    assert made.valid
    fields = np.array([replica.fields for replica in made.replicas]) - made.transfer.displacement.field_weights()[-1]
    np.testing.assert_array_equal(np.flatnonzero(fields.any(axis=0)), np.arange(20))
    events = pd.DataFrame(few.data.columns)
    means = [variation.to_simulation(events)["y"].mean() for variation in scenarios(made).replicas]
    assert np.std(means) == pytest.approx(500**-0.5, rel=0.85)  # four standard deviations of the spread of 12


@pytest.mark.slow
def test_maps_of_few_events_are_known_as_well_as_their_bands_say():
    """Of 250 events behind a bent map, in the mean over all points; bands of two fields were 0.07, and pulls four on average."""

    def to_simulation(y, x):
        return y + 0.35 * np.tanh(1.5 * y) + 0.2 * x

    rng, grid = np.random.default_rng(3), np.linspace(-6.0, 6.0, 20_001)
    x, z = rng.normal(size=(2, 250))
    few = pd.DataFrame({"y": np.interp(z - 0.2 * x, to_simulation(grid, 0.0), grid), "x": x})
    fit = fit_transfer(model(), few, obs=["y"], cond=["x"], seed=1, progress=False)
    made = bootstrap(profile(fit, n_checks=0, seed=1), 8, seed=2)
    points = pd.DataFrame([(y, x) for y in (-1.5, -0.5, 0.5, 1.5) for x in (-1.0, 0.0, 1.0)], columns=["y", "x"])
    band = scenarios(made).evaluate(lambda variation: variation.to_simulation(points)["y"].to_numpy())
    off = band.value - to_simulation(points["y"], points["x"])
    # A shift, a width and how both depend on the condition: more than the 2.5 numbers of 250 events that 0.1 would be. Points
    # have much in common, so that the squares of pulls scatter like those of a few.
    size = np.sqrt(np.mean(band.statistical**2))
    assert size > 0.1
    assert np.mean((off / band.statistical) ** 2) < 10.0


def test_a_parameter_that_moves_nothing():
    """It has no score, and says nothing about a ridge."""
    rng = np.random.default_rng(1)
    rows, scores = rng.normal(size=(400, 6)).astype(np.float32), rng.normal(size=(400, 2))
    scores[:, 0] += rows[:, 1]
    alone = Regression.of([(rows, np.ones(400))], scores[:, :1])
    beside = Regression.of([(rows, np.ones(400))], scores * [1.0, 0.0])
    assert np.isfinite(beside.ridge)
    assert beside.ridge == alone.ridge
    np.testing.assert_allclose(beside.directions()[:, 1], 0.0)
    nothing = Regression.of([(rows, np.ones(400))], 0.0 * scores)
    assert not nothing.directions().any()


def test_nothing_is_left_of_what_a_map_absorbs():
    """A cubic score is one of the fields beside a hundred of noise, which a parameter that they cannot follow keeps down.

    What remains of the first parameter is its constraint: a ridge that is best for the sum of both leaves a thousandth of
    its 18,000 units of information, and an error of 0.25.
    """
    rng, n = np.random.default_rng(0), 8000
    z = rng.normal(size=(n, 2))
    powers = np.stack([z[:, 0] ** power for power in range(1, 9)], axis=1)
    rows = np.concatenate([powers / np.sqrt(np.mean(powers**2, axis=0)), rng.normal(size=(n, 100))], axis=1)
    scores = np.stack([1.5 * (z[:, 0] ** 3 - 3.0 * z[:, 0]) / np.sqrt(6.0), z[:, 1]], axis=1)
    prior = np.diag([1.0, 0.0])
    found = Regression.of([(rows.astype(np.float32), np.ones(n))], scores, prior)
    errors = np.sqrt(np.diag(np.linalg.inv(found.information() + prior)))
    np.testing.assert_allclose(errors, [1.0, n**-0.5], rtol=0.02)


def test_replicas_with_too_many_fields_are_a_problem(few, monkeypatch):
    """With a field for each five events maxima are far away: 20 steps do not reach them, and those that do gain too much."""
    monkeypatch.setattr(step2, "_EVENTS_PER_FREE_FIELD", 5.0)
    profiled = profile(few, n_checks=0, n_fields=100, seed=1)
    for n_steps, problem in ((20, "[234] of 4 replicas did not come"), (400, "follow single events")):
        monkeypatch.setattr(replicas_module, "_STEPS", n_steps)
        with pytest.warns(UserWarning, match=f"{problem}.*500 events are few for 91 fields"):
            assert not bootstrap(profiled, 4, seed=2).valid


def test_maps_that_are_not_the_best_are_polished(fitted, data):
    """Behind a map that leaves ``y`` half a width away, step 2 finds the rest."""
    transfer = copy.deepcopy(fitted.transfer)
    for weights in transfer.trainable_variables:
        weights.assign(tf.zeros_like(weights))
    away = replace(fitted, transfer=transfer, values={"jes": 0.0})
    polished = ProfileProblem(away).solve(away, window=None, n_checks=0, seed=1)
    constant = polished.transfer.displacement.field_weights()[-1]
    assert constant.any()
    u, c, _ = transfer.encode(tf.constant(data[["y"]].to_numpy()), tf.zeros((N, 0), tf.float64))
    centre = tf.zeros(1, tf.float64)
    moved = transfer.decode(polished.transfer.inverse(u, transfer.context(c, None), centre)[0]).numpy()
    # The ridge keeps less than a standard error of the mean (0.022) and a little.
    assert moved.mean() == pytest.approx(0.0, abs=0.05)
    assert moved.std() == pytest.approx(1.0, abs=0.05)


# --- the ensemble ------------------------------------------------------------------------------------------------------


SHIFTS = (-0.03, 0.0, 0.05)


@pytest.fixture(scope="module")
def replicas(stuck, data):
    """Replicas whose maps shift ``y`` by known amounts, and do not follow the nuisance."""
    displacement, scale = stuck.transfer.displacement, data["y"].std(ddof=0)
    width = np.exp(float(displacement.frames[0][0, 1, 0]))
    # The first field moves all events by one width.
    fields = np.outer(SHIFTS, np.eye(displacement.n_fields)[0]) / (scale * width)
    made = (Replica((0, index), own, stuck.fit.values) for index, own in enumerate(fields))
    return replace(stuck, replicas=tuple(made))


def test_rebased_average_of_parabolas(replicas, data):
    """Replicas are parabolas of one width around the mean of ``x`` and of their ``y``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        combined = ensemble(replicas, progress=False)
    y = replicas.fit.transfer.to_simulation(data)["y"]
    minima = np.array([(data["x"] + y + shift).sum() for shift in SHIFTS]) / (2 * N + 1)
    error = 1.0 / np.sqrt(2 * N + 1)

    def shares(jes):
        likelihoods = np.exp(-0.5 * ((jes - minima) / error) ** 2)
        return likelihoods / len(minima)

    # An estimated distance to the minimum of 1e-4 in the likelihood, at which fits stop, is 1.4 % of the error.
    np.testing.assert_allclose(combined.minima["jes"], minima, rtol=0, atol=0.02 * error)
    (jes,) = combined.nll.get_params()
    for value in (minima[0] - 2 * error, minima.mean(), minima[2] + 4 * error):
        with zfit.param.set_values([jes], [value]):
            found = float(combined.nll.value(full=False))
        assert found == pytest.approx(-np.log(shares(value).sum()), abs=2e-3)
    best = optimize.minimize_scalar(lambda jes: -np.log(shares(jes).sum()), bounds=(minima[0], minima[2])).x
    assert combined.values["jes"] == pytest.approx(best, abs=0.02 * error)
    relative = shares(best) / shares(best).sum()
    assert combined.k_eff == pytest.approx(1.0 / np.sum(relative**2), rel=0.02)
    # The curvature of the average is that of its replicas, minus the spread of their slopes.
    slopes = (best - minima) / error**2
    curvature = error**-2 - relative @ slopes**2 + (relative @ slopes) ** 2
    assert combined.errors["jes"] == pytest.approx(curvature**-0.5, rel=0.02)
    assert combined.spread["jes"] == pytest.approx(np.std(minima, ddof=1), rel=0.02)


def test_rebased_average_of_weighted_data(replicas):
    """Weights that are all the same say nothing: errors were a third of the right ones."""
    events = zfnf.Sample(replicas.fit.data.columns, np.full(N, 9.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        one = replace(replicas, replicas=replicas.replicas[1:2] * 2)
        combined = ensemble(replace(one, fit=replace(one.fit, data=events)), progress=False)
    # Squares of scores scatter by 2 %.
    assert combined.errors["jes"] == pytest.approx(1.0 / np.sqrt(2 * N), rel=0.05)


# --- a signal beside the map -------------------------------------------------------------------------------------------


def search(*, with_y):
    """A signal on background in ``x``; ``y`` is the same for both."""
    jes, mu = zfnf.nuisance("jes"), zfit.Parameter("mu", 1.0, 0.0, 20.0, stepsize=0.1)
    of_y = zfit.ComposedParameter("of_y", lambda jes: 0.2 * jes, params=[jes])
    of_background = zfit.ComposedParameter("of_background", lambda jes: 0.2 * jes, params=[jes])
    parts = []
    for name, n, centre, width in (("signal", 20.0, 1.0, 0.3), ("background", 400.0, of_background, 1.5)):
        n_events = modified_yield(n, [mu] if name == "signal" else [])
        if with_y:
            factors = [gauss("x", centre, width), gauss("y", of_y)]
            parts.append(ConditionalProductPDF(factors, extended=n_events, name=name))
        else:
            parts.append(gauss("x", centre, width, extended=n_events))
    return SumPDF(parts), mu


@pytest.mark.slow
def test_limit_beside_the_map():
    """As the map takes all that ``y`` says, the limit is that of ``x`` alone."""
    rng = np.random.default_rng(6)
    x = np.concatenate([rng.normal(1.0, 0.3, 20), rng.normal(0.0, 1.5, 400)])
    events = pd.DataFrame({"x": x, "y": rng.normal(0.5, 1.0, len(x))})
    model, mu = search(with_y=True)
    fit = fit_transfer(model, events, obs=["y"], shared=True, n_layers=1, **NETWORKS)
    profiled = profile(fit, seed=1)
    assert profiled.valid, profiled
    limit = upper_limit(profiled.loss(), mu, n_asimov=1000)
    of_x, mu_of_x = search(with_y=False)
    expected = upper_limit(zfnf.loss.ExtendedUnbinnedNLL(of_x, events[["x"]]), mu_of_x, n_asimov=1000)
    assert limit.observed == pytest.approx(expected.observed, rel=0.01)
    assert limit.expected[2] == pytest.approx(expected.expected[2], rel=0.03)


def of_x(data, jes):
    """Negative log-likelihood of ``x`` alone, up to a constant."""
    return 0.5 * float(np.sum((data["x"] - jes) ** 2) + jes**2)

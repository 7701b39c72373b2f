"""Verdicts on densities that are right, and on ones with a fault that was planted."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import zfit
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from scipy.special import eval_hermitenorm, factorial
from untrained import deformed, smooth_flow

import zfit_fnf as zfnf
from zfit_fnf import Sample, Simulation, Variation
from zfit_fnf.densities.claims import Claim
from zfit_fnf.densities.history import History
from zfit_fnf.densities.polynomial_map import Response as PolynomialResponse
from zfit_fnf.densities.responses import ShapeResponse
from zfit_fnf.diagnostics import fitted, two_sample_test, validate
from zfit_fnf.diagnostics.subjects import Subject
from zfit_fnf.diagnostics.verdict import _normalisation_by_draws, _sentence, _two_sided

pytest.importorskip("sklearn")

SHIFT, STRETCH = 0.3, 0.1
CONSERVATIVE = 1e-5


class Response(ShapeResponse):
    """``a`` shifts the first coordinate, ``b`` stretches the second one, and both together shift the second."""

    def __init__(self, flow, *, interaction=0.0):
        self.flow, self._interaction = flow, interaction
        self.nuisances, self.windows = ("a", "b"), {"a": (-1.0, 1.0), "b": (-1.0, 1.0)}

    def precompute(self, u, c, of_conditions=None):
        return u

    def log_shape(self, nu, u):
        moved, log_slope = self._nominal(u, nu)
        return self.flow.log_density(moved, tf.zeros_like(u[:, :0])) + log_slope

    def draw(self, c, nu, seed):
        u = self.flow.draw(c, seed)
        first, second = tf.unstack(u, axis=1)
        return tf.stack(
            [first + SHIFT * nu[0], second * tf.exp(STRETCH * nu[1]) + self._interaction * nu[0] * nu[1]], axis=1
        )

    def _nominal(self, u, nu):
        first, second = tf.unstack(u, axis=1)
        scale = STRETCH * nu[1]
        moved = (second - self._interaction * nu[0] * nu[1]) * tf.exp(-scale)
        return tf.stack([first - SHIFT * nu[0], moved], axis=1), -scale


def gaussian(*, excess=0.0):
    """Two independent Gaussians of widths one and two, in one function that may not be normalised."""

    def log_prob(x, context):
        del context
        z = x / np.array([1.0, 2.0])
        return -0.5 * tf.reduce_sum(z**2, axis=1) - np.log(2 * np.pi) - np.log(2.0) + np.log1p(excess)

    def sampler(context, seed):
        normal = tf.random.stateless_normal((tf.shape(context)[0], 2), seed, dtype=tf.float64)
        return normal * np.array([1.0, 2.0])

    return zfnf.interop.callable.wrap(log_prob, sampler, obs=["y1", "y2"])


@pytest.fixture(scope="module")
def flow():
    return gaussian()


@pytest.fixture(scope="module")
def response(flow):
    return Response(flow)


POINTS = [{"a": 1.0}, {"a": -1.0}, {"b": 1.0}, {"b": -1.0}, {"a": 1.0, "b": 1.0}]


def simulate(density, n, seed, points=POINTS):
    variations = [Variation(density.sample(n, nu=at, seed=seed + k), at=at) for k, at in enumerate(points, start=1)]
    return Simulation(density.sample(n, nu={}, seed=seed), variations)


def test_right_densities_pass(response):
    reports = [
        validate(response, simulate(response, 1000, 100 * seed), level=CONSERVATIVE, seed=seed) for seed in (1, 2)
    ]
    assert all(report.passed for report in reports)
    # p-values of a right density are uniform; those of the classifier, twice the smaller of two, are nearly so.
    p_values = np.concatenate([report.table.loc[report.table["test"] != "classifier", "p_value"] for report in reports])
    assert 0.3 < np.mean(p_values) < 0.7


def test_the_report_says_what_was_done(response):
    report = validate(response, simulate(response, 500, 1), level=CONSERVATIVE, n_data=2000)
    assert set(report.table["test"]) == {"classifier", "mean", "width", "skewness", "closure", "normalisation"}
    assert str(report).startswith("passed: ")
    assert "for 2000 events" in str(report)
    # The mean score of 500 events knows a bias to the root of 2000 / 500 errors, draws of the model add a quarter to its square,
    # and the spread of so few scores, whose distribution has tails, is known to some ten per cent.
    assert report.biases["error"].between(1.7, 3.2).all()
    assert "times as many to see 0.3" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["passed"]
    assert report.untested == ()
    alone = validate(response, simulate(response, 500, 1, POINTS[:4]), level=CONSERVATIVE)
    assert alone.untested == ("p(y1, y2): whether 'a' and 'b' interact is not tested, there is no joint sample",)


def test_a_sign_that_is_flipped_is_found(response):
    good = simulate(response, 2000, 1)
    flipped = [Variation(v.events, at={name: -value for name, value in v.at.items()}) for v in good.variations]
    report = validate(response, Simulation(good.nominal, flipped))
    assert any("at a=+1: a fit of 'a'" in problem for problem in report.problems)


def test_a_missing_interaction_is_found(flow, response):
    truth = Response(flow, interaction=0.5)
    report = validate(response, simulate(truth, 5000, 1))
    assert all("at a=+1, b=+1" in problem and "Add the interaction" in problem for problem in report.problems)
    assert not report.passed


def test_a_spurious_response_is_found_and_its_bias_predicted(response):
    good = simulate(response, 5000, 1)
    none = [Variation(response.sample(5000, nu={}, seed=7), at={"a": 1.0}), *good.variations[1:]]
    report = validate(response, Simulation(good.nominal, none), n_data=10_000)
    row = report.table.query("test == 'closure' and point == 'a=+1' and of == 'a'").iloc[0]
    # The score of the shift is SHIFT times a unit Gaussian, and misses SHIFT**2: 30 errors of 1 / (SHIFT sqrt n).
    assert row["value"] == pytest.approx(-SHIFT * np.sqrt(10_000), abs=5 * np.sqrt(10_000 / 5000 * 1.5))
    assert row["problem"]


def test_one_per_cent_of_width_is_found(flow):
    events = flow.sample(100_000, seed=3)
    report = validate(flow, Simulation({"y1": 1.02 * events["y1"], "y2": events["y2"]}))
    assert any("'y1' is +2" in problem for problem in report.problems)
    row = report.table.query("test == 'width' and of == 'y1'").iloc[0]
    # The width of 100k events is known to 0.0022, that of the ranks among 1.6M events adds little; four of these.
    assert row["value"] == pytest.approx(0.02, abs=0.0092)
    assert row["p_value"] < 1e-6


def test_a_function_that_is_not_normalised_is_found():
    wrong = gaussian(excess=0.03)
    report = validate(wrong, Simulation(wrong.sample(2000, seed=4)))
    assert [problem for problem in report.problems if "integrates to 1.03" in problem]


def test_events_from_elsewhere_and_swapped_columns_are_found(flow):
    events = flow.sample(20_000, seed=5).to_numpy().copy()
    events[:400] = 0.3 * events[:400] + 6.0
    assert not validate(flow, Simulation({"y1": events[:, 0], "y2": events[:, 1]})).passed
    assert not validate(flow, Simulation({"y1": events[:, 1], "y2": events[:, 0]})).passed


def test_distribution_functions_of_flows_are_used():
    """A new flow has random weights: it is right about its own events, given conditions too."""
    flow = zfnf.Flow(["y1", "y2"], ["x"], seed=3)
    x = {"x": np.random.default_rng(1).normal(size=2000)}
    events = flow.sample(cond=x, seed=2)
    assert validate(flow, Simulation(events), level=CONSERVATIVE).passed
    moved = events.assign(y1=1.2 * events["y1"])
    assert any("'y1'" in problem for problem in validate(flow, Simulation(moved)).problems)


def test_densities_in_compiled_pieces_are_those_of_the_events(response):
    """More events than one piece has, and the last piece is not full."""
    subject, n = Subject("", response), 5000
    events = Sample(response.sample(n, seed=1).to_dict("series"))
    found = subject.log_probs(events, [{}, {"a": 0.5, "of others": 1.0}])
    for values, nu in zip(found, ({}, {"a": 0.5}), strict=True):
        np.testing.assert_allclose(values, response.log_prob(events, nu=nu), rtol=1e-12)
    drawn = subject.sample(events, {"a": 1.0}, n=2 * n, seed=2).array(["y1", "y2"])
    assert len(np.unique(drawn[:, 0])) == 2 * n  # each piece has a seed of its own
    np.testing.assert_allclose(drawn.mean(axis=0), [SHIFT, 0.0], atol=0.1)  # five errors of 2 / sqrt(10000)


def test_events_of_a_conditional_density_have_conditions_and_weights_of_others():
    flow, w = zfnf.Flow(["y"], ["x"], seed=3), np.array([1.0, 2.0, 3.0])
    given = Sample({"y": np.zeros(3), "x": np.array([0.1, 0.2, 0.3])}, w)
    drawn = Subject("", flow).sample(given, {}, n=6, seed=1)
    np.testing.assert_array_equal(drawn.columns["x"], np.tile(given.columns["x"], 2))
    np.testing.assert_array_equal(drawn.weights, np.tile(w, 2))
    alone = Subject("", zfnf.Flow(["y"], seed=3)).sample(Sample({"y": np.zeros(3)}, w), {}, n=6, seed=1)
    assert alone.weights is None


def test_factors_of_a_model_are_tested_by_name(response):
    shape = {name: zfnf.nuisance(name) for name in "ab"}
    signal = zfnf.pdf.FNFPDF(response, shape, extended=100.0, name="signal")
    other = zfnf.pdf.FlowPDF(response.flow, extended=100.0, name="other")
    model = zfnf.pdf.SumPDF([signal, other])
    report = validate(model, {"signal": simulate(response, 500, 1), "other": Simulation(response.flow.sample(500, seed=9))},
                      level=CONSERVATIVE)  # fmt: skip
    assert report.passed
    assert set(report.table["process"]) == {"signal, p(y1, y2)", "other, p(y1, y2)"}
    with pytest.raises(ValueError, match=r"called \['third'\]"):
        validate(model, {"signal": simulate(response, 500, 1), "third": Simulation(response.flow.sample(500, seed=9))})


@pytest.fixture(scope="module")
def likelihood(response):
    """5000 events of the density, fitted."""
    shape = {name: zfnf.nuisance(name) for name in "ab"}
    number = zfit.Parameter("n", 5000.0, 0, 1e5, stepsize=70)
    model = zfnf.pdf.FNFPDF(response, shape, extended=number, name="signal")
    nll = zfnf.loss.ExtendedUnbinnedNLL(model, response.sample(5000, nu={"a": 0.3}, seed=11))
    zfnf.Minuit().minimize(nll)
    return nll, shape


def test_a_likelihood_is_tested_where_its_fit_ended(response, likelihood):
    report = validate(likelihood[0], {"signal": simulate(response, 500, 1)}, level=CONSERVATIVE)
    assert report.passed
    assert report.n_data == 5000
    value = report.table.set_index("test")["value"]
    assert value["far events"] < 5e-3  # one in a thousand is expected, five events of 5000
    assert value["information"] == pytest.approx(1.0, abs=0.15)


def test_weights_change_nothing_of_what_scores_claim(likelihood):
    """A sample that is scaled down is no other one."""
    nll, _ = likelihood
    scaled = zfnf.loss.ExtendedUnbinnedNLL(nll.model, nll.data, weights=np.full(5000, 0.2))
    params = {one.name: one for one in nll.get_params()}
    with zfit.param.set_values([params["n"]], [0.2 * float(params["n"].value())]):
        (value,) = (row[4] for row in fitted.tests_of_fit(scaled, 1) if row[2] == "information")
    assert value == pytest.approx(1.0, abs=0.15)


@pytest.mark.filterwarnings("ignore:nuisance 'a' is at:UserWarning")
def test_data_and_nuisances_where_nothing_was_simulated_are_found(response, likelihood):
    nll, shape = likelihood
    x = np.asarray(nll.data[0].value()).copy()
    x[:100] = [8.0, 8.0]
    strange = nll.create_new(data={"y1": x[:, 0], "y2": x[:, 1]})
    before = float(shape["a"].value())
    shape["a"].set_value(1.5)
    report = validate(strange, {"signal": simulate(response, 500, 1)}, level=CONSERVATIVE)
    shape["a"].set_value(before)
    found = " ".join(report.problems)
    assert "the fit has 'a' at 1.5, outside of where the density was trained" in found
    assert "2 % of the data are where simulation hardly ever is" in found or "2.1 % of the data" in found
    assert "of its error more than expected" in found


def test_a_response_without_effect_integrates_to_one(flow):
    """Where nothing changes, rounding is all that is left of an integral, and no excess; a constant excess is one."""

    class Constant(Response):
        def __init__(self, flow, excess):
            super().__init__(flow)
            self.nuisances, self.windows, self._excess = ("a",), {"a": (-1.0, 1.0)}, excess

        def log_shape(self, nu, u):
            rounded = 1e-15 * tf.sign(u[:, 0])  # as of two ways to the same density
            return self.flow.log_density(u, tf.zeros_like(u[:, :0])) + rounded * nu[0] + self._excess * nu[0]

        def draw(self, c, nu, seed):
            return self.flow.draw(c, seed)

    samples = simulate(Constant(flow, 0.0), 500, 1, [{"a": 1.0}])
    report = validate(Constant(flow, 0.0), samples, level=CONSERVATIVE)
    p_values = report.table.loc[report.table["test"] == "normalisation", "p_value"]
    assert report.passed
    assert p_values.iloc[-1] > 0.99
    problems = validate(Constant(flow, 0.02), samples, level=CONSERVATIVE).problems
    assert any("at a=+1: the density integrates to 1.02" in one for one in problems)


def test_a_fit_of_a_conditional_density_is_tested_with_the_conditions_of_its_data():
    """Of a density that the conditions shift by two widths: events of the model without them would be elsewhere."""

    def log_prob(y, x):
        return tf.reduce_sum(-0.5 * (y - 2.0 * x) ** 2, axis=1) - 0.5 * np.log(2 * np.pi)

    def sampler(x, seed):
        return 2.0 * x + tf.random.stateless_normal(tf.shape(x), seed, dtype=tf.float64)

    flow = zfnf.interop.callable.wrap(log_prob, sampler, obs=["y"], cond=["x"])
    parts = [zfnf.pdf.FlowPDF(flow, extended=zfit.Parameter(f"n_{k}", 1500.0, 0, 1e5), name=k) for k in "ab"]
    rng = np.random.default_rng(4)
    x = rng.integers(0, 3, 3000).astype(float)
    y = 2.0 * x + rng.normal(size=3000)
    held_out = {name: Simulation({"x": x[:1000], "y": 2.0 * x[:1000] + rng.normal(size=1000)}) for name in "ab"}
    nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF(parts), {"x": x, "y": y})
    report = validate(nll, held_out, level=CONSERVATIVE)
    assert report.passed
    far = report.table.set_index("test")["value"]["far events"]
    assert far < 5e-3  # one in a thousand is expected
    # Events know the sum of the two yields alone: one direction of two, in which scores scatter as they should.
    assert report.table.set_index("test")["value"]["information"] == pytest.approx(1.0, abs=0.15)
    strange = nll.create_new(data={"x": x, "y": np.where(np.arange(3000) < 60, 2.0 * x + 5.0, y)})
    assert any("2 % of the data are where" in one for one in validate(strange, held_out, level=CONSERVATIVE).problems)


@pytest.mark.parametrize("pruned", [True, False])
def test_a_nuisance_whose_response_was_pruned_may_be_anywhere(flow, pruned):
    """Of the density nothing is continued then; the yield is not what was trained."""
    responses = [PolynomialResponse([name], ((1,), (2,)), n_dim=2, n_context=0) for name in "ab"]
    density = zfnf.Deformation(flow, responses, windows={"a": (-1.0, 1.0), "b": (-1.0, 1.0)})
    density.history["a"] = History("a", claim=Claim("pruned" if pruned else "map", 0.0, 0.0, 0.0))
    density.history["b"] = History("b", claim=Claim("map", 0.0, 0.0, 0.0))
    shape = {name: zfnf.nuisance(name) for name in "ab"}
    pdf = zfnf.pdf.FNFPDF(density, shape, extended=zfit.Parameter("n", 200.0, 0, 1e4), name="signal")
    shape["a"].set_value(1.3)
    nll = zfnf.loss.ExtendedUnbinnedNLL(pdf, flow.sample(200, seed=1))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        nll.value()
    found = [row[3] for row in fitted.tests_of_fit(nll, 1) if row[2] == "window"]
    assert any("nuisance 'a' is at 1.3" in str(one.message) for one in told) != pruned
    assert found == ([] if pruned else ["a"])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_moments_of_a_hundred_events_have_the_right_p_values(order):
    """Of 160 000 right densities 160 have one below 0.001; by a normal distribution four times as many had, of skewness."""
    rng, weights = np.random.default_rng(order), np.full(100, 0.01)
    found = []
    for _ in range(80):
        values = eval_hermitenorm(order, rng.normal(size=(2000, 100))).mean(axis=1) / np.sqrt(factorial(order) * 0.01)
        found += [_two_sided(abs(value), order, weights) for value in values if abs(value) > 2.5]
    assert 110 < np.sum(np.array(found) < 1e-3) < 250  # 660 of skewness, 270 of widths before


def test_the_two_sample_test_knows_its_level():
    rng = np.random.default_rng(6)
    first, second = ({"y": rng.normal(size=1500)} for _ in range(2))
    assert two_sample_test(first, second, ["y"]) > CONSERVATIVE
    assert two_sample_test(first, {"y": second["y"] + 0.5}, ["y"]) < 1e-4


def test_negative_weights_take_events_away():
    """A tenth of the events have weight -1, and as many undo them: with their absolute values it is another distribution."""
    rng = np.random.default_rng(3)
    more = rng.normal(1.0, 0.5, 600)
    first = np.concatenate([rng.normal(size=2400), more[:300], more[300:]])
    weights = np.repeat([1.0, -1.0], [2700, 300])
    second = {"y": rng.normal(size=3000)}
    assert two_sample_test({"y": first}, second, ["y"], weights=(weights, None)) > CONSERVATIVE
    assert two_sample_test({"y": first}, second, ["y"], weights=(np.abs(weights), None)) < 1e-4


@pytest.mark.parametrize("width", [0.4, 2.5])
def test_integrals_are_known_as_well_as_their_errors_say_where_ratios_have_no_variance(width):
    """Of 100 densities that are much narrower or wider than the nominal one, with integrals of 1.03."""
    rng, shares, found = np.random.default_rng(11), np.full(2000, 1 / 2000), []
    for _ in range(100):
        log_ratios = [
            stats.norm.logpdf(y, scale=width) + np.log(1.03) - stats.norm.logpdf(y)
            for y in (rng.normal(0.0, width, 2000), rng.normal(size=2000))
        ]
        ((_, _, integral, p_value),) = _normalisation_by_draws(*((shares, one) for one in log_ratios))
        found.append(np.sign(integral - 1.0) * stats.norm.isf(p_value / 2.0))
    # Standard deviations of 1.03 from one; they scatter by one, each with an error of 0.07, and are some 1.6 in the mean.
    assert 0.72 < np.std(found) < 1.28
    assert np.mean(found) > 0.5


def test_differences_that_the_data_would_not_see_are_no_problem(response):
    """The mean of 8000 events is off by 0.06 widths, 5.4 of its errors, and by 0.13 errors of that of 5 events of data."""
    events = response.sample(8000, seed=1)
    moved = {"y1": events["y1"] + 0.06, "y2": events["y2"]}
    few, many = (validate(response.flow, Simulation(moved), n_data=n) for n in (5, 2000))
    assert few.passed
    assert "by less than 0.3 standard deviations" in str(few)
    mean = many.table[(many.table["test"] == "mean") & (many.table["of"] == "y1")].iloc[0]
    assert mean["problem"]
    assert mean["seen"] == pytest.approx(mean["value"] * np.sqrt(2000), rel=1e-9)


def test_what_training_events_have_by_chance_is_no_fault(monkeypatch):
    """As many events have taught a density as test it: deviations count less, and what that does to fits is said."""
    learned = Response(gaussian())
    simulation = simulate(learned, 2000, 5)
    reports = [validate(learned, simulation, level=CONSERVATIVE, n_data=n) for n in (500, 179)]
    monkeypatch.setattr(Subject, "learned_from", lambda self, nu: 2000.0)
    reports += [validate(learned, simulation, level=CONSERVATIVE, n_data=n) for n in (500, 179)]
    before, _, after, _ = (report.table for report in reports)

    def deviations(table, *tests):
        return stats.norm.isf(table.loc[table["test"].isin(tests), "p_value"] / 2.0)

    # Ranks are those among 16 times as many events.
    less = np.sqrt((1 + 1 / 16) / (2 + 1 / 16))
    np.testing.assert_allclose(deviations(after, "mean"), less * deviations(before, "mean"), rtol=1e-9)
    # Draws add a quarter; the spread of the scores is known to some per cent.
    np.testing.assert_allclose(
        deviations(after, "closure"), np.sqrt(1.25 / 2.25) * deviations(before, "closure"), rtol=0.1
    )
    seen = before["test"] == "classifier"
    assert (after["p_value"][seen] >= before["p_value"][seen]).all()
    assert [len(report.untested) for report in reports] == [0, 0, 1, 0]
    np.testing.assert_allclose(
        reports[2].biases["error"], reports[0].biases["error"], rtol=0.1
    )  # what tests it has not changed
    assert "2000 events that taught it have by chance, some 0.5 errors" in reports[2].untested[0]


def test_a_density_has_the_chances_of_the_samples_that_taught_it():
    nuisances = [zfnf.nuisance(name) for name in ("a", "b")]
    density = deformed(smooth_flow(["y"]), nuisances, interactions=True).deformation
    assert Subject("", density).learned_from({"a": 1.0}) == np.inf  # nobody knows
    density.flow.history = History("p(y)", n_events=900, effective_size=1000.0)
    sizes = {"a": 6000.0, "b": 1000.0, "a x b": 4000.0}  # of two samples, two, and one
    density.history.update({name: History(name, n_events=100, effective_size=size) for name, size in sizes.items()})
    subject = Subject("", density)
    at = [{}, {"a": 1.0}, {"b": -0.5}, {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}]
    assert [round(subject.learned_from(point)) for point in at] == [1000, 3000, 500, 500, 4000]
    pruned = History("a x b", n_events=100, effective_size=4000.0, claim=Claim("pruned", 0.0, 0.0, 0.0))
    density.history.update({"a x b": pruned})
    # Both responses know the nominal events, whose chances count once.
    assert subject.learned_from({"a": 1.0, "b": 1.0}) == pytest.approx(1.0 / (1 / 3000 + 1 / 500 - 1 / 1000), rel=1e-12)


def test_an_interaction_that_is_there_is_not_asked_for():
    density = deformed(smooth_flow(["y"]), [zfnf.nuisance("a"), zfnf.nuisance("b")], interactions=True).deformation
    of = {"process": "s", "point": "a=+1, b=+1", "test": "closure", "of": "a"}
    row = SimpleNamespace(**of, value=1.2, p_value=1e-6, n_data=500)
    asked = ". Add the interaction: fit_deformation(..., interactions=[...])"
    told = "s at a=+1, b=+1: a fit of 'a' to 500 events would be off by +1.2 errors (p = 1e-06)"
    assert _sentence(row, set()) == told + asked
    assert _sentence(row, Subject("", density).interactions) == told


def test_each_process_has_its_share_of_the_data(response):
    shape = {name: zfnf.nuisance(name) for name in "ab"}
    signal = zfnf.pdf.FNFPDF(response, shape, extended=300.0, name="signal")
    model = zfnf.pdf.SumPDF([signal, zfnf.pdf.FlowPDF(response.flow, extended=9700.0, name="other")])
    simulations = {"signal": simulate(response, 300, 1), "other": Simulation(response.sample(300, seed=2))}
    report = validate(model, simulations, level=CONSERVATIVE)
    assert report.n_data == 10_000
    assert report.table.groupby("process")["n_data"].unique().map(list).tolist() == [[9700], [300]]
    assert "for 300 events" in str(report)
    fewer = validate(model, {"other": simulations["other"]}, level=CONSERVATIVE, n_data=1000)
    assert set(fewer.table["n_data"]) == {970}


def test_a_signal_that_the_fit_has_none_of_is_judged_all_the_same():
    """A limit depends on its density: 15 % off is 2.1 standard deviations of a hundred events, 0.2 of one."""
    mu, flow = zfit.Parameter("mu_of_none", 0.0), gaussian()
    model = zfnf.pdf.SumPDF([
        zfnf.pdf.FlowPDF(flow, extended=zfnf.modified_yield(300.0, [mu]), name="signal"),
        zfnf.pdf.FlowPDF(flow, extended=10_000.0, name="other"),
    ])  # fmt: skip
    simulation = Simulation(1.15 * flow.sample(20_000, seed=1))
    report = validate(model, {"signal": simulation}, level=CONSERVATIVE)
    assert set(report.table["n_data"]) == {100}
    assert not report.passed
    widths = report.table[report.table["test"] == "width"]
    np.testing.assert_allclose(widths["seen"], np.sqrt(2 * 100) * widths["value"], rtol=1e-12)


def test_what_is_not_tested_is_said(response):
    shape = {name: zfnf.nuisance(name) for name in "ab"}
    signal = zfnf.pdf.FNFPDF(response, shape, extended=100.0, name="signal")
    model = zfnf.pdf.SumPDF([signal, zfnf.pdf.FlowPDF(response.flow, extended=100.0, name="other")])
    few = simulate(response, 200, 1)
    few = Simulation(
        few.nominal, [Variation(response.sample(50, nu={"a": 1.0}, seed=2), at={"a": 1.0}), *few.variations[1:]]
    )
    report = validate(model, {"signal": few}, level=CONSERVATIVE)
    assert report.untested == (
        "signal, p(y1, y2) at a=+1: not tested, its 50 events are too few to tell anything",
        "other: not tested, it has no simulation",
    )
    assert "a=+1" not in set(report.table["point"])


def test_events_of_the_training_are_refused():
    rng = np.random.default_rng(1)
    trained, fresh = ({"y": rng.normal(size=400)} for _ in range(2))
    flow = zfnf.Flow(["y"], seed=1)
    flow.events = (Sample(trained), np.arange(40))
    mixed = {"y": np.concatenate([fresh["y"][:200], trained["y"][:200]])}
    with pytest.raises(
        ValueError, match=r"160 of the 400 events of the sample 'nominal' of p\(y\) have trained its density"
    ):
        validate(flow, Simulation(mixed))


def test_mistakes_are_named(response):
    with pytest.raises(TypeError, match="simulation= is a Simulation"):
        validate(response, response.sample(10, seed=1))
    with pytest.raises(ValueError, match=r"lacks samples of the nuisances \['b'\]"):
        validate(response, simulate(response, 200, 1, POINTS[:2]))
    with pytest.raises(ValueError, match="level="):
        validate(response, simulate(response, 200, 1), level=0.0)

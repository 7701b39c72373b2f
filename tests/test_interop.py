"""Distributions and functions from elsewhere, and imported flows of every kind as members like any other."""

from __future__ import annotations

import pickle

import zfit
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from imported_flows import check_coordinates, points
from scipy import stats
from state_dicts import made_flow

import zfit_fnf as zfnf
from zfit_fnf import interop
from zfit_fnf.interop.callable import check_normalisation
from zfit_fnf.minimize import Minuit

# --- TensorFlow Probability -----------------------------------------------------------------------------------------

f = np.float64
tfd, tfb = tfp.distributions, tfp.bijectors


def correlated():
    return tfd.MultivariateNormalTriL(np.array([91.0, -4.0]), np.array([[2.5, 0.0], [0.3, 0.5]]))


TRUTH = stats.multivariate_normal([91.0, -4.0], [[2.5**2, 0.75], [0.75, 0.3**2 + 0.5**2]])


class TestTFP:
    def test_distribution(self):
        flow = interop.tfp.wrap(correlated(), obs=["mass", "score"])
        y = TRUTH.rvs(50, random_state=1)
        np.testing.assert_allclose(flow.log_prob({"mass": y[:, 0], "score": y[:, 1]}), TRUTH.logpdf(y), atol=1e-12)
        check_coordinates(flow, y, np.zeros((50, 0)))
        # Coordinates for deformations: of the order of one.
        u, _, _ = flow.encode(tf.constant(y), tf.zeros((50, 0), tf.float64))
        assert np.all(np.abs(np.mean(u, axis=0)) < 1.0)
        assert np.all((np.std(u, axis=0) > 0.5) & (np.std(u, axis=0) < 2.0))

    def test_samples(self):
        """Kolmogorov-Smirnov distances above 0.055 of 2000 events have a probability of 1e-5 in each column."""
        sample = interop.tfp.wrap(correlated(), obs=["mass", "score"]).sample(2000, seed=4)
        assert stats.kstest(sample["mass"], stats.norm(91.0, 2.5).cdf).statistic < 0.055
        assert stats.kstest(sample["score"], stats.norm(-4.0, np.hypot(0.3, 0.5)).cdf).statistic < 0.055

    def test_bijector_acts_on_normal_variables(self):
        flow = interop.tfp.wrap(
            tfb.Chain([tfb.Shift(f(1.0)), tfb.Exp(), tfb.Scale(f(0.5))]), obs=["t"], ranges={"t": (1.0, np.inf)}
        )
        t = np.array([1.1, 2.0, 5.0])
        np.testing.assert_allclose(flow.log_prob({"t": t}), stats.lognorm(0.5, loc=1.0).logpdf(t), atol=1e-12)
        check_coordinates(flow, t[:, None], np.zeros((3, 0)))

    def test_bounded_support(self):
        flow = interop.tfp.wrap(tfd.Beta(f(2.0), f(3.0)), obs=["t"], ranges={"t": (0.0, 1.0)})
        t = np.array([1e-6, 0.2, 0.9, 1 - 1e-9])
        np.testing.assert_allclose(flow.log_prob({"t": t}), stats.beta(2, 3).logpdf(t), atol=1e-6)  # 1 - t is rounded
        # Far out in the coordinates, where t is rounded to its edge, the density still falls exponentially.
        u = tf.constant([[60.0], [70.0]], tf.float64)
        fall = np.diff(flow.log_density(u, tf.zeros((2, 0), tf.float64)))[0]
        assert fall == pytest.approx(-10.0 * float(flow._scale[0]), rel=1e-6)
        assert check_normalisation(flow).consistent

    def test_conditional(self):
        def at(x):
            return tfd.Normal(2.0 * x[:, 0], 1.0 + x[:, 1] ** 2)

        y, x = points(1, 2)
        table = {"y": y[:, 0], "a": x[:, 0], "b": x[:, 1]}
        flow = interop.tfp.wrap(at, obs=["y"], cond=["a", "b"], events=table)
        truth = stats.norm(2.0 * x[:, 0], 1.0 + x[:, 1] ** 2)
        np.testing.assert_allclose(flow.log_prob(table), truth.logpdf(y[:, 0]), atol=1e-12)
        check_coordinates(flow, y, x)
        sample = flow.sample(4000, cond={"a": [1.0], "b": [1.0]}, seed=2)
        distance = stats.kstest(sample["y"], stats.norm(2.0, 2.0).cdf).statistic
        assert distance < 0.04  # exceeded with a probability of 6e-6

    @pytest.mark.parametrize(
        ("given", "obs", "error", "message"),
        [
            (lambda: tfd.Normal(f(0), f(1)), ["a", "b"], ValueError, "event shape ()"),
            (lambda: tfd.Normal(np.zeros(2), np.ones(2)), ["a", "b"], ValueError, "Independent"),
            (lambda: tfd.Normal(np.zeros(2), np.ones(2)), ["a"], ValueError, "batch shape (2,)"),
            (lambda: "Normal", ["a"], TypeError, "expected a distribution or bijector"),
        ],
    )
    def test_bad_input(self, given, obs, error, message):
        with pytest.raises(error) as caught:
            interop.tfp.wrap(given(), obs=obs)
        assert message in str(caught.value)

    def test_conditions_need_a_function(self):
        with pytest.raises(TypeError, match="give a function of them"):
            interop.tfp.wrap(correlated(), obs=["mass", "score"], cond=["x"])

    def test_ranges_that_are_not_the_support(self):
        with pytest.raises(ValueError, match="not inside the range 90 < mass < 92"):
            interop.tfp.wrap(correlated(), obs=["mass", "score"], ranges={"mass": (90.0, 92.0)})

    def test_single_precision_warns(self):
        with pytest.warns(UserWarning, match="computes in float32"):
            flow = interop.tfp.wrap(tfd.Normal(0.0, 1.0), obs=["a"])
        assert flow.log_prob({"a": [0.0]})[0] == pytest.approx(-0.9189385, abs=1e-6)


# --- functions ------------------------------------------------------------------------------------------------------


def exponential(context_slope=0.0):
    def log_prob(x, context):
        rate = tf.exp(context_slope * tf.reduce_sum(context, axis=1))
        return tf.math.log(rate) - rate * x[:, 0]

    def sampler(context, seed):
        uniform = tf.random.stateless_uniform((tf.shape(context)[0], 1), seed, dtype=tf.float64)
        return -tf.math.log(uniform) / tf.exp(context_slope * tf.reduce_sum(context, axis=1, keepdims=True))

    return log_prob, sampler


class TestCallable:
    def test_density_and_sampler(self):
        flow = interop.callable.wrap(*exponential(), obs=["t"], ranges={"t": (0.0, np.inf)})
        t = np.array([1e-3, 1.0, 7.0])
        np.testing.assert_allclose(flow.log_prob({"t": t}), -t, atol=1e-12)
        check_coordinates(flow, t[:, None], np.zeros((3, 0)))
        assert stats.kstest(flow.sample(2000, seed=1)["t"], stats.expon.cdf).statistic < 0.055  # p = 1e-5

    def test_densities_of_distributions_are_drawn(self):
        """Seeds of PDFs have 64 bits, which a Gamma distribution refused."""
        gamma = tfp.distributions.Gamma(np.float64(3.0), np.float64(2.0))
        pdf = zfnf.pdf.FlowPDF(interop.tfp.wrap(gamma, obs=["t"], ranges={"t": (0.0, np.inf)}))
        drawn = np.ravel(pdf.sample(2000).value())
        assert stats.kstest(drawn, stats.gamma(3.0, scale=0.5).cdf).statistic < 0.055  # p = 1e-5

    def test_conditional(self):
        flow = interop.callable.wrap(*exponential(0.5), obs=["t"], cond=["x"], ranges={"t": (0.0, np.inf)})
        rate = np.exp(0.5 * np.array([0.0, 1.0, -2.0]))
        table = {"t": [0.1, 1.0, 3.0], "x": [0.0, 1.0, -2.0]}
        np.testing.assert_allclose(flow.log_prob(table), np.log(rate) - rate * table["t"], atol=1e-12)

    def test_normalisation_is_checked(self):
        log_prob, sampler = exponential(0.5)
        ranges = {"t": (0.0, np.inf)}
        good = interop.callable.wrap(log_prob, sampler, obs=["t"], cond=["x"], ranges=ranges)
        result = check_normalisation(good, at={"x": 1.0}, seed=1)
        assert result.consistent
        assert result.error < 0.01
        assert "as one" in str(result)
        bad = interop.callable.wrap(lambda *a: log_prob(*a) + 0.1, sampler, obs=["t"], cond=["x"], ranges=ranges)
        result = check_normalisation(bad, at={"x": 1.0}, seed=1)
        assert not result.consistent
        assert result.integral == pytest.approx(np.exp(0.1), abs=5 * result.error)
        with pytest.raises(ValueError, match="a value for each condition"):
            check_normalisation(good)

    @pytest.mark.parametrize(
        ("log_prob", "sampler", "message"),
        [
            (lambda x, c: x, None, "log-densities of shape"),
            (lambda x, c: x[:, 0] / 0.0, None, "is not finite for 10000 of 10000 events"),
            (None, lambda c, seed: tf.zeros(7), "gives the shape (7,)"),
            (None, lambda c, seed: -tf.ones((tf.shape(c)[0], 1)), "not inside the range 0 < t"),
        ],
    )
    def test_functions_are_tried_out(self, log_prob, sampler, message):
        good = exponential()
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            interop.callable.wrap(log_prob or good[0], sampler or good[1], obs=["t"], ranges={"t": (0.0, np.inf)})
        assert message in str(caught.value)


# --- members like any other -----------------------------------------------------------------------------------------


def zuko_flow(columns):
    made = made_flow([[0, 1], [1, 0]], scale=0.3)
    return interop.zuko.import_flow(made.arrays, obs=columns, architecture={"activation": "Tanh", "slope": 1e-3})


def physical_flow(columns):
    return interop.tfp.wrap(correlated(), obs=columns)


@pytest.mark.parametrize("make", [zuko_flow, physical_flow])
def test_imported_flows_go_to_other_processes(make):
    flow = make(["y0", "y1"])
    table = dict(zip(flow.obs, points(2, 0)[0].T, strict=True))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(flow)).log_prob(table), flow.log_prob(table))


@pytest.mark.parametrize("make", [zuko_flow, physical_flow])
def test_imported_flows_are_deformed_fitted_and_stored(make, tmp_path):
    """A response trained on top of an imported flow measures a shift: within 5 sigma, also after storage."""
    columns = ["y0", "y1"]
    flow = make(columns)
    nominal = flow.sample(20_000, seed=1)
    flow.sum_weights = float(len(nominal))
    shift = 0.3 * nominal["y0"].std()

    def moved(n, nu, seed):
        return flow.sample(n, seed=seed).assign(y0=lambda table: table["y0"] + nu * shift)

    variations = [zfnf.Variation(moved(20_000, nu, seed=nu + 3), at={"jes": nu}) for nu in (-1, 1)]
    schedule = zfnf.Schedule(steps=150, batch_size=1024, learning_rate=5e-3, warmup=20, averaging=0.95, rotate_every=0)
    deformation = zfnf.train.fit_deformation(flow, variations, hidden=(8,), schedule=schedule, progress=False)
    assert deformation.yields["jes"] == zfnf.YieldRatio(1.0, 1.0)

    data = moved(2000, 0.5, seed=9)[columns]
    zfnf.save(deformation, tmp_path / "m.fnf")
    fitted = []
    for model in (deformation, zfnf.load(tmp_path / "m.fnf")):
        jes, n = zfnf.nuisance("jes"), zfit.Parameter("n", 1900.0, 0.0, 10_000.0, stepsize=10.0)
        nll = zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.FNFPDF(model, params={"jes": jes}, extended=n), data)
        result = Minuit().minimize(nll)
        error = result.hesse(params=jes)[jes]["error"]
        assert result.valid
        # Shifted by 0.3 widths per unit, two thousand events: 1 / (0.3 sqrt(2000)) = 0.075, less with correlations.
        assert 0.03 < error < 0.08
        assert abs(result.params[jes]["value"] - 0.5) < 5 * error
        fitted.append(result.params[jes]["value"])
    assert fitted[0] == pytest.approx(fitted[1], abs=1e-9)


def normal(**parameters):
    return tfd.Normal(**{"loc": np.float64(0.0), "scale": np.float64(1.0), **parameters})


def function(log_prob=lambda x, c: -x[:, 0], **options):
    sampler = exponential()[1]
    return interop.callable.wrap(log_prob, options.pop("sampler", sampler), **{"obs": ["t"], **POSITIVE, **options})


POSITIVE = {"ranges": {"t": (0.0, np.inf)}}
WRAP = interop.tfp.wrap
MISTAKES = {
    "names as a text": (lambda: WRAP(normal(), obs="mass"), TypeError, "obs= is a list of column names"),
    "no names": (lambda: WRAP(normal(), obs=None), TypeError, "obs= is a list of column names"),
    "no observable": (lambda: WRAP(normal(), obs=[]), ValueError, "names no observable"),
    "numbers as names": (lambda: WRAP(normal(), obs=[1]), TypeError, "obs= is a list of column names"),
    "an empty name": (lambda: WRAP(normal(), obs=[""]), TypeError, "obs= is a list of column names"),
    "conditions as a text": (lambda: WRAP(normal(), obs=["a"], cond="x"), TypeError, "cond= is a list"),
    "a name of the function": (lambda: function(name=7), TypeError, "name= is a text"),
    "an empty name of the function": (lambda: function(name=""), TypeError, "name= is a text"),
    "a class": (lambda: WRAP(tfd.Normal, obs=["a"]), TypeError, "expected a distribution or bijector"),
    "text": (lambda: WRAP("normal", obs=["a"]), TypeError, "expected a distribution or bijector"),
    "a list of ranges": (lambda: WRAP(normal(), obs=["a"], ranges=[(0, 1)]), TypeError, "ranges= is a mapping"),
    "a range of one number": (lambda: WRAP(normal(), obs=["a"], ranges={"a": 5}), TypeError, "is a pair"),
    "the column of weights": (lambda: WRAP(normal(), obs=["a"], sum_weights="w"), TypeError, "sum_weights= is a number"),
    "a negative yield": (lambda: WRAP(normal(), obs=["a"], sum_weights=-3.0), ValueError, "positive and finite"),
    "a yield that is none": (lambda: WRAP(normal(), obs=["a"], sum_weights=np.nan), ValueError, "positive and finite"),
    "counts": (lambda: WRAP(tfd.Poisson(np.float64(3.0)), obs=["a"]), ValueError, "it is discrete"),
    "categories": (lambda: WRAP(tfd.Categorical(probs=[0.5, 0.5]), obs=["a"]), ValueError, "it is discrete"),
    "an atom": (lambda: function(sampler=lambda c, seed: tf.ones((len(c), 1), tf.float64)), ValueError, "it is discrete"),
    "a function of no distribution": (
        lambda: WRAP(lambda x: 3.0, obs=["a"], cond=["x"], events={"a": np.arange(9.0), "x": np.arange(9.0)}),
        ValueError, "the function gives 3.0, neither",
    ),
    "no function": (lambda: function(None), TypeError, "log_prob is a function"),
    "no sampler": (lambda: function(sampler=None), TypeError, "sampler is a function"),
    "swapped": (lambda: interop.callable.wrap(*exponential()[::-1], obs=["t"], **POSITIVE), ValueError, "the sampler of"),
    "one argument": (lambda: function(lambda x: -x[:, 0]), ValueError, "fails as a TensorFlow function"),
    "NumPy": (lambda: function(lambda x, c: -np.asarray(x)[:, 0]), ValueError, "fails as a TensorFlow function"),
    "a list of numbers": (lambda: function(lambda x, c: [0.0] * 3), ValueError, "of shape"),
    "a sampler that fails": (lambda: function(sampler=lambda c, seed: c[:, 5:6] / 0), ValueError, "the sampler of"),
    "a function that gives nothing": (lambda: function(lambda x, c: None), ValueError, "log-density of"),
    "no events to integrate": (lambda: check_normalisation(function(), n=0), ValueError, "n= is a number of points"),
    "half an event": (lambda: check_normalisation(function(), n=1000.5), ValueError, "n= is a number of points"),
    "a negative seed": (lambda: check_normalisation(function(), seed=-1), ValueError, "seed= not negative"),
    "conditions in a list": (lambda: check_normalisation(function(), at=[1.0]), TypeError, "at= is a mapping"),
    "no flow": (lambda: check_normalisation(normal()), TypeError, "expected a flow"),
    "an architecture in a list": (
        lambda: interop.zuko.import_flow({}, obs=["a"], architecture=["bins"]), TypeError, "architecture= is a mapping",
    ),
    "a folder": (lambda: interop.zuko.import_flow(".", obs=["a"], architecture={}), ValueError, "is a folder"),
    "a flow of ours": (lambda: interop.zuko.import_flow(function(), obs=["a"], architecture={}), TypeError, "a module of zuko"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*computes in")
@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(call, error, message):
    """One error on input, which names the expected type."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)

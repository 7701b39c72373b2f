"""What responses claim, learned against the nominal events: nothing where there is nothing, and all that there is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

import zfit_fnf as zfnf
from zfit_fnf.densities.claims import Claim, ResponseTable
from zfit_fnf.densities.history import History
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.densities.ratio import polynomials
from zfit_fnf.train import choice, ratio
from zfit_fnf.train.claims import Points, Scored, claim, shares
from zfit_fnf.train.contrast import Contrast, ContrastSample, _spread
from zfit_fnf.train.ratio import learn, of_conditions_alone
from zfit_fnf.train.straighten import straighten
from zfit_fnf.train.terms import chosen, first_terms, lost

SHORT = zfnf.Schedule(steps=300, batch_size=2048)


def contrast(effect, n, seed, *, n_dim=1, squares=False):
    """Samples at 0, +1, -1 of uniform coordinates, the first one tilted by ``1 + effect nu t``."""
    rng = np.random.default_rng(seed)
    samples = []
    for nu in (0.0, 1.0, -1.0):
        t = rng.uniform(-1, 1, (3 * n, n_dim))
        t = t[rng.random(3 * n) < (1 + effect * nu * t[:, 0]) / 2][:n]
        nothing = np.zeros((n, 2), np.float32)
        samples.append(ContrastSample(t.astype(np.float32), nothing, np.ones(n), np.arange(n) % 2, nothing))
    return Contrast(samples, np.array([[1.0, 1.0], [-1.0, 1.0]]), n_dim, first_terms(n_dim, 0, 2), squares=squares)


def slope(learned, n_dim=1):
    """Least squares slope of the linear coefficient in the first one of uniform coordinates."""
    t = np.zeros((401, n_dim))
    t[:, 0] = np.linspace(-1.0, 1.0, 401)
    return np.polyfit(t[:, 0], polynomials(t, learned.basis.exponents).numpy() @ learned.weights[0], 1)[0]


@pytest.mark.parametrize(("n_dim", "squares"), [(1, False), (1, True), (2, True)])
def test_noise_is_not_significant(n_dim, squares):
    # The evidence exceeds 8 by chance once in about 2e4 samples.
    found = [learn(contrast(0.0, 5000, seed, n_dim=n_dim, squares=squares)) for seed in range(8)]
    assert not any(each.significant for each in found)
    assert max(each.evidence for each in found) < 8.0


@pytest.mark.parametrize("effect", [0.1, 0.5])
def test_a_slope_is_learned(effect):
    n = 40_000
    sample = contrast(effect, n, 3)
    found = learn(sample)
    assert found.significant
    t = np.linspace(-0.9, 0.9, 19)
    values = polynomials(t[:, None], found.basis.exponents).numpy() @ found.weights.T
    odd = 0.5 * np.log((1 + effect * t) / (1 - effect * t))
    # Half the difference of two samples: an error of 0.0035 for each of the few numbers that matter, here up to 4.
    np.testing.assert_allclose(values[:, 0], odd, atol=0.035)


def test_clear_effects_are_not_made_smaller():
    """What a response lacks is a bias of the nuisance: a tenth of an effect that data know ten times better is one error."""
    found = [learn(contrast(0.1, 15_000, seed)) for seed in range(100, 124)]
    slopes = [slope(each.shrunk()) / 0.1 for each in found]
    # Each has an error of 0.1, so that the effect is ten of them; the mean has 0.02, and 0.03 is believed of being small.
    assert np.mean(slopes) == pytest.approx(0.97, abs=0.08)
    assert min(each.trust for each in found) > 0.7


def test_shares_of_a_mixture_change_the_density_linearly():
    """With ``p = (1 + 0.5 nu t) / 2`` the quadratic coefficient is minus half of the square of the linear one, at most 0.1."""
    sample = contrast(0.5, 40_000, 5, squares=True)
    t = np.linspace(-0.9, 0.9, 19)
    found = learn(sample)
    values = polynomials(t[:, None], found.basis.exponents).numpy() @ found.weights.T
    even = 0.5 * np.log1p(-np.square(0.5 * t))
    # One number, known within 0.1; as a function of its own, with an error of 0.0035 for each of its numbers, it would wiggle.
    assert np.polyfit(even, values[:, 1], 1)[0] == pytest.approx(1.0, abs=0.3)
    assert np.ptp(values[:, 1] + 0.5 * np.square(values[:, 0])) < 0.03


def drawn(log_ratio, n, seed, n_inputs, n_dim):
    """Samples at 0, +1, -1 of uniform coordinates, with weights ``exp(nu log_ratio(t))`` of at most four."""
    rng, samples = np.random.default_rng(seed), []
    for nu in (0.0, 1.0, -1.0):
        t = rng.uniform(-1, 1, (12 * n, n_inputs))
        t = t[rng.random(12 * n) < np.exp(nu * log_ratio(t)) / 4][:n].astype(np.float32)
        nothing = np.zeros((len(t), 2), np.float32)
        samples.append(ContrastSample(t, nothing, np.ones(len(t)), np.arange(len(t)) % 2, nothing))
    terms = first_terms(n_dim, n_inputs - n_dim, 2)
    return Contrast(samples, np.array([[1.0, 1.0], [-1.0, 1.0]]), n_dim, terms)


def test_sides_that_differ_in_size_alone_are_learned_as_such():
    """A bump that grows by 0.39 up and stays as it is down: the second coefficient is the first.

    As a function of its own its evidence was for a part of it, and down lost 15 to 21 nats in three such samples.
    """
    rng, n = np.random.default_rng(1), 60_000

    def bump(t):
        return np.exp(-0.5 * np.square((t - 0.3) / 0.05))

    def sample(height):
        t = rng.uniform(-1.0, 1.0, 3 * n)
        t = t[rng.random(len(t)) < np.exp(height * (bump(t) - 1.0))][:n, None].astype(np.float32)
        nothing = np.zeros((n, 2))
        return ContrastSample(t, nothing, np.ones(n), np.arange(n) % 3, nothing)

    samples = [sample(height) for height in (0.0, 0.39, 0.0)]
    learned = learn(Contrast(samples, np.array([[1.0, 1.0], [-1.0, 1.0]]), 1, first_terms(1, 0, 2), squares=True))
    t = np.linspace(-0.999, 0.999, 801)[:, None].astype(np.float32)
    first, second = learned.contrast.values(t, learned.weights).T
    assert 0.5 * n * np.var(second - first) < 8.0  # of a number of its own one or two are expected
    # The 25 numbers of the bump have errors: 0.5 nats each in a sample, of twice the first coefficient.
    assert 0.5 * n * np.var(second + first - 0.39 * bump(t[:, 0])) < 45.0


def test_what_is_narrow_in_one_variable_is_followed_there():
    """A wave in the first of two observables, given a condition: a total degree of 7, 130 products, gives none of it."""
    found = learn(drawn(lambda t: 0.5 * np.sin(14.0 * t[:, 0]), 15_000, 3, 3, 2))
    assert found.basis.degrees[0] > 2.5 * max(found.basis.degrees[1:])
    assert found.lost == 0.0
    t = np.random.default_rng(0).uniform(-0.95, 0.95, (4000, 3))
    learned = polynomials(t, found.basis.exponents).numpy() @ found.weights[0]
    wrong = learned - 0.5 * np.sin(14.0 * t[:, 0])
    # About 25 weights with errors of sqrt(2 / 3 / 15000) each: 0.03; half of the wave's mean square is 0.06.
    assert np.var(wrong) < 0.005


def moved_conditions(shift, n=10_000, effect=0.2, *, n_cond=2):
    """Samples at 0, +1, -1 whose conditions move by ``shift`` widths, and an observable of which they change the log-ratio."""
    rng, samples = np.random.default_rng(1), []
    for nu in (0.0, 1.0, -1.0):
        c = np.tanh(0.45 * (rng.normal(size=(4 * n, n_cond)) + shift * nu))
        y = rng.uniform(-1.0, 1.0, (4 * n, 1))
        kept = rng.random(4 * n) < np.exp(nu * effect * np.sin(3.0 * y + c[:, :1])[:, 0] - effect)
        t = np.column_stack([y, c])[kept][:n].astype(np.float32)
        nothing = np.zeros((len(t), 2), np.float32)
        samples.append(ContrastSample(t, nothing, np.ones(len(t)), np.arange(len(t)) % 2, nothing))
    return Contrast(samples, np.array([[1.0, 1.0], [-1.0, 1.0]]), 1, first_terms(1, n_cond, 2))


def test_effects_are_seen_where_conditions_move_far():
    """The functions of conditions come first: at none of them, one step sees nothing of the observables, and stopped there."""
    found = learn(moved_conditions(1.5))
    # Few events are where all samples are: 132 nats for half a width, 64 for one. Here one in e^8 is no effect.
    assert found.significant
    assert 12.0 < found.evidence < 45.0


def test_samples_that_hardly_overlap_show_nothing():
    """Where a sample is alone, curvatures vanish: steps that lead away from the maximum must not become evidence."""
    found = learn(moved_conditions(3.0))
    # Nothing is at stake but the 33,000 nats that it takes to tell 30,000 events of three samples apart.
    assert 0.0 <= found.evidence < 50.0
    assert np.abs(found.shrunk().weights).max() < 1.0


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_tail_that_changes_is_followed_to_its_end(side):
    """One power in place of another: a log-ratio that is linear in log F, as far out as one event in a thousand is."""

    def log_ratio(t):
        z = np.arctanh(side * t[:, 0]) / 0.45
        return 0.2 * (np.logaddexp(0.0, -z) - 1.0)

    rng, samples = np.random.default_rng(1), []
    for nu in (0.0, 1.0, -1.0):
        f = rng.random(40_000) ** (1.0 / (1.0 - 0.2 * nu))  # -log F has a mean of 1 / (1 - 0.2 nu)
        t = side * np.tanh(0.45 * (np.log(f) - np.log1p(-f)))[:, None].astype(np.float32)
        nothing = np.zeros((len(t), 2), np.float32)
        samples.append(ContrastSample(t, nothing, np.ones(len(t)), np.arange(len(t)) % 2, nothing))
    found = learn(Contrast(samples, np.array([[1.0, 1.0], [-1.0, 1.0]]), 1, first_terms(1, 0, 2)))
    t = side * np.tanh(0.45 * np.array([[-7.0], [-4.0]]))
    far, near = polynomials(t, found.basis.exponents).numpy() @ found.weights[0]
    # 40k events know the slope, 0.2, within 0.01; polynomials of the bounded coordinate alone have 0.09 there.
    assert far - near == pytest.approx(np.ptp(log_ratio(t)), rel=0.15)


def test_products_are_those_that_the_prior_asks_for():
    one, precisions = np.array([-2.0]), np.array([1e4])
    narrow = chosen(one, np.array([0.4, 4.0, 8.0]), precisions, 2, 2)
    assert narrow.degrees == pytest.approx((23.8, 2.4, 2.0), abs=0.05)  # log(1e4 / 0.1) - 2 = 9.5
    assert lost(narrow, one, np.array([0.4, 4.0, 8.0]), precisions) == 0.0
    assert max(chosen(one, np.array([0.4, 4.0, 4.0, 8.0]), precisions, 3, 2).degrees) == 8.0  # integrals on a lattice
    too_many = chosen(one, np.array([0.2, 0.2, 0.4]), precisions, 2, 2)
    assert 200 < len(too_many.exponents) <= 300
    # All products together have 1 / 0.181 / 0.181 / 0.330 - 1 / 0.330 = 89 amplitudes, those that are there less than half.
    assert lost(too_many, one, np.array([0.2, 0.2, 0.4]), precisions) == 1.0
    (problem,) = History("nu", claim=Claim("ratio", 1.0, 1.0, 0.0, lost=2e-4)).problems
    assert "too fine to be followed, and may lack up to 0.0002 nats" in problem


@pytest.mark.parametrize(
    ("n_dim", "n_cond", "most"), [(1, 1, 40 / 3.5), (2, 1, 48 / 3.5), (2, 2, 12 / 3.5), (2, 3, 2.0)]
)
def test_degrees_in_conditions_are_those_that_integrals_follow(n_dim, n_cond, most):
    """Polynomials of the anchors have 3.5 times as high degrees, or there is nothing but the lowest one."""
    falls = np.full(n_dim + n_cond, 0.3)
    falls[:n_dim] = 8.0
    degrees = chosen(np.array([2.0]), falls, np.array([1e5]), n_dim, 2).degrees
    np.testing.assert_allclose(degrees[n_dim:], most)
    assert (
        lost(chosen(np.array([2.0]), falls, np.array([1e5]), n_dim, 2), np.array([2.0]), falls, np.array([1e5])) > 0.01
    )


def test_covariances_of_features_have_the_signs_of_weights():
    rng = np.random.default_rng(0)
    features, shares, weights = rng.normal(size=(500, 7)), rng.dirichlet(np.ones(4), 500)[:, 1:], rng.normal(size=500)
    found = _spread(features.astype(np.float32), shares, weights)
    for j, k in np.ndindex(3, 3):
        spread = weights * shares[:, j] * ((j == k) - shares[:, k])
        # Sums of 500 numbers of order one, in single precision.
        np.testing.assert_allclose(found[j, :, k], features.T @ (features * spread[:, None]), atol=5e-4)


def test_negative_weights():
    """A third of the events have the weight -1: fewer effective events, and curvatures that are not positive everywhere."""
    sample = contrast(0.5, 3000, 4, n_dim=2)
    rng = np.random.default_rng(0)
    signed = [replace(s, weights=np.where(rng.random(3000) < 0.33, -1.0, 1.0) / 9.0) for s in sample.samples]
    found = learn(Contrast(signed, sample.monomials, 2, first_terms(2, 0, 2)))
    assert np.isfinite(found.weights).all()
    # 333 effective events of each sample with an information of 1/12: evidence for the slope, not for much else.
    assert slope(found, 2) == pytest.approx(0.5, abs=0.4)


@pytest.mark.parametrize("seed", [2, 3])
def test_signed_weights_do_not_lead_astray(seed):
    """A fifth of the weights is negative: where few events are, they may sum to nothing, and so did curvatures.

    Steps of 270 products led to evidence of 4e5 nats, or to none, and the halves to -1e12 nats of each other.
    """
    n, rng, samples = 4000, np.random.default_rng(seed), []
    for nu in (0.0, 1.0, -1.0):
        t = rng.uniform(-1.0, 1.0, (4 * n, 2))
        t[:, 1] = np.tanh(0.7 * rng.normal(size=4 * n))
        t = t[rng.random(4 * n) < (1.0 + 0.8 * nu * np.tanh((t[:, 0] - 0.8) / 0.05)) / 2.0][:n].astype(np.float32)
        weights = np.where(rng.random(len(t)) < 0.2, -1.0, 1.0)
        weights *= np.sum(weights) / np.sum(np.square(weights))
        nothing = np.zeros((len(t), 2), np.float32)
        samples.append(ContrastSample(t, nothing, weights, np.arange(len(t)) % 3, nothing))
    learned = learn(Contrast(samples, np.array([[1.0, 1.0], [-1.0, 1.0]]), 1, first_terms(1, 1, 2), squares=True))
    # The tail has shares of 0.10, 0.50 and 0.01 in 1440, 1040 and 1440 effective events: 540 nats, if it were cut out by hand.
    assert learned.significant
    assert 150.0 < learned.evidence < 500.0
    assert learned.crossed > 100.0


def test_halves_that_contradict_each_other_confirm_nothing():
    """Half of the events tilted one way, half the other way: whatever one half learns is wrong for the other."""
    one, other = contrast(0.5, 4000, 1), contrast(-0.5, 4000, 2)
    samples = [
        ContrastSample(
            *(np.concatenate([getattr(s, f) for s in pair]) for f in ("bounded", "offsets", "weights")),
            np.repeat([0, 1], 4000),
            np.zeros((8000, 2), np.float32),
        )
        for pair in zip(one.samples, other.samples, strict=True)
    ]
    assert not learn(Contrast(samples, one.monomials, 1, first_terms(1, 0, 2))).significant


def test_held_out_events_in_another_proportion_are_judged_alike():
    """A tenth of the nominal events is held out, and half of those of the variations: no reason against what is learned."""
    whole = contrast(0.5, 8000, 5)
    folds = [np.where(np.arange(8000) % 10 < kept, 2, np.arange(8000) % 2) for kept in (1, 5, 5)]
    samples = [replace(s, folds=each) for s, each in zip(whole.samples, folds, strict=True)]
    judged = Contrast(samples, whole.monomials, 1, first_terms(1, 0, 2))
    learned = learn(judged).on_held_out()
    gain = float((learned - judged.log_likelihoods(of_conditions_alone(judged))).sum())
    # 8800 events, of which the nominal ones are a tenth: l(+1) - l(-1) has a variance of 1/3, and the gain is N / 8 of it.
    assert gain == pytest.approx(8800 / 24, rel=0.25)


def test_a_map_is_scaled_such_that_log_ratios_beside_it_are_linear():
    """Samples that a map twice as large describes exactly, but for a linear log-ratio."""
    flow, windows = zfnf.Flow(["y"]), {"nu": (-1.0, 1.0)}
    response = Response(["nu"], [(1,), (2,)], n_dim=1, n_context=0)
    (network,) = response.networks
    network.biases[-1].assign([0.2, 0.05, -0.03, 0.01])  # shifts and stretches
    model = zfnf.Deformation(flow, [response], windows=windows)
    u, c = np.random.default_rng(1).normal(size=(2000, 1)), np.zeros((2000, 0))
    points, monomials = [{"nu": 1.0}, {"nu": -1.0}], np.array([[1.0, 1.0], [-1.0, 1.0]])

    def coefficients():
        of_flow, of_map = flow.log_density(u, c), model.precompute(u, c)
        at_points = [model.log_density_at(model.point(point), of_map) - of_flow for point in points]
        return np.stack(at_points, axis=1) @ np.linalg.inv(monomials).T

    before = network.biases[-1].numpy()
    network.biases[-1].assign(2.0 * before)
    wanted = coefficients()
    network.biases[-1].assign(before)
    straighten(
        model, response, (tf.constant(u), tf.constant(c)), wanted + [[0.02, 0.0]] * np.tanh(u), points, monomials
    )
    rest = wanted - coefficients()
    assert np.std(rest[:, 1]) < 0.1 * np.std(wanted[:, 1])  # about 0.75 before
    assert float(network.biases[-1][0]) == pytest.approx(2.0 * before[0], rel=0.1)


def fraction(nu):
    return 1 / (1 + np.exp(-0.5 * nu))


def composition(rng, n, nu):
    return {"y": np.where(rng.random(n) < fraction(nu), rng.normal(-1, 0.7, n), rng.normal(1, 0.7, n))}


def log_composition(y, nu):
    return np.log(fraction(nu) * norm.pdf(y, -1, 0.7) + (1 - fraction(nu)) * norm.pdf(y, 1, 0.7))


def trained(events, n, seed):
    rng = np.random.default_rng(seed)
    flow = zfnf.train.fit_flow(events(rng, n, 0.0), obs=["y"], schedule=zfnf.Schedule(steps=1500), progress=False)
    variations = [zfnf.Variation(events(rng, n, nu), at={"nu": nu}) for nu in (1.0, -1.0)]
    return zfnf.train.fit_deformation(flow, variations, schedule=SHORT, progress=False)


@pytest.mark.filterwarnings("ignore:.*still improving")
def test_a_composition_is_followed_by_a_log_ratio():
    model = trained(composition, 100_000, 1)
    record = model.history["nu"]
    assert record.claim.missed == 0.0
    assert record.claim.claimed == pytest.approx(record.claim.confirmed, rel=0.1)
    assert [ratio.nuisances for ratio in model.ratios] == [("nu",)]
    grid = np.linspace(-8, 8, 2001)
    gaps = {}
    for nu in (0.0, 1.0, -1.0, 0.5, 1.5):
        truth = log_composition(grid, nu)
        difference = truth - model.log_prob({"y": grid}, nu={"nu": nu})
        gaps[nu] = np.sum(np.exp(truth) * difference) * (grid[1] - grid[0])
    # A map alone misses 2.7e-2, 7e-3 and 6e-2; with 1e5 events noise is 1e-4.
    assert gaps[1.0] - gaps[0.0] < 4e-4
    assert gaps[-1.0] - gaps[0.0] < 4e-4
    assert gaps[0.5] - gaps[0.0] < 3e-4
    assert gaps[1.5] - gaps[0.0] < 2e-3


@pytest.fixture(scope="module")
def without_effect():
    """A density of 10 000 events, and a nuisance that does nothing to it."""
    rng = np.random.default_rng(5)
    flow = zfnf.train.fit_flow({"y": rng.normal(size=10_000)}, obs=["y"], schedule=SHORT, progress=False)
    return flow, [zfnf.Variation({"y": rng.normal(size=10_000)}, at={"nu": nu}) for nu in (1.0, -1.0)]


@pytest.mark.filterwarnings("ignore:.*never better")
@pytest.mark.parametrize("settings", [{"map": "auto", "ratio": "auto"}, {"map": True, "ratio": False}])
def test_a_nuisance_without_effect_claims_nothing(without_effect, settings):
    with pytest.warns(UserWarning, match=r"does not respond to nu: the events show no effect"):
        model = zfnf.train.fit_deformation(*without_effect, schedule=SHORT, progress=False, **settings)
    events = {"y": np.linspace(-3, 3, 7)}
    assert not model.moves
    assert not model.ratios
    np.testing.assert_array_equal(model.log_prob(events, nu={"nu": 1.0}), model.log_prob(events))
    assert any("pruned" in note for note in model.history["nu"].notes)
    claim = model.history["nu"].claim
    assert (claim.kind, claim.claimed, claim.confirmed) == ("pruned", 0.0, 0.0)
    assert 0.0 <= claim.noise < 0.02  # of a map of 4 numbers, each learned with an error of 1e-2
    assert model.response_table(10_000).to_dataframe().loc["nu", "claimed"] == 1.0


@pytest.mark.filterwarnings("ignore:.*never better")
@pytest.mark.filterwarnings("error")
def test_a_response_is_kept_where_that_is_asked_for(without_effect):
    model = zfnf.train.fit_deformation(
        *without_effect, keep=["nu"], map=True, ratio=False, schedule=SHORT, progress=False
    )
    assert model.moves
    claim = model.history["nu"].claim
    assert claim.kind == "map"
    assert 0.0 < claim.claimed < 0.02
    with pytest.raises(ValueError, match="keep= names"):
        zfnf.train.fit_deformation(*without_effect, keep=["mu"])


@pytest.mark.filterwarnings("ignore:.*still improving")
def test_a_shift_is_followed_by_a_map_alone():
    model = trained(lambda rng, n, nu: {"y": 0.3 * nu + rng.normal(size=n)}, 50_000, 3)
    assert model.moves
    assert not model.ratios
    claim = model.history["nu"].claim
    assert claim.kind == "map"
    # The score of a shift by 0.3 of the width; 2000 held-out events of each sample measure its slope within 2 %.
    assert claim.claimed == pytest.approx(0.09, rel=0.05)
    assert claim.confirmed == pytest.approx(0.09, rel=0.15)
    assert claim.noise < 0.015
    table = model.response_table(n_data=1000)
    assert table.error(0.09) == pytest.approx(1 / np.sqrt(91))
    assert "map" in str(table)


@pytest.mark.filterwarnings("ignore:.*still improving")
def test_a_map_that_does_not_follow_is_named():
    rng = np.random.default_rng(5)
    flow = zfnf.train.fit_flow(composition(rng, 80_000, 0.0), obs=["y"], schedule=SHORT, progress=False)
    variations = [zfnf.Variation(composition(rng, 80_000, nu), at={"nu": nu}) for nu in (1.0, -1.0)]
    with pytest.warns(UserWarning, match=r"its map follows \d+% of the effect only"):
        model = zfnf.train.fit_deformation(flow, variations, map=True, ratio=False, schedule=SHORT, progress=False)
    assert 0.1 < model.history["nu"].claim.missed < 1.0
    assert "its map follows" in str(model.history)


def test_what_is_asked_for():
    events = {"y": np.random.default_rng(0).normal(size=500)}
    flow = zfnf.Flow(["y"])
    variations = [zfnf.Variation(events, at={"nu": 1.0})]
    with pytest.raises(ValueError, match="map=False and ratio=False"):
        zfnf.train.fit_deformation(flow, variations, map=False, ratio=False)
    with pytest.raises(ValueError, match="nominal="):
        zfnf.train.fit_deformation(flow, variations, ratio=True)
    with pytest.raises(ValueError, match="auto"):
        zfnf.train.fit_deformation(flow, variations, map="yes")


@pytest.mark.parametrize(
    ("gain", "most", "evidence", "affordable", "enough"),
    [
        (100.0, 103.0, 50.0, False, True),
        (100.0, 120.0, 50.0, False, False),  # a log-ratio does more
        (40.0, 41.0, 50.0, False, False),  # four standard deviations
        (40.0, 41.0, 200.0, False, True),  # of an effect of which all events together leave no doubt
        (20.0, 20.0, 200.0, False, False),
        (100.0, 103.0, 200.0, True, False),  # there may be both
    ],
)
def test_where_few_events_are_enough_to_judge(gain, most, evidence, affordable, enough):
    judgement = object.__new__(choice._Judgement)
    points = SimpleNamespace(monomials=np.eye(2))
    judgement.candidates = SimpleNamespace(affordable=affordable, accurate=False, nuisances=("nu",), points=points)
    judgement.with_map = object()
    judgement.alone = SimpleNamespace(on_held_out=lambda: np.array([most]), evidence=evidence)
    judgement.none = np.zeros(1)
    judgement.map_gain = gain, 10.0
    assert judgement.map_is_enough() is enough


@pytest.mark.parametrize(
    ("gain", "more", "evidence", "enough"),
    [
        (200.0, 20.0, 50.0, True),
        (200.0, 60.0, 50.0, False),
        (40.0, -30.0, 50.0, False),
        (40.0, -30.0, 200.0, True),
        (40.0, 60.0, 200.0, False),
    ],
)
def test_interactions_are_looked_at_again_where_held_out_events_prefer_a_log_ratio(gain, more, evidence, enough):
    judgement = object.__new__(choice._Judgement)
    judgement.candidates = SimpleNamespace(affordable=False, accurate=False, nuisances=("a", "b"))
    judgement.none, judgement.of_map, judgement.map_gain = np.zeros(100), np.full(100, gain / 100), (gain, 10.0)
    differences = more / 100 + np.tile([-0.8, 0.8], 50)  # their sum has an error of 8 to 10
    judgement.alone = SimpleNamespace(on_held_out=lambda: judgement.of_map + differences, evidence=evidence)
    assert judgement.map_is_enough() is enough


@pytest.mark.parametrize(
    ("of_both", "accurate", "needed", "missed"),
    [(0.98, True, False, 0.0), (1.05, True, True, 0.0), (1.05, False, False, 0.0), (1.2, True, True, 0.25)],
)
def test_where_map_and_log_ratio_alone_do_not_follow_both_are_kept(of_both, accurate, needed, missed):
    """Of 1000 held-out events: the map gains 0.8 nats each, the log-ratio 0.9, and both more, by 2.5 to 9 sigma."""
    judgement = object.__new__(choice._Judgement)
    nominal = SimpleNamespace(flow=zfnf.Flow(["y1", "y2"]))
    judgement.candidates = SimpleNamespace(affordable=False, accurate=accurate, nuisances=("nu",), nominal=nominal)
    judgement.with_map = object()
    judgement.none, judgement.of_map = np.zeros(1000), np.full(1000, 0.8)
    gains = {"ratio": np.full(1000, 0.9), "both": of_both + np.tile([-1.0, 1.0], 500)}
    judgement.alone, judgement.beside = (SimpleNamespace(on_held_out=lambda n=n: gains[n]) for n in ("ratio", "both"))
    assert judgement.needs_both(False) is needed
    assert judgement._missed(False, True) == pytest.approx(missed)


def test_log_ratios_that_take_too_many_nodes_are_named(monkeypatch):
    """Several observables given conditions, behind a map: not tried by "auto", with a warning where they are asked for."""
    judgement = object.__new__(choice._Judgement)
    judgement.candidates = SimpleNamespace(affordable=False, accurate=False, has_more=lambda _: False)
    judgement.with_map, judgement.alone = object(), SimpleNamespace(significant=True)
    judgement.beside, judgement.map_gain = SimpleNamespace(significant=True, shrunk=lambda: shrunk), (1.0, 1.0)
    judgement._claim, judgement._factors = (lambda *_: Claim("map", 0.0, 0.0, 0.0)), (lambda: None)
    judgement._missed, judgement._straightened = (lambda keep_map, keep_ratio: 0.25), (lambda: False)
    judgement._in_one_direction = lambda: False
    shrunk, judgement._both_continue_better = SimpleNamespace(lost=0.0), lambda: False
    monkeypatch.setattr(choice, "off_between_samples", lambda *_: (0.0, {}))
    untried = judgement.choice(True, "auto", False)
    assert untried.keep_map
    assert untried.learned is None
    assert untried.claim.missed == 0.25
    assert "no log-ratio beside the map" in untried.notes[0]
    with pytest.warns(UserWarning, match="integrates to one within 2e-3"):
        assert judgement.choice(True, True, False).learned is shrunk


def test_what_could_not_be_learned_is_no_lack_of_an_effect(monkeypatch):
    """Steps that did not converge have no evidence, which says nothing about the effect, here of ten times what it takes."""
    sample = contrast(0.5, 4000, 3)
    assert learn(sample).converged
    assert learn(sample).evidence > 80.0
    climb = ratio._Climb.climb
    monkeypatch.setattr(
        ratio._Climb, "climb", lambda self, *args, **more: (climb(self, *args, **more), vars(self).update(_left=1e3))
    )
    judgement = object.__new__(choice._Judgement)
    judgement.candidates = SimpleNamespace(nuisances=("jes",))
    judgement.with_map, judgement.map_gain, judgement.alone = None, (0.0, 1.0), learn(sample)
    judgement._claim = lambda *_: Claim("pruned", 0.0, 0.0, 0.0)
    assert not judgement.alone.converged
    assert judgement.alone.evidence == 0.0
    with pytest.warns(UserWarning, match="jes is pruned: its log-ratio could not be learned"):
        (note,) = judgement.choice("auto", "auto", False).notes
    assert "no effect" not in note


@pytest.mark.parametrize(
    ("curvature", "gain", "evidence", "kept"),
    [
        (0.05, 0.01, 1000.0, False),
        (0.3, 0.01, 1000.0, True),
        (0.05, 0.002, 1000.0, True),  # nearly linear, and two standard deviations
        (0.0, 0.002, 1000.0, False),  # exactly linear
        (0.0, -0.002, 1000.0, True),
        (0.0, 0.002, 40.0, True),  # a small effect, of which a map is made smaller where it is noise
    ],
)
def test_a_linear_log_ratio_that_does_more_than_a_map_needs_none(curvature, gain, evidence, kept):
    """Of 1000 events: the map gains 0.10 nats each, the log-ratio alone so much more, with an error of one in all."""
    rng = np.random.default_rng(0)
    y, more = rng.normal(size=1000), gain + np.tile([-0.0316, 0.0316], 500)
    judgement = object.__new__(choice._Judgement)
    points = Points(np.array([[1.0, 1.0], [-1.0, 1.0]]), np.zeros((0, 2)), np.zeros(0, int))
    judgement.candidates = SimpleNamespace(nuisances=("nu",), points=points, idle=[], affordable=True)
    judgement.none, judgement.of_map, judgement.map_gain = np.zeros(1000), np.full(1000, 0.10), (100.0, 3.0)
    judgement.with_map = object()
    judgement.alone = SimpleNamespace(weights=None, evidence=evidence, on_held_out=lambda: 0.1 + more)
    judgement._gain_of_ratio = lambda: choice._difference(0.1 + more, judgement.of_map)
    response = Scored([np.stack([y, curvature * y**2 / np.sqrt(2)], axis=1)], [np.ones(1000)], [])
    judgement._scored = lambda *_: response
    keep_map, notes = judgement._judge_map("auto")
    assert keep_map is kept
    assert ["is linear in the nuisance" in note for note in notes] == [True] * (not kept)


@pytest.mark.parametrize(
    ("affordable", "on_its_own", "sigmas"),
    [
        (False, 0.004, 12.6),  # sees what held-out events alone, by four standard deviations, do not
        (False, -0.004, 4.0),  # the map has learned the noise of its events: held-out ones decide
        (True, -0.004, -10.1),  # a map of few numbers, which do not
    ],
)
def test_events_of_the_map_judge_too_whether_a_log_ratio_does_more(affordable, on_its_own, sigmas):
    """Of 1000 held-out events a log-ratio gains 0.004 nats each, with an error of one in all; of 9000 others as given."""
    noise = np.tile([-0.0316, 0.0316], 5000)
    more = np.concatenate([np.full(9000, on_its_own), np.full(1000, 0.004)]) + noise
    judgement = object.__new__(choice._Judgement)
    judgement.candidates = SimpleNamespace(affordable=affordable)
    judgement.of_map, of_folds = np.zeros(1000), [np.zeros(4500), np.zeros(4500), np.zeros(1000)]
    judgement.with_map = SimpleNamespace(
        n_free=0, n_variations=2, exponents=np.zeros((3, 1)), log_likelihoods=lambda _, fold: of_folds[fold]
    )
    judgement.alone = SimpleNamespace(on_held_out=lambda: more[9000:], on_other_events=lambda: more)
    gain, error = judgement._gain_of_ratio()
    np.testing.assert_allclose(gain / error, sigmas, rtol=0.03)  # error is the root of squares, about zero


@pytest.mark.parametrize(
    ("of_map", "linear", "both"), [(0.7, False, True), (0.7, True, False), (0.3, False, False), (0.97, False, False)]
)
def test_a_map_of_a_large_part_stays_beside_a_log_ratio_that_is_not_linear(of_map, linear, both):
    """Of 1000 held-out events in two observables, of which the log-ratio alone gains one nat each, and nothing is left."""
    judgement = object.__new__(choice._Judgement)
    nominal = SimpleNamespace(flow=zfnf.Flow(["y1", "y2"]))
    points = Points(np.array([[1.0, 1.0], [-1.0, 1.0]]), np.zeros((0, 2)), np.zeros(0, int))
    judgement.candidates = SimpleNamespace(
        affordable=False, accurate=True, nuisances=("nu",), nominal=nominal, points=points, idle=[]
    )
    judgement.with_map, judgement.map_gain = object(), (1000 * of_map, 1.0)
    judgement.none, judgement.of_map = np.zeros(1000), np.full(1000, of_map)
    judgement.alone = judgement.beside = SimpleNamespace(on_held_out=lambda: np.ones(1000))
    judgement._is_linear = lambda: linear
    assert judgement._both_continue_better() is both


@pytest.mark.parametrize(
    ("evidence", "affordable", "linear", "kept"),
    [
        (50.0, True, "", False),
        (200.0, True, "", True),
        (200.0, True, "exactly", False),  # a log-ratio in its place is as simple
        (200.0, False, "exactly", True),  # but would be slow
    ],
)
def test_a_map_of_a_clear_effect_need_not_prove_it_again(evidence, affordable, linear, kept):
    """Held-out events speak for it by four standard deviations, as for a log-ratio in its place."""
    judgement = object.__new__(choice._Judgement)
    judgement.candidates = SimpleNamespace(nuisances=("a", "b"), affordable=affordable)
    judgement.with_map, judgement.map_gain = object(), (40.0, 10.0)
    judgement.none, judgement.of_map = np.zeros(1000), np.full(1000, 0.04)
    judgement.alone = SimpleNamespace(on_held_out=lambda: np.full(1000, 0.04), evidence=evidence)
    judgement._is_linear = lambda: linear
    judgement._gain_of_ratio = lambda: (0.0, 1.0)
    assert judgement._judge_map("auto")[0] is kept


@pytest.mark.parametrize(("n_points", "order", "kept"), [(1, 1, True), (2, 2, False), (2, 1, False)])
def test_of_one_sided_effects_a_map_is_the_better_guess(n_points, order, kept):
    """A map that 1000 held-out events speak for by two standard deviations, as for a log-ratio in its place."""
    judgement = object.__new__(choice._Judgement)
    monomials = np.array([[1.0, 1.0], [-1.0, 1.0]])[:n_points, :order]
    points = Points(monomials, np.zeros((0, order)), np.zeros(0, int))
    judgement.candidates = SimpleNamespace(nuisances=("nu",), points=points, idle=[], affordable=True)
    judgement.with_map, judgement.map_gain = object(), (20.0, 10.0)
    judgement.none, judgement.of_map = np.zeros(1000), np.full(1000, 0.020)
    judgement.alone = SimpleNamespace(on_held_out=lambda: np.full(1000, 0.0205), evidence=200.0)
    judgement._is_linear = lambda: ""
    assert judgement._judge_map("auto")[0] is kept


def test_a_map_that_held_out_events_like_less_straightened_stays_with_its_log_ratio(monkeypatch):
    """Also where the log-ratio beside it, which has products of its own, is learned only then."""
    judgement = object.__new__(choice._Judgement)
    flow = SimpleNamespace(precompute=lambda *_: None)
    first, straightened = SimpleNamespace(), SimpleNamespace()
    response = SimpleNamespace(weights_list=lambda: ["trained"], assign=lambda weights: assigned.extend(weights))
    nominal = SimpleNamespace(sample=SimpleNamespace(n_events=10), standardised=lambda _: (None, None))
    judgement.candidates = SimpleNamespace(
        with_map=SimpleNamespace(responses=[response], flow=flow),
        nominal=nominal,
        nuisances=("nu",),
        points=POINTS,
        sources=[],
        idle=[],
        contrasts=lambda _: (None, straightened),
        forget_map=lambda: None,
    )
    judgement.with_map, judgement.without = first, SimpleNamespace(values=lambda *_: None)
    judgement.alone = SimpleNamespace(weights=None)
    assigned = []
    learned = {
        id(contrast): SimpleNamespace(
            significant=True, contrast=SimpleNamespace(), on_held_out=lambda gain=gain: np.full(100, gain)
        )
        for contrast, gain in ((first, 1.0), (straightened, 0.0))
    }
    monkeypatch.setattr(choice, "learn", lambda contrast: learned[id(contrast)])
    monkeypatch.setattr(choice, "straighten", lambda *_: None)
    monkeypatch.setattr(choice, "bounded", lambda *_: tf.zeros((10, 1)))
    assert not judgement._straightened()
    assert judgement.beside is learned[id(first)]
    assert judgement.with_map is judgement.beside.contrast
    assert assigned == ["trained"]


@pytest.mark.parametrize(
    ("size", "of_ratio", "curvature", "loss", "more", "taken"),
    [
        (0.1, 0.0, 0.02, 0.1, False, True),
        (0.1, 0.01, 0.02, 0.1, False, True),  # what it is beside the linear coefficient, too, is next to nothing
        (0.1, 0.018, 0.02, 0.1, False, False),  # it has a function of its own
        (0.1, 0.0, 0.06, 0.1, False, False),  # less linear than before
        (0.1, 0.0, 0.02, 1.0, False, False),  # held-out events mind
        (0.1, 0.0, 0.02, 0.1, True, False),  # there are events that have not been seen
        (0.3, 0.0, 0.02, 0.1, False, False),  # a large effect
    ],
)
def test_what_is_noise_in_a_map_is_taken_out(monkeypatch, size, of_ratio, curvature, loss, more, taken):
    """The square of the nuisance keeps what it has in common with the linear coefficient: half of that, as in a log-ratio."""
    rng = np.random.default_rng(1)
    judgement = object.__new__(choice._Judgement)
    response = Response(["nu"], [(1,), (2,)], n_dim=1, n_context=0)
    first, noise = rng.normal(size=(2, 20_000))

    def scored(mean, of_noise):
        values = np.stack([size * (first + mean * size), 0.5 * size * (first + mean * size) + of_noise * noise], axis=1)
        return values, np.ones(len(values))

    def whole(of_noise):
        values, weights = zip(*(scored(mean, of_noise) for mean in (0.0, 1.0, -1.0)), strict=True)
        return Scored(values, weights, weights[:2])

    judgement.candidates = SimpleNamespace(
        with_map=SimpleNamespace(responses=[response]),
        nuisances=("nu",),
        idle=[],
        points=POINTS,
        has_more=lambda _: more,
        contrasts=lambda _: (None, "one direction"),
        forget_map=lambda: None,
    )
    judgement.with_map, judgement.of_map = "trained", np.tile([1.0, loss - 1.0], 50)
    scores, judgement.alone = iter([whole(0.04), whole(curvature)]), SimpleNamespace(weights=None)
    judgement._scored = lambda use_map, *_: next(scores) if use_map else whole(of_ratio)
    monkeypatch.setattr(choice._Judgement, "_held_out", staticmethod(lambda _: np.zeros(100)))
    assert judgement._in_one_direction() is taken
    assert judgement.with_map == ("one direction" if taken else "trained")
    factors = np.eye(2) + response.correction.numpy()[:, -2:]
    np.testing.assert_allclose(factors, [[1.0, 0.0], [0.5, 0.0]] if taken else np.eye(2), atol=0.02)


def test_halves_judge_each_other():
    """Of noise, the events that it was learned from become more probable, and those of the other half less probable."""
    learned = learn(contrast(0.3, 4000, 3))
    both = learned.on_other_events()
    assert len(both) == sum(len(sample.weights) for sample in learned.contrast.samples)
    halves = [
        np.sum(learned.contrast.log_likelihoods(coefficients, fold))
        for coefficients, fold in zip(learned.by_halves, (0, 1), strict=True)
    ]
    held_out = np.sum(learned.on_held_out())
    assert np.sum(both) < sum(halves) + held_out


def scored(rng, n, effect, noise):
    """Events of ``N(effect nu, 1)`` at 0, 1 and -1, whose score is learned with some noise of unit width times ``noise``."""
    samples = [(nu * effect + rng.normal(size=n), noise * rng.normal(size=n)) for nu in (0.0, 1.0, -1.0)]
    coefficients = [np.column_stack([effect * y + wrong, 0.0 * y]) for y, wrong in samples]
    return Scored(coefficients, [np.ones(n)] * 3, [np.ones(n)] * 2)


POINTS = Points(
    np.array([[1.0, 1.0], [-1.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 2.0], [1.0, -2.0]]), np.array([0, 1, 2])
)


def test_events_confirm_the_information_that_is_true():
    response = scored(np.random.default_rng(1), 400_000, 0.1, 0.2)
    found = claim("map", response, [response], POINTS)
    # A true information of 0.01, and 0.04 of noise: of 4e5 events, the errors are 1e-4 and 2.5e-4.
    assert found.claimed == pytest.approx(0.05, abs=1e-3)
    assert found.confirmed == pytest.approx(0.01, abs=1.3e-3)
    assert found.noise == pytest.approx(0.04, abs=2e-3)
    factors, errors = shares(response, POINTS)
    assert factors[0] == pytest.approx(0.2, abs=5 * errors[0])
    assert errors[0] == pytest.approx(1 / np.sqrt(2 * 400_000 * 0.05), rel=0.05)


def test_models_that_know_nothing_of_claims():
    table = zfnf.Deformation(
        zfnf.Flow(["y"]), [Response(["nu"], [(1,)], n_dim=1, n_context=0)], windows={"nu": (-1, 1)}
    ).response_table()
    assert "not known" in str(table)
    with pytest.raises(ValueError, match="n_data"):
        ResponseTable.of(["nu"], {}, 0.0)

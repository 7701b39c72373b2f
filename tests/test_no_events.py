"""Data without events are data: in likelihoods, accelerated ones, toys, Asimov sets, fits and limits."""

from __future__ import annotations

import zfit
import numpy as np
import pandas as pd
import pytest
from likelihoods import counting

import zfit_fnf
from zfit_fnf import accelerate, lnN, modified_yield, nuisance
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.loss.channels import scores
from zfit_fnf.pdf import SumPDF
from zfit_fnf.toys import asimov, fit_toys, refill, refillable, toy

SPACE = zfit.Space("y", 0, 1)
NOTHING = np.zeros(0)


def uniform(n: object, name: str = "Uniform") -> zfit.pdf.BasePDF:
    return zfit.pdf.Uniform(0.0, 1.0, obs=SPACE, extended=n, name=name)


def channel() -> tuple[zfit.Parameter, zfit_fnf.param.Nuisance, zfit.pdf.BasePDF]:
    """Two signal events per unit of strength on three of background, known to 20 %."""
    mu, rate = zfit.Parameter("mu", 1.0, 0, 50), nuisance("rate")
    background = uniform(modified_yield(3.0, [lnN(rate, 1.2)]))
    return mu, rate, SumPDF([uniform(modified_yield(2.0, [mu])), background])


EMPTY = {
    "dict": {"y": NOTHING},
    "frame": pd.DataFrame({"y": NOTHING}),
    "zfit": zfit.Data.from_numpy(obs=SPACE, array=np.zeros((0, 1)), name="nothing"),
    "weighted": zfit.Data.from_numpy(obs=SPACE, array=np.zeros((0, 1)), weights=NOTHING, name="nothing"),
}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", EMPTY)
def test_the_value_is_the_expected_number(kind, fast):
    mu, rate, model = channel()
    nll = ExtendedUnbinnedNLL(model, EMPTY[kind])
    nll = accelerate(nll) if fast else nll
    with zfit.param.set_values([mu, rate], [0.7, -0.4]):
        factor, slope = 3.0 * 1.2**-0.4, np.log(1.2)
        assert float(nll.value()) == pytest.approx(2.0 * 0.7 + factor + 0.08)
        np.testing.assert_allclose(nll.gradient([mu, rate]), [2.0, factor * slope - 0.4])
        np.testing.assert_allclose(nll.hessian([mu, rate]), np.diag([0.0, factor * slope**2 + 1.0]), atol=1e-12)


def test_without_a_yield_nothing_is_left():
    mean = zfit.Parameter("mean", 0.3)
    nll = UnbinnedNLL(zfit.pdf.Gauss(mean, 1.0, obs=SPACE), {"y": NOTHING})
    for loss in (nll, accelerate(nll)):
        assert float(loss.value()) == 0.0
        assert np.asarray(loss.gradient([mean])).tolist() == [0.0]
        assert np.asarray(loss.hessian([mean])).tolist() == [[0.0]]


def test_a_channel_without_events_is_one_of_many():
    mu, rate, model = channel()
    control = uniform(modified_yield(4.0, [lnN(rate, 1.2)]))
    together = ExtendedUnbinnedNLL([model, control], [{"y": [0.2, 0.4]}, {"y": NOTHING}])
    alone = ExtendedUnbinnedNLL(model, {"y": [0.2, 0.4]})
    for nll in (together, accelerate(together), alone + ExtendedUnbinnedNLL(control, {"y": NOTHING})):
        with zfit.param.set_values([mu, rate], [0.5, 0.3]):
            assert float(nll.value()) == pytest.approx(float(alone.value()) + 4.0 * 1.2**0.3)


def test_a_yield_of_zero_without_events_has_a_likelihood():
    mu = zfit.Parameter("mu", 0.0, 0.0, 10.0)
    nll = ExtendedUnbinnedNLL(uniform(modified_yield(2.0, [mu])), {"y": NOTHING})
    assert float(nll.value()) == 0.0
    np.testing.assert_allclose(nll.gradient([mu]), [2.0])


def test_a_yield_of_zero_without_events_has_no_scores():
    """Numbers were right, but numpy warned of a division by zero, and of 0 / 0 where the yield does not vary."""
    mu, rate, control = channel()
    signal = uniform(modified_yield(2.0, [mu]))
    weights = [np.zeros(0), np.full(4, 1.5)]
    nll = ExtendedUnbinnedNLL([signal, control], [{"y": NOTHING}, {"y": np.linspace(0.2, 0.8, 4)}], weights=weights)
    alone = ExtendedUnbinnedNLL(control, {"y": np.linspace(0.2, 0.8, 4)}, weights=weights[1])
    with zfit.param.set_values([mu, rate], [0.0, 0.1]):
        assert scores(signal, np.zeros((0, 1)), [mu, rate]).shape == (0, 2)
        assert np.isfinite([float(made.value()) for made in (nll, alone)]).all()
        both, one = (made.channels[-1].score_covariance([rate], np.square) for made in (nll, alone))
        assert nll.channels[0].score_covariance([mu, rate], np.square).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(both, one, rtol=1e-12)


def test_toys_without_valid_fits_are_printed():
    mu = zfit.Parameter("mu", 0.0, 0.0, 10.0)
    nll = ExtendedUnbinnedNLL(uniform(modified_yield(2.0, [mu])), {"y": NOTHING})
    assert str(fit_toys(nll, 3, seed=1, progress=False)) == "0 valid fits to 3 toys, which have no pulls"


def test_the_limit_is_that_of_pyhf():
    mu, _, model = channel()
    # Named, so that messages of blinded analyses do not tell the number of observed events.
    with pytest.warns(
        UserWarning, match="asymptotic formulae need more events than .* observed that this result on mu rests"
    ):
        limit = zfit_fnf.limits.upper_limit(ExtendedUnbinnedNLL(model, {"y": NOTHING}), mu)
    # pyhf 0.7.6, asymptotic, interpolation code 1; both search the crossing to about 1e-4
    assert limit.observed == pytest.approx(1.27955, rel=1e-3)


def test_toys_without_events():
    mu, rate, model = channel()
    nll = ExtendedUnbinnedNLL(model, {"y": [0.5]})
    params = {mu: 0.0, rate: -4.0}  # 1.4 events: a quarter of the toys are empty
    toys = [toy(nll, params=params, seed=seed) for seed in range(40)]
    empty = [made for made in toys if int(made.data[0].num_entries) == 0]
    assert empty
    with zfit.param.set_values([mu, rate], [1.0, 0.0]), zfit.param.set_values(empty[0].observed):
        right = 5.0 + 0.5 * float(rate.observed.value()) ** 2
        assert float(empty[0].loss(nll).value()) == pytest.approx(right)


@pytest.mark.parametrize("fast", [False, True])
def test_a_loss_is_refilled_with_nothing_and_with_something(fast):
    mu, rate, model = channel()
    nll = ExtendedUnbinnedNLL(model, {"y": [0.5]})
    loss = refillable(accelerate(nll) if fast else nll)
    for seed in range(12):
        made = toy(nll, params={mu: 0.0, rate: -4.0}, seed=seed)
        with zfit.param.set_values(made.observed):
            refill(loss, made)
            assert float(loss.value()) == pytest.approx(float(made.loss(nll).value()))
        refill(loss, toy(nll, params={mu: 5.0}, seed=seed))  # most of these have events
        zfit.param.set_values([rate.observed], [0.0])


def test_fits_to_toys_of_few_events_count_them():
    n = zfit.Parameter("n", 1.0, 0.0, 50.0)
    nll = ExtendedUnbinnedNLL(uniform(n), {"y": NOTHING})
    fits = fit_toys(nll, 20, seed=3, progress=False)
    counts = [int(toy(nll, seed=(3, index)).data[0].num_entries) for index in range(20)]
    assert 0 in counts
    np.testing.assert_allclose(fits.values["n"], counts, atol=0.01)


def test_asimov_sets_of_nothing_have_no_events():
    mu = zfit.Parameter("mu", 1.0, 0.0, 10.0)
    nll = ExtendedUnbinnedNLL(uniform(modified_yield(2.0, [mu])), {"y": NOTHING})
    made = asimov(nll, params={mu: 0.0})
    assert int(made.data[0].num_entries) == 0
    assert float(made.loss(nll).value()) == 2.0
    assert int(toy(nll, params={mu: 0.0}).data[0].num_entries) == 0
    assert float(asimov(nll, n_events=100).data[0].samplesize) == pytest.approx(2.0)


def test_expected_limits_do_not_need_events():
    measurement = counting([0, 0], 2.0, 3.0, change=(0.9, 1.1))
    with pytest.warns(UserWarning, match="asymptotic formulae need more events"):
        limit = zfit_fnf.limits.upper_limit(measurement.nll, measurement.mu)
    assert np.all(np.diff(limit.expected) > 0)
    assert limit.observed < limit.expected[2]

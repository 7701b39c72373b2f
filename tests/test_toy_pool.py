"""Toys from a pool of events, against toys whose events are drawn and expanded for each of them."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from likelihoods import gaussian_mean
from untrained import deformed, events, smooth_flow

import zfit_fnf.loss
from zfit_fnf import load, save
from zfit_fnf.limits import upper_limit
from zfit_fnf.limits.neyman import Hypothesis, rises_in_toys
from zfit_fnf.loss import ExtendedUnbinnedNLL, counting
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import SumPDF
from zfit_fnf.state import current_values, preserved
from zfit_fnf.toys import ToyFits, run, toy
from zfit_fnf.toys.pool import ToyPool
from zfit_fnf.yields import lnN, modified_yield

N_TOYS = 200


@pytest.fixture(scope="module")
def nll() -> ExtendedUnbinnedNLL:
    """A Gaussian signal on a background that a nuisance moves and weighs, and a control region that counts."""
    mu, rate, shift = zfit.Parameter("mu", 1.0, 0.0, 20.0, stepsize=0.1), nuisance("rate"), nuisance("shift")
    n_signal, n_background = modified_yield(300.0, [mu]), modified_yield(700.0, [lnN(rate, 1.3)])
    background = deformed(smooth_flow(["y"]), [shift], size=0.3, weighed=1, extended=n_background)
    signal = zfit.pdf.Gauss(1.0, 0.3, obs=background.space, extended=n_signal)
    model = SumPDF([signal, background])
    channel = ExtendedUnbinnedNLL(model, events(model, {mu: 1.0}, 1000, seed=1))
    return channel + counting(modified_yield(2000.0, [lnN(rate, 1.3)]), 2000, name="control")


@pytest.fixture(scope="module")
def fits(nll) -> ToyFits:
    return run(nll, N_TOYS, seed=3, pool=20_000, progress=False)


def test_toys_of_a_pool_have_the_pulls_of_toys(fits):
    assert fits.valid.all()
    pulls = fits.pulls()
    # Means and widths of 200 toys have errors of 0.07 and 0.05, and a bounded strength and a log-normal yield skew them by a
    # little: four errors and that.
    np.testing.assert_allclose(pulls["mean"], 0.0, atol=0.3)
    np.testing.assert_allclose(pulls["width"], 1.0, atol=0.22)


def test_a_fit_from_the_pool_is_that_of_its_events(fits):
    # Polynomials are as good as in any accelerated fit, a hundredth of an error.
    assert fits.pool.difference < 0.01
    # 20 000 events for each of two densities, of which 1000 make a toy; those of the signal count less.
    assert fits.pool.n_events == 40_000
    assert 20.0 < fits.pool.n_independent < 40.0
    assert "independent toys" in str(fits)


def test_the_pool_is_the_same_whenever_it_is_made(nll, fits):
    again = ToyPool(nll, {one: fits.truth[one.name] for one in nll.get_params()}, 20_000, (3,))
    with preserved(nll):
        np.testing.assert_allclose([values for values, _, _ in again.fits(range(3))], fits.values[:3], rtol=1e-6)


def test_fits_that_polynomials_are_too_coarse_for_are_done_without(nll, fits, monkeypatch):
    monkeypatch.setattr("zfit_fnf.toys.pool.TOLERANCE", 0.0)
    exact = run(nll, 2, seed=3, pool=20_000, progress=False)
    # Both fits of a toy are the same one but for rounding, whose order threads decide; polynomials differ by more than that.
    assert exact.pool.difference < 1e-9 < fits.pool.difference
    np.testing.assert_allclose((exact.values - fits.values[:2]) / fits.errors[:2], 0.0, atol=0.01)


def test_parameters_stay_where_they_are(nll, fits):
    before = [float(one.value()) for one in nll.get_params(floating=None)]
    run(nll, 1, seed=5, params={nll.get_params()[0]: 2.0}, pool=5000, progress=False)
    assert [float(one.value()) for one in nll.get_params(floating=None)] == before


def test_what_the_pool_is_worth_is_stored(fits, tmp_path):
    save(fits, tmp_path / "toys.json")
    assert load(tmp_path / "toys.json").pool == fits.pool


def test_a_pool_for_which_there_is_no_use_or_no_room_is_refused(nll, tmp_path):
    with pytest.raises(ValueError, match="leave it out"):
        run(gaussian_mean(0.1, 100, 0.2)[0].nll, 2, pool=100, progress=False)
    with pytest.raises(ValueError, match="positive integer"):
        run(nll, 2, pool=0, progress=False)
    small = zfit_fnf.loss.NLL(nll.model, list(nll.data), constraints=list(nll.constraints), options={"max_memory": 1e5})
    with pytest.raises(ValueError, match="make it smaller"):
        run(small, 2, pool=50_000, progress=False)
    run(nll, 2, seed=3, pool=5000, out=tmp_path, progress=False)
    with pytest.raises(ValueError, match="give another folder"):
        run(nll, 2, seed=3, pool=6000, out=tmp_path, progress=False)


def test_losses_of_zfit_are_told_what_to_do():
    y = zfit.Space("y", -5, 5)
    plain = zfit.loss.UnbinnedNLL(zfit.pdf.Gauss(zfit.Parameter("m", 0.0), 1.0, obs=y), zfit.Data(np.zeros(3), obs=y))
    with pytest.raises(TypeError, match="losses of zfit_fnf"):
        ToyPool(plain, {}, 100, (0,))


def test_statistics_of_toys_from_a_pool_are_those_of_their_events(nll):
    mu = next(one for one in nll.get_params() if one.name == "mu")
    with preserved(nll):
        background = {**current_values(nll.get_params()), mu: 0.0}
        (rises,) = rises_in_toys(
            *(nll, [mu], [Hypothesis(background, ((0.0,), (0.2,)))], 4),
            minimizer=None,
            seed=2,
            executor=None,
            pool=5000,
            progress="",
        )
    assert rises.best.shape == (4, 1)
    assert rises.rise.shape == (4, 2)
    assert (rises.best >= 0).all()
    assert (rises.rise >= 0).all()
    # Polynomials are as good as in any accelerated fit, 0.005 of the logarithm of the likelihood; nothing at all would be a toy
    # that was fitted without them.
    assert 0 < rises.pool.difference < 0.02
    assert rises.pool.n_independent > 5
    assert "independent toys" in str(rises.pool)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:some expected limits are not known")  # there are few toys
def test_limits_of_toys_from_pools_are_those_of_toys(nll):
    """A search without a signal."""
    mu = next(one for one in nll.get_params() if one.name == "mu")
    with preserved(nll):
        search = toy(nll, params={mu: 0.0}, seed=4).loss(nll)
        arguments = {"calculator": "toys", "n_toys": 200, "n_asimov": 2000, "progress": False}
        quick, full = upper_limit(search, mu, pool=5000, **arguments), upper_limit(search, mu, **arguments)
    error = np.hypot(quick.error, full.error)  # each states its own
    assert 0 < error < 0.3 * full.observed
    assert abs(quick.observed - full.observed) < 4 * error

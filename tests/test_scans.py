"""Scans of the profile likelihood against closed forms."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from likelihoods import gaussian_mean

from zfit_fnf import scans
from zfit_fnf.param import nuisance

N, SLOPE = 400, 0.08


@pytest.fixture(scope="module")
def fitted():
    """A mean of events with a nuisance that moves it: the likelihood is a quadratic form."""
    measurement, error = gaussian_mean(0.3, N, SLOPE)
    result = zfit.minimize.Minuit(gradient="zfit", mode=0, tol=1e-5).minimize(measurement.nll)
    return measurement, result, error


def quadratic_form(mu, scale):
    """Twice the rise of the likelihood: the data want mu + SLOPE scale = 0.3, the constraint scale = 0."""
    return N * (mu + SLOPE * scale - 0.3) ** 2 + scale**2


class Counting:
    """A minimiser that counts its calls and can fail."""

    def __init__(self, *, fails: bool = False):
        self.calls, self.fails = 0, fails

    def minimize(self, loss, params):
        self.calls += 1
        result = zfit.minimize.Minuit(gradient="zfit", mode=0, tol=1e-5).minimize(loss, params)
        if self.fails:
            result._converged = False
        return result


class TestProfile:
    def test_equals_the_closed_form(self, fitted):
        measurement, result, error = fitted
        minimizer = Counting()
        scan = scans.profile(measurement.nll, result, measurement.mu, minimizer=minimizer, progress=False)
        assert scan.parameter == scan.title == "mu"
        assert minimizer.calls == 0  # Newton steps are exact on a parabola
        # The grid comes from HESSE, which Minuit does numerically.
        np.testing.assert_allclose(scan.values, 0.3 + np.linspace(-3, 3, 21) * error, atol=0.01 * error)
        np.testing.assert_allclose(scan.delta, (scan.values - 0.3) ** 2 / error**2, atol=1e-3)
        assert scan.best_fit == pytest.approx(0.3, abs=0.01 * error)

    def test_takes_values_and_labels_nuisances_with_their_unit(self, fitted):
        measurement, result, _ = fitted
        (scale,) = measurement.nuisances
        scan = scans.profile(measurement.nll, result, scale, values=[-1.0, 0.0, 2.0], progress=False)
        assert scan.title == r"scale [$\sigma$]"
        np.testing.assert_allclose(scan.values, [-1, 0, 2])
        np.testing.assert_allclose(scan.delta, [1, 0, 4], atol=1e-3)  # mu absorbs what the data say about it
        assert "profile of scale" in str(scan)
        assert len(str(scan).splitlines()) == 4

    def test_restores_all_parameters(self, fitted):
        measurement, result, _ = fitted
        measurement.mu.set_value(1.25)
        measurement.nuisances[0].set_value(-0.75)
        before = measurement.state()
        scans.profile(measurement.nll, result, measurement.mu, n_points=3, progress=False)
        assert measurement.state() == before

    def test_stays_inside_of_the_limits_of_the_parameter(self, fitted):
        measurement, result, error = fitted
        measurement.mu.upper = 0.3 + error
        try:
            scan = scans.profile(measurement.nll, result, measurement.mu, n_points=5, progress=False)
        finally:
            measurement.mu.upper = 5.0
        assert scan.values[-1] == pytest.approx(0.3 + error)
        assert scan.values[0] == pytest.approx(0.3 - 3 * error, abs=0.02 * error)

    def test_refuses_values_outside_of_the_limits(self, fitted):
        measurement, result, _ = fitted
        with pytest.raises(ValueError, match=r"cannot scan 'mu' at \[6.0\]: its limits are -5 and 5"):
            scans.profile(measurement.nll, result, measurement.mu, values=[0.1, 6.0], progress=False)

    def test_refuses_a_parameter_that_was_not_fitted(self, fitted):
        measurement, result, _ = fitted
        with pytest.raises(ValueError, match=r"cannot scan \['other'\]: the fit has \['mu', 'scale'\]"):
            scans.profile(measurement.nll, result, nuisance("other"), progress=False)


class TestBeyondParabolas:
    """Mean and width of a Gaussian: the width that fits best at a mean is known, and so is the likelihood there."""

    @pytest.fixture
    def gaussian(self):
        mean, width = zfit.Parameter("mean", 0.1, -3, 3), zfit.Parameter("width", 1.1, 0.1, 4.0)
        obs = zfit.Space("x", limits=(-30.0, 30.0))
        x = np.random.default_rng(3).normal(size=100)
        x = (x - x.mean()) / x.std()
        data = zfit.Data.from_numpy(obs=obs, array=x[:, None], name="x")
        nll = zfit.loss.UnbinnedNLL(zfit.pdf.Gauss(mean, width, obs=obs), data)
        return nll, zfit.minimize.Minuit(gradient="zfit", mode=0, tol=1e-5).minimize(nll), mean, width

    def test_newton_steps_follow_a_curved_valley(self, gaussian):
        nll, result, mean, _ = gaussian
        minimizer = Counting()
        scan = scans.profile(nll, result, mean, values=[-0.4, 0.0, 0.2], minimizer=minimizer, progress=False)
        assert minimizer.calls == 0
        np.testing.assert_allclose(scan.delta, 100 * np.log1p(scan.values**2), atol=2e-3)

    def test_the_minimiser_takes_over_at_a_limit(self, gaussian):
        nll, result, mean, width = gaussian
        width.upper = 1.05
        minimizer = Counting()
        scan = scans.profile(nll, result, mean, values=[0.1, 1.0], minimizer=minimizer, progress=False)
        assert minimizer.calls == 1
        at_limit = 100 * (2 * np.log(1.05) + (1 + 1.0) / 1.05**2 - 1)
        # Minuit comes close to a limit, but does not reach it.
        np.testing.assert_allclose(scan.delta, [100 * np.log1p(0.01), at_limit], atol=0.05)

    def test_a_point_that_does_not_converge_is_not_a_number(self, gaussian):
        nll, result, mean, width = gaussian
        width.upper = 1.05
        scan = scans.profile(nll, result, mean, values=[0.1, 1.0], minimizer=Counting(fails=True), progress=False)
        assert np.isnan(scan.delta).tolist() == [False, True]


class TestContour:
    def test_equals_the_closed_form(self, fitted):
        measurement, result, _ = fitted
        (scale,) = measurement.nuisances
        scan = scans.contour(measurement.nll, result, (measurement.mu, scale), n_points=7, progress=False)
        mu, nu = np.meshgrid(*scan.values, indexing="ij")
        np.testing.assert_allclose(scan.delta, quadratic_form(mu, nu), atol=1e-3)
        assert scan.parameters == ("mu", "scale")
        assert scan.titles == ("mu", r"scale [$\sigma$]")
        assert scan.best_fit == pytest.approx((0.3, 0.0), abs=0.01)
        assert scan.values[1][-1] == pytest.approx(3.0, abs=0.03)
        assert "mu and scale at 7 x 7 points" in str(scan)

    def test_needs_two_parameters(self, fitted):
        measurement, result, _ = fitted
        with pytest.raises(ValueError, match="two different parameters; got 'mu' twice"):
            scans.contour(measurement.nll, result, (measurement.mu, measurement.mu), progress=False)


class TestImpacts:
    def test_closed_form(self, fitted):
        measurement, result, _ = fitted
        (scale,) = measurement.nuisances
        ranking = scans.impacts(measurement.nll, result, measurement.mu, progress=False)
        # The data fix mu + SLOPE scale; nothing but the constraint measures the nuisance.
        row = ranking.table.loc[scale.name]
        assert row["error"] == pytest.approx(1.0, rel=1e-3)
        assert (row["down"], row["up"]) == pytest.approx((SLOPE, -SLOPE), rel=1e-3)
        assert ranking.error == pytest.approx(np.hypot(1 / np.sqrt(N), SLOPE), rel=1e-3)
        assert "impacts on mu" in str(ranking)

    def test_minimiser_where_newton_fails(self, fitted, monkeypatch):
        measurement, result, _ = fitted
        monkeypatch.setattr(scans, "_NEWTON_STEPS", 0)
        minimizer = Counting()
        ranking = scans.impacts(measurement.nll, result, measurement.mu, minimizer=minimizer, progress=False)
        assert minimizer.calls == 2
        assert ranking.table["up"].iloc[0] == pytest.approx(-SLOPE, rel=1e-2)

    def test_failed_fits_are_not_numbers(self, fitted, monkeypatch):
        measurement, result, _ = fitted
        monkeypatch.setattr(scans, "_NEWTON_STEPS", 0)
        ranking = scans.impacts(measurement.nll, result, measurement.mu, minimizer=Counting(fails=True), progress=False)
        assert np.isnan(ranking.table[["down", "up"]].to_numpy()).all()

    def test_no_nuisances(self, fitted):
        measurement, result, _ = fitted
        with pytest.raises(ValueError, match="no nuisances"):
            scans.impacts(measurement.nll, result, measurement.mu, nuisances=[], progress=False)


def test_updated_curvature_explains_the_last_step():
    """The secant condition, which leaves an inverse Hessian symmetric and positive; a change with the wrong sign is ignored."""
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(4, 4))
    inverse, step = factor @ factor.T + np.eye(4), rng.normal(size=4)
    change = step + 0.1 * rng.normal(size=4)
    updated = scans._updated(inverse, step, change)
    np.testing.assert_allclose(updated @ change, step, rtol=1e-10)  # rounding
    np.testing.assert_allclose(updated, updated.T, rtol=1e-10)
    assert np.linalg.eigvalsh(updated)[0] > 0
    assert scans._updated(inverse, step, -step) is inverse

"""Scans of the profile likelihood against closed forms."""

from __future__ import annotations

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from analytic import GaussianDeformation, GaussianFlow
from executors import Here
from likelihoods import counting, events, gaussian_mean, location

import zfit_fnf.loss
from zfit_fnf import profiles, scans
from zfit_fnf.minimize import Minuit
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF, SumPDF
from zfit_fnf.yields import modified_yield, normsys

N, SLOPE = 400, 0.08


@pytest.fixture(scope="module")
def fitted():
    """A mean of events with a nuisance that moves it: the likelihood is a quadratic form."""
    measurement, error = gaussian_mean(0.3, N, SLOPE)
    result = Minuit().minimize(measurement.nll)
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
        result = Minuit().minimize(loss, params)
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
        with pytest.raises(
            ValueError, match=r"'other' is not a parameter of the likelihood; it depends on \['mu', 'scale'\]"
        ):
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
        return nll, Minuit().minimize(nll), mean, width

    def test_newton_steps_follow_a_curved_valley(self, gaussian):
        nll, result, mean, _ = gaussian
        minimizer = Counting()
        scan = scans.profile(nll, result, mean, values=[-0.4, 0.0, 0.2], minimizer=minimizer, progress=False)
        assert minimizer.calls == 0
        np.testing.assert_allclose(scan.delta, 100 * np.log1p(scan.values**2), atol=2e-3)

    def test_others_at_their_limits(self, gaussian):
        nll, result, mean, width = gaussian
        width.upper = 1.05
        minimizer = Counting()
        scan = scans.profile(nll, result, mean, values=[0.1, 1.0], minimizer=minimizer, progress=False)
        assert minimizer.calls == 0
        at_limit = 100 * (2 * np.log(1.05) + (1 + 1.0) / 1.05**2 - 1)
        np.testing.assert_allclose(scan.delta, [100 * np.log1p(0.01), at_limit], atol=2e-3)

    def test_best_fit_at_a_limit(self, gaussian):
        """The width at its lower limit 1.2, where the error of the mean is 0.12; the scan of the width starts there."""
        nll, _, mean, width = gaussian
        width.lower = 1.2
        result = Minuit().minimize(nll)
        assert result.info["at_limit"] == ["width"]
        of_mean = scans.profile(nll, result, mean, n_points=5, progress=False)
        np.testing.assert_allclose(of_mean.values, np.linspace(-0.36, 0.36, 5), atol=1e-3)
        # The width leaves its limit where (1 + mean^2) > 1.44.
        np.testing.assert_allclose(of_mean.delta, 100 * of_mean.values**2 / 1.44, atol=2e-3)
        of_width = scans.profile(nll, result, width, n_points=5, progress=False)
        assert of_width.values[0] == 1.2
        rise = 100 * (2 * np.log(of_width.values / 1.2) + 1 / of_width.values**2 - 1 / 1.44)
        np.testing.assert_allclose(of_width.delta, rise, atol=2e-3)
        assert rise[-1] == pytest.approx(9.0, rel=0.3)  # the scan ends at three errors of a parabola with that slope

    def test_a_point_that_does_not_converge_is_not_a_number(self, gaussian, monkeypatch):
        nll, result, mean, _ = gaussian
        monkeypatch.setattr(profiles, "_NEWTON_STEPS", 1)
        minimizer = Counting(fails=True)
        with pytest.warns(UserWarning, match="1 of 2 fits did not converge.*the first of them with mean = 1"):
            scan = scans.profile(nll, result, mean, values=[0.0, 1.0], minimizer=minimizer, progress=False)
        assert minimizer.calls == 2  # continued once
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
        for kind in ("", "prefit_", "observed_"):
            assert (row[f"{kind}down"], row[f"{kind}up"]) == pytest.approx((SLOPE, -SLOPE), rel=1e-3)
        assert row["covariance"] == pytest.approx(-SLOPE, rel=1e-3)
        assert ranking.error == pytest.approx(np.hypot(1 / np.sqrt(N), SLOPE), rel=1e-3)
        assert "impacts on mu" in str(ranking)
        statistical, systematic = ranking.groups.loc["statistical"], ranking.groups.loc["systematic"]
        assert tuple(statistical) == pytest.approx((SLOPE, 1 / np.sqrt(N), 1 / np.sqrt(N)), rel=1e-3)
        assert tuple(systematic) == pytest.approx((1 / np.sqrt(N), SLOPE, SLOPE), rel=1e-3)

    def test_steps_that_end_at_limits_are_told(self):
        measurement, _ = gaussian_mean(0.3, N, SLOPE)
        (scale,) = measurement.nuisances
        scale.upper = 0.4
        result = Minuit().minimize(measurement.nll)
        with pytest.warns(UserWarning, match="limits of scale are less than an error away"):
            ranking = scans.impacts(measurement.nll, result, measurement.mu, progress=False)
        assert ranking.table.loc["scale", "prefit_up"] == pytest.approx(-0.4 * SLOPE, rel=1e-3)
        scale.upper, measurement.mu.upper = 5.0, result.params[measurement.mu]["value"] + 0.5 * SLOPE
        with pytest.warns(UserWarning, match="limits of mu cut off impacts of scale, which are larger"):
            ranking = scans.impacts(measurement.nll, result, measurement.mu, progress=False)
        assert ranking.table.loc["scale", "down"] == pytest.approx(0.5 * SLOPE, rel=1e-3)

    def test_a_parameter_that_a_limit_holds_has_impacts_that_are_cut_off(self):
        """Of 12 events beside a background of 20: zeros, as if the rate did not matter."""
        measurement = counting([12], 5.0, 20.0, change=(0.8, 1.2))
        result = Minuit().minimize(measurement.nll)
        with pytest.warns(UserWarning, match="limits of mu cut off impacts of rate, which are larger") as told:
            found = scans.impacts(measurement.nll, result, measurement.mu, progress=False)
        assert len(told) == 1
        np.testing.assert_allclose(found.table[["down", "up"]], 0.0, atol=1e-9)

    def test_definitions_of_an_asymmetric_rate(self):
        """One count: a nuisance that makes 400 expected events 480 or 360 moves 20 mu by -80 or +40, however it is moved."""
        counter = counting([420], s=20.0, b=400.0, change=(0.9, 1.2), low=-20.0)
        (rate,) = counter.nuisances
        result = Minuit().minimize(counter.nll)
        ranking = scans.impacts(counter.nll, result, "mu", groups={"theory": [rate]}, progress=False)
        row = ranking.table.loc["rate"]
        assert row["error"] == pytest.approx(1.0, rel=1e-3)
        for kind in ("", "prefit_", "observed_"):
            assert (row[f"{kind}down"], row[f"{kind}up"]) == pytest.approx((2.0, -4.0), rel=2e-3)
        factor, ends = normsys(rate, down=0.9, up=1.2), tf.constant([-1e-4, 1e-4], tf.float64)
        slope = 20.0 * float(np.diff([factor(end) for end in tf.unstack(ends)])[0]) / 2e-4
        assert row["covariance"] == pytest.approx(-slope, rel=1e-3)
        theory = ranking.groups.loc["theory"]
        assert theory["impact"] == pytest.approx(slope, rel=1e-3)
        assert theory["frozen"] == pytest.approx(np.sqrt(420) / 20, rel=1e-3)
        assert theory["observed"] == pytest.approx(3.0, rel=2e-3)

    def test_weighted_events_have_their_own_errors(self):
        """Events that count twice each are not twice as many."""
        measurement, error = gaussian_mean(0.3, N, SLOPE)
        (plain,), (scale,) = measurement.nll.data, measurement.nuisances
        nll = zfit_fnf.loss.UnbinnedNLL(measurement.nll.model, [plain], weights=np.full(N, 2.0))
        result = Minuit().minimize(nll)
        hesse = result.hesse()
        ranking = scans.impacts(nll, result, measurement.mu, progress=False)
        assert ranking.error == pytest.approx(error, rel=0.1)  # the events scatter by 1 within 4 %
        assert ranking.error == pytest.approx(hesse[measurement.mu]["error"], rel=1e-3)
        row = ranking.table.loc["scale"]
        assert row["error"] == pytest.approx(hesse[scale]["error"], rel=1e-3)
        # The mean alone, and all that its scatter leaves.
        assert ranking.groups.loc["systematic", "frozen"] == pytest.approx(1 / np.sqrt(N), rel=0.1)
        parts = ranking.groups.loc[["systematic", "statistical"], "observed"]
        np.testing.assert_allclose(parts, [SLOPE, ranking.groups.loc["systematic", "frozen"]], rtol=1e-3)

    def test_groups_are_checked(self, fitted):
        measurement, result, _ = fitted
        for groups, kind, message in (
            ({"theory": "scale"}, TypeError, "lists of nuisances by name"),
            ({"theory": ["mu"]}, ValueError, "whose impacts are not asked for"),
            ({"statistical": ["scale"]}, ValueError, "cannot be called 'statistical'"),
        ):
            with pytest.raises(kind, match=message):
                scans.impacts(measurement.nll, result, "mu", groups=groups, progress=False)

    def test_minimiser_where_newton_fails(self, fitted, monkeypatch):
        measurement, result, _ = fitted
        monkeypatch.setattr(profiles, "_NEWTON_STEPS", 0)
        minimizer = Counting()
        ranking = scans.impacts(measurement.nll, result, measurement.mu, minimizer=minimizer, progress=False)
        assert minimizer.calls == 6  # up and down, by the error after the fit and before it, and by the outcome
        assert ranking.table["up"].iloc[0] == pytest.approx(-SLOPE, rel=1e-2)

    def test_failed_fits_are_not_numbers(self, fitted, monkeypatch):
        measurement, result, _ = fitted
        monkeypatch.setattr(profiles, "_NEWTON_STEPS", 0)
        minimizer = Counting(fails=True)
        with pytest.warns(UserWarning, match="fits with scale fixed did not converge"):
            ranking = scans.impacts(measurement.nll, result, measurement.mu, minimizer=minimizer, progress=False)
        assert np.isnan(ranking.table.filter(regex="down|up").to_numpy()).all()

    def test_no_nuisances(self, fitted):
        measurement, result, _ = fitted
        with pytest.raises(ValueError, match="no nuisances"):
            scans.impacts(measurement.nll, result, measurement.mu, nuisances=[], progress=False)

    @pytest.mark.parametrize("offset", [-0.1, 0.05, 0.1])
    def test_start_at_the_minimum_itself(self, fitted, offset):
        """A result that is a fraction of an error away shifted all impacts by as much."""
        measurement, result, error = fitted
        (scale,) = measurement.nuisances
        shifted = {p: result.params[p]["value"] + offset * size for p, size in ((measurement.mu, error), (scale, 1.0))}
        rough = zfit.result.FitResult(
            measurement.nll, shifted, result.minimizer, True, edm=1e-2, fminopt=0.0, criterion=None, converged=True
        )
        row = scans.impacts(measurement.nll, rough, measurement.mu, progress=False).table.loc[scale.name]
        assert (row["down"], row["up"]) == pytest.approx((SLOPE, -SLOPE), rel=1e-3)
        assert row["value"] == pytest.approx(0.0, abs=2e-3)

    def test_pull_constraint_and_impact_before_the_fit(self):
        """Two measurements of mu: the second one knows the nuisance, and pulls and constrains it."""
        mu, nu = zfit.Parameter("mu", 0.0, -5, 5), nuisance("nu")
        nu.observed.set_value(0.5)
        obs = zfit.Space("x", limits=(-30.0, 30.0))
        x = np.random.default_rng(7).normal(size=N)
        x = (x - x.mean()) / x.std()
        nll = sum_of(
            zfit_fnf.loss.UnbinnedNLL(zfit.pdf.Gauss(centre, 1.0, obs=obs), {"x": x + mean})
            for centre, mean in (
                (zfit.ComposedParameter("c1", lambda mu, nu: mu + 0.1 * nu, params=[mu, nu]), 0.3),
                (zfit.ComposedParameter("c2", lambda nu: 0.1 * nu, params=[nu]), 0.2),
            )
        )
        ranking = scans.impacts(nll, Minuit().minimize(nll), "mu", progress=False)
        row = ranking.table.loc["nu"]
        information = 1 + N * 0.01
        value = (0.5 + N * 0.1 * 0.2) / information  # mu takes what the first one says
        assert row["value"] == pytest.approx(value, abs=1e-3)
        assert row["pull"] == pytest.approx(value - 0.5, abs=1e-3)
        assert row["error"] == pytest.approx(information**-0.5, rel=1e-3)
        assert (row["down"], row["up"]) == pytest.approx((0.1 * information**-0.5, -0.1 * information**-0.5), rel=1e-3)
        assert (row["prefit_down"], row["prefit_up"]) == pytest.approx((0.1, -0.1), rel=1e-3)
        assert row["covariance"] == pytest.approx(-0.1 * information**-0.5, rel=1e-3)
        # The auxiliary measurement is one of two that know the nuisance.
        assert (row["observed_down"], row["observed_up"]) == pytest.approx(
            (0.1 / information, -0.1 / information), rel=1e-3
        )
        frozen, impact, _ = ranking.groups.loc["systematic"]
        assert (frozen, impact) == pytest.approx((N**-0.5, 0.1 * information**-0.5), rel=1e-3)
        total = np.hypot(ranking.groups.loc["systematic", "observed"], ranking.groups.loc["statistical", "observed"])
        assert total == pytest.approx(ranking.error)

    def test_parameters_that_a_constraint_of_zfit_measures_are_systematic(self):
        mu, scale = zfit.Parameter("mu", 0.0, -5, 5), zfit.Parameter("scale", 2.0, -20, 20)
        centre = zfit.ComposedParameter("centre", lambda mu, scale: mu + SLOPE * scale, params=[mu, scale])
        outcome = zfit.Parameter("outcome", 2.0, floating=False)
        measured = zfit.constraint.GaussianConstraint(scale, observation=outcome, sigma=3.0)
        pdf = zfit.pdf.Gauss(centre, 1.0, obs=zfit.Space("x", limits=(-30.0, 30.0)))
        x = np.random.default_rng(1).normal(size=N)
        nll = zfit_fnf.loss.UnbinnedNLL(pdf, {"x": x}, constraints=[measured])
        ranking = scans.impacts(nll, Minuit().minimize(nll), "mu", progress=False)
        row = ranking.table.loc["scale"]
        assert (row["pull"], row["error"]) == pytest.approx((0.0, 1.0), abs=1e-3)  # data do not know it
        for kind in ("", "prefit_", "observed_"):
            assert (row[f"{kind}down"], row[f"{kind}up"]) == pytest.approx((3 * SLOPE, -3 * SLOPE), rel=1e-3)
        for kind in ("impact", "observed"):
            parts = ranking.groups.loc[["systematic", "statistical"], kind]
            assert tuple(parts) == pytest.approx((3 * SLOPE, N**-0.5), rel=1e-3)

    def test_any_parameter_may_be_moved(self, fitted):
        measurement, result, error = fitted
        row = scans.impacts(measurement.nll, result, "scale", nuisances=["mu"], progress=False).table.loc["mu"]
        # mu + SLOPE scale = 0.3 with N events, and scale = 0 with one
        expected = -N * SLOPE * error / (1 + N * SLOPE**2)
        assert row["up"] == pytest.approx(expected, rel=1e-3)
        assert np.isnan(row[["pull", "prefit_down", "prefit_up"]].to_numpy(float)).all()


def sum_of(losses):
    first, *others = losses
    for other in others:
        first = first + other
    return first


@pytest.fixture(scope="module")
def other():
    """The same model with other data: its minimum is 5 errors away."""
    measurement, error = gaussian_mean(0.3 + 5 * 0.094, N, SLOPE)
    return measurement, Minuit().minimize(measurement.nll), error


class TestExtrapolation:
    """Fits end inside of where responses were trained; what follows from them goes further and is told, once."""

    @pytest.fixture
    def fit_of_one(self):
        """Four events: the error of the nuisance is 1 / sqrt(5), so that its scan ends at 1.34."""
        jes, pdf = location()
        pdf.deformation.windows["jes"] = (-1.0, 1.0)
        nll = zfit_fnf.loss.UnbinnedNLL(pdf, {"y": events(4, mean=0.0)})
        return jes, nll, Minuit().minimize(nll)

    def test_a_scan_of_the_nuisance(self, fit_of_one):
        jes, nll, result = fit_of_one
        said = r"'jes' goes to -1.34, outside of the range \(-1, 1\) of 'location': points of the profile of jes are ex"
        with pytest.warns(UserWarning, match=said) as told:
            scans.profile(nll, result, jes, progress=False)
        assert len(told) == 1
        scans.profile(nll, result, jes, n_sigma=2.0, progress=False)  # to 0.89
        scans.profile(nll, result, jes, values=[-1.2, 1.2], progress=False)  # where continuations are good

    def test_errors_of_minos(self, fit_of_one):
        jes, _, result = fit_of_one
        assert result.errors()[0][jes]["upper"] == pytest.approx(5**-0.5, rel=1e-2)
        with pytest.warns(UserWarning, match=r"'jes' goes to -?1.3\d, .*: errors of MINOS are") as told:
            result.errors(cl=0.9973, name="three")
        assert len(told) == 1

    def test_the_nuisance_follows_the_parameter(self):
        """Counts of 100 mu (1 + 0.1 nu), and no shape: where mu is scanned, nu makes up for a part of it."""
        (jes, pdf), mu = location(), zfit.Parameter("mu", 1.0, 0.1, 3.0)
        pdf.deformation.windows["jes"], pdf.deformation.table[:] = (-0.5, 0.5), 0.0
        yields = modified_yield(100.0, [mu, normsys(jes, down=0.9, up=1.1)])
        one = FNFPDF(pdf.deformation, pdf.params, extended=yields, name="one")
        nll = zfit_fnf.loss.ExtendedUnbinnedNLL(one, {"y": events(100, mean=0.0)})
        result = Minuit().minimize(nll)
        for scan in (scans.profile, scans.impacts):
            what = "profile of mu" if scan is scans.profile else "impacts on mu"
            with pytest.warns(UserWarning, match=rf"'jes' goes to .*: .*{what} are extrapolations") as told:
                scan(nll, result, mu, progress=False)
            assert len(told) == 1


class TestMistakes:
    """One clear error each, on input; no parameter is moved."""

    @pytest.mark.parametrize(
        ("change", "error", "match"),
        [
            ({"param": "other"}, ValueError, "'other' is not a parameter of the likelihood"),
            ({"param": 3.0}, TypeError, "must be a zfit.Parameter, or the name of one; got 3.0"),
            ({"param": None}, TypeError, "must be a zfit.Parameter"),
            ({"param": ["mu"]}, TypeError, "must be a zfit.Parameter"),
            ({"nll": "result"}, TypeError, "not its result"),
            ({"nll": None}, TypeError, "the first argument is a likelihood"),
            ({"nll": "model"}, TypeError, "the first argument is a likelihood"),
            ({"result": None}, TypeError, "the second argument is the result of a fit"),
            ({"result": "nll"}, TypeError, "the second argument is the result of a fit"),
            ({"values": []}, ValueError, "values= takes one finite number at least"),
            ({"values": 0.3}, TypeError, "values= takes a sequence of numbers; got 0.3"),
            ({"values": ["a"]}, TypeError, "values= takes a sequence of numbers"),
            ({"values": [np.nan]}, ValueError, "values= takes one finite number"),
            ({"values": [[0.1], [0.2]]}, ValueError, "in one dimension"),
            ({"values": [7.0]}, ValueError, "its limits are -5 and 5"),
            ({"n_points": 0}, ValueError, "n_points= must be at least 2; got 0"),
            ({"n_points": 1}, ValueError, "n_points= must be at least 2; got 1"),
            ({"n_points": 5.5}, TypeError, "n_points= must be a whole number"),
            ({"n_points": True}, TypeError, "n_points= must be a whole number"),
            ({"n_sigma": -1.0}, ValueError, "n_sigma= must be positive; got -1.0"),
            ({"n_sigma": 0}, ValueError, "n_sigma= must be positive"),
            ({"n_sigma": np.inf}, ValueError, "n_sigma= must be finite"),
            ({"n_sigma": "3"}, TypeError, "n_sigma= must be a number"),
            ({"minimizer": Minuit}, TypeError, "minimizer= is an object that fits"),
            ({"minimizer": "Minuit"}, TypeError, "minimizer= is an object that fits"),
        ],
    )
    def test_profile(self, fitted, change, error, match):
        measurement, result, _ = fitted
        objects = {"result": result, "nll": measurement.nll, "model": measurement.nll.model[0]}
        arguments = {"nll": measurement.nll, "result": result, "param": measurement.mu, **change}
        for name in ("nll", "result"):
            if isinstance(arguments[name], str):
                arguments[name] = objects[arguments[name]]
        before = measurement.state()
        with pytest.raises(error, match=match):
            scans.profile(**arguments, progress=False)
        assert measurement.state() == before

    @pytest.mark.parametrize(
        ("params", "error", "match"),
        [
            ("mu", ValueError, "a contour needs two parameters"),
            (["mu"], ValueError, "a contour needs two parameters"),
            (["mu", "scale", "mu"], ValueError, "a contour needs two parameters"),
            (["mu", "mu"], ValueError, "two different parameters; got 'mu' twice"),
            (["mu", "other"], ValueError, "'other' is not a parameter"),
        ],
    )
    def test_contour(self, fitted, params, error, match):
        measurement, result, _ = fitted
        with pytest.raises(error, match=match):
            scans.contour(measurement.nll, result, params, progress=False)

    def test_impacts(self, fitted):
        measurement, result, _ = fitted
        for nuisances, match in ((["mu"], "no impact on itself"), (["other"], "'other' is not a parameter")):
            with pytest.raises(ValueError, match=match):
                scans.impacts(measurement.nll, result, measurement.mu, nuisances=nuisances, progress=False)

    @pytest.mark.parametrize("scan", [scans.profile, scans.impacts])
    def test_result_of_other_data(self, fitted, other, scan):
        measurement, result, _ = fitted
        theirs, their_result, _ = other
        message = r"not at a minimum of this likelihood, which is not the one that was fitted: .* distance is 44"
        with pytest.raises(ValueError, match=message):
            scan(measurement.nll, their_result, measurement.mu, progress=False)  # N (shift)^2 / 2
        with pytest.raises(ValueError, match=message):
            scan(theirs.nll, result, theirs.mu, progress=False)

    def test_result_of_another_set_of_parameters(self, fitted):
        measurement, _, _ = fitted
        (scale,) = measurement.nuisances
        scale.floating = False
        try:
            result = Minuit().minimize(measurement.nll)
        finally:
            scale.floating = True
        with pytest.raises(ValueError, match=r"only it has \[\], and it lacks \['scale'\]"):
            scans.profile(measurement.nll, result, measurement.mu, progress=False)

    def test_likelihood_that_does_not_depend_on_a_parameter(self):
        mu, idle = zfit.Parameter("mu", 0.3, -5, 5), zfit.Parameter("idle", 0.0, -1, 1)
        centre = zfit.ComposedParameter("centre", lambda mu, idle: mu + 0.0 * idle, params=[mu, idle])
        obs = zfit.Space("x", limits=(-30.0, 30.0))
        nll = zfit_fnf.loss.UnbinnedNLL(zfit.pdf.Gauss(centre, 1.0, obs=obs), {"x": np.linspace(-1, 2, 50)})
        with pytest.raises(ValueError, match=r"not positive definite: it does not depend on \['idle'\]"):
            scans.profile(nll, Minuit().minimize(nll), mu, progress=False)

    def test_parameters_by_name(self, fitted):
        measurement, result, _ = fitted
        by_name = scans.profile(measurement.nll, result, "mu", n_points=3, progress=False)
        np.testing.assert_array_equal(
            by_name.delta, scans.profile(measurement.nll, result, measurement.mu, n_points=3, progress=False).delta
        )
        assert scans.contour(measurement.nll, result, ("mu", "scale"), n_points=2, progress=False).delta.shape == (2, 2)


def test_updated_curvature_explains_the_last_step():
    """The secant condition, which leaves a Hessian symmetric and positive; a change with the wrong sign is ignored."""
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(4, 4))
    hessian, step = factor @ factor.T + np.eye(4), rng.normal(size=4)
    change = step + 0.1 * rng.normal(size=4)
    updated = profiles._updated(hessian, step, change)
    np.testing.assert_allclose(updated @ step, change, rtol=1e-10)  # rounding
    np.testing.assert_allclose(updated, updated.T, rtol=1e-10)
    assert np.linalg.eigvalsh(updated)[0] > 0
    assert profiles._updated(hessian, step, -step) is hessian


def test_an_executor_has_the_same_numbers(fitted):
    """Its processes find the minimum anew: to the tolerance of Newton steps, a thousandth of an error."""
    measurement, result, error = fitted
    nll, params, quiet = measurement.nll, measurement.parameters, {"progress": False}
    for scan, what in ((scans.profile, params[0]), (scans.contour, params)):
        here, there = (scan(nll, result, what, executor=one, n_points=3, **quiet) for one in (None, Here()))
        np.testing.assert_allclose(there.delta, here.delta, atol=1e-3)
    here, there = (scans.impacts(nll, result, params[0], executor=one, **quiet) for one in (None, Here()))
    pd.testing.assert_frame_equal(there.table, here.table, atol=1e-3 * error, rtol=1e-3)
    with pytest.raises(ValueError, match="not sent to other processes"):
        scans.profile(nll, result, params[0], executor=Here(), minimizer=Minuit())


def test_profile_where_nothing_is_left_of_what_measures_a_nuisance():
    """Without signal the nuisance is at its constraint, in closed form; the Hessian of the best fit would leave it halfway."""
    jes, n_signal = nuisance("jes"), zfit.Parameter("n_signal", 200.0, 0.0, 1000.0)
    space, rng = zfit.Space("y", -12.0, 12.0), np.random.default_rng(1)
    flow = GaussianFlow([0.0], [1.0], obs=["y"])
    signal = FNFPDF(
        GaussianDeformation(flow, {"jes": ((0.0, -2.0), (0.0, 0.0))}), {"jes": jes}, obs=space, extended=n_signal
    )
    flat = zfit.pdf.Uniform(-12.0, 12.0, obs=space, extended=2000.0)
    y = np.r_[rng.normal(2.4, 1.0, 200), rng.uniform(-12.0, 12.0, 2000)]
    nll = zfit_fnf.loss.ExtendedUnbinnedNLL(SumPDF([signal, flat]), {"y": y})
    jes.set_value(1.2)
    result = Minuit().minimize(nll)
    scan = scans.profile(nll, result, n_signal, values=[0.0], progress=False)
    best = float(nll.value(full=True))
    with zfit.param.set_values([n_signal, jes], [0.0, 0.0]):
        expected = 2.0 * (float(nll.value(full=True)) - best)
    assert expected > 50
    assert scan.delta[0] == pytest.approx(expected, abs=1e-3)

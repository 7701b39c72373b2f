"""Limits from toys against those of pyhf, and regions of Feldman and Cousins against published ones and closed forms."""

from __future__ import annotations

import warnings

import zfit
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import zfit_fnf
from zfit_fnf import scans
from zfit_fnf.limits import FeldmanCousins, feldman_cousins, toys, upper_limit
from zfit_fnf.limits.counting import CountingToys
from zfit_fnf.limits.neyman import Rises
from zfit_fnf.loss import NLL, CountPDF, counting
from zfit_fnf.toys import refill, refillable, toy
from zfit_fnf.yields import lnN, modified_yield

CL = 0.9
SIGMAS = stats.norm.isf(0.5e-5)  # ten numbers are compared


def search(n: int) -> tuple[NLL, zfit.Parameter]:
    """Three events of signal, four of background, known to thirty per cent."""
    mu, rate = zfit.Parameter("mu", 1.0, 0.0, 20.0, stepsize=0.1), zfit_fnf.nuisance("rate")
    parts = [modified_yield(3.0, [mu]), modified_yield(4.0, [lnN(rate, 1.3)])]
    return counting(zfit.ComposedParameter("total", lambda s, b: s + b, params=parts), n, name="region"), mu


def bounded_mean(x: float) -> tuple[NLL, zfit.Parameter]:
    """A mean that is not negative, measured with an error of one; the counted events do not depend on it."""
    mu, outcome = zfit.Parameter("mu", 0.5, 0.0, 20.0, stepsize=0.1), zfit.Parameter("x", x, floating=False)
    constraint = zfit.constraint.GaussianConstraint(mu, observation=outcome, sigma=1.0)
    expected = zfit.Parameter("expected", 1.0, floating=False)
    return NLL(CountPDF(expected, name="nothing"), np.array([1.0]), constraints=[constraint]), mu


def p_of_bounded_mean(mu: np.ndarray, x: float) -> np.ndarray:
    """Probability of a likelihood ratio at least as large as that of an outcome, in closed form."""

    def ratio(y: float) -> np.ndarray:
        return (y - mu) ** 2 - np.minimum(y, 0.0) ** 2

    t = ratio(x)
    above, below = mu + np.sqrt(t), mu - np.sqrt(t)
    below = np.where(below < 0, (mu**2 - t) / (2 * np.maximum(mu, 1e-12)), below)
    return stats.norm.sf(above - mu) + stats.norm.cdf(below - mu)


def signal_on_three(n: int) -> tuple[NLL, zfit.Parameter]:
    mu = zfit.Parameter("mu", 1.0, 0.0, 40.0, stepsize=0.1)
    return counting(zfit.ComposedParameter("total", lambda s: s + 3.0, params=[mu]), n, name="region"), mu


def p_of_counts(mu: float, n: int) -> float:
    k = np.arange(200)
    best = np.maximum(k, 3.0)
    t = 2 * (stats.poisson.logpmf(k, best) - stats.poisson.logpmf(k, mu + 3.0))
    return float(stats.poisson.pmf(k, mu + 3.0)[t >= t[n] - 1e-9].sum())


def check_p_values(region, expected: np.ndarray) -> None:
    error = np.sqrt(expected * (1 - expected) / region.n_toys)
    assert (np.abs(region.table["p_value"] - expected) <= SIGMAS * error + 1e-12).all()


def test_toys_of_counts_are_drawn_and_fitted_as_others_are():
    nll, mu = search(5)
    toys = CountingToys(nll)
    truth = dict.fromkeys(toys.params, 0.7)
    observed, counts = outcomes = toys.draw(truth, [(3, number) for number in range(4)])
    best, lowest = toys.minima(outcomes, toys.values(truth, 4))
    fixed = toys.values({**truth, mu: 2.0}, 4)
    rise = toys.minima(outcomes, fixed, [mu])[1] - lowest
    loss, minimizer = refillable(nll), zfit_fnf.Minuit()
    for number in range(4):
        experiment = toy(nll, params=truth, seed=(3, number))
        np.testing.assert_array_equal(experiment.data[0].values(), counts[number])
        assert list(experiment.observed.values()) == list(observed[number])
        refill(loss, experiment)
        zfit.param.set_values(truth)
        result = minimizer.minimize(loss)
        # Both stop at an expected distance of 1e-6 or less: a hundredth of an error, and 1e-6 in the likelihood.
        found = [result.params[parameter]["value"] for parameter in toys.params]
        np.testing.assert_allclose(found, best[number], atol=3e-3)
        value = float(loss.value())
        zfit.param.set_values({mu: 2.0})
        minimizer.minimize(loss, [one for one in toys.params if one is not mu])
        assert float(loss.value()) - value == pytest.approx(rise[number], abs=1e-5)


def test_limit_from_toys_is_close_to_that_of_pyhf():
    nll, mu = search(3)
    before = [float(parameter.value()) for parameter in nll.get_params()]
    with pytest.warns(UserWarning, match='calculator="toys"'):
        upper_limit(nll, mu)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # expected limits below the median need more toys
        result = upper_limit(nll, mu, calculator="toys", n_toys=500, seed=1, progress=False)
    assert [float(parameter.value()) for parameter in nll.get_params()] == before
    assert 0 < result.error < 0.2
    assert abs(result.observed - 1.613) < 5 * result.error + 0.02 * 1.613
    assert list(result.expected[2:]) == sorted(result.expected[2:])
    assert "from 500 toys" in str(result)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "limit", "n_toys"), [(1, 1.156, 20_000), (3, 1.613, 10_000)])
def test_limits_of_pyhf_with_many_toys(n, limit, n_toys):
    nll, mu = search(n)
    result = upper_limit(nll, mu, calculator="toys", n_toys=n_toys, progress=False)
    print(n, result.observed, result.error)
    assert result.observed == pytest.approx(limit, rel=0.02, abs=4 * result.error)


def test_region_of_a_bounded_mean():
    nll, mu = bounded_mean(0.5)
    points = [0.0, 0.3, 1.0, 2.0, 2.5]
    region = feldman_cousins(nll, mu, cl=CL, points=points, n_toys=400, progress=False)
    check_p_values(region, p_of_bounded_mean(np.array(points), 0.5))
    assert region.intervals[0][0] == 0.0
    with pytest.raises(ValueError, match="outside of its limits"):
        feldman_cousins(nll, mu, points=[-1.0, 1.0])


def test_a_region_that_goes_on_beyond_its_points_is_told():
    nll, mu = signal_on_three(6)
    with pytest.warns(UserWarning, match="beyond the points of 'mu'"):
        region = feldman_cousins(nll, mu, cl=CL, points=[0.0, 3.0, 4.0], n_toys=50, progress=False)
    assert region.intervals[-1][1] == 4.0


def test_points_at_a_boundary_reach_as_far_as_the_likelihood_says():
    nll, mu = bounded_mean(-1.0)
    mu.stepsize = 1e-3  # says nothing about the error
    region = feldman_cousins(nll, mu, cl=CL, n_points=5, n_toys=50, progress=False)
    # (x + 1)^2 - 1 is the square of 1.5 standard deviations more than the confidence level has.
    reach = stats.norm.isf(0.05) + 1.5
    np.testing.assert_allclose(region.table["mu"], np.linspace(0.0, np.sqrt(1.0 + reach**2) - 1.0, 5), rtol=1e-4)


def test_region_of_a_counted_signal():
    nll, mu = signal_on_three(6)
    points = [0.0, 0.5, 3.0, 7.0, 9.0]
    region = feldman_cousins(nll, mu, cl=CL, points=points, n_toys=400, progress=False)
    check_p_values(region, np.array([p_of_counts(point, 6) for point in points]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the region goes on beyond the points")  # towards zero, where its end is known
@pytest.mark.parametrize(("x", "published"), [(-1.0, 0.81), (0.0, 1.64), (1.0, 2.64)])
def test_published_belt_of_a_bounded_mean(x, published):
    nll, mu = bounded_mean(x)
    points = np.linspace(0.9, 1.1, 5) * published
    region = feldman_cousins(nll, mu, cl=CL, points=points, n_toys=20_000, progress=False)
    # Asked for: 2 %.
    assert region.intervals[0][1] == pytest.approx(published, rel=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the region goes on beyond the points")  # towards zero, where its end is known
@pytest.mark.parametrize(("n", "published"), [(0, 1.08), (3, 4.42), (5, 6.99)])
def test_published_limits_of_a_counted_signal(n, published):
    nll, mu = signal_on_three(n)
    points = np.linspace(0.94, 1.06, 13) * published
    region = feldman_cousins(nll, mu, cl=CL, points=points, n_toys=20_000, progress=False)
    assert region.intervals[-1][1] == pytest.approx(published, rel=0.02)


def test_toys_of_a_squared_coupling_leave_zero():
    """Zero is a maximum of the likelihood where more is counted than the background; fits that start there have to leave it."""
    c = zfit.Parameter("c", 1.0, -20.0, 20.0, stepsize=0.1)
    nll = counting(zfit.ComposedParameter("total", lambda c: c**2 + 3.0, params=[c]), 6, name="region")
    region = feldman_cousins(nll, c, cl=CL, points=[-3.5, 0.0, 3.5], n_toys=1000, progress=False, seed=1)
    check_p_values(region, np.array([p_of_counts(c**2, 6) for c in (-3.5, 0.0, 3.5)]))


def test_scans_from_a_local_minimum_are_told_and_regions_are_refused():
    """The fit ends at +2.9, and -3 has a likelihood that is 8 higher: both were in the region, with t = 0 of what is below."""
    c = zfit.Parameter("c", 2.0, -20.0, 20.0, stepsize=0.1)
    nll = counting(zfit.ComposedParameter("total", lambda c: 10 * c**2 + 3.0, params=[c]), 93, name="region")
    known = zfit.constraint.GaussianConstraint(c, observation=zfit.Parameter("c0", -3.0, floating=False), sigma=1.5)
    nll = nll.create_new(constraints=[known])
    result = zfit_fnf.Minuit().minimize(nll)
    assert result.params[c]["value"] == pytest.approx(2.93, abs=0.02)
    with pytest.warns(UserWarning, match="the likelihood is larger with c = -3 than at the best fit, a local minimum"):
        assert scans.profile(nll, result, c, values=[-3.0, 3.0], progress=False).delta[0] == pytest.approx(
            -15.82, abs=0.05
        )
    zfit.param.set_values([c], result)
    with pytest.raises(
        RuntimeError, match=r"with c = -3 the fit ended 7\.91 below that of all parameters, a local minimum"
    ):
        feldman_cousins(nll, c, points=[-3.0, 3.0], n_toys=50, progress=False)


def test_toys_with_a_second_minimum_above_zero_are_refused():
    """A best fit at -1 does not stand for zero where +1 is as good."""
    two = Rises(np.full((100, 1), -1.0), np.tile([1.0, 0.0], (100, 1)))
    with pytest.raises(ValueError, match="a second minimum above zero"):
        toys._test_statistic(two, 1.0, 1)
    one = Rises(np.full((100, 1), -1.0), np.tile([1.0, 4.0], (100, 1)))
    np.testing.assert_allclose(toys._test_statistic(one, 1.0, 1), 3.0)


def test_regions_of_nothing_are_refused():
    nll, mu = search(5)
    with pytest.raises(ValueError, match="points= takes one finite number at least"):
        feldman_cousins(nll, mu, points=[], progress=False)
    with pytest.raises(TypeError, match="a parameter of interest must be"):
        feldman_cousins(nll, 3, progress=False)


def test_where_all_toys_are_above_nothing_is_said_of_the_limit():
    """The five points with CLs of one were taken for exact, and the parabola through them ended at 47."""
    grid = np.geomspace(0.742909, 5.398907, 10)
    of_signal = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.46, 0.16, 0.018, 0.00017, 0.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(of_signal > 0, (1.0 - of_signal) / (6000 * of_signal), np.inf)
    c = zfit.Parameter("c", 1.0, 0.0, 20.0)
    limit, error = toys._crossing(grid, toys._Curve(of_signal, variance, np.zeros(10)), 0.05, c)
    # between the points at 2.79 and 3.47, 3.15 +- 0.1 by any curve through them
    assert limit == pytest.approx(3.15, abs=0.1)
    assert error < 0.05


@pytest.mark.parametrize("name", ["t", "error"])
def test_regions_of_parameters_with_the_names_of_columns_are_refused(name):
    """Their values were those of the likelihood ratio, or of the error of the p-value."""
    parameter = zfit.Parameter(name, 1.0, 0.0, 20.0)
    with pytest.raises(ValueError, match=f"columns .* of its own: give .*'{name}'.* other names"):
        feldman_cousins(counting(modified_yield(4.0, [parameter]), 3, name="region"), parameter, n_toys=50)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        # True ones fall by 0.01 from 0.15, and 1000 toys scatter them by 0.009.
        ([1.0, 0.15, 0.13, 0.115, 0.098, 0.105, 0.09, 0.101, 0.06], [(0.0, 5.25)]),
        ([0.3, 0.02, 0.01, 0.3, 1.0, 0.2, 0.05], [(0.0, 0.71), (2.31, 5.67)]),  # two minima are not scatter
        ([0.05, 0.105, 0.098, 0.104, 0.3, 1.0, 0.02], [(0.97, 5.92)]),
    ],
)
def test_scatter_of_toys_makes_no_intervals(p_values, expected):
    p = np.array(p_values)
    table = pd.DataFrame({"mu": np.arange(len(p), dtype=float), "t": 0.0, "p_value": p})
    table = table.assign(error=np.sqrt(p * (1 - p) / 1000), inside=p > 0.1)
    region = FeldmanCousins(("mu",), 0.9, 1000, (0.0,), table)
    np.testing.assert_allclose(region.intervals, expected, atol=0.02)

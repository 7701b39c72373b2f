"""What auxiliary measurements say before a fit, where they are others than one unit Gaussian for each nuisance."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from analytic import GaussianFlow

import zfit_fnf as zfnf
from zfit_fnf import plotting, scans
from zfit_fnf.param import NuisanceConstraint
from zfit_fnf.projections import component_samples, vary
from zfit_fnf.state import known_before, measured_covariance, measured_values
from zfit_fnf.yield_tables import yield_table

N, SLOPE = 400, 0.3


def gaussian(parameter, outcome: float, sigma: float) -> zfit.constraint.GaussianConstraint:
    observed = zfit.Parameter(f"outcome_{outcome}_{sigma}", outcome, floating=False)
    return zfit.constraint.GaussianConstraint(parameter, observation=observed, sigma=sigma)


MEASUREMENTS = {
    "one of another width": (lambda nu: [gaussian(nu, 0.3, 0.5)], [(0.3, 0.5)]),
    "and the unit Gaussian": (lambda nu: [NuisanceConstraint(nu), gaussian(nu, 0.3, 0.5)], [(0.0, 1.0), (0.3, 0.5)]),
    "two": (lambda nu: [gaussian(nu, 0.3, 0.5), gaussian(nu, -0.3, 0.8)], [(0.3, 0.5), (-0.3, 0.8)]),
}


@pytest.fixture(params=MEASUREMENTS.values(), ids=MEASUREMENTS)
def measured(request):
    """Constraints of a nuisance, and the average of their outcomes with its error."""
    constraints, outcomes = request.param
    values, errors = np.transpose(outcomes)
    value, weight = np.average(values, weights=errors**-2, returned=True)
    return constraints, value, weight**-0.5


def test_impacts(measured):
    """The mean of N events is mu + SLOPE nu: data do not know the nuisance, and all is linear."""
    constraints, _, error = measured
    mu, nu = zfit.Parameter("mu", 0.0, -5, 5), zfnf.nuisance("nu")
    centre = zfit.ComposedParameter("centre", lambda mu, nu: mu + SLOPE * nu, params=[mu, nu])
    x = np.random.default_rng(7).normal(size=N)
    pdf = zfit.pdf.Gauss(centre, 1.0, obs=zfit.Space("x", -30.0, 30.0))
    nll = zfnf.loss.UnbinnedNLL(pdf, {"x": x}, constraints=constraints(nu))
    ranking = scans.impacts(nll, zfnf.Minuit().minimize(nll), mu, progress=False)
    row = ranking.table.loc["nu"]
    assert (row["pull"], row["value"], row["error"]) == pytest.approx((0.0, 0.0, 1.0), abs=2e-3)
    for kind in ("", "prefit_", "observed_"):
        assert (row[f"{kind}down"], row[f"{kind}up"]) == pytest.approx((SLOPE * error, -SLOPE * error), rel=1e-3)
    for kind in ("impact", "observed"):
        parts = ranking.groups.loc[["systematic", "statistical"], kind]
        assert tuple(parts) == pytest.approx((SLOPE * error, N**-0.5), rel=1e-3)


def test_summaries_have_what_all_measurements_say():
    """They had the last outcome: here 1.1 in place of 0.62, where the fit, which only has the two, is too."""
    x = zfit.Parameter("x", 0.3, -10, 10)
    nll = zfnf.loss.counting(zfnf.modified_yield(1e4, [zfnf.lnN(zfnf.nuisance("jes"), 1.1)]), 10_000)
    nll = nll.create_new(constraints=[gaussian(x, 0.5, 0.2), gaussian(x, 1.1, 0.4)])
    result = zfnf.Minuit().minimize(nll)
    row = zfnf.FitSummary.of(result).parameters
    assert row.loc["x", "measured"] == pytest.approx((0.5 / 0.04 + 1.1 / 0.16) / (1 / 0.04 + 1 / 0.16), abs=1e-12)
    assert row.loc["x", "value"] == pytest.approx(row.loc["x", "measured"], abs=1e-3)
    assert row.loc["jes", "measured"] == 0.0


def test_yields_variations_bands_and_binned_workspaces(measured):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    pytest.importorskip("pyhf")
    constraints, value, error = measured
    rate, mu = zfnf.nuisance("rate"), zfit.Parameter("mu", 1.0, 0.0, 5.0)
    n = zfnf.modified_yield(400.0, [mu, zfnf.lnN(rate, 1.1)])
    model = zfnf.pdf.FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), extended=n, name="all")
    nll = zfnf.loss.ExtendedUnbinnedNLL(model, {"y": np.linspace(-2, 2, 400)}, constraints=constraints(rate))
    document = zfnf.pyhf.export(nll, {"y": [-9.0, 9.0]}, poi=mu)
    (sample,) = document["channels"][0]["samples"]
    (known,) = [one for one in document["measurements"][0]["config"]["parameters"] if one["name"] == "rate"]
    (change,) = [one["data"] for one in sample["modifiers"] if one["type"] == "normsys"]
    mu.floating = False
    result = zfnf.Minuit().minimize(nll)
    result.hesse()
    sides = np.array([value - error, value, value + error])
    down, centre, up = 400.0 * 1.1**sides
    row = yield_table(nll, result).table.iloc[-1]
    assert (row["prefit"], row["prefit_error"]) == pytest.approx((centre, 0.5 * (up - down)), rel=1e-9)
    varied = vary(model, result, component_samples(model, params=result.values, n_events=100))
    found = [varied.prefit["rate"][0].sum(), varied.nominal.sum_weights, varied.prefit["rate"][1].sum()]
    assert found == pytest.approx([down, centre, up], rel=1e-9)
    ax = matplotlib.figure.Figure().subplots()
    plotting.pulls(result, ax=ax)
    bands = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches]
    expected = [(value - k * error, value + k * error) for k in (2, 1)]
    np.testing.assert_allclose(bands, expected, atol=1e-12)
    assert sample["data"][0] == pytest.approx(centre, rel=1e-6)
    assert (known["auxdata"], change["lo"], change["hi"]) == (
        [0.0],
        pytest.approx(down / centre),
        pytest.approx(up / centre),
    )


def test_correlated_measurements_know_what_is_fixed():
    first, second = zfit.Parameter("first", 0.0, -9, 9), zfit.Parameter("second", 1.5, -9, 9)
    together = zfit.constraint.GaussianConstraint([first, second], [0.2, 0.5], cov=[[1.0, 0.8], [0.8, 1.0]])
    obs = zfit.Space("x", -30.0, 30.0)
    nll = zfnf.loss.UnbinnedNLL(
        [zfit.pdf.Gauss(one, 1.0, obs=obs) for one in (first, second)],
        [{"x": [0.1]}, {"x": [0.2]}],
        constraints=together,
    )
    assert list(measured_values(nll).values()) == pytest.approx([0.2, 0.5])
    np.testing.assert_allclose(measured_covariance(nll, [second, first]), [[1.0, 0.8], [0.8, 1.0]], rtol=1e-12)
    second.floating = False
    assert measured_values(nll) == {first: pytest.approx(0.2 + 0.8 * (1.5 - 0.5))}
    assert known_before(nll)[first].error == pytest.approx(0.6)


def test_a_log_normal_measurement_is_where_it_is_least():
    factor, obs = zfit.Parameter("factor", 1.5, 0.1, 9.0), zfit.Space("x", -30.0, 30.0)
    constraint = zfit.constraint.LogNormalConstraint([factor], [0.0], [0.3])
    nll = zfnf.loss.UnbinnedNLL(zfit.pdf.Gauss(factor, 1.0, obs=obs), {"x": [1.0]}, constraints=constraint)
    least = zfnf.loss.UnbinnedNLL(zfit.pdf.Gauss(0.0, 1.0, obs=obs), {"x": [1.0]}, constraints=constraint)
    found = zfnf.Minuit().minimize(least).params[factor]["value"]
    assert measured_values(nll) == {factor: pytest.approx(np.exp(-0.09))}
    assert found == pytest.approx(np.exp(-0.09), rel=1e-3)

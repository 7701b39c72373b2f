"""Influence of single events on a fit, against fits without them."""

from __future__ import annotations

import warnings

import zfit
import numpy as np
import pytest
from analytic import GaussianDeformation, GaussianFlow

import zfit_fnf as zfnf
from zfit_fnf import influence

N = 2000


def likelihood(events, *, log_scale=0.0, shift=0.0, name="y", nu=None):
    """Events of a density of width one, which a parameter without constraint stretches or shifts."""
    nu = zfit.Parameter("nu", 0.0, -20, 20, stepsize=0.1) if nu is None else nu
    deformation = GaussianDeformation(GaussianFlow([0.0], [1.0], obs=[name]), {"nu": ((log_scale, shift), (0.0, 0.0))})
    deformation.windows = {"nu": (-50.0, 50.0)}
    return nu, zfnf.loss.UnbinnedNLL(zfnf.pdf.FNFPDF(deformation, {"nu": nu}), {name: events})


def normal(seed, n=N):
    return np.random.default_rng(seed).normal(size=n)


def fit(nll):
    result = zfnf.Minuit().minimize(nll)
    result.hesse()
    return result


def test_influence_is_what_a_fit_without_the_event_changes():
    events = np.append(normal(1), 4.0)
    nu, nll = likelihood(events, log_scale=0.1)
    result = fit(nll)
    table = influence.of_events(nll, result, n=3)
    assert table.loc[0, "row"] == N
    assert table.loc[0, "y"] == 4.0
    other, nll = likelihood(events[:-1], log_scale=0.1)
    change = result.params[nu]["value"] - fit(nll).params[other]["value"]
    error = result.params[nu]["hesse"]["error"]
    # To first order: one event of 2000 with sixteen times the mean square.
    assert table.loc[0, "nu"] == pytest.approx(change / error, rel=0.02)
    assert table["nu"].abs().is_monotonic_decreasing


def test_one_event_far_from_all_simulation_is_told():
    _, nll = likelihood(np.append(normal(2), 30.0), log_scale=0.1)
    with pytest.warns(
        UserWarning, match=r"an event lies more than 10 widths .* moves 'nu' by [0-9.]+ of its error .*y 30"
    ):
        result = zfnf.Minuit().minimize(nll)
    table = result.info["far_events"]
    assert list(table["row"]) == [N]
    assert table.loc[0, "distance"] == pytest.approx(30.0)
    # At the minimum, -0.1 (T(y)^2 - 1) times its error.
    assert table.loc[0, "nu"] < -5


def test_ten_events_that_move_a_fit_together_are_told():
    """Each moves the shift by 0.27 of its error, in one direction."""
    _, nll = likelihood(np.append(normal(3), np.full(10, 12.0)), shift=0.1)
    with pytest.warns(UserWarning, match="10 events lie more than 10 widths"):
        zfnf.Minuit().minimize(nll)


def test_the_channel_of_a_far_event_is_named():
    nu, first = likelihood(normal(4), log_scale=0.1)
    _, second = likelihood(np.append(normal(5), 40.0), log_scale=0.1, name="z", nu=nu)
    both = first + second
    with pytest.warns(UserWarning, match="z 40"):
        result = zfnf.Minuit().minimize(both)
    assert list(result.info["far_events"]["channel"]) == [1]


def test_an_event_that_another_component_describes_is_not_far():
    flow = GaussianFlow([0.0], [0.5], obs=["y0"])
    n = zfit.Parameter("n", 100.0, 0, 1000)
    wide = zfit.pdf.Uniform(-50.0, 50.0, obs=zfit.Space("y0", -50, 50), extended=100.0)
    narrow = zfnf.pdf.FlowPDF(flow, obs=zfit.Space("y0", -50, 50), extended=n)
    model = zfnf.pdf.SumPDF([narrow, wide])
    events = np.append(0.5 * normal(6, 100), np.linspace(-49, 49, 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = zfnf.Minuit().minimize(zfnf.loss.ExtendedUnbinnedNLL(model, {"y0": events}))
    assert result.info["far_events"].empty


def test_ordinary_data_are_not_told_of():
    """Fifty data sets, also small ones: beyond ten standard deviations there is no event of a Gaussian."""
    nu, nll = likelihood(normal(7, 20), log_scale=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for seed in range(50):
            nll.data[0] = zfit.Data.from_numpy(nll.model[0].space, normal(seed, 20)[:, None], name="toy")
            nu.set_value(0.0)
            assert zfnf.Minuit().minimize(nll).valid


def test_far_events_without_influence_are_not_told_of():
    """A yield, about which one event among thousands says little."""
    n = zfit.Parameter("n", float(N), 0, 1e5)
    pdf = zfnf.pdf.FlowPDF(GaussianFlow([0.0], [1.0], obs=["y"]), extended=n)
    nll = zfnf.loss.ExtendedUnbinnedNLL(pdf, {"y": np.append(normal(8), 30.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = zfnf.Minuit().minimize(nll)
    assert len(result.info["far_events"]) == 1
    # One event of 2001.
    assert result.info["far_events"].loc[0, "n"] == pytest.approx(1 / np.sqrt(N + 1), rel=1e-3)


def test_mistakes_are_named():
    _, nll = likelihood(normal(9, 50), log_scale=0.1)
    result = fit(nll)
    with pytest.raises(ValueError, match=r"n= \(the number of events\) must be at least 1, got 0"):
        influence.of_events(nll, result, n=0)
    with pytest.raises(TypeError, match=r"influences are known for likelihoods of zfit_fnf\.loss"):
        influence.of_events(nll.model[0], result)


def test_a_parameter_may_be_called_like_an_observable():
    """The events with the largest masses took the place of those with the largest influence on the mass."""
    events = np.append(normal(6), 4.0)
    tables = []
    for name in ("nu", "y", "row"):
        nu = zfit.Parameter(name, 0.0, -20, 20, stepsize=0.1)
        _, nll = likelihood(events, shift=0.1, nu=nu)
        tables.append(influence.of_events(nll, fit(nll), n=5))
    plain, like_observable, like_row = tables
    for table, name in ((like_observable, "y (parameter)"), (like_row, "row (parameter)")):
        np.testing.assert_array_equal(table[["row", "y"]], plain[["row", "y"]])
        np.testing.assert_allclose(table[name], plain["nu"], rtol=1e-6)
    nu = zfit.Parameter("y", 0.0, -20, 20, stepsize=0.1)
    _, nll = likelihood(np.append(normal(2), 30.0), log_scale=0.1, nu=nu)
    with pytest.warns(UserWarning, match=r"moves 'y \(parameter\)' by [0-9]\.[0-9]* of its error .*y 30: -"):
        fit(nll)
    _, nll = likelihood(normal(7, 20), shift=0.1, name="channel")
    assert list(influence.of_events(nll, fit(nll)).columns) == [
        "channel",
        "row",
        "channel (observable)",
        "distance",
        "nu",
    ]

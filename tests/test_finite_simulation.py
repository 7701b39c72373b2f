"""What a fit says of the simulation behind its densities."""

from __future__ import annotations

import warnings

import zfit
import numpy as np
import pytest
from untrained import deformed, smooth_flow

import zfit_fnf
from zfit_fnf import finite_simulation, toys
from zfit_fnf.densities.history import History
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.pdf import FlowPDF, SumPDF


@pytest.fixture
def flow():
    flow = smooth_flow(["y"], seed=3)
    flow.history = History("flow", n_events=900, effective_size=800.0)
    return flow


def likelihood(flow, n_signal, n_background=0.0, weights=None):
    """A learned signal over a flat background, with as many events as expected."""
    mu = zfit.Parameter("mu", 1.0, 0, 5)
    signal = FlowPDF(flow, name="signal", extended=zfit_fnf.modified_yield(n_signal, [mu]))
    model = signal
    if n_background:
        model = SumPDF([signal, zfit.pdf.Uniform(-8, 8, obs=signal.space, extended=n_background)])
    y = np.random.default_rng(0).uniform(-2, 2, round(n_signal + n_background))
    return ExtendedUnbinnedNLL(model, {"y": y}, weights=weights)


@pytest.mark.parametrize(
    ("n_signal", "n_background", "told"),
    [(800, 0, "40"), (160, 0, None), (180, 0, "10"), (160, 5000, None), (400, 400, "20"), (3200, 0, "100")],
)
def test_errors_that_should_be_a_tenth_larger_are_told(flow, n_signal, n_background, told):
    """A fit of ``n`` signal events has an error that is ``sqrt(1 + n / 800)`` times as large in truth."""
    nll = likelihood(flow, n_signal, n_background)
    text = finite_simulation.warning(nll)
    if told is None:
        assert text == ""
    else:
        assert f"should be some {told} % larger: 'signal' was learned from {800 / n_signal:.1g} simulated" in text


@pytest.mark.parametrize(
    ("value", "size", "told"),
    [(0.0, 400, None), (1.0, 400, "100"), (0.1, 400, None), (1.0, 20_000, None), (-1.5, 1400, "100")],
)
def test_variations_that_are_smaller_than_the_nominal_sample_are_told(flow, value, size, told):
    """Of 600 events at one, learned from 20 000 and two variations of 200: the error is twice as large, by 600 / 200."""
    jes = zfit_fnf.nuisance("jes")
    flow.history = History("flow", n_events=20_000, effective_size=20_000.0)
    signal = deformed(flow, [jes], name="signal", extended=600.0)
    signal.deformation.history["jes"] = History("jes", n_events=size, effective_size=float(size))
    nll = ExtendedUnbinnedNLL(signal, {"y": np.random.default_rng(0).uniform(-2, 2, 600)})
    jes.set_value(value)
    text = finite_simulation.warning(nll)
    if told is None:
        assert text == ""
    else:
        assert (
            f"should be some {told} % larger: the response of 'signal' to 'jes' was learned from 0.3 simulated" in text
        )


def test_a_fit_tells_and_a_toy_does_not(flow):
    nll = likelihood(flow, 400)
    with pytest.warns(UserWarning, match="errors do not contain how the simulation fluctuates"):
        zfit_fnf.Minuit().minimize(nll)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        zfit_fnf.Minuit().minimize(toys.toy(nll, seed=1).loss(nll))


def test_weights_count_as_so_many_events(flow):
    """Half of 400 events with no weight to speak of: they count as 200."""
    weights = np.where(np.arange(400) % 2, 1.0, 1e-9)
    assert "4 simulated events" in finite_simulation.warning(likelihood(flow, 400, weights=weights))


def test_nothing_is_known_of_other_densities(flow):
    flow.history = None
    assert finite_simulation.warning(likelihood(flow, 800)) == ""
    gauss = zfit.pdf.Gauss(0.0, 1.0, obs=zfit.Space("y", -8, 8))
    assert finite_simulation.warning(UnbinnedNLL(gauss, {"y": np.zeros(3)})) == ""
    data = zfit.Data(np.zeros((3, 1)), obs=gauss.space)
    assert finite_simulation.warning(zfit.loss.UnbinnedNLL(gauss, data)) == ""

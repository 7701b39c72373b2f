"""Conditions of a density that are the same for all events: numbers, or parameters such as a mass."""

from __future__ import annotations

import warnings

import zfit
import numpy as np
import pytest
from untrained import deformed, smooth_flow

import zfit_fnf
from zfit_fnf.densities.history import History
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF, ConditionalProductPDF, FlowPDF, SumPDF

X = np.linspace(-1.5, 1.5, 7)


@pytest.fixture(scope="module")
def flow():
    return smooth_flow(["y"], ["m"], seed=3)


def at(pdf, mass):
    """The density with the condition as an observable."""
    return np.asarray(pdf.pdf(np.stack([X, np.full(7, mass)], axis=1)))


def test_a_number_is_the_condition_of_all_events(flow):
    conditional, fixed = FlowPDF(flow, obs=["y", "m"]), FlowPDF(flow, given={"m": 0.4})
    assert fixed.obs == ("y",)
    np.testing.assert_allclose(fixed.pdf(X[:, None]), at(conditional, 0.4), rtol=1e-12)
    assert np.ptp([float(FlowPDF(flow, given={"m": m}).pdf([[0.3]])[0]) for m in (-1.0, 1.0)]) > 1e-3


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_parameter_moves_the_density_and_has_exact_derivatives(flow, accelerated):
    mass, jes, mu = zfit.Parameter("m_X", 0.4, -2, 2), nuisance("jes"), zfit.Parameter("mu", 1.0, 0, 5)
    response = deformed(flow, [jes], obs=["y", "m"]).deformation
    signal = FNFPDF(response, {"jes": jes}, given={"m": mass}, extended=zfit_fnf.modified_yield(30.0, [mu]))
    flat = zfit.pdf.Uniform(-8, 8, obs=signal.space, extended=20.0)
    model = SumPDF([signal, flat])
    nll = ExtendedUnbinnedNLL(model, {"y": X})
    nll = zfit_fnf.accelerate(nll) if accelerated else nll
    conditional = FNFPDF(response, {"jes": jes}, obs=["y", "m"])
    params = [mass, jes, mu]

    def by_hand(values):
        zfit.param.set_values(params, values)
        total = 30.0 * values[2]
        density = total * at(conditional, values[0]) + 20.0 / 16.0
        return total + 20.0 - np.log(density).sum() + 0.5 * values[1] ** 2

    point, steps = np.array([-0.7, 0.6, 1.3]), 1e-4 * np.eye(3)
    zfit.param.set_values(params, [0.4, 0.0, 1.0])
    before = float(nll.value(full=True)) - by_hand([0.4, 0.0, 1.0])
    zfit.param.set_values(params, point)
    gradient = np.asarray(nll.gradient(params))
    assert float(nll.value(full=True)) - by_hand(point) == pytest.approx(before, abs=1e-9)
    numerical = [(by_hand(point + step) - by_hand(point - step)) / 2e-4 for step in steps]
    np.testing.assert_allclose(gradient, numerical, rtol=1e-5, atol=1e-5)
    assert len(signal.sample(5).value()) == 5


def test_what_is_no_condition_is_refused(flow):
    with pytest.raises(ValueError, match=r"names \['mass'\]"):
        FlowPDF(flow, given={"mass": 1.0})
    with pytest.raises(TypeError, match="given= of 'FlowPDF' maps"):
        FlowPDF(flow, given=[1.0])
    with pytest.raises(ValueError, match="is not normalised over a part"):
        FlowPDF(flow, obs=zfit.Space("y", -1, 1), given={"m": 1.0})


@pytest.mark.parametrize("accelerated", [False, True])
def test_conditions_beyond_the_training_are_told(accelerated):
    """A mass of 500 was fitted as 516 +- 1 by a density that had been trained from 100 to 300, without a word."""
    own = smooth_flow(["y"], ["m"], seed=3)
    own.history = History("p(y)", conditions={"m": [-1.0, 1.0]})
    mass, jes = zfit.Parameter("m_X", 0.4, -5, 5), nuisance("jes")
    response = deformed(own, [jes], obs=["y", "m"]).deformation
    signal = FNFPDF(response, {"jes": jes}, given={"m": mass}, name="signal")
    background = FlowPDF(own, given={"m": 1.5}, name="background")
    nll = UnbinnedNLL(signal, {"y": X})
    nll = zfit_fnf.accelerate(nll) if accelerated else nll
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for inside in (-1.0, 0.3, 1.01):
            mass.set_value(inside)
            nll.value()
    mass.set_value(1.1)
    with pytest.warns(UserWarning, match=r"condition 'm' of 'signal' is at 1.1 outside of the range \(-1.02, 1.02\)"):
        nll.value()
    with pytest.warns(UserWarning, match="condition 'm' of 'background' is at 1.5"):
        UnbinnedNLL(background, {"y": X}).value()


def test_events_with_conditions_beyond_the_training_are_told():
    """Where the model is conditional: a value that no simulated event has, such as a third jet, is told."""
    own = smooth_flow(["y"], ["m"], seed=3)
    own.history = History("p(y)", conditions={"m": [-1.0, 1.0]})
    density = FlowPDF(own, obs=["y", "m"], name="signal")
    inside = {"y": np.zeros(300), "m": np.linspace(-1.005, 1.005, 300)}
    few, many = ({**inside, "m": np.where(np.arange(300) < n, 2.0, inside["m"])} for n in (2, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for data in (inside, few):
            UnbinnedNLL(density, data).value()
        # A density of the condition itself says how unlikely such events are.
        UnbinnedNLL(ConditionalProductPDF([FlowPDF(own), FlowPDF(smooth_flow(["m"]))]), many).value()
    nll = UnbinnedNLL(density, many)
    with pytest.warns(UserWarning, match=r"condition 'm' of 'signal' of 2 % of the events is outside of the range"):
        nll.value()

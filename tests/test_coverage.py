"""Coverage of intervals: for toys of the model, and for toys of simulated events."""

from __future__ import annotations

import json

import zfit
import numpy as np
import pandas as pd
import pytest
from executors import Here
from likelihoods import Measurement, counting, search

from zfit_fnf import Simulation, Variation
from zfit_fnf.minimize import Minuit
from zfit_fnf.state import preserved
from zfit_fnf.toys import coverage, fit_toys, fits_of, simulated_toys, toy


@pytest.fixture(scope="module")
def bump() -> Measurement:
    return search(1, 60.0, 600.0, seed=5)


def truth_of(bump: Measurement) -> dict[zfit.Parameter, float]:
    return dict(zip(bump.parameters, (1.5, 0.3, -0.4), strict=True))


def test_intervals_are_those_of_the_fits(bump):
    """HESSE as in `fit_toys`; MINOS contains the truth where the ends that Minuit finds enclose it."""
    truth, before = truth_of(bump), bump.state()
    found = coverage(bump.nll, 8, params=truth, seed=3, progress=False)
    assert bump.state() == before
    fits = fit_toys(bump.nll, 8, params=truth, seed=3, progress=False)
    names = [one.name for one in bump.parameters]
    hesse = found.table["covered"].unstack().loc[names, "hesse"]
    np.testing.assert_allclose(hesse, fits.coverage()["covered"].loc[names])
    toys = (toy(bump.nll, params=truth, seed=(3, index)) for index in range(8))
    inside = []
    with preserved(bump.nll):
        for _, result in fits_of(bump.nll, toys, Minuit()):
            value, sides = result.params[bump.mu]["value"], result.errors([bump.mu])[0][bump.mu]
            inside.append(value + sides["lower"] <= truth[bump.mu] <= value + sides["upper"])
    assert found.table.loc[("mu", "minos"), "covered"] == pytest.approx(np.mean(inside))
    assert found.table.loc[("mu", "hesse"), "error"] == pytest.approx(np.sqrt(0.6827 * 0.3173 / 8), rel=1e-3)
    assert "coverage of 1 sigma intervals in 8 toys" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["truth"]["mu"] == 1.5


@pytest.mark.filterwarnings("ignore:nuisance 'shape' is at:UserWarning")
def test_events_of_simulated_toys_are_those_of_the_point(bump):
    """Samples of other places than the densities': a fit cannot cover what its model does not know."""
    rng = np.random.default_rng(1)
    nominal, up = ({"y0": rng.normal(mean, 1.5, 5000)} for mean in (0.0, 0.8))
    background = bump.nll.model[0].pdfs[1]
    simulations = {background.name: Simulation(nominal, [Variation(up, at={"shape": 1.0})])}
    _, shape, rate = bump.parameters
    at = {bump.mu: 0.0, shape: 1.0, rate: 0.0}
    experiments = list(simulated_toys(bump.nll, 3, simulations, params=at, seed=2))
    for one in experiments:
        x = np.asarray(one.data[0].value())[:, 0]
        assert np.isin(x, up["y0"]).all()
        assert abs(len(x) - 600) < 4 * np.sqrt(600)
    assert len({float(one.observed[shape.observed]) for one in experiments}) == 3
    again = next(simulated_toys(bump.nll, 1, simulations, params=at, seed=2))
    np.testing.assert_array_equal(np.asarray(again.data[0].value()), np.asarray(experiments[0].data[0].value()))
    biased = coverage(
        bump.nll, 4, of=["mu"], params=at, simulations=simulations, methods=["hesse"], seed=1, progress=False
    )
    assert biased.table["pull_mean"].iloc[0] > 3.0
    assert biased.table["covered"].iloc[0] == 0.0


def test_mistakes_are_named(bump):
    y = {"y0": np.linspace(-1, 1, 300)}
    background = bump.nll.model[0].pdfs[1].name
    _, shape, _ = bump.parameters
    cases = [
        ({"methods": ["minuit"]}, ValueError, "methods= are some of"),
        ({"methods": "hesse"}, ValueError, "methods= are some of"),
        ({"of": ["none"]}, ValueError, "not a parameter of the likelihood"),
        ({"simulations": [y]}, TypeError, "simulations= maps names of processes"),
        ({"simulations": {"none": Simulation(y)}}, ValueError, r"names \['none'\]"),
        (
            {"simulations": {background: Simulation(y)}, "params": {shape: 0.5}},
            ValueError,
            "not simulated at shape = 0.5",
        ),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            coverage(bump.nll, 2, progress=False, **arguments)


def test_toys_without_an_interval_are_told():
    """A count of background alone: where it is too low the fit ends at the limit, and has no HESSE error."""
    counted = counting([110], 10.0, 100.0)
    with pytest.warns(UserWarning, match=r"\d+ of 20 toys have no hesse interval of mu: their fits failed, or ended"):
        found = coverage(counted.nll, 20, params={counted.mu: 0.0}, seed=1, progress=False)
    low = int(found.table["n"]["mu", "hesse"])
    assert 4 < low < 20
    assert found.table["n"]["mu", "minos"] == 20
    assert f"{20 - low} of 20 toys have no hesse interval of mu" in str(found)
    assert "no minos interval" not in str(found)


@pytest.mark.slow
def test_intervals_cover(bump):
    """The acceptance check: 68.3 +- 5 % of 300 toys, 1.9 errors of that number; the seed is fixed."""
    table = coverage(bump.nll, 300, params=truth_of(bump), seed=1, progress=False).table
    assert (table["n"] > 295).all()
    assert (abs(table["covered"] - 0.683) < 0.05).all()


def test_an_executor_has_the_same_intervals(bump):
    here, there = (coverage(bump.nll, 3, seed=4, executor=one, progress=False) for one in (None, Here()))
    pd.testing.assert_frame_equal(there.table, here.table, atol=1e-3)  # to the tolerance of fits
    with pytest.raises(ValueError, match="not sent to other processes"):
        coverage(bump.nll, 3, executor=Here(), minimizer=Minuit())

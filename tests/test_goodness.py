"""Goodness of fit by toys: p-values, planted faults, and where they are."""

from __future__ import annotations

import json

import zfit
import numpy as np
import pytest
from likelihoods import Measurement, location, search

from zfit_fnf.diagnostics import goodness_of_fit
from zfit_fnf.diagnostics.goodness import _p_values
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.minimize import Minuit

N_TOYS = 7


@pytest.fixture(scope="module")
def bump() -> Measurement:
    return search(2, 80.0, 920.0, seed=4)


def judged(bump: Measurement, data: np.ndarray):
    nll = bump.nll.create_new(data=[zfit.Data.from_numpy(obs=bump.nll.model[0].norm, array=data)])
    zfit.param.set_values(bump.parameters, [1.0, 0.0, 0.0])
    return goodness_of_fit(nll, Minuit().minimize(nll), n_toys=N_TOYS, seed=1, progress=False)


def test_events_of_the_model_are_not_refused(bump):
    """With seven toys a p-value is one of 1/8, 2/8, ...; the seed is fixed."""
    before = bump.state()
    result = Minuit().minimize(bump.nll)
    report = goodness_of_fit(bump.nll, result, n_toys=N_TOYS, seed=1, progress=False)
    assert [state[1] for state in bump.state()] == [state[1] for state in before]
    assert report.p_value > 1 / 8
    assert report.tests["test"].tolist() == ["classifier", "saturated", "saturated", "events", "constraints"]
    assert report.n_toys == N_TOYS
    # 2 x 20 bins of about 50 events, whose numbers a fit has right in all.
    assert report.bins.groupby("of")["observed"].sum().tolist() == [len(bump.nll.data[0].value())] * 2
    assert report.bins["expected"].min() > 20.0
    assert report.bins["pull"].std() < 1.5
    assert report.regions["pull"].abs().max() < 4.0
    assert report.regions["expected"].sum() == pytest.approx(report.regions["observed"].sum(), rel=0.15)
    assert "by 7 toys" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["n_toys"] == N_TOYS


def test_a_narrow_bump_is_found_where_it_is(bump):
    """Four per cent of the events at (-2, 2), where neither process is."""
    x = np.asarray(bump.nll.data[0].value()).copy()
    x[:40] = np.random.default_rng(2).normal([-2.0, 2.0], 0.1, (40, 2))
    report = judged(bump, x)
    assert report.p_value < 0.5
    assert report.tests.set_index("test").loc["classifier", "p_value"] == pytest.approx(1 / (N_TOYS + 1))
    worst = report.regions.iloc[0]
    assert worst["pull"] > 4.0
    assert worst["y0 from"] < -2.0 < worst["y0 to"]
    assert worst["y1 from"] < 2.0 < worst["y1 to"]


def test_the_p_value_of_all_tests_is_that_of_the_smallest():
    """Three rows of two tests: the first row is extreme in one of them, the last one in the other."""
    p_values, together = _p_values(np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    np.testing.assert_allclose(p_values, [1 / 3, 1.0])
    assert together == pytest.approx(2 / 3)


def test_p_values_are_flat():
    """Of 1000 exchangeable tables the p-value of all tests is at most 0.1 in a tenth, known to 0.0095; four of these."""
    rng = np.random.default_rng(5)
    found = [_p_values(rng.normal(size=(40, 4)) @ np.triu(np.ones((4, 4))))[1] for _ in range(1000)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.038)


def test_mistakes_are_named(bump):
    result = Minuit().minimize(bump.nll)
    model = bump.nll.model[0]
    weighted = UnbinnedNLL(model, {"y0": np.zeros(5), "y1": np.zeros(5)}, weights=np.full(5, 0.5))
    cases = [
        (lambda: goodness_of_fit(bump.nll, None), TypeError, "is the result of a fit"),
        (lambda: goodness_of_fit(result, bump.nll), TypeError, "not its result"),
        (lambda: goodness_of_fit(weighted, result), ValueError, "are weighted"),
        (lambda: goodness_of_fit(bump.nll, result, n_toys=0), ValueError, "n_toys= must be at least 1"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()


def test_how_far_a_fit_converged_is_no_test():
    """The minimiser of zfit stops a hundredth of an error before ours, which fits the toys: all right models were refused."""
    n = zfit.Parameter("n_goodness", 100.0, 0, 5000)
    model = zfit.pdf.Gauss(0.5, 1.2, obs=zfit.Space("m", limits=(0.0, 3.0)), extended=n)
    events = np.random.default_rng(1).uniform(0.0, 3.0, 300)
    nll = ExtendedUnbinnedNLL(model, {"m": events})
    result = Minuit().minimize(nll)
    result.params[n]["value"] += 0.3  # 0.017 of its error
    tests = goodness_of_fit(nll, result, n_toys=9, progress=False).tests.set_index("test")
    assert tests.loc["events", ["statistic", "p_value"]].tolist() == [0.0, 1.0]


def test_few_events_are_compared():
    """Three are expected: nine of them or more happen once in 260 times. Trees cannot be grown, which was an error of theirs."""
    _, model = location(extended=3.0)
    for n_events, p_value in ((3, 1.0), (9, 1 / 20)):
        nll = ExtendedUnbinnedNLL(model, {"y": np.linspace(-1.0, 1.2, n_events)})
        report = goodness_of_fit(nll, Minuit().minimize(nll), n_toys=19, seed=1, progress=False)
        assert report.n_toys == 19  # also those without any event
        tests = report.tests.set_index("test")
        assert tests.loc["events", "p_value"] == pytest.approx(p_value)
        assert tests.loc["classifier", ["statistic", "p_value"]].tolist() == [0.0, 1.0]
        assert report.regions["expected"].sum() == pytest.approx(1.5, abs=0.2)  # in one half of the data
    nll = ExtendedUnbinnedNLL(model, {"y": [0.3]})
    result = Minuit().minimize(nll)
    with pytest.raises(ValueError, match=r"have 1 event\(s\)"):
        goodness_of_fit(nll, result, progress=False)

"""Ensembles of bootstrap replicas and uncertainties of numbers that are computed with a map.

Trainings are a few steps long. What is tested here holds for any map, also for one that is not the best.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import zfit
import fitted_maps
import numpy as np
import pandas as pd
import pytest
from fitted_maps import at

from zfit_fnf.densities.transfer import Transfer
from zfit_fnf.doi import (
    Uncertainty,
    ensemble,
    predicted,
    scenarios,
    unfolded,
    variations,
)
from zfit_fnf.doi.check import COLUMNS
from zfit_fnf.doi.ensemble import rebased_loss
from zfit_fnf.doi.variations import Eigenvariations
from zfit_fnf.minimize import Minuit
from zfit_fnf.samples import Sample

data, fitted, profiled = fitted_maps.data, fitted_maps.fitted, fitted_maps.profiled  # fixtures
# --- the ensemble ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def combined(profiled):
    return ensemble(profiled, progress=False)


def test_rebased_average(combined, profiled):
    """Each replica counts with its likelihood relative to its own maximum."""
    nll = combined.nll
    for value in (-0.3, 0.2):
        replicas = []
        for index in range(2):
            with nll.only(index):
                # The average of one is its own likelihood above its own minimum.
                replicas.append(at(nll, value))
        assert at(nll, value) == pytest.approx(-np.log(np.mean(np.exp(-np.array(replicas)))), abs=1e-8)
    minimum = list(combined.values.values())
    with zfit.param.set_values(list(profiled.parameters.values()), minimum):
        shares = nll.shares()
    assert shares.sum() == pytest.approx(1.0)
    assert combined.k_eff == pytest.approx(1 / np.sum(shares**2), rel=1e-6)
    assert 1.0 <= combined.k_eff <= 2.0
    assert combined.spread["jes"] == pytest.approx(np.std(combined.minima["jes"], ddof=1))


def test_members_are_rebased_to_their_minima(combined, profiled):
    nll = combined.nll
    for index, row in combined.minima.iterrows():
        with nll.only(index):
            assert at(nll, row["jes"]) == pytest.approx(0.0, abs=1e-6)
            assert at(nll, row["jes"] + 0.05) > 0 < at(nll, row["jes"] - 0.05)
    fresh = rebased_loss(profiled)
    assert not np.any(fresh.lowest)


def test_derivatives_of_the_rebased_average(combined):
    nll, step = combined.nll, 1e-4
    (jes,) = nll.get_params()
    with zfit.param.set_values([jes], [0.1]):
        gradient, hessian = float(nll.gradient([jes])[0]), float(nll.hessian([jes])[0, 0])
    values = [at(nll, 0.1 + shift) for shift in (-step, 0.0, step)]
    assert gradient == pytest.approx((values[2] - values[0]) / (2 * step), rel=1e-4, abs=1e-4)
    assert hessian == pytest.approx((values[2] - 2 * values[1] + values[0]) / step**2, rel=1e-2)
    assert combined.errors["jes"] > 0


def test_ensembles_of_one_have_no_spread(profiled):
    alone = replace(profiled, replicas=profiled.replicas[:1])
    with pytest.raises(ValueError, match="an ensemble of 1 has no spread: make replicas first"):
        ensemble(alone)


# --- uncertainties -----------------------------------------------------------------------------------------------------


def test_uncertainties_add_up():
    """Of a linear function of parameters and replicas, they are those of error propagation."""
    rng = np.random.default_rng(1)
    slopes, replicas = rng.normal(size=(2, 3)), rng.normal(size=(50, 3))
    shifts = np.stack([-slopes, slopes], axis=1)
    band = Uncertainty(np.zeros(3), replicas, shifts)
    np.testing.assert_allclose(band.systematic, np.sqrt(np.sum(slopes**2, axis=0)))
    np.testing.assert_allclose(band.statistical, np.std(replicas, axis=0, ddof=1))
    expected = slopes.T @ slopes + np.cov(replicas.T)
    np.testing.assert_allclose(band.covariance(), expected)
    np.testing.assert_allclose(band.total**2, np.diag(expected))
    alone = Uncertainty(np.zeros(3), replicas[:1], shifts)
    assert np.isnan(alone.statistical).all()
    assert np.isnan(alone.total).all()  # not the systematic part alone
    assert "only the systematic part is known" in str(alone)
    assert set(alone.to_dict()) == {"value", "systematic", "edges", "covariance"}
    with pytest.raises(ValueError, match="there is no statistical covariance: make some with bootstrap"):
        alone.covariance()


def test_covariances_by_source():
    """Of a linear function of correlated parameters."""
    covariance, slopes = np.array([[0.04, 0.03], [0.03, 0.09]]), np.array([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]])
    eigen = Eigenvariations.of(Fitted(covariance))
    up = (eigen.directions * eigen.deviations).T @ slopes
    band = Uncertainty(np.zeros(3), np.zeros((0, 3)), np.stack([-up, up], axis=1), eigen, {"y": np.arange(4.0)})
    np.testing.assert_allclose(band.covariance("systematic"), slopes.T @ covariance @ slopes)
    np.testing.assert_allclose(band.covariance(0) + band.covariance(1), band.covariance("systematic"))
    of_a = covariance[:, :1] @ covariance[:1] / covariance[0, 0]  # what knowing the first would take away
    np.testing.assert_allclose(band.covariance("a"), slopes.T @ of_a @ slopes)
    assert list(band.to_dataframe()) == ["y low", "y high", "value", "statistical", "systematic", "total"]
    assert set(band.to_dict()["covariance"]) == {"systematic", "eigenvector 0", "eigenvector 1", "a", "b"}
    with pytest.raises(ValueError, match=r"one of \['a', 'b'\] or a number below 2; got 'c'"):
        band.covariance("c")


def test_chi2_of_a_spectrum(tmp_path):
    rng = np.random.default_rng(3)
    band = Uncertainty(np.ones(3), rng.normal(size=(40, 3)), np.zeros((0, 2, 3)), None, {"y": np.arange(4.0)})
    difference = np.array([0.1, -0.2, 0.3])
    expected = difference @ np.linalg.inv(39 / 35 * np.cov(band.replicas.T)) @ difference
    assert band.chi2(1.0 - difference) == pytest.approx(expected)
    band.to_csv(tmp_path / "spectrum.csv")
    assert pd.read_csv(tmp_path / "spectrum.csv")["y high"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("systematic", [0.0, 100.0])
def test_chi2_by_few_replicas_is_as_large_as_there_are_numbers(systematic):
    """On average over 300 experiments, which is known to 3 %: by 50 replicas it was 35 for 20 numbers."""
    rng, found = np.random.default_rng(5), []
    up = np.diag(np.repeat([systematic, 0.1], 10))  # of the first ten, replicas may say nothing
    for _ in range(300):
        value, replicas = up @ rng.normal(size=20) + rng.normal(size=20), rng.normal(size=(50, 20))
        found.append(Uncertainty(value, replicas, np.stack([-up, up], axis=1)).chi2(np.zeros(20)))
    assert np.mean(found) == pytest.approx(20.0, rel=0.12)


def test_chi2_of_too_few_replicas_is_told():
    rng = np.random.default_rng(6)
    few, none = (Uncertainty(np.ones(20), rng.normal(size=(n, 20)), np.zeros((0, 2, 20))) for n in (35, 15))
    with pytest.warns(UserWarning, match="a chi-square of 20 numbers means little with the covariance of 35 replicas"):
        assert np.isfinite(few.chi2(np.zeros(20)))
    with pytest.warns(UserWarning, match="has no meaning with the covariance of 15 replicas"):
        assert np.isnan(none.chi2(np.zeros(20)))


class Fitted:
    """A fit with a known covariance."""

    def __init__(self, covariance):
        self._covariance = np.asarray(covariance)
        params = [zfit.Parameter(name, 0.0) for name in ("a", "b")]
        self.params = {parameter: {"value": value} for parameter, value in zip(params, (0.5, -1.0), strict=True)}

    def covariance(self, params):
        assert [parameter.name for parameter in params] == ["a", "b"]
        return self._covariance


def test_eigenvariations_make_up_the_covariance_in_any_units():
    """Beside a yield known to 1000, what is known to 1e-6 was moved by four times that, or the covariance was refused."""
    rng = np.random.default_rng(0)
    factor, errors = rng.normal(size=(5, 10)), np.array([1e3, 1e-6, 1e-2, 1e2, 1e-7])
    covariance = np.cov(factor) * np.outer(errors, errors)
    fit = SimpleNamespace(params={zfit.Parameter(name, 0.0): {"value": 0.0} for name in "abcde"})
    fit.covariance = lambda params: covariance
    eigen = Eigenvariations.of(fit)
    moves = eigen.directions * eigen.deviations
    np.testing.assert_allclose(moves @ moves.T, covariance, rtol=1e-4)
    with pytest.raises(ValueError, match="not positive definite"):
        Eigenvariations.of(Fitted([[1.0, 1e-3], [1e-3, 1e-7]]))


def test_eigenvariations_make_up_the_covariance():
    covariance = np.array([[0.04, 0.01], [0.01, 0.09]])
    eigen = Eigenvariations.of(Fitted(covariance))
    scaled = eigen.directions * eigen.deviations
    np.testing.assert_allclose(scaled @ scaled.T, covariance, atol=1e-12)
    assert eigen.deviations[0] > eigen.deviations[1]
    up = eigen.moved(0, 1.0)
    np.testing.assert_allclose([up["a"] - 0.5, up["b"] + 1.0], scaled[:, 0])
    with pytest.raises(ValueError, match="not positive definite"):
        Eigenvariations.of(Fitted([[1.0, 2.0], [2.0, 1.0]]))


@pytest.fixture(scope="module")
def maps(profiled):
    nll = profiled.loss()
    result = Minuit().minimize(nll)
    return scenarios(profiled, result)


def test_scenarios_minimise_themselves(maps, profiled):
    start = {name: float(parameter.value()) for name, parameter in profiled.parameters.items()}
    again = scenarios(profiled)
    # MIGRAD from other starting points ends within a hundredth of an error.
    assert again.best.values["jes"] == pytest.approx(
        maps.best.values["jes"], abs=0.02 * maps.eigenvariations.deviations[0]
    )
    assert {name: float(parameter.value()) for name, parameter in profiled.parameters.items()} == start


def test_maps_move_with_the_parameters(maps, data):
    """An eigenvector moves the map as the amortised map says, and each replica has its own."""
    band = maps.evaluate(lambda variation: variation.to_simulation(data)["y"])
    assert band.replicas.shape == (2, len(data))
    assert band.shifts.shape == (1, 2, len(data))
    assert np.all(band.statistical > 0)
    assert maps.moved[0][1].values["jes"] - maps.best.values["jes"] == pytest.approx(maps.eigenvariations.deviations[0])
    back = maps.best.to_data(maps.best.to_simulation(data))
    np.testing.assert_allclose(back["y"], data["y"], atol=1e-7)


def test_unfolded_events_are_all_there(maps, data):
    edges = [-100.0, 0.0, 100.0]
    result = maps.evaluate(unfolded(data, {"y": edges}))
    assert result.value.sum() == pytest.approx(len(data))
    moved = maps.best.to_simulation(data)["y"]
    np.testing.assert_allclose(result.value, np.histogram(moved, edges)[0])
    # Of these events: what leaves one of two bins enters the other.
    covariance = maps.evaluate(unfolded(data, {"y": edges}, counting=False)).covariance()
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.array([[1, -1], [-1, 1]]), atol=1e-9)


def test_unfolded_numbers_of_events_scatter(maps, data):
    """With counting statistics the sum of all bins is the number of events of each replica, of the fit's events and of others."""
    replica, other = maps.replicas
    poisson = np.random.default_rng((0, 0)).poisson(1.0, len(data))
    np.testing.assert_array_equal(replica.counts(data) == 0.0, poisson == 0)
    # What they move the nuisance by is taken out: it changes which events count, and hardly their number.
    assert replica.counts(data).sum() == pytest.approx(poisson.sum(), rel=0.01)
    assert maps.moved[0][1].counts(data).mean() == pytest.approx(1.0, abs=0.01)
    assert not np.array_equal(replica.counts(data), other.counts(data))
    others = data.assign(y=data["y"] + 1e-3)
    assert not np.array_equal(replica.counts(others), replica.counts(data))  # they are independent
    # The same events are, in any order, if they are selected, as files round them, and beside others.
    for some in (data.sample(frac=1, random_state=1), data[data["x"] > 0.0], data.astype(np.float32)[::2]):
        np.testing.assert_array_equal(replica.counts(some), replica.counts(data)[some.index])
    beside = pd.concat([others[:100], data[::-1]])
    np.testing.assert_array_equal(replica.counts(beside)[100:], replica.counts(data)[::-1])
    np.testing.assert_array_equal(maps.best.counts(data), 1.0)
    for events in (data, data[:300]):
        band = maps.evaluate(unfolded(events, {"y": [-100.0, 100.0]}))
        expected = [one.counts(events).sum() for one in maps.replicas]
        np.testing.assert_allclose(band.replicas[:, 0], expected)
        assert maps.evaluate(unfolded(events, {"y": [-100.0, 100.0]}, counting=False)).statistical[0] < 1e-9


def test_events_that_are_equal_are_events_of_the_fit_as_often_as_there_are():
    there = np.random.default_rng(2).integers(0, 4, (100, 1)).astype(float)
    found = variations._places(np.concatenate([there[::-1], there[:5]]), there)
    assert sorted(found) == [*[-1] * 5, *range(100)]
    np.testing.assert_array_equal(there[found[:100]], there[::-1])


def test_weights_that_are_left_behind_are_told(maps, data):
    """Events that had weights in the fit were counted once each."""
    weighted = Sample({name: data[name].to_numpy() for name in data}, np.linspace(0.5, 2.0, len(data)))
    here = replace(maps, best=replace(maps.best, data=weighted))
    for given in (weighted, data.assign(y=data["y"] + 1e-3)):
        here.evaluate(unfolded(given, {"y": [-100.0, 100.0]}))
    with pytest.warns(UserWarning, match="400 of these events had weights in the fit, and have none here"):
        here.evaluate(unfolded(data, {"y": [-100.0, 100.0]}))


def test_predictions_reweight_the_model(maps):
    zfit.settings.set_seed(4)
    pdf = maps.best.pdf
    with zfit.param.set_values(list(maps.best.parameters.values()), list(maps.best.values.values())):
        events = pdf.sample(2000).value().numpy()
    sample = Sample(dict(zip(pdf.obs, events.T, strict=True)), None, "events")
    band = maps.evaluate(predicted(maps, sample, {"y": [-100.0, 0.0, 100.0]}))
    np.testing.assert_allclose(band.value, np.histogram(sample.columns["y"], [-100.0, 0.0, 100.0])[0])
    # The total does not change, but for what the weights of 2000 events fluctuate: they differ from one by per cent.
    assert abs(band.shifts.sum(axis=-1)).max() < 0.02 * 2000


# --- results -----------------------------------------------------------------------------------------------------------


def test_fits_stay_as_they_are(fitted, profiled, combined):
    """Profiles, ensembles and further solutions work on copies of the map of a fit."""
    before = profiled.transfer.weights_list(), profiled.transfer.centre
    at(combined.nll, 0.1)
    for array, expected in zip(profiled.transfer.weights_list(), before[0], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert profiled.transfer.centre == before[1] == pytest.approx(fitted.values)
    assert profiled.transfer.transfer is fitted.transfer
    assert fitted.problem.transfer is not fitted.transfer
    zfit.param.set_values(list(fitted.parameters.values()), list(fitted.values.values()))
    assert float(fitted.loss().value(full=False)) == pytest.approx(fitted.nll, abs=1e-6)


def test_results_are_tables_and_json(fitted, profiled, combined, maps):
    band = maps.evaluate(lambda variation: variation.to_simulation({"y": [0.1, 0.2], "x": [0.0, 1.0]})["y"])
    for result in (fitted, profiled, combined, band, maps.eigenvariations):
        assert json.loads(json.dumps(result.to_dict()))
        assert len(result.to_dataframe())
        assert str(result)
    assert fitted.to_dataframe().loc["jes", "error"] == fitted.errors["jes"]
    assert list(profiled.to_dataframe().columns) == ["jes", *COLUMNS]
    assert profiled.to_dict()["replicas"][1]["values"] == profiled.replicas[1].values
    assert ", 2 replicas" in str(profiled)
    assert "no replicas: no statistical band" in str(replace(profiled, replicas=()))
    assert "do not cover" not in str(profiled)
    each, both = Transfer(["y"], ["x"], processes=["a", "b"]), Transfer(["y", "z"], ["x"])
    for transfer, told in ((each, "of single processes do not cover"), (both, "do not cover the others")):
        assert told in str(replace(profiled, fit=replace(profiled.fit, transfer=transfer)))
    assert combined.to_dict()["minima"]["jes"] == list(combined.minima["jes"])
    np.testing.assert_array_equal(band.to_dataframe()["total"], band.total)
    with pytest.raises(TypeError, match="evaluate takes a function of a MapVariation"):
        maps.evaluate(band)

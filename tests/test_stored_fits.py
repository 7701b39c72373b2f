"""Fits of maps in files: with the same model and data they come back as they were, with others not at all."""

from __future__ import annotations

import zfit
import fitted_maps
import numpy as np
import pandas as pd
import pytest
from fitted_maps import FLOWS, model

import zfit_fnf as zfnf
from zfit_fnf import storage
from zfit_fnf.doi.ensemble import ensemble
from zfit_fnf.pickling import dumps
from zfit_fnf.samples import Sample

data, fitted, profiled = fitted_maps.data, fitted_maps.fitted, fitted_maps.profiled  # fixtures


def likelihood(nll):
    """Values of a loss at a few points."""
    params = sorted(nll.get_params(floating=True), key=lambda parameter: parameter.name)
    values = []
    for shift in (0.0, 0.1, -0.2):
        zfit.param.set_values(params, [shift] * len(params))
        values.append(float(nll.value(full=False)))
    return np.subtract(values, values[0])


def same_fit(again, before):
    assert again.values == before.values
    np.testing.assert_array_equal(again.covariance, before.covariance)
    assert (again.nll, again.rounds, again.history, again.problems) == (
        before.nll, before.rounds, before.history, before.problems,
    )  # fmt: skip
    assert again.problem.schedule == before.problem.schedule
    assert [p.name for p in again.problem.start] == [p.name for p in before.problem.start]


def test_global_fit(fitted, data, tmp_path):
    zfnf.save(fitted, tmp_path / "m.fnf")
    again = zfnf.load(tmp_path / "m.fnf", supplied={"model": model(), "data": data})
    same_fit(again, fitted)
    assert {name: float(p.value()) for name, p in again.parameters.items()} == pytest.approx(fitted.values)
    np.testing.assert_allclose(likelihood(again.loss()), likelihood(fitted.loss()), rtol=0, atol=1e-9)
    assert "global fit of 400 events: jes = " in str(storage.inspect(tmp_path / "m.fnf"))


@pytest.mark.filterwarnings("ignore:.*not valid:UserWarning")  # nor is the one that was stored
def test_profile_and_ensemble(profiled, data, tmp_path):
    combined = ensemble(profiled, progress=False)
    zfnf.save(combined, tmp_path / "m.fnf")
    again = zfnf.load(tmp_path / "m.fnf", supplied={"model": model(), "data": data})
    pd.testing.assert_frame_equal(again.minima, combined.minima)
    np.testing.assert_array_equal(again.lowest, combined.lowest)
    assert (again.values, again.errors, again.k_eff) == (combined.values, combined.errors, combined.k_eff)
    assert again.spread == combined.spread
    np.testing.assert_allclose(likelihood(again.nll), likelihood(combined.nll), rtol=0, atol=1e-9)

    with pytest.raises(TypeError, match="cannot be sent to another process: a rebased average belongs to its ensemble"):
        dumps(combined.nll)

    profile_again = again.nll.profiled
    same_fit(profile_again.fit, profiled.fit)
    for replica, expected in zip(profile_again.replicas, profiled.replicas, strict=True):
        assert (replica.seed, replica.values) == (expected.seed, expected.values)
        np.testing.assert_array_equal(replica.fields, expected.fields)
    assert "  2 replicas" in str(storage.inspect(tmp_path / "m.fnf"))
    assert profile_again.window == profiled.window
    assert profile_again.checks == profiled.checks
    assert profile_again.bounds.to_dict() == profiled.bounds.to_dict()
    assert profile_again.problems == profiled.problems
    np.testing.assert_allclose(likelihood(profile_again.loss()), likelihood(profiled.loss()), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("supplied", "message"),
    [
        (lambda data: {"data": data}, "give the model as supplied="),
        (lambda data: {}, "give the data and the model as supplied="),
        (lambda data: {"model": model(2), "data": data}, "belongs to another model"),
        (lambda data: {"model": model(), "data": data.iloc[::-1]}, "belongs to other data: to 400 events"),
        (lambda data: {"model": model(), "data": data[:100]}, "those supplied are 100"),
        (lambda data: {"model": model(), "data": data.assign(y=data["y"] + 0.5 * (data.index > 300))}, "not all of the 400"),
        (lambda data: {"model": model(), "data": Sample({k: data[k].to_numpy() for k in data}, np.full(400, 2.0), "")},
         "with 800"),
        (lambda data: {"model": zfnf.pdf.FlowPDF(FLOWS[1]), "data": data},
         "belongs to a model of"),
    ],
)  # fmt: skip
def test_another_model_or_other_data(fitted, data, tmp_path, supplied, message):
    zfnf.save(fitted, tmp_path / "m.fnf")
    with pytest.raises(ValueError, match="is not a usable model file") as caught:
        zfnf.load(tmp_path / "m.fnf", supplied=supplied(data))
    assert message in str(caught.value)

"""Workspaces trained, fitted, blinded and stored, in Python and on the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import zfit
import iminuit
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner
from untrained import smooth_flow

import zfit_fnf
from zfit_fnf import plotting
from zfit_fnf.cli import NOT_VALID, app
from zfit_fnf.limits import DiscoveryResult, LimitResult
from zfit_fnf.projections import component_samples
from zfit_fnf.results import FitSummary
from zfit_fnf.scans import Impacts
from zfit_fnf.storage.results import plain, read_envelope
from zfit_fnf.toys import ToyFits
from zfit_fnf.train import fit_flow
from zfit_fnf.workspace import Workspace, WorkspaceError, training
from zfit_fnf.workspace.analysis import Analysis
from zfit_fnf.workspace.blinding import hidden, offsets_of, text_of
from zfit_fnf.workspace.convert import convert

ANALYTIC = """\
version: 1
name: analytic
channels:
- name: SR
  observables: {m: {range: [0, 10]}}
  data: {file: data.csv}
  samples:
  - name: signal
    pdf: {type: Gauss, parameters: {mu: 5 + 0.5 * shift, sigma: 0.5}}
    yield: 100
    modifiers:
    - {name: mu, type: normfactor}
    - {name: eff, type: lnN, data: 1.1}
    - {name: acceptance, type: normsys, data: {lo: 0.9, hi: 1.2}}
    - {name: theory, type: lnN, data: [0.8, 1.1]}
    - {name: lumi, type: lumi}
    - {name: square, type: expression, data: square / 4}
  - name: background
    pdf: {type: Exponential, parameters: {lam: -0.2}}
    yield: n_background
functions:
- {name: square, expression: kappa**2}
measurements:
- name: main
  config:
    poi: mu
    parameters:
    - {name: mu, inits: [1], bounds: [[0, 10]]}
    - {name: shift, auxdata: [0.3], sigmas: [0.2]}
    - {name: kappa, inits: [2], fixed: true}
    - {name: lumi, auxdata: [1.0], sigmas: [0.05]}
    - {name: n_background, inits: [300], bounds: [[0, 1e4]]}
groups: {rates: [eff, acceptance, theory, lumi]}
"""


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    background = -5.0 * np.log(rng.uniform(np.exp(-2.0), 1.0, 300))
    return np.concatenate([rng.normal(5.1, 0.5, 100), background])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("analytic")
    np.savetxt(folder / "data.csv", data, header="m", comments="")
    (folder / "analysis.yaml").write_text(ANALYTIC, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def analysis(folder):
    return Analysis(Workspace.read(folder / "analysis.yaml"), folder / "results", progress=False)


def code4(nu, low, high):
    """Interpolation code 4, written once more."""
    power = np.arange(1, 7)
    rows = [np.ones(6), (-1.0) ** power, power, -((-1.0) ** power) * power]
    rows += [power * (power - 1), (-1.0) ** power * power * (power - 1)]
    right = [
        high - 1,
        low - 1,
        high * np.log(high),
        -low * np.log(low),
        high * np.log(high) ** 2,
        low * np.log(low) ** 2,
    ]
    return high**nu if nu > 1 else low**-nu if nu < -1 else 1 + np.linalg.solve(rows, right) @ nu**power


def combine(nu, low, high):
    """Combine's asymmetric lnN, from the formula in its documentation."""
    down, up = -np.log(low), np.log(high)
    if abs(nu) >= 0.5:
        return np.exp(nu * (up if nu > 0 else down))
    x = 2 * nu
    return np.exp(nu * (0.5 * (up + down) + 0.125 * x * (x**2 * (3 * x**2 - 10) + 15) * 0.5 * (up - down)))


def exact(data):
    """The same likelihood, by hand."""
    from scipy.stats import norm

    def nll(mu, eff, acceptance, theory, lumi, shift, n_background):
        n = 100 * mu * 1.1**eff * code4(acceptance, 0.9, 1.2) * combine(theory, 0.8, 1.1) * (1 + 0.05 * lumi)
        centre = 5 + 0.5 * shift
        signal = norm.pdf(data, centre, 0.5) / (norm.cdf(10, centre, 0.5) - norm.cdf(0, centre, 0.5))
        background = 0.2 * np.exp(-0.2 * data) / (1 - np.exp(-2))
        constraints = eff**2 + acceptance**2 + theory**2 + lumi**2 + ((shift - 0.3) / 0.2) ** 2
        return n + n_background - np.log(n * signal + n_background * background).sum() + 0.5 * constraints

    fit = iminuit.Minuit(nll, mu=1, eff=0, acceptance=0, theory=0, lumi=0, shift=0.3, n_background=300)
    fit.errordef, fit.strategy = 0.5, 2
    fit.migrad().hesse().minos("mu")
    return fit


def hessian(function, point, steps):
    """Second derivatives by central differences."""
    n = len(point)
    moves = np.diag(steps)
    result = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            signs = [(a, b) for a in (-1, 1) for b in (-1, 1)]
            values = [a * b * function(point + a * moves[i] + b * moves[j]) for a, b in signs]
            result[i, j] = sum(values) / (4 * steps[i] * steps[j])
    return result


def test_the_fit_is_that_of_the_likelihood_written_by_hand(analysis, data):
    fit, by_hand = analysis.fit(), exact(data)
    names = list(by_hand.parameters)
    values = fit.parameters.loc[names, "value"].to_numpy()
    errors = np.sqrt(np.diag(np.linalg.inv(hessian(by_hand.fcn, values, 0.0005 * np.array(by_hand.errors)))))
    for name, value, error in zip(names, values, errors, strict=True):
        assert value == pytest.approx(by_hand.values[name], abs=5e-3 * error)  # MIGRAD ends at an EDM of 1e-5 or so
        assert fit.parameters.loc[name, "error"] == pytest.approx(error, rel=1e-4)  # fourth derivatives in the steps
    minos = by_hand.merrors["mu"]
    assert fit.parameters.loc["mu", ["lower", "upper"]].tolist() == pytest.approx([minos.lower, minos.upper], rel=5e-3)
    assert fit.parameters["measured"].dropna().to_dict() == dict.fromkeys(names[1:5], 0.0) | {"shift": 0.3}
    assert "kappa" not in fit.parameters.index
    assert (fit.valid, fit.n_events) == (True, {"SR": 400.0})


def test_the_error_is_split_into_parts(analysis):
    ranking = analysis.impacts()
    assert {"rates", "statistical", "systematic"} <= set(ranking.groups.index)
    error = analysis.fit().parameters.loc["mu", "error"]
    assert ranking.error == pytest.approx(error, rel=1e-3)
    assert 0 < ranking.groups.loc["rates", "impact"] < error


def test_expected_events_have_errors_of_the_fit(analysis):
    table = analysis.yields().table.loc["SR"]
    fit = analysis.fit().parameters
    assert table.loc["background", "postfit"] == pytest.approx(fit.loc["n_background", "value"])
    assert table.loc["background", "postfit_error"] == pytest.approx(fit.loc["n_background", "error"])
    assert table.loc[["signal", "background"], "prefit"].tolist() == pytest.approx([100.0, 300.0])
    stored = zfit_fnf.load(analysis.results / "yields.json")
    assert stored.table.loc["SR"].equals(table)
    names, (prefit, postfit, observed) = stored.to_hepdata().values()
    assert [one["values"][1]["value"] for one in names] == ["SR", "background"]
    assert postfit["values"][1] == {
        "value": table.loc["background", "postfit"],
        "errors": [{"symerror": table.loc["background", "postfit_error"], "label": "total"}],
    }
    assert [one["value"] for one in observed["values"]] == ["-", "-", 400.0]
    assert prefit["header"] == {"name": "Events, pre-fit"}


def test_the_result_of_zfit_is_stored_as_its_numbers(analysis, tmp_path):
    zfit_fnf.save(analysis.result, tmp_path / "fit.json")
    assert str(zfit_fnf.load(tmp_path / "fit.json")) == str(FitSummary.of(analysis.result))
    analysis.fit()
    assert read_envelope(analysis.results / "fit.json")["workspace"]["sha256"] == analysis.workspace.sha256


@pytest.fixture(scope="module")
def blinded(folder, analysis):
    path = folder / "blinded.yaml"
    path.write_text(ANALYTIC + "blinding: {parameters: [mu], seal: a secret}\n", encoding="utf-8")
    blinded = Analysis(Workspace.read(path), folder / "blinded", progress=False)
    # The same fit, which is what would be told.
    vars(blinded).update({name: getattr(analysis, name) for name in ("model", "prefit", "loss", "result")})
    return blinded


def test_a_blinded_analysis_does_not_tell(analysis, blinded):
    secret = f"{analysis.fit().parameters.loc['mu', 'value']:.3f}"
    (offset,) = offsets_of(blinded.workspace.document.blinding).values()
    assert abs(offset) > 0.05
    fit, scan, yields = blinded.fit(), blinded.scan(points=5), blinded.yields()
    assert fit.parameters.loc["mu", "value"] - analysis.fit().parameters.loc["mu", "value"] == pytest.approx(
        offset, abs=1e-4
    )
    texts = [path.read_text(encoding="utf-8") for path in blinded.results.glob("*.json")]
    assert len(texts) == 3
    assert not any(secret in text for text in [*texts, str(fit), str(scan), str(yields)])
    assert np.isnan(yields.table["postfit"]).all()
    unblinded = Analysis(blinded.workspace, blinded.out, unblind=True)
    assert (unblinded.offsets, unblinded.results) == ({}, blinded.out / "unblinded" / "results")


def test_what_depends_on_the_distance_from_zero_is_hidden():
    offsets = {"mu": 0.31}
    scan = pd.DataFrame({"observed": [1.0, 0.04], "expected": [1.0, 0.03]}, index=[0.0, 1.2])
    limit = hidden(LimitResult("mu", 0.95, 1.171, (0.1, 0.2, 0.3, 0.4, 0.5), 0.847, scan), offsets)
    found = hidden(DiscoveryResult("mu", 0.0, 0.847, 3.21, 0.01, 0.847, 3.11, 0.02), offsets)
    for shown in (
        text_of(limit, offsets),
        text_of(found, offsets),
        json.dumps(plain([{**limit.to_dict(), "scan": None}, found.to_dict()])),
    ):
        # neither the value, nor the offset, nor the sum of both, which a fit shows
        assert not any(secret in shown for secret in ("0.847", "1.157", "0.31", "1.171", "3.21", "3.11"))
    assert limit.expected[2] == 0.3
    assert 1.2 not in limit.scan.index  # a value that was tried for the observed one, or the best fit
    assert "expected          0.3" in text_of(limit, offsets)
    table = pd.DataFrame(
        {
            "value": [0.0, 2.0],
            "error": [np.nan, 0.1],
            "lower": np.nan,
            "upper": np.nan,
            "measured": np.nan,
            "label": "x",
        },
        index=["mu", "b"],
    )
    fit = FitSummary(table, pd.DataFrame(np.eye(2), ["mu", "b"], ["mu", "b"]), 1.0, False, "mu at 0", {})
    assert np.isnan(hidden(fit, offsets).parameters.loc["mu", "value"])  # at a limit, which everybody knows
    assert hidden(fit, offsets).parameters.loc["b", "value"] == 2.0


def test_limits_of_a_parameter_and_rankings_do_not_tell_its_value():
    offsets, limits = {"mu": 0.31, "shift": 0.2}, {"mu": (0.0, 10.0)}
    names = ["mu", "b"]
    table = pd.DataFrame(
        {
            "value": [0.06, 2.0],
            "error": [0.08, 0.1],
            "lower": [-0.06, -0.1],
            "upper": [0.085, 0.1],
            "measured": np.nan,
            "label": "x",
        },
        index=names,
    )
    fit = FitSummary(table, pd.DataFrame(np.eye(2), names, names), 1.0, True, "", {})
    shown = hidden(fit, offsets, limits).parameters  # MINOS ends at the limit of mu, as far away as its value is
    assert shown.loc["mu", ["value", "upper"]].tolist() == pytest.approx([0.37, 0.085])
    assert np.isnan(shown.loc["mu", "lower"])
    assert shown.loc["b"].equals(table.loc["b"])
    values = pd.DataFrame({"mu": [0.0, 0.1, 1e-7]})
    toys = hidden(ToyFits({"mu": 0.06}, values, values * 0 + 0.08, np.ones(3, bool)), offsets, limits)
    assert toys.values["mu"].tolist() == pytest.approx(
        [np.nan, 0.41, np.nan], nan_ok=True
    )  # the smallest would be the offset
    # What is hidden is no toy that misses the truth.
    covered = toys.coverage(1.0)
    assert covered.loc["mu", ["covered", "error"]].tolist() == pytest.approx([1.0, np.sqrt(0.6827 * 0.3173)], rel=1e-3)
    ranking = pd.DataFrame({"value": [-0.9, 0.1], "pull": [-0.9, 0.1], "up": 0.02}, index=["shift", "eff"])
    ranking = hidden(Impacts("mu", "mu", 0.1, ranking), offsets, limits).table
    assert ranking.loc["shift"].tolist() == pytest.approx([np.nan, np.nan, 0.02], nan_ok=True)
    assert ranking.loc["eff"].tolist() == [0.1, 0.1, 0.02]


def test_messages_do_not_tell(blinded, monkeypatch):
    def broken(*arguments, **settings):
        raise RuntimeError("no limit found: the likelihood around mu = 1.0234 is not smooth")

    monkeypatch.setattr("zfit_fnf.workspace.analysis.upper_limit", broken)
    with pytest.raises(RuntimeError, match=r"the likelihood around mu = \.\.\. is not smooth"):
        blinded.limit()
    with pytest.raises(ValueError, match="make the bounds wider"):
        blinded.scan(n_sigma=100.0)


def test_results_of_other_data_or_densities_are_not_shown(folder, analysis, data, tmp_path):
    (tmp_path / "analysis.yaml").write_text(ANALYTIC, encoding="utf-8")
    (tmp_path / "data.csv").write_bytes((folder / "data.csv").read_bytes())
    there = Analysis(Workspace.read(tmp_path / "analysis.yaml"), tmp_path / "results")
    there._keep("fit", FitSummary.of(analysis.result))
    again = Analysis(Workspace.read(tmp_path / "analysis.yaml"), tmp_path / "results")
    assert set(again.kept()) == {"fit"}
    np.savetxt(tmp_path / "data.csv", data[1:], header="m", comments="")
    assert Analysis(Workspace.read(tmp_path / "analysis.yaml"), tmp_path / "results").kept() == {}


# --- training ----------------------------------------------------------------------------------------------------------

LEARNED = """\
version: 1
name: learned
channels:
- name: SR
  observables: {m: {range: [-20, 20]}}
  data: {file: data.csv}
  samples:
  - name: signal
    events:
      nominal: {file: signal.csv, scale: 0.1}
      variations:
      - {at: {jes: 1}, columns: {m: m + 0.5}}
      - {at: {jes: -1}, columns: {m: m - 0.5}}
      - {at: {eff: 1}, scale: 0.11}
    modifiers:
    - {name: mu, type: normfactor}
    - {name: jes_2016, type: shape, variation: jes}
    - {name: eff, type: normsys, data: events}
measurements:
- {name: main, config: {poi: mu}}
training: {steps: 60, response_steps: 30, batch_size: 256}
"""


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    rng = np.random.default_rng(3)
    np.savetxt(folder / "signal.csv", rng.normal(size=2000), header="m", comments="")
    np.savetxt(folder / "data.csv", rng.normal(size=200), header="m", comments="")
    (folder / "analysis.yaml").write_text(LEARNED, encoding="utf-8")
    workspace = Workspace.read(folder / "analysis.yaml")
    workspace.train(folder / "results", progress=False)
    return workspace


def test_a_model_is_trained_and_fitted(learned):
    model = learned.model(learned.folder / "results")
    pdf = model.pdfs["SR"]
    assert {p.name for p in pdf.get_params()} == {"mu", "jes_2016", "eff"}
    assert float(pdf.get_yield().value()) == pytest.approx(200.0)
    model.parameters["eff"].set_value(1.0)
    assert float(pdf.get_yield().value()) == pytest.approx(220.0)
    model.parameters["eff"].set_value(0.0)
    # The density of the coarse training is about that of the simulation, and jes_2016 moves it by half a width.
    x = np.array([[0.0], [1.0]])
    before = np.asarray(pdf.pdf(x))
    assert before == pytest.approx(np.exp(-0.5 * x[:, 0] ** 2) / np.sqrt(2 * np.pi), rel=0.3)
    model.parameters["jes_2016"].set_value(1.0)
    assert np.asarray(pdf.pdf(x))[1] > 1.1 * before[1]
    result = zfit_fnf.Minuit().minimize(learned.loss(learned.folder / "results"))
    assert result.valid


def counted(monkeypatch):
    calls = []
    for name in ("fit_flow", "fit_process"):
        own = getattr(training, name)

        def call(*arguments, name=name, own=own, **settings):
            calls.append((name, type(settings.get("trained")).__name__))
            return own(*arguments, **settings)

        monkeypatch.setattr(training, name, call)
    return calls


def changed(learned, before, after, text=LEARNED):
    path = learned.folder / "changed.yaml"
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    return Workspace.read(path)


def test_only_what_is_stale_is_trained(learned, monkeypatch, tmp_path):
    calls, out = counted(monkeypatch), learned.folder / "results"
    learned.train(out, progress=False)
    changed(learned, "type: shape, variation", "type: shape, variation").train(out, progress=False)
    changed(learned, "poi: mu", "poi: [mu]").train(out, progress=False)
    assert calls == []
    (learned.folder / "signal.csv").touch()  # another date, the same content
    learned.train(out, progress=False)
    assert calls == []
    record = changed(learned, "scale: 0.11", "scale: 0.12").train(out, progress=False)["SR.signal"]
    assert record.rates["eff"]["hi"] == pytest.approx(1.2)
    assert calls == [("fit_process", "Deformation")]  # which has nothing to train, as its responses are there
    calls.clear()
    changed(learned, "m + 0.5", "m + 0.6").train(out, progress=False)
    assert calls == [("fit_process", "Flow")]
    calls.clear()
    learned.train(out, progress=False)
    assert calls == [("fit_process", "Flow")]


def test_damaged_models_are_trained_again(learned, monkeypatch, tmp_path):
    """One was "trained already", and no command could read it."""
    models = tmp_path / "models"
    shutil.copytree(learned.folder / "results" / "models", models)
    path = models / "SR.signal.fnf"
    path.write_bytes(path.read_bytes()[:-100])
    calls = counted(monkeypatch)
    learned.train(tmp_path, progress=False)
    assert [name for name, _ in calls] == ["fit_flow", "fit_process"]
    assert zfit_fnf.load(path).nuisances == ("jes",)


def test_what_is_made_of_one_generated_event_is_trained_on_or_held_out(learned):
    """The rows that a selection keeps differ; four fifths of held-out ones had been seen, moved, in the training."""
    workspace = changed(learned, "scale: 0.1}", "scale: 0.1, selection: abs(m) < 1.5}")
    (task,) = workspace.tasks(learned.folder / "results")
    held, seen = training.held_out(task), training.seen_by(task, training.simulation_of(task))
    moved = {one.at["jes"]: np.asarray(one.events.columns["m"]) - 0.5 * one.at["jes"] for one in held.variations}
    assert {at: len(values) for at, values in moved.items()} == {1.0: pytest.approx(300, abs=80)} | {
        -1.0: pytest.approx(300, abs=80)
    }
    for values in moved.values():
        assert np.isin(np.round(values, 9), np.round(held.nominal.columns["m"], 9)).sum() > 150
        assert not np.isin(np.round(values, 9), np.round(seen.nominal.columns["m"], 9)).any()


def test_weights_that_are_no_numbers_are_named_where_yields_are_taken(learned):
    table = np.column_stack([np.linspace(-1.0, 1.0, 50), np.where(np.arange(50) == 7, np.nan, 0.1)])
    np.savetxt(learned.folder / "nan.csv", table, header="m,w", comments="", delimiter=",")
    workspace = changed(learned, "{at: {eff: 1}, scale: 0.11}", "{at: {eff: 1}, file: nan.csv, weights: w}")
    with pytest.raises(
        ValueError, match=r"events of 'SR.signal \(eff=\+1\)' are NaN or infinite in the weights: row 7"
    ):
        workspace.train(learned.folder / "other", progress=False)


def test_yields_that_the_fit_leaves_out_are_said(learned, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "_learn", lambda *_: smooth_flow(["m"]))
    problems = {}
    for what in ("m + 0.5}, scale: 0.13", "m + 0.5}, scale: 0.1005"):
        workspace = changed(learned, "m + 0.5}", what)
        (problems[what],) = workspace.train(tmp_path, progress=False)["SR.signal"].problems or [""]
    assert "variations of 'jes' change the yield too (+0 % and +30 %)" in problems["m + 0.5}, scale: 0.13"]
    assert "add the modifier {name: jes_2016, type: normsys" in problems["m + 0.5}, scale: 0.13"]
    assert problems["m + 0.5}, scale: 0.1005"] == ""  # less than the error of the simulation


def test_an_interrupted_training_goes_on(learned, monkeypatch, tmp_path):
    def interrupted(*arguments, **settings):
        stopped = zfit_fnf.train.TrainingStopped("interrupted")
        stopped.model = settings["trained"]
        raise stopped

    monkeypatch.setattr(training, "fit_process", interrupted)
    with pytest.raises(zfit_fnf.train.TrainingStopped):
        learned.train(tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match="is not trained"):
        learned.model(tmp_path)
    monkeypatch.undo()
    calls = counted(monkeypatch)
    learned.train(tmp_path, progress=False)
    assert calls == [("fit_process", "Flow")]
    assert not list(tmp_path.rglob("*.partial.fnf"))


def test_half_trained_nominal_densities_are_not_taken_for_ready(learned, monkeypatch, tmp_path):
    flow = zfit_fnf.load(learned.folder / "results" / "models" / "SR.signal.fnf").flow

    def interrupted(*arguments, **settings):
        stopped = zfit_fnf.train.TrainingStopped("interrupted")
        flow.history = replace(flow.history, interrupted=True)
        stopped.model = flow
        raise stopped

    monkeypatch.setattr(training, "fit_flow", interrupted)
    with pytest.raises(zfit_fnf.train.TrainingStopped):
        learned.train(tmp_path, progress=False)
    assert list(tmp_path.rglob("*.partial.fnf"))
    monkeypatch.setattr(training, "fit_flow", create_autospec(fit_flow, side_effect=RuntimeError("trained anew")))
    with pytest.raises(RuntimeError, match="trained anew"):
        learned.train(tmp_path, progress=False)


def test_what_is_not_trained_is_said(learned, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'SR\.signal' is not trained"):
        learned.loss(tmp_path)


def test_densities_of_other_events_are_not_fitted(learned, tmp_path):
    """Three times the weights were three times too large a signal, with the yields of the training."""
    out, other = learned.folder / "results", changed(learned, "m + 0.5", "m + 0.7")
    for use in (other.model, other.check_fresh, lambda trained: other.pack(trained, tmp_path / "packed.zip")):
        with pytest.raises(
            WorkspaceError, match=r"'SR.signal' was trained from other events .*: train the workspace again"
        ):
            use(out)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before, times = training.checksum_of(path), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"two")  # as long, and of the same time
    os.utime(path, ns=times)
    assert training.checksum_of(path) != before


def test_a_packed_workspace_is_fitted_without_the_events(learned, tmp_path):
    packed = learned.pack(learned.folder / "results", tmp_path / "packed.zip")
    there = Workspace.read(packed)
    assert there.name == "learned"
    assert there.document.channels[0].samples[0].events is None
    ours, theirs = learned.loss(learned.folder / "results"), there.loss()
    for values in ({"mu": 1.0}, {"mu": 1.3, "jes_2016": 0.5, "eff": -0.7}):
        for nll in (ours, theirs):
            zfit.param.set_values({one: values[one.name] for one in nll.get_params() if one.name in values})
        assert float(theirs.value()) == pytest.approx(float(ours.value()), abs=1e-6)  # written as CSV, read as Parquet


def test_folds_are_averaged_and_calibrated(learned, tmp_path, monkeypatch):
    folded = "".join(line for line in LEARNED.splitlines(keepends=True) if "jes" not in line)
    background = "  - {name: background, pdf: {type: Gauss, parameters: {mu: 0, sigma: 0.5}}, yield: n}\n"
    for before, after in {
        "training: {": "training: {folds: 2, ",
        "measurements:": f"{background}measurements:",
        "poi: mu": "poi: mu, parameters: [{name: n, inits: [50], bounds: [[-500, 500]]}]",
    }.items():
        folded = folded.replace(before, after)
    flows = iter([smooth_flow(["m"], seed=seed) for seed in (1, 2)])
    monkeypatch.setattr(training, "fit_flow", lambda *_, **__: next(flows))
    workspace = changed(learned, "measurements:", "calibrate: true\nmeasurements:", folded)
    workspace.train(tmp_path, progress=False)
    names = ["SR.signal.fold1", "SR.signal.fold2"]
    assert sorted(path.stem for path in (tmp_path / "models").glob("*.fnf")) == names
    first, second = (training.unseen(task) for task in workspace.tasks(tmp_path))
    assert first.nominal.n_events == second.nominal.n_events == 800  # halves of what is not held out, 80 % of 2000
    assert not set(first.nominal.columns["m"]) & set(second.nominal.columns["m"])
    analysis = Analysis(workspace, tmp_path, progress=False)
    assert [type(one).__name__ for one in analysis.loss.model] == ["FoldedPDF"]
    with pytest.raises(ValueError, match="there is no parameter 'nu'"):
        analysis.fit(minos=["nu"])
    fit, yields = analysis.fit(minos=False), analysis.yields().table
    assert {"mu", "eff", "mcstat_0"} <= set(fit.parameters.index)
    assert yields.loc["SR", "prefit"].tolist() == pytest.approx([200.0, 50.0, 250.0])  # though calibration has moved mu
    parts = component_samples(analysis.model.pdfs["SR"], n_events=1001)
    found = {name: (part.n_events, part.sum_weights) for name, part in parts.items()}
    assert found["signal"] == (1001, pytest.approx(yields.loc[("SR", "signal"), "postfit"]))
    with pytest.raises(ValueError, match="needs its simulated events"):
        workspace.pack(tmp_path, tmp_path / "calibrated.zip")
    in_bins = changed(learned, "20]}", "20], bins: 8}", workspace.path.read_text(encoding="utf-8"))
    binned = convert(in_bins.path, trained=tmp_path)
    assert binned.left == ["calibrate: templates of learned densities have no errors of finite simulation"]
    samples = binned.document["channels"][0]["samples"]
    assert [(one["name"], sum(one["data"])) for one in samples] == [
        ("signal", pytest.approx(200.0, rel=1e-3)),
        ("background", pytest.approx(1.0)),
    ]
    assert {(one["name"], one["type"]) for one in samples[0]["modifiers"]} == {("mu", "normfactor"), ("eff", "normsys")}
    there = Workspace.read(changed(learned, "steps: 60", "steps: 60", folded).pack(tmp_path, tmp_path / "a.zip"))
    assert there.document.channels[0].samples[0].model == [f"models/{name}.fnf" for name in names]
    assert type(there.model().pdfs["SR"]).__name__ == "FoldedPDF"


GIVEN = """\
version: 1
channels:
- name: SR
  observables: {m: {range: [-20, 20]}}
  conditions: {mX: 2 * mass}
  data: {file: data.csv}
  samples:
  - name: signal
    events: {nominal: {file: signal.csv}}
    yield: n
  - {name: background, pdf: {type: Uniform}, yield: 30}
measurements:
- name: main
  config: {poi: n, parameters: [{name: n, inits: [100]}, {name: mass, inits: [0.2], bounds: [[-1, 1]]}]}
"""


def test_conditions_are_parameters(learned, monkeypatch, tmp_path):
    """Of densities that were trained, accelerated, and packed; the likelihood is that by hand."""
    m = np.random.default_rng(1).normal(size=50)
    np.savetxt(tmp_path / "data.csv", m, header="m", comments="", fmt="%.17g")
    np.savetxt(tmp_path / "signal.csv", np.ones((9, 2)), header="m,mX", comments="", delimiter=",")
    (tmp_path / "given.yaml").write_text(GIVEN, encoding="utf-8")
    flow, asked = smooth_flow(["m"], ["mX"], seed=3, ranges={"m": (-20.0, 20.0)}), []
    monkeypatch.setattr(training, "fit_flow", lambda *_, **settings: (asked.append(settings["cond"]), flow)[1])
    workspace = Workspace.read(tmp_path / "given.yaml")
    workspace.train(tmp_path, progress=False)
    assert asked == [["mX"]]
    packed = Workspace.read(workspace.pack(tmp_path, tmp_path / "given.zip"))
    losses = [workspace.loss(tmp_path), workspace.loss(tmp_path, accelerated=True), packed.loss()]
    for nll in losses:
        differences = []
        for n, mass in ((100.0, 0.2), (150.0, -0.4), (80.0, 0.9)):
            params = {one.name: one for one in nll.get_params()}
            zfit.param.set_values([params["n"], params["mass"]], [n, mass])
            density = np.exp(np.asarray(flow.log_prob({"m": m, "mX": np.full(50, 2 * mass)})))
            by_hand = n + 30 - np.log(n * density + 30 / 40).sum()
            differences.append(float(nll.value()) - by_hand)
        assert np.ptp(differences) < 1e-8


def test_a_strange_package_is_refused(learned, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../evil.txt", "x")
    with pytest.raises(WorkspaceError, match=r"no packed workspace: it contains '\.\./evil\.txt'"):
        Workspace.read(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(WorkspaceError, match="cannot be read as a packed workspace"):
        Workspace.read(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"ends with '\.zip'"):
        learned.pack(learned.folder / "results", tmp_path / "a.tar")


def test_figures_and_the_report_need_nothing_else(analysis, folder):
    from zfit_fnf.report import write_report
    from zfit_fnf.workspace.figures import draw

    analysis.scan(points=5)
    of_mu = analysis.impacts()
    other = analysis.impacts("n_background")  # does not take its place, and does not pass for it
    kept = {name: zfit_fnf.load(path).parameter for name, path in analysis.kept().items() if name.startswith("impacts")}
    assert kept == {"impacts": "mu", "impacts_n_background": "n_background"}
    names = {path.name for path in draw(analysis, n_events=2000)}
    assert {"projection_SR_m_prefit.png", "projection_SR_m_postfit.png", "pulls.png", "scan_mu.png"} <= names
    page = write_report(analysis).read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    uncertainties = page.partition("<h2>Uncertainties</h2>")[2].partition("</p>")[0]
    assert f"What the error of mu, {of_mu.error:.4g}" in uncertainties
    assert other.error > 10 * of_mu.error
    assert [page.count(f"<h3>on {name}</h3>") for name in kept.values()] == [1, 1]
    assert page.count("data:image/png;base64,") == len(names)
    for title in ("Result", "Model", "Fit", "Uncertainties", "Distributions", "Versions"):
        assert f"<h2>{title}</h2>" in page


# --- the command line ------------------------------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def shared(analysis, monkeypatch):
    """Commands work on the analysis that is fitted already."""

    def made(workspace, out, *, progress, **settings):
        assert (workspace.sha256, out) == (analysis.workspace.sha256, analysis.out)
        assert settings == {"measurement": None, "unblind": False, "accelerated": False}
        return analysis

    monkeypatch.setattr("zfit_fnf.workspace.analysis.Analysis", made)


def test_commands_print_tables_and_json(folder, shared):
    workspace, out = folder / "analysis.yaml", folder / "results"
    done = invoke("fit", workspace, "-o", out)
    assert (done.exit_code, "fit of 400 events, valid" in done.stdout) == (0, True)
    assert json.loads(invoke("impacts", workspace, "-o", out, "--json").stdout)["parameter"] == "mu"
    assert "background" in invoke("yields", workspace, "-o", out, "--format", "latex").stdout
    assert "symerror" in invoke("yields", workspace, "-o", out, "--format", "hepdata").stdout
    assert "--format is text" in invoke("yields", workspace, "-o", out, "--format", "word").stderr
    assert json.loads(invoke("train", workspace, "-o", out, "--json").stdout) == {}
    assert json.loads(invoke("schema").stdout)["title"] == "Document"
    assert "channel SR: m" in invoke("inspect", workspace).stdout
    assert "fit of 400 events" in invoke("inspect", out / "results" / "fit.json").stdout
    assert invoke("report", out).stdout == f"{out / 'report.html'} is written\n"
    assert json.loads(invoke("inspect", workspace, "--json").stdout)["name"] == "analytic"
    assert json.loads(invoke("inspect", out / "results" / "fit.json", "--json").stdout)["kind"] == "fit"
    assert "fit it first" in invoke("report", folder).stderr


def test_commands_report_what_is_wrong(folder, tmp_path):
    done = invoke("fit", tmp_path / "no.yaml", "-o", tmp_path)
    assert (done.exit_code, done.stderr) == (1, f"error: there is no workspace '{tmp_path / 'no.yaml'}'\n")
    done = invoke("scan", folder / "analysis.yaml", "-o", folder / "results", "--parameter", "nu")
    assert done.exit_code == 1
    assert "'nu' is not a parameter" in done.stderr


def test_a_fit_that_is_not_valid_has_an_exit_code(folder, analysis, shared, monkeypatch):
    bad = replace(FitSummary.of(analysis.result), valid=False, message="it falls still")
    monkeypatch.setattr(analysis, "fit", lambda **_: bad)
    done = invoke("fit", folder / "analysis.yaml", "-o", folder / "results")
    assert done.exit_code == NOT_VALID
    assert "NOT VALID: it falls still" in done.stdout


def test_toys_go_on_where_they_were(analysis, monkeypatch):
    calls = []

    def few(nll, n, *, params, seed, first, **_):
        calls.append((n, seed, first))
        names = [one.name for one in params]
        values = pd.DataFrame(np.random.default_rng(seed).normal(size=(first + n, len(names))), columns=names)[first:]
        truth = {one.name: value for one, value in params.items()}
        return ToyFits(truth, values.rename_axis("toy"), values.abs().rename_axis("toy"), np.ones(n, bool))

    monkeypatch.setattr("zfit_fnf.workspace.analysis.fit_toys", few)
    first = analysis.toys(3, seed=5)
    more = analysis.toys(205, seed=5)
    assert calls == [(3, 5, 0), (200, 5, 3), (2, 5, 203)]  # each toy has a number, whenever it is made
    assert more.values.iloc[:3].to_numpy() == pytest.approx(first.values.to_numpy())
    assert len(more.valid) == 205
    analysis.accelerated = True  # another likelihood
    assert len(analysis.toys(2, seed=5).valid) == 2
    analysis.accelerated = False
    assert len(analysis.toys(2, seed=6).valid) == 2


@pytest.mark.slow
def test_limits_against_another_parameter(analysis):
    """The yield is proportional to the square of kappa, so limits are to its inverse."""
    limits = analysis.limits("kappa", [4.0, 2.0]).table
    # Limits are found, or interpolated close to values that were tried, to a per cent.
    np.testing.assert_allclose(limits.loc[2.0] / limits.loc[4.0], 4.0, rtol=0.02)
    here = zfit_fnf.limits.upper_limit(analysis.loss, "mu")
    assert limits.loc[2.0].tolist() == pytest.approx([here.observed, *here.expected], rel=0.02)


def test_limits_go_on_where_they_were(analysis, monkeypatch):
    kappa, asked = analysis.model.parameters["kappa"], []

    def quick(nll, poi, **settings):
        assert kappa in nll.get_params(floating=None)
        asked.append((poi, float(kappa.value()), kappa.floating))
        limits = tuple(one / asked[-1][1] for one in (0.1, 0.2, 0.3, 0.4, 0.5))
        return LimitResult(poi, settings["cl"], limits[2] + 1, limits, 0.0, pd.DataFrame())

    monkeypatch.setattr("zfit_fnf.limit_scans.upper_limit", quick)
    (analysis.results / "limits_kappa.json").unlink(missing_ok=True)
    analysis.limits("kappa", [4.0])
    limits = analysis.limits("kappa", [4.0, 2.0]).table
    assert asked == [("mu", 4.0, False), ("mu", 2.0, False)]
    assert float(kappa.value()) == 2.0
    assert limits.index.tolist() == [2.0, 4.0]
    assert limits["expected"].tolist() == pytest.approx([0.15, 0.075])
    blind = hidden(analysis.limits("kappa", [4.0]), {"mu": 0.3})
    assert "hidden" in text_of(blind, {"mu": 0.3})
    assert blind.table["observed"].isna().all()
    plotting.limits(blind)
    plotting.limits(analysis.limits("kappa", [4.0]))
    with pytest.raises(ValueError, match="did you mean 'kappa'"):
        analysis.limits("kapa")
    with pytest.raises(ValueError, match="has no bounds"):
        analysis.limits("kappa")


def test_results_of_other_measurements_are_not_mixed_up(folder, analysis, tmp_path):
    text = ANALYTIC.replace("groups:", "- {name: a fixed one, config: {poi: mu}}\ngroups:")
    (folder / "two.yaml").write_text(text, encoding="utf-8")
    workspace = Workspace.read(folder / "two.yaml")
    for name in (None, "a fixed one"):
        Analysis(workspace, tmp_path, measurement=name)._keep("fit", FitSummary.of(analysis.result))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")) == [
        "a_fixed_one/results/fit.json",
        "results/fit.json",
    ]
    assert set(Analysis(workspace, tmp_path).kept()) == {"fit"}
    (folder / "two.yaml").write_text(text + "\n", encoding="utf-8")
    assert Analysis(Workspace.read(folder / "two.yaml"), tmp_path).kept() == {}


def test_help_loads_nothing_heavy():
    program = (
        "import sys, time; from zfit_fnf.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'zfit', 'pandas', 'numpy', 'pydantic'} & set(sys.modules), sorted(sys.modules)\n"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "significance" in done.stdout
    assert float(done.stdout.split()[-1]) < 0.5  # seconds


@pytest.mark.slow
def test_ctrl_c_leaves_what_the_same_command_goes_on_with(learned, tmp_path):
    """A real one, in the middle of a training."""
    longer = LEARNED.replace("steps: 60,", "steps: 20000,").replace("response_steps: 60", "response_steps: 60")
    workspace = changed(learned, "steps: 20000", "steps: 20000", longer).path
    command = [sys.executable, "-c", "from zfit_fnf.cli import app; app()", "train", workspace, "-o", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as process:
        shown = ""
        while "validation=" not in shown:
            shown += process.stderr.read(100)
        os.killpg(process.pid, signal.SIGINT)
        assert "the same command goes on with the rest" in process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"SR.signal.json", "SR.signal.partial.fnf"}
    Workspace.read(workspace).train(tmp_path, progress=False)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"SR.signal.json", "SR.signal.fnf"}


# --- whole analyses ----------------------------------------------------------------------------------------------------

COMBINE = Path(__file__).parents[2] / "shared" / "data" / "combine"


@pytest.mark.slow
def test_the_example_runs(tmp_path):
    assert invoke("new", tmp_path / "example").exit_code == 0
    done = invoke("run", tmp_path / "example" / "analysis.yaml", "-o", tmp_path / "results", "-j", 2)
    assert done.exit_code in (0, NOT_VALID), done.stderr
    fit = zfit_fnf.load(tmp_path / "results" / "results" / "fit.json")
    mu = fit.parameters.loc["mu"]
    assert abs(mu["value"] - 1.0) < 4.0 * mu["error"]
    assert (tmp_path / "results" / "report.html").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.skipif(not COMBINE.is_dir(), reason="the files of combine's exercise are not there")
def test_the_exercise_of_combine(tmp_path):
    """A Gaussian signal on an exponential gives 1.5476 -0.2103 +0.2134, and with systematics 1.557 to 1.561 -0.232 +0.255."""
    text = (Path(__file__).parents[1] / "examples" / "hgg.yaml").read_text(encoding="utf-8")
    (tmp_path / "hgg.yaml").write_text(text.replace("combine/", f"{COMBINE}/"), encoding="utf-8")
    workspace = Workspace.read(tmp_path / "hgg.yaml")
    workspace.train(tmp_path, progress=False)
    r = Analysis(workspace, tmp_path, measurement="statistical only").fit().parameters.loc["r"]
    assert r["value"] == pytest.approx(1.548, abs=0.02)
    assert [r["lower"], r["upper"]] == pytest.approx([-0.2103, 0.2134], rel=0.02)
    analysis = Analysis(workspace, tmp_path)
    r = analysis.fit().parameters.loc["r"]
    assert 1.550 < r["value"] < 1.570
    assert [r["lower"], r["upper"]] == pytest.approx([-0.232, 0.255], rel=0.03)
    assert analysis.significance().significance == pytest.approx(7.91, abs=0.1)


@pytest.mark.slow
@pytest.mark.skipif(not COMBINE.is_dir(), reason="the files of combine's exercise are not there")
def test_the_exercise_of_combine_in_bins(tmp_path):
    """The same document, its events counted in bins of 1 GeV."""
    text = (Path(__file__).parents[1] / "examples" / "hgg.yaml").read_text(encoding="utf-8")
    text = text.replace("combine/", f"{COMBINE}/").replace("  data: {file", "  binned: true\n  data: {file")
    (tmp_path / "hgg.yaml").write_text(text, encoding="utf-8")
    workspace = Workspace.read(tmp_path / "hgg.yaml")
    r = Analysis(workspace, tmp_path, measurement="statistical only").fit().parameters.loc["r"]
    assert r["value"] == pytest.approx(1.548, abs=0.03)
    assert [r["lower"], r["upper"]] == pytest.approx([-0.2103, 0.2134], rel=0.02)
    r = Analysis(workspace, tmp_path).fit().parameters.loc["r"]
    assert r["value"] == pytest.approx(1.56, abs=0.03)  # a tenth of the error: bins lose a little
    assert [r["lower"], r["upper"]] == pytest.approx([-0.232, 0.255], rel=0.03)

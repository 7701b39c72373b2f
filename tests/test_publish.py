"""Measured distributions as published events: written, read by this package and by pandas alone, and as tables of HEPData."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import zfit
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy import stats
from stored_models import shaken

import zfit_fnf as zfnf
from zfit_fnf.densities.displacement import Displacement
from zfit_fnf.densities.history import History
from zfit_fnf.densities.transfer import ProfiledTransfer, Transfer
from zfit_fnf.doi import ProfiledFit, Replica, TransferFit, predicted, publish, read, scenarios, to_hepdata
from zfit_fnf.doi.publish import _Weights
from zfit_fnf.doi.rows import behind
from zfit_fnf.pdf import UNBOUNDED, ConditionalProductPDF, SumPDF
from zfit_fnf.samples import as_sample

EDGES = {"y": np.linspace(-2.0, 3.0, 5)}
TRUTH = {"jes": 0.2, "mu_of_published": 1.1}
NUMBERS = {"signal": 300.0 * 1.1, "other": 600.0 * 1.05**0.2}
N = 2048


def model():
    """Two processes whose ``y`` the nuisance moves, as it does the yield of one of them; the other has a strength."""
    jes, mu = zfnf.nuisance("jes"), zfit.Parameter("mu_of_published", 1.0, 0.0, 5.0)
    space = {name: zfit.Space(name, -UNBOUNDED, UNBOUNDED) for name in "yx"}
    parts = []
    for name, centre, modifiers in (("signal", 2.0, [mu]), ("other", 0.0, [zfnf.lnN(jes, 1.05)])):
        factors = [zfit.pdf.Gauss(jes, 1.0, obs=space["y"]), zfit.pdf.Gauss(centre, 1.0, obs=space["x"])]
        number = zfnf.modified_yield(300.0 if name == "signal" else 600.0, modifiers)
        parts.append(ConditionalProductPDF(factors, extended=number, name=name))
    return SumPDF(parts)


@pytest.fixture(scope="module")
def profiled():
    """A map of each process that nobody has fitted, with two replicas: what is published holds for any."""
    pdf, rng = model(), np.random.default_rng(4)
    map_ = shaken(Transfer(["y"], ["x"], processes=("signal", "other"), n_layers=1, hidden=(4,)))
    follows = Displacement(((1, 0), (0, 1)), n_dim=1, n_cond=1, n_maps=2, n_functions=4, constant=True)
    for weights in follows.weights:
        weights.assign(0.1 * rng.normal(size=weights.shape))
    moving = ProfiledTransfer(map_, follows, centre=TRUTH, axes=np.diag([0.6, 0.3]))
    # The first field of each map moves all of its events.
    others = follows.field_weights()[-1] + np.outer([0.4, -0.4], np.tile([1.0, 0.0, 0.0, 0.0], 2))
    replicas = tuple(Replica((0, index), fields, TRUTH) for index, fields in enumerate(others))
    data = as_sample({"y": [0.0, 1.0], "x": [0.0, 1.0]}, ["y", "x"])
    params = {one.name: one for one in pdf.get_params()}
    behind_map = behind(pdf, moving, params=params)
    rest = {"covariance": np.eye(2), "nll": 0.0, "rounds": (), "history": History("map"), "problem": None}
    fit = TransferFit(pdf, behind_map, data, map_, TRUTH, **rest)
    return ProfiledFit(fit, moving, behind_map, {"jes": 2.0, "mu_of_published": 1.5}, None, {}, (), (), replicas)


@pytest.fixture(scope="module")
def result(profiled):
    """Of a likelihood that is known: at the truth, with errors of 0.3 and 0.15 that are correlated by a half."""
    information = np.linalg.inv(0.15**2 * np.array([[4.0, 1.0], [1.0, 1.0]]))

    def value(params):
        shift = tf.stack([one.value() for one in params]) - tf.constant(list(TRUTH.values()), tf.float64)
        return 0.5 * tf.tensordot(shift, tf.linalg.matvec(information, shift), 1)

    params = [profiled.parameters[name] for name in TRUTH]
    found = zfit.minimize.Minuit(gradient="zfit").minimize(zfit.loss.SimpleLoss(value, params, errordef=0.5))
    found.hesse()
    return found


@pytest.fixture(scope="module")
def simulated():
    """Made with the nuisance at zero; a third of the events has twice the weight of the others.

    Spread evenly: their averages are known better than those of random events.
    """
    samples = {}
    for seed, (name, centre) in enumerate((("signal", 2.0), ("other", 0.0))):
        u = stats.qmc.Sobol(4, rng=seed).random(N)
        events = pd.DataFrame(np.add(stats.norm.ppf(u[:, :3]), [0.0, centre, 0.0]), columns=["y", "x", "z"])
        samples[name] = events.assign(w=np.where(u[:, 3] < 1 / 3, 2.0, 1.0))
    return samples


@pytest.fixture(scope="module")
def folder(profiled, result, simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "measured"
    simulations = {name: zfnf.Simulation(events, weights="w") for name, events in simulated.items()}
    text = {"y": "what the map moves", "z": "a further column"}
    publish(profiled, result, simulations, path, columns=["z"], units={"y": "GeV"}, definitions=text)
    return path


@pytest.fixture(scope="module")
def measured(folder):
    return read(folder)


# --- what is published is what the model and the map say ---------------------------------------------------------------


def test_the_published_distribution_is_that_of_the_model(measured, profiled, result):
    """Simulated events where the map takes them have the density of the model behind the map, in all variations."""
    maps = scenarios(profiled, result)
    with zfit.param.set_values([profiled.parameters[name] for name in TRUTH], list(maps.best.values.values())):
        drawn = zfnf.projections.component_samples(profiled.pdf, n_events=8 * N, seed=3)
    events = {name: np.concatenate([one.columns[name] for one in drawn.values()]) for name in ("y", "x")}
    weights = np.concatenate([one.weights for one in drawn.values()])
    expected = maps.evaluate(predicted(maps, as_sample(events, ["y", "x"], weights=weights), EDGES))
    found = measured.histogram(EDGES)
    assert found.value.sum() > 0.8 * sum(NUMBERS.values())
    noise = found.simulation  # more than that of the eight times as many events that were drawn
    assert (noise < 0.2 * found.value).all()
    assert (np.abs(found.value - expected.value) < 4.5 * noise).all()
    # Shifts come from some hundred events of 2048 that are spread evenly: they are known to a few per cent of the largest.
    for changes, others in (
        (found.shifts, expected.shifts),
        (found.replicas - found.value, expected.replicas - expected.value),
    ):
        assert np.abs(changes).max() > 5.0
        np.testing.assert_allclose(changes, others, atol=0.1 * np.abs(others).max())


def test_events_are_those_of_the_maps(measured, profiled, result, simulated):
    maps = scenarios(profiled, result)
    sides = [f"eigenvector {index} {side}" for index in range(2) for side in ("down", "up")]
    assert measured.variations == ["best fit", "replica 0", "replica 1", *sides]
    every = [maps.best, *maps.replicas, *(side for sides in maps.moved for side in sides)]
    for name, one in list(zip(measured.variations, every, strict=True))[::3]:  # of each kind
        events = measured.events(name)
        assert list(events) == ["process", "y", "x", "z", "weight"]
        for process, own in events.groupby("process", sort=False):
            np.testing.assert_array_equal(own["y"], one.to_data(simulated[process], process=process)["y"])
            np.testing.assert_array_equal(own["z"], simulated[process]["z"])
            number = {"signal": 300.0 * one.values["mu_of_published"], "other": 600.0 * 1.05 ** one.values["jes"]}[
                process
            ]
            assert own["weight"].sum() == pytest.approx(number)
            # The ratio of two Gaussians with means 0 and jes, in y as it was simulated.
            ratio = np.exp(one.values["jes"] * simulated[process]["y"]) * simulated[process]["w"]
            np.testing.assert_allclose(own["weight"], number * ratio / ratio.sum(), rtol=1e-6)
    with pytest.raises(ValueError, match=r"no variation 'up'; those that are published are \['best fit', 'replica 0'"):
        measured.events("up")


def test_pandas_alone_gets_the_same_numbers(folder, measured):
    """From the columns and formulas that the manifest documents."""
    manifest = json.loads((folder / "manifest.json").read_text())
    table = pd.read_parquet(folder / manifest["events"]["file"])

    def sums(variation):
        y, weight = table[variation["columns"]["y"]], table[variation["weight"]]
        ratio = y / (1.0 + table["x"] ** 2)
        return np.histogram(ratio, [-1.0, 0.0, 1.0], weights=weight)[0]

    of_kind = {
        kind: [sums(one) for one in manifest["variations"] if one["kind"] == kind] for kind in ("replica", "down", "up")
    }
    (nominal,) = (one for one in manifest["variations"] if one["kind"] == "nominal")
    found = measured.histogram({"ratio": [-1.0, 0.0, 1.0]}, define={"ratio": lambda e: e["y"] / (1.0 + e["x"] ** 2)})
    np.testing.assert_allclose(found.value, sums(nominal), rtol=1e-12)
    np.testing.assert_allclose(found.covariance("statistical"), np.cov(np.array(of_kind["replica"]).T), atol=1e-9)
    shifts = (np.array(of_kind["up"]) - np.array(of_kind["down"])) / 2
    np.testing.assert_allclose(found.covariance("systematic"), shifts.T @ shifts, atol=1e-9)
    assert manifest["columns"]["y"] == {"moved": True, "unit": "GeV", "definition": "what the map moves"}
    assert manifest["columns"]["x"] == {"moved": False, "unit": None, "definition": None}


def test_numbers_of_events(measured):
    """Weights sum to what the model expects, and move with the parameters as it does."""
    best = measured.parameters["value"]
    numbers = {"signal": 300.0 * best["mu_of_published"], "other": 600.0 * 1.05 ** best["jes"]}
    for name, number in numbers.items():
        counted = measured.histogram({"z": [-50.0, 50.0]}, select=lambda events, name=name: events["process"] == name)
        assert counted.value == pytest.approx(number, rel=1e-6)
        assert counted.simulation == pytest.approx(0.0, abs=1e-3)  # what is expected is known
    total, covariance = measured.histogram({"z": [-50.0, 50.0]}), measured.covariance
    slopes = np.array([{"jes": numbers["other"] * np.log(1.05), "mu_of_published": 300.0}[name] for name in covariance])
    # Nearly linear in the parameters: the third order of exp(0.05 jes) is a 10^-4 of the first.
    assert total.systematic[0] == pytest.approx(np.sqrt(slopes @ covariance.to_numpy() @ slopes), rel=1e-3)
    assert measured.parameters["error"].to_dict() == pytest.approx({"jes": 0.3, "mu_of_published": 0.15}, rel=1e-3)


# --- numbers of new observables ----------------------------------------------------------------------------------------


def test_means_and_what_few_simulated_events_do_to_them(measured):
    found = measured.mean("y")
    events = measured.events()
    weights = events["weight"].to_numpy()
    assert found.value == pytest.approx(np.average(events["y"], weights=weights))
    # How many events each process has is known; in each the mean scatters as that of weighted events.
    variance = 0.0
    for _, own in events.groupby("process"):
        centre = np.average(own["y"], weights=own["weight"])
        variance += np.sum((own["weight"] * (own["y"] - centre)) ** 2) / weights.sum() ** 2
    assert found.simulation == pytest.approx(np.sqrt(variance))
    assert found.total == pytest.approx(np.sqrt(found.statistical**2 + found.systematic**2 + found.simulation**2))
    # A column that no map moves is known but for simulation and the parameters.
    assert measured.mean("z").statistical == pytest.approx(0.0, abs=1e-12)
    half = measured.mean("z", select=lambda events: events["z"] > 0)
    assert half.value == pytest.approx(np.sqrt(2 / np.pi), abs=5 * float(half.simulation))


def test_what_a_function_does_to_its_table_does_not_count(measured):
    def spoilt(events):
        events["weight"] = 2.0 + np.sign(events["z"])
        return events["z"]

    found, right = measured.mean(spoilt), measured.mean("z")
    assert found.value == pytest.approx(right.value, rel=1e-12)
    assert found.simulation == pytest.approx(right.simulation, rel=1e-12)


def test_observables_that_events_left_out_do_not_have(measured):
    """A mean was not a number where an observable is infinite outside of the selection, and histograms were refused."""

    def positive(events):
        return events["y"] > 0

    def inverse(events):
        with np.errstate(divide="ignore"):
            return np.where(positive(events), 1.0 / (1.0 + np.maximum(events["y"], 0.0)), np.inf)

    found = measured.mean(inverse, select=positive)
    events = measured.events().query("y > 0")
    assert found.value == pytest.approx(np.average(1.0 / (1.0 + events["y"]), weights=events["weight"]), rel=1e-12)
    known = measured.mean(lambda events: 1.0 / (1.0 + np.abs(events["y"])), select=positive)  # is defined everywhere
    for name in ("statistical", "systematic", "simulation"):
        assert getattr(known, name) > 0
        assert getattr(found, name) == pytest.approx(getattr(known, name), rel=1e-12)
    root = {"root": lambda events: np.sqrt(events["y"].where(positive(events)))}
    counts = measured.histogram({"root": [0.0, 1.0, np.inf]}, define=root, select=positive)
    assert counts.value.sum() == pytest.approx(events["weight"].sum())
    with pytest.raises(ValueError, match="infinite for some of the events"):
        measured.mean(inverse)
    with pytest.raises(ValueError, match="no events are selected"):
        measured.mean("y", select=lambda events: events["y"] > 1e9)


def test_the_simulated_events_scatter_as_said(measured):
    """Against a bootstrap of them, with the sum of weights fixed."""
    found = measured.histogram(EDGES)
    events, rng = measured.events(), np.random.default_rng(5)
    tries = np.zeros((300, 4))
    for _, own in events.groupby("process"):
        y, weight = own["y"].to_numpy(), own["weight"].to_numpy()
        for one in tries:
            again = weight * rng.poisson(1.0, len(weight))
            one += np.histogram(y, EDGES["y"], weights=again)[0] * weight.sum() / again.sum()
    # 300 tries know a standard deviation to 4 %.
    np.testing.assert_allclose(found.simulation, np.std(tries, axis=0), rtol=0.18)
    covariance = found.covariance()
    parts = sum(found.covariance(source) for source in ("statistical", "systematic", "simulation"))
    np.testing.assert_allclose(covariance, parts)
    np.testing.assert_allclose(found.total, np.sqrt(np.diag(covariance)))
    assert json.loads(json.dumps(found.to_dict()))["covariance"].keys() >= {
        "statistical",
        "simulation",
        "jes",
        "eigenvector 0",
    }


def test_histograms_of_two_observables(measured):
    edges = {"y": [-3.0, 0.0, 3.0], "x": [-1.0, 0.0, 0.5, 1.0]}
    found, events = measured.histogram(edges), measured.events()
    expected = np.histogramdd(events[["y", "x"]].to_numpy(), list(edges.values()), weights=events["weight"])[0]
    np.testing.assert_allclose(found.value, expected)
    assert found.covariance().shape == (6, 6)


def test_observables_that_are_none(measured):
    with pytest.raises(ValueError, match=r"no column 'm'; there are \['y', 'x', 'z', 'weight'\]"):
        measured.mean("m")
    with pytest.raises(ValueError, match=r"one number for each of 4096 events; got \(\)"):
        measured.mean(lambda events: events["y"].mean())
    with pytest.raises(ValueError, match="gives no number for 4096 of 4096 events"):
        measured.histogram({"r": [0.0, 1.0]}, define={"r": lambda events: events["y"] * np.nan})
    with pytest.raises(TypeError, match="a column, or a function of the table of events; got 3"):
        measured.mean(3)


# --- what is refused ---------------------------------------------------------------------------------------------------


def test_results_that_are_not_valid(profiled, result, simulated, tmp_path):
    alone = replace(profiled, replicas=())
    with pytest.raises(ValueError, match="without two replicas the statistical uncertainty is not known"):
        publish(alone, result, simulated, tmp_path / "measured")
    far = replace(profiled, window={"jes": 0.1, "mu_of_published": 1.5})
    with pytest.raises(ValueError, match="jes is outside of the window of the map at the eigenvector 0 down"):
        publish(far, result, simulated, tmp_path / "measured")
    assert not list(tmp_path.iterdir())
    few = replace(alone, problems=("checks failed",))
    publish(few, result, simulated, tmp_path / "measured", even_invalid=True)
    with pytest.warns(UserWarning, match="the published result is not valid: checks failed; without two replicas"):
        measured = read(tmp_path / "measured")
    assert not measured.valid
    assert "NOT VALID: checks failed" in str(measured)
    band = measured.histogram(EDGES)
    assert np.isnan(band.total).all()
    to_hepdata({"y": band}, tmp_path / "hepdata")
    assert "statistical" not in (tmp_path / "hepdata" / "submission.yaml").read_text()


def test_an_eigenvector_that_leaves_the_limits_of_a_parameter(profiled, result, simulated, tmp_path):
    """The strength is 1.1 +- 0.15, and may not be larger than 1.12."""
    mu = profiled.parameters["mu_of_published"]
    mu.upper = 1.12
    try:
        message = r"'mu_of_published' is at 1\.\d+ for the eigenvector 0 up, outside of its limits \(0, 1.12\)"
        with pytest.raises(ValueError, match=message):
            publish(profiled, result, simulated, tmp_path / "measured")
        with pytest.raises(ValueError, match=message):
            scenarios(profiled, result).moved[0][1].log_rate({"y": [0.0], "x": [0.0]})
    finally:
        mu.upper = 5.0
    assert not list(tmp_path.iterdir())


def test_fits_that_are_no_minimum_are_told(profiled, result, monkeypatch):
    """Their values are those of the start, and nothing was said."""
    monkeypatch.setattr(type(result), "valid", property(lambda _: False))
    with pytest.warns(
        UserWarning, match=r"the fit of the profile has not converged \(.*\): neither its values nor its errors"
    ):
        scenarios(profiled, result)


def test_parameters_that_were_fixed_in_the_fit(profiled, result, simulated):
    """The map was taken where the fixed one has the value of the one that floats, or the fit was refused."""
    strength, jes = (profiled.parameters[name] for name in ("mu_of_published", "jes"))
    loss = zfit.loss.SimpleLoss(lambda params: 50.0 * (params[0].value() - 1.2) ** 2, [strength], errordef=0.5)
    full = scenarios(profiled, result).best
    with zfit.param.set_values([strength, jes], [1.0, TRUTH["jes"]]):
        found = zfit.minimize.Minuit(gradient="zfit").minimize(loss)
        found.hesse()
        with pytest.raises(
            ValueError, match=r"a fit of \['mu_of_published'\]; the profile has the parameters \['jes', 'mu"
        ):
            scenarios(profiled, found)
        jes.floating = False
        try:
            maps = scenarios(profiled, found)
        finally:
            jes.floating = True
    assert maps.best.values == pytest.approx({"jes": TRUTH["jes"], "mu_of_published": 1.2}, abs=1e-4)
    assert maps.eigenvariations.names == ("mu_of_published",)
    assert {one.values["jes"] for sides in maps.moved for one in sides} == {TRUTH["jes"]}
    for one in (maps.best, *maps.replicas):
        there = replace(full, values=maps.best.values, transfer=one.transfer)
        own, expected = (variation.to_data(simulated["other"], process="other") for variation in (one, there))
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["v"]}, "v"),
        ({"units": {"v": "GeV"}}, r"units= names \['v'\]; the columns that are published are \['y', 'x'\]"),
        ({"made_at": {"jer": 0.0}}, r"made_at= names \['jer'\]; the parameters of the profile are \['jes', 'mu_of"),
        ({"simulation": 3}, r"a mapping from processes to their events, for \['signal', 'other'\]; got 3"),
        ({"simulation": {"signal": {}}}, r"needed of the processes \['signal', 'other'\]; got it of \['signal'\]"),
        ({"simulation": {"signal": 3, "other": 4}}, "simulation of 'signal' is a Simulation, or events; got a int"),
        ({"path": "."}, "there is something at .* already"),
        ({"path": "nowhere/measured"}, "there is no folder .* to put 'measured' into"),
    ],
)
def test_arguments_that_are_wrong(profiled, result, simulated, tmp_path, options, message):
    options = {"simulation": simulated, "path": "measured", **options}
    options["path"] = tmp_path / options["path"]
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        publish(profiled, result, **options)
    assert not list(tmp_path.iterdir())


def test_weights_that_leave_few_events(profiled, result, simulated):
    """Simulation that was made elsewhere is worth little, and said to be."""
    part, sample = profiled.fit.model.pdfs[0], as_sample(simulated["signal"], ["y", "x"], name="signal")
    weigh = _Weights(profiled, part, 0, sample, {"jes": 3.0})
    weigh(scenarios(profiled, result).best)
    with pytest.warns(UserWarning, match=r"best fit: the weights leave \d\.\d% of the simulated events of 'signal'"):
        weigh.check()


def test_weights_where_a_nuisance_is_fixed(profiled, result, simulated):
    """Simulation has it at zero, wherever it is fixed."""
    maps, sample = scenarios(profiled, result), as_sample(simulated["signal"], ["y", "x"], name="signal")
    part, jes = profiled.fit.model.pdfs[0], profiled.parameters["jes"]
    free = _Weights(profiled, part, 0, sample, {})(maps.best)
    with zfit.param.set_values([jes], [maps.best.values["jes"]]):
        jes.floating = False
        try:
            fixed = _Weights(profiled, part, 0, sample, {})(maps.best)
        finally:
            jes.floating = True
    np.testing.assert_allclose(fixed, free, rtol=1e-9)


def changed(folder: Path, to: Path, **changes) -> Path:
    """A copy of a published distribution with other things in its manifest, and the right checksum."""
    from zfit_fnf.doi.manifest import _sha256

    shutil.copytree(folder, to)
    content = json.loads((to / "manifest.json").read_text()) | changes
    content.pop("sha256")
    (to / "manifest.json").write_text(json.dumps({**content, "sha256": _sha256(content)}))
    return to


def test_damaged_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no published distribution at"):
        read(tmp_path)
    original = json.loads((folder / "manifest.json").read_text())
    edited = shutil.copytree(folder, tmp_path / "edited")
    text = (edited / "manifest.json").read_text()
    (edited / "manifest.json").write_text(text.replace('"unit": "GeV"', '"unit": "MeV"'))
    with pytest.raises(ValueError, match="is damaged, or was edited"):
        read(edited)
    (edited / "manifest.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not the manifest of a published distribution"):
        read(edited)
    cut = shutil.copytree(folder, tmp_path / "cut")
    (cut / "events.parquet").write_bytes((folder / "events.parquet").read_bytes()[:-10])
    with pytest.raises(ValueError, match="is not the file that its manifest names"):
        read(cut)
    (cut / "events.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 'events\.parquet'"):
        read(cut)
    for name, change, message in (
        ("format", {"format": 2}, "not a manifest that this version reads"),
        ("covariance", {"covariance": [[1.0, 0.0]]}, "are not of 2 parameters"),
        ("variations", {"variations": original["variations"][1:]}, "the variations are not the nominal one"),
        ("rows", {"events": {**original["events"], "rows": 3}}, "has other rows or columns"),
        ("columns", {"columns": {**original["columns"], "v": original["columns"]["x"]}}, "has other columns"),
    ):
        with pytest.raises(ValueError, match=message):
            read(changed(folder, tmp_path / name, **change))


# --- HEPData -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)  # files it leaves open
def test_tables_of_hepdata(measured, tmp_path):
    """HEPData's own validator takes them, and they say the same numbers."""
    yaml = pytest.importorskip("yaml")
    found = measured.histogram(EDGES)
    to_hepdata({"y": found}, tmp_path / "hepdata", units={"y": "GeV"}, description="a test")
    first, *tables = yaml.safe_load_all((tmp_path / "hepdata" / "submission.yaml").read_text())
    assert first == {"comment": "a test"}
    sources = ["systematic", "simulation", "statistical", "total"]
    assert [table["name"] for table in tables] == ["y", *(f"y, covariance, {source}" for source in sources)]
    content = [yaml.safe_load((tmp_path / "hepdata" / table["data_file"]).read_text()) for table in tables]
    (axis,), (numbers,) = content[0]["independent_variables"], content[0]["dependent_variables"]
    assert axis["header"] == {"name": "y", "units": "GeV"}
    assert [one["low"] for one in axis["values"]] == EDGES["y"][:-1].tolist()
    errors = {e["label"]: e for e in numbers["values"][1]["errors"]}
    assert numbers["values"][1]["value"] == found.value[1]
    assert errors["stat"]["symerror"] == pytest.approx(found.statistical[1])
    assert errors["sys,eigenvector 0"]["asymerror"] == {"minus": found.shifts[0, 0, 1], "plus": found.shifts[0, 1, 1]}
    for source, table in zip([*sources[:-1], None], content[1:], strict=True):
        values = [one["value"] for one in table["dependent_variables"][0]["values"]]
        np.testing.assert_array_equal(np.reshape(values, (4, 4)), found.covariance(source))
    validators = pytest.importorskip("hepdata_validator.full_submission_validator")
    validator = validators.FullSubmissionValidator(schema_version="1.1.1")
    assert validator.validate(directory=str(tmp_path / "hepdata")), validator.get_messages()


def test_what_is_no_table(measured, tmp_path):
    with pytest.raises(ValueError, match="'mean' is not a histogram"):
        to_hepdata({"mean": measured.mean("y")}, tmp_path / "hepdata")
    with pytest.raises(TypeError, match="a mapping from names to histograms"):
        to_hepdata(measured.histogram(EDGES), tmp_path / "hepdata")
    with pytest.raises(ValueError, match="longer than the 64 characters"):
        to_hepdata({"y" * 60: measured.histogram(EDGES)}, tmp_path / "hepdata")
    with pytest.raises(ValueError, match=r"units= names \['Y'\]; the observables of these histograms are \['y'"):
        to_hepdata({"spectrum": measured.histogram(EDGES)}, tmp_path / "hepdata", units={"Y": "GeV"})

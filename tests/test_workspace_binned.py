"""Binned channels of workspaces: HistFactory alone, beside an unbinned channel, and of a converted datacard."""

from __future__ import annotations

import json

import zfit
import iminuit
import numpy as np
import pytest
from scipy.stats import norm

pyhf = pytest.importorskip("pyhf")

from zfit_fnf.report import write_report  # noqa: E402
from zfit_fnf.workspace import Workspace  # noqa: E402
from zfit_fnf.workspace.analysis import Analysis  # noqa: E402
from zfit_fnf.workspace.convert import convert  # noqa: E402
from zfit_fnf.workspace.figures import draw  # noqa: E402

LUMI = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.03], "inits": [1.0], "bounds": [[0.5, 1.5]]}
CONTROL = {
    "version": "1.0.0",
    "channels": [
        {
            "name": "CR",
            "samples": [
                {
                    "name": "background",
                    "data": [200.0, 150.0],
                    "modifiers": [
                        {"name": "scale_b", "type": "normfactor", "data": None},
                        {"name": "jes", "type": "histosys", "data": {"hi_data": [220, 140], "lo_data": [185, 161]}},
                        {"name": "lumi", "type": "lumi", "data": None},
                        {"name": "mc", "type": "staterror", "data": [4.0, 3.0]},
                    ],
                },
                {"name": "other", "data": [5.0, 6.0], "modifiers": [{"name": "lumi", "type": "lumi", "data": None}]},
            ],
        }
    ],
    "observations": [{"name": "CR", "data": [215.0, 148.0]}],
    "measurements": [
        {
            "name": "main",
            "config": {"poi": "scale_b", "parameters": [LUMI]},
        }
    ],
}

BOTH = """\
version: 1
channels:
- name: SR
  observables: {m: {range: [0, 10]}}
  data: {file: data.csv}
  samples:
  - name: signal
    pdf: {type: Gauss, parameters: {mu: 5 + 0.5 * energy, sigma: 0.5}}
    yield: 100
    modifiers:
    - {name: mu, type: normfactor}
    - {name: lumi, type: lumi}
    - {name: energy, type: lnN, data: 1.1}
  - name: background
    pdf: {type: Uniform}
    yield: 200
    modifiers: [{name: scale_b, type: normfactor}]
- name: control
  histfactory: {workspace: control.json, channels: CR, parameters: {jes: energy}}
measurements:
- {name: main, config: {poi: mu}}
"""


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(2)
    return np.concatenate([rng.normal(5.2, 0.5, 105), rng.uniform(0.0, 10.0, 210)])


@pytest.fixture(scope="module")
def analysis(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("both")
    np.savetxt(folder / "data.csv", data, header="m", comments="")
    (folder / "control.json").write_text(json.dumps(CONTROL), encoding="utf-8")
    (folder / "analysis.yaml").write_text(BOTH, encoding="utf-8")
    return Analysis(Workspace.read(folder / "analysis.yaml"), folder / "results", progress=False)


def by_hand(data):
    """The product of the two likelihoods, with that of pyhf itself, in its own parameters."""
    workspace = pyhf.Workspace(CONTROL)
    model = workspace.model(poi_name="scale_b")
    observed = workspace.data(model)
    order = model.config.par_names

    def nll(mu, scale_b, energy, lumi, g0, g1):
        values = {"scale_b": scale_b, "jes": energy, "lumi": lumi, "mc[0]": g0, "mc[1]": g1}
        binned = -float(model.logpdf([values[name] for name in order], observed)[0])
        n, centre = 100 * mu * lumi * 1.1**energy, 5 + 0.5 * energy
        signal = norm.pdf(data, centre, 0.5) / (norm.cdf(10, centre, 0.5) - norm.cdf(0, centre, 0.5))
        return binned + n + 200 * scale_b - np.log(n * signal + 200 * scale_b / 10).sum()

    fit = iminuit.Minuit(nll, mu=1, scale_b=1, energy=0, lumi=1, g0=1, g1=1)
    fit.errordef, fit.strategy = 0.5, 2
    return fit.migrad().hesse()


def test_an_unbinned_and_a_binned_channel_share_their_parameters(analysis, data):
    fit, exact = analysis.fit(), by_hand(data)
    assert set(fit.parameters.index) == {"mu", "scale_b", "energy", "lumi", "mc_0", "mc_1"}
    for name in ("mu", "scale_b", "energy"):
        assert fit.parameters.loc[name, "value"] == pytest.approx(exact.values[name], abs=5e-3 * exact.errors[name])
        assert fit.parameters.loc[name, "error"] == pytest.approx(exact.errors[name], rel=1e-2)
    # lumi counts standard deviations here
    lumi = 1 + 0.03 * fit.parameters.loc["lumi", "value"]
    assert lumi == pytest.approx(exact.values["lumi"], abs=5e-3 * exact.errors["lumi"])
    assert fit.n_events == {"SR": 315.0, "control": 363.0}


def test_expected_events_of_binned_channels(analysis):
    table = analysis.yields().table
    assert table.loc[("CR", "background"), "prefit"] == pytest.approx(350.0)
    assert table.loc[("CR", "other"), "prefit"] == pytest.approx(11.0)
    # the control region measures its background to about its Poisson error
    assert table.loc[("CR", "background"), "postfit"] == pytest.approx(352.0, abs=15.0)
    assert 10 < table.loc[("CR", "background"), "postfit_error"] < 19
    assert table.loc[("control", "total"), "observed"] == 363.0


def test_impacts_and_toys_of_both(analysis):
    assert {"energy", "lumi"} <= set(analysis.impacts().table.index)
    toys = analysis.toys(3)
    assert toys.valid.all()
    assert len(np.unique(toys.values["scale_b"])) == 3


def test_figures_of_binned_channels(analysis):
    names = {path.name for path in draw(analysis, n_events=1000)}
    assert {"projection_control_CR_prefit.png", "projection_control_CR_postfit.png"} <= names
    assert "HistFactory workspace" in write_report(analysis).read_text(encoding="utf-8")


def test_a_binned_workspace_alone_is_that_of_pyhf(tmp_path):
    (tmp_path / "control.json").write_text(json.dumps(CONTROL), encoding="utf-8")
    (tmp_path / "analysis.yaml").write_text(
        "version: 1\nchannels: [{name: control, histfactory: {workspace: control.json}}]\n"
        "measurements: [{name: main, config: {poi: scale_b}}]\n",
        encoding="utf-8",
    )
    nll = Workspace.read(tmp_path / "analysis.yaml").loss()
    workspace = pyhf.Workspace(CONTROL)
    model = workspace.model()
    rng, differences = np.random.default_rng(1), []
    for _ in range(5):
        values = {"scale_b": rng.uniform(0.5, 1.5), "jes": rng.normal(), "lumi": rng.normal()}
        values.update({"mc_0": rng.normal(), "mc_1": rng.normal()})
        params = list(nll.get_params())
        zfit.param.set_values(params, [values[one.name] for one in params])
        # what has a Gaussian constraint counts standard deviations here
        theirs = {**values, "lumi": 1 + 0.03 * values["lumi"]}
        widths = model.config.param_set("mc").sigmas
        theirs.update({f"mc[{i}]": 1 + width * values[f"mc_{i}"] for i, width in enumerate(widths)})
        point = [theirs[name] for name in model.config.par_names]
        differences.append(float(nll.value()) + float(model.logpdf(point, workspace.data(model))[0]))
    assert np.ptp(differences) < 1e-8


COUNTED = """\
version: 1
channels:
- name: SR
  binned: true
  observables: {m: {range: [0, 10], bins: 5}}
  data: {file: data.csv}
  samples:
  - name: signal
    yield: 50
    events:
      nominal: {file: signal.csv, weights: w}
      variations:
      - {at: {jes: 1}, columns: {m: 0.9 * m + 0.2}}
      - {at: {jes: -1}, columns: {m: 1.02 * m - 0.02 * m**2 / 10}}
      - {at: {theory: 1}, weights: w * (1 + 0.05 * m)}
    modifiers:
    - {name: mu, type: normfactor}
    - {name: jes, type: shape}
    - {name: theory, type: shape}
    - {name: theory, type: normsys, data: events}
    - {name: eff, type: lnN, data: 1.1}
  - name: background
    pdf: {type: Exponential, parameters: {lam: slope}}
    yield: 200
measurements:
- name: main
  config: {poi: mu, parameters: [{name: slope, inits: [-0.2], auxdata: [-0.2], sigmas: [0.05]}]}
"""


def test_events_of_a_workspace_may_be_counted(tmp_path, data):
    rng = np.random.default_rng(4)
    m, w = rng.uniform(0.5, 9.5, 400), rng.uniform(0.1, 0.3, 400)
    np.savetxt(tmp_path / "signal.csv", np.stack([m, w], axis=1), header="m,w", comments="", delimiter=",", fmt="%.17g")
    np.savetxt(tmp_path / "data.csv", data, header="m", comments="", fmt="%.17g")
    (tmp_path / "analysis.yaml").write_text(COUNTED, encoding="utf-8")
    workspace = Workspace.read(tmp_path / "analysis.yaml")
    assert workspace.tasks(tmp_path) == []  # nothing is to be learned
    nll = workspace.loss()
    params = {one.name: one for one in nll.get_params()}
    edges, observed = np.linspace(0, 10, 6), np.histogram(data, np.linspace(0, 10, 6))[0]
    varied = {
        ("jes", 0.0): (m, w),
        ("jes", 1.0): (0.9 * m + 0.2, w),
        ("jes", -1.0): (1.02 * m - 0.002 * m**2, w),
        ("theory", 1.0): (m, w * (1 + 0.05 * m)),
    }

    def by_hand(mu, which, nu, eff, slope):
        values, weights = varied[which, nu]
        shape = np.histogram(values, edges, weights=weights)[0] / weights.sum()
        rate = weights.sum() / w.sum() if which == "theory" else 1.0
        background = np.diff(np.exp(slope * edges)) / (np.exp(10 * slope) - 1)
        expected = 50 * mu * rate * 1.1**eff * shape + 200 * background
        constraints = 0.5 * (nu**2 + eff**2 + ((slope + 0.2) / 0.05) ** 2)
        return expected.sum() - observed @ np.log(expected) + constraints

    differences = []
    points = [(1.0, "jes", 0.0, 0.0, -0.2), (1.5, "jes", 1.0, 0.5, -0.1), (0.7, "jes", -1.0, -1, -0.3)]
    for mu, which, nu, eff, slope in [*points, (2.0, "theory", 1.0, 0.3, -0.15)]:
        values = {"mu": mu, "jes": 0.0, "theory": 0.0, "eff": eff, "slope": slope} | {which: nu}
        zfit.param.set_values([params[name] for name in values], list(values.values()))
        differences.append(float(nll.value()) - by_hand(mu, which, nu, eff, slope))
    assert np.ptp(differences) < 1e-8
    analysis = Analysis(workspace, tmp_path / "results", progress=False)
    assert analysis.fit(minos=False).valid
    assert analysis.yields().table.loc[("SR", "signal"), "prefit"] == pytest.approx(50.0)
    assert {path.stem for path in draw(analysis)} >= {"projection_SR_SR_postfit", "pulls"}
    with pytest.raises(ValueError, match="histograms of its events"):
        workspace.pack(tmp_path, tmp_path / "a.zip")


TWO = """\
version: 1
calibrate: true
channels:
- name: SR
  binned: true
  observables: {m: {range: [0, 10], bins: 2}}
  data: {file: data.csv}
  samples:
  - name: signal
    yield: n_signal
    events: {nominal: {file: signal.csv}}
    modifiers: [{name: mu, type: normfactor}]
  - name: background
    yield: 2 * n_signal
    events: {nominal: {file: background.csv}}
measurements:
- name: main
  config: {poi: mu, parameters: [{name: n_signal, inits: [500], fixed: true}]}
"""


def test_statistical_errors_of_counted_events_are_those_of_the_yields(tmp_path, data):
    """However many events stand for them: a few of the signal and many of the background."""
    rng = np.random.default_rng(6)
    events = {"signal": rng.uniform(0, 10, 40), "background": rng.uniform(0, 10, 5000), "data": data}
    for name, m in events.items():
        np.savetxt(tmp_path / f"{name}.csv", m, header="m", comments="", fmt="%.17g")
    (tmp_path / "analysis.yaml").write_text(TWO, encoding="utf-8")
    nll = Workspace.read(tmp_path / "analysis.yaml").loss()
    expected = np.asarray(nll.model[0].expected_by_sample())
    np.testing.assert_allclose(expected.sum(axis=1), [1000.0, 500.0])  # pyhf sorts them by name
    for one in (one for one in nll.get_params() if one.name.startswith("staterror")):
        one.set_value(1.0)
    counts = [np.histogram(events[name], [0, 5, 10])[0] for name in ("background", "signal")]
    scales = [1000.0 / 5000, 500.0 / 40]
    right = np.sqrt(sum(scale**2 * n for scale, n in zip(scales, counts, strict=True))) / expected.sum(axis=0)
    moved = np.asarray(nll.model[0].expected_by_sample()).sum(axis=0) / expected.sum(axis=0)
    np.testing.assert_allclose(moved - 1.0, right, rtol=1e-9)
    # Without them nothing moves the templates.
    (tmp_path / "analysis.yaml").write_text(TWO.replace("calibrate: true\n", ""), encoding="utf-8")
    plain = Workspace.read(tmp_path / "analysis.yaml").loss()
    assert [one.name for one in plain.get_params()] == ["mu"]
    np.testing.assert_allclose(plain.model[0].expected_by_sample(), expected)


def test_a_workspace_in_bins_is_one_of_pyhf(tmp_path, data):
    """Templates are integrals of the densities; HistFactory channels stay as they are; what is not the same is listed."""
    more = "    - {name: k, type: expression, data: kappa**2}\n    - {name: theory, type: lnN, data: [0.8, 1.1]}\n"
    more += "  - name: background\n"
    document = BOTH.replace("[0, 10]", "[0, 10], bins: 20").replace("  - name: background\n", more)
    document = document.replace("{type: Uniform}", "{type: Exponential, parameters: {lam: slope}}")
    settings = "{name: kappa, inits: [1.1]}, {name: slope, inits: [-0.1]}, {name: energy, fixed: true}"
    settings += ", {name: scale_b, auxdata: [1.2], sigmas: [0.1], inits: [1.1]}"
    (tmp_path / "analysis.yaml").write_text(
        document.replace("poi: mu", f"poi: mu, parameters: [{settings}]"), encoding="utf-8"
    )
    np.savetxt(tmp_path / "data.csv", data, header="m", comments="", fmt="%.17g")
    measured = "'scale_b' is measured by a Gaussian, and a factor that is not in channel 'CR'"
    (tmp_path / "control.json").write_text(json.dumps(CONTROL), encoding="utf-8")
    with pytest.raises(ValueError, match=measured):
        convert(tmp_path / "analysis.yaml")
    (tmp_path / "control.json").write_text(json.dumps(CONTROL).replace("scale_b", "norm_b"), encoding="utf-8")
    conversion = convert(tmp_path / "analysis.yaml")
    assert conversion.left == [
        "k: a free factor in place of kappa**2",
        "slope: fixed at -0.1; HistFactory has no such parameter",
        "signal in SR: lnN theory [0.8, 1.1] becomes normsys, which interpolates otherwise within one sigma",
        "CR: 'lumi' is a normsys, as it is in other channels, and no lumi",
    ]
    conversion.write(tmp_path / "binned.json")
    workspace = pyhf.Workspace(json.loads((tmp_path / "binned.json").read_text(encoding="utf-8")))
    model = workspace.model()
    assert model.config.poi_name == "mu"
    assert [one["name"] for one in model.spec["channels"][0]["samples"]] == ["signal", "background"]
    observed = [*np.histogram(data, np.linspace(0, 10, 21))[0], 215, 148]
    np.testing.assert_array_equal([*workspace.observations["SR"], *workspace.observations["CR"]], observed)
    known = dict(zip(model.config.par_names, model.config.suggested_init(), strict=True))
    assert {name: known[name] for name in ("mu", "k", "norm_b", "lumi", "scale_b")} == pytest.approx(
        {"mu": 1.0, "k": 1.21, "norm_b": 1.0, "lumi": 0.0, "scale_b": 0.0}
    )
    fixed = dict(zip(model.config.par_order, model.config.suggested_fixed(), strict=False))
    assert fixed["energy"]
    edges = np.linspace(0, 10, 21)
    background = 200 * np.diff(np.exp(-0.1 * edges)) / (np.exp(-1.0) - 1)
    control = np.array([[200.0, 150.0], [5.0, 6.0]])
    of_jes = {1: np.array([220, 140]), -1: np.array([185, 161])}
    for mu, k, energy, lumi, scale in [(1.3, 0.5, 0, 0, 0), (0.8, 2, 1, 1, -1), (2.0, 1, -1, -1, 1)]:
        values = {**known, "mu": mu, "k": k, "energy": energy, "lumi": lumi, "scale_b": scale, "norm_b": 1.1}
        expected = model.expected_actualdata([values[name] for name in model.config.par_names])
        peak = np.diff(norm.cdf(edges, 5 + 0.5 * energy, 0.5))
        signal = (
            100 * mu * k * (1 + 0.03 * lumi) * 1.1**energy * peak / (1 - 2 * norm.sf(5 - 0.5 * abs(energy), 0, 0.5))
        )
        there = 1.1 * of_jes.get(energy, control[0]) * (1 + 0.03 * lumi) + control[1] * (1 + 0.03 * lumi)
        where = model.config.channel_slices
        np.testing.assert_allclose(expected[where["SR"]], signal + (1.2 + 0.1 * scale) * background, rtol=1e-9)
        np.testing.assert_allclose(expected[where["CR"]], there, rtol=1e-9)


def test_outcomes_of_measurements_of_nuisances_are_those_of_pyhf(tmp_path):
    """Global observables away from zero, as in workspaces of pseudo-experiments, and as they come back from a conversion."""
    document = json.loads(json.dumps(CONTROL))
    document["measurements"][0]["config"]["parameters"].append({"name": "jes", "auxdata": [0.8]})
    source = pyhf.Workspace(document)
    model = source.model(poi_name="scale_b")
    observed, order = source.data(model), model.config.par_names

    def nll(*values):
        return -float(model.logpdf(list(values), observed)[0])

    exact = iminuit.Minuit(nll, *model.config.suggested_init(), name=order)
    exact.errordef, exact.strategy = 0.5, 2
    exact.migrad().hesse()
    (tmp_path / "control.json").write_text(json.dumps(document), encoding="utf-8")
    convert(tmp_path / "control.json").write(tmp_path / "analysis.yaml")
    fit = Analysis(Workspace.read(tmp_path / "analysis.yaml"), tmp_path / "results", progress=False).fit(minos=False)
    for name in ("scale_b", "jes"):
        assert fit.parameters.loc[name, "value"] == pytest.approx(exact.values[name], abs=5e-3 * exact.errors[name])
    assert fit.parameters.loc["jes", "measured"] == 0.8
    back = pyhf.Workspace(convert(tmp_path / "analysis.yaml").document).model()
    assert (back.config.auxdata_order, back.config.auxdata) == (model.config.auxdata_order, model.config.auxdata)
    other = (
        (tmp_path / "analysis.yaml").read_text(encoding="utf-8").replace("sigmas:\n      - 1.0", "sigmas:\n      - 0.5")
    )
    (tmp_path / "other.yaml").write_text(other, encoding="utf-8")
    with pytest.raises(ValueError, match="no other sigmas than 1"):
        Workspace.read(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            {**LUMI, "sigmas": [0.1]},
            "'lumi' is measured or fixed otherwise than in channel 'one'",
        ),
        ({"name": "jes", "fixed": True}, "'jes' is measured or fixed otherwise"),
    ],
)
def test_channels_that_disagree_on_a_measurement_are_refused(tmp_path, setting, words):
    """The one that came last was taken: a luminosity known to 0.1 in place of 0.03, and twice the error of a yield."""
    document = """\
version: 1
channels:
- {name: one, histfactory: {workspace: one.json}}
- {name: two, histfactory: {workspace: two.json}}
measurements:
- {name: main, config: {poi: scale_b, parameters: []}}
"""
    two = json.loads(json.dumps(CONTROL).replace('"CR"', '"CR2"').replace('"mc"', '"mc2"'))
    (tmp_path / "one.json").write_text(json.dumps(CONTROL), encoding="utf-8")
    (tmp_path / "two.json").write_text(json.dumps(two).replace('"mc2"', '"mc"'), encoding="utf-8")
    (tmp_path / "analysis.yaml").write_text(document, encoding="utf-8")
    with pytest.raises(ValueError, match="the errors 'mc' of bins are also those of channel 'one'"):
        Workspace.read(tmp_path / "analysis.yaml")
    two["measurements"][0]["config"]["parameters"] = [setting] if setting["name"] == "lumi" else [LUMI, setting]
    for name, content in (("one", CONTROL), ("two", two)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "analysis.yaml").write_text(document, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        Workspace.read(tmp_path / "analysis.yaml")
    said = json.dumps(setting)
    (tmp_path / "analysis.yaml").write_text(document.replace("[]", f"[{said}]"), encoding="utf-8")
    assert Workspace.read(tmp_path / "analysis.yaml").loss() is not None

"""Datacards and pyhf workspaces become workspaces, and what cannot be converted is listed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import zfit
import hist
import numpy as np
import pyhf
import pytest
import uproot
from typer.testing import CliRunner

from zfit_fnf.cli import NOT_VALID, app
from zfit_fnf.workspace import Workspace
from zfit_fnf.workspace.convert import convert
from zfit_fnf.workspace.datacard import Card
from zfit_fnf.workspace.reference import reference

CARD = """\
imax 2 number of channels
jmax *
kmax *
---------------
shapes * sr shapes.root $CHANNEL/$PROCESS $CHANNEL/$PROCESS_$SYSTEMATIC
shapes data_obs sr shapes.root $CHANNEL/data_obs
shapes * cr FAKE
---------------
bin sr cr
observation -1 100
---------------
bin sr sr cr
process sig bkg bkg
process 0 1 1
rate 10 -1 90
---------------
lumi lnN 1.02 1.02 1.02   # a comment
asym lnN - 0.9/1.2 -
jes shape 1 1 -
bnorm rateParam * bkg 1 [0,5]
alpha param 0.5 0.1
weird gmN 4 0.1 - -
theory group = asym lumi
* autoMCStats 10
"""
SIGNAL, BACKGROUND = np.array([2.0, 4.0, 6.0, 8.0]), np.array([40.0, 30.0, 20.0, 10.0])
UP, DOWN = np.array([1.2, 1.0, 1.0, 0.9]), np.array([0.8, 1.0, 1.0, 1.1])


@pytest.fixture
def folder(tmp_path):
    def histogram(values):
        filled = hist.Hist(hist.axis.Regular(4, 0, 4), storage=hist.storage.Weight())
        filled.view().value, filled.view().variance = values, 0.1 * values
        return filled

    with uproot.recreate(tmp_path / "shapes.root") as file:
        file["sr/data_obs"] = histogram(np.array([41.0, 33.0, 22.0, 15.0]))
        for name, values in (("sig", SIGNAL), ("bkg", BACKGROUND)):
            file[f"sr/{name}"] = histogram(values)
            file[f"sr/{name}_jesUp"], file[f"sr/{name}_jesDown"] = histogram(values * UP), histogram(values * DOWN)
    (tmp_path / "card.txt").write_text(CARD, encoding="utf-8")
    return tmp_path


def test_histograms_of_a_datacard_become_histfactory(folder):
    conversion = convert(folder / "card.txt")
    sr, cr = conversion.document["channels"][0]["histfactory"]["workspace"]["channels"]
    signal, background = sr["samples"]
    assert signal["data"] == pytest.approx(SIGNAL / 2)  # the rate is half of the integral
    assert background["data"] == pytest.approx(BACKGROUND)
    modifiers = {(one["name"], one["type"]): one["data"] for one in background["modifiers"]}
    assert modifiers["lumi", "normsys"] == {"lo": pytest.approx(1 / 1.02), "hi": 1.02}
    assert modifiers["asym", "normsys"] == {"lo": 0.9, "hi": 1.2}
    # The yield and the distribution multiply to the varied histogram.
    for key, varied in (("hi", BACKGROUND * UP), ("lo", BACKGROUND * DOWN)):
        shape = np.array(modifiers["jes", "histosys"][f"{key}_data"])
        assert shape.sum() == pytest.approx(BACKGROUND.sum())
        assert modifiers["jes", "normsys"][key] * shape == pytest.approx(varied)
    assert modifiers["statistics_sr", "staterror"] == pytest.approx(np.sqrt(0.1 * BACKGROUND))
    assert ("bnorm", "normfactor") in modifiers
    assert {one["type"] for one in signal["modifiers"] if one["name"] == "r"} == {"normfactor"}
    assert cr["samples"][0]["data"] == [90.0]
    observed = conversion.document["channels"][0]["histfactory"]["workspace"]["observations"]
    assert [one["data"] for one in observed] == [[41.0, 33.0, 22.0, 15.0], [100.0]]


def test_what_is_left_is_listed_by_line(folder):
    left = convert(folder / "card.txt").left
    assert [one.partition(":")[0] for one in left] == ["line 18", "line 21", "line 22", "line 24"]
    done = CliRunner().invoke(app, ["convert", str(folder / "card.txt"), "-o", str(folder / "analysis.yaml")])
    assert done.exit_code == NOT_VALID
    text = (folder / "analysis.yaml").read_text(encoding="utf-8")
    for one in left:
        assert one in done.stdout
        assert f"# {one}\n" in text


DISGUISED = {
    "lumi lnN 1.02 1.02 1.02": "lumi lnN 1.02 0.0 1.02",
    "jes shape 1 1 -": "jes shape? 1 1.0 1.1",
    "asym lnN - 0.9/1.2 -": "asym shape? 1.07 0.9/1.2 -",
}


def test_shapes_without_histograms_are_log_normal(folder):
    """As in combine; and an effect of 0.0 is none."""
    text = CARD
    for before, after in DISGUISED.items():
        assert before in text
        text = text.replace(before, after)
    with uproot.update(folder / "shapes.root") as file:  # more at +1 than at -1
        for side, values in (("Up", 1.3 * BACKGROUND), ("Down", BACKGROUND)):
            file[f"sr/bkg_jes{side}"] = (values, np.arange(5.0))
    (folder / "card.txt").write_text(text, encoding="utf-8")
    conversion = convert(folder / "card.txt")
    sr, cr = conversion.document["channels"][0]["histfactory"]["workspace"]["channels"]
    signal, background, other = (
        {(one["name"], one["type"]): one["data"] for one in sample["modifiers"]}
        for sample in (*sr["samples"], *cr["samples"])
    )
    assert ("lumi", "normsys") not in background
    assert signal["asym", "normsys"] == {"lo": pytest.approx(1 / 1.07), "hi": 1.07}
    assert background["asym", "normsys"] == {"lo": 0.9, "hi": 1.2}
    assert other["jes", "normsys"] == {"lo": pytest.approx(1 / 1.1), "hi": 1.1}
    assert ("jes", "histosys") in signal
    (jes,) = [one for one in conversion.left if one.startswith("line 19")]
    assert "the yield of bkg is converted as normsys" in jes
    assert "yield of sig" not in jes  # its factors are nearly inverse to each other


def test_a_converted_datacard_is_a_workspace(folder):
    convert(folder / "card.txt").write(folder / "analysis.yaml")
    workspace = Workspace.read(folder / "analysis.yaml")
    kinds = {name: one.kind for name, one in workspace.parameters().items()}
    nuisances = dict.fromkeys(("lumi", "asym", "jes"), "nuisance")
    assert kinds == {"r": "factor", "bnorm": "factor", "weird": "factor", **nuisances}
    assert workspace.parameters()["bnorm"].settings.bounds == ((0.0, 5.0),)
    assert workspace.document.groups == {"theory": ["asym", "lumi"]}


PRECEDENCE = """\
shapes * * a.root $CHANNEL/$PROCESS
shapes sig * b.root $CHANNEL/$PROCESS
shapes * c2 c.root $CHANNEL/$PROCESS
bin c1 c2
observation 1 1
bin c1 c1 c2 c2
process sig bkg sig bkg
process 0 1 0 1
rate 1 1 1 1
scale rateParam c? bkg 1.2 [-3,4]
scale param 1.1 0.1
lost rateParam c3 bkg 1
c* autoMCStats 0
c1 autoMCStats -1
"""


def test_lines_of_a_datacard_mean_what_they_do_in_combine(tmp_path):
    (tmp_path / "card.txt").write_text(PRECEDENCE, encoding="utf-8")
    card = Card.read(tmp_path / "card.txt")
    files = {
        (process, channel): card.rule(process, channel).file for process in ("sig", "bkg") for channel in card.channels
    }
    # a line of the channel comes before one of the process
    assert files == {("sig", "c1"): "b.root", ("bkg", "c1"): "a.root", ("sig", "c2"): "c.root", ("bkg", "c2"): "c.root"}
    assert card.statistics == {"c1": (0, False), "c2": (13, False)}
    (tmp_path / "card.txt").write_text(re.sub(".*[.]root.*\\n", "", PRECEDENCE), encoding="utf-8")
    conversion = convert(tmp_path / "card.txt")
    assert conversion.left == ["line 9: rateParam lost: there is no process 'bkg' in 'c3'"]
    (scale,) = [one for one in conversion.document["measurements"][0]["config"]["parameters"] if one["name"] == "scale"]
    assert scale == {"name": "scale", "inits": [1.2], "bounds": [[-3.0, 4.0]], "auxdata": [1.1], "sigmas": [0.1]}


UNBINNED = """\
imax 1
shapes * sr events.root w:$PROCESS
bin sr
observation -1
bin sr sr
process -1 1
process ggH bkg
rate 120 900
lumi lnN 1.02 1.02
asym lnN 0.9/1.2 -
jes shape 0.5 -
jer shape? 0.9/1.1 -
kappa rateParam sr bkg 1
scaled rateParam sr ggH (@0*@0) alpha
alpha param 1 0.1
"""


def test_events_of_a_datacard_are_to_be_filled_in(tmp_path):
    (tmp_path / "card.txt").write_text(UNBINNED, encoding="utf-8")
    conversion = convert(tmp_path / "card.txt")
    (channel,) = conversion.document["channels"]
    signal, background = channel["samples"]
    assert (signal["yield"], background["yield"]) == (120.0, 900.0)
    modifiers = [(one["name"], one["type"], one.get("data")) for one in signal["modifiers"]]
    assert modifiers == [
        ("r", "normfactor", None),
        ("lumi", "lnN", 1.02),
        ("asym", "lnN", [0.9, 1.2]),
        ("jes", "shape", None),
        ("scaled", "expression", "(alpha*alpha)"),
    ]
    # events of a shape that is scaled by a half are at two standard deviations
    assert [one["at"] for one in signal["events"]["variations"]] == [{"jes": 2}, {"jes": -2}]
    assert len(conversion.left) == 2
    assert "line 12: jer shape? 0.9/1.1: a shape with two factors" in conversion.left[1]
    assert "line 2: shapes * sr events.root w:$PROCESS: RooFit workspaces are not read" in conversion.left[0]
    conversion.write(tmp_path / "analysis.yaml")
    workspace = Workspace.read(tmp_path / "analysis.yaml", files=False)
    assert workspace.parameters()["alpha"].settings.auxdata == (1.0,)


COUNTING = """\
imax 1
bin sr
observation 25
bin sr sr sr
process sig bkg other
process 0 1 2
rate 5 20 4
control gmN 10 - 2.0 -
size lnU - - 1.5
lumi lnN 1.02 1.02 1.02
other lnN - 1.1 1.1
shape lnN 1.3 1.3 1.3
ghost flatParam
nuisance edit rename * sr shape second
nuisance edit drop sig * second
nuisance edit add other sr third lnN 1.2
nuisance edit freeze lumi
nuisance edit drop bkg sr nothing ifexists
nuisance edit drop bkg sr nothing
nuisance edit merge a b c
"""


def test_counts_of_control_regions_and_edits_are_those_of_combine(tmp_path):
    (tmp_path / "card.txt").write_text(COUNTING, encoding="utf-8")
    conversion = convert(tmp_path / "card.txt")
    assert [one.partition(": ")[0] for one in conversion.left] == ["line 13", "line 19", "line 20"]
    conversion.write(tmp_path / "analysis.yaml")
    workspace = Workspace.read(tmp_path / "analysis.yaml")
    parameters = workspace.parameters()
    assert parameters["lumi"].settings.fixed
    assert parameters["size"].settings.bounds == ((pytest.approx(1 / 1.5), 1.5),)
    nll = workspace.loss()
    params = {one.name: one for one in nll.get_params(floating=None)}
    assert set(params) == {"r", "control", "size", "lumi", "other", "second", "third"}

    def exact(r, control, size, other, second, third):
        background = 20 * control * 1.1**other * 1.3**second
        expected = 5 * r + background + 4 * size * 1.1**other * 1.3**second * 1.2**third
        counts = expected - 25 * np.log(expected) + 10 * control - 10 * np.log(10 * control)
        return counts + 0.5 * (other**2 + second**2 + third**2)

    rng, differences = np.random.default_rng(1), []
    for _ in range(5):  # beyond one sigma, where normsys is exponential as lnN is
        sizes = dict(zip(("other", "second", "third"), rng.choice([-1, 1], 3) * rng.uniform(1, 2, 3), strict=True))
        values = {"r": rng.uniform(0, 2), "control": rng.uniform(0.5, 2), "size": rng.uniform(0.7, 1.5), **sizes}
        zfit.param.set_values([params[name] for name in values], list(values.values()))
        differences.append(float(nll.value()) - exact(**values))
    assert np.ptp(differences) < 1e-9


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("rate 10 -1 90", "", "has no rates"),
        ("asym lnN - 0.9/1.2 -", "asym lnN - 0.9/1.2", "line 18: asym has 2 entries for 3 processes"),
        ("shapes * sr shapes.root", "shapes * sr other.root", "line 5 .* there is no file"),
        ("$CHANNEL/$PROCESS $CH", "$CHANNEL/x_$PROCESS $CH", "line 5: 'shapes.root' has no 'sr/x_sig'"),
        (
            "$CHANNEL/$PROCESS $CH",
            "$CHANNEL/$PROCESS$MASS $CH",
            r"line 5 .*'\$CHANNEL/\$PROCESS\$MASS' has no value here",
        ),
        ("bin sr sr cr", "bin sr sr zr", "has the bin 'zr'"),  # its processes were left out
        ("rate 10 -1 90", "rate 10 -1 -1", "rate of bkg in cr is -1, and it has no histogram"),  # -1 events
        ("rate 10 -1 90", "rate 10 -2 90", "line 15: .*-2 is no rate"),
        ("observation -1 100", "observation -1 -1", "neither how many events 'cr' observed"),
    ],
)
def test_a_damaged_datacard_is_one_error(folder, before, after, message):
    assert before in CARD
    (folder / "card.txt").write_text(CARD.replace(before, after), encoding="utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(folder / "card.txt")


def test_an_empty_process_has_no_shape_and_data_are_those_of_the_histogram(folder):
    """Its yield was not a number, at no other."""
    with uproot.update(folder / "shapes.root") as file:
        for end in ("", "_jesUp", "_jesDown"):
            file[f"sr/sig{end}"] = (np.zeros(4), np.arange(5.0))
    card = CARD.replace("rate 10 -1", "rate -1 -1").replace("observation -1", "observation 110")
    (folder / "card.txt").write_text(card, encoding="utf-8")
    conversion = convert(folder / "card.txt")
    json.dumps(conversion.document, allow_nan=False)
    (data,) = [one for one in conversion.left if one.startswith("line 10")]
    assert "sr has 111 events in its histogram, not 110; the histogram is taken" in data


def test_missing_variations_are_listed(folder):
    (folder / "card.txt").write_text(CARD.replace("jes shape", "jer shape"), encoding="utf-8")
    assert any(
        "line 19: jer shape" in one and "has no 'sr/sig_jerUp'" in one for one in convert(folder / "card.txt").left
    )


REPEATED = """\
bin sr cr
observation 25 90
bin sr sr cr
process sig bkg bkg
process 0 1 1
rate 5 20 80
jes lnN 1.1 1.1 1.05
jes lnN - 1.2 -
free rateParam sr bkg 1.5 [0.5, 2.0]
free rateParam cr bkg 1.5
free rateParam sr bkg 1.5
other lnN - 1.3 -
all group = jes other nothing
nuisance edit rename * * other jes
nuisance edit add bkg sr jes lnN 1.4
nuisance edit freeze nothing
"""


def test_effects_that_are_repeated_multiply(tmp_path):
    """Of several modifiers of one name pyhf takes the last: of a shape and a lnN of one nuisance the yield was lost."""
    (tmp_path / "card.txt").write_text(REPEATED, encoding="utf-8")
    conversion = convert(tmp_path / "card.txt")
    assert [one.partition(": ")[0] for one in conversion.left] == [f"line {line}" for line in (11, 13, 14, 15, 16)]
    conversion.write(tmp_path / "analysis.yaml")
    nll = Workspace.read(tmp_path / "analysis.yaml").loss()
    params = {one.name: one for one in nll.get_params(floating=None)}
    assert params["free"].lower == 0.5  # the range of one line counts for both

    def exact(r, free, jes, other):
        sr = 5 * r * 1.1**jes + 20 * free * 1.1**jes * 1.2**jes * 1.3**other
        cr = 80 * free * 1.05**jes
        return sr - 25 * np.log(sr) + cr - 90 * np.log(cr) + 0.5 * (jes**2 + other**2)

    differences = []
    for values in ((1.0, 1.5, 1.2, -1.5), (0.5, 0.9, -1.4, 1.3), (2.0, 1.1, -1.9, 1.0)):
        point = dict(zip(("r", "free", "jes", "other"), values, strict=True))
        zfit.param.set_values([params[name] for name in point], list(values))
        differences.append(float(nll.value()) - exact(*values))
    assert np.ptp(differences) < 1e-9


def test_effects_on_events_that_are_repeated_multiply(tmp_path):
    """A workspace does not take one name twice; and what has no bins, or no meaning, is listed."""
    more = "lumi lnN 1.1 -\nasym lnN 1.1 -\njes shape 1 -\nwrong rateParam sr bkg (@0*@1) alpha\n* autoMCStats 10\n"
    (tmp_path / "card.txt").write_text(UNBINNED + more, encoding="utf-8")
    conversion = convert(tmp_path / "card.txt")
    signal, background = conversion.document["channels"][0]["samples"]
    found = {one["name"]: one["data"] for one in signal["modifiers"] if one["type"] == "lnN"}
    assert found == {"lumi": pytest.approx(1.02 * 1.1), "asym": pytest.approx([0.9 / 1.1, 1.2 * 1.1])}
    assert background["modifiers"][0]["data"] == 1.02
    assert len(signal["events"]["variations"]) == 2
    left = "\n".join(conversion.left)
    for reason in (
        "line 18: jes shape 1: an earlier line is its shape",
        "line 19: rateParam wrong: the formula '(@0*@1) alpha'",
    ):
        assert reason in left
    assert "line 20: autoMCStats: sr has events, and no bins" in left
    conversion.write(tmp_path / "analysis.yaml")
    Workspace.read(tmp_path / "analysis.yaml", files=False)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("jes lnN - 1.2 -", "jes lnN - -/1.2 -", "line 8: jes lnN - -/1.2 -: it is not understood"),
        ("jes lnN - 1.2 -", "jes lnN - 0/1.2 -", "not a positive factor"),
        ("jes lnN - 1.2 -", "jes lnN - nan -", "not a positive factor"),
        ("jes lnN - 1.2 -", "jes gmN 5.5 - 4 -", "5.5 is no number of events"),
        ("free rateParam sr bkg 1.5 [0.5, 2.0]", "free rateParam sr bkg", "line 9: free rateParam sr bkg: it is not"),
        ("free rateParam sr bkg 1.5 [0.5, 2.0]", "free rateParam sr bkg 3 [0,2]", "its value 3 is outside"),
        ("free rateParam cr bkg 1.5", "free rateParam cr bkg 1", "it has the value 1.5 and the range"),
    ],
)
def test_what_a_line_cannot_mean_is_listed(tmp_path, before, after, reason):
    assert before in REPEATED
    (tmp_path / "card.txt").write_text(REPEATED.replace(before, after, 1), encoding="utf-8")
    assert any(reason in one for one in convert(tmp_path / "card.txt").left)


PYHF = {
    "version": "1.0.0",
    "channels": [
        {
            "name": "CR",
            "samples": [
                {
                    "name": "background",
                    "data": [50.0, 60.0],
                    "modifiers": [
                        {"name": "mu", "type": "normfactor", "data": None},
                        {"name": "lumi", "type": "lumi", "data": None},
                        {"name": "jes", "type": "normsys", "data": {"lo": 0.9, "hi": 1.1}},
                        {"name": "free", "type": "shapefactor", "data": None},
                    ],
                }
            ],
        }
    ],
    "observations": [{"name": "CR", "data": [52.0, 61.0]}],
    "measurements": [
        {
            "name": "main",
            "config": {
                "poi": "mu",
                "parameters": [
                    {"name": "mu", "inits": [1.0], "bounds": [[0.0, 3.0]]},
                    {"name": "lumi", "auxdata": [1.0], "sigmas": [0.03], "bounds": [[0.5, 1.5]], "inits": [1.0]},
                    {"name": "free", "inits": [1.0, 1.0], "bounds": [[0.0, 2.0], [0.0, 2.0]]},
                ],
            },
        }
    ],
}


def test_a_workspace_of_pyhf_is_converted(tmp_path):
    (tmp_path / "background.json").write_text(json.dumps(PYHF), encoding="utf-8")
    conversion = convert(tmp_path / "background.json")
    assert conversion.left == ["measurement main: the settings of 'free' stay in background.json"]
    conversion.write(tmp_path / "analysis.yaml")
    parameters = Workspace.read(tmp_path / "analysis.yaml").parameters()
    assert {name: one.kind for name, one in parameters.items()} == {"mu": "factor", "lumi": "lumi", "jes": "nuisance"}
    assert parameters["mu"].settings.bounds == ((0.0, 3.0),)
    assert parameters["lumi"].settings.sigmas == (0.03,)


def test_each_measurement_of_pyhf_has_its_own_settings(tmp_path):
    lumi = {"name": "lumi", "auxdata": [1.02], "sigmas": [0.01], "inits": [1.02], "bounds": [[0.5, 1.5]]}
    (first,) = PYHF["measurements"]
    settings = [*first["config"]["parameters"], {"name": "jes", "fixed": True}]
    first = {"name": "main", "config": {"poi": "mu", "parameters": settings}}
    document = {**PYHF, "measurements": [first, {"name": "second", "config": {"poi": "mu", "parameters": [lumi]}}]}
    (tmp_path / "both.json").write_text(json.dumps(document), encoding="utf-8")
    convert(tmp_path / "both.json").write(tmp_path / "analysis.yaml")
    nll = Workspace.read(tmp_path / "analysis.yaml").loss(measurement="second")
    model, workspace = nll.model[0], pyhf.Workspace(document)
    exact = workspace.model(measurement_name="second")
    assert not any(exact.config.suggested_fixed())
    assert all(parameter.floating for parameter in model.parameters)
    values, config = [], exact.config
    for nu in (-1.0, 0.0, 2.0):
        zfit.param.set_values(
            list(nll.get_params()), [1.0 + 0.1 * nu if one.name != "lumi" else nu for one in nll.get_params()]
        )
        point = model.pyhf_values()
        assert point[config.par_slice("lumi")] == pytest.approx(1.02 + 0.01 * nu)
        values.append(float(nll.value()) + float(exact.logpdf(point.tolist(), workspace.data(exact))[0]))
    assert np.ptp(values) < 1e-8


def test_what_is_no_workspace_of_pyhf_is_said(tmp_path):
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="no workspace of pyhf"):
        convert(tmp_path / "a.json")


def test_the_reference_is_made_of_the_schema():
    page = Path(__file__).parents[1] / "docs" / "workspace_reference.md"
    assert page.read_text(encoding="utf-8") == reference(), "write what zfit_fnf.workspace.reference.reference() gives"

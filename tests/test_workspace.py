"""The workspace document: what is read from it, and that whatever is wrong in it is one error that says where."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from zfit_fnf.workspace import Workspace, WorkspaceError, json_schema
from zfit_fnf.workspace.document import Text
from zfit_fnf.workspace.events import read_events
from zfit_fnf.workspace.expressions import Expression
from zfit_fnf.workspace.schema import Document, Source

TEXT = """\
version: 1
name: A test
channels:
- name: SR
  observables:
    m: {range: [100, 180], unit: GeV}
  data: {file: data.csv}
  samples:
  - name: signal
    events:
      nominal: {file: signal.csv, weights: w, scale: 48.6 * 2}
      variations:
      - {at: {jes: 1}, columns: {m: 1.01 * m}}
      - {at: {jes: -1}, columns: {m: 0.99 * m}}
      - {at: {eff: 1}, weights: 1.1 * w}
    modifiers:
    - {name: mu, type: normfactor}
    - {name: lumi, type: lumi}
    - {name: jes, type: shape}
    - {name: eff, type: normsys, data: events}
    - {name: theory, type: lnN, data: [0.9, 1.2]}
    - {name: k, type: expression, data: kappa_squared * 1}
  - name: background
    pdf: {type: Exponential, parameters: {lam: slope}}
    yield: n_background
functions:
- {name: kappa_squared, expression: kappa**2}
- {name: twice, expression: 2 * kappa_squared}
measurements:
- name: main
  config:
    poi: mu
    parameters:
    - {name: lumi, auxdata: [1.0], sigmas: [0.02]}
    - {name: kappa, inits: [1], bounds: [[0, 3]], fixed: true}
    - {name: slope, inits: [-0.03]}
    - {name: n_background, inits: [1e3]}
groups: {experimental: [jes, eff]}
blinding: {parameters: [mu], seal: abc}
training: {seed: 3}
"""


@pytest.fixture
def folder(tmp_path):
    """The files that the document names."""
    (tmp_path / "data.csv").write_text("m\n120\n150\n", encoding="utf-8")
    (tmp_path / "signal.csv").write_text("m,w\n125,0.5\n126,1\n", encoding="utf-8")
    return tmp_path


def read(folder, text, suffix="yaml"):
    path = folder / f"analysis.{suffix}"
    path.write_text(text, encoding="utf-8")
    return Workspace.read(path)


def test_a_workspace_is_read(folder):
    workspace = read(folder, TEXT)
    kinds = {name: one.kind for name, one in workspace.parameters().items()}
    assert kinds == {
        "mu": "factor",
        "lumi": "lumi",
        **dict.fromkeys(("jes", "eff", "theory"), "nuisance"),
        **dict.fromkeys(("n_background", "slope", "kappa"), "free"),
    }
    assert workspace.parameters()["n_background"].settings.inits == (1000.0,)
    assert workspace.data()["SR"].columns["m"].tolist() == [120, 150]
    signal = workspace.channel("SR").samples[0].events
    variation = signal.variations[0].source(signal.nominal)
    events = read_events(variation, ("m",), folder, "up")
    assert events.columns["m"] == pytest.approx([1.01 * 125, 1.01 * 126])
    assert events.weights == pytest.approx([97.2 * 0.5, 97.2])
    assert [one.changes_weights_only for one in signal.variations] == [False, False, True]


def test_json_says_the_same_as_yaml(folder):
    document = Text(read(folder, TEXT)._text.path).content
    assert read(folder, json.dumps(document, indent="\t"), "json").document == read(folder, TEXT).document


def test_a_source_has_a_selection_and_derived_columns(folder):
    source = Source(
        file="signal.csv", columns={"y": "sqrt(x)", "x": "m - 100"}, selection="x > 25.5", weights="2 * w", scale=3.0
    )
    events = read_events(source, ("y",), folder, "events")
    assert (events.columns["y"].tolist(), events.weights.tolist()) == ([np.sqrt(26)], [6.0])


def test_conditions_of_a_channel_are_given_to_its_samples(folder):
    conditions = "  conditions: {m_X: mass, width: 0.1}\n  data: {file: data.csv}\n"
    text = TEXT.replace("  data: {file: data.csv}\n", conditions).replace(
        "{name: slope,", "{name: mass, inits: [125]}\n    - {name: slope,"
    )
    text = text.replace("    modifiers:\n", "    yield: 3\n    given: {width: 2 * kappa}\n    modifiers:\n", 1)
    workspace = read(folder, text)
    signal, background = workspace.channel("SR").samples
    assert (signal.given, background.given) == ({"m_X": "mass", "width": "2 * kappa"}, {})
    assert workspace.parameters()["mass"].kind == "free"
    content = workspace.document.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert Document.model_validate(content) == workspace.document  # as a packed workspace has it


def test_a_measurement_has_the_settings_of_the_first_one(folder):
    second = "- {name: statistical, config: {poi: mu, parameters: [{name: jes, fixed: true}]}}\ngroups"
    workspace = read(folder, TEXT.replace("groups", second))
    parameters = workspace.parameters("statistical")
    assert parameters["jes"].settings.fixed
    assert parameters["slope"].settings.inits == (-0.03,)
    assert not workspace.parameters()["jes"].settings.fixed
    with pytest.raises(ValueError, match="did you mean 'statistical'"):
        workspace.parameters("statistics")


MISTAKES = {
    # --- typos in names of fields, and missing ones
    "no version": ("version: 1\n", "", "line 1: version: 1 is what this"),
    "another version": ("version: 1", "version: 2", "got 2"),
    "unknown field": ("channels:", "chanels:", "line 3: chanels: 'chanels' is not known here; did you mean 'channels'"),
    "unknown field of a channel": ("  observables:", "  observable:", "line 5: .*did you mean 'observables'"),
    "unknown field of an observable": ("unit: GeV", "units: GeV", "line 6: .*did you mean 'unit'"),
    "unknown field of a source": ("weights: w,", "weight: w,", "line 11: .*did you mean 'weights'"),
    "unknown field of a variation": ("- {at: {jes: 1}, columns", "- {at: {jes: 1}, colums", "did you mean 'columns'"),
    "unknown field of a modifier": ("lnN, data: [0.9, 1.2]", "lnN, dat: [0.9, 1.2]", "line 21: .*did you mean 'data'"),
    "unknown field of a parameter": ("bounds: [[0, 3]]", "bound: [[0, 3]]", "line 35: .*did you mean 'bounds'"),
    "unknown field of the training": ("{seed: 3}", "{sed: 3}", "line 40: .*did you mean 'seed'"),
    "unknown field of a function": ("expression: kappa**2", "expresion: kappa**2", "did you mean 'expression'"),
    "no name": ("- name: SR\n  observables", "- observables", "'name' is missing"),
    "no measurements": ("measurements:\n- name", "measurements: []\nother:\n- name", "measurements: .*at least 1 item"),
    "no range": ("{range: [100, 180], unit: GeV}", "{unit: GeV}", "line 6: .*'range' is missing"),
    "no poi": ("    poi: mu\n", "", "'poi' is missing"),
    "no data": ("  data: {file: data.csv}\n", "", "a channel needs data"),
    "no type": ("{name: mu, type: normfactor}", "{name: mu}", "line 17: .*'type' is missing"),
    "unknown type": ("type: normfactor", "type: normfacter", "line 17: .*did you mean 'normfactor'"),
    "no yield": ("    yield: n_background\n", "", "needs its yield"),
    # --- names that refer to nothing, or to two things
    "unknown parameter of interest": ("poi: mu", "poi: nu", "there is no parameter 'nu'"),
    "a nuisance of interest": ("poi: mu", "poi: jes", "'jes' is a nuisance .*which is not of interest"),
    "unknown parameter": ("{name: slope, inits", "{name: slop, inits", "line 24: .*did you mean 'slop'"),
    "parameter without a start": ("inits: [-0.03]", "label: slope", "says not where it starts"),
    "unknown parameter in a density": ("lam: slope", "lam: slopee", "line 24: .*did you mean 'slope'"),
    "unknown parameter in a yield": (
        "yield: n_background",
        "yield: n_backgrund",
        "line 25: .*did you mean 'n_background'",
    ),
    "unknown parameter in a function": ("expression: kappa**2", "expression: kapa**2", "did you mean 'kappa'"),
    "unknown function": ("data: kappa_squared", "data: kappa_squard", "did you mean 'kappa_squared'"),
    "unknown nuisance of a group": ("[jes, eff]", "[jes, ef]", "line 38: .*did you mean 'eff'"),
    "unknown blinded parameter": ("{parameters: [mu]", "{parameters: [mo]", "line 39: .*'mo'"),
    "a blinded nuisance": ("{parameters: [mu]", "{parameters: [jes]", "line 39: .*'jes' is a nuisance .*not blinded"),
    "unknown nuisance of a shape": ("{name: jes, type: shape}", "{name: jer, type: shape}", "did you mean 'jes'"),
    "unknown nuisance of a yield": ("{name: eff, type: normsys", "{name: ef, type: normsys", "did you mean 'eff'"),
    "variations that nothing uses": ("    - {name: jes, type: shape}\n", "", "nothing uses the variations of 'jes'"),
    "unknown density": ("type: Exponential", "type: Exponental", "line 24: .*did you mean 'Exponential'"),
    "unknown argument": ("{lam: slope}", "{lambda: slope}", "Exponential has no 'lambda'; did you mean 'lam'"),
    "argument of a uniform density": (
        "{type: Exponential, parameters: {lam: slope}}",
        "{type: Uniform, parameters: {low: 0}}",
        "Uniform has no 'low': its range is that of the observable",
    ),
    "missing argument": ("type: Exponential", "type: Gauss", "Gauss has no 'lam'"),
    "two samples of a name": ("- name: background", "- name: signal", "'signal' is taken already"),
    "two functions of a name": ("{name: twice", "{name: kappa_squared", "'kappa_squared' is taken already"),
    "a parameter set twice": ("{name: slope, inits: [-0.03]}", "{name: kappa, inits: [1]}", "'kappa' is taken already"),
    "a modifier twice": ("{name: theory, type: lnN, data: [0.9, 1.2]}", "{name: mu, type: normfactor}", "given twice"),
    "a yield changed twice": ("{name: theory, type", "{name: eff, type", "changes the yield twice"),
    "a factor and a nuisance": ("{name: theory, type", "{name: mu, type", "'mu' is a nuisance .*here, but a factor"),
    "a function and a parameter": ("{name: theory, type", "{name: twice, type", "'twice' is a function already"),
    "the same field twice": ("name: A test", "name: A test\nname: B", "'name' is given twice, in lines 2 and 3"),
    "the same variation twice": ("{at: {jes: -1}", "{at: {jes: 1}", "there are two variations at"),
    # --- wrong types and numbers
    "text for a number": ("range: [100, 180]", "range: [low, 180]", "line 6: .*is a number; got 'low'"),
    "a truth value for a number": ("inits: [-0.03]", "inits: [yes]", "is a number; got True"),
    "not a number": ("inits: [-0.03]", "inits: [.nan]", "is a finite number"),
    "a range the wrong way round": ("[100, 180]", "[180, 100]", "the lower end comes first"),
    "three ends of a range": ("[100, 180]", "[100, 180, 190]", "line 6: .*range"),
    "bounds the wrong way round": ("[[0, 3]]", "[[3, 0]]", "the lower one comes first"),
    "a start outside of bounds": ("inits: [1], bounds", "inits: [4], bounds", "4 is not within the bounds 0 and 3"),
    "a negative factor": ("[0.9, 1.2]", "[-0.9, 1.2]", "greater than 0"),
    "a list for a text": ("name: A test", "name: [A, test]", "line 2: name: .*valid string"),
    "a mapping for a list": ("- name: SR", "  name: SR", "channels"),
    "half of a measurement": (", sigmas: [0.02]", "", "both auxdata and sigmas"),
    "a luminosity nobody measured": (
        "{name: lumi, auxdata: [1.0], sigmas: [0.02]}",
        "{name: lumi}",
        "how well 'lumi' is",
    ),
    "a variation at zero": ("{at: {jes: 1}", "{at: {jes: 0}", "'jes' is at 0"),
    "a nameless name": ("{name: mu, type", '{name: "1 x", type', "'1 x' is no name"),
    "both a model and a density": ("    pdf: {type", "    model: a.fnf\n    pdf: {type", "either events, model or pdf"),
    # --- conditions, bins, folds
    "a binned channel without bins": ("- name: SR\n", "- name: SR\n  binned: true\n", "one observable, with bins"),
    "a given density": (
        "    yield: n_back",
        "    given: {x: 1}\n    yield: n_back",
        "with a pdf has no given conditions",
    ),
    "given without a yield": ("    modifiers:\n", "    given: {x: 1}\n    modifiers:\n", "needs its yield"),
    "an observable that is given": (
        "    modifiers:\n",
        "    yield: 3\n    given: {m: 1}\n    modifiers:\n",
        "'m' is an obs",
    ),
    "an unknown mass": (
        "    modifiers:\n",
        "    yield: 3\n    given: {x: mas}\n    modifiers:\n",
        "'mas' is no modifier",
    ),
    "code as a mass": (
        "    modifiers:\n",
        "    yield: 3\n    given: {x: 'open(1)'}\n    modifiers:\n",
        "not understood",
    ),
    "conditions without a yield": (
        "  data: {file: data.csv}\n",
        "  conditions: {x: 1}\n  data: {file: data.csv}\n",
        "line 10: .*needs its yield",
    ),
    "a condition that is observed": (
        "  data: {file: data.csv}\n",
        "  conditions: {m: 1}\n  data: {file: data.csv}\n",
        "needs its yield",
    ),
    "code as a condition": (
        "  data: {file: data.csv}\n",
        "  conditions: {x: 'open(1)'}\n  data: {file: data.csv}\n",
        "not understood",
    ),
    "no folds": ("{seed: 3}", "{seed: 3, folds: 0}", "line 40: .*folds"),
    "a typo in folds": ("{seed: 3}", "{seed: 3, fold: 2}", "did you mean 'folds'"),
    "a number for yes": ("groups:", "calibrate: maybe\ngroups:", "line 38: calibrate: .*bool"),
    # --- files
    "a missing file": ("file: data.csv", "file: dota.csv", "line 7: .*there is no file"),
    "a pattern that nothing matches": ("file: signal.csv", "file: sig_*.csv", "no file matches"),
    "an unknown kind of file": ("file: data.csv", "file: data.txt", "unknown suffix"),
    "a missing workspace of pyhf": (
        "functions:",
        "- {name: CR, histfactory: {workspace: control.json}}\nfunctions:",
        "line 26: .*there is no file",
    ),
    "no workspace of pyhf": (
        "functions:",
        "- {name: CR, histfactory: {workspace: {version: 1.0.0}}}\nfunctions:",
        "no workspace of pyhf: it has no 'channels'",
    ),
    "both binned and not": (
        "functions:",
        "- {name: CR, data: {file: data.csv}, histfactory: {workspace: control.json}}\nfunctions:",
        "a channel with histfactory has no data",
    ),
    # --- expressions
    "a circle of functions": ("expression: kappa**2", "expression: twice / 2", "circle: "),
    "a circle of columns": ("{m: 1.01 * m}", "{m: x, x: m}", "line 13: .*circle: "),
    "code in an expression": ("kappa**2", "__import__('os').system('touch ran')", "is not understood"),
    "an attribute in an expression": ("kappa**2", "kappa.__class__", "is not understood"),
    "a function that is none": ("kappa**2", "eval(kappa)", "'eval.kappa.' .*is not understood"),
    "code in a weight": ("1.1 * w", "'[w for w in ()]'", "is not understood"),
    "code in a scale": ("48.6 * 2", "\"open('ran', 'w')\"", "is not understood"),
    "names in a scale": ("48.6 * 2", "48.6 * lumi", "made of numbers; 'lumi' is none"),
    "not an expression": ("kappa**2", "kappa **", "is not an expression"),
    "code in a tag": ("name: A test", "name: !!python/object/apply:os.system ['touch ran']", "this is no YAML"),
    "code in a selection": ("weights: w,", "weights: w, selection: \"open('ran', 'w')\",", "is not understood"),
    # --- no YAML
    "no YAML": ("channels:", "channels: [", "this is no YAML"),
    "a list": (TEXT, "- 1\n- 2\n", "a workspace has channels"),
    "nothing": (TEXT, "", "a workspace has channels"),
    "itself in itself": (TEXT, "version: 1\nchannels: &a [*a]\n", "nested too deeply"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_error_that_says_where(folder, mistake, monkeypatch):
    monkeypatch.chdir(folder)
    before, after, message = MISTAKES[mistake]
    assert TEXT.count(before) >= 1
    with pytest.raises(WorkspaceError, match=message) as error:
        read(folder, TEXT.replace(before, after, 1))
    assert "analysis.yaml" in str(error.value)
    assert "Traceback" not in str(error.value)
    assert not (folder / "ran").exists()


def test_there_is_no_workspace(folder):
    with pytest.raises(FileNotFoundError, match="no workspace"):
        Workspace.read(folder / "nothing.yaml")


def test_files_of_events_need_not_be_there(folder):
    (folder / "signal.csv").unlink()
    path = folder / "analysis.yaml"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(WorkspaceError, match=r"signal\.csv"):
        Workspace.read(path)
    assert Workspace.read(path, files=False).name == "A test"


@pytest.mark.parametrize(
    "text", ["lambda: 1", "x if y else z", "x[0]", "f'{x}'", "x := 1", "'a'", "True", "x and y", "(x,)"]
)
def test_expressions_are_arithmetic_only(text):
    with pytest.raises(ValueError, match=r"is not understood|is not an expression"):
        Expression(text)


def test_powers_of_powers_take_no_time():
    assert Expression("9**9**9**9")({}) == np.inf


def test_a_large_workspace_is_read_in_seconds(folder):
    processes = [
        {
            "name": f"process_{i}",
            "pdf": {"type": "Exponential", "parameters": {"lam": -0.03}},
            "yield": 10.0,
            "modifiers": [
                *({"name": f"nuisance_{k}", "type": "lnN", "data": 1.01} for k in range(100)),
                *([{"name": "mu", "type": "normfactor"}] if i == 0 else []),
            ],
        }
        for i in range(100)
    ]
    channel = {
        "name": "SR",
        "observables": {"m": {"range": [100, 180]}},
        "data": {"file": "data.csv"},
        "samples": processes,
    }
    measurement = {"name": "main", "config": {"poi": "mu"}}
    document = json.dumps({"version": 1, "channels": [channel], "measurements": [measurement]})
    begun = time.process_time()
    workspace = read(folder, document, "json")
    assert time.process_time() - begun < 5.0  # it takes two seconds
    assert len(workspace.parameters()) == 101


def test_the_schema_is_a_json_schema(folder):
    jsonschema = pytest.importorskip("jsonschema")
    content = Text(read(folder, TEXT.replace("1e3", "1000"))._text.path).content  # a text in YAML 1.1
    jsonschema.validate(content, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "chanels": []}, json_schema())
    assert set(json_schema()["properties"]) == set(Document.model_fields)

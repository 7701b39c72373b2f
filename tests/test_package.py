"""The package as a whole: what it exports, which way its imports point, and that it is quiet."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import zfit_fnf

PACKAGE = Path(zfit_fnf.__file__).parent

LAYERS = [
    {"checks", "files", "history", "parallel", "quiet", "columns", "cuts"},
    {"event_files"},
    {"samples", "pairing", "datasets", "nets", "bijectors", "series"},
    {"diagnostics", "screening"},
    {"coordinates"},
    {"flows"},
    {"deformation"},
    {"transfer", "interop"},
    {"manifest"},
    {"storage"},
    {"optimise", "plan"},
    {"calibration"},
    {"train"},
    {"param", "regions", "logdensities", "composition"},
    {"minimum", "arguments"},
    {"pdf", "constraints"},
    {"inputs"},
    {"loss"},
    {"influence"},
    {"minimize", "expansion", "compression"},
    {"expanded"},
    {"acceleration"},
    {"toys"},
    {"doi"},
    {"scans", "projections", "limits"},
    {"calculators"},
    {"plotting"},
    {"doi_plotting"},
    {"demo"},
    {"doi_demo"},
    {"cli"},
]
"""Each module imports from the layers before its own, and from its own; see the data flow in the docs."""

DENSITIES = {
    "samples",
    "screening",
    "pairing",
    "nets",
    "bijectors",
    "coordinates",
    "flows",
    "deformation",
    "optimise",
    "calibration",
    "train",
}
DENSITIES |= {"interop", "manifest", "storage", "transfer", "series", "expansion", "compression"}


def imports(module: str) -> tuple[set[str], set[str]]:
    """Sibling modules and external packages that a module or folder imports, at any depth of its code."""
    siblings, external = set(), set()
    folder = (PACKAGE / module).is_dir()
    for path in (PACKAGE / module).glob("*.py") if folder else [PACKAGE / f"{module}.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                if node.level == 1 + folder:  # else: within the folder
                    siblings |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                external.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                external |= {alias.name.split(".")[0] for alias in node.names}
    return siblings, external


def test_every_module_has_a_layer():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert set().union(*LAYERS) | {"__init__"} == modules


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_imports_point_one_way(index):
    allowed = set().union(*LAYERS[: index + 1]) | {"__version__"}
    for module in LAYERS[index]:
        assert imports(module)[0] <= allowed, module


@pytest.mark.parametrize("module", sorted(DENSITIES))
def test_densities_and_training_do_not_know_zfit(module):
    assert "zfit" not in imports(module)[1]


def test_public_names():
    assert set(zfit_fnf.__all__) == {
        "Deformation",
        "Flow",
        "Minuit",
        "Nuisance",
        "Sample",
        "Schedule",
        "Variation",
        "YieldChange",
        "accelerate",
        "calculators",
        "datasets",
        "diagnostics",
        "doi",
        "doi_plotting",
        "influence",
        "interop",
        "lnN",
        "limits",
        "load",
        "loss",
        "modified_yield",
        "normsys",
        "nuisance",
        "pdf",
        "plotting",
        "projections",
        "samples",
        "save",
        "scans",
        "storage",
        "toys",
        "train",
    }
    for name in set(zfit_fnf.__all__) - {"calculators", "doi_plotting", "plotting"}:
        assert getattr(zfit_fnf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zfit_fnf.nothing  # noqa: B018


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {
        k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "ZFIT_DISABLE_TF_WARNINGS")
    }
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**surroundings, **environment}, check=True
    )


def test_import_is_quiet_and_loads_no_training():
    done = run(
        "import zfit_fnf, sys; zfit_fnf.Flow(['a']); zfit_fnf.load; zfit_fnf.diagnostics; "
        "assert not {'zfit_fnf.train', 'zfit', 'torch'} & set(sys.modules), 'more than a stored model needs'\n"
        "import zfit"
    )
    assert (done.stdout, done.stderr) == ("", "")


LOGGED = """
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795810577.126096    7214 port.cc:153] oneDNN custom operations are on.
2026-09-17 14:44:05.157831: I external/cudart_stub.cc:32] Could not find cuda drivers on your machine.
W0000 00:00:1795810577.126096    7214 a.cc:1] warning
E0000 00:00:1795810577.126096    7214 a.cc:1] error
F0000 00:00:1795810577.126096    7214 a.cc:1] fatal
Information that is not logged
"""


@pytest.mark.parametrize(
    ("environment", "hidden"),
    [({}, 5), ({"TF_CPP_MIN_LOG_LEVEL": "1"}, 3), ({"TF_CPP_MIN_LOG_LEVEL": "2"}, 4), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, 0),
     ({"ZFIT_DISABLE_TF_WARNINGS": "0"}, 0)],
)  # fmt: skip
def test_what_is_not_a_note_is_printed(tmp_path, environment, hidden):
    """A package of that name stands in for TensorFlow, and logs below Python, as its libraries do while they are loaded."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        f"import os, sys\nos.write(2, {LOGGED!r}.encode())\nprint('Python', file=sys.stderr)\nraise OSError('broken')"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import zfit_fnf\n"
        "try: import tensorflow\n"
        "except OSError as error: print(error, file=sys.stderr)"
    )
    lines = run(program, **environment).stderr.splitlines()
    assert [line for line in lines if line in LOGGED] == [LOGGED.splitlines()[0], *LOGGED.splitlines()[1 + hidden :]]
    assert lines[-2:] == ["Python", "broken"]


def test_files_are_inspected_and_help_is_given_without_tensorflow(tmp_path):
    zfit_fnf.save(zfit_fnf.Flow(["mass"]), tmp_path / "m.fnf")
    for arguments in (["inspect", str(tmp_path / "m.fnf")], ["--help"], ["demo", "--help"]):
        done = run(
            "import sys; from zfit_fnf.cli import app\n"
            f"try: app({arguments!r})\n"
            "except SystemExit as end: assert end.code == 0\n"
            "assert not {'tensorflow', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)"
        )
        assert done.stdout
        assert done.stderr == ""

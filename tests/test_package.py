"""The package as a whole: what it exports, which way its imports point, and that it is quiet."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import zfit_fnf

PACKAGE = Path(zfit_fnf.__file__).parent

LAYERS = [
    {"common"},
    {"samples", "datasets", "storage"},
    {"densities"},
    {"interop", "train", "tagprobe"},
    {"param", "state", "yields", "couplings", "pdf", "arguments"},
    {
        "loss",
        "pickling",
        "minimum",
        "influence",
        "finite_simulation",
        "minimize",
        "profiles",
        "acceleration",
        "distribution",
    },
    {
        "toys",
        "calibration",
        "diagnostics",
        "scans",
        "limits",
        "limit_scans",
        "hepstats",
        "projections",
        "pyhf",
        "results",
        "yield_tables",
    },
    {"doi", "morph", "plotting"},
    {"demo", "workspace", "report", "cli"},
]
"""Rooms (folders and single modules) from the floor up; each imports from lower layers and, without circles, from its own."""

WITHOUT_ZFIT = {"common", "samples", "datasets", "densities", "interop", "storage", "tagprobe", "train"}
"""Densities, their training and their files know TensorFlow alone."""


def imports(room: str) -> tuple[set[str], set[str]]:
    """Other rooms and external packages that a room imports, relatively or absolutely, at any depth of its code."""
    rooms, external = set(), set()
    paths = (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    for path in paths:
        package = path.relative_to(PACKAGE.parent).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                start = package[: len(package) - node.level + 1] if node.level else ()
                module = (*start, *(node.module.split(".") if node.module else ()))
                names = [(*module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [tuple(alias.name.split(".")) for alias in node.names]
            else:
                continue
            rooms |= {name[1] for name in names if name[0] == PACKAGE.name and len(name) > 1}
            external |= {name[0] for name in names if name[0] != PACKAGE.name}
    return rooms - {room, "__version__"}, external


IMPORTS = {room: imports(room) for room in set().union(*LAYERS)}


def test_every_room_has_a_layer():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__"} == set(IMPORTS)
    assert len(LAYERS) <= 9


@pytest.mark.parametrize("index", range(len(LAYERS)))
def test_imports_point_one_way(index):
    allowed = set().union(*LAYERS[: index + 1])
    for room in LAYERS[index]:
        assert IMPORTS[room][0] <= allowed, room


def test_no_imports_in_circles():
    assert list(TopologicalSorter({room: imports for room, (imports, _) in IMPORTS.items()}).static_order())


@pytest.mark.parametrize("room", sorted(WITHOUT_ZFIT))
def test_densities_and_training_do_not_know_zfit(room):
    assert "zfit" not in IMPORTS[room][1]


def test_public_names():
    assert set(zfit_fnf.__all__) == {
        "Deformation",
        "FitSummary",
        "Flow",
        "Fractions",
        "Minuit",
        "Nuisance",
        "Sample",
        "Schedule",
        "Simulation",
        "Variation",
        "Workspace",
        "YieldRatio",
        "accelerate",
        "calibrate",
        "distribute",
        "datasets",
        "diagnostics",
        "doi",
        "hepstats",
        "influence",
        "interop",
        "lnN",
        "limits",
        "load",
        "loss",
        "modified_yield",
        "morph",
        "morphed_yields",
        "normsys",
        "nuisance",
        "pdf",
        "plotting",
        "polynomial",
        "projections",
        "pyhf",
        "samples",
        "save",
        "scans",
        "simulation_plan",
        "storage",
        "tagprobe",
        "toys",
        "train",
        "workspace",
    }
    for name in set(zfit_fnf.__all__) - {"hepstats", "plotting", "pyhf"}:
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
        "import zfit_fnf, sys; zfit_fnf.Flow(['a']); zfit_fnf.load; "
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


def test_no_test_imports_another():
    tests = Path(__file__).parent
    names = {path.stem for path in tests.glob("test_*.py")}
    for path in tests.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = {node.module} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
                assert not found & names, path.name

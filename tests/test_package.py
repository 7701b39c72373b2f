"""The package as a whole: what it exports, which way its imports point, and that it is quiet."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import zfit_fnf

PACKAGE = Path(zfit_fnf.__file__).parent

LAYERS = [
    {"files", "history", "parallel"},
    {"samples", "datasets", "nets", "bijectors", "series"},
    {"diagnostics"},
    {"coordinates"},
    {"flows"},
    {"deformation"},
    {"transfer", "interop"},
    {"manifest"},
    {"storage"},
    {"optimise"},
    {"calibration"},
    {"train"},
    {"param"},
    {"pdf", "minimize"},
    {"loss"},
    {"expansion", "compression"},
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

DENSITIES = {"samples", "nets", "bijectors", "coordinates", "flows", "deformation", "optimise", "calibration", "train"}
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
        "doi",
        "doi_plotting",
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


def test_import_is_quiet_and_loads_no_training():
    program = (
        "import zfit_fnf, sys; zfit_fnf.Flow(['a']); zfit_fnf.load; "
        "assert not {'zfit_fnf.train', 'zfit', 'torch'} & set(sys.modules), 'more than a stored model needs'"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    assert "zfit" not in run.stderr  # notes of TensorFlow's runtime about missing accelerators are not ours to silence

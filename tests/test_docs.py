"""The code in the README and in the documentation runs as it stands, only with shorter trainings."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import zfit
import numpy as np
import pytest
from example_scripts import load
from untrained import deformed, events, smooth_flow

import zfit_fnf
from zfit_fnf import limits, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving:UserWarning"),
    pytest.mark.filterwarnings("ignore:nuisance .* outside of the range:UserWarning"),
]

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def in_a_hurry(monkeypatch, tmp_path):
    """An empty working directory, short trainings of maps alone, and small Asimov sets."""
    monkeypatch.chdir(tmp_path)
    schedule = train.Schedule(steps=200, batch_size=512, warmup=20, averaging=0.95)
    # The choice between map and log-ratio takes longer than such trainings; test_train_ratio is about it.
    for name, options in (("fit_flow", {}), *((one, {"ratio": False}) for one in ("fit_deformation", "fit_process"))):
        monkeypatch.setattr(train, name, functools.partial(getattr(train, name), schedule=schedule, **options))
    monkeypatch.setattr(limits, "upper_limit", functools.partial(limits.upper_limit, n_asimov=5000))


def run(page: str, **names: object) -> dict:
    blocks = CODE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    namespace: dict = dict(names)
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    return namespace


def check(names: dict) -> None:
    """The fit has converged, and found a signal of the size that was simulated."""
    fitted = names["result"].params[names["mu"]]
    assert names["result"].valid
    assert 0.02 < fitted["hesse"]["error"] < 0.3
    # Trainings this short leave errors in the densities that are larger than those of the fit.
    assert 0.4 < fitted["value"] < 2.0


def described(tree: ast.AST) -> Iterator[str]:
    """Docstrings of the properties and attributes in a module."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        if isinstance(node, ast.FunctionDef) and any("property" in ast.unparse(one) for one in node.decorator_list):
            yield ast.get_docstring(node) or ""
        for before, line in itertools.pairwise(body if isinstance(body, list) else []):
            if isinstance(before, (ast.Assign, ast.AnnAssign)) and isinstance(line, ast.Expr):
                yield str(getattr(line.value, "value", ""))


def test_attributes_have_no_colon_in_their_first_line():
    """Sphinx takes what is before it for a type."""
    for path in (ROOT / "zfit_fnf").rglob("*.py"):
        for text in described(ast.parse(path.read_text(encoding="utf-8"))):
            assert not re.search(r":\s", text.strip().split("\n")[0]), (path.name, text)


def test_recipes_quote_tests():
    """What the page on contributing includes is there, and is run."""
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    quotes = re.findall(r"```\{literalinclude\} \.\./(\S+)\n((?::.*\n)+)```", page)
    assert len(quotes) == page.count("literalinclude") >= 5
    for path, options in quotes:
        test = (ROOT / path).read_text(encoding="utf-8")
        for option, text in re.findall(r":([\w-]+): \"?([^\"\n]+)", options):
            expected = rf"^(class|def) {text}\b" if option == "pyobject" else f"^{re.escape(text)}"
            assert len(re.findall(expected, test, re.MULTILINE)) == 1, (path, text)


def test_the_page_on_the_structure_names_every_room():
    page, package = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8"), ROOT / "zfit_fnf"
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert set(re.findall(r"`(\w+(?:/|\.py))`", page.split("|---|---|")[1])) >= modules | folders


SHORT = pytest.mark.filterwarnings(
    "ignore:.*(still improving|nothing was learned|how the simulation fluctuates):UserWarning"
)
"""Of trainings that are as short as here, of few events."""


@SHORT
def test_readme(in_a_hurry):
    load("quickstart").simulate(Path(), events=10_000, seed=1)
    check(run("README.md"))


@SHORT
def test_getting_started(in_a_hurry):
    names = run("docs/getting_started.md")
    check(names)
    assert list(names["limit"].expected) == sorted(names["limit"].expected)
    assert Path("y1.png").stat().st_size > 10_000


# Of a training that is as short, the closure has a curvature, which the simulated points do not tell exactly; the page fits
# the learned likelihood before the calibrated one, which has the finite simulation.
@pytest.mark.filterwarnings("ignore:where the fit is, between the points:UserWarning")
@pytest.mark.filterwarnings("ignore:.*how the simulation fluctuates:UserWarning")
def test_believe():
    """The calibrated fit finds the shift of 0.5, although the training is short."""
    names = run("docs/believe.md")
    assert names["result"].valid
    fitted = names["result"].params[names["jes"]]
    # 5000 events know a shift of 0.4 widths to 0.035, and simulation of 10k events adds as much.
    assert 0.03 < fitted["hesse"]["error"] < 0.3
    assert abs(fitted["value"] - 0.5) < 4 * fitted["hesse"]["error"]


def test_coming_from_zfit(in_a_hurry):
    names = run("docs/coming_from_zfit.md")
    fitted = names["result"].params[names["mu"]]
    # 300 signal events on a background of about 60 under the peak.
    assert 0.06 < fitted["hesse"]["error"] < 0.12
    assert abs(fitted["value"] - 1.0) < 4 * fitted["hesse"]["error"]
    assert names["limit"].observed > fitted["value"]


def test_performance(in_a_hurry):
    jes = zfit_fnf.nuisance("jes")
    model = deformed(smooth_flow(["y"]), [jes])
    data = events(model, {jes: 0.5}, 2000, 1)
    nll = zfit_fnf.loss.UnbinnedNLL(model, data)
    names = run("docs/performance.md", zfit=zfit, zfnf=zfit_fnf, nll=nll, jes=jes, deformation=model.deformation)
    assert names["result"].valid
    assert names["fast"].report.exact_edm < 1e-3


def test_couplings():
    names = run("docs/couplings.md")
    assert float(names["n_signal"].value()) == pytest.approx(1000.0 * (1 + 0.3 * 0.2 + 0.5 * 0.2**2), rel=1e-12)
    assert sum(float(n.value()) for n in names["yields"]) == pytest.approx(2000 + 800 * 0.3**2, rel=1e-12)


def test_doi():
    """The profile knows as much as x alone does, together with the constraint."""
    names = run("docs/doi.md")
    assert names["fit"].valid
    found = names["result"].params[names["jes"]]
    # x has 4000 events, each of which knows the nuisance to 1 / 0.1: an information of 40, and 1 of the constraint. A map
    # with few weights leaves a little of what y knows.
    assert found["hesse"]["error"] == pytest.approx(1 / np.sqrt(41), rel=0.1)
    of_x = 10 * names["x"].mean() * 40 / 41
    assert abs(found["value"] - of_x) < 0.5 / np.sqrt(41)
    # y in simulation is where x is: the map has learned what was done to y, up to the statistical errors of both means.
    assert names["corrected"]["y"].std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * 4000))


def test_storage_format(in_a_hurry):
    """A reader written after the specification alone gives the same density as the package."""
    names = run("docs/storage_format.md")
    rng = np.random.default_rng(1)
    y, x = np.stack([rng.uniform(61, 119, 200), rng.normal(size=200)], axis=1), rng.normal(size=(200, 1))
    model = names["zfnf"].load("model.fnf")
    expected = model.log_prob({"mass": y[:, 0], "score": y[:, 1], "pt": x[:, 0]})
    np.testing.assert_allclose(names["log_prob"](y, x), expected, rtol=0, atol=1e-10)


def test_bring_your_own_flow(in_a_hurry):
    pytest.importorskip("zuko", reason="needs PyTorch and zuko")
    names = run("docs/bring_your_own_flow.md")
    nominal, fitted = names["nominal"], names["result"].params[names["jes"]]
    np.testing.assert_array_equal(names["same_flow"].log_prob(nominal), names["flow"].log_prob(nominal))
    assert names["result"].valid
    # The trainings are short, but the shift of 0.5 is seen.
    assert fitted["value"] == pytest.approx(0.5, abs=0.3)
    assert 0.01 < fitted["errors"]["upper"] < 0.2

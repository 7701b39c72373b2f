"""Private names of zfit and TensorFlow: they are what the package expects, and are used nowhere but where they are listed."""

from __future__ import annotations

import ast
from pathlib import Path

import zfit
import numpy as np
import pytest
import tensorflow as tf

import zfit_fnf
from zfit_fnf.loss import Compiled, zfit_hooks

PACKAGE = Path(zfit_fnf.__file__).parent


def test_installed_zfit_and_tensorflow_are_those_expected():
    assert zfit_hooks.differences() == []


@pytest.mark.parametrize(
    ("name", "expected", "message"),
    [("_call_hessian", "self, params", "there is self, params, numgrad, hessian"), ("_call_nothing", None, "None")],
)
def test_what_a_new_version_changes_is_named(monkeypatch, name, expected, message):
    monkeypatch.setitem(zfit_hooks.EXPECTED["zfit.core.loss:BaseLoss"], name, expected)
    (difference,) = zfit_hooks.differences()
    assert name in difference
    assert message in difference


FOREIGN = {
    "_exit": "os",
    "_getframe": "sys",
    "_forward": "a bijector of TensorFlow Probability",
    "_forward_log_det_jacobian": "a bijector of TensorFlow Probability",
    "_inverse": "a bijector of TensorFlow Probability",
    "_replace": "a named tuple",
}
"""Names with an underscore that belong to neither zfit nor TensorFlow: public hooks of others."""

DOCUMENTED = {"_log_pdf", "_pdf", "_integrate", "_sample", "_unnormalized_pdf", "_value"}
"""What zfit asks subclasses of its PDFs and constraints to define."""


def test_private_names_of_others_are_used_in_one_module():
    ours, used = set(), {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                used.setdefault(node.attr, set()).add(path.relative_to(PACKAGE).as_posix())
    listed = set().union(*zfit_hooks.EXPECTED.values())
    others = {name: paths for name, paths in used.items() if name not in ours and name not in FOREIGN}
    assert set(others) <= listed
    # Whether a PDF has a density of its own is asked for below the losses.
    elsewhere = {name: paths - {"loss/zfit_hooks.py", "pdf/logdensities.py"} for name, paths in others.items()}
    assert {name: paths for name, paths in elsewhere.items() if paths} == {}


def test_private_names_are_overridden_and_looked_up_in_one_module():
    hidden = set().union(*zfit_hooks.EXPECTED.values()) - DOCUMENTED - {""}
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text()))) if path.name != "zfit_hooks.py" else []
        methods = {
            getattr(one, "name", None)
            for node in nodes
            if isinstance(node, ast.ClassDef) and node.bases
            for one in node.body
        }
        calls = [
            node
            for node in nodes
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr")
        ]
        texts = {getattr(node.args[1], "value", None) for node in calls}
        assert not (methods | texts) & hidden, path


@pytest.mark.parametrize("xla", [False, True])
def test_without_the_fast_call_results_are_the_same(monkeypatch, xla):
    weight = tf.Variable(3.0, dtype=tf.float64)
    arguments = ({"x": tf.constant([1.0, 2.0], tf.float64)}, [tf.constant(0.5, tf.float64)])

    def function(events, shift):
        return {"sum": tf.reduce_sum(weight * events["x"]) + shift[0], "all": (events["x"] * weight,)}

    results = []
    for names in (zfit_hooks._FLAT, ("changed",)):
        monkeypatch.setattr(zfit_hooks, "_FLAT", names)
        compiled = Compiled(function, xla=xla)
        results += [compiled(*arguments), compiled(*arguments)]  # the second is not traced
        assert compiled.n_traces == 1
    for result in results:
        assert float(result["sum"]) == 9.5
        np.testing.assert_array_equal(result["all"][0], [3.0, 6.0])


def test_likelihoods_of_zfit_are_told_apart_once():
    free, space = zfit_fnf.nuisance("free"), zfit.Space("y", -5.0, 5.0)
    gauss = zfit.pdf.Gauss(free, 1.0, obs=space)
    first, second = (zfit.loss.UnbinnedNLL(gauss, zfit.Data(np.array([0.1, 0.2]), obs=space)) for _ in range(2))
    for loss in (first, second):
        with pytest.warns(UserWarning, match=r"no constraints of the nuisances \['free'\]"):
            loss.value()
    first.value(full=False)  # no warning: they are errors

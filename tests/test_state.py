"""What objects carry beside their meaning: stored without it, and released with them."""

from __future__ import annotations

import gc
import weakref

import zfit
import numpy as np
import pytest
from likelihoods import learned as likelihood

import zfit_fnf as zfnf
from zfit_fnf.param import Nuisance
from zfit_fnf.toys import toy


def minimised(nll):
    return zfit.minimize.Minuit(gradient="zfit", mode=0).minimize(nll)


def nuisance_of(nll):
    (found,) = [parameter for parameter in nll.get_params() if isinstance(parameter, Nuisance)]
    return found


def again(thing):
    return zfit.dill.loads(zfit.dill.dumps(thing))


USES = {
    "new": lambda nll: None,
    "evaluated": lambda nll: nll.gradient(),
    "fitted": minimised,
    "with toys": lambda nll: toy(nll, seed=1),
    "accelerated": lambda nll: minimised(zfnf.accelerate(nll)),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("kind", ["exact", pytest.param("accelerated", marks=pytest.mark.slow)])
def test_likelihoods_are_stored_without_what_was_computed(use, kind):
    nll = likelihood()
    use(nll)
    if kind == "accelerated":
        nll = zfnf.accelerate(nll)
        nll.value()
    restored = again(nll)
    # The polynomials may be made elsewhere.
    assert float(restored.value()) == pytest.approx(float(nll.value()), abs=1e-9 if kind == "exact" else 0.01)
    jes = nuisance_of(restored)
    (constraint,) = restored.constraints
    assert constraint.observed[0] is jes.observed
    assert float(jes.observed.value()) == 0.4
    before = float(restored.value())
    jes.observed.set_value(1.4)
    moved = before + 0.5 * ((float(jes.value()) - 1.4) ** 2 - (float(jes.value()) - 0.4) ** 2)
    assert float(restored.value()) == pytest.approx(moved, abs=1e-9 if kind == "exact" else 0.01)
    assert float(nuisance_of(nll).observed.value()) == 0.4  # another one


def test_results_and_densities_are_stored_after_they_were_used():
    nll = likelihood()
    result = minimised(nll)
    stored_result, stored_nll, jes = again((result, nll, nuisance_of(nll)))
    assert stored_result.loss is stored_nll
    assert jes is nuisance_of(stored_nll)
    assert stored_result.fmin == pytest.approx(result.fmin, rel=1e-12)
    y = np.linspace(-2.0, 2.0, 5)
    for pdf in (nll.model[0], *nll.model[0].pdfs):
        np.testing.assert_allclose(again(pdf).pdf(y), pdf.pdf(y), rtol=1e-12)


def test_stored_nuisances_keep_limits_that_were_changed():
    jes = zfnf.nuisance("jes")
    jes.upper, jes.floating = 0.9, False
    jes.set_value(0.5)
    restored = again(jes)
    assert isinstance(restored, Nuisance)
    assert (float(restored.upper), restored.floating, float(restored.value())) == (0.9, False, 0.5)


@pytest.mark.parametrize("kind", ["exact", "accelerated"])
def test_models_are_released_with_their_graphs(kind):
    def fitted():
        nll = likelihood()
        nll = zfnf.accelerate(nll) if kind == "accelerated" else nll
        minimised(nll)
        kernel = next(iter(vars(nll.model[0])["_zfit_fnf_kept"].values()))
        graph = next(concrete for part in kernel._compiled() for concrete, _ in part._concrete.values()).graph
        return weakref.ref(nll), weakref.ref(nll.model[0]), weakref.ref(kernel), weakref.ref(graph)

    references = fitted()
    for _ in range(3):  # what TensorFlow holds goes when a graph has gone
        gc.collect()
    assert [reference() for reference in references] == [None] * 4

"""Models and likelihoods on their way to other processes."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from likelihoods import learned as likelihood

import zfit_fnf as zfnf
from zfit_fnf.param import Nuisance, NuisanceConstraint
from zfit_fnf.pickling import dumps, loads


def again(content):
    return loads(dumps(content))


def by_name(nll):
    return {parameter.name: parameter for parameter in nll.get_params(floating=None)}


@pytest.mark.parametrize("accelerated", [False, True])
def test_a_likelihood_is_the_same_elsewhere(accelerated):
    nll = likelihood()
    for name, value in (("n", 47.0), ("mean", -0.2), ("jes", 0.7)):
        by_name(nll)[name].set_value(value)
    by_name(nll)["mean"].floating = False
    sent = zfnf.accelerate(nll) if accelerated else nll
    if accelerated:
        sent.value()
    other = again(sent)
    assert type(other) is type(sent)
    # The same operations; where polynomials are made anew, at the same place.
    assert float(other.value()) == pytest.approx(float(sent.value()), abs=1e-9)
    assert [p.name for p in other.get_params()] == [p.name for p in sent.get_params()]
    np.testing.assert_allclose(other.gradient(), sent.gradient(), atol=1e-9)
    by_name(other)["jes"].set_value(0.0)
    assert float(by_name(nll)["jes"].value()) == 0.7


def test_data_keep_their_weights_and_options_stay():
    nll = likelihood()
    weighted = zfnf.loss.ExtendedUnbinnedNLL(
        nll.model, {"y": [0.1, 0.4], "w": [0.5, 2.0]}, weights="w", options={"max_memory": 1e6}
    )
    other = again(weighted)
    np.testing.assert_array_equal(other.data[0].weights, [0.5, 2.0])
    assert other.max_memory == 1e6
    assert float(other.value()) == pytest.approx(float(weighted.value()), abs=1e-9)


def test_an_object_that_appears_twice_is_one_object():
    nll = likelihood()
    other, jes, constraint = again((nll, by_name(nll)["jes"], nll.constraints[0]))
    assert isinstance(jes, Nuisance)
    assert jes is by_name(other)["jes"]
    assert constraint is other.constraints[0]
    assert constraint.nuisances == (jes,)
    assert float(jes.observed.value()) == 0.4


CONSTRAINTS = {
    "Gaussian": lambda p, o: zfit.constraint.GaussianConstraint([p], observation=[o], sigma=[0.3]),
    "Gaussian with a covariance": lambda p, o: zfit.constraint.GaussianConstraint([p], observation=[o], cov=[[0.09]]),
    "Poisson": lambda p, o: zfit.constraint.PoissonConstraint([p], [3.0]),
    "log-normal": lambda p, o: zfit.constraint.LogNormalConstraint([p], [0.2], [0.1]),
    "function": lambda p, o: zfit.constraint.SimpleConstraint(lambda: (p - 0.2) ** 2, params=[p]),
    "function of parameters": lambda p, o: zfit.constraint.SimpleConstraint(lambda at: at["p"] ** 2, params={"p": p}),
}


@pytest.mark.parametrize("make", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_constraints_go_with_their_parameters(make):
    p, o = zfit.Parameter("p", 1.3, 0.1, 5.0), zfit.Parameter("o", 1.0, floating=False)
    constraint = make(p, o)
    other, moved, observed = again((constraint, p, o))
    assert float(other.value()) == pytest.approx(float(constraint.value()), abs=1e-12)
    moved.set_value(1.7)
    observed.set_value(1.1)
    p.set_value(1.7)
    o.set_value(1.1)
    assert float(other.value()) == pytest.approx(float(constraint.value()), abs=1e-12)


def test_constraints_of_nuisances_and_labels():
    jes = zfnf.nuisance("jes", limits=(-3, 4), label="energy scale")
    other = again(NuisanceConstraint([jes])).nuisances[0]
    assert (other.name, other.label, float(other.lower), float(other.upper)) == ("jes", "energy scale", -3.0, 4.0)


def test_what_cannot_be_sent_says_so():
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        dumps({"file": (line for line in ())})

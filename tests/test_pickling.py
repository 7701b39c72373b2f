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


OBS = zfit.Space("x", 0.1, 10.0)
EVENTS = np.random.default_rng(1).uniform(0.2, 9.8, 100)


class Power(zfit.pdf.ZPDF):
    _PARAMS = ("slope",)

    def _unnormalized_pdf(self, x):
        return zfit.z.unstack_x(x) ** self.params["slope"]


class Scaled(zfit.pdf.BasePDF):
    """A PDF with an argument that is no parameter, and is kept or not."""

    def __init__(self, obs, slope, power=1.0, *, kept=True, extended=None, norm=None, name="Scaled", label=None):
        super().__init__(obs=obs, params={"slope": slope}, extended=extended, norm=norm, name=name, label=label)
        self._power, self.kept = power, kept
        if kept:
            self.power = power

    def _unnormalized_pdf(self, x):
        return 1.0 + self.params["slope"].value() * zfit.z.unstack_x(x) ** self._power


def gauss(**options):
    return zfit.pdf.Gauss(zfit.Parameter("m", 2.0), 1.5, obs=OBS, **options)


PDFS = {
    "in a part of the range": lambda: gauss(
        norm=zfit.Space("x", 1.0, 5.0), extended=zfit.Parameter("n", 7.0), label="peak"
    ),
    "exponential": lambda: zfit.pdf.Exponential(zfit.Parameter("l", -0.3), obs=OBS),
    "polynomial": lambda: zfit.pdf.Chebyshev(OBS, [zfit.Parameter("c", 0.3), 0.1], coeff0=2.0),
    "unscaled polynomial": lambda: zfit.pdf.Legendre(OBS, [0.05], apply_scaling=False),
    "Bernstein": lambda: zfit.pdf.Bernstein(OBS, [0.1, 0.4, 0.2]),
    "kernels": lambda: zfit.pdf.KDE1DimExact(EVENTS, obs=OBS, bandwidth=0.7, padding=0.2),
    "kernels on a grid": lambda: zfit.pdf.KDE1DimGrid(EVENTS, obs=OBS, num_grid_points=64),
    "sum": lambda: zfit.pdf.SumPDF([gauss(), zfit.pdf.Uniform(0.1, 10.0, obs=OBS)], fracs=[zfit.Parameter("f", 0.3)]),
    "extended sum": lambda: zfit.pdf.SumPDF([gauss(extended=3.0), zfit.pdf.Uniform(0.1, 10.0, obs=OBS, extended=4.0)]),
    "ZPDF": lambda: Power(obs=OBS, slope=zfit.Parameter("s", 0.5)),
    "of a user": lambda: Scaled(OBS, zfit.Parameter("s", 0.5), 2.0),
}


@pytest.mark.parametrize("make", PDFS.values(), ids=PDFS)
def test_pdfs_of_zfit_keep_all_of_their_arguments(make):
    pdf = make()
    other = again(pdf)
    np.testing.assert_allclose(other.pdf(EVENTS), pdf.pdf(EVENTS), rtol=1e-12)
    assert (other.label, other.is_extended) == (pdf.label, pdf.is_extended)
    if pdf.is_extended:
        assert float(other.get_yield().value()) == float(pdf.get_yield().value())


def test_a_pdf_that_does_not_keep_an_argument_is_refused():
    with pytest.raises(TypeError, match="a Scaled does not keep its argument 'power'"):
        dumps(Scaled(OBS, 0.5, 2.0, kept=False))


def test_constraints_that_were_found_stay_so():
    """Another constraint of the nuisance takes their place, also in a copy."""
    other = again(likelihood())
    jes = by_name(other)["jes"]
    replaced = other.create_new(constraints=[zfit.constraint.GaussianConstraint([jes], [0.0], sigma=[0.5])])
    assert [type(one).__name__ for one in other.constraints] == ["FoundConstraint"]
    assert [type(one).__name__ for one in replaced.constraints] == ["GaussianConstraint"]


def test_parameters_keep_their_order():
    names = ["b", "c", "a"]
    params = [zfit.Parameter(name, 0.1) for name in names]
    centre = zfit.ComposedParameter(
        "centre", lambda at: sum(at.values()), params=dict(zip("xyz", reversed(params), strict=True))
    )
    nll = zfnf.loss.UnbinnedNLL(zfit.pdf.Gauss(centre, 1.0, obs=OBS), {"x": EVENTS})
    assert [parameter.name for parameter in again(nll).get_params()] == names


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

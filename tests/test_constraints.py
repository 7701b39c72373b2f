"""Every auxiliary measurement counts once, however a likelihood was made and whatever was done to it since."""

from __future__ import annotations

import warnings

import zfit
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from zfit_fnf import accelerate, lnN, modified_yield, nuisance
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.param import NuisanceConstraint

SPACE = zfit.Space("y", -10, 10)
EVENTS = np.random.default_rng(0).normal(size=300)
DIRECTION = np.log([1.10, 1.02, 1.0])  # of the yields below, in the space of the nuisances


def shifted(jes: zfit.Parameter) -> zfit.pdf.BasePDF:
    """A Gaussian whose mean hardly moves with a nuisance."""
    centre = zfit.ComposedParameter("centre", lambda p: 1e-4 * p["jes"], params={"jes": jes}, unpack_params=False)
    return zfit.pdf.Gauss(centre, 1.0, obs=SPACE)


def curvature(nll: zfit.loss.UnbinnedNLL, jes: zfit.Parameter) -> float:
    return float(nll.hessian([jes])[0, 0])


def explicit(jes: zfit.Parameter, sigma: float = 0.5) -> zfit.constraint.GaussianConstraint:
    return zfit.constraint.GaussianConstraint(jes, observation=0.0, sigma=sigma)


# --- a nuisance is covered where it is itself what is measured --------------------------------------------------------

CONTROL_REGIONS = {
    "Poisson": lambda n: zfit.constraint.PoissonConstraint([n], [2610]),
    "Gaussian": lambda n: zfit.constraint.GaussianConstraint([n], observation=[2610.0], sigma=[51.0]),
    "simple": lambda n: zfit.constraint.SimpleConstraint(lambda: 0.5 * ((n.value() - 2610.0) / 51.0) ** 2, params=[n]),
}


@pytest.mark.parametrize("kind", CONTROL_REGIONS)
def test_a_measured_yield_leaves_its_nuisances_their_constraints(kind):
    bnorm, lumi, only_there = nuisances = [nuisance(name) for name in ("bnorm", "lumi", "efficiency")]
    factors = [lnN(bnorm, 1.10), lnN(lumi, 1.02)]
    n, n_control = modified_yield(1000.0, factors), modified_yield(2500.0, [*factors, lnN(only_there, 1.05)])
    pdf = zfit.pdf.Gauss(0.0, 1.0, obs=SPACE, extended=n)
    nll = ExtendedUnbinnedNLL(pdf, {"y": EVENTS}, constraints=CONTROL_REGIONS[kind](n_control))
    point, measured = np.array([0.3, -0.2, 0.4]), DIRECTION + np.log([1.0, 1.0, 1.05])
    with zfit.param.set_values(nuisances, point):
        hessian = np.asarray(nll.hessian(nuisances))
    expected, control = 1000.0 * np.exp(DIRECTION @ point), 2500.0 * np.exp(measured @ point)
    if kind == "Poisson":  # zfit's is the probability of the parameter given the observation as rate
        information = control**2 * polygamma(1, control + 1) + control * (digamma(control + 1) - np.log(2610.0))
    else:
        information = control * (2 * control - 2610.0) / 51.0**2
    data_part = expected * np.outer(DIRECTION, DIRECTION)
    right = np.eye(3) + data_part + information * np.outer(measured, measured)
    np.testing.assert_allclose(hessian, right, rtol=1e-9)  # rounding of float64


def test_a_measured_nuisance_has_that_measurement_alone():
    jes = nuisance("jes")
    nll = UnbinnedNLL(shifted(jes), {"y": EVENTS}, constraints=explicit(jes))
    assert curvature(nll, jes) == pytest.approx(4.0, abs=1e-4)  # the data add 3e-6


def test_an_explicit_nuisance_constraint_is_never_dropped():
    jes = nuisance("jes")
    given = [explicit(jes), NuisanceConstraint([jes])]
    assert curvature(UnbinnedNLL(shifted(jes), {"y": EVENTS}, constraints=given), jes) == pytest.approx(5.0, abs=1e-4)


def test_overlapping_nuisance_constraints_count_once():
    a, b, c = (nuisance(name) for name in "abc")
    given = [NuisanceConstraint([a, b]), NuisanceConstraint([b, c])]
    nll = UnbinnedNLL(shifted(b), {"y": EVENTS}, constraints=given)
    np.testing.assert_allclose(nll.hessian([a, b, c]), np.eye(3), atol=1e-4)


def test_a_function_of_a_nuisance_is_added_and_told():
    jes = nuisance("jes")
    function = zfit.constraint.SimpleConstraint(lambda: 1.5 * jes.value() ** 2, params=[jes])
    with pytest.warns(UserWarning, match=r"depends on the nuisances \['jes'\] and is added") as told:
        nll = UnbinnedNLL(shifted(jes), {"y": EVENTS}, constraints=function)
    assert told[0].filename == __file__
    assert curvature(nll, jes) == pytest.approx(4.0, abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        UnbinnedNLL(shifted(jes), {"y": EVENTS}, constraints=[function, NuisanceConstraint(jes)])


# --- after it was made ------------------------------------------------------------------------------------------------


ADDING = {
    "add_constraints": lambda nll, constraint: nll.add_constraints(constraint),
    "the list": lambda nll, constraint: nll.constraints.append(constraint),
}


@pytest.mark.parametrize("adding", ADDING)
@pytest.mark.parametrize("fast", [False, True])
def test_added_constraints_count_as_those_given_at_once(adding, fast):
    jes = nuisance("jes")
    nll = UnbinnedNLL(shifted(jes), {"y": EVENTS})
    nll = accelerate(nll) if fast else nll
    assert curvature(nll, jes) == pytest.approx(1.0, abs=1e-4)
    ADDING[adding](nll, NuisanceConstraint([jes]))
    assert curvature(nll, jes) == pytest.approx(1.0, abs=1e-4)
    ADDING[adding](nll.create_new(constraints=None), explicit(jes))  # leaves this one alone
    assert curvature(nll, jes) == pytest.approx(1.0, abs=1e-4)
    replaced = nll.create_new(constraints=None)
    ADDING[adding](replaced, explicit(jes))
    assert curvature(replaced, jes) == pytest.approx(4.0, abs=1e-4)
    assert curvature(replaced + nll.create_new(constraints=None), jes) == pytest.approx(4.0, abs=1e-4)


def test_added_constraints_bring_their_parameters():
    jes, mean = nuisance("jes"), zfit.Parameter("mean", 0.3)
    nll = UnbinnedNLL(shifted(jes), {"y": EVENTS})
    assert list(nll.get_params()) == [jes]
    nll.constraints.append(zfit.constraint.GaussianConstraint(mean, observation=0.0, sigma=0.1))
    assert list(nll.get_params()) == [mean, jes]
    np.testing.assert_allclose(nll.gradient([mean]), [30.0])


def test_another_model_has_its_own_nuisances():
    jes, jer = nuisance("jes"), nuisance("jer")
    first = UnbinnedNLL(shifted(jes), {"y": EVENTS})
    assert list(first.create_new(model=shifted(jer)).get_params()) == [jer]
    (constraint,) = first.constraints
    assert first.create_new(data=[{"y": EVENTS[:10]}]).constraints == [constraint]  # compiled once


def test_a_sum_keeps_options():
    pdf = shifted(nuisance("jes"))
    small, plain = (UnbinnedNLL(pdf, {"y": EVENTS}, options=o) for o in ({"max_memory": 1e5}, None))
    for total in (small + plain, plain + small, small + small, accelerate(plain) + accelerate(small)):
        assert total.max_memory == 1e5
    assert (plain + plain).max_memory == plain.max_memory
    assert (small + UnbinnedNLL(pdf, {"y": EVENTS}, options={"max_memory": 10})).max_memory == 10


def test_numbers_are_not_added():
    nll = UnbinnedNLL(shifted(nuisance("jes")), {"y": EVENTS})
    with pytest.raises(TypeError, match="unsupported operand"):
        nll + 1.0


@pytest.mark.filterwarnings("ignore:.*EXPERIMENTAL:UserWarning")  # zfit says so of to_json, once
def test_zfit_does_not_write_what_it_would_read_without_constraints():
    with pytest.raises(NotImplementedError, match="save densities"):
        UnbinnedNLL(shifted(nuisance("jes")), {"y": EVENTS}).to_json()


# --- likelihoods of zfit ----------------------------------------------------------------------------------------------


def theirs(pdf: zfit.pdf.BasePDF, kind: type = zfit.loss.ExtendedUnbinnedNLL, **options) -> zfit.loss.UnbinnedNLL:
    return kind(pdf, zfit.Data.from_numpy(obs=SPACE, array=EVENTS[:, None], name="data"), **options)


def test_likelihoods_of_zfit_tell_which_nuisances_they_leave_free():
    jes, lumi = nuisance("jes"), nuisance("lumi")
    shape = shifted(jes).create_extended(modified_yield(300.0, [lnN(lumi, 1.02)]))
    flat = zfit.pdf.Uniform(-10.0, 10.0, obs=SPACE, extended=100.0)
    for pdf in (shape, zfit.pdf.SumPDF([flat, shape])):
        nll = theirs(pdf)
        with pytest.warns(
            UserWarning, match=r"ExtendedUnbinnedNLL of zfit has no constraints.*\['jes', 'lumi'\]"
        ) as told:
            nll.value()
        assert [warning.filename for warning in told if "no constraints" in str(warning.message)] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            nll.gradient()
    with pytest.warns(UserWarning, match=r"UnbinnedNLL of zfit has no constraints of the nuisances \['jes'\]"):
        theirs(shifted(jes), zfit.loss.UnbinnedNLL).gradient()


def test_constrained_likelihoods_of_zfit_are_quiet():
    jes = nuisance("jes")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for constraint in (explicit(jes), NuisanceConstraint([jes])):
            theirs(shifted(jes), zfit.loss.UnbinnedNLL, constraints=constraint).value()
        theirs(shifted(zfit.Parameter("mean", 0.0)), zfit.loss.UnbinnedNLL).value()
        UnbinnedNLL(shifted(jes), {"y": EVENTS}).value()
    function = zfit.ComposedParameter("twice", lambda jes: 2.0 * jes, params=[jes])
    nll = theirs(shifted(jes), zfit.loss.UnbinnedNLL, constraints=explicit(function))
    with pytest.warns(UserWarning, match=r"\['jes'\]"):  # a measured function of it is no measurement of it
        nll.value()


# --- constraints that were made twice ----------------------------------------------------------------------------------


def counted(lumi: zfit.Parameter, outcome: object, sigma: float = 0.02) -> ExtendedUnbinnedNLL:
    """300 events of 300 expected ones times a luminosity, which is measured."""
    pdf = zfit.pdf.Gauss(0.0, 1.0, obs=SPACE, extended=modified_yield(300.0, [lumi]))
    constraint = zfit.constraint.GaussianConstraint(lumi, observation=outcome, sigma=sigma)
    return ExtendedUnbinnedNLL(pdf, {"y": EVENTS}, constraints=constraint)


def test_one_outcome_is_one_measurement():
    """Of two channels: 600 events and one luminosity; the second constraint was counted too, 1 / 0.02^2 = 2500."""
    lumi, outcome = zfit.Parameter("lumi", 1.0, 0.5, 1.5), zfit.Parameter("outcome", 1.0, floating=False)
    both = counted(lumi, outcome) + counted(lumi, outcome)
    assert curvature(both, lumi) == pytest.approx(600.0 + 2500.0, rel=1e-9)
    with pytest.raises(ValueError, match="the outcome 'outcome' is that of two different constraints"):
        counted(lumi, outcome) + counted(lumi, outcome, sigma=0.03)
    other = zfit.Parameter("other", 1.0, floating=False)
    assert curvature(counted(lumi, outcome) + counted(lumi, other), lumi) == pytest.approx(600.0 + 5000.0, rel=1e-9)
    with pytest.warns(UserWarning, match=r"two constraints of \['lumi'\] are the same, and count as two"):
        both = counted(lumi, 1.0) + counted(lumi, 1.0)
    assert curvature(both, lumi) == pytest.approx(600.0 + 5000.0, rel=1e-9)


def test_log_normal_constraints_of_two_widths_are_two():
    lumi, first = zfit.Parameter("lumi", 1.0, 0.5, 1.5), zfit.Parameter("outcome", 0.0, floating=False)
    pdf = zfit.pdf.Gauss(lumi, 1.0, obs=SPACE)
    made = [zfit.constraint.LogNormalConstraint([lumi], [first], [width]) for width in (0.1, 0.2, 0.1)]
    assert len(UnbinnedNLL(pdf, {"y": EVENTS}, constraints=[made[0], made[2]]).constraints) == 1
    with pytest.raises(ValueError, match="two different constraints"):
        UnbinnedNLL(pdf, {"y": EVENTS}, constraints=made)


REPEATED = {
    "an explicit unit Gaussian and the same of zfit": lambda a, b: [NuisanceConstraint(a), explicit(a, 1.0)],
    "their one outcome": lambda a, b: [
        NuisanceConstraint(a),
        zfit.constraint.GaussianConstraint(a, observation=a.observed, sigma=1.0),
    ],
    "one of two parameters": lambda a, b: [
        explicit(a, 1.0),
        zfit.constraint.GaussianConstraint([a, b], observation=[0.0, 0.0], sigma=[1.0, 2.0]),
    ],
}


@pytest.mark.parametrize("kind", REPEATED)
def test_constraints_that_say_the_same_of_a_nuisance_are_told(kind):
    """They halve its variance, of which nothing was said; measurements of other outcomes or widths are no mistake."""
    a, b = nuisance("a"), nuisance("b")
    with pytest.warns(UserWarning, match=r"two constraints of \['a'\] are the same, and count as two") as told:
        nll = UnbinnedNLL(shifted(a), {"y": EVENTS}, constraints=REPEATED[kind](a, b))
    assert len(told) == 1
    assert told[0].filename == __file__
    assert curvature(nll, a) == pytest.approx(2.0, abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a.observed.set_value(0.5)
        UnbinnedNLL(shifted(a), {"y": EVENTS}, constraints=[NuisanceConstraint(a), explicit(a, 1.0)])


def test_likelihoods_of_zfit_count_nuisances_that_are_given_twice():
    a, b = nuisance("a"), nuisance("b")
    nll = theirs(shifted(a), zfit.loss.UnbinnedNLL, constraints=[NuisanceConstraint(a), NuisanceConstraint([a, b])])
    with pytest.warns(UserWarning, match=r"two constraints of \['a'\] are the same"):
        assert curvature(nll, a) == pytest.approx(2.0, abs=1e-4)

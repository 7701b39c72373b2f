"""Nuisances, their constraint, and the modifiers of yields."""

from __future__ import annotations

from dataclasses import dataclass

import zfit
import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf import param
from zfit_fnf.densities.deformation import YieldRatio
from zfit_fnf.loss import yield_gradient
from zfit_fnf.param import NuisanceConstraint, nuisance
from zfit_fnf.pickling import dumps, loads
from zfit_fnf.yields import (
    InterpolatedModifier,
    Modifier,
    interpolate_code4,
    lnN,
    modified_yield,
    normsys,
)


def test_nuisance_is_a_unit_gaussian_parameter_with_an_observation():
    jes = nuisance("jes", label="jet energy scale")
    assert isinstance(jes, zfit.Parameter)
    assert (float(jes.value()), float(jes.lower), float(jes.upper)) == (0.0, -5.0, 5.0)
    assert jes.label == "jet energy scale"
    assert jes.floating
    assert jes.observed.name == "jes_observed"
    assert not jes.observed.floating
    assert nuisance("jes") is not jes


def test_nuisance_refuses_limits_without_zero():
    with pytest.raises(ValueError, match="must enclose 0"):
        nuisance("jes", limits=(1.0, 5.0))


def test_constraint_is_the_gaussian_constraint_without_its_constant():
    nuisances = [nuisance("jes"), nuisance("jer")]
    for nu, value, observed in zip(nuisances, (0.7, -1.2), (0.1, 0.3), strict=True):
        nu.set_value(value)
        nu.observed.set_value(observed)
    ours = NuisanceConstraint(nuisances)
    theirs = zfit.constraint.GaussianConstraint(nuisances, [0.1, 0.3], sigma=[1.0, 1.0])
    np.testing.assert_allclose(ours.value(), theirs.value() - np.log(2 * np.pi), rtol=1e-12)
    np.testing.assert_allclose(ours.gradient(), [0.6, -1.5], rtol=1e-12)
    assert ours.get_params(floating=None) == set(nuisances)


def test_constraint_does_not_saturate_at_the_limits():
    jes = nuisance("jes", limits=(-1.0, 1.0))
    jes.assign(3.0)  # as MINOS may
    assert float(NuisanceConstraint([jes]).value()) == pytest.approx(4.5)


def test_constraint_samples_observations_around_the_current_values():
    jes, jer = nuisance("jes"), nuisance("jer")
    jes.set_value(2.0)
    zfit.settings.set_seed(1)
    sample = NuisanceConstraint([jes, jer]).sample(10_000)
    assert set(sample) == {jes.observed, jer.observed}
    # Five standard errors of mean (0.01) and standard deviation (0.007).
    np.testing.assert_allclose([np.mean(sample[jes.observed]), np.mean(sample[jer.observed])], [2.0, 0.0], atol=0.05)
    np.testing.assert_allclose([np.std(sample[jes.observed]), np.std(sample[jer.observed])], 1.0, atol=0.035)
    np.testing.assert_allclose(np.corrcoef(sample[jes.observed], sample[jer.observed])[0, 1], 0.0, atol=0.05)


def test_constraint_refuses_what_it_cannot_constrain():
    jes = nuisance("jes")
    with pytest.raises(ValueError, match="at least one"):
        NuisanceConstraint([])
    with pytest.raises(TypeError, match=r"made by zfit_fnf\.nuisance"):
        NuisanceConstraint([zfit.Parameter("mu", 1.0)])
    with pytest.raises(ValueError, match="twice"):
        NuisanceConstraint([jes, jes])


def test_code4_is_that_of_pyhf():
    interpolators = pytest.importorskip("pyhf.interpolators")
    down, up = np.array([0.9, 0.5, 1.2, 0.97]), np.array([1.15, 1.01, 1.4, 0.95])
    points = np.append(np.linspace(-4, 4, 81), [-1.0, 1.0])
    histograms = [[[[d], [1.0], [u]]] for d, u in zip(down, up, strict=True)]
    expected = np.asarray(interpolators.code4(histograms)(np.tile(points, (len(up), 1))))[:, 0, :, 0]
    ours = [interpolate_code4(tf.fill((len(up),), nu), down, up) for nu in points]
    np.testing.assert_allclose(np.transpose(ours), expected, rtol=1e-10)


@pytest.mark.parametrize("edge", [-1.0, 1.0])
def test_code4_is_twice_differentiable_at_one_sigma(edge):
    down, up = np.array([0.8]), np.array([1.3])

    def derivatives(nu):
        nu = tf.constant([nu], tf.float64)
        with tf.GradientTape() as outer:
            outer.watch(nu)
            with tf.GradientTape() as inner:
                inner.watch(nu)
                value = interpolate_code4(nu, down, up)
            slope = inner.gradient(value, nu)
        return np.concatenate([value, slope, outer.gradient(slope, nu)])

    # The third derivative jumps by less than 1, so second derivatives 2e-8 apart differ by less than 2e-8.
    np.testing.assert_allclose(derivatives(edge - 1e-8), derivatives(edge + 1e-8), atol=1e-7)
    assert np.all(np.isfinite(derivatives(edge)))


def test_code4_has_finite_derivatives_far_outside():
    nu = tf.constant([-500.0, 500.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(nu)
        value = interpolate_code4(nu, np.array([0.9, 0.9]), np.array([1.1, 1.1]))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(tape.gradient(value, nu)))


def test_a_relative_uncertainty_is_no_kappa():
    with pytest.warns(UserWarning, match=r"divides the yield by 50 at one standard deviation.*for 2 % it is 1.02"):
        lnN(nuisance("lumi"), 0.02)


def test_lnN_is_kappa_to_the_nu():
    lumi = nuisance("lumi")
    rate = modified_yield(100.0, [lnN(lumi, 1.05)])
    for value in (-2.3, 0.0, 0.4, 3.0):
        lumi.set_value(value)
        assert float(rate.value()) == pytest.approx(100.0 * 1.05**value, rel=1e-12)


def test_normsys_takes_yield_changes_and_mirrors_a_missing_side():
    jes = nuisance("jes")
    assert normsys(jes, YieldRatio(up=1.1, down=0.8)) == _like(InterpolatedModifier(jes, 0.8, 1.1, "code4"))
    assert normsys(jes, up=1.25) == _like(InterpolatedModifier(jes, 0.8, 1.25, "code4"))
    assert normsys(jes, down=0.5) == _like(InterpolatedModifier(jes, 0.5, 2.0, "code4"))
    assert normsys(jes, YieldRatio(up=1.25)) == _like(InterpolatedModifier(jes, 0.8, 1.25, "code4"))


class _like:
    def __init__(self, modifier: InterpolatedModifier):
        self.fields = vars(modifier)

    def __eq__(self, other: object) -> bool:
        return vars(other) == self.fields


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda nu: lnN(nu, -1.0), "kappa of lnN"),
        (lambda nu: lnN(nu, float("nan")), "kappa of lnN"),
        (lambda nu: normsys(nu), "at least one side"),
        (lambda nu: normsys(nu, YieldRatio()), "at least one side"),
        (lambda nu: normsys(nu, up=0.0), "up= of normsys.* must be finite and > 0"),
        (lambda nu: normsys(nu, down=-0.1, up=1.1), "down= of normsys.* must be finite and > 0"),
        (lambda nu: normsys(nu, YieldRatio(up=1.1), up=1.1), "not both"),
    ],
)
def test_modifiers_refuse_unusable_factors(make, message):
    with pytest.raises(ValueError, match=message):
        make(nuisance("jes"))


def test_modified_yield_is_the_product():
    mu, lumi, jes, jer = zfit.Parameter("mu", 2.0), nuisance("lumi"), nuisance("jes"), nuisance("jer")
    rate = modified_yield(
        50.0, [mu, lnN(lumi, 1.02), lnN(jes, 0.9), normsys(jes, down=0.95, up=1.06), normsys(jer, up=1.3)], name="n_sig"
    )
    lumi.set_value(1.5)
    jes.set_value(1.2)
    jer.set_value(-1.0)
    assert rate.name == "n_sig"
    assert float(rate.value()) == pytest.approx(50 * 2 * 1.02**1.5 * 0.9**1.2 * 1.06**1.2 / 1.3, rel=1e-12)
    assert rate.get_params() == {mu, lumi, jes, jer}


def test_modified_yield_without_modifiers_or_with_a_nominal_parameter():
    n = zfit.Parameter("n", 7.0)
    assert float(modified_yield(3.0, []).value()) == 3.0
    assert float(modified_yield(n, [n]).value()) == 49.0
    first, second = modified_yield(1.0, []), modified_yield(1.0, [])
    assert first.name != second.name


def test_modified_yield_refuses_mistakes():
    jes = nuisance("jes")
    with pytest.raises(TypeError, match="needs lnN or normsys"):
        modified_yield(10.0, [jes])
    with pytest.raises(TypeError, match="constant factor"):
        modified_yield(10.0, [2.0])
    with pytest.raises(ValueError, match="called 'jes'"):
        modified_yield(10.0, [lnN(jes, 1.1), lnN(nuisance("jes"), 1.1)])


def test_values_of_many_parameters_at_once():
    """As ``value()`` of each, also of composed ones and where a value is outside of the limits, with their derivatives."""
    free, limited = zfit.Parameter("free", 1.5), zfit.Parameter("limited", 0.5, 0.0, 1.0)
    composed = zfit.ComposedParameter("twice", lambda params: 2.0 * params["free"], params={"free": free})
    limited.assign(1.25)
    with tf.GradientTape() as tape:
        values = param.values_of([free, limited, composed])
        total = tf.reduce_sum(values)
    np.testing.assert_allclose(values, [1.5, 1.0, 3.0], rtol=1e-15)
    np.testing.assert_allclose(tape.gradient(total, [free, limited]), [3.0, 1.0], rtol=1e-15)


def test_parameters_are_read_once_inside_of_one_function_only():
    free = zfit.Parameter("free", 1.5)
    with param.read_once():
        first = param.values_of([free])
        assert param.values_of([free]) is first
    free.set_value(2.5)
    np.testing.assert_array_equal(param.values_of([free]), [2.5])
    with param.read_once():
        np.testing.assert_array_equal(param.values_of([free]), [2.5])


@pytest.mark.parametrize("interpolation", ["code5", "Code4", "", None, "linear"])
def test_an_unknown_interpolation_is_refused(interpolation):
    with pytest.raises(ValueError, match="interpolation= is one of"):
        InterpolatedModifier(nuisance("jes"), 0.9, 1.1, interpolation)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_factors_that_are_no_ratios(factor):
    nu = nuisance("jes")
    for make in (
        lambda: lnN(nu, factor),
        lambda: normsys(nu, up=factor),
        lambda: normsys(nu, down=factor, up=1.1),
        lambda: InterpolatedModifier(nu, factor, 1.1, "code4"),
        lambda: YieldRatio(up=factor),
    ):
        with pytest.raises(ValueError, match="must be finite and > 0"):
            make()


@pytest.mark.parametrize("nominal", [-1.0, np.nan, np.inf])
def test_nominal_yields_that_are_no_numbers_of_events(nominal):
    with pytest.raises(ValueError, match="the nominal yield of modified_yield"):
        modified_yield(nominal, [])


def test_mistakes_in_modifiers_are_named():
    nu = nuisance("jes")
    for make, message in (
        (lambda: lnN(1.02, nu), "needs a parameter as its nuisance"),
        (lambda: lnN("jes", 1.02), "needs a parameter as its nuisance"),
        (lambda: lnN(nu, "1.02"), "kappa of lnN"),
        (lambda: lnN(nu, [1.02, 0.98]), "kappa of lnN"),
        (lambda: lnN(nu, True), "kappa of lnN"),
        (lambda: normsys(0.9, up=1.1), "needs a parameter as its nuisance"),
        (lambda: normsys(nu, 1.1), "takes a YieldRatio"),
        (lambda: normsys(nu, (0.9, 1.1)), "takes a YieldRatio"),
        (lambda: modified_yield("1000", []), "the nominal yield"),
        (lambda: modified_yield(None, []), "the nominal yield"),
        (lambda: modified_yield(1000.0, lnN(nu, 1.02)), "a list of modifiers"),
        (lambda: modified_yield(1000.0, nu), "a list of modifiers"),
        (lambda: modified_yield(1000.0, 1.1), "a list of modifiers"),
        (lambda: modified_yield(1000.0, [1.1]), "multiplies parameters"),
        (lambda: modified_yield(1000.0, "jes"), "multiplies parameters"),
    ):
        with pytest.raises(TypeError, match=message):
            make()


@dataclass(frozen=True, eq=False)
class Linear:
    """A modifier of two parameters that the package does not know."""

    nuisance: zfit.Parameter
    slope: zfit.Parameter

    @property
    def params(self):
        return self.nuisance, self.slope

    def __call__(self, nu, slope):
        return 1.0 + slope * nu

    def to_dict(self):
        return {"type": "linear", "nuisance": self.nuisance.name, "slope": self.slope.name}


def test_a_modifier_is_added_by_one_class():
    jes, jer, slope = nuisance("jes"), nuisance("jer"), zfit.Parameter("slope", 0.25)
    modifiers = [Linear(jes, slope), lnN(jer, 1.1), zfit.Parameter("mu", 2.0)]
    rate = modified_yield(100.0, modifiers, name="n")
    jes.set_value(0.4)
    jer.set_value(-1.0)
    assert isinstance(modifiers[0], Modifier)
    assert float(rate.value()) == pytest.approx(100.0 * 1.1 / 1.1 * 2.0, rel=1e-12)
    model = zfit.pdf.Uniform(0.0, 1.0, obs=zfit.Space("x", 0.0, 1.0), extended=rate)
    np.testing.assert_allclose(
        yield_gradient(model, [jes, slope, jer])[1], [200 * 0.25 / 1.1, 200 * 0.4 / 1.1, 200 * np.log(1.1)], rtol=1e-12
    )
    assert rate.to_dict() == {
        "name": "n",
        "nominal": 100.0,
        "modifiers": [
            {"type": "linear", "nuisance": "jes", "slope": "slope"},
            {"type": "lnN", "nuisance": "jer", "down": 1 / 1.1, "up": 1.1},
            {"type": "parameter", "name": "mu"},
        ],
    }


@pytest.mark.parametrize("value", [-2.0, -0.3, 0.0, 0.6, 1.5])
def test_modifiers_are_functions_of_their_nuisance(value):
    nu = nuisance("jes")
    for modifier in (lnN(nu, 1.3), normsys(nu, down=0.8, up=1.1)):
        nu.set_value(value)
        assert modifier.params == (nu,)
        assert float(modifier(nu.value())) == pytest.approx(float(modified_yield(1.0, [modifier]).value()), rel=1e-12)


def test_yields_are_pickled_by_what_they_are_made_of():
    nu, mu = nuisance("jes"), zfit.Parameter("mu", 1.5)
    rate = modified_yield(10.0, [mu, normsys(nu, up=1.2)], name="n_sig")
    other, jes = loads(dumps((rate, nu)))
    assert (other.name, other.nominal, other.modifiers[1].up) == ("n_sig", 10.0, 1.2)
    jes.set_value(1.0)
    assert float(other.value()) == pytest.approx(18.0, rel=1e-12)
    assert float(rate.value()) == pytest.approx(15.0, rel=1e-12)


def test_principal_shifts_do_not_depend_on_units():
    """Of a yield known to 1000 beside a mass known to 1e-6, the mass was taken to be known to six times that."""
    rng = np.random.default_rng(0)
    factor, errors = rng.normal(size=(5, 10)), np.array([1e3, 1e-6, 1.0, 1e2, 1e-7])
    correlation = factor @ factor.T
    correlation /= np.sqrt(np.outer(np.diag(correlation), np.diag(correlation)))
    params = [zfit.Parameter(f"shifted_{k}", 0.0, -1e9, 1e9) for k in range(5)]

    def numbers(values):
        return np.append(values, np.sum(values / errors))

    shifts = param.principal_shifts(numbers, params, np.zeros(5), correlation * np.outer(errors, errors))
    expected = np.append(errors, np.sqrt(correlation.sum()))
    np.testing.assert_allclose(np.sqrt(np.sum(shifts**2, axis=0)), expected, rtol=1e-9)

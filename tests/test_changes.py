"""What changes after a likelihood was first evaluated: limits, values and floating of parameters, and the data."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from analytic import one_dimensional

import zfit_fnf
from zfit_fnf import accelerate, lnN, modified_yield, normsys, nuisance
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.pdf import FNFPDF, SumPDF

SPACE = zfit.Space("y", -10, 10)
EVENTS = np.random.default_rng(11).normal(0.2, 1.2, 150)


class Model:
    """A signal with nuisances on a background of zfit, and a likelihood of it."""

    def __init__(self, limits: dict[str, tuple[float, float]] | None = None):
        limits = {"mu": (0.0, 10.0), "mean": (-0.5, 0.5), "jes": (-1.0, 1.0), "lumi": (-1.0, 1.0), **(limits or {})}
        self.mu = zfit.Parameter("mu", 0.5, *limits["mu"])
        self.mean = zfit.Parameter("mean", 0.1, *limits["mean"])
        self.jes, self.jer = nuisance("jes", limits=limits["jes"]), nuisance("jer")
        self.lumi, self.rate = nuisance("lumi", limits=limits["lumi"]), nuisance("rate")
        n_sig = modified_yield(60.0, [self.mu, lnN(self.lumi, 1.1), normsys(self.rate, up=1.2)])
        pdf = FNFPDF(one_dimensional(), {"jes": self.jes, "jer": self.jer}, obs=SPACE, extended=n_sig)
        background = zfit.pdf.Gauss(self.mean, 2.0, obs=SPACE, extended=100.0)
        self.nll = ExtendedUnbinnedNLL(SumPDF([pdf, background]), {"y": EVENTS})

    @property
    def parameters(self) -> list[zfit.Parameter]:
        return [self.mu, self.mean, self.jes, self.jer, self.lumi, self.rate]


def derivatives(model: Model, nll: zfit.loss.UnbinnedNLL) -> list[np.ndarray]:
    value, gradient = nll.value_gradient(model.parameters)
    hessian = nll.hessian(model.parameters)
    return [np.asarray(part) for part in (nll.value(full=False), value, gradient, hessian)]


WIDER = {  # limits, and a value outside of the first ones, of a yield, of a PDF of zfit, of shape and rate nuisances
    "mu": ((-5.0, 10.0), -0.05),
    "mean": ((-3.0, 3.0), 1.7),
    "jes": ((-5.0, 5.0), -1.6),
    "lumi": ((-5.0, 5.0), 2.5),
}


FAST = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize("fast", FAST)
def test_limits_widened_after_the_first_evaluation(fast):
    wide, model = Model({name: limits for name, (limits, _) in WIDER.items()}), Model()
    nlls = [accelerate(m.nll) if fast else m.nll for m in (wide, model)]
    derivatives(model, nlls[1])
    for name, (limits, value) in WIDER.items():
        parameter = getattr(model, name)
        parameter.lower, parameter.upper = limits
        for m in (wide, model):
            getattr(m, name).set_value(value)
        values = [float(nll.value(full=False)) for nll in nlls]
        assert values[1] == pytest.approx(values[0], rel=1e-10), name
    right, now = (derivatives(m, nll) for m, nll in zip((wide, model), nlls, strict=True))
    for first, second in zip(right, now, strict=True):
        assert np.isfinite(first).all()
        np.testing.assert_allclose(second, first, rtol=1e-10)


def test_limits_narrowed_are_where_values_stay():
    model = Model()
    model.jes.set_value(0.8)
    model.nll.value()
    model.jes.upper = 0.3
    assert float(model.jes.value()) == pytest.approx(0.3)
    # Of the constraint the value goes on, so that a fit finds back.
    prior = 0.5 * (0.8**2 - 0.3**2)
    narrowed = float(model.nll.value())
    model.jes.set_value(0.3)
    assert narrowed == pytest.approx(float(model.nll.value()) + prior, abs=1e-9)


def test_limits_that_stay_compile_nothing():
    model = Model()
    derivatives(model, model.nll)
    kernels = [kernel for kernel, _ in model.nll.terms() if hasattr(kernel, "n_traces")]
    before = [kernel.n_traces for kernel in kernels]
    model.mu.lower, model.mu.upper = 0.0, 10.0  # the same ones, set again
    derivatives(model, model.nll)
    assert [kernel.n_traces for kernel in kernels] == before


def test_a_fit_ends_beyond_the_first_limits():
    mu, unit = zfit.Parameter("mu", 1.0, 0.0, 10.0), zfit.Space("y", 0, 1)
    parts = [zfit.pdf.Uniform(0.0, 1.0, obs=unit, extended=n) for n in (modified_yield(30.0, [mu]), 70.0)]
    nll = ExtendedUnbinnedNLL(SumPDF(parts), {"y": np.linspace(0.01, 0.99, 60)})
    nll.gradient()
    mu.lower = -2.0
    assert zfit_fnf.Minuit().minimize(nll).params[mu]["value"] == pytest.approx(-1 / 3, abs=1e-3)


@pytest.mark.parametrize("fast", FAST)
def test_parameters_fixed_at_first_can_float_later(fast):
    model, other = Model(), Model()
    nll, reference = (accelerate(m.nll) if fast else m.nll for m in (model, other))
    model.jes.floating = model.lumi.floating = False
    assert [p.name for p in nll.get_params()] == ["mu", "mean", "jer", "rate"]
    nll.gradient()
    model.jes.floating = model.lumi.floating = True
    assert [p.name for p in nll.get_params()] == ["mu", "mean", "jes", "jer", "lumi", "rate"]
    for m in (model, other):
        zfit.param.set_values(m.parameters, [0.7, 0.2, 0.5, 0.1, -0.4, 0.3])
    np.testing.assert_allclose(nll.gradient(), reference.gradient(), rtol=1e-10)
    np.testing.assert_allclose(nll.hessian(), reference.hessian(), rtol=1e-9)


# --- data -------------------------------------------------------------------------------------------------------------


def gaussian() -> tuple[zfit.Parameter, zfit.pdf.BasePDF]:
    mean = zfit.Parameter("mean", 0.3)
    return mean, zfit.pdf.Gauss(mean, 1.0, obs=SPACE)


def test_data_replaced_in_the_list_are_seen():
    mean, pdf = gaussian()
    nll = UnbinnedNLL(pdf, {"y": EVENTS})
    nll.value()
    nll.data[0] = zfit.Data.from_numpy(obs=SPACE, array=EVENTS[:10, None], name="others")
    assert float(nll.gradient([mean])[0]) == pytest.approx(np.sum(0.3 - EVENTS[:10]))


@pytest.mark.parametrize("part", ["model", "data"])
def test_channels_cannot_be_appended(part):
    _, pdf = gaussian()
    nll = UnbinnedNLL(pdf, {"y": EVENTS})
    getattr(nll, part).append(getattr(nll, part)[0])
    for evaluate in (nll.value, nll.gradient, nll.hessian):
        with pytest.raises(ValueError, match="cannot be appended to a likelihood"):
            evaluate()


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, np.inf], "NaN or infinite in the weights"), ([1.0, -1.0], "sum to 0"), ([0.0, 0.0], "sum to 0")],
)
def test_weights_put_in_later_are_checked_like_the_first(weights, message):
    _, pdf = gaussian()
    nll = UnbinnedNLL(pdf, {"y": EVENTS})
    nll.data[0] = zfit.Data.from_numpy(obs=SPACE, array=np.array([[0.1], [0.2]]), weights=np.array(weights), name="w")
    with pytest.raises(ValueError, match=message):
        nll.value()


@pytest.mark.parametrize(("event", "message"), [(np.nan, "NaN or infinite"), (11.0, "not inside the range")])
def test_events_put_in_later_are_checked_like_the_first(event, message):
    _, pdf = gaussian()
    data = pdf.create_sampler(n=5)
    nll = UnbinnedNLL(pdf, data)
    nll.value()
    data.update_data(np.array([[0.1], [event]]), guarantee_limits=True)
    with pytest.raises(ValueError, match=message):
        nll.value()


def test_sampler_data_that_could_not_be_followed_are_refused():
    x, y = zfit.Space("x", -10, 10), SPACE
    pdf = zfit.pdf.ProductPDF([zfit.pdf.Gauss(0.0, 1.0, obs=obs) for obs in (x, y)])
    data = zfit.pdf.ProductPDF([zfit.pdf.Gauss(0.0, 1.0, obs=obs) for obs in (y, x)]).create_sampler(n=5)
    with pytest.raises(ValueError, match="follows SamplerData only with the observables"):
        UnbinnedNLL(pdf, data)


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_that_are_not_numbers_are_named():
    model, (mean, pdf) = Model(), gaussian()
    for value in (np.nan, np.float32("nan")):
        with pytest.raises(ValueError, match="'jes' cannot be set to a value that is not a number"):
            model.jes.set_value(value)
    with pytest.raises(ValueError, match="'jes' cannot be set to a value that is not a number"):
        model.nll.value(params={"jes": np.nan})
    nll = UnbinnedNLL(pdf, {"y": EVENTS})
    mean.set_value(np.nan)
    with pytest.raises(ValueError, match=r"the values of \['mean'\] are not numbers"):
        nll.value()


def test_the_global_observable_is_set_by_its_value():
    jes = nuisance("jes")
    with pytest.raises(AttributeError):
        jes.observed = 1.0


def test_parameters_come_in_the_order_of_definition_and_nuisances_last():
    jes, mu, jer, slope = nuisance("jes"), zfit.Parameter("mu", 1.0), nuisance("jer"), zfit.Parameter("slope", 0.1)
    n = modified_yield(100.0, [lnN(jer, 1.1), normsys(jes, up=1.2), mu])
    pdf = zfit.pdf.Exponential(slope, obs=SPACE, extended=n)
    nll = ExtendedUnbinnedNLL(pdf, {"y": EVENTS})
    for loss in (nll, accelerate(nll), nll.create_new()):
        assert [p.name for p in loss.get_params()] == ["mu", "slope", "jes", "jer"]
        assert list(zfit_fnf.Minuit().minimize(loss).params) == [mu, slope, jes, jer]

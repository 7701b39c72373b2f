"""Sums of any two likelihoods: value, derivatives, constraints, options, and what inference does with them."""

from __future__ import annotations

import functools
import itertools

import zfit
import numpy as np
import pytest
from analytic import one_dimensional
from scipy import stats

import zfit_fnf
from zfit_fnf.loss import NLL, ExtendedUnbinnedNLL, OtherLikelihood, UnbinnedNLL, channels_of, counting
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF
from zfit_fnf.toys import asimov, fit_toys, toy

pytest.importorskip("pyhf")

SPACE = zfit.Space("y", -10.0, 10.0)
BINS = zfit.Space("y", binning=zfit.binned.RegularBinning(8, -4.0, 4.0, name="y"))
CONTROL = {
    "version": "1.0.0",
    "channels": [
        {
            "name": "CR",
            "samples": [
                {
                    "name": "background",
                    "data": [300.0, 200.0],
                    "modifiers": [
                        {"name": "norm", "type": "normfactor", "data": None},
                        {"name": "jes", "type": "normsys", "data": {"hi": 1.08, "lo": 0.9}},
                        {
                            "name": "jes",
                            "type": "histosys",
                            "data": {"hi_data": [310.0, 190.0], "lo_data": [285.0, 212.0]},
                        },
                    ],
                }
            ],
        }
    ],
    "observations": [{"name": "CR", "data": [310.0, 195.0]}],
    "measurements": [{"name": "meas", "config": {"poi": "norm", "parameters": []}}],
}


def counts(model, seed):
    return zfit.data.BinnedData.from_tensor(BINS, np.random.default_rng(seed).poisson(30.0, size=8).astype(float))


def make_terms():
    """One likelihood of each kind. They share the parameters ``mean``, ``n`` and ``jes``."""
    mean, n = zfit.Parameter("mean", 0.2, -2.0, 2.0), zfit.Parameter("n", 40.0, 1.0, 500.0)
    jes, jer, measured = nuisance("jes"), nuisance("jer"), zfit.Parameter("measured_mean", 0.1, floating=False)
    y = np.random.default_rng(1).normal(0.3, 1.1, size=40)
    gauss = zfit.pdf.Gauss(mean, 1.0, obs=SPACE)
    counted = zfit.pdf.Gauss(mean, 1.2, obs=SPACE, extended=n)
    learned = FNFPDF(one_dimensional(), {"jes": jes, "jer": jer}, obs=SPACE, extended=n)
    binned = zfit.pdf.Gauss(mean, 1.5, obs=zfit.Space("y", -4.0, 4.0)).to_binned(BINS)
    extended_binned = zfit.pdf.Gauss(mean, 1.7, obs=zfit.Space("y", -4.0, 4.0), extended=n).to_binned(BINS)
    zfits = zfit.Data(y[:30, None], obs=SPACE)
    extended = ExtendedUnbinnedNLL(learned, {"y": y}, options={"max_memory": 1e8})
    with_errors = zfit.data.BinnedData.from_tensor(BINS, np.full(8, 30.0), variances=np.full(8, 31.0))
    return {
        "unbinned": UnbinnedNLL(gauss, {"y": y[:20]}),
        "extended": extended,
        "accelerated": zfit_fnf.accelerate(extended),
        "of all kinds": NLL([counted, binned], [{"y": y[:25]}, counts(binned, 5)], extended=[True, False]),
        "pyhf": zfit_fnf.pyhf.channel(CONTROL, params={"jes": jes}),
        "counting": counting(zfit_fnf.modified_yield(2.0, [n, zfit_fnf.lnN(jes, 1.1)], name="counted"), 90, name="C"),
        "zfit unbinned": zfit.loss.UnbinnedNLL(gauss, zfits, options={"subtr_const": False}),
        "zfit extended": zfit.loss.ExtendedUnbinnedNLL(counted, zfits, options={"subtr_const": False}),
        "zfit binned": zfit.loss.BinnedNLL(binned, counts(binned, 2), options={"subtr_const": False}),
        "zfit extended binned": zfit.loss.ExtendedBinnedNLL(
            extended_binned,
            counts(extended_binned, 3),
            constraints=zfit.constraint.GaussianConstraint(mean, measured, sigma=0.3),
            options={"subtr_const": False},
        ),
        "zfit chi2": zfit.loss.ExtendedBinnedChi2(extended_binned, with_errors, options={"subtr_const": False}),
        "zfit function": zfit.loss.SimpleLoss(lambda params: 3.0 * (params[0] - 0.4) ** 2, [mean], errordef=1.0),
    }


TERMS = make_terms()
PARAMS = {p.name: p for term in TERMS.values() for p in term.get_params(floating=None)}
OURS = {"unbinned", "extended", "accelerated", "of all kinds", "pyhf", "counting"}
DATALESS = {"zfit chi2", "zfit function"}
POINTS = [
    {"mean": 0.2, "n": 40.0, "jes": 0.0, "jer": 0.0, "norm": 1.0},
    {"mean": 0.45, "n": 52.0, "jes": 0.7, "jer": -0.4, "norm": 1.1},
]


def place(point):
    for name, value in point.items():
        PARAMS[name].set_value(value)


def without_constraints(term) -> float:
    """Of the exact likelihood: its value, in units of a negative log-likelihood."""
    exact = term.exact() if hasattr(term, "exact") else term
    constraints = (c for c in exact.constraints if not isinstance(c, OtherLikelihood))
    return 0.5 / float(exact.errordef) * (float(exact.value(full=True)) - sum(float(c.value()) for c in constraints))


@functools.cache
def change(name: str) -> float:
    """Of the value of a term, from one point to the other."""
    return np.subtract(*(placed(point, TERMS[name]) for point in POINTS[::-1]))


def placed(point, term) -> float:
    place(point)
    return without_constraints(term)


def pairs():
    for first, second in itertools.combinations_with_replacement(TERMS, 2):
        if {first, second} & OURS or (first != second and not {first, second} <= DATALESS):
            yield first, second


@pytest.mark.parametrize(("first", "second"), list(pairs()))
def test_the_sum_is_the_sum(first, second):
    total = TERMS[first] + TERMS[second]
    known = [parameter.name for parameter in total.get_params()]
    assert len(known) == len(set(known))
    changed = np.subtract(*(placed(point, total) for point in POINTS[::-1]))
    assert changed == pytest.approx(change(first) + change(second), abs=1e-7)
    measured = [p.name for c in total.constraints for p in getattr(c, "nuisances", ())]
    assert sorted(measured) == sorted({name for name in ("jes", "jer") if name in known})
    if {first, second} & {"extended", "accelerated"}:
        assert total.options["max_memory"] == 1e8
    reverse = TERMS[second] + TERMS[first]
    assert type(reverse) is type(total)
    assert {p.name for p in reverse.get_params()} == set(known)


def test_an_accelerated_term_accelerates_the_sum():
    place(POINTS[0])
    total = TERMS["accelerated"] + TERMS["pyhf"]
    for point in POINTS:
        place(point)
        assert float(total.value()) == pytest.approx(float(total.exact().value()), abs=0.01)  # what it promises, twice


@pytest.mark.parametrize(
    "first", ["unbinned", "of all kinds", "counting", "zfit extended binned", "zfit chi2", "zfit function"]
)
def test_derivatives_of_sums_are_exact(first):
    total = TERMS[first] + TERMS["pyhf"] + TERMS["extended"]
    place(POINTS[1])
    params = list(total.get_params())
    gradient, hessian = np.asarray(total.gradient(params)), np.asarray(total.hessian(params))
    for index, parameter in enumerate(params):
        start, sides, slopes, step = float(parameter.value()), [], [], 1e-4 * max(1.0, abs(float(parameter.value())))
        for side in (-step, step):
            parameter.set_value(start + side)
            sides.append(float(total.value()))
            slopes.append(np.asarray(total.gradient(params)))
        parameter.set_value(start)
        tolerance = 1e-3 if first == "zfit function" else 1e-5  # zfit differentiates functions numerically
        assert gradient[index] == pytest.approx((sides[1] - sides[0]) / (2 * step), rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(hessian[index], (slopes[1] - slopes[0]) / (2 * step), rtol=tolerance, atol=tolerance)


def test_kinds_of_sums():
    assert type(TERMS["unbinned"] + TERMS["unbinned"]) is UnbinnedNLL
    assert type(TERMS["extended"] + TERMS["zfit extended binned"]) is NLL
    assert type(TERMS["zfit binned"] + TERMS["zfit unbinned"]) is NLL
    fast = TERMS["accelerated"] + TERMS["pyhf"]
    assert type(fast).__name__ == "AcceleratedCombinedNLL"
    assert type(fast.exact()) is NLL
    assert type(TERMS["pyhf"] + TERMS["accelerated"]) is type(fast)
    assert [channel.extended for channel in channels_of(TERMS["unbinned"] + TERMS["zfit extended binned"])] == [
        False,
        True,
    ]
    with pytest.raises(ValueError, match="no likelihoods of data"):
        TERMS["zfit chi2"] + TERMS["zfit function"]


def test_constraints_and_the_sum_of_many():
    place(POINTS[1])
    constraint = zfit.constraint.GaussianConstraint(PARAMS["norm"], 1.0, sigma=0.2)
    for total in (TERMS["pyhf"] + constraint, constraint + TERMS["pyhf"]):
        added = float(total.value()) - float(TERMS["pyhf"].value())
        assert added == pytest.approx(float(constraint.value()), rel=1e-9)
    total = sum([TERMS["pyhf"], TERMS["unbinned"], TERMS["counting"]])
    assert len(total.model) == 3
    with pytest.raises(TypeError):
        TERMS["pyhf"] + 1.0


def test_a_counted_number():
    place(POINTS[1])
    expected = 2.0 * 52.0 * 1.1**0.7
    value = float(TERMS["counting"].value()) - 0.5 * 0.7**2
    assert value == pytest.approx(-stats.poisson.logpmf(90, expected), rel=1e-10)
    with pytest.raises(ValueError, match=">= 0"):
        counting(PARAMS["n"], -1)


def test_names_of_two_parameters():
    other = UnbinnedNLL(zfit.pdf.Gauss(zfit.Parameter("mean", 0.0), 1.0, obs=SPACE), {"y": [0.1]})
    with pytest.raises(ValueError, match="parameter called 'mean', and they are not the same"):
        TERMS["unbinned"] + other
    control = zfit_fnf.pyhf.channel(CONTROL)
    total = control + TERMS["extended"]
    assert [p for p in total.get_params() if p.name == "jes"] == [PARAMS["jes"]]
    assert control.model[0].parameters != total.model[0].parameters


# --- inference --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything():
    place(POINTS[0])
    names = ("extended", "pyhf", "zfit extended binned", "unbinned")
    total = TERMS[names[0]]
    for name in names[1:]:
        total = total + TERMS[name]
    return total


def test_fit_errors_and_scan(everything):
    mean = PARAMS["mean"]
    result = zfit_fnf.Minuit().minimize(everything)
    result.hesse()
    errors = result.errors(params=mean, method="minuit_minos")[0][mean]
    assert errors["upper"] == pytest.approx(result.params[mean]["hesse"]["error"], rel=0.05)
    fast = zfit_fnf.accelerate(everything)
    other = zfit_fnf.Minuit().minimize(fast)
    for parameter in result.params:
        error = result.params[parameter]["hesse"]["error"]
        assert other.params[parameter]["value"] == pytest.approx(result.params[parameter]["value"], abs=0.01 * error)
    profile = zfit_fnf.scans.profile(everything, result, mean, n_points=3, progress=False)
    assert np.all(np.isfinite(profile.to_dataframe()))


def test_each_channel_is_drawn_in_its_own_way(everything):
    place(POINTS[0])
    made = asimov(everything, n_events=500)
    assert [type(data).__name__ for data in made.data] == ["Data", "BinnedData", "BinnedData", "Data"]
    with zfit.param.set_values(made.observed):
        # A channel that is not extended has the data's number of events, and its fit is its own
        np.testing.assert_allclose(made.loss(everything).gradient([PARAMS["norm"]]), 0.0, atol=1e-8)
    drawn = toy(everything, seed=4)
    assert int(drawn.data[3].n_events) == 20
    fits = fit_toys(everything, 2, seed=2, progress=False)
    assert fits.valid.all()


def test_losses_with_data_that_cannot_be_drawn(everything):
    with pytest.raises(ValueError, match="data of ExtendedBinnedChi2 cannot be drawn"):
        toy(everything + TERMS["zfit chi2"])
    assert len(toy(everything + TERMS["zfit function"], seed=1).data) == 4


def test_errors_of_weighted_counts():
    """Events of weight w in bins: errors of the yield are those of weighted events, sqrt(sum w^2)."""
    n = zfit.Parameter("n_weighted", 50.0, 1.0, 500.0)
    flat = zfit.pdf.Uniform(-4.0, 4.0, obs=zfit.Space("y", -4.0, 4.0)).to_binned(BINS, extended=n)
    y, weights = np.random.default_rng(3).uniform(-4, 4, 400), np.full(400, 0.25)
    weights[::2] = 0.5
    nll = NLL(flat, {"y": y, "w": weights}, weights="w")
    assert nll.is_weighted
    result = zfit_fnf.Minuit().minimize(nll)
    assert result.params[n]["value"] == pytest.approx(weights.sum(), rel=1e-4)
    assert result.hesse()[n]["error"] == pytest.approx(np.sqrt(np.square(weights).sum()), rel=1e-3)
    assert result.hesse(weightcorr=False, name="plain")[n]["error"] == pytest.approx(np.sqrt(weights.sum()), rel=1e-3)
    assert not TERMS["pyhf"].is_weighted
    for wrong in ([1.0, 2.0, 3.0], {"x": y}):
        with pytest.raises(ValueError, match=r"counts of the bins|no column 'y'"):
            NLL(flat, np.array(wrong) if isinstance(wrong, list) else wrong)

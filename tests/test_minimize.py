"""Minuit with the derivatives of the likelihood, against closed forms."""

from __future__ import annotations

import warnings

import zfit
import numpy as np
import pytest
from likelihoods import counting
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

import zfit_fnf.loss
from zfit_fnf import minimize
from zfit_fnf.minimize import Minuit

N = 500
SPACE = zfit.Space("x", -100, 100)


def normal_events(mean: float = 0.3, width: float = 1.0, n: int = N) -> np.ndarray:
    """Events with exactly this mean and width."""
    x = np.random.default_rng(1).normal(size=n)
    return mean + width * (x - x.mean()) / x.std()


def make_gaussian(losses):
    mean, width = zfit.Parameter("mean", 2.0, -5, 5), zfit.Parameter("width", 2.0, 0.01, 10.0)
    data = zfit.Data(normal_events(), obs=SPACE, name="events")
    return losses.UnbinnedNLL(zfit.pdf.Gauss(mean, width, obs=SPACE), data), mean, width


@pytest.fixture(scope="module")
def compiled():
    return make_gaussian(zfit_fnf.loss)


@pytest.fixture
def gaussian(compiled):
    """A normal density with both parameters free, and events with mean 0.3 and width 1."""
    _, mean, width = compiled
    set_limits(mean, width)
    mean.floating = width.floating = True
    zfit.param.set_values([mean, width], [2.0, 2.0])
    return compiled


def gauss_of(centre, n: int = N):
    """Likelihood of a mean that is any function of parameters: N (centre - 0.3)^2 / 2 above its minimum."""
    return zfit_fnf.loss.UnbinnedNLL(zfit.pdf.Gauss(centre, 1.0, obs=SPACE), {"x": normal_events(n=n)})


def test_a_likelihood_of_zfit():
    nll, mean, _ = make_gaussian(zfit.loss)
    result = Minuit().minimize(nll)
    assert result.valid
    assert result.params[mean]["value"] == pytest.approx(0.3, abs=2e-3 / np.sqrt(N))
    assert result.hesse()[mean]["error"] == pytest.approx(N**-0.5, rel=3e-4)
    mean.upper = 0.2
    mean.set_value(0.0)
    assert Minuit().minimize(nll).info["at_limit"] == ["mean"]


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("start", [(2.0, 2.0), (-4.9, 0.2), (0.31, 1.02)], ids=["far", "steep", "near"])
def test_minimum_and_errors(gaussian, start, mode):
    nll, mean, width = gaussian
    zfit.param.set_values([mean, width], start)
    result = Minuit(mode=mode).minimize(nll)
    result.hesse()
    result.hesse(method="hesse_np", name="automatic")
    assert result.valid
    assert result.message == ""
    assert result.edm <= 1e-6
    # An EDM of 1e-6 is 1.4e-3 errors from the minimum. Differences of gradients at a hundredth of an error are right to 1e-4.
    for parameter, value, error in ((mean, 0.3, 1 / np.sqrt(N)), (width, 1.0, 1 / np.sqrt(2 * N))):
        assert result.params[parameter]["value"] == pytest.approx(value, abs=2e-3 * error)
        assert result.params[parameter]["hesse"]["error"] == pytest.approx(error, rel=3e-4)
        assert result.params[parameter]["automatic"]["error"] == pytest.approx(error, rel=3e-4)


def test_minos(gaussian):
    nll, mean, _ = gaussian
    errors, _ = Minuit().minimize(nll).errors([mean], method="minuit_minos")
    # n log(1 + t^2) / 2 rises by a half: t = sqrt(exp(1 / n) - 1); MINOS is precise to some 1e-3.
    assert errors[mean]["upper"] == pytest.approx(np.sqrt(np.expm1(1 / N)), rel=5e-3)


def test_hesse_belongs_to_the_minimum_wherever_the_parameters_are(gaussian):
    nll, mean, width = gaussian
    result = Minuit().minimize(nll)
    zfit.param.set_values([mean, width], [1.0, 3.0])
    for method in ("minuit_hesse", "hesse_np"):
        assert result.hesse([mean], method=method, name=method)[mean]["error"] == pytest.approx(N**-0.5, rel=3e-4)
    assert (float(mean.value()), float(width.value())) == (1.0, 3.0)


# --- limits -----------------------------------------------------------------------------------------------------------


def set_limits(mean, width, *, mean_in=(-5.0, 5.0), width_in=(0.01, 10.0)):
    for parameter, (low, high) in ((mean, mean_in), (width, width_in)):
        parameter.lower, parameter.upper = low, high
        parameter.set_value(0.5 * (low + high))


def rise(mean, width):
    """Negative log-likelihood above that of mean 0.3 and width 1."""
    return N * (np.log(width) + 0.5 * (1 + (mean - 0.3) ** 2) / width**2 - 0.5)


LIMITED = {
    "lower": ({"mean_in": (0.4, 5.0)}, {"mean": 0.4}),
    "upper": ({"mean_in": (-5.0, 0.2)}, {"mean": 0.2}),
    "the other": ({"width_in": (1.2, 4.0)}, {"width": 1.2}),
    "both": ({"mean_in": (-5.0, 0.2), "width_in": (0.1, 0.9)}, {"mean": 0.2, "width": 0.9}),
}


@pytest.mark.parametrize(("limits", "held"), LIMITED.values(), ids=LIMITED)
def test_minimum_at_a_limit(gaussian, limits, held):
    nll, mean, width = gaussian
    set_limits(mean, width, **limits)
    result = Minuit().minimize(nll)
    value = {p.name: found["value"] for p, found in result.params.items()}
    at = {"mean": 0.3, "width": np.sqrt(1 + (held.get("mean", 0.3) - 0.3) ** 2), **held}
    error = {"mean": at["width"] / np.sqrt(N), "width": at["width"] / np.sqrt(2 * N)}
    assert {name: value[name] for name in held} == held  # exactly
    assert result.converged
    assert result.info["at_limit"] == list(held)
    assert all(name in result.message for name in held)
    with pytest.warns(
        UserWarning, match=r"HESSE has no errors for .* outside of the limits: see result.errors\(\)"
    ) as seen:
        result.hesse()
    assert [warning.filename for warning in seen] == [__file__]
    for parameter in (mean, width):
        hesse = result.params[parameter]["hesse"]["error"]
        if parameter.name in held:
            assert np.isnan(hesse)
        else:  # with the other one at its limit
            assert value[parameter.name] == pytest.approx(at[parameter.name], abs=2e-3 * error[parameter.name])
            assert hesse == pytest.approx(error[parameter.name], rel=3e-4 if parameter is mean else 2e-2)


def test_a_limit_towards_which_the_likelihood_is_concave(gaussian):
    """MIGRAD stops 1e-8 beside it or closer, where Newton steps cannot tell it from a maximum."""
    nll, mean, width = gaussian
    mean.set_value(0.3)
    mean.floating = False
    ends = []
    for lower in (1.875, 2.5, 5.0):
        for start in (1.3, 2.0):
            width.lower, width.upper = lower, 10.0 / 3.0 * lower
            width.set_value(start * lower)
            result = Minuit().minimize(nll)
            ends.append((result.params[width]["value"] == lower, result.converged, result.info["at_limit"]))
    assert ends == 6 * [(True, True, ["width"])]


@pytest.mark.parametrize(("limits", "held"), LIMITED.values(), ids=LIMITED)
def test_minos_from_a_limit(gaussian, limits, held):
    nll, mean, width = gaussian
    set_limits(mean, width, **limits)
    result = Minuit().minimize(nll)
    errors, _ = result.errors()
    lowest = rise(*(result.params[p]["value"] for p in (mean, width)))

    def profile_of_mean(x):
        best = np.sqrt(1 + (x - 0.3) ** 2)
        return rise(x, np.clip(best, float(width.lower), float(width.upper))) - lowest - 0.5

    if "mean" in held:
        end = brentq(profile_of_mean, held["mean"], 2.0 if held["mean"] > 0.3 else -2.0)
        inside, outside = ("lower", "upper") if held["mean"] < 0.3 else ("upper", "lower")
        assert errors[mean][inside] == pytest.approx(end - held["mean"], rel=5e-3)
        assert errors[mean][outside] == pytest.approx(0.0, abs=1e-6)
    else:
        assert errors[mean]["upper"] == pytest.approx(brentq(profile_of_mean, 0.3, 1.0) - 0.3, rel=5e-3)


def test_errors_that_limits_cut_off_are_told():
    """Of 20 events where 18 + 5 mu are expected; at mu = 0 the likelihood has risen by 0.11, not by 0.5."""
    measurement = counting([20], 5.0, 18.0)
    result = Minuit().minimize(measurement.nll)
    with pytest.warns(UserWarning, match=r"errors of MINOS of mu \(lower\) are the distance to a limit") as told:
        errors = result.errors()[0][measurement.mu]
    assert len(told) == 1
    assert errors["lower"] == pytest.approx(-result.params[measurement.mu]["value"], abs=1e-6)
    end = brentq(lambda mu: 5 * mu + 18 - 20 * np.log((5 * mu + 18) / 20) - 20 - 0.5, 0.4, 5.0)
    assert errors["upper"] == pytest.approx(end - 0.4, rel=5e-3)


def test_nuisance_at_the_end_of_its_range():
    """Data that pull a nuisance to 8 standard deviations, of which it may go 5."""
    nu = zfit_fnf.nuisance("nu")
    mu = zfit.Parameter("mu", 0.0, -50, 50)
    centre = zfit.ComposedParameter("centre", lambda nu: 0.1 + 0.025 * nu, params=[nu])
    width = zfit.ComposedParameter("width", lambda mu: 1.0 + 0.0 * mu, params=[mu])
    shape = zfit.pdf.Gauss(
        centre, width, obs=SPACE, extended=zfit.ComposedParameter("n", lambda mu: 1e5 + mu, params=[mu])
    )
    nll = zfit_fnf.loss.ExtendedUnbinnedNLL(shape, {"x": normal_events(n=100_000)})
    result = Minuit().minimize(nll)
    assert result.params[nu]["value"] == 5.0
    assert result.info["at_limit"] == ["nu"]
    with pytest.warns(UserWarning, match="nu"):
        result.hesse()
    assert result.params[mu]["hesse"]["error"] == pytest.approx(np.sqrt(1e5), rel=3e-4)
    errors, _ = result.errors([nu])
    # Slope and curvature of the likelihood there, 1e5 (0.025)^2 (nu - 8) + nu = 62.5 (nu - 8) + nu
    slope, curvature = 62.5 * 3 - 5, 63.5
    assert errors[nu]["lower"] == pytest.approx((slope - np.sqrt(slope**2 + curvature)) / curvature, rel=5e-3)


def test_a_fit_may_start_at_a_limit_and_leave_it(gaussian):
    nll, mean, width = gaussian
    set_limits(mean, width, mean_in=(-5.0, 5.0), width_in=(0.5, 4.0))
    zfit.param.set_values([mean, width], [-5.0, 4.0])
    result = Minuit().minimize(nll)
    assert result.valid
    assert result.params[mean]["value"] == pytest.approx(0.3, abs=1e-4)


def test_few_evaluations_at_a_limit(gaussian):
    """The second derivatives of Minuit's own variables mean nothing there: a fit made thousands of evaluations."""
    nll, mean, width = gaussian
    set_limits(mean, width, mean_in=(0.4, 5.0))
    assert Minuit().minimize(nll).info["n_eval"] < 100


# --- what is no minimum -----------------------------------------------------------------------------------------------


def hesse_of(result):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {p.name: float(found["error"]) for p, found in result.hesse().items()}


@pytest.fixture(scope="module")
def shared():
    """A mean m + k c, with k fixed."""
    m, c, k = zfit.Parameter("m", 0.1, -3, 3), zfit.Parameter("c", 1.0, -3, 3), zfit.Parameter("k", 0.0, floating=False)
    return gauss_of(zfit.ComposedParameter("sum", lambda m, c, k: m + k * c, params=[m, c, k])), m, c, k


def test_parameters_without_effect(shared):
    nll, _, _, k = shared
    k.set_value(0.0)
    result = Minuit().minimize(nll)
    assert not result.valid
    assert "does not depend on ['c'] here" in result.message
    errors = hesse_of(result)
    assert errors["m"] == pytest.approx(N**-0.5, rel=3e-4)
    assert np.isnan(errors["c"])


def test_two_parameters_of_which_only_the_sum_matters(shared):
    nll, m, c, k = shared
    k.set_value(2.0)
    result = Minuit().minimize(nll)
    assert not result.valid
    assert "does not depend on ['m', 'c'] here, alone or together" in result.message
    assert result.params[m]["value"] + 2 * result.params[c]["value"] == pytest.approx(0.3, abs=1e-3)
    assert np.isnan(list(hesse_of(result).values())).all()


@pytest.fixture(scope="module")
def two_minima():
    """Minima at -0.55 and 0.55, the former lower, and a saddle that is a maximum between."""
    m = zfit.Parameter("m", 0.0, -3, 3)
    return gauss_of(zfit.ComposedParameter("square", lambda m: m**2 + 0.05 * (m - 1), params=[m])), m


def test_no_minimum(two_minima, monkeypatch):
    nll, m = two_minima
    m.set_value(-0.025)
    monkeypatch.setattr(minimize, "_ROUNDS", 0)
    result = Minuit().minimize(nll)
    assert not result.valid
    assert not result.converged
    assert "this is no minimum" in result.message
    assert np.isnan(hesse_of(result)["m"])


def test_a_maximum_is_left(two_minima):
    nll, m = two_minima
    m.set_value(-0.025)
    result = Minuit().minimize(nll)
    assert result.valid
    assert abs(result.params[m]["value"]) == pytest.approx(0.55, abs=0.1)


def test_strong_correlation_is_no_degeneracy():
    """The conditional error is 220 times smaller than the error."""
    m, c = zfit.Parameter("m", 0.1, -100, 100), zfit_fnf.nuisance("c")
    result = Minuit().minimize(gauss_of(zfit.ComposedParameter("mc", lambda m, c: m + 10 * c, params=[m, c])))
    assert result.valid
    assert hesse_of(result)["m"] == pytest.approx(10.0, rel=1e-3)  # all that is known of m is what c says


def test_not_a_number_at_the_start():
    m = zfit.Parameter("m", 0.2, -3, 3)
    root = gauss_of(zfit.ComposedParameter("root", lambda m: zfit.z.numpy.sqrt(m - 1.0), params=[m]))
    with pytest.raises(ValueError, match=r"is nan where the fit starts, at m = 0\.2"):
        Minuit().minimize(root)
    m.set_value(1.0)
    with pytest.raises(ValueError, match=r"derivative with respect to \['m'\] is not a finite number"):
        Minuit().minimize(root)


def test_nothing_to_fit(gaussian):
    nll, mean, width = gaussian
    mean.floating = width.floating = False
    for params in (None, [mean]):
        with pytest.raises(ValueError, match="nothing to fit: no parameter floats"):
            Minuit().minimize(nll, params)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda nll: Minuit().minimize(nll.model[0]), TypeError, "a fit needs a likelihood"),
        (lambda nll: Minuit().minimize("nll"), TypeError, "a fit needs a likelihood"),
        (lambda nll: Minuit().minimize(nll, "mean"), TypeError, r"params= takes zfit.Parameters; got \['mean'\]"),
        (lambda nll: Minuit().minimize(nll, [0.3]), TypeError, "params= takes zfit.Parameters"),
        (lambda nll: Minuit(gradient=True), TypeError, "leave gradient= out"),
        (lambda nll: Minuit(tol=-1.0), ValueError, "positive"),
        (lambda nll: Minuit(mode=5), ValueError, "0, 1 or 2"),
    ],
)
def test_mistakes(gaussian, call, error, match):
    with pytest.raises(error, match=match):
        call(gaussian[0])


@pytest.fixture
def lenient(monkeypatch):
    """Makes Minuit end too early, in as many rounds as the test says; the starting points of all rounds."""
    starts, make = [], Minuit.minuit_at

    def of_rounds(n_rounds):
        def lenient_make(self, *args):
            minuit, options = make(self, *args)
            minuit.tol = 1e12 if len(starts) < n_rounds else minuit.tol
            starts.append(np.array(minuit.values))
            return minuit, options

        monkeypatch.setattr(Minuit, "minuit_at", lenient_make)
        return starts

    return of_rounds


def test_goes_on_until_the_distance_is_small(gaussian, lenient):
    nll, mean, width = gaussian
    zfit.param.set_values([mean, width], [-4.9, 0.1])
    starts = lenient(1)
    result = Minuit().minimize(nll)
    assert len(starts) >= 1
    assert result.valid
    assert result.params[mean]["value"] == pytest.approx(0.3, abs=1e-4)


def test_ends_as_not_valid_where_the_distance_stays_large(gaussian, lenient, monkeypatch):
    nll, *params = gaussian
    zfit.param.set_values(params, [0.5, 1.3])
    lenient(1)
    monkeypatch.setattr(minimize, "_ROUNDS", 1)
    monkeypatch.setattr(
        minimize, "settle", lambda *args, settle=minimize.settle, **_: settle(*args, goal=0.0, within=0.0)
    )
    result = Minuit().minimize(nll, params)
    assert not result.valid
    assert not result.converged
    assert "above 0.001" in result.message
    # The EDM is that of the values in the result: its closed form, from the derivatives of both parameters.
    m, w = result.values
    slope = N * np.array([(m - 0.3) / w**2, 1 / w - (1 + (m - 0.3) ** 2) / w**3])
    mixed = -2 * (m - 0.3) / w**3
    hessian = N * np.array([[1 / w**2, mixed], [mixed, 3 * (1 + (m - 0.3) ** 2) / w**4 - 1 / w**2]])
    assert result.edm == pytest.approx(0.5 * slope @ np.linalg.solve(hessian, slope), rel=1e-3)


# --- several minima ---------------------------------------------------------------------------------------------------


def test_a_fit_that_leaves_the_minimum_near_its_start_is_told(two_minima):
    """MIGRAD is sent across."""
    nll, m = two_minima
    minuit, make = Minuit(), Minuit.minuit_at
    minuit.minuit_at = lambda derivatives, start: make(minuit, derivatives, np.array([-0.7]))
    m.set_value(1.5)
    with pytest.warns(UserWarning, match="two minima at least") as seen:
        result = minuit.minimize(nll)
    assert __file__ in [warning.filename for warning in seen]
    assert "two minima" in result.message
    assert result.params[m]["value"] < 0
    assert result.valid  # it is a minimum


def test_the_minimum_near_the_start_is_none_of_two(two_minima):
    nll, m = two_minima
    for start in (0.1, 0.4, 0.8, 2.5, -0.2, -0.8, -2.5):
        m.set_value(start)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert Minuit().minimize(nll).params[m]["value"] * start > 0


def test_no_alarm_in_ordinary_fits():
    """From starts up to fifty errors away; those of a number of events and of a width are far from parabolas."""
    rng = np.random.default_rng(0)
    mean, width = zfit.Parameter("mean", 0.0, -50, 50), zfit.Parameter("width", 1.0, 0.05, 50)
    n = zfit.Parameter("n", 100.0, 0.1, 1e5)
    shape = zfit.pdf.Gauss(mean, width, obs=SPACE, extended=n)
    nll = zfit_fnf.loss.ExtendedUnbinnedNLL(shape, {"x": normal_events(n=40)})
    for _ in range(10):
        zfit.param.set_values([mean, width, n], [rng.uniform(-8, 8), rng.uniform(0.4, 9), rng.uniform(5, 400)])
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert Minuit().minimize(nll).valid


@pytest.mark.parametrize("make", [zfit_fnf.loss.ExtendedUnbinnedNLL, zfit.loss.ExtendedUnbinnedNLL])
def test_steps_to_where_there_is_no_density_are_taken_back(make):
    """A deficit: the first step of MIGRAD leads to signal strengths at which the density is negative."""
    y = np.random.default_rng(11).normal(0, 1.2, 70)
    y = y[np.abs(y) > 0.15]
    mu = zfit.Parameter("mu", 1.0, -5, 10)
    obs = zfit.Space("y", -10, 10)
    n_sig = zfit.ComposedParameter("n_sig", lambda mu: 30 * mu, params=[mu])
    sig, bkg = zfit.pdf.Gauss(0.0, 0.3, obs=obs, extended=n_sig), zfit.pdf.Gauss(0.0, 1.2, obs=obs, extended=70.0)
    data = zfit.Data.from_numpy(obs=obs, array=y[:, None], name="data")
    result = Minuit().minimize(make(zfit.pdf.SumPDF([sig, bkg]), data))

    def exact(value):
        return 30 * value - np.log(30 * value * norm.pdf(y, 0, 0.3) + 70 * norm.pdf(y, 0, 1.2)).sum()

    best = minimize_scalar(exact, bounds=(-0.5, 0.0), method="bounded", options={"xatol": 1e-9}).x
    assert result.valid
    # A thousandth of the error of 0.2, by the EDM that a fit ends with.
    assert result.params[mu]["value"] == pytest.approx(best, abs=1e-3)

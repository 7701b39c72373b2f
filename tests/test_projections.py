"""Model predictions as weighted events, against the distributions of Gaussians."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from analytic import GaussianFlow
from likelihoods import search
from scipy.stats import norm

import zfit_fnf as zfnf
from zfit_fnf.influence import of_events
from zfit_fnf.minimize import Minuit
from zfit_fnf.projections import component_samples, fitted_nuisances, hesse_error, postfit_band, vary
from zfit_fnf.scans import impacts
from zfit_fnf.yield_tables import yield_table

N = 40_000
OBS = zfit.Space("x", limits=(-20.0, 20.0))


@pytest.fixture(scope="module")
def fitted():
    """A signal N(1, 0.5) on a background N(0, 1.5); `shape` deforms both, `rate` scales the background."""
    measurement = search(1, 300.0, 700.0, seed=5)
    for part, label in zip(measurement.nll.model[0].pdfs, ("signal", "background"), strict=True):
        part._label = label
    result = Minuit().minimize(measurement.nll)
    result.hesse()
    return measurement, result


def expected(measurement, edges, values):
    """Exact expectation in bins of y0, by the closed form of the components."""
    with zfit.param.set_values(values):
        nu = [float(measurement.nuisances[0].value())]
        total = np.zeros(len(edges) - 1)
        for part in measurement.nll.model[0].pdfs:
            mean, sigma = part.deformation.moments(nu)
            total += float(part.get_yield().value()) * np.diff(norm.cdf(edges, mean[0], sigma[0]))
    return total


def test_sides_that_no_variation_was_trained_on_are_told(fitted, monkeypatch):
    """Of one-sided variations: the other side is an extrapolation, in plots as in impacts."""
    measurement, result = fitted
    model = measurement.nll.model[0]
    parts = component_samples(model, params=result.values, n_events=100)
    for part in model.pdfs:
        monkeypatch.setitem(part.deformation.windows, "shape", (-1.0, 1.0))
    vary(model, result, parts)
    monkeypatch.setitem(model.pdfs[0].deformation.windows, "shape", (-0.7, 1.0))
    said = r"'shape' goes to -1(\.\d+)?, outside of the range \(-0.7, 1\) of 'FNFPDF': "
    with pytest.warns(UserWarning, match=f"{said}variations by one standard deviation before the fit"):
        vary(model, result, parts)
    vary(model, result, parts, nuisances=[measurement.nuisances[1]])
    with pytest.warns(UserWarning, match=f"{said}impacts on mu"):
        impacts(measurement.nll, result, measurement.mu, progress=False)


class TestComponentSamples:
    def test_weights_sum_to_the_yields_at_the_parameters_given(self, fitted):
        measurement, _ = fitted
        model = measurement.nll.model[0]
        parts = component_samples(model, params={measurement.mu: 0.5, measurement.nuisances[1]: 1.0}, n_events=N)
        assert list(parts) == ["signal", "background"]
        assert parts["signal"].sum_weights == pytest.approx(150.0)
        assert parts["background"].sum_weights == pytest.approx(700.0 * 1.08)
        assert parts["signal"].n_events == N

    def test_parameters_are_left_as_they_are(self, fitted):
        measurement, _ = fitted
        before = measurement.state()
        component_samples(measurement.nll.model[0], params={measurement.mu: 0.5}, n_events=10)
        assert measurement.state() == before

    def test_the_seed_makes_the_sample(self, fitted):
        model = fitted[0].nll.model[0]
        first, again, other = (component_samples(model, n_events=10, seed=seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first["signal"].columns["y0"], again["signal"].columns["y0"])
        assert not np.any(first["signal"].columns["y0"] == other["signal"].columns["y0"])

    def test_sums_of_zfit_with_fractions(self):
        fraction = zfit.Parameter("fraction", 0.3, 0, 1)
        pdfs = [zfit.pdf.Gauss(0.0, 1.0, obs=OBS, label="low"), zfit.pdf.Gauss(5.0, 2.0, obs=OBS, label="high")]
        parts = component_samples(zfit.pdf.SumPDF(pdfs, fracs=fraction), total=1000.0, n_events=N, seed=1)
        assert {label: part.sum_weights for label, part in parts.items()} == pytest.approx({"low": 300, "high": 700})
        for label, mean, width in (("low", 0.0, 1.0), ("high", 5.0, 2.0)):
            # Four standard deviations of the mean.
            assert np.mean(parts[label].columns["x"]) == pytest.approx(mean, abs=4 * width / np.sqrt(N))

    def test_a_pdf_is_its_only_component(self):
        parts = component_samples(zfit.pdf.Gauss(0.0, 1.0, obs=OBS, extended=50.0, name="peak"), n_events=100)
        assert [(label, part.sum_weights) for label, part in parts.items()] == [("peak", pytest.approx(50.0))]

    def test_without_a_yield_the_total_is_needed(self):
        with pytest.raises(ValueError, match="'peak' has no yield: give the number of events as total="):
            component_samples(zfit.pdf.Gauss(0.0, 1.0, obs=OBS, name="peak"))

    def test_labels_have_to_differ(self):
        pdfs = [zfit.pdf.Gauss(mean, 1.0, obs=OBS, extended=1.0) for mean in (0.0, 1.0)]
        with pytest.raises(ValueError, match=r"labels \['Gauss', 'Gauss'\]: give each its own label="):
            component_samples(zfit.pdf.SumPDF(pdfs))


@pytest.fixture(scope="module")
def varied(fitted):
    measurement, result = fitted
    model = measurement.nll.model[0]
    return vary(model, result, component_samples(model, params=result.values, n_events=N, seed=2))


class TestVary:
    def check(self, fitted, varied, weights, values):
        """Weighted counts agree with the closed form within five of their errors, in ten bins."""
        measurement, result = fitted
        edges = np.linspace(-3.0, 3.0, 11)
        y = varied.nominal.columns["y0"]
        counts, variances = (np.histogram(y, edges, weights=w)[0] for w in (weights, weights**2))
        best = {parameter: found["value"] for parameter, found in result.params.items()}
        exact = expected(measurement, edges, {**best, **values})
        assert np.all(np.abs(counts - exact) < 5 * np.sqrt(variances))
        # The test would notice a nuisance that moves by a fraction of its effect.
        assert np.max(np.sqrt(variances) / exact) < 0.03

    def test_nominal_is_before_the_fit(self, fitted, varied):
        shape, rate = fitted[0].nuisances
        self.check(fitted, varied, varied.nominal.weights, {shape: 0.0, rate: 0.0})

    @pytest.mark.parametrize("index", [0, 1])
    def test_prefit_moves_one_nuisance_by_one_sigma(self, fitted, varied, index):
        nuisances = fitted[0].nuisances
        for side, weights in zip((-1.0, 1.0), varied.prefit[nuisances[index].name], strict=True):
            values = dict.fromkeys(nuisances, 0.0) | {nuisances[index]: side}
            self.check(fitted, varied, weights, values)

    def test_postfit_moves_it_to_the_best_fit_and_by_its_error(self, fitted, varied):
        _, result = fitted
        shape, rate = fitted[0].nuisances
        found = result.params[shape]
        for side, weights in zip((-1.0, 1.0), varied.postfit["shape"], strict=True):
            self.check(fitted, varied, weights, {shape: found["value"] + side * found["hesse"]["error"], rate: 0.0})

    def test_labels_and_choice(self, fitted, varied):
        measurement, result = fitted
        assert varied.labels == {"shape": "shape", "rate": "rate"}
        model = measurement.nll.model[0]
        parts = component_samples(model, params=result.values, n_events=10)
        before = measurement.state()
        assert list(vary(model, result, parts, nuisances=measurement.nuisances[1:]).prefit) == ["rate"]
        assert measurement.state() == before

    def test_variations_that_end_at_limits_are_told(self, fitted):
        measurement, result = fitted
        model, rate = measurement.nll.model[0], measurement.nuisances[1]
        parts, (low, high) = component_samples(model, params=result.values, n_events=10), (rate.lower, rate.upper)
        rate.upper = 0.7
        try:
            with pytest.warns(UserWarning, match="limits of rate are less than a standard deviation away"):
                varied = vary(model, result, parts)
        finally:
            rate.lower, rate.upper = low, high
        before, (down, up) = varied.nominal.weights.sum(), (one.sum() for one in varied.prefit["rate"])
        assert 0.5 < (up - before) / (before - down) < 0.95  # 0.7 of its size, of 1.08 for 0.93


def test_nuisances_and_errors_of_a_fit(fitted):
    measurement, result = fitted
    assert set(fitted_nuisances(result)) == set(measurement.nuisances)
    assert hesse_error(result, measurement.mu) == result.params[measurement.mu]["hesse"]["error"]
    with pytest.raises(ValueError, match="'other' was not fitted; the fit has"):
        hesse_error(result, zfit.Parameter("other", 1.0))


def test_hesse_has_to_run_first(fitted):
    measurement, _ = fitted
    result = Minuit().minimize(measurement.nll)
    with pytest.raises(ValueError, match=r"'mu' has no HESSE error: call result\.hesse\(\) first"):
        hesse_error(result, measurement.mu)


class TestPostfitBand:
    edges = np.linspace(-4.0, 4.0, 9)

    def test_is_the_propagated_covariance(self, fitted):
        """Against derivatives of the closed form, to the second order in the errors and the size of the sample."""
        measurement, result = fitted
        model, params = measurement.nll.model[0], list(result.params)
        best = {parameter: float(result.params[parameter]["value"]) for parameter in params}
        parts = component_samples(model, params=best, n_events=N, seed=2)
        step = 1e-4
        columns = [
            (
                expected(measurement, self.edges, {**best, one: best[one] + step})
                - expected(measurement, self.edges, best)
            )
            / step
            for one in params
        ]
        jacobian = np.transpose(columns)
        exact = np.sqrt(np.diag(jacobian @ np.asarray(result.covariance(params)) @ jacobian.T))
        found = postfit_band(model, result, parts).error("y0", self.edges)
        # 40000 events per component; the smallest bin has 1 % of them: 5 % per bin, and 3 % of non-linearity.
        np.testing.assert_allclose(found, exact, rtol=0.15)
        assert found.sum() == pytest.approx(exact.sum(), rel=0.03)

    @pytest.mark.parametrize("highest", [1000, 405])  # the error is 20: a limit nearby does not cut it off
    def test_a_yield_alone_scales_every_bin(self, highest):
        n = zfit.Parameter("n", 400.0, 0, highest)
        model = zfit.pdf.Gauss(0.0, 1.0, obs=OBS, extended=n)
        events = {"x": np.random.default_rng(0).normal(size=400)}
        nll = zfnf.loss.ExtendedUnbinnedNLL(model, events)
        result = Minuit().minimize(nll)
        result.hesse()
        assert yield_table(nll, result).table["postfit_error"].iloc[-1] == pytest.approx(20.0, rel=1e-3)
        parts = component_samples(
            model, params={one: found["value"] for one, found in result.params.items()}, n_events=1000
        )
        counts, _ = np.histogram(parts["Gauss"].columns["x"], self.edges, weights=parts["Gauss"].weights)
        # A relative error of 1 / sqrt(400) everywhere.
        np.testing.assert_allclose(postfit_band(model, result, parts).error("x", self.edges), counts / 20, rtol=1e-3)

    def test_of_a_product_the_data_know_the_product(self):
        """A strength and a factor of two that nothing else tells: 80 events have an error of sqrt(80); by steps it was 13.5."""
        mu, rate = zfit.Parameter("mu", 1.6, 0.0, 20.0), zfnf.nuisance("rate")
        nll = zfnf.loss.counting(zfnf.modified_yield(50.0, [mu, zfnf.lnN(rate, 2.0)]), 80, name="region")
        result = Minuit().minimize(nll)
        result.hesse()
        row = yield_table(nll, result).table.loc[("region", "total")]
        assert row["postfit_error"] == pytest.approx(np.sqrt(80.0), rel=2e-3)
        assert row["prefit_error"] == pytest.approx(80.0 * (2.0 - 0.5) / 2, rel=1e-4)

    def test_what_a_parameter_is_known_to_before_the_fit(self):
        n, outcome = zfit.Parameter("n", 400.0, 0, 1000), zfit.Parameter("outcome", 390.0, floating=False)
        constraint = zfit.constraint.GaussianConstraint(n, observation=outcome, sigma=30.0)
        model = zfit.pdf.Gauss(0.0, 1.0, obs=OBS, extended=n)
        events = {"x": np.random.default_rng(0).normal(size=400)}
        nll = zfnf.loss.ExtendedUnbinnedNLL(model, events, constraints=[constraint])
        result = Minuit().minimize(nll)
        result.hesse()
        row = yield_table(nll, result).table.iloc[-1]
        assert (row["prefit"], row["prefit_error"]) == (pytest.approx(390.0), pytest.approx(30.0))

    def test_results_of_other_parameters_with_the_same_names_are_refused(self, fitted):
        """A band of zero, and a table without errors, of a model that was made anew."""
        _, result = fitted
        again = search(1, 300.0, 700.0, seed=5).nll
        for call in (
            lambda: postfit_band(again.model[0], result, {}),
            lambda: vary(again.model[0], result, {}),
            lambda: yield_table(again, result),
            lambda: of_events(again, result),
        ):
            with pytest.raises(ValueError, match=r"not one of this likelihood: its parameters .*'mu'.* are others"):
                call()

    def test_a_parameter_at_its_limit_is_held_there(self):
        """Where the signal is expected there are too few events; the background has the error of its number."""
        mu, n = zfit.Parameter("mu", 1.0, 0.0, 5.0), zfit.Parameter("n", 500.0, 0.0, 2000.0)
        signal, background = (
            zfnf.pdf.FlowPDF(GaussianFlow([mean], [sigma], obs=["y"]), extended=extended, name=name)
            for mean, sigma, extended, name in (
                (1.0, 0.3, zfnf.modified_yield(50.0, [mu]), "signal"),
                (0.0, 1.5, n, "background"),
            )
        )
        model = zfnf.pdf.SumPDF([signal, background], name="all")
        y = np.random.default_rng(4).normal(0.0, 1.5, 600)
        nll = zfnf.loss.ExtendedUnbinnedNLL(model, {"y": y[np.abs(y - 1.0) > 0.3]})
        result = Minuit().minimize(nll)
        with pytest.warns(UserWarning, match="HESSE has no errors for"):
            result.hesse()
        n_data = int(nll.data[0].num_entries)
        with pytest.warns(UserWarning, match="'mu' at a limit: no HESSE error .* table of yields is without it"):
            table = yield_table(nll, result).table.loc["all"]
        found = table[["postfit", "postfit_error"]].loc[["signal", "background", "total"]].to_numpy()
        right = [[0.0, 0.0], [n_data, np.sqrt(n_data)], [n_data, np.sqrt(n_data)]]
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6)
        parts = component_samples(
            model, params={one: found["value"] for one, found in result.params.items()}, n_events=1000, seed=1
        )
        with pytest.warns(UserWarning, match="'mu' at a limit"):
            band = postfit_band(model, result, parts)
        assert band.error("y", np.array([-50.0, 50.0])) == pytest.approx(np.sqrt(n_data), rel=1e-3)
        result.covariance = lambda params: np.full((len(params),) * 2, np.nan)
        with pytest.raises(ValueError, match="no finite covariance for a table"):
            yield_table(nll, result)

    def test_needs_errors(self, fitted):
        measurement, _ = fitted
        result = Minuit().minimize(measurement.nll)
        parts = component_samples(measurement.nll.model[0], n_events=10)
        result.covariance = lambda params: None
        with pytest.raises(ValueError, match="no finite covariance for a post-fit band"):
            postfit_band(measurement.nll.model[0], result, parts)

"""A learned channel and a HistFactory control region that constrains its nuisance."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
from analytic import one_dimensional
from iminuit import Minuit
from scipy import stats

import zfit_fnf
from zfit_fnf.loss import NLL, ExtendedUnbinnedNLL
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import FNFPDF, SumPDF
from zfit_fnf.yield_tables import yield_table

pyhf = pytest.importorskip("pyhf")

CONTROL = {
    "channels": [
        {
            "name": "CR",
            "samples": [
                {
                    "name": "background",
                    "data": [900.0, 700.0],
                    "modifiers": [
                        {"name": "jes", "type": "normsys", "data": {"hi": 1.25, "lo": 0.8}},
                        {
                            "name": "jer",
                            "type": "histosys",
                            "data": {"hi_data": [840.0, 760.0], "lo_data": [950.0, 655.0]},
                        },
                        {"name": "cr", "type": "normsys", "data": {"hi": 1.05, "lo": 0.95}},
                        {"name": "stat", "type": "staterror", "data": [9.0, 8.0]},
                    ],
                }
            ],
        }
    ]
}
OBSERVED = [960.0, 745.0]


@pytest.fixture(scope="module")
def combination():
    """Signal strength of a learned peak on a flat background, with both nuisances measured in a control region."""
    jes, jer = nuisance("jes"), nuisance("jer")
    mu = zfit.Parameter("mu", 1.0, 0.0, 10.0, stepsize=0.1)
    n_background = zfit.Parameter("n_background", 200.0, 0.0, 2000.0, stepsize=10.0)
    space, deformation = zfit.Space("y", -10.0, 10.0), one_dimensional()
    n_signal = zfit_fnf.modified_yield(100.0, [mu, zfit_fnf.lnN(jes, 1.1)])
    signal = FNFPDF(deformation, {"jes": jes, "jer": jer}, obs=space, extended=n_signal, name="signal")
    flat = zfit.pdf.Uniform(-10.0, 10.0, obs=space, extended=n_background, name="flat")
    rng = np.random.default_rng(5)
    mean, sigma = deformation.moments([0.6, 0.3])
    y = np.concatenate([rng.normal(mean[0], sigma[0], 110), rng.uniform(-10, 10, 190)])
    unbinned = ExtendedUnbinnedNLL(SumPDF([signal, flat]), {"y": y})
    model = pyhf.Model(CONTROL, poi_name=None)
    control = zfit_fnf.pyhf.channel(model, data=OBSERVED)
    return {"unbinned": unbinned, "control": control, "sum": unbinned + control, "y": y, "mu": mu, "model": model}


def of_both(y, model):
    """The product of the two likelihoods, from closed forms and from pyhf: a function of all parameters by name."""
    names, deformation = model.config.par_names, one_dimensional()
    data = [*OBSERVED, *model.config.auxdata]
    centres = {"stat[0]": (1.0, 9 / 900), "stat[1]": (1.0, 8 / 700)}

    def nll(mu, n_background, jes, jer, cr, stat_0, stat_1):
        mean, sigma = deformation.moments([jes, jer])
        n_signal = 100.0 * mu * 1.1**jes
        density = n_signal * stats.norm.pdf(y, mean[0], sigma[0]) + n_background / 20.0
        given = {"jes": jes, "jer": jer, "cr": cr, "stat[0]": stat_0, "stat[1]": stat_1}
        values = [c + w * given[name] for name in names for c, w in [centres.get(name, (0.0, 1.0))]]
        return n_signal + n_background - np.log(density).sum() - float(model.logpdf(values, data)[0])

    return nll


def test_it_is_the_product_of_the_two(combination):
    result = zfit_fnf.Minuit().minimize(combination["sum"])
    result.hesse()
    reference = Minuit(of_both(combination["y"], combination["model"]), 1.0, 200.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    reference.errordef, reference.tol = 0.5, 1e-7
    reference.strategy = 2
    reference.migrad()
    reference.hesse()
    for parameter, found in result.params.items():
        error = reference.errors[parameter.name]
        assert found["value"] == pytest.approx(reference.values[parameter.name], abs=1e-4 * error)
        # iminuit differentiates numerically
        assert found["hesse"]["error"] == pytest.approx(error, rel=2e-3)
    alone = zfit_fnf.Minuit().minimize(combination["unbinned"])
    alone.hesse()
    jes = next(parameter for parameter in result.params if parameter.name == "jes")
    assert result.params[jes]["hesse"]["error"] < 0.9 * alone.params[jes]["hesse"]["error"]
    assert len([c for c in combination["sum"].constraints if jes in c.get_params()]) == 1


def test_limits_toys_and_impacts_run(combination):
    nll, mu = combination["sum"], combination["mu"]
    result = zfit_fnf.Minuit().minimize(nll)
    result.hesse()
    best, error = result.params[mu]["value"], result.params[mu]["hesse"]["error"]
    limit = zfit_fnf.limits.upper_limit(nll, mu)
    assert best + error < limit.observed < best + 2.5 * error
    assert zfit_fnf.limits.discovery(nll, mu).significance > best / error  # signal makes the error larger
    impacts = zfit_fnf.scans.impacts(nll, result, mu, progress=False).to_dataframe()
    assert {"jes", "jer", "cr", "stat_0", "stat_1"} <= {
        str(name) for name in np.ravel(impacts.reset_index().to_numpy())
    }
    fits = zfit_fnf.toys.fit_toys(nll, 5, seed=3, progress=False)
    assert fits.valid.all()
    assert np.all(np.abs(fits.pulls()["mean"]) < 3.0)  # of five: 0.45 expected


def test_table_of_yields(combination):
    nll = combination["sum"]
    result = zfit_fnf.Minuit().minimize(nll)
    result.hesse()
    made = yield_table(nll, result, before={combination["mu"]: 1.0})
    table = made.to_dataframe()
    assert list(table.index) == [
        *(("SumPDF", process) for process in ("signal", "flat", "total")),
        *(("CR", process) for process in ("background", "total")),
    ]
    before = table["prefit"].to_dict()
    assert before["SumPDF", "signal"] == pytest.approx(100.0, rel=1e-9)
    assert table["prefit_error"]["SumPDF", "signal"] == pytest.approx(50 * (1.1 - 1 / 1.1), rel=1e-6)
    assert before["CR", "background"] == pytest.approx(1600.0)
    # jes, jer, cr and the two statistical errors; jer moves both bins by about the same
    squares = [(1600 * 0.225) ** 2, ((1600 - 1605) / 2) ** 2, 80.0**2, 9.0**2, 8.0**2]
    assert table["prefit_error"]["CR", "total"] == pytest.approx(np.sqrt(sum(squares)), rel=1e-3)
    # After the fit the total is known as well as Poisson numbers are
    after = table.loc[("SumPDF", "total")]
    assert after["observed"] == 300
    assert after["postfit"] == pytest.approx(300, abs=5.0)
    assert after["postfit_error"] == pytest.approx(np.sqrt(300), rel=0.1)
    assert table["postfit_error"]["CR", "total"] < 50.0
    assert r"SumPDF & total & " in made.to_latex()
    assert "+-" in str(made)


def test_hepstats_takes_it(combination):
    hypotests = pytest.importorskip("hepstats.hypotests")
    parameters = pytest.importorskip("hepstats.hypotests.parameters")
    nll, mu = combination["sum"], combination["mu"]
    minimizer = zfit_fnf.Minuit()
    calculator = zfit_fnf.hepstats.AsymptoticCalculator(nll, minimizer, n_asimov=2000)
    significance = hypotests.Discovery(calculator, parameters.POI(mu, 0.8)).result(printlevel=0)[1]
    assert significance == pytest.approx(zfit_fnf.limits.discovery(nll, mu, null=0.8).significance, abs=0.02)


def test_export_is_the_same_likelihood_in_bins():
    """Many bins, and effects that are small beside the width of a peak: the binned fit and the unbinned one agree."""
    jes, jer = nuisance("jes"), nuisance("jer")
    mu = zfit.Parameter("mu", 1.0, 0.0, 10.0, stepsize=0.1)
    n_background = zfit.Parameter("n_background", 200.0, 0.0, 2000.0, stepsize=10.0)
    space = zfit.Space("y", -10.0, 10.0)
    n_signal = zfit_fnf.modified_yield(100.0, [mu, zfit_fnf.lnN(jes, 1.1)])
    shifted = one_dimensional(shift=-0.1)
    signal = FNFPDF(shifted, {"jes": jes, "jer": jer}, obs=space, extended=n_signal, name="signal")
    flat = zfit.pdf.Uniform(-10.0, 10.0, obs=space, extended=n_background, name="flat")
    y = np.concatenate([stats.norm.ppf((np.arange(110) + 0.5) / 110), np.linspace(-9.9, 9.9, 190)])
    unbinned = ExtendedUnbinnedNLL(SumPDF([signal, flat]), {"y": y})
    workspace = zfit_fnf.pyhf.export(unbinned, {"y": np.linspace(-10, 10, 81)}, poi="mu", names=["SR"])
    samples = workspace["channels"][0]["samples"]
    assert [sample["name"] for sample in samples] == ["signal", "flat"]
    np.testing.assert_allclose(samples[1]["data"], 1 / 80, rtol=1e-9)
    kinds = {(m["name"], m["type"]) for m in samples[0]["modifiers"]}
    assert kinds == {("mu", "normfactor"), *((n, t) for n in ("jes", "jer") for t in ("normsys", "histosys"))}
    norms = next(m["data"] for m in samples[0]["modifiers"] if m["name"] == "jes" and m["type"] == "normsys")
    assert norms["hi"] == pytest.approx(1.1, rel=1e-6)
    binned = zfit_fnf.pyhf.channel(workspace)
    errors = []
    for likelihood in (unbinned, binned):
        params = list(likelihood.get_params())
        zfit.param.set_values(params, [{"mu": 0.9, "n_background": 210.0}.get(one.name, 0.1) for one in params])
        result = zfit_fnf.Minuit().minimize(likelihood)
        result.hesse()
        errors.append({p.name: (v["value"], v["hesse"]["error"]) for p, v in result.params.items()})
    for name, (value, error) in errors[0].items():
        # Interpolation between templates is not the deformation, and bins lose a little.
        assert errors[1][name][0] == pytest.approx(value, abs=0.1 * error), name
        assert errors[1][name][1] == pytest.approx(error, rel=0.05), name


def test_what_cannot_be_exported():
    space = zfit.Space("m", binning=zfit.binned.RegularBinning(2, 0, 1, name="m"))
    counts = NLL(
        zfit.pdf.HistogramPDF(zfit.data.BinnedData.from_tensor(space, [1.0, 2.0]), extended=3.0), np.array([1.0, 3.0])
    )
    with pytest.raises(ValueError, match="its bins are not those of pyhf"):
        zfit_fnf.pyhf.export(counts, {"m": [0, 0.5, 1]})
    mean, n = zfit.Parameter("mean", 0.0, -1, 1), zfit.Parameter("n", 3.0, 0, 10)
    moving = ExtendedUnbinnedNLL(zfit.pdf.Gauss(mean, 1.0, obs=zfit.Space("y", -5, 5), extended=n), {"y": [0.1]})
    with pytest.raises(ValueError, match="depends on 'mean' in another way"):
        zfit_fnf.pyhf.export(moving, {"y": [-5, 0, 5]})

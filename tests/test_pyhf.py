"""HistFactory channels against pyhf itself: values, derivatives, fits, limits, toys."""

from __future__ import annotations

import copy
import json

import zfit
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import zfit_fnf
from zfit_fnf.loss import NLL
from zfit_fnf.param import Nuisance, nuisance
from zfit_fnf.pickling import dumps, loads
from zfit_fnf.state import measured_covariance, measured_values
from zfit_fnf.toys import asimov, toy

pyhf = pytest.importorskip("pyhf")

from zfit_fnf.pyhf.bins import bin_rule, points_in  # noqa: E402

WORKSPACE = {
    "version": "1.0.0",
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "signal",
                    "data": [3.0, 12.0, 6.0],
                    "modifiers": [
                        {"name": "mu", "type": "normfactor", "data": None},
                        {"name": "lumi", "type": "lumi", "data": None},
                        {"name": "jes", "type": "normsys", "data": {"hi": 1.1, "lo": 0.93}},
                        {
                            "name": "jes",
                            "type": "histosys",
                            "data": {"hi_data": [2.0, 12.5, 7.5], "lo_data": [4.5, 11.5, 5.0]},
                        },
                    ],
                },
                {
                    "name": "background",
                    "data": [60.0, 50.0, 40.0],
                    "modifiers": [
                        {"name": "norm", "type": "normfactor", "data": None},
                        {"name": "stat", "type": "staterror", "data": [3.0, 0.0, 2.5]},
                        {"name": "bkg", "type": "shapesys", "data": [5.0, 6.0, 0.0]},
                    ],
                },
            ],
        },
        {
            "name": "CR",
            "samples": [
                {
                    "name": "background",
                    "data": [300.0, 200.0],
                    "modifiers": [
                        {"name": "norm", "type": "normfactor", "data": None},
                        {"name": "jes", "type": "normsys", "data": {"hi": 1.08, "lo": 0.9}},
                        {"name": "tail", "type": "shapefactor", "data": None},
                    ],
                }
            ],
        },
    ],
    "observations": [{"name": "SR", "data": [65.0, 66.0, 44.0]}, {"name": "CR", "data": [310.0, 195.0]}],
    "measurements": [
        {
            "name": "meas",
            "config": {
                "poi": "mu",
                "parameters": [
                    {"name": "lumi", "auxdata": [1.0], "sigmas": [0.017], "bounds": [[0.9, 1.1]], "inits": [1.0]},
                    {"name": "tail", "fixed": True},
                ],
            },
        }
    ],
}


@pytest.fixture(scope="module")
def both():
    """The likelihood of all channels, and pyhf's model and data."""
    workspace = pyhf.Workspace(WORKSPACE)
    model = workspace.model()
    return zfit_fnf.pyhf.channel(WORKSPACE), model, workspace.data(model)


def scattered(nll, rng):
    """Random values of all parameters, 0.7 standard deviations or so away."""
    for parameter in nll.get_params(floating=None):
        low, high = (0.5, 1.5) if not isinstance(parameter, Nuisance) else (-1.5, 1.5)
        parameter.set_value(rng.uniform(max(low, float(parameter.lower)), min(high, float(parameter.upper))))


def at_start(nll):
    pdf = nll.model[0]
    for one, parameter in zip(pdf.known, pdf.parameters, strict=True):
        parameter.set_value((one.start - one.centre) / one.width)


def test_value_is_that_of_pyhf(both):
    nll, model, data = both
    pdf = nll.model[0]
    assert [one.name for one in pdf.known] == model.config.par_names
    rng, differences = np.random.default_rng(1), []
    for _ in range(20):
        scattered(nll, rng)
        differences.append(float(nll.value()) + float(model.logpdf(pdf.pyhf_values(), data)[0]))
        np.testing.assert_allclose(pdf.counts(), model.expected_actualdata(pdf.pyhf_values()), rtol=1e-12)
    # The difference is the constant of the Gaussians, and those alone.
    sigmas = [one.width for one in pdf.known if one.kind == "normal"]
    constant = -np.sum(np.log(sigmas) + 0.5 * np.log(2 * np.pi))
    np.testing.assert_allclose(differences, constant, atol=1e-9)
    np.testing.assert_allclose(pdf.auxiliary_data(), model.config.auxdata, rtol=1e-12)


def test_backend_of_pyhf_is_what_it_was(both):
    nll, model, _ = both
    before = pyhf.get_backend()
    nll.create_new().gradient()
    assert pyhf.get_backend() == before
    assert isinstance(model.expected_actualdata(model.config.suggested_init()), np.ndarray)


def test_derivatives_are_exact(both):
    nll = both[0]
    scattered(nll, np.random.default_rng(2))
    params = list(nll.get_params())
    value, gradient = nll.value_gradient(params, full=True)
    hessian = np.asarray(nll.hessian(params))
    step = 1e-5
    for index, parameter in enumerate(params):
        start, sides = float(parameter.value()), []
        for side in (-step, step):
            parameter.set_value(start + side)
            sides.append((float(nll.value()), np.asarray(nll.gradient(params))))
        parameter.set_value(start)
        # Rounding of the value, 1e-13 of 100, divided by the step.
        assert (sides[1][0] - sides[0][0]) / (2 * step) == pytest.approx(float(gradient[index]), rel=1e-6, abs=1e-5)
        np.testing.assert_allclose((sides[1][1] - sides[0][1]) / (2 * step), hessian[index], rtol=1e-5, atol=1e-4)
    assert float(value) == pytest.approx(float(nll.value()))


def test_the_fit_is_that_of_pyhf(both):
    nll, model, data = both
    pdf = nll.model[0]
    at_start(nll)
    result = zfit_fnf.Minuit().minimize(nll)
    result.hesse()
    best = pdf.pyhf_values()
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3))
    try:
        fitted = pyhf.infer.mle.fit(data, model)
    finally:
        pyhf.set_backend("numpy")

    def of_pyhf(*steps: tuple[int, float]) -> float:
        values = np.array(best)
        for index, step in steps:
            values[index] += step
        return -float(model.logpdf(values, data)[0])

    assert of_pyhf() == pytest.approx(-float(model.logpdf(fitted, data)[0]), abs=1e-3)  # as far as pyhf's fit goes
    # Errors from second differences of pyhf's likelihood, whose rounding, 1e-13 of 100, is 1e-5 of the curvature.
    free = [index for index, fixed in enumerate(model.config.suggested_fixed()) if not fixed]
    h = 1e-3
    second = [
        [sum(a * b * of_pyhf((i, a * h), (j, b * h)) for a in (-1, 1) for b in (-1, 1)) / (4 * h * h) for j in free]
        for i in free
    ]
    errors = np.sqrt(np.diag(np.linalg.inv(second)))
    by_name = {one.name: result.params[one]["hesse"]["error"] for one in result.params}
    for index, expected in zip(free, errors, strict=True):
        error = by_name[pdf.parameters[index].name] * pdf.known[index].width
        assert error == pytest.approx(expected, rel=1e-3), pdf.known[index].name
    mu = next(one for one in result.params if one.name == "mu")
    assert result.errors(params=mu, method="minuit_minos")[0][mu]["upper"] == pytest.approx(errors[0], rel=0.2)


def test_one_channel_of_a_workspace_or_a_model(tmp_path):
    path = tmp_path / "workspace.json"
    path.write_text(json.dumps(WORKSPACE))
    jes = nuisance("jes")
    control = zfit_fnf.pyhf.channel(path, "CR", params={"jes": jes})
    assert jes in control.get_params()
    assert control.model[0].obs == ("CR",)
    np.testing.assert_array_equal(control.data[0].values(), [310.0, 195.0])
    assert {p.name for p in control.get_params()} == {"jes", "norm"}
    model = pyhf.Workspace(WORKSPACE).model()
    other = zfit_fnf.pyhf.channel(model, "CR", params={"jes": jes}, data=[310.0, 195.0])
    assert {p.name for p in other.get_params()} == {"jes", "norm"}
    jes.set_value(0.7)
    assert float(other.value()) == pytest.approx(float(control.value()), rel=1e-12)
    both = zfit_fnf.pyhf.channel(path, ["CR", "SR"])
    assert both.model[0].space.binning.size[0] == 5


def test_sums_share_parameters_by_name_and_constrain_them_once():
    parts = [zfit_fnf.pyhf.channel(WORKSPACE, name) for name in ("SR", "CR")]
    whole = zfit_fnf.pyhf.channel(WORKSPACE)
    total = parts[0] + parts[1]
    assert type(total) is NLL
    assert sorted(p.name for p in total.get_params()) == sorted(p.name for p in whole.get_params())
    rng = np.random.default_rng(3)
    differences = []
    for _ in range(4):
        scattered(total, rng)
        by_name = {p.name: float(p.value()) for p in total.get_params(floating=None)}
        for parameter in whole.get_params(floating=None):
            parameter.set_value(by_name[parameter.name])
        differences.append(float(total.value() - whole.value()))
    np.testing.assert_allclose(differences, 0.0, atol=1e-9)
    twice = total + total
    assert len([c for c in twice.constraints if type(c).__name__ == "AuxiliaryCounts"]) == 1


def test_a_constraint_of_a_part_of_a_measurement_is_told():
    """Of both bins it takes the place of what the model has measured; of one of them it is added to that."""
    background = {"name": "b", "data": [50.0, 60.0], "modifiers": [{"name": "u", "type": "shapesys", "data": [5, 6]}]}
    signal = {"name": "s", "data": [5.0, 5.0], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]}
    model = pyhf.Model({"channels": [{"name": "c", "samples": [signal, background]}]})
    nll = zfit_fnf.pyhf.channel(model, data=[55, 65])
    first, second = (one for one in nll.get_params() if one.name != "mu")
    own = np.diag(nll.hessian([first, second]))
    with pytest.warns(UserWarning, match=rf"\['{first.name}'\] are added to .* constrain \['{second.name}'\], too"):
        both = nll.create_new(constraints=zfit.constraint.GaussianConstraint(first, observation=1.0, sigma=0.1))
    found = np.diag(both.hessian([first, second]))
    np.testing.assert_allclose(found - own, [100.0, 0.0], atol=1e-8)


def test_toys_and_asimov_sets(both):
    nll = both[0]
    at_start(nll)
    pdf, mu = nll.model[0], next(one for one in nll.get_params() if one.name == "mu")
    made = asimov(nll, params={mu: 1.2})
    with zfit.param.set_values({mu: 1.2, **made.observed}):
        expected = np.asarray(pdf.counts())
        np.testing.assert_allclose(made.data[0].values(), expected, rtol=1e-12)
        np.testing.assert_allclose(made.loss(nll).gradient(), 0.0, atol=1e-10)
    n_toys = 25
    toys = [toy(nll, params={mu: 1.2}, seed=seed) for seed in range(n_toys)]
    counts = np.array([one.data[0].values() for one in toys])
    # Means of Poisson numbers, and of the outcomes of auxiliary measurements: five standard deviations.
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=5 * np.sqrt(expected.max() / n_toys))
    drawn = {one.name: np.array([t.observed[one] for t in toys]) for one in toys[0].observed}
    assert drawn["lumi_observed"].std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * n_toys))
    tau = pdf.known[[one.name for one in pdf.known].index("bkg[0]")].factor
    assert drawn["bkg_0_observed"].mean() == pytest.approx(tau, abs=5 * np.sqrt(tau / n_toys))


def test_what_counts_say_of_parameters():
    """Not the counts themselves, which were 25 times as large: limits before a fit are for what they say."""
    model = pyhf.simplemodels.uncorrelated_background([5.0], [50.0], [10.0])
    nll = zfit_fnf.pyhf.channel(model, data=[53.0])
    assert {one.name: value for one, value in measured_values(nll).items()} == {"uncorr_bkguncrt_0": pytest.approx(1.0)}
    (parameter,) = measured_values(nll)
    assert measured_covariance(nll, [parameter])[0, 0] == pytest.approx(0.04)
    limit = zfit_fnf.limits.upper_limit(nll, "mu", expected="prefit")
    pyhf_limit = pyhf.infer.intervals.upper_limits.upper_limit([50.0, 25.0], model, rtol=1e-4)[1]
    np.testing.assert_allclose(limit.expected, pyhf_limit, rtol=1e-3)


def test_limits_are_those_of_pyhf(both):
    nll, model, data = both
    at_start(nll)
    limit = zfit_fnf.limits.upper_limit(nll, "mu")
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(tolerance=1e-3))
    try:
        observed = pyhf.infer.hypotest(limit.observed, data, model)
        _, expected = pyhf.infer.hypotest(limit.expected[2], data, model, return_expected=True)
    finally:
        pyhf.set_backend("numpy")
    # The fits of pyhf are right to about 1e-4 of the likelihood.
    assert float(observed) == pytest.approx(0.05, abs=5e-4)
    assert float(expected) == pytest.approx(0.05, abs=5e-4)


def test_it_goes_to_other_processes():
    nll = zfit_fnf.pyhf.channel(WORKSPACE, "SR")
    scattered(nll, np.random.default_rng(4))
    outcome = nll.model[0].auxiliary_measurements[0].observed[0]
    outcome.set_value(float(outcome.value()) + 3.0)
    again = loads(dumps(nll))
    assert float(again.value()) == pytest.approx(float(nll.value()), rel=1e-12)
    np.testing.assert_allclose(again.model[0].auxiliary_data(), nll.model[0].auxiliary_data())


MISTAKES = {
    "no such channel": (lambda: zfit_fnf.pyhf.channel(WORKSPACE, "VR"), ValueError, r"no channel \['VR'\]; there are"),
    "no such parameter": (
        lambda: zfit_fnf.pyhf.channel(WORKSPACE, params={"jess": nuisance("jes")}),
        ValueError,
        "do you mean 'jes'",
    ),
    "a nuisance for a free one": (
        lambda: zfit_fnf.pyhf.channel(WORKSPACE, params={"mu": nuisance("mu")}),
        TypeError,
        "pyhf has no Gaussian constraint of 'mu'",
    ),
    "a free one for a nuisance": (
        lambda: zfit_fnf.pyhf.channel(WORKSPACE, params={"jes": zfit.Parameter("jes", 0.0)}),
        TypeError,
        r"make it with zfit_fnf.nuisance\('jes'\)",
    ),
    "a model without data": (
        lambda: zfit_fnf.pyhf.channel(pyhf.Workspace(WORKSPACE).model()),
        ValueError,
        "has no data",
    ),
    "auxiliary data among the data": (
        lambda: zfit_fnf.pyhf.channel(WORKSPACE, "CR", data=[310.0, 195.0, 0.0]),
        ValueError,
        "are 2 counts",
    ),
    "negative counts": (lambda: zfit_fnf.pyhf.channel(WORKSPACE, "CR", data=[310.0, -1.0]), ValueError, "negative"),
    "no file": (lambda: zfit_fnf.pyhf.channel("no.json"), FileNotFoundError, "no workspace of pyhf at 'no.json'"),
    "another file": (lambda: zfit_fnf.pyhf.channel(__file__), ValueError, "is no workspace of pyhf: "),
    "a number": (lambda: zfit_fnf.pyhf.channel(3), TypeError, "is a file, a document or an object of pyhf"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case):
    make, kind, message = MISTAKES[case]
    with pytest.raises(kind, match=message):
        make()


def test_modifiers_of_which_pyhf_takes_the_last_are_told():
    """As of a yield that depends on a nuisance twice: pyhf has 1.2 where 1.1 * 1.2 was meant."""
    effects = [{"name": "a", "type": "normsys", "data": {"lo": 1 / k, "hi": k}} for k in (1.1, 1.2)]
    samples = [{"name": "s", "data": [10.0], "modifiers": effects}]
    document = {
        "version": "1.0.0",
        "channels": [{"name": "c", "samples": samples}],
        "observations": [{"name": "c", "data": [12.0]}],
        "measurements": [{"name": "m", "config": {"poi": "", "parameters": []}}],
    }
    with pytest.warns(UserWarning, match="the sample 's' of 'c' has normsys 'a' more than once"):
        nll = zfit_fnf.pyhf.channel(document)
    (a,) = nll.get_params()
    a.set_value(1.0)
    assert float(nll.model[0].counts(norm=False).numpy()[0]) == pytest.approx(12.0)


def test_two_names_that_cannot_be_one():
    events = zfit_fnf.loss.ExtendedUnbinnedNLL(
        zfit.pdf.Uniform(0.0, 1.0, obs=zfit.Space("y", 0, 1), extended=zfit.Parameter("jes", 3.0)), {"y": [0.2]}
    )
    with pytest.raises(TypeError, match="'jes' is a parameter without one"):
        events + zfit_fnf.pyhf.channel(WORKSPACE, "CR")


def test_two_names_that_are_one_for_zfit_are_refused():
    modifiers = [
        {"name": "mu", "type": "normfactor", "data": None},
        {"name": "st", "type": "staterror", "data": [3.0]},
        {"name": "st_0", "type": "normsys", "data": {"lo": 0.9, "hi": 1.1}},
    ]
    samples = [{"name": "b", "data": [50.0], "modifiers": modifiers}]
    model = pyhf.Model({"channels": [{"name": "c", "samples": samples}]}, poi_name="mu")
    with pytest.raises(ValueError, match=r"'st_0' and 'st\[0\]' of pyhf would both be called 'st_0'"):
        zfit_fnf.pyhf.channel(model, data=[52.0])


def test_it_is_a_binned_pdf_of_zfit():
    pdf = zfit_fnf.pyhf.channel(WORKSPACE, "CR").model[0]
    assert pdf.is_extended
    assert float(pdf.get_yield().value()) == pytest.approx(float(tf.reduce_sum(pdf.counts())))
    np.testing.assert_allclose(pdf.to_hist().values(), [300.0, 200.0])
    assert float(np.sum(pdf.rel_counts())) == pytest.approx(1.0)


def test_narrow_peaks_are_integrated_over_wide_bins():
    edges = np.linspace(0.0, 10.0, 3)
    nodes, weights = bin_rule(lambda x: stats.norm.pdf(x, 2.53, 0.05), edges, "peak")
    values = stats.norm.pdf(points_in(edges, nodes), 2.53, 0.05).reshape(2, -1)
    np.testing.assert_allclose(0.5 * np.diff(edges) * (values @ weights), [1.0, 0.0], atol=1e-6)
    assert len(bin_rule(np.ones_like, edges, "flat")[0]) == 24
    with pytest.warns(UserWarning, match="'edge' over the bins are not precise"):
        bin_rule(lambda x: np.where(x < 1.234, 1.0, 0.0), edges, "edge")


def with_lumi_everywhere(**lumi):
    document = copy.deepcopy(WORKSPACE)
    document["channels"][1]["samples"][0]["modifiers"].append({"name": "lumi", "type": "lumi", "data": None})
    document["measurements"][0]["config"]["parameters"][0].update(lumi)
    return document


def test_export_keeps_outcomes_that_were_moved_and_values_that_are_fixed():
    """Twice the exported likelihood differs from ours by a constant; without the outcomes by 0.7, say."""
    document = with_lumi_everywhere()
    nll = zfit_fnf.pyhf.channel(document, "SR") + zfit_fnf.pyhf.channel(document, "CR")
    params = {one.name: one for one in nll.get_params(floating=None)}
    outcomes = {one.name: one for pdf in nll.model for c in pdf.auxiliary_measurements for one in c.observed}
    for name, value in {"jes": 0.7, "lumi": -0.5, "stat_0": 1.5}.items():
        params[name].observed.set_value(value)
    outcomes["bkg_1_observed"].set_value(90.0)
    # No value of its own in the document, and the parameter is at zero while templates are made.
    params["jes"].set_value(1.0)
    params["jes"].floating = False
    workspace = zfit_fnf.pyhf.export(nll, [{}, {}], poi="mu")
    model = workspace.model()
    config = model.config
    assert config.suggested_init()[config.par_slice("jes")] == pytest.approx([1.0])
    assert config.suggested_fixed()[config.par_slice("jes")] == [True]
    known = {one.name: one for pdf in nll.model for one in pdf.known}
    rng, differences = np.random.default_rng(1), []
    for _ in range(5):
        values = []
        for name in config.par_names:
            own, parameter = known[name], params[name.replace("[", "_").replace("]", "")]
            if parameter.floating:
                parameter.set_value(rng.uniform(-1.0, 1.0) if own.kind == "normal" else rng.uniform(0.5, 1.5))
            values.append(own.centre + own.width * float(parameter.value()))
        differences.append(float(nll.value(full=True)) + float(model.logpdf(values, workspace.data(model))[0]))
    np.testing.assert_allclose(differences, differences[0], rtol=0, atol=1e-9)


def test_export_says_what_a_workspace_does_not_hold():
    codes = {"histosys": {"interpcode": "code0"}, "normsys": {"interpcode": "code1"}}
    nll = zfit_fnf.pyhf.channel(WORKSPACE, modifier_settings=codes)
    with pytest.warns(UserWarning, match="'histosys': {'interpcode': 'code0'}.* give it to pyhf.Workspace.model"):
        zfit_fnf.pyhf.export(nll, {})
    first = zfit_fnf.pyhf.channel(with_lumi_everywhere(), "SR")
    with pytest.raises(ValueError, match="another measurement of 'lumi'"):
        zfit_fnf.pyhf.export(first + zfit_fnf.pyhf.channel(with_lumi_everywhere(sigmas=[0.1]), "CR"), [{}, {}])

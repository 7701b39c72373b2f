"""The closure of a calibration against known sums: what describes several processes, between points, and of other data."""

from __future__ import annotations

from types import SimpleNamespace

import zfit
import numpy as np
import pytest
from analytic import GaussianDeformation, GaussianFlow

import zfit_fnf as zfnf
from zfit_fnf import Simulation, Variation
from zfit_fnf.calibration.closure import Measurement
from zfit_fnf.calibration.interpolation import Interpolation
from zfit_fnf.calibration.processes import processes_of


def peak(*, width=1.0, powers=None):
    """A Gaussian whose mean moves by 0.2 per standard deviation of "shape"."""
    density = GaussianDeformation(GaussianFlow([0.0], [width], obs=["y"]), {"shape": ((0.0, -0.2), (0.0, 0.0))})
    if powers is not None:
        density.responses = [SimpleNamespace(powers=powers, nuisances=("shape",))]
    return density


def simulate(n, seed, means=(0.0, 0.2, -0.2)):
    rng = np.random.default_rng(seed)
    nominal, up, down = ({"y": rng.normal(mean, 1.0, n)} for mean in means)
    return Simulation(nominal, [Variation(up, at={"shape": 1.0}), Variation(down, at={"shape": -1.0})])


def shuffled(simulation, seed):
    """The same events in another order, which no one takes for the same ones."""
    rng = np.random.default_rng(seed)
    variations = [Variation({"y": rng.permutation(one.events["y"])}, at=one.at) for one in simulation.variations]
    return Simulation({"y": rng.permutation(simulation.nominal["y"])}, variations)


def channels(numbers, simulations):
    """Channels of one density with so many events each, a nuisance that they share, and a closure of 0.3 standard deviations."""
    shape, rng = zfnf.nuisance("shape"), np.random.default_rng(1)
    yields = [zfit.Parameter(f"n{k}", float(number), 0, 1e6) for k, number in enumerate(numbers)]
    likelihoods = [
        zfnf.loss.ExtendedUnbinnedNLL(
            zfnf.pdf.FNFPDF(peak(), {"shape": shape}, extended=one, name=f"p{k}"), {"y": rng.normal(0.06, 1.0, number)}
        )
        for k, (one, number) in enumerate(zip(yields, numbers, strict=True))
    ]
    nll = sum(likelihoods[1:], likelihoods[0])
    shape.set_value(0.3)
    return nll, [shape, *yields], dict(zip(["p0", "p1"], simulations, strict=True))


def test_events_that_describe_two_processes_fluctuate_once():
    """Two channels of 3000 and 1000 events: the sum of their biases has (3 + 1)^2 in place of 3^2 + 1^2 of a variance."""
    simulation = simulate(2000, seed=2)
    found = []
    for second in (simulation, shuffled(simulation, seed=3)):
        nll, params, given = channels((3000, 1000), (simulation, second))
        found.append(Measurement(nll, processes_of(nll, given), params, n_draws=2000, seed=0)())
    shared, apart = found
    np.testing.assert_allclose(shared.bias[0], apart.bias[0], rtol=1e-9)
    of_simulation = [
        sum(value[0, 0] for key, value in one.sources.items() if key[1] != "draws of the model") for one in found
    ]
    assert of_simulation[0] / of_simulation[1] == pytest.approx(1.6, rel=0.01)
    assert shared.sizes["p0 and p1", "nominal"] == (2000, 2000.0)
    assert ("p0", "nominal") not in shared.sources

    def noise(one):
        of_simulation = [found for ones in one.slope_noise.values() for found in ones]
        return sum(factors[0, 0] * covariance[0, 0] for factors, _, covariance in of_simulation)

    assert noise(shared) / noise(apart) == pytest.approx(1.6, rel=0.01)


@pytest.mark.filterwarnings("ignore:where the fit is, between the points")  # of 2000 events
def test_the_report_says_which_processes_share_events():
    simulation = simulate(2000, seed=2)
    parts = []
    for second in (simulation, shuffled(simulation, seed=3)):
        nll, _, given = channels((2000, 2000), (simulation, second))
        report = zfnf.calibrate(nll, given, n_draws=20_000).report
        parts.append(report.table.loc["shape"])
        assert (("p0 and p1", "shape=+1") in report.sources.index) == (second is simulation)
    assert parts[0]["value"] == pytest.approx(parts[1]["value"], abs=0.05 * parts[1]["error"])
    assert parts[0]["simulation"] / parts[1]["simulation"] == pytest.approx(np.sqrt(2.0), rel=0.1)


@pytest.mark.parametrize("powers", [((1,),), ((1,), (2,))])
def test_an_effect_of_second_order_is_put_right_whatever_order_the_density_has(powers):
    """Means move by 0.3 and -0.1, the density by 0.2 and -0.2: a linear closure is 4.6 errors off at zero."""
    shape, number = zfnf.nuisance("shape"), zfit.Parameter("n", 5000.0, 0, 1e5)
    model = zfnf.pdf.FNFPDF(peak(powers=powers), {"shape": shape}, extended=number, name="p")
    y = np.random.default_rng(4).normal(0.0, 1.0, 5000)
    nll = zfnf.loss.ExtendedUnbinnedNLL(model, {"y": y - y.mean()})
    row = zfnf.calibrate(nll, {"p": simulate(200_000, 5, (0.0, 0.3, -0.1))}, n_draws=30_000).report.table.loc["shape"]
    assert abs(row["value"]) < 0.4 * row["error"]
    assert row["error"] == pytest.approx(1.0 / np.sqrt(1.0 + 0.2**2 * 5000), rel=0.05)


def test_interpolation_goes_through_all_points_of_up_to_four_samples():
    points = np.array([[0.0], [1.0], [-1.0], [2.0], [-2.0]])
    for one in points:
        weights = Interpolation(("a",), points, {"a": 1}).weights(one)
        np.testing.assert_allclose(weights, (points == one)[:, 0], atol=1e-10)


def test_what_is_between_points_of_an_odd_response_is_estimated():
    """Of ``tanh``, whose fourth power is zero: with samples at -2, -1, 1 and 2; it is an order of magnitude."""
    known = Interpolation(("a",), np.array([[0.0], [1.0], [-1.0], [2.0], [-2.0]]), {})

    def closure(a):
        return 0.35 * np.tanh(1.2 * a) - 0.25 * a

    values = closure(known.points[:, 0])
    squares = (known.coefficients @ values) ** 2
    for nu in (0.5, 1.7):
        missed = abs(closure(nu) - known.weights([nu]) @ values)
        assert 0.4 < known.remainders([nu], squares, np.zeros(5))["a",] / missed < 2.5


def test_other_numbers_of_events_are_refused_where_no_parameter_follows():
    """A bias of three errors was removed for 4000 events: 16 000 of them had 17 errors of it."""
    shape, rng = zfnf.nuisance("shape"), np.random.default_rng(6)
    model = zfnf.pdf.FNFPDF(peak(width=1.2), {"shape": shape}, name="p")
    nll = zfnf.loss.UnbinnedNLL(model, {"y": rng.normal(0.0, 1.0, 4000)})
    trusted = zfnf.calibrate(nll, {"p": simulate(20_000, 7)}, n_draws=20_000)
    for n in (1000, 16_000):
        other = trusted.create_new(data={"y": rng.normal(0.0, 1.0, n)})
        with pytest.raises(
            ValueError, match=f"calibrated for 4000 events of .* these data have {n}: as it is not extended"
        ):
            other.value()
    weighted = zfit.Data.from_numpy(obs=model.norm, array=rng.normal(0.0, 1.0, (1000, 1)), weights=np.full(1000, 4.0))
    assert np.isfinite(trusted.create_new(data=weighted).value())


def test_toys_of_simulation_are_drawn_at_their_point_where_two_samples_have_one_name():
    """Of samples at 0, 1, 1 and -1, that at -1 was taken for the second one at 1."""
    shape, number = zfnf.nuisance("shape"), zfit.Parameter("n", 4000.0, 0, 1e5)
    model = zfnf.pdf.FNFPDF(peak(), {"shape": shape}, extended=number, name="p")
    rng = np.random.default_rng(8)
    nominal, *moved = ({"y": rng.normal(0.2 * at, 1.0, 4000)} for at in (0.0, 1.0, 1.0, -1.0))
    simulation = Simulation(
        nominal, [Variation(one, at={"shape": at}) for one, at in zip(moved, (1.0, 1.0, -1.0), strict=True)]
    )
    nll = zfnf.loss.ExtendedUnbinnedNLL(model, nominal)
    (toy,) = zfnf.toys.simulated_toys(nll, 1, {"p": simulation}, params={shape: -1.0}, seed=1)
    assert np.isin(toy.data[0].value().numpy()[:, 0], moved[2]["y"]).all()


def test_the_report_says_that_it_is_of_other_data():
    shape, rng = zfnf.nuisance("shape"), np.random.default_rng(9)
    model = zfnf.pdf.FNFPDF(peak(), {"shape": shape}, extended=zfit.Parameter("n", 4000.0, 0, 1e5), name="p")
    nll = zfnf.loss.ExtendedUnbinnedNLL(model, {"y": rng.normal(0.0, 1.0, 4000)})
    trusted = zfnf.calibrate(nll, {"p": simulate(20_000, 10)}, n_draws=20_000)
    other = trusted.create_new(data={"y": rng.normal(0.2, 1.0, 4000)})
    again = other.create_new(constraints=other.constraints)
    assert trusted.create_new(data=nll.data).report is trusted.report
    for one in (other, again):
        assert str(one.report).count("not of the present ones") == 1
    assert "not of the present ones" not in str(trusted.report)

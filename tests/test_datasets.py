"""The yardsticks themselves: densities, generators and fits that have to agree with one another and with DESIGN."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from zfit_fnf.datasets import Composition, GaussianNuisances, MovingPeak, NoEffect, ShiftSqueeze, Slope, Tilt

TRUTH = {"shift": 0.5, "squeeze": -0.5}
POINTS = [(0.0, 0.0), (0.5, -0.5), (-1.0, 2.0)]
OTHER = ShiftSqueeze(
    center_a=(-0.7, 0.2),
    sigma_b=(0.5, 0.7),
    shift_y=0.5,
    squeeze_x=0.3,
    frequency=2.0,
    rho=-0.6,
    rotation=0.6,
    shear=0.2,
)
N_SIGMA = 5  # per check; fixed seeds, and a right program fails one in 10^6


def grid(center: np.ndarray, width: float, n: int = 301) -> tuple[np.ndarray, float]:
    """Points of a square around `center` (n^2, 2) and the area that each stands for."""
    axis, step = np.linspace(-width, width, n, retstep=True)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2) + center, step**2


def table(x: np.ndarray, y: np.ndarray | None = None) -> pd.DataFrame:
    columns = {"x1": x[:, 0], "x2": x[:, 1]}
    return pd.DataFrame(columns if y is None else {**columns, "y1": y[:, 0], "y2": y[:, 1]})


def by_hand(x: np.ndarray, y: np.ndarray, sign: float, shift: float, squeeze: float) -> tuple[float, float]:
    """The values of log p(x) and log p(y | x) in the default geometry for one event, written from the formulas."""
    a = 0.2 * squeeze
    center = np.array([0.5 * sign + sign * 0.3 * shift, 0.0])
    sigma = np.array([0.9 * np.exp(a), 0.6 * np.exp(-a)] if sign < 0 else [0.6 * np.exp(-a), 0.4 * np.exp(a)])
    d, b = 0.3 * shift, 0.2 * squeeze
    mean = [
        np.sin(1.5 * x[0]) + 0.3 * x[1] + sign * d * np.tanh(x[0]),
        0.3 * x[0] ** 2 - 1.2 + 0.5 * np.sin(x[1]) - sign * d * np.tanh(x[0]),
    ]
    s1 = np.log(1 + np.exp(0.4 * x[0] + 0.1)) * np.exp(sign * b)
    s2 = np.log(1 + np.exp(-0.2 * x[0] + 0.4)) * np.exp(-sign * b)
    rho = 0.8 * np.tanh((x[0] + x[1]) / 2)
    cov = [[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]]
    return multivariate_normal(center, np.diag(sigma**2)).logpdf(x), multivariate_normal(mean, cov).logpdf(y)


@pytest.mark.parametrize(("process", "sign"), [("A", -1.0), ("B", 1.0)])
def test_density_follows_the_formulas(process: str, sign: float) -> None:
    toy, rng = ShiftSqueeze(), np.random.default_rng(4)
    for _ in range(5):
        x, y, nu = rng.normal(size=2), rng.normal(size=2), rng.normal(size=2)
        log_x, log_y = by_hand(x, y, sign, *nu)
        event = table(x[None], y[None])
        assert toy.log_prob(event, nu, process, of="x") == pytest.approx(log_x, rel=1e-12)
        assert toy.log_prob(event, nu, process, of="y|x") == pytest.approx(log_y, rel=1e-12)
        assert toy.log_prob(event, nu, process) == pytest.approx(log_x + log_y, rel=1e-12)


@pytest.mark.parametrize("process", ["A", "B"])
def test_moments_are_those_of_the_density(process: str) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    moments = zip(y, *OTHER.moments(x, process, TRUTH), strict=True)
    expected = [multivariate_normal(mean, covariance).logpdf(values) for values, mean, covariance in moments]
    np.testing.assert_allclose(OTHER.log_prob(table(x, y), TRUTH, process, of="y|x"), expected, rtol=1e-12)


def test_mixture_is_the_sum_of_its_processes() -> None:
    toy, events = OTHER, OTHER.observe(1000, TRUTH, seed=5)
    for distorted in (False, True):
        options = {"nu": TRUTH, "distorted": distorted}
        joint = {p: np.exp(toy.log_prob(events, process=p, **options)) for p in "AB"}
        of_x = {p: np.exp(toy.log_prob(events, process=p, of="x", **options)) for p in "AB"}
        p_joint, p_x = (0.3 * p["A"] + 0.7 * p["B"] for p in (joint, of_x))
        for of, expected in {"joint": p_joint, "x": p_x, "y|x": p_joint / p_x}.items():
            log_prob = toy.log_prob(events, of=of, fraction=0.3, **options)
            np.testing.assert_allclose(np.exp(log_prob), expected, rtol=1e-10)


@pytest.mark.parametrize("nu", POINTS)
@pytest.mark.parametrize("process", ["A", "B", None])
def test_densities_integrate_to_one(process: str | None, nu: tuple[float, float]) -> None:
    # Trapezoids over at least 6 sigma of a smooth density: what is left out is below 1e-8.
    x, area = grid(np.zeros(2), 9.0)
    assert np.exp(OTHER.log_prob(table(x), nu, process, of="x")).sum() * area == pytest.approx(1, abs=1e-7)
    for point in ([0.0, 0.0], [-1.2, 0.7], [1.5, -0.5]):
        y, area = grid(np.zeros(2), 12.0, n=601)
        events = table(np.broadcast_to(point, y.shape), y)
        for distorted in (False, True):
            density = np.exp(OTHER.log_prob(events, nu, process, of="y|x", distorted=distorted))
            assert density.sum() * area == pytest.approx(1, abs=1e-7)


def assert_same_moments(drawn: np.ndarray, points: np.ndarray, probability: np.ndarray) -> None:
    """Means, second and third moments of drawn events against those of a density on a grid."""
    for powers in [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]:
        expected = (probability * np.prod(points**powers, axis=1)).sum()
        values = np.prod(drawn**powers, axis=1)
        assert abs(values.mean() - expected) < N_SIGMA * values.std() / np.sqrt(len(values)), powers


@pytest.mark.parametrize("nu", POINTS)
@pytest.mark.parametrize("process", ["A", "B"])
def test_simulated_x_follows_the_density(process: str, nu: tuple[float, float]) -> None:
    x, area = grid(np.zeros(2), 9.0)
    probability = np.exp(OTHER.log_prob(table(x), nu, process, of="x")) * area
    assert_same_moments(OTHER.simulate(process, 100_000, nu, seed=6)[["x1", "x2"]].to_numpy(), x, probability)


@pytest.mark.parametrize("distorted", [False, True])
@pytest.mark.parametrize("process", ["A", "B"])
def test_simulated_y_follows_the_density_at_its_x(process: str, distorted: bool) -> None:
    # Widths of x of 1e-9 freeze it at the centre, where the moments of y can be integrated.
    center = (-0.8, 0.6)
    toy = replace(OTHER, center_a=center, center_b=center, sigma_a=(1e-9, 1e-9), sigma_b=(1e-9, 1e-9), shift_x=0.0)
    y, area = grid(np.zeros(2), 12.0, n=601)
    events = table(np.broadcast_to(center, y.shape), y)
    probability = np.exp(toy.log_prob(events, TRUTH, process, of="y|x", distorted=distorted)) * area
    drawn = toy.simulate(process, 100_000, TRUTH, seed=7)
    x_drawn, y_drawn = drawn[["x1", "x2"]].to_numpy(), drawn[["y1", "y2"]].to_numpy()
    assert_same_moments(toy.distort(y_drawn, x_drawn, process) if distorted else y_drawn, y, probability)


@pytest.mark.parametrize("distorted", [False, True])
def test_observed_events_follow_the_mixture(distorted: bool) -> None:
    """The score at the truth has mean zero, and its second moment is the information: E[s s^T] = -E[ds/dnu]."""
    events = OTHER.observe(200_000, TRUTH, distorted, 8, fraction=0.3)
    truth, step = np.array([0.5, -0.5]), 1e-3

    def log_prob(shift: float, squeeze: float) -> np.ndarray:
        return OTHER.log_prob(events, truth + np.array([shift, squeeze]), fraction=0.3, distorted=distorted)

    center = log_prob(0, 0)
    for direction in np.eye(2) * step:
        up, down = log_prob(*direction), log_prob(*-direction)
        score, curvature = (up - down) / (2 * step), (up - 2 * center + down) / step**2
        for statistic in (score, score**2 + curvature):
            assert abs(statistic.mean()) < N_SIGMA * statistic.std() / np.sqrt(len(events))


def test_fraction_of_process_a() -> None:
    # Centres 40 sigma apart tell the processes apart event by event.
    toy = ShiftSqueeze(center_a=(-20.0, 0.0), center_b=(20.0, 0.0))
    for fraction in (0.5, 0.3):
        found = (toy.observe(100_000, seed=9, fraction=fraction)["x1"] < 0).mean()
        assert abs(found - fraction) < N_SIGMA * np.sqrt(fraction * (1 - fraction) / 100_000)


def test_seeds() -> None:
    toy = ShiftSqueeze()
    pd.testing.assert_frame_equal(toy.simulate("A", 10, TRUTH, 1), toy.simulate("A", 10, (0.5, -0.5), seed=1))
    pd.testing.assert_frame_equal(toy.observe(10, seed=1), toy.observe(10, seed=1))
    assert not toy.observe(10, seed=1).equals(toy.observe(10, seed=2))
    standardised = [toy.simulate(process, 20_000, seed=1)["x1"].to_numpy() for process in "AB"]
    # The same seed gives independent events of the two processes.
    assert abs(np.corrcoef(*standardised)[0, 1]) < N_SIGMA / np.sqrt(20_000)


@pytest.mark.parametrize("process", ["A", "B"])
def test_distortion_is_inverted_exactly(process: str) -> None:
    events = OTHER.simulate(process, 10_000, TRUTH, seed=10)
    x, y = events[["x1", "x2"]].to_numpy(), events[["y1", "y2"]].to_numpy()
    distorted = OTHER.distort(y, x, process)
    assert np.abs(distorted - y).max() > 0.1
    np.testing.assert_allclose(OTHER.undistort(distorted, x, process), y, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("process", "sign"), [("A", -1.0), ("B", 1.0)])
def test_distortion_follows_the_formula(process: str, sign: float) -> None:
    x, y = np.array([0.6, -0.8]), np.array([1.0, 2.0])
    angle = sign * 0.4 / (0.7 * 1.0 + 0.5) * np.tanh(1.2)
    turned = complex(*y) * np.exp(1j * angle)
    difference = turned.real - turned.imag
    expected = [turned.real + sign * 0.1 * difference, turned.imag - sign * 0.1 * difference]
    np.testing.assert_allclose(ShiftSqueeze().distort(y[None], x[None], process), [expected], rtol=1e-14)


# Errors with 100k events at the truth and the default geometry, as published with the toy.
@pytest.mark.parametrize(
    ("of", "distorted", "errors"),
    [("joint", False, (0.0063, 0.0066)), ("x", False, (0.0093, 0.0096)), ("joint", True, (0.0060, 0.0061))],
)
def test_exact_errors(of: str, distorted: bool, errors: tuple[float, float]) -> None:
    toy = ShiftSqueeze()
    result = toy.fit(toy.observe(100_000, TRUTH, distorted, seed=11), of=of, distorted=distorted, minos=True)
    for (name, truth), error in zip(TRUTH.items(), errors, strict=True):
        assert result.errors[name] == pytest.approx(error, rel=0.03)
        assert abs(result.values[name] - truth) < N_SIGMA * error
        assert result.minos is not None
        assert -result.minos[name][0] == pytest.approx(result.errors[name], rel=0.02)
        assert result.minos[name][1] == pytest.approx(result.errors[name], rel=0.02)
    np.testing.assert_allclose(np.sqrt(np.diag(result.covariance)), list(result.errors.values()), rtol=1e-6)
    correlation = result.covariance[0, 1] / np.prod(list(result.errors.values()))
    if of == "joint" and not distorted:
        assert correlation == pytest.approx(0.05, abs=0.03)


def test_constraints_enter_the_fit() -> None:
    toy, events = ShiftSqueeze(), ShiftSqueeze().observe(300, TRUTH, seed=12)
    free, constrained = (toy.fit(events, constrained=constrained, start=TRUTH) for constrained in (False, True))
    combined = np.linalg.inv(np.linalg.inv(free.covariance) + np.eye(2))
    np.testing.assert_allclose(constrained.covariance, combined, rtol=0.05)  # quadratic approximation, sigma 0.12
    nll = -toy.log_prob(events, constrained.values).sum() + 0.5 * sum(v**2 for v in constrained.values.values())
    assert constrained.nll == pytest.approx(nll, rel=1e-12)
    assert constrained.minos is None


@pytest.mark.parametrize("name", [field.name for field in fields(ShiftSqueeze)])
def test_every_number_of_the_geometry_is_an_argument(name: str) -> None:
    toy, value = ShiftSqueeze(), getattr(ShiftSqueeze(), name)
    changed = tuple(v + 0.1 for v in value) if isinstance(value, tuple) else 1.1 * value
    events = toy.observe(10, TRUTH, True, seed=13)
    difference = replace(toy, **{name: changed}).log_prob(events, TRUTH, distorted=True) - toy.log_prob(
        events, TRUTH, distorted=True
    )
    assert np.abs(difference).max() > 1e-3


def test_bad_arguments_of_shift_squeeze() -> None:
    toy = ShiftSqueeze()
    with pytest.raises(ValueError, match=r"unknown nuisance 'jes'; the nuisances are \['shift', 'squeeze'\]"):
        toy.observe(10, {"jes": 1.0})
    with pytest.raises(ValueError, match="one finite number for each nuisance"):
        toy.simulate("A", 10, (1.0,))
    with pytest.raises(ValueError, match=r"unknown process 'C'; the processes are \['A', 'B'\]"):
        toy.simulate("C", 10)
    with pytest.raises(ValueError, match=r"inside \(0, 1\); got 1.5"):
        toy.observe(10, fraction=1.5)
    with pytest.raises(ValueError, match="of='y' is unknown"):
        toy.log_prob(toy.observe(10), of="y")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="widths must be positive"):
        ShiftSqueeze(sigma_a=(0.9, 0.0))
    with pytest.raises(ValueError, match="rho must be inside"):
        ShiftSqueeze(rho=1.0)
    with pytest.raises(ValueError, match="shear must be inside"):
        ShiftSqueeze(shear=0.5)


@pytest.fixture(scope="module")
def gauss() -> GaussianNuisances:
    return GaussianNuisances.random(3, 4, seed=14)


def test_gaussian_density(gauss: GaussianNuisances) -> None:
    events, nu = gauss.simulate(100, seed=15), np.array([0.5, -1.0, 0.3, 2.0])
    exact = multivariate_normal(gauss.mean + gauss.response @ nu, gauss.covariance).logpdf(events.to_numpy())
    np.testing.assert_allclose(gauss.log_prob(events, nu), exact, rtol=1e-12)
    assert gauss.nll(events, nu) == pytest.approx(-exact.sum() + 0.5 * nu @ nu, rel=1e-12)


def test_gaussian_simulation(gauss: GaussianNuisances) -> None:
    n, nu = 100_000, {"nu2": 1.0, "nu4": -0.5}
    events = gauss.simulate(n, nu, seed=16)
    assert list(events.columns) == ["y1", "y2", "y3"]
    mean = gauss.mean + gauss.response[:, 1] - 0.5 * gauss.response[:, 3]
    assert (np.abs(events.mean() - mean) < N_SIGMA * np.sqrt(np.diag(gauss.covariance) / n)).all()
    variance = np.diag(gauss.covariance)
    spread = np.sqrt((np.outer(variance, variance) + gauss.covariance**2) / n)
    assert (np.abs(events.cov().to_numpy() - gauss.covariance) < N_SIGMA * spread).all()


def test_gaussian_fit_is_the_minimum(gauss: GaussianNuisances) -> None:
    events = gauss.simulate(200, {"nu1": 1.0}, seed=17)
    best = gauss.fit(events)
    numeric = minimize(lambda nu: gauss.nll(events, nu), np.zeros(4), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(list(best.values.values()), numeric.x, atol=1e-5)
    assert best.nll == pytest.approx(numeric.fun, rel=1e-12)
    # The likelihood is quadratic: second differences give its Hessian whatever the step.
    center, steps = np.array(list(best.values.values())), np.eye(4)
    hessian = [
        [
            (gauss.nll(events, center + a + b) - gauss.nll(events, center + a - b)) / 4
            - (gauss.nll(events, center - a + b) - gauss.nll(events, center - a - b)) / 4
            for b in steps
        ]
        for a in steps
    ]
    np.testing.assert_allclose(best.covariance, np.linalg.inv(hessian), rtol=1e-7)
    np.testing.assert_allclose(list(best.errors.values()), np.sqrt(np.diag(best.covariance)), rtol=1e-14)


def test_gaussian_profile(gauss: GaussianNuisances) -> None:
    events = gauss.simulate(200, {"nu1": 1.0}, seed=18)
    best = gauss.fit(events)
    numeric = minimize(lambda nu: gauss.nll(events, [nu[0], 0.2, nu[1], -0.1]), np.zeros(2))
    assert gauss.profile_nll(events, {"nu2": 0.2, "nu4": -0.1}) == pytest.approx(numeric.fun, rel=1e-9)
    assert gauss.profile_nll(events, {"nu3": best.values["nu3"]}) == pytest.approx(best.nll, rel=1e-12)
    assert best.minos is not None
    for bound in best.minos["nu3"]:
        assert gauss.profile_nll(events, {"nu3": best.values["nu3"] + bound}) - best.nll == pytest.approx(0.5, rel=1e-6)


def test_gaussian_arguments() -> None:
    toy = GaussianNuisances(
        mean=[0.0], response=[[0.1, 0.2]], covariance=[[2.0]], observables=("mass",), nuisances=("jes", "jer")
    )
    assert list(toy.simulate(3, {"jer": 1.0}).columns) == ["mass"]
    assert list(toy.fit(toy.simulate(3)).values) == ["jes", "jer"]
    with pytest.raises(ValueError, match=r"expected shapes .*got \(1,\), \(2, 1\) and \(1, 1\)"):
        GaussianNuisances(mean=[0.0], response=[[0.1], [0.2]], covariance=[[1.0]])
    with pytest.raises(ValueError, match="symmetric and positive definite"):
        GaussianNuisances(mean=[0.0], response=[[0.1]], covariance=[[-1.0]])
    with pytest.raises(ValueError, match="expected 2 different names"):
        GaussianNuisances(mean=[0.0], response=[[0.1, 0.2]], covariance=[[1.0]], nuisances=("jes", "jes"))
    with pytest.raises(ValueError, match="unknown nuisance 'lumi'"):
        toy.profile_nll(toy.simulate(3), {"lumi": 0.0})


ONE_NUISANCE = [Composition, MovingPeak, Slope, Tilt, NoEffect]


@pytest.mark.parametrize("kind", ONE_NUISANCE)
@pytest.mark.parametrize("nu", [0.0, -1.5])
def test_shapes_are_normalised_and_simulated(kind, nu):
    toy, n = kind(), 40_000
    low, high = toy.ranges.get("y", (-14.0, 14.0))
    grid, step = np.linspace(low, high, 8001, retstep=True)
    density = np.exp(toy.log_prob({"y": grid}, nu))
    assert np.trapezoid(density, dx=step) == pytest.approx(1.0, abs=1e-6)
    y = toy.simulate(n, nu, seed=5)["y"].to_numpy()
    cumulative = np.cumsum(density) * step
    uniform = np.interp(y, grid, cumulative)  # less half a step of the density, 2e-4 at most
    for power in (1, 2, 3):
        spread = np.sqrt(1 / (2 * power + 1) - 1 / (power + 1) ** 2)
        assert abs(np.mean(uniform**power) - 1 / (power + 1)) < N_SIGMA * spread / np.sqrt(n) + 1e-3


@pytest.mark.parametrize("kind", ONE_NUISANCE)
def test_shapes_given_a_condition(kind):
    toy, n = kind(conditional=True), 20_000
    events = toy.simulate(n, 0.5, seed=6)
    assert list(events.columns) == ["x", "y1", "y2"]
    # The mean square of the score is the mean curvature: the density is that of the events.
    step = 0.05
    low, middle, high = (toy.log_prob(events, 0.5 + shift) for shift in (-step, 0.0, step))
    score, curvature = (high - low) / (2 * step), (2 * middle - low - high) / step**2
    difference = score**2 - curvature
    assert abs(difference.mean()) < N_SIGMA * difference.std() / np.sqrt(n) + 1e-3
    assert abs(score.mean()) < N_SIGMA * score.std() / np.sqrt(n) + 1e-9


def test_fits_of_one_nuisance():
    toy = NoEffect(information=0.01)
    fit = toy.fit(toy.simulate(10_000, 1.0, seed=7))
    assert fit.errors["nu"] == pytest.approx(1 / np.sqrt(101), rel=1e-3)
    assert abs(fit.values["nu"] - 100 / 101) < N_SIGMA * fit.errors["nu"]
    tilt, events = Tilt(), Tilt().simulate(1000, seed=8)
    np.testing.assert_allclose(tilt.weights(events, 1.0), 1 + 0.3 * np.tanh(events["y"]), rtol=1e-12)


@pytest.mark.parametrize("nu", [-5.0, -3.0, 3.0])
def test_scores_far_from_zero_have_no_mean(nu):
    """Events and densities belong together there too: at -5, where the rate is zero, the slope had no density."""
    for kind in ONE_NUISANCE:
        toy = kind()
        if isinstance(toy, Tilt) and abs(nu) > 3:  # no density: events of another one were drawn, 29 errors off
            with pytest.raises(ValueError, match="is no density beyond 1"):
                toy.simulate(10, nu)
            with pytest.raises(ValueError, match="is no density beyond 1"):
                toy.log_prob({"y": np.zeros(1)}, nu)
            continue
        events = toy.simulate(40_000, nu, seed=9)
        scores = (toy.log_prob(events, nu + 1e-4) - toy.log_prob(events, nu - 1e-4)) / 2e-4
        assert np.isfinite(toy.log_prob(events, nu)).all()
        assert abs(scores.mean()) <= N_SIGMA * scores.std() / np.sqrt(len(scores)) + 1e-9

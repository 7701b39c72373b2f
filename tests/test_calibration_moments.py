"""Interpolation between simulated points, and the algebra of summed scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zfit_fnf.calibration.interpolation import Interpolation
from zfit_fnf.calibration.moments import Moments, cautiously, inverse

POINTS = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]], float)


def test_interpolation_is_exact_for_its_polynomials():
    def function(a, b):
        return 1.0 + 2.0 * a - 0.5 * a**2 + b + 0.3 * b**2 - 0.7 * a * b

    interpolation = Interpolation(("a", "b"), POINTS, {})
    nu = np.array([0.4, -0.7])
    weights = interpolation.weights(nu)
    assert interpolation.pairs == (("a", "b"),)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ function(*POINTS.T) == pytest.approx(function(*nu))
    for j, step in enumerate(1e-6 * np.eye(2)):
        difference = (interpolation.weights(nu + step) - interpolation.weights(nu - step)) / 2e-6
        np.testing.assert_allclose(interpolation.slopes(nu)[:, j], difference, atol=1e-8)
    np.testing.assert_allclose(interpolation.weights([0, 0]), [1, 0, 0, 0, 0, 0], atol=1e-12)


def test_interpolation_has_as_many_powers_as_it_can_know():
    assert Interpolation(("a",), np.array([[0.0], [1.0]]), {}).weights([0.5]) == pytest.approx([0.5, 0.5])
    cubic = Interpolation(("a",), np.array([[0.0], [1.0], [-1.0], [2.0]]), {"a": 3})
    assert cubic.weights([0.5]) @ np.array([0.0, 1.0, -1.0, 8.0]) == pytest.approx(0.125)
    assert cubic.beyond([2.5]) == ["a"]
    assert cubic.beyond([-0.5]) == []
    with pytest.raises(ValueError, match=r"\['b'\] were moved in joint samples only"):
        Interpolation(("a", "b"), np.array([[0, 0], [1, 0], [1, 1]], float), {})


def test_what_a_polynomial_lacks_is_estimated():
    """Of a function whose powers shrink as they did, ``1 / (1 - a / 3)``, and of ``(a + b)^2`` without a joint sample."""
    known = Interpolation(("a",), np.array([[0.0], [1.0], [-1.0]]), {})
    values = 1.0 / (1.0 - known.points[:, 0] / 3.0)
    squares, none = (known.coefficients @ values) ** 2, np.zeros(3)
    missed = 1.0 / (1.0 - 0.6 / 3.0) - known.weights([0.6]) @ values
    assert known.remainders([0.6], squares, none)["a",] == pytest.approx(abs(missed), rel=0.3)
    assert known.remainders([1.0], squares, none)["a",] == pytest.approx(0.0, abs=1e-12)  # where it was simulated
    assert known.remainders([0.6], squares, squares / 2)["a",] == 0.0  # it may be noise
    both = Interpolation(("a", "b"), POINTS[:5], {})
    squares = (both.coefficients @ both.points.sum(axis=1) ** 2) ** 2
    assert both.remainders([0.5, 0.4], squares, np.zeros(5))["a", "b"] == pytest.approx(2 * 0.5 * 0.4)
    joint = Interpolation(("a", "b"), POINTS, {})
    assert ("a", "b") not in joint.remainders([0.5, 0.4], np.ones(6), np.zeros(6))


def moments(*, scatter=None, slope=0.0, sources=None, noise=0.0, unknown=0.0):
    promised = np.array([[4.0, 1.0], [1.0, 2.0]])
    return Moments(
        np.zeros(2),
        promised,
        slope * promised,
        promised if scatter is None else scatter,
        {} if sources is None else sources,
        np.diag([0.0, 1.0]),
        # With two scores, the trace of two covariances that cancel is two.
        {
            ("signal", "nominal"): [
                (0.5 * noise * promised, 0.5 * unknown * promised, promised if scatter is None else scatter)
            ]
        },
    )


def test_right_densities_and_endless_simulation_change_nothing():
    made = moments()
    np.testing.assert_allclose(made.covariance, np.linalg.inv(made.promised + made.constraints))
    assert made.directions.shape == (2, 0)


def test_finite_simulation_and_wrong_information_make_a_sandwich():
    simulated = np.array([[1.0, 0.2], [0.2, 0.5]])
    scatter = np.array([[5.0, 0.0], [0.0, 1.5]])
    made = moments(scatter=scatter, slope=-0.1, sources={("signal", "nominal"): simulated})
    response = 0.9 * made.promised
    events = np.linalg.inv(response) @ (scatter + simulated) @ np.linalg.inv(response).T
    np.testing.assert_allclose(made.covariance, np.linalg.inv(np.linalg.inv(events) + made.constraints))
    parts = made.share(scatter) + made.share(simulated) + made.covariance @ made.constraints @ made.covariance
    np.testing.assert_allclose(parts, made.covariance)
    np.testing.assert_allclose(made.directions @ made.directions.T, simulated, atol=1e-12)
    assert made.left_out == 0
    # Profiling the directions as unit Gaussians gives the same.
    full = np.concatenate([response, made.directions], axis=1)
    hessian = full.T @ np.linalg.inv(scatter) @ full + np.diag([0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(np.linalg.inv(hessian)[:2, :2], made.covariance)


def test_directions_that_do_not_matter_are_counted():
    small = np.diag([1.0, 1e-4])
    made = moments(sources={("signal", "nominal"): small})
    assert made.directions.shape == (2, 1)
    assert made.left_out == 1


@pytest.mark.parametrize("noise", [0.25, 2.0])
def test_information_that_is_noise_is_taken_back(noise):
    """Scores weigh less than what they claim; the estimate moves with the slopes as they are, which makes the sandwich."""
    made = moments(noise=noise)
    kept = max(1.0 - noise, 0.1)
    weights, step = kept * made.promised + made.constraints, np.sqrt(kept) * made.promised + made.constraints
    np.testing.assert_allclose(made.covariance, np.linalg.inv(step) @ weights @ np.linalg.inv(step), rtol=1e-9)
    np.testing.assert_allclose(made.share(made.scatter) + made.of_constraints, made.covariance, rtol=1e-9)
    between = np.linalg.eigvalsh(np.linalg.solve(made.promised, made.information))
    assert (between > kept).all()
    assert (between < 1.0 + 1e-9).all()
    # A likelihood of the scores has that information, and that gradient.
    derivatives, weight = made.sensitivity, np.linalg.inv(made.scatter)
    np.testing.assert_allclose(derivatives.T @ weight @ derivatives, made.information, rtol=1e-9)
    scores, of_constraints = np.array([1.0, -2.0]), np.array([0.0, 0.7])
    gradient = derivatives.T @ weight @ (scores + made.location(scores, of_constraints)) + of_constraints
    np.testing.assert_allclose(gradient, made.gradient(scores, of_constraints), rtol=1e-9)
    expected = np.sqrt(kept) * scores + of_constraints
    np.testing.assert_allclose(made.covariance @ gradient, np.linalg.solve(step, expected), rtol=1e-9)


def test_larger_samples_pretend_less_information():
    made = moments(noise=0.4, sources={("signal", "nominal"): np.zeros((2, 2))})
    np.testing.assert_allclose(made.with_sources([4.0]).covariance, moments(noise=0.1).covariance)


def test_noise_of_slopes_makes_errors_uncertain():
    """Errors of 2000 slopes that scatter by their noise, which is small: known to 2 %, and linear to 5 %."""
    rng, made = np.random.default_rng(1), moments(slope=0.2, noise=1e-3, unknown=1e-3)
    ((factors, _, noise),) = made.slope_noise["signal", "nominal"]
    left, right = np.linalg.cholesky(noise), np.linalg.cholesky(factors)
    changes = [left @ rng.normal(size=(2, 2)) @ right.T for _ in range(2000)]
    errors = [np.sqrt(np.diag(replace(made, slope=made.slope + one).covariance)) for one in changes]
    np.testing.assert_allclose(np.std(errors, axis=0) / np.mean(errors, axis=0), made.doubt(), rtol=0.15)
    larger = replace(made, slope_noise={"larger": [(factors, 4.0 * factors, noise)]})
    np.testing.assert_allclose(larger.doubt(), 2.0 * made.doubt(), rtol=0.02)


def test_a_score_that_is_always_zero_has_no_inverse():
    np.testing.assert_allclose(inverse(np.diag([4.0, 0.0])), np.diag([0.25, 0.0]))


def pulls_of_summed_scores(*, information, ratio, truth, factor=0.0):
    """Calibrated fits of scores of two nuisances, from Gaussian events, with right densities; 400 repetitions.

    ``factor`` is that of the noise that is taken from a coefficient of the closure, as `zfit_fnf.calibrate` does.
    """
    rng, information = np.random.default_rng(1), np.diag(information)
    points = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], float)
    interpolation = Interpolation(("a", "b"), points, {})
    covariance, pulls = information / ratio, []
    for _ in range(400):
        simulated = points @ information + rng.normal(size=points.shape) @ np.sqrt(covariance)
        observed = truth + rng.normal(size=2)
        gradient_at_zero = -(information @ truth + np.sqrt(information) @ rng.normal(size=2))
        closure = simulated - points @ information
        coefficients = interpolation.coefficients @ closure
        noise_of_each = 2.0 / ratio * np.square(interpolation.coefficients).sum(axis=1)
        squares = np.square(coefficients / np.sqrt(np.diag(information))).sum(axis=1)
        kept = np.clip(1.0 - factor * noise_of_each / squares, 0.0, 1.0)
        kept[0], at = 1.0, truth
        for _ in range(12):
            weights = interpolation.weights(at)
            slopes, unknown = (interpolation.slopes(at, part) for part in (kept, np.sqrt(kept)))
            sources = {("p", str(k)): a**2 * covariance for k, a in enumerate(weights)}
            noise = {
                source: [(np.outer(one, one), np.outer(other, other), covariance)]
                for source, one, other in zip(sources, slopes, unknown, strict=True)
            }
            made = Moments(weights @ closure, information, closure.T @ slopes, information, sources, np.eye(2), noise)
            at = at - made.covariance @ made.gradient(gradient_at_zero + information @ at, at - observed)
        pulls.append((at - truth) / np.sqrt(np.diag(made.covariance)))
    return np.array(pulls)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_pulls_of_summed_scores_have_unit_width(ratio):
    """With an information of 100 and 30."""
    pulls = pulls_of_summed_scores(information=[100.0, 30.0], ratio=ratio, truth=np.array([0.5, -0.5]))
    # Conservative where little simulation does not tell how real the information is.
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.25
    assert (np.std(pulls, axis=0) < 1.2).all()
    assert (np.std(pulls, axis=0) > 0.75).all()


def test_errors_that_slopes_make_uncertain_are_not_too_small():
    """Nuisances at zero of which data know little, where noise of the slopes is all in the errors: 1.25 wide without it."""
    pulls = pulls_of_summed_scores(information=[10.0, 3.0], ratio=0.5, truth=np.zeros(2), factor=0.5)
    assert (np.std(pulls, axis=0) < 1.18).all()  # known to 0.04
    assert (np.std(pulls, axis=0) > 0.87).all()


@pytest.mark.parametrize("unknown", [0.1, 50.0])
def test_uncertain_slopes_enlarge_errors_but_leave_a_tenth_of_the_information(unknown):
    made = replace(moments(noise=0.2, unknown=unknown), constraints=np.diag([0.3, 1.0]))
    known = replace(made, slope_noise=moments(noise=0.2).slope_noise)
    parts = np.diag(made.share(made.scatter) + made.of_constraints) + made.of_slopes["signal", "nominal"]
    np.testing.assert_allclose(parts, np.diag(made.covariance), rtol=1e-9)
    assert (np.diag(made.covariance) > np.diag(known.covariance)).all()
    assert (np.linalg.eigvalsh(made.information) > 0.0).all()
    if unknown < 1.0:  # three times the squared uncertainty of the errors
        growth = np.diag(made.covariance) / np.diag(known.covariance)
        np.testing.assert_allclose(growth, 1.0 + 3.0 * replace(known, slope_noise=made.slope_noise).doubt(known) ** 2)
    else:
        least = np.linalg.inv(made.constraints + 0.1 * known.information)
        np.testing.assert_allclose(np.diag(made.covariance), np.diag(least), rtol=0.05)
    # A likelihood of the scores has that information and the same minimum.
    scores, of_constraints = np.array([1.0, -2.0]), np.array([0.0, 0.7])
    weight = np.linalg.inv(made.scatter)
    gradient = made.sensitivity.T @ weight @ (scores + made.location(scores, of_constraints)) + of_constraints
    np.testing.assert_allclose(made.sensitivity.T @ weight @ made.sensitivity, made.information, rtol=1e-9)
    expected = known.covariance @ known.gradient(scores, of_constraints)
    np.testing.assert_allclose(made.covariance @ gradient, expected, rtol=1e-9)


def test_variances_that_large_scores_make_are_not_underestimated():
    """Half of a variance comes from one event in a thousand: 2000 events have two of them on average, often fewer."""
    rng = np.random.default_rng(1)

    def draw(n):
        return rng.normal(size=(n, 2)) * np.stack([np.where(rng.random(n) < 1e-3, 31.6, 1.0), np.ones(n)], axis=1)

    known, shares = draw(200_000), np.full(200_000, 1 / 200_000)
    measured = np.array([np.cov(draw(2000), rowvar=False) for _ in range(100)])
    raised = [cautiously(one, known, shares, 2000) for one in measured]
    believed = np.array([turn @ one @ turn.T for turn, one in zip(raised, measured, strict=True)])
    assert np.median(measured[:, 0, 0]) < 1.9  # of two
    assert measured[:, 0, 0].min() < 1.1
    assert believed[:, 0, 0].min() > 1.7
    # Of a Gaussian 2000 events tell the variance to 3 %.
    assert np.mean(believed[:, 1, 1]) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_less(measured[:, 1, 1] - 0.02, believed[:, 1, 1])


def test_variances_that_are_larger_or_truly_smaller_than_promised_are_those_that_were_measured():
    known, shares = np.random.default_rng(2).normal(size=(100_000, 2)), np.full(100_000, 1e-5)
    for measured in (np.diag([1.5, 2.0]), np.array([[1.6, 0.4], [0.4, 1.3]])):
        np.testing.assert_allclose(cautiously(measured, known, shares, 1000), np.eye(2), atol=1e-9)
    turn = cautiously(np.diag([0.5, 2.0]), known, shares, 100_000)
    assert 0.5 < (turn @ np.diag([0.5, 2.0]) @ turn.T)[0, 0] < 0.52  # two standard deviations of 0.0055

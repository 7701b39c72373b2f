"""Variations that hold the events of the nominal sample: nothing may be learned from their noise."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from zfit_fnf import Sample, Schedule, Variation, load, save
from zfit_fnf.densities.deformation import YieldRatio
from zfit_fnf.densities.polynomial_map import PolynomialMap, Response
from zfit_fnf.train import fit_deformation, fit_flow
from zfit_fnf.train.findings import bent_yields, beyond_the_nominal, joint_yields, same_on_both_sides, without_weights
from zfit_fnf.train.score_correction import vanish_at

N = 4000
SETTINGS = {"schedule": Schedule(steps=200, batch_size=256, rotate_every=0), "hidden": (3,), "progress": False}
RNG = np.random.default_rng(0)
Y, W, ORDER = RNG.normal(size=N), RNG.uniform(0.5, 1.5, N), RNG.permutation(N)
PROBES = {"y": np.linspace(-3.0, 3.0, 7)}
NOMINAL = Sample({"y": Y}, W)
SAME = Sample({"y": Y[ORDER]}, 1.3 * W[ORDER])  # in another order, and with another yield
MOVED = Sample({"y": Y + 0.3}, W)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A flow that has been to a file and back."""
    path = tmp_path_factory.mktemp("flow") / "flow.fnf"
    save(fit_flow(NOMINAL, obs=["y"], n_components=1, **SETTINGS), path)
    return load(path)


def fitted(flow, **events):
    """A deformation by samples at points named like ``jes_up`` and ``jes_up_jer_down``, and what was warned of."""
    side = {"up": 1.0, "down": -1.0}
    points = [(name.split("_"), sample) for name, sample in events.items()]
    variations = [
        Variation(sample, at=dict(zip(words[::2], map(side.__getitem__, words[1::2]), strict=True)))
        for words, sample in points
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deformation = fit_deformation(flow, variations, **SETTINGS)
    return deformation, " ".join(str(warning.message) for warning in caught)


def effect(deformation, flow, **nu):
    return np.abs(deformation.log_prob(PROBES, nu=nu) - flow.log_prob(PROBES)).max()


def test_both_sides(flow):
    deformation, told = fitted(flow, jes_up=SAME, jes_down=NOMINAL)
    for value in (-1.0, 0.3, 1.0, 4.0):
        assert effect(deformation, flow, jes=value) == 0.0
    change = deformation.yields["jes"]
    assert (change.up, change.down) == (pytest.approx(1.3), pytest.approx(1.0))
    assert "'jes=+1', 'jes=-1' hold the same events as the nominal one" in told
    assert "jes: not trained" in str(deformation.history["jes"])


def test_one_side_only(flow):
    deformation, _ = fitted(flow, jes_up=SAME)
    assert effect(deformation, flow, jes=1.0) == effect(deformation, flow, jes=-2.0) == 0.0


def test_one_of_two_sides(flow):
    """Exactly nothing at the side that is nominal, and the whole effect on the other one."""
    deformation, told = fitted(flow, jes_up=MOVED, jes_down=SAME)
    assert effect(deformation, flow, jes=-1.0) < 1e-12
    moved = flow.log_prob({"y": PROBES["y"] - 0.3})
    # A shift by 0.3 +- 0.02, the error of the shift of 4000 events, changes the log-density by up to 3 * 0.02.
    np.testing.assert_allclose(deformation.log_prob(PROBES, nu={"jes": 1.0}), moved, atol=0.1)
    assert "'jes=-1' hold the same events as the nominal one" in told
    assert "jes=+1" not in told


def test_joint_samples_without_a_further_effect(flow):
    deformation, _ = fitted(
        flow, jes_up=MOVED, jer_up=SAME, jer_down=NOMINAL, jes_up_jer_up=MOVED, jes_up_jer_down=MOVED
    )
    assert deformation.interactions == (("jer", "jes"),)
    alone = deformation.log_prob(PROBES, nu={"jes": 0.8})
    np.testing.assert_array_equal(deformation.log_prob(PROBES, nu={"jes": 0.8, "jer": -0.7}), alone)


def test_samples_that_are_those_of_another_point(flow):
    deformation, told = fitted(flow, jes_up=MOVED, jes_down=Sample({"y": Y[ORDER] + 0.3}, W[ORDER]))
    assert "'jes=+1' and 'jes=-1' hold the same events" in told
    up, down = (deformation.log_prob(PROBES, nu={"jes": value}) for value in (1.0, -1.0))
    np.testing.assert_allclose(up, down, atol=0.1)  # quadratic; each side is placed by itself


def test_independent_samples_are_trained_on(flow):
    other = Sample({"y": np.random.default_rng(7).normal(size=N)})
    deformation, told = fitted(flow, jes_up=other, jes_down=MOVED)
    assert effect(deformation, flow, jes=1.0) > 1e-4
    assert "same events" not in told


@pytest.mark.parametrize(
    ("up", "ratio"), [(Sample({"y": Y + 0.1}, W / 100.0), "0.01"), (Sample({"y": Y[:999]}), "0.25")]
)
def test_yields_that_cannot_be_meant_are_told(flow, up, ratio):
    _, told = fitted(flow, jes_up=up)
    assert f"the yield changes by {ratio} with 'jes' up" in told


def test_no_line_vanishes_at_one_point_only(flow):
    variations = [Variation(MOVED, at={"jes": 1}), Variation(NOMINAL, at={"jes": -1})]
    with pytest.raises(ValueError, match="Choose a higher order"):
        fit_deformation(flow, variations, order=1, **SETTINGS)


@pytest.mark.parametrize(
    ("names", "powers", "points"),
    [
        ("a", ((1,), (2,), (3,)), [{"a": 1.0}, {"a": -1.0}]),
        ("a", ((1,), (2,)), [{"a": -0.5}]),
        ("ab", ((1, 1), (1, 2), (2, 1), (2, 2)), [{"a": 1.0, "b": -1.0}, {"a": 1.0, "b": 1.0}]),
    ],
)
def test_polynomials_that_vanish(names, powers, points):
    response = Response(list(names), powers, n_dim=1, n_context=0)
    transform = PolynomialMap([response], windows=dict.fromkeys(names, (-1.0, 1.0)))
    assert vanish_at(response, points)
    for point in points:
        np.testing.assert_allclose(
            transform.basis(tf.constant([point[name] for name in names], tf.float64)), 0.0, atol=1e-15
        )
    elsewhere = transform.basis(tf.constant([0.4] * len(names), tf.float64))
    assert np.abs(elsewhere).max() > 0.01


def alike(up, down):
    """What is said of samples at +1 and -1, as many events as the nominal ones."""
    sources = [
        SimpleNamespace(at={"jes": nu}, sample=Sample({"y": y}, name=f"jes={nu:+g}"))
        for nu, y in ((1.0, up), (-1.0, down))
    ]
    return " ".join(same_on_both_sides(Sample({"y": Y}), sources, ["y"]))


def test_sides_with_the_same_effect_are_told():
    first, second = np.random.default_rng(1).normal(size=(2, N))
    assert "'jes=+1' and 'jes=-1' differ from the nominal one in the same direction" in alike(first + 0.3, second + 0.3)
    assert "same direction" in alike(1.3 * first, 1.3 * second)
    # Effects of their own sign, on one side only, and none: 3 sigma of 4000 events are 0.05.
    for up, down in ((0.3, -0.3), (0.3, 0.1), (0.3, 0.0), (0.0, 0.0)):
        assert not alike(first + up, second + down)


def at_point(at, n, weights=None):
    name = ", ".join(f"{nuisance}={value:+g}" for nuisance, value in at.items())
    return SimpleNamespace(at=at, sample=Sample({"y": np.arange(float(n))}, weights, name))


def test_yields_of_joint_samples_that_no_product_of_modifiers_has_are_told():
    """1.1 times 1.1 is 1.21, not 1.6: a model that multiplies both expects a quarter less. Five errors of the samples are 4 %."""
    nominal, singles = at_point({}, N).sample, [at_point({name: 1.0}, 1.1 * N) for name in "ab"]
    (said,) = joint_yields(nominal, [*singles, at_point({"a": 1.0, "b": 1.0}, 1.6 * N)])
    assert "change the yield together by 1.6 at 'a=+1, b=+1', where one by one they change it by 1.21" in said
    assert not joint_yields(nominal, [*singles, at_point({"a": 1.0, "b": 1.0}, 1.24 * N)])
    assert not joint_yields(nominal, [*singles, at_point({"a": 1.0, "b": -1.0}, 1.6 * N)])  # not by a sample of b alone


def test_variations_without_weights_of_a_nominal_sample_with_weights_are_told():
    weighted = at_point({}, N, np.full(N, 0.9)).sample
    with_weights, without = at_point({"a": 1.0}, N, np.full(N, 0.9)), at_point({"b": 1.0}, N)
    (said,) = without_weights(weighted, [with_weights, without])
    assert "the nominal events have weights, and each event of 'b=+1' counts as one" in said
    assert not without_weights(weighted, [with_weights])
    for unweighted in (at_point({}, N).sample, at_point({}, N, np.ones(N)).sample):
        assert not without_weights(unweighted, [with_weights, without])


@pytest.mark.filterwarnings("ignore:.*(still improving|never better|does not respond)")
def test_a_training_says_what_is_odd_about_yields():
    rng = np.random.default_rng(1)
    weighted = Sample({"y": rng.normal(size=N)}, np.full(N, 0.9))
    points = [{"a": 1.0}, {"b": 1.0}, {"a": 1.0, "b": 1.0}]
    variations = [
        Variation({"y": rng.normal(size=int(n))}, at=at) for n, at in zip((N, N, 1.5 * N), points, strict=True)
    ]
    short = {"schedule": Schedule(steps=10, batch_size=128), "progress": False}
    flow = fit_flow(weighted, obs=["y"], **short)
    with pytest.warns(UserWarning, match=r"'a=\+1', 'b=\+1', 'a=\+1, b=\+1' counts as one.*together by 1\.667"):
        fit_deformation(flow, variations, **short)


def test_a_cut_of_the_nominal_events_alone_is_told():
    """A third less of them, which the summed weights alone do not give away; nor does a sharp end that a shift moves."""
    rng = np.random.default_rng(1)
    kinds = {"cut": rng.normal(size=N), "sharp": rng.uniform(size=N)}
    nominal = {"cut": kinds["cut"][kinds["cut"] > -0.4], "sharp": kinds["sharp"]}
    for name, moved in kinds.items():
        sources = [SimpleNamespace(at={"a": side}, sample=Sample({"y": moved + 0.3 * side})) for side in (1.0, -1.0)]
        said = beyond_the_nominal(Sample({"y": nominal[name]}), sources, ["y"])
        assert [("'y' below -0.3" in one and "was a cut made" in one) for one in said] == [True] * (name == "cut")


@pytest.mark.parametrize(("at_two", "told"), [(1.21, False), (1.23, False), (1.5, True), (0.8, True)])
def test_yields_that_are_not_exponential_are_told(at_two, told):
    """A factor of 1.1 at one standard deviation is 1.21 at two, and no modifier of the yield knows of another sample."""
    sources = [at_point({"a": 1.0}, 1.1 * N), at_point({"a": 2.0}, at_two * N), at_point({"a": -1.0}, 0.9 * N)]
    said = bent_yields(at_point({"b": 1.0}, N).sample, sources, {"a": YieldRatio(up=1.1, down=0.9)})
    assert [f"by {at_two:g} at 'a=+2'" in one and "have 1.21" in one for one in said] == [True] * told

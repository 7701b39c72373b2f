"""What log-ratios and maps may be off by between the samples that they were learned from."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import zfit_fnf as zfnf
from zfit_fnf import Sample, Simulation, Variation
from zfit_fnf.densities.claims import Claim, ResponseTable
from zfit_fnf.densities.history import History
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.diagnostics import verdict
from zfit_fnf.train.between import off_between, off_between_of_map, off_between_samples
from zfit_fnf.train.sources import EventSource

SIDES = [{"nu": 1.0}, {"nu": -1.0}]
CORNERS = [{"a": a, "b": b} for a, b in itertools.product((1.0, -1.0), repeat=2)]
OF_CORNERS = ((1, 1), (1, 2), (2, 1), (2, 2))
LEVELS = np.random.default_rng(1).normal(0.0, 0.3, 10_000)  # of events, whose log-ratios are functions of the nuisances


def peak(nu):
    """Logarithm of a normal peak of width one half that moves by 0.4 over a background of width two, at events."""
    y = np.linspace(-6.0, 6.0, 2001)
    density = 0.5 * np.exp(-2.0 * (y - 0.4 * nu) ** 2) / 0.5 + 0.5 * np.exp(-(y**2) / 8.0) / 2.0
    return np.log(density), density / density.sum()


def spread(values, weights):
    return np.sqrt(weights @ np.square(values - weights @ values))


def test_the_series_of_a_peak_that_moves_goes_on_as_it_began():
    (up, _), (down, _), (middle, weights) = peak(1.0), peak(-1.0), peak(0.0)
    linear, quadratic = 0.5 * (up - down), 0.5 * (up + down) - middle
    spreads = np.array([spread(linear, weights), spread(quadratic, weights)])
    off, where = off_between(["nu"], ((1,), (2,)), spreads, SIDES)
    wrong = peak(0.5)[0] - middle - 0.5 * linear - 0.25 * quadratic
    # An estimate of the size: what is found is 1.2 times as much.
    assert np.sqrt(2.0 * off) == pytest.approx(spread(wrong, peak(0.5)[1]), rel=0.3)
    assert where == {"nu": 0.5}


@pytest.mark.parametrize(
    ("spreads", "expected"),
    [
        ([0.3, 0.15], 0.5 * (0.375 * 0.15 * 0.5) ** 2),  # nu^3 - nu at one half
        ([0.0, 0.15], 0.5 * (0.375 * 0.15) ** 2),  # no larger than the last one
        ([0.3, 0.0], 0.0),
    ],
)
def test_the_next_coefficient(spreads, expected):
    assert off_between(["nu"], ((1,), (2,)), np.array(spreads), SIDES)[0] == pytest.approx(expected)


def test_units_of_a_nuisance_do_not_matter():
    far = [{"nu": 2.0}, {"nu": -2.0}]
    once = off_between(["nu"], ((1,), (2,)), np.array([0.3, 0.15]), SIDES)[0]
    off, where = off_between(["nu"], ((1,), (2,)), np.array([0.3 / 2, 0.15 / 4]), far)
    assert off == pytest.approx(once)
    assert where == {"nu": 1.0}


def test_interactions_are_off_where_one_nuisance_is_at_a_sample_and_the_other_is_not():
    spreads = np.array([0.1, 0.05, 0.09, 0.02])
    off, where = off_between(["a", "b"], OF_CORNERS, spreads, CORNERS)
    # a^3 b and a^3 b^2, which the corners take for a b and a b^2; those in b vanish there.
    assert off == pytest.approx(0.5 * 0.375**2 * ((0.09**2 / 0.1) ** 2 + (0.02**2 / 0.05) ** 2))
    assert where == {"a": 0.5, "b": 1.0}
    assert off_between(["a", "b"], OF_CORNERS, np.zeros(4), CORNERS) == (0.0, {})


def test_samples_between_say_what_is_there():
    between = [*SIDES, {"nu": 0.5}, {"nu": -0.5}]
    two = off_between(["nu"], ((1,), (2,)), np.array([0.3, 0.15]), SIDES)[0]
    three = off_between(["nu"], ((1,), (2,), (3,)), np.array([0.3, 0.15, 0.075]), between)[0]
    assert three < 0.1 * two


def test_one_point_alone_says_nothing_of_a_series():
    assert off_between(["nu"], ((1,),), np.array([0.3]), SIDES[:1]) == (0.0, {})


def learned(*halves):
    """A log-ratio of which both halves have learned coefficients of 10k events, beside the linear one."""
    values = itertools.cycle([np.stack([LEVELS, each], axis=1) for each in halves])
    contrast = SimpleNamespace(
        samples=[SimpleNamespace(bounded=np.zeros((10_000, 1)), weights=np.ones(10_000))],
        values=lambda *_: next(values),
        of_conditions=lambda bounded: np.ones((len(bounded), 1)),
    )
    return SimpleNamespace(contrast=contrast, halves=(np.eye(2), np.eye(2)))


CANDIDATES = SimpleNamespace(
    combinations=np.eye(2),
    nuisances=("nu",),
    powers=((1,), (2,)),
    sources=[SimpleNamespace(at=at) for at in SIDES],
    idle=[],
)


def test_noise_that_the_halves_do_not_share_does_not_count():
    rng = np.random.default_rng(2)
    noise, _ = off_between_samples(CANDIDATES, learned(*(rng.normal(0.0, 0.1, 10_000) for _ in range(2))))
    effect, _ = off_between_samples(CANDIDATES, learned(0.5 * LEVELS))
    # 0.375 times half of a half of 0.3; of noise the mean product is 1e-4, which is 0.01 at most, and its square over 0.3.
    assert effect == pytest.approx(0.5 * (0.375 * 0.075) ** 2, rel=0.1)
    assert noise < 0.01 * effect


def test_a_map_that_was_made_straighter_hides_a_part_only():
    before, straight = learned(0.5 * LEVELS), learned(0.0 * LEVELS)
    alone, _ = off_between_samples(CANDIDATES, before)
    off, where = off_between_samples(CANDIDATES, straight, before)
    assert off == pytest.approx(alone / 9.0)
    assert where == {"nu": 0.5}
    assert off_between_samples(CANDIDATES, before, straight)[0] == alone


def shifts(linear, quadratic, n=4000):
    """A normal density that a map shifts, with samples at two standard deviations, half of them held out."""
    flow = zfnf.interop.callable.wrap(
        lambda y, x: -0.5 * tf.reduce_sum(y**2, axis=1) - 0.5 * np.log(2 * np.pi),
        lambda x, seed: tf.random.stateless_normal((tf.shape(x)[0], 1), seed, dtype=tf.float64),
        obs=["y"],
    )
    response = Response(["nu"], ((1,), (2,)), n_dim=1, n_context=0)
    response.networks[0].biases[-1].assign([0.0, -linear, 0.0, -quadratic])  # of log-scale and shift
    density = zfnf.Deformation(flow, [response], windows={"nu": (-2.0, 2.0)})
    rng = np.random.default_rng(4)
    nominal, *sources = (
        EventSource.make(flow, Sample({"y": rng.normal(linear * nu + quadratic * nu**2, 1.0, n)}), None, at=at, name="")
        for nu, at in ((0.0, {}), (2.0, {"nu": 2.0}), (-2.0, {"nu": -2.0}))
    )
    held_out = [np.arange(n // 2)] * 3
    return SimpleNamespace(with_map=density, nominal=nominal, sources=sources, held_out=held_out, idle=[]), response


def test_a_map_goes_on_as_its_series_began():
    """A normal distribution of width one that moves by t has the log-density t y, of which the spread is t."""
    candidates, response = shifts(0.4, 0.1)
    off, where = off_between_of_map(candidates, response)
    # The next coefficient is 0.1 * 0.1 / 0.4, and at one standard deviation nu^3 - 4 nu is -3; spreads of 4000 events: 1.1 %.
    assert np.sqrt(2.0 * off) == pytest.approx(3.0 * 0.025, rel=0.05)
    assert where == {"nu": 1.0}


@pytest.mark.parametrize(("linear", "quadratic"), [(0.4, 0.0), (0.05, 0.004)])
def test_a_map_that_does_not_bend_is_told_nothing_of(linear, quadratic):
    """Nor is one that held-out events do not see to bend: 0.016 at two standard deviations, and 4000 of them know 0.016."""
    assert off_between_of_map(*shifts(linear, quadratic)) == (0.0, {})


OFF = Claim("both", 0.02, 0.02, 0.0, between=1e-4, between_at={"a": 0.5, "b": 1.0})


def test_what_is_not_known_is_told():
    (problem,) = History("a x b", claim=OFF).problems
    assert "at a=+0.5, b=+1, a fit to 10000 events may be off by up to 1.4 of its errors. Add samples there" in problem
    (single,) = History("a", claim=Claim("ratio", 0.02, 0.02, 0.0, between=1e-4, between_at={"a": 0.5})).problems
    assert "at the other sign, with order=3" in single
    assert "what its log-ratio is between" in single
    (of_map,) = History("a", claim=Claim("map", 0.02, 0.02, 0.0, between=1e-4, between_at={"a": 0.5})).problems
    assert "what its map is between" in of_map
    assert History("a", claim=Claim("ratio", 0.02, 0.02, 0.0, between=1e-5, between_at={"a": 0.5})).problems == []
    table = ResponseTable(40_000, {"a x b": OFF, "other": None})
    assert table.to_dataframe().loc["a x b", "off between"] == pytest.approx(np.sqrt(8.0))
    assert "2.828" in str(table)


@pytest.mark.parametrize(
    ("tested", "n_data", "told"), [(False, 10_000, True), (True, 10_000, False), (False, 100, False)]
)
def test_verdicts_say_what_is_not_tested_between_the_samples(tested, n_data, told):
    events = {"y": np.random.default_rng(3).normal(size=200)}
    subject = SimpleNamespace(
        nuisances=("a", "b"),
        title="p(y)",
        columns=["y"],
        flow=SimpleNamespace(events=None, history=None, obs=("y",), cond=()),
        density=SimpleNamespace(history={"a": History("a"), "a x b": History("a x b", claim=OFF)}),
        learned_from=lambda nu: np.inf,
    )
    at = [*({name: 1.0} for name in ("a", "b")), {"a": 1.0, "b": 1.0}]
    points = [*at, {"b": 1.0, "a": 0.5}] if tested else at
    found = list(verdict._check(subject, Simulation(events, [Variation(events, at=one) for one in points]), n_data))
    assert any("a x b at a=+0.5, b=+1" in one and "add a sample there" in one for one in found) is told
    assert len(found) == told

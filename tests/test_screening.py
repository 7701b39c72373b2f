"""What no density describes is refused before training, and what one does describe is not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from zfit_fnf import Flow, Sample, Schedule, Variation
from zfit_fnf.samples.pairing import warn_of_copies
from zfit_fnf.samples.screening import bulk, check_conditions, check_continuous, check_independent
from zfit_fnf.train import fit_deformation, fit_flow
from zfit_fnf.train.sources import EventSource

N = 20_000
SHORT = Schedule(steps=400, batch_size=1024)


def normal(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


# --- rows that repeat -------------------------------------------------------------------------------------------------


def columns_without_copies() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(8)
    return {
        "continuous": {"y": normal(1)},
        "single precision": {"y": normal(1, 300_000).astype(np.float32)},
        "half precision": {"y": normal(1, 200_000).astype(np.float16)},
        "rounded": {"y": rng.exponential(30.0, N).round(2)},
        "rounded finely": {"y": normal(2).round(4)},
        "rounded, by category": {"y": normal(2).round(2), "c": rng.integers(0, 3, N)},
        "one copy in twenty": {"y": np.append(normal(3), normal(3)[:1000])},
    }


@pytest.mark.parametrize("case", columns_without_copies())
def test_rows_that_are_equal_by_chance_are_no_copies(case: str) -> None:
    columns = columns_without_copies()[case]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_copies(Sample(columns), list(columns))
    assert told == []


@pytest.mark.parametrize(("distinct", "share"), [(4000, "80%"), (N, "37%")])
@pytest.mark.parametrize("size", [N, 200_000])
def test_rows_drawn_with_replacement_are_told(distinct: int, share: str, size: int) -> None:
    """In several copies each: of n rows drawn of n, 1 / e are copies."""
    rows = np.random.default_rng(9).integers(0, distinct * size // N, size)
    columns = {"y": normal(1, size)[rows], "c": (np.arange(size) % 3)[rows]}
    with pytest.warns(UserWarning, match=f"{share} of the {size} rows of 'ttbar' are copies .* Keep each row once"):
        warn_of_copies(Sample(columns, name="ttbar"), ["y", "c"])


def test_trainings_tell_of_copies() -> None:
    twice = pd.DataFrame({"y": np.repeat(normal(1, 500), 2)})
    with pytest.warns(UserWarning, match="50% of the 1000 rows of 'data' are copies"):
        EventSource.make(Flow(["y"]), twice, None)


# --- values that repeat ------------------------------------------------------------------------------------------------


def point_masses() -> dict[str, tuple[np.ndarray, str]]:
    rng = np.random.default_rng(2)
    spike, default, edge = rng.normal(size=2000), rng.normal(size=N), rng.uniform(size=N)
    spike[:30], default[:100], edge[:40] = 5.0, -999.0, 1.0
    pile_up = np.maximum(rng.normal(2.0, size=N), 0.0)
    rounded = rng.normal(size=N).round(2)
    rounded[:1000] = 0.0
    return {
        "multiplicity": (rng.poisson(3, 5000), r"takes only \d+ integer values \(0 to"),
        "multiplicity as float": (rng.poisson(3, 40).astype(float), "takes only"),
        "overflow spike": (spike, r"is exactly 5 in 1\.5 % of the events"),
        "default": (default, r"is exactly -999 in 0\.5 % of the events"),
        "default as float32": (default.astype(np.float32), r"is exactly -999 in 0\.5 %"),
        "pile-up at zero": (pile_up, r"is exactly 0 in 2\.\d % of the events"),
        "at an edge": (edge, r"is exactly 1 in 0\.2 % of the events"),
        "within a rounded column": (rounded, r"is exactly 0 in 5\.\d %"),
        "half integers": (rng.integers(0, 20, 5000) / 2, "is exactly"),
        "constant": (np.full(10, 91.1876), r"is 91\.1876 in every event"),
        "multiplicity of a large sample": (rng.poisson(3, 300_000), "takes only"),
    }


@pytest.mark.parametrize("case", point_masses())
def test_point_masses_are_refused(case: str) -> None:
    values, message = point_masses()[case]
    with pytest.raises(ValueError, match=f"observable 'y' of 'ttbar' {message}.*cond=.*channels.*cut"):
        check_continuous(Sample({"y": values}, name="ttbar"), ["y"])


def test_continuous_columns_pass() -> None:
    rng = np.random.default_rng(3)
    spike, peak = rng.normal(size=2000), rng.normal(91.2, 1.0, N).round(1)
    spike[:9] = 5.0
    columns = {
        "gauss": rng.normal(size=2000),
        "rounded": rng.normal(size=2000).round(2),  # at most 0.4 % expected in one value
        "float32": rng.normal(size=2000).astype(np.float32),
        "many integers": rng.integers(0, 100_000, 2000),
        "small spike": spike,
        "discrete condition": rng.poisson(3, 2000),
        "replicated": np.repeat(rng.normal(size=100), 20),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_continuous(Sample(columns), [name for name in columns if name != "discrete condition"])
        check_continuous(Sample({"y": np.array([1.0, 2.0, 3.0])}), ["y"])
        bootstrap = rng.choice(rng.normal(size=N), N)  # at most 10 of one event in 10^4 such samples
        check_continuous(Sample({"y": bootstrap}), ["y"])
    assert len(np.unique(peak)) < 100


def test_whole_numbers_are_told() -> None:
    counts = np.random.default_rng(4).poisson(2000, N)
    with pytest.warns(UserWarning, match="'adc' of 'sample' has whole numbers only.*between -0.5 and 0.5") as caught:
        check_continuous(Sample({"adc": counts}), ["adc"])
    assert caught[0].filename == __file__


def test_defaults_among_conditions_are_refused() -> None:
    rng = np.random.default_rng(5)
    for share in (0.002, 0.3):
        values = np.where(rng.uniform(size=N) < share, -999.0, rng.normal(50.0, 10.0, N))
        message = (
            r"'pt2' of 'data' is exactly -999 in .* %.*far from the others \((50|49.9|50.1) \+- .*column of 0 and 1"
        )
        with pytest.raises(ValueError, match=message):
            fit_flow({"y": rng.normal(size=N), "pt2": values}, obs=["y"], cond=["pt2"], progress=False)


def test_discrete_conditions_pass() -> None:
    rng = np.random.default_rng(6)
    columns = {
        "charge": rng.choice([-1, 1], N),
        "jets": rng.poisson(3, N),
        "rare flag": np.arange(N) % 200 == 0,
        "often zero": np.where(rng.uniform(size=N) < 0.97, 0.0, rng.exponential(size=N)),
        "regions": rng.choice([0.5, 1.5, 2.5], N),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_conditions(Sample(columns), list(columns))
        flow = Flow(["y"], list(columns))
        flow.standardise(Sample(columns | {"y": normal(1)}))
    encoded = flow.encode_conditions(np.stack(list(columns.values()), axis=1).astype(float)).numpy()
    # Inputs of a network are of the size of one. The exponential of 3 % of the events ends at ln 600, six widths or so.
    assert np.abs(encoded).max() < 10.0
    assert encoded.std(axis=0).min() > 0.05
    with pytest.warns(
        UserWarning, match=r"'jets' of 'sample' is exactly -999 in 0.99 % of the events, far from its other values"
    ):
        check_conditions(Sample({"jets": np.append(columns["jets"], np.full(200, -999))}), ["jets"])


def test_defaults_in_variations_are_refused() -> None:
    flow = Flow(["y"])
    up = np.append(normal(1), np.full(100, -999.0))
    with pytest.raises(ValueError, match=r"'y' of 'jes=.1' is exactly -999"):
        fit_deformation(flow, [Variation({"y": up}, at={"jes": 1})], progress=False)


# --- where the bulk is -------------------------------------------------------------------------------------------------


def test_bulk_of_a_gaussian_is_its_mean_and_standard_deviation() -> None:
    values = normal(1)
    # Clipped at five standard deviations, where 20 000 events have none.
    np.testing.assert_allclose(bulk(values), (values.mean(), values.std()), rtol=1e-12)


@pytest.mark.parametrize(
    "outliers", [[1e2], [1e4], [1e100], [-1e8, 1e9], [-999.0] * 100, [1e6] * 200], ids=lambda o: f"{len(o)} at {o[0]:g}"
)
def test_outliers_do_not_set_the_scale(outliers: list[float]) -> None:
    mean, width = bulk(np.append(normal(1), outliers))
    # One per cent of the events at five widths shifts the mean by 0.05 and adds 0.25 to the variance.
    assert abs(mean) < 0.08
    assert 0.98 < width < 1.15


def test_bulk_with_negative_weights_is_that_of_the_density() -> None:
    """Signal plus background minus background; one event at 1e6."""
    rng = np.random.default_rng(7)
    background = rng.normal(8.0, 1.0, 2 * 5000)
    values = np.concatenate([rng.normal(3.0, 2.0, 50_000), background, [1e6]])
    weights = np.concatenate([np.ones(50_000), np.repeat([1.0, -1.0], 5000), [1.0]])
    # The background's noise: a variance of 2 * 5000 / 50 000^2 per unit of (8 - 3)^2, 0.01 in the mean: five sigma.
    np.testing.assert_allclose(bulk(values, weights), (3.0, 2.0), atol=0.06)
    narrow = bulk(np.concatenate([normal(1), normal(2) + 100.0]), np.repeat([1.0, 1e-6], N))
    np.testing.assert_allclose(narrow, (0.0, 1.0), atol=0.05)  # weights, not events, say where the bulk is


def test_bulk_of_heavy_tails_is_finite_and_theirs() -> None:
    rng = np.random.default_rng(8)
    # A Cauchy's central 95.45 % reach to tan(0.9545 pi / 2) = 14: clipped at +-35, a variance of 2 * 35 / pi - 1 + 0.06.
    mean, width = bulk(rng.standard_cauchy(200_000))
    assert abs(mean) < 0.1
    assert width == pytest.approx(
        np.sqrt((35 - np.arctan(35.0)) * 2 / np.pi + 35**2 * 2 * np.arctan(1 / 35) / np.pi), rel=0.02
    )


@pytest.mark.filterwarnings("ignore:.*still improving:UserWarning")
@pytest.mark.parametrize("role", ["observable", "first of two", "condition"])
def test_one_outlier_does_not_spoil_a_training_and_is_told(role: str) -> None:
    c, noise = normal(1), normal(2)
    test = {"c": normal(3), "y": normal(3) + normal(4)}
    truth = -0.5 * normal(4) ** 2 - 0.5 * np.log(2 * np.pi)
    sample = {"c": np.append(c, 1e4), "y": np.append(c + noise, 0.3)}
    obs, cond = {"observable": (["c"], []), "first of two": (["c", "y"], []), "condition": (["y"], ["c"])}[role]
    with pytest.warns(UserWarning, match=r"1 of 20001 events of 'data' .* in 'c' \(row 20000: 10000;") as caught:
        flow = fit_flow(sample, obs=obs, cond=cond, schedule=SHORT, progress=False)
    assert caught[0].filename == __file__
    log_c = -0.5 * test["c"] ** 2 - 0.5 * np.log(2 * np.pi)
    exact = {"observable": log_c, "first of two": log_c + truth, "condition": truth}[role]
    gap = np.mean(exact - flow.log_prob(test))
    assert gap < 0.02  # a few 1e-3 after 400 steps; 2.8 where the outlier sets the scale


def test_a_variation_with_an_outlier_is_told() -> None:
    up = {"y": np.append(normal(1), -1e5)}
    schedule = Schedule(steps=10, batch_size=128, rotate_every=0)
    with pytest.warns(UserWarning, match="1 of 20001 events of 'jes=.1' .* in 'y'"):
        fit_deformation(Flow(["y"]), [Variation(up, at={"jes": 1})], schedule=schedule, progress=False)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (1e12 + np.linspace(0.0, 1e-1, 2000), "too narrow for float64"),
        (np.linspace(1e-305, 2e-305, 2000), "too narrow for float64"),
        (np.full(2000, 3.0), "is constant"),
    ],
)
def test_scales_that_cannot_be_computed_with(column: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Flow(["a"]).standardise(Sample({"a": column}))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0.0, 1e-310), ValueError, "not one to compute with"),
        ((-1e308, 1e308), ValueError, "not one to compute with"),
        ((1e16, 1e16 + 2), ValueError, "not one to compute with"),
        ((1.0, 1.0), ValueError, "low < high"),
        ((0.0, np.nan), ValueError, "low < high"),
        ("01", TypeError, r"a pair of numbers \(low, high\), got '01'"),
        (("0", "1"), TypeError, "a pair of numbers"),
        ((0, 1, 2), TypeError, "a pair of numbers"),
        (1.0, TypeError, "a pair of numbers"),
        (None, TypeError, "a pair of numbers"),
    ],
)
def test_ranges_that_cannot_be_computed_with(given: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Flow(["a"], ranges={"a": given})  # type: ignore[dict-item]


# --- columns that determine one another --------------------------------------------------------------------------------


def relations() -> dict[str, tuple[dict[str, np.ndarray], set[str]]]:
    a, b, c = normal(1), np.random.default_rng(2).exponential(size=N), normal(3)
    return {
        "a copy": ({"a": a, "b": a}, {"a", "b"}),
        "linear": ({"a": a, "b": 2 * a + 1}, {"a", "b"}),
        "a copy in float32": ({"a": a, "b": a.astype(np.float32)}, {"a", "b"}),
        "a copy with noise": ({"a": a, "b": a + 1e-4 * c}, {"a", "b"}),
        "a copy with outliers": ({"a": np.append(a, 1e5), "b": np.append(a, -2e7)}, {"a", "b"}),
        "in most events": ({"a": a, "b": np.where(np.arange(N) % 4, a, c)}, {"a", "b"}),
        "logarithm": ({"a": a, "b": b, "c": np.log(b)}, {"b", "c"}),
        "square": ({"a": a, "b": b, "c": a**2}, {"a", "c"}),
        "sum": ({"a": a, "b": b, "c": c, "d": a - 0.3 * b + 1e-4 * normal(9)}, {"a", "b", "d"}),
        "energy and momentum": ({"a": np.abs(a), "b": b, "c": c, "d": np.hypot(a, b)}, {"a", "b", "d"}),
        "circle": ({"a": np.cos(a), "b": np.sin(a), "c": c}, {"a", "b"}),
        "product": ({"a": a, "b": b, "c": c, "d": a * c + 3}, {"a", "c", "d"}),
    }


@pytest.mark.parametrize("case", relations())
@pytest.mark.parametrize("n_conditions", [0, 1])
def test_columns_that_determine_one_another_are_refused(case: str, n_conditions: int) -> None:
    columns, related = relations()[case]
    names = list(columns)
    for order in (names, names[::-1]):
        cond = order[:n_conditions]
        with pytest.raises(
            ValueError, match=r"of 'sample' determine one another, .*: together they have no density"
        ) as caught:
            check_independent(Sample(columns), order[n_conditions:], cond)
        assert set(str(caught.value).split("'")[1::2]) - {"sample"} == related


def test_related_observables_are_refused_before_training() -> None:
    a = normal(1)
    with pytest.raises(ValueError, match="columns 'a', 'b' of 'data' determine one another"):
        fit_flow(pd.DataFrame({"a": a, "b": 2 * a + 1}), obs=["a", "b"], progress=False)


def test_correlated_columns_pass() -> None:
    a, b, c = normal(1), normal(2), normal(3)
    file_order = np.sort(normal(4))
    columns = {
        "a": a,
        "correlated to 0.999": a + 0.0447 * b,
        "sum with a little noise": a + normal(5) + 0.01 * c,
        "sorted": file_order,
        "two narrow peaks": 0.01 * normal(6) + 100.0 * (np.arange(N) % 2),
    }
    conditions = {"charge": np.sign(file_order), "flag": file_order > 1, "other": c, "same": c, "sum": c + 1}
    check_independent(Sample(columns | conditions), list(columns), list(conditions))
    one_hot = {f"is {k}": np.arange(N) % 3 == k for k in range(3)}  # conditions may determine one another
    check_independent(Sample({"a": a, **one_hot}), ["a"], list(one_hot))
    replicas = {"a": np.repeat(a[:2000], 10), "b": np.repeat(b[:2000], 10)}  # the same events again and again
    check_independent(Sample(replicas), ["a", "b"])
    few = {"a": a[:30], "b": a[:30] + 0.1 * b[:30], "c": c[:30]}
    check_independent(Sample(few), list(few))

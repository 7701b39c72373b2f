"""Densities and importers of one's own, outside of the package: each is one file, here this one, and like any other."""

from __future__ import annotations

import doctest
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from zfit_fnf import Deformation, Flow, Schedule, load, save, storage
from zfit_fnf.densities import bijectors, responses
from zfit_fnf.densities.flows import Density
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.interop.physical import PhysicalFlow, make_flow
from zfit_fnf.storage import registry
from zfit_fnf.train import fit_flow

SCHEDULE = Schedule(steps=300, batch_size=512, warmup=20, learning_rate=0.05, patience=None)


# --- a density, by the recipe in the docstring of Density -------------------------------------------------------------


class Gauss(Density):
    """Independent Gaussians whose means are linear in the conditions."""

    def __init__(self, n_dim: int, n_context: int):
        super().__init__()
        self.n_dim, self.n_context = n_dim, n_context
        self.mean, self.log_width = tf.Variable(tf.zeros(n_dim)), tf.Variable(tf.ones(n_dim))
        self.slope = tf.Variable(tf.zeros((n_context, n_dim)))

    def _moments(self, c):
        mean, log_width, slope = (tf.cast(v, c.dtype) for v in (self.mean, self.log_width, self.slope))
        return mean + c @ slope, log_width

    def log_density(self, u, c):
        mean, log_width = self._moments(c)
        pull = (u - mean) * tf.exp(-log_width)
        return -tf.reduce_sum(0.5 * pull**2 + log_width + 0.5 * np.log(2 * np.pi), axis=-1)

    def draw(self, c, seed):
        mean, log_width = self._moments(c)
        return mean + tf.exp(log_width) * tf.random.stateless_normal((tf.shape(c)[0], self.n_dim), seed, dtype=c.dtype)

    def config(self):
        return {"n_dim": self.n_dim, "n_context": self.n_context}


@storage.register
class GaussEntry(storage.Entry):
    """How a file describes the Gaussians."""

    model = Gauss
    kind: Literal["test_gauss"] = "test_gauss"
    n_dim: storage.Count
    n_context: storage.Count

    def layout(self):
        yield storage.Array("mean", (self.n_dim,), "F32", "mean")
        yield storage.Array("log_width", (self.n_dim,), "F32", "log_width")
        yield storage.Array("slope", (self.n_context, self.n_dim), "F32", "slope")


# --- an importer, of kernel density estimates of scipy ----------------------------------------------------------------


class KernelDensity(Density):
    """A kernel density estimate in one observable."""

    def __init__(self, n: int):
        super().__init__()
        self.n, self.n_dim, self.n_context = n, 1, 0
        self.points, self.width = (tf.Variable(np.ones(shape), trainable=False) for shape in (n, ()))

    def log_density(self, u, c):
        pulls = (u - self.points) / self.width
        return tf.reduce_logsumexp(-0.5 * pulls**2, axis=-1) - tf.math.log(self.n * self.width * np.sqrt(2 * np.pi))

    def draw(self, c, seed):
        n = tf.shape(c)[0]
        rows = tf.random.stateless_uniform((n,), seed, maxval=self.n, dtype=tf.int32)
        return (tf.gather(self.points, rows) + self.width * tf.random.stateless_normal((n,), seed, dtype=tf.float64))[
            :, None
        ]

    def config(self):
        return {"n": self.n}


@storage.register
class KernelDensityEntry(storage.Entry):
    """How a file describes the estimate."""

    model = KernelDensity
    kind: Literal["test_kernel_density"] = "test_kernel_density"
    n: storage.Count

    def layout(self):
        yield storage.Array("points", (self.n,), "F64", "points")
        yield storage.Array("width", (), "F64", "width")


def import_kernel_density(estimate: stats.gaussian_kde, obs: str) -> PhysicalFlow:
    """A flow of an estimate of scipy."""
    density = KernelDensity(estimate.n)
    density.assign([estimate.dataset[0], np.sqrt(estimate.covariance[0, 0])])
    return make_flow(density, [obs], [], None, None, None)


# --- they are like any other ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flow():
    rng = np.random.default_rng(3)
    x = rng.normal(size=20_000)
    events = {"y": 5.0 + 0.8 * x + 2.0 * rng.normal(size=20_000), "x": x}
    return fit_flow(events, obs=["y"], cond=["x"], density=Gauss(1, 1), schedule=SCHEDULE, progress=False)


def test_a_density_is_trained(flow):
    """Means and width within six of their statistical errors, 2 / sqrt(20 000); it starts at three times the width."""
    x = np.array([-1.0, 0.0, 1.5])
    draws = flow.sample(cond={"x": np.repeat(x, 40_000)}, seed=1)["y"].to_numpy().reshape(3, -1)
    np.testing.assert_allclose(draws.mean(axis=1), 5.0 + 0.8 * x, atol=0.13)
    np.testing.assert_allclose(draws.std(axis=1), 2.0, atol=0.08)
    y = np.linspace(-2.0, 12.0, 2001)
    assert np.trapezoid(np.exp(flow.log_prob({"y": y, "x": np.zeros(2001)})), y) == pytest.approx(1.0, abs=2e-3)


def test_a_density_is_deformed_and_stored(flow, tmp_path):
    deformation = Deformation(flow, [Response(["jes"], ((1,),), n_dim=1, n_context=1)], windows={"jes": (-1.0, 1.0)})
    deformation.responses[0].correction.assign([[0.3]])
    save(deformation, tmp_path / "own.fnf")
    again, events = load(tmp_path / "own.fnf"), {"y": np.linspace(0.0, 9.0, 5), "x": np.linspace(-1.0, 1.0, 5)}
    assert isinstance(again.flow.density, Gauss)
    np.testing.assert_array_equal(
        again.log_prob(events, nu={"jes": 0.7}), deformation.log_prob(events, nu={"jes": 0.7})
    )


def test_a_kind_that_is_not_registered_is_named(flow, tmp_path, monkeypatch):
    save(flow, tmp_path / "own.fnf")
    monkeypatch.delitem(registry._registered, "test_gauss")
    with pytest.raises(
        ValueError, match=r"model 0 .test_gauss.: is of an unknown kind.*Import the module that registers"
    ):
        load(tmp_path / "own.fnf")
    with pytest.raises(TypeError, match="a Gauss cannot be stored"):
        save(flow, tmp_path / "own.fnf")


def test_an_importer(tmp_path):
    estimate = stats.gaussian_kde(np.random.default_rng(0).exponential(size=300))
    flow = import_kernel_density(estimate, "t")
    t = np.linspace(-0.5, 4.0, 50)
    np.testing.assert_allclose(flow.log_prob({"t": t}), estimate.logpdf(t), atol=1e-10)
    save(flow, tmp_path / "kde.fnf")
    np.testing.assert_array_equal(load(tmp_path / "kde.fnf").log_prob({"t": t}), flow.log_prob({"t": t}))


@pytest.mark.parametrize("module", [bijectors, responses])
def test_recipes_run(module):
    result = doctest.testmod(module)
    assert result.failed == 0 < result.attempted


def test_kinds_are_unique():
    class Other(storage.Entry):
        model = Flow
        kind: Literal["flow"] = "flow"

    with pytest.raises(
        ValueError, match=r"the kind 'flow' of Other is that of zfit_fnf.densities.entries.FlowEntry already"
    ):
        storage.register(Other)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"density": Gauss}, TypeError, "density= is a Density to train, got a type"),
        ({"density": Gauss(1, 0), "hidden": [3]}, ValueError, "hidden would describe another density"),
        ({"density": Gauss(2, 0)}, ValueError, "a density of 2 coordinates given 0 conditions cannot describe"),
        ({"density": KernelDensity(3)}, ValueError, "has no variables to train"),
    ],
)
def test_mistakes(settings, error, message):
    with pytest.raises(error, match=message):
        fit_flow({"y": np.arange(9.0)}, obs=["y"], progress=False, **settings)

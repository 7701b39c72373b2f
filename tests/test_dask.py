"""Toys and likelihoods on the workers of a Dask cluster, some of which are killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import zfit
import numpy as np
import pytest

import zfit_fnf
from zfit_fnf.loss import NLL, ExtendedUnbinnedNLL, UnbinnedNLL, counting
from zfit_fnf.minimize import Minuit
from zfit_fnf.param import nuisance
from zfit_fnf.pdf import SumPDF
from zfit_fnf.toys import fit_toys, run
from zfit_fnf.yields import lnN, modified_yield

distributed = pytest.importorskip("distributed", reason="needs the extra dask")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    # Dask's own connections to workers that are killed, closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client():
    options = {"threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=2, **options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def nll() -> NLL:
    """A peak on a slope with a nuisance, and a control region that counts."""
    y = zfit.Space("y", 0, 10)
    mu, rate = zfit.Parameter("mu", 1.0, 0.0, 20.0, stepsize=0.1), nuisance("rate")
    mean = zfit.Parameter("mean", 5.0, 2.0, 8.0, stepsize=0.1)
    signal = zfit.pdf.Gauss(mean, 0.5, obs=y, extended=modified_yield(300.0, [mu]))
    background = zfit.pdf.Exponential(-0.2, obs=y, extended=modified_yield(900.0, [lnN(rate, 1.2)]))
    rng = np.random.default_rng(2)
    events = np.concatenate([rng.normal(5.1, 0.5, 330), rng.uniform(0, 10, 2000)])
    events = events[(events > 0) & (events < 10)]
    channel = ExtendedUnbinnedNLL(
        SumPDF([signal, background]), {"y": events, "w": rng.uniform(0.3, 0.7, len(events))}, weights="w"
    )
    return channel + counting(modified_yield(500.0, [lnN(rate, 1.2)]), 480, name="control")


def kill_a_worker(client) -> None:
    os.kill(client.submit(os.getpid, pure=False).result(), signal.SIGKILL)


def test_a_distributed_likelihood_is_the_same_also_when_a_worker_dies(client, nll):
    shared = zfit_fnf.distribute(nll, client, chunks=3)
    params = list(nll.get_params())
    assert list(shared.get_params()) == params

    def agree():
        value, gradient = shared.value_gradient(params)
        expected = nll.value_gradient(params)
        # Rounding of sums of 2000 events.
        np.testing.assert_allclose(value, expected[0], rtol=1e-12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-7)

    agree()
    np.testing.assert_allclose(shared.value(), nll.value(), rtol=1e-12)
    np.testing.assert_allclose(shared.hessian(params), nll.hessian(params), rtol=1e-9, atol=1e-6)
    kill_a_worker(client)
    with zfit.param.set_values(params, [1.2, 5.05, 0.3]):
        agree()
    found, expected = (Minuit().minimize(loss) for loss in (shared, nll))
    for parameter in params:
        assert found.params[parameter]["value"] == pytest.approx(
            expected.params[parameter]["value"], rel=1e-8, abs=1e-8
        )
    errors, others = found.hesse(), expected.hesse()  # corrected for the weights
    for parameter in params:
        assert errors[parameter]["error"] == pytest.approx(others[parameter]["error"], rel=1e-6)


def test_limits_that_are_changed_reach_the_workers(client, nll):
    shared = zfit_fnf.distribute(nll, client)
    (mean,) = (one for one in nll.get_params() if one.name == "mean")
    before = shared.value()
    mean.upper, mean.lower = 12.0, 8.5
    try:
        mean.set_value(9.0)
        np.testing.assert_allclose(shared.value(), nll.value(), rtol=1e-12)
        assert abs(shared.value() - before) > 1.0
    finally:
        mean.lower, mean.upper = 2.0, 8.0
        mean.set_value(5.0)


@pytest.mark.slow  # four imports of TensorFlow; the same with a pool of processes is in test_toy_runs
def test_toys_by_a_cluster_lose_nothing_when_a_worker_dies(client, tmp_path):
    mu = zfit.Parameter("strength", 1.0, 0.0, 20.0, stepsize=0.1)
    nll = counting(modified_yield(40.0, [mu]), 50, name="region")

    def kill_when_some_are_done():
        end = time.monotonic() + 60
        while time.monotonic() < end and not list(tmp_path.glob("toys_*.json")):
            time.sleep(0.02)
        kill_a_worker(client)

    killer = threading.Thread(target=kill_when_some_are_done)
    killer.start()
    fits = run(nll, 200, seed=2, out=tmp_path, executor=client.get_executor(), progress=False)
    killer.join()
    assert len(list(tmp_path.glob("toys_*.json"))) == 8
    # Another process may round sums in another order.
    np.testing.assert_allclose(fits.values, fit_toys(nll, 200, seed=2, progress=False).values, atol=1e-6)


def test_what_cannot_be_distributed_is_refused(client, nll):
    with pytest.raises(TypeError, match="as they are; got Accelerated"):
        zfit_fnf.distribute(zfit_fnf.accelerate(nll), client)
    with pytest.raises(TypeError, match=r"dask\.distributed\.Client"):
        zfit_fnf.distribute(nll, "scheduler:8786")
    with pytest.raises(ValueError, match="positive integer"):
        zfit_fnf.distribute(nll, client, chunks=0)
    y = zfit.Space("z", -5, 5)
    other = UnbinnedNLL(zfit.pdf.Gauss(zfit.Parameter("m", 0.0), 1.0, obs=y), {"z": [0.0]})
    with pytest.raises(TypeError, match="added before they are distributed"):
        zfit_fnf.distribute(other, client) + nll

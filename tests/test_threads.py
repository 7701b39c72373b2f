"""Likelihoods and toys in several threads give what they give alone."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import zfit
import numpy as np
import pytest
import tensorflow as tf

import zfit_fnf as zfnf
from zfit_fnf.densities.model import PerArchitecture
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.param import read_once, values_of
from zfit_fnf.toys import toy

N_THREADS = 3


def random_flow(seed):
    flow, rng = zfnf.Flow(["y"], n_components=2, hidden=(4, 4), seed=seed), np.random.default_rng(seed)
    for variable in flow.density.trainable_variables:
        variable.assign_add(rng.normal(scale=0.2, size=variable.shape))
    return flow


def deformation(seed):
    flow = random_flow(seed)
    responses = [Response([n], ((1,), (2,)), n_dim=1, n_context=0, hidden=(4, 4), seed=i) for i, n in enumerate("ab")]
    return zfnf.Deformation(flow, responses, windows={"a": (-1.0, 1.0), "b": (-1.0, 1.0)})


def likelihood(deformations, a, b, data, *, foreign=False):
    parts = [
        zfnf.pdf.FNFPDF(
            d, params={"a": a, "b": b}, name=f"p{i}", extended=zfnf.modified_yield(100.0, [zfnf.lnN(a, 1.1)])
        )
        for i, d in enumerate(deformations)
    ]
    if foreign:
        parts.append(zfit.pdf.Gauss(0.0, 1.0, obs=parts[0].norm, extended=50.0))
    return zfnf.loss.ExtendedUnbinnedNLL(zfnf.pdf.SumPDF(parts), data)


@pytest.fixture(scope="module")
def setting():
    a, b = zfnf.nuisance("a"), zfnf.nuisance("b")
    data = {"y": np.random.default_rng(0).normal(size=500)}
    return [deformation(k) for k in range(2)], a, b, data


def together(function, arguments):
    """Results of calls that start at the same time in threads of their own."""
    barrier = threading.Barrier(len(arguments))

    def call(argument):
        barrier.wait()
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(call, arguments))


def test_likelihoods_built_in_threads(setting):
    alone = float(likelihood(*setting).value())
    values = together(lambda _: float(likelihood(*setting).value()), range(N_THREADS))
    assert values == pytest.approx([alone] * N_THREADS, rel=1e-12)


def test_one_likelihood_used_in_threads_is_compiled_once(setting):
    nll = likelihood(*setting)
    gradients = together(lambda _: np.asarray(nll.gradient()), range(N_THREADS))
    np.testing.assert_allclose(gradients, [gradients[0]] * N_THREADS, rtol=1e-12)
    assert zfnf.loss.event_kernel(nll.model[0]).n_traces <= 2  # the graph, and what XLA makes of it


def test_accelerated_likelihoods_of_one_architecture_in_threads(setting):
    deformations, _, _, data = setting  # while they look for a minimum they move their parameters
    own = [likelihood([d, d], zfnf.nuisance("a"), zfnf.nuisance("b"), data) for d in deformations]
    alone = [float(zfnf.accelerate(nll).value(full=False)) for nll in own]
    assert len({round(value, 6) for value in alone}) == len(own)  # other weights, other values
    values = together(lambda nll: float(zfnf.accelerate(nll).value(full=False)), own)
    assert values == pytest.approx(alone, rel=1e-12)


def test_compiled_code_of_one_architecture_keeps_the_weights_while_it_is_used():
    function = PerArchitecture(lambda flow, y: (flow.density.log_density(y, tf.zeros((1, 0), y.dtype)),))
    flows, y = [random_flow(seed) for seed in range(N_THREADS)], tf.zeros((1, 1))

    def value(flow):
        with function.of(flow) as compiled:
            return [float(compiled(y)[0][0]) for _ in range(20)]

    for flow, values in zip(flows, together(value, flows), strict=True):
        expected = float(flow.density.log_density(y, tf.zeros((1, 0)))[0])
        assert values == pytest.approx([expected] * 20, rel=1e-6)  # float32


def test_what_a_graph_has_read_is_of_no_use_in_another_one():
    parameter = zfit.Parameter("inner", 2.0)

    @tf.function(autograph=False)
    def function():
        with read_once():
            inside = tf.while_loop(
                lambda i, total: i < 3, lambda i, total: (i + 1, total + values_of([parameter])[0]), (0, np.float64(0))
            )[1]
            return inside + values_of([parameter])[0]

    assert float(function()) == 8.0


@pytest.mark.parametrize(
    "foreign", [pytest.param(False, marks=pytest.mark.slow), True], ids=["learned", "with a density of zfit"]
)
def test_toys_depend_on_their_seed_alone(setting, foreign):
    nlls = [likelihood(*setting, foreign=foreign) for _ in range(N_THREADS)]
    alone = [np.asarray(toy(nll, seed=seed).data[0].value()) for seed, nll in enumerate(nlls)]
    assert len({len(events) for events in alone}) > 1
    drawn = together(lambda seed: np.asarray(toy(nlls[seed], seed=seed).data[0].value()), range(N_THREADS))
    for expected, events in zip(alone, drawn, strict=True):
        np.testing.assert_array_equal(events, expected)


def test_other_draws_do_not_disturb_the_toys_of_learned_densities(setting):
    nll, stop = likelihood(*setting), threading.Event()
    expected = np.asarray(toy(nll, seed=7).data[0].value())

    def disturb():
        while not stop.is_set():
            zfit.z.random.get_prng().uniform((10,))

    other = threading.Thread(target=disturb)
    other.start()
    try:
        drawn = [np.asarray(toy(nll, seed=7).data[0].value()) for _ in range(5)]
    finally:
        stop.set()
        other.join()
    for events in drawn:
        np.testing.assert_array_equal(events, expected)


def test_toys_with_other_seeds_and_in_a_part_of_the_range_are_new():
    flow = zfnf.Flow(["y"], n_components=2)
    pdf = zfnf.pdf.FlowPDF(flow, obs=zfit.Space("y", 0.0, 0.2), extended=5000.0)
    nll = zfnf.loss.ExtendedUnbinnedNLL(pdf, {"y": [0.1]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (np.asarray(toy(nll, seed=seed).data[0].value()) for seed in (1, 2))
    events = np.concatenate([first, second])[:, 0]
    assert len(np.unique(events)) == len(events)  # no round of accept-reject repeats another one
    assert np.all((events >= 0.0) & (events <= 0.2))

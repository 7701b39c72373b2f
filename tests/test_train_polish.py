"""The first observable of a density without conditions, fitted to all events at once."""

from __future__ import annotations

import numpy as np

from zfit_fnf import Flow
from zfit_fnf.datasets import Composition
from zfit_fnf.train.polish import _Cells, polish
from zfit_fnf.train.sources import EventSource

N = 50_000
HELD_OUT = np.arange(N // 10)


def untrained(events, obs=("y",), weights=None, **settings):
    flow = Flow(obs, **settings)
    source = EventSource.make(flow, events, weights)
    flow.standardise(source.sample)
    return flow, source


def gap(flow):
    grid = np.linspace(-8, 8, 2001)
    truth = Composition().log_prob({"y": grid})
    return np.sum(np.exp(truth) * (truth - flow.log_prob({"y": grid}))) * (grid[1] - grid[0])


def test_it_is_as_near_the_truth_as_the_events_allow():
    flow, source = untrained(Composition().simulate(N, seed=1))
    before = gap(flow)
    polish(flow, source, HELD_OUT)
    # Two normal components of five numbers are known to 5 / 2N = 5e-5; the mixture is free to follow four times as many.
    assert before > 1e-2
    assert gap(flow) < 4e-4


def test_weights_count():
    """A component of events that have no weight is not there."""
    y, other = Composition().simulate(N, seed=1)["y"], np.random.default_rng(0).normal(2.0, 0.5, N // 5)
    flow, source = untrained({"y": [*y, *other], "w": np.repeat([2.0, 0.0], [N, N // 5])}, weights="w")
    polish(flow, source, HELD_OUT)
    assert gap(flow) < 4e-4


def test_what_is_kept_as_it_was():
    """The second coordinate; other densities; negative weights; and what held-out events deny."""
    events = Composition(conditional=True).simulate(5000, seed=2)
    flow, source = untrained(events, ("y1", "y2"), n_components=4)
    (layer,) = flow.density.layers
    polish(flow, source, np.arange(500))
    changed = np.flatnonzero(layer.network.biases[-1].numpy())
    assert len(changed) > 10
    assert changed.max() < layer.univariate.n_parameters
    for settings in ({"cond": ["x"]}, {"n_layers": 2}, {"family": "spline"}):
        flow, source = untrained(events, ("y1",), **settings)
        before = flow.weights_list()
        polish(flow, source, np.arange(500))
        assert all(map(np.array_equal, before, flow.weights_list()))
    flow, source = untrained(events.assign(w=np.where(np.arange(5000) % 9, 1.0, -1.0)), ("y1",), weights="w")
    before = flow.weights_list()
    polish(flow, source, np.arange(500))
    assert all(map(np.array_equal, before, flow.weights_list()))
    moved = events.assign(y1=np.where(np.arange(5000) < 500, -events["y1"] + 3.0, events["y1"]))
    flow, source = untrained(moved, ("y1",))
    before = flow.weights_list()
    polish(flow, source, np.arange(500))
    assert all(map(np.array_equal, before, flow.weights_list()))


def test_a_gradient_is_that_of_the_objective():
    flow, source = untrained(Composition().simulate(2000, seed=3), n_components=3)
    cells, at = _Cells(flow.density.layers[0], source, np.arange(200)), np.linspace(-0.5, 0.5, 11)
    _, gradient = cells.objective(at)
    steps = 1e-5 * np.eye(11)
    numerical = [(cells.objective(at + step)[0] - cells.objective(at - step)[0]) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-4)

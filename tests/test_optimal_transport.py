"""The shortest map between densities, where it is known in closed form."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from zfit_fnf.datasets import ShiftSqueeze
from zfit_fnf.densities.transfer import Transfer
from zfit_fnf.doi import optimal_transport
from zfit_fnf.samples import as_sample

N = 4000


def variation(moved, obs=("y1", "y2")):
    """A map variation that takes simulation to data by a function of arrays."""
    transfer = Transfer(obs, ["x"])

    def to_data(events, process=None):
        assert process is None
        values = moved(events[list(obs)].to_numpy(), events["x"].to_numpy())
        return events.assign(**dict(zip(obs, values.T, strict=True)))

    return SimpleNamespace(transfer=SimpleNamespace(transfer=transfer), to_data=to_data)


@pytest.fixture(scope="module")
def simulation():
    rng = np.random.default_rng(1)
    return pd.DataFrame({"y1": rng.normal(size=N), "y2": rng.normal(size=N), "x": rng.uniform(-1.0, 1.0, N)})


def turned(y, angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * y[:, 0] - s * y[:, 1], s * y[:, 0] + c * y[:, 1]], axis=1)


def test_gaussians(simulation):
    """Gaussian data given ``x``: what a rotation adds to the map is taken out, and the root of the covariance is left."""

    def stretched(y, x):
        return y * np.exp(np.stack([0.3 * x, -0.2 * x], axis=1)) + np.stack([np.sin(2 * x), x**2], axis=1)

    def moved(y, x):
        return stretched(turned(y, 0.6 * x), x)

    data = variation(moved).to_data(simulation)
    found = optimal_transport(variation(moved), simulation).to_simulation(data)
    # Of y = D R v + m the shortest map is D^-1 (y - m) = R v, whatever the rotation R is.
    exact = turned(simulation[["y1", "y2"]].to_numpy(), 0.6 * simulation["x"].to_numpy())
    away = np.sqrt(np.mean((exact - simulation[["y1", "y2"]]) ** 2))
    assert away == pytest.approx(0.34, abs=0.02)  # 0.6 times the width of x, for the exact inverse of the map
    assert np.sqrt(np.mean((found[["y1", "y2"]].to_numpy() - exact) ** 2)) < 0.07  # 4000 events tell it to 0.05
    pd.testing.assert_series_equal(found["x"], data["x"])
    # What is predicted from other events of data does not know the map.
    predicted = optimal_transport(variation(None), simulation, data=data[::2]).to_simulation(data)
    assert np.sqrt(np.mean((predicted[["y1", "y2"]].to_numpy() - exact) ** 2)) < 0.1


def test_densities_that_are_not_gaussian(simulation):
    """Increasing functions of each coordinate are the gradient of a convex function; a rotation before them is not."""
    data = variation(lambda y, x: np.sinh(0.6 * turned(y, 0.4 + 0.0 * x)) / 0.6)
    found = optimal_transport(data, simulation).to_simulation(data.to_data(simulation))
    exact = turned(simulation[["y1", "y2"]].to_numpy(), 0.4)
    assert np.sqrt(np.mean((found[["y1", "y2"]].to_numpy() - exact) ** 2)) < 0.1  # 0.4 for the inverse of the map


@pytest.mark.parametrize(("d", "n"), [(2, 8000), (3, 1000)])
def test_convex_functions_without_conditions(d, n):
    """Data that the gradient of a convex function with sharp bends takes to simulation: that is the shortest map."""
    obs, rng = [f"y{j}" for j in range(d)], np.random.default_rng(3)
    bends = np.random.default_rng(5).normal(size=(5, d))

    def draw():
        u = rng.normal(size=(n, d))
        u[:, 0] += 0.12 * u[:, 0] ** 2
        shares = np.exp(u @ bends.T)
        return u, 0.6 * u + (shares / shares.sum(axis=1, keepdims=True)) @ bends

    (u, exact), (_, simulated) = draw(), draw()
    frames = [pd.DataFrame(values, columns=obs) for values in (u, simulated)]
    transfer = SimpleNamespace(transfer=SimpleNamespace(transfer=Transfer(obs, [])))
    found = optimal_transport(transfer, frames[1], data=frames[0])
    error = np.sqrt(np.mean(((found.to_simulation(frames[0]) - exact) / exact.std(axis=0)) ** 2))
    # The affine map is 0.16 and 0.23 away. Seen: 0.03 and 0.15 in units of the widths, where noise is 0.04 and 0.14.
    assert error < 1.5 * found.noise
    assert found.left < 0.5 * found.noise


def test_weights_are_refused(simulation):
    """They were left out: simulation that weights move by 0.8 widths was found where it is without them."""
    same = variation(lambda y, x: y)
    sample = as_sample(simulation, ["y1", "y2", "x"], weights=np.exp(0.8 * simulation["y1"].to_numpy()))
    for options in ({"simulation": sample, "data": simulation}, {"simulation": simulation, "data": sample}):
        with pytest.raises(ValueError, match="takes events without weights: draw some"):
            optimal_transport(same, **options)
    drawn = simulation.sample(N, weights=sample.weights, replace=True, random_state=1)
    found = optimal_transport(same, drawn, data=simulation)
    assert (found.to_simulation(simulation)["y1"] - simulation["y1"]).mean() == pytest.approx(0.8, abs=0.1)
    optimal_transport(same, as_sample(simulation, ["y1", "y2", "x"], weights=np.full(N, 3.0)), data=simulation)


def test_events_far_out_do_not_prevent_it():
    """Of 4000 events two at the ends of the conditions would fold under the best polynomials; there is a map nevertheless."""
    toy, point = ShiftSqueeze(), {"shift": 0.5, "squeeze": -0.5}
    simulation = toy.simulate("A", N, point, seed=1)
    y, x = simulation[list(toy.y)].to_numpy(), simulation[list(toy.x)].to_numpy()
    data = simulation.assign(**dict(zip(toy.y, toy.distort(y, x, "A").T, strict=True)))
    transfer = Transfer(toy.y, toy.x)
    transfer.standardise(as_sample(data, [*toy.y, *toy.x]))
    variation = SimpleNamespace(transfer=SimpleNamespace(transfer=transfer))
    found = optimal_transport(variation, simulation, data=data)
    assert found.left < found.noise
    others = toy.simulate("A", N, point, seed=2)
    again = optimal_transport(variation, others, data=data)
    away = (found.to_simulation(data) - again.to_simulation(data))[list(toy.y)] / y.std(axis=0)
    assert np.sqrt(np.mean(away**2)) < 2.0 * found.noise


def test_what_it_refuses(simulation):
    with pytest.raises(ValueError, match="it is the optimal transport"):
        optimal_transport(variation(None, obs=["y1"]), simulation)
    with pytest.raises(ValueError, match="3 observables at most"):
        optimal_transport(variation(None, obs=["a", "b", "c", "d"]), simulation)
    with pytest.raises(ValueError, match="needs 1000 simulated events"):
        optimal_transport(variation(None), simulation.head(10))

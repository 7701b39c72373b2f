"""A process in one call: its flow and its deformation from one simulation, also after an interruption."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import zfit_fnf as zfnf
from zfit_fnf.train import fit_deformation, fit_flow, fit_process

N = 4000
RNG = np.random.default_rng(0)
Y, W = RNG.normal(size=N), np.full(N, 0.1)
TABLE = {"y": Y, "w": W, "w_up": W * np.exp(0.2 * Y), "w_same": 1.5 * W}
SIDES = [zfnf.Variation({"y": Y + 0.2 * nu, "w": W}, at={"jes": nu}) for nu in (1.0, -1.0)]
SETTINGS = {"schedule": zfnf.Schedule(steps=100, batch_size=512), "hidden": (4,), "n_components": 2, "progress": False}
PROBES = {"y": np.linspace(-2.0, 2.0, 5)}
pytestmark = pytest.mark.filterwarnings("ignore:.*still improving", "ignore:.*never better")


@pytest.fixture(scope="module")
def fitted():
    return fit_process(zfnf.Simulation(TABLE, SIDES, weights="w"), obs=["y"], seed=3, **SETTINGS)


def test_it_is_the_two_functions(fitted):
    settings = {name: SETTINGS[name] for name in ("schedule", "hidden", "progress")}
    flow = fit_flow(TABLE, obs=["y"], weights="w", seed=3, n_components=2, **settings)
    deformation = fit_deformation(flow, SIDES, weights="w", seed=3, **settings)
    np.testing.assert_array_equal(fitted.flow.log_prob(PROBES), flow.log_prob(PROBES))
    expected = deformation.log_prob(PROBES, nu={"jes": 0.7})
    np.testing.assert_array_equal(fitted.deformation.log_prob(PROBES, nu={"jes": 0.7}), expected)
    assert fitted.sum_weights == pytest.approx(W.sum())
    assert fitted.yields["jes"].up == pytest.approx(1.0)
    assert fitted.nuisances == ("jes",)
    assert list(fitted.history) == ["p(y)", "jes"]
    assert "jes=+1" in str(fitted)
    assert "p(y)" in str(fitted)


def test_it_takes_the_place_of_its_density(fitted, tmp_path):
    expected = fitted.deformation.log_prob(PROBES, nu={"jes": 0.7})
    jes = zfnf.nuisance("jes_of_a_process")
    jes.set_value(0.7)
    pdf = zfnf.pdf.FNFPDF(fitted, params={"jes": jes})
    np.testing.assert_allclose(pdf.log_pdf(PROBES["y"][:, None]).numpy(), expected)
    zfnf.save(fitted, tmp_path / "signal.fnf")
    np.testing.assert_array_equal(zfnf.load(tmp_path / "signal.fnf").log_prob(PROBES, nu={"jes": 0.7}), expected)


def test_a_process_without_variations(fitted):
    alone = fit_process(zfnf.Simulation(TABLE, weights="w"), obs=["y"], seed=3, **SETTINGS)
    assert alone.deformation is None
    assert alone.yields == {}
    np.testing.assert_allclose(
        zfnf.pdf.FlowPDF(alone).log_pdf(PROBES["y"][:, None]).numpy(), fitted.flow.log_prob(PROBES)
    )
    with pytest.raises(TypeError, match="belongs into an FNFPDF"):
        zfnf.pdf.FlowPDF(fitted)


def test_what_was_trained_is_kept(fitted, monkeypatch):
    simulation = zfnf.Simulation(TABLE, SIDES, weights="w")

    def interrupt(task):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("zfit_fnf.train.deformation.train_response", interrupt)
        with pytest.raises(zfnf.train.TrainingStopped, match=r"The nominal density is in \.model") as stopped:
            fit_process(simulation, obs=["y"], seed=3, **SETTINGS)
    again = fit_process(simulation, obs=["y"], seed=3, trained=stopped.value.model, **SETTINGS)
    assert again.flow is stopped.value.model
    expected = fitted.deformation.log_prob(PROBES, nu={"jes": 0.7})
    np.testing.assert_array_equal(again.deformation.log_prob(PROBES, nu={"jes": 0.7}), expected)


def test_folds_and_replicas(fitted):
    simulation = zfnf.Simulation(TABLE | {"number": np.arange(N)}, weights="w")
    settings = SETTINGS | {"obs": ["y"], "seed": 3, "schedule": zfnf.Schedule(steps=20, batch_size=512)}
    with ThreadPoolExecutor(2) as executor:
        process = fit_process(simulation, trained=fitted.flow, folds=2, n_bootstrap=1, executor=executor, **settings)
    assert process.model is fitted.flow
    seen = [set(held_out.sample(["number"]).columns["number"]) for _, held_out in process.folds]
    assert seen[0] | seen[1] == set(range(N))
    assert not seen[0] & seen[1]
    models = [*(model for model, _ in process.folds), *process.replicas]
    assert len({tuple(model.log_prob(PROBES)) for model in models}) == 3
    assert "2 fold(s), 1 bootstrap replica(s)" in str(process)
    # A fold is what the function learns from its part of the events.
    train, _ = simulation.folds(2, 3)[0]
    settings["seed"] = int(np.random.SeedSequence(3).generate_state(3)[0])
    np.testing.assert_array_equal(models[0].log_prob(PROBES), fit_process(train, **settings).flow.log_prob(PROBES))


def test_interrupted_folds_leave_the_density(fitted, monkeypatch):
    monkeypatch.setattr("zfit_fnf.train.process._Job.model", lambda job: 1 / 0)
    simulation = zfnf.Simulation(TABLE, SIDES, weights="w")
    with pytest.raises(zfnf.train.TrainingStopped, match=r"The density is in \.model") as stopped:
        fit_process(simulation, obs=["y"], trained=fitted.deformation, folds=2, **SETTINGS)
    np.testing.assert_array_equal(stopped.value.model.log_prob(PROBES), fitted.deformation.log_prob(PROBES))


def test_weights_without_effect_have_exactly_none():
    variations = [zfnf.Variation(at={"pdf": nu}, weights=weights) for nu, weights in ((1.0, "w_same"), (-1.0, W))]
    with pytest.warns(UserWarning, match="'pdf=.1', 'pdf=-1' hold the same events as the nominal one"):
        fitted = fit_process(zfnf.Simulation(TABLE, variations, weights="w"), obs=["y"], **SETTINGS)
    np.testing.assert_array_equal(fitted.deformation.log_prob(PROBES, nu={"pdf": 0.7}), fitted.flow.log_prob(PROBES))
    assert fitted.yields["pdf"].up == pytest.approx(1.5)  # the sum of the weights
    assert fitted.yields["pdf"].down == pytest.approx(1.0)


def test_mistakes(fitted):
    simulation = zfnf.Simulation(TABLE, SIDES, weights="w")
    with pytest.raises(TypeError, match="takes a Simulation"):
        fit_process(TABLE, obs=["y"])
    with pytest.raises(TypeError, match="no argument 'interaction'; is 'interactions' meant"):
        fit_process(simulation, obs=["y"], interaction=[])
    with pytest.raises(TypeError, match=r"no argument 'weights'.*of the Simulation"):
        fit_process(simulation, obs=["y"], weights="w")
    with pytest.raises(TypeError, match="trained= is a Flow or a Deformation"):
        fit_process(simulation, obs=["y"], trained=fitted)
    with pytest.raises(ValueError, match="has its own weights"):
        fit_flow(simulation, obs=["y"], weights="w")
    with pytest.raises(ValueError, match="has its own nominal events"):
        fit_deformation(fitted.flow, simulation, nominal=TABLE)
    with pytest.raises(ValueError, match="give Simulation"):
        fit_deformation(fitted.flow, [zfnf.Variation(at={"pdf": 1.0}, weights="w_up")])

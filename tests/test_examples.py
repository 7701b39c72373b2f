"""The examples run, and what they measure is right."""

from __future__ import annotations

import numpy as np
import pytest
from example_scripts import ROOT, load

ZEE = ROOT.parent / "shared" / "data" / "cms-open-data" / "Zee_Run2011A.csv"
ZMUMU = ROOT.parent / "shared" / "data" / "uproot-Zmumu.root"
of_zee = pytest.mark.skipif(not ZEE.exists(), reason=f"needs the events of {ZEE.name}")
of_zmumu = pytest.mark.skipif(not ZMUMU.exists(), reason=f"needs the events of {ZMUMU.name}")


@pytest.mark.slow  # the README's example, which a test of the documentation runs, does the same
@pytest.mark.filterwarnings(
    "ignore:.*still improving:UserWarning", "ignore:nuisance .* outside of the range:UserWarning"
)
def test_quickstart_finds_what_it_simulated(tmp_path):
    quickstart = load("quickstart")
    result, limit = quickstart.main(events=10_000, steps=200, seed=3, out=tmp_path)

    assert result.valid
    found = {parameter.name: values for parameter, values in result.params.items()}
    for name, truth in quickstart.TRUTH.items():
        # Densities from ten thousand events have errors comparable with those of the fit: 5 sigma is not loose.
        assert abs(found[name]["value"] - truth) < 5 * found[name]["hesse"]["error"]
    assert found["mu"]["hesse"]["error"] < 0.2  # 1000 of 5000 events: counting alone would give about 0.07
    assert limit.expected[2] < limit.observed  # there is a signal
    assert (tmp_path / "fit.png").stat().st_size > 10_000


@pytest.mark.slow
def test_map_of_the_toy(tmp_path):
    """Of 5000 events the nuisance comes out as without y, and the shortest of the maps that data cannot tell from each other."""
    toy = load("doi_toy")
    result, quality = toy.main(events=5_000, steps=400, replicas=20, seed=1, out=tmp_path)

    (found,) = result.params.values()
    # The same error as without y: 0.0093 with 100 000 events of the toy with both nuisances.
    assert found["hesse"]["error"] == pytest.approx(0.0093 * 20**0.5, rel=0.3)
    assert abs(found["value"] - toy.TRUTH["shift"]) < 5 * found["hesse"]["error"]
    # Beside the noise of samples (0.15 and 0.17 widths) there is what 5000 events of data leave open, about as much. No map
    # is 0.26 and 0.34 widths away: of process A so few events know hardly anything.
    assert (quality["shortest map"] < 2.0 * quality["noise of both"]).all()
    assert quality["shortest map"].mean() < 0.85 * quality["no shortest map"].mean()
    assert (tmp_path / "map.png").stat().st_size > 10_000


@pytest.mark.filterwarnings(
    "ignore:.*(effective events|outside of the range|how the simulation fluctuates):UserWarning"
)
@of_zmumu
def test_momentum_scale_comes_back(tmp_path):
    measurement = load("zmumu_scale").main(ZMUMU, steps=300, seed=1, out=tmp_path)

    assert abs(measurement.pull) < 5
    # Half of the events, with a width of 2 to 4 GeV, know the scale to 0.15 to 0.4 %.
    assert 0.1 < measurement.hesse < 0.5
    assert -measurement.minos[0] == pytest.approx(measurement.hesse, rel=0.5)
    assert (tmp_path / "mass.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(effective events|by few fields):UserWarning")
@of_zmumu
def test_calibration_comes_back(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    calibration = load("zmumu_calibration")
    curve = calibration.main(ZMUMU, steps=600, replicas=20, seed=1, out=tmp_path)

    at_the_peak = curve.iloc[(curve.mass - 92.0).abs().argmin()]
    # 250 events with a width of 3 GeV know the peak to 0.2 GeV, and so does a density made of 250 others.
    assert abs(at_the_peak.correction - at_the_peak.exact) < 5 * 0.3
    assert at_the_peak.correction < -1.0  # 3 % of 92 GeV were put in
    assert (curve.total >= curve.systematic).all()
    assert (tmp_path / "calibration.png").stat().st_size > 10_000


@of_zmumu
def test_every_event_counts_once_and_its_mass_is_recomputed():
    zmumu = load("zmumu_scale")
    events = zmumu.read_events(ZMUMU)

    assert not events.duplicated(["Run", "Event"]).any()
    assert zmumu.observables(events).mass.to_numpy() == pytest.approx(events.M.to_numpy(), rel=1e-6)
    # Muons are nearly massless: the mass is proportional to the momenta up to (2 m_mu / M)^2 = 1e-5.
    scaled = zmumu.observables(events, scale=1.01).mass
    assert scaled.to_numpy() == pytest.approx(1.01 * events.M[scaled.index].to_numpy(), rel=1e-5)


@pytest.mark.slow
def test_a_control_region_helps(tmp_path):
    combination = load("combination")
    alone, both = combination.main(events=10_000, steps=150, seed=2, out=tmp_path).values()

    found = {parameter.name: values for parameter, values in both.params.items()}
    for name, truth in combination.TRUTH.items():
        assert abs(found[name]["value"] - truth) < 5 * found[name]["hesse"]["error"]
    before = {parameter.name: values["hesse"]["error"] for parameter, values in alone.params.items()}
    # The control region knows jes to about 0.3 and the background to 2.5 %, the signal region to 0.2 and 2.5 %.
    assert found["jes"]["hesse"]["error"] < 0.95 * before["jes"]
    assert found["bkg_norm"]["hesse"]["error"] < 0.9 * before["bkg_norm"]
    assert (tmp_path / "binned.json").stat().st_size > 1000


@pytest.mark.slow
def test_a_coupling_is_that_of_the_exact_densities(tmp_path):
    found = load("coupling").main(events=50_000, steps=300, seed=2, out=tmp_path)

    (value, error), (exact, exact_error) = found["learned"], found["exact"]
    # 50 000 events for each density, 20 times the data: their noise is about a fifth of the error.
    assert abs(value - exact) < 1.0 * exact_error
    assert error == pytest.approx(exact_error, rel=0.1)
    assert (tmp_path / "profile.png").stat().st_size > 10_000


@pytest.mark.slow
def test_strength_given_conditions_is_found(tmp_path):
    conditional = load("conditional_fractions")
    alone, given = conditional.main(events=20_000, steps=500, seed=2, out=tmp_path).values()

    found = {parameter.name: values for parameter, values in given.params.items()}
    for name, truth in conditional.TRUTH.items():
        assert abs(found[name]["value"] - truth) < 5 * found[name]["hesse"]["error"]
    (without,) = alone.params.values()
    # What the conditions themselves say of the strength is not used, and a nuisance is fitted beside it.
    assert found["mu"]["hesse"]["error"] == pytest.approx(without["hesse"]["error"], rel=0.3)
    assert (tmp_path / "reliability.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no probes with:UserWarning")
@of_zee
def test_efficiency_of_electrons_is_that_of_fits_in_bins(tmp_path):
    table = load("tagprobe_zee").main(ZEE, out=tmp_path, seed=1)
    own = np.hypot(table["statistics"], table["networks"])
    assert (table[["polynomial", "two peaks"]] > 0).any(axis=None)
    # They see the same probes, and what they differ by is less than the errors of the bins.
    assert np.sum(((table["value"] - table["bin"]) / table["bin error"]) ** 2) < 1.6 * len(table)
    assert (own / table["bin error"]).iloc[table["probes"].argsort()[:4]].mean() < 0.8
    for name in ("efficiency.png", "mass.png", "efficiency.json", "efficiency.fnf"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*still improving:UserWarning")
def test_morphed_simulation_is_like_data(tmp_path):
    found = load("morph").main(n=20_000, steps=1500, seed=2, out=tmp_path)

    assert found.auc_before > 0.6
    # Peaks of ten whole numbers are followed roughly: 0.519 with another seed.
    assert abs(found.auc_after - 0.5) < 0.035
    assert (tmp_path / "morph.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_published_distribution_is_that_of_data(tmp_path):
    publish = load("publish")
    ratio = publish.main(events=4000, replicas=3, seed=1, out=tmp_path / "new")

    data = publish.simulate(4000, publish.TRUTH["jes"], 1)
    data["y"] = 1.2 * data["y"] + 0.3
    counts = np.histogram(data["y"] / np.sqrt(1.0 + data["x"] ** 2), publish.RATIO)[0]
    pulls = (counts - ratio.value) / np.sqrt(counts + ratio.simulation**2)
    # Chi-square of twelve bins: above 37 once in ten thousand times.
    assert np.sum(pulls**2) < 40.0
    assert (tmp_path / "new" / "hepdata" / "submission.yaml").exists()

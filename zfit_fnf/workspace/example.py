"""A small analysis to begin with: simulated events, and a workspace with comments that says what is done with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..samples import Sample, write_sample

__all__ = ["write_example"]

_TEXT = """\
# A search for a narrow resonance: 'zfit-fnf run analysis.yaml -o results' trains, fits, and writes results/report.html.
version: 1
name: A resonance on a falling background
description: Two observables, mass and the score of a classifier; the densities of both processes are learned from events.

channels:
- name: signal_region
  observables:                      # what is measured for each event; densities are learned of all of them together
    mass: {range: [100, 180], unit: GeV, bins: 40}
    score: {range: [0, 1], bins: 25}
  data: {file: data.csv}            # the observed events
  samples:
  - name: signal
    events:
      nominal: {file: signal.csv, weights: weight, scale: 1.0}   # the sum of the weights is the expected yield
      variations:                   # what is not named is as for the nominal events
      - {at: {energy_scale: +1}, columns: {mass: 1.01 * mass}}    # other values of the same events ...
      - {at: {energy_scale: -1}, columns: {mass: 0.99 * mass}}
      - {at: {efficiency: +1}, weights: weight_up}                # ... or other weights
      - {at: {efficiency: -1}, weights: weight_down}
    modifiers:
    - {name: mu, type: normfactor}                                # the signal strength: free
    - {name: lumi, type: lnN, data: 1.02}                         # 2 % on the yield
    - {name: efficiency, type: normsys, data: events}             # on the yield, as the weights of the variations say
    - {name: energy_scale, type: shape}                           # on the distribution, learned from the variations
  - name: background
    events:
      nominal: {file: background.csv, weights: weight}
    modifiers:
    - {name: background_norm, type: normfactor}

measurements:
- name: signal strength
  config:
    poi: mu
    parameters:
    - {name: mu, inits: [1.0], bounds: [[0, 10]], label: "$\\\\mu$"}
    - {name: background_norm, inits: [1.0], bounds: [[0.5, 2.0]]}

groups:                             # for the split of the uncertainty
  experimental: [energy_scale, efficiency]
  luminosity: [lumi]

training: {seed: 1, steps: 1000, response_steps: 300, batch_size: 1024}

# blinding: {parameters: [mu], seal: some words}    # values of mu get a secret offset until --unblind
"""

_EXPECTED = {"signal": 100.0, "background": 4000.0}
_N_SIMULATED = 20_000


def write_example(folder: Path, *, seed: int = 1) -> Path:
    """Write the workspace and its events.

    Args:
        folder: Where to; made if it is not there.
        seed: Seed of the events.

    Returns:
        The workspace.

    Raises:
        FileExistsError: If the folder has files in it.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is not an empty folder; choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for process, expected in _EXPECTED.items():
        columns = _simulate(process, _N_SIMULATED, rng)
        weight = np.full(_N_SIMULATED, expected / _N_SIMULATED)
        if process == "signal":
            change = 0.08 * columns["score"]
            weights = {"weight": weight, "weight_up": weight * (1 + change), "weight_down": weight * (1 - change)}
        else:
            weights = {"weight": weight}
        write_sample(Sample({**columns, **weights}), folder / f"{process}.csv")
    observed = [_simulate(process, int(rng.poisson(expected)), rng) for process, expected in _EXPECTED.items()]
    data = {name: np.concatenate([one[name] for one in observed]) for name in observed[0]}
    write_sample(Sample(data), folder / "data.csv")
    path = folder / "analysis.yaml"
    path.write_text(_TEXT, encoding="utf-8")
    return path


def _simulate(process: str, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Events of a process, within the ranges that the workspace gives the observables."""
    if process == "signal":
        mass, score = rng.normal(125.0, 2.0, n), rng.beta(2.5, 2.0, n)
    else:
        low, high = np.exp(-80.0 / 30.0), 1.0
        mass, score = 100.0 - 30.0 * np.log(rng.uniform(low, high, n)), rng.beta(1.5, 2.0, n)
    return {"mass": np.clip(mass, 100.001, 179.999), "score": np.clip(score, 1e-6, 1 - 1e-6)}

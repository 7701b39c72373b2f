"""Models with random weights: the cost of an evaluation does not depend on what they learned."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import zfit  # before tensorflow, which it silences
import numpy as np

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Flow
from zfit_fnf.densities.polynomial_map import Response


def random_flow(obs: list[str], cond: list[str], seed: int) -> Flow:
    """A density that is not far from a normal one, and as smooth as those that were learned."""
    flow = Flow(obs, cond, seed=seed)
    (layer,) = flow.density.layers
    layer.network.weights[-1].assign(0.2 * layer.network.weights[-1])
    return flow


def random_deformation(flow: Flow, names: list[str], *, interactions: bool = False) -> Deformation:
    """Responses that change coordinates by some per cent of their widths, less with products of the nuisances."""
    rng = np.random.default_rng(0)
    shape = {"n_dim": len(flow.obs), "n_context": len(flow.cond)}
    responses = [Response([name], ((1,), (2,)), **shape, seed=i) for i, name in enumerate(names)]
    if interactions:
        corners = tuple(itertools.product((1, 2), repeat=2))
        responses += [Response(pair, corners, **shape, n_single=4) for pair in itertools.combinations(names, 2)]
    for response in responses:
        (network,) = response.networks
        sizes = np.tile(np.repeat([0.1 ** (sum(powers) - 1) for powers in response.powers], 2), len(flow.obs))
        for variable, size in ((network.weights[-1], 0.003), (network.biases[-1], 0.05)):
            variable.assign(size * sizes * rng.normal(size=variable.shape))
    return Deformation(flow, responses, windows=dict.fromkeys(names, (-1.0, 1.0)))


def random_model(
    n_nuisances: int, *, interactions: bool = False, n_dim: int = 2, n_processes: int = 2
) -> zfit.pdf.BasePDF:
    """A mixture of processes, p(x) p(y | x) each, with the same nuisances: two conditions and ``n_dim`` observables."""
    names = [f"nu{i}" for i in range(n_nuisances)]
    params = {name: zfnf.nuisance(name) for name in names}
    observables = [f"y{i}" for i in range(1, n_dim + 1)]
    processes = []
    for process in range(n_processes):
        flows = random_flow(observables, ["x1", "x2"], process), random_flow(["x1", "x2"], [], process + n_processes)
        deformations = [random_deformation(flow, names, interactions=interactions) for flow in flows]
        processes.append(
            zfnf.pdf.ConditionalProductPDF(
                [zfnf.pdf.FNFPDF(deformation, params=params) for deformation in deformations]
            )
        )
    return zfnf.pdf.SumPDF(processes, fracs=[1.0] * n_processes) if n_processes > 1 else processes[0]


def normal_events(n: int, seed: int, *, n_dim: int = 2) -> dict[str, np.ndarray]:
    """Standard normal columns."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=n) for name in ("x1", "x2", *(f"y{i}" for i in range(1, n_dim + 1)))}


def clocked(function: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    cpu, wall = time.process_time(), time.monotonic()
    function()
    return time.process_time() - cpu, time.monotonic() - wall


def median_cpu(function: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU seconds of a call, after a first one that is not counted."""
    function()
    return statistics.median(clocked(function)[0] for _ in range(repeats))


def resident_megabytes() -> float:
    """Resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

"""What `zfit_fnf.accelerate` gains, and that it does not change the result.

    python benchmarks/acceleration.py fit scan equality nuisances events dimensions impacts --json acceleration.json

Every figure is CPU time of one process, with the exact likelihood as the peer in the same run. With PyTorch and zuko
installed, ``reference`` compares with the architecture of the published method; ``binned`` fits histograms of the same
events with pyhf.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from random_models import clocked, median_cpu, normal_events, random_model, resident_megabytes

import zfit_fnf as zfnf
from zfit_fnf.common.parallel import workers
from zfit_fnf.pdf import components


def likelihoods(
    model: zfit.pdf.BasePDF, data: object, *, max_memory: float | None = None
) -> tuple[zfit.loss.UnbinnedNLL, zfit.loss.UnbinnedNLL]:
    """The exact and the accelerated one, with all parameters at zero."""
    nll = zfnf.loss.UnbinnedNLL(model, data)
    for parameter in nll.get_params():
        parameter.set_value(0.0)
    return nll, zfnf.accelerate(nll, max_memory=max_memory)


def drawn(model: zfit.pdf.BasePDF, n: int, *, seed: int, largest: float) -> dict[str, np.ndarray]:
    """Events of a model with its nuisances at random values up to a size."""
    zfit.settings.set_seed(seed)
    params = sorted(model.get_params(), key=lambda parameter: parameter.name)
    values = np.random.default_rng(seed).uniform(-largest, largest, size=len(params))
    with zfit.param.set_values(params, values):
        pieces = [model.sample(min(100_000, n - start)).value().numpy() for start in range(0, n, 100_000)]
    return dict(zip(model.obs, np.concatenate(pieces).T, strict=True))


def minimise(nll: zfit.loss.UnbinnedNLL) -> zfit.result.FitResult:
    """MIGRAD from zero, to a hundredth of an error."""
    for parameter in nll.get_params():
        parameter.set_value(0.0)
    return zfnf.Minuit(tol=1e-5).minimize(nll)


def measure_fit(n_events: int, n_nuisances: int, **shape: object) -> dict:
    """MIGRAD and HESSE from zero with everything included, on one data set and on the next one."""
    model = random_model(n_nuisances, **shape)
    report: dict = {"events": n_events, "nuisances": n_nuisances, **shape}
    for label, seed in (("first", 1), ("next", 2)):
        nll, fast = likelihoods(model, drawn(model, n_events, seed=seed, largest=1.0))
        fits: list = []
        report[f"{label}_migrad_hesse_cpu_s"], report[f"{label}_migrad_hesse_wall_s"] = clocked(
            lambda fast=fast, fits=fits: (fits.append(minimise(fast)), fits[0].hesse(method="hesse_np", name="np"))
        )
        report[f"{label}_valid"] = bool(fits[0].valid)
        report[f"{label}_expansions"], report[f"{label}_exact_edm"] = fast.report.n_expansions, fast.report.exact_edm
    params = list(nll.get_params())
    for label, loss in (("exact", nll), ("accelerated", fast)):
        report[f"{label}_value_cpu_s"] = median_cpu(lambda loss=loss: float(loss.value(full=False)))
        report[f"{label}_value_gradient_cpu_s"] = median_cpu(
            lambda loss=loss: loss.value_gradient(params, full=False)[1].numpy()
        )
    report["matrix_products_cpu_s"] = matrix_products(model, n_events)
    report["ratio_value_gradient"] = report["exact_value_gradient_cpu_s"] / report["accelerated_value_gradient_cpu_s"]
    report["resident_MB"] = resident_megabytes()
    return report


def measure_large(n_events: int, n_nuisances: int, *, gigabytes: float) -> dict:
    """MIGRAD and HESSE of as many events as memory holds, and what all of it takes; nothing was compiled before.

    Events are drawn by another process, whose memory is not counted.
    """
    with workers(1) as executor:
        data = executor.submit(drawn_with_ten_nuisances, n_events).result()
    model = random_model(n_nuisances)
    _, fast = likelihoods(model, data, max_memory=1e9 * gigabytes)
    report: dict = {"events": n_events, "nuisances": n_nuisances, "max_memory_GB": gigabytes}
    fits: list = []
    report["migrad_hesse_cpu_s"], report["migrad_hesse_wall_s"] = clocked(
        lambda: (fits.append(minimise(fast)), fits[0].hesse(method="hesse_np", name="np"))
    )
    report["valid"], report["edm"], report["exact_edm"] = fits[0].valid, fits[0].edm, fast.report.exact_edm
    report["expansions"], report["exact_evaluations"] = fast.report.n_expansions, fast.report.n_exact
    report["exact_events"] = fast.report.exact_events
    params = list(fits[0].params)
    report["value_gradient_cpu_s"] = median_cpu(lambda: fast.value_gradient(params, full=False)[1].numpy(), 3)
    report["peak_memory_GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return report


def drawn_with_ten_nuisances(n_events: int) -> dict[str, np.ndarray]:
    """Events of a model with all but the first ten nuisances at zero: in a tenth of the time."""
    return drawn(random_model(10), n_events, seed=1, largest=1.0)


def matrix_products(model: zfit.pdf.BasePDF, n_events: int) -> float:
    """The machine's limit for the exact value and gradient: the products of its networks, forwards and backwards.

    Only the units that see a moved observable take part: what the others make of the conditions is kept.
    """
    chunk = 1024
    kernels = [
        kernel
        for part in components(model)
        if isinstance(part, zfnf.pdf.FNFPDF)
        for layer in part.deformation.flow.density.layers
        for kernel in layer.network.moving_kernels(tf.float32)
        if 0 not in kernel.shape
    ]
    units = [tf.random.normal((chunk, kernel.shape[0])) for kernel in kernels]

    @tf.function(jit_compile=True, autograph=False)
    def products(units: list[tf.Tensor]) -> list[tf.Tensor]:
        forwards = [layer @ kernel for layer, kernel in zip(units, kernels, strict=True)]
        return [tf.matmul(layer, kernel, transpose_b=True) for layer, kernel in zip(forwards, kernels, strict=True)]

    return median_cpu(lambda: [products(units)[0].numpy() for _ in range(-(-n_events // chunk))])


def measure_binned(n_events: int, n_bins: int) -> dict:
    """A binned fit of the same kind of data with pyhf, for orientation: it sees less, and is done sooner."""
    import pyhf

    model = random_model(2, interactions=True)
    names = sorted(parameter.name for parameter in model.get_params())
    edges = [np.concatenate([[-np.inf], np.linspace(-1.5, 1.5, n_bins - 1), [np.inf]])] * len(model.obs)

    def template(process: zfit.pdf.BasePDF, point: dict[str, float]) -> list[float]:
        zfit.settings.set_seed(1)
        params = {parameter: point.get(parameter.name, 0.0) for parameter in process.get_params()}
        with zfit.param.set_values(params):
            events = process.sample(n_events).value().numpy()
        return (np.histogramdd(events, edges)[0].ravel() / 2.0 + 1e-3).tolist()

    samples = []
    for number, process in enumerate(model.pdfs):
        shapes = {
            name: {"hi_data": template(process, {name: 1.0}), "lo_data": template(process, {name: -1.0})}
            for name in names
        }
        modifiers = [{"name": name, "type": "histosys", "data": data} for name, data in shapes.items()]
        samples.append({"name": f"process {number}", "data": template(process, {}), "modifiers": modifiers})
    samples[0]["modifiers"].append({"name": "mu", "type": "normfactor", "data": None})
    pyhf.set_backend("numpy", "minuit")
    binned = pyhf.Model({"channels": [{"name": "all", "samples": samples}]}, poi_name="mu")
    events = np.stack(list(drawn(model, n_events, seed=1, largest=1.0).values()), axis=1)
    data = [*np.histogramdd(events, edges)[0].ravel(), *binned.config.auxdata]
    start = pyhf.tensorlib.astensor(binned.config.suggested_init())
    report = {"events": n_events, "bins": n_bins ** len(model.obs), "pyhf": pyhf.__version__}
    report["value_cpu_s"] = median_cpu(lambda: binned.logpdf(start, data))
    report["migrad_hesse_cpu_s"], _ = clocked(lambda: pyhf.infer.mle.fit(data, binned, return_uncertainties=True))
    return report


def measure_scan(n_events: int, n_points: int) -> dict:
    """MINOS of both nuisances and a square grid, after a fit."""
    model = random_model(2, interactions=True)
    _, fast = likelihoods(model, drawn(model, n_events, seed=1, largest=1.0))
    fit = minimise(fast)
    params = tuple(fit.params)
    report = {"events": n_events, "points": n_points**2}
    report["minos_cpu_s"], _ = clocked(lambda: fit.errors(method="minuit_minos", name="minos"))
    report["scan_cpu_s"], _ = clocked(lambda: zfnf.scans.contour(fast, fit, params, n_points=n_points, progress=False))
    report["expansions"], report["exact_evaluations"] = fast.report.n_expansions, fast.report.n_exact
    return report


def measure_equality(n_events: int, n_nuisances: int, n_dim: int, *, seed: int) -> dict:
    """Distance to the exact minimum by a Newton step with the exact gradient, in standard deviations, and errors."""
    model = random_model(n_nuisances, n_dim=n_dim)
    nll, fast = likelihoods(model, drawn(model, n_events, seed=seed, largest=2.0))
    fit = minimise(fast)
    params = list(fit.params)
    zfit.param.set_values(params, [fit.params[parameter]["value"] for parameter in params])
    covariance = np.linalg.inv(fast.hessian(params).numpy())
    errors = np.sqrt(np.diag(covariance))
    row = {
        "events": n_events,
        "nuisances": n_nuisances,
        "dimensions": n_dim,
        "seed": seed,
        "valid": bool(fit.valid),
        "largest_value": float(np.abs([fit.params[parameter]["value"] for parameter in params]).max()),
        "largest_difference_in_sigma": float(np.abs(covariance @ nll.gradient(params).numpy() / errors).max()),
        "expansions": fast.report.n_expansions,
        "exact_evaluations": fast.report.n_exact,
    }
    exact = np.sqrt(np.diag(np.linalg.inv(nll.hessian(params).numpy())))
    row["largest_relative_difference_of_errors"] = float(np.abs(errors / exact - 1).max())
    print(json.dumps(row), file=sys.stderr)
    return row


def measure_evaluation(n_events: int, n_nuisances: int, **shape: object) -> dict:
    """First and later evaluations of value and gradient, and memory."""
    model = random_model(n_nuisances, **shape)
    n_dim = shape.get("n_dim", 2)
    nll, fast = likelihoods(model, normal_events(n_events, 1, n_dim=n_dim))
    params = list(nll.get_params())
    report: dict = {"events": n_events, "nuisances": n_nuisances, **shape}
    for label, loss in (("exact", nll), ("accelerated", fast)):
        call = lambda loss=loss: loss.value_gradient(params, full=False)[1].numpy()  # noqa: E731
        report[f"{label}_first_cpu_s"], report[f"{label}_first_wall_s"] = clocked(call)
        report[f"{label}_value_gradient_cpu_s"] = median_cpu(call)
    report["resident_MB"] = resident_megabytes()
    return report


def measure_impacts(n_events: int, n_nuisances: int) -> dict:
    """Impacts of all nuisances on one of them, after a fit."""
    model = random_model(n_nuisances)
    _, fast = likelihoods(model, drawn(model, n_events, seed=1, largest=1.0))
    fit = minimise(fast)
    poi = next(iter(fit.params))
    cpu, _ = clocked(lambda: zfnf.scans.impacts(fast, fit, poi, progress=False))
    return {"events": n_events, "nuisances": n_nuisances, "impacts_cpu_s": cpu}


def measure_reference(n_events: int) -> dict:
    """Value and gradient of the architecture of the published method, spline flows of zuko, beside ours.

    Two processes with p(x) and p(y | x) each: two spline transforms of 20 bins, residual networks of three layers of 128,
    random weights. The coefficients of the deformation are computed once beforehand, which favours the reference.
    """
    import torch
    import zuko

    torch.manual_seed(0)
    columns = torch.from_numpy(np.stack(list(normal_events(n_events, 1).values()), axis=1)).float()
    x, y = columns[:, :2], columns[:, 2:]
    options = {"transforms": 2, "bins": 20, "hidden_features": [128] * 3, "residual": True}
    parts = [(zuko.flows.NSF(2, 2, **options), y, x) for _ in range(2)]
    parts += [(zuko.flows.NSF(2, 0, **options), x, None) for _ in range(2)]
    monomials = 8  # two nuisances to second order, and their four products
    coefficients = [0.05 * torch.randn(n_events, monomials, 2, 2) for _ in parts]

    def value_and_gradient() -> torch.Tensor:
        nu = torch.full((2,), 0.3, requires_grad=True)
        powers = torch.stack([nu, nu**2], dim=1)
        basis = torch.cat([powers.reshape(-1), torch.outer(powers[0], powers[1]).reshape(-1)])
        total = torch.zeros(())
        for rows in torch.arange(n_events).split(10_000):
            log_p = []
            for (flow, event, context), table in zip(parts, coefficients, strict=True):
                log_scale, shift = torch.einsum("nmjk,m->knj", table[rows], basis)
                moved = event[rows] * log_scale.exp() + shift
                density = flow(None if context is None else context[rows])
                log_p.append(density.log_prob(moved) + log_scale.sum(dim=1))
            processes = torch.stack([log_p[0] + log_p[2], log_p[1] + log_p[3]])
            part = -torch.logsumexp(processes, dim=0).sum()
            part.backward(retain_graph=True)
            total = total + part.detach()
        return nu.grad

    report = {"events": n_events, "torch": torch.__version__, "zuko": zuko.__version__}
    report["reference_value_gradient_cpu_s"] = median_cpu(value_and_gradient, 3)
    ours = measure_evaluation(n_events, 2, interactions=True)
    for label in ("exact", "accelerated"):
        report[f"{label}_value_gradient_cpu_s"] = ours[f"{label}_value_gradient_cpu_s"]
        report[f"ratio_{label}"] = report["reference_value_gradient_cpu_s"] / report[f"{label}_value_gradient_cpu_s"]
    return report


CURVES = {
    "events": ("events", "events"),
    "nuisances": ("nuisances", "nuisance parameters"),
    "dimensions": ("n_dim", "observables"),
    "processes": ("n_processes", "processes"),
}
"""What a study varies: the key in its rows, and the label of the axis."""


def draw(report: dict, path: Path) -> None:
    """The curves that were measured: CPU time of value and gradient against what it may depend on."""
    import matplotlib.pyplot as plt

    found = [name for name in CURVES if name in report]
    figure, axes = plt.subplots(1, len(found), figsize=(3.4 * len(found), 3.6), layout="constrained", squeeze=False)
    for ax, name in zip(axes.flat, found, strict=True):
        rows = report["events"]["rows"] if name == "events" else report[name]
        key, title = CURVES[name]
        for label, color in (("exact", "0.5"), ("accelerated", "tab:blue")):
            points = [(row[key], row[f"{label}_value_gradient_cpu_s"]) for row in rows]
            ax.loglog(*zip(*points, strict=True), "o-", color=color, label=label)
        ax.set(xlabel=title, title=f"{rows[0]['events']:,} events" if name != "events" else "2 nuisance parameters")
        ax.set_xticks([row[key] for row in rows], [f"{row[key]:,}" for row in rows], minor=False)
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("value and gradient [CPU s]")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=100)


def slope(rows: list[dict], x: str, y: str) -> float:
    """Exponent of a power law through the rows."""
    return float(np.polyfit(np.log([row[x] for row in rows]), np.log([row[y] for row in rows]), 1)[0])


def measure_all_equalities(n_events: int, seed: int) -> list[dict]:
    """With few and many nuisances, in few and many observables."""
    shapes = [(n_dim, n_nuisances) for n_dim in (2, 5, 10) for n_nuisances in (2, 30)]
    return [measure_equality(n_events // (1 if d == 2 else 5), k, d, seed=seed) for d, k in shapes]


def measure_events() -> dict:
    """Evaluations of ever more events."""
    rows = [measure_evaluation(size, 2) for size in (10_000, 100_000, 1_000_000)]
    return {"rows": rows, "exponent": slope(rows, "events", "accelerated_value_gradient_cpu_s")}


STUDIES: dict[str, Callable[[int, int], dict | list[dict]]] = {
    "fit": lambda n, seed: measure_fit(n, 2, interactions=True),
    "scan": lambda n, seed: measure_scan(n, 41),
    "equality": measure_all_equalities,
    "nuisances": lambda n, seed: [measure_evaluation(n, k) for k in (2, 10, 30, 100)],
    "events": lambda n, seed: measure_events(),
    "dimensions": lambda n, seed: [measure_evaluation(n // 5, 10, n_dim=d) for d in (2, 5, 10, 20)],
    "processes": lambda n, seed: [measure_evaluation(n, 2, n_processes=count) for count in (1, 2, 4)],
    "impacts": lambda n, seed: measure_impacts(n, 30),
    "large": lambda n, seed: measure_large(1_000_000, 100, gigabytes=9.0),
    "reference": lambda n, seed: measure_reference(n),
    "binned": lambda n, seed: measure_binned(n, 6),
}
"""What can be measured, of a number of events and a seed."""


def main() -> None:
    """Measure what is asked for and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=STUDIES)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="of the events of equality")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="curves of what there is of events, nuisances, dimensions, processes")
    args = parser.parse_args()
    report: dict = {"cores": os.cpu_count(), "started": time.strftime("%Y-%m-%d %H:%M")}
    report |= {name: STUDIES[name](args.events, args.seed) for name in args.what}
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    if args.plot:
        draw(report, args.plot)


if __name__ == "__main__":
    main()

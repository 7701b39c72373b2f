"""Coverage of profiled nuisances: toys of distorted data, each with its own map and its own amortised profile.

    python benchmarks/doi_coverage.py --models models --toys 50 --folder toys --json coverage.json

The densities of simulation are trained once and stay as they are; events and the auxiliary measurements of the nuisances are
drawn anew for each toy. Toys are fitted in processes next to each other and are kept in a folder: interrupted, or with
more toys asked for, it goes on from there.

Of 50 toys of a valid likelihood, 68 +- 14 % of the intervals of one standard error contain the truth, and 88 % at least of
those of two, and pulls have a mean within 0.3 of zero and a width within 0.25 of one: about two standard deviations each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from doi import DISTORTIONS, TRUTH, X, Y, read_or_train
from toy_models import GEOMETRIES, NUISANCES, in_order, mixture

from zfit_fnf.common.files import complete
from zfit_fnf.common.parallel import run, workers
from zfit_fnf.datasets import ShiftSqueeze
from zfit_fnf.doi import TransferFit, fit_transfer
from zfit_fnf.doi.rows import make_loss
from zfit_fnf.doi.step1 import GlobalProblem
from zfit_fnf.doi.step2 import ProfileProblem
from zfit_fnf.minimize import Minuit
from zfit_fnf.samples import as_sample
from zfit_fnf.toys import hesse_errors


@dataclass(frozen=True)
class Study:
    """What is the same for all toys."""

    toy: ShiftSqueeze
    models: Path
    n_events: int
    hidden: tuple[int, ...] | None
    seed: int


class Fitter:
    """Fits toys one after the other, with everything compiled for the first one."""

    def __init__(self, study: Study):
        self.study = study
        self.model, nuisances = mixture(read_or_train(study.models, study.toy, 0, 0))  # they are there by now
        self.nuisances = dict(zip(NUISANCES, nuisances, strict=True))
        self._profile: ProfileProblem | None = None
        self._problem: GlobalProblem | None = None

    def __call__(self, index: int) -> dict[str, Any]:
        """One toy: both steps, MIGRAD and HESSE, and the exact likelihood of ``x`` alone for comparison."""
        study, started = self.study, time.process_time()
        data = study.toy.observe(study.n_events, TRUTH, distorted=True, seed=1_000_000 * study.seed + index)
        rng = np.random.default_rng([study.seed, index])
        for name, nuisance in self.nuisances.items():
            nuisance.observed.set_value(rng.normal(TRUTH[name]))
            nuisance.set_value(0.0)
        fit = self._step_1(data, index)
        self._profile = self._profile or ProfileProblem(fit, hidden=study.hidden, seed=index)
        # Without checks, which would double the cost: it is the coverage of all toys that is asked for.
        profiled = self._profile.solve(fit, window=None, n_checks=0, seed=index, progress=False)
        nll = make_loss(self._profile.pdf, fit.data)  # as profiled.loss(), but compiled for the first toy
        converged = Minuit().minimize(nll).converged
        errors = hesse_errors(nll, list(self.nuisances.values()))
        exact = study.toy.fit(data, of="x")
        return {
            "toy": index,
            "valid": profiled.valid and converged,
            "problems": profiled.problems,
            "values": [float(nuisance.value()) for nuisance in self.nuisances.values()],
            "errors": list(errors.values()),
            "x_only_values": in_order(exact.values).tolist(),
            "x_only_errors": in_order(exact.errors).tolist(),
            "cpu_seconds": time.process_time() - started,
        }

    def _step_1(self, data: pd.DataFrame, index: int) -> TransferFit:
        if self._problem:
            return self._problem.solve(as_sample(data, self.model.obs), seed=index, progress=False)
        hidden, options = self.study.hidden, {"seed": index, "progress": False}
        fit = fit_transfer(self.model, data, obs=Y, cond=X, hidden=hidden, **options)
        self._problem = fit.problem
        return fit


_fitter = cache(Fitter)
"""That of this process."""


def fit_toy(study: Study, index: int) -> dict[str, Any]:
    """One toy, in whichever process this is."""
    return _fitter(study)(index)


def fitted(study: Study, n_toys: int, folder: Path, n_processes: int) -> Iterator[dict[str, Any]]:
    """All toys: those that are in the folder, and the others as they are done."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {index: folder / f"toy_{index}.json" for index in range(n_toys)}
    yield from (json.loads(file.read_text()) for file in files.values() if file.exists())
    missing = [index for index, file in files.items() if not file.exists()]
    with workers(n_processes) as pool:
        for index, found in run(partial(fit_toy, study), missing, executor=pool, progress="toys"):
            with complete(files[index]) as draft:
                draft.write_text(json.dumps(found))
            yield found


def coverage(toys: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Covered truths and pulls by nuisance, of these fits and of exact ones to ``x`` alone."""
    values, errors, exact_values, exact_errors = (
        np.stack(toys[name]) for name in ("values", "errors", "x_only_values", "x_only_errors")
    )
    pulls = (values - in_order(TRUTH)) / errors
    exact_pulls = (exact_values - in_order(TRUTH)) / exact_errors
    columns = {
        "within_1_sigma": np.mean(np.abs(pulls) < 1.0, axis=0),
        "within_2_sigma": np.mean(np.abs(pulls) < 2.0, axis=0),
        "mean_pull": pulls.mean(axis=0),
        "width_of_pulls": pulls.std(axis=0, ddof=1),
        "x_only_within_1_sigma": np.mean(np.abs(exact_pulls) < 1.0, axis=0),
        "x_only_mean_pull": exact_pulls.mean(axis=0),
        "x_only_width_of_pulls": exact_pulls.std(axis=0, ddof=1),
        "error_ratio_to_x_only": np.median(errors / exact_errors, axis=0),
    }
    return pd.DataFrame(columns, index=NUISANCES).to_dict(orient="index")


def main() -> None:
    """Fit the toys and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=50)
    parser.add_argument("--events", type=int, default=20_000, help="events per toy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="default")
    parser.add_argument("--distortion", choices=DISTORTIONS, default="default")
    parser.add_argument("--models", type=Path, required=True, help="folder of densities; trained if there are none")
    parser.add_argument("--simulated", type=int, default=2_000_000, help="simulated events per sample, to train them")
    parser.add_argument(
        "--hidden", type=int, help="width of the hidden layers; by default that of fit_transfer and profile"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where toys that are done are kept")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    toy = replace(GEOMETRIES[args.geometry], **DISTORTIONS[args.distortion])
    read_or_train(args.models, toy, args.simulated, args.seed)
    study = Study(toy, args.models, args.events, (args.hidden,) * 2 if args.hidden else None, args.seed)
    toys = pd.DataFrame(list(fitted(study, args.toys, args.folder, args.processes)))
    valid = toys[toys["valid"]]
    report = {
        **{name: getattr(args, name) for name in ("seed", "geometry", "distortion", "events")},
        "toys": len(toys),
        "valid": len(valid),
        "coverage": coverage(valid),
        "coverage_of_all": coverage(toys),
        "problems": [problem for problems in toys["problems"] for problem in problems],
        "cpu_seconds_per_toy": float(toys["cpu_seconds"].median()),
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Coverage of profiled parameters: toys of distorted data, each with its own map and its own profile.

    python benchmarks/doi_coverage.py --case bent --toys 100 --folder toys --json coverage.json

The densities of simulation are exact; events, their number and the auxiliary measurements of the nuisances are new in each
toy. A signal strength and a free yield are fitted with the nuisances. Toys are fitted in processes next to each other and
are kept in a folder: interrupted, or with more toys asked for, it goes on from there.

With ``--checks 3`` profiles of right fits that are not valid are false alarms. With ``--wrong 0.5`` the map moves with the
parameters by half of what it should, and profiles that are valid have passed wrongly.

With ``--replicas 50`` events are unfolded in bins of each observable where simulation has it, and the error of a bin, with that
of the map from replicas, is compared with the scatter of the toys and with the true numbers.

Of 100 toys of a valid likelihood, 68 +- 9 % of the intervals of one standard error contain the truth and 95 +- 4 % of those of
two, pulls have a mean within 0.2 of zero and a width within 0.12 of one: two standard deviations each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from doi import CASES, TRUTH, X, Y, observed
from exact_models import exact_mixture

import zfit_fnf as zfnf
from zfit_fnf.common.files import complete
from zfit_fnf.common.parallel import run, workers
from zfit_fnf.doi import ProfiledFit, TransferFit, bootstrap, fit_transfer, scenarios, unfolded
from zfit_fnf.doi.regression import Regression
from zfit_fnf.doi.rows import make_loss
from zfit_fnf.doi.step1 import GlobalProblem
from zfit_fnf.doi.step2 import ProfileProblem
from zfit_fnf.minimize import Minuit
from zfit_fnf.samples import as_sample
from zfit_fnf.toys import hesse_errors

_MANY = 100  # toys, for which to compile
BINS = np.linspace(-2.0, 2.0, 9)
_TRUE = 2_000_000  # simulated events, for the true numbers in bins


@dataclass(frozen=True)
class Study:
    """What is the same for all toys."""

    case: str
    n_events: int
    hidden: tuple[int, ...] | None
    n_checks: int
    wrong: float
    n_replicas: int
    seed: int

    @property
    def truth(self) -> dict[str, float]:
        """True values of the parameters, by name."""
        return {"mu": 1.0, "n_B": 0.5 * self.n_events, **TRUTH}


class Fitter:
    """Fits toys one after the other, with everything compiled for the first one."""

    def __init__(self, study: Study):
        self.study = study
        if study.wrong != 1.0:
            right = Regression.directions
            Regression.directions = lambda self: study.wrong * right(self)  # type: ignore[method-assign]
        toy = CASES[study.case][0]
        self.model, self.nuisances = exact_mixture(toy, n_events=study.n_events)
        # Parameters of one name are different ones; the auxiliary measurements of a toy are the same for both.
        self.of_x, self.other_nuisances = exact_mixture(toy, only_x=True, n_events=study.n_events)
        self._profile: ProfileProblem | None = None
        self._problem: GlobalProblem | None = None

    def __call__(self, index: int) -> dict[str, Any]:
        """One toy: both steps, MIGRAD and HESSE, and the exact likelihood of ``x`` alone for comparison."""
        study, started = self.study, time.process_time()
        rng = np.random.default_rng([study.seed, index])
        n_events = int(rng.poisson(study.n_events))
        data = observed(study.case, n_events, 1_000_000 * study.seed + index)
        for pair in zip(self.nuisances, self.other_nuisances, strict=True):
            measured = rng.normal(TRUTH[pair[0].name])
            for nuisance in pair:
                nuisance.observed.set_value(measured)
        self._start(self.model)
        fit = self._step_1(data, index)
        self._profile = self._profile or ProfileProblem(fit)
        profiled = self._profile.solve(fit, window=None, n_checks=study.n_checks, seed=index)
        spectra = unfolded_bins(profiled, study.n_replicas, index) if study.n_replicas else {}
        fitted = self._fitted(make_loss(profiled.pdf, fit.data))
        self._start(self.of_x)
        return {
            "toy": index,
            "valid": profiled.valid and fitted["converged"],
            "problems": profiled.problems,
            **fitted,
            "bins": spectra,
            "efficient": dict(zip(profiled.bounds.names, profiled.bounds.errors["efficient"].tolist(), strict=True)),
            "of_x": self._fitted(zfnf.loss.ExtendedUnbinnedNLL(self.of_x, data[X])),
            "cpu_seconds": time.process_time() - started,
        }

    def _start(self, model: zfit.pdf.BasePDF) -> None:
        for parameter in model.get_params(floating=True):
            parameter.set_value(self.study.truth[parameter.name] if parameter.name not in TRUTH else 0.0)

    @staticmethod
    def _fitted(nll: zfit.loss.BaseLoss) -> dict[str, Any]:
        result = Minuit().minimize(nll)
        params = list(result.params)
        errors = hesse_errors(nll, params)
        return {
            "converged": bool(result.converged),
            "values": {parameter.name: float(parameter.value()) for parameter in params},
            "errors": {parameter.name: float(errors[parameter]) for parameter in params},
        }

    def _step_1(self, data: pd.DataFrame, index: int) -> TransferFit:
        if self._problem:
            return self._problem.solve(as_sample(data, self.model.obs), seed=index, progress=False)
        options = {"hidden": self.study.hidden, "seed": index, "progress": False}
        fit = fit_transfer(self.model, data, obs=Y, cond=X, **options)
        self._start(self.model)
        self._problem = GlobalProblem(self.model, fit.transfer, fit.problem.schedule, n_fits=_MANY)
        zfit.param.set_values(self._problem.params, [fit.values[one.name] for one in self._problem.params])
        return fit


def unfolded_bins(profiled: ProfiledFit, n_replicas: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Numbers of events in bins of each observable in simulation, with their errors."""
    maps = scenarios(bootstrap(profiled, n_replicas, seed=seed))
    found = {}
    for name in Y:
        band = maps.evaluate(unfolded(profiled.fit.data, {name: BINS}))
        found[name] = {part: getattr(band, part).tolist() for part in ("value", "statistical", "total")}
    return found


def true_bins(case: str, n_events: int, name: str) -> np.ndarray:
    """Expected numbers of events in those bins, from many simulated ones at the true parameters."""
    events = CASES[case][0].observe(_TRUE, TRUTH, seed=99)
    return np.histogram(events[name], BINS)[0] * n_events / _TRUE


@lru_cache(maxsize=1)
def fitter(study: Study) -> Fitter:
    """Of this process."""
    return Fitter(study)


def fit_toy(study: Study, index: int) -> dict[str, Any]:
    """One toy, in whichever process this is."""
    return fitter(study)(index)


def toys_of(study: Study, n_toys: int, folder: Path, n_processes: int) -> Iterator[dict[str, Any]]:
    """All toys: those that are in the folder, and the others as they are done."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {index: folder / f"toy_{index}.json" for index in range(n_toys)}
    yield from (json.loads(file.read_text()) for file in files.values() if file.exists())
    missing = [index for index, file in files.items() if not file.exists()]
    if not missing:
        return
    with workers(n_processes) as pool:
        for index, found in run(partial(fit_toy, study), missing, executor=pool, progress="toys"):
            with complete(files[index]) as draft:
                draft.write_text(json.dumps(found))
            yield found


def coverage(toys: list[dict[str, Any]], truth: dict[str, float]) -> dict[str, dict[str, float]]:
    """Covered truths and pulls by parameter, of these fits and of exact ones to ``x`` alone."""
    rows = {}
    for name, true in truth.items():
        values, errors, efficient = (
            np.array([toy[key][name] for toy in toys]) for key in ("values", "errors", "efficient")
        )
        of_x, of_x_errors = (np.array([toy["of_x"][key][name] for toy in toys]) for key in ("values", "errors"))
        pulls, exact_pulls = (values - true) / errors, (of_x - true) / of_x_errors
        rows[name] = {
            "within_1_sigma": float(np.mean(np.abs(pulls) < 1.0)),
            "within_2_sigma": float(np.mean(np.abs(pulls) < 2.0)),
            "mean_pull": float(pulls.mean()),
            "width_of_pulls": float(pulls.std(ddof=1)),
            "x_only_mean_pull": float(exact_pulls.mean()),
            "x_only_width_of_pulls": float(exact_pulls.std(ddof=1)),
            "error_ratio_to_x_only": float(np.median(errors / of_x_errors)),
            "error_ratio_to_efficient": float(np.median(errors / efficient)),
        }
    return rows


def bins(toys: list[dict[str, Any]], study: Study) -> dict[str, dict[str, float]]:
    """Errors of bins against the scatter of the toys, and how many true numbers they cover."""
    rows = {}
    for name in Y:
        value, statistical, total = (
            np.array([toy["bins"][name][part] for toy in toys]) for part in ("value", "statistical", "total")
        )
        true = true_bins(study.case, study.n_events, name)
        rms = {"scatter": value.std(axis=0, ddof=1), "statistical": statistical, "total": total}
        rows[name] = {part: float(np.sqrt(np.mean(np.square(own)))) for part, own in rms.items()}
        rows[name] |= {
            "bias": float(np.sqrt(np.mean((value.mean(axis=0) - true) ** 2))),
            "within_1_sigma": float(np.mean(np.abs(value - true) < total)),
        }
    return rows


def main() -> None:
    """Fit the toys and print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=100)
    parser.add_argument("--events", type=int, default=20_000, help="expected events per toy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", choices=CASES, default="bent")
    parser.add_argument("--hidden", type=int, help="width of the hidden layers; by default that of fit_transfer")
    parser.add_argument("--checks", type=int, default=0, help="n_checks= of each profile, to count false alarms")
    parser.add_argument("--wrong", type=float, default=1.0, help="factor of the directions that the map moves by")
    parser.add_argument("--replicas", type=int, default=0, help="of each toy, to unfold its events in bins")
    parser.add_argument("--folder", type=Path, required=True, help="where toys that are done are kept")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    hidden = (args.hidden,) * 2 if args.hidden else None
    study = Study(args.case, args.events, hidden, args.checks, args.wrong, args.replicas, args.seed)
    toys = list(toys_of(study, args.toys, args.folder, args.processes))
    valid = [toy for toy in toys if toy["valid"]]
    report = {
        **{name: getattr(args, name) for name in ("seed", "case", "events", "checks", "wrong")},
        "toys": len(toys),
        "valid": len(valid),
        "coverage": coverage(valid, study.truth) if len(valid) > 1 else {},
        "coverage_of_all": coverage(toys, study.truth),
        "bins": bins(toys, study) if args.replicas and len(toys) > 1 else {},
        "problems": [problem for toy in toys for problem in toy["problems"]],
        "cpu_seconds_per_toy": float(np.median([toy["cpu_seconds"] for toy in toys])),
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

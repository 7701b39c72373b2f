r"""Distributions of Interest of problems that are drawn at random, with all defaults, against what is known exactly.

    python benchmarks/random_doi.py --problems 10 --first-seed 1 --json random_doi.json

One or two observables ``y``, of normal, skewed, falling, or bounded densities or with two peaks, given none to two Gaussian
conditions ``x``; one or two processes with a map each or one for both; two nuisances that move ``x``, ``y``, or both; a signal
strength and, where the conditions tell the processes apart, the number of background events. Data are distorted by an
increasing function of each observable, by a drift with ``x`` and by a leak from the other observable.

No map changes what ``x`` and the number of events say, and it can absorb what ``y`` says: estimates are compared with
those of their exact likelihood, ``off``, in its errors, and ``ratio`` is the error over the exact one. A nuisance that moves
``y`` alone keeps its constraint. ``pull`` is the difference to the truth. Events of each data set are unfolded in eight bins of
each observable in simulation with the same number of expected events, and compared with these numbers: ``bins``, in total errors.
With one map of one observable, where it takes distorted events is compared with where simulation had them: ``map``, the
difference in standard deviations of the observable and the part within the bands.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import zfit  # before tensorflow, which it silences
import iminuit
import numpy as np
import pandas as pd
import tensorflow as tf
from random_analyses import sentences
from random_problems import study
from scipy import stats

import zfit_fnf as zfnf
from zfit_fnf.doi import ProfiledFit, bootstrap, fit_transfer, scenarios, unfolded
from zfit_fnf.doi.step2 import ProfileProblem
from zfit_fnf.param import values_of
from zfit_fnf.pdf import UNBOUNDED, LogSpacePDF
from zfit_fnf.pdf.drawing import new_seed
from zfit_fnf.samples import as_sample

NUISANCES = ("a", "b")
REPLICAS, BINS, TRUE = 50, 8, 400_000
EVERYWHERE, POSITIVE, UNIT = (-UNBOUNDED, UNBOUNDED), (0.0, UNBOUNDED), (0.0, 1.0)
LAWS = {"normal": EVERYWHERE, "skewed": EVERYWHERE, "peaks": EVERYWHERE} | {
    "falling": POSITIVE,
    "humped": POSITIVE,
    "bounded": UNIT,
}
"""Of an observable, with its range."""

DISTORTIONS = ("none", "stretch", "sinh", "asinh", "wave")

Values = Mapping[str, Any]


def log_law(law: str, y: tf.Tensor, place: Any, width: Any) -> tf.Tensor:
    """Log-density of a law that is moved and stretched; without a range on both sides these are what they say."""
    if law == "bounded":
        power = 2.5 * tf.exp(-0.5 * place) / width
        y = tf.clip_by_value(y, 1e-12, 1.0 - 1e-12)  # a map may take an event to an edge in float64
        return tf.math.log(1.5 * power) + 0.5 * tf.math.log(y) + (power - 1.0) * tf.math.log1p(-(y**1.5))
    z, log_width = standard(law, y, place, width), tf.math.log(width) + (0.5 * place if LAWS[law] == POSITIVE else 0.0)
    if law == "peaks":
        sides = [-0.5 * tf.square((z - side) / 0.5) for side in (-1.2, 1.2)]
        return tf.reduce_logsumexp(tf.stack(sides), axis=0) - np.log(np.sqrt(2.0 * np.pi)) - log_width
    shape = {
        "normal": lambda: -0.5 * z**2 - 0.5 * np.log(2.0 * np.pi),
        "skewed": lambda: -(z + tf.exp(-z)),
        "falling": lambda: -z,
        "humped": lambda: tf.math.log(z) - 0.5 * z**2,
    }[law]()
    return shape - log_width


def standard(law: str, y: Any, place: Any, width: Any) -> Any:
    """What an observable is before it is moved and stretched."""
    if law == "bounded":
        return 4.0 * (y - 0.4)
    return y / (width * tf.exp(0.5 * place)) if LAWS[law] == POSITIVE else (y - place) / width


def quantile(law: str, rank: tf.Tensor, place: Any, width: Any) -> tf.Tensor:
    """The observable of a rank."""
    if law == "bounded":
        return (1.0 - rank ** (width * tf.exp(0.5 * place) / 2.5)) ** (1.0 / 1.5)
    upper = tf.cast(rank > 0.5, rank.dtype)
    z = {
        "normal": lambda: tf.math.ndtri(rank),
        "skewed": lambda: -tf.math.log(-tf.math.log(rank)),
        "peaks": lambda: 2.4 * upper - 1.2 + 0.5 * tf.math.ndtri(2.0 * rank - upper),
        "falling": lambda: -tf.math.log(rank),
        "humped": lambda: tf.sqrt(-2.0 * tf.math.log(rank)),
    }[law]()
    return z * width * tf.exp(0.5 * place) if LAWS[law] == POSITIVE else place + width * z


@dataclass(frozen=True)
class Process:
    """A process whose density is known."""

    name: str
    laws: tuple[str, ...]
    centres: tuple[float, ...]
    place: float
    width: float
    slope: float
    correlation: float
    kinds: Mapping[str, str]
    """What each nuisance moves, ``x``, ``y`` or ``both``, and how it changes ``y``, ``shift`` or ``stretch``."""
    sizes: Mapping[str, tuple[float, float]]
    """In ``x`` and ``y``."""

    @property
    def columns(self) -> list[str]:
        return [*(f"x{i + 1}" for i in range(len(self.centres))), *(f"y{i + 1}" for i in range(len(self.laws)))]

    def moved(self, of: str, nu: Values) -> Any:
        """What the nuisances do to the first condition, ``x``, or ``shift`` and ``stretch`` of observables."""
        where, found = 0 if of == "x" else 1, 0.0
        for name, (kind, how) in ((name, kind.split()) for name, kind in self.kinds.items()):
            if kind in ("both", "x" if of == "x" else "y") and of in ("x", how):
                found = found + self.sizes[name][where] * nu[name]
        return found

    def means(self, nu: Values) -> list[Any]:
        """Of the conditions, whose widths are one."""
        return [centre + (self.moved("x", nu) if i == 0 else 0.0) for i, centre in enumerate(self.centres)]

    def of_y(self, x: list[tf.Tensor], y: list[tf.Tensor], nu: Values) -> tuple[Any, Any]:
        """Place and width of the next observable, given the conditions and those before."""
        shift, stretch = (tf.cast(self.moved(how, nu), tf.float64) for how in ("shift", "stretch"))
        place, width = self.place + shift, self.width * tf.exp(stretch)
        if x:
            place = place + self.slope * tf.tanh(x[0])
        if len(x) > 1:
            width = width * tf.exp(0.2 * tf.tanh(x[1]))
        if y:
            place = place + self.correlation * tf.tanh(standard(self.laws[0], y[0], *self.of_y(x, [], nu)))
        return place, width

    def log_density(self, columns: list[tf.Tensor], nu: Values) -> tf.Tensor:
        x, y = columns[: len(self.centres)], columns[len(self.centres) :]
        parts = [
            -0.5 * (own - mean) ** 2 - 0.5 * np.log(2.0 * np.pi) for own, mean in zip(x, self.means(nu), strict=True)
        ]
        parts += [log_law(law, y[i], *self.of_y(x, y[:i], nu)) for i, law in enumerate(self.laws)]
        return tf.add_n(parts)

    def events(self, ranks: list[tf.Tensor], nu: Values) -> list[tf.Tensor]:
        x = [tf.math.ndtri(rank) + mean for rank, mean in zip(ranks, self.means(nu), strict=False)]
        y: list[tf.Tensor] = []
        for law, rank in zip(self.laws, ranks[len(x) :], strict=True):
            y.append(quantile(law, rank, *self.of_y(x, y, nu)))
        return [*x, *y]


class ProcessPDF(LogSpacePDF):
    """The density of a process for zfit."""

    def __init__(
        self, process: Process, params: dict[str, Any], extended: Any, name: str = "", label: str | None = None
    ):
        self._arguments = {"process": process, "params": params, "extended": extended, "name": name, "label": label}
        self._process, self.cond = process, ()
        self.ranges = dict.fromkeys(process.columns, EVERYWHERE)
        self.ranges |= {f"y{i + 1}": LAWS[law] for i, law in enumerate(process.laws)}
        first, *others = (zfit.Space(column, *limits) for column, limits in self.ranges.items())
        for other in others:
            first = first * other
        super().__init__(obs=first, params=params, extended=extended, name=name or process.name, label=label)

    def _nu(self) -> dict[str, tf.Tensor]:
        return dict(zip(NUISANCES, tf.unstack(values_of([self.params[name] for name in NUISANCES])), strict=True))

    def _precompute(self, x: tf.Tensor) -> tf.Tensor:
        return x

    def _log_shape(self, precomputed: tf.Tensor) -> tf.Tensor:
        return self._process.log_density(tf.unstack(tf.cast(precomputed, tf.float64), axis=1), self._nu())

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        shape = (tf.shape(context)[0], len(self._process.columns))
        ranks = tf.unstack(tf.random.stateless_uniform(shape, new_seed(), 1e-12, 1.0, tf.float64), axis=1)
        return tf.stack(self._process.events(ranks, self._nu()), axis=1)


def distorted(y: np.ndarray, law: str, kind: str, size: float) -> np.ndarray:
    """An increasing function that keeps the range, by about so much of a width."""
    if LAWS[law] == UNIT:
        return y + min(size, 0.9) * np.sin(2.0 * np.pi * y) / (2.0 * np.pi) if kind == "wave" else y ** np.exp(size)
    return {
        "none": lambda: y,
        "stretch": lambda: y * (1.0 + 0.5 * size) + (0.3 * size if LAWS[law] == EVERYWHERE else 0.0),
        "sinh": lambda: np.sinh(size * y) / size,
        "asinh": lambda: np.arcsinh(2.0 * size * y) / (2.0 * size),
        "wave": lambda: y + 0.4 * size * (np.sin(2.0 * y)),
    }[kind]()


@dataclass(frozen=True)
class Problem:
    """One problem, drawn with its seed."""

    seed: int

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What it is, ready for JSON."""
        rng = np.random.default_rng(self.seed)
        n_y, n_x, n_processes = int(rng.integers(1, 3)), int(rng.integers(3)), int(rng.integers(1, 3))
        outside = n_x == 1 and n_processes == 1 and n_y == 1 and bool(rng.integers(2))
        kinds = ["x", "y", "both"] if n_x else ["y"]
        return {
            "laws": [str(rng.choice(list(LAWS))) for _ in range(n_y)],
            "conditions": n_x,
            "outside": outside,
            "processes": n_processes,
            "shared": bool(rng.integers(2)),
            "events": int(np.exp(rng.uniform(np.log(2000), np.log(30_000)))),
            "share": float(rng.uniform(0.1, 0.7)),
            "apart": float(rng.uniform(1.0, 3.0)),
            "place": float(rng.uniform(-0.8, 0.8)),
            "slope": 0.0 if outside else float(rng.uniform(-0.6, 0.6)),
            "correlation": float(rng.choice([0.0, rng.uniform(-0.8, 0.8)])),
            "kinds": {name: f"{rng.choice(kinds)} {rng.choice(['shift', 'stretch'])}" for name in NUISANCES},
            "sizes": rng.uniform(0.05, 0.35, size=(2, 2)).tolist(),
            "distortion": [(str(rng.choice(DISTORTIONS)), float(rng.uniform(0.1, 1.0))) for _ in range(n_y)],
            "drift": float(rng.choice([0.0, rng.uniform(0.0, 0.5)])) if n_x and not outside else 0.0,
            "leak": float(rng.choice([0.0, rng.uniform(0.0, 0.5)])) if n_y == 2 else 0.0,
        }

    @property
    def obs(self) -> list[str]:
        return [f"y{i + 1}" for i in range(len(self.settings["laws"]))]

    @property
    def cond(self) -> list[str]:
        return [f"x{i + 1}" for i in range(0 if self.settings["outside"] else self.settings["conditions"])]

    @property
    def columns(self) -> list[str]:
        return self.processes[0].columns

    @property
    def one_map(self) -> bool:
        """Whether the map is the only one."""
        return len(self.obs) == 1 and (self.settings["processes"] == 1 or self.settings["shared"])

    @cached_property
    def processes(self) -> list[Process]:
        has, found = self.settings, []
        for index, name in enumerate(["signal", "background"][: has["processes"]]):
            sign = 1.0 if index == 0 else -1.0
            centres = tuple(0.5 * sign * has["apart"] for _ in range(has["conditions"]))
            sizes = {key: tuple(sign * size for size in own) for key, own in zip(NUISANCES, has["sizes"], strict=True)}
            place, width = sign * has["place"], 1.0 if index == 0 else 1.3
            shape = (place, width, sign * has["slope"], has["correlation"], has["kinds"], sizes)
            found.append(Process(name, tuple(has["laws"]), centres, *shape))
        return found

    @property
    def yields(self) -> dict[str, float]:
        n, share = self.settings["events"], self.settings["share"]
        return {"signal": n} if len(self.processes) == 1 else {"signal": share * n, "background": (1.0 - share) * n}

    @property
    def floating(self) -> list[str]:
        return ["mu", *(["nb"] if len(self.processes) == 2 and self.cond else []), *NUISANCES]

    def truth(self) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, 3])
        found = {"mu": 1.0, "nb": 1.0} | {name: float(np.clip(rng.normal(), -1.5, 1.5)) for name in NUISANCES}
        return {name: found[name] for name in self.floating}

    def simulated(self, process: Process, n: int, rng: np.random.Generator) -> pd.DataFrame:
        """Events at the truth where simulation has them."""
        ranks = [tf.constant(rng.uniform(1e-12, 1.0, n)) for _ in process.columns]
        return pd.DataFrame(dict(zip(process.columns, process.events(ranks, self.truth()), strict=True)), dtype=float)

    def observed(self, events: pd.DataFrame) -> pd.DataFrame:
        """The same events where data have them."""
        has, moved = self.settings, {}
        for name, law, (kind, size) in zip(self.obs, has["laws"], has["distortion"], strict=True):
            moved[name] = distorted(events[name].to_numpy(), law, kind, size)
            drift = has["drift"] * np.tanh(events["x1"].to_numpy()) if has["conditions"] else 0.0
            if name == "y1" and len(self.obs) == 2:
                drift = drift + has["leak"] * np.tanh(events["y2"].to_numpy())
            by = {EVERYWHERE: lambda y, by: y + by, POSITIVE: lambda y, by: y * np.exp(by)}
            moved[name] = by.get(LAWS[law], lambda y, by: y ** np.exp(by))(moved[name], drift)
        return events.assign(**moved)

    def model(self) -> tuple[zfit.pdf.BasePDF, dict[str, Any]]:
        """Density of simulation, and its parameters."""
        params: dict[str, Any] = {name: zfnf.nuisance(name) for name in NUISANCES}
        for name in ("mu", "nb"):
            if name in self.floating:
                params[name] = zfit.Parameter(name, 1.0, 0.0, 5.0)
        pdfs = []
        for process, name in zip(self.processes, ("mu", "nb"), strict=False):
            n = self.yields[process.name]
            extended = zfnf.modified_yield(n, [params[name]]) if name in params else n
            pdfs.append(ProcessPDF(process, {key: params[key] for key in NUISANCES}, extended))
        return (zfnf.pdf.SumPDF(pdfs) if len(pdfs) > 1 else pdfs[0]), params

    def of_x(self, data: pd.DataFrame, auxiliary: Mapping[str, float]) -> iminuit.Minuit:
        """The exact likelihood of conditions and number of events."""
        x = [data[name].to_numpy() for name in self.columns if name.startswith("x")]

        def nll(*values: float) -> float:
            at = dict(zip(self.floating, values, strict=True))
            rates, total = [], 0.0
            for process, name in zip(self.processes, ("mu", "nb"), strict=False):
                n = at.get(name, 1.0) * self.yields[process.name]
                total += n
                logs = [stats.norm.logpdf(own, mean) for own, mean in zip(x, process.means(at), strict=True)]
                rates.append(n * np.exp(np.sum(logs, axis=0)))
            rate = np.sum(rates, axis=0)
            events = np.log(rate).sum() if x else len(data) * np.log(rate)
            return float(2.0 * (total - events) + sum((at[key] - auxiliary[key]) ** 2 for key in NUISANCES))

        minuit = iminuit.Minuit(nll, *(float(name in ("mu", "nb")) for name in self.floating), name=self.floating)
        minuit.errors = [0.05 if name in ("mu", "nb") else 0.5 for name in self.floating]
        for name in ("mu", "nb"):
            if name in self.floating:
                minuit.limits[name] = (0.0, 5.0)
        minuit.migrad().hesse()
        return minuit


def unfolding(problem: Problem, maps: Any, data: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """Numbers of events in bins of each observable in simulation against the expected ones."""
    rng, found = np.random.default_rng([problem.seed, 7]), {}
    parts = [problem.simulated(process, TRUE, rng) for process in problem.processes]
    weights = np.concatenate([np.full(TRUE, problem.yields[one.name] / TRUE) for one in problem.processes])
    for name in problem.obs:
        values = np.concatenate([part[name] for part in parts])
        order = np.argsort(values)
        inner = np.interp(np.arange(1, BINS) / BINS * weights.sum(), np.cumsum(weights[order]), values[order])
        edges = np.concatenate([[-1e9], inner, [1e9]])
        true = np.histogram(values, edges, weights=weights)[0]
        band = maps.evaluate(unfolded(data, {name: edges}))
        found[name] = {"off": (band.value - true).tolist(), "total": band.total.tolist()}
    return found


def of_map(problem: Problem, maps: Any, simulated: pd.DataFrame) -> dict[str, float]:
    """Where the best map takes events, and how often its bands cover that."""
    moved = problem.observed(simulated)
    name = str(problem.processes[0].name)
    process = {} if len(problem.processes) == 1 else {"process": name}
    band = maps.evaluate(lambda variation: variation.to_simulation(moved, **process)[problem.obs[0]].to_numpy())
    true = simulated[problem.obs[0]].to_numpy()
    off = np.abs(band.value - true)
    return {"rms": float(np.sqrt(np.mean(off**2)) / true.std()), "covered": float(np.mean(off < band.total))}


def solved(seed: int, n_data: int) -> dict[str, Any]:
    """One problem: fits of several data sets, compiled for the first one."""
    problem, rng = Problem(seed), np.random.default_rng([seed, 1])
    zfit.settings.set_seed(seed)
    truth, rows = problem.truth(), []
    model, params = problem.model()
    fit, profiles = None, None
    started = time.process_time()
    for number in range(n_data):
        parts = [problem.simulated(one, rng.poisson(problem.yields[one.name]), rng) for one in problem.processes]
        data = problem.observed(pd.concat(parts, ignore_index=True))[problem.columns]
        auxiliary = {name: float(rng.normal(truth[name])) for name in NUISANCES}
        for name in NUISANCES:
            params[name].observed.set_value(auxiliary[name])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if fit is None:
                options = {"shared": problem.settings["shared"], "progress": False, "seed": seed}
                fit = fit_transfer(model, data, obs=problem.obs, cond=problem.cond, **options)
            else:
                fit = fit.problem.solve(as_sample(data, model.obs), seed=seed + number, progress=False)
            row: dict[str, Any] = {"step 1": list(fit.rounds), "problems": list(fit.problems)}
            try:
                profiles = profiles or ProfileProblem(fit)
                profiled = profiles.solve(fit, window=None, n_checks=3, seed=seed)
                row |= compared(problem, profiled, params, data, auxiliary, parts)
            except ValueError as error:
                row["refused"] = str(error)
        rows.append(row | {"told": sentences(told)})
    n_weights = int(sum(np.prod(one.shape) for one in fit.transfer.trainable_variables)) if fit else 0
    seconds = (time.process_time() - started) / n_data
    return {"seed": seed, **problem.settings, "n_weights": n_weights, "data": rows, "cpu_seconds": seconds}


def compared(
    problem: Problem,
    profiled: ProfiledFit,
    params: dict[str, Any],
    data: pd.DataFrame,
    auxiliary: Mapping[str, float],
    parts: list[pd.DataFrame],
) -> dict[str, Any]:
    """A profile and what follows from it, against exact numbers."""
    result = zfnf.Minuit().minimize(profiled.loss())
    result.hesse()
    exact, truth = problem.of_x(data, auxiliary), problem.truth()
    maps = scenarios(bootstrap(profiled, REPLICAS, seed=problem.seed), result)
    table, rows = profiled.bounds.to_dataframe(), {}
    for name in problem.floating:
        value, error = result.params[params[name]]["value"], result.params[params[name]]["hesse"]["error"]
        rows[name] = {
            "off": (value - exact.values[name]) / exact.errors[name],
            "ratio": error / exact.errors[name],
            "efficient": float(table.loc[name, "efficient"]) / exact.errors[name],
            "fixed": float(table.loc[name, "fixed"]) / exact.errors[name],
            "start": (profiled.fit.values[name] - exact.values[name]) / exact.errors[name],
            "pull": (value - truth[name]) / error,
        }
    return {
        "valid": profiled.valid and bool(result.valid),
        "problems": list(profiled.problems),
        "goodness": profiled.goodness,
        "lost": list(profiled.bounds.lost),
        "parameters": rows,
        "bins": unfolding(problem, maps, data),
        **({"map": of_map(problem, maps, parts[0])} if problem.one_map else {}),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of fits that are valid."""
    data = [one for row in rows for one in row["data"]]
    valid = [one for one in data if one.get("valid")]
    found: dict[str, Any] = {"problems": len(rows), "data sets": len(data), "valid": len(valid)}
    found["refused"] = sum("refused" in one for one in data)
    parameters = [parameter for one in valid for parameter in one["parameters"].values()]
    for key in ("off", "ratio", "pull"):
        values = np.array([parameter[key] for parameter in parameters])
        found[key] = {
            "rms": float(np.sqrt(np.mean(values**2))),
            "quantiles": np.quantile(values, [0, 0.16, 0.5, 0.84, 1]).tolist(),
        }
    bins = [own for one in valid for own in one["bins"].values()]
    pulls = np.array([own["off"] for own in bins]) / np.array([own["total"] for own in bins])
    found["bins"] = {"rms": float(np.sqrt(np.mean(pulls**2))), "covered": float(np.mean(np.abs(pulls) < 1.0))}
    of_maps = [one["map"] for one in valid if "map" in one]
    found["map"] = (
        {key: float(np.median([one[key] for one in of_maps])) for key in ("rms", "covered")} if of_maps else {}
    )
    return found


if __name__ == "__main__":
    study(__doc__, solved, summary, data=2)

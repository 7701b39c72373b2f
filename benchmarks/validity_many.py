"""The cases of `validity.py` in many repetitions: scores in closed form and integrals on a grid, instead of TensorFlow and draws.

    python benchmarks/validity_many.py gaussian skewed wide off interaction --ratio 3 --picture docs/_static/believe.png

    python benchmarks/validity_many.py gaussian --ratio 1 --repetitions 1200 --first-seed 20000
    python benchmarks/validity_many.py gaussian off --ratio 1 --at 0 --repetitions 300 --first-seed 70000
    python benchmarks/validity_many.py gaussian skewed off --plan --ratio 1 --repetitions 20
    python benchmarks/validity_many.py gaussian --scatter --ratio 1 --repetitions 20

What is repeated is the algebra of the calibration (`zfit_fnf.calibration.moments` and `interpolation`) with its iteration; a
repetition takes a tenth of a second. Errors are those of the report, which HESSE reproduces.

``--scatter`` compares the claimed error from finite simulation with the scatter of the calibrated fit over independent
simulations of the same data and the same learned densities, ``--repetitions`` times.

``--plan`` compares the predicted errors with simulated samples that are four times as large with those of such samples, and the
part of the error that is from finite simulation with the scatter of the estimate over bootstrap samples of the simulation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from validity import CASES, CORNERS, POINTS, RESPONSES, TRUTH, YIELDS, Process

from zfit_fnf.calibration.interpolation import Interpolation
from zfit_fnf.calibration.moments import Moments, cautiously, inverse

GRID = np.linspace(-10.0, 10.0, 2401)
STEP = GRID[1] - GRID[0]
SIGNAL, BACKGROUND = (1.0, 0.5), (0.0, 1.5)  # mean and width
AT = np.array(list(TRUTH.values()))
CONSTRAINTS = np.diag([0.0, 0.0, 1.0, 1.0])
LIMITS = np.array([1e-3, 1.0, -5.0, -5.0]), np.array([20.0, 1e5, 5.0, 5.0])
EDGES = np.array([0.0, 0.0, -1.0, -1.0]), np.array([np.inf, np.inf, 1.0, 1.0])
ROUNDS, ARRIVED, SLOW, DOUBT, UNSURE = 8, 0.1, 0.6, 0.3, 0.2  # as in zfit_fnf.calibration.fit


class Component:
    """A Gaussian whose response to two nuisances is quadratic, with the moments of simulated events."""

    def __init__(self, samples: list[np.ndarray], *, stretch: float, without_shift: bool):
        self.mean, width = samples[0].mean(), samples[0].std()
        self.width, self.table = stretch * width, np.zeros((2, 2, 2))  # nuisance, power, (log-scale, shift)
        for index in range(1 if without_shift else 0, 2):
            maps = [
                (np.log(width / x.std()), (self.mean - x.mean()) / x.std())
                for x in samples[1 + 2 * index : 3 + 2 * index]
            ]
            up, down = np.array(maps)
            self.table[index] = 0.5 * (up - down), 0.5 * (up + down)

    def log_density(self, y: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-density ``(n,)`` and its derivatives with respect to the nuisances ``(n, 2)``."""
        scale, shift = np.einsum("ips,pi->s", self.table, np.stack([nu, nu**2]))
        by_scale, by_shift = np.einsum("ips,pi->si", self.table, np.stack([np.ones(2), 2 * nu]))
        stretched = (y - self.mean) / self.width * np.exp(scale)
        z = stretched + shift
        slopes = -z[:, None] * (stretched[:, None] * by_scale + by_shift) + by_scale
        return -0.5 * z**2 + scale - np.log(self.width) - 0.5 * np.log(2 * np.pi), slopes


class Model:
    """Signal and background; its parameters are strength, background yield and two nuisances."""

    def __init__(self, components: dict[str, Component]):
        self.components = components

    def scores(self, y: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores ``(n, 4)`` of events, and the expected density of events ``(n,)``."""
        (first, by_first), (second, by_second) = (one.log_density(y, at[2:]) for one in self.components.values())
        logs = np.stack([np.log(YIELDS["signal"] * at[0]) + first, np.log(at[1]) + second], axis=1)
        log_total = np.logaddexp(*logs.T)  # far out both densities are too small for a number
        share = np.exp(logs - log_total[:, None])
        return np.column_stack([share / at[:2], share[:, :1] * by_first + share[:, 1:] * by_second]), np.exp(log_total)

    def information(self, at: np.ndarray) -> np.ndarray:
        """Fisher information ``(4, 4)``."""
        scores, density = self.scores(GRID, at)
        return (scores * density[:, None]).T @ scores * STEP


def gradient(model: Model, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Of the learned likelihood of the events."""
    return np.array([YIELDS["signal"], 1.0, 0.0, 0.0]) - model.scores(y, at)[0].sum(axis=0)


def learned_fit(model: Model, y: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best fit and errors of the learned likelihood, by Fisher scoring."""
    at = AT.copy()
    for _ in range(40):
        curvature = model.information(at) + CONSTRAINTS
        step = -np.linalg.solve(curvature, gradient(model, y, at) + CONSTRAINTS @ at - np.append([0, 0], observed))
        at = at + np.clip(step, -0.5 * np.maximum(abs(at), 1), 0.5 * np.maximum(abs(at), 1))
        if (abs(step) * np.sqrt(np.diag(curvature))).max() < 1e-3:
            break
    return at, np.sqrt(np.diag(np.linalg.inv(curvature)))


def moments(
    model: Model,
    y: np.ndarray,
    simulated: dict[str, list[np.ndarray]],
    points: np.ndarray,
    at: np.ndarray,
    units: np.ndarray,
) -> tuple[Moments, Any]:
    """As `zfit_fnf.calibration` measures them, and how far off the closure may be in between, given a metric."""
    promised, scatter = model.information(at), np.einsum("ni,nj->ij", *[model.scores(y, at)[0]] * 2)
    weight, (on_grid, expected_events) = inverse(promised), model.scores(GRID, at)
    believed = cautiously(scatter / len(y), on_grid, expected_events / expected_events.sum(), len(y))
    scatter = believed @ scatter @ believed.T
    interpolation, square = Interpolation(("shift", "scale"), points, {}), np.outer(units, units)
    bias, slope, sources, noise = np.zeros(4), np.zeros((4, 4)), {}, {}
    coefficients: list[tuple[np.ndarray, np.ndarray]] = []
    for index, (name, samples) in enumerate(simulated.items()):
        number, by_parameter = (YIELDS["signal"] * at[0], YIELDS["signal"]) if index == 0 else (at[1], 1.0)
        scores = [model.scores(x, at)[0] for x in samples]
        density = [np.exp(model.components[name].log_density(GRID, point)[0]) * STEP for point in points]
        closure = np.stack([s.mean(axis=0) - p @ on_grid for s, p in zip(scores, density, strict=True)])
        covariances = np.stack([believable(*each, on_grid) for each in zip(scores, density, strict=True)])
        found = interpolation.coefficients @ closure
        squares = np.einsum("mi,ij,mj->m", found, weight, found)
        of_noise = np.einsum("mk,kij->mij", interpolation.coefficients**2, covariances)
        coefficients.append((number * units * found, number**2 * np.outer(units, units) * of_noise))
        expected = np.einsum("mij,ij->m", of_noise, weight)
        kept = np.clip(1.0 - 0.5 * expected / squares, 0.0, 1.0)
        kept[0] = 1.0
        weights, factors, unknown = interpolation.weights(at[2:]), *np.zeros((2, len(points), 4))
        for part, made in ((kept, factors), (np.sqrt(kept), unknown)):
            made[:, 2:] = number * interpolation.slopes(at[2:], part)
            made[:, index] += by_parameter * interpolation.weights(at[2:], part)
        bias, slope = bias + number * weights @ closure, slope + closure.T @ factors
        sources |= {(name, str(k)): (number * weights[k]) ** 2 * one for k, one in enumerate(covariances)}
        noise |= {
            (name, str(k)): [(np.outer(f, f) * square, np.outer(g, g) * square, one * square)]
            for k, (f, g, one) in enumerate(zip(factors, unknown, covariances, strict=True))
        }
    parts = {key: one * square for key, one in sources.items()}

    def between(metric: np.ndarray) -> float:
        squares = 0.0
        for found, of_noise in coefficients:
            lengths = np.einsum("mi,ij,mj->m", found, metric, found), np.einsum("mij,ij->m", of_noise, metric)
            squares += np.square(list(interpolation.remainders(at[2:], *lengths).values())).sum()
        return float(np.sqrt(squares))

    known = Moments(
        bias * units,
        promised * square,
        slope * square,
        scatter * square,
        parts,
        CONSTRAINTS * square,
        noise,
    )
    return known, between


def believable(scores: np.ndarray, density: np.ndarray, on_grid: np.ndarray) -> np.ndarray:
    """Covariance of the mean of simulated scores, which is not too small by the chance that large ones are missing."""
    measured, shares = np.cov(scores, rowvar=False) / len(scores), density / density.sum()
    turn = cautiously(measured * len(scores), on_grid - shares @ on_grid, shares, len(scores))
    return turn @ measured @ turn.T


def exact_errors(strength: float) -> np.ndarray:
    """Errors ``(4,)`` of the exact likelihood of unskewed processes."""
    parts = {}
    for name, mean, width in (("signal", *SIGNAL), ("background", *BACKGROUND)):
        part = parts[name] = Component.__new__(Component)
        shift, scale = np.array(RESPONSES[name]) * strength
        part.mean, part.width, part.table = mean, width, np.zeros((2, 2, 2))
        part.table[:, 0] = [[0.0, -shift], [-scale, 0.0]]  # z = (y - mean) / width exp(-scale nu_2) - shift nu_1
    return np.sqrt(np.diag(np.linalg.inv(Model(parts).information(AT) + CONSTRAINTS)))


@dataclass(frozen=True)
class Repetition:
    """A learned model, data, and what simulates both."""

    model: Model
    y: np.ndarray
    observed: np.ndarray
    points: np.ndarray
    simulate: Callable[[float], dict[str, list[np.ndarray]]]
    """Simulation of both processes, of samples by how many times as large as the data they are."""

    def moments(
        self, simulated: dict[str, list[np.ndarray]], at: np.ndarray, units: np.ndarray
    ) -> tuple[Moments, Callable[[np.ndarray], float], np.ndarray]:
        """Those of one point, the doubt in between, and where the estimate is."""
        known, between = moments(self.model, self.y, simulated, self.points, at, units)
        of_constraints = (CONSTRAINTS @ at - np.append([0, 0], self.observed)) * units
        slope = known.gradient(gradient(self.model, self.y, at) * units, of_constraints)
        return known, between, np.clip(at - units * (known.covariance @ slope), *LIMITS)

    def bootstrapped(self, simulated: dict[str, list[np.ndarray]], at: np.ndarray, n: int, seed: int) -> np.ndarray:
        """Sums of expected scores ``(4, n)`` by simulated events that are drawn again."""
        rng, weights = np.random.default_rng(seed), Interpolation(("shift", "scale"), self.points, {}).weights(at[2:])
        total = np.zeros((4, n))
        for name, samples in simulated.items():
            number = YIELDS["signal"] * at[0] if name == "signal" else at[1]
            for weight, x in zip(weights, samples, strict=True):
                times = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=n)
                total += number * weight * (times @ self.model.scores(x, at)[0]).T / len(x)
        return total


def drawn(case: str, ratio: float, seed: int, stretch: float = 1.1, strength: float = 1.0) -> Repetition:
    """Simulate, learn and observe."""
    rng = np.random.default_rng([CASES.index(case), seed])
    crossed = case == "interaction"
    processes = [
        Process("signal", *SIGNAL, case == "skewed", 0.25 if crossed else 0.0, strength, case == "tails"),
        Process("background", *BACKGROUND, strength=strength, tails=case == "tails"),
    ]
    places = [{}, *POINTS, *(CORNERS if crossed else [])]
    points = np.array([[place.get(name, 0.0) for name in ("shift", "scale")] for place in places], float)

    def simulate(ratio: float) -> dict[str, list[np.ndarray]]:
        return {
            one.name: [one.draw(place, round(ratio * YIELDS[one.name]), rng)["y"] for place in places]
            for one in processes
        }

    spoilt = {"stretch": stretch if case == "wide" else 1.0, "without_shift": case == "off"}
    right = {"stretch": 1.0, "without_shift": False}
    training = simulate(ratio)
    model = Model({name: Component(x, **(spoilt if name == "signal" else right)) for name, x in training.items()})
    y = np.concatenate([one.draw(TRUTH, rng.poisson(YIELDS[one.name]), rng)["y"] for one in processes])
    return Repetition(model, y, rng.normal(AT[2:]), points, simulate)


@dataclass(frozen=True)
class Fit:
    """Learned and calibrated fit of one repetition: values and errors ``(4,)``, and what is known where it ended."""

    start: np.ndarray
    units: np.ndarray
    end: np.ndarray
    errors: np.ndarray
    refused: bool
    known: Moments
    between: float
    """How far off the closure may be between the points of the simulation, in errors."""


def calibrated(one: Repetition, simulated: dict[str, list[np.ndarray]]) -> Fit:
    """Calibrate with the iteration of `zfit_fnf.calibration.fit`."""
    start, units = learned_fit(one.model, one.y, one.observed)
    at, path, share = np.clip(start, *EDGES), [], 1.0
    while True:
        known, between, end = one.moments(simulated, at, units)
        errors = units * np.sqrt(np.diag(known.covariance))
        path.append(np.max(abs(np.clip(end, *EDGES) - at) / errors))
        if path[-1] < ARRIVED or len(path) == ROUNDS:
            break
        share *= 0.5 if len(path) > 1 and path[-1] > SLOW * path[-2] else 1.0
        at = at + share * (np.clip(end, *EDGES) - at)
    beyond = np.maximum(EDGES[0] - end, end - EDGES[1]) / errors
    refused = path[-1] > 1.0 or bool(((abs(start - end) / units > 3.0) & (beyond > 3.0)).any())
    return Fit(start, units, end, errors, refused, known, between(known.metric))


def repeat(
    case: str, ratio: float, seed: int, stretch: float = 1.1, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool, float, np.ndarray]:
    """Pulls and errors of both fits, whether the calibrated one is refused, its doubt in between and that of its errors."""
    one = drawn(case, ratio, seed, stretch, strength)
    fit = calibrated(one, one.simulate(ratio))
    pulls = (fit.start - AT) / fit.units, (fit.end - AT) / fit.errors
    return *pulls, fit.units, fit.errors, fit.refused, fit.between, fit.known.doubt()


def of_simulation(known: Moments) -> np.ndarray:
    """Part ``(4,)`` of the variances that is from finite simulation, as in the report."""
    return np.diag(known.share(known.simulation)) + sum(known.of_slopes.values())


def scattered(case: str, ratio: float, n: int, first: int = 0, n_simulations: int = 40) -> dict[str, Any]:
    """Error from finite simulation that is claimed, and the scatter of the fit over simulations of the same data and model."""
    claimed, scatter = [], []
    for seed in range(first, first + n):
        one = drawn(case, ratio, 30_000 + seed)
        fits = [fit for fit in (calibrated(one, one.simulate(ratio)) for _ in range(n_simulations)) if not fit.refused]
        claimed.append(np.mean([fit.units**2 * of_simulation(fit.known) for fit in fits], axis=0))
        scatter.append(np.var([fit.end for fit in fits], axis=0, ddof=1))
    ratios = np.sqrt(np.array(scatter) / claimed)
    pairs = zip(ratios.mean(axis=0), ratios.std(axis=0, ddof=1) / np.sqrt(n), strict=True)
    found = {
        name: {"mean": round(mean, 3), "error": round(error, 3)}
        for name, (mean, error) in zip(TRUTH, pairs, strict=True)
    }
    return {"ratio": ratio, "data sets": n, "simulations of each": n_simulations, "scatter / claimed": found}


def planned(case: str, ratio: float, n: int, first: int = 0, n_bootstrap: int = 400) -> dict[str, Any]:
    """Predicted errors with four times the simulation, and the errors from finite simulation, in units of what they are."""
    totals, doubts, parts = [], [], []
    for seed in range(first, first + n):
        one = drawn(case, ratio, 10_000 + seed)
        simulated = one.simulate(ratio)
        start, units = learned_fit(one.model, one.y, one.observed)
        at = np.clip(start, *EDGES)
        at = np.clip(one.moments(simulated, at, units)[2], *EDGES)
        known = one.moments(simulated, at, units)[0]
        predicted = known.with_sources([4.0] * len(known.sources))
        found = one.moments(one.simulate(4 * ratio), at, units)[0]
        totals.append(np.sqrt(np.diag(predicted.covariance) / np.diag(found.covariance)))
        doubts.append(np.hypot(known.doubt(predicted), found.doubt()))  # of what is found, too
        shares = known.weights @ (units[:, None] * one.bootstrapped(simulated, at, n_bootstrap, seed))
        parts.append(np.sqrt(np.diag(known.share(known.simulation)) / np.var(shares, axis=1, ddof=1)))
    report: dict[str, Any] = {"ratio": ratio, "repetitions": n}
    for kind, ratios, tolerance in (("plan", totals, 0.1), ("error from simulation", parts, 0.15)):
        table = np.stack(ratios)
        rows = np.median(table, axis=0), table.std(axis=0), (abs(table - 1) < tolerance).mean(axis=0)
        report[kind] = {
            name: {"median": round(middle, 3), "width": round(width, 3), "within": round(within, 3)}
            for name, middle, width, within in zip(TRUTH, *rows, strict=True)
        }
    pulls = abs(np.log(totals)) / doubts
    report["uncertainty of the plan"] = {
        name: {"median": round(middle, 3), "covers": round(once, 3), "twice it covers": round(twice, 3)}
        for name, middle, once, twice in zip(
            TRUTH, np.median(doubts, axis=0), (pulls < 1).mean(axis=0), (pulls < 2).mean(axis=0), strict=True
        )
    }
    return report


def summary(
    case: str, ratio: float, n: int, stretch: float = 1.1, strength: float = 1.0, first: int = 0
) -> dict[str, Any]:
    """Mean and width of pulls, coverage and the ratio of errors, by parameter."""
    results = [repeat(case, ratio, seed, stretch, strength) for seed in range(first, first + n)]
    kept = [one for one in results if not one[4]]
    report: dict[str, Any] = {"ratio": ratio, "repetitions": n, "refused": n - len(kept)}
    report |= {"stretch": stretch, "strength": strength}
    for kind, column in (("naive", 0), ("calibrated", 1)):
        pulls = np.stack([one[column] for one in kept])
        rows = zip(TRUTH, pulls.mean(axis=0), pulls.std(axis=0, ddof=1), (abs(pulls) < 1).mean(axis=0), strict=True)
        report[kind] = {
            name: {"mean": round(mean, 3), "width": round(width, 3), "covers": round(covers, 3)}
            for name, mean, width, covers in rows
        }
    told, covered = np.stack([one[6] > UNSURE for one in kept]), np.stack([abs(one[1]) < 1 for one in kept])
    report["told that the error is unsure"] = {
        name: {
            "share": round(float(mine.mean()), 3),
            "told cover": round(float(covers[mine].mean()), 3) if mine.any() else None,
            "others cover": round(float(covers[~mine].mean()), 3) if not mine.all() else None,
        }
        for name, mine, covers in zip(TRUTH, told.T, covered.T, strict=True)
    }
    report["told of points in between"] = round(float(np.mean([one[5] > DOUBT for one in kept])), 3)
    growth = np.median([one[3] / one[2] for one in kept], axis=0)
    report["error / naive error"] = dict(zip(TRUTH, growth.round(3).tolist(), strict=True))
    if case not in ("skewed", "tails"):  # the exact likelihood knows more of these than their moments
        exact = np.median([one[3] for one in kept], axis=0) / exact_errors(strength)
        report["error / exact error"] = dict(zip(TRUTH, exact.round(3).tolist(), strict=True))
    return report


def draw(report: dict[str, Any], path: Path) -> None:
    """Means and widths of the pulls of all cases, learned and calibrated."""
    figure = Figure(figsize=(2.1 * len(report), 2.6), layout="constrained")
    for ax, (case, found) in zip(
        np.atleast_1d(figure.subplots(1, len(report), sharey=True)), report.items(), strict=True
    ):
        ax.axvspan(-1, 1, color="0.9")
        ax.axvline(0.0, color="0.6", lw=0.8)
        for kind, label, shift, colour in (
            ("naive", "learned", -0.15, "tab:red"),
            ("calibrated",) * 2 + (0.15, "tab:blue"),
        ):
            means, widths = ([one[name] for one in found[kind].values()] for name in ("mean", "width"))
            ax.errorbar(means, np.arange(4) + shift, xerr=widths, fmt="o", ms=4, color=colour, label=label)
        ax.set(title=case, xlabel="pull", xlim=(-5.5, 5.5))
        ax.set_yticks(range(4), list(TRUTH))
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run cases and print their figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--ratio", type=float, default=3.0, help="simulated events of each sample per data event")
    parser.add_argument("--stretch", type=float, default=1.1, help="how much too wide the signal of `wide` is")
    parser.add_argument("--strength", type=float, default=1.0, help="of the responses to the nuisances")
    parser.add_argument("--at", type=float, default=TRUTH["shift"], help="where the two nuisances are")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scatter", action="store_true", help="over simulations of the same data, in place of pulls")
    parser.add_argument("--plan", action="store_true", help="predictions for more simulation, in place of pulls")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="of the pulls, PNG")
    args = parser.parse_args()
    TRUTH.update(shift=args.at, scale=args.at)
    AT[2:] = args.at
    report = {
        case: planned(case, args.ratio, args.repetitions, args.first_seed)
        if args.plan
        else scattered(case, args.ratio, args.repetitions, args.first_seed)
        if args.scatter
        else summary(case, args.ratio, args.repetitions, args.stretch, args.strength, args.first_seed)
        for case in args.cases
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))
    if args.picture:
        draw(report, args.picture)


if __name__ == "__main__":
    main()

r"""A verdict on a learned density: whether simulation that it has not seen could come from it.

Every sample of a process, nominal or moved, is compared with events that the density promises there, in four ways:

* a *classifier* between the two, for differences of any kind (:func:`~zfit_fnf.diagnostics.two_sample_test`);
* the *probability integral transform* of each observable given those before it, taken to a normal distribution, of which the
  *mean*, *width* and *skewness* are known: three tests, each as powerful for a wrong width, say, as a test can be;
* the *score closure*: the mean derivative of the log-density with respect to each nuisance, which is what a fit adds up. Its
  deviation from what the density promises, in units of the error of a fit to ``n_data`` events, predicts the bias of the fit;
* the *normalisation*, by importance sampling.

The probability of a false alarm anywhere is ``level``, by Holm's procedure over all tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import eval_hermitenorm, factorial, ndtri

from ..common.checks import integer, number
from ..interop.callable import check_normalisation
from ..loss import LogSpaceNLL
from ..samples import Sample, Simulation, check_trainable
from .fitted import REMEDIES, tests_of_fit
from .subjects import Subject, subjects_of
from .two_sample import two_sample_test

__all__ = ["ValidationReport", "validate"]

_MOMENTS = {"mean": 1.0, "width": 1.0 / np.sqrt(2.0), "skewness": np.sqrt(6.0)}
"""What the first Hermite polynomials of the transformed events tell, and in which units (of widths, relative, as it is)."""

_STEP = 0.05  # standard deviations between which a score is a difference
_FEWEST = 100.0  # effective events, below which a test says nothing
_DRAWS = 4  # events of the density for each simulated one
_RANKED = 16  # the same for ranks among them, whose noise adds to that of the simulation
_FOR_CLASSIFIER = 100_000  # simulated events, beyond which trees gain little


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """Verdict on a learned density, made by `validate`; prints what was found.

    Attributes:
        problems: What is wrong, by how much, and what to do about it, in sentences.
        untested: Pairs of nuisances without joint samples, by process: whether they interact is not known.
        table: One row for each test: ``process``, ``point``, ``test``, ``of`` (what is tested), ``value`` (of the
            closure, the predicted bias of a fit in errors; of ``mean``, ``width`` and ``skewness``, what they are off by; the
            integral), its p-value (none, or zero, of what is not a matter of
            chance) and whether it is a ``problem``.
        level: Probability of a false alarm.
        n_data: Number of data events that the biases are for.
    """

    problems: tuple[str, ...]
    untested: tuple[str, ...]
    table: pd.DataFrame
    level: float
    n_data: int

    @property
    def passed(self) -> bool:
        """Whether no test found anything."""
        return not self.problems

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            "passed": self.passed,
            "problems": list(self.problems),
            "untested": list(self.untested),
            "tests": self.table.to_dict(orient="records"),
            "level": self.level,
            "n_data": self.n_data,
        }

    def __str__(self) -> str:
        head = "passed" if self.passed else f"NOT PASSED, {len(self.problems)} problems"
        bias = self.table.loc[self.table["test"] == "closure", "value"].abs()
        largest = f"; largest predicted bias {bias.max():.2g} errors for {self.n_data} events" if len(bias) else ""
        lines = [f"{head}: {len(self.table)} tests at a level of {self.level:g}{largest}"]
        return "\n".join([*lines, *(f"- {one}" for one in (*self.problems, *self.untested))])


def validate(
    model: Any,
    simulation: Simulation | Mapping[str, Simulation],
    *,
    level: float = 0.01,
    n_data: int | None = None,
    seed: int = 0,
) -> ValidationReport:
    """Whether simulation that the training has not seen could come from a learned density.

    Args:
        model: A `Flow`, a `Deformation` (or any `ShapeResponse`), a `FittedProcess`, a PDF made of them, or a likelihood
            of such PDFs, whose parameters are where its fit ended: then also whether nuisances and data are where the
            densities are known, and whether scores scatter as much as the information claims.
        simulation: Its simulation; for a PDF by name of the process. A variation in which several nuisances move tests
            their interaction.
        level: Probability that a density that is right does not pass.
        n_data: Number of data events for which biases are predicted; by default those of the likelihood, or 10,000.
        seed: Seed of all that is random.

    Raises:
        ImportError: If scikit-learn is missing, with the command that installs it.
        TypeError: If an argument is of another kind.
        ValueError: If there is no learned density, a nuisance has no sample, or a sample no events.

    Example:
        >>> report = validate(deformation, Simulation(held_out, held_out_variations))
        >>> report.passed, report.problems
    """
    # Of a calibrated likelihood, the learned densities are what is validated.
    nll: Any = getattr(model, "learned", model) if isinstance(model, LogSpaceNLL) else None
    level = number(level, "level=", above=0.0)
    if n_data is None:
        n_data = 10_000 if nll is None else max(int(sum(data.num_entries for data in nll.data)), 1)
    n_data = integer(n_data, "n_data=", low=1)
    named = isinstance(simulation, Mapping)
    given: dict[str, Any] = dict(simulation) if isinstance(simulation, Mapping) else {"": simulation}
    if wrong := [type(one).__name__ for one in given.values() if not isinstance(one, Simulation)]:
        raise TypeError(f"simulation= is a Simulation, or one for each process by its name; got {wrong[0]}")
    parts: list[Any] = [model] if nll is None else list(nll.model)
    subjects = [subject for part in parts for subject in subjects_of(part, given if named else None)]
    if not subjects or (named and (unknown := sorted(set(given) - {one.process for one in subjects}))):
        raise ValueError(f"there is no learned density called {unknown if subjects else list(given)} in {model!r:.100}")
    rows, untested = list[tuple[Any, ...]](), list[str]()
    for index, subject in enumerate(subjects):
        rows += _tests(subject, given[subject.process], n_data, np.random.SeedSequence([seed, index]))
        untested += _untested(subject, given[subject.process])
    if nll is not None:
        rows += tests_of_fit(nll, seed)
    table = pd.DataFrame(rows, columns=["process", "point", "test", "of", "value", "p_value"])
    table["problem"] = _rejected(table["p_value"].fillna(1.0).to_numpy(), level)
    problems = tuple(_sentence(row, n_data) for row in table[table["problem"]].itertuples())
    return ValidationReport(problems, tuple(untested), table, level, n_data)


def _tests(
    subject: Subject, simulation: Simulation, n_data: int, seeds: np.random.SeedSequence
) -> Iterator[tuple[Any, ...]]:
    moved = {name for variation in simulation.variations for name in variation.at}
    if missing := [name for name in subject.nuisances if name not in moved]:
        raise ValueError(f"the simulation of {subject.title} lacks samples of the nuisances {missing}")
    points = [("nominal", {}), *((str(v.name), dict(v.at)) for v in simulation.variations)]
    samples = simulation.samples(subject.columns, process=subject.title)
    for (name, at), sample, (first, second) in zip(
        points, samples, seeds.generate_state(2 * len(points)).reshape(-1, 2).tolist(), strict=True
    ):
        check_trainable(sample)
        table = pd.DataFrame(dict(zip(subject.columns, sample.array(subject.columns).T, strict=True)))
        drawn = subject.sample(table, at, n=_DRAWS * sample.n_events, seed=first)
        # Events of a density that is conditional have the conditions of simulated ones, and so their weights.
        weights = np.tile(sample.weights, _DRAWS) if subject.flow.cond and sample.weights is not None else None
        promised = Sample({column: drawn[column].to_numpy() for column in subject.columns}, weights, "promised")
        for test, of, value, p_value in itertools.chain(
            _classifier(sample, promised, subject, second),
            _integral_transforms(sample, subject, at, table, first + 1),
            _closure(sample, promised, subject, at, n_data),
            _normalisation(table, promised, subject, at, second),
        ):
            yield subject.title, name, test, of, value, p_value


def _classifier(sample: Sample, promised: Sample, subject: Subject, seed: int) -> Iterator[tuple[Any, ...]]:
    rows = np.random.default_rng(seed).permutation(sample.n_events)[:_FOR_CLASSIFIER]
    # As many of the density as of the simulation: trees are biased towards the larger class.
    p_value = two_sample_test(_rows(sample, rows), _rows(promised, rows), subject.columns, seed=seed % 2**31)
    yield "classifier", ", ".join(subject.columns), np.nan, p_value


def _rows(sample: Sample, rows: np.ndarray) -> Sample:
    weights = None if sample.weights is None else sample.weights[rows]
    return Sample({name: values[rows] for name, values in sample.columns.items()}, weights, sample.name)


def _shares(sample: Sample) -> np.ndarray:
    """Weights that sum to one."""
    return sample.relative_weights(np.arange(sample.n_events)) / sample.n_events


def _integral_transforms(
    sample: Sample, subject: Subject, at: Mapping[str, float], conditions: pd.DataFrame, seed: int
) -> Iterator[tuple[Any, ...]]:
    uniform, more = subject.uniform(sample, at), 0.0
    if uniform is None:  # ranks among events of the density, of each observable alone
        drawn = subject.sample(conditions, at, n=_RANKED * sample.n_events, seed=seed)
        weights = _shares(sample) if subject.flow.cond else np.full(sample.n_events, 1.0 / sample.n_events)
        known = [(drawn[name].to_numpy(), np.tile(weights / _RANKED, _RANKED)) for name in subject.flow.obs]
        uniform = np.stack(
            [_ranks(sample.columns[name], *one) for name, one in zip(subject.flow.obs, known, strict=True)], axis=1
        )
        more = 1.0 / _RANKED
    shares = _shares(sample)
    for name, values in zip(subject.flow.obs, uniform.T, strict=True):
        normal = ndtri(np.clip(values, 1e-15, 1 - 1e-15))
        for order, (what, unit) in enumerate(_MOMENTS.items(), start=1):
            found = float(shares @ eval_hermitenorm(order, normal) / np.sqrt(factorial(order)))
            deviation = abs(found) / np.sqrt(np.square(shares).sum() * (1.0 + more))
            yield what, name, found * unit, float(2 * stats.norm.sf(deviation))


def _ranks(values: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distribution function of weighted events, at other values."""
    order = np.argsort(known)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    return (below[np.searchsorted(known[order], values)] + 0.5 * weights.mean()) / (1.0 + weights.mean())


def _closure(
    sample: Sample, promised: Sample, subject: Subject, at: Mapping[str, float], n_data: int
) -> Iterator[tuple[Any, ...]]:
    shares, of_promised = _shares(sample), _shares(promised)
    for name in subject.nuisances:
        up, down = {name: _STEP}, {name: -_STEP}

        def score(table: Any, up: dict[str, float] = up, down: dict[str, float] = down) -> np.ndarray:
            return (subject.log_prob(table, up) - subject.log_prob(table, down)) / (2 * _STEP)

        measured, expected = score(sample), score(promised)
        mean, centre = float(shares @ measured), float(of_promised @ expected)
        width, difference = np.sqrt(of_promised @ np.square(expected - centre)), mean - centre
        if not width > 0:
            continue
        parts = ((shares, measured - mean), (of_promised, expected - centre))
        error = np.sqrt(sum(np.square(share) @ np.square(values) for share, values in parts))
        yield (
            "closure",
            name,
            float(np.sqrt(n_data) * difference / width),
            float(2 * stats.norm.sf(abs(difference) / error)),
        )


def _normalisation(
    table: pd.DataFrame, promised: Sample, subject: Subject, at: Mapping[str, float], seed: int
) -> Iterator[tuple[Any, ...]]:
    if not at:
        centre = {name: float(table[name].median()) for name in subject.flow.cond}
        found = check_normalisation(subject.flow, at=centre, seed=seed)
        integral, error, size = found.integral, found.error, np.inf
    else:
        ratio = np.exp(subject.log_prob(promised, {}) - subject.log_prob(promised, at))
        shares = _shares(promised)
        integral = float(shares @ ratio)
        error = float(np.sqrt(np.square(shares) @ np.square(ratio - integral)))
        size = float(ratio.sum() ** 2 / np.square(ratio).sum())
    if error > 0 and size > _FEWEST:
        yield "normalisation", "integral", integral, float(2 * stats.norm.sf(abs(integral - 1.0) / error))


def _untested(subject: Subject, simulation: Simulation) -> list[str]:
    together = {frozenset(pair) for v in simulation.variations for pair in itertools.combinations(v.at, 2)}
    pairs = [pair for pair in itertools.combinations(subject.nuisances, 2) if frozenset(pair) not in together]
    return [
        f"{subject.title}: whether {a!r} and {b!r} interact is not tested, there is no joint sample" for a, b in pairs
    ]


def _rejected(p_values: np.ndarray, level: float) -> np.ndarray:
    """Holm's procedure: which of several tests fail, if one false alarm in all has the probability ``level``."""
    order = np.argsort(p_values)
    small = p_values[order] <= level / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), bool)
    rejected[order] = np.logical_and.accumulate(small)
    return rejected


_REMEDIES = {
    **REMEDIES,
    "classifier": "a classifier tells simulation from the density: train it longer, or with more events",
    "mean": "the mean of {of!r} is {value:+.2g} widths from the promised one: train longer, check columns and ranges",
    "width": "{of!r} is {percent:+.2g} % wider than promised: train longer, check columns and ranges",
    "skewness": "the skewness of {of!r} is off by {value:+.2g}: train longer, check columns and ranges",
    "closure": "a fit of {of!r} to {n_data} events would be off by {value:+.2g} errors",
    "normalisation": "the density integrates to {value:.4g}",
}


def _sentence(row: Any, n_data: int) -> str:
    what = _REMEDIES[row.test].format(of=row.of, value=row.value, percent=100 * row.value, n_data=n_data)
    joint = row.point.count("=") > 1
    remedy = (
        ". Add the interaction: fit_deformation(..., interactions=[...])"
        if joint and row.test != "normalisation"
        else ""
    )
    where = f"{row.process} at {row.point}" if row.process else row.point
    return f"{where}: {what}" + (f" (p = {row.p_value:.1g})" if row.p_value > 0 else "") + remedy

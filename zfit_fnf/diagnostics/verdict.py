r"""A verdict on a learned density: whether simulation that it has not seen could come from it.

Every sample of a process, nominal or moved, is compared with events that the density promises there:

* a *classifier* between the two, for differences of any kind (:func:`~zfit_fnf.diagnostics.two_sample_test`);
* the *probability integral transform* of each observable given those before it, taken to a normal distribution, of which the
  *mean*, *width* and *skewness* are known: three tests, each as powerful for a wrong width, say, as a test can be;
* the *score closure*: the mean derivative of the log-density with respect to each nuisance, which is what a fit adds up. Its
  deviation from what the density promises, in units of the error of a fit to ``n_data`` events, predicts the bias of the fit;
* the *normalisation*, by importance sampling, or where nuisances move it by comparison with the nominal density;
* the closure *along conditions* that a parameter drives (:mod:`~zfit_fnf.diagnostics.conditions`), of the nominal sample.

The probability of a false alarm anywhere is ``level``, by Holm's procedure over all tests, for a density that is as right as the
events can make it that taught it: what these have by chance is no fault of the density. What fits may be off by for that is said
where it is more than 0.3 errors. A difference that ``n_data`` events would see by less than 0.3 standard deviations is no problem
of theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import eval_hermitenorm, expit, factorial, ndtri
from tqdm.auto import tqdm

from ..calibration.processes import check_unseen
from ..common.checks import integer, number
from ..densities.claims import OFF_BETWEEN
from ..interop.callable import check_normalisation
from ..loss import LogSpaceNLL
from ..pdf import expected_events
from ..samples import Sample, Simulation, check_trainable
from .conditions import REMEDIES as OF_CONDITIONS
from .conditions import tests_of_conditions
from .fitted import REMEDIES as OF_FIT
from .fitted import tests_of_fit
from .subjects import Subject, subjects_of, unnamed
from .two_sample import two_sample_test

__all__ = ["ValidationReport", "validate"]

_MOMENTS = {"mean": 1.0, "width": 1.0 / np.sqrt(2.0), "skewness": np.sqrt(6.0)}
"""What the first Hermite polynomials of the transformed events tell, and in which units (of widths, relative, as it is)."""

_CUMULANTS = {1: (0.0, 0.0), 2: (np.sqrt(8.0), 12.0), 3: (0.0, 90.0)}
"""Skewness and excess kurtosis of these polynomials, of standard deviation one, of normal numbers."""

_BIASED = 0.3  # errors of a fit: a bias, or any other difference, that should be seen
_STEP = 0.05  # standard deviations between which a score is a difference
_ROUNDING = 1e-6  # of an integral: where a response changes nothing, that is all there is
_FITTED = 10_000.0  # data events, where nobody says
_FARTHEST = 100.0  # logarithm of an integral
_FEWEST = 100.0  # effective events, below which a test says nothing
_DRAWS = 4  # events of the density for each simulated one
_RANKED = 16  # the same for ranks among them, whose noise adds to that of the simulation
_FOR_CLASSIFIER = 100_000  # simulated events, beyond which trees gain little


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """Verdict on a learned density, made by `validate`; prints what was found.

    Attributes:
        problems: What is wrong, by how much, and what to do about it, in sentences.
        untested: What is not known, in sentences: learned processes without simulation, samples of fewer than 100 events,
            whether nuisances interact of which there is no joint sample, log-ratios between the samples that they were
            trained with, where they may be off by more than half an error, and what fits are off by, if that may be more than
            0.3 errors, since few events have taught the density.
        table: One row for each test: ``process``, ``point``, ``test``, ``of`` (what is tested), ``value`` (of the
            ``closure`` and of a ``condition``, the predicted bias of a fit in errors; of ``information along condition``, what
            scores scatter in units of the claimed information; of ``mean``, ``width`` and ``skewness``, what they are off by;
            the integral), its p-value (none, or zero, of what is not a matter of chance), how many events the density there is
            ``taught_by``, if that is known, the number ``n_data`` of data events of the process, by how many standard
            deviations they would see the difference (``seen``, none of what matters in any case) and whether it is a
            ``problem``.
        level: Probability of a false alarm.
        n_data: Number of data events, of all processes.
    """

    problems: tuple[str, ...]
    untested: tuple[str, ...]
    table: pd.DataFrame
    level: float
    n_data: int

    @property
    def passed(self) -> bool:
        """Whether no test found anything that the data would see."""
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

    @property
    def biases(self) -> pd.DataFrame:
        """Predicted biases of a fit, a row for each closure, with the ``value`` in errors of the fit and its own ``error``."""
        table = self.table[self.table["test"] == "closure"]
        value, sigmas = table["value"].to_numpy(float), stats.norm.isf(table["p_value"].to_numpy(float) / 2.0)
        with_chance = np.divide(np.abs(value), sigmas, out=np.zeros(len(value)), where=sigmas > 0)
        # In reports of earlier versions there are those of all processes, and nothing by chance.
        n_data, taught = table.get("n_data", self.n_data), table.get("taught_by", np.nan)
        error = np.sqrt(np.maximum(with_chance**2 - np.nan_to_num(n_data / taught), 0.0))
        return table.assign(error=error, n_data=n_data)[
            ["process", "point", "of", "value", "error", "n_data", "problem"]
        ]

    def __str__(self) -> str:
        head = "passed" if self.passed else f"NOT PASSED, {len(self.problems)} problems"
        lines = [f"{head}: {len(self.table)} tests at a level of {self.level:g}"]
        if len(biases := self.biases):
            value, error, n_data = biases.loc[biases["value"].abs().idxmax(), ["value", "error", "n_data"]]
            lines[0] += (
                f"; largest of {len(biases)} predicted biases {value:+.2g} +- {error:.2g} errors for {n_data:.0f} events"
            )
            if (typical := float(biases["error"].median())) > _BIASED:
                more = (typical / _BIASED) ** 2
                lines.append(
                    f"- {typical:.2g} errors is how well so few held-out events predict a bias: take {more:.2g} times as many to "
                    f"see {_BIASED:g}"
                )
        significant = _rejected(self.table["p_value"].fillna(1.0).to_numpy(), self.level)
        if small := int(np.sum(significant & ~self.table["problem"])):
            lines.append(
                f"- {small} difference{'s' * (small > 1)} that so many data events would see by less than {_BIASED:g} standard "
                "deviations"
            )
        return "\n".join([*lines, *(f"- {one}" for one in (*self.problems, *self.untested))])


def validate(
    model: Any,
    simulation: Simulation | Mapping[str, Simulation],
    *,
    level: float = 0.01,
    n_data: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ValidationReport:
    """Whether simulation that the training has not seen could come from a learned density.

    Args:
        model: A `Flow`, a `Deformation` (or any `ShapeResponse`), a `FittedProcess`, a PDF made of them, or a likelihood
            of such PDFs, whose parameters are where its fit ended: then also whether nuisances and data are where the
            densities are known, and whether scores scatter as much as the information claims.
        simulation: Its simulation; for a PDF by name of the process. A variation in which several nuisances move tests
            their interaction.
        level: Probability that a density that is right does not pass.
        n_data: Number of data events for which biases are predicted, and which have to see what is a problem; by default those
            of the likelihood, the yield of an extended PDF, or 10,000. Of a sum each process has its share, and at least the
            square root of all: a limit depends on the density of a signal that the fit has none of.
        seed: Seed of all that is random.
        progress: Whether to show a progress bar.

    Raises:
        ImportError: If scikit-learn is missing, with the command that installs it.
        TypeError: If an argument is of another kind.
        ValueError: If there is no learned density, a nuisance has no sample, or a sample no events or those of the training.

    Example:
        >>> report = validate(deformation, Simulation(held_out, held_out_variations))
        >>> report.passed, report.problems
    """
    # Of a calibrated likelihood, the learned densities are what is validated.
    nll: Any = getattr(model, "learned", model) if isinstance(model, LogSpaceNLL) else None
    level = number(level, "level=", above=0.0)
    named = isinstance(simulation, Mapping)
    given: dict[str, Any] = dict(simulation) if isinstance(simulation, Mapping) else {"": simulation}
    if wrong := [type(one).__name__ for one in given.values() if not isinstance(one, Simulation)]:
        raise TypeError(f"simulation= is a Simulation, or one for each process by its name; got {wrong[0]}")
    parts: list[Any] = [model] if nll is None else list(nll.model)
    sizes = [_expected(model)] if nll is None else [float(data.num_entries) for data in nll.data]
    n_all = integer(round(sum(sizes)) if n_data is None else n_data, "n_data=", low=0 if n_data is None else 1)
    parts_of_all = np.array(sizes) / max(sum(sizes), 1.0)
    subjects, numbers = list[Subject](), list[int]()
    for part, part_of_all in zip(parts, parts_of_all, strict=True):
        subjects += (found := list(subjects_of(part, given if named else None)))
        numbers += (_number_of(one, n_all * part_of_all) for one in found)
    if not subjects or (named and (unknown := sorted(set(given) - {one.process for one in subjects}))):
        raise ValueError(f"there is no learned density called {unknown if subjects else list(given)} in {model!r:.100}")
    rows, untested = list[tuple[Any, ...]](), list[str]()
    for subject, number_of in zip(subjects, numbers, strict=True):
        untested += _check(subject, given[subject.process], number_of)
    for part in parts if named else ():
        untested += (f"{name}: not tested, it has no simulation" for name in unnamed(part, given))
    n_points = sum(1 + len(given[subject.process].variations) for subject in subjects)
    with tqdm(total=n_points + (nll is not None), desc="verdict", unit="sample", disable=not progress) as bar:
        for index, (subject, number_of) in enumerate(zip(subjects, numbers, strict=True)):
            rows += _tests(subject, given[subject.process], number_of, np.random.SeedSequence([seed, index]), bar)
        if nll is not None:
            bar.set_postfix_str("where the fit ended")
            rows += ((*row, np.nan, n_all, np.nan) for row in tests_of_fit(nll, seed))
            bar.update()
    table = pd.DataFrame(
        rows, columns=["process", "point", "test", "of", "value", "p_value", "taught_by", "n_data", "seen"]
    )
    table["problem"] = _rejected(table["p_value"].fillna(1.0).to_numpy(), level) & ~(table["seen"] < _BIASED)
    known = {subject.title: subject.interactions for subject in subjects}
    problems = tuple(_sentence(row, known.get(row.process, set())) for row in table[table["problem"]].itertuples())
    return ValidationReport(problems, tuple(untested), table, level, n_all)


def _expected(model: Any) -> float:
    """Number of data events that a model is made for."""
    return expected_events(model) if getattr(model, "is_extended", False) else _FITTED


def _number_of(subject: Subject, n_data: float) -> int:
    """Data events of a process: its share, and no less than what chance alone may give a signal that the fit has none of."""
    return max(1, round(max(n_data * abs(subject.share), np.sqrt(n_data))))


def _tests(
    subject: Subject, simulation: Simulation, n_data: int, seeds: np.random.SeedSequence, bar: tqdm[Any]
) -> Iterator[tuple[Any, ...]]:
    points = [("nominal", {}), *((str(v.name), dict(v.at)) for v in simulation.variations)]
    samples = simulation.samples(subject.columns, process=subject.title)
    for (name, at), sample, (first, second) in zip(
        points, samples, seeds.generate_state(2 * len(points)).reshape(-1, 2).tolist(), strict=True
    ):
        bar.set_postfix_str(f"{subject.title} at {name}")
        if sample.effective_size < _FEWEST:
            bar.update()
            continue
        learned_from = subject.learned_from(at)
        taught_by = learned_from if np.isfinite(learned_from) else np.nan
        # Where distribution functions are not known, ranks among events of the density take their place: many of them.
        n = (_DRAWS if subject.sequential else _RANKED) * sample.n_events
        drawn = subject.sample(sample, at, n=n, seed=first)
        promised = _rows(drawn, np.arange(_DRAWS * sample.n_events))
        around = [{nuisance: side} for nuisance in subject.nuisances for side in (_STEP, -_STEP)]
        log_p = [subject.log_probs(one, [{}, at, *around]) for one in (sample, promised)] if around else []
        nominal = subject.sample(sample, {}, n=sample.n_events, seed=second) if at else promised
        scores = [(one[2::2] - one[3::2]) / (2 * _STEP) for one in log_p]
        for test, of, value, p_value in itertools.chain(
            _classifier(sample, promised, subject, learned_from, second),
            _integral_transforms(sample, drawn, subject, at, learned_from),
            _closure(subject, learned_from, sample, promised, scores, n_data),
            _normalisation_by_draws(
                (_shares(promised), log_p[1][1] - log_p[1][0]),
                (_shares(nominal), np.subtract(*subject.log_probs(nominal, [at, {}]))),
            )
            if at
            else _normalisation(sample, subject, second),
        ):
            seen = _seen(test, value, p_value, n_data, sample)
            yield subject.title, name, test, of, value, p_value, taught_by, n_data, seen
        if not at:
            for window, test, of, value, p_value in tests_of_conditions(subject, sample, n_data):
                seen = _seen(test, value, p_value, n_data, sample)
                yield subject.title, f"{name}, {window}", test, of, value, p_value, np.nan, n_data, seen
        bar.update()


def _seen(test: str, value: float, p_value: float, n_data: int, sample: Sample) -> float:
    """Standard deviations by which data events would see what simulated ones have found; none where it matters in any case."""
    if test in ("closure", "condition"):
        return abs(value)
    if test in _MOMENTS:
        return abs(value) / _MOMENTS[test] * float(np.sqrt(n_data))
    if test == "classifier":
        return float(
            stats.norm.isf(max(p_value, 1e-300)) * np.sqrt(n_data / min(sample.effective_size, _FOR_CLASSIFIER))
        )
    return np.nan


def _check(subject: Subject, simulation: Simulation, n_data: int) -> Iterator[str]:
    """Refuse simulation that is none of a density, and say what of it is not tested."""
    moved = {name for variation in simulation.variations for name in variation.at}
    if missing := [name for name in subject.nuisances if name not in moved]:
        raise ValueError(f"the simulation of {subject.title} lacks samples of the nuisances {missing}")
    names = ["nominal", *(str(variation.name) for variation in simulation.variations)]
    for name, sample in zip(names, simulation.samples(subject.columns, process=subject.title), strict=True):
        check_trainable(sample)
        check_unseen(sample, subject.flow, f"the sample {name!r} of {subject.title}")
        if sample.effective_size < _FEWEST:
            yield f"{subject.title} at {name}: not tested, its {sample.effective_size:.0f} events are too few to tell anything"
    together = {frozenset(pair) for v in simulation.variations for pair in itertools.combinations(v.at, 2)}
    for a, b in itertools.combinations(subject.nuisances, 2):
        if frozenset((a, b)) not in together:
            yield f"{subject.title}: whether {a!r} and {b!r} interact is not tested, there is no joint sample"
    at = [dict(variation.at) for variation in simulation.variations]
    if (taught := min(subject.learned_from(one) for one in [{}, *at])) * _BIASED**2 < n_data:
        yield (
            f"{subject.title}: what fits to {n_data} events are off by, for what the {taught:.0f} events that taught it have by "
            f"chance, some {np.sqrt(n_data / taught):.2g} errors, is not tested: calibrate makes it a part of the error"
        )
    for label, record in getattr(subject.density, "history", {}).items() if subject.nuisances else ():
        if record.claim and (off := record.claim.off_by(n_data)) > OFF_BETWEEN and record.claim.between_at not in at:
            yield (
                f"{subject.title}: {label} {record.claim.where_off}, between the samples that it was trained with, is not "
                f"tested, where a fit to {n_data} events may be off by up to {off:.1f} errors: add a sample there"
            )


def _classifier(
    sample: Sample, promised: Sample, subject: Subject, learned_from: float, seed: int
) -> Iterator[tuple[Any, ...]]:
    rows = np.random.default_rng(seed).permutation(sample.n_events)[:_FOR_CLASSIFIER]
    # As many of the density as of the simulation: trees are biased towards the larger class.
    p_value = two_sample_test(
        _rows(sample, rows),
        _rows(promised, rows),
        subject.columns,
        seed=seed % 2**31,
        learned_from=learned_from,
    )
    yield "classifier", ", ".join(subject.columns), np.nan, p_value


def _rows(sample: Sample, rows: np.ndarray) -> Sample:
    weights = None if sample.weights is None else sample.weights[rows]
    return Sample({name: values[rows] for name, values in sample.columns.items()}, weights, sample.name)


def _shares(sample: Sample) -> np.ndarray:
    """Weights that sum to one."""
    return sample.relative_weights(np.arange(sample.n_events)) / sample.n_events


def _integral_transforms(
    sample: Sample, drawn: Sample, subject: Subject, at: Mapping[str, float], learned_from: float
) -> Iterator[tuple[Any, ...]]:
    shares = _shares(sample)
    if subject.sequential:
        uniform, more = subject.uniform(sample, at), 0.0
    else:  # of each observable alone
        known = _shares(drawn)
        uniform = np.stack(
            [_ranks(sample.columns[name], drawn.columns[name], known) for name in subject.flow.obs], axis=1
        )
        more = 1.0 / _RANKED
    by_chance = np.square(shares).sum() * (1.0 + more) + 1.0 / learned_from
    for name, values in zip(subject.flow.obs, uniform.T, strict=True):
        normal = ndtri(np.clip(values, 1e-15, 1 - 1e-15))
        for order, (what, unit) in enumerate(_MOMENTS.items(), start=1):
            found = float(shares @ eval_hermitenorm(order, normal) / np.sqrt(factorial(order)))
            deviation = abs(found) / np.sqrt(by_chance)
            yield what, name, found * unit, _two_sided(deviation, order, shares)


def _two_sided(deviation: float, order: int, shares: np.ndarray) -> float:
    """Probability that a mean of Hermite polynomials is so many standard deviations from zero, if that is only chance.

    Those of higher order have long tails, which a mean of few events has left of.

    Args:
        deviation: The standard deviations.
        order: That of the polynomials.
        shares: Weights of the events.
    """
    skewness, kurtosis = _CUMULANTS[order]
    squares = np.square(shares).sum()
    third, fourth = skewness * np.sum(shares**3) / squares**1.5, kurtosis * np.sum(shares**4) / squares**2
    edgeworth = fourth / 24.0 * eval_hermitenorm(3, deviation) + third**2 / 72.0 * eval_hermitenorm(5, deviation)
    p_value = 2.0 * (stats.norm.sf(deviation) + stats.norm.pdf(deviation) * edgeworth)
    return float(np.clip(p_value, 0.0, 1.0))


def _ranks(values: np.ndarray, known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distribution function of weighted events, at other values."""
    order = np.argsort(known)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    return (below[np.searchsorted(known[order], values)] + 0.5 * weights.mean()) / (1.0 + weights.mean())


def _closure(
    subject: Subject,
    learned_from: float,
    sample: Sample,
    promised: Sample,
    scores: Sequence[np.ndarray],
    n_data: int,
) -> Iterator[tuple[Any, ...]]:
    shares, of_promised = _shares(sample), _shares(promised)
    for name, measured, expected in zip(subject.nuisances, *scores or ([], []), strict=True):
        mean, centre = float(shares @ measured), float(of_promised @ expected)
        width, difference = np.sqrt(of_promised @ np.square(expected - centre)), mean - centre
        if not width > 0:
            continue
        parts = ((shares, measured - mean), (of_promised, expected - centre))
        variance = sum(np.square(share) @ np.square(values) for share, values in parts)
        error = np.sqrt(variance + width**2 / learned_from)
        yield (
            "closure",
            name,
            float(np.sqrt(n_data) * difference / width),
            float(2 * stats.norm.sf(abs(difference) / error)),
        )


def _normalisation(sample: Sample, subject: Subject, seed: int) -> Iterator[tuple[Any, ...]]:
    """Of the nominal density, in the middle of its conditions."""
    centre = {name: float(np.median(sample.columns[name])) for name in subject.flow.cond}
    found = check_normalisation(subject.flow, at=centre, seed=seed)
    if found.error > 0:
        yield _integral(found.integral, found.error)


def _normalisation_by_draws(
    here: tuple[np.ndarray, np.ndarray], nominal: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[Any, ...]]:
    r"""Of a density elsewhere, from its own events and nominal ones.

    The log-ratio :math:`l` of the two densities would tell from which of them an event comes with the probability
    :math:`\sigma(l - c)`, :math:`e^c` being the integral, and sums of these are as large as the numbers of events (C. H. Bennett,
    J. Comput. Phys. 22, 245). They are bounded, unlike ratios, whose mean may have no variance where one density is narrower.

    Args:
        here: Shares of events of this density, and their log-ratios.
        nominal: The same of nominal events.
    """

    def excess(c: float) -> float:
        return float(here[0] @ expit(c - here[1]) - nominal[0] @ expit(nominal[1] - c))

    c = float(brentq(excess, -_FARTHEST, _FARTHEST))
    own, others = expit(c - here[1]), expit(nominal[1] - c)
    overlap = here[0] @ (own * (1.0 - own)) + nominal[0] @ (others * (1.0 - others))
    if overlap / np.square(nominal[0]).sum() > _FEWEST:
        scatter = sum(np.square(w) @ np.square(f - w @ f) for w, f in ((here[0], own), (nominal[0], others)))
        yield _integral(np.exp(c), np.exp(c) * float(np.hypot(np.sqrt(scatter) / overlap, _ROUNDING)))


def _integral(integral: float, error: float) -> tuple[Any, ...]:
    return "normalisation", "integral", integral, float(2 * stats.norm.sf(abs(integral - 1.0) / error))


def _rejected(p_values: np.ndarray, level: float) -> np.ndarray:
    """Holm's procedure: which of several tests fail, if one false alarm in all has the probability ``level``."""
    order = np.argsort(p_values)
    small = p_values[order] <= level / np.arange(len(p_values), 0, -1)
    rejected = np.zeros(len(p_values), bool)
    rejected[order] = np.logical_and.accumulate(small)
    return rejected


_REMEDIES = {
    **OF_FIT,
    **OF_CONDITIONS,
    "classifier": "a classifier tells simulation from the density: train it longer, or with more events",
    "mean": "the mean of {of!r} is {value:+.2g} widths from the promised one: train longer, check columns and ranges",
    "width": "{of!r} is {percent:+.2g} % wider than promised: train longer, check columns and ranges",
    "skewness": "the skewness of {of!r} is off by {value:+.2g}: train longer, check columns and ranges",
    "closure": "a fit of {of!r} to {n_data} events would be off by {value:+.2g} errors",
    "normalisation": "the density integrates to {value:.4g}",
}


def _sentence(row: Any, interactions: Collection[frozenset[str]]) -> str:
    what = _REMEDIES[row.test].format(of=row.of, value=row.value, percent=100 * row.value, n_data=row.n_data)
    moved = [one.partition("=")[0] for one in row.point.split(", ") if "=" in one]
    lacking = any(frozenset(pair) not in interactions for pair in itertools.combinations(moved, 2))
    remedy = (
        ". Add the interaction: fit_deformation(..., interactions=[...])"
        if lacking and row.test != "normalisation"
        else ""
    )
    where = f"{row.process} at {row.point}" if row.process else row.point
    return f"{where}: {what}" + (f" (p = {row.p_value:.1g})" if row.p_value > 0 else "") + remedy

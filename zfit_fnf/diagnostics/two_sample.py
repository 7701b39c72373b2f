"""Classifiers between two samples: what they find is a difference, whatever its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..common.optional import require
from ..samples import as_sample, check_trainable

_FOLDS = 2
_FOLDS_OF_TOYS = 5  # of `held_out_log_odds`
_FINE, _COARSE = 254, 64  # values of each column; trees find no more of them, and take long to find them themselves


def two_sample_auc(
    first: Any, second: Any, columns: Sequence[str], *, weights: tuple[Any, Any] = (None, None), seed: int = 0
) -> float:
    """Area under the ROC curve of a classifier between two samples; 0.5 where it finds no difference.

    Boosted trees are trained on one half of the events and tested on the other, and vice versa, so that memorised
    events do not count. With equal distributions the result scatters by about
    ``sqrt(1 / 12 (1 / n + 1 / m))`` around 0.5 for ``n`` and ``m`` events.

    Args:
        first: A sample: anything that `zfit_fnf.samples.as_sample` takes.
        second: The other one.
        columns: Which columns the classifier sees.
        weights: Weights of each: a column or an array; negative ones count as zero.
        seed: Seed of the split and of the classifier.

    Raises:
        ImportError: If scikit-learn is missing, with the command that installs it.
        ValueError: If a column is missing.

    Example:
        >>> two_sample_auc(data, profiled.pdf.sample(50_000), ["x1", "x2", "y1", "y2"])
    """
    metrics = require("sklearn.metrics", extra="diagnostics")
    score, label, signed, fold = held_out_scores(first, second, columns, weights=weights, seed=seed)
    w = np.maximum(signed, 0.0)
    areas = [
        metrics.roc_auc_score(label[fold == k], score[fold == k], sample_weight=w[fold == k]) for k in range(_FOLDS)
    ]
    return float(np.mean(areas))


def two_sample_test(
    first: Any,
    second: Any,
    columns: Sequence[str],
    *,
    weights: tuple[Any, Any] = (None, None),
    seed: int = 0,
    learned_from: float = np.inf,
) -> float:
    """Probability that samples of one distribution differ as much as these do, for a classifier.

    Each half of the events is ordered by a classifier that was trained on the other one; the weighted mean ranks of the two
    samples are compared, and the smaller of the two probabilities counts twice. For unweighted events this is the
    permutation test of the ranks, in the limit of many events.

    Args:
        first: A sample: anything that `zfit_fnf.samples.as_sample` takes.
        second: The other one.
        columns: Which columns the classifier sees.
        weights: Weights of each: a column or an array; negative ones take events away, as they should.
        seed: Seed of the split and of the classifier.
        learned_from: Number of events that taught a density of which the second sample is drawn, with all that they have by
            chance; a difference that is no larger than that is none.

    Raises:
        ImportError: If scikit-learn is missing, with the command that installs it.
        ValueError: If a column is missing.

    Example:
        >>> two_sample_test(data, profiled.pdf.sample(50_000), ["x1", "x2", "y1", "y2"])
    """
    score, label, w, fold = held_out_scores(first, second, columns, weights=weights, seed=seed)
    p_values = []
    for k in range(_FOLDS):
        ranks, labels, weights = stats.rankdata(score[fold == k]), label[fold == k], w[fold == k]
        means, variances, sizes = zip(
            *(_mean(ranks[labels == one], weights[labels == one]) for one in (0, 1)), strict=True
        )
        variance = sum(variances) + variances[1] * sizes[1] / learned_from
        p_values.append(stats.norm.sf((means[1] - means[0]) / np.sqrt(max(variance, 1e-300))))
    return float(min(1.0, _FOLDS * min(p_values)))


def held_out_scores(
    first: Any, second: Any, columns: Sequence[str], *, weights: tuple[Any, Any], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probability of the second sample, by a classifier that has not seen the event; labels, weights and folds."""
    ensemble = require("sklearn.ensemble", extra="diagnostics")
    samples = [as_sample(sample, columns, weights=own) for sample, own in zip((first, second), weights, strict=True)]
    for sample in samples:
        check_trainable(sample)
    x = _codes(_FINE, *(sample.array(columns) for sample in samples))
    label = np.repeat([0, 1], [sample.n_events for sample in samples])
    # Both samples have the same total weight: the classifier should learn shapes, not numbers of events. Whatever it learns
    # without negative weights, it does not know on which events it is tested.
    w = np.concatenate([sample.relative_weights(np.arange(sample.n_events)) for sample in samples])
    positive = np.concatenate([_positive(w[label == one]) for one in (0, 1)])
    fold = np.random.default_rng(seed).permutation(len(x)) % _FOLDS
    score = np.zeros(len(x))
    for held in range(_FOLDS):
        train, test = fold != held, fold == held
        classifier = ensemble.HistGradientBoostingClassifier(random_state=seed, early_stopping=True)
        with _one_thread():
            classifier.fit(x[train], label[train], sample_weight=positive[train])
            score[test] = classifier.predict_proba(x[test])[:, 1]
    return score, label, w, fold


def held_out_log_odds(
    first: np.ndarray, second: np.ndarray, weights: np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of the first of two samples for the events ``(n, d)`` of both, by trees that have not seen the event.

    Made to be called often: values are ordered into few classes beforehand, by quantiles of the second sample.

    Args:
        first: Events without weights.
        second: Events.
        weights: Weights of these; both samples have the same weight in all.
        seed: Seed of the split and of the trees.
    """
    ensemble = require("sklearn.ensemble", extra="diagnostics")
    codes = _codes(_COARSE, first, second)
    label = np.repeat([1, 0], [len(first), len(second)])
    w = np.concatenate([np.ones(len(first)), weights * len(first) / weights.sum()])
    fold = np.random.default_rng(seed).permutation(len(codes)) % _FOLDS_OF_TOYS
    log_odds = np.zeros(len(codes))
    for held in range(_FOLDS_OF_TOYS):
        trees = ensemble.HistGradientBoostingClassifier(
            max_leaf_nodes=8, learning_rate=0.05, early_stopping=True, random_state=seed
        )
        with _one_thread():
            trees.fit(codes[fold != held], label[fold != held], sample_weight=w[fold != held])
            log_odds[fold == held] = trees.decision_function(codes[fold == held])
    return log_odds[: len(first)], log_odds[len(first) :]


def _one_thread() -> Any:
    """Trees by one thread: on cores that other work shares, threads wait for one another, up to thirty times as long."""
    return require("threadpoolctl", extra="diagnostics").threadpool_limits(1, user_api="openmp")


def _codes(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Events of both samples with the values of each column ordered into ``n`` classes, by quantiles of the second one."""
    levels = np.linspace(0.0, 1.0, n + 1)[1:-1]
    columns = zip(second.T, np.concatenate([first, second]).T, strict=True)
    return np.stack([np.searchsorted(np.quantile(a, levels), b) for a, b in columns], axis=1).astype(float)


def _mean(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Weighted mean, its variance, and the effective number of events."""
    shares = weights / weights.sum()
    mean, squares = float(shares @ values), np.square(shares)
    return mean, float(squares @ np.square(values - mean)), float(1.0 / squares.sum())


def _positive(weights: np.ndarray) -> np.ndarray:
    """Negative weights count as zero; the mean is one."""
    weights = np.maximum(weights, 0.0)
    return weights / weights.mean()

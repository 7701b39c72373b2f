r"""Score closure: the mean score of simulated events, minus that which the learned densities promise.

With the score :math:`s(x) = \nabla_\theta \log \sum_c n_c \hat p_c(x)` at one point of the parameters, a learned density of
process c that is right has :math:`E_{c,\nu}[s] = \hat E_{c,\nu}[s]` everywhere. What simulated events say of the left side is
measured at the points :math:`k` of the simulation and interpolated between them, :math:`D_c(\nu) = \sum_k a_k(\nu) D_{c,k}`;
the right side is an average over events drawn from the densities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..loss import LogSpaceNLL, yield_gradient
from ..pdf import SumPDF, folds_of
from .averages import Draws, SimulatedMeans, scored_samples
from .moments import SlopeNoise, inverse, root
from .processes import Process
from .shared import SharedEvents, marks_of_shared, together

__all__ = ["DRAWS", "Closure", "Coefficients", "Measurement"]

DRAWS = "draws of the model"
"""What the events that are drawn from the densities are called among the sources of uncertainty."""

_THINNED, _FEWEST = 8, 1000  # one of so many events tells how a closure moves, if so many of each sample are left


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Polynomial of a process's share in the closure.

    Attributes:
        process: The process.
        nu: Where the nuisances are.
        values: Coefficients of the monomials, ``(M, P)``.
        covariances: Those of each of them, ``(M, P, P)``.
    """

    process: Process
    nu: list[float]
    values: np.ndarray
    covariances: np.ndarray

    @classmethod
    def of(cls, process: Process, measured: SimulatedMeans, closure: np.ndarray) -> Coefficients:
        """Of a closure ``(K, P)`` at the points of the simulation, for each event of the process."""
        rows = process.interpolation.coefficients
        nu = [float(parameter.value()) for parameter in process.params]
        return cls(process, nu, rows @ closure, np.stack([measured.covariance(row) for row in rows]))

    def times(self, factor: float) -> Coefficients:
        """Those of scores that are a factor larger."""
        return replace(self, values=factor * self.values, covariances=factor**2 * self.covariances)

    def lengths(self, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared length ``(M,)`` of each coefficient in a metric ``(P, P)``, and what noise adds to it on average."""
        squares = np.einsum("mi,ij,mj->m", self.values, metric, self.values)
        return squares, np.einsum("mij,ij->m", self.covariances, metric)

    def standing_out(self, metric: np.ndarray) -> np.ndarray:
        """What to keep ``(M,)`` of each of them in the slopes: Stein's estimator.

        The closure itself has all of them: it is unbiased. Its slopes tell what a score is worth, and noise there does harm.
        """
        squares, noise = self.lengths(metric)
        n_scores = max(int(np.linalg.matrix_rank(metric)), 2)
        kept = np.clip(1.0 - (1.0 - 2.0 / n_scores) * noise / np.maximum(squares, 1e-300), 0.0, 1.0)
        kept[0] = 1.0  # the constant
        return kept

    def remainders(self, metric: np.ndarray) -> dict[tuple[str, ...], float]:
        """How far off the polynomial may be, in the metric; by the nuisances of the monomials that it lacks."""
        return self.process.interpolation.remainders(self.nu, *self.lengths(metric))


@dataclass(frozen=True, eq=False)
class Closure:
    """What simulation says of the scores of a likelihood at one point of its parameters.

    Attributes:
        bias: Expected sum of the scores of the data at that point, ``(P,)``; zero for densities that are right.
        promised: Derivative ``(P, P)`` of the expected sum of scores with respect to the parameters, from the densities: their
            Fisher information.
        slope: What simulation adds to that.
        sources: Covariance ``(P, P)`` of ``bias`` for each simulated sample, by process and sample.
        slope_noise: For each source, what multiplies the covariance of its mean score in the covariance of two columns of
            ``slope``, the same for how well these are known, and that covariance.
        sizes: Number of events of each source, and what they are worth.
        scores: Scores ``(n, P)`` of events of the densities, whose second moments are ``promised``.
        numbers: How many expected events each of them stands for, ``(n,)``.
        coefficients: What it is made of between the points of the simulation, for each process of each fold.
        shared: Events that other processes have, too, which are not in ``sources`` before all of these are known.
    """

    bias: np.ndarray
    promised: np.ndarray
    slope: np.ndarray
    sources: dict[tuple[str, str], np.ndarray]
    slope_noise: dict[tuple[str, str], list[SlopeNoise]]
    sizes: dict[tuple[str, str], tuple[int, float]]
    scores: np.ndarray
    numbers: np.ndarray
    coefficients: list[Coefficients]
    shared: list[SharedEvents] = field(default_factory=list)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance ``(P, P)`` of the bias."""
        return np.sum([np.zeros_like(self.promised), *self.sources.values()], axis=0)

    def times(self, share: float) -> Closure:
        """That of scores which are a share of these."""
        return Closure(
            share * self.bias,
            share * self.promised,
            share * self.slope,
            {source: share**2 * matrix for source, matrix in self.sources.items()},
            {
                source: [(share**2 * factors, share**2 * unknown, matrix) for factors, unknown, matrix in ones]
                for source, ones in self.slope_noise.items()
            },
            self.sizes,
            self.scores,
            share * self.numbers,
            [one.times(share) for one in self.coefficients],
            [one.times(share) for one in self.shared],
        )


class Measurement:
    """Measures the closure again and again, wherever the parameters are.

    Args:
        nll: The likelihood.
        processes: Components of its models, with their simulation.
        params: The parameters.
        n_draws: Events to draw from the densities of each channel.
        seed: Seed of these.
    """

    def __init__(
        self,
        nll: LogSpaceNLL,
        processes: Sequence[Process],
        params: Sequence[zfit.Parameter],
        *,
        n_draws: int,
        seed: int,
    ):
        self._nll, self._processes, self._params = nll, processes, params
        self._n_draws, self._seed = n_draws, seed
        share = 1.0 / sum(1 + len(one.points) for one in processes)
        self._models = {
            (index, fold): model for index, whole in enumerate(nll.model) for fold, model in enumerate(folds_of(whole))
        }
        self._draws = {
            place: Draws(model, self._in(place), n_draws, seed + turn, share, extended=nll.extended[place[0]])
            for turn, (place, model) in enumerate(self._models.items())
        }
        self._events = {
            one: scored_samples(
                self._models[one.channel, one.fold],
                [point.x for point in one.points],
                len(params),
                share,
                extended=nll.extended[one.channel],
            )
            for one in processes
            if one.points
        }
        self._shared = dict(zip(processes, marks_of_shared(processes), strict=True))

    def thinned(self) -> Measurement | None:
        """A measurement with a part of the events: it tells how the closure moves; none, where there are few events."""
        smallest = min((len(point.x) for one in self._processes for point in one.points), default=0)
        step = min(_THINNED, smallest // _FEWEST)
        if step < 2:
            return None
        few = [replace(one, points=tuple(point.thinned(step) for point in one.points)) for one in self._processes]
        return Measurement(self._nll, few, self._params, n_draws=self._n_draws // step, seed=self._seed)

    def _in(self, place: tuple[int, int]) -> list[Process]:
        return [one for one in self._processes if (one.channel, one.fold) == place]

    def __call__(self) -> Closure:
        """The closure at the current values of the parameters: of folds, that of their mean score."""
        parts = [self._measured(place) for place in self._models]
        keys = dict.fromkeys(key for part in parts for key in part.sources)
        shared, noise, sizes = together([one for part in parts for one in part.shared])
        return Closure(
            np.sum([part.bias for part in parts], axis=0),
            np.sum([part.promised for part in parts], axis=0),
            np.sum([part.slope for part in parts], axis=0),
            {key: np.sum([part.sources[key] for part in parts if key in part.sources], axis=0) for key in keys}
            | shared,
            {key: [one for part in parts for one in part.slope_noise.get(key, [])] for key in keys} | noise,
            {key: _together([part.sizes[key] for part in parts if key in part.sizes]) for key in keys}
            | {key: _together(found) for key, found in sizes.items()},
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.numbers for part in parts]),
            [one for part in parts for one in part.coefficients],
        )

    def _measured(self, place: tuple[int, int]) -> Closure:
        """Of one model, with its share in the mean."""
        nll, params, drawn, model = self._nll, self._params, self._draws[place], self._models[place]
        whole, processes = nll.model[place[0]], self._in(place)
        extended = nll.extended[place[0]]
        n_data = None if extended else float(nll.data[place[0]].samplesize)
        numbers, gradients = expected_numbers(model, params, n_data)
        drawn.move(params)
        of_draws, shares = drawn.scores(numbers, centred=not extended)
        promised = of_draws.T @ (shares[:, None] * of_draws)
        # The mean score of all processes together is known where the scores are taken, which tells what the draws are off by.
        off = -yield_gradient(model, params)[1] if extended else np.zeros(len(params))
        bias, slope = np.zeros(len(params)), np.zeros_like(promised)
        residual, of_all = np.zeros((drawn.n, len(params))), np.zeros((drawn.n, len(params)))
        sources, sizes = {}, {(whole.name, DRAWS): (drawn.n, float(drawn.n))}
        noise: dict[tuple[str, str], list[SlopeNoise]] = {}
        coefficients, shared = list[Coefficients](), list[SharedEvents]()
        for process, number, gradient in zip(processes, numbers, gradients, strict=True):
            off = off + number * drawn.mean(process.index, None)
            of_all += number * drawn.residuals(process.index, None)
            if not process.points:
                continue
            marks = self._shared[process]
            measured = SimulatedMeans.of(process.points, self._events[process], params, shared=marks)
            measured = measured.believed(process.points, drawn, process.index)
            closure = measured.values - [drawn.mean(process.index, k) for k in range(len(process.points))]
            between = Coefficients.of(process, measured, closure)
            kept, nu = between.standing_out(inverse(promised)), between.nu
            coefficients.append(between.times(number))
            weights = process.interpolation.weights(nu)
            # What a shrunk coefficient may be scatters by the root of what is kept of it.
            factors, unknown = (_factors(process, params, nu, part, number, gradient) for part in (kept, np.sqrt(kept)))
            bias = bias + number * weights @ closure
            slope = slope + closure.T @ factors
            for k, weight in enumerate(weights):
                residual -= number * weight * drawn.residuals(process.index, k)
            for label, rows in measured.groups:
                first = process.points[rows[0]]
                key, size = (process.name, label), (len(first.x), first.effective_size)
                if label in marks:
                    of_means = number * weights[rows], factors[rows], unknown[rows]
                    residuals = [measured.residuals[k] for k in rows]
                    shared.append(SharedEvents(marks[label], *key, size, *of_means, residuals))
                    continue
                sizes[key] = size
                sources[key], noise[key] = _of_own_events(measured, rows, number * weights, factors, unknown)
        share = _share_in_draws(residual, of_all, np.sqrt(np.diag(promised)))
        bias, residual = bias + share @ off, residual + of_all @ share.T
        sources[whole.name, DRAWS] = residual.T @ residual
        closure = Closure(bias, promised, slope, sources, noise, sizes, of_draws, shares, coefficients, shared)
        return closure.times(1.0 / len(folds_of(whole)))


def _of_own_events(
    measured: SimulatedMeans, rows: Sequence[int], weights: np.ndarray, factors: np.ndarray, unknown: np.ndarray
) -> tuple[np.ndarray, list[SlopeNoise]]:
    """What events that no other process has add to the covariance of the closure, and the noise that they make of its slopes."""
    noise = [
        (np.outer(factors[k], factors[other]), np.outer(unknown[k], unknown[other]), covariance)
        for (k, other), covariance in measured.covariances.items()
        if k in rows
    ]
    return measured.covariance(weights, rows), noise


def _share_in_draws(residual: np.ndarray, of_all: np.ndarray, units: np.ndarray) -> np.ndarray:
    """How much of the noise of draws at the points is in those of all processes: nearly all, if all were simulated.

    A luminosity moves all events alike: in its own units, what rounding leaves of its scores would look like a direction.
    """
    units = np.where(units > 0, units, 1.0)
    scaled = of_all / units
    found: np.ndarray = -residual.T @ scaled @ root(scaled.T @ scaled, -1.0) / units
    return found


def _factors(
    process: Process,
    params: Sequence[zfit.Parameter],
    nu: Sequence[float],
    kept: np.ndarray,
    number: float,
    gradient: np.ndarray,
) -> np.ndarray:
    """What the closure of each point ``(points, P)`` is multiplied by in the slope of the scores."""
    chosen = np.array([[float(one is parameter) for parameter in params] for one in process.params])
    slopes = number * process.interpolation.slopes(nu, kept) @ chosen.reshape(-1, len(params))
    return slopes + process.interpolation.weights(nu, kept)[:, None] * gradient


def _together(sizes: Sequence[tuple[int, float]]) -> tuple[int, float]:
    return sum(n for n, _ in sizes), sum(effective for _, effective in sizes)


def expected_numbers(
    model: zfit.pdf.BasePDF, params: Sequence[zfit.Parameter], n_data: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Expected events of each component of a model ``(C,)``, and their derivatives ``(C, P)``.

    Args:
        model: The model.
        params: The parameters.
        n_data: Number of events, where it is not a part of the likelihood.
    """
    with tf.GradientTape(persistent=True) as tape:
        total = tf.reshape(model.get_yield().value(), ()) if n_data is None else tf.constant(n_data, tf.float64)
        shares = _shares(model)
        numbers = [total * share / tf.add_n(shares) for share in shares]
    zero = tf.UnconnectedGradients.ZERO
    gradients = [np.asarray(tape.gradient(one, list(params), unconnected_gradients=zero), float) for one in numbers]
    return np.array([float(one) for one in numbers]), np.stack(gradients)


def _shares(model: zfit.pdf.BasePDF) -> list[tf.Tensor]:
    if isinstance(model, SumPDF):
        return tf.unstack(model.weights())
    if isinstance(model, zfit.pdf.SumPDF):
        return [tf.reshape(fraction.value(), ()) for fraction in model.params.values()]
    return [tf.ones((), tf.float64)]

r"""What a log-ratio, or a map, may be off by between the samples, of which only its polynomial there is known.

The samples determine the coefficients :math:`r_m` of as many monomials as there are points. What would be the next one,
:math:`\nu^3` beside :math:`\nu` and :math:`\nu^2`, is none of them: at the points it is taken for lower ones, and between them
for the wrong ones. Its coefficient is not known, but series go on as they began: the next coefficient is about as much
smaller than the last one as that is smaller than the one before. What it would add between the points,

.. math::
    r_{m+1} \, \big(\nu^{m+1} - \text{the polynomial that is the same at all points}\big),

is how much the log-density may be off, and :math:`\sqrt n` times its spread the errors by which a fit of ``n`` events may be,
where what is off looks like what is fitted. The coefficients of a map are judged by what they do to the log-density, at first
order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from ..common.chunks import slices
from ..densities.deformation import Deformation
from ..densities.monomials import Powers
from ..densities.polynomial_map import Response
from .candidates import Candidates
from .ratio import Learned
from .sources import EventSource

__all__ = ["off_between", "off_between_of_map", "off_between_samples"]

_STRAIGHTENED = 3.0  # times closer at most than with the map as it was, which the coefficients no longer tell
_CERTAIN = 3.0  # standard deviations by which held-out events have to see the highest coefficient of a map
_LOOKED_AT, _AT_ONCE = 50_000, 10_000  # nominal events that its coefficients are judged by, and how many at a time
_STEP = 0.05  # standard deviations between which an effect on the log-density is a difference


def off_between_samples(
    candidates: Candidates, learned: Learned, crooked: Learned | None = None
) -> tuple[float, dict[str, float]]:
    """:func:`off_between` for a log-ratio as it was learned, whose coefficients are those of the nominal events.

    Args:
        candidates: With its samples.
        learned: The log-ratio.
        crooked: That beside the map before it was made straighter.
    """
    if crooked is not None:
        before, at = off_between_samples(candidates, crooked)
        after, place = off_between_samples(candidates, learned)
        return max((after, place), (before / _STRAIGHTENED**2, at), key=lambda found: found[0])
    contrast, nominal = learned.contrast, learned.contrast.samples[0]
    halves = []
    for weights in learned.halves:
        values = contrast.values(nominal.bounded, candidates.combinations @ weights)
        # Of functions of the conditions, of which one is constant, a conditional density knows nothing.
        conditions = contrast.of_conditions(nominal.bounded)
        root = np.sqrt(np.abs(nominal.weights))[:, None]
        halves.append(values - conditions @ np.linalg.lstsq(root * conditions, root * values, rcond=None)[0])
    # What either half of the events has learned of noise, the other one has not.
    squares = nominal.weights @ (halves[0] * halves[1]) / nominal.weights.sum()
    points = [*(source.at for source in candidates.sources), *candidates.idle]
    return off_between(candidates.nuisances, candidates.powers, np.sqrt(np.maximum(squares, 0.0)), points)


def off_between_of_map(candidates: Candidates, response: Response) -> tuple[float, dict[str, float]]:
    """:func:`off_between` for a map of one nuisance that stands alone.

    Nothing is told of a map whose highest coefficient held-out events do not see: it may be noise.

    Args:
        candidates: With its samples, and the density with the map.
        response: That of the map.
    """
    density, powers = candidates.with_map, response.powers
    if density is None or density.ratios or len(response.nuisances) > 1 or candidates.idle or len(powers) < 2:
        return 0.0, {}
    directions = (np.eye(len(density.monomials)) + density.correction().numpy())[density.positions(response)]
    points = [source.at for source in candidates.sources]
    values = _monomials(np.array([[point[name] for name in response.nuisances] for point in points]), powers)
    total = variance = 0.0
    for source, rows, at in zip(candidates.sources, candidates.held_out[1:], values, strict=True):
        full, less = (_log_densities(density, source, rows, one @ directions) for one in (at, [*at[:-1], 0.0]))
        shares = source.sample.relative_weights(rows)
        gain = full - less
        total += float(shares @ gain)
        variance += float(np.square(shares) @ np.square(gain - gain.mean())) if len(gain) else 0.0
    if not total > _CERTAIN * np.sqrt(variance):
        return 0.0, {}
    nominal = candidates.nominal
    every = np.arange(0, nominal.sample.n_events, max(1, nominal.sample.n_events // _LOOKED_AT))
    shares = nominal.sample.relative_weights(every)
    spreads = []
    for direction in directions:
        up, down = (_log_densities(density, nominal, every, step * direction) for step in (_STEP, -_STEP))
        effect = (up - down) / (2.0 * _STEP)
        square = np.average(np.square(effect - np.average(effect, weights=shares)), weights=shares)
        spreads.append(np.sqrt(max(float(square), 0.0)))  # negative weights may make it less than nothing
    return off_between(response.nuisances, powers, np.array(spreads), points)


def _log_densities(density: Deformation, source: EventSource, rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Log-densities ``(n,)`` of rows of a sample with a map, at values of its corrected monomials."""
    u, c = source.standardised(rows)
    values = tf.constant(basis, u.dtype)
    parts = [density.log_density(u[part], c[part], values).numpy() for part in slices(len(rows), _AT_ONCE)]
    return np.concatenate([np.zeros(0), *parts])


def off_between(
    nuisances: Sequence[str], powers: Powers, spreads: np.ndarray, points: Sequence[Mapping[str, float]]
) -> tuple[float, dict[str, float]]:
    """Half the mean square of what a log-ratio may be off by, in nats per event, and where that is largest.

    Args:
        nuisances: The nuisances of the response.
        powers: Exponents of its monomials.
        spreads: Standard deviations ``(M,)`` of their coefficients.
        points: Of the samples, the nominal one left out.
    """
    at = np.array([[point.get(name, 0.0) for name in nuisances] for point in points])
    following = _following(powers, spreads, np.abs(at).max(axis=0))
    places = np.array([place for place in _places(at) if not (at == place).all(axis=1).any()])
    if not following or not len(places):
        return 0.0, {}
    instead = np.linalg.pinv(_monomials(at, powers))
    total = np.zeros(len(places))
    for power, size in following.items():
        # What the samples take it for is subtracted.
        left = _monomials(places, [power]) - _monomials(places, powers) @ instead @ _monomials(at, [power])
        total += 0.5 * np.square(size * left[:, 0])
    worst = int(np.argmax(total > 0.99 * total.max()))  # of those that are alike, the first one
    return float(total[worst]), dict(zip(nuisances, places[worst].tolist(), strict=True))


def _monomials(points: np.ndarray, powers: Powers | list[tuple[int, ...]]) -> np.ndarray:
    """Monomials ``(n, M)`` at points ``(n, K)``."""
    return np.prod(points[:, None, :] ** np.array(powers), axis=2)


def _following(powers: Powers, spreads: np.ndarray, edges: np.ndarray) -> dict[tuple[int, ...], float]:
    """The next monomial for each nuisance, and the spread that its coefficient would have; no larger ones, up to the edges."""
    sizes = dict(zip(powers, spreads.tolist(), strict=True))
    found: dict[tuple[int, ...], float] = {}
    for power, size in sizes.items():
        for axis, edge in enumerate(edges):
            step = np.eye(len(power), dtype=int)[axis]
            following, former = (tuple((power + sign * step).tolist()) for sign in (1, -1))
            if following in sizes or former not in sizes or not size > 0.0:
                continue
            ratio = min(size / sizes[former], 1.0 / edge) if sizes[former] > 0.0 else 1.0 / edge
            found[following] = np.hypot(found.get(following, 0.0), size * ratio)
    return found


def _places(at: np.ndarray) -> list[tuple[float, ...]]:
    """Half way between the values of each nuisance, with zero among them; of several also at these values of the others."""
    values = [np.unique(np.append(column, 0.0)) for column in at.T]
    halves = [0.5 * (each[1:] + each[:-1]) for each in values]
    of_each = halves
    if len(values) > 1:
        of_each = [np.append(half, each[each != 0.0]) for half, each in zip(halves, values, strict=True)]
    # From the largest down, so that of places that are alike it is the one above zero.
    return list(itertools.product(*(sorted(each.tolist(), reverse=True) for each in of_each)))

"""State dicts as PyTorch would write them, with random weights, and their densities in plain loops of the equations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import special

ACTIVATIONS = {
    "ReLU": lambda v: np.maximum(v, 0.0),
    "ELU": lambda v: np.where(v > 0, v, np.expm1(np.minimum(v, 0.0))),
    "SiLU": lambda v: v * special.expit(v),
    "Tanh": np.tanh,
}


@dataclass
class Made:
    """A state dict, and what made it."""

    n_dim: int
    n_context: int
    bins: int
    hidden: list[int]
    residual: bool
    normalize: bool
    n_transforms: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def made_flow(orders, *, n_context=0, bins=0, hidden=(8, 8), residual=False, normalize=False, scale=1.5, seed=3):
    """A zuko flow; ``orders`` has, for each transform, the place of each feature (equal ones for couplings)."""
    rng = np.random.default_rng(seed)
    n_dim, per_feature = len(orders[0]), 3 * bins - 1 if bins else 2
    made = Made(n_dim, n_context, bins, list(hidden), residual, normalize, len(orders))
    for place, order in enumerate(orders):
        prefix = f"transform.transforms.{place}."
        if n_dim == 1 and not n_context:
            sizes = [(1, bins), (1, bins), (1, bins - 1)] if bins else [(1,), (1,)]
            for number, size in enumerate(sizes):
                made.arrays[f"{prefix}phi.{number}"] = rng.normal(size=size).astype(np.float32)
            continue
        if n_dim == 1:
            layers = _plain_layers([n_context, *hidden, per_feature], normalize)
            degrees = None
        else:
            made.arrays[f"{prefix}order"] = np.array(order)
            # Context has degree -1. A hidden unit of degree k sees what has degree <= k; parameters of a feature see < its own.
            shared = np.arange(-1 if n_context else 0, max(order))
            inner = [shared[np.arange(n) % len(shared)] for n in hidden]
            degrees = [np.array([*order, *[-1] * n_context]), *inner, np.repeat(np.array(order), per_feature) - 0.5]
            layers = _residual_layers(len(hidden), hidden) if residual else _plain_layers(degrees, False)
        for name, before, after in layers:
            if degrees is None:
                shape, mask = (after, before), None
            else:
                mask = degrees[after][:, None] >= degrees[before]
                shape = mask.shape
            add_linear(made.arrays, f"{prefix}hyper.{name}", shape, mask, rng, scale)
    made.arrays["base.loc"], made.arrays["base.scale"] = np.zeros(n_dim, np.float32), np.ones(n_dim, np.float32)
    return made


def add_linear(arrays, name, shape, mask, rng, scale):
    arrays[f"{name}.weight"] = (scale * rng.normal(size=shape) / np.sqrt(shape[1])).astype(np.float32)
    arrays[f"{name}.bias"] = (0.5 * rng.normal(size=shape[0])).astype(np.float32)
    if mask is not None:
        arrays[f"{name}.mask"] = mask


def _plain_layers(levels, normalize):
    """(name, level before, level after); levels are widths without masks, places in the list of degrees with them."""
    step = 3 if normalize else 2
    places = levels if isinstance(levels[0], int) else range(len(levels))
    return [(str(step * k), places[k], places[k + 1]) for k in range(len(levels) - 1)]


def _residual_layers(n_hidden, hidden):
    layers, position = [("0", 0, 1)], 1
    for level in range(1, n_hidden + 1):
        if level > 1 and hidden[level - 1] != hidden[level - 2]:
            layers.append((str(position), level - 1, level))
            position += 1
        layers += [(f"{position}.0", level, level), (f"{position}.2", level, level)]
        position += 1
    return [*layers, (str(position), n_hidden, n_hidden + 1)]


def network(arrays, prefix, values, activation, *, normalize=False):
    """Outputs for one event."""
    act = ACTIVATIONS[activation]

    def linear(name, v):
        weight = arrays[f"{name}.weight"].astype(float) * arrays.get(f"{name}.mask", 1.0)
        return np.array([weight[k] @ v + arrays[f"{name}.bias"][k] for k in range(len(weight))])

    positions = sorted({int(name[len(prefix) :].split(".")[0]) for name in arrays if name.startswith(prefix)})
    residual = any(f"{prefix}{position}.0.weight" in arrays for position in positions)
    for position in positions:
        name = f"{prefix}{position}"
        if f"{name}.0.weight" in arrays:
            values = values + linear(f"{name}.2", act(linear(f"{name}.0", values)))
            continue
        if position and not residual:
            values = act(values)
            if normalize:
                values = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-5)
        values = linear(name, values)
    return values


def spline(x, parameters, bins, bound, slope):
    """Value and logarithm of the slope of the rational-quadratic spline (arXiv:1906.04032)."""
    widths, heights, slopes = np.split(parameters, [bins, 2 * bins])
    floor = abs(np.log(slope))
    widths, heights = (np.exp(raw / (1 + 2 * np.abs(raw) / floor)) for raw in (widths, heights))
    knots_x = bound * (2 * np.concatenate([[0], np.cumsum(widths / widths.sum())]) - 1)
    knots_y = bound * (2 * np.concatenate([[0], np.cumsum(heights / heights.sum())]) - 1)
    slopes = np.exp(np.concatenate([[0.0], slopes / (1 + np.abs(slopes) / floor), [0.0]]))
    if not -bound < x < bound:
        return x, 0.0
    k = np.searchsorted(knots_x, x, side="left") - 1
    dx, dy = knots_x[k + 1] - knots_x[k], knots_y[k + 1] - knots_y[k]
    s, t, before, after = dy / dx, (x - knots_x[k]) / dx, slopes[k], slopes[k + 1]
    below = s + (before + after - 2 * s) * t * (1 - t)
    value = knots_y[k] + dy * (s * t**2 + before * t * (1 - t)) / below
    derivative = s**2 * (after * t**2 + 2 * s * t * (1 - t) + before * (1 - t) ** 2) / below**2
    return value, np.log(derivative)


def density_of(made, event, context, activation, *, slope=1e-3, arrays=None):
    """Log-density of one event."""
    arrays = made.arrays if arrays is None else arrays
    u, total = np.array(event, float), 0.0
    for place in range(made.n_transforms):
        prefix = f"transform.transforms.{place}."
        if f"{prefix}phi.0" in arrays:
            parameters = np.concatenate([arrays[f"{prefix}phi.{k}"].reshape(-1) for k in range(3 if made.bins else 2)])
        else:
            values = np.concatenate([u, context]) if made.n_dim > 1 else context
            parameters = network(arrays, f"{prefix}hyper.", values, activation, normalize=made.normalize)
        parameters, z = parameters.astype(float).reshape(made.n_dim, -1), u.copy()
        for j in range(made.n_dim):
            if made.bins:
                z[j], log_slope = spline(u[j], parameters[j], made.bins, 5.0, slope)
            else:
                shift, raw = parameters[j]
                log_slope = raw / (1 + abs(raw / np.log(slope)))
                z[j] = u[j] * np.exp(log_slope) + shift
            total += log_slope
        u = z
    return total - 0.5 * np.sum(u**2 + np.log(2 * np.pi))


@dataclass
class MadeFNF:
    """A factorizable flow of two features and one context feature, on an affine base."""

    base: Made
    n_layers: int
    centre: list[float]
    scale: list[float]
    pairs: list[tuple[int, int]]
    arrays: dict[str, np.ndarray]

    def log_prob(self, event, context, nu, quadratic, cross):
        """Log-density of one event."""
        m = (np.asarray(nu) - np.float32(self.centre)) / np.float32(self.scale)
        u, total = np.array(event, float), 0.0
        for layer in range(self.n_layers):
            prefix = f"transforms.{2 * layer}."
            s, t = np.zeros(2), np.zeros(2)
            values = np.concatenate([u, context])
            for k in range(len(m)):
                raw = network(self.arrays, f"{prefix}nuisance_nets.{k}.", values, "ELU").reshape(2, 4)
                s += raw[:, 0] * m[k] + raw[:, 1] * quadratic * m[k] ** 2
                t += raw[:, 2] * m[k] + raw[:, 3] * quadratic * m[k] ** 2
            for place, (first, second) in enumerate(self.pairs):
                raw = network(self.arrays, f"{prefix}cross_nets.{place}.", values, "ELU").reshape(2, 2)
                product = cross * m[first] * m[second]
                s, t = s + raw[:, 0] * product, t + raw[:, 1] * product
            u, total = u * np.exp(s) + t, total + s.sum()
            if f"transforms.{2 * layer + 1}.indices" in self.arrays:
                u = u[self.arrays[f"transforms.{2 * layer + 1}.indices"]]
        return total + density_of(self.base, u, context, "ReLU")


def made_fnf(*, n_layers, centre=(0.0,), scale=(1.0,), pairs=(), seed=4):
    """A factorizable flow; between layers, and after an even number of them, the coordinates are reversed."""
    rng = np.random.default_rng(seed)
    base = made_flow([[0, 1]], n_context=1)
    arrays = {f"base_model.{name}": array for name, array in base.arrays.items()}
    polynomial = {
        "central_nuisance_values": np.array(centre, np.float32),
        "nuisance_scales": np.array(scale, np.float32),
    }
    arrays |= polynomial
    for layer in range(n_layers):
        prefix = f"transforms.{2 * layer}."
        arrays |= {prefix + name: array.copy() for name, array in polynomial.items()}
        arrays[f"{prefix}cross_term_pairs"] = np.array(pairs, int).reshape(-1, 2)
        for kind, count, numbers in (("nuisance_nets", len(centre), 4), ("cross_nets", len(pairs), 2)):
            for k in range(count):
                degrees = [np.array([0, 1, -1]), np.array([-1, 0, -1, 0, -1, 0]), np.repeat([0, 1], numbers) - 0.5]
                for number in range(2):
                    mask = degrees[number + 1][:, None] >= degrees[number]
                    add_linear(arrays, f"{prefix}{kind}.{k}.{2 * number}", mask.shape, mask, rng, 0.3)
        if layer < n_layers - 1 or n_layers % 2 == 0:
            arrays[f"transforms.{2 * layer + 1}.indices"] = np.array([1, 0])
            arrays[f"transforms.{2 * layer + 1}.inv_indices"] = np.array([1, 0])
    return MadeFNF(base, n_layers, list(centre), list(scale), list(pairs), arrays)

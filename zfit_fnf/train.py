"""Training of flows and deformations.

:func:`fit_flow` learns a nominal density; :func:`fit_deformation` learns the response to each nuisance alone from its
own samples, then the interactions from joint samples with everything else frozen. A trained model is a frozen object:
nothing here is needed to evaluate it.
"""

from __future__ import annotations

import copy
import itertools
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from .calibration import calibrate
from .deformation import Deformation, Powers, Response, YieldChange
from .flows import AutoregressiveDensity, Density, Flow
from .history import History
from .nets import Model
from .optimise import Batch, Maximiser, Schedule, TrainingStopped
from .samples import Sample, Variation, as_sample, check_inside, check_trainable
from .screening import check_conditions, check_continuous, check_independent

__all__ = ["History", "Schedule", "TrainingStopped", "fit_deformation", "fit_flow"]


def fit_flow(
    nominal: Any,
    *,
    obs: Sequence[str],
    cond: Sequence[str] = (),
    weights: str | np.ndarray | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    family: str = "mixture",
    n_layers: int = 1,
    n_components: int = 8,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Flow:
    """Learn the nominal conditional density ``p(obs | cond)`` of one process.

    Args:
        nominal: Simulated events: DataFrame, mapping of arrays, zfit Data, :class:`~zfit_fnf.Sample` or file.
        obs: Columns whose density is learned.
        cond: Columns it is conditional on.
        weights: Event weights: a column name or an array; negative ones are allowed.
        ranges: Physical ``(low, high)`` of the observables that have them.
        family: ``"mixture"`` (smooth, default) or ``"spline"``.
        n_layers: Autoregressive layers.
        n_components: Components of the mixture, or bins of the spline.
        hidden: Widths of the hidden layers; default two of ``max(64, 16 d)``.
        schedule: Length and speed of the training.
        seed: Seed of the initial weights, of the validation split and of the shuffling.
        progress: Show a progress bar.

    Returns:
        The flow, with its :class:`History` as ``flow.history``.

    Raises:
        ValueError: For bad input; the message names the column and the remedy.
        TrainingStopped: If the loss diverges or the user interrupts; ``.model`` holds the best weights so far.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> events = {"y": rng.normal(size=5000)}
        >>> flow = fit_flow(events, obs=["y"], schedule=Schedule(steps=200), progress=False)
        >>> bool(abs(flow.log_prob({"y": [0.0]})[0] + 0.919) < 0.1)
        True
    """
    flow = Flow(
        obs, cond, ranges=ranges, family=family, n_layers=n_layers, n_components=n_components, hidden=hidden, seed=seed
    )
    source = _Source.make(flow, nominal, weights)
    check_independent(source.sample, flow.obs, flow.cond)
    flow.standardise(source.sample)
    flow.sum_weights = source.sample.sum_weights
    loop = _Loop.of(flow.density, flow.density, (), _of_flow, schedule or Schedule())
    try:
        flow.history = loop.train(flow.density, f"p({', '.join(flow.obs)})", [source], seed=seed, progress=progress)
    except TrainingStopped as stopped:
        stopped.model = flow
        raise
    return flow


def fit_deformation(
    flow: Flow,
    variations: Sequence[Variation],
    *,
    weights: str | None = None,
    order: int = 2,
    interactions: Sequence[tuple[str, str]] | str = "auto",
    mirror: bool = False,
    hidden: Sequence[int] | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    progress: bool = True,
) -> Deformation:
    """Learn the response of a nominal density to its nuisances.

    Every nuisance is learned alone, from its own variations, so that adding one never retrains another. Interactions
    follow, each from the joint samples of its two nuisances, with everything else frozen. After its networks, the few
    numbers that place a response on its samples are fitted to all events at once (:mod:`zfit_fnf.calibration`).

    Args:
        flow: The nominal density; not changed.
        variations: Samples, each at a point of one nuisance, or of two for an interaction.
        weights: Column of event weights, the same in all samples.
        order: Highest power of a nuisance, 1 to 3. A nuisance with samples on one side only gets order 1.
        interactions: Pairs of nuisances; the default ``"auto"`` takes all pairs with joint samples. The monomials go
            up to ``order`` in each nuisance, as far as the joint points tell them apart: one point gives the product, the
            four corners all of ``nu_k^a nu_l^b`` with ``a, b <= 2``.
        mirror: Trust the linear response of a nuisance with samples on one side at the mirrored point too: its window
            becomes symmetric, and its yield change is inverted there.
        hidden: Widths of the hidden layers.
        schedule: Length and speed of each training; default 1500 steps of 2048 events.
        seed: Seed; each response derives its own from it and from its name.
        executor: ``concurrent.futures`` executor to train single nuisances in parallel, e.g. a
            ``ProcessPoolExecutor`` with the ``spawn`` method; likewise the interactions afterwards.
        progress: Show progress bars (only without an executor).

    Returns:
        The deformation, with a mapping ``history`` from the name of each response to its :class:`History`.

    Raises:
        ValueError: For bad input: a variation at the origin, an interaction without joint samples or without its single
            nuisances, joint samples of an interaction not asked for, an order that the points cannot determine.
        TrainingStopped: If a training diverges or is interrupted; ``.model`` holds what was trained so far.

    Example:
        >>> deformation = fit_deformation(flow, [Variation(up, at={"jes": 1}), Variation(down, at={"jes": -1})])
    """
    plan = _Plan.make(variations, order=order, interactions=interactions, mirror=mirror)
    sources = {id(v): _Source.make(flow, v.events, weights, at=v.at, name=v.name) for v in variations}
    for source in sources.values():
        flow.warn_of_outliers(source.sample)
    schedule = schedule or Schedule(steps=1500, batch_size=2048)
    trained: dict[tuple[str, ...], Response] = {}
    history: dict[str, History] = {}

    def deformation() -> Deformation:
        singles = [r for r in trained.values() if len(r.nuisances) == 1]
        names = [r.nuisances[0] for r in singles]
        pairs = [r for r in trained.values() if len(r.nuisances) > 1]
        result = Deformation(
            flow,
            [*singles, *pairs],
            windows={name: plan.windows[name] for name in names},
            yields={name: _yield_change(plan.singles[(name,)], sources, flow.sum_weights, mirror) for name in names},
        )
        result.history = history
        return result

    for stage in (plan.singles, plan.pairs):
        tasks = [
            _Task(
                flow=flow,
                frozen=[trained[(name,)] for name in names if len(names) > 1],
                response=plan.response(names, flow, hidden, seed),
                windows={name: plan.windows[name] for name in names},
                sources=[sources[id(variation)] for variation in stage[names]],
                schedule=schedule,
                seed=_named_seed(seed, names),
                progress=progress and executor is None,
            )
            for names in stage
        ]
        try:
            for response, record in (executor.map if executor else map)(_train_response, tasks):
                trained[response.nuisances] = response
                history[record.name] = record
        except TrainingStopped as stopped:
            stopped.model = deformation() if trained else None
            raise
    return deformation()


# --- what a deformation is made of -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Which responses to train, from which variations."""

    singles: dict[tuple[str, ...], list[Variation]]
    pairs: dict[tuple[str, ...], list[Variation]]
    powers: dict[tuple[str, ...], Powers]
    windows: dict[str, tuple[float, float]]

    @classmethod
    def make(
        cls,
        variations: Sequence[Variation],
        *,
        order: int,
        interactions: Sequence[tuple[str, str]] | str,
        mirror: bool,
    ) -> _Plan:
        if order not in (1, 2, 3):
            raise ValueError(f"order must be 1, 2 or 3, got {order}")
        if not variations:
            raise ValueError("fit_deformation needs at least one variation")
        singles, joint = _grouped(variations)
        pairs = _chosen_pairs(interactions, singles, joint)
        orders = {names[0]: _order_of(names[0], group, order) for names, group in singles.items()}
        powers: dict[tuple[str, ...], Powers] = {
            names: tuple((power,) for power in range(1, orders[names[0]] + 1)) for names in singles
        }
        powers |= {names: _interaction_powers(names, group, orders) for names, group in pairs.items()}
        windows = {names[0]: _window(names[0], variations, mirror) for names in singles}
        return cls(singles, pairs, powers, windows)

    def response(self, names: tuple[str, ...], flow: Flow, hidden: Sequence[int] | None, seed: int) -> Response:
        """A new response for these nuisances, the identity."""
        return Response(
            names,
            self.powers[names],
            n_dim=len(flow.obs),
            n_context=len(flow.cond),
            n_single=sum(len(self.powers[(name,)]) for name in names) if len(names) > 1 else 0,
            hidden=hidden,
            seed=_named_seed(seed, names),
        )


def _grouped(
    variations: Sequence[Variation],
) -> tuple[dict[tuple[str, ...], list[Variation]], dict[tuple[str, ...], list[Variation]]]:
    """Variations by the nuisances they move: those of one, and those of two."""
    singles: dict[tuple[str, ...], list[Variation]] = {}
    joint: dict[tuple[str, ...], list[Variation]] = {}
    for variation in variations:
        if len(variation.at) > 2:
            raise ValueError(
                f"variation at {dict(variation.at)} moves {len(variation.at)} nuisances: "
                "give joint samples of two at a time"
            )
        (joint if variation.is_joint else singles).setdefault(tuple(sorted(variation.at)), []).append(variation)
    for names in joint:
        if missing := [name for name in names if (name,) not in singles]:
            raise ValueError(
                f"joint samples of {' and '.join(names)} need samples of {' and '.join(missing)} alone: "
                f"add Variation(events, at={{{missing[0]!r}: +1}})"
            )
    return singles, joint


def _chosen_pairs(
    interactions: Sequence[tuple[str, str]] | str,
    singles: Mapping[tuple[str, ...], Any],
    joint: dict[tuple[str, ...], list[Variation]],
) -> dict[tuple[str, ...], list[Variation]]:
    if isinstance(interactions, str):
        if interactions != "auto":
            raise ValueError(f'interactions are pairs of nuisances or "auto", got {interactions!r}')
        return joint
    chosen = {}
    for pair in interactions:
        names = tuple(sorted(pair))
        if unknown := [name for name in names if (name,) not in singles]:
            raise ValueError(f"interaction {tuple(pair)} names {unknown}, for which there are no variations")
        if names not in joint:
            raise ValueError(
                f"interaction {tuple(pair)} needs joint samples: "
                f"add Variation(events, at={{{names[0]!r}: +1, {names[1]!r}: +1}})"
            )
        chosen[names] = joint[names]
    if unused := sorted(set(joint) - set(chosen)):
        warnings.warn(
            f"joint samples of {unused} are not used, since interactions= does not name these pairs", stacklevel=4
        )
    return chosen


def _order_of(name: str, group: Sequence[Variation], order: int) -> int:
    points = sorted({variation.at[name] for variation in group})
    if len(points) == 1:
        return 1
    if len(points) < order:
        raise ValueError(
            f"order {order} needs samples of {name!r} at {order} or more points, got {points}: "
            "lower the order or add samples"
        )
    return order


def _window(name: str, variations: Sequence[Variation], mirror: bool) -> tuple[float, float]:
    points = [variation.at[name] for variation in variations if name in variation.at]
    low, high = min(0.0, *points), max(0.0, *points)
    return (-max(-low, high), max(-low, high)) if mirror and low * high == 0.0 else (low, high)


def _interaction_powers(names: tuple[str, ...], group: Sequence[Variation], orders: Mapping[str, int]) -> Powers:
    """Monomials of an interaction that the joint points determine, lowest total degree first.

    Monomials of one degree enter together or not at all: the points decide, not the order of the names.
    """
    points = np.array([[variation.at[name] for name in names] for variation in group])
    candidates = itertools.product(*(range(1, orders[name] + 1) for name in names))
    chosen: list[tuple[int, ...]] = []
    for _, degree in itertools.groupby(sorted(candidates, key=lambda p: (sum(p), p)), key=sum):
        trial = [*chosen, *degree]
        design = np.stack([np.prod(points**power, axis=1) for power in trial], axis=1)
        if np.linalg.matrix_rank(design) == len(trial):
            chosen = trial
    return tuple(chosen)


def _yield_change(
    group: Sequence[Variation], sources: Mapping[int, _Source], nominal: float | None, mirror: bool
) -> YieldChange:
    if nominal is None:
        return YieldChange()
    ratio = {next(iter(v.at.values())): sources[id(v)].sample.sum_weights / nominal for v in group}
    up, down = ratio.get(1.0), ratio.get(-1.0)
    if mirror and (up is None) != (down is None):
        up, down = up or 1.0 / down, down or 1.0 / up  # type: ignore[operator]
    return YieldChange(up=up, down=down)


def _named_seed(seed: int, names: Sequence[str]) -> int:
    """Seed that depends on the names, not on their place in a list: adding a nuisance changes no other."""
    digits = [byte for name in names for byte in name.encode() + b"\0"]
    return int(np.random.SeedSequence([seed, *digits]).generate_state(1)[0])


@dataclass(frozen=True)
class _Task:
    """Everything needed to train one response, in this process or another."""

    flow: Flow
    frozen: list[Response]
    response: Response
    windows: dict[str, tuple[float, float]]
    sources: list[_Source]
    schedule: Schedule
    seed: int
    progress: bool


def _train_response(task: _Task) -> tuple[Response, History]:
    deformation = Deformation(task.flow, [*task.frozen, task.response], windows=task.windows)
    sources = [replace(source, basis=_basis_at(deformation, source.at)) for source in task.sources]
    shapes = [(response.shape, response.powers) for response in deformation.responses]
    loop = _Loop.of(deformation, task.flow.density, shapes, _of_deformation, task.schedule)
    history = loop.train(
        deformation, " x ".join(task.response.nuisances), sources, seed=task.seed, progress=task.progress
    )
    calibrate(deformation, task.response, sources)
    return task.response, history


def _basis_at(deformation: Deformation, at: Mapping[str, float]) -> np.ndarray:
    return deformation.basis(tf.constant(deformation.point(at))).numpy()


# --- training loops -----------------------------------------------------------------------------------------------


class _Loop:
    """A training loop of all models of one architecture, which is compiled once.

    It trains a model of its own, which takes over the weights of the model that is to be trained, and gives them back.

    Args:
        model: The model of its own.
        parts: From a model to its log-density of minibatches, and to the variables that are trained.
        schedule: How long and how fast.
    """

    _THREAD = threading.local()  # two threads must not train one model
    _MOST = 8

    def __init__(self, model: Model, parts: Callable[[Any], _Parts], schedule: Schedule):
        self._model, self._parts = model, parts
        log_prob, self._variables = parts(self._model)
        self._maximiser = Maximiser(log_prob, self._variables, schedule=schedule)

    @classmethod
    def of(
        cls, model: Model, density: Density, shapes: Sequence[Any], parts: Callable[[Any], _Parts], schedule: Schedule
    ) -> _Loop:
        """The loop for a model with this density and responses of these shapes; the ones used last are kept."""
        if not isinstance(density, AutoregressiveDensity):  # what others are made of is not known
            return cls(model, parts, schedule)
        kept: dict[tuple[str, Schedule], _Loop] = vars(cls._THREAD).setdefault("loops", {})
        key = repr((density.config(), shapes)), schedule
        loop = kept.pop(key, None) or cls(copy.deepcopy(model), parts, schedule)
        kept[key] = loop
        while len(kept) > cls._MOST:
            del kept[next(iter(kept))]
        return loop

    def train(self, model: Model, name: str, sources: Sequence[_Source], *, seed: int, progress: bool) -> History:
        """Train a model; see `Maximiser`."""
        self._model.assign(model.weights_list())
        try:
            return self._maximiser(name, sources, seed=seed, progress=progress)
        finally:
            for variable, trained in zip(self._parts(model)[1], self._variables, strict=True):
                variable.assign(trained)


_Parts = tuple[Callable[..., tf.Tensor], Sequence[tf.Variable]]


def _of_flow(density: Density) -> _Parts:
    return lambda u, c, _: density.log_density(u, c), density.trainable_variables


def _of_deformation(deformation: Deformation) -> _Parts:
    """The last response is trained."""
    return deformation.log_density, deformation.responses[-1].trainable_variables


# --- where the events come from ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Training events at one point of the nuisances, handed out as standardised minibatches."""

    flow: Flow
    sample: Sample
    at: Mapping[str, float]
    basis: np.ndarray

    @classmethod
    def make(
        cls, flow: Flow, events: Any, weights: Any, *, at: Mapping[str, float] | None = None, name: str | None = None
    ) -> _Source:
        sample = as_sample(events, flow.obs + flow.cond, weights=weights, name=name)
        check_trainable(sample)
        check_inside(sample, flow.ranges)
        check_continuous(sample, flow.obs)
        check_conditions(sample, flow.cond)
        return cls(flow, sample, at or {}, np.zeros(0))

    def batch(self, rows: np.ndarray) -> Batch:
        """``u, c, basis, w`` in float32; standardised in float64 first, where large offsets cancel."""
        u, c, _ = self.flow.encode(
            tf.constant(self.sample.array(self.flow.obs, rows)), tf.constant(self.sample.array(self.flow.cond, rows))
        )
        w = self.sample.relative_weights(rows)
        basis = np.broadcast_to(self.basis, (len(rows), len(self.basis)))
        return tuple(np.asarray(column, np.float32) for column in (u, c, basis, w))

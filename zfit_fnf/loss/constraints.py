"""The constraints of a likelihood: every auxiliary measurement once, those of the nuisances without being asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
from zfit.core.constraint import BaseConstraint

from ..common.warning import warn
from ..param import Nuisance, NuisanceConstraint, auxiliary_measurement
from .zfit_hooks import table_order

__all__ = ["FoundConstraint", "ModelConstraint", "measured", "merged", "warn_of_free_nuisances"]


class FoundConstraint(NuisanceConstraint):
    """The unit Gaussians that a likelihood adds unasked; an explicit constraint takes their place."""


class ModelConstraint(BaseConstraint):
    """An auxiliary measurement that a model brings with it, as long as the likelihood has the model."""


def merged(
    given: Sequence[BaseConstraint], params: Iterable[zfit.Parameter], own: Iterable[BaseConstraint] = ()
) -> list[BaseConstraint]:
    """Every constraint once, and the unit Gaussians of all nuisances that none of them is a measurement of.

    Args:
        given: Constraints, those that were found before among them.
        params: Independent parameters of the models.
        own: Auxiliary measurements that models bring with them, of parameters that no constraint measures otherwise.

    Returns:
        The constraints: objects that were given, as far as possible.

    Raises:
        ValueError: If two different constraints have one outcome.
    """
    others = _once(c for c in given if not isinstance(c, (NuisanceConstraint, ModelConstraint)))
    for constraint in own:
        measured_already = {parameter for c in others for parameter in auxiliary_measurement(c).measured}
        if left := [p for p in auxiliary_measurement(constraint).measured if p not in measured_already]:
            _warn_of_a_part(constraint, left)
            others.append(constraint)
    explicit = [c for c in given if isinstance(c, NuisanceConstraint) and not isinstance(c, FoundConstraint)]
    stated = tuple(dict.fromkeys(nu for c in explicit for nu in c.nuisances))
    covered = measured([*explicit, *others])
    _warn_of_functions(others, covered)
    # What only a control region depends on is a nuisance of the likelihood too.
    known = [*params, *(p for c in others for p in c.get_params(floating=None))]
    found = tuple(dict.fromkeys(p for p in known if isinstance(p, Nuisance) and p not in covered))
    kept = [*_one_of(NuisanceConstraint, stated, given), *_one_of(FoundConstraint, found, given), *others]
    _warn_of_repetitions(kept)
    return kept


def measured(constraints: Iterable[BaseConstraint]) -> set[Nuisance]:
    """Nuisances that are themselves what a constraint measures, unlike those that a measured yield depends on."""
    nuisances: set[Nuisance] = set()
    for constraint in constraints:
        nuisances.update(p for p in auxiliary_measurement(constraint).measured if isinstance(p, Nuisance))
    return nuisances


def warn_of_free_nuisances(loss: Any) -> None:
    """Likelihoods of zfit find no constraints, and count all that they are given: say so."""
    _warn_of_repetitions(loss.constraints)
    params = sorted(loss.get_params(floating=None), key=table_order) if loss.model else ()
    constrained = measured(loss.constraints)
    if free := [p.name for p in params if isinstance(p, Nuisance) and p not in constrained]:
        warn(
            f"{type(loss).__name__} of zfit has no constraints of the nuisances {free}: they are free. Use "
            "zfit_fnf.loss, which finds them, or give it constraints=zfit_fnf.param.NuisanceConstraint([...])"
        )


def _one_of(kind: type[NuisanceConstraint], nuisances: tuple[Nuisance, ...], given: Sequence[Any]) -> list[Any]:
    """A constraint of nuisances, if there are any: that among the given ones, which may be compiled, or a new one."""
    same = [c for c in given if type(c) is kind and c.nuisances == nuisances]
    return (same[:1] or [kind(nuisances)]) if nuisances else []


def _once(constraints: Iterable[BaseConstraint]) -> list[BaseConstraint]:
    """Each measurement once: constraints that were made twice, as for two channels, have the same parameter as outcome."""
    kept: list[BaseConstraint] = []
    outcomes: dict[zfit.Parameter, BaseConstraint] = {}
    for constraint in {id(c): c for c in constraints}.values():
        observed = auxiliary_measurement(constraint).observed
        shared = [one for one in observed if isinstance(one, zfit.Parameter) and one in outcomes]
        alike = [other for other in kept if _are_alike(constraint, other)]
        if shared and not (alike and len(shared) == len(observed)):
            raise ValueError(
                f"the outcome {shared[0].name!r} is that of two different constraints: give each of them another parameter as "
                "observation="
            )
        if shared:
            continue
        outcomes.update((one, constraint) for one in observed if isinstance(one, zfit.Parameter))
        kept.append(constraint)
    return kept


def _warn_of_repetitions(constraints: Iterable[BaseConstraint]) -> None:
    """Tell of parameters of which two constraints say the same: that is seldom meant as two measurements."""
    known: dict[zfit.Parameter, list[Said]] = {}
    for constraint in constraints:
        for parameter, said in _said(constraint):
            known.setdefault(parameter, []).append(said)
    if names := [
        one.name for one, said in known.items() if any(itertools.starmap(_are_equal, itertools.combinations(said, 2)))
    ]:
        warn(
            f"two constraints of {names} are the same, and count as two measurements. If there was one, leave one of them out, "
            "or give both likelihoods one object, or one parameter as observation="
        )


Said = tuple[Any, type, float]


def _said(constraint: BaseConstraint) -> list[tuple[zfit.Parameter, Said]]:
    """Each parameter that a constraint measures, with the outcome, the kind of its distribution, and its width."""
    measurement, spread = auxiliary_measurement(constraint), _spread(constraint)
    kind = zfit.constraint.GaussianConstraint if isinstance(constraint, NuisanceConstraint) else type(constraint)
    widths = np.diag(spread) if spread.ndim == 2 else np.broadcast_to(spread, len(measurement.observed))
    triples = zip(measurement.measured, measurement.observed, widths.tolist(), strict=True)
    return [(parameter, (outcome, kind, width)) for parameter, outcome, width in triples]


def _are_equal(one: Said, other: Said) -> bool:
    (outcome, kind, width), (other_outcome, other_kind, other_width) = one, other
    if kind is not other_kind or not np.isclose(width, other_width, equal_nan=True):
        return False
    if outcome is other_outcome:
        return True
    apart = isinstance(outcome, zfit.Parameter) and isinstance(other_outcome, zfit.Parameter)  # they may move apart
    return not apart and _value(outcome) == _value(other_outcome)


def _warn_of_a_part(constraint: BaseConstraint, left: Sequence[zfit.Parameter]) -> None:
    """A measurement of several parameters that a model brings stays whole where others measure some of them."""
    if twice := [p.name for p in auxiliary_measurement(constraint).measured if p not in left]:
        warn(
            f"constraints of {twice} are added to the measurement that the model has of them. To take its place, constrain "
            f"{[p.name for p in left]}, too"
        )


def _are_alike(first: BaseConstraint, second: BaseConstraint) -> bool:
    """Whether two constraints say the same of the same parameters."""
    one, other = map(auxiliary_measurement, (first, second))
    if type(first) is not type(second) or list(map(id, one.measured)) != list(map(id, other.measured)):
        return False
    pairs = zip(one.observed, other.observed, strict=True)
    if not all(mine is theirs or _number(mine) == _number(theirs) for mine, theirs in pairs):
        return False
    return np.array_equal(_spread(first), _spread(second), equal_nan=True)


def _number(outcome: Any) -> Any:
    """What an outcome is compared by: a number, or the parameter that it is."""
    return id(outcome) if isinstance(outcome, zfit.Parameter) else _value(outcome)


def _value(outcome: Any) -> float:
    return float(zfit.param.convert_to_parameter(outcome).value())


def _spread(constraint: BaseConstraint) -> np.ndarray:
    if isinstance(constraint, zfit.constraint.LogNormalConstraint):
        return np.asarray(constraint.distribution.scale, float)
    return np.asarray(getattr(constraint, "covariance", None), float)


def _warn_of_functions(constraints: Iterable[BaseConstraint], covered: set[Nuisance]) -> None:
    """A function of a nuisance does not say whether it is its measurement or another one."""
    for constraint in (c for c in constraints if not hasattr(c, "as_term")):  # those are no measurements of parameters
        if named := [p.name for p in constraint.params.values() if isinstance(p, Nuisance) and p not in covered]:
            warn(
                f"{type(constraint).__name__} depends on the nuisances {named} and is added to their unit Gaussians. To "
                "take their place, give a zfit.constraint.GaussianConstraint; to have both without this warning, add "
                "zfit_fnf.param.NuisanceConstraint([...])"
            )

"""What step 2 returns: the profile likelihood, its checks and bounds, and replicas of its map."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from zfit.result import FitResult

from ..common.warning import warn
from ..densities.transfer import ProfiledTransfer
from ..state import preserved
from .bounds import Bounds
from .check import COLUMNS, Check
from .floor import is_signed
from .rows import make_loss
from .step1 import TransferFit
from .window import ends_of

__all__ = ["ProfiledFit", "Replica", "check_fit_of"]

_SAME = 0.1  # by which one likelihood may differ where a fit ended: more than accelerated ones promise


@dataclass(frozen=True, eq=False)
class Replica:
    """The map as it would be for other data, made by `bootstrap`.

    Attributes:
        seed: Seed of the weights of the events.
        fields: Weights ``(K,)`` of the constant part of its displacement.
        values: Best fit of the parameters, by name, to first order.
    """

    seed: tuple[int, int]
    fields: np.ndarray
    values: dict[str, float]


@dataclass(frozen=True, eq=False)
class ProfiledFit:
    """The profile likelihood of the parameters, with the map that belongs to each of their values; made by `profile`.

    Attributes:
        fit: The global fit that it starts from.
        transfer: The map, as a function of the parameters.
        pdf: The model of data.
        window: Half width of the range where the map is known, around the best fit of step 1, by name.
        bounds: What data can say about each parameter beside a free map; too much, where events of negative weight are spread
            further than others.
        goodness: Probabilities that events of the model differ from the data by as much as they do, by name of the test;
            empty if the model cannot be sampled.
        checks: Comparisons with maps that were refitted.
        problems: Problems of the profile; none if it is valid.
        replicas: Bootstrap replicas of the map, from `bootstrap`.
    """

    fit: TransferFit
    transfer: ProfiledTransfer
    pdf: zfit.pdf.BasePDF
    window: dict[str, float]
    bounds: Bounds
    goodness: dict[str, float]
    checks: tuple[Check, ...]
    problems: tuple[str, ...]
    replicas: tuple[Replica, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether the profile has no problems."""
        return not self.problems

    @property
    def parameters(self) -> dict[str, zfit.Parameter]:
        """The parameters, by name."""
        return self.fit.parameters

    def loss(self) -> zfit.loss.UnbinnedNLL:
        """The profile likelihood of the parameters, a loss like any other: for MIGRAD, HESSE, MINOS, scans and limits.

        Warns:
            UserWarning: If the profile is not valid.
        """
        if not self.valid:
            warn(f"this profile likelihood is not valid: {'; '.join(self.problems)}")
        return make_loss(self.pdf, self.fit.data)

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each check: the shift of each parameter, and the rises of the negative log-likelihood."""
        rows = [check.to_row() for check in self.checks]
        return pd.DataFrame(rows, columns=[*self.window, *COLUMNS])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the map, the model and the events, ready for JSON."""
        return {
            "fit": self.fit.to_dict(),
            "window": self.window,
            "valid": self.valid,
            "problems": list(self.problems),
            "bounds": self.bounds.to_dict(),
            "goodness": self.goodness,
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
            "replicas": [{"seed": list(replica.seed), "values": replica.values} for replica in self.replicas],
        }

    def __str__(self) -> str:
        state = "valid" if self.valid else "NOT VALID: " + "; ".join(self.problems)
        window = ", ".join(f"{name} +-{half:.3g}" for name, half in self.window.items())
        window = "; ".join([f"window: {window}", *ends_of(self.fit, self.window)])
        replicas = f"{len(self.replicas)} replicas" if self.replicas else "no replicas: no statistical band"
        lines = [f"amortised profile of {', '.join(self.window)}, {replicas}", state, window, str(self.bounds)]
        if is_signed(self.fit.data):
            lines.append(
                "some weights are negative: where such events are spread further than others, these standard errors are too "
                "small. Quote those of result.hesse() of a fit of loss()"
            )
        if self.goodness:
            tests = ", ".join(f"{name} {p:.2g}" for name, p in self.goodness.items())
            lines.append(
                f"probabilities that the model, at the start, is right and the data differ by as much: {tests}"
            )
        if self.checks:
            lines += [
                "rise of the NLL at shifts of the parameters, expected and of the data:",
                self.to_dataframe().to_string(index=False),
            ]
        if self.fit.transfer.n_maps > 1:
            lines.append(
                "data determine the density of all processes together: what the map of one gains that of another can lose, and "
                "bands of single processes do not cover that. Quote distributions of all of them, or use shared=True"
            )
        elif len(self.fit.transfer.obs) > 1:
            lines.append(
                "in several observables many maps are equally likely: bands of the displacement of single events are those of "
                "this one, and do not cover the others. Quote distributions, or the shortest map (zfit_fnf.doi.optimal_transport)"
            )
        return "\n".join(lines)


def check_fit_of(profiled: ProfiledFit, result: FitResult) -> None:
    """Refuse a fit of another likelihood in the same parameters. What has no models, as results from files, is not known.

    Args:
        profiled: The profile.
        result: A fit, whose loss may be a sum of that of the profile and others.

    Raises:
        ValueError: If its map is fixed, or it is a fit of another profile or other data.
    """
    models, data = (list(getattr(result.loss, name, None) or []) for name in ("model", "data"))
    if any(model is one for model in models for one in (profiled.fit.pdf, profiled.fit.model)):
        raise ValueError(
            "result is a fit of a likelihood whose map is fixed, such as that of step 1, and its errors are too small: fit "
            "profiled.loss()"
        )
    events = profiled.fit.data.array(profiled.pdf.obs)
    pairs = zip(models, data, strict=True)
    if not models or any(one is profiled.pdf and np.array_equal(np.asarray(x.value()), events) for one, x in pairs):
        return
    # A profile that was read from a file has a model of its own, and the same likelihood.
    nll = make_loss(profiled.pdf, profiled.fit.data)
    with preserved(nll):
        zfit.param.set_values(list(result.params), [found["value"] for found in result.params.values()])
        value = float(nll.value())
    if not abs(value - float(result.fmin)) < _SAME:
        raise ValueError(
            f"result is not a fit of this profile, but of another one or other data: there the negative log-likelihood is "
            f"{value:.6g}, and it was {float(result.fmin):.6g} in the fit. Fit profiled.loss()"
        )

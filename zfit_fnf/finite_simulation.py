r"""What errors of a fit lack where densities were learned from too few simulated events.

A density learned from :math:`N_\mathrm{sim}` events fluctuates as they do, which moves the estimates of a fit by
:math:`\sigma \sqrt{N_\mathrm{data} / N_\mathrm{sim}}`, for each sample about as much, and is in no error of the likelihood.
`zfit_fnf.calibrate` adds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np

from .densities.history import label_of
from .loss import LogSpaceNLL, UnbinnedChannel
from .pdf import components, folds_of, sum_components, sum_shares

__all__ = ["NOTABLE", "warning"]

_SMALL = 0.5  # of the nominal sample, below which variations have events of their own

NOTABLE = 0.1
"""By how much of itself an error should be larger, from which on a fit tells of it."""


def warning(nll: Any) -> str:
    """What a fit has to say of the simulation behind its densities: nothing, where it is large.

    Nothing either of toys of the model, which does not fluctuate from one to the next, and of a calibrated likelihood, which
    knows better.

    Args:
        nll: The likelihood, at the values of its parameters; one of zfit's own has none.
    """
    if not isinstance(nll, LogSpaceNLL) or nll.is_toy or hasattr(nll, "simulation_nuisances"):
        return ""
    found: dict[str, float] = {}
    for channel in nll.channels:
        for name, share in _processes(channel) if isinstance(channel, UnbinnedChannel) else ():
            found[name] = max(share, found.get(name, 0.0))
    lacking = {name: float(np.sqrt(1.0 + share)) - 1.0 for name, share in found.items()}
    if not lacking or max(lacking.values()) < NOTABLE:
        return ""
    worst = max(lacking, key=lambda name: lacking[name])
    others = [name for name, size in lacking.items() if size >= NOTABLE and name != worst]
    also = f" (likewise {', '.join(others)})" if others else ""
    return (
        f"errors do not contain how the simulation fluctuates, and should be some {_about(100 * lacking[worst])} % larger: "
        f"{worst} was learned from {_about(1.0 / found[worst])} simulated events for each of the data that it describes{also}. "
        "Simulate more, or fit zfit_fnf.calibrate(nll, simulations), which has that uncertainty"
    )


def _about(value: float) -> str:
    """One digit, so that fits of similar data say the same."""
    return f"{float(f'{value:.1g}'):g}"


def _processes(channel: UnbinnedChannel) -> Iterator[tuple[str, float]]:
    """Learned components, and their variations: how many events of the data each describes, for each that it was learned from."""
    total, squares = channel.sums_of_weights()
    n_data = total**2 / squares if squares > 0 else 0.0
    model = folds_of(channel.model)[0]
    for part, share in zip(sum_components(model), sum_shares(model), strict=True):
        described = max(float(share), 0.0) * n_data
        factors = [(factor, size) for factor in components(part) if (size := _learned_from(factor)) > 0]
        if factors:
            yield repr(part.name), described / min(size for _, size in factors)
        for factor, size in factors:
            for nuisance, of_variations in _moved_by(factor, size):
                yield f"the response of {part.name!r} to {nuisance!r}", described * (1.0 / size + of_variations)


def _moved_by(pdf: zfit.pdf.BasePDF, nominal: float) -> Iterator[tuple[str, float]]:
    """Nuisances whose samples are much smaller than the nominal one, and what these add to the inverse of its size.

    Those as large may be the same events, whose fluctuation is the nominal one. Where the nuisance is, the fluctuation of samples
    at both sides counts with the squared weights of their interpolation: not at zero, and in full at one.
    """
    deformation, params = getattr(pdf, "deformation", None), getattr(pdf, "params", {})
    for response in getattr(deformation, "responses", ()):
        name = response.nuisances[0]
        record = getattr(deformation, "history", {}).get(label_of(response.nuisances))
        each = 0.5 * getattr(record, "effective_size", 0.0)
        if len(response.nuisances) == 1 and name in params and 0.0 < each < _SMALL * nominal:
            nu = float(params[name].value())
            yield name, 0.5 * nu**2 * (1.0 + nu**2) / each


def _learned_from(pdf: zfit.pdf.BasePDF) -> float:
    """Effective number of events that a density was learned from, zero if that is not known."""
    history = getattr(getattr(pdf, "_flow", None), "history", None)
    return float(getattr(history, "effective_size", 0.0))

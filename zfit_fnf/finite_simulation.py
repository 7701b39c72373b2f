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

from .loss import LogSpaceNLL, UnbinnedChannel
from .pdf import components, folds_of, sum_components, sum_shares

__all__ = ["NOTABLE", "warning"]

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
        for name, described, simulated in _processes(channel) if isinstance(channel, UnbinnedChannel) else ():
            found[name] = max(described / simulated, found.get(name, 0.0))
    lacking = {name: float(np.sqrt(1.0 + share)) - 1.0 for name, share in found.items()}
    if not lacking or max(lacking.values()) < NOTABLE:
        return ""
    worst = max(lacking, key=lambda name: lacking[name])
    others = [name for name, size in lacking.items() if size >= NOTABLE and name != worst]
    also = f" (likewise {', '.join(others)})" if others else ""
    return (
        f"errors do not contain how the simulation fluctuates, and should be some {_about(100 * lacking[worst])} % larger: "
        f"{worst!r} was learned from {_about(1.0 / found[worst])} simulated events for each of the data that it describes{also}. "
        "Simulate more, or fit zfit_fnf.calibrate(nll, simulations), which has that uncertainty"
    )


def _about(value: float) -> str:
    """One digit, so that fits of similar data say the same."""
    return f"{float(f'{value:.1g}'):g}"


def _processes(channel: UnbinnedChannel) -> Iterator[tuple[str, float, float]]:
    """Learned components: how many events of the data each describes, and how many it was learned from."""
    total, squares = channel.sums_of_weights()
    n_data = total**2 / squares if squares > 0 else 0.0
    model = folds_of(channel.model)[0]
    for part, share in zip(sum_components(model), sum_shares(model), strict=True):
        if sizes := [size for factor in components(part) if (size := _learned_from(factor)) > 0]:
            yield part.name, max(float(share), 0.0) * n_data, min(sizes)


def _learned_from(pdf: zfit.pdf.BasePDF) -> float:
    """Effective number of events that a density was learned from, zero if that is not known."""
    history = getattr(getattr(pdf, "_flow", None), "history", None)
    return float(getattr(history, "effective_size", 0.0))

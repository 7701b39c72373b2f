"""Likelihoods of learned densities, and of any other PDFs: drop-in replacements of zfit's losses.

`UnbinnedNLL`, `ExtendedUnbinnedNLL` and `NLL`, for models of any kinds, never leave log space, compile once for each model, and
constrain nuisances of themselves, see :mod:`zfit_fnf.loss.losses`. The sum of any two likelihoods is one, see
:mod:`zfit_fnf.loss.combined`.
"""

from .binned import BinnedChannel
from .channels import (
    Channel,
    EventDensity,
    EventTerm,
    TermCalls,
    UnbinnedChannel,
    channel_kind,
    channels_of,
    drawn_events,
    scores,
)
from .combined import NLL, OtherLikelihood, as_term, combined, sharing
from .constraints import ModelConstraint
from .counting import CountPDF, counting
from .kernels import (
    MAX_MEMORY,
    Compiled,
    EventChunks,
    EventKernel,
    Parameters,
    Term,
    constraint_kernel,
    directions_along,
    event_kernel,
    kept_by,
    n_bytes,
    outside_of_graphs,
    rate_kernel,
    select,
    total,
    total_hessian,
    vector,
    yield_gradient,
)
from .losses import ExtendedUnbinnedNLL, LogSpaceNLL, UnbinnedNLL
from .weighted import warn_of_weights

__all__ = [
    "MAX_MEMORY",
    "NLL",
    "BinnedChannel",
    "Channel",
    "Compiled",
    "CountPDF",
    "EventChunks",
    "EventDensity",
    "EventKernel",
    "EventTerm",
    "ExtendedUnbinnedNLL",
    "LogSpaceNLL",
    "ModelConstraint",
    "OtherLikelihood",
    "Parameters",
    "Term",
    "TermCalls",
    "UnbinnedChannel",
    "UnbinnedNLL",
    "as_term",
    "channel_kind",
    "channels_of",
    "combined",
    "constraint_kernel",
    "counting",
    "directions_along",
    "drawn_events",
    "event_kernel",
    "kept_by",
    "n_bytes",
    "outside_of_graphs",
    "rate_kernel",
    "scores",
    "select",
    "sharing",
    "total",
    "total_hessian",
    "vector",
    "warn_of_weights",
    "yield_gradient",
]

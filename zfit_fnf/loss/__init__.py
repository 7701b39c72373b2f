"""Unbinned likelihoods of learned densities, and of any other PDFs: drop-in replacements of zfit's losses.

`UnbinnedNLL` and `ExtendedUnbinnedNLL` never leave log space, compile once for each model, and constrain nuisances of
themselves, see :mod:`zfit_fnf.loss.losses`.
"""

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
from .kernels import (
    MAX_MEMORY,
    Compiled,
    EventChunks,
    EventKernel,
    Parameters,
    Term,
    constraint_kernel,
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

__all__ = [
    "MAX_MEMORY",
    "Channel",
    "Compiled",
    "EventChunks",
    "EventDensity",
    "EventKernel",
    "EventTerm",
    "ExtendedUnbinnedNLL",
    "LogSpaceNLL",
    "Parameters",
    "Term",
    "TermCalls",
    "UnbinnedChannel",
    "UnbinnedNLL",
    "channel_kind",
    "channels_of",
    "constraint_kernel",
    "drawn_events",
    "event_kernel",
    "kept_by",
    "n_bytes",
    "outside_of_graphs",
    "rate_kernel",
    "scores",
    "select",
    "total",
    "total_hessian",
    "vector",
    "yield_gradient",
]

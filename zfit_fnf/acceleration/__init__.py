r"""Fast evaluation of likelihoods: the same minimum, by Taylor polynomials of every event that are kept honest.

A fit evaluates the likelihood at many points close to each other. Around one of them, the *centre*, a deformation moves
an event by a small shift in its standardised coordinates, and the nominal density is replaced by its Taylor polynomial
in that shift (:mod:`zfit_fnf.acceleration.polynomials`). The shift itself is not expanded: it is a contraction of the
coefficients of the deformation, computed once per data set and, if there are many, in fewer combinations
(:mod:`zfit_fnf.acceleration.compression`). The cost hardly depends on the number of nuisances, and yields, sums of
processes, constraints and densities that cannot be expanded are what they are in the exact likelihood.

The error is controlled in three ways, whatever minimiser is at work:

1. Every evaluation adds up how wrong the polynomials may be, event by event, from the size of the shift and the length
   over which the density varies (:func:`zfit_fnf.densities.taylor.remainder`). Where that exceeds what matters there, the
   polynomials move to a new centre or the exact likelihood answers.
2. When a fit is about to stop, the exact gradient is computed at that point and compared. If the expected
   vertical distance between the two minima is too large, the centre moves there and the minimiser goes on.
3. When the fit is done, the exact likelihood has been evaluated at its end. If it disagrees, an error says so.
"""

from __future__ import annotations

from .chunks import ExpandedEvents, ExpandedKernel, expanded_kernel
from .control import RELATIVE, TOLERANCE, AccelerationError, AccelerationReport
from .loss import (
    AcceleratedExtendedUnbinnedNLL,
    AcceleratedNLL,
    AcceleratedUnbinnedNLL,
    LinearTerm,
    accelerate,
    sum_with_gradient,
)
from .pool import EventPool

__all__ = [
    "RELATIVE",
    "TOLERANCE",
    "AcceleratedExtendedUnbinnedNLL",
    "AcceleratedNLL",
    "AcceleratedUnbinnedNLL",
    "AccelerationError",
    "AccelerationReport",
    "EventPool",
    "ExpandedEvents",
    "ExpandedKernel",
    "LinearTerm",
    "accelerate",
    "expanded_kernel",
    "sum_with_gradient",
]

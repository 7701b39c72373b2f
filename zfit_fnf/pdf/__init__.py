"""Learned densities as zfit PDFs, and sums and products of them that stay in log space.

`FlowPDF` is a nominal density and `FNFPDF` one that nuisances deform; `SumPDF` and `ConditionalProductPDF` put any PDFs
together, also those of zfit. All are normalised by construction, see :mod:`zfit_fnf.pdf.base`.
"""

from .base import (
    LogSpacePDF,
    components,
    drawn_given,
    is_compilable,
    log_density,
    precompute,
    precompute_conditions,
    precompute_with,
)
from .drawing import drawn, plainly
from .flow import FNFPDF, FlowPDF
from .folds import FoldedPDF, folds_of
from .mixture import ConditionalMixturePDF
from .simulated import deformations, simulated_parameters
from .spaces import UNBOUNDED, Ranges, columns, conditions, outputs, space_ranges
from .sums import ConditionalProductPDF, SumPDF, expected_events, sum_components, sum_shares

__all__ = [
    "FNFPDF",
    "UNBOUNDED",
    "ConditionalMixturePDF",
    "ConditionalProductPDF",
    "FlowPDF",
    "FoldedPDF",
    "LogSpacePDF",
    "Ranges",
    "SumPDF",
    "columns",
    "components",
    "conditions",
    "deformations",
    "drawn",
    "drawn_given",
    "expected_events",
    "folds_of",
    "is_compilable",
    "log_density",
    "outputs",
    "plainly",
    "precompute",
    "precompute_conditions",
    "precompute_with",
    "simulated_parameters",
    "space_ranges",
    "sum_components",
    "sum_shares",
]

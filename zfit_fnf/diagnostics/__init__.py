"""Whether samples and densities agree: classifiers between samples, verdicts on learned densities, goodness of fits."""

from .goodness import GoodnessOfFit, goodness_of_fit
from .two_sample import two_sample_auc, two_sample_test
from .verdict import ValidationReport, validate

__all__ = [
    "GoodnessOfFit",
    "ValidationReport",
    "goodness_of_fit",
    "two_sample_auc",
    "two_sample_test",
    "validate",
]

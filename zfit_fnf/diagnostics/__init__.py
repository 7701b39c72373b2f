"""Whether samples and densities agree: classifiers between two samples, and the verdict on a learned density."""

from .two_sample import two_sample_auc, two_sample_test
from .verdict import ValidationReport, validate

__all__ = ["ValidationReport", "two_sample_auc", "two_sample_test", "validate"]

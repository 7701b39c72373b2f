"""Events with named columns: the one form in which data enter, from memory or from files, checked as they do."""

from .inputs import as_sample, check_inside, check_trainable, index_of
from .sample import WEIGHT_COLUMN, Sample, write_sample
from .simulation import Simulation
from .variation import Variation

__all__ = [
    "WEIGHT_COLUMN",
    "Sample",
    "Simulation",
    "Variation",
    "as_sample",
    "check_inside",
    "check_trainable",
    "index_of",
    "write_sample",
]

"""Tag and probe without bins: the efficiency of a selection as a continuous function of the conditions of probes.

:func:`fit` maximises one likelihood of passing and failing probes over the whole phase space; its result gives efficiencies at
points or integrated over regions, with covariances.
"""

from .export import export_correction
from .fit import fit
from .result import Efficiency, TagProbeResult
from .shapes import Bernstein, ErfcExponential, Exponential, LearnedSignal, MassShape, Peak
from .spectrum import Spectrum

__all__ = [
    "Bernstein",
    "Efficiency",
    "ErfcExponential",
    "Exponential",
    "LearnedSignal",
    "MassShape",
    "Peak",
    "Spectrum",
    "TagProbeResult",
    "export_correction",
    "fit",
]

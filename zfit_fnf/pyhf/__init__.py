"""HistFactory likelihoods, of pyhf workspaces and models, as channels of the likelihoods of this package.

pyhf itself evaluates the expected counts, on its TensorFlow backend, so that all its modifiers and interpolations are what they
are there. Its parameters become parameters of zfit, shared by name with those of other channels:

- What pyhf constrains by a Gaussian (``normsys``, ``histosys``, ``lumi``, ``staterror``) is a :class:`~zfit_fnf.param.Nuisance`,
  which counts standard deviations as all nuisances here do: a luminosity of pyhf is ``1 + 0.017 lumi``.
- What it constrains by a Poisson number (``shapesys``) or not at all (``normfactor``, ``shapefactor``) has the values of pyhf.
"""

from ..common.optional import require

require("pyhf", extra="pyhf")

from .channels import channel  # noqa: E402
from .export import export, sample  # noqa: E402
from .pdf import HistFactoryPDF  # noqa: E402

__all__ = ["HistFactoryPDF", "channel", "export", "sample"]

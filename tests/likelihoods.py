"""Small likelihoods whose statistics are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import zfit
import numpy as np
from analytic import GaussianDeformation, GaussianFlow, one_dimensional

import zfit_fnf
import zfit_fnf.loss
from zfit_fnf.densities.deformation import YieldRatio
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.param import Nuisance, nuisance
from zfit_fnf.pdf import FNFPDF, FlowPDF, SumPDF
from zfit_fnf.yields import lnN, modified_yield, normsys


@dataclass(frozen=True, eq=False)
class Measurement:
    """A likelihood, its parameter of interest and its nuisances."""

    nll: zfit.loss.UnbinnedNLL
    mu: zfit.Parameter
    nuisances: tuple[Nuisance, ...] = ()

    @property
    def parameters(self) -> tuple[zfit.Parameter, ...]:
        return (self.mu, *self.nuisances)

    def state(self) -> list[tuple[float, bool]]:
        """Everything that inference may touch and has to put back."""
        parameters = [*self.parameters, *(nu.observed for nu in self.nuisances)]
        return [(float(parameter.value()), parameter.floating) for parameter in parameters]


def signal_strength(low: float = 0.0, high: float = 20.0) -> zfit.Parameter:
    return zfit.Parameter("mu", 1.0, low, high, stepsize=0.1)


def counting(
    counts: Sequence[int], s: float, b: float, *, change: tuple[float, float] | None = None, low: float = 0.0
) -> Measurement:
    """Count events in channels with equal shares; signal and background have one density, so only numbers matter."""
    mu, rate = signal_strength(low), nuisance("rate")
    modifiers = [normsys(rate, down=change[0], up=change[1])] if change else []
    nlls = []
    for channel, n in enumerate(counts):
        flow = GaussianFlow([0.0], [1.0], obs=[f"x{channel}"])
        n_sig = modified_yield(s / len(counts), [mu])
        n_bkg = modified_yield(b / len(counts), modifiers)
        model = SumPDF([FlowPDF(flow, extended=n_sig), FlowPDF(flow, extended=n_bkg)])
        nlls.append(zfit_fnf.loss.ExtendedUnbinnedNLL(model, {f"x{channel}": np.linspace(-1, 1, n)}))
    nll = nlls[0]
    for other in nlls[1:]:
        nll = nll + other
    return Measurement(nll, mu, (rate,) if change else ())


def gaussian_mean(mean: float, n: int, slope: float) -> tuple[Measurement, float]:
    """Measure ``mu`` with events N(mu + slope * scale, 1), and the error that the measurement has."""
    mu, scale = signal_strength(-5.0, 5.0), nuisance("scale")
    centre = zfit.ComposedParameter("centre", lambda mu, scale: mu + slope * scale, params=[mu, scale])
    obs = zfit.Space("x", limits=(-30.0, 30.0))
    x = np.random.default_rng(7).normal(size=n)
    nll = zfit_fnf.loss.UnbinnedNLL(zfit.pdf.Gauss(mu=centre, sigma=1.0, obs=obs), {"x": x - x.mean() + mean})
    return Measurement(nll, mu, (scale,)), float(np.sqrt(1 / n + slope**2))


def search(n_dim: int, s: float, b: float, *, seed: int, high: float = 20.0) -> Measurement:
    """A Gaussian signal on a wider Gaussian background in any number of observables; a shape and a rate nuisance."""
    mu, shape, rate = signal_strength(0.0, high), nuisance("shape"), nuisance("rate")
    names = [f"y{j}" for j in range(n_dim)]
    bump = GaussianFlow([1.0] * n_dim, [0.5] * n_dim, obs=names)
    broad = GaussianFlow([0.0] * n_dim, [1.5] * n_dim, obs=names)
    sig = GaussianDeformation(bump, {"shape": ((0.05, 0.2), (0.0, 0.02))})
    bkg = GaussianDeformation(broad, {"shape": ((0.02, 0.05), (0.0, 0.0))})
    n_sig, n_bkg = modified_yield(s, [mu]), modified_yield(b, [normsys(rate, down=0.93, up=1.08)])
    model = SumPDF([FNFPDF(sig, {"shape": shape}, extended=n_sig), FNFPDF(bkg, {"shape": shape}, extended=n_bkg)])
    zfit.settings.set_seed(seed)
    nll = zfit_fnf.loss.ExtendedUnbinnedNLL(model, model.sample(n=round(0.5 * s + b)))
    return Measurement(nll, mu, (shape, rate))


# --- Gaussians of events whose sums are known -----

SIGMA = 2.0
"""Width of `location`."""


def events(n: int = 400, *, mean: float = 0.3, seed: int = 0) -> np.ndarray:
    """Events whose sample mean and variance are exactly ``mean`` and ``SIGMA**2``."""
    y = np.random.default_rng(seed).normal(size=n)
    return mean + SIGMA * (y - y.mean()) / y.std()


def location(*, extended=None, name: str = "location"):
    """A Gaussian of width ``SIGMA`` with its mean at ``SIGMA * jes``; "jer" is fixed at zero."""
    jes, jer = nuisance("jes"), zfit.Parameter("jer", 0.0, floating=False)
    deformation = one_dimensional(sigma=SIGMA)
    deformation.table[1:] = 0.0
    return jes, FNFPDF(deformation, {"jes": jes, "jer": jer}, extended=extended, name=name)


def two_processes() -> dict:
    """Signal on background, in two dimensions, with shape and rate nuisances; 1500 events of it."""
    jes, jer, lumi, mu = nuisance("jes"), nuisance("jer"), nuisance("lumi"), zfit.Parameter("mu", 1.0, 0, 5)
    kinds = {"sig": (1.0, 0.7), "bkg": (-0.5, 1.5)}
    rates = {
        "sig": modified_yield(600.0, [mu, lnN(lumi, 1.02), normsys(jes, YieldRatio(up=1.1, down=0.95))]),
        "bkg": modified_yield(900.0, [lnN(lumi, 1.02), normsys(jer, down=0.9, up=1.05)]),
    }
    pdfs = [
        FNFPDF(one_dimensional(mean=m, sigma=s), {"jes": jes, "jer": jer}, extended=rates[name], name=name)
        for name, (m, s) in kinds.items()
    ]
    model = SumPDF(pdfs)
    rng = np.random.default_rng(1)
    y = np.concatenate([rng.normal(1.0, 0.7, 600), rng.normal(-0.5, 1.5, 900)])
    return {"model": model, "params": [mu, jes, jer, lumi], "y": y}


def learned() -> zfit_fnf.loss.ExtendedUnbinnedNLL:
    """A learned signal with a nuisance on a Gaussian background; 150 events."""
    jes = nuisance("jes")
    jes.observed.set_value(0.4)
    flow = zfit_fnf.Flow(["y"], n_components=2, hidden=(4, 4), seed=1)
    response = Response(["jes"], ((1,), (2,)), n_dim=1, n_context=0, hidden=(4, 4))
    response.networks[0].biases[-1].assign_add(np.full(response.networks[0].biases[-1].shape, 0.1))
    deformation = zfit_fnf.Deformation(flow, [response], windows={"jes": (-3.0, 3.0)})
    n_signal = modified_yield(100.0, [zfit_fnf.lnN(jes, 1.1)])
    signal = zfit_fnf.pdf.FNFPDF(deformation, params={"jes": jes}, extended=n_signal, name="signal")
    n, mean = zfit.Parameter("n", 50.0, 0, 1000), zfit.Parameter("mean", 0.1, -5, 5)
    background = zfit.pdf.Gauss(mean, 1.0, obs=signal.norm, extended=n)
    model = zfit_fnf.pdf.SumPDF([signal, background])
    return zfit_fnf.loss.ExtendedUnbinnedNLL(model, {"y": np.random.default_rng(0).normal(size=150)})

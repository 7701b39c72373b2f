"""The toy of the demonstration: two processes, their nuisances, the statistical model, and the exact likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import zfit  # before tensorflow, which it silences
import iminuit
import numpy as np
import pandas as pd
import tensorflow as tf

from ..datasets import Part, ShiftSqueeze
from ..densities.deformation import Deformation
from ..densities.history import History
from ..param import Nuisance, nuisance
from ..pdf import FNFPDF, ConditionalProductPDF, SumPDF
from ..samples import Sample
from ..train.schedule import Schedule
from ..yields import interpolate_code4, lnN, modified_yield, normsys

__all__ = [
    "EFFICIENCY",
    "FULL",
    "LUMINOSITY",
    "POINTS",
    "QUICK",
    "TOY",
    "DemoSettings",
    "Densities",
    "ExactFit",
    "Model",
    "build_model",
    "efficiency",
    "expected_events",
    "fit_exactly",
]

TOY = ShiftSqueeze()

POINTS: dict[str, dict[str, float]] = {
    "nominal": {},
    "shift_up": {"shift": +1.0},
    "shift_down": {"shift": -1.0},
    "squeeze_up": {"squeeze": +1.0},
    "squeeze_down": {"squeeze": -1.0},
    "corner_up_up": {"shift": +1.0, "squeeze": +1.0},
    "corner_up_down": {"shift": +1.0, "squeeze": -1.0},
    "corner_down_up": {"shift": -1.0, "squeeze": +1.0},
    "corner_down_down": {"shift": -1.0, "squeeze": -1.0},
}
"""The simulated samples of each process, and the nuisance point of each; the corners teach the interaction."""

EFFICIENCY = {"A": {"squeeze": (0.98, 1.03)}, "B": {"shift": (0.97, 1.04)}}
"""Factors of nuisances on the yield of each process, at -1 and at +1 standard deviation."""

LUMINOSITY = 1.02
"""Log-normal uncertainty of the luminosity, to which both yields are proportional."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Size of a demonstration: numbers of events and points, and lengths of trainings.

    The signal is so small that it is found with about four standard deviations.

    Attributes:
        n_simulated: Simulated events in each sample.
        expected: Events that each process is expected to contribute to the data, with all nuisances at zero.
        truth: Values of the parameters that the data are made with.
        flow: Training of the nominal densities; by default that of `fit_flow`.
        deformation: Training of the responses to the nuisances; by default that of `fit_deformation`.
        n_drawn: Events drawn of each component of the model for plots.
        profile_points: Points of each profile likelihood.
        contour_points: Points of the contour along each axis.
        n_asimov: Events of each component in an Asimov set.
        n_held_out: Events in each sample of a second simulation, which judges the densities and calibrates the fit.
        accelerated: Whether the likelihood is accelerated: worth its compilation for many events.
    """

    n_simulated: int = 2_000_000
    expected: Mapping[str, float] = field(default_factory=lambda: {"A": 50_000.0, "B": 250.0})
    truth: Mapping[str, float] = field(default_factory=lambda: {"mu": 1.0, "shift": 0.5, "squeeze": -0.5, "lumi": 0.0})
    flow: Schedule | None = None
    deformation: Schedule | None = None
    n_drawn: int = 100_000
    profile_points: int = 13
    contour_points: int = 11
    n_asimov: int = 20_000
    n_held_out: int = 50_000
    accelerated: bool = True


FULL = DemoSettings()

QUICK = DemoSettings(
    n_simulated=100_000,
    expected={"A": 2_000.0, "B": 70.0},
    flow=Schedule(steps=1_500, batch_size=1024, warmup=50, averaging=0.98, rotate_every=0),
    deformation=Schedule(steps=300, batch_size=1024, warmup=50, averaging=0.98, rotate_every=0),
    n_drawn=20_000,
    profile_points=9,
    contour_points=9,
    n_asimov=4_000,
    n_held_out=5_000,
    accelerated=False,
)


@dataclass(frozen=True, eq=False)
class Densities:
    """Learned densities of one process: p(x) and p(y | x), each with its deformation, and the histories of all trainings."""

    x: Deformation
    y_given_x: Deformation
    histories: dict[str, History]


@dataclass(frozen=True, eq=False)
class Model:
    """The statistical model, and its parameters."""

    pdf: SumPDF
    mu: zfit.Parameter
    nuisances: dict[str, Nuisance]

    @property
    def parameters(self) -> dict[str, zfit.Parameter]:
        """All floating parameters, by name."""
        return {"mu": self.mu, **self.nuisances}


def build_model(densities: Mapping[str, Densities]) -> Model:
    """The extended sum of the background A and the signal B, which has a strength; the nuisances are shared."""
    mu = zfit.Parameter("mu", 1.0, 0.0, 10.0, stepsize=0.1, label=r"$\mu$")
    nuisances = {name: nuisance(name) for name in (*TOY.nuisances, "lumi")}
    shapes = {name: nuisances[name] for name in TOY.nuisances}
    processes = []
    for process, learned in densities.items():
        rates = [normsys(parameter, learned.x.yields[name]) for name, parameter in shapes.items()]
        strength = [mu] if process == "B" else []
        n_expected = modified_yield(learned.x.flow.sum_weights, [*strength, *rates, lnN(nuisances["lumi"], LUMINOSITY)])
        p_x = FNFPDF(learned.x, params=shapes, name=f"{process}_x")
        p_y_given_x = FNFPDF(learned.y_given_x, params=shapes, name=f"{process}_y")
        label = f"process {process}"
        processes.append(ConditionalProductPDF([p_y_given_x, p_x], extended=n_expected, name=process, label=label))
    return Model(SumPDF(processes), mu, nuisances)


@dataclass(frozen=True, eq=False)
class ExactFit:
    """Results with the true densities in place of the learned ones.

    Attributes:
        table: Best-fit ``value`` and HESSE ``error`` of each parameter.
        significance: Of the signal, in standard deviations.
    """

    table: pd.DataFrame
    significance: float


def efficiency(process: str, point: Mapping[str, float]) -> float:
    """Factor on the yield of a process at a nuisance point."""
    factors = [
        interpolate_code4(tf.constant([point.get(name, 0.0)], tf.float64), np.array([down]), np.array([up]))
        for name, (down, up) in EFFICIENCY[process].items()
    ]
    return float(np.prod(factors))


def expected_events(process: str, values: Mapping[str, float], settings: DemoSettings) -> float:
    """Expected number of events of a process in the data, as a function of all parameters."""
    strength = values["mu"] if process == "B" else 1.0
    return strength * settings.expected[process] * efficiency(process, values) * LUMINOSITY ** values["lumi"]


def fit_exactly(data: Sample, settings: DemoSettings, *, of: Part = "joint") -> ExactFit:
    """Best fit, HESSE errors and significance with the true densities in place of the learned ones."""
    names = list(settings.truth)

    def nll(point: np.ndarray) -> float:
        values = dict(zip(names, point, strict=True))
        shape = {name: values[name] for name in TOY.nuisances}
        rates = {process: expected_events(process, values, settings) for process in TOY.processes}
        with np.errstate(divide="ignore"):  # no signal, whose density is then zero
            terms = [np.log(rate) + TOY.log_prob(data, shape, process, of=of) for process, rate in rates.items()]
        constraints = 0.5 * sum(value**2 for name, value in values.items() if name != "mu")
        return float(sum(rates.values()) - np.logaddexp(*terms).sum() + constraints)

    fit = iminuit.Minuit(nll, [1.0 if name == "mu" else 0.0 for name in names], name=names)
    fit.errordef, fit.errors, fit.limits["mu"] = iminuit.Minuit.LIKELIHOOD, 0.05, (0.0, None)
    fit.migrad().hesse()
    found, lowest = pd.DataFrame({"value": fit.values, "error": fit.errors}, index=names), fit.fval
    valid = fit.valid
    fit.values["mu"], fit.fixed["mu"] = 0.0, True
    fit.migrad()
    if not (valid and fit.valid):
        raise RuntimeError(f"the fit of the exact likelihood did not converge:\n{fit.fmin}")
    return ExactFit(found, float(np.sqrt(max(2.0 * (fit.fval - lowest), 0.0))))

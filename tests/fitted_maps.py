"""A Distribution of Interest on a few events: its model, a map after a training of ten steps, and its profile."""

from __future__ import annotations

from dataclasses import replace

import zfit
import numpy as np
import pytest
from stored_models import shaken

import zfit_fnf as zfnf
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.doi import Replica, fit_transfer, profile
from zfit_fnf.train.schedule import Schedule

SHORT = Schedule(steps=10, batch_size=100, warmup=2, averaging=0.5, rotate_every=0, patience=None)


FLOWS = [zfnf.Flow(["y"], ["x"], hidden=(4,), n_components=2, seed=1), zfnf.Flow(["x"], n_components=2)]


def model(seed=1):
    """A density of ``y`` given ``x``, moved by a nuisance, and one of ``x``."""
    response = shaken(Response(["jes"], ((1,),), n_dim=1, n_context=1, hidden=(4,)), seed=seed)
    deformation = zfnf.Deformation(FLOWS[0], [response], windows={"jes": (-3.0, 3.0)})
    density = zfnf.pdf.FNFPDF(deformation, params={"jes": zfnf.nuisance("jes")})
    return zfnf.pdf.ConditionalProductPDF([density, zfnf.pdf.FlowPDF(FLOWS[1])])


@pytest.fixture(scope="module")
def data():
    events = FLOWS[0].sample(cond=FLOWS[1].sample(410, seed=1), seed=2)
    # No bounded map absorbs what an event 15 widths away says, and fits would warn of it.
    return events[events["y"].abs() < 10.0].head(400).reset_index(drop=True)


@pytest.fixture(scope="module")
def fitted(data):
    return fit_transfer(
        model(), data, obs=["y"], cond=["x"], n_layers=1, hidden=(4,), schedule=SHORT, seed=1, progress=False
    )


@pytest.fixture(scope="module")
def profiled(fitted):
    """With two replicas, and declared valid, whatever a map after ten steps is: what is tested with it holds for any map."""
    made = profile(fitted, n_checks=1, seed=1)
    nominal = made.transfer.displacement.field_weights()[-1]
    fields = np.random.default_rng(1).normal(0.0, 0.003, (2, len(nominal)))
    values = (fitted.values, {name: value + 0.1 for name, value in fitted.values.items()})
    replicas = (Replica((0, index), nominal + fields[index], values[index]) for index in range(2))
    return replace(made, problems=(), replicas=tuple(replicas))


SMALL = {"obs": ["y"], "cond": ["x"], "n_layers": 1, "hidden": (4,), "schedule": SHORT, "progress": False}


def at(loss, value):
    """Value of a loss of one nuisance."""
    with zfit.param.set_values(list(loss.get_params()), [value]):
        return float(loss.value(full=False))

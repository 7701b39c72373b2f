"""Densities of random networks: as learned ones are, without a training."""

from __future__ import annotations

import itertools

import zfit
import numpy as np

from zfit_fnf.densities.deformation import Deformation
from zfit_fnf.densities.flows import Flow
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.densities.ratio import LogRatio
from zfit_fnf.pdf import FNFPDF

NETWORK = {"hidden": (8, 8), "n_components": 3}


def smooth_flow(obs, cond=(), *, seed=0, **options):
    """A density not far from a normal one, as learned ones are."""
    flow = Flow(obs, list(cond), **NETWORK, seed=seed, **options)
    for layer in flow.density.layers:
        layer.network.weights[-1].assign(0.2 * layer.network.weights[-1])
    return flow


def deformed(flow, nuisances, *, size=0.1, n_layers=1, interactions=False, weighed=0, **options):
    """The density behind a deformation that shifts and scales coordinates by a tenth of their widths per sigma.

    The first nuisances, as many as are ``weighed``, also have log-ratios: up to about 0.3 per sigma.
    """
    rng = np.random.default_rng(len(flow.obs))
    shape = {"n_dim": len(flow.obs), "n_context": len(flow.cond), "hidden": (8, 8), "n_layers": n_layers}
    names = [parameter.name for parameter in nuisances]
    responses = [Response([name], ((1,), (2,)), **shape, seed=i) for i, name in enumerate(names)]
    if interactions:
        responses += [Response(pair, ((1, 1),), **shape, n_single=4) for pair in itertools.combinations(names, 2)]
    for response in responses:
        for network in response.networks:
            degrees = np.repeat([0.1 ** (sum(powers) - 1) for powers in response.powers], 2)
            sizes = size * np.tile(degrees, len(flow.obs))
            network.weights[-1].assign(0.2 * sizes * rng.normal(size=network.weights[-1].shape))
            network.biases[-1].assign(sizes * rng.normal(size=network.biases[-1].shape))
    shape = {"n_dim": len(flow.obs), "n_context": len(flow.cond), "degrees": [4] * len(flow.obs + flow.cond)}
    ratios = [LogRatio([name], ((1,), (2,)), **shape) for name in names]
    for ratio in ratios[:weighed]:
        decay = np.exp(-0.7 * ratio.exponents.sum(axis=1))
        ratio.weights.assign(rng.normal(size=ratio.weights.shape) * decay * [[0.2], [0.03]])
    deformation = Deformation(flow, responses, windows=dict.fromkeys(names, (-1.0, 1.0)), ratios=ratios[:weighed])
    return FNFPDF(deformation, dict(zip(names, nuisances, strict=True)), **options)


def events(model, values, n, seed):
    """Events of a model at some values of its parameters."""
    zfit.settings.set_seed(seed)
    with zfit.param.set_values(list(values), list(values.values())):
        return dict(zip(model.obs, model.sample(n).value().numpy().T, strict=True))


def random_deformation(
    flow: Flow, names=("jes", "jer"), *, size: float = 0.2, seed: int = 0, n_layers: int = 1
) -> Deformation:
    """A deformation with random coefficients; fresh ones would be the identity."""
    rng = np.random.default_rng(seed)
    shape = {"n_dim": len(flow.obs), "n_context": len(flow.cond), "n_layers": n_layers}
    responses = [Response([n], ((1,), (2,)), **shape, seed=seed) for n in names]
    for response in responses:
        for variable in response.variables:
            variable.assign_add(size * rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    return Deformation(flow, responses, windows=dict.fromkeys(names, (-1.0, 1.0)))

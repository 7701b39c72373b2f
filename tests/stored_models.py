"""Models of every kind that can be stored, and files that are changed."""

from __future__ import annotations

import hashlib
import itertools
import json
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from safetensors import safe_open
from safetensors.numpy import save_file

import zfit_fnf as zfnf
from zfit_fnf import Deformation, Flow, YieldRatio, storage
from zfit_fnf.densities.claims import Claim
from zfit_fnf.densities.history import History
from zfit_fnf.densities.polynomial_map import Response
from zfit_fnf.densities.ratio import LogRatio
from zfit_fnf.densities.transfer import Transfer
from zfit_fnf.interop.reference import ReferenceDeformation, ReferenceResponse
from zfit_fnf.interop.zuko_architecture import NetworkShape, ZukoLayer
from zfit_fnf.interop.zuko_density import ZukoDensity

SMALL = {"hidden": (6, 5), "n_components": 3}
HISTORY = History(
    "p(a)",
    [10, 20],
    [1.5, 1.25],
    [1.4, 1.3],
    best_step=20,
    n_events=900,
    effective_size=812.5,
    seconds=3.5,
    claim=Claim("map", 0.02, 0.015, 0.004),
    conditions={"x": [-1.5, 2.0]},
)


def shaken(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape).astype(variable.dtype.as_numpy_dtype))
    return model


def flow(**settings):
    made = shaken(Flow(**{"obs": ["a", "b"], "cond": ["x"], **SMALL, **settings}))
    made._centre.assign(np.linspace(-0.3, 0.4, made._centre.shape[0]))
    made._scale.assign(np.linspace(0.7, 1.3, made._scale.shape[0]))
    return made


def deformation(**shape):
    shape = {"n_dim": 2, "n_context": 1, "hidden": (6,), **shape}
    responses = [
        Response(["jes"], ((1,), (2,)), **shape),
        Response(["jer"], ((1,),), **shape),
        Response(["jer", "jes"], ((1, 1),), n_single=3, **shape),
    ]
    responses[2].correction.assign([[0.1, -0.2, 0.05, 0.3]])
    made = Deformation(
        flow(ranges={"a": (0.0, 5.0), "b": (-np.inf, 9.5)}, sum_weights=1234.5),
        [shaken(response, seed) for seed, response in enumerate(responses)],
        windows={"jes": (-1.0, 1.0), "jer": (0.0, 1.0)},
        yields={"jes": YieldRatio(1.1, 0.9)},
    )
    made.flow.history = HISTORY
    made.history = {"jes": HISTORY}
    return made


def weighed():
    """A response to one nuisance that moves and reweighs events, and one to another that reweighs them."""
    shape = {"n_dim": 1, "n_context": 0}
    responses = [Response([name], ((1,), (2,)), **shape, hidden=()) for name in ("jes", "jer")]
    responses[0].networks[0].biases[-1].assign([0.1, 0.2, 0.01, -0.02])
    ratios = [LogRatio([name], ((1,), (2,)), **shape, degrees=[3]) for name in ("jes", "jer")]
    for sign, ratio in zip((1.0, -1.0), ratios, strict=True):
        ratio.weights.assign([[0.1, -0.05 * sign, 0.02], [0.01 * sign, 0.02, 0.0]])
    windows = dict.fromkeys(("jes", "jer"), (-1.0, 1.0))
    return Deformation(flow(obs=["a"], cond=[]), responses, windows=windows, ratios=ratios)


def zuko_flow(dtype="float32", **network):
    layers = [
        ZukoLayer("spline", 4, 5.0, 1e-3, NetworkShape((3, 8, 8, 22), "ReLU", **network), 2),
        ZukoLayer("affine", 0, 5.0, 1e-4, NetworkShape((3, 4, 4), "SiLU"), 1),
    ]
    density = ZukoDensity(2, 1, layers, dtype=dtype)
    # Nothing is masked here: all networks are made blind for the coordinates.
    for layer in density.layers:
        shaken(layer)
        layer.network.weights[0][:2].assign(tf.zeros_like(layer.network.weights[0][:2]))
    return Flow(["a", "b"], ["x"], density=density, standardisation={"a": (0.5, 2.0)})


def reference():
    shapes = [NetworkShape((3, 6, 8), "ELU")], [NetworkShape((3, 6, 4), "ELU")]
    names = (["jes"], ["jer"], ["jes", "jer"])
    responses = [
        shaken(ReferenceResponse(pair, n_dim=2, n_context=1, shapes=shapes[len(pair) - 1], dtype="float64"), seed)
        for seed, pair in enumerate(names)
    ]
    for network in itertools.chain.from_iterable(response.networks for response in responses):
        network.weights[0][:2].assign(tf.zeros_like(network.weights[0][:2]))  # nothing is masked here, see zuko_flow
    return ReferenceDeformation(
        zuko_flow(),
        responses,
        windows=dict.fromkeys(["jes", "jer"], (-3.0, 3.0)),
        centre={"jes": 0.0, "jer": 0.5},
        scale={"jes": 1.0, "jer": 2.0},
        quadratic_damping=0.01,
        cross_term_damping=0.02,
    )


def distribution():
    base = tfp.distributions.MultivariateNormalTriL(np.array([0.5, 1.0]), np.array([[1.0, 0.0], [0.3, 0.8]]))
    chain = tfp.bijectors.Chain([tfp.bijectors.Shift(np.array([0.0, 2.0])), tfp.bijectors.Scale(np.float64(1.5))])
    mixture = tfp.distributions.Mixture(
        tfp.distributions.Categorical(probs=np.array([0.25, 0.75])),
        [base, tfp.distributions.TransformedDistribution(base, chain)],
    )
    return zfnf.interop.tfp.wrap(mixture, obs=["a", "b"])


EVENTS = {"a": np.linspace(0.1, 4.9, 40), "b": np.linspace(-2.0, 3.0, 40), "x": np.sin(np.arange(40.0))}


def densities(model):
    if isinstance(model, Flow):
        return model.log_prob(EVENTS)
    return np.stack([model.log_prob(EVENTS, nu=nu) for nu in ({}, {"jes": 0.7, "jer": -0.3})])


def gaussian(width, obs=("a",)):
    law = tfp.distributions.MultivariateNormalDiag(np.zeros(len(obs)), np.full(len(obs), width))
    return zfnf.interop.callable.wrap(
        lambda x, context: law.log_prob(x),
        lambda context, seed: law.sample(tf.shape(context)[0], seed=seed),
        obs=obs,
        events={name: np.random.default_rng(0).normal(size=99) for name in obs},
        name="gauss",
    )


def transfer():
    made = shaken(Transfer(["a", "b"], ["x"], processes=["A", "B"], hidden=(5,), n_layers=2, ranges={"a": (0.0, 5.0)}))
    made._centre.assign([0.1, 0.2, 0.3])
    made._scale.assign([0.9, 1.5, 0.8])
    return made


MODELS = {
    "mixture": flow,
    "one observable": lambda: flow(obs=["a"], cond=[]),
    "stacked splines": lambda: flow(family="spline", n_layers=2, ranges={"a": (-30.0, 30.0)}),
    "deformation": deformation,
    "deformation of stacked layers": lambda: deformation(n_layers=2),
    "deformation with log-ratios": weighed,
    "zuko": zuko_flow,
    "zuko with residual blocks in float64": lambda: zuko_flow("float64", residual=True),
    "reference": reference,
    "distribution": distribution,
}

"""Every kind of model that can be stored; a new one is added here, and tested for all that models promise."""


# --- versions -------------------------------------------------------------------------------------------------------


def rewritten(source, target, change, arrays=None):
    """A copy of a file whose manifest has been changed, with a checksum that is right."""
    with safe_open(source, "numpy") as file:
        manifest = json.loads(file.metadata()["zfit_fnf"].split("\n")[1])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(manifest)
    text = json.dumps(manifest if changed is None else changed) if not isinstance(changed, str) else changed
    checksum = hashlib.sha256(text.encode()).hexdigest()
    save_file({**tensors, **(arrays or {})}, target, metadata={"zfit_fnf": f"{checksum}\n{text}"})
    return target


# --- what is not sound ----------------------------------------------------------------------------------------------


def model_of(manifest, kind):
    return next(fields for fields in manifest["models"] if fields["kind"] == kind)


def set_in(kind, /, **values):
    return lambda manifest: model_of(manifest, kind).update(values)


def refused(path, message):
    """One error, in less than 5 s, that names the file; it may not leave anything behind."""
    before, started = sorted(path.parent.iterdir()), time.process_time()
    with pytest.raises(ValueError, match="is not a usable model file") as caught:
        storage.load(path)
    assert time.process_time() - started < 5.0
    assert path.name in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert sorted(path.parent.iterdir()) == before

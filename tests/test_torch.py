"""Imported flows against PyTorch itself, in the version of zuko that is installed; skipped where there is none."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from zfit_fnf.interop import reference
from zfit_fnf.interop.zuko import import_flow

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
zuko = pytest.importorskip("zuko", reason="zuko is not installed")

N = 100
ACTIVATIONS = [torch.nn.ReLU, torch.nn.ELU, torch.nn.SiLU, torch.nn.Tanh]


def module_of(seed):
    """A flow of any kind with the weights that zuko starts from, and the arguments that made it."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    features, context = 1 + seed % 6, int(rng.integers(0, 6))
    kind = zuko.flows.NSF if rng.integers(3) else zuko.flows.MAF
    arguments = {"features": features, "context": context, "transforms": int(rng.integers(1, 6))}
    if kind is zuko.flows.NSF:
        arguments["bins"] = int(rng.integers(4, 25))
    if features > 1 or context:
        arguments["hidden_features"] = [(16,), (16, 16), (24, 16, 16)][rng.integers(3)]
        arguments["activation"] = ACTIVATIONS[rng.integers(4)]
    if features > 1:
        arguments |= {"randperm": bool(rng.integers(2)), "residual": bool(rng.integers(2))}
        graph = [{}, {"passes": 2}, {"adjacency": adjacency(rng, features)}][rng.integers(3)]
        arguments |= graph
    elif context:
        arguments["normalize"] = bool(rng.integers(2))
    return kind(**arguments), arguments


def adjacency(rng, features):
    """Which features each one depends on: itself, and some of those before it in a random order."""
    before = np.tril(rng.random((features, features)) < 0.7, k=-1)
    before[1, 0] = True
    order = rng.permutation(features)
    return torch.tensor((before | np.eye(features, dtype=bool))[order][:, order])


def points(features, context, seed=0):
    """Events, some of them outside of the box of the splines."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(N, features))
    y[:5] *= 4.0
    return y, rng.normal(size=(N, context))


def evaluated(module, y, x, dtype):
    """Log-density, its gradient in the events, and latents."""
    module = module.to(dtype)
    events = torch.tensor(y, dtype=dtype, requires_grad=True)
    flow = module(torch.tensor(x, dtype=dtype) if x.shape[1] else None)
    log_prob = flow.log_prob(events)
    (gradient,) = torch.autograd.grad(log_prob.sum(), events)
    return log_prob.detach().numpy(), gradient.numpy(), flow.transform(events).detach().numpy()


@pytest.mark.parametrize("seed", range(48))
def test_flows_of_any_kind(seed):
    module, arguments = module_of(seed)
    obs, cond = ([f"{k}{i}" for i in range(arguments[k])] for k in ("features", "context"))
    flow = import_flow(module, obs=obs, cond=cond)
    y, x = points(len(obs), len(cond))
    single = evaluated(module, y, x, torch.float32)[0]
    log_prob, gradient, latents = evaluated(module, y, x, torch.float64)

    events, given = tf.constant(y), tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(events)
        ours = flow.log_density(events, given)
    np.testing.assert_allclose(ours, log_prob, rtol=0, atol=1e-10)
    np.testing.assert_allclose(tape.gradient(ours, events), gradient, rtol=1e-9, atol=1e-9)
    z, _ = flow.density.inverse(events, given)
    np.testing.assert_allclose(z, latents, rtol=0, atol=1e-10)
    np.testing.assert_allclose(flow.density.forward(tf.constant(latents), given), y, rtol=0, atol=1e-8)
    # PyTorch itself rounds by up to 1e-4 in single precision: ours, of the same arithmetic, may not be much worse.
    ours = flow.log_density(tf.cast(events, tf.float32), tf.cast(given, tf.float32))
    assert np.mean(np.abs(ours - log_prob)) < 4.0 * np.mean(np.abs(single - log_prob)) + 1e-6


def test_files_of_state_dicts(tmp_path):
    module = zuko.flows.NSF(3, 2, transforms=2, bins=5, hidden_features=(8, 8), activation=torch.nn.ELU)
    state = module.state_dict()
    torch.save(state, tmp_path / "m.pt")
    save_file({name: value.contiguous().numpy() for name, value in state.items()}, tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", **{name: value.numpy() for name, value in state.items()})
    names = {"obs": ["a", "b", "c"], "cond": ["p", "q"]}
    live = import_flow(module, **names)
    slope = inspect.signature(zuko.transforms.MonotonicRQSTransform).parameters["slope"].default
    y, x = map(tf.constant, points(3, 2))
    for source in (state, tmp_path / "m.pt", tmp_path / "m.safetensors", tmp_path / "m.npz"):
        flow = import_flow(source, **names, architecture={"bins": 5, "activation": torch.nn.ELU, "slope": slope})
        np.testing.assert_array_equal(flow.log_density(y, x), live.log_density(y, x))
    with pytest.raises(ValueError, match="says its architecture itself"):
        import_flow(module, **names, architecture={"bins": 5})


def test_pickles_are_not_executed(tmp_path):
    class Touch:
        def __reduce__(self):
            return (tmp_path / "was-executed").touch, ()

    torch.save({"a": Touch()}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m.pt' cannot be read as a state dict"):
        import_flow(tmp_path / "m.pt", obs=["a"], architecture={})
    assert not (tmp_path / "was-executed").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zuko.flows.NCSF(2), "cannot be imported: NSF and MAF can"),
        (lambda: zuko.flows.NICE(2), "cannot be imported: NSF and MAF can"),
        (lambda: zuko.flows.CNF(2), "expected an NSF or MAF of zuko, got CNF"),
        (lambda: torch.nn.Linear(2, 2), "expected an NSF or MAF of zuko, got Linear"),
        (lambda: zuko.flows.NSF(2, activation=lambda: torch.nn.ELU(alpha=0.5)), "one, with default arguments, can"),
    ],
)
def test_other_modules(make, message):
    with pytest.raises(TypeError) as caught:
        import_flow(make(), obs=["a", "b"])
    assert message in str(caught.value)


# --- published factorizable flows -----------------------------------------------------------------------------------


class Residual(torch.nn.Module):
    """A polynomial residual layer, with the buffers and names of the published ones."""

    def __init__(self, n_dim, n_context, centre, scale, pairs):
        super().__init__()
        self.register_buffer("central_nuisance_values", centre)
        self.register_buffer("nuisance_scales", scale)
        self.register_buffer("cross_term_pairs", torch.tensor(pairs, dtype=torch.long).reshape(-1, 2))
        self.nuisance_nets, self.cross_nets = (
            torch.nn.ModuleList(self._network(n_dim, n_context, numbers) for _ in range(count))
            for numbers, count in ((4, len(centre)), (2, len(pairs)))
        )

    @staticmethod
    def _network(n_dim, n_context, numbers):
        earlier = torch.ones((n_dim, n_dim), dtype=torch.bool).tril(-1)
        sees = torch.cat([earlier, torch.ones((n_dim, n_context), dtype=torch.bool)], dim=1)
        return zuko.nn.MaskedMLP(sees.repeat_interleave(numbers, 0), hidden_features=(12, 12), activation=torch.nn.ELU)

    def forward(self, u, context, nu, damping, cross_damping):
        m = (nu - self.central_nuisance_values) / self.nuisance_scales
        values, total = torch.cat([u, context], dim=1), torch.zeros((*u.shape, 2), dtype=u.dtype)
        for k, network in enumerate(self.nuisance_nets):
            raw = network(values).unflatten(1, (u.shape[1], 2, 2))
            total = total + raw[..., 0] * m[:, k, None, None] + raw[..., 1] * damping * m[:, k, None, None] ** 2
        for (first, second), network in zip(self.cross_term_pairs.tolist(), self.cross_nets, strict=True):
            raw = network(values).unflatten(1, (u.shape[1], 2))
            total = total + raw * cross_damping * (m[:, first] * m[:, second])[:, None, None]
        return u * torch.exp(total[..., 0]) + total[..., 1], total[..., 0].sum(dim=1)


class Reversal(torch.nn.Module):
    def __init__(self, n_dim):
        super().__init__()
        self.register_buffer("indices", torch.arange(n_dim - 1, -1, -1))
        self.register_buffer("inv_indices", torch.argsort(self.indices))

    def forward(self, u, *_):
        return u[:, self.indices], 0.0


class Factorizable(torch.nn.Module):
    """Residual layers in front of a base flow; reversals between them, and after an even number of them."""

    ladj_sign, quadratic_damping, cross_term_damping = 1.0, 0.02, 0.03

    def __init__(self, base, n_layers, *, n_dim, n_context, centre, scale, pairs):
        super().__init__()
        self.base_model = base
        self.register_buffer("central_nuisance_values", torch.tensor(centre))
        self.register_buffer("nuisance_scales", torch.tensor(scale))
        self.transforms = torch.nn.ModuleList()
        for layer in range(n_layers):
            self.transforms.append(
                Residual(n_dim, n_context, self.central_nuisance_values, self.nuisance_scales, pairs)
            )
            if layer < n_layers - 1 or n_layers % 2 == 0:
                self.transforms.append(Reversal(n_dim))

    def log_prob(self, u, context, nu):
        log_det = 0.0
        for transform in self.transforms:
            u, layer = transform(u, context, nu, self.quadratic_damping, self.cross_term_damping)
            log_det = log_det + layer
        return self.base_model(context).log_prob(u) + log_det


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_factorizable_flows(n_layers, tmp_path):
    torch.manual_seed(n_layers)
    base = zuko.flows.NSF(3, 2, bins=6, transforms=2, hidden_features=(16, 16), activation=torch.nn.SiLU)
    module = Factorizable(
        base, n_layers, n_dim=3, n_context=2, centre=[0.0, 0.5], scale=[1.0, 2.0], pairs=[(0, 1)]
    )  # fmt: skip
    names = {"obs": ["a", "b", "c"], "cond": ["p", "q"], "nuisances": ["jes", "jer"]}
    model = reference.import_fnf(module, **names)
    y, x = points(3, 2)
    nu = np.random.default_rng(1).normal(size=(N, 2))
    with torch.no_grad():
        expected = module.double().log_prob(*map(torch.tensor, (y, x, nu)))
    u, c = tf.constant(y), tf.constant(x)
    nominal, log_det = model.inverse(u, c, model.coefficients(u, c), tf.vectorized_map(model.basis, tf.constant(nu)))
    np.testing.assert_allclose(model.flow.log_density(nominal, c) + log_det, expected, rtol=0, atol=1e-10)

    torch.save(module.state_dict(), tmp_path / "m.pt")
    slope = inspect.signature(zuko.transforms.MonotonicRQSTransform).parameters["slope"].default
    again = reference.import_fnf(
        tmp_path / "m.pt", **names, architecture={"bins": 6, "activation": "SiLU", "slope": slope},
        quadratic_damping=0.02, cross_term_damping=0.03,
    )  # fmt: skip
    table = dict(zip([*"abcpq"], np.concatenate([y, x], axis=1).T, strict=True))
    point = {"jes": 0.7, "jer": -0.4}
    np.testing.assert_allclose(again.log_prob(table, nu=point), model.log_prob(table, nu=point), rtol=0, atol=1e-10)


def test_factorizable_flows_that_cannot_be_imported():
    base = zuko.flows.MAF(2, 1)
    shape = {"n_dim": 2, "n_context": 1, "centre": [0.0], "scale": [1.0], "pairs": []}
    module = Factorizable(base, 1, **shape)
    module.ladj_sign = -1.0
    names = {"obs": ["a", "b"], "cond": ["p"], "nuisances": ["jes"]}
    with pytest.raises(ValueError, match="ladj_sign=-1"):
        reference.import_fnf(module, **names)
    with pytest.raises(TypeError, match="expected a published factorizable flow, got MAF"):
        reference.import_fnf(base, **names)

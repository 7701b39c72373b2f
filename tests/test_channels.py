"""Channels: what losses and pseudo-experiments ask, and another kind of them, made by the recipe in one place."""

from __future__ import annotations

import zfit
import numpy as np
import pytest
import tensorflow as tf
from analytic import GaussianFlow, one_dimensional

import zfit_fnf
from zfit_fnf.loss import (
    Channel,
    ExtendedUnbinnedNLL,
    UnbinnedChannel,
    channel_kind,
    channels_of,
    rate_kernel,
    yield_gradient,
)
from zfit_fnf.pdf import FNFPDF, FlowPDF, SumPDF
from zfit_fnf.toys import asimov, toy

# --- a kind of channel: this is all there is to it --------------------------------------------------------------------


class Count(zfit.pdf.Uniform):
    """A counting experiment, whose only parameter is its yield; its data are ``{"n": number}``."""


class CountingChannel:
    """Poisson number of events, ``n - N log n``."""

    def __init__(self, model: Count, data: zfit.Data, *, extended: bool):
        assert extended
        self.model, self.data, self.extended, self.number = model, data, extended, None

    @staticmethod
    def checked(model: Count, data, weights) -> zfit.Data:
        del weights
        if isinstance(data, zfit.Data):
            return data
        return zfit.Data(np.full((1, 1), 0.5), weights=[float(data["n"])], obs=model.space)

    def is_current(self) -> bool:
        return self.number is not None

    def precompute(self, max_memory: float) -> None:
        del max_memory
        self.number = float(self.data.samplesize)

    def terms(self):
        yield rate_kernel(self.model), [(tf.constant(self.number, tf.float64),)]

    def score_covariance(self, params, weigh, *, n_events=np.inf):
        del n_events
        number, scores = self.scored(self.data, params)
        return weigh(1.0) * number * np.outer(scores, scores)

    def scored(self, data, params):
        expected, gradient = yield_gradient(self.model, params)
        return np.array([float(data.samplesize)]), gradient[None, :] / expected

    def sums_of_weights(self):
        return float(self.data.samplesize), float(self.data.samplesize)

    def n_expected(self) -> float:
        return float(self.model.get_yield().value())

    def draw(self, rng, seeds):
        del seeds
        return self.checked(self.model, {"n": rng.poisson(self.n_expected())}, None)

    def asimov(self, params, n_events, seeds):
        del params, n_events, seeds
        return self.checked(self.model, {"n": self.n_expected()}, None)

    def refillable(self):
        raise NotImplementedError

    def refill(self, data):
        raise NotImplementedError


@channel_kind.register
def _(model: Count) -> type[Channel]:
    return CountingChannel


# --- likelihoods of it ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def combined():
    """A control region that is counted, and a spectrum with the same yield of background."""
    background, signal = zfit.Parameter("background", 60.0, 0, 1000), zfit.Parameter("signal", 30.0, 0, 1000)
    jes, jer = zfit_fnf.nuisance("jes"), zfit_fnf.nuisance("jer")
    space = zfit.Space("y", -10.0, 10.0)
    shape = FNFPDF(one_dimensional(), {"jes": jes, "jer": jer}, obs=space, extended=signal)
    flat = zfit.pdf.Uniform(-10.0, 10.0, obs=space, extended=background)
    ratio = zfit_fnf.modified_yield(2.0, [background], name="control_yield")
    count = Count(0.0, 1.0, obs=zfit.Space("cell", 0.0, 1.0), extended=ratio)
    y = np.concatenate([np.random.default_rng(1).normal(size=30), np.linspace(-9.9, 9.9, 60)])
    nll = ExtendedUnbinnedNLL([SumPDF([shape, flat]), count], [{"y": y}, {"n": 140}])
    alone = ExtendedUnbinnedNLL(SumPDF([shape, flat]), {"y": y})
    return {"nll": nll, "alone": alone, "background": background, "signal": signal}


def test_another_kind_of_channel_takes_part(combined):
    nll, background = combined["nll"], combined["background"]
    assert [type(channel) for channel in nll.channels] == [UnbinnedChannel, CountingChannel]
    assert [channel.model for channel in channels_of(nll)] == list(nll.model)
    params = list(nll.get_params())
    for value in (50.0, 70.0):
        background.set_value(value)
        counted = 2.0 * value - 140 * np.log(2.0 * value)
        assert float(nll.value()) == pytest.approx(float(combined["alone"].value()) + counted, rel=1e-12)
        slope = nll.gradient([background]) - combined["alone"].gradient([background])
        np.testing.assert_allclose(slope, 2.0 - 140 / value, rtol=1e-10)
        curved = nll.hessian([background]) - combined["alone"].hessian([background])
        np.testing.assert_allclose(curved, [[140 / value**2]], rtol=1e-9)
    squared = nll.score_covariance(params, np.abs) - combined["alone"].score_covariance(params, np.abs)
    index = params.index(background)
    assert squared[index, index] == pytest.approx(140 / 70.0**2, rel=1e-9)
    fast = zfit_fnf.accelerate(nll)
    assert float(fast.value()) == pytest.approx(float(nll.value()), abs=0.005)


def test_pseudo_experiments_of_another_kind_of_channel(combined):
    nll, background, signal = combined["nll"], combined["background"], combined["signal"]
    at = {background: 65.0, signal: 20.0}
    made = asimov(nll, params=at, n_events=300)
    assert [float(data.samplesize) for data in made.data] == pytest.approx([85.0, 130.0], rel=1e-12)
    with zfit.param.set_values({**at, **made.observed}):
        np.testing.assert_allclose(made.loss(nll).gradient(), 0.0, atol=1e-8)
    counts = [float(toy(nll, params=at, seed=seed).data[1].samplesize) for seed in range(60)]
    # Standard deviations of the mean and of the variance of 60 Poisson numbers: 1.5 and 24; four of each.
    assert np.mean(counts) == pytest.approx(130.0, abs=6.0)
    assert np.var(counts) == pytest.approx(130.0, abs=96.0)
    assert toy(nll, params=at, seed=3).observed.keys() == made.observed.keys()


def test_channels_follow_what_is_put_in_their_place(combined):
    alone = combined["alone"]
    nll = ExtendedUnbinnedNLL(list(alone.model), list(alone.data))
    before, channel = float(nll.value()), nll.channels[0]
    assert nll.channels[0] is channel
    nll.data[0] = zfit.Data(np.linspace(-5.0, 5.0, 30)[:, None], obs=alone.model[0].space)
    assert nll.channels[0] is not channel
    other = ExtendedUnbinnedNLL(list(alone.model), {"y": np.linspace(-5.0, 5.0, 30)})
    assert float(nll.value()) == pytest.approx(float(other.value()), rel=1e-12)
    assert float(nll.value()) != pytest.approx(before)


def test_columns_of_data_put_in_place_of_others_are_matched_by_name():
    n = zfit.Parameter("n", 10.0, 0, 100)
    model = FlowPDF(GaussianFlow([1.0, -2.0], [0.5, 2.0], obs=["y1", "y2"]), extended=n)
    x = np.random.default_rng(2).normal([1.0, -2.0], [0.5, 2.0], size=(20, 2))
    weights = np.random.default_rng(3).uniform(0.5, 1.5, 20)
    right = float(ExtendedUnbinnedNLL(model, {"y1": x[:, 0], "y2": x[:, 1]}, weights=weights).value())
    swapped = zfit.Data(x[:, ::-1], obs=zfit.Space(["y2", "y1"]), weights=weights)
    nll = ExtendedUnbinnedNLL(model, {"y1": [1.0], "y2": [0.0]})
    nll.data[0] = swapped
    assert float(nll.value()) == pytest.approx(right, rel=1e-12)
    channel = UnbinnedChannel(model, swapped, extended=True)
    channel.precompute(1e6)
    sums = [float(kernel.value(*arguments)) for kernel, calls in channel.terms() for arguments in calls]
    assert sum(sums) == pytest.approx(right, rel=1e-12)

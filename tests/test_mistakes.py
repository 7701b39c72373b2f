"""What people get wrong when they make a likelihood or toys: one clear error, where it happens."""

from __future__ import annotations

from collections.abc import Callable

import zfit
import numpy as np
import pandas as pd
import pytest

from zfit_fnf import accelerate, nuisance
from zfit_fnf.loss import ExtendedUnbinnedNLL, UnbinnedNLL
from zfit_fnf.param import NuisanceConstraint
from zfit_fnf.toys import PseudoExperiment, asimov, fit_toys, toy

SPACE = zfit.Space("y", 0, 1)
MU, NU = zfit.Parameter("mu", 1.0, 0.0, 10.0), nuisance("nu")
SECOND = zfit.Parameter("mu", 1.0, 0.0, 10.0)  # another one of that name
FLAT = zfit.pdf.Uniform(0.0, 1.0, obs=SPACE, extended=MU)
SHAPE = zfit.pdf.Gauss(NU, 1.0, obs=SPACE)
DATA = {"y": [0.2, 0.4]}
NLL = ExtendedUnbinnedNLL(FLAT, DATA)
WEIGHTED = UnbinnedNLL(SHAPE, {**DATA, "w": [1.0, 2.0]}, weights="w")
BINNED = zfit.pdf.Gauss(NU, 1.0, obs=SPACE, extended=3.0).to_binned(
    zfit.Space("y", binning=zfit.binned.RegularBinning(2, 0, 1, name="y"))
)

Case = tuple[Callable[[], object], type[Exception], str]

LIKELIHOODS: dict[str, Case] = {
    "data and model swapped": (lambda: UnbinnedNLL(DATA, SHAPE), TypeError, "model comes first"),
    "zfit data and model swapped": (lambda: UnbinnedNLL(NLL.data[0], SHAPE), TypeError, "model comes first"),
    "a PDF as data": (lambda: UnbinnedNLL(SHAPE, SHAPE), TypeError, "data= of a likelihood are events"),
    "no model": (lambda: UnbinnedNLL([], DATA), ValueError, "at least one PDF"),
    "None as model": (lambda: UnbinnedNLL(None, DATA), ValueError, "at least one PDF"),
    "name of a model": (lambda: UnbinnedNLL("model", DATA), TypeError, "got str 'model'"),
    "class of a PDF": (lambda: UnbinnedNLL(zfit.pdf.Gauss, DATA), TypeError, "is a PDF of unbinned events"),
    "binned model": (lambda: UnbinnedNLL(BINNED, DATA), TypeError, "is a PDF of unbinned events"),
    "a loss as model": (lambda: UnbinnedNLL(NLL, DATA), TypeError, "is a PDF of unbinned events"),
    "no data": (lambda: UnbinnedNLL(SHAPE, None), ValueError, "got 0 data sets"),
    "a list of numbers": (lambda: UnbinnedNLL(SHAPE, [0.1, 0.2]), TypeError, "needs names of the columns"),
    "a number": (lambda: UnbinnedNLL(SHAPE, 0.1), TypeError, "needs names of the columns"),
    "an array": (lambda: UnbinnedNLL(SHAPE, np.array([0.1])), TypeError, "got ndarray"),
    "one data set too many": (lambda: UnbinnedNLL(SHAPE, [DATA, DATA]), ValueError, "got 2 data sets"),
    "one data set too few": (lambda: UnbinnedNLL([SHAPE, SHAPE], DATA), ValueError, "got 1 data sets"),
    "one list of weights": (
        lambda: UnbinnedNLL([SHAPE, SHAPE], [DATA, DATA], weights=[[1.0, 1.0]]),
        ValueError,
        "and 1 weights",
    ),
    "a number as weights": (lambda: UnbinnedNLL(SHAPE, DATA, weights=1.0), ValueError, "weights"),
    "weights that are no column": (lambda: UnbinnedNLL(SHAPE, DATA, weights="w"), ValueError, "no column 'w'"),
    "too few weights": (lambda: UnbinnedNLL(SHAPE, DATA, weights=[1.0]), ValueError, "differ in length"),
    "negative sum of weights": (lambda: UnbinnedNLL(SHAPE, DATA, weights=[1.0, -2.0]), ValueError, "sum to -1"),
    "weights that are not finite": (lambda: UnbinnedNLL(SHAPE, DATA, weights=[1.0, np.nan]), ValueError, "NaN"),
    "another column": (lambda: UnbinnedNLL(SHAPE, {"x": [0.1]}), ValueError, "no column 'y'"),
    "empty frame": (lambda: UnbinnedNLL(SHAPE, pd.DataFrame()), ValueError, "no column 'y'"),
    "events outside": (lambda: UnbinnedNLL(SHAPE, {"y": [0.5, 1.5]}), ValueError, "not inside the range"),
    "a model without a yield": (lambda: ExtendedUnbinnedNLL(SHAPE, DATA), ValueError, "needs a yield"),
    "a fit range": (lambda: UnbinnedNLL(SHAPE, DATA, fit_range=(0, 1)), ValueError, "fit_range= is not supported"),
    "a new fit range": (lambda: NLL.create_new(fit_range=[(0, 1)]), ValueError, "fit_range= is not supported"),
    "a nuisance as constraint": (lambda: UnbinnedNLL(SHAPE, DATA, constraints=NU), TypeError, "takes constraints"),
    "numbers as constraint": (lambda: UnbinnedNLL(SHAPE, DATA, constraints={"nu": 1.0}), TypeError, "takes constr"),
    "a constraint in the place of fit_range": (
        lambda: UnbinnedNLL(SHAPE, DATA, NuisanceConstraint([NU])),
        ValueError,
        "fit_range= is not supported",
    ),
    "unknown option": (lambda: UnbinnedNLL(SHAPE, DATA, options={"memory": 1e9}), ValueError, r"no \['memory'\]"),
    "options that are none": (lambda: UnbinnedNLL(SHAPE, DATA, options=1e9), TypeError, "is a dictionary"),
    "memory in words": (lambda: UnbinnedNLL(SHAPE, DATA, options={"max_memory": "4 GB"}), ValueError, "of bytes"),
    "negative memory": (lambda: UnbinnedNLL(SHAPE, DATA, options={"max_memory": -1}), ValueError, "not negative"),
    "two parameters of one name": (
        lambda: UnbinnedNLL([SHAPE, zfit.pdf.Gauss(nuisance("nu"), 1.0, obs=SPACE)], [DATA, DATA]),
        Exception,
        "nu",
    ),
    "an unknown parameter": (lambda: NLL.value(params={"nope": 1.0}), ValueError, "nope"),
    "a parameter outside": (lambda: NLL.value(params={"mu": 11.0}), ValueError, "mu"),
    "derivative by another parameter": (lambda: NLL.gradient([SECOND]), ValueError, "not in the model"),
    "another kind of loss to accelerate": (lambda: accelerate(FLAT), TypeError, "accelerate takes losses"),
}

NUISANCES: dict[str, Case] = {
    "no name": (lambda: nuisance(None), TypeError, "needs a name"),
    "a number as name": (lambda: nuisance(1), TypeError, "needs a name"),
    "one limit": (lambda: nuisance("nu", limits=5.0), TypeError, "two numbers"),
    "three limits": (lambda: nuisance("nu", limits=(-5.0, 0.0, 5.0)), TypeError, "two numbers"),
    "no limits": (lambda: nuisance("nu", limits=None), TypeError, "two numbers"),
    "limits in words": (lambda: nuisance("nu", limits=("low", "high")), TypeError, "two numbers"),
    "limits beside zero": (lambda: nuisance("nu", limits=(1.0, 5.0)), ValueError, "must enclose 0"),
    "limits swapped": (lambda: nuisance("nu", limits=(5.0, -5.0)), ValueError, "must enclose 0"),
    "limits that are not numbers": (lambda: nuisance("nu", limits=(np.nan, 5.0)), ValueError, "must enclose 0"),
    "a value outside": (lambda: NU.set_value(7.0), ValueError, "limits"),
    "not a number": (lambda: NU.set_value(float("nan")), ValueError, "not a number"),
    "constraint of a plain parameter": (lambda: NuisanceConstraint([MU]), TypeError, "made by zfit_fnf.nuisance"),
    "constraint of a name": (lambda: NuisanceConstraint("nu"), TypeError, "made by zfit_fnf.nuisance"),
    "constraint of nothing": (lambda: NuisanceConstraint([]), ValueError, "at least one"),
    "constraint of None": (lambda: NuisanceConstraint(None), TypeError, "made by zfit_fnf.nuisance"),
    "constraint of one twice": (lambda: NuisanceConstraint([NU, NU]), ValueError, "appears twice"),
}

TOYS: dict[str, Case] = {
    "no toys": (lambda: fit_toys(NLL, 0), ValueError, "n_toys is a positive integer"),
    "half a toy": (lambda: fit_toys(NLL, 0.5), ValueError, "n_toys is a positive integer"),
    "many toys": (lambda: fit_toys(NLL, 1e3), ValueError, "n_toys is a positive integer"),
    "true toys": (lambda: fit_toys(NLL, True), ValueError, "n_toys is a positive integer"),
    "a name as minimiser": (lambda: fit_toys(NLL, 1, minimizer="minuit"), TypeError, "minimizer= is a minimiser"),
    "a class as minimiser": (lambda: fit_toys(NLL, 1, minimizer=zfit.minimize.Minuit), TypeError, "minimizer= is a"),
    "a sequence of seeds": (lambda: fit_toys(NLL, 1, seed=(1, 2)), ValueError, "seed= is an integer"),
    "no events": (lambda: asimov(NLL, n_events=0), ValueError, "n_events= is a positive integer"),
    "negative events": (lambda: asimov(NLL, n_events=-5), ValueError, "n_events= is a positive integer"),
    "events by a float": (lambda: asimov(NLL, n_events=1e4), ValueError, "n_events= is a positive integer"),
    "a PDF": (lambda: toy(FLAT), TypeError, "made from an unbinned likelihood; got Uniform"),
    "data": (lambda: asimov(DATA), TypeError, "made from an unbinned likelihood; got dict"),
    "weighted data": (lambda: toy(WEIGHTED), ValueError, "do not tell"),
    "channels of another likelihood": (
        lambda: PseudoExperiment(tuple(NLL.data * 2), {}, {}).loss(NLL),
        ValueError,
        "got 2 data sets",
    ),
}

PARAMS: dict[str, tuple[object, type[Exception], str]] = {
    "above the limits": ({MU: 11.0}, ValueError, r"'mu' at 11, outside of its limits \(0, 10\)"),
    "below the limits": ({MU: -1.0}, ValueError, "outside of its limits"),
    "not a number": ({MU: np.nan}, ValueError, "finite number"),
    "infinite": ({MU: np.inf}, ValueError, "finite number"),
    "in words": ({MU: "1"}, ValueError, "finite number"),
    "several values": ({MU: [1.0, 2.0]}, ValueError, "finite number"),
    "none": ({MU: None}, ValueError, "finite number"),
    "a second parameter of that name": ({SECOND: 2.0}, ValueError, "second parameter that is called 'mu'"),
    "a parameter of another model": ({NU: 1.0}, ValueError, "'nu', which is no parameter of the likelihood"),
    "a global observable": ({NU.observed: 1.0}, ValueError, "no parameter of the likelihood"),
    "by name": ({"mu": 1.0}, TypeError, "takes the parameters themselves, not 'mu'"),
    "pairs": ([(MU, 1.0)], TypeError, "values by parameter"),
    "a value": (1.0, TypeError, "values by parameter"),
}


@pytest.mark.parametrize("mistake", [*LIKELIHOODS.items(), *NUISANCES.items(), *TOYS.items()], ids=lambda m: m[0])
def test_mistakes_are_named(mistake):
    _, (make, kind, message) = mistake
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("make", [toy, asimov, lambda nll, params: fit_toys(nll, 1, params=params, progress=False)])
@pytest.mark.parametrize("mistake", PARAMS)
def test_mistakes_in_the_point_of_pseudo_experiments_are_named(mistake, make):
    params, kind, message = PARAMS[mistake]
    with pytest.raises(kind, match=message):
        make(NLL, params=params)
    assert float(MU.value()) == 1.0


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True, (), (1, -1), (1, 0.5)])
def test_seeds_are_integers(seed):
    for make in (toy, asimov):
        with pytest.raises(ValueError, match="seed= is an integer that is not negative"):
            make(NLL, seed=seed)


def test_values_that_rounding_moved_over_the_edge_are_at_the_edge():
    assert toy(NLL, params={MU: 10.0 + 1e-12}).truth == {MU: 10.0}
    assert asimov(NLL, params={MU: -1e-15}, n_events=10).truth == {MU: 0.0}

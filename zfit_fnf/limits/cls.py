"""CLs upper limits, by asymptotic formulae or from toys."""

from __future__ import annotations

from typing import Literal

import zfit  # before tensorflow, which it silences

from ..arguments import count, real
from ..common.parallel import Executor
from .asymptotic import asymptotic_limit, checked_poi
from .results import LimitResult
from .toys import toy_limit
from .weights import check_weights

__all__ = ["upper_limit"]


def upper_limit(
    nll: zfit.loss.UnbinnedNLL,
    poi: zfit.Parameter | str,
    *,
    cl: float = 0.95,
    expected: Literal["postfit", "prefit"] = "postfit",
    calculator: Literal["asymptotic", "toys"] = "asymptotic",
    minimizer: zfit.minimize.BaseMinimizer | None = None,
    n_asimov: int = 20_000,
    n_toys: int = 1000,
    seed: int = 0,
    executor: Executor | None = None,
    pool: int | None = None,
    progress: bool = True,
) -> LimitResult:
    r"""CLs upper limit on a parameter that is zero without signal.

    The test statistic is :math:`\tilde q_\mu`, for which best-fit values below zero count as zero. Expected limits are
    those of background only, with the nuisances that fit the data best at zero (as in pyhf). Parameters and global
    observables are restored at the end.

    Before unblinding, ``expected="prefit"`` gives the expected limits alone. No event is looked at (a likelihood of an empty
    data set will do if it is extended): parameters are where their auxiliary measurements put them, those without one
    at their current values.

    Asymptotic formulae take a few fits. Toys take ``11 n_toys`` fits and more, and are right for any number of events: the
    limit has a statistical error then, which the result states.

    Args:
        nll: The likelihood.
        poi: The parameter of interest, or its name, floating; zero and all limits on it have to be inside of its own limits.
        cl: Confidence level.
        expected: What the expected limits are for: the background after a fit to the data, or that before any.
        minimizer: By default `zfit_fnf.Minuit`.
        calculator: Where the distributions of the test statistic come from: ``"asymptotic"`` or ``"toys"``.
        n_asimov: Events for each component of the Asimov set.
        n_toys: Number of toys of background only, and of each of ten values of the parameter.
        seed: Seed of the Asimov set and of the toys.
        executor: ``concurrent.futures`` executor that shares the toys; each worker compiles the likelihood once.
        pool: Draw the toys of each hypothesis from a pool of so many events for each component of the model, which is expanded
            once; use ten times the events of a toy or more. A toy then needs neither networks nor compilers, and the result says
            in ``pool`` what that is worth. By default each toy has events of its own.
        progress: Whether to show a progress bar for the toys.

    Returns:
        The observed and the five expected limits, and the scan.

    Warns:
        UserWarning: If an asymptotic limit rests on fewer than ten events, where the formulae give limits that are too strong
            by up to 20 per cent; if fits to many toys do not converge; if there are too few toys for some of the expected
            limits, which are not numbers then.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If the parameter is not in the likelihood, does not float, is a nuisance, cannot be zero, or may not become
            as large as a limit; if the data have weights with which the formulae do not hold; if the outcome behind a
            constraint cannot be moved; if there is no use or no room for a pool, or it has another minimiser.
        RuntimeError: If a fit does not converge.

    Example:
        >>> limit = upper_limit(nll, mu)
        >>> limit.observed, limit.expected[2]
        >>> print(limit)
        >>> print(upper_limit(nll, mu, expected="prefit"))
        >>> print(upper_limit(nll, mu, calculator="toys", n_toys=2000, pool=200_000))
    """
    if not 0.5 < real(cl, "cl=") < 1:
        raise ValueError(f"cl must be between 0.5 and 1, e.g. 0.95; got {cl}")
    if expected not in ("postfit", "prefit"):
        raise ValueError(f'expected= is "postfit" or "prefit"; got {expected!r}')
    if calculator not in ("asymptotic", "toys"):
        raise ValueError(f'calculator= is "asymptotic" or "toys"; got {calculator!r}')
    parameter = checked_poi(nll, poi, 0.0, minimizer, n_asimov)
    postfit = expected == "postfit"
    if postfit:
        check_weights(nll, [parameter], minimizer)
    if calculator == "asymptotic":
        return asymptotic_limit(nll, parameter, cl, postfit=postfit, minimizer=minimizer, n_asimov=n_asimov, seed=seed)
    return toy_limit(
        nll,
        parameter,
        cl,
        postfit=postfit,
        minimizer=minimizer,
        n_asimov=n_asimov,
        n_toys=count(n_toys, "n_toys=", least=50),
        seed=count(seed, "seed=", least=0),
        executor=executor,
        pool=None if pool is None else count(pool, "pool=", least=1),
        progress=progress,
    )

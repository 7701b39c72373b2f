r"""Learned densities as zfit PDFs, and sums and products of them that stay in log space.

The density of a whole model is evaluated in two steps, which is what makes fits fast:

1. *prepare*: everything that depends on the events alone (coordinates, coefficients of the deformations), once per data
   set;
2. *log-density*: the rest, a function of the parameters.

:func:`prepare` and :func:`log_density` do this for any PDF, also for those of zfit (which prepare nothing);
:mod:`zfit_fnf.loss` calls them. All densities are normalised by construction.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf
from zfit.core.parameter import BaseParameter

from ..common.checks import number
from ..densities.deformation import Deformation
from ..densities.flows import Flow
from ..param import values_of
from . import logdensities
from .regions import Factor, Region
from .spaces import (
    UNBOUNDED,
    Ranges,
    as_list,
    causal_order,
    check_components,
    columns,
    conditions,
    finite,
    make_space,
    outputs,
    same_space,
    shares_of,
    space_ranges,
    space_within,
)

_ROUNDS, _ROUND_SIZE = 1000, 4096  # of accept-reject sampling in a part of the range
_SAID = "\u00b6"  # around the messages of checks in a graph
_PRECISIONS = ["float64", "float32"]

_sums = itertools.count()


class LearnedPDF(zfit.pdf.BasePDF):
    """What the PDFs of this package share.

    A subclass implements ``_prepare``, ``_log_shape`` (normalised over `ranges`), ``_draw`` and ``_log_fraction``.

    Attributes:
        ranges: Where the shape is normalised, ``(low, high)`` by observable.
        cond: Observables that the density is conditional on; they are among `obs`, but not integrated over.
    """

    ranges: Ranges
    cond: tuple[str, ...]
    _arguments: dict[str, Any]  # of the constructor

    def __init__(self, *args: Any, **settings: Any):
        expected = settings.get("extended")
        if not (expected is None or isinstance(expected, (bool, BaseParameter))):
            what = f"the yield extended= of {settings.get('name')!r} (a zfit.Parameter may be negative)"
            plain = tf.is_tensor(expected) or isinstance(expected, (np.generic, np.ndarray))
            settings["extended"] = number(np.asarray(expected).tolist() if plain else expected, what, low=0.0)
        super().__init__(*args, **settings)

    def _prepare(self, x: tf.Tensor) -> Any:
        """Nest of tensors from events ``(n, n_obs)``, independent of all parameters."""
        raise NotImplementedError

    def _given(self, x: tf.Tensor) -> Any:
        """Nest of tensors from the conditions alone, for :meth:`_prepare_given` with other observables."""
        del x
        return ()

    def _prepare_given(self, x: tf.Tensor, given: Any) -> Any:
        """The same as :meth:`_prepare`, with what :meth:`_given` has made of the conditions."""
        del given
        return self._prepare(x)

    def _log_shape(self, prepared: Any) -> tf.Tensor:
        """Log-density ``(n,)``, normalised over `ranges`."""
        raise NotImplementedError

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        """Events ``(n, d)`` over `ranges` for the rows of the conditions ``(n, n_cond)``: the columns `outputs`."""
        raise NotImplementedError

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        """Logarithm of the integral of the shape over a part of `ranges`, a scalar."""
        raise NotImplementedError

    @property
    def outputs(self) -> tuple[str, ...]:
        """The observables that the density describes; `obs` without the conditions."""
        return tuple(name for name in self.obs if name not in self.cond)

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return True

    def _log_density(self, prepared: Any) -> tf.Tensor:
        # Trainings prepare events in float32; the integral is in float64.
        return tf.cast(self._log_shape(prepared), tf.float64) - self.log_integral(self.norm)

    def log_integral(self, space: zfit.Space | bool) -> tf.Tensor | float:
        """Logarithm of the integral over a range; zero over that of the density itself."""
        return 0.0 if self._covers(space) else self._log_fraction(space_ranges(space))

    def _covers(self, space: zfit.Space | bool) -> bool:
        if not isinstance(space, zfit.Space) or not space.has_limits:  # zfit's norm=False: the density as it is
            return True
        given = space_ranges(space)
        return all(given[name][0] <= low and given[name][1] >= high for name, (low, high) in self.ranges.items())

    def _log_probability(self, factors: Sequence[_FlowBasedPDF], ranges: Ranges) -> tf.Tensor:
        """Of a product of learned densities in a box; the points that it takes are chosen once."""
        key = tuple(ranges.items())
        if key not in self._regions:
            with tf.init_scope():
                used = frozenset(o for pdf in factors for o in pdf.cond)
                self._regions[key] = Region([pdf.factor(used) for pdf in factors], ranges)
        return self._regions[key].log_probability([pdf.nuisances() for pdf in factors])

    @functools.cached_property
    def _regions(self) -> dict[Any, Region]:
        return {}

    def _refuse_conditional(self) -> None:
        if self.cond:
            raise ValueError(
                f"{self.name!r} is conditional on {list(self.cond)} and cannot be integrated, sampled or normalised "
                f"over a part of its range {self.ranges} by itself; multiply it by their density with "
                "ConditionalProductPDF"
            )

    @zfit.supports(norm=True)
    def _log_pdf(self, x: zfit.Data, norm: zfit.Space | bool) -> tf.Tensor:
        events = x.value()
        value = self._log_shape(self._prepare(events)) - self.log_integral(norm)
        outside = _outside(columns(events, self.obs, self.outputs), self.outputs, space_ranges(self.space))
        return tf.where(outside, tf.fill(tf.shape(value), tf.constant(-np.inf, value.dtype)), value)

    @zfit.supports(norm=True)
    def _integrate(self, limits: zfit.Space, norm: zfit.Space | bool, options: Any = None) -> tf.Tensor:
        del options
        self._refuse_conditional()
        return tf.exp(tf.zeros((1,), tf.float64) + self.log_integral(limits) - self.log_integral(norm))

    @zfit.supports()
    def _sample(self, n: tf.Tensor, limits: zfit.Space) -> tf.Tensor:
        self._refuse_conditional()
        if self._covers(limits):
            return self._draw(tf.zeros((n, 0), tf.float64))
        return self._draw_inside(n, space_ranges(limits))

    def _draw_inside(self, n: tf.Tensor, ranges: Ranges) -> tf.Tensor:
        """Accept-reject, up to ``_ROUNDS`` times."""
        rows, seed = tf.maximum(n, _ROUND_SIZE), _seed()

        def more(number: tf.Tensor, events: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with _seeded(tf.random.experimental.stateless_fold_in(seed, number)):
                new = self._draw(tf.zeros((rows, 0), tf.float64))
            return number + 1, tf.concat([events, tf.boolean_mask(new, ~_outside(new, self.obs, ranges))], axis=0)

        _, events = tf.while_loop(
            lambda number, events: tf.shape(events)[0] < n,
            more,
            (tf.constant(0), tf.zeros((0, len(self.obs)), tf.float64)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, len(self.obs)])),
            maximum_iterations=_ROUNDS,
            parallel_iterations=1,
        )
        with tf.control_dependencies(
            _require(n <= tf.shape(events)[0], f"hardly any event of {self.name} in {ranges}")
        ):
            return events[:n]

    def sample(self, n: Any = None, limits: Any = None, **options: Any) -> Any:
        """Draw events, as every PDF of zfit does.

        Args:
            n: Number of events; of an extended PDF by default a Poisson number.
            limits: Space to draw in; by default that of the PDF.
            **options: Further arguments of zfit's ``sample``.

        Raises:
            ValueError: If the number is negative, the density is negative where its events are, or the limits hold hardly
                any event.
        """
        if not (n is None or tf.is_tensor(n) or isinstance(n, (int, float, np.number))) or isinstance(n, bool):
            raise TypeError(f"the number of events of {self.name!r} is an integer; got {n!r}")
        if n is None and not self.is_extended:
            raise ValueError(f"{self.name!r} is not extended: give the number of events n=")
        self._refuse_conditional()
        if isinstance(n, (int, float, np.number)) and not (n >= 0 and float(n).is_integer()):
            raise ValueError(f"the number of events of {self.name!r} is an integer that is not negative; got {n}")
        if (
            n is None
            and self.is_extended
            and tf.executing_eagerly()
            and not float(expected := self.get_yield().value()) >= 0
        ):
            raise ValueError(f"{self.name!r} expects {expected:g} events: they cannot be drawn")
        with plainly():
            return super().sample(n, limits, **options)

    def copy(self, **overrides: Any) -> Any:
        """A new PDF from the same constructor arguments, some of them replaced.

        Args:
            **overrides: Arguments of the constructor.
        """
        arguments = dict(self._arguments)
        if self.is_extended and arguments["extended"] is not True:
            arguments["extended"] = self.get_yield()
        return type(self)(**{**arguments, **overrides})


class _FlowBasedPDF(LearnedPDF):
    """A flow, or a flow behind a deformation, with the observables bound by name."""

    def __init__(self, flow: Flow, obs: Any, params: Mapping[str, Any], **settings: Any):
        if isinstance(flow, (zfit.pdf.BasePDF, Deformation)) or not hasattr(flow, "log_density_given"):
            raise TypeError(f"{settings['name']!r} takes a Flow (a Deformation belongs into an FNFPDF); got {flow!r}")
        self._flow = flow
        self.cond = tuple(flow.cond)
        self.ranges = {name: finite(*flow.ranges[name]) for name in flow.obs}
        default = {**self.ranges, **dict.fromkeys(self.cond, (-UNBOUNDED, UNBOUNDED))}
        super().__init__(obs=space_within(obs, default, settings["name"]), params=dict(params), **settings)
        if not self._covers(self.norm):
            self._refuse_conditional()

    def encode(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Observables ``(n, d)`` and conditions ``(n, m)``, standardised, and the log-Jacobian ``(n,)``; dtype of ``x``."""
        # Large offsets cancel in float64.
        exact = tf.cast(x, tf.float64)
        encoded = self._flow.encode(columns(exact, self.obs, self._flow.obs), columns(exact, self.obs, self.cond))
        return tuple(tf.cast(part, x.dtype) for part in encoded)

    def _context(self, context: tf.Tensor) -> tf.Tensor:
        """Standardised conditions; the encoder wants observables too, so it gets the centre of the density."""
        centre = self._flow.decode(tf.zeros((tf.shape(context)[0], len(self._flow.obs)), tf.float64))
        return self._flow.encode(centre, context)[1]

    def _decode(self, u: tf.Tensor) -> tf.Tensor:
        return columns(self._flow.decode(u), self._flow.obs, self.outputs)

    def factor(self, used: frozenset[str]) -> Factor:
        """The density as a factor of a `Region`, if factors are conditional on the observables ``used``."""
        return Factor(self._flow, used=used)

    def nuisances(self) -> tf.Tensor | None:
        """Values of the nuisances for a `Region`, if there are any."""
        return None

    def restricted(self, ranges: Ranges) -> Ranges:
        """Of ranges, those that cut something away, infinite on the sides where they do not."""
        cut = {}
        for name, (low, high) in self.ranges.items():
            wanted = ranges.get(name, (low, high))
            cut[name] = (wanted[0] if wanted[0] > low else -np.inf, wanted[1] if wanted[1] < high else np.inf)
        return {name: limits for name, limits in cut.items() if np.any(np.isfinite(limits))}

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        return self._log_probability([self], self.restricted(ranges))


class FlowPDF(_FlowBasedPDF):
    r"""A nominal density :math:`p(y | x)` without parameters.

    Args:
        flow: The density.
        obs: Names, or a `zfit.Space`, of the observables and conditions, in any order; by default those of the flow,
            over its ranges (unbounded ones: ± ``UNBOUNDED``). In a narrower space the density is divided by its
            integral there.
        extended: Yield: a number or parameter.
        norm: Range over which it is normalised; by default ``obs``.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        ValueError: If the observables are not those of the flow, or their range is wider; if a conditional density
            should be normalised over a part of its range.

    Example:
        >>> flow = Flow(["mass"], ranges={"mass": (60.0, 120.0)})
        >>> pdf = FlowPDF(flow)
        >>> float(pdf.integrate((60.0, 120.0))[0])
        1.0
    """

    def __init__(
        self,
        flow: Flow,
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "FlowPDF",
        label: str | None = None,
    ):
        self._arguments = {"flow": flow, "obs": obs, "extended": extended, "norm": norm, "name": name, "label": label}
        super().__init__(flow, obs, {}, extended=extended, norm=norm, name=name, label=label)

    def _prepare(self, x: tf.Tensor) -> Any:
        return self._prepare_given(x, self._given(x))

    def _given(self, x: tf.Tensor) -> Any:
        return self._flow.given(self.encode(x)[1])

    def _prepare_given(self, x: tf.Tensor, given: Any) -> Any:
        u, _, log_jacobian = self.encode(x)
        return self._flow.log_density_given(u, given) + log_jacobian

    def _log_shape(self, prepared: Any) -> tf.Tensor:
        return prepared

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        return self._decode(self._flow.draw(self._context(context), _seed()))


class FNFPDF(_FlowBasedPDF):
    r"""A density that nuisances deform.

    A factorizable normalizing flow (arXiv:2606.30489),
    :math:`p(y|x,\nu) = p_\mathrm{nom}(T_\nu(y;x)|x) \, |\det \partial T_\nu/\partial y|`. The coefficients of the
    deformation are computed once per data set.

    In a range that is narrower than that of the deformation the density is divided by its integral there, which is a
    smooth function of the nuisances and accurate to 1e-4 (relative), see :mod:`zfit_fnf.pdf.regions`: exact in one
    dimension, and in the first of several, for densities and maps with one layer.

    Args:
        deformation: The deformation, which carries its flow.
        params: A parameter for each of its nuisances, by name.
        obs: As for `FlowPDF`.
        extended: Yield: a number or parameter, e.g. from :func:`zfit_fnf.modified_yield`.
        norm: Range over which it is normalised; by default ``obs``.
        name: Name of the PDF.
        label: Text for plots and tables.
        precision: Of the networks, ``"float64"`` or ``"float32"``, see docs/performance.md.

    Raises:
        ValueError: If ``params`` lacks a nuisance or names another one, for another precision; as for `FlowPDF`.

    Example:
        >>> from zfit_fnf.densities.deformation import Response
        >>> from zfit_fnf.param import nuisance
        >>> response = Response(["jes"], ((1,), (2,)), n_dim=1, n_context=0)
        >>> deformation = Deformation(Flow(["mass"]), [response], windows={"jes": (-1.0, 1.0)})
        >>> pdf = FNFPDF(deformation, params={"jes": nuisance("jes")}, extended=1000.0)
        >>> len(pdf.sample(5).value())
        5
    """

    def __init__(
        self,
        deformation: Deformation,
        params: Mapping[str, Any],
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "FNFPDF",
        label: str | None = None,
        precision: str = "float64",
    ):
        if precision not in _PRECISIONS:
            raise ValueError(f"precision= is one of {_PRECISIONS}; got {precision!r}")
        self._arguments = {
            "deformation": deformation,
            "params": params,
            "obs": obs,
            "extended": extended,
            "norm": norm,
            "name": name,
            "label": label,
            "precision": precision,
        }
        if not (hasattr(deformation, "nuisances") and hasattr(deformation, "flow")):
            raise TypeError(
                f"{name!r} takes a Deformation, e.g. from zfit_fnf.train.fit_deformation; got {deformation!r}"
            )
        if not isinstance(params, Mapping):
            raise TypeError(
                f"params= of {name!r} maps the nuisances {list(deformation.nuisances)} to parameters; got {params!r}"
            )
        for nuisance, value in params.items():
            if not isinstance(value, BaseParameter):
                number(value, f"params[{nuisance!r}] of {name!r}, if it is no parameter,")
        self._single = precision == "float32"
        self._deformation = deformation
        known = deformation.nuisances
        if missing := [name for name in known if name not in params]:
            raise ValueError(
                f"params= lacks a parameter for {missing}; the nuisances of the deformation are {list(known)}"
            )
        if unknown := sorted(set(params) - set(known)):
            raise ValueError(f"params= names {unknown}, but the nuisances of the deformation are {list(known)}")
        bound = {nuisance: params[nuisance] for nuisance in known}
        super().__init__(deformation.flow, obs, bound, extended=extended, norm=norm, name=name, label=label)

    @property
    def deformation(self) -> Deformation:
        """The deformation."""
        return self._deformation

    def factor(self, used: frozenset[str]) -> Factor:
        """The density as a factor of a `Region`, if factors are conditional on the observables ``used``."""
        return Factor(self._flow, self._deformation, used)

    def nuisances(self) -> tf.Tensor | None:
        """Values of the nuisances for a `Region`, if there are any."""
        return self.nu()

    def nu(self) -> tf.Tensor:
        """Values ``(K,)`` of the nuisances, in the order of the deformation."""
        return values_of([self.params[name] for name in self._deformation.nuisances])

    def _coordinates(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `encode`, the coordinates in the precision of the networks."""
        u, c, log_jacobian = self.encode(x)
        return (tf.cast(u, tf.float32), tf.cast(c, tf.float32), log_jacobian) if self._single else (u, c, log_jacobian)

    def _prepare(self, x: tf.Tensor) -> Any:
        return self._prepare_given(x, self._given(x))

    def _given(self, x: tf.Tensor) -> Any:
        _, c, _ = self._coordinates(x)
        return self._deformation.given(c), self._flow.given(c)

    def _prepare_given(self, x: tf.Tensor, given: Any) -> Any:
        u, c, log_jacobian = self._coordinates(x)
        of_deformation, of_flow = given
        return u, c, log_jacobian, self._deformation.coefficients_given(u, of_deformation), of_flow

    def _log_shape(self, prepared: Any) -> tf.Tensor:
        u, c, log_jacobian, coefficients, given = prepared
        basis = tf.cast(self._deformation.basis(self.nu()), u.dtype)
        nominal, log_det = self._deformation.apply(u, c, coefficients, basis)
        log_density = self._flow.log_density_given(nominal, given) + log_det
        return tf.cast(log_density, log_jacobian.dtype) + log_jacobian

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        return self._decode(self._deformation.draw(self._context(context), self.nu(), _seed()))


class SumPDF(LearnedPDF, zfit.pdf.BaseFunctor):
    r"""Mixture :math:`\sum_c f_c p_c` of any PDFs, learned or of zfit, evaluated in log space.

    The shares are either the yields of the components, :math:`f_c = n_c / \sum n`, or ``fracs``. Each yield is
    evaluated once per evaluation; a yield may be zero.

    Args:
        pdfs: At least two PDFs of the same observables over the same range: all extended, or none of them.
        fracs: Shares, if the PDFs are not extended: one for each, or all but the last. Their sum is divided out.
        obs: Names, or a `zfit.Space`, that give the order of the observables; by default those of the first PDF.
        extended: If the PDFs are extended: ``False`` to use their yields as shares only, by default the sum is extended
            by the sum of yields. With ``fracs``: the total yield, if any.
        norm: Range over which it is normalised, which has to be that of the PDFs.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        ValueError: If PDFs do not fit together, or yields and ``fracs`` are mixed.

    Example:
        >>> space = zfit.Space("mass", 60.0, 120.0)
        >>> sig = FlowPDF(Flow(["mass"], ranges={"mass": (60.0, 120.0)}), extended=100.0)
        >>> bkg = zfit.pdf.Exponential(-0.02, obs=space, extended=900.0)
        >>> float(SumPDF([sig, bkg]).get_yield().value())
        1000.0
    """

    def __init__(
        self,
        pdfs: Sequence[zfit.pdf.BasePDF],
        fracs: Any = None,
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "SumPDF",
        label: str | None = None,
    ):
        pdfs = as_list(pdfs)
        check_components(pdfs, name)
        shares = shares_of(pdfs, fracs, name)
        self._arguments = {
            "pdfs": pdfs,
            "fracs": fracs,
            "obs": obs,
            "extended": extended,
            "norm": norm,
            "name": name,
            "label": label,
        }
        self._complete = len(shares) == len(pdfs)
        if fracs is None:
            extended = self._total_yield(shares, extended, name)
        self.cond = conditions(pdfs[0])
        self.ranges = {o: limits for o, limits in space_ranges(pdfs[0].norm).items() if o not in self.cond}
        space = same_space(obs, pdfs[0].norm, name)
        kind = "yield" if fracs is None else "frac"
        params = {f"{kind}_{index}": share for index, share in enumerate(shares)}
        super().__init__(pdfs=pdfs, obs=space, params=params, extended=extended, norm=norm, name=name, label=label)
        if not self._covers(self.norm):
            raise ValueError(
                f"norm= of {name!r} is narrower than its components' {self.ranges}: give it to each of them"
            )

    def _total_yield(self, yields: Sequence[Any], extended: Any, name: str) -> Any:
        if extended is False:
            return None
        if extended is not None and extended is not True:
            raise ValueError(f"{name!r} gets its yield from its components; extended={extended!r} needs fracs= instead")
        self._arguments["extended"] = True
        return zfit.ComposedParameter(
            f"{name}_yield_{next(_sums)}",
            lambda params: tf.add_n([value.value() for value in params.values()]),
            params={f"yield_{index}": value for index, value in enumerate(yields)},
            unpack_params=False,
        )

    def weights(self) -> tf.Tensor:
        """Yields or fractions of the components at the current parameters, ``(C,)``."""
        values = [share.value() for share in self.params.values()]
        return tf.stack(values if self._complete else [*values, 1.0 - tf.add_n(values)])

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return all(is_compilable(pdf) for pdf in self.pdfs)

    def _prepare(self, x: tf.Tensor) -> Any:
        return [prepare(pdf, columns(x, self.obs, pdf.obs)) for pdf in self.pdfs]

    def _log_shape(self, prepared: Any) -> tf.Tensor:
        return self.mix([log_density(pdf, part) for pdf, part in zip(self.pdfs, prepared, strict=True)])

    def mix(self, log_densities: Sequence[tf.Tensor]) -> tf.Tensor:
        """Log-density ``(n,)`` of the sum, from those of its components."""
        weights = self.weights()
        return logdensities.log_sum(log_densities, weights) - tf.math.log(tf.reduce_sum(weights))

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        """From the components with positive shares; where others are negative, as many are taken back as they say."""
        weights = self.weights()
        finite = tf.reduce_all(tf.math.is_finite(weights)) & (tf.reduce_sum(weights) > 0)
        checked = _require(finite, f"the yields or fractions of {self.name!r} are not finite or have no positive sum")
        with tf.control_dependencies(checked):
            return tf.cond(
                tf.reduce_any(weights < 0),
                lambda: self._draw_difference(context),
                lambda: self._draw_positive(context),
            )

    def _draw_difference(self, context: tf.Tensor) -> tf.Tensor:
        """Accept-reject with the ratio of the density to that of the positive components; the conditions stay."""
        n, weights, seed = tf.shape(context)[0], self.weights(), _seed()

        def more(number: tf.Tensor, events: tf.Tensor, missing: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = tf.where(missing)[:, 0]
            given = tf.gather(context, rows)
            with _seeded(tf.random.experimental.stateless_fold_in(seed, number)):
                new, chance = self._draw_positive(given), _seed()
            whole = dict(
                zip((*self.outputs, *self.cond), tf.unstack(tf.concat([new, given], axis=1), axis=1), strict=True)
            )
            x = tf.stack([whole[name] for name in self.obs], axis=1)
            log_p = [log_density(pdf, prepare(pdf, columns(x, self.obs, pdf.obs))) for pdf in self.pdfs]
            log_positive = logdensities.log_sum(log_p, tf.maximum(weights, 0.0))
            taken = tf.reduce_sum(tf.minimum(weights, 0.0)[:, None] * tf.exp(tf.stack(log_p) - log_positive), axis=0)
            density = _require(
                tf.reduce_all(taken >= -1.0),
                f"the density of {self.name!r} is negative where its events are: with yields or fractions this negative it "
                "cannot be sampled",
            )
            with tf.control_dependencies(density):
                kept = tf.random.stateless_uniform(tf.shape(taken), chance, dtype=tf.float64) < 1.0 + taken
            chosen = tf.boolean_mask(rows, kept)[:, None]
            events = tf.tensor_scatter_nd_update(events, chosen, tf.boolean_mask(new, kept))
            return (
                number + 1,
                events,
                tf.tensor_scatter_nd_update(missing, chosen, tf.zeros(tf.shape(chosen)[:1], tf.bool)),
            )

        start = tf.constant(0), tf.zeros((n, len(self.outputs)), tf.float64), tf.fill((n,), True)
        _, events, missing = tf.while_loop(
            lambda number, events, missing: tf.reduce_any(missing),
            more,
            start,
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, len(self.outputs)]), tf.TensorShape([None])),
            maximum_iterations=_ROUNDS,
            parallel_iterations=1,
        )
        complete = _require(
            ~tf.reduce_any(missing), f"hardly any event of {self.name!r} is left by its negative components"
        )
        with tf.control_dependencies(complete):
            return tf.identity(events)

    def _draw_positive(self, context: tf.Tensor) -> tf.Tensor:
        """Labels first, then every component for the rows with its label; negative shares are left out."""
        n = tf.shape(context)[0]
        log_weights = tf.math.log(tf.maximum(self.weights(), 0.0))[None, :]
        labels = tf.random.stateless_categorical(log_weights, n, _seed())[0]
        rows = tf.dynamic_partition(tf.range(n), tf.cast(labels, tf.int32), len(self.pdfs))
        parts = [
            columns(_draw(pdf, tf.gather(context, chosen)), outputs(pdf), self.outputs)
            for pdf, chosen in zip(self.pdfs, rows, strict=True)
        ]
        return tf.gather(tf.concat(parts, axis=0), tf.math.invert_permutation(tf.concat(rows, axis=0)))

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        parts = tf.stack([_integral(pdf, ranges) for pdf in self.pdfs])
        weights = self.weights()
        return tf.math.log(tf.tensordot(weights, parts, 1) / tf.reduce_sum(weights))


class ConditionalProductPDF(LearnedPDF, zfit.pdf.BaseFunctor):
    r"""Chain rule: :math:`p(y, x) = p(y | x)\, p(x)`, with any number of factors.

    Every observable is described by exactly one factor; the factors may be given in any order. Sampling draws the
    conditions first.

    Args:
        pdfs: Conditional and unconditional PDFs, learned or of zfit, none of them extended.
        obs: Names, or a `zfit.Space`, that give the order of the observables; by default that of the factors.
        extended: Yield: a number or parameter.
        norm: Range over which it is normalised, which has to be that of the factors.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        ValueError: If an observable is described twice, a condition by no factor, or factors condition each other in a
            circle; if a factor is extended; if the range is not that of the factors.

    Example:
        >>> p_y_given_x, p_x = FlowPDF(Flow(["y"], ["x"])), FlowPDF(Flow(["x"]))
        >>> ConditionalProductPDF([p_y_given_x, p_x], extended=1000.0).obs
        ('y', 'x')
    """

    def __init__(
        self,
        pdfs: Sequence[zfit.pdf.BasePDF],
        obs: Any = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "ConditionalProductPDF",
        label: str | None = None,
    ):
        pdfs = as_list(pdfs)
        self._arguments = {"pdfs": pdfs, "obs": obs, "extended": extended, "norm": norm, "name": name, "label": label}
        if extended_factors := [pdf.name for pdf in pdfs if pdf.is_extended]:
            raise ValueError(f"factors {extended_factors} of {name!r} are extended; give the yield to the product")
        self._in_order = causal_order(pdfs, name)
        self.cond = ()
        self.ranges = {o: space_ranges(pdf.norm)[o] for pdf in pdfs for o in outputs(pdf)}
        space = same_space(obs, make_space(self.ranges), name)
        super().__init__(pdfs=pdfs, obs=space, extended=extended, norm=norm, name=name, label=label)
        if not self._covers(self.norm):
            raise ValueError(f"norm= of {name!r} is narrower than its factors' {self.ranges}: give it to the factors")

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return all(is_compilable(pdf) for pdf in self.pdfs)

    def _prepare(self, x: tf.Tensor) -> Any:
        return [prepare(pdf, columns(x, self.obs, pdf.obs)) for pdf in self.pdfs]

    def _log_shape(self, prepared: Any) -> tf.Tensor:
        return tf.add_n([log_density(pdf, part) for pdf, part in zip(self.pdfs, prepared, strict=True)])

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        drawn: dict[str, tf.Tensor] = {}
        for pdf in self._in_order:
            given = tf.stack([drawn[o] for o in conditions(pdf)], axis=1) if conditions(pdf) else context
            drawn.update(zip(outputs(pdf), tf.unstack(_draw(pdf, given), axis=1), strict=True))
        return tf.stack([drawn[name] for name in self.obs], axis=1)

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        """Factors that nothing depends on have a probability of their own; the others have one together."""
        cut = {o for o, (low, high) in self.ranges.items() if ranges[o][0] > low or ranges[o][1] < high}
        chain: list[_FlowBasedPDF] = []
        log_fraction = tf.zeros((), tf.float64)
        for pdf in self._in_order[::-1]:
            used = cut.union(*(factor.cond for factor in chain))
            if not used & set(outputs(pdf)):
                continue
            if not conditions(pdf) and not any(set(factor.cond) & set(pdf.obs) for factor in chain):
                log_fraction += tf.math.log(_integral(pdf, ranges))
            elif isinstance(pdf, _FlowBasedPDF):
                chain.insert(0, pdf)
            else:
                raise ValueError(
                    f"{self.name!r} cannot be integrated over {ranges}, a part of its range: {pdf.name!r} depends on "
                    "other factors, or they on it, and is neither a FlowPDF nor an FNFPDF"
                )
        if chain:
            parts = [
                pdf.restricted({o: _overlap(ranges[o], space_ranges(pdf.norm)[o]) for o in pdf.ranges}) for pdf in chain
            ]
            log_fraction += self._log_probability(chain, {o: limits for part in parts for o, limits in part.items()})
            log_fraction -= tf.add_n([tf.zeros((), tf.float64) + pdf.log_integral(pdf.norm) for pdf in chain])
        return log_fraction


# --- any PDF, learned or of zfit ------------------------------------------------------------------------------------


def prepare(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What the density of ``pdf`` needs to know about events ``(n, n_obs)``: a nest of tensors, free of parameters."""
    return pdf._prepare(x) if isinstance(pdf, LearnedPDF) else x


def given_conditions(pdf: zfit.pdf.BasePDF, x: tf.Tensor) -> Any:
    """What ``pdf`` needs to know about the conditions of events ``(n, n_obs)``, for `prepare_given`."""
    return pdf._given(x) if isinstance(pdf, LearnedPDF) else ()


def prepare_given(pdf: zfit.pdf.BasePDF, x: tf.Tensor, given: Any) -> Any:
    """The same as `prepare`, for events with the conditions that ``given`` was made of."""
    return pdf._prepare_given(x, given) if isinstance(pdf, LearnedPDF) else x


def log_density(pdf: zfit.pdf.BasePDF, prepared: Any) -> tf.Tensor:
    """Log-density ``(n,)`` float64 of prepared events at the current parameters, normalised over ``pdf.norm``."""
    if isinstance(pdf, LearnedPDF):
        return tf.cast(pdf._log_density(prepared), tf.float64)
    return logdensities.log_density(pdf, tf.cast(prepared, tf.float64))


def is_compilable(pdf: zfit.pdf.BasePDF) -> bool:
    """Whether XLA may compile the density of ``pdf``: yes for ours, not in general for those of zfit."""
    return isinstance(pdf, LearnedPDF) and pdf.compilable


def components(pdf: zfit.pdf.BasePDF) -> Iterable[zfit.pdf.BasePDF]:
    """The PDF and, recursively, all those that it is made of."""
    yield pdf
    for daughter in getattr(pdf, "pdfs", ()):
        yield from components(daughter)


def _draw(pdf: zfit.pdf.BasePDF, context: tf.Tensor) -> tf.Tensor:
    if conditions(pdf):
        return pdf._draw(context)
    # Those of zfit draw in loops of their own, in which one seed would be used again and again.
    with nullcontext() if isinstance(pdf, LearnedPDF) else _seeded(None):
        return pdf.sample(n=tf.shape(context)[0], limits=pdf.norm).value()


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return max(first[0], second[0]), min(first[1], second[1])


@contextmanager
def plainly() -> Iterator[None]:
    """In here, what a graph refuses is a `ValueError` with the message alone."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if _SAID not in (said := str(error)):
            raise
        raise ValueError(said.split(_SAID)[1].replace("\\'", "'")) from None  # TensorFlow escapes quotes


def _require(condition: tf.Tensor, message: str) -> list[tf.Operation]:
    """What to depend on, in a graph that runs inside of `plainly`."""
    check = tf.debugging.Assert(condition, [f"{_SAID}{message}{_SAID}"])
    return [] if check is None else [check]


def _integral(pdf: zfit.pdf.BasePDF, ranges: Ranges) -> tf.Tensor:
    return tf.reshape(pdf.integrate(make_space({name: ranges[name] for name in pdf.obs})), ())


_seeds: ContextVar[Iterator[tf.Tensor] | None] = ContextVar("seeds", default=None)


@contextmanager
def _seeded(seed: tf.Tensor | None) -> Iterator[None]:
    """In here, and in this thread alone, seeds follow from a seed pair; by default they come from zfit's generator."""
    fold_in = tf.random.experimental.stateless_fold_in
    token = _seeds.set(None if seed is None else (fold_in(seed, number) for number in itertools.count()))
    try:
        yield
    finally:
        _seeds.reset(token)


def _seed() -> tf.Tensor:
    """A fresh seed pair; from zfit's generator `zfit.settings.set_seed` makes samples reproducible."""
    seeds = _seeds.get()
    return zfit.z.random.get_prng().make_seeds(1)[:, 0] if seeds is None else next(seeds)


def drawn(pdf: LearnedPDF, limits: zfit.Space, n: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Events ``(n, n_obs)`` of a learned density that a seed pair determines; parts of zfit have zfit's generator.

    To be called while a graph is traced: zfit compiles what it draws with the seeds of the first time.
    """
    with _seeded(seed):
        return pdf.sample(n=n, limits=limits).with_obs(pdf.obs).value()


def _outside(events: tf.Tensor, names: Sequence[str], ranges: Ranges) -> tf.Tensor:
    low, high = (np.array([ranges[name][side] for name in names]) for side in (0, 1))
    return tf.reduce_any((events < low) | (events > high), axis=1)

"""Every private name of zfit and TensorFlow that the package overrides or calls; no other module does.

zfit compiles value, gradient and Hessian anew for every loss, walks through all models in every evaluation, and gives no
access to the constraints that its own losses miss; TensorFlow spends more time on a call than a small kernel takes. None of
that has a public way around. `EXPECTED` lists the names with their signatures, and `differences` compares them with what is
installed: a test does, so that a new version of either says what it has changed.

Subclasses of zfit's PDFs and constraints override the hooks that zfit documents for that (``_log_pdf``, ``_value`` and the
like) where they are defined; these names are listed too.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import operator
import re
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import zfit  # before tensorflow, which it silences
import tensorflow as tf
import zfit.minimizers.fitresult
from zfit.core.constraint import BaseConstraint
from zfit.core.loss import BaseLoss, BaseUnbinnedNLL
from zfit.minimizers.baseminimizer import minimize_supports
from zfit.minimizers.errors import WeightCorr, dict_to_matrix, matrix_to_dict
from zfit.minimizers.strategy import FailMinimizeNaN
from zfit.result import FitResult

from ..param import Nuisance

__all__ = [
    "EXPECTED",
    "EagerLoss",
    "FailMinimizeNaN",
    "OpenMinuit",
    "OpenResult",
    "WeightCorr",
    "add_by",
    "before_first_evaluation",
    "composed_function",
    "constraint_arguments",
    "differences",
    "fast_call",
    "loss_options",
    "matrix_to_dict",
    "pdf_arguments",
    "raw_limits",
    "simple_constraint_arguments",
    "table_order",
]

EXPECTED: dict[str, dict[str, str | None]] = {
    "zfit.core.loss:BaseLoss": {
        "__add__": "self, other",
        "_call_value": "self, model, data, fit_range, constraints, log_offset",
        "_call_gradient": "self, params, numgrad",
        "_call_value_gradient": "self, params, numgrad, full",
        "_call_hessian": "self, params, numgrad, hessian",
        "_call_value_gradient_hessian": "self, params, numgrad, full, hessian",
        "_check_set_input_params": "self, params, guarantee_checked=None",
        "_constraints": None,
        "_get_params": "self, floating, is_yield, extract_independent, *, autograd=None",
        "_input_check_params": "self, params, only_independent=False",
        "_options": None,
        "check_precompile": "self, *, params=None, force=False",
    },
    "zfit.core.loss:SimpleLoss": {"__add__": "self, other"},
    "zfit.core.parameter:Parameter": {"_lower": None, "_upper": None, "_unique_id": None},
    "zfit.core.constraint:BaseConstraint": {"_value": "self"},
    "zfit.core.constraint:SimpleConstraint": {
        "_func_params": None,
        "_simple_func": None,
        "_simple_func_dependents": None,
    },
    "zfit.core.parameter:ComposedParameter": {"_func": None},
    "zfit.core.basepdf:BasePDF": {
        "_log_pdf": "self, x, norm",
        "_pdf": "self, x, norm, *, norm_range=None, params=None",
        "_integrate": "self, limits, norm, *, options=None, params=None",
        "_sample": "self, n, limits, *, params=None",
        "_unnormalized_pdf": "self, x, *, params=None",
    },
    "zfit.models.dist_tfp:WrapDistribution": {"_unnormalized_pdf": "self, x"},
    "zfit.minimizers.fitresult:FitResult": {
        "_covariance": "self, method, *, weightcorr=None",
        "_error": "self, params, method, cl",
        "_hesse_methods": None,
        "_error_methods": None,
    },
    "zfit.minimizers.fitresult:covariance_with_weights": {"": "hinv, result, params, *, weightcorr=None"},
    "zfit.minimizers.minimizer_minuit:Minuit": {
        "_make_minuit": "self, loss, params, init",
        "_minimize": "self, loss, params, init",
    },
    "tensorflow.python.eager.polymorphic_function.concrete_function:ConcreteFunction": {
        "_call_flat": "self, tensor_inputs, captured_inputs",
    },
}
"""Parameters of functions by object and name, without annotations; `None` for what is not a function."""


def differences() -> list[str]:
    """What installed zfit and TensorFlow have otherwise than `EXPECTED` says, one line for each name; nothing is right."""
    found = []
    for place, names in EXPECTED.items():
        module, _, owner = place.partition(":")
        thing = inspect.unwrap(getattr(importlib.import_module(module), owner))
        # zfit gives some classes another module than that of their source.
        homes = {thing: module} if inspect.isclass(thing) else {}
        owners = [(one.__name__, homes.get(one, one.__module__)) for one in getattr(thing, "__mro__", (thing,))]
        for name, expected in names.items():
            actual = next(filter(None, (_parameters(*one, name) for one in owners)), None)
            mentioned = any(
                name in _source(module) for _, module in owners
            )  # attributes are set where objects are made
            if actual != expected if expected else not mentioned:
                found.append(f"{place} {name}: expected {expected or 'an attribute'}, there is {actual}")
    return found


def _source(module: str) -> str:
    """Source of a module; empty of one that is not written in Python."""
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return ""


@functools.cache
def _parameters(owner: str, module: str, name: str) -> str | None:
    """Parameters of a method, or without ``name`` of a function, as the source has them: decorators hide them."""
    body = ast.parse(_source(module)).body
    if name:
        body = [node for one in body if isinstance(one, ast.ClassDef) and one.name == owner for node in one.body]
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == (name or owner):
            arguments = node.args
            for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                argument.annotation = None
            return ast.unparse(arguments)
    return None


# --- TensorFlow -------------------------------------------------------------------------------------------------------


def fast_call(concrete: Any) -> Callable[[Sequence[tf.Tensor], tuple[Any, ...]], Any]:
    """Function ``(tensors, args)`` that calls a concrete function with nests ``args``, or what is in them: ``tensors``."""
    # What tf.function does before it arrives here takes as long as ten thousand events.
    flat = getattr(concrete, "_call_flat", None)
    if flat is None or tuple(inspect.signature(flat).parameters) != _FLAT:
        return lambda tensors, args: concrete(*args)
    return lambda tensors, args: flat(tensors, concrete.captured_inputs)


_FLAT = ("tensor_inputs", "captured_inputs")


def table_order(parameter: zfit.Parameter) -> tuple[bool, int]:
    """Where a parameter stands in tables: nuisances last, each kind in the order of definition."""
    return isinstance(parameter, Nuisance), int(parameter._unique_id.rpartition("_")[2])  # TensorFlow counts


# --- zfit -------------------------------------------------------------------------------------------------------------


def composed_function(parameter: zfit.ComposedParameter) -> Callable[..., Any]:
    """The function of its parameters that a composed parameter is."""
    return parameter._func


def simple_constraint_arguments(constraint: zfit.constraint.SimpleConstraint) -> dict[str, Any]:
    """The arguments that a constraint by a function was made of."""
    params = constraint._func_params or list(constraint._simple_func_dependents)
    return {"func": constraint._simple_func, "params": params}


def pdf_arguments(pdf: zfit.pdf.BasePDF) -> dict[str, Any]:
    """The arguments that a PDF of zfit was made of, or one that is derived from its classes.

    Raises:
        TypeError: If it does not keep one of them.
    """
    given = {} if getattr(pdf, "hs3", None) is None else pdf.hs3.original_init
    parts = getattr(pdf, "pdfs", None)
    extended = pdf.get_yield() if pdf.is_extended else None
    is_sum = parts and all(part.is_extended for part in parts) and "extended" in given
    if is_sum and (given["extended"] is None or given["extended"] is True):
        extended = given["extended"]  # by the sum of its parts
    known = {"obs": pdf.space, "norm": pdf.norm, "name": pdf.name, "label": pdf.label, "extended": extended}
    coefficients = [one for name, one in pdf.params.items() if re.fullmatch(r"c_\d+", name)]
    signature = inspect.signature(type(pdf).__init__).parameters  # the class itself has that of its metaclass
    arguments: dict[str, Any] = {}
    for name, parameter in list(signature.items())[1:]:
        places = (known, given, pdf.params, {name: getattr(pdf, name, None)} if hasattr(pdf, name) else {})
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= {key: value for key, value in pdf.params.items() if key not in arguments}
        elif name in ("coeffs", "coeff0") and coefficients:
            arguments[name] = coefficients[0] if name == "coeff0" else coefficients["coeff0" in signature :]
        elif place := next((place for place in places if name in place), None):
            arguments[name] = place[name]
        elif name not in _ALIASES and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            raise TypeError(
                f"a {type(pdf).__name__} does not keep its argument {name!r}: let it be an attribute of that name"
            )
    return arguments


_ALIASES = {"lambda_", "lamb"}  # deprecated, of the arguments of an exponential and of Poisson


def constraint_arguments(constraint: BaseConstraint) -> dict[str, Any]:
    """The arguments that any other constraint of zfit was made of."""
    given = constraint.hs3.original_init
    return {name: value for name, value in given.items() if value is not None and name != "type"}


def loss_options(loss: BaseLoss) -> dict[str, Any]:
    """Options of a likelihood, zfit's and ours."""
    return dict(loss._options)


raw_limits: Callable[[zfit.Parameter], tuple[Any, Any]] = operator.attrgetter("_lower", "_upper")
"""Limits of a parameter as it holds them, in a tenth of the time that its properties take."""


class EagerLoss(BaseUnbinnedNLL):
    """Likelihood of zfit that is evaluated eagerly and by methods with public names; base of `LogSpaceNLL`.

    zfit would compile value, gradient and Hessian anew for every loss. The methods that it compiles, ``_call_*``, are
    replaced here by the three below, which a subclass implements. They consist of tensor operations, because zfit's
    `FitResult.errors` with its own method traces them.
    """

    def __init__(self, model: Any, data: Any, constraints: Any, options: Mapping[str, Any]):
        self._known_params: dict[tuple[Any, ...], Any] = {}
        self._merged: list[BaseConstraint] | None = None
        super().__init__(model=model, data=data, constraints=constraints, options={**options, "subtr_const": False})

    def compute_value(self) -> tf.Tensor:
        """The negative log-likelihood, a scalar; may be coarse while a minimiser searches."""
        raise NotImplementedError

    def compute_value_gradient(self, params: Sequence[zfit.Parameter], *, coarse: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The negative log-likelihood and its gradient ``(P,)``."""
        raise NotImplementedError

    def compute_hessian(self, params: Sequence[zfit.Parameter]) -> tf.Tensor:
        """The Hessian ``(P, P)``."""
        raise NotImplementedError

    @property
    def extended(self) -> Sequence[bool]:
        """For each model, whether the number of events is a part of the likelihood."""
        raise NotImplementedError

    @property
    def weights_differ(self) -> bool:
        """Whether the data have weights other than one."""
        raise NotImplementedError

    def merge_constraints(self, constraints: list[BaseConstraint]) -> list[BaseConstraint]:
        """Each auxiliary measurement once, of the constraints that a user has given."""
        raise NotImplementedError

    def weighted_covariance(
        self, inverse_hessian: Any, params: Sequence[zfit.Parameter], correction: WeightCorr
    ) -> Any:
        """Covariance ``(P, P)`` of the parameters in a fit of weighted data."""
        raise NotImplementedError

    def forget(self) -> None:
        """Called where the data or the constraints are new."""

    @property
    def options(self) -> dict[str, Any]:
        """Options, zfit's and ours."""
        return self._options

    @property
    def constraints(self) -> list[BaseConstraint]:
        """Each auxiliary measurement once, those of the nuisances included; more of them may be added to the list."""
        if self._constraints != self._merged:
            self._constraints[:] = self.merge_constraints(self._constraints)
            self._merged = list(self._constraints)
            self._known_params.clear()
            self.forget()
        return self._constraints

    def at(self, params: Any) -> Any:
        """Context in which parameters have values given by name, or in their order; `None` for the current ones."""
        return self._check_set_input_params(params)

    def __radd__(self, other: Any) -> Any:
        """The sum with a constraint; with 0, with which ``sum`` starts, this likelihood."""
        if isinstance(other, BaseConstraint):
            return self + other
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def _get_params(
        self, floating: bool | None, is_yield: bool | None, extract_independent: bool | None, *, autograd: Any = None
    ) -> Any:
        """As zfit's, which walks through all models in every evaluation, which takes longer than the rest of it."""
        if floating is not None and extract_independent is not True:
            return self._all_params(floating, is_yield, extract_independent, autograd)
        _ = self.constraints  # may be new
        key = (is_yield, extract_independent, autograd)
        if key not in self._known_params:
            params = self._all_params(None, is_yield, extract_independent, autograd)
            self._known_params[key] = type(params)(sorted(params, key=table_order)) if extract_independent else params
        known = self._known_params[key]
        return known - [p for p in known if floating is not None and p.floating != floating]

    def _all_params(self, floating: Any, is_yield: Any, extract_independent: Any, autograd: Any) -> Any:
        options = {"floating": floating, "extract_independent": extract_independent, "autograd": autograd}
        of_constraints = (c.get_params(is_yield=False, **options) for c in self.constraints)
        return self.model_params(is_yield=is_yield, **options).union(*of_constraints)

    def model_params(self, *, is_yield: bool | None = None, **options: Any) -> Any:
        """Parameters of the models, without the yields of those whose number of events is not fitted."""
        flags = (is_yield if extended else False for extended in self.extended)
        first, *others = (m.get_params(is_yield=flag, **options) for m, flag in zip(self.model, flags, strict=True))
        return first.union(*others)

    def _call_value(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        del args, kwargs  # its own model, data and constraints
        return self.compute_value()

    def _call_value_gradient(self, params: Any, numgrad: Any = None, full: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        del numgrad  # derivatives are always exact
        return self.compute_value_gradient(self._input_check_params(params, only_independent=True), coarse=not full)

    def _call_gradient(self, params: Any, numgrad: Any = None) -> tf.Tensor:
        return self._call_value_gradient(params, numgrad)[1]

    def _call_hessian(self, params: Any, numgrad: Any = None, hessian: str | None = None) -> tf.Tensor:
        del numgrad
        matrix = self.compute_hessian(self._input_check_params(params, only_independent=True))
        return tf.linalg.diag_part(matrix) if hessian == "diag" else matrix

    def _call_value_gradient_hessian(
        self, params: Any, numgrad: Any = None, full: Any = None, hessian: str | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return *self._call_value_gradient(params, numgrad, full), self._call_hessian(params, numgrad, hessian)


class OpenMinuit(zfit.minimize.Minuit):
    """Minimiser of zfit whose steps have public names; base of `zfit_fnf.Minuit`."""

    def fit(self, loss: Any, params: Sequence[zfit.Parameter]) -> FitResult:
        """Fit from the current values of the parameters."""
        raise NotImplementedError

    def plain_minuit(self, loss: Any, params: Sequence[zfit.Parameter]) -> tuple[Any, dict[str, Any], Any]:
        """Minuit as zfit makes it at the current values, its options for MIGRAD, and what evaluates the likelihood."""
        return self._make_minuit(loss, params, init=None)

    @minimize_supports(init=True)
    def _minimize(self, loss: Any, params: Any, init: Any) -> FitResult:
        if init:
            zfit.param.assign_values(params, init)
        return self.fit(loss, params)


class OpenResult(FitResult):
    """Result of zfit whose ways to errors have public names; base of `zfit_fnf.minimize.MinuitResult`."""

    def inverse_hessian(self, params: Sequence[zfit.Parameter], *, automatic: bool) -> dict[Any, float]:
        """Inverse Hessian by pair of parameters, by differences of the gradient or by automatic differentiation."""
        raise NotImplementedError

    def checked_covariance(self, covariance: dict[Any, float]) -> dict[Any, float]:
        """The covariance by pair of parameters as users see it."""
        raise NotImplementedError

    def minos(self, params: Sequence[zfit.Parameter], cl: float | None) -> tuple[dict[Any, Any], None]:
        """Errors of MINOS by parameter."""
        raise NotImplementedError

    def check_method(self, method: Any) -> None:
        """Refuse a method for errors that cannot work."""

    def _covariance(self, method: Any, *, weightcorr: Any = None) -> dict[Any, float]:
        known = self._hesse_methods.get(method) if isinstance(method, str) else method
        # zfit corrects for weights of unbinned data only.
        wanted = known and weightcorr and weightcorr != WeightCorr.FALSE
        if wanted and isinstance(self.loss, EagerLoss) and self.loss.weights_differ:
            arguments = {"hinv": known, "result": self, "params": list(self.params), "weightcorr": weightcorr}
            return self.checked_covariance(zfit.minimizers.fitresult.covariance_with_weights(**arguments))
        return self.checked_covariance(super()._covariance(method, weightcorr=weightcorr))

    def _error(self, params: Any, method: Any, cl: float) -> Any:
        self.check_method(method)
        return super()._error(params, method, cl)

    _hesse_methods: ClassVar = {
        **FitResult._hesse_methods,
        "minuit_hesse": lambda result, params: result.inverse_hessian(params, automatic=False),
        "hesse_np": lambda result, params: result.inverse_hessian(params, automatic=True),
    }
    _error_methods: ClassVar = {
        **FitResult._error_methods,
        "minuit_minos": lambda result, params, cl: result.minos(params, cl),
    }


# --- zfit has no hooks for what follows, so functions of it are replaced by ones that look at the loss ----------------


def before_first_evaluation(tell: Callable[[Any], None]) -> None:
    """Have a function look at each likelihood that is not ours, before it is evaluated for the first time."""
    zfits_own = BaseLoss.check_precompile
    seen: weakref.WeakSet[BaseLoss] = weakref.WeakSet()

    @functools.wraps(zfits_own)
    def check_precompile(loss: Any, **options: Any) -> Any:
        if not isinstance(loss, EagerLoss) and loss not in seen:
            seen.add(loss)
            tell(loss)
        return zfits_own(loss, **options)

    BaseLoss.check_precompile = check_precompile


def add_by(add: Callable[[Any, Any], Any]) -> None:
    """Have a function add likelihoods of different kinds, which zfit refuses, and all that are ours."""
    for owner in (BaseLoss, zfit.loss.SimpleLoss):
        owner.__add__ = _added_by(add, owner.__add__)


def _added_by(add: Callable[[Any, Any], Any], zfits_own: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(zfits_own)
    def __add__(loss: Any, other: Any) -> Any:
        if isinstance(other, BaseLoss) and (isinstance(loss, EagerLoss) or type(loss) is not type(other)):
            return add(loss, other)
        if isinstance(other, BaseConstraint) and isinstance(loss, EagerLoss):
            return loss.create_new(constraints=[*loss.constraints, other])
        return NotImplemented if isinstance(loss, EagerLoss) else zfits_own(loss, other)

    return __add__


def _ask_our_losses(zfits_own: Callable[..., Any]) -> Callable[..., Any]:
    """The errors of fits to weighted data: our losses know them better."""

    @functools.wraps(zfits_own)
    def covariance_with_weights(
        hinv: Callable[..., Any], result: Any, params: list[zfit.Parameter], *, weightcorr: WeightCorr | None = None
    ) -> dict[Any, float]:
        if not isinstance(result.loss, EagerLoss):
            return zfits_own(hinv, result, params, weightcorr=weightcorr)
        inverse_hessian = hinv(result=result, params=params)
        if not inverse_hessian:
            return {}
        correction = WeightCorr.ASYMPTOTIC if weightcorr is None else WeightCorr(weightcorr)
        matrix = dict_to_matrix(params, inverse_hessian)
        return matrix_to_dict(params, result.loss.weighted_covariance(matrix, params, correction))

    return covariance_with_weights


zfit.minimizers.fitresult.covariance_with_weights = _ask_our_losses(zfit.minimizers.fitresult.covariance_with_weights)

"""Densities of data: those of simulation behind a transfer, as zfit PDFs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import zfit  # before tensorflow, which it silences
import numpy as np
import tensorflow as tf

from ..densities.transfer import ProfiledTransfer, Transfer
from ..param import values_of
from ..pdf import (
    UNBOUNDED,
    ConditionalProductPDF,
    LogSpacePDF,
    Ranges,
    conditions,
    is_compilable,
    log_density,
    outputs,
    precompute,
    precompute_conditions,
    precompute_with,
    space_ranges,
)

__all__ = ["DoIPDF", "MappedEvents"]


class DoIPDF(LogSpacePDF, zfit.pdf.BaseFunctor):
    r"""Density of data of one process, :math:`p(y, x) = p_\mathrm{sim}(T(y; x), x) \, |\det \partial T / \partial y|`.

    Behind a `Transfer` everything that depends on the map is computed once per data set; a fit is as cheap as one of
    ``pdf`` itself. Behind a `ProfiledTransfer` the map follows the parameters, and the density is evaluated anew.

    Args:
        pdf: Density of simulation, learned or of zfit.
        transfer: The map from data to simulation.
        process: Name of the process, where each has its own map.
        params: For a `ProfiledTransfer`, the parameters that it follows, by name.
        extended: Yield; by default that of ``pdf``, if it has one.
        norm: Range over which it is normalised, which has to be that of ``pdf``.
        name: Name of the PDF.
        label: Text for plots and tables.

    Raises:
        TypeError: If ``pdf`` is no PDF, ``transfer`` no transfer, or ``params`` no mapping.
        ValueError: If ``pdf`` does not describe the observables of the transfer or lacks its conditions, their ranges
            differ, the process has no map, or ``params`` are not those that the transfer follows.

    Example:
        >>> simulated = FlowPDF(Flow(["mass"], ranges={"mass": (60.0, 120.0)}))
        >>> pdf = DoIPDF(simulated, Transfer(["mass"], ranges={"mass": (60.0, 120.0)}))
        >>> bool(np.allclose(pdf.pdf([91.0]), simulated.pdf([91.0])))  # a new transfer is the identity
        True
    """

    def __init__(
        self,
        pdf: zfit.pdf.BasePDF,
        transfer: Transfer | ProfiledTransfer,
        process: str | None = None,
        params: Mapping[str, Any] | None = None,
        extended: Any = None,
        norm: Any = None,
        name: str = "DoIPDF",
        label: str | None = None,
    ):
        self._arguments = {
            "pdf": pdf,
            "transfer": transfer,
            "process": process,
            "params": params,
            "extended": extended,
            "norm": norm,
            "name": name,
            "label": label,
        }
        _check_types(pdf, transfer, params, name)
        self._profiled = transfer if isinstance(transfer, ProfiledTransfer) else None
        self._transfer = transfer.transfer if isinstance(transfer, ProfiledTransfer) else transfer
        self._simulation, self._process = pdf, process
        _check(pdf, self._transfer, process, name)
        follows = self._profiled.parameters if self._profiled else ()
        if set(params or {}) != set(follows):
            raise ValueError(
                f"params= of {name!r} names {sorted(params or {})}, but the transfer follows {list(follows)}"
            )
        factors = pdf.pdfs if isinstance(pdf, ConditionalProductPDF) else [pdf]
        moved = set(self._transfer.obs)
        self._still = [factor for factor in factors if not moved & set(factor.obs)]
        self._moving = [factor for factor in factors if moved & set(factor.obs)]
        self._in_place = [not moved & set(conditions(factor)) for factor in self._moving]  # their conditions
        if extended is None and pdf.is_extended:
            extended = pdf.get_yield()
        self.cond = conditions(pdf)
        self.ranges = {o: limits for o, limits in space_ranges(pdf.norm).items() if o not in self.cond}
        bound = {parameter: params[parameter] for parameter in follows} if params else {}
        super().__init__(pdfs=[pdf], obs=pdf.norm, params=bound, extended=extended, norm=norm, name=name, label=label)
        if not self._covers(self.norm):
            raise ValueError(f"norm= of {name!r} is narrower than the range of {pdf.name!r}: {self.ranges}")

    @property
    def compilable(self) -> bool:
        """Whether XLA may compile the density."""
        return is_compilable(self._simulation)

    # --- events: first what does not depend on the map, then the rest -----------------------------------------------

    def precompute_unmapped(self, x: tf.Tensor) -> MappedEvents:
        """Quantities of events ``(n, n_obs)`` that depend neither on parameters nor on the map."""
        u, c, log_jacobian = self._transfer.encode(
            self._columns(x, self._transfer.obs), self._columns(x, self._transfer.cond)
        )
        still = [precompute(factor, self._columns(x, factor.obs)) for factor in self._still]
        fixed = [
            precompute_conditions(factor, self._columns(x, factor.obs)) if in_place else ()
            for factor, in_place in zip(self._moving, self._in_place, strict=True)
        ]
        return MappedEvents(x, u, self._transfer.context(c, self._process), log_jacobian, fixed, still)

    def mapped(self, events: MappedEvents) -> MappedEvents:
        """The events where ``T_phi`` takes them; ``u`` and the Jacobian are then those behind it."""
        u, log_det = self._transfer.inverse(events.u, self._transfer.precompute(events.context))
        return events._replace(u=u, log_jacobian=events.log_jacobian + log_det)

    def log_density_at(
        self, events: MappedEvents, u: tf.Tensor | None = None, log_det: tf.Tensor | float = 0.0
    ) -> tf.Tensor:
        """Log-density ``(n,)`` float64 of events behind ``T_phi``; networks run in the dtype of ``u``.

        Args:
            events: The mapped events.
            u: Their standardised observables where ``T_psi`` takes them, if it does.
            log_det: Log-determinant of ``T_psi``.
        """
        return self._log_product(*self._simulated(events, events.u if u is None else u, log_det))

    def simulated(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """The observables of events ``(n, n_obs)`` where simulation has them, by name."""
        events = self.mapped(self.precompute_unmapped(x))
        u = events.u
        if self._profiled:
            coefficients = self._profiled.coefficients(u, events.context, self._process)
            u, _ = self._profiled.displacement.inverse(u, coefficients, self._basis())
        y = self._transfer.decode(u)
        return dict(zip(self._transfer.obs, tf.unstack(y, axis=1), strict=True))

    def _simulated(self, events: MappedEvents, u: tf.Tensor, log_det: tf.Tensor | float) -> tuple[Any, Any, tf.Tensor]:
        """The factors' precomputed events in simulation, and the log-determinant of the whole map."""
        y = self._transfer.decode(tf.cast(u, tf.float64))
        back = self._transfer.encode(y, tf.cast(self._columns(events.x, self._transfer.cond), tf.float64))[2]
        columns = dict(zip(self.obs, tf.unstack(events.x, axis=1), strict=True))
        columns.update(zip(self._transfer.obs, tf.unstack(tf.cast(y, u.dtype), axis=1), strict=True))
        moving = []
        for factor, in_place, fixed in zip(self._moving, self._in_place, events.fixed, strict=True):
            x = tf.stack([columns[o] for o in factor.obs], axis=1)
            moving.append(precompute_with(factor, x, fixed) if in_place else precompute(factor, x))
        return moving, events.still, log_det + events.log_jacobian - tf.cast(back, u.dtype)

    def _log_product(self, moving: Any, still: Any, log_det: tf.Tensor) -> tf.Tensor:
        factors = zip([*self._moving, *self._still], [*moving, *still], strict=True)
        return tf.add_n([log_density(factor, part) for factor, part in factors]) + tf.cast(log_det, tf.float64)

    def _precompute(self, x: tf.Tensor) -> Any:
        events = self.mapped(self.precompute_unmapped(x))
        if self._profiled:
            return events, self._profiled.coefficients(events.u, events.context, self._process)
        return self._simulated(events, events.u, 0.0)

    def _log_shape(self, precomputed: Any) -> tf.Tensor:
        if not self._profiled:
            return self._log_product(*precomputed)
        events, coefficients = precomputed
        return self.log_density_at(events, *self._profiled.displacement.inverse(events.u, coefficients, self._basis()))

    def _basis(self) -> tf.Tensor:
        assert self._profiled
        return self._profiled.basis(values_of([self.params[name] for name in self._profiled.parameters]))

    def _draw(self, context: tf.Tensor) -> tf.Tensor:
        """Simulated events, taken to data."""
        given = dict(zip(self.cond, tf.unstack(context, num=len(self.cond), axis=1), strict=True))
        simulated = (
            self._simulation._draw(context) if self.cond else self._simulation.sample(n=tf.shape(context)[0]).value()
        )
        columns = given | dict(zip(outputs(self._simulation), tf.unstack(simulated, axis=1), strict=True))
        return _stacked(self._observed(columns, simulated), self.outputs, simulated)

    def observed(self, x: tf.Tensor) -> tf.Tensor:
        """Simulated events ``(n, n_obs)`` where data have them."""
        return _stacked(self._observed(dict(zip(self.obs, tf.unstack(x, axis=1), strict=True)), x), self.obs, x)

    def _observed(self, columns: Mapping[str, tf.Tensor], like: tf.Tensor) -> dict[str, tf.Tensor]:
        y, x = (_stacked(columns, names, like) for names in (self._transfer.obs, self._transfer.cond))
        u, c, _ = self._transfer.encode(y, x)
        if self._profiled:
            u = self._profiled.displacement.forward(u, c, self._basis(), self._transfer.index(self._process))
        u = self._transfer.forward(u, self._transfer.precompute(self._transfer.context(c, self._process)))
        moved = zip(self._transfer.obs, tf.unstack(self._transfer.decode(u), axis=1), strict=True)
        return {**columns, **dict(moved)}

    def _log_fraction(self, ranges: Ranges) -> tf.Tensor:
        raise ValueError(
            f"{self.name!r} cannot be integrated over a part of its range: {ranges} is narrower than {self.ranges}"
        )

    def _columns(self, x: tf.Tensor, names: Sequence[str]) -> tf.Tensor:
        return tf.gather(x, [self.obs.index(name) for name in names], axis=1) if names else x[:, :0]


class MappedEvents(NamedTuple):
    """Events of a `DoIPDF`, before its map or behind it.

    Attributes:
        x: All columns ``(n, n_obs)`` as observed.
        u: Standardised observables ``(n, d)``, those that the map takes or those that it gives.
        context: Standardised conditions of the networks ``(n, m)``.
        log_jacobian: Log-determinant of all that has led to ``u``, ``(n,)``.
        fixed: For each factor that the map moves, the precomputed quantities of conditions that stay in place.
        still: Precomputed events of the factors that the map does not touch.
    """

    x: tf.Tensor
    u: tf.Tensor
    context: tf.Tensor
    log_jacobian: tf.Tensor
    fixed: Any
    still: Any


def _stacked(columns: Mapping[str, tf.Tensor], names: Sequence[str], like: tf.Tensor) -> tf.Tensor:
    return tf.stack([columns[name] for name in names], axis=1) if names else like[:, :0]


def _check_types(pdf: Any, transfer: Any, params: Any, name: str) -> None:
    if not isinstance(pdf, zfit.pdf.BasePDF):
        raise TypeError(f"{name!r} takes a PDF of simulation first; got {pdf!r}")
    if not isinstance(transfer, (Transfer, ProfiledTransfer)):
        raise TypeError(f"{name!r} takes a Transfer or a ProfiledTransfer after the PDF; got {transfer!r}")
    if params is not None and not isinstance(params, Mapping):
        raise TypeError(f"params= of {name!r} maps names of parameters to parameters; got {params!r}")


def _check(pdf: zfit.pdf.BasePDF, transfer: Transfer, process: str | None, name: str) -> None:
    if missing := [o for o in transfer.obs if o not in outputs(pdf)]:
        raise ValueError(f"{pdf.name!r} describes {list(outputs(pdf))}; the transfer of {name!r} moves {missing}")
    if missing := [o for o in transfer.cond if o not in pdf.obs]:
        raise ValueError(f"{pdf.name!r} knows {list(pdf.obs)}; the transfer of {name!r} depends on {missing}")
    theirs = space_ranges(pdf.norm)
    for o, limits in transfer.ranges.items():
        if not np.allclose(np.clip(limits, -UNBOUNDED, UNBOUNDED), theirs[o]):
            raise ValueError(
                f"the transfer keeps {o!r} inside {limits}, but {pdf.name!r} is normalised over {theirs[o]}: "
                "the ranges have to be the same"
            )
    if transfer.processes and process not in transfer.processes:
        raise ValueError(f"process= of {name!r} must be one of {list(transfer.processes)}, got {process!r}")

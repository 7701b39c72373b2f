"""Fits of maps in files: everything but the model and the data, which the reader of a file supplies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

import zfit  # before tensorflow, which it silences
import numpy as np
import pandas as pd
from pydantic import Field

from ..densities.entries import Record
from ..densities.transfer import ProfiledTransfer
from ..samples import Sample, as_sample
from ..storage.registry import register
from ..storage.schema import Array, Count, Entry, Names, Parts, Reference, Schema, Text, plain
from ..train.schedule import Schedule
from .bounds import MATRICES, Bounds
from .check import Check
from .ensemble import Ensemble, rebased_loss
from .profiled import ProfiledFit, Replica
from .rows import behind
from .step1 import GlobalProblem, TransferFit

__all__ = ["EnsembleEntry", "ProfiledFitEntry", "ReplicaEntry", "TransferFitEntry"]

_PROBES = 16  # events by which a model and data are recognised


class ReplicaEntry(Schema):
    """See :class:`~zfit_fnf.doi.Replica`; the weights of all are an array of the profile."""

    seed: tuple[int, int]
    values: dict[Text, float]


@register
class TransferFitEntry(Entry):
    """See :class:`~zfit_fnf.doi.TransferFit`; the array ``covariance`` is there if it is a matrix of numbers.

    Neither the model nor the data are in the file, which therefore holds the densities of a few events.
    """

    model: ClassVar[str | type] = "doi.step1.TransferFit"
    kind: Literal["transfer_fit"] = "transfer_fit"
    transfer: Reference
    values: dict[Text, float]
    has_covariance: bool
    nll: float
    rounds: list[float]
    history: Record
    problems: list[str]
    schedule: Schedule
    penalty: float
    start: dict[Text, float]
    columns: Names
    n_events: Annotated[int, Field(ge=1)]
    sum_weights: float
    events: Text = ""  # checksum of all of them, which older files lack

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The fit, and the densities of the first events at its minimum."""
        fit: TransferFit = model
        fields = {
            "kind": "transfer_fit",
            "has_covariance": bool(np.isfinite(fit.covariance).all()),
            "schedule": fit.problem.schedule,
            "penalty": float(fit.problem.penalty),
            "start": {parameter.name: value for parameter, value in fit.problem.start.items()},
            "columns": list(fit.model.obs),
            "n_events": fit.data.n_events,
            "sum_weights": float(fit.data.sum_weights),
            "events": _checksum(fit.data, fit.model.obs),
        }
        for name in ("transfer", "values", "nll", "rounds", "history", "problems"):
            fields[name] = getattr(fit, name)
        probes = fit.data.array(fit.model.obs, slice(0, _PROBES))
        arrays = {"probes": probes, "probed": _probe(fit, probes)}
        return plain(fields, index_of), arrays | ({"covariance": fit.covariance} if fields["has_covariance"] else {})

    def layout(self) -> Iterator[Array]:
        """The covariance; the first events, and their log-densities."""
        if self.has_covariance:
            yield Array("covariance", (len(self.values),) * 2, "F64", "")
        n = min(self.n_events, _PROBES)
        yield Array("probes", (n, len(self.columns)), "F64", "")
        yield Array("probed", (n,), "F64", "")

    def references(self) -> list[int]:
        """The map."""
        return [self.transfer]

    def make(self, parts: Parts) -> Any:
        """The fit, with the model and data that the user supplies, if these are unchanged."""
        if missing := sorted({"model", "data"} - set(parts.supplied)):
            raise ValueError(
                f"is a fit of a model to data, which are not stored: give the {' and the '.join(missing)} as "
                'supplied={"model": model, "data": data}'
            )
        pdf, transfer = parts.supplied["model"], parts.model(self.transfer, "densities.transfer.Transfer")
        if list(pdf.obs) != self.columns:
            raise ValueError(f"belongs to a model of {self.columns}; the one supplied describes {list(pdf.obs)}")
        data = as_sample(parts.supplied["data"], pdf.obs)
        problem = GlobalProblem(pdf, transfer, self.schedule, penalty=self.penalty)
        named = {parameter.name: parameter for parameter in problem.params}
        if set(named) != set(self.values) or set(named) != set(self.start):
            raise ValueError(f"has the parameters {list(self.values)}; those of the model supplied are {list(named)}")
        problem.start = {named[name]: value for name, value in self.start.items()}
        n = len(self.values)
        fit = TransferFit(
            model=pdf,
            pdf=behind(pdf, transfer),
            data=data,
            transfer=transfer,
            values=dict(self.values),
            covariance=parts.arrays["covariance"] if self.has_covariance else np.full((n, n), np.nan),
            nll=self.nll,
            rounds=tuple(self.rounds),
            history=self.history,
            problem=problem,
            problems=tuple(self.problems),
        )
        self._check_supplied(fit, parts)
        zfit.param.set_values([named[name] for name in self.values], list(self.values.values()))
        return fit

    def _check_supplied(self, fit: TransferFit, parts: Parts) -> None:
        probes = fit.data.array(fit.model.obs, slice(0, _PROBES))
        same = probes.shape == parts.arrays["probes"].shape and np.array_equal(probes, parts.arrays["probes"])
        total = float(fit.data.sum_weights)
        if not same or fit.data.n_events != self.n_events or not np.isclose(total, self.sum_weights, rtol=1e-12):
            raise ValueError(
                f"belongs to other data: to {self.n_events} events with the summed weights {self.sum_weights:g}; those "
                f"supplied are {fit.data.n_events} with {total:g}"
            )
        if self.events not in ("", _checksum(fit.data, fit.model.obs)):
            raise ValueError(
                f"belongs to other data: not all of the {self.n_events} events supplied are those of the fit"
            )
        now, then = _probe(fit, probes), parts.arrays["probed"]
        if not np.allclose(now, then, rtol=1e-9, atol=1e-9):
            raise ValueError(f"belongs to another model: log-densities {now} were {then}")

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The best fit and the problems."""
        best = ", ".join(f"{name} = {value:.5g}" for name, value in self.values.items())
        lines = [
            f"global fit of {self.n_events} events: {best}",
            f"  {self.history}",
        ]
        return lines + [f"  problem: {problem}" for problem in self.problems]


@register
class ProfiledFitEntry(Entry):
    """See :class:`~zfit_fnf.doi.ProfiledFit`."""

    model: ClassVar[str | type] = "doi.profiled.ProfiledFit"
    kind: Literal["profiled_fit"] = "profiled_fit"
    fit: Reference
    transfer: Reference
    window: dict[Text, float]
    goodness: dict[Text, float]
    checks: list[Check]
    problems: list[str]
    replicas: list[ReplicaEntry] = Field(default_factory=list)
    n_fields: Count = 0

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The profile, the matrices of its bounds, and the weights of its replicas."""
        fields = {"kind": "profiled_fit", "fit": index_of(model.fit)}
        fields |= {name: getattr(model, name) for name in ("transfer", "window", "goodness", "checks", "problems")}
        fields["n_fields"] = model.transfer.displacement.n_fields
        fields["replicas"] = [{"seed": one.seed, "values": one.values} for one in model.replicas]
        arrays = {name: getattr(model.bounds, name) for name in MATRICES}
        return plain(fields, index_of), arrays | (
            {"replicas": np.stack([one.fields for one in model.replicas])} if model.replicas else {}
        )

    def layout(self) -> Iterator[Array]:
        """Information about the parameters, of each kind."""
        for name in MATRICES:
            yield Array(name, (len(self.window),) * 2, "F64", "")
        if self.replicas:
            yield Array("replicas", (len(self.replicas), self.n_fields), "F64", "")

    def references(self) -> list[int]:
        """The global fit, and the map."""
        return [self.fit, self.transfer]

    def make(self, parts: Parts) -> Any:
        """The profile, with the model of data."""
        fit, transfer = (
            parts.model(self.fit, "doi.step1.TransferFit"),
            parts.model(self.transfer, "densities.transfer.ProfiledTransfer"),
        )
        if transfer.transfer is not fit.transfer or set(transfer.parameters) != set(fit.values):
            raise ValueError("has a map that does not belong to its fit")
        return ProfiledFit(
            fit=fit,
            transfer=transfer,
            pdf=behind(fit.model, transfer, params=fit.parameters),
            window=dict(self.window),
            bounds=Bounds(tuple(self.window), **{name: parts.arrays[name] for name in MATRICES}),
            goodness=dict(self.goodness),
            checks=tuple(self.checks),
            problems=tuple(self.problems),
            replicas=self._replicas(fit, transfer, parts),
        )

    def _replicas(self, fit: TransferFit, transfer: ProfiledTransfer, parts: Parts) -> tuple[Replica, ...]:
        if not self.replicas:
            return ()
        if self.n_fields != transfer.displacement.n_fields or not transfer.displacement.constant:
            raise ValueError(f"has replicas of {self.n_fields} fields; its map has {transfer.displacement.n_fields}")
        if any(set(one.values) != set(fit.values) for one in self.replicas):
            raise ValueError(f"has replicas with other parameters than {list(fit.values)}")
        rows = zip(self.replicas, parts.arrays["replicas"], strict=True)
        return tuple(Replica(entry.seed, fields, dict(entry.values)) for entry, fields in rows)

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The window, the number of replicas, and the problems."""
        window = ", ".join(f"{name} +-{half:.3g}" for name, half in self.window.items())
        lines = [f"amortised profile, window {window}", f"  {len(self.replicas)} replicas"]
        return [*lines, *(f"  problem: {problem}" for problem in self.problems)]


@register
class EnsembleEntry(Entry):
    """See :class:`~zfit_fnf.doi.ensemble.Ensemble`; the array ``minima`` has a row for each replica."""

    model: ClassVar[str | type] = "doi.ensemble.Ensemble"
    kind: Literal["ensemble"] = "ensemble"
    profiled: Reference
    n_members: Count  # replicas: files keep this name
    values: dict[Text, float]
    errors: dict[Text, float]
    k_eff: float

    @classmethod
    def describe(cls, model: Any, index_of: Callable[[Any], int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The minima of the replicas and of their average."""
        fields = {"kind": "ensemble", "profiled": index_of(model.nll.profiled), "n_members": len(model.minima)}
        for name in ("values", "errors", "k_eff"):
            fields[name] = getattr(model, name)
        minima = model.minima[list(model.values)].to_numpy(float)
        return plain(fields, index_of), {"minima": minima, "lowest": np.asarray(model.lowest, float)}

    def layout(self) -> Iterator[Array]:
        """Parameters and negative log-likelihood of each replica at its minimum."""
        yield Array("minima", (self.n_members, len(self.values)), "F64", "")
        yield Array("lowest", (self.n_members,), "F64", "")

    def references(self) -> list[int]:
        """The profile."""
        return [self.profiled]

    def make(self, parts: Parts) -> Any:
        """The ensemble, with its likelihood."""
        profiled = parts.model(self.profiled, "doi.profiled.ProfiledFit")
        if len(profiled.replicas) != self.n_members or not set(self.values) <= set(profiled.fit.values):
            raise ValueError("has replicas or parameters that its fit does not have")
        nll = rebased_loss(profiled)
        for index, lowest in enumerate(parts.arrays["lowest"].tolist()):
            nll.rebase(index, lowest)
        return Ensemble(
            minima=pd.DataFrame(parts.arrays["minima"], columns=list(self.values)),
            lowest=nll.lowest,
            values=dict(self.values),
            errors=dict(self.errors),
            k_eff=self.k_eff,
            nll=nll,
        )

    def summary(self, entries: Sequence[Entry]) -> list[str]:
        """The minimum of the average."""
        best = ", ".join(f"{name} = {value:.5g} +- {self.errors[name]:.2g}" for name, value in self.values.items())
        return [f"rebased average of {self.n_members} replicas: {best}"]


def _checksum(data: Sample, columns: Sequence[str]) -> str:
    """SHA-256 of the events, row by row, and of their weights."""
    weights = np.ones(data.n_events) if data.weights is None else data.weights
    numbers = (np.ascontiguousarray(one, "<f8").tobytes() for one in (data.array(columns), weights))
    return hashlib.sha256(b"".join(numbers)).hexdigest()


def _probe(fit: TransferFit, events: np.ndarray) -> np.ndarray:
    """Log-densities of events at the best fit."""
    named = fit.parameters
    with zfit.param.set_values([named[name] for name in fit.values], list(fit.values.values())):
        return np.asarray(fit.pdf.log_pdf(zfit.Data(events, obs=fit.pdf.obs, name="probes")))

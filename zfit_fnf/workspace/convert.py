"""Datacards of combine and workspaces of pyhf as workspaces of this package; what cannot be converted is listed line by line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.optional import require
from .binned import KINDS, said_of
from .datacard import Card, Process, ShapeRule, Systematic, bounds_of, is_effect, matches
from .modifiers import at_both_sides, factors, formula, multiplied

__all__ = ["Conversion", "convert"]

SYMMETRIC = 0.01  # logarithm of the product of two factors on a yield: below, their interpolations agree to a permille

FILL_IN = "FILL-IN"
"""In place of the names of files that only the user knows."""


@dataclass
class Conversion:
    """A document that was converted.

    Attributes:
        document: The workspace.
        left: What was not converted, and what was not exactly, in words that name the line.
    """

    document: dict[str, Any]
    left: list[str] = field(default_factory=list)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it, as JSON if the name ends so, else as YAML with what was left in comments at the top."""
        if Path(path).suffix == ".json":
            Path(path).write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
            return
        yaml = require("yaml", extra="io")
        notes = "".join(f"# {one}\n" for one in self.left)
        head = f"# not converted, or not exactly:\n{notes}\n" if self.left else ""
        text = yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True, width=120)
        Path(path).write_text(head + text, encoding="utf-8")


def convert(
    path: str | os.PathLike[str], *, trained: str | os.PathLike[str] | None = None, measurement: str | None = None
) -> Conversion:
    r"""Convert a datacard (any text file) or a workspace of pyhf (``.json``) to a workspace, or a workspace to one of pyhf.

    Histograms of a datacard become channels of HistFactory, which are evaluated by pyhf. Shapes in RooFit workspaces are
    replaced by entries that say where the events are, to be filled in. The other way, see
    :func:`~zfit_fnf.workspace.to_pyhf.to_pyhf`.

    Args:
        path: The file.
        trained: Folder of the results of `Workspace.train`, for a workspace.
        measurement: Name of the measurement, for a workspace; by default the first one.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If it is neither.

    Example:
        >>> conversion = convert("card.txt")
        >>> conversion.write("analysis.yaml")
        >>> print("\n".join(conversion.left))
    """
    source = Path(path)
    if source.suffix in (".yaml", ".yml", ".zip"):
        require("pyhf", extra="pyhf")
        from .to_pyhf import to_pyhf  # it imports TensorFlow
        from .workspace import Workspace

        return to_pyhf(Workspace.read(source), trained, measurement=measurement)
    return _of_pyhf(source) if source.suffix == ".json" else _OfCard(Card.read(source)).conversion(source.stem)


# --- pyhf --------------------------------------------------------------------------------------------------------------


def _of_pyhf(path: Path) -> Conversion:
    if not path.is_file():
        raise FileNotFoundError(f"there is no workspace {str(path)!r}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        measurements = document["measurements"]
        names = {modifier["name"]: modifier["type"] for _, modifier in _modifiers(document)}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name!r} is no workspace of pyhf: {error!r}") from None
    left: list[str] = []
    converted: list[dict[str, Any]] = []
    for measurement in measurements:
        parameters = []
        for one in measurement["config"]["parameters"]:
            kind, scalar = names.get(one["name"]), all(len(one.get(key, [0])) == 1 for key in ("inits", "bounds"))
            if kind in KINDS and scalar:
                parameters.append({"name": one["name"], **said_of(one, KINDS[kind])})
            elif kind is not None:
                left.append(f"measurement {measurement['name']}: the settings of {one['name']!r} stay in {path.name}")
        # Measurements have the settings of the first one here, and those of pyhf do not.
        own = {one["name"] for one in parameters}
        first = [one["name"] for one in converted[0]["config"]["parameters"]] if converted else []
        parameters += [_default(one, names[one]) for one in first if one not in own and names[one] != "lumi"]
        config = {"poi": measurement["config"]["poi"], "parameters": parameters}
        converted.append({"name": measurement["name"], "config": config})
    channel = {"name": "histfactory", "histfactory": {"workspace": path.name}}
    return Conversion({"version": 1, "name": path.stem, "channels": [channel], "measurements": converted}, left)


def _default(name: str, kind: str) -> dict[str, Any]:
    """Settings of a parameter of which a measurement of pyhf says nothing."""
    if kind == "normfactor":
        return {"name": name, "inits": [1.0], "bounds": [[0.0, 10.0]]}
    return {"name": name, "inits": [0.0], "bounds": [[-5.0, 5.0]]}


def _modifiers(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for channel in document["channels"]:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                yield channel["name"], modifier


# --- combine -----------------------------------------------------------------------------------------------------------


class _OfCard:
    """The conversion of a datacard."""

    def __init__(self, card: Card):
        self.card = card
        self.left = {line: f"line {line}: {text}: {reason}" for line, text, reason in card.left}
        self.settings: dict[str, dict[str, Any]] = {"r": {"name": "r", "inits": [1.0], "bounds": [[-20.0, 20.0]]}}
        self.used: set[str] = set()

    def conversion(self, name: str) -> Conversion:
        """All of it."""
        channels, binned = [], []
        for channel in self.card.channels:
            processes = [one for one in self.card.processes if one.channel == channel]
            if any(self._is_unbinned(one) for one in processes):
                channels.append(self._unbinned(channel, processes))
            else:
                binned.append((channel, processes))
        if binned:
            channels.append({"name": "binned", "histfactory": {"workspace": self._histfactory(binned)}})
        channels += [self._control(one) for one in self.card.counts if one in self.used]
        for line, (parameter, _, where, process, *_) in self.card.rates:
            if not any(matches(where, one.channel) and matches(process, one.name) for one in self.card.processes):
                self._leave(line, f"rateParam {parameter}", f"there is no process {process!r} in {where!r}")
        for parameter, line in self.card.flat.items():
            if parameter not in self.used:
                self._leave(line, f"{parameter} flatParam", "nothing that was converted depends on it")
        for parameter, (line, mean, sigma, bounds) in self.card.params.items():
            if parameter in self.used:
                known = self.settings.setdefault(parameter, {"name": parameter})  # a rateParam has a range already
                known.update({"auxdata": [mean], "sigmas": [sigma], **({"bounds": [bounds]} if bounds else {})})
            else:
                self._leave(line, f"param {parameter}", "nothing that was converted depends on it")
        for parameter, line in self.card.frozen.items():
            if parameter in (self.used | {"r"}):
                self.settings.setdefault(parameter, {"name": parameter})["fixed"] = True
            else:
                self._leave(line, f"nuisance edit freeze {parameter}", "nothing that was converted depends on it")
        groups = {group: [one for _, one in members if one in self.used] for group, members in self.card.groups.items()}
        for group, members in self.card.groups.items():
            for line, one in members:
                if one not in self.used:
                    self._leave(line, f"{group} group", f"nothing that was converted depends on {one!r}")
        config = {"poi": "r", "parameters": list(self.settings.values())}
        document = {
            "version": 1,
            "name": name,
            "channels": channels,
            "measurements": [{"name": "combine", "config": config}],
            "groups": {group: members for group, members in groups.items() if members},
        }
        return Conversion(document, [self.left[line] for line in sorted(self.left)])

    def _leave(self, line: int, text: str, reason: str) -> None:
        before = self.left.get(line)
        note = f"line {line}: {text}: {reason}"
        self.left[line] = note if before is None or note in before else f"{before}; {reason}"

    def _is_unbinned(self, process: Process) -> bool:
        rule = self.card.rule(process.name, process.channel)
        return rule is not None and ":" in rule.nominal

    # --- channels of events -------------------------------------------------------------------------------------------

    def _unbinned(self, channel: str, processes: list[Process]) -> dict[str, Any]:
        samples = []
        if line := self.card.statistics.get(channel, (0, False))[0]:
            self._leave(line, "autoMCStats", f"{channel} has events, and no bins")
        for process in processes:
            rule = self.card.rule(process.name, channel)
            if rule is not None:
                text = f"shapes {rule.process} {rule.channel} {rule.file} {rule.nominal}"
                self._leave(
                    rule.line, text, f"RooFit workspaces are not read; write where the events are for {FILL_IN}"
                )
            modifiers: list[dict[str, Any]] = [{"name": "r", "type": "normfactor"}] if process.is_signal else []
            variations = []
            for systematic, effect in self._effects(process):
                self.used.add(systematic.name)
                if systematic.kind == "lnN":
                    modifiers.append({"name": systematic.name, "type": "lnN", "data": factors(effect)})
                elif systematic.kind in ("lnU", "gmN"):
                    modifiers += self._factor(systematic, effect, process)
                elif isinstance(scale := factors(effect), list):
                    text = f"{systematic.name} {systematic.kind} {effect}"
                    self._leave(systematic.line, text, "a shape with two factors has no counterpart")
                elif any((one["name"], one["type"]) == (systematic.name, "shape") for one in modifiers):
                    text = f"{systematic.name} {systematic.kind} {effect}"
                    self._leave(systematic.line, text, f"an earlier line is its shape of {process.name}")
                else:
                    modifiers.append({"name": systematic.name, "type": "shape"})
                    # The varied events of a shape that is scaled by 0.5 are at two standard deviations.
                    away = int(1.0 / scale) if (1.0 / scale).is_integer() else 1.0 / scale
                    for side, nu in (("up", away), ("down", -away)):
                        variations.append(
                            {"at": {systematic.name: nu}, "file": f"{FILL_IN}_{systematic.name}_{side}.root"}
                        )
            modifiers += self._rate_modifiers(process, binned=False)
            events = {
                "nominal": {"file": f"{FILL_IN}_{process.name}.root", "weights": "weight"},
                "variations": variations,
            }
            sample: dict[str, Any] = {"name": process.name, "events": events, "modifiers": multiplied(modifiers)}
            if process.rate >= 0:
                sample["yield"] = process.rate
            samples.append(sample)
        return {
            "name": channel,
            "observables": {FILL_IN.replace("-", "_"): {"range": [0.0, 1.0]}},
            "data": {"file": f"{FILL_IN}_data.root"},
            "samples": samples,
        }

    def _effects(self, process: Process) -> Iterator[tuple[Systematic, str]]:
        column = self.card.processes.index(process)
        for systematic in self.card.systematics:
            if is_effect(systematic.effects[column]):
                yield systematic, systematic.effects[column]

    def _factor(self, systematic: Systematic, effect: str, process: Process) -> list[dict[str, Any]]:
        """``lnU`` and ``gmN``: factors on the yield, free within bounds, or measured by a count of their own."""
        name, text = systematic.name, f"{systematic.name} {systematic.kind} {effect}"
        if systematic.kind == "lnU":
            sizes = {one for one in systematic.effects if one not in ("-", "0")}
            if len(sizes) > 1 or "/" in effect:
                self._leave(systematic.line, text, "one parameter with several ranges has no counterpart")
                return []
            low, high = sorted((float(effect), 1.0 / float(effect)))
            self.settings[name] = {"name": name, "inits": [1.0], "bounds": [[low, high]]}
        else:
            expected = self.card.counts[name] * float(effect)
            if process.rate >= 0 and abs(process.rate - expected) > 1e-3 * expected:
                reason = f"the rate of {process.name} is {process.rate:g}, not {expected:g}; the rate is taken"
                self._leave(systematic.line, text, reason)
            self.settings[name] = {"name": name, "inits": [1.0], "bounds": [[0.0, 10.0]]}
        return [{"name": name, "type": "normfactor"}]

    def _control(self, name: str) -> dict[str, Any]:
        """The count behind a ``gmN``, which measures its factor."""
        count = self.card.counts[name]
        modifiers = [{"name": name, "type": "normfactor", "data": None}]
        document = {
            "version": "1.0.0",
            "channels": [
                {"name": f"gmN_{name}", "samples": [{"name": "events", "data": [count], "modifiers": modifiers}]}
            ],
            "observations": [{"name": f"gmN_{name}", "data": [count]}],
            "measurements": [{"name": "combine", "config": {"poi": name, "parameters": []}}],
        }
        return {"name": f"gmN_{name}", "histfactory": {"workspace": document}}

    def _rate_modifiers(self, process: Process, *, binned: bool) -> list[dict[str, Any]]:
        found = []
        for line, (name, _, channel, of, value, *more) in self.card.rates:
            if not (matches(channel, process.channel) and matches(of, process.name)):
                continue
            try:
                start = float(value)
            except ValueError:  # a formula, with its arguments as @0, @1 ...
                filled = formula(value, more[0].split(",") if more else [])
                if binned:
                    self._leave(line, f"rateParam {name}", "a formula in a binned channel has no counterpart")
                elif filled is None:
                    self._leave(
                        line, f"rateParam {name}", f"the formula {' '.join([value, *more])!r} is not understood"
                    )
                else:
                    found.append({"name": name, "type": "expression", "data": filled})
                    self.used |= set(re.findall(r"[A-Za-z_]\w*", filled))
                continue
            if any(one["name"] == name for one in found):
                self._leave(line, f"rateParam {name}", f"an earlier line has it for {process.name} already")
                continue
            try:
                bounds = bounds_of(more)
            except ValueError as error:
                self._leave(line, f"rateParam {name}", f"it is not understood ({error})")
                continue
            if bounds and not bounds[0] <= start <= bounds[1]:
                self._leave(line, f"rateParam {name}", f"its value {start:g} is outside of its range")
                continue
            found.append({"name": name, "type": "normfactor"})
            self._set_rate(line, name, start, bounds)
            self.used.add(name)
        return found

    def _set_rate(self, line: int, name: str, start: float, bounds: list[float] | None) -> None:
        """Value and range of a ``rateParam``; of several lines of one, a range that is given counts for all."""
        free = [[min(0.0, 10.0 * start), max(10.0, 10.0 * start)]]
        said = {"name": name, "inits": [start], "bounds": [bounds] if bounds else free}
        known = self.settings.setdefault(name, said)
        if bounds and known == {**said, "bounds": free}:
            known["bounds"] = [bounds]
        elif known["inits"] != [start] or (bounds and known["bounds"] != [bounds]):
            reason = f"it has the value {known['inits'][0]:g} and the range {known['bounds'][0]} already"
            self._leave(line, f"rateParam {name}", reason)

    # --- channels of histograms ---------------------------------------------------------------------------------------

    def _histfactory(self, binned: list[tuple[str, list[Process]]]) -> dict[str, Any]:
        channels, observations = [], []
        for channel, processes in binned:
            samples = [self._sample(channel, process) for process in processes]
            channels.append({"name": channel, "samples": samples})
            observations.append({"name": channel, "data": self._observed(channel)})
        config = {"poi": "r", "parameters": []}
        return {
            "version": "1.0.0",
            "channels": channels,
            "observations": observations,
            "measurements": [{"name": "combine", "config": config}],
        }

    def _observed(self, channel: str) -> list[float]:
        rule = self.card.rule("data_obs", channel)
        said = self.card.observed.get(channel, -1.0)
        if rule is None or rule.file == "FAKE":
            if said < 0:
                raise ValueError(
                    f"the datacard says neither how many events {channel!r} observed, nor where their histogram is"
                )
            return [said]
        counts = self._histogram(rule, rule.nominal, "data_obs", channel)[0]
        if said >= 0 and abs(said - counts.sum()) > 1e-3 * max(said, 1.0):
            reason = f"{channel} has {counts.sum():g} events in its histogram, not {said:g}; the histogram is taken"
            self._leave(self.card.observation, "observation", reason)
        return [float(one) for one in counts]

    def _sample(self, channel: str, process: Process) -> dict[str, Any]:
        rule = self.card.rule(process.name, channel)
        values, variances, scale = np.array([process.rate]), np.zeros(1), 1.0
        if rule is not None and rule.file != "FAKE":
            values, variances = self._histogram(rule, rule.nominal, process.name, channel)
            if process.rate > 0 and values.sum() <= 0:
                raise ValueError(
                    f"the rate of {process.name} in {channel} is {process.rate:g}, but the sum of its histogram {values.sum():g}"
                )
            scale = process.rate / values.sum() if process.rate >= 0 and values.sum() else 1.0
        elif process.rate < 0:
            raise ValueError(f"the rate of {process.name} in {channel} is {process.rate:g}, and it has no histogram")
        modifiers: list[dict[str, Any]] = []
        if process.is_signal:
            modifiers.append({"name": "r", "type": "normfactor", "data": None})
        for systematic, effect in self._effects(process):
            self.used.add(systematic.name)
            if systematic.kind == "lnN":
                modifiers.append(self._normsys(systematic, effect))
            elif systematic.kind in ("lnU", "gmN"):
                modifiers += [{**one, "data": None} for one in self._factor(systematic, effect, process)]
            elif any((one["name"], one["type"]) == (systematic.name, "histosys") for one in modifiers):
                text = f"{systematic.name} {systematic.kind} {effect}"
                self._leave(systematic.line, text, f"an earlier line is its shape of {process.name}")
            else:
                modifiers += self._shape(systematic, effect, rule, process, values, scale)
        modifiers += [{**one, "data": None} for one in self._rate_modifiers(process, binned=True)]
        modifiers += self._statistics(channel, process, scale * np.sqrt(variances))
        return {"name": process.name, "data": (scale * values).tolist(), "modifiers": multiplied(modifiers)}

    def _normsys(self, systematic: Systematic, effect: str) -> dict[str, Any]:
        both = factors(effect)
        if isinstance(both, list):
            text = f"{systematic.name} lnN {effect}"
            self._leave(systematic.line, text, "converted as normsys, which interpolates otherwise within one sigma")
        low, high = at_both_sides(both)
        return {"name": systematic.name, "type": "normsys", "data": {"lo": low, "hi": high}}

    def _shape(
        self,
        systematic: Systematic,
        effect: str,
        rule: ShapeRule | None,
        process: Process,
        values: np.ndarray,
        scale: float,
    ) -> list[dict[str, Any]]:
        """The yield by normsys, and the distribution of the nominal yield by histosys: two parts, as in combine."""
        text = f"{systematic.name} {systematic.kind} {effect}"
        sides = {}
        try:
            if rule is None or rule.varied is None:
                raise ValueError(f"there is no varied histogram of {process.name}")
            for side, key in (("Up", "hi"), ("Down", "lo")):
                path = rule.varied.replace("$SYSTEMATIC", f"{systematic.name}{side}")
                sides[key] = self._histogram(rule, path, process.name, process.channel)[0]
        except ValueError as error:
            if systematic.kind == "shape?":  # without histograms it is lnN, as in combine
                return [] if factors(effect) == 1.0 else [self._normsys(systematic, effect)]
            self._leave(systematic.line, text, str(error))
            return []
        if factors(effect) != 1.0:
            self._leave(systematic.line, text, f"{process.name}: a shape that is scaled has no counterpart")
            return []
        total = values.sum()
        if not any(np.any(one) for one in (values, *sides.values())):
            return []  # nothing is there that could change
        if total <= 0:
            self._leave(systematic.line, text, f"the histogram of {process.name} has no positive sum")
            return []
        ratios = {key: float(one.sum() / total) for key, one in sides.items()}
        if min(ratios.values()) <= 0:
            self._leave(systematic.line, text, f"a varied histogram of {process.name} has no positive sum")
            return []
        if abs(np.log(ratios["lo"] * ratios["hi"])) > SYMMETRIC:
            reason = (
                f"the yield of {process.name} is converted as normsys, which interpolates otherwise within one sigma"
            )
            self._leave(systematic.line, text, reason)
        shapes = {f"{key}_data": (scale * one / ratios[key]).tolist() for key, one in sides.items()}
        return [
            {"name": systematic.name, "type": "normsys", "data": ratios},
            {"name": systematic.name, "type": "histosys", "data": shapes},
        ]

    def _statistics(self, channel: str, process: Process, errors: np.ndarray) -> list[dict[str, Any]]:
        line, signal = self.card.statistics.get(channel, (0, False))
        if not line or (process.is_signal and not signal) or not errors.any():
            return []
        self._leave(
            line, "autoMCStats", "converted as staterror: Gaussian in all bins, whatever their number of events"
        )
        return [{"name": f"statistics_{channel}", "type": "staterror", "data": errors.tolist()}]

    def _histogram(self, rule: ShapeRule, path: str, process: str, channel: str) -> tuple[np.ndarray, np.ndarray]:
        """Contents of the bins, and their variances."""
        name = path.replace("$PROCESS", process).replace("$CHANNEL", channel)
        if "$" in name:
            raise ValueError(
                f"line {rule.line} of the datacard: {path!r} has no value here: write it in place of the name"
            )
        source = self.card.folder / rule.file
        if not source.is_file():
            raise FileNotFoundError(f"line {rule.line} of the datacard: there is no file {str(source)!r}")
        with require("uproot", extra="io").open(source) as file:
            try:
                histogram = file[name]
            except KeyError:
                raise ValueError(f"line {rule.line}: {source.name!r} has no {name!r}") from None
            values = np.asarray(histogram.values(), float)
            variances = histogram.variances()
        return values.ravel(), np.zeros(values.size) if variances is None else np.asarray(variances, float).ravel()

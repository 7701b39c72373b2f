"""Datacards of combine, read line by line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["Card", "Process", "ShapeRule", "Systematic", "bounds_of", "is_effect", "matches"]


@dataclass(frozen=True)
class Process:
    """One column of the table of rates.

    Attributes:
        channel: Its bin, in the words of a datacard.
        name: Name of the process.
        is_signal: Whether its number is not positive.
        rate: The rate; -1 for the integral of the histogram.
    """

    channel: str
    name: str
    is_signal: bool
    rate: float


@dataclass(frozen=True)
class ShapeRule:
    """A line ``shapes``.

    Attributes:
        line: Its number.
        process: The process, or ``*``.
        channel: The channel, or ``*``.
        file: The file; ``FAKE`` for none.
        nominal: Path of the histogram.
        varied: Path of the varied histograms, if there are any.
    """

    line: int
    process: str
    channel: str
    file: str
    nominal: str
    varied: str | None

    def fits(self, process: str, channel: str) -> bool:
        """Whether it is meant for a process in a channel."""
        return self.process in ("*", process) and self.channel in ("*", channel)


@dataclass(frozen=True)
class Systematic:
    """A line of the table of systematic uncertainties.

    Attributes:
        line: Its number.
        name: Name of the nuisance.
        kind: ``lnN``, ``lnU``, ``gmN``, ``shape`` or ``shape?``.
        effects: What it says for each process, in the order of the rates; ``-`` for nothing.
    """

    line: int
    name: str
    kind: str
    effects: tuple[str, ...]


@dataclass
class Card:
    """A datacard.

    Attributes:
        folder: What files are relative to.
        channels: Names of the channels.
        observed: Observed number of events of each; -1 for that of the histogram.
        processes: Columns of the table of rates.
        rules: Where shapes are.
        systematics: Systematic uncertainties that act on processes.
        params: Lines ``param``: number of the line, mean, standard deviation, and bounds if they are given.
        rates: Lines ``rateParam``: their words, with the number of the line.
        groups: Members of each group, with the numbers of their lines.
        statistics: Lines ``autoMCStats``: number of the line, 0 without them, and whether signals are included, by channel.
        counts: Lines ``gmN``: the events in a control region, by name of the systematic uncertainty.
        flat: Lines ``flatParam``, by name of the parameter.
        frozen: Numbers of the lines that fix parameters, by name.
        observation: Number of the line of observed numbers.
        left: What could not be understood, ``(line, text, reason)``.
    """

    folder: Path
    channels: list[str] = field(default_factory=list)
    observed: dict[str, float] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    rules: list[ShapeRule] = field(default_factory=list)
    systematics: list[Systematic] = field(default_factory=list)
    params: dict[str, tuple[int, float, float, list[float] | None]] = field(default_factory=dict)
    rates: list[tuple[int, list[str]]] = field(default_factory=list)
    groups: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    statistics: dict[str, tuple[int, bool]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    flat: dict[str, int] = field(default_factory=dict)
    frozen: dict[str, int] = field(default_factory=dict)
    observation: int = 0
    left: list[tuple[int, str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read a datacard.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it has no table of rates.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no datacard {str(path)!r}")
        card, table = cls(path.parent), _Table()
        for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            text = raw.split("#")[0].strip()
            if text and not re.fullmatch(r"-{3,}.*", text):
                try:
                    card._take(number, text, text.split(), table)
                except (ValueError, IndexError) as error:
                    card.left.append((number, text, f"it is not understood ({error})"))
        if not card.processes:
            why = "".join(f"; line {line}: {reason}" for line, text, reason in card.left if text.startswith("rate"))
            raise ValueError(
                f"{path.name} has no rates of processes (lines 'bin', 'process', 'process' and 'rate'){why}"
            )
        card._check_channels(path.name)
        for one in card.systematics:
            if len(one.effects) != len(card.processes):
                raise ValueError(
                    f"{path.name}, line {one.line}: {one.name} has {len(one.effects)} entries for {len(card.processes)} "
                    "processes"
                )
        for number, words in table.edits:
            card._edit(number, words)
        return card

    def _check_channels(self, name: str) -> None:
        """Whether the first line ``bin``, which says what the channels are, and that of the table of rates agree."""
        used = [one.channel for one in self.processes]
        if unknown := [one for one in dict.fromkeys(used) if one not in self.channels]:
            raise ValueError(
                f"{name}: the table of rates has the bin {unknown[0]!r}; those observed are {self.channels}"
            )
        if empty := [one for one in self.channels if one not in used]:
            raise ValueError(f"{name}: no process has a rate in the bin {empty[0]!r}")

    def _edit(self, number: int, words: list[str]) -> None:
        """A line ``nuisance edit``, after everything else."""
        match words:
            case ["freeze", name, *_]:
                self.frozen[name] = number
            case ["drop", process, channel, pattern, *_]:
                self._change(number, words, process, channel, pattern, None)
            case ["rename", process, channel, old, new]:
                self._change(number, words, process, channel, old, new)
            case ["add", process, channel, name, "lnN", value]:
                meant = [matches(process, one.name) and matches(channel, one.channel) for one in self.processes]
                text = f"nuisance edit {' '.join(words)}"
                if clash := self._acts_on(name, meant):
                    self.left.append((number, text, f"{name} acts on {clash} already"))
                    return
                effects = tuple(value if one else "-" for one in meant)
                try:
                    self.systematics.append(Systematic(number, name, "lnN", _checked("lnN", effects)))
                except ValueError as error:
                    self.left.append((number, text, f"it is not understood ({error})"))
            case _:
                self.left.append((number, f"nuisance edit {' '.join(words)}", "this edit has no counterpart"))

    def _acts_on(self, name: str, meant: Sequence[bool]) -> str | None:
        """The first of some processes that a systematic uncertainty of this name changes."""
        for one in self.systematics:
            for process, effect, here in zip(self.processes, one.effects, meant, strict=True):
                if one.name == name and here and is_effect(effect):
                    return f"{process.name} in {process.channel}"
        return None

    def _change(self, number: int, words: list[str], process: str, channel: str, old: str, new: str | None) -> None:
        """Take effects away from a systematic uncertainty, and give them to another name, if there is one."""
        meant = [matches(process, one.name) and matches(channel, one.channel) for one in self.processes]
        changed, found = list[Systematic](), False
        for one in self.systematics:
            moved = tuple(effect if here else "-" for effect, here in zip(one.effects, meant, strict=True))
            if not matches(old, one.name) or set(moved) == {"-"}:
                changed.append(one)
                continue
            found = True
            acting = [here and is_effect(effect) for effect, here in zip(one.effects, meant, strict=True)]
            if new not in (None, one.name) and (clash := self._acts_on(str(new), acting)):
                self.left.append((number, f"nuisance edit {' '.join(words)}", f"{new} acts on {clash} already"))
                changed.append(one)
                continue
            kept = tuple("-" if here else effect for effect, here in zip(one.effects, meant, strict=True))
            changed += [replace(one, effects=kept)] if set(kept) != {"-"} else []
            changed += [replace(one, name=new, effects=moved)] if new is not None else []
            if new is not None and one.name in self.counts:
                self.counts[new] = self.counts[one.name]
        self.systematics = changed
        if not found and "ifexists" not in words:
            self.left.append((number, f"nuisance edit {' '.join(words)}", "there is no such effect"))

    def rule(self, process: str, channel: str) -> ShapeRule | None:
        """Where the shape of a process in a channel is: as in combine, first a line of the channel, then one of the process."""
        fitting = [one for one in self.rules if one.fits(process, channel)]
        return min(fitting, key=lambda one: (one.channel == "*", one.process == "*"), default=None)

    def _take(self, number: int, text: str, words: list[str], table: _Table) -> None:
        match words:
            case ["imax" | "jmax" | "kmax", *_]:
                return
            case ["shapes", process, channel, file, *paths]:
                varied = paths[1] if len(paths) > 1 else None
                if any((one.process, one.channel) == (process, channel) for one in self.rules):
                    raise ValueError("an earlier line says where these shapes are")
                self.rules.append(ShapeRule(number, process, channel, file, paths[0] if paths else "", varied))
            case ["bin", *names] if table.observation is None and not self.channels:
                self.channels = names
            case ["observation", *counts]:
                table.observation = self.observation = number
                self.observed = dict(zip(self.channels, map(float, counts), strict=True))
            case ["bin", *names]:
                table.bins = names
            case ["process", *names]:
                table.add(names)
            case ["rate", *rates]:
                self.processes = table.processes(rates)
            case [name, "group", "=" | "+=", *members]:
                self.groups.setdefault(name, []).extend((number, member) for member in members)
            case [pattern, "autoMCStats", threshold, *more]:
                meant = [one for one in self.channels if matches(pattern, one)]
                if not meant:
                    raise ValueError(f"there is no channel {pattern!r}")
                wanted = float(threshold) >= 0  # below zero there are none, as in combine
                self.statistics.update(dict.fromkeys(meant, (number if wanted else 0, more[:1] not in ([], ["0"]))))
            case [name, "param", mean, sigma, *bounds] if "/" not in sigma:
                self.params[name] = (number, float(mean), abs(float(sigma)), bounds_of(bounds))
            case [_, "rateParam", *more]:
                if len(more) < 3:
                    raise ValueError("a rateParam has a channel, a process, and a value or a formula")
                self.rates.append((number, words))
            case ["nuisance", "edit", *edit]:
                table.edits.append((number, edit))
            case [name, "flatParam"]:
                self.flat[name] = number
            case [name, "gmN", count, *effects] if float(count) > 0:
                if not float(count).is_integer():
                    raise ValueError(f"{count} is no number of events")
                checked = _checked("gmN", effects)
                self.counts[name] = float(count)
                self.systematics.append(Systematic(number, name, "gmN", checked))
            case [name, "lnN" | "lnU" | "shape" | "shape?", *effects]:
                self.systematics.append(Systematic(number, name, words[1], _checked(words[1], effects)))
            case _:
                kind = words[1] if len(words) > 1 else words[0]
                self.left.append((number, text, f"{kind!r} has no counterpart"))


def matches(pattern: str, name: str) -> bool:
    """Whether a name is meant by a pattern with ``*`` and ``?``, as those of files."""
    return fnmatchcase(name, pattern)


def is_effect(text: str) -> bool:
    """Whether an entry of a systematic uncertainty says that it changes its process."""
    return re.fullmatch(r"-|0*[.]?0*", text) is None


def bounds_of(words: Sequence[str]) -> list[float] | None:
    """``[low,high]`` as two numbers; blanks may be between."""
    if not words:
        return None
    low, high = map(float, "".join(words).strip("[]").split(","))
    if not low < high:
        raise ValueError(f"{''.join(words)} is no range")
    return [low, high]


def _checked(kind: str, effects: Sequence[str]) -> tuple[str, ...]:
    """Entries of a line, which have to be numbers that its kind can mean.

    Raises:
        ValueError: If one is not.
    """
    for effect in filter(is_effect, effects):
        numbers = [float(one) for one in effect.split("/")]
        if len(numbers) > 2 or not all(math.isfinite(one) and one > 0 for one in numbers):
            raise ValueError(f"{kind} {effect!r} is not a positive factor, or two of them")
    return tuple(effects)


class _Table:
    """The table of rates while it is read."""

    def __init__(self) -> None:
        self.observation: int | None = None
        self.bins: list[str] = []
        self.edits: list[tuple[int, list[str]]] = []
        self._rows: list[list[str]] = []

    def add(self, names: list[str]) -> None:
        """One of the two lines that begin with ``process``."""
        self._rows.append(names)

    def processes(self, rates: list[str]) -> list[Process]:
        """The columns; names and numbers of processes may come in either order."""
        first, second = self._rows
        numbered = all(re.fullmatch(r"-?\d+", one) for one in first)
        names, numbers = (second, first) if numbered else (first, second)
        if wrong := [one for one in rates if not (math.isfinite(float(one)) and (float(one) >= 0 or float(one) == -1))]:
            raise ValueError(f"{wrong[0]} is no rate: that is a number of events, or -1 for the sum of a histogram")
        columns = zip(self.bins, names, numbers, rates, strict=True)
        return [Process(channel, name, int(index) <= 0, float(rate)) for channel, name, index, rate in columns]

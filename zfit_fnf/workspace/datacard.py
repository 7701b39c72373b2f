"""Datacards of combine, read line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["Card", "Process", "ShapeRule", "Systematic", "matches"]


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
        groups: Members of each group.
        statistics: Lines ``autoMCStats``: number of the line, 0 without them, and whether signals are included, by channel.
        counts: Lines ``gmN``: the events in a control region, by name of the systematic uncertainty.
        flat: Lines ``flatParam``, by name of the parameter.
        frozen: Parameters that are fixed.
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
    groups: dict[str, list[str]] = field(default_factory=dict)
    statistics: dict[str, tuple[int, bool]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    flat: dict[str, int] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
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
            raise ValueError(f"{path.name} has no rates of processes (lines 'bin', 'process', 'process' and 'rate')")
        for one in card.systematics:
            if len(one.effects) != len(card.processes):
                raise ValueError(
                    f"{path.name}, line {one.line}: {one.name} has {len(one.effects)} entries for {len(card.processes)} "
                    "processes"
                )
        for number, words in table.edits:
            card._edit(number, words)
        return card

    def _edit(self, number: int, words: list[str]) -> None:
        """A line ``nuisance edit``, after everything else."""
        match words:
            case ["freeze", name, *_]:
                self.frozen.add(name)
            case ["drop", process, channel, pattern, *_]:
                self._change(number, words, process, channel, pattern, None)
            case ["rename", process, channel, old, new]:
                self._change(number, words, process, channel, old, new)
            case ["add", process, channel, name, "lnN", value]:
                meant = [matches(process, one.name) and matches(channel, one.channel) for one in self.processes]
                effects = tuple(value if one else "-" for one in meant)
                self.systematics.append(Systematic(number, name, "lnN", effects))
            case _:
                self.left.append((number, f"nuisance edit {' '.join(words)}", "this edit has no counterpart"))

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
                self.rules.append(ShapeRule(number, process, channel, file, paths[0] if paths else "", varied))
            case ["bin", *names] if table.observation is None and not self.channels:
                self.channels = names
            case ["observation", *counts]:
                table.observation = number
                self.observed = dict(zip(self.channels, map(float, counts), strict=True))
            case ["bin", *names]:
                table.bins = names
            case ["process", *names]:
                table.add(names)
            case ["rate", *rates]:
                self.processes = table.processes(rates)
            case [name, "group", "=" | "+=", *members]:
                self.groups.setdefault(name, []).extend(members)
            case [pattern, "autoMCStats", threshold, *more]:
                meant = [one for one in self.channels if matches(pattern, one)]
                if not meant:
                    raise ValueError(f"there is no channel {pattern!r}")
                wanted = float(threshold) >= 0  # below zero there are none, as in combine
                self.statistics.update(dict.fromkeys(meant, (number if wanted else 0, more[:1] not in ([], ["0"]))))
            case [name, "param", mean, sigma, *bounds] if "/" not in sigma:
                self.params[name] = (number, float(mean), abs(float(sigma)), _range(bounds))
            case [_, "rateParam", *_]:
                self.rates.append((number, words))
            case ["nuisance", "edit", *edit]:
                table.edits.append((number, edit))
            case [name, "flatParam"]:
                self.flat[name] = number
            case [name, "gmN", count, *effects] if float(count) > 0:
                self.counts[name] = float(count)
                self.systematics.append(Systematic(number, name, "gmN", tuple(effects)))
            case [name, "lnN" | "lnU" | "shape" | "shape?", *effects]:
                self.systematics.append(Systematic(number, name, words[1], tuple(effects)))
            case _:
                kind = words[1] if len(words) > 1 else words[0]
                self.left.append((number, text, f"{kind!r} has no counterpart"))


def matches(pattern: str, name: str) -> bool:
    """Whether a name is meant by a pattern with ``*`` and ``?``, as those of files."""
    return fnmatchcase(name, pattern)


def _range(words: list[str]) -> list[float] | None:
    """``[low,high]`` as two numbers."""
    if not words:
        return None
    low, high = "".join(words).strip("[]").split(",")
    return [float(low), float(high)]


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
        columns = zip(self.bins, names, numbers, rates, strict=True)
        return [Process(channel, name, int(index) <= 0, float(rate)) for channel, name, index, rate in columns]

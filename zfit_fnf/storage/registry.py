"""Which entry describes which kind of model in a file.

Entries register where they are written: those of this package in ``densities/entries.py``, in ``interop/`` beside the foreign
library that each is for, and in the ``entries.py`` of ``doi/`` and ``tagprobe/``, imported when they are needed first;
those of a user beside the class that they describe.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .schema import Entry

__all__ = ["class_of", "entries", "entry_of", "entry_type", "kind_of", "register"]

E = TypeVar("E", bound="Entry")

_PACKAGE = __name__.partition(".")[0]
_ROOMS = (  # import nothing that computes
    "densities.entries",
    "densities.fractions_entry",
    "interop.callable_entry",
    "interop.physical_entry",
    "interop.reference_entry",
    "interop.tfp_entry",
    "interop.zuko_entry",
)
_RESULTS = {  # import what computes
    "transfer_fit": "doi.entries",
    "profiled_fit": "doi.entries",
    "ensemble": "doi.entries",
    "tag_and_probe": "tagprobe.entries",
    "morph": "morph.entry",
}

_registered: dict[str, type[Entry]] = {}


def register(entry: type[E]) -> type[E]:
    """Make a kind of model known, as a decorator of its entry; see :class:`~zfit_fnf.storage.Entry`.

    Raises:
        ValueError: If its kind is that of another entry.
    """
    kind = kind_of(entry)
    other = _registered.get(kind, entry)
    if (other.__module__, other.__qualname__) != (entry.__module__, entry.__qualname__):
        raise ValueError(
            f"the kind {kind!r} of {entry.__name__} is that of {other.__module__}.{other.__name__} already"
        )
    _registered[kind] = entry
    return entry


def kind_of(entry: type[Entry]) -> str:
    """What the file calls models with such entries."""
    return entry.model_fields["kind"].default


def entries() -> dict[str, type[Entry]]:
    """The entries by their kind; those of results of fits, which compute, only if they are known already."""
    for room in _ROOMS:
        _imported(room)
    return dict(_registered)


def entry_of(kind: Any) -> type[Entry]:
    """The entry of a kind.

    Raises:
        ValueError: If there is no such kind.
    """
    known = entries()
    if isinstance(kind, str) and kind in _RESULTS:
        _imported(_RESULTS[kind])
        known = dict(_registered)
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(
            f"is of an unknown kind; this version knows {sorted({*known, *_RESULTS})}. Import the module that registers "
            "the kind first, if it is one of your own"
        )
    return known[kind]


def entry_type(model: Any) -> type[Entry]:
    """The entry of a model.

    Raises:
        TypeError: If models of its kind cannot be stored.
    """
    entries()
    if (entry := _by_class(type(model))) is None:
        for module in sorted(set(_RESULTS.values())):
            _imported(module)
        entry = _by_class(type(model))
    if entry is None:
        names = ", ".join(sorted({_class_name(known).rpartition(".")[2] for known in _registered.values()}))
        raise TypeError(f"a {type(model).__name__} cannot be stored; models that can are {names}")
    return entry


def class_of(model: str | type) -> Any:
    """A class, or that of this package with a name such as ``"densities.flows.Flow"``, which is imported now."""
    if not isinstance(model, str):
        return model
    module, _, own = model.rpartition(".")
    return getattr(_imported(module), own)


def _by_class(cls: type) -> type[Entry] | None:
    own = f"{cls.__module__}.{cls.__qualname__}"
    return next((entry for entry in _registered.values() if _class_name(entry) == own), None)


def _class_name(entry: type[Entry]) -> str:
    model = entry.model
    return f"{_PACKAGE}.{model}" if isinstance(model, str) else f"{model.__module__}.{model.__qualname__}"


def _imported(module: str) -> Any:
    return importlib.import_module(f".{module}", _PACKAGE)

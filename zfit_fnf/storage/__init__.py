"""Models in files, and the registry of the kinds of models that can be stored.

A model file is a safetensors file (https://github.com/huggingface/safetensors): named arrays behind a header, any tool can
read it. :func:`save`, :func:`load` and :func:`inspect` are for everybody; who writes a model class of his own also writes
an :class:`Entry` and registers it by :func:`register`.
"""

from .format import MAX_COMMAS, MAX_FILE, MAX_HEADER, MAX_MANIFEST, ModelFile, inspect, load, printable, save
from .registry import register
from .schema import Array, Count, Entry, Parts, Reference, Text

__all__ = [
    "MAX_COMMAS",
    "MAX_FILE",
    "MAX_HEADER",
    "MAX_MANIFEST",
    "Array",
    "Count",
    "Entry",
    "ModelFile",
    "Parts",
    "Reference",
    "Text",
    "inspect",
    "load",
    "printable",
    "register",
    "save",
]

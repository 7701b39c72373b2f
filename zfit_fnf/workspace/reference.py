"""The reference of the schema, as a page of the documentation."""

from __future__ import annotations

import json
from typing import Any

from .schema import json_schema

__all__ = ["reference"]

_ORDER = (
    "Document Channel Observable Source Sample Events Variation Analytic NormFactor LnN NormSys Factors Shape Lumi Free "
    "Function Measurement Config ParameterConfig Training Blinding HistFactory"
)


def reference() -> str:
    """A page in Markdown: a section for each part of a workspace, with a table of its fields."""
    schema = json_schema()
    parts = {"Document": schema, **schema["$defs"]}
    order = sorted(parts, key=_ORDER.split().index)
    return (
        "\n\n".join(["# The workspace document", _INTRODUCTION, *(_section(name, parts[name]) for name in order)])
        + "\n"
    )


_INTRODUCTION = """\
All fields of a workspace, version 1. It is made of the schema itself, which `zfit-fnf schema` prints as a JSON Schema: with
it, editors complete and check a document while it is written. [](analysis_in_one_file.md) introduces it. Names are those of
pyhf and HS3 where these have one. A *value* is a number, the name of a parameter, or an expression of parameters and functions:
`+ - * / **`, parentheses, `abs`, `sqrt`, `exp`, `log`, `sin`, `cos`, `tan`, `sinh`, `cosh` and `tanh`."""


def _section(name: str, part: dict[str, Any]) -> str:
    required = part.get("required", [])
    rows = []
    for field, own in part["properties"].items():
        default = "required" if field in required else _default(own.get("default"))
        rows.append(f"| `{field}` | {_type(own)} | {default} | {own.get('description', '')} |")
    table = "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows])
    return f"## {name}\n\n{part.get('description', '')}\n\n{table}"


def _default(value: Any) -> str:
    return "" if value in (None, [], {}, "") or isinstance(value, dict) else f"`{json.dumps(value)}`"


def _type(own: dict[str, Any]) -> str:
    if "$ref" in own:
        name = own["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in own:
        return f"`{own['const']}`"
    if "enum" in own:
        return " or ".join(f"`{one}`" for one in own["enum"])
    for key in ("anyOf", "oneOf"):
        if key in own:
            kinds = [_type(one) for one in own[key] if one.get("type") != "null"]
            return "value" if sorted(kinds) == ["number", "text"] else " or ".join(dict.fromkeys(kinds))
    match own.get("type"):
        case "array" if "prefixItems" in own:
            return f"[{', '.join(_type(one) for one in own['prefixItems'])}]"
        case "array":
            return f"list of {_type(own['items'])}" if "items" in own else "list"
        case "object":
            inner = own.get("additionalProperties")
            return f"{_type(inner)} by name" if isinstance(inner, dict) else "mapping"
        case "null":
            return "nothing"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(own.get("type", ""), "number")

"""Blocks of docs/json.md: the keys of a definition of the JSON schemas, as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[1] / "ckptmigrate" / "data" / "schemas.json"
Schema = Mapping[str, Any]


def definitions() -> dict[str, Schema]:
    """Return the definitions of the schemas by name."""
    found: dict[str, Schema] = json.loads(FILE.read_text(encoding="utf-8"))["$defs"]
    return found


def keys(name: str) -> str:
    """Return a table of the keys of a definition, with type and description."""
    schema = definitions()[name]
    rows = [
        f"| `{key}` | {kind} | {text} |"
        for each, _ in _inside(schema)
        for key, kind, text in _rows(each, "")
    ]
    return "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])


def _rows(schema: Schema, prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, value in schema.get("properties", {}).items():
        text = value.get("description", "").replace("|", "\\|").replace("<", "&lt;")
        yield prefix + key, _kind(value), text
        for inner, mark in _inside(value):
            yield from _rows(inner, f"{prefix}{key}{mark}.")


def _inside(value: Schema) -> Iterator[tuple[Schema, str]]:
    """Yield the objects that a value is or contains, with a mark for those of a list or mapping."""
    yield value, ""
    for each in value.get("oneOf", ()):
        yield from _inside(each)
    for part, mark in (("items", "[]"), ("additionalProperties", "[]")):
        if isinstance(inner := value.get(part), dict):
            yield from ((schema, mark + deeper) for schema, deeper in _inside(inner))


def _kind(value: Schema) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "oneOf" in value:
        return " or ".join(_kind(each) for each in value["oneOf"])
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    kinds = value.get("type", "any value")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "items" in value:
        inner = _kind(value["items"])
        kinds = [f"list of {inner}" if kind == "array" else kind for kind in kinds]
    return " or ".join(kinds)

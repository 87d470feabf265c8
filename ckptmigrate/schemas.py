"""The published JSON Schemas of the `--json` output of each command and of JSON reports."""

from __future__ import annotations

import difflib
import json
from functools import cache
from typing import Any, Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.storage import local_files
from ckptmigrate.text.commands import command

_FILE: Final = "data/schemas.json"


@cache
def _all() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(local_files.shipped(_FILE))
    return found


def names() -> list[str]:
    """Return the names of all schemas: the commands, and `report`."""
    return [name for name, row in _all()["$defs"].items() if name == "report" or _is_verb(row)]


def _is_verb(row: dict[str, Any]) -> bool:
    """Return whether a definition describes the whole output of a command, including errors."""
    return {"$ref": "#/$defs/error"} in row.get("oneOf", ())


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a command's JSON output, or of a `report`.

    Raises:
        RefusedError: no schema has this name.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1) or names()
        raise RefusedError(
            f"there is no schema of {name!r}",
            fix=f"name one of {', '.join(names())}: `{command('schema', near[0])}`",
        )
    every = _all()
    return {"$schema": every["$schema"], "$ref": f"#/$defs/{name}", "$defs": _used(every, name)}


def _used(every: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a definition and all definitions that it refers to, in the order of the file."""
    wanted, found = [name], set[str]()
    while wanted:
        one = wanted.pop()
        if one not in found:
            found.add(one)
            text = json.dumps(every["$defs"][one])
            wanted += [each for each in every["$defs"] if f'"#/$defs/{each}"' in text]
    return {each: row for each, row in every["$defs"].items() if each in found}
